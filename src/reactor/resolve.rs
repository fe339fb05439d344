//! Host names are resolved by a child process, one at a time each, never in the loop: the system's resolver may
//! block for many seconds.

use mio::unix::pipe::Receiver;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{Child, Command, Stdio};

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

/// A child that is resolving a name.
pub struct Resolving {
    /// What it resolves.
    pub host: String,
    child: Child,
    /// Where its answer comes, to be registered with the loop.
    pub pipe: Receiver,
    answer: Vec<u8>,
}

impl Resolving {
    /// Starts a child.
    pub fn start(host: String) -> io::Result<Resolving> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args([COMMAND, &host])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().expect("its standard output is a pipe");
        let pipe = Receiver::from(stdout);
        pipe.set_nonblocking(true)?;
        Ok(Resolving {
            host,
            child,
            pipe,
            answer: Vec::new(),
        })
    }

    /// Reads what has come; the addresses, none if it could not be resolved, once the child has ended.
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
        // Its output is closed: it is about to end, or is made to.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let answer = String::from_utf8_lossy(&self.answer);
        Some(
            answer
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect(),
        )
    }
}
