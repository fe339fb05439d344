//! What must hold of every datagram, watched from outside: the node knows nothing of it.

use crate::world::PeerId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use strew::limits::{DATAGRAM_SIZE_MAX, TOKEN_EPOCH};
use strew::time::Instant;
use strew::wire::contact::is_usable;
use strew::wire::datagram::Direction;

/// Peers beyond the first so many are not watched, which would cost much in large networks and show nothing new.
const WATCHED_MAX: usize = 200;

/// Tokens remembered at least before those that no longer prove anything are forgotten.
const TOKENS_MAX: usize = 100_000;

/// A request that a peer is being given.
struct Asked {
    peer: PeerId,
    from: SocketAddr,
    transaction: u64,
    len: usize,
    /// It brings a token that this peer gave to that address.
    is_proved: bool,
}

#[derive(Default)]
pub struct Watch {
    /// When a peer last gave a token to an address.
    tokens: BTreeMap<(PeerId, SocketAddr, [u8; 8]), Instant>,
    /// How many may be remembered before old ones are looked for.
    tokens_max: usize,
    asked: Option<Asked>,
    /// Replies to addresses that had not proved themselves.
    pub unproved: u64,
}

/// Direction, transaction and token of a datagram that has a whole header.
fn open(payload: &[u8]) -> Option<(Direction, u64, [u8; 8])> {
    let part = |at: usize| payload.get(at..at + 8)?.try_into().ok();
    let direction = match payload.get(3)? & 0x80 {
        0 => Direction::Request,
        _ => Direction::Reply,
    };
    Some((direction, u64::from_be_bytes(part(5)?), part(45)?))
}

impl Watch {
    /// A peer is given this now.
    pub fn handle_received(
        &mut self,
        now: Instant,
        peer: PeerId,
        from: SocketAddr,
        payload: &[u8],
    ) {
        self.asked = None;
        if peer >= WATCHED_MAX {
            return;
        }
        let Some((Direction::Request, transaction, token)) = open(payload) else {
            return;
        };
        let given = self.tokens.get(&(peer, from, token));
        let is_proved = given.is_some_and(|&at| now.since(at) <= TOKEN_EPOCH * 2);
        self.asked = Some(Asked {
            peer,
            from,
            transaction,
            len: payload.len(),
            is_proved,
        });
    }

    /// It has done all that it does about it.
    pub fn end_received(&mut self) {
        self.asked = None;
    }

    /// A peer sends this.
    pub fn handle_sent(&mut self, now: Instant, peer: PeerId, to: SocketAddr, payload: &[u8]) {
        assert!(
            payload.len() <= DATAGRAM_SIZE_MAX,
            "a datagram is not too long"
        );
        assert!(is_usable(&to), "a datagram goes to where somebody can be");
        if peer >= WATCHED_MAX {
            return;
        }
        let (direction, transaction, token) = open(payload).expect("a node sends whole headers");
        if direction == Direction::Request {
            return;
        }
        let asked = self.asked.as_ref();
        let asked =
            asked.filter(|it| (it.peer, it.from, it.transaction) == (peer, to, transaction));
        let asked = asked.expect("a reply answers the request that came");
        if !asked.is_proved {
            self.unproved += 1;
            assert!(
                payload.len() <= asked.len,
                "{to} has not proved itself, asked with {} bytes and is answered with {}",
                asked.len,
                payload.len()
            );
        }
        if self.tokens.len() > self.tokens_max {
            self.tokens
                .retain(|_, at| now.since(*at) <= TOKEN_EPOCH * 2);
            self.tokens_max = TOKENS_MAX.max(2 * self.tokens.len());
        }
        self.tokens.insert((peer, to, token), now);
    }

    /// A peer starts anew: its old tokens prove nothing any more.
    pub fn forget(&mut self, peer: PeerId) {
        if peer < WATCHED_MAX {
            self.tokens.retain(|&(of, ..), _| of != peer);
        }
    }
}
