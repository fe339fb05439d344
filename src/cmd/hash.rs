//! `strew hash`: the address that `share` would print. Touches nothing but its input.

use super::failure::Failure;
use super::input::{for_each_input, form, Input};
use super::options::{self, Parsed};
use super::output;
use crate::block::encode;
use getopts::Options;
use std::io::Read;

/// The options of this command.
pub fn options() -> Options {
    let mut options = options::common();
    options.optflag("", "plain", "as content that is not encrypted");
    options
}

/// Prints one address a line.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let form = form(parsed);
    for_each_input(parsed, |input: Input| {
        let Input { name, mut reader } = input;
        let address = encode::hash(form, |space| reader.read(space));
        let address = address.map_err(|error| Failure::file(name.as_ref(), &error))?;
        output::line(&address)
    })
}
