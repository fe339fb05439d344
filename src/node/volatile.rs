//! Blocks that have been written and would not survive a loss of power yet: who counts copies is not told of them.

use crate::id::BlockId;
use crate::store::Sequence;
use std::collections::{BTreeMap, VecDeque};

/// As many as are put between two commits.
#[derive(Default)]
pub(super) struct Volatile {
    /// In the order in which they become durable.
    queue: VecDeque<(Sequence, BlockId)>,
    /// The last put of each.
    puts: BTreeMap<BlockId, Sequence>,
}

impl Volatile {
    /// A block has been written, and will be durable with this put.
    pub fn add(&mut self, put: Sequence, id: BlockId) {
        self.queue.push_back((put, id));
        self.puts.insert(id, put);
    }

    /// Everything up to this put is durable.
    pub fn settle(&mut self, durable: Sequence) {
        while let Some(&(put, id)) = self.queue.front().filter(|it| it.0 <= durable) {
            self.queue.pop_front();
            // It may have been dropped and written again.
            if self.puts.get(&id) == Some(&put) {
                self.puts.remove(&id);
            }
        }
    }

    /// Whether a block is not durable yet.
    pub fn contains(&self, id: &BlockId) -> bool {
        self.puts.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_volatile_until_its_last_put_is_durable() {
        let mut volatile = Volatile::default();
        let [one, two] = [1, 2].map(|n| BlockId([n; 32]));
        volatile.add(Sequence(1), one);
        volatile.add(Sequence(2), two);
        volatile.add(Sequence(3), one);
        volatile.settle(Sequence(2));
        assert!(volatile.contains(&one) && !volatile.contains(&two));
        volatile.settle(Sequence(3));
        assert!(!volatile.contains(&one) && volatile.queue.is_empty());
    }
}
