//! How commands end: the exit status and what the user is told.

pub use crate::sys::plain;

use std::fmt;
use std::path::Path;

/// An exit status other than success. Part of the command line's contract: strew(1), EXIT STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Something else failed: missing or unreadable input, unwritable output.
    Other = 1,
    /// The command line is wrong, or an address or key is malformed.
    Usage = 2,
    /// No peer has it.
    NotFound = 3,
    /// It took too long.
    TimedOut = 4,
    /// Fewer copies than asked for.
    TooFewCopies = 5,
    /// The data is damaged, or the key wrong.
    Damaged = 6,
    /// No peer could be reached.
    NoPeer = 7,
    /// Disk or allotment full.
    Full = 8,
    /// The output exists.
    Exists = 9,
    /// Data directory, port or output is in use.
    InUse = 10,
}

impl Status {
    /// The status of this number, as another process or the peer gave it; `Other` for one without a meaning.
    pub fn from_number(number: u8) -> Status {
        use Status::*;
        let all = [
            Usage,
            NotFound,
            TimedOut,
            TooFewCopies,
            Damaged,
            NoPeer,
            Full,
            Exists,
            InUse,
        ];
        all.into_iter()
            .find(|&status| status as u8 == number)
            .unwrap_or(Other)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: Status,
    /// What happened, to which file or peer, and what to do next. Empty if the user has been told.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
        }
    }

    /// A failure of which the user has been told.
    pub fn reported(status: Status) -> Failure {
        Failure::new(status, "")
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Status::Usage, message)
    }

    /// A file could not be used.
    pub fn file(path: &Path, error: &std::io::Error) -> Failure {
        let full = [libc::ENOSPC, libc::EDQUOT]
            .map(Some)
            .contains(&error.raw_os_error());
        let status = if full { Status::Full } else { Status::Other };
        Failure::new(status, format!("{}: {}", path.display(), plain(error)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
