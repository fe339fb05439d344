//! The node by itself: a driver that only listens.

use super::found::OTHER_VERSIONS_MAX;
use super::*;
use crate::block::encode::Encoder;
use crate::block::tree::LEAF_SIZE;
use crate::block::{Block, Kind};
use crate::block::{Form, Role};
use crate::limits::{SCRUB_PAUSE_MAX, VERIFY_STEP};
use crate::store::pack::{self, Allotment, DirLock, PackStore};
use crate::store::{MemoryStore, Pin, Terms};
use crate::wire::codec::Reader;
use crate::wire::datagram::{self, Direction, Families, Header, Reply, Request, Start};
use std::os::unix::fs::FileExt;

fn node(now: Instant) -> Node<MemoryStore> {
    with_store(now, MemoryStore::new(1 << 20))
}

fn with_store<S: Store>(now: Instant, store: S) -> Node<S> {
    let config = Config {
        key: NodeKey([1; 32]),
        serve: true,
        port: 7873,
        listen: "127.0.0.1:7873".to_string(),
        ipv4: true,
        ipv6: false,
    };
    Node::new(now, config, store, Rng::new([2; 32]))
}

/// All that the node wants done.
fn outputs(node: &mut Node<MemoryStore>) -> Vec<Output> {
    std::iter::from_fn(|| match node.poll_output() {
        Output::Timeout(_) => None,
        output => Some(output),
    })
    .collect()
}

fn leaf() -> Block {
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    Block::new(kind, vec![1; 100]).expect("a block")
}

/// A connection with a peer that has greeted; what this side has to say first is written.
fn greeted(node: &mut Node<MemoryStore>, now: Instant) -> ConnId {
    let from = SocketAddr::from(([127, 0, 0, 2], 4000));
    let conn = node.accept(now, Origin::Remote(from));
    let hello = Frame::Hello(Hello {
        key: NodeKey([3; 32]),
        port: 4000,
        role: PeerRole::Peer,
    });
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    let bytes = &bytes;
    node.handle_input(now, Input::Received { conn, bytes });
    let mut slices = [IoSlice::new(&[]); 4];
    let used = node.egress(conn, &mut slices).expect("nothing is lost");
    let sent = slices[..used].iter().map(|slice| slice.len()).sum();
    node.consume(now, conn, sent);
    outputs(node);
    conn
}

#[test]
fn blocks_are_given_a_few_at_a_time_and_who_asks_for_very_many_is_told_to_be_gone() {
    let now = Instant::EPOCH;
    let mut node = node(now);
    let (conn, other) = (greeted(&mut node, now), greeted(&mut node, now));
    let block = leaf();
    let terms = crate::store::Terms::default();
    node.store.put(&block, terms).expect("room");
    let ask = |node: &mut Node<MemoryStore>, conn, count| {
        let mut bytes = Vec::new();
        (0..count).for_each(|_| Frame::Get(block.id()).encode(&mut bytes));
        let bytes = &bytes;
        node.handle_input(now, Input::Received { conn, bytes });
    };
    ask(&mut node, conn, 3 * GETS_AT_ONCE);
    let mut at = now;
    for given in [1, 2, 3, 3] {
        assert_eq!(node.served_blocks, (given * GETS_AT_ONCE) as u64);
        at = at + GETS_PAUSE;
        node.handle_input(at, Input::Timeout);
    }
    assert!(node.gets.next_timeout().is_none());
    let (served, max) = (node.served_blocks, GETS_AT_ONCE + GETS_WAITING_MAX);
    ask(&mut node, conn, max);
    assert!(node.transfer.is_open(conn));
    ask(&mut node, other, GETS_WAITING_MAX + 1);
    assert!(!node.transfer.is_open(other), "it had no turn");
    ask(&mut node, conn, 1);
    assert!(!node.transfer.is_open(conn));
    assert_eq!(node.served_blocks - served, GETS_AT_ONCE as u64);
    node.handle_input(at, Input::Closed { conn, reason: "" });
    let gone = Input::Closed {
        conn: other,
        reason: "",
    };
    node.handle_input(at, gone);
    at = at + GETS_PAUSE;
    node.handle_input(at, Input::Timeout);
    assert!(
        node.gets.next_timeout().is_none(),
        "nobody is left who waits"
    );
}

#[test]
fn commit_has_the_answers_that_waited_for_it_sent() {
    let now = Instant::EPOCH;
    let mut node = node(now);
    let conn = greeted(&mut node, now);
    let block = leaf();
    node.written = node
        .store
        .put(&block, crate::store::Terms::default())
        .expect("room")
        .sequence();
    node.send_when_durable(
        now,
        conn,
        Frame::Stored {
            id: block.id(),
            lifetime: 5,
        },
    );
    assert!(outputs(&mut node).is_empty(), "it is not durable yet");
    node.commit(now);
    let flushed = |output: &Output| matches!(output, Output::Flush { conn: to } if *to == conn);
    assert!(outputs(&mut node).iter().any(flushed));
}

#[test]
fn who_sends_what_is_here_to_be_passed_on_learns_that_it_is_not() {
    let now = Instant::EPOCH;
    let mut node = node(now);
    let conn = greeted(&mut node, now);
    let block = leaf();
    let (id, terms) = (block.id(), Terms::default());
    node.store_block(&block, terms, None).expect("room");
    let put = Frame::Put {
        id,
        kind: block.kind(),
        lifetime: 0,
        copies: 8,
        payload: block.payload().to_vec(),
    };
    let mut bytes = Vec::new();
    put.encode(&mut bytes);
    let bytes = &bytes;
    node.handle_input(now, Input::Received { conn, bytes });
    node.commit(now);
    let mut expected = Vec::new();
    Frame::Stored { id, lifetime: 0 }.encode(&mut expected);
    Frame::Passed(id).encode(&mut expected);
    let mut slices = [IoSlice::new(&[]); 4];
    let used = node.egress(conn, &mut slices).expect("nothing is lost");
    let said: Vec<u8> = slices[..used].iter().flat_map(|it| it.to_vec()).collect();
    assert_eq!(said, expected);
}

#[test]
fn block_that_is_not_durable_yet_is_denied_to_whoever_counts() {
    let now = Instant::EPOCH;
    let mut node = node(now);
    let block = leaf();
    let is_counted = |node: &mut Node<MemoryStore>| {
        let header = Header {
            kind: datagram::Kind::Have,
            direction: Direction::Request,
            client_mode: true,
            families: Families::default(),
            shortened: false,
            transaction: 5,
            key: NodeKey([9; 32]),
            token: datagram::Token::default(),
        };
        let payload = Request::Have(vec![block.id()]).encode(header, true);
        let from = SocketAddr::from(([127, 0, 0, 2], 4000));
        let payload = &payload;
        node.handle_input(now, Input::Datagram { from, payload });
        let mut replies = outputs(node).into_iter().filter_map(|output| match output {
            Output::Transmit { payload, .. } => {
                let mut reader = Reader::new(&payload);
                let Ok(Start::Ours(header)) = Header::decode(&mut reader) else {
                    panic!("a header");
                };
                match Reply::decode(&header, reader) {
                    Ok(Reply::Have(bitmap, ..)) => Some(bitmap.holds(0)),
                    _ => None,
                }
            }
            _ => None,
        });
        replies.next().expect("a reply")
    };
    assert!(!is_counted(&mut node), "it is not there");
    let terms = Terms::default();
    node.store_block(&block, terms, None).expect("room");
    assert!(node.store.has(&block.id()));
    assert!(!is_counted(&mut node), "a loss of power would take it");
    node.commit(now);
    assert!(is_counted(&mut node));
}

#[test]
fn other_versions_are_reported_once_for_each_host_and_then_no_more() {
    let mut node = node(Instant::EPOCH);
    let reports = |node: &mut Node<MemoryStore>, host: u8, port: u16| {
        node.remember_other_version(SocketAddr::from(([127, 0, 0, host], port)), 9)
    };
    assert!(reports(&mut node, 1, 1));
    assert!(!reports(&mut node, 1, 2), "the same host from another port");
    let more = (2..=255)
        .filter(|&host| reports(&mut node, host, 1))
        .count();
    assert_eq!(1 + more, OTHER_VERSIONS_MAX);
    let again = (2..=255)
        .filter(|&host| reports(&mut node, host, 1))
        .count();
    assert_eq!(again, 0, "what is forgotten would be reported again");
}

/// The value of this line of the status page.
fn number<S: Store>(node: &Node<S>, now: Instant, key: &str) -> u64 {
    let page = node.status(now);
    let mut values = page
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    values.next().expect("a line").parse().expect("a number")
}

#[test]
fn damage_is_found_in_the_background_and_what_is_pinned_is_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = DirLock::acquire(dir.path(), pack::Role::Serve).expect("nobody has it");
    let allotment = Allotment {
        capacity: 64 << 20,
        min_free: 0,
    };
    let mut store = PackStore::open(lock, allotment, [4; 32]).expect("it is made");
    let mut encoder = Encoder::new(Form::Plain);
    for n in 0..12 {
        encoder.push(&vec![n; LEAF_SIZE]);
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload).expect("a block");
            encoder.handle_put(block.id());
            store.put(&block, Terms::default()).expect("there is room");
        }
    }
    encoder.finish();
    while let Some((kind, payload)) = encoder.poll_put() {
        let block = Block::new(kind, payload).expect("a block");
        encoder.handle_put(block.id());
        store.put(&block, Terms::default()).expect("there is room");
    }
    let root = encoder.outcome().expect("it has ended").id;
    let len = 12 * LEAF_SIZE as u64;
    store.add_pin(Pin { root, len }).expect("there is room");
    store.begin_commit().expect("the disk is sound");

    let mut now = Instant::EPOCH;
    let mut node = with_store(now, store);
    let pack = std::fs::File::options()
        .write(true)
        .open(dir.path().join("pack"));
    let place = 5 * LEAF_SIZE as u64;
    pack.and_then(|pack| pack.write_all_at(b"damage", place))
        .expect("written");
    let mut steps = Vec::new();
    while steps.len() < 8 {
        let before = number(&node, now, "scrubbed_bytes");
        let next = loop {
            if let Output::Timeout(next) = node.poll_output() {
                break next.expect("there is always a timer");
            }
        };
        now = now.max(next);
        node.handle_input(now, Input::Timeout);
        let read = number(&node, now, "scrubbed_bytes") - before;
        if read > 0 {
            steps.push((now, read));
        }
    }
    assert!(steps
        .windows(2)
        .all(|it| it[0].0 + SCRUB_PAUSE_MAX == it[1].0));
    assert!(steps.iter().all(|it| it.1 < 2 * VERIFY_STEP));
    let all: u64 = steps.iter().map(|it| it.1).sum();
    assert!(all >= 2 * len, "{all} bytes of {len}");
    assert_eq!(number(&node, now, "damaged"), 1);
    // Nobody is there to give it. That it is fetched where somebody is shows in tests of the program.
    assert_eq!(node.pins.missing(&root), 1);
}
