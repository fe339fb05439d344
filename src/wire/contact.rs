//! A contact: how a peer is named to another. Key, IP address, port, and how long it has been known live.

use super::codec::{Malformed, Reader};
use crate::id::{NodeId, NodeKey};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A peer that can be asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contact {
    /// Invariant: the hash of `key`.
    pub id: NodeId,
    /// The key that its id is made from.
    pub key: NodeKey,
    /// Where it answers, UDP and TCP on one port. Never a v4-mapped IPv6 address.
    pub addr: SocketAddr,
    /// How long whoever names it has known it live.
    pub age: Age,
}

impl Contact {
    /// The contact of this key at this address.
    pub fn new(key: NodeKey, addr: SocketAddr, age: Age) -> Contact {
        Contact {
            id: key.id(),
            key,
            addr: normalise(addr),
            age,
        }
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.id, self.addr)
    }
}

/// 2^(63 + n / 8) for n from 1 to 7, rounded up.
const EIGHTHS: [u64; 7] = [
    0x8b95c1e3ea8bd6e7,
    0x9837f0518db8a970,
    0xa5fed6a9b15138eb,
    0xb504f333f9de6485,
    0xc5672a115506dade,
    0xd744fccad69d6af5,
    0xeac0c6e7dd24392f,
];

/// How long a contact has been known live, on a logarithmic scale in one byte: `n` stands for
/// 2^(n / 8) - 1 seconds, rounded down; 255 is some 124 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Age(pub u8);

impl Age {
    /// The largest age that is not more than this span.
    pub fn from_duration(span: Duration) -> Age {
        let seconds = span.as_secs().saturating_add(1);
        let doublings = seconds.ilog2();
        let mantissa = seconds << (63 - doublings);
        let eighths = EIGHTHS.iter().filter(|&&eighth| mantissa >= eighth);
        Age((doublings * 8 + eighths.count() as u32).min(255) as u8)
    }

    /// The shortest span of this age.
    pub fn to_duration(self) -> Duration {
        Duration::from_secs((f64::from(self.0) / 8.0).exp2().ceil() as u64 - 1)
    }

    /// The median of what several said, the older of two; 0 of nothing.
    pub fn median(ages: &[Age]) -> Age {
        let mut ages = ages.to_vec();
        ages.sort_unstable();
        ages.get(ages.len() / 2).copied().unwrap_or_default()
    }
}

/// Bytes of an address with its port, as [`address_bytes`] has them.
pub const ADDR_SIZE: usize = 18;

/// 16 bytes of IP address, IPv4 as v4-mapped, and 2 of port.
pub fn address_bytes(addr: &SocketAddr) -> [u8; ADDR_SIZE] {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDR_SIZE];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&addr.port().to_be_bytes());
    bytes
}

/// Reads what [`address_bytes`] made, whatever the address.
pub fn read_address(reader: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = IpAddr::from(reader.array::<16>()?);
    Ok(normalise(SocketAddr::new(ip, reader.u16()?)))
}

/// Writes lists of contacts: a count and 39 bytes for each with an IPv4 address (key 32, address 4, port 2,
/// age 1), then a count and 51 bytes for each with an IPv6 address (key 32, address 16, port 2, age 1).
pub fn write_contacts(out: &mut Vec<u8>, contacts: &[Contact]) {
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        let family = contacts.iter().filter(|contact| family(&contact.addr.ip()));
        out.push(u8::try_from(family.clone().count()).expect("at most K contacts in a list"));
        for contact in family {
            out.extend_from_slice(&contact.key.0);
            match contact.addr.ip() {
                IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
            }
            out.extend_from_slice(&contact.addr.port().to_be_bytes());
            out.push(contact.age.0);
        }
    }
}

/// Reads what [`write_contacts`] wrote: at most `max` contacts in all, each with a usable address. Hashes each
/// contact's key.
pub fn read_contacts(reader: &mut Reader<'_>, max: usize) -> Result<Vec<Contact>, Malformed> {
    let mut contacts = Vec::new();
    for v4 in [true, false] {
        let count = usize::from(reader.u8()?);
        if contacts.len() + count > max {
            return Err(Malformed::Value("number of contacts"));
        }
        for _ in 0..count {
            let key = NodeKey(reader.array()?);
            let ip = if v4 {
                IpAddr::from(reader.array::<4>()?)
            } else {
                IpAddr::from(reader.array::<16>()?)
            };
            let port = reader.u16()?;
            let age = Age(reader.u8()?);
            let addr = SocketAddr::new(ip, port);
            if !is_usable(&addr) || normalise(addr) != addr {
                return Err(Malformed::Value("contact address"));
            }
            contacts.push(Contact::new(key, addr, age));
        }
    }
    Ok(contacts)
}

/// Whether something can be sent there: a port, and neither unspecified nor multicast nor broadcast.
pub fn is_usable(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// The same address, with a v4-mapped IPv6 address as the IPv4 address that it is, and no flow or scope.
pub fn normalise(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Whether the address is of a range that is exempt from limits per network: loopback, RFC 1918, link-local,
/// RFC 6598, IPv6 unique local (RFC 4193).
pub fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            v6.is_loopback() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
    }
}

/// The network of an address, IPv4 /24 or IPv6 /56, for limits per network.
pub fn network(ip: &IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(*v6) & (u128::MAX << 72))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(n: u8, addr: &str) -> Contact {
        Contact::new(NodeKey([n; 32]), addr.parse().expect("an address"), Age(n))
    }

    #[test]
    fn contacts_of_both_families_are_read_back() {
        let contacts = [
            contact(1, "127.0.0.1:1"),
            contact(2, "10.0.0.2:2"),
            contact(3, "[fd00::3]:3"),
        ];
        let mut bytes = Vec::new();
        write_contacts(&mut bytes, &contacts);
        assert_eq!(bytes.len(), 1 + 2 * 39 + 1 + 51);
        let mut reader = Reader::new(&bytes);
        assert_eq!(read_contacts(&mut reader, 3), Ok(contacts.to_vec()));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(
            read_contacts(&mut Reader::new(&bytes), 2),
            Err(Malformed::Value("number of contacts"))
        );
        for cut in 0..bytes.len() {
            assert_eq!(
                read_contacts(&mut Reader::new(&bytes[..cut]), 3),
                Err(Malformed::Truncated)
            );
        }
    }

    #[test]
    fn addresses_nobody_can_send_to_are_refused() {
        for bad in [
            "127.0.0.1:0",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
        ] {
            let mut bytes = Vec::new();
            write_contacts(&mut bytes, &[contact(1, bad)]);
            assert!(
                read_contacts(&mut Reader::new(&bytes), 20).is_err(),
                "{bad}"
            );
        }
        let mut mapped = vec![0, 1];
        mapped.extend_from_slice(&[7; 32]);
        mapped.extend_from_slice(&[
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1, 0, 9, 0,
        ]);
        assert!(
            read_contacts(&mut Reader::new(&mapped), 20).is_err(),
            "v4-mapped"
        );
    }

    #[test]
    fn age_grows_with_time_and_ends_at_255() {
        assert_eq!(Age::from_duration(Duration::ZERO), Age(0));
        assert_eq!(Age::from_duration(Duration::from_secs(1)), Age(8));
        assert_eq!(Age::from_duration(Duration::from_secs(3600)), Age(94));
        assert_eq!(Age::from_duration(Duration::from_secs(u64::MAX)), Age(255));
        for age in (0..=255).map(Age) {
            let shortest = age.to_duration();
            let least = Age::from_duration(shortest);
            assert!(least >= age, "{age:?} {least:?}");
            if let Some(before) = shortest.checked_sub(Duration::from_secs(1)) {
                assert!(Age::from_duration(before) < age, "{age:?}");
            }
        }
    }

    #[test]
    fn networks_are_slash_24_and_slash_56() {
        let network_of = |ip: &str| network(&ip.parse().expect("an address")).to_string();
        assert_eq!(network_of("192.0.2.77"), "192.0.2.0");
        assert_eq!(network_of("2001:db8:1:2ff:3::1"), "2001:db8:1:200::");
    }
}
