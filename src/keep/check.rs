//! What must hold of placing between any two calls.

use super::Keep;
use crate::limits::*;

impl Keep {
    /// Panics if a limit is exceeded or an invariant broken. Linear in what is held; for a driver that looks for faults.
    pub fn check(&self) {
        assert!(self.placing() <= PLACING_AT_ONCE);
        assert!(self.passing <= PASSING_AT_ONCE && self.giving <= GIVING_AT_ONCE);
        assert!(self.renewing <= RENEWING_AT_ONCE);
        assert!(self.to_pass_on.len() <= PASSING_MAX);
        let mut sessions = self.sessions.values();
        assert!(sessions.all(|session| session.waiting() <= 2 * PLACING_MAX));
        assert_eq!(self.placing.len(), self.placing());
        assert!(self.placing.values().all(|job| self.jobs.contains_key(job)));
        let mut following = self.following.keys();
        assert!(following.all(|block| self.placing.contains_key(block)));
        assert!(self.also_sent.len() <= PASSING_MAX);
        for link in self.links.values() {
            assert!(link.in_flight_bytes < PUT_WINDOW + BLOCK_SIZE_MAX);
            assert!(link.offered.len() <= OFFER_MAX);
        }
    }
}
