//! What is pinned is kept by its holders as long as the pin lasts, and what is not for 30 days.

use crate::client::Outcome;
use crate::fetches::network_with;
use crate::network::{blocks_of, private, secs, serve};
use crate::providers::pin_of;
use crate::world::{seed, Links, PeerId, World};
use std::collections::BTreeSet;
use std::time::Duration;
use strew::block::address::Address;
use strew::id::BlockId;
use strew::limits::LIFETIME_MAX;
use strew::store::Store;
use strew::wire::frame::{Answer, MissingReason};

const DAY: u64 = 86_400;

/// Peers of a network.
const PEERS: usize = 4;

/// What each of them allots: room for the file, and not for a large one beside it.
const CAPACITY: u64 = 2 << 20;

/// Who shares, and may pin.
const SHARER: PeerId = 3;

impl World {
    /// For how many days a peer keeps these blocks: the shortest and the longest. `None` if it has none of them.
    fn days_left(&self, peer: PeerId, blocks: &BTreeSet<BlockId>) -> Option<(u64, u64)> {
        let store = self.node(peer).store();
        let terms = blocks.iter().filter_map(|id| store.terms(id));
        let end = |expires: u32| u64::from(expires) * 3600;
        let left = terms.map(|it| end(it.expires).saturating_sub(self.now.as_secs()) / DAY);
        let left: Vec<u64> = left.collect();
        Some((*left.iter().min()?, *left.iter().max()?))
    }

    /// A peer starts again with its store and its contacts.
    fn restart(&mut self, peer: PeerId) {
        self.peers[peer].saved = self.node(peer).contacts(self.now);
        self.crash(peer, true, true);
        self.revive(peer);
    }

    /// What others keep for the shortest time.
    fn least_days(&self, blocks: &BTreeSet<BlockId>) -> u64 {
        let others = self.alive().filter(|&id| id != SHARER);
        let left = others.filter_map(|id| self.days_left(id, blocks));
        left.map(|it| it.0).min().expect("somebody has some")
    }

    /// Fills all stores: what is no longer kept goes.
    fn fill(&mut self) {
        let data = self.file(7 << 18);
        self.share(2, &data, 20, secs(120));
    }
}

/// A network in which one has shared a file, and perhaps pinned it.
fn shared(number: u64, is_pinned: bool) -> (World, Address, Vec<u8>, BTreeSet<BlockId>) {
    shared_for(number, is_pinned, None)
}

/// The same for so long.
fn shared_for(
    number: u64,
    is_pinned: bool,
    lifetime: Option<Duration>,
) -> (World, Address, Vec<u8>, BTreeSet<BlockId>) {
    let mut world = World::new(seed(number), Links::good());
    world.lifetime = lifetime;
    for n in 0..PEERS {
        let mut born = serve(private(n), &[private(0)]);
        born.capacity = CAPACITY;
        world.add_peer(born);
        world.run_for(secs(1));
    }
    world.run_for(secs(60));
    let data = world.file(700_000);
    let (_, blocks) = blocks_of(&data);
    let blocks = blocks.iter().map(|it| it.id()).collect();
    let (address, settled) = world.share(SHARER, &data, 8, secs(60));
    assert_eq!(usize::from(settled.least), PEERS - 1, "{settled:?}");
    if is_pinned {
        world.pin(SHARER, address.id, secs(60));
    }
    (world, address, data, blocks)
}

#[test]
fn pinned_file_is_alive_after_fifty_days_also_if_its_pinner_starts_again() {
    let (mut world, address, data, blocks) = shared(90, true);
    let mut least = Vec::new();
    for day in 0..62 {
        world.run_for(secs(DAY));
        if day % 9 == 8 {
            world.restart(SHARER);
        }
        least.push(world.least_days(&blocks));
    }
    let before = world.status(SHARER, "renewed");
    println!(
        "days left at the holders, day by day: {least:?}; {before} renewed since the last start"
    );
    assert!(least.iter().all(|&days| days >= 6), "{least:?}");
    assert!(
        least[..14].is_sorted_by(|a, b| a >= b),
        "not before half of it"
    );
    world.kill(SHARER, true);
    let visitor = world.visitor(private(1));
    let got = world.fetch(visitor, address, secs(60));
    assert!(got == Outcome::Fetched(data));
}

#[test]
fn file_that_is_to_be_kept_for_five_days_is_kept_for_five() {
    let (mut world, address, data, blocks) = shared_for(95, false, Some(secs(5 * DAY)));
    for peer in 0..PEERS {
        let kept = world.days_left(peer, &blocks);
        assert!(
            kept.is_some_and(|(least, most)| least >= 4 && most <= 5),
            "{kept:?}"
        );
    }
    world.lifetime = None;
    world.kill(SHARER, true);
    world.run_for(secs(4 * DAY));
    let visitor = world.visitor(private(1));
    assert!(world.fetch(visitor, address, secs(60)) == Outcome::Fetched(data));
    world.run_for(secs(2 * DAY));
    world.fill();
    let gone = world.fetch(visitor, address, secs(60));
    assert!(
        matches!(gone, Outcome::Missing(MissingReason::Absent, _)),
        "{gone:?}"
    );
}

#[test]
fn file_that_nobody_pins_is_kept_for_thirty_days_and_gone_afterwards() {
    let (mut world, address, data, blocks) = shared(91, false);
    world.kill(SHARER, true);
    world.run_for(secs(29 * DAY));
    assert!(world.least_days(&blocks) <= 1);
    let visitor = world.visitor(private(1));
    let got = world.fetch(visitor, address, secs(60));
    assert!(got == Outcome::Fetched(data));
    world.run_for(secs(2 * DAY));
    assert_eq!(world.least_days(&blocks), 0);
    world.fill();
    let got = world.fetch(visitor, address, secs(60));
    assert!(
        matches!(got, Outcome::Missing(MissingReason::Absent, _)),
        "{got:?}"
    );
}

#[test]
fn pinner_that_was_away_for_long_renews_what_is_left_and_replaces_what_is_not() {
    let (mut world, address, data, blocks) = shared(92, true);
    world.run_for(secs(5 * DAY));
    world.peers[SHARER].saved = world.node(SHARER).contacts(world.now);
    world.crash(SHARER, true, true);
    world.run_for(secs(33 * DAY));
    assert_eq!(world.least_days(&blocks), 0);
    for id in [1, 2] {
        // They lose their stores.
        world.kill(id, true);
        world.revive(id);
    }
    world.run_for(secs(60));
    world.revive(SHARER);
    world.run_for(secs(2 * 3600));
    let days = world.least_days(&blocks);
    assert_eq!(days, LIFETIME_MAX.as_secs() / DAY - 1, "all of it is new");
    for id in [0, SHARER] {
        world.kill(id, true);
    }
    let visitor = world.visitor(private(1));
    let got = world.fetch(visitor, address, secs(60));
    assert!(got == Outcome::Fetched(data));
}

#[test]
fn file_that_is_pinned_by_who_fetched_it_is_renewed_within_hours() {
    let (mut world, address, _, blocks) = shared(93, false);
    world.run_for(secs(26 * DAY));
    let mut born = serve(private(20), &[private(0)]);
    born.capacity = 8 * CAPACITY;
    let other = world.add_peer(born);
    world.run_for(secs(60));
    assert!(world.least_days(&blocks) <= 4);
    world.pin(other, address.id, secs(60));
    world.run_for(secs(2 * 3600));
    assert_eq!(world.status(other, "renewed"), blocks.len() as u64);
    let renewed = world.alive().filter_map(|id| world.days_left(id, &blocks));
    let renewed: Vec<(u64, u64)> = renewed.collect();
    println!("days left after it was pinned: {renewed:?}");
    assert!(renewed.len() >= 3 && renewed.iter().all(|it| it.0 >= 28));
}

#[test]
fn nobody_puts_a_renewal_off_by_asking_the_pinner_to_keep_a_block_for_longer() {
    let (mut world, _, data, blocks) = shared(95, true);
    world.run_for(secs(10 * DAY));
    let (_, file) = blocks_of(&data);
    for (peer, longest) in [(SHARER, 20), (0, 30)] {
        let stranger = world.stranger(peer, [10, 255, 0, 1].into());
        let lifetime = LIFETIME_MAX.as_secs() as u32;
        for block in &file {
            assert_eq!(world.offer(stranger, block.id(), lifetime), Answer::Have);
            world.put(stranger, block, lifetime).expect("it has it");
        }
        world.dismiss(stranger);
        let (least, _) = world.days_left(peer, &blocks).expect("it has all");
        assert!((longest - 1..=longest).contains(&least), "{least}");
    }
}

#[test]
fn file_that_is_shared_again_is_kept_for_another_lifetime() {
    let mut world = World::of(seed(94), Links::good(), 14, private);
    let data = world.file(700_000);
    let (_, blocks) = blocks_of(&data);
    let blocks = blocks.iter().map(|it| it.id()).collect();
    // As many copies are there as are wanted, and all are counted.
    for _ in 0..2 {
        let (_, settled) = world.share(SHARER, &data, 5, secs(60));
        assert!(settled.least >= 5, "{settled:?}");
        assert!(world.least_days(&blocks) >= 29);
        world.run_for(secs(2 * DAY));
        assert!(world.least_days(&blocks) <= 28);
    }
}

#[test]
fn many_blocks_are_renewed_in_turn_for_few_requests() {
    let (mut world, file, _) = network_with(1000, 1200, true);
    let ids: BTreeSet<BlockId> = file.blocks.iter().map(|it| it.id()).collect();
    world.run_for(secs(DAY / 24));
    let pinner = 0;
    world.restart_with(pinner, &file.blocks, &[pin_of(&file)], world.now);
    let all = ids.len() as u64;
    let began = world.now;
    let done = world.run_until(secs(3600), |world| world.status(pinner, "renewed") >= all);
    assert!(done, "{} renewed", world.status(pinner, "renewed"));
    let (took, sent) = (
        world.now.since(began),
        world.status(pinner, "tcp_bytes_sent"),
    );
    let requests = world.status(pinner, "requests_sent") as f64 / all as f64;
    println!(
        "{all} blocks renewed in {took:?}: {requests:.2} requests a block, the join included, {} bytes a block on \
         connections",
        sent / all
    );
    // 64 in ten seconds.
    assert!(took >= secs(180) && took <= secs(400), "{took:?}");
    assert!(requests <= 12.0, "{requests}");
    let kept = world.alive().filter(|&id| id != pinner);
    let least = kept.filter_map(|id| world.days_left(id, &ids)).min();
    assert!(least.is_some_and(|it| it.0 >= 29), "{least:?}");
}
