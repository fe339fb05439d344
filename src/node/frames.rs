//! What frames ask of a node: those of other peers, and those of clients on this machine. Each is answered here,
//! or handed to the machine whose business it is.

use super::{Event, Node, Output};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::keep;
use crate::limits::*;
use crate::store::{Claim, Hold, Store, StoreError, Terms};
use crate::time::Instant;
use crate::transfer::{BlockHead, ConnId, Source};
use crate::wire::frame::{Answer, ByeReason, Frame, Offered, PayloadFrame};
use log::debug;
use std::cell::OnceCell;

impl<S: Store> Node<S> {
    /// A frame from another peer.
    pub(super) fn handle_peer(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Offer(offered) => {
                let answers = offered.iter();
                let answers = answers.map(|it| self.answer_offer(now, conn, it)).collect();
                self.send_when_durable(now, conn, Frame::Want(answers));
            }
            Frame::Put {
                id,
                kind,
                lifetime,
                copies,
                payload,
            } => match Block::verify(id, kind, payload) {
                Ok(block) => self.handle_put(now, conn, &block, lifetime, copies),
                Err(error) => {
                    debug!("{:?} put a wrong block: {error}", self.transfer.addr(conn));
                    self.transfer.handle_wrong_block(now, conn);
                }
            },
            Frame::Get(id) => self.handle_get(now, conn, id),
            Frame::Block { id, kind, payload } => match Block::verify(id, kind, payload) {
                Ok(block) => {
                    let (fetch, mut tools) = self.fetch_tools(now);
                    fetch.handle_block(&mut tools, conn, block);
                }
                Err(error) => {
                    debug!("{:?} gave a wrong block: {error}", self.transfer.addr(conn));
                    self.transfer.handle_wrong_block(now, conn);
                }
            },
            Frame::Absent(id) => {
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.handle_absent(&mut tools, conn, id);
            }
            Frame::Want(answers) => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_want(&mut tools, conn, answers);
            }
            Frame::Stored { id, .. } => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_stored(&mut tools, conn, id, None);
            }
            Frame::Refused { id, answer } => {
                debug!("{:?} refuses {id:?}: {answer:?}", self.transfer.addr(conn));
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_stored(&mut tools, conn, id, Some(answer));
            }
            Frame::Passed(id) => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_passed(&mut tools, conn, id);
            }
            Frame::Dialed(nonce) => {
                if let (Some(peer), Some(addr)) =
                    (self.transfer.peer(conn), self.transfer.addr(conn))
                {
                    self.dht.handle_dialed_back(now, peer, addr, nonce);
                }
                self.transfer.close(conn, "it has dialed back");
            }
            // The rest the decoder lets through only on the control socket, or transfer takes.
            _ => self
                .transfer
                .bye(conn, ByeReason::Protocol, "a frame that has no place here"),
        }
    }

    fn answer_offer(&mut self, now: Instant, conn: ConnId, offered: &Offered) -> Answer {
        let Offered { id, lifetime } = *offered;
        if self.store.has(&id) {
            let terms = self.granted_here(now, &id, lifetime);
            self.store.keep_until(&id, terms.expires);
            return Answer::Have;
        }
        // Its length is known when it comes; that nothing fits any more, and nothing may go for it, is known now.
        let len = BLOCK_CHARGE_MIN as u32;
        if let Some(reason) = self.reason_to_refuse(now, conn, &id, len) {
            return self.refuse(reason);
        }
        match self.with_claim(Some(id), |store, claim| store.could_take(len, claim)) {
            true => Answer::Want,
            false if self.store.usage().is_read_only => Answer::Failed,
            false => self.refuse(Answer::Full),
        }
    }

    /// Why this peer does not take a block of this length from there, whether or not it has room.
    fn reason_to_refuse(
        &self,
        now: Instant,
        conn: ConnId,
        id: &BlockId,
        len: u32,
    ) -> Option<Answer> {
        if self.dht.is_client_mode() {
            return Some(Answer::NotServing);
        }
        if self.dht.is_far_from(now, &(*id).into()) {
            return Some(Answer::TooFar);
        }
        let ip = self.transfer.addr(conn)?.ip();
        let budget = keep::storing_budget(self.store.usage().capacity_bytes);
        let is_allowed = self.quota.allows(now, &ip, u64::from(len), budget);
        (!is_allowed).then_some(Answer::Quota)
    }

    /// The terms on which a block is kept that another peer wants to be kept for so many seconds. One that is pinned stays
    /// anyway, and the end of its lifetime says when it was renewed last: nobody else moves it.
    fn granted_here(&self, now: Instant, id: &BlockId, lifetime: u32) -> Terms {
        match self.store.is_pinned(id) {
            true => Terms::default(),
            false => granted(now, lifetime),
        }
    }

    fn refuse(&mut self, reason: Answer) -> Answer {
        *self.refused.entry(reason).or_default() += 1;
        reason
    }

    /// Does something with the store for which blocks may have to go.
    pub(super) fn with_claim<T>(
        &mut self,
        newcomer: Option<BlockId>,
        what: impl FnOnce(&mut S, &Claim<'_>) -> T,
    ) -> T {
        let (transfer, queued) = (&self.transfer, OnceCell::new());
        let is_in_use = |id: &BlockId| queued.get_or_init(|| transfer.queued()).contains(id);
        let claim = Claim {
            home: self.dht.id().into(),
            newcomer,
            is_in_use: &is_in_use,
        };
        what(&mut self.store, &claim)
    }

    /// Stores a block, if need be in the place of others; those that are closer than the newcomer stay.
    pub(super) fn store_block(
        &mut self,
        block: &Block,
        terms: Terms,
        newcomer: Option<BlockId>,
    ) -> Result<(), StoreError> {
        let len = block.payload().len() as u32;
        let is_new = !self.store.has(&block.id());
        let put = self.with_claim(newcomer, |store, claim| {
            if is_new {
                store.make_room(len, claim)?;
            }
            store.put(block, terms)
        })?;
        if is_new {
            self.volatile.add(put.sequence(), block.id());
        }
        self.written = self.written.max(put.sequence());
        Ok(())
    }

    fn handle_put(&mut self, now: Instant, conn: ConnId, block: &Block, lifetime: u32, copies: u8) {
        let (id, len) = (block.id(), block.payload().len() as u32);
        let reason = match self.store.has(&id) {
            true => None,
            false => self.reason_to_refuse(now, conn, &id, len),
        };
        if let Some(reason) = reason {
            let answer = self.refuse(reason);
            return self.transfer.send(conn, &Frame::Refused { id, answer });
        }
        let is_new = !self.store.has(&id);
        let terms = self.granted_here(now, &id, lifetime);
        match self.store_block(block, terms, Some(id)) {
            Ok(()) => {
                self.putters.insert(conn);
                if is_new {
                    self.stored_blocks += 1;
                    if let Some(addr) = self.transfer.addr(conn) {
                        let budget = keep::storing_budget(self.store.usage().capacity_bytes);
                        self.quota.add(now, &addr.ip(), u64::from(len), budget);
                    }
                }
                let lifetime = keep::lifetime_left(now, self.store.terms(&id));
                self.send_when_durable(now, conn, Frame::Stored { id, lifetime });
                if is_new {
                    let (keep, mut tools) = self.keep_tools(now);
                    keep.pass_on(&mut tools, conn, id, len as usize, copies);
                } else if copies > 1 && !self.keep.is_passing_on(conn, id) {
                    // Who has sent it need not wait for what is not going to be done.
                    self.send_when_durable(now, conn, Frame::Passed(id));
                }
            }
            Err(error) => {
                debug!("cannot store {id:?}: {error}");
                let answer = match error.is_full() {
                    true => self.refuse(Answer::Full),
                    false => Answer::Failed,
                };
                self.transfer.send(conn, &Frame::Refused { id, answer });
            }
        }
    }

    /// Queues a block from the store, and says of which kind it is; `None` if it is not there, or damaged.
    pub(super) fn give(&mut self, conn: ConnId, id: BlockId) -> Option<Kind> {
        let (kind, len) = self.store.check(&id)?;
        let head = BlockHead {
            id,
            kind,
            len: len as usize,
        };
        self.transfer
            .send_block(conn, PayloadFrame::Block, head, Source::Store);
        self.served_blocks += 1;
        Some(kind)
    }

    /// A frame from a client on this machine.
    pub(super) fn handle_client(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Share(wants) => {
                if !self.keep.begin(conn, wants) {
                    let text = "a share before the last has settled";
                    self.transfer.bye(conn, ByeReason::Protocol, text);
                }
            }
            Frame::Add { kind, payload } => self.handle_add(now, conn, kind, payload),
            Frame::Settle if !self.keep.is_sharing(conn) => {
                let text = "nothing is being shared";
                self.transfer.bye(conn, ByeReason::Protocol, text);
            }
            Frame::Settle => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.settle(&mut tools, conn);
            }
            Frame::Fetch(id) => self.handle_get(now, conn, id),
            Frame::Count { root, blocks } => {
                let (counts, mut tools) = self.counts_tools(now);
                counts.count(&mut tools, conn, root, blocks);
            }
            Frame::Status => {
                let text = self.status(now);
                self.transfer.send(conn, &Frame::Text(text));
            }
            Frame::Pin(root) => self.pins.add(conn, root),
            Frame::Unpin(root) => self.handle_unpin(now, conn, &root),
            Frame::Pins => self.list_pins(conn),
            Frame::Verify { part, of } => self.begin_verifying(conn, part, of),
            Frame::Peer(addr) => self.dht.add_seed(now, addr),
            // A `serve` yields to nobody: it would only lose the socket that its clients find it by.
            Frame::Yield if !self.config.serve => {
                self.outputs.push_back(Output::Event(Event::Yield));
            }
            _ => self
                .transfer
                .bye(conn, ByeReason::Protocol, "a frame that has no place here"),
        }
    }

    fn handle_add(&mut self, now: Instant, conn: ConnId, kind: Kind, payload: Vec<u8>) {
        if !self.keep.is_sharing(conn) {
            let text = "a block outside a share";
            return self.transfer.bye(conn, ByeReason::Protocol, text);
        }
        let Ok(block) = Block::new(kind, payload) else {
            return self
                .transfer
                .bye(conn, ByeReason::Protocol, "a block of impossible length");
        };
        self.add_block(now, conn, block);
    }

    /// Takes a block of a client's share into the store, under lease until its copies are counted. If there is no
    /// room, it waits as long as others may go, because copies of them are counted.
    fn add_block(&mut self, now: Instant, conn: ConnId, block: Block) {
        let terms = Terms {
            hold: Hold::Leased,
            ..granted(now, self.keep.lifetime(conn))
        };
        let is_new = !self.store.has(&block.id());
        let mut stored = self.store_block(&block, terms, None);
        if matches!(stored, Err(StoreError::Full { .. })) {
            let (keep, mut tools) = self.keep_tools(now);
            if keep.release_counted(&mut tools) {
                stored = self.store_block(&block, terms, None);
            }
        }
        match stored {
            Ok(()) => {
                let soon = self.store.uncommitted() < COMMIT_STEP;
                self.commit_by(if soon { now + COMMIT_AFTER } else { now });
                self.putters.insert(conn);
                let (id, role) = (block.id(), block.kind().role);
                self.transfer.send(conn, &Frame::Added(id));
                let (keep, mut tools) = self.keep_tools(now);
                keep.add(&mut tools, conn, id, role, is_new);
            }
            Err(StoreError::Full { .. }) if !self.keep.is_idle() => {
                self.waiting.insert(conn, block);
            }
            Err(error) => {
                let status = if error.is_full() { 8 } else { 1 };
                let stays = match error {
                    StoreError::Full { .. } => {
                        "; what is there is pinned, or has too few copies elsewhere to be dropped"
                    }
                    _ => "",
                };
                let text = format!("cannot keep the own copy: {error}{stays}");
                self.transfer.send(conn, &Frame::Failed { status, text });
            }
        }
    }

    /// Tries again to take in what waits for room.
    pub(super) fn add_waiting(&mut self, now: Instant) {
        for (conn, block) in std::mem::take(&mut self.waiting) {
            self.add_block(now, conn, block);
        }
    }
}

/// The terms of a block that is taken for so many seconds, as far as any is.
fn granted(now: Instant, lifetime: u32) -> Terms {
    Terms::until(now.as_secs() + u64::from(lifetime).min(LIFETIME_MAX.as_secs()))
}
