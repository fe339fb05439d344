//! Pins: whole files that are kept. Each is walked from its root, in slices, so that its blocks are marked in the
//! store; what is missing is fetched from the network.
//!
//! A pin is recorded when all of its file is here. Until then what is fetched for it is kept by its marks, which
//! hold as long as nothing is marked anew; so marking waits until no pin is being added. Called by the node, which
//! fetches and tells what it is asked to ([`Output`]).

use super::renew::is_due;
use crate::block::tree::{inline_max, TreeError};
use crate::block::walk::{Place, Walk};
use crate::block::{Form, Role};
use crate::id::BlockId;
use crate::limits::{PIN_OVERHEAD, PIN_RECHECK, PIN_STEPS, PIN_WANTS, RENEWALS_MAX, RESERVATION};
use crate::store::{Hold, Pin, Store, StoreError};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::frame::{Frame, MissingReason};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Who wants a file to be complete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Owner {
    /// A client that pins it.
    Client(ConnId),
    /// It is pinned, and something of it is missing.
    Upkeep(BlockId),
}

/// A file of which everything is to be here.
struct Adding {
    walk: Walk,
    /// What is looked for and has not come.
    wanted: BTreeSet<BlockId>,
    /// The root or node whose children come next, which is looked for.
    waits_for: Option<Place>,
    /// Whether all of the tree has been walked.
    has_ended: bool,
    /// Bytes of the file under what was found here, or fetched.
    bytes: u64,
}

/// The walk over all pins that tells what is kept.
struct Marking {
    pins: VecDeque<Pin>,
    walk: Option<(Walk, u64)>,
}

/// What the node is to do.
pub enum Output {
    /// Get a block from the network for the store, and say when it is there.
    Want(BlockId),
    /// Nobody waits for it any more.
    Unwant(BlockId),
    /// Tell a client.
    Tell(ConnId, Frame),
    /// Tell a client once all is durable.
    TellWhenDurable(ConnId, Frame),
}

/// All pins of a node.
pub struct Pins {
    adding: BTreeMap<Owner, Adding>,
    /// Who had the last slice.
    turn: Option<Owner>,
    marking: Option<Marking>,
    /// Whether all are to be marked anew.
    is_stale: bool,
    /// How many blocks of a pinned file are missing, if any are.
    missing: BTreeMap<BlockId, u64>,
    /// Whether that is known of all: they have been marked since the start.
    is_known: bool,
    /// Whether others are to be asked to keep what is pinned.
    renews: bool,
    /// Blocks that are due for that, as found when all were looked at last; at most `RENEWALS_MAX`.
    due: BTreeMap<BlockId, Role>,
    recheck_at: Instant,
    /// Damaged places of the store when this was looked at last.
    damaged: u64,
    outputs: VecDeque<Output>,
}

impl Pins {
    /// Begins to mark what is pinned in a store that was just opened; whether to find what is due for renewal.
    pub fn new(now: Instant, store: &dyn Store, renews: bool) -> Pins {
        let usage = store.usage();
        Pins {
            adding: BTreeMap::new(),
            turn: None,
            marking: None,
            is_stale: usage.pins > 0,
            missing: BTreeMap::new(),
            is_known: usage.pins == 0,
            renews,
            due: BTreeMap::new(),
            recheck_at: now + PIN_RECHECK,
            damaged: usage.damaged,
            outputs: VecDeque::new(),
        }
    }

    /// Panics if a limit is exceeded; for a driver that looks for faults.
    pub fn check(&self) {
        assert!(self.due.len() <= RENEWALS_MAX);
    }

    /// A client pins a file. One that has not been answered is taken back.
    pub fn add(&mut self, client: ConnId, root: BlockId) {
        self.abandon(Owner::Client(client));
        self.begin(Owner::Client(client), root);
    }

    /// Whether a file is pinned, but no longer.
    pub fn remove(&mut self, store: &mut dyn Store, root: &BlockId) -> Result<bool, StoreError> {
        let was = store.remove_pin(root)?;
        if was {
            self.missing.remove(root);
            // What others pin as well is found again.
            self.due.clear();
            self.abandon(Owner::Upkeep(*root));
            self.is_stale = true;
        }
        Ok(was)
    }

    /// How many blocks of a pinned file are known to be missing.
    pub fn missing(&self, root: &BlockId) -> u64 {
        self.missing.get(root).copied().unwrap_or(0)
    }

    /// The files that are pinned and of which everything is here, as far as is known.
    pub fn whole(&self, store: &dyn Store) -> impl Iterator<Item = BlockId> + '_ {
        let pins = match self.is_known {
            true => store.pins(),
            false => Vec::new(),
        };
        let roots = pins.into_iter().map(|pin| pin.root);
        roots.filter(|root| !self.missing.contains_key(root))
    }

    /// Whether a block is due for renewal.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Blocks that are due for renewal, one at a time, in the order of their addresses; by now they may not be.
    pub fn poll_due(&mut self) -> Option<(BlockId, Role)> {
        self.due.pop_first()
    }

    fn note_due(&mut self, now: Instant, store: &dyn Store, id: BlockId, role: Role) {
        if self.renews && self.due.len() < RENEWALS_MAX && is_due(now, &id, store.terms(&id)) {
            self.due.insert(id, role);
        }
    }

    /// A client has gone: what it was pinning stays where it is, and is not pinned.
    pub fn handle_closed(&mut self, client: ConnId) {
        self.abandon(Owner::Client(client));
    }

    /// What is to be done, one at a time.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether there is a slice of work to be done now.
    pub fn has_work(&self) -> bool {
        self.marking.is_some()
            || self.is_stale && self.adding.is_empty()
            || self.adding.values().any(Adding::is_able)
    }

    /// When to look again whether all that is pinned is here.
    pub fn next_recheck(&self) -> Instant {
        self.recheck_at
    }

    /// Looks again, if it is time or something was found damaged.
    pub fn recheck(&mut self, now: Instant, store: &dyn Store) {
        let usage = store.usage();
        let is_damaged = usage.damaged > self.damaged;
        self.damaged = usage.damaged;
        if now >= self.recheck_at {
            self.recheck_at = now + PIN_RECHECK;
        } else if !is_damaged {
            return;
        }
        self.is_stale |= usage.pins > 0;
    }

    fn begin(&mut self, owner: Owner, root: BlockId) {
        let adding = Adding {
            walk: Walk::new(root),
            wanted: BTreeSet::new(),
            waits_for: None,
            has_ended: false,
            bytes: 0,
        };
        self.adding.insert(owner, adding);
    }

    fn abandon(&mut self, owner: Owner) {
        let Some(adding) = self.adding.remove(&owner) else {
            return;
        };
        // What was marked for a client is not pinned.
        self.is_stale |= matches!(owner, Owner::Client(_));
        for id in adding.wanted {
            let is_wanted = |other: &Adding| other.wanted.contains(&id);
            if !self.adding.values().any(is_wanted) {
                self.outputs.push_back(Output::Unwant(id));
            }
        }
    }

    /// Does a slice of work: [`PIN_STEPS`] blocks, of which one at most is read.
    pub fn work(&mut self, now: Instant, store: &mut dyn Store) {
        if let Some(marking) = self.marking.take() {
            self.mark_some(now, store, marking);
        } else if let Some(owner) = self.next_owner() {
            self.turn = Some(owner);
            self.add_some(store, owner);
        } else if self.is_stale && self.adding.is_empty() {
            self.is_stale = false;
            store.begin_marking();
            self.marking = Some(Marking {
                pins: store.pins().into(),
                walk: None,
            });
        }
    }

    /// Whose slice it is: the next in turn that can do something.
    fn next_owner(&self) -> Option<Owner> {
        let able = self.adding.iter();
        let able = able.filter(|(_, adding)| adding.is_able());
        let mut able: Vec<Owner> = able.map(|(owner, _)| *owner).collect();
        let turn = self.turn;
        able.sort_by_key(|owner| turn.is_some_and(|turn| *owner <= turn));
        able.first().copied()
    }

    fn mark_some(&mut self, now: Instant, store: &mut dyn Store, mut marking: Marking) {
        for _ in 0..PIN_STEPS {
            let Some((walk, missing)) = &mut marking.walk else {
                let Some(pin) = marking.pins.pop_front() else {
                    store.end_marking();
                    self.is_known = true;
                    return self.repair(Bound::Unbounded);
                };
                if pin.len <= inline_max(Form::Encrypted) as u64 {
                    // All of it is in its root, which need not be read.
                    let missing = u64::from(!store.mark(&pin.root));
                    self.set_missing(pin.root, missing);
                    self.note_due(now, store, pin.root, Role::Root);
                } else {
                    marking.walk = Some((Walk::new(pin.root), 0));
                }
                continue;
            };
            let Some(place) = walk.poll_next() else {
                let (root, missing) = (walk.root(), *missing);
                marking.walk = None;
                self.set_missing(root, missing);
                continue;
            };
            let is_here = store.mark(&place.id);
            let role = walk.role(&place);
            self.note_due(now, store, place.id, role);
            if role == Role::Leaf {
                *missing += u64::from(!is_here);
                continue;
            }
            // A file is recorded as pinned when its tree was found right: what is wrong now is as good as missing.
            let entered = enter(store, walk, &place);
            *missing += u64::from(!matches!(entered, Some(Ok(()))));
            break;
        }
        self.marking = Some(marking);
    }

    fn set_missing(&mut self, root: BlockId, missing: u64) {
        match missing {
            0 => self.missing.remove(&root),
            _ => self.missing.insert(root, missing),
        };
    }

    /// Fetches what is missing of pinned files, one file after the other, from this one on.
    fn repair(&mut self, from: Bound<BlockId>) {
        let is_upkeep = |owner: &Owner| matches!(owner, Owner::Upkeep(_));
        if self.adding.keys().any(is_upkeep) {
            return;
        }
        let mut missing = self.missing.range((from, Bound::Unbounded));
        if let Some((&root, &missing)) = missing.next() {
            log::info!("{missing} blocks of pinned {root} are missing; they are fetched again");
            self.begin(Owner::Upkeep(root), root);
        }
    }

    fn add_some(&mut self, store: &mut dyn Store, owner: Owner) {
        for _ in 0..PIN_STEPS {
            let Some(adding) = self.adding.get_mut(&owner) else {
                return;
            };
            if adding.is_full() {
                break;
            }
            let Some(place) = adding.walk.poll_next() else {
                adding.has_ended = true;
                if adding.wanted.is_empty() {
                    self.complete(store, owner);
                }
                return;
            };
            let is_here = store.has(&place.id);
            if is_here {
                // From now on it is kept for the pin, and nothing else need hold it.
                store.mark(&place.id);
                store.release(&place.id, Hold::Kept);
            }
            if !is_here {
                // The same block may lie at several places.
                if adding.wanted.insert(place.id) {
                    self.outputs.push_back(Output::Want(place.id));
                }
                if adding.walk.role(&place) != Role::Leaf {
                    adding.waits_for = Some(place);
                    break;
                }
                continue;
            }
            if adding.walk.role(&place) == Role::Leaf {
                adding.bytes += adding.walk.bytes(&place);
                continue;
            }
            self.enter(store, owner, place);
            break;
        }
        self.tell_progress(owner);
    }

    /// A root or node is here: looks whether it is right, and goes on below it.
    fn enter(&mut self, store: &mut dyn Store, owner: Owner, place: Place) {
        let Some(adding) = self.adding.get_mut(&owner) else {
            return;
        };
        let was_root = adding.walk.length().is_none();
        match enter(store, &mut adding.walk, &place) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let failed = judge(&adding.walk, error);
                return self.fail(owner, failed);
            }
            // Found damaged just now: it is fetched.
            None => {
                adding.wanted.insert(place.id);
                adding.waits_for = Some(place);
                return self.outputs.push_back(Output::Want(place.id));
            }
        }
        let Some(len) = adding.walk.length().filter(|_| was_root) else {
            return;
        };
        let root = adding.walk.root();
        if let (Owner::Client(_), Err(text)) = (owner, check_room(store, root, len)) {
            self.fail(owner, Frame::Failed { status: 8, text });
        }
    }

    /// A block that was wanted is in the store now.
    pub fn handle_stored(&mut self, store: &mut dyn Store, id: BlockId) {
        store.mark(&id);
        let owners: Vec<Owner> = self.adding.keys().copied().collect();
        for owner in owners {
            let Some(adding) = self.adding.get_mut(&owner) else {
                continue;
            };
            if !adding.wanted.remove(&id) {
                continue;
            }
            match adding.waits_for.take_if(|place| place.id == id) {
                Some(place) => self.enter(store, owner, place),
                None => adding.bytes += store.check(&id).map_or(0, |(_, len)| u64::from(len)),
            }
            self.tell_progress(owner);
        }
    }

    /// A block that was wanted is not to be had.
    pub fn handle_missing(&mut self, id: BlockId, reason: MissingReason, asked: u32) {
        self.fail_all(&id, &Frame::Missing { id, reason, asked });
    }

    /// A block that was wanted has come, and cannot be stored.
    pub fn handle_refused(&mut self, id: BlockId, error: &StoreError) {
        let failed = Frame::Failed {
            status: if error.is_full() { 8 } else { 1 },
            text: format!("cannot pin: {error}"),
        };
        self.fail_all(&id, &failed);
    }

    fn fail_all(&mut self, id: &BlockId, frame: &Frame) {
        let wanted = self.adding.iter();
        let wanted = wanted.filter(|(_, adding)| adding.wanted.contains(id));
        let owners: Vec<Owner> = wanted.map(|(owner, _)| *owner).collect();
        for owner in owners {
            if let Some(adding) = self.adding.get_mut(&owner) {
                adding.wanted.remove(id);
            }
            self.fail(owner, frame.clone());
        }
    }

    fn fail(&mut self, owner: Owner, frame: Frame) {
        self.abandon(owner);
        match owner {
            Owner::Client(client) => self.outputs.push_back(Output::Tell(client, frame)),
            // It is looked for again when all is looked at again; until then marks tell what is here.
            Owner::Upkeep(root) => {
                log::warn!("pinned {root} is not complete: {frame:?}");
                self.repair(Bound::Excluded(root));
            }
        }
    }

    /// All of a file is here.
    fn complete(&mut self, store: &mut dyn Store, owner: Owner) {
        let Some(adding) = self.adding.remove(&owner) else {
            return;
        };
        let (root, len) = (adding.walk.root(), adding.walk.length().unwrap_or(0));
        match owner {
            Owner::Client(client) => {
                let output = match store.add_pin(Pin { root, len }) {
                    Ok(()) => {
                        let missing = 0;
                        let pinned = Frame::Pinned { root, len, missing };
                        Output::TellWhenDurable(client, pinned)
                    }
                    Err(error) => {
                        self.is_stale = true;
                        let status = if error.is_full() { 8 } else { 1 };
                        let text = format!("cannot pin: {error}");
                        Output::Tell(client, Frame::Failed { status, text })
                    }
                };
                self.outputs.push_back(output);
            }
            Owner::Upkeep(root) => {
                log::info!("pinned {root} is complete again");
                self.missing.remove(&root);
                self.repair(Bound::Excluded(root));
            }
        }
    }

    fn tell_progress(&mut self, owner: Owner) {
        let Owner::Client(client) = owner else {
            return;
        };
        let adding = self.adding.get(&owner);
        if let Some((adding, len)) = adding.and_then(|it| Some((it, it.walk.length()?))) {
            // A block that lies at several places is counted at each.
            let bytes = adding.bytes.min(len);
            let frame = Frame::Pinning { bytes, len };
            self.outputs.push_back(Output::Tell(client, frame));
        }
    }
}

impl Adding {
    fn is_full(&self) -> bool {
        self.wanted.len() >= PIN_WANTS
    }

    /// Whether there is something to be done before anything else has come.
    fn is_able(&self) -> bool {
        let is_at_end = self.has_ended && !self.wanted.is_empty();
        self.waits_for.is_none() && !self.is_full() && !is_at_end
    }
}

/// Reads a root or node from the store, and goes on below it; `None` if it is not there.
fn enter(store: &mut dyn Store, walk: &mut Walk, place: &Place) -> Option<Result<(), TreeError>> {
    let (kind, _) = store.check(&place.id)?;
    let payload = store.payload(&place.id)?.to_vec();
    Some(walk.enter(place, kind, &payload))
}

/// Whether a file of this length fits beside all that is pinned; what to say if not.
fn check_room(store: &dyn Store, root: BlockId, len: u64) -> Result<(), String> {
    let others = store.pins().into_iter().filter(|pin| pin.root != root);
    let others: u64 = others.map(|pin| pin.len).fold(0, u64::saturating_add);
    let needed = |len: u64| {
        len.saturating_add(len / PIN_OVERHEAD)
            .saturating_add(RESERVATION)
    };
    let usage = store.usage();
    let capacity = match usage.is_halved {
        true => usage.capacity_bytes / 2,
        false => usage.capacity_bytes,
    };
    if needed(others.saturating_add(len)) <= capacity {
        return Ok(());
    }
    let beside = match others {
        0 => String::new(),
        _ => format!(", beside {others} bytes that are pinned"),
    };
    Err(format!(
        "{root}: {len} bytes{beside} do not fit the allotment of {capacity} bytes; raise --capacity, or take \
         other pins back with strew pin rm"
    ))
}

/// What a client is told of a tree that is not right.
fn judge(walk: &Walk, error: TreeError) -> Frame {
    let status = match error {
        TreeError::NotRoot => 2,
        TreeError::Unknown { .. } => 1,
        _ => 6,
    };
    let text = format!("{}: {error}", walk.root());
    Frame::Failed { status, text }
}

#[cfg(test)]
mod tests;
