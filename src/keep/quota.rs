//! How much each network has been given lately, of the allotment or of what is passed on: who comes with much at once,
//! from wherever in its network, gets a share of a peer and not all of it.
//!
//! What a network has been given is forgotten evenly over a day. The table is bounded: when it is full, the network that
//! has been given the least is forgotten.

use crate::limits::{BLOCK_SIZE_MAX, QUOTA_NETWORKS_MAX, QUOTA_PART, QUOTA_PERIOD};
use crate::time::Instant;
use crate::wire::contact::is_private;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a network has been given, as of some time.
#[derive(Clone, Copy)]
struct Account {
    bytes: u64,
    at: Instant,
}

/// Accounts of networks. Private ranges have none.
#[derive(Default)]
pub struct Quota {
    accounts: BTreeMap<IpAddr, Account>,
}

/// The network of an address, as far as one owner is likely to have it: an IPv4 /24, an IPv6 /48.
fn network(ip: &IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
    }
}

/// Bytes of an allotment that one network may fill in [`QUOTA_PERIOD`]: at least a block of the largest, or nobody could give
/// anything to a small peer.
pub fn storing_budget(capacity: u64) -> u64 {
    (capacity / QUOTA_PART).max(BLOCK_SIZE_MAX as u64)
}

impl Account {
    /// What is left of it, of this budget.
    fn now(&self, now: Instant, budget: u64) -> u64 {
        let elapsed = now.since(self.at).as_secs();
        let forgotten =
            u128::from(budget) * u128::from(elapsed) / u128::from(QUOTA_PERIOD.as_secs());
        self.bytes
            .saturating_sub(u64::try_from(forgotten).unwrap_or(u64::MAX))
    }
}

impl Quota {
    /// Whether so many bytes may be added to the account of this address, of this budget.
    pub fn allows(&self, now: Instant, ip: &IpAddr, len: u64, budget: u64) -> bool {
        if is_private(ip) {
            return true;
        }
        let account = self.accounts.get(&network(ip));
        let stored = account.map_or(0, |account| account.now(now, budget));
        stored + len <= budget
    }

    /// So many bytes are added to the account of this address, of this budget.
    pub fn add(&mut self, now: Instant, ip: &IpAddr, len: u64, budget: u64) {
        if is_private(ip) {
            return;
        }
        let network = network(ip);
        if !self.accounts.contains_key(&network) && self.accounts.len() >= QUOTA_NETWORKS_MAX {
            let least = self.accounts.iter();
            let least = least.min_by_key(|(_, account)| account.now(now, budget));
            let least = least.map(|(network, _)| *network);
            least.and_then(|network| self.accounts.remove(&network));
        }
        let empty = Account { bytes: 0, at: now };
        let account = self.accounts.entry(network).or_insert(empty);
        *account = Account {
            bytes: account.now(now, budget) + len,
            at: now,
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    const CAPACITY: u64 = 100 << 20;
    const BLOCK: u64 = BLOCK_SIZE_MAX as u64;

    fn at(secs: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    /// Stores blocks from an address as long as it may; how many.
    fn fill(quota: &mut Quota, now: Instant, ip: &str) -> u64 {
        let (ip, budget) = (ip.parse().unwrap(), storing_budget(CAPACITY));
        let mut count = 0;
        while count < 1000 && quota.allows(now, &ip, BLOCK, budget) {
            quota.add(now, &ip, BLOCK, budget);
            count += 1;
        }
        count
    }

    #[test]
    fn network_fills_its_share_and_no_more_until_a_day_has_gone() {
        let mut quota = Quota::default();
        assert_eq!(fill(&mut quota, at(0), "192.0.2.1"), 20, "5 MiB");
        assert_eq!(fill(&mut quota, at(0), "192.0.2.200"), 0, "its neighbour");
        assert_eq!(fill(&mut quota, at(0), "192.0.3.1"), 20, "another");
        assert_eq!(fill(&mut quota, at(0), "2001:db8:1::1"), 20);
        assert_eq!(fill(&mut quota, at(0), "2001:db8:1:ffff::9"), 0);
        assert_eq!(fill(&mut quota, at(0), "2001:db8:2::1"), 20);
        assert_eq!(fill(&mut quota, at(43_200), "192.0.2.9"), 10, "half a day");
        assert_eq!(fill(&mut quota, at(43_200 + 86_400), "192.0.2.9"), 20);
        for private in ["10.1.2.3", "127.0.0.1", "::1", "fd00::1"] {
            assert_eq!(fill(&mut quota, at(0), private), 1000);
        }
    }

    #[test]
    fn small_peer_takes_one_block_of_each() {
        let ip = "192.0.2.1".parse().unwrap();
        let mut quota = Quota::default();
        let budget = storing_budget(1 << 20);
        assert!(quota.allows(at(0), &ip, BLOCK, budget));
        quota.add(at(0), &ip, BLOCK, budget);
        assert!(!quota.allows(at(0), &ip, 1, budget));
    }

    #[test]
    fn full_table_forgets_who_has_stored_the_least() {
        let mut quota = Quota::default();
        fill(&mut quota, at(0), "192.0.2.1");
        for n in 0..2 * QUOTA_NETWORKS_MAX as u32 {
            let ip = IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8)));
            quota.add(at(0), &ip, 100, storing_budget(CAPACITY));
            assert!(quota.accounts.len() <= QUOTA_NETWORKS_MAX);
        }
        assert_eq!(fill(&mut quota, at(0), "192.0.2.1"), 0, "not the greatest");
    }
}
