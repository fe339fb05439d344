//! Places in the 256-bit id space: nodes, blocks, and the XOR distance between them.
//!
//! A [`NodeId`] is no [`BlockId`]; both are a [`Point`] where only the place matters. Called by everything.

use sha2::{Digest, Sha256};
use std::fmt;

/// A place in the 256-bit id space, whatever is there. 32 bytes, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point(pub [u8; 32]);

/// The XOR distance between two points, compared as a 256-bit number: the upper half, and the lower. As numbers, since
/// all sorting of contacts compares these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance(u128, u128);

/// Who a node is: the SHA-256 of its [`NodeKey`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A block's address: the SHA-256 over its kind and payload (see [`crate::block::Block`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub [u8; 32]);

/// The 32 bytes from which a node's id is made. Random for now; the place where a public key will stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; 32]);

impl NodeKey {
    /// The id that belongs to this key.
    pub fn id(&self) -> NodeId {
        NodeId(Sha256::digest(self.0).into())
    }
}

impl Point {
    /// XOR distance to another point.
    pub fn distance(&self, other: &Point) -> Distance {
        let ((a, b), (c, d)) = (self.halves(), other.halves());
        Distance(a ^ c, b ^ d)
    }

    fn halves(&self) -> (u128, u128) {
        let half = |at| u128::from_be_bytes(std::array::from_fn(|i| self.0[at + i]));
        (half(0), half(16))
    }

    /// Length in bits of the common prefix with another point; 256 if they are the same.
    pub fn common_prefix(&self, other: &Point) -> usize {
        self.distance(other).leading_zeros()
    }
}

impl Distance {
    /// Number of leading zero bits, 256 for the distance of a point to itself.
    pub fn leading_zeros(&self) -> usize {
        match self.0 {
            0 => 128 + self.1.leading_zeros() as usize,
            upper => upper.leading_zeros() as usize,
        }
    }
}

impl From<NodeId> for Point {
    fn from(id: NodeId) -> Point {
        Point(id.0)
    }
}

impl From<BlockId> for Point {
    fn from(id: BlockId) -> Point {
        Point(id.0)
    }
}

/// Lower-case hexadecimal of any bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// The 32 bytes written as exactly 64 hexadecimal digits, of either case; `None` for anything else.
pub fn unhex32(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

/// Ids are written whole for the user (`Display`) and as their first 8 digits in the log (`Debug`).
macro_rules! hex_formats {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0[..4]))
            }
        }
    )*};
}
hex_formats!(Point, NodeId, BlockId, NodeKey);

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefix_counts_leading_bits_only() {
        let mut a = [0u8; 32];
        let zero = Point(a);
        assert_eq!(zero.common_prefix(&zero), 256);
        a[31] = 1;
        assert_eq!(zero.common_prefix(&Point(a)), 255);
        a[1] = 0x10;
        assert_eq!(zero.common_prefix(&Point(a)), 11, "later bits do not count");
        a[0] = 0x80;
        assert_eq!(zero.common_prefix(&Point(a)), 0);
    }

    #[test]
    fn hex_is_read_back_and_nothing_else_is_taken() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 9) as u8);
        assert_eq!(unhex32(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex32(&hex(&bytes).to_uppercase()), Some(bytes));
        assert_eq!(unhex32(&hex(&bytes)[1..]), None);
        assert_eq!(unhex32(&format!("{}+", &hex(&bytes)[..63])), None);
        assert_eq!(unhex32(&"é".repeat(32)), None);
    }
}
