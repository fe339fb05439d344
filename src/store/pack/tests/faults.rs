//! Lets each call of the disk fail in turn, in each way, once and for ever: nothing that was acknowledged is
//! lost, what is refused leaves nothing behind, and what is held can be read all the while.

use super::super::PackStore;
use super::block;
use super::crash::{held, open_recorded};
use super::recorded::{Fault, Log, Op, Recorded, Trouble, Wreck};
use crate::block::Block;
use crate::id::BlockId;
use crate::rng::Rng;
use crate::store::{Put, Sequence, Store, StoreError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const TROUBLES: [Trouble; 5] = [
    Trouble::Error(libc::EIO),
    Trouble::Error(libc::ENOSPC),
    Trouble::Error(libc::EDQUOT),
    Trouble::Error(libc::EINTR),
    Trouble::Short,
];

/// Losses of power that are tried after each run.
const WRECKS: u64 = 6;

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
}

impl Known {
    fn put(&mut self, store: &mut PackStore, block: &Block) {
        let id = block.id();
        let before = (store.has(&id), store.usage());
        self.put.insert(id, block.clone());
        match store.put(block) {
            Ok(put) => {
                assert!(!self.has_sync_failed, "it is read-only");
                assert_eq!(before.0, matches!(put, Put::Had(_)));
                self.waiting.push((put.sequence(), id));
            }
            Err(error) => {
                assert_eq!((store.has(&id), store.usage()), before, "{error}");
                let is_read_only = matches!(error, StoreError::ReadOnly);
                assert_eq!(is_read_only, self.has_sync_failed, "{error}");
            }
        }
        self.learn(store);
    }

    fn commit(&mut self, store: &mut PackStore) {
        match store.begin_commit() {
            Ok(()) => assert!(!self.has_sync_failed, "a failed sync is final"),
            Err(StoreError::ReadOnly) => assert!(self.has_sync_failed),
            Err(_) => self.has_sync_failed = true,
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
            assert!(store.check(id).is_some(), "{id} is still held");
            assert!(store.payload(id) == Some(self.put[id].payload()));
        }
    }
}

/// Opens, puts, commits and puts again, with a fault; whether the fault was met.
fn run(image: &[u8], kept: &[Block], fault: Fault) -> bool {
    let context = format!("{fault:?}");
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().fault = Some(fault);
    let mut known = Known::default();
    for block in kept {
        known.put.insert(block.id(), block.clone());
        known.acknowledged.insert(block.id());
    }
    let disk = Box::new(Recorded::new(image, &log));
    if let Ok(mut store) = PackStore::open_on(disk, 1 << 20, [7; 32]) {
        assert_eq!(held(&mut store, &known.put).len(), kept.len(), "{context}");
        if !fault.for_ever {
            let blocks = blocks();
            for step in [&blocks[..3], &blocks[2..6], &blocks[6..], &blocks[..]] {
                for block in step {
                    known.put(&mut store, block);
                }
                known.commit(&mut store);
            }
            // Only one call failed: all was put in the end, or nothing after a failed sync.
            let all = blocks.iter().all(|block| store.has(&block.id()));
            assert_eq!(all, !known.has_sync_failed, "{context}");
        } else {
            for chunk in blocks().chunks(3) {
                for block in chunk {
                    known.put(&mut store, block);
                }
                known.commit(&mut store);
            }
        }
    }
    let met = log.borrow().calls > fault.call;
    let ops = std::mem::take(&mut log.borrow_mut().ops);
    reopen(image, &ops, &known, fault);
    met
}

/// What was acknowledged is there after a loss of power. It also is if the process is only started again, and
/// what that one holds survives a loss of power in turn.
fn reopen(image: &[u8], ops: &[Op], known: &Known, fault: Fault) {
    let mut rng = Rng::new([fault.call as u8; 32]);
    let mut wrecks = |image: &[u8], ops: &[Op], must: &BTreeSet<BlockId>| {
        let wreck = Wreck::new(image, ops);
        for n in 0..WRECKS {
            let chosen: Vec<bool> = (0..wreck.doubts)
                .map(|_| n != 0 && (n == 1 || rng.below(2) == 0))
                .collect();
            for &len in &wreck.lens {
                let image = wreck.image(|doubt| chosen[doubt], len);
                let mut store = open_recorded(&image, &Rc::default());
                let found = held(&mut store, &known.put);
                assert!(must.is_subset(&found), "{fault:?}");
            }
        }
    };
    wrecks(image, ops, &known.acknowledged);
    // A disk that fails for ever is not healed by a new process.
    if !fault.for_ever {
        let seen = Wreck::new(image, ops).as_seen();
        let log = Rc::default();
        let mut store = open_recorded(&seen, &log);
        let found = held(&mut store, &known.put);
        assert!(known.acknowledged.is_subset(&found), "{fault:?}");
        assert!(store.opened().damaged.is_empty(), "a refusal leaves no gap");
        let mut all = ops.to_vec();
        all.append(&mut log.borrow_mut().ops);
        wrecks(image, &all, &found);
    }
}

#[test]
fn no_failing_call_loses_what_was_acknowledged() {
    // A pack that has to be made, one with blocks, and one with a torn tail to cut.
    let log = Rc::default();
    let mut store = open_recorded(&[], &log);
    let kept: Vec<Block> = (0..4).map(|n| block(&[100 + n; 333])).collect();
    for block in &kept {
        store.put(block).expect("the disk is sound");
    }
    store.begin_commit().expect("the disk is sound");
    let whole = Wreck::new(&[], &log.borrow().ops).as_seen();
    let torn = [&whole[..], &[0; 777]].concat();
    for (image, kept) in [(&[][..], &[][..]), (&whole, &kept), (&torn, &kept)] {
        for trouble in TROUBLES {
            for for_ever in [false, true] {
                let fault = |call| Fault {
                    call,
                    for_ever,
                    trouble,
                };
                let met = (0..).take_while(|&call| run(image, kept, fault(call)));
                assert!(met.count() > 3, "there are calls that can fail");
            }
        }
    }
}
