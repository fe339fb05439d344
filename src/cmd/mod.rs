//! The command line: a table of commands, and a file for each. Here the exit status is decided, and everything
//! that is said to the user goes through.

mod check;
mod client;
mod completion;
mod config;
mod connect;
mod failure;
mod fetch;
mod file_output;
mod hash;
mod input;
mod json;
mod ls;
mod metrics;
mod nearest;
mod options;
mod output;
mod parsed;
mod part;
mod pin;
mod place;
mod progress;
mod serve;
mod settings;
mod share;
mod source;
mod status;
mod tree_input;
mod tree_output;
mod unit;
mod values;
mod verify;
mod voice;

use crate::reactor::resolve;
use crate::store::pack;
use crate::sys;
use failure::{Failure, Status};
use json::Object;
use nearest::did_you_mean;
use options::{Opt, COMMON};
use parsed::Parsed;
use settings::Settings;
use std::ffi::OsString;
use std::process::ExitCode;

/// A row of the table.
struct Command {
    name: &'static str,
    /// What follows the name.
    synopsis: &'static str,
    /// One line on what it does.
    summary: &'static str,
    /// Beside those that all have.
    options: &'static [&'static Opt],
    run: fn(&Parsed) -> Result<(), Failure>,
}

impl Command {
    /// All options that it has, its own last.
    fn all_options(&self) -> Vec<&'static Opt> {
        [COMMON, self.options].concat()
    }
}

/// Commands of which nobody is told: a process starts itself with them.
const HIDDEN: &[&str] = &[connect::PRIVATE];

const COMMANDS: &[Command] = &[
    Command {
        name: "share",
        synopsis: "[OPTION...] [FILE... | -- COMMAND [ARG...]]",
        summary: "share files, directories or standard input; print addresses",
        options: share::OPTIONS,
        run: share::run,
    },
    Command {
        name: "fetch",
        synopsis: "[OPTION...] [-o FILE] ADDRESS[.KEY][/PATH]",
        summary: "fetch what was shared, to standard output, FILE or DIR",
        options: fetch::OPTIONS,
        run: fetch::run,
    },
    Command {
        name: "ls",
        synopsis: "[OPTION...] ADDRESS[.KEY][/PATH]",
        summary: "list what is in a directory that was shared",
        options: ls::OPTIONS,
        run: ls::run,
    },
    Command {
        name: "serve",
        synopsis: "[OPTION...] [-l ADDR:PORT] [-p HOST:PORT]...",
        summary: "run a peer that stores blocks for others",
        options: serve::OPTIONS,
        run: serve::run,
    },
    Command {
        name: "hash",
        synopsis: "[OPTION...] [--plain] [FILE...]",
        summary: "print what share would, and touch nothing",
        options: hash::OPTIONS,
        run: hash::run,
    },
    Command {
        name: "check",
        synopsis: "[OPTION...] [--repair] ADDRESS[.KEY]",
        summary: "count the copies of each block of a file; make more",
        options: check::OPTIONS,
        run: check::run,
    },
    Command {
        name: "pin",
        synopsis: "[OPTION...] add ADDRESS... | rm ADDRESS... | ls",
        summary: "keep whole files, or no longer; list them",
        options: pin::OPTIONS,
        run: pin::run,
    },
    Command {
        name: "status",
        synopsis: "[OPTION...]",
        summary: "say how the peer of the data directory is",
        options: status::OPTIONS,
        run: status::run,
    },
    Command {
        name: "verify",
        synopsis: "[OPTION...] [--subset N/T]",
        summary: "read the pack again, and list what is damaged",
        options: verify::OPTIONS,
        run: verify::run,
    },
    Command {
        name: "config",
        synopsis: "[OPTION...]",
        summary: "show every setting, its value and where it comes from",
        options: config::OPTIONS,
        run: config::run,
    },
    Command {
        name: "paths",
        synopsis: "[OPTION...]",
        summary: "show where everything lies that strew uses",
        options: config::OPTIONS,
        run: config::run_paths,
    },
    Command {
        name: "unit",
        synopsis: "",
        summary: "print a service of systemd that runs a peer",
        options: &[],
        run: unit::run,
    },
    Command {
        name: "completion",
        synopsis: "bash | zsh | fish",
        summary: "print what a shell needs to complete command lines",
        options: &[],
        run: completion::run,
    },
    Command {
        name: connect::PRIVATE,
        synopsis: "",
        summary: "",
        options: &[],
        run: serve::run_private,
    },
];

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    sys::keep_freed_memory();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    voice::choose(&args);
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            voice::report(&failure);
            ExitCode::from(failure.status as u8)
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<(), Failure> {
    let Some((first, rest)) = args.split_first() else {
        voice::report(&Failure::usage("a command is missing"));
        voice::write_at_once(&usage());
        return Err(Failure::reported(Status::Usage));
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
        pack::SYNC_COMMAND => {
            let synced = pack::run_syncer();
            synced.map_err(|error| Failure::new(Status::Other, failure::plain(&error)))
        }
        _ => {
            let command = find(&name)?;
            let mut parsed = parsed::parse(&command.all_options(), command.name == "share", rest)
                .map_err(|failure| {
                let message = format!("{name}: {}; see strew {name} --help", failure.message);
                Failure::usage(message)
            })?;
            if parsed.count(options::HELP) > 0 {
                return print(&help_of(command));
            }
            if parsed.count(options::VERSION) > 0 {
                return version();
            }
            parsed.add_settings(Settings::load()?);
            options::check(&parsed)?;
            voice::start_log(&parsed)?;
            (command.run)(&parsed)
        }
    }
}

/// The commands of which users are told.
fn shown() -> impl Iterator<Item = &'static Command> {
    let commands = COMMANDS.iter();
    commands.filter(|command| !HIDDEN.contains(&command.name))
}

fn find(name: &str) -> Result<&'static Command, Failure> {
    if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
        return Ok(command);
    }
    if name.starts_with('-') {
        let message =
            format!("{name}: a command comes first, as in strew status {name}; see strew help");
        return Err(Failure::usage(message));
    }
    let meant = did_you_mean(
        name,
        "",
        shown().map(|command| command.name).chain(["help"]),
    );
    Err(Failure::usage(format!(
        "{name}: no such command{meant}; see strew help"
    )))
}

fn help(args: &[OsString]) -> Result<(), Failure> {
    match args.iter().find(|arg| *arg != "--json") {
        None => print(&usage()),
        Some(name) if name == "help" => help(&[]),
        Some(name) => print(&help_of(find(&name.to_string_lossy())?)),
    }
}

fn usage() -> String {
    let mut text = String::from("usage: strew COMMAND [OPTION...] [ARGUMENT...]\n\ncommands:\n");
    for command in shown() {
        text.push_str(&format!("    {:11} {}\n", command.name, command.summary));
    }
    text.push_str("    help        show this, or the options of a command\n\n");
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
    let options = command.options.iter().chain(COMMON);
    let options: String = options.map(|option| option.help_line()).collect();
    let usage = format!("usage: strew {name} {synopsis}");
    format!("{}\n{summary}\n\n{options}", usage.trim_end())
}

fn version() -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output::answer(&format_args!("strew {version}"), || {
        Object::new("result").text("version", version)
    })
}

fn print(text: &str) -> Result<(), Failure> {
    let text = text.trim_end();
    output::answer(&text, || Object::new("result").text("help", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_fits_a_screen() {
        let helps = shown().map(help_of).chain([usage()]);
        for help in helps {
            // With the prompt, 24 lines of 80.
            assert!(help.lines().count() <= 23, "{help}");
            assert!(help.lines().all(|line| line.len() < 80), "{help}");
        }
    }
}
