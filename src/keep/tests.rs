//! Placing with a made-up network: the tests play the peers at the other ends of the connections.

use super::*;
use crate::block::{Block, Form, Kind};
use crate::dht;
use crate::id::NodeKey;
use crate::rng::Rng;
use crate::store::MemoryStore;
use crate::transfer::{Event, Origin};
use crate::wire::contact::Age;
use crate::wire::frame::{FrameDecoder, Hello, PeerRole};
use std::io::IoSlice;
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
        let mut keep = Keep::default();
        keep.locating.whole_network = Some((now, (1..=peers).map(contact).collect()));
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
        assert!(self.keep.begin(client, copies, 0, false));
        client
    }

    fn add(&mut self, client: ConnId, block: &Block) {
        self.store
            .put(block, crate::store::Terms::default())
            .expect("room");
        let id = block.id();
        self.with(|keep, tools| keep.add(tools, client, id, Role::Leaf));
    }

    /// Passes on what connections bring, and lets time pass up to now.
    fn settle(&mut self) {
        self.transfer.handle_timeout(self.now);
        self.with(|keep, tools| keep.handle_timeout(tools));
        while let Some(event) = self.transfer.poll_event() {
            self.with(|keep, tools| match event {
                Event::Opened { conn, .. } => keep.handle_opened(tools, conn),
                Event::Closed { conn, .. } => keep.handle_closed(tools, conn),
                Event::Frame { conn, frame } => match frame {
                    Frame::Want(answers) => keep.handle_want(tools, conn, answers),
                    Frame::Stored { id, .. } => keep.handle_stored(tools, conn, id, None),
                    _ => {}
                },
                Event::OtherVersion { .. } => {}
            });
        }
        while self.transfer.poll_command(self.now).is_some() {}
    }

    fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            let next = [self.transfer.next_timeout(), self.keep.next_timeout()];
            let next = next.into_iter().flatten().min();
            let Some(at) = next.filter(|&at| at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = until;
    }

    /// Connections with peers, in the order they were wanted, with the peer's number.
    fn conns(&self) -> Vec<(ConnId, u8)> {
        let number = |peer: &NodeId| (0..=255).find(|&n| key(n).id() == *peer);
        let by_conn = self.keep.by_conn.iter();
        let numbered = by_conn.map(|(&conn, peer)| (conn, number(peer).expect("it is played")));
        numbered.collect()
    }

    fn hears(&mut self, conn: ConnId, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.transfer.handle_received(self.now, conn, &bytes);
        self.settle();
    }

    /// The other end of a connection opens it, and reads what it is told.
    fn open(&mut self, (conn, peer): (ConnId, u8)) -> Vec<Frame> {
        self.settle();
        self.transfer.handle_connected(conn);
        let hello = Hello {
            key: key(peer),
            port: 7873,
            role: PeerRole::Peer,
        };
        self.hears(conn, &Frame::Hello(hello));
        let mut slices = [IoSlice::new(&[]); 8];
        let used = self.transfer.egress(&self.store, conn, &mut slices);
        let used = &slices[..used.expect("nothing is lost")];
        let bytes: Vec<u8> = used.iter().flat_map(|slice| slice.to_vec()).collect();
        self.transfer.consume(self.now, conn, bytes.len());
        let (mut decoder, mut rest) = (FrameDecoder::new(false), &bytes[..]);
        let mut next = || decoder.take(&mut rest).expect("no nonsense");
        std::iter::from_fn(&mut next).collect()
    }

    /// Jobs under way for a client.
    fn jobs(&self, client: ConnId) -> usize {
        let jobs = self.keep.jobs.values();
        jobs.filter(|job| job.owner.is_client(client)).count()
    }
}

#[test]
fn sessions_take_turns() {
    let mut world = World::of(0);
    // Nobody answers its lookups: what is begun stays under way.
    world.keep.locating.whole_network = None;
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

fn offer_of(block: &Block) -> Frame {
    Frame::Offer(vec![crate::wire::frame::Offered {
        id: block.id(),
        lifetime: 0,
    }])
}

#[test]
fn late_peer_is_not_waited_for_when_others_can_take_its_place() {
    let mut world = World::of(3);
    let client = world.client(2);
    let block = leaf(1);
    world.add(client, &block);
    let [first, late] = world.conns()[..] else {
        panic!("as many are asked as copies are wanted");
    };
    let offer = offer_of(&block);
    assert!(world.open(first).contains(&offer) && world.open(late).contains(&offer));
    world.hears(first.0, &Frame::Want(vec![Answer::Have]));
    world.run_for(LATE_AFTER - Duration::from_millis(1));
    assert_eq!(world.conns().len(), 2);
    world.run_for(Duration::from_millis(1));
    let third = *world.conns().last().expect("connections");
    assert!(world.open(third).contains(&offer));
    // What comes later is not offered to the late one while there are others.
    let next = leaf(2);
    world.add(client, &next);
    assert_eq!(world.keep.links[&key(late.1).id()].queue.len(), 0);
    world.hears(first.0, &Frame::Want(vec![Answer::Have]));
    world.hears(third.0, &Frame::Want(vec![Answer::Have]));
    world.hears(third.0, &Frame::Want(vec![Answer::Have]));
    assert_eq!(world.jobs(client), 0, "both blocks have their copies");
    // The late answer does no harm.
    world.hears(late.0, &Frame::Want(vec![Answer::Want]));
    assert!(world.transfer.is_open(late.0));
}

#[test]
fn late_peer_is_waited_for_while_there_is_nobody_else() {
    let mut world = World::of(1);
    let client = world.client(2);
    world.add(client, &leaf(1));
    let late = world.conns()[0];
    world.open(late);
    world.run_for(LATE_AFTER * 2);
    assert_eq!(world.jobs(client), 1);
    world.hears(late.0, &Frame::Want(vec![Answer::Have]));
    assert_eq!(world.jobs(client), 0);
    let settled = world.keep.sessions[&client].outcome(true);
    assert_eq!(settled.least, 1, "its copy counts");
}

#[test]
fn peer_whose_connection_ends_before_it_answers_is_offered_the_block_once_more() {
    let mut world = World::of(1);
    let client = world.client(1);
    let block = leaf(1);
    world.add(client, &block);
    for _ in 0..2 {
        let [(conn, peer)] = world.conns()[..] else {
            panic!("a connection with the one peer there is");
        };
        let said = world.open((conn, peer));
        assert!(said.contains(&offer_of(&block)));
        let now = world.now;
        world.transfer.handle_closed(now, conn, "idle");
        world.settle();
    }
    assert_eq!(world.conns(), [], "not for ever");
    assert_eq!(world.jobs(client), 0);
    // It is still one of the network.
    world.add(client, &leaf(2));
    assert_eq!(world.conns().len(), 1);
}

#[test]
fn peer_that_cannot_be_connected_to_is_not_tried_again() {
    let mut world = World::of(1);
    let client = world.client(1);
    world.add(client, &leaf(1));
    world.settle();
    let (conn, _) = world.conns()[0];
    let now = world.now;
    world.transfer.handle_closed(now, conn, "refused");
    world.settle();
    assert_eq!((world.conns().len(), world.jobs(client)), (0, 0));
}

#[test]
fn block_of_nobody_goes_to_as_many_of_the_closest_as_lack_it() {
    let mut world = World::of(5);
    let block = leaf(1);
    world
        .store
        .put(&block, crate::store::Terms::default())
        .expect("room");
    let id = block.id();
    assert!(world.with(|keep, tools| keep.replicate(tools, id, 3)));
    let conns = world.conns();
    assert_eq!(conns.len(), 2, "this peer has it, too");
    for conn in conns {
        assert!(world.open(conn).contains(&offer_of(&block)));
        world.hears(conn.0, &Frame::Want(vec![Answer::Have]));
    }
    assert!(world.keep.jobs.is_empty() && world.keep.replicating == 0);
}

#[test]
fn blocks_of_nobody_wait_for_their_turn_and_are_no_more_than_may_wait() {
    let mut world = World::of(1);
    world.keep.locating.whole_network = None;
    for n in 0..REPLICATING_AT_ONCE + REPLICATING_MAX + 10 {
        let bytes = [&[7; 24][..], &n.to_be_bytes()].concat();
        let kind = leaf(0).kind();
        let block = Block::new(kind, bytes).expect("a block");
        world
            .store
            .put(&block, crate::store::Terms::default())
            .expect("room");
        let id = block.id();
        let taken = world.with(|keep, tools| keep.replicate(tools, id, 3));
        assert_eq!(taken, n < REPLICATING_AT_ONCE + REPLICATING_MAX);
    }
    assert_eq!(world.keep.replicating, REPLICATING_AT_ONCE);
    assert!(world.keep.is_idle(), "no client waits for anything");
}
