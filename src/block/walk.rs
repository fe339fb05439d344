//! Walks all blocks of a file by their addresses, for which no key is needed, and finds out whether they are what
//! its length dictates.
//!
//! Whoever walks says what is in each root and node that [`Walk::poll_next`] names; leaves are only named. A node that
//! lies at several places of a tree is walked once: what a file says of itself cannot make a walk longer than the
//! blocks that there are. Holds one path from the root to a leaf, at most `FAN_OUT` links for each level.

use super::tree::{parse_node, Content, Root, Shape, TreeError};
use super::{Form, Kind, Role};
use crate::id::BlockId;
use std::collections::BTreeSet;

/// A place in a file's tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The block there.
    pub id: BlockId,
    /// Its level: 0 for a leaf; one more than the tree is high for the root.
    level: u32,
    index: u64,
}

/// The children of one block on the path.
struct Level {
    children: Vec<BlockId>,
    next: usize,
    /// Of the children.
    level: u32,
    /// Of the first child.
    index: u64,
}

/// A walk under way.
pub struct Walk {
    root: BlockId,
    /// Known once the root has been entered.
    shape: Option<Shape>,
    path: Vec<Level>,
    /// Nodes that have been entered, with their levels and numbers of children.
    seen: BTreeSet<(u32, usize, BlockId)>,
    has_begun: bool,
}

impl Walk {
    /// Begins at this root.
    pub fn new(root: BlockId) -> Walk {
        Walk {
            root,
            shape: None,
            path: Vec::new(),
            seen: BTreeSet::new(),
            has_begun: false,
        }
    }

    /// The file's root.
    pub fn root(&self) -> BlockId {
        self.root
    }

    /// Bytes of the file, once its root has been entered.
    pub fn length(&self) -> Option<u64> {
        self.shape.map(|shape| shape.length())
    }

    /// The role of the block at a place.
    pub fn role(&self, place: &Place) -> Role {
        match self.shape {
            None => Role::Root,
            Some(_) if place.level == 0 => Role::Leaf,
            Some(_) => Role::Node,
        }
    }

    /// Bytes of the file under the block at a place; of the root, 0.
    pub fn bytes(&self, place: &Place) -> u64 {
        let span = self.shape.map(|shape| shape.span(place.level, place.index));
        span.map_or(0, |span| span.end - span.start)
    }

    /// The next block; `None` at the end. A root or node has to be entered before the next is asked for, or what is
    /// below it is left out.
    pub fn poll_next(&mut self) -> Option<Place> {
        if !self.has_begun {
            self.has_begun = true;
            return Some(Place {
                id: self.root,
                level: 0,
                index: 0,
            });
        }
        loop {
            let level = self.path.last_mut()?;
            let Some(&id) = level.children.get(level.next) else {
                self.path.pop();
                continue;
            };
            let index = level.index + level.next as u64;
            let place = Place {
                id,
                level: level.level,
                index,
            };
            level.next += 1;
            if place.level > 0 && !self.seen.insert(self.mark(&place)) {
                continue;
            }
            return Some(place);
        }
    }

    /// Under which nodes are the same, with all that is below them.
    fn mark(&self, place: &Place) -> (u32, usize, BlockId) {
        let children = self
            .shape
            .map_or(0, |shape| shape.children(place.level, place.index));
        (place.level, children, place.id)
    }

    /// Looks whether the block that is at a place may be there, by its kind and length, and goes on with its
    /// children, which a root or node has in its payload. Bounded by the payload's length.
    pub fn enter(&mut self, place: &Place, kind: Kind, payload: &[u8]) -> Result<(), TreeError> {
        let Some(shape) = self.shape else {
            return self.enter_root(kind, payload);
        };
        self.check(place, kind)?;
        let children = shape.children(place.level, place.index);
        let links = parse_node(payload.to_vec(), kind.form, None, children)?;
        self.descend(
            links.iter().map(|link| link.id).collect(),
            place.level,
            place.index,
        );
        Ok(())
    }

    /// Looks whether a leaf of this kind and length may be at a place.
    pub fn check_leaf(&self, place: &Place, kind: Kind, len: u32) -> Result<(), TreeError> {
        self.check(place, kind)?;
        let expected = self.shape.map_or(0, |shape| shape.leaf_len(place.index));
        match len as usize == expected {
            true => Ok(()),
            false => Err(TreeError::BadShape("a leaf of another length")),
        }
    }

    fn check(&self, place: &Place, kind: Kind) -> Result<(), TreeError> {
        let form = self.shape.map_or(Form::Plain, |shape| shape.form());
        match kind.role == self.role(place) && kind.form == form {
            true => Ok(()),
            false => Err(TreeError::BadShape("a block of another kind")),
        }
    }

    fn enter_root(&mut self, kind: Kind, payload: &[u8]) -> Result<(), TreeError> {
        if kind.role != Role::Root {
            return Err(TreeError::NotRoot);
        }
        let root = Root::parse(payload.to_vec(), kind.form, None)?;
        self.shape = Some(root.shape);
        if let Content::Children(links) = root.content {
            let level = root.shape.height() + 1;
            self.descend(links.iter().map(|link| link.id).collect(), level, 0);
        }
        Ok(())
    }

    fn descend(&mut self, children: Vec<BlockId>, level: u32, index: u64) {
        self.path.push(Level {
            children,
            next: 0,
            level: level - 1,
            index: index * crate::limits::FAN_OUT as u64,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::encode::Encoder;
    use super::super::Block;
    use super::*;
    use std::collections::BTreeMap;

    /// All blocks of a file, and the address of its root.
    fn file(form: Form, data: &[u8]) -> (BTreeMap<BlockId, Block>, BlockId) {
        let mut blocks = BTreeMap::new();
        let mut encoder = Encoder::new(form);
        let take = |encoder: &mut Encoder, blocks: &mut BTreeMap<BlockId, Block>| {
            while let Some((kind, payload)) = encoder.poll_put() {
                let block = Block::new(kind, payload).unwrap();
                encoder.handle_put(block.id());
                blocks.insert(block.id(), block);
            }
        };
        for chunk in data.chunks(100_000) {
            encoder.push(chunk);
            take(&mut encoder, &mut blocks);
        }
        encoder.finish();
        while encoder.outcome().is_none() {
            take(&mut encoder, &mut blocks);
        }
        let root = encoder.outcome().unwrap().id;
        (blocks, root)
    }

    /// Walks all of it; the places in order.
    fn walk(blocks: &BTreeMap<BlockId, Block>, root: BlockId) -> Result<Vec<Place>, TreeError> {
        let mut walk = Walk::new(root);
        let mut places = Vec::new();
        while let Some(place) = walk.poll_next() {
            let block = &blocks[&place.id];
            match walk.role(&place) {
                Role::Leaf => {
                    walk.check_leaf(&place, block.kind(), block.payload().len() as u32)?
                }
                _ => walk.enter(&place, block.kind(), block.payload())?,
            }
            places.push(place);
        }
        Ok(places)
    }

    #[test]
    fn every_block_of_a_file_is_named_and_no_other() {
        for form in [Form::Plain, Form::Encrypted] {
            for len in [0, 1, 262_144, 262_145, 3 << 20] {
                let data: Vec<u8> = (0..len).map(|n| (n / 1000 % 251) as u8).collect();
                let (blocks, root) = file(form, &data);
                let places = walk(&blocks, root).unwrap();
                assert_eq!(places[0].id, root);
                let named: BTreeSet<BlockId> = places.iter().map(|place| place.id).collect();
                assert!(named.iter().eq(blocks.keys()), "{len}");
            }
        }
    }

    #[test]
    fn node_that_is_everywhere_is_entered_once() {
        // 600 GiB of zeros: one leaf, one node of each level, and the rightmost ones.
        let leaf = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        let node = Kind {
            role: Role::Node,
            form: Form::Plain,
        };
        let root = Kind {
            role: Role::Root,
            form: Form::Plain,
        };
        let zeros = Block::new(leaf, vec![0; 262_144]).unwrap();
        let inner = Block::new(node, zeros.id().0.repeat(1024)).unwrap();
        let outer = Block::new(node, inner.id().0.repeat(1024)).unwrap();
        let length = 262_144u64 * 1024 * 1024 * 3;
        let header = [&[1, 0][..], &length.to_be_bytes()].concat();
        let top = Block::new(root, [header, outer.id().0.repeat(3)].concat()).unwrap();
        let id = top.id();
        let blocks = [zeros, inner, outer, top].map(|block| (block.id(), block));
        let places = walk(&blocks.into_iter().collect(), id).unwrap();
        assert_eq!(places.len(), 1 + 1 + 1 + 1024);
    }

    #[test]
    fn what_the_length_does_not_dictate_is_refused() {
        let data = vec![7; 600_000];
        let (mut blocks, root) = file(Form::Plain, &data);
        let (_, other) = file(Form::Encrypted, &data);
        assert_eq!(walk(&blocks, root).map(|places| places.len()), Ok(4));
        let leaf = blocks.values().find(|it| it.kind().role == Role::Leaf);
        let leaf = leaf.unwrap().id();
        assert_eq!(walk(&blocks, leaf), Err(TreeError::NotRoot));
        // A root whose children are roots, and one whose last leaf is too long.
        let payload = blocks[&root].payload().to_vec();
        let kind = blocks[&root].kind();
        for (at, id) in [(10, root), (10, other), (10 + 64, leaf)] {
            let mut bad = payload.clone();
            bad[at..at + 32].copy_from_slice(&id.0);
            let bad = Block::new(kind, bad).unwrap();
            let (kind, payload) = (bad.kind(), bad.payload().to_vec());
            let id = bad.id();
            blocks.insert(id, bad);
            let stranger = Block::new(kind, payload).unwrap();
            blocks.entry(other).or_insert(stranger);
            assert!(matches!(walk(&blocks, id), Err(TreeError::BadShape(_))));
        }
    }
}
