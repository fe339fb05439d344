//! A client's side of the control socket: finding the peer of the data directory or starting a private one,
//! frames out and in, and leaving.

use super::failure::{plain, Failure, Status};
use super::options::Common;
use crate::id::NodeKey;
use crate::limits::{LOG_MAX, PEER_START_TIMEOUT};
use crate::reactor::control;
use crate::sys;
use crate::wire::frame::{ByeReason, Frame, FrameDecoder, Hello, PeerRole};
use log::{debug, info, warn};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The hidden command that runs a private peer.
pub const PRIVATE: &str = "__private";

/// Pause between attempts to connect to a peer that is starting.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(5);

/// How long a client waits at the end for its private peer to release the directory.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read from the peer at once.
const READ_SIZE: usize = 256 << 10;

/// Bytes of a failed private peer's log that are looked at for its last words.
const LAST_WORDS: u64 = 2048;

/// A connection to the peer of the data directory.
pub struct Peer {
    stream: UnixStream,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
    /// The part of `buffer` that has been read and not decoded.
    unread: std::ops::Range<usize>,
    log: PathBuf,
}

/// Why no frame came.
pub enum NoFrame {
    /// The time is over.
    TimedOut,
    /// The peer is gone.
    Gone(Failure),
}

impl Peer {
    /// Connects to the peer that runs in the data directory; starts a private one if there is none.
    pub fn connect(common: &Common) -> Result<Peer, Failure> {
        let peers = resolve(&common.peers)?;
        create_dir(&common.dir)?;
        let deadline = Instant::now() + PEER_START_TIMEOUT;
        let mut private: Option<Private> = None;
        loop {
            if let Some((mut peer, hello)) = Peer::greet(&common.dir, deadline)? {
                if hello.role != PeerRole::Private {
                    info!("using the serve of {}", common.dir.display());
                    if common.capacity.is_some() {
                        warn!(
                            "--capacity is ignored: the serve of {} has its own",
                            common.dir.display()
                        );
                    }
                } else if private.is_none() {
                    info!("using the private peer of {}", common.dir.display());
                } else {
                    info!("started a private peer in {}", common.dir.display());
                }
                for addr in peers {
                    peer.send(&Frame::Peer(addr))?;
                }
                return Ok(peer);
            }
            match &mut private {
                None => private = Some(Private::start(common, &peers)?),
                // It ended: another one was first, or there is something to be said.
                Some(started) => {
                    if started.has_ended()? {
                        private = None;
                    }
                }
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "{}: the peer that holds this directory does not answer on {}; end it or use another --dir",
                    common.dir.display(),
                    control::NAME
                );
                return Err(Failure::new(Status::InUse, message));
            }
            sleep(ATTEMPT_PAUSE);
        }
    }

    /// Connects to a running peer only; `None` if there is none.
    pub fn connect_running(dir: &Path) -> Result<Option<(Peer, Hello)>, Failure> {
        Peer::greet(dir, Instant::now() + PEER_START_TIMEOUT)
    }

    /// Connects and exchanges greetings; `None` if nobody is there, or is about to leave.
    fn greet(dir: &Path, deadline: Instant) -> Result<Option<(Peer, Hello)>, Failure> {
        let stream = match control::connect(dir) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                // The queue of the listener is full: it will be taken from.
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(Failure::file(&dir.join(control::NAME), &error)),
            },
        };
        let mut peer = Peer {
            stream,
            decoder: FrameDecoder::new(true),
            buffer: vec![0; READ_SIZE],
            unread: 0..0,
            log: dir.join("peer.log"),
        };
        let hello = Hello {
            key: NodeKey([0; 32]),
            port: 0,
            role: PeerRole::Client,
        };
        if peer.send(&Frame::Hello(hello)).is_err() {
            return Ok(None);
        }
        match peer.receive(Some(deadline)) {
            Ok(Frame::Hello(hello)) => Ok(Some((peer, hello))),
            Ok(Frame::OtherVersion(version)) => {
                let message = format!(
                    "{}: the peer that runs here is another version of strew (protocol {version}); restart it",
                    dir.display()
                );
                Err(Failure::new(Status::InUse, message))
            }
            // It ended, or it is busy: try again until the deadline.
            Ok(_) | Err(NoFrame::Gone(_) | NoFrame::TimedOut) => Ok(None),
        }
    }

    fn gone(&self, error: Option<io::Error>) -> Failure {
        let why = error
            .map(|error| format!(" ({})", plain(&error)))
            .unwrap_or_default();
        let message = format!(
            "the peer ended before the work was done{why}; see {}",
            self.log.display()
        );
        Failure::new(Status::Other, message)
    }

    /// Sends a frame; waits as long as the peer takes no more.
    pub fn send(&mut self, frame: &Frame) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream
            .write_all(&bytes)
            .map_err(|error| self.gone(Some(error)))
    }

    /// Sends the block of an ADD frame, whose payload is not copied.
    pub fn send_add(&mut self, kind: crate::block::Kind, payload: &[u8]) -> Result<(), Failure> {
        // An empty payload encodes just the head; only the length is not yet right.
        let mut head = Vec::new();
        Frame::Add {
            kind,
            payload: Vec::new(),
        }
        .encode(&mut head);
        let len = head.len() - 4 + payload.len();
        head[..4].copy_from_slice(&(len as u32).to_be_bytes());
        let mut slices = [IoSlice::new(&head), IoSlice::new(payload)];
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            match self.stream.write_vectored(slices) {
                Ok(0) => return Err(self.gone(None)),
                Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.gone(Some(error))),
            }
        }
        Ok(())
    }

    /// The next frame; waits for it until the deadline.
    pub fn receive(&mut self, deadline: Option<Instant>) -> Result<Frame, NoFrame> {
        loop {
            let mut input = &self.buffer[self.unread.clone()];
            let frame = self.decoder.take(&mut input);
            self.unread.start = self.unread.end - input.len();
            match frame {
                Ok(Some(Frame::Bye {
                    reason: ByeReason::Busy,
                    ..
                })) => return Err(NoFrame::TimedOut),
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(malformed) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, malformed.to_string());
                    return Err(NoFrame::Gone(self.gone(Some(error))));
                }
            }
            let timeout = match deadline {
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    // Shorter time-outs than the system's clock tick would be none at all.
                    Some(left) => Some(left.max(Duration::from_millis(1))),
                    None => return Err(NoFrame::TimedOut),
                },
                None => None,
            };
            let read = self.stream.set_read_timeout(timeout);
            match read.and_then(|()| self.stream.read(&mut self.buffer)) {
                Ok(0) => return Err(NoFrame::Gone(self.gone(None))),
                Ok(len) => self.unread = 0..len,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(NoFrame::Gone(self.gone(Some(error)))),
                },
            }
        }
    }

    /// Leaves. When this returns, a private peer that has no other client has released the directory.
    pub fn leave(mut self) {
        let bye = Frame::Bye {
            reason: ByeReason::Done,
            text: String::new(),
        };
        if self.send(&bye).is_ok() {
            let deadline = Instant::now() + RELEASE_TIMEOUT;
            while self.receive(Some(deadline)).is_ok() {}
        }
    }

    /// Why nobody was reached, as far as the peer knows, for the end of a message; empty if there is nothing.
    pub fn why_nobody(&mut self) -> String {
        let asked = self.send(&Frame::Status);
        let deadline = Instant::now() + Duration::from_secs(1);
        while asked.is_ok() {
            match self.receive(Some(deadline)) {
                Ok(Frame::Text(text)) => {
                    let others = text
                        .lines()
                        .filter_map(|line| line.strip_prefix("other_version "));
                    let others: Vec<String> = others
                        .filter_map(|line| line.split_once(' '))
                        .map(|(addr, version)| format!("{addr} speaks protocol version {version}"))
                        .collect();
                    let ours = crate::wire::PROTOCOL_VERSION;
                    return match others.is_empty() {
                        true => String::new(),
                        false => format!(" ({}; this strew speaks {ours})", others.join(", ")),
                    };
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        String::new()
    }
}

/// The addresses of all peers that are named. One that cannot be resolved is a warning, none at all a failure.
fn resolve(peers: &[String]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addrs = Vec::new();
    for peer in peers {
        match peer.to_socket_addrs() {
            Ok(found) => addrs.extend(found),
            Err(error) => warn!("{peer}: {}", plain(&error)),
        }
    }
    if addrs.is_empty() && !peers.is_empty() {
        let message = format!(
            "no peer could be reached: {} cannot be resolved",
            peers.join(", ")
        );
        return Err(Failure::new(Status::NoPeer, message));
    }
    Ok(addrs)
}

fn create_dir(dir: &Path) -> Result<(), Failure> {
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    created.map_err(|error| Failure::file(dir, &error))
}

/// A private peer that this client has started.
struct Private {
    child: Child,
    log: PathBuf,
    /// Bytes in the log before this peer wrote to it.
    log_start: u64,
}

impl Private {
    fn start(common: &Common, peers: &[SocketAddr]) -> Result<Private, Failure> {
        let path = common.dir.join("peer.log");
        let mut options = OpenOptions::new();
        let mut log = options.append(true).create(true).mode(0o600).open(&path);
        if log
            .as_ref()
            .is_ok_and(|log| log.metadata().is_ok_and(|meta| meta.len() > LOG_MAX))
        {
            let _ = fs::remove_file(&path);
            log = options.open(&path);
        }
        let log = log.map_err(|error| Failure::file(&path, &error))?;
        let log_start = log.metadata().map_or(0, |meta| meta.len());
        let mut command = Command::new("/proc/self/exe");
        command.arg(PRIVATE).arg("--dir").arg(&common.dir);
        if let Some(capacity) = common.capacity {
            command.args(["--capacity", &capacity.to_string()]);
        }
        for peer in peers {
            command.args(["--peer", &peer.to_string()]);
        }
        command.env_remove("STREW_PEERS");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        sys::in_own_session(&mut command);
        let child = command.spawn().map_err(|error| {
            Failure::new(
                Status::Other,
                format!("start a private peer: {}", plain(&error)),
            )
        })?;
        debug!("private peer {} started", child.id());
        Ok(Private {
            child,
            log: path,
            log_start,
        })
    }

    /// Whether it has ended since another peer holds the directory; its failure if it ended for another reason.
    fn has_ended(&mut self) -> Result<bool, Failure> {
        let Ok(Some(status)) = self.child.try_wait() else {
            return Ok(false);
        };
        match status.code() {
            Some(0 | 10) | None => Ok(true),
            Some(code) => {
                let status = Status::from_number(code as u8);
                Err(Failure::new(status, self.last_words(status)))
            }
        }
    }

    fn last_words(&self, status: Status) -> String {
        let mut text = String::new();
        if let Ok(mut log) = File::open(&self.log) {
            if log.seek(SeekFrom::Start(self.log_start)).is_ok() {
                let _ = log.take(LAST_WORDS).read_to_string(&mut text);
            }
        }
        match (text.lines().last(), status) {
            (Some(last), _) => last.strip_prefix("strew: ").unwrap_or(last).to_string(),
            // A full disk takes no last words.
            (None, Status::Full) => {
                let dir = self.log.parent().unwrap_or(&self.log).display();
                format!("{dir}: no space left on its disk; free some, or give another --dir")
            }
            (None, _) => "the private peer ended at once".to_string(),
        }
    }
}
