//! Where values come from: the command line, the environment, the user's configuration, the machine's.

use crate::harness::*;
use std::fs;

/// What `strew config` says of a setting, value and source, one for each line.
fn said(page: &str, name: &str) -> Vec<(String, String)> {
    let lines = page.lines().filter_map(|line| line.split_once(" # "));
    let of = lines.filter_map(|(line, source)| {
        let (key, value) = line.split_once(" = ")?;
        (key == name).then(|| (value.trim().to_string(), source.to_string()))
    });
    of.collect()
}

#[test]
fn first_source_that_says_something_holds() {
    let lab = Lab::new();
    let page = lab.strew(["config"]).run().text();
    assert_eq!(
        said(&page, "stall"),
        [("30s".to_string(), "default".to_string())]
    );
    assert!(page.contains("# timeout"), "{page}");
    let path = lab.configure("stall = 1m # slow disks\n\npeer = a:1\npeer = b:2\n");
    let line = |number| format!("{} line {number}", path.display());
    let page = lab.strew(["config"]).run().text();
    assert_eq!(said(&page, "stall"), [("1m".to_string(), line(1))]);
    let both = [("a:1".to_string(), line(3)), ("b:2".to_string(), line(4))];
    assert_eq!(said(&page, "peer"), both);
    let run = lab.strew(["config"]).env("STREW_STALL", "2m");
    let page = run.env("STREW_PEERS", "c:3  d:4").run().text();
    assert_eq!(
        said(&page, "stall"),
        [("2m".to_string(), "$STREW_STALL".to_string())]
    );
    let peers = said(&page, "peer").into_iter().map(|it| it.0);
    assert_eq!(peers.collect::<Vec<_>>(), ["c:3", "d:4"]);
    let run = lab.strew(["config", "--stall", "3m", "-p", "e:5"]);
    let page = run.env("STREW_STALL", "2m").run().text();
    assert_eq!(
        said(&page, "stall"),
        [("3m".to_string(), "command line".to_string())]
    );
    assert_eq!(
        said(&page, "peer"),
        [("e:5".to_string(), "command line".to_string())]
    );
    let other = lab.strew(["config", "-q", "-d", "new/one"]).run().text();
    let on_line = |value: &str| [(value.to_string(), "command line".to_string())];
    assert_eq!(said(&other, "quiet"), on_line("yes"));
    assert_eq!(said(&other, "dir"), on_line("new/one"));
    // What it prints is a configuration that says the same.
    lab.configure(&page);
    let again = lab.strew(["config"]).run().text();
    assert_eq!(said(&again, "stall")[0].0, "3m");
    assert!(!lab.path("home/data").exists(), "nothing was made");
}

#[test]
fn configuration_of_the_machine_comes_last() {
    let lab = Lab::new();
    lab.configure("stall = 1m\n");
    let script = "mount -t tmpfs none /etc && mkdir /etc/strew &&
        printf 'stall = 2m\\ntimeout = 5m\\n' > /etc/strew/config && exec \"$STREW\" config";
    let args = ["-Urm", "sh", "-c", script];
    let outcome = lab.program("unshare", args).run();
    if !outcome.status.success() {
        return println!("skipped: unshare -Urm not found");
    }
    let page = outcome.text();
    assert_eq!(said(&page, "stall")[0].0, "1m");
    let of_machine = ("5m".to_string(), "/etc/strew/config line 2".to_string());
    assert_eq!(said(&page, "timeout"), [of_machine]);
}

#[test]
fn bad_settings_are_refused_with_their_place() {
    let lab = Lab::new();
    lab.file("f", b"content");
    let cases = [
        (
            "copeis = 3",
            "config line 1: copeis: no such setting (did you mean copies?)",
        ),
        ("# x\nstall", "config line 2: stall: not KEY = VALUE"),
        ("stall = soon", "config line 1: stall = soon: not a time"),
        (
            "capacity = 1",
            "config line 1: capacity = 1: must be at least 1M",
        ),
        (
            "peer = nowhere",
            "config line 1: peer = nowhere: not HOST:PORT",
        ),
        (
            "quiet = perhaps",
            "config line 1: quiet = perhaps: not yes or no",
        ),
        ("json = yes", "json: no such setting"),
    ];
    for (text, said) in cases {
        lab.configure(text);
        lab.strew(["share", "f"]).run().expect_failure(2, &[said]);
    }
    // Whatever the command, and whether or not it has a use for the setting.
    let cases = [
        (
            "capacity = 10X",
            "config line 1: capacity = 10X: not a size",
        ),
        ("log = wran", "config line 1: log = wran: not error, warn,"),
        (
            "copies = 21",
            "config line 1: copies = 21: not a number from 1 to 20",
        ),
        (
            "listen = here",
            "config line 1: listen = here: not an address and a port",
        ),
        ("up-rate = 0", "config line 1: up-rate = 0: not a rate"),
        ("buffer = all", "config line 1: buffer = all: not a size"),
    ];
    for (text, said) in cases {
        lab.configure(text);
        for command in ["config", "paths", "status", "unit"] {
            lab.strew([command]).run().expect_failure(2, &[said]);
        }
    }
    assert!(lab
        .strew(["share", "--help"])
        .run()
        .text()
        .contains("--copies"));
    let path = lab.configure("");
    let refused = ["config", "-d", ""];
    lab.strew(refused)
        .run()
        .expect_failure(2, &["--dir : not a directory"]);
    let run = lab
        .strew(["config", "--json"])
        .env("STREW_LOG", "warn,x=loud");
    run.run()
        .expect_failure(2, &["STREW_LOG=warn,x=loud: not error, warn,"]);
    let run = lab.strew(["share", "f"]).env("STREW_COPIES", "many");
    run.run()
        .expect_failure(2, &["STREW_COPIES=many: not a number from 1 to 20"]);
    fs::write(&path, b"\xff").expect("written");
    lab.strew(["status"])
        .run()
        .expect_failure(2, &["config: not text"]);
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    let outcome = lab.strew(["status"]).run();
    outcome.expect_failure(1, &["config: Is a directory"]);
    assert!(
        !lab.path("home/data").exists(),
        "not even the data directory is made"
    );
}

#[test]
fn settings_are_heeded() {
    let lab = Lab::new();
    let peers = lab.network(2);
    lab.configure(&format!(
        "peer = {}\ncopies = 1\nquiet = yes\ncapacity = 20M\n",
        peers[0].addr()
    ));
    let share = lab.strew(["share", "-d", "data"]).input("abc").run();
    assert_eq!(share.stderr, "");
    let address = share.text();
    assert_eq!(
        lab.strew(["fetch", "-d", "other", &address]).run().bytes(),
        b"abc"
    );
    assert_eq!(
        lab.status(&lab.path("other"), "capacity_bytes"),
        (20 << 20).to_string()
    );
    // A command line that names another network does not meet this one.
    let alone = ["fetch", "-d", "third", "-p", "127.0.0.1:9", &address];
    lab.strew(alone)
        .run()
        .expect_failure(7, &["no peer could be reached"]);
}

#[test]
fn paths_are_told_and_whether_they_are_there() {
    let lab = Lab::new();
    let config = lab.configure("");
    let page = lab.strew(["paths", "-d", "data"]).run().text();
    let line = |line: String| assert!(page.lines().any(|it| it == line), "{line} in {page}");
    line(format!("config there {}", config.display()));
    line("dir missing data".to_string());
    line("pack missing data/pack".to_string());
    line("index missing data/index.1".to_string());
    lab.strew(["share", "-q", "--min-copies", "0", "-d", "data"])
        .input("abc")
        .run()
        .text();
    let page = lab.strew(["paths", "-d", "data"]).run().text();
    assert!(page.contains("pack there data/pack"), "{page}");
}

#[test]
fn setting_that_a_running_peer_does_not_heed_is_no_reason_to_warn() {
    let lab = Lab::new();
    let serve = lab.serve("data", &[]);
    lab.configure("capacity = 20M\n");
    let status = |args: &[&str]| {
        let run = lab.strew(["status", "-d", "data"]).args(args);
        run.env("STREW_MIN_FREE", "1M").run().stderr
    };
    assert_eq!(status(&[]), "");
    let warned = status(&["--capacity", "30M"]);
    assert!(warned.contains("--capacity is ignored"), "{warned}");
    assert!(!warned.contains("min-free"), "{warned}");
    serve.stop();
}

#[test]
fn hash_needs_no_data_directory() {
    let lab = Lab::new();
    let run = lab
        .strew(["hash"])
        .env_remove("HOME")
        .env_remove("XDG_DATA_HOME");
    let address = run.input("abc").run().text();
    assert_eq!(lab.strew(["hash"]).input("abc").run().text(), address);
}
