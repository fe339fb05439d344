//! Requests and their replies: sending, sending again, giving up, believing what comes back. What an exchange
//! leads to is for whoever asked: a lookup, the join, the table, a count.

use super::requests::{Outstanding, Purpose};
use super::table::{Answered, Failed};
use super::{Dht, Event, Timer};
use crate::id::NodeId;
use crate::limits::*;
use crate::time::Instant;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::contact::{is_usable, network, Age, Contact};
use crate::wire::datagram::{Direction, Families, Header, Kind, Reply, Request, Token};
use std::net::SocketAddr;

impl Dht {
    pub(super) fn header(&self, kind: Kind, transaction: u64, token: Token) -> Header {
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

    pub(super) fn transmit(&mut self, to: SocketAddr, payload: Vec<u8>) {
        self.statistics.datagrams_sent += 1;
        self.statistics.bytes_sent += payload.len() as u64;
        self.transmits.push_back((to, payload));
    }

    /// Sends a request for the first time.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        to: SocketAddr,
        expected: Option<NodeId>,
        purpose: Purpose,
        request: Request,
    ) {
        let families = match purpose.is_of_search() {
            true => self.families(),
            false => Families::default(),
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
                probe_after: false,
                tells: false,
            },
        );
    }

    pub(super) fn ask_as(&mut self, now: Instant, outstanding: Outstanding) {
        let transaction = self.rng.next_u64();
        if outstanding.purpose.is_of_search() {
            self.fresh += 1;
        }
        self.outstanding.insert(transaction, Box::new(outstanding));
        self.send(now, transaction);
    }

    /// Sends an outstanding request, with the flags and the token of now.
    pub(super) fn send(&mut self, now: Instant, transaction: u64) {
        if let Some(outstanding) = self.outstanding.get_mut(&transaction) {
            outstanding.tells = !self.reach.client_mode;
        }
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

    pub(super) fn resend(&mut self, now: Instant, transaction: u64) {
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
        if purpose.is_of_search() && first {
            self.fresh -= 1;
        }
        if let Purpose::Region(id, point) = purpose {
            if let (Some(enumeration), Some(peer)) = (self.regions.get_mut(&id), expected) {
                enumeration.handle_late(&peer, &point);
            }
            self.pump_region(now, id);
        }
        if let Purpose::Lookup(id) = purpose {
            if let (Some(running), Some(peer)) = (self.lookups.get_mut(&id), expected) {
                running.lookup.on_late(&peer);
            }
            self.pump(now, id);
        }
    }

    /// Takes a request off the list, with its timer and its place in the counts.
    pub(super) fn take(&mut self, transaction: u64) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(&transaction)?;
        self.timers.stop(Timer::Resend(transaction));
        if outstanding.purpose.is_of_search() && outstanding.attempts == 1 {
            self.fresh -= 1;
        }
        Some(*outstanding)
    }

    /// A request has been left unanswered for good.
    pub(super) fn unanswered(&mut self, now: Instant, outstanding: Outstanding) {
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
            let failed = self.table.failed(now, outstanding.sent, &id, &addr);
            if failed == Failed::Dropped {
                log::debug!("contact {id:?} at {addr} dropped");
            }
            if failed != Failed::Kept {
                self.promote(now, &id);
            }
        }
        self.fail(now, outstanding);
    }

    /// A contact lives, as a stream from it shows: it is not passed over although datagrams have been lost.
    pub fn handle_alive(&mut self, now: Instant, contact: &Contact) {
        self.silent.remove(&contact.addr);
        self.table.handle_alive(now, contact);
    }

    /// A request has come to nothing: tells whoever wanted it.
    pub(super) fn fail(&mut self, now: Instant, outstanding: Outstanding) {
        match outstanding.purpose {
            Purpose::Probe | Purpose::Announce | Purpose::Abandoned => {}
            Purpose::Seed => self.seed_failed(now, outstanding.to),
            Purpose::DialBack => self.dialer_lost(now, outstanding.to),
            Purpose::Region(id, point) => {
                if let (Some(enumeration), Some(peer)) =
                    (self.regions.get_mut(&id), outstanding.expected)
                {
                    enumeration.handle_failure(&peer, &point);
                }
                self.pump_region(now, id);
            }
            Purpose::Lookup(id) => {
                if let (Some(running), Some(peer)) =
                    (self.lookups.get_mut(&id), outstanding.expected)
                {
                    running.lookup.on_failure(&peer);
                }
                self.pump(now, id);
            }
            Purpose::Query(query, contact) => self.events.push_back(Event::Answered {
                query,
                contact,
                reply: None,
            }),
        }
    }

    /// A reply arrived. Believed only from where its request went and with its transaction.
    pub(super) fn accept(
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
        if outstanding.tells {
            self.table.tell(&id);
        }
        let is_expected = outstanding.expected.is_none_or(|expected| expected == id);
        let is_asked_again = is_expected && header.shortened && !outstanding.asked_again;
        if outstanding.probe_after && header.client_mode && !is_asked_again {
            self.probe(now, from, None);
        }
        if !is_expected {
            // Somebody else lives there now: as good as no answer from who was meant.
            self.fail(now, outstanding);
            return Ok(());
        }
        if is_asked_again {
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
                // Whoever does not take the token that it has just given does not come either.
                let (will, others) = match reply {
                    Reply::DialBack(will, others) => (will, others),
                    _ => (false, Vec::new()),
                };
                self.dialer_answered(now, from, will, &others);
            }
            Purpose::Lookup(lookup) => {
                self.lookup_answered(now, lookup, contact, header.client_mode, reply);
            }
            Purpose::Region(region, point) => {
                let client_mode = header.client_mode;
                self.region_answered(now, region, point, contact, client_mode, reply);
            }
            Purpose::Query(query, contact) => {
                // Whoever does not take the token that it has just given does not answer.
                let reply = Some(reply).filter(|reply| !matches!(reply, Reply::Nothing(_)));
                self.events.push_back(Event::Answered {
                    query,
                    contact,
                    reply,
                });
            }
        }
        Ok(())
    }

    /// A round trip with a peer is complete: it enters the table, stays or leaves.
    pub(super) fn met(&mut self, now: Instant, contact: Contact, client_mode: bool) {
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

    /// Pings a peer that may enter the table, unless too many are. If it owes an answer already that does as well,
    /// but for one that it may have sent before it left client-mode. Looks at each request on its way.
    pub(super) fn probe(&mut self, now: Instant, addr: SocketAddr, expected: Option<NodeId>) {
        let mut on_their_way = self.outstanding.values_mut();
        if let Some(outstanding) = on_their_way.find(|outstanding| outstanding.to == addr) {
            outstanding.probe_after = true;
        } else if self.may_probe() {
            self.ask(now, addr, expected, Purpose::Probe, Request::Ping);
        }
    }

    fn may_probe(&self) -> bool {
        let on_their_way = self.outstanding.values();
        let probes = on_their_way.filter(|outstanding| outstanding.purpose == Purpose::Probe);
        probes.count() < PROBES_MAX
    }

    /// Pings a spare of a bucket that has room.
    pub(super) fn promote(&mut self, now: Instant, id: &NodeId) {
        if self.may_probe() {
            if let Some((id, addr)) = self.table.take_spare(id) {
                self.probe(now, addr, Some(id));
            }
        }
    }

    /// A datagram of another version arrived.
    pub(super) fn other_version(
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
