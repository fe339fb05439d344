//! Options: one row for each, from which the parser, the help, the settings and the completions are made; and those
//! that every command has.

use super::failure::Failure;
use super::parsed::Parsed;
use super::settings::{base_dir, Source};
use super::values::is_host_port;
use crate::limits::{BUFFER_DEFAULT, CAPACITY_MIN, COPIES_DEFAULT, COPIES_MAX, STALL_DEFAULT};
use getopts::Options;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The port that peers listen at by default.
pub const DEFAULT_PORT: u16 = 7873;

/// What an option's value is, as far as a shell can complete it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// There is none.
    None,
    /// Anything, called so in the help.
    Any(&'static str),
    /// A file.
    File,
    /// A directory.
    Dir,
    /// One of these words, called so in the help.
    Word(&'static str, &'static [&'static str]),
}

/// Columns of the help that options take, with their values.
const OPTION_COLUMNS: usize = 22;

impl Opt {
    /// Its line in the help.
    pub fn help_line(&self) -> String {
        let short = match self.short {
            "" => "    ".to_string(),
            short => format!("-{short}, "),
        };
        let option = format!("{short}--{} {}", self.long, self.value.name());
        format!("  {option:OPTION_COLUMNS$}  {}\n", self.help)
    }
}

impl Value {
    /// What it is called in the help; empty if there is none.
    pub fn name(self) -> &'static str {
        match self {
            Value::None => "",
            Value::Any(name) | Value::Word(name, _) => name,
            Value::File => "FILE",
            Value::Dir => "DIR",
        }
    }
}

/// An option.
#[derive(Debug)]
pub struct Opt {
    /// Its letter; empty if it has none.
    pub short: &'static str,
    pub long: &'static str,
    pub value: Value,
    /// Whether it may be given several times.
    pub repeats: bool,
    /// Whether the environment and configurations may give it as well.
    pub is_setting: bool,
    /// What holds if nothing gives it, for `strew config`; empty if nothing does.
    pub default: &'static str,
    pub help: &'static str,
}

const OPTION: Opt = Opt {
    short: "",
    long: "",
    value: Value::None,
    repeats: false,
    is_setting: false,
    default: "",
    help: "",
};

const SETTING: Opt = Opt {
    is_setting: true,
    ..OPTION
};

/// Every option of every command, each under its name.
macro_rules! options {
    ($($name:ident = $row:expr;)*) => {
        $(pub const $name: &Opt = &$row;)*
        /// All of them.
        pub const ALL: &[&Opt] = &[$($name),*];
    };
}

options! {
    DIR = Opt {
        short: "d",
        long: "dir",
        value: Value::Dir,
        help: "the data directory (default $XDG_DATA_HOME/strew)",
        ..SETTING
    };
    PEER = Opt {
        short: "p",
        long: "peer",
        value: Value::Any("HOST:PORT"),
        repeats: true,
        help: "a peer to join the network by; repeatable",
        ..SETTING
    };
    CAPACITY = Opt {
        long: "capacity",
        value: Value::Any("SIZE"),
        default: "10G",
        help: "space allotted (default 10G, at most half the free)",
        ..SETTING
    };
    MIN_FREE = Opt {
        long: "min-free",
        value: Value::Any("SIZE"),
        default: "0",
        help: "space of the disk to be left free (default 0)",
        ..SETTING
    };
    QUIET = Opt {
        short: "q",
        long: "quiet",
        default: "no",
        help: "say nothing but errors",
        ..SETTING
    };
    VERBOSE = Opt {
        short: "v",
        long: "verbose",
        repeats: true,
        help: "say more; repeatable",
        ..OPTION
    };
    LOG = Opt {
        long: "log",
        value: Value::Word("LEVEL", &["error", "warn", "info", "debug", "trace"]),
        default: "warn",
        help: "error, warn, info, debug or trace; before -q and -v",
        ..SETTING
    };
    PROGRESS = Opt {
        long: "progress",
        value: Value::Word("WHEN", &["auto", "always", "never"]),
        default: "auto",
        help: "show progress: auto, always or never",
        ..SETTING
    };
    STALL = Opt {
        long: "stall",
        value: Value::Any("TIME"),
        default: "30s",
        help: "give up after so long without progress (default 30s)",
        ..SETTING
    };
    TIMEOUT = Opt {
        long: "timeout",
        value: Value::Any("TIME"),
        help: "give up after so long in all (default never)",
        ..SETTING
    };
    HELP = Opt {
        short: "h",
        long: "help",
        help: "show this",
        ..OPTION
    };
    VERSION = Opt {
        short: "V",
        long: "version",
        help: "show the version",
        ..OPTION
    };
    LISTEN = Opt {
        short: "l",
        long: "listen",
        value: Value::Any("ADDR:PORT"),
        default: "[::]:7873",
        help: "where to listen, UDP and TCP (default [::]:7873)",
        ..SETTING
    };
    UP_RATE = Opt {
        long: "up-rate",
        value: Value::Any("SIZE"),
        help: "bytes a second to other peers (default no limit)",
        ..SETTING
    };
    DOWN_RATE = Opt {
        long: "down-rate",
        value: Value::Any("SIZE"),
        help: "bytes a second from other peers (default no limit)",
        ..SETTING
    };
    COPIES = Opt {
        long: "copies",
        value: Value::Any("N"),
        default: "8",
        help: "copies that each block should have (default 8)",
        ..SETTING
    };
    MIN_COPIES = Opt {
        long: "min-copies",
        value: Value::Any("N"),
        default: "1",
        help: "fail with 5 or 7 if a block has fewer (default 1)",
        ..SETTING
    };
    PLAIN = Opt {
        long: "plain",
        help: "public data: do not encrypt",
        ..OPTION
    };
    KEEP = Opt {
        long: "keep",
        value: Value::Any("TIME"),
        help: "have it kept for so long (default 30d, and at most)",
        ..OPTION
    };
    NO_STORE = Opt {
        long: "no-store",
        help: "keep no own copy once there are others",
        ..OPTION
    };
    PIN = Opt {
        long: "pin",
        help: "pin it here: keep it until it is taken back",
        ..OPTION
    };
    OUTPUT = Opt {
        short: "o",
        long: "output",
        value: Value::File,
        help: "write FILE, by way of FILE.part; - is standard output",
        ..OPTION
    };
    FORCE = Opt {
        short: "f",
        long: "force",
        help: "replace FILE, and a FILE.part of something else",
        ..OPTION
    };
    BUFFER = Opt {
        long: "buffer",
        value: Value::Any("SIZE"),
        default: "16M",
        help: "bytes fetched ahead of what is written (default 16M)",
        ..SETTING
    };
    RANGE = Opt {
        long: "range",
        value: Value::Any("A-B"),
        help: "only the bytes A to B, from 0 on; A- is to the end",
        ..OPTION
    };
    REPAIR = Opt {
        long: "repair",
        help: "bring blocks with fewer copies back to --copies",
        ..OPTION
    };
    JSON = Opt {
        long: "json",
        help: "say all in JSON, an object a line",
        ..OPTION
    };
    METRICS = Opt {
        long: "metrics",
        help: "print the numbers in the text format of Prometheus",
        ..OPTION
    };
    READY = Opt {
        long: "ready",
        help: "fail unless a serve runs and has its network",
        ..OPTION
    };
    SUBSET = Opt {
        long: "subset",
        value: Value::Any("N/T"),
        help: "only the Nth of T parts; T runs verify all",
        ..OPTION
    };
}

/// The options that every command has.
pub const COMMON: &[&Opt] = &[
    DIR, PEER, CAPACITY, MIN_FREE, QUIET, VERBOSE, LOG, PROGRESS, JSON, STALL, TIMEOUT, HELP,
    VERSION,
];

/// Options that come with what they would belong to in a later version: refused, never ignored.
pub const LATER: &[&str] = &["secret"];

/// The parser of these options.
pub fn parser<'a>(options: impl Iterator<Item = &'a Opt>) -> Options {
    let mut parser = Options::new();
    for option in options {
        let Opt {
            short,
            long,
            value,
            help,
            ..
        } = option;
        match (value.name(), option.repeats) {
            ("", true) => parser.optflagmulti(short, long, help),
            ("", false) => parser.optflag(short, long, help),
            (name, true) => parser.optmulti(short, long, help, name),
            (name, false) => parser.optopt(short, long, help, name),
        };
    }
    parser
}

/// When progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// If standard error is a terminal.
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// What the options that every command has come to.
pub struct Common {
    /// The data directory, whether or not it exists.
    pub dir: PathBuf,
    /// Peers to bootstrap from, HOST:PORT.
    pub peers: Vec<String>,
    /// Bytes allotted, if said.
    pub capacity: Option<u64>,
    /// Bytes of the disk to be left free, if said.
    pub min_free: Option<u64>,
    /// Those of these two that the command line itself says; only a private peer heeds them.
    pub for_private: Vec<&'static str>,
    /// Nothing but errors is said.
    pub quiet: bool,
    /// When progress is shown.
    pub progress: Progress,
    /// Time without progress after which to give up.
    pub stall: Duration,
    /// Time after which to give up in any case.
    pub timeout: Option<Duration>,
}

impl Common {
    /// Reads the options and their settings.
    pub fn new(parsed: &Parsed) -> Result<Common, Failure> {
        Common::in_dir(dir(parsed)?, parsed)
    }

    fn in_dir(dir: PathBuf, parsed: &Parsed) -> Result<Common, Failure> {
        let mut peers = Vec::new();
        for peer in parsed.values(PEER) {
            match peer.text() {
                Ok(text) if is_host_port(text) => peers.push(text.to_string()),
                _ => return Err(peer.bad("HOST:PORT, such as 192.0.2.1:7873")),
            }
        }
        let capacity = parsed.size(CAPACITY)?;
        let too_small = capacity.is_some_and(|capacity| capacity < CAPACITY_MIN);
        if let Some(given) = parsed.value(CAPACITY).filter(|_| too_small) {
            let least = CAPACITY_MIN >> 20;
            return Err(Failure::usage(format!(
                "{given}: must be at least {least}M"
            )));
        }
        let progress = |text: &str| match text {
            "auto" => Some(Progress::Auto),
            "always" => Some(Progress::Always),
            "never" => Some(Progress::Never),
            _ => None,
        };
        let progress = parsed.parsed(PROGRESS, progress, "auto, always or never")?;
        let is_on_line = |option: &Opt| {
            let given = parsed.value(option);
            given.is_some_and(|given| given.source == Source::Line)
        };
        let for_private = [CAPACITY, MIN_FREE].into_iter();
        let for_private = for_private.filter(|option| is_on_line(option));
        Ok(Common {
            dir,
            peers,
            capacity,
            min_free: parsed.size(MIN_FREE)?,
            for_private: for_private.map(|option| option.long).collect(),
            quiet: parsed.has(QUIET)?,
            progress: progress.unwrap_or(Progress::Auto),
            stall: parsed.time(STALL)?.unwrap_or(STALL_DEFAULT),
            timeout: parsed.time(TIMEOUT)?,
        })
    }
}

/// A failure if any setting is not what it should be, whether or not the command has a use for it.
pub fn check(parsed: &Parsed) -> Result<(), Failure> {
    Common::in_dir(PathBuf::new(), parsed)?;
    listen(parsed)?;
    rate(parsed, UP_RATE)?;
    rate(parsed, DOWN_RATE)?;
    copies(parsed)?;
    buffer(parsed).map(drop)
}

/// Where to listen, if said.
pub fn listen(parsed: &Parsed) -> Result<Option<SocketAddr>, Failure> {
    let address = "an address and a port, such as 0.0.0.0:7873 or [::1]:7873";
    parsed.parsed(LISTEN, |text| text.parse().ok(), address)
}

/// `--up-rate` or `--down-rate`, if said.
pub fn rate(parsed: &Parsed, option: &Opt) -> Result<Option<u64>, Failure> {
    let rate = parsed.size(option)?;
    match parsed.value(option).filter(|_| rate == Some(0)) {
        Some(given) => Err(given.bad("a rate; leave it out for as fast as can be")),
        None => Ok(rate),
    }
}

/// `--copies` and `--min-copies`, or their defaults.
pub fn copies(parsed: &Parsed) -> Result<(u8, u8), Failure> {
    let copies = parsed.number(COPIES, 1..=COPIES_MAX)?;
    let min_copies = parsed.number(MIN_COPIES, 0..=COPIES_MAX)?;
    Ok((copies.unwrap_or(COPIES_DEFAULT), min_copies.unwrap_or(1)))
}

/// The same for a command that makes copies: no more can be demanded than are made.
pub fn copies_to_make(parsed: &Parsed) -> Result<(u8, u8), Failure> {
    let (copies, min_copies) = self::copies(parsed)?;
    if min_copies > copies {
        let message = format!("--min-copies {min_copies} is more than --copies {copies}");
        return Err(Failure::usage(message));
    }
    Ok((copies, min_copies))
}

/// `--buffer`, or its default.
pub fn buffer(parsed: &Parsed) -> Result<usize, Failure> {
    let bytes = parsed.size(BUFFER)?.unwrap_or(BUFFER_DEFAULT as u64);
    usize::try_from(bytes)
        .map_err(|_| Failure::usage("--buffer: more than this machine can address"))
}

/// The data directory.
pub fn dir(parsed: &Parsed) -> Result<PathBuf, Failure> {
    let given = parsed.value(DIR);
    if let Some(given) = given.as_ref().filter(|given| given.value.is_empty()) {
        return Err(given.bad("a directory"));
    }
    let given = given.map(|given| given.value.into());
    let by_default = || Some(base_dir("XDG_DATA_HOME", ".local/share")?.join("strew"));
    given.or_else(by_default).ok_or_else(|| {
        Failure::usage("no data directory: give --dir DIR, or set STREW_DIR or HOME")
    })
}
