//! The status of a peer in the text format of Prometheus (exposition format 0.0.4).

use super::status::Page;
use std::fmt::Write;

/// What is counted since the peer began; all other numbers go up and down.
const COUNTERS: &[&str] = &[
    "renewed",
    "scrubbed_bytes",
    "requests_sent",
    "requests_received",
    "bytes_sent",
    "bytes_received",
    "udp_bytes_sent",
    "udp_bytes_received",
    "tcp_bytes_sent",
    "tcp_bytes_received",
    "blocks_given",
    "blocks_taken",
    "blocks_put",
    "put_bytes",
    "upkeep_looked",
    "upkeep_short",
    "upkeep_moved",
    "refused_full",
    "refused_far",
    "refused_quota",
];

/// What a monitor computes itself from what is counted.
const RATES: &[&str] = &["sent_per_second", "received_per_second"];

/// Every number of the page but the rates, with its type.
pub fn metrics(page: &Page<'_>) -> String {
    let mut text = String::new();
    let numbers = page
        .lines()
        .filter(|(key, value)| value.parse::<u64>().is_ok() && !RATES.contains(key));
    for (key, value) in numbers {
        let (kind, suffix) = match COUNTERS.contains(&key) {
            true => ("counter", "_total"),
            false => ("gauge", ""),
        };
        let name = format!("strew_{key}{suffix}");
        let written = write!(
            text,
            "# HELP {name} The {key} of strew status; see strew(1).\n# TYPE {name} {kind}\n{name} {value}\n"
        );
        written.expect("a string takes any text");
    }
    let (id, mode) = (page.text("id"), page.text("mode"));
    let info = "strew_info{id=\"";
    let written = write!(
        text,
        "# HELP strew_info Who the peer is.\n# TYPE strew_info gauge\n{info}{id}\",mode=\"{mode}\"}} 1\n"
    );
    written.expect("a string takes any text");
    text
}
