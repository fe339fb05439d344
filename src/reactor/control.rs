//! The control socket of a data directory: where it is, how it is bound and connected to.
//!
//! A socket's path has at most 107 bytes; longer ones go through `/proc/self/fd/N`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The name of the socket in the data directory.
pub const NAME: &str = "control.sock";

/// Bytes in the path of a Unix socket at most (unix(7): 108 with the final zero).
const PATH_MAX: usize = 107;

/// A path for a name in a directory that is short enough, and the open directory that it leads through if any.
fn short_path(dir: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let path = dir.join(name);
    if path.as_os_str().as_bytes().len() <= PATH_MAX {
        return Ok((path, None));
    }
    let open = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()));
    Ok((path, Some(open)))
}

/// Listens in the directory, whose lock the caller holds. The socket appears under its name only once it
/// answers; one that a dead peer left is replaced.
pub fn bind(dir: &Path) -> io::Result<mio::net::UnixListener> {
    let name = format!("{NAME}.new");
    let new = dir.join(&name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (path, _open) = short_path(dir, &name)?;
    let listener = mio::net::UnixListener::bind(path)?;
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    fs::rename(&new, dir.join(NAME))?;
    Ok(listener)
}

/// Connects to the peer of the directory.
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    let (path, _open) = short_path(dir, NAME)?;
    UnixStream::connect(path)
}

/// Takes the socket away, so that nobody connects any more. Harmless if it is not there.
pub fn unbind(dir: &Path) {
    let _ = fs::remove_file(dir.join(NAME));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_directory_name_is_no_obstacle() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join("d".repeat(120));
        fs::create_dir(&dir).expect("created");
        let _listener = bind(&dir).expect("bound");
        connect(&dir).expect("connected");
        drop(bind(&dir).expect("bound again over the first"));
        unbind(&dir);
        assert!(connect(&dir).is_err());
    }
}
