//! What is nowhere is said to be nowhere, soon.

use crate::client::Outcome;
use crate::lookups::internet;
use crate::network::secs;
use crate::world::{seed, World};
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
