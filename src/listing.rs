//! A directory as one stream of bytes: a listing of all that is in it, then the bytes of its files.
//!
//! The stream follows from names, contents, executable bits and targets of links alone, so that the same tree has the
//! same address everywhere. What is said of names here holds for whoever shares and whoever fetches: nothing that a
//! [`Listing`] holds leads out of the directory. Does no I/O; specified in strew-protocol(7), DIRECTORIES.

use crate::block::tree::LEAF_SIZE;
use crate::limits::{FILE_SIZE_MAX, LINK_TARGET_MAX, LISTING_MAX, NAME_MAX, PATH_MAX};
use crate::wire::codec::{Malformed, Reader};
use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::ops::Range;

/// Bytes at the start of the stream: the length of the listing, most significant byte first.
pub const HEAD_SIZE: usize = 8;

const FILE: u8 = 1;
const EXECUTABLE: u8 = 2;
const LINK: u8 = 3;
const DIRECTORY: u8 = 4;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    /// A file.
    File {
        /// Its length in bytes.
        len: u64,
        /// Whether its owner may execute it.
        is_executable: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, from the directory in which it lies.
        target: &'a [u8],
    },
    /// A directory in the directory.
    Directory,
}

/// Something in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its names from the directory on, with `/` between them.
    pub path: &'a [u8],
    /// What it is.
    pub kind: Kind<'a>,
}

/// Why something cannot be in a directory, or bytes are no listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListingError {
    /// What it is; empty if it is the listing as a whole.
    pub path: Vec<u8>,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for ListingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(self.what),
            false => write!(f, "{}: {}", printable(&self.path), self.what),
        }
    }
}

impl std::error::Error for ListingError {}

impl From<Malformed> for ListingError {
    fn from(_: Malformed) -> ListingError {
        whole("an entry is cut short")
    }
}

fn whole(what: &'static str) -> ListingError {
    let path = Vec::new();
    ListingError { path, what }
}

/// Bytes as text on one line: control characters, backslashes and what is no UTF-8 as a backslash and three octal
/// digits for each byte.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(text, "\\{byte:03o}").expect("a string takes any text");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter.is_control() || letter == '\\' {
                true => escape(&mut text, letter.encode_utf8(&mut [0; 4]).as_bytes()),
                false => text.push(letter),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The order of entries: that of their names, one after the other, byte by byte.
pub fn order(left: &[u8], right: &[u8]) -> Ordering {
    left.split(is_slash).cmp(right.split(is_slash))
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

/// The path of what something lies in; empty for the directory itself.
pub fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(is_slash);
    &path[..slash.unwrap_or(0)]
}

fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    let rest = path.strip_prefix(ancestor);
    rest.is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&0)
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err("the path has no bytes, or too many");
    }
    match path.split(is_slash).all(is_name) {
        true => Ok(()),
        false => Err("a name in it is empty, too long, . or .., or has a zero byte"),
    }
}

/// Fails if the target of the link at a path leads out of the directory, or might. It must be `..` as often as the link
/// is deep at most, and then names: links that it leads through have been looked at by themselves.
pub fn check_target(path: &[u8], target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > LINK_TARGET_MAX {
        return Err("the link's target has no bytes, or too many");
    }
    if target[0] == b'/' {
        return Err("the link is absolute, it leads out of the directory");
    }
    let depth = path.iter().filter(|byte| is_slash(byte)).count();
    let ups = target.split(is_slash).take_while(|name| *name == b"..");
    let ups = ups.count();
    if ups > depth {
        return Err("the link leads out of the directory");
    }
    match target.split(is_slash).skip(ups).all(is_name) {
        true => Ok(()),
        false => Err("the link's target has an empty name, . or .. after a name, or a zero byte"),
    }
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, ListingError> {
    let number = reader.u8()?;
    let len = reader.u16()?;
    let path = reader.take(len.into())?;
    let kind = match number {
        FILE | EXECUTABLE => Kind::File {
            len: reader.u64()?,
            is_executable: number == EXECUTABLE,
        },
        LINK => {
            let len = reader.u16()?;
            let target = reader.take(len.into())?;
            Kind::Link { target }
        }
        DIRECTORY => Kind::Directory,
        _ => {
            let path = path.to_vec();
            let what = "is of an unknown type";
            return Err(ListingError { path, what });
        }
    };
    Ok(Entry { path, kind })
}

/// Makes a listing.
#[derive(Default)]
pub struct Builder {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    /// Where in `bytes` the path of the last entry is.
    last: Range<usize>,
    /// The same of the directories in which it lies, and of itself if it is one; outermost first.
    open: Vec<Range<usize>>,
}

impl Builder {
    /// Adds the next entry. They must come in [`order`], each after the directory in which it lies. The work is
    /// bounded by the lengths of this path and the last.
    pub fn push(&mut self, entry: Entry<'_>) -> Result<(), ListingError> {
        let Entry { path, kind } = entry;
        let fault = |what| {
            let path = path.to_vec();
            ListingError { path, what }
        };
        check_path(path).map_err(fault)?;
        if !self.starts.is_empty() && order(&self.bytes[self.last.clone()], path) != Ordering::Less
        {
            return Err(fault("is there twice, or not in order"));
        }
        while let Some(directory) = self.open.last() {
            if is_below(path, &self.bytes[directory.clone()]) {
                break;
            }
            self.open.pop();
        }
        let directory = self.open.last().cloned().unwrap_or(0..0);
        if parent(path) != &self.bytes[directory] {
            return Err(fault(
                "lies in something that is no directory of the listing",
            ));
        }
        let (number, rest) = match kind {
            Kind::File { len, is_executable } => {
                let number = if is_executable { EXECUTABLE } else { FILE };
                (number, len.to_be_bytes().to_vec())
            }
            Kind::Link { target } => {
                check_target(path, target).map_err(fault)?;
                let len = (target.len() as u16).to_be_bytes();
                (LINK, [&len, target].concat())
            }
            Kind::Directory => (DIRECTORY, Vec::new()),
        };
        let start = self.bytes.len();
        if start + 3 + path.len() + rest.len() > LISTING_MAX {
            return Err(fault("the listing would be too long with it"));
        }
        self.starts.push(start as u32);
        self.bytes.push(number);
        self.bytes
            .extend_from_slice(&(path.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(path);
        self.bytes.extend_from_slice(&rest);
        self.last = start + 3..start + 3 + path.len();
        if kind == Kind::Directory {
            self.open.push(self.last.clone());
        }
        Ok(())
    }

    /// The listing of these entries. Fails if the files are longer together than one may be.
    pub fn finish(self) -> Result<Listing, ListingError> {
        let mut end = (HEAD_SIZE + self.bytes.len()) as u64;
        let places = self.starts.iter().map(|&start| Place { start, offset: 0 });
        let mut listing = Listing {
            places: places.collect(),
            bytes: self.bytes,
            length: 0,
        };
        for is_long in [false, true] {
            for index in 0..listing.places.len() {
                let Kind::File { len, .. } = listing.entry(index).kind else {
                    continue;
                };
                if (len >= LEAF_SIZE as u64) != is_long {
                    continue;
                }
                if is_long {
                    end = end.next_multiple_of(LEAF_SIZE as u64);
                }
                listing.places[index].offset = end;
                // The end was at most 2^63 before it was rounded up.
                end = end
                    .checked_add(len)
                    .filter(|&end| end <= FILE_SIZE_MAX)
                    .ok_or_else(|| {
                        let path = listing.entry(index).path.to_vec();
                        let what = "the files together would be too long with it";
                        ListingError { path, what }
                    })?;
            }
        }
        listing.length = end;
        Ok(listing)
    }
}

struct Place {
    /// Where in the listing the entry begins.
    start: u32,
    /// Where in the stream a file's bytes begin; 0 for what is no file.
    offset: u64,
}

/// All that is in a directory, in [`order`]; and where in its stream the bytes of files are.
pub struct Listing {
    /// Invariant: made by a [`Builder`].
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Bytes in the stream.
    length: u64,
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, {} bytes", self.places.len(), self.length)
    }
}

impl Listing {
    /// Reads a listing: what follows the head of a stream. Takes some 16 bytes of memory for each entry, which is at
    /// least 4 bytes long, beside a copy of the listing.
    pub fn parse(bytes: &[u8]) -> Result<Listing, ListingError> {
        let mut builder = Builder::default();
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            builder.push(read_entry(&mut reader)?)?;
        }
        builder.finish()
    }

    /// How long the listing is by the head of a stream of `length` bytes.
    pub fn parse_head(head: &[u8; HEAD_SIZE], length: u64) -> Result<usize, ListingError> {
        let len = u64::from_be_bytes(*head);
        if len > LISTING_MAX as u64 {
            return Err(whole("the listing is too long"));
        }
        if HEAD_SIZE as u64 + len > length {
            return Err(whole("the listing is cut short"));
        }
        Ok(len as usize)
    }

    /// The beginning of the stream: head and listing.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = (self.bytes.len() as u64).to_be_bytes();
        [&head, &self.bytes[..]].concat()
    }

    /// Where in the stream the bytes of files may begin: behind the listing.
    pub fn start(&self) -> u64 {
        (HEAD_SIZE + self.bytes.len()) as u64
    }

    /// Bytes in the stream.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The `index`-th entry.
    pub fn entry(&self, index: usize) -> Entry<'_> {
        let start = self.places[index].start as usize;
        read_entry(&mut Reader::new(&self.bytes[start..]))
            .expect("the builder has written it whole")
    }

    /// The entry at a path.
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match order(self.entry(middle).path, path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All that is below an entry.
    pub fn below(&self, index: usize) -> Range<usize> {
        let path = self.entry(index).path;
        let rest = index + 1..self.count();
        let end = rest
            .clone()
            .find(|&it| !is_below(self.entry(it).path, path));
        rest.start..end.unwrap_or(rest.end)
    }

    /// Where in the stream the bytes of an entry are; nowhere, for what is no file.
    pub fn span(&self, index: usize) -> Range<u64> {
        let start = self.places[index].offset;
        match self.entry(index).kind {
            Kind::File { len, .. } => start..start + len,
            _ => start..start,
        }
    }

    /// Those of the entries that have bytes in the stream, in its order.
    pub fn in_stream(&self, entries: Range<usize>) -> Vec<usize> {
        let len = |&index: &usize| self.span(index).end - self.span(index).start;
        let some: Vec<usize> = entries.filter(|index| len(index) > 0).collect();
        let is_long = |index: &&usize| len(index) >= LEAF_SIZE as u64;
        let short = some.iter().filter(|index| !is_long(index));
        short.chain(some.iter().filter(is_long)).copied().collect()
    }

    /// The parts of the stream in which the bytes of these entries lie, if they are all that is below one directory:
    /// those of short files, then those of long ones, and nothing of others.
    pub fn spans(&self, entries: Range<usize>) -> Vec<Range<u64>> {
        let mut spans: Vec<Range<u64>> = Vec::new();
        let mut was_long = false;
        for index in self.in_stream(entries) {
            let span = self.span(index);
            let is_long = span.end - span.start >= LEAF_SIZE as u64;
            match spans.last_mut() {
                Some(last) if is_long == was_long => last.end = span.end,
                _ => spans.push(span),
            }
            was_long = is_long;
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    const LEAF: u64 = LEAF_SIZE as u64;

    fn file(len: u64) -> Kind<'static> {
        Kind::File {
            len,
            is_executable: false,
        }
    }

    fn build(entries: &[(&str, Kind<'_>)]) -> Result<Listing, ListingError> {
        let mut builder = Builder::default();
        for &(path, kind) in entries {
            let path = path.as_bytes();
            builder.push(Entry { path, kind })?;
        }
        builder.finish()
    }

    fn some() -> Listing {
        let link = Kind::Link { target: b"../long" };
        build(&[
            ("a", Kind::Directory),
            ("a/b", Kind::Directory),
            ("a/b/x", file(5)),
            ("a/l", link),
            ("a-", file(0)),
            ("long", file(LEAF + 1)),
            ("longer", file(2 * LEAF)),
            ("short", file(7)),
        ])
        .unwrap()
    }

    #[test]
    fn short_files_come_first_and_long_ones_begin_with_a_leaf() {
        let listing = some();
        let start = listing.start();
        assert_eq!(listing.span(2), start..start + 5);
        assert_eq!(listing.span(7), start + 5..start + 12);
        assert_eq!(listing.span(5), LEAF..2 * LEAF + 1);
        assert_eq!(listing.span(6), 3 * LEAF..5 * LEAF);
        assert_eq!(listing.length(), 5 * LEAF);
        assert_eq!(listing.in_stream(0..8), [2, 7, 5, 6]);
        assert_eq!(listing.spans(0..8), [start..start + 12, LEAF..5 * LEAF]);
        assert_eq!(build(&[]).unwrap().length(), 8);
    }

    #[test]
    fn entries_are_found_with_what_is_below_them() {
        let listing = some();
        for index in 0..listing.count() {
            assert_eq!(listing.find(listing.entry(index).path), Some(index));
        }
        assert_eq!(listing.find(b"a/b/y"), None);
        assert_eq!(listing.find(b""), None);
        assert_eq!(listing.below(0), 1..4);
        assert_eq!(listing.below(7), 8..8);
    }

    #[test]
    fn listing_is_read_back_as_written_and_no_part_of_it_is() {
        let bytes = some().to_bytes();
        let listing = Listing::parse(&bytes[HEAD_SIZE..]).unwrap();
        assert_eq!(listing.to_bytes(), bytes);
        let ends: Vec<usize> = listing.places.iter().map(|it| it.start as usize).collect();
        for len in 0..bytes.len() - HEAD_SIZE {
            let parsed = Listing::parse(&bytes[HEAD_SIZE..HEAD_SIZE + len]);
            assert_eq!(parsed.is_ok(), ends.contains(&len), "{len}");
        }
        let head: [u8; HEAD_SIZE] = bytes[..HEAD_SIZE].try_into().unwrap();
        let len = bytes.len() as u64;
        assert_eq!(Listing::parse_head(&head, len).unwrap(), bytes.len() - 8);
        assert!(Listing::parse_head(&head, len - 1).is_err());
        assert!(Listing::parse_head(&[0xff; 8], u64::MAX).is_err());
    }

    #[test]
    fn whatever_is_read_leads_nowhere_else() {
        let bytes = some().to_bytes()[HEAD_SIZE..].to_vec();
        let mut rng = Rng::new([5; 32]);
        let mut read = 0;
        for _ in 0..100_000 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                let odd = [0, 1, 3, 4, b'/', b'.', b'a', 0xff, rng.below(256) as u8];
                bytes[at] = odd[rng.below(odd.len() as u64) as usize];
            }
            let Ok(listing) = Listing::parse(&bytes) else {
                continue;
            };
            read += 1;
            assert_eq!(&listing.to_bytes()[HEAD_SIZE..], bytes);
            for index in 0..listing.count() {
                let Entry { path, kind } = listing.entry(index);
                let names: Vec<&[u8]> = path.split(is_slash).collect();
                assert!(!names
                    .iter()
                    .any(|name| [&b""[..], b".", b".."].contains(name)));
                if let Kind::Link { target } = kind {
                    let mut depth = names.len() as i64 - 1;
                    for name in target.split(is_slash) {
                        depth += if name == b".." { -1 } else { 1 };
                        assert!(depth >= 0, "{}", printable(target));
                    }
                }
            }
        }
        assert!(read > 1000, "{read}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_by_name() {
        let long = "n".repeat(256);
        let deep = vec!["n".repeat(255); 17].join("/");
        for path in [
            "", "/", "/a", "a/", "a//b", ".", "..", "d/..", "d/../a", "../a", "d/.", "a\0b", &long,
            &deep,
        ] {
            let found = build(&[("d", Kind::Directory), (path, file(1))]);
            assert_eq!(found.unwrap_err().path, path.as_bytes(), "{path}");
        }
        for (first, second) in [("b", "a"), ("a", "a"), ("f", "f/a"), ("a", "n/a")] {
            let found = build(&[(first, file(1)), (second, file(1))]);
            assert_eq!(found.unwrap_err().path, second.as_bytes());
        }
        let both = [file(u64::MAX), file(FILE_SIZE_MAX)];
        for kind in both {
            let found = build(&[("a", file(1)), ("b", kind)]);
            assert_eq!(found.unwrap_err().path, b"b");
        }
        assert!(Listing::parse(&[5, 0, 1, b'a']).is_err());
    }

    #[test]
    fn links_that_lead_out_are_refused_by_name() {
        let link = |target| {
            let kind = Kind::Link { target };
            build(&[("d", Kind::Directory), ("d/l", kind)]).map(drop)
        };
        for target in ["x", "..", "../x", "x/y", "../d/l", "...", "..x"] {
            assert_eq!(link(target.as_bytes()), Ok(()), "{target}");
        }
        for target in [
            "", "/", "/x", "../..", "../../x", "x/..", "x/../..", "./x", ".", "x/", "x//y", "../",
            "x\0",
        ] {
            assert_eq!(
                link(target.as_bytes()).unwrap_err().path,
                b"d/l",
                "{target}"
            );
        }
        assert!(link(&[b'x'; 256]).is_err());
    }

    #[test]
    fn paths_and_targets_have_so_many_bytes_and_no_more() {
        // It ends within a name, and with another byte, too.
        let long = |len: usize| ("n".repeat(NAME_MAX - 1) + "/").repeat(17)[..len].to_string();
        let path = |path: &str| {
            let all: Vec<(&str, Kind<'_>)> = path
                .match_indices('/')
                .map(|(at, _)| (&path[..at], Kind::Directory))
                .chain([(path, file(1))])
                .collect();
            build(&all).map(drop)
        };
        assert_eq!(path(&long(PATH_MAX)), Ok(()));
        let target = |target: &str| check_target(b"d/l", target.as_bytes());
        assert_eq!(target(&long(LINK_TARGET_MAX)), Ok(()));
        for too_long in [
            path(&long(PATH_MAX + 1)).map_err(|error| error.what),
            target(&long(LINK_TARGET_MAX + 1)),
        ] {
            let what = too_long.unwrap_err();
            assert!(what.ends_with("has no bytes, or too many"), "{what}");
        }
    }

    #[test]
    fn longest_listing_is_bounded() {
        let mut builder = Builder::default();
        let target = [&b"x"[..]; 2000].join(&b'/');
        let kind = Kind::Link { target: &target };
        let pushed = (0..10_000).take_while(|n| {
            let path = format!("{n:05}");
            let path = path.as_bytes();
            builder.push(Entry { path, kind }).is_ok()
        });
        assert_eq!(pushed.count(), LISTING_MAX / (3 + 5 + 2 + 3999));
        assert!(builder.bytes.len() <= LISTING_MAX);
    }

    #[test]
    fn names_are_printed_on_one_line() {
        assert_eq!(printable("a b é".as_bytes()), "a b é");
        assert_eq!(
            printable(b"a\nb\x1b\\\xff\xc2\x9b"),
            "a\\012b\\033\\134\\377\\302\\233"
        );
    }
}
