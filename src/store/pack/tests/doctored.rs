//! The system's disk, but that it never waits for a sync, and fails as it is told to.

use super::super::disk::{Disk, Side, System};
use super::super::lock::DirLock;
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::rc::Rc;

/// How the disk is to behave, changed from outside while a store has the disk.
#[derive(Default)]
pub struct Ills {
    /// Whether the file system knows no holes.
    pub holeless: Cell<bool>,
    /// Error number of every write; before it a header goes through. 0 for none.
    pub write: Cell<i32>,
    /// Error number of every sync; 0 for none.
    pub sync: Cell<i32>,
    /// Whether writes take four bytes at most, and every third is interrupted.
    pub stingy: Cell<bool>,
    /// Calls so far.
    pub writes: Cell<u32>,
    pub syncs: Cell<u32>,
    pub reads: Cell<u32>,
    /// What it says of whether something is in memory.
    pub warm: Cell<Option<bool>>,
}

pub struct Doctored {
    system: System,
    ills: Rc<Ills>,
}

impl Doctored {
    /// The pack of a directory.
    pub fn open(lock: DirLock, ills: &Rc<Ills>) -> io::Result<Doctored> {
        Ok(Doctored {
            system: System::open(lock, "pack")?,
            ills: ills.clone(),
        })
    }
}

impl Disk for Doctored {
    fn path(&self) -> &Path {
        self.system.path()
    }

    fn file_len(&self) -> io::Result<u64> {
        self.system.file_len()
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.ills.reads.set(self.ills.reads.get() + 1);
        self.system.read(bytes, offset)
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        self.system.data_after(offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.system.allocated()
    }

    fn free_space(&self) -> io::Result<u64> {
        self.system.free_space()
    }

    fn allocate(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.system.allocate(offset, len)
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if self.ills.holeless.get() {
            return Err(ErrorKind::Unsupported.into());
        }
        self.system.punch(offset, len)
    }

    fn read_side(&self, side: Side, max: u64) -> io::Result<Vec<u8>> {
        self.system.read_side(side, max)
    }

    fn write_side(&mut self, side: Side, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.system.write_side(side, bytes, offset)
    }

    fn cut_side(&mut self, side: Side, len: u64) -> io::Result<()> {
        self.system.cut_side(side, len)
    }

    fn begin_copy(&mut self) -> io::Result<()> {
        self.system.begin_copy()
    }

    fn write_copy(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.system.write_copy(bytes, offset)
    }

    fn sync_copy(&mut self) -> io::Result<()> {
        self.system.sync_copy()
    }

    fn replace(&mut self, len: u64) -> io::Result<()> {
        self.system.replace(len)
    }

    fn drop_replaced(&mut self) -> bool {
        self.system.drop_replaced()
    }

    fn drop_copy(&mut self) -> io::Result<()> {
        self.system.drop_copy()
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.system.slice(offset, len)
    }

    fn is_warm(&self, _offset: u64, _len: u64) -> Option<bool> {
        self.ills.warm.get()
    }

    fn reserve(&mut self, end: u64) -> io::Result<()> {
        self.system.reserve(end)
    }

    fn set_end(&mut self, end: u64) {
        self.system.set_end(end);
    }

    fn write(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let calls = self.ills.writes.get() + 1;
        self.ills.writes.set(calls);
        match self.ills.write.get() {
            0 if !self.ills.stingy.get() => self.system.write(slices, offset),
            0 if calls.is_multiple_of(3) => Err(ErrorKind::Interrupted.into()),
            0 => {
                let few = &slices[0][..slices[0].len().min(4)];
                self.system.write(&[IoSlice::new(few)], offset)
            }
            _ if slices.len() == 3 => self.system.write(&slices[..1], offset),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.system.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.ills.syncs.set(self.ills.syncs.get() + 1);
        match self.ills.sync.get() {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn sync_name(&mut self) -> io::Result<()> {
        self.system.sync_name()
    }

    fn start_write_back(&mut self, offset: u64, len: u64) {
        self.system.start_write_back(offset, len);
    }
}
