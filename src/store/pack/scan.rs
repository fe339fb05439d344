//! Finds the records in a pack, whatever has happened to them, and what they come to: from the start of the file,
//! or from where a checkpoint ends.
//!
//! It only reads; what is to be cut and reported is said in the result, and done by the store. Called when a pack
//! is opened.

use super::checkpoint::Checkpoint;
use super::disk::Disk;
use super::gaps::Gaps;
use super::index::{Entry, Index};
use super::note::{decode_gaps, decode_pin, decode_terms, push_stretch, Stretch, PIN_LEN};
use super::record::{
    extent, PackId, Record, ADDRESS_AT, ALIGN, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK,
    TYPE_GAPS, TYPE_PIN, TYPE_TERMS,
};
use super::terms::TermsNotes;
use super::window::{Found, Window};
use crate::block::Kind;
use crate::id::BlockId;
use crate::limits::UNCOMMITTED_MAX;
use crate::store::Terms;
use std::collections::BTreeMap;
use std::io;

/// A file that is pinned, and where that is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PinNote {
    /// Bytes of the file.
    pub len: u64,
    /// Of the note.
    pub offset: u64,
}

/// The last record of a pack: where it is, and the checksum of its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Last {
    /// 0 if there is none.
    pub offset: u64,
    /// Zero if there is none.
    pub crc: u32,
}

/// What a pack holds.
pub(super) struct Scan {
    /// Every block that can be read, or could if its payload proves sound.
    pub index: Index,
    /// What counts no more.
    pub gaps: Gaps,
    /// By the root.
    pub pins: BTreeMap<BlockId, PinNote>,
    /// Where notes on terms lie that may count.
    pub terms_notes: TermsNotes,
    /// Each stretch that is damaged and followed by a sound record, or cannot be read; in order.
    pub damaged: Vec<Stretch>,
    /// Where the last sound record ends. What follows is a torn tail.
    pub tail: u64,
    /// The last sound record.
    pub last: Last,
    /// Records that say again what another says that stands: to be noted as gaps.
    pub stale: Vec<Stretch>,
    /// Records that were read one by one.
    pub records: u64,
    /// Whether all could be read that was looked at.
    pub is_readable: bool,
}

/// Reads all headers after the checkpoint, all notes, and the payloads of the last [`UNCOMMITTED_MAX`] bytes, since
/// only there can a crash have left headers without their payloads. Linear in the file's length at worst, when
/// everything is damaged; otherwise in the number of records. An error if much of the file cannot be read.
pub(super) fn scan(
    disk: &dyn Disk,
    id: &PackId,
    len: u64,
    from: Option<Checkpoint>,
) -> io::Result<Scan> {
    scan_verifying(disk, id, len, from, UNCOMMITTED_MAX)
}

fn scan_verifying(
    disk: &dyn Disk,
    id: &PackId,
    len: u64,
    from: Option<Checkpoint>,
    verified_len: u64,
) -> io::Result<Scan> {
    let mut scanner = Scanner::new(Window::new(disk, id, len), from);
    let verified_from = len.saturating_sub(verified_len);
    let mut offset = scanner.scan.tail;
    // Stretches after the tail: damage once a sound record follows, a torn tail otherwise.
    let mut doubtful: Vec<Stretch> = Vec::new();
    while offset < len {
        let found = scanner.window.record(offset)?;
        let Found::Record(record) = found else {
            let was_readable = matches!(found, Found::Nothing);
            let (next, is_readable) = scanner.window.next_record(offset + ALIGN, len)?;
            let is_readable = was_readable && is_readable;
            let is_long = len - scanner.scan.tail > verified_len;
            if next.is_none() && (is_long || !is_readable) {
                // Nobody knows what lies there, or it is more than any crash has left: it is not to be cut.
                doubtful.push((offset, len.next_multiple_of(ALIGN)));
                scanner.scan.tail = len.next_multiple_of(ALIGN);
                scanner.scan.damaged.append(&mut doubtful);
            }
            let Some(next) = next else {
                break;
            };
            doubtful.push((offset, next));
            offset = next;
            continue;
        };
        let end = offset + record.extent();
        let verify = end > verified_from || record.kind_of_record != TYPE_BLOCK;
        let unreadable = scanner.window.unreadable();
        if verify && scanner.window.payload(offset, &record)?.is_none() {
            doubtful.push((offset, end));
            if scanner.window.unreadable() > unreadable {
                // Nobody knows what lies there: it is not to be cut, nor what is before it.
                scanner.scan.tail = end;
                scanner.scan.damaged.append(&mut doubtful);
            }
        } else {
            scanner.scan.damaged.append(&mut doubtful);
            scanner.scan.tail = end;
            scanner.take_in(offset, &record, verify)?;
        }
        offset = end;
    }
    scanner.settle()
}

/// A scan under way: the notes of a pack follow what they speak of, so they are applied at the end.
struct Scanner<'a> {
    window: Window<'a>,
    scan: Scan,
    /// What the notes say that were read one by one.
    new_gaps: Gaps,
    /// By the offset of the block's record; the last statement stands.
    new_terms: BTreeMap<u64, Terms>,
    /// Of several of one root the last that is in no gap stands: it was being moved, and perhaps that was given up.
    new_pins: Vec<(BlockId, PinNote)>,
    /// Blocks of which there may be several records.
    several: Vec<BlockId>,
}

impl<'a> Scanner<'a> {
    fn new(window: Window<'a>, from: Option<Checkpoint>) -> Scanner<'a> {
        let from = from.unwrap_or_default();
        let mut gaps = Gaps::default();
        for stretch in from.gaps {
            gaps.add(stretch);
        }
        Scanner {
            window,
            scan: Scan {
                index: from.index,
                gaps,
                pins: from.pins,
                terms_notes: from.terms_notes,
                damaged: from.damaged,
                tail: from.end.max(RECORDS_AT),
                last: from.last,
                stale: Vec::new(),
                records: 0,
                is_readable: true,
            },
            new_gaps: Gaps::default(),
            new_terms: BTreeMap::new(),
            new_pins: Vec::new(),
            several: Vec::new(),
        }
    }

    /// Enters a sound record; `checked` if its payload has been compared.
    fn take_in(&mut self, offset: u64, record: &Record, checked: bool) -> io::Result<()> {
        self.scan.records += 1;
        if let Some(header) = self.window.bytes(offset, RECORD_HEADER_LEN)? {
            let crc = header.last_chunk().expect("a header has 64 bytes");
            let crc = u32::from_be_bytes(*crc);
            self.scan.last = Last { offset, crc };
        }
        let id = BlockId(record.address);
        if record.kind_of_record == TYPE_BLOCK {
            // A kind of the future: its block is not ours to serve.
            let Some(kind) = Kind::from_byte(record.block_kind) else {
                return Ok(());
            };
            if self.scan.index.candidates(&id).next().is_some() {
                self.several.push(id);
            }
            let entry = Entry {
                offset,
                len: record.len,
                kind,
                checked,
                terms: record.terms,
                marks: 0,
            };
            self.scan.index.insert(&id, entry);
            return Ok(());
        }
        let Some(payload) = self.window.payload(offset, record)? else {
            return Ok(());
        };
        match record.kind_of_record {
            TYPE_GAPS => {
                for stretch in decode_gaps(payload, offset) {
                    self.new_gaps.add(stretch);
                }
            }
            TYPE_TERMS => {
                self.new_terms.extend(decode_terms(payload, offset));
                let end = offset + record.extent();
                self.scan.terms_notes.push((offset, end));
            }
            TYPE_PIN => {
                if let Some(len) = decode_pin(payload) {
                    self.new_pins.push((id, PinNote { len, offset }));
                }
            }
            // Of the future.
            _ => {}
        }
        Ok(())
    }

    /// Applies the notes.
    fn settle(mut self) -> io::Result<Scan> {
        for stretch in self.new_gaps.iter() {
            self.scan.gaps.add(stretch);
            self.scan.terms_notes.remove_within(stretch);
        }
        let (gaps, terms) = (&self.new_gaps, &self.new_terms);
        if gaps.len() > 0 || !terms.is_empty() {
            self.scan.index.retain(|entry| {
                let terms = terms.get(&entry.offset).copied();
                let terms = terms.unwrap_or(entry.terms);
                let is_gone = gaps.around(entry.offset).is_some();
                (!is_gone).then_some(Entry { terms, ..entry })
            });
        }
        let pins = &mut self.scan.pins;
        pins.retain(|_, pin| gaps.around(pin.offset).is_none());
        let new_pins = std::mem::take(&mut self.new_pins).into_iter();
        for (root, pin) in new_pins.filter(|(_, pin)| gaps.around(pin.offset).is_none()) {
            if let Some(old) = pins.insert(root, pin) {
                let end = old.offset + extent(PIN_LEN);
                self.scan.stale.push((old.offset, end));
            }
        }
        self.several.sort_unstable();
        self.several.dedup();
        for id in std::mem::take(&mut self.several) {
            self.choose(&id)?;
        }
        let gaps = &self.scan.gaps;
        self.scan.stale.retain(|it| gaps.around(it.0).is_none());
        self.scan.is_readable = self.window.unreadable() == 0;
        let damaged = std::mem::take(&mut self.scan.damaged);
        for stretch in damaged {
            without_gaps(stretch, &self.scan.gaps, &mut self.scan.damaged);
        }
        self.scan.damaged.sort_unstable();
        Ok(self.scan)
    }

    /// Of several records of one block the first sound one stands. There are several because the first was found
    /// damaged once, and the block was then stored again; or because it was being moved.
    fn choose(&mut self, id: &BlockId) -> io::Result<()> {
        let mut candidates: Vec<Entry> = self.scan.index.candidates(id).collect();
        candidates.sort_by_key(|entry| entry.offset);
        let mut chosen = false;
        for entry in candidates {
            let address = self.window.bytes(entry.offset + ADDRESS_AT, 32)?;
            if address != Some(&id.0) {
                continue;
            }
            let end = entry.offset + extent(entry.len);
            if chosen {
                self.scan.index.remove(id, &entry);
                self.scan.stale.push((entry.offset, end));
                continue;
            }
            let is_sound = entry.checked || self.is_sound(&entry)?;
            if is_sound {
                chosen = true;
                let checked = true;
                self.scan.index.update(id, Entry { checked, ..entry });
            } else {
                self.scan.index.remove(id, &entry);
                self.scan.damaged.push((entry.offset, end));
            }
        }
        Ok(())
    }

    fn is_sound(&mut self, entry: &Entry) -> io::Result<bool> {
        match self.window.record(entry.offset)? {
            Found::Record(record) => Ok(self.window.payload(entry.offset, &record)?.is_some()),
            _ => Ok(false),
        }
    }
}

/// Adds to a list what of a stretch is in no gap.
fn without_gaps((mut start, end): Stretch, gaps: &Gaps, list: &mut Vec<Stretch>) {
    while start < end {
        if let Some((_, after)) = gaps.around(start) {
            start = after;
            continue;
        }
        let next = gaps.iter_from(start).next();
        let until = next.map_or(end, |(next, _)| next.min(end));
        push_stretch(list, (start, until));
        start = until;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::note::{encode_gaps, encode_pin};
    use super::super::record::{encode_file_header, file_start};
    use super::super::tests::recorded::{Image, Recorded};
    use super::*;
    use crate::block::{Block, Form, Role};
    use std::rc::Rc;

    const LEAF: Kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };

    fn id() -> PackId {
        PackId(std::array::from_fn(|i| (i * 7 + 3) as u8))
    }

    fn scan(pack: &[u8], id: &PackId) -> Scan {
        scan_last(pack, id, UNCOMMITTED_MAX)
    }

    /// Verifies only so many bytes at the end.
    fn scan_last(pack: &[u8], id: &PackId, verified_len: u64) -> Scan {
        let disk = Recorded::new(&Image::of(pack), &Rc::default());
        scan_verifying(&disk, id, pack.len() as u64, None, verified_len).unwrap()
    }

    /// A pack of these payloads, and the offset of each record.
    fn pack(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = file_start(&id());
        let mut offsets = Vec::new();
        for payload in payloads {
            let block = Block::new(LEAF, payload.clone()).unwrap();
            offsets.push(bytes.len() as u64);
            append(
                &mut bytes,
                &Record::of_block(&block, Terms::default(), 9),
                payload,
            );
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
        for len in RECORDS_AT as usize..=bytes.len() {
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
    fn more_than_a_crash_can_leave_is_not_cut() {
        let (mut bytes, offsets) = pack(&ten());
        let (len, from) = (bytes.len() as u64, offsets[4]);
        bytes[from as usize..].fill(0xa5);
        let found = scan_last(&bytes, &id(), len - from);
        assert_eq!((found.tail, found.damaged), (from, vec![]), "a torn tail");
        let found = scan_last(&bytes, &id(), len - from - 1);
        assert_eq!((found.tail, found.damaged), (len, vec![(from, len)]));
        assert_eq!(found.index.len(), 4);
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
            let damage = (offsets[4], offsets[4] + extent_of_4);
            assert_eq!(found.damaged, [damage], "bit {bit}");
            assert_eq!(found.index.len(), 9);
            assert!(entry(&found, &payloads[4]).is_none());
            assert_eq!(found.tail, good.len() as u64, "nothing is cut");
        }
    }

    #[test]
    fn payload_that_imitates_records_yields_none() {
        let (other, _) = pack(&ten());
        // True records of this pack with true marks, out of their place; and ones with a guessed mark.
        let mut imitation = other[RECORDS_AT as usize..].to_vec();
        let mut guessed = encode_file_header(&PackId([0; 32]))[..8].to_vec();
        guessed.extend_from_slice(&other[RECORDS_AT as usize + 8..]);
        imitation.extend_from_slice(&guessed);
        // A record for the very place at which it will lie, but of another pack.
        let block = Block::new(LEAF, b"forged".to_vec()).unwrap();
        let place = (other.len() + RECORD_HEADER_LEN + imitation.len()) as u64;
        imitation.extend_from_slice(
            &Record::of_block(&block, Terms::default(), 9).encode(&PackId([5; 32]), place),
        );
        imitation.extend_from_slice(b"forged\0\0");

        let mut payloads = ten();
        payloads.push(imitation);
        payloads.push(b"the last".to_vec());
        let (mut bytes, offsets) = pack(&payloads);
        bytes[offsets[10] as usize..][..RECORD_HEADER_LEN].fill(0);
        let found = scan(&bytes, &id());
        assert_eq!(found.damaged, [(offsets[10], offsets[11])]);
        assert_eq!(found.index.len(), 11);
        for payload in ten().iter().chain([&b"the last".to_vec()]) {
            assert!(entry(&found, payload).is_some());
        }

        // As the torn tail, it is cut whole.
        let found = scan(&bytes[..offsets[11] as usize], &id());
        assert_eq!((found.tail, found.index.len()), (offsets[10], 10));
    }

    /// Records as somebody could make them who knows where they will lie, and what a record looks like, but not the
    /// id of the pack: with its mark, for every place, and with the checksums of another id.
    fn crafted(start: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in 0..24u8 {
            let payload = vec![n; 24 + usize::from(n) * 8];
            let block = Block::new(LEAF, payload.clone()).unwrap();
            let record = Record::of_block(&block, Terms::default(), 9);
            let place = start + bytes.len() as u64;
            let mut header = record.encode(&PackId([n; 32]), place);
            // Every other one with the true mark, which whoever has read a pack knows.
            if n % 2 == 0 {
                header[..8].copy_from_slice(&record.encode(&id(), place)[..8]);
            }
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&payload);
        }
        bytes
    }

    /// A pack with a payload between others that is made of records; the payloads, and where their records lie.
    fn pack_with_crafted() -> (Vec<u8>, Vec<Vec<u8>>, Vec<u64>) {
        let mut payloads = ten();
        let before: u64 = payloads.iter().map(|it| extent(it.len() as u32)).sum();
        payloads.push(crafted(RECORDS_AT + before + RECORD_HEADER_LEN as u64));
        payloads.extend((20..24u8).map(|n| vec![n; 700]));
        let (bytes, offsets) = pack(&payloads);
        (bytes, payloads, offsets)
    }

    /// Only what was put is found, each where it was put, whether payloads are compared or not.
    fn expect_only_whats_put(bytes: &[u8], payloads: &[Vec<u8>], offsets: &[u64], context: &str) {
        for verified_len in [0, UNCOMMITTED_MAX] {
            let found = scan_last(bytes, &id(), verified_len);
            let mut count = 0;
            for (payload, offset) in payloads.iter().zip(offsets) {
                if let Some(entry) = entry(&found, payload) {
                    assert_eq!(entry.offset, *offset, "{context}");
                    count += 1;
                }
            }
            assert_eq!(found.index.len(), count, "{context}");
            assert!(found.pins.is_empty() && found.gaps.len() == 0, "{context}");
        }
    }

    #[test]
    fn no_flipped_bit_lets_records_out_of_a_payload() {
        let (good, payloads, offsets) = pack_with_crafted();
        let start = offsets[10] as usize;
        // With what comes first in the payload, where the search for the next record begins.
        for bit in 0..2 * RECORD_HEADER_LEN * 8 {
            let mut bytes = good.clone();
            bytes[start + bit / 8] ^= 1 << (bit % 8);
            expect_only_whats_put(&bytes, &payloads, &offsets, &format!("bit {bit}"));
            let found = scan(&bytes, &id());
            assert_eq!(found.index.len(), 14, "bit {bit}");
            assert_eq!(found.damaged, [(offsets[10], offsets[11])], "bit {bit}");
            // As a torn tail, too.
            bytes.truncate(offsets[11] as usize);
            expect_only_whats_put(&bytes, &payloads, &offsets, &format!("bit {bit}, torn"));
            assert_eq!(scan(&bytes, &id()).tail, offsets[10], "bit {bit}");
        }
    }

    #[test]
    fn no_bad_sector_lets_records_out_of_a_payload() {
        const SECTOR: usize = 512;
        let (good, payloads, offsets) = pack_with_crafted();
        let first = offsets[9] as usize / SECTOR;
        let after = (offsets[12] as usize).div_ceil(SECTOR);
        assert!(after - first > 8);
        let all = |n: usize| n * SECTOR..((n + 1) * SECTOR).min(good.len());
        for n in first..after {
            let mut zero = good.clone();
            zero[all(n)].fill(0);
            let context = format!("sector {n} is zero");
            expect_only_whats_put(&zero, &payloads, &offsets, &context);
            zero.truncate(all(n).end);
            expect_only_whats_put(&zero, &payloads, &offsets, &format!("{context}, torn"));
            for m in (first..after).filter(|&m| m != n) {
                let mut bytes = good.clone();
                let len = all(n).len().min(all(m).len());
                let (to, from) = (all(n).start, all(m).start);
                bytes[to..to + len].copy_from_slice(&good[from..from + len]);
                let context = format!("sector {n} is {m}");
                expect_only_whats_put(&bytes, &payloads, &offsets, &context);
                bytes[from..from + len].copy_from_slice(&good[to..to + len]);
                let context = format!("sectors {n} and {m} are swapped");
                expect_only_whats_put(&bytes, &payloads, &offsets, &context);
            }
        }
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
        let found = scan_last(&bytes, &id(), bytes.len() as u64 - offsets[5]);
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
            let found = scan_last(bytes, &id(), 0);
            (entry(&found, &payload).unwrap().offset, found.damaged)
        };
        assert_eq!(first(&bytes), (offsets[0], vec![]));
        bytes[offsets[0] as usize + 64] ^= 1;
        let damage = (offsets[0], offsets[1]);
        assert_eq!(first(&bytes), (offsets[2], vec![damage]));
    }

    #[test]
    fn pin_whose_copy_was_given_up_stands_where_it_was() {
        let root = BlockId([6; 32]);
        let note = |pack: &mut Vec<u8>, kind_of_record: u8, payload: &[u8]| -> Stretch {
            let start = pack.len() as u64;
            append(
                pack,
                &Record::of_note(kind_of_record, root, payload, 0),
                payload,
            );
            (start, pack.len() as u64)
        };
        let (mut bytes, _) = pack(&ten());
        let first = note(&mut bytes, TYPE_PIN, &encode_pin(7));
        let copy = note(&mut bytes, TYPE_PIN, &encode_pin(7));
        let found = scan(&bytes, &id());
        assert_eq!(
            (found.pins[&root].offset, found.stale),
            (copy.0, vec![first])
        );
        // The one that is left, whichever it is.
        for (gap, left) in [(first, copy), (copy, first)] {
            let mut bytes = bytes.clone();
            note(&mut bytes, TYPE_GAPS, &encode_gaps([gap].into_iter()));
            let found = scan(&bytes, &id());
            assert_eq!((found.pins[&root].offset, found.stale), (left.0, vec![]));
            note(&mut bytes, TYPE_GAPS, &encode_gaps([left].into_iter()));
            assert!(scan(&bytes, &id()).pins.is_empty(), "removed");
        }
    }

    #[test]
    fn records_of_other_types_are_passed_over() {
        let (mut bytes, _) = pack(&ten());
        for (kind_of_record, block_kind) in [(5, 0), (255, 9), (TYPE_BLOCK, 200)] {
            let record = Record {
                block_kind,
                ..Record::of_note(kind_of_record, BlockId([kind_of_record; 32]), b"???", 0)
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
        let mut bytes = file_start(&id());
        bytes.reserve(COUNT as usize * 72);
        for _ in 0..COUNT {
            let payload: [u8; 8] = rng.bytes();
            let record = Record {
                block_kind: LEAF.to_byte(),
                ..Record::of_note(TYPE_BLOCK, BlockId(rng.bytes()), &payload, 0)
            };
            append(&mut bytes, &record, &payload);
        }
        let disk = Recorded::new(&Image::of(&bytes), &Rc::default());
        let begun = std::time::Instant::now();
        let len = bytes.len() as u64;
        let found = super::scan(&disk, &id(), len, None).unwrap();
        let took = begun.elapsed();
        println!("a full scan of {COUNT} records in memory: {took:?}");
        assert_eq!((found.records, found.index.len()), (COUNT, COUNT));
        assert_eq!(found.tail, bytes.len() as u64);
    }
}
