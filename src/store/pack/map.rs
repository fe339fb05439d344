//! The read-only map through which a pack is read. The one place where mapped memory is handled.
//!
//! It reserves more address space than the file has bytes, so that a growing file is seldom mapped anew; only
//! bytes below the end that the store has set are ever handed out. Nothing is written through it.

use crate::sys;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of address space by which a map grows: a new map costs a system call and its page faults again, the
/// reservation itself nothing.
const RESERVE_STEP: u64 = 1 << 30;

/// A file's bytes below an end that is set from outside.
pub(super) struct Map {
    raw: MmapRaw,
    /// The file's name, for the message about a page that cannot be read.
    path: PathBuf,
    /// Bytes of address space in `raw`.
    reserved: u64,
    /// Invariant: at most `reserved`, and the file had this many bytes when it was set.
    end: u64,
}

impl Map {
    /// Maps the first `end` bytes of the file, which has as many and this name.
    pub fn new(file: &File, end: u64, path: &Path) -> io::Result<Map> {
        let reserved = (end + 1).next_multiple_of(RESERVE_STEP);
        let len = usize::try_from(reserved)
            .map_err(|_| io::Error::new(io::ErrorKind::OutOfMemory, "too large to be mapped"))?;
        // A raw map, because a slice over the whole of it would claim bytes that the file does not have.
        let raw = MmapOptions::new().len(len).map_raw_read_only(file)?;
        sys::explain_faults(raw.as_ptr(), len, path)?;
        Ok(Map {
            raw,
            path: path.to_path_buf(),
            reserved,
            end,
        })
    }

    /// Makes room for an end up to this one. The file need not have the bytes yet.
    pub fn reserve(&mut self, file: &File, end: u64) -> io::Result<()> {
        if end > self.reserved {
            let seen = self.end;
            *self = Map::new(file, end, &self.path)?;
            self.end = seen;
        }
        Ok(())
    }

    /// Sets below which offset bytes are handed out. The file has as many, and they will not be written again;
    /// room has been reserved for them.
    pub fn set_end(&mut self, end: u64) {
        assert!(end <= self.reserved, "room was reserved before it is used");
        self.end = end;
    }

    /// These bytes of the file; `None` if they do not all lie below the end.
    pub fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.end {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        let len = usize::try_from(len).ok()?;
        // SAFETY: `offset + len <= end <= reserved`, and `reserved` bytes are mapped for as long as `self` lives,
        // whose borrow the slice carries. The file has these bytes (`set_end`); a pack is append-only and held
        // by one process under a lock, so that nobody writes them while the slice lives. A stranger who cuts the
        // file regardless ends the process, which says why, and cannot make it read anything else. Holes are made
        // only where nothing counts, and not while a slice lives.
        Some(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(offset), len) })
    }

    /// Whether the system holds all pages of these bytes, so that to read them waits for no disk. `None` where it does
    /// not say.
    pub fn is_resident(&self, offset: u64, len: u64) -> Option<bool> {
        self.slice(offset, len).and_then(sys::is_resident)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    const CUT: &str = "STREW_TEST_CUT";

    /// Run by the test below, in a process of its own.
    #[test]
    fn child_that_reads_behind_a_cut() {
        let Some(path) = std::env::var_os(CUT) else {
            return;
        };
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let map = Map::new(&file, 20_000, Path::new(&path)).unwrap();
        assert_eq!(map.slice(9000, 1).unwrap(), [7]);
        file.set_len(4096).unwrap();
        println!("{:?}", map.slice(12_345, 1));
    }

    #[test]
    fn read_behind_a_cut_ends_the_process_with_file_and_offset() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&[7; 20_000], 0).unwrap();
        let name = "store::pack::map::tests::child_that_reads_behind_a_cut";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", name, "--nocapture"]);
        let output = child.env(CUT, file.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let path = file.path().display();
        let place = format!("strew: {path}: cannot be read at offset 12345: ");
        assert!(
            said.contains(&place) && said.contains("strew verify"),
            "{said}"
        );
    }

    #[test]
    fn what_is_not_in_memory_is_told_and_is_when_it_has_been_read() {
        const LEN: u64 = 300_000;
        let file = tempfile::tempfile_in(".").unwrap();
        file.write_all_at(&[7; LEN as usize], 0).unwrap();
        let map = Map::new(&file, LEN, Path::new("pack")).unwrap();
        assert_eq!(map.is_resident(0, LEN), Some(true));
        assert_eq!(map.is_resident(LEN, 1), None, "there is no such byte");
        file.sync_all().unwrap();
        // SAFETY: takes no pointers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if map.is_resident(5000, 262_144) == Some(true) {
            return println!("skipped: file system that drops its cache not found");
        }
        file.read_exact_at(&mut [0; LEN as usize], 0).unwrap();
        assert_eq!(map.is_resident(5000, 262_144), Some(true));
    }

    #[test]
    fn only_bytes_below_the_end_are_handed_out_and_growth_is_seen() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcd", 0).unwrap();
        let mut map = Map::new(&file, 3, Path::new("pack")).unwrap();
        assert_eq!(map.slice(0, 3), Some(&b"abc"[..]));
        assert_eq!(map.slice(0, 4), None);
        assert_eq!(map.slice(u64::MAX, 2), None);
        file.write_all_at(b"efgh", 4).unwrap();
        map.set_end(8);
        assert_eq!(map.slice(2, 6), Some(&b"cdefgh"[..]));

        let far = RESERVE_STEP + 5;
        file.write_all_at(b"far", far).unwrap();
        map.reserve(&file, far + 3).unwrap();
        assert_eq!(map.slice(far, 3), None, "reserved is not yet readable");
        map.set_end(far + 3);
        assert_eq!(map.slice(far, 3), Some(&b"far"[..]));
    }
}
