//! What is stored stays stored: whole networks in which peers leave, return or do not, and others come.
//!
//! Tables are filled from outside, as if all had joined long ago, and blocks of 64 bytes are put into the stores from
//! outside as well.

use crate::client::Outcome;
use crate::network::{private, secs, serve, table_of};
use crate::world::{number, seed, Links, PeerId, World};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use strew::block::address::Address;
use strew::block::{Block, Form, Kind, Role};
use strew::cell::{place_of, place_of_node, Cell};
use strew::id::{BlockId, NodeKey};
use strew::limits::{INNER, K, LOOK_PERIOD};
use strew::rng::Rng;
use strew::store::{MemoryStore, Store, Terms};
use strew::wire::contact::{Age, Contact};

/// How long those who leave for a while are away in the mean; exponentially distributed.
const AWAY: Duration = secs(4 * 3600);

/// What share of the blocks around somebody who is away at the start he has: about as many as after a day.
const HAD: f64 = 0.25;

/// For how long blocks are kept.
pub const LIFETIME: Duration = secs(20 * 86_400);

/// How long peers stay.
#[derive(Clone, Copy, Debug)]
pub enum Sessions {
    /// A Weibull distribution of this shape and scale in minutes.
    Weibull(f64, f64),
    /// An exponential distribution of this mean in minutes.
    Exponential(f64),
    /// For ever.
    Endless,
}

/// A fit to the sessions of a large Kademlia network (Steiner, En-Najjary and Biersack 2009).
pub const WEIBULL: Sessions = Sessions::Weibull(0.54, 357.0);

/// A tenth leaves in an hour.
pub const EXPONENTIAL: Sessions = Sessions::Exponential(600.0);

impl Sessions {
    fn draw(self, rng: &mut Rng) -> Duration {
        let log = -(1.0 - uniform(rng)).ln();
        let minutes = match self {
            Sessions::Weibull(shape, scale) => scale * log.powf(1.0 / shape),
            Sessions::Exponential(mean) => mean * log,
            Sessions::Endless => 1e9,
        };
        Duration::from_secs_f64(minutes * 60.0)
    }

    /// A session that is under way at some time: a longer one is so more often.
    fn draw_under_way(self, rng: &mut Rng) -> Duration {
        let longest = secs(60 * 86_400);
        if matches!(self, Sessions::Endless) {
            return self.draw(rng);
        }
        loop {
            let session = self.draw(rng).min(longest);
            if uniform(rng) * longest.as_secs_f64() < session.as_secs_f64() {
                return session;
            }
        }
    }
}

/// A number from 0 to 1.
fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Who of a neighbourhood has the blocks at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placing {
    /// Those who have been there for longest, of the closest of it.
    Oldest,
    /// Anybody.
    Random,
}

pub struct Trial {
    pub peers: usize,
    pub blocks: usize,
    pub role: Role,
    pub copies: usize,
    pub sessions: Sessions,
    pub placing: Placing,
    pub lifetime: Duration,
}

enum Event {
    Leave(PeerId),
    Return(PeerId),
    Come,
}

/// Who has what.
#[derive(Default, Debug)]
pub struct Count {
    /// Blocks by how many of their neighbourhood have them.
    pub copies: [usize; K + 1],
    /// Blocks that nobody has who is there.
    pub away: usize,
    /// Blocks that nobody has who is there or will return.
    pub lost: usize,
    /// Copies with others than the neighbourhood.
    outside: usize,
}

impl Count {
    fn below(&self, copies: usize) -> usize {
        self.copies[..copies].iter().sum()
    }
}

pub struct Survival {
    pub world: World,
    rng: Rng,
    blocks: Vec<BlockId>,
    sessions: Sessions,
    agenda: BTreeMap<(Duration, u64), Event>,
    counter: u64,
    at: Duration,
    /// Copies given to others by those who have left.
    moved: u64,
}

/// Which of these are the so many closest to a place.
fn closest(all: &[u64], place: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<_> = all.iter().map(|it| it ^ place).zip(0..).collect();
    if count < order.len() {
        order.select_nth_unstable(count);
        order.truncate(count);
    }
    order.into_iter().map(|(_, nth)| nth).collect()
}

/// A block of random bytes, a file if it is a root.
fn block(rng: &mut Rng, role: Role) -> Block {
    let form = Form::Plain;
    let mut payload = vec![1, 0];
    payload.extend_from_slice(&54u64.to_be_bytes());
    payload.extend_from_slice(&rng.bytes::<54>());
    Block::new(Kind { role, form }, payload).expect("a block")
}

/// What has been put from outside is durable.
fn commit(stores: &mut [MemoryStore]) {
    for store in stores {
        store.begin_commit().expect("memory never fails");
    }
}

impl Survival {
    pub fn new(trial: &Trial, seed: u64) -> Survival {
        let mut world = World::new(seed, Links::good());
        world.copies = Some(match trial.role {
            Role::Leaf => trial.copies as u8,
            Role::Node | Role::Root => trial.copies as u8 / 2,
        });
        let mut rng = Rng::new(world.rng.bytes());
        let sessions = trial.sessions;
        let (mut lives, mut all) = (Vec::new(), Vec::new());
        for n in 0..trial.peers {
            let session = sessions.draw_under_way(&mut rng);
            let age = session.mul_f64(uniform(&mut rng));
            let key = NodeKey(rng.bytes());
            all.push(Contact::new(key, private(n), Age::from_duration(age)));
            lives.push(session - age);
        }
        // As many are away as there are in the mean.
        let some = (0..10_000).map(|_| sessions.draw(&mut rng).as_secs_f64());
        let mean = some.sum::<f64>() / 1e4;
        let away = trial.peers as f64 / 2.0 * AWAY.as_secs_f64() / mean;
        let away: Vec<Contact> = (trial.peers..trial.peers + away as usize)
            .map(|n| Contact::new(NodeKey(rng.bytes()), private(n), Age(0)))
            .collect();
        let stores = all.iter().chain(&away).map(|_| MemoryStore::new(u64::MAX));
        let mut stores: Vec<MemoryStore> = stores.collect();
        let places: Vec<u64> = all.iter().map(|it| place_of_node(&it.id)).collect();
        let terms = Terms::until((world.now + trial.lifetime).as_secs());
        let mut blocks = Vec::new();
        for _ in 0..trial.blocks {
            let block = block(&mut rng, trial.role);
            let place = place_of(&block.id());
            let mut near = closest(&places, place, K);
            let last = near.iter().map(|&nth| places[nth] ^ place).max();
            for (contact, store) in away.iter().zip(&mut stores[trial.peers..]) {
                let is_near = Some(place_of_node(&contact.id) ^ place) < last;
                if is_near && uniform(&mut rng) < HAD {
                    store.put(&block, terms).expect("there is room");
                }
            }
            if trial.placing == Placing::Oldest {
                near = closest(&places, place, INNER);
            }
            near.sort_unstable_by_key(|&nth| all[nth].age);
            for _ in 0..trial.copies {
                let nth = match trial.placing {
                    Placing::Oldest => near.pop().expect("there are enough"),
                    Placing::Random => near.swap_remove(rng.below(near.len() as u64) as usize),
                };
                stores[nth].put(&block, terms).expect("there is room");
            }
            blocks.push(block.id());
        }
        commit(&mut stores);
        let mut sorted = all.clone();
        sorted.sort_unstable_by_key(|contact| contact.id);
        for (contact, store) in all.iter().chain(&away).zip(stores) {
            let seeds = [(); 5].map(|()| private(rng.below(trial.peers as u64) as usize));
            let id = world.add_dead(serve(contact.addr, &seeds), contact.key);
            world.peers[id].disk = Some(store);
        }
        for (id, contact) in all.iter().enumerate() {
            let mut table = table_of(contact, &sorted, &mut rng);
            for other in &mut table {
                other.age = other.age.min(contact.age);
            }
            world.settle_among(id, table);
        }
        let mut survival = Survival {
            world,
            rng,
            blocks,
            sessions,
            agenda: BTreeMap::new(),
            counter: 0,
            at: Duration::ZERO,
            moved: 0,
        };
        for (id, life) in lives.into_iter().enumerate() {
            survival.schedule(life, Event::Leave(id));
        }
        for nth in 0..away.len() {
            let wait = survival.draw_away();
            survival.schedule(wait, Event::Return(trial.peers + nth));
        }
        survival
    }

    fn draw_away(&mut self) -> Duration {
        Sessions::Exponential(AWAY.as_secs_f64() / 60.0).draw(&mut self.rng)
    }

    fn schedule(&mut self, wait: Duration, event: Event) {
        self.counter += 1;
        self.agenda.insert((self.at + wait, self.counter), event);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.at + span;
        while let Some((&(at, _), _)) = self.agenda.first_key_value() {
            if at > until {
                break;
            }
            self.world.run_for(at - self.at);
            self.at = at;
            if let Some((_, event)) = self.agenda.pop_first() {
                self.happen(event);
            }
        }
        self.world.run_for(until - self.at);
        self.at = until;
    }

    /// Who leaves returns half of the time; otherwise another comes at once.
    fn happen(&mut self, event: Event) {
        let id = match event {
            Event::Leave(id) => {
                let returns = self.rng.below(2) == 0;
                self.leave(id, returns);
                let (wait, next) = match returns {
                    true => (self.draw_away(), Event::Return(id)),
                    false => (Duration::ZERO, Event::Come),
                };
                return self.schedule(wait, next);
            }
            Event::Return(id) => {
                self.world.revive(id);
                id
            }
            Event::Come => {
                let alive: Vec<PeerId> = self.world.alive().collect();
                let any = |rng: &mut Rng| alive[rng.below(alive.len() as u64) as usize];
                let seeds = [(); 5].map(|()| private(any(&mut self.rng)));
                let n = self.world.peers.len();
                let key = NodeKey(self.rng.bytes());
                let id = self.world.add_dead(serve(private(n), &seeds), key);
                self.world.revive(id);
                id
            }
        };
        let life = self.sessions.draw(&mut self.rng);
        self.schedule(life, Event::Leave(id));
    }

    fn leave(&mut self, id: PeerId, returns: bool) {
        self.moved += self.world.status(id, "upkeep_moved");
        self.world.peers[id].saved = self.world.node(id).contacts(self.world.now);
        self.world.crash(id, returns, false);
    }

    /// Copies given to others so far.
    pub fn moved(&self) -> u64 {
        self.moved + self.sum("upkeep_moved")
    }

    /// The sum of a number over the pages of all who are there.
    fn sum(&self, key: &str) -> u64 {
        let alive = self.world.alive();
        alive.map(|id| self.world.status(id, key)).sum()
    }

    pub fn count(&self) -> Count {
        let mut ids: Vec<u64> = Vec::new();
        // By the place of a block: those of who has it.
        let mut live: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut away: HashSet<u64> = HashSet::new();
        for peer in &self.world.peers {
            let own = place_of_node(&peer.key.id());
            let held = |store: &MemoryStore| store.held(Cell::WHOLE, usize::MAX);
            if let Some(node) = &peer.node {
                ids.push(own);
                for block in held(node.store()) {
                    live.entry(block.place).or_default().push(own);
                }
            } else if let Some(disk) = &peer.disk {
                away.extend(held(disk).iter().map(|block| block.place));
            }
        }
        let mut count = Count::default();
        for place in self.blocks.iter().map(place_of) {
            let mut distances: Vec<u64> = ids.iter().map(|id| id ^ place).collect();
            let last = (K - 1).min(ids.len() - 1);
            let (_, &mut last, _) = distances.select_nth_unstable(last);
            let holders = live.get(&place).map_or(&[][..], |it| it);
            let near = holders.iter().filter(|&id| id ^ place <= last).count();
            count.copies[near] += 1;
            count.outside += holders.len() - near;
            count.away += usize::from(holders.is_empty());
            count.lost += usize::from(holders.is_empty() && !away.contains(&place));
        }
        count
    }
}

/// Half of the peers go at once: what can be fetched then, and what has its copies two periods later.
fn half_goes(peers: usize, blocks: usize) {
    let trial = Trial {
        peers,
        blocks,
        role: Role::Root,
        copies: 8,
        sessions: Sessions::Endless,
        placing: Placing::Random,
        lifetime: LIFETIME,
    };
    let mut survival = Survival::new(&trial, seed(61));
    survival.run_for(LOOK_PERIOD * 2);
    assert_eq!(survival.moved(), 0, "nothing is short");
    let mut going: Vec<PeerId> = survival.world.alive().collect();
    while going.len() > peers / 2 {
        let nth = survival.rng.below(going.len() as u64) as usize;
        going.swap_remove(nth);
    }
    for id in going {
        survival.leave(id, false);
    }
    let before = survival.count();
    let alive: Vec<PeerId> = survival.world.alive().collect();
    let blocks = survival.blocks.clone();
    let (mut fetched, mut missed) = (0, 0);
    for some in blocks.chunks(alive.len()) {
        let clients: Vec<_> = some
            .iter()
            .zip(&alive)
            .map(|(&id, &peer)| {
                let key = None;
                (survival.world.begin_fetch(peer, Address { id, key }), id)
            })
            .collect();
        for (client, id) in clients {
            let (outcome, _) = survival.world.finish(client, secs(60));
            let mut holders = alive.iter().map(|&peer| survival.world.node(peer));
            let is_held = holders.any(|node| node.store().has(&id));
            fetched += usize::from(matches!(outcome, Outcome::Fetched(_)));
            missed += usize::from(is_held && !matches!(outcome, Outcome::Fetched(_)));
        }
    }
    let share = fetched as f64 / blocks.len() as f64 * 100.0;
    println!(
        "half of {peers} gone: {before:?}; {share:.2} % of {} blocks fetched at once, {missed} missed",
        blocks.len()
    );
    survival.run_for(LOOK_PERIOD * 2);
    let after = survival.count();
    let moved = survival.moved() as f64 / blocks.len() as f64;
    println!("two periods later: {after:?}; {moved:.2} copies moved of each");
    assert_eq!(missed, 0, "each that has a holder is fetched");
    assert!(share >= 99.5);
    assert_eq!(after.lost, before.lost, "nothing is lost any more");
    assert_eq!(after.below(8), before.lost, "all others have their copies");
}

#[test]
fn half_of_a_hundred_go_at_once_and_two_periods_later_all_is_as_it_was() {
    half_goes(100, 1000);
}

#[test]
#[ignore = "long: make sim"]
fn half_of_a_thousand_go_at_once_and_two_periods_later_all_is_as_it_was() {
    half_goes(1000, 20_000);
}

#[test]
fn what_has_its_copies_and_what_has_expired_moves_nothing_and_who_returns_keeps_what_it_has() {
    let trial = Trial {
        peers: 40,
        blocks: 300,
        role: Role::Leaf,
        copies: 8,
        sessions: Sessions::Endless,
        placing: Placing::Random,
        lifetime: secs(8 * 3600),
    };
    let mut survival = Survival::new(&trial, seed(62));
    survival.run_for(LOOK_PERIOD * 2);
    assert!(survival.sum("upkeep_looked") >= 300 * 8);
    assert_eq!((survival.sum("upkeep_short"), survival.moved()), (0, 0));
    // Some go, and what they had is given to others; they return, and nobody is the worse for it.
    let gone = [3, 7, 11, 30];
    for id in gone {
        survival.leave(id, true);
    }
    survival.run_for(LOOK_PERIOD * 2);
    let count = survival.count();
    assert_eq!(count.below(8), 0, "{count:?}");
    let moved = survival.moved();
    let had: usize = gone
        .iter()
        .filter_map(|&id| survival.world.peers[id].disk.as_ref())
        .map(|disk| disk.held(Cell::WHOLE, usize::MAX).len())
        .sum();
    assert!(moved <= had as u64 * 11 / 10, "{moved} for {had}");
    for id in gone {
        survival.world.revive(id);
    }
    survival.run_for(LOOK_PERIOD * 2);
    assert_eq!(survival.moved(), moved);
    let count = survival.count();
    let copies: usize = count.copies.iter().zip(0..).map(|(it, n)| it * n).sum();
    assert!(copies >= 300 * 8 + had / 2, "{count:?}");
    // What has expired is let go.
    survival.run_for(secs(4 * 3600));
    let short = survival.sum("upkeep_short");
    for id in [1, 2, 4] {
        survival.leave(id, false);
    }
    let looked = survival.sum("upkeep_looked");
    survival.run_for(LOOK_PERIOD * 2);
    assert!(survival.sum("upkeep_short") <= short);
    assert_eq!(survival.sum("upkeep_looked"), looked);
}

#[test]
fn hardly_anything_moves_for_who_is_back_within_minutes_nor_from_there() {
    let trial = Trial {
        peers: 300,
        blocks: 3000,
        role: Role::Leaf,
        copies: 8,
        sessions: Sessions::Endless,
        placing: Placing::Random,
        lifetime: LIFETIME,
    };
    let mut survival = Survival::new(&trial, seed(64));
    for id in (0..300).step_by(15) {
        survival.leave(id, true);
        survival.run_for(secs(120));
        survival.world.revive(id);
    }
    survival.run_for(LOOK_PERIOD * 3 / 2);
    assert!(survival.sum("upkeep_short") > 0, "it was noticed");
    // Who has just come back knows of few copies, and does not wait; it may ask while somebody is away.
    let moved = survival.moved();
    assert!(moved <= 10, "{moved} moved");
}

#[test]
#[ignore = "long: make sim"]
fn million_blocks_and_nothing_changed_cost_less_than_a_kilobyte_a_second() {
    let trial = Trial {
        peers: 24,
        blocks: 0,
        role: Role::Leaf,
        copies: 8,
        sessions: Sessions::Endless,
        placing: Placing::Random,
        lifetime: LIFETIME,
    };
    let mut survival = Survival::new(&trial, seed(63));
    let count = number("STREW_BLOCKS").unwrap_or(1_000_000);
    // The first peer holds them all, and seven others each of them.
    let terms = Terms::until((survival.world.now + LIFETIME).as_secs());
    let mut stores: Vec<MemoryStore> = (0..24).map(|_| MemoryStore::new(u64::MAX)).collect();
    let peers = survival.world.peers.iter();
    let places: Vec<u64> = peers.map(|it| place_of_node(&it.key.id())).collect();
    while stores[0].usage().blocks < count {
        let block = block(&mut survival.rng, Role::Leaf);
        let mut others = closest(&places, place_of(&block.id()), K);
        if !others.contains(&0) {
            continue;
        }
        others.retain(|&nth| nth != 0);
        stores[0].put(&block, terms).expect("there is room");
        for _ in 0..7 {
            let nth = survival.rng.below(others.len() as u64) as usize;
            let other = others.swap_remove(nth);
            stores[other].put(&block, terms).expect("there is room");
        }
    }
    commit(&mut stores);
    let contacts: Vec<Contact> = survival
        .world
        .peers
        .iter()
        .map(|peer| Contact::new(peer.key, peer.born.addr, Age(200)))
        .collect();
    for (id, store) in stores.into_iter().enumerate() {
        survival.world.crash(id, false, false);
        survival.world.peers[id].disk = Some(store);
    }
    for id in 0..24 {
        let others = contacts.iter().filter(|it| it.addr != private(id));
        survival.world.settle_among(id, others.copied().collect());
    }
    let bytes =
        |world: &World| ["udp_bytes_sent", "udp_bytes_received"].map(|key| world.status(0, key));
    for hour in 1..=4 {
        let before = bytes(&survival.world);
        let looked = survival.world.status(0, "upkeep_looked");
        survival.world.run_for(LOOK_PERIOD);
        let after = bytes(&survival.world);
        let looked = survival.world.status(0, "upkeep_looked") - looked;
        let [sent, received] = [0, 1].map(|nth| (after[nth] - before[nth]) as f64 / 3600.0);
        println!(
            "hour {hour}: {sent:.0} bytes sent and {received:.0} received a second; {looked} of {count} blocks \
             looked at"
        );
        if hour == 4 {
            assert!(looked as f64 >= count as f64 * 0.9 && looked as f64 <= count as f64 * 1.1);
            assert!(sent + received <= 1000.0);
        }
    }
    assert_eq!(survival.sum("upkeep_short"), 0);
}
