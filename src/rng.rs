//! Random numbers from a seed: the ChaCha20 key stream. The same seed gives the same numbers, which is what
//! the simulator needs; without the seed nobody guesses the next, which is what transaction ids need.

use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::ChaCha20;
use std::time::Duration;

/// Bytes taken from one key stream before the next 32 become a new seed: far below the 256 GiB at which the
/// 32-bit block counter of ChaCha20 (RFC 8439, section 2.4) would repeat.
const RESEED_BYTES: u64 = 1 << 30;

/// A stream of random numbers, wholly decided by its seed.
pub struct Rng {
    stream: ChaCha20,
    /// Bytes drawn since the last seed.
    drawn: u64,
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: [u8; 32]) -> Rng {
        Rng {
            stream: ChaCha20::new(&seed.into(), &[0; 12].into()),
            drawn: 0,
        }
    }

    /// The next N bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        if self.drawn >= RESEED_BYTES {
            let mut seed = [0; 32];
            self.stream.apply_keystream(&mut seed);
            *self = Rng::new(seed);
        }
        self.drawn += N as u64;
        let mut bytes = [0; N];
        self.stream.apply_keystream(&mut bytes);
        bytes
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// A number below `end`, which is not zero. The bias is below `end` / 2^64.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is a number to choose");
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// A span between half and one and a half of `span`: timers set with it do not fall into step.
    pub fn jitter(&mut self, span: Duration) -> Duration {
        let micros = span.as_micros() as u64;
        Duration::from_micros(micros / 2 + self.below(micros.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let draw = |seed| {
            (0..9)
                .map(|_| Rng::new([seed; 32]).next_u64())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn below_stays_below_and_reaches_every_number() {
        let mut rng = Rng::new([7; 32]);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
