//! The stretches of a pack in which nothing counts any more, and which of their pages can go back to the file
//! system.
//!
//! Stretches that touch become one. Of a gap only the whole pages within it can be given back; what is left of it,
//! at both ends, is garbage until its neighbours go. Nothing here touches a file.

use super::note::Stretch;
use std::collections::BTreeMap;

/// What a file system gives back at least, and in multiples of which it does, in bytes.
pub(super) const PAGE: u64 = 4096;

/// All gaps of a pack.
#[derive(Default)]
pub(super) struct Gaps {
    /// Where each ends, by where it begins. Invariant: no two touch.
    gaps: BTreeMap<u64, u64>,
    /// Whole pages of gaps that are to go back, likewise; these may touch.
    waiting: BTreeMap<u64, u64>,
    /// Bytes in gaps that have not gone back.
    garbage: u64,
    /// From where on it is not known of gaps that were found at an opening whether their pages have gone back: they
    /// count as if they had, as nearly all have. `None` if it is known of all.
    unseen: Option<u64>,
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
        gaps.map(|(&start, &end)| (start, end))
    }

    /// The gap in which this offset lies.
    pub fn around(&self, offset: u64) -> Option<Stretch> {
        let (&start, &end) = self.gaps.range(..=offset).next_back()?;
        (offset < end).then_some((start, end))
    }

    /// Adds a stretch, and joins it with all that it touches.
    pub fn add(&mut self, (mut start, end): Stretch) {
        while start < end {
            if let Some((_, known)) = self.around(start) {
                start = known;
                continue;
            }
            let next = self.gaps.range(start..end).next();
            let piece = (start, next.map_or(end, |(&next, _)| next));
            self.add_piece(piece);
            start = piece.1;
        }
    }

    /// Adds a stretch of which nothing is in a gap yet.
    fn add_piece(&mut self, piece: Stretch) {
        let mut joined = piece;
        if let Some((&start, &end)) = self.gaps.range(..piece.0).next_back() {
            if end == piece.0 {
                joined.0 = start;
            }
        }
        if let Some(end) = self.gaps.remove(&piece.1) {
            joined.1 = end;
        }
        self.gaps.insert(joined.0, joined.1);
        self.garbage += piece.1 - piece.0;
        // Pages that lie in a gap with this piece and did not without.
        let start = joined.0.max(piece.0 / PAGE * PAGE);
        let end = joined.1.min(piece.1.next_multiple_of(PAGE));
        if let Some((first, after)) = pages((start, end)) {
            self.wait(first, after);
        }
    }

    /// Pages are to go back, with those before them at once if they touch.
    fn wait(&mut self, first: u64, after: u64) {
        match self.waiting.range_mut(..first).next_back() {
            Some((_, end)) if *end == first => *end = after,
            _ => {
                self.waiting.insert(first, after);
            }
        }
    }

    /// Some of the pages that are to go back, of no more bytes than this.
    pub fn next_to_punch(&self, max: u64) -> Option<Stretch> {
        let (&first, &after) = self.waiting.first_key_value()?;
        Some((first, after.min(first + max)))
    }

    /// These pages, the next to go back, have gone back.
    pub fn set_punched(&mut self, pages: Stretch) {
        self.garbage -= pages.1 - pages.0;
        self.give_up(pages);
    }

    /// These pages, the next to go back, cannot: they are not asked for again.
    pub fn give_up(&mut self, (first, after): Stretch) {
        if let Some(end) = self.waiting.remove(&first) {
            if after < end {
                self.waiting.insert(after, end);
            }
        }
    }

    /// All of these were found at an opening. Where pages can go back they have, as far as anybody knows.
    pub fn handle_opening(&mut self, can_go_back: bool) {
        self.waiting.clear();
        let pages: u64 = self.iter().map(page_bytes).sum();
        if can_go_back {
            self.garbage -= pages;
            self.unseen = Some(0);
        }
    }

    /// From where on it is not known whether pages have gone back; see [`Gaps::handle_opening`].
    pub fn unseen(&self) -> Option<u64> {
        self.unseen
    }

    /// It is known before this place; everywhere if it is `None`.
    pub fn set_seen(&mut self, before: Option<u64>) {
        self.unseen = before;
    }

    /// Whether pages are to go back.
    pub fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
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
                    if let Some(pages) = gaps.next_to_punch(4 * PAGE) {
                        assert!(pages.0 % PAGE == 0 && pages.1 % PAGE == 0 && pages.0 < pages.1);
                        assert!(pages.1 - pages.0 <= 4 * PAGE);
                        let around = gaps.around(pages.0).unwrap();
                        assert!(pages.1 <= around.1, "only what is in a gap");
                        gaps.set_punched(pages);
                    }
                }
                for (at, is_dead) in dead.iter().enumerate() {
                    let around = gaps.around(at as u64 * 512 + 8);
                    assert_eq!(around.is_some(), *is_dead);
                }
                let list: Vec<Stretch> = gaps.iter().collect();
                assert!(list.windows(2).all(|two| two[0].1 < two[1].0), "{list:?}");
            }
            while let Some(pages) = gaps.next_to_punch(64 * PAGE) {
                gaps.set_punched(pages);
            }
            assert!(!gaps.are_waiting());
            let rest = |stretch: Stretch| stretch.1 - stretch.0 - page_bytes(stretch);
            assert_eq!(gaps.garbage(), gaps.iter().map(rest).sum::<u64>());
        }
    }

    #[test]
    fn only_whole_pages_go_back() {
        let mut gaps = Gaps::default();
        gaps.add((64, 4096));
        assert_eq!(gaps.next_to_punch(PAGE), None);
        gaps.add((4096, 8200));
        assert_eq!(gaps.iter().collect::<Vec<_>>(), [(64, 8200)]);
        assert_eq!(gaps.next_to_punch(PAGE), Some((4096, 8192)));
        gaps.set_punched((4096, 8192));
        assert_eq!((gaps.garbage(), gaps.next_to_punch(PAGE)), (4032 + 8, None));
        gaps.add((4096, 8208));
        assert_eq!(gaps.next_to_punch(PAGE), None, "what is back stays back");
        gaps.add((8208, 12288));
        assert_eq!(
            gaps.next_to_punch(PAGE),
            Some((8192, 12288)),
            "both its parts"
        );
        gaps.give_up((8192, 12288));
        assert_eq!(gaps.next_to_punch(PAGE), None);
        assert_eq!(gaps.garbage(), 12288 - 64 - 4096);
    }

    #[test]
    fn what_goes_back_at_once_is_bounded() {
        let mut gaps = Gaps::default();
        gaps.add((4096, 5 * 4096));
        assert_eq!(gaps.next_to_punch(3 * PAGE), Some((4096, 4 * 4096)));
        gaps.set_punched((4096, 4 * 4096));
        assert_eq!(gaps.next_to_punch(3 * PAGE), Some((4 * 4096, 5 * 4096)));
    }
}
