//! A file that lies on many peers is fetched as fast as all of them together give it, whatever some of them do.

use crate::client::Outcome;
use crate::fetches::File;
use crate::hostile::Manner;
use crate::links::Links;
use crate::network::{private, secs};
use crate::world::{seed, World};
use std::time::Duration;

/// Bytes of a leaf. All is 8 times smaller than it is outside, so that a leaf takes as long.
const LEAF: usize = 32 << 10;

/// Leaves of the file.
const LEAVES: usize = 1100;

/// Bytes that each peer sends in a second: a leaf takes half of one.
const RATE: u64 = 64 << 10;

/// Bytes that come to a peer in a second at most.
const LINK: u64 = 25 * RATE;

/// How long a file takes that lies on so many slow peers, after some of them have changed; and its middle four fifths.
fn fetch(links: Links, peers: usize, change: impl Fn(&mut World)) -> [Duration; 2] {
    let mut world = World::of(seed(80), Links::good(), peers, private);
    let file = File::of(&mut world, LEAVES, LEAF);
    file.spread(&mut world, false);
    let visitor = world.visitor(private(0));
    world.run_for(secs(100));
    world.links = links;
    for id in 0..peers {
        world.slow(id, Some((RATE, LINK)));
    }
    world.slow(visitor, Some((LINK, LINK)));
    change(&mut world);
    let client = world.begin_blocks(visitor, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(600));
    let Outcome::Came(came) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(came.len(), file.blocks.len());
    let received = world.status(visitor, "tcp_bytes_received");
    println!(
        "{took:?}, {:.2} times the file",
        received as f64 / (LEAVES * LEAF) as f64
    );
    let mut times: Vec<Duration> = came.into_values().collect();
    times.sort_unstable();
    let tenth = times.len() / 10;
    [took, times[9 * tenth] - times[tenth]]
}

/// How long so many peers take together.
fn ideal(peers: usize) -> f64 {
    (LEAVES * LEAF) as f64 / (peers as u64 * RATE) as f64
}

#[test]
fn twenty_sources_give_as_much_as_all_their_lines_carry() {
    let far = Links {
        latency: (Duration::from_millis(1), Duration::from_millis(300)),
        ..Links::good()
    };
    // With the start, in which everything has to be found, and once it is under way.
    for (links, least) in [(Links::good(), 0.85), (far, 0.8)] {
        let [took, middle] = fetch(links, 20, |_| {}).map(|it| it.as_secs_f64());
        let (whole, steady) = (ideal(20) / took, 0.8 * ideal(20) / middle);
        println!(
            "{:.0} % of what 20 lines carry, {:.0} % in the middle",
            whole * 100.0,
            steady * 100.0
        );
        assert!(whole >= least && steady >= 0.9, "{whole} {steady}");
    }
}

#[test]
fn source_that_stalls_or_crawls_is_hardly_felt() {
    let [absent, _] = fetch(Links::good(), 10, |world| world.kill(3, true));
    let [stalling, _] = fetch(Links::good(), 10, |world| world.turn(3, Manner::Silent));
    let [crawling, _] = fetch(Links::good(), 10, |world| {
        world.slow(3, Some((RATE / 50, LINK)))
    });
    println!("without one of ten {absent:?}, while it stalls {stalling:?}, crawls {crawling:?}");
    let part = |took: Duration| took.as_secs_f64() / absent.as_secs_f64();
    let parts = (part(stalling), part(crawling));
    assert!(parts.0 <= 1.15 && parts.1 <= 1.15, "{parts:?}");
}

#[test]
fn lying_sources_cost_little_more_than_what_was_asked_of_them() {
    let [absent, _] = fetch(Links::good(), 10, |world| {
        for id in [2, 5, 8] {
            world.kill(id, true);
        }
    });
    let [lying, _] = fetch(Links::good(), 10, |world| {
        for id in [2, 5, 8] {
            world.turn(id, Manner::Lying);
        }
    });
    println!("without three of ten {absent:?}, while they lie {lying:?}");
    let part = lying.as_secs_f64() / absent.as_secs_f64();
    assert!(part <= 1.15, "{part}");
}
