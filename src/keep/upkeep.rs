//! Upkeep: what is stored stays stored when peers leave. Every holder looks once an hour whether its blocks have their
//! copies, and gives them to others where they are short.
//!
//! All blocks for which a peer may be one of the K closest lie in one cell around its own id. It goes through that cell
//! region by region, evenly over the hour: cuts its own blocks there into leaves, compares with each neighbour what that
//! holds now with what it is remembered to have held ([`memory`], [`talk`]), and so knows the holders of each block
//! without asking for each. Where there are too few ([`judge`]), the closest holder has its turn first, the next a while
//! later: it asks all of the neighbourhood for the block, and gives it to those who have been there for longest if
//! copies are missing indeed. `keep` carries the blocks. Called by the node.

mod judge;
mod memory;
mod talk;

use super::ask::Asking;
use super::Tools;
use crate::cell::{place_of, place_of_node, Cell};
use crate::dht::{LocateId, Located, QueryId};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::rng::Rng;
use crate::store::Held;
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::contact::{Age, Contact};
use crate::wire::datagram::Reply;
use judge::{Near, Survey};
use memory::{Map, Memory};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use talk::Talk;

/// Of those closest to a block, how many are asked: a neighbourhood, and some in the place of those who are gone.
const NEAR: usize = K + 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Look at the next region.
    Look,
    /// Do the next slice of the look under way.
    Step,
    /// Ask for blocks whose turn has come.
    Turn,
}

/// How far the look at a region is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None is under way.
    Resting,
    /// The own blocks are cut into leaves, up to here.
    Cutting(u64),
    /// Neighbours are asked.
    Talking,
    /// It is looked which blocks are short, up to here.
    Judging(u64),
}

/// A block that is to be given to others.
pub struct Gift {
    /// Which.
    pub block: BlockId,
    /// To how many.
    pub copies: usize,
    /// To whom, in this order; none of them has it.
    pub candidates: Vec<Contact>,
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Blocks whose copies were counted.
    pub looked: u64,
    /// Those that were short of copies.
    pub short: u64,
    /// Copies given to others.
    pub moved: u64,
}

/// The upkeep of one peer.
pub struct Upkeep {
    /// Copies that a leaf should have; nodes and roots more.
    copies: u8,
    memory: Memory,
    stage: Stage,
    region: Cell,
    /// Where the next region begins; at the start of a round there is none.
    cursor: Option<u64>,
    /// Who lives around the blocks that this peer sees to, as looked up for this round; at most `NEIGHBOURS_MAX`. In its
    /// table are not all of them.
    around: Vec<Contact>,
    /// What looks them up, and for how many points still.
    locate: Option<(LocateId, usize)>,
    /// Whether they have been looked up for the round that begins next.
    is_located: bool,
    /// When the next region is due; that of the one under way has come.
    next_look: Instant,
    /// The neighbours of this region, at most `NEIGHBOURS_MAX`.
    talks: BTreeMap<NodeId, (Contact, Talk)>,
    /// What they are asked, at most `UPKEEP_REQUESTS_MAX`.
    queries: BTreeMap<QueryId, NodeId>,
    /// Those who did not answer when they were asked last, at most `UPKEEP_PEERS_MAX`.
    gone: BTreeSet<NodeId>,
    /// Places of blocks that were short at the last look, and when it is this peer's turn; at most `TURNS_MAX`.
    turns: Timers<u64>,
    /// Those whose turn has come and for which the neighbourhood is asked, each as a leaf of its own; at most
    /// `TURNS_AT_ONCE`.
    checking: BTreeMap<u64, (BlockId, Survey)>,
    asking: Asking<u64>,
    /// What is to be given to others, and when that was decided; at most `TURNS_AT_ONCE`.
    gifts: VecDeque<(Gift, Instant)>,
    /// Blocks that are being given.
    moving: BTreeSet<BlockId>,
    timers: Timers<Timer>,
    statistics: Statistics,
}

impl Upkeep {
    /// Panics if a limit is exceeded; for a driver that looks for faults.
    pub fn check(&self) {
        assert!(self.around.len() <= NEIGHBOURS_MAX && self.talks.len() <= NEIGHBOURS_MAX);
        assert!(self.queries.len() <= UPKEEP_REQUESTS_MAX && self.gone.len() <= UPKEEP_PEERS_MAX);
        assert!(self.turns.count() <= TURNS_MAX && self.checking.len() <= TURNS_AT_ONCE);
        assert!(self.gifts.len() <= TURNS_AT_ONCE);
    }

    /// The upkeep of a peer that begins now; one that does not `serve` has none. The first look comes within an hour.
    pub fn new(now: Instant, serve: bool, rng: &mut Rng) -> Upkeep {
        let mut timers = Timers::default();
        if serve {
            let wait = rng.below(LOOK_PERIOD.as_millis() as u64);
            timers.set(Timer::Look, now + Duration::from_millis(wait));
        }
        Upkeep {
            copies: COPIES_DEFAULT,
            memory: Memory::default(),
            stage: Stage::Resting,
            region: Cell::WHOLE,
            cursor: None,
            around: Vec::new(),
            locate: None,
            is_located: false,
            next_look: now,
            talks: BTreeMap::new(),
            queries: BTreeMap::new(),
            gone: BTreeSet::new(),
            turns: Timers::default(),
            checking: BTreeMap::new(),
            asking: Asking::default(),
            gifts: VecDeque::new(),
            moving: BTreeSet::new(),
            timers,
            statistics: Statistics::default(),
        }
    }

    /// From now on leaves should have so many copies: who shared them may have wanted another number, but a store does
    /// not know.
    pub fn set_copies(&mut self, copies: u8) {
        self.copies = copies;
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Blocks that are short of copies and wait to be given to others, or for their turn.
    pub fn due(&self) -> usize {
        self.turns.count() + self.checking.len() + self.gifts.len() + self.moving.len()
    }

    /// When to call [`Upkeep::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due: one slice of work. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
        match self.timers.pop_expired(tools.now) {
            Some(Timer::Look) => self.begin_look(tools),
            Some(Timer::Step) => self.step(tools),
            Some(Timer::Turn) => self.begin_check(tools),
            None => {}
        }
    }

    /// Begins to look at the next region, if this peer is one of the network and has any blocks.
    fn begin_look(&mut self, tools: &mut Tools<'_>) {
        if tools.dht.is_client_mode() || !tools.dht.has_joined() {
            return self.timers.set(Timer::Look, tools.now + TURN);
        }
        let own = place_of_node(&tools.dht.id());
        let bits = tools.dht.own_bits(tools.now);
        let bits = bits.min(usize::from(LEAF_BITS_MAX - REGION_BITS));
        let zone = Cell::around(own, bits as u8);
        let Some(total) = count(tools, zone) else {
            // What the blocks come to is found out in slices.
            return self.timers.set(Timer::Look, tools.now + WORK_PAUSE);
        };
        if total == 0 {
            self.cursor = None;
            return self.timers.set(Timer::Look, tools.now + LOOK_PERIOD);
        }
        let cursor = self.cursor.filter(|&cursor| zone.contains(cursor));
        if cursor.is_none() && !self.is_located {
            return self.look_around(tools, zone);
        }
        let mut next = cursor.unwrap_or_else(|| {
            self.is_located = false;
            self.memory.keep_within(zone);
            // Who is of no table would be asked by nobody again.
            self.gone.clear();
            zone.first()
        });
        // Empty regions are passed over; of a round's, as many as there are without blocks.
        loop {
            let mut region = zone.largest_at(next);
            region = Cell::around(next, region.bits().max(zone.bits() + REGION_BITS));
            let mut blocks = count(tools, region);
            while blocks.is_some_and(|it| it > REGION_BLOCKS_MAX) && region.bits() < LEAF_BITS_MAX {
                region = Cell::around(next, region.bits() + 1);
                blocks = count(tools, region);
            }
            let Some(blocks) = blocks else {
                return self.timers.set(Timer::Look, tools.now + WORK_PAUSE);
            };
            let after = region.last().checked_add(1);
            self.cursor = after.filter(|&after| zone.contains(after));
            if blocks > 0 {
                let share = f64::from(blocks) / f64::from(total);
                self.next_look = tools.now + LOOK_PERIOD.mul_f64(share.min(1.0));
                self.region = region;
                self.stage = Stage::Cutting(region.first());
                return self.timers.set(Timer::Step, tools.now);
            }
            let Some(cursor) = self.cursor else {
                return self.timers.set(Timer::Look, tools.now + WORK_PAUSE);
            };
            next = cursor;
        }
    }

    /// Looks up who lives around all that is to be looked at in a round; then that begins.
    fn look_around(&mut self, tools: &mut Tools<'_>, zone: Cell) {
        if let Some((last, _)) = self.locate {
            tools.dht.cancel_locate(tools.now, last);
        }
        let points = zone
            .parts(REGION_BITS)
            .map(|part| BlockId(point(middle(part)).0));
        let points: Vec<BlockId> = points.collect();
        let count = points.len();
        // Begins anew should it not end.
        self.timers.set(Timer::Look, tools.now + TURN);
        self.around.clear();
        self.locate = Some((tools.dht.locate(tools.now, points), count));
    }

    /// Some of what was looked up has been found. False if it is not ours.
    pub fn handle_located(&mut self, tools: &mut Tools<'_>, located: &Located) -> bool {
        let Some((locate, rest)) = self.locate.filter(|it| it.0 == located.locate) else {
            return false;
        };
        for contact in &located.contacts {
            let is_known = self.around.iter().any(|it| it.id == contact.id);
            if self.around.len() < NEIGHBOURS_MAX && !is_known {
                // For how long others have known it counts only if it is in the table.
                let age = Age(0);
                self.around.push(Contact { age, ..*contact });
            }
        }
        let rest = rest.saturating_sub(located.blocks.len());
        self.locate = Some((locate, rest)).filter(|_| rest > 0);
        if rest == 0 {
            self.is_located = true;
            self.timers.set(Timer::Look, tools.now);
        }
        true
    }

    /// The so many closest to a place that are known, those of the table first where both know them; in no order. Who of
    /// the table is silent, the table knows.
    fn closest(&self, tools: &Tools<'_>, place: u64, count: usize) -> Vec<Contact> {
        let mut contacts = tools.dht.closest(tools.now, &point(place), count);
        let around = self.around.iter();
        for contact in around.filter(|it| !self.gone.contains(&it.id)) {
            if !contacts.iter().any(|it| it.id == contact.id) {
                contacts.push(*contact);
            }
        }
        let distance = |it: &Contact| place_of_node(&it.id) ^ place;
        if contacts.len() > count {
            contacts.select_nth_unstable_by_key(count, distance);
            contacts.truncate(count);
        }
        contacts
    }

    /// Does a slice of the look under way.
    fn step(&mut self, tools: &mut Tools<'_>) {
        for _ in 0..LEAVES_PER_STEP {
            let after = match self.stage {
                Stage::Cutting(from) => self.cut(tools, from),
                Stage::Judging(from) => self.judge(tools, from),
                Stage::Resting | Stage::Talking => return,
            };
            let next = after
                .checked_add(1)
                .filter(|&next| self.region.contains(next));
            match (self.stage, next) {
                (Stage::Cutting(_), Some(next)) => self.stage = Stage::Cutting(next),
                (Stage::Judging(_), Some(next)) => self.stage = Stage::Judging(next),
                (Stage::Cutting(_), None) => {
                    self.stage = Stage::Talking;
                    return self.talk(tools);
                }
                _ => {
                    self.stage = Stage::Resting;
                    self.talks.clear();
                    return self.timers.set(Timer::Look, self.next_look.max(tools.now));
                }
            }
        }
        self.timers.set(Timer::Step, tools.now + WORK_PAUSE);
    }

    /// Makes a leaf of the own blocks from this place on, and notes who lives around it. The last place in it.
    fn cut(&mut self, tools: &mut Tools<'_>, from: u64) -> u64 {
        let mut leaf = self.region.largest_at(from);
        let held = tools.store.held(leaf, LEAF_MAX + 1);
        if let Some(beyond) = held.get(LEAF_MAX) {
            while leaf.contains(beyond.place) && leaf.bits() < LEAF_BITS_MAX {
                leaf = Cell::around(from, leaf.bits() + 1);
            }
        }
        let inside = held.partition_point(|it| leaf.contains(it.place));
        let inside = &held[..inside.min(LEAF_MAX)];
        self.memory.cut(leaf, inside);
        let samples = [0, inside.len() / 2, inside.len().saturating_sub(1)];
        let samples = samples.iter().filter_map(|&nth| inside.get(nth));
        for place in samples.map(|it| it.place) {
            for contact in self.closest(tools, place, NEAR) {
                let is_known = self.talks.contains_key(&contact.id);
                if self.talks.len() < NEIGHBOURS_MAX && !is_known {
                    let number = self.memory.meet(tools.now, contact.id);
                    let talk = Talk::new(self.region, number);
                    self.talks.insert(contact.id, (contact, talk));
                }
            }
        }
        leaf.last()
    }

    /// Asks neighbours as much as may be on its way; goes on when nobody is to be asked any more.
    fn talk(&mut self, tools: &mut Tools<'_>) {
        if self.stage != Stage::Talking {
            return;
        }
        let memory = &self.memory;
        for (id, (contact, talk)) in &mut self.talks {
            if self.queries.len() >= UPKEEP_REQUESTS_MAX {
                return;
            }
            if let Some(request) = talk.next(memory) {
                let query = tools.dht.query(tools.now, *contact, request);
                self.queries.insert(query, *id);
            }
        }
        if self.queries.is_empty() {
            self.stage = Stage::Judging(self.region.first());
            self.timers.set(Timer::Step, tools.now);
        }
    }

    /// A contact has answered a question, or has not. False if it was not asked here.
    pub fn handle_answered(
        &mut self,
        tools: &mut Tools<'_>,
        query: QueryId,
        contact: &NodeId,
        reply: &Option<Reply>,
    ) -> bool {
        let is_ours = if let Some(id) = self.queries.remove(&query) {
            if let Some((_, talk)) = self.talks.get_mut(&id) {
                let own = |leaf: Cell| tools.store.held(leaf, LEAF_MAX);
                talk.handle_reply(&mut self.memory, reply.clone(), own);
            }
            self.talk(tools);
            true
        } else {
            self.handle_checked(tools, query, reply)
        };
        if is_ours && reply.is_some() {
            self.gone.remove(contact);
        } else if is_ours && self.gone.len() < UPKEEP_PEERS_MAX {
            self.gone.insert(*contact);
        }
        is_ours
    }

    /// Looks which blocks of the leaf at this place are short of copies. The last place in it.
    fn judge(&mut self, tools: &mut Tools<'_>, from: u64) -> u64 {
        let Some(leaf) = self.memory.leaf(from).map(|leaf| leaf.cell) else {
            return self.region.last();
        };
        let Some(survey) = self.survey(tools, from) else {
            return leaf.last();
        };
        for index in 0..survey.held.len() {
            let Some(verdict) = survey.judge(tools.now, index) else {
                continue;
            };
            self.statistics.looked += 1;
            let place = survey.held[index].place;
            let Some(wait) = verdict.wait() else {
                self.turns.stop(place);
                continue;
            };
            self.statistics.short += 1;
            self.take_turn(place, tools.now + wait);
        }
        self.wait_for_turn(tools.now);
        leaf.last()
    }

    /// It is this peer's turn to see to a block then, or before if that has been said.
    fn take_turn(&mut self, place: u64, at: Instant) {
        let is_sooner = self.turns.deadline(place).is_none_or(|before| at < before);
        if is_sooner && self.turns.count() < TURNS_MAX {
            self.turns.set(place, at);
        }
    }

    fn wait_for_turn(&mut self, now: Instant) {
        let is_busy = !self.checking.is_empty() || !self.gifts.is_empty();
        if let Some(at) = self.turns.next().filter(|_| !is_busy) {
            self.timers.set(Timer::Turn, at.max(now));
        }
    }

    /// What is known of the leaf around a place; `None` if its blocks are not those for which it was cut.
    fn survey(&self, tools: &Tools<'_>, place: u64) -> Option<Survey> {
        let leaf = self.memory.leaf(place)?;
        let cell = leaf.cell;
        let held = tools.store.held(cell, LEAF_MAX);
        if !leaf.is_as_cut(&held) {
            return None;
        }
        let contacts = self.closest(tools, middle(cell), 2 * K);
        let near = contacts
            .into_iter()
            .filter(|it| !self.gone.contains(&it.id));
        let map = |id: &NodeId| leaf.map(self.memory.number(id)?);
        let near = near.map(|it| Near::new(it, map(&it.id)));
        Some(self.survey_of(tools, held, near.collect()))
    }

    fn survey_of(&self, tools: &Tools<'_>, held: Vec<Held>, near: Vec<Near>) -> Survey {
        Survey {
            copies: self.copies,
            own: place_of_node(&tools.dht.id()),
            near,
            held,
        }
    }

    /// Asks all who live around some blocks whose turn has come whether they have them.
    fn begin_check(&mut self, tools: &mut Tools<'_>) {
        while self.checking.len() < TURNS_AT_ONCE {
            let Some(place) = self.turns.pop_expired(tools.now) else {
                break;
            };
            let held = tools.store.held(Cell::around(place, 64), 1);
            let mut blocks = tools.store.at_place(place).into_iter();
            let block = blocks.find(|block| !self.moving.contains(block));
            let Some(block) = block.filter(|_| !held.is_empty()) else {
                continue;
            };
            let contacts = self.closest(tools, place, NEAR);
            for contact in &contacts {
                self.asking.add(*contact, block, place);
            }
            let near = contacts.into_iter().map(|it| Near::new(it, None));
            let survey = self.survey_of(tools, held, near.collect());
            self.checking.insert(place, (block, survey));
        }
        self.check_turns(tools);
    }

    /// Asks for what is to be asked for; decides when all is answered. Who has not answered is none of the neighbourhood.
    fn check_turns(&mut self, tools: &mut Tools<'_>) {
        while self.asking.ask_next(tools, Duration::ZERO) {}
        if !self.asking.is_idle() {
            return;
        }
        for (block, mut survey) in std::mem::take(&mut self.checking).into_values() {
            survey.near.retain(|it| it.map.is_some());
            let Some(verdict) = survey.judge(tools.now, 0) else {
                continue;
            };
            let gift = Gift {
                block,
                copies: verdict.missing(),
                candidates: verdict.candidates(&survey.near),
            };
            if gift.copies > 0 && !gift.candidates.is_empty() {
                self.gifts.push_back((gift, tools.now));
            }
        }
        self.wait_for_turn(tools.now);
    }

    fn handle_checked(
        &mut self,
        tools: &mut Tools<'_>,
        query: QueryId,
        reply: &Option<Reply>,
    ) -> bool {
        let bitmap = reply.as_ref().and_then(Reply::bitmap);
        let Some((peer, answers)) = self.asking.handle_counted(query, bitmap) else {
            return false;
        };
        for (place, has) in answers {
            if let Some((_, survey)) = self.checking.get_mut(&place) {
                let near = survey.near.iter_mut().find(|it| it.contact.id == peer);
                if let Some(near) = near {
                    near.map = has.map(Map::from);
                }
            }
        }
        self.check_turns(tools);
        true
    }

    /// The next block to be given to others. For what was decided a turn ago they are asked again first.
    pub fn poll_gift(&mut self, tools: &mut Tools<'_>) -> Option<Gift> {
        let mut next = None;
        while next.is_none() {
            let Some((gift, decided)) = self.gifts.pop_front() else {
                break;
            };
            if tools.now.since(decided) >= TURN {
                self.take_turn(place_of(&gift.block), tools.now);
            } else {
                self.moving.insert(gift.block);
                next = Some(gift);
            }
        }
        self.wait_for_turn(tools.now);
        next
    }

    /// A block has been given to so many.
    pub fn handle_given(&mut self, block: &BlockId, copies: u64) {
        if self.moving.remove(block) {
            self.statistics.moved += copies;
        }
    }
}

/// How many blocks there are in a cell, if that is known.
fn count(tools: &mut Tools<'_>, cell: Cell) -> Option<u32> {
    let digests = tools.store.digests(cell, 0)?;
    digests.first().map(|it| it.count)
}

/// The place in the middle of a cell.
fn middle(cell: Cell) -> u64 {
    cell.first() + (cell.last() - cell.first()) / 2
}

/// A point at a place.
fn point(place: u64) -> Point {
    let mut point = [0; 32];
    point[..8].copy_from_slice(&place.to_be_bytes());
    Point(point)
}
