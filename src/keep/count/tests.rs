//! Counting with a made-up network: the tests say what lookups find, and what contacts answer.

use super::*;
use crate::block::{Block, Form, Kind, Role};
use crate::dht::{self, Dht};
use crate::id::NodeKey;
use crate::rng::Rng;
use crate::store::{MemoryStore, Store, Terms};
use crate::transfer::{Origin, Transfer};
use crate::wire::contact::Age;
use crate::wire::frame::{FrameDecoder, Hello, PeerRole};
use std::io::IoSlice;
use std::net::SocketAddr;

struct World {
    now: Instant,
    counts: Counts,
    dht: Dht,
    transfer: Transfer,
    store: MemoryStore,
    decoders: BTreeMap<ConnId, FrameDecoder>,
}

fn contact(n: u8) -> Contact {
    let addr = SocketAddr::from(([127, 0, 0, n], 7873));
    Contact::new(NodeKey([n; 32]), addr, Age(0))
}

fn contacts(numbers: std::ops::Range<u8>) -> Vec<Contact> {
    numbers.map(contact).collect()
}

fn block(n: usize) -> BlockId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    BlockId(id)
}

fn hello(role: PeerRole) -> Hello {
    Hello {
        key: NodeKey([0; 32]),
        port: 0,
        role,
    }
}

impl World {
    /// A node whose lookups never end but by the test.
    fn new() -> World {
        let now = Instant::since_epoch(Duration::from_secs(1_800_000_000));
        let config = dht::Config {
            serve: true,
            ipv4: true,
            ipv6: true,
        };
        World {
            now,
            counts: Counts::default(),
            dht: Dht::new(now, NodeKey([0; 32]), config, Rng::new([7; 32])),
            transfer: Transfer::new(hello(PeerRole::Peer)),
            store: MemoryStore::new(1 << 30),
            decoders: BTreeMap::new(),
        }
    }

    fn with<T>(&mut self, what: impl FnOnce(&mut Counts, &mut Tools<'_>) -> T) -> T {
        let mut tools = Tools {
            now: self.now,
            dht: &mut self.dht,
            transfer: &mut self.transfer,
            store: &mut self.store,
        };
        what(&mut self.counts, &mut tools)
    }

    fn client(&mut self) -> ConnId {
        let client = self.transfer.accept(self.now, Origin::Local);
        let mut bytes = Vec::new();
        Frame::Hello(hello(PeerRole::Client)).encode(&mut bytes);
        self.transfer.handle_received(self.now, client, &bytes);
        self.decoders.insert(client, FrameDecoder::new(true));
        client
    }

    /// What a client has been told and not read; sorted, as the order means nothing.
    fn told(&mut self, client: ConnId) -> Vec<(BlockId, u8, u8, bool)> {
        let mut told = Vec::new();
        let decoder = self.decoders.get_mut(&client).expect("it is known");
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = self.transfer.egress(&self.store, client, &mut slices);
            let used = &slices[..used.expect("nothing is lost")];
            let bytes: Vec<u8> = used.iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                told.sort();
                return told;
            }
            self.transfer.consume(self.now, client, bytes.len());
            let mut rest = &bytes[..];
            while let Some(frame) = decoder.take(&mut rest).expect("no nonsense") {
                if let Frame::Counted(counted) = frame {
                    let counted = counted.iter();
                    told.extend(counted.map(|it| (it.id, it.copies, it.answered, it.own)));
                }
            }
        }
    }

    fn count(&mut self, client: ConnId, blocks: impl IntoIterator<Item = usize>) {
        let blocks = blocks.into_iter().map(block).collect();
        self.count_of(client, blocks, &[]);
    }

    /// Counts blocks of a file that these have announced.
    fn count_of(&mut self, client: ConnId, blocks: Vec<BlockId>, providers: &[Contact]) {
        self.with(|counts, tools| {
            counts.count(tools, client, ROOT, blocks);
            let known = counts.known.get(&client);
            let Some(lookup) = known.and_then(|known| known.lookup) else {
                return;
            };
            for contact in providers {
                counts.handle_provider(lookup, *contact);
                counts.handle_provider(lookup, *contact);
            }
            assert!(counts.handle_holders_done(tools, lookup));
            assert!(!counts.handle_holders_done(tools, lookup));
        });
    }

    /// The first block that is being located is found to be where these contacts are.
    fn finds(&mut self, found: &[Contact]) {
        let first = self.counts.locating.locates.first_key_value();
        let (&locate, blocks) = first.expect("something is being located");
        let located = Located {
            locate,
            blocks: vec![blocks[0].0],
            contacts: found.to_vec(),
            asked: 0,
        };
        self.with(|counts, tools| {
            assert!(counts.handle_located(tools, &located));
        });
    }

    /// The block that is looked up alone has these around it.
    fn finds_alone(&mut self, found: &[Contact]) {
        let lookup = self.counts.locating.lookups.keys().next();
        let lookup = *lookup.expect("a lookup is under way");
        self.with(|counts, tools| {
            assert!(counts.handle_closest(tools, lookup, found));
        });
    }

    /// Blocks in each question on its way.
    fn asked(&self) -> Vec<usize> {
        let asked = self.counts.asking.asked.values();
        asked.map(|(_, blocks)| blocks.len()).collect()
    }

    /// Everybody answers what has been asked so far: all blocks are there, or nothing is said.
    fn answer(&mut self, bitmap: Option<Bitmap>) {
        let asked: Vec<QueryId> = self.counts.asking.asked.keys().copied().collect();
        for count in asked {
            self.with(|counts, tools| counts.handle_counted(tools, count, bitmap));
        }
    }
}

const ROOT: BlockId = BlockId([0xee; 32]);
const ALL: Option<Bitmap> = Some(Bitmap(u32::MAX));
const NONE: Option<Bitmap> = Some(Bitmap(0));

#[test]
fn each_of_the_neighbourhood_counts_by_what_it_says() {
    let mut world = World::new();
    let client = world.client();
    world.count(client, [1]);
    world.finds(&contacts(1..21));
    assert_eq!(world.asked(), [1; 20]);
    let asked: Vec<QueryId> = world.counts.asking.asked.keys().copied().collect();
    for (index, count) in asked.into_iter().enumerate() {
        assert_eq!(world.told(client), []);
        let bitmap = [ALL, NONE, None][index.min(12) / 6];
        world.with(|counts, tools| counts.handle_counted(tools, count, bitmap));
    }
    // Some did not answer: the closest that live are looked up, and those of them asked that have not been.
    assert_eq!(world.told(client), []);
    world.finds_alone(&contacts(5..25));
    assert_eq!(world.asked(), [1; 4]);
    world.answer(ALL);
    assert_eq!(world.told(client), [(block(1), 10, 16, false)]);
    assert!(world.counts.clients.is_empty() && world.counts.tallies.is_empty());
}

#[test]
fn who_has_announced_the_file_counts_if_it_says_that_it_has_the_block() {
    let mut world = World::new();
    let client = world.client();
    // One of them is of the neighbourhood, and counts once.
    let providers = [
        contact(50),
        contact(3),
        contact(51),
        contact(52),
        contact(22),
    ];
    world.count_of(client, vec![block(1)], &providers);
    world.finds(&contacts(1..31));
    let mut asked: Vec<(QueryId, NodeId)> = Vec::new();
    for (query, (peer, _)) in &world.counts.asking.asked {
        asked.push((*query, *peer));
    }
    let near: Vec<NodeId> = {
        let mut near = contacts(1..31);
        let target = Point::from(block(1));
        near.sort_by_key(|it| target.distance(&it.id.into()));
        near[..K].iter().map(|it| it.id).collect()
    };
    let far = providers.iter().filter(|it| !near.contains(&it.id)).count();
    assert_eq!(asked.len(), K + far);
    for (query, peer) in asked {
        let bitmap = match peer {
            peer if peer == contact(50).id => ALL,
            peer if peer == contact(51).id => None,
            _ => NONE,
        };
        world.with(|counts, tools| counts.handle_counted(tools, query, bitmap));
    }
    // Who lies or is gone adds nothing, not even somebody who has answered.
    assert_eq!(world.told(client), [(block(1), 1, 21, false)]);
    assert_eq!(world.counts.known[&client].providers.len(), providers.len());
    world.with(|counts, tools| counts.handle_client_closed(tools, client));
    assert!(world.counts.known.is_empty());
}

#[test]
fn own_copy_is_told_apart_also_where_nobody_is_found() {
    let mut world = World::new();
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    let here = Block::new(kind, vec![7; 100]).expect("a block");
    world.store.put(&here, Terms::default()).expect("room");
    let client = world.client();
    let both = vec![here.id(), block(1)];
    world.count_of(client, both, &[]);
    world.finds(&[]);
    world.finds(&[]);
    let mut expected = [(here.id(), 0, 0, true), (block(1), 0, 0, false)];
    expected.sort();
    assert_eq!(world.told(client), expected);
}

#[test]
fn blocks_of_a_small_network_are_located_by_one_lookup_and_share_datagrams() {
    let mut world = World::new();
    let client = world.client();
    world.count(client, [0]);
    world.finds(&contacts(1..6));
    world.answer(ALL);
    assert_eq!(world.told(client).len(), 1);
    world.count(client, 1..101);
    assert!(world.counts.locating.locates.is_empty());
    let mut asked = world.asked();
    asked.sort();
    assert_eq!(asked, [[4; 5].as_slice(), &[32; 15]].concat());
    world.answer(ALL);
    let told = world.told(client);
    assert_eq!(told.len(), 100);
    assert!(told.iter().all(|&(_, copies, ..)| copies == 5));
    // Later somebody may have come.
    world.now = world.now + crate::keep::locate::WHOLE_NETWORK_FOR;
    world.count(client, [101]);
    assert_eq!(world.counts.locating.locates.len(), 1);
}

#[test]
fn question_waits_for_others_to_share_its_datagram_but_not_for_long() {
    let mut world = World::new();
    let client = world.client();
    world.count(client, 0..3);
    let network = contacts(1..41);
    world.finds(&network[..20]);
    world.finds(&network[10..30]);
    assert_eq!(world.asked(), [], "a third is being looked up");
    let due = world.counts.next_timeout().expect("they wait");
    assert_eq!(due, world.now + COUNT_LINGER);
    world.now = due;
    world.with(|counts, tools| counts.handle_timeout(tools));
    assert_eq!(world.asked().len(), 30);
    assert_eq!(world.asked().iter().sum::<usize>(), 40);
    assert_eq!(world.counts.next_timeout(), None);
    world.answer(ALL);
    assert_eq!(world.told(client).len(), 2);
    world.finds(&network[..20]);
    assert_eq!(world.asked(), [1; 20], "nothing is left to wait for");
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut world = World::new();
    let client = world.client();
    world.count(client, 0..COUNTS_PER_CLIENT);
    assert_eq!(world.counts.tallies.len(), COUNTING_AT_ONCE);
    // A large network: nobody has the neighbourhood of another block.
    let mut found = 0;
    while world.told(client).len() < COUNTS_PER_CLIENT / 8 && found < COUNTS_PER_CLIENT {
        while !world.counts.locating.locates.is_empty() {
            let first = (found * 7 % 230) as u8;
            found += 1;
            world.finds(&contacts(first..first + 20));
            let counts = &world.counts;
            assert!(counts.tallies.len() <= COUNTING_AT_ONCE);
            assert!(counts.asking.asked.len() <= COUNT_REQUESTS_MAX);
        }
        world.answer(NONE);
    }
    assert!(world.transfer.is_open(client));
    world.count(client, 0..COUNTS_PER_CLIENT);
    assert!(!world.transfer.is_open(client), "that is too much");
}

#[test]
fn every_block_of_a_large_network_is_counted_to_the_end() {
    let mut world = World::new();
    let client = world.client();
    world.count(client, 0..1000);
    let (mut found, mut told) = (0, Vec::new());
    while told.len() < 1000 {
        if !world.counts.locating.locates.is_empty() {
            let first = (found * 7 % 230) as u8;
            found += 1;
            world.finds(&contacts(first..first + 20));
        } else {
            assert!(!world.asked().is_empty(), "it goes on");
            world.answer(ALL);
        }
        told.extend(world.told(client));
    }
    told.sort();
    let expected: Vec<_> = (0..1000).map(|n| (block(n), 20, 20, false)).collect();
    assert_eq!(told, expected);
}

#[test]
fn clients_take_turns_and_who_goes_is_not_counted_for() {
    let mut world = World::new();
    let (first, second) = (world.client(), world.client());
    world.count(first, 0..COUNTING_AT_ONCE + 9);
    world.count(second, [1000]);
    world.finds(&contacts(1..21));
    world.now = world.counts.next_timeout().expect("questions wait");
    world.with(|counts, tools| counts.handle_timeout(tools));
    world.answer(ALL);
    let tallies = world.counts.tallies.values();
    let begun = tallies.filter(|tally| tally.client == second).count();
    assert_eq!(begun, 1, "it does not wait for all of the other's");
    world.with(|counts, tools| counts.handle_client_closed(tools, first));
    assert_eq!(world.counts.tallies.len(), 1);
    assert_eq!(world.counts.locating.locates.len(), 1);
    assert!(world.counts.asking.questions.is_empty() && world.asked().is_empty());
    world.finds(&contacts(1..21));
    // What is on its way to those who have gone does no harm.
    world.with(|counts, tools| counts.handle_client_closed(tools, second));
    world.answer(ALL);
    assert!(world.counts.tallies.is_empty() && world.asked().is_empty());
}
