//! The leaves of a file that are wanted or held, and those between them that have been passed.

use crate::block::cipher::apply;
use crate::block::tree::{Link, Shape, LEAF_SIZE};
use crate::id::BlockId;
use crate::limits::LEAVES_AHEAD_MAX;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

struct Leaf {
    link: Link,
    state: State,
}

enum State {
    Awaited,
    /// Decrypted.
    Held(Vec<u8>),
    /// The caller has it, or does not want it.
    Passed,
}

/// A stretch of leaves, by their indices in the file. Its first has not been passed.
pub struct Window {
    /// Bytes of leaves that may be wanted or held.
    buffer: u64,
    leaves: VecDeque<Leaf>,
    /// Index of the first of them.
    first: u64,
    /// How many are wanted or held.
    open: u64,
    /// Indices of those that are held.
    arrived: BTreeSet<u64>,
    /// The last index of each that is held.
    held: BTreeMap<BlockId, u64>,
}

impl Window {
    /// With room for so many bytes of leaves that are wanted or held, or for one leaf.
    pub fn new(buffer: u64) -> Window {
        Window {
            buffer,
            leaves: VecDeque::new(),
            first: 0,
            open: 0,
            arrived: BTreeSet::new(),
            held: BTreeMap::new(),
        }
    }

    /// Index of the first leaf that has not been passed.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The first leaf that is held, whatever is awaited before it.
    pub fn first_held(&self) -> Option<u64> {
        self.arrived.first().copied()
    }

    /// Whether there is room for a leaf, the next to be added.
    pub fn has_room(&self, shape: &Shape, index: u64) -> bool {
        let len = shape.leaf_len(index) as u64;
        let open = self.open * LEAF_SIZE as u64 + len;
        let window = shape.span(0, index).start + len - shape.span(0, self.first).start;
        let window_max = (LEAVES_AHEAD_MAX * LEAF_SIZE) as u64;
        index == self.first || open <= self.buffer && window <= window_max.max(self.buffer)
    }

    /// Adds the next leaf, which is wanted. True if its bytes must come: they are not held at another place.
    pub fn add(&mut self, link: Link, len: usize) -> bool {
        let index = self.first + self.leaves.len() as u64;
        let state = match self.copy_of(&link, len) {
            Some(data) => {
                self.held.insert(link.id, index);
                self.arrived.insert(index);
                State::Held(data)
            }
            None => State::Awaited,
        };
        let is_awaited = matches!(state, State::Awaited);
        self.open += 1;
        self.leaves.push_back(Leaf { link, state });
        is_awaited
    }

    /// The bytes of a leaf that is held at another place, too.
    fn copy_of(&self, link: &Link, len: usize) -> Option<Vec<u8>> {
        let index = *self.held.get(&link.id)?;
        let leaf = &self.leaves[(index - self.first) as usize];
        match &leaf.state {
            State::Held(data) if leaf.link == *link && data.len() == len => Some(data.clone()),
            _ => None,
        }
    }

    /// Adds the next leaf, which the caller has.
    pub fn add_passed(&mut self, link: Link) {
        let state = State::Passed;
        self.leaves.push_back(Leaf { link, state });
        self.drop_passed();
    }

    /// The bytes of a leaf that is awaited, as they are stored; ignored if it has been passed since.
    pub fn fill(&mut self, index: u64, mut payload: Vec<u8>) {
        let Some(at) = index.checked_sub(self.first) else {
            return;
        };
        let leaf = &mut self.leaves[at as usize];
        if let Some(key) = &leaf.link.key {
            apply(key, &mut payload);
        }
        leaf.state = State::Held(payload);
        self.arrived.insert(index);
        // The places of one block come in the order of the file unless one waited for another's bytes to be given out.
        let last = self.held.entry(leaf.link.id).or_insert(index);
        *last = index.max(*last);
    }

    /// Passes a leaf; its bytes, if they are held.
    pub fn pass(&mut self, index: u64) -> Option<Vec<u8>> {
        let leaf = &mut self.leaves[(index - self.first) as usize];
        if self.held.get(&leaf.link.id) == Some(&index) {
            self.held.remove(&leaf.link.id);
        }
        self.arrived.remove(&index);
        let state = std::mem::replace(&mut leaf.state, State::Passed);
        self.open -= u64::from(!matches!(state, State::Passed));
        self.drop_passed();
        match state {
            State::Held(data) => Some(data),
            _ => None,
        }
    }

    /// Passes all that comes before this leaf.
    pub fn pass_before(&mut self, start: u64) {
        while self.first < start && !self.leaves.is_empty() {
            self.pass(self.first);
        }
        self.first = self.first.max(start);
    }

    fn drop_passed(&mut self) {
        let is_passed = |leaf: &Leaf| matches!(leaf.state, State::Passed);
        while self.leaves.front().is_some_and(is_passed) {
            self.leaves.pop_front();
            self.first += 1;
        }
    }
}
