//! The stretches of a pack in which nothing counts any more, and which of their pages can go back to the file
//! system.
//!
//! Stretches that touch become one. Of a gap only the whole pages within it can be given back; what is left of it,
//! at both ends, is garbage until its neighbours go. Nothing here touches a file.

use super::note::Stretch;
use std::collections::{BTreeMap, BTreeSet};

/// What a file system gives back at least, and in multiples of which it does, in bytes.
pub(super) const PAGE: u64 = 4096;

struct Gap {
    end: u64,
    /// Whether its whole pages have gone back.
    is_punched: bool,
}

/// All gaps of a pack.
#[derive(Default)]
pub(super) struct Gaps {
    /// By where they begin. Invariant: no two touch.
    gaps: BTreeMap<u64, Gap>,
    /// Those with whole pages that have not gone back, by where they begin.
    waiting: BTreeSet<u64>,
    /// Bytes in gaps that have not gone back.
    garbage: u64,
}

/// The whole pages within a stretch; `None` if there are none.
pub(super) fn pages((start, end): Stretch) -> Option<Stretch> {
    let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    (first < last).then_some((first, last))
}

/// Bytes of the whole pages within a stretch.
pub(super) fn page_bytes(stretch: Stretch) -> u64 {
    pages(stretch).map_or(0, |(first, last)| last - first)
}

impl Gaps {
    /// How many there are.
    pub fn len(&self) -> u64 {
        self.gaps.len() as u64
    }

    /// Bytes in gaps that have not gone back to the file system.
    pub fn garbage(&self) -> u64 {
        self.garbage
    }

    /// All gaps, in order.
    pub fn iter(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.iter_from(0)
    }

    /// The gaps that begin at this offset or after it, in order.
    pub fn iter_from(&self, offset: u64) -> impl Iterator<Item = Stretch> + '_ {
        let gaps = self.gaps.range(offset..);
        gaps.map(|(&start, gap)| (start, gap.end))
    }

    /// The gap in which this offset lies.
    pub fn around(&self, offset: u64) -> Option<Stretch> {
        let (&start, gap) = self.gaps.range(..=offset).next_back()?;
        (offset < gap.end).then_some((start, gap.end))
    }

    /// Adds a stretch, and joins it with all that it touches; the gap that it is now part of.
    pub fn add(&mut self, (mut start, mut end): Stretch) -> Stretch {
        if let Some((&before, gap)) = self.gaps.range(..start).next_back() {
            if gap.end >= start {
                start = before;
            }
        }
        while let Some((&at, gap)) = self.gaps.range(start..=end).next() {
            end = end.max(gap.end);
            self.forget(at);
        }
        let stretch = (start, end);
        self.garbage += end - start;
        let gap = Gap {
            end,
            is_punched: false,
        };
        self.gaps.insert(start, gap);
        if page_bytes(stretch) > 0 {
            self.waiting.insert(start);
        }
        stretch
    }

    fn forget(&mut self, start: u64) {
        if let Some(gap) = self.gaps.remove(&start) {
            self.garbage -= remains(start, &gap);
            self.waiting.remove(&start);
        }
    }

    /// The first gap with whole pages that have not gone back, and these pages.
    pub fn next_to_punch(&self) -> Option<(u64, Stretch)> {
        let &start = self.waiting.first()?;
        let pages = pages((start, self.gaps[&start].end))?;
        Some((start, pages))
    }

    /// The whole pages of the gap that begins here have gone back.
    pub fn set_punched(&mut self, start: u64) {
        if let Some(gap) = self.gaps.get_mut(&start) {
            self.garbage -= remains(start, gap);
            gap.is_punched = true;
            self.garbage += remains(start, gap);
        }
        self.waiting.remove(&start);
    }

    /// They cannot go back for now: not asked for again until the gap grows.
    pub fn give_up(&mut self, start: u64) {
        self.waiting.remove(&start);
    }
}

/// Bytes of a gap that have not gone back.
fn remains(start: u64, gap: &Gap) -> u64 {
    let stretch = (start, gap.end);
    let back = if gap.is_punched {
        page_bytes(stretch)
    } else {
        0
    };
    gap.end - start - back
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn gaps_are_the_union_of_what_was_added_whatever_the_order() {
        for seed in 0..50 {
            let mut rng = Rng::new([seed; 32]);
            let mut gaps = Gaps::default();
            let mut dead = vec![false; 600];
            for _ in 0..40 {
                let (start, len) = (rng.below(580), 1 + rng.below(20));
                gaps.add((start * 512, (start + len) * 512));
                dead[start as usize..(start + len) as usize].fill(true);
                if rng.below(2) == 0 {
                    if let Some((at, pages)) = gaps.next_to_punch() {
                        assert!(pages.0 % PAGE == 0 && pages.1 % PAGE == 0 && pages.0 < pages.1);
                        gaps.set_punched(at);
                    }
                }
                for (at, is_dead) in dead.iter().enumerate() {
                    let around = gaps.around(at as u64 * 512 + 8);
                    assert_eq!(around.is_some(), *is_dead);
                }
                let list: Vec<Stretch> = gaps.iter().collect();
                assert!(list.windows(2).all(|two| two[0].1 < two[1].0), "{list:?}");
            }
            while let Some((at, _)) = gaps.next_to_punch() {
                gaps.set_punched(at);
            }
            let rest = |stretch: Stretch| stretch.1 - stretch.0 - page_bytes(stretch);
            assert_eq!(gaps.garbage(), gaps.iter().map(rest).sum::<u64>());
        }
    }

    #[test]
    fn only_whole_pages_go_back() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.add((64, 4096)), (64, 4096));
        assert_eq!(gaps.next_to_punch(), None);
        assert_eq!(gaps.add((4096, 8200)), (64, 8200));
        assert_eq!(gaps.next_to_punch(), Some((64, (4096, 8192))));
        gaps.set_punched(64);
        assert_eq!((gaps.garbage(), gaps.next_to_punch()), (4032 + 8, None));
        gaps.add((8200, 8208));
        assert_eq!(gaps.next_to_punch(), Some((64, (4096, 8192))), "harmless");
        gaps.give_up(64);
        assert_eq!(gaps.next_to_punch(), None);
        assert_eq!(gaps.garbage(), 8208 - 64);
    }
}
