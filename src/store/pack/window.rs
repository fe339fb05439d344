//! Reads a pack from its start to its end: little at a time where records are large, much where they are small, so
//! that each byte that is wanted is asked for about once.

use super::disk::Disk;
use super::gaps::PAGE;
use super::record::{PackId, Record, ALIGN, RECORD_HEADER_LEN};
use crate::sys::plain;
use std::io;

/// Bytes that are read at once at most, unless more are asked for.
const WINDOW_MAX: usize = 256 << 10;

/// Pages that cannot be read, at most: more, and it is the disk that has to be seen to, not the pack.
const UNREADABLE_MAX: u32 = 256;

/// What lies at a place.
pub(super) enum Found {
    /// A valid header; its whole extent lies in the file.
    Record(Record),
    /// Nothing that was written there as a record.
    Nothing,
    /// The disk does not say: a page of it cannot be read.
    Unreadable,
}

/// The part of a pack that was read last.
pub(super) struct Window<'a> {
    disk: &'a dyn Disk,
    id: &'a PackId,
    /// Bytes of the file that are looked at.
    len: u64,
    start: u64,
    bytes: Vec<u8>,
    unreadable: u32,
}

impl<'a> Window<'a> {
    /// Reads the first `len` bytes of the disk's file, which has as many, as the pack of this id.
    pub fn new(disk: &'a dyn Disk, id: &'a PackId, len: u64) -> Window<'a> {
        Window {
            disk,
            id,
            len,
            start: 0,
            bytes: Vec::new(),
            unreadable: 0,
        }
    }

    /// Pages that could not be read so far.
    pub fn unreadable(&self) -> u32 {
        self.unreadable
    }

    /// These bytes; fewer where the file ends. `None` if the disk cannot read them; an error if it cannot read
    /// much.
    pub fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let len = (self.len.saturating_sub(offset)).min(len as u64) as usize;
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            let is_near = (self.start..=end + PAGE).contains(&offset) && !self.bytes.is_empty();
            let wanted = match is_near {
                true => (self.bytes.len() * 2).min(WINDOW_MAX),
                false => PAGE as usize,
            };
            let room = self.len.saturating_sub(offset).min(wanted.max(len) as u64);
            self.start = offset;
            self.bytes.resize(room as usize, 0);
            let read = match self.disk.read_full(&mut self.bytes, offset) {
                Ok(read) => read,
                // Perhaps it is only a part that cannot be read, and not this.
                Err(_) if self.bytes.len() > len => {
                    self.bytes.truncate(len);
                    self.read_only_this(offset)?
                }
                Err(error) => self.bad_page(offset, error)?,
            };
            self.bytes.truncate(read);
            if read < len {
                self.bytes.clear();
                return Ok(None);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.bytes[at..at + len]))
    }

    fn read_only_this(&mut self, offset: u64) -> io::Result<usize> {
        match self.disk.read_full(&mut self.bytes, offset) {
            Ok(read) => Ok(read),
            Err(error) => self.bad_page(offset, error),
        }
    }

    fn bad_page(&mut self, offset: u64, error: io::Error) -> io::Result<usize> {
        self.unreadable += 1;
        if self.unreadable == 1 {
            // The first stands for the rest.
            let path = self.disk.path().display();
            log::warn!("read {path} at offset {offset}: {}", plain(&error));
        }
        match self.unreadable > UNREADABLE_MAX {
            true => Err(error),
            false => Ok(0),
        }
    }

    /// What lies at this offset.
    pub fn record(&mut self, offset: u64) -> io::Result<Found> {
        let (id, len) = (self.id, self.len);
        let Some(bytes) = self.bytes(offset, RECORD_HEADER_LEN)? else {
            return Ok(Found::Unreadable);
        };
        let record = Record::decode(bytes, id, offset);
        let record = record.filter(|record| offset + record.extent() <= len);
        Ok(record.map_or(Found::Nothing, Found::Record))
    }

    /// A record's payload, if it has its checksum; `None` also if it cannot be read.
    pub fn payload(&mut self, offset: u64, record: &Record) -> io::Result<Option<&[u8]>> {
        let payload = self.bytes(offset + RECORD_HEADER_LEN as u64, record.len as usize)?;
        Ok(payload.filter(|payload| crc32fast::hash(payload) == record.payload_crc))
    }

    /// Where the next record begins, at this offset or after it but before that one, and whether all that was
    /// passed over could be read. Linear in what is passed over, but for holes.
    pub fn next_record(&mut self, from: u64, until: u64) -> io::Result<(Option<u64>, bool)> {
        let mut offset = from.next_multiple_of(ALIGN);
        let mut is_readable = true;
        let mut ask = offset;
        while offset < until {
            if offset >= ask {
                // Holes are as long as what was removed; they need not be read.
                match self.disk.data_after(offset) {
                    Some(data) if data > offset => offset = data.next_multiple_of(ALIGN),
                    Some(_) => {}
                    None => return Ok((None, is_readable)),
                }
                ask = offset + WINDOW_MAX as u64;
                continue;
            }
            match self.record(offset)? {
                Found::Record(_) => return Ok((Some(offset), is_readable)),
                Found::Nothing => offset += ALIGN,
                Found::Unreadable => {
                    is_readable = false;
                    offset = (offset + 1).next_multiple_of(PAGE);
                }
            }
        }
        Ok((None, is_readable))
    }
}
