//! Every wait of a command has an end, whoever it waits for, and what is only late is waited for.

use crate::harness::*;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use strew::id::NodeKey;
use strew::wire::frame::{Frame, Hello, PeerRole};

#[test]
fn buffer_larger_than_any_queue_does_not_hang_client_and_peer() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let content = random_bytes(200 << 20, 1);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).arg(&file).run().text();
    let fetch = ["fetch", "-d", "d", "--buffer", "1G", "-o", "out", &address];
    lab.strew(fetch).run().expect_status(0);
    assert!(std::fs::read(lab.path("out")).expect("it is there") == content);
    serve.stop();
}

#[test]
fn share_into_a_halted_peer_ends_in_the_time_given() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let mut run = lab.strew(["share", "--timeout", "2s", "-d", "d", "/dev/zero"]);
    run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut share = run.start();
    await_true("a share under way", || {
        lab.number(&serve.dir, "tcp_bytes_received") > 1 << 20
    });
    kill(serve.pid(), libc::SIGSTOP);
    let status = share.wait(Duration::from_secs(7)).expect("it ends");
    kill(serve.pid(), libc::SIGCONT);
    assert_eq!(status.code(), Some(4));
    let mut said = String::new();
    share
        .0
        .stderr
        .take()
        .expect("it is piped")
        .read_to_string(&mut said)
        .expect("text");
    assert!(
        said.contains("/dev/zero: not shared, not done in the time given"),
        "{said}"
    );
}

#[test]
fn input_that_does_not_come_is_waited_for_only_in_the_time_given() {
    let lab = Lab::new();
    let mut run = lab.strew(["share", "--timeout", "1s", "--min-copies", "0", "-d", "d"]);
    run.command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut share = run.start();
    let mut stdin = share.0.stdin.take().expect("it is piped");
    // On a slow machine not all of it is taken before the time is over.
    let _ = stdin.write_all(&[1; 600_000]);
    let status = share.wait(Duration::from_secs(20)).expect("it ends");
    assert_eq!(status.code(), Some(4));
    drop(stdin);
    await_true("the end of the private peer", || {
        lab.is_released(&lab.path("d"))
    });
}

#[test]
fn pipe_and_program_are_waited_for_only_in_the_time_given() {
    let lab = Lab::new();
    lab.program("mkfifo", ["fifo"]).run().expect_status(0);
    let share = ["share", "--timeout", "1s", "--min-copies", "0", "-d", "d"];
    let limit = Duration::from_secs(20);
    let pipe = lab.strew(share).arg("fifo").limit(limit).run();
    pipe.expect_failure(4, &["not done in the time given"]);
    // It ends its output, and not itself.
    let program = lab.strew(share);
    let program = program.args(["--", "sh", "-c", "exec >&- 2>&-; exec sleep 30"]);
    let outcome = program.limit(limit).run();
    outcome.expect_failure(4, &["not done in the time given"]);
    // What is written to a pipe later is shared.
    let mut share = lab.strew(["share", "-q", "--min-copies", "0", "-d", "d", "fifo"]);
    share.command.stdout(Stdio::piped());
    let mut share = share.start();
    fs::write(lab.path("fifo"), b"abc").expect("written");
    assert!(share.wait(LIMIT).expect("it ends").success());
    let mut address = String::new();
    let mut stdout = share.0.stdout.take().expect("it is piped");
    stdout.read_to_string(&mut address).expect("text");
    let hash = lab.strew(["hash"]).input("abc").run().text();
    assert_eq!(address.trim(), hash);
}

#[test]
fn name_that_cannot_be_resolved_is_no_obstacle_where_it_is_not_needed() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let status = lab
        .strew(["status", "-d", "d"])
        .env("STREW_PEERS", "no-such-host.invalid:7873");
    let status = status.run();
    status.expect_status(0);
    status.expect_said(&["no-such-host.invalid:7873"]);
    let share = [
        "share",
        "--min-copies",
        "0",
        "-d",
        "d",
        "-p",
        "no-such-host.invalid:7873",
    ];
    lab.strew(share).input("abc").run().expect_status(0);
    serve.stop();
}

#[test]
fn serve_that_waits_for_its_directory_ends_well_by_a_signal() {
    let lab = Lab::new();
    let dir = lab.path("d");
    let mut run = lab.strew(["share", "--min-copies", "0", "-d", "d"]);
    run.command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let client = run.start();
    await_true("a private peer", || dir.join("control.sock").exists());
    let log = lab.path("serve.stderr");
    let mut run = lab.strew(["serve", "-l", "127.0.0.1:0", "-d", "d"]);
    run.command
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("a log"));
    let mut serve = run.start();
    await_true("a serve that waits", || {
        std::fs::read_to_string(&log)
            .expect("a log")
            .contains("waiting for the clients")
    });
    kill(serve.id(), libc::SIGTERM);
    let status = serve.wait(Duration::from_secs(5)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    drop(client);
}

#[test]
fn output_that_does_not_block_is_waited_for() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let content = random_bytes(3 << 20, 4);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).arg(&file).run().text();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("set");
    let mut run = lab.strew(["fetch", "-d", "d", &address]);
    run.command.stdout(std::os::fd::OwnedFd::from(theirs));
    let mut fetch = run.start();
    let mut got = vec![0; content.len()];
    ours.read_exact(&mut got).expect("all of it");
    assert!(got == content);
    let status = fetch.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0));
    serve.stop();
}

#[test]
fn reader_that_takes_no_more_is_waited_for_only_in_the_time_given() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let file = lab.file("file", &random_bytes(3 << 20, 6));
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).arg(&file).run().text();
    lab.program("mkfifo", ["fifo"]).run().expect_status(0);
    let fetch = ["fetch", "-d", "d", "--timeout", "1s", &address];
    let ends = |mut run: Run| {
        run.command.stderr(Stdio::null());
        let mut fetch = run.start();
        let status = fetch.wait(Duration::from_secs(20)).expect("it ends");
        assert_eq!(status.code(), Some(4));
    };
    // One who takes some, one who never opens it, one who opens it and takes nothing.
    let mut run = lab.strew(fetch);
    run.command.stdout(Stdio::piped());
    ends(run);
    ends(lab.strew(fetch).args(["-o", "fifo"]));
    let mut both = std::fs::OpenOptions::new();
    let reader = both.read(true).write(true).open(lab.path("fifo"));
    ends(lab.strew(fetch).args(["-o", "fifo"]));
    drop(reader);
    let outcome = lab.strew(fetch).run();
    outcome.expect_status(0);
    assert!(outcome.stdout == fs::read(&file).expect("there"));
    serve.stop();
}

#[test]
fn pipe_by_name_whose_reader_has_gone_ends_it_as_a_pipe_does() {
    let lab = Lab::new();
    let serve = lab.serve("d", &[]);
    let file = lab.file("file", &random_bytes(3 << 20, 5));
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).arg(&file).run().text();
    lab.program("mkfifo", ["fifo"]).run().expect_status(0);
    let mut run = lab.strew(["fetch", "-d", "d", "-o", "fifo", &address]);
    run.command.stderr(Stdio::null());
    let mut fetch = run.start();
    let mut reader = std::fs::File::open(lab.path("fifo")).expect("opened");
    reader.read_exact(&mut [0]).expect("a byte");
    drop(reader);
    let status = fetch.wait(LIMIT).expect("it ends");
    assert_eq!(status.signal(), Some(libc::SIGPIPE));
    serve.stop();
}

#[test]
fn peer_that_ran_out_of_descriptors_accepts_again() {
    let lab = Lab::new();
    let dir = lab.path("d");
    let log = std::fs::File::create(lab.path("log")).expect("a log");
    let script = "ulimit -n 24; exec \"$STREW\" serve -l 127.0.0.1:0 -d d";
    let mut run = lab.program("sh", ["-c", script]);
    run.command.stdout(Stdio::null()).stderr(log);
    let serve = run.start();
    let listen = || lab.status(&dir, "listen");
    await_true("a serve", || dir.join("control.sock").exists());
    let addr = listen();
    let conns: Vec<_> = (0..24)
        .map(|_| std::net::TcpStream::connect(&addr).expect("in the queue at least"))
        .collect();
    let is_used = |fd| {
        let path = format!("/proc/{}/fd/{fd}", serve.id());
        std::fs::symlink_metadata(path).is_ok()
    };
    await_true("a peer that has used up what there is", || {
        (0..24).all(is_used)
    });
    // A client that comes now is served when they go.
    let mut status = lab.strew(["status", "--stall", "20s", "-d", "d"]);
    status.command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut status = status.start();
    assert!(
        status.wait(Duration::from_millis(300)).is_none(),
        "no descriptor is left for it"
    );
    drop(conns);
    let status = status.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0));
    kill(serve.id(), libc::SIGTERM);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_every_command() {
    let lab = Lab::new();
    for command in ["share", "fetch", "hash", "status", "serve"] {
        for setting in [
            ["--stall", "junk"],
            ["--capacity", "junk"],
            ["--progress", "junk"],
        ] {
            let run = lab.strew([command]).args(setting).run();
            run.expect_failure(2, &[setting[0], "junk"]);
        }
    }
}

#[test]
fn fetch_says_what_it_waits_for_and_is_not_kept_alive_by_that() {
    let lab = Lab::new();
    let source = lab.serve("source", &["--up-rate", "1M"]);
    let addr = source.addr();
    let other = lab.serve("other", &["-p", &addr]);
    lab.await_joined(&other, 2);
    let file = lab.file("file", &random_bytes(20 << 20, 8));
    let share = [
        "share",
        "-q",
        "--min-copies",
        "0",
        "--copies",
        "1",
        "-d",
        "source",
    ];
    let address = lab.strew(share).arg(&file).run().text();
    other.stop();
    let fetch = [
        "fetch",
        "--progress",
        "always",
        "--stall",
        "2s",
        "-d",
        "fetcher",
    ];
    let mut run = lab.strew(fetch).args(["-p", &addr, "-o", "out", &address]);
    let log = std::fs::File::create(lab.path("log")).expect("a log");
    run.command.stdout(Stdio::null()).stderr(log);
    let mut fetch = run.start();
    let said = || std::fs::read_to_string(lab.path("log")).unwrap_or_default();
    await_true("a fetch under way", || said().contains(", from 1 peer"));
    kill(source.pid(), libc::SIGSTOP);
    let status = fetch.wait(Duration::from_secs(20)).expect("it ends");
    assert_eq!(status.code(), Some(4), "{}", said());
    assert!(said().contains("no progress for 2 s"), "{}", said());

    // Who is halted is looked for as long as it may answer.
    let fetch = [
        "fetch",
        "--progress",
        "always",
        "-d",
        "fetcher",
        "-p",
        &addr,
    ];
    let outcome = lab.strew(fetch).args(["-o", "new", &address]).run();
    kill(source.pid(), libc::SIGCONT);
    outcome.expect_status(7);
    let waiting = "waiting for 1 block: no holder found yet";
    assert!(outcome.stderr.contains(waiting), "{}", outcome.stderr);
}

/// Greets every client that comes, and says nothing more: a `serve` that hangs.
fn hang(dir: &Path) {
    fs::create_dir(dir).expect("made");
    fs::write(dir.join("pack"), "").expect("written");
    let listener = UnixListener::bind(dir.join("control.sock")).expect("bound");
    let (key, role) = (NodeKey([1; 32]), PeerRole::Peer);
    let mut hello = Vec::new();
    Frame::Hello(Hello { key, port: 1, role }).encode(&mut hello);
    std::thread::spawn(move || {
        let mut clients = Vec::new();
        for mut client in listener.incoming().flatten() {
            client.write_all(&hello).expect("greeted");
            clients.push(client);
        }
    });
}

#[test]
fn peer_that_hangs_is_named_and_what_to_do_is_said() {
    let lab = Lab::new();
    hang(&lab.path("d"));
    let nowhere = "5".repeat(64);
    // More addresses than wait in a socket.
    let many = "127.0.0.1:9 ".repeat(5000);
    let cases: [(&[&str], &str, [&str; 2]); 3] = [
        (
            &["verify"],
            "",
            ["d/pack: 0 B verified, then", "give a longer --stall"],
        ),
        (
            &["pin", "rm", &nowhere],
            "",
            [&nowhere, "not unpinned, no progress for 1 s; try again"],
        ),
        (
            &["status"],
            &many,
            [
                "d: its serve does not answer, no progress for 1 s; try again",
                "--stall",
            ],
        ),
    ];
    for (args, peers, said) in cases {
        let run = lab.strew(args).args(["--stall", "1s", "-d", "d"]);
        run.env("STREW_PEERS", peers).run().expect_failure(4, &said);
    }
}
