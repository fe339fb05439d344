//! Whether a block has its copies, whose turn it is to see to it, and who is to be given it.

use super::memory::Map;
use crate::cell::place_of_node;
use crate::keep::copies_wanted;
use crate::limits::{GRACE, GRACE_COPIES, INNER, K, NEWCOMER_FOR, TURN};
use crate::store::Held;
use crate::time::Instant;
use crate::wire::contact::{Age, Contact};
use std::cmp::Reverse;
use std::time::Duration;

/// Somebody who lives around a leaf.
pub struct Near {
    /// The first 8 bytes of the id.
    pub place: u64,
    /// How to reach it, and for how long it has been known.
    pub contact: Contact,
    /// What it has of the leaf's own blocks, as far as that is known.
    pub map: Option<Map>,
}

impl Near {
    /// A contact, and what it has.
    pub fn new(contact: Contact, map: Option<Map>) -> Near {
        Near {
            place: place_of_node(&contact.id),
            contact,
            map,
        }
    }
}

/// All that is known of the own blocks in one leaf.
pub struct Survey {
    /// Copies that a leaf should have.
    pub copies: u8,
    /// The first 8 bytes of the own id.
    pub own: u64,
    /// The own blocks.
    pub held: Vec<Held>,
    /// Who lives around and has not been silent.
    pub near: Vec<Near>,
}

impl Survey {
    /// What is known of the own block of this index. `None` if it has expired, or is the business of others: this peer
    /// is not of its neighbourhood, and some who are have it.
    pub fn judge(&self, now: Instant, index: usize) -> Option<Verdict> {
        let (block, near) = (&self.held[index], &self.near);
        if u64::from(block.expires) * 3600 <= now.as_secs() {
            return None;
        }
        let distance = |place: u64| place ^ block.place;
        let order = near.iter().map(|it| distance(it.place)).zip(0..);
        let mut order: Vec<(u64, usize)> = order.collect();
        order.sort_unstable();
        let closer = order.partition_point(|(other, _)| *other < distance(self.own));
        let is_near = closer < K;
        order.truncate(K - usize::from(is_near));
        let has = |nth: usize| near[nth].map.is_some_and(|map| map >> index & 1 == 1);
        let others = order.len() + usize::from(is_near);
        let holders = order.iter().filter(|(_, nth)| has(*nth)).count();
        if !is_near && holders > 0 {
            return None;
        }
        let wanted = copies_wanted(self.copies, block.kind.role);
        let closer = order.iter().take(closer);
        let rank = closer.filter(|(_, nth)| has(*nth)).count();
        let without = order
            .iter()
            .zip(0..)
            .map(|((_, nth), rank)| (*nth, rank))
            .filter(|(nth, _)| !has(*nth));
        Some(Verdict {
            wanted: usize::from(wanted).min(others),
            holders: holders + usize::from(is_near),
            rank,
            without: without.collect(),
        })
    }
}

/// What is known of one own block.
#[derive(PartialEq, Eq, Debug)]
pub struct Verdict {
    /// How many of the neighbourhood should have it.
    wanted: usize,
    /// How many have.
    holders: usize,
    /// Holders that are closer than this peer.
    pub rank: usize,
    /// Those of the neighbourhood who are not known to have it, the closest first: by their place among the near, and how
    /// many of the neighbourhood are closer.
    pub without: Vec<(usize, usize)>,
}

impl Verdict {
    /// Copies that are missing.
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.holders)
    }

    /// How long this peer waits for others to see to it, from the look on; `None` if no copy is missing. Those who are
    /// closer come first, and while there are many copies some who left may come back.
    pub fn wait(&self) -> Option<Duration> {
        let grace = match self.holders >= GRACE_COPIES {
            true => GRACE,
            false => Duration::ZERO,
        };
        (self.missing() > 0).then(|| grace + TURN * self.rank as u32)
    }

    /// Who may be given it: those who are known not to have it and are no newcomers. First those who will stay in the
    /// neighbourhood when some come who are closer; of them, and of the others, the oldest.
    pub fn candidates(&self, near: &[Near]) -> Vec<Contact> {
        let old = Age::from_duration(NEWCOMER_FOR);
        let others = self.without.iter().map(|&(nth, at)| (&near[nth], at));
        let others = others.filter(|(it, _)| it.map.is_some() && it.contact.age >= old);
        let mut candidates: Vec<(bool, Reverse<Age>, Contact)> = others
            .map(|(it, at)| (at >= INNER, Reverse(it.contact.age), it.contact))
            .collect();
        candidates.sort_by_key(|(is_outer, age, _)| (*is_outer, *age));
        candidates
            .into_iter()
            .map(|(.., contact)| contact)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Kind;
    use crate::id::NodeKey;
    use std::net::SocketAddr;

    const NOW: Instant = Instant::EPOCH;
    const OLD: u8 = 94;

    /// Somebody whose id begins so, who has these blocks.
    fn near(place: u64, map: Option<Map>, age: u8) -> Near {
        let addr = SocketAddr::from(([10, 0, 0, 1], place as u16));
        Near {
            place,
            contact: Contact::new(NodeKey([place as u8; 32]), addr, Age(age)),
            map,
        }
    }

    /// One block of the kind of this byte at place 0, held by this peer at place `own`.
    fn survey(own: u64, kind: u8, near: Vec<Near>) -> Survey {
        let held = Held {
            place: 0,
            kind: Kind::from_byte(kind).expect("a kind"),
            expires: 1,
        };
        Survey {
            copies: 8,
            own,
            held: vec![held],
            near,
        }
    }

    fn verdict(survey: &Survey) -> Option<(usize, usize)> {
        let verdict = survey.judge(NOW, 0)?;
        Some((verdict.missing(), verdict.rank))
    }

    #[test]
    fn missing_is_what_the_neighbourhood_lacks_and_the_closest_holder_comes_first() {
        // The 20 closest are at 1, 2, ... with this peer at 5; those at 2, 4, 6, 8 and 10 have it, and some farther off.
        let all = |_| (1..30).filter(|&n| n != 5);
        let has = |n: u64| Some(Map::from(n.is_multiple_of(2) && (n <= 10 || n > 20)));
        let others = || all(()).map(|n| near(n, has(n), OLD)).collect();
        assert_eq!(verdict(&survey(5, 1, others())), Some((2, 2)));
        assert_eq!(verdict(&survey(5, 3, others())), Some((10, 2)), "a root");
        let expired = NOW + Duration::from_secs(3600);
        assert!(survey(5, 1, others()).judge(expired, 0).is_none());
        // One that is not of the neighbourhood leaves it to those who are, unless none of them has it.
        let mut crowd: Vec<Near> = (1..30).map(|n| near(n, has(n), OLD)).collect();
        assert_eq!(verdict(&survey(99, 1, others())), None);
        crowd.retain(|it| it.map != Some(1));
        crowd.extend((1..30).step_by(3).map(|n| near(n << 8 | 1, None, OLD)));
        assert_eq!(verdict(&survey(u64::MAX, 1, crowd)), Some((8, 0)));
    }

    #[test]
    fn turns_come_later_only_where_there_are_many_copies() {
        let wait = |kind, holders| {
            let others = (1..20).map(|n| near(n, Some(Map::from(n <= holders)), OLD));
            let verdict = survey(99, kind, others.collect()).judge(NOW, 0)?;
            verdict.wait()
        };
        assert_eq!(wait(1, 7), None);
        assert_eq!(wait(1, 6), Some(GRACE + TURN * 6));
        assert_eq!(wait(1, 5), Some(GRACE + TURN * 5));
        assert_eq!(wait(1, 4), Some(TURN * 4));
        assert_eq!(wait(3, 14), Some(GRACE + TURN * 14), "a root");
    }

    #[test]
    fn small_network_has_as_many_copies_as_peers() {
        let others = |map| (1..4).map(|n| near(n, map, OLD)).collect();
        assert_eq!(verdict(&survey(9, 1, others(Some(0)))), Some((3, 0)));
        assert_eq!(verdict(&survey(9, 1, others(Some(1)))), Some((0, 3)));
        assert_eq!(verdict(&survey(9, 1, vec![])), Some((0, 0)));
    }

    #[test]
    fn oldest_come_first_and_newcomers_and_strangers_never() {
        let others = vec![
            near(1, Some(0), OLD),
            near(2, Some(0), 200),
            near(3, Some(0), OLD - 1),
            near(4, None, 220),
            near(5, Some(1), 230),
            near(6, Some(0), 200),
        ];
        let survey = survey(9, 1, others);
        let candidates = survey
            .judge(NOW, 0)
            .map(|verdict| verdict.candidates(&survey.near))
            .expect("it is to be judged");
        let ports: Vec<u16> = candidates.iter().map(|it| it.addr.port()).collect();
        assert_eq!(ports, [2, 6, 1]);
        // Those at the edge come last, however old.
        let others = (1..20).map(|n| near(n, Some(0), OLD + n as u8)).collect();
        let survey = super::Survey {
            near: others,
            ..survey
        };
        let candidates = survey.judge(NOW, 0).expect("it is to be judged");
        let candidates = candidates.candidates(&survey.near);
        let ports: Vec<u16> = candidates.iter().map(|it| it.addr.port()).collect();
        let inner = (1..=INNER as u16).rev();
        assert_eq!(
            ports,
            inner
                .chain((INNER as u16 + 1..20).rev())
                .collect::<Vec<_>>()
        );
    }
}
