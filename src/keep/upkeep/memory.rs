//! What a peer remembers of what its neighbours hold, so that it need not ask for it again every hour.
//!
//! Its own blocks are cut into leaves: cells with at most [`LEAF_MAX`] of them. For each leaf and neighbour it keeps the
//! neighbour's digest of the leaf, as last told, and which of its own blocks there the neighbour has. A digest adds up,
//! so that of a larger cell as last told is known, too. At a million blocks some 88 lie in a leaf, and 20 neighbours
//! take 32 bytes each: 8 bytes a block. It sends nothing and asks nobody; [`super::talk`] fills it.

use crate::cell::Cell;
use crate::id::NodeId;
use crate::limits::{LEAF_MAX, SEEN_MAX, UPKEEP_PEERS_MAX};
use crate::store::Held;
use crate::time::Instant;
use std::collections::BTreeMap;

/// Which of a leaf's own blocks, in their order, somebody has: bit 0 stands for the first.
pub type Map = u128;

const _: () = assert!(LEAF_MAX <= Map::BITS as usize);

/// A peer that has been met as a neighbour. Never used again for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Number(u32);

/// What one neighbour has in a leaf.
struct Seen {
    number: Number,
    /// The lower half of the sum of its digest: who it is cannot choose it, and whoever could knows the key.
    sum: u64,
    map: Map,
}

/// What is known of one leaf.
pub struct Leaf {
    /// Where it is.
    pub cell: Cell,
    /// Own blocks in it.
    pub count: usize,
    /// What tells them from others. Maps are of the blocks for which it was cut.
    own: u64,
    /// At most `SEEN_MAX`.
    seen: Vec<Seen>,
}

impl Leaf {
    fn of(&self, number: Number) -> Option<&Seen> {
        self.seen.iter().find(|it| it.number == number)
    }

    /// What a neighbour has of the own blocks, as far as that is known.
    pub fn map(&self, number: Number) -> Option<Map> {
        self.of(number).map(|it| it.map)
    }

    /// Whether the own blocks are still those for which it was cut.
    pub fn is_as_cut(&self, held: &[Held]) -> bool {
        self.own == mark_of(held)
    }
}

/// A number that differs if the blocks do: by chance, as nobody is kept from making two sets that agree, who could only
/// have his own blocks forgotten.
fn mark_of(held: &[Held]) -> u64 {
    let mix =
        |all: u64, it: &Held| (all.rotate_left(7) ^ it.place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    held.iter().fold(0, mix)
}

struct Peer {
    number: Number,
    /// When it was a neighbour last.
    met: Instant,
}

/// All that is remembered.
#[derive(Default)]
pub struct Memory {
    /// By the first place. Invariant: they do not overlap.
    leaves: BTreeMap<u64, Leaf>,
    /// At most `UPKEEP_PEERS_MAX`.
    peers: BTreeMap<NodeId, Peer>,
    /// Of the peers, by their numbers.
    ids: BTreeMap<Number, NodeId>,
    next: u32,
}

impl Memory {
    /// The number of a peer that is a neighbour now. If there are too many, that which has been none for the longest
    /// time is forgotten.
    pub fn meet(&mut self, now: Instant, id: NodeId) -> Number {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.met = now;
            return peer.number;
        }
        if self.peers.len() >= UPKEEP_PEERS_MAX {
            let last = self.peers.iter().min_by_key(|(_, peer)| peer.met);
            if let Some((id, number)) = last.map(|(id, peer)| (*id, peer.number)) {
                self.peers.remove(&id);
                self.ids.remove(&number);
            }
        }
        let number = Number(self.next);
        self.next = self.next.wrapping_add(1);
        self.peers.insert(id, Peer { number, met: now });
        self.ids.insert(number, id);
        number
    }

    /// The number of a peer that has been met.
    pub fn number(&self, id: &NodeId) -> Option<Number> {
        self.peers.get(id).map(|peer| peer.number)
    }

    /// These own blocks, at most [`LEAF_MAX`], make a leaf of this cell. If others did before, all that was known of it is
    /// forgotten: what is there is asked for anew.
    pub fn cut(&mut self, cell: Cell, held: &[Held]) {
        let (own, count) = (mark_of(held), held.len());
        let inside = self.leaves.range(cell.first()..=cell.last());
        let stale = inside.filter(|(_, leaf)| leaf.cell != cell || leaf.own != own);
        let stale: Vec<u64> = stale.map(|(first, _)| *first).collect();
        for first in stale {
            self.leaves.remove(&first);
        }
        let before = self.leaves.range(..cell.first()).next_back();
        let around = before.filter(|(_, leaf)| leaf.cell.last() >= cell.first());
        if let Some(first) = around.map(|(first, _)| *first) {
            self.leaves.remove(&first);
        }
        let ids = &self.ids;
        let leaf = self.leaves.entry(cell.first()).or_insert(Leaf {
            cell,
            count,
            own,
            seen: Vec::new(),
        });
        leaf.seen.retain(|it| ids.contains_key(&it.number));
    }

    /// Forgets what is outside a cell.
    pub fn keep_within(&mut self, cell: Cell) {
        self.leaves.retain(|first, _| cell.contains(*first));
    }

    /// The leaf around a place.
    pub fn leaf(&self, place: u64) -> Option<&Leaf> {
        let (_, leaf) = self.leaves.range(..=place).next_back()?;
        leaf.cell.contains(place).then_some(leaf)
    }

    /// The leaves in a cell, in order.
    pub fn leaves(&self, cell: Cell) -> impl Iterator<Item = &Leaf> + '_ {
        self.leaves
            .range(cell.first()..=cell.last())
            .map(|(_, leaf)| leaf)
    }

    /// The sum of a neighbour's digest of a cell, as last told; `None` unless it is known of all leaves in it.
    pub fn sum(&self, cell: Cell, number: Number) -> Option<u64> {
        let mut sums = self
            .leaves(cell)
            .map(|leaf| leaf.of(number).map(|it| it.sum));
        sums.try_fold(0u64, |all, sum| Some(all.wrapping_add(sum?)))
    }

    /// A neighbour has these of the blocks in the leaf around a place, and what it has there comes to this sum. If too
    /// much is known of the leaf, that of the neighbour that has been none for the longest time is forgotten.
    pub fn learn(&mut self, place: u64, number: Number, sum: u64, map: Map) {
        let Memory {
            leaves, peers, ids, ..
        } = self;
        let leaf = leaves.range_mut(..=place).next_back();
        let Some(leaf) = leaf
            .map(|(_, leaf)| leaf)
            .filter(|it| it.cell.contains(place))
        else {
            return;
        };
        let seen = Seen { number, sum, map };
        if let Some(known) = leaf.seen.iter_mut().find(|it| it.number == number) {
            *known = seen;
            return;
        }
        if leaf.seen.len() >= SEEN_MAX {
            let met = |it: &Seen| Some(peers.get(ids.get(&it.number)?)?.met);
            let last = (0..leaf.seen.len()).min_by_key(|&nth| met(&leaf.seen[nth]));
            leaf.seen.swap_remove(last.unwrap_or(0));
        }
        leaf.seen.reserve_exact(1);
        leaf.seen.push(seen);
    }

    /// What a neighbour has in the leaf around a place is not known.
    pub fn forget(&mut self, place: u64, number: Number) {
        if let Some((_, leaf)) = self.leaves.range_mut(..=place).next_back() {
            leaf.seen.retain(|it| it.number != number);
        }
    }

    /// Bytes that it takes, the nodes of trees as if they were two thirds full.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let leaf = |it: &Leaf| {
            (size_of::<Leaf>() + size_of::<u64>()) * 3 / 2 + it.seen.capacity() * size_of::<Seen>()
        };
        self.leaves.values().map(leaf).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Kind;
    use crate::rng::Rng;
    use std::time::Duration;

    fn id(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// So many blocks, and others for each other number.
    fn held(count: usize, n: u64) -> Vec<Held> {
        let kind = Kind::from_byte(1).expect("a kind");
        let each = (0..count as u64).map(|nth| Held {
            place: nth + n,
            kind,
            expires: 0,
        });
        each.collect()
    }

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn sum_of_a_cell_is_known_when_that_of_each_leaf_is() {
        let mut memory = Memory::default();
        let one = memory.meet(at(0), id(1));
        for leaf in Cell::WHOLE.parts(3) {
            memory.cut(leaf, &held(5, 7));
        }
        let half = Cell::around(0, 1);
        for (nth, leaf) in half.parts(2).enumerate() {
            assert_eq!(memory.sum(half, one), None);
            memory.learn(leaf.first() + 9, one, 10 + nth as u64, 1 << nth);
        }
        assert_eq!(memory.sum(half, one), Some(46));
        assert_eq!(memory.sum(Cell::WHOLE, one), None);
        assert_eq!(memory.leaf(9).and_then(|it| it.map(one)), Some(1));
        // A leaf that is as it was keeps what is known of it, another does not.
        memory.cut(Cell::around(0, 3), &held(5, 7));
        assert_eq!(memory.sum(half, one), Some(46));
        memory.cut(Cell::around(0, 3), &held(5, 8));
        assert_eq!(memory.sum(half, one), None);
    }

    #[test]
    fn leaves_never_overlap_however_they_are_cut() {
        let mut rng = Rng::new([3; 32]);
        let mut memory = Memory::default();
        for n in 0..10_000u64 {
            let cell = Cell::around(rng.next_u64(), rng.below(7) as u8);
            memory.cut(cell, &held(1, n));
            let leaves: Vec<Cell> = memory.leaves(Cell::WHOLE).map(|it| it.cell).collect();
            assert!(leaves.contains(&cell));
            assert!(leaves.windows(2).all(|it| it[0].last() < it[1].first()));
        }
    }

    #[test]
    fn who_has_been_no_neighbour_for_longest_is_forgotten_first() {
        let mut memory = Memory::default();
        memory.cut(Cell::WHOLE, &held(1, 1));
        let first = memory.meet(at(0), id(0));
        memory.learn(0, first, 1, 1);
        for n in 1..=SEEN_MAX as u8 {
            let number = memory.meet(at(u64::from(n)), id(n));
            memory.meet(at(u64::from(n)), id(0));
            memory.learn(0, number, 1, 1);
        }
        let leaf = memory.leaf(0).expect("it was cut");
        assert_eq!(leaf.seen.len(), SEEN_MAX);
        assert!(leaf.of(first).is_some());
        assert!(memory
            .number(&id(1))
            .is_some_and(|it| leaf.of(it).is_none()));
        for n in 0..2 * UPKEEP_PEERS_MAX {
            let mut other = [9; 32];
            other[..8].copy_from_slice(&n.to_be_bytes());
            memory.meet(at(1000 + n as u64), NodeId(other));
            assert!(memory.peers.len() <= UPKEEP_PEERS_MAX && memory.ids.len() <= UPKEEP_PEERS_MAX);
        }
        memory.cut(Cell::WHOLE, &held(1, 1));
        assert!(memory.leaf(0).is_some_and(|leaf| leaf.seen.is_empty()));
        assert!(memory.meet(at(9999), id(0)) != first, "never used again");
    }

    #[test]
    fn million_blocks_take_few_bytes_each() {
        let mut memory = Memory::default();
        let numbers: Vec<Number> = (0..20).map(|n| memory.meet(at(0), id(n))).collect();
        let mut blocks = 0;
        // Leaves of random blocks are cut when they have twice as many as half of the most.
        for (nth, leaf) in Cell::WHOLE.parts(14).take(11_400).enumerate() {
            let count = LEAF_MAX / 2 + nth % (LEAF_MAX / 2);
            memory.cut(leaf, &held(count, 0));
            blocks += count;
            for number in &numbers {
                memory.learn(leaf.first(), *number, 1, 1);
            }
        }
        let each = memory.bytes() as f64 / blocks as f64;
        println!("what 20 neighbours have of {blocks} blocks: {each:.1} bytes a block");
        assert!(blocks > 1_000_000 && each <= 10.0, "{each}");
    }
}
