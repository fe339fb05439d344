//! Tokens: how a peer learns that an asker receives at the address it asks from, without remembering anything
//! about it. Not a signature and no session; called where requests are answered.

use crate::limits::TOKEN_EPOCH;
use crate::time::Instant;
use crate::wire::contact::address_bytes;
use crate::wire::datagram::Token;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;

/// Makes and checks the tokens of one run of a node.
pub struct Tokens {
    secret: [u8; 32],
}

impl Tokens {
    /// Tokens made with this secret, which nobody else may know.
    pub fn new(secret: [u8; 32]) -> Tokens {
        Tokens { secret }
    }

    /// The token of an address, as of now.
    pub fn make(&self, now: Instant, addr: &SocketAddr) -> Token {
        self.of_epoch(epoch(now), addr)
    }

    /// The token of an address as of now, and whether `token` was made for it in this epoch or in the one before.
    pub fn check(&self, now: Instant, addr: &SocketAddr, token: Token) -> (Token, bool) {
        let epoch = epoch(now);
        let latest = self.of_epoch(epoch, addr);
        let before = || self.of_epoch(epoch.wrapping_sub(1), addr);
        (latest, token == latest || token == before())
    }

    /// The first 8 bytes of SHA-256 over secret, address (IPv4 as v4-mapped), port and epoch.
    fn of_epoch(&self, epoch: u64, addr: &SocketAddr) -> Token {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(address_bytes(addr));
        hash.update(epoch.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        Token(std::array::from_fn(|i| digest[i]))
    }
}

fn epoch(now: Instant) -> u64 {
    now.as_secs() / TOKEN_EPOCH.as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn token_holds_for_its_address_in_two_epochs() {
        let tokens = Tokens::new([1; 32]);
        let addr: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let start = Instant::since_epoch(TOKEN_EPOCH * 9);
        let token = tokens.make(start, &addr);
        let accept = |now, addr: &SocketAddr, token| tokens.check(now, addr, token).1;
        assert_eq!(tokens.check(start, &addr, token), (token, true));
        let last = start + TOKEN_EPOCH * 2 - Duration::from_secs(1);
        assert!(accept(last, &addr, token));
        assert!(!accept(start + TOKEN_EPOCH * 2, &addr, token));
        assert!(!accept(start, &"192.0.2.1:8".parse().unwrap(), token));
        assert!(!accept(start, &"192.0.2.2:7".parse().unwrap(), token));
        assert!(!Tokens::new([2; 32]).check(start, &addr, token).1);
        assert!(!accept(start, &addr, Token::default()));
    }
}
