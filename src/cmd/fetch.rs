//! `strew fetch`: collects the blocks of an address, and writes the bytes: to a file each where it belongs, else in
//! order.

use super::client::Patience;
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output::Output;
use super::parsed::Parsed;
use super::part::part_path;
use super::pin::pin;
use super::place::Place;
use super::progress::{human, Line};
use super::source::Source;
use super::tree_output::{expect_absent, TreeOutput};
use super::values;
use super::voice::{is_json, say, write_line};
use crate::block::tree::Item;
use crate::listing::{printable, Kind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    let place = Place::new(parsed, "fetch")?;
    let (target, force) = (parsed.path(options::OUTPUT), parsed.has(options::FORCE)?);
    let until = Patience::new(&common).until();
    let mut output = match target.as_deref().is_some_and(is_for_directory) {
        // Only a directory could go there, or what is to be refused when it is known what it is.
        true => None,
        false => Some(Output::new(target.as_deref(), force, until)?),
    };
    let mut peer = connect(&common)?;
    let id = place.address.id;
    let name = &id.to_string()[..8];
    let mut line = match output.as_ref().is_some_and(Output::is_terminal) {
        true => Line::beside_data(&common, name),
        false => Line::new(&common, name),
    };
    if parsed.has(options::PIN)? {
        if let Err(failure) = pin(&mut peer, id, &mut line) {
            peer.leave();
            return Err(give_up(output, failure));
        }
    }
    let mut fetch = Fetch {
        line,
        common: &common,
        source: Source::new(peer, place.address, buffer),
        resuming: false,
        kept: 0,
        base: 0,
        start: 0,
        given_out: 0,
        end: u64::MAX,
        done: 0,
        total: None,
    };
    let goal = Goal {
        place,
        range,
        target: target.clone(),
        force,
        until,
    };
    let result = fetch.run(&goal, &mut output);
    let result = result.map_err(|failure| give_up(output, failure));
    let Fetch {
        source, done, line, ..
    } = fetch;
    drop(line);
    source.leave();
    result?;
    log::info!("{done} bytes of {id} given out");
    if is_json() {
        let object = Object::new("result")
            .text("address", id)
            .number("bytes", done);
        let path = target.as_ref().map(|path| path.display());
        write_line(&object.text_or_null("output", path));
    }
    Ok(())
}

/// What is to be fetched, and where to.
struct Goal {
    place: Place,
    range: Option<Range<u64>>,
    target: Option<PathBuf>,
    force: bool,
    /// When a reader is no longer waited for.
    until: Option<Instant>,
}

/// Whether what is written there is a directory, if anything can be: one is there, or has been begun.
fn is_for_directory(path: &Path) -> bool {
    let is_named = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    is_named || path.is_dir() || part_path(path).is_dir()
}

/// The bytes of an address on their way to an output. Offsets are those of the address's stream.
struct Fetch<'a> {
    common: &'a Common,
    source: Source,
    line: Line,
    /// What an earlier attempt has left is being verified.
    resuming: bool,
    /// So much of that was of use.
    kept: u64,
    /// Where the output's first byte is.
    base: u64,
    /// Nothing is wanted before.
    start: u64,
    /// Up to here the output is written, was found, or is not wanted; more of it may be, if it is a file.
    given_out: u64,
    /// Nothing is wanted from here on.
    end: u64,
    /// Bytes that were given out or found.
    done: u64,
    /// How many there are to be, if it is known.
    total: Option<u64>,
}

impl Fetch<'_> {
    /// Finds out what the address is, and fetches it. `output` has been made already if it can only be a file.
    fn run(&mut self, goal: &Goal, output: &mut Option<Output>) -> Result<(), Failure> {
        let line = &mut self.line;
        let item = self.source.item(|more| line.update(0, None, more))?;
        let parts = match item {
            Item::File => {
                goal.place.is_file()?;
                let whole = 0..self.source.length();
                self.prepare_span(goal, output, whole, false)?
            }
            Item::Directory => self.prepare_directory(goal, output)?,
        };
        let output = output.as_mut().expect("both have made one");
        self.fetch(output, parts, goal.range.is_some())?;
        output.finish()
    }

    /// Some bytes of the stream are a file; what of them is wanted.
    fn prepare_span(
        &mut self,
        goal: &Goal,
        output: &mut Option<Output>,
        span: Range<u64>,
        is_executable: bool,
    ) -> Result<Vec<Range<u64>>, Failure> {
        let range = goal.range.clone().unwrap_or(0..u64::MAX);
        let length = span.end - span.start;
        if range.start > length {
            let id = goal.place.address.id;
            let message = format!("{id}: has {length} bytes, and none at {}", range.start);
            return Err(Failure::usage(message));
        }
        if output.is_none() {
            *output = Some(Output::new(goal.target.as_deref(), goal.force, goal.until)?);
        }
        if let Some(Output::File(file)) = output {
            file.is_range = goal.range.is_some();
            // A part of it could not be executed.
            file.is_executable = is_executable && !file.is_range;
        }
        self.base = span.start + range.start;
        let end = span.start + range.end.min(length);
        self.total = Some(end - self.base);
        let wanted = self.base..end;
        Ok(vec![wanted])
    }

    /// A directory, or what of it is at the path; what of the stream is wanted.
    fn prepare_directory(
        &mut self,
        goal: &Goal,
        output: &mut Option<Output>,
    ) -> Result<Vec<Range<u64>>, Failure> {
        let id = goal.place.address.id;
        let path = &goal.place.path;
        let is_whole = path.is_empty();
        if is_whole {
            self.expect_directory_wanted(goal, output)?;
        }
        let listing = self.source.listing()?;
        let mut entries = 0..listing.count();
        let mut strip = 0;
        if !is_whole {
            let index = goal.place.find(&listing)?;
            match listing.entry(index).kind {
                Kind::File { is_executable, .. } => {
                    let span = listing.span(index);
                    return self.prepare_span(goal, output, span, is_executable);
                }
                Kind::Link { target } => {
                    let (path, target) = (printable(path), printable(target));
                    let message = format!("{id}: {path} is a link to {target}; fetch that");
                    return Err(Failure::new(Status::Other, message));
                }
                Kind::Directory => {}
            }
            self.expect_directory_wanted(goal, output)?;
            entries = listing.below(index);
            strip = path.len() + 1;
        }
        // It was meant for a file.
        *output = None;
        let parts = match is_whole {
            true => {
                let all = listing.start()..listing.length();
                vec![all]
            }
            false => listing.spans(entries.clone()),
        };
        let lens = parts.iter().map(|part| part.end - part.start);
        self.total = Some(lens.sum());
        let target = goal.target.as_deref().unwrap_or(Path::new(""));
        let tree = TreeOutput::new(target, listing, entries, strip)?;
        *output = Some(Output::Tree(Box::new(tree)));
        Ok(parts)
    }

    /// A directory can only become one.
    fn expect_directory_wanted(&self, goal: &Goal, output: &Option<Output>) -> Result<(), Failure> {
        let id = goal.place.address.id;
        if goal.range.is_some() {
            let message =
                format!("{id}: is a directory; --range is for a file in it, ADDRESS.KEY/PATH");
            return Err(Failure::usage(message));
        }
        match (&goal.target, output) {
            (Some(target), None | Some(Output::File(_))) => expect_absent(target),
            _ => {
                let message = format!(
                    "{id}: is a directory; give -o DIR, or ADDRESS.KEY/PATH for one file of it; strew ls shows what \
                     is in it"
                );
                Err(Failure::usage(message))
            }
        }
    }

    fn fetch(
        &mut self,
        output: &mut Output,
        parts: Vec<Range<u64>>,
        is_range: bool,
    ) -> Result<(), Failure> {
        self.resuming = output.is_found() && !is_range;
        if is_range {
            // What is there may be of another range.
            output.end_found(0)?;
        }
        for part in parts {
            self.start = part.start;
            self.given_out = part.start;
            self.end = part.end;
            if self.resuming {
                let found = self.base..self.base + output.found_in_any_order();
                self.source.decoder().offer_first(found);
            }
            self.source.want(part);
            self.fetch_part(output)?;
        }
        match self.resuming {
            true => self.stop_resuming(output),
            false => Ok(()),
        }
    }

    fn fetch_part(&mut self, output: &mut Output) -> Result<(), Failure> {
        // What came with the listing, so that nothing is asked for that was found.
        self.write_all(output)?;
        loop {
            self.verify_found(output)?;
            self.source.ask()?;
            self.write_all(output)?;
            if self.source.is_done() {
                return Ok(());
            }
            self.source.receive()?;
            let more = self.source.awaited();
            self.line.update(self.done, self.total, &more);
        }
    }

    /// Writes what is there. Of a file the first bytes come first: by them it is told whose its part is.
    fn write_all(&mut self, output: &mut Output) -> Result<(), Failure> {
        loop {
            let next = match output.takes_any_order() && self.done > 0 {
                true => self.source.poll_any(),
                false => self.source.poll_data(),
            };
            let Some((offset, data)) = next else {
                return Ok(());
            };
            self.write(output, offset, &data)?;
        }
    }

    /// Goes on in what an earlier attempt has left, leaf by leaf: as far as it is what it should be, and in a file also
    /// behind what is not. Less than a leaf has no address: at the beginning, and where it is written in order, it is
    /// compared with the data that comes.
    fn verify_found(&mut self, output: &mut Output) -> Result<(), Failure> {
        while self.resuming {
            let next = self.source.decoder().poll_leaf();
            let Some((offset, len)) = next else {
                return Ok(());
            };
            let goes_on = self.goes_on(output);
            if offset != self.given_out && !goes_on {
                return Ok(());
            }
            let wanted = (self.end - offset).min(len as u64) as usize;
            let mut data = output.read_found(offset - self.base, wanted);
            if data.len() < wanted {
                return match goes_on {
                    true => self.stop_resuming(output),
                    false => Ok(()),
                };
            }
            // What follows in the leaf, if it is a file in a directory, is padding.
            data.resize(len, 0);
            if self.source.decoder().offer(data) {
                self.keep(output, offset, wanted);
                self.line
                    .update(self.done, self.total, ", verifying what is there");
            } else if goes_on {
                self.source.ask()?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether what was found may be of use also behind what is not: in a file that is known to be a part of this.
    fn goes_on(&self, output: &Output) -> bool {
        output.takes_any_order() && self.kept > 0
    }

    fn keep(&mut self, output: &mut Output, offset: u64, len: usize) {
        output.keep_found(offset - self.base, len);
        self.given_out = offset + len as u64;
        self.done += len as u64;
        self.kept += len as u64;
    }

    fn stop_resuming(&mut self, output: &mut Output) -> Result<(), Failure> {
        self.resuming = false;
        self.source.decoder().offer_first(0..0);
        output.end_found(self.given_out - self.base)?;
        // It was found faster than the rest is fetched.
        self.line.restart(self.done);
        if self.kept > 0 {
            let text = format!("{} were there already", human(self.kept));
            say(self.common, &text);
        }
        Ok(())
    }

    fn write(&mut self, output: &mut Output, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let end = self.end.min(offset + data.len() as u64);
        let mut start = self.start.max(offset);
        if start >= end {
            return Ok(());
        }
        let mut data = &data[(start - offset) as usize..(end - offset) as usize];
        if self.resuming && !self.goes_on(output) {
            let found = output.read_found(start - self.base, data.len());
            if data.starts_with(&found) {
                self.keep(output, start, found.len());
                start += found.len() as u64;
                data = &data[found.len()..];
            }
            if data.is_empty() {
                return Ok(());
            }
            if !self.goes_on(output) {
                self.stop_resuming(output)?;
            }
        }
        output.write(start - self.base, data)?;
        self.done += data.len() as u64;
        self.given_out = end;
        Ok(())
    }
}

fn give_up(output: Option<Output>, failure: Failure) -> Failure {
    match output {
        Some(mut output) => output.give_up(failure),
        None => failure,
    }
}
