//! Telling a service manager how the peer is: sd_notify(3), which is a datagram to a socket that the environment names.
//! Nothing is told where nobody asks.

use crate::time::Instant;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to a service manager, if there is one.
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// A sign of life is due every so often, and next at that time.
    watchdog: Option<(Duration, Instant)>,
}

impl Notify {
    /// As the environment says.
    pub fn from_environment(now: Instant) -> Notify {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let opened = open(&name);
            let failed =
                |error: &io::Error| log::warn!("NOTIFY_SOCKET {}: {error}", name.display());
            opened.inspect_err(failed).ok()
        });
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number("WATCHDOG_USEC").filter(|_| is_for_us && socket.is_some());
        Notify {
            socket,
            // Half of what is allowed, as sd_watchdog_enabled(3) advises.
            watchdog: period.map(|micros| (Duration::from_micros(micros.max(2) / 2), now)),
        }
    }

    /// Says something, if anybody listens.
    pub fn say(&self, state: &str) {
        if let Some((socket, addr)) = &self.socket {
            if let Err(error) = socket.send_to_addr(state.as_bytes(), addr) {
                log::debug!("notify the service manager: {error}");
            }
        }
    }

    /// Gives a sign of life if one is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((period, at)) = self.watchdog.filter(|(_, at)| *at <= now) {
            self.say("WATCHDOG=1");
            self.watchdog = Some((period, at.max(now) + period));
        }
    }

    /// When to call [`Notify::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.watchdog.map(|(_, at)| at)
    }
}

/// A path, or after an `@` an abstract name.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let addr = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the loop.
    socket.set_nonblocking(true)?;
    Ok((socket, addr))
}
