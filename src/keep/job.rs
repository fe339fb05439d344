//! One block on the way to its copies.

use crate::block::Role;
use crate::id::{BlockId, NodeId, Point};
use crate::limits::{K, NEWCOMER_FOR, PASSERS_MAX};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::contact::{Age, Contact};
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

/// A block that is being placed. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct JobId(pub u64);

/// For whom a block is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A client's share, in which the block has this role.
    Session(ConnId, Role),
    /// A peer that has sent it over this connection, to be passed on.
    Source(ConnId, NodeId),
    /// Nobody: this peer is one of those who should hold the block, and sees to it that others do.
    Nobody,
    /// A pin: others are to keep the block for another lifetime.
    Renewal,
}

impl Owner {
    /// Whether it is this client's share.
    pub fn is_client(&self, client: ConnId) -> bool {
        matches!(self, Owner::Session(conn, _) if *conn == client)
    }

    /// Whether it is any client's share.
    pub fn is_session(&self) -> bool {
        matches!(self, Owner::Session(..))
    }
}

/// Who is offered the block at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// One that passes it on.
    Passing,
    /// All who are to have it.
    Direct,
}

/// The state of one block.
pub struct Job {
    /// For whom.
    pub owner: Owner,
    /// Its address.
    pub block: BlockId,
    /// How often the client has added it since, while it was being placed.
    pub repeats: usize,
    /// Copies to reach.
    pub wanted: usize,
    /// Who lives around it, the closest first; at most twice a neighbourhood, more only if it was looked up again.
    pub near: Vec<Contact>,
    /// Those of them who do not answer.
    pub mute: BTreeSet<NodeId>,
    /// How many of those who answer make its neighbourhood, beside this peer.
    pub reach: usize,
    /// Who has been asked for it in this count.
    pub asked: BTreeSet<NodeId>,
    /// Answers to that which are waited for.
    pub asking: usize,
    /// Something has changed since they were asked.
    pub is_stale: bool,
    /// Counts that have ended.
    pub counts: usize,
    /// Who is offered it.
    pub way: Way,
    /// How many holders are enough for now; at most `wanted`.
    pub goal: usize,
    /// Peers that could still be offered the block, the best first.
    pub candidates: VecDeque<Contact>,
    /// Peers that have been offered it.
    pub tried: BTreeSet<NodeId>,
    /// Some could not be reached: others may live around the block.
    pub is_lonely: bool,
    /// Nobody else is to be found: it has been looked up alone, or the network has no more.
    pub is_looked_up: bool,
    /// Peers that say they have it.
    pub holders: BTreeSet<NodeId>,
    /// Those of them that have taken it.
    pub stored: u64,
    /// Peers that have been offered it and whose answer is waited for.
    pub outstanding: usize,
    /// Those of them that had it when it was counted first, and are to keep it for longer.
    pub renewing: BTreeSet<NodeId>,
    /// Somebody is known to keep it for as long as was offered.
    pub is_renewed: bool,
    /// Peers that have been offered it and are late with their answer.
    pub late: BTreeSet<NodeId>,
    /// Peers whose connection ended before they answered, once.
    pub cut_off: BTreeSet<NodeId>,
    /// Peers that are given it to be passed on; at most `PASSERS_MAX`.
    pub passers: Vec<NodeId>,
    /// Those of them that have it and may be passing it on.
    pub awaited: BTreeSet<NodeId>,
    /// When the first of them had it.
    pub passed_at: Option<Instant>,
    /// When there last were more holders than before, and how many.
    pub grown: (Instant, usize),
    /// There have been more since the last of them had it.
    pub has_grown: bool,
}

impl Job {
    /// A job that has not begun.
    pub fn new(now: Instant, owner: Owner, block: BlockId, wanted: usize) -> Job {
        Job {
            owner,
            block,
            repeats: 0,
            wanted,
            near: Vec::new(),
            mute: BTreeSet::new(),
            reach: K,
            asked: BTreeSet::new(),
            asking: 0,
            is_stale: false,
            counts: 0,
            way: Way::Direct,
            goal: wanted,
            candidates: VecDeque::new(),
            tried: BTreeSet::new(),
            is_lonely: false,
            is_looked_up: false,
            holders: BTreeSet::new(),
            stored: 0,
            outstanding: 0,
            renewing: BTreeSet::new(),
            is_renewed: false,
            late: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            passers: Vec::new(),
            awaited: BTreeSet::new(),
            passed_at: None,
            grown: (now, 0),
            has_grown: false,
        }
    }

    /// Takes in who lives around the block, as far as they are not known.
    pub fn locate(&mut self, mut contacts: Vec<Contact>, own: NodeId) {
        let target = Point::from(self.block);
        let distance = |id: NodeId| Point::from(id).distance(&target);
        self.is_looked_up |= contacts.len() < K;
        if let Owner::Source(_, source) = self.owner {
            // It counts others than itself.
            contacts.retain(|it| it.id != source);
        }
        contacts.retain(|it| self.near.iter().all(|known| known.id != it.id));
        contacts.sort_by_cached_key(|it| distance(it.id));
        contacts.truncate(2 * K);
        self.near.extend(contacts);
        self.near.sort_by_cached_key(|it| distance(it.id));
        if !self.owner.is_session() {
            let closer = self.near.iter();
            let closer = closer.take_while(|it| distance(it.id) < distance(own));
            if closer.count() < K && self.holders.insert(own) {
                self.reach = K - 1;
            }
        }
    }

    /// Its neighbourhood but for this peer, as far as is known.
    pub fn neighbourhood(&self) -> impl Iterator<Item = &Contact> {
        let near = self.near.iter();
        near.filter(|it| !self.mute.contains(&it.id))
            .take(self.reach)
    }

    /// Those of its neighbourhood who are not known to have it.
    pub fn lacking(&self) -> Vec<Contact> {
        let all = self.neighbourhood();
        all.filter(|it| !self.holders.contains(&it.id))
            .copied()
            .collect()
    }

    /// How many copies are wanted yet.
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.holders.len())
    }

    /// Whether it has all it can be waited for.
    pub fn is_done(&self) -> bool {
        self.missing() == 0 && self.renewing.is_empty()
    }

    /// Copies that there are, and those that will be if all who have been offered it take it.
    pub fn expected(&self) -> usize {
        self.holders.len() + self.outstanding - self.renewing.len()
    }

    /// Whether those who have it are to keep it for longer: whoever shares or pins it wants that, and nobody else may.
    pub fn renews(&self) -> bool {
        self.owner.is_session() || self.owner == Owner::Renewal
    }

    /// Whether it may be given to others to be passed on: it is a client's, some lack it, and this is not more than is
    /// sent.
    pub fn may_be_passed_on(&self) -> bool {
        self.owner.is_session()
            && self.missing() > PASSERS_MAX
            && self.passers.len() < PASSERS_MAX
            && self.near.len() >= self.wanted
    }
}

/// Puts those first who are known to have lived long, the oldest first; the others stay in their order behind them.
/// Where all are young, so they stay.
pub fn oldest_first(contacts: &mut [Contact]) {
    let least = Age::from_duration(NEWCOMER_FOR);
    contacts.sort_by_key(|contact| Reverse(Some(contact.age).filter(|age| *age >= least)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeKey;
    use std::net::SocketAddr;

    fn contact(n: u8, age: u8) -> Contact {
        let addr = SocketAddr::from(([127, 0, 0, n], 7873));
        Contact::new(NodeKey([n; 32]), addr, Age(age))
    }

    #[test]
    fn oldest_come_first_and_newcomers_last_in_their_order() {
        let ages = [90, 120, 93, 94, 0, 120, 200];
        let mut contacts: Vec<Contact> = (1..).zip(ages).map(|(n, age)| contact(n, age)).collect();
        oldest_first(&mut contacts);
        let order = contacts.iter().map(|it| it.key.0[0]);
        assert_eq!(order.collect::<Vec<u8>>(), [7, 2, 6, 4, 1, 3, 5]);
    }

    #[test]
    fn neighbourhood_is_the_closest_that_answer_and_this_peer() {
        let block = BlockId([0; 32]);
        let own = NodeKey([99; 32]).id();
        let owner = Owner::Source(ConnId(1), NodeKey([7; 32]).id());
        let mut job = Job::new(Instant::EPOCH, owner, block, 8);
        job.locate((1..=60).map(|n| contact(n, 0)).collect(), own);
        assert!(job.near.iter().all(|it| it.key.0[0] != 7), "not the source");
        assert_eq!(job.near.len(), 2 * K);
        let closest: Vec<NodeId> = job.near.iter().map(|it| it.id).collect();
        assert!(closest.is_sorted(), "the target is zero");
        let is_near = own < closest[K - 1];
        assert_eq!(job.holders.contains(&own), is_near);
        assert_eq!(job.neighbourhood().count(), K - usize::from(is_near));
        job.mute.insert(closest[0]);
        assert_eq!(job.neighbourhood().next(), Some(&job.near[1]));
        assert_eq!(job.neighbourhood().count(), K - usize::from(is_near));
    }
}
