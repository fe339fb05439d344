//! One conversation as a value: what a neighbour holds of a region, found out by asking only for what is not as it was.
//!
//! It sends nothing; [`super`] asks the neighbour what it names and gives it the answers. What it learns goes into a
//! [`Memory`].

use super::memory::{Map, Memory, Number};
use crate::cell::Cell;
use crate::digest::Digest;
use crate::limits::{DIGEST_DEPTH_MAX, LISTS_PER_LEAF_MAX, LIST_MAX};
use crate::store::Held;
use crate::wire::datagram::{Reply, Request};
use std::collections::{BTreeMap, VecDeque};

/// A leaf of which the neighbour's list is asked for, in parts if it is long.
struct Lesson {
    leaf: Cell,
    /// Of the digest that was told before.
    sum: u64,
    /// What the lists so far come to.
    map: Map,
    /// Parts that have not been listed, the next one last.
    parts: Vec<Cell>,
    /// Lists asked for.
    asked: usize,
}

/// The conversation.
pub struct Talk {
    number: Number,
    /// Cells to be compared: as a whole first, or down to their leaves at once.
    compare: Vec<(Cell, bool)>,
    lessons: VecDeque<Lesson>,
    /// What the neighbour has been asked and not answered.
    asked: Option<Request>,
}

impl Talk {
    /// Begins to compare a region.
    pub fn new(region: Cell, number: Number) -> Talk {
        Talk {
            number,
            compare: vec![(region, false)],
            lessons: VecDeque::new(),
            asked: None,
        }
    }

    /// What to ask next; nothing while an answer is waited for, or at the end.
    pub fn next(&mut self, memory: &Memory) -> Option<Request> {
        if self.asked.is_some() {
            return None;
        }
        let lesson = self.lessons.front_mut();
        let part = lesson.and_then(|it| {
            it.asked += 1;
            it.parts.last().copied()
        });
        let request = match part {
            Some(part) => Request::List(part),
            None => {
                let (cell, is_different) = self.compare.pop()?;
                let is_known = !is_different && memory.sum(cell, self.number).is_some();
                let deep = depth_of(memory, cell);
                // A few digests cost no more than to ask twice.
                let depth = if is_known && deep > 3 { 0 } else { deep };
                Request::Digest(cell, depth)
            }
        };
        self.asked = Some(request.clone());
        Some(request)
    }

    /// The neighbour has answered, or not. `own` gives the own blocks in a leaf. Makes at most as many questions as there are leaves in the region, and some for long lists.
    pub fn handle_reply(
        &mut self,
        memory: &mut Memory,
        reply: Option<Reply>,
        own: impl FnOnce(Cell) -> Vec<Held>,
    ) {
        match (self.asked.take(), reply) {
            (Some(Request::Digest(cell, depth)), Some(Reply::Digest(digests)))
                if digests.len() == 1 << depth =>
            {
                self.handle_digests(memory, cell, depth, &digests);
            }
            (Some(Request::List(_)), Some(Reply::List(list))) => {
                self.handle_list(memory, list, own);
            }
            // One that has no answer yet is as it was, as far as anybody knows.
            _ => {
                self.compare.clear();
                self.lessons.clear();
            }
        }
    }

    fn handle_digests(&mut self, memory: &mut Memory, cell: Cell, depth: u8, digests: &[Digest]) {
        // By the first place of the leaf.
        let mut leaves: BTreeMap<u64, Digest> = BTreeMap::new();
        for (part, digest) in cell.parts(depth).zip(digests) {
            match memory.leaf(part.first()) {
                Some(leaf) if leaf.cell.bits() <= part.bits() => {
                    *leaves.entry(leaf.cell.first()).or_default() += *digest;
                }
                _ if memory.sum(part, self.number) == Some(digest.sum as u64) => {}
                _ if digest.count == 0 => {
                    let inside = memory.leaves(part).map(|it| it.cell.first());
                    for first in inside.collect::<Vec<u64>>() {
                        memory.learn(first, self.number, 0, 0);
                    }
                }
                _ => self.compare.push((part, true)),
            }
        }
        for (first, digest) in leaves {
            let Some(leaf) = memory.leaf(first) else {
                continue;
            };
            let sum = digest.sum as u64;
            if memory.sum(leaf.cell, self.number) == Some(sum) {
                continue;
            }
            if digest.count == 0 || leaf.count == 0 {
                memory.learn(first, self.number, sum, 0);
                continue;
            }
            let mut parts: Vec<Cell> = leaf.cell.parts(depth_of_lists(digest.count)).collect();
            parts.reverse();
            self.lessons.push_back(Lesson {
                leaf: leaf.cell,
                sum,
                map: 0,
                parts,
                asked: 0,
            });
        }
    }

    fn handle_list(
        &mut self,
        memory: &mut Memory,
        list: Option<Vec<u64>>,
        own: impl FnOnce(Cell) -> Vec<Held>,
    ) {
        let Some(mut lesson) = self.lessons.pop_front() else {
            return;
        };
        let part = lesson.parts.pop();
        let (leaf, number) = (lesson.leaf.first(), self.number);
        let own = own(lesson.leaf);
        let is_as_cut = memory.leaf(leaf).is_some_and(|it| it.is_as_cut(&own));
        let Some(part) = part.filter(|_| is_as_cut) else {
            return memory.forget(leaf, number);
        };
        match list {
            Some(list) => {
                for (index, block) in own.iter().enumerate() {
                    if part.contains(block.place) && list.binary_search(&block.place).is_ok() {
                        lesson.map |= 1 << index;
                    }
                }
            }
            None if lesson.asked < LISTS_PER_LEAF_MAX && part.bits() < 64 => {
                let halves: Vec<Cell> = part.parts(1).collect();
                lesson.parts.extend(halves.into_iter().rev());
            }
            // Whoever has so many in one place is not asked for all of them.
            None => return memory.forget(leaf, number),
        }
        match lesson.parts.is_empty() {
            true => memory.learn(leaf, number, lesson.sum, lesson.map),
            false => self.lessons.push_front(lesson),
        }
    }
}

/// How many more bits the parts of a cell share in which so many blocks make lists that are short enough: they are seldom
/// longer than a third more than their mean.
fn depth_of_lists(count: u32) -> u8 {
    if count as usize <= LIST_MAX {
        return 0;
    }
    let fits = |depth: &u8| count as usize >> depth <= LIST_MAX * 3 / 4;
    (1..DIGEST_DEPTH_MAX).find(fits).unwrap_or(DIGEST_DEPTH_MAX)
}

/// How many more bits the deepest leaf of a cell shares, as far as a request may ask.
fn depth_of(memory: &Memory, cell: Cell) -> u8 {
    let deepest = memory.leaves(cell).map(|leaf| leaf.cell.bits()).max();
    let depth = deepest.map_or(0, |bits| bits.saturating_sub(cell.bits()));
    depth.min(DIGEST_DEPTH_MAX)
}

#[cfg(test)]
mod tests;
