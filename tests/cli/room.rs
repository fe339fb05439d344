//! What happens when there is no room: blocks go for others, in order, and never those that have to stay.

use crate::harness::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

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
    let number = |key: &str| lab.number(&small.dir, key);
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

/// A share that is under way: some of its blocks are in the store of the peer, and more are to come.
fn begin_share(lab: &Lab, peer: &Serve, content: &[u8]) -> Process {
    let share = ["share", "-q", "--min-copies", "0", "-d"];
    let mut run = lab.strew(share).arg(&peer.dir);
    run.command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut client = run.start();
    let stdin = client.0.stdin.as_mut().expect("it is piped");
    stdin.write_all(content).expect("it is taken");
    let least = content.len() as u64 / 262_144;
    await_true("blocks in the store", || {
        let blocks: u64 = lab.number(&peer.dir, "blocks");
        blocks >= least
    });
    client
}

#[test]
fn share_that_does_not_end_keeps_no_room() {
    let lab = Lab::new();
    let args = ["--capacity", "3M"];
    let content = |n: u64| random_bytes(1_800_000, 40 + n);
    let share = |peer: &Serve, n: u64| {
        let file = lab.file("file", &content(n));
        let share = ["share", "-q", "--min-copies", "0", "-d"];
        lab.strew(share).arg(&peer.dir).arg(file).run()
    };
    // Its client is killed, or the peer is, with a client at work.
    let peer = lab.serve("first", &args);
    let mut client = begin_share(&lab, &peer, &content(0));
    kill(client.id(), 9);
    client.wait(LIMIT).expect("it is killed");
    await_true("room for another", || share(&peer, 1).status.success());
    peer.stop();
    let peer = lab.serve("second", &args);
    let _client = begin_share(&lab, &peer, &content(0));
    peer.kill();
    let peer = lab.serve("second", &args);
    share(&peer, 1).expect_status(0);
    peer.stop();

    // One that does end, and has no copies elsewhere, is kept, whatever becomes of the peer.
    let peer = lab.serve("third", &args);
    let address = share(&peer, 0).text();
    peer.kill();
    let peer = lab.serve("third", &args);
    share(&peer, 1).expect_failure(8, &["own copy", "--capacity"]);
    let fetch = ["fetch", "-q", "-d", "third", address.trim()];
    assert!(lab.strew(fetch).run().bytes() == content(0));
    peer.stop();
}
