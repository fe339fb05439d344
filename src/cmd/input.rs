//! What is shared or hashed: files, or standard input.

use super::failure::{Failure, Status};
use super::options;
use super::parsed::Parsed;
use super::voice::report;
use crate::block::Form;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A stream of bytes with a name for messages.
pub struct Input {
    /// The file's path, or `standard input`.
    pub name: PathBuf,
    /// Its bytes.
    pub reader: File,
    /// How many there are, of a regular file.
    pub len: Option<u64>,
    /// The program that puts them out, if one does.
    program: Option<Child>,
}

impl Input {
    fn new(name: PathBuf, reader: File) -> Input {
        let metadata = reader.metadata().ok().filter(|it| it.is_file());
        Input {
            name,
            reader,
            len: metadata.map(|it| it.len()),
            program: None,
        }
    }

    /// What a program puts out, which is started.
    fn of_program(program: &[OsString]) -> Result<Input, Failure> {
        let Some((name, args)) = program.split_first() else {
            return Err(Failure::usage("a command is missing after --"));
        };
        let name = PathBuf::from(name);
        let mut command = Command::new(&name);
        let started = command.args(args).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| Failure::file(&name, &error))?;
        let reader = child.stdout.take().map(OwnedFd::from);
        Ok(Input {
            name,
            reader: reader.expect("it was piped").into(),
            len: None,
            program: Some(child),
        })
    }

    /// At the end of the bytes: a failure if a program has put them out and fails.
    pub fn end(&mut self) -> Result<(), Failure> {
        let Some(child) = &mut self.program else {
            return Ok(());
        };
        let ended = child
            .wait()
            .map_err(|error| Failure::file(&self.name, &error))?;
        if ended.success() {
            return Ok(());
        }
        let name = self.name.display();
        let message = format!("{name}: has failed ({ended}); what it put out is not shared");
        Err(Failure::new(Status::Other, message))
    }
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
        return Ok(Input::new(name, reader));
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
    Ok(Input::new(path, file))
}

/// Does something with each input that is named, standard input if none is. A bad one is reported and the rest
/// go on; the status returned is the first's.
pub fn for_each_input(
    parsed: &Parsed,
    mut each: impl FnMut(Input) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut files = parsed.files();
    if !parsed.program.is_empty() {
        if let Some(file) = files.first() {
            let message = format!(
                "{}: give files, or a command after --; a file whose name begins with - is ./-x",
                file.display()
            );
            return Err(Failure::usage(message));
        }
        return each(Input::of_program(&parsed.program)?);
    }
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
