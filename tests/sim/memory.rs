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

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-taken(layout));
        unsafe { System.dealloc(place, layout) }
    }
}

impl World {
    /// Bytes that a living peer's node takes, on average, with what the allocator adds. All are dropped for that.
    pub fn bytes_per_node(mut self) -> usize {
        let nodes: Vec<_> = self
            .peers
            .iter_mut()
            .filter_map(|it| it.node.take())
            .collect();
        let (count, before) = (nodes.len(), LIVE.get());
        drop(nodes);
        (before - LIVE.get()) as usize / count
    }
}
