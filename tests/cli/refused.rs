//! What cannot be had, in more depth than a line of [`super::failures`] has: the status of strew(1), a message that
//! says what, which and what next, nothing on standard output and nothing left behind.

use crate::harness::*;
use crate::terminal::terminal;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// An address where nobody listens, and nobody will while the value lives: bound, but never answered.
fn silent_addr() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let addr = socket.local_addr().expect("it has one");
    (socket, addr)
}

#[test]
fn texts_that_are_no_addresses_are_refused_before_anything_is_touched() {
    let hex = "0123456789abcdef".repeat(4);
    let with_key = format!("{hex}.{hex}");
    let lab = Lab::new();
    let addresses = [
        "",
        "x",
        &hex[1..],
        &format!("{hex}0"),
        &format!("g{}", &hex[1..]),
        &format!("{hex}."),
        &format!(".{hex}"),
        &format!("{with_key}.{hex}"),
        &format!("{hex}.{}", &hex[1..]),
        &format!(" {hex}"),
        &format!("{}\u{e9}", &hex[2..]),
    ];
    for address in addresses {
        let outcome = lab.strew(["fetch", "-d", "d", "-o", "out", address]).run();
        outcome.expect_failure(2, &[address]);
    }
    assert_eq!(lab.names(), [""; 0], "not even the data directory");
}

#[test]
fn help_and_version_are_answers() {
    let lab = Lab::new();
    for args in [&["help"][..], &["--help"], &["-h"], &["help", "help"]] {
        let text = lab.strew(args).run().text();
        for command in ["share", "fetch", "serve", "hash", "status"] {
            assert!(text.contains(&format!("\n    {command} ")), "{text}");
        }
        assert!(!text.contains("__"), "hidden commands stay hidden: {text}");
    }
    for args in [&["share", "--help"][..], &["help", "share"]] {
        assert!(lab.strew(args).run().text().contains("--min-copies"));
    }
    for args in [&["--version"][..], &["-V"], &["share", "-V"]] {
        let version = concat!("strew ", env!("CARGO_PKG_VERSION"));
        assert_eq!(lab.strew(args).run().text(), version);
    }
    assert_eq!(lab.names(), [""; 0]);
}

#[test]
fn inputs_that_cannot_be_read_are_named() {
    let lab = Lab::new();
    for command in ["share", "hash"] {
        let base = [command, "-d", "data"];
        let missing = lab.strew(base).arg("none").run();
        missing.expect_failure(1, &["none: No such file or directory"]);
        // A name neither begins a line nor moves the cursor.
        let odd = lab.strew(base).arg("no\x1b[31m\nne").run();
        odd.expect_failure(
            1,
            &["strew: no\\033[31m\\012ne: No such file or directory\n"],
        );
        let under = lab.strew(base).arg("none/below").run();
        under.expect_failure(1, &["none/below: No such file"]);
    }
    assert!(
        !lab.path("data").exists(),
        "no peer was started for nothing"
    );
    assert_eq!(lab.names(), [""; 0]);
}

/// Permissions mean nothing to root, so that the program is run as somebody else then.
fn as_nobody(mut run: Run) -> Run {
    if is_root() {
        run.command.uid(65_534).gid(65_534);
    }
    run
}

#[test]
fn permissions_that_are_missing_are_named() {
    let lab = Lab::new();
    let open = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    open(lab.path(""), 0o777).expect("ours");
    // The build's directory may be closed to others.
    let program = lab.path("strew");
    fs::copy(env!("CARGO_BIN_EXE_strew"), &program).expect("copied");
    open(program.clone(), 0o755).expect("ours");
    let program = program.to_str().expect("text");
    let mut probe = as_nobody(lab.program(program, ["--version"]));
    probe.command.stdout(Stdio::null());
    if probe.command.status().is_err() {
        return println!("skipped: user without privileges not found");
    }
    let secret = lab.file("secret", b"content");
    open(secret, 0).expect("ours");
    let shut = lab.path("shut");
    fs::create_dir(&shut).expect("made");
    open(shut, 0o555).expect("ours");
    for command in ["share", "hash"] {
        let run = lab.program(program, [command, "-d", "data", "secret"]);
        as_nobody(run)
            .run()
            .expect_failure(1, &["secret: Permission denied"]);
    }
    let address = "0".repeat(64);
    let run = lab.program(program, ["fetch", "-d", "data", "-o", "shut/out", &address]);
    as_nobody(run)
        .run()
        .expect_failure(1, &["shut/out: ", "Permission denied"]);
    let run = lab.program(program, ["status", "-d", "shut/data"]);
    as_nobody(run)
        .run()
        .expect_failure(1, &["shut/data: Permission denied"]);
    let run = lab.program(program, ["serve", "-l", "127.0.0.1:0", "-d", "shut/data"]);
    as_nobody(run)
        .run()
        .expect_failure(1, &["shut/data: Permission denied"]);
    assert!(
        !lab.path("data").exists(),
        "no peer was started for nothing"
    );
    assert_eq!(lab.names(), ["secret", "shut", "strew"]);
}

#[test]
fn outputs_that_cannot_be_used_are_left_alone() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let content = random_bytes(300_000, 3);
    let addr = peers[0].addr();
    let share = ["share", "-q", "-d", "data/a", "-p", &addr];
    let address = lab.strew(share).input(content.clone()).run().text();
    fs::create_dir(lab.path("dir")).expect("made");
    lab.file("old", b"old");
    let fetch = |output: &str| {
        let fetch = ["fetch", "-d", "data/b", "-p", &addr, "-o", output, &address];
        lab.strew(fetch)
    };
    fetch("dir")
        .run()
        .expect_failure(1, &["dir: is a directory"]);
    fetch("none/out")
        .run()
        .expect_failure(1, &["none/out: ", "No such file"]);
    fetch("old/out")
        .run()
        .expect_failure(1, &["old/out: ", "Not a directory"]);
    fetch("old").run().expect_failure(9, &["old: exists", "-f"]);
    std::os::unix::fs::symlink("nowhere", lab.path("link")).expect("made");
    fetch("link")
        .run()
        .expect_failure(9, &["link: exists", "link to nothing", "-f"]);
    fs::remove_file(lab.path("link")).expect("removed");
    for no_file in ["", "none/", "dir/none/"] {
        let said = format!("-o {no_file}: names no file");
        fetch(no_file).run().expect_failure(1, &[&said]);
    }
    fetch("/dev/full")
        .run()
        .expect_failure(8, &["/dev/full: No space left"]);
    let mut full = fetch("-");
    full.command
        .stdout(File::create("/dev/full").expect("it opens"));
    full.command.stderr(Stdio::null());
    let status = full.start().wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(8));
    assert_eq!(fs::read(lab.path("old")).expect("it is there"), b"old");
    assert_eq!(lab.names(), ["dir", "old"]);
    assert!(lab.is_released(&lab.path("data/b")));
    assert_eq!(fetch("old").arg("-f").run().bytes(), b"");
    assert!(fs::read(lab.path("old")).expect("it is there") == content);
    assert_eq!(fetch("/dev/null").run().bytes(), b"");
    assert_eq!(lab.names(), ["dir", "old"]);
}

#[test]
fn unknown_addresses_and_wrong_keys_are_said_soon() {
    let lab = Lab::new();
    let peers = lab.network(3);
    let addr = peers[0].addr();
    let share = |form: &[&str]| {
        let share = ["share", "-q", "-d", "data/a", "-p", &addr];
        let run = lab.strew(share).args(form);
        run.input(random_bytes(600_000, 9)).run().text()
    };
    let (encrypted, plain) = (share(&[]), share(&["--plain"]));
    let (data, key) = encrypted.split_once('.').expect("a key");
    // Another digit in the middle, whatever there is.
    let other = |text: &str| {
        let digit = if text.as_bytes()[30] == b'0' {
            "1"
        } else {
            "0"
        };
        format!("{}{digit}{}", &text[..30], &text[31..])
    };
    let cases = [
        (other(&plain), 3, "not found"),
        (format!("{}.{key}", other(data)), 3, "not found"),
        (data.to_string(), 2, "give the whole ADDRESS.KEY"),
        (
            format!("{plain}.{key}"),
            2,
            "give the ADDRESS without a KEY",
        ),
        (
            format!("{data}.{}", other(key)),
            6,
            "the key does not belong",
        ),
    ];
    for (address, status, said) in &cases {
        for dir in ["data/b", peers[1].dir.to_str().expect("text")] {
            for output in ["-", "out"] {
                let fetch = ["fetch", "-d", dir, "-p", &addr, "-o", output, address];
                let outcome = lab.strew(fetch).run();
                outcome.expect_failure(*status, &[said, &address[..64]]);
                assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
                assert_eq!(lab.names(), [""; 0]);
            }
        }
    }
    let asked = lab
        .strew(["fetch", "-d", "data/b", "-p", &addr, &cases[0].0])
        .run();
    asked.expect_said(&["asked the 3 closest peers"]);
}

#[test]
fn nobody_to_be_reached_is_status_7() {
    let lab = Lab::new();
    let (_held, silent) = silent_addr();
    let silent = silent.to_string();
    let hex = "0123456789abcdef".repeat(4);
    for peers in [&[][..], &["-p", &silent]] {
        let fetch = ["fetch", "-d", "data/a", "-o", "out", &hex];
        let outcome = lab.strew(fetch).args(peers).run();
        outcome.expect_failure(7, &["no peer could be reached", "-p HOST:PORT", &hex]);
    }
    lab.file("f", b"content");
    let outcome = lab
        .strew(["share", "-d", "data/a", "-p", &silent, "f"])
        .run();
    outcome.expect_status(7);
    outcome.expect_said(&["f: ", "no peer could be reached", "-p HOST:PORT"]);
    let hash = lab.strew(["hash", "f"]).run().bytes();
    assert_eq!(outcome.stdout, hash, "the address is good for later");
    let outcome = lab
        .strew(["share", "-d", "data/a", "--min-copies", "0", "f"])
        .run();
    assert!(outcome.took < Duration::from_secs(5), "{:?}", outcome.took);
    assert_eq!(outcome.bytes(), hash);
    let named = [
        "fetch",
        "-d",
        "data/a",
        "-p",
        "no-such-host.invalid:1",
        &hex,
    ];
    let outcome = lab.strew(named).run();
    outcome.expect_failure(7, &["no-such-host.invalid:1"]);
    assert_eq!(lab.names(), ["f"]);
}

#[test]
fn ports_and_directories_in_use_are_status_10() {
    let lab = Lab::new();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    let (_udp, udp) = silent_addr();
    for taken in [tcp.local_addr().expect("it has one"), udp] {
        let taken = taken.to_string();
        let outcome = lab.strew(["serve", "-d", "data/a", "-l", &taken]).run();
        outcome.expect_failure(10, &[&taken, "in use", "-l"]);
        assert!(lab.is_released(&lab.path("data/a")));
    }
    let first = lab.serve("data/b".replace('/', "-").as_str(), &[]);
    let second = lab
        .strew(["serve", "-l", "127.0.0.1:0", "-d"])
        .arg(&first.dir);
    let outcome = second.run();
    let dir = first.dir.display().to_string();
    outcome.expect_failure(10, &[&dir, &first.pid().to_string(), "--dir"]);
    assert!(outcome.took < Duration::from_secs(5), "{:?}", outcome.took);
    assert_eq!(lab.status(&first.dir, "id"), first.id, "the first lives on");
}

#[test]
fn full_directory_is_status_8_and_full_peers_are_passed_over() {
    let lab = Lab::new();
    let first = lab.serve("peer0", &[]);
    let addr = first.addr();
    let small = lab.serve("peer1", &["-p", &addr, "--capacity", "1M"]);
    lab.await_joined(&first, 2);
    lab.await_joined(&small, 2);
    let content = random_bytes(3 << 20, 4);
    let own = ["share", "-d", "data/a", "--min-copies", "0"];
    let own = lab.strew(own).args(["--capacity", "1M"]);
    let outcome = own.input(content.clone()).run();
    outcome.expect_failure(8, &["standard input: cannot keep the own copy", "capacity"]);
    assert!(lab.is_released(&lab.path("data/a")));

    let other = ["share", "-d", "data/b", "-p", &addr];
    let shared = lab.strew(other).input(content.clone()).run();
    shared.expect_said(&["at least 1 copy"]);
    let address = shared.text();
    let strict = lab
        .strew(other)
        .args(["--min-copies", "2"])
        .input(content.clone());
    let outcome = strict.run();
    outcome.expect_status(5);
    outcome.expect_said(&["at least 1 copy", "2 were asked for"]);
    assert_eq!(String::from_utf8_lossy(&outcome.stdout).trim_end(), address);
    let used: u64 = lab
        .status(&small.dir, "used_bytes")
        .parse()
        .expect("a number");
    assert!(used <= 1 << 20, "{used} bytes");
    let fetch = lab.strew(["fetch", "-d", "data/c", "-p", &addr, &address]);
    assert!(fetch.run().bytes() == content);
}

#[test]
fn full_disk_is_status_8() {
    let lab = Lab::new();
    fs::create_dir(lab.path("disk")).expect("made");
    lab.file("f", &random_bytes(10 << 20, 6));
    let shared = lab.strew(["share", "-q", "--min-copies", "0", "-d", "data", "f"]);
    let address = shared.run().text();
    // A small disk that nobody else sees, and that goes with the shell.
    let script = "mount -t tmpfs -o size=3m tmpfs disk || exit 99";
    let user = if is_root() { "-m" } else { "-rm" };
    let on_small_disk = |command: &str| {
        let script = format!("{script}; eval '{command}'");
        // By way of a shell, which says so where there is no such program.
        let exec = "exec unshare \"$@\"";
        lab.program("sh", ["-c", exec, "sh", user, "sh", "-c", &script])
    };
    let probe = on_small_disk("true").run();
    if !probe.status.success() {
        return println!("skipped: mount namespace not found");
    }
    let share = "\"$STREW\" share -q --min-copies 0 --capacity 1G -d disk/d f";
    on_small_disk(share)
        .run()
        .expect_failure(8, &["the disk", "free some"]);
    let fetch = format!("\"$STREW\" fetch -d data -o disk/out {address}");
    let outcome = on_small_disk(&fetch).run();
    outcome.expect_failure(8, &["disk/out", "No space left", "verified bytes are in"]);
    for command in ["share f", "serve -l 127.0.0.1:0"] {
        let fill = "head -c 4M /dev/zero > disk/fill 2>/dev/null";
        let command = format!("{fill}; \"$STREW\" {command} --capacity 1G -d disk/d");
        let outcome = on_small_disk(&command).run();
        outcome.expect_failure(8, &["disk/d", "space", "--dir"]);
    }
}

#[test]
fn fewer_copies_than_asked_for_is_status_5_with_the_address() {
    let lab = Lab::new();
    let peers = lab.network(2);
    lab.file("f", b"content");
    let share = [
        "share",
        "-d",
        "data/a",
        "-p",
        &peers[0].addr(),
        "--min-copies",
        "3",
        "f",
    ];
    let outcome = lab.strew(share).run();
    outcome.expect_status(5);
    outcome.expect_said(&[
        "f: ",
        "at least 2 copies",
        "3 were asked for",
        "start more peers",
    ]);
    assert_eq!(outcome.stdout, lab.strew(["hash", "f"]).run().bytes());
    assert!(
        outcome.took >= Duration::from_secs(9),
        "it is tried for 10 s"
    );
    assert!(outcome.took < Duration::from_secs(25), "{:?}", outcome.took);
}

/// A peer of protocol version 9, which says so to whoever asks, by UDP and TCP, as long as the test runs.
fn other_version() -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = tcp.local_addr().expect("it has one");
    let udp = UdpSocket::bind(addr).expect("a free port of TCP is free of UDP, too");
    thread::spawn(move || {
        let mut request = [0; 2048];
        while let Ok((len, from)) = udp.recv_from(&mut request) {
            if len >= 13 {
                let mut reply = b"SW\x09\xff\x00".to_vec();
                reply.extend_from_slice(&request[5..13]);
                reply.extend_from_slice(&[7; 32]);
                reply.extend_from_slice(&[0; 8]);
                let _ = udp.send_to(&reply, from);
            }
        }
    });
    thread::spawn(move || {
        while let Ok((mut socket, _)) = tcp.accept() {
            let _ = socket.write_all(b"\0\0\0\x07\x01strew\x09");
            let _ = socket.read(&mut [0; 256]);
        }
    });
    addr
}

#[test]
fn peer_of_another_version_is_named_with_both_versions() {
    let lab = Lab::new();
    let other = other_version().to_string();
    let said = [
        "no peer could be reached",
        &format!("{other} speaks protocol version 9"),
        "this strew speaks 1",
    ];
    let hex = "0123456789abcdef".repeat(4);
    let fetch = lab.strew(["fetch", "-d", "data/a", "-p", &other, &hex]);
    fetch.run().expect_failure(7, &said);
    let share = lab.strew(["share", "-d", "data/a", "-p", &other]);
    let outcome = share.input("content").run();
    outcome.expect_status(7);
    outcome.expect_said(&said);
    // Beside peers of our version it does no harm.
    let peers = lab.network(2);
    let both = ["-p", &other, "-p", &peers[0].addr()];
    let share = lab
        .strew(["share", "-d", "data/b"])
        .args(both)
        .input("content");
    let address = share.run().text();
    let fetch = lab.strew(["fetch", "-d", "data/c", &address]).args(both);
    assert_eq!(fetch.run().bytes(), b"content");
}

#[test]
fn data_is_not_put_out_to_a_terminal_unasked() {
    let lab = Lab::new();
    let share = ["share", "-q", "-d", "data/a", "--min-copies", "0"];
    let address = lab.strew(share).input("content").run().text();
    let run = |args: &[&str]| {
        let (ours, theirs) = terminal();
        let mut run = lab.strew(["fetch", "-d", "data/a", &address]).args(args);
        run.command.stdout(theirs).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut run.command);
        // What holds the program's end keeps the terminal open.
        drop(run);
        let status = process.wait(LIMIT).expect("it ends");
        let mut said = String::new();
        let mut stderr = process.0.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut said).expect("text");
        let mut shown = Vec::new();
        // Reading ends with an error when the other end is closed.
        let _ = (&ours).read_to_end(&mut shown);
        (
            status.code(),
            said,
            String::from_utf8_lossy(&shown).into_owned(),
        )
    };
    let (status, said, shown) = run(&[]);
    assert_eq!((status, &*shown), (Some(2), ""), "{said}");
    assert!(said.contains("is a terminal; give -o FILE"), "{said}");
    let (status, said, shown) = run(&["-o", "-"]);
    assert_eq!((status, &*shown), (Some(0), "content"), "{said}");
}
