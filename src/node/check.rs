//! What must hold of a node between any two calls.

use super::Node;
use crate::store::Store;
use crate::time::Instant;

impl<S: Store> Node<S> {
    /// Panics if a limit is exceeded or an invariant broken. Linear in what is held; for a driver that looks for faults,
    /// and has polled all outputs.
    pub fn check(&self, now: Instant) {
        self.dht.check(now);
        self.transfer.check();
        self.keep.check();
        self.counts.check();
        self.upkeep.check();
        self.pins.check();
        self.fetch.check();
        assert!(self.outputs.is_empty(), "all outputs have been polled");
    }
}
