//! One connection: how far it is, what it owes, and whether anybody wants anything of it.

use super::egress::Egress;
use crate::id::NodeId;
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
    /// Whom it was opened to reach, if it was. Until streams are secured this is all that is known of the other end,
    /// as anybody may greet with any key: what it does is held against this peer, and against no other.
    pub expected: Option<NodeId>,
    /// Who says to be at the other end; before the greeting, who is expected.
    pub peer: Option<NodeId>,
    pub decoder: FrameDecoder,
    pub egress: Egress,
    /// Answers that the other side owes us: while there are any it must not be silent for long.
    pub owed: usize,
    pub last_heard: Instant,
    /// Reading is suspended by whoever uses the connection.
    pub paused: bool,
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
}
