//! What waits to be written to a stream: small frames as bytes, blocks by reference.
//!
//! A queued block costs the same for one byte as for 256 KiB: it waits as its id (in the store) or as a shared
//! handle (not in the store), and its bytes are looked up when the socket is ready.

use crate::block::Block;
use crate::id::BlockId;
use crate::store::Store;
use crate::wire::frame::{payload_head, Frame, PayloadFrame, PayloadHead};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

/// Where the payload of a queued block is.
#[derive(Clone)]
pub enum Source {
    /// In the store, which has checked it.
    Store,
    /// In memory.
    Memory(Rc<Block>),
}

enum Segment {
    Bytes(Vec<u8>),
    Block {
        head: PayloadHead,
        id: BlockId,
        len: usize,
        source: Source,
    },
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Block { head, len, .. } => head.bytes().len() + len,
        }
    }
}

/// Small frames are gathered in one segment up to this many bytes: fewer slices for the system call.
const GATHER: usize = 4096;

/// A stream's queue of outgoing frames.
#[derive(Default)]
pub struct Egress {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been written.
    written: usize,
    /// Bytes queued and not written.
    waiting: usize,
    /// Bytes queued in small frames.
    small: usize,
    /// Blocks queued.
    blocks: usize,
}

impl Egress {
    /// Queues a frame by its bytes.
    pub fn push(&mut self, frame: &Frame) {
        let small = self.small;
        match self.segments.back_mut() {
            Some(Segment::Bytes(bytes)) if bytes.len() < GATHER => {
                let len = bytes.len();
                frame.encode(bytes);
                self.small += bytes.len() - len;
            }
            _ => {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                self.small += bytes.len();
                self.segments.push_back(Segment::Bytes(bytes));
            }
        }
        self.waiting += self.small - small;
    }

    /// Queues a block of `len` bytes by reference.
    pub fn push_block(&mut self, frame: PayloadFrame, block: BlockHead, source: Source) {
        let head = payload_head(frame, &block.id, block.kind, block.len);
        self.segments.push_back(Segment::Block {
            head,
            id: block.id,
            len: block.len,
            source,
        });
        self.blocks += 1;
        self.waiting += head.bytes().len() + block.len;
    }

    /// Queues all that waits in another queue, of which nothing has been written.
    pub fn append(&mut self, other: &mut Egress) {
        assert!(
            other.written == 0,
            "nothing was written from the other queue"
        );
        self.segments.append(&mut other.segments);
        self.waiting += std::mem::take(&mut other.waiting);
        self.small += std::mem::take(&mut other.small);
        self.blocks += std::mem::take(&mut other.blocks);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.waiting
    }

    /// Blocks that wait, the one being written included.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Addresses of the blocks that wait and are in the store.
    pub fn stored(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Block {
                id,
                source: Source::Store,
                ..
            } => Some(*id),
            _ => None,
        })
    }

    /// Bytes of small frames that wait.
    pub fn small_bytes(&self) -> usize {
        self.small
    }

    /// Fills `slices` with what is to be written next and returns how many it used. None for a queue that is
    /// not empty means that the store has lost the block that comes next: the stream cannot go on.
    pub fn slices<'a>(&'a self, store: &'a dyn Store, slices: &mut [IoSlice<'a>]) -> Option<usize> {
        let mut used = 0;
        let mut skip = self.written;
        for segment in &self.segments {
            // A block takes two slices.
            if used + 2 > slices.len() {
                break;
            }
            let parts: [&[u8]; 2] = match segment {
                Segment::Bytes(bytes) => [bytes, &[]],
                Segment::Block {
                    head, id, source, ..
                } => match source {
                    Source::Memory(block) => [head.bytes(), block.payload()],
                    Source::Store => match store.payload(id) {
                        Some(payload) => [head.bytes(), payload],
                        None if used == 0 => return None,
                        None => break,
                    },
                },
            };
            for part in parts {
                let skipped = skip.min(part.len());
                skip -= skipped;
                let part = &part[skipped..];
                if !part.is_empty() {
                    slices[used] = IoSlice::new(part);
                    used += 1;
                }
            }
        }
        Some(used)
    }

    /// Forgets the first `sent` bytes, which have been written.
    pub fn consume(&mut self, sent: usize) {
        self.written += sent;
        self.waiting -= sent;
        while let Some(first) = self.segments.front() {
            let len = first.len();
            if self.written < len {
                break;
            }
            self.written -= len;
            match first {
                Segment::Bytes(_) => self.small -= len,
                Segment::Block { .. } => self.blocks -= 1,
            }
            self.segments.pop_front();
        }
        assert!(
            self.written == 0 || !self.segments.is_empty(),
            "no more is written than was queued"
        );
    }
}

/// What is known of a block that is queued.
#[derive(Clone, Copy)]
pub struct BlockHead {
    /// Its address.
    pub id: BlockId,
    /// Its kind.
    pub kind: crate::block::Kind,
    /// Bytes of its payload.
    pub len: usize,
}

impl From<&Block> for BlockHead {
    fn from(block: &Block) -> BlockHead {
        BlockHead {
            id: block.id(),
            kind: block.kind(),
            len: block.payload().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Form, Kind, Role};
    use crate::store::MemoryStore;

    #[test]
    fn what_is_written_in_any_portions_is_the_queue() {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        let stored = Block::new(kind, vec![1; 5000]).expect("a block");
        let held = Rc::new(Block::new(kind, vec![2; 300]).expect("a block"));
        let mut store = MemoryStore::new(1 << 20);
        store
            .put(&stored, crate::store::Terms::default())
            .expect("room");
        let mut expected = Vec::new();
        for frame in [
            Frame::Get(stored.id()),
            Frame::Put {
                id: stored.id(),
                kind,
                lifetime: 9,
                copies: 3,
                payload: stored.payload().to_vec(),
            },
            Frame::Block {
                id: held.id(),
                kind,
                payload: held.payload().to_vec(),
            },
            Frame::Settle,
            Frame::Status,
        ] {
            frame.encode(&mut expected);
        }
        for portion in [1, 3, 42, 43, 44, 1000, 100_000] {
            let mut egress = Egress::default();
            egress.push(&Frame::Get(stored.id()));
            egress.push_block(
                PayloadFrame::Put {
                    lifetime: 9,
                    copies: 3,
                },
                (&stored).into(),
                Source::Store,
            );
            egress.push_block(
                PayloadFrame::Block,
                (&*held).into(),
                Source::Memory(held.clone()),
            );
            egress.push(&Frame::Settle);
            egress.push(&Frame::Status);
            let mut written = Vec::new();
            assert_eq!(egress.bytes(), expected.len());
            while !egress.is_empty() {
                let mut slices = [IoSlice::new(&[]); 4];
                let used = egress
                    .slices(&store, &mut slices)
                    .expect("the store has it");
                let bytes: Vec<u8> = slices[..used]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                let sent = bytes.len().min(portion);
                written.extend_from_slice(&bytes[..sent]);
                egress.consume(sent);
                assert_eq!(egress.bytes(), expected.len() - written.len());
            }
            assert_eq!(written, expected, "in portions of {portion}");
            assert_eq!((egress.blocks(), egress.small_bytes()), (0, 0));
        }
    }

    #[test]
    fn a_block_that_is_gone_stops_the_stream_at_its_head() {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        let block = Block::new(kind, vec![1; 9]).expect("a block");
        let store = MemoryStore::new(1 << 20);
        let mut egress = Egress::default();
        egress.push(&Frame::Settle);
        egress.push_block(
            PayloadFrame::Put {
                lifetime: 9,
                copies: 3,
            },
            (&block).into(),
            Source::Store,
        );
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(
            egress.slices(&store, &mut slices),
            Some(1),
            "what comes before is written"
        );
        egress.consume(5);
        assert_eq!(egress.slices(&store, &mut [IoSlice::new(&[]); 4]), None);
    }
}
