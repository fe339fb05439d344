//! Locating many blocks at once, region by region: a few requests tell the neighbourhoods of all blocks in one.
//!
//! The blocks of a call are sorted, so that those of one region stand together, and a region's contacts are the way
//! into the next. Called through [`Dht::locate`]; some regions are enumerated at a time, of all calls in their order.

use super::region::{Region, Step};
use super::requests::Purpose;
use super::{Dht, Event};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::{Reply, Request};
use std::collections::VecDeque;

/// A call of [`Dht::locate`]. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LocateId(pub u64);

/// What has been located of the blocks of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// Which call.
    pub locate: LocateId,
    /// Which of its blocks.
    pub blocks: Vec<BlockId>,
    /// All who live around them, in the order of their ids; the K closest of each block are among them. Most have
    /// answered, the rest was named by several that have.
    pub contacts: Vec<Contact>,
    /// Contacts asked.
    pub asked: usize,
}

/// A region that is being enumerated. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct RegionId(pub u64);

/// What is left of a call.
pub(super) struct Locate {
    /// In ascending order; of no region that has been begun.
    rest: VecDeque<BlockId>,
    /// Regions of it that are being enumerated.
    under_way: usize,
    /// Who lives in the region that was enumerated last.
    near: Vec<Contact>,
}

/// A region with the blocks for which it is enumerated.
pub(super) struct Enumeration {
    locate: LocateId,
    region: Region,
    blocks: Vec<BlockId>,
}

impl Enumeration {
    pub(super) fn handle_late(&mut self, peer: &NodeId, point: &Point) {
        self.region.on_late(peer, point);
    }

    pub(super) fn handle_failure(&mut self, peer: &NodeId, point: &Point) {
        self.region.on_failure(peer, point);
    }
}

impl Dht {
    /// By how many regions the network would be enumerated as a whole: to locate more blocks than that costs less than
    /// to look each up.
    pub fn region_count(&self, now: Instant) -> u64 {
        1 << self.far_buckets(now).min(63)
    }

    /// Locates these blocks: ends with an [`Event::Located`] for each, several together. Waits for the first join
    /// attempt; the caller bounds how many wait.
    pub fn locate(&mut self, now: Instant, blocks: impl IntoIterator<Item = BlockId>) -> LocateId {
        let mut rest: Vec<BlockId> = blocks.into_iter().collect();
        rest.sort_unstable();
        rest.dedup();
        self.next_id += 1;
        let id = LocateId(self.next_id);
        let locate = Locate {
            rest: rest.into(),
            under_way: 0,
            near: Vec::new(),
        };
        self.locates.insert(id, locate);
        self.settle(now);
        id
    }

    /// Forgets a call, which makes no further event; harmless if it has ended.
    pub fn cancel_locate(&mut self, now: Instant, id: LocateId) {
        self.locates.remove(&id);
        let regions = self.regions.iter();
        let regions = regions.filter(|(_, it)| it.locate == id).map(|it| *it.0);
        for region in regions.collect::<Vec<RegionId>>() {
            self.regions.remove(&region);
            self.abandon_region(region);
        }
        self.settle(now);
    }

    /// Begins as many regions as may be under way.
    pub(super) fn start_regions(&mut self, now: Instant) {
        while self.regions.len() < REGIONS_MAX {
            let mut locates = self.locates.iter();
            let waiting = locates.find(|(_, locate)| !locate.rest.is_empty());
            let Some((&id, _)) = waiting else {
                return;
            };
            self.start_region(now, id);
        }
    }

    fn start_region(&mut self, now: Instant, locate_id: LocateId) {
        let bits = self.far_buckets(now);
        let locate = self.locates.get(&locate_id);
        let Some(point) = locate.and_then(|it| it.rest.front()).copied() else {
            return;
        };
        let point = Point::from(point);
        let mut region = Region::new(point, bits);
        for contact in self.starting_points(now, &point) {
            region.add(contact);
        }
        let Some(locate) = self.locates.get_mut(&locate_id) else {
            return;
        };
        for contact in &locate.near {
            region.add(*contact);
        }
        let blocks = take_within(&mut locate.rest, &region);
        locate.under_way += 1;
        self.next_id += 1;
        let id = RegionId(self.next_id);
        let enumeration = Enumeration {
            locate: locate_id,
            region,
            blocks,
        };
        self.regions.insert(id, enumeration);
        self.pump_region(now, id);
    }

    /// Lets an enumeration ask whom it wants, and ends it when it is done.
    pub(super) fn pump_region(&mut self, now: Instant, id: RegionId) {
        loop {
            let may_ask = self.fresh < REQUESTS_MAX;
            let Some(enumeration) = self.regions.get_mut(&id) else {
                return;
            };
            match enumeration.region.next(may_ask) {
                Step::Ask(contact, point) => {
                    let purpose = Purpose::Region(id, point);
                    let request = Request::FindNode(point);
                    self.ask(now, contact.addr, Some(contact.id), purpose, request);
                }
                Step::Held => {
                    self.held = true;
                    return;
                }
                Step::Wait => return,
                Step::Done => return self.finish_region(id),
            }
        }
    }

    pub(super) fn region_answered(
        &mut self,
        now: Instant,
        id: RegionId,
        point: Point,
        from: Contact,
        client_mode: bool,
        reply: Reply,
    ) {
        let contacts = match reply {
            Reply::FindNode(contacts) => self.usable_of(now, &from, contacts),
            _ => Vec::new(),
        };
        if let Some(enumeration) = self.regions.get_mut(&id) {
            enumeration.region.on_reply(&from.id, &point, &contacts);
            if client_mode {
                // It helps to find others, but is itself none to be found.
                enumeration.region.on_failure(&from.id, &point);
            }
        }
        self.pump_region(now, id);
    }

    fn finish_region(&mut self, id: RegionId) {
        let Some(mut enumeration) = self.regions.remove(&id) else {
            return;
        };
        self.abandon_region(id);
        let contacts = enumeration.region.contacts();
        if let Some(locate) = self.locates.get_mut(&enumeration.locate) {
            // It may have become larger than it began.
            let more = take_within(&mut locate.rest, &enumeration.region);
            enumeration.blocks.extend(more);
            locate.near.clone_from(&contacts);
            locate.under_way -= 1;
            if locate.rest.is_empty() && locate.under_way == 0 {
                self.locates.remove(&enumeration.locate);
            }
        }
        self.events.push_back(Event::Located(Located {
            locate: enumeration.locate,
            blocks: enumeration.blocks,
            contacts,
            asked: enumeration.region.requests(),
        }));
    }

    /// The requests of an enumeration that has ended hold up no others. Looks at each request on its way.
    fn abandon_region(&mut self, id: RegionId) {
        self.abandon(|purpose| matches!(purpose, Purpose::Region(of, _) if *of == id));
    }
}

/// Takes the blocks of a region from a sorted list.
fn take_within(rest: &mut VecDeque<BlockId>, region: &Region) -> Vec<BlockId> {
    let prefix = region.prefix();
    let is_within = |block: &BlockId| prefix.contains(&(*block).into());
    let from = rest.iter().position(is_within).unwrap_or(0);
    let until = rest
        .iter()
        .skip(from)
        .take_while(|block| is_within(block))
        .count()
        + from;
    rest.drain(from..until).collect()
}
