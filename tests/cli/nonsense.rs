//! Strangers that talk nonsense, or hold a connection and say nothing: the peer lives on, in bounded memory, and
//! serves everybody else.

use crate::harness::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes of anonymous memory, in kB, that no peer exceeds.
const MEMORY_MAX: u64 = 64 << 10;

/// A network of two peers with some content.
struct Victim {
    lab: Lab,
    peers: Vec<Serve>,
    address: String,
    content: Vec<u8>,
}

impl Victim {
    fn new() -> Victim {
        let lab = Lab::new();
        let peers = lab.network(2);
        let content = random_bytes(700_000, 11);
        let share = ["share", "-d", "sharer", "-p", &peers[0].addr()];
        let address = lab.strew(share).input(content.clone()).run().text();
        Victim {
            lab,
            peers,
            address,
            content,
        }
    }

    /// The first peer still does all its work, locally and for others.
    fn expect_sound(&mut self) {
        let peer = &mut self.peers[0];
        assert!(peer.is_running(), "{}", peer.said());
        let memory = memory_of(peer.pid(), "RssAnon").expect("it runs");
        assert!(memory < MEMORY_MAX, "{memory} kB");
        let (addr, dir) = (peer.addr(), peer.dir.clone());
        let local = self.lab.strew(["fetch", &self.address, "-d"]).arg(&dir);
        assert!(local.run().bytes() == self.content);
        let remote = ["fetch", "-d", "fetcher", "-p", &addr, &self.address];
        assert!(self.lab.strew(remote).run().bytes() == self.content);
        let more = ["share", "-d", "sharer", "-p", &addr, "--min-copies", "2"];
        let shared = self.lab.strew(more).input(random_bytes(1000, 12)).run();
        shared.expect_status(0);
        let said = self.peers[0].said();
        assert!(!said.contains("panicked"), "{said}");
    }

    fn end(self) {
        for peer in self.peers {
            peer.stop();
        }
    }
}

/// A whole greeting of a peer: length, kind, magic, version, role, key, port.
fn greeting(role: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 42, 1];
    bytes.extend_from_slice(b"strew\x01");
    bytes.push(role);
    bytes.extend_from_slice(&[5; 32]);
    bytes.extend_from_slice(&9u16.to_be_bytes());
    bytes
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = (1 + body.len() as u32).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// Streams that break the protocol in every way that a length, a kind or a body can, after the greeting or
/// instead of it.
fn broken_streams(role: u8) -> Vec<Vec<u8>> {
    let hello = greeting(role);
    let mut streams = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        vec![0; 70_000],
        vec![0xff; 70_000],
    ];
    streams.extend((0..8).map(|seed| random_bytes(3000, 100 + seed)));
    streams.extend((0..hello.len()).map(|len| hello[..len].to_vec()));
    let after = |bytes: &[u8]| [&hello[..], bytes].concat();
    streams.push(after(&hello));
    for len in [
        0u32,
        1,
        0x4_0000,
        0x4_0027,
        0x10_0000,
        0x7fff_ffff,
        u32::MAX,
    ] {
        for kind in [2, 3, 5, 7, 9, 32, 33, 38, 44, 255] {
            let head = [&len.to_be_bytes()[..], &[kind]].concat();
            streams.push(after(&head));
            streams.push(after(&[&head[..], &random_bytes(500, 1)].concat()));
        }
    }
    for kind in 0..=60 {
        for len in [0, 1, 2, 33, 34, 100] {
            streams.push(after(&frame(kind, &random_bytes(len, u64::from(kind)))));
        }
    }
    // A block that is not what its address says.
    streams.push(after(&frame(5, &[&[1; 32][..], &[0], &[7; 1000]].concat())));
    streams
}

/// Waits until the other side has closed, whose read time-out is set.
fn await_end(stream: &mut impl Read, said: &[u8]) {
    let deadline = Instant::now() + LIMIT;
    let mut bytes = [0; 4096];
    while Instant::now() < deadline {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{error} after {said:02x?}"),
        }
    }
    panic!("it talks on after {said:02x?}");
}

#[test]
fn nonsense_by_udp_is_dropped() {
    let mut victim = Victim::new();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.set_nonblocking(true).expect("set");
    let to = victim.peers[0].addr;
    let mut sent = 0u64;
    let mut send = |bytes: &[u8]| {
        // Lost where the queue is full, as datagrams are.
        let _ = socket.send_to(bytes, to);
        sent += 1;
    };
    for seed in 0..600 {
        send(&random_bytes((seed * 7 % 2000) as usize, seed));
    }
    // Every kind with a whole header, at every length and with every kind of rubbish behind it.
    for kind in (0..=8).chain([0x81, 0x82, 0x83, 0x84, 0xff]) {
        for version in [0, 1, 2, 255] {
            let mut bytes = vec![b'S', b'W', version, kind, 6];
            bytes.extend_from_slice(&random_bytes(1195, u64::from(kind)));
            for len in (0..120).chain([565, 1100, 1200]) {
                send(&bytes[..len]);
            }
            bytes[53] = 32;
            send(&bytes);
            bytes.extend_from_slice(&[0; 800]);
            send(&bytes);
        }
    }
    assert!(sent > 6000);
    victim.expect_sound();
    let contacts = victim.lab.status(&victim.peers[0].dir, "contacts");
    assert_eq!(contacts, "1", "nobody was invented");
    victim.end();
}

#[test]
fn nonsense_by_tcp_ends_with_its_connection() {
    let mut victim = Victim::new();
    let to = victim.peers[0].addr;
    for bytes in broken_streams(0) {
        let mut stream = TcpStream::connect(to).expect("it listens");
        // The peer may have closed before all was written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("set");
        await_end(&mut stream, &bytes);
    }
    victim.expect_sound();
    victim.end();
}

#[test]
fn nonsense_by_the_control_socket_ends_with_its_connection() {
    let mut victim = Victim::new();
    let path = victim.peers[0].dir.join("control.sock");
    for bytes in broken_streams(3) {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("set");
        await_end(&mut stream, &bytes);
    }
    victim.expect_sound();
    victim.end();
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let mut victim = Victim::new();
    let to = victim.peers[0].addr;
    let mut held = Vec::new();
    let slow = greeting(0);
    for index in 0..400 {
        let Ok(mut stream) = TcpStream::connect(to) else {
            break;
        };
        // Some say nothing, some the beginning of a greeting, some all of it, and a length of nearly a block.
        let _ = match index % 4 {
            0 => Ok(()),
            1 => stream.write_all(&slow[..1 + index % slow.len()]),
            2 => stream.write_all(&slow),
            _ => stream.write_all(&[&slow[..], &[0, 4, 0, 0, 5, 1, 2, 3]].concat()),
        };
        held.push(stream);
    }
    let path = victim.peers[0].dir.join("control.sock");
    let mut clients = Vec::new();
    for index in 0..60 {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        let _ = stream.write_all(&greeting(3)[..index % 47]);
        clients.push(stream);
    }
    victim.expect_sound();
    // A byte at a time is slow, but no nonsense.
    let mut stream = UnixStream::connect(&path).expect("it listens");
    for byte in greeting(3) {
        stream.write_all(&[byte]).expect("it is taken");
    }
    let mut answer = [0; 11];
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("set");
    stream.read_exact(&mut answer).expect("a greeting");
    assert_eq!(&answer[4..], b"\x01strew\x01");
    drop((held, clients));
    victim.expect_sound();
    victim.end();
}
