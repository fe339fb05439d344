//! `strew ls`: what is in a directory that was shared, without the bytes of its files.

use super::connect::connect;
use super::failure::Failure;
use super::json::Object;
use super::options::{Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::place::Place;
use super::source::Source;
use super::voice::is_json;
use crate::block::tree::Item;
use crate::limits::BUFFER_DEFAULT;
use crate::listing::{printable, Entry, Kind};

/// Bytes of lines that are written at once.
const WRITE_SIZE: usize = 4096;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

/// Prints one line for each entry.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let place = Place::new(parsed, "ls")?;
    let mut source = Source::new(connect(&common)?, place.address, BUFFER_DEFAULT);
    let result = list(&mut source, &place);
    source.leave();
    result
}

fn list(source: &mut Source, place: &Place) -> Result<(), Failure> {
    if source.item(|_| {})? == Item::File {
        place.is_file()?;
        let (len, is_executable) = (source.length(), false);
        return output::line(&line(None, Kind::File { len, is_executable }));
    }
    let listing = source.listing()?;
    let entries = match place.path.is_empty() {
        true => 0..listing.count(),
        false => {
            let index = place.find(&listing)?;
            match listing.entry(index).kind {
                Kind::Directory => listing.below(index),
                _ => index..index + 1,
            }
        }
    };
    let mut text = String::new();
    for index in entries {
        if text.len() >= WRITE_SIZE {
            output::line(&text)?;
            text.clear();
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let Entry { path, kind } = listing.entry(index);
        text += &line(Some(path), kind);
    }
    match text.is_empty() {
        true => Ok(()),
        false => output::line(&text),
    }
}

/// An entry as text, or with `--json` as an object; a file that lies in no directory has no path.
fn line(path: Option<&[u8]>, kind: Kind<'_>) -> String {
    let path = path.map(printable);
    let (letter, name, len, target) = match kind {
        Kind::File { len, is_executable } => match is_executable {
            true => ('x', "executable", Some(len), None),
            false => ('f', "file", Some(len), None),
        },
        Kind::Link { target } => ('l', "link", None, Some(printable(target))),
        Kind::Directory => ('d', "directory", None, None),
    };
    if is_json() {
        let object = Object::new("entry")
            .text("kind", name)
            .text_or_null("path", path)
            .number_or_null("bytes", len);
        return object.text_or_null("target", target).to_string();
    }
    let len = len.map_or("-".to_string(), |len| len.to_string());
    let path = path.as_deref().unwrap_or("-");
    match target {
        Some(target) => format!("{letter} {len} {path} -> {target}"),
        None => format!("{letter} {len} {path}"),
    }
}
