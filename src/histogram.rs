//! A histogram of spans in constant memory: log-linear, so that what it says is at most an eighth too much.

use std::time::Duration;

/// Buckets to each doubling, as a power of two.
const LINEAR_BITS: u32 = 3;

/// Doublings that are told apart: up to 2^32 microseconds, more than an hour; what is longer counts as that.
const DOUBLINGS: usize = 32;

const BUCKETS: usize = DOUBLINGS << LINEAR_BITS;

/// How often spans of which length have come, in whole microseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    longest: Duration,
}

impl Default for Histogram {
    /// None has come.
    fn default() -> Histogram {
        Histogram {
            counts: Box::new([0; BUCKETS]),
            longest: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// One more span.
    pub fn add(&mut self, span: Duration) {
        self.longest = self.longest.max(span);
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
    }

    /// The longest span.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// How long a span is that a part of all, from 0 to 1, do not exceed; never less than that, and at most an eighth
    /// more. Zero if none has come.
    pub fn quantile(&self, part: f64) -> Duration {
        let total: u64 = self.counts.iter().sum();
        let mut left = (total as f64 * part).ceil() as u64;
        for (nth, &count) in self.counts.iter().enumerate() {
            if count > 0 && count >= left {
                return Duration::from_micros(last_of(nth)).min(self.longest);
            }
            left -= count;
        }
        self.longest
    }
}

/// Below the first doubling that has all its buckets, each microsecond has one of its own.
fn bucket(micros: u64) -> usize {
    let doubling = (micros | 1 << LINEAR_BITS).ilog2() - LINEAR_BITS;
    let nth = (doubling << LINEAR_BITS) as u64 + (micros >> doubling);
    (nth as usize).min(BUCKETS - 1)
}

/// The most that a bucket counts.
fn last_of(bucket: usize) -> u64 {
    let doubling = (bucket >> LINEAR_BITS).saturating_sub(1);
    let nth = bucket as u64 - ((doubling as u64) << LINEAR_BITS);
    ((nth + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_microsecond_has_a_bucket_that_ends_soon_after_it() {
        let mut before = 0;
        let near = (0..40).flat_map(|shift| (0..64).map(move |n| (1u64 << shift) + n));
        let mut all: Vec<u64> = near.chain(0..5000).collect();
        all.sort_unstable();
        for micros in all {
            let nth = bucket(micros);
            assert!(nth >= before, "{micros}");
            before = nth;
            if nth < BUCKETS - 1 {
                let last = last_of(nth);
                assert!(
                    micros <= last && last - micros <= micros / 8,
                    "{micros} {last}"
                );
                assert_eq!(bucket(last), nth);
                assert_eq!(bucket(last + 1), nth + 1);
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list_but_for_an_eighth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        for n in 1..=1000 {
            histogram.add(Duration::from_micros(n));
        }
        for (part, exact) in [(0.0, 1), (0.5, 500), (0.99, 990), (1.0, 1000)] {
            let told = histogram.quantile(part).as_micros();
            assert!(
                (exact..=exact + exact / 8).contains(&told),
                "{part}: {told}"
            );
        }
        histogram.add(Duration::from_secs(1 << 40));
        assert_eq!(histogram.longest(), Duration::from_secs(1 << 40));
        assert_eq!(
            histogram.quantile(1.0),
            Duration::from_micros(last_of(BUCKETS - 1))
        );
    }
}
