//! Lines between real peers: others know a peer only by its place on these lines, which carry its datagrams and
//! streams after a delay of its own, and do to what it says on streams what a test wants. What runs here ends with the
//! tests.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use strew::wire::frame::{Frame, FrameDecoder};

/// What becomes of what a peer says on streams that others have opened to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Honest,
    /// It resets the connection after so many bytes.
    Resetting(usize),
    /// It closes it after so many.
    Closing(usize),
    /// It takes everything and says nothing.
    Mute,
    /// It says a byte a second, after so many.
    Trickling(usize),
    /// It greets in another version.
    Foreign,
    /// One byte of each block is another.
    Lying,
}

/// Bytes on their way in one direction of a stream: as many pieces of this length at most.
const PIECE: usize = 16 << 10;
const PIECES: usize = 64;

/// One peer's line.
pub struct Line {
    /// Where the peer listens.
    own: SocketAddr,
    /// Where others believe it to be: UDP, and TCP beside it.
    outside: UdpSocket,
    how: Mutex<(Manner, Duration)>,
    /// Streams that did not go on as the peer would have them.
    pub spoiled: AtomicU64,
    /// Bytes that it said of which not all were its own.
    pub lied: AtomicU64,
}

impl Line {
    pub fn addr(&self) -> SocketAddr {
        self.outside.local_addr().expect("it is bound")
    }

    pub fn treat(&self, manner: Manner) {
        self.how.lock().expect("no panic").0 = manner;
    }

    fn manner(&self) -> Manner {
        self.how.lock().expect("no panic").0
    }

    fn delay(&self) -> Duration {
        self.how.lock().expect("no panic").1
    }
}

struct Datagram {
    at: Instant,
    from: Arc<Line>,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// All lines of a network.
#[derive(Clone)]
pub struct Lines {
    lines: Arc<Mutex<BTreeMap<SocketAddr, Arc<Line>>>>,
    post: mpsc::Sender<Datagram>,
}

impl Lines {
    pub fn new() -> Lines {
        let (post, posted) = mpsc::channel();
        thread::spawn(move || send_in_time(&posted));
        let lines = Arc::default();
        Lines { lines, post }
    }

    /// The line of the peer that listens there, with this delay in each direction.
    pub fn add(&self, own: SocketAddr, delay: Duration) -> Arc<Line> {
        let line = self.of(own);
        line.how.lock().expect("no panic").1 = delay;
        line
    }

    /// Whoever sends anything has one.
    fn of(&self, own: SocketAddr) -> Arc<Line> {
        let mut lines = self.lines.lock().expect("no panic");
        if let Some(line) = lines.get(&own) {
            return line.clone();
        }
        let (listener, outside) = bind();
        let line = Arc::new(Line {
            own,
            outside,
            how: Mutex::new((Manner::Honest, Duration::ZERO)),
            spoiled: AtomicU64::new(0),
            lied: AtomicU64::new(0),
        });
        lines.insert(own, line.clone());
        let (all, to) = (self.clone(), line.clone());
        thread::spawn(move || all.carry_datagrams(&to));
        let to = line.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let to = to.clone();
                thread::spawn(move || carry_stream(&to, &stream));
            }
        });
        line
    }

    fn carry_datagrams(&self, to: &Line) {
        let mut buffer = [0; 2048];
        loop {
            let Ok((len, from)) = to.outside.recv_from(&mut buffer) else {
                continue;
            };
            let from = self.of(from);
            let datagram = Datagram {
                at: Instant::now() + from.delay().max(to.delay()),
                from,
                to: to.own,
                payload: buffer[..len].to_vec(),
            };
            if self.post.send(datagram).is_err() {
                return;
            }
        }
    }
}

/// The same port of both kinds.
fn bind() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("it is bound")) {
            return (tcp, udp);
        }
    }
}

fn send_in_time(posted: &mpsc::Receiver<Datagram>) {
    let mut waiting: BTreeMap<(Instant, u64), Datagram> = BTreeMap::new();
    for count in 0.. {
        let next = waiting.first_key_value().map(|(&(at, _), _)| at);
        let pause = next.map_or(Duration::from_secs(1), |at| {
            at.saturating_duration_since(Instant::now())
        });
        match posted.recv_timeout(pause) {
            Ok(datagram) => drop(waiting.insert((datagram.at, count), datagram)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Some(first) = waiting.first_entry() {
            if first.key().0 > Instant::now() {
                break;
            }
            let Datagram {
                from, to, payload, ..
            } = first.remove();
            // Lost if there is no room, as datagrams are.
            let _ = from.outside.send_to(&payload, to);
        }
    }
}

/// A stream that somebody has opened to a peer.
fn carry_stream(line: &Arc<Line>, outer: &TcpStream) {
    // As long as it takes to be opened.
    thread::sleep(2 * line.delay());
    let Ok(inner) = TcpStream::connect(line.own) else {
        return reset(outer);
    };
    for stream in [outer, &inner] {
        stream.set_nodelay(true).expect("set");
    }
    let (from, to) = (outer.try_clone(), inner.try_clone());
    let (Ok(from), Ok(to)) = (from, to) else {
        return;
    };
    let asking = line.clone();
    let there = thread::spawn(move || {
        pass(&from, &to, asking.delay(), |bytes, mut to| {
            to.write_all(bytes).is_ok()
        })
    });
    let mut said = Spoiler::new(line.clone());
    pass(&inner, outer, line.delay(), |bytes, to| said.say(bytes, to));
    let _ = inner.shutdown(Shutdown::Both);
    let _ = outer.shutdown(Shutdown::Both);
    let _ = there.join();
}

/// Passes on what comes from one to the other after a delay, as long as that is taken.
fn pass(
    from: &TcpStream,
    to: &TcpStream,
    delay: Duration,
    mut say: impl FnMut(&[u8], &TcpStream) -> bool,
) {
    let (sender, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(PIECES);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; PIECE];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let piece = (Instant::now() + delay, buffer[..len].to_vec());
                if sender.send(piece).is_err() {
                    return;
                }
            }
        });
        for (at, bytes) in pieces {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if !say(&bytes, to) {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    });
}

/// Closes a connection so that the other side is told that it is no more.
pub fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option is read from a value of its type, and the descriptor is open.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Says what a peer says, as its line is treated.
struct Spoiler {
    line: Arc<Line>,
    decoder: FrameDecoder,
    said: usize,
}

impl Spoiler {
    fn new(line: Arc<Line>) -> Spoiler {
        let decoder = FrameDecoder::new(false);
        Spoiler {
            line,
            decoder,
            said: 0,
        }
    }

    /// False if that was all.
    fn say(&mut self, bytes: &[u8], mut to: &TcpStream) -> bool {
        let mut send = |bytes: &[u8]| to.write_all(bytes).is_ok();
        let begins = self.said == 0;
        let left = |after: usize| after.saturating_sub(self.said).min(bytes.len());
        match self.line.manner() {
            Manner::Honest => return send(bytes),
            Manner::Mute => {}
            Manner::Resetting(after) | Manner::Closing(after) => {
                let some = left(after);
                let goes_on =
                    send(&bytes[..some]) && some == bytes.len() && self.said + some < after;
                if !goes_on {
                    self.line.spoiled.fetch_add(1, Ordering::Relaxed);
                    if self.line.manner() == Manner::Resetting(after) {
                        reset(to);
                    }
                }
                self.said += some;
                return goes_on;
            }
            Manner::Trickling(after) => {
                let some = left(after);
                self.said += bytes.len();
                if some < bytes.len() {
                    self.line.spoiled.fetch_add(1, Ordering::Relaxed);
                }
                return send(&bytes[..some])
                    && bytes[some..].iter().all(|byte| {
                        thread::sleep(Duration::from_secs(1));
                        send(&[*byte])
                    });
            }
            Manner::Foreign => {
                let mut bytes = bytes.to_vec();
                if begins {
                    bytes[10] = 9;
                    self.line.spoiled.fetch_add(1, Ordering::Relaxed);
                }
                self.said += bytes.len();
                return send(&bytes);
            }
            Manner::Lying => {
                let mut input = bytes;
                while let Some(mut frame) = self.decoder.take(&mut input).expect("well formed") {
                    let is_block = matches!(frame, Frame::Block { .. });
                    if let Frame::Block { payload, .. } = &mut frame {
                        payload[0] ^= 1;
                    }
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes);
                    if !send(&bytes) {
                        return false;
                    }
                    if is_block {
                        let len = bytes.len() as u64;
                        self.line.lied.fetch_add(len, Ordering::Relaxed);
                    }
                }
                return true;
            }
        }
        if begins {
            self.line.spoiled.fetch_add(1, Ordering::Relaxed);
        }
        self.said += bytes.len();
        true
    }
}
