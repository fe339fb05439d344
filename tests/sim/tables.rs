//! Whether the tables of a network are right, what it costs to fill them and to keep them so, and how they heal: held
//! against brute force.

use crate::lookups::{internet, print_table, Census};
use crate::network::{private, secs, serve};
use crate::tracer::Requests;
use crate::world::{seed, PeerId, World};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use strew::id::{NodeId, Point};
use strew::limits::K;
use strew::wire::contact::Contact;

/// How right the tables of some peers are.
#[derive(Default)]
pub struct Tables {
    peers: usize,
    /// Peers that know all of the K closest to them.
    near_complete: usize,
    /// Of the K closest to each, those it knows.
    near_known: usize,
    near_there: usize,
    /// Contacts that live, of as many as its buckets could hold.
    held: usize,
    holdable: usize,
    /// Contacts that live no more, or elsewhere.
    dead: usize,
}

impl Tables {
    pub fn of(world: &World, peers: impl IntoIterator<Item = PeerId>) -> Tables {
        let census = Census::of(world);
        let mut tables = Tables::default();
        for peer in peers {
            tables.add(world, &census, peer);
        }
        tables
    }

    fn add(&mut self, world: &World, census: &Census, peer: PeerId) {
        let node = world.node(peer);
        let own = Point::from(node.id());
        let contacts = node.contacts(world.now);
        let is_alive = |id: &NodeId, addr: SocketAddr| {
            let there = census.peer(id);
            there.is_some_and(|there| world.peers[there].born.addr == addr)
        };
        let (alive, dead): (Vec<Contact>, Vec<Contact>) = contacts
            .into_iter()
            .partition(|contact| is_alive(&contact.id, contact.addr));
        let known: BTreeSet<NodeId> = alive.iter().map(|contact| contact.id).collect();
        let near = census.closest(&own, K + 1).into_iter();
        let near: Vec<PeerId> = near.filter(|it| *it != peer).take(K).collect();
        let of_them = near
            .iter()
            .filter(|it: &&PeerId| known.contains(&world.node(**it).id()));
        let of_them = of_them.count();
        self.peers += 1;
        self.near_known += of_them;
        self.near_there += near.len();
        self.near_complete += usize::from(of_them == near.len());
        self.held += alive.len();
        self.dead += dead.len();
        self.holdable += (0..256)
            .map(|bits| census.sharing_exactly(&own, bits).min(K))
            .sum::<usize>();
    }

    pub fn full_percent(&self) -> f64 {
        100.0 * self.held as f64 / self.holdable as f64
    }

    pub fn near_percent(&self) -> f64 {
        100.0 * self.near_known as f64 / self.near_there as f64
    }

    fn near_complete_percent(&self) -> f64 {
        100.0 * self.near_complete as f64 / self.peers as f64
    }

    pub fn print(&self, what: &str) {
        println!(
            "{what}: {:.1} contacts, {:.2} % of what there is room for; of the 20 closest {:.2} % known, all by \
             {:.1} %; {:.2} dead",
            self.held as f64 / self.peers as f64,
            self.full_percent(),
            self.near_percent(),
            self.near_complete_percent(),
            self.dead as f64 / self.peers as f64,
        );
    }
}

/// The rows of the table of joins.
pub const JOIN_ROWS: [&str; 4] = [
    "a join",
    "asked until its lookup for itself is done + asked again",
    "asked in ten minutes + asked again",
    "contacts then, of what its buckets could hold",
];

/// What joins have cost, on average.
pub struct Joins {
    pub lookup: f64,
    lookup_resent: f64,
    pub in_all: f64,
    in_all_resent: f64,
    contacts: f64,
    pub full_percent: f64,
}

impl Joins {
    pub fn column(&self, head: &str) -> Vec<String> {
        vec![
            head.to_string(),
            format!("{:.1} + {:.1}", self.lookup, self.lookup_resent),
            format!("{:.1} + {:.1}", self.in_all, self.in_all_resent),
            format!("{:.0}, {:.1} %", self.contacts, self.full_percent),
        ]
    }
}

/// Lets some join, one after the other, and looks at all their requests, and at their tables ten minutes later.
pub fn measure_joins(world: &mut World, count: usize) -> Joins {
    let first = world.peers[0].born.addr;
    let newcomers = world.peers.len()..world.peers.len() + count;
    let mut until_joined = Vec::new();
    for id in newcomers.clone() {
        world.count_requests(id);
        world.add_peer(serve(private(id), &[first]));
        let joined = world.run_until(secs(30), |world| world.status(id, "joined") == 1);
        assert!(joined, "peer {id}");
        until_joined.push(world.requests(id));
    }
    world.run_for(secs(600));
    let in_all: Vec<Requests> = newcomers.clone().map(|id| world.requests(id)).collect();
    let tables = Tables::of(world, newcomers);
    let mean = |of: &[Requests], count: fn(&Requests) -> usize| {
        of.iter().map(count).sum::<usize>() as f64 / of.len() as f64
    };
    Joins {
        lookup: mean(&until_joined, Requests::count),
        lookup_resent: mean(&until_joined, |it| it.resent),
        in_all: mean(&in_all, Requests::count),
        in_all_resent: mean(&in_all, |it| it.resent),
        contacts: tables.held as f64 / tables.peers as f64,
        full_percent: tables.full_percent(),
    }
}

/// Bytes a second that a peer sends and receives, on average, while nobody wants anything; with headers. Prints how
/// long a processor takes for a peer, network and all.
pub fn measure_idle(world: &mut World, span: Duration) -> f64 {
    let sum = |world: &World| -> u64 { world.peers.iter().map(|it| it.datagram_bytes).sum() };
    let (bytes, datagrams) = (sum(world), world.datagrams());
    let begun = std::time::Instant::now();
    world.run_for(span);
    let count = world.alive().count() as f64;
    // Each is sent by one and received by another.
    let each = |sum: u64| 2.0 * sum as f64 / count / span.as_secs_f64();
    let bytes = each(sum(world) - bytes);
    println!(
        "idle: {bytes:.0} bytes and {:.2} datagrams a second and peer, {:.6} of a core",
        each(world.datagrams() - datagrams),
        begun.elapsed().as_secs_f64() / count / span.as_secs_f64(),
    );
    bytes
}

/// A peer that was away for a day, a minute after it came back.
struct Back {
    tables: Tables,
    /// Its lookup of its own neighbourhood found exactly the K closest.
    exact: bool,
}

/// A peer goes away, and comes back with its contacts after a day. The day is made up: so many in a hundred of the
/// others go for good, one after the other in an hour, and as many new ones come.
fn come_back(world: &mut World, gone: usize) -> Back {
    let alive: Vec<PeerId> = world.alive().collect();
    let pick = |world: &mut World| alive[1 + world.rng.below(alive.len() as u64 - 1) as usize];
    let away = pick(world);
    world.kill(away, false);
    let first = world.peers[0].born.addr;
    let count = alive.len() * gone / 100;
    let mut leavers = BTreeSet::new();
    while leavers.len() < count {
        let leaver = pick(world);
        if leaver != away {
            leavers.insert(leaver);
        }
    }
    for leaver in leavers {
        world.kill(leaver, false);
        let id = world.peers.len();
        world.add_peer(serve(private(id), &[first]));
        world.run_for(secs(3600) / count as u32);
    }
    world.revive(away);
    world.run_for(secs(60));
    let tables = Tables::of(world, [away]);
    let target = Point::from(world.node(away).id());
    let lookup = world.begin_lookup(away, target);
    let is_done = |world: &World| world.found.contains_key(&(away, lookup));
    assert!(world.run_until(secs(30), is_done), "the lookup ends");
    let found = world.found.remove(&(away, lookup)).expect("it has ended");
    let truth = Census::of(world).closest(&target, K + 1).into_iter();
    let truth = truth.filter(|it| *it != away).take(K);
    let truth = truth.map(|it| world.peers[it].born.addr);
    let exact = truth.eq(found.contacts.iter().map(|it| it.addr));
    tables.print(&format!("back after {gone} % went, a minute later"));
    Back { tables, exact }
}

#[test]
fn thousand_tables_are_right_and_small_and_cost_little() {
    let mut world = World::of(seed(63), internet(), 1000, private);
    let idle = measure_idle(&mut world, secs(600));
    let tables = Tables::of(&world, world.alive());
    tables.print("1,000 that joined, after ten minutes");
    assert!(idle <= 1000.0 && tables.dead == 0);
    assert!(tables.full_percent() >= 98.0 && tables.near_percent() >= 99.9);
    let joins = measure_joins(&mut world, 10);
    print_table(&JOIN_ROWS, &[joins.column("1,000 that joined")]);
    assert!(joins.lookup <= 40.0 && joins.in_all <= 200.0);
    assert!(joins.full_percent >= 98.0);
    let bytes = world.bytes_per_node();
    println!("{bytes} bytes a node");
    assert!(bytes <= 64 << 10);
}

fn assert_that_they_heal(count: usize, seeds: std::ops::Range<u64>) {
    for nth in seeds {
        let mut world = World::of(seed(nth), internet(), count, private);
        for gone in [50, 70] {
            let Back { tables, exact } = come_back(&mut world, gone);
            assert!(exact, "{gone} gone");
            // One that has just died may not have been asked yet.
            assert!(tables.dead <= 3 && tables.near_percent() >= 95.0);
            assert!(tables.full_percent() >= 95.0);
        }
    }
}

#[test]
fn table_of_a_peer_that_was_away_for_a_day_heals_within_a_minute() {
    assert_that_they_heal(200, 64..65);
}

#[test]
#[ignore = "long: make sim"]
fn tables_among_a_thousand_heal_within_a_minute() {
    assert_that_they_heal(1000, 64..67);
}
