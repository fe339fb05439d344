//! Finding the first peers: bootstrap addresses and the contacts of an earlier run are pinged, and through whoever
//! answers we look for ourselves. Called by the machine as seeds answer, fail, or become due.

use super::explore::Owner;
use super::{Dht, Event, LookupId, Timer};
use crate::limits::{
    JOIN_TIMEOUT, K, NEAR_PERIOD, NEAR_RETRY, REFRESH_AFTER, REFRESH_PAUSE, SAVED_AT_ONCE,
    SAVED_PAUSE, SEEDS_MAX, SEED_CLIENT_RETRY_FIRST, SEED_RETRY_FIRST, SEED_RETRY_MAX, THIN_RETRY,
    THIN_RETRY_MAX,
};
use crate::time::Instant;
use crate::wire::contact::{normalise, Contact};
use crate::wire::datagram::Request;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::lookup::{Goal, Lookup};
use super::requests::Purpose;

/// An address to join through.
struct Seed {
    /// Given by the user: tried for ever. Else dropped as soon as it has failed or answered.
    keep: bool,
    /// A ping is on its way.
    asking: bool,
    /// It has failed at least once, and not answered since.
    failed: bool,
    /// It has answered, and is asked again much later, or when nobody else is known.
    resting: bool,
    /// Pause before the next attempt.
    pause: Duration,
    /// The same where it answers, but in client-mode.
    client_pause: Duration,
}

/// Where the join stands.
#[derive(Default)]
pub(super) struct Join {
    /// At most SEEDS_MAX.
    seeds: BTreeMap<SocketAddr, Seed>,
    /// The first time-out has been handled: all seeds of the start are known.
    started: bool,
    /// The first attempt has ended.
    pub(super) ended: bool,
    /// The table holds somebody, and we have looked for ourselves since it did.
    pub(super) joined: bool,
    /// There is somebody new through whom to look for ourselves.
    pub(super) due: bool,
    lookup: Option<LookupId>,
    /// Pause before we look for ourselves again.
    near_pause: Duration,
    /// When we looked for ourselves last since the join.
    looked: Option<Instant>,
    /// Who answered, in client-mode or not, and may be asked; at most SEEDS_MAX.
    starts: Vec<Contact>,
}

impl Join {
    pub(super) fn seed_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.seeds.keys().copied()
    }
}

impl Dht {
    /// A bootstrap address of the user's. Pinged at once, and again, ever more seldom, until it answers; and
    /// whenever nobody else is known: then lookups wait for it as for the first join attempt. More than SEEDS_MAX
    /// are ignored.
    pub fn add_seed(&mut self, now: Instant, addr: SocketAddr) {
        let addr = normalise(addr);
        let fresh = self.insert_seed(addr, true);
        let Some(seed) = self.join.seeds.get_mut(&addr) else {
            return;
        };
        if self.table.is_empty() {
            seed.failed = false;
            if self.join.ended {
                self.join.ended = false;
                self.timers.set(Timer::Join, now + JOIN_TIMEOUT);
            }
        } else if !fresh {
            return;
        }
        self.ask_seed(now, addr);
    }

    /// The table of an earlier run, closest or oldest first: tried some at a time, each until it fails. At most
    /// SEEDS_MAX with the bootstrap addresses.
    pub fn load_contacts(&mut self, now: Instant, contacts: Vec<Contact>) {
        let mut loaded = 0;
        for contact in contacts {
            if self.insert_seed(contact.addr, false) {
                let pause = SAVED_PAUSE * (loaded / SAVED_AT_ONCE) as u32;
                self.timers.set(Timer::Seed(contact.addr), now + pause);
                loaded += 1;
            }
        }
    }

    fn insert_seed(&mut self, addr: SocketAddr, keep: bool) -> bool {
        if let Some(seed) = self.join.seeds.get_mut(&addr) {
            seed.keep |= keep;
            return false;
        }
        if self.join.seeds.len() >= SEEDS_MAX {
            return false;
        }
        let seed = Seed {
            keep,
            asking: false,
            failed: false,
            resting: false,
            pause: SEED_RETRY_FIRST,
            client_pause: SEED_CLIENT_RETRY_FIRST,
        };
        self.join.seeds.insert(addr, seed);
        true
    }

    pub(super) fn ask_seed(&mut self, now: Instant, addr: SocketAddr) {
        let Some(seed) = self.join.seeds.get_mut(&addr).filter(|s| !s.asking) else {
            return;
        };
        seed.asking = true;
        seed.resting = false;
        self.timers.stop(Timer::Seed(addr));
        self.ask(now, addr, None, Purpose::Seed, Request::Ping);
    }

    pub(super) fn seed_failed(&mut self, now: Instant, addr: SocketAddr) {
        let Some(seed) = self.join.seeds.get_mut(&addr) else {
            return;
        };
        if !seed.keep {
            self.join.seeds.remove(&addr);
            return;
        }
        seed.asking = false;
        seed.failed = true;
        let pause = self.rng.jitter(seed.pause);
        seed.pause = (seed.pause * 2).min(SEED_RETRY_MAX);
        self.timers.set(Timer::Seed(addr), now + pause);
    }

    pub(super) fn seed_answered(&mut self, now: Instant, contact: Contact, client_mode: bool) {
        let Some(seed) = self.join.seeds.get_mut(&contact.addr) else {
            return;
        };
        seed.asking = false;
        seed.failed = false;
        seed.pause = SEED_RETRY_FIRST;
        let keep = seed.keep;
        if !keep {
            self.join.seeds.remove(&contact.addr);
        } else if client_mode && self.table.is_empty() {
            // It may leave client-mode just now, since it can ask us to connect to it.
            let pause = seed.client_pause;
            seed.client_pause = (pause * 2).min(SEED_RETRY_MAX);
            self.timers.set(Timer::Seed(contact.addr), now + pause);
        } else {
            seed.client_pause = SEED_CLIENT_RETRY_FIRST;
            seed.resting = true;
            let pause = self.rng.jitter(REFRESH_AFTER);
            self.timers.set(Timer::Seed(contact.addr), now + pause);
        }
        if self.join.joined {
            if keep && !client_mode {
                self.look_through(now, contact);
            }
            return;
        }
        if self.join.starts.len() < SEEDS_MAX && !self.join.starts.contains(&contact) {
            self.join.starts.push(contact);
        }
        self.join.due = true;
        if let Some(id) = self.join.lookup {
            if let Some(running) = self.lookups.get_mut(&id) {
                running.lookup.add(contact);
            }
            self.pump(now, id);
        }
    }

    /// Looks for ourselves through this peer alone. After the network was split, those on the other side are known
    /// to it and to none of our contacts, for these have forgotten them.
    fn look_through(&mut self, now: Instant, seed: Contact) {
        let looked = self.join.looked;
        if looked.is_some_and(|looked| now.since(looked) < THIN_RETRY_MAX) {
            return;
        }
        self.join.looked = Some(now);
        let id = self.new_lookup(Lookup::new(Goal::Closest(self.id.into())), Owner::Refresh);
        if let Some(running) = self.lookups.get_mut(&id) {
            running.started = true;
            running.lookup.add(seed);
        }
        self.pump(now, id);
    }

    /// A request of our own came back to us: if it was to a seed, that seed is ourselves.
    pub(super) fn heard_ourselves(&mut self, now: Instant, transaction: u64) {
        if let Some(outstanding) = self.take(transaction) {
            self.join.seeds.remove(&outstanding.to);
            self.timers.stop(Timer::Seed(outstanding.to));
            self.fail(now, outstanding);
        }
    }

    /// Looks for ourselves if there is somebody new to ask, tries seeds while nobody is known, and ends the first
    /// attempt when there is nothing left to wait for.
    pub(super) fn join_step(&mut self, now: Instant) {
        if self.table.is_empty() {
            self.join.joined = false;
            self.retry_seeds(now);
        }
        if self.join.due && !self.join.joined && self.join.lookup.is_none() {
            self.join.due = false;
            let id = self.new_lookup(Lookup::new(Goal::Closest(self.id.into())), Owner::Join);
            self.join.lookup = Some(id);
            if let Some(running) = self.lookups.get_mut(&id) {
                for contact in &self.join.starts {
                    running.lookup.add(*contact);
                }
            }
            self.start(now, id);
        }
        let hopeless = self.join.seeds.values().all(|s| s.failed)
            && self.join.lookup.is_none()
            && !self.join.due
            && self.table.is_empty();
        if !self.join.ended && hopeless {
            self.end_first_attempt();
        }
    }

    /// Seeds that answered once rest while others are known; now nobody is.
    fn retry_seeds(&mut self, now: Instant) {
        for (&addr, seed) in &mut self.join.seeds {
            let is_due = self.timers.is_set(Timer::Seed(addr)) && !seed.resting;
            if seed.asking || is_due {
                continue;
            }
            seed.resting = false;
            let pause = self.rng.jitter(SEED_RETRY_FIRST);
            self.timers.set(Timer::Seed(addr), now + pause);
        }
    }

    pub(super) fn self_lookup_ended(&mut self, now: Instant) {
        self.join.lookup = None;
        self.self_lookup_settled();
        if self.join.joined {
            self.fill(now);
        }
    }

    /// All who were asked have answered, but for some that may be dead.
    pub(super) fn self_lookup_settled(&mut self) {
        if self.table.is_empty() || self.join.joined {
            return;
        }
        self.have_joined();
    }

    fn have_joined(&mut self) {
        self.join.joined = true;
        self.join.ended = true;
        self.join.due = false;
        self.join.starts = Vec::new();
        self.timers.stop(Timer::Join);
        let contacts = self.table.len();
        log::debug!("joined with {contacts} contacts");
        self.events.push_back(Event::Joined { contacts });
    }

    /// Near us the lookup for ourselves has been everywhere. Farther buckets are filled one by one, and the one that
    /// holds the farthest of the K closest: of those in it that are farther, we may be among the K closest, and they
    /// have not heard of us.
    fn fill(&mut self, now: Instant) {
        if !self.is_client_mode() {
            self.announce(now);
        }
        self.refreshes = (0..=self.far_buckets(now)).collect();
        let pause = self.rng.jitter(REFRESH_PAUSE);
        self.timers.set(Timer::Refresh, now + pause);
        self.look_again_soon(now);
    }

    /// Others have come meanwhile, of whom those around us have learned only after they answered us.
    pub(super) fn look_again_soon(&mut self, now: Instant) {
        let is_thin = self.table.len() < K;
        self.join.near_pause = if is_thin { THIN_RETRY } else { NEAR_RETRY };
        let pause = self.rng.jitter(self.join.near_pause);
        self.timers.set(Timer::Near, now + pause);
    }

    /// Looks for ourselves again: those around us learn of us, and we of them. More often while fewer than K are known:
    /// peers that start together join through one that knows nobody yet, and would stay alone with it.
    pub(super) fn look_again(&mut self, now: Instant) {
        if !self.join.joined {
            return;
        }
        let is_thin = self.table.len() < K;
        let (factor, longest) = match is_thin {
            true => (2, THIN_RETRY_MAX),
            false => (4, NEAR_PERIOD),
        };
        self.join.near_pause = (self.join.near_pause * factor).min(longest);
        let pause = self.rng.jitter(self.join.near_pause);
        self.timers.set(Timer::Near, now + pause);
        if is_thin || !self.is_client_mode() {
            self.join.looked = Some(now);
            let id = self.new_lookup(Lookup::new(Goal::Closest(self.id.into())), Owner::Near);
            self.start(now, id);
        }
        if !is_thin {
            return;
        }
        let seeds = self.join.seeds.iter();
        let resting = seeds.filter(|(_, seed)| seed.resting).map(|it| *it.0);
        for seed in resting.collect::<Vec<SocketAddr>>() {
            self.ask_seed(now, seed);
        }
    }

    /// Begins in the middle of a life: this node is reachable, and has met these contacts. For who makes up a whole
    /// network at once, to see how it fares.
    pub fn settle_among(&mut self, now: Instant, contacts: impl IntoIterator<Item = Contact>) {
        for contact in contacts {
            self.table.answered_since(now, contact);
        }
        self.become_reachable(now);
        self.join.started = true;
        self.join.joined = true;
        self.join.ended = true;
        self.timers.stop(Timer::Join);
        self.join.near_pause = NEAR_PERIOD;
        let pause = self.rng.jitter(NEAR_PERIOD);
        self.timers.set(Timer::Near, now + pause);
    }

    fn end_first_attempt(&mut self) {
        self.join.ended = true;
        self.timers.stop(Timer::Join);
        self.events.push_back(Event::JoinFailed);
    }

    /// Comes at the start, when all seeds have been given, and once more when the attempt has lasted too long.
    pub(super) fn join_deadline(&mut self, now: Instant) {
        if self.join.ended {
            return;
        }
        if !self.join.started {
            self.join.started = true;
            self.timers.set(Timer::Join, now + JOIN_TIMEOUT);
        } else if self.table.is_empty() {
            self.end_first_attempt();
        } else {
            self.have_joined();
        }
    }
}
