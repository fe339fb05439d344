//! Files are shared, the sharer goes, and others fetch them: the whole of it, and the same again from its seed.

use crate::client::Outcome;
use crate::network::{private, public, secs, serve};
use crate::world::{seed, Links, World};
use strew::wire::frame::MissingReason;

const MIB: usize = 1 << 20;

/// A hundred join, one shares a file and dies, another fetches it. Returns the trace.
fn hundred(seed: u64) -> u64 {
    let mut world = World::of(seed, Links::good(), 100, private);
    let data = world.file(5 * MIB - 77);
    let (address, settled) = world.share(7, &data, 8, secs(60));
    assert!(settled.blocks >= 20 && settled.least >= 8, "{settled:?}");
    world.kill(7, false);
    let got = world.fetch(93, address, secs(60));
    assert!(
        got == Outcome::Fetched(data),
        "the file comes back as it was"
    );
    world.trace()
}

#[test]
fn hundred_peers_join_share_and_fetch_and_the_same_seed_repeats_it() {
    let seed = seed(1);
    let first = hundred(seed);
    assert_eq!(first, hundred(seed), "the same seed, the same trace");
    assert_ne!(first, hundred(seed + 1), "another seed, another trace");
}

#[test]
fn peers_of_public_networks_find_each_other() {
    // One to join through, so that each must learn from it of another who can connect to it.
    let seeds = [public(0)];
    let mut world = World::through(seed(2), Links::good(), 30, public, &seeds);
    let data = world.file(MIB + 1);
    let (address, settled) = world.share(3, &data, 8, secs(60));
    assert!(settled.least >= 8, "{settled:?}");
    world.kill(3, true);
    let got = world.fetch(20, address, secs(60));
    assert!(got == Outcome::Fetched(data));
}
#[test]
fn bad_links_lose_double_delay_and_reorder_and_nothing_fails() {
    let mut world = World::of(seed(3), Links::bad(), 30, private);
    let data = world.file(3 * MIB);
    let (address, settled) = world.share(5, &data, 8, secs(120));
    assert!(settled.least >= 8, "{settled:?}");
    world.kill(5, false);
    let got = world.fetch(17, address, secs(120));
    assert!(got == Outcome::Fetched(data));
}

#[test]
fn file_of_any_size_comes_back_to_a_visitor() {
    let mut world = World::of(seed(4), Links::good(), 12, private);
    for len in [0, 1, 262_143, 262_144, 262_145, 600_000] {
        let data = world.file(len);
        let (address, settled) = world.share(2, &data, 8, secs(60));
        assert!(settled.least >= 8, "{len} bytes: {settled:?}");
        let visitor = world.visitor(private(1));
        let got = world.fetch(visitor, address, secs(60));
        assert!(got == Outcome::Fetched(data), "{len} bytes");
        assert!(world.node(visitor).is_client_mode());
        world.kill(visitor, true);
    }
}

#[test]
fn absent_address_is_said_to_be_absent_in_seconds_also_with_a_third_dead() {
    let mut world = World::of(seed(5), Links::good(), 20, private);
    for (round, dead) in [0..0, 14..20].into_iter().enumerate() {
        for id in dead {
            world.kill(id, id % 2 == 0);
        }
        let address = world.address();

        let client = world.begin_fetch(3, address);
        let (outcome, took) = world.finish(client, secs(60));
        let absent =
            matches!(outcome, Outcome::Missing(MissingReason::Absent, asked) if asked >= 13);
        assert!(absent, "round {round}: {outcome:?}");
        assert!(took < secs(10), "round {round}: {took:?}");
    }
}

#[test]
fn half_the_network_dies_and_the_file_lives_on_with_a_holder() {
    let mut world = World::of(seed(6), Links::good(), 40, private);
    let data = world.file(2 * MIB);
    let (address, settled) = world.share(0, &data, 8, secs(60));
    assert!(settled.least >= 8, "{settled:?}");
    for id in 0..20 {
        world.kill(id, id % 2 == 0);
    }
    let client = world.begin_fetch(30, address);
    let (outcome, took) = world.finish(client, secs(120));
    println!("half of 40 dead: fetched {} bytes in {took:?}", data.len());
    assert!(
        outcome == Outcome::Fetched(data),
        "every block had a living holder at this seed"
    );
}

#[test]
fn full_peers_refuse_and_others_take_their_place() {
    let mut world = World::new(seed(7), Links::good());
    for n in 0..30 {
        let mut born = serve(private(n), &[private(0)]);
        if n % 2 == 1 {
            // Room for a small block: it wants the offered one, and refuses it when it comes.
            born.capacity = 100 << 10;
        }
        world.add_peer(born);
        world.run_for(secs(1));
    }
    world.run_for(secs(10));
    let data = world.file(2 * MIB);
    let (address, settled) = world.share(0, &data, 6, secs(60));
    assert!(settled.least >= 6, "{settled:?}");
    world.kill(0, true);
    let got = world.fetch(11, address, secs(60));
    assert!(got == Outcome::Fetched(data));
}

#[test]
fn peer_that_nobody_can_connect_to_stays_in_client_mode_and_is_given_nothing() {
    let mut world = World::of(seed(8), Links::good(), 10, private);
    let mut born = serve(private(10), &[private(0)]);
    born.firewalled = true;
    let walled = world.add_peer(born);
    world.run_for(secs(120));
    assert!(world.node(walled).is_client_mode());
    let data = world.file(MIB);
    let (address, settled) = world.share(1, &data, 20, secs(60));
    assert_eq!(settled.least, 9, "all but the sharer and that one");
    assert_eq!(world.status(walled, "blocks"), 0);
    let got = world.fetch(walled, address, secs(60));
    assert!(got == Outcome::Fetched(data), "it can fetch");
}
