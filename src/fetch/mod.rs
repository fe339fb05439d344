//! Getting blocks from the network for clients: locating holders, choosing among them, asking another when one
//! is late, and saying definitely when a block is nowhere. Called by the node.
//!
//! The client bounds what it has asked for and puts the answers where they belong. [`plan`] knows what it is going to
//! want, of the nodes that have come by; [`holders`] finds out ahead who has that. What is not known by then is looked
//! up alone. If peers have announced the file, they are asked for all of it, and nothing is located as long as they
//! keep up.

mod holders;
mod plan;
mod seek;
mod source;
mod want;

use crate::block::{Block, Kind, Role};
use crate::dht::{Dht, Located, LookupId, QueryId};
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::time::Instant;
use crate::timers::Timers;
use crate::transfer::{BlockHead, ConnId, Source as Payload, Transfer};
use crate::wire::contact::Contact;
use crate::wire::datagram::Bitmap;
use crate::wire::frame::{ByeReason, Frame, MissingReason, PayloadFrame};
use holders::Holders;
use plan::Plan;
use source::{Source, Sources};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use want::{Turn, Want};

/// The machines that fetching uses, lent for one call.
pub struct Tools<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Finds holders.
    pub dht: &'a mut Dht,
    /// Carries frames.
    pub transfer: &'a mut Transfer,
}

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

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Ask another holder as well; or, as long as nobody has been asked, look for one no longer by region only.
    Hedge(BlockId),
    /// Look again for holders of a block, as some who live were not heard.
    Again(BlockId),
    /// Tell a client what is waited for.
    Tell(ConnId),
}

/// All blocks that the clients of a node wait for.
#[derive(Default)]
pub struct Fetch {
    wants: BTreeMap<BlockId, Want>,
    /// Wants with holders to ask, whose turn has not come as all of those are busy.
    waiting: BTreeSet<(Turn, BlockId)>,
    lookups: BTreeMap<LookupId, BlockId>,
    plans: BTreeMap<Asker, Plan>,
    holders: Holders,
    sources: Sources,
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
        if !self.timers.is_set(Timer::Tell(client)) {
            self.timers
                .set(Timer::Tell(client), tools.now + AWAITING_PERIOD);
        }
    }

    /// Tells a client what is waited for, as long as anything is.
    fn tell(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        let wants = self.wants.values();
        let wants = wants.filter(|want| want.askers.contains(&Asker::Client(client)));
        let (mut peers, mut unfound) = (BTreeSet::new(), None);
        for want in wants {
            peers.extend(want.asked.keys().copied());
            let is_unfound = want.asked.is_empty() && want.holders.is_empty();
            *unfound.get_or_insert(0) += u32::from(is_unfound);
        }
        if let Some(unfound) = unfound {
            let peers = peers.len() as u32;
            let frame = Frame::Awaiting { peers, unfound };
            tools.transfer.send(client, &frame);
            self.timers
                .set(Timer::Tell(client), tools.now + AWAITING_PERIOD);
        }
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
            self.holders.forget(&id, Asker::Store);
            if want.askers.is_empty() {
                self.take(tools, id);
            }
        }
        if !self.is_waiting(Asker::Store) {
            self.forget_plan(tools, Asker::Store);
        }
    }

    fn is_waiting(&self, asker: Asker) -> bool {
        let mut wants = self.wants.values();
        wants.any(|want| want.askers.contains(&asker))
    }

    /// Somebody is going to want nothing more of what was planned.
    fn forget_plan(&mut self, tools: &mut Tools<'_>, asker: Asker) {
        if self.plans.remove(&asker).is_some() {
            self.holders.forget_all(tools, asker);
        }
    }

    /// A client has been given a block from the store; the payload of a leaf is of no matter.
    pub fn handle_given(&mut self, client: ConnId, id: &BlockId, kind: Kind, payload: &[u8]) {
        let asker = Asker::Client(client);
        if kind.role == Role::Leaf {
            if let Some(plan) = self.plans.get_mut(&asker) {
                plan.handle_wanted(id);
                self.holders.forget(id, asker);
            }
        } else {
            self.plan(asker, id, kind, payload);
        }
    }

    /// Takes up in somebody's plan what a block names.
    fn plan(&mut self, asker: Asker, id: &BlockId, kind: Kind, payload: &[u8]) {
        let plan = self.plans.entry(asker).or_default();
        for forgotten in plan.handle_block(id, kind, payload) {
            self.holders.forget(&forgotten, asker);
        }
    }

    /// What has become of blocks that the node wants, one at a time.
    pub fn poll_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    fn want_for(&mut self, tools: &mut Tools<'_>, asker: Asker, id: BlockId) {
        let is_planned = self.plans.get(&asker).is_some_and(|plan| plan.names(&id));
        if !is_planned && !self.is_waiting(asker) {
            // Another file begins.
            self.forget_plan(tools, asker);
        }
        match self.wants.get_mut(&id) {
            Some(want) => want.askers.push(asker),
            None => self.begin(tools, asker, id),
        }
        if let Some(want) = self.wants.get_mut(&id) {
            want.is_first |= !is_planned;
        }
        let plan = self.plans.entry(asker).or_default();
        let Some(place) = plan.handle_wanted(&id) else {
            return;
        };
        if !plan.is_served() && plan.total() >= tools.dht.region_count(tools.now) {
            let ahead = plan.next_ahead(place);
            self.holders.seek(tools, asker, ahead);
        }
    }

    /// Whoever is known to have the block is asked for it; or it is waited until some are, if they are being sought.
    fn begin(&mut self, tools: &mut Tools<'_>, asker: Asker, id: BlockId) {
        let turn = Turn(self.next_turn);
        self.next_turn += 1;
        self.wants.insert(id, Want::new(turn, asker));
        if self.holders.is_seeking(&id) | self.add_providers(id) {
            self.timers.set(Timer::Hedge(id), tools.now + HEDGE_AFTER);
        }
        self.handle_sought(tools, id);
    }

    /// Does for a want what can be done next: ask a holder, wait for one to be less busy or to be found, look for
    /// holders, or give up. Nothing while those asked are not late.
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
            let is_looked_for = want.lookup.is_some();
            if let Some(first) = want.holders.first() {
                self.waiting.insert((turn, id));
                // No answer to what is fetched need make room.
                let hedge = Timer::Hedge(id);
                if tools.transfer.is_out_of_room(first) && !self.timers.is_set(hedge) {
                    self.timers.set(hedge, tools.now + HEDGE_AFTER);
                }
                if !want.late || want.lookups > 0 || self.holders.knows(&id) {
                    return;
                }
                // Only providers were to give it, and have not come to it.
            } else if !is_looked_for && self.add_providers(id) {
                return self.advance(tools, id);
            }
            let Some(want) = self.wants.get(&id) else {
                return;
            };
            if !is_looked_for {
                // Each further lookup is for those whom the failed ones hid; when there are none, that is all.
                if self.holders.is_seeking(&id) && !want.late {
                    // Whom it finds is asked, and it is not waited for longer than for a holder.
                } else if want.lookups == 0 || want.found && want.lookups <= RELOCATE_MAX {
                    self.locate(tools, id);
                } else if want.is_unheard {
                    if !self.timers.is_set(Timer::Again(id)) {
                        let doubled = want.lookups.saturating_sub(1).min(8);
                        let pause = (HEDGE_AFTER * 2u32.pow(doubled)).min(LOOK_AGAIN_MAX);
                        self.timers.set(Timer::Again(id), tools.now + pause);
                    }
                } else if want.asked.is_empty() && !self.holders.is_seeking(&id) {
                    self.give_up(tools, id);
                }
            }
        }
    }

    /// Asks the holder of those not asked that will have given the block first, one that is silent only if there is no
    /// other. False if there is none, or if all are busy.
    fn ask(&mut self, tools: &mut Tools<'_>, id: BlockId) -> bool {
        let typical = self.sources.typical();
        loop {
            let Some(want) = self.wants.get(&id) else {
                return false;
            };
            let rank = |contact: &Contact| match self.sources.of_peer(&contact.id) {
                None => (tools.transfer.is_out_of_room(contact), false, typical),
                Some(source) => {
                    let is_silent = is_silent(tools, source);
                    // What is late, and who is silent, is not left to others: there are none.
                    let is_busy = match want.late || is_silent {
                        true => source.outstanding.len() >= GETS_PER_CONNECTION,
                        false => source.is_busy(tools.now),
                    };
                    let expected = source.expected(tools.now, typical, 1);
                    (is_busy, is_silent, expected)
                }
            };
            let holders = want.holders.iter().enumerate();
            let best = holders.min_by_key(|(_, contact)| rank(contact));
            let Some((index, (is_busy, ..))) = best.map(|(nth, it)| (nth, rank(it))) else {
                return false;
            };
            if is_busy {
                return false;
            }
            if self.ask_holder(tools, id, index) {
                return true;
            }
        }
    }

    /// Asks one of the holders of a block; false if it cannot be reached.
    fn ask_holder(&mut self, tools: &mut Tools<'_>, id: BlockId, index: usize) -> bool {
        let typical = self.sources.typical();
        let Some(want) = self.wants.get_mut(&id) else {
            return false;
        };
        let contact = want.holders.swap_remove(index);
        let Some(conn) = tools.transfer.reach(tools.now, &contact) else {
            want.failed.insert(contact.id);
            want.shunned.push(contact);
            self.drop_provider(tools, &contact.id);
            return false;
        };
        let source = self.sources.reach(contact, conn);
        let (pause, patience) = match source.is_measured() {
            _ if is_silent(tools, source) => (HEDGE_AFTER_MIN, HEDGE_AFTER_MIN),
            true => {
                let expected = source.expected(tools.now, typical, 1);
                (want.pause, 2 * expected + HEDGE_AFTER_MIN)
            }
            false => (want.pause, want.pause),
        };
        // A block that was given up and is wanted again may still be on its way from this peer.
        if source.ask(tools.now, id) {
            tools.transfer.send(source.conn, &Frame::Get(id));
            tools.transfer.expect(tools.now, source.conn, 1);
        }
        want.asked.insert(contact.id, contact);
        want.late = false;
        want.due = tools.now + patience;
        want.last = Some((contact.id, tools.now, source.outstanding.len() as u32));
        self.timers
            .set(Timer::Hedge(id), tools.now + pause.min(patience));
        true
    }

    /// A source that owes nothing any more is asked for what another is slow to give, what was wanted first before
    /// the rest: at the end of a file nobody is waited for. No block is asked so of more than two. Looks at each want.
    fn help(&mut self, tools: &mut Tools<'_>, conn: ConnId) {
        let peer = self.sources.peer(conn);
        let idle = peer.and_then(|peer| Some((peer, self.sources.of_peer(&peer)?)));
        let Some((peer, source)) = idle.filter(|(_, source)| source.outstanding.is_empty()) else {
            return;
        };
        let typical = self.sources.typical();
        let enough = 2 * source.expected(tools.now, typical, 1) + HEDGE_AFTER_MIN;
        let slow = self.wants.iter().filter_map(|(id, want)| {
            let mut asked = want.asked.keys();
            let (Some(asked), None) = (asked.next(), asked.next()) else {
                return None;
            };
            let asked = self.sources.of_peer(asked)?;
            let is_slow = asked.expected(tools.now, typical, 0) > enough;
            let index = want.holders.iter().position(|it| it.id == peer)?;
            is_slow.then_some((want.turn, *id, index))
        });
        if let Some((_, id, index)) = slow.min() {
            self.ask_holder(tools, id, index);
        }
    }

    /// Who was not asked as it is shunned is asked after all, if there is nobody else; once. Whether there is any.
    fn try_shunned(&mut self, tools: &mut Tools<'_>, id: BlockId) -> bool {
        let Some(want) = self.wants.get_mut(&id).filter(|want| !want.is_last_try) else {
            return false;
        };
        for contact in std::mem::take(&mut want.shunned) {
            if tools.transfer.forgive(tools.now, &contact.id) {
                want.failed.remove(&contact.id);
                want.holders.push(contact);
                want.is_last_try = true;
            }
        }
        let is_any = want.is_last_try;
        if is_any {
            self.advance(tools, id);
        }
        is_any
    }

    fn give_up(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        if self.try_shunned(tools, id) {
            return;
        }
        let Some(want) = self.take(tools, id) else {
            return;
        };
        let reason = if !want.failed.is_empty() && want.is_held {
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
        self.timers.stop(Timer::Again(id));
        if let Some(lookup) = want.lookup {
            self.lookups.remove(&lookup);
            tools.dht.cancel(tools.now, lookup);
        }
        for asker in &want.askers {
            self.holders.forget(&id, *asker);
        }
        Some(want)
    }

    /// A verified block came from a peer.
    pub fn handle_block(&mut self, tools: &mut Tools<'_>, conn: ConnId, block: Block) {
        let id = block.id();
        if !self.handle_answer(tools, conn, id, true) {
            return;
        }
        if let Some(source) = self.sources.of_conn(conn) {
            tools.dht.handle_alive(tools.now, &source.contact);
        }
        if let Some(want) = self.take(tools, id) {
            let block = Rc::new(block);
            for asker in want.askers {
                self.plan(asker, &id, block.kind(), block.payload());
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
        self.help(tools, conn);
    }

    /// A peer says that it does not have a block.
    pub fn handle_absent(&mut self, tools: &mut Tools<'_>, conn: ConnId, id: BlockId) {
        let peer = self.sources.peer(conn);
        if !self.handle_answer(tools, conn, id, false) {
            return;
        }
        if let (Some(want), Some(peer)) = (self.wants.get_mut(&id), peer) {
            want.asked.remove(&peer);
            want.failed.insert(peer);
            self.drop_provider(tools, &peer);
        }
        self.advance(tools, id);
        self.serve_waiting(tools);
    }

    /// Accounts for an answer; false, and the connection is ended, if it was not asked for.
    fn handle_answer(
        &mut self,
        tools: &mut Tools<'_>,
        conn: ConnId,
        id: BlockId,
        is_given: bool,
    ) -> bool {
        let source = self.sources.of_conn(conn);
        if source.is_some_and(|source| source.handle_answer(tools.now, &id, is_given)) {
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
        let Some((peer, source)) = self.sources.remove(conn) else {
            return;
        };
        if !source.outstanding.is_empty() {
            self.drop_provider(tools, &peer);
        }
        for id in source.outstanding.into_keys() {
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
        self.timers.stop(Timer::Tell(client));
        self.forget_plan(tools, Asker::Client(client));
    }

    /// Asks another holder for what is late. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
        let mut is_any_late = false;
        while let Some(timer) = self.timers.pop_expired(tools.now) {
            match timer {
                Timer::Tell(client) => self.tell(tools, client),
                Timer::Again(id) => self.look_again(tools, id),
                Timer::Hedge(id) => is_any_late |= self.hedge(tools, id),
            }
        }
        if is_any_late {
            // Some may wait for one that is silent by now.
            self.serve_waiting(tools);
        }
    }

    /// Asks another for a block, or looks for others, unless those asked are as fast as was expected. Whether it is late.
    fn hedge(&mut self, tools: &mut Tools<'_>, id: BlockId) -> bool {
        // Sets the timer again if there is somebody to ask.
        let Some(want) = self.wants.get_mut(&id) else {
            return false;
        };
        if let Some((peer, asked, place)) = &want.last {
            // It may have begun with a burst, and goes on as fast as its line is.
            let source = self.sources.of_peer(peer);
            let gives = source.map_or(Duration::ZERO, |it| it.measured() * 2 * *place);
            let patience = (gives + HEDGE_AFTER_MIN).min(HEDGE_AFTER);
            want.due = want.due.max(*asked + patience);
        }
        // A peer that sends something is slow, or our own line is: to ask ever faster would clog it.
        let silent_for = want.pause / 2;
        let is_silent = |peer: &NodeId| {
            let source = self.sources.of_peer(peer);
            let heard = source.and_then(|source| tools.transfer.last_heard(source.conn));
            heard.is_none_or(|heard| tools.now.since(heard) >= silent_for)
        };
        if tools.now < want.due && !want.asked.keys().all(is_silent) {
            // It is a slow one, and as fast as was expected.
            let next = want.due.min(tools.now + want.pause);
            self.timers.set(Timer::Hedge(id), next);
            return false;
        }
        want.pause = if want.asked.is_empty() {
            want.pause
        } else if want.asked.keys().all(is_silent) {
            silent_for.max(HEDGE_AFTER_MIN)
        } else {
            HEDGE_AFTER
        };
        want.late = true;
        let asked = want.asked.keys().copied();
        let silent: Vec<NodeId> = asked.filter(is_silent).collect();
        for peer in silent {
            self.drop_provider(tools, &peer);
        }
        self.handle_late(tools, id);
        self.advance(tools, id);
        true
    }

    /// When to call [`Fetch::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Panics if a limit is exceeded; for a driver that looks for faults.
    pub fn check(&self) {
        for source in self.sources.all() {
            assert!(source.outstanding.len() <= GETS_PER_CONNECTION);
        }
        self.holders.check(|id, asker| {
            let want = self.wants.get(id);
            let is_wanted = want.is_some_and(|want| want.askers.contains(&asker));
            is_wanted || self.plans.get(&asker).is_some_and(|plan| plan.names(id))
        });
    }

    /// Blocks that clients wait for.
    pub fn wanted(&self) -> usize {
        self.wants.len()
    }
}

/// Whether a source owes something and has sent nothing for long: each block need not find out anew.
fn is_silent(tools: &Tools<'_>, source: &Source) -> bool {
    let heard = tools.transfer.last_heard(source.conn);
    let is_owing = !source.outstanding.is_empty();
    is_owing && heard.is_some_and(|heard| tools.now.since(heard) >= HEDGE_AFTER / 2)
}

#[cfg(test)]
mod tests;
