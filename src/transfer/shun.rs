//! Peers that are not to be connected to for a while, and those that have sent wrong blocks.

use crate::id::NodeId;
use crate::limits::{SHUNNED_MAX, SHUN_FOR, SHUN_LIAR_FOR, SHUN_MIN};
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

    /// Ends it for a peer that has sent no wrong block, if it has been shunned for `SHUN_MIN`. Whether it is not now.
    pub fn forgive(&mut self, now: Instant, peer: &NodeId) -> bool {
        let until = self.until.get(peer).copied().unwrap_or(now);
        let is_forgiven =
            !self.wrong_blocks.contains_key(peer) && until + SHUN_MIN <= now + SHUN_FOR;
        if is_forgiven {
            self.until.remove(peer);
        }
        is_forgiven
    }

    /// Whether this peer is not to be connected to at present.
    pub fn is_shunned(&self, now: Instant, peer: &NodeId) -> bool {
        self.until.get(peer).is_some_and(|&until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Different ones, of which a later one is greater.
    fn peer(n: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        NodeId(id)
    }

    #[test]
    fn longest_list_is_bounded_and_forgets_who_would_be_free_first() {
        let now = Instant::since_epoch(Duration::from_secs(1000));
        let mut shunned = Shunned::default();
        for n in 0..SHUNNED_MAX {
            shunned.shun(now, peer(n), SHUN_FOR + Duration::from_secs(n as u64));
        }
        shunned.shun(now, peer(SHUNNED_MAX), SHUN_LIAR_FOR);
        assert_eq!(shunned.until.len(), SHUNNED_MAX);
        assert!(!shunned.is_shunned(now, &peer(0)));
        assert!((1..=SHUNNED_MAX).all(|n| shunned.is_shunned(now, &peer(n))));
        // Those whose time is over go before anybody else does.
        let later = now + SHUN_FOR + Duration::from_secs(9);
        shunned.shun(later, peer(0), SHUN_FOR);
        assert_eq!(shunned.until.len(), SHUNNED_MAX - 8);
    }

    #[test]
    fn only_who_has_failed_is_forgiven_and_not_at_once() {
        let now = Instant::since_epoch(Duration::from_secs(1000));
        let mut shunned = Shunned::default();
        shunned.shun(now, peer(1), SHUN_FOR);
        shunned.handle_wrong_block(now, peer(2));
        let soon = now + SHUN_MIN - Duration::from_millis(1);
        assert!(!shunned.forgive(soon, &peer(1)));
        assert!(shunned.forgive(now + SHUN_MIN, &peer(1)));
        assert!(!shunned.is_shunned(now, &peer(1)));
        assert!(!shunned.forgive(now + SHUN_MIN, &peer(2)));
        assert!(shunned.is_shunned(now + SHUN_MIN, &peer(2)));
    }

    #[test]
    fn liars_are_remembered_up_to_a_bound() {
        let now = Instant::since_epoch(Duration::from_secs(1000));
        let mut shunned = Shunned::default();
        for n in 0..SHUNNED_MAX + 9 {
            shunned.handle_wrong_block(now, peer(n));
        }
        assert_eq!(shunned.wrong_blocks.len(), SHUNNED_MAX);
        assert_eq!(shunned.until.len(), SHUNNED_MAX);
        // Who does it again is shunned for longer.
        let last = peer(SHUNNED_MAX + 8);
        shunned.handle_wrong_block(now, last);
        assert!(shunned.is_shunned(now + SHUN_FOR, &last));
        assert!(!shunned.is_shunned(now + SHUN_LIAR_FOR, &last));
    }
}
