//! A store in memory: the same contract as the pack's, and gone with the process.

use super::{Put, Sequence, Store, StoreError, Usage};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::limits::BLOCK_CHARGE_MIN;
use std::collections::BTreeMap;

/// Blocks in memory, charged as the pack charges them.
pub struct MemoryStore {
    blocks: BTreeMap<BlockId, Block>,
    capacity: u64,
    used: u64,
    payload_bytes: u64,
    written: Sequence,
    committed: Sequence,
    uncommitted: u64,
}

impl MemoryStore {
    /// An empty store that takes up to `capacity` bytes.
    pub fn new(capacity: u64) -> MemoryStore {
        MemoryStore {
            blocks: BTreeMap::new(),
            capacity,
            used: 0,
            payload_bytes: 0,
            written: Sequence::default(),
            committed: Sequence::default(),
            uncommitted: 0,
        }
    }
}

impl Store for MemoryStore {
    /// Nothing here carries a time.
    fn set_time(&mut self, _secs: u64) {}

    fn has(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(id)
    }

    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)> {
        self.blocks
            .get(id)
            .map(|block| (block.kind(), block.payload().len() as u32))
    }

    fn payload(&self, id: &BlockId) -> Option<&[u8]> {
        self.blocks.get(id).map(Block::payload)
    }

    fn put(&mut self, block: &Block) -> Result<Put, StoreError> {
        if self.has(&block.id()) {
            return Ok(Put::Had(self.written));
        }
        let len = block.payload().len() as u64;
        let charge = len.max(BLOCK_CHARGE_MIN);
        if self.used + charge > self.capacity {
            return Err(StoreError::Full {
                capacity: self.capacity,
            });
        }
        self.used += charge;
        self.payload_bytes += len;
        self.uncommitted += len;
        self.written.0 += 1;
        self.blocks.insert(block.id(), block.clone());
        Ok(Put::Written(self.written))
    }

    fn uncommitted(&self) -> u64 {
        self.uncommitted
    }

    fn begin_commit(&mut self) -> Result<(), StoreError> {
        self.committed = self.written;
        self.uncommitted = 0;
        Ok(())
    }

    fn poll_commit(&mut self) -> Result<Sequence, StoreError> {
        Ok(self.committed)
    }

    fn usage(&self) -> Usage {
        Usage {
            blocks: self.blocks.len() as u64,
            payload_bytes: self.payload_bytes,
            used_bytes: self.used,
            capacity_bytes: self.capacity,
            damaged: 0,
        }
    }
}
