//! Conversations with neighbours that are stores, and with such as say anything.

use super::*;
use crate::block::{Block, Form, Kind, Role};
use crate::id::NodeId;
use crate::limits::LEAF_MAX;
use crate::rng::Rng;
use crate::store::{MemoryStore, Store, Terms};
use crate::time::Instant;

/// Requests and bytes, those of replies included, headers of IP and UDP not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cost {
    requests: usize,
    bytes: usize,
}

/// A peer and a neighbour, who have some blocks in common.
struct Pair {
    own: MemoryStore,
    other: MemoryStore,
    memory: Memory,
    number: Number,
    rng: Rng,
}

const REGION: Cell = Cell::WHOLE;

impl Pair {
    fn new(seed: u8) -> Pair {
        let mut memory = Memory::default();
        let number = memory.meet(Instant::EPOCH, NodeId([seed; 32]));
        Pair {
            own: MemoryStore::new(u64::MAX),
            other: MemoryStore::new(u64::MAX),
            memory,
            number,
            rng: Rng::new([seed; 32]),
        }
    }

    fn block(&mut self) -> Block {
        let kind = Kind {
            role: Role::Leaf,
            form: Form::Plain,
        };
        Block::new(kind, self.rng.bytes::<16>().to_vec()).expect("a block")
    }

    /// So many blocks for the one, the other, or both.
    fn put(&mut self, count: usize, own: bool, other: bool) {
        for _ in 0..count {
            let block = self.block();
            for (store, takes) in [(&mut self.own, own), (&mut self.other, other)] {
                if takes {
                    store.put(&block, Terms::default()).expect("room");
                }
            }
        }
    }

    /// The neighbour forgets so many of its blocks.
    fn remove(&mut self, count: usize) {
        for held in self.other.held(REGION, count) {
            for id in self.other.at_place(held.place) {
                self.other.remove(&id).expect("it is there");
            }
        }
    }

    fn cut(&mut self) {
        let mut next = Some(0);
        while let Some(from) = next {
            let mut leaf = REGION.largest_at(from);
            while self.own.held(leaf, LEAF_MAX + 1).len() > LEAF_MAX {
                leaf = Cell::around(from, leaf.bits() + 1);
            }
            self.memory.cut(leaf, &self.own.held(leaf, LEAF_MAX));
            next = leaf.last().checked_add(1);
        }
    }

    fn talk(&mut self) -> Cost {
        self.cut();
        let mut talk = Talk::new(REGION, self.number);
        let mut cost = Cost::default();
        while let Some(request) = talk.next(&self.memory) {
            assert!(talk.next(&self.memory).is_none(), "one at a time");
            cost.requests += 1;
            let reply = match &request {
                Request::Digest(cell, depth) => {
                    let digests = self.other.digests(*cell, *depth);
                    cost.bytes += 63 + 54 + (20 << depth);
                    Reply::Digest(digests.expect("they are known"))
                }
                Request::List(cell) => {
                    let held = self.other.held(*cell, LIST_MAX + 1);
                    let places: Vec<u64> = held.iter().map(|it| it.place).collect();
                    let list = (places.len() <= LIST_MAX).then_some(places);
                    cost.bytes += 62 + 54 + list.as_ref().map_or(0, |it| 8 * it.len());
                    Reply::List(list)
                }
                other => panic!("{other:?} is nothing to be asked"),
            };
            let own = &self.own;
            talk.handle_reply(&mut self.memory, Some(reply), |leaf| {
                own.held(leaf, LEAF_MAX)
            });
        }
        cost
    }

    /// Whether exactly what the neighbour has is known of all own blocks, but for those in so many leaves.
    fn check(&self, unknown_max: usize) {
        let mut unknown = 0;
        for leaf in self.memory.leaves(REGION) {
            let Some(map) = leaf.map(self.number) else {
                unknown += 1;
                continue;
            };
            for (index, held) in self.own.held(leaf.cell, LEAF_MAX).iter().enumerate() {
                let has = !self.other.at_place(held.place).is_empty();
                assert_eq!(map >> index & 1 == 1, has, "{held:?}");
            }
        }
        assert!(unknown <= unknown_max, "{unknown}");
    }
}

#[test]
fn neighbour_is_known_after_one_talk_and_asked_once_if_it_is_as_it_was() {
    for (both, own, other) in [
        (0, 1, 0),
        (3, 5, 7),
        (400, 600, 700),
        (9000, 9000, 9000),
        (50, 50, 3000),
    ] {
        let mut pair = Pair::new(1);
        pair.put(both, true, true);
        pair.put(own, true, false);
        pair.put(other, false, true);
        let first = pair.talk();
        pair.check(0);
        let again = pair.talk();
        println!("{both} in common, {own} and {other} not: {first:?}, and again {again:?}");
        assert_eq!(again.requests, 1);
        pair.check(0);
    }
}

#[test]
fn cost_is_in_proportion_to_the_differences() {
    let mut pair = Pair::new(2);
    pair.put(7000, true, true);
    pair.put(9000, true, false);
    pair.put(9000, false, true);
    pair.talk();
    for differences in [1, 10, 100, 1000] {
        pair.put(differences / 2, false, true);
        pair.remove(differences - differences / 2);
        let cost = pair.talk();
        pair.check(0);
        let each = cost.bytes / differences;
        println!("{differences} differences in 16,000 blocks: {cost:?}, {each} bytes each");
        // A way down from the region, and a list.
        assert!(cost.requests <= 1 + 4 * differences && each <= 3000);
    }
}

#[test]
fn own_blocks_that_change_are_asked_for_anew_and_only_they() {
    let mut pair = Pair::new(3);
    pair.put(5000, true, true);
    pair.put(5000, true, false);
    let first = pair.talk();
    pair.put(1, true, false);
    let second = pair.talk();
    pair.check(0);
    assert!(second.requests <= 4 && first.requests > 80, "{second:?}");
    // While they change no map is made of them.
    let mut talk = Talk::new(REGION, pair.number);
    pair.remove(1);
    while let Some(request) = talk.next(&pair.memory) {
        let reply = match request {
            Request::Digest(cell, depth) => {
                Reply::Digest(pair.other.digests(cell, depth).expect("they are known"))
            }
            Request::List(cell) => {
                let held = pair.other.held(cell, LIST_MAX);
                Reply::List(Some(held.iter().map(|it| it.place).collect()))
            }
            other => panic!("{other:?} is nothing to be asked"),
        };
        let held = |leaf| pair.own.held(leaf, LEAF_MAX)[1..].to_vec();
        talk.handle_reply(&mut pair.memory, Some(reply), held);
    }
    pair.check(1);
}

#[test]
fn who_has_very_much_in_one_place_or_says_anything_costs_a_bounded_number_of_requests() {
    let mut pair = Pair::new(4);
    pair.put(LEAF_MAX, true, false);
    pair.put(100_000, false, true);
    let cost = pair.talk();
    assert!(cost.requests <= 2 + LISTS_PER_LEAF_MAX, "{cost:?}");
    pair.check(1);

    let mut rng = Rng::new([5; 32]);
    pair.put(2000, true, false);
    pair.cut();
    let leaves = pair.memory.leaves(REGION).count();
    for _ in 0..200 {
        let mut talk = Talk::new(REGION, pair.number);
        let mut requests = 0;
        while let Some(request) = talk.next(&pair.memory) {
            requests += 1;
            let mut digest = || Digest {
                count: rng.next_u64() as u32 >> (rng.below(4) * 8),
                sum: u128::from(rng.next_u64()),
            };
            let reply = match request {
                Request::Digest(_, depth) => {
                    Reply::Digest((0..1 << depth).map(|_| digest()).collect())
                }
                _ if digest().count.is_multiple_of(16) => Reply::Digest(vec![]),
                _ if digest().count.is_multiple_of(2) => Reply::List(None),
                _ => Reply::List(Some((0..digest().count % 99).map(u64::from).collect())),
            };
            let own = |leaf| pair.own.held(leaf, LEAF_MAX);
            talk.handle_reply(&mut pair.memory, Some(reply), own);
        }
        assert!(
            requests <= 2 * leaves + leaves * LISTS_PER_LEAF_MAX,
            "{requests}"
        );
    }
}

#[test]
fn silence_ends_a_talk_and_what_is_remembered_stays() {
    let mut pair = Pair::new(6);
    pair.put(1000, true, true);
    pair.talk();
    let mut talk = Talk::new(REGION, pair.number);
    assert!(talk.next(&pair.memory).is_some());
    talk.handle_reply(&mut pair.memory, None, |_| vec![]);
    assert!(talk.next(&pair.memory).is_none());
    pair.check(0);
}
