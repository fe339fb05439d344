//! Placing with a made-up network: the tests play the peers at the other ends of the connections.

use super::*;
use crate::block::{Block, Form, Kind};
use crate::dht;
use crate::id::NodeKey;
use crate::rng::Rng;
use crate::store::MemoryStore;
use crate::transfer::Origin;
use crate::wire::contact::Age;
use crate::wire::frame::{Hello, PeerRole};
use std::net::SocketAddr;

struct World {
    now: Instant,
    keep: Keep,
    dht: Dht,
    transfer: Transfer,
    store: MemoryStore,
}

/// The key of the peer that is played as number `n`.
fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

fn contact(n: u8) -> Contact {
    let addr = SocketAddr::from(([127, 0, 0, n], 7873));
    Contact::new(key(n), addr, Age(0))
}

fn leaf(n: u8) -> Block {
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    Block::new(kind, vec![n; 100]).expect("a block")
}

impl World {
    /// A node that knows its whole network: so many peers, from number 1 on.
    fn of(peers: u8) -> World {
        let now = Instant::since_epoch(Duration::from_secs(1_800_000_000));
        let config = dht::Config {
            serve: true,
            ipv4: true,
            ipv6: true,
        };
        let hello = Hello {
            key: key(0),
            port: 7873,
            role: PeerRole::Peer,
        };
        let keep = Keep {
            whole_network: Some((now, (1..=peers).map(contact).collect())),
            ..Keep::default()
        };
        World {
            now,
            keep,
            dht: Dht::new(now, key(0), config, Rng::new([7; 32])),
            transfer: Transfer::new(hello),
            store: MemoryStore::new(1 << 30),
        }
    }

    fn with<T>(&mut self, what: impl FnOnce(&mut Keep, &mut Tools<'_>) -> T) -> T {
        let mut tools = Tools {
            now: self.now,
            dht: &mut self.dht,
            transfer: &mut self.transfer,
            store: &mut self.store,
        };
        what(&mut self.keep, &mut tools)
    }

    fn client(&mut self, copies: u8) -> ConnId {
        let client = self.transfer.accept(self.now, Origin::Local);
        assert!(self.keep.begin(client, copies, 0));
        client
    }

    fn add(&mut self, client: ConnId, block: &Block) {
        self.store.put(block).expect("room");
        let id = block.id();
        self.with(|keep, tools| keep.add(tools, client, id, Role::Leaf));
    }

    /// Jobs under way for a client.
    fn jobs(&self, client: ConnId) -> usize {
        let jobs = self.keep.jobs.values();
        jobs.filter(|job| job.session == client).count()
    }
}

#[test]
fn sessions_take_turns() {
    let mut world = World::of(0);
    // Nobody answers its lookups: what is begun stays under way.
    world.keep.whole_network = None;
    let first = world.client(1);
    for n in 0..PLACING_AT_ONCE * 2 {
        let id = BlockId([(n % 251) as u8; 32]);
        world.with(|keep, tools| keep.add(tools, first, id, Role::Leaf));
    }
    let others = [world.client(1), world.client(1)];
    for client in others {
        for n in 0..20 {
            world.add(client, &leaf(n));
        }
    }
    assert_eq!(world.jobs(first), PLACING_AT_ONCE);
    let done: Vec<JobId> = world.keep.jobs.keys().copied().take(30).collect();
    for id in done {
        world.with(|keep, tools| {
            keep.finish(tools, id);
            keep.run(tools);
        });
    }
    let begun = [first, others[0], others[1]].map(|client| world.jobs(client));
    assert_eq!(begun, [PLACING_AT_ONCE - 20, 10, 10]);
}
