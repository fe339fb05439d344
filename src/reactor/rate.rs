//! A limit to how fast bytes pass: a bucket that fills at the rate, and from which what passes is taken.

use crate::time::Instant;
use std::time::Duration;

/// Part of a second's bytes that may pass at once, after a pause: of 10 s that is a fortieth. A busy machine may leave the
/// loop alone for as long.
const BURSTS_PER_SECOND: u64 = 4;

/// Bytes for which it is worth while to wake up, as parts of a second's.
const STEPS_PER_SECOND: u64 = 50;

/// The rate of one direction.
pub struct Rate {
    /// Bytes a second; `None` for as many as can.
    limit: Option<u64>,
    /// Bytes that may pass now; negative after more have passed than might.
    level: i64,
    /// What has been filled in, up to this time.
    at: Instant,
}

impl Rate {
    /// An empty bucket.
    pub fn new(now: Instant, limit: Option<u64>) -> Rate {
        let mut rate = Rate {
            limit: None,
            level: 0,
            at: now,
        };
        rate.set_limit(now, limit);
        rate
    }

    /// From now on so many bytes a second may pass, at least one.
    pub fn set_limit(&mut self, now: Instant, limit: Option<u64>) {
        self.limit = limit.map(|limit| limit.clamp(1, i64::MAX as u64 / 1_000_000_000));
        self.at = now;
        self.level = 0;
    }

    fn burst(&self) -> i64 {
        self.limit
            .map_or(0, |limit| limit.div_ceil(BURSTS_PER_SECOND) as i64)
    }

    /// Bytes that may pass now: none before it is worth while.
    pub fn allowance(&mut self, now: Instant) -> usize {
        let Some(limit) = self.limit else {
            return usize::MAX;
        };
        let limit = u128::from(limit);
        let filled = limit * now.since(self.at).as_nanos() / 1_000_000_000;
        // Whole bytes only: the time of what is left stays to be filled in.
        let nanos = filled * 1_000_000_000 / limit;
        self.at = self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let filled = i64::try_from(filled).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(filled).min(self.burst());
        match self.level >= self.step() {
            true => usize::try_from(self.level).unwrap_or(usize::MAX),
            false => 0,
        }
    }

    /// Bytes for which it is worth while.
    fn step(&self) -> i64 {
        let step = |limit: u64| limit.div_ceil(STEPS_PER_SECOND) as i64;
        self.limit.map_or(0, step)
    }

    /// So many bytes have passed, whether or not they might.
    pub fn pass(&mut self, bytes: usize) {
        if self.limit.is_some() {
            self.level = self.level.saturating_sub_unsigned(bytes as u64);
        }
    }

    /// When some more may pass; `None` if there is no limit.
    pub fn next_step(&self) -> Option<Instant> {
        let limit = self.limit?;
        let lacking = (self.step() - self.level).max(1) as u64;
        let nanos = u128::from(lacking) * 1_000_000_000 / u128::from(limit);
        Some(self.at + Duration::from_nanos(nanos.min(u128::from(u64::MAX)) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass in so many seconds where as many as may pass do, in turns of so long.
    fn passed(rate: &mut Rate, from: Instant, secs: u64, turn: Duration) -> u64 {
        let (mut now, mut sum) = (from, 0);
        while now.since(from) < Duration::from_secs(secs) {
            let some = rate.allowance(now);
            rate.pass(some);
            sum += some as u64;
            now = now + turn;
        }
        sum
    }

    #[test]
    fn rate_is_kept_whatever_the_turns() {
        let start = Instant::since_epoch(Duration::from_secs(1_000_000));
        for limit in [100, 12_345, 1_000_000, 300 << 20] {
            for turn in [Duration::from_micros(70), Duration::from_millis(19)] {
                let mut rate = Rate::new(start, Some(limit));
                let sum = passed(&mut rate, start, 10, turn);
                let off = sum.abs_diff(10 * limit) as f64 / (10 * limit) as f64;
                assert!(off < 0.03, "{sum} of {limit} at {turn:?}");
            }
        }
    }

    #[test]
    fn what_passes_unasked_is_owed() {
        let start = Instant::since_epoch(Duration::from_secs(1_000_000));
        let mut rate = Rate::new(start, Some(1000));
        rate.pass(1100);
        assert_eq!(rate.allowance(start), 0);
        let next = rate.next_step().expect("there is a limit");
        assert!(next.since(start) >= Duration::from_millis(1100));
        assert!(rate.allowance(next) >= 20);
        let mut free = Rate::new(start, None);
        free.pass(usize::MAX);
        assert_eq!(
            (free.allowance(start), free.next_step()),
            (usize::MAX, None)
        );
        free.set_limit(start, Some(10));
        let later = start + Duration::from_secs(1);
        assert_eq!((free.allowance(start), free.allowance(later)), (0, 3));
    }
}
