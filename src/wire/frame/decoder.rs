//! From a stream to frames.

use super::bytes::{ADD, BLOCK, HELLO, HELLO_MAX, PUT, SHARE};
use super::*;
use crate::limits::{BLOCK_SIZE_MAX, COPIES_MAX, FRAME_FIELDS_MAX};
use crate::wire::codec::Reader;

/// Bytes of fields before the payload, for the kinds that carry one.
fn payload_fields(kind: u8) -> Option<usize> {
    match kind {
        PUT => Some(38),
        BLOCK => Some(33),
        ADD => Some(1),
        _ => None,
    }
}

/// Cuts a stream into frames. Holds one frame at most: its fields, bounded by `FRAME_FIELDS_MAX`, and its
/// payload, bounded by `BLOCK_SIZE_MAX`.
pub struct FrameDecoder {
    /// Whether frames that only a client and its peer exchange are accepted.
    local: bool,
    /// Nothing but a greeting is accepted, and that is short, until one has come.
    greeted: bool,
    /// The head (length and kind) and fields read so far.
    fields: Vec<u8>,
    /// The payload read so far, in a buffer of the right size once its length is known.
    payload: Vec<u8>,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new(local: bool) -> FrameDecoder {
        FrameDecoder {
            local,
            greeted: false,
            fields: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Whether the stream stands between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether the stream stands within a BLOCK.
    pub fn is_in_block(&self) -> bool {
        self.fields.get(4) == Some(&BLOCK)
    }

    /// Takes bytes off the front of `input`, up to the end of a frame, and returns that frame if it is whole.
    /// After an error the stream cannot be read further.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Malformed> {
        if !fill(&mut self.fields, 5, input) {
            return Ok(None);
        }
        let len = u32::from_be_bytes([
            self.fields[0],
            self.fields[1],
            self.fields[2],
            self.fields[3],
        ]);
        let kind = self.fields[4];
        let body = self.body_len(len, kind)?;
        let fields = payload_fields(kind).unwrap_or(body);
        if !fill(&mut self.fields, 5 + fields, input) {
            return Ok(None);
        }
        if self.payload.capacity() == 0 {
            self.payload.reserve_exact(body - fields);
        }
        if !fill(&mut self.payload, body - fields, input) {
            return Ok(None);
        }
        let payload = std::mem::take(&mut self.payload);
        let mut reader = Reader::new(&self.fields[5..]);
        let frame = match kind {
            PUT | BLOCK => {
                let id = BlockId(reader.array()?);
                let block_kind = block_kind(&mut reader)?;
                match kind {
                    PUT => Frame::Put {
                        id,
                        kind: block_kind,
                        lifetime: reader.u32()?,
                        copies: copies(&mut reader)?,
                        payload,
                    },
                    _ => Frame::Block {
                        id,
                        kind: block_kind,
                        payload,
                    },
                }
            }
            ADD => Frame::Add {
                kind: block_kind(&mut reader)?,
                payload,
            },
            _ => Frame::decode(kind, &self.fields[5..])?,
        };
        self.fields.clear();
        self.greeted = true;
        Ok(Some(frame))
    }

    /// The length of the body of a frame of this kind, if one so long may come here and now.
    fn body_len(&self, len: u32, kind: u8) -> Result<usize, Malformed> {
        let body = (len as usize)
            .checked_sub(1)
            .ok_or(Malformed::Value("frame length"))?;
        if (kind == HELLO) == self.greeted {
            return Err(Malformed::Value("order of frames"));
        }
        if kind >= SHARE && !self.local {
            return Err(Malformed::Value("frame kind"));
        }
        let possible = match payload_fields(kind) {
            Some(fields) => fields + 1..=fields + BLOCK_SIZE_MAX,
            None if kind == HELLO => 0..=HELLO_MAX,
            None => 0..=FRAME_FIELDS_MAX,
        };
        if possible.contains(&body) {
            Ok(body)
        } else {
            Err(Malformed::Value("frame length"))
        }
    }
}

/// As many copies as make a neighbourhood, at most.
fn copies(reader: &mut Reader<'_>) -> Result<u8, Malformed> {
    match reader.u8()? {
        copies @ 0..=COPIES_MAX => Ok(copies),
        _ => Err(Malformed::Value("number of copies")),
    }
}

fn block_kind(reader: &mut Reader<'_>) -> Result<Kind, Malformed> {
    Kind::from_byte(reader.u8()?).ok_or(Malformed::Value("kind of block"))
}

/// Moves bytes from `input` to `buffer` until that has `len`; whether it has.
fn fill(buffer: &mut Vec<u8>, len: usize, input: &mut &[u8]) -> bool {
    let missing = len.saturating_sub(buffer.len()).min(input.len());
    let (head, rest) = input.split_at(missing);
    buffer.extend_from_slice(head);
    *input = rest;
    buffer.len() >= len
}
