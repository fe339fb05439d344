//! `strew status`: how the peer of the data directory is, in lines of `key value`.

use super::client::Trouble;
use super::connect::connect;
use super::failure::Failure;
use super::options::{self, Common, Parsed};
use super::output;
use crate::wire::frame::Frame;
use getopts::Options;

/// The options of this command.
pub fn options() -> Options {
    options::common()
}

/// Prints the peer's page.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    if let Some(argument) = parsed.matches.free.first() {
        return Err(Failure::usage(format!(
            "{argument}: status takes no arguments"
        )));
    }
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
