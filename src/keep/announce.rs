//! Announcements of this peer: which of its pinned files it makes known next, and when.
//!
//! A file that is here as a whole is announced to all who live around its root, again and again before they forget it;
//! one at a time, so that many pins cost no more than a few. What others announce is the DHT's. Called by the node.

use super::{Pins, Tools};
use crate::dht::LookupId;
use crate::id::BlockId;
use crate::limits::{ANNOUNCE_PAUSE, ANNOUNCE_PERIOD};
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::Request;
use std::collections::{BTreeMap, BTreeSet};

/// What a peer makes known of its pins.
pub struct Announcer {
    /// When each was begun to be announced last, of those that are pinned.
    announced: BTreeMap<BlockId, Instant>,
    /// What looks for those who live around a root.
    lookup: Option<(LookupId, BlockId)>,
    /// When to look what is to be announced; never by who does not serve.
    next: Option<Instant>,
    /// When another may be announced.
    free_at: Instant,
}

impl Announcer {
    /// Nothing has been announced. Begins when half of a pause has gone: by then the network is found.
    pub fn new(now: Instant, serve: bool) -> Announcer {
        Announcer {
            announced: BTreeMap::new(),
            lookup: None,
            next: serve.then(|| now + ANNOUNCE_PAUSE / 2),
            free_at: now,
        }
    }

    /// A file has just been pinned: it need not wait if none was announced lately.
    pub fn handle_pinned(&mut self, now: Instant) {
        let soon = self.free_at.max(now);
        self.next = self.next.map(|next| next.min(soon));
    }

    /// Begins to announce the next file, if it is time. Early is harmless. Goes through all pins.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>, pins: &Pins) {
        if self.next.is_none_or(|next| next > tools.now) {
            return;
        }
        self.next = Some(tools.now + ANNOUNCE_PAUSE);
        if tools.dht.is_client_mode() || !tools.dht.has_joined() {
            return;
        }
        let whole: BTreeSet<BlockId> = pins.whole(&*tools.store).collect();
        self.announced.retain(|root, _| whole.contains(root));
        let last = |root: &BlockId| self.announced.get(root).copied();
        let Some(&root) = whole.iter().min_by_key(|root| last(root)) else {
            return;
        };
        if last(&root).is_some_and(|last| tools.now.since(last) < ANNOUNCE_PERIOD) {
            return;
        }
        if let Some((last, _)) = self.lookup {
            tools.dht.cancel(tools.now, last);
        }
        self.announced.insert(root, tools.now);
        self.free_at = tools.now + ANNOUNCE_PAUSE;
        let lookup = tools.dht.find_closest(tools.now, root.into());
        self.lookup = Some((lookup, root));
    }

    /// A lookup has ended: those who were found are told. False if it is not ours.
    pub fn handle_closest(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        contacts: &[Contact],
    ) -> bool {
        let Some((_, root)) = self.lookup.take_if(|it| it.0 == lookup) else {
            return false;
        };
        for contact in contacts {
            // What they answer changes nothing: it is announced again in any case.
            tools.dht.query(tools.now, *contact, Request::Provide(root));
        }
        true
    }

    /// When to call [`Announcer::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Files that have been announced, and are still pinned as far as was known then.
    pub fn count(&self) -> usize {
        self.announced.len()
    }
}
