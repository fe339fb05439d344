//! What the tests stand on: a temporary directory, peers that end with the test, commands with a time limit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The largest file that lies in its root, encrypted: a block less the header, the length and the zero bytes.
pub const ROOT_MAX_ENCRYPTED: usize = 262_118;

/// The largest file that lies in its root, plain.
pub const ROOT_MAX_PLAIN: usize = 262_134;

/// Nothing that these tests do takes longer, even on a busy machine; what does hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How often an event that cannot be waited for is looked for.
const POLL: Duration = Duration::from_millis(10);

/// Waits until something is there, and fails if it does not come.
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(POLL);
    }
}

/// Waits until something is so, and fails if it does not come to be.
pub fn await_true(what: &str, mut look: impl FnMut() -> bool) {
    await_some(what, || look().then_some(()));
}

/// Bytes that look random and are the same for the same seed (xorshift64*, Vigna 2016).
pub fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Ends a process that is known by its id only.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: takes no pointers; the id is of a process that a test has started, directly or not.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Whether there is such a program.
pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Whether these tests may do everything, so that permissions prove nothing.
pub fn is_root() -> bool {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// A temporary directory with everything that a test's processes use.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        Lab {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a file of this content; its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// The program, to be run with nothing of this machine's environment that it looks at. Relative names are
    /// those of the lab.
    pub fn strew(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        self.program(env!("CARGO_BIN_EXE_strew"), args)
    }

    /// Any program, in the same environment.
    pub fn program(&self, program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path());
        command
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("home/data"))
            .env("STREW", env!("CARGO_BIN_EXE_strew"))
            .env_remove("RUST_LOG");
        let variables = std::env::vars_os().map(|variable| variable.0);
        for name in variables.filter(|name| name.as_encoded_bytes().starts_with(b"STREW_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME");
        command.stdin(Stdio::null());
        Run {
            command,
            input: Vec::new(),
            limit: LIMIT,
        }
    }

    /// Starts a peer in a directory of that name and awaits its ready line.
    pub fn serve(&self, name: &str, args: &[&str]) -> Serve {
        self.serve_at(name, "127.0.0.1:0", args)
    }

    pub fn serve_at(&self, name: &str, listen: &str, args: &[&str]) -> Serve {
        let dir = self.path(name);
        let mut run = self.strew(["serve", "-l", listen, "-d"]);
        run.command.arg(&dir).args(args);
        let log = self.path(format!("{name}.stderr"));
        run.command
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a log"));
        let mut process = Process::spawn(&mut run.command);
        let stdout = process.0.stdout.take().expect("it is piped");
        let (line, rest) = first_line(stdout);
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", addr, id] = words[..] else {
            let log = fs::read_to_string(&log).unwrap_or_default();
            panic!("serve said {line:?} instead of being ready; {log}");
        };
        Serve {
            addr: addr.parse().expect("an address"),
            id: id.to_string(),
            dir,
            log,
            process,
            rest,
        }
    }

    /// So many peers, all of which know each other and are given blocks.
    pub fn network(&self, count: usize) -> Vec<Serve> {
        self.network_with(count, &[])
    }

    pub fn network_with(&self, count: usize, args: &[&str]) -> Vec<Serve> {
        let mut peers: Vec<Serve> = Vec::new();
        for index in 0..count {
            let mut args = args.to_vec();
            let first = peers.first().map(|first| first.addr.to_string());
            if let Some(first) = &first {
                args.extend(["-p", first]);
            }
            peers.push(self.serve(&format!("peer{index}"), &args));
        }
        for peer in &peers {
            self.await_joined(peer, count);
        }
        peers
    }

    /// Waits until a peer knows all the others of a network and is reachable.
    pub fn await_joined(&self, peer: &Serve, count: usize) {
        await_true("a peer that has joined", || {
            let contacts = self.number(&peer.dir, "contacts") as usize;
            contacts + 1 >= count && (count == 1 || self.status(&peer.dir, "mode") == "peer")
        });
    }

    /// One value of a peer's status page.
    pub fn status(&self, dir: &Path, key: &str) -> String {
        let page = self.strew(["status", "-d"]).arg(dir).run().text();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {key} in {page}"))
            .to_string()
    }

    /// The same of a value that is a number.
    pub fn number(&self, dir: &Path, key: &str) -> u64 {
        self.status(dir, key).parse().expect("a number")
    }

    /// The sum of a number over some peers.
    pub fn sum(&self, peers: &[Serve], key: &str) -> u64 {
        peers.iter().map(|peer| self.number(&peer.dir, key)).sum()
    }

    /// Writes the user's configuration; its path.
    pub fn configure(&self, text: &str) -> PathBuf {
        let dir = self.path("home/.config/strew");
        fs::create_dir_all(&dir).expect("made");
        let path = dir.join("config");
        fs::write(&path, text).expect("written");
        path
    }

    /// What lies in the lab, in order, but for `data` and what belongs to peers.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("it can be read");
        let names = entries.map(|it| it.expect("an entry").file_name().into_string());
        let mut names: Vec<String> = names.map(|name| name.expect("text")).collect();
        names.retain(|name| name != "data" && !name.starts_with("peer"));
        names.sort();
        names
    }

    /// Whether nothing is left of private peers in a directory: no socket, and the lock is free.
    pub fn is_released(&self, dir: &Path) -> bool {
        !dir.join("control.sock").exists() && !is_locked(&dir.join("lock"))
    }
}

/// Whether somebody holds the lock of a file.
pub fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => file.try_lock().is_err(),
        Err(_) => false,
    }
}

/// The process that says in its lock file that it holds a directory.
pub fn owner(dir: &Path) -> Option<u32> {
    let line = fs::read_to_string(dir.join("lock")).ok()?;
    line.split_whitespace().next()?.parse().ok()
}

/// The first line of a stream, and its later ones as they come, when it has ended.
pub fn first_line(stream: impl Read + Send + 'static) -> (String, mpsc::Receiver<String>) {
    let (first, first_there) = mpsc::channel();
    let (rest, rest_there) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = first.send(line);
        let mut text = String::new();
        let _ = reader.read_to_string(&mut text);
        let _ = rest.send(text);
    });
    let line = first_there.recv_timeout(LIMIT).unwrap_or_default();
    (line, rest_there)
}

/// A process that ends with the value, also in a test that panics.
pub struct Process(pub Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Process {
        Process(command.spawn().expect("the program starts"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it ends; `None` if it has not in this time.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `strew serve`.
pub struct Serve {
    pub addr: SocketAddr,
    pub id: String,
    pub dir: PathBuf,
    pub log: PathBuf,
    process: Process,
    /// What it writes to standard output after its first line, when it has ended.
    rest: mpsc::Receiver<String>,
}

impl Serve {
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its child processes: the one that syncs, once something has been stored.
    pub fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let pids = std::fs::read_to_string(path).unwrap_or_default();
        pids.split_whitespace()
            .map(|pid| pid.parse().expect("a number"))
            .collect()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.wait(Duration::ZERO).is_none()
    }

    /// Waits until it ends; `None` if it has not in this time.
    pub fn wait(mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit)
    }

    /// What it has said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it by SIGTERM, which must take less than 5 s and leave nothing on standard output.
    pub fn stop(mut self) {
        kill(self.pid(), libc::SIGTERM);
        let status = self.process.wait(Duration::from_secs(5));
        let status = status.expect("serve ends within 5 s of SIGTERM");
        assert_eq!(status.code(), Some(0), "{}", self.said());
        let rest = self.rest.recv_timeout(LIMIT).expect("its output is closed");
        assert_eq!(rest, "", "one line only on standard output");
        assert!(!self.dir.join("control.sock").exists());
        assert!(!is_locked(&self.dir.join("lock")));
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        kill(self.pid(), libc::SIGKILL);
        self.process.wait(LIMIT).expect("it is killed");
    }
}

/// A command that is about to be run.
pub struct Run {
    pub command: Command,
    input: Vec<u8>,
    limit: Duration,
}

impl Run {
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.command.arg(arg);
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    pub fn env_remove(mut self, name: &str) -> Run {
        self.command.env_remove(name);
        self
    }

    /// What it is given on standard input, through a pipe.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.input = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Starts it, and leaves its streams to the caller.
    pub fn start(mut self) -> Process {
        Process::spawn(&mut self.command)
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let args: Vec<OsString> = self.command.get_args().map(OsStr::to_os_string).collect();
        let what = format!("strew {args:?}");
        let begun = Instant::now();
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut self.command);
        if let Some(mut stdin) = process.0.stdin.take() {
            let input = std::mem::take(&mut self.input);
            // A program that does not read what it is given is judged by what it says.
            thread::spawn(move || stdin.write_all(&input));
        }
        let stdout = collect(process.0.stdout.take().expect("it is piped"));
        let stderr = collect(process.0.stderr.take().expect("it is piped"));
        let status = process.wait(self.limit);
        let status = status.unwrap_or_else(|| panic!("{what} hangs"));
        let took = begun.elapsed();
        // A command whose streams outlive it has left somebody behind who holds them.
        let streams = (
            stdout.recv_timeout(Duration::from_secs(5)),
            stderr.recv_timeout(Duration::from_secs(5)),
        );
        let (Ok(stdout), Ok(stderr)) = streams else {
            panic!("{what} has ended, and somebody still holds its streams");
        };
        Outcome {
            what,
            status,
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took,
        }
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    what: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn bytes(self) -> Vec<u8> {
        self.expect_status(0);
        self.stdout
    }

    /// The same as text, without the last line's end.
    #[track_caller]
    pub fn text(self) -> String {
        let text = String::from_utf8(self.bytes()).expect("text");
        text.trim_end().to_string()
    }

    #[track_caller]
    pub fn expect_status(&self, status: i32) {
        let Outcome { what, stderr, .. } = self;
        assert_eq!(
            (self.status.code(), self.status.signal()),
            (Some(status), None),
            "{what} said: {stderr}"
        );
    }

    /// It failed with this status, said all of these things in one message, and put out nothing.
    #[track_caller]
    pub fn expect_failure(&self, status: i32, said: &[&str]) {
        let Outcome { what, .. } = self;
        self.expect_status(status);
        assert_eq!(self.stdout, b"", "{what}: standard output must be empty");
        self.expect_said(said);
    }

    /// It said these things, and every line of what it said begins as it should.
    #[track_caller]
    pub fn expect_said(&self, said: &[&str]) {
        let Outcome { what, stderr, .. } = self;
        let begin = match what.contains("\"--json\"") {
            true => "{\"v\":1,\"type\":\"",
            false => "strew: ",
        };
        assert!(stderr.starts_with(begin), "{what} said: {stderr}");
        for part in said {
            assert!(
                stderr.contains(part),
                "{what} did not say {part:?} but: {stderr}"
            );
        }
    }
}

/// Whether this machine has IPv6 on its loopback.
pub fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
}

/// A value in kB of a process's status page in /proc.
pub fn memory_of(pid: u32, key: &str) -> Option<u64> {
    let page = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = page.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
