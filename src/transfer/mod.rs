//! Connections: opening, greeting, frames in, frames out, limits and time-outs. Knows nothing of what the
//! frames are for: `keep` and `fetch` do, through [`Event`]s and the methods here. Called by the node.

mod check;
mod conn;
mod egress;
mod shun;

pub use egress::{BlockHead, Source};

use crate::id::{BlockId, NodeId, NodeKey};
use crate::limits::*;
use crate::store::Store;
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::contact::{is_private, network, Contact};
use crate::wire::frame::{ByeReason, Frame, FrameDecoder, Hello, PayloadFrame, PeerRole};
use crate::wire::PROTOCOL_VERSION;
use conn::{Conn, Stage};
use egress::Egress;
use log::debug;
use shun::Shunned;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A connection. Counts up and is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// Where an accepted connection comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The TCP listener.
    Remote(SocketAddr),
    /// The control socket.
    Local,
}

/// What became of a connection, for those who use it.
#[derive(Debug)]
pub enum Event {
    /// Both sides have greeted.
    Opened {
        /// The connection.
        conn: ConnId,
        /// The other side's greeting.
        hello: Hello,
    },
    /// A frame came, after the greeting.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame.
        frame: Frame,
    },
    /// It is over; nothing more comes, and nothing more can be sent.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Who was at its other end, where that was known.
        peer: Option<NodeId>,
        /// Why, for the log and for the user.
        reason: String,
    },
    /// The other side speaks another version.
    OtherVersion {
        /// Where it is.
        addr: SocketAddr,
        /// Its version.
        version: u8,
    },
}

/// What the driver must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a connection.
    Connect {
        /// Its name from now on.
        conn: ConnId,
        /// Where to.
        to: SocketAddr,
    },
    /// There is something to write where there was nothing.
    Flush {
        /// The connection.
        conn: ConnId,
    },
    /// Close it, without waiting for what is queued.
    Close {
        /// The connection.
        conn: ConnId,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Look whether the connection has been silent for too long. Not set while it waits to be begun.
    Watch(ConnId),
}

/// All connections of a node.
pub struct Transfer {
    hello: Hello,
    /// Boxed, as an empty map keeps room for eleven.
    conns: BTreeMap<ConnId, Box<Conn>>,
    /// A connection with this peer, or with somebody who says so: ask `Conn::leads_to`. Invariant: it is in `conns`
    /// and its `peer` is this.
    by_peer: BTreeMap<NodeId, ConnId>,
    /// Connections not yet begun, as too many are being opened.
    dial_queue: VecDeque<ConnId>,
    connecting: usize,
    shunned: Shunned,
    next_conn: u64,
    timers: Timers<Timer>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    /// Payload and other bytes received and sent over streams.
    pub bytes: (u64, u64),
}

impl Transfer {
    /// No connections yet; `hello` is what this node greets with.
    pub fn new(hello: Hello) -> Transfer {
        Transfer {
            hello,
            conns: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            dial_queue: VecDeque::new(),
            connecting: 0,
            shunned: Shunned::default(),
            next_conn: 1,
            timers: Timers::default(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            bytes: (0, 0),
        }
    }

    /// Changes what later greetings say of this node.
    pub fn set_role(&mut self, role: PeerRole) {
        self.hello.role = role;
    }

    /// Connections to peers, and of local clients.
    pub fn counts(&self) -> (usize, usize) {
        let local = self
            .conns
            .values()
            .filter(|conn| conn.addr.is_none())
            .count();
        (self.conns.len() - local, local)
    }

    /// The connection by which this peer is or will be reached: the one there is, or a new one. `None` if it is
    /// shunned, or if there are [`CONNECTIONS_MAX`] already and all are in use.
    pub fn reach(&mut self, now: Instant, contact: &Contact) -> Option<ConnId> {
        if let Some(id) = self.conn_to(contact) {
            return Some(id);
        }
        if self.is_shunned(now, &contact.id) || !self.make_room() {
            return None;
        }
        let conn = self.dial(now, contact.addr, Some(contact.id));
        self.by_peer.insert(contact.id, conn);
        Some(conn)
    }

    /// The connection by which this peer is reached, if there is one.
    fn conn_to(&self, contact: &Contact) -> Option<ConnId> {
        let id = self.by_peer.get(&contact.id).copied();
        id.filter(|id| self.conns[id].leads_to(contact))
    }

    /// Opens a connection to an address, whoever is there.
    pub fn dial(&mut self, now: Instant, to: SocketAddr, peer: Option<NodeId>) -> ConnId {
        let id = self.insert(now, Some(to), peer, Stage::Connecting);
        self.dial_queue.push_back(id);
        id
    }

    /// Takes in a connection that the driver has accepted. At a limit it is told so and closed.
    pub fn accept(&mut self, now: Instant, origin: Origin) -> ConnId {
        let (addr, full) = match origin {
            Origin::Remote(addr) => (Some(addr), !self.make_room_for(addr)),
            Origin::Local => (None, self.counts().1 >= CLIENTS_MAX),
        };
        let id = self.insert(now, addr, None, Stage::Greeting);
        self.timers.set(Timer::Watch(id), now + CONNECT_TIMEOUT);
        self.greet(id);
        if full {
            self.bye(id, ByeReason::Busy, "too many connections; try again later");
        }
        id
    }

    fn insert(
        &mut self,
        now: Instant,
        addr: Option<SocketAddr>,
        peer: Option<NodeId>,
        stage: Stage,
    ) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let conn = Conn {
            stage,
            addr,
            inbound: addr.is_some() && stage == Stage::Greeting,
            began: now,
            expected: peer,
            peer,
            decoder: FrameDecoder::new(addr.is_none()),
            egress: Egress::default(),
            owed: 0,
            owed_since: now,
            ahead: 0,
            frame_bytes: 0,
            frame_since: now,
            last_heard: now,
        };
        self.conns.insert(id, Box::new(conn));
        id
    }

    /// Whether there is no connection with this peer and no room for one, as all are in use.
    pub fn is_out_of_room(&self, contact: &Contact) -> bool {
        let remote = || self.conns.values().filter(|conn| conn.addr.is_some());
        self.conn_to(contact).is_none()
            && remote().count() >= CONNECTIONS_MAX
            && !remote().any(|conn| conn.stage == Stage::Open && conn.is_idle())
    }

    /// Room for one more connection to a peer; false if all are in use.
    fn make_room(&mut self) -> bool {
        self.make_room_among(CONNECTIONS_MAX, |conn| conn.addr.is_some())
    }

    /// Room for one that has come from there.
    fn make_room_for(&mut self, from: SocketAddr) -> bool {
        let from = from.ip();
        let shares_with = |of: fn(&IpAddr) -> IpAddr| {
            move |conn: &Conn| {
                let addr = conn.addr.filter(|_| conn.inbound);
                addr.is_some_and(|addr| of(&addr.ip()) == of(&from))
            }
        };
        (is_private(&from)
            || self.make_room_among(INBOUND_PER_SOURCE, shares_with(source))
                && self.make_room_among(INBOUND_PER_NETWORK, shares_with(network)))
            && self.make_room_among(INBOUND_MAX, |conn| conn.inbound)
            && self.make_room()
    }

    /// Closes an idle connection of a kind if there are as many of it as may be; false if all are in use, or are
    /// being opened for somebody who waits.
    fn make_room_among(&mut self, max: usize, is_of_kind: impl Fn(&Conn) -> bool) -> bool {
        let all = || self.conns.iter().filter(|(_, conn)| is_of_kind(conn));
        if all().count() < max {
            return true;
        }
        let idle = all().filter(|(_, conn)| conn.stage == Stage::Open && conn.is_idle());
        let longest = idle.min_by_key(|(_, conn)| conn.last_heard);
        let Some(id) = longest.map(|(&id, _)| id) else {
            return false;
        };
        self.close(id, "idle, and another connection is wanted");
        true
    }

    /// Begins as many of the connections that wait as may be. Their time runs from now on: how long they have
    /// waited for others says nothing of the peer.
    fn dial_next(&mut self, now: Instant) {
        while self.connecting < CONNECTING_MAX {
            let Some(id) = self.dial_queue.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            let to = conn.addr.expect("only remote peers are dialed");
            conn.began = now;
            self.timers.set(Timer::Watch(id), now + CONNECT_TIMEOUT);
            self.connecting += 1;
            self.commands.push_back(Command::Connect { conn: id, to });
        }
    }

    fn greet(&mut self, id: ConnId) {
        let hello = Frame::Hello(self.hello);
        self.queue(id, |egress| egress.push(&hello));
    }

    /// The driver has opened the connection.
    pub fn handle_connected(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.stage != Stage::Connecting {
            return;
        }
        conn.stage = Stage::Greeting;
        self.connecting -= 1;
        // Frames may have been queued while it was being opened; the greeting goes first.
        let hello = Frame::Hello(self.hello);
        let mut queued = std::mem::take(&mut conn.egress);
        conn.egress.push(&hello);
        conn.egress.append(&mut queued);
        self.commands.push_back(Command::Flush { conn: id });
    }

    /// Bytes came, in any cut of the stream.
    pub fn handle_received(&mut self, now: Instant, id: ConnId, mut bytes: &[u8]) {
        self.bytes.0 += bytes.len() as u64;
        while let Some(conn) = self.conns.get_mut(&id) {
            if conn.stage == Stage::Closing {
                return;
            }
            conn.last_heard = now;
            let before = bytes.len();
            match conn.decoder.take(&mut bytes) {
                Ok(Some(frame)) => {
                    conn.frame_bytes = 0;
                    self.handle_frame(now, id, frame);
                }
                Ok(None) => return conn.handle_part(now, before),
                Err(malformed) => {
                    self.bye(id, ByeReason::Protocol, &format!("{malformed}"));
                    return;
                }
            }
        }
    }

    fn handle_frame(&mut self, now: Instant, id: ConnId, frame: Frame) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match frame {
            Frame::Hello(hello) => {
                let peer = hello.key.id();
                let expected = conn.peer;
                conn.stage = Stage::Open;
                conn.owed_since = now;
                self.timers.set(Timer::Watch(id), now + PROGRESS_TIMEOUT);
                if conn.addr.is_none() {
                    if hello.role != PeerRole::Client {
                        self.bye(
                            id,
                            ByeReason::Protocol,
                            "only clients use the control socket",
                        );
                        return;
                    }
                } else {
                    if hello.role == PeerRole::Client || peer == self.hello.key.id() {
                        self.bye(id, ByeReason::Protocol, "a peer greets with its own key");
                        return;
                    }
                    if expected.is_some_and(|expected| expected != peer) {
                        self.bye(
                            id,
                            ByeReason::Done,
                            "another peer was expected at this address",
                        );
                        return;
                    }
                    conn.peer = Some(peer);
                    self.by_peer.entry(peer).or_insert(id);
                }
                self.events.push_back(Event::Opened { conn: id, hello });
            }
            Frame::OtherVersion(version) => {
                let text = format!(
                    "speaks protocol version {version}, this strew speaks {PROTOCOL_VERSION}; \
                     the older of the two must be upgraded"
                );
                if let Some(addr) = conn.addr {
                    self.events.push_back(Event::OtherVersion { addr, version });
                }
                self.bye(id, ByeReason::Version, &text);
            }
            Frame::Bye { reason, text } => {
                debug!("{} says goodbye ({reason:?}): {text}", self.name(id));
                self.close(id, &format!("it ended the connection: {text}"));
            }
            frame => self.events.push_back(Event::Frame { conn: id, frame }),
        }
    }

    /// The driver has lost the connection, or could not open it.
    pub fn handle_closed(&mut self, now: Instant, id: ConnId, reason: &str) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if let (Stage::Connecting | Stage::Greeting, Some(peer)) = (conn.stage, conn.expected) {
            self.shunned.shun(now, peer, SHUN_FOR);
        }
        self.forget(id, reason);
    }

    /// Tells the other side why, and closes once that and all before it has been written.
    pub fn bye(&mut self, id: ConnId, reason: ByeReason, text: &str) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if matches!(conn.stage, Stage::Connecting) {
            return self.close(id, text);
        }
        debug!("closing {}: {text}", self.name(id));
        let frame = Frame::Bye {
            reason,
            text: text.to_string(),
        };
        self.queue(id, |egress| egress.push(&frame));
        self.finish(id, text);
    }

    /// Closes once all that is queued has been written. Its users learn at once that it is over.
    pub fn finish(&mut self, id: ConnId, reason: &str) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.stage == Stage::Closing {
            return;
        }
        conn.stage = Stage::Closing;
        let (peer, empty) = (conn.peer, conn.egress.is_empty());
        self.unlink(id, peer);
        self.events.push_back(Event::Closed {
            conn: id,
            peer,
            reason: reason.to_string(),
        });
        if empty {
            self.drop_closing(id);
        }
    }

    /// Closes at once.
    pub fn close(&mut self, id: ConnId, reason: &str) {
        if self.conns.contains_key(&id) {
            debug!("closing {}: {reason}", self.name(id));
            self.commands.push_back(Command::Close { conn: id });
            self.forget(id, reason);
        }
    }

    fn drop_closing(&mut self, id: ConnId) {
        self.commands.push_back(Command::Close { conn: id });
        self.timers.stop(Timer::Watch(id));
        self.conns.remove(&id);
    }

    fn forget(&mut self, id: ConnId, reason: &str) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        self.timers.stop(Timer::Watch(id));
        if conn.stage == Stage::Connecting && !self.dial_queue.contains(&id) {
            self.connecting -= 1;
        }
        self.dial_queue.retain(|&queued| queued != id);
        self.unlink(id, conn.peer);
        if conn.stage != Stage::Closing {
            let (peer, reason) = (conn.peer, reason.to_string());
            self.events.push_back(Event::Closed {
                conn: id,
                peer,
                reason,
            });
        }
    }

    fn unlink(&mut self, id: ConnId, peer: Option<NodeId>) {
        if let Some(peer) = peer {
            if self.by_peer.get(&peer) == Some(&id) {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// Queues a frame. Harmless if the connection is gone.
    pub fn send(&mut self, id: ConnId, frame: &Frame) {
        self.queue(id, |egress| egress.push(frame));
    }

    /// Queues a block. Harmless if the connection is gone.
    pub fn send_block(
        &mut self,
        id: ConnId,
        frame: PayloadFrame,
        block: BlockHead,
        source: Source,
    ) {
        self.queue(id, |egress| egress.push_block(frame, block, source));
    }

    fn queue(&mut self, id: ConnId, push: impl FnOnce(&mut Egress)) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.stage == Stage::Closing {
            return;
        }
        let was_empty = conn.egress.is_empty();
        push(&mut conn.egress);
        if was_empty && conn.stage != Stage::Connecting {
            self.commands.push_back(Command::Flush { conn: id });
        }
    }

    /// The other side owes `more` answers than before, to what has just been queued.
    pub fn expect(&mut self, now: Instant, id: ConnId, more: usize) {
        if let Some(conn) = self.conns.get_mut(&id) {
            if conn.owed == 0 {
                conn.last_heard = now;
                conn.owed_since = now;
            }
            conn.owed += more;
            conn.ahead = conn.egress.bytes();
        }
    }

    /// When bytes last came on a connection, or it began to owe us something; `None` if it is gone.
    pub fn last_heard(&self, id: ConnId) -> Option<Instant> {
        self.conns.get(&id).map(|conn| conn.last_heard)
    }

    /// An answer has come that was owed. False if none was: the peer answers what was not asked.
    pub fn answered(&mut self, now: Instant, id: ConnId) -> bool {
        match self.conns.get_mut(&id) {
            Some(conn) if conn.owed > 0 => {
                conn.owed -= 1;
                conn.owed_since = now;
                true
            }
            _ => false,
        }
    }

    /// Since when an open connection's other side has owed answers without getting on with them.
    pub fn owed_since(&self, id: ConnId) -> Option<Instant> {
        let conn = self.conns.get(&id)?;
        (conn.stage == Stage::Open && conn.owed > 0).then_some(conn.owed_since)
    }

    /// Notes that a peer sent a block that is not what it was said to be: it is dropped, and at the second time
    /// shunned for long, if we had connected to it.
    pub fn handle_wrong_block(&mut self, now: Instant, id: ConnId) {
        if let Some(peer) = self.conns.get(&id).and_then(|conn| conn.expected) {
            self.shunned.handle_wrong_block(now, peer);
        }
        self.bye(
            id,
            ByeReason::Protocol,
            "the block does not match its address",
        );
    }

    /// Does not connect to this peer for a while.
    pub fn shun(&mut self, now: Instant, peer: NodeId, span: Duration) {
        self.shunned.shun(now, peer, span);
    }

    /// Whether this peer is not to be connected to at present.
    pub fn is_shunned(&self, now: Instant, peer: &NodeId) -> bool {
        self.shunned.is_shunned(now, peer)
    }

    /// Shuns a peer no longer, unless it has sent a wrong block or failed just now. Whether it may be connected to.
    pub fn forgive(&mut self, now: Instant, peer: &NodeId) -> bool {
        self.shunned.forgive(now, peer)
    }

    /// Who is at the other end, once it has greeted.
    pub fn peer(&self, id: ConnId) -> Option<NodeId> {
        self.conns.get(&id).and_then(|conn| conn.peer)
    }

    /// Where the other end is; `None` for a local client.
    pub fn addr(&self, id: ConnId) -> Option<SocketAddr> {
        self.conns.get(&id).and_then(|conn| conn.addr)
    }

    /// Whether both sides have greeted and nobody has said goodbye.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.conns
            .get(&id)
            .is_some_and(|conn| conn.stage == Stage::Open)
    }

    /// Whether a client of this machine is at the other end.
    pub fn is_local(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.addr.is_none())
    }

    fn name(&self, id: ConnId) -> String {
        match self.conns.get(&id).and_then(|conn| conn.addr) {
            Some(addr) => format!("the connection with {addr}"),
            None => "a client's connection".to_string(),
        }
    }

    /// What is to be written next on this connection; fills `slices` and returns how many.
    pub fn egress<'a>(
        &'a self,
        store: &'a dyn Store,
        id: ConnId,
        slices: &mut [IoSlice<'a>],
    ) -> Option<usize> {
        match self.conns.get(&id) {
            Some(conn) if conn.stage != Stage::Connecting => conn.egress.slices(store, slices),
            _ => Some(0),
        }
    }

    /// `sent` bytes of what [`Transfer::egress`] gave were written.
    pub fn consume(&mut self, now: Instant, id: ConnId, sent: usize) {
        self.bytes.1 += sent as u64;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.consume(now, sent);
        if conn.egress.is_empty() && conn.stage == Stage::Closing {
            self.drop_closing(id);
        }
    }

    /// Bytes that wait to be written to a connection.
    pub fn queued_bytes(&self, id: ConnId) -> usize {
        self.conns.get(&id).map_or(0, |conn| conn.egress.bytes())
    }

    /// Addresses of the blocks that wait to be written and are in the store. Linear in what waits.
    pub fn queued(&self) -> BTreeSet<BlockId> {
        let conns = self.conns.values();
        conns.flat_map(|conn| conn.egress.stored()).collect()
    }

    /// Whether the driver should read from this connection; if not, TCP pushes back.
    pub fn wants_read(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.wants_read())
    }

    /// Closes what has been silent for too long. Early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(Timer::Watch(id)) = self.timers.pop_expired(now) {
            let Some(conn) = self.conns.get(&id) else {
                continue;
            };
            let deadline = conn.deadline();
            let Some((_, why)) = deadline.filter(|&(at, _)| at <= now) else {
                // What is wanted of it may change meanwhile.
                let soon = now + PROGRESS_TIMEOUT;
                let again = deadline.map_or(soon, |(at, _)| at.min(soon));
                self.timers.set(Timer::Watch(id), again);
                continue;
            };
            if let (Some(peer), false) =
                (conn.expected, conn.stage == Stage::Open && conn.is_idle())
            {
                self.shunned.shun(now, peer, SHUN_FOR);
            }
            self.close(id, why);
        }
    }

    /// When to call [`Transfer::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next command for the driver.
    pub fn poll_command(&mut self, now: Instant) -> Option<Command> {
        self.dial_next(now);
        self.commands.pop_front()
    }

    /// The next event for the users of connections.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The key this node greets with.
    pub fn key(&self) -> NodeKey {
        self.hello.key
    }
}

/// Where an address is counted: by itself, or as the network that one IPv6 host may draw addresses from.
fn source(ip: &IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => *ip,
        IpAddr::V6(_) => network(ip),
    }
}

#[cfg(test)]
mod tests;
