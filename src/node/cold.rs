//! Blocks that are asked for and must come from the disk first: others go first meanwhile.

use super::Node;
use crate::block::Role;
use crate::id::BlockId;
use crate::limits::{COLD_MAX, COLD_PAUSE, COLD_PER_LOOK, COLD_WAIT};
use crate::store::Store;
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::Frame;
use std::collections::VecDeque;

/// Requests that wait for the disk, the oldest first; at most [`COLD_MAX`].
#[derive(Default)]
pub(super) struct Cold {
    /// Until when, who, and for what.
    queue: VecDeque<(Instant, ConnId, BlockId)>,
    /// When to look again.
    look_at: Option<Instant>,
}

impl Cold {
    /// When [`Node::answer_cold`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// A connection is over.
    pub fn handle_closed(&mut self, conn: ConnId) {
        self.queue.retain(|&(_, waiting, _)| waiting != conn);
    }
}

impl<S: Store> Node<S> {
    /// Answers who asks for a block: at once, or when the disk has brought it.
    pub(super) fn handle_get(&mut self, now: Instant, conn: ConnId, id: BlockId) {
        if self.cold.queue.len() >= COLD_MAX || self.store.is_warm(&id) {
            return self.answer_get(now, conn, id);
        }
        self.cold.queue.push_back((now + COLD_WAIT, conn, id));
        self.cold.look_at.get_or_insert(now + COLD_PAUSE);
    }

    /// Answers those who wait for the disk, as far as it has done its part, or they have waited long enough.
    pub(super) fn answer_cold(&mut self, now: Instant) {
        for _ in 0..self.cold.queue.len().min(COLD_PER_LOOK) {
            let Some((until, conn, id)) = self.cold.queue.pop_front() else {
                break;
            };
            match now >= until || self.store.is_warm(&id) {
                true => self.answer_get(now, conn, id),
                false => self.cold.queue.push_back((until, conn, id)),
            }
        }
        self.cold.look_at = (!self.cold.queue.is_empty()).then_some(now + COLD_PAUSE);
    }

    fn answer_get(&mut self, now: Instant, conn: ConnId, id: BlockId) {
        let given = self.give(conn, id);
        match (given, self.transfer.is_local(conn)) {
            (None, false) => self.transfer.send(conn, &Frame::Absent(id)),
            (Some(_), false) => {}
            (None, true) => {
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.want(&mut tools, conn, id);
            }
            (Some(kind), true) => {
                let payload = match kind.role {
                    Role::Leaf => None,
                    Role::Node | Role::Root => self.store.payload(&id),
                };
                let payload = payload.unwrap_or_default();
                self.fetch.handle_given(conn, &id, kind, payload);
            }
        }
    }
}
