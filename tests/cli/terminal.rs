//! What is shown on a terminal: progress, and the status for people.

use crate::harness::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};
use strew::sys::wait_for;

/// Both ends of a new terminal; the program's end second.
pub fn terminal() -> (File, OwnedFd) {
    let mut fds = [0; 2];
    let null = std::ptr::null_mut();
    // SAFETY: the kernel fills in the two descriptors; the null pointers ask for no name and no settings.
    unsafe {
        let (ours, theirs) = (&raw mut fds[0], &raw mut fds[1]);
        let opened = libc::openpty(ours, theirs, null, null.cast(), null.cast());
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        (File::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A terminal becomes so many columns wide.
fn set_columns(terminal: &File, columns: u16) {
    let size = libc::winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the structure is of the type that the request has, borrowed for the length of the call.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// What a program has written to a terminal within some time; `None` when it has ended.
fn read(mut terminal: &File, within: Duration) -> Option<Vec<u8>> {
    let ready = wait_for(terminal.as_raw_fd(), true, false, Some(within)).expect("waited");
    if !ready.read {
        return Some(Vec::new());
    }
    let mut bytes = [0; 10_000];
    // It ends with an error when the other end is closed.
    let len = terminal.read(&mut bytes).ok().filter(|len| *len > 0)?;
    Some(bytes[..len].to_vec())
}

/// All that is written to a terminal, as text, until it ends or has a part that is waited for.
fn read_until(terminal: &File, part: &str) -> String {
    let (mut bytes, begun) = (Vec::new(), Instant::now());
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !part.is_empty() && text.contains(part) {
            return text;
        }
        assert!(begun.elapsed() < LIMIT, "no {part:?} in {text:?}");
        match read(terminal, Duration::from_millis(100)) {
            Some(more) => bytes.extend_from_slice(&more),
            None => return text,
        }
    }
}

/// Clears a line that is drawn anew.
const REDRAW: &str = "\r\x1b[K";

/// Columns that a text takes: letters of the East take two.
fn columns_of(text: &str) -> usize {
    let columns = |letter: char| if letter.is_ascii() { 1 } else { 2 };
    text.chars().map(columns).sum()
}

#[test]
fn progress_is_a_line_that_fits_the_terminal_while_that_changes() {
    let lab = Lab::new();
    let peers = lab.network_with(2, &["--down-rate", "500K"]);
    let name = format!("{}.tar", "\u{6d77}".repeat(20));
    lab.file(&name, &random_bytes(3 << 20, 1));
    let (ours, theirs) = terminal();
    set_columns(&ours, 120);
    let share = ["share", "-d", "sharer", "-p", &peers[0].addr(), &name];
    let mut run = lab.strew(share).env("TERM", "xterm");
    run = run.env_remove("NO_COLOR");
    run.command.stdout(Stdio::null()).stderr(theirs);
    let begun = Instant::now();
    let mut process = Process::spawn(&mut run.command);
    drop(run);

    let mut all = String::new();
    let mut widest = Vec::new();
    // Redraws that are awaited before the terminal changes.
    for (columns, awaited) in [(120, 5), (30, 4), (90, usize::MAX)] {
        set_columns(&ours, columns);
        kill(process.id(), libc::SIGWINCH);
        // What is there was drawn before, and one more line may have been measured before.
        let mut before = String::new();
        while let Some(more) = read(&ours, Duration::ZERO).filter(|more| !more.is_empty()) {
            before += &String::from_utf8(more).expect("whole letters");
        }
        let mut after = String::new();
        while after.matches(REDRAW).count() < awaited {
            match read(&ours, Duration::from_millis(50)) {
                Some(more) => after += &String::from_utf8(more).expect("whole letters"),
                None => break,
            }
            assert!(begun.elapsed() < LIMIT, "{after:?}");
        }
        let drawn = after.split(REDRAW).skip(2);
        // What does not stand where a line is drawn is a message.
        let drawn = drawn.filter(|line| !line.starts_with('\r'));
        let widths: Vec<usize> = drawn.map(columns_of).collect();
        let most = widths.iter().max().copied().unwrap_or(0);
        assert!(most < usize::from(columns), "{columns}: {after:?}");
        widest.push(most);
        all += &before;
        all += &after;
    }
    let status = process.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0), "{all:?}");
    assert!(widest[0] > 60 && widest[2] > 60, "{widest:?}: {all:?}");
    for part in [" of 3.0 MiB, ", "KiB/s, ", " s left, 2 copies on 2 peers"] {
        assert!(all.contains(part), "no {part:?} in {all:?}");
    }
    // The line goes before anything else is said.
    let last = all.rsplit(REDRAW).next().expect("the last");
    let message = format!("\rstrew: {name}: 3.0 MiB in 13 blocks, at least 2 copies");
    assert!(last.starts_with(&message), "{last:?}");
    assert!(last.ends_with("\r\n"), "{last:?}");
}

#[test]
fn line_is_drawn_ten_times_a_second_at_most() {
    let lab = Lab::new();
    lab.file("f", &random_bytes(100 << 20, 1));
    let (ours, theirs) = terminal();
    let share = ["share", "-d", "sharer", "--min-copies", "0", "f", "f", "f"];
    let mut run = lab.strew(share).env("TERM", "xterm").env_remove("NO_COLOR");
    run.command.stdout(Stdio::null()).stderr(theirs);
    let begun = Instant::now();
    let mut process = Process::spawn(&mut run.command);
    drop(run);
    let text = read_until(&ours, "");
    let most = begun.elapsed().as_secs_f64() * 10.0 + 1.0;
    assert_eq!(process.wait(LIMIT).expect("it ends").code(), Some(0));
    let drawn = text.matches("MiB/s").count();
    assert!(drawn > 3 && drawn as f64 <= most, "{drawn} of {most}");
}

#[test]
fn line_is_plain_where_the_terminal_is_and_says_that_input_is_waited_for() {
    let lab = Lab::new();
    for (term, no_color) in [("dumb", ""), ("xterm", "1")] {
        let (ours, theirs) = terminal();
        set_columns(&ours, 80);
        let share = ["share", "-d", "sharer", "--min-copies", "0"];
        let mut run = lab.strew(share).env("TERM", term).env("NO_COLOR", no_color);
        run.command.stdin(Stdio::piped()).stdout(Stdio::null());
        run.command.stderr(theirs);
        let mut process = Process::spawn(&mut run.command);
        drop(run);
        let mut input = process.0.stdin.take().expect("it is piped");
        input.write_all(&random_bytes(300_000, 1)).expect("taken");
        let waiting = "\rstandard input: 293.0 KiB, ";
        let mut text = read_until(&ours, ", waiting for input");
        assert!(text.contains(waiting), "{text:?}");
        drop(input);
        text += &read_until(&ours, "");
        assert!(!text.contains('\x1b'), "{text:?}");
        let message = "\rstrew: standard input: 293.0 KiB in 3 blocks, no copy but the own one";
        assert!(text.contains(message), "{text:?}");
        let drawn = text.split('\r').filter(|it| !it.starts_with("strew: "));
        let widths = drawn.map(columns_of);
        assert!(widths.max() < Some(80), "{text:?}");
        assert_eq!(process.wait(LIMIT).expect("it ends").code(), Some(0));
    }
}

#[test]
fn nothing_is_drawn_over_data_on_the_same_terminal() {
    let lab = Lab::new();
    let share = ["share", "-q", "-d", "sharer", "--min-copies", "0"];
    let address = lab.strew(share).input("no newline").run().text();
    for (progress, drawn) in [("auto", false), ("always", true)] {
        let (ours, theirs) = terminal();
        let fetch = ["fetch", "-d", "sharer", "-o", "-", "--progress", progress];
        let mut run = lab.strew(fetch).args([&address]).env("TERM", "xterm");
        let other = theirs.try_clone().expect("duplicated");
        run.command.stdout(theirs).stderr(other);
        let mut process = Process::spawn(&mut run.command);
        drop(run);
        let text = read_until(&ours, "");
        assert_eq!(process.wait(LIMIT).expect("it ends").code(), Some(0));
        assert!(text.contains("no newline"), "{text:?}");
        assert_eq!(text.contains('\r'), drawn, "{text:?}");
    }
}

#[test]
fn nothing_is_drawn_where_no_terminal_is() {
    let lab = Lab::new();
    let share = ["share", "-d", "sharer", "--min-copies", "0"];
    let outcome = lab.strew(share).env("TERM", "xterm").input("abc").run();
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('\r'), "{}", outcome.stderr);
}

#[test]
fn status_is_a_page_for_people() {
    let lab = Lab::new();
    let peer = lab.serve("peer", &[]);
    let (ours, theirs) = terminal();
    let mut run = lab.strew(["status", "-d", "peer"]);
    run.command.stdout(theirs).stderr(Stdio::null());
    let mut process = Process::spawn(&mut run.command);
    drop(run);
    let page = read_until(&ours, "");
    assert_eq!(process.wait(LIMIT).expect("it ends").code(), Some(0));
    let peer_line = format!("peer        {}\r\n", peer.id);
    assert!(page.starts_with(&peer_line), "{page}");
    let rates = "\r\nrates       0 B/s sent, 0 B/s received, over the last 10 s\r\n";
    assert!(page.contains(rates), "{page}");
    assert!(page.lines().all(|line| line.len() < 80), "{page}");
}
