//! Requests on their way, and what is known of the peers they go to: round-trip times and tokens.
//!
//! It decides when a request is late; `dht` sends, sends again and gives up.

use crate::id::{NodeId, Point};
use crate::limits::{
    RTO_INITIAL, RTO_MAX, RTO_MIN, RTO_UNMEASURED_MAX, RTT_ESTIMATES_MAX, RTT_ESTIMATE_FOR,
    TOKEN_FRESH,
};
use crate::time::Instant;
use crate::wire::datagram::{Families, Request, Token};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::table::reserve_few;
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
    Query(QueryId, NodeId),
    /// To be connected to.
    DialBack,
}

impl Purpose {
    /// Whether contacts are wanted in the reply.
    pub fn is_of_search(&self) -> bool {
        matches!(self, Purpose::Lookup(_) | Purpose::Region(..))
    }
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
    /// If the answer is that of a peer in client-mode it is to be pinged: it may have left it since.
    pub probe_after: bool,
    /// It was sent outside client-mode, the last time: whoever answers it knows us as one for its table.
    pub tells: bool,
}

/// A smoothed round trip and its variation, in microseconds.
#[derive(Clone, Copy)]
struct Estimate {
    smoothed: u32,
    variation: u32,
}

impl Estimate {
    /// With one more sample, of which it takes one part in so many (RFC 6298, section 2, has 8).
    fn with(known: Option<Estimate>, sample: u32, part: u32) -> Estimate {
        let Some(Estimate {
            smoothed,
            variation,
        }) = known
        else {
            return Estimate {
                smoothed: sample,
                variation: sample / 2,
            };
        };
        let off = smoothed.abs_diff(sample);
        Estimate {
            smoothed: smoothed - smoothed / part + sample / part,
            variation: variation - variation / (part / 2) + off / (part / 2),
        }
    }

    fn timeout(self) -> Duration {
        let variation = Duration::from_micros(self.variation.into());
        Duration::from_micros(self.smoothed.into()) + variation * 4
    }
}

struct Peer {
    addr: (IpAddr, u16),
    /// None before the first measurement.
    round_trip: Option<Estimate>,
    token: Token,
    /// When it gave the token, in its last answer.
    heard: Instant,
}

/// What is remembered of addresses that have answered, for RTT_ESTIMATE_FOR; at most RTT_ESTIMATES_MAX.
#[derive(Default)]
pub struct Peers {
    /// In the order of their addresses: as a list, since most of a node's memory would go to a map of them.
    peers: Vec<Peer>,
    /// The round trips of all, taken together: what is expected of a stranger.
    overall: Option<Estimate>,
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
        if self.peers.len() >= RTT_ESTIMATES_MAX && self.peer(&addr).is_none() {
            self.make_room();
        }
        let nth = self.place(&addr).unwrap_or_else(|nth| {
            let peer = Peer {
                addr: (addr.ip(), addr.port()),
                round_trip: None,
                token,
                heard: now,
            };
            reserve_few(&mut self.peers);
            self.peers.insert(nth, peer);
            nth
        });
        let peer = &mut self.peers[nth];
        peer.token = token;
        peer.heard = now;
        if let Some(sample) = round_trip {
            let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX);
            peer.round_trip = Some(Estimate::with(peer.round_trip, sample, 8));
            self.overall = Some(Estimate::with(self.overall, sample, 64));
        }
    }

    /// Where an address is in the list, or would be.
    fn place(&self, addr: &SocketAddr) -> Result<usize, usize> {
        let addr = (addr.ip(), addr.port());
        self.peers.binary_search_by_key(&addr, |peer| peer.addr)
    }

    fn peer(&self, addr: &SocketAddr) -> Option<&Peer> {
        self.place(addr).ok().map(|nth| &self.peers[nth])
    }

    /// Forgets who has not answered for long.
    pub fn forget_old(&mut self, now: Instant) {
        let is_new = |peer: &Peer| now.since(peer.heard) < RTT_ESTIMATE_FOR;
        self.peers.retain(is_new);
        self.peers.shrink_to(self.peers.len() * 2);
    }

    /// Forgets the quarter that was heard least recently: one by one it would take an order.
    fn make_room(&mut self) {
        let mut times: Vec<Instant> = self.peers.iter().map(|peer| peer.heard).collect();
        let (_, &mut last, _) = times.select_nth_unstable(RTT_ESTIMATES_MAX / 4);
        self.peers.retain(|peer| peer.heard > last);
    }

    /// The token to send to an address; `None` unless it is younger than TOKEN_FRESH.
    pub fn token(&self, now: Instant, addr: &SocketAddr) -> Option<Token> {
        let peer = self.peer(addr)?;
        (now.since(peer.heard) < TOKEN_FRESH).then_some(peer.token)
    }

    /// How long to wait for an answer to the attempt of this number, from 1.
    pub fn timeout(&self, addr: &SocketAddr, attempt: u32) -> Duration {
        let measured = self.peer(addr).and_then(|peer| peer.round_trip);
        let (first, max) = match measured {
            Some(measured) => (measured.timeout(), RTO_MAX),
            None => {
                let overall = self.overall.map_or(RTO_INITIAL, Estimate::timeout);
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
    fn least_recently_heard_are_forgotten_at_the_limit_and_all_after_a_while() {
        let mut peers = Peers::default();
        let at = |nth| Instant::EPOCH + Duration::from_millis(nth);
        for n in 0..RTT_ESTIMATES_MAX as u32 {
            peers.answered(at(n.into()), addr(n), Token([1; 8]), None);
        }
        let late = at(100_000);
        peers.answered(late, addr(0), Token([1; 8]), None);
        peers.answered(late, addr(1 << 30), Token([1; 8]), None);
        assert!(peers.peers.len() <= RTT_ESTIMATES_MAX);
        assert!(peers.peers.len() >= RTT_ESTIMATES_MAX / 2);
        assert!(peers.token(late, &addr(0)).is_some());
        assert!(peers.token(late, &addr(1)).is_none());
        let last = RTT_ESTIMATES_MAX as u32 - 1;
        assert!(peers.token(late, &addr(last)).is_some());
        peers.forget_old(at(0) + RTT_ESTIMATE_FOR + Duration::from_secs(50));
        assert_eq!(peers.peers.len(), 2, "heard of later");
    }
}
