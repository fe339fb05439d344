//! What frames ask of a node: those of other peers, and those of clients on this machine. Each is answered here,
//! or handed to the machine whose business it is.

use super::{Event, Node, Output};
use crate::block::{Block, Kind};
use crate::id::BlockId;
use crate::limits::*;
use crate::store::{Store, Terms};
use crate::time::Instant;
use crate::transfer::{BlockHead, ConnId, Source};
use crate::wire::frame::{Answer, ByeReason, Frame, PayloadFrame};
use log::debug;

impl<S: Store> Node<S> {
    /// A frame from another peer.
    pub(super) fn handle_peer(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Offer(ids) => {
                let answers = ids.iter().map(|id| self.answer_offer(id)).collect();
                self.send_when_durable(now, conn, Frame::Want(answers));
            }
            Frame::Put { id, kind, payload } => match Block::verify(id, kind, payload) {
                Ok(block) => self.handle_put(now, conn, &block),
                Err(error) => {
                    debug!("{:?} put a wrong block: {error}", self.transfer.addr(conn));
                    self.transfer.handle_wrong_block(now, conn);
                }
            },
            Frame::Get(id) => {
                if !self.give(conn, id) {
                    self.transfer.send(conn, &Frame::Absent(id));
                }
            }
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
            Frame::Stored(id) => {
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_stored(&mut tools, conn, id, true);
            }
            Frame::Refused { id, answer } => {
                debug!("{:?} refuses {id:?}: {answer:?}", self.transfer.addr(conn));
                let (keep, mut tools) = self.keep_tools(now);
                keep.handle_stored(&mut tools, conn, id, false);
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

    fn answer_offer(&self, id: &BlockId) -> Answer {
        if self.store.has(id) {
            return Answer::Have;
        }
        if self.dht.is_client_mode() {
            return Answer::NotServing;
        }
        // Whether it fits is known when it comes; that nothing fits any more is known now.
        let usage = self.store.usage();
        if usage.used_bytes + BLOCK_CHARGE_MIN > usage.capacity_bytes {
            Answer::Full
        } else {
            Answer::Want
        }
    }

    fn handle_put(&mut self, now: Instant, conn: ConnId, block: &Block) {
        let id = block.id();
        if self.dht.is_client_mode() {
            let answer = Answer::NotServing;
            return self.transfer.send(conn, &Frame::Refused { id, answer });
        }
        self.store.set_time(now.as_secs());
        match self.store.put(block, Terms::default()) {
            Ok(put) => {
                self.stored_blocks += 1;
                self.written = self.written.max(put.sequence());
                self.send_when_durable(now, conn, Frame::Stored(id));
            }
            Err(error) => {
                debug!("cannot store {id:?}: {error}");
                let answer = if error.is_full() {
                    Answer::Full
                } else {
                    Answer::Failed
                };
                self.transfer.send(conn, &Frame::Refused { id, answer });
            }
        }
    }

    /// Queues a block from the store; false if it is not there, or damaged.
    fn give(&mut self, conn: ConnId, id: BlockId) -> bool {
        let Some((kind, len)) = self.store.check(&id) else {
            return false;
        };
        let head = BlockHead {
            id,
            kind,
            len: len as usize,
        };
        self.transfer
            .send_block(conn, PayloadFrame::Block, head, Source::Store);
        self.served_blocks += 1;
        true
    }

    /// A frame from a client on this machine.
    pub(super) fn handle_client(&mut self, now: Instant, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Share { copies, min_copies } => {
                if !self.keep.begin(conn, copies, min_copies) {
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
            Frame::Fetch(id) => {
                if !self.give(conn, id) {
                    let (fetch, mut tools) = self.fetch_tools(now);
                    fetch.want(&mut tools, conn, id);
                }
            }
            Frame::Status => {
                let text = self.status(now);
                self.transfer.send(conn, &Frame::Text(text));
            }
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
        self.store.set_time(now.as_secs());
        match self.store.put(&block, Terms::default()) {
            Ok(put) => {
                self.written = self.written.max(put.sequence());
                let soon = self.store.uncommitted() < UNCOMMITTED_MAX;
                self.commit_by(if soon { now + COMMIT_AFTER } else { now });
                self.transfer.send(conn, &Frame::Added(block.id()));
                let (keep, mut tools) = self.keep_tools(now);
                keep.add(&mut tools, conn, block.id(), kind.role);
            }
            Err(error) => {
                let status = if error.is_full() { 8 } else { 1 };
                let text = format!("cannot keep the own copy: {error}");
                self.transfer.send(conn, &Frame::Failed { status, text });
            }
        }
    }
}
