//! System calls of the real program that fail, by the fault injection of strace.

use crate::harness::*;
use crate::talker::Talker;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strew::id::{unhex32, BlockId};
use strew::rng::Rng;
use strew::wire::frame::Frame;

/// A tracer that makes system calls of a running peer fail, until it is told to end.
pub struct Injection {
    tracer: Process,
}

/// Makes calls of this peer and of the process that syncs for it fail, as `strace -e inject=` is told, once for each of
/// these words; `None`, and a line that says so, where that is not possible.
pub fn inject(peer: &Serve, what: &str) -> Option<Injection> {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null"]);
    for what in what.split_whitespace() {
        command.args(["-e", &format!("inject={what}")]);
    }
    let pids: Vec<u32> = [peer.pid()].into_iter().chain(peer.children()).collect();
    for pid in &pids {
        command.args(["-p", &pid.to_string()]);
    }
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let attached = command.spawn().ok().and_then(|child| {
        let mut tracer = Process(child);
        let stderr = tracer.0.stderr.take().expect("it is piped");
        let mut stderr = BufReader::new(stderr);
        let mut lines = pids.iter().map(|_| {
            let mut line = String::new();
            let _ = stderr.read_line(&mut line);
            line
        });
        let is_attached = lines.all(|line| line.contains("attached"));
        // What it says later must not stop it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        is_attached.then_some(tracer)
    });
    match attached {
        Some(tracer) => Some(Injection { tracer }),
        None => {
            println!("skipped: strace that can attach not found");
            None
        }
    }
}

impl Injection {
    pub fn end(mut self) {
        kill(self.tracer.id(), libc::SIGINT);
        self.tracer.wait(LIMIT).expect("it detaches");
    }
}

/// A peer with one file.
struct Kept {
    lab: Lab,
    peer: Serve,
    address: String,
}

fn content(n: u64) -> Vec<u8> {
    // More than is set aside at once.
    random_bytes(5 << 20, 4000 + n)
}

impl Kept {
    fn new() -> Kept {
        let lab = Lab::new();
        let peer = lab.serve("peer", &["-v"]);
        let run = share(&lab, 0);
        Kept {
            address: run.text(),
            lab,
            peer,
        }
    }

    fn share(&self, n: u64) -> Outcome {
        share(&self.lab, n)
    }

    fn fetch(&self, address: &str) -> Outcome {
        let fetch = ["fetch", "-q", "--stall", "5s", "-d", "peer", address];
        self.lab.strew(fetch).run()
    }

    /// The first file is there, and another can be shared.
    #[track_caller]
    fn expect_sound(&self, n: u64) {
        assert!(self.fetch(&self.address).bytes() == content(0));
        let address = self.share(n).text();
        assert!(self.fetch(&address).bytes() == content(n));
        let verify = self.lab.strew(["verify", "-d", "peer"]).run();
        verify.expect_status(0);
    }

    fn start_again(self) -> Kept {
        self.peer.stop();
        let peer = self.lab.serve("peer", &["-v"]);
        Kept { peer, ..self }
    }

    fn end(self) {
        self.peer.stop();
    }
}

fn share(lab: &Lab, n: u64) -> Outcome {
    let file = lab.file("file", &content(n));
    let share = ["share", "-q", "--min-copies", "0", "-d", "peer"];
    lab.strew(share).arg(file).run()
}

#[test]
fn peer_whose_disk_fails_to_sync_is_read_only_and_serves_on() {
    let kept = Kept::new();
    let Some(injection) = inject(&kept.peer, "fdatasync:error=EIO:when=1") else {
        return;
    };
    let refused = kept.share(1);
    refused.expect_failure(1, &["sync", "pack", "Input/output error"]);
    injection.end();
    assert_eq!(kept.lab.status(&kept.peer.dir, "read_only"), "1");
    let said = kept.peer.said();
    assert!(said.contains("it is read-only now"), "{said}");
    kept.share(2)
        .expect_failure(1, &["read-only", "start the peer again"]);
    assert!(kept.fetch(&kept.address).bytes() == content(0));
    let kept = kept.start_again();
    assert_eq!(kept.lab.status(&kept.peer.dir, "read_only"), "0");
    kept.expect_sound(3);
    kept.end();
}

/// Shares some bytes while each sync takes so long, and asks for another block all the time: the longest that this
/// took.
#[track_caller]
fn longest_answer_during(sync: Duration, shared: usize) -> Option<Duration> {
    let kept = Kept::new();
    let what = format!("fdatasync:delay_exit={}", sync.as_micros());
    let injection = inject(&kept.peer, &what)?;
    let root = kept.address.split('.').next().expect("an address");
    let root = BlockId(unhex32(root).expect("an address"));
    let mut talker = Talker::new(kept.peer.addr, &mut Rng::new([8; 32]));
    let file = kept.lab.file("long", &random_bytes(shared, 4100));
    let (lab, mut longest) = (&kept.lab, Duration::ZERO);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let share = ["share", "-q", "--min-copies", "0", "-d", "peer"];
        let share = scope.spawn(move || lab.strew(share).arg(file).run());
        while !share.is_finished() {
            let asked = Instant::now();
            assert!(talker.say(&Frame::Get(root)), "it is there");
            let gone = talker.hear(asked + LIMIT, |frame| !matches!(frame, Frame::Block { .. }));
            assert!(!gone && asked.elapsed() < LIMIT, "it answers");
            kept.lab.status(&kept.peer.dir, "mode");
            longest = longest.max(asked.elapsed());
        }
        share.join().expect("it is shared").expect_status(0);
    });
    let took = begun.elapsed();
    assert!(
        took >= sync,
        "{took:?}: nothing is said to be durable before"
    );
    injection.end();
    kept.expect_sound(2);
    kept.end();
    Some(longest)
}

#[test]
fn sync_that_takes_long_keeps_nobody_else_waiting() {
    let sync = Duration::from_secs(2);
    if let Some(longest) = longest_answer_during(sync, 5 << 20) {
        assert!(longest < sync / 2, "{longest:?}");
    }
}

#[test]
fn who_puts_more_than_may_be_in_doubt_waits_for_the_disk_alone() {
    let sync = Duration::from_secs(2);
    if let Some(longest) = longest_answer_during(sync, 160 << 20) {
        assert!(longest < sync / 2, "{longest:?}");
    }
}

#[test]
fn block_that_the_disk_has_to_bring_is_given_even_if_nothing_reads_it_ahead() {
    let kept = Kept::new().start_again();
    let pack = std::fs::File::open(kept.peer.dir.join("pack")).expect("it is there");
    pack.sync_all().expect("synced");
    for what in [
        None,
        Some("fadvise64:error=EINVAL"),
        Some("mincore:error=ENOMEM"),
    ] {
        // SAFETY: takes no pointers.
        unsafe { libc::posix_fadvise(pack.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let injection = what.and_then(|what| inject(&kept.peer, what));
        let addr = kept.peer.addr();
        let fetch = ["fetch", "-q", "-d", "other", "-p", &addr, &kept.address];
        assert!(
            kept.lab.strew(fetch).run().bytes() == content(0),
            "{what:?}"
        );
        if let Some(injection) = injection {
            injection.end();
        }
    }
    kept.end();
}

#[test]
fn peer_whose_syncing_process_is_killed_syncs_by_another_and_at_last_itself() {
    let kept = Kept::new();
    for n in 1..=3 {
        let [child] = kept.peer.children()[..] else {
            panic!("one child, not {:?}", kept.peer.children());
        };
        // What ends both at a terminal does not end this one before its parent.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            kill(child, signal);
        }
        kept.share(2 * n).expect_status(0);
        assert_eq!(kept.peer.children(), [child]);
        kill(child, libc::SIGKILL);
        kept.share(2 * n + 1).expect_status(0);
        let said = kept.peer.said();
        assert!(said.contains("waiting for the disk instead"), "{said}");
        // The next sync has another, but for the third that was lost.
        kept.share(100 + n).expect_status(0);
    }
    assert_eq!(kept.peer.children(), [0; 0]);
    assert_eq!(kept.lab.status(&kept.peer.dir, "read_only"), "0");
    kept.start_again().expect_sound(200);
}

#[test]
fn peer_whose_disk_has_no_room_for_a_moment_says_so_and_goes_on() {
    for (n, what) in [
        "pwritev:error=ENOSPC:when=1",
        "pwritev:error=EDQUOT:when=2",
        "fallocate:error=ENOSPC",
        "fallocate:error=EDQUOT",
    ]
    .into_iter()
    .enumerate()
    {
        let kept = Kept::new();
        let Some(injection) = inject(&kept.peer, what) else {
            return;
        };
        let refused = kept.share(1 + n as u64);
        refused.expect_failure(8, &["pack", "free some space on the disk"]);
        assert!(kept.fetch(&kept.address).bytes() == content(0));
        injection.end();
        kept.expect_sound(10);
        assert_eq!(kept.lab.status(&kept.peer.dir, "read_only"), "0");
        kept.start_again().end();
    }
}

#[test]
fn what_can_be_done_again_or_without_is_not_noticed() {
    for what in [
        "pwritev:error=EINTR:when=1..3",
        "pread64:error=EINTR:when=1..3 mincore:error=ENOSYS",
        "fallocate:error=EOPNOTSUPP",
        "sync_file_range:error=ENOSYS",
    ] {
        let kept = Kept::new();
        let Some(injection) = inject(&kept.peer, what) else {
            return;
        };
        kept.expect_sound(1);
        injection.end();
        kept.start_again().end();
    }
}

#[test]
fn block_that_cannot_be_read_is_absent_until_it_can() {
    let kept = Kept::new();
    let Some(injection) = inject(&kept.peer, "pread64:error=EIO") else {
        return;
    };
    let verify = kept.lab.strew(["verify", "-d", "peer"]).run();
    verify.expect_status(6);
    injection.end();
    let said = kept.peer.said();
    let reason = "pack at offset 4160: Input/output error";
    assert!(said.contains(reason), "{said}");
    let failed = kept.fetch(&kept.address);
    failed.expect_failure(7, &["not found here"]);
    let kept = kept.start_again();
    kept.expect_sound(1);
    kept.end();
}

#[test]
fn write_that_is_cut_short_leaves_nothing_behind() {
    let kept = Kept::new();
    let pack = kept.peer.dir.join("pack");
    let limit = pack.metadata().unwrap().len() + 1_000_000;
    let set_limit = |limit: &str| {
        // The soft limit alone, so that it can be lifted again.
        let limit = format!("--fsize={limit}:");
        let pid = kept.peer.pid().to_string();
        let args = ["--pid", &pid, &limit];
        kept.lab.program("prlimit", args).run().expect_status(0);
    };
    set_limit(&limit.to_string());
    let refused = kept.share(1);
    refused.expect_failure(8, &["pack", "File too large"]);
    assert!(pack.metadata().unwrap().len() < limit, "cut back");
    assert!(kept.fetch(&kept.address).bytes() == content(0));
    set_limit("unlimited");
    kept.expect_sound(2);
    let kept = kept.start_again();
    kept.expect_sound(3);
    kept.end();
}

/// A command under strace from its start, with calls that fail; `None`, and a line that says so, without strace.
fn run_with(lab: &Lab, what: &str, args: &[&str]) -> Option<Outcome> {
    if !is_installed("strace") {
        println!("skipped: strace not found");
        return None;
    }
    let inject = format!("inject={what}");
    let strace = [
        "-f",
        "-o",
        "/dev/null",
        "-e",
        &inject,
        env!("CARGO_BIN_EXE_strew"),
    ];
    let run = lab.program("strace", strace).args(args);
    Some(run.limit(Duration::from_secs(20)).run())
}

#[test]
fn file_that_cannot_be_made_durable_is_not_fetched() {
    let kept = Kept::new();
    // Of the first bytes before others follow, and of all at the end.
    for what in ["fdatasync:error=EIO", "fsync:error=EIO"] {
        let fetch = ["fetch", "-d", "peer", "-o", "out", &kept.address];
        let Some(run) = run_with(&kept.lab, what, &fetch) else {
            return;
        };
        run.expect_failure(1, &["out.part", "Input/output error"]);
        assert!(!kept.lab.path("out").exists());
    }
    let fetch = ["fetch", "-d", "peer", "-o", "out", &kept.address];
    kept.lab.strew(fetch).run().expect_status(0);
    assert!(std::fs::read(kept.lab.path("out")).unwrap() == content(0));
    kept.end();
}

#[test]
fn data_directory_that_cannot_be_made_durable_is_refused() {
    for (what, said) in [
        ("fsync:error=EIO", "new"),
        ("fdatasync:error=EIO", "pack"),
        ("ftruncate:error=EIO", "pack"),
        ("pwritev:error=ENOSPC", "pack"),
    ] {
        let lab = Lab::new();
        let args = ["serve", "-l", "127.0.0.1:0", "-d", "new"];
        let Some(run) = run_with(&lab, what, &args) else {
            return;
        };
        let status = if what.contains("ENOSPC") { 8 } else { 1 };
        run.expect_failure(status, &[said]);
        // What was left behind does no harm.
        lab.serve("new", &[]).stop();
    }
}

#[test]
fn read_that_ends_before_the_file_makes_blocks_absent_for_now() {
    // What has just been put has not been read yet, but for the last; and nobody tells that it is in memory.
    let kept = Kept::new();
    let what = "pread64:retval=0 mincore:error=ENOSYS";
    let Some(injection) = inject(&kept.peer, what) else {
        return;
    };
    let failed = kept.fetch(&kept.address);
    failed.expect_failure(7, &["not found here"]);
    let verify = kept.lab.strew(["verify", "-d", "peer"]).run();
    verify.expect_status(6);
    injection.end();
    let said = kept.peer.said();
    assert!(said.contains("pack at offset 4160: a read ended"), "{said}");
    let kept = kept.start_again();
    kept.expect_sound(1);
    kept.end();
}

#[test]
fn opening_whose_reads_end_before_the_file_cuts_nothing() {
    if !is_installed("strace") {
        return println!("skipped: strace not found");
    }
    let lab = Lab::new();
    let address = share(&lab, 0).text();
    let pack = lab.path("peer/pack");
    let before = std::fs::read(&pack).unwrap();
    let mut refused = 0;
    for when in [
        "1+", "2+", "3+", "4+", "6+", "1", "2", "3", "4", "5", "7", "9",
    ] {
        // Of this file alone: the program's own is read as well.
        let args = ["-f", "-o", "/dev/null", "-P", pack.to_str().unwrap(), "-e"];
        let inject = format!("inject=pread64:retval=0:when={when}");
        let strew = env!("CARGO_BIN_EXE_strew");
        let run = lab.program("strace", args).args([&inject, strew]);
        let run = run.args(["verify", "-d", "peer"]).run();
        match run.status.code() {
            Some(1) => {
                run.expect_failure(1, &["peer/pack: ", "a read ended before the file does"]);
                refused += 1;
            }
            // Found to be damaged now, or read again in time.
            Some(0 | 6) => {}
            _ => panic!("when={when}: {}", run.stderr),
        }
        assert!(std::fs::read(&pack).unwrap() == before, "when={when}");
        lab.strew(["verify", "-d", "peer"]).run().expect_status(0);
    }
    assert!(refused > 2, "{refused}");
    let fetch = ["fetch", "-q", "-d", "peer", &address];
    assert!(lab.strew(fetch).run().bytes() == content(0));
}
