//! One connection: how far it is, what it owes, and whether anybody wants anything of it.

use super::egress::Egress;
use crate::id::NodeId;
use crate::limits::*;
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::frame::FrameDecoder;
use std::net::SocketAddr;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The driver has not said that it is connected.
    Connecting,
    /// The greeting of the other side has not come.
    Greeting,
    Open,
    /// Closed as soon as all that is queued has been written; nothing more is read.
    Closing,
}

pub struct Conn {
    pub stage: Stage,
    /// Where it goes to or comes from; `None` for a local client.
    pub addr: Option<SocketAddr>,
    /// The other side, which is not a local client, has opened it.
    pub inbound: bool,
    /// When it was begun, or came.
    pub began: Instant,
    /// Whom it was opened to reach, if it was. Until streams are secured this is all that is known of the other end,
    /// as anybody may greet with any key: what it does is held against this peer, and against no other.
    pub expected: Option<NodeId>,
    /// Who says to be at the other end; before the greeting, who is expected.
    pub peer: Option<NodeId>,
    pub decoder: FrameDecoder,
    pub egress: Egress,
    /// Answers that the other side owes us: while there are any it must not be silent for long.
    pub owed: usize,
    /// Since when it has owed one and not got on with it: it gets on by answering, by sending a block, and by
    /// taking what it must have before it can answer. Says nothing while nothing is owed.
    pub owed_since: Instant,
    /// Bytes that must be written before all that we asked has been.
    pub ahead: usize,
    /// Bytes of the frame that is coming in.
    pub frame_bytes: usize,
    /// Since when that frame, or its next [`FRAME_STEP`], has been coming in.
    pub frame_since: Instant,
    /// When it last sent or took anything.
    pub last_heard: Instant,
}

impl Conn {
    /// Whether it may be taken to lead to this peer: it was opened to, or it comes from where the peer is known to
    /// be. What is said in a greeting alone must not divert what is meant for another.
    pub fn leads_to(&self, contact: &Contact) -> bool {
        let at_its_place = self.addr.is_some_and(|addr| addr.ip() == contact.addr.ip());
        self.expected == Some(contact.id) || at_its_place && self.peer == Some(contact.id)
    }

    /// Nobody wants anything of it.
    pub fn is_idle(&self) -> bool {
        self.owed == 0 && self.egress.is_empty() && self.decoder.is_between_frames()
    }

    /// Whether more may come; else TCP pushes back.
    pub fn wants_read(&self) -> bool {
        self.stage != Stage::Closing
            && self.egress.blocks() < EGRESS_BLOCKS_MAX
            && self.egress.small_bytes() < EGRESS_BYTES_MAX
    }

    /// So many bytes of a frame have come that is not whole yet.
    pub fn handle_part(&mut self, now: Instant, len: usize) {
        let (begins, steps) = (self.frame_bytes == 0, self.frame_bytes / FRAME_STEP);
        self.frame_bytes += len;
        let steps_on = self.frame_bytes / FRAME_STEP > steps;
        if begins || steps_on {
            self.frame_since = now;
        }
        if steps_on && self.decoder.is_in_block() {
            self.owed_since = now;
        }
    }

    /// So many bytes of what was queued have been taken.
    pub fn consume(&mut self, now: Instant, sent: usize) {
        // While too much waits here we do not read, and no frame can get on.
        if !self.wants_read() {
            self.frame_since = now;
        }
        self.egress.consume(sent);
        // A peer that takes what we send is not silent; its last words it must take at once.
        if self.stage != Stage::Closing {
            self.last_heard = now;
        }
        if self.ahead > 0 {
            self.ahead = self.ahead.saturating_sub(sent);
            self.owed_since = now;
        }
    }

    /// When it is to be closed if nothing changes, and why; `None` for never.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self.stage {
            Stage::Connecting | Stage::Greeting => {
                Some((self.began + CONNECT_TIMEOUT, "it did not greet in time"))
            }
            Stage::Closing => Some((
                self.last_heard + CONNECT_TIMEOUT,
                "it did not take our last words",
            )),
            // A client may be silent for as long as it likes: it is the user who waits.
            Stage::Open if self.addr.is_none() => None,
            Stage::Open if self.is_idle() => Some((self.last_heard + IDLE_TIMEOUT, "idle")),
            Stage::Open => {
                let silent = (self.last_heard + PROGRESS_TIMEOUT, "it stopped answering");
                let owing = (
                    self.owed_since + ANSWER_TIMEOUT,
                    "it talks and does not answer",
                );
                let owing = Some(owing).filter(|_| self.owed > 0);
                let frame = (self.frame_since + FRAME_TIMEOUT, "its frame takes too long");
                let is_coming = !self.decoder.is_between_frames() && self.wants_read();
                let frame = Some(frame).filter(|_| is_coming);
                [Some(silent), owing, frame].into_iter().flatten().min()
            }
        }
    }
}
