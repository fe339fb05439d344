//! What a file or a directory is until it is whole: its name, and who may write it.

use super::failure::{Failure, Status};
use crate::limits::NAME_MAX;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is added to a name until it is whole.
const SUFFIX: &str = ".part";

/// What a file or directory is called until it is whole.
pub fn part_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    // A name that is too long with what is added is cut: it may then be that of another's, which is noticed.
    let name = &name[..name.len().min(NAME_MAX - SUFFIX.len())];
    let name = [name, SUFFIX.as_bytes()].concat();
    target.with_file_name(OsStr::from_bytes(&name))
}

/// The directory in which it lies.
pub fn parent_of(target: &Path) -> &Path {
    let parent = target.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes names in a directory safe.
pub fn sync_parent(parent: &Path) -> io::Result<()> {
    match File::open(parent) {
        Ok(parent) => parent.sync_all(),
        // It may be one that can be written and not read: then nobody can sync it.
        Err(_) => Ok(()),
    }
}

/// The failure where somebody else has meddled with it: what has its name is not what was written.
pub fn changed_meanwhile(path: &Path) -> Failure {
    let path = path.display();
    let message = format!("{path}: was removed, replaced or cut while it was written; fetch again");
    Failure::new(Status::Other, message)
}

/// Locks what is at `path` and will be at `target`, as long as the file is open.
pub fn lock(file: &File, path: &Path, target: &Path) -> Result<(), Failure> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("{}: another fetch is writing it", path.display());
            return Err(Failure::new(Status::InUse, message));
        }
        Err(TryLockError::Error(error)) => return Err(Failure::file(path, &error)),
    }
    // Between our opening and locking it another fetch may have finished and renamed it.
    if !is_same_file(file, path) {
        let message = format!("{}: another fetch has just finished it", target.display());
        return Err(Failure::new(Status::InUse, message));
    }
    Ok(())
}

/// Whether what is open still has this name.
pub fn is_same_file(file: &File, path: &Path) -> bool {
    let opened = file.metadata().map(|meta| (meta.dev(), meta.ino()));
    let named = fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((opened, named), (Ok(opened), Ok(named)) if opened == named)
}
