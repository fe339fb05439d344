//! The node: one state machine that joins the others. Inputs in, outputs out; it decides nothing itself.
//!
//! **The law of use:** after any call that takes `now`, call [`Node::poll_output`] until it returns
//! [`Output::Timeout`], and do what it says; then wait for the next input, or until that time and give
//! [`Input::Timeout`]. Inputs may be batched. The reactor and the simulator are two drivers of this.

mod acks;
mod check;
mod found;
mod frames;
mod gets;
mod pins;
mod status;
mod verify;
mod volatile;

use crate::block::Block;
use crate::dht::{self, Dht, LocateId, Located, LookupId};
use crate::fetch::{self, Fetch};
use crate::histogram::Histogram;
use crate::id::{BlockId, NodeId, NodeKey, Point};
use crate::keep::{self, Announcer, Counts, Keep, Pins, Quota, Renewals, Upkeep};
use crate::limits::*;
use crate::meter::Meter;
use crate::rng::Rng;
use crate::store::{Allotment, Sequence, Shrunk, Store};
use crate::time::Instant;
use crate::transfer::{self, ConnId, Origin, Transfer};
use crate::wire::contact::Contact;
use crate::wire::frame::{Answer, Frame, Hello, PeerRole};
use gets::Gets;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;
use verify::Verifier;
use volatile::Volatile;

/// What a node is told of itself.
pub struct Config {
    /// The key that its id is made from.
    pub key: NodeKey,
    /// Whether it is a `serve`, which wants to store blocks for others; otherwise a private peer.
    pub serve: bool,
    /// The port at which it listens, UDP and TCP.
    pub port: u16,
    /// Where it listens, for the user.
    pub listen: String,
    /// Whether it can send to IPv4 addresses.
    pub ipv4: bool,
    /// Whether it can send to IPv6 addresses.
    pub ipv6: bool,
}

/// Something happened in the world. Borrowed: the node copies what it keeps.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A connection that was asked for is open.
    Connected {
        /// Which.
        conn: ConnId,
    },
    /// Bytes came over a connection.
    Received {
        /// Which.
        conn: ConnId,
        /// Any cut of the stream, in order.
        bytes: &'a [u8],
    },
    /// A connection is over, or could not be opened.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why, for the log.
        reason: &'a str,
    },
    /// The store may have ended a commit. Harmless if it has not.
    Synced,
    /// The time of the last [`Output::Timeout`] has come. Early is harmless.
    Timeout,
}

/// Something must be done. Owned: the driver needs nothing from the node to do it.
#[must_use]
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// Open a connection; answer with [`Input::Connected`] or [`Input::Closed`].
    Connect {
        /// Its name.
        conn: ConnId,
        /// Where to.
        to: SocketAddr,
    },
    /// There is something to write: ask [`Node::egress`].
    Flush {
        /// On which connection.
        conn: ConnId,
    },
    /// Close a connection at once.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// For the driver itself.
    Event(Event),
    /// Nothing more to do; sleep until then.
    Timeout(Option<Instant>),
}

/// What only the driver can do, or wants to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A `serve` waits for this private peer's directory: accept no new clients.
    Yield,
    /// The node has entered or left client-mode.
    ClientMode(bool),
    /// The table has its first contacts.
    Joined,
    /// A lookup by [`Node::find_closest`] has ended.
    Closest {
        /// Which.
        lookup: LookupId,
        /// At most K that have answered, closest first.
        contacts: Vec<Contact>,
    },
    /// Blocks of a [`Node::locate`] have been located.
    Located(Located),
}

/// A node over a store.
pub struct Node<S> {
    config: Config,
    started: Instant,
    store: S,
    dht: Dht,
    transfer: Transfer,
    keep: Keep,
    counts: Counts,
    upkeep: Upkeep,
    announcer: Announcer,
    renewals: Renewals,
    fetch: Fetch,
    /// Frames that must not be sent before the store is durable up to a put, in order.
    acks: VecDeque<(Sequence, ConnId, Frame)>,
    /// The same before the commit that begins next has ended.
    next_acks: Vec<(ConnId, Frame)>,
    /// A commit has been begun, and those who wait for it have not been answered.
    is_committing: bool,
    /// Who has put blocks since the last commit ended.
    putters: BTreeSet<ConnId>,
    /// The last put.
    written: Sequence,
    volatile: Volatile,
    /// When the next commit is begun.
    commit_at: Option<Instant>,
    /// When the store does its next slice of work.
    work_at: Option<Instant>,
    /// From when on blocks are dropped if more is used than allotted.
    shrink_from: Instant,
    /// What has been said of that.
    shrink_said: Option<Shrunk>,
    quota: Quota,
    verifier: Verifier,
    pins: Pins,
    /// When pins have their next slice of work.
    pins_at: Option<Instant>,
    rng: Rng,
    /// A client's block for which there is no room as long as nothing is counted that others have.
    waiting: BTreeMap<ConnId, Block>,
    /// Who waits for blocks that come from the disk.
    gets: Gets,
    /// Blocks refused, by reason.
    refused: BTreeMap<Answer, u64>,
    /// A few, for clients that ask why nobody was reached; one for each IP address and version.
    other_versions: Vec<(SocketAddr, u8)>,
    /// To other peers, datagrams included.
    sent: Meter,
    /// From them.
    received: Meter,
    /// What the driver said of its steps.
    steps: Histogram,
    served_blocks: u64,
    stored_blocks: u64,
    outputs: VecDeque<Output>,
}

impl<S: Store> Node<S> {
    /// A node that knows nobody yet.
    pub fn new(now: Instant, config: Config, store: S, mut rng: Rng) -> Node<S> {
        let role = if config.serve {
            PeerRole::Unreachable
        } else {
            PeerRole::Private
        };
        let hello = Hello {
            key: config.key,
            port: config.port,
            role,
        };
        let dht_config = dht::Config {
            serve: config.serve,
            ipv4: config.ipv4,
            ipv6: config.ipv6,
        };
        let pins = Pins::new(now, &store, config.serve);
        let mut own_rng = Rng::new(rng.bytes());
        let mut node = Node {
            started: now,
            store,
            transfer: Transfer::new(hello),
            keep: Keep::default(),
            counts: Counts::default(),
            upkeep: Upkeep::new(now, config.serve, &mut own_rng),
            announcer: Announcer::new(now, config.serve),
            renewals: Renewals::new(now),
            fetch: Fetch::default(),
            acks: VecDeque::new(),
            next_acks: Vec::new(),
            is_committing: false,
            putters: BTreeSet::new(),
            written: Sequence::default(),
            volatile: Volatile::default(),
            commit_at: None,
            work_at: None,
            shrink_from: now,
            shrink_said: None,
            quota: Quota::default(),
            verifier: Verifier::new(now, config.serve),
            pins,
            pins_at: None,
            rng: own_rng,
            dht: Dht::new(now, config.key, dht_config, rng),
            waiting: BTreeMap::new(),
            gets: Gets::default(),
            refused: BTreeMap::new(),
            other_versions: Vec::new(),
            sent: Meter::new(now),
            received: Meter::new(now),
            steps: Histogram::default(),
            served_blocks: 0,
            stored_blocks: 0,
            outputs: VecDeque::new(),
            config,
        };
        node.pump(now);
        node
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.dht.id()
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store may use this space from now on.
    pub fn set_allotment(&mut self, now: Instant, allotment: Allotment) {
        self.store.set_allotment(allotment);
        (self.shrink_from, self.shrink_said) = (now, None);
        self.pump(now);
    }

    /// The end of the node, and what is left of it: the store.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Contacts worth saving for the next start, the closest first.
    pub fn contacts(&self, now: Instant) -> Vec<Contact> {
        self.dht.contacts(now)
    }

    /// Whether others do not know this node as reachable.
    pub fn is_client_mode(&self) -> bool {
        self.dht.is_client_mode()
    }

    /// An address to bootstrap from.
    pub fn add_seed(&mut self, now: Instant, addr: SocketAddr) {
        self.dht.add_seed(now, addr);
        self.pump(now);
    }

    /// The contacts of an earlier run.
    pub fn load_contacts(&mut self, now: Instant, contacts: Vec<Contact>) {
        self.dht.load_contacts(now, contacts);
        self.pump(now);
    }

    /// Begins in the middle of a life; see [`Dht::settle_among`].
    pub fn settle_among(&mut self, now: Instant, contacts: impl IntoIterator<Item = Contact>) {
        self.dht.settle_among(now, contacts);
        self.pump(now);
    }

    /// Looks for the peers closest to a point; ends with [`Event::Closest`]. What a driver asks for that measures.
    pub fn find_closest(&mut self, now: Instant, target: Point) -> LookupId {
        let lookup = self.dht.find_closest(now, target);
        self.pump(now);
        lookup
    }

    /// Looks for the peers closest to these blocks; ends with an [`Event::Located`] for each, several together. What a
    /// driver asks for that measures.
    pub fn locate(&mut self, now: Instant, blocks: Vec<BlockId>) -> LocateId {
        let locate = self.dht.locate(now, blocks);
        self.pump(now);
        locate
    }

    /// From now on upkeep sees to so many copies of a leaf. What a driver asks for that measures.
    pub fn set_copies(&mut self, copies: u8) {
        self.upkeep.set_copies(copies);
    }

    /// The driver has accepted a connection; this is its name.
    pub fn accept(&mut self, now: Instant, origin: Origin) -> ConnId {
        let conn = self.transfer.accept(now, origin);
        self.pump(now);
        conn
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.store.set_time(now.as_secs());
        match input {
            Input::Datagram { from, payload } => {
                self.received.pass(now, payload.len());
                let (store, volatile) = (&self.store, &self.volatile);
                let has = |id: &BlockId| store.has(id) && !volatile.contains(id);
                self.dht.handle_datagram(now, from, payload, &has);
            }
            Input::Connected { conn } => self.transfer.handle_connected(conn),
            Input::Received { conn, bytes } => {
                if !self.transfer.is_local(conn) {
                    self.received.pass(now, bytes.len());
                }
                self.transfer.handle_received(now, conn, bytes);
            }
            Input::Closed { conn, reason } => self.transfer.handle_closed(now, conn, reason),
            Input::Synced if self.store.is_committing() => self.look_at_commit(),
            Input::Synced => {}
            Input::Timeout => {
                self.dht.handle_timeout(now);
                self.transfer.handle_timeout(now);
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_timeout(&mut tools);
                let (counts, mut tools) = self.counts_tools(now);
                counts.handle_timeout(&mut tools);
                let (upkeep, mut tools) = self.upkeep_tools(now);
                upkeep.handle_timeout(&mut tools);
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.handle_timeout(&mut tools);
                self.announce(now);
                self.renew(now);
                if self.verifier.next_scrub().is_some_and(|at| at <= now) {
                    self.scrub_some(now);
                }
                self.pins.recheck(now, &self.store);
                // At most one step a turn, so that others have theirs.
                self.verify_some();
            }
        }
        self.pump(now);
    }

    /// The next thing to be done. [`Output::Timeout`] is the last.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        self.outputs.shrink_to(QUEUE_KEPT);
        // What the store does between commits waits for the end of one.
        let of_store = [self.commit_at, self.work_at];
        let of_store = of_store.map(|at| at.filter(|_| !self.store.is_committing()));
        let timeouts = [
            self.dht.next_timeout(),
            self.transfer.next_timeout(),
            self.keep.next_timeout(),
            self.counts.next_timeout(),
            self.upkeep.next_timeout(),
            self.announcer.next_timeout(),
            self.renewals.next_timeout(&self.pins),
            self.fetch.next_timeout(),
            of_store[0],
            of_store[1],
            self.pins_at,
            self.gets.next_timeout(),
            Some(self.pins.next_recheck()),
            self.verifier.next_scrub(),
            self.has_verifying().then_some(Instant::EPOCH),
        ];
        Output::Timeout(timeouts.into_iter().flatten().min())
    }

    /// What is to be written next on a connection: fills `slices`, returns how many. Nothing is copied.
    /// `None` if the stream cannot go on since a block is lost: close it.
    pub fn egress<'a>(&'a self, conn: ConnId, slices: &mut [IoSlice<'a>]) -> Option<usize> {
        self.transfer.egress(&self.store, conn, slices)
    }

    /// So many bytes of what [`Node::egress`] gave have been written.
    pub fn consume(&mut self, now: Instant, conn: ConnId, sent: usize) {
        if !self.transfer.is_local(conn) {
            self.sent.pass(now, sent);
        }
        self.transfer.consume(now, conn, sent);
        self.pump(now);
    }

    /// Whether to read from a connection; if not, TCP pushes back.
    pub fn wants_read(&self, conn: ConnId) -> bool {
        let is_held_up = self.keep.is_full(conn) || self.waiting.contains_key(&conn);
        self.transfer.wants_read(conn)
            && !(is_held_up && self.transfer.is_local(conn))
            && !(self.putters.contains(&conn) && self.is_congested())
    }

    /// Makes durable what was put and answers those who wait for it, now; waits for the disk. A failure is final, and
    /// said to them.
    pub fn commit(&mut self, now: Instant) {
        // What it finds is told by the next call, which fails in the same way.
        let _ = self.store.commit();
        self.begin_commit();
        self.pump(now);
    }

    /// The driver took so long from one wait to the next, in which nobody else was heard.
    pub fn handle_step(&mut self, took: Duration) {
        self.steps.add(took);
    }

    /// The last call: makes the next opening of the store fast.
    pub fn close(&mut self) {
        self.store.close();
    }

    fn keep_tools(&mut self, now: Instant) -> (&mut Keep, keep::Tools<'_>) {
        let Node {
            keep,
            dht,
            transfer,
            store,
            ..
        } = self;
        (
            keep,
            keep::Tools {
                now,
                dht,
                transfer,
                store,
            },
        )
    }

    fn counts_tools(&mut self, now: Instant) -> (&mut Counts, keep::Tools<'_>) {
        let Node {
            counts,
            dht,
            transfer,
            store,
            ..
        } = self;
        (
            counts,
            keep::Tools {
                now,
                dht,
                transfer,
                store,
            },
        )
    }

    fn upkeep_tools(&mut self, now: Instant) -> (&mut Upkeep, keep::Tools<'_>) {
        let Node {
            upkeep,
            dht,
            transfer,
            store,
            ..
        } = self;
        (
            upkeep,
            keep::Tools {
                now,
                dht,
                transfer,
                store,
            },
        )
    }

    fn fetch_tools(&mut self, now: Instant) -> (&mut Fetch, fetch::Tools<'_>) {
        let Node {
            fetch,
            dht,
            transfer,
            ..
        } = self;
        (fetch, fetch::Tools { now, dht, transfer })
    }

    /// Carries events from machine to machine until there are none, then gathers what the driver must do.
    /// Each event is the consequence of a message, a deadline or a request, all of which are bounded.
    fn pump(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.transfer.poll_event() {
                self.handle_transfer(now, event);
            } else if let Some(event) = self.dht.poll_event() {
                self.handle_dht(now, event);
            } else if let Some((client, settled)) = self.keep.poll_settled() {
                // With what it has noted in the store.
                self.send_after_commit(now, client, Frame::Settled(settled));
            } else if self.is_committing && !self.store.is_committing() {
                // The store itself has waited for it.
                self.look_at_commit();
            } else if self.is_due(self.work_at, now) {
                self.work_at = None;
                match self.store.has_work() {
                    true => self.store.work(),
                    false => self.shrink(now),
                }
                self.is_committing |= self.store.is_committing();
            } else if self.is_due(self.commit_at, now)
                || self.store.awaits_room() && !self.store.is_committing()
            {
                self.begin_commit();
            } else if let Some(output) = self.pins.poll_output() {
                self.do_for_pins(now, output);
            } else if let Some(arrival) = self.fetch.poll_arrival() {
                self.handle_arrival(now, arrival);
            } else if self.pins_at.is_some_and(|at| at <= now) {
                self.pins_at = None;
                self.pins.work(now, &mut self.store);
            } else if let Some(block) = self.keep.poll_renewed() {
                self.handle_renewed(now, &block);
            } else if self.gets.next_timeout().is_some_and(|at| at <= now) {
                self.answer_gets(now);
            } else if self.keep.take_progress() {
                self.add_waiting(now);
            } else if !self.give_some(now) {
                break;
            }
        }
        let is_overfull = self.store.is_overfull() && self.shrink_from <= now;
        if self.work_at.is_none() && (self.store.has_work() || is_overfull) {
            self.work_at = Some(now + WORK_PAUSE);
        }
        if self.pins_at.is_none() && self.pins.has_work() {
            self.pins_at = Some(now + PIN_PAUSE);
        }
        while let Some((to, payload)) = self.dht.poll_transmit() {
            self.sent.pass(now, payload.len());
            self.outputs.push_back(Output::Transmit { to, payload });
        }
        while let Some(command) = self.transfer.poll_command(now) {
            self.outputs.push_back(match command {
                transfer::Command::Connect { conn, to } => Output::Connect { conn, to },
                transfer::Command::Flush { conn } => Output::Flush { conn },
                transfer::Command::Close { conn } => Output::Close { conn },
            });
        }
    }

    /// Whether it is time for something that the store does only between commits.
    fn is_due(&self, at: Option<Instant>, now: Instant) -> bool {
        at.is_some_and(|at| at <= now) && !self.store.is_committing()
    }

    /// Hands on what upkeep wants to be given to others, and what came of it; false if there is nothing.
    fn give_some(&mut self, now: Instant) -> bool {
        if let Some((block, copies)) = self.keep.poll_given() {
            self.upkeep.handle_given(&block, copies);
            return true;
        }
        if !self.keep.may_give() {
            return false;
        }
        let (upkeep, mut tools) = self.upkeep_tools(now);
        let Some(gift) = upkeep.poll_gift(&mut tools) else {
            return false;
        };
        let (keep, mut tools) = self.keep_tools(now);
        keep.give(&mut tools, gift);
        true
    }

    /// Drops some blocks if more is used than allotted, as after a start with less than before, and says what comes
    /// of it, each once.
    fn shrink(&mut self, now: Instant) {
        if !self.store.is_overfull() || self.shrink_from > now {
            return;
        }
        let usage = self.store.usage();
        let (used, capacity) = (usage.used_bytes, usage.capacity_bytes);
        if self.shrink_said.is_none() {
            self.shrink_said = Some(Shrunk::Some);
            log::warn!(
                "{used} bytes are used, and {capacity} allotted: blocks are dropped until they fit"
            );
        }
        match self.with_claim(None, |store, claim| store.shrink(claim)) {
            Ok(Shrunk::Some) => {}
            Ok(Shrunk::Later) => self.shrink_from = now + SHRINK_RETRY,
            Ok(Shrunk::Nothing) => {
                self.shrink_from = now + SHRINK_RETRY;
                if self.shrink_said != Some(Shrunk::Nothing) {
                    self.shrink_said = Some(Shrunk::Nothing);
                    log::warn!(
                        "{used} bytes are used, and {capacity} allotted: what is left is pinned, or leased, and \
                         stays"
                    );
                }
            }
            Err(error) => {
                self.shrink_from = now + SHRINK_RETRY;
                log::debug!("drop blocks: {error}");
            }
        }
    }

    fn handle_transfer(&mut self, now: Instant, event: transfer::Event) {
        match event {
            transfer::Event::Opened { conn, .. } => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_opened(&mut tools, conn);
            }
            transfer::Event::Closed { conn, .. } => {
                self.acks.retain(|&(_, waiting, _)| waiting != conn);
                self.next_acks.retain(|&(waiting, _)| waiting != conn);
                self.putters.remove(&conn);
                self.waiting.remove(&conn);
                self.gets.handle_closed(conn);
                self.verifier.handle_closed(conn);
                self.pins.handle_closed(conn);
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_closed(&mut tools, conn);
                keep.handle_client_closed(&mut tools, conn);
                let (counts, mut tools) = self.counts_tools(now);
                counts.handle_client_closed(&mut tools, conn);
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.handle_closed(&mut tools, conn);
                fetch.handle_client_closed(&mut tools, conn);
            }
            transfer::Event::OtherVersion { addr, version } => {
                self.handle_other_version(addr, version)
            }
            transfer::Event::Frame { conn, frame } if self.transfer.is_local(conn) => {
                self.handle_client(now, conn, frame);
            }
            transfer::Event::Frame { conn, frame } => self.handle_peer(now, conn, frame),
        }
    }
}

#[cfg(test)]
mod tests;
