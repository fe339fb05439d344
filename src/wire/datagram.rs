//! Datagrams: the requests that peers ask each other over UDP, and their replies. One of each fits one packet.
//!
//! Bytes become values here and values bytes; whom to believe and what to answer is `dht`'s. The header is read
//! first, so that nothing more is spent on a reply that nobody asked for. strew-protocol(7) is the specification.

use super::codec::{Malformed, Reader};
use super::contact::{
    address_bytes, read_address, read_contacts, write_contacts, Contact, ADDR_SIZE,
};
use super::PROTOCOL_VERSION;
use crate::cell::Cell;
use crate::digest::Digest;
use crate::id::{BlockId, NodeKey, Point};
use crate::limits::{
    DATAGRAM_SIZE_MAX, DIAL_BACK_OTHERS_MAX, DIGEST_DEPTH_MAX, HAVE_MAX, K, LIST_MAX,
    PROVIDERS_NAMED,
};
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
    /// What do the blocks that you hold in a cell come to.
    Digest,
    /// Which are they.
    List,
    /// I have this whole file.
    Provide,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Kind::Ping => 1,
            Kind::FindNode => 2,
            Kind::Have => 3,
            Kind::DialBack => 4,
            Kind::Digest => 5,
            Kind::List => 6,
            Kind::Provide => 7,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Ping),
            2 => Some(Kind::FindNode),
            3 => Some(Kind::Have),
            4 => Some(Kind::DialBack),
            5 => Some(Kind::Digest),
            6 => Some(Kind::List),
            7 => Some(Kind::Provide),
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
    /// Which of these blocks are held, 1 to [`HAVE_MAX`] of them; the contacts closest to the first, and who has all
    /// of the file whose root it is.
    Have(Vec<BlockId>),
    /// Connect by TCP to where this comes from and say this nonce.
    DialBack(u64),
    /// The digests of the parts of this cell that share so many more bits, at most [`DIGEST_DEPTH_MAX`].
    Digest(Cell, u8),
    /// The places of all blocks that are held in this cell.
    List(Cell),
    /// Remember that the asker has the whole file of this root.
    Provide(BlockId),
}

impl Request {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Request::Ping => Kind::Ping,
            Request::FindNode(_) => Kind::FindNode,
            Request::Have(_) => Kind::Have,
            Request::DialBack(_) => Kind::DialBack,
            Request::Digest(..) => Kind::Digest,
            Request::List(_) => Kind::List,
            Request::Provide(_) => Kind::Provide,
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
            Kind::Digest => {
                let cell = read_cell(&mut reader)?;
                let depth = reader.u8()?;
                if depth > DIGEST_DEPTH_MAX.min(64 - cell.bits()) {
                    return Err(Malformed::Value("depth"));
                }
                Request::Digest(cell, depth)
            }
            Kind::List => Request::List(read_cell(&mut reader)?),
            Kind::Provide => Request::Provide(BlockId(reader.array()?)),
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
            Request::Digest(cell, depth) => {
                write_cell(&mut out, cell);
                out.push(*depth);
            }
            Request::List(cell) => write_cell(&mut out, cell),
            Request::Provide(root) => out.extend_from_slice(&root.0),
        }
        if pad {
            let reply_size_max = HEADER_SIZE
                + match self {
                    Request::Ping => 18,
                    Request::FindNode(_) => header.families.contacts_size_max(),
                    // Contacts and providers are no more than contacts alone could be.
                    Request::Have(_) => {
                        4 + header.families.contacts_size_max() + CONTACT_COUNTS_SIZE
                    }
                    // Without a token they are not answered anyway.
                    Request::DialBack(_)
                    | Request::Digest(..)
                    | Request::List(_)
                    | Request::Provide(_) => 0,
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
    /// What is held; contacts as for `FindNode`; and at most [`PROVIDERS_NAMED`] who say that they have the whole file
    /// of which the first block is the root. K contacts at most in both.
    Have(Bitmap, Vec<Contact>, Vec<Contact>),
    /// Whether the replier will connect, and who else has asked it to: they may be willing, too.
    DialBack(bool, Vec<SocketAddr>),
    /// A power of two of digests; none if they are not known yet.
    Digest(Vec<Digest>),
    /// Places in ascending order, at most [`LIST_MAX`]; `None` if there are more.
    List(Option<Vec<u64>>),
    /// For how many seconds it is remembered; 0: not at all.
    Provide(u32),
    /// Nothing but a token: the request's address was not proved. Always shortened.
    Nothing(Kind),
}

impl Reply {
    /// Which blocks there are, if it says that.
    pub fn bitmap(&self) -> Option<Bitmap> {
        match self {
            Reply::Have(bitmap, ..) => Some(*bitmap),
            _ => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Reply::Ping(_) => Kind::Ping,
            Reply::FindNode(_) => Kind::FindNode,
            Reply::Have(..) => Kind::Have,
            Reply::DialBack(..) => Kind::DialBack,
            Reply::Digest(_) => Kind::Digest,
            Reply::List(_) => Kind::List,
            Reply::Provide(_) => Kind::Provide,
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
            Kind::Ping => Reply::Ping(read_address(&mut reader)?),
            Kind::FindNode => Reply::FindNode(read_contacts(&mut reader, K)?),
            Kind::Have => {
                let bitmap = Bitmap(reader.u32()?);
                let contacts = read_contacts(&mut reader, K)?;
                let room = PROVIDERS_NAMED.min(K - contacts.len());
                Reply::Have(bitmap, contacts, read_contacts(&mut reader, room)?)
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
                let others = (0..count).map(|_| read_address(&mut reader));
                Reply::DialBack(will, others.collect::<Result<_, _>>()?)
            }
            Kind::Digest => {
                let count = usize::from(reader.u8()?);
                if count > 1 << DIGEST_DEPTH_MAX || count != 0 && !count.is_power_of_two() {
                    return Err(Malformed::Value("number of digests"));
                }
                let digests = (0..count).map(|_| read_digest(&mut reader));
                Reply::Digest(digests.collect::<Result<_, _>>()?)
            }
            Kind::List => match usize::from(reader.u8()?) {
                LIST_OF_TOO_MANY => Reply::List(None),
                count if count <= LIST_MAX => {
                    let places = (0..count).map(|_| reader.u64());
                    let places = places.collect::<Result<Vec<u64>, _>>()?;
                    if !places.is_sorted() {
                        return Err(Malformed::Value("order of places"));
                    }
                    Reply::List(Some(places))
                }
                _ => return Err(Malformed::Value("number of places")),
            },
            Kind::Provide => Reply::Provide(reader.u32()?),
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
            Reply::Have(_, contacts, providers) => {
                let sizes = providers.iter().map(contact_size);
                (
                    4 + CONTACT_COUNTS_SIZE + sizes.sum::<usize>(),
                    Some(contacts),
                )
            }
            Reply::DialBack(_, others) => (2 + others.len() * ADDR_SIZE, None),
            Reply::Digest(digests) => (1 + digests.len() * DIGEST_SIZE, None),
            Reply::List(places) => (1 + places.as_ref().map_or(0, |it| it.len() * 8), None),
            Reply::Provide(_) => (4, None),
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
            Reply::Ping(observed) => out.extend_from_slice(&address_bytes(observed)),
            Reply::FindNode(_) => write_contacts(&mut out, taken),
            Reply::Have(bitmap, _, providers) => {
                out.extend_from_slice(&bitmap.0.to_be_bytes());
                write_contacts(&mut out, taken);
                write_contacts(&mut out, providers);
            }
            Reply::DialBack(will, others) => {
                out.extend_from_slice(&[u8::from(!will), others.len() as u8]);
                others
                    .iter()
                    .for_each(|addr| out.extend_from_slice(&address_bytes(addr)));
            }
            Reply::Digest(digests) => {
                out.push(digests.len() as u8);
                for digest in digests {
                    out.extend_from_slice(&digest.count.to_be_bytes());
                    out.extend_from_slice(&digest.sum.to_be_bytes());
                }
            }
            Reply::List(None) => out.push(LIST_OF_TOO_MANY as u8),
            Reply::List(Some(places)) => {
                out.push(places.len() as u8);
                for place in places {
                    out.extend_from_slice(&place.to_be_bytes());
                }
            }
            Reply::Provide(seconds) => out.extend_from_slice(&seconds.to_be_bytes()),
            Reply::Nothing(_) => {}
        }
        out
    }
}

/// Bytes of a digest.
const DIGEST_SIZE: usize = 20;

/// What stands for the number of places in a list that would be too long.
const LIST_OF_TOO_MANY: usize = 255;

fn write_cell(out: &mut Vec<u8>, cell: &Cell) {
    out.extend_from_slice(&cell.first().to_be_bytes());
    out.push(cell.bits());
}

fn read_cell(reader: &mut Reader<'_>) -> Result<Cell, Malformed> {
    let first = reader.u64()?;
    Cell::at(first, reader.u8()?).ok_or(Malformed::Value("cell"))
}

fn read_digest(reader: &mut Reader<'_>) -> Result<Digest, Malformed> {
    Ok(Digest {
        count: reader.u32()?,
        sum: u128::from_be_bytes(reader.array()?),
    })
}

/// How many of the contacts, from the first, take at most `room` bytes; K at most.
fn fitting(contacts: &[Contact], room: usize) -> usize {
    let mut size = 0;
    contacts
        .iter()
        .take(K)
        .take_while(|contact| {
            size += contact_size(contact);
            size <= room
        })
        .count()
}

fn contact_size(contact: &Contact) -> usize {
    match contact.addr {
        SocketAddr::V4(_) => CONTACT_V4_SIZE,
        SocketAddr::V6(_) => CONTACT_V6_SIZE,
    }
}

#[cfg(test)]
mod tests;
