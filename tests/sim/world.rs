//! The world that a simulation runs in: a clock, a network and its troubles, all made up from one seed. It drives
//! the very nodes that the reactor drives, by the law of use of [`strew::node`], and hashes all that happens.

use crate::access::Access;
use crate::client::Client;
use crate::hostile::Manner;
pub use crate::links::Links;
use crate::streams::{Stream, StreamId};
use crate::trace::Trace;
use crate::tracer::Tracer;
use crate::villains::Villain;
use crate::watch::Watch;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use strew::dht::{LocateId, Located, LookupId};
use strew::id::{BlockId, NodeKey, Point};
use strew::node::{Config, Event, Input, Node, Output};
use strew::rng::Rng;
use strew::store::MemoryStore;
use strew::time::Instant;
use strew::transfer::ConnId;
use strew::wire::contact::Contact;
use strew::wire::frame::Frame;

/// Wakes of one node at one instant at most: a node whose time-out does not move would keep a processor busy.
const WAKES_MAX: u32 = 100;

/// First and longest pause before a peer's contacts are saved again, and how many are, as the reactor has it.
const SAVE_FIRST: Duration = Duration::from_secs(5);
const SAVE_MAX: Duration = Duration::from_secs(600);
const SAVED_CONTACTS_MAX: usize = 256;

/// In a network of up to so many all limits of a node are looked at whenever it has done something; in a larger one
/// now and then.
const CHECKED_MAX: usize = 100;

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
    pub access: Access,
    /// It is hostile, and has no node.
    pub villain: Option<Villain>,
    /// Lives so far.
    pub lives: u32,
    /// The blocks on the disk of a dead peer.
    pub disk: Option<MemoryStore>,
    /// How it treats connections from others.
    pub manner: Manner,
    /// Datagrams it has sent, and their bytes with headers of IPv4 and UDP.
    pub datagrams: u64,
    pub datagram_bytes: u64,
    /// Streams it sends on break after so many bytes.
    pub breaks_after: Option<usize>,
    /// The contacts that it saved, for its next life.
    pub saved: Vec<Contact>,
    pub conns: BTreeMap<ConnId, (StreamId, usize)>,
    /// Connections with something to write.
    pub dirty: BTreeSet<ConnId>,
    /// Connections with something to read.
    pub unread: BTreeSet<ConnId>,
    pub wake: Option<Instant>,
    /// How often it has been woken at the present instant.
    pub wakes: u32,
}

impl Peer {
    /// Whether somebody is there who takes what comes.
    pub fn is_up(&self) -> bool {
        self.node.is_some() || self.villain.is_some()
    }
}

/// What a lookup for the closest has come to.
pub struct Found {
    /// When it ended.
    pub at: Instant,
    pub contacts: Vec<Contact>,
}

pub enum Happening {
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
    /// What an end has written, and the network did not carry, is tried again.
    Retry(StreamId, usize),
    /// A peer saves its contacts, in this of its lives, and the next time after twice this pause.
    Save(PeerId, u32, Duration),
    /// A villain does something.
    Act(PeerId),
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
    /// For how long what clients share is to be kept, if not for as long as may be.
    pub lifetime: Option<Duration>,
    /// Lookups by [`World::begin_lookup`] that have ended.
    pub found: BTreeMap<(PeerId, LookupId), Found>,
    /// What calls by [`World::begin_locate`] have come to.
    pub located: Vec<Located>,
    pub tracer: Tracer,
    pub watch: Watch,
    /// Whether peers save their contacts from time to time; otherwise only when they die.
    pub saves: bool,
    /// The command that repeats a failure; that of the test at hand if empty.
    pub command: String,
    /// Hostile peers, who answer at all ports.
    pub villains: BTreeMap<IpAddr, PeerId>,
    /// What strangers have heard and not looked at.
    pub heard: VecDeque<(StreamId, Frame)>,
    pub by_addr: BTreeMap<SocketAddr, PeerId>,
    pub agenda: BTreeMap<(Instant, u64), Happening>,
    pub counter: u64,
    pub trace: Trace,
}

/// A number from the environment, for another run or a shorter one.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number")))
}

/// The seed of a test: its own, or the one in `STREW_SEED`.
pub fn seed(default: u64) -> u64 {
    number("STREW_SEED").unwrap_or(default)
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
            lifetime: None,
            found: BTreeMap::new(),
            located: Vec::new(),
            tracer: Tracer::default(),
            watch: Watch::default(),
            saves: false,
            command: String::new(),
            villains: BTreeMap::new(),
            heard: VecDeque::new(),
            by_addr: BTreeMap::new(),
            agenda: BTreeMap::new(),
            counter: 0,
            trace: Trace::default(),
        }
    }

    /// The hash over all that has happened: when, what, between whom, with which bytes.
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// A peer comes to life.
    pub fn add_peer(&mut self, born: Born) -> PeerId {
        let key = NodeKey(self.rng.bytes());
        let id = self.add_dead(born, key);
        self.revive(id);
        id
    }

    /// A peer that will come to life when it is revived.
    pub fn add_unborn(&mut self, born: Born) -> PeerId {
        let key = NodeKey(self.rng.bytes());
        self.add_dead(born, key)
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
            access: Access::default(),
            villain: None,
            lives: 0,
            disk: None,
            manner: Manner::Honest,
            datagrams: 0,
            datagram_bytes: 0,
            breaks_after: None,
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

    /// A dead peer starts again with its key, the contacts that it saved, and the blocks on its disk.
    pub fn revive(&mut self, id: PeerId) {
        let now = self.now;
        let mut node = self.new_node(id);
        self.watch.forget(id);
        let peer = &mut self.peers[id];
        node.load_contacts(now, peer.saved.clone());
        for seed in &peer.born.seeds {
            node.add_seed(now, *seed);
        }
        peer.node = Some(node);
        peer.lives += 1;
        let lives = peer.lives;
        if self.saves {
            self.schedule(now + SAVE_FIRST, Happening::Save(id, lives, SAVE_FIRST));
        }
        self.settle(id);
    }

    /// The same at another address.
    pub fn revive_at(&mut self, id: PeerId, addr: SocketAddr) {
        self.by_addr.retain(|_, there| *there != id);
        self.by_addr.insert(addr, id);
        let peer = &mut self.peers[id];
        peer.born.addr = addr;
        if let Some(nat) = &mut peer.access.nat {
            nat.forget();
        }
        self.revive(id);
    }

    pub fn new_node(&mut self, id: PeerId) -> Node<MemoryStore> {
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

    /// A peer ends, saves its contacts, and loses its blocks. Either its machine lives on and refuses, or all is
    /// silent.
    pub fn kill(&mut self, id: PeerId, refuses: bool) {
        let now = self.now;
        if let Some(node) = &self.peers[id].node {
            self.peers[id].saved = node.contacts(now);
        }
        self.crash(id, false, refuses);
    }

    /// A peer dies at once. What it held in memory is lost; what is on its disk stays, or is lost as well.
    pub fn crash(&mut self, id: PeerId, keeps_store: bool, refuses: bool) {
        let peer = &mut self.peers[id];
        if let Some(node) = peer.node.take() {
            let mut store = node.into_store();
            store.reopen();
            peer.disk = keeps_store.then_some(store);
        }
        if peer.villain.take().is_some() {
            self.villains.remove(&peer.born.addr.ip());
        }
        peer.refuses = refuses;
        peer.wake = None;
        self.drop_streams(id, refuses);
    }

    fn save(&mut self, id: PeerId, lives: u32, pause: Duration) {
        let now = self.now;
        let peer = &mut self.peers[id];
        let Some(node) = peer.node.as_ref().filter(|_| peer.lives == lives) else {
            return;
        };
        let mut contacts = node.contacts(now);
        contacts.truncate(SAVED_CONTACTS_MAX);
        if !contacts.is_empty() {
            peer.saved = contacts;
        }
        let pause = (pause * 2).min(SAVE_MAX);
        self.schedule(now + pause, Happening::Save(id, lives, pause));
    }

    /// Who is at an address.
    pub fn peer_at(&self, addr: SocketAddr) -> Option<PeerId> {
        let villain = || self.villains.get(&addr.ip());
        self.by_addr.get(&addr).or_else(villain).copied()
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

    pub fn step(&mut self) {
        let Some(((at, _), happening)) = self.agenda.pop_first() else {
            return;
        };
        self.now = at;
        self.trace.note(self.now, &happening);
        match happening {
            Happening::Datagram { from, to, payload } => {
                let Some(id) = self.peer_at(to).filter(|&id| self.peers[id].plugged) else {
                    return;
                };
                let payload = &payload;
                if self.peers[id].villain.is_some() {
                    return self.villain_hears(id, from, to, payload);
                }
                if self.peers[id].node.is_none() || !self.is_let_in(id, from, to) {
                    return;
                }
                self.tracer.handle_received(id, from, payload);
                self.watch.handle_received(at, id, from, payload);
                self.input(id, |now, node| {
                    node.handle_input(now, Input::Datagram { from, payload });
                });
                self.watch.end_received();
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
            Happening::Room(stream, end) => {
                if let Some(both) = self.streams.get_mut(&stream) {
                    both.ends[end].is_held = false;
                }
                self.flush(stream, end);
            }
            Happening::Retry(stream, end) => self.retry(stream, end),
            Happening::Save(id, lives, pause) => self.save(id, lives, pause),
            Happening::Act(id) => self.villain_acts(id),
            Happening::Gone(stream, end) => {
                if let Some(both) = self.streams.get_mut(&stream) {
                    both.ends[end].ended = true;
                    self.read(stream, end);
                }
            }
        }
    }

    pub fn schedule(&mut self, at: Instant, happening: Happening) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), happening);
    }

    /// Gives a node an input, and does what it then wants.
    pub fn input(&mut self, id: PeerId, give: impl FnOnce(Instant, &mut Node<MemoryStore>)) {
        let now = self.now;
        if let Some(node) = &mut self.peers[id].node {
            give(now, node);
            self.settle(id);
        }
    }

    /// Does what a node wants until it wants to sleep.
    pub fn settle(&mut self, id: PeerId) {
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
                Output::Event(Event::Located(located)) => self.located.push(located),
                Output::Event(_) => {}
                Output::Timeout(next) => {
                    if self.write_some(id) || self.read_some(id) {
                        continue;
                    }
                    self.check(id, next);
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

    /// All that must hold of a node that has done what it wants, and wants to be woken then.
    fn check(&self, id: PeerId, next: Option<Instant>) {
        // Verification has steps that are due at once, and says so by the earliest of all times.
        let is_past = next.is_some_and(|next| next < self.now && next > Instant::EPOCH);
        assert!(
            !is_past,
            "peer {id} wants to be woken at a time that has passed"
        );
        if self.peers.len() <= CHECKED_MAX || self.counter.is_multiple_of(64) {
            if let Some(node) = &self.peers[id].node {
                node.check(self.now);
            }
        }
    }

    pub fn transmit(&mut self, id: PeerId, to: SocketAddr, payload: Vec<u8>) {
        self.peers[id].datagrams += 1;
        self.peers[id].datagram_bytes += payload.len() as u64 + 28;
        self.tracer.handle_sent(id, to, &payload);
        self.watch.handle_sent(self.now, id, to, &payload);
        let from = self.outside(id, to);
        self.send_datagram(id, from, to, payload);
    }
}

impl Drop for World {
    /// A failure says how to see it again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("");
            let seed = self.seed;
            match &self.command {
                command if !command.is_empty() => eprintln!("seed {seed}: {command}"),
                _ => eprintln!("seed {seed}: STREW_SEED={seed} cargo test --test sim {name}"),
            }
        }
    }
}
