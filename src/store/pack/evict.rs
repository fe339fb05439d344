//! Which block goes first when there is no room: what is expired, then what is farthest from home. Never what is
//! pinned, held or in use, nor what is closer than the newcomer.
//!
//! What a search has passed over in vain is remembered until something changes that lets more go; so a pack that
//! is full of pinned blocks does not cost a walk over them each time. Distances are compared by the first 64 bits.

use super::index::{prefix, Entry, Index, Key, FIRST_KEY};
use super::record;
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
    /// From where on blocks may still have the other mark; `None` if none has.
    stale_from: Option<Key>,
    /// Blocks that have the mark.
    pub count: u64,
}

/// Chunks of the index of which stale marks are taken off in one slice of work: up to 65,536 blocks, in 0.3 ms.
const CLEAR_CHUNKS: usize = 256;

impl Marks {
    /// Begins a marking with the other mark. If it has not been taken off all blocks yet, that is done now: linear.
    pub fn begin<'a>(&mut self, indexes: impl Iterator<Item = &'a mut Index>) {
        self.mark = self.other();
        self.is_under_way = true;
        self.count = 0;
        if let Some(from) = self.stale_from.take() {
            indexes.for_each(|index| index.clear_marks(from, None, self.mark));
        }
    }

    /// The marking has ended, or there is nothing to be marked.
    pub fn end(&mut self) {
        self.is_under_way = false;
        self.is_known = true;
        self.stale_from = (self.mark != 0).then_some(FIRST_KEY);
    }

    /// Whether there are blocks that may have the other mark, which is of no use any more.
    pub fn has_stale(&self) -> bool {
        self.stale_from.is_some() && !self.is_under_way
    }

    /// Takes it off some of them. The first of the indexes tells how many that are.
    pub fn clear_some<'a>(&mut self, indexes: impl Iterator<Item = &'a mut Index>) {
        let mut indexes = indexes.peekable();
        if let (Some(from), Some(first)) = (self.stale_from, indexes.peek()) {
            let until = first.key_after(from, CLEAR_CHUNKS);
            indexes.for_each(|index| index.clear_marks(from, until, self.other()));
            self.stale_from = until;
        }
    }

    /// All blocks have other places than before.
    pub fn handle_compaction(&mut self) {
        self.stale_from = self.stale_from.map(|_| FIRST_KEY);
    }

    fn other(&self) -> u8 {
        if self.mark == 1 {
            2
        } else {
            1
        }
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

    /// Whether it is known what is pinned.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whether all of so many blocks have to be kept.
    pub fn protect_all(&self, blocks: u64) -> bool {
        !self.is_known || !self.is_under_way && self.count >= blocks
    }

    /// Whether a block has to be kept.
    pub fn protect(&self, entry: &Entry) -> bool {
        match (self.is_known, self.is_under_way) {
            (false, _) => true,
            (true, true) => entry.marks != 0,
            (true, false) => entry.marks & self.mark != 0,
        }
    }
}

/// How much is to go.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Blocks at most.
    pub count: usize,
    /// Bytes of their records; with the last it may be more.
    pub bytes: u64,
}

/// What is found to go.
struct Found {
    victims: Vec<(BlockId, Entry)>,
    left: Wanted,
}

impl Found {
    fn is_enough(&self) -> bool {
        self.left.count == 0 || self.left.bytes == 0
    }

    fn push(&mut self, victim: (BlockId, Entry)) {
        self.left.count -= 1;
        let extent = record::extent(victim.1.len);
        self.left.bytes = self.left.bytes.saturating_sub(extent);
        self.victims.push(victim);
    }
}

/// What earlier searches have shown.
pub(super) struct Evictor {
    /// Own place, as far as its first 8 bytes tell.
    home: u64,
    /// Nothing farther than this may go.
    farthest: u64,
    /// Nothing expires before, in hours since the Unix epoch.
    next_expiry: u32,
    /// Where the search for what is expired goes on, and the earliest end that it has passed.
    sweep: (Key, u32),
    /// Whether the block there has expired.
    is_at_expired: bool,
    /// The farthest block that was passed over because it was in use, and when: in the next hour it may be so no more.
    passed_in_use: (u32, u64),
    /// Whether the last search ended before it had looked at all.
    has_more: bool,
}

impl Evictor {
    /// Nothing is known.
    pub fn new() -> Evictor {
        Evictor {
            home: 0,
            farthest: u64::MAX,
            next_expiry: 0,
            sweep: (FIRST_KEY, u32::MAX),
            is_at_expired: false,
            passed_in_use: (0, 0),
            has_more: false,
        }
    }

    /// A block has come.
    pub fn handle_put(&mut self, id: &BlockId, expires: u32) {
        self.handle_release(id);
        self.next_expiry = self.next_expiry.min(expires);
        self.sweep.1 = self.sweep.1.min(expires);
    }

    /// A block that was leased may go. Those that expire later than before need not be said: they are met when they
    /// would have expired.
    pub fn handle_release(&mut self, id: &BlockId) {
        self.farthest = self.farthest.max(prefix(id) ^ self.home);
    }

    /// Anything may go that had to be kept.
    pub fn forget(&mut self) {
        *self = Evictor {
            home: self.home,
            ..Evictor::new()
        };
    }

    /// The blocks that go first, with their entries; fewer than there may be if many have to be passed over. Looks at
    /// [`EVICT_SEARCH_MAX`] of each kind at most, and goes on from there the next time; so it may be that a block is
    /// given that is farthest though there are expired ones, as long as these are being looked for. Those that are
    /// still there the next time are given again. `address` reads a block's address from its record.
    pub fn victims(
        &mut self,
        index: &Index,
        marks: &Marks,
        now: u32,
        claim: &Claim<'_>,
        address: &dyn Fn(&Entry) -> Option<BlockId>,
        wanted: Wanted,
    ) -> Vec<(BlockId, Entry)> {
        let home = prefix(&BlockId(claim.home.0));
        if home != self.home {
            self.home = home;
            self.forget();
        }
        let free = |entry: &Entry| {
            let id = address(entry)?;
            (!(claim.is_in_use)(&id)).then_some((id, *entry))
        };
        let mut found = Found {
            victims: Vec::new(),
            left: wanted,
        };
        self.has_more = false;
        if marks.protect_all(index.len()) {
            return found.victims;
        }
        if self.passed_in_use.0 != now {
            self.farthest = self.farthest.max(self.passed_in_use.1);
            self.passed_in_use = (now, 0);
        }
        // Twice, if some have come where the first search had been.
        for _ in 0..2 {
            if self.next_expiry <= now && found.victims.is_empty() {
                self.find_expired(index, marks, now, &free, &mut found);
            }
        }
        if found.victims.is_empty() {
            let distance = |id: BlockId| prefix(&id) ^ home;
            let beyond = claim.newcomer.map(distance);
            self.find_farthest(index, marks, beyond, &free, &mut found);
        }
        found.victims
    }

    /// Whether there may be others that may go than the last search has found.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether it is not known which blocks have expired by now.
    pub fn wants_sweep(&self, now: u32) -> bool {
        self.next_expiry <= now && !self.is_at_expired
    }

    /// Goes on to the next block that has expired.
    pub fn sweep(&mut self, index: &Index, marks: &Marks, now: u32) {
        let mut none = Found {
            victims: Vec::new(),
            left: Wanted { count: 0, bytes: 0 },
        };
        self.find_expired(index, marks, now, &|_| None, &mut none);
    }

    fn find_expired(
        &mut self,
        index: &Index,
        marks: &Marks,
        now: u32,
        free: &dyn Fn(&Entry) -> Option<(BlockId, Entry)>,
        found: &mut Found,
    ) {
        self.is_at_expired = false;
        // Where the first is that goes: it may be there the next time.
        let mut first = None;
        for (nth, (key, entry)) in index.iter_from(self.sweep.0).enumerate() {
            if nth == EVICT_SEARCH_MAX || first.is_some() && found.is_enough() {
                self.sweep.0 = first.unwrap_or(key);
                return;
            }
            let expires = entry.terms.expires;
            if marks.protect(&entry) {
                continue;
            }
            if expires > now {
                self.sweep.1 = self.sweep.1.min(expires);
                continue;
            }
            if found.is_enough() {
                self.sweep.0 = key;
                self.is_at_expired = true;
                return;
            }
            match free(&entry) {
                Some(victim) => {
                    first.get_or_insert(key);
                    found.push(victim);
                }
                // In use; but not for ever.
                None => self.sweep.1 = self.sweep.1.min(now.saturating_add(1)),
            }
        }
        match first {
            Some(first) => self.sweep.0 = first,
            None => {
                self.next_expiry = self.sweep.1;
                self.sweep = (FIRST_KEY, u32::MAX);
            }
        }
    }

    fn find_farthest(
        &mut self,
        index: &Index,
        marks: &Marks,
        beyond: Option<u64>,
        free: &dyn Fn(&Entry) -> Option<(BlockId, Entry)>,
        found: &mut Found,
    ) {
        let mut kept_all = true;
        let by_distance = Farthest::new(index, self.home, self.farthest);
        for (nth, (distance, entry)) in by_distance.enumerate() {
            if nth == EVICT_SEARCH_MAX {
                self.has_more = true;
                return;
            }
            if kept_all {
                self.farthest = distance;
            }
            if beyond.is_some_and(|beyond| distance <= beyond) || found.is_enough() {
                return;
            }
            if marks.protect(&entry) || entry.terms.hold != Hold::Free {
                continue;
            }
            match free(&entry) {
                Some(victim) => {
                    kept_all = false;
                    found.push(victim);
                }
                None => self.passed_in_use.1 = self.passed_in_use.1.max(distance),
            }
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
const SORT_MAX: usize = 24;

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
            self.found.sort_unstable_by_key(|it| (it.0, it.1.offset));
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

    fn wanted(count: usize) -> Wanted {
        let bytes = u64::MAX;
        Wanted { count, bytes }
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
            let victims = evictor.victims(index, marks, now, claim, &address, wanted(7));
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
        marks.begin([&mut index].into_iter());
        for n in (0..2000u64).step_by(5) {
            let marked = marks.mark(&entry(n, 10 + n as u32 % 3)).unwrap();
            assert!(index.update(&ids[n as usize], marked));
        }
        marks.end();
        evictor.forget();

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
        marks.begin([&mut index].into_iter());
        let gone = drain(&mut index, &ids, &mut evictor, &mut marks, 10, &claim(None));
        assert!(
            gone.iter().all(|n| !n.is_multiple_of(5)),
            "the old marks hold till then"
        );
        marks.end();
        evictor.forget();
        drain(&mut index, &ids, &mut evictor, &mut marks, 10, &claim(None));
        assert_eq!(index.len(), 1, "what is in use");
    }

    #[test]
    fn what_is_passed_over_in_vain_is_not_looked_at_again() {
        let mut rng = Rng::new([6; 32]);
        let (mut index, ids) = index(60_000, 64, &mut rng);
        let mut marks = Marks::default();
        marks.begin([&mut index].into_iter());
        // All but one, which is leased.
        index.retain(|entry| {
            let mut leased = entry;
            leased.terms.hold = Hold::Leased;
            let is_pinned = number(&entry) != 7;
            Some(marks.mark(&entry).filter(|_| is_pinned).unwrap_or(leased))
        });
        marks.count -= 1;
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
            let victims = evictor.victims(&index, &marks, 0, &claim, &address, wanted(1));
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
            victims.extend(evictor.victims(&index, &marks, 0, &claim, &address, wanted(1)));
        }
        assert!(victims.iter().all(|victim| victim.0 == id) && !victims.is_empty());
    }
}
