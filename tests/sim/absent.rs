//! What is nowhere is said to be nowhere, soon; and nothing else is.

use crate::client::Outcome;
use crate::fetches::File;
use crate::links::Links;
use crate::lookups::internet;
use crate::network::{private, secs};
use crate::world::{seed, PeerId, World};
use std::time::Duration;
use strew::limits::K;
use strew::wire::frame::MissingReason;

#[test]
fn what_nobody_has_is_said_to_be_absent_within_seconds() {
    const FETCHES: usize = 200;
    let peers = 1000;
    let mut world = World::loaded(seed(87), internet(), peers);
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..FETCHES {
        let peer = world.rng.below(peers as u64) as usize;
        let address = world.address();
        let client = world.begin_fetch(peer, address);
        let (outcome, after) = world.finish(client, secs(30));
        let is_absent = matches!(
            outcome,
            Outcome::Missing(MissingReason::Absent, asked) if asked as usize >= K
        );
        assert!(is_absent, "{outcome:?}");
        took.push(after);
    }
    took.sort_unstable();
    let p99 = took[FETCHES - 1 - FETCHES / 100];
    println!(
        "p50 {:?}, p99 {p99:?}, at most {:?}",
        took[FETCHES / 2],
        took[FETCHES - 1]
    );
    assert!(p99 <= secs(5), "{p99:?}");
}

/// Bytes of a leaf where lines are slow.
const LEAF: usize = 16 << 10;

/// Few far peers with so many bytes a second up each, that hold a file but for one leaf, and a visitor whose line
/// carries what they send.
fn few(
    seed: u64,
    peers: usize,
    up: u64,
    leaves: usize,
    without: Option<usize>,
) -> (World, File, PeerId) {
    let mut world = World::of(seed, Links::good(), peers, private);
    let mut file = File::of(&mut world, leaves, LEAF);
    if let Some(nth) = without {
        file.blocks.remove(nth);
    }
    file.spread(&mut world, false);
    let visitor = world.visitor(private(0));
    world.run_for(secs(100));
    world.links.latency = (Duration::from_millis(1), Duration::from_millis(300));
    for id in 0..peers {
        world.slow(id, Some((up, 25 * up)));
    }
    world.slow(visitor, Some((25 * up, 25 * up)));
    (world, file, visitor)
}

#[test]
fn what_living_peers_hold_comes_although_their_lines_are_full_of_blocks() {
    // Too few leaves for the shape of a file: each is looked up alone, which fills the lines more than all together.
    let (mut world, file, visitor) = few(seed(88), 20, 16 << 10, 300, None);
    let client = world.begin_blocks(visitor, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(300));
    assert!(matches!(outcome, Outcome::Came(_)), "{outcome:?}");
    println!("{took:?}");
}

#[test]
fn leaf_that_nobody_has_is_said_to_be_absent_in_seconds_among_few_while_others_come() {
    for peers in [3, 20] {
        let absent = 300;
        let (mut world, file, visitor) = few(seed(89), peers, 512 << 10, 1200, Some(absent));
        let client = world.begin_blocks(visitor, file.order.iter().copied());
        // The root, the nodes and the leaves before it, but for as many as are asked for at once.
        let near = 1 + absent - 64;
        assert!(world.run_until(secs(60), |world| world.came(client) >= near));
        let wanted = world.now;
        let (outcome, _) = world.finish(client, secs(60));
        let took = world.now.since(wanted);
        println!(
            "{peers} peers: {outcome:?} after {took:?}, {} came",
            world.came(client)
        );
        let is_absent = matches!(outcome, Outcome::Missing(MissingReason::Absent, asked) if asked as usize >= peers);
        assert!(is_absent, "{outcome:?}");
        assert!(took <= secs(5), "{took:?}");
    }
}
