//! Gaps: pages that go back to the file system, and what a process that was killed has left.

use super::full::{claim, open_with, work_all};
use super::recorded::{Image, Log, Op, Wreck};
use super::*;
use crate::store::Pin;
use std::cell::RefCell;

/// A pack with a gap beside each block, full, and what its disk holds after so many of the calls.
fn full_of_gaps(work: bool) -> Image {
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_with(&Image::default(), &log, allot(64 << 20));
    let blocks: Vec<Block> = (0..2000u32)
        .map(|n| block(&[&n.to_be_bytes()[..], &[1; 20_000]].concat()))
        .collect();
    put_all(&mut store, &blocks);
    store.background.move_after = Some(u64::MAX);
    for block in blocks.iter().step_by(2) {
        store.remove(&block.id()).unwrap();
    }
    store.begin_commit().unwrap();
    if work {
        work_all(&mut store);
        for n in 2000.. {
            let block = block(&[&u32::to_be_bytes(n)[..], &[1; 20_000]].concat());
            if store.put(&block, Terms::default()).is_err() {
                break;
            }
        }
        store.close();
    }
    drop(store);
    let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
    seen
}

fn punches(log: &Rc<RefCell<Log>>) -> usize {
    let log = log.borrow();
    let punches = log.ops.iter().filter(|op| matches!(op, Op::Punch { .. }));
    punches.count()
}

#[test]
fn pages_that_have_gone_back_are_not_given_back_again_after_an_opening() {
    let image = full_of_gaps(true);
    for image in [&image, &Image::of(&image.pack)] {
        let log: Rc<RefCell<Log>> = Rc::default();
        let mut store = open_with(image, &log, allot(64 << 20));
        store.background.move_after = Some(u64::MAX);
        store.begin_marking();
        store.end_marking();
        assert!(store.gaps.len() >= 1000 && store.usage().garbage_bytes < 1000 * 8192);
        assert!(!store.is_space_coming());
        let before = store.usage().blocks;
        store.make_room(20_000, &claim()).unwrap();
        assert!(before - store.usage().blocks <= 40);
        work_all(&mut store);
        assert!(punches(&log) < 100, "{} punches", punches(&log));
        assert_eq!(store.gaps.unseen(), None);
    }
}

#[test]
fn pages_that_a_killed_process_has_left_go_back_before_blocks_are_dropped() {
    let image = full_of_gaps(false);
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_with(&image, &log, allot(64 << 20));
    store.background.move_after = Some(u64::MAX);
    store.begin_marking();
    store.end_marking();
    let before = (store.disk.allocated().unwrap(), store.usage().blocks);
    store.space.allotment.capacity = store.usage().used_bytes;
    store.make_room(20_000, &claim()).unwrap();
    assert!(punches(&log) <= 128 && store.usage().blocks == before.1);
    work_all(&mut store);
    let back = before.0 - store.disk.allocated().unwrap();
    assert!(back >= 1000 * 12_288, "{back} bytes");
}

#[test]
fn run_in_which_nothing_counts_becomes_a_gap_though_nothing_else_is_done() {
    for is_pin in [false, true] {
        let log: Rc<RefCell<Log>> = Rc::default();
        let mut store = open_with(&Image::default(), &log, allot(64 << 20));
        let blocks: Vec<Block> = (0..3u8).map(|n| block(&[n; 6100])).collect();
        let root = blocks[0].id();
        put_all(&mut store, &blocks[..2]);
        // A note between two blocks that go, of which nothing will count.
        match is_pin {
            true => store.add_pin(Pin { root, len: 9 }).unwrap(),
            false => store.keep_until(&root, 5000),
        }
        store.begin_commit().unwrap();
        let end = store.tail;
        put_all(&mut store, &blocks[2..]);
        if is_pin {
            // Said again elsewhere, as after a move that a crash has cut short.
            let pin = store.pins.get_mut(&root).unwrap();
            pin.offset = 0;
        }
        for block in &blocks {
            store.remove(&block.id()).unwrap();
        }
        store.begin_commit().unwrap();
        assert!(store.gaps.around(end - 8).is_none());
        store.background.move_after = Some(0);
        work_all(&mut store);
        assert!(store.gaps.around(end - 8).is_some());
        assert!(store.pending.is_empty());
    }
}

#[test]
fn checkpoint_that_is_written_while_gaps_join_has_them_all() {
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().entries_per_slice = Some(8192);
    let mut store = open_with(&Image::default(), &log, allot(1 << 30));
    store.background.move_after = Some(u64::MAX);
    let blocks: Vec<Block> = (0..60_000u32).map(|n| block(&n.to_be_bytes())).collect();
    put_all(&mut store, &blocks);
    for block in blocks.iter().step_by(3) {
        store.remove(&block.id()).unwrap();
    }
    store.begin_commit().unwrap();
    let places = blocks.iter().map(|block| {
        let entry = store.find(&block.id());
        (entry.map_or(0, |entry| entry.offset), block.id())
    });
    let places: std::collections::BTreeMap<u64, BlockId> = places.collect();
    // After each slice the blocks go that lie between the last gap that was written and the next.
    let sides = |log: &Rc<RefCell<Log>>| {
        let log = log.borrow();
        let sealed = log.ops.iter().filter(|op| matches!(op, Op::CutSide(..)));
        sealed.count()
    };
    let mut joined = 0;
    while sides(&log) == 0 {
        assert!(store.has_work());
        store.work();
        let writer = store.background.writer.as_ref();
        let next = writer.and_then(|writer| writer.next_gap());
        let id = next.and_then(|next| places.get(&next));
        // There are two of them; none any more behind the last gap of all.
        if let Some(entry) = id.and_then(|id| store.find(id)) {
            for offset in [entry.offset, entry.offset + record::extent(entry.len)] {
                assert!(store.remove(&places[&offset]).unwrap());
            }
            store.begin_commit().unwrap();
            joined += 1;
        }
    }
    assert!(joined >= 2);
    let expected: Vec<(u64, u64)> = store.gaps.iter().collect();
    let held = store.usage().blocks;
    drop(store);
    let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
    for image in [&seen, &Image::of(&seen.pack)] {
        let store = open_with(image, &Rc::default(), allot(1 << 30));
        assert_eq!(store.opened().has_checkpoint, !image.sides[0].is_empty());
        assert!(store.gaps.iter().eq(expected.iter().copied()));
        assert_eq!(store.usage().blocks, held);
    }
}
