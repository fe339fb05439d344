//! What a peer takes, for how long, what it refuses and what it drops: asked by a stranger, block by block.

use crate::network::{private, public, secs, serve};
use crate::stranger::Stranger;
use crate::world::{seed, Links, PeerId, World};
use std::collections::BTreeMap;
use std::net::IpAddr;
use strew::block::{Block, Form, Kind, Role};
use strew::id::Point;
use strew::limits::{BLOCK_CHARGE_MIN, K, LIFETIME_MAX};
use strew::wire::frame::Answer;

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;
const LONGEST: u32 = LIFETIME_MAX.as_secs() as u32;

fn block(world: &mut World, len: usize) -> Block {
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    let mut payload = vec![0; len];
    payload[..32].copy_from_slice(&world.rng.bytes::<32>());
    Block::new(kind, payload).expect("a block")
}

/// A few peers of which the last has room for so many small blocks, and a stranger who talks to that one.
fn small_peer(seed: u64, room: u64) -> (World, PeerId, Stranger) {
    let mut world = World::of(seed, Links::good(), 4, private);
    let mut born = serve(private(4), &[private(0)]);
    born.capacity = room * BLOCK_CHARGE_MIN;
    let peer = world.add_peer(born);
    assert!(world.run_until(secs(60), |world| !world.node(peer).is_client_mode()));
    let stranger = world.stranger(peer, private(100).ip());
    (world, peer, stranger)
}

fn home(world: &World, peer: PeerId) -> Point {
    world.peers[peer].key.id().into()
}

#[test]
fn full_peer_drops_what_is_expired_and_then_what_is_farthest() {
    let (mut world, peer, stranger) = small_peer(seed(40), 64);
    let home = home(&world, peer);
    let mut short = Vec::new();
    let mut long = BTreeMap::new();
    for n in 0..64 {
        let block = block(&mut world, 100);
        let lifetime = if n % 2 == 0 { 2 * HOUR } else { LONGEST };
        assert!(world.put(stranger, &block, lifetime).is_ok());
        match n % 2 {
            0 => short.push(block),
            _ => {
                let distance = Point::from(block.id()).distance(&home);
                long.insert(distance, block);
            }
        }
    }
    world.run_for(secs(4 * 3600));
    let stranger = world.stranger(peer, private(100).ip());
    for _ in 0..32 {
        let block = block(&mut world, 100);
        assert!(
            world.put(stranger, &block, LONGEST).is_ok(),
            "however far it is"
        );
        long.insert(Point::from(block.id()).distance(&home), block);
    }
    for block in &short {
        assert!(!world.is_given(stranger, block), "it was expired");
    }
    for block in long.values() {
        assert!(world.is_given(stranger, block), "it was not");
    }
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40 {
        let block = block(&mut world, 100);
        let distance = Point::from(block.id()).distance(&home);
        let (farthest, _) = long.last_key_value().expect("64");
        let expected = match distance < *farthest {
            true => Answer::Want,
            false => Answer::Full,
        };
        assert_eq!(world.offer(stranger, block.id(), LONGEST), expected);
        let stored = world.put(stranger, &block, LONGEST);
        if expected == Answer::Full {
            assert_eq!(stored, Err(Answer::Full));
            refused += 1;
            continue;
        }
        assert!(stored.is_ok());
        let (_, gone) = long.pop_last().expect("64");
        assert!(!world.is_given(stranger, &gone), "the farthest has gone");
        long.insert(distance, block);
        taken += 1;
    }
    for block in long.values() {
        assert!(world.is_given(stranger, block), "and no other");
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(world.status(peer, "refused_full"), 2 * refused);
}

#[test]
fn lifetime_is_cut_to_the_longest_and_never_made_shorter() {
    let (mut world, _, stranger) = small_peer(seed(41), 64);
    for (asked, least, most) in [
        (u32::MAX, LONGEST, LONGEST + HOUR),
        (LONGEST + 1, LONGEST, LONGEST + HOUR),
        (3 * DAY, 3 * DAY, 3 * DAY + HOUR),
        (1, 1, HOUR),
        (0, 0, HOUR),
    ] {
        let block = block(&mut world, 100);
        let granted = world.put(stranger, &block, asked).expect("stored");
        assert!((least..=most).contains(&granted), "{granted} for {asked}");
        // What is there keeps the longer of both.
        let shorter = world.put(stranger, &block, asked / 2).expect("stored");
        assert!(shorter.abs_diff(granted) <= 10, "{shorter} after {granted}");
        let longer = world.put(stranger, &block, 20 * DAY).expect("stored");
        assert!(
            longer >= granted.saturating_sub(10).max(20 * DAY),
            "{longer} after {granted}"
        );
        assert!(longer <= LONGEST + HOUR);
        assert_eq!(world.offer(stranger, block.id(), u32::MAX), Answer::Have);
        let longest = world.put(stranger, &block, 0).expect("stored");
        assert!((LONGEST..=LONGEST + HOUR).contains(&longest), "{longest}");
    }
}

#[test]
fn network_that_stores_too_much_in_a_day_is_refused_and_others_are_not() {
    let mut world = World::of(seed(42), Links::good(), 6, public);
    let mut born = serve(public(6), &[public(0)]);
    born.capacity = 10 << 20;
    let peer = world.add_peer(born);
    assert!(world.run_until(secs(120), |world| !world.node(peer).is_client_mode()));
    let from = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let fill = |world: &mut World, ip: &str| {
        let stranger = world.stranger(peer, from(ip));
        for count in 0..100 {
            let block = block(world, 64 << 10);
            match world.put(stranger, &block, DAY) {
                Ok(_) => {}
                Err(Answer::Quota) => {
                    let offered = world.offer(stranger, block.id(), DAY);
                    assert_eq!(offered, Answer::Quota);
                    return count;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("no end to it");
    };
    // A twentieth of 10 MiB.
    assert_eq!(fill(&mut world, "203.0.113.1"), 8);
    assert_eq!(fill(&mut world, "203.0.113.250"), 0, "the same network");
    assert_eq!(fill(&mut world, "198.51.100.7"), 8, "another");
    world.run_for(secs(12 * 3600));
    assert_eq!(fill(&mut world, "203.0.113.1"), 4, "half a day later");
    assert!(world.status(peer, "refused_quota") >= 8);
}

#[test]
fn block_for_which_twenty_closer_peers_are_known_is_refused() {
    let mut world = World::of(seed(43), Links::good(), 80, private);
    world.run_for(secs(60));
    let stranger = world.stranger(0, private(100).ip());
    let own = home(&world, 0);
    let (mut far, mut near) = (0, 0);
    for _ in 0..200 {
        let block = block(&mut world, 100);
        let place = Point::from(block.id());
        let distance = own.distance(&place);
        let others = 1..world.peers.len();
        let closer = others.filter(|&n| home(&world, n).distance(&place) < distance);
        let closer = closer.count();
        match world.offer(stranger, block.id(), DAY) {
            Answer::TooFar => {
                assert!(closer >= K, "only {closer} are closer");
                far += 1;
            }
            Answer::Want => near += 1,
            other => panic!("{other:?}"),
        }
        if closer < K {
            assert!(world.put(stranger, &block, DAY).is_ok());
        }
    }
    assert!(far > 50 && near > 20, "{far} far, {near} near");
    assert_eq!(world.status(0, "refused_far"), far);
}
