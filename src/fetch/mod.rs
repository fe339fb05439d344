//! Getting blocks from the network for clients: locating holders, choosing among them, asking another when one
//! is late, and saying definitely when a block is nowhere. Called by the node.
//!
//! The client bounds what it has asked for and puts the answers in order; here every block stands alone.

use crate::block::Block;
use crate::dht::{Dht, LookupId};
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::time::Instant;
use crate::timers::Timers;
use crate::transfer::{BlockHead, ConnId, Source as Payload, Transfer};
use crate::wire::contact::Contact;
use crate::wire::frame::{ByeReason, Frame, MissingReason, PayloadFrame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// The machines that fetching uses, lent for one call.
pub struct Tools<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Finds holders.
    pub dht: &'a mut Dht,
    /// Carries frames.
    pub transfer: &'a mut Transfer,
}

/// Wants are served in the order in which they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn(u64);

/// Who waits for a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asker {
    /// A client, who is sent it.
    Client(ConnId),
    /// This node, for its own store; told by [`Fetch::poll_arrival`].
    Store,
}

/// What has become of a block that the node wants for its own store.
pub enum Arrival {
    /// It is here.
    Block(Rc<Block>),
    /// It is not to be had.
    Missing {
        /// Its address.
        id: BlockId,
        /// Why.
        reason: MissingReason,
        /// How many peers answered.
        asked: u32,
    },
}

/// A block that somebody waits for.
struct Want {
    turn: Turn,
    askers: Vec<Asker>,
    /// Peers that say they hold it and have not been asked.
    holders: Vec<Contact>,
    /// Peers that have been asked and owe an answer.
    asked: BTreeMap<NodeId, Contact>,
    /// Peers whose connection ended before they answered, once.
    cut_off: BTreeSet<NodeId>,
    /// Peers that were asked and did not give it.
    failed: BTreeSet<NodeId>,
    /// The lookup that is under way for it.
    lookup: Option<LookupId>,
    /// Lookups that have been begun for it.
    lookups: u32,
    /// The latest of them has found a holder that had not been asked.
    found: bool,
    /// Who was asked is late, and there was nobody else to ask: the next holder found is asked at once.
    late: bool,
    /// How long the next that is asked has before it is late.
    pause: Duration,
    /// The most peers that answered one of its lookups.
    answered: usize,
}

/// A peer that blocks are asked of.
struct Source {
    conn: ConnId,
    /// At most `GETS_PER_CONNECTION`.
    outstanding: BTreeSet<BlockId>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Ask another holder as well.
    Hedge(BlockId),
}

/// All blocks that the clients of a node wait for.
#[derive(Default)]
pub struct Fetch {
    wants: BTreeMap<BlockId, Want>,
    /// Wants with holders to ask, whose turn has not come as all of those are busy.
    waiting: BTreeSet<(Turn, BlockId)>,
    lookups: BTreeMap<LookupId, BlockId>,
    sources: BTreeMap<NodeId, Source>,
    by_conn: BTreeMap<ConnId, NodeId>,
    next_turn: u64,
    arrivals: VecDeque<Arrival>,
    timers: Timers<Timer>,
}

impl Fetch {
    /// A client wants a block that is not in the store. Beyond `WANTS_PER_CLIENT` it is told to be gone.
    pub fn want(&mut self, tools: &mut Tools<'_>, client: ConnId, id: BlockId) {
        let waiting = self.wants.values().flat_map(|want| &want.askers);
        let held = waiting.filter(|&&waiting| waiting == Asker::Client(client));
        let held = held.count();
        if held >= WANTS_PER_CLIENT {
            return tools.transfer.bye(
                client,
                ByeReason::Protocol,
                "too many blocks asked for at once",
            );
        }
        self.want_for(tools, Asker::Client(client), id);
    }

    /// The node wants a block for its own store. Whoever asks bounds how many; twice is as good as once.
    pub fn want_for_store(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let want = self.wants.get(&id);
        if !want.is_some_and(|want| want.askers.contains(&Asker::Store)) {
            self.want_for(tools, Asker::Store, id);
        }
    }

    /// The node no longer wants it.
    pub fn unwant_for_store(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        if let Some(want) = self.wants.get_mut(&id) {
            want.askers.retain(|&asker| asker != Asker::Store);
            if want.askers.is_empty() {
                self.take(tools, id);
            }
        }
    }

    /// What has become of blocks that the node wants, one at a time.
    pub fn poll_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    fn want_for(&mut self, tools: &mut Tools<'_>, asker: Asker, id: BlockId) {
        if let Some(want) = self.wants.get_mut(&id) {
            want.askers.push(asker);
            return;
        }
        let turn = Turn(self.next_turn);
        self.next_turn += 1;
        let want = Want {
            turn,
            askers: vec![asker],
            holders: Vec::new(),
            asked: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            failed: BTreeSet::new(),
            lookup: None,
            lookups: 0,
            found: false,
            late: false,
            pause: HEDGE_AFTER,
            answered: 0,
        };
        self.wants.insert(id, want);
        self.locate(tools, id);
    }

    fn locate(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let Some(want) = self.wants.get_mut(&id) else {
            return;
        };
        let mut useless = want.failed.clone();
        useless.extend(want.asked.keys());
        let lookup = tools.dht.find_more_holders(tools.now, id, useless);
        want.lookup = Some(lookup);
        want.found = false;
        want.lookups += 1;
        self.lookups.insert(lookup, id);
    }

    /// A lookup has found a holder. One that is not ours is ignored.
    pub fn handle_holder(&mut self, tools: &mut Tools<'_>, lookup: LookupId, contact: Contact) {
        let Some(&id) = self.lookups.get(&lookup) else {
            return;
        };
        let Some(want) = self.wants.get_mut(&id) else {
            return;
        };
        let known = want.failed.contains(&contact.id)
            || want.asked.contains_key(&contact.id)
            || want.holders.iter().any(|holder| holder.id == contact.id);
        if !known {
            want.holders.push(contact);
            want.found = true;
        }
        self.advance(tools, id);
    }

    /// A lookup has ended, with this many peers having answered. One that is not ours is ignored.
    pub fn handle_holders_done(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        answered: usize,
    ) {
        let Some(id) = self.lookups.remove(&lookup) else {
            return;
        };
        if let Some(want) = self.wants.get_mut(&id) {
            want.lookup = None;
            want.answered = want.answered.max(answered);
        }
        self.advance(tools, id);
    }

    /// Does for a want what can be done next: ask a holder, wait for one to be less busy, look for holders again, or
    /// give up. Nothing while those asked are not late.
    fn advance(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let Some(want) = self.wants.get_mut(&id) else {
            return;
        };
        let turn = want.turn;
        self.waiting.remove(&(turn, id));
        if !want.asked.is_empty() && !want.late {
            return;
        }
        if !self.ask(tools, id) {
            let Some(want) = self.wants.get(&id) else {
                return;
            };
            if !want.holders.is_empty() {
                self.waiting.insert((turn, id));
            } else if want.lookup.is_none() {
                // Each further lookup is for those whom the failed ones hid; when there are none, that is all.
                if want.found && want.lookups <= RELOCATE_MAX {
                    self.locate(tools, id);
                } else if want.asked.is_empty() {
                    self.give_up(tools, id);
                }
            }
        }
    }

    /// Asks the least busy holder that has not been asked, one that is silent only if there is no other. False if
    /// there is none, or if all are busy.
    fn ask(&mut self, tools: &mut Tools<'_>, id: BlockId) -> bool {
        let Some(want) = self.wants.get_mut(&id) else {
            return false;
        };
        loop {
            let load = |contact: &Contact| {
                self.sources
                    .get(&contact.id)
                    .map_or(0, |source| source.outstanding.len())
            };
            let is_busy = |contact: &Contact| load(contact) >= GETS_PER_CONNECTION;
            // What it owes for other blocks, too: each block need not find out anew.
            let is_silent = |contact: &Contact| {
                let source = self.sources.get(&contact.id);
                let owing = source.filter(|source| !source.outstanding.is_empty());
                let heard = owing.and_then(|source| tools.transfer.last_heard(source.conn));
                heard.is_some_and(|heard| tools.now.since(heard) >= HEDGE_AFTER / 2)
            };
            let least =
                want.holders.iter().enumerate().min_by_key(|(_, contact)| {
                    (is_busy(contact), is_silent(contact), load(contact))
                });
            let Some((index, &contact)) = least else {
                return false;
            };
            if is_busy(&contact) {
                return false;
            }
            let pause = if is_silent(&contact) {
                HEDGE_AFTER_MIN
            } else {
                want.pause
            };
            want.holders.swap_remove(index);
            let Some(conn) = tools.transfer.reach(tools.now, &contact) else {
                want.failed.insert(contact.id);
                continue;
            };
            let source = self.sources.entry(contact.id).or_insert_with(|| {
                self.by_conn.insert(conn, contact.id);
                Source {
                    conn,
                    outstanding: BTreeSet::new(),
                }
            });
            // A block that was given up and is wanted again may still be on its way from this peer.
            if source.outstanding.insert(id) {
                tools.transfer.send(source.conn, &Frame::Get(id));
                tools.transfer.expect(tools.now, source.conn, 1);
            }
            want.asked.insert(contact.id, contact);
            want.late = false;
            self.timers.set(Timer::Hedge(id), tools.now + pause);
            return true;
        }
    }

    fn give_up(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let Some(want) = self.take(tools, id) else {
            return;
        };
        let reason = if !want.failed.is_empty() {
            MissingReason::NotGiven
        } else if want.answered == 0 {
            MissingReason::NoPeer
        } else {
            MissingReason::Absent
        };
        let asked = want.answered.max(want.failed.len()) as u32;
        for asker in want.askers {
            match asker {
                Asker::Client(client) => {
                    let missing = Frame::Missing { id, reason, asked };
                    tools.transfer.send(client, &missing);
                }
                Asker::Store => {
                    let missing = Arrival::Missing { id, reason, asked };
                    self.arrivals.push_back(missing);
                }
            }
        }
    }

    fn take(&mut self, tools: &mut Tools<'_>, id: BlockId) -> Option<Want> {
        let want = self.wants.remove(&id)?;
        self.waiting.remove(&(want.turn, id));
        self.timers.stop(Timer::Hedge(id));
        if let Some(lookup) = want.lookup {
            self.lookups.remove(&lookup);
            tools.dht.cancel(tools.now, lookup);
        }
        Some(want)
    }

    /// A verified block came from a peer.
    pub fn handle_block(&mut self, tools: &mut Tools<'_>, conn: ConnId, block: Block) {
        let id = block.id();
        if !self.handle_answer(tools, conn, id) {
            return;
        }
        if let Some(want) = self.take(tools, id) {
            let block = Rc::new(block);
            for asker in want.askers {
                let Asker::Client(client) = asker else {
                    self.arrivals.push_back(Arrival::Block(block.clone()));
                    continue;
                };
                let head = BlockHead::from(&*block);
                let payload = Payload::Memory(block.clone());
                tools
                    .transfer
                    .send_block(client, PayloadFrame::Block, head, payload);
            }
        }
        self.serve_waiting(tools);
    }

    /// A peer says that it does not have a block.
    pub fn handle_absent(&mut self, tools: &mut Tools<'_>, conn: ConnId, id: BlockId) {
        let peer = self.by_conn.get(&conn).copied();
        if !self.handle_answer(tools, conn, id) {
            return;
        }
        if let (Some(want), Some(peer)) = (self.wants.get_mut(&id), peer) {
            want.asked.remove(&peer);
            want.failed.insert(peer);
        }
        self.advance(tools, id);
        self.serve_waiting(tools);
    }

    /// Accounts for an answer; false, and the connection is ended, if it was not asked for.
    fn handle_answer(&mut self, tools: &mut Tools<'_>, conn: ConnId, id: BlockId) -> bool {
        let source = self
            .by_conn
            .get(&conn)
            .and_then(|peer| self.sources.get_mut(peer));
        if source.is_some_and(|source| source.outstanding.remove(&id)) {
            tools.transfer.answered(tools.now, conn);
            return true;
        }
        tools
            .transfer
            .bye(conn, ByeReason::Protocol, "a block that was not asked for");
        false
    }

    /// Asks for those whose holders were all busy. Bounded by `WANTS_PER_CLIENT` for each client.
    fn serve_waiting(&mut self, tools: &mut Tools<'_>) {
        for (_, id) in self.waiting.clone() {
            self.advance(tools, id);
        }
    }

    /// A connection is over: what it owed is asked of others.
    pub fn handle_closed(&mut self, tools: &mut Tools<'_>, conn: ConnId) {
        let Some(peer) = self.by_conn.remove(&conn) else {
            return;
        };
        let Some(source) = self.sources.remove(&peer) else {
            return;
        };
        for id in source.outstanding {
            if let Some(want) = self.wants.get_mut(&id) {
                match want.asked.remove(&peer) {
                    // It may have been closed as idle just when we asked. Who is shunned is not reached again.
                    Some(contact) if want.cut_off.insert(peer) => want.holders.push(contact),
                    _ => {
                        want.failed.insert(peer);
                    }
                }
            }
            self.advance(tools, id);
        }
        self.serve_waiting(tools);
    }

    /// A client is gone: nobody else's wants are touched.
    pub fn handle_client_closed(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        let mut unwanted = Vec::new();
        for (&id, want) in &mut self.wants {
            want.askers
                .retain(|&waiting| waiting != Asker::Client(client));
            if want.askers.is_empty() {
                unwanted.push(id);
            }
        }
        for id in unwanted {
            self.take(tools, id);
        }
    }

    /// Asks another holder for what is late. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
        while let Some(Timer::Hedge(id)) = self.timers.pop_expired(tools.now) {
            // Sets the timer again if there is somebody to ask.
            if let Some(want) = self.wants.get_mut(&id) {
                // A peer that sends something is slow, or our own line is: to ask ever faster would clog it.
                let silent_for = want.pause / 2;
                let is_silent = |peer: &NodeId| {
                    let source = self.sources.get(peer);
                    let heard = source.and_then(|source| tools.transfer.last_heard(source.conn));
                    heard.is_none_or(|heard| tools.now.since(heard) >= silent_for)
                };
                want.pause = if want.asked.keys().all(is_silent) {
                    silent_for.max(HEDGE_AFTER_MIN)
                } else {
                    HEDGE_AFTER
                };
                want.late = true;
                self.advance(tools, id);
            }
        }
    }

    /// When to call [`Fetch::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Panics if a limit is exceeded; for a driver that looks for faults.
    pub fn check(&self) {
        for source in self.sources.values() {
            assert!(source.outstanding.len() <= GETS_PER_CONNECTION);
        }
    }

    /// Blocks that clients wait for.
    pub fn wanted(&self) -> usize {
        self.wants.len()
    }
}

#[cfg(test)]
mod tests {
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

        fn want(&self) -> &Want {
            &self.fetch.wants[&BLOCK]
        }

        /// The lookup under way finds these and ends.
        fn lookup_finds(&mut self, holders: &[Contact]) {
            let lookup = self.want().lookup.expect("a lookup is under way");
            for &holder in holders {
                self.with(|fetch, tools| fetch.handle_holder(tools, lookup, holder));
            }
            self.with(|fetch, tools| fetch.handle_holders_done(tools, lookup, 20));
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
    fn silent_holders_are_given_ever_less_time_down_to_a_bound() {
        let mut alone = Alone::new();
        alone.with(|fetch, tools| fetch.want(tools, CLIENT, BLOCK));
        let holders: Vec<Contact> = (1..=8).map(holder).collect();
        alone.lookup_finds(&holders);
        let mut pauses = Vec::new();
        for asked in 1..=holders.len() {
            assert_eq!(alone.connects().len(), 1, "after {asked}");
            let next = alone.fetch.next_timeout().expect("the next is due");
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
        let (now, conn) = (alone.now, alone.fetch.sources[&holder(2).id].conn);
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
        let next = alone.fetch.next_timeout().expect("the next is due");
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
        let conn = *alone
            .fetch
            .by_conn
            .keys()
            .next()
            .expect("somebody is asked");
        alone.now = alone.now + HEDGE_AFTER / 5;
        let (now, byte) = (alone.now, [0]);
        alone.transfer.handle_received(now, conn, &byte);
        alone.pass(HEDGE_AFTER / 20);
        assert_eq!(alone.want().asked.len(), 4);
        assert_eq!(alone.want().pause, HEDGE_AFTER);
    }
}
