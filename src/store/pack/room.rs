//! Room for a block: others go for it, and their space at once.

use super::record;
use super::PackStore;
use crate::limits::*;
use crate::store::{Claim, Store, StoreError};

/// Rounds of making room for one block at most: each drops as many blocks as may go at once.
const ROUNDS_MAX: usize = 16;

impl PackStore {
    /// Whether there will be more room without anything being dropped.
    pub(super) fn is_space_coming(&self) -> bool {
        // Gaps that are noted join others, and take less room in a checkpoint. A copy gives much back, but not soon.
        self.pending.gives_space() && !self.pending.is_held_up(self.time)
            || !self.space.is_halved && (self.gaps.are_waiting() || self.wants_moving())
    }

    /// Whether there will be more room once the pack has been copied.
    fn is_copy_coming(&self) -> bool {
        self.wants_compaction() || self.background.has_replaced
    }

    /// Whether what is dropped now gives nothing back: so much has been dropped that the pack is to be copied, whether
    /// or not that can be done; or it cannot be noted, or not be given back.
    pub(super) fn is_dropping_vain(&self) -> bool {
        self.is_copy_coming()
            || self.needs_compaction()
            || self.pending.is_held_up(self.time)
            || self.background.is_held_up(self.time)
    }

    /// Whether something may go for the one that has this claim.
    pub(super) fn has_victim(&self, claim: &Claim<'_>) -> bool {
        let (evictor, now) = (&mut self.evictor.clone(), self.hour());
        let address = |entry: &super::Entry| self.address(entry).ok().flatten();
        let victims = evictor.victims(&self.index, &self.marks, now, claim, &address, 1);
        !victims.is_empty()
    }

    /// Gives pages back until a block of this many bytes fits, or none are left that may go; whether it does. The
    /// rest is left to the background: each call takes some 0.1 ms.
    fn punch_until_fits(&mut self, len: u32) -> bool {
        while self.lacks(len) > 0 && self.gaps.are_waiting() {
            self.punch();
        }
        self.lacks(len) == 0
    }

    /// Drops blocks until one of this many bytes fits.
    pub(super) fn evict(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        for _ in 0..ROUNDS_MAX {
            if self.punch_until_fits(len) {
                return Ok(());
            }
            if self.is_dropping_vain() {
                break;
            }
            let (lacking, garbage) = (self.lacks(len), self.gaps.garbage());
            let mut wanted = lacking.max(EVICT_STEP.min(self.space.limit() / 32));
            let now = self.hour();
            let PackStore {
                evictor,
                index,
                marks,
                disk,
                ..
            } = self;
            let address = |entry: &super::Entry| super::read_address(&**disk, entry).ok().flatten();
            let victims = evictor.victims(index, marks, now, claim, &address, EVICTIONS_MAX);
            let is_last = victims.is_empty();
            for (id, entry) in victims {
                if wanted == 0 {
                    // It is found again next time.
                    self.evictor.handle_release();
                    break;
                }
                self.remove(&id)?;
                wanted = wanted.saturating_sub(record::extent(entry.len));
            }
            self.commit()?;
            if self.space.is_halved {
                break;
            }
            let fits = self.punch_until_fits(len);
            // To move blocks costs more syncs: that is left to the background, but where nothing else helps.
            let is_stuck = !fits && (is_last || self.lacks(len) >= lacking);
            if is_stuck && self.wants_moving() {
                self.move_some()?;
                // The copies become durable, then what is noted of the old places; then their pages go back.
                self.commit_all()?;
            } else if fits || is_last {
                break;
            } else if self.lacks(len) >= lacking && self.gaps.garbage() <= garbage {
                // Nothing was gained, nor is there more to be moved together.
                break;
            }
        }
        match self.lacks(len) {
            0 => Ok(()),
            _ => Err(self.full()),
        }
    }
}
