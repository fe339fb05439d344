//! Where values come from that the command line does not give: the environment, then the configuration of the user,
//! then that of the machine. Nothing is ever written there.

use super::failure::Failure;
use super::nearest::did_you_mean;
use super::options::{Opt, ALL};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The configuration of the machine.
const SYSTEM: &str = "/etc/strew/config";

/// Bytes of a configuration at most.
const CONFIG_MAX: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// An option of this command line.
    Line,
    /// A variable of the environment.
    Environment(String),
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
}

/// A value with its source, of the option of this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    pub name: &'static str,
    pub value: OsString,
    pub source: Source,
}

impl Given {
    /// The value as text.
    pub fn text(&self) -> Result<&str, Failure> {
        self.value.to_str().ok_or_else(|| self.bad("text"))
    }

    /// The failure of a value that is not what it should be.
    pub fn bad(&self, what: &str) -> Failure {
        Failure::usage(format!("{self}: not {what}"))
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.display();
        match &self.source {
            Source::Line => write!(f, "--{} {value}", self.name),
            Source::Environment(variable) => write!(f, "{variable}={value}"),
            Source::File(path, line) => {
                write!(f, "{} line {line}: {} = {value}", path.display(), self.name)
            }
        }
    }
}

/// What the environment and the configurations say.
#[derive(Clone, Default)]
pub struct Settings {
    /// Of the user first, then of the machine; each in order of its lines.
    files: Vec<Vec<Given>>,
}

impl Settings {
    /// Reads the configurations. One that is not there says nothing; a line that cannot be understood is a failure.
    pub fn load() -> Result<Settings, Failure> {
        let files = paths().into_iter().map(|path| read(&path));
        Ok(Settings {
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// The values of an option where it was said first; more than one only of an option that may be repeated.
    pub fn values(&self, option: &Opt) -> Vec<Given> {
        if !option.is_setting {
            return Vec::new();
        }
        let given = environment(option);
        if !given.is_empty() {
            return given;
        }
        let of = |file: &Vec<Given>| -> Vec<Given> {
            let lines = file.iter().filter(|given| given.name == option.long);
            lines.cloned().collect()
        };
        let files = self.files.iter().map(of);
        files
            .into_iter()
            .find(|given| !given.is_empty())
            .unwrap_or_default()
    }
}

/// The configuration of the user, if there can be one, and that of the machine.
pub fn paths() -> Vec<PathBuf> {
    let user = base_dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("strew/config"));
    user.into_iter().chain([SYSTEM.into()]).collect()
}

/// A directory that a variable names, or that lies at this place in the user's home. Paths that are not absolute are to
/// be ignored (XDG Base Directory Specification, "Basics").
pub fn base_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    let named = variable_set(variable).map(PathBuf::from);
    let home = || variable_set("HOME").map(|home| Path::new(&home).join(in_home));
    named.filter(|path| path.is_absolute()).or_else(home)
}

/// A variable that is set and not empty.
fn variable_set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The variable of an option.
pub fn variable(option: &Opt) -> String {
    match option.long {
        // The plural has a history with lists.
        "peer" => "STREW_PEERS".to_string(),
        long => format!("STREW_{}", long.replace('-', "_").to_uppercase()),
    }
}

fn environment(option: &Opt) -> Vec<Given> {
    let variable = variable(option);
    let Some(value) = variable_set(&variable) else {
        return Vec::new();
    };
    let given = |value: &OsStr| Given {
        name: option.long,
        value: value.to_os_string(),
        source: Source::Environment(variable.clone()),
    };
    match (option.repeats, value.to_str()) {
        // Separated by white space.
        (true, Some(text)) => text
            .split_whitespace()
            .map(|it| given(it.as_ref()))
            .collect(),
        _ => vec![given(&value)],
    }
}

/// The settings of a configuration: `long-option = value` in each line; `#` at its beginning, or after white space,
/// begins a comment.
fn read(path: &Path) -> Result<Vec<Given>, Failure> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > CONFIG_MAX => {
            let message = format!("{}: longer than {CONFIG_MAX} bytes", path.display());
            return Err(Failure::usage(message));
        }
        Ok(_) => fs::read(path).map_err(|error| Failure::file(path, &error))?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Failure::file(path, &error)),
    };
    let Ok(text) = String::from_utf8(text) else {
        return Err(Failure::usage(format!("{}: not text", path.display())));
    };
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Given>, Failure> {
    let mut all: Vec<Given> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let bad = |what: String| {
            let path = path.display();
            Failure::usage(format!("{path} line {}: {what}", index + 1))
        };
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(bad(format!("{line}: not KEY = VALUE")));
        };
        let (key, value) = (key.trim(), value.trim());
        let settings = || ALL.iter().filter(|option| option.is_setting);
        let Some(option) = settings().find(|option| option.long == key) else {
            let meant = did_you_mean(key, "", settings().map(|option| option.long));
            return Err(bad(format!(
                "{key}: no such setting{meant}; SETTINGS in strew(1) has all"
            )));
        };
        if value.is_empty() {
            return Err(bad(format!("{key}: has no value")));
        }
        if !option.repeats && all.iter().any(|given| given.name == option.long) {
            return Err(bad(format!("{key}: is said twice")));
        }
        all.push(Given {
            name: option.long,
            value: value.into(),
            source: Source::File(path.to_path_buf(), index + 1),
        });
    }
    Ok(all)
}

fn without_comment(line: &str) -> &str {
    let mut is_after_space = true;
    for (at, letter) in line.char_indices() {
        if letter == '#' && is_after_space {
            return &line[..at];
        }
        is_after_space = letter.is_whitespace();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<(&'static str, OsString, usize)>, String> {
        let given = parse(Path::new("/config"), text).map_err(|failure| failure.message)?;
        let lines = given.into_iter().map(|given| match given.source {
            Source::File(_, line) => (given.name, given.value, line),
            _ => panic!("all are of the file"),
        });
        Ok(lines.collect())
    }

    #[test]
    fn configurations_are_keys_and_values_with_comments() {
        let text =
            "# for the whole house\n\npeer = a:1 # the first\n  peer=b#:2\ncapacity\t= 10G\r\n";
        let expected = [
            ("peer", "a:1", 3),
            ("peer", "b#:2", 4),
            ("capacity", "10G", 5),
        ];
        let expected = expected.map(|(name, value, line)| (name, OsString::from(value), line));
        assert_eq!(lines(text), Ok(expected.to_vec()));
        assert_eq!(lines(""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_line() {
        let cases = [
            (
                "\ncapactiy = 1G",
                "line 2: capactiy: no such setting (did you mean capacity?)",
            ),
            ("help = yes", "line 1: help: no such setting"),
            ("capacity", "line 1: capacity: not KEY = VALUE"),
            ("capacity =", "line 1: capacity: has no value"),
            ("= 1", "line 1: : no such setting"),
            ("stall=1s\nstall=2s", "line 2: stall: is said twice"),
        ];
        for (text, said) in cases {
            let message = lines(text).expect_err(text);
            assert!(message.contains(said), "{message}");
        }
    }
}
