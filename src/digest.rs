//! Digests of sets of blocks: how many there are, and the sum of a keyed hash over each.
//!
//! Digests of disjoint sets add up to that of both together. Without the key nobody finds two sets with the same sum;
//! and since whoever compares compares only what one peer says now with what it said before, the key need not be known
//! to anybody else.

use sha2::{Digest as _, Sha256};
use std::iter::Sum;
use std::ops::AddAssign;

/// A set of blocks, as one number and its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// Blocks in it; the largest number stands for more.
    pub count: u32,
    /// Sum of their hashes, modulo 2^128.
    pub sum: u128,
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Digest) {
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Sum for Digest {
    fn sum<I: Iterator<Item = Digest>>(digests: I) -> Digest {
        digests.fold(Digest::default(), |mut all, digest| {
            all += digest;
            all
        })
    }
}

/// What makes the hashes of one peer its own.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// The key that follows from a secret.
    pub fn new(secret: &[u8]) -> DigestKey {
        let mut hasher = Sha256::new();
        hasher.update(b"strew digest");
        hasher.update(secret);
        DigestKey(hasher.finalize().into())
    }

    /// The hash of the block at a place: one compression of SHA-256.
    pub fn hash(&self, place: u64) -> u128 {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(place.to_be_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        u128::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_add_up_and_keys_differ() {
        let key = DigestKey::new(b"one");
        let digest = |places: &[u64]| -> Digest {
            let each = places.iter().map(|&place| Digest {
                count: 1,
                sum: key.hash(place),
            });
            each.sum()
        };
        let mut sum = digest(&[1, 2]);
        sum += digest(&[3]);
        assert_eq!(sum, digest(&[3, 1, 2]));
        assert_ne!(digest(&[1, 2]), digest(&[1, 3]));
        assert_ne!(DigestKey::new(b"two").hash(1), key.hash(1));
        assert_eq!(key.clone().hash(1), key.hash(1));
    }
}
