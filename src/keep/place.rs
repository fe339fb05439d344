//! What is to be done next for a block: locate it, count who has it, offer it, wait for others to pass it on.

use super::job::{oldest_first, Job, JobId, Owner, Way};
use super::{drop_own, Keep, Outcome, Timer, Tools, PROGRESS_PERIOD};
use crate::dht::{Located, LookupId, QueryId};
use crate::id::{BlockId, NodeId, Point};
use crate::limits::*;
use crate::store::Hold;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use crate::wire::datagram::Bitmap;
use crate::wire::frame::Frame;
use std::time::Duration;

impl Keep {
    /// Finds out where the blocks that were begun belong; false if there are none.
    pub(super) fn locate_all(&mut self, tools: &mut Tools<'_>) -> bool {
        let Some((ids, contacts)) = self.locating.begin(tools) else {
            return false;
        };
        for id in ids {
            self.located(tools, id, contacts.clone());
        }
        true
    }

    /// Blocks have been located. False if they are not ours.
    pub fn handle_located(&mut self, tools: &mut Tools<'_>, located: &Located) -> bool {
        let Some(ids) = self.locating.handle_located(tools.now, located) else {
            return false;
        };
        for id in ids {
            self.located(tools, id, located.contacts.clone());
        }
        self.run(tools);
        true
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
        self.located(tools, job, contacts);
        self.run(tools);
        None
    }

    /// It is known who lives around a job's block, or, the second time, who else does.
    fn located(&mut self, tools: &mut Tools<'_>, id: JobId, contacts: Vec<Contact>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.locate(contacts, tools.dht.id());
        let is_retried = match job.owner {
            Owner::Session(client, _) => {
                let session = self.sessions.get(&client);
                session.is_some_and(|session| session.is_retrying())
            }
            Owner::Source(..) | Owner::Nobody | Owner::Renewal => false,
        };
        let is_first = job.counts == 0;
        job.plan_direct();
        if !job.owner.is_session() || is_first && !is_retried && job.may_be_passed_on() {
            self.connect_meanwhile(tools, id);
            self.count(tools, id);
        } else {
            self.place(tools, id);
        }
    }

    /// While a block's copies are counted, opens the connections that will probably be wanted then: where few blocks are
    /// placed, the round trips are what one waits for.
    fn connect_meanwhile(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|_| self.jobs.len() < HAVE_MAX) else {
            return;
        };
        let count = match job.owner {
            Owner::Session(..) => 1,
            Owner::Source(..) => job.missing(),
            Owner::Nobody | Owner::Renewal => 0,
        };
        for contact in job.candidates.iter().take(count) {
            if tools.transfer.counts().0 < CONNECTIONS_MAX / 2 {
                tools.transfer.reach(tools.now, contact);
            }
        }
    }

    /// Asks all of a block's neighbourhood who are not known to have it.
    fn count(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        self.timers.stop(Timer::Count(id));
        job.asked.clear();
        job.is_stale = false;
        self.ask(id);
        self.check_counted(tools, id);
    }

    /// Asks those who have not been asked in this count.
    fn ask(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        for contact in job.lacking() {
            if job.asked.insert(contact.id) {
                job.asking += 1;
                self.asking.add(contact, job.block, id);
            }
        }
    }

    /// How long a question may wait for others to the same contact: not at all where there are few.
    pub(super) fn linger(&self) -> Duration {
        match self.jobs.len() < HAVE_MAX && self.locating.is_idle() {
            true => Duration::ZERO,
            false => PLACE_LINGER,
        }
    }

    /// A contact has said which blocks it has, or has not answered. A count that is not ours is ignored.
    pub fn handle_counted(
        &mut self,
        tools: &mut Tools<'_>,
        count: QueryId,
        bitmap: Option<Bitmap>,
    ) {
        let Some((peer, answers)) = self.asking.handle_counted(count, bitmap) else {
            return;
        };
        for (id, has) in answers {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            job.asking -= 1;
            match has {
                Some(true) => drop(job.holders.insert(peer)),
                Some(false) => {}
                None => {
                    // Another is of the neighbourhood in its place.
                    job.mute.insert(peer);
                    job.candidates.retain(|it| it.id != peer);
                    job.is_lonely = true;
                    self.ask(id);
                }
            }
            self.check_counted(tools, id);
        }
        self.run(tools);
    }

    /// If all have answered, does what follows from the number of holders.
    fn check_counted(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.asking == 0) else {
            return;
        };
        if job.counts == 0 && job.renews() {
            self.renew_holders(id);
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.is_done() {
            return self.finish(tools, id);
        }
        if job.is_stale {
            return self.count(tools, id);
        }
        job.counts += 1;
        if !job.owner.is_session() {
            job.plan_share(tools.dht.id());
            return self.place(tools, id);
        }
        if job.holders.len() > job.grown.1 {
            job.grown = (tools.now, job.holders.len());
            job.has_grown = true;
            for peer in &job.awaited {
                self.passers.note_progress(tools.now, *peer);
            }
            self.tell_progress(tools, id);
        }
        if !self.is_patient(tools, id) {
            self.go_on(tools, id);
        }
    }

    /// Offers a block to those who have it: they keep it for the longer of the two times.
    fn renew_holders(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let holders = job.near.iter();
        let holders =
            holders.filter(|it| job.holders.contains(&it.id) && !job.tried.contains(&it.id));
        let holders: Vec<Contact> = holders.copied().collect();
        for contact in holders {
            self.offer(id, contact);
            if let Some(job) = self.jobs.get_mut(&id) {
                if !job.late.contains(&contact.id) {
                    job.renewing.insert(contact.id);
                }
            }
        }
    }

    /// Whether more copies can be expected of those who pass a job's block on; then it is counted again.
    fn is_patient(&mut self, tools: &mut Tools<'_>, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else {
            return false;
        };
        let Some(passed_at) = job.passed_at.filter(|_| !job.awaited.is_empty()) else {
            return false;
        };
        // Who passes on many gets to each in its turn.
        let signs = job
            .awaited
            .iter()
            .filter_map(|it| self.passers.progress(it));
        let last = signs.fold(job.grown.0, std::cmp::max);
        let until = (last + PASS_PATIENCE).min(passed_at + PASS_WAIT_MAX);
        if until > tools.now {
            self.timers.set(Timer::Count(id), until);
            return true;
        }
        for peer in std::mem::take(&mut job.awaited) {
            self.passers.take(peer, job.block);
            if !job.has_grown {
                self.passers.note_unwilling(tools.now, peer);
            }
        }
        false
    }

    /// Gives a client's block to the next who passes it on, or to all who lack it.
    fn go_on(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let (way, goal) = match job.may_be_passed_on() {
            true => (Way::Passing, job.holders.len() + 1),
            false => (Way::Direct, job.wanted),
        };
        (job.way, job.goal) = (way, goal);
        self.place(tools, id);
    }

    /// Offers the job's block to as many candidates as holders are lacking to its goal, not counting on those that are
    /// late; ends it when it has its copies or there is nobody left.
    pub(super) fn place(&mut self, tools: &mut Tools<'_>, id: JobId) {
        while let Some(contact) = self.next_candidate(tools, id) {
            self.offer(id, contact);
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.is_done() {
            return self.finish(tools, id);
        }
        if job.missing() == 0 || job.asking > 0 {
            return;
        }
        if job.way == Way::Passing {
            let is_awaited = !job.awaited.is_empty();
            return match job.outstanding {
                0 if !is_awaited => self.count(tools, id),
                _ if is_awaited && !self.timers.is_set(Timer::Count(id)) => {
                    self.timers.set(Timer::Count(id), tools.now + PASS_PATIENCE);
                }
                _ => {}
            };
        }
        if job.outstanding > 0 || !job.late.is_empty() && job.goal == job.wanted {
            return;
        }
        if job.goal < job.wanted {
            // The others have their shares.
            return self.timers.set(Timer::Count(id), tools.now + PASS_AGAIN);
        }
        if job.is_lonely && !job.is_looked_up {
            job.is_looked_up = true;
            return self.locating.look_up(tools, job.block, id);
        }
        self.finish(tools, id);
    }

    /// The best candidate that is to be offered the job's block, if one is; those that are late come last.
    fn next_candidate(&mut self, tools: &Tools<'_>, id: JobId) -> Option<Contact> {
        let job = self.jobs.get_mut(&id)?;
        let is_shunned = |peer: &NodeId| tools.transfer.is_shunned(tools.now, peer);
        let before = job.candidates.len();
        job.candidates.retain(|it| !is_shunned(&it.id));
        job.is_lonely |= job.candidates.len() < before;
        let holders = &job.holders;
        job.candidates.retain(|it| !holders.contains(&it.id));
        if job.expected() >= job.goal {
            return None;
        }
        let links = &self.links;
        let is_late = |peer: &NodeId| links.get(peer).is_some_and(|link| link.late);
        if job.way == Way::Passing {
            let passers = &self.passers;
            let best = job.candidates.iter().take(job.wanted).enumerate();
            let willing =
                best.filter(|(_, it)| !is_late(&it.id) && passers.is_willing(tools.now, &it.id));
            let least = willing.min_by_key(|(_, it)| passers.load(&it.id));
            let next = least.filter(|_| job.passers.len() < PASSERS_MAX);
            if let Some((index, contact)) = next.map(|(index, it)| (index, *it)) {
                job.passers.push(contact.id);
                self.passers.give(contact.id, job.block, id);
                return job.candidates.remove(index);
            }
            (job.way, job.goal) = (Way::Direct, job.wanted);
            if job.expected() >= job.goal {
                return None;
            }
        }
        let mut candidates = job.candidates.iter();
        let in_time = candidates.position(|contact| !is_late(&contact.id));
        job.candidates.remove(in_time.unwrap_or(0))
    }

    /// A peer has answered for a job's block, or never will, or not in time.
    pub(super) fn handle_result(
        &mut self,
        tools: &mut Tools<'_>,
        id: JobId,
        peer: NodeId,
        outcome: Outcome,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let was_late = job.late.remove(&peer);
        if !was_late {
            job.outstanding -= 1;
        }
        job.renewing.remove(&peer);
        job.is_renewed |= matches!(outcome, Outcome::Holds | Outcome::Stores);
        let is_passer = job.passers.contains(&peer);
        match outcome {
            Outcome::Late => {
                job.late.insert(peer);
                return self.place(tools, id);
            }
            Outcome::Stores if is_passer => {
                job.holders.insert(peer);
                // Others may have stored it sooner than this one, which has said then that they have it.
                if self.passers.is_passing(peer, job.block) {
                    job.awaited.insert(peer);
                }
                job.passed_at.get_or_insert(tools.now);
                job.grown = (tools.now, job.holders.len());
                job.has_grown = false;
            }
            _ if is_passer => {
                job.passers.retain(|it| *it != peer);
                self.passers.take(peer, job.block);
            }
            _ => {}
        }
        job.stored += u64::from(matches!(outcome, Outcome::Stores));
        match outcome {
            Outcome::Holds | Outcome::Stores => {
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
            Outcome::Late => {}
        }
        self.tell_progress(tools, id);
        self.place(tools, id);
    }

    /// Every answer is a sign of life for the client, who gives up on a share that stands still.
    fn tell_progress(&mut self, tools: &Tools<'_>, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        if let Owner::Session(client, _) = job.owner {
            let following = self.following.get(&job.block).into_iter().flatten();
            for client in following.map(|it| it.0).chain([client]) {
                let progress = Timer::Progress(client);
                if !self.timers.is_set(progress) {
                    self.timers.set(progress, tools.now + PROGRESS_PERIOD);
                }
            }
        }
    }

    /// A peer says that it has passed a block on: now it is worth counting. Harmless if nobody waits for it.
    pub fn handle_passed(&mut self, tools: &mut Tools<'_>, conn: ConnId, block: BlockId) {
        let Some(&peer) = self.by_conn.get(&conn) else {
            return;
        };
        let id = self.passers.take(peer, block);
        let Some((id, job)) = id.and_then(|id| Some((id, self.jobs.get_mut(&id)?))) else {
            return;
        };
        if !job.awaited.remove(&peer) {
            return;
        }
        match job.asking {
            0 => self.count(tools, id),
            _ => job.is_stale = true,
        }
        self.run(tools);
    }

    /// It is time to look how many copies of a job's block there are.
    pub(super) fn count_again(&mut self, tools: &mut Tools<'_>, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.asking == 0) {
            self.count(tools, id);
            self.run(tools);
        }
    }

    pub(super) fn finish(&mut self, tools: &mut Tools<'_>, id: JobId) {
        let Some(job) = self.remove(id) else {
            return;
        };
        match job.owner {
            Owner::Session(client, role) => {
                self.has_progressed = true;
                if let Some(session) = self.sessions.get_mut(&client) {
                    for _ in 0..=job.repeats {
                        if session.finish(job.block, role, &job.holders) {
                            match session.take_fresh(&job.block) {
                                true => drop_own(tools.store, &job.block, Hold::Kept),
                                false => tools.store.release(&job.block, Hold::Kept),
                            }
                        }
                    }
                    self.check_settled(tools, client);
                }
            }
            Owner::Source(conn, _) => {
                let also = self.take_also_sent(job.block);
                for conn in also.into_iter().chain([conn]) {
                    tools.transfer.send(conn, &Frame::Passed(job.block));
                }
            }
            Owner::Nobody => self.given.push_back((job.block, job.stored)),
            Owner::Renewal if job.is_renewed => self.renewed.push_back(job.block),
            Owner::Renewal => {}
        }
    }

    /// Forgets a job with all that belongs to it.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.timers.stop(Timer::Count(id));
        for peer in &job.passers {
            self.passers.take(*peer, job.block);
        }
        match job.owner {
            Owner::Session(..) => {
                self.placing.remove(&job.block);
                for (client, role) in self.following.remove(&job.block).unwrap_or_default() {
                    if let Some(session) = self.sessions.get_mut(&client) {
                        session.put_back(job.block, role);
                    }
                }
            }
            Owner::Source(..) => self.passing -= 1,
            Owner::Nobody => self.giving -= 1,
            Owner::Renewal => self.renewing -= 1,
        }
        Some(job)
    }
}

impl Job {
    /// All who live around the block are candidates: its neighbourhood, the oldest first, and those behind it.
    fn plan_direct(&mut self) {
        let mut all: Vec<Contact> = self.near.clone();
        all.retain(|it| !self.mute.contains(&it.id));
        let count = all.len().min(self.reach);
        oldest_first(&mut all[..count]);
        all.retain(|it| !self.tried.contains(&it.id));
        self.candidates = all.into();
    }

    /// Of its neighbourhood, those who lack it are candidates. Where others have been given it as well, to be passed on,
    /// each of them first serves those whom it is closest to: what is missing later is anybody's.
    fn plan_share(&mut self, own: NodeId) {
        let mut lacking = self.lacking();
        lacking.retain(|it| !self.tried.contains(&it.id));
        oldest_first(&mut lacking);
        self.goal = self.wanted;
        let others = self.holders.iter().filter(|it| **it != own).count();
        if matches!(self.owner, Owner::Source(..)) && self.counts == 1 && others > 0 {
            let distance =
                |peer: &NodeId, place: &Contact| Point::from(*peer).distance(&place.id.into());
            lacking.retain(|place| {
                let mut others = self.holders.iter().filter(|it| **it != own);
                others.all(|it| distance(&own, place) < distance(it, place))
            });
            self.goal = self.holders.len() + self.missing().div_ceil(others + 1);
        }
        self.candidates = lacking.into();
    }
}
