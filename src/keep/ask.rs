//! Asking contacts by HAVE which blocks they have, many in a datagram. Who wants to know is known by a ticket. Used by
//! placing and by counting, each with its own.

use super::Tools;
use crate::dht::QueryId;
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::{Bitmap, Request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// For each ticket whether the contact has its block; `None` if it has not answered.
pub type Answers<T> = Vec<(T, Option<bool>)>;

/// What one contact is to be asked.
pub struct Question<T> {
    contact: Contact,
    blocks: VecDeque<(BlockId, T)>,
}

/// All that one owner asks.
pub struct Asking<T> {
    pub questions: BTreeMap<NodeId, Question<T>>,
    /// Whose questions need not wait for more to go with them.
    ready: BTreeSet<NodeId>,
    /// When all others have waited for long enough.
    linger: Option<Instant>,
    /// Who has been asked, and what, block for block. At most `COUNT_REQUESTS_MAX`.
    pub asked: BTreeMap<QueryId, (NodeId, Vec<T>)>,
}

impl<T> Default for Asking<T> {
    fn default() -> Self {
        Asking {
            questions: BTreeMap::new(),
            ready: BTreeSet::new(),
            linger: None,
            asked: BTreeMap::new(),
        }
    }
}

impl<T: Copy> Asking<T> {
    /// A contact is to be asked for a block; by [`Asking::ask_next`].
    pub fn add(&mut self, contact: Contact, block: BlockId, ticket: T) {
        let question = self.questions.entry(contact.id);
        let question = question.or_insert_with(|| Question {
            contact,
            blocks: VecDeque::new(),
        });
        question.blocks.push_back((block, ticket));
        if question.blocks.len() >= HAVE_MAX {
            self.ready.insert(contact.id);
        }
    }

    /// No question waits for more to go with it.
    fn hurry(&mut self) {
        self.ready.extend(self.questions.keys());
        self.linger = None;
    }

    /// Asks a contact for as many blocks as a datagram holds: one for which there are as many, or anybody when some
    /// have waited for so long. False if there is nobody, or enough is on its way.
    pub fn ask_next(&mut self, tools: &mut Tools<'_>, linger: Duration) -> bool {
        if self.questions.is_empty() {
            self.linger = None;
            return false;
        }
        if self.asked.len() >= COUNT_REQUESTS_MAX {
            return false;
        }
        if self.ready.is_empty() && linger.is_zero() {
            self.hurry();
        }
        let Some(peer) = self.ready.pop_first() else {
            self.linger.get_or_insert(tools.now + linger);
            return false;
        };
        let Some(question) = self.questions.get_mut(&peer) else {
            return true;
        };
        let contact = question.contact;
        let count = question.blocks.len().min(HAVE_MAX);
        let (blocks, tickets): (Vec<BlockId>, Vec<T>) = question.blocks.drain(..count).unzip();
        match question.blocks.len() {
            0 => drop(self.questions.remove(&peer)),
            HAVE_MAX.. => drop(self.ready.insert(peer)),
            _ => {}
        }
        let query = tools.dht.query(tools.now, contact, Request::Have(blocks));
        self.asked.insert(query, (peer, tickets));
        true
    }

    /// A contact has said which blocks it has, or has not answered. Which contact, and what that says; `None` if it was
    /// not asked here.
    pub fn handle_counted(
        &mut self,
        count: QueryId,
        bitmap: Option<Bitmap>,
    ) -> Option<(NodeId, Answers<T>)> {
        let (peer, tickets) = self.asked.remove(&count)?;
        let has = |index| bitmap.map(|bitmap| bitmap.holds(index));
        let answers = tickets.into_iter().enumerate();
        let answers = answers.map(|(index, it)| (it, has(index))).collect();
        Some((peer, answers))
    }

    /// Forgets what is to be asked for tickets that nobody waits for any more. What has been asked is answered all the
    /// same.
    pub fn retain(&mut self, is_wanted: impl Fn(&T) -> bool) {
        self.questions.retain(|_, question| {
            question.blocks.retain(|(_, ticket)| is_wanted(ticket));
            !question.blocks.is_empty()
        });
    }

    /// Whether nothing is to be asked, nor on its way.
    pub fn is_idle(&self) -> bool {
        self.questions.is_empty() && self.asked.is_empty()
    }

    /// Makes ready what has waited for long enough; whether it was so. Early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_over = self.linger.is_some_and(|at| at <= now);
        if is_over {
            self.hurry();
        }
        is_over
    }

    /// When to call [`Asking::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.linger
    }
}
