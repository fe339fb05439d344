//! A client that breaks the protocol loses its connection, and nobody else loses anything. The node is driven
//! without sockets, through its public face.

use std::io::IoSlice;
use strew::block::Kind;
use strew::id::{BlockId, NodeKey};
use strew::limits::WANTS_PER_CLIENT;
use strew::node::{Config, Input, Node, Output};
use strew::rng::Rng;
use strew::store::MemoryStore;
use strew::time::Instant;
use strew::transfer::{ConnId, Origin};
use strew::wire::frame::{ByeReason, Frame, FrameDecoder, Hello, Own, PeerRole, Wanted};

/// A private peer with one client, and the time.
struct World {
    node: Node<MemoryStore>,
    now: Instant,
    client: ConnId,
    decoder: FrameDecoder,
    closed: bool,
}

impl World {
    /// The client has greeted.
    fn new() -> World {
        let config = Config {
            key: NodeKey([1; 32]),
            serve: false,
            port: 7873,
            listen: "127.0.0.1:7873".to_string(),
            ipv4: true,
            ipv6: false,
        };
        let now = Instant::EPOCH;
        let mut node = Node::new(now, config, MemoryStore::new(1 << 20), Rng::new([1; 32]));
        let client = node.accept(now, Origin::Local);
        let mut world = World {
            node,
            now,
            client,
            decoder: FrameDecoder::new(true),
            closed: false,
        };
        let hello = world.send(&[Frame::Hello(Hello {
            key: NodeKey([0; 32]),
            port: 0,
            role: PeerRole::Client,
        })]);
        assert!(matches!(hello[..], [Frame::Hello(_)]), "{hello:?}");
        world
    }

    /// Sends frames; gives what comes back at once.
    fn send(&mut self, frames: &[Frame]) -> Vec<Frame> {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        let input = Input::Received {
            conn: self.client,
            bytes: &bytes,
        };
        self.node.handle_input(self.now, input);
        self.run().0
    }

    /// Takes all outputs; gives the frames to the client and the next deadline.
    fn run(&mut self) -> (Vec<Frame>, Option<Instant>) {
        let mut frames = Vec::new();
        loop {
            match self.node.poll_output() {
                Output::Flush { conn } if conn == self.client => {
                    frames.extend(self.receive());
                }
                Output::Close { conn } if conn == self.client => self.closed = true,
                Output::Timeout(deadline) => return (frames, deadline),
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = self.node.egress(self.client, &mut slices);
            let bytes: Vec<u8> = slices[..used.expect("nothing is lost")]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            if bytes.is_empty() {
                return frames;
            }
            self.node.consume(self.now, self.client, bytes.len());
            let mut rest = &bytes[..];
            while let Some(frame) = self.decoder.take(&mut rest).expect("well-formed") {
                frames.push(frame);
            }
        }
    }

    /// Jumps from deadline to deadline until half a minute has passed.
    fn wait(&mut self) -> Vec<Frame> {
        let end = self.now + std::time::Duration::from_secs(30);
        let mut frames = Vec::new();
        loop {
            let (more, deadline) = self.run();
            frames.extend(more);
            match deadline {
                Some(at) if at < end => self.now = self.now.max(at),
                _ => return frames,
            }
            self.node.handle_input(self.now, Input::Timeout);
        }
    }
}

const SHARE: Frame = Frame::Share(Wanted {
    copies: 8,
    min_copies: 0,
    own: Own::Ordinary,
    lifetime: 3600,
});

fn add() -> Frame {
    Frame::Add {
        kind: Kind::from_byte(1).expect("plain leaves have a kind"),
        payload: b"a leaf".to_vec(),
    }
}

fn is_breach(frame: Option<&Frame>) -> bool {
    let reason = ByeReason::Protocol;
    matches!(frame, Some(Frame::Bye { reason: found, .. }) if *found == reason)
}

#[test]
fn share_settles() {
    let mut world = World::new();
    let mut frames = world.send(&[SHARE, add(), Frame::Settle]);
    frames.extend(world.wait());
    assert!(
        matches!(frames.last(), Some(Frame::Settled(settled)) if settled.blocks == 1),
        "{frames:?}"
    );
    frames = world.send(&[SHARE, Frame::Settle]);
    frames.extend(world.wait());
    assert!(
        matches!(frames.last(), Some(Frame::Settled(settled)) if settled.blocks == 0),
        "{frames:?}"
    );
    assert!(!world.closed);
}

#[test]
fn share_within_a_share_is_a_breach() {
    let mut world = World::new();
    let frames = world.send(&[SHARE, add(), SHARE]);
    assert!(is_breach(frames.last()), "{frames:?}");
    // What the first share has begun comes to its end without it.
    assert_eq!(world.wait(), []);
    assert!(world.closed);
}

#[test]
fn settling_or_adding_outside_of_a_share_is_a_breach() {
    for frame in [Frame::Settle, add()] {
        let mut world = World::new();
        let frames = world.send(std::slice::from_ref(&frame));
        assert!(is_breach(frames.last()), "{frame:?}: {frames:?}");
        assert!(world.closed);
    }
}

#[test]
fn asking_for_one_block_without_end_is_a_breach() {
    let mut world = World::new();
    // Lookups wait for the answer of this peer, which does not come.
    let peer = "127.0.0.1:7874".parse().expect("an address");
    world.send(&[Frame::Peer(peer)]);
    let fetch = Frame::Fetch(BlockId([5; 32]));
    let frames = world.send(&vec![fetch.clone(); WANTS_PER_CLIENT]);
    assert!(frames.is_empty(), "all of them wait");
    let frames = world.send(&[fetch]);
    assert!(is_breach(frames.last()), "{:?}", frames.last());
    assert!(world.closed);
}
