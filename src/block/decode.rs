//! From blocks to a file: says which blocks are wanted, takes them in any order, gives the bytes in theirs.
//!
//! Memory is bounded whatever the tree: as many leaves as the caller chooses, the addresses of those between them, and
//! two nodes for each level. Does no I/O and no hashing but of what is offered. Where blocks come from, how many are
//! asked for at once and when to ask again is the caller's to decide: `fetch` and `check`.

mod window;

use super::address::Address;
use super::cipher::apply;
use super::tree::{parse_node, Content, Item, Link, Root, Shape, TreeError, LEAF_SIZE};
use super::{Block, Form, Kind, Role};
use crate::id::BlockId;
use crate::limits::{FAN_OUT, NODES_PER_LEVEL};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use window::Window;

/// A place in the tree, for which a block was asked.
#[derive(Clone, Copy)]
enum Position {
    Root,
    Node { level: u32, index: u64 },
    Leaf { index: u64 },
}

/// A node that is awaited, or some of whose children have not been taken.
struct Node {
    index: u64,
    link: Link,
    /// The children not taken yet, with those taken before them. Empty: the node is awaited.
    links: Vec<Link>,
    /// Children taken or passed so far. Invariant: less than there are, or zero, after each call.
    taken: usize,
}

/// Reassembles one file.
///
/// **Ask for what [`poll_want`](Decoder::poll_want) says, give what comes to
/// [`handle_block`](Decoder::handle_block), take what [`poll_data`](Decoder::poll_data) or
/// [`poll_any`](Decoder::poll_any) has, in whatever order, until [`is_done`](Decoder::is_done).** After an error the
/// file cannot be completed: give it up.
pub struct Decoder {
    address: Address,
    /// Known once the root has come.
    item: Option<Item>,
    /// Known once the root has come.
    shape: Option<Shape>,
    /// The file, if it lies in the root and was not given out yet.
    inline: Option<Vec<u8>>,
    /// At place i the nodes of level i + 1 in use, in the order of the file; the last place is the root's.
    /// Invariant: at most [`NODES_PER_LEVEL`] each.
    levels: Vec<VecDeque<Node>>,
    /// The bytes of the file that are wanted, with the leaves in which they lie.
    range: Range<u64>,
    /// The leaves that were taken. All before it are given out, skipped or not wanted.
    window: Window,
    /// The first leaf that has not been offered.
    offered: u64,
    /// The leaves that are wanted only when they have been offered.
    offered_first: Range<u64>,
    /// Blocks asked for, and the positions at which each is awaited.
    wants: BTreeMap<BlockId, Vec<Position>>,
}

impl Decoder {
    /// Begins a file. At most `buffer` bytes of leaves, but at least one leaf, are wanted or held at a time; and none
    /// that is farther than that, and than `LEAVES_AHEAD_MAX` leaves, from the first that has not come.
    pub fn new(address: Address, buffer: usize) -> Decoder {
        Decoder {
            address,
            item: None,
            shape: None,
            inline: None,
            levels: Vec::new(),
            range: 0..u64::MAX,
            window: Window::new(buffer as u64),
            offered: 0,
            offered_first: 0..0,
            wants: BTreeMap::new(),
        }
    }

    /// From now on only these bytes of the file are wanted, with the rest of the leaves in which they lie. What was
    /// passed already does not come again. What lies in the root comes whole.
    pub fn set_range(&mut self, range: Range<u64>) {
        self.range = range;
        self.apply_range();
    }

    /// The leaves that are wanted: those in the range.
    fn wanted_leaves(&self, shape: &Shape) -> Range<u64> {
        let end = self.range.end.min(shape.length());
        if self.range.start >= end {
            return shape.leaves()..shape.leaves();
        }
        self.range.start / LEAF_SIZE as u64..end.div_ceil(LEAF_SIZE as u64).min(shape.leaves())
    }

    /// Passes over what lies before the range.
    fn apply_range(&mut self) {
        let Some(shape) = self.shape else {
            return;
        };
        let start = self.wanted_leaves(&shape).start;
        self.window.pass_before(start);
    }

    /// The next block to ask for; `None` until something else arrives or is given out. An address is not named
    /// again while it is outstanding or its bytes are held, at however many positions it stands (unless whoever
    /// made the file gave one block several keys or lengths).
    ///
    /// The work is bounded by the window: blocks that are held already are copied to their further positions.
    pub fn poll_want(&mut self) -> Option<BlockId> {
        let Some(shape) = self.shape else {
            let fresh = self.want(self.address.id, Position::Root);
            return fresh.then_some(self.address.id);
        };
        for level in (1..=shape.height()).rev() {
            while let Some((id, position)) = self.take_node(&shape, level) {
                if self.want(id, position) {
                    return Some(id);
                }
            }
        }
        while let Some((id, position)) = self.take_leaf(&shape) {
            if self.want(id, position) {
                return Some(id);
            }
        }
        None
    }

    /// Number of blocks asked for that have not come.
    pub fn outstanding(&self) -> usize {
        self.wants.len()
    }

    /// Takes a block that was asked for. One that is not wanted, or no longer, is ignored.
    ///
    /// Any error but a missing, needless or wrong key is the fault of whoever made the file: blocks are
    /// verified, so that no peer can cause it.
    pub fn handle_block(&mut self, block: Block) -> Result<(), TreeError> {
        let (id, kind) = (block.id(), block.kind());
        let Some(positions) = self.wants.remove(&id) else {
            return Ok(());
        };
        let mut payload = block.into_payload();
        let last = positions.len().saturating_sub(1);
        for (i, position) in positions.into_iter().enumerate() {
            let payload = match i == last {
                true => std::mem::take(&mut payload),
                false => payload.clone(),
            };
            match position {
                Position::Root => self.handle_root(kind, payload)?,
                Position::Node { level, index } => self.handle_node(kind, level, index, payload)?,
                Position::Leaf { index } => self.handle_leaf(kind, index, payload)?,
            }
        }
        Ok(())
    }

    /// The next bytes of the file and their offset. Offsets only grow, and leave out what was skipped.
    pub fn poll_data(&mut self) -> Option<(u64, Vec<u8>)> {
        let first = self.window.first();
        match self.window.first_held() {
            Some(index) if index == first => self.give(index),
            _ => self.poll_inline(),
        }
    }

    /// The first bytes that are there, and their offset: for a caller who can put them where they belong, while others
    /// before them are still waited for.
    pub fn poll_any(&mut self) -> Option<(u64, Vec<u8>)> {
        match self.window.first_held() {
            Some(index) => self.give(index),
            None => self.poll_inline(),
        }
    }

    fn poll_inline(&mut self) -> Option<(u64, Vec<u8>)> {
        self.inline.take().map(|data| (0, data))
    }

    /// Gives out a leaf that is held.
    fn give(&mut self, index: u64) -> Option<(u64, Vec<u8>)> {
        let offset = self.shape?.span(0, index).start;
        let data = self.window.pass(index)?;
        Some((offset, data))
    }

    /// From now on leaves that lie wholly in these bytes are wanted only when they have been offered, in vain.
    pub fn offer_first(&mut self, bytes: Range<u64>) {
        let leaf = LEAF_SIZE as u64;
        self.offered_first = bytes.start.div_ceil(leaf)..bytes.end / leaf;
    }

    /// The offset and length of the next leaf to be wanted, if its address is known, the window has room for
    /// it, and nothing was offered for it: what the caller may have of it already.
    pub fn poll_leaf(&mut self) -> Option<(u64, usize)> {
        let shape = self.shape?;
        let (index, _) = self.next_child(&shape, 0)?;
        if index < self.offered || !self.window.has_room(&shape, index) {
            return None;
        }
        Some((shape.span(0, index).start, shape.leaf_len(index)))
    }

    /// Offers bytes of the caller's own for the leaf that [`poll_leaf`](Decoder::poll_leaf) names. If they are
    /// that leaf, it is neither wanted nor given out. Costs one encryption and one hash. Whatever the answer, a
    /// leaf can be offered once.
    pub fn offer(&mut self, mut data: Vec<u8>) -> bool {
        let (Some(shape), Some((_, len))) = (self.shape, self.poll_leaf()) else {
            return false;
        };
        let Some((index, link)) = self.next_child(&shape, 0) else {
            return false;
        };
        self.offered = index + 1;
        if data.len() != len {
            return false;
        }
        if let Some(key) = &link.key {
            apply(key, &mut data);
        }
        let kind = Kind {
            role: Role::Leaf,
            form: shape.form(),
        };
        if Block::verify(link.id, kind, data).is_err() {
            return false;
        }
        self.take_child(&shape, 0);
        self.window.add_passed(link);
        true
    }

    /// Bytes in the file, once the root has come.
    pub fn length(&self) -> Option<u64> {
        self.shape.map(|shape| shape.length())
    }

    /// What was shared, once the root has come.
    pub fn item(&self) -> Option<Item> {
        self.item
    }

    /// Whether all that is wanted of the file has been given out or skipped.
    pub fn is_done(&self) -> bool {
        match &self.shape {
            Some(shape) => {
                self.window.first() >= self.wanted_leaves(shape).end && self.inline.is_none()
            }
            None => false,
        }
    }

    /// Notes that a block is awaited at a position; whether it is to be asked for.
    fn want(&mut self, id: BlockId, position: Position) -> bool {
        // A root that is asked for is asked for once.
        if matches!(position, Position::Root) && self.wants.contains_key(&id) {
            return false;
        }
        let positions = self.wants.entry(id).or_default();
        positions.push(position);
        positions.len() == 1
    }

    /// The next link of this level that is wanted, with its index, if its parent is there. Parents that have no more
    /// are given up.
    fn next_child(&mut self, shape: &Shape, level: u32) -> Option<(u64, Link)> {
        let leaves = self.wanted_leaves(shape);
        let under = (FAN_OUT as u64).pow(level);
        let wanted = leaves.start / under..leaves.end.div_ceil(under);
        let parents = self.levels.get_mut(level as usize)?;
        loop {
            let parent = parents.front_mut().filter(|it| !it.links.is_empty())?;
            let first = parent.index * FAN_OUT as u64;
            let passed = wanted
                .start
                .saturating_sub(first)
                .min(parent.links.len() as u64);
            parent.taken = parent.taken.max(passed as usize);
            let index = first + parent.taken as u64;
            match parent.links.get(parent.taken) {
                Some(&link) => return wanted.contains(&index).then_some((index, link)),
                None => parents.pop_front(),
            };
        }
    }

    /// Takes that link.
    fn take_child(&mut self, shape: &Shape, level: u32) -> Option<(u64, Link)> {
        let child = self.next_child(shape, level)?;
        let parents = &mut self.levels[level as usize];
        let parent = parents.front_mut()?;
        parent.taken += 1;
        if parent.taken == parent.links.len() {
            parents.pop_front();
        }
        Some(child)
    }

    /// Takes the next node of this level into use. Returns it if it must come from outside.
    fn take_node(&mut self, shape: &Shape, level: u32) -> Option<(BlockId, Position)> {
        let place = level as usize - 1;
        while self.levels[place].len() < NODES_PER_LEVEL {
            let (index, link) = self.take_child(shape, level)?;
            let children = shape.children(level, index);
            // The same node again, as in a file of zeros: its neighbour has the links.
            let links = self.levels[place]
                .iter()
                .find(|node| node.link == link && node.links.len() == children)
                .map(|node| node.links.clone());
            let awaited = links.is_none();
            self.levels[place].push_back(Node {
                index,
                link,
                links: links.unwrap_or_default(),
                taken: 0,
            });
            if awaited {
                return Some((link.id, Position::Node { level, index }));
            }
        }
        None
    }

    /// Takes the next leaf into the window, if that has room. Returns it if it must come from outside.
    fn take_leaf(&mut self, shape: &Shape) -> Option<(BlockId, Position)> {
        loop {
            let (index, link) = self.next_child(shape, 0)?;
            let may_be_offered = index >= self.offered && self.offered_first.contains(&index);
            if may_be_offered || !self.window.has_room(shape, index) {
                return None;
            }
            self.take_child(shape, 0);
            if self.window.add(link, shape.leaf_len(index)) {
                return Some((link.id, Position::Leaf { index }));
            }
        }
    }

    fn handle_root(&mut self, kind: Kind, payload: Vec<u8>) -> Result<(), TreeError> {
        if kind.role != Role::Root {
            return Err(TreeError::NotRoot);
        }
        let key = self.address.key;
        if kind.form == Form::Encrypted && key.is_none() {
            return Err(TreeError::NeedsKey);
        }
        let root = Root::parse(payload, kind.form, key.as_ref())?;
        let Root {
            item,
            shape,
            content,
        } = root;
        match content {
            // An empty file is complete: there is nothing to give out.
            Content::Inline(data) => self.inline = Some(data).filter(|data| !data.is_empty()),
            Content::Sealed => return Err(TreeError::NeedsKey),
            Content::Children(links) => {
                let height = shape.height() as usize;
                self.levels.resize_with(height + 1, VecDeque::new);
                self.levels[height].push_back(Node {
                    index: 0,
                    link: Link {
                        id: self.address.id,
                        key,
                    },
                    links,
                    taken: 0,
                });
            }
        }
        self.item = Some(item);
        self.shape = Some(shape);
        self.apply_range();
        Ok(())
    }

    fn handle_node(
        &mut self,
        kind: Kind,
        level: u32,
        index: u64,
        payload: Vec<u8>,
    ) -> Result<(), TreeError> {
        let shape = self.expect_kind(kind, Role::Node)?;
        let node = self.levels[level as usize - 1]
            .iter_mut()
            .find(|node| node.index == index)
            .expect("a node that is awaited is in use");
        let children = shape.children(level, index);
        node.links = parse_node(payload, kind.form, node.link.key.as_ref(), children)?;
        Ok(())
    }

    fn handle_leaf(&mut self, kind: Kind, index: u64, payload: Vec<u8>) -> Result<(), TreeError> {
        let shape = self.expect_kind(kind, Role::Leaf)?;
        if payload.len() != shape.leaf_len(index) {
            return Err(TreeError::BadShape("a leaf has the wrong length"));
        }
        self.window.fill(index, payload);
        Ok(())
    }

    /// The tree's shape, if this kind has the role and the tree's form.
    fn expect_kind(&self, kind: Kind, role: Role) -> Result<Shape, TreeError> {
        let shape = self
            .shape
            .expect("only the root is wanted before its shape is known");
        let form = shape.form();
        if kind == (Kind { role, form }) {
            Ok(shape)
        } else {
            Err(TreeError::BadShape("a block of the wrong kind"))
        }
    }
}

#[cfg(test)]
mod tests;
