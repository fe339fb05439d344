//! One block on the way to its copies.

use crate::block::Role;
use crate::id::{BlockId, NodeId};
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use std::collections::{BTreeSet, VecDeque};

/// A block that is being placed. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct JobId(pub u64);

/// For whom a block is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A client's share, in which the block has this role.
    Session(ConnId, Role),
    /// Nobody: this peer is one of those who should hold the block, and sees to it that the others do.
    Nobody,
    /// Nobody either: it is known who has the block and who may be given it.
    Upkeep,
}

impl Owner {
    /// Whether it is this client's share.
    pub fn is_client(&self, client: ConnId) -> bool {
        matches!(self, Owner::Session(conn, _) if *conn == client)
    }
}

/// The state of one block.
pub struct Job {
    /// For whom.
    pub owner: Owner,
    /// Its address.
    pub block: BlockId,
    /// Copies to reach.
    pub wanted: usize,
    /// Peers that could still be offered the block, the closest first.
    pub candidates: VecDeque<Contact>,
    /// Peers that have been candidates.
    pub tried: BTreeSet<NodeId>,
    /// Some of them could not be reached: others may live around the block.
    pub is_lonely: bool,
    /// Nobody else is to be found: it has been looked up alone, or the network has no more.
    pub is_looked_up: bool,
    /// Peers that say they have it.
    pub holders: BTreeSet<NodeId>,
    /// Peers that have been offered it and whose answer is waited for.
    pub outstanding: usize,
    /// Peers that have been offered it and are late with their answer.
    pub late: BTreeSet<NodeId>,
    /// Peers whose connection ended before they answered, once.
    pub cut_off: BTreeSet<NodeId>,
}

impl Job {
    /// A job that has not begun.
    pub fn new(owner: Owner, block: BlockId, wanted: usize) -> Job {
        Job {
            owner,
            block,
            wanted,
            candidates: VecDeque::new(),
            tried: BTreeSet::new(),
            is_lonely: false,
            is_looked_up: false,
            holders: BTreeSet::new(),
            outstanding: 0,
            late: BTreeSet::new(),
            cut_off: BTreeSet::new(),
        }
    }
}
