//! How many bytes have passed, in all and lately, in constant memory.

use crate::time::Instant;
use std::time::Duration;

/// Seconds over which a rate is taken, the one that has begun included.
const SECONDS: u64 = 10;

/// Counts what passes in one direction.
pub struct Meter {
    /// Bytes since it began.
    total: u64,
    /// Bytes of single seconds since the epoch, each at its number modulo [`SECONDS`].
    seconds: [u64; SECONDS as usize],
    /// The last of those seconds.
    last: u64,
    since: Instant,
}

impl Meter {
    /// Nothing has passed yet.
    pub fn new(now: Instant) -> Meter {
        Meter {
            total: 0,
            seconds: [0; SECONDS as usize],
            last: now.as_secs(),
            since: now,
        }
    }

    /// So many bytes pass.
    pub fn pass(&mut self, now: Instant, bytes: usize) {
        let second = now.as_secs().max(self.last);
        let begun = (second - self.last).min(SECONDS);
        for second in second + 1 - begun..=second {
            self.seconds[(second % SECONDS) as usize] = 0;
        }
        self.last = second;
        self.seconds[(second % SECONDS) as usize] += bytes as u64;
        self.total += bytes as u64;
    }

    /// Bytes that have passed since it began.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a second over the last 9 to 10 seconds, or since it began, if that is less.
    pub fn per_second(&self, now: Instant) -> u64 {
        let first = (now.as_secs() + 1).saturating_sub(SECONDS);
        let kept = (self.last + 1).saturating_sub(SECONDS);
        let seconds = first.max(kept)..=self.last;
        let sum: u64 = seconds
            .map(|second| self.seconds[(second % SECONDS) as usize])
            .sum();
        let since = self
            .since
            .max(Instant::since_epoch(Duration::from_secs(first)));
        let span = now.since(since).max(Duration::from_secs(1));
        (sum as f64 / span.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::since_epoch(Duration::from_millis(1_000_000_400 + millis))
    }

    #[test]
    fn rate_is_that_of_the_last_ten_seconds() {
        let mut meter = Meter::new(at(0));
        assert_eq!(meter.per_second(at(0)), 0);
        for tenth in 0..300 {
            let bytes = if tenth < 150 { 1000 } else { 200 };
            meter.pass(at(100 * tenth), bytes);
            let rate = meter.per_second(at(100 * tenth + 99));
            match tenth {
                10..150 => assert!((9_900..=10_200).contains(&rate), "{tenth}: {rate}"),
                250.. => assert!((1_980..=2_040).contains(&rate), "{tenth}: {rate}"),
                _ => {}
            }
        }
        assert_eq!(meter.total(), 150 * 1000 + 150 * 200);
        let left = meter.per_second(at(34_000));
        assert!((1_000..1_300).contains(&left), "{left}");
        assert_eq!(meter.per_second(at(40_000)), 0);
        meter.pass(at(1_000_000), 50);
        assert_eq!(meter.per_second(at(1_000_000)), 50 * 10 / 94);
    }

    #[test]
    fn what_has_just_begun_is_not_taken_for_a_rate() {
        let mut meter = Meter::new(at(0));
        meter.pass(at(1), 5000);
        assert_eq!(meter.per_second(at(2)), 5000);
        assert_eq!(meter.per_second(at(2000)), 2500);
    }
}
