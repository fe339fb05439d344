//! What must not be said before the disk has it: frames wait for the commit that makes true what they say.

use super::Node;
use crate::limits::*;
use crate::store::{Sequence, Store, StoreError};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::{Answer, Frame};
use log::warn;

impl<S: Store> Node<S> {
    pub(super) fn commit_and_answer(&mut self, now: Instant) {
        self.commit_at = None;
        let result = self
            .store
            .begin_commit()
            .and_then(|()| self.store.poll_commit());
        match result {
            Ok(durable) => {
                self.send_acks(durable);
                if self.store.uncommitted() > 0 {
                    self.commit_at = Some(now + COMMIT_DELAY);
                }
            }
            Err(error) => self.fail_acks(&error),
        }
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
        warn!("{error}");
        for (_, conn, frame) in std::mem::take(&mut self.acks) {
            let frame = match frame {
                Frame::Stored { id, .. } => Frame::Refused {
                    id,
                    answer: Answer::Failed,
                },
                Frame::Want(answers) => Frame::Want(vec![Answer::Failed; answers.len()]),
                Frame::Settled(_) => Frame::Failed {
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

    pub(super) fn commit_by(&mut self, at: Instant) {
        self.commit_at = Some(self.commit_at.map_or(at, |earlier| earlier.min(at)));
    }
}
