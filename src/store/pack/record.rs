//! The bytes of a pack: its file header and the headers of its records, as strew-pack(5) specifies them.
//!
//! Values in, bytes out, and back; nothing here touches a file. Called by the store, which writes records, and
//! by the scan, which finds them again.

use crate::block::Block;
use crate::id::BlockId;
use crate::limits::BLOCK_SIZE_MAX;
use crate::store::{Hold, Terms};
use crate::wire::codec::{Malformed, Reader};
use std::fmt;

/// Bytes of the file header.
pub(super) const FILE_HEADER_LEN: usize = 64;

/// Where the file header stands, twice: whatever becomes of one page, the other tells whose pack it is.
pub(super) const FILE_HEADERS_AT: [u64; 2] = [0, 4096];

/// Offset of the first record.
pub(super) const RECORDS_AT: u64 = FILE_HEADERS_AT[1] + FILE_HEADER_LEN as u64;

/// Bytes of a record's header, in front of its payload.
pub(super) const RECORD_HEADER_LEN: usize = 64;

/// Where in a record's header the block's address lies.
pub(super) const ADDRESS_AT: u64 = 16;

/// Records begin at multiples of this many bytes.
pub(super) const ALIGN: u64 = 8;

/// The record type of a block.
pub(super) const TYPE_BLOCK: u8 = 1;

/// Stretches of the pack in which nothing counts any more; see [`super::note`].
pub(super) const TYPE_GAPS: u8 = 2;

/// New terms of blocks that are there.
pub(super) const TYPE_TERMS: u8 = 3;

/// A file that is pinned.
pub(super) const TYPE_PIN: u8 = 4;

/// The bit of a block's flags that says that it is kept.
const FLAG_KEPT: u8 = 1;

const MAGIC: [u8; 8] = *b"STREWPAK";
const VERSION: u32 = 1;

/// Where the checksum lies in the file header, and in a record's.
const FILE_CRC_AT: usize = 12;
pub(super) const RECORD_CRC_AT: usize = 60;

/// What makes the records of a pack its own: 32 random bytes that never leave the machine. Not printable, since
/// a checksum with no secret in it could be forged.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PackId(pub [u8; 32]);

impl PackId {
    /// The 8 bytes with which each record of this pack begins.
    fn mark(&self) -> &[u8] {
        &self.0[..8]
    }
}

/// Why a file is no pack that can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadFileHeader {
    /// Too short, or it begins with something else.
    NotAPack,
    /// Of a version that this program does not know.
    Version(u32),
    /// Its checksum does not match.
    Checksum,
}

impl fmt::Display for BadFileHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFileHeader::NotAPack => f.write_str("this is no pack of strew's; it was left alone"),
            BadFileHeader::Version(version) => write!(
                f,
                "a pack of version {version}, which this strew does not know; it was left alone"
            ),
            BadFileHeader::Checksum => {
                f.write_str("its header and the copy of it are damaged; it was left alone. Give another --dir, or put a backup in its place")
            }
        }
    }
}

/// The 64 bytes with which the pack of this id begins.
pub(super) fn encode_file_header(id: &PackId) -> [u8; FILE_HEADER_LEN] {
    let mut bytes = [0; FILE_HEADER_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
    bytes[16..48].copy_from_slice(&id.0);
    let crc = crc32fast::hash(&bytes);
    bytes[FILE_CRC_AT..16].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// All that is before the first record of the pack of this id.
#[cfg(test)]
pub(super) fn file_start(id: &PackId) -> Vec<u8> {
    let mut bytes = vec![0; RECORDS_AT as usize];
    for at in FILE_HEADERS_AT {
        bytes[at as usize..][..FILE_HEADER_LEN].copy_from_slice(&encode_file_header(id));
    }
    bytes
}

/// The id of the pack that begins with these bytes; what follows the first 64 is not looked at.
pub(super) fn decode_file_header(bytes: &[u8]) -> Result<PackId, BadFileHeader> {
    let not_a_pack = |_: Malformed| BadFileHeader::NotAPack;
    let mut reader = Reader::new(bytes);
    let header: [u8; FILE_HEADER_LEN] = reader.array().map_err(not_a_pack)?;
    let mut reader = Reader::new(&header);
    if reader.array().map_err(not_a_pack)? != MAGIC {
        return Err(BadFileHeader::NotAPack);
    }
    let version = reader.u32().map_err(not_a_pack)?;
    if version != VERSION {
        return Err(BadFileHeader::Version(version));
    }
    let crc = reader.u32().map_err(not_a_pack)?;
    let id = PackId(reader.array().map_err(not_a_pack)?);
    let mut blank = header;
    blank[FILE_CRC_AT..16].fill(0);
    if crc32fast::hash(&blank) != crc {
        return Err(BadFileHeader::Checksum);
    }
    Ok(id)
}

/// Whether a file of these bytes, with no sound header in it, can be what a crash left of a pack's creation: no longer
/// than what is before the first record, and zero but for the beginnings of headers. It has never held a record.
pub(super) fn is_unfinished_creation(bytes: &[u8]) -> bool {
    let mut start = [0; 12];
    start[..8].copy_from_slice(&MAGIC);
    start[8..].copy_from_slice(&VERSION.to_be_bytes());
    let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let begins = |bytes: &[u8]| {
        let known = bytes.len().min(start.len());
        bytes[..known] == start[..known]
    };
    let mut rest = bytes;
    let mut is_ours = true;
    for (at, until) in [(0, FILE_HEADERS_AT[1]), (FILE_HEADERS_AT[1], RECORDS_AT)] {
        let place;
        (place, rest) = rest.split_at(rest.len().min((until - at) as usize));
        let (header, behind) = place.split_at(place.len().min(FILE_HEADER_LEN));
        is_ours &= (is_zero(header) || begins(header)) && is_zero(behind);
    }
    is_ours && rest.is_empty()
}

/// A record's header, without what only binds it to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// What the record says; [`TYPE_BLOCK`], another of the types here, or one of the future.
    pub kind_of_record: u8,
    /// The byte of the block's kind; zero in records of other types.
    pub block_kind: u8,
    /// How long the block is kept, as far as no later note says otherwise; zero in records of other types.
    pub terms: Terms,
    /// Bytes of payload, at most [`BLOCK_SIZE_MAX`] in a record of any type.
    pub len: u32,
    /// The block's address, or that of the root that is pinned; zero in other records.
    pub address: [u8; 32],
    /// When it was written, in seconds since the Unix epoch; runs until the year 2106.
    pub stored: u32,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
}

impl Record {
    /// The record of a block that is stored at this time.
    pub fn of_block(block: &Block, terms: Terms, stored: u32) -> Record {
        Record {
            block_kind: block.kind().to_byte(),
            terms,
            ..Record::of_note(TYPE_BLOCK, block.id(), block.payload(), stored)
        }
    }

    /// A record of another type, with a payload of at most [`BLOCK_SIZE_MAX`].
    pub fn of_note(kind_of_record: u8, address: BlockId, payload: &[u8], stored: u32) -> Record {
        Record {
            kind_of_record,
            block_kind: 0,
            terms: Terms::default(),
            len: u32::try_from(payload.len()).expect("a payload is shorter than 4 GiB"),
            address: address.0,
            stored,
            payload_crc: crc32fast::hash(payload),
        }
    }

    /// The header as it stands at this offset of this pack, and nowhere else.
    pub fn encode(&self, id: &PackId, offset: u64) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        bytes[..8].copy_from_slice(id.mark());
        bytes[8] = self.kind_of_record;
        bytes[9] = self.block_kind;
        bytes[10] = match self.terms.hold {
            Hold::Free | Hold::Leased => 0,
            Hold::Kept => FLAG_KEPT,
        };
        bytes[12..16].copy_from_slice(&self.len.to_be_bytes());
        bytes[16..48].copy_from_slice(&self.address);
        bytes[48..52].copy_from_slice(&self.stored.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.terms.expires.to_be_bytes());
        bytes[56..60].copy_from_slice(&self.payload_crc.to_be_bytes());
        let crc = header_crc(id, offset, &bytes[..RECORD_CRC_AT]);
        bytes[RECORD_CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// The header at the start of these bytes, if they are one that was written at this offset of this pack. The
    /// mark is compared first, so that a search costs no checksum at almost every place.
    pub fn decode(bytes: &[u8], id: &PackId, offset: u64) -> Option<Record> {
        let header = bytes.get(..RECORD_HEADER_LEN)?;
        if &header[..8] != id.mark() {
            return None;
        }
        Record::decode_marked(header, id, offset).ok()
    }

    fn decode_marked(header: &[u8], id: &PackId, offset: u64) -> Result<Record, Malformed> {
        let mut reader = Reader::new(header);
        reader.take(8)?;
        let kind_of_record = reader.u8()?;
        let block_kind = reader.u8()?;
        let flags = reader.u8()?;
        reader.u8()?;
        let len = reader.u32()?;
        let address = reader.array()?;
        let stored = reader.u32()?;
        let terms = Terms {
            expires: reader.u32()?,
            hold: match flags & FLAG_KEPT {
                0 => Hold::Free,
                _ => Hold::Kept,
            },
        };
        let payload_crc = reader.u32()?;
        if reader.u32()? != header_crc(id, offset, &header[..RECORD_CRC_AT]) {
            return Err(Malformed::Value("checksum"));
        }
        if len as usize > BLOCK_SIZE_MAX || (len == 0 && kind_of_record == TYPE_BLOCK) {
            return Err(Malformed::Value("length"));
        }
        Ok(Record {
            kind_of_record,
            block_kind,
            terms,
            len,
            address,
            stored,
            payload_crc,
        })
    }

    /// Bytes from this record's start to where the next may begin.
    pub fn extent(&self) -> u64 {
        extent(self.len)
    }
}

/// Bytes that a record with this many of payload takes in the file: header, payload, padding.
pub(super) fn extent(len: u32) -> u64 {
    (RECORD_HEADER_LEN as u64 + u64::from(len)).next_multiple_of(ALIGN)
}

/// Binds a header to its pack and place: stale or duplicated sectors, and payloads that imitate a record, fail it.
fn header_crc(id: &PackId, offset: u64, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0);
    crc.update(&offset.to_be_bytes());
    crc.update(header);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::{Form, Kind, Role};

    fn id() -> PackId {
        PackId(std::array::from_fn(|i| i as u8))
    }

    fn record() -> Record {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        let block = Block::new(kind, b"strew some seeds\n".to_vec()).unwrap();
        let terms = Terms {
            expires: 472_943,
            hold: Hold::Kept,
        };
        Record::of_block(&block, terms, 1_700_000_000)
    }

    #[test]
    fn file_header_with_any_bit_wrong_is_refused() {
        let good = encode_file_header(&id());
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_file_header(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(decode_file_header(&good[..cut]).is_err());
            assert!(is_unfinished_creation(&good[..cut]));
        }
        assert!(is_unfinished_creation(&[0; RECORDS_AT as usize]));
        let mut second = file_start(&id());
        second[..FILE_HEADER_LEN].fill(0);
        assert!(is_unfinished_creation(&second[..RECORDS_AT as usize - 9]));
        second[100] = 1;
        assert!(!is_unfinished_creation(&second[..RECORDS_AT as usize - 9]));
        assert!(!is_unfinished_creation(b"something of the user's"));
        assert!(!is_unfinished_creation(&[0; RECORDS_AT as usize + 1]));
    }

    #[test]
    fn record_header_is_read_only_whole_in_its_pack_and_at_its_place() {
        let good = record().encode(&id(), 128);
        assert_eq!(Record::decode(&good, &id(), 128), Some(record()));
        assert_eq!(Record::decode(&good, &id(), 136), None, "another place");
        let mut other = id();
        other.0[31] ^= 1;
        assert_eq!(Record::decode(&good, &other, 128), None, "another pack");
        for cut in 0..good.len() {
            assert_eq!(Record::decode(&good[..cut], &id(), 128), None);
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad, &id(), 128), None, "bit {bit}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_even_with_a_checksum() {
        for (kind_of_record, len, possible) in [
            (TYPE_BLOCK, 0, false),
            (TYPE_BLOCK, BLOCK_SIZE_MAX as u32, true),
            (TYPE_BLOCK, BLOCK_SIZE_MAX as u32 + 1, false),
            (77, 0, true),
            (77, u32::MAX, false),
        ] {
            let record = Record {
                kind_of_record,
                len,
                ..record()
            };
            let bytes = record.encode(&id(), 64);
            assert_eq!(Record::decode(&bytes, &id(), 64).is_some(), possible);
        }
    }
}
