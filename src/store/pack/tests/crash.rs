//! Loses power after every call, in every way that a disk may, and looks at what an opening finds.
//!
//! Environment: `STREW_TORTURE_STATES`, how many states of a wrecked disk are opened (default 50,000);
//! `STREW_TORTURE_SEED`, a number that decides everything. Both are printed.

use super::super::index::Entry;
use super::super::record::ADDRESS_AT;
use super::super::PackStore;
use super::recorded::{Log, Op, Recorded, Wreck};
use super::{block, number_from_environment};
use crate::block::Block;
use crate::id::BlockId;
use crate::rng::Rng;
use crate::store::{Put, Store};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const STATES: u64 = 50_000;

/// All subsets are tried of so many steps in doubt at most.
const DOUBTS_MAX: usize = 10;

/// Crashes of one pack, one after the other; the last opening is followed by more puts.
const GENERATIONS: u32 = 3;

/// One in so many recoveries is itself crashed, after each of its calls.
const NESTED_ONE_IN: u64 = 16;

/// Crashes during recoveries from crashes during recoveries.
const DEPTH_MAX: u32 = 2;

/// A pack's life, as known from outside.
#[derive(Default)]
struct History {
    /// Everything that was ever put.
    put: BTreeMap<BlockId, Block>,
    /// What must be there, in the order in which it was acknowledged.
    acknowledged: Vec<BlockId>,
    is_acknowledged: BTreeSet<BlockId>,
}

impl History {
    fn acknowledge(&mut self, ids: impl IntoIterator<Item = BlockId>) {
        for id in ids {
            if self.is_acknowledged.insert(id) {
                self.acknowledged.push(id);
            }
        }
    }
}

struct Torture {
    rng: Rng,
    states: u64,
    target: u64,
    /// Random subsets where there are too many for all.
    samples: u64,
}

pub fn open_recorded(image: &[u8], log: &Rc<RefCell<Log>>) -> PackStore {
    let disk = Box::new(Recorded::new(image, log));
    PackStore::open_on(disk, 1 << 30, [7; 32]).expect("a wreck can be opened")
}

/// Every block that the store has, each read and compared with what was put.
pub fn held(store: &mut PackStore, put: &BTreeMap<BlockId, Block>) -> BTreeSet<BlockId> {
    let header = |offset| {
        store
            .disk
            .slice(offset + ADDRESS_AT, 32)
            .expect("it is in the file")
    };
    let address = |entry: Entry| BlockId(header(entry.offset).try_into().expect("32 bytes"));
    let ids: BTreeSet<BlockId> = store.index.iter().map(address).collect();
    for id in &ids {
        let block = put.get(id).expect("only what was put appears");
        let len = block.payload().len() as u32;
        assert_eq!(store.check(id), Some((block.kind(), len)));
        assert_eq!(store.payload(id), Some(block.payload()));
    }
    assert_eq!(store.usage().blocks, ids.len() as u64);
    ids
}

impl Torture {
    /// Opens one state; what is acknowledged must be there, what was never put must not, and a second opening
    /// must find the same and nothing to do.
    fn open_wreck(&mut self, image: &[u8], must: &[BlockId], history: &History, depth: u32) {
        self.states += 1;
        let log = Rc::default();
        let mut store = open_recorded(image, &log);
        let found = held(&mut store, &history.put);
        for id in must {
            assert!(found.contains(id), "{id} was acknowledged and is lost");
        }
        let (damaged, usage) = (store.opened().damaged.clone(), store.usage());
        drop(store);

        let ops = std::mem::take(&mut log.borrow_mut().ops);
        assert!(matches!(ops.last(), Some(Op::Sync | Op::SyncName)));
        if ops.len() == 1 {
            return;
        }
        let repaired = Wreck::new(image, &ops).as_seen();
        let log = Rc::default();
        let mut store = open_recorded(&repaired, &log);
        assert_eq!(store.opened().cut_bytes, 0, "nothing is left to repair");
        assert_eq!(store.opened().damaged, damaged);
        assert_eq!(store.usage(), usage);
        assert_eq!(held(&mut store, &history.put), found);
        assert_eq!(log.borrow().ops.len(), 1, "only a sync");

        if depth < DEPTH_MAX && self.rng.below(NESTED_ONE_IN) == 0 {
            for end in 1..=ops.len() {
                let wreck = Wreck::new(image, &ops[..end]);
                self.open_subsets(&wreck, must, history, depth + 1);
            }
        }
    }

    /// Opens every state in which a loss of power can have left the disk, or many of them.
    fn open_subsets(&mut self, wreck: &Wreck<'_>, must: &[BlockId], history: &History, depth: u32) {
        if wreck.doubts <= DOUBTS_MAX {
            for subset in 0..1u64 << wreck.doubts {
                for &len in &wreck.lens {
                    let image = wreck.image(|doubt| subset >> doubt & 1 == 1, len);
                    self.open_wreck(&image, must, history, depth);
                }
            }
            return;
        }
        for sample in 0..self.samples {
            let len = wreck.lens[self.rng.below(wreck.lens.len() as u64) as usize];
            let image = self.random_image(wreck, sample, len);
            self.open_wreck(&image, must, history, depth);
        }
    }

    /// One step missing, one step alone, or any few or many of them.
    fn random_image(&mut self, wreck: &Wreck<'_>, sample: u64, len: u64) -> Vec<u8> {
        let one = self.rng.below(wreck.doubts as u64) as usize;
        let density = [1, 8, 15][self.rng.below(3) as usize];
        let chosen: Vec<bool> = (0..wreck.doubts)
            .map(|doubt| match sample % 4 {
                0 => doubt != one,
                1 => doubt == one,
                _ => self.rng.below(16) < density,
            })
            .collect();
        wreck.image(|doubt| chosen[doubt], len)
    }

    /// A new block: mostly of a few sectors.
    fn new_block(&mut self, full: bool) -> Block {
        let len = match self.rng.below(10) {
            _ if full => crate::limits::BLOCK_SIZE_MAX as u64,
            0..6 => 8 + self.rng.below(300),
            6..9 => 8 + self.rng.below(1500),
            _ => 8 + self.rng.below(4096 - 8 + 1),
        };
        // Of few different bytes, so that torn sectors are seldom told apart by chance.
        let mut payload = vec![self.rng.below(3) as u8; len as usize];
        payload[..8].copy_from_slice(&self.rng.bytes::<8>());
        block(&payload)
    }

    /// One pack, from its creation through some crashes.
    fn run(&mut self, full: bool) {
        let mut history = History::default();
        let mut image = Vec::new();
        for generation in 0..GENERATIONS {
            let log: Rc<RefCell<Log>> = Rc::default();
            let mut store = open_recorded(&image, &log);
            // After how many calls how many blocks were acknowledged. What an opening finds counts as such: it is
            // not written again.
            let before = history.acknowledged.len();
            let mut milestones = vec![(0, before)];
            history.acknowledge(held(&mut store, &history.put));
            milestones.push((log.borrow().ops.len(), history.acknowledged.len()));
            let mut waiting = Vec::new();
            for _ in 0..if full { 3 } else { 2 + self.rng.below(12) } {
                let block = self.new_block(full);
                history.put.insert(block.id(), block.clone());
                assert!(matches!(store.put(&block), Ok(Put::Written(_))));
                waiting.push(block.id());
                if self.rng.below(3) == 0 {
                    store.begin_commit().expect("the disk is sound");
                    history.acknowledge(waiting.drain(..));
                    milestones.push((log.borrow().ops.len(), history.acknowledged.len()));
                }
            }
            drop(store);

            let ops = std::mem::take(&mut log.borrow_mut().ops);
            let must_after = |calls: usize| {
                let reached = milestones.iter().rev().find(|(at, _)| *at <= calls);
                reached.expect("the first is at 0").1
            };
            for end in 0..=ops.len() {
                if self.states >= self.target {
                    return;
                }
                let must = &history.acknowledged[..must_after(end)];
                let wreck = Wreck::new(&image, &ops[..end]);
                self.open_subsets(&wreck, must, &history, 0);
                let named = ops[..end].iter().any(|op| matches!(op, Op::SyncName));
                if generation == 0 && !named {
                    self.open_wreck(&[], must, &history, 0);
                }
            }
            let end = self.rng.below(ops.len() as u64 + 1) as usize;
            let wreck = Wreck::new(&image, &ops[..end]);
            let len = wreck.lens[self.rng.below(wreck.lens.len() as u64) as usize];
            let next = match wreck.doubts {
                0 => wreck.as_seen(),
                _ => self.random_image(&wreck, 2, len),
            };
            image = next;
            let kept = must_after(end);
            for id in history.acknowledged.split_off(kept) {
                history.is_acknowledged.remove(&id);
            }
        }
    }
}

#[test]
fn no_loss_of_power_loses_what_was_acknowledged() {
    let target = number_from_environment("STREW_TORTURE_STATES", STATES);
    let seed = number_from_environment("STREW_TORTURE_SEED", 1);
    println!("repeat with STREW_TORTURE_STATES={target} STREW_TORTURE_SEED={seed}");
    let mut full_states = 0;
    let mut torture = Torture {
        rng: Rng::new(std::array::from_fn(|i| {
            seed.to_be_bytes().get(i).copied().unwrap_or(0)
        })),
        states: 0,
        target,
        samples: (target / 500).clamp(16, 1000),
    };
    let mut runs = 0;
    while torture.states < target {
        let full = full_states * 100 < torture.states;
        let (before, samples) = (torture.states, torture.samples);
        if full {
            torture.samples = 4;
        }
        torture.run(full);
        torture.samples = samples;
        runs += 1;
        if full {
            full_states += torture.states - before;
        }
    }
    println!(
        "{} states of {runs} packs, {full_states} with full blocks",
        torture.states
    );
}
