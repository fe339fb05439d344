//! What must hold of the machine between any two calls.

use super::explore::Owner;
use super::requests::Purpose;
use super::table::BUCKETS;
use super::{Dht, Timer};
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::{is_private, network};
use std::collections::{BTreeMap, BTreeSet};

impl Dht {
    /// Panics if a limit is exceeded or an invariant broken. Linear in what is held; for a driver that looks for faults.
    pub fn check(&self, now: Instant) {
        self.check_table(now);
        self.check_requests();
        let mut lookups = self.lookups.values();
        assert!(lookups.all(|it| it.lookup.known() <= LOOKUP_CONTACTS_MAX));
        let started = self.lookups.values();
        let started = started.filter(|it| it.started && it.owner == Owner::User);
        assert_eq!(self.running, started.count(), "started lookups are counted");
        assert!(self.running <= LOOKUPS_MAX);
        assert!(self.regions.len() <= REGIONS_MAX);
        assert!(self.silent.len() <= UNRESPONSIVE_MAX);
        assert!(self.observed.len() <= OBSERVED_MAX);
        assert!(self.other_versions.len() <= OTHER_VERSIONS_MAX);
        assert!(self.join.seed_addresses().count() <= SEEDS_MAX);
        assert!(self.reach.requesters.len() <= REQUESTERS_MAX);
        assert!(self.refreshes.len() <= BUCKETS + 1);
        assert!(self.reach.dialers.len() <= DIALERS_MAX);
        assert!(self.dialers_waited_for() <= DIAL_BACKS_WAITING_MAX);
        self.providers.check();
    }

    fn check_table(&self, now: Instant) {
        let mut buckets = [0; BUCKETS];
        let mut networks = BTreeMap::new();
        for contact in self.table.contacts(now) {
            let bucket = self.table.bucket_of(&contact.id);
            let bucket = bucket.expect("nobody has itself as a contact");
            buckets[bucket] += 1;
            let ip = contact.addr.ip();
            if !is_private(&ip) {
                *networks.entry((bucket, network(&ip))).or_insert(0) += 1;
            }
        }
        assert!(buckets.iter().all(|&count| count <= K), "a bucket has K");
        assert_eq!(buckets.iter().sum::<usize>(), self.table.len());
        let mut networks = networks.into_values();
        assert!(networks.all(|count| count <= PER_NETWORK_IN_BUCKET));
    }

    fn check_requests(&self) {
        let (mut fresh, mut probing) = (0, BTreeSet::new());
        for (transaction, outstanding) in &self.outstanding {
            let is_timed = self.timers.is_set(Timer::Resend(*transaction));
            assert!(is_timed, "a request is sent again or given up");
            assert!(outstanding.attempts <= REQUEST_ATTEMPTS);
            match outstanding.purpose {
                Purpose::Lookup(_) | Purpose::Region(..) if outstanding.attempts == 1 => fresh += 1,
                Purpose::Probe => {
                    let is_alone = probing.insert(outstanding.to);
                    assert!(is_alone, "one probe at a time for an address");
                }
                _ => {}
            }
        }
        assert_eq!(self.fresh, fresh, "requests of searches are counted");
        assert!(self.fresh <= REQUESTS_MAX);
        assert!(probing.len() <= PROBES_MAX);
    }
}
