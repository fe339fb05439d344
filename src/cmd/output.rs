//! Where data and answers go: standard output, which carries nothing else, or a file or directory that appears whole.

use super::failure::{Failure, Status};
use super::file_output::FileOutput;
use super::json::Object;
use super::progress;
use super::tree_output::TreeOutput;
use super::voice::is_json;
use crate::sys;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is looked whether a pipe has got a reader.
const READER_POLL: Duration = Duration::from_millis(20);

/// Prints one line of the answer. A reader that has gone ends the process as SIGPIPE does.
pub fn line(text: &impl Display) -> Result<(), Failure> {
    progress::clear();
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    let text = format!("{text}\n");
    let written = descriptor.and_then(|fd| write_all(&mut fd.into(), text.as_bytes(), None));
    written.map_err(|error| pipe_failed(Path::new("standard output"), &error))
}

/// Prints the answer, or a part of it: as text, or with `--json` as an object.
pub fn answer(text: &impl Display, object: impl FnOnce() -> Object) -> Result<(), Failure> {
    match is_json() {
        true => line(&object()),
        false => line(text),
    }
}

fn pipe_failed(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => sys::die_by_sigpipe(),
        ErrorKind::TimedOut => {
            let path = path.display();
            let message = format!("{path}: not written in the time given: nobody reads it");
            Failure::new(Status::TimedOut, message)
        }
        _ => Failure::file(path, error),
    }
}

/// Writes all of it, and waits for the reader also where somebody has made the descriptor non-blocking; no longer than
/// until a time, if one is given.
fn write_all(file: &mut File, mut bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
    // So many bytes do not block where it is said that writing does not.
    let step = until.map_or(usize::MAX, |_| libc::PIPE_BUF);
    while !bytes.is_empty() {
        if until.is_some() {
            wait_for_reader(file, until)?;
        }
        match file.write(&bytes[..bytes.len().min(step)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => wait_for_reader(file, until)?,
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

fn wait_for_reader(file: &File, until: Option<Instant>) -> io::Result<()> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if sys::wait_for(file.as_raw_fd(), false, true, left)?.write {
            return Ok(());
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Opens something that is no regular file. A pipe that has no reader is waited for, until a time if one is given.
fn open_stream(path: &Path, is_pipe: bool, until: Option<Instant>) -> io::Result<File> {
    let Some(until) = until.filter(|_| is_pipe) else {
        return OpenOptions::new().write(true).open(path);
    };
    loop {
        let mut options = OpenOptions::new();
        let opened = options
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let has_reader = |error: &io::Error| error.raw_os_error() != Some(libc::ENXIO);
        match opened {
            Err(error) if !has_reader(&error) && Instant::now() >= until => {
                return Err(ErrorKind::TimedOut.into())
            }
            Err(error) if !has_reader(&error) => sleep(READER_POLL),
            opened => return opened,
        }
    }
}

/// Standard output, or something that is no regular file, such as a device or a pipe: written as it is, without the
/// buffer that cuts at lines.
pub struct Stream {
    path: PathBuf,
    file: File,
    /// When it is given up to wait for the reader.
    until: Option<Instant>,
}

impl Stream {
    fn new(path: &Path, file: File, until: Option<Instant>) -> Stream {
        // A regular file has no reader to wait for.
        let is_file = file.metadata().is_ok_and(|it| it.is_file());
        Stream {
            path: path.to_path_buf(),
            file,
            until: until.filter(|_| !is_file),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = write_all(&mut self.file, bytes, self.until);
        written.map_err(|error| pipe_failed(&self.path, &error))
    }
}

/// What fetched data is written to.
pub enum Output {
    /// What has no name that it could get when it is whole.
    Stream(Stream),
    /// A regular file, under another name until it is whole.
    File(FileOutput),
    /// A directory, likewise.
    Tree(Box<TreeOutput>),
}

impl Output {
    /// Decides where to write before anything is fetched. `-` and `None` are standard output; a terminal gets
    /// data only if it was named. A reader is waited for until a time, if one is given.
    pub fn new(
        target: Option<&Path>,
        force: bool,
        until: Option<Instant>,
    ) -> Result<Output, Failure> {
        match target {
            Some(path) if path.as_os_str() != "-" => Output::to_path(path, force, until),
            named => {
                if named.is_none() && io::stdout().is_terminal() {
                    let message =
                        "standard output is a terminal; give -o FILE, or -o - if you mean it";
                    return Err(Failure::usage(message));
                }
                let path = Path::new("standard output");
                let duplicate = io::stdout().as_fd().try_clone_to_owned();
                let fd = duplicate.map_err(|error| Failure::file(path, &error))?;
                Ok(Output::Stream(Stream::new(path, fd.into(), until)))
            }
        }
    }

    /// Whether the data is shown as it comes.
    pub fn is_terminal(&self) -> bool {
        match self {
            Output::Stream(stream) => stream.file.is_terminal(),
            Output::File(_) | Output::Tree(_) => false,
        }
    }

    fn to_path(path: &Path, force: bool, until: Option<Instant>) -> Result<Output, Failure> {
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
                let file = open_stream(path, metadata.file_type().is_fifo(), until);
                let file = file.map_err(|error| pipe_failed(path, &error))?;
                return Ok(Output::Stream(Stream::new(path, file, until)));
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
        FileOutput::new(path, force).map(Output::File)
    }

    /// Whether anything was found from an earlier attempt, none of it verified.
    pub fn is_found(&self) -> bool {
        match self {
            Output::File(file) => file.found() > 0,
            Output::Tree(tree) => tree.is_found(),
            _ => false,
        }
    }

    /// Whether bytes may be written in any order.
    pub fn takes_any_order(&self) -> bool {
        matches!(self, Output::File(_))
    }

    /// How many bytes an earlier attempt has left that were written in any order: some of them may be missing.
    pub fn found_in_any_order(&self) -> u64 {
        match self {
            Output::File(file) => file.found(),
            _ => 0,
        }
    }

    /// Reads what an earlier attempt has left at an offset, as far as it has so much.
    pub fn read_found(&mut self, offset: u64, len: usize) -> Vec<u8> {
        match self {
            Output::File(file) => file.read_found(offset, len).unwrap_or_default(),
            Output::Tree(tree) => tree.read_found(offset, len),
            _ => Vec::new(),
        }
    }

    /// Bytes of what an earlier attempt has left at this offset are verified: they stay.
    pub fn keep_found(&mut self, offset: u64, len: usize) {
        match self {
            Output::File(file) => file.keep_found(offset..offset + len as u64),
            Output::Tree(tree) => tree.keep_found(len),
            _ => {}
        }
    }

    /// No more of what was found is of use, unless the output is a file also not before this offset. If none was, what
    /// was found is somebody else's.
    pub fn end_found(&mut self, offset: u64) -> Result<(), Failure> {
        match self {
            Output::File(file) => file.end_found(),
            Output::Tree(tree) => tree.end_found(offset),
            _ => Ok(()),
        }
    }

    /// Writes bytes that belong at this offset, which is where the last have ended unless any order is taken. A reader
    /// that has gone, of standard output or of a pipe, ends the process as SIGPIPE does.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Output::Stream(stream) => stream.write(bytes),
            Output::File(file) => file.write(offset, bytes),
            Output::Tree(tree) => tree.write(offset, bytes),
        }
    }

    /// All bytes are written: what has another name until it is whole gets its own, durably.
    pub fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Output::File(file) => file.finish(),
            Output::Tree(tree) => tree.finish(),
            _ => Ok(()),
        }
    }

    /// The work has failed. What is verified stays for the next attempt, and the message says where; what is
    /// not, goes.
    pub fn give_up(&mut self, failure: Failure) -> Failure {
        match self {
            Output::File(file) => file.give_up(failure),
            Output::Tree(tree) => tree.give_up(failure),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NAME_MAX;

    #[test]
    fn the_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        assert!(
            !dir.path().join("file.part").exists(),
            "nothing before there is data"
        );
        output.write(0, b"abc").expect("written");
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
        let refused = Output::new(Some(&target), false, None)
            .err()
            .expect("refused");
        assert_eq!(refused.status, Status::Exists);
        let mut output = Output::new(Some(&target), true, None).expect("forced");
        output.write(0, b"new").expect("written");
        assert_eq!(fs::read(&target).expect("there"), b"old");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"new");
    }

    #[test]
    fn a_file_made_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        output.write(0, b"ours").expect("written");
        fs::write(&target, b"theirs").expect("written");
        assert_eq!(output.finish().expect_err("refused").status, Status::Exists);
        assert_eq!(fs::read(&target).expect("there"), b"theirs");
        assert_eq!(
            fs::read(dir.path().join("file.part")).expect("there"),
            b"ours"
        );
    }

    #[test]
    fn a_part_made_meanwhile_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        for is_empty in [false, true] {
            let mut output = Output::new(Some(&target), false, None).expect("writable");
            fs::write(&part, b"theirs").expect("written");
            let refused = match is_empty {
                false => output.write(0, b"ours"),
                true => output.finish(),
            };
            let refused = refused.expect_err("refused");
            assert_eq!(refused.status, Status::Exists);
            output.give_up(refused);
            assert_eq!(fs::read(&part).expect("there"), b"theirs");
            fs::remove_file(&part).expect("removed");
        }
        let mut output = Output::new(Some(&target), true, None).expect("writable");
        fs::write(&part, b"theirs").expect("written");
        output.write(0, b"ours").expect("forced");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"ours");
    }

    #[test]
    fn a_part_that_was_removed_replaced_or_cut_meanwhile_does_not_become_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        let remove = |part: &Path| fs::remove_file(part).expect("removed");
        let replace = |part: &Path| {
            remove(part);
            fs::write(part, b"theirs").expect("written");
        };
        let cut = |part: &Path| fs::write(part, b"o").expect("cut");
        type Meddler<'a> = &'a dyn Fn(&Path);
        let meddlers: [(Meddler<'_>, Option<&[u8]>); 3] = [
            (&remove, None),
            (&replace, Some(b"theirs")),
            (&cut, Some(b"o")),
        ];
        for (meddle, left) in meddlers {
            let mut output = Output::new(Some(&target), false, None).expect("writable");
            output.write(0, b"ours").expect("written");
            meddle(&part);
            let failure = output.finish().expect_err("it is not what was written");
            assert_eq!(failure.status, Status::Other);
            let failure = output.give_up(failure);
            assert!(!failure.message.contains("verified"), "{failure}");
            assert!(!target.exists());
            assert_eq!(fs::read(&part).ok().as_deref(), left);
            let _ = fs::remove_file(&part);
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_part_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, victim) = (dir.path().join("file"), dir.path().join("victim"));
        std::os::unix::fs::symlink(&victim, dir.path().join("file.part")).expect("linked");
        for force in [false, true] {
            let refused = Output::new(Some(&target), force, None)
                .err()
                .expect("refused");
            assert_eq!(refused.status, Status::Exists);
        }
        assert!(!victim.exists());
    }

    #[test]
    fn the_longest_name_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("n".repeat(NAME_MAX));
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        output.write(0, b"abc").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"abc");
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let mut first = Output::new(Some(&target), false, None).expect("writable");
        first.write(0, b"abc").expect("written");
        let second = Output::new(Some(&target), false, None).err().expect("busy");
        assert_eq!(second.status, Status::InUse);
    }

    #[test]
    fn what_was_found_stays_as_far_as_it_is_verified() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        fs::write(&part, b"goodbad").expect("written");
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        assert!(output.is_found());
        assert_eq!(output.read_found(0, 4), b"good");
        output.keep_found(0, 4);
        assert_eq!(output.read_found(4, 4), b"bad");
        output.end_found(4).expect("cut");
        output.write(4, b"er").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&target).expect("there"), b"gooder");
    }

    #[test]
    fn a_part_of_something_else_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        fs::write(&part, b"mine").expect("written");
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        let refused = output.end_found(4).expect_err("refused");
        assert_eq!(refused.status, Status::Exists);
        output.give_up(refused);
        assert_eq!(fs::read(&part).expect("there"), b"mine");
        drop(output);
        let mut output = Output::new(Some(&target), true, None).expect("writable");
        output.end_found(4).expect("forced");
        assert_eq!(fs::read(&part).expect("there"), b"");
    }

    #[test]
    fn giving_up_keeps_what_is_verified_and_only_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, part) = (dir.path().join("file"), dir.path().join("file.part"));
        let failure = || Failure::new(Status::NotFound, "not found");
        let mut output = Output::new(Some(&target), false, None).expect("writable");
        assert_eq!(output.give_up(failure()).message, "not found");
        assert!(!part.exists());
        output.write(0, b"abc").expect("written");
        assert!(output.give_up(failure()).message.contains("file.part"));
        assert!(part.exists());
    }
}
