//! One connection: how far it is, what it owes, and whether anybody wants anything of it.

use super::egress::Egress;
use crate::id::NodeId;
use crate::time::Instant;
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
    /// Whom we expect, or have found, at the other end.
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
    /// Nobody wants anything of it.
    pub fn is_idle(&self) -> bool {
        self.owed == 0 && self.egress.is_empty() && self.decoder.is_between_frames()
    }
}
