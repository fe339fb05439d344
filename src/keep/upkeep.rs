//! Upkeep: what is stored stays stored when peers leave. Every holder looks once an hour whether its blocks have their
//! copies, and gives them to others where they are short.
//!
//! All blocks for which a peer may be one of the K closest lie in one cell around its own id. It goes through that cell
//! region by region, evenly over the hour: cuts its own blocks there into leaves, compares with each neighbour what that
//! holds now with what it is remembered to have held ([`memory`], [`talk`]), and so knows the holders of each block
//! without asking for each. Where there are too few, the closest holder gives the block to those who have been there for
//! longest ([`judge`]); the next has its turn a while later, when it has asked again. `keep` carries the blocks. Called
//! by the node.

mod judge;
mod memory;
mod talk;

use super::ask::Asking;
use super::Tools;
use crate::cell::{place_of, place_of_node, Cell};
use crate::dht::{LocateId, QueryId};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::rng::Rng;
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::contact::{Age, Contact};
use crate::wire::datagram::Reply;
use judge::{Near, Survey};
use memory::Memory;
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
    /// Look again at blocks whose turn has come.
    Turn,
    /// Be asked again for what is to be given to others.
    Move,
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
    /// Places of blocks whose turn comes, at most `TURNS_MAX`.
    turns: BTreeSet<(Instant, u64)>,
    /// Those whose turn has come and which are asked for again, at most `TURNS_AT_ONCE`.
    checking: Vec<u64>,
    asking: Asking<(u64, NodeId)>,
    /// Places of blocks that are to be given to others, and when that was decided; at most `TURNS_MAX`.
    moves: VecDeque<(u64, Instant)>,
    /// Blocks that are being given.
    moving: BTreeSet<BlockId>,
    timers: Timers<Timer>,
    statistics: Statistics,
}

impl Upkeep {
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
            turns: BTreeSet::new(),
            checking: Vec::new(),
            asking: Asking::default(),
            moves: VecDeque::new(),
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
        self.turns.len() + self.checking.len() + self.moves.len() + self.moving.len()
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
            Some(Timer::Move) | None => {}
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
    pub fn handle_located(
        &mut self,
        tools: &mut Tools<'_>,
        locate: LocateId,
        blocks: &[BlockId],
        contacts: &[Contact],
    ) -> bool {
        let Some((_, rest)) = self.locate.filter(|(id, _)| *id == locate) else {
            return false;
        };
        for contact in contacts {
            let is_known = self.around.iter().any(|it| it.id == contact.id);
            if self.around.len() < NEIGHBOURS_MAX && !is_known {
                // For how long others have known it counts only if it is in the table.
                let age = Age(0);
                self.around.push(Contact { age, ..*contact });
            }
        }
        let rest = rest.saturating_sub(blocks.len());
        self.locate = Some((locate, rest)).filter(|_| rest > 0);
        if rest == 0 {
            self.is_located = true;
            self.timers.set(Timer::Look, tools.now);
        }
        true
    }

    /// The so many closest to a place that are known, those of the table first where both know them; in no order.
    fn closest(&self, tools: &Tools<'_>, place: u64, count: usize) -> Vec<Contact> {
        let mut contacts = tools.dht.closest(tools.now, &point(place), count);
        for contact in &self.around {
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
            if verdict.missing() == 0 {
                continue;
            }
            let place = survey.held[index].place;
            self.statistics.short += 1;
            if verdict.rank == 0 {
                self.decide(tools, place);
            } else if self.turns.len() < TURNS_MAX {
                let at = tools.now + TURN * verdict.rank as u32;
                self.turns.insert((at, place));
            }
        }
        self.wait_for_turn(tools.now);
        leaf.last()
    }

    fn wait_for_turn(&mut self, now: Instant) {
        if let Some(&(at, _)) = self.turns.first() {
            if self.checking.is_empty() {
                self.timers.set(Timer::Turn, at.max(now));
            }
        }
    }

    fn decide(&mut self, tools: &Tools<'_>, place: u64) {
        if self.moves.len() < TURNS_MAX {
            self.moves.push_back((place, tools.now));
        }
    }

    /// What is known of the leaf around a place now; `None` if its blocks are not those for which it was cut, or if
    /// neighbours are being asked about it: then what is known is not all, and the look decides anew.
    fn survey(&self, tools: &Tools<'_>, place: u64) -> Option<Survey> {
        let is_asked = matches!(self.stage, Stage::Cutting(_) | Stage::Talking);
        if is_asked && self.region.contains(place) {
            return None;
        }
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
        let near = near.map(|contact| Near {
            place: place_of_node(&contact.id),
            map: map(&contact.id),
            contact,
        });
        Some(Survey {
            cell,
            copies: self.copies,
            own: place_of_node(&tools.dht.id()),
            near: near.collect(),
            held,
        })
    }

    /// The same, unless it is the leaf that was surveyed last.
    fn resurvey(&self, tools: &Tools<'_>, place: u64, last: &mut Option<Survey>) {
        if !last.as_ref().is_some_and(|it| it.cell.contains(place)) {
            *last = self.survey(tools, place);
        }
    }

    /// Asks again for some blocks whose turn has come.
    fn begin_check(&mut self, tools: &mut Tools<'_>) {
        if !self.checking.is_empty() {
            return;
        }
        let mut survey = None;
        for _ in 0..TURNS_AT_ONCE {
            let Some(&(at, place)) = self.turns.first().filter(|(at, _)| *at <= tools.now) else {
                break;
            };
            self.turns.remove(&(at, place));
            self.resurvey(tools, place, &mut survey);
            let Some((survey, verdict)) = survey.as_ref().and_then(|it| it.short(tools.now, place))
            else {
                continue;
            };
            let Some(&block) = tools.store.at_place(place).first() else {
                continue;
            };
            self.checking.push(place);
            for other in verdict.without.iter().map(|&(nth, _)| &survey.near[nth]) {
                self.asking
                    .add(other.contact, block, (place, other.contact.id));
            }
        }
        self.check(tools);
    }

    /// Asks for what is to be asked for; decides when all is answered.
    fn check(&mut self, tools: &mut Tools<'_>) {
        while self.asking.ask_next(tools, Duration::ZERO) {}
        if !self.asking.is_idle() {
            return;
        }
        let mut survey = None;
        for place in std::mem::take(&mut self.checking) {
            self.resurvey(tools, place, &mut survey);
            let survey = survey.as_ref();
            if survey.is_some_and(|it| it.short(tools.now, place).is_some()) {
                self.decide(tools, place);
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
        let bitmap = match reply {
            Some(Reply::Have(bitmap, ..)) => Some(*bitmap),
            _ => None,
        };
        let Some((_, answers)) = self.asking.handle_counted(query, bitmap) else {
            return false;
        };
        for ((place, id), has) in answers {
            if has == Some(true) {
                self.mark(tools, place, &id);
            }
        }
        self.check(tools);
        true
    }

    /// A neighbour has the block at this place as well.
    fn mark(&mut self, tools: &mut Tools<'_>, place: u64, id: &NodeId) {
        let Some(leaf) = self.memory.leaf(place) else {
            return;
        };
        let held = tools.store.held(leaf.cell, LEAF_MAX);
        let index = held.iter().position(|it| it.place == place);
        let index = index.filter(|_| leaf.is_as_cut(&held));
        if let (Some(index), Some(number)) = (index, self.memory.number(id)) {
            self.memory.mark(place, index, number);
        }
    }

    /// The next block to be given to others, if it still is. What was decided a turn ago is asked for again first.
    pub fn poll_gift(&mut self, tools: &mut Tools<'_>) -> Option<Gift> {
        let mut survey = None;
        for _ in 0..TURNS_AT_ONCE {
            let (place, decided) = self.moves.pop_front()?;
            if tools.now.since(decided) >= TURN {
                self.turns.insert((tools.now, place));
                self.wait_for_turn(tools.now);
                continue;
            }
            self.resurvey(tools, place, &mut survey);
            let Some((survey, verdict)) = survey.as_ref().and_then(|it| it.short(tools.now, place))
            else {
                continue;
            };
            let candidates = verdict.candidates(&survey.near);
            let mut blocks = tools.store.at_place(place).into_iter();
            let block = blocks.find(|block| !self.moving.contains(block));
            let Some(block) = block.filter(|_| !candidates.is_empty()) else {
                continue;
            };
            self.moving.insert(block);
            return Some(Gift {
                block,
                copies: verdict.missing(),
                candidates,
            });
        }
        self.timers.set(Timer::Move, tools.now + WORK_PAUSE);
        None
    }

    /// A block has been given to these.
    pub fn handle_given(
        &mut self,
        tools: &mut Tools<'_>,
        block: &BlockId,
        holders: &BTreeSet<NodeId>,
    ) {
        if self.moving.remove(block) {
            self.statistics.moved += holders.len() as u64;
        }
        for id in holders {
            self.mark(tools, place_of(block), id);
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
