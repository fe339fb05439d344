//! What has been copied, while a copy of the pack is being made: where each block of the copy lies, and what of it
//! counts no more already. It is kept up with every change of a block, so that in the end the copy takes the pack's
//! place at once, however much there is. Called by the store; `compact` says what has been copied.

use super::gaps::Gaps;
use super::index::{Entry, Index};
use super::note::Stretch;
use super::terms::TermsNotes;
use crate::id::BlockId;

/// A stretch of the pack, and where in the copy it begins.
struct Run {
    from: Stretch,
    to: u64,
}

/// The copy as far as it has been made.
#[derive(Default)]
pub(super) struct Copied {
    /// In order, in the pack and in the copy. At most one for each gap that the pack had.
    runs: Vec<Run>,
    /// Where blocks lie in the copy. Takes as much memory as the pack's.
    pub index: Index,
    /// What of the copy counts no more.
    pub gaps: Gaps,
    /// Where in the copy notes on terms lie.
    pub terms_notes: TermsNotes,
    /// Blocks whose present terms the copy alone says, since the pack had no room for a note on them: where they lie in
    /// the pack.
    pub said: Vec<u64>,
}

impl Copied {
    /// Where in the copy that lies which lies here in the pack; `None` if it has not been copied.
    pub fn place(&self, offset: u64) -> Option<u64> {
        let run = self.runs.get(self.first_run(offset))?;
        (run.from.0 <= offset).then(|| run.to + (offset - run.from.0))
    }

    /// What of a stretch of the pack has been copied, in order, as it lies in the copy.
    pub fn places(&self, (start, end): Stretch) -> impl Iterator<Item = Stretch> + '_ {
        let runs = self.runs[self.first_run(start)..].iter();
        runs.take_while(move |run| run.from.0 < end)
            .map(move |run| {
                let (start, end) = (start.max(run.from.0), end.min(run.from.1));
                let place = |offset: u64| run.to + (offset - run.from.0);
                (place(start), place(end))
            })
    }

    /// The first run that does not end before this offset, nor there.
    fn first_run(&self, offset: u64) -> usize {
        self.runs.partition_point(|run| run.from.1 <= offset)
    }

    /// This stretch of the pack, which lies behind all others, has been copied to this place.
    pub fn handle_copied(&mut self, from: Stretch, to: u64) {
        match self.runs.last_mut() {
            Some(run) if run.from.1 == from.0 && run.to + (from.0 - run.from.0) == to => {
                run.from.1 = from.1;
            }
            _ => self.runs.push(Run { from, to }),
        }
    }

    fn copy_of(&self, entry: &Entry) -> Option<Entry> {
        let offset = self.place(entry.offset)?;
        Some(Entry { offset, ..*entry })
    }

    /// The pack has a block at this place. Harmless if it has not been copied.
    pub fn insert(&mut self, id: &BlockId, entry: &Entry) {
        if let Some(copy) = self.copy_of(entry) {
            self.index.insert(id, copy);
        }
    }

    /// Something else is known of the block at this entry's offset. Harmless if it has not been copied.
    pub fn update(&mut self, id: &BlockId, entry: &Entry) {
        if let Some(copy) = self.copy_of(entry) {
            self.index.update(id, copy);
        }
    }

    /// The pack no longer has a block at this place. Harmless if it has not been copied.
    pub fn remove(&mut self, id: &BlockId, entry: &Entry) {
        if let Some(copy) = self.copy_of(entry) {
            self.index.remove(id, &copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_what_has_been_copied() {
        let mut copied = Copied::default();
        copied.handle_copied((64, 128), 64);
        copied.handle_copied((128, 256), 128);
        copied.handle_copied((512, 1024), 256);
        copied.handle_copied((1024, 1088), 800);
        assert_eq!(copied.runs.len(), 3, "what follows on is one run");
        assert_eq!(copied.place(64), Some(64));
        assert_eq!(copied.place(255), Some(255));
        assert_eq!(copied.place(256), None);
        assert_eq!(copied.place(520), Some(264));
        assert_eq!(copied.place(1024), Some(800));
        assert_eq!(copied.place(1088), None);
        let places = |from, to| copied.places((from, to)).collect::<Vec<_>>();
        assert_eq!(places(0, 64), []);
        assert_eq!(places(200, 520), [(200, 256), (256, 264)]);
        assert_eq!(places(256, 512), []);
        assert_eq!(places(600, 2000), [(344, 768), (800, 864)]);
    }
}
