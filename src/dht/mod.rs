//! Finding peers: Kademlia over datagrams, as one machine without I/O, clock or entropy of its own.
//!
//! `node` feeds a [`Dht`] datagrams and the time, and takes from it datagrams to send and [`Event`]s. It holds
//! no blocks and opens no connections: what is held it asks of its caller, who connects is its caller.
//!
//! [`table`] remembers contacts, [`lookup`] says whom to ask next, [`region`] the same where many are sought at once,
//! [`requests`] knows what is on its way, [`token`] who has proved an address. `exchange` sends requests and takes
//! replies, `explore` runs lookups, `locate` enumerates regions, `serve` answers others, `providers` remembers
//! who has whole files, `join` finds the first peers, `reach` decides on client-mode.

mod check;
mod exchange;
mod explore;
mod join;
mod locate;
pub mod lookup;
mod providers;
mod reach;
pub mod region;
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
use crate::wire::contact::{is_private, is_usable, normalise, Contact};
use crate::wire::datagram::{Direction, Families, Header, Reply, Request, Start};
use explore::{Owner, Running};
use join::Join;
use locate::{Enumeration, Locate};
pub use locate::{LocateId, Located, RegionId};
use providers::Providers;
use reach::Reach;
use requests::{Outstanding, Peers, Purpose};
pub use serve::Asker;
use serve::{DialBacks, Digests};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use table::Table;
use token::Tokens;

/// A lookup of this node. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LookupId(pub u64);

/// A question that this node asks one contact. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct QueryId(pub u64);

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
    /// A contact that a lookup asked for a block names one that says it has the whole file whose root that is. Several
    /// may name the same.
    Provider {
        /// Which lookup.
        lookup: LookupId,
        /// Who says so.
        contact: Contact,
    },
    /// A lookup by [`Dht::find_holders`] has ended; without a [`Event::Holder`] before it, the block is absent. Or one by
    /// [`Dht::find_providers`].
    HoldersDone {
        /// Which.
        lookup: LookupId,
        /// Contacts asked.
        asked: usize,
        /// Contacts that answered.
        answered: usize,
        /// Who they are, and who answered in client-mode.
        heard: BTreeSet<NodeId>,
    },
    /// Blocks of a call of [`Dht::locate`] have been located.
    Located(Located),
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
    /// The end of a [`Dht::query`].
    Answered {
        /// Which.
        query: QueryId,
        /// Who was asked.
        contact: NodeId,
        /// Of the kind that was asked for; `None` if it did not answer.
        reply: Option<Reply>,
    },
    /// A peer asks what the blocks held in a cell come to: tell it by [`Dht::reply`].
    Asked {
        /// Whom to reply to.
        asker: Asker,
        /// A DIGEST or a LIST.
        request: Request,
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
    /// When to look for ourselves again.
    Near,
    /// When to refresh the next bucket.
    Refresh,
    /// When to ask a peer for DIAL_BACK, or to count its promise as broken.
    Dialer(SocketAddr),
    /// When to check reachability again.
    Recheck,
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
    /// By transaction. Boxed, as an empty map keeps room for eleven.
    outstanding: BTreeMap<u64, Box<Outstanding>>,
    /// Invariant: outstanding requests of lookups and enumerations that have been sent once.
    fresh: usize,
    /// Addresses passed over until then, since they did not answer; at most UNRESPONSIVE_MAX.
    silent: BTreeMap<SocketAddr, Instant>,
    lookups: BTreeMap<LookupId, Box<Running>>,
    /// Lookups that have not started.
    waiting: VecDeque<LookupId>,
    /// Started lookups of [`Owner::User`].
    running: usize,
    /// Calls to locate blocks, and regions that are enumerated for them; of these at most REGIONS_MAX.
    locates: BTreeMap<LocateId, Locate>,
    regions: BTreeMap<RegionId, Enumeration>,
    /// A lookup, or an enumeration, has been kept from asking by REQUESTS_MAX.
    held: bool,
    next_id: u64,
    /// Buckets that wait to be refreshed.
    refreshes: VecDeque<usize>,
    join: Join,
    reach: Reach,
    dial_backs: DialBacks,
    digests: Digests,
    providers: Providers,
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
            table: Table::new(now, id),
            peers: Peers::default(),
            outstanding: BTreeMap::new(),
            fresh: 0,
            silent: BTreeMap::new(),
            lookups: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: 0,
            locates: BTreeMap::new(),
            regions: BTreeMap::new(),
            held: false,
            next_id: 0,
            refreshes: VecDeque::new(),
            join: Join::default(),
            reach: Reach::new(config.serve),
            dial_backs: DialBacks::default(),
            digests: Digests::default(),
            providers: Providers::default(),
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
                Timer::Near => self.look_again(now),
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
        let next = self.transmits.pop_front();
        if next.is_none() {
            // A burst, as in a join, leaves no room behind it.
            self.transmits.shrink_to(QUEUE_KEPT);
        }
        next
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Asks one contact a question, wanting no contacts with the answer; ends with [`Event::Answered`]. Sent at once:
    /// the caller bounds how many are on their way.
    pub fn query(&mut self, now: Instant, contact: Contact, request: Request) -> QueryId {
        self.next_id += 1;
        let query = QueryId(self.next_id);
        let (to, id) = (contact.addr, Some(contact.id));
        self.ask(now, to, id, Purpose::Query(query, contact.id), request);
        query
    }

    /// The contacts in the table closest to a point that are not passed over, with their ages, at most `max`; closest
    /// first.
    pub fn closest(&self, now: Instant, target: &Point, max: usize) -> Vec<Contact> {
        self.table.closest(now, target, max, |_| true)
    }

    /// How many bits the places share with this node's id for which it may be one of the K closest, as far as it
    /// knows: of those that share fewer, K contacts share more.
    pub fn own_bits(&self, now: Instant) -> usize {
        self.table.full_buckets(now)
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

    /// Whether as many live contacts as make a neighbourhood are known that are closer to a place than this node.
    pub fn is_far_from(&self, now: Instant, target: &Point) -> bool {
        let closest = self.table.closest(now, target, K, |_| true);
        let own = Point::from(self.id()).distance(target);
        let closer = |contact: &Contact| Point::from(contact.id).distance(target) < own;
        closest.len() == K && closest.iter().all(closer)
    }

    /// Announcements of others that are remembered.
    pub fn announcement_count(&self) -> usize {
        self.providers.count()
    }

    /// Contacts in the table.
    pub fn contact_count(&self) -> usize {
        self.table.len()
    }

    /// The contacts of the table with their ages, the closest first, for saving.
    pub fn contacts(&self, now: Instant) -> Vec<Contact> {
        let mut contacts: Vec<Contact> = self.table.contacts(now).collect();
        let own = Point::from(self.id);
        contacts.sort_by_cached_key(|contact| Point::from(contact.id).distance(&own));
        contacts
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
            let ids: Vec<RegionId> = self.regions.keys().copied().collect();
            for id in ids {
                if self.held {
                    break;
                }
                self.pump_region(now, id);
            }
        }
        if self.join.ended {
            self.start_regions(now);
        }
        while self.join.ended && self.running < LOOKUPS_MAX {
            let Some(id) = self.waiting.pop_front() else {
                break;
            };
            self.start(now, id);
        }
    }

    /// How many buckets, from the farthest, a lookup for ourselves does not fill: it finds the K closest, and so all
    /// who share more with us than the farthest of them.
    fn far_buckets(&self, now: Instant) -> usize {
        let own = Point::from(self.id);
        let closest = self.table.closest(now, &own, K, |_| true);
        match closest.get(K - 1) {
            Some(last) => own.common_prefix(&last.id.into()),
            None => 0,
        }
    }

    /// Looks over the table: pings who has not been heard, and has old buckets refreshed that are not full.
    fn upkeep(&mut self, now: Instant) {
        let pause = self.rng.jitter(UPKEEP_PERIOD);
        self.timers.set(Timer::Upkeep, now + pause);
        self.peers.forget_old(now);
        self.providers.forget_old(now);
        for contact in self.table.stale(now, now - PING_AFTER, UPKEEP_PINGS_MAX) {
            self.probe(now, contact.addr, Some(contact.id));
        }
        for index in 0..self.far_buckets(now) {
            let is_old = now.since(self.table.touched(index)) >= REFRESH_AFTER;
            if is_old && !self.table.is_full(index) && !self.refreshes.contains(&index) {
                self.refreshes.push_back(index);
            }
        }
        let idle = !self.timers.is_set(Timer::Refresh)
            && self.lookups.values().all(|r| r.owner != Owner::Refresh);
        if idle && !self.refreshes.is_empty() {
            self.timers.set(Timer::Refresh, now);
        }
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
