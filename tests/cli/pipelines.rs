//! strew between other programs, as a shell joins them: three peers, no `serve` of one's own.

use crate::harness::*;
use std::fs;

/// A network, and a directory with a file of a few MiB in it, and one with an odd name.
struct Place {
    lab: Lab,
    peers: String,
    content: Vec<u8>,
    _serves: Vec<Serve>,
}

impl Place {
    fn new() -> Place {
        let lab = Lab::new();
        let serves = lab.network(3);
        let content = random_bytes(5 << 20, 77);
        fs::create_dir(lab.path("dir")).expect("made");
        lab.file("dir/big", &content);
        lab.file("dir/odd name\n", b"odd");
        Place {
            peers: serves[0].addr(),
            content,
            lab,
            _serves: serves,
        }
    }

    /// Runs a script; its output, and that it ends well.
    fn sh(&self, script: &str) -> String {
        let bin = self.lab.path("bin");
        if !bin.exists() {
            fs::create_dir(&bin).expect("made");
            let strew = env!("CARGO_BIN_EXE_strew");
            std::os::unix::fs::symlink(strew, bin.join("strew")).expect("made");
        }
        let path = std::env::var("PATH").expect("there is one");
        let path = format!("{}:{path}", bin.display());
        let run = self.lab.program("sh", ["-c", script]).env("PATH", path);
        run.env("STREW_PEERS", &self.peers).run().text()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.lab.path(name)).expect(name)
    }
}

#[test]
fn archive_goes_through_the_network_and_comes_out_as_it_was() {
    let place = Place::new();
    place.sh(
        "tar c dir | strew share > id; mkdir there; cd there; strew fetch $(cat ../id) | tar x",
    );
    assert!(place.read("there/dir/big") == place.content);
    assert_eq!(place.read("there/dir/odd name\n"), b"odd");
}

#[test]
fn command_that_fails_has_no_address_and_its_reader_is_told() {
    let place = Place::new();
    let said =
        place.sh("h=$(strew share -- sh -c 'echo hello; false') || echo alert; echo \"<$h>\"");
    assert_eq!(said, "alert\n<>");
    let said = place.sh("h=$(strew share -- sh -c 'echo hello') || echo alert; strew fetch $h");
    assert_eq!(said, "hello");
}

#[test]
fn reader_that_has_enough_ends_a_fetch() {
    let place = Place::new();
    place.sh("strew share dir/big > id");
    place.sh("strew fetch $(cat id) | head -c 1M > part");
    assert!(place.read("part") == place.content[..1 << 20]);
}

#[test]
fn files_that_are_found_are_shared_each_and_are_each_there() {
    let place = Place::new();
    place.sh("find dir -type f -print0 | xargs -0 strew share > list");
    let list = place.read("list");
    let list = String::from_utf8(list).expect("text");
    assert_eq!(list.lines().count(), 2, "{list}");
    let hashed = place.sh("strew hash dir/big 'dir/odd name\n' | sort; sort list > sorted");
    assert_eq!(format!("{hashed}\n").into_bytes(), place.read("sorted"));
    // In the order of the addresses, whichever was found first.
    place.sh("for h in $(strew hash dir/big 'dir/odd name\n'); do grep $h list; done > both");
    place.sh("for h in $(cat both); do strew fetch $h; done > contents");
    assert!(place.read("contents") == [&place.content[..], b"odd"].concat());
}

#[test]
fn copies_are_counted_for_a_program() {
    let place = Place::new();
    place.sh("strew share dir/big > id");
    if !is_installed("python3") {
        return println!("skipped: python3 not found");
    }
    let least = "import json, sys; print(json.load(sys.stdin)[\"min_copies\"])";
    let count = format!("strew check $(cat id) --json | python3 -c '{least}'");
    assert_eq!(place.sh(&count), "4", "three peers, and who is asked");
}

#[test]
fn many_at_once_in_one_directory_share_a_peer() {
    let place = Place::new();
    place.sh("strew share dir/big > id");
    place.sh("h=$(cat id); seq 20 | xargs -P 8 -I{} strew fetch -q -o out.{} $h");
    for n in 1..=20 {
        assert!(place.read(&format!("out.{n}")) == place.content, "{n}");
    }
    let dir = place.lab.path("home/data/strew");
    await_true("the private peer's end", || place.lab.is_released(&dir));
}

#[test]
fn rest_of_a_file_is_appended() {
    let place = Place::new();
    place.sh("strew share dir/big > id; head -c 1234567 dir/big > part");
    place.sh("strew fetch --range $(stat -c %s part)- $(cat id) >> part");
    assert!(place.read("part") == place.content);
    place.sh("strew fetch --range $(stat -c %s part)- $(cat id) >> part");
    assert!(
        place.read("part") == place.content,
        "nothing is left to be appended"
    );
}
