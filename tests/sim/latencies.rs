//! Files whose holders are far away, or thousands: what the fetcher's line carries is used.

use crate::client::Outcome;
use crate::fetches::File;
use crate::links::Links;
use crate::lookups::internet;
use crate::network::{private, secs};
use crate::world::{seed, World};
use std::time::Duration;

/// Bytes of a leaf. All is 16 times smaller than it is outside, so that a leaf takes as long.
const LEAF: usize = 16 << 10;

/// Leaves of a file of a GiB.
const LEAVES: usize = 4096;

/// Bytes that each of few peers sends in a second: a leaf takes half of one.
const RATE: u64 = 32 << 10;

/// Bytes a second of a network of many: 100 Mbit/s for who fetches, 10 up for all others.
const LINK: u64 = 12_500_000 / 16;
const UP: u64 = LINK / 10;

#[test]
#[ignore = "long: make sim"]
fn file_on_thousands_of_peers_comes_nearly_as_fast_as_the_line_carries_it() {
    let peers = 10_000;
    let mut world = World::loaded(seed(85), internet(), peers);
    let file = File::of(&mut world, LEAVES, LEAF);
    file.spread(&mut world, false);
    let visitor = world.rng.below(peers as u64) as usize;
    for id in 0..peers {
        let up = if id == visitor { LINK } else { UP };
        world.slow(id, Some((up, LINK)));
    }
    let client = world.begin_blocks(visitor, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(600));
    assert!(matches!(outcome, Outcome::Came(_)), "{outcome:?}");
    let ideal = Duration::from_micros((LEAVES * LEAF) as u64 * 1_000_000 / LINK);
    let part = ideal.as_secs_f64() / took.as_secs_f64();
    let received = world.status(visitor, "tcp_bytes_received");
    println!(
        "{took:?} for a GiB at 100 Mbit/s, {:.0} % of the line; {:.2} times the file",
        part * 100.0,
        received as f64 / (LEAVES * LEAF) as f64
    );
    assert!(part >= 0.7, "{part}");
}

#[test]
#[ignore = "long: make sim"]
fn twenty_far_sources_give_nine_tenths_of_what_their_lines_carry() {
    let peers = 20;
    let mut world = World::of(seed(86), Links::good(), peers, private);
    let file = File::of(&mut world, LEAVES, LEAF);
    file.spread(&mut world, false);
    let visitor = world.visitor(private(0));
    world.run_for(secs(100));
    world.links.latency = (Duration::from_millis(1), Duration::from_millis(300));
    for id in 0..peers {
        world.slow(id, Some((RATE, 25 * RATE)));
    }
    world.slow(visitor, Some((25 * RATE, 25 * RATE)));
    let client = world.begin_blocks(visitor, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(600));
    let Outcome::Came(came) = outcome else {
        panic!("{outcome:?}");
    };
    let mut times: Vec<Duration> = came.into_values().collect();
    times.sort_unstable();
    println!(
        "blocks came after {:?}",
        [0, 1, 2, 3, 22, 102, 410, 2048, 3686, 4000, 4090].map(|n| times[n])
    );
    let ideal = (LEAVES * LEAF) as f64 / (peers as u64 * RATE) as f64;
    let part = ideal / took.as_secs_f64();
    println!(
        "{took:?} for a GiB, {:.0} % of what 20 lines carry",
        part * 100.0
    );
    assert!(part >= 0.9, "{part}");
}

#[test]
fn far_sources_on_thin_lines_give_three_quarters_of_what_those_carry() {
    // Datagrams are as long as outside, and fill these lines as if they were 16 times as long: many are lost.
    let (peers, rate, leaves) = (20, RATE / 2, 1030);
    let mut world = World::of(seed(90), Links::good(), peers, private);
    let file = File::of(&mut world, leaves, LEAF);
    file.spread(&mut world, false);
    let visitor = world.visitor(private(0));
    world.run_for(secs(100));
    world.links.latency = (Duration::from_millis(1), Duration::from_millis(300));
    for id in 0..peers {
        world.slow(id, Some((rate, 25 * rate)));
    }
    world.slow(visitor, Some((25 * rate, 25 * rate)));
    let client = world.begin_blocks(visitor, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(600));
    assert!(matches!(outcome, Outcome::Came(_)), "{outcome:?}");
    let ideal = (leaves * LEAF) as f64 / (peers as u64 * rate) as f64;
    let part = ideal / took.as_secs_f64();
    println!("{took:?}, {:.0} % of what 20 lines carry", part * 100.0);
    assert!(part >= 0.75, "{part}");
}
