//! Who has the blocks that are going to be wanted: they are located by region, and those who live around them are
//! asked by HAVE, each for all of them that it should have.
//!
//! What a region was found to be serves for later blocks in it. All of it is forgotten with the last who wants it.

use super::{Asker, Tools};
use crate::dht::region::Prefix;
use crate::dht::{LocateId, Located, QueryId};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::{Bitmap, Request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// A block that is going to be wanted.
struct Sought {
    /// By whom.
    askers: BTreeSet<Asker>,
    since: Instant,
    /// All who live around it; `None` until it has been located.
    around: Option<Rc<[Contact]>>,
    /// Those of them who have been asked for it, or are about to be.
    asked: Vec<NodeId>,
    /// How many of them have not answered.
    waiting: usize,
    holders: Vec<Contact>,
}

/// What a contact is to be asked.
struct Question {
    contact: Contact,
    /// Up to `HAVE_MAX`.
    blocks: Vec<BlockId>,
    /// It has not answered it once.
    is_second: bool,
}

/// All who live in a region.
struct Area {
    prefix: Prefix,
    contacts: Rc<[Contact]>,
    since: Instant,
}

/// What is known of the holders of blocks that are going to be wanted.
#[derive(Default)]
pub struct Holders {
    /// Each is wanted by those who ask, or named by their plans, which have bounds.
    sought: BTreeMap<BlockId, Sought>,
    /// To be located next.
    waiting: Vec<BlockId>,
    /// What is being located.
    locate: Option<(LocateId, BTreeSet<BlockId>)>,
    /// By their first points; at most `AREAS_MAX`.
    areas: BTreeMap<Point, Area>,
    /// To be asked.
    questions: VecDeque<Question>,
    /// Have been asked; at most `COUNT_REQUESTS_MAX`.
    asked: BTreeMap<QueryId, Question>,
}

impl Holders {
    /// These blocks are going to be wanted.
    pub fn seek(&mut self, tools: &mut Tools<'_>, asker: Asker, blocks: Vec<BlockId>) {
        for id in blocks {
            let sought = self.sought.entry(id).or_insert_with(|| {
                self.waiting.push(id);
                Sought {
                    askers: BTreeSet::new(),
                    since: tools.now,
                    around: None,
                    asked: Vec::new(),
                    waiting: 0,
                    holders: Vec::new(),
                }
            });
            sought.askers.insert(asker);
        }
        self.run(tools);
    }

    /// Who says that it has a block.
    pub fn of(&self, now: Instant, id: &BlockId) -> &[Contact] {
        let sought = self.sought.get(id);
        let fresh = sought.filter(|it| now.since(it.since) < HOLDERS_FOR);
        fresh.map_or(&[], |it| &it.holders)
    }

    /// Whether holders of a block may yet be found here.
    pub fn is_seeking(&self, id: &BlockId) -> bool {
        let sought = self.sought.get(id);
        sought.is_some_and(|it| it.around.is_none() || it.waiting > 0)
    }

    /// Whether holders of a block are sought here, or have been.
    pub fn knows(&self, id: &BlockId) -> bool {
        self.sought.contains_key(id)
    }

    /// Nobody waits for a block any more who did.
    pub fn forget(&mut self, id: &BlockId, asker: Asker) {
        if let Some(sought) = self.sought.get_mut(id) {
            sought.askers.remove(&asker);
            if sought.askers.is_empty() {
                self.sought.remove(id);
            }
        }
    }

    /// Somebody who was going to want blocks is not: what is sought for nobody else costs nothing more.
    pub fn forget_all(&mut self, tools: &mut Tools<'_>, asker: Asker) {
        self.sought.retain(|_, sought| {
            sought.askers.remove(&asker);
            !sought.askers.is_empty()
        });
        let sought = &self.sought;
        self.waiting.retain(|id| sought.contains_key(id));
        let is_useless = |(_, rest): &mut (LocateId, BTreeSet<BlockId>)| {
            rest.iter().all(|id| !sought.contains_key(id))
        };
        if let Some((locate, _)) = self.locate.take_if(is_useless) {
            tools.dht.cancel_locate(tools.now, locate);
        }
        if self.sought.is_empty() {
            self.areas.clear();
        }
        self.run(tools);
    }

    /// Panics if anything is sought for somebody who does not want it nor will; for a driver that looks for faults.
    pub fn check(&self, is_wanted: impl Fn(&BlockId, Asker) -> bool) {
        for (id, sought) in &self.sought {
            assert!(!sought.askers.is_empty());
            assert!(sought.askers.iter().all(|&asker| is_wanted(id, asker)));
        }
        assert!(self.areas.len() <= AREAS_MAX && self.asked.len() <= COUNT_REQUESTS_MAX);
    }

    /// Asks and locates as much as may be under way.
    fn run(&mut self, tools: &mut Tools<'_>) {
        if self.locate.is_none() && !self.waiting.is_empty() {
            self.locate_waiting(tools);
        }
        while self.asked.len() < COUNT_REQUESTS_MAX {
            let Some(mut question) = self.questions.pop_front() else {
                return;
            };
            question.blocks.retain(|id| self.sought.contains_key(id));
            if question.blocks.is_empty() {
                continue;
            }
            let request = Request::Have(question.blocks.clone());
            let count = tools.dht.query(tools.now, question.contact, request);
            self.asked.insert(count, question);
        }
    }

    /// Locates what waits, but for what lies in a region that is known.
    fn locate_waiting(&mut self, tools: &mut Tools<'_>) {
        self.areas
            .retain(|_, area| tools.now.since(area.since) < HOLDERS_FOR);
        let mut known: BTreeMap<Point, Vec<BlockId>> = BTreeMap::new();
        let mut rest = BTreeSet::new();
        for id in std::mem::take(&mut self.waiting) {
            let point = Point::from(id);
            let area = self.areas.range(..=point).next_back();
            match area.filter(|(_, area)| area.prefix.contains(&point)) {
                Some((&first, _)) => known.entry(first).or_default().push(id),
                None => drop(rest.insert(id)),
            }
        }
        for (first, blocks) in known {
            let around = self.areas[&first].contacts.clone();
            self.handle_around(&blocks, &around);
        }
        if !rest.is_empty() {
            let locate = tools.dht.locate(tools.now, rest.iter().copied());
            self.locate = Some((locate, rest));
        }
    }

    /// Blocks have been located. Whether it was for this.
    pub fn handle_located(&mut self, tools: &mut Tools<'_>, located: &Located) -> bool {
        let Some((_, rest)) = self.locate.as_mut().filter(|it| it.0 == located.locate) else {
            return false;
        };
        for id in &located.blocks {
            rest.remove(id);
        }
        if rest.is_empty() {
            self.locate = None;
        }
        let contacts: Rc<[Contact]> = located.contacts.as_slice().into();
        if let (Some(first), Some(last)) = (contacts.first(), contacts.last()) {
            let bits = match contacts.len() {
                // They are the whole network.
                ..K => 0,
                _ => Point::from(first.id).common_prefix(&last.id.into()),
            };
            let prefix = Prefix::new(first.id.into(), bits);
            if self.areas.len() < AREAS_MAX {
                let area = Area {
                    prefix,
                    contacts: contacts.clone(),
                    since: tools.now,
                };
                self.areas.insert(prefix.first(), area);
            }
        }
        self.handle_around(&located.blocks, &contacts);
        self.run(tools);
        true
    }

    fn handle_around(&mut self, blocks: &[BlockId], around: &Rc<[Contact]>) {
        for id in blocks {
            if let Some(sought) = self.sought.get_mut(id) {
                sought.around = Some(around.clone());
            }
        }
        self.ask_around(blocks, around);
    }

    /// Has some of those around these blocks asked for them: the closest, and who can be asked for many at once. Each
    /// block is as many parts of a question worth as all who may have it, if the questions are full. Looks at each
    /// contact for each block as often as somebody is asked.
    fn ask_around(&mut self, blocks: &[BlockId], around: &[Contact]) {
        struct Open {
            id: BlockId,
            /// Who is to be asked yet, with how much it is worth: the closer the more.
            near: Vec<(usize, usize)>,
            /// What it may yet cost, in parts of a question.
            budget: usize,
        }
        let mut open = Vec::new();
        for id in blocks {
            let Some(sought) = self.sought.get(id) else {
                continue;
            };
            let target = Point::from(*id);
            let mut near: Vec<usize> = (0..around.len()).collect();
            near.sort_by_cached_key(|&nth| target.distance(&around[nth].id.into()));
            let near = near.into_iter().zip((1..=K).rev());
            let near = near.filter(|(nth, _)| !sought.asked.contains(&around[*nth].id));
            open.push(Open {
                id: *id,
                near: near.collect(),
                budget: K,
            });
        }
        loop {
            let mut worth = vec![0; around.len()];
            for it in open.iter().filter(|it| it.budget > 0) {
                for &(nth, value) in &it.near {
                    worth[nth] += value;
                }
            }
            let best = (0..around.len()).max_by_key(|&nth| worth[nth]);
            let Some(best) = best.filter(|&nth| worth[nth] > 0) else {
                return;
            };
            let mut asked: Vec<&mut Open> = open
                .iter_mut()
                .filter(|it| it.near.iter().any(|&(nth, _)| nth == best))
                .collect();
            // What need not be asked only fills up the last question.
            asked.sort_by_key(|it| it.budget == 0);
            let needed = asked.iter().filter(|it| it.budget > 0).count();
            let count = asked.len().min(needed.next_multiple_of(HAVE_MAX));
            for some in asked[..count].chunks_mut(HAVE_MAX) {
                let cost = HAVE_MAX / some.len();
                for it in some.iter_mut() {
                    it.near.retain(|&(nth, _)| nth != best);
                    it.budget = it.budget.saturating_sub(cost);
                    if let Some(sought) = self.sought.get_mut(&it.id) {
                        sought.asked.push(around[best].id);
                        sought.waiting += 1;
                    }
                }
                self.questions.push_back(Question {
                    contact: around[best],
                    blocks: some.iter().map(|it| it.id).collect(),
                    is_second: false,
                });
            }
        }
    }

    /// A contact has said which blocks it has, or has not answered. The blocks it was asked for, if it was asked here.
    pub fn handle_counted(
        &mut self,
        tools: &mut Tools<'_>,
        count: QueryId,
        bitmap: Option<Bitmap>,
    ) -> Vec<BlockId> {
        let Some(question) = self.asked.remove(&count) else {
            return Vec::new();
        };
        if bitmap.is_none() && !question.is_second {
            // More likely the datagrams were lost than that it has died since it was found, and to ask it costs less than
            // to look up each block alone.
            let is_second = true;
            self.questions.push_back(Question {
                is_second,
                ..question
            });
            self.run(tools);
            return Vec::new();
        }
        let Question {
            contact, blocks, ..
        } = question;
        let mut again = Vec::new();
        let mut around = None;
        for (index, id) in blocks.iter().enumerate() {
            let Some(sought) = self.sought.get_mut(id) else {
                continue;
            };
            // It may have been forgotten and sought again.
            sought.waiting = sought.waiting.saturating_sub(1);
            if bitmap.is_some_and(|bitmap| bitmap.holds(index)) {
                sought.holders.push(contact);
            }
            if sought.waiting == 0 && sought.holders.is_empty() {
                again.push(*id);
                around = sought.around.clone();
            }
        }
        if let Some(around) = around {
            self.ask_around(&again, &around);
        }
        self.run(tools);
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::{Config, Dht};
    use crate::id::NodeKey;
    use crate::rng::Rng;
    use crate::transfer::Transfer;
    use crate::wire::contact::Age;
    use crate::wire::frame::{Hello, PeerRole};
    use std::net::SocketAddr;
    use std::time::Duration;

    /// So many contacts, and the questions they are asked of so many blocks in a region.
    fn ask(contacts: usize, blocks: usize) -> (Holders, Vec<BlockId>, Rc<[Contact]>) {
        let mut rng = Rng::new([1; 32]);
        let addr = SocketAddr::from(([10, 0, 0, 1], 7));
        let contact = |_| Contact::new(NodeKey(rng.bytes()), addr, Age(0));
        let around: Rc<[Contact]> = (0..contacts).map(contact).collect();
        let blocks: Vec<BlockId> = (0..blocks).map(|_| BlockId(rng.bytes())).collect();
        let mut holders = Holders::default();
        for id in &blocks {
            let sought = Sought {
                askers: BTreeSet::from([Asker::Store]),
                since: Instant::EPOCH,
                around: None,
                asked: Vec::new(),
                waiting: 0,
                holders: Vec::new(),
            };
            holders.sought.insert(*id, sought);
        }
        holders.handle_around(&blocks, &around);
        (holders, blocks, around)
    }

    #[test]
    fn question_that_is_not_answered_is_asked_once_more() {
        let (mut holders, blocks, _) = ask(1, 4);
        let now = Instant::since_epoch(Duration::from_secs(1_000_000));
        let config = Config {
            serve: false,
            ipv4: true,
            ipv6: true,
        };
        let (key, port, role) = (NodeKey([0; 32]), 7, PeerRole::Private);
        let mut tools = Tools {
            now,
            dht: &mut Dht::new(now, key, config, Rng::new([2; 32])),
            transfer: &mut Transfer::new(Hello { key, port, role }),
        };
        holders.run(&mut tools);
        for is_given_up in [false, true] {
            let (&count, question) = holders.asked.first_key_value().expect("it is asked");
            assert_eq!(question.blocks.len(), blocks.len());
            let news = holders.handle_counted(&mut tools, count, None);
            assert_eq!(news.len(), if is_given_up { blocks.len() } else { 0 });
            assert_eq!(holders.is_seeking(&blocks[0]), !is_given_up);
        }
        assert!(holders.asked.is_empty());
    }

    #[test]
    fn block_alone_is_asked_of_the_closest() {
        let (holders, blocks, around) = ask(30, 1);
        let distance = |contact: &&Contact| Point::from(blocks[0]).distance(&contact.id.into());
        let closest = around.iter().min_by_key(distance);
        assert_eq!(holders.questions.len(), 1);
        assert_eq!(Some(&holders.questions[0].contact), closest);
    }

    #[test]
    fn many_blocks_are_asked_of_all_who_may_have_them_in_full_questions() {
        let (holders, blocks, around) = ask(12, 64);
        assert_eq!(holders.questions.len(), 2 * around.len());
        let mut questions = holders.questions.iter();
        assert!(questions.all(|it| it.blocks.len() == HAVE_MAX));
        let asked = |id: &BlockId| holders.sought[id].asked.len();
        assert!(blocks.iter().all(|id| asked(id) == around.len()));
    }

    #[test]
    fn no_block_costs_more_than_a_question() {
        for (contacts, blocks) in [(30, 2), (30, 32), (40, 100), (150, 60), (19, 10)] {
            let (holders, ids, _) = ask(contacts, blocks);
            assert!(
                holders.questions.len() <= blocks,
                "{} questions for {blocks} blocks among {contacts}",
                holders.questions.len()
            );
            assert!(ids.iter().all(|id| holders.is_seeking(id)));
        }
    }
}
