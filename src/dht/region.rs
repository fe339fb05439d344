//! One region of the space of ids as a value: who lives there, enumerated by asking some of those who do.
//!
//! A region is all ids that begin with the same bits. If K contacts live in it, the K closest of any point in it do,
//! too: whoever has to find those of many blocks enumerates regions instead of looking each up. It sends nothing and
//! knows no time; `dht` asks whom it names and tells it what came of it.
//!
//! A region is tiled by cells of some ten contacts, so that a reply, which names the K closest to a point, tells of
//! all in a cell. A cell is known when two of the region's own have told the same of it, and nothing new. A region of
//! fewer than K becomes the next larger one.

use crate::id::{Distance, NodeId, Point};
use crate::limits::{K, LOOKUP_CONTACTS_MAX, REGION_REQUESTS_MAX};
use crate::wire::contact::{Age, Contact};
use std::collections::{BTreeMap, BTreeSet};

/// Those of a region who have to tell of a cell.
const WITNESSES: usize = 2;

/// Those of a region who are asked of a cell at most, if no two agree.
const TOLD_MAX: usize = 5;

/// Of the contacts closest to a cell, how many are asked in vain before it counts as known: nobody lives there.
const VAIN_MAX: usize = 4;

/// Requests for one cell on their way at once, late ones not counted.
const CELL_CONCURRENCY: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Named by somebody.
    Named,
    /// It has answered a request for some cell.
    Answered,
    /// It did not answer one.
    Failed,
}

struct Member {
    contact: Contact,
    state: State,
    /// Who has named it; no more than are needed to believe it.
    named_by: BTreeSet<NodeId>,
    /// Its ages as various peers gave them; at most K.
    ages: Vec<Age>,
}

impl Member {
    fn is_doubtful(&self) -> bool {
        self.state == State::Named && self.named_by.len() < WITNESSES
    }

    /// The contact with the median of its ages.
    fn named(&self) -> Contact {
        Contact {
            age: Age::median(&self.ages),
            ..self.contact
        }
    }
}

/// All ids that begin with the same bits as a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    point: Point,
    bits: usize,
}

impl Prefix {
    /// The ids that share at least so many bits with a point.
    pub fn new(point: Point, bits: usize) -> Prefix {
        Prefix { point, bits }
    }

    /// Whether a point lies in it.
    pub fn contains(&self, point: &Point) -> bool {
        self.point.common_prefix(point) >= self.bits
    }

    /// Its two halves, the one with the point first.
    fn halves(&self) -> [Prefix; 2] {
        let mut other = self.point;
        other.0[self.bits / 8] ^= 0x80 >> (self.bits % 8);
        [self.point, other].map(|point| Prefix::new(point, self.bits + 1))
    }
}

/// A part of a region that one reply can tell all of.
struct Cell {
    prefix: Prefix,
    /// Whom it was asked of, whatever came of it.
    asked: BTreeSet<NodeId>,
    /// Requests on their way that are not late, and that are.
    waiting: BTreeSet<NodeId>,
    late: BTreeSet<NodeId>,
    /// Members of the region that told the same of it, since somebody last named one who was not known.
    witnesses: usize,
    /// Members of the region that told of it at all.
    told: usize,
    /// Answers since one last came closer.
    vain: usize,
    /// The closest to its point of those who have answered.
    closest: Option<Distance>,
    /// It stays known when the region becomes larger.
    is_known: bool,
}

impl Cell {
    fn new(prefix: Prefix) -> Cell {
        Cell {
            prefix,
            asked: BTreeSet::new(),
            waiting: BTreeSet::new(),
            late: BTreeSet::new(),
            witnesses: 0,
            told: 0,
            vain: 0,
            closest: None,
            is_known: false,
        }
    }

    /// Whether enough have told of it; or, if nobody lived in the region, as far as was known, been asked in vain.
    fn check_known(&mut self, is_inhabited: bool) -> bool {
        self.is_known |= self.witnesses >= WITNESSES
            || self.told >= TOLD_MAX
            || !is_inhabited && self.vain >= VAIN_MAX;
        self.is_known
    }
}

/// What an enumeration does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask this contact for those closest to this point.
    Ask(Contact, Point),
    /// It would ask, and may not.
    Held,
    /// Nothing until an answer comes or fails.
    Wait,
    /// It has ended.
    Done,
}

/// An enumeration.
pub struct Region {
    prefix: Prefix,
    cells: Vec<Cell>,
    /// At most LOOKUP_CONTACTS_MAX; those outside are the way in.
    members: BTreeMap<NodeId, Member>,
    requests: usize,
}

impl Region {
    /// Enumerates all who share at least so many bits with a point.
    pub fn new(point: Point, bits: usize) -> Region {
        let prefix = Prefix::new(point, bits);
        Region {
            prefix,
            cells: prefix.halves().map(Cell::new).into(),
            members: BTreeMap::new(),
            requests: 0,
        }
    }

    /// What has been enumerated so far, or is being.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Requests sent so far.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Takes in a contact that is known from elsewhere.
    pub fn add(&mut self, contact: Contact) {
        self.learn(contact, None);
    }

    /// Whether it was not known to live in this region.
    fn learn(&mut self, contact: Contact, namer: Option<NodeId>) -> bool {
        let is_inside = self.prefix.contains(&contact.id.into());
        if let Some(member) = self.members.get_mut(&contact.id) {
            if member.named_by.len() < WITNESSES {
                member.named_by.extend(namer);
            }
            if member.ages.len() < K {
                member.ages.push(contact.age);
            }
            return false;
        }
        if self.members.len() >= LOOKUP_CONTACTS_MAX {
            // The way in is forgotten for those who live there.
            let outside = self.members.keys();
            let outside = outside
                .filter(|id| !self.prefix.contains(&(**id).into()))
                .max_by_key(|id| self.prefix.point.distance(&(**id).into()))
                .copied();
            match outside.filter(|_| is_inside) {
                Some(far) => self.members.remove(&far),
                None => return false,
            };
        }
        let member = Member {
            contact,
            state: State::Named,
            named_by: namer.into_iter().collect(),
            ages: vec![contact.age],
        };
        self.members.insert(contact.id, member);
        is_inside
    }

    /// What to do next; nobody is named to be asked unless `may_ask`. Looks at each member once for each cell.
    pub fn next(&mut self, may_ask: bool) -> Step {
        let mut is_waiting = false;
        let mut inside = self.members.values().filter(|it| it.state != State::Failed);
        let is_inhabited = inside.any(|it| self.prefix.contains(&it.contact.id.into()));
        for nth in 0..self.cells.len() {
            let cell = &mut self.cells[nth];
            if !is_inhabited && is_waiting {
                // One way in serves all cells.
                break;
            }
            let is_known = cell.check_known(is_inhabited);
            if is_known || cell.waiting.len() >= CELL_CONCURRENCY {
                is_waiting |= !is_known;
                continue;
            }
            // No more are asked than are still needed, once they are near.
            let is_near = cell.witnesses > 0;
            if is_near && cell.witnesses + cell.waiting.len() >= WITNESSES {
                is_waiting = true;
                continue;
            }
            let point = cell.prefix.point;
            let candidates = self.members.values().filter(|member| {
                member.state != State::Failed && !cell.asked.contains(&member.contact.id)
            });
            let closest = candidates.min_by_key(|it| point.distance(&it.contact.id.into()));
            let Some(contact) = closest.map(|member| member.contact) else {
                is_waiting |= !cell.waiting.is_empty() || !cell.late.is_empty();
                continue;
            };
            if self.requests >= REGION_REQUESTS_MAX {
                is_waiting |= !cell.waiting.is_empty();
                continue;
            }
            if !may_ask {
                return Step::Held;
            }
            self.requests += 1;
            let cell = &mut self.cells[nth];
            cell.asked.insert(contact.id);
            cell.waiting.insert(contact.id);
            return Step::Ask(contact, point);
        }
        if is_waiting {
            return Step::Wait;
        }
        // Whom only one has named may be made up, or be unknown to the other: it is asked itself.
        let doubtful = self.members.values().filter(|member| {
            member.is_doubtful() && self.prefix.contains(&member.contact.id.into())
        });
        for contact in doubtful.map(|member| member.contact) {
            let is_around = |cell: &&mut Cell| cell.prefix.contains(&contact.id.into());
            let Some(cell) = self.cells.iter_mut().find(is_around) else {
                continue;
            };
            if cell.waiting.contains(&contact.id) || cell.late.contains(&contact.id) {
                is_waiting = true;
            } else if self.requests < REGION_REQUESTS_MAX && cell.asked.insert(contact.id) {
                if !may_ask {
                    cell.asked.remove(&contact.id);
                    return Step::Held;
                }
                self.requests += 1;
                cell.waiting.insert(contact.id);
                return Step::Ask(contact, cell.prefix.point);
            }
        }
        if is_waiting {
            return Step::Wait;
        }
        if self.contacts().len() >= K
            || self.prefix.bits == 0
            || self.requests >= REGION_REQUESTS_MAX
        {
            return Step::Done;
        }
        self.widen();
        self.next(may_ask)
    }

    /// Too few live here: what surrounds it is enumerated as well, as far as it takes to find enough if they live as
    /// densely there.
    fn widen(&mut self) {
        let mut expected = self.contacts().len().max(1);
        while expected < K && self.prefix.bits > 0 {
            self.prefix.bits -= 1;
            let [_, other] = self.prefix.halves();
            self.cells.push(Cell::new(other));
            expected *= 2;
        }
    }

    /// A contact has answered a request for this point, naming these.
    pub fn on_reply(&mut self, id: &NodeId, point: &Point, named: &[Contact]) {
        if let Some(member) = self.members.get_mut(id) {
            member.state = State::Answered;
        }
        let mut fresh: Vec<Point> = Vec::new();
        for contact in named {
            if self.learn(*contact, Some(*id)) {
                fresh.push(contact.id.into());
            }
        }
        let own = Point::from(*id);
        let is_inside = self.prefix.contains(&own);
        let Some(nth) = self.settle(id, point) else {
            return;
        };
        let cell = &mut self.cells[nth];
        let prefix = cell.prefix;
        let is_in_cell = |point: &Point| prefix.contains(point);
        // Who names K in the cell may know more of it; who names another has named all it knows of it.
        let names_all = named.len() < K || named.iter().any(|it| !is_in_cell(&it.id.into()));
        let distance = prefix.point.distance(&own);
        if cell.closest.is_none_or(|closest| distance < closest) {
            cell.closest = Some(distance);
            cell.vain = 0;
        } else if !is_inside {
            cell.vain += 1;
        }
        if !names_all && is_inside {
            let halves = prefix.halves().map(Cell::new);
            self.cells.splice(nth..=nth, halves);
        } else if is_inside {
            let has_news = fresh.iter().any(is_in_cell);
            let names: BTreeSet<NodeId> = named.iter().map(|it| it.id).collect();
            let lacks_some = self.members.values().any(|member| {
                let other = member.contact.id;
                let is_there = member.state != State::Failed && is_in_cell(&other.into());
                is_there && other != *id && !names.contains(&other)
            });
            cell.told += 1;
            cell.witnesses = match (has_news, lacks_some) {
                (true, _) => 1,
                (false, false) => cell.witnesses + 1,
                // Who does not know all that others do may lack more: it is no witness.
                (false, true) => cell.witnesses,
            };
        }
    }

    /// A contact did not answer a request for this point.
    pub fn on_failure(&mut self, id: &NodeId, point: &Point) {
        if let Some(member) = self.members.get_mut(id) {
            member.state = State::Failed;
        }
        self.settle(id, point);
    }

    /// The first time-out of a request for this point has passed.
    pub fn on_late(&mut self, id: &NodeId, point: &Point) {
        let mut cells = self.cells.iter_mut();
        if let Some(cell) = cells.find(|cell| cell.prefix.point == *point) {
            if cell.waiting.remove(id) {
                cell.late.insert(*id);
            }
        }
    }

    /// The cell for which this contact owed an answer; it owes none any more.
    fn settle(&mut self, id: &NodeId, point: &Point) -> Option<usize> {
        let nth = self
            .cells
            .iter()
            .position(|cell| cell.prefix.point == *point)?;
        let cell = &mut self.cells[nth];
        (cell.waiting.remove(id) || cell.late.remove(id)).then_some(nth)
    }

    /// All who live in the region: they have answered, or several have named them. Each with the median of the ages it
    /// was given.
    pub fn contacts(&self) -> Vec<Contact> {
        let is_believed = |member: &&Member| member.state != State::Failed && !member.is_doubtful();
        let inside = self
            .members
            .values()
            .filter(|member| self.prefix.contains(&member.contact.id.into()));
        inside.filter(is_believed).map(Member::named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeKey;
    use crate::rng::Rng;
    use std::net::SocketAddr;

    /// A network in which everybody knows everybody.
    struct Net {
        rng: Rng,
        contacts: BTreeMap<NodeId, Contact>,
        dead: BTreeSet<NodeId>,
        /// Name others than there are.
        inventors: BTreeSet<NodeId>,
    }

    fn contact(rng: &mut Rng) -> Contact {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7));
        Contact::new(NodeKey(rng.bytes()), addr, Age(0))
    }

    impl Net {
        fn of(count: usize, seed: u8) -> Net {
            let mut rng = Rng::new([seed; 32]);
            let contacts = (0..count).map(|_| contact(&mut rng));
            Net {
                contacts: contacts.map(|contact| (contact.id, contact)).collect(),
                rng,
                dead: BTreeSet::new(),
                inventors: BTreeSet::new(),
            }
        }

        fn closest(&self, point: &Point) -> Vec<Contact> {
            let mut all: Vec<Contact> = self.contacts.values().copied().collect();
            all.sort_by_key(|contact| point.distance(&contact.id.into()));
            all.truncate(K);
            all
        }

        fn answer(&mut self, id: &NodeId, point: &Point) -> Vec<Contact> {
            if !self.inventors.contains(id) {
                return self.closest(point);
            }
            let mut inventions = Vec::new();
            while inventions.len() < K {
                let mut invention = contact(&mut self.rng);
                // As near as can be, whatever its key.
                invention.id = NodeId(point.0);
                invention.id.0[31] = inventions.len() as u8;
                invention.id.0[30] = self.rng.bytes::<1>()[0];
                inventions.push(invention);
            }
            inventions
        }

        /// Enumerates a region from some that are known; the enumeration and its requests.
        fn enumerate(&mut self, point: Point, bits: usize) -> Region {
            let mut region = Region::new(point, bits);
            let alive = self
                .contacts
                .values()
                .filter(|it| !self.dead.contains(&it.id));
            for contact in alive.take(3) {
                region.add(*contact);
            }
            let mut waiting = Vec::new();
            loop {
                match region.next(true) {
                    Step::Ask(contact, point) => waiting.push((contact.id, point)),
                    Step::Held => panic!("it may ask"),
                    Step::Done => return region,
                    Step::Wait => {
                        assert!(!waiting.is_empty(), "it waits for somebody");
                        let nth = self.rng.below(waiting.len() as u64) as usize;
                        let (id, point) = waiting.swap_remove(nth);
                        let is_dead = !self.contacts.contains_key(&id) || self.dead.contains(&id);
                        if is_dead {
                            region.on_late(&id, &point);
                            region.on_failure(&id, &point);
                        } else {
                            let named = self.answer(&id, &point);
                            region.on_reply(&id, &point, &named);
                        }
                    }
                }
            }
        }

        /// Who lives in a region.
        fn within(&self, prefix: &Prefix) -> Vec<NodeId> {
            let ids = self.contacts.keys().copied();
            ids.filter(|id| !self.dead.contains(id) && prefix.contains(&(*id).into()))
                .collect()
        }
    }

    fn ids(region: &Region) -> Vec<NodeId> {
        region.contacts().iter().map(|contact| contact.id).collect()
    }

    #[test]
    fn all_who_live_in_a_region_are_found_with_few_requests() {
        for (count, bits) in [(300, 3), (3000, 6), (3000, 7), (20_000, 9)] {
            let mut net = Net::of(count, 1);
            let (mut requests, rounds) = (0, 20);
            for _ in 0..rounds {
                let point = Point(net.rng.bytes());
                let region = net.enumerate(point, bits);
                assert_eq!(ids(&region), net.within(&region.prefix()));
                assert!(region.contacts().len() >= K);
                assert!(region.prefix().contains(&point));
                requests += region.requests();
            }
            assert!(
                requests <= 15 * rounds,
                "{requests} for {rounds} of {count}"
            );
        }
    }

    #[test]
    fn region_of_few_becomes_larger_until_there_are_enough_or_no_more() {
        let mut net = Net::of(500, 2);
        let point = Point(net.rng.bytes());
        let region = net.enumerate(point, 12);
        assert!(region.contacts().len() >= K);
        assert_eq!(ids(&region), net.within(&region.prefix()));
        for count in [1, 3, 19] {
            let mut net = Net::of(count, 3);
            let point = Point(net.rng.bytes());
            for bits in [0, 4] {
                assert_eq!(net.enumerate(point, bits).contacts().len(), count);
            }
        }
        let mut nobody = Net::of(0, 4);
        assert_eq!(nobody.enumerate(Point([7; 32]), 5).contacts(), []);
    }

    #[test]
    fn age_is_the_median_of_what_was_said() {
        let mut net = Net::of(3, 7);
        let contacts: Vec<Contact> = net.contacts.values().copied().collect();
        let mut region = Region::new(Point(net.rng.bytes()), 0);
        for (nth, ages) in [[3, 200, 9], [0, 0, 100], [7, 7, 8]].iter().enumerate() {
            for age in ages.map(Age) {
                let contact = contacts[nth];
                region.add(Contact { age, ..contact });
            }
        }
        for contact in contacts {
            region.on_reply(&contact.id, &Point([0; 32]), &[]);
        }
        let ages: Vec<Age> = region.contacts().iter().map(|it| it.age).collect();
        assert_eq!(ages, [9, 0, 7].map(Age), "in the order of the ids");
    }

    #[test]
    fn dead_are_not_among_them_and_hide_nobody() {
        for seed in 0..20 {
            let mut net = Net::of(2000, seed);
            let all: Vec<NodeId> = net.contacts.keys().copied().collect();
            net.dead = all.into_iter().filter(|id| id.0[31] % 2 == 0).collect();
            let point = Point(net.rng.bytes());
            let region = net.enumerate(point, 6);
            let found: BTreeSet<NodeId> = ids(&region).into_iter().collect();
            for id in net.within(&region.prefix()) {
                assert!(found.contains(&id), "seed {seed}: {id:?} lives");
            }
            assert!(region.requests() <= REGION_REQUESTS_MAX);
        }
    }

    #[test]
    fn who_is_made_up_is_not_believed_and_costs_no_end_of_requests() {
        for seed in 0..20 {
            let mut net = Net::of(2000, seed);
            let all: Vec<NodeId> = net.contacts.keys().copied().collect();
            net.inventors = all.into_iter().filter(|id| id.0[31] < 25).collect();
            let point = Point(net.rng.bytes());
            let region = net.enumerate(point, 6);
            assert!(region.requests() <= REGION_REQUESTS_MAX);
            assert!(ids(&region).iter().all(|id| net.contacts.contains_key(id)));
        }
    }
}
