//! Who wants more than its share of a peer's line, by several connections, leaves the others theirs; and whoever asks by
//! UDP meanwhile is answered.

use crate::harness::*;
use crate::talker::Talker;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};
use strew::block::tree::LEAF_SIZE;
use strew::block::{Block, Form, Kind, Role};
use strew::id::{BlockId, NodeKey};
use strew::rng::Rng;
use strew::wire::codec::Reader;
use strew::wire::datagram::{Direction, Families, Header, Request, Start, Token};
use strew::wire::frame::Frame;

/// For how long is measured.
const SPAN: Duration = Duration::from_secs(10);

/// Blocks that one connection has asked for and not been given.
const ASKED: usize = 4;

/// A connection that comes from this address of the machine.
fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let place = |addr: Ipv4Addr, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(addr).to_be(),
        },
        sin_zero: [0; 8],
    };
    let IpAddr::V4(ip) = to.ip() else {
        panic!("a peer of IPv4");
    };
    let (from, to) = (place(from, 0), place(ip, to.port()));
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the addresses are of the length that is given, and the descriptor is a new one of ours.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        let stream = TcpStream::from(OwnedFd::from_raw_fd(socket));
        assert_eq!(libc::bind(socket, (&raw const from).cast(), len), 0);
        assert_eq!(libc::connect(socket, (&raw const to).cast(), len), 0);
        stream
    }
}

/// Asks for these blocks again and again, and counts the bytes that come from now on until it is over.
fn ask(stream: TcpStream, blocks: &[BlockId], seed: u8) -> usize {
    let mut talker = Talker::over(stream, &mut Rng::new([seed; 32]));
    let mut next = blocks.iter().cycle();
    let mut came = 0;
    for id in next.by_ref().take(ASKED) {
        assert!(talker.say(&Frame::Get(*id)));
    }
    let end = Instant::now() + SPAN;
    while Instant::now() < end {
        let mut given = Vec::new();
        talker.hear(Instant::now() + Duration::from_millis(5), |frame| {
            if let Frame::Block { payload, .. } = frame {
                given.push(payload.len());
            }
            true
        });
        came += given.iter().sum::<usize>();
        for id in next.by_ref().take(given.len()) {
            assert!(talker.say(&Frame::Get(*id)));
        }
    }
    came
}

/// Pings a peer every 10 ms; how long the answers took, and how many did not come.
fn ping(to: SocketAddr) -> (Vec<Duration>, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let limit = Some(Duration::from_secs(1));
    socket.set_read_timeout(limit).expect("set");
    let mut rng = Rng::new([9; 32]);
    let key = NodeKey(rng.bytes());
    let (mut took, mut lost) = (Vec::new(), 0);
    let end = Instant::now() + SPAN;
    while Instant::now() < end {
        let transaction = rng.next_u64();
        let header = Header {
            kind: strew::wire::datagram::Kind::Ping,
            direction: Direction::Request,
            client_mode: true,
            families: Families::default(),
            shortened: false,
            transaction,
            key,
            token: Token::default(),
        };
        let began = Instant::now();
        let request = Request::Ping.encode(header, true);
        socket.send_to(&request, to).expect("there is room");
        let mut bytes = [0; 2048];
        let answered = std::iter::repeat_with(|| {
            socket.recv(&mut bytes).map(|len| {
                let header = Header::decode(&mut Reader::new(&bytes[..len]));
                matches!(header, Ok(Start::Ours(it)) if it.transaction == transaction)
            })
        });
        let answered = answered.map_while(Result::ok).any(|is_ours| is_ours);
        took.extend(answered.then(|| began.elapsed()));
        lost += usize::from(!answered);
        thread::sleep(Duration::from_millis(10));
    }
    took.sort_unstable();
    (took, lost)
}

#[test]
fn one_host_with_many_connections_leaves_others_their_share_and_pings_are_answered() {
    let lab = Lab::new();
    let rate = 4 << 20;
    let peer = lab.serve("peer", &["--up-rate", "4M"]);
    let content = random_bytes(8 << 20, 61);
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    let leaf = |bytes: &[u8]| Block::new(kind, bytes.to_vec()).expect("a leaf").id();
    let blocks: Vec<BlockId> = content.chunks(LEAF_SIZE).map(leaf).collect();
    let share = ["share", "-q", "--plain", "--min-copies", "0", "-d", "peer"];
    lab.strew(share).input(content).run().expect_status(0);
    let to = peer.addr;
    let hosts = [1, 8, 2].into_iter().zip(2..);
    let (came, pings) = thread::scope(|scope| {
        let mut asking = Vec::new();
        for (connections, host) in hosts {
            for nth in 0..connections {
                let stream = connect_from(Ipv4Addr::new(127, 0, 0, host), to);
                let blocks = &blocks;
                let asks = scope.spawn(move || ask(stream, blocks, 16 * host + nth));
                asking.push((host, asks));
            }
        }
        let pings = ping(to);
        let mut came: BTreeMap<u8, usize> = BTreeMap::new();
        for (host, asks) in asking {
            *came.entry(host).or_default() += asks.join().expect("no panic");
        }
        (came, pings)
    });
    let (took, lost) = pings;
    let [p50, p99] = [2, 100].map(|part| took[took.len() - 1 - took.len() / part]);
    println!("by 1, 8 and 2 connections: {came:?}; pings {p50:?}, p99 {p99:?}, {lost} lost");
    let fair = rate * SPAN.as_secs() as usize / 3;
    for (host, bytes) in came {
        let part = bytes as f64 / fair as f64;
        // Blocks that have come in part are not counted.
        assert!((0.8..1.1).contains(&part), "127.0.0.{host}: {part}");
    }
    assert_eq!(lost, 0);
    assert!(p99 < Duration::from_millis(100), "{p99:?}");
}
