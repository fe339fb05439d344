//! Where blocks are kept. Two stores, both real: [`MemoryStore`] for simulations and tests, and the
//! [`pack::PackStore`] of a data directory.

mod memory;
pub mod pack;

pub use memory::MemoryStore;

use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::sys::plain;
use std::fmt;
use std::io;

/// Counts puts from 1. What is durable is said as the last number that is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Sequence(pub u64);

/// What a put did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The block was written; it is durable once a commit has reached this number.
    Written(Sequence),
    /// The store had it already; it is durable once a commit has reached this number.
    Had(Sequence),
}

impl Put {
    /// When the block is durable.
    pub fn sequence(&self) -> Sequence {
        match self {
            Put::Written(sequence) | Put::Had(sequence) => *sequence,
        }
    }
}

/// What a store holds, in blocks and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Blocks that can be read.
    pub blocks: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes of the allotment that are used, overheads included.
    pub used_bytes: u64,
    /// Bytes allotted.
    pub capacity_bytes: u64,
    /// Stretches of damage found and set aside.
    pub damaged: u64,
}

/// Why a store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// The allotment (bytes) has no room for the block; nothing was written.
    Full {
        /// Bytes allotted.
        capacity: u64,
    },
    /// The file system, or the user's share of it, has no room; nothing was acknowledged. The text says what was
    /// being done, to which file.
    DiskFull(String, io::Error),
    /// An earlier failure left the store read-only: what was not durable then never will be.
    ReadOnly,
    /// The system refused; the text says what was being done, to which file.
    Io(String, io::Error),
}

impl StoreError {
    /// The system's refusal of what the text says.
    pub fn io(what: String, error: io::Error) -> StoreError {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => StoreError::DiskFull(what, error),
            _ => StoreError::Io(what, error),
        }
    }

    /// Whether there is no room, in the allotment or on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::DiskFull(..))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full { capacity } => {
                write!(f, "the allotted {capacity} bytes are full; raise --capacity, or give another --dir")
            }
            StoreError::DiskFull(what, error) => {
                let error = plain(error);
                write!(f, "{what}: {error}; free some space on the disk, or give another --dir")
            }
            StoreError::ReadOnly => f.write_str(
                "the pack is read-only since its disk failed; see to the disk, then start the peer again",
            ),
            StoreError::Io(what, error) => write!(f, "{what}: {}", plain(error)),
        }
    }
}

impl std::error::Error for StoreError {}

/// A set of blocks with a limit, that acknowledges what will survive a power cut.
pub trait Store {
    /// The time that records written from now on carry, in whole seconds since the Unix epoch.
    fn set_time(&mut self, secs: u64);

    /// Whether the block is here. Says nothing of its being durable yet.
    fn has(&self, id: &BlockId) -> bool;

    /// Kind and length of the block's payload, after its checksum has been compared; to be asked before the
    /// payload is queued to anybody. A damaged block is set aside, reported, and from then on absent. Reads the
    /// whole payload the first time.
    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)>;

    /// The payload of a block that has been checked; valid until the store is next changed.
    fn payload(&self, id: &BlockId) -> Option<&[u8]>;

    /// Writes a block, or finds that it has it.
    fn put(&mut self, block: &Block) -> Result<Put, StoreError>;

    /// Bytes put and not yet durable.
    fn uncommitted(&self) -> u64;

    /// Begins to make durable all that was put so far. Harmless if nothing was, or if a commit is under way.
    /// An error is final: the store is read-only from then on.
    fn begin_commit(&mut self) -> Result<(), StoreError>;

    /// Up to which put everything is durable. A commit need not end in the turn it was begun in: ask again.
    fn poll_commit(&mut self) -> Result<Sequence, StoreError>;

    /// What is held.
    fn usage(&self) -> Usage;
}
