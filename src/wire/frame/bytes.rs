//! The bytes of frames: what [`Frame::encode`] writes and the decoder reads.

use super::*;
use crate::limits::{BLOCK_SIZE_MAX, OFFER_MAX, TEXT_MAX};
use crate::wire::codec::Reader;
use crate::wire::contact::{address_bytes, is_usable, read_address};
use crate::wire::PROTOCOL_VERSION;

/// What a greeting begins with, so that another protocol is noticed at once.
const MAGIC: &[u8; 5] = b"strew";

/// A greeting has at most this many bytes, in every version.
pub(super) const HELLO_MAX: usize = 256;

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
pub(super) const PUT_HEAD_LEN: usize = 4 + 1 + 32 + 1 + 4 + 1;

/// Bytes of an offered block.
const OFFERED_LEN: usize = 32 + 4;

/// Bytes of a counted block.
const COUNTED_LEN: usize = 32 + 3;

pub(super) const HELLO: u8 = 1;
pub(super) const BYE: u8 = 2;
pub(super) const OFFER: u8 = 3;
pub(super) const WANT: u8 = 4;
pub(super) const PUT: u8 = 5;
pub(super) const STORED: u8 = 6;
pub(super) const REFUSED: u8 = 7;
pub(super) const GET: u8 = 8;
pub(super) const BLOCK: u8 = 9;
pub(super) const ABSENT: u8 = 10;
pub(super) const DIALED: u8 = 11;
pub(super) const PASSED: u8 = 12;
pub(super) const SHARE: u8 = 32;
pub(super) const ADD: u8 = 33;
pub(super) const ADDED: u8 = 34;
pub(super) const SETTLE: u8 = 35;
pub(super) const SETTLED: u8 = 36;
pub(super) const PROGRESS: u8 = 37;
pub(super) const FETCH: u8 = 38;
pub(super) const MISSING: u8 = 39;
pub(super) const STATUS: u8 = 40;
pub(super) const TEXT: u8 = 41;
pub(super) const PEER: u8 = 42;
pub(super) const YIELD: u8 = 43;
pub(super) const FAILED: u8 = 44;
pub(super) const VERIFY: u8 = 45;
pub(super) const DAMAGED: u8 = 46;
pub(super) const VERIFYING: u8 = 47;
pub(super) const PIN: u8 = 48;
pub(super) const PINNING: u8 = 49;
pub(super) const PINNED: u8 = 50;
pub(super) const UNPIN: u8 = 51;
pub(super) const UNPINNED: u8 = 52;
pub(super) const PINS: u8 = 53;
pub(super) const COUNT: u8 = 54;
pub(super) const COUNTED: u8 = 55;
pub(super) const AWAITING: u8 = 56;

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
            Frame::Progress {
                placed,
                holders,
                least,
            } => {
                out.push(PROGRESS);
                out.extend_from_slice(&placed.to_be_bytes());
                out.extend_from_slice(&holders.to_be_bytes());
                out.push(*least);
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
                out.extend_from_slice(&address_bytes(addr));
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
                least: reader.u8()?,
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
                let addr = read_address(&mut reader)?;
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
