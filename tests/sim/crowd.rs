//! Thirty real processes, and thirty in virtual time, that live through the same: what one costs the other should cost.

use crate::client::Outcome;
use crate::links::Links;
use crate::network::{blocks_of, private, secs, serve};
use crate::world::{seed, Born, PeerId, World};
use harness::{random_bytes, Lab, Serve};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};
use strew::block::address::Address;
use strew::id::BlockId;
use strew::limits::K;

#[allow(clippy::unwrap_used, dead_code)]
#[path = "../cli/harness.rs"]
mod harness;

const PEERS: usize = 30;
/// Those from here on are killed at once, and start again.
const LIVING: usize = 15;
const FILE_LEN: usize = 64 << 20;
const COPIES: u8 = 16;
const CAPACITY: u64 = 1 << 30;
/// The file comes through a pipe, so many bytes at a time, and so long after each other: how long it takes to share is
/// not up to a machine that runs thirty peers, and others beside them. Where blocks come slowly, fewer questions share
/// a datagram.
const PIECE_LEN: usize = 256 << 10;
const PIECE_EVERY: Duration = Duration::from_micros(31_250);
/// The steps, and how long each takes, whatever is done and however soon: what peers do now and then both crowds do in
/// the same step.
const STEPS: [(&str, Duration); 5] = [
    ("join", secs(3)),
    ("share", secs(12)),
    ("check", secs(2)),
    ("fetch from half", secs(4)),
    ("check of half", secs(6)),
];
/// From one process of a machine to another.
const LOOPBACK: Links = Links {
    latency: (Duration::from_micros(50), Duration::from_millis(2)),
    lost: 0,
    doubled: 0,
    first_cut: None,
};
/// How much more or less one may cost than the other.
const FACTOR: f64 = 1.5;
/// So few requests or blocks are what peers do beside the step at hand.
const FEW: u64 = 300;
/// Bytes that such a request and its answer have, more or less.
const REQUEST_LEN: u64 = 500;
/// How often it is tried, if they differ in something else each time: on a machine that is busy otherwise peers answer
/// late, and are asked again.
const TRIES: u32 = 3;
/// No step takes longer.
const LIMIT: Duration = secs(60);
/// How often copies are counted until all are back.
const CHECKS_MAX: usize = 10;

/// What is counted, from the status page of each peer that lives.
const KEYS: [&str; 6] = [
    "requests_sent",
    "requests_received",
    "udp_bytes_sent",
    "blocks_put",
    "blocks_taken",
    "blocks_given",
];

/// Copies of the block that has the fewest, and of all on average.
type Copies = (usize, f64);

/// Peers, and what can be done with them. Commands are given by a private peer, which knows the first, except that
/// the first shares.
trait Crowd {
    /// All start, the first before the others, and know each other.
    fn join(&mut self);
    fn share(&mut self, data: &[u8]);
    fn fetch(&mut self, data: &[u8]);
    fn check(&mut self) -> Copies;
    /// Those from `LIVING` on end in the middle of what they do.
    fn kill(&mut self);
    /// They start again, where they were, with what was on their disks.
    fn restart(&mut self);
    /// The sum of a value over all who live.
    fn sum(&self, key: &str) -> u64;
    /// Time since the beginning.
    fn elapsed(&self) -> Duration;
    /// Lets time pass until then.
    fn wait(&mut self, until: Duration);
}

/// What a step cost.
struct Step {
    name: &'static str,
    sums: [u64; KEYS.len()],
    took: Duration,
    /// When, since the beginning.
    ended: Duration,
}

impl Step {
    /// Does the next step, and whatever else the peers do until it is over.
    fn take<C: Crowd>(
        crowd: &mut C,
        (name, until): (&'static str, Duration),
        act: impl FnOnce(&mut C),
    ) -> Step {
        let (before, begun) = (KEYS.map(|key| crowd.sum(key)), crowd.elapsed());
        act(crowd);
        let took = crowd.elapsed() - begun;
        crowd.wait(until);
        let after = KEYS.map(|key| crowd.sum(key));
        Step {
            name,
            sums: std::array::from_fn(|nth| after[nth] - before[nth]),
            took,
            ended: crowd.elapsed(),
        }
    }
}

/// Joins, shares, loses half of the peers, and gets them back. The steps with their costs, and the copies when there
/// are all peers, half of them, and all again. A step that took another crowd longer than it should ends no sooner here.
fn live(crowd: &mut impl Crowd, data: &[u8], other: &[Step]) -> (Vec<Step>, [Copies; 3]) {
    let mut copies = [(0, 0.0); 3];
    let mut end = Duration::ZERO;
    let mut steps = STEPS.iter().enumerate().map(|(nth, &(name, lasts))| {
        let other = other.get(nth).map_or(Duration::ZERO, |step| step.ended);
        end = other.max(end + lasts);
        (name, end)
    });
    let mut next = || steps.next().expect("there are as many");
    let mut steps = vec![
        Step::take(crowd, next(), |crowd| crowd.join()),
        Step::take(crowd, next(), |crowd| crowd.share(data)),
        Step::take(crowd, next(), |crowd| copies[0] = crowd.check()),
    ];
    crowd.kill();
    steps.extend([
        Step::take(crowd, next(), |crowd| crowd.fetch(data)),
        Step::take(crowd, next(), |crowd| copies[1] = crowd.check()),
    ]);
    crowd.restart();
    for _ in 0..CHECKS_MAX {
        copies[2] = crowd.check();
        if copies[2].0 >= copies[0].0 {
            break;
        }
    }
    (steps, copies)
}

/// Processes on the loopback.
struct Real {
    lab: Lab,
    peers: Vec<Serve>,
    addrs: Vec<String>,
    begun: Instant,
    address: String,
}

impl Real {
    fn new() -> Real {
        Real {
            lab: Lab::new(),
            peers: Vec::new(),
            addrs: Vec::new(),
            begun: Instant::now(),
            address: String::new(),
        }
    }

    fn start(&mut self, nth: usize, listen: &str) {
        let capacity = CAPACITY.to_string();
        let mut args = vec!["--capacity", &capacity];
        let first = self.peers.first().map(Serve::addr);
        args.extend(first.iter().flat_map(|first| ["-p", first]));
        self.peers
            .push(self.lab.serve_at(&format!("peer{nth}"), listen, &args));
    }

    fn await_joined(&self) {
        self.peers
            .iter()
            .for_each(|peer| self.lab.await_joined(peer, K + 1));
    }

    /// The output of a command that a private peer carries out.
    fn visit(&self, command: &str, args: &[&str]) -> String {
        let run = self
            .lab
            .strew([command, "-d", "visitor", "-p", &self.addrs[0]]);
        run.args(args).arg(&self.address).limit(LIMIT).run().text()
    }
}

impl Crowd for Real {
    fn join(&mut self) {
        for nth in 0..PEERS {
            self.start(nth, "127.0.0.1:0");
        }
        self.addrs = self.peers.iter().map(Serve::addr).collect();
        self.await_joined();
    }

    fn share(&mut self, data: &[u8]) {
        let copies = COPIES.to_string();
        let share = ["share", "--copies", &copies, "--min-copies", &copies, "-d"];
        let mut run = self.lab.strew(share).arg(&self.peers[0].dir);
        let (theirs, mut ours) = std::io::pipe().expect("a pipe");
        run.command.stdin(theirs);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for (nth, piece) in (0..).zip(data.chunks(PIECE_LEN)) {
                    std::thread::sleep((PIECE_EVERY * nth).saturating_sub(begun.elapsed()));
                    ours.write_all(piece).expect("it reads");
                }
            });
            self.address = run.limit(LIMIT).run().text();
        });
    }

    fn fetch(&mut self, data: &[u8]) {
        self.visit("fetch", &["-o", "out"]);
        let fetched = std::fs::read(self.lab.path("out")).expect("it is there");
        assert!(fetched == data, "it is another file");
    }

    fn check(&mut self) -> Copies {
        let text = self.visit("check", &["--json"]);
        let field = |name: &str| -> f64 {
            let (_, rest) = text.split_once(&format!("\"{name}\":")).expect(name);
            let end = rest.find([',', '}']).expect("it goes on");
            rest[..end].parse().expect("a number")
        };
        (field("min_copies") as usize, field("mean_copies"))
    }

    fn kill(&mut self) {
        self.peers.drain(LIVING..).for_each(Serve::kill);
    }

    fn restart(&mut self) {
        for nth in LIVING..PEERS {
            self.start(nth, &self.addrs[nth].clone());
        }
        self.await_joined();
    }

    fn sum(&self, key: &str) -> u64 {
        self.lab.sum(&self.peers, key)
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn wait(&mut self, until: Duration) {
        std::thread::sleep(until.saturating_sub(self.elapsed()));
    }
}

/// Nodes in a world of their own.
struct Virtual {
    world: World,
    begun: strew::time::Instant,
    address: Option<Address>,
    blocks: Vec<BlockId>,
}

impl Virtual {
    fn new() -> Virtual {
        let world = World::new(seed(130), LOOPBACK);
        Virtual {
            begun: world.now,
            world,
            address: None,
            blocks: Vec::new(),
        }
    }

    fn await_joined(&mut self) {
        let joined = |world: &World| world.alive().all(|id| world.has_joined(id));
        assert!(self.world.run_until(LIMIT, joined));
    }

    /// Has a private peer do something, which ends with it.
    fn visit<T>(&mut self, act: impl FnOnce(&mut World, PeerId) -> T) -> T {
        let visitor = self.world.visitor(private(0));
        let result = act(&mut self.world, visitor);
        self.world.kill(visitor, true);
        result
    }
}

impl Crowd for Virtual {
    fn join(&mut self) {
        for nth in 0..PEERS {
            let born = serve(private(nth), &[private(0)]);
            self.world.add_peer(Born {
                capacity: CAPACITY,
                ..born
            });
            self.world.run_for(Duration::from_millis(10));
        }
        self.await_joined();
    }

    fn share(&mut self, data: &[u8]) {
        let client = self.world.begin_pipe(0, COPIES);
        for piece in data.chunks(PIECE_LEN) {
            self.world.feed(client, piece, true);
            self.world.run_for(PIECE_EVERY);
        }
        self.world.feed(client, &[], false);
        let (outcome, _) = self.world.finish(client, LIMIT);
        let Outcome::Shared(address, settled) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(settled.least >= COPIES, "{settled:?}");
        self.address = Some(address);
        self.blocks = blocks_of(data).1.iter().map(|block| block.id()).collect();
        self.blocks.sort_unstable();
    }

    fn fetch(&mut self, data: &[u8]) {
        let address = self.address.expect("it was shared");
        let outcome = self.visit(|world, visitor| world.fetch(visitor, address, LIMIT));
        assert!(
            outcome == Outcome::Fetched(data.to_vec()),
            "it is another file"
        );
    }

    fn check(&mut self) -> Copies {
        let blocks = self.blocks.clone();
        let root = self.address.expect("it was shared").id;
        let outcome = self.visit(|world, visitor| {
            let client = world.begin_count(visitor, root, &blocks);
            world.finish(client, LIMIT).0
        });
        let Outcome::Counted(counted) = outcome else {
            panic!("{outcome:?}");
        };
        let copies = counted.iter().map(|it| usize::from(it.copies));
        let least = copies.clone().min().expect("there are blocks");
        (least, copies.sum::<usize>() as f64 / counted.len() as f64)
    }

    fn kill(&mut self) {
        (LIVING..PEERS).for_each(|id| self.world.crash(id, true, true));
    }

    fn restart(&mut self) {
        (LIVING..PEERS).for_each(|id| self.world.revive(id));
        self.await_joined();
    }

    fn sum(&self, key: &str) -> u64 {
        let peers = (0..PEERS).filter(|&id| self.world.peers.get(id).is_some_and(|it| it.is_up()));
        peers.map(|id| self.world.status(id, key)).sum()
    }

    fn elapsed(&self) -> Duration {
        self.world.now.since(self.begun)
    }

    fn wait(&mut self, until: Duration) {
        self.world.run_for(until.saturating_sub(self.elapsed()));
    }
}

#[test]
#[ignore = "thirty processes: make crowd"]
fn thirty_processes_cost_what_thirty_simulated_ones_cost() {
    let data = random_bytes(FILE_LEN, 131);
    let mut before = BTreeSet::new();
    for nth in 1..=TRIES {
        println!("try {nth} of {TRIES}");
        let apart = compare(&data);
        if apart.is_empty() {
            return;
        }
        println!("real and simulated are apart: {apart:?}");
        for key in apart {
            assert!(before.insert(key), "twice apart in {key:?}");
        }
    }
    panic!("apart {TRIES} times");
}

/// In what of which step the two differ by more than they may.
fn compare(data: &[u8]) -> Vec<(&'static str, &'static str)> {
    let (real, real_copies) = live(&mut Real::new(), data, &[]);
    let (simulated, copies) = live(&mut Virtual::new(), data, &real);
    println!("copies of the least and of all, with all, half, and all again:");
    println!("  real {real_copies:?}, simulated {copies:?}");
    let mut apart = Vec::new();
    for (real, simulated) in real.iter().zip(&simulated) {
        println!(
            "{}: {:?}, simulated {:?}",
            real.name, real.took, simulated.took
        );
        for ((key, one), other) in KEYS.iter().zip(real.sums).zip(simulated.sums) {
            let ratio = one as f64 / other as f64;
            println!("  {key}: {one}, simulated {other}, {ratio:.2}");
            let few = if key.ends_with("bytes_sent") {
                FEW * REQUEST_LEN
            } else {
                FEW
            };
            if one.max(other) >= few && !(1.0 / FACTOR..=FACTOR).contains(&ratio) {
                apart.push((real.name, *key));
            }
        }
    }
    for (real, simulated) in real_copies.iter().zip(copies) {
        let ratio = real.1 / simulated.1;
        assert!(
            (1.0 / FACTOR..=FACTOR).contains(&ratio),
            "{real:?} {simulated:?}"
        );
    }
    for copies in [copies, real_copies] {
        let [all, half, again] = copies.map(|it| it.0);
        assert!(
            all >= COPIES.into() && half >= 1 && again >= COPIES.into(),
            "{copies:?}"
        );
    }
    apart
}
