//! One lookup as a value: who is known to be how close, who was asked, who has answered, whom to ask next.
//!
//! It sends nothing and knows no time; `dht` asks whom it names and tells it what came of it. It runs free: no
//! rounds, and a contact whose first time-out has passed no longer counts against the requests on their way.

use crate::id::{BlockId, Distance, NodeId, Point};
use crate::limits::{
    ALPHA, ALPHA_HOLDERS, ALPHA_LATER, ALPHA_UNTIL, CONTACT_ADDRESSES_MAX, K, LOOKUP_CONTACTS_MAX,
};
use crate::wire::contact::{Age, Contact};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a lookup is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// The K closest live contacts.
    Closest(Point),
    /// Contacts that hold this block, or that nobody near does.
    Holders(BlockId),
    /// What all who are near say of those who have the whole file of this root.
    Providers(BlockId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    /// Asked, and its first time-out has not passed.
    Waiting,
    /// Asked again; may yet answer.
    Late,
    Answered,
    /// Silent at every address known for it.
    Failed,
    /// It has answered, and is none of whom the lookup may name.
    Excluded,
}

struct Candidate {
    contact: Contact,
    state: State,
    /// Its ages as various peers gave them; at most K.
    ages: Vec<Age>,
    /// Addresses that were named for it, at most CONTACT_ADDRESSES_MAX: whoever named one may have made it up.
    /// Those before `contact`'s own have failed, those behind it have not been tried.
    addresses: Vec<SocketAddr>,
}

impl Candidate {
    /// Goes on to the next address, to be asked there; false if there is none.
    fn try_next_address(&mut self) -> bool {
        let mut untried = self.addresses.iter();
        untried.find(|addr| **addr == self.contact.addr);
        let Some(&addr) = untried.next() else {
            return false;
        };
        self.contact.addr = addr;
        self.state = State::New;
        true
    }
}

/// What a lookup does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ask this contact, now counted as asked.
    Ask(Contact),
    /// It would ask, and may not.
    Held,
    /// Nothing until an answer comes or fails.
    Wait,
    /// It has ended.
    Done,
}

/// A lookup.
pub struct Lookup {
    goal: Goal,
    /// Invariant: at most LOOKUP_CONTACTS_MAX, each under its distance to the target.
    candidates: BTreeMap<Distance, Candidate>,
    asked: usize,
    answered: usize,
    /// A holder has been found: nobody else is asked.
    found: bool,
    /// Holders that are of no use; no more than whoever asked has tried.
    useless: BTreeSet<NodeId>,
}

impl Lookup {
    /// A lookup that knows nobody.
    pub fn new(goal: Goal) -> Lookup {
        Lookup {
            goal,
            candidates: BTreeMap::new(),
            asked: 0,
            answered: 0,
            found: false,
            useless: BTreeSet::new(),
        }
    }

    /// The same, to which these holders are of no use: it goes on as if they did not hold the block.
    pub fn beyond(self, useless: BTreeSet<NodeId>) -> Lookup {
        Lookup { useless, ..self }
    }

    /// What it is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The point whose surroundings it explores.
    pub fn target(&self) -> Point {
        match self.goal {
            Goal::Closest(target) => target,
            Goal::Holders(block) | Goal::Providers(block) => block.into(),
        }
    }

    /// Requests on their way at once. Each answer may name somebody closer to ask instead, until the closest known have
    /// answered: then they name nobody who is new, and what is left can be asked at once. Whoever looks for a holder
    /// mostly needs but one of the next few answers.
    fn concurrency(&self) -> usize {
        let is_hopeful = |it: &&Candidate| !matches!(it.state, State::Failed | State::Excluded);
        let mut closest = self.candidates.values().filter(is_hopeful);
        let have_answered = |it: &Candidate| it.state == State::Answered;
        match self.goal {
            _ if closest.by_ref().take(ALPHA_UNTIL).all(have_answered) => ALPHA_LATER,
            Goal::Closest(_) | Goal::Providers(_) => ALPHA,
            Goal::Holders(_) => ALPHA_HOLDERS,
        }
    }

    /// How many contacts it remembers.
    pub fn known(&self) -> usize {
        self.candidates.len()
    }

    /// How many contacts have been asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// How many contacts have answered.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Who has answered, whether or not the lookup may name it.
    pub fn heard(&self) -> BTreeSet<NodeId> {
        let has_answered = |it: &&Candidate| matches!(it.state, State::Answered | State::Excluded);
        let heard = self.candidates.values().filter(has_answered);
        heard.map(|it| it.contact.id).collect()
    }

    /// Takes in a contact that was named. Beyond LOOKUP_CONTACTS_MAX the farthest not yet asked is forgotten.
    pub fn add(&mut self, contact: Contact) {
        let distance = self.target().distance(&contact.id.into());
        if let Some(known) = self.candidates.get_mut(&distance) {
            if known.ages.len() < K {
                known.ages.push(contact.age);
            }
            let is_new = !known.addresses.contains(&contact.addr);
            if is_new && known.addresses.len() < CONTACT_ADDRESSES_MAX {
                known.addresses.push(contact.addr);
                if known.state == State::Failed {
                    known.try_next_address();
                }
            }
            return;
        }
        if self.candidates.len() >= LOOKUP_CONTACTS_MAX {
            let mut from_far = self.candidates.iter().rev();
            let farthest = from_far.find(|(_, candidate)| candidate.state == State::New);
            match farthest.map(|(&far, _)| far) {
                Some(far) if far > distance => self.candidates.remove(&far),
                _ => return,
            };
        }
        let candidate = Candidate {
            contact,
            state: State::New,
            ages: vec![contact.age],
            addresses: vec![contact.addr],
        };
        self.candidates.insert(distance, candidate);
    }

    /// What to do next; nobody is named to be asked unless `may_ask`. Looks at each candidate once.
    pub fn next(&mut self, may_ask: bool) -> Next {
        let mut waiting = 0;
        let mut late = 0;
        for candidate in self.candidates.values() {
            match candidate.state {
                State::Waiting => waiting += 1,
                State::Late => late += 1,
                _ => {}
            }
        }
        if self.found {
            return if waiting + late == 0 {
                Next::Done
            } else {
                Next::Wait
            };
        }
        // Who is late may be dead: those behind it are asked meanwhile, but the end waits for it.
        let (mut live, mut pending) = (0, false);
        let concurrency = self.concurrency();
        for candidate in self.candidates.values_mut() {
            if live == K {
                break;
            }
            match candidate.state {
                State::Failed | State::Excluded => {}
                State::Late => pending = true,
                State::Answered => live += 1,
                State::Waiting => {
                    pending = true;
                    live += 1;
                }
                State::New if waiting >= concurrency => return Next::Wait,
                State::New if !may_ask => return Next::Held,
                State::New => {
                    candidate.state = State::Waiting;
                    self.asked += 1;
                    return Next::Ask(candidate.contact);
                }
            }
        }
        if pending {
            Next::Wait
        } else {
            Next::Done
        }
    }

    /// Whether only contacts whose first time-out has passed keep it from its end: they may be dead.
    pub fn waits_for_late_only(&self) -> bool {
        let states = || self.candidates.values().map(|candidate| candidate.state);
        states().all(|state| state != State::Waiting) && states().any(|state| state == State::Late)
    }

    /// A contact has answered and counts as live.
    pub fn on_reply(&mut self, id: &NodeId) {
        if self.settle(id, State::Answered) {
            self.answered += 1;
        }
    }

    /// A contact holds the block. If it is of use, which is returned, nobody else will be asked.
    pub fn on_holder(&mut self, id: &NodeId) -> bool {
        let of_use = !self.useless.contains(id);
        self.found |= of_use;
        of_use
    }

    /// A contact's first time-out has passed.
    pub fn on_late(&mut self, id: &NodeId) {
        self.settle(id, State::Late);
    }

    /// A contact has answered, and is none of whom the lookup may name.
    pub fn on_excluded(&mut self, id: &NodeId) {
        self.settle(id, State::Excluded);
    }

    /// A contact did not answer where it was asked. It is asked at its next address if another was named.
    pub fn on_failure(&mut self, id: &NodeId) {
        if let Some(candidate) = self.open_candidate(id) {
            if !candidate.try_next_address() {
                candidate.state = State::Failed;
            }
        }
    }

    fn settle(&mut self, id: &NodeId, state: State) -> bool {
        let candidate = self.open_candidate(id);
        candidate.map(|open| open.state = state).is_some()
    }

    /// A candidate that owes an answer.
    fn open_candidate(&mut self, id: &NodeId) -> Option<&mut Candidate> {
        let distance = self.target().distance(&(*id).into());
        let candidate = self.candidates.get_mut(&distance)?;
        matches!(candidate.state, State::Waiting | State::Late).then_some(candidate)
    }

    /// The at most K closest that have answered, closest first, each with the median of the ages it was given.
    pub fn closest(&self) -> Vec<Contact> {
        self.candidates
            .values()
            .filter(|candidate| candidate.state == State::Answered)
            .take(K)
            .map(|candidate| Contact {
                age: Age::median(&candidate.ages),
                ..candidate.contact
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeKey;
    use crate::rng::Rng;

    fn contact(rng: &mut Rng) -> Contact {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7));
        Contact::new(NodeKey(rng.bytes()), addr, Age(0))
    }

    /// Contacts and a lookup that knows all of them, the contacts sorted by distance.
    fn among(count: usize) -> (Vec<Contact>, Lookup) {
        let mut rng = Rng::new([1; 32]);
        let target = Point(rng.bytes());
        let mut lookup = Lookup::new(Goal::Closest(target));
        let mut contacts: Vec<Contact> = (0..count).map(|_| contact(&mut rng)).collect();
        for contact in &contacts {
            lookup.add(*contact);
        }
        contacts.sort_by_key(|contact| target.distance(&contact.id.into()));
        (contacts, lookup)
    }

    #[test]
    fn asks_alpha_at_once_and_ends_when_the_k_closest_have_answered() {
        let (contacts, mut lookup) = among(60);
        for contact in &contacts[..ALPHA] {
            assert_eq!(lookup.next(true), Next::Ask(*contact));
        }
        assert_eq!(lookup.next(true), Next::Wait);
        let mut answered = 0;
        while lookup.next(true) != Next::Done {
            lookup.on_reply(&contacts[answered].id);
            answered += 1;
        }
        assert_eq!((answered, lookup.asked(), lookup.answered()), (K, K, K));
        assert_eq!(lookup.closest(), contacts[..K]);
    }

    #[test]
    fn asks_more_at_once_when_the_closest_have_answered() {
        let (contacts, mut lookup) = among(60);
        let (closest, rest) = contacts.split_at(ALPHA_UNTIL);
        for contact in closest {
            assert_eq!(lookup.next(true), Next::Ask(*contact));
            lookup.on_reply(&contact.id);
        }
        for contact in &rest[..ALPHA_LATER] {
            assert_eq!(lookup.next(true), Next::Ask(*contact));
        }
        assert_eq!(lookup.next(true), Next::Wait);
    }

    #[test]
    fn late_contact_holds_up_nobody_but_the_end() {
        let (contacts, mut lookup) = among(60);
        assert_eq!(lookup.next(true), Next::Ask(contacts[0]));
        lookup.on_late(&contacts[0].id);
        for contact in &contacts[1..=K] {
            assert_eq!(lookup.next(true), Next::Ask(*contact));
            lookup.on_reply(&contact.id);
        }
        assert_eq!(lookup.next(true), Next::Wait, "it may be alive");
        lookup.on_failure(&contacts[0].id);
        assert_eq!(lookup.next(true), Next::Done);
        assert_eq!(lookup.closest(), contacts[1..=K]);
    }

    #[test]
    fn holder_stops_the_asking_and_those_on_their_way_are_awaited() {
        let (contacts, _) = among(30);
        let mut lookup = Lookup::new(Goal::Holders(BlockId([0; 32])));
        for contact in contacts {
            lookup.add(contact);
        }
        let Next::Ask(first) = lookup.next(true) else {
            panic!("it asks");
        };
        let Next::Ask(second) = lookup.next(true) else {
            panic!("it asks");
        };
        lookup.on_reply(&first.id);
        assert!(lookup.on_holder(&first.id));
        assert_eq!(lookup.next(true), Next::Wait);
        lookup.on_failure(&second.id);
        assert_eq!(lookup.next(true), Next::Done);
    }

    #[test]
    fn useless_holder_does_not_stop_the_asking() {
        let (contacts, _) = among(30);
        let useless: BTreeSet<NodeId> = contacts[..20].iter().map(|contact| contact.id).collect();
        let mut lookup = Lookup::new(Goal::Holders(BlockId([0; 32]))).beyond(useless.clone());
        for contact in contacts {
            lookup.add(contact);
        }
        let mut asked = 0;
        while let Next::Ask(contact) = lookup.next(true) {
            asked += 1;
            lookup.on_reply(&contact.id);
            let of_use = lookup.on_holder(&contact.id);
            assert_eq!(of_use, !useless.contains(&contact.id));
        }
        assert_eq!(lookup.next(true), Next::Done);
        assert!(
            asked > 1 && asked <= K,
            "{asked} were asked until one was of use"
        );
    }

    #[test]
    fn inventors_of_contacts_cannot_make_it_grow() {
        let (contacts, mut lookup) = among(LOOKUP_CONTACTS_MAX * 5);
        assert_eq!(lookup.candidates.len(), LOOKUP_CONTACTS_MAX);
        assert_eq!(
            lookup.next(true),
            Next::Ask(contacts[0]),
            "the closest stay"
        );
        lookup.on_failure(&contacts[0].id);
        for port in 1..100 {
            let mut other = contacts[0];
            other.addr.set_port(port);
            lookup.add(other);
            if lookup.next(true) == Next::Ask(other) {
                lookup.on_failure(&other.id);
            }
        }
        assert!(lookup.asked() <= CONTACT_ADDRESSES_MAX + ALPHA);
    }

    #[test]
    fn true_address_named_while_a_made_up_one_is_asked_is_asked_next() {
        for late in [false, true] {
            let (contacts, mut lookup) = among(0);
            assert!(contacts.is_empty());
            let made_up = contact(&mut Rng::new([2; 32]));
            let mut real = made_up;
            real.addr.set_port(8);
            lookup.add(made_up);
            assert_eq!(lookup.next(true), Next::Ask(made_up));
            if late {
                lookup.on_late(&made_up.id);
            }
            // It is named once, by one who is asked meanwhile, and then never again.
            lookup.add(real);
            lookup.add(made_up);
            assert_eq!(lookup.next(true), Next::Wait, "one address at a time");
            lookup.on_failure(&made_up.id);
            assert_eq!(lookup.next(true), Next::Ask(real));
            lookup.add(made_up);
            lookup.on_reply(&real.id);
            assert_eq!(lookup.next(true), Next::Done);
            assert_eq!(lookup.closest(), [real]);
        }
    }

    #[test]
    fn contact_that_answers_and_is_excluded_is_not_sought_elsewhere() {
        let (contacts, mut lookup) = among(1);
        assert_eq!(lookup.next(true), Next::Ask(contacts[0]));
        let mut other = contacts[0];
        other.addr.set_port(8);
        lookup.add(other);
        lookup.on_excluded(&other.id);
        assert_eq!(lookup.next(true), Next::Done);
        assert_eq!(lookup.closest(), []);
    }

    #[test]
    fn knowing_nobody_it_ends_at_once_and_held_it_asks_nobody() {
        let (_, mut lookup) = among(0);
        assert_eq!(lookup.next(true), Next::Done);
        let (_, mut lookup) = among(3);
        assert_eq!(lookup.next(false), Next::Held);
        assert_eq!(lookup.asked(), 0);
    }

    #[test]
    fn age_is_the_median_of_what_was_said() {
        let (contacts, mut lookup) = among(1);
        for age in [200, 90, 80] {
            lookup.add(Contact {
                age: Age(age),
                ..contacts[0]
            });
        }
        lookup.next(true);
        lookup.on_reply(&contacts[0].id);
        assert_eq!(lookup.closest()[0].age, Age(90));
    }
}
