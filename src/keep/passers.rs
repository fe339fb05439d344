//! Who has been given blocks to pass on: how many each has, how it gets on, and who did not do it.

use super::job::JobId;
use crate::id::{BlockId, NodeId};
use crate::limits::{UNWILLING_FOR, UNWILLING_MAX};
use crate::time::Instant;
use std::collections::BTreeMap;

/// All who pass on for this peer, or were to.
#[derive(Default)]
pub struct Passers {
    /// Blocks that are offered to a peer, or given, to be passed on: a few for each job.
    given: BTreeMap<(NodeId, BlockId), JobId>,
    /// When a block that a peer was given last had a copy more. Only of peers in `given`.
    progress: BTreeMap<NodeId, Instant>,
    /// Who has not passed on what it was given, and until when it is given nothing. At most `UNWILLING_MAX`; the first
    /// to end is forgotten.
    unwilling: BTreeMap<NodeId, Instant>,
}

impl Passers {
    /// A peer is to pass on a job's block.
    pub fn give(&mut self, peer: NodeId, block: BlockId, job: JobId) {
        self.given.insert((peer, block), job);
    }

    /// It does so no more, or it is of no matter. The job for which it did.
    pub fn take(&mut self, peer: NodeId, block: BlockId) -> Option<JobId> {
        let job = self.given.remove(&(peer, block));
        if self.of(&peer).next().is_none() {
            self.progress.remove(&peer);
        }
        job
    }

    /// Whether a peer is to pass on a block, and has not said yet that it has.
    pub fn is_passing(&self, peer: NodeId, block: BlockId) -> bool {
        self.given.contains_key(&(peer, block))
    }

    /// How many blocks a peer is passing on. Linear in them.
    pub fn load(&self, peer: &NodeId) -> usize {
        self.of(peer).count()
    }

    fn of(&self, peer: &NodeId) -> impl Iterator<Item = &JobId> {
        let all = (*peer, BlockId([0; 32]))..=(*peer, BlockId([255; 32]));
        self.given.range(all).map(|(_, job)| job)
    }

    /// A block that a peer has to pass on has more copies than before.
    pub fn note_progress(&mut self, now: Instant, peer: NodeId) {
        self.progress.insert(peer, now);
        self.unwilling.remove(&peer);
    }

    /// When that was last.
    pub fn progress(&self, peer: &NodeId) -> Option<Instant> {
        self.progress.get(peer).copied()
    }

    /// A peer has not passed on what it was given.
    pub fn note_unwilling(&mut self, now: Instant, peer: NodeId) {
        if self.unwilling.len() >= UNWILLING_MAX {
            let first = self.unwilling.iter().min_by_key(|(_, until)| **until);
            let first = first.map(|(peer, _)| *peer);
            first.and_then(|peer| self.unwilling.remove(&peer));
        }
        self.unwilling.insert(peer, now + UNWILLING_FOR);
    }

    /// Whether a peer may be given a block to pass on.
    pub fn is_willing(&self, now: Instant, peer: &NodeId) -> bool {
        self.unwilling.get(peer).is_none_or(|until| *until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_a_peer_has_been_given_and_not_done_with() {
        let mut passers = Passers::default();
        let [one, two] = [1, 2].map(|n| NodeId([n; 32]));
        for n in 0..3 {
            passers.give(one, BlockId([n; 32]), JobId(n.into()));
        }
        passers.give(two, BlockId([255; 32]), JobId(9));
        assert_eq!((passers.load(&one), passers.load(&two)), (3, 1));
        passers.note_progress(Instant::EPOCH, two);
        assert_eq!(passers.take(two, BlockId([255; 32])), Some(JobId(9)));
        assert_eq!(passers.take(two, BlockId([255; 32])), None);
        assert_eq!((passers.load(&two), passers.progress(&two)), (0, None));
    }

    #[test]
    fn unwilling_are_given_nothing_for_a_while_and_are_not_too_many() {
        let mut passers = Passers::default();
        let start = Instant::EPOCH;
        let peer = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            NodeId(id)
        };
        for n in 0..UNWILLING_MAX + 1 {
            let now = start + std::time::Duration::from_millis(n as u64);
            passers.note_unwilling(now, peer(n));
        }
        assert!(passers.is_willing(start, &peer(0)), "forgotten");
        assert!(!passers.is_willing(start, &peer(1)));
        let later = start + UNWILLING_FOR + std::time::Duration::from_millis(1);
        assert!(passers.is_willing(later, &peer(1)));
        passers.note_progress(start, peer(2));
        assert!(passers.is_willing(start, &peer(2)), "it does, after all");
    }
}
