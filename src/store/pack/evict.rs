//! Which block goes first when there is no room: what is expired, then what is farthest from home. Never what is
//! pinned, held or in use, nor what is closer than the newcomer.
//!
//! What a search has passed over in vain is remembered until something changes that lets more go; so a pack that
//! is full of pinned blocks does not cost a walk over them each time. Distances are compared by the first 64 bits.

use super::index::{prefix, Entry, Index, Key, FIRST_KEY};
use crate::id::BlockId;
use crate::limits::EVICT_SEARCH_MAX;
use crate::store::{Claim, Hold};

/// Which blocks belong to pinned files, told by two marks that take turns.
#[derive(Default)]
pub(super) struct Marks {
    /// The mark of the last marking that was begun: 1, 2, or 0 before the first.
    mark: u8,
    is_under_way: bool,
    /// Whether it is known what is pinned.
    is_known: bool,
    /// Blocks that have the mark.
    pub count: u64,
}

impl Marks {
    /// Begins a marking with the other mark, which is taken off all blocks. Linear.
    pub fn begin(&mut self, index: &mut Index) {
        self.mark = if self.mark == 1 { 2 } else { 1 };
        self.is_under_way = true;
        self.count = 0;
        index.clear_marks(self.mark);
    }

    /// The marking has ended, or there is nothing to be marked.
    pub fn end(&mut self) {
        self.is_under_way = false;
        self.is_known = true;
    }

    /// The entry, marked; `None` if it is already.
    pub fn mark(&mut self, entry: &Entry) -> Option<Entry> {
        // Before the first marking the first mark serves.
        self.mark = self.mark.max(1);
        if entry.marks & self.mark != 0 {
            return None;
        }
        self.count += 1;
        let marks = entry.marks | self.mark;
        Some(Entry { marks, ..*entry })
    }

    /// A block is gone.
    pub fn forget(&mut self, entry: &Entry) {
        self.count -= u64::from(entry.marks & self.mark != 0);
    }

    /// Whether a block has to be kept.
    fn protect(&self, entry: &Entry) -> bool {
        match (self.is_known, self.is_under_way) {
            (false, _) => true,
            (true, true) => entry.marks != 0,
            (true, false) => entry.marks & self.mark != 0,
        }
    }
}

/// What earlier searches have shown.
#[derive(Clone)]
pub(super) struct Evictor {
    /// Own place, as far as its first 8 bytes tell.
    home: u64,
    /// Nothing farther than this may go.
    farthest: u64,
    /// Nothing expires before, in hours since the Unix epoch.
    next_expiry: u32,
    /// Where the search for what is expired goes on, and the earliest end that it has passed.
    sweep: (Key, u32),
}

impl Evictor {
    /// Nothing is known.
    pub fn new() -> Evictor {
        Evictor {
            home: 0,
            farthest: u64::MAX,
            next_expiry: 0,
            sweep: (FIRST_KEY, u32::MAX),
        }
    }

    /// A block has come.
    pub fn handle_put(&mut self, id: &BlockId, expires: u32) {
        self.farthest = self.farthest.max(prefix(id) ^ self.home);
        self.next_expiry = self.next_expiry.min(expires);
        self.sweep.1 = self.sweep.1.min(expires);
    }

    /// Something may go that had to be kept.
    pub fn handle_release(&mut self) {
        *self = Evictor {
            home: self.home,
            ..Evictor::new()
        };
    }

    /// The blocks that go first, at most `max`, with their entries; fewer than there may be if many have to be
    /// passed over. `address` reads a block's address from its record.
    pub fn victims(
        &mut self,
        index: &Index,
        marks: &Marks,
        now: u32,
        claim: &Claim<'_>,
        address: &dyn Fn(&Entry) -> Option<BlockId>,
        max: usize,
    ) -> Vec<(BlockId, Entry)> {
        let home = prefix(&BlockId(claim.home.0));
        if home != self.home {
            self.home = home;
            self.handle_release();
        }
        let free = |entry: &Entry| {
            let id = address(entry)?;
            (!(claim.is_in_use)(&id)).then_some((id, *entry))
        };
        let mut victims = Vec::new();
        if self.next_expiry <= now {
            self.find_expired(index, marks, now, &free, max, &mut victims);
        }
        if victims.is_empty() {
            let distance = |id: BlockId| prefix(&id) ^ home;
            let beyond = claim.newcomer.map(distance);
            self.find_farthest(index, marks, beyond, &free, max, &mut victims);
        }
        victims
    }

    /// Linear in the index, once in an hour or when something changes.
    fn find_expired(
        &mut self,
        index: &Index,
        marks: &Marks,
        now: u32,
        free: &dyn Fn(&Entry) -> Option<(BlockId, Entry)>,
        max: usize,
        victims: &mut Vec<(BlockId, Entry)>,
    ) {
        let (from, mut earliest) = self.sweep;
        for (key, entry) in index.iter_from(from) {
            if marks.protect(&entry) {
                continue;
            }
            if entry.terms.expires > now {
                earliest = earliest.min(entry.terms.expires);
                continue;
            }
            if victims.len() == max {
                self.sweep = (key, earliest);
                return;
            }
            match free(&entry) {
                Some(victim) => victims.push(victim),
                None => earliest = now,
            }
        }
        self.next_expiry = earliest;
        self.sweep = (FIRST_KEY, u32::MAX);
    }

    fn find_farthest(
        &mut self,
        index: &Index,
        marks: &Marks,
        beyond: Option<u64>,
        free: &dyn Fn(&Entry) -> Option<(BlockId, Entry)>,
        max: usize,
        victims: &mut Vec<(BlockId, Entry)>,
    ) {
        let mut kept_all = true;
        let by_distance = Farthest::new(index, self.home, self.farthest);
        for (distance, entry) in by_distance.take(EVICT_SEARCH_MAX) {
            if kept_all {
                self.farthest = distance;
            }
            if beyond.is_some_and(|beyond| distance <= beyond) || victims.len() == max {
                return;
            }
            if marks.protect(&entry) || entry.terms.hold != Hold::Free {
                continue;
            }
            kept_all = false;
            victims.extend(free(&entry));
        }
    }
}

/// A region of the space of addresses: all that begin with the same bits.
struct Region {
    /// The first address in it, as far as its first 8 bytes tell.
    first: u64,
    /// Bits that all have in common.
    bits: u32,
}

/// So many places are sorted rather than divided further.
const SORT_MAX: usize = 8;

/// The places of an index from the farthest from home to the closest.
struct Farthest<'a> {
    index: &'a Index,
    home: u64,
    /// Nothing farther is given.
    limit: u64,
    /// Not yet looked at; the last is the farthest.
    regions: Vec<Region>,
    /// To be given next; the last is the farthest.
    found: Vec<(u64, Entry)>,
}

impl<'a> Farthest<'a> {
    fn new(index: &'a Index, home: u64, limit: u64) -> Farthest<'a> {
        Farthest {
            index,
            home,
            limit,
            regions: vec![Region { first: 0, bits: 0 }],
            found: Vec::new(),
        }
    }

    /// Looks at a region: few places are given, many divided into two regions.
    fn look_at(&mut self, region: &Region) {
        let low_bits = u64::MAX.checked_shr(region.bits).unwrap_or(0);
        let closest = (region.first ^ self.home) & !low_bits;
        if closest > self.limit {
            return;
        }
        let last = region.first | low_bits;
        let places = self.index.iter_from((region.first, 0));
        let mut places = places.take_while(|(key, _)| key.0 <= last);
        let is_one_address = region.bits == u64::BITS;
        for ((prefix, _), entry) in places.by_ref() {
            self.found.push((prefix ^ self.home, entry));
            if self.found.len() > SORT_MAX && !is_one_address {
                break;
            }
        }
        if self.found.len() <= SORT_MAX || is_one_address {
            let limit = self.limit;
            self.found.retain(|(distance, _)| *distance <= limit);
            self.found.sort_by_key(|(distance, _)| *distance);
            return;
        }
        self.found.clear();
        let bits = region.bits + 1;
        let bit = 1 << (u64::BITS - bits);
        let halves = [region.first, region.first | bit];
        let [near, far] = match self.home & bit == 0 {
            true => halves,
            false => [halves[1], halves[0]],
        };
        self.regions.push(Region { first: near, bits });
        self.regions.push(Region { first: far, bits });
    }
}

impl Iterator for Farthest<'_> {
    type Item = (u64, Entry);

    fn next(&mut self) -> Option<(u64, Entry)> {
        loop {
            if let Some(found) = self.found.pop() {
                return Some(found);
            }
            let region = self.regions.pop()?;
            self.look_at(&region);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::Kind;
    use crate::id::Point;
    use crate::rng::Rng;
    use crate::store::Terms;

    fn entry(n: u64, expires: u32) -> Entry {
        Entry {
            offset: 64 + n * 72,
            len: 8,
            kind: Kind::from_byte(1).unwrap(),
            checked: true,
            terms: Terms {
                expires,
                hold: Hold::Free,
            },
            marks: 0,
        }
    }

    /// An index of random addresses, and the addresses by number.
    fn index(count: u64, bits: u32, rng: &mut Rng) -> (Index, Vec<BlockId>) {
        let mut index = Index::default();
        let ids: Vec<BlockId> = (0..count)
            .map(|n| {
                let mut id = BlockId(rng.bytes());
                let few = prefix(&id) >> (64 - bits) << (64 - bits);
                id.0[..8].copy_from_slice(&few.to_be_bytes());
                index.insert(&id, entry(n, 10 + n as u32 % 3));
                id
            })
            .collect();
        (index, ids)
    }

    fn number(entry: &Entry) -> usize {
        (entry.offset as usize - 64) / 72
    }

    #[test]
    fn places_come_from_the_farthest_to_the_closest() {
        for bits in [3, 9, 64] {
            let mut rng = Rng::new([bits as u8; 32]);
            let (index, ids) = index(3000, bits, &mut rng);
            for limit in [u64::MAX, rng.next_u64(), rng.next_u64() >> 8] {
                let home = rng.next_u64();
                let given: Vec<u64> = Farthest::new(&index, home, limit).map(|it| it.0).collect();
                let mut expected: Vec<u64> = ids.iter().map(|id| prefix(id) ^ home).collect();
                expected.retain(|distance| *distance <= limit);
                expected.sort_unstable_by(|a, b| b.cmp(a));
                assert_eq!(given, expected);
            }
        }
    }

    /// Removes victims until there are none, as a store does; in the order in which they went.
    fn drain(
        index: &mut Index,
        ids: &[BlockId],
        evictor: &mut Evictor,
        marks: &mut Marks,
        now: u32,
        claim: &Claim<'_>,
    ) -> Vec<usize> {
        let mut gone = Vec::new();
        loop {
            let address = |entry: &Entry| Some(ids[number(entry)]);
            let victims = evictor.victims(index, marks, now, claim, &address, 7);
            if victims.is_empty() {
                return gone;
            }
            for (id, entry) in victims {
                assert!(index.remove(&id, &entry));
                marks.forget(&entry);
                gone.push(number(&entry));
            }
        }
    }

    #[test]
    fn expired_go_first_then_the_farthest_and_the_protected_stay() {
        let mut rng = Rng::new([4; 32]);
        let (mut index, ids) = index(2000, 64, &mut rng);
        let home = Point(rng.bytes());
        let distance = |n: usize| prefix(&ids[n]) ^ prefix(&BlockId(home.0));
        let used = ids[3];
        let is_in_use = |id: &BlockId| *id == used;
        let claim = |newcomer| Claim {
            home,
            newcomer,
            is_in_use: &is_in_use,
        };
        let (mut evictor, mut marks) = (Evictor::new(), Marks::default());
        let gone = drain(&mut index, &ids, &mut evictor, &mut marks, 99, &claim(None));
        assert_eq!(gone, [], "as long as nobody knows what is pinned");
        marks.begin(&mut index);
        for n in (0..2000u64).step_by(5) {
            let marked = marks.mark(&entry(n, 10 + n as u32 % 3)).unwrap();
            assert!(index.update(&ids[n as usize], marked));
        }
        marks.end();
        evictor.handle_release();

        let middle = ids[1000];
        let claim_of_middle = claim(Some(middle));
        let gone = drain(
            &mut index,
            &ids,
            &mut evictor,
            &mut marks,
            10,
            &claim_of_middle,
        );
        let is_first = |n: &usize| n.is_multiple_of(3) && !n.is_multiple_of(5) && *n != 3;
        let firsts = (0..2000).filter(is_first).count();
        assert!(gone[..firsts].iter().all(is_first));
        let rest = &gone[firsts..];
        let may_go = |n: &usize| {
            !n.is_multiple_of(3) && !n.is_multiple_of(5) && distance(*n) > distance(1000)
        };
        let mut expected: Vec<usize> = (0..2000).filter(may_go).collect();
        expected.sort_by_key(|n| std::cmp::Reverse(distance(*n)));
        assert_eq!(rest, expected);
        assert_eq!(marks.count, 400);

        // Not pinned any more: a new marking that marks nothing.
        marks.begin(&mut index);
        let gone = drain(&mut index, &ids, &mut evictor, &mut marks, 10, &claim(None));
        assert!(
            gone.iter().all(|n| !n.is_multiple_of(5)),
            "the old marks hold till then"
        );
        marks.end();
        evictor.handle_release();
        drain(&mut index, &ids, &mut evictor, &mut marks, 10, &claim(None));
        assert_eq!(index.len(), 1, "what is in use");
    }

    #[test]
    fn what_is_passed_over_in_vain_is_not_looked_at_again() {
        let mut rng = Rng::new([6; 32]);
        let (mut index, ids) = index(60_000, 64, &mut rng);
        let mut marks = Marks::default();
        marks.begin(&mut index);
        index.retain(|entry| Some(marks.mark(&entry).unwrap_or(entry)));
        marks.end();
        let claim = Claim {
            home: Point([0; 32]),
            newcomer: None,
            is_in_use: &|_| false,
        };
        let mut evictor = Evictor::new();
        evictor.next_expiry = u32::MAX;
        let address = |entry: &Entry| Some(ids[number(entry)]);
        for _ in 0..60_000 / EVICT_SEARCH_MAX + 2 {
            let victims = evictor.victims(&index, &marks, 0, &claim, &address, 1);
            assert!(victims.is_empty());
        }
        let left = Farthest::new(&index, 0, evictor.farthest).count();
        assert!(left <= 1, "{left}");
        let id = BlockId([0x80; 32]);
        index.insert(&id, entry(60_000, 50));
        evictor.handle_put(&id, 50);
        let ids = [&ids[..], &[id]].concat();
        let address = |entry: &Entry| Some(ids[number(entry)]);
        let mut victims = Vec::new();
        for _ in 0..60_000 / EVICT_SEARCH_MAX + 2 {
            victims.extend(evictor.victims(&index, &marks, 0, &claim, &address, 1));
        }
        assert!(victims.iter().all(|victim| victim.0 == id) && !victims.is_empty());
    }
}
