//! Room for a block: others go for it, and their space at once.

use super::evict::Wanted;
use super::{Entry, PackStore};
use crate::id::BlockId;
use crate::limits::*;
use crate::store::{Claim, Shrunk, Store, StoreError};

/// Rounds of making room for one block at most: each drops as many blocks as may go at once.
const ROUNDS_MAX: usize = 16;

/// Rounds that gain nothing, at most.
const VAIN_ROUNDS_MAX: u32 = 2;

/// Slices of giving pages back between two rounds at most: as each gives back 16 KiB at least, a block fits then, if
/// the allotment is not exceeded.
const PUNCH_SLICES_MAX: usize = 32;

impl PackStore {
    /// Whether there will be more room without anything being dropped.
    pub(super) fn is_space_coming(&self) -> bool {
        // Gaps that are noted join others, and take less room in a checkpoint. A copy gives much back, but not soon.
        let committing = self.committing.as_ref();
        committing.is_some_and(|it| it.gives_space())
            || self.pending.gives_space() && !self.pending.is_held_up(self.time)
            || !self.space.is_halved && (self.gaps.are_waiting() || self.wants_moving())
    }

    /// Whether there will be more room once the pack has been copied.
    fn is_copy_coming(&self) -> bool {
        self.wants_compaction() || self.background.has_replaced
    }

    /// Whether what is dropped now gives nothing back: so much has been dropped that the pack is to be copied, whether
    /// or not that can be done; or it cannot be noted, or not be given back.
    pub(super) fn is_dropping_vain(&self) -> bool {
        self.is_copy_coming() || self.needs_compaction() || self.is_held_up()
    }

    fn is_held_up(&self) -> bool {
        self.pending.is_held_up(self.time) || self.background.is_held_up(self.time)
    }

    /// Whether something may go for the one that has this claim.
    pub(super) fn has_victim(&mut self, claim: &Claim<'_>) -> bool {
        let one = Wanted { count: 1, bytes: 1 };
        !self.victims(claim, one).is_empty()
    }

    fn victims(&mut self, claim: &Claim<'_>, wanted: Wanted) -> Vec<(BlockId, Entry)> {
        let now = self.hour();
        let PackStore {
            evictor,
            index,
            marks,
            disk,
            ..
        } = self;
        let address = |entry: &Entry| super::read_address(&**disk, entry).ok().flatten();
        evictor.victims(index, marks, now, claim, &address, wanted)
    }

    /// Gives pages back until a block of this many bytes fits, or none are left that may go; whether it does. The
    /// rest is left to the background: each call takes some 0.1 ms.
    fn punch_until_fits(&mut self, len: u32) -> bool {
        for _ in 0..PUNCH_SLICES_MAX {
            if self.lacks(len) == 0 {
                break;
            } else if self.gaps.are_waiting() {
                self.punch();
            } else if self.gaps.unseen().is_some() {
                self.punch_unseen();
            } else {
                break;
            }
        }
        self.lacks(len) == 0
    }

    /// Drops blocks until one of this many bytes fits.
    pub(super) fn evict(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        if self.lacks(len) > 0 {
            // What it gives back need not be gained by dropping more.
            self.finish_commit()?;
        }
        let mut vain = 0;
        for _ in 0..ROUNDS_MAX {
            if self.punch_until_fits(len) {
                self.drop_ahead(len, claim)?;
                if self.lacks(len) == 0 {
                    return Ok(());
                }
            }
            self.is_evicting = true;
            if self.is_dropping_vain() {
                break;
            }
            let (lacking, garbage) = (self.lacks(len), self.gaps.garbage());
            let wanted = Wanted {
                count: EVICTIONS_MAX,
                bytes: lacking.max(self.evict_step()),
            };
            let is_last = self.drop_some(claim, wanted)? == 0;
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
                // Nothing was gained, nor is there more to be moved together. Once it may be that a few small blocks
                // have expired, and that to note it took a page.
                vain += 1;
                if vain == VAIN_ROUNDS_MAX {
                    break;
                }
            }
        }
        match self.lacks(len) {
            0 => Ok(()),
            _ => Err(self.full()),
        }
    }

    /// Bytes that are dropped together.
    fn evict_step(&self) -> u64 {
        EVICT_STEP.min(self.space.limit() / 32)
    }

    /// Where blocks have had to make room, and there is room for one, drops what has to go for the next ones, so that
    /// nothing waits for the disk when they come.
    fn drop_ahead(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError> {
        // To note what goes takes some room, too.
        if !self.is_evicting || self.lacks(len + NOTE_RESERVE as u32) > 0 {
            return Ok(());
        }
        if self.gaps.are_waiting() {
            self.punch();
        }
        let step = self.evict_step();
        let is_near = self.lacks(len + step as u32) > 0;
        // With some to spare, as each time leaves room for about one step.
        self.is_evicting = self.lacks(len + 4 * step as u32) > 0;
        let is_vain = self.space.is_halved || self.is_dropping_vain();
        if is_near && !is_vain && !self.is_space_coming() {
            let wanted = Wanted {
                count: EVICTIONS_MAX,
                bytes: step,
            };
            self.remove_some(claim, wanted)?;
        }
        Ok(())
    }

    /// Whether a commit gives room, this one or the next, and there is none before for what comes in one go.
    pub(super) fn is_room_to_come(&self) -> bool {
        let committing = self.committing.as_ref();
        let is_coming = committing.is_some_and(|it| it.gives_space())
            || self.pending.gives_space() && !self.pending.is_held_up(self.time);
        let is_wanted = self.is_evicting && !self.is_read_only;
        is_wanted && is_coming && self.lacks(2 * BLOCK_SIZE_MAX as u32) > 0
    }

    /// Drops the blocks that go first, and makes it durable; how many.
    fn drop_some(&mut self, claim: &Claim<'_>, wanted: Wanted) -> Result<usize, StoreError> {
        let count = self.remove_some(claim, wanted)?;
        self.commit_now()?;
        Ok(count)
    }

    /// Removes the blocks that go first; how many.
    fn remove_some(&mut self, claim: &Claim<'_>, wanted: Wanted) -> Result<usize, StoreError> {
        let victims = self.victims(claim, wanted);
        let count = victims.len();
        for (id, _) in victims {
            if let Err(error) = self.remove(&id) {
                // The rest is to be found again.
                self.evictor.forget();
                return Err(error);
            }
        }
        Ok(count)
    }

    /// Whether more is used than allotted. A copy does not count.
    pub(super) fn is_too_large(&self) -> bool {
        let used = self.space.used(self.places());
        used > self.space.limit() && !self.background.is_copying()
    }

    /// Whether more would be used than allotted if the pack were copied.
    pub(super) fn is_copy_too_large(&self) -> bool {
        let used = self.space.used(self.places()) - self.gaps.garbage();
        self.is_too_large() && used > self.space.limit()
    }

    /// Drops some of what is too much; the background gives its space back.
    pub(super) fn shrink_some(&mut self, claim: &Claim<'_>) -> Result<Shrunk, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        // Where the file system takes no part of a file back, one copy is made when enough has been dropped.
        let is_enough = self.space.is_halved && !self.is_copy_too_large();
        if is_enough || self.is_held_up() || !self.marks.is_known() {
            return Ok(Shrunk::Later);
        }
        let excess = self
            .space
            .used(self.places())
            .saturating_sub(self.space.limit());
        let wanted = Wanted {
            count: EVICTIONS_MAX,
            bytes: excess.min(EVICT_STEP),
        };
        match self.drop_some(claim, wanted)? {
            0 if !self.evictor.has_more() => Ok(Shrunk::Nothing),
            _ => Ok(Shrunk::Some),
        }
    }
}
