//! `strew check`: how many copies of each block of a file the network has; with `--repair` more where they are few.
//!
//! The client walks the tree, for which its peer fetches roots and nodes, and has the peer count. Leaves are fetched
//! only to be repaired, which is to be shared again.

use super::client::{Peer, Trouble};
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::options::{self, Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::place::root;
use super::progress::{count, Line};
use super::voice::say;
use crate::block::tree::TreeError;
use crate::block::walk::{Place, Walk};
use crate::block::{Block, Role};
use crate::id::BlockId;
use crate::keep::copies_wanted;
use crate::limits::{BLOCK_SIZE_MAX, COUNTS_PER_CLIENT, FAN_OUT, LIFETIME_MAX, OFFER_MAX};
use crate::wire::frame::{Counted, Frame, MissingReason, Own, Wanted};
use std::collections::{BTreeMap, HashMap};

/// Blocks whose counts are waited for at most.
const COUNTS_MAX: usize = COUNTS_PER_CLIENT / 2;

/// Leaves that are being fetched or given to the peer at once, to be repaired: 4 MiB.
const REPAIRS_MAX: usize = 16;

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::REPAIR, options::COPIES, options::MIN_COPIES];

/// Counts, repairs if so wished, and prints what there is.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let repair = parsed.has(options::REPAIR)?;
    let (copies, min_copies) = match repair {
        true => options::copies_to_make(parsed)?,
        false => options::copies(parsed)?,
    };
    let [text] = &parsed.arguments[..] else {
        let message = match parsed.arguments.is_empty() {
            true => "check what? Give the ADDRESS that share printed",
            false => "check takes one address",
        };
        return Err(Failure::usage(message));
    };
    let root = root(text)?;
    let mut check = Check {
        line: Line::new(&common, &root.to_string()[..8]),
        peer: connect(&common)?,
        common: &common,
        root,
        copies,
        length: 0,
        tallies: Vec::new(),
        places: HashMap::new(),
        to_ask: Vec::new(),
        outstanding: 0,
        counted: 0,
    };
    let mut result = check.walk();
    if repair && result.is_ok() {
        result = check.repair(min_copies);
    }
    let result = result.and_then(|()| check.expect_reached());
    let Check { peer, tallies, .. } = check;
    peer.leave();
    result?;
    let summary = Summary::of(&tallies);
    output::answer(&summary.text(root).trim_end(), || summary.json(root))?;
    summary.judge(root, &tallies, min_copies, repair)?;
    let short = tallies.iter().filter(|it| it.can_be_repaired(copies));
    let short = short.count() as u64;
    if short > 0 && !repair {
        let few = format!("{} fewer copies than there should be", have(short));
        let message = format!("{root}: {few}; strew check --repair makes more");
        say(&common, &message);
    }
    Ok(())
}

/// What is known of one block.
struct Tally {
    id: BlockId,
    role: Role,
    /// Peers of its neighbourhood, and providers of the file, that have it.
    others: u8,
    /// Peers of its neighbourhood that have answered, and those providers.
    answered: u8,
    /// Whether the asked peer has it.
    own: bool,
}

impl Tally {
    fn copies(&self) -> u8 {
        self.others + u8::from(self.own)
    }

    /// Whether it has fewer copies than it should, and somebody who answers does not have it.
    fn can_be_repaired(&self, copies: u8) -> bool {
        self.copies() < copies_wanted(copies, self.role) && self.others < self.answered
    }
}

struct Check<'a> {
    common: &'a Common,
    peer: Peer,
    root: BlockId,
    /// Copies that a leaf should have.
    copies: u8,
    line: Line,
    /// Bytes of the file, 0 until that is known.
    length: u64,
    /// Every block once, in the order of the walk, which has parents before their children. With `places` some 100
    /// bytes for each 256 KiB of the file.
    tallies: Vec<Tally>,
    /// Where each block is in `tallies`.
    places: HashMap<BlockId, usize>,
    /// Blocks that are still to be counted.
    to_ask: Vec<BlockId>,
    /// Blocks that the peer has been asked for and not counted yet.
    outstanding: usize,
    counted: usize,
}

/// What the peer says, counts apart.
enum Heard {
    Block(Block),
    Missing(BlockId, MissingReason, u32),
    Added,
    Settled,
    Nothing,
}

impl Check<'_> {
    /// Bytes of the file, once they are known.
    fn total(&self) -> Option<u64> {
        Some(self.length).filter(|&length| length > 0)
    }

    /// Walks the whole tree and has every block counted once.
    fn walk(&mut self) -> Result<(), Failure> {
        let mut walk = Walk::new(self.root);
        let mut awaited: Option<Place> = None;
        let mut is_walked = false;
        loop {
            // The children of a node together: those that are close to each other share neighbours.
            while awaited.is_none() && !is_walked && self.to_ask.len() < FAN_OUT {
                let Some(place) = walk.poll_next() else {
                    is_walked = true;
                    break;
                };
                let role = walk.role(&place);
                self.find(place.id, role);
                if role != Role::Leaf {
                    self.send(&Frame::Fetch(place.id))?;
                    awaited = Some(place);
                }
            }
            self.ask()?;
            if is_walked && self.outstanding == 0 && self.to_ask.is_empty() {
                return Ok(());
            }
            match (self.hear()?, awaited) {
                (Heard::Block(block), Some(place)) if block.id() == place.id => {
                    walk.enter(&place, block.kind(), block.payload())
                        .map_err(|error| self.judge_tree(error))?;
                    self.length = walk.length().unwrap_or(0);
                    awaited = None;
                }
                (Heard::Missing(id, reason, asked), _) => {
                    return Err(self.peer.missing(self.root, id, reason, asked));
                }
                _ => {}
            }
        }
    }

    /// A block of the file; one that has been found before is counted once.
    fn find(&mut self, id: BlockId, role: Role) {
        let place = self.tallies.len();
        if *self.places.entry(id).or_insert(place) == place {
            self.tallies.push(Tally {
                id,
                role,
                others: 0,
                answered: 0,
                own: false,
            });
            self.to_ask.push(id);
        }
    }

    /// Asks for as many counts as may be waited for.
    fn ask(&mut self) -> Result<(), Failure> {
        self.to_ask.sort();
        loop {
            let len = self.to_ask.len().min(OFFER_MAX);
            if len == 0 || self.outstanding + len > COUNTS_MAX {
                return Ok(());
            }
            let blocks: Vec<BlockId> = self.to_ask.drain(..len).collect();
            self.outstanding += len;
            let root = self.root;
            self.send(&Frame::Count { root, blocks })?;
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), Failure> {
        let sent = self.peer.send(frame);
        sent.map_err(|trouble| self.broken_off(trouble))
    }

    /// Waits for something that the peer says; counts are taken down here.
    fn hear(&mut self) -> Result<Heard, Failure> {
        match self.peer.receive() {
            Ok(Frame::Counted(counted)) => {
                counted.into_iter().for_each(|it| self.take_down(it));
                let done = (self.counted * BLOCK_SIZE_MAX) as u64;
                let more = format!(", {} of {} blocks", self.counted, self.tallies.len());
                self.line.update(done.min(self.length), self.total(), &more);
                Ok(Heard::Nothing)
            }
            Ok(Frame::Block { id, kind, payload }) => {
                Ok(Heard::Block(Block::from_own_peer(id, kind, payload)))
            }
            Ok(Frame::Missing { id, reason, asked }) => Ok(Heard::Missing(id, reason, asked)),
            Ok(Frame::Added(_)) => Ok(Heard::Added),
            Ok(Frame::Settled(_)) => Ok(Heard::Settled),
            Ok(Frame::Failed { status, text }) => {
                Err(Failure::new(Status::from_number(status), text))
            }
            Ok(_) => Ok(Heard::Nothing),
            Err(trouble) => Err(self.broken_off(trouble)),
        }
    }

    fn take_down(&mut self, counted: Counted) {
        let Some(tally) = self
            .places
            .get(&counted.id)
            .and_then(|&place| self.tallies.get_mut(place))
        else {
            return;
        };
        tally.others = counted.copies;
        tally.answered = counted.answered;
        tally.own = counted.own;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.counted += 1;
    }

    /// Shares again what has too few copies, then counts it again; says what has come of it.
    fn repair(&mut self, min_copies: u8) -> Result<(), Failure> {
        let is_short = |it: &&Tally| it.can_be_repaired(self.copies);
        let short = self.tallies.iter().rev().filter(is_short);
        let mut short: Vec<(BlockId, Role)> = short.map(|it| (it.id, it.role)).collect();
        if short.is_empty() {
            say(self.common, &format!("{}: nothing to repair", self.root));
            return Ok(());
        }
        // Children are shared before their parents: leaves first, nodes from the bottom up.
        short.sort_by_key(|&(_, role)| role != Role::Leaf);
        self.send(&Frame::Share(Wanted {
            copies: self.copies,
            min_copies,
            own: Own::Ordinary,
            lifetime: LIFETIME_MAX.as_secs() as u32,
        }))?;
        let lost = self.share_again(&short)?;
        self.send(&Frame::Settle)?;
        while !matches!(self.hear()?, Heard::Settled) {}
        let ids = short.iter().map(|&(id, _)| id);
        self.to_ask.extend(ids);
        self.counted -= short.len();
        while self.outstanding > 0 || !self.to_ask.is_empty() {
            self.ask()?;
            self.hear()?;
        }
        self.tell_repaired(short.len(), &lost);
        Ok(())
    }

    /// Fetches these blocks and adds them to the share, in this order as far as it matters; those that could not be
    /// had.
    fn share_again(&mut self, blocks: &[(BlockId, Role)]) -> Result<Vec<BlockId>, Failure> {
        let mut rest = blocks.iter().peekable();
        let mut lost = Vec::new();
        let (mut under_way, mut done) = (0, 0);
        while done < blocks.len() {
            while let Some(&&(id, role)) = rest.peek() {
                // A node only when what is below it has been added.
                let room = match role {
                    Role::Leaf => REPAIRS_MAX,
                    Role::Node | Role::Root => 1,
                };
                if under_way >= room {
                    break;
                }
                rest.next();
                self.send(&Frame::Fetch(id))?;
                under_way += 1;
            }
            match self.hear()? {
                Heard::Block(block) => {
                    let sent = self.peer.send_add(block.kind(), block.payload());
                    sent.map_err(|trouble| self.broken_off(trouble))?;
                    continue;
                }
                Heard::Missing(id, ..) => lost.push(id),
                Heard::Added => {}
                Heard::Settled | Heard::Nothing => continue,
            }
            under_way -= 1;
            done += 1;
            let more = format!(", repairing: {done} of {} blocks", blocks.len());
            self.line.update(self.length, self.total(), &more);
        }
        Ok(lost)
    }

    fn tell_repaired(&self, tried: usize, lost: &[BlockId]) {
        let short = self.tallies.iter();
        let short = short.filter(|it| it.can_be_repaired(self.copies)).count();
        // What is lost is still short, unless it has turned up meanwhile.
        let few = short.saturating_sub(lost.len());
        let repaired = tried - lost.len() - few.min(tried - lost.len());
        let mut text = format!(
            "{}: {} repaired",
            self.root,
            count(repaired as u64, "block")
        );
        if let Some(first) = lost.first() {
            let lost = lost.len();
            text += &format!("; {lost} could not be fetched, such as {first}");
        }
        if few > 0 {
            text += &format!(
                "; {} still fewer copies than there should be",
                have(few as u64)
            );
        }
        say(self.common, &text);
    }

    /// What is counted without anybody to ask says nothing of the network.
    fn expect_reached(&mut self) -> Result<(), Failure> {
        if self.tallies.iter().any(|it| it.answered > 0) {
            return Ok(());
        }
        let why = self.peer.why_nobody();
        let message = format!(
            "{}: no peer could be reached{why}; give one with -p HOST:PORT",
            self.root
        );
        Err(Failure::new(Status::NoPeer, message))
    }

    fn judge_tree(&self, error: TreeError) -> Failure {
        let status = match error {
            TreeError::NotRoot => Status::Usage,
            _ => Status::Damaged,
        };
        Failure::new(status, format!("{}: {error}", self.root))
    }

    fn broken_off(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(|| {
            format!(
                "{}: {}; {} of its blocks were counted; try again, or give a longer --stall or --timeout",
                self.root,
                self.peer.patience.why(),
                self.counted
            )
        })
    }
}

/// The answer.
#[derive(PartialEq, Debug)]
struct Summary {
    blocks: u64,
    min: u8,
    mean: f64,
    /// Numbers of copies, and how many blocks have as many.
    histogram: BTreeMap<u8, u64>,
}

impl Summary {
    /// Of at least one block.
    fn of(tallies: &[Tally]) -> Summary {
        let mut histogram = BTreeMap::new();
        for tally in tallies {
            *histogram.entry(tally.copies()).or_insert(0) += 1;
        }
        let blocks = tallies.len() as u64;
        let all: u64 = tallies.iter().map(|it| u64::from(it.copies())).sum();
        Summary {
            blocks,
            min: histogram.keys().next().copied().unwrap_or(0),
            mean: all as f64 / blocks.max(1) as f64,
            histogram,
        }
    }

    /// In lines of a key and a value.
    fn text(&self, root: BlockId) -> String {
        let Summary {
            blocks, min, mean, ..
        } = self;
        let mut text =
            format!("address {root}\nblocks {blocks}\ncopies_min {min}\ncopies_mean {mean:.2}\n");
        for (copies, blocks) in &self.histogram {
            text += &format!("copies_{copies} {blocks}\n");
        }
        text
    }

    /// As one object. A mean without a fraction is written without one, which is a number, too.
    fn json(&self, root: BlockId) -> Object {
        let histogram = self.histogram.iter();
        let histogram = histogram.fold(Object::inner(), |all, (copies, blocks)| {
            all.number(&copies.to_string(), blocks)
        });
        Object::new("result")
            .text("address", root)
            .number("blocks", self.blocks)
            .number("min_copies", self.min)
            .number("mean_copies", self.mean)
            .object("histogram", histogram)
    }

    /// Whether that is enough, after what could be repaired has been, if so wished.
    fn judge(
        &self,
        root: BlockId,
        tallies: &[Tally],
        min_copies: u8,
        is_repaired: bool,
    ) -> Result<(), Failure> {
        if let Some(lost) = tallies.iter().find(|it| it.copies() == 0) {
            let count = self.histogram.get(&0).copied().unwrap_or(0);
            let message = format!(
                "{root}: {} no copy, such as {}: asked its {} closest peers, none has it; share the file again",
                have(count),
                lost.id,
                lost.answered
            );
            return Err(Failure::new(Status::NotFound, message));
        }
        if self.min < min_copies {
            let few = self.histogram.range(..min_copies).map(|(_, count)| count);
            let message = format!(
                "{root}: {} fewer than {min_copies} copies, the fewest {}; start more peers{}",
                have(few.sum()),
                self.min,
                if is_repaired {
                    ""
                } else {
                    ", or make more copies with strew check --repair"
                }
            );
            return Err(Failure::new(Status::TooFewCopies, message));
        }
        Ok(())
    }
}

fn have(blocks: u64) -> String {
    let have = if blocks == 1 { "has" } else { "have" };
    format!("{} {have}", count(blocks, "block"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(others: u8, answered: u8, own: bool, role: Role) -> Tally {
        Tally {
            id: BlockId([others; 32]),
            role,
            others,
            answered,
            own,
        }
    }

    fn leaves(copies: &[u8]) -> Vec<Tally> {
        let leaf = |&copies: &u8| tally(copies, 20, false, Role::Leaf);
        copies.iter().map(leaf).collect()
    }

    #[test]
    fn summary_has_the_least_the_mean_and_every_number_of_copies() {
        let tallies = leaves(&[10, 8, 9, 8]);
        let summary = Summary::of(&tallies);
        let root = BlockId([0xab; 32]);
        let hex = "ab".repeat(32);
        assert_eq!(
            summary.text(root),
            format!("address {hex}\nblocks 4\ncopies_min 8\ncopies_mean 8.75\ncopies_8 2\ncopies_9 1\ncopies_10 1\n")
        );
        let object = format!(
            "{{\"v\":1,\"type\":\"result\",\"address\":\"{hex}\",\"blocks\":4,\"min_copies\":8,\
             \"mean_copies\":8.75,\"histogram\":{{\"8\":2,\"9\":1,\"10\":1}}}}"
        );
        assert_eq!(summary.json(root).to_string(), object);
    }

    #[test]
    fn status_tells_none_from_few_from_enough() {
        let judge = |copies: &[u8], min_copies, is_repaired| {
            let tallies = leaves(copies);
            let summary = Summary::of(&tallies);
            let judged = summary.judge(BlockId([1; 32]), &tallies, min_copies, is_repaired);
            judged.err()
        };
        let status =
            |copies: &[u8], min_copies| judge(copies, min_copies, false).map(|it| it.status);
        assert_eq!(status(&[3, 2], 1), None);
        assert_eq!(status(&[3, 2], 2), None);
        assert_eq!(status(&[3, 2], 3), Some(Status::TooFewCopies));
        assert_eq!(status(&[3, 0], 1), Some(Status::NotFound));
        assert_eq!(status(&[3, 0], 0), Some(Status::NotFound));
        // Who has just repaired is not told to.
        for is_repaired in [false, true] {
            let said = judge(&[2], 3, is_repaired).expect("too few").message;
            assert!(said.contains("start more peers"), "{said}");
            assert_eq!(said.contains("--repair"), !is_repaired, "{said}");
        }
    }

    #[test]
    fn repaired_is_what_is_short_where_somebody_lacks_it() {
        for (others, answered, own, role, expected) in [
            (7, 20, false, Role::Leaf, true),
            (7, 20, true, Role::Leaf, false),
            (8, 20, false, Role::Leaf, false),
            (15, 20, false, Role::Node, true),
            (16, 20, false, Role::Root, false),
            (4, 4, true, Role::Leaf, false),
            (0, 4, false, Role::Leaf, true),
        ] {
            let it = tally(others, answered, own, role);
            assert_eq!(it.can_be_repaired(8), expected, "{others} of {answered}");
        }
    }
}
