//! `strew fetch`: collects the blocks of an address, and writes the bytes in order.

use super::client::{Peer, Trouble};
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output::Output;
use super::parsed::Parsed;
use super::pin::pin;
use super::progress::{human, Line};
use super::values;
use super::voice::{is_json, say, write_line};
use crate::block::address::Address;
use crate::block::decode::Decoder;
use crate::block::tree::TreeError;
use crate::block::Block;
use crate::limits::{BLOCK_SIZE_MAX, EGRESS_BLOCKS_MAX};
use crate::wire::frame::Frame;

/// Blocks asked of the peer and not answered at most, however large the buffer: what it queues for a client
/// before it reads no more from it.
const OUTSTANDING_MAX: usize = EGRESS_BLOCKS_MAX;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[
    options::OUTPUT,
    options::FORCE,
    options::RANGE,
    options::BUFFER,
    options::PIN,
];

/// Fetches one address.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let buffer = options::buffer(parsed)?;
    let what = "A-B or A-, the first and the last byte, counted from 0";
    let range = parsed.parsed(options::RANGE, values::range, what)?;
    let [text] = &parsed.arguments[..] else {
        let message = match parsed.arguments.is_empty() {
            true => "fetch what? Give the ADDRESS.KEY that share printed",
            false => "fetch takes one address",
        };
        return Err(Failure::usage(message));
    };
    let address: Address = text
        .parse()
        .map_err(|error| Failure::usage(format!("{text}: {error}")))?;
    let mut output = Output::new(
        parsed.path(options::OUTPUT).as_deref(),
        parsed.has(options::FORCE)?,
    )?;
    let mut peer = connect(&common)?;
    let mut line = Line::new(&common, &address.id.to_string()[..8]);
    if parsed.has(options::PIN)? {
        if let Err(failure) = pin(&mut peer, address.id, &mut line) {
            peer.leave();
            return Err(output.give_up(failure));
        }
    }
    let start = range.as_ref().map_or(0, |range| range.start);
    let mut decoder = Decoder::new(address, buffer);
    if let Some(range) = &range {
        decoder.set_range(range.clone());
    }
    let mut fetch = Fetch {
        line,
        common: &common,
        peer,
        address,
        decoder,
        resuming: output.found() > 0 && range.is_none(),
        given_out: start,
        end: range.as_ref().map_or(u64::MAX, |range| range.end),
    };
    let begun = match range {
        // What is there may be of another range.
        Some(_) => output.end_found(),
        None => Ok(()),
    };
    let result = begun.and_then(|()| fetch.run(&mut output));
    let result = result.and_then(|()| output.finish());
    let Fetch {
        peer,
        given_out,
        mut line,
        ..
    } = fetch;
    line.clear();
    drop(line);
    peer.leave();
    match result {
        Ok(()) => {
            let bytes = given_out - start;
            log::info!("{bytes} bytes of {} given out", address.id);
            if is_json() {
                let object = Object::new("result")
                    .text("address", address.id)
                    .number("bytes", bytes);
                let path = parsed.path(options::OUTPUT);
                let path = path.as_ref().map(|path| path.display());
                write_line(&object.text_or_null("output", path));
            }
            Ok(())
        }
        Err(failure) => Err(output.give_up(failure)),
    }
}

struct Fetch<'a> {
    common: &'a Common,
    peer: Peer,
    address: Address,
    decoder: Decoder,
    line: Line,
    /// What an earlier attempt has left is being verified.
    resuming: bool,
    /// Up to here the file is written, was found, or is not wanted.
    given_out: u64,
    /// Nothing is wanted from here on.
    end: u64,
}

impl Fetch<'_> {
    fn run(&mut self, output: &mut Output) -> Result<(), Failure> {
        loop {
            self.verify_found(output)?;
            while self.decoder.outstanding() < OUTSTANDING_MAX {
                let Some(id) = self.decoder.poll_want() else {
                    break;
                };
                let sent = self.peer.send(&Frame::Fetch(id));
                sent.map_err(|trouble| self.broken_off(trouble))?;
            }
            while let Some((offset, data)) = self.decoder.poll_data() {
                self.write(output, offset, &data)?;
            }
            if let Some(length) = self.decoder.length().filter(|&it| self.given_out > it) {
                let (id, start) = (self.address.id, self.given_out);
                let message = format!("{id}: has {length} bytes, and none at {start}");
                return Err(Failure::usage(message));
            }
            if self.decoder.is_done() {
                if self.resuming {
                    self.stop_resuming(output)?;
                }
                return Ok(());
            }
            if self.decoder.outstanding() > 0 {
                let block = self.receive()?;
                self.decoder
                    .handle_block(block)
                    .map_err(|error| self.judge(error))?;
            }
            let more = format!(", waiting for {} blocks", self.decoder.outstanding());
            self.line
                .update(self.given_out, self.decoder.length(), &more);
        }
    }

    /// Goes on in what an earlier attempt has left, leaf by leaf, as far as it is what it should be. Less than a leaf
    /// has no address: it is compared with the first data that comes.
    fn verify_found(&mut self, output: &mut Output) -> Result<(), Failure> {
        if output.found() < BLOCK_SIZE_MAX as u64 {
            return Ok(());
        }
        while self.resuming {
            let Some((offset, len)) = self.decoder.poll_leaf() else {
                return Ok(());
            };
            let kept = output
                .read_found(offset, len)
                .is_some_and(|data| self.decoder.offer(data));
            if !kept {
                return self.stop_resuming(output);
            }
            output.keep_found(len);
            self.given_out += len as u64;
            self.line.update(
                self.given_out,
                self.decoder.length(),
                ", verifying what is there",
            );
        }
        Ok(())
    }

    fn stop_resuming(&mut self, output: &mut Output) -> Result<(), Failure> {
        self.resuming = false;
        output.end_found()?;
        if self.given_out > 0 {
            let text = format!("{} were there already", human(self.given_out));
            self.line.clear();
            say(self.common, &text);
        }
        Ok(())
    }

    fn write(&mut self, output: &mut Output, offset: u64, data: &[u8]) -> Result<(), Failure> {
        if self.resuming {
            // What is there is the beginning of the first data, or something else.
            let found = output.found() as usize;
            let same = found <= data.len()
                && output
                    .read_found(0, found)
                    .is_some_and(|bytes| data.starts_with(&bytes));
            if same {
                output.keep_found(found);
                self.given_out = found as u64;
            }
            self.stop_resuming(output)?;
        }
        let end = self.end.min(offset + data.len() as u64);
        if self.given_out < end {
            output.write(&data[(self.given_out - offset) as usize..(end - offset) as usize])?;
            self.given_out = end;
        }
        Ok(())
    }

    /// Waits for a block that was asked for.
    fn receive(&mut self) -> Result<Block, Failure> {
        loop {
            match self.peer.receive() {
                Ok(Frame::Block { id, kind, payload }) => {
                    return Ok(Block::from_own_peer(id, kind, payload));
                }
                Ok(Frame::Missing { id, reason, asked }) => {
                    let root = self.address.id;
                    return Err(self.peer.missing(root, id, reason, asked));
                }
                Ok(Frame::Failed { status, text }) => {
                    return Err(Failure::new(Status::from_number(status), text));
                }
                Ok(_) => {}
                Err(trouble) => return Err(self.broken_off(trouble)),
            }
        }
    }

    fn broken_off(&self, trouble: Trouble) -> Failure {
        let waiting = self.decoder.outstanding();
        trouble.into_failure(|| {
            format!(
                "not fetched, {}: {waiting} of its blocks are outstanding; try again, or give a longer --stall or --timeout",
                self.peer.patience.why()
            )
        })
    }

    fn judge(&self, error: TreeError) -> Failure {
        let status = match error {
            TreeError::NeedsKey | TreeError::NeedlessKey | TreeError::NotRoot => Status::Usage,
            TreeError::WrongKey | TreeError::BadShape(_) => Status::Damaged,
            TreeError::Unknown { .. } => Status::Other,
        };
        Failure::new(status, format!("{}: {error}", self.address.id))
    }
}
