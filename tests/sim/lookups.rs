//! What it costs to find peers and blocks, in networks of different sizes, and whether it is the right ones that are
//! found: a row of the README's table each.

use crate::client::Outcome;
use crate::network::{private, secs, serve};
use crate::tables::{measure_idle, measure_joins, Tables, JOIN_ROWS};
use crate::world::{seed, Links, PeerId, World};
use std::collections::{btree_map, BTreeMap, BTreeSet};
use std::time::Duration;
use strew::block::address::Address;
use strew::id::{BlockId, NodeId, Point};
use strew::limits::K;

/// Lookups that are under way at once.
const AT_ONCE: usize = 50;

/// Lookups of each kind that are measured.
const LOOKUPS: usize = 1000;

/// Copies of the blocks that are looked up.
const COPIES: usize = 8;

/// Mean one-way latency 50 ms, 1 % loss.
pub fn internet() -> Links {
    Links {
        latency: (Duration::from_millis(10), Duration::from_millis(90)),
        lost: 10,
        doubled: 0,
        first_cut: None,
    }
}

/// Every living peer by its id, for brute force.
pub struct Census {
    ids: BTreeMap<NodeId, PeerId>,
}

impl Census {
    pub fn of(world: &World) -> Census {
        let ids = world.alive().map(|id| (world.node(id).id(), id));
        Census { ids: ids.collect() }
    }

    /// Who has this id.
    pub fn peer(&self, id: &NodeId) -> Option<PeerId> {
        self.ids.get(id).copied()
    }

    /// All who share at least so many bits with a point.
    fn sharing(&self, target: &Point, bits: usize) -> btree_map::Range<'_, NodeId, PeerId> {
        let (mut first, mut last) = (target.0, target.0);
        for bit in bits..256 {
            let mask = 0x80 >> (bit % 8);
            first[bit / 8] &= !mask;
            last[bit / 8] |= mask;
        }
        self.ids.range(NodeId(first)..=NodeId(last))
    }

    /// How many share so many bits with a point, and not the next; counted up to K.
    pub fn sharing_exactly(&self, target: &Point, bits: usize) -> usize {
        let mut other = *target;
        other.0[bits / 8] ^= 0x80 >> (bits % 8);
        self.sharing(&other, bits + 1).take(K).count()
    }

    /// The peers closest to a point, the closest first: of all that share the longest prefix with it that enough
    /// share.
    pub fn closest(&self, target: &Point, count: usize) -> Vec<PeerId> {
        let mut bits = 0;
        while self.sharing(target, bits + 1).take(count).count() >= count {
            bits += 1;
        }
        let near = self.sharing(target, bits).map(|(&id, &peer)| (id, peer));
        let mut near: Vec<(NodeId, PeerId)> = near.collect();
        near.sort_by_key(|(id, _)| target.distance(&(*id).into()));
        near.truncate(count);
        near.into_iter().map(|(_, peer)| peer).collect()
    }
}

/// Sums up, of many lookups.
#[derive(Default)]
struct Figures {
    count: usize,
    hops: u64,
    hops_max: u32,
    asked: usize,
    asked_for_8: usize,
    resent: usize,
    exact: usize,
    /// Lookups that did not find the closest.
    closest_missed: usize,
    took: Vec<Duration>,
    /// Lookups for a holder, and contacts asked for the first.
    holder_lookups: usize,
    asked_for_holder: usize,
}

impl Figures {
    fn mean(&self, sum: usize) -> f64 {
        sum as f64 / self.count as f64
    }

    fn quantile(&mut self, at: f64) -> f64 {
        self.took.sort_unstable();
        let nth = (self.took.len() - 1) as f64 * at;
        self.took[nth as usize].as_secs_f64()
    }

    fn exact_percent(&self) -> f64 {
        self.mean(self.exact) * 100.0
    }

    fn asked_for_first_holder(&self) -> f64 {
        self.asked_for_holder as f64 / self.holder_lookups.max(1) as f64
    }

    /// Means of hops to the closest and of those asked for the K closest, for the 8 closest and for a first holder, and
    /// the 99th percentile of the time taken, in seconds.
    fn assert_within(&mut self, means: [f64; 4], p99: f64) {
        let found = [
            self.mean(self.hops as usize),
            self.mean(self.asked),
            self.mean(self.asked_for_8),
            self.asked_for_first_holder(),
        ];
        for (nth, mean) in found.into_iter().enumerate() {
            assert!(mean <= means[nth], "{}: {mean}", ROWS[nth + 1]);
        }
        assert!(self.exact_percent() >= 99.9 && self.closest_missed == 0);
        assert!(self.quantile(0.99) <= p99);
    }

    /// Of a network of which half has died.
    fn assert_closest_found(&self) {
        assert_eq!(self.closest_missed, 0);
        assert!(self.mean(self.asked_for_8) <= 30.0);
    }

    /// A column of the table, from its head down.
    fn column(&mut self, head: &str) -> Vec<String> {
        vec![
            head.to_string(),
            format!("{:.2} / {}", self.mean(self.hops as usize), self.hops_max),
            format!(
                "{:.1} + {:.2}",
                self.mean(self.asked),
                self.mean(self.resent)
            ),
            format!("{:.1}", self.mean(self.asked_for_8)),
            format!("{:.1}", self.asked_for_first_holder()),
            format!("{:.1} %", self.exact_percent()),
            format!("{:.2} / {:.2} s", self.quantile(0.5), self.quantile(0.99)),
        ]
    }
}

/// The rows of the table.
const ROWS: [&str; 7] = [
    "",
    "hops to the closest, mean / max",
    "asked to find the 20 closest + asked again",
    "asked to find the 8 closest",
    "asked for the first of 8 holders",
    "found exactly the 20 closest",
    "time taken, p50 / p99",
];

/// Prints a table as the README has it.
pub fn print_table(rows: &[&str], columns: &[Vec<String>]) {
    for (nth, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|column| &column[nth][..]).collect();
        println!("| {row} | {} |", cells.join(" | "));
        if nth == 0 {
            println!("|{}", "---|".repeat(columns.len() + 1));
        }
    }
}

/// Looks random points up from random peers, and compares with brute force.
fn look_up(world: &mut World, count: usize) -> Figures {
    let census = Census::of(world);
    let mut figures = Figures::default();
    let alive: Vec<PeerId> = world.alive().collect();
    while figures.count < count {
        let begun = world.now;
        let lookups: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let peer = alive[world.rng.below(alive.len() as u64) as usize];
                let target = Point(world.rng.bytes());
                world.watch(peer, target);
                (peer, target, world.begin_lookup(peer, target))
            })
            .collect();
        let is_done = |world: &World| {
            let mut lookups = lookups.iter();
            lookups.all(|(peer, _, lookup)| world.found.contains_key(&(*peer, *lookup)))
        };
        assert!(world.run_until(secs(60), is_done), "lookups end");
        for (peer, target, lookup) in lookups {
            let found = world.found.remove(&(peer, lookup)).expect("it has ended");
            let trace = world.unwatch(peer, target);
            let ids: Vec<PeerId> = census.closest(&target, K + 1);
            // Nobody finds itself.
            let truth: Vec<PeerId> = ids.into_iter().filter(|it| *it != peer).take(K).collect();
            let addr = |id: &PeerId| world.peers[*id].born.addr;
            let found_addrs: Vec<_> = found.contacts.iter().map(|it| it.addr).collect();
            figures.count += 1;
            figures.exact += usize::from(truth.iter().map(addr).eq(found_addrs.iter().copied()));
            let closest = addr(&truth[0]);
            figures.closest_missed += usize::from(found_addrs.first() != Some(&closest));
            let hops = trace.asked.get(&closest).copied().unwrap_or_default();
            figures.hops += u64::from(hops);
            figures.hops_max = figures.hops_max.max(hops);
            figures.asked += trace.asked.len();
            figures.resent += trace.resent;
            let eight = truth[..8]
                .iter()
                .filter_map(|it| trace.answered.get(&addr(it)));
            let asked = eight.max().copied().unwrap_or_default();
            figures.asked_for_8 += asked;
            figures.took.push(found.at.since(begun));
        }
    }
    figures
}

/// Shares small files, each a single root with [`COPIES`] copies, and wants them from random peers.
fn look_for_holders(world: &mut World, figures: &mut Figures, count: usize) {
    let alive: Vec<PeerId> = world.alive().collect();
    let some_peer = |world: &mut World| alive[world.rng.below(alive.len() as u64) as usize];
    let mut addresses: Vec<Address> = Vec::new();
    while addresses.len() < count {
        let shares: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (peer, data) = (some_peer(world), world.file(64));
                // Twice as many of a root.
                world.begin_share(peer, &data, COPIES as u8 / 2)
            })
            .collect();
        for client in shares {
            match world.finish(client, secs(60)).0 {
                Outcome::Shared(address, settled) => {
                    assert_eq!(usize::from(settled.least), COPIES);
                    addresses.push(address);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    for some in addresses.chunks(AT_ONCE) {
        let wants: Vec<_> = some
            .iter()
            .map(|&address| {
                let (peer, target) = (some_peer(world), address.id.into());
                world.watch(peer, target);
                (peer, target, world.begin_fetch(peer, address))
            })
            .collect();
        for (peer, target, client) in wants {
            let (outcome, _) = world.finish(client, secs(60));
            assert!(matches!(outcome, Outcome::Fetched(_)), "{outcome:?}");
            let trace = world.unwatch(peer, target);
            // It may hold the block itself, and ask nobody.
            if let Some(asked) = trace.holder_after {
                figures.holder_lookups += 1;
                figures.asked_for_holder += asked;
            }
        }
    }
}

/// The figures of a network whose tables are settled.
fn measure(world: &mut World) -> Figures {
    let mut figures = look_up(world, LOOKUPS);
    look_for_holders(world, &mut figures, LOOKUPS);
    figures
}

/// Half of all peers die at once, and nobody has noticed yet.
fn measure_with_half_dead(world: &mut World) -> Figures {
    let mut dead = BTreeSet::new();
    while dead.len() < world.peers.len() / 2 {
        let victim = world.rng.below(world.peers.len() as u64) as usize;
        if dead.insert(victim) {
            world.kill(victim, false);
        }
    }
    look_up(world, LOOKUPS)
}

/// Blocks of a file of 1 GiB.
const MANY: usize = 4096;

/// The rows of the table of many blocks.
const MANY_ROWS: [&str; 5] = [
    "4,096 blocks, located together",
    "regions",
    "requests a block + sent again",
    "found exactly the 20 closest",
    "time taken",
];

/// Peers that locate many blocks, one after the other.
const LOCATORS: usize = 5;

/// What locating many blocks at once has come to, on average.
#[derive(Default)]
struct Many {
    regions: f64,
    asked: f64,
    resent: f64,
    exact_percent: f64,
    took: f64,
}

impl Many {
    /// Requests a block and seconds taken at most.
    fn assert_within(&self, [asked, took]: [f64; 2]) {
        assert!(self.exact_percent >= 99.5, "{}", self.exact_percent);
        assert!(self.asked <= asked, "{} requests a block", self.asked);
        assert!(self.took <= took, "{} s", self.took);
    }

    fn column(&self, head: &str) -> Vec<String> {
        vec![
            head.to_string(),
            format!("{:.0}", self.regions),
            format!("{:.2} + {:.2}", self.asked, self.resent),
            format!("{:.1} %", self.exact_percent),
            format!("{:.1} s", self.took),
        ]
    }
}

/// Locates many blocks at once, from random peers, and compares with brute force.
fn locate_many(world: &mut World) -> Many {
    let census = Census::of(world);
    let mut all = Many::default();
    for _ in 0..LOCATORS {
        let one = locate_by_one(world, &census);
        all.regions += one.regions / LOCATORS as f64;
        all.asked += one.asked / LOCATORS as f64;
        all.resent += one.resent / LOCATORS as f64;
        all.exact_percent += one.exact_percent / LOCATORS as f64;
        all.took += one.took / LOCATORS as f64;
    }
    all
}

fn locate_by_one(world: &mut World, census: &Census) -> Many {
    let blocks: Vec<BlockId> = (0..MANY).map(|_| BlockId(world.rng.bytes())).collect();
    let alive: Vec<PeerId> = world.alive().collect();
    let peer = alive[world.rng.below(alive.len() as u64) as usize];
    let own = world.peers[peer].born.addr;
    let (begun, before) = (world.now, world.status(peer, "requests_sent"));
    let locate = world.begin_locate(peer, blocks);
    let is_done = |world: &World| {
        let of_this = world.located.iter().filter(|it| it.locate == locate);
        of_this.map(|it| it.blocks.len()).sum::<usize>() == MANY
    };
    assert!(world.run_until(secs(300), is_done), "all are located");
    let took = world.now.since(begun).as_secs_f64();
    let sent = world.status(peer, "requests_sent") - before;
    let located = std::mem::take(&mut world.located);
    let (mut exact, mut asked) = (0, 0);
    for region in &located {
        asked += region.asked;
        for block in &region.blocks {
            let target = Point::from(*block);
            let mut near = region.contacts.clone();
            near.sort_by_key(|contact| target.distance(&contact.id.into()));
            let truth = census.closest(&target, K + 1).into_iter();
            let truth = truth.map(|id| world.peers[id].born.addr);
            let truth = truth.filter(|addr| *addr != own).take(K);
            exact += usize::from(truth.eq(near.iter().take(K).map(|it| it.addr)));
        }
    }
    let each = |number: usize| number as f64 / MANY as f64;
    Many {
        regions: located.len() as f64,
        asked: each(asked),
        resent: each(sent as usize - asked),
        exact_percent: each(exact) * 100.0,
        took,
    }
}

#[test]
fn thousand_peers_that_joined_find_each_other_and_what_is_held() {
    let mut world = World::of(seed(60), internet(), 1000, private);
    world.run_for(secs(600));
    let mut figures = measure(&mut world);
    let many = locate_many(&mut world);
    let column = figures.column("1,000 that joined");
    let mut half = measure_with_half_dead(&mut world);
    print_table(&ROWS, &[column, half.column("half of them dead")]);
    print_table(&MANY_ROWS, &[many.column("1,000 that joined")]);
    many.assert_within([0.1, 2.0]);
    // A bucket that was filled by a lookup holds contacts close to each other, which costs some hops.
    figures.assert_within([2.2, 25.0, 16.5, 5.5], 1.1);
    half.assert_closest_found();
}

#[test]
#[ignore = "long: make sim"]
fn table_of_networks_of_three_sizes() {
    let (mut columns, mut many, mut half) = (Vec::new(), Vec::new(), Vec::new());
    let mut joins = Vec::new();
    // Means, seconds at p99, contacts asked by a join.
    let limits = [
        (1000, [1.95, 25.0, 16.0, 4.8], 1.0, [40.0, 200.0]),
        (10_000, [2.5, 28.0, 18.0, 7.2], 1.0, [50.0, 300.0]),
        (100_000, [3.0, 31.0, 21.0, 9.5], 1.2, [60.0, 400.0]),
    ];
    // Requests a block and seconds, if many are located together.
    let located = [[0.1, 1.5], [1.0, 8.0], [6.0, 45.0]];
    for ((count, means, p99, join), located) in limits.into_iter().zip(located) {
        let begun = std::time::Instant::now();
        let mut world = World::loaded(seed(61), internet(), count);
        let head = format!("{count} loaded");
        let mut figures = measure(&mut world);
        columns.push(figures.column(&head));
        figures.assert_within(means, p99);
        let of_many = locate_many(&mut world);
        many.push(of_many.column(&head));
        of_many.assert_within(located);
        let joined = measure_joins(&mut world, 10);
        joins.push(joined.column(&format!("among {head}")));
        assert!(joined.lookup <= join[0] && joined.in_all <= join[1]);
        assert!(joined.full_percent >= 98.0);
        let mut dead = measure_with_half_dead(&mut world);
        half.push(dead.column(&head));
        dead.assert_closest_found();
        println!("{head}: {:?}, {}", begun.elapsed(), memory());
    }
    print_table(&ROWS, &columns);
    print_table(&MANY_ROWS, &many);
    print_table(&JOIN_ROWS, &joins);
    println!("with half of all peers dead at once:");
    print_table(&ROWS, &half);
}

#[test]
#[ignore = "long: make sim"]
fn ten_thousand_that_join_and_live_for_an_hour() {
    let begun = std::time::Instant::now();
    let mut world = World::new(seed(62), internet());
    for n in 0..10_000 {
        world.add_peer(serve(private(n), &[private(0)]));
        world.run_for(Duration::from_millis(100));
    }
    assert!(world.run_until(secs(300), |world| world
        .alive()
        .all(|id| world.has_joined(id))));
    println!("10,000 have joined: {:?}, {}", begun.elapsed(), memory());
    Tables::of(&world, world.alive()).print("10,000 that have just joined");
    let idle = measure_idle(&mut world, secs(3600));
    println!("an hour: {:?}, {}", begun.elapsed(), memory());
    let tables = Tables::of(&world, world.alive());
    tables.print("10,000 that joined, after an hour");
    let bytes = world.bytes_per_node();
    println!("{bytes} bytes a node");
    world.run_for(secs(600));
    let mut figures = measure(&mut world);
    let many = locate_many(&mut world);
    let joins = measure_joins(&mut world, 10);
    let column = figures.column("10,000 that joined");
    let mut half = measure_with_half_dead(&mut world);
    print_table(&ROWS, &[column, half.column("half of them dead")]);
    print_table(&MANY_ROWS, &[many.column("10,000 that joined")]);
    print_table(&JOIN_ROWS, &[joins.column("among 10,000 that joined")]);
    println!("{:?}", begun.elapsed());
    assert!(bytes <= 64 << 10 && idle <= 1000.0);
    assert!(tables.full_percent() >= 98.0 && tables.near_percent() >= 99.9);
    many.assert_within([1.2, 10.0]);
    assert!(joins.lookup <= 50.0 && joins.in_all <= 300.0 && joins.full_percent >= 98.0);
    // As among a thousand that joined.
    figures.assert_within([2.9, 28.0, 19.5, 7.9], 1.1);
    half.assert_closest_found();
}

/// Resident memory of this process.
fn memory() -> String {
    let page = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = page.lines().find(|line| line.starts_with("VmRSS"));
    line.unwrap_or("VmRSS unknown").replace('\t', " ")
}
