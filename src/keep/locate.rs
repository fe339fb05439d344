//! Where blocks belong: many at once by regions, one alone where some around it are not to be had. What is located is
//! known to its owner by a ticket. Used by placing and by counting.

use super::Tools;
use crate::dht::{LocateId, Located, LookupId};
use crate::id::{BlockId, NodeId};
use crate::limits::K;
use crate::time::Instant;
use crate::wire::contact::Contact;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a lookup that found fewer than K contacts, and so the whole network, serves for other blocks.
pub const WHOLE_NETWORK_FOR: Duration = Duration::from_secs(10);

/// All that one owner has located.
pub struct Locating<T> {
    /// To be located with others.
    waiting: Vec<(BlockId, T)>,
    /// What is being located.
    pub locates: BTreeMap<LocateId, Vec<(BlockId, T)>>,
    /// Blocks that are looked up alone.
    pub lookups: BTreeMap<LookupId, T>,
    /// The contacts of a network with fewer than K, and when they were found.
    pub whole_network: Option<(Instant, Vec<Contact>)>,
}

impl<T> Default for Locating<T> {
    fn default() -> Self {
        Locating {
            waiting: Vec::new(),
            locates: BTreeMap::new(),
            lookups: BTreeMap::new(),
            whole_network: None,
        }
    }
}

impl<T: Copy> Locating<T> {
    /// A block is to be located; with all others that are until [`Locating::begin`].
    pub fn add(&mut self, block: BlockId, ticket: T) {
        self.waiting.push((block, ticket));
    }

    /// Begins to locate what was added, which [`Locating::handle_located`] ends; in a small network the contacts may be
    /// known, and the tickets are returned with them. `None` if nothing was added.
    pub fn begin(&mut self, tools: &mut Tools<'_>) -> Option<(Vec<T>, Vec<Contact>)> {
        let blocks = std::mem::take(&mut self.waiting);
        if blocks.is_empty() {
            return None;
        }
        match &self.whole_network {
            Some((at, contacts)) if tools.now.since(*at) < WHOLE_NETWORK_FOR => {
                let tickets = blocks.into_iter().map(|(_, ticket)| ticket).collect();
                Some((tickets, contacts.clone()))
            }
            _ => {
                let ids = blocks.iter().map(|it| it.0);
                let locate = tools.dht.locate(tools.now, ids);
                self.locates.insert(locate, blocks);
                Some((Vec::new(), Vec::new()))
            }
        }
    }

    /// Blocks have been located. The tickets for them; `None` if they are not ours.
    pub fn handle_located(&mut self, now: Instant, located: &Located) -> Option<Vec<T>> {
        let Located {
            locate,
            blocks,
            contacts,
            ..
        } = located;
        let waiting = self.locates.get_mut(locate)?;
        if !contacts.is_empty() && contacts.len() < K {
            self.whole_network = Some((now, contacts.clone()));
        }
        let (located, rest): (Vec<_>, Vec<_>) = std::mem::take(waiting)
            .into_iter()
            .partition(|(block, _)| blocks.contains(block));
        match rest.is_empty() {
            true => drop(self.locates.remove(locate)),
            false => *waiting = rest,
        }
        Some(located.into_iter().map(|(_, ticket)| ticket).collect())
    }

    /// Looks for those closest to one block, who answer themselves.
    pub fn look_up(&mut self, tools: &mut Tools<'_>, block: BlockId, ticket: T) {
        let lookup = tools.dht.find_closest(tools.now, block.into());
        self.lookups.insert(lookup, ticket);
    }

    /// A lookup has ended: the ticket for it; `None` if it is not ours.
    pub fn handle_closest(&mut self, lookup: LookupId) -> Option<T> {
        self.lookups.remove(&lookup)
    }

    /// Ends what is done only for tickets that nobody waits for any more.
    pub fn retain(&mut self, tools: &mut Tools<'_>, is_wanted: impl Fn(&T) -> bool) {
        self.locates.retain(|&locate, blocks| {
            let is_any_wanted = blocks.iter().any(|(_, ticket)| is_wanted(ticket));
            if !is_any_wanted {
                tools.dht.cancel_locate(tools.now, locate);
            }
            is_any_wanted
        });
        self.lookups.retain(|&lookup, ticket| {
            let is_wanted = is_wanted(ticket);
            if !is_wanted {
                tools.dht.cancel(tools.now, lookup);
            }
            is_wanted
        });
    }

    /// A peer cannot be had, though it is one of the network.
    pub fn forget(&mut self, peer: &NodeId) {
        if let Some((_, contacts)) = &mut self.whole_network {
            contacts.retain(|contact| contact.id != *peer);
        }
    }

    /// Whether nothing is being located.
    pub fn is_idle(&self) -> bool {
        self.locates.is_empty() && self.lookups.is_empty()
    }
}
