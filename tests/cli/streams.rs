//! Standard output carries data and answers, nothing else, at the pace of its reader; a file appears whole, and
//! what an interrupted fetch has left is gone on from.

use crate::harness::*;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

/// A network of two peers that hold one content.
struct Shared {
    lab: Lab,
    peers: Vec<Serve>,
    addr: String,
    address: String,
    content: Vec<u8>,
}

impl Shared {
    fn new(len: usize) -> Shared {
        let lab = Lab::new();
        let peers = lab.network(2);
        let addr = peers[0].addr();
        let content = random_bytes(len, len as u64);
        let share = ["share", "-q", "-d", "sharer", "-p", &addr];
        let address = lab.strew(share).input(content.clone()).run().text();
        fs::remove_dir_all(lab.path("sharer")).expect("removed");
        Shared {
            lab,
            peers,
            addr,
            address,
            content,
        }
    }

    /// A fetch in a directory of its own, of what was shared.
    fn fetch(&self, args: &[&str]) -> Run {
        let fetch = ["fetch", "-d", "fetcher", "-p", &self.addr];
        self.lab.strew(fetch).args(args).arg(&self.address)
    }

    /// A fetch into a file that is in the middle of its work, however fast the machine: its peer is halted as
    /// soon as more than a block of the file is there, so that it waits for more.
    fn fetch_halfway(&self) -> (Process, u32) {
        let dir = self.lab.path("fetcher");
        let part = self.lab.path("out.part");
        let mut run = self.fetch(&["-o", "out", "--buffer", "512K"]);
        run.command.stderr(Stdio::null());
        let fetch = run.start();
        let peer = await_some("a private peer", || {
            owner(&dir).filter(|_| dir.join("control.sock").exists())
        });
        await_true("a part of the file", || {
            part.metadata().is_ok_and(|part| part.len() > 262_144)
        });
        kill(peer, libc::SIGSTOP);
        (fetch, peer)
    }
}

#[test]
fn fetch_dies_quietly_when_its_reader_has_gone() {
    let shared = Shared::new(8 << 20);
    let script = "\"$STREW\" fetch -d fetcher -p $1 $2 | head -c 1";
    let args = ["-c", script, "sh", &shared.addr, &shared.address];
    let piped = shared.lab.program("sh", args).run();
    assert_eq!(piped.stdout, &shared.content[..1]);
    assert_eq!(piped.stderr, "");
    let dir = shared.lab.path("fetcher");
    await_true("the end of the private peer", || {
        shared.lab.is_released(&dir)
    });

    let mut run = shared.fetch(&[]);
    run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut fetch = run.start();
    let mut stdout = fetch.0.stdout.take().expect("it is piped");
    stdout.read_exact(&mut [0]).expect("a byte");
    drop(stdout);
    let status = fetch.wait(LIMIT).expect("it ends");
    assert_eq!(status.signal(), Some(libc::SIGPIPE));
    let mut said = String::new();
    let mut stderr = fetch.0.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
    await_true("the end of the private peer", || {
        shared.lab.is_released(&dir)
    });
}

#[test]
fn slow_reader_is_waited_for_in_bounded_memory() {
    const SIZE: usize = 96 << 20;
    const MEMORY_MAX: u64 = 64 << 10;
    let shared = Shared::new(SIZE);
    let mut run = shared.fetch(&["--stall", "1"]);
    run.command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut fetch = run.start();
    let mut stdout = fetch.0.stdout.take().expect("it is piped");
    let mut got = vec![0; 1 << 20];
    stdout.read_exact(&mut got).expect("the beginning");
    let peer = owner(&shared.lab.path("fetcher")).expect("a private peer");
    // What is fetched ahead is bounded: the peer comes to rest while nobody reads. That takes longer than the
    // stall clock, which must not run, as nothing is outstanding.
    let taken = |pid| memory_of(pid, "RssAnon").expect("it runs");
    let given = || shared.lab.sum(&shared.peers, "blocks_given");
    let mut last = given();
    let mut quiet = 0;
    await_true("a fetch at rest", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = given();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        quiet > 30
    });
    assert!(
        last < 200,
        "{last} of 384 blocks are fetched for a reader of 4"
    );
    for pid in [fetch.id(), peer] {
        assert!(taken(pid) < MEMORY_MAX, "{} kB", taken(pid));
    }
    stdout.read_to_end(&mut got).expect("the rest");
    assert!(got == shared.content);
    assert_eq!(fetch.wait(LIMIT).expect("it ends").code(), Some(0));
    for peer in &shared.peers {
        assert!(taken(peer.pid()) < MEMORY_MAX, "{} kB", taken(peer.pid()));
    }
}

#[test]
fn share_of_a_pipe_of_unknown_length_is_in_bounded_memory() {
    let lab = Lab::new();
    let peer = lab.serve("peer0", &[]);
    let mut run = lab
        .strew(["share", "--min-copies", "0", "-d"])
        .arg(&peer.dir);
    run.command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut share = run.start();
    let mut stdin = share.0.stdin.take().expect("it is piped");
    let mut most = 0;
    for seed in 0..64 {
        use std::io::Write;
        stdin
            .write_all(&random_bytes(1 << 20, seed))
            .expect("it is taken");
        most = most.max(memory_of(share.id(), "RssAnon").expect("it runs"));
    }
    drop(stdin);
    assert_eq!(share.wait(LIMIT).expect("it ends").code(), Some(0));
    let mut stdout = share.0.stdout.take().expect("it is piped");
    let mut address = String::new();
    stdout.read_to_string(&mut address).expect("text");
    assert!(most < 64 << 10, "{most} kB");
    let memory = memory_of(peer.pid(), "RssAnon").expect("it runs");
    assert!(memory < 64 << 10, "{memory} kB");
    let mut whole = Vec::new();
    (0..64).for_each(|seed| whole.extend(random_bytes(1 << 20, seed)));
    let fetch = lab.strew(["fetch", address.trim(), "-d"]).arg(&peer.dir);
    assert!(fetch.run().bytes() == whole);
}

#[test]
fn killed_fetch_is_gone_on_from() {
    let shared = Shared::new(24 << 20);
    let dir = shared.lab.path("fetcher");
    let (mut fetch, peer) = shared.fetch_halfway();
    kill(fetch.id(), libc::SIGKILL);
    fetch.wait(LIMIT).expect("it is killed");
    kill(peer, libc::SIGCONT);
    await_true("the end of the private peer", || {
        shared.lab.is_released(&dir)
    });
    let part = fs::read(shared.lab.path("out.part")).expect("a part");
    assert!(!part.is_empty() && part.len() < shared.content.len());
    assert!(!shared.lab.path("out").exists());
    // Damage in what is there is noticed, and only what precedes it is kept.
    let mut damaged = part.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    shared.lab.file("out.part", &damaged);
    let outcome = shared.fetch(&["-o", "out"]).run();
    outcome.expect_status(0);
    outcome.expect_said(&["were there already"]);
    assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
    assert!(!shared.lab.path("out.part").exists());
}

#[test]
fn fetch_killed_within_its_first_block_is_gone_on_from() {
    let shared = Shared::new(1_000_000);
    for len in [1, 100_000, 262_143] {
        shared.lab.file("out.part", &shared.content[..len]);
        let outcome = shared.fetch(&["-o", "out"]).run();
        outcome.expect_status(0);
        outcome.expect_said(&["were there already"]);
        let out = shared.lab.path("out");
        assert!(fs::read(&out).expect("it is there") == shared.content);
        fs::remove_file(out).expect("removed");
        let mut other = shared.content[..len].to_vec();
        other[len / 2] ^= 1;
        let part = shared.lab.file("out.part", &other);
        let outcome = shared.fetch(&["-o", "out"]).run();
        outcome.expect_failure(9, &["out.part", "-f"]);
        assert!(fs::read(&part).expect("it is there") == other);
    }
}

#[test]
fn whole_part_of_a_fetch_that_did_not_rename_is_enough() {
    let shared = Shared::new(1_000_000);
    shared.lab.file("out.part", &shared.content);
    let outcome = shared.fetch(&["-o", "out"]).run();
    outcome.expect_said(&["976.6 KiB were there already"]);
    assert_eq!(outcome.bytes(), b"");
    assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
    // More than the file is, and an empty one.
    for part in [[&shared.content[..], b"more"].concat(), Vec::new()] {
        shared.lab.file("out.part", &part);
        assert_eq!(shared.fetch(&["-o", "out", "-f"]).run().bytes(), b"");
        assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
    }
}

#[test]
fn part_with_gaps_is_filled_up() {
    const LEAF: usize = 262_144;
    let shared = Shared::new(24 * LEAF + 1000);
    let mut part = shared.content[..20 * LEAF].to_vec();
    for gap in [
        3 * LEAF..4 * LEAF,
        7 * LEAF + 5..7 * LEAF + 6,
        18 * LEAF..20 * LEAF,
    ] {
        part[gap].fill(0);
    }
    shared.lab.file("out.part", &part);
    let sent = || -> u64 {
        let sent = shared.peers.iter();
        let sent = sent.map(|peer| shared.lab.status(&peer.dir, "tcp_bytes_sent"));
        sent.map(|it| it.parse::<u64>().expect("a number")).sum()
    };
    let before = sent();
    let outcome = shared.fetch(&["-o", "out"]).run();
    outcome.expect_said(&["4.0 MiB were there already"]);
    assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
    let sent = (sent() - before) as usize;
    assert!((8 * LEAF..10 * LEAF).contains(&sent), "{sent}");
}

#[test]
fn part_of_something_else_is_left_alone() {
    for len in [1000, 1_000_000] {
        let shared = Shared::new(len);
        let other = random_bytes(600_000, 77);
        let part = shared.lab.file("out.part", &other);
        let outcome = shared.fetch(&["-o", "out"]).run();
        outcome.expect_failure(9, &["out.part", "-f"]);
        assert!(fs::read(&part).expect("it is there") == other);
        assert!(!shared.lab.path("out").exists());
        assert_eq!(shared.fetch(&["-o", "out", "-f"]).run().bytes(), b"");
        assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
        assert!(!part.exists());
    }
    let shared = Shared::new(1000);
    fs::create_dir(shared.lab.path("out.part")).expect("made");
    let outcome = shared.fetch(&["-o", "out"]).run();
    outcome.expect_failure(9, &["out.part", "in the way"]);
}

#[test]
fn two_fetches_to_one_file_do_not_meet() {
    let shared = Shared::new(24 << 20);
    let (mut first, peer) = shared.fetch_halfway();
    let dir = ["fetch", "-d", "second", "-p", &shared.addr, "-o", "out"];
    let second = shared.lab.strew(dir).arg(&shared.address).run();
    second.expect_failure(10, &["out.part", "another fetch"]);
    kill(peer, libc::SIGCONT);
    let status = first.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(fs::read(shared.lab.path("out")).expect("it is there") == shared.content);
    assert!(!shared.lab.path("out.part").exists());
}

#[test]
fn what_is_no_regular_file_is_written_directly() {
    let shared = Shared::new(600_000);
    let script = "mkfifo pipe; \"$STREW\" fetch -d fetcher -p $1 -o pipe $2 & cat pipe; wait";
    let args = ["-c", script, "sh", &shared.addr, &shared.address];
    assert!(shared.lab.program("sh", args).run().bytes() == shared.content);
    assert_eq!(shared.fetch(&["-o", "/dev/null"]).run().bytes(), b"");
    let stdout = shared.fetch(&["-o", "/dev/stdout"]).run();
    assert!(stdout.bytes() == shared.content);
}

#[test]
fn fetch_that_fails_midway_says_what_it_has_left() {
    let shared = Shared::new(24 << 20);
    let (mut fetch, peer) = shared.fetch_halfway();
    // Everybody who has it goes, then the fetch goes on.
    for peer in shared.peers {
        peer.kill();
    }
    kill(peer, libc::SIGCONT);
    let status = fetch.wait(LIMIT).expect("it ends");
    let code = status.code().expect("it is not killed");
    assert!([3, 4, 7].contains(&code), "{code}");
    let part = fs::read(shared.lab.path("out.part")).expect("a part");
    assert!(!part.is_empty() && shared.content.starts_with(&part));
    assert!(!shared.lab.path("out").exists());
}

#[test]
fn only_answers_are_on_standard_output() {
    let shared = Shared::new(600_000);
    let lab = &shared.lab;
    let file = lab.file("file", &shared.content);
    let shown = ["-vvv", "--progress", "always"];
    let fetched = shared.fetch(&shown).run();
    assert!(!fetched.stderr.is_empty());
    assert!(fetched.bytes() == shared.content);
    let share = ["share", "-d", "sharer", "-p", &shared.addr];
    let again = lab.strew(share).args(shown).arg(&file).run();
    assert!(!again.stderr.is_empty());
    assert_eq!(again.bytes(), format!("{}\n", shared.address).as_bytes());
    let quiet = lab.strew(share).arg("-q").arg(&file).run();
    assert_eq!(quiet.stderr, "");
    let status = lab.strew(["status", "-v", "-d", "sharer"]).run().text();
    for line in status.lines() {
        let words = line.split_whitespace().count();
        assert!(words >= 2, "{line:?} is no key and value");
    }
    // Addresses that nobody takes are a failure, and no panic.
    let mut hash = lab.strew(["hash"]).arg(&file);
    hash.command
        .stdout(File::create("/dev/full").expect("it opens"));
    hash.command.stderr(Stdio::null());
    assert_eq!(hash.start().wait(LIMIT).expect("it ends").code(), Some(8));
}

#[test]
fn range_is_given_out_and_only_its_blocks_are_fetched() {
    for len in [1_000_000, 1000] {
        let shared = Shared::new(len);
        let content = &shared.content;
        let given = || shared.lab.sum(&shared.peers, "blocks_given");
        let middle = format!("{}-{}", len / 2, len / 2 + 9);
        let before = given();
        let outcome = shared.fetch(&["--range", &middle]).run();
        assert!(outcome.bytes() == content[len / 2..len / 2 + 10]);
        let blocks = if len > 300_000 { 2 } else { 1 };
        assert_eq!(
            given() - before,
            blocks,
            "the root, and the leaf if it is another block"
        );
        let to_end = format!("{}-", len - 5);
        let beyond = format!("{}-{}", len - 5, len + 100);
        for range in [&to_end, &beyond] {
            assert_eq!(
                shared.fetch(&["--range", range]).run().bytes(),
                content[len - 5..]
            );
        }
        assert_eq!(
            shared.fetch(&["--range", &format!("{len}-")]).run().bytes(),
            b""
        );
        let after = shared.fetch(&["--range", &format!("{}-", len + 1)]).run();
        after.expect_failure(2, &[&format!("has {len} bytes, and none at {}", len + 1)]);
        // What a stream has left is gone on from.
        shared.lab.file("part", &content[..len / 3]);
        let script = "\"$STREW\" fetch -q -d fetcher --range $(stat -c %s part)- $0 >> part";
        let rest = ["-c", script, &shared.address];
        let run = shared
            .lab
            .program("sh", rest)
            .env("STREW_PEERS", &shared.addr);
        run.run().expect_status(0);
        assert!(fs::read(shared.lab.path("part")).expect("there") == *content);
        let file = shared.fetch(&["--range", "3-7", "-o", "out"]).run();
        assert_eq!(file.bytes(), b"");
        assert_eq!(
            fs::read(shared.lab.path("out")).expect("there"),
            content[3..8]
        );
        shared.lab.file("other.part", b"something");
        let refused = shared.fetch(&["--range", "3-7", "-o", "other"]).run();
        refused.expect_failure(9, &["other.part: exists", "-f"]);
    }
}

#[test]
fn what_is_left_of_a_range_goes() {
    let lab = Lab::new();
    let file = lab.file("file", &random_bytes(2 << 20, 6));
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).arg(&file).run().text();
    // The last leaf, which nobody else has.
    let pack = File::options().write(true).open(lab.path("d/pack"));
    let damaged = pack.and_then(|pack| pack.write_all_at(&[0; 64], 2_000_000));
    damaged.expect("damaged");
    let fetch = |range: &[&str]| {
        let fetch = [
            "fetch", "-d", "d", "--buffer", "512K", "-o", "out", &address,
        ];
        lab.strew(fetch).args(range).run()
    };
    for _ in 0..2 {
        let outcome = fetch(&["--range", "0-"]);
        outcome.expect_failure(7, &["no peer could be reached"]);
        assert!(!outcome.stderr.contains("out.part"), "{}", outcome.stderr);
        assert!(!lab.path("out.part").exists());
    }
    fetch(&[]).expect_failure(7, &["verified bytes are in out.part"]);
}
