//! Commits: notes are written, all is synced, and what waited for that happens.
//!
//! The order is what keeps blocks safe. A block's space goes back only after the note that it counts no more is
//! durable. A block that is moved counts at its old place until its copy is durable; only then is the old place
//! noted as a gap.

use super::gaps::Gaps;
use super::index::Entry;
use super::note::{encode_gaps, encode_terms, push_stretch, Stretch, PIN_LEN};
use super::record::{self, Record, TYPE_GAPS, TYPE_TERMS};
use super::PackStore;
use crate::id::BlockId;
use crate::limits::{NOTE_RETRY_SECS, NOTE_STATEMENTS_MAX, UNCOMMITTED_MAX};
use crate::store::{Sequence, Store, StoreError, Terms};
use crate::sys::plain;
use std::collections::BTreeMap;

/// A record that was copied to the tail.
pub(super) enum Move {
    /// A block, from where it counts until the copy is durable.
    Block { id: BlockId, from: Entry, to: u64 },
    /// The note of a pin.
    Pin { root: BlockId, from: u64, to: u64 },
}

/// What a commit is to do.
#[derive(Default)]
pub(super) struct Pending {
    /// Stretches that count no more, and of which no note has been written.
    gaps: Vec<Stretch>,
    /// New terms of which no note has been written, by the offset of the block's record.
    pub terms: BTreeMap<u64, Terms>,
    /// Copies that were written and are not yet durable.
    pub moves: Vec<Move>,
    /// What is to be gaps once the copies are durable.
    pub moved: Vec<Stretch>,
    /// The same where there are notes on terms, which have to be said again first.
    pub moved_with_terms: Vec<Stretch>,
    /// Not before this time are notes written again, in seconds since the Unix epoch: there was no room.
    retry_at: u64,
    /// The same of notes on terms, for which there is less room.
    terms_retry_at: u64,
}

impl Pending {
    /// These stretches count no more.
    pub fn new(gaps: Vec<Stretch>) -> Pending {
        Pending {
            gaps,
            ..Pending::default()
        }
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.moved_with_terms.is_empty() && !self.gives_space()
    }

    /// Whether there is something but terms: then space comes back.
    pub fn gives_space(&self) -> bool {
        !self.gaps.is_empty() || !self.moves.is_empty() || !self.moved.is_empty()
    }

    /// Whether a commit has something to do that it may do now.
    pub fn is_due(&self, time: u64) -> bool {
        let has_terms = !self.terms.is_empty() || !self.moved_with_terms.is_empty();
        self.gives_space() && time >= self.retry_at || has_terms && self.may_say_terms(time)
    }

    /// Whether notes could not be written by which space would come back, and are not tried again now.
    pub fn is_held_up(&self, time: u64) -> bool {
        self.gives_space() && time < self.retry_at
    }

    /// Whether notes on terms may be written now.
    pub fn may_say_terms(&self, time: u64) -> bool {
        time >= self.terms_retry_at
    }
}

/// A commit that is under way: what is true once all before `tail` is durable.
pub(super) struct Committing {
    tail: u64,
    written: Sequence,
    /// Of which notes were written.
    noted: Vec<Stretch>,
    /// Copies that were written.
    pub moves: Vec<Move>,
    /// What is to be gaps then.
    moved: Vec<Stretch>,
}

impl Committing {
    /// Whether space comes back by it.
    pub fn gives_space(&self) -> bool {
        !self.noted.is_empty() || !self.moves.is_empty() || !self.moved.is_empty()
    }
}

impl PackStore {
    /// Has a stretch noted as a gap by the next commit.
    pub(super) fn add_gap(&mut self, stretch: Stretch) {
        push_stretch(&mut self.pending.gaps, stretch);
    }

    /// Makes sure that one more gap can be noted; an error if so many wait that cannot be written.
    pub(super) fn reserve_gap(&mut self) -> Result<(), StoreError> {
        if self.pending.gaps.len() < NOTE_STATEMENTS_MAX {
            return Ok(());
        }
        self.commit_now()?;
        match self.pending.gaps.len() < NOTE_STATEMENTS_MAX {
            true => Ok(()),
            false => Err(self.failed("write", std::io::Error::from_raw_os_error(libc::ENOSPC))),
        }
    }

    /// Writes a note at the tail, if need be in the space that is set aside for notes.
    pub(super) fn append_note(
        &mut self,
        kind_of_record: u8,
        address: BlockId,
        payload: &[u8],
    ) -> Result<u64, StoreError> {
        let record = Record::of_note(kind_of_record, address, payload, self.stamp());
        if self.grow_for_note(&record).is_err() {
            log::debug!("a note takes of the space that is set aside for notes");
        }
        self.append(&record, payload)
    }

    /// Sets space aside for a note, if it is within the allotment.
    fn grow_for_note(&mut self, note: &Record) -> Result<(), StoreError> {
        let used = self.space.used(self.places());
        let ahead = self.space.ahead(self.tail, note.extent());
        // A copy is counted as long as there is one: half of the allotment is for it.
        let limit = match self.background.is_copying() {
            true => self.space.allotment.capacity,
            false => self.space.limit(),
        };
        match used + ahead <= limit {
            true => self.grow(note.extent()),
            false => Err(self.full()),
        }
    }

    /// What was copied and has gone since is to be noted with what it was copied from: the copy, too, is a record.
    fn forget_stale_copies(&mut self) {
        let moves = std::mem::take(&mut self.pending.moves);
        for copied in moves {
            let (counts, copy) = match &copied {
                Move::Block { id, from, to } => {
                    let copy = (*to, to + record::extent(from.len));
                    (self.index.at(id, from.offset).is_some(), copy)
                }
                Move::Pin { root, from, to } => {
                    let pin = self.pins.get(root);
                    let copy = (*to, to + record::extent(PIN_LEN));
                    (pin.is_some_and(|pin| pin.offset == *from), copy)
                }
            };
            match counts {
                true => self.pending.moves.push(copied),
                false => self.add_gap(copy),
            }
        }
    }

    /// Writes all gaps that are to be noted; those of which a note was written.
    fn write_gaps(&mut self) -> Result<Vec<Stretch>, StoreError> {
        let mut noted = Vec::new();
        while !self.pending.gaps.is_empty() {
            let count = self.pending.gaps.len().min(NOTE_STATEMENTS_MAX);
            let payload = encode_gaps(self.pending.gaps[..count].iter().copied());
            self.append_note(TYPE_GAPS, BlockId([0; 32]), &payload)?;
            noted.extend(self.pending.gaps.drain(..count));
        }
        Ok(noted)
    }

    /// Has the copy of a block carry terms that were renewed since it was made: they are said of it in the commit that
    /// makes it durable. Those of the place from which it was copied may be durable already, and that place is a gap
    /// before there is another commit.
    fn say_terms_of_copies(&mut self) -> Result<(), StoreError> {
        let mut terms = BTreeMap::new();
        for (nth, copied) in self.pending.moves.iter().enumerate() {
            if let Move::Block { id, from, to } = copied {
                let now = self.index.at(id, from.offset).map(|now| now.terms);
                if let Some(now) = now.filter(|now| now.lasting() != from.terms.lasting()) {
                    terms.insert(*to, (nth, now));
                }
            }
        }
        let said: Vec<(u64, (usize, Terms))> = terms.into_iter().collect();
        for some in said.chunks(NOTE_STATEMENTS_MAX) {
            self.append_terms(some.iter().map(|&(to, (_, now))| (to, now)))?;
            for &(_, (nth, now)) in some {
                if let Move::Block { from, .. } = &mut self.pending.moves[nth] {
                    from.terms = now;
                }
            }
        }
        Ok(())
    }

    fn append_terms(
        &mut self,
        terms: impl Iterator<Item = (u64, Terms)>,
    ) -> Result<(), StoreError> {
        let payload = encode_terms(terms);
        let record = Record::of_note(TYPE_TERMS, BlockId([0; 32]), &payload, self.stamp());
        self.grow_for_note(&record)?;
        let offset = self.append(&record, &payload)?;
        self.terms_notes.push((offset, offset + record.extent()));
        Ok(())
    }

    /// Writes all new terms, but nothing of them in the space that is set aside for notes: that is for those by which
    /// space comes back.
    fn write_terms(&mut self) -> Result<(), StoreError> {
        self.say_terms_of_copies()?;
        while !self.pending.terms.is_empty() {
            let nth = self.pending.terms.keys().nth(NOTE_STATEMENTS_MAX);
            let rest = nth.copied().unwrap_or(u64::MAX);
            let later = self.pending.terms.split_off(&rest);
            let now = std::mem::replace(&mut self.pending.terms, later);
            if let Err(error) = self.append_terms(now.iter().map(|(&at, &terms)| (at, terms))) {
                self.pending.terms.extend(now);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes durable all that was written, and what is to be noted, as far as it can be; waits for the disk.
    pub(super) fn commit_now(&mut self) -> Result<(), StoreError> {
        self.finish_commit()?;
        self.start_commit()?;
        self.finish_commit()
    }

    /// Begins that, unless it is under way.
    pub(super) fn start_commit(&mut self) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        if self.committing.is_some() {
            return Ok(());
        }
        let mut noted = Vec::new();
        if self.uncommitted() < UNCOMMITTED_MAX && self.pending.is_due(self.time) {
            self.forget_stale_copies();
            if self.pending.may_say_terms(self.time) {
                if let Err(error) = self.write_terms() {
                    log::debug!("{error}; new terms wait to be noted");
                    self.pending.terms_retry_at = self.time + NOTE_RETRY_SECS;
                }
            }
            // What was noted before an error is found again at an opening, and is noted twice at worst.
            let before = self.pending.gaps.clone();
            match self.write_gaps() {
                Ok(gaps) => noted = gaps,
                Err(error) => {
                    log::debug!("{error}; what is to be noted waits");
                    self.pending.gaps = before;
                    self.pending.retry_at = self.time + NOTE_RETRY_SECS;
                }
            }
        }
        let mut moved = std::mem::take(&mut self.pending.moved);
        if self.pending.terms.is_empty() {
            moved.append(&mut self.pending.moved_with_terms);
        }
        // Of a run in which nothing counts there is no copy, and nothing to be waited for.
        let has_ended = match self.uncommitted() {
            0 => Some(Ok(())),
            _ => self.disk.begin_sync(),
        };
        self.committing = Some(Committing {
            tail: self.tail,
            written: self.written,
            noted,
            moves: std::mem::take(&mut self.pending.moves),
            moved,
        });
        self.write_back_tail = self.tail;
        match has_ended {
            Some(synced) => self.end_commit(synced),
            None => Ok(()),
        }
    }

    /// Waits for the end of a commit that is under way.
    pub(super) fn finish_commit(&mut self) -> Result<(), StoreError> {
        self.look_at_commit(true)
    }

    /// Ends a commit that is under way, if the disk has done its part.
    pub(super) fn look_at_commit(&mut self, is_waited_for: bool) -> Result<(), StoreError> {
        if self.committing.is_none() {
            return Ok(());
        }
        match self.disk.poll_sync(is_waited_for) {
            Some(synced) => self.end_commit(synced),
            None => Ok(()),
        }
    }

    /// Does what waited for a sync.
    fn end_commit(&mut self, synced: std::io::Result<()>) -> Result<(), StoreError> {
        let Some(committing) = self.committing.take() else {
            return Ok(());
        };
        if let Err(error) = synced {
            return Err(self.give_up_writing(error));
        }
        self.committed_tail = committing.tail;
        self.committed = committing.written;
        for stretch in committing.noted {
            self.gaps.add(stretch);
            self.terms_notes.remove_within(stretch);
        }
        for copied in committing.moves {
            self.finish_move(copied);
        }
        for stretch in committing.moved {
            self.add_gap(stretch);
        }
        Ok(())
    }

    /// A sync has failed: the system may have dropped what was written, and what it reads as says nothing about the
    /// disk. Nor may a later opening believe it, which could not tell that it is only in memory; so it goes.
    pub(super) fn give_up_writing(&mut self, error: std::io::Error) -> StoreError {
        self.is_read_only = true;
        self.stop_compaction();
        let cause = plain(&error);
        log::warn!(
            "sync {}: {cause}; it is read-only now",
            self.disk.path().display()
        );
        let committed_tail = self.committed_tail;
        let (space, held, marks) = (&mut self.space, &mut self.held, &mut self.marks);
        self.index.retain(|entry| {
            if entry.offset < committed_tail {
                return Some(entry);
            }
            space.remove(entry.len);
            held.remove(entry.kind, u64::from(entry.len));
            marks.forget(&entry);
            None
        });
        self.pins.retain(|_, pin| pin.offset < committed_tail);
        self.pending = Pending::default();
        self.disk.set_end(committed_tail);
        self.tail = committed_tail;
        self.cut_back();
        self.failed("sync", error)
    }

    /// A copy is durable: from now on it is what counts, if what was copied still did.
    fn finish_move(&mut self, copied: Move) {
        match copied {
            Move::Block { id, from, to } => {
                let Some(now) = self.index.at(&id, from.offset) else {
                    return self.add_gap((to, to + record::extent(from.len)));
                };
                self.index.remove(&id, &now);
                if let Some(copy) = &mut self.copy {
                    copy.remove(&id, &now);
                }
                // It was compared just before it was copied.
                let checked = true;
                let moved = Entry {
                    offset: to,
                    checked,
                    ..now
                };
                self.index.insert(&id, moved);
                if let Some(copy) = &mut self.copy {
                    copy.insert(&id, &moved);
                }
                if let Some(terms) = self.pending.terms.remove(&from.offset) {
                    self.pending.terms.insert(to, terms);
                } else if now.terms.lasting() != from.terms.lasting() {
                    self.pending.terms.insert(to, now.terms);
                }
            }
            Move::Pin { root, from, to } => match self.pins.get_mut(&root) {
                Some(pin) if pin.offset == from => pin.offset = to,
                _ => self.add_gap((to, to + record::extent(PIN_LEN))),
            },
        }
    }

    /// The gaps that a note at this place speaks of, as they are now.
    pub(super) fn gaps_around(gaps: &Gaps, noted: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
        let mut now: Vec<Stretch> = noted.filter_map(|(start, _)| gaps.around(start)).collect();
        now.sort_unstable();
        now.dedup();
        now
    }
}
