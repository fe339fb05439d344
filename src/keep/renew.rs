//! Renewal: what a `serve` has pinned is kept by its holders as long as the pin lasts.
//!
//! The end of the own copy's lifetime says when a block was renewed last: it is moved only when others have been asked to
//! keep the block as long. Pins find what is due ([`is_due`]) as they are looked through; here it is begun, a few at a
//! time; `place` offers each to its holders for a whole lifetime, and gives it to others where they are too few. Called
//! by the node.

use super::link::lifetime_left;
use super::{Keep, Pins, Tools};
use crate::cell::place_of;
use crate::id::BlockId;
use crate::limits::{LIFETIME_MAX, RENEWING_AT_ONCE, RENEW_PAUSE};
use crate::store::{Store, Terms};
use crate::time::Instant;
use std::time::Duration;

/// Whether a block that is pinned is to be renewed: when half of a lifetime has gone, and up to a quarter more, evenly
/// over all addresses in their order. Thus an hour has its part of the blocks, which have the same holders; and there is
/// a quarter left for who was away.
pub fn is_due(now: Instant, id: &BlockId, terms: Option<Terms>) -> bool {
    let quarter = u128::from(LIFETIME_MAX.as_secs() / 4);
    let wait = (quarter * u128::from(place_of(id))) >> 64;
    let left = Duration::from_secs(lifetime_left(now, terms).into());
    terms.is_some() && left <= LIFETIME_MAX / 2 - Duration::from_secs(wait as u64)
}

/// The renewals of one peer.
pub struct Renewals {
    /// When more may be begun.
    next: Instant,
    renewed: u64,
}

impl Renewals {
    /// None has been.
    pub fn new(now: Instant) -> Renewals {
        Renewals {
            next: now,
            renewed: 0,
        }
    }

    /// Begins to renew some of what is due, if it is time. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>, keep: &mut Keep, pins: &mut Pins) {
        if self.next > tools.now {
            return;
        }
        self.next = tools.now + RENEW_PAUSE;
        if !tools.dht.has_joined() || !tools.dht.reached_anybody() {
            return;
        }
        while keep.renewing() < RENEWING_AT_ONCE {
            let Some((block, role)) = pins.poll_due() else {
                return;
            };
            if is_due(tools.now, &block, tools.store.terms(&block)) {
                keep.renew(tools, block, role);
            }
        }
    }

    /// When to call [`Renewals::handle_timeout`].
    pub fn next_timeout(&self, pins: &Pins) -> Option<Instant> {
        pins.has_due().then_some(self.next)
    }

    /// A block has been renewed by one of its holders at least: the own copy is kept as long.
    pub fn handle_renewed(&mut self, now: Instant, store: &mut dyn Store, block: &BlockId) {
        let terms = Terms::until((now + LIFETIME_MAX).as_secs());
        store.keep_until(block, terms.expires);
        self.renewed += 1;
    }

    /// Blocks renewed so far.
    pub fn count(&self) -> u64 {
        self.renewed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_due_one_after_the_other_in_the_third_quarter_of_their_lifetime() {
        let start = Instant::EPOCH + Duration::from_secs(3600 * 500_000);
        let terms = Terms::until((start + LIFETIME_MAX).as_secs());
        let due = |place: u8, hours: u64| {
            let mut id = BlockId([0; 32]);
            id.0[0] = place;
            is_due(start + Duration::from_secs(hours * 3600), &id, Some(terms))
        };
        for (place, hours) in [(0, 360), (64, 405), (128, 450), (255, 539)] {
            assert!(!due(place, hours - 1), "{place}");
            assert!(due(place, hours + 1), "{place}");
        }
        assert!(!is_due(start + LIFETIME_MAX, &BlockId([0; 32]), None));
    }
}
