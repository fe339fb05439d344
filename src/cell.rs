//! Aligned parts of the space of addresses: by them peers speak of what they hold, region by region.
//!
//! A cell is all points that begin with the same bits, as far as the first 64 tell; a block's place in it is the first
//! 8 bytes of its address. Two addresses with the same place are some 2^32 hashes of work, and one with the place of
//! a given block 2^64.

use crate::id::{BlockId, NodeId, Point};

/// The first 8 bytes of an address or id.
pub fn place(point: &Point) -> u64 {
    u64::from_be_bytes(*point.0.first_chunk().expect("a point has 32 bytes"))
}

/// The same of a block.
pub fn place_of(block: &BlockId) -> u64 {
    place(&(*block).into())
}

/// The same of a node.
pub fn place_of_node(node: &NodeId) -> u64 {
    place(&(*node).into())
}

/// All places that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// Invariant: zero beyond the first `bits` bits.
    first: u64,
    /// At most 64.
    bits: u8,
}

impl Cell {
    /// The whole space.
    pub const WHOLE: Cell = Cell { first: 0, bits: 0 };

    /// The places that share so many bits with this one, at most 64.
    pub fn around(place: u64, bits: u8) -> Cell {
        let bits = bits.min(64);
        Cell {
            first: place & !mask(bits),
            bits,
        }
    }

    /// The cell with this first place; `None` if no cell of so many bits begins there.
    pub fn at(first: u64, bits: u8) -> Option<Cell> {
        let cell = Cell { first, bits };
        (bits <= 64 && first & mask(bits) == 0).then_some(cell)
    }

    /// The first place in it.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last place in it.
    pub fn last(&self) -> u64 {
        self.first | mask(self.bits)
    }

    /// How many bits all places in it share.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether a place is in it.
    pub fn contains(&self, place: u64) -> bool {
        place & !mask(self.bits) == self.first
    }

    /// The parts of it that share `depth` more bits, in order. `bits` and `depth` are at most 64 together.
    pub fn parts(self, depth: u8) -> impl Iterator<Item = Cell> {
        assert!(self.bits + depth <= 64, "a place has 64 bits");
        let bits = self.bits + depth;
        (0..1u64 << depth).map(move |nth| Cell {
            first: self.first | nth.checked_shl(64 - u32::from(bits)).unwrap_or(0),
            bits,
        })
    }

    /// The largest cell that begins at `first` and lies in this one; `first` is in it.
    pub fn largest_at(&self, first: u64) -> Cell {
        let aligned = 64 - first.trailing_zeros().min(64) as u8;
        Cell::around(first, aligned.max(self.bits))
    }
}

/// The bits of a place that are not among the first `bits`.
fn mask(bits: u8) -> u64 {
    u64::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_a_cell_in_order() {
        for (bits, depth) in [(0, 0), (0, 5), (7, 3), (59, 5), (64, 0), (63, 1)] {
            let cell = Cell::around(0x0123_4567_89ab_cdef, bits);
            let mut next = Some(cell.first());
            for part in cell.parts(depth) {
                assert_eq!(Some(part.first()), next);
                assert_eq!(part.bits(), bits + depth);
                assert!(cell.contains(part.first()) && cell.contains(part.last()));
                next = part.last().checked_add(1);
            }
            assert_eq!(next, cell.last().checked_add(1));
        }
    }

    #[test]
    fn only_aligned_cells_are_made() {
        assert_eq!(Cell::at(0, 0), Some(Cell::WHOLE));
        assert_eq!(Cell::at(1, 64).map(|it| it.last()), Some(1));
        assert_eq!(Cell::at(1, 63), None);
        assert_eq!(Cell::at(1 << 63, 0), None);
        assert_eq!(Cell::at(0, 65), None);
        let zone = Cell::around(0x5000 << 48, 4);
        assert_eq!(zone.largest_at(0x5000 << 48), zone);
        assert_eq!(zone.largest_at(0x5800 << 48).bits(), 5);
        assert_eq!(zone.largest_at(0x5000 << 48 | 1).bits(), 64);
    }
}
