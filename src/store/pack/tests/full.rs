//! A disk without room: what is refused, what goes on, and what makes room again.

use super::super::space::Space;
use super::recorded::{Fault, Image, Log, Recorded, Trouble, Wreck};
use super::*;
use crate::id::Point;
use crate::rng::Rng;
use crate::store::{Claim, Pin};
use std::cell::RefCell;

fn open_with(image: &Image, log: &Rc<RefCell<Log>>, allotment: Allotment) -> PackStore {
    let disk = Box::new(Recorded::new(image, log));
    PackStore::open_on(disk, allotment, [7; 32]).unwrap()
}

fn claim() -> Claim<'static> {
    Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    }
}

fn work_all(store: &mut PackStore) {
    for _ in 0..10_000 {
        if !store.has_work() {
            return;
        }
        store.work();
    }
    panic!("there is always more to be done");
}

#[test]
fn reads_removal_pins_and_reclaiming_go_on_without_room_on_the_disk() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_with(&Image::default(), &log, allot(64 << 20));
    let blocks: Vec<Block> = (0..100u8).map(|n| block(&vec![n; 100_000])).collect();
    put_all(&mut store, &blocks[..30]);
    log.borrow_mut().free = Some(0);
    // Until what had been set aside is used up.
    let refused = blocks[30..]
        .iter()
        .find_map(|it| store.put(it, Terms::default()).err());
    let refused = refused.expect("nothing is free");
    assert!(refused.is_full(), "{refused}");
    assert!(refused.to_string().contains("free some space on the disk"));
    let held = served(&mut store, &blocks).iter().filter(|it| **it).count();
    assert!((30..100).contains(&held));
    // Notes have a place of their own.
    let before = store.disk.allocated().unwrap();
    let pin = Pin {
        root: blocks[29].id(),
        len: 100_000,
    };
    store.add_pin(pin).unwrap();
    for block in &blocks[..20] {
        assert!(store.remove(&block.id()).unwrap());
    }
    store.begin_commit().unwrap();
    work_all(&mut store);
    assert!(!store.usage().is_read_only);
    let after = store.disk.allocated().unwrap();
    assert!(
        before - after > 20 * 90_000,
        "{before} before, {after} after"
    );
    // What came back is free for all, and so for us.
    log.borrow_mut().free = Some(before - after);
    let again: Vec<Block> = blocks[..10].to_vec();
    put_all(&mut store, &again);
    drop(store);
    let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
    let mut store = open_with(&seen, &log, allot(64 << 20));
    assert_eq!(store.pins(), [pin]);
    let found = served(&mut store, &blocks);
    assert!(found[..10].iter().all(|it| *it) && !found[10..20].contains(&true));
}

#[test]
fn what_is_to_be_left_free_is_refused_before_anything_is_written() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let min_free = 1 << 30;
    let allotment = Allotment {
        capacity: 64 << 20,
        min_free,
    };
    let mut store = open_with(&Image::default(), &log, allotment);
    log.borrow_mut().free = Some(min_free + 1_000_000);
    let mut written = 0;
    let refused = (0..20u8).find_map(|n| {
        let before = log.borrow().ops.len();
        let refused = store.put(&block(&vec![n; 100_000]), Terms::default()).err();
        match &refused {
            Some(_) => assert_eq!(log.borrow().ops.len(), before, "nothing is written"),
            None => written += 1,
        }
        let taken = store.disk.allocated().unwrap();
        log.borrow_mut().free = Some(min_free + 1_000_000 - taken);
        refused
    });
    assert!(matches!(refused, Some(StoreError::MinFree { min_free: it }) if it == min_free));
    assert!((7..10).contains(&written), "{written}");
    // To drop blocks for others is no way out of it, but does no harm either.
    let made = store.make_room(100_000, &claim());
    assert!(made.is_ok() || made.is_err_and(|error| error.is_full()));
    assert!(log.borrow().free >= Some(min_free));
}

#[test]
fn full_pack_makes_room_on_a_full_disk() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_with(&Image::default(), &log, allot(4 << 20));
    let blocks: Vec<Block> = (0..200u8).map(|n| block(&vec![n; 60_000])).collect();
    let mut free = 5u64 << 20;
    for block in &blocks {
        let before = store.disk.allocated().unwrap();
        log.borrow_mut().free = Some(free);
        store.make_room(60_000, &claim()).unwrap();
        let between = store.disk.allocated().unwrap();
        free = (free + before).checked_sub(between).unwrap();
        log.borrow_mut().free = Some(free);
        store.put(block, Terms::default()).unwrap();
        store.begin_commit().unwrap();
        let after = store.disk.allocated().unwrap();
        free = (free + between).checked_sub(after).unwrap();
        assert!(store.usage().used_bytes <= 4 << 20);
    }
    assert!(served(&mut store, &blocks)[199]);
    assert!(store.usage().blocks > 30);
}

#[test]
fn space_never_passes_its_limit_whatever_is_done() {
    for seed in 0..200u8 {
        let mut rng = Rng::new([seed; 32]);
        let log: Rc<RefCell<Log>> = Rc::default();
        let mut disk = Recorded::new(&Image::of(&[1; 64]), &log);
        let capacity = (8 + rng.below(64)) << 16;
        let mut space = Space::new(&disk, allot(capacity), 64).unwrap();
        let (mut tail, mut blocks) = (64, Vec::new());
        for _ in 0..300 {
            match rng.below(4) {
                0 if !blocks.is_empty() => {
                    let nth = rng.below(blocks.len() as u64) as usize;
                    space.remove(blocks.swap_remove(nth));
                }
                1 => space.measure(&disk, tail),
                2 => {
                    disk.set_len(tail).unwrap();
                    space.cut(&disk, tail);
                }
                _ => {
                    let len = 1 + rng.below(20_000) as u32;
                    let extent = record::extent(len);
                    if space.lacks(len, tail, 0) > 0 {
                        continue;
                    }
                    let used = space.used(0) + space.headroom();
                    let room = space.limit().saturating_sub(used);
                    space.grow(&mut disk, tail, extent, room).unwrap();
                    space.add(len);
                    blocks.push(len);
                    tail += extent;
                }
            }
            assert!(space.used(0) <= capacity, "{} of {capacity}", space.used(0));
            assert!(disk.allocated().unwrap() <= space.used(0));
        }
    }
}

#[test]
fn file_system_that_sets_nothing_aside_is_counted_as_if_it_did() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut disk = Recorded::new(&Image::of(&[1; 4096]), &log);
    let mut space = Space::new(&disk, allot(64 << 20), 4096).unwrap();
    let before = space.used(0);
    // After it has been asked what is free.
    let call = log.borrow().calls + 1;
    log.borrow_mut().fault = Some(Fault {
        call,
        for_ever: false,
        trouble: Trouble::Error(libc::EOPNOTSUPP),
    });
    space.grow(&mut disk, 4096, 10_000, 1 << 20).unwrap();
    assert_eq!(disk.allocated().unwrap(), 4096);
    let counted = space.used(0) - before;
    assert!(counted >= 10_000 + NOTE_RESERVE);
    // And stays counted as long as it is ahead of the tail.
    space.measure(&disk, 4096);
    assert_eq!(space.used(0) - before, counted);
    // Another error is one.
    let mut space = Space::new(&disk, allot(64 << 20), 4096).unwrap();
    let call = log.borrow().calls + 1;
    log.borrow_mut().fault = Some(Fault {
        call,
        for_ever: true,
        trouble: Trouble::Error(libc::ENOSPC),
    });
    let refused = space.grow(&mut disk, 4096, 10_000, 1 << 20);
    assert!(refused.unwrap_err().is_full());
    assert_eq!(space.used(0), before);
}
