//! The node by itself: a driver that only listens.

use super::*;
use crate::block::{Block, Kind};
use crate::block::{Form, Role};
use crate::store::MemoryStore;

fn node(now: Instant) -> Node<MemoryStore> {
    let config = Config {
        key: NodeKey([1; 32]),
        serve: true,
        port: 7873,
        listen: "127.0.0.1:7873".to_string(),
        ipv4: true,
        ipv6: false,
    };
    Node::new(now, config, MemoryStore::new(1 << 20), Rng::new([2; 32]))
}

/// All that the node wants done.
fn outputs(node: &mut Node<MemoryStore>) -> Vec<Output> {
    std::iter::from_fn(|| match node.poll_output() {
        Output::Timeout(_) => None,
        output => Some(output),
    })
    .collect()
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
fn commit_has_the_answers_that_waited_for_it_sent() {
    let now = Instant::EPOCH;
    let mut node = node(now);
    let conn = greeted(&mut node, now);
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    let block = Block::new(kind, vec![1; 100]).expect("a block");
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
