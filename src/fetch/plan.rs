//! What somebody who fetches a file is going to want: the leaves below the nodes that have come, in their order.
//!
//! As much of it is located ahead as has been wanted already, within bounds: who stops early, or reads one node of
//! many, has cost little. Nodes themselves are few, and are never located ahead.

use crate::block::tree::{children_of, Content, Root};
use crate::block::{Kind, Role};
use crate::id::{BlockId, NodeId};
use crate::limits::{AHEAD_MAX, AHEAD_MIN, FAN_OUT, PLANNED_MAX, PROVIDERS_USED};
use crate::wire::contact::Contact;
use std::collections::{BTreeMap, BTreeSet};

/// The place of a leaf: how many come before it, of all files that have been planned.
type Place = u64;

/// The plan of one who asks for blocks.
#[derive(Default)]
pub struct Plan {
    /// Nodes that were named and have not come, with their levels and the first leaves below them. At most
    /// `PLANNED_MAX`.
    nodes: BTreeMap<BlockId, (u32, Place)>,
    /// Leaves that were named and have not been wanted; at most `PLANNED_MAX`, the first are forgotten.
    leaves: BTreeMap<Place, BlockId>,
    /// The same by their addresses; the first place of each.
    places: BTreeMap<BlockId, Place>,
    /// Those of them that are located, or are being.
    ahead: BTreeSet<Place>,
    /// Leaves of the files whose roots have come.
    total: u64,
    /// How many have been wanted.
    wanted: u64,
    /// Who says that it has all of it; at most `PROVIDERS_USED`.
    providers: Vec<Contact>,
    /// Who said so, and has failed; no more than were named.
    dropped: BTreeSet<NodeId>,
    /// They have kept somebody waiting.
    is_slow: bool,
}

impl Plan {
    /// A root or node has come. What is no part of a file that is planned is ignored. Those leaves that are forgotten as
    /// they are too many.
    pub fn handle_block(&mut self, id: &BlockId, kind: Kind, payload: &[u8]) -> Vec<BlockId> {
        match kind.role {
            Role::Leaf => {}
            Role::Root => {
                let root = Root::parse(payload.to_vec(), kind.form, None);
                if let Ok(Root {
                    shape,
                    content: Content::Children(links),
                    ..
                }) = root
                {
                    let children = links.into_iter().map(|link| link.id);
                    self.add(children, shape.height(), self.total);
                    self.total = self.total.saturating_add(shape.leaves());
                }
            }
            Role::Node => {
                if let Some((level, first)) = self.nodes.remove(id) {
                    self.add(children_of(payload, kind.form), level - 1, first);
                }
            }
        }
        self.forget_first()
    }

    /// Adds the children of one block, which have this level.
    fn add(&mut self, children: impl IntoIterator<Item = BlockId>, level: u32, first: Place) {
        let span = (FAN_OUT as u64).saturating_pow(level);
        for (nth, child) in (0..).zip(children) {
            let place = first.saturating_add(span.saturating_mul(nth));
            if level == 0 {
                self.leaves.insert(place, child);
                self.places.entry(child).or_insert(place);
            } else if self.nodes.len() < PLANNED_MAX {
                self.nodes.insert(child, (level, place));
            }
        }
    }

    /// Forgets the first leaves, where they are more than are remembered.
    fn forget_first(&mut self) -> Vec<BlockId> {
        let mut forgotten = Vec::new();
        while self.leaves.len() > PLANNED_MAX {
            if let Some((place, leaf)) = self.leaves.pop_first() {
                self.ahead.remove(&place);
                if self.places.get(&leaf) == Some(&place) {
                    self.places.remove(&leaf);
                    forgotten.push(leaf);
                }
            }
        }
        forgotten
    }

    /// Whether a block is one that is to be wanted.
    pub fn names(&self, id: &BlockId) -> bool {
        self.places.contains_key(id) || self.nodes.contains_key(id)
    }

    /// A block is wanted. The place from which on others should be located now, if so.
    pub fn handle_wanted(&mut self, id: &BlockId) -> Option<Place> {
        let place = self.places.remove(id)?;
        self.leaves.remove(&place);
        self.ahead.remove(&place);
        self.wanted += 1;
        let is_short = self.ahead.range(place..).count() <= self.reach() / 2;
        is_short.then_some(place)
    }

    /// How far ahead leaves are located.
    fn reach(&self) -> usize {
        (2 * self.wanted as usize).clamp(AHEAD_MIN, AHEAD_MAX)
    }

    /// Leaves of the files whose roots have come.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// A peer says that it has all of the file. Where one asks for several files, which only pins do, it is asked for
    /// all until it says that it has not one of them.
    pub fn add_provider(&mut self, contact: Contact) {
        let is_known = self.providers.iter().any(|it| it.id == contact.id);
        let is_of_use = !is_known && !self.dropped.contains(&contact.id);
        if is_of_use && self.providers.len() + self.dropped.len() < PROVIDERS_USED {
            self.providers.push(contact);
        }
    }

    /// It has not, or does not answer. Whether it was the last.
    pub fn drop_provider(&mut self, peer: &NodeId) -> bool {
        let count = self.providers.len();
        self.providers.retain(|it| it.id != *peer);
        let was = self.providers.len() < count;
        if was {
            self.dropped.insert(*peer);
        }
        was && self.providers.is_empty()
    }

    /// Who says that it has all of it.
    pub fn providers(&self) -> &[Contact] {
        &self.providers
    }

    /// Whether providers give all that is wanted in time, so that nothing need be located.
    pub fn is_served(&self) -> bool {
        !self.providers.is_empty() && !self.is_slow
    }

    /// A block was not there in time.
    pub fn note_late(&mut self) {
        self.is_slow = true;
    }

    /// The next leaves from there on that are to be located.
    pub fn next_ahead(&mut self, from: Place) -> Vec<BlockId> {
        let next = self.leaves.range(from..);
        let next = next.filter(|(place, leaf)| {
            !self.ahead.contains(place) && self.places.get(leaf) == Some(place)
        });
        let next: Vec<(Place, BlockId)> = next
            .take(self.reach())
            .map(|(&place, &leaf)| (place, leaf))
            .collect();
        self.ahead.extend(next.iter().map(|it| it.0));
        next.into_iter().map(|it| it.1).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::tree::LEAF_SIZE;
    use crate::block::{Block, Form};

    fn block(role: Role, payload: Vec<u8>) -> Block {
        let form = Form::Plain;
        Block::new(Kind { role, form }, payload).unwrap()
    }

    fn leaf(n: u64) -> BlockId {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        BlockId(id)
    }

    /// The root and the nodes of a file of so many leaves, of which no two are the same.
    fn file(leaves: u64) -> (Block, Vec<Block>) {
        let ids: Vec<BlockId> = (0..leaves).map(leaf).collect();
        let payload = |ids: &[BlockId]| ids.iter().flat_map(|id| id.0).collect::<Vec<u8>>();
        let nodes = ids.chunks(FAN_OUT).map(payload);
        let nodes: Vec<Block> = nodes.map(|it| block(Role::Node, it)).collect();
        let ids: Vec<BlockId> = nodes.iter().map(|node| node.id()).collect();
        let length = leaves * LEAF_SIZE as u64;
        let header = [&[1, 0][..], &length.to_be_bytes()].concat();
        (block(Role::Root, [header, payload(&ids)].concat()), nodes)
    }

    fn pass(plan: &mut Plan, block: &Block) -> Vec<BlockId> {
        plan.handle_block(&block.id(), block.kind(), block.payload())
    }

    /// Which leaves are to be located when this one is wanted.
    fn want(plan: &mut Plan, n: u64) -> Vec<BlockId> {
        let from = plan.handle_wanted(&leaf(n));
        from.map_or(Vec::new(), |from| plan.next_ahead(from))
    }

    #[test]
    fn leaves_are_located_in_the_order_of_the_file_ever_more_ahead() {
        let (root, nodes) = file(3000);
        let mut plan = Plan::default();
        pass(&mut plan, &root);
        for node in [1, 0, 2] {
            pass(&mut plan, &nodes[node]);
        }
        let mut located = 1;
        let mut sizes = Vec::new();
        for n in 0..3000 {
            let ahead = want(&mut plan, n);
            let expected = located..located + ahead.len() as u64;
            assert!(ahead.iter().copied().eq(expected.map(leaf)));
            if !ahead.is_empty() {
                sizes.push(ahead.len());
                located += ahead.len() as u64;
            }
            assert!(n + 1 == 3000 || n + 1 < located, "leaf {n} is wanted");
        }
        assert_eq!(sizes, [64, 66, 132, 264, 528, 1024, 921]);
    }

    #[test]
    fn who_begins_in_the_middle_has_nothing_located_before_it() {
        let (root, nodes) = file(3000);
        let mut plan = Plan::default();
        pass(&mut plan, &root);
        pass(&mut plan, &nodes[1]);
        let ahead = want(&mut plan, 1500);
        assert!(ahead.iter().copied().eq((1501..1565).map(leaf)));
    }

    #[test]
    fn what_belongs_to_no_planned_file_is_ignored_and_what_is_planned_is_bounded() {
        let (root, nodes) = file(PLANNED_MAX as u64 + 2000);
        let mut plan = Plan::default();
        pass(&mut plan, &nodes[0]);
        assert!(!plan.names(&leaf(0)));
        pass(&mut plan, &root);
        let forgotten = nodes.iter().flat_map(|node| pass(&mut plan, node));
        assert!(forgotten.eq((0..2000).map(leaf)));
        assert_eq!(plan.leaves.len(), PLANNED_MAX);
        assert_eq!(plan.places.len(), PLANNED_MAX);
        assert!(!plan.names(&leaf(1999)) && plan.names(&leaf(2000)));
    }
}
