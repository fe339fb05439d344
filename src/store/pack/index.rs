//! Where each block lies, and on which terms: a list of places in the order of the blocks' addresses, in memory.
//!
//! A place is 20 bytes: the first 8 of the address, then offset, length and kind packed into 8 more, then terms and
//! marks in 4. The rest of the address is in the record's header, which whoever looks a block up compares; so an
//! address may have several candidates. The first 64 bits of two addresses agree after some 2^32 hashes, of four
//! after some 2^48: whoever grinds for it gains one more comparison for each.
//!
//! The places lie in sorted chunks, and the chunks' first places in a list of their own: two binary searches find
//! a place, and an insertion moves half a chunk. That is a B-tree of two levels. A million random addresses take
//! 29 bytes each (the nodes of the standard library's tree, two thirds full, come to about 38); there is no hash to
//! be ground against, and it can be walked by region and by distance. Beyond some 100 million blocks it would want
//! a third level.

use crate::block::Kind;
use crate::cell::Cell;
use crate::digest::{Digest, DigestKey};
use crate::id::BlockId;
use crate::store::{Hold, Terms};

/// Bytes of a pack at most: what a place has bits for.
pub(super) const PACK_SIZE_MAX: u64 = 1 << (OFFSET_BITS + 3);

/// Places in a chunk at most: 5 KiB, of which an insertion moves half.
const CHUNK_MAX: usize = 256;

const OFFSET_BITS: u32 = 42;
const LEN_BITS: u32 = 18;
const KIND_BITS: u32 = 3;

/// Bits of the last 4 bytes: whole hours since the Unix epoch, until the year 3883; what holds it; two marks.
const EXPIRES_BITS: u32 = 24;
const KEPT: u32 = 1 << 24;
const LEASED: u32 = 1 << 25;
const MARKS_AT: u32 = 26;

const _: () = assert!(OFFSET_BITS + LEN_BITS + KIND_BITS + 1 == u64::BITS);
const _: () = assert!(crate::limits::BLOCK_SIZE_MAX == 1 << LEN_BITS);

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Of the record's header, from the start of the file: a multiple of 8 below [`PACK_SIZE_MAX`].
    pub offset: u64,
    /// Bytes of payload, at least 1.
    pub len: u32,
    /// What the block is.
    pub kind: Kind,
    /// Whether the payload's checksum has been compared by this process.
    pub checked: bool,
    /// How long it is kept.
    pub terms: Terms,
    /// Of which markings of pinned files it is part: bits 0 and 1.
    pub marks: u8,
}

/// A place in the order of the index: the first 8 bytes of an address, and where of several with the same.
pub(super) type Key = (u64, u64);

/// The key before all others.
pub(super) const FIRST_KEY: Key = (0, 0);

#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Place {
    /// The first 8 bytes of the address.
    prefix: u64,
    /// Offset / 8, length - 1, kind, whether it is checked; from the top.
    packed: u64,
    /// Terms and marks.
    rest: u32,
}

const _: () = assert!(size_of::<Place>() == 20);

impl Place {
    fn new(prefix: u64, entry: &Entry) -> Place {
        debug_assert!(entry.offset < PACK_SIZE_MAX && entry.offset.is_multiple_of(8));
        let mut packed = entry.offset / 8;
        packed = packed << LEN_BITS | u64::from(entry.len - 1);
        packed = packed << KIND_BITS | u64::from(entry.kind.to_byte());
        packed = packed << 1 | u64::from(entry.checked);
        let mut rest = entry.terms.expires.min((1 << EXPIRES_BITS) - 1);
        rest |= match entry.terms.hold {
            Hold::Free => 0,
            Hold::Leased => LEASED,
            Hold::Kept => KEPT,
        };
        rest |= u32::from(entry.marks & 3) << MARKS_AT;
        Place {
            prefix,
            packed,
            rest,
        }
    }

    fn key(&self) -> Key {
        // Not the checked bit: a place stays where it is when that changes.
        (self.prefix, self.packed & !1)
    }

    /// `None` if these are no bytes that [`Place::new`] makes.
    fn entry(&self) -> Option<Entry> {
        let kind = (self.packed >> 1) as u8 & ((1 << KIND_BITS) - 1);
        let len = (self.packed >> (1 + KIND_BITS)) as u32 & ((1 << LEN_BITS) - 1);
        Some(Entry {
            offset: (self.packed >> (1 + KIND_BITS + LEN_BITS)) * 8,
            len: len + 1,
            kind: Kind::from_byte(kind)?,
            checked: self.packed & 1 == 1,
            terms: Terms {
                expires: self.rest & ((1 << EXPIRES_BITS) - 1),
                hold: match (self.rest & KEPT != 0, self.rest & LEASED != 0) {
                    (true, _) => Hold::Kept,
                    (false, true) => Hold::Leased,
                    (false, false) => Hold::Free,
                },
            },
            marks: (self.rest >> MARKS_AT) as u8 & 3,
        })
    }

    fn unpack(&self) -> Entry {
        self.entry().expect("a kind was packed")
    }
}

/// Bytes of an entry in a checkpoint.
pub(super) const ENTRY_LEN: usize = 20;

/// An entry as a checkpoint has it, with the first 8 bytes of its address: without what only this process knows.
pub(super) fn encode_entry(prefix: u64, entry: &Entry) -> [u8; ENTRY_LEN] {
    let lasting = Entry {
        checked: false,
        marks: 0,
        terms: entry.terms.lasting(),
        ..*entry
    };
    let place = Place::new(prefix, &lasting);
    let (packed, rest) = (place.packed, place.rest);
    let mut bytes = [0; ENTRY_LEN];
    bytes[..8].copy_from_slice(&prefix.to_be_bytes());
    bytes[8..16].copy_from_slice(&packed.to_be_bytes());
    bytes[16..].copy_from_slice(&rest.to_be_bytes());
    bytes
}

/// The inverse; `None` if they are no such bytes.
pub(super) fn decode_entry(bytes: &[u8; ENTRY_LEN]) -> Option<(u64, Entry)> {
    let u64_at = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().expect("8 bytes"));
    let place = Place {
        prefix: u64_at(0),
        packed: u64_at(8),
        rest: u32::from_be_bytes(*bytes[16..].first_chunk().expect("4 bytes")),
    };
    let entry = place.entry()?;
    (encode_entry(place.prefix, &entry) == *bytes).then_some((place.prefix, entry))
}

/// The first 8 bytes of an address, by which the index is ordered.
pub(super) fn prefix(id: &BlockId) -> u64 {
    u64::from_be_bytes(*id.0.first_chunk().expect("an address has 32 bytes"))
}

/// All places, ordered by address as far as its first 8 bytes tell.
#[derive(Default)]
pub(super) struct Index {
    /// The first key of each chunk. Invariant: as many as chunks, in ascending order.
    firsts: Vec<Key>,
    /// Invariant: none is empty or has more than [`CHUNK_MAX`]; each is sorted.
    chunks: Vec<Vec<Place>>,
    /// What each chunk comes to, as far as that is known: by the key given last. Invariant: as many as chunks.
    sums: Vec<Option<u128>>,
    /// With which the sums were made; nobody has asked for a digest if there is none.
    digest_key: Option<DigestKey>,
    len: u64,
}

impl Index {
    /// Places in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        let lists = self.firsts.capacity() * size_of::<Key>()
            + self.sums.capacity() * size_of::<Option<u128>>()
            + self.chunks.capacity() * size_of::<Vec<Place>>();
        let places = self.chunks.iter().map(Vec::capacity).sum::<usize>();
        lists + places * size_of::<Place>()
    }

    /// Every place, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.iter_from(FIRST_KEY).map(|(_, entry)| entry)
    }

    /// Every place from this key on, in order of address.
    pub fn iter_from(&self, key: Key) -> impl Iterator<Item = (Key, Entry)> + '_ {
        let (chunk, at) = self.search(key);
        let here = self.chunks.get(chunk).map_or(&[][..], |it| &it[at..]);
        let later = self.chunks.iter().skip(chunk + 1).flatten();
        let places = here.iter().chain(later);
        places.map(|place| (place.key(), place.unpack()))
    }

    /// The places at which a block of this address may lie, of which at most one header has it whole, but for
    /// damage: then the block may have been stored again.
    pub fn candidates(&self, id: &BlockId) -> impl Iterator<Item = Entry> + '_ {
        let prefix = prefix(id);
        let places = self.iter_from((prefix, 0));
        places
            .take_while(move |(key, _)| key.0 == prefix)
            .map(|(_, entry)| entry)
    }

    /// The block of this address whose record lies at this offset.
    pub fn at(&self, id: &BlockId, offset: u64) -> Option<Entry> {
        self.candidates(id).find(|entry| entry.offset == offset)
    }

    /// Enters a block; two entries of one offset must not be.
    pub fn insert(&mut self, id: &BlockId, entry: Entry) {
        let place = Place::new(prefix(id), &entry);
        self.len += 1;
        let (mut chunk, mut at) = self.search(place.key());
        if self.chunks.is_empty() {
            self.add_chunk(0, vec![]);
        }
        if self.chunks[chunk].len() == CHUNK_MAX {
            // In ascending or descending order, as from a sorted list, chunks become full; otherwise both halves
            // have room.
            let is_ascending = at == CHUNK_MAX && chunk + 1 == self.chunks.len();
            let is_descending = at == 0 && chunk == 0;
            let is_in_order = is_ascending || is_descending;
            let middle = if is_in_order { at } else { CHUNK_MAX / 2 };
            let upper = self.chunks[chunk].split_off(middle);
            self.add_chunk(chunk + 1, upper);
            if !is_in_order {
                self.sums[chunk] = None;
            }
            if at > middle || is_ascending {
                chunk += 1;
                at -= middle;
            }
        }
        self.chunks[chunk].insert(at, place);
        self.firsts[chunk] = self.chunks[chunk][0].key();
        self.change_sum(chunk, place.prefix, u128::wrapping_add);
    }

    /// Enters a place after all others; false, and nothing is done, if it does not belong there.
    pub fn push(&mut self, prefix: u64, entry: &Entry) -> bool {
        let place = Place::new(prefix, entry);
        let last = self.chunks.last().and_then(|it| it.last());
        if last.is_some_and(|last| last.key() >= place.key()) {
            return false;
        }
        self.append(place);
        true
    }

    fn append(&mut self, place: Place) {
        if self.chunks.last().is_none_or(|it| it.len() == CHUNK_MAX) {
            self.add_chunk(self.chunks.len(), vec![]);
            *self.firsts.last_mut().expect("just added") = place.key();
        }
        self.chunks.last_mut().expect("there is one").push(place);
        *self.sums.last_mut().expect("one for each chunk") = None;
        self.len += 1;
    }

    /// Takes an entry out; false if it is not there.
    pub fn remove(&mut self, id: &BlockId, entry: &Entry) -> bool {
        let Some((chunk, at)) = self.find(prefix(id), entry) else {
            return false;
        };
        self.len -= 1;
        let place = self.chunks[chunk].remove(at);
        self.change_sum(chunk, place.prefix, u128::wrapping_sub);
        self.close_gap(chunk);
        true
    }

    /// Changes what is known of the block at this entry's offset; false if there is none.
    pub fn update(&mut self, id: &BlockId, entry: Entry) -> bool {
        self.update_at(prefix(id), entry)
    }

    /// The same by the first 8 bytes of the address.
    pub fn update_at(&mut self, prefix: u64, entry: Entry) -> bool {
        let Some((chunk, at)) = self.find(prefix, &entry) else {
            return false;
        };
        self.chunks[chunk][at] = Place::new(prefix, &entry);
        true
    }

    /// Goes through all places, in order of address, and keeps those that are given back. Linear.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry) -> Option<Entry>) {
        let old = std::mem::take(self);
        self.digest_key = old.digest_key;
        for place in old.chunks.into_iter().flatten() {
            if let Some(entry) = keep(place.unpack()) {
                self.append(Place::new(place.prefix, &entry));
            }
        }
    }

    /// The key at which the chunk begins that is so many after that of this key; `None` if there are no more.
    pub fn key_after(&self, key: Key, chunks: usize) -> Option<Key> {
        let (chunk, _) = self.search(key);
        self.firsts.get(chunk.saturating_add(chunks)).copied()
    }

    /// Takes these marks off all places between two keys, or to the end; and off some around them.
    pub fn clear_marks(&mut self, from: Key, until: Option<Key>, marks: u8) {
        let marks = u32::from(marks & 3) << MARKS_AT;
        let (first, _) = self.search((from.0, 0));
        let last = until.map_or(self.chunks.len(), |key| self.search((key.0, u64::MAX)).0);
        let chunks = self.chunks.iter_mut().take(last.saturating_add(1));
        for place in chunks.skip(first).flatten() {
            // Most have none, and need not be written.
            if place.rest & marks != 0 {
                place.rest &= !marks;
            }
        }
    }

    /// What the places in a cell come to by this key, which is always the same; `None` if the sums of some chunks are
    /// not known yet. Then some more are, as many places being hashed for that as there is `budget`; and beside that
    /// at most a chunk at each end.
    pub fn digest(&mut self, key: &DigestKey, cell: Cell, budget: &mut usize) -> Option<Digest> {
        self.digest_key.get_or_insert_with(|| key.clone());
        let sum = |places: &[Place]| {
            let hashes = places.iter().map(|it| key.hash(it.prefix));
            hashes.fold(0, u128::wrapping_add)
        };
        let (first, _) = self.search((cell.first(), 0));
        let mut digest = Digest::default();
        for chunk in first..self.chunks.len() {
            if self.firsts[chunk].0 > cell.last() {
                break;
            }
            let places = &self.chunks[chunk];
            let from = places.partition_point(|it| it.prefix < cell.first());
            let until = places.partition_point(|it| it.prefix <= cell.last());
            let len = until - from;
            let known = &mut self.sums[chunk];
            if len == places.len() && known.is_none() {
                *budget = budget.checked_sub(len)?;
                *known = Some(sum(places));
            }
            // At the ends the smaller part of a chunk is hashed.
            let sum = match *known {
                Some(all) if len > places.len() / 2 => {
                    let rest = [&places[..from], &places[until..]].map(sum);
                    all.wrapping_sub(rest[0]).wrapping_sub(rest[1])
                }
                _ => sum(&places[from..until]),
            };
            let count = len as u32;
            digest += Digest { count, sum };
        }
        Some(digest)
    }

    /// A place has come into a chunk, or has left it.
    fn change_sum(&mut self, chunk: usize, prefix: u64, change: fn(u128, u128) -> u128) {
        if let (Some(sum), Some(key)) = (self.sums[chunk], &self.digest_key) {
            self.sums[chunk] = Some(change(sum, key.hash(prefix)));
        }
    }

    /// The chunk to which a key belongs, and where in it; for the empty index 0 and 0.
    fn search(&self, key: Key) -> (usize, usize) {
        let after = self.firsts.partition_point(|first| *first <= key);
        let chunk = after.saturating_sub(1);
        let places = self.chunks.get(chunk).map_or(&[][..], |it| it);
        (chunk, places.partition_point(|it| it.key() < key))
    }

    /// Where the block at this entry's offset is.
    fn find(&self, prefix: u64, entry: &Entry) -> Option<(usize, usize)> {
        let key = Place::new(prefix, entry).key();
        let (chunk, at) = self.search(key);
        let place = self.chunks.get(chunk)?.get(at)?;
        (place.key() == key).then_some((chunk, at))
    }

    /// Adds a chunk with room for all that may come into it.
    fn add_chunk(&mut self, at: usize, mut places: Vec<Place>) {
        let first = places.first().map_or(FIRST_KEY, Place::key);
        places.reserve_exact(CHUNK_MAX - places.len());
        // Of an empty one it is known what it comes to.
        let sum = (places.is_empty() && self.digest_key.is_some()).then_some(0);
        self.chunks.insert(at, places);
        self.firsts.insert(at, first);
        self.sums.insert(at, sum);
    }

    /// After a removal: drops an empty chunk, and joins a small one with the next.
    fn close_gap(&mut self, chunk: usize) {
        let len = self.chunks[chunk].len();
        let next = self.chunks.get(chunk + 1).map(Vec::len);
        if len == 0 {
            self.chunks.remove(chunk);
            self.firsts.remove(chunk);
            self.sums.remove(chunk);
            return;
        }
        self.firsts[chunk] = self.chunks[chunk][0].key();
        if next.is_some_and(|next| len + next <= CHUNK_MAX / 2) {
            let next = self.chunks.remove(chunk + 1);
            self.firsts.remove(chunk + 1);
            self.chunks[chunk].extend(next);
            let sum = self.sums.remove(chunk + 1);
            let both = self.sums[chunk].zip(sum);
            self.sums[chunk] = both.map(|(one, other)| one.wrapping_add(other));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::limits::DIGEST_PLACES_PER_CALL;
    use crate::rng::Rng;
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn entry(n: u64) -> Entry {
        Entry {
            offset: 64 + n * 72,
            len: 1 + (n * 7919 % (1 << LEN_BITS)) as u32,
            kind: Kind::from_byte([1, 2, 3, 5, 6, 7][n as usize % 6]).unwrap(),
            checked: n.is_multiple_of(2),
            terms: Terms {
                expires: n as u32 % (1 << EXPIRES_BITS),
                hold: [Hold::Free, Hold::Leased, Hold::Kept][n as usize % 3],
            },
            marks: n as u8 % 4,
        }
    }

    #[test]
    fn every_entry_is_unpacked_as_it_was_packed() {
        let last = Entry {
            offset: PACK_SIZE_MAX - 8,
            len: 1 << LEN_BITS,
            ..entry(5)
        };
        for entry in (0..1000).map(entry).chain([last]) {
            assert_eq!(Place::new(7, &entry).unpack(), entry);
            let lasting = Entry {
                checked: false,
                marks: 0,
                terms: entry.terms.lasting(),
                ..entry
            };
            let mut bytes = encode_entry(7, &entry);
            assert_eq!(decode_entry(&bytes), Some((7, lasting)));
            bytes[15] |= 1;
            assert_eq!(decode_entry(&bytes), None, "a bit that is not kept");
        }
    }

    #[test]
    fn index_does_what_a_map_does() {
        for bits in [2, 6, 12, 64] {
            let mut rng = Rng::new([bits; 32]);
            let key = DigestKey::new(&[bits]);
            let mut index = Index::default();
            let mut map: BTreeMap<(u64, u64), (BlockId, Entry)> = BTreeMap::new();
            for n in 0..20_000u64 {
                // Few different prefixes, so that there are many with the same.
                let mut id = BlockId(rng.bytes());
                let few = u64::from_be_bytes(*id.0.first_chunk().unwrap()) >> (64 - bits);
                id.0[..8].copy_from_slice(&few.to_be_bytes());
                let grows = n % 8000 < 5000;
                if rng.below(4) < if grows { 3 } else { 1 } {
                    index.insert(&id, entry(n));
                    map.insert(
                        (few, Place::new(few, &entry(n)).packed & !1),
                        (id, entry(n)),
                    );
                } else if let Some((&key, _)) = map.range((few, 0)..).next() {
                    let (id, entry) = map.remove(&key).unwrap();
                    assert!(index.remove(&id, &entry));
                    assert!(!index.remove(&id, &entry));
                }
                assert_eq!(index.len(), map.len() as u64);
                if n % 16 == 0 {
                    let range = map.range((few, 0)..=(few, u64::MAX));
                    let expected: Vec<Entry> = range.map(|it| it.1 .1).collect();
                    assert_eq!(index.candidates(&id).collect::<Vec<_>>(), expected);
                }
                if n % 100 == 50 {
                    let cell = Cell::around(few, rng.below(65) as u8);
                    let within = map.keys().filter(|(place, _)| cell.contains(*place));
                    let each = within.map(|(place, _)| Digest {
                        count: 1,
                        sum: key.hash(*place),
                    });
                    let mut calls = 1;
                    while index.digest(&key, cell, &mut 1000).is_none() {
                        calls += 1;
                    }
                    let digest = index.digest(&key, cell, &mut 0);
                    assert_eq!(digest, Some(each.sum()));
                    assert!(calls <= 1 + map.len() / 700, "{calls} of {}", map.len());
                }
                if n % 1000 == 0 {
                    assert_eq!(index.sums.len(), index.chunks.len());
                    assert!(index.iter().eq(map.values().map(|it| it.1)));
                    assert!(index
                        .chunks
                        .iter()
                        .all(|it| !it.is_empty() && it.len() <= CHUNK_MAX));
                }
            }
            let offset = entry(10_000).offset;
            let before = index.len();
            let keep = |it: Entry| (it.offset < offset).then_some(Entry { marks: 3, ..it });
            index.retain(keep);
            map.retain(|_, it| it.1.offset < offset);
            map.values_mut().for_each(|it| it.1.marks = 3);
            assert!(index.len() < before);
            let sorted: Vec<_> = index.iter_from(FIRST_KEY).collect();
            let mut pushed = Index::default();
            assert!(sorted.iter().all(|(key, it)| pushed.push(key.0, it)));
            assert!(pushed.iter().eq(index.iter()) && pushed.len() == index.len());
            if let Some(&(key, it)) = sorted.first() {
                assert!(!pushed.push(key.0, &it), "not in order");
                let other = Entry { marks: 0, ..it };
                assert!(pushed.update_at(key.0, other) && pushed.iter().next() == Some(other));
                let mut next = Some(FIRST_KEY);
                while let Some(from) = next {
                    next = pushed.key_after(from, 2);
                    pushed.clear_marks(from, next, 3);
                }
                assert!(pushed.iter().all(|it| it.marks == 0));
            }
            assert!(index.iter().eq(map.values().map(|it| it.1)));
            assert_eq!(index.len(), map.len() as u64);
        }
    }

    /// What a call for the digests of 32 parts takes, as a rule: while sums are being found out, and when they are known.
    fn time_digests(index: &mut Index) -> [std::time::Duration; 2] {
        let key = DigestKey::new(b"secret");
        let mut call = |cell: Cell| {
            let mut budget = DIGEST_PLACES_PER_CALL;
            let begun = Instant::now();
            let digests = cell
                .parts(5)
                .map(|part| index.digest(&key, part, &mut budget));
            let is_known = std::hint::black_box(digests.collect::<Option<Vec<_>>>()).is_some();
            (is_known, begun.elapsed())
        };
        let mut unknown = Vec::new();
        while let (false, took) = call(Cell::WHOLE) {
            unknown.push(took);
        }
        let known = (0..10).map(|bits| call(Cell::around(0, bits)).1);
        [unknown, known.collect()].map(|mut times: Vec<_>| {
            times.sort_unstable();
            times[times.len() / 2]
        })
    }

    #[test]
    fn million_blocks_take_little_memory_whatever_their_order() {
        const COUNT: u64 = 1_000_000;
        // Random addresses; ascending and descending ones; and those that agree in their first 40 bits, which
        // is more than anybody can make a million of.
        type Make = fn(u64, &mut Rng) -> u64;
        let orders: [(&str, Make); 4] = [
            ("random", |_, rng| rng.next_u64()),
            ("ascending", |n, _| n << 40),
            ("descending", |n, _| (COUNT - n) << 40),
            ("ground", |_, rng| rng.next_u64() >> 40),
        ];
        for (name, make) in orders {
            let mut rng = Rng::new([9; 32]);
            let mut index = Index::default();
            let mut ids = Vec::new();
            let begun = Instant::now();
            for n in 0..COUNT {
                let mut id = BlockId([0; 32]);
                id.0[..8].copy_from_slice(&make(n, &mut rng).to_be_bytes());
                index.insert(&id, entry(n));
                ids.push(id);
            }
            let insertion = begun.elapsed() / COUNT as u32;
            let mut times: Vec<_> = (0..10_001)
                .map(|_| {
                    let id = ids[rng.below(COUNT) as usize];
                    let begun = Instant::now();
                    assert!(std::hint::black_box(index.candidates(&id).next()).is_some());
                    begun.elapsed()
                })
                .collect();
            times.sort_unstable();
            let digests = time_digests(&mut index);
            let bytes = index.memory() as f64 / COUNT as f64;
            let median = times[times.len() / 2];
            let verdict = |is_within| if is_within { "ok" } else { "over" };
            println!(
                "{name}: {bytes:.1} bytes a block, at most 32: {}; insertion {insertion:?}; lookup {median:?} at \
                 p50, {:?} at p99, at most 1 µs at p50: {}",
                verdict(bytes <= 32.0),
                times[times.len() * 99 / 100],
                verdict(median.as_nanos() <= 1000)
            );
            assert!(bytes <= 32.0, "{name}: {bytes} bytes a block");
            println!("{name}: digests of 32 parts, unknown and known: {digests:?}, at most 2 ms");
            // Many times what it takes, so that a busy machine does not fail it.
            assert!(
                digests.iter().all(|it| it.as_millis() < 50),
                "{name}: {digests:?}"
            );
            assert!(median.as_micros() < 20, "{name}: {median:?}");
        }
    }
}
