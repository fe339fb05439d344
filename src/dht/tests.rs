//! The machine in a small made-up network: a heap of datagrams, a virtual clock, loss.
#![allow(clippy::unwrap_used)]

mod announced;

use super::*;
use crate::id::Point;
use crate::wire::contact::Age;
use crate::wire::datagram::{Bitmap, Kind, Token, HEADER_SIZE};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

enum Parcel {
    Datagram(SocketAddr, Vec<u8>),
    Nonce(NodeId, SocketAddr, u64),
}

/// Nodes at 127.0.0.1, node `n` on port `1000 + n`.
struct Net {
    now: Instant,
    nodes: Vec<Dht>,
    dead: BTreeSet<usize>,
    held: Vec<BTreeSet<BlockId>>,
    heap: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    parcels: BTreeMap<usize, Parcel>,
    sent: usize,
    events: Vec<(usize, Event)>,
    rng: Rng,
    /// Of a hundred datagrams.
    loss: u64,
}

fn addr(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + n as u16))
}

fn nth(addr: &SocketAddr) -> usize {
    usize::from(addr.port()) - 1000
}

impl Net {
    fn new(loss: u64) -> Net {
        Net {
            now: Instant::since_epoch(Duration::from_secs(1_000_000)),
            nodes: Vec::new(),
            dead: BTreeSet::new(),
            held: Vec::new(),
            heap: BinaryHeap::new(),
            parcels: BTreeMap::new(),
            sent: 0,
            events: Vec::new(),
            rng: Rng::new([loss as u8; 32]),
            loss,
        }
    }

    fn add(&mut self, serve: bool, seed: Option<usize>) -> usize {
        self.add_again(serve, seed, Vec::new())
    }

    /// Adds a node that has the contacts of an earlier run.
    fn add_again(&mut self, serve: bool, seed: Option<usize>, saved: Vec<Contact>) -> usize {
        let config = Config {
            serve,
            ipv4: true,
            ipv6: true,
        };
        let (key, rng) = (NodeKey(self.rng.bytes()), Rng::new(self.rng.bytes()));
        let mut node = Dht::new(self.now, key, config, rng);
        if let Some(seed) = seed {
            node.add_seed(self.now, addr(seed));
        }
        node.load_contacts(self.now, saved);
        node.handle_timeout(self.now);
        self.nodes.push(node);
        self.held.push(BTreeSet::new());
        self.drain(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn post(&mut self, to: SocketAddr, parcel: Parcel) {
        let latency = Duration::from_micros(500 + self.rng.below(2000));
        if nth(&to) < self.nodes.len() {
            self.parcels.insert(self.sent, parcel);
            let at = self.now + latency;
            self.heap.push(Reverse((at, self.sent, nth(&to))));
            self.sent += 1;
        }
    }

    fn drain(&mut self, n: usize) {
        while let Some((to, payload)) = self.nodes[n].poll_transmit() {
            assert!(payload.len() <= DATAGRAM_SIZE_MAX);
            if self.rng.below(100) >= self.loss {
                self.post(to, Parcel::Datagram(addr(n), payload));
            }
        }
        while let Some(event) = self.nodes[n].poll_event() {
            if let Event::DialBack { to, nonce } = event {
                self.post(to, Parcel::Nonce(self.nodes[n].id(), addr(n), nonce));
            }
            self.events.push((n, event));
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let alive = (0..self.nodes.len()).filter(|n| !self.dead.contains(n));
            let timer = alive
                .filter_map(|n| Some((self.nodes[n].next_timeout()?, n)))
                .min();
            let arrival = self.heap.peek().map(|Reverse((at, ..))| *at);
            let timer_at = timer.map(|(at, _)| at);
            let next = [timer_at, arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let n = if arrival == Some(next) {
                let Reverse((_, sent, n)) = self.heap.pop().unwrap();
                let parcel = self.parcels.remove(&sent).unwrap();
                if self.dead.contains(&n) {
                    continue;
                }
                let held = &self.held[n];
                match parcel {
                    Parcel::Datagram(from, payload) => {
                        let has = |block: &BlockId| held.contains(block);
                        self.nodes[n].handle_datagram(self.now, from, &payload, &has);
                    }
                    Parcel::Nonce(id, from, nonce) => {
                        self.nodes[n].handle_dialed_back(self.now, id, from, nonce);
                    }
                }
                n
            } else {
                let (_, n) = timer.unwrap();
                self.nodes[n].handle_timeout(self.now);
                n
            };
            self.drain(n);
        }
        self.now = end;
    }

    fn of(count: usize, loss: u64) -> Net {
        let mut net = Net::new(loss);
        net.add(true, None);
        for _ in 1..count {
            net.add(true, Some(0));
        }
        net.run(Duration::from_secs(300));
        net
    }

    fn sorted(&self, target: &Point, but: usize) -> Vec<NodeId> {
        let alive = (0..self.nodes.len()).filter(|n| *n != but && !self.dead.contains(n));
        let mut ids: Vec<NodeId> = alive.map(|n| self.nodes[n].id()).collect();
        ids.sort_by_key(|id| target.distance(&(*id).into()));
        ids.truncate(K);
        ids
    }

    fn closest(&mut self, n: usize, target: Point) -> Vec<NodeId> {
        let id = self.nodes[n].find_closest(self.now, target);
        self.drain(n);
        self.run(Duration::from_secs(40));
        let found = self.events.iter().find_map(|(_, event)| match event {
            Event::Closest {
                lookup, contacts, ..
            } if *lookup == id => Some(contacts.iter().map(|c| c.id).collect()),
            _ => None,
        });
        self.events.clear();
        found.expect("the lookup ends")
    }

    fn holders(&mut self, n: usize, block: BlockId) -> (usize, usize) {
        self.events.clear();
        let id = self.nodes[n].find_holders(self.now, block, BTreeSet::new());
        self.drain(n);
        self.run(Duration::from_secs(40));
        let is_holder = |(_, event): &&(usize, Event)| matches!(event, Event::Holder { .. });
        let holders = self.events.iter().filter(is_holder).count();
        let done = self.events.iter().find_map(|(_, event)| match event {
            Event::HoldersDone {
                lookup, answered, ..
            } if *lookup == id => Some(*answered),
            _ => None,
        });
        (holders, done.expect("the lookup ends"))
    }
}

#[test]
fn everybody_joins_and_finds_the_closest_despite_loss() {
    for loss in [0, 5] {
        let mut net = Net::of(60, loss);
        for node in &net.nodes {
            assert!(node.has_joined() && !node.is_client_mode());
            assert!(node.contact_count() >= K);
        }
        for round in 0..20 {
            let target = Point(net.rng.bytes());
            let found = net.closest(round, target);
            if loss == 0 {
                assert_eq!(found, net.sorted(&target, round));
            } else {
                assert_eq!(found.len(), K);
            }
        }
    }
}

#[test]
fn closest_live_are_found_when_half_are_dead() {
    let mut net = Net::of(60, 0);
    net.dead.extend((0..60).filter(|n| n % 2 == 1));
    for round in 0..10 {
        // The farther of the 20 may be hidden behind dead ones in every reply, until those are forgotten.
        let target = Point(net.rng.bytes());
        let (found, all) = (
            net.closest(round * 2, target),
            net.sorted(&target, round * 2),
        );
        assert_eq!(found[..8], all[..8]);
    }
    net.run(Duration::from_secs(1800));
    let dead: BTreeSet<NodeId> = net.dead.iter().map(|&n| net.nodes[n].id()).collect();
    for n in (0..60).filter(|n| n % 2 == 0) {
        let contacts = net.nodes[n].contacts(net.now);
        assert!(
            contacts.iter().all(|c| !dead.contains(&c.id)),
            "the dead leave"
        );
        assert!(contacts.len() >= K, "and spares take their places");
        let own = Point::from(net.nodes[n].id());
        let distance = |contact: &Contact| Point::from(contact.id).distance(&own);
        assert!(contacts.is_sorted_by_key(distance), "the closest first");
    }
    for round in 0..10 {
        let target = Point(net.rng.bytes());
        assert_eq!(
            net.closest(round * 2, target),
            net.sorted(&target, round * 2)
        );
    }
}

#[test]
fn holders_are_found_and_absence_is_concluded() {
    let mut net = Net::of(60, 0);
    let block = BlockId(net.rng.bytes());
    let (holders, answered) = net.holders(5, block);
    assert_eq!((holders, answered >= K), (0, true));
    let near = net.sorted(&block.into(), 5);
    for n in 0..60 {
        if near[..8].contains(&net.nodes[n].id()) {
            net.held[n].insert(block);
        }
    }
    assert!(net.holders(5, block).0 >= 1);
}

#[test]
fn private_peer_joins_through_a_lone_serve_within_moments() {
    for other_serves in [false, true] {
        let mut net = Net::new(0);
        let lone = net.add(true, None);
        net.run(Duration::from_secs(10));
        assert!(net.nodes[lone].is_client_mode() && net.nodes[lone].has_joined());
        let other = net.add(other_serves, Some(lone));
        net.run(Duration::from_millis(45));
        assert!(!net.nodes[lone].is_client_mode());
        assert_eq!(net.nodes[other].is_client_mode(), !other_serves);
        assert_eq!(net.nodes[other].contact_count(), 1);
        let joined = Event::Joined { contacts: 1 };
        assert!(net.events.contains(&(other, joined)));
        assert_eq!(net.nodes[lone].contact_count(), usize::from(other_serves));
    }
}

#[test]
fn lookup_that_waits_starts_when_another_is_cancelled() {
    let mut net = Net::of(30, 0);
    net.dead.extend(1..30);
    let now = net.now;
    let node = &mut net.nodes[0];
    let points = |n: u8| Point([n; 32]);
    let running: Vec<LookupId> = (0..LOOKUPS_MAX as u8)
        .map(|n| node.find_closest(now, points(n)))
        .collect();
    let waiting = node.find_closest(now, points(99));
    assert!(!node.lookups[&waiting].started);
    node.cancel(now, running[3]);
    assert!(node.lookups[&waiting].started);
    let next = node.find_closest(now, points(100));
    node.cancel(now, next);
    node.cancel(now, next);
    assert_eq!((node.running, node.waiting.len()), (LOOKUPS_MAX, 0));
}

#[test]
fn requests_of_a_cancelled_lookup_make_room_for_those_that_are_held() {
    let mut net = Net::of(60, 0);
    net.dead.extend(1..60);
    let now = net.now;
    let node = &mut net.nodes[0];
    let lookups: Vec<LookupId> = (0..LOOKUPS_MAX as u8)
        .map(|n| node.find_closest(now, Point([n; 32])))
        .collect();
    // Regions are enumerated beside them.
    node.locate(now, (0..200).map(|n| BlockId([n; 32])));
    assert!(node.held && node.fresh == REQUESTS_MAX);
    let sent = node.statistics.requests_sent;
    node.cancel(now, lookups[0]);
    assert_eq!(node.statistics.requests_sent, sent + ALPHA as u64);
    assert_eq!(node.fresh, REQUESTS_MAX);
}

#[test]
fn dead_contact_never_measured_holds_up_the_end_of_a_lookup_for_a_second_or_two() {
    let mut net = Net::of(30, 0);
    net.dead.insert(7);
    // A newcomer has measured nobody; the others name the dead one to it.
    let newcomer = net.add(false, Some(0));
    let began = net.now;
    let target = Point::from(net.nodes[7].id());
    let lookup = net.nodes[newcomer].find_closest(net.now, target);
    let ended = |net: &Net| {
        let mut events = net.events.iter();
        events.any(|(_, event)| matches!(event, Event::Closest { lookup: l, .. } if *l == lookup))
    };
    while !ended(&net) {
        net.run(Duration::from_millis(10));
        assert!(net.now.since(began) < Duration::from_secs(10));
    }
    let took = net.now.since(began);
    println!("a lookup with one dead contact, never measured: {took:?}");
    assert!(
        took >= Duration::from_millis(1000),
        "it is given its chances"
    );
    assert!(took < Duration::from_millis(2200), "{took:?}");
}

#[test]
fn node_that_starts_again_joins_through_any_saved_contact_that_lives() {
    let mut net = Net::of(30, 0);
    let dead = |n: usize| Contact::new(NodeKey([n as u8; 32]), addr(500 + n), Age(0));
    let mut saved: Vec<Contact> = (0..SAVED_AT_ONCE * 2 + 5).map(dead).collect();
    saved.push(Contact::new(net.nodes[3].key(), addr(3), Age(0)));
    let again = net.add_again(true, None, saved);
    let sent = net.nodes[again].statistics().requests_sent;
    assert_eq!(sent, SAVED_AT_ONCE as u64, "not all at once");
    let joined = |net: &Net| {
        let mut events = net.events.iter();
        events.any(|(n, event)| *n == again && matches!(event, Event::Joined { .. }))
    };
    net.run(SAVED_PAUSE);
    assert!(!joined(&net));
    net.run(SAVED_PAUSE + Duration::from_millis(100));
    assert!(joined(&net), "the dead hold up nobody");
    net.run(Duration::from_secs(10));
    assert!(net.nodes[again].contact_count() >= K);
    assert_eq!(
        net.nodes[again].join.seed_addresses().count(),
        0,
        "each is tried until it has failed or answered"
    );
}

#[test]
fn node_whose_saved_contacts_are_all_dead_says_so_and_asks_them_no_more() {
    let mut net = Net::new(0);
    let dead = |n: usize| Contact::new(NodeKey([n as u8; 32]), addr(500 + n), Age(0));
    let node = net.add_again(true, None, (0..15).map(dead).collect());
    net.run(JOIN_TIMEOUT);
    assert_eq!(net.events, [(node, Event::JoinFailed)]);
    let sent = net.nodes[node].statistics().requests_sent;
    assert_eq!(sent, 15 * u64::from(REQUEST_ATTEMPTS));
    net.run(Duration::from_secs(600));
    assert_eq!(net.nodes[node].statistics().requests_sent, sent);
}

#[test]
fn request_that_is_short_for_a_stale_token_is_answered_shortly_and_asked_again() {
    let mut net = Net::of(40, 0);
    let target = Point([5; 32]);
    net.closest(0, target);
    // As if all it has asked had started anew: the tokens that it has of them are worth nothing.
    for (n, node) in net.nodes.iter_mut().enumerate().skip(1) {
        node.tokens = Tokens::new([n as u8; 32]);
    }
    let now = net.now;
    net.nodes[0].find_closest(now, target);
    let (to, request) = net.nodes[0].poll_transmit().unwrap();
    assert_eq!(request.len(), HEADER_SIZE + 32, "not padded, for the token");
    let answer = |net: &mut Net, request: &[u8]| {
        let node = &mut net.nodes[nth(&to)];
        node.handle_datagram(now, addr(0), request, &|_| false);
        node.poll_transmit().unwrap().1
    };
    let short = answer(&mut net, &request);
    assert!(short.len() <= request.len());
    let asked = |node: &mut Dht| {
        let transmits = std::iter::from_fn(|| node.poll_transmit());
        let mut again = transmits.filter(|(other, _)| *other == to);
        again.next().map(|(_, payload)| payload)
    };
    while asked(&mut net.nodes[0]).is_some() {}
    net.nodes[0].handle_datagram(now, to, &short, &|_| false);
    let again = asked(&mut net.nodes[0]).expect("with the new token");
    assert_eq!(again.len(), request.len());
    assert_ne!(again[5..13], request[5..13], "another transaction");
    let whole = answer(&mut net, &again);
    assert_eq!(whole.len(), HEADER_SIZE + 2 + K * 39);
    // A lookup loses nothing by it.
    assert_eq!(net.closest(0, target), net.sorted(&target, 0));
}

#[test]
fn nobody_alone_makes_up_all_the_addresses_at_which_a_contact_is_tried() {
    let mut net = Net::of(2, 0);
    let key = net.nodes[1].key();
    let node = &mut net.nodes[0];
    node.find_closest(net.now, Point([5; 32]));
    let (to, request) = node.poll_transmit().unwrap();
    let Start::Ours(mut header) = Header::decode(&mut Reader::new(&request)).unwrap() else {
        panic!("a node speaks its own version");
    };
    header.key = key;
    let made_up = (500..520).map(|n| Contact::new(NodeKey([9; 32]), addr(n), Age(0)));
    let reply = Reply::FindNode(made_up.collect()).encode(header, DATAGRAM_SIZE_MAX);
    node.handle_datagram(net.now, to, &reply, &|_| false);
    let mut tried = BTreeSet::new();
    for _ in 0..100 {
        net.now = net.now + Duration::from_millis(100);
        node.handle_timeout(net.now);
        while let Some((to, _)) = node.poll_transmit() {
            tried.extend((nth(&to) >= 500).then_some(to));
        }
    }
    assert_eq!(tried, BTreeSet::from([addr(500)]));
}

#[test]
fn lookup_of_a_lonely_node_ends_at_once_with_nobody() {
    let mut net = Net::new(0);
    let one = net.add(false, None);
    assert_eq!(net.events, [(one, Event::JoinFailed)]);
    assert_eq!(net.closest(one, Point([1; 32])), []);
}

#[test]
fn seed_that_comes_late_is_found() {
    let mut net = Net::new(0);
    let early = net.add(false, Some(1));
    net.run(Duration::from_secs(20));
    assert!(net.events.contains(&(early, Event::JoinFailed)));
    net.add(true, None);
    net.run(Duration::from_secs(90));
    assert_eq!(net.nodes[early].contact_count(), 1);
    assert!(net.events.contains(&(early, Event::Joined { contacts: 1 })));
}

#[test]
fn contact_counts_blocks_or_stays_silent() {
    let mut net = Net::of(2, 0);
    let contact = net.nodes[0].contacts(net.now)[0];
    net.held[1].insert(BlockId([2; 32]));
    let blocks = [BlockId([1; 32]), BlockId([2; 32])];
    for expected in [Some(Bitmap(1 << 30)), None] {
        let query = net.nodes[0].query(net.now, contact, Request::Have(blocks.to_vec()));
        net.drain(0);
        net.run(Duration::from_secs(20));
        let reply = net.events.iter().find_map(|(_, event)| match event {
            Event::Answered {
                query: q,
                reply,
                contact: of,
            } if *q == query => {
                assert_eq!(*of, contact.id);
                Some(reply.clone())
            }
            _ => None,
        });
        let expected = expected.map(|bitmap| Reply::Have(bitmap, vec![], vec![]));
        assert_eq!(reply, Some(expected));
        net.dead.insert(1);
    }
}

#[test]
fn other_version_is_answered_and_reported_once() {
    let mut net = Net::new(0);
    let node = net.add(true, None);
    let other = net.add(false, Some(node));
    let (seed, mut payload) = {
        let mut all = std::mem::take(&mut net.parcels).into_values();
        match all.next().unwrap() {
            Parcel::Datagram(from, payload) => (from, payload),
            Parcel::Nonce(..) => panic!("a datagram"),
        }
    };
    payload[2] = 9;
    net.nodes[node].handle_datagram(net.now, seed, &payload, &|_| false);
    let (to, mut answer) = net.nodes[node].poll_transmit().unwrap();
    assert_eq!((to, answer.len() <= payload.len()), (seed, true));
    answer[2] = 9;
    for _ in 0..2 {
        net.nodes[other].handle_datagram(net.now, addr(node), &answer, &|_| false);
    }
    let event = net.nodes[other].poll_event();
    let version = 9;
    assert_eq!(
        event,
        Some(Event::OtherVersion {
            addr: addr(node),
            version
        })
    );
    assert_ne!(
        net.nodes[other].poll_event(),
        Some(Event::OtherVersion {
            addr: addr(node),
            version
        })
    );
}

#[test]
fn no_stranger_gets_more_than_it_sent_and_floods_stay_within_limits() {
    let mut net = Net::of(30, 0);
    let mut rng = Rng::new([9; 32]);
    let now = net.now;
    let node = &mut net.nodes[3];
    let known = node.contact_count();
    let header = |rng: &mut Rng| Header {
        kind: Kind::Ping,
        direction: Direction::Request,
        client_mode: rng.below(2) == 0,
        families: Families {
            ipv4: true,
            ipv6: true,
        },
        shortened: false,
        transaction: rng.next_u64(),
        key: NodeKey(rng.bytes()),
        token: Token(rng.bytes()),
    };
    for round in 0..3000u32 {
        let from = SocketAddr::from((rng.bytes::<4>(), 9));
        let request = match round % 5 {
            0 => Request::Ping,
            4 => Request::Provide(BlockId(rng.bytes())),
            1 => Request::FindNode(Point(rng.bytes())),
            2 => Request::Have(vec![BlockId(rng.bytes()); 1 + round as usize % HAVE_MAX]),
            _ => Request::DialBack(7),
        };
        let whole = request.encode(header(&mut rng), round % 8 < 4);
        let cuts = if round < 8 {
            0..whole.len() + 1
        } else {
            whole.len()..whole.len() + 1
        };
        for cut in cuts {
            let mut bytes = whole[..cut].to_vec();
            if round % 5 == 4 && !bytes.is_empty() {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= rng.bytes::<1>()[0];
            }
            node.handle_datagram(now, from, &bytes, &|_| true);
            while let Some((to, payload)) = node.poll_transmit() {
                let asks = payload[3] & 0x80 == 0;
                assert!(asks || (to == normalise(from) && payload.len() <= bytes.len()));
            }
            while let Some(event) = node.poll_event() {
                assert!(!matches!(event, Event::DialBack { .. }), "nobody is proved");
            }
        }
    }
    assert_eq!(node.contact_count(), known);
    assert_eq!(node.announcement_count(), 0, "nobody is proved");
    assert!(node.outstanding.len() <= PROBES_MAX + REQUESTS_MAX);
    assert!(node.reach.requesters.len() <= REQUESTERS_MAX);
}
