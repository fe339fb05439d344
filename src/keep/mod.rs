//! Placing: what clients share goes to the neighbourhoods of its blocks, those who are given it pass it on, and the
//! copies are counted.
//!
//! A [`Session`] is one client's share; a [`Job`] is one block on the way to its copies, for a client, for a peer that
//! asks to have it passed on, or for nobody; a [`Link`] is what one peer is offered and sent. `place` says what a job
//! does next. Called by the node with what lookups and connections bring. [`Counts`] only counts, for whoever wants to
//! know; [`Announcer`] makes known which files are here as a whole, and [`Renewals`] has them kept by others.

mod announce;
mod ask;
mod check;
mod count;
mod job;
mod link;
mod locate;
mod passers;
mod pins;
mod place;
mod quota;
mod renew;
mod session;
mod upkeep;

pub use announce::Announcer;
pub use count::Counts;
pub use link::lifetime_left;
pub use pins::{Output as PinOutput, Pins};
pub use quota::{storing_budget, Quota};
pub use renew::Renewals;
pub use session::copies_wanted;
pub use upkeep::{Gift, Upkeep};

use crate::block::Role;
use crate::dht::Dht;
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::store::{Hold, Store};
use crate::time::Instant;
use crate::timers::Timers;
use crate::transfer::{ConnId, Transfer};
use crate::wire::contact::Contact;
use crate::wire::frame::{Answer, Settled, Wanted};
use ask::Asking;
use job::{Job, JobId, Owner};
use link::Link;
use locate::Locating;
use passers::Passers;
use session::Session;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// Pause between two tries to place blocks that have too few copies.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often a client is told of progress at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// The machines that placing uses, lent for one call.
pub struct Tools<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Finds neighbourhoods.
    pub dht: &'a mut Dht,
    /// Carries frames.
    pub transfer: &'a mut Transfer,
    /// Has the blocks.
    pub store: &'a mut dyn Store,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Try again to place the blocks of a session that have too few copies.
    Retry(ConnId),
    /// Tell the client of a session how far it is.
    Progress(ConnId),
    /// Look whether a peer gets on with what it owes.
    Late(NodeId),
    /// Look whether the disk has brought what a peer wants.
    Cold(NodeId),
    /// Count a job's copies again.
    Count(JobId),
    /// Look whether there is room for more connections.
    Room,
    /// Do some of what follows from the ends of shares.
    End,
}

/// What a peer's answer for a job is.
enum Outcome {
    /// It has the block, durably.
    Holds,
    /// It has it now, since it was sent.
    Stores,
    /// It has not, and will not; why, if it said so.
    Refuses(Option<Answer>),
    /// It may still answer, but it is not waited for.
    Late,
    /// The connection ended before the answer.
    CutOff(Contact),
}

/// What follows from the end of a share.
enum Ending {
    /// Its client has gone before it was done: the lease of this block ends.
    Release(BlockId),
    /// It is done, and this block has fewer copies than it wanted: it is held on.
    Keep(BlockId),
    /// It is done, and the own copy of this block is not wanted.
    Drop(BlockId),
    /// All of them are: the client is told.
    Settled(ConnId, Settled),
}

/// All that a node places: its clients' shares, and what it sees to itself.
#[derive(Default)]
pub struct Keep {
    sessions: BTreeMap<ConnId, Session>,
    /// At most `PLACING_AT_ONCE` of clients, and those that are counted below.
    jobs: BTreeMap<JobId, Job>,
    /// Jobs of those that others want passed on; at most `PASSING_AT_ONCE`.
    passing: usize,
    /// Jobs of upkeep; at most `GIVING_AT_ONCE`.
    giving: usize,
    /// Jobs of renewal; at most `RENEWING_AT_ONCE`.
    renewing: usize,
    /// Blocks that have been renewed.
    renewed: VecDeque<BlockId>,
    /// The jobs of clients by their blocks: each block has one.
    placing: BTreeMap<BlockId, JobId>,
    /// Clients whose blocks are being placed for another: they are placed when that is done.
    following: BTreeMap<BlockId, Vec<(ConnId, Role)>>,
    /// What others want passed on and has not been begun, with the copies wanted; at most `PASSING_MAX`.
    to_pass_on: VecDeque<(Owner, BlockId, usize)>,
    /// Who has sent a block that is passed on for another; at most `PASSING_MAX`.
    also_sent: BTreeSet<(BlockId, ConnId)>,
    locating: Locating<JobId>,
    asking: Asking<JobId>,
    passers: Passers,
    /// What has been passed on for each network.
    passed: Quota,
    /// Blocks sent by PUT, and bytes of their payloads.
    sent: (u64, u64),
    /// Peers that jobs are waiting for; a link goes with its connection.
    links: BTreeMap<NodeId, Link>,
    by_conn: BTreeMap<ConnId, NodeId>,
    /// Links that wait for a connection, as all are in use.
    unconnected: VecDeque<NodeId>,
    /// What peers have answered for jobs, not yet acted upon.
    results: VecDeque<(JobId, NodeId, Outcome)>,
    /// Links that may be able to do something.
    ready: BTreeSet<NodeId>,
    /// Blocks seen to for nobody that are done with, and how many have taken them.
    given: VecDeque<(BlockId, u64)>,
    /// What follows from the ends of shares, in order.
    endings: VecDeque<Ending>,
    /// Whether a block has been done with since this was asked last.
    has_progressed: bool,
    next_job: u64,
    /// Whose block was the last to be begun.
    turn: Option<ConnId>,
    timers: Timers<Timer>,
    settled: VecDeque<(ConnId, Settled)>,
}

impl Keep {
    /// Begins a client's share. False, and nothing is begun, if the client's last share has not settled: its blocks are
    /// on their way.
    pub fn begin(&mut self, client: ConnId, wants: Wanted) -> bool {
        if self.sessions.contains_key(&client) {
            return false;
        }
        self.sessions.insert(client, Session::new(wants));
        true
    }

    /// How long the blocks of a client's share are to be kept, in seconds.
    pub fn lifetime(&self, client: ConnId) -> u32 {
        let session = self.sessions.get(&client);
        session.map_or(LIFETIME_MAX.as_secs() as u32, Session::lifetime)
    }

    /// Whether this client has begun a share and not ended it.
    pub fn is_sharing(&self, client: ConnId) -> bool {
        self.sessions
            .get(&client)
            .is_some_and(|session| !session.is_settling())
    }

    /// Whether the client's next block should wait: too many of its blocks have not been placed.
    pub fn is_full(&self, client: ConnId) -> bool {
        self.sessions
            .get(&client)
            .is_some_and(|session| session.waiting() >= PLACING_MAX)
    }

    /// Takes on a block that the client added and the store has; whether it was not there before.
    pub fn add(
        &mut self,
        tools: &mut Tools<'_>,
        client: ConnId,
        block: BlockId,
        role: Role,
        is_new: bool,
    ) {
        if !is_new {
            let others = self.sessions.iter_mut().filter(|(&id, _)| id != client);
            others.for_each(|(_, session)| session.share_with_others(&block));
        }
        if let Some(session) = self.sessions.get_mut(&client) {
            session.add(block, role, is_new);
            self.run(tools);
        }
    }

    /// The client adds nothing more: the session ends when everything is placed as well as it can be.
    pub fn settle(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.settle_by(tools.now + PLACE_RETRY);
            self.check_settled(tools, client);
        }
    }

    /// Whether a block has been done with since this was asked last: there may be room now.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progressed)
    }

    /// Whether no client's block is being placed, nor about to be.
    pub fn is_idle(&self) -> bool {
        let mut sessions = self.sessions.values();
        self.placing() == 0 && sessions.all(|session| session.pending.is_empty())
    }

    /// How many clients' blocks are being placed.
    fn placing(&self) -> usize {
        self.jobs.len() - self.passing - self.giving - self.renewing
    }

    /// How many blocks are being renewed.
    pub fn renewing(&self) -> usize {
        self.renewing
    }

    /// Has the holders of a block keep it for a whole lifetime, and gives it to others where they are too few; ends with a
    /// [`Keep::poll_renewed`] if any does.
    pub fn renew(&mut self, tools: &mut Tools<'_>, block: BlockId, role: Role) {
        let wanted = copies_wanted(COPIES_DEFAULT, role).into();
        self.renewing += 1;
        let id = self.insert(Job::new(tools.now, Owner::Renewal, block, wanted));
        self.locating.add(block, id);
        self.run(tools);
    }

    /// Blocks that have been renewed, one at a time.
    pub fn poll_renewed(&mut self) -> Option<BlockId> {
        self.renewed.pop_front()
    }

    /// Whether one more block may be given to others now.
    pub fn may_give(&self) -> bool {
        self.giving < GIVING_AT_ONCE
    }

    /// Gives a block to so many of these who do not have it, in their order; ends with a [`Keep::poll_given`].
    pub fn give(&mut self, tools: &mut Tools<'_>, gift: Gift) {
        let mut job = Job::new(tools.now, Owner::Nobody, gift.block, gift.copies);
        job.candidates = gift.candidates.into();
        job.is_looked_up = true;
        self.giving += 1;
        let id = self.insert(job);
        self.place(tools, id);
        self.run(tools);
    }

    /// Blocks seen to for nobody that are done with, each with how many have taken it.
    pub fn poll_given(&mut self) -> Option<(BlockId, u64)> {
        self.given.pop_front()
    }

    /// A peer has sent a block that was not here over this connection, and asks this one to see to so many copies. If
    /// enough is done for others already, or for its network, it is not: the sharer counts.
    pub fn pass_on(
        &mut self,
        tools: &mut Tools<'_>,
        conn: ConnId,
        block: BlockId,
        len: usize,
        copies: u8,
    ) {
        let (peer, addr) = (tools.transfer.peer(conn), tools.transfer.addr(conn));
        let Some((source, addr)) = peer.zip(addr).filter(|_| copies > 1) else {
            return;
        };
        let (now, ip) = (tools.now, addr.ip());
        let bytes = (len as u64).max(BLOCK_CHARGE_MIN) * u64::from(copies - 1);
        let is_allowed = self.passed.allows(now, &ip, bytes, PASS_BUDGET);
        if !is_allowed || self.to_pass_on.len() >= PASSING_MAX {
            log::debug!("{block:?} is not passed on for {addr}: enough is");
            return;
        }
        self.passed.add(now, &ip, bytes, PASS_BUDGET);
        let task = (Owner::Source(conn, source), block, copies.into());
        self.to_pass_on.push_back(task);
        self.run(tools);
    }

    /// A peer has sent a block that was here, to be passed on. Whether that is being done: then it is told when it is
    /// done. Looks at all that is passed on.
    pub fn is_passing_on(&mut self, conn: ConnId, block: BlockId) -> bool {
        let mut jobs = self.jobs.values();
        let is_begun = jobs.any(|job| job.block == block && matches!(job.owner, Owner::Source(..)));
        let is_passed_on = is_begun || self.to_pass_on.iter().any(|task| task.1 == block);
        let is_told = is_passed_on && self.also_sent.len() < PASSING_MAX;
        if is_told {
            self.also_sent.insert((block, conn));
        }
        is_told
    }

    /// Those who have sent a block that was passed on for another, and is no more.
    fn take_also_sent(&mut self, block: BlockId) -> Vec<ConnId> {
        let all = (block, ConnId(0))..=(block, ConnId(u64::MAX));
        let also: Vec<ConnId> = self.also_sent.range(all).map(|it| it.1).collect();
        for conn in &also {
            self.also_sent.remove(&(block, *conn));
        }
        also
    }

    /// Blocks sent by PUT so far, and bytes of their payloads.
    pub fn sent(&self) -> (u64, u64) {
        self.sent
    }

    /// Ends the leases of blocks of which as many copies are counted as could be had, though fewer than were aimed
    /// at: what is larger than the allotment can only be shared by dropping them. Whether there were any.
    pub fn release_counted(&mut self, tools: &mut Tools<'_>) -> bool {
        let mut any = false;
        for session in self.sessions.values_mut() {
            for id in session.take_counted() {
                match session.take_fresh(&id) {
                    true => drop_own(tools.store, &id, Hold::Leased),
                    false => tools.store.release(&id, Hold::Leased),
                }
                any = true;
            }
        }
        any
    }

    /// Shares that have ended, one at a time.
    pub fn poll_settled(&mut self) -> Option<(ConnId, Settled)> {
        self.settled.pop_front()
    }

    /// The client is gone: what it shared stays where it is, the rest is not placed.
    pub fn handle_client_closed(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        let Some(session) = self.sessions.remove(&client) else {
            return;
        };
        self.following.retain(|_, waiting| {
            waiting.retain(|(waiting, _)| *waiting != client);
            !waiting.is_empty()
        });
        // What another shares as well stays under its lease.
        let jobs = self.jobs.values();
        let jobs = jobs
            .filter(|job| job.owner.is_client(client) && !self.following.contains_key(&job.block));
        let placing = jobs.map(|job| Ending::Release(job.block));
        self.endings.extend(placing);
        self.endings.extend(session.leased().map(Ending::Release));
        self.timers.set(Timer::End, tools.now);
        self.has_progressed = true;
        self.timers.stop(Timer::Retry(client));
        self.timers.stop(Timer::Progress(client));
        let jobs = self.jobs.iter();
        let jobs = jobs.filter(|(_, job)| job.owner.is_client(client));
        for id in jobs.map(|(id, _)| *id).collect::<Vec<JobId>>() {
            self.remove(id);
        }
        let jobs = &self.jobs;
        self.locating.retain(tools, |job| jobs.contains_key(job));
        self.asking.retain(|job| jobs.contains_key(job));
        self.run(tools);
    }

    /// Does all that can be done now. Every step uses up a result, a link that became ready, or a pending
    /// block, and makes at most a neighbourhood of new ones, each for a candidate it uses up.
    fn run(&mut self, tools: &mut Tools<'_>) {
        loop {
            if let Some((job, peer, outcome)) = self.results.pop_front() {
                self.handle_result(tools, job, peer, outcome);
            } else if let Some(peer) = self.ready.pop_first() {
                self.pump(tools, peer);
            } else if !self.start_jobs(tools) && !self.locate_all(tools) {
                let linger = self.linger();
                if !self.asking.ask_next(tools, linger) {
                    return;
                }
            }
        }
    }

    /// Begins as many jobs as may be under way, one of each session in turn: who shares much must not keep the
    /// others waiting. False if there is nothing to begin.
    fn start_jobs(&mut self, tools: &mut Tools<'_>) -> bool {
        let mut started = false;
        while self.placing() < PLACING_AT_ONCE {
            let Some(client) = self.next_turn() else {
                break;
            };
            self.turn = Some(client);
            started |= self.start_job(tools.now, client);
        }
        while self.passing < PASSING_AT_ONCE {
            let Some((owner, block, wanted)) = self.to_pass_on.pop_front() else {
                break;
            };
            if tools.store.has(&block) {
                self.passing += 1;
                let id = self.insert(Job::new(tools.now, owner, block, wanted));
                self.locating.add(block, id);
                started = true;
            } else {
                self.take_also_sent(block);
            }
        }
        started
    }

    /// Whose turn it is: the next after the last that has a block to place, in the order of their coming.
    fn next_turn(&self) -> Option<ConnId> {
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.sessions.range((after, Bound::Unbounded));
        let mut in_turn = later.chain(&self.sessions);
        in_turn
            .find(|(_, session)| !session.pending.is_empty())
            .map(|(&client, _)| client)
    }

    fn start_job(&mut self, now: Instant, client: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return false;
        };
        let Some((block, role)) = session.start_next() else {
            return false;
        };
        let placing = self.placing.get(&block);
        if let Some(job) = placing.and_then(|id| self.jobs.get_mut(id)) {
            // It is in the file more than once, or another shares it as well: to place it twice at the same time would
            // be to send it twice.
            match job.owner.is_client(client) {
                true => job.repeats += 1,
                false => {
                    session.follow();
                    let following = self.following.entry(block).or_default();
                    following.push((client, role));
                }
            }
            return true;
        }
        let wanted = session.wanted(role);
        let owner = Owner::Session(client, role);
        let id = self.insert(Job::new(now, owner, block, wanted));
        self.placing.insert(block, id);
        self.locating.add(block, id);
        true
    }

    fn insert(&mut self, job: Job) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, job);
        id
    }

    fn check_settled(&mut self, tools: &mut Tools<'_>, client: ConnId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if !session.is_settling() || !session.is_placed() {
            return;
        }
        if session.is_short() && session.may_retry(tools.now) {
            if !self.timers.is_set(Timer::Retry(client)) {
                self.timers
                    .set(Timer::Retry(client), tools.now + RETRY_PAUSE);
            }
            return;
        }
        let reached = tools.dht.reached_anybody();
        let settled = session.outcome(reached);
        for id in session.take_counted() {
            let is_dropped = session.take_fresh(&id);
            let ending = if is_dropped {
                Ending::Drop
            } else {
                Ending::Keep
            };
            self.endings.push_back(ending(id));
        }
        self.endings.extend(session.leased().map(Ending::Keep));
        self.endings.push_back(Ending::Settled(client, settled));
        self.sessions.remove(&client);
        self.timers.stop(Timer::Progress(client));
        self.end_some(tools);
    }

    /// Does some of what follows from the ends of shares: each block is looked up.
    fn end_some(&mut self, tools: &mut Tools<'_>) {
        for _ in 0..ENDINGS_PER_STEP {
            match self.endings.pop_front() {
                Some(Ending::Release(id)) => tools.store.release(&id, Hold::Leased),
                Some(Ending::Keep(id)) => tools.store.keep(&id),
                Some(Ending::Drop(id)) => drop_own(tools.store, &id, Hold::Leased),
                Some(Ending::Settled(client, settled)) => self.settled.push_back((client, settled)),
                None => return,
            }
        }
        self.timers.set(Timer::End, tools.now + WORK_PAUSE);
    }

    /// Tries again what has too few copies, and counts others; tells clients how far they are. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
        if self.asking.handle_timeout(tools.now) {
            self.run(tools);
        }
        while let Some(timer) = self.timers.pop_expired(tools.now) {
            match timer {
                Timer::Retry(client) => {
                    self.locating.whole_network = None;
                    if let Some(session) = self.sessions.get_mut(&client) {
                        session.retry();
                    }
                    self.run(tools);
                }
                Timer::Late(peer) => self.check_late(tools, peer),
                Timer::Cold(peer) => self.look_at_cold(tools, peer),
                Timer::Count(id) => self.count_again(tools, id),
                Timer::Room => self.offer_room_to_all(tools),
                Timer::End => self.end_some(tools),
                Timer::Progress(client) => {
                    if let Some(session) = self.sessions.get(&client) {
                        tools.transfer.send(client, &session.progress());
                    }
                }
            }
        }
    }

    /// When to call [`Keep::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        let all = [self.timers.next(), self.asking.next_timeout()];
        all.into_iter().flatten().min()
    }
}

/// Ends what holds an own copy, if it is no more than this, and takes it out if nothing else keeps it.
fn drop_own(store: &mut dyn Store, id: &BlockId, hold: Hold) {
    store.release(id, hold);
    let is_free = store.terms(id).is_some_and(|it| it.hold == Hold::Free);
    if is_free && !store.is_pinned(id) {
        if let Err(error) = store.remove(id) {
            log::warn!("{id}: the own copy stays: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
