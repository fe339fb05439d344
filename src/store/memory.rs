//! A store in memory: the same contract as the pack's, and gone with the process.

use super::{
    Allotment, Claim, Held, Hold, Pin, Put, Sequence, Shrunk, Store, StoreError, Sums, Terms,
    Usage, Verified,
};
use crate::block::{Block, Kind};
use crate::cell::{place_of, Cell};
use crate::digest::{Digest, DigestKey};
use crate::id::{BlockId, Point};
use crate::limits::BLOCK_CHARGE_MIN;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// A block and how it is kept.
struct Kept {
    block: Block,
    terms: Terms,
    /// What it adds to digests.
    hash: u128,
    /// The last marking that came by; 0 if none did.
    marked: u64,
}

/// Blocks in memory, charged as the pack charges them.
pub struct MemoryStore {
    digest_key: DigestKey,
    blocks: BTreeMap<BlockId, Kept>,
    pins: BTreeMap<BlockId, Pin>,
    /// Counts markings, from 1: what is marked before the first is begun is kept until that has ended.
    marking: u64,
    /// The last marking that ended.
    marked: u64,
    /// Whether anything ever was marked.
    has_marks: bool,
    /// Seconds since the Unix epoch.
    time: u64,
    capacity: u64,
    used: u64,
    held: Sums,
    written: Sequence,
    committed: Sequence,
    uncommitted: u64,
    /// What was put since the last commit.
    fresh: Vec<BlockId>,
    /// Blocks that it says a disk would have to bring, for tests.
    pub cold: BTreeSet<BlockId>,
}

impl MemoryStore {
    /// An empty store that takes up to `capacity` bytes.
    pub fn new(capacity: u64) -> MemoryStore {
        MemoryStore {
            // It keeps no secrets, having no entropy of its own.
            digest_key: DigestKey::new(b""),
            blocks: BTreeMap::new(),
            pins: BTreeMap::new(),
            marking: 1,
            marked: 1,
            has_marks: false,
            time: 0,
            capacity,
            used: 0,
            held: Sums::default(),
            written: Sequence::default(),
            committed: Sequence::default(),
            uncommitted: 0,
            fresh: Vec::new(),
            cold: BTreeSet::new(),
        }
    }

    /// As after a loss of power: what was not committed is lost, and leases end. Marks of pinned files stay.
    pub fn reopen(&mut self) {
        for id in std::mem::take(&mut self.fresh) {
            if let Some(held) = self.blocks.remove(&id) {
                self.forget(&held);
            }
        }
        self.uncommitted = 0;
        for held in self.blocks.values_mut() {
            if held.terms.hold == Hold::Leased {
                held.terms.hold = Hold::Free;
            }
        }
    }

    fn forget(&mut self, held: &Kept) {
        let len = held.block.payload().len() as u64;
        self.used -= charge(len);
        self.held.remove(held.block.kind(), len);
    }

    fn is_protected(&self, held: &Kept) -> bool {
        held.marked >= self.marked
    }

    fn is_expired(&self, terms: &Terms) -> bool {
        u64::from(terms.expires) * 3600 <= self.time
    }

    /// Whether a block may go for the one that has this claim.
    fn may_go(&self, id: &BlockId, held: &Kept, claim: &Claim<'_>) -> bool {
        if self.is_protected(held) || (claim.is_in_use)(id) {
            return false;
        }
        if self.is_expired(&held.terms) {
            return true;
        }
        let distance = |id: BlockId| Point::from(id).distance(&claim.home);
        held.terms.hold == Hold::Free
            && claim
                .newcomer
                .is_none_or(|newcomer| distance(newcomer) < distance(*id))
    }

    /// The block that goes first for the one that has this claim. Linear.
    fn victim(&self, claim: &Claim<'_>) -> Option<BlockId> {
        let candidates = self.blocks.iter();
        let candidates = candidates.filter(|(id, held)| self.may_go(id, held, claim));
        let rank = |(id, held): &(&BlockId, &Kept)| {
            let distance = Point::from(**id).distance(&claim.home);
            (self.is_expired(&held.terms), distance)
        };
        candidates.max_by_key(rank).map(|(id, _)| *id)
    }

    fn is_room(&self, len: u32) -> bool {
        self.used + charge(u64::from(len)) <= self.capacity
    }

    fn full(&self) -> StoreError {
        StoreError::Full {
            capacity: self.capacity,
        }
    }
}

/// The addresses in a cell.
fn addresses(cell: Cell) -> RangeInclusive<BlockId> {
    let address = |place: u64, rest: u8| {
        let mut address = [rest; 32];
        address[..8].copy_from_slice(&place.to_be_bytes());
        BlockId(address)
    };
    address(cell.first(), 0)..=address(cell.last(), 0xff)
}

fn charge(len: u64) -> u64 {
    len.max(BLOCK_CHARGE_MIN)
}

impl Store for MemoryStore {
    fn set_time(&mut self, secs: u64) {
        self.time = secs;
    }

    /// Nothing of a disk is used.
    fn set_allotment(&mut self, allotment: Allotment) {
        self.capacity = allotment.capacity;
    }

    fn has(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(id)
    }

    fn digests(&mut self, cell: Cell, depth: u8) -> Option<Vec<Digest>> {
        let digest = |part: Cell| {
            let held = self.blocks.range(addresses(part));
            let each = held.map(|(_, held)| Digest {
                count: 1,
                sum: held.hash,
            });
            each.sum()
        };
        Some(cell.parts(depth).map(digest).collect())
    }

    fn held(&self, cell: Cell, max: usize) -> Vec<Held> {
        let held = self.blocks.range(addresses(cell)).take(max);
        held.map(|(id, held)| Held {
            place: place_of(id),
            kind: held.block.kind(),
            expires: held.terms.expires,
        })
        .collect()
    }

    fn at_place(&self, place: u64) -> Vec<BlockId> {
        let range = self.blocks.range(addresses(Cell::around(place, 64)));
        range.map(|(id, _)| *id).collect()
    }

    fn start_reading(&self, _id: &BlockId) {}

    fn is_warm(&self, id: &BlockId) -> Option<bool> {
        let is_here = self.blocks.contains_key(id);
        is_here.then(|| !self.cold.contains(id))
    }

    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)> {
        let held = self.blocks.get(id)?;
        Some((held.block.kind(), held.block.payload().len() as u32))
    }

    fn payload(&self, id: &BlockId) -> Option<&[u8]> {
        self.blocks.get(id).map(|held| held.block.payload())
    }

    fn put(&mut self, block: &Block, terms: Terms) -> Result<Put, StoreError> {
        if let Some(held) = self.blocks.get_mut(&block.id()) {
            held.terms = held.terms.or(terms);
            return Ok(Put::Had(self.written));
        }
        let len = block.payload().len() as u64;
        if !self.is_room(len as u32) {
            return Err(self.full());
        }
        self.used += charge(len);
        self.held.add(block.kind(), len);
        self.uncommitted += len;
        self.written.0 += 1;
        self.fresh.push(block.id());
        let held = Kept {
            block: block.clone(),
            terms,
            hash: self.digest_key.hash(place_of(&block.id())),
            marked: 0,
        };
        self.blocks.insert(block.id(), held);
        Ok(Put::Written(self.written))
    }

    fn terms(&self, id: &BlockId) -> Option<Terms> {
        self.blocks.get(id).map(|held| held.terms)
    }

    fn keep_until(&mut self, id: &BlockId, expires: u32) {
        if let Some(held) = self.blocks.get_mut(id) {
            held.terms.expires = held.terms.expires.max(expires);
        }
    }

    fn keep(&mut self, id: &BlockId) {
        if let Some(held) = self.blocks.get_mut(id) {
            held.terms.hold = Hold::Kept;
        }
    }

    fn release(&mut self, id: &BlockId, hold: Hold) {
        if let Some(held) = self.blocks.get_mut(id).filter(|it| it.terms.hold <= hold) {
            held.terms.hold = Hold::Free;
        }
    }

    fn remove(&mut self, id: &BlockId) -> Result<bool, StoreError> {
        let Some(held) = self.blocks.remove(id) else {
            return Ok(false);
        };
        self.forget(&held);
        Ok(true)
    }

    fn pins(&self) -> Vec<Pin> {
        self.pins.values().copied().collect()
    }

    fn add_pin(&mut self, pin: Pin) -> Result<(), StoreError> {
        self.pins.insert(pin.root, pin);
        Ok(())
    }

    fn remove_pin(&mut self, root: &BlockId) -> Result<bool, StoreError> {
        Ok(self.pins.remove(root).is_some())
    }

    fn begin_marking(&mut self) {
        self.marking += 1;
    }

    fn mark(&mut self, id: &BlockId) -> bool {
        let marking = self.marking;
        self.has_marks = true;
        let held = self.blocks.get_mut(id);
        held.map(|held| held.marked = marking).is_some()
    }

    fn is_pinned(&self, id: &BlockId) -> bool {
        let held = self.blocks.get(id);
        held.is_some_and(|held| self.is_protected(held))
    }

    fn end_marking(&mut self) {
        self.marked = self.marking;
    }

    fn could_take(&mut self, len: u32, claim: &Claim<'_>) -> bool {
        self.is_room(len) || self.victim(claim).is_some()
    }

    fn make_room(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError> {
        while !self.is_room(len) {
            let victim = self.victim(claim).ok_or_else(|| self.full())?;
            self.remove(&victim)?;
        }
        Ok(())
    }

    fn is_overfull(&self) -> bool {
        self.used > self.capacity
    }

    fn shrink(&mut self, claim: &Claim<'_>) -> Result<Shrunk, StoreError> {
        let Some(victim) = self.victim(claim).filter(|_| self.is_overfull()) else {
            return Ok(Shrunk::Nothing);
        };
        self.remove(&victim)?;
        Ok(Shrunk::Some)
    }

    fn has_work(&self) -> bool {
        false
    }

    fn work(&mut self) {}

    fn close(&mut self) {}

    fn offset_near(&self, _place: &Point) -> u64 {
        0
    }

    /// What is in memory was verified when it became a block.
    fn verify(&mut self, _from: u64, is_wanted: &dyn Fn(&BlockId) -> bool) -> Verified {
        let wanted = self.blocks.iter().filter(|(id, _)| is_wanted(id));
        let lens = wanted.map(|(_, held)| held.block.payload().len() as u64);
        let (blocks, bytes) = lens.fold((0, 0), |(blocks, bytes), len| (blocks + 1, bytes + len));
        Verified {
            blocks,
            bytes,
            ..Verified::default()
        }
    }

    fn uncommitted(&self) -> u64 {
        self.uncommitted
    }

    fn begin_commit(&mut self) -> Result<(), StoreError> {
        self.committed = self.written;
        self.uncommitted = 0;
        self.fresh.clear();
        Ok(())
    }

    fn poll_commit(&mut self) -> Result<Sequence, StoreError> {
        Ok(self.committed)
    }

    fn awaits_room(&self) -> bool {
        false
    }

    fn is_committing(&self) -> bool {
        false
    }

    fn commit(&mut self) -> Result<Sequence, StoreError> {
        self.begin_commit()?;
        self.poll_commit()
    }

    fn usage(&self) -> Usage {
        // Not to be gone through where nothing is pinned, as mostly in simulations.
        let all = self.has_marks.then_some(&self.blocks);
        let all = all.into_iter().flat_map(BTreeMap::values);
        let pinned = all.filter(|held| self.is_protected(held));
        Usage {
            blocks: self.blocks.len() as u64,
            held: self.held,
            used_bytes: self.used,
            capacity_bytes: self.capacity,
            pins: self.pins.len() as u64,
            pinned_blocks: pinned.count() as u64,
            ..Usage::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::{Form, Role};

    const HOUR: u64 = 3600;

    fn block(n: u8) -> Block {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        Block::new(kind, vec![n; 100]).unwrap()
    }

    fn claim(newcomer: Option<BlockId>) -> Claim<'static> {
        Claim {
            home: Point([0; 32]),
            newcomer,
            is_in_use: &|_| false,
        }
    }

    /// A store filled with blocks that expire in the tenth hour, from the farthest to the closest.
    fn full() -> (MemoryStore, Vec<Block>) {
        let mut blocks: Vec<Block> = (0..8).map(block).collect();
        blocks.sort_by_key(|block| std::cmp::Reverse(Point::from(block.id())));
        let mut store = MemoryStore::new(6 * BLOCK_CHARGE_MIN);
        for block in &blocks[1..7] {
            store.put(block, Terms::until(10 * HOUR)).unwrap();
        }
        (store, blocks)
    }

    #[test]
    fn what_was_not_committed_is_lost_with_the_power_and_leases_end() {
        let mut store = MemoryStore::new(1 << 20);
        let leased = Terms {
            expires: 20,
            hold: Hold::Leased,
        };
        store.put(&block(1), leased).unwrap();
        store.begin_commit().unwrap();
        store.put(&block(2), leased).unwrap();
        store.put(&block(3), leased).unwrap();
        store.remove(&block(3).id()).unwrap();
        store.reopen();
        assert_eq!(store.terms(&block(1).id()), Some(Terms::until(20 * HOUR)));
        assert!(!store.has(&block(2).id()) && !store.has(&block(3).id()));
        let usage = store.usage();
        assert_eq!((usage.blocks, usage.used_bytes), (1, BLOCK_CHARGE_MIN));
        assert_eq!(store.uncommitted(), 0);
    }

    #[test]
    fn farthest_goes_first_and_the_newcomer_is_refused_if_that_is_it() {
        let (mut store, blocks) = full();
        let newcomer = Some(blocks[0].id());
        assert!(!store.could_take(100, &claim(newcomer)));
        assert!(store.make_room(100, &claim(newcomer)).is_err());
        let newcomer = Some(blocks[7].id());
        assert!(store.could_take(100, &claim(newcomer)));
        store.make_room(100, &claim(newcomer)).unwrap();
        assert!(!store.has(&blocks[1].id()) && store.has(&blocks[2].id()));
    }

    #[test]
    fn store_that_is_given_less_shrinks_as_if_one_were_to_come() {
        let (mut store, blocks) = full();
        store.capacity = 3 * BLOCK_CHARGE_MIN;
        let mut steps = 0;
        while store.is_overfull() {
            assert_eq!(store.shrink(&claim(None)).unwrap(), Shrunk::Some);
            steps += 1;
        }
        let held: Vec<bool> = blocks.iter().map(|block| store.has(&block.id())).collect();
        assert_eq!(held, [false, false, false, false, true, true, true, false]);
        assert_eq!(store.shrink(&claim(None)).unwrap(), Shrunk::Nothing);
        assert_eq!(steps, 3);
    }

    #[test]
    fn expired_goes_before_the_farthest_and_pinned_held_and_used_never() {
        let (mut store, blocks) = full();
        store.keep_until(&blocks[6].id(), 20);
        store.set_time(10 * HOUR);
        store.keep_until(&blocks[1].id(), 20);
        store.keep_until(&blocks[2].id(), 20);
        store
            .put(
                &blocks[3],
                Terms {
                    expires: 20,
                    hold: Hold::Leased,
                },
            )
            .unwrap();
        store.begin_marking();
        assert!(store.mark(&blocks[4].id()) && !store.mark(&blocks[0].id()));
        store.end_marking();
        let used = blocks[5].id();
        let all = Claim {
            is_in_use: &|id| *id == used,
            ..claim(None)
        };
        // 4 is pinned and 5 in use, both expired.
        store.make_room(2 * 4096, &all).unwrap();
        let held: Vec<bool> = blocks.iter().map(|block| store.has(&block.id())).collect();
        assert_eq!(held, [false, false, false, true, true, true, true, false]);
        let rest = store.make_room(5 * 4096, &all);
        assert!(rest.is_err() && !store.has(&blocks[6].id()));
        store.release(&blocks[3].id(), Hold::Leased);
        store.begin_marking();
        let before = store.usage().pinned_blocks;
        store.end_marking();
        assert_eq!((before, store.usage().pinned_blocks), (1, 0));
        store.make_room(6 * 4096, &claim(None)).unwrap();
        assert_eq!(store.usage().used_bytes, 0);
    }
}
