//! Work in the background, in slices of some milliseconds: pages of gaps go back to the file system, blocks
//! between gaps are moved to the tail so that the gaps become one, and checkpoints are written.

use super::checkpoint::{Contents, Writer};
use super::commit::Move;
use super::compact::Compaction;
use super::disk::Side;
use super::gaps::{page_bytes, PAGE};
use super::note::{decode_gaps, decode_terms, encode_gaps, encode_pin, Stretch, STATEMENT_LEN};
use super::record::{Record, RECORD_HEADER_LEN, TYPE_BLOCK, TYPE_GAPS, TYPE_PIN, TYPE_TERMS};
use super::PackStore;
use crate::id::BlockId;
use crate::limits::*;
use crate::store::{Store, StoreError, Terms};
use crate::sys::plain;
use std::io::ErrorKind;

/// To move a run of blocks, so many times what it gives back may be written at most.
const MOVE_COST_MAX: u64 = 16;

/// What is done in the background.
pub(super) struct Background {
    /// Where the next checkpoint is written, and its number.
    side: Side,
    sequence: u64,
    /// The pages by which the last two are told to be of this pack.
    guards: [Option<u64>; 2],
    pub writer: Option<Writer>,
    /// Records since the last checkpoint.
    records: u64,
    /// Records after which the next is written at the earliest.
    pub checkpoint_after: u64,
    /// Bytes of garbage from which on blocks are moved; a sixteenth of the allotment if not said.
    pub move_after: Option<u64>,
    /// Bytes of notes on terms from which on all terms are said again; half of what is left for them if not said.
    pub restate_after: Option<u64>,
    /// Whether checkpoints are written at all: not of a pack that could not all be read.
    pub is_readable: bool,
    /// Bytes that are copied to another file in one slice.
    pub copy_step: u64,
    /// A copy of the pack that is being made.
    pub compaction: Option<Compaction>,
    /// Whether something is left of what a copy has replaced.
    pub has_replaced: bool,
    /// Where the search for blocks to be moved goes on; `None` if there is none.
    cursor: Option<u64>,
    /// Garbage that was left when the last search ended.
    garbage_left: u64,
    /// From this time on it is tried again to gain it, whether or not there is more; in seconds since the Unix epoch.
    retry_at: u64,
    /// Until this time pages are believed not to go back, as some did not.
    held_up_until: u64,
}

impl Background {
    /// The next checkpoint is this, the last one has this guard, and so many records have come since.
    pub fn new(
        side: Side,
        sequence: u64,
        guard: Option<u64>,
        records: u64,
        is_readable: bool,
    ) -> Background {
        Background {
            side,
            sequence,
            guards: [guard, None],
            writer: None,
            records,
            checkpoint_after: CHECKPOINT_AFTER,
            move_after: None,
            restate_after: None,
            is_readable,
            copy_step: MOVE_MAX,
            compaction: None,
            has_replaced: false,
            cursor: None,
            garbage_left: 0,
            retry_at: 0,
            held_up_until: 0,
        }
    }

    /// What is known of the pack is no longer all that is there: no checkpoint of it is written.
    pub fn stop_checkpoints(&mut self) {
        self.is_readable = false;
        self.writer = None;
    }

    /// A copy of so many records has taken the place of the pack.
    pub fn handle_compaction(&mut self, records: u64) {
        self.writer = None;
        self.records = self.records.max(records);
        self.cursor = None;
        self.garbage_left = 0;
        self.has_replaced = true;
    }

    /// Whether pages could not be given back lately.
    pub fn is_held_up(&self, time: u64) -> bool {
        time < self.held_up_until
    }

    /// Whether there is a copy, or what one has replaced.
    pub fn is_copying(&self) -> bool {
        self.compaction.is_some() || self.has_replaced
    }

    /// A record was written.
    pub fn handle_record(&mut self) {
        self.records += 1;
    }
}

impl PackStore {
    pub(super) fn is_work_waiting(&self) -> bool {
        !self.is_read_only
            && self.committing.is_none()
            && (self.gaps.are_waiting()
                || self.pending.is_due(self.time)
                || self.background.has_replaced
                || self.wants_moving()
                || self.wants_compaction()
                || self.wants_restating()
                || self.wants_sweep()
                || self.marks.has_stale()
                || self.background.writer.is_some()
                || self.wants_checkpoint()
                || self.gaps.unseen().is_some())
    }

    /// Not while a commit is under way: what it makes true is not known to be yet.
    pub(super) fn do_a_slice(&mut self) {
        if self.is_read_only || self.committing.is_some() {
            return;
        }
        if self.gaps.are_waiting() {
            self.punch();
        } else if self.pending.is_due(self.time) {
            if let Err(error) = self.start_commit() {
                log::debug!("{error}");
            }
        } else if self.background.has_replaced {
            self.background.has_replaced = self.disk.drop_replaced();
            self.space.measure(&*self.disk, self.tail);
        } else if self.wants_compaction() {
            self.compact();
        } else if self.wants_moving() {
            if let Err(error) = self.move_some() {
                // There was no room for the copies; they are tried again when there is more to be gained.
                log::debug!("{error}");
                self.end_search();
            }
        } else if self.wants_restating() {
            self.restate_some();
        } else if self.wants_sweep() {
            let now = self.hour();
            self.evictor.sweep(&self.index, &self.marks, now);
        } else if self.marks.has_stale() {
            let copy = self.copy.as_mut().map(|copy| &mut copy.index);
            let indexes = [&mut self.index].into_iter().chain(copy);
            self.marks.clear_some(indexes);
        } else if self.background.writer.is_some() || self.wants_checkpoint() {
            self.write_checkpoint();
        } else if self.gaps.unseen().is_some() {
            self.punch_unseen();
        }
    }

    /// Whether blocks may soon have to go, and it is not known which have expired.
    fn wants_sweep(&self) -> bool {
        self.evictor.wants_sweep(self.hour())
            && self.lacks(BLOCK_SIZE_MAX as u32) > 0
            && !self.marks.protect_all(self.index.len())
    }

    /// Gives pages of some gaps back.
    pub(super) fn punch(&mut self) {
        let mut left = PUNCH_MAX;
        for _ in 0..PUNCHES_PER_SLICE {
            let Some(pages) = self.gaps.next_to_punch(left) else {
                break;
            };
            let pages = match self.without_guards(pages) {
                Ok(pages) => pages,
                Err(guard) => {
                    // It is not asked again.
                    self.gaps.give_up((guard, guard + PAGE));
                    continue;
                }
            };
            left -= pages.1 - pages.0;
            match self.give_back(pages) {
                true => self.gaps.set_punched(pages),
                false => self.gaps.give_up(pages),
            }
            if left == 0 {
                break;
            }
        }
        self.space.measure(&*self.disk, self.tail);
    }

    /// Gives pages back to the file system; whether that could be done.
    fn give_back(&mut self, pages: Stretch) -> bool {
        let Err(error) = self.disk.punch(pages.0, pages.1 - pages.0) else {
            return true;
        };
        if error.kind() == ErrorKind::Unsupported {
            self.space.halve(&*self.disk);
        } else {
            let (path, cause) = (self.disk.path().display(), plain(&error));
            log::warn!("give back space of {path}: {cause}");
            self.background.held_up_until = self.time + NOTE_RETRY_SECS;
        }
        false
    }

    /// Gives pages back of gaps that were found at the opening, as far as they are no holes: of those alone that a
    /// process left which was killed.
    pub(super) fn punch_unseen(&mut self) {
        let Some(mut at) = self.gaps.unseen() else {
            return;
        };
        let mut punches = 0;
        for _ in 0..GAPS_ASKED_PER_SLICE {
            let around = self.gaps.around(at);
            let next = around.or_else(|| self.gaps.iter_from(at).next());
            let first = next.map(|gap| at.max(gap.0).next_multiple_of(PAGE));
            let data = first.and_then(|first| self.disk.data_after(first));
            let (Some(gap), Some(data)) = (next, data) else {
                self.gaps.set_seen(None);
                break;
            };
            let (first, after) = (data / PAGE * PAGE, gap.1 / PAGE * PAGE);
            if first >= after {
                // There is no data before that.
                at = gap.1.max(first);
                continue;
            }
            let pages = (
                first,
                after.min(first + PUNCH_MAX / PUNCHES_PER_SLICE as u64),
            );
            at = match self.without_guards(pages) {
                Ok(pages) => {
                    self.give_back(pages);
                    punches += 1;
                    pages.1
                }
                Err(guard) => guard + PAGE,
            };
            if punches == PUNCHES_PER_SLICE {
                break;
            }
        }
        if self.gaps.unseen().is_some() {
            self.gaps.set_seen(Some(at));
        }
        if punches > 0 {
            self.space.measure(&*self.disk, self.tail);
        }
    }

    /// What may go back of these pages, from the first; if the first may not, that.
    fn without_guards(&self, (first, mut after): Stretch) -> Result<Stretch, u64> {
        let coming = self.background.writer.as_ref().map(Writer::guard);
        let guards = self.background.guards.into_iter().chain([coming]);
        for guard in guards.flatten() {
            if guard == first {
                return Err(guard);
            }
            if (first..after).contains(&guard) {
                after = guard;
            }
        }
        Ok((first, after))
    }

    /// Whether there is enough garbage between blocks that it is worth while to move them.
    pub(super) fn wants_moving(&self) -> bool {
        !self.space.is_halved
            && (self.background.cursor.is_some() || self.is_garbage_much(self.space.limit() / 16))
    }

    /// Whether there is more garbage than this, and the last attempt to gain it was long ago or ended with less.
    pub(super) fn is_garbage_much(&self, many: u64) -> bool {
        let is_more = self.gaps.garbage() > self.background.garbage_left / 4 * 5;
        self.has_garbage(many) && (is_more || self.time >= self.background.retry_at)
    }

    fn has_garbage(&self, many: u64) -> bool {
        self.gaps.garbage() > self.background.move_after.unwrap_or(many)
    }

    /// Whether a copy of the pack would give much back. If none can be made, to drop blocks is in vain.
    pub(super) fn needs_compaction(&self) -> bool {
        self.space.is_halved && self.has_garbage(self.space.limit() / 8)
    }

    /// To gain what there is to be gained is not tried again before there is more, or some time has gone by.
    pub(super) fn end_search(&mut self) {
        self.background.cursor = None;
        self.background.garbage_left = self.gaps.garbage();
        self.background.retry_at = self.time + RECLAIM_RETRY_SECS;
    }

    /// Looks at some gaps, and copies what lies between two of them to the tail if that gains more than it takes.
    pub(super) fn move_some(&mut self) -> Result<(), StoreError> {
        let from = self.background.cursor.unwrap_or(0);
        let mut gaps = self.gaps.iter_from(from).take(GAPS_PER_SLICE + 1);
        let mut before = gaps.next();
        // With the gaps before them.
        let mut runs = Vec::new();
        let mut bytes = 0;
        for after in gaps {
            let Some(gap) = before.replace(after) else {
                break;
            };
            let run = (gap.1, after.0);
            let len = run.1 - run.0;
            let back = page_bytes((gap.0, after.1)) - page_bytes(gap) - page_bytes(after);
            let gain = back.saturating_sub(len);
            if gain > 0 && len <= gain * MOVE_COST_MAX && len <= MOVE_MAX {
                runs.push((gap.0, run));
                bytes += len;
                if bytes >= MOVE_MAX {
                    break;
                }
            }
        }
        match before {
            Some(last) if last.0 > from => self.background.cursor = Some(last.0),
            _ => self.end_search(),
        }
        // Copies may take of what puts leave, but no more.
        let used = self.space.used(self.places());
        if used + bytes + NOTE_RESERVE > self.space.limit() {
            self.end_search();
            return Ok(());
        }
        let mut effort = 0;
        for (gap, run) in runs {
            if effort >= MOVE_RECORDS_MAX {
                // The search goes on here.
                self.background.cursor = Some(gap);
                break;
            }
            effort += self.move_run(run)?;
        }
        Ok(())
    }

    /// Copies all that counts of a run to the tail; how many records and statements were looked at. Nothing is done if
    /// there is something in it that is damaged, or not known, or if there are too many records: what they could give
    /// back is little beside what so many small blocks are charged.
    fn move_run(&mut self, run: Stretch) -> Result<usize, StoreError> {
        let (records, effort) = self.records_of(run);
        let Some(records) = records else {
            return Ok(effort);
        };
        let moves = self.pending.moves.len();
        let has_terms = |(_, record): &(u64, Record)| record.kind_of_record == TYPE_TERMS;
        let has_terms = records.iter().any(has_terms);
        let mut copies = Vec::new();
        let mut terms = Vec::new();
        for (offset, record) in records {
            let begun = self.tail;
            let done = self.move_record(offset, &record, &mut terms);
            if self.tail > begun {
                copies.push((begun, self.tail));
            }
            if !matches!(done, Ok(true)) {
                // What was copied so far counts no more than before.
                self.pending.moves.truncate(moves);
                for copy in copies {
                    self.add_gap(copy);
                }
                return done.map(|_| effort);
            }
        }
        self.pending.terms.extend(terms);
        match has_terms {
            true => self.pending.moved_with_terms.push(run),
            false => self.pending.moved.push(run),
        }
        Ok(effort)
    }

    /// The records of a run, by their headers; `None` if it is not all records, or there are too many, with the
    /// statements of notes on terms, of which each costs a look at a header. And how many were looked at.
    fn records_of(&self, run: Stretch) -> (Option<Vec<(u64, Record)>>, usize) {
        let mut records = Vec::new();
        let mut offset = run.0;
        let mut effort = 0;
        while offset < run.1 {
            let mut header = [0; RECORD_HEADER_LEN];
            let read = self.disk.read_full(&mut header, offset);
            let record = read.map(|read| Record::decode(&header[..read], &self.id, offset));
            let Ok(Some(record)) = record else {
                return (None, effort);
            };
            effort += 1;
            let statements = match record.kind_of_record {
                TYPE_TERMS => record.len as usize / STATEMENT_LEN,
                _ => 0,
            };
            if effort + statements > MOVE_RECORDS_MAX {
                return (None, effort);
            }
            effort += statements;
            offset += record.extent();
            records.push((offset - record.extent(), record));
        }
        ((offset == run.1).then_some(records), effort)
    }

    /// Copies a record to the tail if it counts; false if it cannot be told. Terms are to be said again.
    fn move_record(
        &mut self,
        offset: u64,
        record: &Record,
        terms: &mut Vec<(u64, Terms)>,
    ) -> Result<bool, StoreError> {
        let id = BlockId(record.address);
        if record.kind_of_record == TYPE_BLOCK {
            let Some(from) = self.index.at(&id, offset) else {
                // Another record of the block stands, or it is damaged and set aside.
                return Ok(!self.damaged.contains_key(&offset) && self.has(&id));
            };
            let mut bytes = Vec::new();
            let Ok(Some(record)) = self.read_sound(&from, &mut bytes) else {
                return Ok(false);
            };
            let now = Record {
                terms: from.terms,
                ..record
            };
            self.grow(now.extent())?;
            let to = self.append(&now, &bytes[RECORD_HEADER_LEN..])?;
            self.pending.moves.push(Move::Block { id, from, to });
            return Ok(true);
        }
        let mut payload = vec![0; record.len as usize];
        let read = self
            .disk
            .read_full(&mut payload, offset + RECORD_HEADER_LEN as u64);
        let is_whole = read.is_ok_and(|read| read == payload.len());
        if !is_whole || crc32fast::hash(&payload) != record.payload_crc {
            return Ok(false);
        }
        match record.kind_of_record {
            TYPE_GAPS => {
                let now = PackStore::gaps_around(&self.gaps, decode_gaps(&payload, offset));
                for chunk in now.chunks(NOTE_STATEMENTS_MAX) {
                    let payload = encode_gaps(chunk.iter().copied());
                    self.append_note(TYPE_GAPS, BlockId([0; 32]), &payload)?;
                }
            }
            TYPE_TERMS => {
                for (at, _) in decode_terms(&payload, offset) {
                    terms.extend(self.entry_at(at).map(|entry| (at, entry.terms)));
                }
            }
            TYPE_PIN => {
                let pin = self.pins.get(&id);
                if let Some(pin) = pin.copied().filter(|pin| pin.offset == offset) {
                    let to = self.append_note(TYPE_PIN, id, &encode_pin(pin.len))?;
                    let (root, from) = (id, offset);
                    self.pending.moves.push(Move::Pin { root, from, to });
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The block whose record lies at this offset, if there is one.
    pub(super) fn entry_at(&self, offset: u64) -> Option<super::Entry> {
        let mut header = [0; RECORD_HEADER_LEN];
        let read = self.disk.read_full(&mut header, offset).ok()?;
        let record = Record::decode(&header[..read], &self.id, offset)?;
        self.index.at(&BlockId(record.address), offset)
    }

    fn wants_checkpoint(&self) -> bool {
        let due = self.background.checkpoint_after.max(self.index.len() / 8);
        self.background.is_readable && self.background.records >= due
    }

    /// Begins a checkpoint, goes on with it, or seals it.
    fn write_checkpoint(&mut self) {
        let result = match self.background.writer.take() {
            None => self.begin_checkpoint(),
            Some(mut writer) => {
                let contents = Contents {
                    index: &self.index,
                    gaps: &self.gaps,
                    pins: &self.pins,
                    damaged: &self.damaged,
                    terms_notes: &self.terms_notes,
                };
                match writer.step(&mut *self.disk, &contents) {
                    Ok(false) => {
                        self.background.writer = Some(writer);
                        Ok(())
                    }
                    Ok(true) => self.seal(writer),
                    Err(error) => Err(self.failed("write a checkpoint of", error)),
                }
            }
        };
        if let Err(error) = result {
            // Without one the next opening takes longer, and that is all.
            log::debug!("{error}");
            self.background.records = 0;
        }
    }

    /// All before a checkpoint's end has to be durable, and said in the pack.
    fn begin_checkpoint(&mut self) -> Result<(), StoreError> {
        if self.commit_all()? {
            let Background { side, sequence, .. } = self.background;
            let writer = Writer::new(side, sequence, self.tail, self.last);
            self.background.writer = Some(writer);
        }
        self.background.records = 0;
        Ok(())
    }

    /// Makes everything durable, what follows from that included; whether nothing is left.
    pub(super) fn commit_all(&mut self) -> Result<bool, StoreError> {
        // Once copies are durable, what they were copied from is noted as gaps.
        for _ in 0..2 {
            self.commit_now()?;
        }
        Ok(self.uncommitted() == 0 && self.pending.is_empty())
    }

    fn seal(&mut self, writer: Writer) -> Result<(), StoreError> {
        if !self.commit_all()? {
            return Ok(());
        }
        let (side, guard) = (writer.side(), writer.guard());
        let sealed = writer.seal(&mut *self.disk, &self.id);
        sealed.map_err(|error| self.failed("write a checkpoint of", error))?;
        self.background.side = side.other();
        self.background.sequence += 1;
        self.background.guards = [Some(guard), self.background.guards[0]];
        Ok(())
    }

    /// Writes a checkpoint at once, if much has come since the last.
    pub(super) fn seal_at_close(&mut self) {
        let is_due = self.background.records >= CHECKPOINT_AT_CLOSE;
        if !is_due && self.background.writer.is_none() || !self.background.is_readable {
            return;
        }
        self.background.writer = None;
        self.write_checkpoint();
        while self.background.writer.is_some() {
            self.write_checkpoint();
        }
    }
}
