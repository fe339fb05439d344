//! Networks as the tests need them.

use crate::world::{Born, Links, PeerId, World};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use strew::block::address::Address;
use strew::block::encode::Encoder;
use strew::block::{Block, Form};
use strew::id::{BlockId, NodeId, NodeKey, Point};
use strew::limits::K;
use strew::rng::Rng;
use strew::wire::contact::{Age, Contact};

/// What a peer of these networks allots.
pub const CAPACITY: u64 = 64 << 20;

/// A span of whole seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The private address of the peer that is born as number `n`.
pub fn private(n: usize) -> SocketAddr {
    let [_, high, middle, low] = (n as u32 + 1).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, high, middle, low), 7873))
}

/// The same in the range for benchmarks (RFC 2544), which is not exempt from limits per network: each in its own.
pub fn public(n: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 18, n as u8, 1), 7873))
}

/// Some of each bucket of a contact, and all of the K closest to it, among all contacts in the order of their ids.
pub fn table_of(own: &Contact, all: &[Contact], rng: &mut Rng) -> Vec<Contact> {
    let mut table = Vec::new();
    // All who share so many bits with it, and are in none of the buckets so far.
    let mut rest = all;
    for bit in 0..256 {
        if rest.len() <= 1 {
            break;
        }
        let is_set = |id: &NodeId| id.0[bit / 8] >> (7 - bit % 8) & 1 == 1;
        let (low, high) = rest.split_at(rest.partition_point(|it| !is_set(&it.id)));
        let (bucket, near) = if is_set(&own.id) {
            (low, high)
        } else {
            (high, low)
        };
        rest = near;
        let mut chosen = BTreeSet::new();
        // The K closest of all are known.
        let wanted = (K + 1).saturating_sub(near.len()).min(bucket.len());
        if wanted > 0 {
            let mut by_distance: Vec<usize> = (0..bucket.len()).collect();
            let own = Point::from(own.id);
            by_distance.sort_by_key(|&nth| own.distance(&bucket[nth].id.into()));
            chosen.extend(&by_distance[..wanted]);
        }
        while chosen.len() < K.min(bucket.len()) {
            chosen.insert(rng.below(bucket.len() as u64) as usize);
        }
        table.extend(chosen.into_iter().map(|nth| bucket[nth]));
    }
    table
}

/// A `serve` at this address that joins through these peers, as far as it is none of them.
pub fn serve(addr: SocketAddr, seeds: &[SocketAddr]) -> Born {
    Born {
        addr,
        serve: true,
        capacity: CAPACITY,
        seeds: seeds.iter().copied().filter(|seed| *seed != addr).collect(),
        firewalled: false,
    }
}

/// The address of a file as it is shared, and all its blocks.
pub fn blocks_of(data: &[u8]) -> (Address, Vec<Block>) {
    let mut encoder = Encoder::new(Form::Encrypted);
    let mut blocks = Vec::new();
    let mut take = |encoder: &mut Encoder| {
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload).expect("a block");
            encoder.handle_put(block.id());
            blocks.push(block);
        }
    };
    for chunk in data.chunks(100_000) {
        encoder.push(chunk);
        take(&mut encoder);
    }
    encoder.finish();
    take(&mut encoder);
    let address = encoder.outcome().expect("all its blocks were taken");
    (address, blocks)
}

impl World {
    /// A network of so many, which started one by one, a tenth of a second apart, and have all joined.
    pub fn of(seed: u64, links: Links, count: usize, addr: fn(usize) -> SocketAddr) -> World {
        World::through(seed, links, count, addr, &[addr(0)])
    }

    /// The same with other peers to join through.
    pub fn through(
        seed: u64,
        links: Links,
        count: usize,
        addr: fn(usize) -> SocketAddr,
        seeds: &[SocketAddr],
    ) -> World {
        let mut world = World::new(seed, links);
        for n in 0..count {
            world.add_peer(serve(addr(n), seeds));
            world.run_for(Duration::from_millis(100));
        }
        let joined = world.run_until(secs(120), |world| world.all_joined(world.alive()));
        let outside: Vec<PeerId> = (0..count).filter(|&id| !world.has_joined(id)).collect();
        assert!(joined, "these have not joined: {outside:?}");
        world
    }

    /// A network of so many whose tables are filled from outside: nobody has joined, all know as many as if they had.
    pub fn loaded(seed: u64, links: Links, count: usize) -> World {
        let mut world = World::new(seed, links);
        let mut all: Vec<Contact> = (0..count)
            .map(|n| Contact::new(NodeKey(world.rng.bytes()), private(n), Age(0)))
            .collect();
        let born = all.clone();
        all.sort_unstable_by_key(|contact| contact.id);
        for contact in &born {
            let contacts = table_of(contact, &all, &mut world.rng);
            world.add_settled(serve(contact.addr, &[]), contact.key, contacts);
        }
        world
    }

    /// A peer that is reachable and has as many contacts as one bucket holds, or as there are.
    pub fn has_joined(&self, id: PeerId) -> bool {
        let known = self.status(id, "contacts") as usize;
        !self.node(id).is_client_mode() && (known >= K || known + 1 >= self.alive().count())
    }

    fn all_joined(&self, mut peers: impl Iterator<Item = PeerId>) -> bool {
        peers.all(|id| self.has_joined(id))
    }

    /// Those who live.
    pub fn alive(&self) -> impl Iterator<Item = PeerId> + '_ {
        (0..self.peers.len()).filter(|&id| self.peers[id].node.is_some())
    }

    /// Bytes of a file that no other is like.
    pub fn file(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(len + 64);
        while data.len() < len {
            data.extend_from_slice(&self.rng.bytes::<64>());
        }
        data.truncate(len);
        data
    }

    /// An address under which there is nothing.
    pub fn address(&mut self) -> Address {
        let (id, key) = (BlockId(self.rng.bytes()), None);
        Address { id, key }
    }

    /// A private peer that joins, as a command without a `serve` has it.
    pub fn visitor(&mut self, first: SocketAddr) -> PeerId {
        let addr = private(10_000 + self.peers.len());
        self.add_peer(Born {
            serve: false,
            ..serve(addr, &[first])
        })
    }

    /// Datagrams sent by all so far.
    pub fn datagrams(&self) -> u64 {
        self.peers.iter().map(|peer| peer.datagrams).sum()
    }
}
