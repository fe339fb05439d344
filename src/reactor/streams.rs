//! The streams of a peer: accepting and opening them, reading and writing as far as a turn's budget goes.

use super::{Reactor, FIRST_CONN};
use crate::node::Input;
use crate::sys;
use crate::transfer::{ConnId, Origin};
use crate::wire::contact::normalise;
use log::{debug, warn};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Connections accepted in one turn at most, from each listener.
const ACCEPTS_PER_TURN: usize = 16;
/// Bytes written to one connection in one turn.
pub(super) const WRITE_BUDGET: usize = 1 << 20;
/// How long connections are served in one turn, and one of them beyond that: then datagrams are answered before the
/// rest has its turn.
const CONNS_BUDGET: Duration = Duration::from_micros(500);
/// Bytes written to one of those that share a limited rate, at least: a packet.
const SHARE_MIN: usize = 1400;
/// Slices given to one system call: a block takes two.
const SLICES: usize = 16;
/// Pause before connections are accepted again when the system has refused.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A stream of either kind.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection as the loop knows it.
pub(super) struct Conn {
    pub(super) socket: Socket,
    /// Where the other side is; `None` for a client of this machine.
    pub(super) place: Option<IpAddr>,
    /// For a connection that we open: the system has not said that it is there.
    pub(super) connecting: bool,
    /// The system has not said `WouldBlock` since it last said that there is something.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The node has something to write.
    pub(super) flush: bool,
}

impl Conn {
    /// Whether rates are kept for it: not for clients of this machine.
    pub(super) fn is_limited(&self) -> bool {
        self.place.is_some()
    }

    /// Whether it could be written to.
    fn is_waiting(&self) -> bool {
        self.writable && self.flush && !self.connecting
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }

    /// Writes at most so many bytes of these.
    fn write(&mut self, slices: &[IoSlice<'_>], len: usize) -> io::Result<usize> {
        let ends = slices.iter().scan(0, |end, slice| {
            *end += slice.len();
            Some(*end)
        });
        let fitting = ends.take_while(|&end| end <= len).count();
        let cut = slices
            .first()
            .map_or(&[][..], |slice| &slice[..len.min(slice.len())]);
        let writer: &mut dyn Write = match &mut self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        };
        match fitting {
            0 => writer.write(cut),
            _ => writer.write_vectored(&slices[..fitting]),
        }
    }
}

impl Reactor {
    pub(super) fn connect(&mut self, id: ConnId, to: SocketAddr) {
        match TcpStream::connect(to) {
            Ok(socket) => self.insert(id, Socket::Tcp(socket), Some(to.ip()), true),
            Err(error) => self.lost(id, &error.to_string()),
        }
    }

    pub(super) fn insert(
        &mut self,
        id: ConnId,
        mut socket: Socket,
        place: Option<IpAddr>,
        connecting: bool,
    ) {
        let token = Token(FIRST_CONN + id.0 as usize);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry: &Registry = self.poll.registry();
        let registered = match &mut socket {
            Socket::Tcp(socket) => registry.register(socket, token, both),
            Socket::Unix(socket) => registry.register(socket, token, both),
        };
        match registered {
            Ok(()) => {
                let conn = Conn {
                    socket,
                    place,
                    connecting,
                    readable: false,
                    writable: false,
                    flush: !connecting,
                };
                self.conns.insert(id, conn);
            }
            Err(error) => self.lost(id, &error.to_string()),
        }
    }

    /// The system has ended a connection.
    pub(super) fn lost(&mut self, id: ConnId, reason: &str) {
        self.close(id);
        let now = self.clock.now();
        self.node
            .handle_input(now, Input::Closed { conn: id, reason });
    }

    pub(super) fn close(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        if let Socket::Unix(_) = conn.socket {
            if !self.serve {
                self.last_client = Some(conn.socket);
            }
        }
    }

    pub(super) fn accept_remote(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.tcp_readable {
                return;
            }
            match self.sockets.tcp.accept() {
                Ok((socket, from)) => {
                    let _ = socket.set_nodelay(true);
                    let now = self.clock.now();
                    let from = normalise(from);
                    let id = self.node.accept(now, Origin::Remote(from));
                    self.insert(id, Socket::Tcp(socket), Some(from.ip()), false);
                }
                Err(error) => self.tcp_readable = self.keep_accepting(&error),
            }
        }
    }

    pub(super) fn accept_local(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(control) = &self.control else {
                self.control_readable = false;
                return;
            };
            if !self.control_readable {
                return;
            }
            match control.accept() {
                Ok((socket, _)) => {
                    let uid = sys::peer_credentials(socket.as_raw_fd()).map(|(_, uid)| uid);
                    if !uid.is_ok_and(|uid| uid == sys::effective_uid() || uid == 0) {
                        warn!("refused a client of another user");
                        continue;
                    }
                    let now = self.clock.now();
                    let id = self.node.accept(now, Origin::Local);
                    self.insert(id, Socket::Unix(socket), None, false);
                }
                Err(error) => self.control_readable = self.keep_accepting(&error),
            }
        }
    }

    /// Whether a listener may have more connections after this error: not when it has none, nor at once when
    /// descriptors have run out.
    pub(super) fn keep_accepting(&mut self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::WouldBlock => false,
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => true,
            _ => {
                debug!("accept: {error}");
                self.accept_at = Some(self.clock.now() + ACCEPT_PAUSE);
                false
            }
        }
    }

    /// Gives each connection its turn, or as many as there is time for.
    pub(super) fn serve_conns(&mut self) {
        let now = self.clock.now();
        let later = self.conns.range(self.first_writer..).map(|(&id, _)| id);
        let mut ids: Vec<ConnId> = later.collect();
        ids.extend(self.conns.range(..self.first_writer).map(|(&id, _)| id));
        self.first_writer = ids.get(1).copied().unwrap_or(ConnId(0));
        let mut left = self.up.allowance(now);
        let shares = (left < usize::MAX).then(|| self.shares(left, &mut ids));
        for (nth, &id) in ids.iter().enumerate() {
            // Who has got something to write just now waits for the next turn.
            let share = shares
                .as_ref()
                .map_or(left, |it| it.get(&id).copied().unwrap_or(0));
            left = left.saturating_sub(self.serve_conn(id, share.min(left)));
            if self.clock.now().since(now) > CONNS_BUDGET {
                let next = ids.get(nth + 1).or(ids.first());
                self.first_writer = next.copied().unwrap_or(ConnId(0));
                return;
            }
        }
    }

    /// What each connection with something to write may write of what the rate allows, and who comes first: all places
    /// have equal parts, and the connections to one of them divide its part. Another place begins each time, as there may
    /// not be enough for all.
    fn shares(&mut self, allowance: usize, ids: &mut [ConnId]) -> BTreeMap<ConnId, usize> {
        let mut places: BTreeMap<IpAddr, Vec<ConnId>> = BTreeMap::new();
        for &id in ids.iter() {
            let conn = self.conns.get(&id).filter(|conn| conn.is_waiting());
            if let Some(place) = conn.and_then(|conn| conn.place) {
                places.entry(place).or_default().push(id);
            }
        }
        let mut turns = BTreeMap::new();
        let mut shares = BTreeMap::new();
        for (place, conns) in &places {
            let share = (allowance / places.len() / conns.len()).max(SHARE_MIN);
            for (nth, &id) in conns.iter().enumerate() {
                turns.insert(id, (nth, Some(*place) <= self.last_place, *place));
                shares.insert(id, share);
            }
        }
        // Stable: the others keep their order, and come later.
        ids.sort_by_key(|id| (!turns.contains_key(id), turns.get(id).copied()));
        if let Some((_, _, place)) = ids.first().and_then(|id| turns.get(id)) {
            self.last_place = Some(*place);
        }
        shares
    }

    /// Reads what one connection's budget allows, and writes that or, of a limited rate, its share; how many bytes of it.
    fn serve_conn(&mut self, id: ConnId, share: usize) -> usize {
        let Some(conn) = self.conns.get_mut(&id) else {
            return 0;
        };
        if conn.connecting {
            if conn.writable {
                self.finish_connecting(id);
            }
            return 0;
        }
        let is_limited = conn.is_limited();
        let may_read = match is_limited {
            true => self.down.allowance(self.clock.now()).min(self.buffer.len()),
            false => self.buffer.len(),
        };
        if conn.readable && may_read > 0 && self.node.wants_read(id) {
            match conn.read(&mut self.buffer[..may_read]) {
                Ok(0) => {
                    self.lost(id, "closed by the other side");
                    return 0;
                }
                Ok(len) => {
                    let now = self.clock.now();
                    if is_limited {
                        self.down.pass(len);
                    }
                    let bytes = &self.buffer[..len];
                    self.node
                        .handle_input(now, Input::Received { conn: id, bytes });
                    self.drain_outputs();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => conn.readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => {
                        self.lost(id, &error.to_string());
                        return 0;
                    }
                },
            }
        }
        match is_limited {
            true => self.write(id, share.min(WRITE_BUDGET)),
            false => {
                self.write(id, WRITE_BUDGET);
                0
            }
        }
    }

    pub(super) fn finish_connecting(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Socket::Tcp(socket) = &conn.socket else {
            return;
        };
        let error = socket.take_error().ok().flatten();
        match (error, socket.peer_addr()) {
            (None, Ok(_)) => {
                let _ = socket.set_nodelay(true);
                conn.connecting = false;
                let now = self.clock.now();
                self.node.handle_input(now, Input::Connected { conn: id });
            }
            (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                conn.writable = false
            }
            (Some(error), _) | (None, Err(error)) => self.lost(id, &error.to_string()),
        }
    }

    /// Writes so many bytes to a connection at most; how many it has.
    pub(super) fn write(&mut self, id: ConnId, budget: usize) -> usize {
        let mut written = 0;
        while written < budget {
            let Some(conn) = self.conns.get_mut(&id) else {
                return written;
            };
            if !conn.writable || !conn.flush {
                return written;
            }
            let is_limited = conn.is_limited();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = match self.node.egress(id, &mut slices) {
                Some(0) => {
                    conn.flush = false;
                    return written;
                }
                Some(used) => used,
                None => {
                    self.lost(id, "a block that was being sent is lost");
                    return written;
                }
            };
            match conn.write(&slices[..used], budget - written) {
                Ok(sent) => {
                    written += sent;
                    if is_limited {
                        self.up.pass(sent);
                    }
                    let now = self.clock.now();
                    self.node.consume(now, id, sent);
                    self.drain_outputs();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => conn.writable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => {
                        self.lost(id, &error.to_string());
                        return written;
                    }
                },
            }
        }
        written
    }
}
