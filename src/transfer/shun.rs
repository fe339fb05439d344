//! Peers that are not to be connected to for a while, and those that have sent wrong blocks.

use crate::id::NodeId;
use crate::limits::{SHUNNED_MAX, SHUN_FOR, SHUN_LIAR_FOR};
use crate::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is shunned until when.
#[derive(Default)]
pub struct Shunned {
    /// At most `SHUNNED_MAX`.
    until: BTreeMap<NodeId, Instant>,
    /// Wrong blocks that a peer has sent, at most `SHUNNED_MAX` peers.
    wrong_blocks: BTreeMap<NodeId, u32>,
}

impl Shunned {
    /// A peer sent a block that is not what it was said to be: it is shunned, at the second time for long.
    pub fn handle_wrong_block(&mut self, now: Instant, peer: NodeId) {
        if self.wrong_blocks.len() >= SHUNNED_MAX && !self.wrong_blocks.contains_key(&peer) {
            self.wrong_blocks.pop_first();
        }
        let count = self.wrong_blocks.entry(peer).or_insert(0);
        *count += 1;
        let span = if *count > 1 { SHUN_LIAR_FOR } else { SHUN_FOR };
        self.shun(now, peer, span);
    }

    /// Does not connect to this peer for a while, or for longer than was known already.
    pub fn shun(&mut self, now: Instant, peer: NodeId, span: Duration) {
        if self.until.len() >= SHUNNED_MAX {
            self.until.retain(|_, until| *until > now);
            if let Some(first) = self
                .until
                .iter()
                .min_by_key(|(_, &until)| until)
                .map(|(&id, _)| id)
            {
                if self.until.len() >= SHUNNED_MAX {
                    self.until.remove(&first);
                }
            }
        }
        let until = self.until.entry(peer).or_insert(now);
        *until = (*until).max(now + span);
    }

    /// Whether this peer is not to be connected to at present.
    pub fn is_shunned(&self, now: Instant, peer: &NodeId) -> bool {
        self.until.get(peer).is_some_and(|&until| until > now)
    }
}
