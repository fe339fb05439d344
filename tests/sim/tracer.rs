//! What a lookup costs and how it goes, told from its datagrams alone: the node knows nothing of being watched.

use crate::world::{PeerId, World};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use strew::id::Point;
use strew::wire::codec::Reader;
use strew::wire::datagram::{Direction, Header, Kind, Reply, Request, Start};

/// One lookup of one peer.
#[derive(Default)]
pub struct Trace {
    /// Whom each request went to, by its transaction.
    requests: BTreeMap<u64, SocketAddr>,
    /// Contacts asked, and how many steps from the peer's own table.
    pub asked: BTreeMap<SocketAddr, u32>,
    /// Requests sent again.
    pub resent: usize,
    /// Who has answered, with how many contacts had been asked by then.
    pub answered: BTreeMap<SocketAddr, usize>,
    /// How many had been asked when the first answered that it holds the block.
    pub holder_after: Option<usize>,
    /// Contacts that were named, and by how many steps they are known.
    named: BTreeMap<SocketAddr, u32>,
}

/// What requests a peer has sent.
#[derive(Clone, Default)]
pub struct Requests {
    transactions: BTreeSet<u64>,
    /// How many of each kind, each counted once however often it was sent.
    pub asked: BTreeMap<&'static str, usize>,
    /// How often one was sent again.
    pub resent: usize,
}

impl Requests {
    /// All of them, each counted once.
    pub fn count(&self) -> usize {
        self.transactions.len()
    }
}

/// The lookups that are watched.
#[derive(Default)]
pub struct Tracer {
    traces: BTreeMap<(PeerId, Point), Trace>,
    /// Which of them each request on its way is of.
    pending: BTreeMap<(PeerId, u64), Point>,
    /// Peers of which any lookup is watched.
    peers: BTreeSet<PeerId>,
    /// Peers all of whose requests are counted.
    requests: BTreeMap<PeerId, Requests>,
}

/// The header of a datagram of our own version, and what follows it.
fn open(payload: &[u8]) -> Option<(Header, Reader<'_>)> {
    let mut reader = Reader::new(payload);
    match Header::decode(&mut reader) {
        Ok(Start::Ours(header)) => Some((header, reader)),
        _ => None,
    }
}

impl Tracer {
    /// A peer sends this.
    pub fn handle_sent(&mut self, peer: PeerId, to: SocketAddr, payload: &[u8]) {
        self.count_request(peer, payload);
        if !self.peers.contains(&peer) {
            return;
        }
        let Some((header, reader)) = open(payload) else {
            return;
        };
        if header.direction == Direction::Reply {
            return;
        }
        let target = match Request::decode(header.kind, reader) {
            Ok(Request::FindNode(target)) => target,
            Ok(Request::Have(blocks)) => blocks[0].into(),
            _ => return,
        };
        let Some(trace) = self.traces.get_mut(&(peer, target)) else {
            return;
        };
        if trace.requests.insert(header.transaction, to).is_some() {
            trace.resent += 1;
            return;
        }
        let steps = trace.named.get(&to).copied().unwrap_or(1);
        trace.asked.entry(to).or_insert(steps);
        self.pending.insert((peer, header.transaction), target);
    }

    fn count_request(&mut self, peer: PeerId, payload: &[u8]) {
        let Some(requests) = self.requests.get_mut(&peer) else {
            return;
        };
        let Some((header, _)) = open(payload).filter(|it| it.0.direction == Direction::Request)
        else {
            return;
        };
        let kind = match header.kind {
            Kind::Ping => "PING",
            Kind::FindNode => "FIND_NODE",
            Kind::Have => "HAVE",
            Kind::DialBack => "DIAL_BACK",
            Kind::Digest => "DIGEST",
            Kind::List => "LIST",
            Kind::Provide => "PROVIDE",
        };
        if requests.transactions.insert(header.transaction) {
            *requests.asked.entry(kind).or_default() += 1;
        } else {
            requests.resent += 1;
        }
    }

    /// A peer receives this.
    pub fn handle_received(&mut self, peer: PeerId, from: SocketAddr, payload: &[u8]) {
        if !self.peers.contains(&peer) {
            return;
        }
        let Some((header, reader)) = open(payload) else {
            return;
        };
        let Some(target) = self.pending.remove(&(peer, header.transaction)) else {
            return;
        };
        let Some(trace) = self.traces.get_mut(&(peer, target)) else {
            return;
        };
        let asked = trace.asked.len();
        trace.answered.entry(from).or_insert(asked);
        let steps = trace.asked.get(&from).copied().unwrap_or(1);
        let contacts = match Reply::decode(&header, reader) {
            Ok(Reply::FindNode(contacts)) => contacts,
            Ok(Reply::Have(bitmap, contacts, _)) => {
                if bitmap.holds(0) {
                    trace.holder_after.get_or_insert(asked);
                }
                contacts
            }
            _ => return,
        };
        for contact in contacts {
            trace.named.entry(contact.addr).or_insert(steps + 1);
        }
    }
}

impl World {
    /// Watches the lookups of a peer for this target from now on.
    pub fn watch(&mut self, peer: PeerId, target: Point) {
        self.tracer.peers.insert(peer);
        self.tracer.traces.insert((peer, target), Trace::default());
    }

    /// Counts all requests of a peer from now on.
    pub fn count_requests(&mut self, peer: PeerId) {
        self.tracer.requests.insert(peer, Requests::default());
    }

    /// What a peer has asked since its requests are counted.
    pub fn requests(&self, peer: PeerId) -> Requests {
        self.tracer.requests.get(&peer).cloned().unwrap_or_default()
    }

    /// What has been seen of them; they are no longer watched.
    pub fn unwatch(&mut self, peer: PeerId, target: Point) -> Trace {
        let tracer = &mut self.tracer;
        let trace = tracer.traces.remove(&(peer, target));
        let mut others = tracer.traces.range((peer, Point([0; 32]))..);
        if others.next().is_none_or(|((other, _), _)| *other != peer) {
            tracer.peers.remove(&peer);
            tracer.pending.retain(|(other, _), _| *other != peer);
        }
        trace.expect("it was watched")
    }
}
