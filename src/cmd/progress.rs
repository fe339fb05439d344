//! One line on standard error that says how far a command is, redrawn in place; with `--json` an object now and then.

use super::json::Object;
use super::options::{Common, Progress};
use super::voice::{is_json, write_line};
use crate::sys;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How often the line is redrawn at most.
const PERIOD: Duration = Duration::from_millis(100);

/// How often there is an object at most.
const JSON_PERIOD: Duration = Duration::from_secs(1);

/// The rate is that of so long, at least, and at most twice as long.
const RATE_OVER: Duration = Duration::from_secs(3);

/// Columns of a terminal that does not say how wide it is.
const WIDTH_DEFAULT: usize = 80;

/// The line, if it is shown at all.
pub struct Line {
    shown: bool,
    drawn: Option<Instant>,
    name: String,
    /// How far it was when a span of time for the rate began, and when the span after that.
    marks: [(Instant, u64); 2],
    /// Columns that are written on, of a terminal that cannot clear them.
    written: usize,
    /// Whether the terminal can clear a line (and is not TERM=dumb).
    can_clear: bool,
}

impl Line {
    /// A line for what this name stands for.
    pub fn new(common: &Common, name: &str) -> Line {
        let shown = match common.progress {
            Progress::Always => true,
            Progress::Never => false,
            Progress::Auto if common.quiet => false,
            Progress::Auto => is_json() || io::stderr().is_terminal(),
        };
        Line {
            shown,
            drawn: None,
            name: name.to_string(),
            marks: [(Instant::now(), 0); 2],
            written: 0,
            can_clear: env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    /// Draws the line again if it is time: so many bytes of so many, if that is known, and what else there is.
    pub fn update(&mut self, done: u64, total: Option<u64>, more: &str) {
        let now = Instant::now();
        let period = if is_json() { JSON_PERIOD } else { PERIOD };
        let is_time = self.drawn.is_none_or(|drawn| now - drawn >= period);
        if !self.shown || !is_time {
            return;
        }
        self.drawn = Some(now);
        let rate = self.rate(now, done);
        let left = total
            .filter(|_| rate > 0)
            .map(|total| Duration::from_secs(total.saturating_sub(done) / rate.max(1)));
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
        self.draw(&format!(
            "{}: {done}{total}, {rate}/s{left}{more}",
            self.name
        ));
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

    /// The terminal's last line becomes this, cut to its width.
    fn draw(&mut self, text: &str) {
        let stderr = io::stderr();
        // In the last column the cursor would go to the next line.
        let width = sys::terminal_width(stderr.as_raw_fd()).unwrap_or(WIDTH_DEFAULT) - 1;
        let text: String = text.chars().take(width).collect();
        let len = text.chars().count();
        // A terminal that is gone is not worth failing for.
        let _ = match self.can_clear {
            true => write!(&stderr, "\r\x1b[K{text}"),
            false => write!(
                &stderr,
                "\r{text}{:1$}",
                "",
                self.written.saturating_sub(len)
            ),
        };
        self.written = len;
    }

    /// Takes the line away, so that something else can be said.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() && !is_json() {
            self.draw("");
            let _ = write!(io::stderr(), "\r");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
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
    fn rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut line = Line {
            shown: true,
            drawn: None,
            name: String::new(),
            marks: [(start, 0); 2],
            written: 0,
            can_clear: true,
        };
        let mut done = 0;
        for tenths in 1..=200 {
            done += if tenths <= 100 { 1000 } else { 100 };
            let rate = line.rate(start + Duration::from_millis(100 * tenths), done);
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
    }
}
