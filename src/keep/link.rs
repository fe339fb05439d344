//! What peers are offered and sent, each over one connection for all jobs.

use super::job::{Job, JobId, Owner};
use super::{Keep, Outcome, Timer, Tools, RETRY_PAUSE};
use crate::id::{BlockId, NodeId};
use crate::limits::*;
use crate::store::Terms;
use crate::time::Instant;
use crate::transfer::{BlockHead, ConnId, Source};
use crate::wire::contact::Contact;
use crate::wire::frame::{Answer, ByeReason, Frame, Offered, PayloadFrame};
use std::collections::VecDeque;

/// What is taken off what is left of a lifetime when a block is passed on: who takes it rounds up to whole hours, and
/// its clock may be ahead by as much, and still it is kept no longer than here.
const LIFETIME_SLACK: u32 = 1800;

/// The jobs that wait for one peer, by how far they are with it.
pub struct Link {
    /// The peer.
    pub contact: Contact,
    /// The connection to it, once there is one.
    pub conn: Option<ConnId>,
    /// Since when it has waited for others, as there are as many connections as may be.
    pub waiting_since: Option<Instant>,
    /// It owes an answer and has not got on with it for long: nobody waits for it any more, though it may come.
    pub late: bool,
    /// Not yet offered.
    pub queue: VecDeque<JobId>,
    /// In the offer that has not been answered, in its order.
    pub offered: Vec<(JobId, BlockId)>,
    /// The peer wants them, and they have not been sent.
    pub wanted: VecDeque<(JobId, BlockId)>,
    /// Until when the disk is waited for to bring the first of them.
    pub cold_until: Option<Instant>,
    /// Sent and not acknowledged, with their lengths.
    pub in_flight: Vec<(JobId, BlockId, usize)>,
    /// Sum of the lengths in `in_flight`.
    pub in_flight_bytes: usize,
}

impl Link {
    /// A link to this peer with nothing to do.
    pub fn new(contact: Contact) -> Link {
        Link {
            contact,
            conn: None,
            waiting_since: None,
            late: false,
            queue: VecDeque::new(),
            offered: Vec::new(),
            wanted: VecDeque::new(),
            cold_until: None,
            in_flight: Vec::new(),
            in_flight_bytes: 0,
        }
    }

    /// The oldest job whose block of this address was sent; it is no longer in flight.
    pub fn take_in_flight(&mut self, block: &BlockId) -> Option<JobId> {
        let index = self
            .in_flight
            .iter()
            .position(|(_, sent, _)| sent == block)?;
        let (id, _, len) = self.in_flight.remove(index);
        self.in_flight_bytes -= len;
        Some(id)
    }

    /// All jobs that wait for this peer, in the order they came.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        let in_flight = self.in_flight.iter().map(|&(id, _, _)| id);
        let wanted = self.wanted.iter().map(|&(id, _)| id);
        let offered = self.offered.iter().map(|&(id, _)| id);
        let queue = self.queue.iter().copied();
        in_flight.chain(wanted).chain(offered).chain(queue)
    }
}

impl Keep {
    /// Has a link offer a job's block.
    pub(super) fn offer(&mut self, id: JobId, contact: Contact) {
        let link = self.links.entry(contact.id);
        let link = link.or_insert_with(|| Link::new(contact));
        if let Some(job) = self.jobs.get_mut(&id) {
            job.tried.insert(contact.id);
            if link.late {
                job.late.insert(contact.id);
            } else {
                job.outstanding += 1;
            }
        }
        // Jobs may have ended without a late link. Each other is in its queue once.
        let jobs_max = PLACING_AT_ONCE + PASSING_AT_ONCE + GIVING_AT_ONCE + RENEWING_AT_ONCE;
        if link.queue.len() >= jobs_max {
            link.queue.retain(|id| self.jobs.contains_key(id));
        }
        link.queue.push_back(id);
        self.ready.insert(contact.id);
    }

    /// Lets a link do what it can: connect, offer, send.
    pub(super) fn pump(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
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
                None => return self.wait_for_room(tools, peer),
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
            let Some(&(id, block)) = link.wanted.front() else {
                break;
            };
            // The job may have ended meanwhile, with its copies or with its client.
            let Some(job) = self.jobs.get(&id) else {
                link.wanted.pop_front();
                continue;
            };
            if tools.store.is_warm(&block) == Some(false) {
                let until = link.cold_until.get_or_insert_with(|| {
                    let next = link.wanted.iter().take(READ_AHEAD);
                    next.for_each(|(_, block)| tools.store.start_reading(block));
                    tools.now + COLD_WAIT
                });
                if tools.now < *until {
                    self.timers.set(Timer::Cold(peer), tools.now + GETS_PAUSE);
                    break;
                }
            }
            link.cold_until = None;
            link.wanted.pop_front();
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
            let copies = match job.passers.contains(&peer) {
                true => job.wanted as u8,
                false => 0,
            };
            let put = PayloadFrame::Put { lifetime, copies };
            tools.transfer.send_block(conn, put, head, Source::Store);
            tools.transfer.expect(tools.now, conn, 1);
            self.sent.0 += 1;
            self.sent.1 += len as u64;
            link.in_flight.push((id, block, len));
            link.in_flight_bytes += len;
        }
        let timer = Timer::Late(peer);
        let owes = tools.transfer.owed_since(conn).is_some();
        if owes && !link.late && !self.timers.is_set(timer) {
            self.timers.set(timer, tools.now + LATE_AFTER);
        }
    }

    /// The disk may have brought a block that a peer wants.
    pub(super) fn look_at_cold(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
        self.ready.insert(peer);
        self.run(tools);
    }

    /// There is no connection to be had with a peer: if that is because all are in use, it waits until one is not.
    fn wait_for_room(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let since = *link.waiting_since.get_or_insert(tools.now);
        let is_over = tools.now >= since + ROOM_WAIT_MAX;
        if is_over || tools.transfer.is_shunned(tools.now, &peer) {
            return self.drop_link(tools, peer, |_| Outcome::Refuses(None));
        }
        if !self.unconnected.contains(&peer) {
            self.unconnected.push_back(peer);
        }
        if !self.timers.is_set(Timer::Room) {
            self.timers.set(Timer::Room, tools.now + RETRY_PAUSE);
        }
    }

    /// A connection may have become idle: who waits the longest may have it.
    fn offer_room(&mut self) {
        self.ready.extend(self.unconnected.pop_front());
    }

    /// All who wait for a connection try again.
    pub(super) fn offer_room_to_all(&mut self, tools: &mut Tools<'_>) {
        self.ready.extend(self.unconnected.drain(..));
        self.run(tools);
    }

    /// If a peer has not got on with what it owes, others are offered what it was to take: one that is slow, or
    /// means ill, must not hold up a share.
    pub(super) fn check_late(&mut self, tools: &mut Tools<'_>, peer: NodeId) {
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
        self.offer_room();
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
            None => Outcome::Stores,
            refusal => Outcome::Refuses(refusal),
        };
        self.results.push_back((id, peer, outcome));
        self.ready.insert(peer);
        self.offer_room();
        self.run(tools);
    }

    /// A connection is over: what it was to bring is looked for elsewhere.
    pub fn handle_closed(&mut self, tools: &mut Tools<'_>, conn: ConnId) {
        self.also_sent.retain(|it| it.1 != conn);
        if let Some(peer) = self.by_conn.get(&conn).copied() {
            self.drop_link(tools, peer, Outcome::CutOff);
            self.offer_room();
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
        self.timers.stop(Timer::Cold(peer));
        let results = link.jobs().map(|id| (id, peer, outcome(link.contact)));
        self.results.extend(results);
    }
}

/// What is left of a block's lifetime, in seconds; 0 of one that is not here.
pub fn lifetime_left(now: Instant, terms: Option<Terms>) -> u32 {
    let end = terms.map_or(0, |terms| u64::from(terms.expires) * 3600);
    u32::try_from(end.saturating_sub(now.as_secs())).unwrap_or(u32::MAX)
}

/// For how many seconds others are to keep a job's block: only a client and a pin may lengthen its life.
fn lifetime_to_give(tools: &Tools<'_>, job: &Job) -> u32 {
    let left = lifetime_left(tools.now, tools.store.terms(&job.block));
    match job.owner {
        Owner::Session(..) => left,
        Owner::Renewal => LIFETIME_MAX.as_secs() as u32,
        Owner::Source(..) | Owner::Nobody => left.saturating_sub(LIFETIME_SLACK),
    }
}

/// A peer answers what it was not asked.
fn unasked(tools: &mut Tools<'_>, conn: ConnId) {
    tools
        .transfer
        .bye(conn, ByeReason::Protocol, "an answer to what was not asked");
}
