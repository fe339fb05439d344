//! One client's share: which of its blocks wait, and how many copies the others have.

use crate::block::Role;
use crate::id::{BlockId, NodeId};
use crate::limits::{COPIES_MAX, PLACING_MAX};
use crate::time::Instant;
use crate::wire::frame::{Answer, Frame, Own, Settled, Wanted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many copies a block of this role should have where leaves should have `copies`, at most `COPIES_MAX`: roots
/// and nodes, without which nothing is found, twice as many.
pub fn copies_wanted(copies: u8, role: Role) -> u8 {
    match role {
        Role::Leaf => copies,
        Role::Node | Role::Root => copies.saturating_mul(2).min(COPIES_MAX),
    }
}

/// The state of a share.
pub struct Session {
    wants: Wanted,
    /// Blocks that were not here before, if the own copies are to be dropped; no more than the allotment holds.
    fresh: BTreeSet<BlockId>,
    /// Blocks not begun, in the order they were added; the client is held up at `PLACING_MAX`, and a retry adds
    /// at most as many again.
    pub pending: VecDeque<(BlockId, Role)>,
    /// Blocks being placed, or about to be after another client's.
    active: usize,
    /// Those of them that are about to be.
    following: usize,
    /// Blocks added.
    added: u64,
    /// Blocks done with.
    placed: u64,
    /// Blocks done with that have fewer than `min_copies`, with how many; at most `PLACING_MAX`.
    short: Vec<(BlockId, Role, u8)>,
    /// The fewest copies among blocks done with that are not in `short`.
    least: u8,
    /// Blocks done with that have fewer copies than were aimed at, but enough: the own copy is under lease, and may go
    /// if there is no room.
    counted: Vec<BlockId>,
    /// Other blocks done with whose own copy is under lease; with `counted` no more than the allotment holds.
    leased: Vec<BlockId>,
    /// Peers that hold any of the blocks.
    holders: BTreeSet<NodeId>,
    /// How often peers have refused a block, by reason.
    refusals: BTreeMap<Answer, u64>,
    /// Nothing more is added; what is short is tried again until then.
    retry_until: Option<Instant>,
    /// What is being placed is what was short.
    is_retrying: bool,
}

impl Session {
    /// An empty share.
    pub fn new(wants: Wanted) -> Session {
        let copies = wants.copies.min(COPIES_MAX);
        Session {
            wants: Wanted {
                copies,
                min_copies: wants.min_copies.min(copies),
                ..wants
            },
            fresh: BTreeSet::new(),
            pending: VecDeque::new(),
            active: 0,
            following: 0,
            added: 0,
            placed: 0,
            short: Vec::new(),
            least: COPIES_MAX,
            counted: Vec::new(),
            leased: Vec::new(),
            holders: BTreeSet::new(),
            refusals: BTreeMap::new(),
            retry_until: None,
            is_retrying: false,
        }
    }

    /// How many copies a block of this role should get.
    pub fn wanted(&self, role: Role) -> usize {
        usize::from(copies_wanted(self.wants.copies, role))
    }

    /// How long its blocks are to be kept, in seconds.
    pub fn lifetime(&self) -> u32 {
        self.wants.lifetime
    }

    /// One more block; whether it was not here before.
    pub fn add(&mut self, block: BlockId, role: Role, is_new: bool) {
        self.added += 1;
        if is_new && self.wants.own == Own::Dropped {
            self.fresh.insert(block);
        }
        self.pending.push_back((block, role));
    }

    /// Another shares a block as well, and may want the own copy.
    pub fn share_with_others(&mut self, block: &BlockId) {
        self.fresh.remove(block);
    }

    /// The next block to be placed.
    pub fn start_next(&mut self) -> Option<(BlockId, Role)> {
        let next = self.pending.pop_front()?;
        self.active += 1;
        Some(next)
    }

    /// The block that was started last is being placed for another client.
    pub fn follow(&mut self) {
        self.following += 1;
    }

    /// Blocks that wait, for their turn or for another client's.
    pub fn waiting(&self) -> usize {
        self.pending.len() + self.following
    }

    /// A block is no longer placed for another client: it waits for its turn, before all others.
    pub fn put_back(&mut self, block: BlockId, role: Role) {
        self.active -= 1;
        self.following -= 1;
        self.pending.push_front((block, role));
    }

    /// A block is done with. Whether nothing need hold the own copy any more.
    pub fn finish(&mut self, block: BlockId, role: Role, holders: &BTreeSet<NodeId>) -> bool {
        self.active -= 1;
        self.placed += 1;
        let copies = holders.len() as u8;
        self.holders.extend(holders);
        let is_short = copies < self.wants.min_copies;
        if is_short && self.short.len() < PLACING_MAX {
            self.short.push((block, role, copies));
            return false;
        }
        self.least = self.least.min(copies);
        if self.wants.own == Own::Pinned || is_short || copies == 0 {
            self.leased.push(block);
        } else if holders.len() < self.wanted(role) {
            self.counted.push(block);
        } else {
            return true;
        }
        false
    }

    /// A peer has refused a block.
    pub fn handle_refusal(&mut self, reason: Answer) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    /// The blocks that have copies, though fewer than were aimed at; each is given once.
    pub fn take_counted(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.counted)
    }

    /// Whether the own copy of a block that has its copies is to be dropped; each is said once.
    pub fn take_fresh(&mut self, block: &BlockId) -> bool {
        self.fresh.remove(block)
    }

    /// All blocks that are under lease for this share and not being placed.
    pub fn leased(&self) -> impl Iterator<Item = BlockId> + '_ {
        let pending = self.pending.iter().map(|it| it.0);
        let short = self.short.iter().map(|it| it.0);
        let done = self.counted.iter().chain(&self.leased).copied();
        pending.chain(short).chain(done)
    }

    /// Nothing more is added; what is short may be tried again until `deadline`.
    pub fn settle_by(&mut self, deadline: Instant) {
        self.retry_until.get_or_insert(deadline);
    }

    /// Whether the client waits for the end.
    pub fn is_settling(&self) -> bool {
        self.retry_until.is_some()
    }

    /// Whether every block added so far is done with.
    pub fn is_placed(&self) -> bool {
        self.pending.is_empty() && self.active == 0
    }

    /// Whether any block has fewer copies than the client insists on.
    pub fn is_short(&self) -> bool {
        !self.short.is_empty()
    }

    /// Whether there is time for another try.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.retry_until.is_some_and(|until| now < until)
    }

    /// Whether what is being placed was short before.
    pub fn is_retrying(&self) -> bool {
        self.is_retrying
    }

    /// Places again what is short.
    pub fn retry(&mut self) {
        self.is_retrying = true;
        self.placed -= self.short.len() as u64;
        self.pending
            .extend(self.short.drain(..).map(|(block, role, _)| (block, role)));
    }

    /// How far it is.
    pub fn progress(&self) -> Frame {
        Frame::Progress {
            placed: self.placed,
            holders: self.holders.len() as u32,
            least: self.least(),
        }
    }

    /// The fewest copies of any block done with; 0 if none is.
    fn least(&self) -> u8 {
        let short = self.short.iter().map(|&(_, _, copies)| copies).min();
        match self.placed {
            0 => 0,
            _ => short.unwrap_or(COPIES_MAX).min(self.least),
        }
    }

    /// What it has come to.
    pub fn outcome(&self, reached: bool) -> Settled {
        let holders = self.holders.len() as u32;
        Settled {
            blocks: self.added,
            least: self.least(),
            holders,
            reached: reached || holders > 0,
            refusal: self.most_frequent_refusal(),
        }
    }

    fn most_frequent_refusal(&self) -> Option<Answer> {
        let most = self.refusals.iter().max_by_key(|(_, times)| **times);
        most.map(|(reason, _)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wants(copies: u8, min_copies: u8, own: Own) -> Wanted {
        Wanted {
            copies,
            min_copies,
            own,
            lifetime: 3600,
        }
    }

    fn holders(count: u8) -> BTreeSet<NodeId> {
        (0..count).map(|n| NodeId([n; 32])).collect()
    }

    #[test]
    fn outcome_is_the_least_held_block() {
        let mut session = Session::new(wants(8, 2, Own::Ordinary));
        for n in 0..3 {
            session.add(BlockId([n; 32]), Role::Leaf, true);
            session.start_next();
        }
        session.finish(BlockId([0; 32]), Role::Leaf, &holders(5));
        session.finish(BlockId([1; 32]), Role::Leaf, &holders(1));
        session.finish(BlockId([2; 32]), Role::Leaf, &holders(3));
        assert!(session.is_placed() && session.is_short());
        for reason in [Answer::Quota, Answer::Full, Answer::Full] {
            session.handle_refusal(reason);
        }
        assert_eq!(session.outcome(true).least, 1);
        session.retry();
        assert!(!session.is_placed());
        assert_eq!(session.start_next(), Some((BlockId([1; 32]), Role::Leaf)));
        session.finish(BlockId([1; 32]), Role::Leaf, &holders(4));
        let settled = Settled {
            blocks: 3,
            least: 3,
            holders: 5,
            reached: true,
            refusal: Some(Answer::Full),
        };
        assert_eq!(
            session.outcome(false),
            settled,
            "holders are somebody reached"
        );
    }

    #[test]
    fn retries_end_at_the_first_deadline_set() {
        let at = |secs| Instant::EPOCH + Duration::from_secs(secs);
        let mut session = Session::new(wants(8, 1, Own::Ordinary));
        assert!(!session.may_retry(at(0)), "only once the client waits");
        session.settle_by(at(10));
        session.settle_by(at(20));
        assert!(session.may_retry(at(9)) && !session.may_retry(at(10)));
    }

    #[test]
    fn only_what_was_not_here_before_is_dropped_and_only_if_that_is_wanted() {
        for (own, is_dropped) in [(Own::Dropped, true), (Own::Ordinary, false)] {
            let mut session = Session::new(wants(8, 1, own));
            let [new, old] = [1, 2].map(|n| BlockId([n; 32]));
            session.add(new, Role::Leaf, true);
            session.add(old, Role::Leaf, false);
            assert_eq!(session.take_fresh(&new), is_dropped);
            assert!(!session.take_fresh(&new) && !session.take_fresh(&old));
            session.add(new, Role::Leaf, true);
            session.share_with_others(&new);
            assert!(!session.take_fresh(&new), "it is another's as well");
        }
    }

    #[test]
    fn what_is_short_keeps_its_own_copy_however_much_there_is() {
        let mut session = Session::new(wants(8, 2, Own::Dropped));
        let id = |n: usize| BlockId(std::array::from_fn(|i| n.to_be_bytes()[i % 8]));
        for n in 0..=PLACING_MAX {
            session.add(id(n), Role::Leaf, true);
            session.start_next();
            assert!(!session.finish(id(n), Role::Leaf, &holders(1)), "{n}");
        }
        assert_eq!(session.leased().count(), PLACING_MAX + 1);
        assert!(session.take_counted().is_empty());
        assert_eq!(session.outcome(true).least, 1);
    }

    #[test]
    fn roots_and_nodes_get_twice_as_many_copies_up_to_a_neighbourhood() {
        let wanted = |copies| {
            [Role::Leaf, Role::Node, Role::Root]
                .map(|role| Session::new(wants(copies, 1, Own::Ordinary)).wanted(role))
        };
        assert_eq!(wanted(8), [8, 16, 16]);
        assert_eq!(wanted(12), [12, 20, 20]);
    }
}
