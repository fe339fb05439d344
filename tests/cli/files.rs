//! Files of all awkward sizes go out and come back the same, with the peer that shared them gone.

use crate::harness::*;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

const BLOCK: usize = 262_144;

/// Sizes on both sides of every boundary that a small file can cross.
fn sizes() -> Vec<usize> {
    let roots = [ROOT_MAX_ENCRYPTED, ROOT_MAX_PLAIN];
    let mut sizes = vec![0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 << 20];
    sizes.extend(roots.iter().flat_map(|&max| [max, max + 1]));
    sizes
}

/// Shares files of all sizes in one command, from a private peer that is gone afterwards, and fetches them
/// again in another directory.
fn all_sizes_come_back(listen: &str, form: &[&str]) {
    let lab = Lab::new();
    let first = lab.serve_at("peer0", listen, &[]);
    let addr = first.addr();
    let second = lab.serve_at("peer1", listen, &["-p", &addr]);
    lab.await_joined(&second, 2);
    lab.await_joined(&first, 2);
    let contents: Vec<Vec<u8>> = sizes()
        .into_iter()
        .map(|size| random_bytes(size, size as u64))
        .collect();
    let files: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(index, bytes)| lab.file(&format!("file{index}"), bytes))
        .collect();

    let hash = lab.strew(["hash"]).args(form).args(&files).run().text();
    let share = ["share", "-d", "sharer", "-p", &addr];
    let shared = lab.strew(share).args(form).args(&files).run();
    assert!(
        shared.stderr.contains("at least 2 copies"),
        "{}",
        shared.stderr
    );
    assert_eq!(shared.text(), hash, "hash prints what share does");
    assert!(lab.is_released(&lab.path("sharer")));
    fs::remove_dir_all(lab.path("sharer")).expect("removed");

    let mut by_stdin = Vec::new();
    for (address, content) in hash.lines().zip(&contents) {
        let (data, key) = address.split_once('.').unwrap_or((address, ""));
        let lengths = (data.len(), key.len());
        assert_eq!(lengths, (64, if form.is_empty() { 64 } else { 0 }));
        let share = ["share", "-q", "-d", "sharer2", "-p", &addr];
        let run = lab.strew(share).args(form).input(content.clone());
        by_stdin.push(run.run().text());

        let fetch = ["fetch", "-d", "fetcher", "-p", &addr, address];
        let run = lab.strew(fetch).run();
        assert_eq!(run.stderr, "");
        assert!(run.bytes() == *content, "{} bytes to stdout", content.len());
        let run = lab.strew(fetch).args(["-o", "out"]).run();
        assert_eq!(run.bytes(), b"");
        let file = fs::read(lab.path("out")).expect("it is there");
        assert!(file == *content, "{} bytes to a file", content.len());
        assert!(!lab.path("out.part").exists());
        fs::remove_file(lab.path("out")).expect("removed");
    }
    assert_eq!(by_stdin.join("\n"), hash, "stdin is shared as a file is");
    first.stop();
    second.stop();
}

#[test]
fn encrypted_files_of_all_sizes_come_back() {
    all_sizes_come_back("127.0.0.1:0", &[]);
}

#[test]
fn plain_files_of_all_sizes_come_back() {
    all_sizes_come_back("127.0.0.1:0", &["--plain"]);
}

#[test]
fn files_come_back_over_ipv6() {
    match has_ipv6() {
        true => all_sizes_come_back("[::1]:0", &[]),
        false => println!("skipped: ::1 not found"),
    }
}

#[test]
fn one_peer_for_both_families_serves_both() {
    if !has_ipv6() {
        return println!("skipped: ::1 not found");
    }
    let lab = Lab::new();
    // Bound to all addresses, since that is what makes a socket of both families.
    let both = lab.serve_at("both", "[::]:0", &[]);
    let addr4 = format!("127.0.0.1:{}", both.addr.port());
    let addr6 = format!("[::1]:{}", both.addr.port());
    let content = random_bytes(300_000, 5);
    let share = ["share", "-d", "four", "-p", &addr4];
    let address = lab.strew(share).input(content.clone()).run().text();
    let fetch = ["fetch", "-d", "six", "-p", &addr6, &address];
    assert!(lab.strew(fetch).run().bytes() == content);
}

/// A file that crosses a node of the tree, compared as streams.
#[test]
fn large_file_comes_back() {
    const SIZE: usize = 300 << 20;
    let lab = Lab::new();
    let peers = lab.network(2);
    let file = lab.path("file");
    let mut out = fs::File::create(&file).expect("created");
    for seed in 0..SIZE as u64 >> 20 {
        out.write_all(&random_bytes(1 << 20, seed))
            .expect("written");
    }
    drop(out);
    let long = Duration::from_secs(150);
    let addr = peers[0].addr();
    let share = ["share", "-d", "sharer", "-p", &addr, "file"];
    let shared = lab.strew(share).limit(long).run();
    assert!(
        shared.stderr.contains("at least 2 copies"),
        "{}",
        shared.stderr
    );
    let address = shared.text();
    assert_eq!(lab.strew(["hash", "file"]).run().text(), address);
    assert!(lab.is_released(&lab.path("sharer")));
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    let fetch = ["fetch", "-d", "fetcher", "-p", &addr, "-o", "out", &address];
    assert_eq!(lab.strew(fetch).limit(long).run().bytes(), b"");
    assert!(have_same_bytes(&file, &lab.path("out")));
    for peer in peers {
        peer.stop();
    }
}

fn have_same_bytes(left: &Path, right: &Path) -> bool {
    let open = |path| fs::File::open(path).expect("it opens");
    let (mut left, mut right) = (open(left), open(right));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = left.read(&mut a).expect("read");
        if len == 0 {
            return right.read(&mut b).expect("read") == 0;
        }
        if right.read_exact(&mut b[..len]).is_err() || a[..len] != b[..len] {
            return false;
        }
    }
}

#[test]
fn the_peer_that_shared_can_stop_as_any_other() {
    let lab = Lab::new();
    let mut peers = lab.network(3);
    let content = random_bytes(1_000_000, 7);
    let last = peers.pop().expect("three");
    let dir = last.dir.clone();
    let share = lab.strew(["share", "-d"]).arg(&dir).input(content.clone());
    let shared = share.run();
    assert!(
        shared.stderr.contains("at least 2 copies"),
        "{}",
        shared.stderr
    );
    let address = shared.text();
    last.stop();
    for (index, peer) in peers.iter().enumerate() {
        let dir = format!("fetcher{index}");
        let fetch = lab.strew(["fetch", "-d", &dir, "-p", &peer.addr(), &address]);
        assert!(fetch.run().bytes() == content);
        // It is also what a peer gives its own clients, with the network or without.
        let fetch = lab.strew(["fetch", &address, "-d"]).arg(&peer.dir);
        assert!(fetch.run().bytes() == content);
    }
}

#[test]
fn a_bad_file_among_several_does_not_stop_the_rest() {
    let lab = Lab::new();
    lab.file("one", b"one");
    lab.file("two", b"two");
    lab.file("file", b"");
    let share = [
        "share",
        "-d",
        "d",
        "--min-copies",
        "0",
        "one",
        "none",
        "file/x",
        "two",
    ];
    let shared = lab.strew(share).run();
    shared.expect_status(1);
    for part in ["none: No such file", "file/x: Not a directory"] {
        assert!(shared.stderr.contains(part), "{}", shared.stderr);
    }
    let hashed = lab.strew(["hash", "one", "none", "file/x", "two"]).run();
    hashed.expect_status(1);
    let text = String::from_utf8(shared.stdout).expect("text");
    assert_eq!(text.lines().count(), 2);
    assert_eq!(text.as_bytes(), hashed.stdout);
    let hash = lab
        .strew(["hash", "-", "--plain"])
        .input("abc")
        .run()
        .text();
    assert_eq!(hash.len(), 64);
}

#[test]
fn fetch_by_a_peer_that_holds_nothing_of_it_stores_nothing() {
    let lab = Lab::new();
    let holder = lab.serve("holder", &[]);
    let content = random_bytes(2_000_000, 77);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "--min-copies", "0", "-d", "holder"];
    let address = lab.strew(share).arg(&file).run().text();
    let peer = lab.serve("peer", &["-p", &holder.addr()]);
    let number = |key: &str| lab.status(&peer.dir, key);
    await_true("a peer that knows the other", || number("contacts") == "1");
    let stored = || (number("blocks"), number("payload_bytes"));
    let before = stored();
    assert_eq!(before, ("0".to_string(), "0".to_string()));
    let fetch = ["fetch", "-q", "-d", "peer", &address];
    for _ in 0..2 {
        assert!(lab.strew(fetch).run().bytes() == content);
        assert_eq!(stored(), before);
    }
    // What is pinned is stored.
    let fetch = lab.strew(fetch).arg("--pin").run();
    assert!(fetch.bytes() == content);
    assert!(stored() > before);
    holder.stop();
    peer.stop();
}
