//! The end of a pack, where records are written.

use super::index::PACK_SIZE_MAX;
use super::record::{self, Record, ALIGN, RECORD_HEADER_LEN};
use super::scan::Last;
use super::PackStore;
use crate::limits::{NOTE_RETRY_SECS, WRITE_BACK_STEP};
use crate::store::StoreError;
use crate::sys::plain;
use std::io;

/// The checksum in a record's header.
pub(super) fn header_crc(header: &[u8; RECORD_HEADER_LEN]) -> u32 {
    let crc = header.last_chunk().expect("a header has 64 bytes");
    u32::from_be_bytes(*crc)
}

impl PackStore {
    /// Writes a record at the tail, where space has been set aside. After an error the tail is where it was, and
    /// what may lie behind it has been cut away. The offset of the record.
    pub(super) fn append(&mut self, record: &Record, payload: &[u8]) -> Result<u64, StoreError> {
        let header = record.encode(&self.id, self.tail);
        let padding = record.extent() - RECORD_HEADER_LEN as u64 - u64::from(record.len);
        let padding = &[0; ALIGN as usize][..padding as usize];
        let (offset, end) = (self.tail, self.tail + record.extent());
        if end > PACK_SIZE_MAX {
            return Err(StoreError::Full {
                capacity: PACK_SIZE_MAX,
            });
        }
        // Room in the map first: then nothing can fail once the record is written.
        self.disk
            .reserve(end)
            .map_err(|error| self.failed("map", error))?;
        if let Err(error) = self.disk.write_all(&[&header, payload, padding], offset) {
            return Err(self.refuse(error));
        }
        self.is_disk_full = false;
        self.tail = end;
        self.disk.set_end(end);
        let crc = header_crc(&header);
        self.last = Last { offset, crc };
        self.background.handle_record();
        self.space.handle_record(end);
        if self.tail - self.write_back_tail >= WRITE_BACK_STEP {
            let len = self.tail - self.write_back_tail;
            self.disk.start_write_back(self.write_back_tail, len);
            self.write_back_tail = self.tail;
        }
        Ok(offset)
    }

    /// Cuts away what may lie behind the tail. If even this fails, the next record overwrites it, and an opening
    /// cuts it.
    pub(super) fn cut_back(&mut self) {
        match self.disk.set_len(self.tail) {
            Ok(()) => {
                self.space.cut(&*self.disk, self.tail);
                let places = self.places();
                let disk = &mut *self.disk;
                self.space.set_aside_for_notes(disk, self.tail, places);
            }
            Err(error) => {
                let cause = plain(&error);
                log::debug!("cut the end of {}: {cause}", self.disk.path().display());
            }
        }
    }

    /// Undoes a write that failed, and says what its sender is told.
    pub(super) fn refuse(&mut self, error: io::Error) -> StoreError {
        self.cut_back();
        let error = self.failed("write", error);
        self.say_if_full(&error);
        error
    }

    pub(super) fn say_if_full(&mut self, error: &StoreError) {
        if matches!(error, StoreError::DiskFull(..)) {
            self.disk_full_until = self.time + NOTE_RETRY_SECS;
        }
        if error.is_full() && !self.is_disk_full {
            self.is_disk_full = true;
            log::warn!("{error}; until then blocks are refused");
        }
    }

    /// Whether a block of this many bytes that fits in the allotment fits on the disk as well.
    pub(super) fn is_on_disk(&self, len: u32) -> bool {
        let extent = record::extent(len);
        self.time >= self.disk_full_until && self.space.is_on_disk(&*self.disk, self.tail, extent)
    }

    /// Sets space aside for a record of this extent.
    pub(super) fn grow(&mut self, extent: u64) -> Result<(), StoreError> {
        let left = self.space.headroom() + self.terms_room();
        let used = self.space.used(self.places()) + left;
        let room = self.space.limit().saturating_sub(used);
        let (disk, tail) = (&mut *self.disk, self.tail);
        self.space.grow(disk, tail, extent, room)
    }
}
