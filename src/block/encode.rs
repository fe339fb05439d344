//! From a file to blocks: takes a stream of bytes, gives the payloads to put, and at the end the address.
//!
//! Holds no more than a leaf, the payloads not yet taken, and a node for each level: the file may be longer
//! than the memory. Does no I/O and hashes for keys only: the address of a block comes from whoever takes
//! it in, in [`Encoder::handle_put`]. Called by `share`, and by [`hash`].

use super::address::Address;
use super::cipher::{seal, BlockKey, Secret};
use super::tree::{self, inline_max, Item, Link, Plaintext, LEAF_SIZE};
use super::{Block, Form, Kind, Role};
use crate::id::BlockId;
use crate::limits::{FAN_OUT, FILE_SIZE_MAX};
use std::collections::VecDeque;
use std::io;

/// Where a block's link belongs once its address is known.
#[derive(Clone, Copy)]
enum Place {
    /// Among the members of this level; 0 are the leaves.
    Level(usize),
    /// It is the root.
    Root,
}

/// A block on its way to its address.
struct Put {
    kind: Kind,
    payload: Vec<u8>,
    place: Place,
    key: Option<BlockKey>,
}

/// Cuts one file into blocks.
///
/// **Take every payload that [`poll_put`](Encoder::poll_put) has before giving more bytes**: what is ready and
/// not taken stays in memory. After [`finish`](Encoder::finish) go on with puts and their answers until there
/// is an [`outcome`](Encoder::outcome).
pub struct Encoder {
    item: Item,
    form: Form,
    secret: Secret,
    length: u64,
    /// The leaf that is being filled, empty or [`LEAF_SIZE`] long.
    leaf: Vec<u8>,
    /// Bytes of `leaf` that are the file's. Invariant: fewer than [`LEAF_SIZE`].
    filled: usize,
    ended: bool,
    ready: VecDeque<Put>,
    /// Puts that were taken and not answered, oldest first.
    unanswered: VecDeque<(Place, Option<BlockKey>)>,
    /// Members of each level that are in no node yet, each level at most [`FAN_OUT`]: a level of so many may
    /// still be the root's children, so that a full node is made when the next member is there.
    levels: Vec<Vec<Link>>,
    outcome: Option<Address>,
}

impl Encoder {
    /// Begins a file. Content that is encrypted has no secret but itself.
    pub fn new(form: Form) -> Encoder {
        Encoder::of(Item::File, form)
    }

    /// Begins a file, or the stream of a directory.
    pub fn of(item: Item, form: Form) -> Encoder {
        Encoder {
            item,
            form,
            secret: Secret::NONE,
            length: 0,
            leaf: Vec::new(),
            filled: 0,
            ended: false,
            ready: VecDeque::new(),
            unanswered: VecDeque::new(),
            levels: vec![Vec::new()],
            outcome: None,
        }
    }

    /// Where the next bytes of the file are to be written, so that nothing copies them: 1 to [`LEAF_SIZE`]
    /// bytes. Say with [`filled`](Encoder::filled) how many there are.
    pub fn space(&mut self) -> &mut [u8] {
        assert!(!self.ended, "the stream has not ended");
        if self.leaf.is_empty() {
            self.leaf = vec![0; LEAF_SIZE];
        }
        &mut self.leaf[self.filled..]
    }

    /// The first `count` bytes of [`space`](Encoder::space) are now the next of the file. Makes at most one
    /// payload ready.
    pub fn filled(&mut self, count: usize) {
        assert!(
            count <= self.leaf.len().saturating_sub(self.filled),
            "no more was written than there was space for"
        );
        self.filled += count;
        self.length += count as u64;
        assert!(
            self.length <= FILE_SIZE_MAX,
            "a stream of 2^63 bytes would last for centuries"
        );
        // A whole leaf is longer than what fits a root: it is a leaf whatever follows.
        if self.filled == LEAF_SIZE {
            self.emit_leaf();
        }
    }

    /// The next bytes of the file, which are copied. Makes ready a payload for each [`LEAF_SIZE`] bytes of them.
    pub fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let space = self.space();
            let count = space.len().min(data.len());
            let (head, rest) = data.split_at(count);
            space[..count].copy_from_slice(head);
            self.filled(count);
            data = rest;
        }
    }

    /// The file ends here. A second call does nothing.
    pub fn finish(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        if self.length <= inline_max(self.form) as u64 {
            let plain = tree::write_inline(self.form, &self.leaf[..self.filled]);
            self.leaf = Vec::new();
            self.emit(Role::Root, Place::Root, plain.of(self.item));
        } else if self.filled > 0 {
            self.emit_leaf();
        }
        self.close_levels();
    }

    /// The next payload to put, encrypted if the file is. Any number may be under way.
    pub fn poll_put(&mut self) -> Option<(Kind, Vec<u8>)> {
        let put = self.ready.pop_front()?;
        self.unanswered.push_back((put.place, put.key));
        Some((put.kind, put.payload))
    }

    /// Number of payloads taken whose address is not known yet.
    pub fn outstanding(&self) -> usize {
        self.unanswered.len()
    }

    /// The address of the oldest payload taken and not answered. There must be one.
    pub fn handle_put(&mut self, id: BlockId) {
        let (place, key) = self
            .unanswered
            .pop_front()
            .expect("an answer belongs to a put");
        let link = Link { id, key };
        match place {
            Place::Root => self.outcome = Some(Address { id, key }),
            Place::Level(level) => {
                if self.levels[level].len() == FAN_OUT {
                    self.emit_node(level);
                }
                self.levels[level].push(link);
            }
        }
        self.close_levels();
    }

    /// The file's address, once the root's is known.
    pub fn outcome(&self) -> Option<Address> {
        self.outcome
    }

    /// Bytes of the file so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Goes on from the ended file to its root: when all addresses so far are known, the members left over on
    /// the lowest level become its last node, or the root's children if there is no level above.
    fn close_levels(&mut self) {
        if !self.ended || !self.ready.is_empty() || !self.unanswered.is_empty() {
            return;
        }
        let Some(lowest) = self.levels.iter().position(|level| !level.is_empty()) else {
            return;
        };
        if self.levels[lowest + 1..]
            .iter()
            .any(|level| !level.is_empty())
        {
            self.emit_node(lowest);
        } else {
            let children = std::mem::take(&mut self.levels[lowest]);
            let plain = tree::write_root(self.form, self.length, &children);
            self.emit(Role::Root, Place::Root, plain.of(self.item));
        }
    }

    /// Makes a leaf of what has been filled, in place.
    fn emit_leaf(&mut self) {
        let mut payload = std::mem::take(&mut self.leaf);
        payload.truncate(self.filled);
        self.filled = 0;
        self.emit(Role::Leaf, Place::Level(0), Plaintext { payload, clear: 0 });
    }

    /// Makes a node of a level's members, as a member of the level above.
    fn emit_node(&mut self, level: usize) {
        if self.levels.len() == level + 1 {
            self.levels.push(Vec::new());
        }
        let plain = tree::write_node(self.form, &self.levels[level]);
        self.levels[level].clear();
        self.emit(Role::Node, Place::Level(level + 1), plain);
    }

    fn emit(&mut self, role: Role, place: Place, plain: Plaintext) {
        let Plaintext { mut payload, clear } = plain;
        let form = self.form;
        let kind = Kind { role, form };
        let key = seal(&self.secret, kind, &mut payload, clear);
        self.ready.push_back(Put {
            kind,
            payload,
            place,
            key,
        });
    }
}

/// The address of a stream, of which nothing is kept, by an encoder that has begun it. `read` fills the front of what it is given and returns
/// how many bytes, 0 at the end; its errors are passed on, but for `Interrupted`, after which it is called again.
pub fn hash(
    mut encoder: Encoder,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Address> {
    loop {
        match read(encoder.space()) {
            Ok(0) => encoder.finish(),
            Ok(count) => encoder.filled(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        while let Some((kind, payload)) = encoder.poll_put() {
            let block =
                Block::new(kind, payload).expect("the encoder makes blocks of legal length");
            encoder.handle_put(block.id());
        }
        if let Some(address) = encoder.outcome() {
            return Ok(address);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    /// The kinds put and the address, with answers that come as late as possible.
    fn encode(form: Form, data: &[u8]) -> (Vec<Kind>, Address) {
        let mut encoder = Encoder::new(form);
        encoder.push(data);
        encoder.finish();
        let (mut kinds, mut late) = (Vec::new(), VecDeque::new());
        loop {
            while let Some((kind, payload)) = encoder.poll_put() {
                kinds.push(kind);
                late.push_back(Block::new(kind, payload).unwrap().id());
            }
            assert_eq!(encoder.outstanding(), late.len());
            match late.pop_front() {
                Some(id) => encoder.handle_put(id),
                None => return (kinds, encoder.outcome().unwrap()),
            }
        }
    }

    fn hash_of(form: Form, data: &[u8]) -> Address {
        let mut rest = data;
        hash(Encoder::new(form), |space| io::Read::read(&mut rest, space)).unwrap()
    }

    #[test]
    fn file_that_fits_is_one_root_and_a_longer_one_is_leaves_and_root() {
        for (form, max) in [(Form::Plain, 262_134), (Form::Encrypted, 262_118)] {
            let root = Kind {
                role: Role::Root,
                form,
            };
            let leaf = Kind {
                role: Role::Leaf,
                form,
            };
            assert_eq!(encode(form, b"").0, [root]);
            assert_eq!(encode(form, &vec![7; max]).0, [root]);
            assert_eq!(encode(form, &vec![7; max + 1]).0, [leaf, root]);
            assert_eq!(encode(form, &vec![7; LEAF_SIZE]).0, [leaf, root]);
            assert_eq!(encode(form, &vec![7; LEAF_SIZE + 1]).0, [leaf, leaf, root]);
        }
    }

    #[test]
    fn key_is_there_exactly_if_encrypted() {
        assert!(encode(Form::Plain, b"data").1.key.is_none());
        assert!(encode(Form::Encrypted, b"data").1.key.is_some());
    }

    #[test]
    fn cut_of_the_stream_and_delay_of_answers_change_nothing() {
        let mut rng = Rng::new([3; 32]);
        let data: Vec<u8> = (0..900_001u32).map(|i| (i % 251) as u8).collect();
        for form in [Form::Plain, Form::Encrypted] {
            let (_, address) = encode(form, &data);
            assert_eq!(hash_of(form, &data), address);
            let mut rest = &data[..];
            let cut = hash(Encoder::new(form), |space| {
                if rng.below(4) == 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let most = space.len().min(rest.len()).min(100_000);
                let count = (1 + rng.below(100_000) as usize).min(most);
                space[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                Ok(count)
            });
            assert_eq!(cut.unwrap(), address);
        }
    }

    #[test]
    fn read_error_is_passed_on() {
        let error = hash(Encoder::new(Form::Plain), |_| {
            Err(io::ErrorKind::NotFound.into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// Answers are numbers, not hashes: only the tree's shape is looked at, so leaves cost a memset.
    #[test]
    fn node_is_made_only_when_more_than_a_full_root_follows() {
        for (leaves, nodes) in [(1023, 0), (1024, 0), (1025, 2), (2048, 2), (2049, 3)] {
            let mut encoder = Encoder::new(Form::Plain);
            let (mut found, mut root) = (Vec::new(), 0);
            for turn in 0..=leaves {
                if turn < leaves {
                    let space = encoder.space().len();
                    encoder.filled(space);
                } else {
                    encoder.finish();
                }
                while let Some((kind, payload)) = encoder.poll_put() {
                    match kind.role {
                        Role::Leaf => (),
                        Role::Node => found.push(payload.len() / 32),
                        Role::Root => root = (payload.len() - tree::HEADER_SIZE) / 32,
                    }
                    encoder.handle_put(BlockId([0; 32]));
                }
            }
            assert!(encoder.outcome().is_some());
            assert_eq!(found.len(), nodes, "{leaves} leaves");
            match nodes {
                0 => assert_eq!(root, leaves),
                _ => assert_eq!((root, found.iter().sum::<usize>()), (nodes, leaves)),
            }
        }
    }
}
