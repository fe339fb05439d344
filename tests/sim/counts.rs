//! Copies as a peer counts them, compared with what is in the stores of all the others.

use crate::client::Outcome;
use crate::network::{blocks_of, private, secs};
use crate::world::{seed, Links, PeerId, World};
use std::collections::BTreeSet;
use strew::block::Block;
use strew::id::{BlockId, Point};
use strew::limits::K;
use strew::store::Store;
use strew::wire::frame::Counted;

/// Datagrams that counting costs all peers together for each block: a lookup that asks the neighbourhood and some on
/// the way, and its part in the questions to each of the neighbourhood, with their answers.
const COUNT_DATAGRAMS_MAX: u64 = 100;

/// The addresses of all blocks of a file as it is shared.
fn ids_of(data: &[u8]) -> BTreeSet<BlockId> {
    let (_, blocks) = blocks_of(data);
    blocks.iter().map(Block::id).collect()
}

/// What a count by this peer should come to, by looking into every store.
fn expected(world: &World, asked: PeerId, block: BlockId) -> Counted {
    let mut others: Vec<PeerId> = world.alive().filter(|&id| id != asked).collect();
    others.retain(|&id| !world.node(id).is_client_mode());
    others.sort_by_key(|&id| Point::from(world.node(id).id()).distance(&block.into()));
    others.truncate(K);
    let has = |id: &&PeerId| world.node(**id).store().has(&block);
    Counted {
        id: block,
        copies: others.iter().filter(has).count() as u8,
        answered: others.len() as u8,
        own: world.node(asked).store().has(&block),
    }
}

/// What a count by this peer comes to, in the order of the addresses.
fn count(world: &mut World, asked: PeerId, blocks: &BTreeSet<BlockId>) -> Vec<Counted> {
    let all: Vec<BlockId> = blocks.iter().copied().collect();
    let client = world.begin_count(asked, all[0], &all);
    let (outcome, took) = world.finish(client, secs(60));
    let Outcome::Counted(mut counted) = outcome else {
        panic!("the count ended with {outcome:?}");
    };
    println!("{} blocks counted in {took:?}", counted.len());
    counted.sort_by_key(|it| it.id);
    counted
}

#[test]
fn copies_are_counted_as_the_stores_have_them_also_when_holders_have_died() {
    let mut world = World::of(seed(60), Links::good(), 40, private);
    let data = world.file(12 << 20);
    let (_, settled) = world.share(7, &data, 6, secs(60));
    assert!(settled.least >= 6, "{settled:?}");
    let blocks = ids_of(&data);
    assert_eq!(blocks.len() as u64, settled.blocks);
    let visitor = world.visitor(private(3));
    for dead in [0..0, 14..20, 20..24] {
        for id in dead {
            world.kill(id, id % 2 == 0);
        }
        for asked in [7, 30, visitor] {
            let wanted: Vec<Counted> = blocks
                .iter()
                .map(|&block| expected(&world, asked, block))
                .collect();
            let before = world.datagrams();
            assert_eq!(count(&mut world, asked, &blocks), wanted, "by {asked}");
            let each = (world.datagrams() - before) / blocks.len() as u64;
            println!("{each} datagrams for each block");
            assert!(each <= COUNT_DATAGRAMS_MAX, "{each}");
        }
    }
}

#[test]
fn small_network_is_counted_with_one_lookup_for_all_blocks() {
    let mut world = World::of(seed(61), Links::good(), 10, private);
    let data = world.file(12 << 20);
    let (_, settled) = world.share(7, &data, 3, secs(60));
    assert!(settled.least >= 3, "{settled:?}");
    let blocks = ids_of(&data);
    let wanted: Vec<Counted> = blocks
        .iter()
        .map(|&block| expected(&world, 2, block))
        .collect();
    let before = world.datagrams();
    assert_eq!(count(&mut world, 2, &blocks), wanted);
    let spent = world.datagrams() - before;
    println!("{spent} datagrams");
    assert!(spent < 2 * (9 * 2 * 16 + 9 * 2), "{spent}");
}

#[test]
fn bad_links_take_longer_and_miscount_nothing_that_is_answered() {
    let mut world = World::of(seed(62), Links::bad(), 30, private);
    let data = world.file(3 << 20);
    world.share(5, &data, 8, secs(120));
    let blocks = ids_of(&data);
    for counted in count(&mut world, 11, &blocks) {
        let wanted = expected(&world, 11, counted.id);
        // Who lost three requests in a row has not answered; then another may stand for it.
        assert!(counted.answered >= K as u8 - 4, "{counted:?}");
        assert!(
            counted.copies <= wanted.copies && counted.copies + 4 >= wanted.copies,
            "{counted:?} {wanted:?}"
        );
        assert_eq!(counted.own, wanted.own);
    }
}

#[test]
fn nobody_to_ask_is_said_of_every_block() {
    let mut world = World::new(seed(63), Links::good());
    let alone = world.visitor(private(9));
    let blocks: BTreeSet<BlockId> = (0..100).map(|n| BlockId([n; 32])).collect();
    let counted = count(&mut world, alone, &blocks);
    assert_eq!(counted.len(), 100);
    assert!(counted.iter().all(|it| it.answered == 0 && !it.own));
}
