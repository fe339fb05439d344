//! How a peer is connected: behind an address translator, over a slow line, on one side of a split network.

use crate::world::{Happening, PeerId, World};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use strew::time::Instant;

/// What waits in front of a slow line at most, in time. A datagram beyond it is lost; a stream waits, so that it
/// shares the line with the others.
const BACKLOG_MAX: Duration = Duration::from_millis(500);

/// The first port that a symmetric translator gives away.
const OUTSIDE_PORT: u16 = 40_000;

/// One direction of a slow line: what comes later waits for what came before.
#[derive(Clone)]
pub struct Line {
    /// Bytes in a second.
    pub rate: u64,
    /// When all that has come is through.
    free: Instant,
}

impl Line {
    pub fn new(rate: u64) -> Line {
        let free = Instant::EPOCH;
        Line { rate, free }
    }

    /// From when on more may come.
    fn clear_at(&self) -> Instant {
        self.free - BACKLOG_MAX
    }

    /// When so many bytes are through that come at `at`.
    fn pass(&mut self, at: Instant, len: usize) -> Instant {
        let takes = Duration::from_micros(len as u64 * 1_000_000 / self.rate);
        self.free = self.free.max(at) + takes;
        self.free
    }
}

/// A translator: lets in only answers to what has gone out, for a while (RFC 4787: address- and port-dependent
/// filtering, refreshed by what goes out).
#[derive(Clone)]
pub struct Nat {
    /// How long an answer is let in.
    pub timeout: Duration,
    /// Each remote address sees another port.
    pub symmetric: bool,
    /// By remote address: as whom it sees the peer, and until when it is let in.
    mappings: BTreeMap<SocketAddr, (SocketAddr, Instant)>,
}

impl Nat {
    pub fn new(timeout: Duration, symmetric: bool) -> Nat {
        let mappings = BTreeMap::new();
        Nat {
            timeout,
            symmetric,
            mappings,
        }
    }

    /// It is another one now.
    pub fn forget(&mut self) {
        self.mappings.clear();
    }
}

#[derive(Clone, Default)]
pub struct Access {
    pub nat: Option<Nat>,
    pub up: Option<Line>,
    pub down: Option<Line>,
    /// Only those of one side reach each other.
    pub side: u8,
}

impl World {
    /// From now on nobody reaches this peer to whom it has not sent.
    pub fn hide(&mut self, id: PeerId, nat: Nat) {
        self.peers[id].access.nat = Some(nat);
    }

    /// From now on a peer's line carries so many bytes a second, up and down; `None` for as many as there are.
    pub fn slow(&mut self, id: PeerId, rates: Option<(u64, u64)>) {
        let access = &mut self.peers[id].access;
        access.up = rates.map(|(up, _)| Line::new(up));
        access.down = rates.map(|(_, down)| Line::new(down));
    }

    /// Splits the network: who is put on different sides does not reach the other any more. Streams wait, as TCP
    /// does, and go on when the network is whole again, or are given up.
    pub fn split(&mut self, side_of: impl Fn(PeerId) -> u8) {
        for (id, peer) in self.peers.iter_mut().enumerate() {
            peer.access.side = side_of(id);
        }
    }

    /// Whether anything gets from one peer to the other.
    pub fn are_linked(&self, one: PeerId, other: PeerId) -> bool {
        let (one, other) = (&self.peers[one], &self.peers[other]);
        one.plugged && other.plugged && one.access.side == other.access.side
    }

    /// As whom a peer is seen that sends a datagram there.
    pub fn outside(&mut self, id: PeerId, to: SocketAddr) -> SocketAddr {
        let (now, own) = (self.now, self.peers[id].born.addr);
        let Some(nat) = &mut self.peers[id].access.nat else {
            return own;
        };
        let by_addr = &mut self.by_addr;
        nat.mappings.retain(|_, (outside, until)| {
            if *until <= now && *outside != own {
                by_addr.remove(outside);
            }
            *until > now
        });
        let until = now + nat.timeout;
        if let Some(mapping) = nat.mappings.get_mut(&to) {
            mapping.1 = until;
            return mapping.0;
        }
        let mut outside = own;
        if nat.symmetric {
            let ports = OUTSIDE_PORT..=u16::MAX;
            let mut outsides = ports.map(|port| SocketAddr::new(own.ip(), port));
            let free = outsides.find(|addr| !by_addr.contains_key(addr));
            outside = free.expect("there are more ports than peers");
            by_addr.insert(outside, id);
        }
        nat.mappings.insert(to, (outside, until));
        outside
    }

    /// Whether a datagram that has come to this address of a peer is let in.
    pub fn is_let_in(&self, id: PeerId, from: SocketAddr, to: SocketAddr) -> bool {
        match &self.peers[id].access.nat {
            None => true,
            Some(nat) => {
                let mapping = nat.mappings.get(&from);
                mapping.is_some_and(|&(outside, until)| outside == to && until > self.now)
            }
        }
    }

    /// A datagram sets out from a peer, under this address.
    pub fn send_datagram(
        &mut self,
        id: PeerId,
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
    ) {
        let is_lost = self.rng.below(1000) < self.links.lost;
        if is_lost || !self.peers[id].plugged {
            return;
        }
        let there = self.peer_at(to);
        if there.is_some_and(|there| !self.are_linked(id, there)) {
            return;
        }
        let is_doubled = self.rng.below(1000) < self.links.doubled;
        let copy = is_doubled.then(|| payload.clone());
        for payload in [Some(payload), copy].into_iter().flatten() {
            let latency = self.latency();
            let clear = self.clear_at(Some(id), there).is_none();
            if clear {
                let at = self.arrival(Some(id), there, payload.len(), latency);
                self.schedule(at, Happening::Datagram { from, to, payload });
            }
        }
    }

    /// When the lines between two peers take more, if that is not now.
    pub fn clear_at(&self, from: Option<PeerId>, to: Option<PeerId>) -> Option<Instant> {
        let up = from.and_then(|id| self.peers[id].access.up.as_ref());
        let down = to.and_then(|id| self.peers[id].access.down.as_ref());
        let lines = [up, down].into_iter().flatten();
        let clear = lines.map(Line::clear_at).max()?;
        (clear > self.now).then_some(clear)
    }

    /// When so many bytes have arrived that set out now.
    pub fn arrival(
        &mut self,
        from: Option<PeerId>,
        to: Option<PeerId>,
        len: usize,
        latency: Duration,
    ) -> Instant {
        let mut at = self.now;
        if let Some(line) = from.and_then(|id| self.peers[id].access.up.as_mut()) {
            at = line.pass(at, len);
        }
        at = at + latency;
        if let Some(line) = to.and_then(|id| self.peers[id].access.down.as_mut()) {
            at = line.pass(at, len);
        }
        at
    }

    /// How many bytes are sent in one piece at most, so that a slow line brings something several times a second.
    pub fn piece_max(&self, from: Option<PeerId>, to: Option<PeerId>) -> usize {
        let up = from.and_then(|id| self.peers[id].access.up.as_ref());
        let down = to.and_then(|id| self.peers[id].access.down.as_ref());
        let rates = [up, down].into_iter().flatten().map(|line| line.rate);
        let slowest = rates.min().unwrap_or(u64::MAX);
        (slowest / 8).max(256) as usize
    }
}
