//! Counting: how many copies of blocks the network has, from the mouths of those who should have them.
//!
//! For each block its neighbourhood is located, then every peer there is asked by HAVE, and so are those who have
//! announced the whole file. Nothing is placed here and nothing is remembered: whoever asks again has it counted anew.
//! Called by the node for its clients.

use super::ask::Asking;
use super::locate::Locating;
use super::Tools;
use crate::dht::{Located, LookupId, QueryId};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use crate::wire::datagram::Bitmap;
use crate::wire::frame::{ByeReason, Counted, Frame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// A block that is being counted. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct TallyId(u64);

/// What is known of a block so far.
struct Tally {
    client: ConnId,
    block: BlockId,
    /// Peers of its neighbourhood that have not been asked, or not answered; 0 while that is looked up.
    waiting: usize,
    /// The next closest, the closest last: asked in the place of those who do not answer.
    spares: Vec<Contact>,
    /// Who has been asked.
    asked: BTreeSet<NodeId>,
    /// Nobody else is to be found: it has been looked up alone, or the network has no more.
    is_looked_up: bool,
    copies: u8,
    answered: u8,
    /// Who has been asked only because it has announced the file; at most `PROVIDERS_USED`.
    providers: Vec<NodeId>,
    /// Those of them that have the block.
    provided: u8,
}

/// Those who have announced the file whose blocks a client has counted.
struct Known {
    root: BlockId,
    /// Finds them; the client's blocks wait for its end.
    lookup: Option<LookupId>,
    /// At most `PROVIDERS_USED`.
    providers: Vec<Contact>,
}

/// One client's blocks.
#[derive(Default)]
struct Client {
    /// Not begun, in the order in which they came.
    pending: VecDeque<BlockId>,
    /// Being counted.
    under_way: usize,
    /// Counted, and not yet said.
    counted: Vec<Counted>,
}

/// All counting of a node.
#[derive(Default)]
pub struct Counts {
    /// With at most `COUNTS_PER_CLIENT` blocks each; a client without any is not here.
    clients: BTreeMap<ConnId, Client>,
    /// For each client that has had anything counted.
    known: BTreeMap<ConnId, Known>,
    /// At most `COUNTING_AT_ONCE`.
    tallies: BTreeMap<TallyId, Tally>,
    locating: Locating<TallyId>,
    /// At most a neighbourhood for each tally.
    asking: Asking<TallyId>,
    /// Whose block was the last to be begun.
    turn: Option<ConnId>,
    next_tally: u64,
}

impl Counts {
    /// Panics if a limit is exceeded or an invariant broken; for a driver that looks for faults.
    pub fn check(&self) {
        assert!(self.tallies.len() <= COUNTING_AT_ONCE);
        let under_way = self.clients.values().map(|it| it.under_way);
        assert_eq!(under_way.sum::<usize>(), self.tallies.len());
        for client in self.clients.values() {
            let held = client.pending.len() + client.under_way + client.counted.len();
            assert!((1..=COUNTS_PER_CLIENT).contains(&held));
        }
    }

    /// A client wants these blocks of a file counted, and is told in COUNTED frames. Beyond `COUNTS_PER_CLIENT` it is
    /// told to be gone.
    pub fn count(
        &mut self,
        tools: &mut Tools<'_>,
        client: ConnId,
        root: BlockId,
        blocks: Vec<BlockId>,
    ) {
        let held = self.clients.get(&client);
        let held = held.map_or(0, |it| it.pending.len() + it.under_way);
        if held + blocks.len() > COUNTS_PER_CLIENT {
            let text = "too many blocks to be counted at once";
            return tools.transfer.bye(client, ByeReason::Protocol, text);
        }
        self.clients
            .entry(client)
            .or_default()
            .pending
            .extend(blocks);
        self.find_providers(tools, client, root);
        self.run(tools);
    }

    /// Begins to find out who has announced a file, unless that is known.
    fn find_providers(&mut self, tools: &mut Tools<'_>, client: ConnId, root: BlockId) {
        let known = self.known.get(&client);
        if known.is_some_and(|known| known.root == root) {
            return;
        }
        if let Some(last) = known.and_then(|known| known.lookup) {
            tools.dht.cancel(tools.now, last);
        }
        let known = Known {
            root,
            lookup: Some(tools.dht.find_providers(tools.now, root)),
            providers: Vec::new(),
        };
        self.known.insert(client, known);
    }

    /// A lookup names one that has announced a file. One that is not ours is ignored.
    pub fn handle_provider(&mut self, lookup: LookupId, contact: Contact) {
        let mut all = self.known.values_mut();
        if let Some(known) = all.find(|known| known.lookup == Some(lookup)) {
            let is_new = known.providers.iter().all(|it| it.id != contact.id);
            if is_new && known.providers.len() < PROVIDERS_USED {
                known.providers.push(contact);
            }
        }
    }

    /// A lookup has ended. False if it is not ours.
    pub fn handle_holders_done(&mut self, tools: &mut Tools<'_>, lookup: LookupId) -> bool {
        let mut all = self.known.values_mut();
        let Some(known) = all.find(|known| known.lookup == Some(lookup)) else {
            return false;
        };
        known.lookup = None;
        self.run(tools);
        true
    }

    /// The client is gone: nothing more is counted for it. What has been asked is answered to nobody.
    pub fn handle_client_closed(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        let known = self.known.remove(&client);
        if let Some(lookup) = known.and_then(|known| known.lookup) {
            tools.dht.cancel(tools.now, lookup);
        }
        if self.clients.remove(&client).is_none() {
            return;
        }
        self.tallies.retain(|_, tally| tally.client != client);
        let tallies = &self.tallies;
        self.locating.retain(tools, |id| tallies.contains_key(id));
        self.asking.retain(|id| tallies.contains_key(id));
        self.run(tools);
    }

    /// Does all that can be done now. Every step uses up a pending block or a question.
    fn run(&mut self, tools: &mut Tools<'_>) {
        while self.start_next() || self.locate_all(tools) || self.ask_next(tools) {}
        self.report(tools);
    }

    /// Begins to count the next block, one of each client in turn; false if there is none, or enough are under way.
    fn start_next(&mut self) -> bool {
        if self.tallies.len() >= COUNTING_AT_ONCE {
            return false;
        }
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let in_turn = self.clients.range((after, Bound::Unbounded));
        let mut in_turn = in_turn.chain(&self.clients);
        let is_ready = |client| {
            let known = self.known.get(client);
            known.is_none_or(|known: &Known| known.lookup.is_none())
        };
        let next = in_turn.find(|(client, it)| !it.pending.is_empty() && is_ready(client));
        let Some(client) = next.map(|(&client, _)| client) else {
            return false;
        };
        self.turn = Some(client);
        let Some(it) = self.clients.get_mut(&client) else {
            return false;
        };
        let Some(block) = it.pending.pop_front() else {
            return false;
        };
        it.under_way += 1;
        let id = TallyId(self.next_tally);
        self.next_tally += 1;
        let tally = Tally {
            client,
            block,
            waiting: 0,
            spares: Vec::new(),
            asked: BTreeSet::new(),
            is_looked_up: false,
            copies: 0,
            answered: 0,
            providers: Vec::new(),
            provided: 0,
        };
        self.tallies.insert(id, tally);
        self.locating.add(block, id);
        true
    }

    /// Finds out who should have the blocks that were begun; [`Counts::located`] goes on from there. False if there are
    /// none.
    fn locate_all(&mut self, tools: &mut Tools<'_>) -> bool {
        let Some((ids, contacts)) = self.locating.begin(tools) else {
            return false;
        };
        for id in ids {
            self.located(tools, id, &contacts);
        }
        true
    }

    /// Blocks have been located. False if they are not ours.
    pub fn handle_located(&mut self, tools: &mut Tools<'_>, located: &Located) -> bool {
        let Some(ids) = self.locating.handle_located(tools.now, located) else {
            return false;
        };
        for id in ids {
            self.located(tools, id, &located.contacts);
        }
        self.run(tools);
        true
    }

    /// Has everybody in a block's neighbourhood asked for it.
    fn located(&mut self, tools: &mut Tools<'_>, id: TallyId, contacts: &[Contact]) {
        let Some(tally) = self.tallies.get_mut(&id) else {
            return;
        };
        let target = Point::from(tally.block);
        let mut near = contacts.to_vec();
        near.sort_by_cached_key(|contact| target.distance(&contact.id.into()));
        near.truncate(2 * K);
        let mut spares = near.split_off(near.len().min(K));
        spares.reverse();
        let known = self.known.get(&tally.client);
        let providers = known.map_or(&[][..], |known| &known.providers);
        let is_near = |it: &Contact| near.iter().any(|near| near.id == it.id);
        let others = providers.iter().filter(|it| !is_near(it)).copied();
        let others: Vec<Contact> = others.collect();
        tally.providers = others.iter().map(|it| it.id).collect();
        spares.retain(|it| !tally.providers.contains(&it.id));
        (tally.waiting, tally.spares) = (near.len() + others.len(), spares);
        tally.is_looked_up = contacts.len() < K;
        if tally.waiting == 0 {
            return self.finish(tools, id);
        }
        for contact in near.into_iter().chain(others) {
            self.question(id, contact);
        }
    }

    /// Everybody has been asked. If fewer have answered than make a neighbourhood, others are farther off.
    fn check_counted(&mut self, tools: &mut Tools<'_>, id: TallyId) {
        let Some(tally) = self.tallies.get_mut(&id).filter(|it| it.waiting == 0) else {
            return;
        };
        if usize::from(tally.answered) >= K || tally.is_looked_up {
            return self.finish(tools, id);
        }
        tally.is_looked_up = true;
        self.locating.look_up(tools, tally.block, id);
    }

    /// A lookup has ended; the contacts are live. False if it is not ours.
    pub fn handle_closest(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        contacts: &[Contact],
    ) -> bool {
        let Some(id) = self.locating.handle_closest(lookup) else {
            return false;
        };
        if let Some(tally) = self.tallies.get_mut(&id) {
            let others = contacts.iter().filter(|it| !tally.asked.contains(&it.id));
            let others: Vec<Contact> = others.copied().collect();
            tally.waiting = others.len();
            for contact in others {
                self.question(id, contact);
            }
        }
        self.check_counted(tools, id);
        self.run(tools);
        true
    }

    /// A contact is to be asked for a block.
    fn question(&mut self, id: TallyId, contact: Contact) {
        if let Some(tally) = self.tallies.get_mut(&id) {
            tally.asked.insert(contact.id);
            self.asking.add(contact, tally.block, id);
        }
    }

    /// Asks the next contact; when nothing is being located, nothing is waited for. False if there is nobody, or enough
    /// is on its way.
    fn ask_next(&mut self, tools: &mut Tools<'_>) -> bool {
        let linger = match self.locating.is_idle() {
            true => Duration::ZERO,
            false => COUNT_LINGER,
        };
        self.asking.ask_next(tools, linger)
    }

    /// A contact has said which blocks it has, or has not answered. False if it was not asked here.
    pub fn handle_counted(
        &mut self,
        tools: &mut Tools<'_>,
        count: QueryId,
        bitmap: Option<Bitmap>,
    ) -> bool {
        let Some((peer, answers)) = self.asking.handle_counted(count, bitmap) else {
            return false;
        };
        for (id, has) in answers {
            let Some(tally) = self.tallies.get_mut(&id) else {
                continue;
            };
            if tally.providers.contains(&peer) {
                tally.provided += u8::from(has == Some(true));
            } else if let Some(has) = has {
                tally.answered += 1;
                tally.copies += u8::from(has);
            } else if let Some(spare) = tally.spares.pop() {
                self.question(id, spare);
                continue;
            }
            tally.waiting -= 1;
            self.check_counted(tools, id);
        }
        self.run(tools);
        true
    }

    fn finish(&mut self, tools: &mut Tools<'_>, id: TallyId) {
        let Some(tally) = self.tallies.remove(&id) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(&tally.client) {
            client.under_way -= 1;
            client.counted.push(Counted {
                id: tally.block,
                copies: tally.copies + tally.provided,
                answered: tally.answered + tally.provided,
                own: tools.store.has(&tally.block),
            });
        }
    }

    /// Tells clients what has been counted.
    fn report(&mut self, tools: &mut Tools<'_>) {
        self.clients.retain(|&client, it| {
            for counted in std::mem::take(&mut it.counted).chunks(OFFER_MAX) {
                tools
                    .transfer
                    .send(client, &Frame::Counted(counted.to_vec()));
            }
            !it.pending.is_empty() || it.under_way > 0
        });
    }

    /// Asks what has waited for long enough. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
        if self.asking.handle_timeout(tools.now) {
            self.run(tools);
        }
    }

    /// When to call [`Counts::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.asking.next_timeout()
    }
}

#[cfg(test)]
mod tests;
