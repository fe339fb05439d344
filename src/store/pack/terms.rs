//! The notes on terms that may still count. Terms that have changed are said by notes, and said again when they change
//! again; what an older note said counts no more then, but nobody keeps account of each statement. Instead, when the
//! notes take much, the present terms of all blocks are said again, in slices; then all older notes are gaps.
//!
//! Puts leave room for that, so that renewed terms never take more than the allotment. The order keeps terms safe: an
//! older note is noted as a gap only when what replaces it is durable, and a newer one is never a gap before an older.

use super::index::{Key, FIRST_KEY};
use super::note::Stretch;
use super::PackStore;
use crate::limits::{RESTATED_PER_SLICE, TERMS_CHARGE, TERMS_SLACK};
use std::collections::BTreeMap;

/// Stretches of older notes that become gaps in one slice of work: half a note.
const DROPPED_PER_SLICE: usize = 1000;

/// The terms of all blocks are being said again.
struct Restating {
    /// From where on they are still to be said; `None` once all have been.
    cursor: Option<Key>,
    /// Notes before this count no more in the end.
    begun_at: u64,
}

/// Where notes on terms lie.
#[derive(Default)]
pub(super) struct TermsNotes {
    /// Where each stretch of them ends, by where it begins.
    notes: BTreeMap<u64, u64>,
    /// Bytes of them.
    bytes: u64,
    restating: Option<Restating>,
}

impl TermsNotes {
    /// A note, behind all others.
    pub fn push(&mut self, (start, end): Stretch) {
        self.bytes += end - start;
        match self.notes.last_entry() {
            Some(mut last) if *last.get() == start => *last.get_mut() = end,
            _ => {
                self.notes.insert(start, end);
            }
        }
    }

    /// All of them that begin at this offset or after it, in order; those that touch as one.
    pub fn iter_from(&self, offset: u64) -> impl Iterator<Item = Stretch> + '_ {
        let notes = self.notes.range(offset..);
        notes.map(|(&start, &end)| (start, end))
    }

    /// All of them.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.iter_from(0)
    }

    /// What lies in this stretch counts no more.
    pub fn remove_within(&mut self, gap: Stretch) {
        let last = |notes: &BTreeMap<u64, u64>| {
            let last = notes.range(..gap.1).next_back();
            last.map(|(&start, &end)| (start, end))
        };
        while let Some((start, end)) = last(&self.notes).filter(|it| it.1 > gap.0) {
            self.notes.remove(&start);
            self.bytes -= end.min(gap.1) - start.max(gap.0);
            if start < gap.0 {
                self.notes.insert(start, gap.0);
            }
            if gap.1 < end {
                self.notes.insert(gap.1, end);
            }
        }
    }

    /// Takes out the first of those that end before this place.
    fn pop_before(&mut self, place: u64) -> Option<Stretch> {
        let (&start, &end) = self.notes.first_key_value()?;
        let stretch = (start, end.min(place));
        if stretch.0 >= stretch.1 {
            return None;
        }
        self.remove_within(stretch);
        Some(stretch)
    }
}

impl PackStore {
    /// Bytes that puts leave for notes on terms.
    pub(super) fn terms_room(&self) -> u64 {
        let all = self.index.len() * TERMS_CHARGE + TERMS_SLACK;
        all.saturating_sub(self.terms_notes.bytes)
    }

    /// Whether notes on terms take so much that all are to be said again, and there is room for that.
    pub(super) fn wants_restating(&self) -> bool {
        let many = (self.index.len() * TERMS_CHARGE + TERMS_SLACK) / 2;
        let many = self.background.restate_after.unwrap_or(many);
        self.pending.may_say_terms(self.time)
            && (self.terms_notes.restating.is_some() || self.terms_notes.bytes > many)
    }

    /// Says some terms again; or, when all have been, has some older notes noted as gaps.
    pub(super) fn restate_some(&mut self) {
        let begun_at = self.tail;
        let restating = self.terms_notes.restating.get_or_insert(Restating {
            cursor: Some(FIRST_KEY),
            begun_at,
        });
        if let Some(cursor) = restating.cursor {
            let mut entries = self.index.iter_from(cursor);
            for (_, entry) in entries.by_ref().take(RESTATED_PER_SLICE) {
                self.pending.terms.insert(entry.offset, entry.terms);
            }
            restating.cursor = entries.next().map(|(key, _)| key);
            return;
        }
        // Not before all that was said again is durable.
        if !self.pending.terms.is_empty() {
            return;
        }
        let begun_at = restating.begun_at;
        for _ in 0..DROPPED_PER_SLICE {
            let Some(stretch) = self.terms_notes.pop_before(begun_at) else {
                self.terms_notes.restating = None;
                return;
            };
            self.add_gap(stretch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn notes_are_what_was_pushed_and_not_removed() {
        for seed in 0..50 {
            let mut rng = Rng::new([seed; 32]);
            let mut notes = TermsNotes::default();
            let (mut counts, mut tail) = (vec![false; 500], 0);
            for _ in 0..60 {
                let (len, is_note) = (1 + rng.below(8), rng.below(2) == 0);
                if is_note {
                    notes.push((tail * 8, (tail + len) * 8));
                    counts[tail as usize..(tail + len) as usize].fill(true);
                }
                tail += len;
                if rng.below(3) == 0 {
                    let start = rng.below(tail);
                    let end = (start + rng.below(20)).min(tail);
                    notes.remove_within((start * 8, end * 8));
                    counts[start as usize..end as usize].fill(false);
                }
                let all: Vec<Stretch> = notes.iter().collect();
                for (at, counts) in counts.iter().enumerate() {
                    let at = at as u64 * 8;
                    let is_in = all.iter().any(|note| (note.0..note.1).contains(&at));
                    assert_eq!(is_in, *counts);
                }
                let count = counts.iter().filter(|it| **it).count() as u64;
                assert_eq!(notes.bytes, count * 8);
            }
            let place = 8 * tail / 2;
            while let Some(stretch) = notes.pop_before(place) {
                assert!(stretch.0 < stretch.1 && stretch.1 <= place);
            }
            assert!(notes.iter().all(|note| note.0 >= place));
        }
    }
}
