//! `share -- COMMAND`: what another program prints is shared, if it does not fail.

use crate::harness::*;

#[test]
fn output_of_a_program_is_shared() {
    let lab = Lab::new();
    let share = ["share", "-q", "-d", "data", "--min-copies", "0", "--"];
    let run = |args: &[&str]| lab.strew(share).args(args).run();
    let address = run(&["sh", "-c", "printf abc"]).text();
    assert_eq!(lab.strew(["hash"]).input("abc").run().text(), address);
    // It gets our standard input.
    let upper = lab
        .strew(share)
        .args(["tr", "a-z", "A-Z"])
        .input("abc")
        .run();
    assert_eq!(lab.strew(["hash"]).input("ABC").run().text(), upper.text());
    // Options of the program are its own.
    let address = run(&["printf", "%s", "--json"]).text();
    assert_eq!(lab.strew(["hash"]).input("--json").run().text(), address);
}

#[test]
fn program_that_fails_gives_no_address() {
    let lab = Lab::new();
    lab.file("f", b"content");
    let share = ["share", "-d", "data", "--min-copies", "0"];
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["--", "sh", "-c", "echo hello; exit 3"],
            1,
            &["sh: has failed (exit status: 3)", "not shared"],
        ),
        (
            &["--", "sh", "-c", "echo hello; kill -9 $$"],
            1,
            &["sh: has failed (signal: 9"],
        ),
        (&["--", "./none"], 1, &["./none: No such file"]),
        (
            &["f", "--", "ls"],
            2,
            &["f: give files, or a command after --", "./-x"],
        ),
    ];
    for (args, status, said) in cases {
        lab.strew(share)
            .args(*args)
            .run()
            .expect_failure(*status, said);
    }
    assert!(lab.is_released(&lab.path("data")));
    // What it printed is not held on.
    let blocks = lab.status(&lab.path("data"), "pinned_blocks");
    assert_eq!(blocks, "0");
}
