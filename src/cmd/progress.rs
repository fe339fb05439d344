//! One line on standard error that says how far a command is, redrawn in place.

use super::options::{Common, Progress};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line is redrawn at most.
const PERIOD: Duration = Duration::from_millis(100);

/// The line, if it is shown at all.
pub struct Line {
    shown: bool,
    drawn: Option<Instant>,
    started: Instant,
    name: String,
}

impl Line {
    /// A line for what this name stands for.
    pub fn new(common: &Common, name: &str) -> Line {
        let shown = match common.progress {
            Progress::Always => true,
            Progress::Never => false,
            Progress::Auto => !common.quiet && io::stderr().is_terminal(),
        };
        Line {
            shown,
            drawn: None,
            started: Instant::now(),
            name: name.to_string(),
        }
    }

    /// Draws the line again if it is time: so many bytes of so many, if that is known, and what else there is.
    pub fn update(&mut self, done: u64, total: Option<u64>, more: &str) {
        if !self.shown || self.drawn.is_some_and(|drawn| drawn.elapsed() < PERIOD) {
            return;
        }
        self.drawn = Some(Instant::now());
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let total = total
            .map(|total| format!(" of {}", human(total)))
            .unwrap_or_default();
        let text = format!(
            "{}: {}{total}, {}/s{more}",
            self.name,
            human(done),
            human(rate as u64)
        );
        // A terminal that is gone is not worth failing for.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }

    /// Takes the line away, so that something else can be said.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
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
}
