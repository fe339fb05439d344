//! `check` counts the copies that the network has, says so for people and for programs, and makes more.

use crate::harness::*;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;

/// Leaves of the file that these tests share, encrypted; with the root there is one block more.
const LEAVES: usize = 12;

fn root_of(address: &str) -> String {
    address.trim()[..64].to_string()
}

/// Shares a file of `LEAVES` leaves through a private peer.
fn share(lab: &Lab, addr: &str, copies: &str) -> String {
    let file = lab.file("file", &random_bytes(LEAVES << 18, 21));
    let share = [
        "share", "-q", "-d", "sharer", "-p", addr, "--copies", copies,
    ];
    lab.strew(share).arg(&file).run().text()
}

/// What `check` has printed, for programs or for people.
#[derive(PartialEq, Debug)]
struct Count {
    blocks: usize,
    min: usize,
    mean: f64,
    histogram: Vec<(usize, usize)>,
}

impl Count {
    fn copies(&self) -> usize {
        self.histogram.iter().map(|(n, blocks)| n * blocks).sum()
    }

    /// Reads exactly the object that is promised, in exactly one line.
    #[track_caller]
    fn of_json(stdout: &[u8], root: &str) -> Count {
        let text = std::str::from_utf8(stdout).expect("text");
        let line = text.strip_suffix('\n').expect("a line");
        let mut rest = line;
        let mut take = |before: &str| -> &str {
            let tail = rest.strip_prefix(before);
            let tail = tail.unwrap_or_else(|| panic!("no {before} in {line}"));
            let end = tail.find([',', '}', ':']).unwrap_or(tail.len());
            rest = &tail[end..];
            &tail[..end]
        };
        take("{\"v\"");
        assert_eq!(take(":"), "1");
        take(",\"type\"");
        assert_eq!(take(":"), "\"result\"");
        take(",\"address\"");
        assert_eq!(take(":"), format!("\"{root}\""));
        take(",\"blocks\"");
        let blocks = take(":").parse().expect("a number");
        take(",\"min_copies\"");
        let min = take(":").parse().expect("a number");
        take(",\"mean_copies\"");
        let mean = take(":").parse().expect("a number");
        take(",\"histogram\"");
        let mut histogram = Vec::new();
        let mut before = ":{";
        for _ in 0..line.matches(':').count() - 7 {
            let key = take(before);
            let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
            let copies = key.and_then(|key| key.parse().ok()).expect("a string");
            histogram.push((copies, take(":").parse().expect("a number")));
            before = ",";
        }
        assert_eq!(rest, "}}", "{line}");
        let count = Count {
            blocks,
            min,
            mean,
            histogram,
        };
        count.expect_sound();
        count
    }

    #[track_caller]
    fn of_text(text: &str, root: &str) -> Count {
        let mut lines = text
            .lines()
            .map(|line| line.split_once(' ').expect("key value"));
        let mut next = |key: &str| {
            let (found, value) = lines.next().expect("a line");
            assert_eq!(found, key);
            value.to_string()
        };
        assert_eq!(next("address"), root);
        let blocks = next("blocks").parse().expect("a number");
        let min = next("copies_min").parse().expect("a number");
        let mean = next("copies_mean").parse().expect("a number");
        let bar = |(key, value): (&str, &str)| {
            let copies = key.strip_prefix("copies_").expect("a key");
            (
                copies.parse().expect("a number"),
                value.parse().expect("a number"),
            )
        };
        let histogram = lines.map(bar).collect();
        let count = Count {
            blocks,
            min,
            mean,
            histogram,
        };
        count.expect_sound();
        count
    }

    /// Its parts say the same.
    #[track_caller]
    fn expect_sound(&self) {
        assert!(self.histogram.is_sorted_by_key(|bar| bar.0), "{self:?}");
        assert_eq!(self.histogram.first().map(|bar| bar.0), Some(self.min));
        assert_eq!(
            self.histogram.iter().map(|bar| bar.1).sum::<usize>(),
            self.blocks
        );
        let mean = self.copies() as f64 / self.blocks as f64;
        assert!((self.mean - mean).abs() < 0.006, "{self:?}");
    }
}

/// Copies as the peers themselves count their blocks; there is nothing but the file in this network.
fn held(lab: &Lab, peers: &[Serve]) -> usize {
    lab.sum(peers, "blocks") as usize
}

#[test]
fn copies_are_counted_after_a_share_and_again_when_holders_are_gone() {
    let lab = Lab::new();
    let mut peers = lab.network(6);
    let address = share(&lab, &peers[0].addr(), "3");
    let root = root_of(&address);
    let addr = peers[0].addr();
    let check = ["check", "-d", "checker", "-p", &addr];
    let run = lab.strew(check).arg("--json").arg(&root).run();
    let before = Count::of_json(&run.bytes(), &root);
    assert_eq!(before.blocks, LEAVES + 1);
    assert!(before.min >= 3, "{before:?}");
    assert_eq!(before.copies(), held(&lab, &peers));

    // The key is accepted, and not shown.
    let run = lab
        .strew(check)
        .args(["--progress", "always"])
        .arg(address.trim())
        .run();
    assert!(run.stderr.contains(" blocks"), "{}", run.stderr);
    let text = run.text();
    let again = Count::of_text(&text, &root);
    assert_eq!(again.histogram, before.histogram);
    assert!(!text.contains(&address.trim()[65..]));

    // The sharer's own copy counts for the sharer.
    let own = ["check", "-d", "sharer", "--json", &root];
    let own = Count::of_json(&lab.strew(own).run().bytes(), &root);
    assert_eq!(own.copies(), before.copies() + own.blocks);

    peers.pop().unwrap().kill();
    peers.pop().unwrap().kill();
    let few = lab
        .strew(check)
        .args(["--min-copies", "3", "--json", &root])
        .run();
    few.expect_status(5);
    few.expect_said(&["fewer than 3 copies", "check --repair"]);
    let after = Count::of_json(&few.stdout, &root);
    assert!(after.min < before.min, "{after:?}");
    assert_eq!(after.copies(), held(&lab, &peers));
    for peer in peers {
        peer.stop();
    }
}

#[test]
fn block_without_a_copy_is_said_and_repair_brings_it_back() {
    let lab = Lab::new();
    let mut peers = lab.network(5);
    let address = share(&lab, &peers[0].addr(), "1");
    let root = root_of(&address);
    // The root is on two of them; who has more than that has a leaf of which there is no other copy.
    let has_leaves = |peer: &Serve| -> bool {
        let blocks = lab.number(&peer.dir, "blocks") as usize;
        blocks >= 2
    };
    let victim = peers
        .iter()
        .position(has_leaves)
        .expect("12 leaves are somewhere");
    peers.remove(victim).kill();
    let addr = peers[0].addr();
    let check = ["check", "-d", "checker", "-p", &addr];
    let run = lab.strew(check).arg("--json").arg(&root).run();
    run.expect_status(3);
    run.expect_said(&["no copy, such as"]);
    let count = Count::of_json(&run.stdout, &root);
    assert_eq!((count.min, count.blocks), (0, LEAVES + 1));
    let lost = count.histogram[0].1;

    // Who has no copy either can repair the rest, and says what is lost.
    let run = lab
        .strew(check)
        .args(["--repair", "--copies", "2", "--json", &root])
        .run();
    run.expect_status(3);
    run.expect_said(&[&format!("{lost} could not be fetched, such as")]);
    let count = Count::of_json(&run.stdout, &root);
    assert_eq!(count.histogram[0], (0, lost));
    assert!(count.histogram[1].0 >= 2, "{count:?}");

    // The sharer has.
    let repair = [
        "check", "--repair", "--copies", "4", "-d", "sharer", "-p", &addr, &root,
    ];
    let run = lab.strew(repair).run();
    assert!(run.stderr.contains("repaired"), "{}", run.stderr);
    let count = Count::of_text(&run.text(), &root);
    assert!(count.min >= 4, "{count:?}");
    let run = lab
        .strew(check)
        .args(["--min-copies", "3", "--json", &root])
        .run();
    let count = Count::of_json(&run.bytes(), &root);
    assert_eq!(count.blocks, LEAVES + 1);
    assert!(count.min >= 3, "{count:?}");

    // Where everybody has a copy nothing is fetched for more.
    let repair = ["check", "--repair", "-d", "sharer", "-p", &addr, &root];
    lab.strew(repair).run().expect_status(0);
    let run = lab.strew(repair).run();
    assert!(run.stderr.contains("nothing to repair"), "{}", run.stderr);
    assert_eq!(
        Count::of_text(&run.text(), &root).min,
        5,
        "all four, and the own one"
    );
    let fetch = ["fetch", "-q", "-d", "fetcher", "-p", &addr, address.trim()];
    assert!(lab.strew(fetch).run().bytes() == random_bytes(LEAVES << 18, 21));
    for peer in peers {
        peer.stop();
    }
}

/// Damages every record of this kind of block in a pack, which is of a peer that runs; the addresses.
fn damage(peer: &Serve, kind: u8) -> Vec<String> {
    let path = peer.dir.join("pack");
    let pack = fs::read(&path).expect("a pack");
    let at = (64..pack.len() - 64).step_by(8);
    let at =
        at.filter(|&at| pack[at..at + 8] == pack[16..24] && pack[at + 8..at + 10] == [1, kind]);
    let file = fs::File::options().write(true).open(&path).expect("opened");
    let id = |at: usize| {
        file.write_all_at(&[0xee; 8], at as u64 + 200)
            .expect("damaged");
        strew::id::hex(&pack[at + 16..at + 48])
    };
    at.map(id).collect()
}

#[test]
fn tree_with_nodes_is_walked_and_a_node_that_is_nowhere_is_named() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    // 1,200 times the same leaf, below two nodes.
    let path = lab.path("zeros");
    let zeros = fs::File::create(&path).expect("made");
    zeros.set_len(1200 << 18).expect("long");
    let share = ["share", "-q", "-d", "sharer", "-p", &addr, "--copies", "1"];
    let address = lab.strew(share).arg(&path).run().text();
    let root = root_of(&address);
    let check = ["check", "--json", "-d", "checker", "-p", &addr, &root];
    let count = Count::of_json(&lab.strew(check).run().bytes(), &root);
    assert_eq!(
        (count.blocks, count.min),
        (4, 1),
        "a leaf, two nodes, the root"
    );
    assert_eq!(count.copies(), held(&lab, &peers));
    let repair = lab.strew(check).args(["--repair", "--copies", "2"]).run();
    repair.expect_said(&["1 block repaired"]);
    let count = Count::of_json(&repair.bytes(), &root);
    assert_eq!(held(&lab, &peers), 8, "all on both");
    assert_eq!(count.histogram, [(2, 3), (3, 1)], "and the leaf here");
    let nodes = damage(&peers[0], 6);
    assert_eq!(nodes.len(), 2);
    damage(&peers[1], 6);
    let again = ["check", "--json", "-d", "again", "-p", &addr, &root];
    let run = lab.strew(again).run();
    run.expect_failure(3, &[&root, "its block", "2 peers were asked"]);
    assert!(
        nodes.iter().any(|node| run.stderr.contains(node)),
        "{}",
        run.stderr
    );
    for peer in peers {
        peer.stop();
    }
}

#[test]
fn what_cannot_be_checked_says_why_and_prints_nothing() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    let nowhere = "5".repeat(64);
    for option in [&[][..], &["--json"], &["--repair"]] {
        let check = ["check", "-d", "checker", "-p", &addr, &nowhere];
        let run = lab.strew(check).args(option).run();
        run.expect_failure(3, &[&nowhere, "asked the 2 closest peers"]);
    }
    let alone = ["check", "--json", "-d", "alone"];
    let run = lab.strew(alone).arg(&nowhere).run();
    run.expect_failure(7, &["-p HOST:PORT"]);
    // What is all here, too: nobody has been asked for the copies of others.
    let file = lab.file("file", &random_bytes(300_000, 3));
    let own = ["share", "-q", "--min-copies", "0", "-d", "alone"];
    let address = lab.strew(own).arg(&file).run().text();
    let run = lab.strew(alone).arg(address.trim()).run();
    run.expect_failure(7, &["-p HOST:PORT"]);

    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("it has one").to_string();
    let hurried = ["check", "--timeout", "1", "-d", "hurried", "-p", &silent];
    let run = lab.strew(hurried).arg(&nowhere).run();
    run.expect_failure(4, &["--timeout"]);

    for (args, said) in [
        (&["check"][..], "ADDRESS"),
        (&["check", "xyz"], "xyz"),
        (&["check", &nowhere[1..]], "63"),
        (&["check", &nowhere, &nowhere], "one address"),
        (&["check", "--copies", "21", &nowhere], "1 to 20"),
        (&["check", "--min-copies", "x", &nowhere], "0 to 20"),
        (
            &["check", "--repair", "--min-copies", "9", &nowhere],
            "--copies 8",
        ),
        (&["check", "--json=1", &nowhere], "json"),
    ] {
        lab.strew(args).run().expect_failure(2, &[said]);
    }
    for peer in peers {
        peer.stop();
    }
}
