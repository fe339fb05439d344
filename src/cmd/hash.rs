//! `strew hash`: the address that `share` would print. Touches nothing but its input.

use super::failure::Failure;
use super::input::{for_each_input, form, Input};
use super::json::Object;
use super::options::{self, Opt};
use super::output;
use super::parsed::Parsed;
use crate::block::encode::{self, Encoder};

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::PLAIN];

/// Prints one address a line.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let form = form(parsed)?;
    for_each_input(parsed, |mut input: Input| {
        let encoder = Encoder::of(input.item(), form);
        let address = encode::hash(encoder, |space| {
            // Where somebody has made the input non-blocking, what is not there yet is waited for.
            while !input.wait(None) {}
            input.read(space)
        });
        let address = address.map_err(|error| input.failure(&error))?;
        output::answer(&address, || {
            Object::new("result")
                .text("name", input.name.display())
                .text("address", address)
        })
    })
}
