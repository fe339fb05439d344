//! Counting: how many copies of blocks the network has, from the mouths of those who should have them.
//!
//! For each block its neighbourhood is located, then every peer there is asked by HAVE. Nothing is placed here and
//! nothing is remembered: whoever asks again has it counted anew. Called by the node for its clients.

use super::{Tools, WHOLE_NETWORK_FOR};
use crate::dht::{CountId, LookupId};
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use crate::wire::datagram::Bitmap;
use crate::wire::frame::{ByeReason, Counted, Frame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// A block that is being counted. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct TallyId(u64);

/// What is known of a block so far.
struct Tally {
    client: ConnId,
    block: BlockId,
    /// Peers of its neighbourhood that have not been asked, or not answered; 0 while that is looked up.
    waiting: usize,
    copies: u8,
    answered: u8,
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

/// What one contact is to be asked.
struct Question {
    contact: Contact,
    /// Some may have ended with their clients.
    tallies: VecDeque<TallyId>,
}

/// All counting of a node.
#[derive(Default)]
pub struct Counts {
    /// With at most `COUNTS_PER_CLIENT` blocks each; a client without any is not here.
    clients: BTreeMap<ConnId, Client>,
    /// At most `COUNTING_AT_ONCE`.
    tallies: BTreeMap<TallyId, Tally>,
    /// At most `COUNT_LOOKUPS_MAX`.
    lookups: BTreeMap<LookupId, TallyId>,
    /// At most a neighbourhood for each tally.
    questions: BTreeMap<NodeId, Question>,
    /// Whose questions need not wait for more to go with them.
    ready: BTreeSet<NodeId>,
    /// When all others have waited for long enough; set while there are any.
    linger: Option<Instant>,
    /// What has been asked, block for block. At most `COUNT_REQUESTS_MAX`.
    asked: BTreeMap<CountId, Vec<TallyId>>,
    /// The contacts of a network with fewer than K, and when they were found.
    whole_network: Option<(Instant, Vec<Contact>)>,
    /// Whose block was the last to be begun.
    turn: Option<ConnId>,
    next_tally: u64,
}

impl Counts {
    /// A client wants these blocks counted, and is told in COUNTED frames. Beyond `COUNTS_PER_CLIENT` it is told to
    /// be gone.
    pub fn count(&mut self, tools: &mut Tools<'_>, client: ConnId, blocks: Vec<BlockId>) {
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
        self.run(tools);
    }

    /// The client is gone: nothing more is counted for it. What has been asked is answered to nobody.
    pub fn handle_client_closed(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        if self.clients.remove(&client).is_none() {
            return;
        }
        self.tallies.retain(|_, tally| tally.client != client);
        let tallies = &self.tallies;
        self.lookups.retain(|&lookup, tally| {
            let wanted = tallies.contains_key(tally);
            if !wanted {
                tools.dht.cancel(tools.now, lookup);
            }
            wanted
        });
        self.questions.retain(|_, question| {
            question.tallies.retain(|id| tallies.contains_key(id));
            !question.tallies.is_empty()
        });
        self.run(tools);
    }

    /// Does all that can be done now. Every step uses up a pending block or a question.
    fn run(&mut self, tools: &mut Tools<'_>) {
        while self.start_next(tools) || self.ask_next(tools) {}
        if self.questions.is_empty() {
            self.linger = None;
        }
        self.report(tools);
    }

    /// Begins to count the next block, one of each client in turn; false if there is none, or enough are under way.
    fn start_next(&mut self, tools: &mut Tools<'_>) -> bool {
        if self.tallies.len() >= COUNTING_AT_ONCE || self.lookups.len() >= COUNT_LOOKUPS_MAX {
            return false;
        }
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let in_turn = self.clients.range((after, Bound::Unbounded));
        let mut in_turn = in_turn.chain(&self.clients);
        let next = in_turn.find(|(_, it)| !it.pending.is_empty());
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
            copies: 0,
            answered: 0,
        };
        self.tallies.insert(id, tally);
        self.locate(tools, id, block);
        true
    }

    /// Finds out who should have a block; [`Counts::located`] goes on from there.
    fn locate(&mut self, tools: &mut Tools<'_>, id: TallyId, block: BlockId) {
        match &self.whole_network {
            Some((at, contacts)) if tools.now.since(*at) < WHOLE_NETWORK_FOR => {
                let contacts = contacts.clone();
                self.located(tools, id, &contacts);
            }
            _ => {
                let lookup = tools.dht.find_closest(tools.now, block.into());
                self.lookups.insert(lookup, id);
            }
        }
    }

    /// A lookup has ended; the contacts are live. One that is not ours is ignored.
    pub fn handle_closest(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        contacts: &[Contact],
    ) {
        let Some(id) = self.lookups.remove(&lookup) else {
            return;
        };
        if !contacts.is_empty() && contacts.len() < K {
            self.whole_network = Some((tools.now, contacts.to_vec()));
        }
        self.located(tools, id, contacts);
        self.run(tools);
    }

    /// Has everybody in a block's neighbourhood asked for it.
    fn located(&mut self, tools: &mut Tools<'_>, id: TallyId, contacts: &[Contact]) {
        let Some(tally) = self.tallies.get_mut(&id) else {
            return;
        };
        tally.waiting = contacts.len();
        if contacts.is_empty() {
            return self.finish(tools, id);
        }
        for contact in contacts {
            let question = self.questions.entry(contact.id);
            let question = question.or_insert_with(|| Question {
                contact: *contact,
                tallies: VecDeque::new(),
            });
            question.tallies.push_back(id);
            if question.tallies.len() >= HAVE_MAX {
                self.ready.insert(contact.id);
            }
        }
        self.linger.get_or_insert(tools.now + COUNT_LINGER);
    }

    /// No question waits for more to go with it.
    fn ask_all(&mut self) {
        self.ready.extend(self.questions.keys());
        self.linger = None;
    }

    /// Asks a contact for as many blocks as a datagram holds: one for which there are as many, or anybody when nothing
    /// is being located, or when some have waited for long enough. False if there is nobody, or enough is on its way.
    fn ask_next(&mut self, tools: &mut Tools<'_>) -> bool {
        if self.asked.len() >= COUNT_REQUESTS_MAX {
            return false;
        }
        if self.ready.is_empty() && self.lookups.is_empty() {
            self.ask_all();
        }
        let Some(peer) = self.ready.pop_first() else {
            return false;
        };
        let Some(question) = self.questions.get_mut(&peer) else {
            return true;
        };
        let contact = question.contact;
        let (mut ids, mut blocks) = (Vec::new(), Vec::new());
        while ids.len() < HAVE_MAX {
            let Some(id) = question.tallies.pop_front() else {
                break;
            };
            if let Some(tally) = self.tallies.get(&id) {
                ids.push(id);
                blocks.push(tally.block);
            }
        }
        match question.tallies.len() {
            0 => {
                self.questions.remove(&peer);
            }
            HAVE_MAX.. => {
                self.ready.insert(peer);
            }
            _ => {
                self.linger.get_or_insert(tools.now + COUNT_LINGER);
            }
        }
        if !ids.is_empty() {
            let count = tools.dht.count_have(tools.now, contact, &blocks);
            self.asked.insert(count, ids);
        }
        true
    }

    /// A contact has said which blocks it has, or has not answered. A count that is not ours is ignored.
    pub fn handle_counted(
        &mut self,
        tools: &mut Tools<'_>,
        count: CountId,
        bitmap: Option<Bitmap>,
    ) {
        let Some(ids) = self.asked.remove(&count) else {
            return;
        };
        for (index, id) in ids.into_iter().enumerate() {
            let Some(tally) = self.tallies.get_mut(&id) else {
                continue;
            };
            tally.waiting -= 1;
            if let Some(bitmap) = bitmap {
                tally.answered += 1;
                tally.copies += u8::from(bitmap.holds(index));
            }
            if tally.waiting == 0 {
                self.finish(tools, id);
            }
        }
        self.run(tools);
    }

    fn finish(&mut self, tools: &mut Tools<'_>, id: TallyId) {
        let Some(tally) = self.tallies.remove(&id) else {
            return;
        };
        if let Some(client) = self.clients.get_mut(&tally.client) {
            client.under_way -= 1;
            client.counted.push(Counted {
                id: tally.block,
                copies: tally.copies,
                answered: tally.answered,
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
        if self.linger.is_some_and(|at| at <= tools.now) {
            self.ask_all();
            self.run(tools);
        }
    }

    /// When to call [`Counts::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.linger
    }
}

#[cfg(test)]
mod tests;
