//! `strew config` and `strew paths`: what holds, and where that comes from.

use super::failure::Failure;
use super::json::Object;
use super::options::{self, Opt, ALL};
use super::output;
use super::parsed::Parsed;
use super::serve::default_capacity;
use super::settings::{paths, Source};
use crate::reactor::control;
use std::path::Path;

/// The options of these commands beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

/// Width of what stands before the source.
const WIDTH: usize = 40;

/// Prints every setting as a line of a configuration, with its source as a comment.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    parsed.no_arguments("config")?;
    let dir = options::dir(parsed)?;
    for option in ALL.iter().filter(|option| option.is_setting) {
        let values = parsed.values(option);
        for given in &values {
            let source = match &given.source {
                Source::Line => "command line".to_string(),
                Source::Environment(variable) => format!("${variable}"),
                Source::File(path, line) => format!("{} line {line}", path.display()),
            };
            say_setting(option, Some(&given.value.display().to_string()), &source)?;
        }
        if !values.is_empty() {
            continue;
        }
        let default = match option.long {
            "dir" => dir.display().to_string(),
            // Of a directory that is not there yet, the next that is tells what is free.
            "capacity" => {
                let above = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty());
                let there = above.into_iter().find(|dir| dir.exists());
                default_capacity(there.unwrap_or(Path::new(".")))?.to_string()
            }
            _ => option.default.to_string(),
        };
        match default.is_empty() {
            true => say_setting(option, None, "not set")?,
            false => say_setting(option, Some(&default), "default")?,
        }
    }
    Ok(())
}

fn say_setting(option: &Opt, value: Option<&str>, source: &str) -> Result<(), Failure> {
    let name = option.long;
    let line = match value {
        Some(value) => format!("{name} = {value}"),
        None => format!("# {name}"),
    };
    output::answer(&format_args!("{line:WIDTH$} # {source}"), || {
        let object = Object::new("setting").text("name", name);
        object.text_or_null("value", value).text("source", source)
    })
}

/// Prints where everything lies, and whether it is there.
pub fn run_paths(parsed: &Parsed) -> Result<(), Failure> {
    parsed.no_arguments("paths")?;
    for path in paths() {
        say_path("config", &path)?;
    }
    let dir = options::dir(parsed)?;
    say_path("dir", &dir)?;
    let files = [
        ("pack", "pack"),
        ("index", "index.0"),
        ("index", "index.1"),
        ("key", "key"),
        ("contacts", "contacts"),
        ("socket", control::NAME),
        ("lock", "lock"),
        ("log", "peer.log"),
    ];
    files
        .into_iter()
        .try_for_each(|(what, name)| say_path(what, &dir.join(name)))
}

fn say_path(what: &str, path: &Path) -> Result<(), Failure> {
    let (is_there, shown) = (path.exists(), &path.display());
    let state = if is_there { "there" } else { "missing" };
    output::answer(&format_args!("{what} {state} {shown}"), || {
        let object = Object::new("path").text("name", what);
        object.text("path", shown).boolean("exists", is_there)
    })
}
