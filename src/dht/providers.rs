//! Announcements: which peers say that they have a whole file, under the address of its root.
//!
//! Each is kept for the address it came from, which has been proved, and nobody else's is touched by it. What is known
//! stays: at a limit a new one is refused, so that a flood drives nobody out. In memory only; they expire.

use crate::id::BlockId;
use crate::limits::*;
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::contact::{is_private, network, Age, Contact};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

struct Announcement {
    contact: Contact,
    since: Instant,
}

/// All announcements that a node remembers.
#[derive(Default)]
pub(super) struct Providers {
    /// Each list has at most PROVIDERS_PER_ROOT, of different addresses, and is not empty.
    by_root: BTreeMap<BlockId, Vec<Announcement>>,
    /// When each ends; at most PROVIDERS_MAX.
    ends: Timers<(BlockId, SocketAddr)>,
    /// How many there are of each network that is not private.
    by_network: BTreeMap<IpAddr, usize>,
}

impl Providers {
    /// A peer at a proved address announces a file. Whether that is remembered.
    pub(super) fn take(&mut self, now: Instant, root: BlockId, contact: Contact) -> bool {
        self.forget_old(now);
        let addr = contact.addr;
        let announcement = Announcement {
            contact,
            since: now,
        };
        let of_root = self.by_root.get_mut(&root).into_iter().flatten();
        if let Some(known) = of_root.into_iter().find(|it| it.contact.addr == addr) {
            if known.contact.key != contact.key {
                *known = announcement;
            }
        } else if self.is_room(&root, &addr.ip()) {
            self.by_root.entry(root).or_default().push(announcement);
            if !is_private(&addr.ip()) {
                *self.by_network.entry(network(&addr.ip())).or_default() += 1;
            }
        } else {
            return false;
        }
        self.ends.set((root, addr), now + PROVIDER_FOR);
        true
    }

    fn is_room(&self, root: &BlockId, ip: &IpAddr) -> bool {
        let of_root = self.by_root.get(root).map_or(&[][..], Vec::as_slice);
        if self.ends.count() >= PROVIDERS_MAX || of_root.len() >= PROVIDERS_PER_ROOT {
            return false;
        }
        let network_of = network(ip);
        let near = of_root.iter();
        let near = near.filter(|it| network(&it.contact.addr.ip()) == network_of);
        let all = self.by_network.get(&network_of).copied().unwrap_or(0);
        is_private(ip)
            || near.count() < PROVIDERS_PER_ROOT_AND_NETWORK && all < PROVIDERS_PER_NETWORK
    }

    /// At most PROVIDERS_NAMED of those that have announced a file and that may be named; which of them, `turn` decides.
    pub(super) fn named(
        &self,
        now: Instant,
        root: &BlockId,
        turn: u64,
        may_be: impl Fn(&Contact) -> bool,
    ) -> Vec<Contact> {
        let of_root = self.by_root.get(root).into_iter().flatten();
        let fresh = of_root.filter(|it| self.is_fresh(now, root, it));
        let known = fresh.map(|it| Contact {
            age: Age::from_duration(now.since(it.since)),
            ..it.contact
        });
        let mut known: Vec<Contact> = known.filter(may_be).collect();
        let first = turn % known.len().max(1) as u64;
        known.rotate_left(first as usize);
        known.truncate(PROVIDERS_NAMED);
        known
    }

    fn is_fresh(&self, now: Instant, root: &BlockId, it: &Announcement) -> bool {
        let end = self.ends.deadline((*root, it.contact.addr));
        end.is_some_and(|end| end > now)
    }

    /// Forgets what has expired.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while let Some((root, addr)) = self.ends.pop_expired(now) {
            if let Some(of_root) = self.by_root.get_mut(&root) {
                of_root.retain(|it| it.contact.addr != addr);
                if of_root.is_empty() {
                    self.by_root.remove(&root);
                }
            }
            let network = network(&addr.ip());
            if let Some(count) = self.by_network.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    self.by_network.remove(&network);
                }
            }
        }
    }

    /// How many there are, as of when it was looked last.
    pub(super) fn count(&self) -> usize {
        self.ends.count()
    }

    /// Panics if a limit is exceeded; for a driver that looks for faults.
    pub(super) fn check(&self) {
        let lists = self.by_root.values().map(Vec::len);
        assert_eq!(lists.sum::<usize>(), self.ends.count());
        assert!(self.ends.count() <= PROVIDERS_MAX);
        let mut lists = self.by_root.values().map(Vec::len);
        assert!(lists.all(|len| (1..=PROVIDERS_PER_ROOT).contains(&len)));
        let mut counts = self.by_network.values();
        assert!(counts.all(|count| (1..=PROVIDERS_PER_NETWORK).contains(count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeKey;
    use std::time::Duration;

    const ROOT: BlockId = BlockId([1; 32]);

    /// Someone in a public network of its own, by its number.
    fn contact(n: usize) -> Contact {
        let [_, _, high, low] = (n as u32).to_be_bytes();
        let addr = SocketAddr::from(([198, 18 + high, low, 1], 7));
        Contact::new(NodeKey([n as u8; 32]), addr, Age(0))
    }

    fn root(n: usize) -> BlockId {
        let mut root = ROOT;
        root.0[..8].copy_from_slice(&n.to_be_bytes());
        root
    }

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn named(providers: &Providers, now: Instant, root: &BlockId, turn: u64) -> Vec<SocketAddr> {
        let named = providers.named(now, root, turn, |_| true);
        named.iter().map(|it| it.addr).collect()
    }

    #[test]
    fn announcement_is_named_until_it_expires_and_longer_if_it_is_repeated() {
        let mut providers = Providers::default();
        assert!(providers.take(at(0), ROOT, contact(1)));
        assert!(providers.take(at(0), ROOT, contact(2)));
        assert!(providers.take(at(100), ROOT, contact(2)));
        let end = PROVIDER_FOR.as_secs();
        let both = [contact(1).addr, contact(2).addr];
        assert_eq!(named(&providers, at(end - 1), &ROOT, 0), both);
        assert_eq!(named(&providers, at(end), &ROOT, 0), both[1..]);
        assert_eq!(named(&providers, at(end + 100), &ROOT, 0), []);
        assert!(named(&providers, at(1), &root(7), 0).is_empty());
        providers.forget_old(at(end + 100));
        assert!(providers.by_root.is_empty() && providers.by_network.is_empty());
        assert_eq!(providers.count(), 0);
        providers.check();
    }

    #[test]
    fn flood_for_one_root_leaves_the_first_and_takes_two_of_a_network() {
        let mut providers = Providers::default();
        assert!(providers.take(at(0), ROOT, contact(0)));
        let mut taken = 0;
        for port in 1..1000 {
            let mut other = contact(1);
            other.addr.set_port(port);
            taken += usize::from(providers.take(at(1), ROOT, other));
            providers.check();
        }
        assert_eq!(taken, PROVIDERS_PER_ROOT_AND_NETWORK);
        for n in 2..1000 {
            taken += usize::from(providers.take(at(1), ROOT, contact(n)));
            providers.check();
        }
        assert_eq!(taken + 1, PROVIDERS_PER_ROOT);
        assert!(providers.take(at(2), ROOT, contact(0)), "it is known");
        let mut all: Vec<SocketAddr> = (0..16)
            .flat_map(|turn| named(&providers, at(2), &ROOT, turn))
            .collect();
        assert_eq!(all.len(), 16 * PROVIDERS_NAMED);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), PROVIDERS_PER_ROOT, "each is named in its turn");
    }

    #[test]
    fn flood_for_many_roots_is_bounded_for_each_network_and_in_all() {
        let mut providers = Providers::default();
        let mut taken = 0;
        for n in 0..1000 {
            taken += usize::from(providers.take(at(0), root(n), contact(1)));
        }
        assert_eq!(taken, PROVIDERS_PER_NETWORK);
        for n in 0..2 * PROVIDERS_MAX {
            taken += usize::from(providers.take(at(1), root(n + 1000), contact(2 + n / 200)));
        }
        assert_eq!(taken, PROVIDERS_MAX);
        providers.check();
        assert!(providers.take(at(2), root(0), contact(1)), "it is known");
        let late = at(1 + PROVIDER_FOR.as_secs());
        assert!(providers.take(late, root(1), contact(3)));
        assert_eq!(providers.count(), 2, "the rest has expired");
    }

    #[test]
    fn private_networks_are_exempt_and_another_key_takes_only_its_own_address() {
        let mut providers = Providers::default();
        let private = |n: u8, key: u8| {
            let addr = SocketAddr::from(([10, 0, 0, n], 7));
            Contact::new(NodeKey([key; 32]), addr, Age(0))
        };
        for n in 0..PROVIDERS_PER_ROOT as u8 {
            assert!(providers.take(at(0), ROOT, private(n, n)));
        }
        assert!(!providers.take(at(0), ROOT, private(100, 100)));
        assert!(providers.take(at(1), ROOT, private(3, 9)));
        let named = providers.named(at(1), &ROOT, 3, |it| it.key == NodeKey([9; 32]));
        let mut addrs: Vec<SocketAddr> = named.iter().map(|it| it.addr).collect();
        addrs.sort();
        assert_eq!(addrs, [private(3, 9).addr, private(9, 9).addr]);
    }
}
