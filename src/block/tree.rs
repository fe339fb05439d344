//! How a file is a tree of blocks: its shape, and the layout of roots and nodes.
//!
//! The shape follows from length and form alone, so that the same file is the same blocks everywhere, and
//! what has another shape is refused. A pure description: [`super::encode`] and [`super::decode`] walk it,
//! and whoever holds blocks follows links with it, for which no key is needed.

use super::cipher::{apply, BlockKey};
use super::Form;
use crate::id::BlockId;
use crate::limits::{BLOCK_SIZE_MAX, FAN_OUT, FILE_SIZE_MAX};
use crate::wire::codec::{Malformed, Reader};
use std::fmt;
use std::ops::Range;

/// Bytes in every leaf but the last: a whole block.
pub const LEAF_SIZE: usize = BLOCK_SIZE_MAX;

/// Bytes at the start of a root, in clear: format, flags, and the length of the file in 8 bytes.
pub const HEADER_SIZE: usize = 10;

/// Zero bytes at the start of a root's encrypted part: a wrong key passes them once in 2^128.
pub const PROOF_SIZE: usize = 16;

/// The only format of roots so far.
const FORMAT: u8 = 1;

/// What was shared under an address: a byte of the root, its flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Item {
    /// A file: its bytes.
    File = 0,
    /// A directory, as the stream of bytes that [`crate::listing`] describes.
    Directory = 1,
}

/// Levels of nodes at most, between root and leaves, for a file of [`FILE_SIZE_MAX`] bytes.
pub const HEIGHT_MAX: u32 = 4;

const _: () = assert!(
    FILE_SIZE_MAX.div_ceil(LEAF_SIZE as u64) <= (FAN_OUT as u64).pow(HEIGHT_MAX) * FAN_OUT as u64,
    "the longest file fits a tree of the greatest height"
);

/// Why a tree cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// The content is encrypted and no key was given.
    NeedsKey,
    /// A key was given for content that is in clear.
    NeedlessKey,
    /// The key is not that of this root.
    WrongKey,
    /// The address is that of a part of a file.
    NotRoot,
    /// A newer version of strew made this root: its format and flags are given.
    Unknown {
        /// The root's first byte.
        format: u8,
        /// The root's second byte.
        flags: u8,
    },
    /// The blocks are not what the length of the file dictates; says what differs.
    BadShape(&'static str),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TreeError::NeedsKey => {
                f.write_str("the content is encrypted: give the whole ADDRESS.KEY")
            }
            TreeError::NeedlessKey => {
                f.write_str("the content is not encrypted: give the ADDRESS without a KEY")
            }
            TreeError::WrongKey => f.write_str("the key does not belong to this address"),
            TreeError::NotRoot => f.write_str("the address is that of a part of a file"),
            TreeError::Unknown { format, flags } => write!(
                f,
                "made by a newer version of strew (format {format}, flags {flags})"
            ),
            TreeError::BadShape(what) => write!(f, "a damaged tree: {what}"),
        }
    }
}

impl std::error::Error for TreeError {}

impl From<Malformed> for TreeError {
    fn from(error: Malformed) -> TreeError {
        TreeError::BadShape(match error {
            Malformed::Truncated => "a block ends too early",
            Malformed::Trailing => "a block is too long",
            Malformed::Value(what) => what,
        })
    }
}

/// What a parent says of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The child.
    pub id: BlockId,
    /// The child's key; `None` in plain trees, and where the parent's key is not known.
    pub key: Option<BlockKey>,
}

/// The shape of a file's tree. Level 0 are the leaves, above it are `height` levels of nodes, above them the
/// root. A block's position is its level and its index in that level, counted in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Invariant: at most [`FILE_SIZE_MAX`].
    length: u64,
    form: Form,
    /// Zero if the file lies in its root.
    leaves: u64,
    /// Invariant: the least with which the root has at most [`FAN_OUT`] children; at most [`HEIGHT_MAX`].
    height: u32,
}

/// Bytes of the longest file that lies in its root.
pub fn inline_max(form: Form) -> usize {
    BLOCK_SIZE_MAX - HEADER_SIZE - proof_size(form)
}

fn proof_size(form: Form) -> usize {
    match form {
        Form::Plain => 0,
        Form::Encrypted => PROOF_SIZE,
    }
}

/// Bytes that a child takes in its parent.
fn link_size(form: Form) -> usize {
    match form {
        Form::Plain => 32,
        Form::Encrypted => 64,
    }
}

impl Shape {
    /// The shape of a file of `length` bytes. Fails if that is more than [`FILE_SIZE_MAX`].
    pub fn new(length: u64, form: Form) -> Result<Shape, TreeError> {
        if length > FILE_SIZE_MAX {
            return Err(TreeError::BadShape("a length beyond that of any file"));
        }
        let mut shape = Shape {
            length,
            form,
            leaves: 0,
            height: 0,
        };
        if length > inline_max(form) as u64 {
            shape.leaves = length.div_ceil(LEAF_SIZE as u64);
            while shape.members(shape.height) > FAN_OUT as u64 {
                shape.height += 1;
            }
        }
        Ok(shape)
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The form of every block of the tree.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether the file lies in its root.
    pub fn is_inline(&self) -> bool {
        self.leaves == 0
    }

    /// Number of leaves; 0 if the file lies in its root.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Number of levels of nodes between root and leaves, 0 to [`HEIGHT_MAX`].
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Number of blocks on a level, which is at most `height` + 1, where the root of a file with leaves is.
    pub fn members(&self, level: u32) -> u64 {
        self.leaves.div_ceil((FAN_OUT as u64).pow(level))
    }

    /// Number of the root's children; 0 if the file lies in the root.
    pub fn root_children(&self) -> usize {
        self.members(self.height) as usize
    }

    /// Number of children, 1 to [`FAN_OUT`], of the `index`-th block on a level. `level` is 1 to `height`, or
    /// `height` + 1 for the root.
    pub fn children(&self, level: u32, index: u64) -> usize {
        assert!(
            level > 0 && index < self.members(level),
            "the position is one of a parent in this tree"
        );
        let before = index * FAN_OUT as u64;
        (self.members(level - 1) - before).min(FAN_OUT as u64) as usize
    }

    /// The bytes of the file that are under the `index`-th block on a level, `height` + 1 at most.
    pub fn span(&self, level: u32, index: u64) -> Range<u64> {
        assert!(
            index < self.members(level),
            "the position is one in this tree"
        );
        // At most 2^18 * 1024^5 = 2^68 is spanned by a root of greatest height: hence the wider number.
        let size = (LEAF_SIZE as u128) * (FAN_OUT as u128).pow(level);
        let length = u128::from(self.length);
        let start = size * u128::from(index);
        let end = (start + size).min(length);
        start as u64..end as u64
    }

    /// Bytes in the `index`-th leaf.
    pub fn leaf_len(&self, index: u64) -> usize {
        let span = self.span(0, index);
        (span.end - span.start) as usize
    }
}

/// What is in a root beside its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The file itself.
    Inline(Vec<u8>),
    /// The file itself, which cannot be read as the key is not known.
    Sealed,
    /// The root's children.
    Children(Vec<Link>),
}

/// A root, read and found to have the right size and layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// What it is the root of.
    pub item: Item,
    /// The shape that the root's length dictates to all that is below.
    pub shape: Shape,
    /// The content or the links to it.
    pub content: Content,
}

impl Root {
    /// Reads a root's payload. Without a key an encrypted one can be walked, not read. Does not check that the
    /// payload is that of a root block. The payload is decrypted where it lies.
    ///
    /// `NeedlessKey`, `WrongKey`, `Unknown` and `BadShape` are possible. Bounded by the payload's length.
    pub fn parse(
        mut payload: Vec<u8>,
        form: Form,
        key: Option<&BlockKey>,
    ) -> Result<Root, TreeError> {
        if form == Form::Plain && key.is_some() {
            return Err(TreeError::NeedlessKey);
        }
        let mut reader = Reader::new(&payload);
        let (format, flags) = (reader.u8()?, reader.u8()?);
        let item = match (format, flags) {
            (FORMAT, 0) => Item::File,
            (FORMAT, 1) => Item::Directory,
            _ => return Err(TreeError::Unknown { format, flags }),
        };
        let shape = Shape::new(reader.u64()?, form)?;
        let count = shape.root_children();
        let clear = HEADER_SIZE + count * 32;
        let proof = proof_size(form);
        let body = match shape.is_inline() {
            true => shape.length as usize,
            false => count * (link_size(form) - 32),
        };
        exact(payload.len(), clear + proof + body)?;
        if let Some(key) = key {
            apply(key, &mut payload[clear..]);
            if payload[clear..clear + proof].iter().any(|&byte| byte != 0) {
                return Err(TreeError::WrongKey);
            }
        }
        let content = match (shape.is_inline(), form, key) {
            (true, Form::Encrypted, None) => Content::Sealed,
            (true, ..) => {
                payload.drain(..clear + proof);
                Content::Inline(payload)
            }
            (false, ..) => {
                let keys = key.map(|_| &payload[clear + proof..]);
                Content::Children(links(&payload[HEADER_SIZE..clear], keys))
            }
        };
        Ok(Root {
            item,
            shape,
            content,
        })
    }
}

/// Reads the payload of a node that must have `children` children. Without a key an encrypted one can be walked.
/// The payload is decrypted where it lies.
pub fn parse_node(
    mut payload: Vec<u8>,
    form: Form,
    key: Option<&BlockKey>,
    children: usize,
) -> Result<Vec<Link>, TreeError> {
    exact(payload.len(), children * link_size(form))?;
    let (ids, keys) = payload.split_at_mut(children * 32);
    let keys = key.map(|key| {
        apply(key, keys);
        &*keys
    });
    Ok(links(ids, keys))
}

/// The addresses in the payload of a node of whatever size: what it names, right or wrong.
pub fn children_of(payload: &[u8], form: Form) -> Vec<BlockId> {
    let count = payload.len() / link_size(form);
    let links = links(&payload[..count * 32], None);
    links.into_iter().map(|link| link.id).collect()
}

fn exact(found: usize, expected: usize) -> Result<(), TreeError> {
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(Malformed::Truncated.into()),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Malformed::Trailing.into()),
    }
}

/// The links of these addresses and, if they can be read, keys; both are a multiple of 32 bytes.
fn links(ids: &[u8], keys: Option<&[u8]>) -> Vec<Link> {
    let array = |bytes: &[u8]| -> [u8; 32] { bytes.try_into().expect("chunks are of 32 bytes") };
    // Plain trees come with a key part that is empty, or none.
    let mut keys = keys.unwrap_or_default().chunks_exact(32);
    ids.chunks_exact(32)
        .map(|id| Link {
            id: BlockId(array(id)),
            key: keys.next().map(|key| BlockKey(array(key))),
        })
        .collect()
}

/// A payload before its encryption, and how many bytes at its start stay in clear.
pub struct Plaintext {
    /// The whole payload.
    pub payload: Vec<u8>,
    /// Bytes in clear.
    pub clear: usize,
}

impl Plaintext {
    /// A root as one of this item instead of a file.
    pub fn of(mut self, item: Item) -> Plaintext {
        self.payload[1] = item as u8;
        self
    }
}

/// The root of a file that lies in it: at most [`inline_max`] bytes.
pub fn write_inline(form: Form, data: &[u8]) -> Plaintext {
    let mut payload = header(form, data.len() as u64, data.len());
    payload.resize(HEADER_SIZE + proof_size(form), 0);
    payload.extend_from_slice(data);
    Plaintext {
        payload,
        clear: HEADER_SIZE,
    }
}

/// The root of a file of `length` bytes with these children.
pub fn write_root(form: Form, length: u64, children: &[Link]) -> Plaintext {
    let mut payload = header(form, length, children.len() * link_size(form));
    write_ids(&mut payload, children);
    let clear = payload.len();
    payload.resize(clear + proof_size(form), 0);
    write_keys(&mut payload, children);
    Plaintext { payload, clear }
}

/// A node with these children.
pub fn write_node(form: Form, children: &[Link]) -> Plaintext {
    let mut payload = Vec::with_capacity(children.len() * link_size(form));
    write_ids(&mut payload, children);
    let clear = payload.len();
    write_keys(&mut payload, children);
    Plaintext { payload, clear }
}

fn header(form: Form, length: u64, body: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(HEADER_SIZE + proof_size(form) + body);
    payload.extend_from_slice(&[FORMAT, Item::File as u8]);
    payload.extend_from_slice(&length.to_be_bytes());
    payload
}

fn write_ids(payload: &mut Vec<u8>, children: &[Link]) {
    for child in children {
        payload.extend_from_slice(&child.id.0);
    }
}

fn write_keys(payload: &mut Vec<u8>, children: &[Link]) {
    for key in children.iter().filter_map(|child| child.key) {
        payload.extend_from_slice(&key.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::cipher::{seal, Secret};
    use crate::block::{Kind, Role};

    const FORMS: [Form; 2] = [Form::Plain, Form::Encrypted];
    const LEAF: u64 = LEAF_SIZE as u64;

    fn sealed(role: Role, form: Form, plain: Plaintext) -> (Vec<u8>, Option<BlockKey>) {
        let Plaintext { mut payload, clear } = plain;
        let key = seal(&Secret::NONE, Kind { role, form }, &mut payload, clear);
        (payload, key)
    }

    fn some_links(form: Form, count: usize) -> Vec<Link> {
        (0..count)
            .map(|i| Link {
                id: BlockId([i as u8; 32]),
                key: (form == Form::Encrypted).then_some(BlockKey([!i as u8; 32])),
            })
            .collect()
    }

    #[test]
    fn file_lies_in_its_root_exactly_if_it_fits() {
        for (form, max) in [(Form::Plain, 262_134), (Form::Encrypted, 262_118)] {
            assert!(Shape::new(0, form).unwrap().is_inline());
            assert!(Shape::new(max, form).unwrap().is_inline());
            let shape = Shape::new(max + 1, form).unwrap();
            assert_eq!((shape.leaves(), shape.root_children()), (1, 1));
            assert_eq!(shape.leaf_len(0) as u64, max + 1);
        }
    }

    #[test]
    fn height_grows_where_a_level_is_full() {
        let full = 1024 * LEAF;
        let shape = Shape::new(full, Form::Plain).unwrap();
        assert_eq!((shape.height(), shape.root_children()), (0, 1024));
        let shape = Shape::new(full + 1, Form::Plain).unwrap();
        assert_eq!((shape.height(), shape.root_children()), (1, 2));
        assert_eq!((shape.children(1, 0), shape.children(1, 1)), (1024, 1));
        assert_eq!(shape.span(1, 1), full..full + 1);
        assert_eq!(shape.leaf_len(1024), 1);
        let shape = Shape::new(1024 * full, Form::Plain).unwrap();
        assert_eq!((shape.height(), shape.root_children()), (1, 1024));
        let shape = Shape::new(1024 * full + 1, Form::Plain).unwrap();
        assert_eq!((shape.height(), shape.root_children()), (2, 2));
        assert_eq!((shape.children(2, 1), shape.children(1, 1024)), (1, 1));
    }

    #[test]
    fn longest_file_has_a_shape_and_a_longer_one_has_none() {
        let shape = Shape::new(FILE_SIZE_MAX, Form::Encrypted).unwrap();
        assert_eq!((shape.height(), shape.root_children()), (HEIGHT_MAX, 32));
        for level in 0..=HEIGHT_MAX + 1 {
            let last = shape.members(level) - 1;
            assert_eq!(shape.span(level, last).end, FILE_SIZE_MAX);
        }
        assert_eq!(shape.children(HEIGHT_MAX + 1, 0), 32);
        for length in [FILE_SIZE_MAX + 1, u64::MAX] {
            assert!(Shape::new(length, Form::Plain).is_err());
        }
    }

    #[test]
    fn root_is_read_back_as_written() {
        for form in FORMS {
            let (payload, key) = sealed(Role::Root, form, write_inline(form, b"data"));
            let root = Root::parse(payload, form, key.as_ref()).unwrap();
            assert_eq!(root.content, Content::Inline(b"data".to_vec()));
            let links = some_links(form, 3);
            let plain = write_root(form, 3 * LEAF, &links);
            let (payload, key) = sealed(Role::Root, form, plain);
            let root = Root::parse(payload, form, key.as_ref()).unwrap();
            assert_eq!(root.shape.length(), 3 * LEAF);
            assert_eq!(root.content, Content::Children(links));
        }
    }

    #[test]
    fn root_says_what_it_is_the_root_of() {
        for item in [Item::File, Item::Directory] {
            let payload = write_inline(Form::Plain, b"data").of(item).payload;
            assert_eq!(payload[1], item as u8);
            let root = Root::parse(payload, Form::Plain, None).unwrap();
            assert_eq!(root.item, item);
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        for form in FORMS {
            let inline = sealed(Role::Root, form, write_inline(form, b"data"));
            let long = write_root(form, 2 * LEAF + 1, &some_links(form, 3));
            for (payload, key) in [inline, sealed(Role::Root, form, long)] {
                let parse = |payload: &[u8]| Root::parse(payload.to_vec(), form, key.as_ref());
                assert!(parse(&payload).is_ok());
                for len in 0..payload.len() {
                    assert!(matches!(
                        parse(&payload[..len]),
                        Err(TreeError::BadShape(_))
                    ));
                }
                assert!(parse(&[&payload[..], &[0]].concat()).is_err());
            }
            let (payload, key) = sealed(Role::Node, form, write_node(form, &some_links(form, 3)));
            let parse = |payload: &[u8]| parse_node(payload.to_vec(), form, key.as_ref(), 3);
            assert_eq!(parse(&payload), Ok(some_links(form, 3)));
            for len in 0..payload.len() {
                assert!(parse(&payload[..len]).is_err());
            }
            assert!(parse(&[&payload[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn encrypted_tree_is_walked_without_a_key() {
        let form = Form::Encrypted;
        let ids = |links: Vec<Link>| links.iter().map(|link| link.id).collect::<Vec<_>>();
        let links = some_links(form, 3);
        let (payload, _) = sealed(Role::Root, form, write_root(form, 3 * LEAF, &links));
        let root = Root::parse(payload, form, None).unwrap();
        let Content::Children(found) = root.content else {
            panic!("a root with children");
        };
        assert!(found.iter().all(|link| link.key.is_none()));
        assert_eq!(ids(found), ids(links.clone()));
        let (payload, _) = sealed(Role::Node, form, write_node(form, &links));
        assert_eq!(ids(parse_node(payload, form, None, 3).unwrap()), ids(links));
        let (payload, _) = sealed(Role::Root, form, write_inline(form, b"data"));
        let root = Root::parse(payload, form, None).unwrap();
        assert_eq!(root.content, Content::Sealed);
    }

    #[test]
    fn wrong_key_and_needless_key_are_noticed() {
        let key = Some(&BlockKey([1; 32]));
        let form = Form::Encrypted;
        for data in [&b""[..], b"data"] {
            let (payload, _) = sealed(Role::Root, form, write_inline(form, data));
            assert_eq!(Root::parse(payload, form, key), Err(TreeError::WrongKey));
            let payload = write_inline(Form::Plain, data).payload;
            assert_eq!(
                Root::parse(payload, Form::Plain, key),
                Err(TreeError::NeedlessKey)
            );
        }
    }

    #[test]
    fn newer_format_and_flags_are_named() {
        for (place, format, flags) in [(0, 2, 0), (1, 1, 2)] {
            let mut payload = write_inline(Form::Plain, b"data").payload;
            payload[place] = [format, flags][place];
            assert_eq!(
                Root::parse(payload, Form::Plain, None),
                Err(TreeError::Unknown { format, flags })
            );
        }
    }

    #[test]
    fn small_file_with_children_and_long_file_without_are_refused() {
        for form in FORMS {
            let max = inline_max(form);
            let plain = write_root(form, max as u64, &some_links(form, 1));
            let (payload, key) = sealed(Role::Root, form, plain);
            assert!(Root::parse(payload, form, key.as_ref()).is_err());
            let (payload, key) = sealed(Role::Root, form, write_inline(form, &vec![0; max + 1]));
            assert!(Root::parse(payload, form, key.as_ref()).is_err());
        }
    }
}
