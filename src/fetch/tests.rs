//! What a fetch asks of whom, and when.

use super::*;
use crate::dht::Config;
use crate::id::NodeKey;
use crate::rng::Rng;
use crate::transfer::Command;
use crate::wire::contact::Age;
use crate::wire::frame::{Hello, PeerRole};
use std::net::SocketAddr;

/// A fetch with machines that reach nobody: what lookups find is said by the test.
struct Alone {
    now: Instant,
    dht: Dht,
    transfer: Transfer,
    fetch: Fetch,
}

impl Alone {
    fn new() -> Alone {
        let now = Instant::since_epoch(Duration::from_secs(1_000_000));
        let key = NodeKey([0; 32]);
        let config = Config {
            serve: false,
            ipv4: true,
            ipv6: true,
        };
        let hello = Hello {
            key,
            port: 7,
            role: PeerRole::Private,
        };
        Alone {
            now,
            dht: Dht::new(now, key, config, Rng::new([1; 32])),
            transfer: Transfer::new(hello),
            fetch: Fetch::default(),
        }
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Fetch, &mut Tools<'_>) -> R) -> R {
        let mut tools = Tools {
            now: self.now,
            dht: &mut self.dht,
            transfer: &mut self.transfer,
        };
        call(&mut self.fetch, &mut tools)
    }

    /// When another is asked for a block.
    fn due(&self, id: BlockId) -> Instant {
        let deadline = self.fetch.timers.deadline(Timer::Hedge(id));
        deadline.expect("another will be asked")
    }

    fn want(&self) -> &Want {
        &self.fetch.wants[&BLOCK]
    }

    /// The connection by which a holder is asked.
    fn source(&self, n: u8) -> ConnId {
        let source = self.fetch.sources.of_peer(&holder(n).id);
        source.expect("it is asked").conn
    }

    /// How many blocks a holder owes.
    fn source_owes(&self, n: u8) -> usize {
        let source = self.fetch.sources.of_peer(&holder(n).id);
        source.map_or(0, |it| it.outstanding.len())
    }

    /// The lookup under way finds these and ends.
    fn lookup_finds(&mut self, holders: &[Contact]) {
        let lookup = self.want().lookup.expect("a lookup is under way");
        for &holder in holders {
            self.with(|fetch, tools| fetch.handle_holder(tools, lookup, holder));
        }
        self.with(|fetch, tools| fetch.handle_holders_done(tools, lookup, 20, &BTreeSet::new()));
    }

    /// The lookup under way ends with nobody found, and no more than these having answered.
    fn lookup_hears(&mut self, heard: &[Contact]) {
        let lookup = self.want().lookup.expect("a lookup is under way");
        let heard = heard.iter().map(|it| it.id).collect();
        self.with(|fetch, tools| fetch.handle_holders_done(tools, lookup, 1, &heard));
    }

    /// A holder is there, and sends something.
    fn sends(&mut self, n: u8) {
        let (now, conn) = (self.now, self.source(n));
        let mut bytes = Vec::new();
        if !self.transfer.is_open(conn) {
            self.connects();
            self.transfer.handle_connected(conn);
            let (key, port, role) = (NodeKey([n; 32]), 7, PeerRole::Peer);
            Frame::Hello(Hello { key, port, role }).encode(&mut bytes);
        }
        Frame::Absent(OTHER).encode(&mut bytes);
        self.transfer.handle_received(now, conn, &bytes);
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.with(|fetch, tools| fetch.handle_timeout(tools));
    }

    /// Connections begun since the last call.
    fn connects(&mut self) -> Vec<SocketAddr> {
        let commands = std::iter::from_fn(|| self.transfer.poll_command(self.now));
        let to = commands.filter_map(|command| match command {
            Command::Connect { to, .. } => Some(to),
            _ => None,
        });
        to.collect()
    }
}

const BLOCK: BlockId = BlockId([9; 32]);
const OTHER: BlockId = BlockId([8; 32]);
const CLIENT: ConnId = ConnId(u64::MAX);

fn holder(n: u8) -> Contact {
    let addr = SocketAddr::from(([10, 0, 0, n], 7));
    Contact::new(NodeKey([n; 32]), addr, Age(0))
}

#[test]
fn late_block_is_looked_for_beyond_a_holder_that_cannot_be_reached() {
    let mut alone = Alone::new();
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    alone.lookup_finds(&[holder(1)]);
    assert_eq!(alone.connects(), [holder(1).addr]);
    alone.pass(HEDGE_AFTER);
    let now = alone.now;
    alone.transfer.shun(now, holder(2).id, SHUN_FOR);
    alone.lookup_finds(&[holder(2)]);
    assert_eq!(alone.connects(), []);
    alone.lookup_finds(&[holder(3)]);
    assert_eq!(alone.connects(), [holder(3).addr]);
    // When a lookup finds nobody new there is nobody else; those asked may yet give it.
    alone.pass(HEDGE_AFTER);
    alone.lookup_finds(&[]);
    assert!(alone.want().lookup.is_none() && !alone.want().asked.is_empty());
}

#[test]
fn holder_that_failed_a_while_ago_is_asked_where_there_is_nobody_else() {
    for (since, is_asked) in [(Duration::ZERO, false), (SHUN_MIN, true)] {
        let mut alone = Alone::new();
        let now = alone.now;
        alone.transfer.shun(now, holder(1).id, SHUN_FOR);
        alone.now = now + since;
        alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
        let lookup = alone.want().lookup.expect("a lookup is under way");
        alone.with(|fetch, tools| fetch.handle_holder(tools, lookup, holder(1)));
        assert_eq!(alone.connects(), [], "there may be others");
        alone.lookup_finds(&[]);
        // And for those whom it hid.
        if alone.fetch.wants.contains_key(&BLOCK) && alone.want().lookup.is_some() {
            alone.lookup_finds(&[]);
        }
        assert_eq!(alone.connects().contains(&holder(1).addr), is_asked);
        assert_eq!(alone.fetch.wants.contains_key(&BLOCK), is_asked);
        if is_asked {
            let (now, conn) = (alone.now, alone.source(1));
            alone.transfer.handle_closed(now, conn, "refused");
            alone.with(|fetch, tools| fetch.handle_closed(tools, conn));
            if alone.fetch.wants.contains_key(&BLOCK) {
                alone.lookup_finds(&[]);
            }
            assert!(!alone.fetch.wants.contains_key(&BLOCK), "only once");
        }
    }
}

#[test]
fn holder_waits_for_a_connection_where_all_are_in_use() {
    let mut alone = Alone::new();
    let dial = |n| {
        let to = SocketAddr::from(([10, 1, 0, n], 7));
        alone.transfer.dial(alone.now, to, None)
    };
    let others: Vec<ConnId> = (0..=u8::MAX).map(dial).collect();
    assert_eq!(others.len(), CONNECTIONS_MAX);
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    alone.lookup_finds(&[holder(1)]);
    alone.pass(HEDGE_AFTER);
    assert!(alone.want().asked.is_empty());
    let now = alone.now;
    alone.transfer.handle_closed(now, others[0], "refused");
    alone.pass(HEDGE_AFTER);
    assert!(alone.want().asked.contains_key(&holder(1).id));
}

#[test]
fn silent_holders_are_given_ever_less_time_down_to_a_bound() {
    let mut alone = Alone::new();
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    let holders: Vec<Contact> = (1..=8).map(holder).collect();
    alone.lookup_finds(&holders);
    let mut pauses = Vec::new();
    for asked in 1..=holders.len() {
        assert_eq!(alone.connects().len(), 1, "after {asked}");
        let next = alone.due(BLOCK);
        pauses.push(next.since(alone.now));
        alone.pass(next.since(alone.now));
    }
    let millis = [2000, 1000, 500, 250, 250, 250, 250, 250];
    assert_eq!(pauses, millis.map(Duration::from_millis));
}

#[test]
fn holder_silent_about_one_block_is_asked_last_for_another_and_not_waited_for() {
    let mut alone = Alone::new();
    let find = |alone: &mut Alone, block: u8, found: u8| {
        let block = BlockId([block; 32]);
        if !alone.fetch.wants.contains_key(&block) {
            alone.with(|fetch, tools| fetch.want(tools, CLIENT, block));
        }
        let lookup = alone.fetch.wants[&block].lookup.expect("it is sought");
        alone.with(|fetch, tools| fetch.handle_holder(tools, lookup, holder(found)));
    };
    find(&mut alone, 1, 1);
    alone.pass(HEDGE_AFTER);
    // One holder owes more blocks, but sends.
    find(&mut alone, 2, 2);
    find(&mut alone, 3, 2);
    find(&mut alone, 4, 3);
    find(&mut alone, 4, 1);
    find(&mut alone, 4, 2);
    alone.now = alone.now + HEDGE_AFTER;
    let (now, conn) = (alone.now, alone.source(2));
    alone.transfer.handle_received(now, conn, &[0]);
    alone.pass(Duration::ZERO);
    let asked = |alone: &Alone, n| {
        let want = &alone.fetch.wants[&BlockId([4; 32])];
        want.asked.contains_key(&holder(n).id)
    };
    assert!(asked(&alone, 2) && !asked(&alone, 1));
    // With nobody else left it is asked after all, and for a moment only.
    alone.pass(HEDGE_AFTER / 2);
    assert!(asked(&alone, 1));
    let next = alone.due(BlockId([4; 32]));
    assert_eq!(next.since(alone.now), HEDGE_AFTER_MIN);
}

#[test]
fn holder_that_sends_something_gives_the_next_the_full_time() {
    let mut alone = Alone::new();
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    alone.lookup_finds(&[holder(1), holder(2), holder(3), holder(4)]);
    for _ in 0..2 {
        alone.pass(alone.want().pause);
    }
    assert_eq!(alone.want().pause, HEDGE_AFTER / 4);
    // Half a frame is something, too.
    let conn = alone.source(1);
    alone.now = alone.now + HEDGE_AFTER / 5;
    let (now, byte) = (alone.now, [0]);
    alone.transfer.handle_received(now, conn, &byte);
    alone.pass(HEDGE_AFTER / 20);
    assert_eq!(alone.want().asked.len(), 4);
    assert_eq!(alone.want().pause, HEDGE_AFTER);
}

/// Another block is asked of the first holder.
fn with_source() -> Alone {
    let mut alone = Alone::new();
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, OTHER));
    let lookup = alone.fetch.wants[&OTHER].lookup.expect("it is sought");
    alone.with(|fetch, tools| fetch.handle_holder(tools, lookup, holder(1)));
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    alone
}

#[test]
fn silence_of_who_sends_blocks_is_no_answer_and_it_is_asked_again_after_ever_longer_pauses() {
    let mut alone = with_source();
    let mut pauses = Vec::new();
    for _ in 0..5 {
        alone.now = alone.now + HEDGE_AFTER_MIN;
        alone.sends(1);
        alone.lookup_hears(&[holder(2)]);
        assert!(alone.want().lookup.is_none());
        let again = alone.fetch.timers.deadline(Timer::Again(BLOCK));
        let pause = again.expect("it is looked up again").since(alone.now);
        pauses.push(pause.as_secs());
        alone.pass(pause);
    }
    assert_eq!(pauses, [2, 4, 8, 16, 16]);
    // Once it has said no that is all, whatever it sends.
    alone.now = alone.now + HEDGE_AFTER_MIN;
    alone.sends(1);
    alone.lookup_hears(&[holder(1)]);
    assert!(!alone.fetch.wants.contains_key(&BLOCK), "given up");
}

#[test]
fn who_sends_nothing_any_more_is_not_waited_for() {
    let mut alone = with_source();
    alone.now = alone.now + HEDGE_AFTER_MIN;
    alone.sends(1);
    alone.lookup_hears(&[]);
    alone.pass(HEDGE_AFTER);
    alone.now = alone.now + HEDGE_AFTER_MIN;
    alone.lookup_hears(&[]);
    assert!(!alone.fetch.wants.contains_key(&BLOCK), "given up");
}

/// Wants a block whose lookup names somebody as having the whole file, and then another; the lookup goes on.
fn with_provider(provider: u8) -> (Alone, BlockId) {
    let mut alone = Alone::new();
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
    let lookup = alone.want().lookup.expect("a lookup is under way");
    for _ in 0..3 {
        alone.fetch.handle_provider(lookup, holder(provider));
    }
    assert_eq!(
        alone.connects(),
        [],
        "it has not said that it has this block"
    );
    let other = BlockId([8; 32]);
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, other));
    (alone, other)
}

#[test]
fn provider_is_asked_without_a_lookup_until_it_has_lied() {
    let (mut alone, other) = with_provider(1);
    assert_eq!(alone.connects(), [holder(1).addr]);
    assert!(alone.fetch.wants[&other].lookup.is_none());
    let conn = alone.source(1);
    alone.with(|fetch, tools| fetch.handle_absent(tools, conn, other));
    assert!(alone.fetch.wants[&other].lookup.is_some());
    let third = BlockId([7; 32]);
    alone.with(|fetch, tools| fetch.want(tools, CLIENT, third));
    let want = &alone.fetch.wants[&third];
    assert!(want.asked.is_empty() && want.lookup.is_some());
    // It is not believed again.
    let lookup = alone.want().lookup.expect("a lookup is under way");
    alone.fetch.handle_provider(lookup, holder(1));
    alone.lookup_finds(&[]);
    assert!(!alone.fetch.wants.contains_key(&BLOCK), "given up");
}

#[test]
fn block_that_no_holder_is_found_of_is_asked_of_a_provider() {
    let (mut alone, _) = with_provider(1);
    alone.lookup_finds(&[]);
    assert!(alone.want().asked.contains_key(&holder(1).id));
    let conn = alone.source(1);
    alone.with(|fetch, tools| fetch.handle_absent(tools, conn, BLOCK));
    assert!(!alone.fetch.wants.contains_key(&BLOCK), "given up");
}

#[test]
fn holders_are_looked_for_when_providers_are_too_busy_for_too_long() {
    let (mut alone, _) = with_provider(1);
    let blocks: Vec<BlockId> = (10..20).map(|n| BlockId([n; 32])).collect();
    for &id in &blocks {
        alone.with(|fetch, tools| fetch.want(tools, CLIENT, id));
    }
    let lookups = |alone: &Alone| {
        let wants = blocks.iter().map(|id| &alone.fetch.wants[id]);
        wants.filter(|it| it.lookup.is_some()).count()
    };
    assert_eq!(alone.source_owes(1), GETS_MIN);
    alone.pass(HEDGE_AFTER - HEDGE_AFTER_MIN);
    assert_eq!(lookups(&alone), 0);
    alone.pass(HEDGE_AFTER_MIN);
    let asked = alone.source_owes(1) - 1;
    assert!(lookups(&alone) + asked >= blocks.len(), "{asked}");
    assert!(lookups(&alone) > 0);
}

#[test]
fn nobody_is_asked_for_more_than_may_be_on_its_way_and_no_client_asks_for_more() {
    let (mut alone, _) = with_provider(1);
    let id = |n: usize| {
        let mut id = [10; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        BlockId(id)
    };
    // It is fast, and has the whole file.
    for nth in 0..GETS_PER_CONNECTION as u8 {
        let kind = Kind {
            role: crate::block::Role::Leaf,
            form: crate::block::Form::Plain,
        };
        let block = Block::new(kind, vec![nth]).expect("a block");
        alone.with(|fetch, tools| fetch.want(tools, CLIENT, block.id()));
        alone.now = alone.now + Duration::from_millis(1);
        let conn = alone.source(1);
        alone.with(|fetch, tools| fetch.handle_block(tools, conn, block));
    }
    for nth in 0..4 * GETS_PER_CONNECTION {
        alone.with(|fetch, tools| fetch.want(tools, CLIENT, id(nth)));
        alone.fetch.check();
    }
    assert_eq!(alone.source_owes(1), GETS_PER_CONNECTION);
    let local = alone
        .transfer
        .accept(alone.now, crate::transfer::Origin::Local);
    for nth in 0..WANTS_PER_CLIENT {
        alone.with(|fetch, tools| fetch.want(tools, local, id(nth)));
    }
    assert!(alone.transfer.wants_read(local));
    alone.with(|fetch, tools| fetch.want(tools, local, id(WANTS_PER_CLIENT)));
    assert!(!alone.transfer.wants_read(local), "it is told to be gone");
}
