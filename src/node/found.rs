//! What the DHT has found, been told or been asked, handed on to whom it concerns.

use super::{Event, Node, Output};
use crate::dht;
use crate::limits::LIST_MAX;
use crate::store::Store;
use crate::time::Instant;
use crate::wire::datagram::{Reply, Request};
use crate::wire::frame::{Frame, PeerRole};
use log::{debug, info, warn};
use std::net::SocketAddr;

/// Reports of other versions kept for clients that ask why nobody was reached, at most; further ones are dropped.
pub(super) const OTHER_VERSIONS_MAX: usize = 8;

impl<S: Store> Node<S> {
    pub(super) fn handle_dht(&mut self, now: Instant, event: dht::Event) {
        match event {
            dht::Event::Joined { contacts } => {
                debug!("joined, {contacts} contacts");
                self.outputs.push_back(Output::Event(Event::Joined));
            }
            dht::Event::JoinFailed => debug!("nobody answered yet"),
            dht::Event::Closest {
                lookup, contacts, ..
            } => {
                let (counts, mut tools) = self.counts_tools(now);
                if counts.handle_closest(&mut tools, lookup, &contacts) {
                    return;
                }
                if self.announce_to(now, lookup, &contacts) {
                    return;
                }
                let (keep, mut tools) = self.keep_tools(now);
                if let Some(contacts) = keep.handle_closest(&mut tools, lookup, contacts) {
                    let event = Event::Closest { lookup, contacts };
                    self.outputs.push_back(Output::Event(event));
                }
            }
            dht::Event::Located(located) => {
                let (counts, mut tools) = self.counts_tools(now);
                if counts.handle_located(&mut tools, &located) {
                    return;
                }
                let (keep, mut tools) = self.keep_tools(now);
                if keep.handle_located(&mut tools, &located) {
                    return;
                }
                let (fetch, mut tools) = self.fetch_tools(now);
                if fetch.handle_located(&mut tools, &located) {
                    return;
                }
                let (upkeep, mut tools) = self.upkeep_tools(now);
                if upkeep.handle_located(&mut tools, &located) {
                    return;
                }
                self.outputs
                    .push_back(Output::Event(Event::Located(located)));
            }
            dht::Event::Holder { lookup, contact } => {
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.handle_holder(&mut tools, lookup, contact);
            }
            dht::Event::Provider { lookup, contact } => {
                self.counts.handle_provider(lookup, contact);
                self.fetch.handle_provider(lookup, contact);
            }
            dht::Event::HoldersDone {
                lookup,
                answered,
                heard,
                ..
            } => {
                let (counts, mut tools) = self.counts_tools(now);
                if counts.handle_holders_done(&mut tools, lookup) {
                    return;
                }
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.handle_holders_done(&mut tools, lookup, answered, &heard);
            }
            dht::Event::DialBack { to, nonce } => {
                let conn = self.transfer.dial(now, to, None);
                self.transfer.send(conn, &Frame::Dialed(nonce));
            }
            dht::Event::ClientMode(client_mode) => {
                if client_mode {
                    info!("not reachable from other networks: in client-mode");
                } else {
                    info!("reachable: open for blocks");
                }
                let role = match (self.config.serve, client_mode) {
                    (true, false) => PeerRole::Peer,
                    (true, true) => PeerRole::Unreachable,
                    (false, _) => PeerRole::Private,
                };
                self.transfer.set_role(role);
                self.outputs
                    .push_back(Output::Event(Event::ClientMode(client_mode)));
            }
            dht::Event::OtherVersion { addr, version } => self.handle_other_version(addr, version),
            dht::Event::Answered {
                query,
                contact,
                reply,
            } => {
                let (upkeep, mut tools) = self.upkeep_tools(now);
                if upkeep.handle_answered(&mut tools, query, &contact, &reply) {
                    return;
                }
                let bitmap = reply.as_ref().and_then(Reply::bitmap);
                let (counts, mut tools) = self.counts_tools(now);
                if !counts.handle_counted(&mut tools, query, bitmap) {
                    let (keep, mut tools) = self.keep_tools(now);
                    keep.handle_counted(&mut tools, query, bitmap);
                    let (fetch, mut tools) = self.fetch_tools(now);
                    fetch.handle_counted(&mut tools, query, bitmap);
                }
            }
            dht::Event::Asked { asker, request } => {
                if let Some(reply) = self.say_held(&request) {
                    self.dht.reply(now, asker, &reply);
                }
            }
        }
    }

    /// What is answered to a question on the blocks in a cell.
    pub(super) fn say_held(&mut self, request: &Request) -> Option<Reply> {
        match request {
            Request::Digest(cell, depth) => {
                let digests = self.store.digests(*cell, *depth);
                Some(Reply::Digest(digests.unwrap_or_default()))
            }
            Request::List(cell) => {
                let held = self.store.held(*cell, LIST_MAX + 1);
                let places = held.iter().map(|it| it.place).collect();
                Some(Reply::List((held.len() <= LIST_MAX).then_some(places)))
            }
            _ => None,
        }
    }

    pub(super) fn handle_other_version(&mut self, addr: SocketAddr, version: u8) {
        if self.remember_other_version(addr, version) {
            let ours = crate::wire::PROTOCOL_VERSION;
            warn!(
                "{addr} speaks protocol version {version}, this strew speaks {ours}; upgrade the older"
            );
        }
    }

    /// True if it was not known and is now. A stranger may come from ever new ports, and from many addresses: the
    /// first few are what a user can use, and all that is said.
    pub(super) fn remember_other_version(&mut self, addr: SocketAddr, version: u8) -> bool {
        let mut known = self.other_versions.iter();
        let is_known = known.any(|&(other, its)| (other.ip(), its) == (addr.ip(), version));
        if is_known || self.other_versions.len() >= OTHER_VERSIONS_MAX {
            return false;
        }
        self.other_versions.push((addr, version));
        true
    }
}
