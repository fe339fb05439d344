//! Options: those that every command has, and how sizes, times and addresses are written.

use super::failure::Failure;
use crate::limits::{BUFFER_DEFAULT, CAPACITY_MIN, STALL_DEFAULT};
use getopts::{Matches, Options};
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The port that peers listen at by default.
pub const DEFAULT_PORT: u16 = 7873;

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

/// A command's options and arguments, as parsed.
pub struct Parsed {
    /// What getopts found.
    pub matches: Matches,
    /// Arguments that are no text, in whose place a number between zero bytes was parsed.
    raw: Vec<OsString>,
}

/// Options that come with what they would belong to in a later version: refused, never ignored.
const LATER: &[(&str, bool)] = &[("json", false), ("keep", true), ("secret", true)];

/// The options that every command has.
pub fn common() -> Options {
    let mut options = Options::new();
    options.optopt(
        "d",
        "dir",
        "the data directory (default $STREW_DIR, else $XDG_DATA_HOME/strew)",
        "DIR",
    );
    options.optmulti(
        "p",
        "peer",
        "a peer to join the network by; repeatable; also $STREW_PEERS",
        "HOST:PORT",
    );
    options.optopt(
        "",
        "capacity",
        "space allotted to the pack (default 10G, at most half of the free)",
        "SIZE",
    );
    options.optopt(
        "",
        "min-free",
        "space of the disk to be left free (default 0)",
        "SIZE",
    );
    options.optflag("q", "quiet", "say nothing but errors");
    options.optflagmulti("v", "verbose", "say more; repeatable; also $STREW_LOG");
    options.optopt(
        "",
        "progress",
        "show progress: auto, always or never",
        "WHEN",
    );
    options.optopt(
        "",
        "stall",
        "give up after so long without progress (default 30s)",
        "TIME",
    );
    options.optopt(
        "",
        "timeout",
        "give up after so long in all (default never)",
        "TIME",
    );
    options.optflag("h", "help", "show this");
    options.optflag("V", "version", "show the version");
    options
}

/// Parses a command's arguments. Later versions' options are known, so that they can be refused by name, but for
/// those of them that the command `has` already.
pub fn parse(mut options: Options, has: &[&str], args: &[OsString]) -> Result<Parsed, Failure> {
    let later = LATER.iter().filter(|(name, _)| !has.contains(name));
    for &(name, takes) in later.clone() {
        match takes {
            true => options.optmulti("", name, "", ""),
            false => options.optflagmulti("", name, ""),
        };
    }
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
    let mut raw = Vec::new();
    let text = args.iter().map(|arg| match arg.to_str() {
        Some(text) => text.to_string(),
        None => {
            raw.push(arg.clone());
            format!("\0{}\0", raw.len() - 1)
        }
    });
    let text: Vec<String> = text.collect();
    let matches = options
        .parse(text)
        .map_err(|error| Failure::usage(error.to_string()))?;
    for (name, _) in later {
        if matches.opt_present(name) {
            return Err(Failure::usage(format!(
                "--{name} is not available in this version"
            )));
        }
    }
    Ok(Parsed { matches, raw })
}

impl Parsed {
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

    /// The arguments that are no options.
    pub fn files(&self) -> Vec<PathBuf> {
        self.matches
            .free
            .iter()
            .map(|text| self.raw(text.clone()).into())
            .collect()
    }

    /// A path given by an option.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.matches.opt_str(name).map(|text| self.raw(text).into())
    }

    /// A time given by an option.
    pub fn time(&self, name: &str) -> Result<Option<Duration>, Failure> {
        self.parsed(name, duration, "a time such as 90s, 5m, 22h or 30d")
    }

    /// A size given by an option.
    pub fn size(&self, name: &str) -> Result<Option<u64>, Failure> {
        self.parsed(name, size, "a size such as 4096, 64K, 10M or 2G")
    }

    /// A number given by an option, within a range.
    pub fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u8>,
    ) -> Result<Option<u8>, Failure> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        let number = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parsed(name, number, &what)
    }

    /// The value of an option by a parser of one's own; `what` says to the user what is possible.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
        what: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = self.matches.opt_str(name) else {
            return Ok(None);
        };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Failure::usage(format!("--{name} {text}: not {what}"))),
        }
    }
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
    /// Reads the options and their environment variables.
    pub fn new(parsed: &Parsed) -> Result<Common, Failure> {
        let mut peers = parsed.matches.opt_strs("peer");
        let listed = env::var("STREW_PEERS").unwrap_or_default();
        peers.extend(listed.split_whitespace().map(str::to_string));
        if let Some(peer) = peers.iter().find(|peer| !is_host_port(peer)) {
            return Err(Failure::usage(format!(
                "{peer}: not HOST:PORT, such as 192.0.2.1:7873"
            )));
        }
        let capacity = parsed.size("capacity")?;
        if let Some(capacity) = capacity.filter(|&capacity| capacity < CAPACITY_MIN) {
            let least = CAPACITY_MIN >> 20;
            return Err(Failure::usage(format!(
                "--capacity {capacity}: must be at least {least}M"
            )));
        }
        let progress = |text: &str| match text {
            "auto" => Some(Progress::Auto),
            "always" => Some(Progress::Always),
            "never" => Some(Progress::Never),
            _ => None,
        };
        let progress = parsed.parsed("progress", progress, "auto, always or never")?;
        Ok(Common {
            dir: parsed.path("dir").map_or_else(default_dir, Ok)?,
            peers,
            capacity,
            min_free: parsed.size("min-free")?,
            quiet: parsed.matches.opt_present("quiet"),
            progress: progress.unwrap_or(Progress::Auto),
            stall: parsed.time("stall")?.unwrap_or(STALL_DEFAULT),
            timeout: parsed.time("timeout")?,
        })
    }
}

/// `--buffer`, or its default.
pub fn buffer(parsed: &Parsed) -> Result<usize, Failure> {
    let bytes = parsed.size("buffer")?.unwrap_or(BUFFER_DEFAULT as u64);
    usize::try_from(bytes)
        .map_err(|_| Failure::usage("--buffer: more than this machine can address"))
}

fn default_dir() -> Result<PathBuf, Failure> {
    let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(dir) = set("STREW_DIR") {
        return Ok(dir.into());
    }
    // Paths that are not absolute are to be ignored (XDG Base Directory Specification, "Basics").
    let data = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    match data.or_else(home) {
        Some(data) => Ok(data.join("strew")),
        None => Err(Failure::usage(
            "no data directory: give --dir DIR, or set STREW_DIR or HOME",
        )),
    }
}

fn is_host_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port != 0)
        }
        None => false,
    }
}

/// A size in bytes: a number, with K, M, G or T for powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits(number)?.checked_mul(1 << shift)
}

/// A time: a number with s, m, h or d; plain seconds without.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, seconds) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    // Longer ones would overflow the clock.
    let seconds = digits(number)?
        .checked_mul(seconds)
        .filter(|&seconds| seconds < 1 << 32)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// A number of digits only: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_and_nonsense_is_not() {
        assert_eq!(size("10M"), Some(10 << 20));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("2g"), Some(2 << 30));
        for bad in [
            "",
            "M",
            "-1",
            "+1",
            "1.5G",
            "10X",
            "99999999999999999999",
            "99999999T",
            "1 K",
            "٣",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(duration("7"), Some(Duration::from_secs(7)));
        for bad in ["", "s", "0s", "-5s", "5y", "99999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn peers_are_host_and_port() {
        for good in [
            "192.0.2.1:1",
            "host.example:7873",
            "[::1]:9",
            "localhost:65535",
        ] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in [
            "",
            "host",
            ":7873",
            "host:",
            "host:0",
            "host:65536",
            "::1:9",
            "host:x",
        ] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }

    #[test]
    fn names_that_are_no_text_come_back_as_they_were() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'f', 0xff, b'.']);
        let args = [odd.clone(), "-d".into(), odd.clone(), "plain".into()];
        let parsed = parse(common(), &[], &args).expect("parsed");
        assert_eq!(parsed.files(), [PathBuf::from(odd.clone()), "plain".into()]);
        assert_eq!(parsed.path("dir"), Some(odd.into()));
        let attached = OsString::from_vec(b"--dir=\xff".to_vec());
        assert!(
            parse(common(), &[], &[attached]).is_err(),
            "and is not taken for a file"
        );
    }

    #[test]
    fn options_of_later_versions_are_refused_by_name() {
        for arg in ["--json", "--keep=30d", "--secret=x"] {
            let failure = parse(common(), &[], &[arg.into()]);
            let failure = failure.err().expect("refused");
            assert!(
                failure.message.contains("not available in this version"),
                "{failure}"
            );
        }
        let mut options = common();
        options.optflag("", "json", "");
        let parsed = parse(options, &["json"], &["--json".into()]).expect("it has that");
        assert!(parsed.matches.opt_present("json"));
    }
}
