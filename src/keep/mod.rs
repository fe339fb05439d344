//! Placing: what clients share goes to the neighbourhoods of its blocks, and the copies are counted.
//!
//! A [`Session`] is one client's share; a [`Job`] is one of its blocks on the way to its copies; a [`Link`] is
//! what one peer is offered and sent. Called by the node with what lookups and connections bring. [`Counts`] only
//! counts, for whoever wants to know.

mod ask;
mod count;
mod job;
mod link;
mod locate;
mod pins;
mod quota;
mod session;
mod upkeep;

pub use count::Counts;
pub use pins::{Output as PinOutput, Pins};
pub use quota::Quota;
pub use session::copies_wanted;
pub use upkeep::{PassOn, Upkeep};

use crate::block::Role;
use crate::dht::{Dht, LocateId, LookupId};
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::store::{Hold, Store, Terms};
use crate::time::Instant;
use crate::timers::Timers;
use crate::transfer::{BlockHead, ConnId, Source, Transfer};
use crate::wire::contact::Contact;
use crate::wire::frame::{Answer, ByeReason, Frame, Offered, PayloadFrame, Settled};
use job::{Job, JobId, Owner};
use link::Link;
use locate::Locating;
use session::Session;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// Pause between two tries to place blocks that have too few copies.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often a client is told of progress at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// What is taken off what is left of a lifetime when a block is passed on: who takes it rounds up to whole hours, and
/// its clock may be ahead by as much, and still it is kept no longer than here.
const LIFETIME_SLACK: u32 = 1800;

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
    /// Do some of what follows from the ends of shares.
    End,
}

/// What a peer's answer for a job is.
enum Outcome {
    /// It has the block, durably.
    Holds,
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
    /// All of them are: the client is told.
    Settled(ConnId, Settled),
}

/// All that a node places: its clients' shares, and what it sees to itself.
#[derive(Default)]
pub struct Keep {
    sessions: BTreeMap<ConnId, Session>,
    /// At most `PLACING_AT_ONCE` of clients, and `REPLICATING_AT_ONCE` of nobody.
    jobs: BTreeMap<JobId, Job>,
    /// Jobs of nobody.
    replicating: usize,
    /// What this peer sees to and has not begun, with the copies wanted; at most `REPLICATING_MAX`.
    unreplicated: VecDeque<(BlockId, usize)>,
    locating: Locating<JobId>,
    /// Peers that jobs are waiting for; a link goes with its connection.
    links: BTreeMap<NodeId, Link>,
    by_conn: BTreeMap<ConnId, NodeId>,
    /// What peers have answered for jobs, not yet acted upon.
    results: VecDeque<(JobId, NodeId, Outcome)>,
    /// Links that may be able to do something.
    ready: BTreeSet<NodeId>,
    /// Blocks passed on for upkeep, with those who have taken them.
    passed_on: VecDeque<(BlockId, BTreeSet<NodeId>)>,
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
    /// Begins a client's share: `copies` of each block are aimed at, fewer than `min_copies` are tried again.
    /// False, and nothing is begun, if the client's last share has not settled: its blocks are on their way.
    /// What is to be pinned stays under lease, however many copies there are.
    pub fn begin(&mut self, client: ConnId, copies: u8, min_copies: u8, pin: bool) -> bool {
        if self.sessions.contains_key(&client) {
            return false;
        }
        let copies = copies.min(COPIES_MAX);
        self.sessions
            .insert(client, Session::new(copies, min_copies.min(copies), pin));
        true
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
            .is_some_and(|session| session.pending.len() >= PLACING_MAX)
    }

    /// Takes on a block that the client added and the store has.
    pub fn add(&mut self, tools: &mut Tools<'_>, client: ConnId, block: BlockId, role: Role) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.add(block, role);
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
        self.jobs.len() - self.replicating
    }

    /// Sees to it that so many of the K closest peers to a block have it, this one included if it is one of them. What
    /// this peer does not have any more when its turn comes is left alone. False if as many wait as may.
    pub fn replicate(&mut self, tools: &mut Tools<'_>, block: BlockId, wanted: usize) -> bool {
        if self.unreplicated.len() >= REPLICATING_MAX {
            return false;
        }
        self.unreplicated.push_back((block, wanted.min(K)));
        self.run(tools);
        true
    }

    /// Whether one more block may be passed on now.
    pub fn may_pass_on(&self) -> bool {
        self.replicating < REPLICATING_AT_ONCE
    }

    /// Gives a block to so many of these who do not have it, in their order; ends with a [`Keep::poll_passed_on`].
    pub fn pass_on(&mut self, tools: &mut Tools<'_>, pass_on: PassOn) {
        let mut job = Job::new(Owner::Upkeep, pass_on.block, pass_on.copies);
        job.candidates = pass_on.candidates.into();
        job.is_looked_up = true;
        self.replicating += 1;
        let id = self.insert(job);
        self.place(tools, id);
        self.run(tools);
    }

    /// Blocks that have been passed on, each with those who have taken it.
    pub fn poll_passed_on(&mut self) -> Option<(BlockId, BTreeSet<NodeId>)> {
        self.passed_on.pop_front()
    }

    /// Ends the leases of blocks of which as many copies are counted as could be had, though fewer than were aimed
    /// at: what is larger than the allotment can only be shared by dropping them. Whether there were any.
    pub fn release_counted(&mut self, tools: &mut Tools<'_>) -> bool {
        let mut any = false;
        for session in self.sessions.values_mut() {
            for id in session.take_counted() {
                tools.store.release(&id, Hold::Leased);
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
        let jobs = self.jobs.values();
        let jobs = jobs.filter(|job| job.owner.is_client(client));
        let placing = jobs.map(|job| Ending::Release(job.block));
        self.endings.extend(placing);
        self.endings.extend(session.leased().map(Ending::Release));
        self.timers.set(Timer::End, tools.now);
        self.has_progressed = true;
        self.timers.stop(Timer::Retry(client));
        self.timers.stop(Timer::Progress(client));
        self.jobs.retain(|_, job| !job.owner.is_client(client));
        let jobs = &self.jobs;
        self.locating.retain(tools, |job| jobs.contains_key(job));
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
                return;
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
            started |= self.start_job(client);
        }
        while self.replicating < REPLICATING_AT_ONCE {
            let Some((block, wanted)) = self.unreplicated.pop_front() else {
                break;
            };
            if tools.store.has(&block) {
                self.replicating += 1;
                let id = self.insert(Job::new(Owner::Nobody, block, wanted));
                self.locating.add(block, id);
                started = true;
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

    fn start_job(&mut self, client: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return false;
        };
        let Some((block, role)) = session.start_next() else {
            return false;
        };
        let wanted = session.wanted(role);
        let id = self.insert(Job::new(Owner::Session(client, role), block, wanted));
        self.locating.add(block, id);
        true
    }

    fn insert(&mut self, job: Job) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, job);
        id
    }

    /// Finds out where the blocks that were begun belong; false if there are none.
    fn locate_all(&mut self, tools: &mut Tools<'_>) -> bool {
        let Some((ids, contacts)) = self.locating.begin(tools) else {
            return false;
        };
        for id in ids {
            self.begin_placing(tools, id, contacts.clone());
        }
        true
    }

    /// Blocks have been located; the contacts are all around them. False if they are not ours.
    pub fn handle_located(
        &mut self,
        tools: &mut Tools<'_>,
        locate: LocateId,
        blocks: &[BlockId],
        contacts: &[Contact],
    ) -> bool {
        let located = self
            .locating
            .handle_located(tools.now, locate, blocks, contacts);
        let Some(ids) = located else {
            return false;
        };
        for id in ids {
            self.begin_placing(tools, id, contacts.to_vec());
        }
        self.run(tools);
        true
    }

    fn begin_placing(&mut self, tools: &mut Tools<'_>, id: JobId, mut contacts: Vec<Contact>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let target = job.block.into();
        contacts.sort_by_cached_key(|contact| crate::id::Point::from(contact.id).distance(&target));
        contacts.truncate(2 * K);
        job.is_looked_up |= contacts.len() < K;
        if job.owner == Owner::Nobody {
            // It is one of the K itself, or was; nobody beyond them is to have the block.
            let own = tools.dht.id();
            let distance = |id: NodeId| crate::id::Point::from(id).distance(&target);
            let closer = contacts
                .iter()
                .take_while(|it| distance(it.id) < distance(own));
            if closer.count() < K {
                job.holders.insert(own);
            }
            contacts.truncate(K - job.holders.len());
        }
        contacts.retain(|contact| job.tried.insert(contact.id));
        job.candidates = contacts.into();
        self.place(tools, id);
    }

    /// A lookup has ended; the contacts are live, the closest first. They come back if it is not ours.
    pub fn handle_closest(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        contacts: Vec<Contact>,
    ) -> Option<Vec<Contact>> {
        let Some(job) = self.locating.handle_closest(lookup) else {
            return Some(contacts);
        };
        self.begin_placing(tools, job, contacts);
        self.run(tools);
        None
    }

    /// Offers the job's block to as many candidates as it lacks copies, not counting on those that are late; ends
    /// it when it has its copies or there is nobody left.
    fn place(&mut self, tools: &mut Tools<'_>, id: JobId) {
        while let Some(contact) = self.next_candidate(id) {
            if !tools.transfer.is_shunned(tools.now, &contact.id) {
                self.offer(id, contact);
            } else if let Some(job) = self.jobs.get_mut(&id) {
                job.is_lonely = true;
            }
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let is_over = job.outstanding == 0 && job.late.is_empty();
        if is_over && job.holders.len() < job.wanted && job.is_lonely && !job.is_looked_up {
            job.is_looked_up = true;
            return self.locating.look_up(tools, job.block, id);
        }
        if is_over || job.holders.len() >= job.wanted {
            self.finish(tools, id);
        }
    }

    /// The closest candidate that is to be offered the job's block, if one is; those that are late come last.
    fn next_candidate(&mut self, id: JobId) -> Option<Contact> {
        let job = self.jobs.get_mut(&id)?;
        if job.holders.len() + job.outstanding >= job.wanted {
            return None;
        }
        let links = &self.links;
        let is_late = |peer: &NodeId| links.get(peer).is_some_and(|link| link.late);
        let mut candidates = job.candidates.iter();
        let in_time = candidates.position(|contact| !is_late(&contact.id));
        job.candidates.remove(in_time.unwrap_or(0))
    }

    /// Has a link offer a job's block.
    fn offer(&mut self, id: JobId, contact: Contact) {
        let link = self.links.entry(contact.id);
        let link = link.or_insert_with(|| Link::new(contact));
        if let Some(job) = self.jobs.get_mut(&id) {
            if link.late {
                job.late.insert(contact.id);
            } else {
                job.outstanding += 1;
            }
        }
        // Jobs may have ended without a late link. Each other is in its queue once.
        if link.queue.len() >= PLACING_AT_ONCE + REPLICATING_AT_ONCE {
            link.queue.retain(|id| self.jobs.contains_key(id));
        }
        link.queue.push_back(id);
        self.ready.insert(contact.id);
    }

    /// A peer has answered for a job's block, or never will, or not in time.
    fn handle_result(&mut self, tools: &mut Tools<'_>, id: JobId, peer: NodeId, outcome: Outcome) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let was_late = job.late.remove(&peer);
        if !was_late {
            job.outstanding -= 1;
        }
        match outcome {
            Outcome::Holds => {
                job.holders.insert(peer);
            }
            Outcome::Refuses(reason) => {
                job.is_lonely |= reason.is_none();
                if let (Owner::Session(client, _), Some(reason)) = (job.owner, reason) {
                    if let Some(session) = self.sessions.get_mut(&client) {
                        session.handle_refusal(reason);
                    }
                }
            }
            // It may have been closed as idle just when we offered. Who is shunned is not offered it again.
            Outcome::CutOff(contact) => match job.cut_off.insert(peer) {
                true => job.candidates.push_front(contact),
                false => job.is_lonely = true,
            },
            Outcome::Late => {
                job.late.insert(peer);
                return self.place(tools, id);
            }
        }
        // Every answer is a sign of life for the client, who gives up on a share that stands still.
        if let Owner::Session(client, _) = job.owner {
            let progress = Timer::Progress(client);
            if !self.timers.is_set(progress) {
                self.timers.set(progress, tools.now + PROGRESS_PERIOD);
            }
        }
        self.place(tools, id);
    }

    fn finish(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let Owner::Session(client, role) = job.owner else {
            self.replicating -= 1;
            if job.owner == Owner::Upkeep {
                self.passed_on.push_back((job.block, job.holders));
            }
            return;
        };
        self.has_progressed = true;
        if let Some(session) = self.sessions.get_mut(&client) {
            if session.finish(job.block, role, &job.holders) {
                tools.store.release(&job.block, Hold::Kept);
            }
            self.check_settled(tools, client);
        }
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
                Some(Ending::Settled(client, settled)) => self.settled.push_back((client, settled)),
                None => return,
            }
        }
        self.timers.set(Timer::End, tools.now + WORK_PAUSE);
    }

    /// Lets a link do what it can: connect, offer, send.
    fn pump(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let conn = match link.conn {
            Some(conn) => conn,
            None => match tools.transfer.reach(tools.now, &link.contact) {
                Some(conn) => {
                    link.conn = Some(conn);
                    self.by_conn.insert(conn, peer);
                    conn
                }
                None => return self.drop_link(tools, peer, |_| Outcome::Refuses(None)),
            },
        };
        if !tools.transfer.is_open(conn) {
            return;
        }
        // One offer at a time: those that wait meanwhile make the next one larger.
        if link.offered.is_empty() && !link.queue.is_empty() {
            let jobs = &self.jobs;
            let mut offers = Vec::new();
            while offers.len() < OFFER_MAX {
                let Some(id) = link.queue.pop_front() else {
                    break;
                };
                // The job may have ended with its client.
                if let Some(job) = jobs.get(&id) {
                    let lifetime = lifetime_to_give(tools, job);
                    offers.push(Offered {
                        id: job.block,
                        lifetime,
                    });
                    link.offered.push((id, job.block));
                }
            }
            if !offers.is_empty() {
                tools.transfer.send(conn, &Frame::Offer(offers));
                tools.transfer.expect(tools.now, conn, 1);
            }
        }
        while link.in_flight_bytes < PUT_WINDOW {
            let Some((id, block)) = link.wanted.pop_front() else {
                break;
            };
            // The job may have ended meanwhile, with its copies or with its client.
            let Some(job) = self.jobs.get(&id) else {
                continue;
            };
            let Some((kind, len)) = tools.store.check(&block) else {
                self.results.push_back((id, peer, Outcome::Refuses(None)));
                continue;
            };
            let len = len as usize;
            let head = BlockHead {
                id: block,
                kind,
                len,
            };
            let lifetime = lifetime_to_give(tools, job);
            let put = PayloadFrame::Put { lifetime };
            tools.transfer.send_block(conn, put, head, Source::Store);
            tools.transfer.expect(tools.now, conn, 1);
            link.in_flight.push((id, block, len));
            link.in_flight_bytes += len;
        }
        let timer = Timer::Late(peer);
        let owes = tools.transfer.owed_since(conn).is_some();
        if owes && !link.late && !self.timers.is_set(timer) {
            self.timers.set(timer, tools.now + LATE_AFTER);
        }
    }

    /// If a peer has not got on with what it owes, others are offered what it was to take: one that is slow, or
    /// means ill, must not hold up a share.
    fn check_late(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let since = link.conn.and_then(|conn| tools.transfer.owed_since(conn));
        let Some(at) = since.map(|since| since + LATE_AFTER) else {
            return;
        };
        if at > tools.now {
            return self.timers.set(Timer::Late(peer), at);
        }
        link.late = true;
        let late = link.jobs().map(|id| (id, peer, Outcome::Late));
        self.results.extend(late);
        self.run(tools);
    }

    /// Both sides of a connection have greeted.
    pub fn handle_opened(&mut self, tools: &mut Tools<'_>, conn: ConnId) {
        if let Some(&peer) = self.by_conn.get(&conn) {
            self.ready.insert(peer);
            self.run(tools);
        }
    }

    /// A peer answers our oldest offer.
    pub fn handle_want(&mut self, tools: &mut Tools<'_>, conn: ConnId, answers: Vec<Answer>) {
        let peer = self.by_conn.get(&conn).copied();
        let Some((peer, link)) = peer.and_then(|peer| Some((peer, self.links.get_mut(&peer)?)))
        else {
            return unasked(tools, conn);
        };
        if link.offered.is_empty() || answers.len() != link.offered.len() {
            return unasked(tools, conn);
        }
        tools.transfer.answered(tools.now, conn);
        link.late = false;
        for ((id, block), answer) in std::mem::take(&mut link.offered).into_iter().zip(answers) {
            match answer {
                Answer::Want => link.wanted.push_back((id, block)),
                Answer::Have => self.results.push_back((id, peer, Outcome::Holds)),
                Answer::Full
                | Answer::NotServing
                | Answer::Failed
                | Answer::TooFar
                | Answer::Quota => {
                    let refuses = Outcome::Refuses(Some(answer));
                    self.results.push_back((id, peer, refuses));
                }
            }
        }
        self.ready.insert(peer);
        self.run(tools);
    }

    /// A peer has stored a block, or says why it will not.
    pub fn handle_stored(
        &mut self,
        tools: &mut Tools<'_>,
        conn: ConnId,
        block: BlockId,
        refusal: Option<Answer>,
    ) {
        let peer = self.by_conn.get(&conn).copied();
        let Some((peer, link)) = peer.and_then(|peer| Some((peer, self.links.get_mut(&peer)?)))
        else {
            return unasked(tools, conn);
        };
        let Some(id) = link.take_in_flight(&block) else {
            return unasked(tools, conn);
        };
        tools.transfer.answered(tools.now, conn);
        link.late = false;
        let outcome = match refusal {
            None => Outcome::Holds,
            refusal => Outcome::Refuses(refusal),
        };
        self.results.push_back((id, peer, outcome));
        self.ready.insert(peer);
        self.run(tools);
    }

    /// A connection is over: what it was to bring is looked for elsewhere.
    pub fn handle_closed(&mut self, tools: &mut Tools<'_>, conn: ConnId) {
        if let Some(peer) = self.by_conn.get(&conn).copied() {
            self.drop_link(tools, peer, Outcome::CutOff);
            self.run(tools);
        }
    }

    /// Nothing more is heard of a peer: this is the outcome for all jobs that wait for it.
    fn drop_link(
        &mut self,
        tools: &mut Tools<'_>,
        peer: NodeId,
        outcome: impl Fn(Contact) -> Outcome,
    ) {
        let Some(link) = self.links.remove(&peer) else {
            return;
        };
        if let Some(conn) = link.conn {
            self.by_conn.remove(&conn);
        }
        if tools.transfer.is_shunned(tools.now, &peer) {
            self.locating.forget(&peer);
        }
        self.timers.stop(Timer::Late(peer));
        let results = link.jobs().map(|id| (id, peer, outcome(link.contact)));
        self.results.extend(results);
    }

    /// Tries again what has too few copies; tells clients how far they are. Early is harmless.
    pub fn handle_timeout(&mut self, tools: &mut Tools<'_>) {
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
        self.timers.next()
    }
}

/// What is left of a block's lifetime, in seconds; 0 of one that is not here.
pub fn lifetime_left(now: Instant, terms: Option<Terms>) -> u32 {
    let end = terms.map_or(0, |terms| u64::from(terms.expires) * 3600);
    u32::try_from(end.saturating_sub(now.as_secs())).unwrap_or(u32::MAX)
}

/// For how many seconds others are to keep a job's block: only a client may lengthen its life.
fn lifetime_to_give(tools: &Tools<'_>, job: &Job) -> u32 {
    let left = lifetime_left(tools.now, tools.store.terms(&job.block));
    match job.owner {
        Owner::Session(..) => left,
        Owner::Nobody | Owner::Upkeep => left.saturating_sub(LIFETIME_SLACK),
    }
}

/// A peer answers what it was not asked.
fn unasked(tools: &mut Tools<'_>, conn: ConnId) {
    tools
        .transfer
        .bye(conn, ByeReason::Protocol, "an answer to what was not asked");
}

#[cfg(test)]
mod tests;
