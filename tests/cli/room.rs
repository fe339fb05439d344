//! What happens when there is no room: blocks go for others, in order, and never those that have to stay.

use crate::harness::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that a directory takes on its file system, as `du` counts them.
pub fn disk_usage(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).expect("a directory");
    // A file may go while it is looked at.
    let files = files.filter_map(|entry| entry.ok()?.metadata().ok());
    let own = dir.metadata().expect("a directory");
    files.chain([own]).map(|it| it.blocks() * 512).sum()
}

#[test]
fn file_larger_than_the_allotment_is_shared_by_dropping_what_others_hold() {
    let lab = Lab::new();
    let mut peers = lab.network(3);
    let addr = peers[0].addr();
    let content = random_bytes(12 << 20, 5);
    let file = lab.file("large", &content);
    let share = ["share", "-d", "sharer", "-p", &addr, "--capacity", "3M"];
    let run = lab.strew(share).arg(&file).run();
    assert!(run.stderr.contains("at least 3 copies"), "{}", run.stderr);
    let address = run.text();
    assert!(disk_usage(&lab.path("sharer")) <= 3 << 20);
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    let last = peers.pop().expect("three");
    for peer in peers {
        peer.stop();
    }
    let addr = last.addr();
    let fetch = ["fetch", "-d", "fetcher", "-p", &addr, address.trim()];
    assert!(lab.strew(fetch).run().bytes() == content);
    last.stop();
}

#[test]
fn file_larger_than_the_allotment_is_refused_where_nobody_takes_its_blocks() {
    let lab = Lab::new();
    let file = lab.file("large", &random_bytes(4 << 20, 6));
    let share = [
        "share",
        "-d",
        "sharer",
        "--min-copies",
        "0",
        "--capacity",
        "2M",
    ];
    let run = lab.strew(share).arg(&file).run();
    run.expect_failure(8, &["own copy", "--capacity"]);
}

#[test]
fn full_peer_takes_what_is_closer_and_says_how_often_it_refused() {
    let lab = Lab::new();
    let first = lab.serve("peer0", &["--capacity", "64M"]);
    let addr = first.addr();
    let small = lab.serve("peer1", &["-p", &addr, "--capacity", "2M"]);
    lab.await_joined(&small, 2);
    lab.await_joined(&first, 2);
    let mut addresses = Vec::new();
    for n in 0..6 {
        let file = lab.file("file", &random_bytes(1 << 20, 70 + n));
        let share = ["share", "-q", "-d", "sharer", "-p", &addr];
        addresses.push(lab.strew(share).arg(&file).run().text());
        assert!(disk_usage(&small.dir) <= 2 << 20);
    }
    let number = |key: &str| -> u64 { lab.status(&small.dir, key).parse().expect("a number") };
    assert!(number("used_bytes") <= 2 << 20);
    assert!(number("blocks_taken") > number("blocks"), "some had to go");
    assert!(number("refused_full") > 0, "and some were refused");
    for (n, address) in addresses.iter().enumerate() {
        let fetch = ["fetch", "-d", "fetcher", "-p", &addr, address.trim()];
        let bytes = lab.strew(fetch).run().bytes();
        assert!(bytes == random_bytes(1 << 20, 70 + n as u64), "file {n}");
    }
    first.stop();
    small.stop();
}
