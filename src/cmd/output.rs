//! Where data and answers go: standard output, which carries nothing else, or a file that appears whole.

use super::failure::{plain, Failure, Status};
use super::json::Object;
use super::voice::is_json;
use crate::limits::WRITE_BACK_STEP;
use crate::sys;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes in a file's name at most, on every file system of Linux (path_resolution(7)).
const NAME_MAX: usize = 255;

/// What is added to a file's name until it is whole.
const SUFFIX: &str = ".part";

/// Prints one line of the answer. A reader that has gone ends the process as SIGPIPE does.
pub fn line(text: &impl Display) -> Result<(), Failure> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    let text = format!("{text}\n");
    let written = descriptor.and_then(|fd| write_all(&mut fd.into(), text.as_bytes()));
    written.or_else(|error| pipe_failed("standard output", &error))
}

/// Prints the answer, or a part of it: as text, or with `--json` as an object.
pub fn answer(text: &impl Display, object: impl FnOnce() -> Object) -> Result<(), Failure> {
    match is_json() {
        true => line(&object()),
        false => line(text),
    }
}

fn pipe_failed(path: impl AsRef<Path>, error: &io::Error) -> Result<(), Failure> {
    if error.kind() == ErrorKind::BrokenPipe {
        sys::die_by_sigpipe();
    }
    Err(Failure::file(path.as_ref(), error))
}

/// Writes all of it, and waits for the reader also where somebody has made the descriptor non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => {
                    sys::wait_for(file.as_raw_fd(), false, true, None)?;
                }
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// What fetched data is written to.
pub enum Output {
    /// Standard output, without the buffer that cuts at lines.
    Stdout(File),
    /// Something that is no regular file, such as a device or a pipe, as it is.
    Direct(PathBuf, File),
    /// A regular file, under another name until it is whole.
    Part(Part),
}

/// FILE.part, which becomes FILE.
pub struct Part {
    target: PathBuf,
    path: PathBuf,
    /// Made when there is something to be written.
    file: Option<File>,
    /// Bytes that are in it, verified.
    len: u64,
    /// Bytes that were in it at the start.
    found: u64,
    /// Write-back has been started for everything before.
    written_back: u64,
    force: bool,
}

impl Output {
    /// Decides where to write before anything is fetched. `-` and `None` are standard output; a terminal gets
    /// data only if it was named.
    pub fn new(target: Option<&Path>, force: bool) -> Result<Output, Failure> {
        match target {
            Some(path) if path.as_os_str() != "-" => Output::to_path(path, force),
            named => {
                if named.is_none() && io::stdout().is_terminal() {
                    let message =
                        "standard output is a terminal; give -o FILE, or -o - if you mean it";
                    return Err(Failure::usage(message));
                }
                let duplicate = io::stdout().as_fd().try_clone_to_owned();
                match duplicate {
                    Ok(fd) => Ok(Output::Stdout(fd.into())),
                    Err(error) => Err(Failure::file(Path::new("standard output"), &error)),
                }
            }
        }
    }

    fn to_path(path: &Path, force: bool) -> Result<Output, Failure> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let message = format!("{}: is a directory; name a file in it", path.display());
                return Err(Failure::new(Status::Other, message));
            }
            Ok(metadata) if metadata.is_file() => {
                if !force {
                    let message = format!("{}: exists; give -f to replace it", path.display());
                    return Err(Failure::new(Status::Exists, message));
                }
            }
            Ok(metadata) => {
                if metadata.file_type().is_socket() {
                    let message = format!("{}: is a socket", path.display());
                    return Err(Failure::new(Status::Other, message));
                }
                let file = OpenOptions::new().write(true).open(path);
                let file = file.map_err(|error| Failure::file(path, &error))?;
                return Ok(Output::Direct(path.to_path_buf(), file));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A link to nothing is in the way as a file is.
                if !force && fs::symlink_metadata(path).is_ok() {
                    let message = format!(
                        "{}: exists, as a link to nothing; give -f to replace it",
                        path.display()
                    );
                    return Err(Failure::new(Status::Exists, message));
                }
            }
            Err(error) => return Err(Failure::file(path, &error)),
        }
        // `FILE/` could only be a directory, and an empty name is none: neither can be made from FILE.part.
        if path.as_os_str().is_empty() || path.as_os_str().as_bytes().ends_with(b"/") {
            let message = format!("-o {}: names no file", path.display());
            return Err(Failure::new(Status::Other, message));
        }
        Part::new(path, force).map(Output::Part)
    }

    /// What was found of the file from an earlier attempt: so many bytes, none of them verified.
    pub fn found(&self) -> u64 {
        match self {
            Output::Part(part) => part.found,
            _ => 0,
        }
    }

    /// Reads what an earlier attempt has left at an offset; `None` if it has not so much.
    pub fn read_found(&mut self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let Output::Part(part) = self else {
            return None;
        };
        if offset + len as u64 > part.found {
            return None;
        }
        let mut bytes = vec![0; len];
        let file = part.file.as_mut()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The next bytes of what an earlier attempt has left are verified: they stay.
    pub fn keep_found(&mut self, len: usize) {
        if let Output::Part(part) = self {
            part.len += len as u64;
        }
    }

    /// No more of what was found is of use. If none was, what was found is somebody else's.
    pub fn end_found(&mut self) -> Result<(), Failure> {
        let Output::Part(part) = self else {
            return Ok(());
        };
        if part.found == 0 {
            return Ok(());
        }
        if part.len == 0 && !part.force {
            let path = part.path.display();
            let message =
                format!("{path}: exists and is not a part of this; remove it, or give -f");
            return Err(Failure::new(Status::Exists, message));
        }
        part.found = 0;
        let (path, len) = (part.path.clone(), part.len);
        let file = part.open()?;
        let cut = file
            .set_len(len)
            .and_then(|()| file.seek(SeekFrom::Start(len)));
        cut.map(|_| ())
            .map_err(|error| Failure::file(&path, &error))
    }

    /// Writes the next bytes. A reader that has gone, of standard output or of a pipe, ends the process as
    /// SIGPIPE does.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Output::Stdout(file) => {
                write_all(file, bytes).or_else(|error| pipe_failed("standard output", &error))
            }
            Output::Direct(path, file) => {
                write_all(file, bytes).or_else(|error| pipe_failed(&path, &error))
            }
            Output::Part(part) => {
                let path = part.path.clone();
                let file = part.open()?;
                file.write_all(bytes)
                    .map_err(|error| Failure::file(&path, &error))?;
                part.len += bytes.len() as u64;
                part.start_write_back();
                Ok(())
            }
        }
    }

    /// All bytes are written: the file gets its name, durably.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let Output::Part(part) = self else {
            return Ok(());
        };
        let path = part.path.clone();
        let file = part.open()?;
        file.sync_all()
            .map_err(|error| Failure::file(&path, &error))?;
        // Somebody may have made the file meanwhile. A link fails then, where a rename would replace it.
        let renamed = match part.force {
            true => fs::rename(&path, &part.target),
            false => match fs::hard_link(&path, &part.target) {
                Ok(()) => fs::remove_file(&path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let target = part.target.display();
                    let message = format!(
                        "{target}: was made meanwhile; give -f to replace it, or rename {}",
                        path.display()
                    );
                    return Err(Failure::new(Status::Exists, message));
                }
                // A file system without links.
                Err(_) => fs::rename(&path, &part.target),
            },
        };
        renamed.map_err(|error| Failure::file(&part.target, &error))?;
        // From here on there is no FILE.part to speak of.
        part.file = None;
        match File::open(part.parent()) {
            Ok(parent) => parent
                .sync_all()
                .map_err(|error| Failure::file(&part.target, &error)),
            // It may be one that can be written and not read: then nobody can sync it.
            Err(_) => Ok(()),
        }
    }

    /// The work has failed. What is verified stays for the next attempt, and the message says where; what is
    /// not, goes.
    pub fn give_up(&mut self, failure: Failure) -> Failure {
        let Output::Part(part) = self else {
            return failure;
        };
        // Found, and never looked at: it is somebody's.
        if part.found > 0 || part.file.is_none() {
            return failure;
        }
        let path = part.path.display();
        if part.len == 0 {
            let _ = fs::remove_file(&part.path);
            return failure;
        }
        let message = format!(
            "{}; {} verified bytes are in {path}, the same command goes on from there",
            failure.message, part.len
        );
        Failure::new(failure.status, message)
    }
}

impl Part {
    fn new(target: &Path, force: bool) -> Result<Part, Failure> {
        let name = target.file_name().unwrap_or_default().as_bytes();
        // A name that is too long with what is added is cut: it may then be that of another's, which is noticed.
        let name = &name[..name.len().min(NAME_MAX - SUFFIX.len())];
        let name = [name, SUFFIX.as_bytes()].concat();
        let path = target.with_file_name(OsStr::from_bytes(&name));
        let mut part = Part {
            target: target.to_path_buf(),
            path,
            file: None,
            len: 0,
            found: 0,
            written_back: 0,
            force,
        };
        // A link is not followed: somebody else would choose where the data goes.
        match fs::symlink_metadata(&part.path) {
            Ok(metadata) if !metadata.is_file() => {
                let message = format!("{}: is in the way; remove it", part.path.display());
                return Err(Failure::new(Status::Exists, message));
            }
            Ok(_) => {
                let found = part.open()?.metadata();
                part.found = found
                    .map_err(|error| Failure::file(&part.path, &error))?
                    .len();
            }
            Err(error) if error.kind() == ErrorKind::NotFound => part.check_writable()?,
            Err(error) => return Err(Failure::file(&part.path, &error)),
        }
        Ok(part)
    }

    fn parent(&self) -> &Path {
        let parent = self.target.parent();
        parent
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Fails early if the file could not be made; nothing is left behind.
    fn check_writable(&self) -> Result<(), Failure> {
        let parent = self.parent();
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

    /// The file, made and locked if it is not open yet.
    fn open(&mut self) -> Result<&mut File, Failure> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let options = options.custom_flags(libc::O_NOFOLLOW);
            let file = options
                .open(&self.path)
                .map_err(|error| Failure::file(&self.path, &error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("{}: another fetch is writing it", self.path.display());
                    return Err(Failure::new(Status::InUse, message));
                }
                Err(TryLockError::Error(error)) => return Err(Failure::file(&self.path, &error)),
            }
            // Between our opening and locking it another fetch may have finished and renamed it.
            if !self.is_same_file(&file) {
                let message = format!(
                    "{}: another fetch has just finished it",
                    self.target.display()
                );
                return Err(Failure::new(Status::InUse, message));
            }
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was opened above"))
    }

    /// Has the disk begin with what was written, so that the sync at the end is short.
    fn start_write_back(&mut self) {
        let len = self.len - self.written_back;
        if let (Some(file), true) = (&self.file, len >= WRITE_BACK_STEP) {
            sys::start_write_back(file, self.written_back, len);
            self.written_back = self.len;
        }
    }

    fn is_same_file(&self, file: &File) -> bool {
        use std::os::unix::fs::MetadataExt;
        let opened = file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let named = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        matches!((opened, named), (Ok(opened), Ok(named)) if opened == named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut output = Output::new(Some(&target), false).expect("writable");
        assert!(
            !dir.path().join("file.part").exists(),
            "nothing before there is data"
        );
        output.write(b"abc").expect("written");
        assert!(!target.exists());
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"abc");
        assert!(!dir.path().join("file.part").exists());
    }

    #[test]
    fn a_file_that_exists_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        fs::write(&target, b"old").expect("written");
        let refused = Output::new(Some(&target), false).err().expect("refused");
        assert_eq!(refused.status, Status::Exists);
        let mut output = Output::new(Some(&target), true).expect("forced");
        output.write(b"new").expect("written");
        assert_eq!(fs::read(&target).expect("there"), b"old");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"new");
    }

    #[test]
    fn a_file_made_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut output = Output::new(Some(&target), false).expect("writable");
        output.write(b"ours").expect("written");
        fs::write(&target, b"theirs").expect("written");
        assert_eq!(output.finish().expect_err("refused").status, Status::Exists);
        assert_eq!(fs::read(&target).expect("there"), b"theirs");
        assert_eq!(
            fs::read(dir.path().join("file.part")).expect("there"),
            b"ours"
        );
    }

    #[test]
    fn a_link_in_the_place_of_the_part_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, victim) = (dir.path().join("file"), dir.path().join("victim"));
        std::os::unix::fs::symlink(&victim, dir.path().join("file.part")).expect("linked");
        for force in [false, true] {
            let refused = Output::new(Some(&target), force).err().expect("refused");
            assert_eq!(refused.status, Status::Exists);
        }
        assert!(!victim.exists());
    }

    #[test]
    fn the_longest_name_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("n".repeat(NAME_MAX));
        let mut output = Output::new(Some(&target), false).expect("writable");
        output.write(b"abc").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"abc");
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut first = Output::new(Some(&target), false).expect("writable");
        first.write(b"abc").expect("written");
        let second = Output::new(Some(&target), false).err().expect("busy");
        assert_eq!(second.status, Status::InUse);
    }

    #[test]
    fn what_was_found_stays_as_far_as_it_is_verified() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        fs::write(&part, b"goodbad").expect("written");
        let mut output = Output::new(Some(&target), false).expect("writable");
        assert_eq!(output.found(), 7);
        assert_eq!(output.read_found(0, 4), Some(b"good".to_vec()));
        output.keep_found(4);
        assert_eq!(output.read_found(4, 4), None);
        output.end_found().expect("cut");
        output.write(b"er").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"gooder");
    }

    #[test]
    fn a_part_of_something_else_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        fs::write(&part, b"mine").expect("written");
        let mut output = Output::new(Some(&target), false).expect("writable");
        let refused = output.end_found().expect_err("refused");
        assert_eq!(refused.status, Status::Exists);
        output.give_up(refused);
        assert_eq!(fs::read(&part).expect("there"), b"mine");
        drop(output);
        let mut output = Output::new(Some(&target), true).expect("writable");
        output.end_found().expect("forced");
        assert_eq!(fs::read(&part).expect("there"), b"");
    }

    #[test]
    fn giving_up_keeps_what_is_verified_and_only_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        let failure = || Failure::new(Status::NotFound, "not found");
        let mut output = Output::new(Some(&target), false).expect("writable");
        assert_eq!(output.give_up(failure()).message, "not found");
        assert!(!part.exists());
        output.write(b"abc").expect("written");
        assert!(output.give_up(failure()).message.contains("file.part"));
        assert!(part.exists());
    }
}
