//! Disks that fill up, and limits of space that are looked at all the while: file systems of their own, made in a
//! namespace of their own.

use crate::harness::*;
use crate::room::disk_usage;
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A file system in memory that goes when the value does.
pub struct Mounted {
    /// In whose namespace it is mounted; all others reach it through that one's root.
    _holder: Process,
    pub path: PathBuf,
}

/// Mounts an empty file system of this kind; `None`, and a line that says so, where that is not possible.
pub fn mount(lab: &Lab, kind: &str, options: &str) -> Option<Mounted> {
    let place = lab.path("disk");
    fs::create_dir_all(&place).expect("made");
    let script = "mount -t \"$0\" -o \"$1\" none \"$2\" && echo mounted && exec cat";
    let mut run = lab.program("unshare", ["-Urm", "sh", "-c", script, kind, options]);
    run = run.arg(&place);
    run.command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let spawned = run.command.stderr(Stdio::null()).spawn();
    let line = spawned.ok().and_then(|child| {
        let mut holder = Process(child);
        let mut line = String::new();
        let stdout = holder.0.stdout.take().expect("it is piped");
        let _ = BufReader::new(stdout).read_line(&mut line);
        (line == "mounted\n").then_some(holder)
    });
    let Some(holder) = line else {
        println!("skipped: mount namespace not found");
        return None;
    };
    let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
    let path = root.join(place.strip_prefix("/").expect("it is absolute"));
    Some(Mounted {
        _holder: holder,
        path,
    })
}

/// Bytes that are free where this is.
pub fn free_space(path: &Path) -> u64 {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: the path ends in a zero byte and the buffer is of the right type.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path.as_ptr(), &mut stat), 0);
        stat.f_bavail as u64 * stat.f_frsize as u64
    }
}

/// Writes a file that leaves so many bytes free, as closely as that can be done.
fn leave_free(disk: &Path, bytes: u64) {
    let filler = disk.join("filler");
    let _ = fs::remove_file(&filler);
    let len = free_space(disk).saturating_sub(bytes);
    fs::write(&filler, vec![7; len as usize]).expect("it fits");
    assert!(free_space(disk) <= bytes);
}

/// Looks at a number all the while, in a thread, and knows the lowest and the highest.
struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Watch {
    fn new(look: impl Fn() -> u64 + Send + 'static) -> Watch {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = is_over.clone();
        let thread = thread::spawn(move || {
            let (mut lowest, mut highest) = (u64::MAX, 0);
            while !seen.load(Ordering::Relaxed) {
                let now = look();
                (lowest, highest) = (lowest.min(now), highest.max(now));
                thread::sleep(Duration::from_micros(200));
            }
            (lowest, highest)
        });
        Watch { is_over, thread }
    }

    fn end(self) -> (u64, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it has looked")
    }
}

/// Bytes that the files of a directory have, for a file system that counts no blocks, and knows no holes.
fn bytes_of(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).expect("a directory");
    let files = files.filter_map(|entry| entry.ok()?.metadata().ok());
    files.map(|it| it.len()).sum()
}

#[test]
fn disk_that_fills_up_is_said_and_loses_nothing() {
    let lab = Lab::new();
    let Some(disk) = mount(&lab, "tmpfs", "size=16M") else {
        return;
    };
    let dir = disk.path.join("peer");
    let name = dir.to_str().expect("text");
    let mut peer = lab.serve(name, &["--capacity", "64M"]);
    let content = |n: u64| random_bytes(1_500_000, 900 + n);
    let share = |n: u64| {
        let file = lab.file("file", &content(n));
        let share = ["share", "-q", "--min-copies", "0", "-d", name];
        lab.strew(share).arg(&file).run()
    };
    let fetch = |address: &str| {
        let fetch = ["fetch", "-q", "-d", name, address];
        lab.strew(fetch).run().bytes()
    };
    let mut addresses = vec![(0, share(0).text())];
    let levels = [4 << 20, 1 << 20, 300 << 10, 64 << 10, 4 << 10, 0];
    for (n, level) in levels.into_iter().enumerate() {
        leave_free(&disk.path, level);
        let n = n as u64 + 1;
        let run = share(n);
        assert!(peer.is_running(), "{}", peer.said());
        // Some space was set aside earlier.
        match run.status.code() {
            Some(0) if level > 0 => addresses.push((n, run.text())),
            _ => run.expect_failure(8, &["pack", "free some space on the disk"]),
        }
        for (n, address) in &addresses {
            assert!(fetch(address.trim()) == content(*n), "with {level} free");
        }
    }
    // What a full disk holds can be opened, read and verified, and what is not to be kept be dropped.
    peer.stop();
    let peer = lab.serve(name, &["--capacity", "64M"]);
    for (n, address) in &addresses {
        assert!(fetch(address.trim()) == content(*n));
    }
    lab.strew(["verify", "-d", name]).run().expect_status(0);
    share(20).expect_failure(8, &["free some space on the disk"]);
    fs::remove_file(disk.path.join("filler")).expect("removed");
    let address = share(21).text();
    assert!(fetch(address.trim()) == content(21), "without a new start");
    lab.strew(["verify", "-d", name]).run().expect_status(0);
    peer.stop();
}

#[test]
fn what_is_to_be_left_free_is_left_free() {
    let lab = Lab::new();
    let Some(disk) = mount(&lab, "tmpfs", "size=16M") else {
        return;
    };
    let dir = disk.path.join("peer");
    let name = dir.to_str().expect("text");
    let args = ["--capacity", "64M", "--min-free", "9M"];
    let peer = lab.serve(name, &args);
    let place = disk.path.clone();
    let watch = Watch::new(move || free_space(&place));
    let mut refused = None;
    for n in 0..12 {
        let file = lab.file("file", &random_bytes(700_000, 300 + n));
        let share = ["share", "-q", "--min-copies", "0", "-d", name];
        let run = lab.strew(share).arg(&file).run();
        if run.status.code() != Some(0) {
            refused = Some(run);
            break;
        }
    }
    let (lowest, highest) = watch.end();
    let refused = refused.expect("it is full in the end");
    refused.expect_failure(8, &["9437184 bytes of the disk", "--min-free"]);
    assert!(lowest >= 9 << 20, "{lowest} were left");
    assert!(highest - lowest > 4 << 20, "but it was filled");
    peer.stop();
}

/// Shares more into a small peer than it has room for; its directory is looked at all the while.
fn overfill(lab: &Lab, name: &str, usage: fn(&Path) -> u64, capacity: u64) -> Serve {
    let first = lab.serve("first", &["--capacity", "64M"]);
    let addr = first.addr();
    let small = ["-p", &addr, "--capacity", &capacity.to_string()];
    let small = lab.serve(name, &small);
    lab.await_joined(&first, 2);
    lab.await_joined(&small, 2);
    let dir = lab.path(name);
    let watch = Watch::new(move || usage(&dir));
    for n in 0..10 {
        let file = lab.file("file", &random_bytes(1 << 20, 500 + n));
        let share = ["share", "-q", "-d", "sharer", "-p", &addr];
        lab.strew(share).arg(&file).run().expect_status(0);
    }
    let (_, highest) = watch.end();
    assert!(highest <= capacity, "{highest} of {capacity}");
    first.stop();
    small
}

#[test]
fn allotment_holds_while_more_is_shared_than_fits() {
    let lab = Lab::new();
    let capacity = 3 << 20;
    let small = overfill(&lab, "small", disk_usage, capacity);
    let number = |key: &str| lab.number(&small.dir, key);
    assert!(number("blocks_taken") > number("blocks"), "some had to go");
    assert!(number("used_bytes") > capacity / 2);
    assert_eq!(number("halved"), 0);
    small.stop();
}

#[test]
fn where_holes_are_impossible_half_is_used_and_blocks_go_for_others() {
    let lab = Lab::new();
    let Some(disk) = mount(&lab, "ramfs", "mode=755") else {
        return;
    };
    let dir = disk.path.join("peer");
    let capacity = 5 << 20;
    let small = overfill(&lab, dir.to_str().expect("text"), bytes_of, capacity);
    let number = |key: &str| lab.number(&small.dir, key);
    assert_eq!(number("halved"), 1);
    assert!(small.said().contains("half of --capacity is used"));
    assert!(number("blocks_taken") > number("blocks"), "some had to go");
    await_true("no copy is left", || !dir.join("pack.new").exists());
    lab.strew(["verify", "-d"]).arg(&dir).run().expect_status(0);
    small.stop();
}

#[test]
fn by_default_half_of_a_small_disk_is_used_and_nothing_is_left_free() {
    let lab = Lab::new();
    let Some(disk) = mount(&lab, "tmpfs", "size=16M") else {
        return;
    };
    let free = free_space(&disk.path);
    let dir = disk.path.join("peer");
    let name = dir.to_str().expect("text");
    let peer = lab.serve(name, &[]);
    let capacity: u64 = lab.status(&dir, "capacity_bytes").parse().expect("digits");
    let half = free / 2;
    // Some pages are taken before it is looked.
    assert!((half - 65_536..=half).contains(&capacity), "{capacity}");
    let share = |len: usize| {
        let file = lab.file("file", &random_bytes(len, len as u64));
        let share = ["share", "-q", "--min-copies", "0", "-d", name];
        lab.strew(share).arg(&file).run()
    };
    share(9 << 20).expect_failure(8, &["--capacity"]);
    peer.stop();
    // With what the pack takes, it is the same at the next start.
    let peer = lab.serve(name, &[]);
    let again: u64 = lab.status(&dir, "capacity_bytes").parse().expect("digits");
    assert!(again.abs_diff(capacity) <= 65_536, "{again}");
    leave_free(&disk.path, 200 << 10);
    share(100_000).expect_status(0);
    assert!(free_space(&disk.path) <= 200 << 10);
    peer.stop();
}

#[test]
fn by_default_10_gib_of_a_large_disk_are_used() {
    let lab = Lab::new();
    if free_space(&lab.path("")) < 21 << 30 {
        return println!("skipped: 21 GiB of free disk space not found");
    }
    let peer = lab.serve("peer", &[]);
    let capacity = lab.status(&peer.dir, "capacity_bytes");
    assert_eq!(capacity, (10u64 << 30).to_string());
    peer.stop();
}

#[test]
fn peer_that_is_given_less_shrinks_to_it_and_says_so() {
    let lab = Lab::new();
    let first = lab.serve("first", &["--capacity", "64M"]);
    let addr = first.addr();
    let peer = lab.serve("peer", &["-p", &addr, "--capacity", "8M"]);
    lab.await_joined(&first, 2);
    lab.await_joined(&peer, 2);
    let dir = lab.path("peer");
    let name = dir.to_str().expect("text").to_string();
    let share = |n: u64| {
        let file = lab.file("file", &random_bytes(1 << 20, 700 + n));
        let share = ["share", "-q", "-d", "sharer", "-p", &addr];
        lab.strew(share).arg(&file).run()
    };
    let addresses: Vec<String> = (0..6).map(|n| share(n).text()).collect();
    await_true("all has come", || disk_usage(&dir) > 6 << 20);
    let address = addresses[2].trim();
    lab.strew(["pin", "add", "-d", &name, address])
        .run()
        .expect_status(0);
    peer.stop();

    let peer = lab.serve("peer", &["--capacity", "4M"]);
    await_true("it fits", || disk_usage(&dir) <= 4 << 20);
    assert!(
        disk_usage(&dir) > 2 << 20,
        "no more is dropped than has to be"
    );
    assert!(peer.said().contains("4194304 allotted: blocks are dropped"));
    let fetch = ["fetch", "-q", "-d", &name, address];
    assert!(lab.strew(fetch).run().bytes() == random_bytes(1 << 20, 702));
    peer.stop();

    // What is pinned stays, and that is said once.
    let peer = lab.serve("peer", &["--capacity", "1M"]);
    await_true("it is said", || {
        peer.said().contains("what is left is pinned")
    });
    let fetch = ["fetch", "-q", "-d", &name, address];
    assert!(lab.strew(fetch).run().bytes() == random_bytes(1 << 20, 702));
    assert_eq!(peer.said().matches("what is left is pinned").count(), 1);
    peer.stop();
}
