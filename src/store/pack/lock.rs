//! The lock of a data directory: one process at a time, and whoever comes second learns whom to wait for.
//!
//! An advisory `flock`, which the system releases however its holder ends. Called by whoever starts a peer; the
//! store takes the lock over and holds it as long as it lives.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes read of the owner's line at most; it has fewer than 20.
const OWNER_MAX: u64 = 64;

/// Times a lock file that was removed while it was being locked is made again, before that is an error.
const REMOVED_MAX: u32 = 8;

/// What a process holds a data directory for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A peer that serves until it is told to end.
    Serve,
    /// A peer that ends with its last client.
    Private,
}

impl Role {
    fn from_text(text: &str) -> Option<Role> {
        [Role::Serve, Role::Private]
            .into_iter()
            .find(|role| role.to_string() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Serve => "serve",
            Role::Private => "private",
        })
    }
}

/// Why a directory could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it. What it wrote of itself, where that can be read.
    Held {
        /// Its process id.
        pid: Option<u32>,
        /// What it has the directory for.
        role: Option<Role>,
    },
    /// The system refused; the text says what was being done, to which file.
    Io(String, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { pid, role } => {
                f.write_str("the data directory is in use by ")?;
                match role {
                    Some(Role::Serve) => f.write_str("a serving peer")?,
                    Some(Role::Private) => f.write_str("a private peer")?,
                    None => f.write_str("another process")?,
                }
                match pid {
                    Some(pid) => write!(f, " (process {pid})"),
                    None => Ok(()),
                }
            }
            LockError::Io(what, error) => write!(f, "{what}: {}", crate::sys::plain(error)),
        }
    }
}

impl std::error::Error for LockError {}

/// A data directory that this process alone has, until the value is dropped.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    file: File,
}

impl DirLock {
    /// Locks the directory, which is made (mode 0700) if it is missing, and writes process id and role into its
    /// file `lock`. Does not wait: whoever wants to asks again.
    pub fn acquire(dir: &Path, role: Role) -> Result<DirLock, LockError> {
        let path = dir.join("lock");
        let failed = |what: &str, path: &Path| {
            let what = format!("{what} {}", path.display());
            move |error| LockError::Io(what, error)
        };
        make_dir(dir).map_err(failed("create", dir))?;
        for _ in 0..REMOVED_MAX {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed("open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let (pid, role) = read_owner(&mut file);
                    return Err(LockError::Held { pid, role });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
            if !is_file_at(&file, &path) {
                continue;
            }
            // The line only helps others to a better message; on a full disk the lock holds without it.
            let line = format!("{} {role}\n", std::process::id());
            let written = file
                .set_len(0)
                .and_then(|()| file.write_all(line.as_bytes()));
            if let Err(error) = written {
                log::debug!("write {}: {}", path.display(), crate::sys::plain(&error));
            }
            let dir = dir.to_path_buf();
            return Ok(DirLock { dir, file });
        }
        let error = io::Error::new(ErrorKind::NotFound, "it keeps being removed");
        Err(failed("lock", &path)(error))
    }

    /// Who says to hold a directory, if anybody does. Only for messages: a process that was killed says so, too.
    pub fn owner(dir: &Path) -> Option<(u32, Role)> {
        let mut file = File::open(dir.join("lock")).ok()?;
        match read_owner(&mut file) {
            (Some(pid), Some(role)) => Some((pid, role)),
            _ => None,
        }
    }

    /// The directory that is locked.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Makes a directory (mode 0700) and those above it that are missing, and their names durable.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let missing = dir
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    let missing: Vec<&Path> = missing.collect();
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.map_err(|error| match error.kind() {
        // What is there is no directory.
        ErrorKind::AlreadyExists => io::Error::from_raw_os_error(libc::ENOTDIR),
        _ => error,
    })?;
    missing.into_iter().try_for_each(sync_name_of)
}

/// Makes the name of a file or directory durable. Where it lies need not be readable for us; then the name is as
/// durable as the file system makes it.
pub(super) fn sync_name_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    match File::open(parent) {
        Ok(parent) => parent.sync_all(),
        Err(error) => {
            log::debug!("open {}: {}", parent.display(), crate::sys::plain(&error));
            Ok(())
        }
    }
}

impl Drop for DirLock {
    /// Empties the file, so that nobody is told of an owner that is gone, and gives up the lock. Closing alone
    /// would not do: a child process has the descriptor, too, from its fork until its exec.
    fn drop(&mut self) {
        if let Err(error) = self.file.set_len(0) {
            log::debug!(
                "empty the lock of {}: {}",
                self.dir.display(),
                crate::sys::plain(&error)
            );
        }
        if let Err(error) = self.file.unlock() {
            log::debug!(
                "unlock {}: {}",
                self.dir.display(),
                crate::sys::plain(&error)
            );
        }
    }
}

/// Whether the open file is still the one of that name. One that was removed locks out nobody.
fn is_file_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// What the owner wrote of itself; another program's file, or a line not yet written, is no owner.
fn read_owner(file: &mut File) -> (Option<u32>, Option<Role>) {
    let mut line = String::new();
    if file.take(OWNER_MAX).read_to_string(&mut line).is_err() {
        return (None, None);
    }
    let mut words = line.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    (pid, words.next().and_then(Role::from_text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn held(dir: &Path) -> (Option<u32>, Option<Role>) {
        match DirLock::acquire(dir, Role::Serve) {
            Err(LockError::Held { pid, role }) => (pid, role),
            other => panic!("expected a held lock, got {other:?}"),
        }
    }

    #[test]
    fn held_lock_names_its_owner_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let lock = DirLock::acquire(&data, Role::Private).unwrap();
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(held(&data), (Some(std::process::id()), Some(Role::Private)));
        drop(lock);
        let _lock = DirLock::acquire(&data, Role::Serve).unwrap();
        assert_eq!(held(&data), (Some(std::process::id()), Some(Role::Serve)));
    }

    #[test]
    fn dropped_lock_is_free_even_if_a_child_still_has_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path(), Role::Serve).unwrap();
        let _inherited = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(DirLock::acquire(dir.path(), Role::Serve).is_ok());
    }

    #[test]
    fn nonsense_in_a_held_lock_is_no_owner() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = DirLock::acquire(dir.path(), Role::Serve).unwrap();
        let path = dir.path().join("lock");
        for nonsense in [&b""[..], b"\xff\xff", b"-1 king", &[b'9'; 4096]] {
            std::fs::write(&path, nonsense).unwrap();
            assert_eq!(held(dir.path()), (None, None));
        }
    }
}
