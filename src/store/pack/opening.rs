//! The opening of a pack: what is there is found out and repaired, or a pack is made.

use super::checkpoint::{self, Checkpoint};
use super::commit::Pending;
use super::disk::{Disk, System};
use super::evict::{Evictor, Marks};
use super::index::PACK_SIZE_MAX;
use super::reclaim::Background;
use super::record::{self, BadFileHeader, PackId, FILE_HEADERS_AT, FILE_HEADER_LEN, RECORDS_AT};
use super::space::Space;
use super::{scan, Allotment, DirLock, PackStore};
use crate::digest::DigestKey;
use crate::store::{Sequence, StoreError, Sums};
use crate::sys::plain;
use std::io::{self, ErrorKind};

/// What the opening of a pack found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// Sound records that were read one by one: all, or those that follow the checkpoint. Payloads of blocks older
    /// than the last [`UNCOMMITTED_MAX`] bytes are not looked at.
    pub records: u64,
    /// Whether a checkpoint was used.
    pub has_checkpoint: bool,
    /// Bytes of a torn tail that were cut away.
    pub cut_bytes: u64,
    /// Offset and length, in bytes, of each stretch that is damaged but followed by sound records. They stay in
    /// the file, charged to the allotment, and are never served.
    pub damaged: Vec<(u64, u64)>,
}

impl PackStore {
    /// Opens the pack of a locked directory, or makes one; the allotment may be less than is there: then puts are
    /// refused. `entropy`, 32 random bytes, becomes the id of a pack that is made, and is ignored otherwise. A torn
    /// tail is cut and damage set aside; see [`PackStore::opened`].
    ///
    /// Fails if the file `pack` is not a pack, or of another version, or has no sound file header any more
    /// ([`ErrorKind::InvalidData`]), and leaves it as it is; or if the system refuses something. Reads every header
    /// that follows the last checkpoint, and the payloads of the last [`UNCOMMITTED_MAX`] bytes.
    pub fn open(
        lock: DirLock,
        allotment: Allotment,
        entropy: [u8; 32],
    ) -> Result<PackStore, StoreError> {
        let path = lock.dir().join("pack");
        let disk = System::open(lock, "pack")
            .map_err(|error| StoreError::io(format!("open {}", path.display()), error))?;
        PackStore::open_on(Box::new(disk), allotment, entropy)
    }

    /// The same on any disk that shows all of its file.
    pub(super) fn open_on(
        mut disk: Box<dyn Disk>,
        allotment: Allotment,
        entropy: [u8; 32],
    ) -> Result<PackStore, StoreError> {
        let path = disk.path().to_path_buf();
        let failed = |what: &str| {
            let what = format!("{what} {}", path.display());
            move |error| StoreError::io(what, error)
        };
        let len = disk.file_len().map_err(failed("open"))?;
        let (id, len) = match identify(&*disk, len).map_err(failed("open"))? {
            Some((id, damaged)) => {
                if let Some(at) = damaged {
                    mend_header(&mut *disk, &id, at, len);
                }
                (id, len.max(RECORDS_AT))
            }
            None => {
                let id = PackId(entropy);
                create(&mut *disk, &id).map_err(failed("create"))?;
                (id, RECORDS_AT)
            }
        };
        let (checkpoint, side, sequence) = Checkpoint::load(&*disk, &id, len);
        let has_checkpoint = checkpoint.is_some();
        let guard = checkpoint.as_ref().map(|it| checkpoint::guard(it.last));
        let found = scan::scan(&*disk, &id, len, checkpoint).map_err(failed("read"))?;
        for (start, end) in &found.damaged {
            log::warn!(
                "{}: {} bytes at offset {start} are damaged; they are set aside",
                path.display(),
                end - start,
            );
        }
        if found.tail < len {
            log::warn!(
                "{}: cut {} bytes at offset {}, a write that did not end",
                path.display(),
                len - found.tail,
                found.tail
            );
        }
        // Also where nothing is cut: space may have been set aside behind the end.
        disk.set_end(found.tail.min(len));
        disk.set_len(found.tail).map_err(failed("cut the end of"))?;
        disk.set_end(found.tail);
        // A process that was killed may have left records that only the system's cache holds. From here on they
        // count as committed, so they are made durable first.
        disk.sync().map_err(failed("sync"))?;
        disk.sync_name().map_err(failed("sync the name of"))?;
        // Left by a process that was killed while it made a copy.
        disk.drop_copy().map_err(failed("remove the copy of"))?;
        let mut space = Space::new(&*disk, allotment, found.tail).map_err(failed("look at"))?;
        space.look_for_holes(&mut *disk);
        let mut gaps = found.gaps;
        gaps.handle_opening(!space.is_halved);
        let mut held = Sums::default();
        for entry in found.index.iter() {
            space.add(entry.len);
            held.add(entry.kind, u64::from(entry.len));
        }
        // Now, as the disk may be full when notes are to be written.
        let places = gaps.len() + 2 * found.pins.len() as u64;
        space.set_aside_for_notes(&mut *disk, found.tail, places);
        let mut marks = Marks::default();
        if found.pins.is_empty() {
            marks.end();
        }
        let damaged = found.damaged.iter();
        let damaged = damaged.map(|&(start, end)| (start, end - start));
        Ok(PackStore {
            disk,
            digest_key: DigestKey::new(&id.0),
            id,
            opened: Opened {
                records: found.records,
                has_checkpoint,
                cut_bytes: len.saturating_sub(found.tail),
                damaged: damaged.collect(),
            },
            background: Background::new(side, sequence, guard, found.records, found.is_readable),
            copy: None,
            index: found.index,
            gaps,
            pins: found.pins,
            terms_notes: found.terms_notes,
            damaged: found.damaged.into_iter().collect(),
            space,
            marks,
            evictor: Evictor::new(),
            pending: Pending::new(found.stale),
            committing: None,
            buffer: Vec::new(),
            time: 0,
            tail: found.tail,
            last: found.last,
            committed_tail: found.tail,
            write_back_tail: found.tail,
            written: Sequence::default(),
            committed: Sequence::default(),
            held,
            generation: 0,
            is_read_only: false,
            is_evicting: false,
            is_disk_full: false,
            disk_full_until: 0,
        })
    }
}

/// Whose pack a file of this length is, and where its header is damaged if it is in one of its places; `None` if it is
/// new, or left by a creation that did not end.
fn identify(disk: &dyn Disk, len: u64) -> io::Result<Option<(PackId, Option<u64>)>> {
    let invalid = |why: String| Err(io::Error::new(ErrorKind::InvalidData, why));
    if len > PACK_SIZE_MAX {
        return invalid("larger than 32 TiB".to_string());
    }
    let [first, second] = FILE_HEADERS_AT.map(|at| read_header(disk, at));
    match (first, second) {
        (Ok(Ok(id)), Ok(Ok(other))) if id != other => {
            invalid("its header and the copy of it are of two packs; it was left alone".to_string())
        }
        (Ok(Ok(id)), Ok(Ok(_))) => Ok(Some((id, None))),
        (Ok(Ok(id)), _) => Ok(Some((id, Some(FILE_HEADERS_AT[1])))),
        (_, Ok(Ok(id))) => Ok(Some((id, Some(FILE_HEADERS_AT[0])))),
        (Ok(Err(bad)), Ok(Err(_))) => {
            let mut bytes = vec![0; len.min(RECORDS_AT + 1) as usize];
            let read = disk.read_full(&mut bytes, 0)?;
            match record::is_unfinished_creation(&bytes[..read]) {
                true => Ok(None),
                false => invalid(bad.to_string()),
            }
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn read_header(disk: &dyn Disk, at: u64) -> io::Result<Result<PackId, BadFileHeader>> {
    let mut bytes = [0; FILE_HEADER_LEN];
    let read = disk.read_full(&mut bytes, at)?;
    Ok(record::decode_file_header(&bytes[..read]))
}

/// Writes the header anew in one of its places. If that fails the other place still has it.
fn mend_header(disk: &mut dyn Disk, id: &PackId, at: u64, len: u64) {
    disk.set_end(0);
    let done = disk.write_all(&[&record::encode_file_header(id)], at);
    let path = disk.path().display();
    match done {
        Ok(()) if len <= RECORDS_AT => log::debug!("{path}: its creation had not ended"),
        Ok(()) => log::warn!("{path}: the header at offset {at} was damaged; written anew"),
        Err(error) => log::warn!(
            "{path}: the header at offset {at} is damaged, and cannot be written anew: {}",
            plain(&error)
        ),
    }
}

impl PackStore {
    /// Where the file header is not what it should be, though the pack is open.
    pub(super) fn damaged_headers(&self) -> Vec<u64> {
        let is_damaged =
            |at: &u64| !matches!(read_header(&*self.disk, *at), Ok(Ok(id)) if id == self.id);
        FILE_HEADERS_AT.into_iter().filter(is_damaged).collect()
    }
}

/// Makes the file an empty pack that survives a power cut, and shows it.
fn create(disk: &mut dyn Disk, id: &PackId) -> io::Result<()> {
    disk.set_end(0);
    disk.set_len(0)?;
    disk.reserve(RECORDS_AT)?;
    for at in FILE_HEADERS_AT {
        disk.write_all(&[&record::encode_file_header(id)], at)?;
    }
    disk.sync()?;
    disk.sync_name()?;
    disk.set_end(RECORDS_AT);
    Ok(())
}
