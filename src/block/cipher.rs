//! Keys of blocks, and the encryption with them.
//!
//! Convergent: a block's key is the hash of its plaintext, so that the same content is the same blocks
//! whoever shares it. Says nothing of where in a payload the encrypted part begins; that is [`super::tree`]'s.
//! Called by the encoder and the decoder, thus only in clients: keys never leave them.

use super::{Form, Kind};
use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::ChaCha20;
use sha2::{Digest, Sha256};
use std::fmt;

/// What every hash for a key begins with, so that no other hash of strew can be a key.
const KEY_LABEL: &[u8] = b"strew key 1";

/// The key of one encrypted block: 32 bytes for ChaCha20.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockKey(pub [u8; 32]);

/// What goes into every key beside the content: 32 bytes. All zero means that equal content has equal keys,
/// for everybody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// The secret that is none.
    pub const NONE: Secret = Secret([0; 32]);
}

/// A log is no place for keys.
impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockKey(..)")
    }
}

/// A log is no place for secrets.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The key of a block: the SHA-256 over "strew key 1", the secret, the kind's byte, and the whole payload as
/// it is before any of it is encrypted. Hashes the payload once.
pub fn key_of(secret: &Secret, kind: Kind, plaintext: &[u8]) -> BlockKey {
    let mut hash = Sha256::new();
    hash.update(KEY_LABEL);
    hash.update(secret.0);
    hash.update([kind.to_byte()]);
    hash.update(plaintext);
    BlockKey(hash.finalize().into())
}

/// Encrypts, or decrypts, these bytes in place: ChaCha20 (RFC 8439, section 2.4), its nonce and first counter
/// zero. A nonce need not differ where a key is used for one plaintext only, whose hash it is.
pub fn apply(key: &BlockKey, bytes: &mut [u8]) {
    ChaCha20::new(&key.0.into(), &[0; 12].into()).apply_keystream(bytes);
}

/// Makes a plaintext payload, in place, the payload of a block of this kind: encrypts what follows its first
/// `clear` bytes and returns the key, or leaves it as it is if the kind is plain.
pub fn seal(secret: &Secret, kind: Kind, payload: &mut [u8], clear: usize) -> Option<BlockKey> {
    if kind.form == Form::Plain {
        return None;
    }
    let key = key_of(secret, kind, payload);
    apply(&key, &mut payload[clear..]);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Role;
    use crate::id::hex;

    const LEAF: Kind = Kind {
        role: Role::Leaf,
        form: Form::Encrypted,
    };

    #[test]
    fn key_stream_is_that_of_the_rfc() {
        // RFC 8439, appendix A.1, test vector 1: key, nonce and counter zero.
        let mut bytes = [0; 16];
        apply(&BlockKey([0; 32]), &mut bytes);
        assert_eq!(hex(&bytes), "76b8e0ada0f13d90405d6ae55386bd28");
    }

    #[test]
    fn key_depends_on_secret_kind_and_content() {
        let key = key_of(&Secret::NONE, LEAF, b"content");
        assert_eq!(key, key_of(&Secret::NONE, LEAF, b"content"));
        assert_ne!(key, key_of(&Secret([1; 32]), LEAF, b"content"));
        assert_ne!(key, key_of(&Secret::NONE, LEAF, b"Content"));
        let node = Kind {
            role: Role::Node,
            ..LEAF
        };
        assert_ne!(key, key_of(&Secret::NONE, node, b"content"));
    }

    #[test]
    fn sealing_leaves_the_clear_part_and_is_undone_by_the_key() {
        let mut payload = b"clear, hidden".to_vec();
        let key = seal(&Secret::NONE, LEAF, &mut payload, 7).expect("an encrypted kind has a key");
        assert_eq!(&payload[..7], b"clear, ");
        assert_ne!(&payload[7..], b"hidden");
        apply(&key, &mut payload[7..]);
        assert_eq!(payload, b"clear, hidden");
    }

    #[test]
    fn plain_payload_is_left_as_it_is() {
        let plain = Kind {
            form: Form::Plain,
            ..LEAF
        };
        let mut payload = b"content".to_vec();
        assert_eq!(seal(&Secret::NONE, plain, &mut payload, 0), None);
        assert_eq!(payload, b"content");
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?} {:?}", BlockKey([0xab; 32]), Secret([0xab; 32]));
        assert_eq!(text, "BlockKey(..) Secret(..)");
    }
}
