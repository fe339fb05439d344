//! A block that somebody waits for: who, whom it can be asked of, whom it has been asked of.

use super::Asker;
use crate::dht::LookupId;
use crate::id::NodeId;
use crate::limits::HEDGE_AFTER;
use crate::time::Instant;
use crate::wire::contact::Contact;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Wants are served in the order in which they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Turn(pub u64);

/// A block that somebody waits for.
pub struct Want {
    pub turn: Turn,
    pub askers: Vec<Asker>,
    /// It is no part of a file that whoever wants it is fetching: it may be the root of another.
    pub is_first: bool,
    /// Somebody has said that it holds it, and not only that it has the whole file.
    pub is_held: bool,
    /// Peers that say they hold it, or the whole file, and have not been asked.
    pub holders: Vec<Contact>,
    /// Peers that have been asked and owe an answer.
    pub asked: BTreeMap<NodeId, Contact>,
    /// Peers whose connection ended before they answered, once.
    pub cut_off: BTreeSet<NodeId>,
    /// Peers that were asked and did not give it.
    pub failed: BTreeSet<NodeId>,
    /// Those of them that were not even connected to, as they are shunned; none of them twice.
    pub shunned: Vec<Contact>,
    /// They have been tried all the same.
    pub is_last_try: bool,
    /// The lookup that is under way for it.
    pub lookup: Option<LookupId>,
    /// Lookups that have been begun for it.
    pub lookups: u32,
    /// The latest of them has found a holder that had not been asked.
    pub found: bool,
    /// Who was asked is late, and there was nobody else to ask: the next holder found is asked at once.
    pub late: bool,
    /// Until when the last that was asked should have given it.
    pub due: Instant,
    /// Who was asked last, when, and how many blocks it owed then with this one.
    pub last: Option<(NodeId, Instant, u32)>,
    /// How long the next that is asked has before it is late.
    pub pause: Duration,
    /// The most peers that answered one of its lookups.
    pub answered: usize,
    /// When the latest lookup began.
    pub looked_up: Instant,
    /// Peers that blocks are asked of, and that have answered a lookup for it.
    pub heard: BTreeSet<NodeId>,
    /// The latest lookup has not heard some that live: that it is not found is no answer yet.
    pub is_unheard: bool,
}

impl Want {
    /// Nobody is known who has it.
    pub fn new(turn: Turn, asker: Asker) -> Want {
        Want {
            turn,
            askers: vec![asker],
            is_first: false,
            is_held: false,
            holders: Vec::new(),
            asked: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            failed: BTreeSet::new(),
            shunned: Vec::new(),
            is_last_try: false,
            lookup: None,
            lookups: 0,
            found: false,
            late: false,
            due: Instant::EPOCH,
            last: None,
            pause: HEDGE_AFTER,
            answered: 0,
            looked_up: Instant::EPOCH,
            heard: BTreeSet::new(),
            is_unheard: false,
        }
    }

    /// A peer says that it holds the block. Whether it was not known to.
    pub fn add_holder(&mut self, contact: Contact) -> bool {
        self.is_held = true;
        self.add_source(contact)
    }

    /// A peer may hold the block. Whether it was not known to.
    pub fn add_source(&mut self, contact: Contact) -> bool {
        let is_known = self.failed.contains(&contact.id)
            || self.asked.contains_key(&contact.id)
            || self.holders.iter().any(|holder| holder.id == contact.id);
        if !is_known {
            self.holders.push(contact);
        }
        !is_known
    }
}
