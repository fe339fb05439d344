//! Compaction: where a file system takes no part of a file back, all that counts is copied to another file, which
//! then takes the pack's name. Done in slices, while blocks come and go.
//!
//! The pack is copied from its start to its end, so that whatever happens to it meanwhile is met as a record in the
//! end: blocks and notes that come are copied in their turn. What is said of that which has been copied already is
//! said again in the copy: new terms when the note on them is met, gaps at the end. The copy has an id of its own,
//! so that nothing of the old pack counts in it, nor a checkpoint of it. Either file has, whole and durable, all that
//! was acknowledged, when the one takes the other's name.

use super::commit::Pending;
use super::gaps::Gaps;
use super::index::Entry;
use super::note::{decode_terms, encode_gaps, encode_terms, Stretch};
use super::record::{
    encode_file_header, PackId, Record, FILE_HEADERS_AT, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK,
    TYPE_GAPS, TYPE_TERMS,
};
use super::scan::{Last, PinNote};
use super::tail::header_crc;
use super::terms::TermsNotes;
use super::PackStore;
use crate::id::BlockId;
use crate::limits::*;
use crate::store::{Store, StoreError, Terms};
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind};

/// A stretch of the pack, and where in the copy it begins.
struct Run {
    from: Stretch,
    to: u64,
}

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
    terms_notes: TermsNotes,
    /// In order.
    runs: Vec<Run>,
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
            terms_notes: TermsNotes::default(),
            runs: Vec::new(),
            unsynced: RECORDS_AT,
        }
    }

    /// Where in the copy that lies which lies here in the pack.
    fn moved(&self, offset: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.from.1 <= offset);
        let run = self.runs.get(at)?;
        (run.from.0 <= offset).then(|| run.to + (offset - run.from.0))
    }

    /// This stretch of the pack has been copied to the end of the copy.
    fn handle_copied(&mut self, from: Stretch) {
        let (to, len) = (self.tail, from.1 - from.0);
        match self.runs.last_mut() {
            Some(run) if run.from.1 == from.0 && run.to + (from.0 - run.from.0) == to => {
                run.from.1 = from.1;
            }
            _ => self.runs.push(Run { from, to }),
        }
        self.tail += len;
        self.unsynced += len;
    }

    /// What has been copied and counts no more, as it lies in the copy.
    fn gaps(&self, gaps: &Gaps) -> Vec<Stretch> {
        let mut list = Vec::new();
        for Run { from, to } in &self.runs {
            let within = gaps.around(from.0).into_iter();
            let within = within.chain(gaps.iter_from(from.0 + 1));
            for (start, end) in within.take_while(|gap| gap.0 < from.1) {
                let (start, end) = (start.max(from.0), end.min(from.1));
                list.push((to + (start - from.0), to + (end - from.0)));
            }
        }
        list
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
            // If it cannot be removed, the next opening does it.
            let _ = self.disk.drop_copy();
            self.space.measure(&*self.disk, self.tail);
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
            // The pack is as it was. The copy is tried again when there is more to be gained.
            log::debug!("{error}");
            self.end_search();
            if let Err(error) = self.disk.drop_copy() {
                log::debug!("{}", self.failed("remove the copy of", error));
            }
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
        Ok(())
    }

    fn go_on(&mut self, mut compaction: Compaction) -> Result<(), StoreError> {
        let until = compaction.tail + self.background.copy_step;
        for _ in 0..COPY_RECORDS_MAX {
            if compaction.cursor >= self.tail || compaction.tail >= until {
                break;
            }
            let copied = self.copy_some(&mut compaction);
            copied.map_err(|error| self.failed("copy", error))?;
        }
        if compaction.unsynced >= COPY_SYNC_STEP {
            let synced = self.disk.sync_copy();
            synced.map_err(|error| self.failed("sync the copy of", error))?;
            compaction.unsynced = 0;
        } else if compaction.cursor >= self.tail {
            self.commit_all()?;
            if self.uncommitted() > 0 || self.pending.gives_space() {
                return Err(self.full());
            }
            // Not if there was more to be said, which is copied first.
            if compaction.cursor >= self.tail {
                return self.put_in_place(compaction);
            }
        }
        self.background.compaction = Some(compaction);
        Ok(())
    }

    /// Copies the record at the cursor, or goes past what does not count.
    fn copy_some(&mut self, compaction: &mut Compaction) -> io::Result<()> {
        let offset = compaction.cursor;
        if let Some((_, end)) = self.gaps.around(offset) {
            compaction.cursor = end;
            return Ok(());
        }
        if let Some((_, &end)) = self.damaged.range(..=offset).next_back() {
            if offset < end {
                return self.copy_damaged(compaction, end);
            }
        }
        let mut header = [0; RECORD_HEADER_LEN];
        let read = self.disk.read_full(&mut header, offset)?;
        let Some(mut record) = Record::decode(&header[..read], &self.id, offset) else {
            return self.pass_damage(compaction, offset);
        };
        let mut payload = vec![0; record.len as usize];
        let at = offset + RECORD_HEADER_LEN as u64;
        let read = self.disk.read_full(&mut payload, at)?;
        if read < payload.len() || crc32fast::hash(&payload) != record.payload_crc {
            return self.pass_damage(compaction, offset);
        }
        compaction.cursor += record.extent();
        match record.kind_of_record {
            TYPE_BLOCK => {
                if let Some(entry) = self.index.at(&BlockId(record.address), offset) {
                    record.terms = entry.terms;
                }
            }
            TYPE_GAPS => return Ok(()),
            TYPE_TERMS => {
                if offset >= compaction.begun_at {
                    let said = decode_terms(&payload, offset);
                    let now: Vec<(u64, Terms)> = said
                        .filter_map(|(at, _)| {
                            let moved = compaction.moved(at)?;
                            Some((moved, self.entry_at(at)?.terms))
                        })
                        .collect();
                    self.copy_note(compaction, TYPE_TERMS, &encode_terms(now.into_iter()))?;
                }
                return Ok(());
            }
            // Pins as well, and what is of the future.
            _ => {}
        }
        self.copy_record(compaction, &record, &payload)?;
        compaction.handle_copied((offset, compaction.cursor));
        Ok(())
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
        compaction.handle_copied(from);
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
        if kind_of_record == TYPE_TERMS {
            compaction.terms_notes.push((compaction.tail, end));
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
    fn put_in_place(&mut self, mut compaction: Compaction) -> Result<(), StoreError> {
        // For which there was no room.
        let terms = self.pending.terms.iter();
        let terms = terms.filter_map(|(&at, &terms)| Some((compaction.moved(at)?, terms)));
        let terms: Vec<(u64, Terms)> = terms.collect();
        for some in terms.chunks(NOTE_STATEMENTS_MAX) {
            let payload = encode_terms(some.iter().copied());
            let written = self.copy_note(&mut compaction, TYPE_TERMS, &payload);
            written.map_err(|error| self.failed("copy", error))?;
        }
        let gaps = compaction.gaps(&self.gaps);
        for some in gaps.chunks(NOTE_STATEMENTS_MAX) {
            let payload = encode_gaps(some.iter().copied());
            let written = self.copy_note(&mut compaction, TYPE_GAPS, &payload);
            written.map_err(|error| self.failed("copy", error))?;
        }
        let synced = self.disk.sync_copy();
        synced.map_err(|error| self.failed("sync the copy of", error))?;
        let replaced = self.disk.replace(compaction.tail);
        replaced.map_err(|error| self.failed("replace", error))?;
        self.move_all(compaction, gaps);
        // Which of the two has the name after a power cut is not known before this: nothing may be acknowledged.
        match self.disk.sync_name() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.give_up_writing(error)),
        }
    }

    /// All that is known by its place in the pack is known by its place in the copy from now on. Linear.
    fn move_all(&mut self, compaction: Compaction, gaps: Vec<Stretch>) {
        self.index.retain(|entry| {
            let offset = compaction.moved(entry.offset)?;
            Some(Entry { offset, ..entry })
        });
        self.gaps = Gaps::default();
        for gap in gaps {
            self.gaps.add(gap);
        }
        let pins = std::mem::take(&mut self.pins).into_iter();
        let pins = pins.filter_map(|(root, pin)| {
            let offset = compaction.moved(pin.offset)?;
            Some((root, PinNote { offset, ..pin }))
        });
        self.pins = pins.collect();
        let damaged = std::mem::take(&mut self.damaged).into_iter();
        let damaged = damaged.filter_map(|(start, end)| {
            let moved = compaction.moved(start)?;
            Some((moved, moved + (end - start)))
        });
        self.damaged = damaged.collect();
        self.terms_notes = compaction.terms_notes;
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
