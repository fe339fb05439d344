//! `strew share`: cuts each input into blocks, gives them to the peer of the data directory, waits until they
//! are durable there and placed on others, and prints the address.

use super::client::{NoFrame, Peer};
use super::failure::{Failure, Status};
use super::input::{for_each_input, form, Input};
use super::options::{self, Common, Parsed};
use super::progress::{human, Line};
use super::{output, say};
use crate::block::encode::Encoder;
use crate::limits::{COPIES_DEFAULT, COPIES_MAX};
use crate::wire::frame::{Frame, Settled};
use getopts::Options;
use std::io::ErrorKind;
use std::time::Instant;

/// Blocks given to the peer and not answered at most: 16 MiB.
const WINDOW: usize = 64;

/// The options of this command.
pub fn options() -> Options {
    let mut options = options::common();
    options.optopt(
        "",
        "copies",
        "copies of each block to place (default 8)",
        "N",
    );
    options.optopt(
        "",
        "min-copies",
        "fail with 5 or 7 if there are fewer (default 1)",
        "N",
    );
    options.optflag("", "plain", "share public data: do not encrypt");
    options
}

/// Shares each input and prints one address a line.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let copies = parsed
        .number("copies", 1..=COPIES_MAX)?
        .unwrap_or(COPIES_DEFAULT);
    let min_copies = parsed.number("min-copies", 0..=COPIES_MAX)?.unwrap_or(1);
    if min_copies > copies {
        let message = format!("--min-copies {min_copies} is more than --copies {copies}");
        return Err(Failure::usage(message));
    }
    let form = form(parsed);
    let mut peer: Option<Peer> = None;
    let deadline = common.timeout.map(|timeout| Instant::now() + timeout);
    let result = for_each_input(parsed, |input| {
        let connected = match peer.take() {
            Some(connected) => connected,
            None => Peer::connect(&common)?,
        };
        let mut share = Share {
            common: &common,
            peer: connected,
            copies,
            min_copies,
            deadline,
        };
        let result = share.run(input, Encoder::new(form));
        // A connection on which a share was broken off is in no state for the next.
        match result {
            Ok(settled) => {
                peer = Some(share.peer);
                settled
            }
            Err(failure) => {
                share.peer.leave();
                Err(failure)
            }
        }
    });
    if let Some(peer) = peer {
        peer.leave();
    }
    result
}

struct Share<'a> {
    common: &'a Common,
    peer: Peer,
    copies: u8,
    min_copies: u8,
    deadline: Option<Instant>,
}

/// What the peer has answered so far.
#[derive(Default)]
struct Answers {
    settled: Option<Settled>,
    placed: u64,
    holders: u32,
}

impl Share<'_> {
    /// The outer failure breaks the share off; the inner one is its outcome, after the address is printed.
    fn run(&mut self, input: Input, mut encoder: Encoder) -> Result<Result<(), Failure>, Failure> {
        let Input { name, mut reader } = input;
        let mut line = Line::new(self.common, &name.display().to_string());
        let mut answers = Answers::default();
        let mut ended = false;
        self.peer.send(&Frame::Share {
            copies: self.copies,
            min_copies: self.min_copies,
        })?;
        let address = loop {
            while let Some((kind, payload)) = encoder.poll_put() {
                self.peer.send_add(kind, &payload)?;
            }
            if let Some(address) = encoder.outcome() {
                break address;
            }
            if ended || encoder.outstanding() >= WINDOW {
                self.receive(&mut encoder, &mut answers)?;
            } else {
                match reader.read(encoder.space()) {
                    Ok(0) => {
                        encoder.finish();
                        ended = true;
                    }
                    Ok(len) => encoder.filled(len),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(Failure::file(&name, &error)),
                }
            }
            line.update(encoder.length(), None, &progress(&answers));
        };
        self.peer.send(&Frame::Settle)?;
        let settled = loop {
            if let Some(settled) = answers.settled {
                break settled;
            }
            self.receive(&mut encoder, &mut answers)?;
            line.update(encoder.length(), None, &progress(&answers));
        };
        line.clear();
        output::line(&address)?;
        Ok(self.judge(&name.display().to_string(), encoder.length(), settled))
    }

    /// Waits for an answer of the peer.
    fn receive(&mut self, encoder: &mut Encoder, answers: &mut Answers) -> Result<(), Failure> {
        let stalled = Instant::now() + self.common.stall;
        let deadline = self
            .deadline
            .map_or(stalled, |deadline| deadline.min(stalled));
        match self.peer.receive(Some(deadline)) {
            Ok(Frame::Added(id)) if encoder.outstanding() > 0 => encoder.handle_put(id),
            Ok(Frame::Progress { placed, holders }) => {
                (answers.placed, answers.holders) = (placed, holders);
            }
            Ok(Frame::Settled(settled)) => answers.settled = Some(settled),
            Ok(Frame::Failed { status, text }) => {
                return Err(Failure::new(Status::from_number(status), text));
            }
            Ok(_) => {}
            Err(NoFrame::Gone(failure)) => return Err(failure),
            Err(NoFrame::TimedOut) => {
                let message = format!(
                    "not shared in time: {} blocks were placed on {} peers; the same command goes on from there",
                    answers.placed, answers.holders
                );
                return Err(Failure::new(Status::TimedOut, message));
            }
        }
        Ok(())
    }

    /// Says how it went, and whether that is enough.
    fn judge(&mut self, name: &str, length: u64, settled: Settled) -> Result<(), Failure> {
        let Settled {
            blocks,
            least,
            holders,
            reached,
        } = settled;
        if length == 0 {
            super::warn_user(&format!("{name}: is empty"));
        }
        let what = format!("{name}: {} in {}", human(length), count(blocks, "block"));
        let told = match holders {
            0 => format!("{what}, no copy but the own one"),
            _ => format!(
                "{what}, at least {} of each on {}",
                count(least.into(), "copies"),
                count(holders.into(), "other peer")
            ),
        };
        if least < self.min_copies {
            if !reached {
                let why = self.peer.why_nobody();
                let message = format!(
                    "{name}: only the own copy: no peer could be reached{why}; give one with -p HOST:PORT, or --min-copies 0"
                );
                return Err(Failure::new(Status::NoPeer, message));
            }
            let message = format!(
                "{told}; {} were asked for: start more peers, or share it again later",
                self.min_copies
            );
            return Err(Failure::new(Status::TooFewCopies, message));
        }
        let few = match least < self.copies {
            true => format!(" ({} were aimed at)", self.copies),
            false => String::new(),
        };
        say(self.common, &format!("{told}{few}"));
        Ok(())
    }
}

/// So many of something.
fn count(number: u64, what: &str) -> String {
    match (number, what) {
        (1, "copies") => "1 copy".to_string(),
        (1, _) | (_, "copies") => format!("{number} {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn progress(answers: &Answers) -> String {
    format!(
        ", {} blocks placed on {} peers",
        answers.placed, answers.holders
    )
}
