//! Deadlines by key: at most one for each, the earliest first, ties in the order of the keys.
//!
//! An ordered set and a map beside it; a timer wheel would pay only above some 100,000 timers.

use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// The deadlines of a machine, each known by its key.
pub struct Timers<K> {
    /// Holds exactly the pairs of `deadlines`, the other way round.
    order: BTreeSet<(Instant, K)>,
    deadlines: BTreeMap<K, Instant>,
}

impl<K: Copy + Ord> Default for Timers<K> {
    fn default() -> Self {
        Timers {
            order: BTreeSet::new(),
            deadlines: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets the deadline of `key`, instead of the one it had.
    pub fn set(&mut self, key: K, at: Instant) {
        self.stop(key);
        self.order.insert((at, key));
        self.deadlines.insert(key, at);
    }

    /// Forgets the deadline of `key`; harmless if it has none.
    pub fn stop(&mut self, key: K) {
        if let Some(at) = self.deadlines.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// When the next deadline is.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    /// Takes a key whose deadline has come, the earliest first; its deadline is forgotten.
    pub fn pop_expired(&mut self, now: Instant) -> Option<K> {
        let &(at, key) = self.order.first()?;
        if at > now {
            return None;
        }
        self.stop(key);
        Some(key)
    }

    /// The deadline of `key`, if it has one.
    pub fn deadline(&self, key: K) -> Option<Instant> {
        self.deadlines.get(&key).copied()
    }

    /// Whether `key` has a deadline.
    pub fn is_set(&self, key: K) -> bool {
        self.deadlines.contains_key(&key)
    }

    /// How many keys have one.
    pub fn count(&self) -> usize {
        self.deadlines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn expire_in_order_of_time_then_key_and_only_once() {
        let at = |secs| Instant::EPOCH + Duration::from_secs(secs);
        let mut timers = Timers::default();
        timers.set('b', at(2));
        timers.set('a', at(2));
        timers.set('c', at(1));
        timers.set('d', at(1));
        timers.set('d', at(9));
        timers.stop('c');
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop_expired(at(1)), None);
        assert_eq!(timers.pop_expired(at(2)), Some('a'));
        assert_eq!(timers.pop_expired(at(2)), Some('b'));
        assert_eq!(timers.pop_expired(at(2)), None);
        assert!(timers.is_set('d') && !timers.is_set('a'));
        assert_eq!((timers.deadline('d'), timers.count()), (Some(at(9)), 1));
    }
}
