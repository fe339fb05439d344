//! Loses power after every call, in every way that a disk may, and looks at what an opening finds.
//!
//! Environment: `STREW_TORTURE_STATES`, how many states of a wrecked disk are opened (default 200,000);
//! `STREW_TORTURE_SEED`, a number that decides everything. Both are printed.

use super::super::index::Entry;
use super::super::record::ADDRESS_AT;
use super::super::PackStore;
use super::recorded::{checkpoints_amid_changes, Image, Log, Op, Recorded, Wreck};
use super::{allot, block, number_from_environment};
use crate::block::Block;
use crate::id::BlockId;
use crate::rng::Rng;
use crate::store::{Hold, Pin, Put, Store, Terms};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const STATES: u64 = 200_000;

/// All subsets are tried of so many steps in doubt at most: of every other pack, and of the rest, of which there are
/// many more.
const DOUBTS_MAX: [usize; 2] = [10, 2];

/// Random subsets of more, of these.
const FEW_SAMPLES: u64 = 4;

/// Crashes of one pack, one after the other; the last opening is followed by more puts.
const GENERATIONS: u32 = 3;

/// One in so many recoveries is itself crashed, after each of its calls.
const NESTED_ONE_IN: u64 = 16;

/// Crashes during recoveries from crashes during recoveries.
const DEPTH_MAX: u32 = 2;

/// What has to be, and what must not, whatever happens next.
#[derive(Clone, Default)]
struct Known {
    /// Acknowledged, and not removed.
    must: BTreeSet<BlockId>,
    /// Removed or lost, and that is durable; or never there.
    gone: BTreeSet<BlockId>,
    /// The same of pins.
    pinned: BTreeSet<BlockId>,
    unpinned: BTreeSet<BlockId>,
    /// On which terms a block is kept: those that are durable, and later ones, which may be.
    terms: BTreeMap<BlockId, Vec<Terms>>,
}

/// What a commit that is under way makes durable.
#[derive(Default)]
struct Committing {
    waiting: Vec<BlockId>,
    removed: Vec<BlockId>,
    pinned: Vec<BlockId>,
    unpinned: Vec<BlockId>,
    /// How many of the terms of each block had been said when it began.
    terms: BTreeMap<BlockId, usize>,
}

/// A pack's life, as known from outside.
#[derive(Default)]
struct History {
    committing: Option<Committing>,
    /// Everything that was ever put.
    put: BTreeMap<BlockId, Block>,
    /// What is not yet durable.
    waiting: Vec<BlockId>,
    removed: Vec<BlockId>,
    pinned: Vec<BlockId>,
    unpinned: Vec<BlockId>,
    known: Known,
    /// From how many calls on which is known.
    milestones: Vec<(usize, Known)>,
}

impl History {
    /// What is known after so many calls.
    fn after(&self, calls: usize) -> &Known {
        let mut milestones = self.milestones.iter().rev();
        let reached = milestones.find(|(at, _)| *at <= calls);
        &reached.expect("the first is at 0").1
    }

    fn note(&mut self, calls: usize) {
        self.milestones.push((calls, self.known.clone()));
    }

    /// A block is kept on these from now on.
    fn handle_terms(&mut self, id: BlockId, terms: Option<Terms>) {
        self.known.terms.entry(id).or_default().extend(terms);
    }

    /// A commit has begun; perhaps it is under way.
    fn begin_commit(&mut self) {
        let terms = self.known.terms.iter();
        self.committing = Some(Committing {
            waiting: std::mem::take(&mut self.waiting),
            removed: std::mem::take(&mut self.removed),
            pinned: std::mem::take(&mut self.pinned),
            unpinned: std::mem::take(&mut self.unpinned),
            terms: terms.map(|(&id, terms)| (id, terms.len())).collect(),
        });
    }

    /// It has ended.
    fn end_commit(&mut self) {
        let Some(done) = self.committing.take() else {
            return;
        };
        let known = &mut self.known;
        known.must.extend(done.waiting);
        known.gone.extend(done.removed);
        known.pinned.extend(done.pinned);
        known.unpinned.extend(done.unpinned);
        for (id, said) in done.terms {
            if let Some(terms) = known.terms.get_mut(&id) {
                terms.drain(..said.saturating_sub(1));
            }
        }
    }

    /// A block, or a pin, is no longer what it was when a commit began.
    fn forget(&mut self, list: fn(&mut Committing) -> &mut Vec<BlockId>, id: &BlockId) {
        if let Some(committing) = &mut self.committing {
            list(committing).retain(|it| it != id);
        }
    }

    /// All that was done is durable.
    fn handle_commit(&mut self) {
        self.end_commit();
        let known = &mut self.known;
        known.must.extend(self.waiting.drain(..));
        known.gone.extend(self.removed.drain(..));
        known.pinned.extend(self.pinned.drain(..));
        known.unpinned.extend(self.unpinned.drain(..));
        for terms in known.terms.values_mut() {
            terms.drain(..terms.len() - 1);
        }
    }

    /// An opening has found this, and has made it durable.
    fn handle_opening(
        &mut self,
        found: &BTreeSet<BlockId>,
        pins: &BTreeSet<BlockId>,
        terms: BTreeMap<BlockId, Vec<Terms>>,
    ) {
        self.committing = None;
        for list in [
            &mut self.waiting,
            &mut self.removed,
            &mut self.pinned,
            &mut self.unpinned,
        ] {
            list.clear();
        }
        let all: BTreeSet<BlockId> = self.put.keys().copied().collect();
        self.known = Known {
            must: found.clone(),
            gone: all.difference(found).copied().collect(),
            pinned: pins.clone(),
            unpinned: all.difference(pins).copied().collect(),
            terms,
        };
    }
}

struct Torture {
    rng: Rng,
    states: u64,
    target: u64,
    /// Steps in doubt of which all subsets are tried.
    doubts_max: usize,
    /// Random subsets where there are too many for all.
    samples: u64,
    /// Copies that took the place of a pack.
    replacements: u64,
    /// Checkpoints between whose slices the pack was written to.
    amid_changes: u64,
    /// Commits that ended beside.
    ended_beside: u64,
}

pub fn open_on(image: &Image, log: &Rc<RefCell<Log>>, capacity: u64) -> PackStore {
    let disk = Box::new(Recorded::new(image, log));
    PackStore::open_on(disk, allot(capacity), [7; 32]).expect("a wreck can be opened")
}

pub fn open_recorded(image: &Image, log: &Rc<RefCell<Log>>) -> PackStore {
    open_on(image, log, 1 << 30)
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

pub fn some_hold(rng: &mut Rng) -> Hold {
    [Hold::Free, Hold::Leased, Hold::Kept][rng.below(3) as usize]
}

/// All that an opening is to find out, but for what it did for it.
type Contents = (
    Vec<(u64, u32, Terms)>,
    Vec<(u64, u64)>,
    Vec<Pin>,
    Vec<(u64, u64)>,
    Vec<(u64, u64)>,
    u64,
);

pub fn contents(store: &PackStore) -> Contents {
    let blocks = store.index.iter();
    (
        blocks.map(|it| (it.offset, it.len, it.terms)).collect(),
        store.gaps.iter().collect(),
        store.pins(),
        store.opened().damaged.clone(),
        store.terms_notes.iter().collect(),
        store.tail,
    )
}

fn pins_of(store: &PackStore) -> BTreeSet<BlockId> {
    store.pins().iter().map(|pin| pin.root).collect()
}

impl Torture {
    /// Opens one state; what is acknowledged must be there, what was never put or is gone must not. A second opening
    /// must find the same and nothing to do; so must one that has no checkpoint.
    fn open_wreck(&mut self, image: &Image, known: &Known, history: &History, depth: u32) {
        self.states += 1;
        let log = Rc::default();
        let mut store = open_recorded(image, &log);
        let found = held(&mut store, &history.put);
        for id in &known.must {
            assert!(found.contains(id), "{id} was acknowledged and is lost");
        }
        for id in &known.gone {
            assert!(!found.contains(id), "{id} was gone and is back");
        }
        for (id, known) in known.terms.iter().filter(|it| found.contains(it.0)) {
            let now = store.terms(id).expect("it was found");
            let is_known = known.iter().any(|known| known.lasting() == now);
            assert!(is_known, "{id} is kept on {now:?}, of {known:?}");
        }
        let pins = pins_of(&store);
        assert!(known.pinned.is_subset(&pins), "a pin is lost");
        assert!(known.unpinned.is_disjoint(&pins), "a pin is back");
        let all = contents(&store);
        let has_checkpoint = store.opened().has_checkpoint;
        drop(store);
        let ops = std::mem::take(&mut log.borrow_mut().ops);
        if has_checkpoint {
            let store = open_recorded(&Image::of(&image.pack), &Rc::default());
            assert_eq!(contents(&store), all, "a checkpoint changes nothing");
        }

        assert!(matches!(ops.last(), Some(Op::SyncName)));
        if ops.len() == 2 {
            return;
        }
        let repaired = Wreck::new(image, &ops).as_seen();
        let log = Rc::default();
        let mut store = open_recorded(&repaired, &log);
        assert_eq!(store.opened().cut_bytes, 0, "nothing is left to repair");
        assert_eq!(contents(&store), all);
        assert_eq!(held(&mut store, &history.put), found);
        assert_eq!(
            log.borrow().ops.len(),
            2,
            "only syncs, of it and of its name"
        );

        if depth < DEPTH_MAX && self.rng.below(NESTED_ONE_IN) == 0 {
            for end in 1..=ops.len() {
                let wreck = Wreck::new(image, &ops[..end]);
                self.open_subsets(&wreck, known, history, depth + 1);
            }
        }
    }

    /// Opens every state in which a loss of power can have left the disk, or many of them.
    fn open_subsets(&mut self, wreck: &Wreck<'_>, known: &Known, history: &History, depth: u32) {
        if let Some(other) = &wreck.other {
            self.open_subsets(other, known, history, depth);
        }
        if wreck.doubts <= self.doubts_max {
            for subset in 0..1u64 << wreck.doubts {
                for &len in &wreck.lens {
                    let side = self.side_steps();
                    let image = wreck.image(|doubt| subset >> doubt & 1 == 1, side, len);
                    self.open_wreck(&image, known, history, depth);
                }
            }
            return;
        }
        for sample in 0..self.samples {
            let len = wreck.lens[self.rng.below(wreck.lens.len() as u64) as usize];
            let image = self.random_image(wreck, sample, len);
            self.open_wreck(&image, known, history, depth);
        }
    }

    /// All that was done to the sides, nothing, all but one sector, or any of it.
    fn side_steps(&mut self) -> impl Fn(usize) -> bool {
        let (mode, mask) = (self.rng.below(6), self.rng.next_u64());
        move |nth| match mode {
            0..3 => true,
            3 => false,
            4 => nth as u64 % 16 != mask % 16,
            _ => mask >> (nth % 64) & 1 == 1,
        }
    }

    /// One step missing, one step alone, or any few or many of them.
    fn random_image(&mut self, wreck: &Wreck<'_>, sample: u64, len: u64) -> Image {
        let one = self.rng.below(wreck.doubts as u64) as usize;
        let density = [1, 8, 15][self.rng.below(3) as usize];
        let chosen: Vec<bool> = (0..wreck.doubts)
            .map(|doubt| match sample % 4 {
                0 => doubt != one,
                1 => doubt == one,
                _ => self.rng.below(16) < density,
            })
            .collect();
        wreck.image(|doubt| chosen[doubt], self.side_steps(), len)
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

    /// Does something with the store, and notes what is known then.
    fn act(
        &mut self,
        store: &mut PackStore,
        log: &Rc<RefCell<Log>>,
        history: &mut History,
        full: bool,
    ) {
        let held: Vec<BlockId> = history
            .put
            .keys()
            .copied()
            .filter(|id| store.has(id))
            .collect();
        let nth = self.rng.below(held.len().max(1) as u64) as usize;
        let one = held.get(nth).copied();
        match (self.rng.below(20), one) {
            (0..9, _) | (_, None) => {
                let block = self.new_block(full);
                history.put.insert(block.id(), block.clone());
                let terms = Terms {
                    expires: self.rng.below(9) as u32,
                    hold: some_hold(&mut self.rng),
                };
                assert!(matches!(store.put(&block, terms), Ok(Put::Written(_))));
                history.handle_terms(block.id(), Some(terms));
                history.waiting.push(block.id());
            }
            (9..11, Some(id)) => {
                assert!(store.remove(&id).expect("the disk is sound"));
                history.known.must.remove(&id);
                history.waiting.retain(|waiting| *waiting != id);
                history.forget(|it| &mut it.waiting, &id);
                history.removed.push(id);
            }
            (11, Some(id)) => {
                store.keep_until(&id, 20 + self.rng.below(200) as u32);
                history.handle_terms(id, store.terms(&id));
            }
            (12, Some(id)) => {
                match self.rng.below(2) {
                    0 => store.release(&id, Hold::Kept),
                    _ => store.keep(&id),
                }
                history.handle_terms(id, store.terms(&id));
            }
            (13, Some(root)) => {
                store
                    .add_pin(Pin { root, len: 9 })
                    .expect("the disk is sound");
                history.known.unpinned.remove(&root);
                history.unpinned.retain(|unpinned| *unpinned != root);
                history.forget(|it| &mut it.unpinned, &root);
                history.pinned.push(root);
            }
            (14, Some(root)) => {
                store.remove_pin(&root).expect("the disk is sound");
                history.known.pinned.remove(&root);
                history.pinned.retain(|pinned| *pinned != root);
                history.forget(|it| &mut it.pinned, &root);
                history.unpinned.push(root);
            }
            (15..18, Some(_)) => {
                let (before, was_committing) = (store.committed, store.is_committing());
                for _ in 0..=self.rng.below(8) {
                    store.work();
                }
                if store.is_committing() {
                    if !was_committing {
                        history.begin_commit();
                    }
                    return;
                }
                // It may have committed; what it did not is not known to be durable.
                if store.pending.is_empty() && store.uncommitted() == 0 {
                    history.handle_commit();
                } else if store.committed != before {
                    history.known.must.extend(history.waiting.drain(..));
                }
            }
            (_, Some(_)) if store.is_committing() => {
                self.ended_beside += 1;
                log.borrow_mut().may_end = true;
                store.poll_commit().expect("the disk is sound");
                history.end_commit();
            }
            (_, Some(_)) => {
                store.begin_commit().expect("the disk is sound");
                match store.is_committing() {
                    true => history.begin_commit(),
                    false => history.handle_commit(),
                }
            }
        }
    }

    /// One pack, from its creation through some crashes.
    fn run(&mut self, full: bool) {
        let mut history = History::default();
        let mut image = Image::default();
        let is_holeless = self.rng.below(2) == 0;
        // Whether the name of the file has been made durable, by whichever process.
        let mut was_named = false;
        for _ in 0..GENERATIONS {
            let log: Rc<RefCell<Log>> = Rc::default();
            log.borrow_mut().is_holeless = is_holeless;
            log.borrow_mut().entries_per_slice = Some(1 + self.rng.below(6));
            log.borrow_mut().syncs_beside = self.rng.below(2) == 0;
            let mut store = open_recorded(&image, &log);
            store.background.checkpoint_after = 3 + self.rng.below(8);
            store.background.copy_step = 1 + self.rng.below(4000);
            store.background.move_after = Some(self.rng.below(3) * 500);
            store.background.restate_after = Some(self.rng.below(3) * 100);
            // After how many calls what is known. What an opening finds counts as acknowledged: it is not written
            // again.
            history.milestones.clear();
            history.note(0);
            let found = held(&mut store, &history.put);
            let terms = found
                .iter()
                .map(|id| (*id, vec![store.terms(id).expect("held")]));
            let terms = terms.collect();
            history.handle_opening(&found, &pins_of(&store), terms);
            history.note(log.borrow().ops.len());
            for _ in 0..if full { 4 } else { 4 + self.rng.below(40) } {
                self.act(&mut store, &log, &mut history, full);
                history.note(log.borrow().ops.len());
            }
            drop(store);

            let ops = std::mem::take(&mut log.borrow_mut().ops);
            let is_named =
                |ops: &[Op]| was_named || ops.iter().any(|op| matches!(op, Op::SyncName));
            let replacements = ops.iter().filter(|op| matches!(op, Op::Replace)).count();
            self.replacements += replacements as u64;
            self.amid_changes += checkpoints_amid_changes(&ops);
            for end in 0..=ops.len() {
                if self.states >= self.target {
                    return;
                }
                let known = history.after(end);
                let wreck = Wreck::new(&image, &ops[..end]);
                self.open_subsets(&wreck, known, &history, 0);
                if !is_named(&ops[..end]) {
                    self.open_wreck(&Image::default(), known, &history, 0);
                }
            }
            let end = self.rng.below(ops.len() as u64 + 1) as usize;
            let mut wreck = Wreck::new(&image, &ops[..end]);
            if let Some(other) = wreck.other.take_if(|_| self.rng.below(2) == 0) {
                wreck = *other;
            }
            wreck.other = None;
            let len = wreck.lens[self.rng.below(wreck.lens.len() as u64) as usize];
            let next = match wreck.doubts {
                0 => wreck.as_seen(),
                _ => self.random_image(&wreck, 2, len),
            };
            image = next;
            was_named = is_named(&ops[..end]);
            history.known = history.after(end).clone();
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
        samples: (target / 200).clamp(16, 1000),
        doubts_max: DOUBTS_MAX[0],
        replacements: 0,
        amid_changes: 0,
        ended_beside: 0,
    };
    let thorough = torture.samples;
    // States of packs that were gone through thoroughly.
    let mut thorough_states = 0;
    let mut runs = 0;
    while torture.states < target {
        let full = full_states * 100 < torture.states;
        let before = torture.states;
        let is_thorough = thorough_states * 2 <= before;
        (torture.doubts_max, torture.samples) = match (full, is_thorough) {
            (true, _) => (DOUBTS_MAX[1], FEW_SAMPLES),
            (false, true) => (DOUBTS_MAX[0], thorough),
            (false, false) => (DOUBTS_MAX[1], FEW_SAMPLES),
        };
        torture.run(full);
        runs += 1;
        if is_thorough {
            thorough_states += torture.states - before;
        }
        if full {
            full_states += torture.states - before;
        }
    }
    println!(
        "{} states of {runs} packs, {full_states} with full blocks; {} times a copy took the pack's place; {} \
         checkpoints while the pack was written to; {} commits that ended beside",
        torture.states, torture.replacements, torture.amid_changes, torture.ended_beside
    );
    assert!(torture.ended_beside > runs / 10);
    assert!(torture.replacements > 0 && torture.amid_changes > 20);
}

/// Every state in which a loss of power can have left the disk after any of these calls but the first `durable`.
fn for_each_wreck(ops: &[Op], durable: usize, mut look: impl FnMut(PackStore)) {
    for until in durable..=ops.len() {
        let wreck = Wreck::new(&Image::default(), &ops[..until]);
        for subset in 0..1u64 << wreck.doubts.min(12) {
            for &len in &wreck.lens {
                let image = wreck.image(|doubt| subset >> doubt & 1 == 1, |_| true, len);
                look(open_recorded(&image, &Rc::default()));
            }
        }
    }
}

#[test]
fn terms_that_were_durable_stay_so_when_their_block_is_moved() {
    for long in [0, 400] {
        let log: Rc<RefCell<Log>> = Rc::default();
        let mut store = open_recorded(&Image::default(), &log);
        let blocks: Vec<Block> = (0..4).map(|n| block(&vec![n; 6000])).collect();
        for block in &blocks {
            store.put(block, Terms::default()).expect("there is room");
        }
        store.begin_commit().expect("the disk is sound");
        store.background.move_after = Some(0);
        // A note that spans sectors.
        for n in 0..long {
            let block = block(&[n as u8, (n >> 8) as u8, 7]);
            store.put(&block, Terms::default()).expect("there is room");
            store.keep_until(&block.id(), 100);
        }
        let id = blocks[1].id();
        store.remove(&blocks[0].id()).expect("the disk is sound");
        store.remove(&blocks[2].id()).expect("the disk is sound");
        store.begin_commit().expect("the disk is sound");
        while store.pending.moves.is_empty() {
            assert!(store.has_work());
            store.work();
        }
        store.keep_until(&id, 5000);
        store.begin_commit().expect("the disk is sound");
        assert_eq!(store.uncommitted(), 0);
        let durable = log.borrow().ops.len();
        store.begin_commit().expect("the disk is sound");
        for_each_wreck(&log.borrow().ops, durable, |store| {
            let terms = store.terms(&id).expect("it is durable");
            assert_eq!(terms.expires, 5000, "it was durable");
        });
    }
}

#[test]
fn terms_that_were_durable_stay_so_while_they_are_said_again() {
    const COUNT: usize = 700;
    let log: Rc<RefCell<Log>> = Rc::default();
    let mut store = open_recorded(&Image::default(), &log);
    store.background.move_after = Some(u64::MAX);
    store.background.restate_after = Some(u64::MAX);
    let blocks: Vec<Block> = (0..COUNT as u32).map(|n| block(&n.to_be_bytes())).collect();
    for block in &blocks {
        store.put(block, Terms::default()).expect("there is room");
    }
    store.begin_commit().expect("the disk is sound");
    // Of some there are two statements.
    for (expires, count) in [(100, COUNT), (200, COUNT / 2)] {
        for block in &blocks[..count] {
            store.keep_until(&block.id(), expires);
        }
        store.begin_commit().expect("the disk is sound");
    }
    let old: Vec<(u64, u64)> = store.terms_notes.iter().collect();
    let durable = log.borrow().ops.len();
    store.background.restate_after = Some(0);
    for _ in 0..8 {
        store.work();
    }
    let is_gap = |note: &(u64, u64)| store.gaps.around(note.0).is_some();
    assert!(old.iter().all(is_gap), "{old:?}");
    let ops = &log.borrow().ops;
    let look = |image: &Image| {
        let log: Rc<RefCell<Log>> = Rc::default();
        let mut store = open_recorded(image, &log);
        store.background.restate_after = Some(u64::MAX);
        for (nth, block) in blocks.iter().enumerate() {
            let terms = store.terms(&block.id()).expect("it is durable");
            assert_eq!(terms.expires, if nth < COUNT / 2 { 200 } else { 100 });
        }
        // A gap is still read, until its pages have gone back.
        while store.has_work() {
            store.work();
        }
        store.close();
        let ops = std::mem::take(&mut log.borrow_mut().ops);
        Wreck::new(image, &ops).as_seen()
    };
    let mut punched = 0;
    for until in durable..=ops.len() {
        let wreck = Wreck::new(&Image::default(), &ops[..until]);
        for nth in 0..=wreck.doubts {
            for is_later in [false, true] {
                for &len in &wreck.lens {
                    let image = wreck.image(|doubt| (doubt >= nth) == is_later, |_| true, len);
                    let seen = look(&image);
                    let is_zero = |note: &&(u64, u64)| seen.pack[note.0 as usize + 4096] == 0;
                    punched += old.iter().filter(is_zero).count();
                    look(&Image::of(&seen.pack));
                }
            }
        }
    }
    assert!(punched > 0);
}
