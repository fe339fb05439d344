//! What must not be said before the disk has it: frames wait for the commit that makes true what they say.

use super::Node;
use crate::limits::*;
use crate::store::{Sequence, Store, StoreError};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::{Answer, Frame};
use log::{debug, warn};

impl<S: Store> Node<S> {
    /// Begins a commit of all that was put and noted; none is under way. Those who wait are answered when it has ended.
    pub(super) fn begin_commit(&mut self) {
        self.commit_at = None;
        let written = self.written;
        let next = std::mem::take(&mut self.next_acks).into_iter();
        let next = next.map(|(conn, frame)| (written, conn, frame));
        self.acks.extend(next);
        match self.store.begin_commit() {
            Ok(()) => {
                self.is_committing = true;
                self.look_at_commit();
            }
            Err(error) => self.fail_acks(&error),
        }
    }

    /// Finds out whether a commit has ended, and answers those who wait for it. Nobody is answered before: what was
    /// noted since the last put is known by no number.
    pub(super) fn look_at_commit(&mut self) {
        let durable = self.store.poll_commit();
        if self.store.is_committing() {
            return;
        }
        self.is_committing = false;
        if !self.is_congested() {
            self.putters.clear();
        }
        match durable {
            Ok(durable) => self.send_acks(durable),
            Err(error) => self.fail_acks(&error),
        }
    }

    /// Whether so much is in doubt, or so little room, that no more is taken from those who put until the commit that is
    /// under way ends.
    pub(super) fn is_congested(&self) -> bool {
        let is_much = self.store.is_committing() && self.store.uncommitted() >= UNCOMMITTED_HIGH;
        is_much || self.store.awaits_room()
    }

    pub(super) fn send_acks(&mut self, durable: Sequence) {
        self.volatile.settle(durable);
        while self
            .acks
            .front()
            .is_some_and(|&(sequence, _, _)| sequence <= durable)
        {
            if let Some((_, conn, frame)) = self.acks.pop_front() {
                self.transfer.send(conn, &frame);
            }
        }
    }

    /// What waits for a commit that will never be is answered as not stored.
    pub(super) fn fail_acks(&mut self, error: &StoreError) {
        match error {
            // Why, was said when it became so.
            StoreError::ReadOnly => debug!("{error}"),
            _ => warn!("{error}"),
        }
        let next = std::mem::take(&mut self.next_acks);
        let acks = std::mem::take(&mut self.acks).into_iter();
        let acks = acks.map(|(_, conn, frame)| (conn, frame));
        for (conn, frame) in acks.chain(next) {
            let frame = match frame {
                Frame::Stored { id, .. } => Frame::Refused {
                    id,
                    answer: Answer::Failed,
                },
                Frame::Want(answers) => Frame::Want(vec![Answer::Failed; answers.len()]),
                Frame::Settled(_) | Frame::Pinned { .. } | Frame::Unpinned(_) => Frame::Failed {
                    status: if error.is_full() { 8 } else { 1 },
                    text: error.to_string(),
                },
                other => other,
            };
            self.transfer.send(conn, &frame);
        }
    }

    /// Sends a frame once all that has been put is durable.
    pub(super) fn send_when_durable(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        let durable = self.store.poll_commit();
        match durable {
            Ok(durable) if durable >= self.written && self.acks.is_empty() => {
                self.transfer.send(conn, &frame);
            }
            Ok(_) => {
                self.acks.push_back((self.written, conn, frame));
                self.commit_by(now + COMMIT_DELAY);
            }
            Err(error) => {
                self.acks.push_back((self.written, conn, frame));
                self.fail_acks(&error);
            }
        }
    }

    /// Sends a frame once all that has been put or noted so far is durable: by the next commit that is begun.
    pub(super) fn send_after_commit(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        self.next_acks.push((conn, frame));
        self.commit_by(now);
    }

    pub(super) fn commit_by(&mut self, at: Instant) {
        self.commit_at = Some(self.commit_at.map_or(at, |earlier| earlier.min(at)));
    }
}
