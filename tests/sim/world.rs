//! The world that a simulation runs in: a clock, a network and its troubles, all made up from one seed. It drives
//! the very nodes that the reactor drives, by the law of use of [`strew::node`], and hashes all that happens.

use crate::client::{Client, ClientId};
use crate::hostile::Manner;
use crate::tracer::Tracer;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;
use strew::dht::{LocateId, LookupId};
use strew::id::{BlockId, NodeKey, Point};
use strew::node::{Config, Event, Input, Node, Output};
use strew::rng::Rng;
use strew::store::MemoryStore;
use strew::time::Instant;
use strew::transfer::{ConnId, Origin};
use strew::wire::contact::Contact;
use strew::wire::frame::{Frame, FrameDecoder};

/// Bytes on their way in one direction of a stream at most, as a socket's buffers hold.
const WINDOW: usize = 256 << 10;

/// How far a local client is from its peer.
const LOCAL_LATENCY: Duration = Duration::from_micros(20);

/// Wakes of one node at one instant at most: a node whose time-out does not move would keep a processor busy.
const WAKES_MAX: u32 = 100;

/// What the network does to what is sent.
#[derive(Clone, Copy)]
pub struct Links {
    /// The shortest and the longest way; each datagram and each piece of a stream draws its own.
    pub latency: (Duration, Duration),
    /// Datagrams in a thousand that are lost.
    pub lost: u64,
    /// Datagrams in a thousand that arrive twice.
    pub doubled: u64,
    /// Where the first piece of each direction of a stream ends; otherwise drawn like all others.
    pub first_cut: Option<usize>,
}

impl Links {
    /// A network without troubles.
    pub fn good() -> Links {
        Links {
            latency: (Duration::from_millis(2), Duration::from_millis(20)),
            lost: 0,
            doubled: 0,
            first_cut: None,
        }
    }

    /// One with all of them: since every datagram draws its own latency they also overtake each other.
    pub fn bad() -> Links {
        Links {
            latency: (Duration::from_millis(1), Duration::from_millis(200)),
            lost: 50,
            doubled: 100,
            first_cut: None,
        }
    }
}

/// Which peer: its place in the order of birth.
pub type PeerId = usize;

/// What a peer is made with.
#[derive(Clone)]
pub struct Born {
    pub addr: SocketAddr,
    pub serve: bool,
    pub capacity: u64,
    pub seeds: Vec<SocketAddr>,
    /// Nobody can open a connection to it.
    pub firewalled: bool,
}

pub struct Peer {
    pub born: Born,
    pub key: NodeKey,
    /// `None`: dead.
    pub node: Option<Node<MemoryStore>>,
    /// What a dead peer's machine does to who connects: refuse, or nothing at all.
    pub refuses: bool,
    /// Whether anything reaches it or comes from it.
    pub plugged: bool,
    /// How it treats connections from others.
    pub manner: Manner,
    /// Datagrams it has sent.
    pub datagrams: u64,
    /// Streams it sends on break after so many bytes.
    pub breaks_after: Option<usize>,
    /// What is left of its store while it is dead.
    pub disk: Option<MemoryStore>,
    /// The contacts it had when it died.
    saved: Vec<Contact>,
    conns: BTreeMap<ConnId, (StreamId, usize)>,
    /// Connections with something to write.
    dirty: BTreeSet<ConnId>,
    /// Connections with something to read.
    unread: BTreeSet<ConnId>,
    wake: Option<Instant>,
    /// How often it has been woken at the present instant.
    wakes: u32,
}

/// What a lookup for the closest has come to.
pub struct Found {
    /// When it ended.
    pub at: Instant,
    pub contacts: Vec<Contact>,
}

/// What has been located of a call for many blocks.
pub struct Located {
    pub locate: LocateId,
    pub blocks: Vec<BlockId>,
    /// All who live around them.
    pub contacts: Vec<Contact>,
    /// Requests that it took.
    pub asked: usize,
}

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
    open: bool,
    /// What a script or client has to write.
    pub out: VecDeque<u8>,
    /// What a script reads with.
    pub decoder: FrameDecoder,
    /// Bytes written so far.
    written: usize,
    /// Bytes written and not read by the other end.
    in_flight: usize,
    /// When the last piece that this end has written arrives.
    last_arrival: Instant,
    inbox: VecDeque<Vec<u8>>,
    /// The other end has closed, which is learned once the inbox has been read.
    ended: bool,
}

pub struct Stream {
    pub ends: [End; 2],
    to: SocketAddr,
    local: bool,
    /// Both ends may write.
    opened: bool,
}

enum Happening {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
    },
    Wake(PeerId),
    Dialed(StreamId),
    Opened(StreamId),
    /// Bytes arrive at an end.
    Bytes(StreamId, usize, Vec<u8>),
    /// An end may write again.
    Room(StreamId, usize),
    /// An end learns that the other is gone.
    Gone(StreamId, usize),
}

pub struct World {
    seed: u64,
    pub rng: Rng,
    pub now: Instant,
    pub links: Links,
    pub peers: Vec<Peer>,
    pub streams: BTreeMap<StreamId, Stream>,
    pub clients: Vec<Client>,
    /// Copies of a leaf that peers see to, if others than by default.
    pub copies: Option<u8>,
    /// Lookups by [`World::begin_lookup`] that have ended.
    pub found: BTreeMap<(PeerId, LookupId), Found>,
    /// What calls by [`World::begin_locate`] have come to.
    pub located: Vec<Located>,
    pub tracer: Tracer,
    /// What strangers have heard and not looked at.
    pub heard: VecDeque<(StreamId, Frame)>,
    by_addr: BTreeMap<SocketAddr, PeerId>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
    trace: Sha256,
}

/// The seed of a test: its own, or the one in `STREW_SEED`.
pub fn seed(default: u64) -> u64 {
    match std::env::var("STREW_SEED") {
        Ok(text) => text.parse().expect("STREW_SEED is a number"),
        Err(_) => default,
    }
}

impl World {
    pub fn new(seed: u64, links: Links) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        World {
            seed,
            rng: Rng::new(bytes),
            now: Instant::since_epoch(Duration::from_secs(1_800_000_000)),
            links,
            peers: Vec::new(),
            streams: BTreeMap::new(),
            clients: Vec::new(),
            copies: None,
            found: BTreeMap::new(),
            located: Vec::new(),
            tracer: Tracer::default(),
            heard: VecDeque::new(),
            by_addr: BTreeMap::new(),
            agenda: BTreeMap::new(),
            counter: 0,
            trace: Sha256::new(),
        }
    }

    /// The hash over all that has happened: when, what, between whom, with which bytes.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// A peer comes to life.
    pub fn add_peer(&mut self, born: Born) -> PeerId {
        let key = NodeKey(self.rng.bytes());
        let id = self.add_dead(born, key);
        self.revive(id);
        id
    }

    pub fn add_dead(&mut self, born: Born, key: NodeKey) -> PeerId {
        let id = self.peers.len();
        self.by_addr.insert(born.addr, id);
        self.peers.push(Peer {
            born,
            key,
            node: None,
            refuses: true,
            plugged: true,
            manner: Manner::Honest,
            datagrams: 0,
            breaks_after: None,
            disk: None,
            saved: Vec::new(),
            conns: BTreeMap::new(),
            dirty: BTreeSet::new(),
            unread: BTreeSet::new(),
            wake: None,
            wakes: 0,
        });
        id
    }

    /// A peer that is in the middle of its life, and has met these others.
    pub fn add_settled(&mut self, born: Born, key: NodeKey, contacts: Vec<Contact>) -> PeerId {
        let id = self.add_dead(born, key);
        self.settle_among(id, contacts)
    }

    /// A dead peer is in the middle of its life, and has met these others.
    pub fn settle_among(&mut self, id: PeerId, contacts: Vec<Contact>) -> PeerId {
        let mut node = self.new_node(id);
        node.settle_among(self.now, contacts);
        self.peers[id].node = Some(node);
        self.settle(id);
        id
    }

    /// Looks for the peers that are closest to a point.
    pub fn begin_lookup(&mut self, id: PeerId, target: Point) -> LookupId {
        let node = self.peers[id].node.as_mut().expect("the peer is alive");
        let lookup = node.find_closest(self.now, target);
        self.settle(id);
        lookup
    }

    /// Looks for the peers that are closest to each of these blocks.
    pub fn begin_locate(&mut self, id: PeerId, blocks: Vec<BlockId>) -> LocateId {
        let node = self.peers[id].node.as_mut().expect("the peer is alive");
        let locate = node.locate(self.now, blocks);
        self.settle(id);
        locate
    }

    /// A dead peer starts again with its key and contacts and an empty store.
    pub fn revive(&mut self, id: PeerId) {
        let now = self.now;
        let mut node = self.new_node(id);
        let peer = &mut self.peers[id];
        node.load_contacts(now, std::mem::take(&mut peer.saved));
        for seed in &peer.born.seeds {
            node.add_seed(now, *seed);
        }
        peer.node = Some(node);
        self.settle(id);
    }

    fn new_node(&mut self, id: PeerId) -> Node<MemoryStore> {
        let rng = Rng::new(self.rng.bytes());
        let peer = &self.peers[id];
        let config = Config {
            key: peer.key,
            serve: peer.born.serve,
            port: peer.born.addr.port(),
            listen: peer.born.addr.to_string(),
            ipv4: true,
            ipv6: false,
        };
        let capacity = peer.born.capacity;
        let store = self.peers[id].disk.take();
        let store = store.unwrap_or_else(|| MemoryStore::new(capacity));
        let mut node = Node::new(self.now, config, store, rng);
        if let Some(copies) = self.copies {
            node.set_copies(copies);
        }
        node
    }

    /// A peer dies at once. Either its machine lives on and refuses, or all is silent.
    pub fn kill(&mut self, id: PeerId, refuses: bool) {
        let now = self.now;
        let peer = &mut self.peers[id];
        if let Some(node) = peer.node.take() {
            peer.saved = node.contacts(now);
        }
        peer.refuses = refuses;
        peer.wake = None;
        self.drop_streams(id, refuses);
    }

    /// A peer dies at once, and its store stays for when it is revived, or not.
    pub fn crash(&mut self, id: PeerId, keeps_store: bool, refuses: bool) {
        let now = self.now;
        if let Some(node) = self.peers[id].node.take() {
            let peer = &mut self.peers[id];
            peer.saved = node.contacts(now);
            peer.disk = keeps_store.then(|| node.into_store());
        }
        self.kill(id, refuses);
    }

    /// Ends all streams of a peer; the other ends hear of it, or never.
    fn drop_streams(&mut self, id: PeerId, loud: bool) {
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
            if loud {
                self.close_end(stream, end);
            } else if let Some(both) = self.streams.get_mut(&stream) {
                both.ends[end].open = false;
            }
        }
    }

    /// From now on connections to this peer are treated so; those there are break.
    pub fn turn(&mut self, id: PeerId, manner: Manner) {
        let conns: Vec<ConnId> = self.peers[id].conns.keys().copied().collect();
        self.drop_streams(id, true);
        self.peers[id].manner = manner;
        for conn in conns {
            self.input(id, |now, node| {
                let reason = "broken";
                node.handle_input(now, Input::Closed { conn, reason });
            });
        }
    }

    /// The node of a living peer.
    pub fn node(&self, id: PeerId) -> &Node<MemoryStore> {
        let node = self.peers[id].node.as_ref();
        node.expect("the peer is alive")
    }

    /// A number of a peer's status page.
    pub fn status(&self, id: PeerId, key: &str) -> u64 {
        let text = self.node(id).status(self.now);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = lines.find(|(name, _)| *name == key).map(|(_, value)| value);
        let value = value.expect("the page has this key");
        value.parse().expect("the value is a number")
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some((&(at, _), _)) = self.agenda.first_key_value() {
            if at > until {
                break;
            }
            self.step();
        }
        self.now = until;
    }

    /// Lets time pass until something holds, asked every 10 ms; false if it does not within `limit`.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&World) -> bool) -> bool {
        let until = self.now + limit;
        while !holds(self) {
            if self.now >= until {
                return false;
            }
            self.run_for(Duration::from_millis(10));
        }
        true
    }

    fn step(&mut self) {
        let Some(((at, _), happening)) = self.agenda.pop_first() else {
            return;
        };
        self.now = at;
        self.note(&happening);
        match happening {
            Happening::Datagram { from, to, payload } => {
                let Some(&id) = self.by_addr.get(&to) else {
                    return;
                };
                if self.peers[id].plugged {
                    let payload = &payload;
                    self.tracer.handle_received(id, from, payload);
                    self.input(id, |now, node| {
                        node.handle_input(now, Input::Datagram { from, payload });
                    });
                }
            }
            Happening::Wake(id) => {
                let peer = &mut self.peers[id];
                if peer.wake == Some(at) {
                    peer.wake = None;
                    self.input(id, |now, node| node.handle_input(now, Input::Timeout));
                    let peer = &mut self.peers[id];
                    peer.wakes = match peer.wake {
                        Some(next) if next <= at => peer.wakes + 1,
                        _ => 0,
                    };
                    assert!(peer.wakes < WAKES_MAX, "peer {id} wakes again and again");
                }
            }
            Happening::Dialed(stream) => self.dialed(stream),
            Happening::Opened(stream) => self.opened(stream),
            Happening::Bytes(stream, end, bytes) => self.arrived(stream, end, bytes),
            Happening::Room(stream, end) => self.flush(stream, end),
            Happening::Gone(stream, end) => {
                if let Some(both) = self.streams.get_mut(&stream) {
                    both.ends[end].ended = true;
                    self.read(stream, end);
                }
            }
        }
    }

    /// Adds what happens now to the trace.
    fn note(&mut self, happening: &Happening) {
        let nanos = self.now.since(Instant::EPOCH).as_nanos();
        self.trace.update(nanos.to_be_bytes());
        let (what, ends, bytes): (u8, String, &[u8]) = match happening {
            Happening::Datagram { from, to, payload } => (1, format!("{from} {to}"), payload),
            Happening::Wake(id) => (2, format!("{id}"), &[]),
            Happening::Dialed(stream) => (3, format!("{stream}"), &[]),
            Happening::Opened(stream) => (4, format!("{stream}"), &[]),
            Happening::Bytes(stream, end, bytes) => (5, format!("{stream} {end}"), bytes),
            Happening::Room(stream, end) => (6, format!("{stream} {end}"), &[]),
            Happening::Gone(stream, end) => (7, format!("{stream} {end}"), &[]),
        };
        self.trace.update([what]);
        self.trace.update((ends.len() as u64).to_be_bytes());
        self.trace.update(ends);
        self.trace.update((bytes.len() as u64).to_be_bytes());
        self.trace.update(bytes);
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), happening);
    }

    /// How long something takes that is sent now.
    fn latency(&mut self) -> Duration {
        let (least, most) = self.links.latency;
        let span = (most - least).as_micros() as u64;
        least + Duration::from_micros(self.rng.below(span + 1))
    }

    /// Gives a node an input, and does what it then wants.
    fn input(&mut self, id: PeerId, give: impl FnOnce(Instant, &mut Node<MemoryStore>)) {
        let now = self.now;
        if let Some(node) = &mut self.peers[id].node {
            give(now, node);
            self.settle(id);
        }
    }

    /// Does what a node wants until it wants to sleep.
    fn settle(&mut self, id: PeerId) {
        loop {
            let Some(node) = &mut self.peers[id].node else {
                return;
            };
            match node.poll_output() {
                Output::Transmit { to, payload } => self.transmit(id, to, payload),
                Output::Connect { conn, to } => self.dial(id, conn, to),
                Output::Flush { conn } => {
                    self.peers[id].dirty.insert(conn);
                }
                Output::Close { conn } => {
                    let peer = &mut self.peers[id];
                    peer.unread.remove(&conn);
                    if let Some((stream, end)) = peer.conns.remove(&conn) {
                        self.close_end(stream, end);
                    }
                }
                Output::Event(Event::Closest { lookup, contacts }) => {
                    let at = self.now;
                    self.found.insert((id, lookup), Found { at, contacts });
                }
                Output::Event(Event::Located {
                    locate,
                    blocks,
                    contacts,
                    asked,
                }) => self.located.push(Located {
                    locate,
                    blocks,
                    contacts,
                    asked,
                }),
                Output::Event(_) => {}
                Output::Timeout(next) => {
                    if self.write_some(id) || self.read_some(id) {
                        continue;
                    }
                    let next = next.map(|next| next.max(self.now));
                    let peer = &mut self.peers[id];
                    if peer.wake != next {
                        peer.wake = next;
                        if let Some(next) = next {
                            self.schedule(next, Happening::Wake(id));
                        }
                    }
                    return;
                }
            }
        }
    }

    fn transmit(&mut self, id: PeerId, to: SocketAddr, payload: Vec<u8>) {
        let peer = &mut self.peers[id];
        peer.datagrams += 1;
        let from = peer.born.addr;
        self.tracer.handle_sent(id, to, &payload);
        if !peer.plugged || self.rng.below(1000) < self.links.lost {
            return;
        }
        let copies = 1 + u32::from(self.rng.below(1000) < self.links.doubled);
        for _ in 0..copies {
            let at = self.now + self.latency();
            let payload = payload.clone();
            self.schedule(at, Happening::Datagram { from, to, payload });
        }
    }

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

    fn dial(&mut self, id: PeerId, conn: ConnId, to: SocketAddr) {
        let owners = [Owner::Node(id, conn), Owner::Nobody];
        let stream = self.new_stream(owners, to, false);
        self.peers[id].conns.insert(conn, (stream, 0));
        if self.peers[id].plugged {
            let at = self.now + self.latency();
            self.schedule(at, Happening::Dialed(stream));
        }
    }

    /// Somebody connects: is accepted, refused, or never answered.
    fn dialed(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if !stream.ends[0].open {
            return;
        }
        let Owner::Node(dialer, _) = stream.ends[0].owner else {
            return;
        };
        let peer = self.by_addr.get(&stream.to).copied();
        let at = self.now + self.latency();
        match peer.map(|peer| (peer, &self.peers[peer])) {
            Some((_, peer)) if !peer.plugged || peer.born.firewalled => {}
            Some((_, peer)) if peer.node.is_none() && !peer.refuses => {}
            Some((accepting, peer)) if peer.node.is_some() => {
                let honest = peer.manner == Manner::Honest;
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

    fn opened(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if let (true, Owner::Node(peer, conn)) = (stream.ends[0].open, stream.ends[0].owner) {
            self.input(peer, |now, node| {
                node.handle_input(now, Input::Connected { conn });
            });
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
    fn flush(&mut self, id: StreamId, end: usize) {
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

    /// Whether there is room for more bytes from this end.
    fn may_write(&self, id: StreamId, end: usize) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            let this = &stream.ends[end];
            stream.opened && this.open && this.in_flight < WINDOW
        })
    }

    /// How many bytes one write takes: odd pieces, sometimes tiny, mostly large.
    fn piece(&mut self, id: StreamId, end: usize) -> usize {
        let written = self
            .streams
            .get(&id)
            .map_or(0, |stream| stream.ends[end].written);
        match self.links.first_cut {
            Some(cut) if written < cut => cut - written,
            _ if self.rng.below(4) == 0 => 1 + self.rng.below(64) as usize,
            _ => 1 + self.rng.below(WINDOW as u64 / 2) as usize,
        }
    }

    /// A client or script writes a piece; false if there is none to write or no room.
    fn write_out(&mut self, id: StreamId, end: usize) -> bool {
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
    fn write_some(&mut self, id: PeerId) -> bool {
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
    fn carry(&mut self, id: StreamId, end: usize, mut bytes: Vec<u8>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let local = stream.local;
        let (mut plugged, mut limit) = (true, None);
        for (place, this) in stream.ends.iter().enumerate() {
            if let Owner::Node(peer, _) | Owner::Script(peer) = this.owner {
                plugged &= local || self.peers[peer].plugged;
                if place == end {
                    limit = self.peers[peer].breaks_after;
                }
            }
        }
        let latency = if local { LOCAL_LATENCY } else { self.latency() };
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let this = &mut stream.ends[end];
        if let (Some(limit), false) = (limit, local) {
            // What is beyond the break never arrives, though it was written.
            let keep = limit.saturating_sub(this.written);
            this.written += bytes.len().saturating_sub(keep);
            bytes.truncate(keep);
        }
        this.written += bytes.len();
        this.in_flight += bytes.len();
        this.last_arrival = this.last_arrival.max(now + latency);
        let at = this.last_arrival;
        if plugged && !bytes.is_empty() {
            self.schedule(at, Happening::Bytes(id, 1 - end, bytes));
        }
    }

    fn arrived(&mut self, id: StreamId, end: usize, bytes: Vec<u8>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ends[end].inbox.push_back(bytes);
            self.read(id, end);
        }
    }

    /// An end may be able to read.
    fn read(&mut self, id: StreamId, end: usize) {
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
    fn is_over(&self, id: StreamId, end: usize) -> bool {
        self.streams
            .get(&id)
            .is_some_and(|stream| stream.ends[end].ended && stream.ends[end].inbox.is_empty())
    }

    /// The next piece for an end, which makes room for the other.
    fn take_inbox(&mut self, id: StreamId, end: usize) -> Option<Vec<u8>> {
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
    fn read_some(&mut self, id: PeerId) -> bool {
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
        let now = self.now;
        let latency = self.latency();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.ends[end].open = false;
        stream.ends[end].inbox.clear();
        if !stream.ends[1 - end].open {
            self.streams.remove(&id);
            return;
        }
        let latency = if stream.local { LOCAL_LATENCY } else { latency };
        let at = stream.ends[end].last_arrival.max(now + latency);
        self.schedule(at, Happening::Gone(id, 1 - end));
    }
}

impl Drop for World {
    /// A failure says how to see it again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("");
            let seed = self.seed;
            eprintln!("seed {seed}: STREW_SEED={seed} cargo test --test sim {name}");
        }
    }
}
