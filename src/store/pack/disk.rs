//! What a pack asks of the disk, as a row of functions: the system's, or in a test one that fails.
//!
//! Not the map: that only reads. Called by the store alone.

use crate::sys;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};

/// The calls that can fail in ways a test must be able to bring about.
#[derive(Clone, Copy)]
pub(super) struct Disk {
    /// Writes some of the slices' bytes at this offset, and says how many.
    pub write: fn(&File, &[IoSlice<'_>], u64) -> io::Result<usize>,
    /// Makes durable what was written, and the file's length.
    pub sync: fn(&File) -> io::Result<()>,
}

/// The disk of the system.
pub(super) const SYSTEM: Disk = Disk {
    write: sys::write_vectored_at,
    sync: File::sync_data,
};

impl Disk {
    /// Writes all of the parts at this offset, as one call where the system lets it. After an error, any of the
    /// bytes may have been written.
    pub fn write_all(&self, file: &File, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match (self.write)(file, slices, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::FileExt;

    thread_local! { static CALLS: Cell<u32> = const { Cell::new(0) }; }

    fn stingy(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        CALLS.set(CALLS.get() + 1);
        if CALLS.get().is_multiple_of(3) {
            return Err(ErrorKind::Interrupted.into());
        }
        file.write_at(&slices[0][..slices[0].len().min(4)], offset)
    }

    #[test]
    fn short_and_interrupted_writes_end_with_every_byte_in_place() {
        let disk = Disk {
            write: stingy,
            ..SYSTEM
        };
        for disk in [disk, SYSTEM] {
            let file = tempfile::tempfile().unwrap();
            let parts: [&[u8]; 4] = [b"header of it", b"", b"payload!!", b"\0\0\0"];
            disk.write_all(&file, &parts, 5).unwrap();
            let mut read = vec![1; 29];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_eq!(read, b"\0\0\0\0\0header of itpayload!!\0\0\0");
            assert_eq!(file.metadata().unwrap().len(), 29);
        }
        assert!(CALLS.get() > 6);
    }
}
