//! The space of a pack: what it takes of the allotment, and what is set aside ahead of the tail.
//!
//! Space is set aside before it is written to, so that a full disk is found before anything is written of a record,
//! and so that notes, by which space comes back, can be written on a full disk too.

use super::disk::Disk;
use super::gaps::PAGE;
use super::record;
use super::Allotment;
use crate::limits::{ALLOCATE_STEP, BLOCK_CHARGE_MIN, INDEX_CHARGE, NOTE_RESERVE, RESERVATION};
use crate::store::StoreError;
use std::io::{self, ErrorKind};

/// What a pack takes, and may take.
pub(super) struct Space {
    pub allotment: Allotment,
    /// Bytes that the file takes on the file system.
    allocated: u64,
    /// Up to where space has been set aside; a multiple of [`PAGE`].
    end: u64,
    /// Bytes charged for blocks beyond what they take in the file.
    excess: u64,
    /// Whether the file system cannot set space aside: what is ahead of the tail is only counted.
    is_virtual: bool,
    /// Whether the file system takes no part of a file back.
    pub is_halved: bool,
}

/// What a block of this extent is charged beyond it: up to the least that a file system gives, and its place in
/// two checkpoints.
fn excess(extent: u64) -> u64 {
    BLOCK_CHARGE_MIN.saturating_sub(extent) + INDEX_CHARGE
}

impl Space {
    /// The space of a file that ends at `tail`, and has nothing set aside.
    pub fn new(disk: &dyn Disk, allotment: Allotment, tail: u64) -> io::Result<Space> {
        Ok(Space {
            allotment,
            allocated: disk.allocated()?,
            end: tail.next_multiple_of(PAGE),
            excess: 0,
            is_virtual: false,
            is_halved: false,
        })
    }

    /// Finds out whether the file system takes a part of a file back: a page that the file does not have. What it
    /// says otherwise is asked again when it matters.
    pub fn look_for_holes(&mut self, disk: &mut dyn Disk) {
        let asked = disk.punch(self.end, PAGE);
        if asked.is_err_and(|error| error.kind() == ErrorKind::Unsupported) {
            self.halve(disk);
        }
    }

    /// The file system takes no part of a file back.
    pub fn halve(&mut self, disk: &dyn Disk) {
        if !self.is_halved {
            self.is_halved = true;
            log::warn!(
                "{}: the file system takes no part of a file back; half of --capacity is used",
                disk.path().display()
            );
        }
    }

    /// Counts a block.
    pub fn add(&mut self, len: u32) {
        self.excess += excess(record::extent(len));
    }

    /// Counts a block no longer.
    pub fn remove(&mut self, len: u32) {
        self.excess -= excess(record::extent(len));
    }

    /// Bytes of the allotment that are used, with so many gaps.
    pub fn used(&self, gaps: u64) -> u64 {
        self.allocated + self.excess + gaps * INDEX_CHARGE + RESERVATION
    }

    /// Bytes that may be used.
    pub fn limit(&self) -> u64 {
        match self.is_halved {
            true => self.allotment.capacity / 2,
            false => self.allotment.capacity,
        }
    }

    /// Bytes of the limit that puts leave, so that blocks can be moved together.
    pub fn headroom(&self) -> u64 {
        (self.limit() / 16).min(1 << 20)
    }

    /// Bytes beyond the limit that a block of this many bytes would take, at this tail; 0 if it fits.
    /// So many are left for notes on terms.
    pub fn lacks(&self, len: u32, tail: u64, gaps: u64, terms: u64) -> u64 {
        let extent = record::extent(len);
        let ahead = self.ahead(tail + terms, extent);
        let wanted = self.used(gaps) + ahead + excess(extent) + self.headroom();
        wanted.saturating_sub(self.limit())
    }

    /// Bytes to be set aside for a record of this extent at this tail, and for notes behind it.
    pub fn ahead(&self, tail: u64, extent: u64) -> u64 {
        let end = (tail + extent + NOTE_RESERVE).next_multiple_of(PAGE);
        end.saturating_sub(self.end)
    }

    /// Sets aside what a record of this extent needs at this tail, or more, if `limit` is not passed. Nothing is
    /// set aside if it cannot be.
    pub fn grow(
        &mut self,
        disk: &mut dyn Disk,
        tail: u64,
        extent: u64,
        room: u64,
    ) -> Result<(), StoreError> {
        let least = self.ahead(tail, extent);
        if least == 0 {
            return Ok(());
        }
        // A step ahead, so that not every record costs a call; but not the last of the allotment.
        let step = ALLOCATE_STEP.min(room / 16 / PAGE * PAGE);
        let free = disk
            .free_space()
            .map_err(|error| failed(disk, "look at the disk of", error))?;
        let spare = free.saturating_sub(self.allotment.min_free);
        if least > spare {
            return Err(match self.allotment.min_free {
                0 => {
                    let full = io::Error::from_raw_os_error(libc::ENOSPC);
                    failed(disk, "extend", full)
                }
                min_free => StoreError::MinFree { min_free },
            });
        }
        for len in [least + step, least] {
            if len > spare {
                continue;
            }
            match self.set_aside(disk, len) {
                Ok(()) => return Ok(()),
                Err(error) if len == least => return Err(failed(disk, "extend", error)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the disk has what a record of this extent needs at this tail, as far as it says.
    pub fn is_on_disk(&self, disk: &dyn Disk, tail: u64, extent: u64) -> bool {
        let least = self.ahead(tail, extent);
        let spare = |free: u64| free.saturating_sub(self.allotment.min_free);
        least == 0 || disk.free_space().is_ok_and(|free| least <= spare(free))
    }

    /// Sets space aside for notes behind this tail, as far as there is any, in the allotment and on the disk.
    pub fn set_aside_for_notes(&mut self, disk: &mut dyn Disk, tail: u64, gaps: u64) {
        if self.used(gaps) + self.ahead(tail, 0) <= self.limit() {
            if let Err(error) = self.grow(disk, tail, 0, 0) {
                log::debug!("{error}");
            }
        }
    }

    fn set_aside(&mut self, disk: &mut dyn Disk, len: u64) -> io::Result<()> {
        if !self.is_virtual {
            match disk.allocate(self.end, len) {
                Err(error) if error.kind() == ErrorKind::Unsupported => self.is_virtual = true,
                done => done?,
            }
        }
        self.end += len;
        self.allocated += len;
        Ok(())
    }

    /// A record ends here: it may have taken of what was not set aside.
    pub fn handle_record(&mut self, tail: u64) {
        let end = tail.next_multiple_of(PAGE);
        self.allocated += end.saturating_sub(self.end);
        self.end = self.end.max(end);
    }

    /// The file has been cut to its tail: what was set aside behind it is gone.
    pub fn cut(&mut self, disk: &dyn Disk, tail: u64) {
        self.end = tail.next_multiple_of(PAGE);
        self.measure(disk, tail);
    }

    /// Pages have gone back: looks what the file takes now.
    pub fn measure(&mut self, disk: &dyn Disk, tail: u64) {
        // If the system does not say, the last figure stands, which is no smaller.
        if let Ok(allocated) = disk.allocated() {
            let only_counted = match self.is_virtual {
                true => self.end.saturating_sub(tail.next_multiple_of(PAGE)),
                false => 0,
            };
            self.allocated = allocated + only_counted;
        }
    }
}

fn failed(disk: &dyn Disk, what: &str, error: io::Error) -> StoreError {
    StoreError::io(format!("{what} {}", disk.path().display()), error)
}
