//! One line on standard error that says how far a command is, redrawn in place; with `--json` an object now and then.

use super::json::Object;
use super::options::{Common, Progress};
use super::voice::{is_json, write_at_once, write_line};
use crate::listing::printable;
use crate::sys;
use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the line is redrawn at most.
const PERIOD: Duration = Duration::from_millis(100);

/// How often there is an object at most.
const JSON_PERIOD: Duration = Duration::from_secs(1);

/// The rate is that of so long, at least, and at most twice as long.
const RATE_OVER: Duration = Duration::from_secs(3);

/// How long the rest takes is said once the rate is that of so long.
const LEFT_AFTER: Duration = Duration::from_secs(1);

/// Columns of a terminal that does not say how wide it is.
const WIDTH_DEFAULT: usize = 80;

/// Columns that a name gets at least, if it is so long: what is said of it is worth more.
const NAME_COLUMNS: usize = 16;

/// When a line was drawn last, whichever: of many small files each has one of its own.
static DRAWN: Mutex<Option<Instant>> = Mutex::new(None);

/// Columns of the line that stands at the cursor; 0 if none does.
static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// The line, if it is shown at all.
pub struct Line {
    wanted: bool,
    name: String,
    /// How far it was when a span of time for the rate began, and when the span after that.
    marks: [(Instant, u64); 2],
}

impl Line {
    /// A line for what this name stands for.
    pub fn new(common: &Common, name: &str) -> Line {
        let wanted = match common.progress {
            Progress::Always => true,
            Progress::Never => false,
            Progress::Auto if common.quiet => false,
            Progress::Auto => is_json() || io::stderr().is_terminal(),
        };
        Line {
            wanted,
            name: name.to_string(),
            marks: [(Instant::now(), 0); 2],
        }
    }

    /// The same where the terminal gets the data as well, which a line would wipe away: only if it was asked for.
    pub fn beside_data(common: &Common, name: &str) -> Line {
        let mut line = Line::new(common, name);
        line.wanted &= is_json() || common.progress == Progress::Always;
        line
    }

    /// Draws the line again if it is time: so many bytes of so many, if that is known, and what else there is.
    pub fn update(&mut self, done: u64, total: Option<u64>, more: &str) {
        if !self.wanted || !is_time() {
            return;
        }
        let now = Instant::now();
        let rate = self.rate(now, done);
        let left = total.and_then(|total| self.left(now, rate, total.saturating_sub(done)));
        if is_json() {
            let object = Object::new("progress")
                .text("name", &self.name)
                .number("bytes", done)
                .number_or_null("total", total)
                .number("bytes_per_second", rate)
                .number_or_null("seconds_left", left.map(|left| left.as_secs()));
            return write_line(&object.text("state", more.trim_start_matches(", ")));
        }
        let total = total
            .map(|total| format!(" of {}", human(total)))
            .unwrap_or_default();
        let left = left
            .filter(|left| !left.is_zero())
            .map(|left| format!(", {} left", clock(left)))
            .unwrap_or_default();
        let (done, rate) = (human(done), human(rate));
        let name = printable(self.name.as_bytes());
        let rate = format!(", {rate}/s");
        let columns = columns();
        let parts = [&format!(": {done}"), &total, &rate, &left, more];
        draw(&fit(&name, parts, columns), columns);
    }

    /// What has been done so far says nothing of the rate from now on.
    pub fn restart(&mut self, done: u64) {
        self.marks = [(Instant::now(), done); 2];
    }

    /// Bytes a second, lately.
    fn rate(&mut self, now: Instant, done: u64) -> u64 {
        // What was there at the start, or is done once more, was not done in this time.
        if done < self.marks[0].1 {
            self.marks = [(now, done); 2];
        }
        if now - self.marks[1].0 >= RATE_OVER {
            self.marks = [self.marks[1], (now, done)];
        }
        let (since, before) = self.marks[0];
        let span = (now - since).as_secs_f64().max(0.1);
        ((done - before) as f64 / span) as u64
    }

    /// How long the rest takes at this rate; `None` as long as that is a guess.
    fn left(&self, now: Instant, rate: u64, rest: u64) -> Option<Duration> {
        let is_known = now - self.marks[0].0 >= LEFT_AFTER && rate > 0;
        is_known.then(|| Duration::from_secs(rest / rate))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        clear();
    }
}

/// Takes the line away that stands at the cursor, if one does, so that something else can be said.
pub fn clear() {
    if SHOWN.load(Ordering::Relaxed) > 0 {
        draw("", columns());
        write_at_once("\r");
    }
}

/// Columns that may be written on: in the last one the cursor would go to the next line.
fn columns() -> usize {
    sys::terminal_width(io::stderr().as_raw_fd()).unwrap_or(WIDTH_DEFAULT) - 1
}

/// The terminal's last line becomes this, which is at most so many columns wide.
fn draw(text: &str, columns: usize) {
    let shown = columns_of(text);
    let before = SHOWN.swap(shown, Ordering::Relaxed);
    match can_clear() {
        true => write_at_once(&format!("\r\x1b[K{text}")),
        false => {
            let rest = before.min(columns).saturating_sub(shown);
            write_at_once(&format!("\r{text}{:rest$}", ""));
        }
    }
}

/// Whether the terminal can clear a line, and may be told to.
fn can_clear() -> bool {
    let is_set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
    is_set("TERM").is_some_and(|term| term != "dumb") && is_set("NO_COLOR").is_none()
}

/// Whether a line, whichever, may be drawn again; then it is taken for drawn.
fn is_time() -> bool {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let period = if is_json() { JSON_PERIOD } else { PERIOD };
    let now = Instant::now();
    if drawn.is_some_and(|drawn| now - drawn < period) {
        return false;
    }
    *drawn = Some(now);
    true
}

/// Columns that a text takes at most: what is not ASCII may take two.
fn columns_of(text: &str) -> usize {
    text.chars().map(columns_of_char).sum()
}

fn columns_of_char(letter: char) -> usize {
    if letter.is_ascii() {
        1
    } else {
        2
    }
}

/// As much of a text as fits so many columns.
fn cut(text: &str, columns: usize) -> &str {
    let mut left = columns;
    let fits = |letter: char| {
        let more = left.checked_sub(columns_of_char(letter));
        left = more.unwrap_or(0);
        more.is_none()
    };
    &text[..text.find(fits).unwrap_or(text.len())]
}

/// A name and what is said of it in so many columns. First it is the name that is cut; then the rate is left out, the
/// time and the total, for what is waited for comes last and matters most; then the rest is cut.
fn fit(name: &str, mut parts: [&str; 5], columns: usize) -> String {
    let least = columns_of(name).min(NAME_COLUMNS);
    for part in [2, 3, 1] {
        if least + columns_of(&parts.concat()) > columns {
            parts[part] = "";
        }
    }
    let rest = parts.concat();
    let room = columns.saturating_sub(columns_of(&rest)).max(NAME_COLUMNS);
    let name = match columns_of(name) <= room {
        true => name.to_string(),
        false => format!("{}..", cut(name, room - 2)),
    };
    cut(&format!("{name}{rest}"), columns).to_string()
}

/// Bytes as people read them, in powers of 1024.
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// So many of something.
pub fn count(number: u64, what: &str) -> String {
    match (number, what) {
        (1, _) => format!("1 {what}"),
        (_, "copy") => format!("{number} copies"),
        _ => format!("{number} {what}s"),
    }
}

/// A time as people read it.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes}:{:02}", seconds % 60),
        (0, hours, minutes) => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        (days, ..) => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_a_readable_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1_073_700_000, "1.0 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(human(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_readable() {
        let cases = [
            (59, "59 s"),
            (60, "1:00"),
            (3725, "1:02:05"),
            (200_000, "2 days"),
        ];
        for (seconds, text) in cases {
            assert_eq!(clock(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn line_fits_its_columns_and_what_is_waited_for_is_cut_last() {
        let name = "photographs/of/the/sea.tar";
        let parts = [
            ": 1.0 MiB",
            " of 2.0 MiB",
            ", 9 B/s",
            ", 3 s left",
            ", waiting",
        ];
        let cases = [
            (
                90,
                "photographs/of/the/sea.tar: 1.0 MiB of 2.0 MiB, 9 B/s, 3 s left, waiting",
            ),
            (
                65,
                "photographs/of/th..: 1.0 MiB of 2.0 MiB, 9 B/s, 3 s left, waiting",
            ),
            (
                60,
                "photographs/of/the/..: 1.0 MiB of 2.0 MiB, 3 s left, waiting",
            ),
            (50, "photographs/of/the/..: 1.0 MiB of 2.0 MiB, waiting"),
            (40, "photographs/of/the/s..: 1.0 MiB, waiting"),
            (30, "photographs/of..: 1.0 MiB, wai"),
            (5, "photo"),
            (0, ""),
        ];
        for (columns, text) in cases {
            assert_eq!(fit(name, parts, columns), text, "{columns}");
        }
        let name = "\u{6d77}".repeat(40);
        for columns in 0..130 {
            assert!(columns_of(&fit(&name, parts, columns)) <= columns);
        }
    }

    #[test]
    fn rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut line = Line {
            wanted: true,
            name: String::new(),
            marks: [(start, 0); 2],
        };
        let mut done = 0;
        for tenths in 1..=200 {
            done += if tenths <= 100 { 1000 } else { 100 };
            let rate = line.rate(start + Duration::from_millis(100 * tenths), done);
            let left = line.left(start + Duration::from_millis(100 * tenths), rate, 99_000);
            assert_eq!(left.is_some(), tenths >= 10, "{tenths}: {left:?}");
            match tenths {
                10..=100 => assert!((9_900..=10_100).contains(&rate), "{tenths}: {rate}"),
                165..=200 => assert!((990..=1010).contains(&rate), "{tenths}: {rate}"),
                _ => {}
            }
        }
        assert_eq!(
            line.rate(start + Duration::from_secs(21), 0),
            0,
            "it began anew"
        );
        line.restart(1 << 30);
        let rate = line.rate(Instant::now() + Duration::from_secs(2), (1 << 30) + 2000);
        assert!(
            (900..=1000).contains(&rate),
            "what was found is not in it: {rate}"
        );
    }
}
