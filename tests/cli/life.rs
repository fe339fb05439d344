//! The life of peers and clients: who starts whom, who waits for whom, and what is left when they are gone or
//! killed.

use crate::harness::*;
use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Statuses that strew(1) knows.
const STATUSES: std::ops::RangeInclusive<i32> = 0..=10;

/// A share into a directory that waits for its input: it holds the directory's peer.
fn held_client(lab: &Lab, dir: &str) -> Process {
    let mut run = lab.strew(["share", "-q", "--min-copies", "0", "-d", dir]);
    run.command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A shell has its background jobs ignore SIGINT, and whatever they start does so as well.
    // SAFETY: takes no pointers, and touches nothing that a fork leaves in doubt.
    unsafe {
        run.command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    let client = run.start();
    let path = lab.path(dir);
    // The other one is who asks for the status.
    await_true("the client at its private peer", || {
        path.join("control.sock").exists() && lab.status(&path, "clients") == "2"
    });
    client
}

/// Whether a process still runs; one that has ended and that nobody has asked about does not.
fn runs(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit(") ").next().unwrap_or_default().chars().next();
    state.is_some_and(|state| state != 'Z')
}

#[test]
fn private_peer_ends_with_its_last_client() {
    let lab = Lab::new();
    let dir = lab.path("d");
    let mut first = held_client(&lab, "d");
    let private = owner(&dir).expect("a private peer");
    // Another client uses the same peer, and does not end it.
    let status = lab.strew(["status", "-v", "-d", "d"]).run();
    assert!(
        status.stderr.contains("using the private peer"),
        "{}",
        status.stderr
    );
    assert!(runs(private) && !lab.is_released(&dir));
    drop(first.0.stdin.take());
    assert_eq!(first.wait(LIMIT).expect("it ends").code(), Some(0));
    assert!(lab.is_released(&dir));
    await_true("the private peer to end", || !runs(private));
    assert!(
        !dir.join("key").exists(),
        "a private peer's id is never saved"
    );
    let status = lab.strew(["status", "-v", "-d", "d"]).run();
    assert!(
        status.stderr.contains("started a private peer"),
        "{}",
        status.stderr
    );
}

#[test]
fn command_substitution_returns_with_its_command() {
    let lab = Lab::new();
    lab.file("file", &random_bytes(300_000, 1));
    let script = "h=$(\"$STREW\" share -q -d d --min-copies 0 file) && echo \"$h\"";
    let begun = Instant::now();
    let shared = lab.program("sh", ["-c", script]).run().text();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(shared, lab.strew(["hash", "file"]).run().text());
    assert!(lab.is_released(&lab.path("d")));
}

#[test]
fn environment_says_directory_and_peers() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addrs = format!(" {}\n{} ", peers[0].addr(), peers[1].addr());
    let share = lab.strew(["share"]).env("STREW_PEERS", &addrs).input("abc");
    let address = share.run().text();
    assert!(lab.path("home/data/strew/pack").exists());
    let fetch = lab.strew(["fetch", &address]).env("STREW_PEERS", &addrs);
    let fetch = fetch.env("STREW_DIR", lab.path("d"));
    assert_eq!(fetch.run().bytes(), b"abc");
    assert!(lab.path("d/pack").exists());
}

#[test]
fn clients_use_the_serve_that_runs() {
    let lab = Lab::new();
    let peer = lab.serve("peer0", &[]);
    let share = lab.strew(["share", "-v", "--min-copies", "0", "--capacity", "1G", "-d"]);
    let shared = share.arg(&peer.dir).input("abc").run();
    for said in ["using the serve", "--capacity is ignored"] {
        assert!(shared.stderr.contains(said), "{}", shared.stderr);
    }
    let address = shared.text();
    assert_eq!(lab.status(&peer.dir, "blocks"), "1");
    let remote = ["fetch", "-d", "d", "-p", &peer.addr(), &address];
    assert_eq!(lab.strew(remote).run().bytes(), b"abc");
    peer.stop();
}

#[test]
fn serve_waits_for_the_clients_of_a_private_peer_and_says_so() {
    let lab = Lab::new();
    let mut client = held_client(&lab, "d");
    let mut run = lab.strew(["serve", "-l", "127.0.0.1:0", "-d", "d"]);
    let log = lab.path("serve.stderr");
    run.command.stdout(Stdio::piped());
    run.command.stderr(fs::File::create(&log).expect("a log"));
    let mut serve = run.start();
    await_true("a serve that says that it waits", || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("waiting for the clients"))
    });
    assert!(serve.wait(Duration::ZERO).is_none());
    client
        .0
        .stdin
        .take()
        .expect("piped")
        .write_all(b"abc")
        .expect("taken");
    assert_eq!(client.wait(LIMIT).expect("it ends").code(), Some(0));
    await_true("a serve that answers", || {
        let status = lab.strew(["status", "-v", "-d", "d"]).run();
        status.stderr.contains("using the serve")
    });
    let said = fs::read_to_string(&log).expect("a log");
    assert_eq!(said.matches("waiting").count(), 1, "{said}");
    kill(serve.id(), libc::SIGTERM);
    let status = serve.wait(Duration::from_secs(5)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn client_whose_peer_is_killed_ends_with_status_1() {
    let lab = Lab::new();
    let mut client = held_client(&lab, "d");
    kill(
        owner(&lab.path("d")).expect("a private peer"),
        libc::SIGKILL,
    );
    let mut stdin = client.0.stdin.take().expect("piped");
    let _ = stdin.write_all(&random_bytes(1 << 20, 1));
    drop(stdin);
    let ended = client.0.stdout.take().zip(client.0.stderr.take());
    let (mut stdout, mut stderr) = ended.expect("piped");
    let (mut out, mut said) = (String::new(), String::new());
    use std::io::Read;
    stdout.read_to_string(&mut out).expect("text");
    stderr.read_to_string(&mut said).expect("text");
    let status = client.wait(LIMIT).expect("it ends");
    assert_eq!((status.code(), &*out), (Some(1), ""), "{said}");
    assert!(
        said.contains("the peer ended before the work was done"),
        "{said}"
    );
    assert!(said.contains("peer.log"), "{said}");
    // The directory is none the worse for it.
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let address = lab.strew(share).input("abc").run().text();
    assert_eq!(
        lab.strew(["fetch", "-d", "d", &address]).run().bytes(),
        b"abc"
    );
}

#[test]
fn peer_that_is_halted_is_not_waited_for_without_end() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    let share = ["share", "-q", "-d", "sharer", "-p", &addr];
    let content = random_bytes(600_000, 3);
    let address = lab.strew(share).input(content.clone()).run().text();
    for peer in &peers {
        kill(peer.pid(), libc::SIGSTOP);
    }
    // Its own clients are told that it does not answer, others give up when they were told to.
    let status = ["status", "--stall", "6s", "-d"];
    let own = lab.strew(status).arg(&peers[0].dir).run();
    let pid = format!("pid {}", peers[0].pid());
    own.expect_failure(10, &["waiting for", "takes no clients", &pid, "--dir"]);
    assert!(own.took < Duration::from_secs(20), "{:?}", own.took);
    let fetch = ["fetch", "-d", "fetcher", "-p", &addr, "-o", "out", &address];
    let other = lab.strew(fetch).args(["--timeout", "1s"]).run();
    other.expect_failure(4, &["not done in the time given", "--timeout"]);
    let other = lab.strew(fetch).args(["--stall", "20s"]).run();
    let code = other.status.code().expect("it is not killed");
    assert!([4, 7].contains(&code), "{code}: {}", other.stderr);
    assert!(!lab.path("out").exists() && !lab.path("out.part").exists());
    for peer in &peers {
        kill(peer.pid(), libc::SIGCONT);
    }
    assert_eq!(lab.strew(fetch).run().bytes(), b"");
    assert!(fs::read(lab.path("out")).expect("it is there") == content);
}

#[test]
fn killed_client_leaves_no_peer_behind() {
    let lab = Lab::new();
    let dir = lab.path("d");
    let client = held_client(&lab, "d");
    let private = owner(&dir).expect("a private peer");
    drop(client);
    await_true("the end of the private peer", || !runs(private));
    assert!(lab.is_released(&dir));
}

#[test]
fn other_commands_die_by_the_signal() {
    let lab = Lab::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut client = held_client(&lab, "d");
        kill(client.id(), signal);
        let status = client.wait(Duration::from_secs(5)).expect("it ends");
        assert_eq!(status.signal(), Some(signal));
        await_true("the end of the private peer", || {
            lab.is_released(&lab.path("d"))
        });
    }
}

#[test]
fn long_names_of_directories_are_no_obstacle() {
    let lab = Lab::new();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(200));
    let share = ["share", "-q", "--min-copies", "0", "-d", &deep];
    let address = lab.strew(share).input("abc").run().text();
    assert!(lab.is_released(&lab.path(&deep)));
    let absolute = lab.path(&deep);
    let mut run = lab.strew(["serve", "-l", "127.0.0.1:0", "-d", &deep]);
    run.command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut serve = run.start();
    await_true("a serve that answers", || {
        let status = lab.strew(["status", "-v", "-d"]).arg(&absolute).run();
        status.stderr.contains("using the serve")
    });
    assert_eq!(
        lab.strew(["fetch", "-d", &deep, &address]).run().bytes(),
        b"abc"
    );
    kill(serve.id(), libc::SIGINT);
    let status = serve.wait(Duration::from_secs(5)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn sigterm_ends_a_serve_also_under_load() {
    let lab = Lab::new();
    let mut peers = lab.network(2);
    let addr = peers[0].addr();
    let mut loads = Vec::new();
    for index in 0..3 {
        let dir = format!("load{index}");
        let mut run = lab.strew(["share", "-q", "-p", &addr, "-d", &dir, "/dev/zero"]);
        run.command.stdout(Stdio::null()).stderr(Stdio::null());
        loads.push(run.start());
    }
    await_true("a peer under load", || {
        lab.number(&peers[0].dir, "tcp_bytes_received") > 1 << 10
    });
    peers.remove(0).stop();
    for load in &loads {
        kill(load.id(), libc::SIGKILL);
    }
}

#[test]
fn restarted_serve_keeps_id_and_blocks_and_finds_its_network_again() {
    let lab = Lab::new();
    let mut peers = lab.network(3);
    let content = random_bytes(600_000, 2);
    let share = ["share", "-q", "-d", "sharer", "-p", &peers[0].addr()];
    let address = lab.strew(share).input(content.clone()).run().text();
    for is_killed in [false, true] {
        let peer = peers.remove(2);
        let (id, listen) = (peer.id.clone(), peer.addr());
        let blocks = lab.status(&peer.dir, "blocks");
        match is_killed {
            false => peer.stop(),
            true => peer.kill(),
        }
        // Its contacts are what it saved when it was stopped; a killed one has those of its last stop.
        let again = lab.serve_at("peer2", &listen, &[]);
        assert_eq!(again.id, id);
        assert_eq!(lab.status(&again.dir, "blocks"), blocks);
        lab.await_joined(&again, 3);
        peers.push(again);
    }
    // All that it needs is its own pack.
    let last = peers.remove(2);
    for peer in peers {
        peer.stop();
    }
    let fetch = ["fetch", "-d", "fetcher", "-p", &last.addr(), &address];
    assert!(lab.strew(fetch).run().bytes() == content);
}

#[test]
fn serve_that_is_killed_finds_its_network_again() {
    let lab = Lab::new();
    let mut peers = lab.network(3);
    let peer = peers.remove(2);
    // Long before it would be stopped in good order.
    let contacts = peer.dir.join("contacts");
    await_true("contacts that are saved", || contacts.exists());
    peer.kill();
    let again = lab.serve("peer2", &[]);
    lab.await_joined(&again, 3);
}

#[test]
fn many_clients_at_once_survive_the_death_of_their_peer() {
    const ROUNDS: u64 = 20;
    const CLIENTS: u64 = 20;
    let lab = Lab::new();
    let dir = lab.path("d");
    let mut killed = 0;
    for round in 0..ROUNDS {
        let kills = round % 2 == 1;
        let outcomes = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let lab = &lab;
                    scope.spawn(move || {
                        let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
                        let seed = round * CLIENTS + client;
                        let content = random_bytes(20_000 * client as usize, seed);
                        lab.strew(share).input(content).run()
                    })
                })
                .collect();
            if kills {
                // At another moment in each round, counted from the first peer that is there.
                let pid = await_some("a private peer", || {
                    let ended = clients.iter().all(|client| client.is_finished());
                    owner(&dir).map(Some).or(ended.then_some(None))
                });
                thread::sleep(Duration::from_millis(random_bytes(1, round)[0] as u64 / 8));
                // Ids are not used again as long as so few processes are started.
                if let Some(pid) = pid.filter(|&pid| owner(&dir) == Some(pid)) {
                    kill(pid, libc::SIGKILL);
                }
            }
            let outcomes = clients
                .into_iter()
                .map(|client| client.join().expect("no hang"));
            outcomes.collect::<Vec<_>>()
        });
        let failed = |outcome: &&Outcome| !outcome.status.success();
        killed += outcomes.iter().filter(failed).count();
        for outcome in &outcomes {
            let code = outcome.status.code().expect("it is not killed itself");
            assert!(STATUSES.contains(&code), "{code}: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            match code {
                0 => assert!(outcome.stdout.len() > 64),
                _ => assert!(kills, "round {round}: {code}: {}", outcome.stderr),
            }
        }
        if !kills {
            assert!(lab.is_released(&dir), "after round {round}");
        }
    }
    assert!(killed > 0, "no peer was killed at its work");
    await_true("the end of the last private peer", || {
        !is_locked(&dir.join("lock"))
    });
    let serve = lab.serve("d", &[]);
    let said = serve.said();
    assert!(!said.contains("damaged"), "{said}");
    let hashed = lab
        .strew(["hash"])
        .input(random_bytes(20_000, 1))
        .run()
        .text();
    let fetch = lab.strew(["fetch", "-d", "d", &hashed]).run();
    assert!(
        fetch.bytes() == random_bytes(20_000, 1),
        "what was acknowledged is there"
    );
    serve.stop();
}

#[test]
fn serve_waits_for_what_one_that_was_killed_has_left() {
    let lab = Lab::new();
    let first = lab.serve("d", &[]);
    let dir = first.dir.clone();
    first.kill();
    // As its child does, which has the lock until it is another program.
    let lock = fs::File::open(dir.join("lock")).expect("it is there");
    lock.lock().expect("nobody else has it");
    let is_unlocked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_unlocked);
    let unlocked = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        seen.store(true, Ordering::Relaxed);
        drop(lock);
    });
    let serve = lab.serve("d", &[]);
    assert!(is_unlocked.load(Ordering::Relaxed), "it has waited");
    serve.stop();
    unlocked.join().expect("it ends");
}
