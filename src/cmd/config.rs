//! `strew config` and `strew paths`: what holds, and where that comes from.

use super::failure::Failure;
use super::options::{self, Opt, ALL};
use super::output;
use super::parsed::Parsed;
use super::serve::default_capacity;
use super::settings::{paths, Source};
use crate::reactor::control;

/// The options of these commands beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

/// Width of what stands before the source.
const WIDTH: usize = 40;

/// Prints every setting as a line of a configuration, with its source as a comment.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    parsed.no_arguments("config")?;
    let dir = options::dir(parsed)?;
    for option in ALL.iter().filter(|option| option.is_setting) {
        let name = option.long;
        let values = parsed.values(option);
        for given in &values {
            let line = format!("{name} = {}", given.value.display());
            let source = match &given.source {
                Source::Line => "command line".to_string(),
                Source::Environment(variable) => format!("${variable}"),
                Source::File(path, line) => format!("{} line {line}", path.display()),
            };
            output::line(&format_args!("{line:WIDTH$} # {source}"))?;
        }
        if !values.is_empty() {
            continue;
        }
        let default = match name {
            "dir" => dir.display().to_string(),
            // Of a directory that is not there yet, the next that is tells what is free.
            "capacity" => {
                let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(&dir);
                default_capacity(there)?.to_string()
            }
            _ => option.default.to_string(),
        };
        match default.is_empty() {
            true => output::line(&format_args!("{:WIDTH$} # not set", format!("# {name}")))?,
            false => output::line(&format_args!(
                "{:WIDTH$} # default",
                format!("{name} = {default}")
            ))?,
        }
    }
    Ok(())
}

/// Prints where everything lies, and whether it is there.
pub fn run_paths(parsed: &Parsed) -> Result<(), Failure> {
    parsed.no_arguments("paths")?;
    for path in paths() {
        say("config", &path)?;
    }
    let dir = options::dir(parsed)?;
    say("dir", &dir)?;
    let files = [
        ("pack", "pack"),
        ("key", "key"),
        ("contacts", "contacts"),
        ("socket", control::NAME),
        ("lock", "lock"),
        ("log", "peer.log"),
    ];
    files
        .into_iter()
        .try_for_each(|(what, name)| say(what, &dir.join(name)))
}

fn say(what: &str, path: &std::path::Path) -> Result<(), Failure> {
    let is_there = match path.exists() {
        true => "there",
        false => "missing",
    };
    output::line(&format_args!("{what} {is_there} {}", path.display()))
}
