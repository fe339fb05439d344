//! The small files of a data directory: the key, and the contacts saved for the next start. Each is written
//! under another name, synced and renamed, so that it is whole or not there.

use crate::id::NodeKey;
use crate::limits::SEEDS_MAX;
use crate::wire::codec::Reader;
use crate::wire::contact::{read_contacts, write_contacts, Contact};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Contacts saved at most, the closest first: as many as are used.
const CONTACTS_MAX: usize = SEEDS_MAX;

/// What a file of contacts begins with.
const CONTACTS_MAGIC: &[u8; 8] = b"STREWCON";

/// Writes a file of the directory, mode 0600, so that after a crash it is the old one or the new one.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// The directory's key; made from `entropy` where there is none.
pub fn key(dir: &Path, entropy: [u8; 32]) -> io::Result<NodeKey> {
    match fs::read(dir.join("key")) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => Ok(NodeKey(key)),
            Err(bytes) => {
                let text = format!(
                    "{} bytes instead of 32; remove it for a new id",
                    bytes.len()
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_whole(dir, "key", &entropy)?;
            Ok(NodeKey(entropy))
        }
        Err(error) => Err(error),
    }
}

/// Saves contacts: 8 bytes of magic, the CRC-32 of what follows, then lists as in the protocol.
pub fn save_contacts(dir: &Path, contacts: &[Contact]) -> io::Result<()> {
    let mut lists = Vec::new();
    write_contacts(&mut lists, &contacts[..contacts.len().min(CONTACTS_MAX)]);
    let mut bytes = CONTACTS_MAGIC.to_vec();
    bytes.extend_from_slice(&crc32fast::hash(&lists).to_be_bytes());
    bytes.extend_from_slice(&lists);
    write_whole(dir, "contacts", &bytes)
}

/// The contacts that were saved; none if the file is missing or damaged, since it is only a help.
pub fn load_contacts(dir: &Path) -> Vec<Contact> {
    let bytes = fs::read(dir.join("contacts")).unwrap_or_default();
    parse_contacts(&bytes).unwrap_or_default()
}

fn parse_contacts(bytes: &[u8]) -> Option<Vec<Contact>> {
    let mut reader = Reader::new(bytes);
    if &reader.array::<8>().ok()? != CONTACTS_MAGIC {
        return None;
    }
    let checksum = reader.u32().ok()?;
    let lists = reader.rest();
    if crc32fast::hash(lists) != checksum {
        return None;
    }
    let mut reader = Reader::new(lists);
    let contacts = read_contacts(&mut reader, CONTACTS_MAX).ok()?;
    reader.end().ok()?;
    Some(contacts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::contact::Age;

    #[test]
    fn the_key_stays_and_is_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = key(dir.path(), [1; 32]).expect("made");
        assert_eq!(key(dir.path(), [2; 32]).expect("read"), made);
        let mode = std::os::unix::fs::MetadataExt::mode(
            &fs::metadata(dir.path().join("key")).expect("there"),
        );
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("key"), b"short").expect("written");
        assert!(key(dir.path(), [2; 32]).is_err());
    }

    #[test]
    fn contacts_are_read_back_and_damage_is_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load_contacts(dir.path()), vec![]);
        let addr = "127.0.0.1:7873".parse().expect("an address");
        let contacts = vec![Contact::new(NodeKey([1; 32]), addr, Age(3)); 2];
        save_contacts(dir.path(), &contacts).expect("saved");
        assert_eq!(load_contacts(dir.path()), contacts);
        let mut bytes = fs::read(dir.path().join("contacts")).expect("there");
        for cut in 0..bytes.len() {
            assert_eq!(parse_contacts(&bytes[..cut]), None);
        }
        bytes[20] ^= 1;
        assert_eq!(parse_contacts(&bytes), None);
    }
}
