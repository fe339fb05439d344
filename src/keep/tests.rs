//! Placing with a made-up network: the tests play the peers at the other ends of the connections.

use super::*;
use crate::block::{Block, Form, Kind};
use crate::dht;
use crate::id::NodeKey;
use crate::rng::Rng;
use crate::store::MemoryStore;
use crate::transfer::{Event, Origin};
use crate::wire::contact::Age;
use crate::wire::datagram::Bitmap;
use crate::wire::frame::Own;
use crate::wire::frame::{Frame, FrameDecoder, Hello, PeerRole};
use std::io::IoSlice;
use std::net::SocketAddr;

struct World {
    now: Instant,
    keep: Keep,
    dht: Dht,
    transfer: Transfer,
    store: MemoryStore,
    decoders: BTreeMap<ConnId, FrameDecoder>,
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
        World::at(0, 1..=peers)
    }

    /// A node with the key of this number, in a network of these others.
    fn at(own: u8, peers: impl IntoIterator<Item = u8>) -> World {
        let now = Instant::since_epoch(Duration::from_secs(1_800_000_000));
        let config = dht::Config {
            serve: true,
            ipv4: true,
            ipv6: true,
        };
        let hello = Hello {
            key: key(own),
            port: 7873,
            role: PeerRole::Peer,
        };
        let mut keep = Keep::default();
        keep.locating.whole_network = Some((now, peers.into_iter().map(contact).collect()));
        World {
            now,
            keep,
            dht: Dht::new(now, key(own), config, Rng::new([7; 32])),
            transfer: Transfer::new(hello),
            store: MemoryStore::new(1 << 30),
            decoders: BTreeMap::new(),
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
        let wants = Wanted {
            copies,
            min_copies: 0,
            own: Own::Ordinary,
            lifetime: 3600,
        };
        assert!(self.keep.begin(client, wants));
        client
    }

    fn add(&mut self, client: ConnId, block: &Block) {
        self.store
            .put(block, crate::store::Terms::default())
            .expect("room");
        let id = block.id();
        self.with(|keep, tools| keep.add(tools, client, id, Role::Leaf, true));
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
                    Frame::Passed(id) => keep.handle_passed(tools, conn, id),
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
        self.said(conn)
    }

    /// What the other end of a connection has been told and not read yet.
    fn said(&mut self, conn: ConnId) -> Vec<Frame> {
        let mut slices = [IoSlice::new(&[]); 8];
        let used = self.transfer.egress(&self.store, conn, &mut slices);
        let used = &slices[..used.expect("nothing is lost")];
        let bytes: Vec<u8> = used.iter().flat_map(|slice| slice.to_vec()).collect();
        self.transfer.consume(self.now, conn, bytes.len());
        let decoder = self.decoders.entry(conn);
        let decoder = decoder.or_insert_with(|| FrameDecoder::new(false));
        let mut rest = &bytes[..];
        let mut next = || decoder.take(&mut rest).expect("no nonsense");
        std::iter::from_fn(&mut next).collect()
    }

    /// All who have been asked by HAVE answer: these have all of it, the others nothing.
    fn count(&mut self, holders: &[u8]) {
        let asked = self.keep.asking.asked.iter();
        let asked: Vec<_> = asked.map(|(count, (peer, _))| (*count, *peer)).collect();
        for (count, peer) in asked {
            let mut bitmap = Bitmap::default();
            if holders.iter().any(|n| key(*n).id() == peer) {
                (0..HAVE_MAX).for_each(|nth| bitmap.set(nth));
            }
            self.with(|keep, tools| keep.handle_counted(tools, count, Some(bitmap)));
        }
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
        let id = BlockId(std::array::from_fn(|i| n.to_be_bytes()[i % 8]));
        world.with(|keep, tools| keep.add(tools, first, id, Role::Leaf, true));
    }
    let others = [world.client(1), world.client(1)];
    for (client, leaves) in others.into_iter().zip([0..20, 20..40]) {
        for n in leaves {
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
fn block_that_is_added_again_while_it_is_placed_is_not_sent_again() {
    let mut world = World::of(2);
    let (client, block) = (world.client(2), leaf(1));
    let [other, gone] = [world.client(2), world.client(2)];
    for client in [client, client, other, client, gone] {
        world.add(client, &block);
    }
    assert_eq!([client, other, gone].map(|it| world.jobs(it)), [1, 0, 0]);
    world.with(|keep, tools| keep.handle_client_closed(tools, gone));
    // However many follow, the client is held up as if they waited.
    assert_eq!(world.keep.sessions[&other].waiting(), 1);
    world.keep.check();
    let conns = world.conns();
    for &conn in &conns {
        assert!(world.open(conn).contains(&offer_of(&block)));
        world.hears(conn.0, &Frame::Want(vec![Answer::Have]));
    }
    let session = &world.keep.sessions[&client];
    assert!(session.is_placed() && session.outcome(true).blocks == 3);
    // The other's is not sent, as they have it by now.
    assert_eq!(world.jobs(other), 1);
    for &(conn, _) in &conns {
        assert_eq!(world.said(conn), [offer_of(&block)]);
        world.hears(conn, &Frame::Want(vec![Answer::Have]));
    }
    assert!(world.keep.sessions[&other].is_placed());
    // Who waits for another's does so no longer when that is gone.
    let block = leaf(2);
    world.add(client, &block);
    world.add(other, &block);
    assert_eq!(world.jobs(other), 0);
    world.with(|keep, tools| keep.handle_client_closed(tools, client));
    assert_eq!(world.jobs(other), 1);
    assert!(world.keep.following.is_empty());
    world.with(|keep, tools| keep.handle_client_closed(tools, other));
    assert!(world.keep.jobs.is_empty());
    world.keep.check();
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

/// A block of a client's is offered to the last peer that was connected to, which wants it, and has stored it. How many
/// copies that is to see to.
fn take(world: &mut World, block: &Block) -> (ConnId, u8) {
    let (conn, peer) = *world.conns().last().expect("connections");
    assert!(world.open((conn, peer)).contains(&offer_of(block)));
    world.hears(conn, &Frame::Want(vec![Answer::Want]));
    let [Frame::Put { copies, .. }] = world.said(conn)[..] else {
        panic!("it is sent");
    };
    let (id, lifetime) = (block.id(), 0);
    world.hears(conn, &Frame::Stored { id, lifetime });
    (conn, copies)
}

#[test]
fn block_is_sent_once_and_counted_when_it_has_been_passed_on() {
    let mut world = World::of(19);
    let client = world.client(8);
    let block = leaf(1);
    world.add(client, &block);
    assert_eq!(world.keep.asking.asked.len(), 19, "they are asked first");
    world.count(&[]);
    let (conn, copies) = take(&mut world, &block);
    assert_eq!((world.conns().len(), copies), (1, 8));
    assert_eq!(world.keep.asking.asked.len(), 0);
    world.hears(conn, &Frame::Passed(block.id()));
    assert_eq!(world.keep.asking.asked.len(), 18, "the others are asked");
    let others: Vec<u8> = (1..=19).filter(|n| *n != world.conns()[0].1).collect();
    world.count(&others[..7]);
    assert_eq!(world.jobs(client), 0);
    assert_eq!(world.keep.sessions[&client].outcome(true).least, 8);
    // Who says so again does no harm, nor who was not asked for anything.
    world.hears(conn, &Frame::Passed(block.id()));
    assert!(world.transfer.is_open(conn));
}

#[test]
fn block_that_is_passed_on_before_it_is_stored_is_counted_once_it_is() {
    let mut world = World::of(19);
    let client = world.client(8);
    let block = leaf(1);
    world.add(client, &block);
    world.count(&[]);
    let (conn, peer) = *world.conns().last().expect("connections");
    world.open((conn, peer));
    world.hears(conn, &Frame::Want(vec![Answer::Want]));
    world.hears(conn, &Frame::Passed(block.id()));
    assert_eq!(world.keep.asking.asked.len(), 0);
    let (id, lifetime) = (block.id(), 0);
    world.hears(conn, &Frame::Stored { id, lifetime });
    assert_eq!(world.keep.asking.asked.len(), 18, "the others are asked");
    let others: Vec<u8> = (1..=19).filter(|n| *n != peer).collect();
    world.count(&others[..7]);
    assert_eq!(world.jobs(client), 0);
}

#[test]
fn block_that_is_not_passed_on_is_given_to_another_and_then_to_all() {
    let mut world = World::of(19);
    let client = world.client(8);
    let block = leaf(1);
    world.add(client, &block);
    world.count(&[]);
    for tries in 1..=PASSERS_MAX {
        take(&mut world, &block);
        assert_eq!(world.conns().len(), tries);
        world.run_for(PASS_PATIENCE - Duration::from_millis(1));
        assert_eq!(world.keep.asking.asked.len(), 0, "it is given time");
        world.run_for(Duration::from_millis(1));
        world.count(&[]);
    }
    assert_eq!(world.conns().len(), 8, "as many as copies are missing");
    let unwilling = world.conns()[..2].to_vec();
    for conn in world.conns().split_off(2) {
        assert!(world.open(conn).contains(&offer_of(&block)));
        world.hears(conn.0, &Frame::Want(vec![Answer::Have]));
    }
    assert_eq!(world.jobs(client), 0);
    // They are not the ones to be given the next.
    for (_, peer) in unwilling {
        let peer = key(peer).id();
        assert!(!world.keep.passers.is_willing(world.now, &peer));
    }
}

#[test]
fn block_whose_copies_grow_slowly_is_waited_for() {
    let mut world = World::of(19);
    let client = world.client(8);
    let block = leaf(1);
    world.add(client, &block);
    world.count(&[]);
    take(&mut world, &block);
    let first = world.conns()[0].1;
    let others: Vec<u8> = (1..=19).filter(|n| *n != first).collect();
    for copies in 1..7 {
        world.run_for(PASS_PATIENCE);
        world.count(&others[..copies]);
        assert_eq!((world.jobs(client), world.conns().len()), (1, 1));
    }
    world.run_for(PASS_PATIENCE);
    world.count(&others[..7]);
    assert_eq!(world.jobs(client), 0);
}

/// A peer has connected from this address, and greeted.
fn comes_from(world: &mut World, ip: [u8; 4], n: u8) -> ConnId {
    let from = Origin::Remote(SocketAddr::from((ip, 7873)));
    let conn = world.transfer.accept(world.now, from);
    let hello = Hello {
        key: key(n),
        port: 7873,
        role: PeerRole::Private,
    };
    world.hears(conn, &Frame::Hello(hello));
    conn
}

#[test]
fn no_network_has_more_passed_on_than_its_budget() {
    let mut world = World::of(0);
    world.keep.locating.whole_network = None;
    let mut pass = |ip: [u8; 4], n: u8| {
        let conn = comes_from(&mut world, ip, n);
        let (len, copies) = (BLOCK_SIZE_MAX, COPIES_MAX);
        let bytes = len as u64 * u64::from(copies - 1);
        let mut count = 0;
        while count < 300 {
            let passed = &world.keep.passed;
            if !passed.allows(world.now, &ip.into(), bytes, PASS_BUDGET) {
                break;
            }
            let id = BlockId([7; 32]);
            world.with(|keep, tools| keep.pass_on(tools, conn, id, len, copies));
            count += 1;
        }
        count
    };
    assert_eq!(pass([192, 0, 2, 1], 100), 215, "a GiB");
    assert_eq!(pass([192, 0, 2, 200], 101), 0, "its neighbour");
    assert_eq!(pass([192, 0, 3, 1], 102), 215, "another");
    assert_eq!(pass([10, 0, 0, 1], 103), 300, "a private range");
}

#[test]
fn blocks_that_others_want_passed_on_wait_and_upkeep_does_not_wait_for_them() {
    let mut world = World::of(1);
    world.keep.locating.whole_network = None;
    let source = comes_from(&mut world, [127, 0, 0, 100], 100);
    let terms = crate::store::Terms::default();
    for n in 0..PASSING_AT_ONCE + PASSING_MAX + 10 {
        let bytes = [&[7; 24][..], &n.to_be_bytes()].concat();
        let block = Block::new(leaf(0).kind(), bytes).expect("a block");
        world.store.put(&block, terms).expect("room");
        let (id, len) = (block.id(), 32);
        world.with(|keep, tools| keep.pass_on(tools, source, id, len, 8));
    }
    assert_eq!(world.keep.passing, PASSING_AT_ONCE);
    assert_eq!(world.keep.to_pass_on.len(), PASSING_MAX);
    assert!(world.keep.is_idle(), "no client waits for anything");
    assert!(world.keep.may_give());
    let block = leaf(1);
    world.store.put(&block, terms).expect("room");
    let gift = Gift {
        block: block.id(),
        copies: 1,
        candidates: vec![contact(0)],
    };
    world.with(|keep, tools| keep.give(tools, gift));
    assert_eq!(world.keep.giving, 1, "on its way beside them");
}

#[test]
fn peers_that_were_given_a_block_serve_their_shares_and_later_what_is_missing() {
    let block = leaf(1);
    let mut served = Vec::new();
    for (own, other) in [(0, 200), (200, 0)] {
        let mut world = World::at(own, (1..19).chain([other]));
        world
            .store
            .put(&block, crate::store::Terms::default())
            .expect("room");
        let source = comes_from(&mut world, [127, 0, 0, 100], 100);
        let (id, len) = (block.id(), 100);
        world.with(|keep, tools| keep.pass_on(tools, source, id, len, 8));
        let also = comes_from(&mut world, [127, 0, 0, 101], 101);
        assert!(world.keep.is_passing_on(also, id));
        assert_eq!(world.keep.asking.asked.len(), 19);
        world.count(&[other]);
        let first = world.conns();
        let mine: Vec<u8> = first.iter().map(|it| it.1).collect();
        assert!(mine.len() <= 3, "six are missing");
        for &conn in &first {
            world.open(conn);
            world.hears(conn.0, &Frame::Want(vec![Answer::Have]));
        }
        served.extend(mine.clone());
        world.run_for(PASS_AGAIN);
        world.count(&[&mine[..], &[other]].concat());
        assert_eq!(world.conns().len(), 6, "the other has done nothing");
        let mut later = world.conns();
        later.retain(|conn| !first.contains(conn));
        for conn in later {
            world.open(conn);
            world.hears(conn.0, &Frame::Want(vec![Answer::Have]));
        }
        for source in [source, also] {
            let said = world.said(source);
            assert!(said.contains(&Frame::Passed(id)), "{said:?}");
        }
        assert_eq!(world.keep.passing, 0);
        assert!(!world.keep.is_passing_on(also, id));
    }
    let all = served.len();
    served.sort_unstable();
    served.dedup();
    assert_eq!(served.len(), all, "nobody is served by both");
    assert!(all > 0);
}

#[test]
fn block_that_the_disk_has_to_bring_is_sent_when_it_has_or_has_had_time_for_it() {
    for comes_in_time in [true, false] {
        let mut world = World::of(1);
        let client = world.client(1);
        let block = leaf(1);
        world.add(client, &block);
        world.store.cold.insert(block.id());
        let (conn, peer) = world.conns()[0];
        assert!(world.open((conn, peer)).contains(&offer_of(&block)));
        world.hears(conn, &Frame::Want(vec![Answer::Want]));
        let is_sent = |world: &mut World| {
            let said = world.said(conn);
            said.iter().any(|it| matches!(it, Frame::Put { .. }))
        };
        world.run_for(COLD_WAIT - GETS_PAUSE * 2);
        assert!(!is_sent(&mut world), "it is not waited for in the loop");
        if comes_in_time {
            world.store.cold.clear();
        }
        world.run_for(GETS_PAUSE);
        assert_eq!(is_sent(&mut world), comes_in_time);
        world.run_for(GETS_PAUSE * 2);
        assert_eq!(is_sent(&mut world), !comes_in_time);
    }
}

#[test]
fn peer_to_which_no_connection_can_be_opened_waits_for_one() {
    let mut world = World::of(1);
    let client = world.client(1);
    let to = SocketAddr::from(([127, 0, 1, 1], 7873));
    let others: Vec<ConnId> = (0..CONNECTIONS_MAX)
        .map(|_| world.transfer.dial(world.now, to, None))
        .collect();
    world.add(client, &leaf(1));
    assert_eq!((world.conns().len(), world.jobs(client)), (0, 1));
    world.transfer.close(others[0], "of no more use");
    world.run_for(RETRY_PAUSE);
    assert_eq!((world.conns().len(), world.jobs(client)), (1, 1));
    // Not for ever.
    let client = world.client(1);
    world.keep.locating.whole_network = Some((world.now, vec![contact(2)]));
    world.add(client, &leaf(2));
    assert_eq!(world.jobs(client), 1);
    for _ in 0..ROOM_WAIT_MAX.as_secs() {
        assert_eq!(world.jobs(client), 1);
        let now = world.now + RETRY_PAUSE;
        world.now = now;
        world.with(|keep, tools| keep.handle_timeout(tools));
    }
    assert_eq!(world.jobs(client), 0);
}
