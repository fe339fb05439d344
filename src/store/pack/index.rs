//! Where each block lies: a list of places in the order of the blocks' addresses, in memory.
//!
//! A place is 16 bytes: the first 8 of the address, then offset, length and kind packed into 8 more. The rest of
//! the address is in the record's header, which whoever looks a block up compares in the map; so an address may
//! have several candidates. The first 64 bits of two addresses agree after some 2^32 hashes, of four after some
//! 2^48: whoever grinds for it gains one more comparison for each.
//!
//! The places lie in sorted chunks, and the chunks' first places in a list of their own: two binary searches find
//! a place, and an insertion moves half a chunk. That is a B-tree of two levels. A million random addresses take
//! 23 bytes each (the nodes of the standard library's tree, two thirds full, come to about 31); there is no hash to
//! be ground against, and it can be walked by region. Beyond some 100 million blocks it would want a third level.

use crate::block::Kind;
use crate::id::BlockId;

/// Bytes of a pack at most: what a place has bits for.
pub(super) const PACK_SIZE_MAX: u64 = 1 << (OFFSET_BITS + 3);

/// Places in a chunk at most: 4 KiB, of which an insertion moves half.
const CHUNK_MAX: usize = 256;

const OFFSET_BITS: u32 = 42;
const LEN_BITS: u32 = 18;
const KIND_BITS: u32 = 3;

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
}

impl Entry {
    fn pack(&self) -> u64 {
        debug_assert!(self.offset < PACK_SIZE_MAX && self.offset.is_multiple_of(8));
        let mut packed = self.offset / 8;
        packed = packed << LEN_BITS | u64::from(self.len - 1);
        packed = packed << KIND_BITS | u64::from(self.kind.to_byte());
        packed << 1 | u64::from(self.checked)
    }

    fn unpack(packed: u64) -> Entry {
        let kind = (packed >> 1) as u8 & ((1 << KIND_BITS) - 1);
        let len = (packed >> (1 + KIND_BITS)) as u32 & ((1 << LEN_BITS) - 1);
        Entry {
            offset: (packed >> (1 + KIND_BITS + LEN_BITS)) * 8,
            len: len + 1,
            kind: Kind::from_byte(kind).expect("a kind was packed"),
            checked: packed & 1 == 1,
        }
    }
}

/// The first 8 bytes of an address, and an [`Entry`] packed.
type Place = (u64, u64);

fn prefix(id: &BlockId) -> u64 {
    u64::from_be_bytes(*id.0.first_chunk().expect("an address has 32 bytes"))
}

/// All places, ordered by address as far as its first 8 bytes tell.
#[derive(Default)]
pub(super) struct Index {
    /// The first place of each chunk. Invariant: as many as chunks, in ascending order.
    firsts: Vec<Place>,
    /// Invariant: none is empty or has more than [`CHUNK_MAX`]; each is sorted.
    chunks: Vec<Vec<Place>>,
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
        let lists = self.firsts.capacity() * size_of::<Place>()
            + self.chunks.capacity() * size_of::<Vec<Place>>();
        let places = self.chunks.iter().map(Vec::capacity).sum::<usize>();
        lists + places * size_of::<Place>()
    }

    /// Every place, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        let places = self.chunks.iter().flatten();
        places.map(|place| Entry::unpack(place.1))
    }

    /// The places at which a block of this address may lie, of which at most one header has it whole, but for
    /// damage: then the block may have been stored again.
    pub fn candidates(&self, id: &BlockId) -> impl Iterator<Item = Entry> + '_ {
        let prefix = prefix(id);
        let (chunk, at) = self.search((prefix, 0));
        let here = self.chunks.get(chunk).map_or(&[][..], |it| &it[at..]);
        let later = self.chunks.iter().skip(chunk + 1).flatten();
        here.iter()
            .chain(later)
            .take_while(move |place| place.0 == prefix)
            .map(|place| Entry::unpack(place.1))
    }

    /// Enters a block; two entries of one offset must not be.
    pub fn insert(&mut self, id: &BlockId, entry: Entry) {
        let place = (prefix(id), entry.pack());
        self.len += 1;
        let (mut chunk, mut at) = self.search(place);
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
            if at > middle || is_ascending {
                chunk += 1;
                at -= middle;
            }
        }
        self.chunks[chunk].insert(at, place);
        self.firsts[chunk] = self.chunks[chunk][0];
    }

    /// Takes an entry out; false if it is not there.
    pub fn remove(&mut self, id: &BlockId, entry: &Entry) -> bool {
        let place = (prefix(id), entry.pack());
        let (chunk, at) = self.search(place);
        if self.chunks.get(chunk).and_then(|it| it.get(at)) != Some(&place) {
            return false;
        }
        self.len -= 1;
        self.chunks[chunk].remove(at);
        self.close_gap(chunk);
        true
    }

    /// Notes that the payload's checksum has been compared.
    pub fn set_checked(&mut self, id: &BlockId, entry: &Entry) {
        if self.remove(id, entry) {
            let checked = true;
            self.insert(id, Entry { checked, ..*entry });
        }
    }

    /// Takes out all entries that begin at this offset or after it, and returns them. Linear.
    pub fn split_off(&mut self, offset: u64) -> Vec<Entry> {
        let old = std::mem::take(self);
        let mut removed = Vec::new();
        for place in old.chunks.into_iter().flatten() {
            let entry = Entry::unpack(place.1);
            if entry.offset >= offset {
                removed.push(entry);
                continue;
            }
            if self.chunks.last().is_none_or(|it| it.len() == CHUNK_MAX) {
                self.add_chunk(self.chunks.len(), vec![]);
                *self.firsts.last_mut().expect("just added") = place;
            }
            self.chunks.last_mut().expect("there is one").push(place);
            self.len += 1;
        }
        removed
    }

    /// The chunk to which a place belongs, and where in it; for the empty index 0 and 0.
    fn search(&self, place: Place) -> (usize, usize) {
        let after = self.firsts.partition_point(|first| *first <= place);
        let chunk = after.saturating_sub(1);
        let places = self.chunks.get(chunk).map_or(&[][..], |it| it);
        (chunk, places.partition_point(|it| *it < place))
    }

    /// Adds a chunk with room for all that may come into it.
    fn add_chunk(&mut self, at: usize, mut places: Vec<Place>) {
        let first = places.first().copied().unwrap_or_default();
        places.reserve_exact(CHUNK_MAX - places.len());
        self.chunks.insert(at, places);
        self.firsts.insert(at, first);
    }

    /// After a removal: drops an empty chunk, and joins a small one with the next.
    fn close_gap(&mut self, chunk: usize) {
        let len = self.chunks[chunk].len();
        let next = self.chunks.get(chunk + 1).map(Vec::len);
        if len == 0 {
            self.chunks.remove(chunk);
            self.firsts.remove(chunk);
            return;
        }
        self.firsts[chunk] = self.chunks[chunk][0];
        if next.is_some_and(|next| len + next <= CHUNK_MAX / 2) {
            let next = self.chunks.remove(chunk + 1);
            self.firsts.remove(chunk + 1);
            self.chunks[chunk].extend(next);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn entry(n: u64) -> Entry {
        Entry {
            offset: 64 + n * 72,
            len: 1 + (n * 7919 % (1 << LEN_BITS)) as u32,
            kind: Kind::from_byte([1, 2, 3, 5, 6, 7][n as usize % 6]).unwrap(),
            checked: n.is_multiple_of(2),
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
            assert_eq!(Entry::unpack(entry.pack()), entry);
        }
    }

    #[test]
    fn index_does_what_a_map_does() {
        for bits in [2, 6, 12, 64] {
            let mut rng = Rng::new([bits; 32]);
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
                    map.insert((few, entry(n).pack()), (id, entry(n)));
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
                if n % 1000 == 0 {
                    assert!(index.iter().eq(map.values().map(|it| it.1)));
                    assert!(index
                        .chunks
                        .iter()
                        .all(|it| !it.is_empty() && it.len() <= CHUNK_MAX));
                }
            }
            let offset = entry(10_000).offset;
            let removed = index.split_off(offset).len() as u64;
            map.retain(|_, it| it.1.offset < offset);
            assert!(removed > 0);
            assert!(index.iter().eq(map.values().map(|it| it.1)));
            assert_eq!(index.len(), map.len() as u64);
        }
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
            let bytes = index.memory() as f64 / COUNT as f64;
            let median = times[times.len() / 2];
            println!("{name}: {bytes:.1} bytes a block, insertion {insertion:?}, lookup {median:?} (p50)");
            assert!(bytes <= 32.0, "{name}: {bytes} bytes a block");
            // Many times what it takes, so that a busy machine does not fail it.
            assert!(median.as_micros() < 20, "{name}: {median:?}");
        }
    }
}
