//! `strew share`: cuts each input into blocks, gives them to the peer of the data directory, waits until they
//! are durable there and placed on others, and prints the address.

use super::client::{Patience, Peer, Trouble};
use super::connect::connect;
use super::failure::{Failure, Status};
use super::input::{for_each_input, form, is_temporary, Input};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::pin::pin;
use super::progress::{count, human, Line};
use super::voice::say;
use crate::block::encode::Encoder;
use crate::limits::LIFETIME_MAX;
use crate::wire::frame::{Answer, Frame, Own, Settled, Wanted};
use std::time::{Duration, Instant};

/// Blocks given to the peer and not answered at most: 16 MiB.
const WINDOW: usize = 64;

/// How often it is said that the input is waited for.
const INPUT_WAIT: Duration = Duration::from_secs(1);

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[
    options::COPIES,
    options::MIN_COPIES,
    options::PLAIN,
    options::KEEP,
    options::NO_STORE,
    options::PIN,
];

/// Shares each input and prints one address a line.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let (copies, min_copies) = options::copies_to_make(parsed)?;
    let form = form(parsed)?;
    let (pin, no_store) = (parsed.has(options::PIN)?, parsed.has(options::NO_STORE)?);
    let wants = Wanted {
        copies,
        min_copies,
        own: match (pin, no_store) {
            (true, true) => {
                let message = "--pin keeps the own copy, and --no-store does not: give one of them";
                return Err(Failure::usage(message));
            }
            (true, false) => Own::Pinned,
            (false, true) if min_copies == 0 => {
                let message = "--no-store with --min-copies 0 could leave no copy at all";
                return Err(Failure::usage(message));
            }
            (false, true) => Own::Dropped,
            (false, false) => Own::Ordinary,
        },
        lifetime: lifetime(parsed, pin)?,
    };
    let mut peer: Option<Peer> = None;
    let patience = Patience::new(&common);
    let result = for_each_input(parsed, |input| {
        let connected = match peer.take() {
            Some(connected) => connected,
            None => connect(&common)?,
        };
        let mut share = Share {
            common: &common,
            peer: connected,
            wants,
            patience,
            name: input.name.display().to_string(),
            answers: Answers::default(),
        };
        share.peer.patience = patience;
        let encoder = Encoder::of(input.item(), form);
        let result = share.run(input, encoder);
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

/// For how long others are to keep it, in seconds.
fn lifetime(parsed: &Parsed, pin: bool) -> Result<u32, Failure> {
    let most = LIFETIME_MAX.as_secs();
    let Some(keep) = parsed.time(options::KEEP)? else {
        return Ok(most as u32);
    };
    if keep > LIFETIME_MAX {
        let days = most / 86_400;
        let message = format!(
            "--keep: peers keep a block for {days}d at most; share it again later, or --pin it"
        );
        return Err(Failure::usage(message));
    }
    if pin {
        let message = "--keep and --pin: what is pinned is kept as long as it is; give one of them";
        return Err(Failure::usage(message));
    }
    Ok(keep.as_secs() as u32)
}

struct Share<'a> {
    common: &'a Common,
    peer: Peer,
    wants: Wanted,
    patience: Patience,
    /// What the input is called.
    name: String,
    answers: Answers,
}

/// What the peer has answered so far.
#[derive(Default)]
struct Answers {
    settled: Option<Settled>,
    /// Blocks that the peer has, blocks that it is done with, and peers that hold any of those.
    added: u64,
    placed: u64,
    holders: u32,
    /// The fewest copies of any of them.
    least: u8,
}

impl Share<'_> {
    /// The outer failure breaks the share off; the inner one is its outcome, after the address is printed.
    fn run(
        &mut self,
        mut input: Input,
        mut encoder: Encoder,
    ) -> Result<Result<(), Failure>, Failure> {
        let mut line = Line::new(self.common, &self.name);
        let mut ended = false;
        self.peer
            .send(&Frame::Share(self.wants))
            .map_err(|trouble| self.broken_off(trouble))?;
        let address = loop {
            while let Some((kind, payload)) = encoder.poll_put() {
                let sent = self.peer.send_add(kind, &payload);
                sent.map_err(|trouble| self.broken_off(trouble))?;
            }
            if let Some(address) = encoder.outcome() {
                break address;
            }
            let total = match ended {
                true => Some(encoder.length()),
                false => input.len,
            };
            if ended || encoder.outstanding() >= WINDOW {
                self.receive(&mut encoder, &mut line, total)?;
            } else {
                self.wait_for_input(&input, |answers| {
                    answers.show(&mut line, encoder.length(), total, ", waiting for input");
                })?;
                match input.read(encoder.space()) {
                    Ok(0) => {
                        if !input.end(self.patience.until())? {
                            return Err(self.broken_off(Trouble::TimedOut));
                        }
                        encoder.finish();
                        ended = true;
                    }
                    Ok(len) => encoder.filled(len),
                    Err(error) if is_temporary(&error) => {}
                    Err(error) => return Err(input.failure(&error)),
                }
            }
            self.answers.show(&mut line, encoder.length(), total, "");
        };
        self.peer
            .send(&Frame::Settle)
            .map_err(|trouble| self.broken_off(trouble))?;
        let settled = loop {
            if let Some(settled) = self.answers.settled {
                break settled;
            }
            let total = Some(encoder.length());
            self.receive(&mut encoder, &mut line, total)?;
            self.answers.show(&mut line, encoder.length(), total, "");
        };
        output::answer(&address, || {
            Object::new("result")
                .text("name", &self.name)
                .text("address", address)
                .number("bytes", encoder.length())
                .number("blocks", settled.blocks)
                .number("copies", settled.least)
                .number("peers", settled.holders)
        })?;
        if self.wants.own == Own::Pinned {
            pin(&mut self.peer, address.id, &mut line)?;
        }
        Ok(self.judge(encoder.length(), settled))
    }

    /// Waits until the input has something, or its end; for as long as the user allows in all.
    fn wait_for_input(
        &mut self,
        input: &Input,
        mut tell: impl FnMut(&Answers),
    ) -> Result<(), Failure> {
        loop {
            let left = self
                .patience
                .until()
                .map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(self.broken_off(Trouble::TimedOut));
            }
            let wait = left.unwrap_or(INPUT_WAIT).min(INPUT_WAIT);
            if input.wait(Some(wait)) {
                return Ok(());
            }
            tell(&self.answers);
        }
    }

    /// Waits for an answer of the peer.
    fn receive(
        &mut self,
        encoder: &mut Encoder,
        line: &mut Line,
        total: Option<u64>,
    ) -> Result<(), Failure> {
        let answers = &mut self.answers;
        let (peer, read) = (&mut self.peer, encoder.length());
        let received =
            peer.receive_telling(|| answers.show(line, read, total, ", waiting for other peers"));
        match received {
            Ok(Frame::Added(id)) if encoder.outstanding() > 0 => {
                answers.added += 1;
                encoder.handle_put(id);
            }
            Ok(Frame::Progress {
                placed,
                holders,
                least,
            }) => (answers.placed, answers.holders, answers.least) = (placed, holders, least),
            Ok(Frame::Settled(settled)) => self.answers.settled = Some(settled),
            Ok(Frame::Failed { status, text }) => {
                let message = format!("{}: {text}", self.name);
                return Err(Failure::new(Status::from_number(status), message));
            }
            Ok(_) => {}
            Err(trouble) => return Err(self.broken_off(trouble)),
        }
        Ok(())
    }

    fn broken_off(&self, trouble: Trouble) -> Failure {
        let Answers {
            placed, holders, ..
        } = self.answers;
        trouble.into_failure(|| {
            format!(
                "{}: not shared, {}: {} placed on {}; the same command goes on from there",
                self.name,
                self.patience.why(),
                count(placed, "block"),
                count(holders.into(), "peer")
            )
        })
    }

    /// Says how it went, and whether that is enough.
    fn judge(&mut self, length: u64, settled: Settled) -> Result<(), Failure> {
        let name = &self.name;
        let Settled {
            blocks,
            least,
            holders,
            reached,
            refusal,
        } = settled;
        if length == 0 {
            super::voice::warn_user(&format!("{name}: is empty"));
        }
        let what = format!("{name}: {} in {}", human(length), count(blocks, "block"));
        let told = match holders {
            0 => format!("{what}, no copy but the own one"),
            _ => format!(
                "{what}, at least {} of each on {}",
                count(least.into(), "copy"),
                count(holders.into(), "other peer")
            ),
        };
        if least < self.wants.min_copies {
            if !reached {
                let why = self.peer.why_nobody();
                let message = format!(
                    "{name}: only the own copy: no peer could be reached{why}; give one with -p HOST:PORT, or \
                     --min-copies 0"
                );
                return Err(Failure::new(Status::NoPeer, message));
            }
            let message = format!(
                "{told}; {} were asked for{}: start more peers, or share it again later",
                self.wants.min_copies,
                refusal.map(why_refused).unwrap_or_default()
            );
            return Err(Failure::new(Status::TooFewCopies, message));
        }
        let few = match least < self.wants.copies {
            true => format!(" ({} were aimed at)", self.wants.copies),
            false => String::new(),
        };
        say(self.common, &format!("{told}{few}"));
        Ok(())
    }
}

/// Why most of those refused that did.
fn why_refused(reason: Answer) -> &'static str {
    match reason {
        Answer::Full => ", but other peers are full",
        Answer::NotServing => ", but other peers are in client-mode: nobody could connect to them",
        Answer::Failed => ", but the disks of other peers fail",
        Answer::Quota => ", but other peers take no more from this network today",
        Answer::TooFar | Answer::Have | Answer::Want => "",
    }
}

impl Answers {
    /// Shows how far a share is. What is read is soon read: as soon as anything is placed it is that which counts.
    fn show(&self, line: &mut Line, read: u64, total: Option<u64>, waits: &str) {
        if self.placed == 0 {
            let state = match waits {
                "" if total == Some(read) => ", placing",
                "" => ", reading",
                waits => waits,
            };
            return line.update(read, total, state);
        }
        let bytes = u128::from(read) * u128::from(self.placed);
        let done = bytes / u128::from(self.added.max(self.placed));
        let copies = format!(
            ", {} on {}",
            count(self.least.into(), "copy"),
            count(self.holders.into(), "peer")
        );
        line.update(done as u64, total, &format!("{copies}{waits}"));
    }
}
