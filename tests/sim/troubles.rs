//! One trouble at a time: split networks, translators, slow lines, crashes, and peers that do harm.

use crate::access::Nat;
use crate::client::Outcome;
use crate::network::{blocks_of, private, public, secs, serve};
use crate::villains::{Vice, VICES};
use crate::world::{seed, Links, PeerId, World};
use std::time::Duration;
use strew::limits::{REFRESH_AFTER, THIN_RETRY_MAX, UNRESPONSIVE_FOR};
use strew::store::Store;

/// Who does not know this many peers that are at their addresses.
fn lonely(world: &World, enough: usize) -> Vec<PeerId> {
    let knows = |id: PeerId| {
        let contacts = world.node(id).contacts(world.now);
        let is_there = |it: &strew::wire::contact::Contact| {
            let there = world.peer_at(it.addr);
            there.is_some_and(|id| world.peers[id].node.is_some() && world.peers[id].key == it.key)
        };
        contacts.iter().filter(|it| is_there(it)).count()
    };
    world.alive().filter(|&id| knows(id) < enough).collect()
}

/// Lets time pass until something holds that is dear to ask for.
fn wait(world: &mut World, limit: Duration, holds: impl Fn(&World) -> bool) -> bool {
    let until = world.now + limit;
    while world.now < until {
        if holds(world) {
            return true;
        }
        world.run_for(secs(5));
    }
    false
}

#[test]
fn network_that_was_split_for_hours_is_one_again() {
    for count in [12, 60] {
        let mut world = World::of(seed(80), Links::good(), count, private);
        world.run_for(secs(600));
        world.split(|id| u8::from(id >= count / 2));
        world.run_for(secs(3 * 3600));
        // The sides have forgotten each other.
        world.split(|_| 0);
        let healed = world.now;
        let enough = count / 2 + 4;
        let one = wait(&mut world, 2 * REFRESH_AFTER, |world| {
            lonely(world, enough).is_empty()
        });
        assert!(
            one,
            "of {count} these know one side only: {:?}",
            lonely(&world, enough)
        );
        println!("{count} are one after {:?}", world.now.since(healed));
    }
}

#[test]
fn few_that_were_cut_off_from_many_know_them_again_in_minutes() {
    let mut world = World::of(seed(89), Links::good(), 26, private);
    world.run_for(secs(600));
    world.split(|id| u8::from(id >= 20));
    world.run_for(secs(3600));
    world.split(|_| 0);
    let healed = world.now;
    // Half as long again as the longest pause, and once more as one of a few is met by the others.
    let limit = THIN_RETRY_MAX * 3;
    let know = wait(&mut world, limit, |world| lonely(world, 20).is_empty());
    assert!(know, "{:?} do not", lonely(&world, 20));
    println!("6 know 20 again after {:?}", world.now.since(healed));
}

#[test]
fn network_that_was_split_for_minutes_carries_on_at_once() {
    let mut world = World::of(seed(81), Links::good(), 30, private);
    let data = world.file(600_000);
    let (address, settled) = world.share(3, &data, 8, secs(60));
    assert!(settled.least >= 8);
    for round in 0..5 {
        world.split(|id| (id >> round) as u8 & 1);
        // Fetches that began before meet the split; they end, one way or the other.
        let early = world.begin_fetch(20, address);
        world.run_for(secs(60 * (round + 1)));
        world.split(|_| 0);
        assert!(world.clients[early].outcome.is_some(), "it has ended");
        world.run_for(UNRESPONSIVE_FOR * 2);
        let got = world.fetch(20, address, secs(60));
        assert!(got == Outcome::Fetched(data.clone()), "round {round}");
    }
}

#[test]
fn peer_whose_cable_was_out_finds_others_as_soon_as_it_is_back() {
    for count in [10, 60] {
        let mut world = World::of(seed(88), Links::good(), count, private);
        world.run_for(secs(300));
        let data = world.file(5000);
        let (address, _) = world.share(3, &data, 8, secs(60));
        let visitor = world.visitor(private(0));
        world.run_for(secs(10));
        world.peers[visitor].plugged = false;
        for _ in 0..4 {
            let client = world.begin_fetch(visitor, address);
            let (outcome, took) = world.finish(client, secs(60));
            println!("without a cable: {outcome:?} after {took:?}");
            assert!(matches!(outcome, Outcome::Missing(..)));
        }
        world.peers[visitor].plugged = true;
        let client = world.begin_fetch(visitor, address);
        let (outcome, took) = world.finish(client, secs(60));
        println!("with it again: {took:?}");
        assert!(outcome == Outcome::Fetched(data), "{outcome:?}");
    }
}

#[test]
fn peer_behind_a_translator_fetches_and_shares_and_is_given_nothing() {
    for (symmetric, address) in [
        (false, private as fn(usize) -> _),
        (true, private),
        (false, public),
        (true, public),
    ] {
        let mut world = World::of(seed(82), Links::good(), 12, address);
        let id = world.add_unborn(serve(address(12), &[address(0), address(1)]));
        world.hide(id, Nat::new(secs(30), symmetric));
        world.revive(id);
        world.run_for(secs(300));
        assert!(world.node(id).is_client_mode());
        assert!(lonely(&world, 11).is_empty(), "all know all");
        let data = world.file(600_000);
        let (there, settled) = world.share(id, &data, 8, secs(60));
        assert!(settled.least >= 8, "{settled:?}");
        let got = world.fetch(3, there, secs(60));
        assert!(got == Outcome::Fetched(data), "from a hidden sharer");
        let data = world.file(600_000);
        let (there, settled) = world.share(5, &data, 20, secs(60));
        assert_eq!(settled.least, 11);
        assert!(world.status(id, "blocks") <= 4, "only what it has shared");
        let got = world.fetch(id, there, secs(60));
        assert!(got == Outcome::Fetched(data), "to a hidden peer");
    }
}

#[test]
fn slow_lines_carry_as_much_as_they_can_and_lose_nothing() {
    let rate = 32 << 10;
    let len = 1 << 20;
    // What comes over a line at once, and what goes.
    for (down, up) in [(rate, 8 * rate), (64 * rate, rate)] {
        let mut world = World::of(seed(83), Links::good(), 15, private);
        let data = world.file(len);
        let (address, _) = world.share(0, &data, 20, secs(60));
        world.kill(0, true);
        let visitor = world.visitor(private(1));
        world.slow(visitor, Some((up, down)));
        for id in 1..15 {
            world.slow(id, Some((rate, 8 * rate)));
        }
        let client = world.begin_fetch(visitor, address);
        let (outcome, took) = world.finish(client, secs(600));
        println!("{len} bytes over lines of {down} down and {up} up: {took:?}");
        assert!(outcome == Outcome::Fetched(data));
        let least = Duration::from_secs(len as u64 / down.min(14 * rate));
        assert!(took >= least && took < least * 3 + secs(20), "{took:?}");
    }
    let mut world = World::of(seed(84), Links::good(), 15, private);
    world.slow(4, Some((rate, rate)));
    let data = world.file(300_000);
    let client = world.begin_share(4, &data, 4);
    let (outcome, took) = world.finish(client, secs(600));
    println!("4 copies of 300,000 bytes over a line of {rate}: {took:?}");
    let Outcome::Shared(_, settled) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(settled.least >= 4, "{settled:?}");
}

#[test]
fn what_was_said_to_be_stored_survives_crashes_of_all_holders() {
    let mut world = World::of(seed(85), Links::good(), 20, private);
    world.saves = true;
    let data = world.file(900_000);
    let (address, settled) = world.share(2, &data, 6, secs(60));
    let (_, blocks) = blocks_of(&data);
    let copies = |world: &World| -> Vec<usize> {
        let has = |id: PeerId, block: &strew::block::Block| world.node(id).store().has(&block.id());
        let count = |block| world.alive().filter(|&id| has(id, block)).count();
        blocks.iter().map(count).collect()
    };
    let before = copies(&world);
    assert!(before.iter().all(|&n| n > usize::from(settled.least)));
    for id in 0..20 {
        world.crash(id, true, id % 2 == 0);
    }
    for id in 0..20 {
        world.revive(id);
    }
    assert_eq!(copies(&world), before, "as many as before");
    world.crash(2, false, true);
    world.run_for(secs(60));
    let got = world.fetch(11, address, secs(60));
    assert!(got == Outcome::Fetched(data));
}

#[test]
fn peer_that_returns_at_another_address_is_known_there() {
    let mut world = World::of(seed(86), Links::good(), 20, private);
    world.saves = true;
    let data = world.file(100_000);
    let (address, _) = world.share(7, &data, 3, secs(60));
    world.run_for(secs(600));
    world.crash(7, true, false);
    world.run_for(secs(300));
    world.revive_at(7, private(100));
    let key = world.peers[7].key;
    let known_at = |world: &World| {
        let contacts = world
            .alive()
            .flat_map(|id| world.node(id).contacts(world.now));
        let here = contacts.filter(|it| it.key == key && it.addr == private(100));
        here.count()
    };
    let known = wait(&mut world, secs(1800), |world| known_at(world) >= 15);
    assert!(known, "known to {} only", known_at(&world));
    for id in (0..20).filter(|&id| id != 7) {
        world.crash(id, false, true);
        world.revive(id);
    }
    assert!(wait(&mut world, secs(1800), |world| lonely(world, 19).is_empty()));
    let got = world.fetch(3, address, secs(60));
    assert!(got == Outcome::Fetched(data), "it is the only one left");
}

/// Shares and fetches in a network of 40 of which 8 are hostile in this way.
fn live_with(vice: Vice, address: fn(usize) -> std::net::SocketAddr) {
    let links = Links {
        lost: 10,
        ..Links::good()
    };
    let mut world = World::of(seed(87), links, 32, address);
    for n in 0..8 {
        world.add_villain(address(50 + n), vice);
    }
    let begun = (world.now, world.datagrams());
    let (mut slowest, mut fetched) = ((Duration::ZERO, Duration::ZERO), 0);
    for round in 0..4 {
        world.run_for(secs(300));
        let data = world.file(400_000);
        let client = world.begin_share(round, &data, 8);
        let (outcome, took) = world.finish(client, secs(240));
        slowest.0 = slowest.0.max(took);
        let Outcome::Shared(address, settled) = outcome else {
            panic!("{vice:?}: {outcome:?}");
        };
        // Whoever makes up ids as close as it likes to any block crowds out those who live around it.
        if vice != Vice::EverCloser {
            assert!(settled.least >= 8, "{vice:?}, round {round}: {settled:?}");
        }
        let client = world.begin_fetch(31 - round, address);
        let (outcome, took) = world.finish(client, secs(240));
        slowest.1 = slowest.1.max(took);
        match outcome {
            Outcome::Fetched(got) => {
                assert!(got == data, "what is fetched is the file");
                fetched += 1;
            }
            other if vice == Vice::EverCloser => println!("{other:?}"),
            other => panic!("{vice:?}, round {round}: {other:?}"),
        }
    }
    let took = world.now.since(begun.0).as_secs_f64();
    let sent = (world.datagrams() - begun.1) as f64 / took / 32.0;
    println!(
        "{vice:?}: {fetched} of 4 fetched; a share took {:?} at most, a fetch {:?}; {sent:.1} datagrams a second",
        slowest.0, slowest.1
    );
}

#[test]
fn fifth_of_the_network_that_does_harm_is_lived_with() {
    for vice in VICES {
        live_with(vice, public);
    }
}
