//! `--json`: every line is an object, and has the members that the manual says.

use crate::harness::*;
use std::collections::BTreeMap;
use std::fs;

/// Reads lines as Python's parser does; prints for each its version, its type, and its members by name.
const READER: &str = "import json, sys
for line in sys.stdin:
    object = json.loads(line)
    assert list(object)[:2] == ['v', 'type'] and object['v'] == 1, line
    print(object['type'], *sorted(set(object) - {'v', 'type'}))";

/// The types and members of objects, one a line; `None` without Python.
fn objects(lab: &Lab, text: &[u8]) -> Vec<String> {
    let read = lab.program("python3", ["-c", READER]).input(text).run();
    assert!(
        read.status.success(),
        "{}: {}",
        String::from_utf8_lossy(text),
        read.stderr
    );
    read.text().lines().map(str::to_string).collect()
}

/// The members that the manual's list after `heading` has for each of its items, as `TYPE MEMBER...`.
fn of_page(heading: &str) -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/strew.1");
    let page = fs::read_to_string(path).expect("the page is there");
    let lines = page.lines().skip_while(|line| *line != heading);
    let lines = lines.skip(1).take_while(|line| *line != ".El");
    let (mut all, mut item) = (BTreeMap::new(), String::new());
    for line in lines {
        if let Some(name) = line.strip_prefix(".It Cm ") {
            item = name.to_string();
            all.insert(item.clone(), String::new());
        } else if let Some(names) = line.strip_prefix(".Cm ") {
            let names = names.split([' ', ',', '.']).filter(|name| !name.is_empty());
            let list = all.get_mut(&item).expect("an item");
            names.for_each(|name| *list += &format!("{name} "));
        }
    }
    all
}

/// A list of names in order, but for the first, the type.
fn in_order(names: &str) -> String {
    let mut names: Vec<&str> = names.split_whitespace().collect();
    names[1..].sort_unstable();
    names.join(" ")
}

#[test]
fn every_line_is_an_object_with_the_members_of_the_manual() {
    if !is_installed("python3") {
        return println!("skipped: python3 not found");
    }
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    lab.file("f", &random_bytes(300_000, 1));
    let run = |args: &[&str]| {
        let base = ["--json", "-v", "-d", "data", "-p", &addr];
        lab.strew(&args[..1]).args(base).args(&args[1..]).run()
    };
    let answers = of_page("The answers of the commands:");
    let said = of_page("On standard error:");
    let share = run(&["share", "--copies", "2", "f", "none"]);
    share.expect_status(1);
    let address = String::from_utf8(share.stdout.clone()).expect("text");
    let address = address.split("\"address\":\"").nth(1).expect("an address");
    let address = address.split('"').next().expect("its end").to_string();
    let mut types: Vec<String> = objects(&lab, share.stderr.as_bytes());
    types.sort();
    types.dedup();
    for kind in ["error", "log", "message", "progress"] {
        let expected = in_order(&format!("{kind} {}", said[kind]));
        assert!(types.contains(&expected), "{expected} in {types:?}");
    }
    let expect = |command: &str, outcome: Outcome| {
        objects(&lab, outcome.stderr.as_bytes());
        let found = objects(&lab, &outcome.stdout);
        let expected = in_order(&answers[command]);
        let last = found.last().map(String::as_str).unwrap_or_default();
        assert_eq!(last, expected, "{command}: {outcome:?}");
    };
    expect("share", share);
    expect("hash", run(&["hash", "f"]));
    expect("ls", run(&["ls", &address]));
    expect("check", run(&["check", &address]));
    expect("pin add , rm", run(&["pin", "add", &address]));
    expect("pin ls", run(&["pin", "ls"]));
    expect("pin add , rm", run(&["pin", "rm", &address]));
    expect("config", run(&["config"]));
    expect("paths", run(&["paths"]));
    expect("completion", run(&["completion", "zsh"]));
    let options = ["status", "--json", "--help"];
    expect("help", lab.strew(["help", "--json"]).run());
    expect("help", lab.strew(options).run());
    expect("version", lab.strew(["version", "--json"]).run());
    let mut verify = run(&["verify"]);
    verify.expect_status(0);
    assert_eq!(
        verify.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    verify.stdout = [
        b"{\"v\":1,\"type\":\"damage\",\"address\":null,\"offset\":1,\"length\":1}\n",
        &verify.stdout[..],
    ]
    .concat();
    let found = objects(&lab, &verify.stdout);
    let (damage, result) = answers["verify"].split_once("result").expect("both");
    assert_eq!(
        found,
        [in_order(damage), in_order(&format!("result{result}"))]
    );
    let fetch = run(&["fetch", "-o", "out", &address]);
    fetch.expect_status(0);
    let found = objects(&lab, fetch.stderr.as_bytes());
    assert_eq!(found.last(), Some(&in_order(&answers["fetch"])));
    let page = String::from_utf8(run(&["status"]).stdout).expect("text");
    assert!(
        page.contains("\"sent_per_second\":") && page.contains("\"address\":["),
        "{page}"
    );
    objects(&lab, page.as_bytes());
    let failed = run(&["fetch", "nonsense"]);
    failed.expect_status(2);
    assert!(failed.stderr.contains("\"status\":2"), "{}", failed.stderr);
}

#[test]
fn ready_line_of_a_serve_is_an_object() {
    let lab = Lab::new();
    let mut run = lab.strew(["serve", "--json", "-l", "127.0.0.1:0", "-d", "data"]);
    run.command.stdout(std::process::Stdio::piped());
    let mut serve = run.start();
    let line = first_line(serve.0.stdout.take().expect("piped")).0;
    let begin = "{\"v\":1,\"type\":\"ready\",\"listen\":\"127.0.0.1:";
    assert!(
        line.starts_with(begin) && line.contains("\",\"id\":\""),
        "{line}"
    );
}

#[test]
fn metrics_have_another_format() {
    let lab = Lab::new();
    let status = ["status", "--json", "--metrics", "-d", "data"];
    let outcome = lab.strew(status).run();
    outcome.expect_failure(2, &["--metrics", "--json", "\"status\":2"]);
    assert!(!lab.path("data").exists());
}
