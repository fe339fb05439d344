//! Where fetched bytes come from: the blocks of one address, asked of the peer and put together again.

use super::client::{Peer, Trouble};
use super::failure::{Failure, Status};
use super::progress::count;
use crate::block::address::Address;
use crate::block::decode::Decoder;
use crate::block::tree::{Item, TreeError};
use crate::block::Block;
use crate::limits::EGRESS_BLOCKS_MAX;
use crate::listing::{Listing, ListingError, HEAD_SIZE};
use crate::wire::frame::Frame;
use std::ops::Range;
use std::time::Instant;

/// Blocks asked of the peer and not answered at most, however large the buffer: what it queues for a client
/// before it reads no more from it.
const OUTSTANDING_MAX: usize = EGRESS_BLOCKS_MAX;

/// The bytes of an address, in order or as they come.
pub struct Source {
    peer: Peer,
    address: Address,
    decoder: Decoder,
    /// Bytes that came with others that were wanted earlier, and their offset.
    ahead: Option<(u64, Vec<u8>)>,
    /// When the next block must have come; `None` while none is waited for.
    due: Option<Instant>,
    /// Peers that have been asked for blocks that are waited for, and those of which no holder is known, as last told.
    awaiting: (u32, u32),
}

impl Source {
    /// The source of an address. At most `buffer` bytes are fetched ahead of what is taken.
    pub fn new(peer: Peer, address: Address, buffer: usize) -> Source {
        let mut decoder = Decoder::new(address, buffer);
        // Only the beginning, until it is known what it is.
        decoder.set_range(0..HEAD_SIZE as u64);
        Source {
            peer,
            address,
            decoder,
            ahead: None,
            due: None,
            awaiting: (0, 0),
        }
    }

    /// What is waited for, to be said behind other words.
    pub fn awaited(&self) -> String {
        match (self.awaiting, self.decoder.outstanding() as u64) {
            (_, 0) => String::new(),
            ((_, unfound), _) if unfound > 0 => {
                let blocks = count(unfound.into(), "block");
                format!(", waiting for {blocks}: no holder found yet")
            }
            ((0, _), outstanding) => format!(", waiting for {}", count(outstanding, "block")),
            ((peers, _), _) => format!(", from {}", count(peers.into(), "peer")),
        }
    }

    /// No more is wanted.
    pub fn leave(self) {
        self.peer.leave();
    }

    /// The bytes that are there, and what is wanted of them.
    pub fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Fetches the root, which says what the address is of, and tells meanwhile what is waited for.
    pub fn item(&mut self, mut tell: impl FnMut(&str)) -> Result<Item, Failure> {
        loop {
            if let Some(item) = self.decoder.item() {
                return Ok(item);
            }
            self.ask()?;
            self.receive()?;
            tell(&self.awaited());
        }
    }

    /// Bytes in the whole, once the root has come.
    pub fn length(&self) -> u64 {
        self.decoder.length().unwrap_or(0)
    }

    /// From now on these bytes are wanted.
    pub fn want(&mut self, range: Range<u64>) {
        self.decoder.set_range(range);
    }

    /// Fetches what is in a directory, and no more of it. Bounded by the longest listing.
    pub fn listing(&mut self) -> Result<Listing, Failure> {
        let length = self.length();
        let id = self.address.id;
        let damaged = |error: ListingError| {
            let message = format!("{id}: a damaged directory: {error}");
            Failure::new(Status::Damaged, message)
        };
        let short = || TreeError::BadShape("a directory of less than 8 bytes");
        if length < HEAD_SIZE as u64 {
            return Err(self.judge(short()));
        }
        let mut bytes = Vec::new();
        let (mut end, mut is_head) = (HEAD_SIZE, true);
        loop {
            while bytes.len() < end {
                let data = self.next()?.ok_or_else(|| self.judge(short()))?;
                bytes.extend_from_slice(&data.1);
            }
            if !is_head {
                break;
            }
            is_head = false;
            let head: &[u8; HEAD_SIZE] = bytes.first_chunk().expect("so many are there");
            end = HEAD_SIZE + Listing::parse_head(head, length).map_err(damaged)?;
            self.want(0..end as u64);
        }
        let listing = Listing::parse(&bytes[HEAD_SIZE..end]).map_err(damaged)?;
        if listing.length() != length {
            let path = Vec::new();
            let what = "it is not as long as what it lists";
            return Err(damaged(ListingError { path, what }));
        }
        self.ahead = Some((end as u64, bytes.split_off(end)));
        Ok(listing)
    }

    /// The next of the wanted bytes, and their offset; waits for them. `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        loop {
            self.ask()?;
            if let Some(data) = self.poll_data() {
                return Ok(Some(data));
            }
            if self.is_done() {
                return Ok(None);
            }
            self.receive()?;
        }
    }

    /// Asks the peer for what is wanted next.
    pub fn ask(&mut self) -> Result<(), Failure> {
        while self.decoder.outstanding() < OUTSTANDING_MAX {
            let Some(id) = self.decoder.poll_want() else {
                break;
            };
            let sent = self.peer.send(&Frame::Fetch(id));
            sent.map_err(|trouble| self.broken_off(trouble))?;
        }
        Ok(())
    }

    /// The next bytes that are there, and their offset; more than are wanted, as far as they came with those.
    pub fn poll_data(&mut self) -> Option<(u64, Vec<u8>)> {
        self.ahead.take().or_else(|| self.decoder.poll_data())
    }

    /// The same, of those that are there, whatever comes before them.
    pub fn poll_any(&mut self) -> Option<(u64, Vec<u8>)> {
        self.ahead.take().or_else(|| self.decoder.poll_any())
    }

    /// Whether all that is wanted has been taken.
    pub fn is_done(&self) -> bool {
        self.ahead.is_none() && self.decoder.is_done()
    }

    /// Waits for a block that was asked for, if any was, or for news of it.
    pub fn receive(&mut self) -> Result<(), Failure> {
        while self.decoder.outstanding() > 0 {
            // Only a block is progress.
            let due = self.peer.patience.deadline();
            let due = *self.due.get_or_insert(due);
            match self.peer.receive_by(due) {
                Ok(Frame::Block { id, kind, payload }) => {
                    self.due = None;
                    let block = Block::from_own_peer(id, kind, payload);
                    let handled = self.decoder.handle_block(block);
                    return handled.map_err(|error| self.judge(error));
                }
                Ok(Frame::Missing { id, reason, asked }) => {
                    let root = self.address.id;
                    return Err(self.peer.missing(root, id, reason, asked));
                }
                Ok(Frame::Failed { status, text }) => {
                    return Err(Failure::new(Status::from_number(status), text));
                }
                Ok(Frame::Awaiting { peers, unfound }) => {
                    self.awaiting = (peers, unfound);
                    return Ok(());
                }
                Ok(_) => {}
                Err(trouble) => return Err(self.broken_off(trouble)),
            }
        }
        Ok(())
    }

    fn broken_off(&self, trouble: Trouble) -> Failure {
        let waiting = count(self.decoder.outstanding() as u64, "block");
        trouble.into_failure(|| {
            format!(
                "{}: not fetched, {}: {} outstanding; try again, or give a longer --stall or --timeout",
                self.address.id,
                self.peer.patience.why(),
                waiting
            )
        })
    }

    fn judge(&self, error: TreeError) -> Failure {
        let status = match error {
            TreeError::NeedsKey | TreeError::NeedlessKey | TreeError::NotRoot => Status::Usage,
            TreeError::WrongKey | TreeError::BadShape(_) => Status::Damaged,
            TreeError::Unknown { .. } => Status::Other,
        };
        Failure::new(status, format!("{}: {error}", self.address.id))
    }
}
