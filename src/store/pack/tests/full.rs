//! A disk without room: what is refused, what goes on, and what makes room again.

use super::super::space::Space;
use super::recorded::{Fault, Image, Log, Recorded, Trouble, Wreck};
use super::*;
use crate::id::Point;
use crate::rng::Rng;
use crate::store::{Claim, Pin, Shrunk};
use std::cell::RefCell;

pub(super) fn open_with(image: &Image, log: &Rc<RefCell<Log>>, allotment: Allotment) -> PackStore {
    let disk = Box::new(Recorded::new(image, log));
    PackStore::open_on(disk, allotment, [7; 32]).unwrap()
}

pub(super) fn claim() -> Claim<'static> {
    Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    }
}

pub(super) fn work_all(store: &mut PackStore) {
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

/// A full pack of blocks of this many bytes, and their addresses.
fn full_pack(
    log: &Rc<RefCell<Log>>,
    capacity: u64,
    len: usize,
    terms: Terms,
) -> (PackStore, Vec<BlockId>) {
    let mut store = open_with(&Image::default(), log, allot(capacity));
    let mut ids = Vec::new();
    loop {
        let mut payload = vec![1; len];
        payload[..4].copy_from_slice(&(ids.len() as u32).to_be_bytes());
        let block = block(&payload);
        if store.put(&block, terms).is_err() {
            break;
        }
        ids.push(block.id());
    }
    store.begin_commit().unwrap();
    (store, ids)
}

#[test]
fn new_terms_stay_within_the_capacity_and_are_kept() {
    for (len, days) in [(100, 60), (4000, 60), (60_000, 300)] {
        let log: Rc<RefCell<Log>> = Rc::default();
        let leased = Terms {
            expires: 100_000,
            hold: Hold::Kept,
        };
        let (mut store, ids) = full_pack(&log, 4 << 20, len, leased);
        let used = |store: &PackStore| {
            let usage = store.usage();
            assert!(usage.used_bytes <= usage.capacity_bytes, "{usage:?}");
            assert!(store.disk.allocated().unwrap() <= usage.used_bytes);
        };
        for id in &ids {
            store.release(id, Hold::Kept);
            store.begin_commit().unwrap();
            used(&store);
        }
        for hour in 0..24 * days {
            store.set_time(u64::from(hour) * 3600);
            for id in &ids {
                store.keep_until(id, 720 + hour);
            }
            for _ in 0..5 {
                store.work();
                used(&store);
            }
        }
        work_all(&mut store);
        // They are said about twice, not as often as they changed.
        let notes: u64 = store.terms_notes.iter().map(|it| it.1 - it.0).sum();
        assert!(
            notes <= ids.len() as u64 * TERMS_CHARGE + TERMS_SLACK,
            "{notes}"
        );
        let expected: Vec<Terms> = ids.iter().map(|id| store.terms(id).unwrap()).collect();
        assert!(expected
            .iter()
            .all(|it| it.expires >= 719 + 24 * days && it.hold == Hold::Free));
        store.begin_commit().unwrap();
        drop(store);
        let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
        let store = open_with(&Image::of(&seen.pack), &Rc::default(), allot(4 << 20));
        let found = ids.iter().map(|id| store.terms(id).unwrap());
        assert!(found.eq(expected));
    }
}

#[test]
fn terms_wait_where_there_is_no_room_for_them_and_gaps_do_not() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let (mut store, ids) = full_pack(&log, 4 << 20, 4000, Terms::default());
    store.space.allotment.capacity = store.usage().used_bytes;
    for id in &ids {
        store.keep_until(id, 5000);
        store.begin_commit().unwrap();
        assert!(store.usage().used_bytes <= store.usage().capacity_bytes);
    }
    work_all(&mut store);
    assert!(!store.pending.terms.is_empty());
    for id in &ids[..ids.len() / 2] {
        store.remove(id).unwrap();
        store.begin_commit().unwrap();
        assert!(store.usage().used_bytes <= store.usage().capacity_bytes);
    }
    work_all(&mut store);
    store.set_time(NOTE_RETRY_SECS);
    work_all(&mut store);
    assert!(store.pending.is_empty());
    drop(store);
    let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
    let store = open_with(&seen, &Rc::default(), allot(4 << 20));
    let kept = &ids[ids.len() / 2..];
    assert!(kept
        .iter()
        .all(|id| store.terms(id).unwrap().expires == 5000));
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

/// A full pack that was closed and is opened again.
fn full_pack_again(log: &Rc<RefCell<Log>>) -> PackStore {
    let first: Rc<RefCell<Log>> = Rc::default();
    let (mut store, _) = full_pack(&first, 16 << 20, 60_000, Terms::default());
    store.close();
    drop(store);
    let seen = Wreck::new(&Image::default(), &first.borrow().ops).as_seen();
    open_with(&seen, log, allot(16 << 20))
}

#[test]
fn full_pack_that_is_opened_again_makes_room_on_a_full_disk() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = full_pack_again(&log);
    log.borrow_mut().is_full = true;
    log.borrow_mut().free = Some(0);
    let blocks = store.usage().blocks;
    store.make_room(200_000, &claim()).unwrap();
    let dropped = blocks - store.usage().blocks;
    assert!((4..20).contains(&dropped), "{dropped}");
    // After a write that failed as well.
    let refused = store.put(&block(&[1; 200_000]), Terms::default());
    assert!(refused.unwrap_err().is_full());
    store.space.allotment.capacity -= 2 << 20;
    store.make_room(200_000, &claim()).unwrap();
}

#[test]
fn nothing_is_dropped_for_room_that_cannot_come() {
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().is_full = true;
    log.borrow_mut().free = Some(0);
    let mut store = full_pack_again(&log);
    // Until not even a note fits in the last page.
    let pin = |n| Pin {
        root: BlockId([n; 32]),
        len: 9,
    };
    assert!((0..100).any(|n| store.add_pin(pin(n)).is_err()));
    store.begin_marking();
    store.end_marking();
    let blocks = store.usage().blocks;
    for _ in 0..20 {
        assert!(store.make_room(200_000, &claim()).unwrap_err().is_full());
        assert!(!store.could_take(200_000, &claim()));
    }
    let dropped = blocks - store.usage().blocks;
    assert!(dropped < 20, "a single time: {dropped}");

    // The same where holes cannot be made just now.
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = full_pack_again(&log);
    log.borrow_mut().fails_to_punch = true;
    for _ in 0..20 {
        assert!(store.make_room(200_000, &claim()).unwrap_err().is_full());
    }
    let dropped = blocks - store.usage().blocks;
    assert!(dropped < 20, "a single time: {dropped}");
    log.borrow_mut().fails_to_punch = false;
    store.set_time(NOTE_RETRY_SECS);
    store.make_room(200_000, &claim()).unwrap();
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
                    if space.lacks(len, tail, 0, 0) > 0 {
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

#[test]
fn to_ask_for_room_costs_little_when_none_may_go() {
    const COUNT: u32 = 300_000;
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_with(&Image::default(), &log, allot(8 << 30));
    let later = Terms {
        expires: 1000,
        hold: Hold::Free,
    };
    let ids: Vec<BlockId> = (0..COUNT)
        .map(|n| {
            let block = block(&n.to_be_bytes());
            store.put(&block, later).unwrap();
            block.id()
        })
        .collect();
    store.begin_commit().unwrap();
    store.space.allotment.capacity = 1 << 20;
    let far = Claim {
        newcomer: Some(BlockId([255; 32])),
        ..claim()
    };
    let near = Claim {
        newcomer: Some(BlockId([0; 32])),
        ..claim()
    };
    // As many as an offer asks for. A walk over all each time took half a second.
    let ask = |store: &mut PackStore, claim: &Claim<'_>, what: &str| {
        store.could_take(4096, claim);
        let begun = cpu_time();
        for _ in 0..256 {
            assert!(!store.could_take(4096, claim), "{what}");
        }
        let took = cpu_time() - begun;
        println!("256 x could_take of a full pack, {what}: {took:?}");
        assert!(took.as_millis() < 100, "{took:?}");
    };
    ask(&mut store, &far, "for one that is far");
    store.keep_until(&ids[5], 2000);
    store.begin_commit().unwrap();
    ask(&mut store, &far, "after a renewal");
    store.set_time(3600);
    ask(&mut store, &far, "in the next hour");
    // An expired one that is in use, and the farthest in use as well.
    let used = block(b"in use");
    let expired = Terms {
        expires: 1,
        hold: Hold::Free,
    };
    store.space.allotment.capacity = 8 << 30;
    store.put(&used, expired).unwrap();
    store.begin_commit().unwrap();
    store.space.allotment.capacity = 1 << 20;
    let is_in_use = |id: &BlockId| *id == used.id();
    let far = Claim {
        is_in_use: &is_in_use,
        ..far
    };
    ask(&mut store, &far, "with an expired block in use");
    store.begin_marking();
    for id in &ids {
        store.mark(id);
    }
    store.end_marking();
    assert!(store.is_pinned(&ids[0]) && !store.is_pinned(&used.id()));
    let is_in_use = |id: &BlockId| *id == used.id();
    let near = Claim {
        is_in_use: &is_in_use,
        ..near
    };
    ask(&mut store, &near, "with all others pinned");
    store.mark(&used.id());
    ask(&mut store, &near, "with all pinned");
    store.remove_pin(&ids[0]).unwrap();
    store.begin_marking();
    assert!(store.is_pinned(&ids[0]), "until all are marked anew");
    store.end_marking();
    assert!(!store.is_pinned(&ids[0]));
    assert!(store.could_take(4096, &near));
}

#[test]
fn what_the_disk_has_no_room_for_is_refused_before_it_is_sent() {
    let log: Rc<RefCell<Log>> = Rc::default();
    let allotment = Allotment {
        capacity: 64 << 20,
        min_free: 1 << 30,
    };
    let mut store = open_with(&Image::default(), &log, allotment);
    assert!(store.could_take(200_000, &claim()));
    log.borrow_mut().free = Some((1 << 30) + 100_000);
    assert!(!store.could_take(200_000, &claim()));
    assert!(store.could_take(20_000, &claim()));
    log.borrow_mut().free = Some(0);
    assert!(!store.could_take(200_000, &claim()));
    log.borrow_mut().free = None;
    assert!(store.could_take(200_000, &claim()));

    // The file system has room, but not for this user.
    log.borrow_mut().is_full = true;
    let refused = store.put(&block(&[1; 200_000]), Terms::default());
    assert!(matches!(refused, Err(StoreError::DiskFull(..))));
    assert!(!store.could_take(200_000, &claim()));
    log.borrow_mut().is_full = false;
    store.set_time(NOTE_RETRY_SECS);
    assert!(store.could_take(200_000, &claim()));
}

/// Shrinks as a node does, with an hour's work at most; what came of it in the end.
fn shrink_all(store: &mut PackStore) -> Shrunk {
    let mut last = Shrunk::Later;
    for _ in 0..2000 {
        if store.has_work() {
            store.work();
        } else if store.is_overfull() {
            let blocks = store.usage().blocks;
            last = store.shrink(&claim()).unwrap();
            assert!(blocks - store.usage().blocks <= EVICTIONS_MAX as u64);
            if last == Shrunk::Nothing {
                return last;
            }
        } else {
            return last;
        }
    }
    last
}

#[test]
fn pack_that_is_given_less_shrinks_to_it_and_keeps_what_is_pinned_or_leased() {
    for is_holeless in [false, true] {
        for len in [300, 5000, 60_000] {
            let log: Rc<RefCell<Log>> = Rc::default();
            log.borrow_mut().is_holeless = is_holeless;
            let later = Terms {
                expires: 1000,
                hold: Hold::Free,
            };
            let (mut store, ids) = full_pack(&log, 16 << 20, len, later);
            store.begin_marking();
            let mut by_distance = ids.clone();
            by_distance.sort_unstable();
            // The farthest of all, one pinned, one leased, and one that has expired.
            let [pinned, leased] = [1, 2].map(|nth| by_distance[ids.len() - nth]);
            let expired = by_distance[0];
            store
                .add_pin(Pin {
                    root: pinned,
                    len: 9,
                })
                .unwrap();
            let lease = Terms {
                hold: Hold::Kept,
                ..later
            };
            let entry = store.find(&leased).unwrap();
            store.set_terms(&leased, &entry, lease);
            let entry = store.find(&expired).unwrap();
            store.set_terms(&expired, &entry, Terms::default());
            store.close();
            drop(store);
            let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
            log.borrow_mut().ops.clear();
            let mut store = open_with(&seen, &log, allot(8 << 20));
            assert!(store.is_overfull());
            assert_eq!(
                shrink_all(&mut store),
                Shrunk::Later,
                "it is not known what is pinned"
            );
            assert_eq!(store.usage().blocks, ids.len() as u64);
            store.begin_marking();
            assert!(store.mark(&pinned));
            store.end_marking();
            assert_eq!(shrink_all(&mut store), Shrunk::Some);
            let limit = store.space.limit();
            assert!(store.usage().used_bytes <= limit, "{:?}", store.usage());
            assert!(
                store.usage().used_bytes >= limit * 3 / 4,
                "{:?}",
                store.usage()
            );
            assert!(store.disk.allocated().unwrap() <= limit);
            assert!(store.has(&pinned) && store.has(&leased) && !store.has(&expired));
            let left: Vec<bool> = by_distance.iter().map(|id| store.has(id)).collect();
            let closest = left.iter().skip(1).take_while(|it| **it).count();
            assert_eq!(
                closest + 2,
                store.usage().blocks as usize,
                "the farthest have gone"
            );

            // All that is left is pinned.
            store.begin_marking();
            for id in &by_distance {
                store.mark(id);
            }
            store.end_marking();
            store.space.allotment.capacity = 1 << 20;
            let blocks = store.usage().blocks;
            assert_eq!(shrink_all(&mut store), Shrunk::Nothing);
            assert_eq!(store.usage().blocks, blocks);
        }
    }
}
