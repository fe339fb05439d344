//! What a user is given for a file and gives back to fetch it: `ADDRESS`, or `ADDRESS.KEY` if it is encrypted.
//!
//! Only the text and its two parts; whether a key belongs to the address is known when the root is read
//! (see [`super::decode`]). Called by the command line.

use super::cipher::BlockKey;
use crate::id::{hex, unhex32, BlockId};
use std::fmt;
use std::str::FromStr;

/// Hexadecimal digits of the address, and as many of the key.
const DIGITS: usize = 64;

/// Where a file is found, and what it is read with. Written as 64 hexadecimal digits of the root's address,
/// followed for encrypted content by a full stop and 64 digits of the root's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The root block.
    pub id: BlockId,
    /// The root's key; `None` for plain content, or if only walking is wanted.
    pub key: Option<BlockKey>,
}

/// Half of an address, for the user's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What stands before the full stop.
    Address,
    /// What stands after it.
    Key,
}

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressError {
    /// This part has so many characters instead of 64.
    Length(Part, usize),
    /// This part holds a character that is no hexadecimal digit.
    Digit(Part, char),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Address => "address",
            Part::Key => "key",
        })
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::Length(part, found) => write!(f, "the {part} has {found} characters")?,
            AddressError::Digit(part, found) => {
                write!(f, "{found:?} in the {part} is no hexadecimal digit")?;
            }
        }
        write!(
            f,
            " (ADDRESS and KEY have {DIGITS} hexadecimal digits each)"
        )
    }
}

impl std::error::Error for AddressError {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match &self.key {
            Some(key) => write!(f, ".{}", hex(&key.0)),
            None => Ok(()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads digits of either case; white space is the caller's to remove.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        let (id, key) = match text.split_once('.') {
            Some((id, key)) => (id, Some(key)),
            None => (text, None),
        };
        let id = BlockId(parse_part(Part::Address, id)?);
        let key = match key {
            Some(key) => Some(BlockKey(parse_part(Part::Key, key)?)),
            None => None,
        };
        Ok(Address { id, key })
    }
}

/// A wrong character is named before a wrong length: it is the likelier cause of both.
fn parse_part(part: Part, text: &str) -> Result<[u8; 32], AddressError> {
    if let Some(found) = text.chars().find(|digit| !digit.is_ascii_hexdigit()) {
        return Err(AddressError::Digit(part, found));
    }
    unhex32(text).ok_or(AddressError::Length(part, text.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn address_is_read_back_as_written() {
        let id = BlockId([0xab; 32]);
        for key in [None, Some(BlockKey([0x01; 32]))] {
            let address = Address { id, key };
            let text = address.to_string();
            assert_eq!(text.parse(), Ok(address));
            assert_eq!(text.to_uppercase().parse(), Ok(address));
        }
        let text = Address { id, key: None }.to_string();
        assert_eq!(text, "ab".repeat(32));
    }

    #[test]
    fn error_names_the_part_and_the_fault() {
        let half = "0".repeat(64);
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(error(""), AddressError::Length(Part::Address, 0));
        assert_eq!(error(&half[1..]), AddressError::Length(Part::Address, 63));
        assert_eq!(
            error(&format!("{half}.")),
            AddressError::Length(Part::Key, 0)
        );
        assert_eq!(
            error(&format!("{half}.{half}0")),
            AddressError::Length(Part::Key, 65)
        );
        assert_eq!(
            error(&format!("{half}.{half}.{half}")),
            AddressError::Digit(Part::Key, '.')
        );
        assert_eq!(
            error(&format!("{half} ")),
            AddressError::Digit(Part::Address, ' ')
        );
        assert_eq!(
            error(&"é".repeat(32)),
            AddressError::Digit(Part::Address, 'é')
        );
    }
}
