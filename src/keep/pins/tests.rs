//! Pins over a store in memory, with a network that has what it is told to.

use super::*;
use crate::block::encode::Encoder;
use crate::block::tree::{write_node, write_root, Link, Plaintext, LEAF_SIZE};
use crate::block::{Block, Kind};
use crate::id::Point;
use crate::store::{Claim, MemoryStore, Terms};

const CLIENT: ConnId = ConnId(1);

/// Far more slices than anything here may take.
const SLICES_MAX: usize = 10_000;

struct World {
    now: Instant,
    pins: Pins,
    store: MemoryStore,
    /// What can be fetched.
    network: BTreeMap<BlockId, Block>,
    told: Vec<Frame>,
    /// What was asked for and not taken back.
    wanted: BTreeSet<BlockId>,
    slices: usize,
}

fn terms() -> Terms {
    Terms {
        expires: 1000,
        hold: Hold::Free,
    }
}

/// The blocks of a file, and its root.
fn file(data: &[u8]) -> (Vec<Block>, BlockId) {
    let mut encoder = Encoder::new(Form::Plain);
    let mut blocks = Vec::new();
    let mut take = |encoder: &mut Encoder| {
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload).expect("a block");
            encoder.handle_put(block.id());
            blocks.push(block);
        }
    };
    for piece in data.chunks(LEAF_SIZE) {
        encoder.push(piece);
        take(&mut encoder);
    }
    encoder.finish();
    take(&mut encoder);
    let root = encoder.outcome().expect("it has ended").id;
    (blocks, root)
}

/// So many leaves, none like another, and none like one of another seed.
fn data(leaves: u32, seed: u32) -> Vec<u8> {
    let leaf = |n: u32| {
        let mut leaf = vec![seed as u8; LEAF_SIZE];
        leaf[..8].copy_from_slice(&(u64::from(seed) << 32 | u64::from(n)).to_be_bytes());
        leaf
    };
    (0..leaves).flat_map(leaf).collect()
}

fn made(role: Role, plain: Plaintext) -> Block {
    let kind = Kind {
        role,
        form: Form::Plain,
    };
    Block::new(kind, plain.payload).expect("a block")
}

fn links(ids: impl IntoIterator<Item = BlockId>) -> Vec<Link> {
    let link = |id| Link { id, key: None };
    ids.into_iter().map(link).collect()
}

impl World {
    fn new(capacity: u64) -> World {
        let store = MemoryStore::new(capacity);
        World {
            now: Instant::since_epoch(Default::default()),
            pins: Pins::new(Instant::since_epoch(Default::default()), &store, true),
            store,
            network: BTreeMap::new(),
            told: Vec::new(),
            wanted: BTreeSet::new(),
            slices: 0,
        }
    }

    fn offer(&mut self, blocks: &[Block]) {
        for block in blocks {
            self.network.insert(block.id(), block.clone());
        }
    }

    fn put(&mut self, blocks: &[Block]) {
        for block in blocks {
            self.store.put(block, terms()).expect("there is room");
        }
    }

    fn do_outputs(&mut self) {
        while let Some(output) = self.pins.poll_output() {
            match output {
                Output::Want(id) => {
                    self.wanted.insert(id);
                    assert!(self.wanted.len() <= 2 * PIN_WANTS, "bounded");
                }
                Output::Unwant(id) => {
                    assert!(self.wanted.remove(&id), "it was wanted");
                }
                Output::Tell(_, frame) | Output::TellWhenDurable(_, frame) => self.told.push(frame),
            }
        }
    }

    /// The network answers one request.
    fn answer(&mut self) -> bool {
        let Some(id) = self.wanted.pop_last() else {
            return false;
        };
        match self.network.get(&id) {
            Some(block) => {
                self.store.put(block, terms()).expect("there is room");
                self.pins.handle_stored(&mut self.store, id);
            }
            None => self.pins.handle_missing(id, MissingReason::Absent, 20),
        }
        self.do_outputs();
        true
    }

    fn slice(&mut self) {
        self.slices += 1;
        assert!(self.slices < SLICES_MAX, "it never ends");
        self.pins.work(self.now, &mut self.store);
        self.do_outputs();
    }

    /// Until nothing is left to be done.
    fn settle(&mut self) {
        self.do_outputs();
        loop {
            while self.pins.has_work() {
                self.slice();
            }
            if !self.answer() {
                return;
            }
        }
    }

    fn pin(&mut self, root: BlockId) -> Option<Frame> {
        self.pins.add(CLIENT, root);
        self.settle();
        self.told.last().cloned()
    }

    /// Has everything go that may; whether that was all.
    fn evictable(&mut self) -> bool {
        let claim = Claim {
            home: Point([0; 32]),
            newcomer: None,
            is_in_use: &|_| false,
        };
        let all = self.store.usage().capacity_bytes as u32;
        self.store.make_room(all, &claim).is_ok()
    }
}

#[track_caller]
fn expect_failed(told: Option<Frame>, expected: u8, part: &str) {
    match told {
        Some(Frame::Failed { status, text }) => {
            assert_eq!(status, expected, "{text}");
            assert!(text.contains(part), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_missing_is_fetched_and_all_of_the_file_is_kept() {
    let mut world = World::new(1 << 30);
    let (blocks, root) = file(&data(20, 1));
    world.offer(&blocks);
    world.put(&blocks[..5]);
    let len = 20 * LEAF_SIZE as u64;
    let missing = 0;
    assert_eq!(world.pin(root), Some(Frame::Pinned { root, len, missing }));
    assert!(world.wanted.is_empty());
    assert_eq!(world.store.usage().pinned_blocks, blocks.len() as u64);
    world.evictable();
    assert!(blocks.iter().all(|block| world.store.has(&block.id())));
}

#[test]
fn what_two_pins_share_is_kept_until_both_are_gone() {
    let mut world = World::new(1 << 30);
    let (first, one) = file(&data(6, 1));
    // Half of its leaves are those of the first.
    let half = [data(3, 1), data(3, 2)].concat();
    let (second, two) = file(&half);
    world.put(&first);
    world.put(&second);
    world.pin(one);
    world.pin(two);
    assert!(world
        .pins
        .remove(&mut world.store, &one)
        .expect("it is done"));
    world.settle();
    world.evictable();
    assert!(second.iter().all(|block| world.store.has(&block.id())));
    let gone = first.iter().filter(|block| !world.store.has(&block.id()));
    assert_eq!(gone.count(), 3 + 1, "three leaves and the root");
    assert!(world
        .pins
        .remove(&mut world.store, &two)
        .expect("it is done"));
    assert!(!world
        .pins
        .remove(&mut world.store, &two)
        .expect("it is done"));
    world.settle();
    assert!(world.evictable());
    assert_eq!(world.store.usage().blocks, 0);
}

#[test]
fn what_nobody_has_is_looked_for_once_an_hour_and_holds_up_no_other_file() {
    let (first, one) = file(&data(6, 1));
    let (second, two) = file(&data(6, 2));
    for is_first in [true, false] {
        let (lost, left, root) = match is_first {
            true => (&first, &second, one),
            false => (&second, &first, two),
        };
        let mut world = World::new(1 << 30);
        world.put(&first);
        world.put(&second);
        world.pin(one);
        world.pin(two);
        for block in [&lost[2], &left[2]] {
            world.store.remove(&block.id()).expect("it is done");
        }
        world.offer(left);
        let hours = |n: u32| Instant::EPOCH + PIN_RECHECK * n;
        world.pins.recheck(hours(1), &world.store);
        world.settle();
        assert!(world.store.has(&left[2].id()));
        assert_eq!(world.pins.missing(&root), 1);
        world.offer(lost);
        world.pins.recheck(hours(1) + PIN_RECHECK / 2, &world.store);
        assert!(!world.pins.has_work(), "not before");
        world.pins.recheck(hours(2), &world.store);
        world.settle();
        assert!(world.store.has(&lost[2].id()));
        assert_eq!(world.pins.missing(&root), 0);
    }
}

#[test]
fn what_comes_and_goes_while_pins_are_marked_anew_changes_nothing() {
    let mut world = World::new(1 << 30);
    let (blocks, root) = file(&data(6, 1));
    world.put(&blocks);
    world.pin(root);
    let (others, _) = file(&data(6, 2));
    world.put(&others);
    // As after a new start.
    world.pins = Pins::new(Instant::since_epoch(Default::default()), &world.store, true);
    for n in 0..3 {
        world.slice();
        let (late, _) = file(&data(6, 10 + n));
        world.put(&late);
        world.store.remove(&late[0].id()).expect("it is done");
        world.evictable();
        assert!(blocks.iter().all(|block| world.store.has(&block.id())));
    }
    world.settle();
    world.evictable();
    assert_eq!(world.store.usage().blocks, blocks.len() as u64);
}

#[test]
fn file_larger_than_the_allotment_is_refused_once_its_root_is_known() {
    let mut world = World::new(3 << 20);
    let (blocks, root) = file(&data(12, 1));
    world.offer(&blocks);
    let told = world.pin(root);
    expect_failed(told, 8, "do not fit the allotment");
    assert_eq!(world.store.usage().blocks, 1, "the root alone was fetched");
    assert!(world.wanted.is_empty());
    // The longest file that there can be.
    let all = links((0..1024u32).map(made_id));
    let huge = made(
        Role::Root,
        write_root(Form::Plain, LEAF_SIZE as u64 * 1024, &all),
    );
    world.offer(std::slice::from_ref(&huge));
    let told = world.pin(huge.id());
    expect_failed(told, 8, "do not fit the allotment");
    // What is pinned already counts.
    let (first, one) = file(&data(6, 5));
    let (second, two) = file(&data(6, 6));
    world.offer(&first);
    world.offer(&second);
    assert!(matches!(world.pin(one), Some(Frame::Pinned { .. })));
    let told = world.pin(two);
    expect_failed(told, 8, "beside 1572864 bytes that are pinned");
}

fn made_id(n: u32) -> BlockId {
    let mut id = [0xee; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    BlockId(id)
}

#[test]
fn hostile_trees_end_soon_and_pin_nothing() {
    let leaf = |n: u8| {
        made(
            Role::Leaf,
            Plaintext {
                payload: vec![n; LEAF_SIZE],
                clear: 0,
            },
        )
    };
    let same = leaf(1);
    let mut cases: Vec<(Vec<Block>, BlockId, u8, &str)> = Vec::new();
    // A leaf where a node is due.
    let leaves = 1025 * LEAF_SIZE as u64;
    let root = made(
        Role::Root,
        write_root(Form::Plain, leaves, &links([same.id(), leaf(2).id()])),
    );
    cases.push((vec![same.clone(), leaf(2), root.clone()], root.id(), 6, ""));
    // A node with other than the due number of children.
    let short = made(Role::Node, write_node(Form::Plain, &links([same.id(); 7])));
    let last = made(Role::Node, write_node(Form::Plain, &links([same.id(); 1])));
    let root = made(
        Role::Root,
        write_root(Form::Plain, leaves, &links([short.id(), last.id()])),
    );
    cases.push((
        vec![same.clone(), short, last, root.clone()],
        root.id(),
        6,
        "",
    ));
    // No root at all.
    cases.push((vec![same.clone()], same.id(), 2, ""));
    for (n, (blocks, root, status, part)) in cases.into_iter().enumerate() {
        for is_here in [true, false] {
            let mut world = World::new(1 << 40);
            world.offer(&blocks);
            if is_here {
                world.put(&blocks);
            }
            let told = world.pin(root);
            match told {
                Some(Frame::Failed { .. }) => expect_failed(told, status, part),
                other => panic!("case {n}: {other:?}"),
            }
            assert!(world.slices < 20, "case {n}: {} slices", world.slices);
            assert!(world.store.pins().is_empty() && world.wanted.is_empty());
            assert_eq!(world.store.usage().pinned_blocks, 0, "case {n}");
        }
    }
}

#[test]
fn block_that_nobody_has_fails_the_pin_and_takes_back_what_was_asked() {
    let mut world = World::new(1 << 30);
    let (blocks, root) = file(&data(100, 1));
    let lost = blocks[50].id();
    world.offer(&blocks);
    world.network.remove(&lost);
    let told = world.pin(root);
    assert!(
        matches!(told, Some(Frame::Missing { id, asked: 20, .. }) if id == lost),
        "{told:?}"
    );
    assert!(world.wanted.is_empty() && world.store.pins().is_empty());
    assert_eq!(world.store.usage().pinned_blocks, 0);
    // The same again goes on from there.
    world.offer(&blocks);
    let before = world.store.usage().blocks;
    assert!(before > 1);
    assert!(matches!(world.pin(root), Some(Frame::Pinned { .. })));
}

#[test]
fn client_that_goes_leaves_nothing_pinned() {
    let mut world = World::new(1 << 30);
    let (blocks, root) = file(&data(100, 1));
    world.offer(&blocks);
    world.pins.add(CLIENT, root);
    for _ in 0..3 {
        world.slice();
        world.answer();
    }
    assert!(!world.wanted.is_empty());
    world.pins.handle_closed(CLIENT);
    world.settle();
    assert!(world.wanted.is_empty() && world.store.pins().is_empty());
    assert_eq!(world.store.usage().pinned_blocks, 0);
}

#[test]
fn pinned_block_that_is_lost_is_fetched_again() {
    let mut world = World::new(1 << 30);
    let (blocks, root) = file(&data(10, 1));
    world.offer(&blocks);
    world.pin(root);
    let lost = [blocks[3].id(), blocks[7].id()];
    for id in &lost {
        world.store.remove(id).expect("it is done");
    }
    let later = Instant::since_epoch(PIN_RECHECK);
    world.pins.recheck(later, &world.store);
    while world.pins.missing(&root) == 0 {
        world.slice();
    }
    assert_eq!(world.pins.missing(&root), 2);
    world.settle();
    assert_eq!(world.pins.missing(&root), 0);
    assert!(lost.iter().all(|id| world.store.has(id)));
}

#[test]
fn slice_looks_at_no_more_than_its_share() {
    let mut world = World::new(1 << 40);
    // 3,000 leaves, of which the same few are there again and again: they are looked at as often.
    let leaf = made(
        Role::Leaf,
        Plaintext {
            payload: vec![1; LEAF_SIZE],
            clear: 0,
        },
    );
    let nodes: Vec<Block> = [1024, 1024, 952]
        .iter()
        .map(|&count| {
            made(
                Role::Node,
                write_node(Form::Plain, &links(vec![leaf.id(); count])),
            )
        })
        .collect();
    let length = 3000 * LEAF_SIZE as u64;
    let ids = nodes.iter().map(Block::id);
    let root = made(Role::Root, write_root(Form::Plain, length, &links(ids)));
    let id = root.id();
    world.put(&[vec![leaf, root], nodes].concat());
    assert!(matches!(world.pin(id), Some(Frame::Pinned { .. })));
    assert!(
        world.slices >= 4,
        "one root or node a slice at most: {}",
        world.slices
    );
    assert!(
        world.slices <= 4 + 3000_usize.div_ceil(PIN_STEPS) + 4,
        "{}",
        world.slices
    );
}

#[test]
fn what_is_pinned_is_found_due_for_renewal_once_and_no_more_when_it_is_not_pinned() {
    let (blocks, root) = file(&data(6, 1));
    let (others, _) = file(&data(3, 2));
    let mut world = World::new(1 << 30);
    world.put(&blocks);
    world.put(&others);
    world.pin(root);
    // The lifetime of all ends after 1000 hours.
    let hours = |n: u32| Instant::EPOCH + PIN_RECHECK * n;
    let due = |world: &mut World, n: u32| {
        world.now = hours(n);
        world.pins.recheck(hours(n), &world.store);
        world.settle();
        let due = std::iter::from_fn(|| world.pins.poll_due());
        due.collect::<BTreeMap<BlockId, Role>>()
    };
    assert!(due(&mut world, 600).is_empty());
    let all: BTreeMap<BlockId, Role> = blocks.iter().map(|it| (it.id(), it.kind().role)).collect();
    assert_eq!(due(&mut world, 900), all);
    assert_eq!(due(&mut world, 901), all, "as long as it is due");
    for id in all.keys() {
        world.store.keep_until(id, 901 + 720);
    }
    assert!(due(&mut world, 902).is_empty());
    world.now = hours(1500);
    world.pins.recheck(hours(1500), &world.store);
    world.settle();
    assert!(world.pins.has_due());
    world
        .pins
        .remove(&mut world.store, &root)
        .expect("it is done");
    assert!(!world.pins.has_due());
    assert!(due(&mut world, 1501).is_empty());
}

#[test]
fn whole_is_what_is_known_to_be_here() {
    let (first, one) = file(&data(6, 1));
    let (second, two) = file(&data(6, 2));
    let mut world = World::new(1 << 30);
    world.put(&first);
    world.put(&second);
    world.pin(one);
    world.pin(two);
    let whole = |world: &World| {
        world
            .pins
            .whole(&world.store)
            .collect::<BTreeSet<BlockId>>()
    };
    assert_eq!(whole(&world), BTreeSet::from([one, two]));
    world.store.remove(&second[2].id()).expect("it is done");
    world.pins = Pins::new(Instant::EPOCH, &world.store, true);
    assert!(
        whole(&world).is_empty(),
        "as long as nothing has been looked at"
    );
    world.settle();
    assert_eq!(whole(&world), BTreeSet::from([one]));
    world.offer(&second);
    world
        .pins
        .recheck(Instant::EPOCH + PIN_RECHECK, &world.store);
    world.settle();
    assert_eq!(whole(&world), BTreeSet::from([one, two]));
    world
        .pins
        .remove(&mut world.store, &one)
        .expect("it is done");
    assert_eq!(whole(&world), BTreeSet::from([two]));
}
