//! The hash over all that happens: when, what, between whom, with which bytes. Two runs from one seed agree in it.

use crate::world::Happening;
use std::net::{IpAddr, SocketAddr};
use strew::time::Instant;

/// A multiplier that spreads every bit (the golden ratio in 64 bits, odd).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash so far. No secret depends on it, and it must not cost more than what it watches.
#[derive(Clone, Copy, Default)]
pub struct Trace(u64);

impl Trace {
    /// The hash.
    pub fn value(&self) -> u64 {
        self.0
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(SPREAD).rotate_left(29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let sum = u64::from(crc32fast::hash(bytes));
        self.word(sum << 32 | bytes.len() as u64);
    }

    fn addr(&mut self, addr: &SocketAddr) {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        self.bytes(&ip);
        self.word(u64::from(addr.port()));
    }

    /// Something happens at this time.
    pub fn note(&mut self, now: Instant, happening: &Happening) {
        self.word(now.since(Instant::EPOCH).as_nanos() as u64);
        let mut is = |what: u64, words: [u64; 2]| {
            self.word(what);
            words.into_iter().for_each(|word| self.word(word));
        };
        match happening {
            Happening::Datagram { from, to, payload } => {
                is(1, [0, 0]);
                self.addr(from);
                self.addr(to);
                self.bytes(payload);
            }
            Happening::Wake(id) => is(2, [*id as u64, 0]),
            Happening::Dialed(stream) => is(3, [*stream, 0]),
            Happening::Opened(stream) => is(4, [*stream, 0]),
            Happening::Bytes(stream, end, bytes) => {
                is(5, [*stream, *end as u64]);
                self.bytes(bytes);
            }
            Happening::Room(stream, end) => is(6, [*stream, *end as u64]),
            Happening::Gone(stream, end) => is(7, [*stream, *end as u64]),
            Happening::Retry(stream, end) => is(8, [*stream, *end as u64]),
            Happening::Save(id, ..) => is(9, [*id as u64, 0]),
            Happening::Act(id) => is(10, [*id as u64, 0]),
        }
    }
}
