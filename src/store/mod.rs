//! Where blocks are kept. Two stores, both real: [`MemoryStore`] for simulations and tests, and the
//! [`pack::PackStore`] of a data directory.

mod memory;
pub mod pack;

pub use memory::MemoryStore;

use crate::block::{Block, Kind, Role};
use crate::cell::Cell;
use crate::digest::Digest;
use crate::id::{BlockId, Point};
use crate::limits::RENEWAL_MIN;
use crate::sys::plain;
use std::fmt;
use std::io;

/// The space that a store may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allotment {
    /// Bytes of the directory at most, as `du` counts them.
    pub capacity: u64,
    /// Bytes of the file system that are left free.
    pub min_free: u64,
}

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
    /// What they come to.
    pub held: Sums,
    /// Bytes of the allotment that are used, overheads included.
    pub used_bytes: u64,
    /// Bytes allotted.
    pub capacity_bytes: u64,
    /// Stretches of damage found and set aside.
    pub damaged: u64,
    /// Bytes of removed blocks that have not gone back to the file system.
    pub garbage_bytes: u64,
    /// Files that are pinned.
    pub pins: u64,
    /// Blocks that belong to them, as far as they have been marked.
    pub pinned_blocks: u64,
    /// Whether an earlier failure of the disk has left the store read-only.
    pub is_read_only: bool,
    /// Whether the file system cannot take back a part of a file, so that half of the allotment is used.
    pub is_halved: bool,
}

/// What blocks come to, with more and fewer of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// How many there are that are leaves, nodes and roots, as in [`Role`].
    pub by_role: [u64; 3],
}

impl Sums {
    /// One more, with so many bytes of payload.
    pub fn add(&mut self, kind: Kind, len: u64) {
        self.payload_bytes += len;
        self.by_role[kind.role as usize] += 1;
    }

    /// One less.
    pub fn remove(&mut self, kind: Kind, len: u64) {
        self.payload_bytes -= len;
        self.by_role[kind.role as usize] -= 1;
    }

    /// How many are of this role.
    pub fn of(&self, role: Role) -> u64 {
        self.by_role[role as usize]
    }
}

/// What keeps a block, as long as it has not expired, when there is no room for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub enum Hold {
    /// Nothing but that it is closer than others.
    #[default]
    Free,
    /// It is the own copy of a share that is under way. Ends with the process: a store does not write it down.
    Leased,
    /// It is the own copy of a share that has ended with fewer copies elsewhere than were wanted.
    Kept,
}

impl Hold {
    /// As a store writes it down.
    pub fn lasting(self) -> Hold {
        match self {
            Hold::Free | Hold::Leased => Hold::Free,
            Hold::Kept => Hold::Kept,
        }
    }
}

/// How long a block is kept when there is no room for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// In whole hours since the Unix epoch; from then on it is among the first to go.
    pub expires: u32,
    /// What keeps it until then.
    pub hold: Hold,
}

impl Terms {
    /// Kept until this time, in seconds since the Unix epoch, rounded up to whole hours.
    pub fn until(secs: u64) -> Terms {
        Terms {
            expires: u32::try_from(secs.div_ceil(3600)).unwrap_or(u32::MAX),
            hold: Hold::Free,
        }
    }

    /// What a block is kept on that is to be kept on others as well. A later end is later by [`RENEWAL_MIN`] hours at
    /// least, so that it seldom changes.
    pub fn renewed(self, other: Terms) -> Terms {
        let later = self.expires.saturating_add(RENEWAL_MIN);
        Terms {
            expires: match other.expires > self.expires {
                true => other.expires.max(later),
                false => self.expires,
            },
            hold: self.hold.max(other.hold),
        }
    }

    /// Both of two: the later end, and the stronger hold.
    pub fn or(self, other: Terms) -> Terms {
        Terms {
            expires: self.expires.max(other.expires),
            hold: self.hold.max(other.hold),
        }
    }

    /// As a store writes them down.
    pub fn lasting(self) -> Terms {
        let hold = self.hold.lasting();
        Terms { hold, ..self }
    }
}

/// A whole file that is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pin {
    /// The address of its root.
    pub root: BlockId,
    /// Bytes of the file.
    pub len: u64,
}

/// Who goes first when a block has to make room for others. First what is expired, then what is farthest from
/// `home`; never what is pinned, held or in use, and nothing that is closer than the newcomer.
pub struct Claim<'a> {
    /// The own place in the space of addresses.
    pub home: Point,
    /// The block that wants to come; `None` if it is to come whatever has to go for it.
    pub newcomer: Option<BlockId>,
    /// Whether a block is being sent just now.
    pub is_in_use: &'a dyn Fn(&BlockId) -> bool,
}

/// What became of an attempt to use less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shrunk {
    /// Some blocks have gone, or the search for those that may is not over.
    Some,
    /// It cannot be done now: nobody knows yet what is pinned, or no space comes back from what is dropped.
    Later,
    /// None of those that are left may go.
    Nothing,
}

/// A stretch that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// From the start of the pack, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The block that was there, if that can still be told.
    pub id: Option<BlockId>,
}

/// What a step of verification has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Where the next step begins, as only the store understands it; `None` at the end.
    pub next: Option<u64>,
    /// Where this step has ended, in bytes.
    pub at: u64,
    /// Blocks that were found sound.
    pub blocks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was found damaged; set aside from now on.
    pub damaged: Vec<Damage>,
    /// Where the last step ends: all that there is to be read, in bytes.
    pub end: u64,
}

/// Why a store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// The allotment (bytes) has no room for the block; nothing was written.
    Full {
        /// Bytes allotted.
        capacity: u64,
    },
    /// What is to be left free of the file system (bytes) would not be; nothing was written.
    MinFree {
        /// Bytes to be left free.
        min_free: u64,
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
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StoreError::DiskFull(what, error),
            _ => StoreError::Io(what, error),
        }
    }

    /// Whether there is no room, in the allotment or on the disk.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            StoreError::Full { .. } | StoreError::MinFree { .. } | StoreError::DiskFull(..)
        )
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full { capacity } => {
                write!(f, "the allotted {capacity} bytes are full; raise --capacity, or give another --dir")
            }
            StoreError::MinFree { min_free } => write!(
                f,
                "less than {min_free} bytes of the disk would be left free; free some space, or lower --min-free"
            ),
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

/// What can be told of a block without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The first 8 bytes of its address.
    pub place: u64,
    /// What it is.
    pub kind: Kind,
    /// Until when it is kept, in whole hours since the Unix epoch.
    pub expires: u32,
}

/// A set of blocks with a limit, that acknowledges what will survive a power cut.
pub trait Store {
    /// The time that records written from now on carry, in whole seconds since the Unix epoch.
    fn set_time(&mut self, secs: u64);

    /// It may use this space from now on. What is there beyond it is kept until it is told to go.
    fn set_allotment(&mut self, allotment: Allotment);

    /// Whether the block is here. Says nothing of its being durable yet. Does not wait for the disk, and so do all that
    /// take an address and read no payload: what would have to be read is told by the first 8 bytes of the address alone.
    /// It takes some 2^64 hashes to make a block that is then taken for another.
    fn has(&self, id: &BlockId) -> bool;

    /// What the blocks in each part of a cell come to that shares `depth` more bits, by a key of this store's own;
    /// `None` if that is not known yet. Then the call has found out some of it: to be asked again, after an opening
    /// some hundred times. Takes a millisecond or two at most.
    fn digests(&mut self, cell: Cell, depth: u8) -> Option<Vec<Digest>>;

    /// The first blocks in a cell, at most `max`, in the order of their addresses.
    fn held(&self, cell: Cell, max: usize) -> Vec<Held>;

    /// The blocks whose addresses begin so: one, but for addresses that were made to agree.
    fn at_place(&self, place: u64) -> Vec<BlockId>;

    /// Whether all of a block can be read without waiting for the disk; `None` if none is here whose address begins with
    /// the same 8 bytes.
    fn is_warm(&self, id: &BlockId) -> Option<bool>;

    /// Asks the disk for a block, without waiting. What it has read may be dropped again at any time.
    fn start_reading(&self, id: &BlockId);

    /// Kind and length of the block's payload, after its checksum has been compared; to be asked before the
    /// payload is queued to anybody. A damaged block is set aside, reported, and from then on absent. Reads the
    /// whole payload.
    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)>;

    /// The payload of a block that has been checked; valid until the store is next changed.
    fn payload(&self, id: &BlockId) -> Option<&[u8]>;

    /// Writes a block, or finds that it has it; then it is kept on the better of both terms.
    fn put(&mut self, block: &Block, terms: Terms) -> Result<Put, StoreError>;

    /// On which terms a block is kept; `None` if it is not here.
    fn terms(&self, id: &BlockId) -> Option<Terms>;

    /// Keeps a block until this time at least, in whole hours since the Unix epoch; perhaps for a day more. Harmless if
    /// it is not here.
    fn keep_until(&mut self, id: &BlockId, expires: u32);

    /// Holds a block on, though the share that leased it has ended. Harmless if it is not here.
    fn keep(&mut self, id: &BlockId);

    /// Ends what holds a block, if it is no more than this. Harmless if it is not here.
    fn release(&mut self, id: &BlockId, hold: Hold);

    /// Takes a block out; whether it was here. Its space comes back after the next commit, in steps. It may be
    /// here again after a power cut before that.
    fn remove(&mut self, id: &BlockId) -> Result<bool, StoreError>;

    /// The files that are pinned, in order of their roots.
    fn pins(&self) -> Vec<Pin>;

    /// Notes that a file is pinned; durable after the next commit. Harmless if it is already. Its blocks are
    /// kept as they are marked.
    fn add_pin(&mut self, pin: Pin) -> Result<(), StoreError>;

    /// Notes that a file is no longer pinned; whether it was. Its blocks are kept until they have been marked
    /// anew.
    fn remove_pin(&mut self, root: &BlockId) -> Result<bool, StoreError>;

    /// Begins to mark all blocks of all pins anew. Until [`Store::end_marking`] those marked earlier are kept as
    /// well; after an opening, until then no block is dropped at all.
    fn begin_marking(&mut self);

    /// Marks a block as one of a pinned file; whether it is here. May be called at any time.
    fn mark(&mut self, id: &BlockId) -> bool;

    /// Whether a block is here that belongs to a pinned file, as far as has been marked; any that is, as long as it is not
    /// known which do.
    fn is_pinned(&self, id: &BlockId) -> bool;

    /// All blocks of all pins have been marked since [`Store::begin_marking`]: others may go.
    fn end_marking(&mut self);

    /// Whether there is room for a block of this many bytes of payload, or could be made.
    fn could_take(&mut self, len: u32, claim: &Claim<'_>) -> bool;

    /// Makes room for a block of this many bytes of payload, by removing others if need be.
    /// [`StoreError::Full`] if those that would have to go may not.
    fn make_room(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError>;

    /// Whether more is used than allotted, as after an opening with a smaller allotment. What is there is kept until it
    /// is told to go.
    fn is_overfull(&self) -> bool;

    /// Drops some blocks as if one were to come whatever has to go for it, if more is used than allotted. To be called
    /// when there is no work: what was dropped before has given its space back then.
    fn shrink(&mut self, claim: &Claim<'_>) -> Result<Shrunk, StoreError>;

    /// Whether there is something to be done in the background.
    fn has_work(&self) -> bool;

    /// Does a slice of it: gives space back, writes what makes the next opening fast. Takes some milliseconds at
    /// most.
    fn work(&mut self);

    /// Makes durable what was put, and does what makes the next opening fast. For the end of a process; all of it
    /// can be left out.
    fn close(&mut self);

    /// Where a step of verification may begin, near the block that is closest to this place.
    fn offset_near(&self, place: &Point) -> u64;

    /// Reads on from here, at most 1 MiB and one block, and compares all checksums, and the addresses of blocks.
    /// Begins with 0, and goes on where the last step said. Of blocks that are not wanted only the headers are read.
    fn verify(&mut self, from: u64, is_wanted: &dyn Fn(&BlockId) -> bool) -> Verified;

    /// Bytes put and not yet durable.
    fn uncommitted(&self) -> u64;

    /// Begins to make durable all that was put so far. Harmless if nothing was, or if a commit is under way.
    /// An error is final: the store is read-only from then on.
    fn begin_commit(&mut self) -> Result<(), StoreError>;

    /// Up to which put everything is durable. A commit need not end in the turn it was begun in: ask again.
    fn poll_commit(&mut self) -> Result<Sequence, StoreError>;

    /// Whether a commit was begun that has not ended, as far as has been asked.
    fn is_committing(&self) -> bool;

    /// Whether the end of a commit gives room, of one that is to be begun if none is under way, and there is hardly any
    /// before.
    fn awaits_room(&self) -> bool;

    /// Makes durable all that was put so far, and waits for it.
    fn commit(&mut self) -> Result<Sequence, StoreError>;

    /// What is held.
    fn usage(&self) -> Usage;
}
