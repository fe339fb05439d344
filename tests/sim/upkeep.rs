//! What finding peers costs, and what holds after hours: budgets of messages, tables, peers that come back.

use crate::client::Outcome;
use crate::network::{private, secs, serve};
use crate::world::{seed, Links, PeerId, World};
use strew::id::Point;
use strew::limits::K;

/// Datagrams that one join may cost all peers together: some 30 times K, for the lookup for itself, the refresh of
/// each bucket, and the pings of those who then take the newcomer in.
const JOIN_DATAGRAMS_MAX: u64 = 600;

/// Datagrams that one lookup may cost all together: each of the K closest asked and answering, and as many on the way.
const LOOKUP_DATAGRAMS_MAX: u64 = 4 * K as u64;

/// Datagrams that a peer may send in an hour in which nobody wants anything: pings and refreshes, and their answers.
const IDLE_HOUR_DATAGRAMS_MAX: u64 = 600;

/// How many living peers have this one in their tables.
fn known_by(world: &World, id: PeerId) -> usize {
    let key = world.peers[id].key;
    let others = world.alive().filter(|&other| other != id);
    let knows = |&other: &PeerId| {
        let contacts = world.node(other).contacts(world.now);
        contacts.iter().any(|contact| contact.key == key)
    };
    others.filter(knows).count()
}

#[test]
fn join_and_lookup_keep_their_budgets_and_buckets_their_bounds() {
    let mut world = World::new(seed(40), Links::good());
    let mut worst = 0;
    for n in 0..60 {
        // The others are idle but for what the newcomer causes, and the last refreshes of those before it.
        world.run_for(secs(60));
        let before = world.datagrams();
        let id = world.add_peer(serve(private(n), &[private(0)]));
        world.run_for(secs(20));
        let cost = world.datagrams() - before;
        assert!(cost <= JOIN_DATAGRAMS_MAX, "join {n} cost {cost} datagrams");
        assert!(n == 0 || world.has_joined(id), "join {n}");
        worst = worst.max(cost);
    }
    println!("the dearest of 60 joins cost {worst} datagrams of all peers");

    let mut dearest = 0;
    for n in 0..10 {
        world.run_for(secs(5));
        let address = world.address();
        let before = world.datagrams();
        let client = world.begin_fetch(n * 5, address);
        let (outcome, _) = world.finish(client, secs(10));
        assert!(matches!(outcome, Outcome::Missing(..)), "{outcome:?}");
        dearest = dearest.max(world.datagrams() - before);
    }
    println!("the dearest of 10 lookups cost {dearest} datagrams of all peers");
    assert!(dearest <= LOOKUP_DATAGRAMS_MAX, "{dearest}");

    for id in world.alive() {
        let own = Point::from(world.node(id).id());
        let mut buckets = [0; 256];
        for contact in world.node(id).contacts(world.now) {
            buckets[own.common_prefix(&contact.id.into())] += 1;
        }
        assert!(buckets.iter().all(|&count| count <= K), "peer {id}");
    }
}

#[test]
fn idle_hours_cost_little_and_a_peer_that_was_dead_for_one_is_found_again() {
    let mut world = World::of(seed(41), Links::good(), 40, private);
    world.run_for(secs(300));
    let lost = 20;
    let known = known_by(&world, lost);
    assert!(known >= K / 2, "known by {known}");
    world.kill(lost, false);
    let sent = |world: &World| -> Vec<u64> {
        let peers = world.peers.iter();
        peers.map(|peer| peer.datagrams).collect()
    };
    let before = sent(&world);
    world.run_for(secs(3600));
    let after = sent(&world);
    let hour: Vec<u64> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
    let most = hour.iter().max().copied().unwrap_or(0);
    let mean = hour.iter().sum::<u64>() / hour.len() as u64;
    println!("an idle hour among 40: {mean} datagrams a peer, {most} at most");
    assert!(most <= IDLE_HOUR_DATAGRAMS_MAX, "{hour:?}");
    assert_eq!(known_by(&world, lost), 0, "the dead are forgotten");

    world.revive(lost);
    world.run_for(secs(60));
    assert!(world.has_joined(lost));
    let again = known_by(&world, lost);
    assert!(again >= K / 2, "known again by {again}");
    world.run_for(secs(3600));
    assert!(known_by(&world, lost) >= K / 2);
    for id in world.alive() {
        assert!(world.has_joined(id), "peer {id} after two hours");
        assert_eq!(world.status(id, "connections"), 0, "idle ones are closed");
    }
}

#[test]
fn peer_cut_off_for_an_hour_has_its_blocks_and_gives_them_when_it_is_back() {
    let mut world = World::of(seed(42), Links::good(), 15, private);
    let data = world.file(300_000);
    let (address, settled) = world.share(9, &data, 20, secs(60));
    assert_eq!(settled.least, 14);
    world.peers[4].plugged = false;
    world.run_for(secs(3600));
    world.peers[4].plugged = true;
    for id in (1..15).filter(|&id| id != 4) {
        // Whoever held it starts anew with an empty store; the first peer keeps the network together.
        world.kill(id, true);
        world.revive(id);
    }
    world.kill(0, true);
    world.revive(0);
    world.run_for(secs(180));
    assert!(world.has_joined(4));
    let got = world.fetch(12, address, secs(60));
    assert!(got == Outcome::Fetched(data), "from the only holder");
}

#[test]
fn whole_network_that_was_cut_off_comes_together_again() {
    let mut world = World::of(seed(43), Links::good(), 15, private);
    for peer in &mut world.peers {
        peer.plugged = false;
    }
    world.run_for(secs(7200));
    for peer in &mut world.peers {
        peer.plugged = true;
    }
    let together = world.run_until(secs(600), |world| {
        world.alive().all(|id| world.status(id, "contacts") >= 14)
    });
    let alone: Vec<PeerId> = world
        .alive()
        .filter(|&id| world.status(id, "contacts") < 14)
        .collect();
    assert!(together, "not together again: {alone:?}");
}

#[test]
fn peers_that_start_at_once_behind_dead_seeds_all_join() {
    for links in [Links::good(), Links::bad()] {
        let mut world = World::new(seed(44), links);
        let seeds = [private(70), private(0), private(71), private(1)];
        for n in 0..30 {
            world.add_peer(serve(private(n), &seeds));
        }
        let began = world.now;
        let joined = world.run_until(secs(120), |world| {
            world.alive().all(|id| world.has_joined(id))
        });
        assert!(joined, "all 30 are in after two minutes");
        println!("30 that start at once: {:?}", world.now.since(began));
    }
}

#[test]
fn peers_go_and_come_for_an_hour_and_files_shared_meanwhile_are_fetched() {
    let mut world = World::of(seed(45), Links::bad(), 30, private);
    for round in 0..12 {
        let victim = 1 + world.rng.below(29) as usize;
        let refuses = world.rng.below(2) == 0;
        world.kill(victim, refuses);
        let sharer = world.alive().nth(round).expect("most are alive");
        let data = world.file(400_000);
        let (address, settled) = world.share(sharer, &data, 8, secs(120));
        assert!(settled.least >= 6, "round {round}: {settled:?}");
        world.run_for(secs(200));
        world.revive(victim);
        world.run_for(secs(100));
        let other = world.alive().nth(29 - round).expect("all are alive");
        let got = world.fetch(other, address, secs(60));
        assert!(got == Outcome::Fetched(data), "round {round}");
    }
}
