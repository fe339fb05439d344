//! Twenty real peers behind slow lines, nearer and farther: together they give as much as all their lines carry.

use crate::harness::*;
use crate::lines::{Line, Lines};
use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PEERS: u32 = 20;

/// Bytes a second that each peer sends: one part in 25 of 100 Mbit/s.
const RATE: usize = 512 << 10;

/// Copies of each block: with few, some peers have less of the file than their lines would carry.
const COPIES: &str = "10";

/// Bytes of the file, in MiB.
const LEN: usize = 512;

/// The way to the nearest peer and to the farthest, and as long back.
const NEAREST: Duration = Duration::from_millis(1);
const FARTHEST: Duration = Duration::from_millis(300);

#[test]
#[ignore = "a minute and more: make sources"]
fn twenty_peers_from_1_to_300_ms_away_give_most_of_what_their_lines_carry() {
    let (lab, all) = (Lab::new(), Lines::new());
    let (mut peers, mut lines) = (Vec::new(), Vec::<Arc<Line>>::new());
    for index in 0..PEERS {
        let first = lines.first().map(|line| line.addr().to_string());
        let args: Vec<&str> = first.iter().flat_map(|addr| ["-p", addr]).collect();
        let peer = lab.serve(&format!("peer{index}"), &args);
        lines.push(all.add(peer.addr, Duration::ZERO));
        peers.push(peer);
    }
    for peer in &peers {
        lab.await_joined(peer, PEERS as usize);
    }
    let mut file = File::create(lab.path("file")).expect("made");
    for seed in 0..LEN as u64 {
        file.write_all(&random_bytes(1 << 20, seed)).expect("room");
    }
    let first = lines[0].addr().to_string();
    let share = [
        "share", "-q", "--copies", COPIES, "-d", "sharer", "-p", &first, "file",
    ];
    let limit = 5 * LIMIT;
    let shared = lab.strew(share).limit(limit).run();
    println!("shared in {:?}", shared.took);
    let address = shared.text();
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    // Only from now on are lines slow.
    fs::create_dir_all(lab.path("home/.config/strew")).expect("made");
    fs::write(lab.path("home/.config/strew/config"), "up-rate = 512K\n").expect("written");
    for (nth, peer) in (0..).zip(&peers) {
        all.add(
            peer.addr,
            NEAREST + (FARTHEST - NEAREST) * nth / (PEERS - 1),
        );
        kill(peer.pid(), libc::SIGHUP);
    }
    let fetch = ["fetch", "-q", "-d", "fetcher", "-p", &first];
    let sent = || -> u64 {
        let sent = peers.iter();
        let sent = sent.map(|peer| lab.status(&peer.dir, "tcp_bytes_sent"));
        sent.map(|it| it.parse::<u64>().expect("a number")).sum()
    };
    // To a file each block is written where it belongs; a stream waits for the next, and its buffer fills up.
    for (how, least) in [("-o out", 0.9), ("-o -", 0.8)] {
        let before = sent();
        let mut fetch = lab.strew(fetch).args(how.split(' ')).arg(&address);
        fetch.command.stdout(Stdio::null());
        let began = Instant::now();
        let status = fetch.start().wait(limit).expect("it ends");
        let took = began.elapsed();
        assert_eq!(status.code(), Some(0));
        let part = (LEN << 20) as f64 / took.as_secs_f64() / (PEERS as usize * RATE) as f64;
        println!(
            "{how}: {took:?} for {LEN} MiB, {:.0} % of what the lines carry; {} MiB sent",
            100.0 * part,
            (sent() - before) >> 20
        );
        assert!(part >= least, "{how}: {part}");
        fs::remove_dir_all(lab.path("fetcher")).expect("removed");
    }
    lab.program("cmp", ["file", "out"]).run().expect_status(0);
}
