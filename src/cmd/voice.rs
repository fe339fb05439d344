//! What is said to the user on standard error, in words, or with `--json` as objects.

use super::failure::Failure;
use super::json::Object;
use super::options::{self, Common};
use super::parsed::Parsed;
use super::progress;
use super::settings::Source;
use super::values;
use crate::listing::printable;
use crate::sys;
use log::{Log, Metadata, Record};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// Whether all is said in JSON, answers as well.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// A log whose level can be changed.
struct ChangeableLog(RwLock<Option<env_logger::Logger>>);

static LOG: ChangeableLog = ChangeableLog(RwLock::new(None));

impl ChangeableLog {
    fn with<R>(&self, call: impl FnOnce(&env_logger::Logger) -> R) -> Option<R> {
        let logger = self.0.read().unwrap_or_else(PoisonError::into_inner);
        logger.as_ref().map(call)
    }
}

impl Log for ChangeableLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.with(|logger| logger.enabled(metadata))
            .unwrap_or(false)
    }

    fn log(&self, record: &Record<'_>) {
        self.with(|logger| {
            if logger.matches(record) {
                progress::clear();
                logger.log(record);
            }
        });
    }

    fn flush(&self) {
        self.with(|logger| logger.flush());
    }
}

/// Finds out from the arguments how all is to be said: what is wrong with them, too.
pub fn choose(args: &[OsString]) {
    let mut options = args.iter().take_while(|arg| *arg != "--");
    let is_json = options.any(|arg| arg == "--json");
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Whether all is to be said in JSON.
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// The log goes to standard error: warnings, with `-v` more, with `-q` errors only. `--log` or its variable overrides
/// these, and they a configuration.
pub fn start_log(parsed: &Parsed) -> Result<(), Failure> {
    set_level(parsed)?;
    // Fails only if there is a log already.
    let _ = log::set_logger(&LOG);
    Ok(())
}

/// The same while it is running.
pub fn set_level(parsed: &Parsed) -> Result<(), Failure> {
    let chosen = parsed.value(options::LOG);
    let verbose = parsed.count(options::VERBOSE);
    let is_line_silent = parsed.count(options::QUIET) + verbose == 0;
    let chosen = chosen.filter(|given| is_line_silent || !matches!(given.source, Source::File(..)));
    let level = match (&chosen, parsed.has(options::QUIET)?, verbose) {
        (Some(given), ..) => match given.text()? {
            text if values::is_log_filter(text) => text,
            _ => {
                return Err(given
                    .bad("error, warn, info, debug or trace, or such as warn,strew::dht=trace"))
            }
        },
        (None, true, _) => "error",
        (None, false, 0) => "warn",
        (None, false, 1) => "info",
        (None, false, 2) => "debug",
        (None, false, _) => "trace",
    };
    let is_journal = sys::is_journal();
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(level).format(move |out, record| {
        let level = record.level().as_str().to_lowercase();
        let message = on_one_line(&record.args().to_string());
        match record.level() {
            // The number is the priority of syslog(3); the journal adds the rest.
            level if is_journal => {
                let priority = match level {
                    log::Level::Error => 3,
                    log::Level::Warn => 4,
                    log::Level::Info => 6,
                    log::Level::Debug | log::Level::Trace => 7,
                };
                writeln!(out, "<{priority}>{message}")
            }
            _ if is_json() => {
                let object = Object::new("log").text("level", level);
                writeln!(out, "{}", object.text("message", record.args()))
            }
            log::Level::Error | log::Level::Warn => writeln!(out, "strew: {message}"),
            _ => writeln!(out, "strew: {level}: {message}"),
        }
    });
    let logger = builder.build();
    log::set_max_level(logger.filter());
    *LOG.0.write().unwrap_or_else(PoisonError::into_inner) = Some(logger);
    Ok(())
}

/// Tells the user why something failed, unless that has been done.
pub fn report(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    match is_json() {
        true => {
            let error = Object::new("error").number("status", failure.status as u8);
            write_line(&error.text("message", &failure.message));
        }
        false => write_line(&format_args!("strew: {}", on_one_line(&failure.message))),
    }
}

/// Does something with each of several. What fails is reported at once and the rest go on; the status returned is the
/// first's.
pub fn for_each_reported<T>(
    all: impl IntoIterator<Item = T>,
    each: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failures = all.into_iter().map(each).filter_map(Result::err);
    let statuses = failures.map(|failure| {
        report(&failure);
        failure.status
    });
    let first = statuses.reduce(|first, _| first);
    first.map_or(Ok(()), |status| Err(Failure::reported(status)))
}

/// Tells the user something, unless `-q` was given.
pub fn say(common: &Common, message: &str) {
    match (common.quiet, is_json()) {
        (true, _) => {}
        (false, true) => write_line(&Object::new("message").text("message", message)),
        (false, false) => write_line(&format_args!("strew: {}", on_one_line(message))),
    }
}

/// Warns the user.
pub fn warn_user(message: &str) {
    log::warn!("{message}");
}

/// A message on one line: control characters, which names may have, as `strew ls` writes them. A file's name neither
/// begins a line nor moves the cursor.
fn on_one_line(message: &str) -> String {
    let mut line = String::new();
    for letter in message.chars() {
        match letter.is_control() {
            true => line += &printable(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            false => line.push(letter),
        }
    }
    line
}

/// Writes a line to standard error.
pub fn write_line(text: &impl Display) {
    progress::clear();
    write_at_once(&format!("{text}\n"));
}

/// Writes to standard error by one call, so that several commands can share it. A user whose terminal is gone is not
/// told.
pub fn write_at_once(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
