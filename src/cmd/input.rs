//! What is shared or hashed: files, or standard input.

use super::failure::{Failure, Status};
use super::options;
use super::parsed::Parsed;
use super::report;
use crate::block::Form;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// A stream of bytes with a name for messages.
pub struct Input {
    /// The file's path, or `standard input`.
    pub name: PathBuf,
    /// Its bytes.
    pub reader: File,
}

/// Whether content is encrypted: unless `--plain` is given.
pub fn form(parsed: &Parsed) -> Result<Form, Failure> {
    Ok(match parsed.has(options::PLAIN)? {
        true => Form::Plain,
        false => Form::Encrypted,
    })
}

/// Whether reading may succeed if it is tried again: a signal came, or somebody has made the input non-blocking.
pub fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

fn open(path: PathBuf) -> Result<Input, Failure> {
    if path.as_os_str() == "-" {
        // Without the buffer of the standard library: blocks are read whole.
        let name = PathBuf::from("standard input");
        let descriptor = io::stdin().as_fd().try_clone_to_owned();
        let reader = File::from(descriptor.map_err(|error| Failure::file(&name, &error))?);
        return Ok(Input { name, reader });
    }
    let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| Failure::file(&path, &error))?;
    if metadata.is_dir() {
        let message = format!(
            "{}: is a directory; share a tar of it instead",
            path.display()
        );
        return Err(Failure::new(Status::Other, message));
    }
    Ok(Input {
        name: path,
        reader: file,
    })
}

/// Does something with each input that is named, standard input if none is. A bad one is reported and the rest
/// go on; the status returned is the first's.
pub fn for_each_input(
    parsed: &Parsed,
    mut each: impl FnMut(Input) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut files = parsed.files();
    if files.is_empty() {
        files.push("-".into());
    }
    let mut first = None;
    for file in files {
        if let Err(failure) = open(file).and_then(&mut each) {
            report(&failure);
            first.get_or_insert(failure.status);
        }
    }
    match first {
        Some(status) => Err(Failure::reported(status)),
        None => Ok(()),
    }
}
