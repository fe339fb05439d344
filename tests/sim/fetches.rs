//! What it costs to fetch a file of many blocks, whose holders are found by regions, and how long it takes.

use crate::client::{ClientId, Outcome};
use crate::lookups::{internet, Census};
use crate::network::secs;
use crate::world::{seed, PeerId, World};
use std::collections::BTreeMap;
use std::time::Duration;
use strew::block::{Block, Form, Kind, Role};
use strew::id::BlockId;
use strew::limits::{BLOCK_SIZE_MAX, FAN_OUT, K};

/// For how long blocks are put, in seconds.
const LIFETIME: u32 = 86_400;

/// Copies of each block.
const COPIES: usize = 8;

/// A file whose leaves are short, which nobody notices who has not its shape.
struct File {
    blocks: Vec<Block>,
    /// In the order in which a client asks for them, each with its parent.
    order: Vec<(BlockId, Option<BlockId>)>,
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
    /// Of so many leaves of 64 bytes, more than a root has children.
    fn of(world: &mut World, leaves: usize) -> File {
        let leaf = |_| block(Role::Leaf, world.rng.bytes::<64>().to_vec());
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

    /// Puts each block into the stores of some of those who should have it: the closest, or any of the neighbourhood.
    fn spread(&self, world: &mut World, closest: bool) {
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

/// What a fetch has come to.
struct Figures {
    requests: f64,
    first_leaf: Duration,
    took: Duration,
}

impl World {
    fn fetch_of(&mut self, peer: PeerId, file: &File) -> ClientId {
        self.begin_blocks(peer, file.order.iter().copied())
    }
}

fn measure(count: usize, leaves: usize, closest: bool) -> Figures {
    let mut world = World::loaded(seed(70), internet(), count);
    let file = File::of(&mut world, leaves);
    file.spread(&mut world, closest);
    let peer = world.rng.below(count as u64) as usize;
    let before = world.status(peer, "requests_sent");
    let client = world.fetch_of(peer, &file);
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
        "{leaves} leaves among {count}, closest {closest}: {:.2} requests a block, first leaf after {:.1} s, all after {:.1} s",
        figures.requests,
        figures.first_leaf.as_secs_f64(),
        figures.took.as_secs_f64(),
    );
    figures
}

#[test]
fn many_blocks_are_located_together() {
    for closest in [true, false] {
        measure(1000, 1200, closest);
    }
}

#[test]
#[ignore = "long: make sim"]
fn fetches_in_large_networks() {
    for (count, leaves) in [
        (1000, 4096),
        (10_000, 1200),
        (10_000, 4096),
        (100_000, 4096),
    ] {
        for closest in [true, false] {
            measure(count, leaves, closest);
        }
    }
}
