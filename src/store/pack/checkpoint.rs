//! Checkpoints: what a pack held up to some place, in a file beside it, so that an opening need only read what
//! follows that place. A cache: whatever is wrong with it, the pack is read from its start instead.
//!
//! A checkpoint is written in slices while blocks come and go. That does no harm: whatever happens to the pack
//! after the place at which a checkpoint ends is said there by records that the opening reads, and to apply a
//! removal or new terms twice is the same as once. Therefore it is sealed only when all that is durable that was
//! done before its last slice. It need not be synced: a torn one has not its checksum.

use super::disk::{Disk, Side};
use super::gaps::{Gaps, PAGE};
use super::index::{decode_entry, encode_entry, Index, Key, ENTRY_LEN, FIRST_KEY};
use super::note::Stretch;
use super::record::PackId;
use super::scan::{Last, PinNote};
use super::terms::TermsNotes;
use crate::id::BlockId;
use crate::limits::CHECKPOINT_MAX;
use crate::wire::codec::{Malformed, Reader};
use std::collections::BTreeMap;
use std::io;

/// Bytes in front of the lists.
pub(super) const HEADER_LEN: usize = 72;

const MAGIC: [u8; 8] = *b"STREWIDX";
const VERSION: u32 = 1;

/// Where the header's checksum lies.
const CRC_AT: usize = 12;

/// Bytes of a stretch, and of a pin.
const STRETCH_LEN: usize = 16;
const PIN_ENTRY_LEN: usize = 48;

/// What a pack held up to some place.
#[derive(Default)]
pub(super) struct Checkpoint {
    /// Counts checkpoints: of two, the higher is the later.
    pub sequence: u64,
    /// Where it ends: what the pack says from there on is not in it.
    pub end: u64,
    /// The last record before the end.
    pub last: Last,
    pub index: Index,
    pub gaps: Vec<Stretch>,
    pub pins: BTreeMap<BlockId, PinNote>,
    pub damaged: Vec<Stretch>,
    pub terms_notes: TermsNotes,
}

/// The fields of a header.
struct Header {
    sequence: u64,
    end: u64,
    last: Last,
    body_crc: u32,
    entries: u32,
    gaps: u32,
    pins: u32,
    damaged: u32,
    terms_notes: u32,
}

impl Header {
    fn encode(&self, id: &PackId) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.end.to_be_bytes());
        bytes.extend_from_slice(&self.last.offset.to_be_bytes());
        bytes.extend_from_slice(&self.last.crc.to_be_bytes());
        bytes.extend_from_slice(&self.body_crc.to_be_bytes());
        let lists = [self.entries, self.gaps, self.pins, self.damaged];
        for count in lists.into_iter().chain([self.terms_notes, 0]) {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        let mut header: [u8; HEADER_LEN] = bytes.try_into().expect("the fields take 72 bytes");
        let crc = header_crc(id, &header);
        header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        header
    }

    /// Bytes of the whole file.
    fn file_len(&self) -> u64 {
        let lists = [
            (self.entries, ENTRY_LEN),
            (self.gaps, STRETCH_LEN),
            (self.pins, PIN_ENTRY_LEN),
            (self.damaged, STRETCH_LEN),
            (self.terms_notes, STRETCH_LEN),
        ];
        let bodies = lists
            .iter()
            .map(|&(count, len)| u64::from(count) * len as u64);
        HEADER_LEN as u64 + bodies.sum::<u64>()
    }

    fn decode(bytes: &[u8], id: &PackId) -> Result<Header, Malformed> {
        let mut reader = Reader::new(bytes);
        let header: [u8; HEADER_LEN] = reader.array()?;
        let mut reader = Reader::new(&header);
        if reader.array()? != MAGIC || reader.u32()? != VERSION {
            return Err(Malformed::Value("checkpoint"));
        }
        let crc = reader.u32()?;
        let mut blank = header;
        blank[CRC_AT..CRC_AT + 4].fill(0);
        if crc != header_crc(id, &blank) {
            return Err(Malformed::Value("checksum"));
        }
        Ok(Header {
            sequence: reader.u64()?,
            end: reader.u64()?,
            last: Last {
                offset: reader.u64()?,
                crc: reader.u32()?,
            },
            body_crc: reader.u32()?,
            entries: reader.u32()?,
            gaps: reader.u32()?,
            pins: reader.u32()?,
            damaged: reader.u32()?,
            terms_notes: reader.u32()?,
        })
    }
}

/// Binds a header to its pack; the field of the checksum is zero.
fn header_crc(id: &PackId, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0);
    crc.update(header);
    crc.finalize()
}

impl Checkpoint {
    /// What these bytes say of the pack of this id; an error if they are not all that a checkpoint is.
    pub fn decode(bytes: &[u8], id: &PackId) -> Result<Checkpoint, Malformed> {
        let header = Header::decode(bytes, id)?;
        let body = &bytes[HEADER_LEN..];
        if crc32fast::hash(body) != header.body_crc {
            return Err(Malformed::Value("checksum"));
        }
        let mut reader = Reader::new(body);
        let mut checkpoint = Checkpoint {
            sequence: header.sequence,
            end: header.end,
            last: header.last,
            ..Checkpoint::default()
        };
        for _ in 0..header.entries {
            let (prefix, entry) =
                decode_entry(&reader.array()?).ok_or(Malformed::Value("entry"))?;
            if entry.offset >= header.end || !checkpoint.index.push(prefix, &entry) {
                return Err(Malformed::Value("entry"));
            }
        }
        for _ in 0..header.gaps {
            checkpoint.gaps.push(stretch(&mut reader, header.end)?);
        }
        for _ in 0..header.pins {
            let root = BlockId(reader.array()?);
            let (len, offset) = (reader.u64()?, reader.u64()?);
            checkpoint.pins.insert(root, PinNote { len, offset });
        }
        for _ in 0..header.damaged {
            checkpoint.damaged.push(stretch(&mut reader, header.end)?);
        }
        let mut known = 0;
        for _ in 0..header.terms_notes {
            let note = stretch(&mut reader, header.end)?;
            if note.0 < std::mem::replace(&mut known, note.1) {
                return Err(Malformed::Value("stretch"));
            }
            checkpoint.terms_notes.push(note);
        }
        reader.end()?;
        Ok(checkpoint)
    }

    /// The later of the two sides that are sound and speak of the file as it is: it has the last record where it
    /// was, and so has not been replaced by another. And the side to be written next, with its number.
    pub fn load(disk: &dyn Disk, id: &PackId, len: u64) -> (Option<Checkpoint>, Side, u64) {
        let mut best: Option<(Checkpoint, Side)> = None;
        let mut sequence = 0;
        for side in Side::ALL {
            // The header alone first: what is no checkpoint of this pack is not read into memory.
            let header = disk.read_side(side, HEADER_LEN as u64);
            let header = header.map(|bytes| Header::decode(&bytes, id));
            let Ok(Ok(header)) = header else {
                log::debug!(
                    "{side:?} has no checkpoint of this pack: {:?}",
                    header.err()
                );
                continue;
            };
            sequence = sequence.max(header.sequence);
            let bytes = match disk.read_side(side, header.file_len().min(CHECKPOINT_MAX) + 1) {
                Ok(bytes) => bytes,
                Err(error) => {
                    log::debug!("read a checkpoint: {error}");
                    continue;
                }
            };
            match Checkpoint::decode(&bytes, id) {
                Ok(it) if it.end > len || !is_there(disk, it.last) => {
                    log::debug!("a checkpoint speaks of another state of the pack");
                }
                Ok(it)
                    if best
                        .as_ref()
                        .is_none_or(|best| it.sequence > best.0.sequence) =>
                {
                    best = Some((it, side));
                }
                Ok(_) => {}
                Err(why) => log::debug!("a checkpoint is not used: bad {why}"),
            }
        }
        let next = best.as_ref().map_or(Side::Zero, |best| best.1.other());
        (best.map(|best| best.0), next, sequence + 1)
    }
}

/// The page by which a checkpoint is told to speak of the pack as it is: it is not given back while the checkpoint
/// may be used.
pub(super) fn guard(last: Last) -> u64 {
    (last.offset + super::record::RECORD_CRC_AT as u64) / PAGE * PAGE
}

/// Whether this record's header is still where it was.
fn is_there(disk: &dyn Disk, last: Last) -> bool {
    let mut crc = [0; 4];
    let at = last.offset + super::record::RECORD_CRC_AT as u64;
    last.offset == 0
        || disk
            .read_full(&mut crc, at)
            .is_ok_and(|read| read == 4 && u32::from_be_bytes(crc) == last.crc)
}

fn stretch(reader: &mut Reader<'_>, end: u64) -> Result<Stretch, Malformed> {
    let stretch = (reader.u64()?, reader.u64()?);
    match stretch.0 < stretch.1 && stretch.1 <= end {
        true => Ok(stretch),
        false => Err(Malformed::Value("stretch")),
    }
}

/// What is to be written next of a checkpoint.
enum Next {
    /// The entry of this key or the next one.
    Entry(Key),
    /// What of gaps lies at this offset or behind it.
    Gap(u64),
    /// All of these: they are few.
    PinsAndDamaged,
    /// The notes on terms that begin at this offset or behind it.
    TermsNote(u64),
    /// Only the header.
    Header,
}

/// What a checkpoint is written of.
pub(super) struct Contents<'a> {
    pub index: &'a Index,
    pub gaps: &'a Gaps,
    pub pins: &'a BTreeMap<BlockId, PinNote>,
    pub damaged: &'a BTreeMap<u64, u64>,
    pub terms_notes: &'a TermsNotes,
}

/// A checkpoint that is being written.
pub(super) struct Writer {
    side: Side,
    sequence: u64,
    end: u64,
    last: Last,
    next: Next,
    entries: u32,
    gaps: u32,
    pins: u32,
    damaged: u32,
    terms_notes: u32,
    /// Bytes of the body so far.
    len: u64,
    crc: crc32fast::Hasher,
}

impl Writer {
    /// Begins a checkpoint that ends at this place: all before it is durable, and nothing is pending.
    pub fn new(side: Side, sequence: u64, end: u64, last: Last) -> Writer {
        Writer {
            side,
            sequence,
            end,
            last,
            next: Next::Entry(FIRST_KEY),
            entries: 0,
            gaps: 0,
            pins: 0,
            damaged: 0,
            terms_notes: 0,
            len: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// The side that it is written to.
    pub fn side(&self) -> Side {
        self.side
    }

    /// See [`guard`].
    pub fn guard(&self) -> u64 {
        guard(self.last)
    }

    /// Where the gaps go on to be written.
    #[cfg(test)]
    pub fn next_gap(&self) -> Option<u64> {
        match self.next {
            Next::Gap(offset) => Some(offset),
            _ => None,
        }
    }

    /// Writes a slice of it; whether it was the last, and only the header is missing.
    pub fn step(&mut self, disk: &mut dyn Disk, contents: &Contents<'_>) -> io::Result<bool> {
        let slice = disk.entries_per_slice();
        let mut bytes = Vec::with_capacity(slice * ENTRY_LEN);
        self.next = match self.next {
            Next::Entry(key) => self.put_entries(key, contents.index, slice, &mut bytes),
            Next::Gap(offset) => self.put_gaps(offset, contents.gaps, slice, &mut bytes),
            Next::PinsAndDamaged => {
                for (root, pin) in contents.pins {
                    if pin.offset < self.end {
                        bytes.extend_from_slice(&root.0);
                        bytes.extend_from_slice(&pin.len.to_be_bytes());
                        bytes.extend_from_slice(&pin.offset.to_be_bytes());
                        self.pins += 1;
                    }
                }
                for (&start, &after) in contents.damaged {
                    self.damaged += put_stretch((start, after), self.end, &mut bytes);
                }
                Next::TermsNote(0)
            }
            Next::TermsNote(offset) => {
                let mut notes = contents.terms_notes.iter_from(offset);
                for note in notes.by_ref().take(slice) {
                    self.terms_notes += put_stretch(note, self.end, &mut bytes);
                }
                let next = notes.next().filter(|note| note.0 < self.end);
                next.map_or(Next::Header, |note| Next::TermsNote(note.0))
            }
            Next::Header => Next::Header,
        };
        self.write(disk, &bytes)?;
        Ok(matches!(self.next, Next::Header))
    }

    fn put_entries(&mut self, key: Key, index: &Index, slice: usize, bytes: &mut Vec<u8>) -> Next {
        let mut entries = index.iter_from(key);
        for ((prefix, _), entry) in entries.by_ref().take(slice) {
            if entry.offset < self.end {
                bytes.extend_from_slice(&encode_entry(prefix, &entry));
                self.entries += 1;
            }
        }
        match entries.next() {
            Some((key, _)) => Next::Entry(key),
            None => Next::Gap(0),
        }
    }

    /// A gap that has been joined to one that was written already is written from there on.
    fn put_gaps(&mut self, offset: u64, gaps: &Gaps, slice: usize, bytes: &mut Vec<u8>) -> Next {
        let around = gaps.around(offset).map(|gap| (offset, gap.1));
        let behind = around.map_or(offset, |gap| gap.1);
        let mut next = offset;
        for gap in around.into_iter().chain(gaps.iter_from(behind)).take(slice) {
            if gap.0 >= self.end {
                return Next::PinsAndDamaged;
            }
            self.gaps += put_stretch(gap, self.end, bytes);
            next = gap.1;
        }
        match next > offset {
            true => Next::Gap(next),
            false => Next::PinsAndDamaged,
        }
    }

    /// Writes the header, which makes it one.
    pub fn seal(self, disk: &mut dyn Disk, id: &PackId) -> io::Result<()> {
        let header = Header {
            sequence: self.sequence,
            end: self.end,
            last: self.last,
            body_crc: self.crc.finalize(),
            entries: self.entries,
            gaps: self.gaps,
            pins: self.pins,
            damaged: self.damaged,
            terms_notes: self.terms_notes,
        };
        disk.write_side(self.side, &header.encode(id), 0)?;
        disk.cut_side(self.side, HEADER_LEN as u64 + self.len)
    }

    fn write(&mut self, disk: &mut dyn Disk, bytes: &[u8]) -> io::Result<()> {
        disk.write_side(self.side, bytes, HEADER_LEN as u64 + self.len)?;
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Writes what of a stretch lies before an end; how many that are.
fn put_stretch((start, after): Stretch, end: u64, bytes: &mut Vec<u8>) -> u32 {
    if start >= end {
        return 0;
    }
    bytes.extend_from_slice(&start.to_be_bytes());
    bytes.extend_from_slice(&after.min(end).to_be_bytes());
    1
}
