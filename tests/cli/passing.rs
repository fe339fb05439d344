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
