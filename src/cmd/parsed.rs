//! A command's options and arguments as they were given, with what the settings add.

use super::failure::Failure;
use super::nearest::did_you_mean;
use super::options::{self, Opt, LATER};
use super::settings::{Given, Settings, Source};
use super::values;
use getopts::{Fail, Matches};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line and the settings say.
#[derive(Clone)]
pub struct Parsed {
    /// What getopts found.
    matches: Matches,
    /// Arguments that are no text, in whose place a number between zero bytes was parsed.
    raw: Vec<OsString>,
    settings: Settings,
    /// What is not an option.
    pub arguments: Vec<String>,
    /// What follows `--` in `share`, if that is there: another program and its arguments.
    pub program: Option<Vec<OsString>>,
}

/// Parses a command's arguments; with `has_program`, what follows `--` is a program with its arguments. Later versions'
/// options are known, so that they can be refused by name.
pub fn parse(options: &[&Opt], has_program: bool, args: &[OsString]) -> Result<Parsed, Failure> {
    let options_end = args
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(args.len());
    for arg in &args[..options_end] {
        // Its name and value cannot be told apart.
        if arg.as_encoded_bytes().starts_with(b"-") && arg.to_str().is_none() {
            let message = format!(
                "{}: not text; give the value as an argument of its own",
                arg.display()
            );
            return Err(Failure::usage(message));
        }
    }
    let (args, program) = match has_program {
        true => (&args[..options_end], args.get(options_end + 1..)),
        false => (args, None),
    };
    let mut raw = Vec::new();
    let text = args.iter().map(|arg| match arg.to_str() {
        Some(text) => text.to_string(),
        None => {
            raw.push(arg.clone());
            format!("\0{}\0", raw.len() - 1)
        }
    });
    let text: Vec<String> = text.collect();
    let parser = options::parser(options.iter().copied());
    let matches = parser.parse(text).map_err(|fail| refused(options, fail))?;
    let arguments = matches.free.clone();
    Ok(Parsed {
        matches,
        raw,
        settings: Settings::default(),
        arguments,
        program: program.map(<[OsString]>::to_vec),
    })
}

fn refused(options: &[&Opt], fail: Fail) -> Failure {
    let message = match fail {
        Fail::UnrecognizedOption(name) if LATER.contains(&&*name) => {
            format!("--{name} is not available in this version")
        }
        Fail::UnrecognizedOption(name) if name.chars().count() == 1 => {
            format!("-{name}: no such option")
        }
        Fail::UnrecognizedOption(name) => {
            let known = options.iter().map(|option| option.long);
            let meant = did_you_mean(&name, "--", known);
            format!("--{name}: no such option{meant}")
        }
        other => other.to_string(),
    };
    Failure::usage(message)
}

impl Parsed {
    /// Has the settings say what the command line does not.
    pub fn add_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether the command line has an option, and how often.
    pub fn count(&self, option: &Opt) -> usize {
        self.matches.opt_count(option.long)
    }

    /// All values of an option, where it was said first. A flag on the command line says yes.
    pub fn values(&self, option: &Opt) -> Vec<Given> {
        // getopts panics for what the command has not.
        let is_known = self.matches.opt_defined(option.long);
        let values = match is_known && self.matches.opt_present(option.long) {
            true if option.value.name().is_empty() => vec!["yes".to_string()],
            true => self.matches.opt_strs(option.long),
            false => vec![],
        };
        let given = values.into_iter().map(|text| Given {
            name: option.long,
            value: self.raw(text),
            source: Source::Line,
        });
        let given: Vec<Given> = given.collect();
        match given.is_empty() {
            true => self.settings.values(option),
            false => given,
        }
    }

    /// The value of an option.
    pub fn value(&self, option: &Opt) -> Option<Given> {
        self.values(option).pop()
    }

    /// Whether a flag is set.
    pub fn has(&self, option: &Opt) -> Result<bool, Failure> {
        let set = self.parsed(option, values::boolean, "yes or no")?;
        Ok(set.unwrap_or(false))
    }

    /// An argument as the system gave it.
    fn raw(&self, text: String) -> OsString {
        let index = text
            .strip_prefix('\0')
            .and_then(|rest| rest.strip_suffix('\0'));
        match index.and_then(|index| self.raw.get(index.parse::<usize>().ok()?)) {
            Some(raw) => raw.clone(),
            None => text.into(),
        }
    }

    /// The arguments that are no options, as paths.
    pub fn files(&self) -> Vec<PathBuf> {
        let arguments = self.arguments.iter();
        arguments
            .map(|text| self.raw(text.clone()).into())
            .collect()
    }

    /// A failure if there is any argument that is no option.
    pub fn no_arguments(&self, command: &str) -> Result<(), Failure> {
        match self.arguments.first() {
            Some(argument) => Err(Failure::usage(format!(
                "{argument}: {command} takes no arguments"
            ))),
            None => Ok(()),
        }
    }

    /// A path given by an option.
    pub fn path(&self, option: &Opt) -> Option<PathBuf> {
        self.value(option).map(|given| given.value.into())
    }

    /// A time given by an option.
    pub fn time(&self, option: &Opt) -> Result<Option<Duration>, Failure> {
        self.parsed(
            option,
            values::duration,
            "a time such as 90s, 5m, 22h or 30d",
        )
    }

    /// A size given by an option.
    pub fn size(&self, option: &Opt) -> Result<Option<u64>, Failure> {
        self.parsed(option, values::size, "a size such as 4096, 64K, 10M or 2G")
    }

    /// A number given by an option, within a range.
    pub fn number(
        &self,
        option: &Opt,
        range: std::ops::RangeInclusive<u8>,
    ) -> Result<Option<u8>, Failure> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        let number = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parsed(option, number, &what)
    }

    /// The value of an option by a parser of one's own; `what` says to the user what is possible.
    pub fn parsed<T>(
        &self,
        option: &Opt,
        parse: impl Fn(&str) -> Option<T>,
        what: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(given) = self.value(option) else {
            return Ok(None);
        };
        let value = given.value.to_str().and_then(parse);
        value.map(Some).ok_or_else(|| given.bad(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::options::{COMMON, DIR};

    #[test]
    fn names_that_are_no_text_come_back_as_they_were() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'f', 0xff, b'.']);
        let args = [odd.clone(), "-d".into(), odd.clone(), "plain".into()];
        let parsed = parse(COMMON, false, &args).expect("parsed");
        assert_eq!(parsed.files(), [PathBuf::from(odd.clone()), "plain".into()]);
        assert_eq!(parsed.path(DIR), Some(odd.into()));
        let attached = OsString::from_vec(b"--dir=\xff".to_vec());
        assert!(
            parse(COMMON, false, &[attached]).is_err(),
            "and is not taken for a file"
        );
    }

    #[test]
    fn options_of_later_versions_are_refused_by_name() {
        let later = parse(COMMON, false, &["--secret=x".into()]);
        let failure = later.err().expect("refused");
        assert!(
            failure.message.contains("not available in this version"),
            "{failure}"
        );
    }

    #[test]
    fn program_takes_all_that_follows_the_dashes() {
        let args = ["-q", "--", "ls", "-d", "--", "x"].map(OsString::from);
        let parsed = parse(COMMON, true, &args).expect("parsed");
        assert!(parsed.count(options::QUIET) == 1 && parsed.arguments.is_empty());
        let program = ["ls", "-d", "--", "x"].map(OsString::from);
        assert_eq!(parsed.program, Some(program.to_vec()));
        let parsed = parse(COMMON, false, &args).expect("parsed");
        assert_eq!((parsed.arguments.len(), parsed.program), (4, None));
        let parsed = parse(COMMON, true, &args[..2]).expect("parsed");
        assert_eq!(parsed.program, Some(Vec::new()), "one is missing");
    }
}
