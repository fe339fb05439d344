//! Directories go out and come back the same, and what is in the way stays.

use crate::harness::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

pub const LEAF: usize = 262_144;

/// A directory's content: for each path what is there.
type Tree = BTreeMap<Vec<u8>, Node>;

#[derive(Clone, PartialEq, Eq)]
enum Node {
    File(Vec<u8>, bool),
    Link(&'static str),
    Directory,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::File(bytes, is_executable) => {
                write!(f, "file of {} bytes, {is_executable}", bytes.len())
            }
            Node::Link(target) => write!(f, "link to {target}"),
            Node::Directory => f.write_str("directory"),
        }
    }
}

/// A file of every awkward kind.
fn everything() -> Tree {
    let mut tree = Tree::new();
    let mut add = |path: &[u8], node| tree.insert(path.to_vec(), node);
    let file = |len: usize| Node::File(random_bytes(len, len as u64), false);
    add(b"empty", Node::Directory);
    add(b"nothing", file(0));
    add(b"run", Node::File(b"#!/bin/sh\n".to_vec(), true));
    add("h\u{e9}llo w\u{f6}rld".as_bytes(), file(11));
    add(b"odd \xff\n\\", file(12));
    add(b"a", Node::Directory);
    add(b"a.b", file(13));
    add(b"a/up", Node::Link("../run"));
    add(b"a/down", Node::Link("deep"));
    add(b"link to nothing", Node::Link("none/there"));
    add(b"leaf", file(LEAF));
    add(b"less", file(LEAF - 1));
    add(b"large", file(3 * LEAF + 77));
    let mut deep = b"a/deep".to_vec();
    for _ in 0..40 {
        add(&deep, Node::Directory);
        deep.extend_from_slice(b"/d");
    }
    add(&deep, file(14));
    add(b"many", Node::Directory);
    for n in 0..300 {
        let bytes = random_bytes(3000 + n, n as u64);
        add(
            format!("many/{n}").as_bytes(),
            Node::File(bytes, n % 7 == 0),
        );
    }
    tree
}

fn at(dir: &Path, path: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(path))
}

/// Makes a directory of this content; directories before what lies in them, otherwise in any order.
fn make<'a>(dir: &Path, tree: impl Iterator<Item = (&'a Vec<u8>, &'a Node)> + Clone) {
    fs::create_dir(dir).expect("made");
    let is_dir = |node: &&Node| matches!(node, Node::Directory);
    let mut dirs: Vec<&Vec<u8>> = tree
        .clone()
        .filter(|it| is_dir(&it.1))
        .map(|it| it.0)
        .collect();
    dirs.sort();
    dirs.into_iter()
        .for_each(|path| fs::create_dir(at(dir, path)).expect("made"));
    for (path, node) in tree {
        let path = at(dir, path);
        match node {
            Node::Directory => {}
            Node::Link(target) => symlink(target, path).expect("made"),
            Node::File(bytes, is_executable) => {
                fs::write(&path, bytes).expect("written");
                let mode = if *is_executable { 0o700 } else { 0o600 };
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
            }
        }
    }
}

/// What is in a directory.
fn read(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![Vec::new()];
    while let Some(within) = dirs.pop() {
        for entry in fs::read_dir(at(dir, &within)).expect("it is there") {
            let entry = entry.expect("an entry");
            let mut path = within.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(entry.file_name().into_vec());
            let metadata = entry.metadata().expect("its own");
            let node = if metadata.is_dir() {
                dirs.push(path.clone());
                Node::Directory
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link");
                Node::Link(target.to_str().expect("text").to_string().leak())
            } else {
                let bytes = fs::read(entry.path()).expect("ours");
                Node::File(bytes, metadata.permissions().mode() & 0o111 != 0)
            };
            tree.insert(path, node);
        }
    }
    tree
}

/// What of a directory is below a path.
fn below(tree: &Tree, path: &str) -> Tree {
    let strip = |(at, node): (&Vec<u8>, &Node)| {
        let rest = at.strip_prefix(path.as_bytes())?.strip_prefix(b"/")?;
        Some((rest.to_vec(), node.clone()))
    };
    tree.iter().filter_map(strip).collect()
}

/// Two peers, and how they are used.
pub struct Net {
    pub lab: Lab,
    pub peers: Vec<Serve>,
    addr: String,
}

impl Net {
    pub fn new() -> Net {
        let lab = Lab::new();
        let peers = lab.network(2);
        let addr = peers[0].addr();
        Net { lab, peers, addr }
    }

    /// Shares something from a data directory that is gone then.
    fn share(&self, what: &str) -> String {
        let share = ["share", "-q", "-d", "sharer", "-p", &self.addr, what];
        let address = self.lab.strew(share).run().text();
        fs::remove_dir_all(self.lab.path("sharer")).expect("removed");
        address
    }

    pub fn run(&self, command: &str, args: &[&str]) -> Run {
        let base = [command, "-d", "data", "-p", &self.addr];
        self.lab.strew(base).args(args)
    }

    /// The sum of one value over the peers' status.
    fn sum(&self, key: &str) -> u64 {
        self.lab.sum(&self.peers, key)
    }
}

#[test]
fn directory_comes_back_as_it_was_wherever_it_was_made() {
    let net = Net::new();
    let (lab, tree) = (&net.lab, everything());
    make(&lab.path("tree"), tree.iter());
    let address = net.share("tree");
    assert_eq!(lab.strew(["hash", "tree/"]).run().text(), address);
    // Another order, another name, other times, other rights.
    make(&lab.path("copy"), tree.iter().rev());
    let file = fs::File::open(lab.path("copy/a.b")).expect("ours");
    file.set_modified(SystemTime::UNIX_EPOCH).expect("ours");
    fs::set_permissions(lab.path("copy/leaf"), Permissions::from_mode(0o444)).expect("ours");
    assert_eq!(lab.strew(["hash", "copy"]).run().text(), address);
    symlink("copy", lab.path("link")).expect("made");
    assert_eq!(lab.strew(["hash", "link"]).run().text(), address);
    for remove in ["tree", "copy"] {
        fs::remove_dir_all(lab.path(remove)).expect("removed");
    }
    net.run("fetch", &["-o", "out/", &address]).run().bytes();
    assert_eq!(read(&lab.path("out")), tree);
    assert!(!lab.path("out.part").exists());
    // Parts of it.
    for path in ["many", "a", "empty", "a/deep/d"] {
        let part = format!("{address}/{path}/");
        let outcome = net.run("fetch", &["-o", "part", &part]).run();
        if path == "a" {
            outcome.expect_failure(1, &["a/up: ", "leads out"]);
            continue;
        }
        outcome.bytes();
        assert_eq!(read(&lab.path("part")), below(&tree, path), "{path}");
        fs::remove_dir_all(lab.path("part")).expect("removed");
    }
    for (path, node) in &tree {
        // Many are like one.
        let is_one_of_many = path.starts_with(b"many/") && path != b"many/7";
        let Node::File(bytes, _) = node else {
            continue;
        };
        if !is_one_of_many {
            let place = [address.as_bytes(), b"/", path].concat();
            let fetch = net.run("fetch", &[]).arg(OsStr::from_bytes(&place));
            assert!(fetch.run().bytes() == *bytes, "{}", path.escape_ascii());
        }
    }
    // And without encryption, and nothing at all.
    fs::create_dir(lab.path("void")).expect("made");
    let plain = lab.strew([
        "share", "--plain", "-q", "-d", "data", "-p", &net.addr, "void",
    ]);
    let plain = plain.run().text();
    net.run("fetch", &["-o", "none", &plain]).run().bytes();
    assert_eq!(read(&lab.path("none")), Tree::new());
    assert_eq!(net.run("ls", &[&plain]).run().text(), "");
    // Whoever has only the address can count and pin it.
    let id = &address[..64];
    net.run("check", &[id]).run().expect_status(0);
    net.run("pin", &["add", id]).run().expect_status(0);
}

#[test]
fn one_file_is_taken_by_its_path_and_a_list_costs_no_more_than_the_list() {
    let net = Net::new();
    let (lab, tree) = (&net.lab, everything());
    make(&lab.path("tree"), tree.iter());
    let address = net.share("tree");
    let before = net.sum("blocks_given");
    let list = net.run("ls", &[&address]).run().text();
    assert_eq!(net.sum("blocks_given") - before, 2, "the root and a leaf");
    assert_eq!(list.lines().count(), tree.len());
    for line in [
        "d - a",
        "l - a/up -> ../run",
        "x 10 run",
        "f 0 nothing",
        "f 12 odd \\377\\012\\134",
        "f 11 h\u{e9}llo w\u{f6}rld",
    ] {
        assert!(list.lines().any(|it| it == line), "{line} in {list}");
    }
    let of_part = net
        .run("ls", &[&format!("{address}/a/deep/d")])
        .run()
        .text();
    assert_eq!(of_part.lines().next(), Some("d - a/deep/d/d"));
    assert_eq!(of_part.lines().count(), 39);
    let of_one = net
        .run("ls", &["--json", &format!("{address}/a/up")])
        .run()
        .text();
    assert_eq!(
        of_one,
        "{\"v\":1,\"type\":\"entry\",\"kind\":\"link\",\"path\":\"a/up\",\"bytes\":null,\"target\":\"../run\"}"
    );
    let Node::File(large, _) = &tree[&b"large"[..]] else {
        panic!("a file");
    };
    let place = format!("{address}/large");
    let before = net.sum("blocks_given");
    let range = ["--range", "600000-600099", &place];
    assert!(net.run("fetch", &range).run().bytes() == large[600_000..600_100]);
    assert_eq!(net.sum("blocks_given") - before, 3, "with one more leaf");
    // What the owner may execute can be executed, and a part of it cannot.
    for (args, is_executable) in [(&[][..], true), (&["--range", "0-4"], false)] {
        let place = [&format!("{address}/run")];
        let mut fetch = net.run("fetch", &["-f", "-o", "run"]);
        fetch = fetch.args(args).args(place);
        fetch.run().expect_status(0);
        let mode = fs::metadata(lab.path("run"))
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o111 != 0, is_executable, "{mode:o}");
    }
    fs::remove_file(lab.path("run")).expect("removed");
    // What an interrupted fetch has left of a file in a directory is gone on from.
    for len in [100, LEAF + 5, large.len()] {
        lab.file("out.part", &large[..len]);
        let outcome = net.run("fetch", &["-o", "out", &place]).run();
        outcome.expect_said(&["were there already"]);
        assert!(fs::read(lab.path("out")).expect("there") == *large);
        fs::remove_file(lab.path("out")).expect("removed");
    }
    let missing = net.run("fetch", &[&format!("{address}/a/nowhere/x")]).run();
    missing.expect_failure(3, &["no a/nowhere/x", "a is there", "strew ls"]);
    let missing = net.run("ls", &[&format!("{address}/nowhere")]).run();
    missing.expect_failure(3, &["no nowhere", "nothing of the path is there"]);
    let link = net.run("fetch", &[&format!("{address}/a/up")]).run();
    link.expect_failure(1, &["a/up is a link to ../run"]);
    let through = net.run("fetch", &[&format!("{address}/a/down/d")]).run();
    through.expect_failure(3, &["no a/down/d", "a/down is there"]);
    lab.file("file", b"content");
    let file = net.share("file");
    assert_eq!(net.run("ls", &[&file]).run().text(), "f 7 -");
    for command in ["fetch", "ls"] {
        let within = net.run(command, &[&format!("{file}/x")]).run();
        within.expect_failure(2, &["is a file, there is no x in it"]);
    }
}

#[test]
fn directory_is_not_written_where_a_file_could_be() {
    let net = Net::new();
    let lab = &net.lab;
    let tree: Tree = [(b"f".to_vec(), Node::File(b"content".to_vec(), false))].into();
    make(&lab.path("tree"), tree.iter());
    let address = net.share("tree");
    lab.file("old", b"old");
    let before = lab.names();
    for args in [&[][..], &["-o", "-"], &["-o", "/dev/null"]] {
        let outcome = net.run("fetch", args).arg(&address).run();
        outcome.expect_failure(2, &["is a directory", "-o DIR", "/PATH", "strew ls"]);
    }
    let range = net.run("fetch", &["--range", "0-1", "-o", "out", &address]);
    range.run().expect_failure(2, &["--range"]);
    for (args, status) in [
        (&["-o", "tree"][..], 9),
        (&["-f", "-o", "tree"], 9),
        (&["-o", "old"], 9),
        (&["-f", "-o", "old"], 9),
    ] {
        let outcome = net.run("fetch", args).arg(&address).run();
        outcome.expect_failure(status, &[args[args.len() - 1], "exists"]);
    }
    let outcome = net.run("fetch", &["-o", "none/out", &address]).run();
    outcome.expect_failure(1, &["none/out", "No such file"]);
    assert_eq!(lab.names(), before);
    assert_eq!(fs::read(lab.path("old")).expect("there"), b"old");
    // What is in the place of the part stays, with -f, too.
    let others: [&dyn Fn(&Path); 4] = [
        &|part| fs::write(part, b"mine").expect("written"),
        &|part| symlink("tree", part).expect("made"),
        &|part| {
            fs::create_dir(part).expect("made");
            fs::write(part.join("mine"), b"mine").expect("written");
        },
        &|part| {
            fs::create_dir(part).expect("made");
            fs::write(part.join("f"), b"mine").expect("written");
        },
    ];
    for other in others {
        let part = lab.path("out.part");
        other(&part);
        let outcome = net.run("fetch", &["-f", "-o", "out", &address]).run();
        outcome.expect_failure(9, &["out.part", "remove"]);
        assert!(!lab.path("out").exists());
        match fs::symlink_metadata(&part).expect("left alone").is_dir() {
            true => {
                assert_eq!(read(&part).len(), 1);
                fs::remove_dir_all(&part).expect("removed");
            }
            false => fs::remove_file(&part).expect("removed"),
        }
    }
    assert_eq!(read(&lab.path("tree")), tree);
}

#[test]
fn what_cannot_be_shared_is_refused_by_name() {
    let lab = Lab::new();
    let share = ["share", "-d", "data", "--min-copies", "0", "tree"];
    let refused = |make: &dyn Fn(&Path), said: &[&str]| {
        let dir = lab.path("tree");
        fs::create_dir_all(dir.join("d")).expect("made");
        make(&dir);
        lab.strew(share).run().expect_failure(1, said);
        lab.strew(["hash", "tree"]).run().expect_failure(1, said);
        fs::remove_dir_all(dir).expect("removed");
    };
    let link =
        |target: &'static str| move |dir: &Path| symlink(target, dir.join("d/l")).expect("made");
    for target in ["/etc/passwd", "../..", "../../x", "x/../../.."] {
        refused(&link(target), &["tree/d/l: the link"]);
    }
    refused(
        &|dir| {
            let path = std::ffi::CString::new(dir.join("pipe").into_os_string().into_vec());
            // SAFETY: the path ends in a zero byte.
            unsafe { libc::mkfifo(path.expect("no zero in it").as_ptr(), 0o600) };
        },
        &["tree/pipe: is a named pipe"],
    );
    refused(
        &|dir| drop(std::os::unix::net::UnixListener::bind(dir.join("s")).expect("bound")),
        &["tree/s: is a socket"],
    );
    assert!(
        !lab.path("data").exists(),
        "no peer was started for nothing"
    );
}

#[test]
fn large_file_in_a_directory_is_not_sent_again() {
    let net = Net::new();
    let lab = &net.lab;
    let large = Node::File(random_bytes(4 * LEAF + 5, 1), false);
    let small = Node::File(random_bytes(1000, 2), false);
    let tree: Tree = [(b"large".to_vec(), large), (b"small".to_vec(), small)].into();
    make(&lab.path("tree"), tree.iter());
    net.share("tree/large");
    let before = net.sum("blocks_taken");
    let address = net.share("tree");
    // The root, and the leaf of the listing and the small file; on each of the peers.
    assert_eq!(net.sum("blocks_taken") - before, 2 * 2);
    net.run("fetch", &["-o", "out", &address]).run().bytes();
    assert_eq!(read(&lab.path("out")), tree);
}

/// A tree that takes a while, with its address.
fn halfway(net: &Net) -> (Tree, String, Process, u32) {
    let mut tree = everything();
    tree.insert(
        b"vast".to_vec(),
        Node::File(random_bytes(24 << 20, 3), false),
    );
    make(&net.lab.path("tree"), tree.iter());
    let address = net.share("tree");
    let (dir, part) = (net.lab.path("data"), net.lab.path("out.part/vast"));
    let mut run = net.run("fetch", &["-o", "out", "--buffer", "512K", &address]);
    run.command.stderr(Stdio::null());
    let fetch = run.start();
    let peer = await_some("a private peer", || {
        owner(&dir).filter(|_| dir.join("control.sock").exists())
    });
    await_true("a part of the last file", || {
        part.metadata().is_ok_and(|part| part.len() > LEAF as u64)
    });
    kill(peer, libc::SIGSTOP);
    (tree, address, fetch, peer)
}

#[test]
fn killed_fetch_of_a_directory_is_gone_on_from() {
    let net = Net::new();
    let (tree, address, mut fetch, peer) = halfway(&net);
    let lab = &net.lab;
    let other = [
        "fetch", "-d", "other", "-p", &net.addr, "-o", "out", &address,
    ];
    let second = lab.strew(other).run();
    second.expect_failure(10, &["out.part", "another fetch"]);
    kill(fetch.id(), libc::SIGKILL);
    fetch.wait(LIMIT).expect("it is killed");
    kill(peer, libc::SIGCONT);
    await_true("the end of the private peer", || {
        lab.is_released(&lab.path("data"))
    });
    assert!(!lab.path("out").exists());
    let part = lab.path("out.part");
    let had = fs::metadata(part.join("vast")).expect("there").len();
    assert!(had < 20 << 20, "{had}");
    // One damaged file costs what follows it, in the order of the stream, and nothing else.
    let damage = |name: &str| {
        let path = part.join(name);
        let mut bytes = fs::read(&path).expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    damage("vast");
    symlink("../run", part.join("a/up")).expect("a link that was made already");
    let before = net.sum("blocks_given");
    let outcome = net.run("fetch", &["-o", "out", &address]).run();
    outcome.expect_status(0);
    outcome.expect_said(&["were there already"]);
    assert_eq!(read(&lab.path("out")), tree);
    assert!(!part.exists());
    // The root, the listing, what of the last file is missing, and some that were asked of two.
    let all = 24 * 4 + 6;
    let given = net.sum("blocks_given") - before;
    assert!(given <= all - had / LEAF as u64, "{given} of {all}, {had}");
    // All is there but for the name, and then in a file at the beginning something is not.
    for is_damaged in [false, true] {
        fs::rename(lab.path("out"), &part).expect("renamed");
        if is_damaged {
            damage("many/17");
        }
        let outcome = net.run("fetch", &["-o", "out", &address]).run();
        outcome.expect_status(0);
        outcome.expect_said(&["were there already"]);
        assert_eq!(read(&lab.path("out")), tree);
    }
}

#[test]
fn directory_that_was_replaced_while_it_was_written_does_not_get_the_name() {
    let net = Net::new();
    let (_, _, mut fetch, peer) = halfway(&net);
    let path = |name: &str| net.lab.path(name);
    fs::rename(path("out.part"), path("ours")).expect("renamed");
    fs::create_dir(path("out.part")).expect("made");
    kill(peer, libc::SIGCONT);
    let status = fetch.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert!(!path("out").exists());
    assert_eq!(fs::read_dir(path("out.part")).expect("there").count(), 0);
}

#[test]
fn killed_fetch_of_a_file_that_begins_within_a_block_is_gone_on_from() {
    const LEN: usize = 200_000;
    let net = Net::new();
    let files = (1..=3).map(|nth| {
        let name = format!("{nth}").into_bytes();
        (name, Node::File(random_bytes(LEN, nth), false))
    });
    let tree = Tree::from_iter(files);
    make(&net.lab.path("tree"), tree.iter());
    let last = net.share("tree") + "/3";
    for had in [LEN, 150_000, 100_000, 1] {
        net.lab.file("out.part", &random_bytes(LEN, 3)[..had]);
        let outcome = net.run("fetch", &["-f", "-o", "out", &last]).run();
        outcome.expect_status(0);
        outcome.expect_said(&["were there already"]);
        assert!(fs::read(net.lab.path("out")).expect("there") == random_bytes(LEN, 3));
    }
}

#[test]
fn file_that_changes_while_it_is_shared_is_refused_by_name() {
    let lab = Lab::new();
    let tree: Tree = [
        (b"a".to_vec(), Node::File(random_bytes(600_000, 1), false)),
        (b"b".to_vec(), Node::File(random_bytes(600_000, 2), false)),
    ]
    .into();
    make(&lab.path("tree"), tree.iter());
    // A hole of 4 GiB takes its time, and no room.
    let peer = lab.serve("peer", &[]);
    let mut large = fs::OpenOptions::new();
    let large = large.append(true).open(lab.path("tree/b")).expect("ours");
    large.set_len(4 << 30).expect("longer");
    let share = [
        "share",
        "--min-copies",
        "0",
        "--timeout",
        "50",
        "tree",
        "-d",
    ];
    let mut run = lab.strew(share).arg(&peer.dir);
    run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut share = run.start();
    await_true("blocks of it", || lab.number(&peer.dir, "blocks") > 3);
    large.set_len(600_000).expect("shorter");
    let status = share.wait(LIMIT).expect("it ends");
    let mut said = String::new();
    let mut stderr = share.0.stderr.take().expect("piped");
    std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("tree/b: has changed"), "{said}");
}
