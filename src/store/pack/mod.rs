//! The store of a data directory: one append-only file, the pack, specified in strew-pack(5).
//!
//! `record` has its bytes, `scan` finds them again, `disk` holds them and `map` shows them, `index` knows where
//! which block lies, and `lock` keeps other processes away. The index is made anew from the pack at each opening; it needs no other file.
//! Nothing here asks the time or draws entropy: both are given.

mod disk;
mod index;
mod lock;
mod map;
mod record;
mod scan;

pub use lock::{DirLock, LockError, Role};

use super::{Put, Sequence, Store, StoreError, Usage};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::limits::{RESERVATION, UNCOMMITTED_MAX, WRITE_BACK_STEP};
use crate::sys::plain;
use disk::{Disk, System};
use index::{Entry, Index, PACK_SIZE_MAX};
use record::{PackId, Record, ADDRESS_AT, ALIGN, FILE_HEADER_LEN, RECORD_HEADER_LEN};
use std::io::{self, ErrorKind};

/// What the opening of a pack found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// Sound records of all types. Payloads older than the last [`UNCOMMITTED_MAX`] bytes are not looked at.
    pub records: u64,
    /// Bytes of a torn tail that were cut away.
    pub cut_bytes: u64,
    /// Offset and length, in bytes, of each stretch that is damaged but followed by sound records. They stay in
    /// the file, charged to the allotment, and are never served.
    pub damaged: Vec<(u64, u64)>,
}

/// The blocks of a data directory.
///
/// After a failed sync it is read-only: nobody knows then which of the uncommitted bytes reached the disk, and
/// the system does not say so twice. What had been committed is served on; the rest is absent from then on.
pub struct PackStore {
    disk: Box<dyn Disk>,
    id: PackId,
    index: Index,
    opened: Opened,
    /// Stamped on records, in seconds since the Unix epoch.
    time: u32,
    /// Where the next record goes. Invariant: a multiple of [`ALIGN`]; every record below it is whole.
    tail: u64,
    /// Everything below is durable.
    committed_tail: u64,
    /// Write-back has been started for everything below.
    write_back_tail: u64,
    written: Sequence,
    committed: Sequence,
    usage: Usage,
    is_read_only: bool,
    /// Whether the last write failed for want of space on the file system; so that it is said once.
    is_disk_full: bool,
}

impl PackStore {
    /// Opens the pack of a locked directory, or makes one; `capacity` is in bytes and may be less than is there:
    /// then puts are refused. `entropy`, 32 random bytes, becomes the id of a pack that is made, and is ignored
    /// otherwise. A torn tail is cut and damage set aside; see [`PackStore::opened`].
    ///
    /// Fails if the file `pack` is not a pack, or of another version, or has a damaged file header
    /// ([`ErrorKind::InvalidData`]), and leaves it as it is; or if the system refuses something. Reads every header
    /// and the payloads of the last [`UNCOMMITTED_MAX`] bytes.
    pub fn open(lock: DirLock, capacity: u64, entropy: [u8; 32]) -> Result<PackStore, StoreError> {
        let path = lock.dir().join("pack");
        let disk = System::open(lock, "pack")
            .map_err(|error| StoreError::io(format!("open {}", path.display()), error))?;
        PackStore::open_on(Box::new(disk), capacity, entropy)
    }

    /// The same on any disk that shows all of its file.
    fn open_on(
        mut disk: Box<dyn Disk>,
        capacity: u64,
        entropy: [u8; 32],
    ) -> Result<PackStore, StoreError> {
        let path = disk.path().to_path_buf();
        let failed = |what: &str| {
            let what = format!("{what} {}", path.display());
            move |error| StoreError::io(what, error)
        };
        let len = disk.file_len().map_err(failed("open"))?;
        let (id, len) = match identify(&*disk, len).map_err(failed("open"))? {
            Some(id) => (id, len),
            None => {
                let id = PackId(entropy);
                create(&mut *disk, &id).map_err(failed("create"))?;
                (id, FILE_HEADER_LEN as u64)
            }
        };
        let pack = disk.slice(0, len).expect("the disk shows all of its file");
        let found = scan::scan(pack, &id);
        for (offset, len) in &found.damaged {
            log::warn!(
                "{}: {len} bytes at offset {offset} are damaged; they are set aside",
                path.display()
            );
        }
        if found.tail < len {
            log::warn!(
                "{}: cut {} bytes at offset {}, a write that did not end",
                path.display(),
                len - found.tail,
                found.tail
            );
            disk.set_end(found.tail);
            disk.set_len(found.tail).map_err(failed("cut the end of"))?;
        }
        // A process that was killed may have left records that only the system's cache holds. From here on they
        // count as committed, so they are made durable first.
        disk.sync().map_err(failed("sync"))?;
        let usage = Usage {
            blocks: found.index.len(),
            payload_bytes: found.index.iter().map(|it| u64::from(it.len)).sum(),
            used_bytes: found.charged + RESERVATION,
            capacity_bytes: capacity,
            damaged: found.damaged.len() as u64,
        };
        Ok(PackStore {
            disk,
            id,
            index: found.index,
            opened: Opened {
                records: found.records,
                cut_bytes: len - found.tail,
                damaged: found.damaged,
            },
            time: 0,
            tail: found.tail,
            committed_tail: found.tail,
            write_back_tail: found.tail,
            written: Sequence::default(),
            committed: Sequence::default(),
            usage,
            is_read_only: false,
            is_disk_full: false,
        })
    }

    /// What the opening found.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Whether the file still has the bytes of this record: to read a page that somebody has cut from it would
    /// end the process.
    fn is_in_file(&self, entry: &Entry) -> io::Result<bool> {
        let end = entry.offset + record::extent(entry.len);
        Ok(self.disk.file_len()? >= end)
    }

    /// Whether the block's record, all of it in the file, is as it was written.
    fn is_sound(&self, id: &BlockId, entry: &Entry) -> bool {
        let extent = record::extent(entry.len);
        let Some(bytes) = self.disk.slice(entry.offset, extent) else {
            return false;
        };
        let payload = &bytes[RECORD_HEADER_LEN..][..entry.len as usize];
        Record::decode(bytes, &self.id, entry.offset).is_some_and(|record| {
            record.address == id.0
                && record.len == entry.len
                && record.block_kind == entry.kind.to_byte()
                && record.payload_crc == crc32fast::hash(payload)
        })
    }

    /// Whether the header there has this address; not if it is damaged. The file has it.
    fn is_named(&self, id: &BlockId, entry: &Entry) -> bool {
        self.disk.slice(entry.offset + ADDRESS_AT, 32) == Some(&id.0)
    }

    /// Where a block lies that has just been checked, and so is in the file.
    fn find(&self, id: &BlockId) -> Option<Entry> {
        let mut candidates = self.index.candidates(id);
        candidates.find(|it| self.is_named(id, it))
    }

    /// Takes a block out of the index; its record stays where it is.
    fn forget(&mut self, id: &BlockId, entry: &Entry) {
        if self.index.remove(id, entry) {
            self.usage.blocks -= 1;
            self.usage.payload_bytes -= u64::from(entry.len);
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
        self.usage.damaged += 1;
    }

    /// Writes a block's record at the tail. After an error the tail is where it was, and what may lie behind it
    /// has been cut away.
    fn append(&mut self, block: &Block) -> Result<Entry, StoreError> {
        let record = Record::of_block(block, self.time);
        let header = record.encode(&self.id, self.tail);
        let padding = record.extent() - RECORD_HEADER_LEN as u64 - u64::from(record.len);
        let padding = &[0; ALIGN as usize][..padding as usize];
        let end = self.tail + record.extent();
        // Room in the map first: then nothing can fail once the record is written.
        self.disk
            .reserve(end)
            .map_err(|error| self.failed("map", error))?;
        let parts = [&header[..], block.payload(), padding];
        if let Err(error) = self.disk.write_all(&parts, self.tail) {
            return Err(self.refuse(error));
        }
        self.is_disk_full = false;
        let entry = Entry {
            offset: self.tail,
            len: record.len,
            kind: block.kind(),
            checked: false,
        };
        self.tail = end;
        self.disk.set_end(end);
        if self.tail - self.write_back_tail >= WRITE_BACK_STEP {
            let len = self.tail - self.write_back_tail;
            self.disk.start_write_back(self.write_back_tail, len);
            self.write_back_tail = self.tail;
        }
        Ok(entry)
    }

    /// Cuts away what may lie behind the tail. If even this fails, the next record overwrites it, and an opening
    /// cuts it.
    fn cut_back(&mut self) {
        if let Err(error) = self.disk.set_len(self.tail) {
            let cause = plain(&error);
            log::debug!("cut the end of {}: {cause}", self.disk.path().display());
        }
    }

    /// Undoes a write that failed, and says what its sender is told.
    fn refuse(&mut self, error: io::Error) -> StoreError {
        self.cut_back();
        let error = self.failed("write", error);
        if error.is_full() && !self.is_disk_full {
            self.is_disk_full = true;
            log::warn!("{error}; until then blocks are refused");
        }
        error
    }

    fn failed(&self, what: &str, error: io::Error) -> StoreError {
        StoreError::io(format!("{what} {}", self.disk.path().display()), error)
    }
}

impl Store for PackStore {
    /// 0 until it is set. Only informs whoever reads the pack; saturates in the year 2106.
    fn set_time(&mut self, secs: u64) {
        self.time = u32::try_from(secs).unwrap_or(u32::MAX);
    }

    fn has(&self, id: &BlockId) -> bool {
        // To look at a header that was cut from the file would end the process.
        let mut candidates = self.index.candidates(id);
        candidates.any(|it| self.is_in_file(&it).unwrap_or(false) && self.is_named(id, &it))
    }

    fn check(&mut self, id: &BlockId) -> Option<(Kind, u32)> {
        // Almost always none or one. One with another block's header, as few as there are, is passed over.
        let candidates: Vec<Entry> = self.index.candidates(id).collect();
        for entry in candidates {
            // The length each time, the checksum once: this is cheap, and a file can be cut at any time. If the
            // system does not tell, the block is not read now, and not given up either.
            let is_in_file = self.is_in_file(&entry).ok()?;
            if !is_in_file {
                self.quarantine(id, &entry);
                continue;
            }
            let header = self
                .disk
                .slice(entry.offset, RECORD_HEADER_LEN as u64)
                .and_then(|header| Record::decode(header, &self.id, entry.offset));
            if header.is_some_and(|header| header.address != id.0) {
                continue;
            }
            if header.is_none() || !(entry.checked || self.is_sound(id, &entry)) {
                self.quarantine(id, &entry);
                continue;
            }
            if !entry.checked {
                self.index.set_checked(id, &entry);
            }
            return Some((entry.kind, entry.len));
        }
        None
    }

    /// `None` also for a block that has not been checked: its bytes may be anything.
    fn payload(&self, id: &BlockId) -> Option<&[u8]> {
        let entry = self.find(id).filter(|entry| entry.checked)?;
        let start = entry.offset + RECORD_HEADER_LEN as u64;
        self.disk.slice(start, u64::from(entry.len))
    }

    fn put(&mut self, block: &Block) -> Result<Put, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        // To answer that a block is held, it has to be: a damaged one is set aside here, and written anew.
        let id = block.id();
        self.check(&id);
        if let Some(entry) = self.find(&id) {
            let is_durable = entry.offset < self.committed_tail;
            return Ok(Put::Had(if is_durable {
                self.committed
            } else {
                self.written
            }));
        }
        let extent = record::extent(block.payload().len() as u32);
        let charge = record::charge(extent);
        if self.usage.used_bytes + charge > self.usage.capacity_bytes {
            return Err(StoreError::Full {
                capacity: self.usage.capacity_bytes,
            });
        }
        if self.tail + extent > PACK_SIZE_MAX {
            return Err(StoreError::Full {
                capacity: PACK_SIZE_MAX,
            });
        }
        // An opening verifies no more than this of the end, so no more may be in doubt.
        if self.uncommitted() + extent > UNCOMMITTED_MAX {
            self.begin_commit()?;
        }
        let entry = self.append(block)?;
        self.index.insert(&block.id(), entry);
        self.usage.blocks += 1;
        self.usage.payload_bytes += u64::from(entry.len);
        self.usage.used_bytes += charge;
        self.written.0 += 1;
        Ok(Put::Written(self.written))
    }

    fn uncommitted(&self) -> u64 {
        self.tail - self.committed_tail
    }

    /// Waits for the disk, for now; write-back was started early, so that there is little left to wait for.
    fn begin_commit(&mut self) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        if self.uncommitted() == 0 {
            return Ok(());
        }
        if let Err(error) = self.disk.sync() {
            self.is_read_only = true;
            let cause = plain(&error);
            log::warn!(
                "sync {}: {cause}; it is read-only now",
                self.disk.path().display()
            );
            // The system may have dropped these pages: what they read as says nothing about the disk. Nor may a
            // later opening believe them, which could not tell that they are only in memory; so they go.
            let committed_tail = self.committed_tail;
            for entry in self.index.split_off(committed_tail) {
                self.usage.blocks -= 1;
                self.usage.payload_bytes -= u64::from(entry.len);
            }
            self.disk.set_end(committed_tail);
            self.tail = committed_tail;
            self.cut_back();
            return Err(self.failed("sync", error));
        }
        self.committed_tail = self.tail;
        self.write_back_tail = self.tail;
        self.committed = self.written;
        Ok(())
    }

    fn poll_commit(&mut self) -> Result<Sequence, StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        Ok(self.committed)
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}

/// Whose pack a file of this length is; `None` if it is new, or left by a creation that did not end.
fn identify(disk: &dyn Disk, len: u64) -> io::Result<Option<PackId>> {
    if len > PACK_SIZE_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "larger than 32 TiB"));
    }
    let known = len.min(FILE_HEADER_LEN as u64);
    let start = disk
        .slice(0, known)
        .expect("the disk shows all of its file");
    if len == known && record::is_unfinished_creation(start) {
        return Ok(None);
    }
    match record::decode_file_header(start) {
        Ok(id) => Ok(Some(id)),
        Err(bad) => Err(io::Error::new(ErrorKind::InvalidData, bad.to_string())),
    }
}

/// Makes the file an empty pack that survives a power cut, and shows it.
fn create(disk: &mut dyn Disk, id: &PackId) -> io::Result<()> {
    disk.set_end(0);
    disk.set_len(0)?;
    disk.reserve(FILE_HEADER_LEN as u64)?;
    disk.write_all(&[&record::encode_file_header(id)], 0)?;
    disk.sync()?;
    disk.sync_name()?;
    disk.set_end(FILE_HEADER_LEN as u64);
    Ok(())
}

#[cfg(test)]
mod tests;
