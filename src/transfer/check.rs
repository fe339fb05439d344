//! What must hold of all connections between any two calls.

use super::conn::Stage;
use super::{source, Timer, Transfer};
use crate::limits::*;
use crate::wire::contact::{is_private, network};
use std::collections::BTreeMap;

/// What a driver gives a connection at once may bring it so far beyond the limit at which it is no longer read from:
/// 256 KiB of the shortest frames that are answered with a block, and as long answers to others.
const AT_ONCE: usize = 256 << 10;

impl Transfer {
    /// Panics if a limit is exceeded or an invariant broken. Linear in what is held; for a driver that looks for faults.
    pub fn check(&self) {
        let live = || {
            self.conns
                .values()
                .filter(|conn| conn.stage != Stage::Closing)
        };
        let remote = live().filter(|conn| conn.addr.is_some()).count();
        // Those that are opened for DIAL_BACK are few, and make no room.
        assert!(remote <= CONNECTIONS_MAX + DIAL_BACKS_MAX);
        assert!(live().count() - remote <= CLIENTS_MAX);
        assert!(live().filter(|conn| conn.inbound).count() <= INBOUND_MAX);
        let (mut sources, mut networks) = (BTreeMap::new(), BTreeMap::new());
        for conn in live().filter(|conn| conn.inbound) {
            if let Some(ip) = conn.addr.map(|addr| addr.ip()).filter(|ip| !is_private(ip)) {
                *sources.entry(source(&ip)).or_insert(0) += 1;
                *networks.entry(network(&ip)).or_insert(0) += 1;
            }
        }
        assert!(sources.into_values().all(|n| n <= INBOUND_PER_SOURCE));
        assert!(networks.into_values().all(|n| n <= INBOUND_PER_NETWORK));
        let mut connecting = 0;
        for (id, conn) in &self.conns {
            let waits = self.dial_queue.contains(id);
            connecting += usize::from(conn.stage == Stage::Connecting && !waits);
            assert!(
                waits || self.timers.is_set(Timer::Watch(*id)),
                "each is watched"
            );
            if conn.addr.is_some() {
                assert!(conn.egress.blocks() <= EGRESS_BLOCKS_MAX + AT_ONCE / 37);
                assert!(conn.egress.small_bytes() <= EGRESS_BYTES_MAX + AT_ONCE);
            }
        }
        assert_eq!(
            self.connecting, connecting,
            "those being opened are counted"
        );
        assert!(connecting <= CONNECTING_MAX);
        for (peer, id) in &self.by_peer {
            assert_eq!(self.conns[id].peer, Some(*peer));
        }
    }
}
