//! Real peers among which some treat connections badly: what is fetched comes all the same, and costs little more.

use crate::harness::*;
use crate::lines::{reset, Line, Lines, Manner};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use strew::id::{BlockId, NodeKey};
use strew::limits::{BLOCK_SIZE_MAX, CONNECTIONS_MAX, GETS_MIN, INBOUND_MAX};
use strew::wire::frame::{Frame, Hello, PeerRole};

/// Bytes of a greeting, and of a block before its payload.
const HELLO_LEN: usize = 46;
const HEAD_LEN: usize = 38;

/// A network in which everybody has one file.
struct Network {
    lab: Lab,
    peers: Vec<Serve>,
    lines: Vec<Arc<Line>>,
    address: String,
    content: Vec<u8>,
}

impl Network {
    fn new(count: usize, len: usize) -> Network {
        let (lab, all) = (Lab::new(), Lines::new());
        let (mut peers, mut lines) = (Vec::new(), Vec::<Arc<Line>>::new());
        for index in 0..count {
            let first = lines.first().map(|line| line.addr().to_string());
            let mut args = vec!["-vv"];
            args.extend(first.iter().flat_map(|addr| ["-p", addr]));
            let peer = lab.serve(&format!("peer{index}"), &args);
            // The last is asked last, as it is farther away.
            let delay = Duration::from_millis(if index + 1 == count { 30 } else { 0 });
            lines.push(all.add(peer.addr, delay));
            peers.push(peer);
        }
        for peer in &peers {
            lab.await_joined(peer, count);
        }
        let content = random_bytes(len, len as u64);
        let first = lines[0].addr().to_string();
        let share = [
            "share", "-q", "--copies", "20", "-d", "sharer", "-p", &first,
        ];
        let address = lab.strew(share).input(content.clone()).run().text();
        for peer in &peers {
            assert_ne!(lab.status(&peer.dir, "blocks"), "0", "everybody has it");
        }
        Network {
            lab,
            peers,
            lines,
            address,
            content,
        }
    }

    /// All but some, the last ones, are so from now on.
    fn treat(&self, bad: usize, manner: Manner) {
        for line in &self.lines[..bad] {
            line.treat(manner);
        }
    }

    /// Fetches through a peer of that name; how long it took.
    fn fetch(&self, name: &str) -> Duration {
        let last = self.lines[self.lines.len() - 1].addr().to_string();
        let fetch = ["fetch", "-d", name, "-p", &last, &self.address];
        let outcome = self.lab.strew(fetch).run();
        let took = outcome.took;
        assert!(outcome.bytes() == self.content);
        took
    }

    fn sum(&self, of: impl Fn(&Line) -> u64) -> u64 {
        self.lines.iter().map(|line| of(line)).sum()
    }
}

#[test]
fn sources_that_break_off_after_every_byte_cost_the_fetch_nothing() {
    let network = Network::new(4, 3000);
    let block = HELLO_LEN + HEAD_LEN;
    let (mut fetches, mut longest) = (0, Duration::ZERO);
    for after in (0..=block).chain([block + 1, block + 1000, block + 2999]) {
        for manner in [Manner::Resetting(after), Manner::Closing(after)] {
            network.treat(3, manner);
            longest = longest.max(network.fetch("fetcher"));
            fetches += 1;
        }
    }
    let spoiled = network.sum(|line| line.spoiled.load(Ordering::Relaxed));
    println!(
        "{spoiled} streams broken in {fetches} fetches, of which the longest took {longest:?}"
    );
    assert!(spoiled >= 2 * fetches, "{spoiled} of {fetches}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[test]
fn sources_that_hold_connections_up_are_passed_over_and_the_log_says_why() {
    let network = Network::new(4, 3_000_000);
    let cases = [
        (Manner::Mute, "it did not greet in time"),
        (Manner::Trickling(0), "it did not greet in time"),
        (Manner::Trickling(HELLO_LEN), "it talks and does not answer"),
        (
            Manner::Trickling(HELLO_LEN + HEAD_LEN),
            "it talks and does not answer",
        ),
        (Manner::Foreign, "speaks protocol version 9"),
        (Manner::Lying, "the block does not match its address"),
    ];
    let last = network.lines[3].addr().to_string();
    for (nth, (manner, why)) in cases.into_iter().enumerate() {
        let fetcher = format!("fetcher{nth}");
        let fetcher = network.lab.serve(&fetcher, &["-vv", "-p", &last]);
        network.treat(3, Manner::Honest);
        network.lab.await_joined(&fetcher, 5);
        network.treat(3, manner);
        let took = network.fetch(&format!("fetcher{nth}"));
        println!("three of four {manner:?}: {took:?}");
        assert!(took < Duration::from_secs(15), "{manner:?}: {took:?}");
        await_true(why, || fetcher.said().contains(why));
        let memory = memory_of(fetcher.pid(), "RssAnon").expect("it runs");
        assert!(memory < 64 << 10, "{memory} kB");
    }
}

#[test]
fn lying_sources_cost_what_was_asked_of_them_at_most() {
    let network = Network::new(10, 16 << 20);
    for liar in [1, 4, 7] {
        network.lines[liar].treat(Manner::Lying);
    }
    network.fetch("fetcher");
    let lies = network.lines.iter();
    let lies: Vec<u64> = lies.map(|line| line.lied.load(Ordering::Relaxed)).collect();
    println!("wrong bytes sent by each: {lies:?}");
    assert!(lies.iter().sum::<u64>() > 0, "somebody has lied");
    // Of whom nothing has come, no more is asked at once.
    let most = GETS_MIN * (BLOCK_SIZE_MAX + HEAD_LEN);
    assert!(lies.iter().all(|&bytes| bytes <= most as u64), "{lies:?}");
}

fn is_time_out(error: std::io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind())
}

#[test]
fn thousand_connections_are_bounded_and_keep_nobody_out() {
    let network = Network::new(2, 3_000_000);
    let peer = &network.peers[0];
    let mut hello = Vec::new();
    Frame::Hello(Hello {
        key: NodeKey([7; 32]),
        port: 9,
        role: PeerRole::Private,
    })
    .encode(&mut hello);
    let mut held = Vec::new();
    for nth in 0..1000 {
        let mut stream = TcpStream::connect(peer.addr).expect("it listens");
        if nth % 2 == 0 {
            // Whoever is refused has closed by now.
            let _ = stream.write_all(&hello);
        }
        held.push(stream);
    }
    let open = || fs::read_dir(format!("/proc/{}/fd", peer.pid())).map_or(0, Iterator::count);
    let most = CONNECTIONS_MAX + 40;
    assert!(open() < most, "{}", open());
    let took = network.fetch("fetcher");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(open() < most, "{}", open());
    let memory = memory_of(peer.pid(), "RssAnon").expect("it runs");
    assert!(memory < 64 << 10, "{memory} kB");
    // Who has greeted goes when another comes; who has not, and could not stay, has been told why.
    let (mut stay, mut refused) = (0, 0);
    for mut stream in held {
        let mut said = Vec::new();
        let limit = Some(Duration::from_millis(1));
        stream.set_read_timeout(limit).expect("set");
        stay += usize::from(stream.read_to_end(&mut said).is_err_and(is_time_out));
        let said = String::from_utf8_lossy(&said);
        refused += usize::from(said.contains("too many connections"));
    }
    println!("{stay} of 1000 connections stay, {refused} are refused");
    assert!(stay <= INBOUND_MAX, "{stay}");
    assert!(refused >= 500 - INBOUND_MAX, "{refused}");
    assert!(peer
        .said()
        .contains("too many connections; try again later"));
}

#[test]
fn askers_that_break_off_after_every_byte_are_forgotten() {
    let mut network = Network::new(2, 3000);
    let mut said = Vec::new();
    let hello = Frame::Hello(Hello {
        key: NodeKey([7; 32]),
        port: 9,
        role: PeerRole::Private,
    });
    let kind = strew::block::Kind {
        role: strew::block::Role::Leaf,
        form: strew::block::Form::Plain,
    };
    let put = Frame::Put {
        id: BlockId([7; 32]),
        kind,
        lifetime: 9,
        copies: 0,
        payload: vec![7; 3000],
    };
    for frame in [hello, Frame::Get(BlockId([7; 32])), put] {
        frame.encode(&mut said);
    }
    let to = network.peers[0].addr;
    for len in (0..150).chain([1000, said.len() - 1]) {
        for resets in [true, false] {
            let mut stream = TcpStream::connect(to).expect("it listens");
            stream.write_all(&said[..len]).expect("there is room");
            if resets {
                reset(&stream);
            }
        }
    }
    await_true("the end of all connections", || {
        network.lab.status(&network.peers[0].dir, "connections") == "0"
    });
    network.fetch("fetcher");
    assert!(network.peers[0].is_running());
}
