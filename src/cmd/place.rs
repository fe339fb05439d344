//! Where something is that was shared: an address, or a path in the directory of an address.

use super::failure::{Failure, Status};
use super::parsed::Parsed;
use crate::block::address::Address;
use crate::id::BlockId;
use crate::listing::{parent, printable, Listing};
use std::os::unix::ffi::OsStrExt;

/// An address, and a path in it.
pub struct Place {
    /// What was shared.
    pub address: Address,
    /// The names from there on, with `/` between them; empty for all of it.
    pub path: Vec<u8>,
}

/// The root of `ADDRESS[.KEY]`, for what is done with all that was shared. A key is not needed, and not used.
pub fn root(text: &str) -> Result<BlockId, Failure> {
    let address: Result<Address, _> = text.parse();
    let is_place = |(address, _): &(&str, &str)| address.parse::<Address>().is_ok();
    address
        .map(|address| address.id)
        .map_err(|error| match text.split_once('/').filter(is_place) {
            Some(_) => Failure::usage(format!(
                "{text}: check and pin are of all that was shared; give the ADDRESS without /PATH"
            )),
            None => Failure::usage(format!("{text}: {error}")),
        })
}

impl Place {
    /// The only argument of a command: `ADDRESS[.KEY][/PATH]`.
    pub fn new(parsed: &Parsed, command: &str) -> Result<Place, Failure> {
        let files = parsed.files();
        let [argument] = &files[..] else {
            let message = match files.is_empty() {
                true => format!("{command} what? Give the ADDRESS.KEY that share printed"),
                false => format!("{command} takes one address"),
            };
            return Err(Failure::usage(message));
        };
        let bytes = argument.as_os_str().as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'/');
        let (address, path) = bytes.split_at(end.unwrap_or(bytes.len()));
        let address = String::from_utf8_lossy(address);
        let address = address
            .parse()
            .map_err(|error| Failure::usage(format!("{}: {error}", argument.display())))?;
        let names = path.split(|byte| *byte == b'/');
        let names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
        Ok(Place {
            address,
            path: names.join(&b'/'),
        })
    }

    /// A path can only be in a directory.
    pub fn is_file(&self) -> Result<(), Failure> {
        if self.path.is_empty() {
            return Ok(());
        }
        let id = self.address.id;
        let message = format!(
            "{id}: is a file, there is no {} in it",
            printable(&self.path)
        );
        Err(Failure::usage(message))
    }

    /// The number of the entry at the path, which is not empty. If there is none it is said how far the path leads.
    pub fn find(&self, listing: &Listing) -> Result<usize, Failure> {
        if let Some(index) = listing.find(&self.path) {
            return Ok(index);
        }
        let mut nearest = parent(&self.path);
        while !nearest.is_empty() && listing.find(nearest).is_none() {
            nearest = parent(nearest);
        }
        let id = self.address.id;
        let there = match nearest.is_empty() {
            true => "nothing of the path is there".to_string(),
            false => format!("{} is there", printable(nearest)),
        };
        let path = printable(&self.path);
        let message = format!("{id}: no {path} in it; {there}; strew ls shows what is in it");
        Err(Failure::new(Status::NotFound, message))
    }
}
