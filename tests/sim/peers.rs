//! Peers that lie, stall, break off and refuse; streams cut anywhere.

use crate::client::Outcome;
use crate::hostile::Manner;
use crate::network::{private, secs, CAPACITY};
use crate::world::{seed, Links, World};
use std::time::Duration;
use strew::block::address::Address;
use strew::wire::frame::MissingReason;

/// Bytes of the file that is fetched where its length is of no matter: a root and four leaves.
const FILE_LEN: usize = 900_000;

/// A network of twelve in which everybody holds all of a file; its sharer is dead.
fn all_hold(seed: u64, links: Links, len: usize) -> (World, Address, Vec<u8>) {
    let mut world = World::of(seed, links, 12, private);
    let data = world.file(len);
    let (address, settled) = world.share(0, &data, 20, secs(60));
    assert_eq!(settled.least, 11, "everybody has it");
    world.kill(0, false);
    (world, address, data)
}

/// Fetches through a new private peer while so many of eleven holders treat connections badly.
fn fetch_among(manner: Manner, bad: usize, seed: u64, len: usize) -> (Outcome, Duration) {
    let (mut world, address, data) = all_hold(seed, Links::good(), len);
    for id in 1..=bad {
        world.turn(id, manner);
    }
    let visitor = world.visitor(private(11));
    let client = world.begin_fetch(visitor, address);
    let (outcome, took) = world.finish(client, secs(180));
    println!("{bad} of 11 holders {manner:?}, {len} bytes: {took:?}");
    if let Outcome::Fetched(got) = &outcome {
        assert!(*got == data, "what is fetched is the file");
    }
    (outcome, took)
}

const MANNERS: [Manner; 5] = [
    Manner::Mute,
    Manner::Silent,
    Manner::Lying,
    Manner::Resetting,
    Manner::Denying,
];

#[test]
fn bad_holders_cannot_keep_a_file_that_half_of_its_holders_give() {
    for manner in MANNERS {
        let (outcome, took) = fetch_among(manner, 5, seed(20), FILE_LEN);
        assert!(matches!(outcome, Outcome::Fetched(_)), "{manner:?}");
        assert!(took < secs(30), "{manner:?}: {took:?}");
    }
}

#[test]
fn one_honest_holder_among_many_bad_ones_is_found() {
    for manner in MANNERS {
        let (outcome, took) = fetch_among(manner, 10, seed(21), FILE_LEN);
        assert!(
            matches!(outcome, Outcome::Fetched(_)),
            "{manner:?}: {outcome:?}"
        );
        assert!(took < secs(25), "{manner:?}: {took:?}");
    }
}

#[test]
fn small_file_is_there_in_seconds_when_ten_holders_of_eleven_are_silent() {
    for manner in [Manner::Mute, Manner::Silent] {
        for (seed, len) in [(28, 5_000), (29, 5_000), (30, 300_000), (31, 300_000)] {
            let (outcome, took) = fetch_among(manner, 10, crate::world::seed(seed), len);
            assert!(matches!(outcome, Outcome::Fetched(_)), "{manner:?}");
            assert!(took < secs(15), "{manner:?}: {took:?}");
        }
    }
}

#[test]
fn file_that_no_holder_gives_is_said_to_be_so() {
    for manner in MANNERS {
        let (outcome, took) = fetch_among(manner, 11, seed(22), FILE_LEN);
        let said = matches!(outcome, Outcome::Missing(MissingReason::NotGiven, _));
        assert!(said, "{manner:?}: {outcome:?}");
        assert!(took < secs(120), "{manner:?}: {took:?}");
    }
}

#[test]
fn share_goes_around_peers_that_accept_connections_and_say_nothing() {
    let mut world = World::of(seed(23), Links::good(), 30, private);
    for id in 1..10 {
        let manner = if id % 2 == 0 {
            Manner::Mute
        } else {
            Manner::Silent
        };
        world.turn(id, manner);
    }
    let data = world.file(1 << 20);
    let client = world.begin_share(0, &data, 8);
    let (outcome, took) = world.finish(client, secs(120));
    println!("9 of 30 silent: shared in {took:?}");
    let Outcome::Shared(_, settled) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(settled.least >= 8, "{settled:?}");
    assert!(took < secs(60), "{took:?}");
}

#[test]
fn streams_may_be_cut_at_every_byte() {
    // Greeting and OFFER or GET, and the head of a block, lie before.
    for cut in 1..150 {
        let mut links = Links::good();
        links.first_cut = Some(cut);
        let mut world = World::of(seed(24), links, 3, private);
        let data = world.file(5_000);
        let (address, settled) = world.share(0, &data, 2, secs(60));
        assert_eq!(settled.least, 2, "cut at {cut}");
        world.kill(0, true);
        let visitor = world.visitor(private(1));
        let got = world.fetch(visitor, address, secs(60));
        assert!(got == Outcome::Fetched(data), "cut at {cut}");
    }
}

#[test]
fn streams_may_break_after_every_byte() {
    for limit in (0..150).step_by(3).chain([1_000, 100_000, 300_000]) {
        let (mut world, address, data) = all_hold(seed(25), Links::good(), FILE_LEN);
        for id in 1..8 {
            world.peers[id].breaks_after = Some(limit);
        }
        let visitor = world.visitor(private(11));
        let client = world.begin_fetch(visitor, address);
        let (got, took) = world.finish(client, secs(60));
        assert!(
            got == Outcome::Fetched(data),
            "broken after {limit}: {took:?}"
        );
    }
}

#[test]
fn nobody_takes_more_than_it_allots() {
    let mut world = World::of(seed(26), Links::good(), 12, private);
    let data = world.file(4 << 20);
    world.share(0, &data, 20, secs(60));
    for id in world.alive().collect::<Vec<_>>() {
        assert!(world.status(id, "used_bytes") <= CAPACITY);
    }
}

#[test]
fn connection_that_is_closed_as_idle_just_when_it_is_wanted_again_loses_nothing() {
    let mut failures = Vec::new();
    for step in 0..40 {
        let mut world = World::of(seed(27), Links::good(), 2, private);
        let files = [world.file(5_000), world.file(6_000)];
        let addresses = files.each_ref().map(|data| {
            let (address, _) = world.share(0, data, 8, secs(60));
            address
        });
        world.kill(1, true);
        let visitor = world.visitor(private(0));
        world.run_for(secs(100));
        let first = world.fetch(visitor, addresses[0], secs(60));
        assert!(first == Outcome::Fetched(files[0].clone()));
        world.run_for(Duration::from_millis(59_500 + step * 20));
        let second = world.fetch(visitor, addresses[1], secs(60));
        if second != Outcome::Fetched(files[1].clone()) {
            failures.push((step, second));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
