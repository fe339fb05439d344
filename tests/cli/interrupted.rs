//! Commands that are killed and given again: what was done once is not done again.

use crate::harness::*;
use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

/// How often a command is killed.
const KILLS: usize = 20;

/// One number of several peers, together.
fn sum(lab: &Lab, peers: &[Serve], key: &str) -> u64 {
    let numbers = peers.iter().map(|peer| lab.status(&peer.dir, key));
    numbers.map(|it| it.parse::<u64>().expect("a number")).sum()
}

#[test]
fn fetch_that_is_killed_twenty_times_has_fetched_hardly_more_than_the_file() {
    const LEN: usize = 512 << 20;
    let lab = Lab::new();
    let peers = lab.network_with(2, &["--up-rate", "4M"]);
    let addr = peers[0].addr();
    let mut file = File::create(lab.path("file")).expect("made");
    for seed in 0..LEN as u64 >> 20 {
        file.write_all(&random_bytes(1 << 20, seed)).expect("room");
    }
    let share = ["share", "-q", "-d", "sharer", "-p", &addr, "file"];
    let address = lab.strew(share).run().text();
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    let before = sum(&lab, &peers, "tcp_bytes_sent");
    let fetch = [
        "fetch", "-q", "-d", "fetcher", "-p", &addr, "-o", "out", &address,
    ];
    let (dir, part) = (lab.path("fetcher"), lab.path("out.part"));
    let mut hit = 0;
    for nth in 1..=KILLS {
        let mut run = lab.strew(fetch);
        run.command.stderr(Stdio::null());
        let mut fetch = run.start();
        let due = (nth * LEN / (KILLS + 1)) as u64;
        let is_there = || part.metadata().is_ok_and(|part| part.len() >= due);
        while !is_there() && fetch.wait(Duration::ZERO).is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        kill(fetch.id(), libc::SIGKILL);
        hit += usize::from(fetch.wait(LIMIT).expect("it ends").code().is_none());
        await_true("the end of the private peer", || lab.is_released(&dir));
    }
    lab.strew(fetch).run().expect_status(0);
    lab.program("cmp", ["file", "out"]).run().expect_status(0);
    let sent = sum(&lab, &peers, "tcp_bytes_sent") - before;
    println!(
        "killed {hit} times, {:.3} of the file sent",
        sent as f64 / LEN as f64
    );
    assert_eq!(hit, KILLS);
    assert!(sent < (LEN + LEN / 10) as u64, "{sent}");
}

#[test]
fn share_that_is_killed_sends_nothing_again_that_is_there() {
    const LEN: usize = 64 << 20;
    const COPIES: usize = 3;
    let lab = Lab::new();
    let peers = lab.network(5);
    let addr = peers[0].addr();
    let file = lab.file("file", &random_bytes(LEN, 52));
    let share = [
        "share", "-q", "--copies", "3", "-d", "sharer", "-p", &addr, "file",
    ];
    // What peers were sent, and what they hold.
    let counts = || ["tcp_bytes_received", "payload_bytes"].map(|key| sum(&lab, &peers, key));
    let at_rest = || {
        let mut last = counts();
        await_some("peers at rest", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = counts();
            // What is asked here is received as well.
            let is_at_rest = now[1] == last[1] && now[0] - last[0] < 10_000;
            last = now;
            is_at_rest.then_some(now)
        })
    };
    for part in [3, 2] {
        let mut run = lab.strew(share);
        run.command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut share = run.start();
        let enough = (LEN * COPIES / part) as u64;
        await_true("a part of it", || counts()[1] >= enough);
        kill(share.id(), libc::SIGKILL);
        let status = share.wait(LIMIT).expect("it ends");
        assert_eq!(status.code(), None, "it was killed");
        await_true("the end of the private peer", || {
            lab.is_released(&lab.path("sharer"))
        });
    }
    let [sent, held] = at_rest();
    println!("{held} of {LEN} bytes {COPIES} times are there");
    lab.strew(share).run().expect_status(0);
    let [sent, held] = std::array::from_fn(|n| at_rest()[n] - [sent, held][n]);
    let again = sent.saturating_sub(held);
    println!("{held} bytes more, for which {sent} were sent: {again} too many");
    assert!(again < LEN as u64 / 100, "{again}");
    assert!(file.exists());
}

#[test]
fn share_that_is_repeated_sends_nothing_again() {
    let lab = Lab::new();
    let peers = lab.network(4);
    let addr = peers[0].addr();
    lab.file("file", &random_bytes(16 << 20, 53));
    let share = ["share", "-q", "-d", "sharer", "-p", &addr, "file"];
    let first = lab.strew(share).run();
    let received = || sum(&lab, &peers, "tcp_bytes_received");
    let before = received();
    let again = lab.strew(share).run();
    let sent = received() - before;
    println!(
        "{:?}, and {:?} again, for which {sent} bytes were sent",
        first.took, again.took
    );
    assert_eq!(first.text(), again.text());
    assert!(sent < (16 << 20) / 100, "{sent}");
}
