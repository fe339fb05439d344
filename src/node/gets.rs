//! Blocks that are asked for, and given from the store: a few in one go, as each is read and compared with its checksum,
//! and those that must come from the disk first when it has brought them. Others have their turns meanwhile.

use super::Node;
use crate::block::Role;
use crate::id::BlockId;
use crate::limits::{COLD_WAIT, GETS_AT_ONCE, GETS_PAUSE, GETS_PER_LOOK, GETS_WAITING_MAX};
use crate::limits::{GETS_PER_CONNECTION, WANTS_PER_CLIENT};
use crate::store::Store;
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::{ByeReason, Frame};
use std::collections::VecDeque;

const _: () = assert!(GETS_PER_CONNECTION < GETS_WAITING_MAX);

/// Requests that wait, the oldest first; of each peer at most [`GETS_WAITING_MAX`], of each client [`WANTS_PER_CLIENT`].
#[derive(Default)]
pub(super) struct Gets {
    /// Until when the disk is waited for, who asks, and for what.
    queue: VecDeque<(Instant, ConnId, BlockId)>,
    /// When to look again.
    look_at: Option<Instant>,
    /// When some were answered last, and how many then.
    answered: Option<(Instant, usize)>,
}

impl Gets {
    /// When [`Node::answer_gets`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// A connection is over.
    pub fn handle_closed(&mut self, conn: ConnId) {
        self.queue.retain(|&(_, waiting, _)| waiting != conn);
    }

    fn waiting(&self, conn: ConnId) -> usize {
        self.queue.iter().filter(|it| it.1 == conn).count()
    }

    /// Whether one more may be answered in the call of this time.
    fn take_turn(&mut self, now: Instant) -> bool {
        let answered = self.answered.filter(|it| it.0 == now).map_or(0, |it| it.1);
        self.answered = Some((now, answered + 1));
        answered < GETS_AT_ONCE
    }
}

impl<S: Store> Node<S> {
    /// Answers who asks for a block: at once, or when it is its turn, and the disk has brought it.
    pub(super) fn handle_get(&mut self, now: Instant, conn: ConnId, id: BlockId) {
        let max = match self.transfer.is_local(conn) {
            true => WANTS_PER_CLIENT,
            false => GETS_WAITING_MAX,
        };
        if self.gets.waiting(conn) >= max {
            let text = "too many blocks asked for at once";
            return self.transfer.bye(conn, ByeReason::Protocol, text);
        }
        match self.store.is_warm(&id) {
            None => return self.answer_get(now, conn, id),
            Some(true) if self.gets.take_turn(now) => return self.answer_get(now, conn, id),
            Some(true) => {}
            Some(false) => self.store.start_reading(&id),
        }
        self.gets.queue.push_back((now + COLD_WAIT, conn, id));
        self.gets.look_at.get_or_insert(now + GETS_PAUSE);
    }

    /// Answers some of those who wait, as far as the disk has done its part, or they have waited long enough.
    pub(super) fn answer_gets(&mut self, now: Instant) {
        for _ in 0..self.gets.queue.len().min(GETS_PER_LOOK) {
            let Some((until, conn, id)) = self.gets.queue.pop_front() else {
                break;
            };
            let is_ready = now >= until || self.store.is_warm(&id) != Some(false);
            if is_ready && !self.gets.take_turn(now) {
                self.gets.queue.push_front((until, conn, id));
                break;
            }
            match is_ready {
                true => self.answer_get(now, conn, id),
                false => self.gets.queue.push_back((until, conn, id)),
            }
        }
        self.gets.look_at = (!self.gets.queue.is_empty()).then_some(now + GETS_PAUSE);
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
