//! A directory as it is shared: looked at whole, then read as the one stream that [`crate::listing`] describes.
//!
//! Links are not followed, but for the directory itself. What changes meanwhile is noticed by its length only.

use super::failure::{Failure, Status};
use crate::limits::LISTING_MAX;
use crate::listing::{order, Builder, Entry, Kind, Listing};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

/// The stream of a directory.
pub struct TreeInput {
    dir: PathBuf,
    listing: Listing,
    /// Bytes of the stream that are given out.
    offset: u64,
    /// Head and listing.
    start: Vec<u8>,
    /// Files whose bytes are to come, by their numbers in the listing.
    rest: IntoIter<usize>,
    /// The file that is being read, and where in the stream it ends.
    current: Option<(File, u64)>,
    /// What it is, for messages.
    at: PathBuf,
}

/// Something that was found.
struct Found {
    path: Vec<u8>,
    metadata: Metadata,
    target: Vec<u8>,
}

impl Found {
    fn kind(&self) -> Option<Kind<'_>> {
        let kind = self.metadata.file_type();
        let file = || Kind::File {
            len: self.metadata.len(),
            is_executable: self.metadata.mode() & 0o100 != 0,
        };
        let target = &self.target;
        match (kind.is_file(), kind.is_symlink(), kind.is_dir()) {
            (true, ..) => Some(file()),
            (_, true, _) => Some(Kind::Link { target }),
            (.., true) => Some(Kind::Directory),
            _ => None,
        }
    }

    /// What cannot be shared is called.
    fn odd_kind(&self) -> &'static str {
        let kind = self.metadata.file_type();
        match (kind.is_socket(), kind.is_fifo()) {
            (true, _) => "a socket",
            (_, true) => "a named pipe",
            _ => "a device",
        }
    }
}

impl TreeInput {
    /// Looks at all that is in a directory. Refuses what cannot be shared, by its name.
    pub fn new(dir: &Path) -> Result<TreeInput, Failure> {
        let mut found = look(dir)?;
        found.sort_by(|left, right| order(&left.path, &right.path));
        let mut builder = Builder::default();
        let refuse = |path: &[u8], what: &str| {
            let path = path_in(dir, path);
            Failure::new(Status::Other, format!("{}: {what}", path.display()))
        };
        for it in &found {
            let path = &it.path;
            let Some(kind) = it.kind() else {
                let what = format!("is {}, which cannot be shared", it.odd_kind());
                return Err(refuse(path, &what));
            };
            let pushed = builder.push(Entry { path, kind });
            pushed.map_err(|error| refuse(path, error.what))?;
        }
        let listing = builder.finish();
        let listing = listing.map_err(|error| refuse(&error.path, error.what))?;
        Ok(TreeInput {
            dir: dir.to_path_buf(),
            offset: 0,
            start: listing.to_bytes(),
            rest: listing.in_stream(0..listing.count()).into_iter(),
            listing,
            current: None,
            at: dir.to_path_buf(),
        })
    }

    /// Bytes in the stream.
    pub fn len(&self) -> u64 {
        self.listing.length()
    }

    /// What was being read when reading failed.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The next bytes of the stream, as many as are to be had at once; 0 at the end. There must be space for one.
    pub fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            if self.offset < self.start.len() as u64 {
                let rest = &self.start[self.offset as usize..];
                let count = rest.len().min(space.len());
                space[..count].copy_from_slice(&rest[..count]);
                break count;
            }
            if let Some((file, end)) = &mut self.current {
                let wanted = (*end - self.offset).min(space.len() as u64) as usize;
                // At its end there must be nothing more.
                let count = match wanted {
                    0 => file.read(&mut [0])?,
                    _ => file.read(&mut space[..wanted])?,
                };
                match (wanted > 0, count > 0) {
                    (true, true) => break count,
                    (false, false) => self.current = None,
                    _ => return Err(changed()),
                }
            }
            let padding = (self.next_start() - self.offset).min(space.len() as u64) as usize;
            if padding > 0 {
                space[..padding].fill(0);
                break padding;
            }
            if !self.open_next()? {
                break 0;
            }
        };
        self.offset += count as u64;
        Ok(count)
    }

    /// Opens the next file; whether there is one.
    fn open_next(&mut self) -> io::Result<bool> {
        let Some(index) = self.rest.next() else {
            return Ok(false);
        };
        let entry = self.listing.entry(index);
        self.at = path_in(&self.dir, entry.path);
        // What has become a pipe meanwhile is not waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.at)?;
        let span = self.listing.span(index);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != span.end - span.start {
            return Err(changed());
        }
        self.current = Some((file, span.end));
        Ok(true)
    }

    /// Where in the stream the next file begins: what lies before it is padding.
    fn next_start(&self) -> u64 {
        let next = self.rest.as_slice().first();
        next.map_or(self.listing.length(), |&index| {
            self.listing.span(index).start
        })
    }
}

fn changed() -> io::Error {
    io::Error::other("has changed while it was read; share it when nobody writes it")
}

/// The path of something in a directory.
pub fn path_in(dir: &Path, path: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(path))
}

/// All that is in a directory, in no order. Bounded by what a listing may hold.
fn look(dir: &Path) -> Result<Vec<Found>, Failure> {
    let mut found: Vec<Found> = Vec::new();
    let mut len = 0;
    let mut dirs = vec![Vec::new()];
    while let Some(within) = dirs.pop() {
        let at = match within.is_empty() {
            true => dir.to_path_buf(),
            false => path_in(dir, &within),
        };
        let failed = |error: io::Error| Failure::file(&at, &error);
        for entry in fs::read_dir(&at).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_vec();
            let path = match within.is_empty() {
                true => name,
                false => [&within[..], b"/", &name].concat(),
            };
            let at = entry.path();
            let failed = |error: io::Error| Failure::file(&at, &error);
            let metadata = entry.metadata().map_err(failed)?;
            let mut target = Vec::new();
            if metadata.is_symlink() {
                target = fs::read_link(&at)
                    .map_err(failed)?
                    .into_os_string()
                    .into_vec();
            }
            len += path.len() + target.len();
            if len > LISTING_MAX {
                let message = format!(
                    "{}: has too many files for one directory; share its parts, or a tar of it",
                    dir.display()
                );
                return Err(Failure::new(Status::Other, message));
            }
            if metadata.is_dir() {
                dirs.push(path.clone());
            }
            found.push(Found {
                path,
                metadata,
                target,
            });
        }
    }
    Ok(found)
}
