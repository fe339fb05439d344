//! FILE.part, which becomes FILE when it is whole: a fetched file.

use super::failure::{plain, Failure, Status};
use super::part::{changed_meanwhile, is_same_file, lock, parent_of, part_path, sync_parent};
use crate::limits::WRITE_BACK_STEP;
use crate::sys;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Lets all execute a file who may read it.
fn allow_execution(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    let mode = permissions.mode();
    permissions.set_mode(mode | (mode & 0o444) >> 2);
    file.set_permissions(permissions)
}

/// FILE.part, which becomes FILE.
pub struct FileOutput {
    target: PathBuf,
    path: PathBuf,
    /// Made when there is something to be written.
    file: Option<File>,
    /// Bytes that are in it, verified.
    kept: u64,
    /// Where the last of them ends.
    len: u64,
    /// Bytes that were in it when it was opened.
    found: u64,
    /// The first bytes, by which it is told whose part it is, survive a loss of power.
    is_known: bool,
    /// What was written since write-back was started: from the first to the last byte, and how many.
    fresh: Range<u64>,
    fresh_len: u64,
    force: bool,
    /// Whoever may read it may execute it.
    pub is_executable: bool,
    /// Only a range of the bytes is written, in which nothing goes on.
    pub is_range: bool,
}

impl FileOutput {
    /// Decides what to write to. What an earlier attempt has left is opened and locked.
    pub fn new(target: &Path, force: bool) -> Result<FileOutput, Failure> {
        let path = part_path(target);
        let mut part = FileOutput {
            target: target.to_path_buf(),
            path,
            file: None,
            kept: 0,
            len: 0,
            found: 0,
            is_known: false,
            fresh: 0..0,
            fresh_len: 0,
            force,
            is_executable: false,
            is_range: false,
        };
        // A link is not followed: somebody else would choose where the data goes.
        match fs::symlink_metadata(&part.path) {
            Ok(metadata) if !metadata.is_file() => {
                let message = format!("{}: is in the way; remove it", part.path.display());
                return Err(Failure::new(Status::Exists, message));
            }
            Ok(_) => {
                part.open()?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => part.check_writable()?,
            Err(error) => return Err(Failure::file(&part.path, &error)),
        }
        Ok(part)
    }

    /// Bytes that were found, none of them verified.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Reads what was found at an offset, as far as there is so much.
    pub fn read_found(&mut self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let left = self.found.saturating_sub(offset);
        let mut bytes = vec![0; left.min(len as u64) as usize];
        let file = self.file.as_ref()?;
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// These bytes of what was found are verified: they stay.
    pub fn keep_found(&mut self, bytes: Range<u64>) {
        self.kept += bytes.end - bytes.start;
        self.len = self.len.max(bytes.end);
    }

    /// No more of what was found is of use. If none was, what was found is somebody else's.
    pub fn end_found(&mut self) -> Result<(), Failure> {
        if self.found == 0 || self.kept > 0 {
            return Ok(());
        }
        if !self.force {
            let path = self.path.display();
            let message =
                format!("{path}: exists and is not a part of this; remove it, or give -f");
            return Err(Failure::new(Status::Exists, message));
        }
        self.found = 0;
        let path = self.path.clone();
        let cut = self.open()?.set_len(0);
        cut.map_err(|error| Failure::file(&path, &error))
    }

    /// Writes bytes where they belong. The first are durable before others follow: after a loss of power zeros in their
    /// place would be taken for a part of something else.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.path.clone();
        let is_to_be_synced = self.kept > 0 && !self.is_known;
        let file = self.begun()?;
        let synced = match is_to_be_synced {
            true => file.sync_data(),
            false => Ok(()),
        };
        synced
            .and_then(|()| file.write_all_at(bytes, offset))
            .map_err(|error| Failure::file(&path, &error))?;
        self.is_known |= is_to_be_synced;
        let end = offset + bytes.len() as u64;
        self.kept += bytes.len() as u64;
        self.len = self.len.max(end);
        self.start_write_back(offset..end);
        Ok(())
    }

    /// All bytes are written: the file gets its name, durably.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let (path, is_executable, len) = (self.path.clone(), self.is_executable, self.len);
        self.begun()?;
        if !self.is_intact() {
            return Err(changed_meanwhile(&path));
        }
        let file = self.open()?;
        // What was found may have been longer.
        let cut = file.set_len(len);
        let made = if is_executable {
            cut.and_then(|()| allow_execution(file))
        } else {
            cut
        };
        made.and_then(|()| file.sync_all())
            .map_err(|error| Failure::file(&path, &error))?;
        // The sync takes a while.
        if !self.is_intact() {
            return Err(changed_meanwhile(&path));
        }
        // Somebody may have made the file meanwhile.
        let renamed = match self.force {
            true => fs::rename(&path, &self.target),
            false => sys::rename_new(&path, &self.target),
        };
        match renamed {
            // From here on there is no FILE.part to speak of.
            Ok(()) => self.file = None,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // FILE.part is whole, and the user's.
                self.file = None;
                let (target, path) = (self.target.display(), path.display());
                let message = format!(
                    "{target}: was made meanwhile; give -f to replace it, or rename {path}"
                );
                return Err(Failure::new(Status::Exists, message));
            }
            Err(error) => return Err(Failure::file(&self.target, &error)),
        }
        sync_parent(parent_of(&self.target)).map_err(|error| Failure::file(&self.target, &error))
    }

    /// The work has failed. What is verified stays for the next attempt, and the message says where; what is
    /// not, goes.
    pub fn give_up(&mut self, failure: Failure) -> Failure {
        // Found, and never looked at: it is somebody's. So is what has its name instead.
        if self.found > 0 && self.kept == 0 || !self.is_intact() {
            return failure;
        }
        let path = self.path.display();
        if self.kept == 0 || self.is_range {
            let _ = fs::remove_file(&self.path);
            return failure;
        }
        let message = format!(
            "{}; {} verified bytes are in {path}, the same command goes on from there",
            failure.message, self.kept
        );
        Failure::new(failure.status, message)
    }

    /// Whether FILE.part is what was written, as far as can be seen: nobody has removed, replaced or cut it.
    fn is_intact(&self) -> bool {
        let is_long_enough = |file: &File| file.metadata().is_ok_and(|it| it.len() >= self.len);
        let file = self.file.as_ref();
        file.is_some_and(|file| is_same_file(file, &self.path) && is_long_enough(file))
    }

    /// Fails early if the file could not be made; nothing is left behind.
    fn check_writable(&self) -> Result<(), Failure> {
        let parent = parent_of(&self.target);
        let failed = |error: io::Error| {
            let message = format!(
                "{}: cannot be written: {}",
                self.target.display(),
                plain(&error)
            );
            Failure::new(Status::Other, message)
        };
        if !fs::metadata(parent).map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        sys::check_writable(parent).map_err(failed)
    }

    /// The file to write to. One that somebody has made meanwhile is theirs.
    fn begun(&mut self) -> Result<&mut File, Failure> {
        if self.file.is_none() {
            self.open()?;
            self.end_found()?;
        }
        self.open()
    }

    /// The file, made and locked if it is not open yet.
    fn open(&mut self) -> Result<&mut File, Failure> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let options = options.custom_flags(libc::O_NOFOLLOW);
            let file = options
                .open(&self.path)
                .map_err(|error| Failure::file(&self.path, &error))?;
            lock(&file, &self.path, &self.target)?;
            let metadata = file.metadata();
            let metadata = metadata.map_err(|error| Failure::file(&self.path, &error))?;
            self.found = metadata.len();
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was opened above"))
    }

    /// Has the disk begin with what was written, now and again, so that the sync at the end is short.
    fn start_write_back(&mut self, written: Range<u64>) {
        self.fresh_len += written.end - written.start;
        self.fresh = match self.fresh.is_empty() {
            true => written,
            false => self.fresh.start.min(written.start)..self.fresh.end.max(written.end),
        };
        if let (Some(file), true) = (&self.file, self.fresh_len >= WRITE_BACK_STEP) {
            sys::start_write_back(file, self.fresh.start, self.fresh.end - self.fresh.start);
            self.fresh = 0..0;
            self.fresh_len = 0;
        }
    }
}
