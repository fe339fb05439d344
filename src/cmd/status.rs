//! `strew status`: how the peer of the data directory is. On a terminal for people, otherwise in lines of `key value`;
//! for programs that watch peers, and for scripts that wait for one.

use super::client::{Patience, Peer};
use super::connect::connect;
use super::failure::{Failure, Status};
use super::json::Object;
use super::metrics::metrics;
use super::options::{self, Common, Opt};
use super::output;
use super::parsed::Parsed;
use super::progress::{count, human};
use super::voice::is_json;
use crate::wire::frame::PeerRole;
use std::fmt::Write;
use std::io::{self, IsTerminal};

/// The options of this command beside those that all have.
pub const OPTIONS: &[&Opt] = &[options::METRICS, options::READY];

/// Keys of the page that may be there several times, or not at all.
const LISTS: &[&str] = &["address", "other_version"];

/// Keys that are shown only if they are asked for by `-v`; monitors have them always.
const VERBOSE: &[&str] = &["step_p50", "step_p99"];

/// Prints the peer's page.
pub fn run(parsed: &Parsed) -> Result<(), Failure> {
    let common = Common::new(parsed)?;
    parsed.no_arguments("status")?;
    let wants_metrics = parsed.has(options::METRICS)?;
    if wants_metrics && is_json() {
        let message = "--metrics has a format of its own, which is not --json: give one of them";
        return Err(Failure::usage(message));
    }
    if parsed.has(options::READY)? {
        return is_ready(&common);
    }
    let peer = connect(&common)?;
    let text = page(&common, peer)?;
    if wants_metrics {
        return output::line(&metrics(&Page(&text)).trim_end());
    }
    let text = match parsed.has(options::VERBOSE)? {
        true => text,
        false => without(&text, VERBOSE),
    };
    let shown = match io::stdout().is_terminal() {
        true => for_people(&Page(&text)),
        false => text.clone(),
    };
    output::answer(&shown.trim_end(), || object(&Page(&text)))
}

fn page(common: &Common, mut peer: Peer) -> Result<String, Failure> {
    let text = peer.status().map_err(|trouble| {
        let dir = common.dir.display();
        trouble.into_failure(|| format!("the peer of {dir} does not answer"))
    })?;
    peer.leave();
    Ok(text)
}

/// The page without the lines of these keys.
fn without(text: &str, keys: &[&str]) -> String {
    let is_shown = |line: &&str| {
        !line
            .split(' ')
            .next()
            .is_some_and(|key| keys.contains(&key))
    };
    text.lines()
        .filter(is_shown)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Whether a `serve` runs and has found its network. No private peer is started for that.
fn is_ready(common: &Common) -> Result<(), Failure> {
    let dir = common.dir.display();
    let greeted = Peer::greet(&common.dir, Patience::new(common))?;
    let serve = greeted.filter(|(_, hello)| hello.role != PeerRole::Private);
    let Some((peer, _)) = serve else {
        let message = format!("{dir}: no strew serve runs there");
        return Err(Failure::new(Status::Other, message));
    };
    match Page(&page(common, peer)?).number("joined") {
        1 => Ok(()),
        _ => {
            let message = format!("{dir}: its strew serve has not reached any other peer yet");
            Err(Failure::new(Status::NoPeer, message))
        }
    }
}

/// Lines of `key value`.
pub struct Page<'a>(&'a str);

impl Page<'_> {
    /// Keys with their values, in order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once(' '))
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.lines().filter(move |(it, _)| *it == key);
        lines.map(|(_, value)| value)
    }

    /// The first value of a key; empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        let mut lines = self.lines();
        lines.find(|(it, _)| *it == key).map_or("", |it| it.1)
    }

    /// The value of a key as a number; 0 if it is none.
    pub fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or(0)
    }
}

/// The page as an object. What may be said several times is a list.
fn object(page: &Page<'_>) -> Object {
    let mut object = Object::new("result");
    for (key, value) in page.lines().filter(|(key, _)| !LISTS.contains(key)) {
        object = match value.parse::<u64>() {
            Ok(number) => object.number(key, number),
            Err(_) => object.text(key, value),
        };
    }
    LISTS
        .iter()
        .fold(object, |object, list| object.texts(list, page.values(list)))
}

/// The page as people read it.
fn for_people(page: &Page<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:12}{value}").expect("a string takes any text");
    };
    let bytes = |key| human(page.number(key));
    let number = |key| page.number(key);
    let mode = match page.text("mode") {
        "peer" => "a peer that others reach",
        "client" => "in client-mode: nobody has been able to connect to it",
        _ => "private: it ends with its last command",
    };
    line("peer", page.text("id").to_string());
    line("", mode.to_string());
    line("up", span(number("uptime_seconds")));
    line("listens at", page.text("listen").to_string());
    let addresses: Vec<&str> = page.values("address").collect();
    if !addresses.is_empty() {
        line("seen at", addresses.join(", "));
    }
    let joined = match number("joined") {
        1 => "",
        _ => "none found yet; ",
    };
    line(
        "network",
        format!(
            "{joined}{} known, {} connected, {}",
            count(number("contacts"), "peer"),
            number("connections"),
            count(number("clients"), "command")
        ),
    );
    line(
        "space",
        format!(
            "{} of {} used",
            bytes("used_bytes"),
            bytes("capacity_bytes")
        ),
    );
    line(
        "blocks",
        format!(
            "{}, {}; {}, {}; {} in {}",
            number("blocks"),
            bytes("payload_bytes"),
            count(number("roots"), "root"),
            count(number("nodes"), "node"),
            number("pinned_blocks"),
            count(number("pins"), "pinned file")
        ),
    );
    line(
        "exchanged",
        format!(
            "{} given, {} taken; {} sent, {} received",
            count(number("blocks_given"), "block"),
            number("blocks_taken"),
            bytes("bytes_sent"),
            bytes("bytes_received")
        ),
    );
    line(
        "rates",
        format!(
            "{}/s sent, {}/s received, over the last 10 s",
            bytes("sent_per_second"),
            bytes("received_per_second")
        ),
    );
    line(
        "upkeep",
        format!(
            "{} due; {} looked at, {} given",
            count(number("upkeep_due"), "block"),
            number("upkeep_looked"),
            count(number("upkeep_moved"), "copy")
        ),
    );
    let longest = format!("{} us the longest", number("slowest_step"));
    line(
        "steps",
        match page.text("step_p99") {
            "" => longest,
            p99 => format!(
                "{} us at p50, {p99} us at p99, {longest}",
                number("step_p50")
            ),
        },
    );
    let refusals = [
        ("refused_full", "for want of room"),
        ("refused_far", "too far away"),
        ("refused_quota", "too much from one network"),
    ];
    let refusals = refusals.iter().filter(|(key, _)| number(key) > 0);
    let refusals: Vec<String> = refusals
        .map(|(key, why)| format!("{} {why}", number(key)))
        .collect();
    if !refusals.is_empty() {
        line("refused", refusals.join(", "));
    }
    let damaged = count(number("damaged"), "damaged place");
    let troubles = [
        (
            "damaged",
            format!("{damaged} in the pack; see strew verify"),
        ),
        (
            "read_only",
            "the disk has failed, and nothing is stored: start the peer again".to_string(),
        ),
        (
            "halved",
            "half of the allotment is used: the file system makes no holes".to_string(),
        ),
    ];
    for (key, what) in troubles {
        if number(key) > 0 {
            line("trouble", what);
        }
    }
    for other in page.values("other_version") {
        line(
            "other",
            format!("{other}: speaks another version of the protocol"),
        );
    }
    text
}

/// A time in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_for_people_says_what_there_is() {
        let page = "id 0123\nmode client\nlisten [::]:7873\naddress 192.0.2.1:7873\njoined 0\ncontacts 5\n\
            blocks 7\npayload_bytes 2048\nuptime_seconds 90061\nbytes_sent 2048\nsent_per_second 1024\n\
            refused_far 3\nupkeep_due 1\ndamaged 2\nother_version 192.0.2.2:1 9\n";
        let text = for_people(&Page(page));
        for part in [
            "peer        0123\n",
            "in client-mode",
            "up          1 d 1 h\n",
            "none found yet; 5 peers known",
            "blocks      7, 2.0 KiB;",
            "exchanged   0 blocks given, 0 taken; 2.0 KiB sent, 0 B received\n",
            "rates       1.0 KiB/s sent, 0 B/s received,",
            "refused     3 too far away\n",
            "upkeep      1 block due; 0 looked at, 0 copies given\n",
            "steps       0 us the longest\n",
            "trouble     2 damaged places in the pack",
            "192.0.2.2:1 9: speaks another version",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let page = "slowest_step 900\nstep_p50 7\nstep_p99 80\n";
        let steps = "steps       7 us at p50, 80 us at p99, 900 us the longest\n";
        assert!(for_people(&Page(page)).contains(steps));
        assert_eq!(without(page, VERBOSE), "slowest_step 900\n");
        assert!(!text.contains("want of room") && !text.contains("disk has failed"));
    }
}
