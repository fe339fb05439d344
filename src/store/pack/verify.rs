//! Verification: the pack is read from its start to its end, past the index and the caches that serve it, and all
//! checksums and addresses are compared.

use super::index::{Key, FIRST_KEY};
use super::note::Stretch;
use super::record::{Record, ALIGN, FILE_HEADER_LEN, RECORDS_AT, RECORD_HEADER_LEN, TYPE_BLOCK};
use super::window::{Found, Window};
use super::{Entry, PackStore};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::limits::{VERIFY_RECORDS, VERIFY_STEP};
use crate::store::{Damage, Verified};

/// Where in a bookmark the generation begins: higher than all offsets, which are below 32 TiB.
const GENERATION_AT: u32 = 48;
const OFFSET_MASK: u64 = (1 << GENERATION_AT) - 1;

/// What a place in the pack has shown.
enum Seen {
    /// Nothing wrong, up to there; so many blocks and bytes were compared.
    Sound { end: u64, blocks: u64, bytes: u64 },
    /// A stretch up to there is not as it was written. It may be that of this block.
    Damaged { end: u64, id: Option<BlockId> },
    /// There is no header in a stretch up to there: nobody knows what blocks begin in it.
    Lost { end: u64 },
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
        let mut window = Window::new(&*self.disk, &self.id, self.tail);
        let mut aside = Vec::new();
        let mut mended = Vec::new();
        let mut lost = None;
        for _ in 0..VERIFY_RECORDS {
            if offset >= self.tail.min(until) || lost.is_some() {
                break;
            }
            if let Some((_, end)) = self.gaps.around(offset) {
                offset = end;
                continue;
            }
            let (end, id) = match self.look_at(&mut window, offset, until, is_wanted) {
                Seen::Sound { end, blocks, bytes } => {
                    verified.blocks += blocks;
                    verified.bytes += bytes;
                    offset = end;
                    continue;
                }
                Seen::Damaged { end, id } if self.stands_elsewhere(offset, id) => {
                    mended.push((offset, end));
                    offset = end;
                    continue;
                }
                Seen::Damaged { end, id } => {
                    aside.push((offset, end, id));
                    (end, id)
                }
                // The step ends here: to set such a stretch aside takes long.
                Seen::Lost { end } => {
                    lost = Some((offset, end));
                    (end, None)
                }
            };
            let len = end - offset;
            verified.bytes += len;
            verified.damaged.push(Damage { offset, len, id });
            offset = end;
        }
        if window.unreadable() > 0 {
            self.background.stop_checkpoints();
        }
        for (start, end, id) in aside {
            self.set_aside(start, end, id);
        }
        if let Some((start, end)) = lost {
            self.set_lost_aside(start, end);
        }
        for stretch in mended {
            self.forget_damage(stretch);
        }
        (verified.at, verified.end) = (offset.min(self.tail), self.tail);
        verified.next = (offset < self.tail).then(|| self.bookmark(offset));
        verified
    }

    /// Whether the block that was set aside at this place has been stored again, and is sound and durable there.
    fn stands_elsewhere(&self, offset: u64, id: Option<BlockId>) -> bool {
        let again = id.filter(|_| self.damaged.contains_key(&offset) && !self.is_read_only);
        let again = again.and_then(|id| self.find_surely(&id).ok()?);
        again.is_some_and(|entry| {
            entry.offset < self.committed_tail
                && matches!(self.read_sound(&entry, &mut Vec::new()), Ok(Some(_)))
        })
    }

    /// What was damaged here is nobody's loss any more: its space goes back. Not if some of the pack cannot be read
    /// just now.
    fn forget_damage(&mut self, stretch: Stretch) {
        if self.background.is_readable && self.reserve_gap().is_ok() {
            self.damaged.remove(&stretch.0);
            self.add_gap(stretch);
        }
    }

    /// A place in the pack, as long as all has its place.
    pub(super) fn bookmark(&self, offset: u64) -> u64 {
        u64::from(self.generation) << GENERATION_AT | offset
    }

    /// Sets aside what is damaged at this place; where it ends, if it is.
    pub(super) fn set_aside_at(&mut self, offset: u64) -> Option<u64> {
        let mut window = Window::new(&*self.disk, &self.id, self.tail);
        let seen = self.look_at(&mut window, offset, offset + VERIFY_STEP, &|_| true);
        if window.unreadable() > 0 {
            self.background.stop_checkpoints();
        }
        match seen {
            Seen::Sound { .. } => None,
            Seen::Damaged { end, id } => {
                self.set_aside(offset, end, id);
                Some(end)
            }
            Seen::Lost { end } => {
                self.set_lost_aside(offset, end);
                Some(end)
            }
        }
    }

    fn look_at(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        until: u64,
        is_wanted: &dyn Fn(&BlockId) -> bool,
    ) -> Seen {
        let record = match window.record(offset) {
            Ok(Found::Record(record)) => Some(record),
            Ok(Found::Nothing | Found::Unreadable) | Err(_) => None,
        };
        let id = record.as_ref().map(|record| BlockId(record.address));
        // What was set aside earlier stays so, even if it can be read now: the index does not know it.
        if let Some(&end) = self.damaged.get(&offset) {
            let is_block = record.is_some_and(|it| it.kind_of_record == TYPE_BLOCK);
            let id = id.filter(|_| is_block);
            return Seen::Damaged { end, id };
        }
        let Some(record) = record else {
            let until = self.tail.min(until + ALIGN);
            let next = window.next_record(offset + ALIGN, until);
            let next = next.ok().and_then(|(next, _)| next).unwrap_or(until);
            let gap = self.gaps.iter_from(offset).next();
            let end = gap.map_or(next, |(start, _)| start.min(next));
            return Seen::Lost { end };
        };
        let end = offset + record.extent();
        let is_block = record.kind_of_record == TYPE_BLOCK;
        if is_block && !id.is_some_and(|id| is_wanted(&id)) {
            let (blocks, bytes) = (0, RECORD_HEADER_LEN as u64);
            return Seen::Sound { end, blocks, bytes };
        }
        if is_as_written(window, offset, &record) {
            let (blocks, bytes) = (u64::from(is_block), end - offset);
            return Seen::Sound { end, blocks, bytes };
        }
        let id = id.filter(|_| is_block);
        Seen::Damaged { end, id }
    }

    /// Sets a record aside that is damaged: its block is absent from now on.
    fn set_aside(&mut self, start: u64, end: u64, id: Option<BlockId>) {
        if let Some(id) = id {
            if let Some(entry) = self.index.at(&id, start) {
                return self.quarantine(&id, &entry);
            }
        } else if !self.damaged.contains_key(&start) {
            self.say_damaged(start, end);
        }
        self.damaged.insert(start, end);
    }

    /// Sets a stretch aside whose headers cannot be read: all blocks that begin in it are absent from now on. Linear
    /// in the index.
    fn set_lost_aside(&mut self, start: u64, end: u64) {
        self.say_damaged(start, end);
        let entries = self.index.iter_from(FIRST_KEY);
        let within = entries.filter(|(_, entry)| (start..end).contains(&entry.offset));
        let lost: Vec<(Key, Entry)> = within.collect();
        for ((prefix, _), entry) in lost {
            let mut id = BlockId([0; 32]);
            id.0[..8].copy_from_slice(&prefix.to_be_bytes());
            self.forget(&id, &entry);
        }
        self.damaged.insert(start, end);
    }

    fn say_damaged(&self, start: u64, end: u64) {
        let path = self.disk.path().display();
        log::warn!(
            "{path}: {} bytes at offset {start} are damaged",
            end - start
        );
    }
}

/// Whether a record's payload has its checksum, and a block its address.
fn is_as_written(window: &mut Window<'_>, offset: u64, record: &Record) -> bool {
    let Ok(Some(payload)) = window.payload(offset, record) else {
        return false;
    };
    let kind = Kind::from_byte(record.block_kind);
    match kind.filter(|_| record.kind_of_record == TYPE_BLOCK) {
        Some(kind) => Block::verify(BlockId(record.address), kind, payload.to_vec()).is_ok(),
        None => true,
    }
}
