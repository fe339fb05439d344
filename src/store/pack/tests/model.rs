//! The pack against a map of the standard library: random operations, the same answers.
//!
//! Environment: `STREW_TORTURE_OPERATIONS`, how many (default 100,000); `STREW_TORTURE_SEED`, a number that decides
//! everything. Both are printed.

use super::super::record::{charge, extent};
use super::super::PackStore;
use super::crash::held;
use super::recorded::{Log, Recorded, Wreck};
use super::{block, number_from_environment};
use crate::block::Block;
use crate::id::BlockId;
use crate::limits::{BLOCK_CHARGE_MIN, RESERVATION};
use crate::rng::Rng;
use crate::store::{Put, Store, StoreError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const OPERATIONS: u64 = 100_000;

/// Operations on one pack; then comes a new one, as each crash costs a copy of the whole.
const OPERATIONS_PER_PACK: u64 = 1000;

/// Small enough that many packs are filled.
const CAPACITY: u64 = RESERVATION + 250 * BLOCK_CHARGE_MIN;

/// A pack and what it should be.
struct Twins {
    store: PackStore,
    log: Rc<RefCell<Log>>,
    /// What the disk held when the store was opened.
    image: Vec<u8>,
    /// Everything that was ever put.
    put: BTreeMap<BlockId, Block>,
    /// What the store must say it has.
    model: BTreeSet<BlockId>,
    /// What it must have after a crash.
    durable: BTreeSet<BlockId>,
}

fn open(image: &[u8]) -> (PackStore, Rc<RefCell<Log>>) {
    let log = Rc::default();
    let disk = Box::new(Recorded::new(image, &log));
    let store = PackStore::open_on(disk, CAPACITY, [7; 32]).expect("it can be opened");
    (store, log)
}

impl Twins {
    fn new() -> Twins {
        let (store, log) = open(&[]);
        Twins {
            store,
            log,
            image: Vec::new(),
            put: BTreeMap::new(),
            model: BTreeSet::new(),
            durable: BTreeSet::new(),
        }
    }

    /// A block that was put some time, if any was.
    fn some_known(&self, rng: &mut Rng) -> Option<Block> {
        let nth = rng.below(self.put.len().max(1) as u64) as usize;
        self.put.values().nth(nth).cloned()
    }

    fn put(&mut self, block: &Block) {
        let id = block.id();
        let len = block.payload().len() as u32;
        let fits = self.store.usage().used_bytes + charge(extent(len)) <= CAPACITY;
        self.put.insert(id, block.clone());
        match self.store.put(block) {
            Ok(Put::Had(_)) => assert!(self.model.contains(&id)),
            Ok(Put::Written(_)) => assert!(fits && self.model.insert(id)),
            Err(StoreError::Full { .. }) => assert!(!fits && !self.model.contains(&id)),
            Err(error) => panic!("{error}"),
        }
    }

    fn get(&mut self, block: &Block) {
        let id = block.id();
        let len = block.payload().len() as u32;
        let is_there = self.model.contains(&id);
        assert_eq!(self.store.has(&id), is_there);
        let checked = self.store.check(&id);
        assert_eq!(checked, is_there.then(|| (block.kind(), len)));
        let payload = self.store.payload(&id);
        assert_eq!(payload, is_there.then(|| block.payload()));
    }

    fn commit(&mut self) {
        self.store.begin_commit().expect("the disk is sound");
        assert_eq!(self.store.uncommitted(), 0);
        self.durable = self.model.clone();
    }

    /// The process is killed, or power is lost, too: then the disk has any of what was not synced.
    fn crash(&mut self, rng: &mut Rng, power: bool) {
        let ops = std::mem::take(&mut self.log.borrow_mut().ops);
        let wreck = Wreck::new(&self.image, &ops);
        let image = match power {
            true => {
                let bits = [rng.next_u64(), rng.next_u64()];
                let len = wreck.lens[rng.below(wreck.lens.len() as u64) as usize];
                wreck.image(|doubt| bits[doubt / 64 % 2] >> (doubt % 64) & 1 == 1, len)
            }
            false => wreck.as_seen(),
        };
        (self.store, self.log) = open(&image);
        self.image = image;
        let found = held(&mut self.store, &self.put);
        assert!(
            found.is_superset(&self.durable),
            "nothing acknowledged is lost"
        );
        assert!(found.is_subset(&self.model), "and nothing appears");
        if !power {
            assert_eq!(found, self.model, "the system's cache has it all");
        }
        self.durable = found.clone();
        self.model = found;
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
    let (mut full, mut crashes) = (0, 0);
    let mut twins = Twins::new();
    for operation in 0..operations {
        if operation % OPERATIONS_PER_PACK == 0 {
            twins = Twins::new();
        }
        let known = twins.some_known(&mut rng);
        match (rng.below(100), known) {
            (0..40, _) | (_, None) => {
                let longest = if rng.below(10) == 0 { 9000 } else { 600 };
                let len = 8 + rng.below(longest);
                let mut payload = vec![rng.below(3) as u8; len as usize];
                payload[..8].copy_from_slice(&rng.bytes::<8>());
                let before = twins.model.len();
                twins.put(&block(&payload));
                full += u64::from(twins.model.len() == before);
            }
            (40..55, Some(known)) => twins.put(&known),
            (55..90, Some(known)) => twins.get(&known),
            (90..97, Some(_)) => twins.commit(),
            (97..99, Some(_)) => {
                twins.crash(&mut rng, true);
                crashes += 1;
            }
            (_, Some(_)) => twins.crash(&mut rng, false),
        }
    }
    println!(
        "{operations} operations, {full} refused for want of space, {crashes} losses of power"
    );
    assert!(full > 0 && crashes > 0, "both were met");
}
