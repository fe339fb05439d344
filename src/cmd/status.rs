//! `strew status`: how the peer of the data directory is, in lines of `key value`.

use super::client::Trouble;
use super::connect::connect;
use super::failure::Failure;
use super::json::Object;
use super::options::{Common, Opt};
use super::output;
use super::parsed::Parsed;
use crate::wire::frame::Frame;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

/// Keys of the page that may be there several times, or not at all.
const LISTS: &[&str] = &["address", "other_version"];

/// Prints the peer's page.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    parsed.no_arguments("status")?;
    let mut peer = connect(&common)?;
    let failed = |trouble: Trouble| {
        trouble.into_failure(|| format!("the peer of {} does not answer", common.dir.display()))
    };
    peer.send(&Frame::Status).map_err(failed)?;
    let text = loop {
        match peer.receive() {
            Ok(Frame::Text(text)) => break text,
            Ok(_) => {}
            Err(trouble) => return Err(failed(trouble)),
        }
    };
    peer.leave();
    output::answer(&text.trim_end(), || object(&text))
}

/// The page as an object. What may be said several times is a list.
fn object(text: &str) -> Object {
    let lines = || text.lines().filter_map(|line| line.split_once(' '));
    let mut object = Object::new("result");
    for (key, value) in lines().filter(|(key, _)| !LISTS.contains(key)) {
        object = match value.parse::<u64>() {
            Ok(number) => object.number(key, number),
            Err(_) => object.text(key, value),
        };
    }
    for list in LISTS {
        let values = lines().filter(|(key, _)| key == list);
        object = object.texts(list, values.map(|(_, value)| value));
    }
    object
}
