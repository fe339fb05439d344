//! Datagrams: the requests that peers ask each other over UDP, and their replies. One of each fits one packet.
//!
//! Bytes become values here and values bytes; whom to believe and what to answer is `dht`'s. The header is read
//! first, so that nothing more is spent on a reply that nobody asked for. strew-protocol(7) is the specification.

use super::codec::{Malformed, Reader};
use super::contact::{normalise, read_contacts, write_contacts, Contact};
use super::PROTOCOL_VERSION;
use crate::id::{BlockId, NodeKey, Point};
use crate::limits::{DATAGRAM_SIZE_MAX, DIAL_BACK_OTHERS_MAX, HAVE_MAX, K};
use std::net::{IpAddr, SocketAddr};

/// Bytes of a header; the body follows.
pub const HEADER_SIZE: usize = 53;

/// The first two bytes of every datagram.
const MAGIC: [u8; 2] = *b"SW";

/// The kind byte of a VERSION datagram.
const VERSION: u8 = 0xff;

/// The bit of the kind byte that makes a reply.
const REPLY: u8 = 0x80;

const FLAG_CLIENT_MODE: u8 = 1;
const FLAG_IPV4: u8 = 2;
const FLAG_IPV6: u8 = 4;
const FLAG_SHORTENED: u8 = 8;

/// Bytes of a contact with an IPv4 address.
const CONTACT_V4_SIZE: usize = 39;

/// Bytes of a contact with an IPv6 address.
const CONTACT_V6_SIZE: usize = 51;

/// Bytes of the two counts in a list of contacts.
const CONTACT_COUNTS_SIZE: usize = 2;

/// Proof that its owner receives at its address: 8 bytes that only the peer that made them can check. All zero
/// where none is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Token(pub [u8; 8]);

/// Families of addresses that an asker can use. None of them: it wants no contacts at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Families {
    /// Whether an address is of one of these families.
    pub fn include(&self, addr: &SocketAddr) -> bool {
        match addr.ip() {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }

    /// Whether any family is among them.
    pub fn any(&self) -> bool {
        self.ipv4 || self.ipv6
    }

    /// Bytes of the longest list of K contacts of these families.
    fn contacts_size_max(&self) -> usize {
        let each = match (self.ipv4, self.ipv6) {
            (_, true) => CONTACT_V6_SIZE,
            (true, false) => CONTACT_V4_SIZE,
            (false, false) => 0,
        };
        CONTACT_COUNTS_SIZE + K * each
    }
}

/// What a datagram asks or answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Are you there, and whence do I come.
    Ping,
    /// Which contacts are closest to a point.
    FindNode,
    /// Which of these blocks do you hold.
    Have,
    /// Connect to me.
    DialBack,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Kind::Ping => 1,
            Kind::FindNode => 2,
            Kind::Have => 3,
            Kind::DialBack => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Ping),
            2 => Some(Kind::FindNode),
            3 => Some(Kind::Have),
            4 => Some(Kind::DialBack),
            _ => None,
        }
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It asks.
    Request,
    /// It answers.
    Reply,
}

/// What precedes every body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What is asked or answered.
    pub kind: Kind,
    /// Request or reply.
    pub direction: Direction,
    /// The sender is in client-mode.
    pub client_mode: bool,
    /// What the asker can use; of no meaning in a reply.
    pub families: Families,
    /// The reply leaves something out: ask again with its token. Never set in a request.
    pub shortened: bool,
    /// Chosen by the asker at random, repeated in the reply.
    pub transaction: u64,
    /// The sender's key.
    pub key: NodeKey,
    /// In a request the one last got from the recipient, in a reply the one to ask again with.
    pub token: Token,
}

/// A header as far as it could be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// One of our version.
    Ours(Header),
    /// One of another version, of which only this much is the same in all.
    Other {
        /// The sender's version.
        version: u8,
        /// Whether it asks. A VERSION datagram answers.
        direction: Direction,
        /// Of the request that it asks or answers.
        transaction: u64,
    },
}

impl Header {
    /// Reads the first [`HEADER_SIZE`] bytes.
    ///
    /// Fails on another magic, an unknown kind, an unknown flag or a request that is shortened.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Start, Malformed> {
        if reader.array()? != MAGIC {
            return Err(Malformed::Value("magic"));
        }
        let version = reader.u8()?;
        let kind = reader.u8()?;
        let flags = reader.u8()?;
        let transaction = reader.u64()?;
        let key = NodeKey(reader.array()?);
        let token = Token(reader.array()?);
        let direction = if kind & REPLY == 0 {
            Direction::Request
        } else {
            Direction::Reply
        };
        if version != PROTOCOL_VERSION {
            return Ok(Start::Other {
                version,
                direction,
                transaction,
            });
        }
        let Some(kind) = Kind::from_byte(kind & !REPLY) else {
            return Err(Malformed::Value("kind"));
        };
        let shortened = flags & FLAG_SHORTENED != 0;
        let known = FLAG_CLIENT_MODE | FLAG_IPV4 | FLAG_IPV6 | FLAG_SHORTENED;
        if flags & !known != 0 || (shortened && direction == Direction::Request) {
            return Err(Malformed::Value("flags"));
        }
        Ok(Start::Ours(Header {
            kind,
            direction,
            client_mode: flags & FLAG_CLIENT_MODE != 0,
            families: Families {
                ipv4: flags & FLAG_IPV4 != 0,
                ipv6: flags & FLAG_IPV6 != 0,
            },
            shortened,
            transaction,
            key,
            token,
        }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut kind = self.kind.to_byte();
        if self.direction == Direction::Reply {
            kind |= REPLY;
        }
        let mut flags = 0;
        for (set, flag) in [
            (self.client_mode, FLAG_CLIENT_MODE),
            (self.families.ipv4, FLAG_IPV4),
            (self.families.ipv6, FLAG_IPV6),
            (self.shortened, FLAG_SHORTENED),
        ] {
            if set {
                flags |= flag;
            }
        }
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[PROTOCOL_VERSION, kind, flags]);
        out.extend_from_slice(&self.transaction.to_be_bytes());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.token.0);
    }
}

/// The answer to a request of another version: [`HEADER_SIZE`] bytes, by which the asker learns ours.
pub fn encode_version(transaction: u64, key: &NodeKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_SIZE);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[PROTOCOL_VERSION, VERSION, 0]);
    out.extend_from_slice(&transaction.to_be_bytes());
    out.extend_from_slice(&key.0);
    out.extend_from_slice(&Token::default().0);
    out
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Nothing but an answer.
    Ping,
    /// The contacts closest to this point.
    FindNode(Point),
    /// Which of these blocks are held, 1 to [`HAVE_MAX`] of them; and the contacts closest to the first.
    Have(Vec<BlockId>),
    /// Connect by TCP to where this comes from and say this nonce.
    DialBack(u64),
}

impl Request {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Request::Ping => Kind::Ping,
            Request::FindNode(_) => Kind::FindNode,
            Request::Have(_) => Kind::Have,
            Request::DialBack(_) => Kind::DialBack,
        }
    }

    /// Reads the body of a request, with its padding of zero bytes.
    pub fn decode(kind: Kind, mut reader: Reader<'_>) -> Result<Request, Malformed> {
        let request = match kind {
            Kind::Ping => Request::Ping,
            Kind::FindNode => Request::FindNode(Point(reader.array()?)),
            Kind::Have => {
                let count = usize::from(reader.u8()?);
                if count == 0 || count > HAVE_MAX {
                    return Err(Malformed::Value("number of addresses"));
                }
                let mut blocks = Vec::with_capacity(count);
                for _ in 0..count {
                    blocks.push(BlockId(reader.array()?));
                }
                Request::Have(blocks)
            }
            Kind::DialBack => Request::DialBack(reader.u64()?),
        };
        reader.end_padded()?;
        Ok(request)
    }

    /// The whole datagram, padded to the longest reply if `pad`. The header's kind, direction and `shortened`
    /// are set from the request.
    pub fn encode(&self, mut header: Header, pad: bool) -> Vec<u8> {
        header.kind = self.kind();
        header.direction = Direction::Request;
        header.shortened = false;
        let mut out = Vec::with_capacity(DATAGRAM_SIZE_MAX);
        header.encode(&mut out);
        match self {
            Request::Ping => {}
            Request::FindNode(target) => out.extend_from_slice(&target.0),
            Request::Have(blocks) => {
                assert!(
                    (1..=HAVE_MAX).contains(&blocks.len()),
                    "a HAVE names 1 to HAVE_MAX blocks"
                );
                out.push(blocks.len() as u8);
                for block in blocks {
                    out.extend_from_slice(&block.0);
                }
            }
            Request::DialBack(nonce) => out.extend_from_slice(&nonce.to_be_bytes()),
        }
        if pad {
            let reply_size_max = HEADER_SIZE
                + match self {
                    Request::Ping => 18,
                    Request::FindNode(_) => header.families.contacts_size_max(),
                    Request::Have(_) => 4 + header.families.contacts_size_max(),
                    Request::DialBack(_) => 1,
                };
            out.resize(out.len().max(reply_size_max), 0);
        }
        out
    }
}

/// Which of the blocks named in a HAVE are held: bit 31, the highest, stands for the first, bit 30 for the
/// second, and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bitmap(pub u32);

impl Bitmap {
    /// Whether the block named at `index`, from 0, is held; false beyond [`HAVE_MAX`].
    pub fn holds(&self, index: usize) -> bool {
        index < HAVE_MAX && self.0 & (1 << (31 - index)) != 0
    }

    /// Says that the block at `index`, below [`HAVE_MAX`], is held.
    pub fn set(&mut self, index: usize) {
        assert!(index < HAVE_MAX, "a HAVE names at most HAVE_MAX blocks");
        self.0 |= 1 << (31 - index);
    }
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Where the request came from, as the replier saw it.
    Ping(SocketAddr),
    /// Contacts, the closest first within a family.
    FindNode(Vec<Contact>),
    /// What is held, and contacts as for `FindNode`.
    Have(Bitmap, Vec<Contact>),
    /// Whether the replier will connect, and who else has asked it to: they may be willing, too.
    DialBack(bool, Vec<SocketAddr>),
    /// Nothing but a token: the request's address was not proved. Always shortened.
    Nothing(Kind),
}

impl Reply {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Reply::Ping(_) => Kind::Ping,
            Reply::FindNode(_) => Kind::FindNode,
            Reply::Have(..) => Kind::Have,
            Reply::DialBack(..) => Kind::DialBack,
            Reply::Nothing(kind) => *kind,
        }
    }

    /// Reads the body of a reply, at most K contacts in it. Only a shortened one may be empty.
    pub fn decode(header: &Header, mut reader: Reader<'_>) -> Result<Reply, Malformed> {
        let body = reader.rest();
        if body.is_empty() && header.shortened {
            return Ok(Reply::Nothing(header.kind));
        }
        let mut reader = Reader::new(body);
        let reply = match header.kind {
            Kind::Ping => Reply::Ping(read_addr(&mut reader)?),
            Kind::FindNode => Reply::FindNode(read_contacts(&mut reader, K)?),
            Kind::Have => {
                let bitmap = Bitmap(reader.u32()?);
                Reply::Have(bitmap, read_contacts(&mut reader, K)?)
            }
            Kind::DialBack => {
                let will = match reader.u8()? {
                    0 => true,
                    1 => false,
                    _ => return Err(Malformed::Value("answer to a dial back")),
                };
                let count = usize::from(reader.u8()?);
                if count > DIAL_BACK_OTHERS_MAX {
                    return Err(Malformed::Value("number of addresses"));
                }
                let others = (0..count).map(|_| read_addr(&mut reader));
                Reply::DialBack(will, others.collect::<Result<_, _>>()?)
            }
        };
        reader.end()?;
        Ok(reply)
    }

    /// The whole datagram, at most `size_max` bytes, which is at least [`HEADER_SIZE`]. Contacts that do not fit
    /// are left out, the farthest first; what cannot be cut becomes `Nothing`. Either sets the header's
    /// `shortened`; its kind and direction are set from the reply.
    pub fn encode(&self, mut header: Header, size_max: usize) -> Vec<u8> {
        assert!(size_max >= HEADER_SIZE, "room for a header");
        header.kind = self.kind();
        header.direction = Direction::Reply;
        let room = size_max.min(DATAGRAM_SIZE_MAX) - HEADER_SIZE;
        let (fixed, contacts) = match self {
            Reply::Ping(_) => (ADDR_SIZE, None),
            Reply::FindNode(contacts) => (0, Some(contacts)),
            Reply::Have(_, contacts) => (4, Some(contacts)),
            Reply::DialBack(_, others) => (2 + others.len() * ADDR_SIZE, None),
            Reply::Nothing(_) => (0, None),
        };
        let counts = contacts.map_or(0, |_| CONTACT_COUNTS_SIZE);
        let fits = fixed + counts <= room;
        let mut taken: &[Contact] = &[];
        if let Some(contacts) = contacts.filter(|_| fits) {
            let count = fitting(contacts, room - fixed - counts);
            taken = &contacts[..count];
            header.shortened |= count < contacts.len();
        }
        header.shortened |= !fits || matches!(self, Reply::Nothing(_));
        let mut out = Vec::with_capacity(HEADER_SIZE + room);
        header.encode(&mut out);
        if !fits {
            return out;
        }
        match self {
            Reply::Ping(observed) => write_addr(&mut out, observed),
            Reply::FindNode(_) => write_contacts(&mut out, taken),
            Reply::Have(bitmap, _) => {
                out.extend_from_slice(&bitmap.0.to_be_bytes());
                write_contacts(&mut out, taken);
            }
            Reply::DialBack(will, others) => {
                out.extend_from_slice(&[u8::from(!will), others.len() as u8]);
                others.iter().for_each(|addr| write_addr(&mut out, addr));
            }
            Reply::Nothing(_) => {}
        }
        out
    }
}

/// Bytes of an address with its port.
const ADDR_SIZE: usize = 18;

/// 16 bytes of IP address, IPv4 as v4-mapped, and 2 of port.
fn write_addr(out: &mut Vec<u8>, addr: &SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn read_addr(reader: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = IpAddr::from(reader.array::<16>()?);
    Ok(normalise(SocketAddr::new(ip, reader.u16()?)))
}

/// How many of the contacts, from the first, take at most `room` bytes; K at most.
fn fitting(contacts: &[Contact], room: usize) -> usize {
    let mut size = 0;
    contacts
        .iter()
        .take(K)
        .take_while(|contact| {
            size += match contact.addr {
                SocketAddr::V4(_) => CONTACT_V4_SIZE,
                SocketAddr::V6(_) => CONTACT_V6_SIZE,
            };
            size <= room
        })
        .count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::contact::Age;

    fn header(kind: Kind, direction: Direction) -> Header {
        Header {
            kind,
            direction,
            client_mode: true,
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            shortened: false,
            transaction: 0x0102030405060708,
            key: NodeKey([9; 32]),
            token: Token([7; 8]),
        }
    }

    fn contacts(count: u8, ip: &str) -> Vec<Contact> {
        (0..count)
            .map(|n| {
                let addr = SocketAddr::new(ip.parse().unwrap(), 1000 + u16::from(n));
                Contact::new(NodeKey([n; 32]), addr, Age(n))
            })
            .collect()
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Ping,
            Request::FindNode(Point([3; 32])),
            Request::Have(vec![BlockId([4; 32]); HAVE_MAX]),
            Request::DialBack(5),
        ]
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Ping("192.0.2.1:7".parse().unwrap()),
            Reply::Ping("[2001:db8::1]:7".parse().unwrap()),
            Reply::FindNode(contacts(20, "2001:db8::1")),
            Reply::Have(Bitmap(0x80000001), contacts(20, "192.0.2.1")),
            Reply::DialBack(
                true,
                vec!["192.0.2.1:7".parse().unwrap(); DIAL_BACK_OTHERS_MAX],
            ),
            Reply::DialBack(false, vec![]),
        ]
    }

    fn start(bytes: &[u8]) -> Result<(Header, Reader<'_>), Malformed> {
        let mut reader = Reader::new(bytes);
        match Header::decode(&mut reader)? {
            Start::Ours(header) => Ok((header, reader)),
            Start::Other { .. } => Err(Malformed::Value("version")),
        }
    }

    #[test]
    fn requests_are_read_back_padded_or_not_and_no_truncation_is() {
        for request in requests() {
            let sent = header(request.kind(), Direction::Request);
            for pad in [false, true] {
                let bytes = request.encode(sent, pad);
                assert!(bytes.len() <= DATAGRAM_SIZE_MAX);
                let (read, reader) = start(&bytes).unwrap();
                assert_eq!(read, sent);
                assert_eq!(Request::decode(read.kind, reader), Ok(request.clone()));
            }
            let bytes = request.encode(sent, false);
            for cut in 0..bytes.len() {
                let read = start(&bytes[..cut])
                    .and_then(|(header, reader)| Request::decode(header.kind, reader));
                assert!(read.is_err(), "{request:?} cut at {cut}");
            }
            let mut bytes = request.encode(sent, true);
            bytes.push(1);
            let (read, reader) = start(&bytes).unwrap();
            assert!(
                Request::decode(read.kind, reader).is_err(),
                "padding is zero"
            );
        }
    }

    #[test]
    fn replies_are_read_back_and_no_truncation_is() {
        for reply in replies() {
            let sent = header(reply.kind(), Direction::Reply);
            let bytes = reply.encode(sent, DATAGRAM_SIZE_MAX);
            let (read, reader) = start(&bytes).unwrap();
            assert_eq!(read, sent);
            assert_eq!(Reply::decode(&read, reader), Ok(reply.clone()));
            for cut in 0..bytes.len() {
                let read = start(&bytes[..cut])
                    .and_then(|(header, reader)| Reply::decode(&header, reader));
                assert!(read.is_err(), "{reply:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn padded_request_is_as_long_as_the_longest_reply() {
        let mut sent = header(Kind::Ping, Direction::Request);
        for (ip, families) in [
            (
                "192.0.2.1",
                Families {
                    ipv4: true,
                    ipv6: false,
                },
            ),
            (
                "2001:db8::1",
                Families {
                    ipv4: true,
                    ipv6: true,
                },
            ),
        ] {
            sent.families = families;
            for (request, reply) in [
                (Request::Ping, replies().remove(0)),
                (requests().remove(1), Reply::FindNode(contacts(20, ip))),
                (
                    requests().remove(2),
                    Reply::Have(Bitmap(1), contacts(20, ip)),
                ),
                (requests().remove(3), Reply::DialBack(true, vec![])),
            ] {
                let asked = request.encode(sent, true);
                let whole = reply.encode(sent, DATAGRAM_SIZE_MAX);
                assert!(whole.len() <= asked.len(), "{request:?}");
            }
        }
    }

    #[test]
    fn reply_is_cut_to_fit_and_says_so() {
        let sent = header(Kind::Ping, Direction::Reply);
        for reply in replies() {
            let whole = reply.encode(sent, DATAGRAM_SIZE_MAX);
            for size in HEADER_SIZE..whole.len() {
                let bytes = reply.encode(sent, size);
                assert!(bytes.len() <= size);
                let (read, reader) = start(&bytes).unwrap();
                assert!(read.shortened);
                assert!(Reply::decode(&read, reader).is_ok());
            }
        }
    }

    #[test]
    fn other_version_is_told_apart() {
        let mut bytes = Request::Ping.encode(header(Kind::Ping, Direction::Request), false);
        bytes[2] = 9;
        let other = Header::decode(&mut Reader::new(&bytes)).unwrap();
        let transaction = 0x0102030405060708;
        assert_eq!(
            other,
            Start::Other {
                version: 9,
                direction: Direction::Request,
                transaction
            }
        );
        let mut answer = encode_version(transaction, &NodeKey([1; 32]));
        assert_eq!(answer.len(), HEADER_SIZE);
        assert!(start(&answer).is_err(), "of our own version it is nonsense");
        answer[2] = 9;
        let other = Header::decode(&mut Reader::new(&answer)).unwrap();
        assert_eq!(
            other,
            Start::Other {
                version: 9,
                direction: Direction::Reply,
                transaction
            }
        );
    }

    #[test]
    fn bitmap_counts_from_the_highest_bit() {
        let mut bitmap = Bitmap::default();
        bitmap.set(0);
        bitmap.set(31);
        assert_eq!(bitmap, Bitmap(0x80000001));
        assert!(bitmap.holds(0) && bitmap.holds(31) && !bitmap.holds(1) && !bitmap.holds(32));
    }

    #[test]
    fn manual_shows_a_request_and_its_reply() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/strew-protocol.7");
        let page = std::fs::read_to_string(page).expect("the manual page can be read");
        let dump = |marker: &str| -> Vec<u8> {
            page.split(&format!(".\\\" begin {marker}\n"))
                .nth(1)
                .and_then(|rest| rest.split(&format!(".\\\" end {marker}\n")).next())
                .expect("the page has the markers")
                .lines()
                .filter(|line| !line.starts_with('.'))
                .flat_map(|line| line.split_whitespace().skip(1))
                .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
                .collect()
        };
        let bytes = dump("find-node-request");
        let (asked, reader) = start(&bytes).unwrap();
        assert_eq!(asked.transaction, 0x1122334455667788);
        assert!(asked.client_mode && asked.families.ipv4 && !asked.families.ipv6);
        assert_eq!(
            asked.token,
            Token([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7])
        );
        let request = Request::decode(asked.kind, reader).unwrap();
        assert_eq!(request, Request::FindNode(Point([0xcc; 32])));
        assert_eq!(request.encode(asked, false), bytes);

        let bytes = dump("find-node-reply");
        let (answered, reader) = start(&bytes).unwrap();
        assert_eq!(answered.transaction, asked.transaction);
        let reply = Reply::decode(&answered, reader).unwrap();
        let named = Contact::new(
            NodeKey([0xdd; 32]),
            "192.0.2.7:7873".parse().unwrap(),
            Age(94),
        );
        assert_eq!(reply, Reply::FindNode(vec![named]));
        assert_eq!(reply.encode(answered, DATAGRAM_SIZE_MAX), bytes);
    }
}
