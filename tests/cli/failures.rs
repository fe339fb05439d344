//! Every failure that a user can cause: the exit status, what is said, nothing on standard output and nothing left
//! behind. Each is tried as people see it and as programs do.

use crate::harness::*;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A command line, in words; of what stands in braces [`Place`] knows more. A word `NAME=value` before the others is
/// the environment's. Then the exit status, and what is said: what happened, to what, and what to do next.
type Case = (&'static str, i32, &'static [&'static str]);

/// That can be told from the command line alone.
const USAGE: &[Case] = &[
    ("", 2, &["a command is missing", "usage:"]),
    (
        "frobnicate",
        2,
        &["frobnicate: no such command", "see strew help"],
    ),
    (
        "-d data status",
        2,
        &["-d: a command comes first", "strew status -d"],
    ),
    (
        "help frobnicate",
        2,
        &["frobnicate: no such command", "see strew help"],
    ),
    (
        "s",
        2,
        &["s: no such command (did you mean share, serve or status?)"],
    ),
    (
        "shaer",
        2,
        &["shaer: no such command (did you mean share?)"],
    ),
    (
        "share --copise 3",
        2,
        &["--copise: no such option (did you mean --copies?)"],
    ),
    (
        "share --no-such-option",
        2,
        &["no-such-option", "strew share --help"],
    ),
    (
        "share --copies",
        2,
        &["'copies' missing", "strew share --help"],
    ),
    ("share --copies 0 file", 2, &["--copies 0", "1 to 20"]),
    ("share --copies 21 file", 2, &["--copies 21", "1 to 20"]),
    ("share --copies x file", 2, &["--copies x", "1 to 20"]),
    (
        "share --min-copies 9 file",
        2,
        &["--min-copies 9 is more than --copies 8"],
    ),
    (
        "share --capacity 1 file",
        2,
        &["--capacity 1", "at least 1M"],
    ),
    ("share --capacity 10X file", 2, &["--capacity 10X", "10M"]),
    ("share --stall soon file", 2, &["--stall soon", "90s"]),
    ("share --timeout 0 file", 2, &["--timeout 0", "90s"]),
    (
        "share --progress maybe file",
        2,
        &["--progress maybe", "never"],
    ),
    ("share --secret x file", 2, &["--secret is not available"]),
    ("share -p nowhere file", 2, &["nowhere: not HOST:PORT"]),
    (
        "share -p 127.0.0.1:0 file",
        2,
        &["127.0.0.1:0: not HOST:PORT"],
    ),
    ("share file -- true", 2, &["file", "--"]),
    ("share --", 2, &["a command is missing after --"]),
    ("fetch", 2, &["fetch what?", "ADDRESS.KEY"]),
    ("fetch {none} {none}", 2, &["one address"]),
    (
        "fetch x",
        2,
        &["in the address is no hexadecimal digit", "64"],
    ),
    (
        "fetch {none}0",
        2,
        &["{none}0: the address has 65 characters", "64"],
    ),
    (
        "fetch {none}.",
        2,
        &["{none}.: the key has 0 characters", "64"],
    ),
    (
        "fetch .{none}",
        2,
        &[".{none}: the address has 0 characters", "64"],
    ),
    (
        "fetch {none}.{none}.{none}",
        2,
        &["{none}.{none}.{none}: ", "64"],
    ),
    ("fetch --buffer big {none}", 2, &["--buffer big", "10M"]),
    (
        "fetch --force=no {none}",
        2,
        &["force", "strew fetch --help"],
    ),
    ("fetch --range 5 {none}", 2, &["--range 5", "A-B"]),
    ("fetch --range 5-4 {none}", 2, &["--range 5-4", "A-B"]),
    ("serve -l nowhere", 2, &["--listen nowhere", "0.0.0.0:7873"]),
    ("serve extra", 2, &["extra: serve takes no arguments"]),
    ("share --keep soon file", 2, &["--keep soon", "90s"]),
    ("share --keep 31d file", 2, &["--keep", "30d", "--pin"]),
    (
        "share --keep 5d --pin file",
        2,
        &["--keep", "--pin", "give one of them"],
    ),
    (
        "share --no-store --pin file",
        2,
        &["--no-store", "--pin", "give one of them"],
    ),
    (
        "share --no-store --min-copies 0 file",
        2,
        &["--no-store", "--min-copies 0"],
    ),
    ("serve --pin", 2, &["pin", "strew serve --help"]),
    ("status extra", 2, &["extra: status takes no arguments"]),
    ("paths extra", 2, &["extra: paths takes no arguments"]),
    ("config extra", 2, &["extra: config takes no arguments"]),
    ("unit extra", 2, &["extra: unit takes no arguments"]),
    ("verify extra", 2, &["extra: verify takes no arguments"]),
    ("completion", 2, &["for which shell?", "bash"]),
    ("completion tcsh", 2, &["completion tcsh: ", "bash"]),
    ("pin", 2, &["pin", "add ADDRESS"]),
    ("pin keep {none}", 2, &["pin keep", "add ADDRESS"]),
    ("pin add", 2, &["pin which?", "ADDRESS"]),
    ("pin add x", 2, &["in the address is no hexadecimal digit"]),
    ("pin ls {none}", 2, &["pin ls takes no arguments"]),
    ("check", 2, &["check", "ADDRESS"]),
    ("check x", 2, &["in the address is no hexadecimal digit"]),
    ("ls", 2, &["ls what?", "ADDRESS.KEY"]),
    (
        "STREW_COPIES=x share file",
        2,
        &["STREW_COPIES", "x", "1 to 20"],
    ),
    (
        "XDG_CONFIG_HOME=wrong share file",
        2,
        &["wrong/strew/config", "line 2", "copise"],
    ),
    (
        "HOME= XDG_DATA_HOME= status",
        2,
        &["no data directory", "--dir", "STREW_DIR"],
    ),
];

/// Where no other peer is known.
const ALONE: &[Case] = &[
    (
        "fetch {none}",
        7,
        &["{none}", "no peer could be reached", "-p HOST:PORT"],
    ),
    (
        "check {none}",
        7,
        &["{none}", "no peer could be reached", "-p HOST:PORT"],
    ),
    (
        "pin add {none}",
        7,
        &["{none}", "no peer could be reached", "-p HOST:PORT"],
    ),
    (
        "ls {none}",
        7,
        &["{none}", "no peer could be reached", "-p HOST:PORT"],
    ),
    (
        "fetch -p 127.0.0.1:9 -p 127.0.0.1:10 {none}",
        7,
        &[
            "{none}",
            "no peer could be reached (tried 127.0.0.1:9, 127.0.0.1:10); ",
        ],
    ),
    (
        "check -p 127.0.0.1:9 {none}",
        7,
        &["{none}", "no peer could be reached (tried 127.0.0.1:9); "],
    ),
    (
        "fetch --timeout 1 -p 127.0.0.1:9 {none}",
        4,
        &[
            "{none}: not fetched, not done in the time given: 1 block outstanding",
            "--timeout",
        ],
    ),
    (
        "fetch -p no-such-host.invalid:1 {none}",
        7,
        &["no-such-host.invalid:1"],
    ),
];

/// That has to do with files.
const FILES: &[Case] = &[
    ("share none", 1, &["none: No such file or directory"]),
    (
        "share none/below",
        1,
        &["none/below: No such file or directory"],
    ),
    ("share file/below", 1, &["file/below: Not a directory"]),
    ("share socket", 1, &["socket: "]),
    ("share tree-with-socket", 1, &["tree-with-socket/socket: "]),
    ("share tree-with-way-out", 1, &["tree-with-way-out/link: "]),
    (
        "share -- false",
        1,
        &["false: has failed", "exit status: 1", "is not shared"],
    ),
    ("share -- no-such-program", 1, &["no-such-program: "]),
    ("hash none", 1, &["none: No such file or directory"]),
    ("status -d file", 1, &["file: Not a directory"]),
    ("serve -d file", 1, &["file: Not a directory"]),
    ("serve -d file/below", 1, &["file/below: Not a directory"]),
    (
        "verify -d none",
        1,
        &["none/pack: No such file", "strew paths"],
    ),
    (
        "{peer} fetch -o directory {encrypted}",
        1,
        &["directory: is a directory"],
    ),
    (
        "{peer} fetch -o none/out {encrypted}",
        1,
        &["none/out: cannot be written: No such file"],
    ),
    (
        "{peer} fetch -o file/out {encrypted}",
        1,
        &["file/out: Not a directory"],
    ),
    (
        "{peer} fetch -o none/ {encrypted}",
        1,
        &["-o none/: names no file"],
    ),
    (
        "{peer} fetch -o file {encrypted}",
        9,
        &["file: exists", "-f"],
    ),
    (
        "{peer} fetch -o dangling {encrypted}",
        9,
        &["dangling: exists", "link to nothing", "-f"],
    ),
    (
        "{peer} fetch -o foreign {encrypted}",
        9,
        &["foreign.part: ", "-f"],
    ),
    (
        "{peer} fetch -o busy {encrypted}",
        10,
        &["busy.part: ", "another"],
    ),
    (
        "{peer} fetch -o /dev/full {encrypted}",
        8,
        &["/dev/full: No space left on device"],
    ),
    (
        "check {tree}/none",
        2,
        &[
            "{tree}/none: check and pin are of all that was shared",
            "without /PATH",
        ],
    ),
    (
        "pin add {tree}/leaf",
        2,
        &["{tree}/leaf: check and pin are of all"],
    ),
    (
        "fetch /none/leaf",
        2,
        &["/none/leaf: the address has 0 characters"],
    ),
    ("check none/leaf", 2, &["none/leaf: 'n' in the address"]),
    ("{peer} fetch -o file {tree}", 9, &["file: exists", "-f"]),
    ("serve -l {peer-addr}", 10, &["{peer-addr}", "in use", "-l"]),
    (
        "serve -d {peer-dir} -l 127.0.0.1:0",
        10,
        &["{peer-dir}", "--dir"],
    ),
];

/// That has to do with what is in the network.
const NETWORK: &[Case] = &[
    ("status --ready", 1, &["no strew serve runs there"]),
    ("{peer} fetch {none}", 3, &["{none}: not found", "asked"]),
    (
        "{peer} fetch -o out {none}",
        3,
        &["{none}: not found", "asked"],
    ),
    ("{peer} check {none}", 3, &["{none}: not found", "asked"]),
    ("{peer} pin add {none}", 3, &["{none}: not found", "asked"]),
    ("{peer} pin rm {none}", 3, &["{none}: ", "pin ls"]),
    ("{peer} ls {none}", 3, &["{none}: not found", "asked"]),
    (
        "{peer} fetch {encrypted-id}",
        2,
        &["{encrypted-id}", "give the whole ADDRESS.KEY"],
    ),
    (
        "{peer} fetch -o out {encrypted-id}",
        2,
        &["{encrypted-id}", "give the whole ADDRESS.KEY"],
    ),
    (
        "{peer} fetch {plain}.{none}",
        2,
        &["{plain}", "give the ADDRESS without a KEY"],
    ),
    (
        "{peer} fetch {encrypted-id}.{none}",
        6,
        &["{encrypted-id}", "the key does not belong"],
    ),
    (
        "{peer} fetch --range 700000- {encrypted}",
        2,
        &["{encrypted-id}", "600000"],
    ),
    (
        "{peer} fetch {tree}",
        2,
        &["{tree-id}", "is a directory", "-o"],
    ),
    ("{peer} fetch {tree}/none", 3, &["{tree-id}", "none"]),
    (
        "{peer} fetch {encrypted}/below",
        2,
        &["{encrypted-id}", "below"],
    ),
    (
        "{peer} ls {tree-id}",
        2,
        &["{tree-id}", "give the whole ADDRESS.KEY"],
    ),
    ("{peer} ls {tree}/none", 3, &["{tree-id}", "none"]),
];

/// A lab with files of all kinds, and a peer that has some of them.
struct Place {
    lab: Lab,
    names: Vec<(&'static str, String)>,
    before: Vec<String>,
    _open: (fs::File, TcpListener, UnixListener, Vec<Serve>),
}

impl Place {
    fn new() -> Place {
        let lab = Lab::new();
        let peers = lab.network(2);
        let addr = peers[0].addr();
        let content = random_bytes(600_000, 3);
        for tree in [
            "tree",
            "tree-with-socket",
            "tree-with-way-out",
            "wrong/strew",
            "directory",
        ] {
            fs::create_dir_all(lab.path(tree)).expect("made");
        }
        lab.file("tree/leaf", b"content");
        lab.file("file", b"content");
        lab.file("foreign.part", b"somebody's own");
        lab.file(
            "wrong/strew/config",
            b"# what it says is wrong\ncopise = 3\n",
        );
        let busy = fs::File::create(lab.path("busy.part")).expect("made");
        busy.lock().expect("locked");
        symlink("nowhere", lab.path("dangling")).expect("made");
        symlink("../../file", lab.path("tree-with-way-out/link")).expect("made");
        let sockets = ["socket", "tree-with-socket/socket"];
        let [socket, _] = sockets.map(|name| UnixListener::bind(lab.path(name)).expect("bound"));
        let share = |what: &[&str], input: &[u8]| {
            let run = lab
                .strew(["share", "-q", "-d", "data", "-p", &addr])
                .args(what);
            run.input(input).run().text()
        };
        let encrypted = share(&[], &content);
        let plain = share(&["--plain"], &content);
        let tree = share(&["tree"], b"");
        let id = |address: &str| address[..64].to_string();
        let names = vec![
            ("{none}", "0123456789abcdef".repeat(4)),
            ("{encrypted-id}", id(&encrypted)),
            ("{encrypted}", encrypted),
            ("{plain}", plain),
            ("{tree-id}", id(&tree)),
            ("{tree}", tree),
            ("{peer-addr}", addr),
            ("{peer-dir}", peers[0].dir.display().to_string()),
        ];
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        await_true("a private peer that has ended", || {
            lab.is_released(&lab.path("data"))
        });
        fs::remove_dir_all(lab.path("data")).expect("removed");
        let before = listing(&lab.path(""));
        Place {
            lab,
            names,
            before,
            _open: (busy, tcp, socket, peers),
        }
    }

    fn named(&self, text: &str) -> String {
        let names = self.names.iter();
        names.fold(text.to_string(), |text, (name, value)| {
            text.replace(name, value)
        })
    }

    fn run(&self, line: &str, json: bool) -> Outcome {
        let line = self.named(line);
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let is_variable = |word: &str| word.contains('=') && !word.starts_with('-');
        let count = words.iter().take_while(|word| is_variable(word)).count();
        let variables: Vec<&str> = words.drain(..count).collect();
        let peer = words.first() == Some(&"{peer}");
        let command = words.drain(..usize::from(peer)).count();
        assert_eq!(command, usize::from(peer));
        let addr = self.named("{peer-addr}");
        let mut args: Vec<&str> = words.iter().take(1).copied().collect();
        if peer {
            args.extend(["-p", &addr]);
        }
        args.extend(words.iter().skip(1));
        if json && !args.is_empty() {
            let last = args.len();
            args.insert(if args[0] == "help" { last } else { 1 }, "--json");
        }
        let mut run = self.lab.strew(args).env("STREW_DIR", self.lab.path("data"));
        for variable in variables {
            let (name, value) = variable.split_once('=').expect("it has one");
            run = match name {
                "XDG_CONFIG_HOME" => run.env(name, self.lab.path(value)),
                "HOME" => run.env(name, value).env_remove("STREW_DIR"),
                _ => run.env(name, value),
            };
        }
        run.run()
    }

    /// Tries all, and says of each that is not as it should be what it is.
    fn expect(&self, cases: &[Case]) {
        let mut wrong = Vec::new();
        for (line, status, said) in cases {
            for json in [false, true] {
                let outcome = self.run(line, json);
                let mut complaints = Vec::new();
                if outcome.status.code() != Some(*status) {
                    complaints.push(format!("{} instead of {status}", outcome.status));
                }
                if !outcome.stdout.is_empty() {
                    complaints.push("standard output is not empty".to_string());
                }
                let begin = if json && !line.is_empty() {
                    "{\"v\":1,\"type\":\""
                } else {
                    "strew: "
                };
                let lines = outcome.stderr.lines().filter(|it| it.starts_with(begin));
                if lines.count() == 0 {
                    complaints.push(format!("nothing begins with {begin}"));
                }
                if json
                    && !line.is_empty()
                    && !outcome.stderr.contains(&format!("\"status\":{status}"))
                {
                    complaints.push("the status is not in the object".to_string());
                }
                for part in said.iter().map(|part| self.named(part)) {
                    if !outcome.stderr.contains(&part) {
                        complaints.push(format!("{part:?} is not said"));
                    }
                }
                await_true("a private peer that has ended", || {
                    self.lab.is_released(&self.lab.path("data"))
                });
                let after = listing(&self.lab.path(""));
                if after != self.before {
                    complaints.push(format!("left behind: {after:?}"));
                }
                if !complaints.is_empty() {
                    wrong.push(format!(
                        "{line} (json: {json}): {complaints:?}\n    {}",
                        outcome.stderr
                    ));
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

/// Names of all files below a directory, but for the data of peers.
fn listing(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).expect("it can be read") {
        let (path, name) = entry
            .map(|it| (it.path(), it.file_name()))
            .expect("an entry");
        let name = name.to_string_lossy().into_owned();
        if name == "data" || name.starts_with("peer") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            names.extend(
                listing(&path)
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        }
        names.push(name);
    }
    names.sort();
    names
}

#[test]
fn failures_are_said_with_what_which_and_what_next_and_leave_nothing_behind() {
    let place = Place::new();
    place.expect(USAGE);
    assert!(
        !place.lab.path("data").exists(),
        "not even a data directory"
    );
    place.expect(ALONE);
    place.expect(FILES);
    place.expect(NETWORK);
}
