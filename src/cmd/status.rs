//! `strew status`: how the peer of the data directory is, in lines of `key value`.

use super::client::{NoFrame, Peer};
use super::failure::{Failure, Status};
use super::options::{self, Common, Parsed};
use super::output;
use crate::wire::frame::Frame;
use getopts::Options;
use std::time::Instant;

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
    let mut peer = Peer::connect(&common)?;
    peer.send(&Frame::Status)?;
    let stalled = Instant::now() + common.timeout.unwrap_or(common.stall).min(common.stall);
    let text = loop {
        match peer.receive(Some(stalled)) {
            Ok(Frame::Text(text)) => break text,
            Ok(_) => {}
            Err(NoFrame::Gone(failure)) => return Err(failure),
            Err(NoFrame::TimedOut) => {
                let message = format!("the peer of {} does not answer", common.dir.display());
                return Err(Failure::new(Status::TimedOut, message));
            }
        }
    };
    peer.leave();
    output::line(&text.trim_end())
}
