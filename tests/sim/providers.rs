//! Peers that have pinned a whole file announce it: files that only they have are fetched, others cheaply; and those
//! that lie, die or leave do little harm.

use crate::client::Outcome;
use crate::fetches::{measure_fetch, network_with, File};
use crate::hostile::Manner;
use crate::lookups::{internet, Census};
use crate::network::{blocks_of, private, secs, serve};
use crate::world::{seed, Links, PeerId, World};
use std::collections::BTreeSet;
use strew::block::{Block, Role};
use strew::id::BlockId;
use strew::limits::*;
use strew::store::{MemoryStore, Pin, Store, Terms};
use strew::time::Instant;

/// Bytes allotted by who pins much.
const LARGE: u64 = 64 << 30;

impl World {
    /// A peer starts again with these blocks, that are kept until then, and these pinned files in its store.
    pub fn restart_with(&mut self, peer: PeerId, blocks: &[Block], pins: &[Pin], until: Instant) {
        let mut store = MemoryStore::new(LARGE);
        let terms = Terms::until(until.as_secs());
        for block in blocks {
            store.put(block, terms).expect("room");
        }
        for pin in pins {
            store.add_pin(*pin).expect("room");
        }
        store.begin_commit().expect("memory does not fail");
        self.kill(peer, true);
        self.peers[peer].disk = Some(store);
        self.revive(peer);
    }

    /// Lets time pass until a peer has announced so many files.
    fn await_announced(&mut self, peer: PeerId, files: u64) {
        let has = |world: &World| world.status(peer, "announced") >= files;
        assert!(self.run_until(secs(120 + 120 * files), has));
        self.run_for(secs(20));
    }

    /// A living peer that is none of the neighbourhood of any of these blocks, nor one of those.
    fn outsider(&self, blocks: &[BlockId], but: &[PeerId]) -> PeerId {
        let census = Census::of(self);
        let near = blocks.iter();
        let near = near.flat_map(|id| census.closest(&(*id).into(), K));
        let near: BTreeSet<PeerId> = near.collect();
        let mut outside = self.alive().filter(|id| !near.contains(id));
        let outside = outside.find(|id| !but.contains(id));
        outside.expect("the network is large enough")
    }

    /// Makes a peer that is none of those one that has pinned a file.
    fn provider(&mut self, file: &File, but: &[PeerId]) -> PeerId {
        // Its node and root at least belong to others.
        let last = file.blocks.iter().filter(|it| it.kind().role != Role::Leaf);
        let ids: Vec<BlockId> = last.map(Block::id).collect();
        let pinner = self.outsider(&ids, but);
        let until = self.now + LIFETIME_MAX;
        self.restart_with(pinner, &file.blocks, &[pin_of(file)], until);
        pinner
    }

    /// Announcements that all others remember.
    fn announcements(&self) -> u64 {
        let alive = self.alive();
        alive.map(|id| self.status(id, "announcements")).sum()
    }
}

/// The pin of a file whose leaves are short.
pub fn pin_of(file: &File) -> Pin {
    let root = file.blocks.last().expect("it has a root");
    let len = root.payload()[2..10].try_into();
    Pin {
        root: root.id(),
        len: u64::from_be_bytes(len.expect("eight bytes")),
    }
}

#[test]
fn file_whose_holders_have_all_gone_is_fetched_whole_from_who_has_pinned_it() {
    let mut world = World::loaded(seed(80), internet(), 200);
    let data = world.file(1 << 20);
    let (_, blocks) = blocks_of(&data);
    let ids: Vec<BlockId> = blocks.iter().map(Block::id).collect();
    let (address, settled) = world.share(0, &data, 2, secs(60));
    assert!(settled.least >= 2, "{settled:?}");
    let pinner = world.outsider(&ids, &[0]);
    world.pin(pinner, address.id, secs(60));
    world.await_announced(pinner, 1);
    let has_any = |world: &World, peer| {
        let store = world.node(peer).store();
        ids.iter().any(|id| store.has(id))
    };
    let others: Vec<PeerId> = world.alive().filter(|&id| id != pinner).collect();
    for peer in others {
        if has_any(&world, peer) {
            world.kill(peer, false);
        }
    }
    let visitor = world.visitor(private(world.outsider(&ids, &[pinner])));
    world.run_for(secs(10));
    let client = world.begin_fetch(visitor, address);
    let (outcome, took) = world.finish(client, secs(120));
    println!("{} blocks from who pinned them: {took:?}", ids.len());
    assert!(outcome == Outcome::Fetched(data));
    assert!(took < secs(30), "{took:?}");

    // Each of them has the one copy, which is counted though nobody looks for it there.
    let client = world.begin_count(visitor, address.id, &ids);
    let (outcome, _) = world.finish(client, secs(60));
    let Outcome::Counted(counted) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        counted.iter().all(|it| it.copies == 1 && !it.own),
        "{counted:?}"
    );
    // It is counted by what it says, not by what it said.
    world.kill(pinner, false);
    let client = world.begin_count(visitor, address.id, &ids);
    let (outcome, _) = world.finish(client, secs(60));
    let Outcome::Counted(counted) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(counted.iter().all(|it| it.copies == 0), "{counted:?}");
}

/// Fetches a file of 1,200 leaves among a thousand; `prepare` makes one a provider, and may make it a bad one.
fn fetch_with_provider(how: &str, prepare: impl FnOnce(&mut World, PeerId)) -> (f64, f64) {
    let (mut world, file, peer) = network_with(1000, 1200, false);
    let pinner = world.provider(&file, &[peer]);
    world.await_announced(pinner, 1);
    prepare(&mut world, pinner);
    let figures = measure_fetch(&mut world, &file, peer, how);
    (figures.requests, figures.took.as_secs_f64())
}

#[test]
fn one_provider_gives_a_file_for_a_fraction_of_the_requests() {
    let (requests, took) = fetch_with_provider("with one provider", |_, _| {});
    assert!(requests <= 0.02, "{requests}");
    assert!(took <= 20.0, "{took}");
}

#[test]
fn providers_that_lie_or_are_dead_cost_seconds_and_the_file_comes_as_ever() {
    for manner in [
        Manner::Denying,
        Manner::Lying,
        Manner::Silent,
        Manner::Resetting,
    ] {
        let how = format!("with a provider that is {manner:?}");
        let (requests, took) =
            fetch_with_provider(&how, |world, pinner| world.turn(pinner, manner));
        assert!(requests <= 1.6, "{manner:?}: {requests}");
        assert!(took <= 15.0, "{manner:?}: {took}");
    }
    for refuses in [true, false] {
        let how = format!("with a dead provider, refused: {refuses}");
        let (requests, took) =
            fetch_with_provider(&how, |world, pinner| world.kill(pinner, refuses));
        assert!(requests <= 1.6, "{requests}");
        assert!(took <= 15.0, "{took}");
    }
}

#[test]
fn as_many_silent_providers_as_are_believed_cost_seconds() {
    let (mut world, file, peer) = network_with(1000, 1200, false);
    let mut pinners = vec![peer];
    for _ in 0..PROVIDERS_USED {
        pinners.push(world.provider(&file, &pinners));
    }
    world.run_for(secs(300));
    for &pinner in &pinners[1..] {
        assert_eq!(world.status(pinner, "announced"), 1);
        world.turn(pinner, Manner::Silent);
    }
    let figures = measure_fetch(&mut world, &file, peer, "with eight silent providers");
    assert!(figures.requests <= 1.8, "{}", figures.requests);
    assert!(figures.took <= secs(20), "{:?}", figures.took);
}

#[test]
fn provider_that_dies_in_the_middle_is_replaced_by_the_holders() {
    let (mut world, file, peer) = network_with(1000, 1200, false);
    let pinner = world.provider(&file, &[peer]);
    world.await_announced(pinner, 1);
    let client = world.begin_blocks(peer, file.order.iter().copied());
    assert!(world.run_until(secs(60), |world| world.came(client) >= 400));
    world.kill(pinner, false);
    let (outcome, took) = world.finish(client, secs(60));
    println!("its provider died after a third: {took:?}");
    assert!(matches!(outcome, Outcome::Came(_)), "{outcome:?}");
    assert!(took < secs(30), "{took:?}");
}

#[test]
fn announcements_last_as_long_as_the_pin_and_expire_when_the_pinner_has_left() {
    let mut world = World::of(seed(81), Links::good(), 30, private);
    let data = world.file(300_000);
    let (address, _) = world.share(0, &data, 3, secs(60));
    world.pin(9, address.id, secs(60));
    world.await_announced(9, 1);
    // The farthest of those who are told may know 20 that are closer, the pinner among them.
    assert!(world.announcements() + 1 >= K as u64);
    world.run_for(PROVIDER_FOR + secs(3600));
    let known = world.announcements();
    assert!((K as u64 - 4..=K as u64 + 4).contains(&known), "{known}");
    world.kill(9, true);
    world.run_for(PROVIDER_FOR - ANNOUNCE_PERIOD - secs(600));
    assert!(world.announcements() > 0);
    world.run_for(ANNOUNCE_PERIOD + secs(700));
    assert_eq!(world.announcements(), 0);
}

#[test]
fn peer_in_client_mode_announces_nothing() {
    let mut world = World::of(seed(82), Links::good(), 30, private);
    let data = world.file(300_000);
    let (address, _) = world.share(0, &data, 3, secs(60));
    let mut born = serve(private(30), &[private(0)]);
    born.firewalled = true;
    let walled = world.add_peer(born);
    world.run_for(secs(60));
    world.pin(walled, address.id, secs(60));
    world.run_for(secs(600));
    assert_eq!(world.status(walled, "announced"), 0);
    assert_eq!(world.announcements(), 0);
}

#[test]
fn idle_peer_with_a_hundred_pins_stays_within_its_budget() {
    let mut world = World::loaded(seed(83), internet(), 200);
    let files: Vec<(Pin, Vec<Block>)> = (0..100)
        .map(|_| {
            let data = world.file(1000);
            let (address, blocks) = blocks_of(&data);
            let root = address.id;
            (Pin { root, len: 1000 }, blocks)
        })
        .collect();
    let blocks: Vec<Block> = files.iter().flat_map(|it| it.1.clone()).collect();
    let pins: Vec<Pin> = files.iter().map(|it| it.0).collect();
    world.restart_with(0, &blocks, &pins, world.now + LIFETIME_MAX);
    world.restart_with(1, &[], &[], world.now);
    world.run_for(secs(1800));
    let sent = |world: &World| [0, 1].map(|id| world.peers[id].datagram_bytes);
    let begun = world.status(0, "announced");
    let before = sent(&world);
    world.run_for(secs(3600));
    let after = sent(&world);
    let [with, without] = [0, 1].map(|id| (after[id] - before[id]) as f64 / 3600.0);
    let announced = world.status(0, "announced") - begun;
    println!(
        "a hundred pins, {announced} of them announced in an hour: {with:.0} bytes a second sent, {without:.0} \
         without pins"
    );
    assert!((25..=30).contains(&announced), "{announced}");
    assert!(with <= 130.0 && without <= 40.0, "{with} {without}");
    world.run_for(secs(2 * 3600));
    assert_eq!(world.status(0, "announced"), 100);
    assert!(world.announcements() >= 90 * K as u64);
}
