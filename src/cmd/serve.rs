//! `strew serve`: runs a peer until it is told to end. And its hidden sibling, the private peer of clients.

use super::client::{Patience, Peer};
use super::failure::{plain, Failure, Status};
use super::json::Object;
use super::options::{self, Common, Opt, DEFAULT_PORT};
use super::output;
use super::parsed::Parsed;
use super::settings::Settings;
use super::voice::{self, say};
use crate::limits::{CAPACITY_DEFAULT, CAPACITY_MIN};
use crate::reactor::{self, Changes, Rates, Reactor, Reload};
use crate::store::pack::{DirLock, LockError, Role};
use crate::store::Allotment;
use crate::sys;
use crate::wire::frame::{ByeReason, Frame, PeerRole};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between attempts to lock a directory whose private peer is about to end.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How long a directory may be locked by somebody who does not answer.
const SILENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::LISTEN, options::UP_RATE, options::DOWN_RATE];

/// Runs a peer that stores blocks for others.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    parsed.no_arguments("serve")?;
    let listen = options::listen(parsed)?;
    let signals = signals()?;
    let Some(lock) = lock(&common, &signals)? else {
        return Ok(());
    };
    let mut parsed = parsed.clone();
    let changes = changes(&common, &parsed)?;
    let reload = move || {
        let changed = Settings::load().and_then(|settings| {
            parsed.add_settings(settings);
            options::check(&parsed)?;
            let changes = self::changes(&Common::new(&parsed)?, &parsed)?;
            // Last: all is as before if anything is wrong.
            voice::set_level(&parsed)?;
            Ok(changes)
        });
        changed.map_err(|failure| failure.message)
    };
    let serve = Some(listen);
    let reload: Reload = Box::new(reload);
    let reactor = start(&common, lock, serve, changes, Some(reload), signals)?;
    let (addr, id) = (reactor.addr(), reactor.id());
    output::answer(&format_args!("ready {addr} {id}"), || {
        Object::new("ready").text("listen", addr).text("id", id)
    })?;
    reactor.run().map_err(failure)
}

/// Runs a peer that serves the clients of this machine and ends with the last of them.
pub fn run_private(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    let lock = DirLock::acquire(&common.dir, Role::Private)
        .map_err(|error| in_use(&common.dir, &error))?;
    let changes = changes(&common, parsed)?;
    start(&common, lock, None, changes, None, signals()?)?
        .run()
        .map_err(failure)
}

fn signals() -> Result<OwnedFd, Failure> {
    let failed = |error| Failure::new(Status::Other, format!("set up signals: {}", plain(&error)));
    sys::signal_pipe().map_err(failed)
}

fn in_use(dir: &Path, error: &LockError) -> Failure {
    match error {
        LockError::Held { pid, role } => {
            let role = role.map_or("another process".to_string(), |role| {
                format!("strew {role}")
            });
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let message = format!(
                "{}: {role}{pid} uses this directory; end it, or give another --dir",
                dir.display()
            );
            Failure::new(Status::InUse, message)
        }
        LockError::Io(what, error) => {
            Failure::new(Status::Other, format!("{what}: {}", plain(error)))
        }
    }
}

/// Locks the directory for a `serve`. A private peer there is asked to take no new clients, and waited for;
/// `None` if a signal comes first.
fn lock(common: &Common, signals: &OwnedFd) -> Result<Option<DirLock>, Failure> {
    let mut told = false;
    let mut silent_until = Instant::now() + SILENT_TIMEOUT;
    loop {
        let held = match DirLock::acquire(&common.dir, Role::Serve) {
            Ok(lock) => return Ok(Some(lock)),
            Err(error @ LockError::Io(..)) => return Err(in_use(&common.dir, &error)),
            Err(held) => held,
        };
        // Of one that was killed a child may have the lock still, from its fork until its exec.
        if let LockError::Held {
            role: Some(Role::Serve),
            pid,
        } = held
        {
            if pid.is_none_or(sys::is_alive) {
                return Err(in_use(&common.dir, &held));
            }
        }
        if let Some((mut peer, hello)) = Peer::greet(&common.dir, Patience::new(common))? {
            if hello.role != PeerRole::Private {
                return Err(in_use(&common.dir, &held));
            }
            // It ends when its clients are done, however long that takes.
            let bye = Frame::Bye {
                reason: ByeReason::Done,
                text: String::new(),
            };
            let _ = peer.send(&Frame::Yield).and_then(|()| peer.send(&bye));
            if !told {
                told = true;
                say(
                    common,
                    &format!("waiting for the clients that use {}", common.dir.display()),
                );
            }
        } else if !told && Instant::now() >= silent_until {
            return Err(in_use(&common.dir, &held));
        }
        if told {
            silent_until = Instant::now() + SILENT_TIMEOUT;
        }
        let signal = sys::wait_for(signals.as_raw_fd(), true, false, Some(LOCK_PAUSE));
        if signal.is_ok_and(|ready| ready.read) {
            return Ok(None);
        }
    }
}

/// What may change while it runs, as it is set now.
fn changes(common: &Common, parsed: &Parsed) -> Result<Changes, Failure> {
    let capacity = common.capacity;
    Ok(Changes {
        peers: common.peers.clone(),
        allotment: Allotment {
            capacity: capacity.map_or_else(|| default_capacity(&common.dir), Ok)?,
            min_free: common.min_free.unwrap_or(0),
        },
        rates: Rates {
            up: options::rate(parsed, options::UP_RATE)?,
            down: options::rate(parsed, options::DOWN_RATE)?,
        },
    })
}

/// Starts a peer: a `serve` that listens there, or a private one.
fn start(
    common: &Common,
    lock: DirLock,
    serve: Option<Option<SocketAddr>>,
    changes: Changes,
    reload: Option<Reload>,
    signals: OwnedFd,
) -> Result<Reactor, Failure> {
    let options = reactor::Options {
        dir: common.dir.clone(),
        lock,
        serve: serve.is_some(),
        listen: serve.flatten(),
        default_port: if serve.is_some() { DEFAULT_PORT } else { 0 },
        changes,
        reload,
        signals,
    };
    Reactor::start(options).map_err(failure)
}

/// Bytes allotted if nothing is said: 10 GiB, or half of what is free if that is less, but no less than can be used;
/// what the pack uses already counts as free.
pub fn default_capacity(dir: &Path) -> Result<u64, Failure> {
    let free = sys::free_space(dir).map_err(|error| Failure::file(dir, &error))?;
    let pack = std::fs::metadata(dir.join("pack")).map_or(0, |pack| pack.blocks() * 512);
    Ok(CAPACITY_DEFAULT
        .min(free.saturating_add(pack) / 2)
        .max(CAPACITY_MIN))
}

fn failure(failure: reactor::Failure) -> Failure {
    match failure {
        reactor::Failure::PortInUse(addr) => {
            let message =
                format!("{addr}: the port is in use; end what uses it, or give another with -l");
            Failure::new(Status::InUse, message)
        }
        reactor::Failure::DiskFull(message) => Failure::new(Status::Full, message),
        reactor::Failure::Other(message) => Failure::new(Status::Other, message),
    }
}
