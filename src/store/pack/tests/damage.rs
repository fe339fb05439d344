//! Packs and checkpoints that are cut at every byte, have any bit flipped, or sectors that are zero, swapped,
//! doubled or of an earlier time: what was not touched is there, and nothing else appears.

use super::super::gaps::{Gaps, PAGE};
use super::super::note::{decode_gaps, Stretch};
use super::super::record::{
    Record, FILE_HEADERS_AT, FILE_HEADER_LEN, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK, TYPE_GAPS,
    TYPE_PIN,
};
use super::super::{record::PackId, PackStore};
use super::crash::{contents, open_recorded};
use super::recorded::{Image, Log, Recorded, Wreck};
use super::{allot, block};
use crate::block::Block;
use crate::id::BlockId;
use crate::store::{Hold, Pin, Store, StoreError, Terms};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::rc::Rc;

const SECTOR: usize = 512;

/// A pack with everything in it, two checkpoints, and what it was earlier.
struct Sample {
    image: Image,
    put: BTreeMap<BlockId, Block>,
    /// Every record, with where it lies.
    records: Vec<(Stretch, Record)>,
    /// The same files at some earlier times.
    earlier: Vec<Image>,
}

fn seen(log: &Rc<RefCell<Log>>) -> Image {
    Wreck::new(&Image::default(), &log.borrow().ops).as_seen()
}

fn sample(id: [u8; 32]) -> Sample {
    let log: Rc<RefCell<Log>> = Rc::default();
    let disk = Box::new(Recorded::new(&Image::default(), &log));
    let mut store = PackStore::open_on(disk, allot(1 << 30), id).expect("it is made");
    store.background.checkpoint_after = u64::MAX;
    store.background.move_after = Some(u64::MAX);
    let blocks: Vec<Block> = (0..10u8)
        .map(|n| block(&vec![n; 30 + 173 * usize::from(n)]))
        .collect();
    let mut earlier = Vec::new();
    let mut step = |store: &mut PackStore, has_checkpoint: bool| {
        store.begin_commit().expect("the disk is sound");
        if has_checkpoint {
            store.background.checkpoint_after = 1;
        }
        while store.has_work() {
            store.work();
        }
        store.background.checkpoint_after = u64::MAX;
        earlier.push(seen(&log));
    };
    let put = |store: &mut PackStore, blocks: &[Block]| {
        for block in blocks {
            let terms = Terms {
                expires: 7,
                hold: Hold::Kept,
            };
            store.put(block, terms).expect("there is room");
        }
    };
    put(&mut store, &blocks[..4]);
    step(&mut store, false);
    let root = blocks[2].id();
    store
        .add_pin(Pin { root, len: 9 })
        .expect("the disk is sound");
    store.remove(&blocks[1].id()).expect("the disk is sound");
    step(&mut store, true);
    put(&mut store, &blocks[4..8]);
    store.keep_until(&blocks[0].id(), 99);
    store.remove(&blocks[6].id()).expect("the disk is sound");
    step(&mut store, true);
    put(&mut store, &blocks[8..]);
    store.remove(&blocks[8].id()).expect("the disk is sound");
    let root = blocks[4].id();
    store
        .add_pin(Pin { root, len: 8 })
        .expect("the disk is sound");
    step(&mut store, false);
    let image = seen(&log);
    assert!(image.sides.iter().all(|side| !side.is_empty()));
    let mut records = Vec::new();
    let mut offset = RECORDS_AT;
    while let Some(bytes) = image
        .pack
        .get(offset as usize..offset as usize + RECORD_HEADER_LEN)
    {
        // Of some only a hole is left.
        if let Some((_, end)) = store.gaps.around(offset) {
            offset = end;
            continue;
        }
        let record = Record::decode(bytes, &PackId(id), offset).expect("a record");
        records.push(((offset, offset + record.extent()), record));
        offset += record.extent();
    }
    assert_eq!(offset, image.pack.len() as u64);
    assert!(records.len() > 10);
    Sample {
        image,
        put: blocks
            .into_iter()
            .map(|block| (block.id(), block))
            .collect(),
        records,
        earlier,
    }
}

/// The blocks that the store gives, each compared.
fn served(store: &mut PackStore, put: &BTreeMap<BlockId, Block>) -> BTreeSet<BlockId> {
    let given = put.iter().filter(|(id, block)| {
        let is_given = store.check(id).is_some();
        assert!(!is_given || store.payload(id) == Some(block.payload()));
        is_given
    });
    given.map(|(id, _)| *id).collect()
}

impl Sample {
    /// Opens the files with damage in the pack, and compares what is there with what was not touched.
    fn check(&self, image: &Image, context: &str) {
        for image in [image, &Image::of(&image.pack)] {
            self.check_one(image, context);
        }
    }

    fn check_one(&self, image: &Image, context: &str) {
        let is_touched = |stretch: &Stretch| {
            let range = stretch.0 as usize..stretch.1 as usize;
            image.pack.get(range.clone()) != Some(&self.image.pack[range])
        };
        let mut headers = FILE_HEADERS_AT.into_iter();
        let are_lost = headers.all(|at| is_touched(&(at, at + FILE_HEADER_LEN as u64)));
        let log: Rc<RefCell<Log>> = Rc::default();
        let disk = Box::new(Recorded::new(image, &log));
        let mut store = match PackStore::open_on(disk, allot(1 << 30), [9; 32]) {
            Ok(store) => store,
            Err(StoreError::Io(_, error)) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{context}");
                assert!(are_lost || context.contains("of another"), "{context}");
                return;
            }
            Err(error) => panic!("{context}: {error}"),
        };
        if are_lost {
            // Only what never held a record is made anew.
            assert!(image.pack.len() as u64 <= RECORDS_AT, "{context}");
            return;
        }
        let found = served(&mut store, &self.put);
        let pins: BTreeSet<BlockId> = store.pins().iter().map(|pin| pin.root).collect();
        // What counts no more, as far as that is still said.
        let mut gaps = Gaps::default();
        for (stretch, record) in &self.records {
            if record.kind_of_record == TYPE_GAPS && !is_touched(stretch) {
                let payload = stretch.0 as usize + RECORD_HEADER_LEN;
                let payload = &self.image.pack[payload..payload + record.len as usize];
                decode_gaps(payload, stretch.0).for_each(|gap| gaps.add(gap));
            }
        }
        let mut intact_end = RECORDS_AT;
        for (stretch, record) in &self.records {
            if is_touched(stretch) {
                continue;
            }
            intact_end = intact_end.max(stretch.1);
            let id = BlockId(record.address);
            match record.kind_of_record {
                TYPE_BLOCK => assert!(found.contains(&id), "{context}: {id} was not touched"),
                TYPE_PIN => assert!(pins.contains(&id), "{context}: its note was not touched"),
                _ => {}
            }
        }
        for id in &found {
            let entry = store.find(id).expect("held");
            assert!(
                gaps.around(entry.offset).is_none(),
                "{context}: {id} had gone"
            );
        }
        let damage = self.records.iter();
        // Not what is behind a payload, up to the next multiple of 8.
        let is_damaged = |(start, _): &Stretch, record: &Record| {
            let end = start + RECORD_HEADER_LEN as u64 + u64::from(record.len);
            end < intact_end && is_touched(&(*start, end))
        };
        let damage = damage.filter(|(stretch, record)| is_damaged(stretch, record));
        let kinds: Vec<u8> = damage.map(|(_, record)| record.kind_of_record).collect();
        match store.usage().damaged {
            // What is said by notes a checkpoint knows as well.
            0 if store.opened().has_checkpoint => {
                assert!(!kinds.contains(&TYPE_BLOCK), "{context}")
            }
            0 => assert!(kinds.is_empty(), "{context}"),
            // Perhaps of what had gone, and nobody says so any more.
            _ => {}
        }
        let len = store.disk.file_len().expect("it is known");
        assert!(len >= intact_end, "{context}: nothing sound is cut away");
        drop(store);
        // Once more, with what the opening left.
        let seen = Wreck::new(image, &log.borrow().ops).as_seen();
        let mut store = open_recorded(&seen, &Rc::default());
        assert_eq!(store.opened().cut_bytes, 0, "{context}");
        assert_eq!(served(&mut store, &self.put), found, "{context}");
    }

    /// Opens the files with damage in the checkpoints alone: everything is found as without them.
    fn check_sides(&self, sides: [Vec<u8>; 2], context: &str) {
        let pack = self.image.pack.clone();
        let expected = contents(&open_recorded(&Image::of(&pack), &Rc::default()));
        let store = open_recorded(&Image { pack, sides }, &Rc::default());
        assert_eq!(contents(&store), expected, "{context}");
    }

    fn with_pack(&self, change: impl FnOnce(&mut Vec<u8>)) -> Image {
        let mut image = self.image.clone();
        change(&mut image.pack);
        image
    }

    fn with_side(&self, side: usize, change: impl FnOnce(&mut Vec<u8>)) -> [Vec<u8>; 2] {
        let mut sides = self.image.sides.clone();
        change(&mut sides[side]);
        sides
    }
}

#[test]
fn cut_at_every_byte_a_pack_has_what_was_before() {
    let sample = sample([7; 32]);
    for len in 0..sample.image.pack.len() {
        let cut = sample.with_pack(|pack| pack.truncate(len));
        sample.check(&cut, &format!("cut at {len}"));
    }
}

#[test]
fn cut_at_every_byte_a_checkpoint_changes_nothing() {
    let sample = sample([7; 32]);
    for side in 0..2 {
        for len in 0..sample.image.sides[side].len() {
            let cut = sample.with_side(side, |it| it.truncate(len));
            sample.check_sides(cut, &format!("side {side} cut at {len}"));
        }
    }
    for len in (0..sample.image.pack.len()).step_by(37) {
        for side in 0..2 {
            for side_len in (0..sample.image.sides[side].len()).step_by(53) {
                let mut image = sample.with_pack(|pack| pack.truncate(len));
                image.sides[side].truncate(side_len);
                sample.check_one(&image, &format!("cut at {len}, side {side} at {side_len}"));
            }
        }
    }
}

#[test]
fn every_flipped_bit_costs_at_most_the_record_it_is_in() {
    let sample = sample([7; 32]);
    let headers = sample.records.iter().map(|it| it.0 .0 as usize);
    for start in headers.chain([0]) {
        for bit in 0..RECORD_HEADER_LEN * 8 {
            let (at, mask) = (start + bit / 8, 1 << (bit % 8));
            let flipped = sample.with_pack(|pack| pack[at] ^= mask);
            sample.check(&flipped, &format!("bit {bit} of the header at {start}"));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_checkpoint_changes_nothing() {
    let sample = sample([7; 32]);
    for side in 0..2 {
        for bit in 0..sample.image.sides[side].len() * 8 {
            let flipped = sample.with_side(side, |it| it[bit / 8] ^= 1 << (bit % 8));
            sample.check_sides(flipped, &format!("bit {bit} of side {side}"));
        }
    }
}

#[test]
fn page_that_cannot_be_read_is_never_cut_away() {
    let sample = sample([7; 32]);
    let pack = &sample.image.pack;
    let first = RECORDS_AT / PAGE * PAGE;
    let pages = (first..pack.len() as u64).step_by(PAGE as usize);
    assert!(pages.clone().count() >= 2);
    for page in pages {
        let log: Rc<RefCell<Log>> = Rc::default();
        log.borrow_mut().bad_page = Some(page);
        let store = open_recorded(&Image::of(pack), &log);
        assert_eq!(store.opened().cut_bytes, 0, "page {page}");
        assert!(log.borrow().failed_reads > 0 && store.usage().damaged > 0);
        drop(store);
        // It was only for a while.
        let seen = Wreck::new(&Image::of(pack), &log.borrow().ops).as_seen();
        assert!(seen.pack == *pack, "page {page}");
        log.borrow_mut().bad_page = None;
        let found = contents(&open_recorded(&seen, &Rc::default()));
        let expected = contents(&open_recorded(&Image::of(pack), &Rc::default()));
        assert_eq!(found, expected, "page {page}");
    }
}

/// The range of this sector of a file of so many bytes.
fn sector(n: usize, len: usize) -> std::ops::Range<usize> {
    n * SECTOR..((n + 1) * SECTOR).min(len)
}

/// Every file that has one sector zero, doubled, or as in one of the others; or two swapped.
fn with_bad_sectors(file: &[u8], others: &[(&str, Vec<u8>)], mut look: impl FnMut(Vec<u8>, &str)) {
    let count = file.len().div_ceil(SECTOR);
    for n in 0..count {
        let at = sector(n, file.len());
        let mut zero = file.to_vec();
        zero[at.clone()].fill(0);
        look(zero, &format!("sector {n} is zero"));
        for m in (0..count).filter(|&m| m != n) {
            let (mut swapped, other) = (file.to_vec(), sector(m, file.len()));
            let len = at.len().min(other.len());
            swapped[at.start..at.start + len]
                .copy_from_slice(&file[other.start..other.start + len]);
            look(swapped.clone(), &format!("sector {n} is {m}"));
            swapped[other.start..other.start + len]
                .copy_from_slice(&file[at.start..at.start + len]);
            look(swapped, &format!("sectors {n} and {m} are swapped"));
        }
        for (whose, other) in others {
            let mut stale = file.to_vec();
            stale[at.clone()].fill(0);
            let known = at.start.min(other.len())..at.end.min(other.len());
            stale[known.clone()].copy_from_slice(&other[known]);
            look(stale, &format!("sector {n} is {whose}"));
        }
    }
}

#[test]
fn bad_sectors_of_a_pack_cost_at_most_what_lies_in_them() {
    let sample_of_other = sample([8; 32]);
    let sample = sample([7; 32]);
    let earlier = sample.earlier.iter();
    let mut others: Vec<_> = earlier.map(|it| ("old", it.pack.clone())).collect();
    others.push(("of another pack", sample_of_other.image.pack));
    let mut count = 0;
    with_bad_sectors(&sample.image.pack, &others, |pack, context| {
        count += 1;
        sample.check(&sample.with_pack(|it| *it = pack), context);
    });
    assert!(count > 100);
}

#[test]
fn bad_sectors_of_a_checkpoint_and_stale_ones_change_nothing() {
    let other = sample([8; 32]);
    let sample = sample([7; 32]);
    for side in 0..2 {
        let earlier = sample.earlier.iter();
        let mut others: Vec<_> = earlier.map(|it| ("old", it.sides[side].clone())).collect();
        others.push(("of another pack", other.image.sides[side].clone()));
        others.push(("of the other side", sample.image.sides[1 - side].clone()));
        for (whose, old) in &others {
            let stale = sample.with_side(side, |it| it.clone_from(old));
            sample.check_sides(stale, whose);
        }
        with_bad_sectors(&sample.image.sides[side], &others, |bad, context| {
            sample.check_sides(sample.with_side(side, |it| *it = bad), context);
        });
    }
    let [zero, one] = sample.image.sides.clone();
    sample.check_sides([one, zero], "both have changed places");
    // One that speaks of a later pack than there is.
    for earlier in &sample.earlier {
        let image = Image {
            pack: earlier.pack.clone(),
            sides: sample.image.sides.clone(),
        };
        let expected = contents(&open_recorded(&Image::of(&earlier.pack), &Rc::default()));
        let found = contents(&open_recorded(&image, &Rc::default()));
        assert_eq!(found, expected);
    }
}
