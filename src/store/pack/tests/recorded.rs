//! A disk in memory that records what it is told, fails at a chosen call, and loses power: what it may then hold
//! is any of the [`Wreck`]'s images.

use super::super::disk::{Disk, Side};
use super::super::gaps::PAGE;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::path::Path;
use std::rc::Rc;

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A call that changed the file, or what is durable of it.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen(u64),
    Sync,
    FailedSync,
    /// A sync beside has begun; its end makes durable what came before this.
    BeginSync,
    EndSync,
    SyncName,
    /// Pages that were given back.
    Punch {
        offset: u64,
        len: u64,
    },
    /// Of a side; nothing ever makes it certain.
    WriteSide {
        side: Side,
        offset: u64,
        bytes: Vec<u8>,
    },
    CutSide(Side, u64),
    /// The copy is made, and empty.
    BeginCopy,
    /// Of the copy.
    Copy(Box<Op>),
    /// The copy takes the name; certain once the name is synced.
    Replace,
}

/// The files of a pack.
#[derive(Clone, Default)]
pub struct Image {
    pub pack: Vec<u8>,
    pub sides: [Vec<u8>; 2],
}

impl Image {
    /// A pack without sides.
    pub fn of(pack: &[u8]) -> Image {
        Image {
            pack: pack.to_vec(),
            ..Image::default()
        }
    }
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// With this error number. A write writes half of its bytes before.
    Error(i32),
    /// A write says that it wrote half, which is true, and a read reads half; other calls succeed.
    Short,
    /// A read says that the file ends; other calls succeed.
    End,
}

/// Which call fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Counted from 0, over all calls that can fail.
    pub call: u64,
    /// Whether all later ones fail as well.
    pub for_ever: bool,
    pub trouble: Trouble,
}

/// What has been called, seen from outside while a store has the disk.
#[derive(Default)]
pub struct Log {
    pub ops: Vec<Op>,
    /// Calls that could have failed.
    pub calls: u64,
    pub fault: Option<Fault>,
    /// Reads that failed, and questions for the length.
    pub failed_reads: u64,
    /// The offset of a page of the pack that cannot be read.
    pub bad_page: Option<u64>,
    /// Whether the file system knows holes.
    pub is_holeless: bool,
    /// Bytes of the file system that are free; all there could be if not said.
    pub free: Option<u64>,
    /// Entries of a checkpoint that are written in one slice; all if not said.
    pub entries_per_slice: Option<u64>,
    /// Whether nothing is free but what the file already takes.
    pub is_full: bool,
    /// Whether no page is given back.
    pub fails_to_punch: bool,
    /// Whether syncs are made beside, and end when they are waited for, or are let.
    pub syncs_beside: bool,
    /// Lets the sync that is under way end.
    pub may_end: bool,
}

impl Log {
    /// Counts a call; how it is to fail, if it is.
    fn count(&mut self) -> Option<Trouble> {
        let call = self.calls;
        self.calls += 1;
        let fault = self.fault?;
        (call == fault.call || (fault.for_ever && call > fault.call)).then_some(fault.trouble)
    }

    /// Counts a call that either succeeds or fails.
    fn attempt(&mut self) -> io::Result<()> {
        match self.count() {
            Some(Trouble::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Trouble::Short | Trouble::End) | None => Ok(()),
        }
    }
}

pub struct Recorded {
    bytes: Vec<u8>,
    sides: [Vec<u8>; 2],
    copy: Option<Vec<u8>>,
    /// For each page whether it takes space, those behind the end included.
    pages: Vec<bool>,
    /// Below it bytes are shown.
    end: u64,
    log: Rc<RefCell<Log>>,
}

impl Recorded {
    /// A file that holds these bytes, all of them durable.
    pub fn new(image: &Image, log: &Rc<RefCell<Log>>) -> Recorded {
        let pages = image.pack.chunks(PAGE as usize);
        Recorded {
            pages: pages.map(|page| page.iter().any(|&it| it != 0)).collect(),
            bytes: image.pack.clone(),
            sides: image.sides.clone(),
            copy: None,
            end: image.pack.len() as u64,
            log: log.clone(),
        }
    }

    /// An error if the disk is full, and these bytes would take space.
    fn take_space(&self, offset: u64, len: u64) -> io::Result<()> {
        let pages = offset / PAGE..(offset + len).div_ceil(PAGE);
        let taken = |page: u64| self.pages.get(page as usize) == Some(&true);
        match self.log.borrow().is_full && !pages.into_iter().all(taken) {
            true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    fn set_pages(&mut self, offset: u64, len: u64, takes_space: bool) {
        let (first, after) = (offset / PAGE, (offset + len).div_ceil(PAGE));
        if self.pages.len() < after as usize {
            self.pages.resize(after as usize, false);
        }
        self.pages[first as usize..after as usize].fill(takes_space);
    }
}

impl Disk for Recorded {
    fn path(&self) -> &Path {
        Path::new("memory/pack")
    }

    fn file_len(&self) -> io::Result<u64> {
        let mut log = self.log.borrow_mut();
        let asked = log.attempt();
        log.failed_reads += u64::from(asked.is_err());
        asked.map(|()| self.bytes.len() as u64)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut log = self.log.borrow_mut();
        let start = (offset as usize).min(self.bytes.len());
        let mut len = bytes.len().min(self.bytes.len() - start);
        let is_bad = |page: u64| offset < page + PAGE && page < offset + len as u64;
        if log.bad_page.is_some_and(is_bad) {
            log.failed_reads += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        match log.count() {
            Some(Trouble::Error(code)) => {
                log.failed_reads += 1;
                return Err(io::Error::from_raw_os_error(code));
            }
            Some(Trouble::Short) => len = len.div_ceil(2),
            Some(Trouble::End) => {
                log.failed_reads += 1;
                return Ok(0);
            }
            None => {}
        }
        bytes[..len].copy_from_slice(&self.bytes[start..start + len]);
        Ok(len)
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        let page = (offset / PAGE) as usize;
        let used = self.pages.get(page..)?.iter().position(|&it| it)?;
        let data = offset.max((page + used) as u64 * PAGE);
        (data < self.bytes.len() as u64).then_some(data)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.log.borrow_mut().attempt()?;
        let copy = self.copy.as_ref().map_or(0, |copy| copy.len() as u64);
        let pages = self.pages.iter().filter(|&&it| it).count() as u64;
        Ok(pages * PAGE + copy.next_multiple_of(PAGE))
    }

    fn free_space(&self) -> io::Result<u64> {
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        Ok(log.free.unwrap_or(u64::MAX))
    }

    fn allocate(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.log.borrow_mut().attempt()?;
        self.take_space(offset, len)?;
        self.set_pages(offset, len, true);
        Ok(())
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        assert!(
            offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE),
            "only whole pages"
        );
        if self.log.borrow().is_holeless {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.log.borrow_mut().attempt()?;
        if self.log.borrow().fails_to_punch {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if offset >= self.bytes.len() as u64 {
            return Ok(());
        }
        self.log.borrow_mut().ops.push(Op::Punch { offset, len });
        self.bytes[offset as usize..(offset + len) as usize].fill(0);
        self.set_pages(offset, len, false);
        Ok(())
    }

    fn read_side(&self, side: Side, max: u64) -> io::Result<Vec<u8>> {
        self.log.borrow_mut().attempt()?;
        let bytes = &self.sides[side as usize];
        Ok(bytes[..bytes.len().min(max as usize)].to_vec())
    }

    fn write_side(&mut self, side: Side, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        let done = log.attempt();
        let bytes = if done.is_ok() {
            bytes
        } else {
            &bytes[..bytes.len() / 2]
        };
        apply_write(&mut self.sides[side as usize], offset, bytes);
        let bytes = bytes.to_vec();
        log.ops.push(Op::WriteSide {
            side,
            offset,
            bytes,
        });
        done
    }

    fn entries_per_slice(&self) -> usize {
        let said = self.log.borrow().entries_per_slice;
        said.unwrap_or(1 << 20) as usize
    }

    fn cut_side(&mut self, side: Side, len: u64) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        self.sides[side as usize].resize(len as usize, 0);
        log.ops.push(Op::CutSide(side, len));
        Ok(())
    }

    fn begin_copy(&mut self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        log.ops.push(Op::BeginCopy);
        self.copy = Some(Vec::new());
        Ok(())
    }

    fn write_copy(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        let done = log.attempt();
        let bytes = if done.is_ok() {
            bytes
        } else {
            &bytes[..bytes.len() / 2]
        };
        let copy = self.copy.as_mut().expect("it was begun");
        apply_write(copy, offset, bytes);
        let bytes = bytes.to_vec();
        log.ops
            .push(Op::Copy(Box::new(Op::Write { offset, bytes })));
        done
    }

    fn sync_copy(&mut self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        let done = log.attempt();
        let op = match done {
            Ok(()) => Op::Sync,
            Err(_) => Op::FailedSync,
        };
        log.ops.push(Op::Copy(Box::new(op)));
        done
    }

    fn replace(&mut self, len: u64) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        log.ops.push(Op::Replace);
        self.bytes = self.copy.take().expect("it was begun");
        assert_eq!(self.bytes.len() as u64, len);
        self.pages = vec![true; self.bytes.len().div_ceil(PAGE as usize)];
        self.end = len;
        Ok(())
    }

    fn drop_replaced(&mut self) -> bool {
        false
    }

    fn drop_copy(&mut self) -> io::Result<()> {
        self.log.borrow_mut().attempt()?;
        self.copy = None;
        Ok(())
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len).filter(|&end| end <= self.end)?;
        Some(&self.bytes[offset as usize..end as usize])
    }

    fn reserve(&mut self, _end: u64) -> io::Result<()> {
        self.log.borrow_mut().attempt()
    }

    fn set_end(&mut self, end: u64) {
        assert!(
            end <= self.bytes.len() as u64,
            "only what is there is shown"
        );
        self.end = end;
    }

    fn write(&mut self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        assert!(offset >= self.end, "what is shown is never written again");
        let mut bytes: Vec<u8> = slices.iter().flat_map(|it| it.iter()).copied().collect();
        self.take_space(offset, bytes.len() as u64)?;
        let mut log = self.log.borrow_mut();
        let trouble = log.count().filter(|it| *it != Trouble::End);
        if trouble.is_some() {
            bytes.truncate(bytes.len().div_ceil(2));
        }
        apply_write(&mut self.bytes, offset, &bytes);
        let written = bytes.len();
        log.ops.push(Op::Write { offset, bytes });
        drop(log);
        self.set_pages(offset, written as u64, true);
        match trouble {
            Some(Trouble::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Trouble::Short | Trouble::End) | None => Ok(written),
        }
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        assert!(self.end <= len, "what is shown is never cut");
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        // Also what was set aside behind the end.
        self.pages.truncate(len.div_ceil(PAGE) as usize);
        if self.bytes.len() as u64 != len {
            self.bytes.resize(len as usize, 0);
            log.ops.push(Op::SetLen(len));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        let result = log.attempt();
        let op = if result.is_ok() {
            Op::Sync
        } else {
            Op::FailedSync
        };
        log.ops.push(op);
        result
    }

    fn begin_sync(&mut self) -> Option<io::Result<()>> {
        if !self.log.borrow().syncs_beside {
            return Some(self.sync());
        }
        let mut log = self.log.borrow_mut();
        log.may_end = false;
        log.ops.push(Op::BeginSync);
        None
    }

    fn poll_sync(&mut self, is_waited_for: bool) -> Option<io::Result<()>> {
        let mut log = self.log.borrow_mut();
        if !is_waited_for && !log.may_end {
            return None;
        }
        let result = log.attempt();
        log.ops.push(match result {
            Ok(()) => Op::EndSync,
            Err(_) => Op::FailedSync,
        });
        Some(result)
    }

    fn sync_name(&mut self) -> io::Result<()> {
        let mut log = self.log.borrow_mut();
        log.attempt()?;
        log.ops.push(Op::SyncName);
        Ok(())
    }

    fn start_write_back(&mut self, _offset: u64, _len: u64) {}
}

fn apply_write(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

/// A change that reaches the disk as a whole or not at all.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// Bytes within one sector.
    Sector(u64, &'a [u8]),
    /// A new length.
    SetLen(u64),
    /// A page that was given back.
    Punch(u64),
}

/// Checkpoints that were sealed and between whose slices something was written to the pack.
pub fn checkpoints_amid_changes(ops: &[Op]) -> u64 {
    let (mut count, mut is_begun, mut has_changed) = (0, false, false);
    // What comes between the last slice and the header is the seal's own.
    let (mut is_amid, mut was_amid) = (false, false);
    for op in ops {
        match op {
            Op::Write { .. } => has_changed = is_begun,
            Op::WriteSide { offset: 0, .. } => {
                count += u64::from(was_amid);
                (is_begun, has_changed, is_amid, was_amid) = (false, false, false, false);
            }
            Op::WriteSide { .. } => {
                was_amid = is_amid;
                is_amid |= has_changed;
                is_begun = true;
            }
            _ => {}
        }
    }
    count
}

/// What is left after a loss of power: what was surely durable, and what may or may not have been.
pub struct Wreck<'a> {
    base: Vec<u8>,
    sides: [Vec<u8>; 2],
    /// What was done to the sides, all in doubt.
    side_steps: Vec<(Side, Step<'a>)>,
    /// In the order of the calls; with the number of the doubt, for those that are in doubt.
    steps: Vec<(Option<usize>, Step<'a>)>,
    /// Steps in doubt.
    pub doubts: usize,
    /// Lengths that the file may have: a length can reach the disk before the data, and after it.
    pub lens: Vec<u64>,
    /// What there may be instead: a copy that has the name, if that is durable.
    pub other: Option<Box<Wreck<'a>>>,
}

impl<'a> Wreck<'a> {
    /// After these calls on a file that held these bytes durably.
    pub fn new(image: &Image, ops: &'a [Op]) -> Wreck<'a> {
        let Some(replaced) = ops.iter().rposition(|op| matches!(op, Op::Replace)) else {
            return Wreck::of(image, ops.iter().collect());
        };
        let begun = ops[..replaced]
            .iter()
            .rposition(|op| matches!(op, Op::BeginCopy))
            .expect("a copy is begun before it replaces");
        let of_side = |op: &&Op| matches!(op, Op::WriteSide { .. } | Op::CutSide(..));
        let of_copy = ops[begun..replaced].iter().filter_map(|op| match op {
            Op::Copy(op) => Some(&**op),
            _ => None,
        });
        let mut new: Vec<&Op> = ops[..replaced].iter().filter(of_side).collect();
        new.extend(of_copy.chain(&ops[replaced + 1..]));
        let empty = Image {
            pack: Vec::new(),
            sides: image.sides.clone(),
        };
        let new = Wreck::of(&empty, new);
        let later = &ops[replaced + 1..];
        if later.iter().any(|op| matches!(op, Op::SyncName)) {
            return new;
        }
        // No more is done to the pack before its name is durable, but for what a failure calls for.
        let mut old = Wreck::new(image, &ops[..replaced]);
        assert!(old.other.is_none(), "one at a time");
        old.other = Some(Box::new(new));
        old
    }

    fn of(image: &Image, ops: Vec<&'a Op>) -> Wreck<'a> {
        // A sync makes durable what came since the last; what a failed one was to make durable stays in doubt.
        let mut certain = vec![false; ops.len()];
        let (mut since, mut begun) = (0, 0);
        for (i, op) in ops.iter().enumerate() {
            match op {
                Op::Sync => certain[since..i].fill(true),
                Op::EndSync => certain[since..begun].fill(true),
                _ => {}
            }
            match op {
                Op::Sync | Op::FailedSync => since = i,
                Op::EndSync => since = begun,
                Op::BeginSync => begun = i,
                _ => {}
            }
        }
        let mut wreck = Wreck {
            base: image.pack.clone(),
            sides: image.sides.clone(),
            side_steps: Vec::new(),
            steps: Vec::new(),
            doubts: 0,
            lens: vec![image.pack.len() as u64],
            other: None,
        };
        let mut len = image.pack.len() as u64;
        for (op, is_certain) in ops.into_iter().zip(certain) {
            let steps: Vec<Step<'a>> = match op {
                Op::Write { offset, bytes } => {
                    len = len.max(offset + bytes.len() as u64);
                    sectors(*offset, bytes)
                }
                Op::SetLen(to) => {
                    len = *to;
                    vec![Step::SetLen(*to)]
                }
                Op::Punch { offset, len } => {
                    let pages = (*offset..offset + len).step_by(PAGE as usize);
                    pages.map(Step::Punch).collect()
                }
                Op::WriteSide {
                    side,
                    offset,
                    bytes,
                } => {
                    let steps = sectors(*offset, bytes).into_iter();
                    wreck.side_steps.extend(steps.map(|step| (*side, step)));
                    continue;
                }
                Op::CutSide(side, len) => {
                    wreck.side_steps.push((*side, Step::SetLen(*len)));
                    continue;
                }
                Op::Sync | Op::FailedSync | Op::SyncName => continue,
                Op::BeginSync | Op::EndSync => continue,
                Op::BeginCopy | Op::Copy(_) | Op::Replace => continue,
            };
            for step in steps {
                wreck.push(is_certain, step);
            }
            if is_certain {
                wreck.lens.clear();
            }
            if !wreck.lens.contains(&len) {
                wreck.lens.push(len);
            }
        }
        wreck
    }

    fn push(&mut self, is_certain: bool, step: Step<'a>) {
        if is_certain && self.steps.is_empty() {
            step.apply(&mut self.base);
        } else if is_certain {
            self.steps.push((None, step));
        } else {
            self.steps.push((Some(self.doubts), step));
            self.doubts += 1;
        }
    }

    /// The files with those steps in doubt that are chosen, and the pack of this length.
    pub fn image(
        &self,
        is_chosen: impl Fn(usize) -> bool,
        is_side_chosen: impl Fn(usize) -> bool,
        len: u64,
    ) -> Image {
        let mut pack = self.base.clone();
        for (doubt, step) in &self.steps {
            if doubt.is_none_or(&is_chosen) {
                step.apply(&mut pack);
            }
        }
        pack.resize(len as usize, 0);
        let mut sides = self.sides.clone();
        for (nth, (side, step)) in self.side_steps.iter().enumerate() {
            if is_side_chosen(nth) {
                step.apply(&mut sides[*side as usize]);
            }
        }
        Image { pack, sides }
    }

    /// The files as a process sees them that is started without a loss of power.
    pub fn as_seen(&self) -> Image {
        if let Some(other) = &self.other {
            return other.as_seen();
        }
        let last = self.lens.last().expect("there is always a length");
        self.image(|_| true, |_| true, *last)
    }
}

impl Step<'_> {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Step::Sector(offset, bytes) => apply_write(image, *offset, bytes),
            Step::SetLen(len) => image.resize(*len as usize, 0),
            // A length that came first may have cut the page.
            Step::Punch(offset) => {
                let len = image.len();
                let (start, end) = (*offset as usize, (*offset + PAGE) as usize);
                image[start.min(len)..end.min(len)].fill(0);
            }
        }
    }
}

/// The bytes of a write, sector by sector.
fn sectors(mut offset: u64, mut bytes: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while !bytes.is_empty() {
        let room = (SECTOR - offset % SECTOR) as usize;
        let (sector, rest) = bytes.split_at(room.min(bytes.len()));
        steps.push(Step::Sector(offset, sector));
        offset += sector.len() as u64;
        bytes = rest;
    }
    steps
}
