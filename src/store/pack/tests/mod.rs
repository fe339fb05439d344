//! The pack store on disks that fail, and on files that somebody else has changed.

#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod doctored;
mod faults;
mod full;
mod gaps;
mod holeless;
mod manual;
mod model;
pub(super) mod recorded;

use super::record::{FILE_HEADERS_AT, FILE_HEADER_LEN, RECORDS_AT};
use super::*;
use crate::block::{Form, Role as BlockRole};
use doctored::{Doctored, Ills};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const CAPACITY: u64 = 1 << 20;

fn block(payload: &[u8]) -> Block {
    let kind = Kind {
        role: BlockRole::Leaf,
        form: Form::Plain,
    };
    Block::new(kind, payload.to_vec()).unwrap()
}

/// The time that this thread has had a processor: what else the machine does takes none of it.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is written to, and lives longer than the call.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(told, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// So many bytes, with no regard for what is free.
fn allot(capacity: u64) -> Allotment {
    Allotment {
        capacity,
        min_free: 0,
    }
}

/// A number that the environment may set.
fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Ten blocks of different lengths.
fn ten() -> Vec<Block> {
    (0..10u8)
        .map(|n| block(&vec![n; 5 + 11 * usize::from(n)]))
        .collect()
}

fn open(dir: &Path) -> Result<PackStore, StoreError> {
    open_ill(&Rc::default(), dir, CAPACITY)
}

fn open_ill(ills: &Rc<Ills>, dir: &Path, capacity: u64) -> Result<PackStore, StoreError> {
    let lock = DirLock::acquire(dir, Role::Serve).unwrap();
    let disk =
        Doctored::open(lock, ills).map_err(|error| StoreError::Io("open".to_string(), error))?;
    PackStore::open_on(Box::new(disk), allot(capacity), [7; 32])
}

/// Where a block lies; no two have the same first 8 bytes here.
fn entry(store: &PackStore, id: &BlockId) -> Entry {
    store.index.candidates(id).next().unwrap()
}

fn put_all(store: &mut PackStore, blocks: &[Block]) {
    for block in blocks {
        assert!(matches!(
            store.put(block, Terms::default()),
            Ok(Put::Written(_))
        ));
    }
    store.begin_commit().unwrap();
}

/// Which of the blocks the store serves, each compared byte by byte.
fn served(store: &mut PackStore, blocks: &[Block]) -> Vec<bool> {
    blocks
        .iter()
        .map(|block| match store.check(&block.id()) {
            Some((kind, len)) => {
                assert_eq!((kind, len as usize), (block.kind(), block.payload().len()));
                assert_eq!(store.payload(&block.id()), Some(block.payload()));
                true
            }
            None => false,
        })
        .collect()
}

fn error_kind(result: Result<PackStore, StoreError>) -> ErrorKind {
    match result {
        Err(StoreError::Io(_, error)) => error.kind(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn every_truncation_opens_to_the_records_before_it_and_then_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    put_all(&mut open(dir.path()).unwrap(), &blocks);
    let path = dir.path().join("pack");
    let whole = std::fs::read(&path).unwrap();
    for len in (RECORDS_AT as usize..=whole.len()).rev() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let mut end = RECORDS_AT;
        let mut expected = Vec::new();
        for block in &blocks {
            end += record::extent(block.payload().len() as u32);
            expected.push(end <= len as u64);
        }
        let mut store = open(dir.path()).unwrap();
        assert_eq!(served(&mut store, &blocks), expected, "cut at {len}");
        let cut = store.opened().cut_bytes;
        drop(store);
        assert_eq!(path.metadata().unwrap().len() + cut, len as u64);
        let mut store = open(dir.path()).unwrap();
        assert_eq!(store.opened().cut_bytes, 0);
        assert_eq!(served(&mut store, &blocks), expected, "cut at {len}");
    }
}

#[test]
fn every_flipped_bit_costs_one_record_and_is_reported_at_each_opening() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    put_all(&mut open(dir.path()).unwrap(), &blocks);
    let path = dir.path().join("pack");
    let whole = std::fs::read(&path).unwrap();
    let before: u64 = blocks[..4]
        .iter()
        .map(|block| record::extent(block.payload().len() as u32))
        .sum();
    let start = (RECORDS_AT + before) as usize;
    for at in 0..RECORD_HEADER_LEN + blocks[4].payload().len() {
        let mut bytes = whole.clone();
        bytes[start + at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        for _ in 0..2 {
            let mut store = open(dir.path()).unwrap();
            let lost = served(&mut store, &blocks);
            assert!(lost.iter().enumerate().all(|(i, &is)| is == (i != 4)));
            assert_eq!(store.usage().damaged, 1);
            assert_eq!(store.opened().damaged[0].0, start as u64);
        }
        assert!(bytes == std::fs::read(&path).unwrap(), "never cut");
    }
    // Stored again, the block is served again, now and after the next opening.
    let mut store = open(dir.path()).unwrap();
    put_all(&mut store, &blocks[4..5]);
    drop(store);
    let mut store = open(dir.path()).unwrap();
    assert_eq!(served(&mut store, &blocks), [true; 10]);
}

#[test]
fn first_look_at_a_block_needs_no_call_if_it_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let ills: Rc<Ills> = Rc::default();
    let blocks = ten();
    let mut store = open_ill(&ills, dir.path(), CAPACITY).unwrap();
    put_all(&mut store, &blocks);
    for (block, warm, reads) in [
        (&blocks[0], None, 1),
        (&blocks[1], Some(false), 1),
        (&blocks[2], Some(true), 0),
    ] {
        ills.warm.set(warm);
        for reads in [reads, 0] {
            let before = ills.reads.get();
            assert!(store.check(&block.id()).is_some());
            assert_eq!(ills.reads.get() - before, reads, "{warm:?}");
            assert_eq!(store.payload(&block.id()), Some(block.payload()));
        }
        let told = Some(warm != Some(false));
        assert_eq!(store.is_warm(&block.id()), told);
        // A header is looked at that need not be waited for.
        let before = ills.reads.get();
        assert!(store.has(&block.id()) && store.terms(&block.id()).is_some());
        let looks = if warm == Some(false) { 0 } else { 2 };
        assert_eq!(ills.reads.get() - before, looks, "{warm:?}");
    }
    assert_eq!(store.is_warm(&block(b"not here").id()), None);
}

#[test]
fn damage_under_an_open_pack_is_found_before_it_is_served() {
    for warm in [None, Some(false), Some(true)] {
        let ills: Rc<Ills> = Rc::default();
        ills.warm.set(warm);
        find_damage(&ills);
    }
}

fn find_damage(ills: &Rc<Ills>) {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    let mut store = open_ill(ills, dir.path(), CAPACITY).unwrap();
    put_all(&mut store, &blocks);
    let id = blocks[3].id();
    assert_eq!(store.payload(&id), None, "not before it is checked");
    let offset = entry(&store, &id).offset;
    let file = File::options()
        .write(true)
        .open(dir.path().join("pack"))
        .unwrap();
    file.write_all_at(&[99], offset + RECORD_HEADER_LEN as u64)
        .unwrap();
    assert!(store.has(&id));
    assert_eq!(store.check(&id), None);
    assert!(!store.has(&id));
    assert_eq!((store.usage().blocks, store.usage().damaged), (9, 1));

    // One that has been given once, and goes bad after that.
    let id = blocks[4].id();
    let offset = entry(&store, &id).offset;
    assert!(store.check(&id).is_some());
    file.write_all_at(&[99], offset + RECORD_HEADER_LEN as u64)
        .unwrap();
    assert_eq!(store.check(&id), None);
    assert_eq!((store.usage().blocks, store.usage().damaged), (8, 2));

    // One that is damaged but not yet found so is not said to be held.
    let id = blocks[2].id();
    let unchecked = Entry {
        checked: false,
        ..entry(&store, &id)
    };
    let offset = unchecked.offset;
    assert!(store.index.update(&id, unchecked));
    file.write_all_at(&[99], offset + RECORD_HEADER_LEN as u64)
        .unwrap();
    assert!(matches!(
        store.put(&blocks[2], Terms::default()),
        Ok(Put::Written(_))
    ));
    assert!(store.check(&blocks[2].id()).is_some());

    // Cut behind our back: absent, and the process lives.
    file.set_len(entry(&store, &blocks[6].id()).offset + 70)
        .unwrap();
    let expected: Vec<bool> = (0..10).map(|i| i < 6 && !(2..5).contains(&i)).collect();
    assert_eq!(served(&mut store, &blocks), expected);
}

#[test]
fn failed_sync_leaves_what_was_committed_readable_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    let ills = Rc::default();
    let mut store = open_ill(&ills, dir.path(), CAPACITY).unwrap();
    put_all(&mut store, &blocks[..5]);
    let len = store.disk.file_len().unwrap();
    let durable = store.poll_commit().unwrap();
    assert_eq!(durable, Sequence(5));
    assert_eq!(
        store.put(&blocks[0], Terms::default()).unwrap(),
        Put::Had(durable)
    );
    assert_eq!(
        store.put(&blocks[5], Terms::default()).unwrap(),
        Put::Written(Sequence(6))
    );
    assert_eq!(
        store.put(&blocks[5], Terms::default()).unwrap(),
        Put::Had(Sequence(6))
    );
    assert!(store.uncommitted() > 0);

    let syncs = ills.syncs.get();
    ills.sync.set(libc::EIO);
    assert!(matches!(store.begin_commit(), Err(StoreError::Io(_, _))));
    assert!(matches!(store.begin_commit(), Err(StoreError::ReadOnly)));
    assert!(matches!(store.poll_commit(), Err(StoreError::ReadOnly)));
    for again in [&blocks[0], &blocks[5], &blocks[6]] {
        assert!(matches!(
            store.put(again, Terms::default()),
            Err(StoreError::ReadOnly)
        ));
    }
    assert_eq!(
        ills.syncs.get() - syncs,
        1,
        "a failed sync is not tried again"
    );
    let expected: Vec<bool> = (0..10).map(|i| i < 5).collect();
    assert_eq!(served(&mut store, &blocks), expected);
    assert_eq!(store.usage().blocks, 5);
    // A later opening could not know that the rest is in the system's memory alone.
    assert_eq!(store.disk.file_len().unwrap(), len);
}

#[test]
fn failed_write_leaves_the_file_as_it_was_and_a_full_disk_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    let ills = Rc::default();
    let mut store = open_ill(&ills, dir.path(), CAPACITY).unwrap();
    put_all(&mut store, &blocks[..2]);
    let held = |store: &PackStore| (store.usage().blocks, store.usage().held);
    let before = (held(&store), store.disk.file_len().unwrap());
    for code in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
        ills.write.set(code);
        let error = store.put(&blocks[2], Terms::default()).unwrap_err();
        let is_full = matches!(error, StoreError::DiskFull(..));
        assert_eq!(is_full, code != libc::EIO, "{error}");
        assert_eq!(error.is_full(), is_full);
        let text = error.to_string();
        let pack = dir.path().join("pack");
        assert!(
            text.contains(&format!("write {}: ", pack.display())) && !text.contains("os error")
        );
        assert!(!store.has(&blocks[2].id()));
        let after = (held(&store), store.disk.file_len().unwrap());
        assert_eq!(after, before);
    }
    ills.write.set(0);
    put_all(&mut store, &blocks[2..]);
    assert_eq!(served(&mut store, &blocks), [true; 10]);
}

#[test]
fn uncommitted_bytes_never_pass_what_an_opening_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&Rc::default(), dir.path(), 1 << 30).unwrap();
    for n in 0..300u32 {
        let mut payload = vec![0; crate::limits::BLOCK_SIZE_MAX];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        store.put(&block(&payload), Terms::default()).unwrap();
        assert!(store.uncommitted() <= UNCOMMITTED_MAX);
    }
    assert!(store.poll_commit().unwrap() > Sequence(0));
}

#[test]
fn what_is_no_pack_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack");
    let mut other_version = record::encode_file_header(&PackId([1; 32]));
    other_version[11] = 2;
    for strange in [
        &b"a diary"[..],
        &other_version,
        &other_version[..12],
        &[0; RECORDS_AT as usize + 1],
        &[b'x'; 500],
    ] {
        std::fs::write(&path, strange).unwrap();
        assert_eq!(error_kind(open(dir.path())), ErrorKind::InvalidData);
        assert_eq!(std::fs::read(&path).unwrap(), strange);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(open(dir.path()).is_err());
}

#[test]
fn creation_that_did_not_end_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack");
    let header = record::encode_file_header(&PackId([1; 32]));
    let zero = [0; FILE_HEADER_LEN];
    let prefixes = (0..FILE_HEADER_LEN).map(|len| &header[..len]);
    for left in prefixes.chain([&zero[..], &zero[..30]]) {
        std::fs::write(&path, left).unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!(*store.opened(), Opened::default());
        drop(store);
        let made = std::fs::read(&path).unwrap();
        let header = record::encode_file_header(&PackId([7; 32]));
        assert_eq!(made.len() as u64, RECORDS_AT);
        assert!(made.starts_with(&header) && made.ends_with(&header));
    }
    // Killed between the two.
    std::fs::write(&path, header).unwrap();
    open(dir.path()).unwrap();
    let made = std::fs::read(&path).unwrap();
    assert!(made.len() as u64 == RECORDS_AT && made.ends_with(&header));
}

#[test]
fn header_that_is_lost_is_mended_from_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    put_all(&mut open(dir.path()).unwrap(), &blocks);
    let path = dir.path().join("pack");
    let whole = std::fs::read(&path).unwrap();
    let wreck = |at: u64, damage: &dyn Fn(&mut [u8])| {
        let mut bytes = whole.clone();
        damage(&mut bytes[at as usize..][..FILE_HEADER_LEN]);
        bytes
    };
    for at in FILE_HEADERS_AT {
        let flips = (0..FILE_HEADER_LEN * 8).map(|bit| {
            wreck(at, &move |header: &mut [u8]| {
                header[bit / 8] ^= 1 << (bit % 8)
            })
        });
        let other = record::encode_file_header(&PackId([9; 32]));
        let zero = wreck(at, &|header: &mut [u8]| header.fill(0));
        for bytes in flips.step_by(7).chain([zero]) {
            std::fs::write(&path, &bytes).unwrap();
            let mut store = open(dir.path()).unwrap();
            assert_eq!(served(&mut store, &blocks), [true; 10]);
            assert_eq!(store.opened().damaged, []);
            drop(store);
            assert!(std::fs::read(&path).unwrap() == whole);
        }
        // Two packs in one file: nobody knows which it is.
        let two = wreck(at, &|header: &mut [u8]| header.copy_from_slice(&other));
        std::fs::write(&path, &two).unwrap();
        assert_eq!(error_kind(open(dir.path())), ErrorKind::InvalidData);
        assert!(std::fs::read(&path).unwrap() == two);
    }
    let mut neither = whole.clone();
    for at in FILE_HEADERS_AT {
        neither[at as usize + 30] ^= 1;
    }
    std::fs::write(&path, &neither).unwrap();
    assert_eq!(error_kind(open(dir.path())), ErrorKind::InvalidData);
    assert!(std::fs::read(&path).unwrap() == neither);

    // While it is open, a verification says so.
    std::fs::write(&path, &whole).unwrap();
    let mut store = open(dir.path()).unwrap();
    assert_eq!(store.verify(0, &|_| true).damaged, []);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], FILE_HEADERS_AT[1] + 20).unwrap();
    let damaged = store.verify(0, &|_| true).damaged;
    let places: Vec<u64> = damaged.iter().map(|it| it.offset).collect();
    assert_eq!(places, [FILE_HEADERS_AT[1]]);
}

#[test]
fn short_and_interrupted_writes_end_with_every_byte_in_place() {
    for stingy in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let ills: Rc<Ills> = Rc::default();
        ills.stingy.set(stingy);
        let lock = DirLock::acquire(dir.path(), Role::Serve).unwrap();
        let mut disk = Doctored::open(lock, &ills).unwrap();
        let parts: [&[u8]; 4] = [b"header of it", b"", b"payload!!", b"\0\0\0"];
        disk.write_all(&parts, 5).unwrap();
        let read = std::fs::read(disk.path()).unwrap();
        assert_eq!(read, b"\0\0\0\0\0header of itpayload!!\0\0\0");
        assert_eq!(ills.writes.get() > 6, stingy);
    }
}

#[test]
fn hit_in_the_index_is_confirmed_by_the_header() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    let mut store = open(dir.path()).unwrap();
    put_all(&mut store, &blocks[..9]);

    // As if the first 8 bytes of the tenth block's address were those of another block.
    let other = entry(&store, &blocks[8].id());
    store.index.insert(&blocks[9].id(), other);
    assert!(!store.has(&blocks[9].id()));
    assert_eq!(store.check(&blocks[9].id()), None);
    assert_eq!(store.payload(&blocks[9].id()), None);
    assert!(matches!(
        store.put(&blocks[9], Terms::default()),
        Ok(Put::Written(_))
    ));
    let expected = [true; 10];
    assert_eq!(served(&mut store, &blocks), expected);
    assert_eq!(store.usage().damaged, 0);

    // A header that is damaged under the open pack names no block; its record is set aside, and written anew.
    let id = blocks[5].id();
    let offset = entry(&store, &id).offset;
    let pack = dir.path().join("pack");
    let file = File::options().write(true).open(pack).unwrap();
    for at in [0, ADDRESS_AT, 40] {
        file.write_all_at(&[0x55], offset + at).unwrap();
    }
    assert!(!store.has(&id));
    assert!(matches!(
        store.put(&blocks[5], Terms::default()),
        Ok(Put::Written(_))
    ));
    assert_eq!(served(&mut store, &blocks), expected);
    // The entry that was made up is one of them.
    assert_eq!((store.usage().blocks, store.usage().damaged), (11, 1));
}

#[test]
fn scattered_damage_is_all_found_in_steps_that_stay_short() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&Rc::default(), dir.path(), 1 << 30).unwrap();
    let blocks: Vec<Block> = (0..100_000u32)
        .map(|n| block(&[&n.to_be_bytes()[..], &vec![7; 4 + n as usize % 40]].concat()))
        .collect();
    put_all(&mut store, &blocks);
    // A sector of each page rots while the pack is open.
    let file = File::options().write(true).open(dir.path().join("pack"));
    let file = file.unwrap();
    let pages = 3..store.tail / 4096;
    let is_bad = |at: u64| pages.contains(&(at / 4096)) && at % 4096 >= 3584;
    for page in pages.clone() {
        file.write_all_at(&[0x55; 512], page * 4096 + 3584).unwrap();
    }
    let is_hit = |entry: &Entry| {
        let end = entry.offset + RECORD_HEADER_LEN as u64 + u64::from(entry.len);
        (entry.offset..end).any(is_bad)
    };
    let hit: Vec<bool> = blocks
        .iter()
        .map(|block| is_hit(&entry(&store, &block.id())))
        .collect();
    let (mut next, mut longest, mut sound, mut steps) = (Some(0), 0, 0, 0);
    while let Some(from) = next {
        let begun = std::time::Instant::now();
        let step = store.verify(from, &|_| true);
        longest = longest.max(begun.elapsed().as_micros());
        // Each takes a walk over the index.
        let lost = step.damaged.iter().filter(|it| it.id.is_none());
        assert!(lost.count() <= 1);
        sound += step.blocks;
        steps += 1;
        next = step.next;
    }
    println!(
        "{steps} steps of {} records, the longest {longest} us",
        blocks.len()
    );
    assert_eq!(sound, hit.iter().filter(|it| !**it).count() as u64);
    for (block, hit) in blocks.iter().zip(hit) {
        assert_eq!(store.has(&block.id()), !hit);
    }
    assert!(store.usage().damaged > 100);
}

#[test]
fn moving_takes_few_records_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&Rc::default(), dir.path(), 1 << 30).unwrap();
    store.background.checkpoint_after = u64::MAX;
    store.background.move_after = Some(u64::MAX);
    store.background.restate_after = Some(u64::MAX);
    let mut large = Vec::new();
    let mut put_large = |store: &mut PackStore| {
        let n = large.len() as u64;
        let block = block(&[&n.to_be_bytes()[..], &[9; 12_000]].concat());
        store.put(&block, Terms::default()).unwrap();
        large.push(block.id());
    };
    let mut small = Vec::new();
    // Runs of many small blocks, of few, and of notes of many statements, each between two blocks that go.
    for group in 0..60u32 {
        put_large(&mut store);
        for n in 0..if group % 3 == 0 { 600 } else { 150 } {
            let block = block(&[group.to_be_bytes(), u32::to_be_bytes(n)].concat());
            store.put(&block, Terms::default()).unwrap();
            small.push(block);
        }
    }
    for round in 1..=10u32 {
        put_large(&mut store);
        let few = if round % 2 == 0 { 3000 } else { 300 };
        for block in &small[..few] {
            store.keep_until(&block.id(), round * 100);
        }
        store.begin_commit().unwrap();
    }
    put_large(&mut store);
    store.begin_commit().unwrap();
    let terms: Vec<Terms> = small
        .iter()
        .map(|it| store.terms(&it.id()).unwrap())
        .collect();
    for id in &large {
        store.remove(id).unwrap();
    }
    store.begin_commit().unwrap();
    while store.has_work() {
        store.work();
    }
    store.background.move_after = Some(0);
    let (mut slices, mut longest, mut moved) = (0, 0, 0);
    while store.has_work() && slices < 3000 {
        let begun = std::time::Instant::now();
        let before = store.pending.moves.len();
        store.work();
        let moves = store.pending.moves.len();
        assert!(moves.saturating_sub(before) <= 2 * MOVE_RECORDS_MAX);
        moved += moves.saturating_sub(before);
        longest = longest.max(begun.elapsed().as_micros());
        slices += 1;
    }
    println!("{moved} moved in {slices} slices, the longest {longest} us");
    assert!(moved >= 40 * 150 && slices > 20);
    assert!(served(&mut store, &small).iter().all(|it| *it));
    drop(store);
    let store = open_ill(&Rc::default(), dir.path(), 1 << 30).unwrap();
    let now = small.iter().map(|it| store.terms(&it.id()).unwrap());
    assert!(now.eq(terms));
}
