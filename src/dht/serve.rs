//! Answering the requests of others. A reply to an address that has not proved itself is never longer than its
//! request, so that nobody can be flooded through us.

use super::{may_name, Dht, Event};
use crate::id::{BlockId, Point};
use crate::limits::{
    DATAGRAM_SIZE_MAX, DIAL_BACKS_MAX, DIAL_BACK_ASKERS_MAX, DIAL_BACK_OTHERS_MAX,
    DIAL_BACK_PERIOD, DIGESTS_PER_SECOND, K, PROVIDER_FOR, REQUESTERS_MAX,
};
use crate::time::Instant;
use crate::wire::contact::{is_private, Age, Contact};
use crate::wire::datagram::{Bitmap, Header, Reply, Request};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The connections lately promised for DIAL_BACK.
#[derive(Default)]
pub(super) struct DialBacks {
    /// At most DIAL_BACKS_MAX, oldest first.
    recent: VecDeque<(Instant, SocketAddr, u64)>,
    /// Proved addresses that have asked, the latest last; at most DIAL_BACK_ASKERS_MAX. Where a network begins,
    /// all are in client-mode and in nobody's table: here they learn of each other.
    askers: VecDeque<SocketAddr>,
}

/// Digests and lists that were asked for lately: they cost more than other answers.
#[derive(Default)]
pub(super) struct Digests {
    /// In whole seconds.
    second: u64,
    /// In this second, at most DIGESTS_PER_SECOND.
    answered: u32,
}

impl Digests {
    /// Whether one more may be answered now.
    fn take(&mut self, now: Instant) -> bool {
        if self.second != now.as_secs() {
            *self = Digests {
                second: now.as_secs(),
                answered: 0,
            };
        }
        self.answered += 1;
        self.answered <= DIGESTS_PER_SECOND
    }
}

/// Who has asked something that only the caller can answer. Its address has been proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    addr: SocketAddr,
    transaction: u64,
}

/// What is answered to a DIAL_BACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promise {
    /// Connect.
    New,
    /// The request came before: its answer was lost, the connection is under way.
    Again,
    /// One too many.
    Refused,
}

impl DialBacks {
    /// The latest other askers that may be named to this one, who is remembered, too.
    fn introduce(&mut self, asker: SocketAddr) -> Vec<SocketAddr> {
        self.askers.retain(|&known| known != asker);
        let others = self.askers.iter().rev();
        let others = others.filter(|other| may_name(&asker.ip(), &other.ip()));
        let others = others.copied().take(DIAL_BACK_OTHERS_MAX).collect();
        if self.askers.len() >= DIAL_BACK_ASKERS_MAX {
            self.askers.pop_front();
        }
        self.askers.push_back(asker);
        others
    }

    fn promise(&mut self, now: Instant, to: SocketAddr, nonce: u64) -> Promise {
        let fresh = |&&(at, ..): &&(Instant, SocketAddr, u64)| now.since(at) >= DIAL_BACK_PERIOD;
        while self.recent.front().filter(fresh).is_some() {
            self.recent.pop_front();
        }
        let same = |&(_, addr, said): &(Instant, SocketAddr, u64)| addr == to && said == nonce;
        if self.recent.iter().any(same) {
            return Promise::Again;
        }
        let known = self.recent.iter().any(|(_, addr, _)| addr.ip() == to.ip());
        if self.recent.len() >= DIAL_BACKS_MAX || (known && !is_private(&to.ip())) {
            return Promise::Refused;
        }
        self.recent.push_back((now, to, nonce));
        Promise::New
    }
}

impl Dht {
    /// Answers a request that came in a datagram of `len` bytes.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        request: &Request,
        len: usize,
        has: &dyn Fn(&BlockId) -> bool,
    ) {
        if header.key == self.key {
            self.heard_ourselves(now, header.transaction);
            return;
        }
        let (token, proved) = self.tokens.check(now, &from, header.token);
        let reply = match request {
            Request::Ping => Reply::Ping(from),
            Request::FindNode(target) => {
                Reply::FindNode(self.contacts_for(now, &from, header, target))
            }
            Request::Have(blocks) => {
                let mut bitmap = Bitmap::default();
                for (index, block) in blocks.iter().enumerate() {
                    if has(block) {
                        bitmap.set(index);
                    }
                }
                let providers = self.providers_for(now, &from, header, &blocks[0]);
                let mut contacts = self.contacts_for(now, &from, header, &blocks[0].into());
                contacts.truncate(K - providers.len());
                Reply::Have(bitmap, contacts, providers)
            }
            Request::DialBack(_) | Request::Digest(..) | Request::List(_) | Request::Provide(_)
                if !proved =>
            {
                Reply::Nothing(header.kind)
            }
            Request::Provide(root) => {
                let contact = Contact::new(header.key, from, Age(0));
                let is_useful = !header.client_mode && !self.reach.client_mode;
                let is_taken = is_useful
                    && !self.is_far_from(now, &(*root).into())
                    && self.providers.take(now, *root, contact);
                Reply::Provide(if is_taken {
                    PROVIDER_FOR.as_secs() as u32
                } else {
                    0
                })
            }
            Request::Digest(..) | Request::List(_) => {
                if self.digests.take(now) {
                    let asker = Asker {
                        addr: from,
                        transaction: header.transaction,
                    };
                    let request = request.clone();
                    self.events.push_back(Event::Asked { asker, request });
                }
                return self.notice(now, from, header);
            }
            Request::DialBack(nonce) => {
                let promise = self.dial_backs.promise(now, from, *nonce);
                if promise == Promise::New {
                    self.events.push_back(Event::DialBack {
                        to: from,
                        nonce: *nonce,
                    });
                }
                let others = self.dial_backs.introduce(from);
                Reply::DialBack(promise != Promise::Refused, others)
            }
        };
        let size_max = if proved { DATAGRAM_SIZE_MAX } else { len };
        let payload = reply.encode(
            self.header(header.kind, header.transaction, token),
            size_max,
        );
        self.transmit(from, payload);
        self.notice(now, from, header);
    }

    /// Answers an [`Event::Asked`].
    pub fn reply(&mut self, now: Instant, asker: Asker, reply: &Reply) {
        let token = self.tokens.make(now, &asker.addr);
        let header = self.header(reply.kind(), asker.transaction, token);
        let payload = reply.encode(header, DATAGRAM_SIZE_MAX);
        self.transmit(asker.addr, payload);
    }

    /// The contacts to name to an asker: closest to the target, of families it can use, and not itself.
    fn contacts_for(
        &self,
        now: Instant,
        from: &SocketAddr,
        header: &Header,
        target: &Point,
    ) -> Vec<Contact> {
        if !header.families.any() {
            return Vec::new();
        }
        let may_be = |contact: &Contact| may_name_to(from, header, contact);
        self.table.closest(now, target, K, may_be)
    }

    /// The providers of a file to name to an asker that wants contacts; not always the same ones of many.
    fn providers_for(
        &self,
        now: Instant,
        from: &SocketAddr,
        header: &Header,
        root: &BlockId,
    ) -> Vec<Contact> {
        let may_be = |contact: &Contact| may_name_to(from, header, contact);
        let providers = &self.providers;
        providers.named(now, root, header.transaction, may_be)
    }

    /// Pings a sender of a request whom we may want to know. What it said of itself is not believed before.
    fn notice(&mut self, now: Instant, from: SocketAddr, header: &Header) {
        if !self.reach.requesters.contains(&from) {
            if self.reach.requesters.len() >= REQUESTERS_MAX {
                self.reach.requesters.pop_front();
            }
            self.reach.requesters.push_back(from);
        }
        let id = header.key.id();
        let known = self.table.has(&id, &from);
        // A known contact that is in client-mode now leaves when its reply says so too.
        let of_use = if header.client_mode {
            known
        } else {
            !known && self.table.wants(&id, &from)
        };
        if of_use || self.wants_dialer(&from) {
            self.probe(now, from, None);
        }
    }
}

/// Whether a contact may be named to an asker, who can use it, and is another.
fn may_name_to(from: &SocketAddr, header: &Header, contact: &Contact) -> bool {
    header.families.include(&contact.addr)
        && contact.key != header.key
        && may_name(&from.ip(), &contact.addr.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn askers_learn_of_the_latest_others_and_not_of_private_ones_elsewhere() {
        let mut dial_backs = DialBacks::default();
        let asker = |n: u8| SocketAddr::from(([192, 0, 2, n], 7));
        for n in 0..100 {
            dial_backs.introduce(asker(n));
        }
        assert_eq!(dial_backs.askers.len(), DIAL_BACK_ASKERS_MAX);
        dial_backs.introduce("10.0.0.1:7".parse().unwrap());
        let named = dial_backs.introduce(asker(99));
        assert_eq!(named, [98, 97, 96, 95].map(asker));
        assert_eq!(
            dial_backs.introduce(asker(99)),
            named,
            "and not of themselves"
        );
    }

    #[test]
    fn nobody_is_knocked_at_often() {
        let mut dial_backs = DialBacks::default();
        let now = Instant::EPOCH;
        let public: SocketAddr = "192.0.2.1:7".parse().unwrap();
        assert_eq!(dial_backs.promise(now, public, 1), Promise::New);
        assert_eq!(dial_backs.promise(now, public, 1), Promise::Again);
        assert_eq!(dial_backs.promise(now, public, 2), Promise::Refused);
        let later = now + DIAL_BACK_PERIOD;
        assert_eq!(dial_backs.promise(later, public, 2), Promise::New);
        let private: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let new = (0..100)
            .filter(|&n| dial_backs.promise(later, private, n) == Promise::New)
            .count();
        assert_eq!(new, DIAL_BACKS_MAX - 1);
    }

    #[test]
    fn so_many_digests_are_answered_in_a_second() {
        let now = Instant::since_epoch(Duration::from_secs(1000));
        let mut digests = Digests::default();
        for now in [now, now + Duration::from_secs(1)] {
            let answered = (0..2 * DIGESTS_PER_SECOND).filter(|_| digests.take(now));
            assert_eq!(answered.count(), DIGESTS_PER_SECOND as usize);
            assert!(!digests.take(now + Duration::from_millis(999)));
        }
    }
}
