//! What it costs to fetch a file of many blocks, whose holders are found by regions, and how long it takes.

use crate::client::Outcome;
use crate::lookups::{internet, Census};
use crate::network::secs;
use crate::world::{seed, PeerId, World};
use std::collections::BTreeMap;
use std::time::Duration;
use strew::block::{Block, Form, Kind, Role};
use strew::id::BlockId;
use strew::limits::{BLOCK_SIZE_MAX, FAN_OUT, K};
use strew::wire::frame::MissingReason;

/// For how long blocks are put, in seconds.
const LIFETIME: u32 = 86_400;

/// Bytes of a leaf where its length is of no matter.
const SHORT: usize = 64;

/// Copies of each block.
const COPIES: usize = 8;

/// A file whose leaves are short, which nobody notices who has not its shape.
pub struct File {
    pub blocks: Vec<Block>,
    /// In the order in which a client asks for them, each with its parent.
    pub order: Vec<(BlockId, Option<BlockId>)>,
    first_leaf: BlockId,
}

fn block(role: Role, payload: Vec<u8>) -> Block {
    let form = Form::Plain;
    Block::new(Kind { role, form }, payload).expect("a block")
}

fn payload_of(children: &[Block]) -> Vec<u8> {
    children.iter().flat_map(|child| child.id().0).collect()
}

impl File {
    /// Of so many leaves of so many bytes, more than a root has children.
    pub fn of(world: &mut World, leaves: usize, len: usize) -> File {
        let leaf = |_| block(Role::Leaf, world.file(len));
        let leaves: Vec<Block> = (0..leaves).map(leaf).collect();
        let families: Vec<&[Block]> = leaves.chunks(FAN_OUT).collect();
        let nodes = families.iter();
        let nodes: Vec<Block> = nodes
            .map(|children| block(Role::Node, payload_of(children)))
            .collect();
        let length = (leaves.len() * BLOCK_SIZE_MAX) as u64;
        let header = [&[1, 0][..], &length.to_be_bytes()].concat();
        let root = block(Role::Root, [header, payload_of(&nodes)].concat());
        let mut order = vec![(root.id(), None)];
        let node = |nth: usize| nodes.get(nth).map(|it: &Block| (it.id(), Some(root.id())));
        order.extend(node(0));
        for (nth, children) in families.iter().enumerate() {
            order.extend(node(nth + 1));
            let parent = Some(nodes[nth].id());
            order.extend(children.iter().map(|child| (child.id(), parent)));
        }
        let first_leaf = leaves[0].id();
        File {
            blocks: [leaves, nodes, vec![root]].concat(),
            order,
            first_leaf,
        }
    }

    fn is_node(&self, id: &BlockId) -> bool {
        let mut nodes = self.blocks.iter().filter(|it| it.kind().role != Role::Leaf);
        nodes.any(|it| it.id() == *id)
    }

    /// Puts each block into the stores of some of those who should have it: the closest, or any of the neighbourhood.
    pub fn spread(&self, world: &mut World, closest: bool) {
        let census = Census::of(world);
        let mut by_peer: BTreeMap<PeerId, Vec<&Block>> = BTreeMap::new();
        for block in &self.blocks {
            let mut near = census.closest(&block.id().into(), K);
            while near.len() > COPIES {
                let last = near.len() as u64;
                let nth = if closest {
                    last - 1
                } else {
                    world.rng.below(last)
                };
                near.remove(nth as usize);
            }
            for peer in near {
                by_peer.entry(peer).or_default().push(block);
            }
        }
        for (peer, blocks) in by_peer {
            let stranger = world.stranger(peer, [10, 255, 0, 1].into());
            for block in blocks {
                let put = world.put(stranger, block, LIFETIME);
                put.expect("a peer takes what belongs to it");
            }
            world.dismiss(stranger);
        }
    }
}

/// A network whose tables are loaded, with a file in it, and a peer to fetch it through.
pub fn network_with(count: usize, leaves: usize, closest: bool) -> (World, File, PeerId) {
    let mut world = World::loaded(seed(70), internet(), count);
    let file = File::of(&mut world, leaves, SHORT);
    file.spread(&mut world, closest);
    let peer = world.rng.below(count as u64) as usize;
    (world, file, peer)
}

/// What a fetch has come to.
pub struct Figures {
    pub requests: f64,
    pub first_leaf: Duration,
    pub took: Duration,
}

fn measure(count: usize, leaves: usize, closest: bool) -> Figures {
    let (mut world, file, peer) = network_with(count, leaves, closest);
    let holders = if closest { "the closest" } else { "any around" };
    let how = format!("{leaves} leaves among {count}, {holders} hold them");
    measure_fetch(&mut world, &file, peer, &how)
}

/// Fetches a file through a peer.
pub fn measure_fetch(world: &mut World, file: &File, peer: PeerId, how: &str) -> Figures {
    let before = world.status(peer, "requests_sent");
    let client = world.begin_blocks(peer, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(600));
    let Outcome::Came(came) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(came.len(), file.blocks.len());
    let requests = world.status(peer, "requests_sent") - before;
    let figures = Figures {
        requests: requests as f64 / file.blocks.len() as f64,
        first_leaf: came[&file.first_leaf],
        took,
    };
    println!(
        "{how}: {requests} requests, {:.2} a block, first leaf after {:.1} s, all after {:.1} s",
        figures.requests,
        figures.first_leaf.as_secs_f64(),
        figures.took.as_secs_f64(),
    );
    figures
}

#[test]
fn holders_of_many_blocks_are_found_with_less_than_two_requests_for_each() {
    for closest in [true, false] {
        let figures = measure(1000, 1200, closest);
        assert!(figures.requests <= 1.5, "{}", figures.requests);
        assert!(figures.first_leaf <= secs(2) && figures.took <= secs(10));
    }
}

#[test]
fn client_that_stops_early_has_cost_little_and_costs_nothing_more() {
    let (mut world, file, peer) = network_with(1000, 1200, false);
    let before = world.status(peer, "requests_sent");
    let client = world.begin_blocks(peer, file.order.iter().copied());
    // The first leaves are asked for, and the others are being located.
    let is_begun = |world: &World| world.came(client) >= 3;
    assert!(world.run_until(secs(10), is_begun));
    world.run_for(Duration::from_millis(150));
    world.abandon(client);
    world.run_for(secs(1));
    let spent = world.status(peer, "requests_sent") - before;
    println!("{spent} requests until it stopped");
    assert!(spent <= 400, "{spent}");
    world.run_for(secs(20));
    let after = world.status(peer, "requests_sent") - before - spent;
    assert!(after <= 20, "{after} requests for nobody");
    assert_eq!(world.status(peer, "wants"), 0);
}

#[test]
fn who_wants_only_nodes_has_no_leaves_located() {
    let (mut world, file, peer) = network_with(1000, 1200, true);
    let before = world.status(peer, "requests_sent");
    let nodes = file.order.iter().filter(|it| file.is_node(&it.0));
    let client = world.begin_blocks(peer, nodes.copied());
    let (outcome, _) = world.finish(client, secs(20));
    assert!(matches!(outcome, Outcome::Came(_)), "{outcome:?}");
    world.run_for(secs(5));
    let spent = world.status(peer, "requests_sent") - before;
    assert!(spent <= 60, "{spent} requests for three blocks");
}

#[test]
fn leaf_that_nobody_has_is_said_to_be_absent_in_seconds() {
    let mut world = World::loaded(seed(71), internet(), 1000);
    let mut file = File::of(&mut world, 1200, SHORT);
    // One of those that are located ahead.
    file.blocks.remove(30);
    file.spread(&mut world, true);
    let peer = world.rng.below(1000) as usize;
    let client = world.begin_blocks(peer, file.order.iter().copied());
    let (outcome, took) = world.finish(client, secs(60));
    println!("{outcome:?} after {took:?}");
    let is_absent =
        matches!(outcome, Outcome::Missing(MissingReason::Absent, asked) if asked as usize >= K);
    assert!(is_absent, "{outcome:?}");
    assert!(took <= secs(5), "{took:?}");
}

#[test]
#[ignore = "long: make sim"]
fn fetches_in_large_networks() {
    // Requests a block at most, if the closest hold them, and if any do.
    for (count, leaves, requests) in [
        (1000, 4096, [1.15, 1.15]),
        (10_000, 1200, [3.6, 5.6]),
        (10_000, 4096, [2.3, 2.85]),
        (100_000, 4096, [9.2, 9.6]),
    ] {
        for (closest, most) in [true, false].into_iter().zip(requests) {
            let figures = measure(count, leaves, closest);
            assert!(figures.requests <= most, "{}", figures.requests);
        }
    }
}
