//! Directories as nobody's `share` makes them: whatever their author has put into one, nothing is written for it.

use crate::harness::LIMIT;
use crate::talker::Talker;
use crate::trees::{Net, LEAF};
use std::time::Instant;
use strew::block::encode::Encoder;
use strew::block::tree::Item;
use strew::block::{Block, Form};
use strew::rng::Rng;
use strew::wire::frame::Frame;

/// The bytes of an entry: its type, its path, and what follows that.
fn entry(number: u8, path: &[u8], rest: &[u8]) -> Vec<u8> {
    let len = (path.len() as u16).to_be_bytes();
    [&[number], &len[..], path, rest].concat()
}

fn link(path: &[u8], target: &[u8]) -> Vec<u8> {
    let len = (target.len() as u16).to_be_bytes();
    entry(3, path, &[&len, target].concat())
}

fn file(path: &[u8], len: u64) -> Vec<u8> {
    entry(1, path, &len.to_be_bytes())
}

fn directory(path: &[u8]) -> Vec<u8> {
    entry(4, path, b"")
}

/// The stream of these entries, with these bytes behind.
fn stream(entries: &[Vec<u8>], rest: &[u8]) -> Vec<u8> {
    let listing = entries.concat();
    [&(listing.len() as u64).to_be_bytes(), &listing[..], rest].concat()
}

#[test]
fn hostile_directory_is_refused_by_name_and_leaves_nothing() {
    let net = Net::new();
    let lab = &net.lab;
    let mut talker = Talker::new(net.peers[0].addr, &mut Rng::new([7; 32]));
    let mut put = |stream: &[u8]| {
        let mut encoder = Encoder::of(Item::Directory, Form::Plain);
        encoder.push(stream);
        encoder.finish();
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload.clone()).expect("a block");
            let id = block.id();
            let lifetime = 86_400;
            assert!(talker.say(&Frame::Put {
                copies: 0,
                id,
                kind,
                lifetime,
                payload
            }));
            let gone = talker.hear(
                Instant::now() + LIMIT,
                |frame| !matches!(frame, Frame::Stored { id: stored, .. } if stored == id),
            );
            assert!(!gone, "it is there");
            encoder.handle_put(id);
        }
        encoder.outcome().expect("a root").to_string()
    };
    let long = vec![b'n'; 256];
    let big = LEAF as u64;
    let d = directory(b"d");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (stream(&[file(b"../x", 1)], b"x"), "../x: "),
        (stream(&[file(b"/x", 1)], b"x"), "/x: "),
        (
            stream(&[d.clone(), file(b"d/../../x", 1)], b"x"),
            "d/../../x: ",
        ),
        (stream(&[file(b"x\0", 1)], b"x"), "x\\000: "),
        (stream(&[file(b"", 1)], b"x"), "the path"),
        (stream(&[file(&long, 1)], b"x"), "nnnnnn: a name"),
        (
            stream(&[file(b"b", 1), file(b"a", 1)], b"xx"),
            "a: is there twice",
        ),
        (
            stream(&[file(b"a", 1), file(b"a", 1)], b"xx"),
            "a: is there twice",
        ),
        (stream(&[file(b"d/x", 1)], b"x"), "d/x: lies in"),
        (
            stream(&[link(b"d", b"x"), file(b"d/x", 1)], b"x"),
            "d/x: lies in",
        ),
        (
            stream(&[link(b"l", b"/etc")], b""),
            "l: the link is absolute",
        ),
        (stream(&[link(b"l", b"../x")], b""), "l: the link leads out"),
        (
            stream(&[d.clone(), link(b"d/l", b"x/../../..")], b""),
            "d/l: the link",
        ),
        (stream(&[link(b"l", b"")], b""), "l: the link"),
        (
            stream(&[entry(9, b"x", b"")], b""),
            "x: is of an unknown type",
        ),
        (stream(&[file(b"x", u64::MAX)], b"x"), "x: the files"),
        (stream(&[file(b"x", 2)], b"x"), "not as long as"),
        (stream(&[file(b"x", 1)], b"xx"), "not as long as"),
        (stream(&[file(b"x", 1)], b"x")[..15].to_vec(), "cut short"),
        (stream(&[d[..3].to_vec()], b""), "an entry is cut short"),
        (vec![0xff; 300], "the listing is too long"),
        (b"short".to_vec(), "less than 8 bytes"),
        (
            // One bit is set between the listing and a long file.
            stream(
                &[file(b"x", big)],
                &[&vec![1][..], &vec![0; 2 * LEAF - 8 - 12 - 1]].concat(),
            ),
            "something between its files",
        ),
    ];
    let before = lab.names();
    for (stream, said) in cases {
        let address = put(&stream);
        for args in [&["fetch", "-o", "out"][..], &["ls"]] {
            let is_between = said.contains("between");
            let outcome = net.run(args[0], &args[1..]).arg(&address).run();
            match is_between && args[0] == "ls" {
                true => outcome.expect_status(0),
                false => outcome.expect_failure(6, &["a damaged", said]),
            }
        }
        assert_eq!(lab.names(), before, "{said}");
    }
    assert!(lab.path("data").exists());
}
