//! Frames: what two peers, or a client and its peer, say to each other over a stream.
//!
//! A frame is a 4-byte length (of what follows it), a kind byte and a body. [`FrameDecoder`] takes any cut of
//! the stream and gives whole frames; [`Frame::encode`] is its inverse, and [`payload_head`] writes all of a
//! payload frame but the payload, which goes from the map to the socket.

use super::codec::{Malformed, Reader};
mod decoder;

pub use decoder::FrameDecoder;

use super::contact::is_usable;
use super::PROTOCOL_VERSION;
use crate::block::Kind;
use crate::id::{BlockId, NodeKey};
use crate::limits::{BLOCK_SIZE_MAX, COPIES_MAX, FRAME_FIELDS_MAX, OFFER_MAX, TEXT_MAX};
use std::net::{IpAddr, SocketAddr};

/// What a greeting begins with, so that another protocol is noticed at once.
const MAGIC: &[u8; 5] = b"strew";

/// A greeting has at most this many bytes, in every version.
const HELLO_MAX: usize = 256;

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
    /// How far placing is: blocks that are done with, peers that hold any.
    Progress { placed: u64, holders: u32 },
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

/// Frames with a payload, whose bytes follow the fields to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadFrame {
    /// [`Frame::Put`].
    Put {
        /// What is left of the block's lifetime, in seconds.
        lifetime: u32,
        /// How many copies the recipient is to see to; 0: none.
        copies: u8,
    },
    /// [`Frame::Block`].
    Block,
}

/// Bytes of a payload frame before its payload: length, kind, address, kind of block, and of a PUT lifetime and copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadHead {
    bytes: [u8; PUT_HEAD_LEN],
    len: usize,
}

impl PayloadHead {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Bytes of a PUT before its payload.
const PUT_HEAD_LEN: usize = 4 + 1 + 32 + 1 + 4 + 1;

/// Bytes of an offered block.
const OFFERED_LEN: usize = 32 + 4;

/// Bytes of a counted block.
const COUNTED_LEN: usize = 32 + 3;

const HELLO: u8 = 1;
const BYE: u8 = 2;
const OFFER: u8 = 3;
const WANT: u8 = 4;
const PUT: u8 = 5;
const STORED: u8 = 6;
const REFUSED: u8 = 7;
const GET: u8 = 8;
const BLOCK: u8 = 9;
const ABSENT: u8 = 10;
const DIALED: u8 = 11;
const PASSED: u8 = 12;
const SHARE: u8 = 32;
const ADD: u8 = 33;
const ADDED: u8 = 34;
const SETTLE: u8 = 35;
const SETTLED: u8 = 36;
const PROGRESS: u8 = 37;
const FETCH: u8 = 38;
const MISSING: u8 = 39;
const STATUS: u8 = 40;
const TEXT: u8 = 41;
const PEER: u8 = 42;
const YIELD: u8 = 43;
const FAILED: u8 = 44;
const VERIFY: u8 = 45;
const DAMAGED: u8 = 46;
const VERIFYING: u8 = 47;
const PIN: u8 = 48;
const PINNING: u8 = 49;
const PINNED: u8 = 50;
const UNPIN: u8 = 51;
const UNPINNED: u8 = 52;
const PINS: u8 = 53;
const COUNT: u8 = 54;
const COUNTED: u8 = 55;
const AWAITING: u8 = 56;

/// The head of a payload frame with `len` bytes of payload, at most [`BLOCK_SIZE_MAX`].
pub fn payload_head(frame: PayloadFrame, id: &BlockId, kind: Kind, len: usize) -> PayloadHead {
    assert!(len <= BLOCK_SIZE_MAX, "a block's payload");
    let (code, head_len) = match frame {
        PayloadFrame::Put { .. } => (PUT, PUT_HEAD_LEN),
        PayloadFrame::Block => (BLOCK, PUT_HEAD_LEN - 5),
    };
    let mut head = PayloadHead {
        bytes: [0; PUT_HEAD_LEN],
        len: head_len,
    };
    let rest = head.len - 4 + len;
    head.bytes[..4].copy_from_slice(&(rest as u32).to_be_bytes());
    head.bytes[4] = code;
    head.bytes[5..37].copy_from_slice(&id.0);
    head.bytes[37] = kind.to_byte();
    if let PayloadFrame::Put { lifetime, copies } = frame {
        head.bytes[38..42].copy_from_slice(&lifetime.to_be_bytes());
        head.bytes[42] = copies;
    }
    head
}

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            Frame::Hello(hello) => {
                out.push(HELLO);
                out.extend_from_slice(MAGIC);
                out.extend_from_slice(&[PROTOCOL_VERSION, hello.role as u8]);
                out.extend_from_slice(&hello.key.0);
                out.extend_from_slice(&hello.port.to_be_bytes());
            }
            Frame::OtherVersion(version) => {
                out.push(HELLO);
                out.extend_from_slice(MAGIC);
                out.push(*version);
            }
            Frame::Bye { reason, text } => {
                out.extend_from_slice(&[BYE, *reason as u8]);
                out.extend_from_slice(bounded(text).as_bytes());
            }
            Frame::Offer(ids) => {
                out.push(OFFER);
                for Offered { id, lifetime } in ids {
                    out.extend_from_slice(&id.0);
                    out.extend_from_slice(&lifetime.to_be_bytes());
                }
            }
            Frame::Want(answers) => {
                out.push(WANT);
                out.extend(answers.iter().map(|&answer| answer as u8));
            }
            Frame::Put {
                id,
                kind,
                lifetime,
                copies,
                payload,
            } => {
                put_id(out, PUT, id);
                out.push(kind.to_byte());
                out.extend_from_slice(&lifetime.to_be_bytes());
                out.push(*copies);
                out.extend_from_slice(payload);
            }
            Frame::Stored { id, lifetime } => {
                put_id(out, STORED, id);
                out.extend_from_slice(&lifetime.to_be_bytes());
            }
            Frame::Refused { id, answer } => {
                put_id(out, REFUSED, id);
                out.push(*answer as u8);
            }
            Frame::Get(id) => put_id(out, GET, id),
            Frame::Block { id, kind, payload } => {
                put_id(out, BLOCK, id);
                out.push(kind.to_byte());
                out.extend_from_slice(payload);
            }
            Frame::Absent(id) => put_id(out, ABSENT, id),
            Frame::Dialed(nonce) => {
                out.push(DIALED);
                out.extend_from_slice(&nonce.to_be_bytes());
            }
            Frame::Passed(id) => put_id(out, PASSED, id),
            Frame::Share(wanted) => {
                let Wanted {
                    copies,
                    min_copies,
                    own,
                    lifetime,
                } = wanted;
                out.extend_from_slice(&[SHARE, *copies, *min_copies, *own as u8]);
                out.extend_from_slice(&lifetime.to_be_bytes());
            }
            Frame::Add { kind, payload } => {
                out.extend_from_slice(&[ADD, kind.to_byte()]);
                out.extend_from_slice(payload);
            }
            Frame::Added(id) => put_id(out, ADDED, id),
            Frame::Settle => out.push(SETTLE),
            Frame::Settled(settled) => {
                out.push(SETTLED);
                out.extend_from_slice(&settled.blocks.to_be_bytes());
                out.push(settled.least);
                out.extend_from_slice(&settled.holders.to_be_bytes());
                out.push(u8::from(settled.reached));
                out.push(settled.refusal.map_or(0, |reason| reason as u8));
            }
            Frame::Progress { placed, holders } => {
                out.push(PROGRESS);
                out.extend_from_slice(&placed.to_be_bytes());
                out.extend_from_slice(&holders.to_be_bytes());
            }
            Frame::Fetch(id) => put_id(out, FETCH, id),
            Frame::Awaiting { peers, unfound } => {
                out.push(AWAITING);
                out.extend_from_slice(&peers.to_be_bytes());
                out.extend_from_slice(&unfound.to_be_bytes());
            }
            Frame::Missing { id, reason, asked } => {
                put_id(out, MISSING, id);
                out.push(*reason as u8);
                out.extend_from_slice(&asked.to_be_bytes());
            }
            Frame::Status => out.push(STATUS),
            Frame::Text(text) => {
                out.push(TEXT);
                out.extend_from_slice(bounded(text).as_bytes());
            }
            Frame::Peer(addr) => {
                out.push(PEER);
                let ip = match addr.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                out.extend_from_slice(&ip.octets());
                out.extend_from_slice(&addr.port().to_be_bytes());
            }
            Frame::Verify { part, of } => {
                out.push(VERIFY);
                out.extend_from_slice(&part.to_be_bytes());
                out.extend_from_slice(&of.to_be_bytes());
            }
            Frame::Damaged { offset, len, id } => {
                out.push(DAMAGED);
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                out.extend(id.iter().flat_map(|id| id.0));
            }
            Frame::Verifying(it) => {
                out.push(VERIFYING);
                for number in [it.at, it.end, it.blocks, it.bytes, it.damaged] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                out.push(u8::from(it.is_done));
            }
            Frame::Pin(root) => put_id(out, PIN, root),
            Frame::Pinning { bytes, len } => {
                out.push(PINNING);
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
            }
            Frame::Pinned { root, len, missing } => {
                put_id(out, PINNED, root);
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&missing.to_be_bytes());
            }
            Frame::Unpin(root) => put_id(out, UNPIN, root),
            Frame::Unpinned(was) => out.extend_from_slice(&[UNPINNED, u8::from(*was)]),
            Frame::Pins => out.push(PINS),
            Frame::Count { root, blocks } => {
                put_id(out, COUNT, root);
                out.extend(blocks.iter().flat_map(|id| id.0));
            }
            Frame::Counted(counted) => {
                out.push(COUNTED);
                for it in counted {
                    out.extend_from_slice(&it.id.0);
                    out.extend_from_slice(&[it.copies, it.answered, u8::from(it.own)]);
                }
            }
            Frame::Yield => out.push(YIELD),
            Frame::Failed { status, text } => {
                out.extend_from_slice(&[FAILED, *status]);
                out.extend_from_slice(bounded(text).as_bytes());
            }
        }
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Reads the body of a frame that has no payload.
    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Frame, Malformed> {
        let mut reader = Reader::new(body);
        let frame = match kind {
            HELLO => {
                if &reader.array::<5>()? != MAGIC {
                    return Err(Malformed::Value("greeting"));
                }
                let version = reader.u8()?;
                if version != PROTOCOL_VERSION {
                    // What follows is another version's business.
                    return Ok(Frame::OtherVersion(version));
                }
                let role = match reader.u8()? {
                    0 => PeerRole::Peer,
                    1 => PeerRole::Unreachable,
                    2 => PeerRole::Private,
                    3 => PeerRole::Client,
                    _ => return Err(Malformed::Value("role")),
                };
                Frame::Hello(Hello {
                    role,
                    key: NodeKey(reader.array()?),
                    port: reader.u16()?,
                })
            }
            BYE => {
                let reason = match reader.u8()? {
                    0 => ByeReason::Done,
                    1 => ByeReason::Busy,
                    2 => ByeReason::Version,
                    3 => ByeReason::Protocol,
                    4 => ByeReason::Shutdown,
                    _ => return Err(Malformed::Value("reason")),
                };
                Frame::Bye {
                    reason,
                    text: take_text(&mut reader)?,
                }
            }
            OFFER => {
                let offered = items(&mut reader, OFFERED_LEN)?.map(|offered| {
                    let mut reader = Reader::new(offered);
                    Ok(Offered {
                        id: BlockId(reader.array()?),
                        lifetime: reader.u32()?,
                    })
                });
                Frame::Offer(offered.collect::<Result<_, _>>()?)
            }
            WANT => {
                let bytes = reader.rest();
                if bytes.is_empty() || bytes.len() > OFFER_MAX {
                    return Err(Malformed::Value("number of answers"));
                }
                Frame::Want(
                    bytes
                        .iter()
                        .map(|&byte| answer(byte))
                        .collect::<Result<_, _>>()?,
                )
            }
            STORED => Frame::Stored {
                id: BlockId(reader.array()?),
                lifetime: reader.u32()?,
            },
            REFUSED => Frame::Refused {
                id: BlockId(reader.array()?),
                answer: answer(reader.u8()?)?,
            },
            GET => Frame::Get(BlockId(reader.array()?)),
            ABSENT => Frame::Absent(BlockId(reader.array()?)),
            DIALED => Frame::Dialed(reader.u64()?),
            PASSED => Frame::Passed(BlockId(reader.array()?)),
            SHARE => Frame::Share(Wanted {
                copies: reader.u8()?,
                min_copies: reader.u8()?,
                own: own(reader.u8()?)?,
                lifetime: reader.u32()?,
            }),
            ADDED => Frame::Added(BlockId(reader.array()?)),
            SETTLE => Frame::Settle,
            SETTLED => Frame::Settled(Settled {
                blocks: reader.u64()?,
                least: reader.u8()?,
                holders: reader.u32()?,
                reached: boolean(&mut reader)?,
                refusal: match reader.u8()? {
                    0 => None,
                    reason => Some(answer(reason)?),
                },
            }),
            PROGRESS => Frame::Progress {
                placed: reader.u64()?,
                holders: reader.u32()?,
            },
            FETCH => Frame::Fetch(BlockId(reader.array()?)),
            AWAITING => Frame::Awaiting {
                peers: reader.u32()?,
                unfound: reader.u32()?,
            },
            MISSING => Frame::Missing {
                id: BlockId(reader.array()?),
                reason: match reader.u8()? {
                    0 => MissingReason::Absent,
                    1 => MissingReason::NoPeer,
                    2 => MissingReason::NotGiven,
                    _ => return Err(Malformed::Value("reason")),
                },
                asked: reader.u32()?,
            },
            STATUS => Frame::Status,
            TEXT => Frame::Text(take_text(&mut reader)?),
            PEER => {
                let ip = IpAddr::from(reader.array::<16>()?).to_canonical();
                let addr = SocketAddr::new(ip, reader.u16()?);
                if !is_usable(&addr) {
                    return Err(Malformed::Value("address"));
                }
                Frame::Peer(addr)
            }
            VERIFY => {
                let (part, of) = (reader.u32()?, reader.u32()?);
                if part >= of {
                    return Err(Malformed::Value("part"));
                }
                Frame::Verify { part, of }
            }
            DAMAGED => Frame::Damaged {
                offset: reader.u64()?,
                len: reader.u64()?,
                id: match reader.is_empty() {
                    true => None,
                    false => Some(BlockId(reader.array()?)),
                },
            },
            VERIFYING => Frame::Verifying(Verifying {
                at: reader.u64()?,
                end: reader.u64()?,
                blocks: reader.u64()?,
                bytes: reader.u64()?,
                damaged: reader.u64()?,
                is_done: boolean(&mut reader)?,
            }),
            PIN => Frame::Pin(BlockId(reader.array()?)),
            PINNING => Frame::Pinning {
                bytes: reader.u64()?,
                len: reader.u64()?,
            },
            PINNED => Frame::Pinned {
                root: BlockId(reader.array()?),
                len: reader.u64()?,
                missing: reader.u64()?,
            },
            UNPIN => Frame::Unpin(BlockId(reader.array()?)),
            UNPINNED => Frame::Unpinned(boolean(&mut reader)?),
            PINS => Frame::Pins,
            COUNT => {
                let root = BlockId(reader.array()?);
                let ids = items(&mut reader, 32)?;
                let ids = ids.map(|id| Ok(BlockId(Reader::new(id).array()?)));
                let blocks = ids.collect::<Result<_, _>>()?;
                Frame::Count { root, blocks }
            }
            COUNTED => {
                let counted = items(&mut reader, COUNTED_LEN)?.map(counted);
                Frame::Counted(counted.collect::<Result<_, _>>()?)
            }
            YIELD => Frame::Yield,
            FAILED => Frame::Failed {
                status: reader.u8()?,
                text: take_text(&mut reader)?,
            },
            _ => return Err(Malformed::Value("frame kind")),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn put_id(out: &mut Vec<u8>, kind: u8, id: &BlockId) {
    out.push(kind);
    out.extend_from_slice(&id.0);
}

/// The items of a list, 1 to [`OFFER_MAX`] of them, of so many bytes each.
fn items<'a>(
    reader: &mut Reader<'a>,
    len: usize,
) -> Result<std::slice::ChunksExact<'a, u8>, Malformed> {
    let bytes = reader.rest();
    if bytes.is_empty() || !bytes.len().is_multiple_of(len) || bytes.len() / len > OFFER_MAX {
        return Err(Malformed::Value("number of addresses"));
    }
    Ok(bytes.chunks_exact(len))
}

fn counted(bytes: &[u8]) -> Result<Counted, Malformed> {
    let mut reader = Reader::new(bytes);
    let counted = Counted {
        id: BlockId(reader.array()?),
        copies: reader.u8()?,
        answered: reader.u8()?,
        own: boolean(&mut reader)?,
    };
    match counted.copies <= counted.answered {
        true => Ok(counted),
        false => Err(Malformed::Value("number of copies")),
    }
}

fn own(byte: u8) -> Result<Own, Malformed> {
    let all = [Own::Ordinary, Own::Pinned, Own::Dropped];
    let found = all.into_iter().find(|own| *own as u8 == byte);
    found.ok_or(Malformed::Value("own copy"))
}

fn boolean(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Value("boolean")),
    }
}

fn answer(byte: u8) -> Result<Answer, Malformed> {
    match byte {
        0 => Ok(Answer::Have),
        1 => Ok(Answer::Want),
        2 => Ok(Answer::Full),
        3 => Ok(Answer::NotServing),
        4 => Ok(Answer::Failed),
        5 => Ok(Answer::TooFar),
        6 => Ok(Answer::Quota),
        _ => Err(Malformed::Value("answer")),
    }
}

/// The text, cut to what a frame may carry.
fn bounded(text: &str) -> &str {
    let mut len = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    &text[..len]
}

fn take_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = reader.rest();
    if bytes.len() > TEXT_MAX {
        return Err(Malformed::Value("length of a text"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Value("text"))
}

#[cfg(test)]
mod tests;
