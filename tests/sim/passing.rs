//! What a sharer has to send, and where the copies are in the end: holders pass on what they are given, or do not.

use crate::client::Outcome;
use crate::hostile::Manner;
use crate::network::{private, secs, serve};
use crate::world::{seed, Links, PeerId, World};
use std::time::Duration;
use strew::block::{Block, Form, Kind, Role};
use strew::id::{BlockId, Point};
use strew::limits::{COPIES_DEFAULT, K};
use strew::store::Store;
use strew::wire::frame::Settled;

/// Payload that a sharer may send for each byte of a file, in copies.
const UPLOAD_MAX: f64 = 1.2;

/// Bytes of a block: small, so that thousands of peers fit a machine.
const BLOCK_LEN: usize = 64;

/// Who shares.
const SHARER: PeerId = 0;

/// So many leaves, with nodes and a root as a file has, or more of them.
fn file(world: &mut World, leaves: usize) -> Vec<Block> {
    let roles = [Role::Root, Role::Node, Role::Node];
    let roles = roles
        .into_iter()
        .chain(std::iter::repeat_n(Role::Leaf, leaves));
    let form = Form::Encrypted;
    roles
        .map(|role| {
            let payload = world.rng.bytes::<BLOCK_LEN>().to_vec();
            Block::new(Kind { role, form }, payload).expect("a block")
        })
        .collect()
}

/// How many copies of a block are wanted.
fn wanted(block: &Block) -> usize {
    match block.kind().role {
        Role::Leaf => COPIES_DEFAULT.into(),
        Role::Node | Role::Root => 2 * usize::from(COPIES_DEFAULT),
    }
}

/// The peers that should have a block, by looking at all.
fn neighbourhood(world: &World, block: BlockId) -> Vec<PeerId> {
    let mut others: Vec<PeerId> = world.alive().filter(|&id| id != SHARER).collect();
    others.sort_by_key(|&id| Point::from(world.peers[id].key.id()).distance(&block.into()));
    others.truncate(K);
    others
}

/// How many of them have it.
fn copies(world: &World, block: BlockId) -> usize {
    let near = neighbourhood(world, block);
    let has = |id: &&PeerId| world.node(**id).store().has(&block);
    near.iter().filter(has).count()
}

/// What came of a share.
struct Placed {
    settled: Settled,
    took: Duration,
    /// Copies that the sharer sent for each block.
    upload: f64,
    datagrams: u64,
}

fn place(world: &mut World, blocks: &[Block], limit: Duration) -> Placed {
    let (before, datagrams) = (world.status(SHARER, "put_bytes"), world.datagrams());
    let client = world.begin_place(SHARER, blocks.to_vec(), COPIES_DEFAULT);
    let (outcome, took) = world.finish(client, limit);
    let Outcome::Placed(settled) = outcome else {
        panic!("{outcome:?}");
    };
    let bytes = world.status(SHARER, "put_bytes") - before;
    let upload = bytes as f64 / (blocks.len() * BLOCK_LEN) as f64;
    let datagrams = (world.datagrams() - datagrams) / blocks.len() as u64;
    println!(
        "{} blocks: {upload:.2} copies sent, {took:?}, {settled:?}, {datagrams} datagrams of all for each block",
        blocks.len()
    );
    Placed {
        settled,
        took,
        upload,
        datagrams,
    }
}

/// Whether every block has as many copies as are wanted where they belong, or lacks only so many; prints how many there
/// are more than that.
fn check_copies(world: &World, blocks: &[Block], lacking: usize) {
    let (mut more, mut less) = (0, 0);
    for block in blocks {
        let (copies, wanted) = (copies(world, block.id()), wanted(block));
        assert!(copies + lacking >= wanted, "{copies} of {:?}", block.kind());
        more += copies.saturating_sub(wanted);
        less += wanted.saturating_sub(copies);
    }
    println!("{more} copies more than wanted, {less} less");
}

/// A thousand peers of which these are to be treated so.
fn thousand(seed: u64, mut treat: impl FnMut(&mut World, PeerId)) -> (World, Vec<Block>) {
    let mut world = World::loaded(seed, Links::good(), 1000);
    for id in (0..1000).filter(|&id| id != SHARER) {
        treat(&mut world, id);
    }
    let blocks = file(&mut world, 300);
    (world, blocks)
}

#[test]
fn sharer_sends_little_more_than_once_and_the_copies_are_where_they_belong() {
    let (mut world, blocks) = thousand(seed(100), |_, _| {});
    let placed = place(&mut world, &blocks, secs(60));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.upload <= UPLOAD_MAX);
    assert!(placed.took < secs(4));
    assert!(placed.datagrams < 120);
    check_copies(&world, &blocks, 0);

    // Nobody is sent it again.
    let again = place(&mut world, &blocks, secs(60));
    assert_eq!(again.upload, 0.0);
    assert!(again.settled.least >= COPIES_DEFAULT);
}

#[test]
fn dead_fifth_costs_little_more() {
    let (mut world, blocks) = thousand(seed(101), |world, id| {
        if id % 5 == 1 {
            world.kill(id, id % 2 == 0);
        }
    });
    let placed = place(&mut world, &blocks, secs(120));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.upload <= UPLOAD_MAX);
    assert!(placed.took < secs(30));
    for block in &blocks {
        let (copies, wanted) = (copies(&world, block.id()), wanted(block));
        // Who knows 20 that are closer, and has not noticed that some of them are dead, refuses.
        let refuses = |id: &&PeerId| world.status(**id, "refused_far") > 0;
        let near = neighbourhood(&world, block.id());
        let refusing = near.iter().filter(refuses).count();
        assert!(copies >= wanted.min(K - refusing), "{copies} of {wanted}");
    }
    check_copies(&world, &blocks, 4);
}

#[test]
fn fifth_that_passes_nothing_on_costs_a_second_copy_now_and_then() {
    let (mut world, blocks) = thousand(seed(102), |world, id| {
        if id % 5 == 1 {
            world.peers[id].manner = Manner::Hoarding;
        }
    });
    let placed = place(&mut world, &blocks, secs(120));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.upload > 1.1 && placed.upload <= 1.7);
    assert!(placed.took < secs(30));
    check_copies(&world, &blocks, 0);
}

#[test]
fn network_in_which_nobody_passes_on_gets_its_copies_from_the_sharer() {
    let (mut world, blocks) = thousand(seed(103), |world, id| {
        world.peers[id].manner = Manner::Hoarding;
    });
    let placed = place(&mut world, &blocks, secs(120));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.took < secs(30));
    check_copies(&world, &blocks, 0);
}

#[test]
fn liar_who_says_that_it_has_all_costs_one_copy() {
    let (mut world, blocks) = thousand(seed(104), |_, _| {});
    // In all of their neighbourhoods: as the network is small enough for that, but for a few.
    let near: Vec<Vec<PeerId>> = blocks
        .iter()
        .map(|block| neighbourhood(&world, block.id()))
        .collect();
    for (block, near) in blocks.iter().zip(&near) {
        let stranger = world.stranger(near[3], private(5000).ip());
        assert!(world.put(stranger, block, 86_400).is_ok());
    }
    let placed = place(&mut world, &blocks, secs(60));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    for (block, near) in blocks.iter().zip(&near) {
        let others = near.iter().filter(|id| **id != near[3]);
        let has = |id: &&PeerId| world.node(**id).store().has(&block.id());
        let copies = others.filter(has).count();
        assert!(copies >= wanted(block) - 1, "{copies}");
    }
}

#[test]
fn bad_links_take_longer_and_need_little_more() {
    let mut world = World::loaded(seed(105), Links::bad(), 300);
    let blocks = file(&mut world, 100);
    let placed = place(&mut world, &blocks, secs(120));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.upload <= UPLOAD_MAX);
    check_copies(&world, &blocks, 0);
}

#[test]
fn newcomers_are_given_nothing_while_there_are_others() {
    let mut world = World::loaded(seed(106), Links::good(), 60);
    world.run_for(secs(2 * 3600));
    for n in 60..75 {
        world.add_peer(serve(private(n), &[private(0)]));
    }
    world.run_for(secs(600));
    assert!((60..75).all(|id| world.has_joined(id)));
    let blocks = file(&mut world, 100);
    let placed = place(&mut world, &blocks, secs(60));
    assert!(placed.settled.least >= COPIES_DEFAULT);
    assert!(placed.upload <= UPLOAD_MAX);
    check_copies(&world, &blocks, 0);
    // Ages are hearsay: who was named by newcomers only may pass for one.
    let all = |peers: std::ops::Range<PeerId>| -> usize {
        let held = peers.map(|id| {
            let store = world.node(id).store();
            blocks.iter().filter(|it| store.has(&it.id())).count()
        });
        held.sum()
    };
    let (old, new) = (all(1..60), all(60..75));
    println!("{old} copies on 59 old peers, {new} on 15 newcomers");
    assert!(new <= old / 20, "{new} of {old}");
}

#[test]
fn small_file_takes_no_longer_than_some_round_trips() {
    for (seed, count) in [(107, 12), (108, 30), (109, 300)] {
        let mut world = World::loaded(crate::world::seed(seed), Links::good(), count);
        let data = world.file(5_000);
        let client = world.begin_share(SHARER, &data, COPIES_DEFAULT);
        let (_, took) = world.finish(client, secs(10));
        println!("one block among {count}: {took:?}");
        assert!(took < Duration::from_millis(400), "{took:?}");
    }
}
