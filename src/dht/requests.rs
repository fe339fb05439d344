//! Requests on their way, and what is known of the peers they go to: round-trip times and tokens.
//!
//! It decides when a request is late; `dht` sends, sends again and gives up.

use crate::id::{NodeId, Point};
use crate::limits::{
    RTO_INITIAL, RTO_MAX, RTO_MIN, RTO_UNMEASURED_MAX, RTT_ESTIMATES_MAX, TOKEN_FRESH,
};
use crate::time::Instant;
use crate::wire::contact::Contact;
use crate::wire::datagram::{Families, Request, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{LookupId, QueryId, RegionId};

/// What a request is for, so what its reply or failure leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To learn whether a contact is there: to let it enter, or to keep it. One at a time for an address.
    Probe,
    /// To let a contact know that we left client-mode.
    Announce,
    /// To join through a bootstrap address.
    Seed,
    /// Part of a lookup.
    Lookup(LookupId),
    /// Part of a lookup that has ended: nobody waits for it, but no answer is news of its peer.
    Abandoned,
    /// Part of an enumeration: who is closest to this point.
    Region(RegionId, Point),
    /// A question of somebody else, asked of this contact.
    Query(QueryId, Contact),
    /// To be connected to.
    DialBack,
}

/// A request on its way.
pub struct Outstanding {
    /// Where it goes.
    pub to: SocketAddr,
    /// Who is expected there, if anybody in particular.
    pub expected: Option<NodeId>,
    /// What it is for.
    pub purpose: Purpose,
    /// What is asked.
    pub request: Request,
    /// Which contacts are wanted in the reply.
    pub families: Families,
    /// Times it was sent, from 1.
    pub attempts: u32,
    /// When it was sent first.
    pub sent: Instant,
    /// It has been asked again since its first reply was shortened.
    pub asked_again: bool,
}

struct Peer {
    /// Smoothed round trip and its variation; none before the first measurement.
    rtt: Option<(Duration, Duration)>,
    token: Token,
    token_at: Instant,
    /// Its place in the order of use.
    used: u64,
}

/// What is remembered of addresses that have answered: at most RTT_ESTIMATES_MAX, the least recently heard is
/// forgotten.
#[derive(Default)]
pub struct Peers {
    peers: BTreeMap<SocketAddr, Peer>,
    /// Invariant: exactly the `used` of the peers.
    order: BTreeSet<(u64, SocketAddr)>,
    clock: u64,
    /// The round trips of all, taken together: what is expected of a stranger.
    overall: Option<(Duration, Duration)>,
}

/// An estimate with one more sample, of which it takes one part in so many (RFC 6298, section 2, has 8).
fn estimate(
    known: Option<(Duration, Duration)>,
    sample: Duration,
    part: u32,
) -> (Duration, Duration) {
    let Some((smoothed, variation)) = known else {
        return (sample, sample / 2);
    };
    let off = smoothed.abs_diff(sample);
    (
        smoothed - smoothed / part + sample / part,
        variation - variation / (part / 2) + off / (part / 2),
    )
}

impl Peers {
    /// An address answered, with this token; `round_trip` if it was measured without doubt (the request was sent
    /// once: Karn's rule, RFC 6298 section 3).
    pub fn answered(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        token: Token,
        round_trip: Option<Duration>,
    ) {
        self.clock += 1;
        let used = self.clock;
        let peer = self.peers.entry(addr).or_insert(Peer {
            rtt: None,
            token,
            token_at: now,
            used,
        });
        self.order.remove(&(peer.used, addr));
        self.order.insert((used, addr));
        peer.used = used;
        peer.token = token;
        peer.token_at = now;
        if let Some(sample) = round_trip {
            peer.rtt = Some(estimate(peer.rtt, sample, 8));
            self.overall = Some(estimate(self.overall, sample, 64));
        }
        if self.peers.len() > RTT_ESTIMATES_MAX {
            if let Some((_, oldest)) = self.order.pop_first() {
                self.peers.remove(&oldest);
            }
        }
    }

    /// The token to send to an address; `None` unless it is younger than TOKEN_FRESH.
    pub fn token(&self, now: Instant, addr: &SocketAddr) -> Option<Token> {
        let peer = self.peers.get(addr)?;
        (now.since(peer.token_at) < TOKEN_FRESH).then_some(peer.token)
    }

    /// How long to wait for an answer to the attempt of this number, from 1.
    pub fn timeout(&self, addr: &SocketAddr, attempt: u32) -> Duration {
        let expected = |(smoothed, variation): (Duration, Duration)| smoothed + variation * 4;
        let (first, max) = match self.peers.get(addr).and_then(|peer| peer.rtt) {
            Some(measured) => (expected(measured), RTO_MAX),
            None => {
                let overall = self.overall.map_or(RTO_INITIAL, expected);
                (overall.min(RTO_INITIAL), RTO_UNMEASURED_MAX)
            }
        };
        let first = first.clamp(RTO_MIN, max);
        (first * 2u32.pow(attempt.saturating_sub(1).min(8))).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 7))
    }

    #[test]
    fn timeout_follows_the_round_trips_within_its_bounds() {
        let mut peers = Peers::default();
        assert_eq!(peers.timeout(&addr(1), 1), RTO_INITIAL);
        assert_eq!(peers.timeout(&addr(1), 2), RTO_UNMEASURED_MAX);
        assert_eq!(peers.timeout(&addr(1), 9), RTO_UNMEASURED_MAX);
        let millis = Duration::from_millis;
        peers.answered(Instant::EPOCH, addr(1), Token([1; 8]), Some(millis(200)));
        assert_eq!(peers.timeout(&addr(1), 1), millis(600));
        assert_eq!(peers.timeout(&addr(1), 2), millis(1200));
        assert_eq!(peers.timeout(&addr(1), 9), RTO_MAX);
        for _ in 0..50 {
            peers.answered(Instant::EPOCH, addr(1), Token([1; 8]), Some(millis(200)));
        }
        let steady = peers.timeout(&addr(1), 1);
        assert!((millis(195)..millis(210)).contains(&steady), "{steady:?}");
        peers.answered(Instant::EPOCH, addr(2), Token([1; 8]), Some(millis(1)));
        assert_eq!(peers.timeout(&addr(2), 1), RTO_MIN);
    }

    #[test]
    fn stranger_is_expected_to_be_as_far_as_others_are() {
        let mut peers = Peers::default();
        let millis = Duration::from_millis;
        for n in 0..200 {
            let round_trip = Some(millis(80 + u64::from(n) % 5 * 10));
            peers.answered(Instant::EPOCH, addr(n), Token([1; 8]), round_trip);
        }
        let first = peers.timeout(&addr(1000), 1);
        assert!((millis(130)..millis(250)).contains(&first), "{first:?}");
        assert_eq!(peers.timeout(&addr(1000), 2), first * 2);
        assert_eq!(peers.timeout(&addr(1000), 9), RTO_UNMEASURED_MAX);
        for n in 0..200 {
            peers.answered(Instant::EPOCH, addr(n), Token([1; 8]), Some(millis(900)));
        }
        assert_eq!(peers.timeout(&addr(1000), 1), RTO_INITIAL);
    }

    #[test]
    fn token_is_used_while_fresh() {
        let mut peers = Peers::default();
        peers.answered(Instant::EPOCH, addr(1), Token([1; 8]), None);
        assert_eq!(peers.token(Instant::EPOCH, &addr(1)), Some(Token([1; 8])));
        assert_eq!(peers.token(Instant::EPOCH, &addr(2)), None);
        let old = Instant::EPOCH + TOKEN_FRESH;
        assert_eq!(peers.token(old, &addr(1)), None);
    }

    #[test]
    fn least_recently_heard_is_forgotten_at_the_limit() {
        let mut peers = Peers::default();
        for n in 0..RTT_ESTIMATES_MAX as u32 {
            peers.answered(Instant::EPOCH, addr(n), Token([1; 8]), None);
        }
        peers.answered(Instant::EPOCH, addr(0), Token([1; 8]), None);
        peers.answered(Instant::EPOCH, addr(1 << 30), Token([1; 8]), None);
        assert_eq!(peers.peers.len(), RTT_ESTIMATES_MAX);
        assert!(peers.token(Instant::EPOCH, &addr(0)).is_some());
        assert!(peers.token(Instant::EPOCH, &addr(1)).is_none());
    }
}
