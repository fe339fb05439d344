//! Peers that speak the protocol to do harm: what they answer to datagrams, and what they send unasked. What they do
//! to connections is in [`hostile`](crate::hostile).

use crate::hostile::Manner;
use crate::network::serve;
use crate::streams::{Owner, StreamId};
use crate::world::{Happening, PeerId, World};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use strew::block::{Block, Form, Kind, Role};
use strew::digest::Digest;
use strew::id::{BlockId, NodeId, NodeKey, Point};
use strew::limits::{DATAGRAM_SIZE_MAX, HAVE_MAX, K, OFFER_MAX};
use strew::wire::codec::Reader;
use strew::wire::contact::{Age, Contact};
use strew::wire::datagram::{self, Bitmap, Direction, Families, Header, Reply, Request, Token};
use strew::wire::frame::{Frame, Hello, Offered, PeerRole};

/// The port of the first of the many that a peer pretends to be.
const SYBIL_PORT: u16 = 20_000;

/// How many it pretends to be. Ids are hashes, so that closer ones must be searched for: this many were found.
const SYBILS: usize = 1024;

/// Connections that a flooding peer holds open at most.
const STREAMS_MAX: usize = 64;

/// What a hostile peer does. All of them make themselves known by asking, and answer PING.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vice {
    /// Names contacts that are dead, live elsewhere, or are somebody else.
    FalseContacts,
    /// Names ever closer contacts, all of which it is itself.
    EverCloser,
    /// Answers nothing else.
    Silent,
    /// Answers with wrong tokens, transactions, keys, kinds and lengths.
    Babbling,
    /// Says that it holds everything, takes all blocks and stores none, and gives wrong ones.
    Lying,
    /// Sends many requests, also in the name of others, and opens many connections.
    Flooding,
}

pub const VICES: [Vice; 6] = [
    Vice::FalseContacts,
    Vice::EverCloser,
    Vice::Silent,
    Vice::Babbling,
    Vice::Lying,
    Vice::Flooding,
];

pub struct Villain {
    vice: Vice,
    /// The keys under which it answers at ports from [`SYBIL_PORT`].
    sybils: Vec<(NodeId, NodeKey)>,
    /// What others have told it to send back to them.
    tokens: BTreeMap<SocketAddr, Token>,
    /// Connections it has opened, the oldest first.
    streams: VecDeque<StreamId>,
}

impl World {
    /// A hostile peer appears.
    pub fn add_villain(&mut self, addr: SocketAddr, vice: Vice) -> PeerId {
        let key = NodeKey(self.rng.bytes());
        let id = self.add_dead(serve(addr, &[]), key);
        let sybils = match vice {
            Vice::EverCloser => SYBILS,
            _ => 0,
        };
        let keys = (0..sybils).map(|_| NodeKey(self.rng.bytes()));
        let sybils = keys.map(|key| (key.id(), key)).collect();
        let peer = &mut self.peers[id];
        peer.manner = match vice {
            Vice::FalseContacts | Vice::Silent => Manner::Silent,
            Vice::EverCloser | Vice::Flooding => Manner::Mute,
            Vice::Babbling => Manner::Resetting,
            Vice::Lying => Manner::Robbing,
        };
        peer.villain = Some(Villain {
            vice,
            sybils,
            tokens: BTreeMap::new(),
            streams: VecDeque::new(),
        });
        self.villains.insert(addr.ip(), id);
        self.schedule(self.now, Happening::Act(id));
        id
    }

    fn villain(&mut self, id: PeerId) -> Option<&mut Villain> {
        self.peers[id].villain.as_mut()
    }

    /// Any of those who live, and do no harm.
    fn victim(&mut self) -> Option<PeerId> {
        let count = self.peers.len() as u64;
        let mut tries = (0..10).map(|_| self.rng.below(count) as usize);
        let peers = &self.peers;
        tries.find(|&id| peers[id].node.is_some())
    }

    fn request_header(&mut self, key: NodeKey, token: Token) -> Header {
        Header {
            kind: datagram::Kind::Ping,
            direction: Direction::Request,
            client_mode: false,
            families: Families {
                ipv4: self.rng.below(4) > 0,
                ipv6: self.rng.below(4) == 0,
            },
            shortened: false,
            transaction: self.rng.next_u64(),
            key,
            token,
        }
    }

    /// Any request.
    fn any_request(&mut self) -> Request {
        match self.rng.below(6) {
            0 => Request::Ping,
            5 => Request::Provide(BlockId(self.rng.bytes())),
            1 => Request::DialBack(self.rng.next_u64()),
            2 => {
                let count = 1 + self.rng.below(HAVE_MAX as u64);
                let blocks = (0..count).map(|_| BlockId(self.rng.bytes()));
                Request::Have(blocks.collect())
            }
            _ => Request::FindNode(Point(self.rng.bytes())),
        }
    }

    /// What a villain does from time to time.
    pub fn villain_acts(&mut self, id: PeerId) {
        let Some(villain) = self.villain(id) else {
            return;
        };
        let is_flooding = villain.vice == Vice::Flooding;
        let pause = self.rng.jitter(Duration::from_millis(1000));
        self.schedule(self.now + pause, Happening::Act(id));
        let Some(victim) = self.victim() else {
            return;
        };
        let to = self.peers[victim].born.addr;
        let (own, key) = (self.peers[id].born.addr, self.peers[id].key);
        let count = match is_flooding {
            true => 1 + self.rng.below(40),
            false => 1,
        };
        for _ in 0..count {
            let request = self.any_request();
            let token = self.villain(id).and_then(|it| it.tokens.get(&to).copied());
            let token = token.unwrap_or(Token(self.rng.bytes()));
            let header = self.request_header(key, token);
            let is_padded = self.rng.below(2) == 0;
            let mut payload = request.encode(header, is_padded);
            let mut from = own;
            if is_flooding {
                match self.rng.below(4) {
                    // In the name of somebody else, who is flooded if more comes back than was sent.
                    0 => {
                        if let Some(other) = self.victim() {
                            from = self.peers[other].born.addr;
                        }
                    }
                    1 => from.set_port(1 + self.rng.below(65_535) as u16),
                    2 => self.spoil(&mut payload),
                    _ => {}
                }
            }
            self.send_datagram(id, from, to, payload);
        }
        if is_flooding {
            self.villain_dials(id, to);
        }
    }

    /// Makes nonsense of a datagram.
    fn spoil(&mut self, payload: &mut Vec<u8>) {
        let len = payload.len() as u64;
        match self.rng.below(4) {
            0 => payload.truncate(self.rng.below(len) as usize),
            1 => payload.resize((len + 1 + self.rng.below(1200)) as usize, 1),
            2 => {
                let at = self.rng.below(len) as usize;
                payload[at] ^= 1 << self.rng.below(8);
            }
            _ => {
                let at = self.rng.below(len.min(60)) as usize;
                payload[at..].fill(0xff);
            }
        }
    }

    /// A datagram for a villain, at one of its addresses.
    pub fn villain_hears(&mut self, id: PeerId, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut reader = Reader::new(payload);
        let Ok(datagram::Start::Ours(header)) = Header::decode(&mut reader) else {
            return;
        };
        let own = (self.peers[id].born.addr, self.peers[id].key);
        let Some(villain) = self.villain(id) else {
            return;
        };
        if header.direction == Direction::Reply {
            villain.tokens.insert(from, header.token);
            return;
        }
        let Ok(request) = Request::decode(header.kind, reader) else {
            panic!("a node sends no nonsense");
        };
        let sybil = to.port().wrapping_sub(SYBIL_PORT);
        let key = match villain.sybils.get(usize::from(sybil)) {
            _ if to == own.0 => own.1,
            Some(&(_, key)) => key,
            None => return,
        };
        let vice = villain.vice;
        let contacts = match &request {
            Request::FindNode(target) => self.named(id, to, target),
            Request::Have(blocks) => self.named(id, to, &blocks[0].into()),
            _ => Vec::new(),
        };
        let reply = match request {
            Request::Ping => Reply::Ping(from),
            _ if vice == Vice::Silent => return,
            Request::FindNode(_) => Reply::FindNode(contacts),
            Request::Have(_) if vice == Vice::Lying => {
                Reply::Have(Bitmap(u32::MAX), contacts, Vec::new())
            }
            Request::Have(_) => Reply::Have(Bitmap::default(), contacts, Vec::new()),
            Request::DialBack(_) => Reply::DialBack(true, vec![from, to]),
            Request::Digest(_, depth) => {
                let digest = match vice {
                    Vice::Lying => Digest {
                        count: u32::MAX,
                        sum: self.rng.next_u64().into(),
                    },
                    _ => Digest::default(),
                };
                Reply::Digest(vec![digest; 1 << depth])
            }
            // Who lies has more than fits.
            Request::List(_) => Reply::List((vice != Vice::Lying).then(Vec::new)),
            Request::Provide(_) => Reply::Provide(u32::MAX),
        };
        let mut header = Header {
            client_mode: false,
            key,
            token: Token(self.rng.bytes()),
            ..header
        };
        let is_babbling = vice == Vice::Babbling && !matches!(reply, Reply::Ping(_));
        let mut times = 1;
        if is_babbling {
            match self.rng.below(5) {
                0 => header.transaction = self.rng.next_u64(),
                1 => header.key = NodeKey(self.rng.bytes()),
                2 => times = 3,
                _ => {}
            }
        }
        let mut payload = reply.encode(header, DATAGRAM_SIZE_MAX);
        if is_babbling && self.rng.below(2) == 0 {
            self.spoil(&mut payload);
        }
        for _ in 0..times {
            self.send_datagram(id, to, from, payload.clone());
        }
    }

    /// Whom a villain names that was asked at this address.
    fn named(&mut self, id: PeerId, asked: SocketAddr, target: &Point) -> Vec<Contact> {
        let own = self.peers[id].born.addr;
        let Some(villain) = self.villain(id) else {
            return Vec::new();
        };
        if villain.vice == Vice::EverCloser {
            let distance = |id: &NodeId| Point::from(*id).distance(target);
            let here = usize::from(asked.port().wrapping_sub(SYBIL_PORT));
            let here = villain.sybils.get(here).map(|(id, _)| distance(id));
            let sybils = villain.sybils.iter().enumerate();
            let closer = sybils.filter(|(_, (id, _))| here.is_none_or(|here| distance(id) < here));
            let mut closer: Vec<_> = closer.collect();
            // The farthest of those that are closer: there is always another step to take.
            closer.sort_by_key(|(_, (id, _))| std::cmp::Reverse(distance(id)));
            let named = closer.into_iter().take(K).map(|(nth, &(_, key))| {
                let addr = SocketAddr::new(own.ip(), SYBIL_PORT + nth as u16);
                Contact::new(key, addr, Age(255))
            });
            return named.collect();
        }
        if villain.vice != Vice::FalseContacts {
            return Vec::new();
        }
        let mut named = Vec::new();
        for _ in 0..K {
            let key = NodeKey(self.rng.bytes());
            let port = 1 + self.rng.below(65_535) as u16;
            let nobody = Ipv4Addr::from(0x0aff_0000 | self.rng.below(1 << 16) as u32);
            let addr = match self.rng.below(3) {
                0 => self.victim().map(|victim| self.peers[victim].born.addr),
                1 => Some(SocketAddr::from(([203, 0, 113, 7], port))),
                _ => None,
            };
            let addr = addr.unwrap_or(SocketAddr::from((nobody, port)));
            named.push(Contact::new(key, addr, Age(self.rng.below(256) as u8)));
        }
        named
    }

    /// Opens one more connection.
    fn villain_dials(&mut self, id: PeerId, to: SocketAddr) {
        let stream = self.new_stream([Owner::Script(id), Owner::Nobody], to, false);
        let Some(villain) = self.villain(id) else {
            return;
        };
        villain.streams.push_back(stream);
        if villain.streams.len() > STREAMS_MAX {
            if let Some(oldest) = villain.streams.pop_front() {
                self.close_end(oldest, 0);
            }
        }
        let at = self.now + self.latency();
        self.schedule(at, Happening::Dialed(stream));
    }

    /// A connection of a villain is open: it says all it has to say.
    pub fn villain_connected(&mut self, id: PeerId, stream: StreamId) {
        let key = match self.rng.below(2) {
            0 => self.peers[id].key,
            _ => NodeKey(self.rng.bytes()),
        };
        let hello = Hello {
            key,
            port: 7873,
            role: PeerRole::Peer,
        };
        let mut bytes = Vec::new();
        if self.rng.below(8) > 0 {
            Frame::Hello(hello).encode(&mut bytes);
        }
        for _ in 0..self.rng.below(6) {
            self.add_frames(&mut bytes);
        }
        if self.rng.below(3) == 0 {
            // The rest of the last frame never comes.
            let len = bytes.len() as u64;
            bytes.truncate(self.rng.below(len + 1) as usize);
        }
        self.say(stream, 0, &bytes);
    }

    fn add_frames(&mut self, bytes: &mut Vec<u8>) {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        let payload = self.rng.bytes::<200>().to_vec();
        let id = BlockId(self.rng.bytes());
        match self.rng.below(8) {
            0 => {
                let count = 1 + self.rng.below(OFFER_MAX as u64);
                let offered = (0..count).map(|_| Offered {
                    id: BlockId(self.rng.bytes()),
                    lifetime: u32::MAX,
                });
                Frame::Offer(offered.collect()).encode(bytes);
            }
            1 => {
                let lifetime = u32::MAX;
                let put = Frame::Put {
                    copies: 20,
                    id,
                    kind,
                    lifetime,
                    payload,
                };
                put.encode(bytes);
            }
            2 => {
                let block = Block::new(kind, payload).expect("a block");
                let put = Frame::Put {
                    copies: 20,
                    id: block.id(),
                    kind,
                    lifetime: 3600,
                    payload: block.payload().to_vec(),
                };
                put.encode(bytes);
            }
            3 => {
                for _ in 0..self.rng.below(1000) {
                    Frame::Get(BlockId(self.rng.bytes())).encode(bytes);
                }
            }
            4 => Frame::Dialed(self.rng.next_u64()).encode(bytes),
            5 => Frame::Status.encode(bytes),
            6 => bytes.extend_from_slice(&[0, 2, 0, 0, 5]),
            _ => bytes.extend_from_slice(&payload),
        }
    }
}
