//! Lets each call of the disk fail in turn, in each way, once and for ever: nothing that was acknowledged is
//! lost, what is refused leaves nothing behind, and what is held can be read all the while.

use super::super::PackStore;
use super::crash::{contents, held, open_recorded};
use super::recorded::{Fault, Image, Log, Op, Recorded, Trouble, Wreck};
use super::{allot, block};
use crate::block::Block;
use crate::id::BlockId;
use crate::rng::Rng;
use crate::store::{Pin, Put, Sequence, Store, StoreError, Terms};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const TROUBLES: [Trouble; 6] = [
    Trouble::Error(libc::EIO),
    Trouble::Error(libc::ENOSPC),
    Trouble::Error(libc::EDQUOT),
    Trouble::Error(libc::EINTR),
    Trouble::Short,
    Trouble::End,
];

/// Losses of power that are tried after each run.
const WRECKS: u64 = 4;

/// Blocks of a few sectors each, the same in every run.
fn blocks() -> Vec<Block> {
    [20, 700, 90, 1500, 8, 600, 3000, 40]
        .iter()
        .enumerate()
        .map(|(n, &len)| block(&vec![n as u8; len]))
        .collect()
}

/// What a run has learnt from the store.
#[derive(Default)]
struct Known {
    put: BTreeMap<BlockId, Block>,
    acknowledged: BTreeSet<BlockId>,
    waiting: Vec<(Sequence, BlockId)>,
    has_sync_failed: bool,
    /// Places that are damaged, whatever fails.
    damaged: usize,
    log: Rc<RefCell<Log>>,
}

/// Files that a run begins with.
#[derive(Default)]
struct Begun {
    image: Image,
    /// What is sound in them.
    kept: Vec<Block>,
    /// What was in them, and is damaged.
    lost: Vec<Block>,
}

impl Known {
    fn put(&mut self, store: &mut PackStore, block: &Block) {
        let id = block.id();
        let usage = |store: &PackStore| (store.usage().blocks, store.usage().held);
        let before = (store.has(&id), usage(store));
        self.put.insert(id, block.clone());
        match store.put(block, Terms::default()) {
            Ok(put) => {
                assert!(!self.has_sync_failed, "it is read-only");
                if self.log.borrow().failed_reads == 0 {
                    assert_eq!(before.0, matches!(put, Put::Had(_)));
                }
                self.waiting.push((put.sequence(), id));
            }
            Err(error) => {
                assert_eq!((store.has(&id), usage(store)), before, "{error}");
                let is_read_only = matches!(error, StoreError::ReadOnly);
                assert_eq!(is_read_only, self.has_sync_failed, "{error}");
            }
        }
        self.learn(store);
    }

    /// Takes a block out and pins another, and does what is to be done in the background.
    fn upset(&mut self, store: &mut PackStore, block: &Block) {
        let id = block.id();
        let (had, before) = (store.has(&id), store.usage().blocks);
        match store.remove(&id) {
            Ok(was) => {
                assert_eq!(store.usage().blocks, before - u64::from(was));
                assert!(was == had || self.log.borrow().failed_reads > 0);
                if was {
                    self.acknowledged.remove(&id);
                    self.waiting.retain(|waiting| waiting.1 != id);
                }
            }
            Err(error) => assert_eq!(matches!(error, StoreError::ReadOnly), self.has_sync_failed),
        }
        let pin = Pin { root: id, len: 5 };
        let pinned = store.add_pin(pin);
        assert!(pinned.is_err() || store.pins().contains(&pin));
        for _ in 0..16 {
            store.work();
            self.end_commit(store);
            self.has_sync_failed |= store.usage().is_read_only;
        }
        self.learn(store);
    }

    fn commit(&mut self, store: &mut PackStore) {
        match store.begin_commit() {
            Ok(()) => assert!(!self.has_sync_failed, "a failed sync is final"),
            Err(StoreError::ReadOnly) => assert!(self.has_sync_failed),
            Err(_) => self.has_sync_failed = true,
        }
        self.end_commit(store);
        self.learn(store);
    }

    /// Lets the disk end a commit that is under way.
    fn end_commit(&mut self, store: &mut PackStore) {
        if store.is_committing() {
            self.log.borrow_mut().may_end = true;
            self.has_sync_failed = store.poll_commit().is_err();
        }
    }

    /// Reads all of the pack, and looks for every block.
    fn verify(&mut self, store: &mut PackStore) {
        let (mut next, mut damaged) = (Some(0), 0);
        while let Some(from) = next {
            let step = store.verify(from, &|_| true);
            damaged += step.damaged.len();
            next = step.next;
        }
        if self.log.borrow().failed_reads == 0 {
            assert_eq!(damaged, self.damaged);
        }
        for (id, block) in &self.put {
            if let Some((kind, len)) = store.check(id) {
                assert_eq!((kind, len as usize), (block.kind(), block.payload().len()));
                assert!(store.payload(id) == Some(block.payload()));
            }
        }
        self.learn(store);
    }

    /// Notes what is durable, and reads everything that is.
    fn learn(&mut self, store: &mut PackStore) {
        match store.poll_commit() {
            Ok(durable) => {
                let (reached, rest) = std::mem::take(&mut self.waiting)
                    .into_iter()
                    .partition(|(sequence, _)| *sequence <= durable);
                self.waiting = rest;
                let reached: Vec<(Sequence, BlockId)> = reached;
                self.acknowledged.extend(reached.iter().map(|it| it.1));
            }
            Err(error) => {
                assert!(matches!(error, StoreError::ReadOnly), "{error}");
                assert!(self.has_sync_failed);
            }
        }
        for id in &self.acknowledged {
            match store.check(id) {
                Some(_) => assert!(store.payload(id) == Some(self.put[id].payload())),
                // What cannot be read is not given; it is not lost.
                None => assert!(self.log.borrow().failed_reads > 0, "{id} is still held"),
            }
        }
    }
}

/// Opens, puts, commits, verifies and puts again, with a fault; whether the fault was met.
fn run(begun: &Begun, is_holeless: bool, syncs_beside: bool, fault: Fault) -> bool {
    let (image, kept) = (&begun.image, &begun.kept);
    let context = format!("{fault:?}");
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().fault = Some(fault);
    log.borrow_mut().is_holeless = is_holeless;
    log.borrow_mut().entries_per_slice = Some(1);
    log.borrow_mut().syncs_beside = syncs_beside;
    let mut known = Known {
        log: log.clone(),
        damaged: begun.lost.len(),
        ..Known::default()
    };
    for block in &begun.lost {
        known.put.insert(block.id(), block.clone());
    }
    for block in kept {
        known.put.insert(block.id(), block.clone());
        known.acknowledged.insert(block.id());
    }
    let disk = Box::new(Recorded::new(image, &log));
    if let Ok(mut store) = PackStore::open_on(disk, allot(1 << 20), [7; 32]) {
        store.background.checkpoint_after = 4;
        store.background.move_after = Some(0);
        store.background.copy_step = 500;
        if log.borrow().failed_reads == 0 {
            assert_eq!(store.usage().blocks, kept.len() as u64, "{context}");
        }
        known.learn(&mut store);
        if !fault.for_ever {
            let blocks = blocks();
            for step in [&blocks[..3], &blocks[2..6], &blocks[6..], &blocks[..]] {
                for block in step {
                    known.put(&mut store, block);
                }
                known.commit(&mut store);
                known.upset(&mut store, &step[0]);
            }
            known.verify(&mut store);
            for block in &begun.lost {
                known.put(&mut store, block);
            }
            // Twice, since it may be just now that a call fails.
            for block in blocks.iter().chain(&blocks) {
                known.put(&mut store, block);
            }
            known.commit(&mut store);
            // Only one call failed: all was put in the end, or nothing after a failed sync.
            let all = blocks.iter().all(|block| store.has(&block.id()));
            if log.borrow().failed_reads == 0 {
                assert_eq!(all, !known.has_sync_failed, "{context}");
            }
        } else {
            for chunk in blocks().chunks(3) {
                for block in chunk {
                    known.put(&mut store, block);
                }
                known.commit(&mut store);
                known.upset(&mut store, &chunk[0]);
            }
            known.verify(&mut store);
        }
        store.close();
    }
    let met = log.borrow().calls > fault.call;
    let ops = std::mem::take(&mut log.borrow_mut().ops);
    if !met && is_holeless && !fault.for_ever {
        assert!(
            ops.iter().any(|op| matches!(op, Op::Replace)),
            "a copy is made"
        );
    }
    reopen(image, is_holeless, &ops, &known, fault);
    met
}

/// What was acknowledged is there after a loss of power. It also is if the process is only started again, and
/// what that one holds survives a loss of power in turn.
fn reopen(image: &Image, is_holeless: bool, ops: &[Op], known: &Known, fault: Fault) {
    let mut rng = Rng::new([fault.call as u8; 32]);
    let mut wrecks = |image: &Image, ops: &[Op], must: &BTreeSet<BlockId>| {
        let mut wreck = Wreck::new(image, ops);
        let other = wreck.other.take();
        for wreck in [Some(wreck), other.map(|it| *it)].into_iter().flatten() {
            for n in 0..WRECKS {
                let chosen: Vec<bool> = (0..wreck.doubts)
                    .map(|_| n != 0 && (n == 1 || rng.below(2) == 0))
                    .collect();
                for &len in &wreck.lens {
                    let image = wreck.image(|doubt| chosen[doubt], |_| n % 2 == 0, len);
                    let mut store = open_recorded(&image, &Rc::default());
                    let found = held(&mut store, &known.put);
                    assert!(must.is_subset(&found), "{fault:?}");
                    if store.opened().has_checkpoint {
                        let without = open_recorded(&Image::of(&image.pack), &Rc::default());
                        let differ = "a checkpoint changes nothing";
                        assert_eq!(contents(&store), contents(&without), "{differ}: {fault:?}");
                    }
                }
            }
        }
    };
    wrecks(image, ops, &known.acknowledged);
    // A disk that fails for ever is not healed by a new process.
    if !fault.for_ever {
        let seen = Wreck::new(image, ops).as_seen();
        let log: Rc<RefCell<Log>> = Rc::default();
        log.borrow_mut().is_holeless = is_holeless;
        let mut store = open_recorded(&seen, &log);
        let found = held(&mut store, &known.put);
        assert!(known.acknowledged.is_subset(&found), "{fault:?}");
        assert_eq!(
            store.opened().damaged.len(),
            known.damaged,
            "a refusal leaves no gap: {fault:?}"
        );
        let mut all = ops.to_vec();
        all.append(&mut log.borrow_mut().ops);
        wrecks(image, &all, &found);
    }
}

/// Puts and commits these blocks, and writes a checkpoint if there is to be one.
fn fill(store: &mut PackStore, blocks: &[Block], has_checkpoint: bool) {
    for block in blocks {
        let put = store.put(block, Terms::default());
        put.expect("the disk is sound");
    }
    store.begin_commit().expect("the disk is sound");
    store.background.checkpoint_after = if has_checkpoint { 1 } else { u64::MAX };
    while store.has_work() {
        store.work();
    }
}

/// A pack that has to be made, one with blocks, one with a torn tail to cut, one with two checkpoints, and one with
/// a damaged block.
fn beginnings() -> Vec<Begun> {
    let kept: Vec<Block> = (0..4).map(|n| block(&[100 + n; 333])).collect();
    let pack_of = |parts: &[(&[Block], bool)]| {
        let log = Rc::default();
        let mut store = open_recorded(&Image::default(), &log);
        for (blocks, has_checkpoint) in parts {
            fill(&mut store, blocks, *has_checkpoint);
        }
        let image = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
        image
    };
    let whole = pack_of(&[(&kept, false)]);
    let torn = Image::of(&[&whole.pack[..], &[0; 777]].concat());
    let with_checkpoints = pack_of(&[(&kept[..2], true), (&kept[2..3], true), (&kept[3..], false)]);
    assert!(with_checkpoints.sides.iter().all(|side| !side.is_empty()));
    let mut damaged = whole.clone();
    let place = damaged.pack.windows(9).position(|it| it == [101; 9]);
    damaged.pack[place.expect("it is there") + 200] ^= 1;
    let begun = |image: Image| Begun {
        image,
        kept: kept.clone(),
        lost: Vec::new(),
    };
    let mut sound = kept.clone();
    let lost = vec![sound.remove(1)];
    vec![
        Begun::default(),
        begun(whole),
        begun(torn),
        begun(with_checkpoints),
        Begun {
            image: damaged,
            kept: sound,
            lost,
        },
    ]
}

#[test]
fn no_failing_call_loses_what_was_acknowledged() {
    for begun in beginnings() {
        let ways = [(false, true), (true, false), (true, true)];
        let cases = TROUBLES.into_iter();
        for (trouble, (is_holeless, beside)) in cases.flat_map(|it| ways.map(|way| (it, way))) {
            for for_ever in [false, true] {
                let fault = |call| Fault {
                    call,
                    for_ever,
                    trouble,
                };
                let met = (0..).take_while(|&call| run(&begun, is_holeless, beside, fault(call)));
                assert!(met.count() > 3, "there are calls that can fail");
            }
        }
    }
}

#[test]
fn block_that_cannot_be_read_for_a_while_is_not_lost_by_a_copy() {
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().is_holeless = true;
    let mut store = open_recorded(&Image::default(), &log);
    let blocks: Vec<Block> = (0..8).map(|n| block(&[n; 6000])).collect();
    fill(&mut store, &blocks, false);
    store.remove(&blocks[0].id()).expect("the disk is sound");
    store.begin_commit().expect("the disk is sound");
    store.background.move_after = Some(0);
    store.background.copy_step = 1;
    for _ in 0..3 {
        store.work();
    }
    assert!(store.background.compaction.is_some(), "it is under way");
    log.borrow_mut().bad_page = Some(32768);
    let mut next = Some(0);
    while let Some(from) = next {
        next = store.verify(from, &|_| true).next;
    }
    assert!(log.borrow().failed_reads > 0);
    log.borrow_mut().bad_page = None;
    while store.has_work() {
        store.work();
    }
    drop(store);
    let seen = Wreck::new(&Image::default(), &log.borrow().ops).as_seen();
    let mut store = open_recorded(&seen, &Rc::default());
    let put = blocks.iter().map(|it| (it.id(), it.clone())).collect();
    assert_eq!(held(&mut store, &put).len(), 7);
}
