//! Connections whose other ends the tests play, frame by frame, on a clock of their own.

mod limits;

use super::*;
use crate::id::BlockId;
use crate::store::MemoryStore;
use crate::wire::contact::Age;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn hello(n: u8) -> Hello {
    Hello {
        key: NodeKey([n; 32]),
        port: 7873,
        role: PeerRole::Peer,
    }
}

fn contact(n: u8) -> Contact {
    Contact::new(hello(n).key, addr(n), Age(0))
}

/// Where peer `n` is: each in a public network of its own (RFC 2544).
fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, n, 1], 7873))
}

struct World {
    now: Instant,
    transfer: Transfer,
    store: MemoryStore,
    /// Connections that the driver was told to open, and to close.
    begun: Vec<ConnId>,
    closed: Vec<ConnId>,
    events: Vec<Event>,
    written: BTreeMap<ConnId, Vec<u8>>,
}

impl World {
    fn new() -> World {
        World {
            now: Instant::since_epoch(secs(1_800_000_000)),
            transfer: Transfer::new(hello(0)),
            store: MemoryStore::new(1 << 30),
            begun: Vec::new(),
            closed: Vec::new(),
            events: Vec::new(),
            written: BTreeMap::new(),
        }
    }

    /// Does what the machine wants; everything that is queued is written at once.
    fn settle(&mut self) {
        while let Some(command) = self.transfer.poll_command(self.now) {
            match command {
                Command::Connect { conn, .. } => self.begun.push(conn),
                Command::Flush { conn } => self.write(conn),
                Command::Close { conn } => self.closed.push(conn),
            }
        }
        while let Some(event) = self.transfer.poll_event() {
            self.events.push(event);
        }
    }

    fn write(&mut self, conn: ConnId) {
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = self.transfer.egress(&self.store, conn, &mut slices);
            let used = used.expect("no block is lost");
            let bytes: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|it| it.iter().copied())
                .collect();
            if bytes.is_empty() {
                return;
            }
            let sent = bytes.len();
            self.written.entry(conn).or_default().extend(bytes);
            self.transfer.consume(self.now, conn, sent);
        }
    }

    /// What has been written to a connection.
    fn frames(&self, conn: ConnId) -> Vec<Frame> {
        let mut bytes = &self.written[&conn][..];
        let mut decoder = FrameDecoder::new(false);
        let next = || decoder.take(&mut bytes).expect("well formed");
        std::iter::from_fn(next).collect()
    }

    /// Lets time pass, through every deadline.
    fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.transfer.next_timeout().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.transfer.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn hears(&mut self, conn: ConnId, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.hears_bytes(conn, &bytes);
    }

    fn hears_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.transfer.handle_received(self.now, conn, bytes);
        self.settle();
    }

    /// A connection to peer `n` that is open.
    fn reached(&mut self, n: u8) -> ConnId {
        let conn = self.transfer.reach(self.now, &contact(n)).expect("room");
        self.settle();
        self.transfer.handle_connected(conn);
        self.hears(conn, &Frame::Hello(hello(n)));
        assert!(self.transfer.is_open(conn));
        conn
    }

    /// A connection from an address, by somebody who greets as peer `n`.
    fn greeted_by(&mut self, from: SocketAddr, n: u8) -> ConnId {
        let conn = self.accepted(from);
        self.hears(conn, &Frame::Hello(hello(n)));
        conn
    }

    fn accepted(&mut self, from: SocketAddr) -> ConnId {
        let conn = self.transfer.accept(self.now, Origin::Remote(from));
        self.settle();
        conn
    }

    fn is_shunned(&self, n: u8) -> bool {
        self.transfer.is_shunned(self.now, &contact(n).id)
    }

    fn is_closed(&self, conn: ConnId) -> bool {
        self.closed.contains(&conn)
    }
}

#[test]
fn waiting_to_be_dialed_costs_no_peer_its_chance() {
    let mut world = World::new();
    let count = 3 * CONNECTING_MAX as u8;
    let conns: Vec<ConnId> = (1..=count)
        .map(|n| world.transfer.reach(world.now, &contact(n)).expect("room"))
        .collect();
    world.settle();
    assert_eq!(world.begun, conns[..CONNECTING_MAX]);
    // Nobody answers: the next are begun only as the first are given up.
    world.run_for(CONNECT_TIMEOUT);
    assert_eq!(world.begun, conns[..2 * CONNECTING_MAX]);
    world.run_for(CONNECT_TIMEOUT - Duration::from_millis(1));
    let shunned = (1..=count).filter(|&n| world.is_shunned(n)).count();
    assert_eq!(shunned, CONNECTING_MAX, "only those that were tried");
    world.run_for(CONNECT_TIMEOUT);
    assert_eq!(world.begun, conns, "each has its turn");
}

#[test]
fn who_greets_with_the_key_of_another_is_not_taken_for_it() {
    let mut world = World::new();
    let stranger = world.greeted_by(SocketAddr::from(([198, 18, 99, 1], 999)), 1);
    let conn = world.transfer.reach(world.now, &contact(1));
    assert!(conn.is_some() && conn != Some(stranger));
    assert_eq!(world.transfer.reach(world.now, &contact(1)), conn);
    // What the stranger does is not held against the peer.
    world.transfer.handle_wrong_block(world.now, stranger);
    world.settle();
    assert!(world.is_closed(stranger) && !world.is_shunned(1));
    let stranger = world.greeted_by(SocketAddr::from(([198, 18, 99, 1], 999)), 2);
    world.transfer.expect(world.now, stranger, 1);
    world.run_for(PROGRESS_TIMEOUT * 2);
    assert!(world.is_closed(stranger) && !world.is_shunned(2));
}

#[test]
fn connection_from_where_a_peer_is_known_to_be_is_used_to_reach_it() {
    let mut world = World::new();
    let from = SocketAddr::new(addr(1).ip(), 50_000);
    let conn = world.greeted_by(from, 1);
    assert_eq!(world.transfer.reach(world.now, &contact(1)), Some(conn));
}

#[test]
fn wrong_blocks_are_held_against_those_that_were_dialed() {
    let mut world = World::new();
    for span in [SHUN_FOR, SHUN_LIAR_FOR] {
        let conn = world.reached(1);
        world.transfer.handle_wrong_block(world.now, conn);
        world.settle();
        assert!(world.is_closed(conn) && world.is_shunned(1));
        world.run_for(span - secs(1));
        assert!(world.is_shunned(1));
        world.run_for(secs(1));
        assert!(!world.is_shunned(1));
    }
}

/// Something of no consequence that a peer may say at any time.
fn chatter() -> Frame {
    Frame::Offer(vec![crate::wire::frame::Offered {
        id: BlockId([7; 32]),
        lifetime: 9,
    }])
}

#[test]
fn peer_that_talks_and_does_not_answer_is_closed_and_shunned() {
    let mut world = World::new();
    let conn = world.reached(1);
    world.transfer.expect(world.now, conn, 2);
    for _ in 0..10 {
        world.run_for(secs(1));
        world.hears(conn, &chatter());
    }
    assert!(world.transfer.answered(world.now, conn));
    for _ in 0..ANSWER_TIMEOUT.as_secs() - 1 {
        world.run_for(secs(1));
        world.hears(conn, &chatter());
    }
    assert!(!world.is_closed(conn), "it has answered lately");
    world.run_for(secs(1));
    assert!(world.is_closed(conn) && world.is_shunned(1));
}

#[test]
fn answer_is_waited_for_while_it_comes_or_while_the_question_goes() {
    let mut world = World::new();
    let kind = crate::block::Kind {
        role: crate::block::Role::Leaf,
        form: crate::block::Form::Plain,
    };
    let block = crate::block::Block::new(kind, vec![1; 200_000]).expect("a block");
    let conn = world.reached(1);
    // The question is long, and the other side takes little of it at a time.
    let payload = Source::Memory(std::rc::Rc::new(block.clone()));
    world.transfer.send_block(
        conn,
        PayloadFrame::Put {
            lifetime: 9,
            copies: 0,
        },
        (&block).into(),
        payload,
    );
    world.transfer.expect(world.now, conn, 1);
    let flush = world.transfer.poll_command(world.now);
    assert_eq!(flush, Some(Command::Flush { conn }));
    for _ in 0..20 {
        world.transfer.consume(world.now, conn, 9_000);
        world.run_for(secs(10));
    }
    assert!(!world.is_closed(conn), "it takes the question");
    // The answer is long as well.
    world.write(conn);
    let mut answer = Vec::new();
    Frame::Block {
        id: block.id(),
        kind,
        payload: block.payload().to_vec(),
    }
    .encode(&mut answer);
    for part in answer.chunks(FRAME_STEP).take(10) {
        world.run_for(secs(10));
        world.hears_bytes(conn, part);
    }
    assert!(!world.is_closed(conn), "it is answering");
    // Less than a step at a time is not enough.
    for part in answer[10 * FRAME_STEP..].chunks(100).take(30) {
        world.run_for(secs(1));
        world.hears_bytes(conn, part);
    }
    assert!(world.is_closed(conn));
}

/// So many connections to others, none of them open yet.
fn crowd(world: &mut World, count: usize) {
    for n in 0..count {
        let mut key = [255; 32];
        key[..2].copy_from_slice(&(n as u16).to_be_bytes());
        let addr = SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 7873));
        let contact = Contact::new(NodeKey(key), addr, Age(0));
        world.transfer.reach(world.now, &contact).expect("room");
    }
    world.settle();
}

#[test]
fn connections_that_are_being_opened_make_no_room_for_others() {
    let mut world = World::new();
    crowd(&mut world, CONNECTIONS_MAX);
    assert_eq!(world.transfer.reach(world.now, &contact(1)), None);
    world.settle();
    assert_eq!(world.closed, [], "somebody waits for each");
}

#[test]
fn open_connection_that_nobody_wants_anything_of_makes_room() {
    let mut world = World::new();
    let wanted = world.reached(1);
    world.transfer.expect(world.now, wanted, 1);
    let idle = world.reached(2);
    crowd(&mut world, CONNECTIONS_MAX - 2);
    assert!(world.transfer.reach(world.now, &contact(3)).is_some());
    world.settle();
    assert_eq!(world.closed, [idle]);
}

#[test]
fn whoever_comes_others_can_be_reached_and_can_come() {
    let mut world = World::new();
    // One public host, and many others, each of which begins to greet and does not end.
    let host = |n: usize| SocketAddr::from(([198, 18, 1, 1], n as u16));
    let others = |n: usize| SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 9));
    let origins = (0..300).map(host).chain((0..300).map(others));
    let conns: Vec<ConnId> = origins.map(|from| world.accepted(from)).collect();
    let stays = |world: &World, conn: &&ConnId| !world.is_closed(**conn);
    let count = |conns: &[ConnId]| conns.iter().filter(|conn| stays(&world, conn)).count();
    assert_eq!(count(&conns[..300]), INBOUND_PER_SOURCE);
    assert_eq!(count(&conns), INBOUND_MAX);
    world.reached(2);
    // They trickle, which does not help them.
    let mut greeting = Vec::new();
    Frame::Hello(hello(9)).encode(&mut greeting);
    for byte in &greeting[..CONNECT_TIMEOUT.as_secs() as usize] {
        for &conn in &conns {
            world.hears_bytes(conn, &[*byte]);
        }
        world.run_for(secs(1));
    }
    let next = world.greeted_by(host(999), 9);
    assert!(world.transfer.is_open(next));
}

#[test]
fn frame_must_get_on() {
    let mut world = World::new();
    let conn = world.greeted_by(addr(1), 1);
    let block = vec![7; crate::limits::BLOCK_SIZE_MAX];
    let mut frame = Vec::new();
    Frame::Put {
        id: BlockId([7; 32]),
        kind: crate::block::Kind {
            role: crate::block::Role::Leaf,
            form: crate::block::Form::Plain,
        },
        lifetime: 9,
        copies: 0,
        payload: block,
    }
    .encode(&mut frame);
    // A slow line takes its time.
    let (slow, trickle) = frame.split_at(10 * FRAME_STEP);
    for part in slow.chunks(FRAME_STEP / 2) {
        world.run_for(secs(10));
        world.hears_bytes(conn, part);
    }
    assert!(!world.is_closed(conn));
    for byte in trickle.chunks(1).take(FRAME_TIMEOUT.as_secs() as usize) {
        assert!(!world.is_closed(conn));
        world.hears_bytes(conn, byte);
        world.run_for(secs(1));
    }
    assert!(world.is_closed(conn), "a byte a second is not enough");
}

#[test]
fn who_takes_its_last_words_too_slowly_is_closed() {
    let mut world = World::new();
    let conn = world.reached(1);
    world.transfer.bye(conn, ByeReason::Done, "that is all");
    let flush = world.transfer.poll_command(world.now);
    assert_eq!(flush, Some(Command::Flush { conn }));
    for _ in 0..PROGRESS_TIMEOUT.as_secs() {
        if !world.is_closed(conn) {
            world.transfer.consume(world.now, conn, 1);
        }
        world.run_for(secs(1));
    }
    assert!(world.is_closed(conn));
}

#[test]
fn loopback_and_private_ranges_are_not_limited_by_source() {
    for from in ["[::1]:9", "127.0.0.1:9", "[fd00::9]:9", "10.0.0.9:9"] {
        let mut world = World::new();
        let from = from.parse().expect("an address");
        let conns: Vec<ConnId> = (0..=INBOUND_MAX).map(|_| world.accepted(from)).collect();
        assert_eq!(world.closed, conns[INBOUND_MAX..], "{from}");
    }
}
