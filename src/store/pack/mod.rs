//! The store of a data directory: one append-only file, the pack, specified in strew-pack(5).
//!
//! `record` and `note` have its bytes, `disk` holds them, `window` reads them and `map` shows them, `scan` finds out
//! what they come to, and `checkpoint` keeps that for the next `opening`. New ones are written at the `tail`, and
//! `commit` makes them durable. `index` knows where which block lies, `gaps` where nothing counts any more, `space`
//! what all that takes, and `terms` keeps notes on terms from becoming too many. If there is no `room`, `evict` says who
//! goes first; `reclaim` gives space back, in slices, and `compact` where holes are impossible, by a copy, of which what
//! has been `copied` is known. `verify` reads everything again, and `lock` keeps other processes away.
//! Nothing here asks the time or draws entropy: both are given.

mod checkpoint;
mod commit;
mod compact;
mod copied;
mod disk;
mod evict;
mod gaps;
mod index;
mod lock;
mod map;
mod note;
mod opening;
mod reclaim;
mod record;
mod room;
mod scan;
mod space;
mod syncer;
mod tail;
mod terms;
mod verify;
mod window;

pub use super::Allotment;
pub use lock::{make_dir, DirLock, LockError, Role};
pub use opening::Opened;
pub use syncer::{run as run_syncer, COMMAND as SYNC_COMMAND};

use super::{
    Claim, Held, Hold, Pin, Put, Sequence, Shrunk, Store, StoreError, Sums, Terms, Usage, Verified,
};
use crate::block::{Block, Kind};
use crate::cell::Cell;
use crate::digest::{Digest, DigestKey};
use crate::id::{BlockId, Point};
use crate::limits::*;
use crate::sys::plain;
use commit::{Committing, Pending};
use copied::Copied;
use disk::Disk;
use evict::{Evictor, Marks};
use gaps::Gaps;
use index::{Entry, Index};
use reclaim::Background;
use record::{PackId, Record, ADDRESS_AT, RECORD_HEADER_LEN, TYPE_PIN};
use scan::{Last, PinNote};
use space::Space;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use terms::TermsNotes;

/// The blocks of a data directory.
///
/// After a failed sync it is read-only: nobody knows then which of the uncommitted bytes reached the disk, and
/// the system does not say so twice. What had been committed is served on; the rest is absent from then on.
pub struct PackStore {
    disk: Box<dyn Disk>,
    id: PackId,
    /// Follows from the id that the pack had when it was opened.
    digest_key: DigestKey,
    index: Index,
    gaps: Gaps,
    /// By the root.
    pins: BTreeMap<BlockId, PinNote>,
    /// Where notes on terms lie.
    terms_notes: TermsNotes,
    /// Where each damaged stretch begins, and where it ends.
    damaged: BTreeMap<u64, u64>,
    space: Space,
    marks: Marks,
    evictor: Evictor,
    /// What is to be said by notes, and what is being moved.
    pending: Pending,
    committing: Option<Committing>,
    background: Background,
    /// What has been copied already, while a copy is being made.
    copy: Option<Copied>,
    opened: Opened,
    /// For a block that is read.
    buffer: Vec<u8>,
    /// Seconds since the Unix epoch.
    time: u64,
    /// Where the next record goes. Invariant: a multiple of [`ALIGN`]; every record below it is whole.
    tail: u64,
    last: Last,
    /// Everything below is durable.
    committed_tail: u64,
    /// Write-back has been started for everything below.
    write_back_tail: u64,
    written: Sequence,
    committed: Sequence,
    held: Sums,
    /// How often all of the pack has been copied: then places in it are others.
    generation: u16,
    is_read_only: bool,
    /// Whether blocks have had to go for others, and there is not yet room for many.
    is_evicting: bool,
    /// Whether the last write failed for want of space on the file system; so that it is said once.
    is_disk_full: bool,
    /// Until this time the file system is believed to be full, whatever it says: it may be the user's share of it.
    disk_full_until: u64,
}

impl PackStore {
    /// What the opening found.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// From now on commits are made beside the loop, by a child process: [`PackStore::sync_socket`] tells of their
    /// ends. To be called before anything is put. After an error all is as before.
    pub fn sync_beside(&mut self) -> Result<(), StoreError> {
        let done = self.disk.sync_beside();
        done.map_err(|error| self.failed("open", error))
    }

    /// A socket that can be read when a commit may have ended, and its number among those there have been; `None` as
    /// long as there is none.
    pub fn sync_socket(&self) -> Option<(u64, RawFd)> {
        self.disk.sync_socket()
    }

    /// The address in the header of this record, as far as the file has one; the address may be another block's.
    fn address(&self, entry: &Entry) -> io::Result<Option<BlockId>> {
        read_address(&*self.disk, entry)
    }

    /// What takes room in checkpoints beside blocks.
    fn places(&self) -> u64 {
        self.gaps.len() + 2 * self.pins.len() as u64
    }

    /// Where a block lies; not if its header is damaged. One that is not in memory is not looked at: a flood of questions
    /// must not have the disk seek for each.
    fn find(&self, id: &BlockId) -> Option<Entry> {
        let is_cold = |it: &Entry| {
            let header = self.disk.is_warm(it.offset, RECORD_HEADER_LEN as u64);
            header == Some(false)
        };
        let mut candidates = self.index.candidates(id);
        candidates.find(|it| is_cold(it) || self.address(it).is_ok_and(|it| it == Some(*id)))
    }

    /// The same for who must be sure, whatever the disk has to do for it.
    fn find_surely(&self, id: &BlockId) -> Result<Option<Entry>, StoreError> {
        for entry in self.index.candidates(id) {
            let address = self.address(&entry);
            if address.map_err(|error| self.failed("read", error))? == Some(*id) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Whether the header of this entry is sound, and that of another block.
    fn is_of_another(&self, id: &BlockId, entry: &Entry) -> bool {
        let mut header = [0; RECORD_HEADER_LEN];
        let read = self.disk.read_full(&mut header, entry.offset);
        let record = read.map(|read| Record::decode(&header[..read], &self.id, entry.offset));
        record.is_ok_and(|it| it.is_some_and(|record| record.address != id.0))
    }

    /// Whether the file still has the bytes of this record: to read a page that somebody has cut from it through
    /// the map would end the process.
    fn is_in_file(&self, entry: &Entry) -> io::Result<bool> {
        let end = entry.offset + record::extent(entry.len);
        Ok(self.disk.file_len()? >= end)
    }

    /// The record of this entry, read from the disk, if it is as it was written; `bytes` is its header and payload
    /// then. A buffer that is given again need not be cleared.
    fn read_sound(&self, entry: &Entry, bytes: &mut Vec<u8>) -> io::Result<Option<Record>> {
        bytes.resize(RECORD_HEADER_LEN + entry.len as usize, 0);
        let read = self.disk.read_full(bytes, entry.offset)?;
        let Some(record) = Record::decode(&bytes[..read], &self.id, entry.offset) else {
            return Ok(None);
        };
        let payload = &bytes[RECORD_HEADER_LEN..];
        let is_sound = read == bytes.len() && is_sound(&record, payload, entry);
        Ok(is_sound.then_some(record))
    }

    /// The record of this entry, seen through the map, if it is as it was written.
    fn sound_in_map(&self, entry: &Entry) -> Option<Record> {
        let header = self.disk.slice(entry.offset, RECORD_HEADER_LEN as u64)?;
        let record = Record::decode(header, &self.id, entry.offset)?;
        let start = entry.offset + RECORD_HEADER_LEN as u64;
        let payload = self.disk.slice(start, u64::from(entry.len))?;
        is_sound(&record, payload, entry).then_some(record)
    }

    /// Enters a block that was written.
    fn enter(&mut self, id: &BlockId, entry: Entry) {
        self.index.insert(id, entry);
        self.space.add(entry.len);
        self.held.add(entry.kind, u64::from(entry.len));
        self.evictor.handle_put(id, entry.terms.expires);
    }

    /// Takes a block out of the index; its record stays where it is.
    fn forget(&mut self, id: &BlockId, entry: &Entry) {
        if self.index.remove(id, entry) {
            if let Some(copy) = &mut self.copy {
                copy.remove(id, entry);
            }
            self.space.remove(entry.len);
            self.held.remove(entry.kind, u64::from(entry.len));
            self.marks.forget(entry);
        }
    }

    /// Changes what is known of the block at this entry's offset, in a copy that is being made as well.
    fn update(&mut self, id: &BlockId, entry: Entry) {
        self.index.update(id, entry);
        if let Some(copy) = &mut self.copy {
            copy.update(id, &entry);
        }
    }

    /// Sets a damaged block aside, and says so.
    fn quarantine(&mut self, id: &BlockId, entry: &Entry) {
        log::warn!(
            "{}: block {id} at offset {} is damaged; it is set aside",
            self.disk.path().display(),
            entry.offset
        );
        self.forget(id, entry);
        let end = entry.offset + record::extent(entry.len);
        self.damaged.insert(entry.offset, end);
    }

    /// The disk cannot read something, now at least: what is set aside for that is not to be remembered.
    fn handle_unreadable(&mut self, offset: u64, error: &io::Error) {
        self.background.stop_checkpoints();
        log::warn!(
            "read {} at offset {offset}: {}",
            self.disk.path().display(),
            plain(error)
        );
    }

    /// Changes the terms of a block.
    fn set_terms(&mut self, id: &BlockId, entry: &Entry, terms: Terms) {
        if terms == entry.terms {
            return;
        }
        self.update(id, Entry { terms, ..*entry });
        if terms.lasting() != entry.terms.lasting() {
            self.pending.terms.insert(entry.offset, terms);
        }
        if entry.terms.hold != Hold::Free && terms.hold == Hold::Free {
            self.evictor.handle_release(id);
        }
    }

    /// Stamped on records; saturates in the year 2106.
    fn stamp(&self) -> u32 {
        u32::try_from(self.time).unwrap_or(u32::MAX)
    }

    /// The present hour since the Unix epoch.
    fn hour(&self) -> u32 {
        u32::try_from(self.time / 3600).unwrap_or(u32::MAX)
    }

    /// Makes sure that no more than may be is in doubt when so many bytes and a note have been written; waits for the
    /// disk if need be.
    fn leave_room_in_doubt(&mut self, extent: u64) -> Result<(), StoreError> {
        let is_much =
            |store: &PackStore| store.uncommitted() + extent + NOTE_RESERVE > UNCOMMITTED_MAX;
        if is_much(self) {
            self.finish_commit()?;
        }
        if is_much(self) {
            self.commit_now()?;
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: io::Error) -> StoreError {
        StoreError::io(format!("{what} {}", self.disk.path().display()), error)
    }

    fn full(&self) -> StoreError {
        StoreError::Full {
            capacity: self.space.limit(),
        }
    }

    /// Bytes that a block of this many bytes lacks.
    fn lacks(&self, len: u32) -> u64 {
        let terms = self.terms_room();
        self.space.lacks(len, self.tail, self.places(), terms)
    }
}

impl Store for PackStore {
    /// 0 until it is set.
    fn set_time(&mut self, secs: u64) {
        self.time = secs;
    }

    fn set_allotment(&mut self, allotment: Allotment) {
        self.space.allotment = allotment;
    }

    fn has(&self, id: &BlockId) -> bool {
        self.find(id).is_some()
    }

    fn digests(&mut self, cell: Cell, depth: u8) -> Option<Vec<Digest>> {
        let mut budget = DIGEST_PLACES_PER_CALL;
        let parts = cell.parts(depth);
        let digests = parts.map(|part| self.index.digest(&self.digest_key, part, &mut budget));
        digests.collect()
    }

    fn held(&self, cell: Cell, max: usize) -> Vec<Held> {
        let places = self.index.iter_from((cell.first(), 0));
        let places = places.take_while(|(key, _)| key.0 <= cell.last()).take(max);
        places
            .map(|((place, _), entry)| Held {
                place,
                kind: entry.kind,
                expires: entry.terms.expires,
            })
            .collect()
    }

    fn at_place(&self, place: u64) -> Vec<BlockId> {
        let places = self.index.iter_from((place, 0));
        let places = places.take_while(|(key, _)| key.0 == place);
        let addresses = places.take(AT_PLACE_MAX);
        let addresses = addresses.filter_map(|(_, entry)| self.address(&entry).ok()?);
        addresses.filter(|id| index::prefix(id) == place).collect()
    }

    fn is_warm(&self, id: &BlockId) -> Option<bool> {
        let candidates = self.index.candidates(id);
        let warm = candidates
            .map(|it| self.disk.is_warm(it.offset, record::extent(it.len)) != Some(false));
        warm.reduce(|one, other| one && other)
    }

    fn start_reading(&self, id: &BlockId) {
        for it in self.index.candidates(id) {
            self.disk.start_reading(it.offset, record::extent(it.len));
        }
    }

    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)> {
        // Almost always none or one. One with another block's header, as few as there are, is passed over.
        let candidates: Vec<Entry> = self.index.candidates(id).collect();
        for entry in candidates {
            // Each time, since a file can be cut, and a page go bad, at any time. If the system does not tell how long
            // it is, the block is not read now, and not given up either.
            if !self.is_in_file(&entry).ok()? {
                self.quarantine(id, &entry);
                continue;
            }
            // Unless it is in memory, it is read by a call the first time: what a disk cannot read is an error then, and
            // no signal.
            let is_warm = || self.disk.is_warm(entry.offset, record::extent(entry.len));
            let seen = match entry.checked || is_warm() == Some(true) {
                true => self.sound_in_map(&entry),
                false => None,
            };
            let read = match seen {
                Some(record) => Ok(Some(record)),
                None => {
                    let mut bytes = std::mem::take(&mut self.buffer);
                    let read = self.read_sound(&entry, &mut bytes);
                    self.buffer = bytes;
                    read
                }
            };
            match read {
                Ok(Some(record)) if record.address == id.0 => {
                    if !entry.checked {
                        let checked = true;
                        self.update(id, Entry { checked, ..entry });
                    }
                    return Some((entry.kind, entry.len));
                }
                Ok(Some(_)) => {}
                Ok(None) if self.is_of_another(id, &entry) => {}
                Ok(None) => self.quarantine(id, &entry),
                Err(error) => {
                    self.handle_unreadable(entry.offset, &error);
                    self.quarantine(id, &entry);
                }
            }
        }
        None
    }

    /// `None` also for a block that has not been checked: its bytes may be anything.
    fn payload(&self, id: &BlockId) -> Option<&[u8]> {
        let mut candidates = self.index.candidates(id).filter(|entry| entry.checked);
        let entry = candidates.find(|entry| {
            let address = self.disk.slice(entry.offset + ADDRESS_AT, 32);
            address == Some(&id.0)
        })?;
        let start = entry.offset + RECORD_HEADER_LEN as u64;
        self.disk.slice(start, u64::from(entry.len))
    }

    fn put(&mut self, block: &Block, terms: Terms) -> Result<Put, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        // To answer that a block is held, it has to be: a damaged one is set aside here, and written anew.
        let id = block.id();
        self.check(&id);
        if let Some(entry) = self.find_surely(&id)? {
            self.set_terms(&id, &entry, entry.terms.renewed(terms));
            let is_durable = entry.offset < self.committed_tail;
            return Ok(Put::Had(if is_durable {
                self.committed
            } else {
                self.written
            }));
        }
        let record = Record::of_block(block, terms, self.stamp());
        if self.lacks(record.len) > 0 {
            return Err(self.full());
        }
        // An opening verifies no more than this of the end, so no more may be in doubt.
        self.leave_room_in_doubt(record.extent())?;
        if let Err(error) = self.grow(record.extent()) {
            self.say_if_full(&error);
            return Err(error);
        }
        let entry = Entry {
            offset: self.append(&record, block.payload())?,
            len: record.len,
            kind: block.kind(),
            checked: false,
            terms,
            marks: 0,
        };
        self.enter(&id, entry);
        self.written.0 += 1;
        Ok(Put::Written(self.written))
    }

    fn terms(&self, id: &BlockId) -> Option<Terms> {
        self.find(id).map(|entry| entry.terms)
    }

    fn keep_until(&mut self, id: &BlockId, expires: u32) {
        if let Some(entry) = self.find(id) {
            let later = Terms {
                expires,
                hold: Hold::Free,
            };
            self.set_terms(id, &entry, entry.terms.renewed(later));
        }
    }

    fn keep(&mut self, id: &BlockId) {
        if let Some(entry) = self.find(id) {
            let hold = Hold::Kept;
            self.set_terms(
                id,
                &entry,
                Terms {
                    hold,
                    ..entry.terms
                },
            );
        }
    }

    fn release(&mut self, id: &BlockId, hold: Hold) {
        if let Some(entry) = self.find(id).filter(|it| it.terms.hold <= hold) {
            let hold = Hold::Free;
            self.set_terms(
                id,
                &entry,
                Terms {
                    hold,
                    ..entry.terms
                },
            );
        }
    }

    fn remove(&mut self, id: &BlockId) -> Result<bool, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        self.reserve_gap()?;
        let Some(entry) = self.find_surely(id)? else {
            return Ok(false);
        };
        self.forget(id, &entry);
        self.pending.terms.remove(&entry.offset);
        self.add_gap((entry.offset, entry.offset + record::extent(entry.len)));
        Ok(true)
    }

    fn pins(&self) -> Vec<Pin> {
        let pins = self.pins.iter();
        pins.map(|(&root, pin)| Pin { root, len: pin.len })
            .collect()
    }

    fn add_pin(&mut self, pin: Pin) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        if self.pins.contains_key(&pin.root) {
            return Ok(());
        }
        self.leave_room_in_doubt(0)?;
        let payload = note::encode_pin(pin.len);
        let offset = self.append_note(TYPE_PIN, pin.root, &payload)?;
        let note = PinNote {
            len: pin.len,
            offset,
        };
        self.pins.insert(pin.root, note);
        Ok(())
    }

    fn remove_pin(&mut self, root: &BlockId) -> Result<bool, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        self.reserve_gap()?;
        let Some(pin) = self.pins.remove(root) else {
            return Ok(false);
        };
        self.add_gap((pin.offset, pin.offset + record::extent(note::PIN_LEN)));
        Ok(true)
    }

    fn begin_marking(&mut self) {
        let copy = self.copy.as_mut().map(|copy| &mut copy.index);
        self.marks.begin([&mut self.index].into_iter().chain(copy));
    }

    fn mark(&mut self, id: &BlockId) -> bool {
        // By the first 8 bytes of the address alone: to mark one block too many does no harm, and to read a header
        // for each block of a large file would take long.
        let candidates: Vec<Entry> = self.index.candidates(id).collect();
        for entry in &candidates {
            if let Some(marked) = self.marks.mark(entry) {
                self.update(id, marked);
            }
        }
        !candidates.is_empty()
    }

    fn is_pinned(&self, id: &BlockId) -> bool {
        self.find(id)
            .is_some_and(|entry| self.marks.protect(&entry))
    }

    fn end_marking(&mut self) {
        self.marks.end();
        self.evictor.forget();
    }

    fn could_take(&mut self, len: u32, claim: &Claim<'_>) -> bool {
        if self.is_read_only || self.lacks(len) == 0 {
            return !self.is_read_only && self.is_on_disk(len);
        }
        self.is_space_coming() || !self.is_dropping_vain() && self.has_victim(claim)
    }

    fn make_room(&mut self, len: u32, claim: &Claim<'_>) -> Result<(), StoreError> {
        self.evict(len, claim)
    }

    fn is_overfull(&self) -> bool {
        self.is_too_large()
    }

    fn shrink(&mut self, claim: &Claim<'_>) -> Result<Shrunk, StoreError> {
        self.shrink_some(claim)
    }

    fn has_work(&self) -> bool {
        self.is_work_waiting()
    }

    fn work(&mut self) {
        self.do_a_slice();
    }

    /// Writes a checkpoint if much has come since the last, and gives back what was set aside.
    fn close(&mut self) {
        if self.commit_all().is_err() {
            return;
        }
        self.stop_compaction();
        self.seal_at_close();
        if self.disk.set_len(self.tail).is_ok() {
            self.space.cut(&*self.disk, self.tail);
        }
    }

    fn offset_near(&self, place: &Point) -> u64 {
        let from = (index::prefix(&BlockId(place.0)), 0);
        let entry = self.index.iter_from(from).next();
        self.bookmark(entry.map_or(0, |(_, entry)| entry.offset))
    }

    fn verify(&mut self, from: u64, is_wanted: &dyn Fn(&BlockId) -> bool) -> Verified {
        self.verify_step(from, is_wanted)
    }

    fn uncommitted(&self) -> u64 {
        self.tail - self.committed_tail
    }

    /// Write-back was started early, so that there is little left for the disk to do. Waits for it unless
    /// [`PackStore::sync_beside`] was called.
    fn begin_commit(&mut self) -> Result<(), StoreError> {
        self.start_commit()
    }

    fn poll_commit(&mut self) -> Result<Sequence, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        self.look_at_commit(false)?;
        Ok(self.committed)
    }

    fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    fn awaits_room(&self) -> bool {
        self.is_room_to_come()
    }

    fn commit(&mut self) -> Result<Sequence, StoreError> {
        self.commit_now()?;
        Ok(self.committed)
    }

    fn usage(&self) -> Usage {
        Usage {
            blocks: self.index.len(),
            held: self.held,
            used_bytes: self.space.used(self.places()),
            capacity_bytes: self.space.allotment.capacity,
            damaged: self.damaged.len() as u64,
            garbage_bytes: self.gaps.garbage(),
            pins: self.pins.len() as u64,
            pinned_blocks: self.marks.count,
            is_read_only: self.is_read_only,
            is_halved: self.space.is_halved,
        }
    }
}

/// Whether a record has the payload that was written, and is the one that this entry is for.
fn is_sound(record: &Record, payload: &[u8], entry: &Entry) -> bool {
    record.len == entry.len
        && record.block_kind == entry.kind.to_byte()
        && crc32fast::hash(payload) == record.payload_crc
}

/// The address in the header of this record; `None` if the file has been cut.
fn read_address(disk: &dyn Disk, entry: &Entry) -> io::Result<Option<BlockId>> {
    let mut address = [0; 32];
    let read = disk.read_full(&mut address, entry.offset + ADDRESS_AT)?;
    Ok((read == address.len()).then_some(BlockId(address)))
}

#[cfg(test)]
mod tests;
