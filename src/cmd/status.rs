//! `strew status`: how the peer of the data directory is, in lines of `key value`.

use super::client::Trouble;
use super::connect::connect;
use super::failure::Failure;
use super::options::{Common, Opt};
use super::output;
use super::parsed::Parsed;
use crate::wire::frame::Frame;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[];

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
    output::line(&text.trim_end())
}
