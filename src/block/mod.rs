//! Blocks: content-addressed bytes with a kind. A [`Block`] exists only verified; the type is the check.
//!
//! [`tree`] says how a file becomes blocks, [`encode`] and [`decode`] do it as streams, [`cipher`] encrypts,
//! [`address`] is what a user is given. Nothing here does I/O.

pub mod address;
pub mod cipher;
pub mod decode;
pub mod encode;
pub mod tree;
pub mod walk;

use crate::id::BlockId;
use crate::limits::BLOCK_SIZE_MAX;
use sha2::{Digest, Sha256};
use std::fmt;

/// Where a block stands in its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Role {
    /// Bytes of the file.
    Leaf,
    /// Links to leaves or to nodes.
    Node,
    /// The one block from which the rest is found; a small file lies in it whole.
    Root,
}

/// Whether content can be read by whoever has the block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Form {
    /// Content in clear.
    Plain,
    /// Content, and the keys of children, encrypted.
    Encrypted,
}

/// What a block is. Part of what is hashed, so that no kind can be passed off as another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Kind {
    /// Where it stands.
    pub role: Role,
    /// Who can read it.
    pub form: Form,
}

impl Kind {
    /// The kind's byte: 1 leaf, 2 node, 3 root, plus 4 if encrypted.
    pub fn to_byte(self) -> u8 {
        let role = match self.role {
            Role::Leaf => 1,
            Role::Node => 2,
            Role::Root => 3,
        };
        let form = match self.form {
            Form::Plain => 0,
            Form::Encrypted => 4,
        };
        role | form
    }

    /// The kind of this byte; `None` if it is no kind's.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        let role = match byte & 3 {
            1 => Role::Leaf,
            2 => Role::Node,
            3 => Role::Root,
            _ => return None,
        };
        let form = match byte & !3 {
            0 => Form::Plain,
            4 => Form::Encrypted,
            _ => return None,
        };
        Some(Kind { role, form })
    }
}

/// Why bytes are not the block they were said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// Empty, or longer than [`BLOCK_SIZE_MAX`].
    Length(usize),
    /// The bytes have another address.
    Address,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockError::Length(len) => write!(
                f,
                "a block of {len} bytes (1 to {BLOCK_SIZE_MAX} are possible)"
            ),
            BlockError::Address => f.write_str("the bytes do not match the block's address"),
        }
    }
}

/// A kind, 1 to [`BLOCK_SIZE_MAX`] bytes of payload, and their address, which has been computed from them.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// Invariant: the SHA-256 of the kind's byte and the payload, computed on this machine.
    id: BlockId,
    kind: Kind,
    payload: Vec<u8>,
}

impl Block {
    /// Makes a block of these bytes, and thereby hashes them.
    pub fn new(kind: Kind, payload: Vec<u8>) -> Result<Block, BlockError> {
        if payload.is_empty() || payload.len() > BLOCK_SIZE_MAX {
            return Err(BlockError::Length(payload.len()));
        }
        let mut hash = Sha256::new();
        hash.update([kind.to_byte()]);
        hash.update(&payload);
        Ok(Block {
            id: BlockId(hash.finalize().into()),
            kind,
            payload,
        })
    }

    /// Makes the block that is said to have this address, if it has.
    pub fn verify(id: BlockId, kind: Kind, payload: Vec<u8>) -> Result<Block, BlockError> {
        let block = Block::new(kind, payload)?;
        if block.id == id {
            Ok(block)
        } else {
            Err(BlockError::Address)
        }
    }

    /// The block of this address as this machine's own peer has verified it, who is trusted with it: each block
    /// is hashed once per machine. Only for what comes over the control socket.
    pub fn from_own_peer(id: BlockId, kind: Kind, payload: Vec<u8>) -> Block {
        Block { id, kind, payload }
    }

    /// The block's address.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// What the block is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The block's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Gives up the block for its bytes.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:?}, {} bytes",
            self.kind,
            self.id,
            self.payload.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: Kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };

    #[test]
    fn every_kind_has_its_own_byte() {
        let kinds: Vec<Kind> = (0..=255).filter_map(Kind::from_byte).collect();
        assert_eq!(kinds.len(), 6);
        for kind in kinds {
            assert_eq!(Kind::from_byte(kind.to_byte()), Some(kind));
        }
    }

    #[test]
    fn address_binds_kind_and_payload() {
        let block = Block::new(LEAF, b"payload".to_vec()).expect("a block");
        assert_eq!(
            Block::verify(block.id(), LEAF, b"payload".to_vec()),
            Ok(block.clone())
        );
        assert_eq!(
            Block::verify(block.id(), LEAF, b"Payload".to_vec()),
            Err(BlockError::Address)
        );
        let root = Kind {
            role: Role::Root,
            form: Form::Plain,
        };
        assert_eq!(
            Block::verify(block.id(), root, b"payload".to_vec()),
            Err(BlockError::Address)
        );
    }

    #[test]
    fn length_is_bounded_at_both_ends() {
        assert_eq!(Block::new(LEAF, vec![]), Err(BlockError::Length(0)));
        assert!(Block::new(LEAF, vec![0; BLOCK_SIZE_MAX]).is_ok());
        assert_eq!(
            Block::new(LEAF, vec![0; BLOCK_SIZE_MAX + 1]),
            Err(BlockError::Length(BLOCK_SIZE_MAX + 1))
        );
    }
}
