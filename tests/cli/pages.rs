//! What the README and strew(1) tell people to type, read out of them and run, in the order in which it stands there,
//! on a few machines that are directories here.

use crate::harness::*;
use std::fs;
use std::path::PathBuf;

/// A line that is to be typed, and at which machine; none is said for one's own.
#[derive(Debug)]
struct Line {
    host: String,
    command: String,
}

/// Run by whoever runs these tests, not by them.
const NOT_HERE: [&str; 2] = ["make ", "sudo "];

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The commands of a text: those after a prompt, and those that begin as commands do.
fn commands<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Line> {
    let begins = ["strew ", "tar ", "h=$(", "find ", "seq ", "make "];
    let line = |line: &'a str| {
        let (host, command) = line.split_once("$ ").unwrap_or(("", line));
        let is_prompt = line.contains("$ ") && host.bytes().all(|it| it.is_ascii_lowercase());
        let (host, command) = if is_prompt {
            (host, command)
        } else {
            ("", line)
        };
        let is_command = is_prompt || begins.iter().any(|begin| command.starts_with(begin));
        is_command.then(|| Line {
            host: host.to_string(),
            command: command.to_string(),
        })
    };
    let all = lines.filter_map(line);
    all.filter(|it| !NOT_HERE.iter().any(|not| it.command.starts_with(not)))
        .collect()
}

fn commands_of_readme() -> Vec<Line> {
    commands(commands_shown("README.md").lines())
}

/// What a page in Markdown has indented, which is typed or said; what is indented further is drawn.
fn commands_shown(name: &str) -> String {
    let text = read(name);
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with(' ')).collect();
    lines.join("\n")
}

fn commands_of_manual() -> Vec<Line> {
    let text = read("man/strew.1");
    let examples = text.split_once(".Sh EXAMPLES\n").expect("there are some").1;
    let examples = examples.split_once("\n.Sh ").expect("something follows").0;
    let blocks = examples.split(".Bd -literal -offset indent\n").skip(1);
    let blocks = blocks.map(|block| block.split_once(".Ed").expect("it ends").0);
    commands(blocks.flat_map(str::lines))
}

/// Machines as directories.
struct Machines {
    lab: Lab,
    /// The peers that run, with what the page calls their addresses.
    serves: Vec<(Vec<String>, Serve)>,
    /// Where among them those of each network begin.
    networks: Vec<usize>,
    /// What was shared last.
    address: String,
    /// All that was said on standard error.
    said: String,
}

impl Machines {
    fn new() -> Machines {
        let lab = Lab::new();
        lab.file("holiday.tar", &random_bytes(3 << 20, 1));
        lab.file("notes.txt", b"notes");
        lab.file("FILE", b"a file");
        fs::create_dir(lab.path("photos")).expect("made");
        lab.file("photos/beach.jpg", &random_bytes(300_000, 2));
        Machines {
            lab,
            serves: Vec::new(),
            networks: Vec::new(),
            address: String::new(),
            said: String::new(),
        }
    }

    /// What the page calls so is called otherwise here.
    fn translate(&self, command: &str) -> String {
        let mut command = command.to_string();
        for (names, serve) in &self.serves {
            for name in names {
                command = command.replace(name, &serve.addr());
            }
        }
        for word in command.clone().split_whitespace() {
            // The README has no room for all digits.
            if word.contains('\u{2026}') {
                command = command.replace(word, &self.address);
            }
        }
        let id = self.address.split('.').next().unwrap_or_default();
        command = command
            .replace("ADDRESS.KEY", &self.address)
            .replace("ADDRESS", id);
        command.replace("/tmp/", &format!("{}/tmp-", self.lab.path("").display()))
    }

    fn run(&mut self, line: &Line) {
        let command = self.translate(&line.command);
        if let Some(args) = command.strip_prefix("strew serve") {
            return self.serve(&line.host, args);
        }
        let first = self.serves.first().map(|(_, serve)| serve.addr());
        let script = format!("set -e; strew() {{ \"$STREW\" \"$@\"; }}\n{command}\n");
        // `xargs` runs no function.
        let script = script.replace("xargs -0 strew", "xargs -0 \"$STREW\"");
        let script = script.replace("-I{} strew", "-I{} \"$STREW\"");
        let script = format!(
            "if [ -e h ]; then h=$(cat h); fi; {script}if [ -n \"$h\" ]; then echo \"$h\" > h; fi"
        );
        let run = self.lab.program("sh", ["-c", &script]).env("h", "");
        let outcome = run.env("STREW_PEERS", first.unwrap_or_default()).run();
        assert_eq!(
            outcome.status.code(),
            Some(0),
            "{command} said: {}",
            outcome.stderr
        );
        self.said += &outcome.stderr;
        let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
        if command.starts_with("strew share") && said.len() >= 64 {
            self.address = said.trim().to_string();
        }
    }

    /// Starts a peer, at a free port.
    fn serve(&mut self, host: &str, args: &str) {
        let mut args: Vec<&str> = args.split_whitespace().filter(|arg| *arg != "&").collect();
        let mut names = vec![format!("{host}.example:7873")];
        if self.serves.is_empty() {
            names.push("192.0.2.1:7873".to_string());
        }
        if let Some(listen) = args.iter().position(|arg| *arg == "-l") {
            names.push(args[listen + 1].to_string());
            args.drain(listen..=listen + 1);
        }
        let number = self.serves.len();
        if !args.contains(&"-p") {
            self.networks.push(number);
        }
        let dir = args.iter().position(|arg| *arg == "-d");
        let dir = dir.map(|at| {
            args.drain(at..=at + 1)
                .nth(1)
                .expect("a directory")
                .to_string()
        });
        let name = dir.unwrap_or_else(|| {
            self.lab
                .path(format!("machine{number}"))
                .display()
                .to_string()
        });
        let name = PathBuf::from(name);
        let name = name.file_name().expect("it has one").to_string_lossy();
        let serve = self.lab.serve(&name, &args);
        self.serves.push((names, serve));
    }

    /// Waits until all know the others of their network.
    fn await_joined(&self) {
        let mut ends = self.networks.clone();
        ends.push(self.serves.len());
        for (&begin, &end) in self.networks.iter().zip(&ends[1..]) {
            for (_, serve) in &self.serves[begin..end] {
                self.lab.await_joined(serve, end - begin);
            }
        }
    }
}

/// A message without its numbers.
fn words(line: &str) -> Vec<&str> {
    let words = line.split_whitespace();
    words
        .filter(|word| !word.contains(|it: char| it.is_ascii_digit()))
        .collect()
}

#[test]
fn commands_of_the_readme_do_what_it_says() {
    let mut machines = Machines::new();
    let (network, intro): (Vec<Line>, Vec<Line>) = {
        let mut all = commands_of_readme();
        let first = all
            .iter()
            .position(|line| line.command.starts_with("strew serve"));
        let rest = all.split_off(first.expect("a network is begun"));
        (rest, all)
    };
    assert!(
        intro.len() >= 2 && network.len() >= 7,
        "{intro:?} {network:?}"
    );
    let (serves, rest): (Vec<_>, Vec<_>) = network
        .iter()
        .partition(|line| line.command.starts_with("strew serve"));
    assert_eq!(serves.len(), 3);
    serves.into_iter().for_each(|line| machines.run(line));
    machines.await_joined();
    fs::create_dir(machines.lab.path("there")).expect("made");
    for line in intro.iter().chain(rest) {
        // What is fetched on another machine is not there yet.
        if line.command.contains("fetch -o holiday.tar") {
            let there = machines.lab.path("there/holiday.tar");
            fs::rename(machines.lab.path("holiday.tar"), there).expect("it is there");
        }
        machines.run(line);
    }
    let read = |name: &str| fs::read(machines.lab.path(name)).expect(name);
    assert!(read("holiday.tar") == read("there/holiday.tar"));
    // What it shows that strew says is said in these words, with other numbers.
    let page = commands_shown("README.md");
    let shown: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("strew: "))
        .collect();
    assert!(!shown.is_empty());
    for line in shown {
        let is_said = machines
            .said
            .lines()
            .any(|said| words(said).starts_with(&words(line)));
        assert!(is_said, "{line} in {}", machines.said);
    }
    assert!(read("beach.jpg") == read("photos/beach.jpg"));
}

#[test]
fn examples_of_the_manual_do_what_it_says() {
    let mut machines = Machines::new();
    let lines = commands_of_manual();
    assert!(lines.len() >= 30, "{lines:?}");
    for line in &lines {
        for (command, gone) in [
            ("fetch -o photos", "photos"),
            ("-o holiday.tar", "holiday.tar"),
        ] {
            if line.command.contains(command) {
                let there = machines.lab.path(format!("old-{gone}"));
                fs::rename(machines.lab.path(gone), there).expect("it is there");
            }
        }
        if line.command.starts_with("strew share")
            || line.command.starts_with("h=$(strew share photos")
        {
            machines.await_joined();
        }
        machines.run(line);
    }
    let read = |name: &str| fs::read(machines.lab.path(name)).expect(name);
    assert!(read("holiday.tar") == read("old-holiday.tar"));
    assert!(read("photos/beach.jpg") == read("beach.jpg"));
    assert!(read("out.20").len() > 300_000 && read("out.20") == read("part"));
    assert!(read("strew.service").ends_with(b"WantedBy=multi-user.target\n"));
    let help = machines.lab.strew(["help"]).run().text();
    let commands = help
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_whitespace().next());
    for command in commands.filter(|it| !it.starts_with('-')) {
        let shown = lines
            .iter()
            .any(|line| line.command.contains(&format!("strew {command}")));
        assert!(shown, "no example of {command}");
    }
}
