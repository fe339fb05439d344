//! A peer that a test plays, frame by frame.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use strew::id::NodeKey;
use strew::rng::Rng;
use strew::wire::frame::{Frame, FrameDecoder, Hello, PeerRole};

/// A peer of the test's own: it says frames and hears what is answered.
pub struct Talker {
    stream: TcpStream,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
}

impl Talker {
    /// Connects to a peer, and greets it.
    pub fn new(addr: SocketAddr, rng: &mut Rng) -> Talker {
        Talker::over(TcpStream::connect(addr).expect("connected"), rng)
    }

    /// Greets a peer over this connection.
    pub fn over(stream: TcpStream, rng: &mut Rng) -> Talker {
        let mut talker = Talker {
            stream,
            decoder: FrameDecoder::new(false),
            buffer: vec![0; 1 << 16],
        };
        let key = NodeKey(rng.bytes());
        let role = PeerRole::Private;
        talker.say(&Frame::Hello(Hello { key, port: 1, role }));
        talker
    }

    /// Says a frame; whether the peer was there to be told.
    pub fn say(&mut self, frame: &Frame) -> bool {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).is_ok()
    }

    /// The frames that come until this time, or until the peer has gone; whether it has.
    pub fn hear(&mut self, until: Instant, mut each: impl FnMut(Frame) -> bool) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .expect("set");
            let len = match self.stream.read(&mut self.buffer) {
                Ok(0) => return true,
                Ok(len) => len,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        continue
                    }
                    _ => return true,
                },
            };
            let mut input = &self.buffer[..len];
            while let Some(frame) = self.decoder.take(&mut input).expect("well formed") {
                if !each(frame) {
                    return false;
                }
            }
        }
    }
}
