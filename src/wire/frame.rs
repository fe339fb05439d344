//! Frames: what two peers, or a client and its peer, say to each other over a stream.
//!
//! A frame is a 4-byte length (of what follows it), a kind byte and a body. [`FrameDecoder`] takes any cut of
//! the stream and gives whole frames; [`Frame::encode`] is its inverse, and [`payload_head`] writes all of a
//! payload frame but the payload, which goes from the map to the socket.

mod bytes;
mod decoder;

pub use bytes::{payload_head, PayloadFrame, PayloadHead};
pub use decoder::FrameDecoder;

use super::codec::Malformed;
use crate::block::Kind;
use crate::id::{BlockId, NodeKey};
use std::net::SocketAddr;

/// The first frame each side sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The sender's key; zero from a client, which has none.
    pub key: NodeKey,
    /// Where the sender listens, UDP and TCP; zero from a client.
    pub port: u16,
    /// What the sender is.
    pub role: PeerRole,
}

/// What somebody at the other end of a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerRole {
    /// A peer that others can reach.
    Peer = 0,
    /// A `serve` in client-mode: not known to be reachable, given no blocks.
    Unreachable = 1,
    /// A private peer: ends with its last client.
    Private = 2,
    /// A client, on the control socket.
    Client = 3,
}

/// Why a connection is closed, said before it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByeReason {
    /// Nothing more is wanted.
    Done = 0,
    /// Too many connections.
    Busy = 1,
    /// The other version is not spoken here.
    Version = 2,
    /// The other side broke the protocol, or sent a wrong block.
    Protocol = 3,
    /// The sender of this is shutting down.
    Shutdown = 4,
}

/// A block that could be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offered {
    /// Its address.
    pub id: BlockId,
    /// What is left of its lifetime, in seconds.
    pub lifetime: u32,
}

/// Answer to one address of an OFFER, and reason of a REFUSED.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Answer {
    /// The block is here, durably.
    Have = 0,
    /// Send it.
    Want = 1,
    /// No room for it.
    Full = 2,
    /// This peer takes no blocks: it is in client-mode or ends with its client.
    NotServing = 3,
    /// The store cannot write.
    Failed = 4,
    /// This peer knows as many live peers as make a neighbourhood that are closer to the block.
    TooFar = 5,
    /// The network that the sender is in has filled its share of the allotment for now.
    Quota = 6,
}

/// Why a block that a client asked for is not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MissingReason {
    /// The closest live peers have all said that they do not have it.
    Absent = 0,
    /// No peer could be asked.
    NoPeer = 1,
    /// Some said they had it, and none gave it.
    NotGiven = 2,
}

/// What becomes of the own copies of what is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    /// They may go as those of others may, once there are as many copies as are wanted.
    Ordinary = 0,
    /// They stay until the file is pinned.
    Pinned = 1,
    /// They are dropped once there are as many copies as are insisted on, as far as they were not here before.
    Dropped = 2,
}

/// What a client wants of a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Copies of each leaf to aim at; of nodes and roots twice as many.
    pub copies: u8,
    /// Copies of each block that are insisted on.
    pub min_copies: u8,
    /// What becomes of the own copies.
    pub own: Own,
    /// How long blocks are to be kept, in seconds.
    pub lifetime: u32,
}

/// What a share has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// Blocks that were added, one address counted as often as it was.
    pub blocks: u64,
    /// Copies of the least-held block on other peers.
    pub least: u8,
    /// Different peers that hold any of them.
    pub holders: u32,
    /// Whether any other peer answered at all.
    pub reached: bool,
    /// For which reason peers have refused blocks most often; `None` if none has.
    pub refusal: Option<Answer>,
}

/// How many copies of a block there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Its address.
    pub id: BlockId,
    /// Peers of its neighbourhood, and providers of its file, that say they have it; at most `answered`.
    pub copies: u8,
    /// Peers of its neighbourhood that were asked and have answered, and those providers.
    pub answered: u8,
    /// Whether the peer that counts has it, too.
    pub own: bool,
}

/// How far a verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verifying {
    /// Where in the pack it is, in bytes.
    pub at: u64,
    /// Where the pack ends.
    pub end: u64,
    /// Blocks that were sound.
    pub blocks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Places that were damaged.
    pub damaged: u64,
    /// Whether nothing is left.
    pub is_done: bool,
}

/// One message on a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The frames are specified in strew-protocol(7); the fields are named as there.
pub enum Frame {
    /// The greeting.
    Hello(Hello),
    /// A greeting in a version that is not spoken here.
    OtherVersion(u8),
    /// The last frame of its sender.
    Bye { reason: ByeReason, text: String },
    /// Blocks that could be sent.
    Offer(Vec<Offered>),
    /// The answers to the oldest OFFER not yet answered.
    Want(Vec<Answer>),
    /// A block to be stored, what is left of its lifetime, in seconds, and how many copies of it the recipient is to
    /// see to; 0: none.
    Put {
        id: BlockId,
        kind: Kind,
        lifetime: u32,
        copies: u8,
        payload: Vec<u8>,
    },
    /// The block is stored, durably, for so many seconds.
    Stored { id: BlockId, lifetime: u32 },
    /// The block is not stored.
    Refused { id: BlockId, answer: Answer },
    /// Asks for a block.
    Get(BlockId),
    /// A block that was asked for.
    Block {
        id: BlockId,
        kind: Kind,
        payload: Vec<u8>,
    },
    /// A block that was asked for is not here.
    Absent(BlockId),
    /// The nonce of a DIAL_BACK.
    Dialed(u64),
    /// The sender has passed a block on as far as it can.
    Passed(BlockId),

    // From here on only between a client and its peer.
    /// Begins a share: what follows is placed.
    Share(Wanted),
    /// A block of the share.
    Add { kind: Kind, payload: Vec<u8> },
    /// The address of the oldest ADD not yet answered; it is written, but not yet durable.
    Added(BlockId),
    /// Nothing more is added: answer when all is durable here and placed.
    Settle,
    /// The answer to SETTLE.
    Settled(Settled),
    /// How far placing is: blocks that are done with, peers that hold any, and the fewest copies of one of them.
    Progress {
        placed: u64,
        holders: u32,
        least: u8,
    },
    /// Asks for a block from wherever it is.
    Fetch(BlockId),
    /// What blocks asked for by FETCH are waited for: so many peers that have been asked for some, so many blocks of
    /// which no holder is known yet.
    Awaiting { peers: u32, unfound: u32 },
    /// The block is nowhere to be had; how many peers answered.
    Missing {
        id: BlockId,
        reason: MissingReason,
        asked: u32,
    },
    /// Asks for a page on the peer's state.
    Status,
    /// A page for the user.
    Text(String),
    /// Asks for all blocks that leave `part` when their address is divided by `of` to be read again.
    Verify { part: u32, of: u32 },
    /// A place of the pack that is damaged, and the block that was there, if that can be told.
    Damaged {
        offset: u64,
        len: u64,
        id: Option<BlockId>,
    },
    /// How far that is; the last one says that it is done.
    Verifying(Verifying),
    /// Asks for a file to be pinned, by its root.
    Pin(BlockId),
    /// How far that is: so many bytes of it are here.
    Pinning { bytes: u64, len: u64 },
    /// A file that is pinned, and how many of its blocks are missing.
    Pinned {
        root: BlockId,
        len: u64,
        missing: u64,
    },
    /// Asks for a file not to be pinned any more.
    Unpin(BlockId),
    /// Whether it was.
    Unpinned(bool),
    /// Asks for a list of all pins; and, from the peer, its end.
    Pins,
    /// Asks how many copies of blocks the network has.
    Count {
        /// The root of the file that they belong to.
        root: BlockId,
        /// Which.
        blocks: Vec<BlockId>,
    },
    /// Some of the answers, in any order.
    Counted(Vec<Counted>),
    /// An address to bootstrap from.
    Peer(SocketAddr),
    /// From a `serve` that wants the directory: take no new clients.
    Yield,
    /// What was asked cannot be done: exit status and message for the user.
    Failed { status: u8, text: String },
}

#[cfg(test)]
mod tests;
