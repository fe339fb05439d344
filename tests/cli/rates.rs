//! Rates: how fast a peer sends and takes, and that they can be changed while it runs.

use crate::harness::*;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes a second by which two numbers together grow, over some seconds.
fn measured(lab: &Lab, dir: &Path, keys: [&str; 2], span: Duration) -> f64 {
    let sum = || keys.iter().map(|key| lab.number(dir, key)).sum::<u64>();
    let (begun, before) = (Instant::now(), sum());
    std::thread::sleep(span);
    let after = sum();
    (after - before) as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn rates_are_kept_and_can_be_changed() {
    let lab = Lab::new();
    lab.configure("up-rate = 1M\n");
    let source = lab.serve("source", &[]);
    lab.file("f", &random_bytes(80 << 20, 5));
    let share = ["share", "-q", "--min-copies", "0", "-d", "source", "f"];
    let address = lab.strew(share).run().text();
    let addr = source.addr();
    let mut fetch = lab.strew(["fetch", "-d", "fetcher", "-p", &addr, "-o", "out", &address]);
    fetch.command.stderr(std::process::Stdio::null());
    let _fetch = fetch.start();
    let sent = ["tcp_bytes_sent", "udp_bytes_sent"];
    let sends = |span| measured(&lab, &source.dir, sent, Duration::from_secs(span));
    await_true("a fetch under way", || {
        lab.number(&source.dir, "tcp_bytes_sent") > 1 << 20
    });
    let mib = (1 << 20) as f64;
    let slow = sends(10);
    // What commands are told goes over connections as well, some kilobytes.
    assert!(
        (0.95..1.05).contains(&(slow / mib)),
        "{slow} bytes a second"
    );
    let told = lab.number(&source.dir, "sent_per_second") as f64;
    assert!((0.9..1.1).contains(&(told / mib)), "{told} are told");
    // What a command gave it came from no other peer.
    assert!(lab.number(&source.dir, "tcp_bytes_received") > 80 << 20);
    assert!(lab.number(&source.dir, "bytes_received") < 1 << 20);
    lab.configure("up-rate = 4M\n");
    kill(source.pid(), libc::SIGHUP);
    await_true("the new rate", || sends(1) > 2.0 * mib);
    let faster = sends(10);
    assert!(
        (3.8..4.2).contains(&(faster / mib)),
        "{faster} bytes a second"
    );
    // A configuration that cannot be read changes nothing, and ends nothing.
    lab.configure("up-rate = soon\n");
    kill(source.pid(), libc::SIGHUP);
    await_true("a warning", || {
        source.said().contains("up-rate = soon: not a size")
    });
    // No command would take it.
    lab.configure("");
    let still = sends(3);
    assert!(
        (3.8..4.2).contains(&(still / mib)),
        "{still} bytes a second"
    );
    source.stop();
}

#[test]
fn what_comes_is_slowed_down_as_well() {
    let lab = Lab::new();
    lab.configure("down-rate = 1M\n");
    let taker = lab.serve("taker", &[]);
    let addr = taker.addr();
    let giver = lab.serve("giver", &["-p", &addr]);
    for peer in [&taker, &giver] {
        lab.await_joined(peer, 2);
    }
    lab.file("f", &random_bytes(80 << 20, 6));
    let mut share = lab.strew(["share", "-q", "-d", "giver", "f"]);
    share.command.stdout(std::process::Stdio::null());
    let _share = share.start();
    await_true("a share under way", || {
        lab.number(&taker.dir, "tcp_bytes_received") > 1 << 20
    });
    let came = ["tcp_bytes_received", "udp_bytes_received"];
    let rate = measured(&lab, &taker.dir, came, Duration::from_secs(10));
    let mib = (1 << 20) as f64;
    assert!(
        (0.95..1.05).contains(&(rate / mib)),
        "{rate} bytes a second"
    );
    lab.configure("down-rate = 4M\n");
    kill(taker.pid(), libc::SIGHUP);
    let takes = |span| measured(&lab, &taker.dir, came, Duration::from_secs(span));
    await_true("the new rate", || takes(1) > 2.0 * mib);
    let faster = takes(5);
    assert!(
        (3.8..4.2).contains(&(faster / mib)),
        "{faster} bytes a second"
    );
}

#[test]
fn capacity_and_log_level_are_read_again() {
    let lab = Lab::new();
    lab.configure("capacity = 20M\n");
    let peer = lab.serve("peer", &[]);
    assert_eq!(lab.number(&peer.dir, "capacity_bytes"), 20 << 20);
    let share = ["share", "-q", "--min-copies", "0", "-d", "peer"];
    lab.strew(share)
        .input(random_bytes(10 << 20, 7))
        .run()
        .text();
    lab.configure("capacity = 8M\nlog = info\n");
    kill(peer.pid(), libc::SIGHUP);
    await_true("the new capacity", || {
        lab.number(&peer.dir, "capacity_bytes") == 8 << 20
    });
    await_true("a line of the log", || {
        peer.said().contains("the settings were read again")
    });
    // What a share has held on stays; all else may go, and nothing comes.
    let refused = lab.strew(share).input(random_bytes(10 << 20, 8)).run();
    refused.expect_failure(8, &["allotted"]);
    lab.configure("capacity = 40M\n");
    kill(peer.pid(), libc::SIGHUP);
    await_true("more capacity", || {
        lab.number(&peer.dir, "capacity_bytes") == 40 << 20
    });
    lab.strew(share)
        .input(random_bytes(10 << 20, 8))
        .run()
        .text();
    peer.stop();
}

#[test]
fn what_is_to_be_left_free_is_read_again() {
    let lab = Lab::new();
    let peer = lab.serve("peer", &[]);
    let share = ["share", "-q", "--min-copies", "0", "-d", "peer"];
    let mut seed = 0;
    let mut shares = || {
        seed += 1;
        lab.strew(share).input(random_bytes(1 << 20, seed)).run()
    };
    shares().text();
    lab.configure("min-free = 1000T\n");
    kill(peer.pid(), libc::SIGHUP);
    await_true("a refusal", || shares().status.code() == Some(8));
    shares().expect_failure(8, &["--min-free"]);
    lab.configure("min-free = 1M\n");
    kill(peer.pid(), libc::SIGHUP);
    await_true("room again", || shares().status.code() == Some(0));
    peer.stop();
}

#[test]
fn peers_that_are_configured_while_one_runs_are_met() {
    let lab = Lab::new();
    let (lone, other) = (lab.serve("lone", &[]), lab.serve("other", &[]));
    assert_eq!(lab.number(&lone.dir, "contacts"), 0);
    lab.configure(&format!("peer = {}\n", other.addr()));
    kill(lone.pid(), libc::SIGHUP);
    lab.await_joined(&lone, 2);
    lab.await_joined(&other, 2);
}

#[test]
fn settings_of_which_one_is_wrong_change_nothing() {
    let lab = Lab::new();
    lab.configure("capacity = 20M\n");
    let peer = lab.serve("peer", &[]);
    lab.configure("log = trace\ncapacity = 8M\nup-rate = 0\n");
    kill(peer.pid(), libc::SIGHUP);
    await_true("a complaint", || {
        peer.said().contains("up-rate = 0: not a rate")
    });
    // No command would take it.
    lab.configure("");
    assert_eq!(lab.number(&peer.dir, "capacity_bytes"), 20 << 20);
    let said = peer.said();
    assert!(
        !said.contains("debug:") && !said.contains("trace:"),
        "{said}"
    );
    peer.stop();
}
