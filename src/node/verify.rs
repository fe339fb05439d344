//! Reading the store again from its start to its end: at once for a client that asks for it, and so slowly that
//! nobody notices, for ever, in the background.

use super::Node;
use crate::id::{BlockId, Point};
use crate::limits::{
    SCRUB_PAUSE_MAX, SCRUB_PAUSE_MIN, SCRUB_PERIOD, VERIFY_BACKLOG, VERIFY_RECORDS, VERIFY_STEP,
};
use crate::store::{Damage, Store};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::{Frame, Verifying};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one client has asked for.
struct Verification {
    /// Where the next step begins.
    at: u64,
    /// Which blocks: those that leave this when their address is divided ...
    part: u32,
    /// ... by this, at least 1.
    of: u32,
    so_far: Verifying,
}

/// All verifications of a node.
pub(super) struct Verifier {
    clients: BTreeMap<ConnId, Verification>,
    /// Who had the last step.
    turn: Option<ConnId>,
    /// Where the next step in the background begins; `None` if it has not begun.
    scrub: Option<u64>,
    /// When; `None` if there is no such.
    scrub_at: Option<Instant>,
    /// Bytes read again in the background.
    pub scrubbed: u64,
}

/// Whether a block is of this part of all: by the first 8 bytes of its address.
fn is_of_part(id: &BlockId, part: u32, of: u32) -> bool {
    let first = id.0.first_chunk().expect("an address has 32 bytes");
    u64::from_be_bytes(*first) % u64::from(of) == u64::from(part)
}

/// The pause between two steps in the background, for a pack of this many bytes and blocks.
fn scrub_pause(bytes: u64, blocks: u64) -> Duration {
    let steps = (bytes / VERIFY_STEP).max(blocks / VERIFY_RECORDS as u64);
    let steps = u32::try_from(steps).unwrap_or(u32::MAX).max(1);
    (SCRUB_PERIOD / steps).clamp(SCRUB_PAUSE_MIN, SCRUB_PAUSE_MAX)
}

impl Verifier {
    /// Nobody has asked for anything. In the background something is read if this is a peer that stays.
    pub fn new(now: Instant, stays: bool) -> Verifier {
        Verifier {
            clients: BTreeMap::new(),
            turn: None,
            scrub: None,
            scrub_at: stays.then(|| now + SCRUB_PAUSE_MIN),
            scrubbed: 0,
        }
    }

    /// When the next step in the background is due.
    pub fn next_scrub(&self) -> Option<Instant> {
        self.scrub_at
    }

    /// A client has gone.
    pub fn handle_closed(&mut self, conn: ConnId) {
        self.clients.remove(&conn);
    }

    /// Whose step it is: the next in turn whose connection takes more.
    fn next(&self, takes_more: impl Fn(ConnId) -> bool) -> Option<ConnId> {
        let later = |conn: &ConnId| self.turn.is_none_or(|turn| *conn > turn);
        let able = |conn: &ConnId| takes_more(*conn);
        let mut conns: Vec<ConnId> = self.clients.keys().copied().filter(able).collect();
        conns.sort_by_key(|conn| !later(conn));
        conns.first().copied()
    }
}

impl<S: Store> Node<S> {
    /// A client wants a part of all blocks to be read again; one that has asked already begins anew.
    pub(super) fn begin_verifying(&mut self, conn: ConnId, part: u32, of: u32) {
        let verification = Verification {
            at: 0,
            part,
            of,
            so_far: Verifying::default(),
        };
        self.verifier.clients.insert(conn, verification);
    }

    /// Whether there is a step to be done for a client.
    pub(super) fn has_verifying(&self) -> bool {
        let takes_more = |conn| self.transfer.queued_bytes(conn) < VERIFY_BACKLOG;
        self.verifier.next(takes_more).is_some()
    }

    /// Does one step for a client, if there is one.
    pub(super) fn verify_some(&mut self) {
        let transfer = &self.transfer;
        let takes_more = |conn| transfer.queued_bytes(conn) < VERIFY_BACKLOG;
        let Some(conn) = self.verifier.next(takes_more) else {
            return;
        };
        self.verifier.turn = Some(conn);
        let Some(verification) = self.verifier.clients.get_mut(&conn) else {
            return;
        };
        let Verification { part, of, .. } = *verification;
        let is_wanted = |id: &BlockId| is_of_part(id, part, of);
        let verified = self.store.verify(verification.at, &is_wanted);
        let so_far = &mut verification.so_far;
        so_far.blocks += verified.blocks;
        so_far.bytes += verified.bytes;
        so_far.damaged += verified.damaged.len() as u64;
        so_far.at = verified.at;
        so_far.end = verified.end;
        so_far.is_done = verified.next.is_none();
        let so_far = *so_far;
        match verified.next {
            Some(next) => verification.at = next,
            None => self.verifier.handle_closed(conn),
        }
        for damage in verified.damaged {
            let Damage { offset, len, id } = damage;
            self.transfer
                .send(conn, &Frame::Damaged { offset, len, id });
        }
        self.transfer.send(conn, &Frame::Verifying(so_far));
    }

    /// Does a step in the background, and says when the next is due. Begins at a place that nobody chooses, so that
    /// a peer that is started again and again reads all of its pack in the end.
    pub(super) fn scrub_some(&mut self, now: Instant) {
        let from = match self.verifier.scrub {
            Some(from) => from,
            None => self.store.offset_near(&Point(self.rng.bytes())),
        };
        let verified = self.store.verify(from, &|_| true);
        self.verifier.scrubbed += verified.bytes;
        self.verifier.scrub = Some(verified.next.unwrap_or(0));
        let blocks = self.store.usage().blocks;
        self.verifier.scrub_at = Some(now + scrub_pause(verified.end, blocks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_block_between_them_and_none_twice() {
        let mut rng = crate::rng::Rng::new([8; 32]);
        for of in [1, 2, 7, 1000] {
            let id = BlockId(rng.bytes());
            let parts = (0..of).filter(|&part| is_of_part(&id, part, of));
            assert_eq!(parts.count(), 1);
        }
    }

    #[test]
    fn pack_is_read_again_in_a_month_at_a_rate_that_nobody_notices() {
        let period = |bytes: u64| scrub_pause(bytes, 9) * (bytes / VERIFY_STEP) as u32;
        let month = SCRUB_PERIOD.as_secs_f64();
        for bytes in [10 << 30, 100 << 30, 1 << 40] {
            let ratio = period(bytes).as_secs_f64() / month;
            assert!((0.99..1.01).contains(&ratio), "{bytes}: {ratio}");
        }
        assert_eq!(scrub_pause(0, 0), SCRUB_PAUSE_MAX);
        assert_eq!(scrub_pause(1 << 44, 9), SCRUB_PAUSE_MIN);
        let small = scrub_pause(1 << 30, 10_000_000) * (10_000_000 / VERIFY_RECORDS) as u32;
        assert!((0.99..1.01).contains(&(small.as_secs_f64() / month)));
    }
}
