//! Finding peers: Kademlia over datagrams, as one machine without I/O, clock or entropy of its own.
//!
//! `node` feeds a [`Dht`] datagrams and the time, and takes from it datagrams to send and [`Event`]s. It holds
//! no blocks and opens no connections: what is held it asks of its caller, who connects is its caller.
//!
//! [`table`] remembers contacts, [`lookup`] explores, [`requests`] knows what is on its way, [`token`] who has
//! proved an address; `serve` answers others, `join` finds the first peers, `reach` decides on client-mode.

mod join;
pub mod lookup;
mod reach;
pub mod requests;
mod serve;
pub mod table;
pub mod token;

#[cfg(test)]
mod tests;

use crate::id::{BlockId, NodeId, NodeKey, Point};
use crate::limits::*;
use crate::rng::Rng;
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::contact::{is_private, is_usable, network, normalise, Age, Contact};
use crate::wire::datagram::{
    Bitmap, Direction, Families, Header, Kind, Reply, Request, Start, Token,
};
use join::Join;
use lookup::{Goal, Lookup, Next};
use reach::Reach;
use requests::{Outstanding, Peers, Purpose};
use serve::DialBacks;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use table::{Answered, Failed, Table, BUCKETS};
use token::Tokens;

/// A lookup of this node. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LookupId(pub u64);

/// A count asked of one contact by this node. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct CountId(pub u64);

/// What a node wants to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// It wants to leave client-mode; a private peer never does.
    pub serve: bool,
    /// It can send to IPv4 addresses.
    pub ipv4: bool,
    /// It can send to IPv6 addresses.
    pub ipv6: bool,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Peers have been found, at first or again after all were lost.
    Joined {
        /// Contacts in the table.
        contacts: usize,
    },
    /// The first join attempt has ended and reached nobody. Attempts go on, lookups no longer wait.
    JoinFailed,
    /// A lookup by [`Dht::find_closest`] has ended.
    Closest {
        /// Which.
        lookup: LookupId,
        /// At most K, closest first; each has answered this lookup. The age is the median of what was said.
        contacts: Vec<Contact>,
        /// Contacts asked.
        asked: usize,
    },
    /// A lookup by [`Dht::find_holders`] found a contact that says it holds the block.
    Holder {
        /// Which lookup.
        lookup: LookupId,
        /// The holder.
        contact: Contact,
    },
    /// A lookup by [`Dht::find_holders`] has ended; without a [`Event::Holder`] before it, the block is absent.
    HoldersDone {
        /// Which.
        lookup: LookupId,
        /// Contacts asked.
        asked: usize,
        /// Contacts that answered.
        answered: usize,
    },
    /// A peer asks to be connected to: do so by TCP, and say the nonce there.
    DialBack {
        /// Where to connect.
        to: SocketAddr,
        /// What to say.
        nonce: u64,
    },
    /// Client-mode was entered (true) or left (false).
    ClientMode(bool),
    /// A peer we asked speaks another version; once for each address.
    OtherVersion {
        /// Where it is.
        addr: SocketAddr,
        /// What it speaks.
        version: u8,
    },
    /// The end of a [`Dht::count_have`].
    Counted {
        /// Which.
        count: CountId,
        /// Who was asked.
        contact: Contact,
        /// What it holds, in the order asked; `None` if it did not answer.
        bitmap: Option<Bitmap>,
    },
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Datagrams that arrived, nonsense included.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Bytes of the datagrams that arrived, without headers of IP and UDP.
    pub bytes_received: u64,
    /// Bytes of the datagrams sent, likewise.
    pub bytes_sent: u64,
    /// Valid requests that arrived.
    pub requests_received: u64,
    /// Requests sent, each attempt counted.
    pub requests_sent: u64,
    /// Datagrams dropped as malformed or unasked for.
    pub dropped: u64,
}

/// When to do what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// When the first join attempt ends.
    Join,
    /// When to ask a bootstrap address.
    Seed(SocketAddr),
    /// When to send a request again or give it up.
    Resend(u64),
    /// When a lookup that has found a holder ends.
    Linger(LookupId),
    /// When to look over the table.
    Upkeep,
    /// When to look for ourselves again, since few are known.
    Thin,
    /// When to refresh the next bucket.
    Refresh,
    /// When to ask a peer for DIAL_BACK, or to count its promise as broken.
    Dialer(SocketAddr),
    /// When to check reachability again.
    Recheck,
}

/// Whom a lookup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    User,
    Join,
    Refresh,
}

struct Running {
    lookup: Lookup,
    owner: Owner,
    /// It is no longer in the queue.
    started: bool,
}

/// The machine. After any call, poll transmits and events until there are none, then the time-out.
pub struct Dht {
    key: NodeKey,
    id: NodeId,
    config: Config,
    rng: Rng,
    tokens: Tokens,
    table: Table,
    peers: Peers,
    /// By transaction.
    outstanding: BTreeMap<u64, Outstanding>,
    /// Invariant: where the outstanding requests of [`Purpose::Probe`] go.
    probing: BTreeSet<SocketAddr>,
    /// Invariant: outstanding requests of lookups that have been sent once.
    fresh: usize,
    /// Addresses passed over until then, since they did not answer; at most UNRESPONSIVE_MAX.
    silent: BTreeMap<SocketAddr, Instant>,
    lookups: BTreeMap<LookupId, Running>,
    /// Lookups that have not started.
    waiting: VecDeque<LookupId>,
    /// Started lookups of [`Owner::User`].
    running: usize,
    /// A lookup has been kept from asking by REQUESTS_MAX.
    held: bool,
    next_id: u64,
    /// When a lookup last went into a bucket's range.
    touched: Vec<Instant>,
    /// Buckets that wait to be refreshed.
    refreshes: VecDeque<usize>,
    join: Join,
    reach: Reach,
    dial_backs: DialBacks,
    /// Which network said that we are where, latest last.
    observed: VecDeque<(IpAddr, SocketAddr)>,
    other_versions: BTreeSet<SocketAddr>,
    timers: Timers<Timer>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
    statistics: Statistics,
}

impl Dht {
    /// A node that knows nobody. Its first join attempt begins now, with the seeds and contacts that it is given
    /// before its time-out is first handled.
    pub fn new(now: Instant, key: NodeKey, config: Config, mut rng: Rng) -> Dht {
        let mut timers = Timers::default();
        timers.set(Timer::Join, now);
        timers.set(Timer::Upkeep, now + rng.jitter(UPKEEP_PERIOD));
        let id = key.id();
        Dht {
            key,
            id,
            config,
            tokens: Tokens::new(rng.bytes()),
            rng,
            table: Table::new(id),
            peers: Peers::default(),
            outstanding: BTreeMap::new(),
            probing: BTreeSet::new(),
            fresh: 0,
            silent: BTreeMap::new(),
            lookups: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: 0,
            held: false,
            next_id: 0,
            touched: vec![now; BUCKETS],
            refreshes: VecDeque::new(),
            join: Join::default(),
            reach: Reach::new(config.serve),
            dial_backs: DialBacks::default(),
            observed: VecDeque::new(),
            other_versions: BTreeSet::new(),
            timers,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            statistics: Statistics::default(),
        }
    }

    /// A datagram arrived. `has` says whether a block is held. Nonsense is dropped and counted.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &[u8],
        has: &dyn Fn(&BlockId) -> bool,
    ) {
        self.statistics.datagrams_received += 1;
        self.statistics.bytes_received += payload.len() as u64;
        let from = normalise(from);
        if let Err(why) = self.receive(now, from, payload, has) {
            self.statistics.dropped += 1;
            log::trace!("datagram of {from} dropped: {why}");
        }
        self.settle(now);
    }

    fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &[u8],
        has: &dyn Fn(&BlockId) -> bool,
    ) -> Result<(), Malformed> {
        if payload.len() > DATAGRAM_SIZE_MAX {
            return Err(Malformed::Value("length"));
        }
        if !is_usable(&from) {
            return Err(Malformed::Value("source address"));
        }
        let mut reader = Reader::new(payload);
        match Header::decode(&mut reader)? {
            Start::Ours(header) if header.direction == Direction::Request => {
                let request = Request::decode(header.kind, reader)?;
                self.statistics.requests_received += 1;
                self.answer(now, from, &header, &request, payload.len(), has);
                Ok(())
            }
            Start::Ours(header) => self.accept(now, from, &header, reader),
            Start::Other {
                version,
                direction,
                transaction,
            } => self.other_version(now, from, version, direction, transaction),
        }
    }

    /// Does what is due. Early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_expired(now) {
            match timer {
                Timer::Join => self.join_deadline(now),
                Timer::Seed(addr) => self.ask_seed(now, addr),
                Timer::Resend(transaction) => self.resend(now, transaction),
                Timer::Linger(id) => self.finish(now, id),
                Timer::Upkeep => self.upkeep(now),
                Timer::Thin => self.look_again(now),
                Timer::Refresh => self.refresh_next(now),
                Timer::Dialer(addr) => self.dialer_due(now, addr),
                Timer::Recheck => self.recheck(now),
            }
        }
        self.settle(now);
    }

    /// When [`Dht::handle_timeout`] is next wanted.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Looks for the K closest live contacts of a point; ends with [`Event::Closest`]. Waits for the first join
    /// attempt, and while LOOKUPS_MAX others run; the caller bounds how many wait.
    pub fn find_closest(&mut self, now: Instant, target: Point) -> LookupId {
        self.look_up(now, Lookup::new(Goal::Closest(target)))
    }

    /// Looks for contacts that hold a block; ends with [`Event::HoldersDone`]. Waits as
    /// [`Dht::find_closest`] does.
    pub fn find_holders(&mut self, now: Instant, block: BlockId) -> LookupId {
        self.find_more_holders(now, block, BTreeSet::new())
    }

    /// The same for other holders than these, who did not give the block: it does not end at them, or they would
    /// hide everybody behind them.
    pub fn find_more_holders(
        &mut self,
        now: Instant,
        block: BlockId,
        useless: BTreeSet<NodeId>,
    ) -> LookupId {
        self.look_up(now, Lookup::new(Goal::Holders(block)).beyond(useless))
    }

    /// Forgets a lookup, which makes no further event; harmless if it has ended.
    pub fn cancel(&mut self, id: LookupId) {
        self.waiting.retain(|&waiting| waiting != id);
        self.timers.stop(Timer::Linger(id));
        if let Some(running) = self.lookups.remove(&id) {
            if running.started && running.owner == Owner::User {
                self.running -= 1;
            }
            self.abandon(id);
        }
    }

    /// The requests of a lookup that has ended hold up no others. Looks at each request on its way.
    fn abandon(&mut self, id: LookupId) {
        for outstanding in self.outstanding.values_mut() {
            if outstanding.purpose == Purpose::Lookup(id) {
                if outstanding.attempts == 1 {
                    self.fresh -= 1;
                }
                outstanding.purpose = Purpose::Abandoned;
            }
        }
    }

    /// Asks one contact which of these blocks it holds; ends with [`Event::Counted`]. Sent at once: the caller
    /// bounds how many are on their way. There are 1 to HAVE_MAX blocks.
    pub fn count_have(&mut self, now: Instant, contact: Contact, blocks: &[BlockId]) -> CountId {
        self.next_id += 1;
        let count = CountId(self.next_id);
        let request = Request::Have(blocks.to_vec());
        let (to, id) = (contact.addr, Some(contact.id));
        self.ask(now, to, id, Purpose::Count(count, contact), request);
        count
    }

    /// Our id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Our key.
    pub fn key(&self) -> NodeKey {
        self.key
    }

    /// Whether we are in client-mode.
    pub fn is_client_mode(&self) -> bool {
        self.reach.client_mode
    }

    /// Whether the first join attempt has ended, well or not.
    pub fn has_joined(&self) -> bool {
        self.join.ended
    }

    /// Whether the last join reached anybody who is not in client-mode.
    pub fn reached_anybody(&self) -> bool {
        !self.table.is_empty()
    }

    /// Contacts in the table.
    pub fn contact_count(&self) -> usize {
        self.table.len()
    }

    /// The contacts of the table with their ages, for saving.
    pub fn contacts(&self, now: Instant) -> Vec<Contact> {
        self.table.contacts(now).collect()
    }

    /// Our addresses as others see them, the one most networks agree on first. At most OBSERVED_MAX.
    pub fn observed_addresses(&self) -> Vec<SocketAddr> {
        let mut votes: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for (_, addr) in &self.observed {
            *votes.entry(*addr).or_default() += 1;
        }
        let mut addresses: Vec<(SocketAddr, usize)> = votes.into_iter().collect();
        addresses.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        addresses.into_iter().map(|(addr, _)| addr).collect()
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    fn families(&self) -> Families {
        Families {
            ipv4: self.config.ipv4,
            ipv6: self.config.ipv6,
        }
    }

    fn header(&self, kind: Kind, transaction: u64, token: Token) -> Header {
        Header {
            kind,
            direction: Direction::Request,
            client_mode: self.reach.client_mode,
            families: Families::default(),
            shortened: false,
            transaction,
            key: self.key,
            token,
        }
    }

    fn transmit(&mut self, to: SocketAddr, payload: Vec<u8>) {
        self.statistics.datagrams_sent += 1;
        self.statistics.bytes_sent += payload.len() as u64;
        self.transmits.push_back((to, payload));
    }

    /// Sends a request for the first time.
    fn ask(
        &mut self,
        now: Instant,
        to: SocketAddr,
        expected: Option<NodeId>,
        purpose: Purpose,
        request: Request,
    ) {
        let families = match purpose {
            Purpose::Lookup(_) => self.families(),
            _ => Families::default(),
        };
        self.ask_as(
            now,
            Outstanding {
                to,
                expected,
                purpose,
                request,
                families,
                attempts: 1,
                sent: now,
                asked_again: false,
            },
        );
    }

    fn ask_as(&mut self, now: Instant, outstanding: Outstanding) {
        let transaction = self.rng.next_u64();
        match outstanding.purpose {
            Purpose::Lookup(_) => self.fresh += 1,
            Purpose::Probe => {
                self.probing.insert(outstanding.to);
            }
            _ => {}
        }
        self.outstanding.insert(transaction, outstanding);
        self.send(now, transaction);
    }

    /// Sends an outstanding request, with the flags and the token of now.
    fn send(&mut self, now: Instant, transaction: u64) {
        let Some(outstanding) = self.outstanding.get(&transaction) else {
            return;
        };
        let to = outstanding.to;
        let token = self.peers.token(now, &to);
        let mut header = self.header(
            outstanding.request.kind(),
            transaction,
            token.unwrap_or_default(),
        );
        header.families = outstanding.families;
        let payload = outstanding.request.encode(header, token.is_none());
        let timeout = self.peers.timeout(&to, outstanding.attempts);
        self.timers.set(Timer::Resend(transaction), now + timeout);
        self.statistics.requests_sent += 1;
        self.transmit(to, payload);
    }

    fn resend(&mut self, now: Instant, transaction: u64) {
        let Some(outstanding) = self.outstanding.get_mut(&transaction) else {
            return;
        };
        if outstanding.purpose == Purpose::Abandoned {
            // One ping finds out whether the peer is dead, however many lookups it has failed to answer.
            let (to, expected) = (outstanding.to, outstanding.expected);
            self.take(transaction);
            return self.probe(now, to, expected);
        }
        if outstanding.attempts >= REQUEST_ATTEMPTS {
            if let Some(outstanding) = self.take(transaction) {
                self.unanswered(now, outstanding);
            }
            return;
        }
        outstanding.attempts += 1;
        let first = outstanding.attempts == 2;
        let (purpose, expected) = (outstanding.purpose, outstanding.expected);
        self.send(now, transaction);
        if let Purpose::Lookup(id) = purpose {
            if first {
                self.fresh -= 1;
            }
            if let (Some(running), Some(peer)) = (self.lookups.get_mut(&id), expected) {
                running.lookup.on_late(&peer);
            }
            self.pump(now, id);
        }
    }

    /// Takes a request off the list, with its timer and its place in the counts.
    fn take(&mut self, transaction: u64) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(&transaction)?;
        self.timers.stop(Timer::Resend(transaction));
        match outstanding.purpose {
            Purpose::Lookup(_) if outstanding.attempts == 1 => self.fresh -= 1,
            Purpose::Probe => {
                self.probing.remove(&outstanding.to);
            }
            _ => {}
        }
        Some(outstanding)
    }

    /// A request has been left unanswered for good.
    fn unanswered(&mut self, now: Instant, outstanding: Outstanding) {
        let addr = outstanding.to;
        self.silent.retain(|_, until| *until > now);
        if self.silent.len() >= UNRESPONSIVE_MAX {
            let first = self.silent.iter().min_by_key(|(_, until)| **until);
            if let Some(addr) = first.map(|(addr, _)| *addr) {
                self.silent.remove(&addr);
            }
        }
        self.silent.insert(addr, now + UNRESPONSIVE_FOR);
        if let Some(id) = outstanding.expected {
            let failed = self.table.failed(now, &id, &addr);
            if failed == Failed::Dropped {
                log::debug!("contact {id:?} at {addr} dropped");
            }
            if failed != Failed::Kept {
                self.promote(now, &id);
            }
        }
        self.fail(now, outstanding);
    }

    /// A request has come to nothing: tells whoever wanted it.
    fn fail(&mut self, now: Instant, outstanding: Outstanding) {
        match outstanding.purpose {
            Purpose::Probe | Purpose::Announce | Purpose::Abandoned => {}
            Purpose::Seed => self.seed_failed(now, outstanding.to),
            Purpose::DialBack => self.dialer_lost(now, outstanding.to),
            Purpose::Lookup(id) => {
                if let (Some(running), Some(peer)) =
                    (self.lookups.get_mut(&id), outstanding.expected)
                {
                    running.lookup.on_failure(&peer);
                }
                self.pump(now, id);
            }
            Purpose::Count(count, contact) => self.events.push_back(Event::Counted {
                count,
                contact,
                bitmap: None,
            }),
        }
    }

    /// A reply arrived. Believed only from where its request went and with its transaction.
    fn accept(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        reader: Reader<'_>,
    ) -> Result<(), Malformed> {
        let asked = self.outstanding.get(&header.transaction);
        if !asked.is_some_and(|o| o.to == from && o.request.kind() == header.kind) {
            return Err(Malformed::Value("reply that nobody asked for"));
        }
        if header.key == self.key {
            return Err(Malformed::Value("key, which is our own"));
        }
        let reply = Reply::decode(header, reader)?;
        let Some(mut outstanding) = self.take(header.transaction) else {
            return Ok(());
        };
        let id = header.key.id();
        let contact = Contact {
            id,
            key: header.key,
            addr: from,
            age: Age(0),
        };
        let round_trip = (outstanding.attempts == 1).then(|| now.since(outstanding.sent));
        self.peers.answered(now, from, header.token, round_trip);
        self.silent.remove(&from);
        self.met(now, contact, header.client_mode);
        if outstanding.expected.is_some_and(|expected| expected != id) {
            // Somebody else lives there now: as good as no answer from who was meant.
            self.fail(now, outstanding);
            return Ok(());
        }
        if header.shortened && !outstanding.asked_again {
            outstanding.asked_again = true;
            outstanding.attempts = 1;
            outstanding.sent = now;
            self.ask_as(now, outstanding);
            return Ok(());
        }
        if let Reply::Ping(addr) = reply {
            let of = network(&from.ip());
            self.observed.retain(|(network, _)| *network != of);
            if self.observed.len() >= OBSERVED_MAX {
                self.observed.pop_front();
            }
            if is_usable(&addr) {
                self.observed.push_back((of, addr));
            }
        }
        match outstanding.purpose {
            Purpose::Probe | Purpose::Announce | Purpose::Abandoned => {}
            Purpose::Seed => self.seed_answered(now, contact, header.client_mode),
            Purpose::DialBack => {
                if let Reply::DialBack(will, others) = reply {
                    self.dialer_answered(now, from, will, &others);
                }
            }
            Purpose::Lookup(lookup) => {
                self.lookup_answered(now, lookup, contact, header.client_mode, reply);
            }
            Purpose::Count(count, contact) => {
                let bitmap = match reply {
                    Reply::Have(bitmap, _) => Some(bitmap),
                    _ => None,
                };
                self.events.push_back(Event::Counted {
                    count,
                    contact,
                    bitmap,
                });
            }
        }
        Ok(())
    }

    /// A round trip with a peer is complete: it enters the table, stays or leaves.
    fn met(&mut self, now: Instant, contact: Contact, client_mode: bool) {
        if client_mode {
            if self.table.has(&contact.id, &contact.addr) {
                self.table.remove(&contact.id);
                self.promote(now, &contact.id);
            }
        } else {
            match self.table.answered(now, contact) {
                Answered::Entered => self.join.due |= !self.join.joined,
                Answered::Moved(old) => self.probe(now, old.addr, Some(old.id)),
                Answered::Known | Answered::Spare | Answered::Refused => {}
            }
        }
        self.consider_dialer(now, contact);
    }

    /// Pings a peer that may enter the table, unless that is under way or too many are.
    fn probe(&mut self, now: Instant, addr: SocketAddr, expected: Option<NodeId>) {
        if self.probing.len() < PROBES_MAX && !self.probing.contains(&addr) {
            self.ask(now, addr, expected, Purpose::Probe, Request::Ping);
        }
    }

    /// Pings a spare of a bucket that has room.
    fn promote(&mut self, now: Instant, id: &NodeId) {
        if self.probing.len() < PROBES_MAX {
            if let Some(spare) = self.table.take_spare(id) {
                self.probe(now, spare.addr, Some(spare.id));
            }
        }
    }

    fn lookup_answered(
        &mut self,
        now: Instant,
        id: LookupId,
        from: Contact,
        client_mode: bool,
        reply: Reply,
    ) {
        let families = self.families();
        let Some(running) = self.lookups.get_mut(&id) else {
            return;
        };
        let (held, contacts) = match reply {
            Reply::FindNode(contacts) => (false, contacts),
            Reply::Have(bitmap, contacts) => (bitmap.holds(0), contacts),
            _ => (false, Vec::new()),
        };
        for contact in contacts {
            let silent = self.silent.get(&contact.addr);
            if contact.id != self.id
                && families.include(&contact.addr)
                && may_name(&from.addr.ip(), &contact.addr.ip())
                && silent.is_none_or(|until| *until <= now)
            {
                running.lookup.add(contact);
            }
        }
        if client_mode {
            // It helps to find others, but is itself none to be found.
            running.lookup.on_failure(&from.id);
        } else {
            running.lookup.on_reply(&from.id);
            if held && running.lookup.on_holder(&from.id) {
                if !self.timers.is_set(Timer::Linger(id)) {
                    self.timers.set(Timer::Linger(id), now + HOLDERS_LINGER);
                }
                self.events.push_back(Event::Holder {
                    lookup: id,
                    contact: from,
                });
            }
        }
        self.pump(now, id);
    }

    fn look_up(&mut self, now: Instant, lookup: Lookup) -> LookupId {
        let id = self.new_lookup(lookup, Owner::User);
        self.waiting.push_back(id);
        self.settle(now);
        id
    }

    fn new_lookup(&mut self, lookup: Lookup, owner: Owner) -> LookupId {
        self.next_id += 1;
        let id = LookupId(self.next_id);
        let running = Running {
            lookup,
            owner,
            started: false,
        };
        self.lookups.insert(id, running);
        id
    }

    /// Starts a lookup from the table.
    fn start(&mut self, now: Instant, id: LookupId) {
        let families = self.families();
        let Some(running) = self.lookups.get_mut(&id) else {
            return;
        };
        running.started = true;
        if running.owner == Owner::User {
            self.running += 1;
        }
        let target = running.lookup.target();
        let usable = |contact: &Contact| families.include(&contact.addr);
        for contact in self.table.closest(now, &target, LOOKUP_START_MAX, usable) {
            running.lookup.add(contact);
        }
        let own = Point::from(self.id);
        if let Some(touched) = self.touched.get_mut(own.common_prefix(&target)) {
            *touched = now;
        }
        self.pump(now, id);
    }

    /// Lets a lookup ask whom it wants, and ends it when it is done.
    fn pump(&mut self, now: Instant, id: LookupId) {
        loop {
            let may_ask = self.fresh < REQUESTS_MAX;
            let Some(running) = self.lookups.get_mut(&id).filter(|r| r.started) else {
                return;
            };
            let contact = match running.lookup.next(may_ask) {
                Next::Ask(contact) => contact,
                Next::Held => {
                    self.held = true;
                    return;
                }
                Next::Wait => {
                    // A dead peer delays nobody's join.
                    if running.owner == Owner::Join && running.lookup.waits_for_late_only() {
                        self.self_lookup_settled(now);
                    }
                    return;
                }
                Next::Done => return self.finish(now, id),
            };
            let request = match running.lookup.goal() {
                Goal::Closest(target) => Request::FindNode(target),
                Goal::Holders(block) => Request::Have(vec![block]),
            };
            let purpose = Purpose::Lookup(id);
            self.ask(now, contact.addr, Some(contact.id), purpose, request);
        }
    }

    /// Ends a lookup.
    fn finish(&mut self, now: Instant, id: LookupId) {
        self.timers.stop(Timer::Linger(id));
        let Some(running) = self.lookups.remove(&id) else {
            return;
        };
        self.abandon(id);
        let lookup = &running.lookup;
        match running.owner {
            Owner::User => {
                self.running -= 1;
                self.events.push_back(match lookup.goal() {
                    Goal::Closest(_) => Event::Closest {
                        lookup: id,
                        contacts: lookup.closest(),
                        asked: lookup.asked(),
                    },
                    Goal::Holders(_) => Event::HoldersDone {
                        lookup: id,
                        asked: lookup.asked(),
                        answered: lookup.answered(),
                    },
                });
            }
            Owner::Join => self.self_lookup_ended(now),
            Owner::Refresh => {
                let pause = self.rng.jitter(REFRESH_PAUSE);
                self.timers.set(Timer::Refresh, now + pause);
            }
        }
    }

    /// Does what the last input has made possible.
    fn settle(&mut self, now: Instant) {
        self.join_step(now);
        if self.held && self.fresh < REQUESTS_MAX {
            self.held = false;
            let ids: Vec<LookupId> = self.lookups.keys().copied().collect();
            for id in ids {
                if self.held {
                    break;
                }
                self.pump(now, id);
            }
        }
        while self.join.ended && self.running < LOOKUPS_MAX {
            let Some(id) = self.waiting.pop_front() else {
                break;
            };
            self.start(now, id);
        }
    }

    /// Looks over the table: pings who has not been heard, and has old buckets refreshed.
    fn upkeep(&mut self, now: Instant) {
        let pause = self.rng.jitter(UPKEEP_PERIOD);
        self.timers.set(Timer::Upkeep, now + pause);
        for contact in self.table.stale(now, now - PING_AFTER, UPKEEP_PINGS_MAX) {
            self.probe(now, contact.addr, Some(contact.id));
        }
        for index in 0..self.table.deepest().map_or(0, |deepest| deepest + 1) {
            if now.since(self.touched[index]) >= REFRESH_AFTER && !self.refreshes.contains(&index) {
                self.refreshes.push_back(index);
            }
        }
        let idle = !self.timers.is_set(Timer::Refresh)
            && self.lookups.values().all(|r| r.owner != Owner::Refresh);
        if idle && !self.refreshes.is_empty() {
            self.timers.set(Timer::Refresh, now);
        }
    }

    /// Looks up a random point of the next bucket that waits for it.
    fn refresh_next(&mut self, now: Instant) {
        let Some(index) = self.refreshes.pop_front() else {
            return;
        };
        let mut target = Point(self.rng.bytes());
        for bit in 0..=index {
            let mask = 0x80 >> (bit % 8);
            let own = self.id.0[bit / 8] & mask;
            let wanted = if bit == index { own ^ mask } else { own };
            target.0[bit / 8] = target.0[bit / 8] & !mask | wanted;
        }
        let id = self.new_lookup(Lookup::new(Goal::Closest(target)), Owner::Refresh);
        self.start(now, id);
    }

    /// A datagram of another version arrived.
    fn other_version(
        &mut self,
        now: Instant,
        from: SocketAddr,
        version: u8,
        direction: Direction,
        transaction: u64,
    ) -> Result<(), Malformed> {
        if direction == Direction::Request {
            let payload = crate::wire::datagram::encode_version(transaction, &self.key);
            self.transmit(from, payload);
            return Ok(());
        }
        let asked = self.outstanding.get(&transaction);
        if asked.is_none_or(|outstanding| outstanding.to != from) {
            return Err(Malformed::Value("version"));
        }
        if self.other_versions.len() < OTHER_VERSIONS_MAX && self.other_versions.insert(from) {
            let addr = from;
            self.events.push_back(Event::OtherVersion { addr, version });
        }
        if let Some(outstanding) = self.take(transaction) {
            self.unanswered(now, outstanding);
        }
        Ok(())
    }
}

/// Whether a peer at `namer` may name one at `named` to us, and we to it: nobody aims another at loopback or
/// private addresses that mean something else to it.
fn may_name(namer: &IpAddr, named: &IpAddr) -> bool {
    if named.is_loopback() {
        namer.is_loopback()
    } else {
        !is_private(named) || is_private(namer)
    }
}
