//! A peer that a test plays itself: what it says, frame by frame, and what it is answered.

use crate::network::secs;
use crate::streams::{Owner, StreamId};
use crate::world::{PeerId, World};
use std::net::{IpAddr, SocketAddr};
use strew::block::Block;
use strew::id::{BlockId, NodeKey};
use strew::transfer::Origin;
use strew::wire::frame::{Answer, Frame, Hello, Offered, PeerRole};

/// A connection of a stranger to a peer.
#[derive(Clone, Copy)]
pub struct Stranger {
    stream: StreamId,
}

impl World {
    /// Connects to a peer from this address, and greets it.
    pub fn stranger(&mut self, peer: PeerId, from: IpAddr) -> Stranger {
        let to = self.peers[peer].born.addr;
        let stream = self.new_stream([Owner::Stranger, Owner::Nobody], to, true);
        self.accept(peer, stream, Origin::Remote(SocketAddr::new(from, 7873)));
        let hello = Hello {
            key: NodeKey(self.rng.bytes()),
            port: 7873,
            role: PeerRole::Private,
        };
        let stranger = Stranger { stream };
        self.say_frame(stranger, &Frame::Hello(hello));
        assert!(matches!(self.hear(stranger), Frame::Hello(_)));
        stranger
    }

    fn say_frame(&mut self, stranger: Stranger, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.say(stranger.stream, 0, &bytes);
    }

    /// Bytes for a stranger.
    pub fn stranger_reads(&mut self, stream: StreamId, end: usize, mut bytes: &[u8]) {
        while let Some(both) = self.streams.get_mut(&stream) {
            let frame = both.ends[end].decoder.take(&mut bytes);
            match frame.expect("a node sends no nonsense") {
                Some(frame) => self.heard.push_back((stream, frame)),
                None => return,
            }
        }
    }

    /// The next frame that a stranger is sent.
    fn hear(&mut self, stranger: Stranger) -> Frame {
        let is_ours = |heard: &(StreamId, Frame)| heard.0 == stranger.stream;
        let came = self.run_until(secs(10), |world| world.heard.iter().any(is_ours));
        assert!(came, "nothing was answered");
        let at = self.heard.iter().position(is_ours).expect("just seen");
        self.heard.remove(at).expect("just seen").1
    }

    /// Offers a block for so many seconds.
    pub fn offer(&mut self, stranger: Stranger, id: BlockId, lifetime: u32) -> Answer {
        let offer = Frame::Offer(vec![Offered { id, lifetime }]);
        self.say_frame(stranger, &offer);
        match self.hear(stranger) {
            Frame::Want(answers) => answers[0],
            other => panic!("{other:?}"),
        }
    }

    /// Sends a block for so many seconds; for how many it is stored, or why it is not.
    pub fn put(&mut self, stranger: Stranger, block: &Block, lifetime: u32) -> Result<u32, Answer> {
        self.put_to_pass(stranger, block, lifetime, 0)
    }

    /// The same, to be passed on until there are so many copies.
    pub fn put_to_pass(
        &mut self,
        stranger: Stranger,
        block: &Block,
        lifetime: u32,
        copies: u8,
    ) -> Result<u32, Answer> {
        let put = Frame::Put {
            id: block.id(),
            kind: block.kind(),
            lifetime,
            copies,
            payload: block.payload().to_vec(),
        };
        self.say_frame(stranger, &put);
        match self.hear(stranger) {
            Frame::Stored { lifetime, .. } => Ok(lifetime),
            Frame::Refused { answer, .. } => Err(answer),
            other => panic!("{other:?}"),
        }
    }

    /// Whether a block is given that is asked for.
    pub fn is_given(&mut self, stranger: Stranger, block: &Block) -> bool {
        self.say_frame(stranger, &Frame::Get(block.id()));
        match self.hear(stranger) {
            Frame::Block { payload, .. } => payload == block.payload(),
            Frame::Absent(_) => false,
            other => panic!("{other:?}"),
        }
    }
}
