//! Verification: the pack is read from its start to its end, past the index and the caches that serve it, and all
//! checksums and addresses are compared.

use super::record::{Record, ALIGN, FILE_HEADER_LEN, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK};
use super::window::{Found, Window};
use super::{Entry, PackStore};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::limits::VERIFY_STEP;
use crate::store::{Damage, Verified};
use std::io;

/// Where in a bookmark the generation begins: higher than all offsets, which are below 32 TiB.
const GENERATION_AT: u32 = 48;
const OFFSET_MASK: u64 = (1 << GENERATION_AT) - 1;

/// What a place in the pack has shown.
pub(super) enum Seen {
    /// Nothing wrong, up to there; so many blocks and bytes were compared.
    Sound { end: u64, blocks: u64, bytes: u64 },
    /// A stretch up to there is not as it was written.
    Damaged { end: u64, id: Option<BlockId> },
}

impl PackStore {
    pub(super) fn verify_step(
        &mut self,
        from: u64,
        is_wanted: &dyn Fn(&BlockId) -> bool,
    ) -> Verified {
        // If everything has another place than when this began, it begins anew.
        let is_current = from >> GENERATION_AT == u64::from(self.generation);
        let from = if is_current { from & OFFSET_MASK } else { 0 };
        let mut offset = from.max(RECORDS_AT);
        let until = offset + VERIFY_STEP;
        let mut verified = Verified::default();
        if from == 0 {
            let headers = self.damaged_headers().into_iter();
            verified.damaged.extend(headers.map(|offset| Damage {
                offset,
                len: FILE_HEADER_LEN as u64,
                id: None,
            }));
        }
        while offset < self.tail && offset < until {
            if let Some((_, end)) = self.gaps.around(offset) {
                offset = end;
                continue;
            }
            match self.look_at(offset, until, is_wanted) {
                Seen::Sound { end, blocks, bytes } => {
                    verified.blocks += blocks;
                    verified.bytes += bytes;
                    offset = end;
                }
                Seen::Damaged { end, id } => {
                    let len = end - offset;
                    verified.bytes += len;
                    verified.damaged.push(Damage { offset, len, id });
                    self.set_aside(offset, end, id);
                    offset = end;
                }
            }
        }
        (verified.at, verified.end) = (offset.min(self.tail), self.tail);
        verified.next = (offset < self.tail).then(|| self.bookmark(offset));
        verified
    }

    /// A place in the pack, as long as all has its place.
    pub(super) fn bookmark(&self, offset: u64) -> u64 {
        u64::from(self.generation) << GENERATION_AT | offset
    }

    pub(super) fn look_at(
        &mut self,
        offset: u64,
        until: u64,
        is_wanted: &dyn Fn(&BlockId) -> bool,
    ) -> Seen {
        // What was set aside earlier stays so, even if it can be read now: the index does not know it.
        let known = self.damaged.get(&offset).copied();
        let id = self.record_at(offset).map(|record| BlockId(record.address));
        if let Some(end) = known {
            return Seen::Damaged { end, id };
        }
        let Some(record) = self.record_at(offset) else {
            let until = self.tail.min(until + ALIGN);
            let mut window = Window::new(&*self.disk, &self.id, self.tail);
            let next = window.next_record(offset + ALIGN, until);
            let next = next.ok().and_then(|(next, _)| next).unwrap_or(until);
            let gap = self.gaps.iter_from(offset).next();
            let end = gap.map_or(next, |(start, _)| start.min(next));
            return Seen::Damaged { end, id: None };
        };
        let end = offset + record.extent();
        let is_block = record.kind_of_record == TYPE_BLOCK;
        if is_block && !id.is_some_and(|id| is_wanted(&id)) {
            let (blocks, bytes) = (0, RECORD_HEADER_LEN as u64);
            return Seen::Sound { end, blocks, bytes };
        }
        match self.is_as_written(offset, &record) {
            Ok(true) => {
                let (blocks, bytes) = (u64::from(is_block), end - offset);
                return Seen::Sound { end, blocks, bytes };
            }
            Ok(false) => {}
            Err(error) => self.handle_unreadable(offset, &error),
        }
        let id = id.filter(|_| is_block);
        Seen::Damaged { end, id }
    }

    /// The valid header at this place, whose extent ends before the tail.
    fn record_at(&mut self, offset: u64) -> Option<Record> {
        let mut window = Window::new(&*self.disk, &self.id, self.tail);
        match window.record(offset) {
            Ok(Found::Record(record)) => return Some(record),
            Ok(Found::Nothing) => {}
            Ok(Found::Unreadable) | Err(_) => self.background.stop_checkpoints(),
        }
        None
    }

    /// Whether a record's payload has its checksum, and a block its address.
    fn is_as_written(&self, offset: u64, record: &Record) -> io::Result<bool> {
        let mut payload = vec![0; record.len as usize];
        let at = offset + RECORD_HEADER_LEN as u64;
        let read = self.disk.read_full(&mut payload, at)?;
        if read < payload.len() || crc32fast::hash(&payload) != record.payload_crc {
            return Ok(false);
        }
        let kind = Kind::from_byte(record.block_kind);
        Ok(match kind.filter(|_| record.kind_of_record == TYPE_BLOCK) {
            Some(kind) => Block::verify(BlockId(record.address), kind, payload).is_ok(),
            None => true,
        })
    }

    /// Sets a damaged stretch aside: blocks that begin in it are absent from now on.
    pub(super) fn set_aside(&mut self, start: u64, end: u64, id: Option<BlockId>) {
        if let Some(id) = id {
            if let Some(entry) = self.index.at(&id, start) {
                return self.quarantine(&id, &entry);
            }
        } else if !self.damaged.contains_key(&start) {
            let path = self.disk.path().display();
            log::warn!(
                "{path}: {} bytes at offset {start} are damaged",
                end - start
            );
            self.forget_within(start, end);
        }
        self.damaged.insert(start, end);
    }

    /// Takes all blocks out of the index that begin in a stretch whose headers cannot be read. Linear in the index.
    fn forget_within(&mut self, start: u64, end: u64) {
        let (space, payload_bytes, marks) =
            (&mut self.space, &mut self.payload_bytes, &mut self.marks);
        self.index.retain(|entry: Entry| {
            if !(start..end).contains(&entry.offset) {
                return Some(entry);
            }
            space.remove(entry.len);
            *payload_bytes -= u64::from(entry.len);
            marks.forget(&entry);
            None
        });
    }
}
