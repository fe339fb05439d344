//! The addresses of known files are for ever those of tests/vectors.txt, which tests/vectors.py computed
//! without any of strew's code, and which strew-protocol(7) prints.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use strew::block::address::Address;
use strew::block::decode::Decoder;
use strew::block::encode::{hash, Encoder};
use strew::block::tree::Item;
use strew::block::{self, Block, Form};
use strew::id::BlockId;
use strew::listing::{Builder, Entry, Kind};

/// Files longer than this are only hashed: to keep their blocks would take as much memory.
const KEPT_MAX: u64 = 16 << 20;

struct Vector {
    size: u64,
    form: Form,
    address: String,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => panic!("read {}: {error}", path.display()),
    }
}

/// The lines of a text that are `SIZE FORM ADDRESS[.KEY]`, one space between, or `directory` instead of a size.
fn vector_lines(text: &str) -> Vec<&str> {
    let is_vector = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        let is_item = words[0] == "directory" || words[0].parse::<u64>().is_ok();
        words.len() == 3 && is_item && form(words[1]).is_some()
    };
    text.lines().filter(is_vector).collect()
}

fn form(word: &str) -> Option<Form> {
    match word {
        "plain" => Some(Form::Plain),
        "encrypted" => Some(Form::Encrypted),
        _ => None,
    }
}

fn vectors() -> Vec<Vector> {
    let text = read("tests/vectors.txt");
    let lines = vector_lines(&text);
    assert_eq!(lines.len(), text.lines().count(), "every line is a vector");
    assert_eq!(lines.len(), 2 * 12);
    let vector = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(Vector {
            size: words[0].parse().ok()?,
            form: form(words[1]).expect("a line is a vector"),
            address: words[2].to_owned(),
        })
    };
    lines.iter().filter_map(vector).collect()
}

/// Reads the file of which byte i is i modulo 251.
struct Content {
    offset: u64,
    size: u64,
}

impl Content {
    fn read(&mut self, space: &mut [u8]) -> usize {
        let rest = self.size - self.offset;
        let count = rest.min(space.len() as u64) as usize;
        let mut next = (self.offset % 251) as u8;
        for byte in &mut space[..count] {
            *byte = next;
            next = if next == 250 { 0 } else { next + 1 };
        }
        self.offset += count as u64;
        count
    }
}

#[test]
fn encoder_gives_the_addresses_of_the_independent_script() {
    for Vector {
        size,
        form,
        address,
    } in vectors()
    {
        let mut content = Content { offset: 0, size };
        let found =
            hash(Encoder::new(form), |space| Ok(content.read(space))).expect("reading cannot fail");
        assert_eq!(found.to_string(), address, "{size} bytes {form:?}");
    }
}

#[test]
fn file_comes_back_from_the_address() {
    for vector in vectors().iter().filter(|vector| vector.size <= KEPT_MAX) {
        let mut data = vec![0; vector.size as usize];
        Content {
            offset: 0,
            size: vector.size,
        }
        .read(&mut data);
        let mut encoder = Encoder::new(vector.form);
        encoder.push(&data);
        encoder.finish();
        let mut blocks: BTreeMap<BlockId, Block> = BTreeMap::new();
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload).expect("the encoder makes blocks");
            encoder.handle_put(block.id());
            blocks.insert(block.id(), block);
        }
        let address: Address = vector.address.parse().expect("a vector has an address");
        let mut decoder = Decoder::new(address, 0);
        let mut found = Vec::new();
        for _ in 0..=blocks.len() {
            while let Some(id) = decoder.poll_want() {
                let block = blocks[&id].clone();
                decoder.handle_block(block).expect("the tree is sound");
            }
            while let Some((offset, piece)) = decoder.poll_data() {
                assert_eq!(offset, found.len() as u64);
                found.extend(piece);
            }
        }
        assert!(
            decoder.is_done() && found == data,
            "{} bytes {:?}",
            vector.size,
            vector.form
        );
    }
}

#[test]
fn directory_has_the_address_of_the_independent_script() {
    let text = read("tests/vectors.txt");
    let file = |len, is_executable| Kind::File { len, is_executable };
    let mut builder = Builder::default();
    let target = b"a/short";
    for (path, kind) in [
        ("a", Kind::Directory),
        ("a/long", file(300_000, false)),
        ("a/short", file(5, false)),
        ("link", Kind::Link { target }),
        ("run", file(1, true)),
    ] {
        let path = path.as_bytes();
        builder.push(Entry { path, kind }).expect("in order");
    }
    let listing = builder.finish().expect("a listing");
    let mut stream = listing.to_bytes();
    for index in listing.in_stream(0..listing.count()) {
        let span = listing.span(index);
        stream.resize(span.start as usize, 0);
        stream.resize(span.end as usize, 0);
        let (offset, size) = (0, span.end - span.start);
        Content { offset, size }.read(&mut stream[span.start as usize..]);
    }
    let mut found = Vec::new();
    for word in ["plain", "encrypted"] {
        let encoder = Encoder::of(Item::Directory, form(word).expect("a form"));
        let mut rest = &stream[..];
        let address = hash(encoder, |space| std::io::Read::read(&mut rest, space));
        found.push(format!("directory {word} {}", address.expect("read")));
    }
    let expected = text.lines().filter(|line| line.starts_with("directory"));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn manual_prints_the_vectors() {
    let (page, text) = (read("man/strew-protocol.7"), read("tests/vectors.txt"));
    assert_eq!(vector_lines(&page), vector_lines(&text));
}

/// Lines `kind BYTE payload HEX HEX ...` of the page are the roots of the files of one byte.
#[test]
fn manual_dumps_the_roots_of_one_byte_files() {
    let page = read("man/strew-protocol.7");
    let mut found = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("kind ")) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!((words[0], words[2]), ("kind", "payload"));
        let kind = words[1].parse().ok().and_then(block::Kind::from_byte);
        let byte = |word: &&str| u8::from_str_radix(word, 16).expect("a byte in hexadecimal");
        let payload = words[3..].iter().map(byte).collect();
        let root = Block::new(kind.expect("a kind"), payload).expect("a block");
        found.push((root.kind().form, root.id(), root));
    }
    let expected = vectors().into_iter().filter(|vector| vector.size == 1);
    assert_eq!(found.len(), 2);
    for (vector, (form, id, root)) in expected.zip(found) {
        let address: Address = vector.address.parse().expect("a vector has an address");
        assert_eq!((vector.form, address.id), (form, id));
        let mut decoder = Decoder::new(address, 0);
        assert_eq!(decoder.poll_want(), Some(id));
        decoder.handle_block(root).expect("the root is sound");
        assert_eq!(decoder.poll_data(), Some((0, vec![0])));
        assert!(decoder.is_done());
    }
}

#[test]
fn script_still_computes_the_vectors() {
    let vectors = vectors();
    let small: Vec<&Vector> = vectors.iter().filter(|v| v.size <= KEPT_MAX).collect();
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.py"));
    let plain = small.iter().filter(|v| v.form == Form::Plain);
    python.args(plain.map(|v| v.size.to_string()));
    python.arg("directory");
    let output = match python.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: python3 not found");
            return;
        }
        Err(error) => panic!("run python3: {error}"),
    };
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<&str> = text
        .lines()
        .map(|l| l.split(' ').next_back().unwrap_or(l))
        .collect();
    let mut expected: Vec<&str> = small.iter().map(|v| v.address.as_str()).collect();
    let text = read("tests/vectors.txt");
    let directories = text.lines().filter(|line| line.starts_with("directory"));
    expected.extend(directories.filter_map(|line| line.split(' ').next_back()));
    assert_eq!(found, expected);
}
