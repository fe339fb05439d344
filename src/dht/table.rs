//! The routing table: contacts in buckets by the length of the prefix they share with our id.
//!
//! It holds who has answered us, and says who is closest to a point. It sends nothing: `dht` pings, asks and
//! tells it what came of it.

use crate::id::{NodeId, Point};
use crate::limits::{CONTACT_FAILURES_MAX, K, PER_NETWORK_IN_BUCKET, UNRESPONSIVE_FOR};
use crate::time::Instant;
use crate::wire::contact::{is_private, network, Age, Contact};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Buckets of a table: one for each length of a common prefix that another id can have with ours.
pub const BUCKETS: usize = 256;

/// A contact of the table.
struct Entry {
    contact: Contact,
    /// When it entered, or others say that they had met it: its age counts from here.
    since: Instant,
    /// When it last answered.
    heard: Instant,
    /// Requests in a row that it left unanswered.
    failures: u8,
    /// Until then it is passed over, since it did not answer.
    silent_until: Instant,
}

impl Entry {
    fn live(&self, now: Instant) -> bool {
        self.silent_until <= now
    }

    /// The contact with its age as of now.
    fn named(&self, now: Instant) -> Contact {
        Contact {
            age: Age::from_duration(now.since(self.since)),
            ..self.contact
        }
    }
}

#[derive(Default)]
struct Bucket {
    /// At most K, least recently heard first.
    entries: Vec<Entry>,
    /// At most K that answered once and found the bucket full, the latest last.
    spares: Vec<Contact>,
}

/// What became of a contact that answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// It is new in the table.
    Entered,
    /// It was there already.
    Known,
    /// Its bucket is full; it is among the spares.
    Spare,
    /// There is no place for it.
    Refused,
    /// Another address is in the table for this id, which should be pinged: if it fails this one may take over.
    Moved(Contact),
}

/// What to do after a contact failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// It is not in the table.
    Unknown,
    /// It stays, passed over for a while.
    Kept,
    /// It has been dropped.
    Dropped,
}

/// The contacts of a node.
pub struct Table {
    own: Point,
    buckets: Vec<Bucket>,
    /// Who is at an address. Invariant: exactly the entries of the buckets.
    by_addr: BTreeMap<SocketAddr, NodeId>,
}

impl Table {
    /// An empty table for a node of this id.
    pub fn new(own: NodeId) -> Table {
        Table {
            own: own.into(),
            buckets: std::iter::repeat_with(Bucket::default)
                .take(BUCKETS)
                .collect(),
            by_addr: BTreeMap::new(),
        }
    }

    /// Number of contacts, spares not counted.
    pub fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Whether there is no contact.
    pub fn is_empty(&self) -> bool {
        self.by_addr.is_empty()
    }

    /// All contacts with their ages, those farthest from us first.
    pub fn contacts(&self, now: Instant) -> impl Iterator<Item = Contact> + '_ {
        let entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        entries.map(move |entry| entry.named(now))
    }

    /// Index of the bucket of an id; `None` for our own.
    pub fn bucket_of(&self, id: &NodeId) -> Option<usize> {
        let index = self.own.common_prefix(&(*id).into());
        (index < BUCKETS).then_some(index)
    }

    /// Whether this contact is in the table, at this address.
    pub fn has(&self, id: &NodeId, addr: &SocketAddr) -> bool {
        self.by_addr.get(addr) == Some(id)
    }

    /// Whether a stranger would find a place if it answered: in its bucket or among the spares.
    pub fn wants(&self, id: &NodeId, addr: &SocketAddr) -> bool {
        let Some(index) = self.bucket_of(id) else {
            return false;
        };
        let bucket = &self.buckets[index];
        if let Some(known) = bucket.entries.iter().find(|e| e.contact.id == *id) {
            // It may have moved, but only if the old address is in doubt is that worth a ping.
            return known.contact.addr != *addr && known.failures > 0;
        }
        let entries = bucket.entries.iter().map(|entry| &entry.contact);
        let spare = bucket.spares.iter().any(|spare| spare.id == *id);
        (bucket.entries.len() < K && network_has_room(entries, addr))
            || (!spare && bucket.spares.len() < K && network_has_room(bucket.spares.iter(), addr))
    }

    /// A contact answered a request of ours, and is not in client-mode.
    pub fn answered(&mut self, now: Instant, contact: Contact) -> Answered {
        let Some(index) = self.bucket_of(&contact.id) else {
            return Answered::Refused;
        };
        if let Some(&other) = self.by_addr.get(&contact.addr) {
            if other != contact.id {
                // Whoever was at this address is there no more: another has just answered from it.
                self.remove(&other);
            }
        }
        let bucket = &mut self.buckets[index];
        let known = bucket
            .entries
            .iter()
            .position(|entry| entry.contact.id == contact.id);
        if let Some(place) = known {
            let entry = &bucket.entries[place];
            if entry.contact.addr != contact.addr {
                if entry.failures == 0 {
                    return Answered::Moved(entry.contact);
                }
                self.remove(&contact.id);
                return self.answered(now, contact);
            }
            let mut entry = bucket.entries.remove(place);
            entry.heard = now;
            entry.failures = 0;
            entry.silent_until = now;
            bucket.entries.push(entry);
            return Answered::Known;
        }
        bucket.spares.retain(|spare| spare.id != contact.id);
        let entries = bucket.entries.iter().map(|entry| &entry.contact);
        if bucket.entries.len() < K && network_has_room(entries, &contact.addr) {
            self.by_addr.insert(contact.addr, contact.id);
            bucket.entries.push(Entry {
                contact,
                since: now,
                heard: now,
                failures: 0,
                silent_until: now,
            });
            return Answered::Entered;
        }
        if bucket.spares.len() < K && network_has_room(bucket.spares.iter(), &contact.addr) {
            bucket.spares.push(contact);
            return Answered::Spare;
        }
        Answered::Refused
    }

    /// The same for one that has been known for as long as its age says.
    pub fn answered_since(&mut self, now: Instant, contact: Contact) {
        if self.answered(now, contact) == Answered::Entered {
            let bucket = self.bucket_of(&contact.id);
            let entry = bucket.and_then(|index| self.buckets[index].entries.last_mut());
            if let Some(entry) = entry {
                entry.since = now - contact.age.to_duration();
            }
        }
    }

    /// Others have known a contact for as long as its age says. If it is in the table it is believed to be as old.
    pub fn told(&mut self, now: Instant, contact: &Contact) {
        let Some(index) = self.bucket_of(&contact.id) else {
            return;
        };
        let mut entries = self.buckets[index].entries.iter_mut();
        let entry =
            entries.find(|it| it.contact.id == contact.id && it.contact.addr == contact.addr);
        if let Some(entry) = entry {
            entry.since = entry.since.min(now - contact.age.to_duration());
        }
    }

    /// A contact left a request unanswered, whose attempts are used up.
    pub fn failed(&mut self, now: Instant, id: &NodeId, addr: &SocketAddr) -> Failed {
        let Some(index) = self.bucket_of(id) else {
            return Failed::Unknown;
        };
        let bucket = &mut self.buckets[index];
        bucket
            .spares
            .retain(|spare| spare.id != *id || spare.addr != *addr);
        let found = bucket
            .entries
            .iter_mut()
            .find(|entry| entry.contact.id == *id && entry.contact.addr == *addr);
        let Some(entry) = found else {
            return Failed::Unknown;
        };
        entry.failures += 1;
        entry.silent_until = now + UNRESPONSIVE_FOR;
        if entry.failures < CONTACT_FAILURES_MAX {
            return Failed::Kept;
        }
        self.remove(id);
        Failed::Dropped
    }

    /// Forgets a contact, also among the spares; harmless if it is not there.
    pub fn remove(&mut self, id: &NodeId) {
        let Some(index) = self.bucket_of(id) else {
            return;
        };
        let bucket = &mut self.buckets[index];
        bucket.spares.retain(|spare| spare.id != *id);
        let place = bucket
            .entries
            .iter()
            .position(|entry| entry.contact.id == *id);
        if let Some(place) = place {
            let entry = bucket.entries.remove(place);
            self.by_addr.remove(&entry.contact.addr);
        }
    }

    /// Takes the latest spare of the bucket of `id` if there is room for it in the bucket: to be pinged, since it
    /// may be gone by now. It enters when it answers.
    pub fn take_spare(&mut self, id: &NodeId) -> Option<Contact> {
        let bucket = &mut self.buckets[self.own.common_prefix(&(*id).into()).min(BUCKETS - 1)];
        if bucket.entries.len() >= K {
            return None;
        }
        let entries = &bucket.entries;
        let place = bucket.spares.iter().rposition(|spare| {
            network_has_room(entries.iter().map(|entry| &entry.contact), &spare.addr)
        })?;
        Some(bucket.spares.remove(place))
    }

    /// How many buckets, from the farthest, have K live contacts each, up to the first that has fewer.
    pub fn full_buckets(&self, now: Instant) -> usize {
        let live = |bucket: &Bucket| bucket.entries.iter().filter(|it| it.live(now)).count();
        let mut buckets = self.buckets.iter();
        buckets.position(|bucket| live(bucket) < K).unwrap_or(0)
    }

    /// At most `max` contacts to be pinged: in doubt and no longer passed over, or not heard since `before`.
    pub fn stale(&self, now: Instant, before: Instant, max: usize) -> Vec<Contact> {
        self.buckets
            .iter()
            .flat_map(|bucket| &bucket.entries)
            .filter(|entry| entry.live(now) && (entry.failures > 0 || entry.heard < before))
            .map(|entry| entry.contact)
            .take(max)
            .collect()
    }

    /// The at most `max` contacts closest to `target` that are not passed over and that `usable` accepts, closest
    /// first. Looks at no more buckets than it takes, and sorts only within them.
    pub fn closest(
        &self,
        now: Instant,
        target: &Point,
        max: usize,
        usable: impl Fn(&Contact) -> bool,
    ) -> Vec<Contact> {
        let mut found = Vec::with_capacity(max);
        let mut group: Vec<&Entry> = Vec::with_capacity(K);
        let shared = self.own.common_prefix(target);
        // Who shares with us exactly the prefix that the target shares with us differs from us in the next bit, as
        // the target does: the closest. All who share more with us come next, at distances that mix between
        // buckets. Then bucket by bucket outwards.
        let deeper = BUCKETS.min(shared + 1)..BUCKETS;
        let nearest = shared..BUCKETS.min(shared + 1);
        let outwards = (0..shared.min(BUCKETS)).rev().map(|index| index..index + 1);
        for range in [nearest, deeper].into_iter().chain(outwards) {
            if found.len() == max {
                break;
            }
            if range.is_empty() {
                continue;
            }
            let entries = self.buckets[range]
                .iter()
                .flat_map(|bucket| &bucket.entries)
                .filter(|entry| entry.live(now) && usable(&entry.contact));
            group.clear();
            group.extend(entries);
            let distance = |entry: &&Entry| target.distance(&entry.contact.id.into());
            let room = max - found.len();
            if group.len() > room {
                group.select_nth_unstable_by_key(room, distance);
                group.truncate(room);
            }
            group.sort_unstable_by_key(distance);
            found.extend(group.iter().map(|entry| entry.named(now)));
        }
        found
    }
}

/// Whether one more contact of this address's network may stand among these.
fn network_has_room<'a>(
    mut contacts: impl Iterator<Item = &'a Contact>,
    addr: &SocketAddr,
) -> bool {
    if is_private(&addr.ip()) {
        return true;
    }
    let of = network(&addr.ip());
    let same = contacts.by_ref().filter(|c| network(&c.addr.ip()) == of);
    same.count() < PER_NETWORK_IN_BUCKET
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::NodeKey;
    use crate::rng::Rng;
    use std::time::Duration;

    const NOW: Instant = Instant::EPOCH;

    fn contact(rng: &mut Rng, n: u16) -> Contact {
        let addr = SocketAddr::from(([127, 0, (n >> 8) as u8, n as u8], 1000));
        Contact::new(NodeKey(rng.bytes()), addr, Age(0))
    }

    /// A contact with a given first bit of its id: which is to say, one for a given side of the space.
    fn sided(rng: &mut Rng, n: u16, high: bool) -> Contact {
        loop {
            let contact = contact(rng, n);
            if (contact.id.0[0] >= 128) == high {
                return contact;
            }
        }
    }

    #[test]
    fn closest_is_what_sorting_everything_gives() {
        let mut rng = Rng::new([1; 32]);
        for round in 0..20 {
            let own = NodeId(rng.bytes());
            let mut table = Table::new(own);
            for n in 0..30 * round {
                let contact = contact(&mut rng, n);
                table.answered(NOW, contact);
            }
            let all: Vec<Contact> = table.contacts(NOW).collect();
            for nth in 0..30 {
                let mut target = Point(rng.bytes());
                if nth % 3 == 0 {
                    // Near us, and at last ourselves.
                    target = own.into();
                    target.0[nth / 3] ^= if nth == 0 { 0 } else { 0x11 };
                }
                let mut sorted = all.clone();
                sorted.sort_by_key(|contact| target.distance(&contact.id.into()));
                for max in [0, 1, 7, K, 100] {
                    let found = table.closest(NOW, &target, max, |_| true);
                    assert_eq!(found[..], sorted[..sorted.len().min(max)]);
                }
            }
        }
    }

    #[test]
    fn full_bucket_keeps_the_old_contacts_and_makes_spares() {
        let mut rng = Rng::new([2; 32]);
        let mut table = Table::new(NodeId([0; 32]));
        let far: Vec<Contact> = (0..50).map(|n| sided(&mut rng, n, true)).collect();
        let became: Vec<Answered> = far.iter().map(|c| table.answered(NOW, *c)).collect();
        assert!(became[..K].iter().all(|&a| a == Answered::Entered));
        assert!(became[K..2 * K].iter().all(|&a| a == Answered::Spare));
        assert!(became[2 * K..].iter().all(|&a| a == Answered::Refused));
        assert_eq!(table.len(), K);
        assert!(!table.wants(&far[45].id, &far[45].addr));

        for nth in 1..CONTACT_FAILURES_MAX {
            assert_eq!(
                table.failed(NOW, &far[3].id, &far[3].addr),
                Failed::Kept,
                "{nth}"
            );
        }
        let named = table.closest(NOW, &far[3].id.into(), 1, |_| true);
        assert_ne!(named[0].id, far[3].id, "who failed is not named");
        let later = NOW + UNRESPONSIVE_FOR;
        assert_eq!(table.stale(later, NOW, 9), [far[3]], "but tried again");
        assert_eq!(table.failed(NOW, &far[3].id, &far[3].addr), Failed::Dropped);
        let spare = table.take_spare(&far[3].id).unwrap();
        assert_eq!(spare, far[2 * K - 1], "the latest spare is tried");
        assert_eq!(table.answered(NOW, spare), Answered::Entered);
        assert_eq!(table.take_spare(&far[3].id), None, "full again");
    }

    #[test]
    fn answer_clears_failures() {
        let mut rng = Rng::new([3; 32]);
        let mut table = Table::new(NodeId([0; 32]));
        let one = contact(&mut rng, 1);
        table.answered(NOW, one);
        for _ in 0..10 {
            assert_eq!(table.failed(NOW, &one.id, &one.addr), Failed::Kept);
            assert_eq!(table.answered(NOW, one), Answered::Known);
        }
        assert_eq!(table.closest(NOW, &one.id.into(), 1, |_| true), [one]);
    }

    #[test]
    fn one_network_cannot_fill_a_bucket_unless_private() {
        let mut rng = Rng::new([4; 32]);
        let mut table = Table::new(NodeId([0; 32]));
        for n in 0..10 {
            let mut public = sided(&mut rng, n, true);
            public.addr = SocketAddr::from(([192, 0, 2, n as u8], 1));
            table.answered(NOW, public);
        }
        assert_eq!(table.len(), PER_NETWORK_IN_BUCKET);
        for n in 0..10 {
            let private = sided(&mut rng, n, true);
            table.answered(NOW, private);
        }
        assert_eq!(table.len(), PER_NETWORK_IN_BUCKET + 10);
    }

    #[test]
    fn new_key_at_an_address_replaces_the_old_and_a_moved_key_only_when_the_old_fails() {
        let mut rng = Rng::new([5; 32]);
        let mut table = Table::new(NodeId([0; 32]));
        let old = contact(&mut rng, 1);
        let new = contact(&mut rng, 1);
        table.answered(NOW, old);
        table.answered(NOW, new);
        assert_eq!(table.contacts(NOW).collect::<Vec<_>>(), [new]);
        let mut moved = new;
        moved.addr.set_port(9);
        assert_eq!(table.answered(NOW, moved), Answered::Moved(new));
        table.failed(NOW, &new.id, &new.addr);
        assert_eq!(table.answered(NOW, moved), Answered::Entered);
        assert_eq!(table.contacts(NOW).collect::<Vec<_>>(), [moved]);
    }

    #[test]
    fn own_id_never_enters_and_age_grows() {
        let mut rng = Rng::new([6; 32]);
        let one = contact(&mut rng, 1);
        let mut table = Table::new(one.id);
        assert!(!table.wants(&one.id, &one.addr));
        assert_eq!(table.answered(NOW, one), Answered::Refused);
        let two = contact(&mut rng, 2);
        table.answered(NOW, two);
        let later = NOW + Duration::from_secs(3600);
        assert_eq!(table.contacts(later).next().unwrap().age, Age(94));
    }

    #[test]
    fn contact_is_as_old_as_others_say_if_that_is_older() {
        let mut rng = Rng::new([7; 32]);
        let mut table = Table::new(NodeId([0; 32]));
        let one = contact(&mut rng, 1);
        let now = NOW + Duration::from_secs(1_000_000);
        table.answered(now, one);
        let later = now + Duration::from_secs(3600);
        for (told, age) in [(50, 94), (120, 120), (100, 120)] {
            let age_told = Age(told);
            table.told(
                later,
                &Contact {
                    age: age_told,
                    ..one
                },
            );
            assert_eq!(table.contacts(later).next().unwrap().age, Age(age));
        }
    }
}
