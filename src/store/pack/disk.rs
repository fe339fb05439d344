//! What a pack asks of the disk, as a trait: [`System`] is a file of the file system; in tests there are disks
//! that record what they are told, that fail, and that lose power.
//!
//! A disk is one file: what is written goes to its end, and what is read comes through a map that shows the bytes
//! below an end which the store sets. Called by the store alone.

use super::lock::DirLock;
use super::map::Map;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Times one write is taken up again after a signal, before that is an error: a file system that is interrupted
/// for ever must not hold the process.
const INTERRUPTIONS_MAX: u32 = 1000;

/// A file that a store writes, and reads through a map.
pub(super) trait Disk {
    /// The file's name, for messages.
    fn path(&self) -> &Path;

    /// Bytes that the file has now.
    fn file_len(&self) -> io::Result<u64>;

    /// These bytes of the file; `None` if they do not all lie below the end that was set.
    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]>;

    /// Makes room for an end up to this one, so that to set it cannot fail. The file need not have the bytes yet.
    fn reserve(&mut self, end: u64) -> io::Result<()>;

    /// Sets below which offset bytes are shown. The file has as many, room was reserved, and they will not be
    /// written again.
    fn set_end(&mut self, end: u64);

    /// Writes some of the slices' bytes at this offset, and says how many.
    fn write(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Cuts or extends the file. What is shown ends at or before the new length.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// Makes durable what was written, and the file's length. An error is final: what was written since the last
    /// success may be lost, even if a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;

    /// Makes the file's name durable.
    fn sync_name(&mut self) -> io::Result<()>;

    /// Starts to write these bytes back, without waiting. Only a hint.
    fn start_write_back(&mut self, offset: u64, len: u64);

    /// Writes all of the parts at this offset, as one call where the system lets it. After an error, any of the
    /// bytes may have been written.
    fn write_all(&mut self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        let mut left = INTERRUPTIONS_MAX;
        while !slices.is_empty() {
            match self.write(slices, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted && left > 0 => left -= 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A file of a data directory that this process has locked.
pub(super) struct System {
    path: PathBuf,
    file: File,
    map: Map,
    /// The last field, so that the directory is given up after the file has been closed.
    lock: DirLock,
}

impl System {
    /// Opens the file of this name in the directory, or makes it, and shows all of it.
    pub fn open(lock: DirLock, name: &str) -> io::Result<System> {
        let path = lock.dir().join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidData, "not a regular file"));
        }
        let map = Map::new(&file, metadata.len())?;
        Ok(System {
            path,
            file,
            map,
            lock,
        })
    }
}

impl Disk for System {
    fn path(&self) -> &Path {
        &self.path
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.map.slice(offset, len)
    }

    fn reserve(&mut self, end: u64) -> io::Result<()> {
        self.map.reserve(&self.file, end)
    }

    fn set_end(&mut self, end: u64) {
        self.map.set_end(end);
    }

    fn write(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        sys::write_vectored_at(&self.file, slices, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_name(&mut self) -> io::Result<()> {
        let dir = self.lock.dir();
        File::open(dir)?.sync_all()?;
        // The directory may be new as well. Its parent need not be readable for us; then its name is as durable
        // as the file system makes it.
        let parent = match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(()),
        };
        match File::open(parent) {
            Ok(parent) => parent.sync_all(),
            Err(error) => {
                log::debug!("open {}: {}", parent.display(), sys::plain(&error));
                Ok(())
            }
        }
    }

    fn start_write_back(&mut self, offset: u64, len: u64) {
        sys::start_write_back(&self.file, offset, len);
    }
}
