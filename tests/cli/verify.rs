//! `strew verify` finds what is damaged, and nothing else.

use crate::harness::*;
use crate::talker::Talker;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use strew::id::BlockId;
use strew::rng::Rng;
use strew::wire::frame::Frame;

/// Where the first record of a pack lies.
const RECORDS_AT: usize = 4160;

/// Shares some files into a directory of which no peer runs; the addresses of their roots.
fn shared(lab: &Lab) -> Vec<String> {
    (0..6)
        .map(|n| {
            let file = lab.file("file", &random_bytes(150_000 * (n + 1), n as u64));
            let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
            lab.strew(share).arg(&file).run().text()
        })
        .collect()
}

fn flip(lab: &Lab, at: u64) {
    let mut options = fs::File::options();
    let open = options.read(true).write(true).open(lab.path("d/pack"));
    let pack = open.expect("a pack");
    let mut byte = [0];
    pack.read_exact_at(&mut byte, at).expect("in the file");
    pack.write_all_at(&[byte[0] ^ 0x40], at).expect("written");
}

#[test]
fn sound_pack_is_status_0_and_every_part_is_read_once() {
    let lab = Lab::new();
    shared(&lab);
    let run = lab.strew(["verify", "-d", "d"]).run();
    run.expect_status(0);
    assert_eq!(run.stdout, b"");
    let blocks = |said: &str| -> u64 {
        let number = said
            .split("pack: ")
            .nth(1)
            .and_then(|it| it.split(' ').next());
        number.expect("a number of blocks").parse().expect("digits")
    };
    let all = blocks(&run.stderr);
    assert!(all >= 12, "{}", run.stderr);
    let parts = (1..=3).map(|part| {
        let subset = format!("--subset={part}/3");
        let run = lab.strew(["verify", "-d", "d", &subset]).run();
        run.expect_status(0);
        blocks(&run.stderr)
    });
    assert_eq!(parts.sum::<u64>(), all);
    lab.status(&lab.path("empty"), "blocks");
    let empty = lab.strew(["verify", "-d", "empty"]).run();
    empty.expect_status(0);
    assert!(empty.stderr.contains("0 blocks"), "{}", empty.stderr);
}

#[test]
fn damage_is_listed_each_time_status_6_and_what_is_sound_is_served() {
    let lab = Lab::new();
    let addresses = shared(&lab);
    let content = |n: usize| random_bytes(150_000 * (n + 1), n as u64);
    // In the first payload, which is a whole file, and in a header somewhere behind it.
    flip(&lab, RECORDS_AT as u64 + 64 + 1000);
    let pack = fs::read(lab.path("d/pack")).expect("a pack");
    let mark = &pack[16..24];
    let headers: Vec<usize> = (RECORDS_AT..pack.len() - 64)
        .step_by(8)
        .filter(|&at| &pack[at..at + 8] == mark)
        .collect();
    flip(&lab, headers[3] as u64 + 20);
    for _ in 0..2 {
        let run = lab.strew(["verify", "-d", "d"]).run();
        run.expect_status(6);
        let said = &run.stderr;
        assert!(
            said.contains("2 places are damaged") && said.contains("d/pack"),
            "{said}"
        );
        let said = String::from_utf8_lossy(&run.stdout).to_string();
        let places: Vec<Vec<&str>> = said.lines().map(|it| it.split(' ').collect()).collect();
        assert_eq!(places.len(), 2, "{said}");
        let place = |n: usize| (places[n][0].len(), places[n][1]);
        assert_eq!(place(0), (64, "4160"), "{said}");
        assert_eq!(place(1), (1, &headers[3].to_string()[..]), "{said}");
    }
    assert_eq!(
        lab.strew(["status", "-d", "d"])
            .run()
            .text()
            .matches("damaged 2\n")
            .count(),
        1
    );
    let fetched = |n: usize| {
        let fetch = ["fetch", "-q", "-d", "d", &addresses[n]];
        lab.strew(fetch).run()
    };
    assert!(fetched(4).bytes() == content(4), "what is sound is served");
    assert!(!fetched(0).status.success());
    // Shared again, it is stored anew.
    let file = lab.file("file", &content(0));
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    assert_eq!(lab.strew(share).arg(&file).run().text(), addresses[0]);
    assert!(fetched(0).bytes() == content(0));
    // What was there has been stored again; of the other place nobody knows.
    let run = lab.strew(["verify", "-d", "d"]).run();
    run.expect_status(6);
    let said = String::from_utf8_lossy(&run.stdout).to_string();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with(&format!("- {} ", headers[3])), "{said}");
    let page = lab.strew(["status", "-d", "d"]).run().text();
    assert!(page.contains("damaged 1\n"), "{page}");
}

#[test]
fn block_that_is_damaged_here_is_fetched_from_another() {
    let lab = Lab::new();
    let mut peers = lab.network(2);
    let content = random_bytes(900_000, 31);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "-d", "sharer", "-p", &peers[0].addr()];
    let address = lab.strew(share).arg(&file).run().text();
    let other = peers.pop().expect("two");
    peers.pop().expect("two").stop();
    // In a payload: the last byte of the record in the middle of the file.
    let pack = lab.path("peer0/pack");
    let len = pack.metadata().expect("a pack").len();
    let mut options = fs::File::options();
    let pack = options.read(true).write(true).open(pack).expect("a pack");
    let mut byte = [0];
    pack.read_exact_at(&mut byte, len / 2).expect("in the file");
    pack.write_all_at(&[byte[0] ^ 1], len / 2).expect("written");
    let peer = lab.serve("peer0", &["-p", &other.addr()]);
    lab.await_joined(&peer, 2);
    let fetch = ["fetch", "-q", "-d", "peer0", &address];
    assert!(lab.strew(fetch).run().bytes() == content);
    assert_eq!(lab.status(&peer.dir, "damaged"), "1");
    // And when a peer keeps the file, it is stored again.
    let pin = ["pin", "add", "-d", "peer0"];
    let root = address.split('.').next().expect("an address");
    lab.strew(pin).arg(root).run().expect_status(0);
    other.stop();
    assert!(lab.strew(fetch).run().bytes() == content);
    lab.strew(["verify", "-d", "peer0"]).run().expect_status(0);
    assert_eq!(lab.status(&peer.dir, "damaged"), "0", "nothing is missing");
    peer.stop();
}

#[test]
fn running_peer_verifies_for_two_at_once_and_goes_on_serving() {
    let lab = Lab::new();
    let peer = lab.serve("peer", &[]);
    let dir = peer.dir.display().to_string();
    let content = random_bytes(30 << 20, 3);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "--min-copies", "0", "-d", &dir];
    let address = lab.strew(share).arg(&file).run().text();
    let verify = ["verify", "--progress", "always", "-d", &dir];
    let mut gone = lab.strew(verify).start();
    let first = lab.strew(verify).start();
    let second = lab.strew(verify).run();
    kill(gone.id(), 9);
    gone.wait(std::time::Duration::from_secs(10));
    let fetched = lab.strew(["fetch", "-q", "-d", &dir, &address]).run();
    assert!(fetched.bytes() == content);
    second.expect_status(0);
    for said in ["all sound", "verify: ", "/s"] {
        assert!(second.stderr.contains(said), "{}", second.stderr);
    }
    let mut first = first;
    let status = first.wait(std::time::Duration::from_secs(20));
    assert_eq!(status.and_then(|it| it.code()), Some(0));
    peer.stop();
}

#[test]
fn pack_cut_from_outside_while_it_is_sent_ends_the_peer_with_a_message() {
    let lab = Lab::new();
    let mut peer = lab.serve("peer", &[]);
    let dir = peer.dir.display().to_string();
    let file = lab.file("file", &random_bytes(20 << 20, 9));
    let share = ["share", "-q", "--min-copies", "0", "-d", &dir];
    lab.strew(share).arg(&file).run().expect_status(0);
    let path = peer.dir.join("pack");
    let pack = fs::read(&path).expect("a pack");
    let marks = (RECORDS_AT..pack.len() - 64).step_by(8);
    let headers = marks.filter(|&at| pack[at..at + 8] == pack[16..24] && pack[at + 8] == 1);
    let ids = headers.map(|at| BlockId(pack[at + 16..at + 48].try_into().expect("32 bytes")));
    let ids: Vec<BlockId> = ids.take(60).collect();
    let mut talker = Talker::new(peer.addr, &mut Rng::new([1; 32]));
    for id in &ids {
        assert!(talker.say(&Frame::Get(*id)));
    }
    // They have been checked, and wait to be sent, since nobody reads them.
    await_true("blocks that wait", || {
        lab.status(&peer.dir, "blocks_given") == ids.len().to_string()
    });
    let open = fs::File::options().write(true).open(&path);
    open.and_then(|pack| pack.set_len(RECORDS_AT as u64))
        .expect("cut");
    talker.hear(Instant::now() + Duration::from_secs(20), |_| true);
    await_true("its end", || !peer.is_running());
    let said = peer.said();
    let place = format!("strew: {}: cannot be read at offset ", path.display());
    assert!(said.contains(&place), "{said}");
}

#[test]
fn nonsense_is_status_2() {
    let lab = Lab::new();
    for args in [
        &["verify", "--subset", "0/3"][..],
        &["verify", "--subset", "4/3"],
        &["verify", "--subset", "x"],
        &["verify", "pack"],
    ] {
        lab.strew(args).run().expect_failure(2, &["strew: "]);
    }
    assert!(!lab.path("data").exists());
}
