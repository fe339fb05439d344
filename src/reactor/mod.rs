//! The reactor: one mio event loop over the UDP socket, the TCP listener, the control socket, their
//! connections, signals and resolvers, driving one [`Node`]. All I/O of a peer but the pack's is here.
//!
//! mio is edge-triggered: what is readable or writable is remembered until the system says `WouldBlock`, and
//! revisited with a zero time-out. Every turn has budgets, so that nobody waits for another's bulk.

mod clock;
pub mod control;
pub mod files;
mod notify;
mod rate;
pub mod resolve;
mod sockets;
mod streams;

use crate::limits::*;
use crate::node::{Config, Event, Input, Node, Output};
use crate::rng::Rng;
use crate::store::pack::{DirLock, PackStore};
use crate::store::Allotment;
use crate::sys::datagrams::{self, Inbox};
use crate::sys::{self, plain};
use crate::transfer::ConnId;
use crate::wire::contact::normalise;
use clock::Clock;
use log::{debug, info, trace, warn};
use mio::net::UnixListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use notify::Notify;
use rate::Rate;
use resolve::{Name, Resolving};
use sockets::Sockets;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;
use streams::{Conn, Socket, WRITE_BUDGET};

const UDP: Token = Token(0);
const TCP: Token = Token(1);
const CONTROL: Token = Token(2);
const SIGNAL: Token = Token(3);
const SYNC: Token = Token(4);
const FIRST_RESOLVER: usize = 5;
/// Names being resolved at once at most; they are also the names a user can give.
const RESOLVERS_MAX: usize = SEEDS_MAX;
const FIRST_CONN: usize = FIRST_RESOLVER + RESOLVERS_MAX;

/// How often datagrams are received in one turn at most, each time up to [`datagrams::MANY`].
const RECEIVES_PER_TURN: usize = 4;
/// Bytes read at once, and from one connection in one turn: a block, hashed in a fraction of a millisecond.
const READ_SIZE: usize = 256 << 10;
/// First and longest pause before the contacts are saved again; it doubles. Soon after the start, so that a peer
/// whose power fails finds its network again.
const SAVE_FIRST: Duration = Duration::from_secs(5);
const SAVE_PERIOD: Duration = Duration::from_secs(600);

/// Bytes a second that may go to other peers and come from them; `None` for as many as can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// To them.
    pub up: Option<u64>,
    /// From them.
    pub down: Option<u64>,
}

/// What may change while a peer runs.
pub struct Changes {
    /// HOST:PORT to bootstrap from.
    pub peers: Vec<String>,
    /// The space of the store.
    pub allotment: Allotment,
    /// How fast bytes may pass.
    pub rates: Rates,
}

/// Finds out on SIGHUP what has changed; why not, in words.
pub type Reload = Box<dyn FnMut() -> Result<Changes, String>>;

/// What a peer is started with.
pub struct Options {
    /// The data directory; its lock is `lock`.
    pub dir: PathBuf,
    /// Proof that the directory is ours.
    pub lock: DirLock,
    /// A `serve`, or a private peer.
    pub serve: bool,
    /// Where to listen; all addresses at `default_port` if not said.
    pub listen: Option<SocketAddr>,
    /// The port where `listen` is not said.
    pub default_port: u16,
    /// What may change later.
    pub changes: Changes,
    /// What to do on SIGHUP.
    pub reload: Option<Reload>,
    /// Where signals come, from [`sys::signal_pipe`].
    pub signals: OwnedFd,
}

/// Why a peer could not be started or go on.
pub enum Failure {
    /// The port is taken.
    PortInUse(SocketAddr),
    /// The disk of the directory has no room even for an empty store; in words.
    DiskFull(String),
    /// Anything else, in words.
    Other(String),
}

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Other(format!("{what}: {}", plain(&error)))
}

/// A running peer.
pub struct Reactor {
    poll: Poll,
    clock: Clock,
    node: Node<PackStore>,
    dir: PathBuf,
    serve: bool,
    sockets: Sockets,
    control: Option<UnixListener>,
    signals: File,
    reload: Option<Reload>,
    up: Rate,
    down: Rate,
    /// Whose turn comes first, as there may not be time for all.
    first_writer: ConnId,
    /// Where what was sent first went last time, as the rate may not do for all.
    last_place: Option<IpAddr>,
    /// When to accept again, after descriptors had run out: the system says nothing when there are some again.
    accept_at: Option<crate::time::Instant>,
    conns: BTreeMap<ConnId, Conn>,
    resolving: BTreeMap<usize, Resolving>,
    names: Vec<Name>,
    /// Where the store tells of the ends of commits, as far as it is watched.
    sync_socket: Option<(u64, RawFd)>,
    inbox: Inbox,
    /// Datagrams that are to be sent; fewer than [`datagrams::MANY`], with the addresses as the socket wants them.
    outgoing: Vec<(SocketAddr, Vec<u8>)>,
    udp_readable: bool,
    tcp_readable: bool,
    control_readable: bool,
    buffer: Vec<u8>,
    /// A private peer ends when its last client has gone; the first must come by then.
    idle_deadline: Option<crate::time::Instant>,
    /// The connection of a private peer's last client, kept until the process ends: that is how the client
    /// learns that the directory is released.
    last_client: Option<Socket>,
    save_at: crate::time::Instant,
    save_pause: Duration,
    /// Of a `serve` alone.
    notify: Option<Notify>,
    /// The clients' socket has been taken away: no new ones.
    yielded: bool,
}

impl Reactor {
    /// Opens the store, binds the sockets, answers from then on.
    pub fn start(options: Options) -> Result<Reactor, Failure> {
        let Options {
            dir,
            lock,
            serve,
            listen,
            default_port,
            changes,
            reload,
            signals,
        } = options;
        let Changes {
            peers,
            allotment,
            rates,
        } = changes;
        let clock = Clock::start();
        let now = clock.now();
        let entropy = || sys::entropy().map_err(failed("read /dev/urandom"));
        let mut sockets = match listen {
            Some(addr) => Sockets::bind(addr),
            None => Sockets::bind_any(default_port),
        }
        .map_err(|error| {
            let addr = listen.unwrap_or(SocketAddr::from(([0; 16], default_port)));
            match error.kind() {
                io::ErrorKind::AddrInUse => Failure::PortInUse(addr),
                _ => Failure::Other(format!("listen at {addr}: {}", plain(&error))),
            }
        })?;
        let mut store = PackStore::open(lock, allotment, entropy()?).map_err(|error| {
            let what = error.to_string();
            if error.is_full() {
                Failure::DiskFull(what)
            } else {
                Failure::Other(what)
            }
        })?;
        if let Err(error) = store.sync_beside() {
            warn!("{error}; commits hold the loop up");
        }
        let key = if serve {
            let file = dir.join("key");
            files::key(&dir, entropy()?).map_err(failed(file.display()))?
        } else {
            crate::id::NodeKey(entropy()?)
        };
        let (ipv4, ipv6) = sockets.families();
        let (port, listen) = (sockets.addr.port(), sockets.addr.to_string());
        let config = Config {
            key,
            serve,
            port,
            listen,
            ipv4,
            ipv6,
        };
        let mut node = Node::new(now, config, store, Rng::new(entropy()?));
        node.load_contacts(now, files::load_contacts(&dir));

        let poll = Poll::new().map_err(failed("set up polling"))?;
        let registry = poll.registry();
        let register = |result: io::Result<()>| result.map_err(failed("set up polling"));
        register(registry.register(&mut sockets.udp, UDP, Interest::READABLE))?;
        register(registry.register(&mut sockets.tcp, TCP, Interest::READABLE))?;
        let signal_fd = signals.as_raw_fd();
        register(registry.register(&mut SourceFd(&signal_fd), SIGNAL, Interest::READABLE))?;
        let socket = dir.join(control::NAME);
        let mut listener = control::bind(&dir).map_err(failed(socket.display()))?;
        register(registry.register(&mut listener, CONTROL, Interest::READABLE))?;

        // Opening a large pack may have taken a while.
        let now = clock.now();
        let mut reactor = Reactor {
            poll,
            node,
            dir,
            serve,
            sockets,
            control: Some(listener),
            signals: signals.into(),
            reload,
            up: Rate::new(now, rates.up),
            down: Rate::new(now, rates.down),
            first_writer: ConnId(0),
            last_place: None,
            accept_at: None,
            conns: BTreeMap::new(),
            resolving: BTreeMap::new(),
            names: Vec::new(),
            sync_socket: None,
            inbox: Inbox::default(),
            outgoing: Vec::new(),
            udp_readable: true,
            tcp_readable: true,
            control_readable: true,
            buffer: vec![0; READ_SIZE],
            idle_deadline: (!serve).then(|| now + PRIVATE_IDLE),
            last_client: None,
            save_at: now + SAVE_FIRST,
            save_pause: SAVE_FIRST,
            notify: serve.then(|| Notify::from_environment(now)),
            yielded: false,
            clock,
        };
        reactor.add_peers(peers);
        Ok(reactor)
    }

    /// Bootstraps from these as well: names are resolved, no more than there are resolvers for.
    fn add_peers(&mut self, peers: Vec<String>) {
        let now = self.clock.now();
        for host in peers.into_iter().take(SEEDS_MAX) {
            let names = self.names.len() + self.resolving.len();
            match host.parse() {
                Ok(addr) => self.node.add_seed(now, normalise(addr)),
                Err(_) if names < RESOLVERS_MAX => self.names.push(Name::new(now, host)),
                Err(_) => {}
            }
        }
    }

    /// Reads the signals that have come; whether one of them ends the peer.
    fn handle_signals(&mut self) -> bool {
        let mut signals = [0; 64];
        let count = (&self.signals).read(&mut signals).unwrap_or(0);
        let hangup = libc::SIGHUP as u8;
        if signals[..count].contains(&hangup) {
            self.reload();
        }
        let is_end = signals[..count].iter().any(|&signal| signal != hangup);
        if is_end {
            info!("stopping on a signal");
        }
        is_end
    }

    /// Heeds what has changed.
    fn reload(&mut self) {
        let Some(reload) = &mut self.reload else {
            return;
        };
        match reload() {
            Ok(changes) => {
                let now = self.clock.now();
                self.up.set_limit(now, changes.rates.up);
                self.down.set_limit(now, changes.rates.down);
                self.node.set_allotment(now, changes.allotment);
                self.add_peers(changes.peers);
                info!("the settings were read again");
            }
            Err(why) => warn!("{why}; the settings stay as they are"),
        }
    }

    /// Where the peer listens.
    pub fn addr(&self) -> SocketAddr {
        self.sockets.addr
    }

    /// The node's id.
    pub fn id(&self) -> crate::id::NodeId {
        self.node.id()
    }

    /// Runs until SIGTERM or SIGINT, or until a private peer's last client has gone. What was put is then
    /// durable, the contacts are saved, and the control socket is gone.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(256);
        let mut stop = false;
        self.notify("READY=1");
        let mut woken = self.clock.now();
        while !stop {
            let deadline = self.drain_outputs();
            self.watch_syncs();
            let now = self.clock.now();
            self.node.handle_step(now.since(woken));
            let timeout = match deadline {
                _ if self.has_work() => Duration::ZERO,
                Some(at) => at.since(now),
                None => SAVE_PERIOD,
            };
            let polled = self.poll.poll(&mut events, Some(timeout));
            woken = self.clock.now();
            match polled {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("wait for events")(error)),
                Ok(()) => {}
            }
            for event in &events {
                match event.token() {
                    UDP => self.udp_readable = true,
                    TCP => self.tcp_readable = true,
                    CONTROL => self.control_readable = true,
                    SIGNAL => stop |= self.handle_signals(),
                    SYNC => {
                        let now = self.clock.now();
                        self.node.handle_input(now, Input::Synced);
                    }
                    Token(token) if token < FIRST_CONN => self.handle_resolver(token),
                    Token(token) => {
                        if let Some(conn) = self.conns.get_mut(&ConnId((token - FIRST_CONN) as u64))
                        {
                            conn.readable |= event.is_readable() || event.is_error();
                            conn.writable |= event.is_writable() || event.is_error();
                        }
                    }
                }
            }
            self.turn();
            stop |= self.has_ended();
        }
        self.notify("STOPPING=1");
        self.stop();
        Ok(())
    }

    /// Has the end of a commit wake the loop. The socket is another one whenever the store had to get a new one.
    fn watch_syncs(&mut self) {
        let socket = self.node.store().sync_socket();
        if socket == self.sync_socket {
            return;
        }
        self.sync_socket = socket;
        // The last one has been closed, and is not watched any more.
        if let Some((_, fd)) = socket {
            let registry = self.poll.registry();
            if let Err(error) = registry.register(&mut SourceFd(&fd), SYNC, Interest::READABLE) {
                warn!("watch the end of commits: {}", plain(&error));
            }
        }
    }

    fn notify(&self, state: &str) {
        if let Some(notify) = &self.notify {
            notify.say(state);
        }
    }

    /// One turn: each source of work gets its budget.
    fn turn(&mut self) {
        let now = self.clock.now();
        if self.accept_at.is_some_and(|at| now >= at) {
            self.accept_at = None;
            self.tcp_readable = true;
            self.control_readable = true;
        }
        self.receive_datagrams();
        self.accept_remote();
        self.accept_local();
        self.serve_conns();
        let now = self.clock.now();
        self.node.handle_input(now, Input::Timeout);
        if now >= self.save_at {
            self.save_contacts();
            self.save_pause = (self.save_pause * 2).min(SAVE_PERIOD);
            self.save_at = now + self.save_pause;
        }
        self.start_resolvers(now);
        if let Some(notify) = &mut self.notify {
            notify.handle_timeout(now);
        }
    }

    /// Whether a turn can do something without an event.
    fn has_work(&mut self) -> bool {
        let now = self.clock.now();
        let (may_write, may_read) = (self.up.allowance(now) > 0, self.down.allowance(now) > 0);
        self.udp_readable
            || self.tcp_readable
            || self.control_readable
            || self.conns.iter().any(|(&id, conn)| {
                let is_free = !conn.is_limited();
                match conn.connecting {
                    // Its turn did not come before the time was over.
                    true => conn.writable,
                    false => {
                        conn.readable && self.node.wants_read(id) && (is_free || may_read)
                            || conn.writable && conn.flush && (is_free || may_write)
                    }
                }
            })
    }

    /// When a limited rate lets something pass that waits for it.
    fn next_step(&self) -> Option<crate::time::Instant> {
        let limited = || self.conns.iter().filter(|(_, conn)| conn.is_limited());
        let writes = limited().any(|(_, conn)| conn.writable && conn.flush);
        let reads = limited().any(|(&id, conn)| conn.readable && self.node.wants_read(id));
        let up = self.up.next_step().filter(|_| writes);
        let down = self.down.next_step().filter(|_| reads);
        up.into_iter().chain(down).min()
    }

    /// Does what the node says; when it wants to be woken.
    fn drain_outputs(&mut self) -> Option<crate::time::Instant> {
        loop {
            match self.node.poll_output() {
                Output::Transmit { to, payload } => {
                    // They are few, and never wait: the others leave them the room.
                    self.up.pass(payload.len());
                    self.outgoing.push((self.sockets.target(to), payload));
                    if self.outgoing.len() == datagrams::MANY {
                        self.send_datagrams();
                    }
                }
                Output::Connect { conn, to } => self.connect(conn, to),
                Output::Flush { conn } => {
                    if let Some(conn) = self.conns.get_mut(&conn) {
                        conn.flush = true;
                    }
                }
                Output::Close { conn } => self.close(conn),
                Output::Event(Event::Yield) => {
                    info!("a serve waits for this directory: taking no new clients");
                    self.yielded = true;
                    self.control = None;
                    control::unbind(&self.dir);
                }
                Output::Event(event) => debug!("{event:?}"),
                Output::Timeout(deadline) => {
                    self.send_datagrams();
                    let own = [
                        Some(self.save_at),
                        self.idle_deadline,
                        self.accept_at,
                        self.notify.as_ref().and_then(Notify::next_timeout),
                        self.next_step(),
                        deadline,
                    ];
                    let names = self.names.iter().map(|name| name.at).min();
                    return own.into_iter().chain([names]).flatten().min();
                }
            }
        }
    }

    /// Whether a private peer has nobody left to work for.
    fn has_ended(&mut self) -> bool {
        if self.serve {
            return false;
        }
        let clients = self
            .conns
            .values()
            .any(|conn| matches!(conn.socket, Socket::Unix(_)));
        if clients {
            self.idle_deadline = None;
            // It was not the last one.
            self.last_client = None;
            return false;
        }
        match self.idle_deadline {
            Some(deadline) => self.yielded || self.clock.now() >= deadline,
            None => true,
        }
    }

    fn send_datagrams(&mut self) {
        let mut rest = &self.outgoing[..];
        while !rest.is_empty() {
            let sent = datagrams::send(&self.sockets.udp, rest).unwrap_or_else(|error| {
                // Lost, as any datagram may be: it is sent again when nobody answers.
                trace!("datagram to {}: {error}", rest[0].0);
                1
            });
            rest = &rest[sent.max(1)..];
        }
        self.outgoing.clear();
    }

    fn receive_datagrams(&mut self) {
        for _ in 0..RECEIVES_PER_TURN {
            if !self.udp_readable {
                return;
            }
            if let Err(error) = self.inbox.receive(&self.sockets.udp) {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.udp_readable = false,
                    // An earlier datagram was answered by ICMP; the next read may succeed.
                    _ => trace!("receive: {error}"),
                }
                continue;
            }
            let now = self.clock.now();
            for (from, payload) in self.inbox.iter() {
                self.down.pass(payload.len());
                let from = normalise(from);
                self.node
                    .handle_input(now, Input::Datagram { from, payload });
            }
            // Replies go out at once, or a burst of requests would wait for its last.
            self.drain_outputs();
        }
    }

    fn start_resolvers(&mut self, now: crate::time::Instant) {
        while let Some(index) = self.names.iter().position(|name| name.at <= now) {
            let name = self.names.swap_remove(index);
            let free = |token: &usize| !self.resolving.contains_key(token);
            let token = (FIRST_RESOLVER..FIRST_CONN).find(free);
            let token = token.expect("no more names than resolvers");
            let started = Resolving::start(name).and_then(|mut resolving| {
                let (registry, readable) = (self.poll.registry(), Interest::READABLE);
                match registry.register(&mut resolving.pipe, Token(token), readable) {
                    Ok(()) => Ok(resolving),
                    Err(error) => Err((resolving.into_name(), error)),
                }
            });
            match started {
                Ok(resolving) => {
                    self.resolving.insert(token, resolving);
                }
                Err((name, error)) => {
                    warn!("resolve {}: {}", name.host, plain(&error));
                    self.names.push(name.again(now));
                }
            }
        }
    }

    fn handle_resolver(&mut self, token: usize) {
        let Some(resolving) = self.resolving.get_mut(&token) else {
            return;
        };
        let Some(addrs) = resolving.poll() else {
            return;
        };
        let Some(name) = self.resolving.remove(&token).map(Resolving::into_name) else {
            return;
        };
        let now = self.clock.now();
        if addrs.is_empty() {
            warn!("cannot resolve {}; trying again", name.host);
            self.names.push(name.again(now));
            return;
        }
        for addr in addrs {
            debug!("{} is {addr}", name.host);
            self.node.add_seed(now, normalise(addr));
        }
    }

    fn save_contacts(&self) {
        let contacts = self.node.contacts(self.clock.now());
        // A table that is empty now is worse than the one saved earlier.
        if !contacts.is_empty() {
            if let Err(error) = files::save_contacts(&self.dir, &contacts) {
                warn!("{}: {}", self.dir.join("contacts").display(), plain(&error));
            }
        }
    }

    fn stop(&mut self) {
        let now = self.clock.now();
        self.node.commit(now);
        self.drain_outputs();
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            self.write(id, WRITE_BUDGET);
        }
        self.save_contacts();
        self.node.close();
        control::unbind(&self.dir);
    }
}
