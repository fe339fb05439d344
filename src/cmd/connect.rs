//! Finding the peer of the data directory, or starting a private one there.

use super::client::{Patience, Peer};
use super::failure::{plain, Failure, Status};
use super::options::Common;
use super::voice::say;
use crate::limits::{LOG_MAX, PEER_START_TIMEOUT};
use crate::store::pack::{make_dir, DirLock};
use crate::sys;
use crate::wire::frame::{Frame, PeerRole};
use log::{debug, info, warn};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The hidden command that runs a private peer.
pub const PRIVATE: &str = "__private";

/// Pause between attempts to connect to a peer that is starting.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause before another private peer is started, when one has ended since another process holds the
/// directory; the first is [`ATTEMPT_PAUSE`], and it doubles.
const START_PAUSE_MAX: Duration = Duration::from_millis(200);

/// After so long a client says whom it waits for.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a failed private peer's log that are looked at for its last words.
const LAST_WORDS: u64 = 2048;

/// Connects to the peer that runs in the data directory; starts a private one if there is none. While a live
/// process holds the directory and does not answer, it is waited for as long as the user's patience lasts.
pub fn connect(common: &Common) -> Result<Peer, Failure> {
    let patience = Patience::new(common);
    create_dir(&common.dir)?;
    let began = Instant::now();
    let (mut told, mut pause, mut start_at) = (false, ATTEMPT_PAUSE, began);
    let mut addrs = None;
    let mut private: Option<Private> = None;
    loop {
        if let Some((mut peer, hello)) = Peer::greet(&common.dir, patience)? {
            peer.named.clone_from(&common.peers);
            let pid = peer.pid();
            if private.is_some_and(|private| Some(private.child.id()) == pid) {
                info!("started a private peer in {}", common.dir.display());
                return Ok(peer);
            }
            let role = match hello.role {
                PeerRole::Private => "private peer",
                _ => "serve",
            };
            info!("using the {role} of {}", common.dir.display());
            // A private peer is another command's, which is about to end; settings are for all commands, not for this.
            let ignored = match hello.role {
                PeerRole::Private => &[],
                _ => &common.for_private[..],
            };
            for option in ignored {
                let dir = common.dir.display();
                warn!("--{option} is ignored: the {role} that runs in {dir} has its own");
            }
            for addr in addrs.unwrap_or_else(|| resolve(&common.peers)) {
                let sent = peer.send(&Frame::Peer(addr));
                sent.map_err(|trouble| {
                    let (dir, why) = (common.dir.display(), patience.why());
                    trouble.into_failure(|| {
                        format!("{dir}: its {role} does not answer, {why}; try again, or give a longer --stall")
                    })
                })?;
            }
            return Ok(peer);
        }
        // It ended: another one was first, or there is something to be said.
        let ended = match &mut private {
            Some(started) => started.has_ended()?,
            None => false,
        };
        if ended {
            private = None;
            start_at = Instant::now() + pause;
            pause = (pause * 2).min(START_PAUSE_MAX);
        } else if private.is_none() && Instant::now() >= start_at {
            let addrs = addrs.get_or_insert_with(|| resolve(&common.peers));
            private = Some(Private::start(common, addrs)?);
        }
        let waited = began.elapsed();
        let owner = match waited >= TELL_AFTER {
            true => DirLock::owner(&common.dir).filter(|&(pid, _)| sys::is_alive(pid)),
            false => None,
        };
        if let (Some((pid, role)), false) = (owner, told) {
            told = true;
            let dir = common.dir.display();
            say(
                common,
                &format!("{dir}: waiting for strew {role} (pid {pid}), which holds it"),
            );
        }
        let limit = match owner {
            Some(_) => common.stall.max(PEER_START_TIMEOUT),
            None => PEER_START_TIMEOUT,
        };
        let over = patience
            .until()
            .is_some_and(|until| Instant::now() >= until);
        if waited >= limit || over {
            let dir = common.dir.display();
            let message = match owner {
                Some((pid, role)) => format!(
                    "{dir}: strew {role} (pid {pid}) holds this directory and takes no clients; \
                     try again when it is done, or give another --dir"
                ),
                None => format!(
                    "{dir}: no peer could be started here in {} s",
                    limit.as_secs()
                ),
            };
            return Err(Failure::new(Status::InUse, message));
        }
        sleep(ATTEMPT_PAUSE);
    }
}

/// The addresses of all peers that are named. One that cannot be resolved is a warning: the work may not need
/// it.
fn resolve(peers: &[String]) -> Vec<SocketAddr> {
    let mut addrs = Vec::new();
    for peer in peers {
        match peer.to_socket_addrs() {
            Ok(found) => addrs.extend(found),
            Err(error) => warn!("{peer}: {}", plain(&error)),
        }
    }
    addrs
}

fn create_dir(dir: &Path) -> Result<(), Failure> {
    make_dir(dir).map_err(|error| Failure::file(dir, &error))
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
        if let Some(min_free) = common.min_free {
            command.args(["--min-free", &min_free.to_string()]);
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
