//! `strew hash`: the address that `share` would print. Touches nothing but its input.

use super::failure::Failure;
use super::input::{for_each_input, form, Input};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output;
use super::parsed::Parsed;
use crate::block::encode;
use crate::sys;
use std::io::Read;
use std::os::fd::AsRawFd;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::PLAIN];

/// Prints one address a line.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    Common::new(parsed)?;
    let form = form(parsed)?;
    for_each_input(parsed, |input: Input| {
        let Input {
            name, mut reader, ..
        } = input;
        let address = encode::hash(form, |space| {
            // Where somebody has made the input non-blocking, what is not there yet is waited for.
            sys::wait_for(reader.as_raw_fd(), true, false, None)?;
            reader.read(space)
        });
        let address = address.map_err(|error| Failure::file(name.as_ref(), &error))?;
        output::answer(&address, || {
            Object::new("result")
                .text("name", name.display())
                .text("address", address)
        })
    })
}
