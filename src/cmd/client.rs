//! A client's side of the control socket: frames out and in, with patience, and leaving.
//!
//! The socket does not block: while the peer takes no more, what it says is read, so that neither waits for the
//! other for ever, and every wait has an end.

use super::failure::{plain, Failure, Status};
use super::options::Common;
use crate::block::Kind;
use crate::id::{BlockId, NodeKey};
use crate::reactor::control;
use crate::sys;
use crate::wire::frame::{ByeReason, Frame, FrameDecoder, Hello, MissingReason, PeerRole};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a client waits at the end for its private peer to release the directory.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits for the peer's greeting before it tries again.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it waits for an explanation that would only be kind.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it is said that a frame is waited for.
const TELLING_PERIOD: Duration = Duration::from_secs(1);

/// Bytes read from the peer at once.
const READ_SIZE: usize = 256 << 10;

/// When a command gives up.
#[derive(Clone, Copy)]
pub struct Patience {
    /// In any case then.
    until: Option<Instant>,
    /// After so long without a sign of the peer.
    stall: Duration,
}

impl Patience {
    /// `--timeout`, from now, and `--stall`.
    pub fn new(common: &Common) -> Patience {
        let until = common.timeout.map(|timeout| Instant::now() + timeout);
        Patience {
            until,
            stall: common.stall,
        }
    }

    /// No longer than this in all, and without a sign.
    fn brief(span: Duration) -> Patience {
        Patience {
            until: Some(Instant::now() + span),
            stall: span,
        }
    }

    /// When a wait that begins now ends.
    pub fn deadline(&self) -> Instant {
        let stalled = Instant::now() + self.stall;
        self.until.map_or(stalled, |until| until.min(stalled))
    }

    /// When the command ends in any case.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What ended a wait, for a message.
    pub fn why(&self) -> String {
        match self.until {
            Some(until) if Instant::now() >= until => "not done in the time given".to_string(),
            _ => format!("no progress for {} s", self.stall.as_secs()),
        }
    }
}

/// Why a frame was neither sent nor received.
#[derive(Debug)]
pub enum Trouble {
    /// The time is over.
    TimedOut,
    /// The peer is gone.
    Gone(Failure),
}

impl Trouble {
    /// The failure of the command; `timed_out` makes the message where the time is over.
    pub fn into_failure(self, timed_out: impl FnOnce() -> String) -> Failure {
        match self {
            Trouble::TimedOut => Failure::new(Status::TimedOut, timed_out()),
            Trouble::Gone(failure) => failure,
        }
    }
}

/// A connection to the peer of the data directory.
pub struct Peer {
    stream: UnixStream,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
    /// Frames that came and were not asked for yet: at most what one read brings, and what the peer answers
    /// while it is being written to, which is bounded by what was asked of it.
    frames: VecDeque<Frame>,
    /// How long its owner is patient.
    pub patience: Patience,
    dir: PathBuf,
    /// By which peers its owner would join the network.
    pub named: Vec<String>,
    /// What it says it is.
    role: PeerRole,
}

impl Peer {
    /// Connects to the peer of a directory and exchanges greetings; `None` if nobody is there, or is about to
    /// leave.
    pub fn greet(dir: &Path, patience: Patience) -> Result<Option<(Peer, Hello)>, Failure> {
        let stream = match control::connect(dir) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => return Ok(None),
                // The queue of the listener is full: it will be taken from.
                ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(Failure::file(&dir.join(control::NAME), &error)),
            },
        };
        if stream.set_nonblocking(true).is_err() {
            return Ok(None);
        }
        let mut peer = Peer {
            stream,
            decoder: FrameDecoder::new(true),
            buffer: vec![0; READ_SIZE],
            frames: VecDeque::new(),
            patience: Patience::brief(GREETING_TIMEOUT),
            dir: dir.to_path_buf(),
            named: Vec::new(),
            role: PeerRole::Private,
        };
        let hello = Hello {
            key: NodeKey([0; 32]),
            port: 0,
            role: PeerRole::Client,
        };
        if peer.send(&Frame::Hello(hello)).is_err() {
            return Ok(None);
        }
        match peer.receive() {
            Ok(Frame::Hello(hello)) => {
                peer.patience = patience;
                peer.role = hello.role;
                Ok(Some((peer, hello)))
            }
            Ok(Frame::OtherVersion(version)) => {
                let message = format!(
                    "{}: the peer that runs here is another version of strew (protocol {version}); restart it",
                    dir.display()
                );
                Err(Failure::new(Status::InUse, message))
            }
            // It ended, or it is busy: to be tried again.
            Ok(_) | Err(Trouble::Gone(_) | Trouble::TimedOut) => Ok(None),
        }
    }

    /// The process at the other end.
    pub fn pid(&self) -> Option<u32> {
        sys::peer_credentials(self.stream.as_raw_fd())
            .ok()
            .map(|(pid, _)| pid)
    }

    fn gone(&self, error: Option<io::Error>) -> Trouble {
        let why = error
            .map(|error| format!(" ({})", plain(&error)))
            .unwrap_or_default();
        let dir = self.dir.display();
        let see = match self.role {
            PeerRole::Private => format!("{dir}/peer.log"),
            _ => format!("what the serve of {dir} has said"),
        };
        let message = format!("the peer ended before the work was done{why}; see {see}");
        Trouble::Gone(Failure::new(Status::Other, message))
    }

    /// Sends a frame; waits while the peer takes no more.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write_all(&mut [IoSlice::new(&bytes)])
    }

    /// Sends the block of an ADD frame, whose payload is not copied.
    pub fn send_add(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Trouble> {
        // An empty payload encodes just the head; only the length is not yet right.
        let mut head = Vec::new();
        Frame::Add {
            kind,
            payload: Vec::new(),
        }
        .encode(&mut head);
        let len = head.len() - 4 + payload.len();
        head[..4].copy_from_slice(&(len as u32).to_be_bytes());
        self.write_all(&mut [IoSlice::new(&head), IoSlice::new(payload)])
    }

    fn write_all(&mut self, mut slices: &mut [IoSlice<'_>]) -> Result<(), Trouble> {
        let mut deadline = self.patience.deadline();
        while !slices.is_empty() {
            match self.stream.write_vectored(slices) {
                Ok(0) => return Err(self.gone(None)),
                Ok(sent) => {
                    IoSlice::advance_slices(&mut slices, sent);
                    deadline = self.patience.deadline();
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        // What it says meanwhile is a sign of the peer, too.
                        if self.wait(true, deadline)? && self.read()? {
                            deadline = self.patience.deadline();
                        }
                    }
                    _ => return Err(self.gone(Some(error))),
                },
            }
        }
        Ok(())
    }

    /// Waits until something can be read, or, if so wished, written; whether it can be read.
    fn wait(&mut self, write: bool, deadline: Instant) -> Result<bool, Trouble> {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return Err(Trouble::TimedOut);
        };
        let ready = sys::wait_for(self.stream.as_raw_fd(), true, write, Some(left));
        ready
            .map(|ready| ready.read)
            .map_err(|error| self.gone(Some(error)))
    }

    /// Reads what has come, at most [`READ_SIZE`]; whether there was anything.
    fn read(&mut self) -> Result<bool, Trouble> {
        let len = match self.stream.read(&mut self.buffer) {
            Ok(0) => return Err(self.gone(None)),
            Ok(len) => len,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(false),
                _ => return Err(self.gone(Some(error))),
            },
        };
        let mut input = &self.buffer[..len];
        loop {
            match self.decoder.take(&mut input) {
                Ok(Some(frame)) => self.frames.push_back(frame),
                Ok(None) => return Ok(true),
                Err(malformed) => {
                    let error = io::Error::new(ErrorKind::InvalidData, malformed.to_string());
                    return Err(self.gone(Some(error)));
                }
            }
        }
    }

    /// The next frame that is progress; waits for it.
    pub fn receive(&mut self) -> Result<Frame, Trouble> {
        self.receive_telling(|| {})
    }

    /// The same, and says every second that it is waited for.
    pub fn receive_telling(&mut self, mut tell: impl FnMut()) -> Result<Frame, Trouble> {
        let deadline = self.patience.deadline();
        loop {
            let until = deadline.min(Instant::now() + TELLING_PERIOD);
            match self.poll(until)? {
                Some(Frame::Awaiting { .. }) => {}
                Some(frame) => return Ok(frame),
                None if until < deadline => tell(),
                None => return Err(Trouble::TimedOut),
            }
        }
    }

    /// The next frame, whatever it is, until then.
    pub fn receive_by(&mut self, deadline: Instant) -> Result<Frame, Trouble> {
        self.poll(deadline)?.ok_or(Trouble::TimedOut)
    }

    /// The next frame, if it comes until then.
    fn poll(&mut self, until: Instant) -> Result<Option<Frame>, Trouble> {
        loop {
            match self.frames.pop_front() {
                Some(Frame::Bye {
                    reason: ByeReason::Busy,
                    ..
                }) => return Err(Trouble::TimedOut),
                Some(frame) => return Ok(Some(frame)),
                None => {}
            }
            if self.read()? {
                continue;
            }
            match self.wait(false, until) {
                Ok(_) => {}
                Err(Trouble::TimedOut) => return Ok(None),
                Err(gone) => return Err(gone),
            }
        }
    }

    /// Its status page, in lines of `key value`.
    pub fn status(&mut self) -> Result<String, Trouble> {
        self.send(&Frame::Status)?;
        loop {
            if let Frame::Text(text) = self.receive()? {
                return Ok(text);
            }
        }
    }

    /// Leaves. When this returns, a private peer that has no other client has released the directory; a `serve` stays,
    /// and is not waited for.
    pub fn leave(mut self) {
        let is_private = self.role == PeerRole::Private;
        self.patience = match is_private {
            true => Patience::brief(RELEASE_TIMEOUT),
            false => Patience::brief(Duration::ZERO),
        };
        let bye = Frame::Bye {
            reason: ByeReason::Done,
            text: String::new(),
        };
        if self.send(&bye).is_ok() && is_private {
            while self.receive().is_ok() {}
        }
    }

    /// Why a block of a file is not to be had.
    pub fn missing(
        &mut self,
        root: BlockId,
        id: BlockId,
        reason: MissingReason,
        asked: u32,
    ) -> Failure {
        let what = match id == root {
            true => format!("{id}: not found"),
            false => format!("{root}: its block {id} is missing"),
        };
        match reason {
            MissingReason::NoPeer => {
                let why = self.why_nobody();
                let message = format!(
                    "{what} here, and no peer could be reached{why}; give one with -p HOST:PORT"
                );
                Failure::new(Status::NoPeer, message)
            }
            MissingReason::Absent => {
                let message = format!(
                    "{what}: asked the {asked} closest peers, none has it; is the address right, and the network?"
                );
                Failure::new(Status::NotFound, message)
            }
            MissingReason::NotGiven => {
                let message =
                    format!("{what}: {asked} peers were asked, none gave it; try again later");
                Failure::new(Status::NotFound, message)
            }
        }
    }

    /// Why nobody was reached, as far as it is known, for the end of a message; empty if there is nothing to be said.
    pub fn why_nobody(&mut self) -> String {
        self.patience = Patience::brief(EXPLANATION_TIMEOUT);
        let text = self.status().unwrap_or_default();
        let others = text
            .lines()
            .filter_map(|line| line.strip_prefix("other_version "));
        let others: Vec<String> = others
            .filter_map(|line| line.split_once(' '))
            .map(|(addr, version)| format!("{addr} speaks protocol version {version}"))
            .collect();
        let ours = crate::wire::PROTOCOL_VERSION;
        match others.is_empty() {
            true if self.named.is_empty() => String::new(),
            true => format!(" (tried {})", self.named.join(", ")),
            false => format!(" ({}; this strew speaks {ours})", others.join(", ")),
        }
    }
}
