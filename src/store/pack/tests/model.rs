//! The pack against maps of the standard library: random operations, the same answers.
//!
//! Environment: `STREW_TORTURE_OPERATIONS`, how many (default 100,000); `STREW_TORTURE_SEED`, a number that decides
//! everything. Both are printed.

use super::super::commit::Move;
use super::super::PackStore;
use super::crash::{held, open_on, some_hold};
use super::recorded::{Image, Log, Op, Wreck};
use super::{block, number_from_environment};
use crate::block::Block;
use crate::id::{BlockId, Point};
use crate::limits::{BLOCK_CHARGE_MIN, RESERVATION};
use crate::rng::Rng;
use crate::store::{Claim, Hold, Pin, Put, Store, StoreError, Terms};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const OPERATIONS: u64 = 100_000;

/// Operations on one pack; then comes a new one, as each crash costs a copy of the whole.
const OPERATIONS_PER_PACK: u64 = 1000;

/// Small enough that many packs are filled.
const CAPACITY: u64 = RESERVATION + 200 * BLOCK_CHARGE_MIN;

/// A pack and what it should be.
struct Twins {
    /// Whether the file system takes no part of a file back.
    is_holeless: bool,
    /// Copies that took the pack's place, as far as has been looked.
    copies: usize,
    /// Records that were copied to the tail.
    moves: u64,
    /// Commits that ended beside.
    ended: u64,
    /// Blocks that went, or got other terms, between their copy and the commit.
    changed_moves: u64,
    store: PackStore,
    log: Rc<RefCell<Log>>,
    /// What the disk held when the store was opened.
    image: Image,
    /// Everything that was ever put.
    put: BTreeMap<BlockId, Block>,
    /// What the store must say it has, and on which terms.
    model: BTreeMap<BlockId, Terms>,
    /// What it must have after a crash, and what it may have besides.
    durable: BTreeSet<BlockId>,
    may: BTreeSet<BlockId>,
    /// What will be durable when the commit that is under way has ended, and what has come to `may` since it began.
    committing: Option<BTreeSet<BlockId>>,
    may_since: BTreeSet<BlockId>,
    pins: BTreeSet<BlockId>,
    /// What is marked: after an opening, nobody knows until a marking has ended.
    marked: Option<BTreeSet<BlockId>>,
    home: Point,
    hour: u32,
}

fn open(image: &Image, is_holeless: bool, rng: &mut Rng) -> (PackStore, Rc<RefCell<Log>>) {
    let log: Rc<RefCell<Log>> = Rc::default();
    log.borrow_mut().is_holeless = is_holeless;
    log.borrow_mut().entries_per_slice = Some(1 + rng.below(60));
    log.borrow_mut().syncs_beside = rng.below(2) == 0;
    let mut store = open_on(image, &log, CAPACITY);
    store.background.checkpoint_after = 10 + rng.below(100);
    store.background.copy_step = 1 + rng.below(100_000);
    store.background.move_after = [None, Some(0), Some(2000)][rng.below(3) as usize];
    store.background.restate_after = Some(rng.below(8000));
    (store, log)
}

impl Twins {
    fn new(rng: &mut Rng) -> Twins {
        let is_holeless = rng.below(3) == 0;
        let (store, log) = open(&Image::default(), is_holeless, rng);
        Twins {
            is_holeless,
            copies: 0,
            moves: 0,
            changed_moves: 0,
            store,
            log,
            image: Image::default(),
            put: BTreeMap::new(),
            model: BTreeMap::new(),
            durable: BTreeSet::new(),
            may: BTreeSet::new(),
            committing: None,
            may_since: BTreeSet::new(),
            ended: 0,
            pins: BTreeSet::new(),
            marked: Some(BTreeSet::new()),
            home: Point(rng.bytes()),
            hour: 0,
        }
    }

    /// A block that was put some time, if any was.
    fn some_known(&self, rng: &mut Rng) -> Option<Block> {
        let nth = rng.below(self.put.len().max(1) as u64) as usize;
        self.put.values().nth(nth).cloned()
    }

    /// Puts a block; whether there was room.
    fn put(&mut self, block: &Block, terms: Terms) -> bool {
        let id = block.id();
        self.put.insert(id, block.clone());
        let lacks = self.store.lacks(block.payload().len() as u32);
        let before = self.model.get(&id).copied();
        match self.store.put(block, terms) {
            Ok(Put::Had(_)) => {
                let before = before.expect("it was there");
                self.model.insert(id, before.renewed(terms));
                true
            }
            Ok(Put::Written(_)) => {
                assert!(lacks == 0 && before.is_none());
                self.model.insert(id, terms);
                self.doubt(id);
                true
            }
            Err(StoreError::Full { .. }) => {
                assert!(lacks > 0 && before.is_none());
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn get(&mut self, block: &Block) {
        let id = block.id();
        let len = block.payload().len() as u32;
        let terms = self.model.get(&id).copied();
        let is_there = terms.is_some();
        assert_eq!(self.store.has(&id), is_there);
        assert_eq!(self.store.terms(&id), terms);
        let checked = self.store.check(&id);
        assert_eq!(checked, is_there.then(|| (block.kind(), len)));
        let payload = self.store.payload(&id);
        assert_eq!(payload, is_there.then(|| block.payload()));
    }

    fn remove(&mut self, id: &BlockId) {
        let was = self.store.remove(id).expect("the disk is sound");
        assert_eq!(was, self.model.remove(id).is_some());
        // Its mark goes with it: stored again it has none, until it is marked again.
        if let Some(marked) = &mut self.marked {
            marked.remove(id);
        }
        // It may come back after a loss of power.
        self.durable.remove(id);
        self.doubt(*id);
    }

    /// A block may be there after a loss of power, or not.
    fn doubt(&mut self, id: BlockId) {
        self.may.insert(id);
        self.may_since.insert(id);
        if let Some(committing) = &mut self.committing {
            committing.remove(&id);
        }
    }

    /// Whether a block may go when there is no room.
    fn may_go(&self, id: &BlockId, newcomer: Option<BlockId>) -> bool {
        let Some(marked) = &self.marked else {
            return false;
        };
        let distance = |id: BlockId| Point::from(id).distance(&self.home);
        let terms = self.model[id];
        let is_farther = newcomer.is_none_or(|newcomer| distance(newcomer) < distance(*id));
        !marked.contains(id)
            && (terms.expires <= self.hour || terms.hold == Hold::Free && is_farther)
    }

    /// Makes room for a block, and looks at who had to go.
    fn evict(&mut self, block: &Block, is_own: bool) -> bool {
        let newcomer = (!is_own).then(|| block.id());
        let claim = Claim {
            home: self.home,
            newcomer,
            is_in_use: &|_| false,
        };
        let len = block.payload().len() as u32;
        // Nor does it count on what a killed process may have left.
        let may_come = self.store.gaps.unseen().is_some();
        let could = self.store.could_take(len, &claim);
        let made = self.store.make_room(len, &claim);
        assert!(
            could || may_come || made.is_err(),
            "it refuses at once what it refuses"
        );
        let ids: Vec<BlockId> = self.model.keys().copied().collect();
        let (stay, gone): (Vec<BlockId>, Vec<BlockId>) =
            ids.into_iter().partition(|id| self.store.has(id));
        let distance = |id: &BlockId| Point::from(*id).distance(&self.home);
        let is_expired = |id: &&BlockId| self.model[*id].expires <= self.hour;
        let left: Vec<&BlockId> = stay.iter().filter(|id| self.may_go(id, newcomer)).collect();
        assert!(gone.iter().all(|id| self.may_go(id, newcomer)));
        let fresh: Vec<&BlockId> = gone.iter().filter(|id| !is_expired(id)).collect();
        if let Some(closest) = fresh.iter().map(|id| distance(id)).min() {
            assert!(
                left.iter().all(|id| distance(id) < closest),
                "farthest first"
            );
            assert!(!left.iter().any(is_expired), "expired before");
        }
        match made {
            Ok(()) => assert_eq!(self.store.lacks(len), 0),
            // Where there are no holes, room comes when what was dropped is left out of a copy.
            Err(StoreError::Full { .. }) if self.is_holeless => {}
            Err(StoreError::Full { .. }) => assert!(left.is_empty(), "{left:?}"),
            Err(error) => panic!("{error}"),
        }
        let has_evicted = !gone.is_empty();
        for id in gone {
            self.model.remove(&id);
            self.durable.remove(&id);
            self.doubt(id);
        }
        // Those that went ahead of others may come back until the next commit.
        self.look_at_commit();
        if self.store.uncommitted() == 0 {
            let may = std::mem::take(&mut self.may);
            self.handle_commit();
            if !self.store.pending.is_empty() {
                self.may = may;
            }
        }
        has_evicted
    }

    /// Does a slice of work, and changes the terms of some of the blocks that it has copied.
    fn work(&mut self, rng: &mut Rng) {
        let before = self.store.pending.moves.len();
        let was_committing = self.store.is_committing();
        self.store.work();
        if self.store.is_committing() && !was_committing {
            self.committing = Some(self.model.keys().copied().collect());
            self.may_since.clear();
        }
        if self.store.uncommitted() == 0 && self.store.pending.is_empty() {
            self.handle_commit();
        }
        let moves = &self.store.pending.moves;
        self.moves += moves.len().saturating_sub(before) as u64;
        let committing = self.store.committing.iter().flat_map(|it| &it.moves);
        let copied = moves
            .iter()
            .chain(committing)
            .filter_map(|copied| match copied {
                Move::Block { id, .. } if self.model.contains_key(id) => Some(*id),
                _ => None,
            });
        for id in copied.collect::<Vec<_>>() {
            match rng.below(20) {
                0..3 => self.keep_until(&id, self.hour + rng.below(40) as u32),
                3 => self.keep(&id),
                4 => self.release(&id, Hold::Kept),
                5 => self.remove(&id),
                _ => continue,
            }
            self.changed_moves += 1;
        }
    }

    fn keep_until(&mut self, id: &BlockId, expires: u32) {
        self.store.keep_until(id, expires);
        if let Some(held) = self.model.get_mut(id) {
            *held = held.renewed(Terms { expires, ..*held });
        }
    }

    fn keep(&mut self, id: &BlockId) {
        self.store.keep(id);
        if let Some(held) = self.model.get_mut(id) {
            held.hold = Hold::Kept;
        }
    }

    fn release(&mut self, id: &BlockId, up_to: Hold) {
        self.store.release(id, up_to);
        if let Some(held) = self.model.get_mut(id).filter(|it| it.hold <= up_to) {
            held.hold = Hold::Free;
        }
    }

    fn commit(&mut self) {
        self.store.commit().expect("the disk is sound");
        assert_eq!(self.store.uncommitted(), 0);
        self.handle_commit();
    }

    /// Begins a commit, and leaves it under way if the disk does.
    fn begin_commit(&mut self) {
        if self.store.is_committing() {
            return;
        }
        self.committing = Some(self.model.keys().copied().collect());
        self.may_since.clear();
        self.store.begin_commit().expect("the disk is sound");
        self.look_at_commit();
    }

    /// Lets the disk end what it is at.
    fn end_commit(&mut self) {
        self.log.borrow_mut().may_end = true;
        self.store.poll_commit().expect("the disk is sound");
        assert!(!self.store.is_committing());
        self.look_at_commit();
    }

    /// The commit that was under way has ended, or perhaps not.
    fn look_at_commit(&mut self) {
        if self.store.is_committing() {
            return;
        }
        if let Some(durable) = self.committing.take() {
            self.durable = durable;
            self.may = std::mem::take(&mut self.may_since);
            self.ended += 1;
        }
    }

    fn handle_commit(&mut self) {
        self.committing = None;
        self.durable = self.model.keys().copied().collect();
        self.may.clear();
    }

    fn set_pin(&mut self, root: BlockId, is_pinned: bool) {
        if is_pinned {
            let pin = Pin { root, len: 7 };
            self.store.add_pin(pin).expect("the disk is sound");
            self.pins.insert(root);
        } else {
            let was = self.store.remove_pin(&root).expect("the disk is sound");
            assert_eq!(was, self.pins.remove(&root));
        }
        let pins: Vec<BlockId> = self.store.pins().iter().map(|pin| pin.root).collect();
        assert!(pins.iter().eq(self.pins.iter()));
    }

    /// Marks the pinned blocks, as if each were a file of one block.
    fn mark(&mut self) {
        self.store.begin_marking();
        let mut marked = BTreeSet::new();
        for root in &self.pins {
            let is_here = self.model.contains_key(root);
            assert_eq!(self.store.mark(root), is_here);
            if is_here {
                marked.insert(*root);
            }
        }
        self.store.end_marking();
        assert_eq!(self.store.usage().pinned_blocks, marked.len() as u64);
        self.marked = Some(marked);
    }

    /// The peer ends as it should, and is started again.
    fn restart(&mut self, rng: &mut Rng) {
        self.store.close();
        self.handle_commit();
        let lasting = self.model.iter().map(|(id, terms)| (*id, terms.lasting()));
        let mut before: BTreeMap<BlockId, Terms> = lasting.collect();
        // New terms for which there is no room have waited, in vain.
        let waits = |id: &BlockId| {
            let entry = self.store.find(id);
            entry.is_some_and(|entry| self.store.pending.terms.contains_key(&entry.offset))
        };
        let waiting: Vec<BlockId> = before.keys().copied().filter(waits).collect();
        assert!(waiting.is_empty() || self.store.lacks(8) > 0);
        self.crash(rng, false);
        for id in waiting {
            before.insert(id, self.model[&id]);
        }
        assert_eq!(self.model, before, "terms, too, are kept");
    }

    /// The process is killed, or power is lost, too: then the disk has any of what was not synced.
    fn crash(&mut self, rng: &mut Rng, power: bool) {
        let ops = std::mem::take(&mut self.log.borrow_mut().ops);
        self.copies += ops.iter().filter(|op| matches!(op, Op::Replace)).count();
        let mut wreck = Wreck::new(&self.image, &ops);
        if let Some(other) = wreck.other.take_if(|_| !power || rng.below(2) == 0) {
            wreck = *other;
        }
        let image = match power {
            true => {
                let bits = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
                let len = wreck.lens[rng.below(wreck.lens.len() as u64) as usize];
                let chosen = |doubt: usize| bits[doubt / 64 % 2] >> (doubt % 64) & 1 == 1;
                let is_side_chosen = |nth: usize| bits[2] >> (nth % 64) & 3 != 0;
                wreck.image(chosen, is_side_chosen, len)
            }
            false => wreck.as_seen(),
        };
        (self.store, self.log) = open(&image, self.is_holeless, rng);
        self.store.set_time(u64::from(self.hour) * 3600);
        self.image = image;
        let found = held(&mut self.store, &self.put);
        assert!(
            found.is_superset(&self.durable),
            "nothing acknowledged is lost"
        );
        let extra = found.difference(&self.durable);
        let extra: BTreeSet<BlockId> = extra.copied().collect();
        assert!(extra.is_subset(&self.may), "and nothing appears");
        if !power {
            let all = self.model.keys();
            assert!(
                all.clone().all(|id| found.contains(id)),
                "the cache has it all"
            );
        }
        // Terms that were not committed may be the older ones.
        let terms = found
            .iter()
            .map(|id| (*id, self.store.terms(id).expect("held")));
        self.model = terms.collect();
        self.pins = self.store.pins().iter().map(|pin| pin.root).collect();
        self.marked = self.pins.is_empty().then(BTreeSet::new);
        self.handle_commit();
    }
}

#[test]
fn pack_answers_as_a_map_does_through_crashes() {
    let operations = number_from_environment("STREW_TORTURE_OPERATIONS", OPERATIONS);
    let seed = number_from_environment("STREW_TORTURE_SEED", 1);
    println!("repeat with STREW_TORTURE_OPERATIONS={operations} STREW_TORTURE_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut rng = Rng::new(bytes);
    let (mut full, mut evicted, mut crashes, mut checkpoints, mut copies) = (0, 0, 0, 0, 0);
    let (mut moves, mut changed_moves, mut ended) = (0, 0, 0);
    let mut twins = Twins::new(&mut rng);
    for operation in 0..operations {
        if operation % OPERATIONS_PER_PACK == 0 {
            copies += twins.copies;
            moves += twins.moves;
            changed_moves += twins.changed_moves;
            ended += twins.ended;
            twins = Twins::new(&mut rng);
        }
        let terms = Terms {
            expires: twins.hour + rng.below(20) as u32,
            hold: match rng.below(3) {
                0 => some_hold(&mut rng),
                _ => Hold::Free,
            },
        };
        let known = twins.some_known(&mut rng);
        match (rng.below(100), known) {
            (0..40, _) | (_, None) => {
                let longest = [600, 600, 600, 9000, 20_000][rng.below(5) as usize];
                let len = 8 + rng.below(longest);
                let mut payload = vec![rng.below(3) as u8; len as usize];
                payload[..8].copy_from_slice(&rng.bytes::<8>());
                let block = block(&payload);
                if rng.below(4) > 0 {
                    evicted += u64::from(twins.evict(&block, rng.below(2) == 0));
                }
                full += u64::from(!twins.put(&block, terms));
            }
            (40..48, Some(known)) => {
                twins.put(&known, terms);
            }
            (48..70, Some(known)) => twins.get(&known),
            (70..74, Some(known)) => twins.remove(&known.id()),
            (74..76, Some(known)) => {
                let id = known.id();
                twins.release(&id, some_hold(&mut rng));
                if rng.below(8) == 0 {
                    twins.keep(&id);
                }
                twins.keep_until(&id, terms.expires);
            }
            (76, Some(known)) => twins.set_pin(known.id(), true),
            (77, Some(known)) => twins.set_pin(known.id(), false),
            (78, Some(_)) => twins.mark(),
            (79..91, Some(_)) => {
                for _ in 0..=rng.below(3) {
                    twins.work(&mut rng);
                }
            }
            (91, Some(_)) => twins.commit(),
            (92, Some(_)) => twins.begin_commit(),
            (93, Some(_)) => twins.end_commit(),
            (94, Some(_)) => {
                twins.hour += 1;
                let secs = u64::from(twins.hour) * 3600;
                twins.store.set_time(secs);
            }
            (95..97, Some(_)) => {
                twins.crash(&mut rng, true);
                crashes += 1;
            }
            (97, Some(_)) => twins.restart(&mut rng),
            (_, Some(_)) => twins.crash(&mut rng, false),
        }
        twins.look_at_commit();
        let usage = twins.store.usage();
        assert!(usage.used_bytes <= CAPACITY, "{usage:?}");
        assert_eq!(usage.blocks, twins.model.len() as u64);
        checkpoints += u64::from(twins.store.opened().has_checkpoint);
    }
    println!(
        "{operations} operations, {full} refused for want of space, {evicted} that others made room for, \
         {crashes} losses of power, {checkpoints} after an opening by a checkpoint, {copies} times a copy took the \
         pack's place, {moves} records moved to the end, {changed_moves} changed before that was durable, \
         {ended} commits that ended beside"
    );
    assert!(ended > operations / 200);
    assert!(moves > operations / 200 && changed_moves > operations / 2000);
    assert!(full > 0 && evicted > 0 && crashes > 0 && checkpoints > 0 && copies > 0);
}
