//! The pack on a file system that takes no part of a file back: it is copied, and half of the allotment is used.

use super::*;
use crate::id::Point;
use std::os::unix::fs::MetadataExt;

const CAPACITY: u64 = 4 << 20;

fn disk_usage(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    let files = files.map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|it| it.blocks() * 512).sum()
}

fn holeless() -> Rc<Ills> {
    let ills: Rc<Ills> = Rc::default();
    ills.holeless.set(true);
    ills
}

/// Works until there is room, which takes some slices.
fn make_room(store: &mut PackStore, dir: &Path, len: u32) {
    let claim = Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    };
    for _ in 0..1000 {
        assert!(disk_usage(dir) <= CAPACITY);
        match store.make_room(len, &claim) {
            Ok(()) => return,
            Err(error) => assert!(error.is_full(), "{error}"),
        }
        store.work();
    }
    panic!("room never came");
}

#[test]
fn full_pack_goes_on_by_copies_within_half_of_its_allotment() {
    let dir = tempfile::tempdir().unwrap();
    let ills = holeless();
    let mut store = open_ill(&ills, dir.path(), CAPACITY).unwrap();
    assert!(store.usage().is_halved, "known before anything is stored");
    let blocks: Vec<Block> = (0..200u8)
        .map(|n| block(&vec![n; 50_000 + usize::from(n)]))
        .collect();
    let mut files = std::collections::BTreeSet::new();
    for block in &blocks {
        make_room(&mut store, dir.path(), block.payload().len() as u32);
        store.put(block, Terms::default()).unwrap();
        store.begin_commit().unwrap();
        assert!(store.usage().used_bytes <= CAPACITY / 2);
        let path = dir.path().join("pack");
        files.insert(path.metadata().unwrap().ino());
    }
    assert!(store.generation > 5, "{} copies", store.generation);
    assert!(files.len() > 1);
    let before = served(&mut store, &blocks);
    assert!(before.iter().filter(|it| **it).count() > 15);
    store.close();
    drop(store);
    assert!(!dir.path().join("pack.new").exists());
    let mut store = open_ill(&ills, dir.path(), CAPACITY).unwrap();
    assert_eq!(served(&mut store, &blocks), before);
    assert_eq!(store.usage().damaged, 0);
}

#[test]
fn verification_begins_anew_when_everything_has_another_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&holeless(), dir.path(), 64 << 20).unwrap();
    let blocks: Vec<Block> = (0..20u8).map(|n| block(&vec![n; 150_000])).collect();
    put_all(&mut store, &blocks);
    let begun = store.verify(0, &|_| true);
    let next = begun.next.expect("more than one step");
    for block in &blocks[..10] {
        store.remove(&block.id()).unwrap();
    }
    store.background.move_after = Some(0);
    while store.has_work() {
        store.work();
    }
    assert_eq!(store.generation, 1);
    let (mut next, mut count) = (Some(next), 0);
    while let Some(from) = next {
        let step = store.verify(from, &|_| true);
        assert_eq!(step.damaged, []);
        count += step.blocks;
        next = step.next;
    }
    assert_eq!(count, 10, "all that are left, from the first");
}

#[test]
fn damage_is_copied_and_stays_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let ills = holeless();
    let mut store = open_ill(&ills, dir.path(), 64 << 20).unwrap();
    let blocks: Vec<Block> = (0..6u8).map(|n| block(&vec![n; 9_000])).collect();
    put_all(&mut store, &blocks);
    let at = entry(&store, &blocks[3].id()).offset;
    drop(store);
    let path = dir.path().join("pack");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", at + 20).unwrap();
    let mut store = open_ill(&ills, dir.path(), 64 << 20).unwrap();
    assert_eq!(store.usage().damaged, 1);
    store.remove(&blocks[0].id()).unwrap();
    store.background.move_after = Some(0);
    while store.has_work() {
        store.work();
    }
    assert_eq!(store.generation, 1);
    let expected = [false, true, true, false, true, true];
    assert_eq!(served(&mut store, &blocks), expected);
    assert_eq!(store.usage().damaged, 1);
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.windows(6).any(|it| it == b"damage"), "not cut away");
    let mut store = open_ill(&ills, dir.path(), 64 << 20).unwrap();
    assert_eq!(served(&mut store, &blocks), expected);
    assert_eq!(store.usage().damaged, 1);
}

#[test]
fn copy_that_was_left_behind_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = ten();
    put_all(&mut open(dir.path()).unwrap(), &blocks);
    let left = dir.path().join("pack.new");
    std::fs::write(&left, b"half a copy").unwrap();
    let mut store = open(dir.path()).unwrap();
    assert!(!left.exists());
    assert!(served(&mut store, &blocks).iter().all(|it| *it));
}

/// Puts random blocks in a full pack, for some of which others go; how many were stored.
fn churn(store: &mut PackStore, count: u32, terms: Terms) -> u32 {
    let claim = Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    };
    let mut rng = crate::rng::Rng::new([1; 32]);
    let mut stored = 0;
    for n in 0..count {
        let block = block(&[&rng.bytes::<32>()[..], &vec![n as u8; 50_000]].concat());
        if store.make_room(50_100, &claim).is_ok() {
            store.put(&block, terms).unwrap();
            stored += 1;
        }
        store.begin_commit().unwrap();
        for _ in 0..100 {
            if !store.has_work() {
                break;
            }
            store.work();
        }
    }
    stored
}

const LATER: Terms = Terms {
    expires: 1000,
    hold: Hold::Free,
};

#[test]
fn damaged_block_is_set_aside_by_the_copy_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&holeless(), dir.path(), 16 << 20).unwrap();
    let blocks: Vec<Block> = (0..100u8).map(|n| block(&vec![n; 50_000])).collect();
    for block in &blocks {
        store.put(block, LATER).unwrap();
    }
    store.begin_commit().unwrap();
    // Those that are closest to home stay longest. Of one the payload is damaged, of one the header.
    let mut ids: Vec<BlockId> = blocks.iter().map(|block| block.id()).collect();
    ids.sort_unstable();
    let pack = dir.path().join("pack");
    let file = File::options().write(true).open(pack).unwrap();
    for (id, at) in [(ids[0], 1000), (ids[1], 20)] {
        let at = entry(&store, &id).offset + at;
        file.write_all_at(b"rot", at).unwrap();
    }
    assert!(churn(&mut store, 300, LATER) > 200);
    assert!(store.generation > 2 && store.usage().blocks > 90);
    let held = served(&mut store, &blocks);
    let held = |id: &BlockId| held[blocks.iter().position(|it| it.id() == *id).unwrap()];
    assert!(!held(&ids[0]) && !held(&ids[1]) && held(&ids[2]));
    assert_eq!(store.usage().damaged, 2);
}

#[test]
fn nothing_is_dropped_any_more_where_no_copy_can_be_made() {
    use super::recorded::{Image, Log, Recorded};
    use std::cell::RefCell;
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().is_holeless = true;
    let disk = Box::new(Recorded::new(&Image::default(), &log));
    let mut store = PackStore::open_on(disk, allot(32 << 20), [7; 32]).unwrap();
    churn(&mut store, 400, LATER);
    let (before, generation) = (store.usage().blocks, store.generation);
    assert!(before > 200 && generation > 0);
    log.borrow_mut().free = Some(1 << 20);
    churn(&mut store, 400, LATER);
    assert_eq!(store.generation, generation);
    assert!(
        store.usage().blocks * 5 > before * 4,
        "{} of {before}",
        store.usage().blocks
    );
    // As soon as there is room again a copy is made.
    log.borrow_mut().free = None;
    store.set_time(RECLAIM_RETRY_SECS);
    assert!(churn(&mut store, 400, LATER) > 200);
    assert!(store.generation > generation);

    // Nor is anything dropped when a page could not be read, of which there is no copy.
    let generation = store.generation;
    store.background.stop_checkpoints();
    churn(&mut store, 400, LATER);
    assert_eq!(store.generation, generation);
    assert!(store.usage().blocks * 5 > before * 4);
}

#[test]
fn terms_for_which_there_is_no_room_are_said_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let ills = holeless();
    let mut store = open_ill(&ills, dir.path(), 16 << 20).unwrap();
    let blocks: Vec<Block> = (0..100u8).map(|n| block(&vec![n; 50_000])).collect();
    for block in &blocks {
        store.put(block, LATER).unwrap();
    }
    store.begin_commit().unwrap();
    for block in &blocks[..40] {
        store.remove(&block.id()).unwrap();
    }
    store.begin_commit().unwrap();
    let capacity = store.space.allotment.capacity;
    while store.background.compaction.is_none() {
        store.work();
    }
    // All but one slice of the copy; then no note on terms fits.
    store.background.copy_step = 1 << 20;
    store.work();
    store.space.allotment.capacity = 2 << 20;
    for block in &blocks {
        store.keep_until(&block.id(), 2000);
    }
    while store.generation == 0 {
        assert!(store.has_work());
        store.work();
    }
    store.space.allotment.capacity = capacity;
    drop(store);
    let store = open_ill(&ills, dir.path(), 16 << 20).unwrap();
    let kept = blocks[40..].iter().map(|block| store.terms(&block.id()));
    assert!(kept.into_iter().all(|it| it.unwrap().expires == 2000));
}

#[test]
fn slice_of_a_copy_passes_few_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&holeless(), dir.path(), 1 << 30).unwrap();
    let blocks: Vec<Block> = (0..20_000u32).map(|n| block(&n.to_be_bytes())).collect();
    put_all(&mut store, &blocks);
    // Records that are not copied, as they are notes, between gaps.
    for block in blocks.iter().skip(10_000).step_by(2) {
        store.remove(&block.id()).unwrap();
        store.begin_commit().unwrap();
    }
    store.background.move_after = Some(0);
    while store.background.compaction.is_none() {
        store.work();
    }
    let mut slices = 0;
    while store.generation == 0 {
        assert!(store.has_work());
        store.work();
        slices += 1;
    }
    assert!(slices >= 25_000 / COPY_RECORDS_MAX, "{slices} slices");
    let held = served(&mut store, &blocks);
    assert_eq!(held.iter().filter(|it| **it).count(), 15_000);
}

/// The slices of a copy of many small blocks, of which a quarter go while it is made; with a million of them for `make
/// bench`.
#[test]
fn slices_of_a_copy_of_a_million_blocks_are_short() {
    let count = number_from_environment("STREW_BENCH_BLOCKS", 50_000) as u32;
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_ill(&holeless(), dir.path(), 16 << 30).unwrap();
    let blocks = |nth| (0..count).step_by(nth).map(|n| block(&n.to_be_bytes()));
    for block in blocks(1) {
        store.put(&block, LATER).unwrap();
    }
    store.begin_commit().unwrap();
    store.remove(&block(&0u32.to_be_bytes()).id()).unwrap();
    store.background.move_after = Some(0);
    store.background.checkpoint_after = u64::MAX;
    let mut times = Vec::new();
    while store.generation == 0 {
        assert!(store.has_work());
        let copied = store.copy.as_ref().map_or(0, |copy| copy.index.len());
        if copied + 2000 > u64::from(count) && store.gaps.len() < 2 {
            for block in blocks(4) {
                store.remove(&block.id()).unwrap();
            }
        }
        let begun = cpu_time();
        store.work();
        times.push(cpu_time() - begun);
    }
    let last = *times.last().unwrap();
    let lost = blocks(4).chain(blocks(2)).find(|block| {
        let n = u32::from_be_bytes(*block.payload().first_chunk().unwrap());
        store.check(&block.id()).is_some() == n.is_multiple_of(4)
    });
    assert_eq!(lost.map(|block| block.id()), None);
    assert_eq!(store.usage().blocks, u64::from(count - count.div_ceil(4)));
    times.sort_unstable();
    println!(
        "{count} blocks without holes: a slice of a copy {:?} at p50, {:?} at p99, {:?} at most; the last {last:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
    );
    // Many times what it takes.
    assert!(last.as_millis() < 100, "{last:?}");
}
