//! Compaction: where a file system takes no part of a file back, all that counts is copied to another file, which
//! then takes the pack's name. Done in slices, while blocks come and go.
//!
//! The pack is copied from its start to its end, so that whatever happens to it meanwhile is met as a record in the
//! end: blocks and notes that come are copied in their turn. What is said of that which has been copied already is
//! said again in the copy when the note on it is met: new terms, and gaps. The copy has an id of its own, so that
//! nothing of the old pack counts in it, nor a checkpoint of it. Either file has, whole and durable, all that was
//! acknowledged, when the one takes the other's name.

use super::commit::Pending;
use super::copied::Copied;
use super::note::{decode_gaps, decode_terms, encode_gaps, encode_terms, Stretch, STATEMENT_LEN};
use super::record::{
    encode_file_header, PackId, Record, FILE_HEADERS_AT, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK,
    TYPE_GAPS, TYPE_TERMS,
};
use super::scan::{Last, PinNote};
use super::tail::header_crc;
use super::PackStore;
use crate::id::BlockId;
use crate::limits::*;
use crate::store::{Store, StoreError, Terms};
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind};

/// A copy that is being made.
pub(super) struct Compaction {
    id: PackId,
    /// All of the pack before this has been copied, as far as it counted.
    cursor: u64,
    /// Notes from here on may speak of what had been copied before they were written.
    begun_at: u64,
    /// Where the copy ends.
    tail: u64,
    last: Last,
    records: u64,
    /// Bytes of the copy that were written since its last sync.
    unsynced: u64,
}

/// The id of the copy of a pack: nobody knows it who does not know the pack's.
fn next_id(id: &PackId) -> PackId {
    let mut hasher = Sha256::new();
    hasher.update(b"strew pack copy");
    hasher.update(id.0);
    PackId(hasher.finalize().into())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}

impl Compaction {
    fn new(id: &PackId, begun_at: u64) -> Compaction {
        Compaction {
            id: next_id(id),
            cursor: RECORDS_AT,
            begun_at,
            tail: RECORDS_AT,
            last: Last::default(),
            records: 0,
            unsynced: RECORDS_AT,
        }
    }
}

impl PackStore {
    pub(super) fn wants_compaction(&self) -> bool {
        // What is too much is to go however little it is.
        let many = match self.is_too_large() {
            true => 0,
            false => self.space.limit() / 8,
        };
        self.space.is_halved
            && (self.background.compaction.is_some()
                || self.background.is_readable
                    && self.is_garbage_much(many)
                    && !self.is_copy_too_large())
    }

    /// Gives up a copy that is being made: for the end of a process.
    pub(super) fn stop_compaction(&mut self) {
        if self.background.compaction.take().is_some() {
            self.give_up_copy();
            self.space.measure(&*self.disk, self.tail);
        }
    }

    /// The pack stays as it is.
    fn give_up_copy(&mut self) {
        let said = self.copy.take().map_or(vec![], |copy| copy.said);
        for at in said {
            // Unless it has gone.
            if let Some(entry) = self.entry_at(at) {
                self.pending.terms.insert(at, entry.terms);
            }
        }
        if let Err(error) = self.disk.drop_copy() {
            // The next opening does it.
            log::debug!("{}", self.failed("remove the copy of", error));
        }
    }

    /// Begins a copy, goes on with it, or puts it in the pack's place.
    pub(super) fn compact(&mut self) {
        if !self.background.is_readable {
            // What was set aside may be sound, and would not be in a copy.
            return self.stop_compaction();
        }
        let result = match self.background.compaction.take() {
            None => self.begin_compaction(),
            Some(compaction) => self.go_on(compaction),
        };
        if let Err(error) = result {
            // The copy is tried again when there is more to be gained.
            log::debug!("{error}");
            self.end_search();
            self.give_up_copy();
        }
        self.space.measure(&*self.disk, self.tail);
    }

    fn begin_compaction(&mut self) -> Result<(), StoreError> {
        self.commit_all()?;
        let gaps: u64 = self.gaps.iter().map(|gap| gap.1 - gap.0).sum();
        let needed = self.tail - gaps + NOTE_RESERVE;
        let used = self.space.used(self.places());
        let free = self.disk.free_space();
        let free = free.map_err(|error| self.failed("look at the disk of", error))?;
        let allotment = self.space.allotment;
        // If more is used than allotted, a copy is the only way to less.
        let fits = used + needed <= allotment.capacity || self.is_too_large();
        if !fits || free < needed.saturating_add(allotment.min_free) {
            return Err(self.full());
        }
        let compaction = Compaction::new(&self.id, self.tail);
        let header = encode_file_header(&compaction.id);
        let begun = self.disk.begin_copy();
        let mut places = FILE_HEADERS_AT.into_iter();
        begun
            .and_then(|()| places.try_for_each(|at| self.disk.write_copy(&header, at)))
            .map_err(|error| self.failed("copy", error))?;
        self.background.compaction = Some(compaction);
        self.copy = Some(Copied::default());
        Ok(())
    }

    fn go_on(&mut self, mut compaction: Compaction) -> Result<(), StoreError> {
        let until = compaction.tail + self.background.copy_step;
        let mut effort = 0;
        while effort < COPY_RECORDS_MAX && compaction.cursor < self.tail && compaction.tail < until
        {
            let copied = self.copy_some(&mut compaction);
            effort += copied.map_err(|error| self.failed("copy", error))?;
        }
        // The end takes some time as well; but where little comes all the time, it must not wait for ever.
        let is_short = effort <= COPY_RECORDS_MAX / 4;
        if compaction.unsynced >= COPY_SYNC_STEP {
            let synced = self.disk.sync_copy();
            synced.map_err(|error| self.failed("sync the copy of", error))?;
            compaction.unsynced = 0;
        } else if compaction.cursor >= self.tail && is_short {
            self.commit_all()?;
            if self.uncommitted() > 0 || self.pending.gives_space() {
                return Err(self.full());
            }
            // Not if there was more to be said, which is copied first.
            if compaction.cursor >= self.tail {
                if self.pending.terms.is_empty() {
                    return self.put_in_place(compaction);
                }
                let said = self.say_waiting_terms(&mut compaction);
                said.map_err(|error| self.failed("copy", error))?;
            }
        }
        self.background.compaction = Some(compaction);
        Ok(())
    }

    /// Copies the record at the cursor, or goes past what does not count. Returns what that took: records and statements
    /// of notes.
    fn copy_some(&mut self, compaction: &mut Compaction) -> io::Result<usize> {
        let offset = compaction.cursor;
        if let Some((_, end)) = self.gaps.around(offset) {
            compaction.cursor = end;
            return Ok(1);
        }
        if let Some((_, &end)) = self.damaged.range(..=offset).next_back() {
            if offset < end {
                self.copy_damaged(compaction, end)?;
                return Ok(1);
            }
        }
        let mut header = [0; RECORD_HEADER_LEN];
        let read = self.disk.read_full(&mut header, offset)?;
        let Some(mut record) = Record::decode(&header[..read], &self.id, offset) else {
            self.pass_damage(compaction, offset)?;
            return Ok(1);
        };
        let mut payload = vec![0; record.len as usize];
        let at = offset + RECORD_HEADER_LEN as u64;
        let read = self.disk.read_full(&mut payload, at)?;
        if read < payload.len() || crc32fast::hash(&payload) != record.payload_crc {
            self.pass_damage(compaction, offset)?;
            return Ok(1);
        }
        compaction.cursor += record.extent();
        match record.kind_of_record {
            TYPE_BLOCK => {
                let id = BlockId(record.address);
                let entry = self.index.at(&id, offset);
                record.terms = entry.map_or(record.terms, |entry| entry.terms);
                self.copy_record(compaction, &record, &payload)?;
                self.handle_copied(compaction, (offset, compaction.cursor));
                if let (Some(entry), Some(copy)) = (entry, &mut self.copy) {
                    copy.insert(&id, &entry);
                }
            }
            // What they say was heeded before.
            TYPE_GAPS | TYPE_TERMS if offset < compaction.begun_at => {}
            TYPE_GAPS => {
                self.copy_gaps(compaction, decode_gaps(&payload, offset))?;
                return Ok(payload.len() / STATEMENT_LEN);
            }
            TYPE_TERMS => {
                let blocks = decode_terms(&payload, offset).map(|(at, _)| at);
                self.copy_terms(compaction, blocks)?;
                return Ok(payload.len() / STATEMENT_LEN);
            }
            // Pins as well, and what is of the future.
            _ => {
                self.copy_record(compaction, &record, &payload)?;
                self.handle_copied(compaction, (offset, compaction.cursor));
            }
        }
        Ok(1)
    }

    /// A stretch has been copied to the end of the copy.
    fn handle_copied(&mut self, compaction: &mut Compaction, from: Stretch) {
        if let Some(copy) = &mut self.copy {
            copy.handle_copied(from, compaction.tail);
        }
        compaction.tail += from.1 - from.0;
        compaction.unsynced += from.1 - from.0;
    }

    /// Notes in the copy what of these stretches of the pack it has, and counts no more.
    fn copy_gaps(
        &mut self,
        compaction: &mut Compaction,
        gaps: impl Iterator<Item = Stretch>,
    ) -> io::Result<()> {
        let copy = self.copy.as_ref();
        let gaps = gaps.flat_map(|gap| copy.into_iter().flat_map(move |copy| copy.places(gap)));
        let gaps: Vec<Stretch> = gaps.collect();
        for some in gaps.chunks(NOTE_STATEMENTS_MAX) {
            self.copy_note(compaction, TYPE_GAPS, &encode_gaps(some.iter().copied()))?;
        }
        if let Some(copy) = &mut self.copy {
            gaps.into_iter().for_each(|gap| copy.gaps.add(gap));
        }
        Ok(())
    }

    /// Notes in the copy the present terms of blocks, as many as fit one note, that lie here in the pack.
    fn copy_terms(
        &mut self,
        compaction: &mut Compaction,
        blocks: impl Iterator<Item = u64>,
    ) -> io::Result<()> {
        let terms = blocks.filter_map(|at| {
            let place = self.copy.as_ref()?.place(at)?;
            Some((place, self.entry_at(at)?.terms))
        });
        let terms: Vec<(u64, Terms)> = terms.collect();
        self.copy_note(compaction, TYPE_TERMS, &encode_terms(terms.into_iter()))
    }

    /// Notes in the copy some of the terms that wait since the pack has no room for notes on them.
    fn say_waiting_terms(&mut self, compaction: &mut Compaction) -> io::Result<()> {
        let nth = self.pending.terms.keys().nth(NOTE_STATEMENTS_MAX);
        let rest = nth.copied().unwrap_or(u64::MAX);
        let later = self.pending.terms.split_off(&rest);
        let said = std::mem::replace(&mut self.pending.terms, later);
        if let Some(copy) = &mut self.copy {
            copy.said.extend(said.keys());
        }
        self.copy_terms(compaction, said.into_keys())
    }

    /// Sets aside what is damaged at this place: it is copied as it is then. One bad block must not keep all others from
    /// being copied.
    fn pass_damage(&mut self, compaction: &Compaction, offset: u64) -> io::Result<()> {
        match self.set_aside_at(offset) {
            Some(_) if offset < compaction.begun_at => Ok(()),
            // It may be a note on what has been copied already; a new copy has that right.
            Some(_) => Err(bad("there is damage in what has come since")),
            None => Err(bad("it is read differently each time")),
        }
    }

    /// Copies a part of a damaged stretch as it is: nothing that could be saved by others is lost.
    fn copy_damaged(&mut self, compaction: &mut Compaction, end: u64) -> io::Result<()> {
        let from = (compaction.cursor, end.min(compaction.cursor + MOVE_MAX));
        let mut bytes = vec![0; (from.1 - from.0) as usize];
        if self.disk.read_full(&mut bytes, from.0)? < bytes.len() {
            return Err(bad("the file has been cut"));
        }
        self.disk.write_copy(&bytes, compaction.tail)?;
        self.handle_copied(compaction, from);
        compaction.cursor = from.1;
        Ok(())
    }

    fn copy_note(
        &mut self,
        compaction: &mut Compaction,
        kind_of_record: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        let none = BlockId([0; 32]);
        let record = Record::of_note(kind_of_record, none, payload, self.stamp());
        self.copy_record(compaction, &record, payload)?;
        let end = compaction.tail + record.extent();
        if let Some(copy) = self.copy.as_mut().filter(|_| kind_of_record == TYPE_TERMS) {
            copy.terms_notes.push((compaction.tail, end));
        }
        compaction.tail = end;
        compaction.unsynced += record.extent();
        Ok(())
    }

    /// Writes a record at the end of the copy, which the caller then sets.
    fn copy_record(
        &mut self,
        compaction: &mut Compaction,
        record: &Record,
        payload: &[u8],
    ) -> io::Result<()> {
        let header = record.encode(&compaction.id, compaction.tail);
        let mut bytes = [&header[..], payload].concat();
        bytes.resize(record.extent() as usize, 0);
        self.disk.write_copy(&bytes, compaction.tail)?;
        let (offset, crc) = (compaction.tail, header_crc(&header));
        compaction.last = Last { offset, crc };
        compaction.records += 1;
        Ok(())
    }

    /// The copy has all that the pack has, and the pack is durable: the one becomes the other.
    fn put_in_place(&mut self, compaction: Compaction) -> Result<(), StoreError> {
        let synced = self.disk.sync_copy();
        synced.map_err(|error| self.failed("sync the copy of", error))?;
        let replaced = self.disk.replace(compaction.tail);
        replaced.map_err(|error| self.failed("replace", error))?;
        self.take_places_of_copy(compaction);
        // Which of the two has the name after a power cut is not known before this: nothing may be acknowledged.
        match self.disk.sync_name() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.give_up_writing(error)),
        }
    }

    /// All that is known by its place in the pack is known by its place in the copy from now on. Linear in pins and
    /// damage alone, of which there are few.
    fn take_places_of_copy(&mut self, compaction: Compaction) {
        let copy = self.copy.take().unwrap_or_default();
        let pins = std::mem::take(&mut self.pins).into_iter();
        let pins = pins.filter_map(|(root, pin)| {
            let offset = copy.place(pin.offset)?;
            Some((root, PinNote { offset, ..pin }))
        });
        self.pins = pins.collect();
        let damaged = std::mem::take(&mut self.damaged).into_iter();
        let damaged = damaged.filter_map(|(start, end)| {
            let place = copy.place(start)?;
            Some((place, place + (end - start)))
        });
        self.damaged = damaged.collect();
        debug_assert_eq!(copy.index.len(), self.index.len(), "all blocks were copied");
        self.index = copy.index;
        self.gaps = copy.gaps;
        self.terms_notes = copy.terms_notes;
        self.pending = Pending::default();
        self.id = compaction.id;
        self.last = compaction.last;
        self.tail = compaction.tail;
        self.committed_tail = self.tail;
        self.write_back_tail = self.tail;
        self.space.cut(&*self.disk, self.tail);
        self.generation = self.generation.wrapping_add(1);
        self.marks.handle_compaction();
        self.evictor.forget();
        self.background.handle_compaction(compaction.records);
    }
}
