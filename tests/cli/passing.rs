//! Those who are given blocks pass them on: a sharer sends little more than its file.

use crate::harness::*;

#[test]
fn sharer_sends_its_file_little_more_than_once() {
    let lab = Lab::new();
    let peers = lab.network(12);
    let len = 4 << 20;
    let file = lab.file("file", &random_bytes(len, 31));
    let began = std::time::Instant::now();
    let mut share = lab.strew(["share", "--copies", "6", "-d"]);
    share = share.arg(&peers[0].dir).arg(&file);
    let address = share.run().text();
    println!("shared in {:?}", began.elapsed());
    let number = |index: usize, key: &str| -> usize {
        lab.status(&peers[index].dir, key)
            .parse()
            .expect("a number")
    };
    // The root is to have more copies than there are others: it is sent to each.
    let sent = number(0, "put_bytes");
    assert!(sent >= len && sent <= len * 11 / 10, "{sent} of {len}");
    let passed: usize = (1..12).map(|index| number(index, "put_bytes")).sum();
    assert!(passed >= 5 * len && passed <= 6 * len, "{passed} of {len}");

    let check = ["check", "--min-copies", "6", "-d"];
    let check = lab.strew(check).arg(&peers[0].dir).arg(address.trim());
    check.run().expect_status(0);
}

#[test]
fn blocks_that_are_in_a_file_many_times_are_sent_as_if_once() {
    const LEAF: usize = 262_144;
    let lab = Lab::new();
    let peers = lab.network(12);
    let file = lab.file("file", &random_bytes(3 * LEAF, 32).repeat(60));
    let share = lab.strew(["share", "-q", "-d"]).arg(&peers[0].dir);
    share.arg(&file).run().expect_status(0);
    // Three leaves to two each at most, and the root to all.
    let sent = lab.number(&peers[0].dir, "blocks_put");
    assert!(sent <= 6 + 11, "{sent}");
}

#[test]
fn sharer_keeps_no_copy_that_it_does_not_want_and_all_that_were_there_before() {
    let lab = Lab::new();
    let peers = lab.network(4);
    let here = |key: &str| lab.number(&peers[0].dir, key);
    let share = |name: &str, seed: u64| {
        let content = random_bytes(3 << 20, seed);
        let run = lab.strew(["share", "-q", "--no-store", "-d"]);
        let run = run.arg(&peers[0].dir).arg(lab.file(name, &content)).run();
        (run.text(), content)
    };
    let before = here("used_bytes");
    let (address, content) = share("one", 41);
    assert_eq!((here("blocks"), here("payload_bytes")), (0, 0));
    let fetch = ["fetch", "-d", "fetcher", "-p", &peers[1].addr(), &address];
    assert!(lab.strew(fetch).run().bytes() == content);
    // Its space comes back.
    await_true("space that comes back", || {
        here("used_bytes") < before + (2 << 20)
    });

    lab.strew(["pin", "add", "-q", &address, "-d"])
        .arg(&peers[0].dir)
        .run()
        .expect_status(0);
    let pinned = here("blocks");
    assert!(pinned > 12);
    let (again, _) = share("one", 41);
    assert_eq!(
        (again, here("blocks")),
        (address, pinned),
        "it was there before"
    );
    share("other", 42);
    assert_eq!(here("blocks"), pinned);
}

#[test]
fn private_peer_keeps_no_copy_that_is_not_wanted() {
    let lab = Lab::new();
    let peers = lab.network(3);
    let file = lab.file("file", &random_bytes(1 << 20, 43));
    let share = [
        "share",
        "-q",
        "--no-store",
        "-d",
        "sharer",
        "-p",
        &peers[1].addr(),
    ];
    let address = lab.strew(share).arg(&file).run().text();
    assert_eq!(lab.status(&lab.path("sharer"), "blocks"), "0");
    let fetch = [
        "fetch",
        "-d",
        "sharer",
        "-p",
        &peers[1].addr(),
        "-o",
        "out",
        &address,
    ];
    lab.strew(fetch).run().expect_status(0);
    // Where there are too few others the own copies stay.
    let few = [
        "share",
        "-q",
        "--no-store",
        "--min-copies",
        "8",
        "-d",
        "few",
        "-p",
        &peers[1].addr(),
    ];
    lab.strew(few).arg(&file).run().expect_status(5);
    assert_ne!(lab.status(&lab.path("few"), "blocks"), "0");
}
