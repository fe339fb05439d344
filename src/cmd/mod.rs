//! The command line: a table of commands, and a file for each. Here the exit status is decided, and everything
//! that is said to the user goes through.

mod check;
mod client;
mod connect;
mod failure;
mod fetch;
mod hash;
mod input;
mod options;
mod output;
mod pin;
mod progress;
mod serve;
mod share;
mod status;
mod verify;

use crate::reactor::resolve;
use crate::sys;
use failure::{Failure, Status};
use getopts::Options;
use options::{Common, Parsed};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// A row of the table.
struct Command {
    name: &'static str,
    /// What follows the name.
    synopsis: &'static str,
    /// One line on what it does.
    summary: &'static str,
    options: fn() -> Options,
    /// Options that it has, and others will have in a later version.
    ahead: &'static [&'static str],
    run: fn(&Parsed) -> Result<(), Failure>,
}

/// Commands of which nobody is told: a process starts itself with them.
const HIDDEN: &[&str] = &[connect::PRIVATE];

const COMMANDS: &[Command] = &[
    Command {
        name: "share",
        synopsis: "[OPTION...] [FILE...]",
        summary: "share files, or standard input; prints an address for each",
        options: share::options,
        ahead: &[],
        run: share::run,
    },
    Command {
        name: "fetch",
        synopsis: "[OPTION...] [-o FILE] ADDRESS[.KEY]",
        summary: "fetch what was shared, to standard output or a file",
        options: fetch::options,
        ahead: &[],
        run: fetch::run,
    },
    Command {
        name: "serve",
        synopsis: "[OPTION...] [-l ADDR:PORT] [-p HOST:PORT]...",
        summary: "run a peer that stores blocks for others",
        options: serve::options,
        ahead: &[],
        run: serve::run,
    },
    Command {
        name: "hash",
        synopsis: "[--plain] [FILE...]",
        summary: "print what share would; touches nothing",
        options: hash::options,
        ahead: &[],
        run: hash::run,
    },
    Command {
        name: "check",
        synopsis: "[OPTION...] [--repair] ADDRESS[.KEY]",
        summary: "count the copies of each block of a file; make more",
        options: check::options,
        ahead: &["json"],
        run: check::run,
    },
    Command {
        name: "pin",
        synopsis: "[OPTION...] add ADDRESS... | rm ADDRESS... | ls",
        summary: "keep whole files, or no longer; list them",
        options: pin::options,
        ahead: &[],
        run: pin::run,
    },
    Command {
        name: "status",
        synopsis: "[OPTION...]",
        summary: "say how the peer of the data directory is",
        options: status::options,
        ahead: &[],
        run: status::run,
    },
    Command {
        name: "verify",
        synopsis: "[OPTION...] [--subset N/T]",
        summary: "read the pack again, and list what is damaged",
        options: verify::options,
        ahead: &[],
        run: verify::run,
    },
    Command {
        name: connect::PRIVATE,
        synopsis: "",
        summary: "",
        options: serve::private_options,
        ahead: &[],
        run: serve::run_private,
    },
];

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    sys::keep_freed_memory();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(failure.status as u8)
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<(), Failure> {
    let Some((first, rest)) = args.split_first() else {
        return Err(Failure::usage(format!(
            "a command is missing\n{}",
            usage().trim_end()
        )));
    };
    let name = first.to_string_lossy();
    match &*name {
        "help" | "-h" | "--help" => help(rest),
        "-V" | "--version" | "version" => version(),
        resolve::COMMAND => {
            let host = rest
                .first()
                .map(|host| host.to_string_lossy())
                .unwrap_or_default();
            let resolved = resolve::run(&host);
            resolved.map_err(|error| Failure::new(Status::Other, failure::plain(&error)))
        }
        _ => {
            let command = find(&name)?;
            if let Some(dashes) = rest.iter().position(|arg| arg == "--") {
                if command.name == "share" && dashes + 1 < rest.len() {
                    let message = "share -- COMMAND is not available in this version; \
                        for a file of such a name give ./NAME";
                    return Err(Failure::usage(message));
                }
            }
            let options = (command.options)();
            let parsed = options::parse(options, command.ahead, rest).map_err(|failure| {
                let message = format!("{}: {}; see strew {name} --help", name, failure.message);
                Failure::usage(message)
            })?;
            if parsed.matches.opt_present("help") {
                return print(&help_of(command));
            }
            if parsed.matches.opt_present("version") {
                return version();
            }
            start_log(&parsed);
            (command.run)(&parsed)
        }
    }
}

fn find(name: &str) -> Result<&'static Command, Failure> {
    if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
        return Ok(command);
    }
    Err(Failure::usage(format!(
        "{name}: no such command; see strew help"
    )))
}

fn help(args: &[OsString]) -> Result<(), Failure> {
    match args.first() {
        None => print(&usage()),
        Some(name) => print(&help_of(find(&name.to_string_lossy())?)),
    }
}

fn usage() -> String {
    let mut text = String::from("usage: strew COMMAND [OPTION...] [ARGUMENT...]\n\ncommands:\n");
    for command in COMMANDS
        .iter()
        .filter(|command| !HIDDEN.contains(&command.name))
    {
        text.push_str(&format!("    {:8} {}\n", command.name, command.summary));
    }
    text.push_str("    help     show this, or the options of a command\n\n");
    text.push_str("strew COMMAND --help shows the options of a command.\n");
    text
}

fn help_of(command: &Command) -> String {
    let Command {
        name,
        synopsis,
        summary,
        ..
    } = command;
    (command.options)().usage(&format!(
        "usage: strew {name} {synopsis}\n\nstrew {name}: {summary}"
    ))
}

fn version() -> Result<(), Failure> {
    print(&format!("strew {}\n", env!("CARGO_PKG_VERSION")))
}

fn print(text: &str) -> Result<(), Failure> {
    output::line(&text.trim_end())
}

/// The log goes to standard error: warnings, with `-v` more, with `-q` errors only; `$STREW_LOG` overrides.
fn start_log(parsed: &Parsed) {
    let quiet = parsed.matches.opt_present("quiet");
    let level = match (quiet, parsed.matches.opt_count("verbose")) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let set = std::env::var("STREW_LOG")
        .ok()
        .filter(|level| !level.is_empty());
    let level = set.unwrap_or(level.to_string());
    let mut builder = env_logger::Builder::new();
    builder
        .parse_filters(&level)
        .format(|out, record| match record.level() {
            log::Level::Error | log::Level::Warn => writeln!(out, "strew: {}", record.args()),
            level => writeln!(
                out,
                "strew: {}: {}",
                level.as_str().to_lowercase(),
                record.args()
            ),
        });
    builder.init();
}

/// Tells the user why something failed, unless that has been done.
fn report(failure: &Failure) {
    if !failure.message.is_empty() {
        tell(&failure.message);
    }
}

fn tell(message: &str) {
    // A user whose terminal is gone is not told.
    let _ = writeln!(std::io::stderr(), "strew: {message}");
}

/// Tells the user something, unless `-q` was given.
fn say(common: &Common, message: &str) {
    if !common.quiet {
        tell(message);
    }
}

/// Warns the user.
fn warn_user(message: &str) {
    log::warn!("{message}");
}
