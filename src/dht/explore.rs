//! Running lookups: starting them from the table, sending what they want to ask, telling their owners how they
//! ended. What a lookup does next is decided in [`lookup`](super::lookup).

use super::lookup::{Goal, Lookup, Next};
use super::requests::Purpose;
use super::{may_name, Dht, Event, LookupId, Timer};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::{Reply, Request};
use std::collections::BTreeSet;

/// Whom a lookup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    User,
    Join,
    /// Nobody: it makes us known to those around us, and them to us.
    Near,
    /// The bucket of its target.
    Refresh,
}

impl Owner {
    /// Only the table is served.
    fn is_table(self) -> bool {
        matches!(self, Owner::Near | Owner::Refresh)
    }
}

/// A lookup with what the machine knows of it.
pub(super) struct Running {
    pub(super) lookup: Lookup,
    pub(super) owner: Owner,
    /// It is no longer in the queue.
    pub(super) started: bool,
}

impl Dht {
    /// Looks for the K closest live contacts of a point; ends with [`Event::Closest`]. Waits for the first join
    /// attempt, and while LOOKUPS_MAX others run; the caller bounds how many wait.
    pub fn find_closest(&mut self, now: Instant, target: Point) -> LookupId {
        self.look_up(now, Lookup::new(Goal::Closest(target)))
    }

    /// Looks for contacts that hold a block; ends with [`Event::HoldersDone`]. Waits as [`Dht::find_closest`] does. Does
    /// not end at those who are useless, as they did not give it, or they would hide everybody behind them.
    pub fn find_holders(
        &mut self,
        now: Instant,
        block: BlockId,
        useless: BTreeSet<NodeId>,
    ) -> LookupId {
        self.look_up(now, Lookup::new(Goal::Holders(block)).beyond(useless))
    }

    /// Asks all who live around the root of a file who has all of that: an [`Event::Provider`] for each that is named,
    /// and [`Event::HoldersDone`] in the end.
    pub fn find_providers(&mut self, now: Instant, root: BlockId) -> LookupId {
        self.look_up(now, Lookup::new(Goal::Providers(root)))
    }

    /// Forgets a lookup, which makes no further event, and starts one that waited for it; harmless if it has
    /// ended.
    pub fn cancel(&mut self, now: Instant, id: LookupId) {
        self.waiting.retain(|&waiting| waiting != id);
        self.timers.stop(Timer::Linger(id));
        if let Some(running) = self.lookups.remove(&id) {
            if running.started && running.owner == Owner::User {
                self.running -= 1;
            }
            self.abandon_lookup(id);
        }
        self.settle(now);
    }

    fn abandon_lookup(&mut self, id: LookupId) {
        self.abandon(|purpose| *purpose == Purpose::Lookup(id));
    }

    /// The requests of a search that has ended hold up no others. Looks at each request on its way.
    pub(super) fn abandon(&mut self, is_of: impl Fn(&Purpose) -> bool) {
        for outstanding in self.outstanding.values_mut() {
            if is_of(&outstanding.purpose) {
                if outstanding.attempts == 1 {
                    self.fresh -= 1;
                }
                outstanding.purpose = Purpose::Abandoned;
            }
        }
    }

    pub(super) fn look_up(&mut self, now: Instant, lookup: Lookup) -> LookupId {
        let id = self.new_lookup(lookup, Owner::User);
        self.waiting.push_back(id);
        self.settle(now);
        id
    }

    pub(super) fn new_lookup(&mut self, lookup: Lookup, owner: Owner) -> LookupId {
        self.next_id += 1;
        let id = LookupId(self.next_id);
        let running = Running {
            lookup,
            owner,
            started: false,
        };
        self.lookups.insert(id, Box::new(running));
        id
    }

    /// Starts a lookup from the table.
    pub(super) fn start(&mut self, now: Instant, id: LookupId) {
        let Some(target) = self.lookups.get(&id).map(|it| it.lookup.target()) else {
            return;
        };
        let contacts = self.starting_points(now, &target);
        let Some(running) = self.lookups.get_mut(&id) else {
            return;
        };
        running.started = true;
        if running.owner == Owner::User {
            self.running += 1;
        }
        for contact in contacts {
            running.lookup.add(contact);
        }
        let own = Point::from(self.id);
        self.table.touch(now, own.common_prefix(&target));
        self.pump(now, id);
    }

    /// Whom a search begins with: the closest that are known. Where all are passed over it may well be us who were cut
    /// off, and none is.
    pub(super) fn starting_points(&mut self, now: Instant, target: &Point) -> Vec<Contact> {
        let families = self.families();
        let usable = |contact: &Contact| families.include(&contact.addr);
        let live = self.table.closest(now, target, LOOKUP_START_MAX, usable);
        if !live.is_empty() {
            return live;
        }
        self.silent.clear();
        let later = now + UNRESPONSIVE_FOR;
        self.table.closest(later, target, LOOKUP_START_MAX, usable)
    }

    /// Lets a lookup ask whom it wants, and ends it when it is done.
    pub(super) fn pump(&mut self, now: Instant, id: LookupId) {
        loop {
            let may_ask = self.fresh < REQUESTS_MAX;
            let Some(running) = self.lookups.get_mut(&id).filter(|r| r.started) else {
                return;
            };
            let bucket = Point::from(self.id).common_prefix(&running.lookup.target());
            if running.owner == Owner::Refresh && self.table.is_full(bucket) {
                return self.finish(now, id);
            }
            let contact = match running.lookup.next(may_ask) {
                Next::Ask(contact)
                    if running.owner.is_table()
                        && running.lookup.answered() >= TELLERS
                        && self.table.is_told(now, &contact.id) =>
                {
                    running.lookup.on_reply(&contact.id);
                    continue;
                }
                Next::Ask(contact) => contact,
                Next::Held => {
                    self.held = true;
                    return;
                }
                Next::Wait => {
                    // A dead peer delays nobody's join.
                    if running.owner == Owner::Join && running.lookup.waits_for_late_only() {
                        self.self_lookup_settled();
                    }
                    return;
                }
                Next::Done => return self.finish(now, id),
            };
            let request = match running.lookup.goal() {
                Goal::Closest(target) => Request::FindNode(target),
                Goal::Holders(block) | Goal::Providers(block) => Request::Have(vec![block]),
            };
            let purpose = Purpose::Lookup(id);
            self.ask(now, contact.addr, Some(contact.id), purpose, request);
        }
    }

    pub(super) fn lookup_answered(
        &mut self,
        now: Instant,
        id: LookupId,
        from: Contact,
        client_mode: bool,
        reply: Reply,
    ) {
        let (held, contacts, providers) = match reply {
            Reply::FindNode(contacts) => (false, contacts, Vec::new()),
            Reply::Have(bitmap, contacts, providers) => (bitmap.holds(0), contacts, providers),
            _ => (false, Vec::new(), Vec::new()),
        };
        let contacts = self.usable_of(now, &from, contacts);
        let providers = self.usable_of(now, &from, providers);
        let Some(running) = self.lookups.get_mut(&id) else {
            return;
        };
        for contact in providers {
            let lookup = id;
            self.events.push_back(Event::Provider { lookup, contact });
        }
        let held = held && matches!(running.lookup.goal(), Goal::Holders(_));
        for contact in contacts {
            running.lookup.add(contact);
        }
        if client_mode {
            // It helps to find others, but is itself none to be found.
            running.lookup.on_excluded(&from.id);
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

    /// Those of the contacts in a reply that may be asked.
    pub(super) fn usable_of(
        &self,
        now: Instant,
        from: &Contact,
        contacts: Vec<Contact>,
    ) -> Vec<Contact> {
        let families = self.families();
        let mut named = BTreeSet::new();
        let is_usable = |contact: &Contact| {
            let silent = self.silent.get(&contact.addr);
            // One address from each who names it: nobody alone makes up as many as are tried.
            contact.id != self.id
                && named.insert(contact.id)
                && families.include(&contact.addr)
                && may_name(&from.addr.ip(), &contact.addr.ip())
                && silent.is_none_or(|until| *until <= now)
        };
        contacts.into_iter().filter(is_usable).collect()
    }

    /// Ends a lookup.
    pub(super) fn finish(&mut self, now: Instant, id: LookupId) {
        self.timers.stop(Timer::Linger(id));
        let Some(running) = self.lookups.remove(&id) else {
            return;
        };
        self.abandon_lookup(id);
        let lookup = &running.lookup;
        for contact in lookup.closest() {
            self.table.note_age(now, &contact);
        }
        match running.owner {
            Owner::User => {
                self.running -= 1;
                self.events.push_back(match lookup.goal() {
                    Goal::Closest(_) => Event::Closest {
                        lookup: id,
                        contacts: lookup.closest(),
                        asked: lookup.asked(),
                    },
                    Goal::Holders(_) | Goal::Providers(_) => Event::HoldersDone {
                        lookup: id,
                        asked: lookup.asked(),
                        answered: lookup.answered(),
                        heard: lookup.heard(),
                    },
                });
            }
            Owner::Join => self.self_lookup_ended(now),
            Owner::Near => {}
            Owner::Refresh => {
                let pause = self.rng.jitter(REFRESH_PAUSE);
                self.timers.set(Timer::Refresh, now + pause);
            }
        }
    }

    fn random_point_of(&mut self, bucket: usize) -> Point {
        let mut point = Point(self.rng.bytes());
        for bit in 0..=bucket {
            let mask = 0x80 >> (bit % 8);
            let own = self.id.0[bit / 8] & mask;
            let wanted = if bit == bucket { own ^ mask } else { own };
            point.0[bit / 8] = point.0[bit / 8] & !mask | wanted;
        }
        point
    }

    /// Looks up a random point of the next bucket that waits for it and has room.
    pub(super) fn refresh_next(&mut self, now: Instant) {
        while let Some(index) = self.refreshes.pop_front() {
            if !self.table.is_full(index) {
                let target = self.random_point_of(index);
                let id = self.new_lookup(Lookup::new(Goal::Closest(target)), Owner::Refresh);
                return self.start(now, id);
            }
        }
    }
}
