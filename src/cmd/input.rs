//! What is shared or hashed: files, directories, standard input, or what a program puts out.

use super::failure::{Failure, Status};
use super::options;
use super::parsed::Parsed;
use super::tree_input::TreeInput;
use super::voice::for_each_reported;
use crate::block::tree::Item;
use crate::block::Form;
use crate::sys;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is looked whether a program has ended.
const END_POLL: Duration = Duration::from_millis(5);

/// A stream of bytes with a name for messages.
pub struct Input {
    /// The file's path, or `standard input`.
    pub name: PathBuf,
    reader: Reader,
    /// How many bytes there are, of a regular file or a directory.
    pub len: Option<u64>,
    /// The program that puts them out, if one does.
    program: Option<Child>,
}

enum Reader {
    Stream(File),
    Tree(Box<TreeInput>),
}

impl Input {
    fn new(name: PathBuf, reader: File) -> Input {
        let metadata = reader.metadata().ok().filter(|it| it.is_file());
        Input {
            name,
            reader: Reader::Stream(reader),
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
            reader: Reader::Stream(reader.expect("it was piped").into()),
            len: None,
            program: Some(child),
        })
    }

    fn of_directory(name: PathBuf) -> Result<Input, Failure> {
        let tree = TreeInput::new(&name)?;
        Ok(Input {
            name,
            len: Some(tree.len()),
            reader: Reader::Tree(Box::new(tree)),
            program: None,
        })
    }

    /// What it is.
    pub fn item(&self) -> Item {
        match self.reader {
            Reader::Stream(_) => Item::File,
            Reader::Tree(_) => Item::Directory,
        }
    }

    /// The next bytes; 0 at the end.
    pub fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match &mut self.reader {
            Reader::Stream(file) => file.read(space),
            Reader::Tree(tree) => tree.read(space),
        }
    }

    /// Waits until there is something to be read, or the end; whether there is. What is wrong with it reading will
    /// tell.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        match &self.reader {
            Reader::Stream(file) => {
                let ready = sys::wait_for(file.as_raw_fd(), true, false, timeout);
                ready.map_or(true, |ready| ready.read)
            }
            Reader::Tree(_) => true,
        }
    }

    /// The failure of a read.
    pub fn failure(&self, error: &io::Error) -> Failure {
        match &self.reader {
            Reader::Stream(_) => Failure::file(&self.name, error),
            Reader::Tree(tree) => Failure::file(tree.at(), error),
        }
    }

    /// At the end of the bytes: a failure if a program has put them out and fails. It is waited for until a time, if one
    /// is given; false if it has not ended by then.
    pub fn end(&mut self, until: Option<Instant>) -> Result<bool, Failure> {
        let Some(child) = &mut self.program else {
            return Ok(true);
        };
        let ended = loop {
            let ended = match until {
                Some(_) => child.try_wait(),
                None => child.wait().map(Some),
            };
            match ended.map_err(|error| Failure::file(&self.name, &error))? {
                Some(ended) => break ended,
                None if until.is_some_and(|until| Instant::now() >= until) => return Ok(false),
                None => sleep(END_POLL),
            }
        };
        if ended.success() {
            return Ok(true);
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
    let mut options = OpenOptions::new();
    // A pipe is opened at once, and waited for like other input: Linux says that it has ended only when somebody has
    // written to it.
    let is_pipe = fs::metadata(&path).is_ok_and(|it| it.file_type().is_fifo());
    if is_pipe && cfg!(target_os = "linux") {
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.read(true).open(&path);
    let file = file.map_err(|error| Failure::file(&path, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| Failure::file(&path, &error))?;
    if metadata.is_dir() {
        return Input::of_directory(path);
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
    if let Some(program) = &parsed.program {
        if let Some(file) = files.first() {
            let message = format!(
                "{}: give files, or a command after --; a file whose name begins with - is ./-x",
                file.display()
            );
            return Err(Failure::usage(message));
        }
        return each(Input::of_program(program)?);
    }
    if files.is_empty() {
        files.push("-".into());
    }
    for_each_reported(files, |file| open(file).and_then(&mut each))
}
