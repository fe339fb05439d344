//! Streams: who opens and accepts them, pieces on their way, ends that are closed.

use crate::client::{Client, ClientId};
use crate::hostile::Manner;
use crate::world::{Happening, PeerId, World};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;
use strew::node::Input;
use strew::time::Instant;
use strew::transfer::{ConnId, Origin};
use strew::wire::frame::FrameDecoder;

/// Bytes on their way in one direction of a stream at most, as a socket's buffers hold.
const WINDOW: usize = 256 << 10;

/// How far a local client is from its peer.
const LOCAL_LATENCY: Duration = Duration::from_micros(20);

/// First and longest pause before what the network did not carry is sent again, and the one at which the stream is
/// given up: as TCP has it, whose pauses double for a quarter of an hour.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(512);

/// Up to so much later than it could a stream writes that has waited for a slow line, so that each of several gets on.
const HELD_MAX: Duration = Duration::from_millis(100);

pub type StreamId = u64;

/// Whose an end of a stream is.
#[derive(Clone, Copy)]
pub enum Owner {
    /// Not accepted yet, or never.
    Nobody,
    Node(PeerId, ConnId),
    Script(PeerId),
    Client(ClientId),
    /// A test itself, which looks at what it hears.
    Stranger,
}

pub struct End {
    pub owner: Owner,
    pub open: bool,
    /// What a script or client has to write.
    pub out: VecDeque<u8>,
    /// What a script reads with.
    pub decoder: FrameDecoder,
    /// Bytes written so far.
    pub written: usize,
    /// Bytes written and not read by the other end.
    pub in_flight: usize,
    /// When the last piece that this end has written arrives.
    pub last_arrival: Instant,
    pub inbox: VecDeque<Vec<u8>>,
    /// The other end has closed, which is learned once the inbox has been read.
    pub ended: bool,
    /// What this end has written and the network does not carry at present.
    pub stalled: VecDeque<Vec<u8>>,
    /// This end has closed, which the network does not carry at present.
    pub is_gone_stalled: bool,
    /// The pause before what is stalled is sent again; `None` if nothing is.
    pub retry: Option<Duration>,
    /// It waits for a slow line.
    pub is_held: bool,
}

pub struct Stream {
    pub ends: [End; 2],
    pub to: SocketAddr,
    pub local: bool,
    /// Both ends may write.
    pub opened: bool,
}

impl World {
    pub fn new_stream(&mut self, owners: [Owner; 2], to: SocketAddr, local: bool) -> StreamId {
        self.counter += 1;
        let ends = owners.map(|owner| End {
            owner,
            open: true,
            out: VecDeque::new(),
            decoder: FrameDecoder::new(local),
            written: 0,
            in_flight: 0,
            last_arrival: self.now,
            inbox: VecDeque::new(),
            ended: false,
            stalled: VecDeque::new(),
            is_gone_stalled: false,
            retry: None,
            is_held: false,
        });
        let stream = Stream {
            ends,
            to,
            local,
            opened: local,
        };
        self.streams.insert(self.counter, stream);
        self.counter
    }

    pub fn dial(&mut self, id: PeerId, conn: ConnId, to: SocketAddr) {
        let owners = [Owner::Node(id, conn), Owner::Nobody];
        let stream = self.new_stream(owners, to, false);
        self.peers[id].conns.insert(conn, (stream, 0));
        if self.peers[id].plugged {
            let at = self.now + self.latency();
            self.schedule(at, Happening::Dialed(stream));
        }
    }

    /// Somebody connects: is accepted, refused, or never answered.
    pub fn dialed(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if !stream.ends[0].open {
            return;
        }
        let (Owner::Node(dialer, _) | Owner::Script(dialer)) = stream.ends[0].owner else {
            return;
        };
        let peer = self.peer_at(stream.to);
        if peer.is_some_and(|peer| !self.are_linked(dialer, peer)) {
            return;
        }
        let at = self.now + self.latency();
        match peer.map(|peer| (peer, &self.peers[peer])) {
            Some((_, peer)) if peer.born.firewalled || peer.access.nat.is_some() => {}
            Some((_, peer)) if !peer.is_up() && !peer.refuses => {}
            Some((accepting, peer)) if peer.is_up() => {
                let is_honest = matches!(peer.manner, Manner::Honest | Manner::Hoarding);
                let honest = peer.node.is_some() && is_honest;
                self.schedule(at, Happening::Opened(id));
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.opened = true;
                    stream.ends[1].owner = Owner::Script(accepting);
                    // Nothing arrives before the dialer knows that it is connected.
                    stream.ends[1].last_arrival = at;
                }
                if honest {
                    let mut from = self.peers[dialer].born.addr;
                    from.set_port(32_768 + (id % 28_000) as u16);
                    self.accept(accepting, id, Origin::Remote(from));
                }
            }
            _ => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.ends[1].open = false;
                }
                self.schedule(at, Happening::Gone(id, 0));
            }
        }
    }

    /// A node accepts end 1 of a stream.
    pub fn accept(&mut self, id: PeerId, stream: StreamId, origin: Origin) {
        let now = self.now;
        let Some(node) = &mut self.peers[id].node else {
            return;
        };
        let conn = node.accept(now, origin);
        self.peers[id].conns.insert(conn, (stream, 1));
        if let Some(both) = self.streams.get_mut(&stream) {
            both.ends[1].owner = Owner::Node(id, conn);
        }
        self.settle(id);
    }

    pub fn opened(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        match stream.ends[0].owner {
            _ if !stream.ends[0].open => {}
            Owner::Node(peer, conn) => self.input(peer, |now, node| {
                node.handle_input(now, Input::Connected { conn });
            }),
            Owner::Script(peer) => self.villain_connected(peer, id),
            _ => {}
        }
    }

    /// A local client connects to a peer.
    pub fn add_client(&mut self, peer: PeerId, client: Client) -> ClientId {
        let id = self.clients.len();
        self.clients.push(client);
        let to = self.peers[peer].born.addr;
        let stream = self.new_stream([Owner::Client(id), Owner::Nobody], to, true);
        self.clients[id].stream = stream;
        self.accept(peer, stream, Origin::Local);
        self.client_begins(id);
        id
    }

    /// Bytes for the other end from a client or a script.
    pub fn say(&mut self, stream: StreamId, end: usize, bytes: &[u8]) {
        if let Some(both) = self.streams.get_mut(&stream) {
            both.ends[end].out.extend(bytes);
            self.flush(stream, end);
        }
    }

    /// An end may be able to write.
    pub fn flush(&mut self, id: StreamId, end: usize) {
        let owner = self.streams.get(&id).map(|stream| stream.ends[end].owner);
        match owner {
            Some(Owner::Node(peer, conn)) => {
                self.peers[peer].dirty.insert(conn);
                self.settle(peer);
            }
            Some(Owner::Client(_) | Owner::Script(_) | Owner::Stranger) => {
                while self.write_out(id, end) {}
            }
            Some(Owner::Nobody) | None => {}
        }
    }

    /// Whose machines bytes of this end leave and come to.
    pub fn way(&self, id: StreamId, end: usize) -> (Option<PeerId>, Option<PeerId>) {
        let peer = |owner: &Owner| match owner {
            Owner::Node(peer, _) | Owner::Script(peer) => Some(*peer),
            _ => None,
        };
        match self.streams.get(&id) {
            Some(stream) if !stream.local => {
                let owner = |end: usize| peer(&stream.ends[end].owner);
                (owner(end), owner(1 - end))
            }
            _ => (None, None),
        }
    }

    /// Whether the network carries what this end writes.
    pub fn is_carried(&self, id: StreamId, end: usize) -> bool {
        match self.way(id, end) {
            (Some(one), Some(other)) => self.are_linked(one, other),
            (Some(one), None) => self.peers[one].plugged,
            _ => true,
        }
    }

    /// Whether there is room for more bytes from this end. If a slow line has none, it is told when that has.
    pub fn may_write(&mut self, id: StreamId, end: usize) -> bool {
        let Some(stream) = self.streams.get(&id) else {
            return false;
        };
        let this = &stream.ends[end];
        if !stream.opened || !this.open || this.in_flight >= WINDOW || this.is_held {
            return false;
        }
        let (from, to) = self.way(id, end);
        let Some(clear) = self.clear_at(from, to) else {
            return true;
        };
        let late = self.rng.below(HELD_MAX.as_micros() as u64);
        self.schedule(
            clear + Duration::from_micros(late),
            Happening::Room(id, end),
        );
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ends[end].is_held = true;
        }
        false
    }

    /// How many bytes one write takes: odd pieces, sometimes tiny, mostly large.
    pub fn piece(&mut self, id: StreamId, end: usize) -> usize {
        let written = self
            .streams
            .get(&id)
            .map_or(0, |stream| stream.ends[end].written);
        let piece = match self.links.first_cut {
            Some(cut) if written < cut => cut - written,
            _ if self.rng.below(4) == 0 => 1 + self.rng.below(64) as usize,
            _ => 1 + self.rng.below(WINDOW as u64 / 2) as usize,
        };
        let (from, to) = self.way(id, end);
        piece.min(self.piece_max(from, to))
    }

    /// A client or script writes a piece; false if there is none to write or no room.
    pub fn write_out(&mut self, id: StreamId, end: usize) -> bool {
        if !self.may_write(id, end) {
            return false;
        }
        let piece = self.piece(id, end);
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let out = &mut stream.ends[end].out;
        let len = piece.min(out.len());
        let bytes: Vec<u8> = out.drain(..len).collect();
        if bytes.is_empty() {
            return false;
        }
        self.carry(id, end, bytes);
        true
    }

    /// A node writes a piece on one of its connections; false if there is nothing to write anywhere.
    pub fn write_some(&mut self, id: PeerId) -> bool {
        let Some(conn) = self.peers[id].dirty.pop_first() else {
            return false;
        };
        let Some(&(stream, end)) = self.peers[id].conns.get(&conn) else {
            return true;
        };
        if !self.may_write(stream, end) {
            // Room, or the connection being opened, makes it dirty again.
            return true;
        }
        let piece = self.piece(stream, end);
        let now = self.now;
        let Some(node) = &mut self.peers[id].node else {
            return false;
        };
        let mut slices = [IoSlice::new(&[]); 8];
        let mut bytes = Vec::new();
        if let Some(used) = node.egress(conn, &mut slices) {
            for slice in &slices[..used] {
                let room = piece - bytes.len();
                bytes.extend_from_slice(&slice[..slice.len().min(room)]);
            }
        } else {
            panic!("a store in memory loses no block");
        }
        if bytes.is_empty() {
            return true;
        }
        node.consume(now, conn, bytes.len());
        self.peers[id].dirty.insert(conn);
        self.carry(stream, end, bytes);
        let broken = self.peers[id].breaks_after.is_some_and(|limit| {
            self.streams
                .get(&stream)
                .is_some_and(|both| !both.local && both.ends[end].written > limit)
        });
        if broken {
            self.peers[id].conns.remove(&conn);
            self.peers[id].unread.remove(&conn);
            self.close_end(stream, end);
            if let Some(node) = &mut self.peers[id].node {
                let reason = "broken";
                node.handle_input(now, Input::Closed { conn, reason });
            }
        }
        true
    }

    /// Bytes set out from an end.
    pub fn carry(&mut self, id: StreamId, end: usize, mut bytes: Vec<u8>) {
        let limit = self.way(id, end).0;
        let limit = limit.and_then(|peer| self.peers[peer].breaks_after);
        let is_carried = self.is_carried(id, end);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let this = &mut stream.ends[end];
        if let Some(limit) = limit {
            // What is beyond the break never arrives, though it was written.
            let keep = limit.saturating_sub(this.written);
            this.written += bytes.len().saturating_sub(keep);
            bytes.truncate(keep);
        }
        this.written += bytes.len();
        this.in_flight += bytes.len();
        if bytes.is_empty() {
            return;
        }
        if is_carried && this.retry.is_none() {
            return self.deliver(id, end, bytes);
        }
        this.stalled.push_back(bytes);
        self.stall(id, end);
    }

    /// Bytes go from an end to the other.
    fn deliver(&mut self, id: StreamId, end: usize, bytes: Vec<u8>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let latency = match stream.local {
            true => LOCAL_LATENCY,
            false => self.latency(),
        };
        let (from, to) = self.way(id, end);
        let arrival = self.arrival(from, to, bytes.len(), latency);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let this = &mut stream.ends[end];
        this.last_arrival = this.last_arrival.max(arrival);
        let at = this.last_arrival;
        self.schedule(at, Happening::Bytes(id, 1 - end, bytes));
    }

    /// What an end has sent is sent again later.
    fn stall(&mut self, id: StreamId, end: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let this = &mut stream.ends[end];
        if this.retry.is_none() {
            this.retry = Some(RETRY_FIRST);
            let at = self.now + RETRY_FIRST;
            self.schedule(at, Happening::Retry(id, end));
        }
    }

    /// What the network did not carry is sent again, or given up.
    pub fn retry(&mut self, id: StreamId, end: usize) {
        let is_carried = self.is_carried(id, end);
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let this = &mut stream.ends[end];
        let Some(pause) = this.retry else {
            return;
        };
        if is_carried {
            this.retry = None;
            let is_gone = std::mem::take(&mut this.is_gone_stalled);
            for bytes in std::mem::take(&mut this.stalled) {
                self.deliver(id, end, bytes);
            }
            if is_gone {
                self.part(id, end);
            }
        } else if pause < RETRY_MAX {
            this.retry = Some(pause * 2);
            self.schedule(now + pause * 2, Happening::Retry(id, end));
        } else {
            this.stalled.clear();
            self.schedule(now, Happening::Gone(id, end));
        }
    }

    /// Bytes have come to an end.
    pub fn arrived(&mut self, id: StreamId, end: usize, mut bytes: Vec<u8>) {
        let stream = self.streams.get(&id);
        let (owner, local) = stream.map_or((Owner::Nobody, true), |stream| {
            (stream.ends[end].owner, stream.local)
        });
        if let (Owner::Node(peer, _), false) = (owner, local) {
            if self.peers[peer].manner == Manner::Hoarding {
                bytes = self.misheard(id, end, &bytes);
            }
        }
        let to = self.way(id, end).0;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.ends[end].open {
            stream.ends[end].inbox.push_back(bytes);
            self.read(id, end);
        } else if to.is_none_or(|peer| self.peers[peer].is_up() || self.peers[peer].refuses) {
            // Its machine knows nothing of the stream any more, and says so.
            let at = self.now + self.latency();
            self.schedule(at, Happening::Gone(id, 1 - end));
        }
    }

    /// An end may be able to read.
    pub fn read(&mut self, id: StreamId, end: usize) {
        let owner = match self.streams.get(&id) {
            Some(stream) if stream.ends[end].open => stream.ends[end].owner,
            _ => return,
        };
        match owner {
            Owner::Node(peer, conn) => {
                self.peers[peer].unread.insert(conn);
                self.settle(peer);
            }
            Owner::Client(client) => {
                while let Some(bytes) = self.take_inbox(id, end) {
                    self.client_reads(client, &bytes);
                }
                if self.is_over(id, end) {
                    self.client_is_left(client);
                }
            }
            // A villain that opens connections reads from half of them.
            Owner::Script(_) if end == 0 && id.is_multiple_of(2) => {}
            Owner::Script(peer) => {
                while let Some(bytes) = self.take_inbox(id, end) {
                    self.script_reads(peer, id, end, &bytes);
                }
                if self.is_over(id, end) {
                    self.close_end(id, end);
                }
            }
            Owner::Stranger => {
                while let Some(bytes) = self.take_inbox(id, end) {
                    self.stranger_reads(id, end, &bytes);
                }
            }
            Owner::Nobody => {}
        }
    }

    /// The other end has closed, and all it wrote has been read.
    pub fn is_over(&self, id: StreamId, end: usize) -> bool {
        self.streams
            .get(&id)
            .is_some_and(|stream| stream.ends[end].ended && stream.ends[end].inbox.is_empty())
    }

    /// The next piece for an end, which makes room for the other.
    pub fn take_inbox(&mut self, id: StreamId, end: usize) -> Option<Vec<u8>> {
        let stream = self.streams.get_mut(&id)?;
        let bytes = stream.ends[end].inbox.pop_front()?;
        let other = &mut stream.ends[1 - end];
        other.in_flight -= bytes.len();
        let now = self.now;
        self.schedule(now, Happening::Room(id, 1 - end));
        Some(bytes)
    }

    /// A node reads a piece from one of its connections, or learns of an end; false if there is nothing that it
    /// wants to read.
    pub fn read_some(&mut self, id: PeerId) -> bool {
        let now = self.now;
        let Some(node) = &self.peers[id].node else {
            return false;
        };
        let unread = &self.peers[id].unread;
        // An end without bytes before it is learned of whether or not the node wants to read.
        let wanted = unread.iter().copied().find(|&conn| {
            let place = self.peers[id].conns.get(&conn);
            node.wants_read(conn) || place.is_none_or(|&(stream, end)| self.is_over(stream, end))
        });
        let Some(conn) = wanted else {
            return false;
        };
        let Some(&(stream, end)) = self.peers[id].conns.get(&conn) else {
            self.peers[id].unread.remove(&conn);
            return true;
        };
        if let Some(bytes) = self.take_inbox(stream, end) {
            let bytes = &bytes;
            if let Some(node) = &mut self.peers[id].node {
                node.handle_input(now, Input::Received { conn, bytes });
            }
            return true;
        }
        self.peers[id].unread.remove(&conn);
        if self.is_over(stream, end) {
            self.peers[id].conns.remove(&conn);
            self.close_end(stream, end);
            if let Some(node) = &mut self.peers[id].node {
                let reason = "closed by the other side";
                node.handle_input(now, Input::Closed { conn, reason });
            }
        }
        true
    }

    /// The owner of an end has closed it: the other learns of it after all that was written.
    pub fn close_end(&mut self, id: StreamId, end: usize) {
        let is_carried = self.is_carried(id, end);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.ends[end].open = false;
        stream.ends[end].inbox.clear();
        if !stream.ends[1 - end].open {
            self.streams.remove(&id);
        } else if is_carried && stream.ends[end].retry.is_none() {
            self.part(id, end);
        } else {
            stream.ends[end].is_gone_stalled = true;
            self.stall(id, end);
        }
    }

    /// The other end learns that this one has been closed, after all that was written.
    fn part(&mut self, id: StreamId, end: usize) {
        let latency = self.latency();
        let now = self.now;
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let latency = if stream.local { LOCAL_LATENCY } else { latency };
        let at = stream.ends[end].last_arrival.max(now + latency);
        self.schedule(at, Happening::Gone(id, 1 - end));
    }

    /// Ends all streams of a peer; the other ends hear of it, or never.
    pub fn drop_streams(&mut self, id: PeerId, loud: bool) {
        let peer = &mut self.peers[id];
        peer.dirty.clear();
        peer.unread.clear();
        let mut ends: Vec<(StreamId, usize)> =
            std::mem::take(&mut peer.conns).into_values().collect();
        for (&stream, both) in &self.streams {
            for (end, this) in both.ends.iter().enumerate() {
                if matches!(this.owner, Owner::Script(owner) if owner == id) {
                    ends.push((stream, end));
                }
            }
        }
        for (stream, end) in ends {
            let Some(both) = self.streams.get_mut(&stream) else {
                continue;
            };
            // A local client always sees that its peer is gone.
            if loud || both.local {
                self.close_end(stream, end);
                continue;
            }
            both.ends[end].open = false;
            both.ends[end].stalled.clear();
            if !both.ends[1 - end].open {
                self.streams.remove(&stream);
            }
        }
    }
}
