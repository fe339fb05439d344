//! Host names are resolved by a child process, one at a time each, never in the loop: the system's resolver may
//! block for many seconds.

use crate::time::Instant;
use mio::unix::pipe::Receiver;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The hidden command that resolves its argument.
pub const COMMAND: &str = "__resolve";

/// Bytes of answer read from a child at most: some hundred addresses.
const ANSWER_MAX: usize = 4096;

/// Resolves HOST:PORT here and now; it may block. Prints one address a line.
pub fn run(host: &str) -> io::Result<()> {
    for addr in host.to_socket_addrs()? {
        println!("{addr}");
    }
    Ok(())
}

/// Pauses between attempts to resolve a name that could not be: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A name to be resolved until it has been.
pub struct Name {
    /// HOST:PORT.
    pub host: String,
    /// When to try next.
    pub at: Instant,
    pause: Duration,
}

impl Name {
    /// A name to be tried at once.
    pub fn new(now: Instant, host: String) -> Name {
        Name {
            host,
            at: now,
            pause: RETRY.0,
        }
    }

    /// The same name, to be tried again after a pause, twice as long each time.
    pub fn again(self, now: Instant) -> Name {
        Name {
            at: now + self.pause,
            pause: (self.pause * 2).min(RETRY.1),
            ..self
        }
    }
}

/// A child that is resolving a name. Dropping it ends it.
pub struct Resolving {
    /// What it resolves.
    pub name: Name,
    child: Child,
    /// Where its answer comes, to be registered with the loop.
    pub pipe: Receiver,
    answer: Vec<u8>,
}

impl Resolving {
    /// Starts a child; gives the name back if that cannot be.
    pub fn start(name: Name) -> Result<Resolving, (Name, io::Error)> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args([COMMAND, &name.host])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = match command.stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) => return Err((name, error)),
        };
        let pipe = Receiver::from(child.stdout.take().expect("its standard output is a pipe"));
        let resolving = Resolving {
            name,
            child,
            pipe,
            answer: Vec::new(),
        };
        match resolving.pipe.set_nonblocking(true) {
            Ok(()) => Ok(resolving),
            Err(error) => Err((resolving.into_name(), error)),
        }
    }

    /// Reads what has come; the addresses, none if it could not be resolved, once the child has said all.
    pub fn poll(&mut self) -> Option<Vec<SocketAddr>> {
        let mut buffer = [0; 512];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) if self.answer.len() + len <= ANSWER_MAX => {
                    self.answer.extend_from_slice(&buffer[..len]);
                }
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let answer = String::from_utf8_lossy(&self.answer);
        Some(
            answer
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect(),
        )
    }

    /// Ends the child; the name is left.
    pub fn into_name(mut self) -> Name {
        let (at, pause) = (self.name.at, self.name.pause);
        Name {
            host: std::mem::take(&mut self.name.host),
            at,
            pause,
        }
    }
}

impl Drop for Resolving {
    fn drop(&mut self) {
        // It has ended, or is made to, so that waiting does not block.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let now = Instant::EPOCH;
        let mut name = Name::new(now, "host:1".to_string());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            name = name.again(now);
            pauses.push(name.at.since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
