//! DIR.part, which becomes DIR when all is there: a fetched directory.
//!
//! Links are made last, so that nothing is written through one, and what an earlier attempt has left must be of the
//! same listing: nothing of somebody else's is replaced.

use super::failure::{Failure, Status};
use super::part::{changed_meanwhile, is_same_file, lock, parent_of, part_path, sync_parent};
use super::tree_input::path_in;
use crate::limits::WRITE_BACK_STEP;
use crate::listing::{check_target, printable, Entry, Kind, Listing};
use crate::sys;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory that is being written. Offsets are those of the listing's stream.
pub struct TreeOutput {
    target: PathBuf,
    path: PathBuf,
    /// The directory, locked.
    lock: File,
    listing: Listing,
    /// What of the listing is written: all, or what is below one directory.
    entries: Range<usize>,
    /// Bytes of each path in the listing that are left out.
    strip: usize,
    /// Files that have bytes, in the order of the stream.
    order: Vec<usize>,
    /// The file that was written last.
    current: Option<(usize, File)>,
    /// Bytes that are verified and there.
    len: u64,
    /// An earlier attempt has left bytes of files, which are not looked through yet.
    found: bool,
    /// No earlier attempt has made the directory.
    made: bool,
}

/// Fails unless a directory can be made there.
pub fn expect_absent(target: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    let target = target.display();
    let message =
        format!("{target}: exists, and a directory replaces nothing; remove it, or name another");
    Err(Failure::new(Status::Exists, message))
}

impl TreeOutput {
    /// Makes DIR.part for these entries of a listing, of whose paths `strip` bytes are left out, or goes on in one.
    /// Nothing of one that an earlier attempt has left is changed before some of it is verified.
    pub fn new(
        target: &Path,
        listing: Listing,
        entries: Range<usize>,
        strip: usize,
    ) -> Result<TreeOutput, Failure> {
        // Without slashes at the end.
        let target = target.components().as_path().to_path_buf();
        expect_absent(&target)?;
        for index in entries.clone() {
            let Entry { path, kind } = listing.entry(index);
            let Kind::Link { target } = kind else {
                continue;
            };
            check_target(&path[strip..], target).map_err(|what| {
                let message = format!("{}: {what}; fetch the whole", printable(path));
                Failure::new(Status::Other, message)
            })?;
        }
        let path = part_path(&target);
        let made = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        let metadata = fs::symlink_metadata(&path).map_err(|error| Failure::file(&path, &error))?;
        // A link is not followed, and what others may change meanwhile is not gone on in.
        if !metadata.is_dir() || metadata.uid() != sys::effective_uid() {
            let message = format!("{}: is in the way; remove it", path.display());
            return Err(Failure::new(Status::Exists, message));
        }
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        let opened = opened.map_err(|error| Failure::file(&path, &error))?;
        lock(&opened, &path, &target)?;
        let mut output = TreeOutput {
            order: listing.in_stream(entries.clone()),
            target,
            path,
            lock: opened,
            listing,
            entries,
            strip,
            current: None,
            len: 0,
            found: false,
            made,
        };
        if !made {
            output.found = output.look_through()?;
        }
        if !output.found {
            let begun = output.begin(0);
            begun.map_err(|failure| output.give_up(failure))?;
        }
        Ok(output)
    }

    /// Where an entry goes.
    fn path_of(&self, index: usize) -> PathBuf {
        path_in(&self.path, &self.listing.entry(index).path[self.strip..])
    }

    /// Whether an earlier attempt has left bytes of files. Fails if there is anything that is not in the listing.
    fn look_through(&self) -> Result<bool, Failure> {
        let prefix = match self.entries.clone().next() {
            Some(first) => self.listing.entry(first).path[..self.strip].to_vec(),
            None => Vec::new(),
        };
        let mut dirs = vec![Vec::new()];
        let mut any = false;
        while let Some(within) = dirs.pop() {
            let at = path_in(&self.path, &within);
            for entry in fs::read_dir(&at).map_err(|error| Failure::file(&at, &error))? {
                let entry = entry.map_err(|error| Failure::file(&at, &error))?;
                let at = entry.path();
                let name = entry.file_name();
                let mut path = within.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name.as_bytes());
                let failed = |error: io::Error| Failure::file(&at, &error);
                let metadata = entry.metadata().map_err(failed)?;
                let index = self.listing.find(&[&prefix[..], &path].concat());
                let index = index.filter(|index| self.entries.contains(index));
                let is_ours = match index.map(|index| self.listing.entry(index).kind) {
                    Some(Kind::File { len, .. }) => metadata.is_file() && metadata.len() <= len,
                    Some(Kind::Link { target }) => {
                        let found = fs::read_link(&at);
                        found.is_ok_and(|found| found.as_os_str().as_bytes() == target)
                    }
                    Some(Kind::Directory) => metadata.is_dir(),
                    None => false,
                };
                if !is_ours {
                    return Err(self.not_ours(&at));
                }
                if metadata.is_dir() {
                    dirs.push(path);
                }
                any |= metadata.is_file() && metadata.len() > 0;
            }
        }
        Ok(any)
    }

    fn not_ours(&self, at: &Path) -> Failure {
        let (at, path) = (at.display(), self.path.display());
        let message = format!("{at}: exists and is not a part of this; remove {path}");
        Failure::new(Status::Exists, message)
    }

    /// What is to be written begins at this offset: what was there is removed, and what has no bytes is made.
    fn begin(&mut self, offset: u64) -> Result<(), Failure> {
        if !self.made {
            self.cut(offset)?;
        }
        for index in self.entries.clone() {
            let path = self.path_of(index);
            let done = match self.listing.entry(index).kind {
                Kind::Directory => fs::create_dir(&path),
                Kind::File { len: 0, .. } => self.create(index).map(drop),
                _ => continue,
            };
            match done {
                // It was looked at before.
                Err(error) if !self.made && error.kind() == ErrorKind::AlreadyExists => {}
                done => done.map_err(|error| Failure::file(&path, &error))?,
            }
        }
        Ok(())
    }

    fn create(&self, index: usize) -> io::Result<File> {
        let kind = self.listing.entry(index).kind;
        let mode = match kind {
            Kind::File { is_executable, .. } if is_executable => 0o777,
            _ => 0o666,
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(mode);
        options.open(self.path_of(index))
    }

    fn open(&self, index: usize) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        options
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path_of(index))
    }

    /// Whether an earlier attempt has left something that may be of use.
    pub fn is_found(&self) -> bool {
        self.found
    }

    /// The first of the files that end after an offset, as a place in the order of the stream.
    fn first_after(&self, offset: u64) -> usize {
        self.order
            .partition_point(|&index| self.listing.span(index).end <= offset)
    }

    /// Reads what an earlier attempt has left at an offset, as far as there is any without a gap.
    pub fn read_found(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for place in self.first_after(offset)..self.order.len() {
            let index = self.order[place];
            let span = self.listing.span(index);
            let at = offset + bytes.len() as u64;
            // Up to the next file there are zeros.
            let padding = span
                .start
                .saturating_sub(at)
                .min((len - bytes.len()) as u64);
            bytes.resize(bytes.len() + padding as usize, 0);
            let at = at + padding;
            let wanted = (span.end - at).min((len - bytes.len()) as u64);
            if wanted == 0 {
                return bytes;
            }
            let start = bytes.len();
            bytes.resize(start + wanted as usize, 0);
            let read = self
                .open(index)
                .and_then(|file| read_at(&file, &mut bytes[start..], at - span.start));
            let read = read.unwrap_or(0);
            if (read as u64) < wanted {
                bytes.truncate(start + read);
                return bytes;
            }
        }
        bytes
    }

    /// The next bytes of what was found are verified: they stay.
    pub fn keep_found(&mut self, len: usize) {
        self.len += len as u64;
    }

    /// No more of what was found is of use from this offset on. If none was, it is somebody else's.
    pub fn end_found(&mut self, offset: u64) -> Result<(), Failure> {
        if !self.found {
            return Ok(());
        }
        if self.len == 0 {
            return Err(self.not_ours(&self.path.clone()));
        }
        self.found = false;
        self.begin(offset)
    }

    /// Removes links, and what files hold from this offset on.
    fn cut(&self, offset: u64) -> Result<(), Failure> {
        for index in self.entries.clone() {
            let span = self.listing.span(index);
            let path = self.path_of(index);
            let done = match self.listing.entry(index).kind {
                Kind::Link { .. } => fs::remove_file(&path),
                Kind::Directory | Kind::File { len: 0, .. } => Ok(()),
                Kind::File { .. } if span.start >= offset => fs::remove_file(&path),
                Kind::File { .. } if span.end > offset => self
                    .open(index)
                    .and_then(|file| file.set_len(offset - span.start)),
                Kind::File { .. } => Ok(()),
            };
            match done {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done.map_err(|error| Failure::file(&path, &error))?,
            }
        }
        Ok(())
    }

    /// Writes bytes, which must come in the order of the stream. What lies between files must be zero.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut done = 0;
        let end = offset + bytes.len() as u64;
        for place in self.first_after(offset)..self.order.len() {
            let index = self.order[place];
            let span = self.listing.span(index);
            if span.start >= end {
                break;
            }
            let at = offset + done as u64;
            let padding = span.start.saturating_sub(at) as usize;
            self.expect_zeros(&bytes[done..done + padding])?;
            done += padding;
            let at = at + padding as u64;
            let count = (span.end.min(end) - at) as usize;
            let written = self.write_in(index, at - span.start, &bytes[done..done + count]);
            written.map_err(|error| Failure::file(&self.path_of(index), &error))?;
            done += count;
        }
        self.expect_zeros(&bytes[done..])?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn expect_zeros(&self, bytes: &[u8]) -> Result<(), Failure> {
        match bytes.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => {
                let target = self.target.display();
                let message =
                    format!("{target}: a damaged directory: there is something between its files");
                Err(Failure::new(Status::Damaged, message))
            }
        }
    }

    fn write_in(&mut self, index: usize, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = match self.current.take() {
            Some((current, file)) if current == index => file,
            _ if at == 0 => self.create(index)?,
            _ => self.open(index)?,
        };
        file.write_all_at(bytes, at)?;
        // So that the sync at the end is short.
        let end = at + bytes.len() as u64;
        let step = at / WRITE_BACK_STEP * WRITE_BACK_STEP;
        if end >= step + WRITE_BACK_STEP {
            sys::start_write_back(&file, step, WRITE_BACK_STEP);
        }
        self.current = Some((index, file));
        Ok(())
    }

    /// All bytes are written: links are made, and the directory gets its name, durably.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.current = None;
        self.expect_ours()?;
        for index in self.entries.clone() {
            if let Kind::Link { target } = self.listing.entry(index).kind {
                let path = self.path_of(index);
                symlink(OsStr::from_bytes(target), &path)
                    .map_err(|error| Failure::file(&path, &error))?;
            }
        }
        sys::sync_file_system(&self.lock).map_err(|error| Failure::file(&self.path, &error))?;
        self.expect_ours()?;
        match sys::rename_new(&self.path, &self.target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let message = format!(
                    "{}: was made meanwhile; rename {}",
                    self.target.display(),
                    self.path.display()
                );
                return Err(Failure::new(Status::Exists, message));
            }
            Err(error) => return Err(Failure::file(&self.target, &error)),
        }
        sync_parent(parent_of(&self.target)).map_err(|error| Failure::file(&self.target, &error))
    }

    /// Fails if what has the name of DIR.part is another by now.
    fn expect_ours(&self) -> Result<(), Failure> {
        match is_same_file(&self.lock, &self.path) {
            true => Ok(()),
            false => Err(changed_meanwhile(&self.path)),
        }
    }

    /// The work has failed. What is verified stays for the next attempt, and the message says where; what is
    /// not, or can never become whole, goes.
    pub fn give_up(&mut self, failure: Failure) -> Failure {
        // Found, and never looked through: it is somebody's. So is what has its name instead.
        if self.found || !is_same_file(&self.lock, &self.path) {
            return failure;
        }
        if self.len == 0 || failure.status == Status::Damaged {
            if self.made {
                let _ = fs::remove_dir_all(&self.path);
            }
            return failure;
        }
        let path = self.path.display();
        let message = format!(
            "{}; {} verified bytes are in {path}, the same command goes on from there",
            failure.message, self.len
        );
        Failure::new(failure.status, message)
    }
}

/// Reads as much as there is.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
