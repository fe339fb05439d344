//! The manual pages say what the program does: options, commands, exit statuses and the keys of `status` are
//! compared both ways, and the frames of strew-protocol(7) are read out of the page and decoded.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use strew::block::encode::Encoder;
use strew::block::tree::Item;
use strew::block::{Block, Form, Kind};
use strew::id::{BlockId, NodeKey};
use strew::listing::{self, Entry, Listing};
use strew::node::{Config, Node};
use strew::rng::Rng;
use strew::store::MemoryStore;
use strew::time::Instant;
use strew::wire::frame::{
    Answer, ByeReason, Counted, Frame, FrameDecoder, Hello, MissingReason, Offered, Own, PeerRole,
    Settled, Verifying, Wanted,
};

const PAGES: [&str; 3] = ["strew.1", "strew-pack.5", "strew-protocol.7"];

fn path(page: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("man")
        .join(page)
}

fn read(page: &str) -> String {
    match std::fs::read_to_string(path(page)) {
        Ok(text) => text,
        Err(error) => panic!("read {page}: {error}"),
    }
}

/// The lines of a page after the one that is `heading`, up to the next heading of its kind or a larger one.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let lines = page
        .lines()
        .skip_while(|&line| line != heading)
        .skip(1)
        .take_while(|line| {
            let larger = heading.starts_with(".Ss") && line.starts_with(".Ss ");
            !line.starts_with(".Sh ") && !larger
        });
    let lines: Vec<&str> = lines.collect();
    assert!(!lines.is_empty(), "the page has {heading}");
    lines
}

fn strew(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strew"));
    // The settings of whoever runs this are not the test's.
    command
        .env_clear()
        .args(args)
        .output()
        .expect("the built binary can be run")
}

fn stdout(args: &[&str]) -> String {
    let output = strew(args);
    assert!(output.status.success(), "strew {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The commands that `strew help` lists, `help` included.
fn commands() -> Vec<String> {
    let help = stdout(&["help"]);
    let listed = help.lines().filter_map(|line| line.strip_prefix("    "));
    let names = listed.filter_map(|line| line.split(' ').next().map(str::to_string));
    let names: Vec<String> = names.collect();
    assert!(names.len() > 1, "{help}");
    names
}

/// Options as `-s --long ARGUMENT`, what is missing left out.
type Options = BTreeSet<String>;

/// The options in a help text, whose lines begin with `    -s, --long ARGUMENT` or `        --long ARGUMENT`.
fn options_of_help(text: &str) -> Options {
    let mut options = Options::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let indent = line.len() - line.trim_start().len();
        if !words.first().is_some_and(|word| word.starts_with('-')) || indent > 8 {
            continue;
        }
        let is_name = |word: &&&str| word.starts_with('-');
        let names = words.iter().take_while(is_name).count();
        // Descriptions are in lower case, arguments are not.
        let argument = words
            .get(names)
            .filter(|word| word.starts_with(|first: char| first.is_ascii_uppercase()));
        let mut option = words[..names].join(" ").replace(',', "");
        if let Some(argument) = argument {
            option = format!("{option} {argument}");
        }
        options.insert(option);
    }
    options
}

/// The options in the lists of a section, whose items are `.It Fl s , Fl -long Ar ARGUMENT`.
fn options_of_page(lines: &[&str]) -> Options {
    let items = lines.iter().filter_map(|line| line.strip_prefix(".It Fl "));
    let option = |item: &str| {
        let mut words = vec![];
        let mut flag = true;
        for word in item.split(' ') {
            match word {
                "Fl" => flag = true,
                "Ar" | "," => flag = false,
                _ if flag => words.push(format!("-{word}")),
                _ => words.push(word.to_string()),
            }
        }
        words.join(" ")
    };
    items.map(option).collect()
}

/// 30 days.
const LIFETIME: u32 = 2_592_000;

fn offered(id: BlockId) -> Offered {
    let lifetime = LIFETIME;
    Offered { id, lifetime }
}

#[test]
fn every_command_has_a_section_and_every_section_is_a_command() {
    let page = read("strew.1");
    let sections: Vec<&str> = section(&page, ".Sh COMMANDS")
        .into_iter()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .collect();
    assert_eq!(sections, commands());
    for name in commands() {
        let shown = format!(".Cm {name}");
        assert!(section(&page, ".Sh SYNOPSIS").contains(&shown.as_str()));
    }
}

#[test]
fn options_of_the_page_are_those_of_the_commands() {
    let page = read("strew.1");
    let common = options_of_page(&section(&page, ".Sh OPTIONS"));
    assert!(common.contains("-d --dir DIR"), "{common:?}");
    for name in commands().iter().filter(|name| *name != "help") {
        let mut written = options_of_page(&section(&page, &format!(".Ss {name}")));
        written.extend(common.clone());
        assert_eq!(
            options_of_help(&stdout(&[name, "--help"])),
            written,
            "strew {name}"
        );
    }
}

#[test]
fn every_exit_status_is_listed() {
    let page = read("strew.1");
    let lines = section(&page, ".Sh EXIT STATUS");
    let listed: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(".It "))
        .collect();
    let all: Vec<String> = (0..=10).map(|status| status.to_string()).collect();
    assert_eq!(listed, all);
}

#[test]
fn keys_of_status_are_explained() {
    let page = read("strew.1");
    let explained: BTreeSet<&str> = section(&page, ".Ss status")
        .into_iter()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    let config = Config {
        key: NodeKey([1; 32]),
        serve: true,
        port: 7873,
        listen: "127.0.0.1:7873".to_string(),
        ipv4: true,
        ipv6: false,
    };
    let node = Node::new(
        Instant::EPOCH,
        config,
        MemoryStore::new(1 << 20),
        Rng::new([1; 32]),
    );
    let status = node.status(Instant::EPOCH);
    let mut printed: BTreeSet<&str> = status
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    // These lines are there only once other peers have been met.
    printed.extend(["address", "other_version"]);
    assert_eq!(explained, printed);
}

/// The bytes of the hex dump between the two comments with this name in a page.
fn dump(page: &str, name: &str) -> Vec<u8> {
    page.split(&format!(".\\\" begin {name}\n"))
        .nth(1)
        .and_then(|rest| rest.split(&format!(".\\\" end {name}\n")).next())
        .expect("the page has the markers")
        .lines()
        .enumerate()
        .flat_map(|(row, line)| {
            let (offset, bytes) = line.split_once("  ").expect("an offset and bytes");
            assert_eq!(offset, format!("{:04x}", 16 * row));
            bytes.split(' ')
        })
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

#[test]
fn protocol_page_shows_the_stream_of_a_directory() {
    let page = read("strew-protocol.7");
    let stream = dump(&page, "directory");
    let (head, rest) = stream.split_first_chunk().expect("a head");
    let len = Listing::parse_head(head, stream.len() as u64).expect("a length");
    let listing = Listing::parse(&rest[..len]).expect("a listing");
    assert_eq!(listing.length(), stream.len() as u64);
    let file = |len, is_executable| listing::Kind::File { len, is_executable };
    let target = b"d/run";
    let expected: [(&[u8], listing::Kind<'_>, &[u8]); 4] = [
        (b"d", listing::Kind::Directory, b""),
        (b"d/run", file(3, true), b"ls\n"),
        (b"l", listing::Kind::Link { target }, b""),
        (b"n", file(2, false), b"7\n"),
    ];
    assert_eq!(listing.count(), expected.len());
    for (index, (path, kind, content)) in expected.into_iter().enumerate() {
        assert_eq!(listing.entry(index), Entry { path, kind });
        let span = listing.span(index);
        assert_eq!(stream[span.start as usize..span.end as usize], *content);
    }
    let mut encoder = Encoder::of(Item::Directory, Form::Plain);
    encoder.push(&stream);
    encoder.finish();
    let (kind, payload) = encoder.poll_put().expect("a root");
    let root = Block::new(kind, payload).expect("a block");
    assert!(page.contains(&format!(".Ql {} .", root.id())));
}

/// The frames of one direction of a stream between peers.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(false);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.take(&mut bytes).expect("well-formed frames") {
        frames.push(frame);
    }
    assert!(decoder.is_between_frames() && bytes.is_empty());
    frames
}

#[test]
fn protocol_page_shows_both_sides_of_a_placement() {
    let page = read("strew-protocol.7");
    let root_kind = Kind::from_byte(3).expect("plain roots have a kind");
    let root = Block::new(root_kind, vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).expect("a block");
    let hello = |key, port, role| {
        Frame::Hello(Hello {
            key: NodeKey([key; 32]),
            port,
            role,
        })
    };
    let sharer = vec![
        hello(0xaa, 40_001, PeerRole::Private),
        Frame::Offer([BlockId([0xee; 32]), root.id()].map(offered).to_vec()),
        Frame::Put {
            id: root.id(),
            kind: root_kind,
            lifetime: LIFETIME,
            copies: 16,
            payload: root.payload().to_vec(),
        },
    ];
    let holder = vec![
        hello(0xbb, 7873, PeerRole::Peer),
        Frame::Want(vec![Answer::Have, Answer::Want]),
        Frame::Stored {
            id: root.id(),
            lifetime: LIFETIME,
        },
        Frame::Passed(root.id()),
    ];
    for (name, expected) in [("stream-sharer", sharer), ("stream-holder", holder)] {
        let bytes = dump(&page, name);
        assert_eq!(frames(&bytes), expected, "{name}");
        let mut encoded = Vec::new();
        for frame in &expected {
            frame.encode(&mut encoded);
        }
        assert_eq!(encoded, bytes, "{name}");
    }
}

/// Every frame under its name in the page. What may have several items or many bytes has one.
fn one_of_each_frame() -> Vec<(&'static str, Frame)> {
    let id = BlockId([9; 32]);
    let kind = Kind::from_byte(1).expect("plain leaves have a kind");
    let payload = vec![7];
    let text = "t".to_string();
    let hello = Hello {
        key: NodeKey([1; 32]),
        port: 7873,
        role: PeerRole::Peer,
    };
    let bye = Frame::Bye {
        reason: ByeReason::Done,
        text: text.clone(),
    };
    let pinned = Frame::Pinned {
        root: id,
        len: 1,
        missing: 0,
    };
    let counted = Counted {
        id,
        copies: 1,
        answered: 2,
        own: true,
    };
    let damaged = Frame::Damaged {
        offset: 64,
        len: 72,
        id: Some(id),
    };
    let put = Frame::Put {
        id,
        kind,
        lifetime: LIFETIME,
        copies: 8,
        payload: payload.clone(),
    };
    let block = Frame::Block {
        id,
        kind,
        payload: payload.clone(),
    };
    let answer = Answer::Full;
    let (copies, min_copies) = (8, 1);
    let (placed, holders, least) = (3, 2, 1);
    let reason = MissingReason::Absent;
    let asked = 5;
    vec![
        ("HELLO", Frame::Hello(hello)),
        ("BYE", bye),
        ("OFFER", Frame::Offer(vec![offered(id)])),
        ("WANT", Frame::Want(vec![answer])),
        ("PUT", put),
        (
            "STORED",
            Frame::Stored {
                id,
                lifetime: LIFETIME,
            },
        ),
        ("REFUSED", Frame::Refused { id, answer }),
        ("GET", Frame::Get(id)),
        ("BLOCK", block),
        ("ABSENT", Frame::Absent(id)),
        ("DIALED", Frame::Dialed(1)),
        ("PASSED", Frame::Passed(id)),
        (
            "SHARE",
            Frame::Share(Wanted {
                copies,
                min_copies,
                own: Own::Ordinary,
                lifetime: 0,
            }),
        ),
        ("ADD", Frame::Add { kind, payload }),
        ("ADDED", Frame::Added(id)),
        ("SETTLE", Frame::Settle),
        ("SETTLED", Frame::Settled(Settled::default())),
        (
            "PROGRESS",
            Frame::Progress {
                placed,
                holders,
                least,
            },
        ),
        ("FETCH", Frame::Fetch(id)),
        (
            "AWAITING",
            Frame::Awaiting {
                peers: 1,
                unfound: 2,
            },
        ),
        ("MISSING", Frame::Missing { id, reason, asked }),
        ("STATUS", Frame::Status),
        ("TEXT", Frame::Text(text.clone())),
        (
            "PEER",
            Frame::Peer("192.0.2.1:7873".parse().expect("an address")),
        ),
        ("YIELD", Frame::Yield),
        ("FAILED", Frame::Failed { status: 1, text }),
        ("PIN", Frame::Pin(id)),
        ("PINNING", Frame::Pinning { bytes: 1, len: 2 }),
        ("PINNED", pinned),
        ("UNPIN", Frame::Unpin(id)),
        ("UNPINNED", Frame::Unpinned(true)),
        ("PINS", Frame::Pins),
        (
            "COUNT",
            Frame::Count {
                root: id,
                blocks: vec![id],
            },
        ),
        ("COUNTED", Frame::Counted(vec![counted])),
        ("VERIFY", Frame::Verify { part: 0, of: 1 }),
        ("DAMAGED", damaged),
        ("VERIFYING", Frame::Verifying(Verifying::default())),
    ]
}

/// The first table of offsets in these lines: where each field begins, and its size; `...` is one byte.
fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(usize, usize)> {
    let mut lines = lines.skip_while(|&line| line != ".It Em Offset Ta Em Size Ta Em Meaning");
    lines.next().expect("a table of fields");
    let rows = lines.take_while(|&line| line != ".El");
    let rows = rows.filter_map(|line| line.strip_prefix(".It "));
    rows.map(|row| {
        let columns: Vec<&str> = row.split(" Ta ").collect();
        let number = |text: &str| text.trim_end_matches(" each").parse();
        let size = match columns[1] {
            "..." => 1,
            size => number(size).expect("a size"),
        };
        (number(columns[0]).expect("an offset"), size)
    })
    .collect()
}

#[test]
fn protocol_page_has_the_kind_and_the_size_of_every_frame() {
    let page = read("strew-protocol.7");
    let clients = section(&page, ".Sh CLIENTS");
    for (name, frame) in one_of_each_frame() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let kind = bytes[4];
        let fields = if kind < 32 {
            let lines = section(&page, &format!(".Ss {name}"));
            let said = format!("Kind {kind}");
            let said = lines[0].strip_prefix(said.as_str());
            assert!(
                said.is_some_and(|rest| rest.starts_with([' ', ','])),
                "{name}"
            );
            fields(lines.into_iter())
        } else {
            let row = format!(".It {kind} Ta {name} Ta ");
            assert!(clients.iter().any(|line| line.starts_with(&row)), "{row}");
            let empty = clients
                .iter()
                .filter(|line| line.ends_with("have an empty body."))
                .any(|line| line.split([' ', ',']).any(|word| word == name));
            let words = [format!("{name}:"), format!("{name},")];
            let is_head = |line: &&str| {
                line.split(' ').next_back() == Some(&words[0]) || line.starts_with(&words[1])
            };
            match clients.iter().position(is_head) {
                _ if empty => vec![],
                Some(first) => fields(clients[first..].iter().copied()),
                None => panic!("the page does not say what {name} consists of"),
            }
        };
        let mut end = 5;
        for (offset, size) in fields {
            assert_eq!(offset, end, "{name}: a field begins where the last ends");
            end = offset + size;
        }
        assert_eq!(end, bytes.len(), "{name}");
    }
}

#[test]
fn pages_are_lint_clean() {
    for page in PAGES {
        let mut mandoc = Command::new("mandoc");
        mandoc.args(["-T", "lint", "-W", "warning"]).arg(path(page));
        match mandoc.output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() && said.is_empty(), "{page}: {said}");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: mandoc not found");
                return;
            }
            Err(error) => panic!("run mandoc: {error}"),
        }
    }
}
