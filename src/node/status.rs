//! A node's page on itself.

use super::Node;
use crate::block::Role;
use crate::store::Store;
use crate::time::Instant;
use crate::wire::frame::Answer;
use std::fmt::Write;

impl<S: Store> Node<S> {
    /// The state of the node in lines of `key value`; sizes in bytes, times in seconds, steps in
    /// microseconds.
    pub fn status(&self, now: Instant) -> String {
        let usage = self.store.usage();
        let statistics = self.dht.statistics();
        let (peers, clients) = self.transfer.counts();
        let mut text = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key} {value}").expect("a string takes any text");
        };
        let mode = match (self.config.serve, self.dht.is_client_mode()) {
            (false, _) => "private",
            (true, true) => "client",
            (true, false) => "peer",
        };
        line("id", &self.id());
        line("mode", &mode);
        line("listen", &self.config.listen);
        for addr in self.dht.observed_addresses() {
            line("address", &addr);
        }
        line(
            "joined",
            &u8::from(self.dht.has_joined() && self.dht.contact_count() > 0),
        );
        line("contacts", &self.dht.contact_count());
        line("connections", &peers);
        line("clients", &clients);
        line("blocks", &usage.blocks);
        line("leaves", &usage.held.of(Role::Leaf));
        line("nodes", &usage.held.of(Role::Node));
        line("roots", &usage.held.of(Role::Root));
        line("payload_bytes", &usage.held.payload_bytes);
        line("used_bytes", &usage.used_bytes);
        line("capacity_bytes", &usage.capacity_bytes);
        line("garbage_bytes", &usage.garbage_bytes);
        line("pins", &usage.pins);
        line("pinned_blocks", &usage.pinned_blocks);
        line("announced", &self.announcer.count());
        line("announcements", &self.dht.announcement_count());
        line("renewed", &self.renewals.count());
        line("damaged", &usage.damaged);
        line("scrubbed_bytes", &self.verifier.scrubbed);
        line("read_only", &u8::from(usage.is_read_only));
        line("halved", &u8::from(usage.is_halved));
        line("uptime_seconds", &now.since(self.started).as_secs());
        line("slowest_step", &self.steps.longest().as_micros());
        line("step_p50", &self.steps.quantile(0.5).as_micros());
        line("step_p99", &self.steps.quantile(0.99).as_micros());
        line("requests_sent", &statistics.requests_sent);
        line("requests_received", &statistics.requests_received);
        line("bytes_sent", &self.sent.total());
        line("bytes_received", &self.received.total());
        line("sent_per_second", &self.sent.per_second(now));
        line("received_per_second", &self.received.per_second(now));
        line("udp_bytes_sent", &statistics.bytes_sent);
        line("udp_bytes_received", &statistics.bytes_received);
        line("tcp_bytes_sent", &self.transfer.bytes.1);
        line("tcp_bytes_received", &self.transfer.bytes.0);
        line("blocks_given", &self.served_blocks);
        line("blocks_taken", &self.stored_blocks);
        line("blocks_put", &self.keep.sent().0);
        line("put_bytes", &self.keep.sent().1);
        let upkeep = self.upkeep.statistics();
        line("upkeep_looked", &upkeep.looked);
        line("upkeep_short", &upkeep.short);
        line("upkeep_moved", &upkeep.moved);
        line("upkeep_due", &self.upkeep.due());
        let refused = |answer: Answer| self.refused.get(&answer).copied().unwrap_or(0);
        line("refused_full", &refused(Answer::Full));
        line("refused_far", &refused(Answer::TooFar));
        line("refused_quota", &refused(Answer::Quota));
        line("wants", &self.fetch.wanted());
        for (addr, version) in &self.other_versions {
            line("other_version", &format_args!("{addr} {version}"));
        }
        text
    }
}
