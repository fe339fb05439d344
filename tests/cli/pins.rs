//! Pinned files stay, come whole from the network, and are found again after a restart.

use crate::harness::*;
use std::fs;
use std::os::unix::fs::FileExt;

fn root_of(address: &str) -> String {
    address.trim()[..64].to_string()
}

#[test]
fn pins_are_added_listed_kept_over_a_restart_and_removed() {
    let lab = Lab::new();
    let share = ["share", "-q", "--min-copies", "0", "-d", "d"];
    let addresses: Vec<String> = [20, 700_000, 3 << 20]
        .iter()
        .map(|&len| {
            let file = lab.file("file", &random_bytes(len, len as u64));
            lab.strew(share).arg(&file).run().text()
        })
        .collect();
    let list = || lab.strew(["pin", "ls", "-d", "d"]).run().text();
    assert_eq!(list(), "");
    let add = lab.strew(["pin", "add", "-d", "d"]).args(&addresses[1..]);
    let run = add.run();
    run.expect_status(0);
    assert!(run.stderr.contains("683.6 KiB pinned"), "{}", run.stderr);
    // Twice is as good as once, with or without the key.
    let again = ["pin", "add", "-q", "-d", "d", &root_of(&addresses[1])];
    lab.strew(again).run().expect_status(0);
    let mut expected = [
        format!("{} 700000 0", root_of(&addresses[1])),
        format!("{} 3145728 0", root_of(&addresses[2])),
    ];
    expected.sort();
    assert_eq!(list(), expected.join("\n"));
    assert_eq!(
        lab.strew(["status", "-d", "d"])
            .run()
            .text()
            .matches("\npins 2\n")
            .count(),
        1
    );
    let serve = lab.serve_at("d", "127.0.0.1:0", &[]);
    let dir = serve.dir.display().to_string();
    let remove = ["pin", "rm", "-d", &dir, &root_of(&addresses[0])];
    let run = lab.strew(remove).arg(&addresses[1]).run();
    run.expect_status(3);
    assert!(run.stderr.contains("is not pinned"), "{}", run.stderr);
    assert_eq!(lab.status(&serve.dir, "pins"), "1");
    serve.stop();
}

#[test]
fn pin_fetches_all_of_a_file_and_outlives_everybody_else() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    let content = random_bytes(5 << 20, 8);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "-d", "sharer", "-p", &addr];
    let address = lab.strew(share).arg(&file).run().text();
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    let pin = ["pin", "add", "-d", "pinner", "-p", &addr];
    let run = lab
        .strew(pin)
        .args(["--progress", "always", &root_of(&address)])
        .run();
    run.expect_status(0);
    assert!(run.stderr.contains("5.0 MiB pinned"), "{}", run.stderr);
    let fetch = [
        "fetch",
        "--pin",
        "-d",
        "fetcher",
        "-p",
        &addr,
        address.trim(),
    ];
    assert!(lab.strew(fetch).run().bytes() == content);
    for peer in peers {
        peer.stop();
    }
    for dir in ["pinner", "fetcher"] {
        let fetch = ["fetch", "-q", "-d", dir, address.trim()];
        assert!(lab.strew(fetch).run().bytes() == content, "{dir}");
        let list = lab.strew(["pin", "ls", "-d", dir]).run().text();
        assert_eq!(list, format!("{} {} 0", root_of(&address), 5 << 20));
    }
}

#[test]
fn serve_announces_what_it_has_pinned_to_others() {
    let lab = Lab::new();
    let peers = lab.network(3);
    let [pinner, others @ ..] = &peers[..] else {
        panic!("there are three");
    };
    let dir = pinner.dir.display().to_string();
    let file = lab.file("file", &random_bytes(700_000, 9));
    let share = ["share", "-q", "--pin", "-d", &dir];
    lab.strew(share).arg(&file).run().expect_status(0);
    let announced = || lab.status(&pinner.dir, "announced") == "1";
    await_true("it is announced", announced);
    for other in others {
        let known = || lab.status(&other.dir, "announcements") == "1";
        await_true("it is known", known);
    }
    for peer in peers {
        peer.stop();
    }
}

#[test]
fn pinned_file_stays_whole_in_a_full_pack_and_another_does_not() {
    let lab = Lab::new();
    let small = lab.serve("small", &["--capacity", "4M"]);
    let dir = small.dir.display().to_string();
    let share = |seed: u64, option: &[&str]| {
        let file = lab.file("file", &random_bytes(1 << 20, seed));
        let share = ["share", "-q", "--min-copies", "0", "-d", &dir];
        lab.strew(share).args(option).arg(&file).run().text()
    };
    let pinned = share(1, &["--pin"]);
    let other = lab.serve("other", &["-p", &small.addr()]);
    lab.await_joined(&small, 2);
    lab.await_joined(&other, 2);
    // What comes from elsewhere fills the pack over and over.
    for seed in 10..18 {
        let file = lab.file("file", &random_bytes(1 << 20, seed));
        let share = ["share", "-q", "-d", "far", "-p", &small.addr()];
        lab.strew(share).arg(&file).run();
    }
    let number = |key: &str| lab.number(&small.dir, key);
    assert!(number("blocks_taken") > 10, "{}", number("blocks_taken"));
    assert_eq!(number("pinned_blocks"), 5);
    other.stop();
    let fetch = ["fetch", "-q", "-d", &dir, pinned.trim()];
    assert!(lab.strew(fetch).run().bytes() == random_bytes(1 << 20, 1));
    small.stop();
}

#[test]
fn damage_in_a_pinned_file_is_fetched_again() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    let content = random_bytes(2 << 20, 4);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "--pin", "-d", "d", "-p", &addr];
    let address = lab.strew(share).arg(&file).run().text();
    let mut options = fs::File::options();
    let open = options.read(true).write(true).open(lab.path("d/pack"));
    open.and_then(|pack| pack.write_all_at(&[0; 64], 300_000))
        .expect("damaged");
    let holder = lab.serve_at("d", "127.0.0.1:0", &["-p", &addr]);
    await_true("the missing block", || {
        let usage = |key| lab.status(&holder.dir, key);
        usage("damaged") == "1" && usage("pinned_blocks") == "9"
    });
    for peer in peers {
        peer.stop();
    }
    let dir = holder.dir.display().to_string();
    let fetch = ["fetch", "-q", "-d", &dir, address.trim()];
    assert!(lab.strew(fetch).run().bytes() == content);
    holder.stop();
}

#[test]
fn what_cannot_be_pinned_says_why() {
    let lab = Lab::new();
    let peers = lab.network(2);
    let addr = peers[0].addr();
    let file = lab.file("file", &random_bytes(4 << 20, 2));
    let share = ["share", "-q", "-d", "sharer", "-p", &addr];
    let address = lab.strew(share).arg(&file).run().text();
    let add = ["pin", "add", "-d", "pinner", "-p", &addr];
    // Larger than the allotment: refused before anything but the root is fetched.
    let run = lab
        .strew(add)
        .args(["--capacity", "3M"])
        .arg(address.trim())
        .run();
    run.expect_failure(8, &["4194304 bytes", "3145728", "--capacity"]);
    let used = fs::metadata(lab.path("pinner/pack")).expect("a pack").len();
    assert!(used < 10_000, "{used}");
    let nowhere = "5".repeat(64);
    lab.strew(add)
        .arg(&nowhere)
        .run()
        .expect_failure(3, &[&nowhere]);
    let alone = ["pin", "add", "-d", "alone", &nowhere];
    lab.strew(alone).run().expect_failure(7, &["-p HOST:PORT"]);
    for (args, said) in [
        (&["pin"][..], "add ADDRESS"),
        (&["pin", "add"], "ADDRESS"),
        (&["pin", "rm", "xyz"], "xyz"),
        (&["pin", "ls", "more"], "no arguments"),
        (&["pin", "keep", &nowhere], "pin keep"),
    ] {
        lab.strew(args).run().expect_failure(2, &[said]);
    }
    // A part of a file is none.
    let pack = fs::read(lab.path("sharer/pack")).expect("a pack");
    let at = (64..pack.len() - 64).step_by(8);
    let leaf = at.filter(|&at| pack[at..at + 8] == pack[16..24] && pack[at + 8..at + 10] == [1, 5]);
    let leaf = leaf
        .map(|at| strew::id::hex(&pack[at + 16..at + 48]))
        .next();
    let leaf = leaf.expect("an encrypted leaf");
    let run = lab.strew(["pin", "add", "-d", "sharer", &leaf]).run();
    run.expect_failure(2, &["part of a file"]);
    assert_eq!(lab.strew(["pin", "ls", "-d", "pinner"]).run().text(), "");
    for peer in peers {
        peer.stop();
    }
}

#[test]
fn pinned_block_that_is_found_damaged_is_fetched_again_unasked() {
    let lab = Lab::new();
    let mut peers = lab.network(2);
    let content = random_bytes(900_000, 61);
    let file = lab.file("file", &content);
    let share = ["share", "-q", "-d", "sharer", "-p", &peers[0].addr()];
    let address = lab.strew(share).arg(&file).run().text();
    let peer = peers.remove(0);
    let pin = ["pin", "add", "-d", "peer0", &root_of(&address)];
    lab.strew(pin).run().expect_status(0);
    let blocks = lab.status(&peer.dir, "blocks");
    // In the payload of a leaf, while the peer runs.
    let open = fs::File::options().write(true).open(peer.dir.join("pack"));
    let pack = open.expect("a pack");
    pack.write_all_at(b"damage", 300_000).expect("written");
    lab.strew(["verify", "-d", "peer0"]).run().expect_status(6);
    assert_eq!(lab.status(&peer.dir, "damaged"), "1");
    await_true("the block again", || {
        lab.status(&peer.dir, "blocks") == blocks
    });
    for other in peers {
        other.stop();
    }
    fs::remove_dir_all(lab.path("sharer")).expect("removed");
    let fetch = ["fetch", "-q", "-d", "peer0", &address];
    assert!(lab.strew(fetch).run().bytes() == content);
    peer.stop();
}

#[test]
fn failures_are_said_in_the_order_of_the_addresses() {
    let lab = Lab::new();
    let nowhere = ["5".repeat(64), "4".repeat(64), "6".repeat(64)];
    let outcome = lab.strew(["pin", "rm", "-d", "d"]).args(&nowhere).run();
    outcome.expect_status(3);
    let said =
        nowhere.map(|id| format!("strew: {id}: is not pinned; strew pin ls shows what is\n"));
    assert_eq!(outcome.stderr, said.concat());
}
