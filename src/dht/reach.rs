//! Client-mode: whether others can connect to us. We are in it until some have done so because we asked
//! (DIAL_BACK), and check again from time to time. Called by the machine on round trips, replies and timers.

use super::{may_name, Dht, Event, Timer};
use crate::id::{NodeId, Point};
use crate::limits::{
    DIALERS_MAX, DIAL_BACKS_WAITING_MAX, DIAL_BACK_NETWORKS, DIAL_BACK_RETRY_FIRST,
    DIAL_BACK_RETRY_MAX, DIAL_BACK_WAIT, REACHABILITY_PERIOD, RECHECK_TRIES,
};
use crate::time::Instant;
use crate::wire::contact::{is_private, is_usable, network, Contact};
use crate::wire::datagram::Request;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::requests::Purpose;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked when its timer says so.
    Resting,
    /// Asked to say this nonce.
    Asked(u64),
    /// It said it will.
    Promised(u64),
    /// It did.
    Connected,
}

/// A peer that may connect to us.
struct Dialer {
    id: NodeId,
    state: State,
    pause: Duration,
}

/// Whether we are reachable, and how we find out.
pub(super) struct Reach {
    pub(super) client_mode: bool,
    /// We ask for connections now.
    seeking: bool,
    /// At most DIALERS_MAX.
    dialers: BTreeMap<SocketAddr, Dialer>,
    /// From where somebody has connected since we began to seek.
    networks: BTreeSet<IpAddr>,
    /// Attempts that failed since we began to seek.
    failures: u32,
    /// Who lately sent us requests, latest last; at most REQUESTERS_MAX.
    pub(super) requesters: VecDeque<SocketAddr>,
}

impl Reach {
    pub(super) fn new(serve: bool) -> Reach {
        Reach {
            client_mode: true,
            seeking: serve,
            dialers: BTreeMap::new(),
            networks: BTreeSet::new(),
            failures: 0,
            requesters: VecDeque::new(),
        }
    }
}

impl Dht {
    /// A connection brought a nonce that we asked for by DIAL_BACK, from a peer of this id at this address.
    /// A nonce that is not ours, or not that peer's, is ignored.
    pub fn handle_dialed_back(&mut self, now: Instant, from: NodeId, addr: SocketAddr, nonce: u64) {
        let dialer = self.reach.dialers.iter_mut().find(|(_, dialer)| {
            let waits = [State::Asked(nonce), State::Promised(nonce)].contains(&dialer.state);
            waits && dialer.id == from
        });
        let Some((&asked, dialer)) = dialer else {
            return;
        };
        dialer.state = State::Connected;
        self.timers.stop(Timer::Dialer(asked));
        let ip = addr.ip().to_canonical();
        self.reach.networks.insert(network(&ip));
        if is_private(&ip) || self.reach.networks.len() >= DIAL_BACK_NETWORKS {
            self.reachable(now);
        }
        self.settle(now);
    }

    /// Whether a round trip with this address would help us to leave client-mode.
    pub(super) fn wants_dialer(&self, addr: &SocketAddr) -> bool {
        self.reach.seeking
            && self.reach.dialers.len() < DIALERS_MAX
            && !self.reach.dialers.contains_key(addr)
    }

    /// A round trip with this peer is complete; it may be asked to connect.
    pub(super) fn consider_dialer(&mut self, now: Instant, contact: Contact) {
        if !self.wants_dialer(&contact.addr) {
            return;
        }
        let dialer = Dialer {
            id: contact.id,
            state: State::Resting,
            pause: DIAL_BACK_RETRY_FIRST,
        };
        self.reach.dialers.insert(contact.addr, dialer);
        self.dialer_due(now, contact.addr);
    }

    /// Asks a dialer, or counts its promise as broken.
    pub(super) fn dialer_due(&mut self, now: Instant, addr: SocketAddr) {
        let busy = |dialer: &&Dialer| matches!(dialer.state, State::Asked(_) | State::Promised(_));
        let waiting = self.reach.dialers.values().filter(busy).count();
        let useless = self.reach.networks.contains(&network(&addr.ip()));
        let Some(dialer) = self.reach.dialers.get_mut(&addr) else {
            return;
        };
        match dialer.state {
            State::Promised(_) => self.dialer_failed(now, addr),
            State::Resting if waiting >= DIAL_BACKS_WAITING_MAX || useless => {
                let pause = self.rng.jitter(DIAL_BACK_RETRY_FIRST);
                self.timers.set(Timer::Dialer(addr), now + pause);
            }
            State::Resting => {
                let nonce = self.rng.next_u64();
                dialer.state = State::Asked(nonce);
                let id = Some(dialer.id);
                self.ask(now, addr, id, Purpose::DialBack, Request::DialBack(nonce));
            }
            State::Asked(_) | State::Connected => {}
        }
    }

    /// A dialer has answered, and named others that are looking for somebody to connect to them.
    pub(super) fn dialer_answered(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        will: bool,
        others: &[SocketAddr],
    ) {
        let families = self.families();
        for other in others {
            let sendable = is_usable(other) && families.include(other);
            if sendable && may_name(&addr.ip(), &other.ip()) && self.wants_dialer(other) {
                self.probe(now, *other, None);
            }
        }
        let Some(dialer) = self.reach.dialers.get_mut(&addr) else {
            return;
        };
        let State::Asked(nonce) = dialer.state else {
            return;
        };
        if will {
            dialer.state = State::Promised(nonce);
            self.timers.set(Timer::Dialer(addr), now + DIAL_BACK_WAIT);
        } else {
            self.dialer_failed(now, addr);
        }
    }

    /// A dialer refused or did not come: it is asked again later, and forgotten after the longest pause.
    fn dialer_failed(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(dialer) = self.reach.dialers.get_mut(&addr) {
            dialer.state = State::Resting;
            let pause = dialer.pause;
            dialer.pause = pause * 2;
            if pause > DIAL_BACK_RETRY_MAX {
                self.reach.dialers.remove(&addr);
            } else {
                let pause = self.rng.jitter(pause);
                self.timers.set(Timer::Dialer(addr), now + pause);
            }
            self.attempt_failed();
        }
    }

    /// A dialer does not answer at all.
    pub(super) fn dialer_lost(&mut self, _now: Instant, addr: SocketAddr) {
        let asked = |dialer: &Dialer| matches!(dialer.state, State::Asked(_));
        if self.reach.dialers.get(&addr).is_some_and(asked) {
            self.reach.dialers.remove(&addr);
            self.attempt_failed();
        }
    }

    fn attempt_failed(&mut self) {
        self.reach.failures += 1;
        if !self.reach.client_mode && self.reach.failures >= RECHECK_TRIES {
            log::warn!("nobody could connect to this peer: it is in client-mode");
            self.reach.client_mode = true;
            self.events.push_back(Event::ClientMode(true));
        }
    }

    /// Others can connect to us. Whoever knows us learns it at once, and may take us into its table.
    fn reachable(&mut self, now: Instant) {
        let reach = &mut self.reach;
        reach.seeking = false;
        reach.failures = 0;
        reach.networks.clear();
        for addr in std::mem::take(&mut reach.dialers).into_keys() {
            self.timers.stop(Timer::Dialer(addr));
        }
        let period = self.rng.jitter(REACHABILITY_PERIOD);
        self.timers.set(Timer::Recheck, now + period);
        if !std::mem::replace(&mut self.reach.client_mode, false) {
            return;
        }
        log::debug!("others can connect: client-mode ends");
        self.events.push_back(Event::ClientMode(false));
        let mut told: BTreeSet<SocketAddr> = self.reach.requesters.iter().copied().collect();
        told.extend(self.join.seed_addresses());
        told.extend(self.table.contacts(now).map(|contact| contact.addr));
        for addr in told {
            self.ask(now, addr, None, Purpose::Announce, Request::Ping);
        }
    }

    /// Checks again whether others can connect, by asking some contacts from anywhere.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.reach.seeking = true;
        let anywhere = Point(self.rng.bytes());
        let max = 2 * DIAL_BACKS_WAITING_MAX;
        for contact in self.table.closest(now, &anywhere, max, |_| true) {
            self.consider_dialer(now, contact);
        }
    }
}
