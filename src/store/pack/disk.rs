//! What a pack asks of the disk, as a trait: [`System`] is a file of the file system; in tests there are disks
//! that record what they are told, that fail, and that lose power.
//!
//! A disk is one file: what is written goes to its end, and what is read comes by calls that can fail, or through
//! a map that shows the bytes below an end which the store sets. Beside it are two small files, the sides, for
//! checkpoints. Called by the store alone.

use super::lock::{sync_name_of, DirLock};
use super::map::Map;
use super::syncer::{Outcome, Syncer};
use crate::limits::CUT_STEP;
use crate::sys;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Times one write is taken up again after a signal, before that is an error: a file system that is interrupted
/// for ever must not hold the process.
const INTERRUPTIONS_MAX: u32 = 1000;

/// See [`Disk::entries_per_slice`]: encoded and written in well below a millisecond.
const ENTRIES_PER_SLICE: usize = 8192;

/// One of the two files that hold checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// `index.0`
    Zero,
    /// `index.1`
    One,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Zero, Side::One];

    /// The other.
    pub fn other(self) -> Side {
        match self {
            Side::Zero => Side::One,
            Side::One => Side::Zero,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Side::Zero => "index.0",
            Side::One => "index.1",
        }
    }
}

/// A file that a store writes, and reads through a map.
pub(super) trait Disk {
    /// The file's name, for messages.
    fn path(&self) -> &Path;

    /// Bytes that the file has now.
    fn file_len(&self) -> io::Result<u64>;

    /// Reads some bytes at this offset, and says how many; 0 at the end of the file.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Where the next bytes begin that are no hole, at this offset or after it; `None` if only a hole follows.
    /// Only a hint: an answer that names too early an offset is none the less right.
    fn data_after(&self, offset: u64) -> Option<u64>;

    /// Bytes that the file takes on its file system, as `du` counts them, with its copy and what was replaced.
    fn allocated(&self) -> io::Result<u64>;

    /// Bytes of the file system that are free.
    fn free_space(&self) -> io::Result<u64>;

    /// Has space set aside for these bytes; the file's length stays as it is. [`ErrorKind::Unsupported`] where that
    /// is not possible: then a write allocates, and may find that there is nothing left.
    fn allocate(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Gives whole pages back to the file system; they are not shown again but as zero.
    /// [`ErrorKind::Unsupported`] where it cannot.
    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// The first bytes of a side, at most `max`; empty if it was never written.
    fn read_side(&self, side: Side, max: u64) -> io::Result<Vec<u8>>;

    /// Writes bytes of a side at this offset. After an error, any of them may have been written.
    fn write_side(&mut self, side: Side, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Entries of a checkpoint that are written to a side in one slice of work.
    fn entries_per_slice(&self) -> usize {
        ENTRIES_PER_SLICE
    }

    /// Cuts a side to this length.
    fn cut_side(&mut self, side: Side, len: u64) -> io::Result<()>;

    /// Makes the copy, another file beside this one, and empties it if there is one.
    fn begin_copy(&mut self) -> io::Result<()>;

    /// Writes bytes of the copy at this offset. After an error, any of them may have been written.
    fn write_copy(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the copy's bytes and length durable.
    fn sync_copy(&mut self) -> io::Result<()>;

    /// Puts the copy, which has this length, in the file's place, and shows all of it. After an error all is as
    /// before. The name is not yet durable. The space of what was replaced comes back by [`Disk::drop_replaced`].
    fn replace(&mut self, len: u64) -> io::Result<()>;

    /// Gives back a part of what was replaced; whether there is more.
    fn drop_replaced(&mut self) -> bool;

    /// Removes the copy, if there is one.
    fn drop_copy(&mut self) -> io::Result<()>;

    /// These bytes of the file; `None` if they do not all lie below the end that was set.
    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]>;

    /// Whether these bytes of the file have been read, and are in memory; `None` if the system does not tell. They may
    /// be dropped again at any time.
    fn is_warm(&self, _offset: u64, _len: u64) -> Option<bool> {
        None
    }

    /// Starts to read these bytes, without waiting. Only a hint.
    fn start_reading(&self, _offset: u64, _len: u64) {}

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

    /// From now on, [`Disk::begin_sync`] need not wait for the disk. What was written before is durable.
    fn sync_beside(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Begins to do what [`Disk::sync`] does; what came of it if that is known at once. Otherwise it covers what was
    /// written so far, and nothing but [`Disk::poll_sync`] is asked of syncs until it has ended.
    fn begin_sync(&mut self) -> Option<io::Result<()>> {
        Some(self.sync())
    }

    /// What came of the sync that was begun, if it has ended; to be waited for or not.
    fn poll_sync(&mut self, _is_waited_for: bool) -> Option<io::Result<()>> {
        unreachable!("a sync that is not under way has not been begun")
    }

    /// A socket that can be read when a sync has ended, and its number among those there have been.
    fn sync_socket(&self) -> Option<(u64, RawFd)> {
        None
    }

    /// Makes the file's name durable.
    fn sync_name(&mut self) -> io::Result<()>;

    /// Starts to write these bytes back, without waiting. Only a hint.
    fn start_write_back(&mut self, offset: u64, len: u64);

    /// Reads bytes at this offset until there are as many as there is room for, or the file ends; how many. An error
    /// if a read says that the file ends where it does not: what it has there is not gone, but cannot be read.
    fn read_full(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        let mut left = INTERRUPTIONS_MAX;
        while filled < bytes.len() {
            match self.read(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) if offset + filled as u64 >= self.file_len()? => break,
                Ok(0) => {
                    let why = "a read ended before the file does";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted && left > 0 => left -= 1,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

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
    /// Opened when they are first written.
    sides: [Option<File>; 2],
    copy: Option<File>,
    syncer: Option<Syncer>,
    /// What the copy has replaced: it has no name any more.
    replaced: Option<File>,
    /// The last field, so that the directory is given up after the file has been closed.
    lock: DirLock,
}

impl System {
    /// A side, opened for writing.
    fn side(&mut self, side: Side) -> io::Result<&File> {
        let open = &mut self.sides[side as usize];
        if open.is_none() {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(0o600);
            *open = Some(options.open(self.lock.dir().join(side.name()))?);
        }
        Ok(open.as_ref().expect("just opened"))
    }

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
        let map = Map::new(&file, metadata.len(), &path)?;
        Ok(System {
            path,
            file,
            map,
            sides: [None, None],
            copy: None,
            syncer: None,
            replaced: None,
            lock,
        })
    }

    fn copy_path(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    fn copy(&self) -> io::Result<&File> {
        self.copy.as_ref().ok_or(ErrorKind::NotFound.into())
    }

    /// What came of a sync as the child tells it; `None` if it goes on. If the child cannot tell, it is done here.
    fn conclude(&mut self, outcome: Outcome) -> Option<io::Result<()>> {
        match outcome {
            Outcome::UnderWay => None,
            Outcome::Ended(result) => Some(result),
            Outcome::Lost(why) => {
                let path = self.path.display();
                log::warn!(
                    "sync {path}: the process that does it {why}; waiting for the disk instead"
                );
                self.syncer = self.syncer.take().filter(|it| !it.is_hopeless());
                Some(self.sync())
            }
        }
    }
}

impl Disk for System {
    fn path(&self) -> &Path {
        &self.path
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        sys::data_after(&self.file, offset).unwrap_or(Some(offset))
    }

    fn allocated(&self) -> io::Result<u64> {
        let mut bytes = 0;
        let files = [Some(&self.file), self.copy.as_ref(), self.replaced.as_ref()];
        for file in files.into_iter().flatten() {
            let metadata = file.metadata()?;
            // The unit of this number is 512 bytes on every file system; see stat(3type). Some do not count.
            bytes += match metadata.blocks() {
                0 => metadata.len(),
                blocks => blocks * 512,
            };
        }
        Ok(bytes)
    }

    fn free_space(&self) -> io::Result<u64> {
        sys::free_space(self.lock.dir())
    }

    fn allocate(&mut self, offset: u64, len: u64) -> io::Result<()> {
        sys::allocate(&self.file, offset, len)
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        sys::punch_hole(&self.file, offset, len)
    }

    fn read_side(&self, side: Side, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match File::open(self.lock.dir().join(side.name())) {
            Ok(file) => file.take(max).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(bytes)
    }

    fn write_side(&mut self, side: Side, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.side(side)?.write_all_at(bytes, offset)
    }

    fn cut_side(&mut self, side: Side, len: u64) -> io::Result<()> {
        self.side(side)?.set_len(len)
    }

    fn begin_copy(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        self.copy = Some(options.mode(0o600).open(self.copy_path())?);
        Ok(())
    }

    fn write_copy(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.copy()?.write_all_at(bytes, offset)
    }

    fn sync_copy(&mut self) -> io::Result<()> {
        self.copy()?.sync_data()
    }

    fn replace(&mut self, len: u64) -> io::Result<()> {
        // All that can fail comes before the copy gets the name.
        let map = Map::new(self.copy()?, len, &self.path)?;
        let syncer = match self.syncer {
            Some(_) => Some(Syncer::new(&self.copy_path())?),
            None => None,
        };
        fs::rename(self.copy_path(), &self.path)?;
        if let Some(copy) = self.copy.take() {
            self.map = map;
            self.syncer = syncer;
            self.replaced = Some(std::mem::replace(&mut self.file, copy));
        }
        Ok(())
    }

    fn drop_replaced(&mut self) -> bool {
        let Some(file) = &self.replaced else {
            return false;
        };
        let len = file.metadata().map_or(0, |it| it.len());
        let left = len.saturating_sub(CUT_STEP);
        // If it cannot be cut, closing it gives all back at once.
        if left == 0 || file.set_len(left).is_err() {
            self.replaced = None;
        }
        self.replaced.is_some()
    }

    fn drop_copy(&mut self) -> io::Result<()> {
        self.copy = None;
        match fs::remove_file(self.copy_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.map.slice(offset, len)
    }

    fn is_warm(&self, offset: u64, len: u64) -> Option<bool> {
        self.map.is_resident(offset, len)
    }

    fn start_reading(&self, offset: u64, len: u64) {
        sys::start_reading(&self.file, offset, len);
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

    fn sync_beside(&mut self) -> io::Result<()> {
        self.syncer = Some(Syncer::new(&self.path)?);
        Ok(())
    }

    fn begin_sync(&mut self) -> Option<io::Result<()>> {
        match &mut self.syncer {
            Some(syncer) => {
                let begun = syncer.begin();
                self.conclude(begun)
            }
            None => Some(self.sync()),
        }
    }

    fn poll_sync(&mut self, is_waited_for: bool) -> Option<io::Result<()>> {
        let syncer = self.syncer.as_mut().expect("only it has begun one");
        let outcome = match is_waited_for {
            true => syncer.wait(),
            false => syncer.poll(),
        };
        self.conclude(outcome)
    }

    fn sync_socket(&self) -> Option<(u64, RawFd)> {
        self.syncer.as_ref()?.socket()
    }

    fn sync_name(&mut self) -> io::Result<()> {
        let dir = self.lock.dir();
        File::open(dir)?.sync_all()?;
        // A process that was killed may have made the directory, too.
        sync_name_of(dir)
    }

    fn start_write_back(&mut self, offset: u64, len: u64) {
        sys::start_write_back(&self.file, offset, len);
    }
}
