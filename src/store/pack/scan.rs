//! Finds the records in a pack's bytes, whatever has happened to them.
//!
//! A function of bytes, with no file in it; what is to be cut and reported is said in the result, and done by
//! the store. Called when a pack is opened.

use super::index::{Entry, Index};
use super::record::{
    charge, PackId, Record, ALIGN, FILE_HEADER_LEN, RECORD_HEADER_LEN, TYPE_BLOCK,
};
use crate::block::Kind;
use crate::id::BlockId;
use crate::limits::UNCOMMITTED_MAX;

/// What a pack holds.
pub(super) struct Scan {
    /// Every block that can be read, or could if its payload proves sound.
    pub index: Index,
    /// Sound records of all types, as far as they have been looked at.
    pub records: u64,
    /// Offset and length of each stretch that is damaged and followed by a sound record; in order.
    pub damaged: Vec<(u64, u64)>,
    /// Where the last sound record ends. What follows is a torn tail.
    pub tail: u64,
    /// Bytes of the allotment for everything below the tail.
    pub charged: u64,
}

/// Reads all headers of a pack, and the payloads of its last [`UNCOMMITTED_MAX`] bytes, since only there can a
/// crash have left headers without their payloads. Linear in the file's length at worst, when everything is
/// damaged; otherwise in the number of records.
pub(super) fn scan(pack: &[u8], id: &PackId) -> Scan {
    scan_verifying(pack, id, UNCOMMITTED_MAX)
}

fn scan_verifying(pack: &[u8], id: &PackId, verified_len: u64) -> Scan {
    let len = pack.len() as u64;
    let verified_from = len.saturating_sub(verified_len);
    let mut scan = Scan {
        index: Index::default(),
        records: 0,
        damaged: Vec::new(),
        tail: FILE_HEADER_LEN as u64,
        charged: FILE_HEADER_LEN as u64,
    };
    // Stretches after the tail: damage once a sound record follows, a torn tail otherwise.
    let mut doubtful: Vec<(u64, u64)> = Vec::new();
    let mut offset = FILE_HEADER_LEN as u64;
    while offset < len {
        let Some(record) = record_at(pack, id, offset) else {
            let Some(next) = next_record(pack, id, offset + ALIGN) else {
                break;
            };
            doubtful.push((offset, next - offset));
            offset = next;
            continue;
        };
        let end = offset + record.extent();
        let verify = end > verified_from;
        if verify && !is_payload_sound(pack, offset, &record) {
            doubtful.push((offset, record.extent()));
        } else {
            for stretch in doubtful.drain(..) {
                scan.charged += charge(stretch.1);
                scan.damaged.push(stretch);
            }
            scan.charged += charge(record.extent());
            scan.records += 1;
            scan.tail = end;
            scan.take_in(pack, id, offset, &record, verify);
        }
        offset = end;
    }
    scan.damaged.sort_unstable();
    scan
}

impl Scan {
    /// Enters a record in the index, if it is a block's. Of two records of one block the first sound one stands:
    /// there are two because the first was found damaged once, and the block was then stored again.
    fn take_in(&mut self, pack: &[u8], id: &PackId, offset: u64, record: &Record, checked: bool) {
        if record.kind_of_record != TYPE_BLOCK {
            return;
        }
        // A kind of the future: its space is charged, its block is not ours to serve.
        let Some(kind) = Kind::from_byte(record.block_kind) else {
            return;
        };
        let entry = Entry {
            offset,
            len: record.len,
            kind,
            checked,
        };
        let block = BlockId(record.address);
        let first = self
            .index
            .candidates(&block)
            .filter_map(|it| Some((it, record_at(pack, id, it.offset)?)))
            .find(|it| it.1.address == record.address);
        let Some((first, first_record)) = first else {
            return self.index.insert(&block, entry);
        };
        if first.checked {
            return;
        }
        if is_payload_sound(pack, first.offset, &first_record) {
            return self.index.set_checked(&block, &first);
        }
        self.damaged.push((first.offset, first_record.extent()));
        self.records -= 1;
        self.index.remove(&block, &first);
        self.index.insert(&block, entry);
    }
}

/// The record whose header lies at this offset, if it lies in the file whole, with payload and padding.
fn record_at(pack: &[u8], id: &PackId, offset: u64) -> Option<Record> {
    let bytes = pack.get(usize::try_from(offset).ok()?..)?;
    let record = Record::decode(bytes, id, offset)?;
    (record.extent() <= bytes.len() as u64).then_some(record)
}

/// Where the next record begins, at this offset or after it.
fn next_record(pack: &[u8], id: &PackId, from: u64) -> Option<u64> {
    let last = (pack.len() as u64).checked_sub(RECORD_HEADER_LEN as u64)?;
    (from..=last)
        .step_by(ALIGN as usize)
        .find(|&offset| record_at(pack, id, offset).is_some())
}

/// Whether the payload has its checksum; the record lies in the file whole.
fn is_payload_sound(pack: &[u8], offset: u64, record: &Record) -> bool {
    let start = offset as usize + RECORD_HEADER_LEN;
    crc32fast::hash(&pack[start..start + record.len as usize]) == record.payload_crc
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::record::{encode_file_header, extent};
    use super::*;
    use crate::block::{Block, Form, Role};

    const LEAF: Kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };

    fn id() -> PackId {
        PackId(std::array::from_fn(|i| (i * 7 + 3) as u8))
    }

    /// A pack of these payloads, and the offset of each record.
    fn pack(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = encode_file_header(&id()).to_vec();
        let mut offsets = Vec::new();
        for payload in payloads {
            let block = Block::new(LEAF, payload.clone()).unwrap();
            offsets.push(bytes.len() as u64);
            append(&mut bytes, &Record::of_block(&block, 9), payload);
        }
        (bytes, offsets)
    }

    fn append(pack: &mut Vec<u8>, record: &Record, payload: &[u8]) {
        let header = record.encode(&id(), pack.len() as u64);
        pack.extend_from_slice(&header);
        pack.extend_from_slice(payload);
        pack.resize(pack.len().next_multiple_of(8), 0);
    }

    fn ten() -> Vec<Vec<u8>> {
        (0..10u8)
            .map(|n| vec![n; 5 + 11 * usize::from(n)])
            .collect()
    }

    /// Where the block of this payload lies; no two have the same first 8 bytes here.
    fn entry(found: &Scan, payload: &[u8]) -> Option<Entry> {
        let id = Block::new(LEAF, payload.to_vec()).unwrap().id();
        found.index.candidates(&id).next()
    }

    #[test]
    fn every_truncation_leaves_exactly_the_records_before_it() {
        let payloads = ten();
        let (bytes, offsets) = pack(&payloads);
        for len in FILE_HEADER_LEN..=bytes.len() {
            let found = scan(&bytes[..len], &id());
            let whole = |i: usize| offsets[i] + extent(payloads[i].len() as u32) <= len as u64;
            let expected = (0..10).filter(|&i| whole(i)).count();
            assert_eq!(found.index.len(), expected as u64, "cut at {len}");
            assert_eq!(found.records, expected as u64);
            assert!(found.damaged.is_empty());
            let again = scan(&bytes[..found.tail as usize], &id());
            assert_eq!(again.tail, found.tail);
            assert!(again.index.iter().eq(found.index.iter()));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_costs_that_record_alone() {
        let payloads = ten();
        let (good, offsets) = pack(&payloads);
        let start = offsets[4] as usize;
        let extent_of_4 = extent(payloads[4].len() as u32);
        for bit in 0..(RECORD_HEADER_LEN + payloads[4].len()) * 8 {
            let mut bytes = good.clone();
            bytes[start + bit / 8] ^= 1 << (bit % 8);
            let found = scan(&bytes, &id());
            assert_eq!(found.damaged, [(offsets[4], extent_of_4)], "bit {bit}");
            assert_eq!(found.index.len(), 9);
            assert!(entry(&found, &payloads[4]).is_none());
            assert_eq!(found.tail, good.len() as u64, "nothing is cut");
            assert_eq!(found.charged, 64 + 10 * 4096);
        }
    }

    #[test]
    fn payload_that_imitates_records_yields_none() {
        let (other, _) = pack(&ten());
        // True records of this pack with true marks, out of their place; and ones with a guessed mark.
        let mut imitation = other[64..].to_vec();
        let mut guessed = encode_file_header(&PackId([0; 32]))[..8].to_vec();
        guessed.extend_from_slice(&other[72..]);
        imitation.extend_from_slice(&guessed);
        // A record for the very place at which it will lie, but of another pack.
        let block = Block::new(LEAF, b"forged".to_vec()).unwrap();
        let place = (other.len() + RECORD_HEADER_LEN + imitation.len()) as u64;
        imitation.extend_from_slice(&Record::of_block(&block, 9).encode(&PackId([5; 32]), place));
        imitation.extend_from_slice(b"forged\0\0");

        let mut payloads = ten();
        payloads.push(imitation);
        payloads.push(b"the last".to_vec());
        let (mut bytes, offsets) = pack(&payloads);
        bytes[offsets[10] as usize..][..RECORD_HEADER_LEN].fill(0);
        let found = scan(&bytes, &id());
        assert_eq!(found.damaged, [(offsets[10], offsets[11] - offsets[10])]);
        assert_eq!(found.index.len(), 11);
        for payload in ten().iter().chain([&b"the last".to_vec()]) {
            assert!(entry(&found, payload).is_some());
        }

        // As the torn tail, it is cut whole.
        let found = scan(&bytes[..offsets[11] as usize], &id());
        assert_eq!((found.tail, found.index.len()), (offsets[10], 10));
    }

    #[test]
    fn damage_at_the_end_is_cut_with_all_that_follows_it() {
        let payloads = ten();
        let (mut bytes, offsets) = pack(&payloads);
        bytes[offsets[7] as usize + 70] ^= 1;
        bytes[offsets[8] as usize] ^= 1;
        bytes[offsets[9] as usize + 70] ^= 1;
        let found = scan(&bytes, &id());
        assert_eq!((found.tail, found.records), (offsets[7], 7));
        assert!(found.damaged.is_empty());
    }

    #[test]
    fn payloads_before_the_last_bytes_are_left_to_be_checked_later() {
        let payloads = ten();
        let (mut bytes, offsets) = pack(&payloads);
        bytes[offsets[2] as usize + 64] ^= 1;
        let found = scan_verifying(&bytes, &id(), bytes.len() as u64 - offsets[5]);
        assert_eq!(found.index.len(), 10);
        for (i, payload) in payloads.iter().enumerate() {
            assert_eq!(entry(&found, payload).unwrap().checked, i >= 5, "{i}");
        }
    }

    #[test]
    fn first_sound_record_of_a_block_stands() {
        let payload = b"stored twice".to_vec();
        let payloads = vec![payload.clone(), b"other".to_vec(), payload.clone()];
        let (mut bytes, offsets) = pack(&payloads);
        let first = |bytes: &[u8]| {
            let found = scan_verifying(bytes, &id(), 0);
            assert_eq!(found.charged, 64 + 3 * 4096, "both are charged");
            (entry(&found, &payload).unwrap().offset, found.damaged)
        };
        assert_eq!(first(&bytes), (offsets[0], vec![]));
        bytes[offsets[0] as usize + 64] ^= 1;
        let damage = (offsets[0], offsets[1] - offsets[0]);
        assert_eq!(first(&bytes), (offsets[2], vec![damage]));
    }

    #[test]
    fn records_of_other_types_are_passed_over() {
        let (mut bytes, _) = pack(&ten());
        for (kind_of_record, block_kind) in [(2, 0), (255, 9), (TYPE_BLOCK, 200)] {
            let record = Record {
                kind_of_record,
                block_kind,
                len: 3,
                address: [kind_of_record; 32],
                stored: 0,
                payload_crc: crc32fast::hash(b"???"),
            };
            append(&mut bytes, &record, b"???");
        }
        let found = scan(&bytes, &id());
        assert_eq!((found.records, found.index.len()), (13, 10));
        assert_eq!(found.tail, bytes.len() as u64);
    }

    #[test]
    fn million_records_are_all_found_and_the_rate_is_told() {
        const COUNT: u64 = 1_000_000;
        let mut rng = crate::rng::Rng::new([3; 32]);
        let mut bytes = encode_file_header(&id()).to_vec();
        bytes.reserve(COUNT as usize * 72);
        for _ in 0..COUNT {
            let payload: [u8; 8] = rng.bytes();
            let record = Record {
                kind_of_record: TYPE_BLOCK,
                block_kind: LEAF.to_byte(),
                len: 8,
                address: rng.bytes(),
                stored: 0,
                payload_crc: crc32fast::hash(&payload),
            };
            append(&mut bytes, &record, &payload);
        }
        let begun = std::time::Instant::now();
        let found = scan(&bytes, &id());
        let took = begun.elapsed();
        println!("a full scan of {COUNT} records in memory: {took:?}");
        assert_eq!((found.records, found.index.len()), (COUNT, COUNT));
        assert_eq!(found.tail, bytes.len() as u64);
    }
}
