//! A peer as a service: what it tells the service manager and the journal, its unit, its metrics.

use crate::harness::*;
use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn next(socket: &UnixDatagram) -> String {
    let mut state = [0; 100];
    let len = socket.recv(&mut state).expect("something is said");
    String::from_utf8_lossy(&state[..len]).into_owned()
}

#[test]
fn service_manager_is_told_when_it_is_ready_well_and_stopping() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let by_path = UnixDatagram::bind(&path).expect("bound");
    let name = format!("strew-test-{}", std::process::id());
    let addr = SocketAddr::from_abstract_name(&name).expect("a name");
    let abstractly = UnixDatagram::bind_addr(&addr).expect("bound");
    let names = [path.to_str().expect("text").to_string(), format!("@{name}")];
    for (socket, name) in [by_path, abstractly].iter().zip(names) {
        socket.set_read_timeout(Some(LIMIT)).expect("set");
        let mut run = lab.strew(["serve", "-l", "127.0.0.1:0", "-d", "data"]);
        run = run
            .env("NOTIFY_SOCKET", name)
            .env("WATCHDOG_USEC", "100000");
        run.command.stdout(Stdio::null());
        let mut serve = run.start();
        assert_eq!(next(socket), "READY=1");
        for _ in 0..3 {
            assert_eq!(next(socket), "WATCHDOG=1");
        }
        kill(serve.id(), libc::SIGTERM);
        // It may say some times that it is well before.
        assert!((0..1000).any(|_| next(socket) == "STOPPING=1"));
        assert_eq!(serve.wait(LIMIT).expect("it ends").code(), Some(0));
    }
}

#[test]
fn watchdog_of_another_process_is_not_ours() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    let run = lab.strew(["serve", "-l", "127.0.0.1:0", "-d", "data"]);
    let run = run.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000");
    let mut run = run.env("WATCHDOG_PID", "1");
    run.command.stdout(Stdio::null());
    let serve = run.start();
    assert_eq!(next(&socket), "READY=1");
    lab.status(&lab.path("data"), "uptime_seconds");
    kill(serve.id(), libc::SIGTERM);
    assert_eq!(next(&socket), "STOPPING=1");
}

#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let lab = Lab::new();
    let log = lab.path("log");
    let file = File::create(&log).expect("made");
    let metadata = file.metadata().expect("known");
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    for (journal, begin) in [(stream.as_str(), "<6>"), ("8:1", "strew: info: ")] {
        let mut run = lab.strew(["status", "-v", "-d", "data"]);
        run = run.env("JOURNAL_STREAM", journal);
        run.command.stdout(Stdio::null());
        run.command
            .stderr(File::options().append(true).open(&log).expect("it opens"));
        assert_eq!(run.start().wait(LIMIT).expect("it ends").code(), Some(0));
        let said = fs::read_to_string(&log).expect("written");
        let last = said.lines().last().expect("something was said");
        assert!(last.starts_with(begin), "{said}");
    }
}

#[test]
fn unit_is_valid_and_hardened() {
    let lab = Lab::new();
    let unit = lab.strew(["unit"]).run().text();
    let program = env!("CARGO_BIN_EXE_strew");
    assert!(
        unit.contains(&format!("\nExecStart={program} serve\n")),
        "{unit}"
    );
    if !is_installed("systemd-analyze") {
        return println!("skipped: systemd-analyze not found");
    }
    let path = lab.file("strew.service", unit.as_bytes());
    let path = path.to_str().expect("text");
    let verify = lab
        .program("systemd-analyze", ["verify", "--man=no", path])
        .run();
    assert!(verify.status.success(), "{verify:?}");
    assert!(
        !verify.stderr.contains("strew.service:"),
        "{}",
        verify.stderr
    );
    // In tenths: 2.0 of 10, where 10 is no protection at all.
    let security = ["security", "--offline=true", "--threshold=20", path];
    let security = lab.program("systemd-analyze", security).run();
    assert!(security.status.success(), "{security:?}");
}

#[test]
fn unit_is_installed_for_the_program_that_is() {
    if !is_installed("make") {
        return println!("skipped: make not found");
    }
    let lab = Lab::new();
    let program = Path::new(env!("CARGO_BIN_EXE_strew"));
    let bin = lab.path("root/usr/bin");
    fs::create_dir_all(&bin).expect("made");
    std::os::unix::fs::symlink(program, bin.join("strew")).expect("made");
    let root = lab.path("root");
    let mut make = lab.program("make", ["-C", env!("CARGO_MANIFEST_DIR"), "install-unit"]);
    make = make.arg(format!("DESTDIR={}", root.display()));
    let done = make.arg("PREFIX=/usr").run();
    assert!(done.status.success(), "{done:?}");
    let path = root.join("usr/lib/systemd/system/strew.service");
    let unit = fs::read_to_string(path).expect("installed");
    let printed = lab.strew(["unit"]).run().text();
    let of = |unit: &str, wants: bool| -> Vec<String> {
        let lines = unit.lines();
        let lines = lines.filter(|line| line.starts_with("ExecStart=") == wants);
        lines.map(String::from).collect()
    };
    assert_eq!(of(&unit, true), ["ExecStart=/usr/bin/strew serve"]);
    assert_eq!(of(&unit, false), of(&printed, false));
}

#[test]
fn metrics_are_as_their_parser_wants_them() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let text = lab
        .strew(["status", "--metrics", "-d"])
        .arg(&peers[0].dir)
        .run()
        .text();
    assert!(text.contains("\nstrew_contacts 1\n"), "{text}");
    assert!(
        text.contains(&format!(
            "strew_info{{id=\"{}\",mode=\"peer\"}} 1",
            peers[0].id
        )),
        "{text}"
    );
    let script = "import sys
from prometheus_client.parser import text_string_to_metric_families as families
all = {family.name: family for family in families(sys.stdin.read())}
assert all['strew_blocks'].type == 'gauge' and all['strew_requests_sent'].type == 'counter'
assert all['strew_bytes_sent'].type == all['strew_bytes_received'].type == 'counter'
assert not any('per_second' in name for name in all)
assert all['strew_requests_sent'].samples[0].value > 0 and all['strew_blocks'].documentation
print(len(all))";
    // The one of the distribution has its packages, and may not be the first.
    let has_parser = |python: &&&str| {
        let mut import = Command::new(python);
        let import = import.args(["-c", "import prometheus_client"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let pythons = ["python3", "/usr/bin/python3"];
    let Some(python) = pythons.iter().find(has_parser) else {
        return println!("skipped: prometheus_client of python3 not found");
    };
    let parsed = lab.program(python, ["-c", script]).input(text.clone());
    let parsed = parsed.run();
    assert!(parsed.status.success(), "{parsed:?}");
    let types = text
        .lines()
        .filter(|line| line.starts_with("# TYPE "))
        .count();
    assert_eq!(parsed.text(), types.to_string());
}

#[test]
fn ready_is_told_by_the_status_and_nothing_is_started() {
    let lab = Lab::new();
    let ready = |dir: &str| lab.strew(["status", "--ready", "-d", dir]).run();
    ready("data").expect_failure(1, &["data: no strew serve runs there"]);
    assert!(!lab.path("data").exists());
    let alone = lab.serve("alone", &[]);
    ready("alone").expect_failure(
        7,
        &["alone: its strew serve has not reached any other peer"],
    );
    let addr = alone.addr();
    let other = lab.serve("other", &["-p", &addr]);
    for peer in [&alone, &other] {
        lab.await_joined(peer, 2);
        let dir = peer.dir.to_str().expect("text");
        let outcome = ready(dir);
        assert_eq!(outcome.stderr, "");
        assert_eq!(outcome.text(), "");
    }
}

#[test]
fn second_signal_ends_a_serve_at_once() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let dir = &peers[0].dir;
    // It saves its contacts in the end, and hangs there: nobody reads what it writes to.
    let made = Command::new("mkfifo")
        .arg(dir.join("contacts.new"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let pid = peers[0].pid();
    kill(pid, libc::SIGTERM);
    let wait = format!("/proc/{pid}/wchan");
    await_true("a serve that hangs", || {
        let wait = fs::read_to_string(&wait).unwrap_or_default();
        wait.contains("fifo") || wait.contains("wait_for_partner")
    });
    let mut peers = peers;
    assert!(peers[0].is_running());
    kill(pid, libc::SIGINT);
    let status = peers.swap_remove(0).wait(LIMIT).expect("it ends");
    assert_eq!(status.signal(), Some(libc::SIGINT));
}
