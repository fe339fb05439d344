//! What the nodes of a simulation hold of the heap, told by the allocator.

use crate::world::World;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated and not freed. A world lives in one thread, and tests run beside each
    /// other.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, and a count.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What malloc takes for so many bytes: a header of 8, in steps of 16, 32 at least.
fn taken(layout: Layout) -> isize {
    (layout.size() + 8).next_multiple_of(16).max(32) as isize
}

fn count(change: isize) {
    LIVE.set(LIVE.get() + change);
}

// SAFETY: all is left to the system's allocator; the count allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout));
        // SAFETY: what the caller promises is what is asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-taken(layout));
        // SAFETY: the place is one that `alloc` has given for this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Nodes whose memory is looked at.
const SAMPLE: usize = 100;

impl World {
    /// Bytes that a living peer's node takes, on average over some, with what the allocator adds. They are dropped for
    /// that, and start again.
    pub fn bytes_per_node(&mut self) -> usize {
        let alive: Vec<_> = self.alive().collect();
        let mut taken = 0;
        let some = alive.iter().step_by(alive.len().div_ceil(SAMPLE));
        for &id in some.clone() {
            let node = self.peers[id].node.take().expect("it is alive");
            self.peers[id].saved = node.contacts(self.now);
            let before = LIVE.get();
            drop(node);
            taken += before - LIVE.get();
            self.crash(id, false, true);
            self.revive(id);
        }
        taken as usize / some.len()
    }
}
