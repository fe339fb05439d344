//! Completions, as the shells themselves give them.

use crate::harness::*;

/// A line that is typed, with what it is completed to at first.
const CASES: &[(&str, &str)] = &[
    ("strew sha", "strew share"),
    ("strew help fe", "strew help fetch"),
    ("strew share --cop", "strew share --copies"),
    ("strew fetch --progress al", "strew fetch --progress always"),
    ("strew pin a", "strew pin add"),
    ("strew share lone", "strew share lonely.file"),
    ("strew fetch -o lone", "strew fetch -o lonely.file"),
    ("strew completion z", "strew completion zsh"),
    ("strew pin rm a", "strew pin rm a"),
    ("strew share --progress=al", "strew share --progress=always"),
];

/// Runs a script of a shell in a lab with the completions in `script` and one file; `None` if there is no such shell.
fn run(shell: &str, args: &[&str]) -> Option<String> {
    if !is_installed(shell) {
        println!("skipped: {shell} not found");
        return None;
    }
    let lab = Lab::new();
    lab.file("lonely.file", b"");
    let script = lab.strew(["completion", shell]).run().text();
    lab.file("script", script.as_bytes());
    let lines = CASES.iter().map(|case| case.0);
    let outcome = lab.program(shell, args).args(lines).run();
    assert!(outcome.status.success(), "{}", outcome.stderr);
    Some(outcome.text())
}

/// These are the completed lines.
fn expect<'a>(completed: impl Iterator<Item = &'a str>) {
    let completed: Vec<&str> = completed.collect();
    let expected: Vec<&str> = CASES.iter().map(|case| case.1).collect();
    assert_eq!(completed, expected);
}

#[test]
fn bash_completes() {
    let script = r#"source ./script
        for line; do
            COMP_WORDS=(${line//=/ = }) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _strew
            COMP_WORDS[COMP_CWORD]=${COMPREPLY[0]-${COMP_WORDS[COMP_CWORD]}}
            line="${COMP_WORDS[*]}"
            echo "${line/ = /=}"
        done"#;
    if let Some(text) = run("bash", &["--norc", "-c", script, "bash"]) {
        expect(text.lines());
    }
}

#[test]
fn fish_completes() {
    let script = "source ./script
        for line in $argv
            set -l found (complete -C $line | string split -f 1 \\t)
            set -q found[1]; or set found (string match -r '[^ ]*$' -- $line)
            echo (string replace -r '[^ ]*$' '' -- $line)$found[1]
        end";
    if let Some(text) = run("fish", &["--no-config", "-c", script, "--"]) {
        expect(text.lines());
    }
}

#[test]
fn zsh_completes() {
    // Only an interactive shell completes: one behind a terminal types each line and the tabulator, and then prints
    // what has become of it.
    let script = r#"zmodload zsh/zpty
        export TERM=dumb
        zpty z zsh -f -i
        zpty -w z 'PS1=; autoload -U compinit; compinit -u -D; source ./script'
        for line; do zpty -w -n z $line$'\t\x01print -r -- "[" \x05 "]"\n'; done
        zpty -w z exit
        while zpty -r z line; do print -r -- $line; done"#;
    if let Some(text) = run("zsh", &["-f", "-c", script, "zsh"]) {
        let printed = text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("[ "));
        expect(printed.filter_map(|line| line.strip_suffix(" ]")));
    }
}
