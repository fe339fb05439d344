//! Asks peers over UDP and measures how they answer; what `clients.py` runs beside transfers.
//!
//! `ping ADDR...` pings each peer every 2 ms until standard input ends, and prints one line for each: answers, losses,
//! and the times of the answers at p50, at p99 and at most, in ms. `find-node ADDR SECONDS` keeps 16 requests on
//! their way, and prints how many were answered in a second, and the bytes of the replies on average. `echo LEN` prints
//! its address and answers each request with that many bytes and no thought, with the calls and the loop that a peer
//! has: what the system alone takes. Without arguments, as under `cargo bench`, it does nothing.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use strew::id::{NodeKey, Point};
use strew::rng::Rng;
use strew::wire::codec::Reader;
use strew::wire::datagram::{Direction, Families, Header, Kind, Request, Start, Token};

const PING_PERIOD: Duration = Duration::from_millis(2);
const LOST_AFTER: Duration = Duration::from_secs(1);
const IN_FLIGHT: usize = 16;
/// Datagrams asked of the system in one call, so that the asker is not slower than the peer.
const BATCH: usize = 16;
const FAMILIES: Families = Families {
    ipv4: true,
    ipv6: false,
};

fn header(rng: &mut Rng, key: NodeKey, token: Token) -> Header {
    Header {
        kind: Kind::Ping,
        direction: Direction::Request,
        client_mode: true,
        families: FAMILIES,
        shortened: false,
        transaction: u64::from_be_bytes(rng.bytes()),
        key,
        token,
    }
}

fn reply(bytes: &[u8]) -> Option<Header> {
    match Header::decode(&mut Reader::new(bytes)) {
        Ok(Start::Ours(header)) if header.direction == Direction::Reply => Some(header),
        _ => None,
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// One peer that is pinged.
struct Pinged {
    addr: SocketAddr,
    /// Sent and not answered.
    waiting: Vec<(u64, Instant)>,
    times: Vec<Duration>,
    lost: usize,
}

fn ping(addrs: &[String]) {
    let mut rng = Rng::new([1; 32]);
    let key = NodeKey(rng.bytes());
    let socket = socket();
    let mut peers: Vec<Pinged> = addrs
        .iter()
        .map(|addr| Pinged {
            addr: addr.parse().unwrap(),
            waiting: Vec::new(),
            times: Vec::new(),
            lost: 0,
        })
        .collect();
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = sender.send(());
    });
    let mut next = Instant::now();
    while ended.try_recv().is_err() {
        let now = Instant::now();
        if now >= next {
            next = now + PING_PERIOD;
            for peer in &mut peers {
                let header = header(&mut rng, key, Token::default());
                let sent = socket.send_to(&Request::Ping.encode(header, true), peer.addr);
                peer.waiting.push((header.transaction, now));
                let before = peer.waiting.len();
                peer.waiting.retain(|&(_, at)| now - at < LOST_AFTER);
                // A peer that has ended refuses them.
                if sent.is_ok() {
                    peer.lost += before - peer.waiting.len();
                }
            }
        }
        let left = next.saturating_duration_since(Instant::now());
        let timeout = left.max(Duration::from_micros(50));
        socket.set_read_timeout(Some(timeout)).unwrap();
        let mut bytes = [0; 2048];
        let Ok((len, from)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        let now = Instant::now();
        let answered = reply(&bytes[..len]).zip(peers.iter_mut().find(|it| it.addr == from));
        if let Some((header, peer)) = answered {
            let mut waiting = peer.waiting.iter();
            if let Some(at) = waiting.position(|it| it.0 == header.transaction) {
                peer.times.push(now - peer.waiting.swap_remove(at).1);
            }
        }
    }
    for peer in &mut peers {
        peer.times.sort_unstable();
        let ms = |at: f64| {
            let nth = (peer.times.len().saturating_sub(1) as f64 * at) as usize;
            peer.times.get(nth).map_or(0.0, |it| it.as_secs_f64() * 1e3)
        };
        let (answered, lost) = (peer.times.len(), peer.lost);
        println!(
            "{answered} {lost} {:.3} {:.3} {:.3}",
            ms(0.5),
            ms(0.99),
            ms(1.0)
        );
    }
}

/// Requests for points drawn at random, as many as one call sends.
struct Requests {
    bytes: Vec<Vec<u8>>,
    rng: Rng,
}

impl Requests {
    fn new(mut rng: Rng, key: NodeKey, token: Token) -> Requests {
        let request = |rng: &mut Rng| {
            let header = header(rng, key, token);
            Request::FindNode(Point(rng.bytes())).encode(header, false)
        };
        let bytes = (0..BATCH).map(|_| request(&mut rng)).collect();
        Requests { bytes, rng }
    }

    /// Sends the first `count`, each for another point than before.
    fn send(&mut self, socket: &UdpSocket, count: usize) {
        let mut slices: Vec<libc::iovec> = Vec::with_capacity(BATCH);
        for bytes in &mut self.bytes[..count] {
            let target = bytes.len() - 32;
            bytes[target..].copy_from_slice(&self.rng.bytes::<32>());
            slices.push(libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            });
        }
        let mut messages: Vec<libc::mmsghdr> = slices.iter_mut().map(message).collect();
        // SAFETY: each message points to one slice, and each slice to bytes; all live until the call returns.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        assert_eq!(sent, count as i32, "all are sent");
    }
}

fn message(slice: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all zero is a valid message.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = slice;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// How many datagrams have come, one at least, and their bytes; none if nothing comes for a while.
fn receive(socket: &UdpSocket, buffers: &mut [[u8; 2048]; BATCH]) -> (usize, usize) {
    let mut slices: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = slices.iter_mut().map(message).collect();
    // SAFETY: each message points to one slice, and each slice to a buffer; all live until the call returns.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            BATCH as libc::c_uint,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).unwrap_or(0);
    let lens = messages[..count].iter().map(|it| it.msg_len as usize);
    (count, lens.sum())
}

fn find_node(addr: &str, seconds: u64) {
    let mut rng = Rng::new([2; 32]);
    let key = NodeKey(rng.bytes());
    let socket = socket();
    socket.connect(addr).unwrap();
    let timeout = Some(Duration::from_millis(200));
    socket.set_read_timeout(timeout).unwrap();
    // By its token it sees that this address is ours.
    let first = Request::Ping.encode(header(&mut rng, key, Token::default()), true);
    socket.send(&first).unwrap();
    let mut bytes = [0; 2048];
    let token = loop {
        let len = socket.recv(&mut bytes).unwrap();
        if let Some(header) = reply(&bytes[..len]) {
            break header.token;
        }
    };
    let mut requests = Requests::new(rng, key, token);
    let mut buffers = [[0; 2048]; BATCH];
    let begun = Instant::now();
    let (mut answered, mut received, mut lost) = (0, 0, 0);
    requests.send(&socket, IN_FLIGHT);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let (count, len) = receive(&socket, &mut buffers);
        if count == 0 {
            lost += IN_FLIGHT;
            requests.send(&socket, IN_FLIGHT);
            continue;
        }
        answered += count;
        received += len;
        requests.send(&socket, count);
    }
    let rate = answered as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} {} {lost}", received / answered.max(1));
}

fn echo(len: usize) {
    let mut socket = mio::net::UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    println!("{}", socket.local_addr().unwrap());
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let registry = poll.registry();
    registry
        .register(&mut socket, mio::Token(0), mio::Interest::READABLE)
        .unwrap();
    let mut bytes = [0; 2048];
    loop {
        poll.poll(&mut events, None).unwrap();
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            // The bit that makes a reply.
            bytes[3] |= 0x80;
            let _ = socket.send_to(&bytes[..len], from);
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("ping") => ping(&args[1..]),
        Some("echo") => echo(args[1].parse().unwrap()),
        Some("find-node") => find_node(&args[1], args[2].parse().unwrap()),
        _ => {}
    }
}
