//! Syncs a file by a child process, so that a loop need not wait for the disk, and every process keeps one thread.
//! Called by [`super::disk::System`] alone.
//!
//! Why that is safe. A sync makes durable what was written to the file by whomever, so it may be another process that
//! asks for it. An error of writing back is told by the system once to each open file description (Linux 4.13 and
//! later, `errseq_t`; fsync(2)): whoever has the file open hears of it. The child uses a description of its own, opened
//! here before anything is written, so it hears of every error; the parent's has not heard of it then. If the child
//! ends without an answer, the parent syncs by its own description, and is told what the child may have been told and
//! taken with it. Either answer is final, as a sync that failed must not be tried again.

use crate::sys;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

/// The hidden command that syncs what its standard output is, a byte from standard input at a time.
pub const COMMAND: &str = "__sync";

/// Children that may end before their time; then it is hopeless, and syncs are waited for from then on.
const LOSSES_MAX: u32 = 3;

/// What stands for an error without a number, or with a large one.
const OTHER_ERROR: u8 = 255;

/// Does what the child is there for: for each byte that comes, one sync, and one byte that says how it ended, 0 or the
/// number of the error. Ends when its parent has gone, and by no signal that is sent to both: the parent has a last
/// sync to ask for then.
pub fn run() -> io::Result<()> {
    sys::ignore_signals();
    let [requests, file] =
        [io::stdin().as_fd(), io::stdout().as_fd()].map(|fd| fd.try_clone_to_owned());
    let (mut requests, file) = (UnixStream::from(requests?), File::from(file?));
    let mut byte = [0];
    loop {
        let done = match requests.read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) => requests.write_all(&[answer(file.sync_data())]),
            Err(error) => Err(error),
        };
        let Err(error) = done else { continue };
        match error.kind() {
            ErrorKind::Interrupted => {}
            // It has gone in the middle of a sync, or before it read an answer.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Ok(()),
            _ => return Err(error),
        }
    }
}

fn answer(synced: io::Result<()>) -> u8 {
    match synced {
        Ok(()) => 0,
        Err(error) => {
            let code = error
                .raw_os_error()
                .and_then(|code| u8::try_from(code).ok());
            code.filter(|&code| code != 0).unwrap_or(OTHER_ERROR)
        }
    }
}

/// A child that runs.
struct Running {
    child: Child,
    socket: UnixStream,
}

impl Running {
    fn start(file: &File) -> io::Result<Running> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).stdin(OwnedFd::from(theirs));
        let child = command.stdout(file.try_clone()?).spawn()?;
        Ok(Running { child, socket })
    }
}

impl Drop for Running {
    /// It ends by itself at the end of its input, and is waited for.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// What became of a sync.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on.
    UnderWay,
    /// It has ended so.
    Ended(io::Result<()>),
    /// The child has ended, or could not be started: nobody knows, and who asked has to sync.
    Lost(String),
}

/// Syncs one file.
pub struct Syncer {
    /// Used by the children alone, which share it.
    file: File,
    running: Option<Running>,
    losses: u32,
    /// How often a child was started: tells their sockets apart, whose numbers may be the same.
    started: u64,
}

impl Syncer {
    /// Of the file at this path, to which nothing has been written that is not durable. A child is started when the
    /// first sync is asked for.
    pub fn new(path: &Path) -> io::Result<Syncer> {
        Ok(Syncer {
            file: File::open(path)?,
            running: None,
            losses: 0,
            started: 0,
        })
    }

    /// Begins a sync; none is under way.
    pub fn begin(&mut self) -> Outcome {
        if self.running.is_none() {
            match Running::start(&self.file) {
                Ok(running) => self.running = Some(running),
                Err(error) => {
                    return self.lose(&format!("cannot be started: {}", sys::plain(&error)))
                }
            }
            self.started += 1;
        }
        let Some(running) = &mut self.running else {
            return Outcome::UnderWay;
        };
        match running.socket.write_all(&[1]) {
            Ok(()) => Outcome::UnderWay,
            Err(_) => self.lose("has ended"),
        }
    }

    /// How far the sync is that was begun. Does not wait.
    pub fn poll(&mut self) -> Outcome {
        let Some(running) = &mut self.running else {
            return self.lose("has ended");
        };
        let mut byte = [0];
        loop {
            return match running.socket.read(&mut byte) {
                Ok(1) => Outcome::Ended(match byte[0] {
                    0 => Ok(()),
                    OTHER_ERROR => Err(io::Error::other("the system does not say why")),
                    code => Err(io::Error::from_raw_os_error(i32::from(code))),
                }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Outcome::UnderWay,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => self.lose("has ended"),
            };
        }
    }

    /// Waits for the end of the sync that was begun; never [`Outcome::UnderWay`].
    pub fn wait(&mut self) -> Outcome {
        loop {
            match (self.poll(), &self.running) {
                (Outcome::UnderWay, Some(running)) => {
                    if let Err(error) = sys::wait_for(running.socket.as_raw_fd(), true, false, None)
                    {
                        return self.lose(&sys::plain(&error));
                    }
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Where it is to be noticed that a sync has ended, and which of the sockets it has had this is.
    pub fn socket(&self) -> Option<(u64, RawFd)> {
        let running = self.running.as_ref()?;
        Some((self.started, running.socket.as_raw_fd()))
    }

    /// Whether to try no more.
    pub fn is_hopeless(&self) -> bool {
        self.losses >= LOSSES_MAX
    }

    fn lose(&mut self, why: &str) -> Outcome {
        self.running = None;
        self.losses += 1;
        Outcome::Lost(why.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn error_is_told_by_its_number() {
        assert_eq!(answer(Ok(())), 0);
        assert_eq!(answer(Err(io::Error::from_raw_os_error(libc::EIO))), 5);
        for error in [io::Error::other("a word"), io::Error::from_raw_os_error(0)] {
            assert_eq!(answer(Err(error)), OTHER_ERROR);
        }
    }

    #[test]
    fn child_that_ends_without_an_answer_is_lost_and_some_are_too_many() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut syncer = Syncer::new(file.path()).unwrap();
        for lost in 1..=LOSSES_MAX {
            let (socket, theirs) = UnixStream::pair().unwrap();
            socket.set_nonblocking(true).unwrap();
            let child = Command::new("true").spawn().unwrap();
            syncer.running = Some(Running { child, socket });
            assert!(matches!(syncer.begin(), Outcome::UnderWay));
            drop(theirs);
            assert!(matches!(syncer.wait(), Outcome::Lost(_)));
            assert_eq!(syncer.socket(), None);
            assert_eq!(syncer.is_hopeless(), lost == LOSSES_MAX);
        }
    }
}
