//! The routing table: contacts in buckets by the length of the prefix they share with our id.
//!
//! It holds who has answered us, and says who is closest to a point. It sends nothing: `dht` pings, asks and
//! tells it what came of it.

use crate::id::{Distance, NodeId, Point};
use crate::limits::{CONTACT_FAILURES_MAX, K, PER_NETWORK_IN_BUCKET, UNRESPONSIVE_FOR};
use crate::time::Instant;
use crate::wire::contact::{is_private, network, Age, Contact};
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
    /// It has heard from us outside client-mode.
    told: bool,
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

/// Somebody who may be pinged when there is room.
struct Spare {
    id: NodeId,
    addr: SocketAddr,
}

struct Bucket {
    /// At most K, least recently heard first.
    entries: Vec<Entry>,
    /// At most K that answered once and found the bucket full, the latest last.
    spares: Vec<Spare>,
    /// When a lookup last went into its range.
    touched: Instant,
}

impl Bucket {
    fn has_room(&self, addr: &SocketAddr) -> bool {
        let addrs = self.entries.iter().map(|entry| &entry.contact.addr);
        self.entries.len() < K && network_has_room(addrs, addr)
    }

    fn has_room_for_spare(&self, addr: &SocketAddr) -> bool {
        let addrs = self.spares.iter().map(|spare| &spare.addr);
        self.spares.len() < K && network_has_room(addrs, addr)
    }
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
    created: Instant,
    /// By the length of the prefix that their contacts share with us; as many as have been needed. Invariant: no two
    /// entries have one address.
    buckets: Vec<Bucket>,
}

impl Table {
    /// An empty table for a node of this id.
    pub fn new(now: Instant, own: NodeId) -> Table {
        Table {
            own: own.into(),
            created: now,
            buckets: Vec::new(),
        }
    }

    /// Number of contacts, spares not counted.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|it| it.entries.len()).sum()
    }

    /// Whether there is no contact.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|it| it.entries.is_empty())
    }

    /// Whether a bucket holds as many as it can.
    pub fn is_full(&self, index: usize) -> bool {
        self.buckets
            .get(index)
            .is_some_and(|it| it.entries.len() >= K)
    }

    /// A lookup goes into the range of a bucket.
    pub fn touch(&mut self, now: Instant, index: usize) {
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.touched = now;
        }
    }

    /// When a lookup last went into the range of a bucket.
    pub fn touched(&self, index: usize) -> Instant {
        self.buckets
            .get(index)
            .map_or(self.created, |it| it.touched)
    }

    /// The bucket of an index below [`BUCKETS`].
    fn bucket_mut(&mut self, index: usize) -> &mut Bucket {
        while self.buckets.len() <= index {
            self.buckets.push(Bucket {
                entries: Vec::new(),
                spares: Vec::new(),
                touched: self.created,
            });
        }
        &mut self.buckets[index]
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
        let bucket = self.bucket_of(id).and_then(|it| self.buckets.get(it));
        let mut entries = bucket.into_iter().flat_map(|bucket| &bucket.entries);
        entries.any(|entry| entry.contact.id == *id && entry.contact.addr == *addr)
    }

    /// A contact has heard from us outside client-mode.
    pub fn tell(&mut self, id: &NodeId) {
        let bucket = self.bucket_of(id).and_then(|it| self.buckets.get_mut(it));
        let mut entries = bucket.into_iter().flat_map(|bucket| &mut bucket.entries);
        if let Some(entry) = entries.find(|entry| entry.contact.id == *id) {
            entry.told = true;
        }
    }

    /// Whether a contact is not passed over, and has heard from us outside client-mode since that was last forgotten.
    pub fn is_told(&self, now: Instant, id: &NodeId) -> bool {
        let bucket = self.bucket_of(id).and_then(|it| self.buckets.get(it));
        let mut entries = bucket.into_iter().flat_map(|bucket| &bucket.entries);
        entries.any(|entry| entry.contact.id == *id && entry.told && entry.live(now))
    }

    /// We are in client-mode again: nobody has heard of us.
    pub fn forget_told(&mut self) {
        let entries = self.buckets.iter_mut().flat_map(|it| &mut it.entries);
        entries.for_each(|entry| entry.told = false);
    }

    /// Whether a stranger would find a place if it answered: in its bucket or among the spares.
    pub fn wants(&self, id: &NodeId, addr: &SocketAddr) -> bool {
        let Some(index) = self.bucket_of(id) else {
            return false;
        };
        let Some(bucket) = self.buckets.get(index) else {
            return true;
        };
        if let Some(known) = bucket.entries.iter().find(|e| e.contact.id == *id) {
            // It may have moved, but only if the old address is in doubt is that worth a ping.
            return known.contact.addr != *addr && known.failures > 0;
        }
        let is_spare = bucket.spares.iter().any(|spare| spare.id == *id);
        bucket.has_room(addr)
            || (!is_spare && bucket.has_room_for_spare(addr))
            || self.takes_place_of(index, id, addr).is_some()
    }

    /// Which entry of a full bucket leaves for this contact: the K closest to us are kept, of all that are known,
    /// and the farthest of the bucket is none of them.
    fn takes_place_of(&self, index: usize, id: &NodeId, addr: &SocketAddr) -> Option<usize> {
        let bucket = &self.buckets[index];
        if bucket.entries.len() < K {
            return None;
        }
        let distance = |id: &NodeId| self.own.distance(&(*id).into());
        let own = distance(id);
        let closer = bucket.entries.iter();
        let closer = closer
            .filter(|entry| distance(&entry.contact.id) < own)
            .count();
        let deeper = self.buckets[index + 1..].iter();
        let deeper: usize = deeper.map(|bucket| bucket.entries.len()).sum();
        if closer + deeper >= K {
            return None;
        }
        let places = 0..bucket.entries.len();
        let farthest = places.max_by_key(|&nth| distance(&bucket.entries[nth].contact.id))?;
        let others = bucket.entries.iter().enumerate();
        let others = others.filter(|(nth, _)| *nth != farthest);
        network_has_room(others.map(|(_, entry)| &entry.contact.addr), addr).then_some(farthest)
    }

    /// A contact answered a request of ours, and is not in client-mode.
    pub fn answered(&mut self, now: Instant, contact: Contact) -> Answered {
        let Some(index) = self.bucket_of(&contact.id) else {
            return Answered::Refused;
        };
        let bucket = self.bucket_mut(index);
        let mut entries = bucket.entries.iter();
        let known = entries.position(|entry| entry.contact.id == contact.id);
        if let Some(place) = known {
            let entry = &bucket.entries[place];
            if entry.contact.addr == contact.addr {
                let mut entry = bucket.entries.remove(place);
                entry.heard = now;
                entry.failures = 0;
                entry.silent_until = now;
                bucket.entries.push(entry);
                return Answered::Known;
            }
            if entry.failures == 0 {
                return Answered::Moved(entry.contact);
            }
            bucket.entries.remove(place);
        }
        let mut all = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        if let Some(other) = all.find(|entry| entry.contact.addr == contact.addr) {
            // Whoever was at this address is there no more: another has just answered from it.
            let other = other.contact.id;
            self.remove(&other);
        }
        self.enter(now, index, contact)
    }

    /// A contact lives, as is known otherwise than by an answer: what it has left unanswered is not held against it.
    pub fn handle_alive(&mut self, now: Instant, contact: &Contact) {
        let Some(index) = self.bucket_of(&contact.id) else {
            return;
        };
        let mut entries = self.bucket_mut(index).entries.iter_mut();
        let is_it =
            |it: &&mut Entry| it.contact.id == contact.id && it.contact.addr == contact.addr;
        if let Some(entry) = entries.find(is_it) {
            entry.failures = 0;
            entry.silent_until = now;
        }
    }

    /// Finds a place for a contact that is in no bucket.
    fn enter(&mut self, now: Instant, index: usize, contact: Contact) -> Answered {
        let (id, addr) = (contact.id, contact.addr);
        let bucket = &mut self.buckets[index];
        bucket.spares.retain(|spare| spare.id != id);
        let mut left = None;
        if !bucket.has_room(&addr) {
            left = self.takes_place_of(index, &id, &addr);
            if left.is_none() {
                return self.add_spare(index, Spare { id, addr });
            }
        }
        let bucket = &mut self.buckets[index];
        let left = left.map(|place| bucket.entries.remove(place).contact);
        reserve_few(&mut bucket.entries);
        bucket.entries.push(Entry {
            contact,
            since: now,
            heard: now,
            failures: 0,
            silent_until: now,
            told: false,
        });
        if let Some(Contact { id, addr, .. }) = left {
            self.add_spare(index, Spare { id, addr });
        }
        Answered::Entered
    }

    /// The same for one that has been known for as long as its age says.
    pub fn answered_since(&mut self, now: Instant, contact: Contact) {
        if self.answered(now, contact) == Answered::Entered {
            let bucket = self.bucket_of(&contact.id);
            let entry = bucket.and_then(|it| self.buckets.get_mut(it)?.entries.last_mut());
            if let Some(entry) = entry {
                entry.since = now - contact.age.to_duration();
            }
        }
    }

    /// Others have known a contact for as long as its age says. If it is in the table it is believed to be as old.
    pub fn note_age(&mut self, now: Instant, contact: &Contact) {
        let bucket = self.bucket_of(&contact.id);
        let Some(bucket) = bucket.and_then(|it| self.buckets.get_mut(it)) else {
            return;
        };
        let mut entries = bucket.entries.iter_mut();
        let entry =
            entries.find(|it| it.contact.id == contact.id && it.contact.addr == contact.addr);
        if let Some(entry) = entry {
            entry.since = entry.since.min(now - contact.age.to_duration());
        }
    }

    fn add_spare(&mut self, index: usize, spare: Spare) -> Answered {
        let bucket = &mut self.buckets[index];
        if !bucket.has_room_for_spare(&spare.addr) {
            return Answered::Refused;
        }
        reserve_few(&mut bucket.spares);
        bucket.spares.push(spare);
        Answered::Spare
    }

    /// A contact left a request unanswered, whose attempts are used up, and the first of which was sent at `sent`. If it
    /// was passed over even then, and asked for want of others, nothing new is learned of it.
    pub fn failed(
        &mut self,
        now: Instant,
        sent: Instant,
        id: &NodeId,
        addr: &SocketAddr,
    ) -> Failed {
        let Some(index) = self.bucket_of(id) else {
            return Failed::Unknown;
        };
        let bucket = self.bucket_mut(index);
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
        if entry.silent_until - UNRESPONSIVE_FOR < sent && sent < entry.silent_until {
            return Failed::Kept;
        }
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
        let index = self.bucket_of(id);
        let Some(bucket) = index.and_then(|it| self.buckets.get_mut(it)) else {
            return;
        };
        bucket.spares.retain(|spare| spare.id != *id);
        bucket.entries.retain(|entry| entry.contact.id != *id);
    }

    /// Takes the latest spare of the bucket of `id` if there is room for it in the bucket: to be pinged, since it
    /// may be gone by now. It enters when it answers.
    pub fn take_spare(&mut self, id: &NodeId) -> Option<(NodeId, SocketAddr)> {
        let index = self.bucket_of(id)?;
        let bucket = self.buckets.get_mut(index)?;
        let mut spares = bucket.spares.iter();
        let place = spares.rposition(|spare| bucket.has_room(&spare.addr))?;
        let spare = bucket.spares.remove(place);
        Some((spare.id, spare.addr))
    }

    /// How many buckets, from the farthest, have K live contacts each, up to the first that has fewer.
    pub fn full_buckets(&self, now: Instant) -> usize {
        let live = |bucket: &Bucket| bucket.entries.iter().filter(|it| it.live(now)).count();
        let mut buckets = self.buckets.iter();
        let first = buckets.position(|bucket| live(bucket) < K);
        first.unwrap_or(self.buckets.len())
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
        let mut group: Vec<(Distance, &Entry)> = Vec::with_capacity(K);
        let shared = self.own.common_prefix(target);
        // Who shares with us exactly the prefix that the target shares with us differs from us in the next bit, as
        // the target does: the closest. All who share more with us come next, at distances that mix between
        // buckets. Then bucket by bucket outwards.
        let end = self.buckets.len();
        let deeper = end.min(shared + 1)..end;
        let nearest = end.min(shared)..end.min(shared + 1);
        let outwards = (0..end.min(shared)).rev().map(|index| index..index + 1);
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
            group.extend(entries.map(|entry| (target.distance(&entry.contact.id.into()), entry)));
            let room = max - found.len();
            if group.len() > room {
                group.select_nth_unstable_by_key(room, |it| it.0);
                group.truncate(room);
            }
            group.sort_unstable_by_key(|it| it.0);
            found.extend(group.iter().map(|it| it.1.named(now)));
        }
        found
    }
}

/// Makes room for one more in a list that changes seldom and is one of thousands: with little to spare.
pub(super) fn reserve_few<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(4);
    }
}

/// Whether one more address of its network may stand among these.
fn network_has_room<'a>(addrs: impl Iterator<Item = &'a SocketAddr>, addr: &SocketAddr) -> bool {
    if is_private(&addr.ip()) {
        return true;
    }
    let of = network(&addr.ip());
    let same = addrs.filter(|other| network(&other.ip()) == of);
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
            let mut table = Table::new(NOW, own);
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
        let mut table = Table::new(NOW, NodeId([0; 32]));
        for n in 100..100 + K as u16 {
            let near = sided(&mut rng, n, false);
            table.answered(NOW, near);
        }
        let near = table.len();
        let far: Vec<Contact> = (0..50).map(|n| sided(&mut rng, n, true)).collect();
        let became: Vec<Answered> = far.iter().map(|c| table.answered(NOW, *c)).collect();
        assert!(became[..K].iter().all(|&a| a == Answered::Entered));
        assert!(became[K..2 * K].iter().all(|&a| a == Answered::Spare));
        assert!(became[2 * K..].iter().all(|&a| a == Answered::Refused));
        assert_eq!(table.len(), near + K);
        assert!(!table.wants(&far[45].id, &far[45].addr));

        for nth in 1..CONTACT_FAILURES_MAX {
            assert_eq!(
                table.failed(NOW, NOW, &far[3].id, &far[3].addr),
                Failed::Kept,
                "{nth}"
            );
        }
        let named = table.closest(NOW, &far[3].id.into(), 1, |_| true);
        assert_ne!(named[0].id, far[3].id, "who failed is not named");
        let later = NOW + UNRESPONSIVE_FOR;
        assert_eq!(table.stale(later, NOW, 9), [far[3]], "but tried again");
        assert_eq!(
            table.failed(NOW, NOW, &far[3].id, &far[3].addr),
            Failed::Dropped
        );
        let latest = far[2 * K - 1];
        let spare = table.take_spare(&far[3].id);
        assert_eq!(spare, Some((latest.id, latest.addr)), "the latest is tried");
        assert_eq!(table.answered(NOW, latest), Answered::Entered);
        assert_eq!(table.take_spare(&far[3].id), None, "full again");
    }

    #[test]
    fn closest_of_all_are_kept_though_their_bucket_is_full() {
        for seed in 0..20 {
            let mut rng = Rng::new([seed; 32]);
            let own = NodeId(rng.bytes());
            let mut table = Table::new(NOW, own);
            let mut all: Vec<Contact> = (0..1000).map(|n| contact(&mut rng, n)).collect();
            for one in &all {
                if table.wants(&one.id, &one.addr) {
                    table.answered(NOW, *one);
                }
            }
            let own = Point::from(own);
            all.sort_by_key(|contact| own.distance(&contact.id.into()));
            assert_eq!(table.closest(NOW, &own, K, |_| true), all[..K]);
            assert!(table.buckets.iter().all(|it| it.entries.len() <= K));
        }
    }

    #[test]
    fn answer_clears_failures() {
        let mut rng = Rng::new([3; 32]);
        let mut table = Table::new(NOW, NodeId([0; 32]));
        let one = contact(&mut rng, 1);
        table.answered(NOW, one);
        for _ in 0..10 {
            assert_eq!(table.failed(NOW, NOW, &one.id, &one.addr), Failed::Kept);
            assert_eq!(table.answered(NOW, one), Answered::Known);
        }
        assert_eq!(table.closest(NOW, &one.id.into(), 1, |_| true), [one]);
    }

    #[test]
    fn contact_known_to_live_is_not_passed_over_nor_dropped_for_lost_datagrams() {
        let mut rng = Rng::new([3; 32]);
        let one = contact(&mut rng, 1);
        let mut table = Table::new(NOW, NodeId([0; 32]));
        table.answered(NOW, one);
        let closest = |table: &Table| table.closest(NOW, &one.id.into(), 1, |_| true);
        for _ in 0..10 {
            assert_eq!(table.failed(NOW, NOW, &one.id, &one.addr), Failed::Kept);
            assert_eq!(closest(&table), []);
            table.handle_alive(NOW, &one);
            assert_eq!(closest(&table), [one]);
        }
    }

    #[test]
    fn one_network_cannot_fill_a_bucket_unless_private() {
        let mut rng = Rng::new([4; 32]);
        let mut table = Table::new(NOW, NodeId([0; 32]));
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
        let mut table = Table::new(NOW, NodeId([0; 32]));
        let old = contact(&mut rng, 1);
        let new = contact(&mut rng, 1);
        table.answered(NOW, old);
        table.answered(NOW, new);
        assert_eq!(table.contacts(NOW).collect::<Vec<_>>(), [new]);
        let mut moved = new;
        moved.addr.set_port(9);
        assert_eq!(table.answered(NOW, moved), Answered::Moved(new));
        table.failed(NOW, NOW, &new.id, &new.addr);
        assert_eq!(table.answered(NOW, moved), Answered::Entered);
        assert_eq!(table.contacts(NOW).collect::<Vec<_>>(), [moved]);
    }

    #[test]
    fn own_id_never_enters_and_age_grows() {
        let mut rng = Rng::new([6; 32]);
        let one = contact(&mut rng, 1);
        let mut table = Table::new(NOW, one.id);
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
        let mut table = Table::new(NOW, NodeId([0; 32]));
        let one = contact(&mut rng, 1);
        let now = NOW + Duration::from_secs(1_000_000);
        table.answered(now, one);
        let later = now + Duration::from_secs(3600);
        for (told, age) in [(50, 94), (120, 120), (100, 120)] {
            let age_told = Age(told);
            table.note_age(
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
