//! The streams of a peer: accepting and opening them, reading and writing as far as a turn's budget goes.

use super::{Reactor, FIRST_CONN};
use crate::node::Input;
use crate::sys;
use crate::transfer::{ConnId, Origin};
use crate::wire::contact::normalise;
use log::{debug, warn};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
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
        matches!(self.socket, Socket::Tcp(_))
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
            Ok(socket) => self.insert(id, Socket::Tcp(socket), true),
            Err(error) => self.lost(id, &error.to_string()),
        }
    }

    pub(super) fn insert(&mut self, id: ConnId, mut socket: Socket, connecting: bool) {
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
                    let id = self.node.accept(now, Origin::Remote(normalise(from)));
                    self.insert(id, Socket::Tcp(socket), false);
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
                    self.insert(id, Socket::Unix(socket), false);
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

    /// Gives each connection its turn, or as many as there is time for. Those that share a limited rate have equal parts
    /// of what it leaves, and another one comes first each time.
    pub(super) fn serve_conns(&mut self) {
        let now = self.clock.now();
        let allowance = self.up.allowance(now);
        let writes = |conn: &&Conn| conn.is_limited() && conn.writable && conn.flush;
        let writers = self.conns.values().filter(writes).count();
        let share = (allowance / writers.max(1)).max(SHARE_MIN);
        let later = self.conns.range(self.first_writer..).map(|(&id, _)| id);
        let mut ids: Vec<ConnId> = later.collect();
        ids.extend(self.conns.range(..self.first_writer).map(|(&id, _)| id));
        self.first_writer = ids.get(1).copied().unwrap_or(ConnId(0));
        for (nth, &id) in ids.iter().enumerate() {
            self.serve_conn(id, share);
            if self.clock.now().since(now) > CONNS_BUDGET {
                let next = ids.get(nth + 1).or(ids.first());
                self.first_writer = next.copied().unwrap_or(ConnId(0));
                return;
            }
        }
    }

    /// Reads and writes what one connection's budget allows.
    fn serve_conn(&mut self, id: ConnId, share: usize) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.connecting {
            if conn.writable {
                self.finish_connecting(id);
            }
            return;
        }
        let is_limited = conn.is_limited();
        let may_read = match is_limited {
            true => self.down.allowance(self.clock.now()).min(self.buffer.len()),
            false => self.buffer.len(),
        };
        if conn.readable && may_read > 0 && self.node.wants_read(id) {
            match conn.read(&mut self.buffer[..may_read]) {
                Ok(0) => return self.lost(id, "closed by the other side"),
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
                    _ => return self.lost(id, &error.to_string()),
                },
            }
        }
        self.write(id, share);
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

    /// Writes to a connection what its budget allows, and its share where a rate is limited.
    pub(super) fn write(&mut self, id: ConnId, share: usize) {
        let mut budget = WRITE_BUDGET;
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            let is_limited = conn.is_limited();
            let allowance = match is_limited {
                true => self.up.allowance(self.clock.now()).min(share),
                false => usize::MAX,
            };
            let may_write = budget.min(allowance);
            if may_write == 0 {
                return;
            }
            if !conn.writable || !conn.flush {
                return;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = match self.node.egress(id, &mut slices) {
                Some(0) => {
                    conn.flush = false;
                    return;
                }
                Some(used) => used,
                None => return self.lost(id, "a block that was being sent is lost"),
            };
            match conn.write(&slices[..used], may_write) {
                Ok(sent) => {
                    budget = budget.saturating_sub(sent);
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
                    _ => return self.lost(id, &error.to_string()),
                },
            }
        }
    }
}
