//! What a peer may cost that does nothing, and how small and quick the program is.

use harness::{memory_of, Lab, Serve};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use strew::id::{BlockId, NodeKey};
use strew::node::{Config, Input, Node, Output};
use strew::rng::Rng;
use strew::store::MemoryStore;
use strew::wire::contact::{Age, Contact};

#[allow(clippy::unwrap_used, dead_code)]
#[path = "cli/harness.rs"]
mod harness;

/// Peers of which one comes to know more than a hundred.
const CROWD: usize = 500;
const CONTACTS: u64 = 100;
/// For how long an idle peer is watched.
const IDLE: Duration = Duration::from_secs(60);
/// The share of a core that it may take, in a thousand; private memory in kB; bytes a second sent and received.
const CPU_MAX: f64 = 1.0;
const MEMORY_MAX: u64 = 12 << 10;
const TRAFFIC_MAX: f64 = 1000.0;
/// What counts as traffic, in the status.
const TRAFFIC: [&str; 4] = [
    "udp_bytes_sent",
    "udp_bytes_received",
    "tcp_bytes_sent",
    "tcp_bytes_received",
];
/// Bytes of the stripped binary.
const BINARY_MAX: u64 = 3 << 20;
/// Processor time of a build from nothing: 90 s of two cores.
const BUILD_MAX: Duration = Duration::from_secs(180);
/// From the start of `strew hash` to its end, for a small file.
const HASH_MAX: Duration = Duration::from_millis(5);

/// Many nodes on sockets of the loopback, which answer datagrams and open no connections, until the value is dropped.
struct Crowd {
    first: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Member {
    socket: UdpSocket,
    node: Node<MemoryStore>,
    wake: Option<strew::time::Instant>,
}

impl Crowd {
    /// So many, each of which knows some of the others, and the first of whom knows most.
    fn new(count: usize) -> Crowd {
        let mut rng = Rng::new([7; 32]);
        let bind = |_| UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
        let addr = |socket: &UdpSocket| socket.local_addr().expect("it has one");
        let contacts = sockets
            .iter()
            .map(|it| Contact::new(NodeKey(rng.bytes()), addr(it), Age(100)));
        let contacts: Vec<Contact> = contacts.collect();
        let first = contacts[0].addr;
        let seeds: Vec<[u8; 32]> = contacts.iter().map(|_| rng.bytes()).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let begun = strew::time::Instant::since_epoch(Duration::from_secs(1_800_000_000));
            let born = sockets.into_iter().zip(&contacts).zip(seeds);
            let mut members: Vec<Member> = born
                .map(|((socket, contact), seed)| {
                    Member::new(begun, socket, contact, &contacts, seed)
                })
                .collect();
            live(&mut members, begun, &until);
        });
        Crowd {
            first,
            ended,
            thread: Some(thread),
        }
    }
}

impl Member {
    fn new(
        now: strew::time::Instant,
        socket: UdpSocket,
        contact: &Contact,
        all: &[Contact],
        seed: [u8; 32],
    ) -> Member {
        let config = Config {
            key: contact.key,
            serve: true,
            port: contact.addr.port(),
            listen: contact.addr.to_string(),
            ipv4: true,
            ipv6: false,
        };
        let mut node = Node::new(now, config, MemoryStore::new(1 << 20), Rng::new(seed));
        let others = all.iter().filter(|other| other.id != contact.id);
        node.settle_among(now, others.copied());
        Member {
            socket,
            node,
            wake: Some(now),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The loop of a crowd.
fn live(members: &mut [Member], begun: strew::time::Instant, ended: &AtomicBool) {
    let epoch = Instant::now();
    let mut poll = Poll::new().expect("made");
    for (nth, member) in members.iter_mut().enumerate() {
        let registry = poll.registry();
        registry
            .register(&mut member.socket, Token(nth), Interest::READABLE)
            .expect("registered");
    }
    let mut events = Events::with_capacity(1024);
    while !ended.load(Ordering::Relaxed) {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled.expect("polled"),
        }
        let now = begun + epoch.elapsed();
        let woken: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        for nth in woken {
            let member = &mut members[nth];
            let mut payload = [0; 2048];
            loop {
                match member.socket.recv_from(&mut payload) {
                    Ok((len, from)) => {
                        let payload = &payload[..len];
                        member
                            .node
                            .handle_input(now, Input::Datagram { from, payload });
                        drain(member, now);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        for member in members
            .iter_mut()
            .filter(|it| it.wake.is_some_and(|wake| wake <= now))
        {
            member.node.handle_input(now, Input::Timeout);
            drain(member, now);
        }
    }
}

fn drain(member: &mut Member, now: strew::time::Instant) {
    loop {
        match member.node.poll_output() {
            Output::Transmit { to, payload } => {
                let _ = member.socket.send_to(&payload, to);
            }
            Output::Connect { conn, .. } => {
                let reason = "not by this one";
                member
                    .node
                    .handle_input(now, Input::Closed { conn, reason });
            }
            Output::Timeout(wake) => {
                member.wake = wake;
                return;
            }
            _ => {}
        }
    }
}

/// Time that a process has run for so far.
fn cpu_of(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it runs");
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// Processor time of all processes that this one has started, and theirs, and that have ended.
fn cpu_of_children() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills in the value, all of which may be zero.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |it: libc::timeval| {
        Duration::from_secs(it.tv_sec as u64) + Duration::from_micros(it.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Bytes that a peer has sent and received so far, with those of one page of its status.
fn traffic(lab: &Lab, serve: &Serve) -> u64 {
    let page = lab.strew(["status", "-d"]).arg(&serve.dir).run().text();
    let values = page.lines().filter_map(|line| line.split_once(' '));
    let bytes: Vec<u64> = values
        .filter(|(key, _)| TRAFFIC.contains(key))
        .map(|(_, value)| value.parse().expect("a number"))
        .collect();
    assert_eq!(bytes.len(), TRAFFIC.len(), "{page}");
    bytes.iter().sum()
}

#[test]
fn idle_peer_with_a_hundred_contacts_costs_next_to_nothing() {
    let crowd = Crowd::new(CROWD);
    let lab = Lab::new();
    // The crowd opens no connections: another tries whether it can be reached, and is among the first to be asked.
    let other = lab.serve("other", &[]);
    let seeds = [other.addr(), crowd.first.to_string()];
    let serve = lab.serve("peer", &["-p", &seeds[0], "-p", &seeds[1]]);
    lab.await_joined(&serve, 2);
    let mut rng = Rng::new([8; 32]);
    harness::await_true("a hundred contacts", || {
        // Whoever looks for what nobody has meets those who are near it.
        let nowhere = BlockId(rng.bytes()).to_string();
        lab.strew(["fetch", "-d", "peer", &nowhere]).run();
        lab.number(&serve.dir, "contacts") >= CONTACTS
    });
    let (bytes, cpu, begun) = (traffic(&lab, &serve), cpu_of(serve.pid()), Instant::now());
    thread::sleep(IDLE);
    let (cpu, took) = (cpu_of(serve.pid()) - cpu, begun.elapsed().as_secs_f64());
    let share = cpu.as_secs_f64() / took * 1000.0;
    let bytes = (traffic(&lab, &serve) - bytes) as f64 / took;
    let private = memory_of(serve.pid(), "RssAnon").expect("it runs");
    println!(
        "{} contacts: {share:.2} thousandths of a core, {private} kB, {bytes:.0} bytes a second",
        lab.number(&serve.dir, "contacts")
    );
    assert_eq!(lab.status(&serve.dir, "mode"), "peer");
    assert!(share < CPU_MAX && private < MEMORY_MAX && bytes < TRAFFIC_MAX);
}

#[test]
fn hash_of_a_small_file_is_there_at_once() {
    let lab = Lab::new();
    let file = lab.file("file", b"small");
    let hash = || {
        let mut run = lab.strew(["hash"]).arg(&file);
        run.command.stdout(Stdio::null());
        let begun = Instant::now();
        let status = run.command.status().expect("it runs");
        assert!(status.success());
        begun.elapsed()
    };
    // The quickest of some: others share the machine.
    let quickest = (0..50).map(|_| hash()).min().expect("there are some");
    println!("{quickest:?}");
    assert!(quickest < HASH_MAX, "{quickest:?}");
}

#[test]
#[ignore = "builds everything anew: make budgets"]
fn release_is_small_and_soon_built() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (begun, before) = (Instant::now(), cpu_of_children());
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(cargo);
    build
        .args([
            "build",
            "--release",
            "--quiet",
            "--jobs",
            "2",
            "--target-dir",
        ])
        .arg(dir.path());
    let status = build
        .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")))
        .status();
    assert!(status.expect("it runs").success());
    let (took, cpu) = (begun.elapsed(), cpu_of_children() - before);
    let binary: &Path = &dir.path().join("release/strew");
    let len = fs::metadata(binary).expect("it is built").len();
    println!("{len} bytes, built in {took:?}, of which processors worked {cpu:?}");
    // Others share the machine, and have the clock run.
    assert!(len < BINARY_MAX && cpu < BUILD_MAX);
}
