//! A whole life of a network, drawn from one seed: who is there, how they are connected, what happens to them when,
//! who does harm, and what is shared and fetched meanwhile.

use crate::links::Links;
use crate::network::{private, public, secs};
use crate::villains::{Vice, VICES};
use std::net::SocketAddr;
use std::time::Duration;
use strew::rng::Rng;

/// Peers that keep their addresses and are what the others join through.
pub const ANCHORS: usize = 2;

/// What is done to the world at a time.
#[derive(Clone, Debug)]
pub enum Deed {
    Start {
        peer: usize,
    },
    Crash {
        peer: usize,
        keeps_store: bool,
        refuses: bool,
    },
    Return {
        peer: usize,
        moves: bool,
    },
    /// Every peer goes to the side that its bits say, two bits each in turn.
    Split {
        sides: u64,
    },
    Unite,
    Unplug {
        peer: usize,
    },
    Plug {
        peer: usize,
    },
    Slow {
        peer: usize,
        rates: Option<(u64, u64)>,
    },
    Links(Links),
    Harm {
        vice: Vice,
    },
    Share {
        peer: usize,
        len: usize,
        copies: u8,
    },
    Fetch {
        peer: usize,
        file: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub peers: usize,
    /// In networks of their own, for which limits hold that private ranges are exempt from.
    pub is_public: bool,
    pub links: Links,
    /// Who is behind a translator, with its time-out and whether it is symmetric.
    pub hidden: Vec<(usize, Duration, bool)>,
    /// How long troubles last.
    pub span: Duration,
    /// In the order of their times.
    pub deeds: Vec<(Duration, Deed)>,
}

/// One in so many.
fn one_in(rng: &mut Rng, count: u64) -> bool {
    rng.below(count) == 0
}

fn span(rng: &mut Rng, least: Duration, most: Duration) -> Duration {
    least + Duration::from_millis(rng.below((most - least).as_millis() as u64 + 1))
}

fn links(rng: &mut Rng) -> Links {
    let least = Duration::from_millis(1 + rng.below(30));
    Links {
        latency: (least, least + Duration::from_millis(rng.below(200))),
        lost: rng.below(4) * rng.below(50),
        doubled: rng.below(3) * rng.below(60),
        first_cut: None,
    }
}

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let mut bytes = [0x5e; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let rng = &mut Rng::new(bytes);
        let is_public = one_in(rng, 4);
        let peers = match rng.below(3) {
            0 => 3 + rng.below(8),
            1 => 10 + rng.below(15),
            _ => 20 + rng.below(20),
        } as usize;
        let longest = if one_in(rng, 5) { 7200 } else { 1200 };
        let span_of_troubles = span(rng, secs(60), secs(longest));
        let mut plan = Plan {
            peers,
            is_public,
            links: links(rng),
            hidden: Vec::new(),
            span: span_of_troubles,
            deeds: Vec::new(),
        };
        let starts_at_once = one_in(rng, 3);
        for peer in 0..peers {
            let at = match peer < ANCHORS || starts_at_once {
                true => Duration::ZERO,
                false => span(rng, Duration::ZERO, span_of_troubles / 2),
            };
            plan.deeds.push((at, Deed::Start { peer }));
            if peer >= ANCHORS && one_in(rng, 8) {
                let timeout = span(rng, secs(20), secs(300));
                plan.hidden.push((peer, timeout, one_in(rng, 2)));
            }
            if one_in(rng, 8) {
                let rates = Some(rates(rng));
                plan.deeds.push((at, Deed::Slow { peer, rates }));
            }
        }
        for _ in 0..rng.below(peers as u64 / 4 + 1) {
            let vice = VICES[rng.below(VICES.len() as u64) as usize];
            plan.add(rng, Deed::Harm { vice });
        }
        for _ in 0..rng.below(peers as u64 + 1) {
            plan.add_trouble(rng);
        }
        for file in 0..rng.below(8) as usize {
            let len = match rng.below(6) {
                0 => 262_000 + rng.below(700_000),
                1 => 1 + rng.below(200_000),
                _ => rng.below(5000),
            };
            let share = Deed::Share {
                peer: rng.below(peers as u64) as usize,
                len: len as usize,
                copies: 1 + rng.below(10) as u8,
            };
            plan.add(rng, share);
            for _ in 0..rng.below(3) {
                let peer = rng.below(peers as u64) as usize;
                plan.add(rng, Deed::Fetch { peer, file });
            }
        }
        plan.deeds.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Some time in the troubles.
    fn add(&mut self, rng: &mut Rng, deed: Deed) {
        let at = span(rng, Duration::ZERO, self.span);
        self.deeds.push((at, deed));
    }

    /// Something that goes wrong, and mostly is right again later.
    fn add_trouble(&mut self, rng: &mut Rng) {
        let at = span(rng, Duration::ZERO, self.span);
        let later = span(rng, at, self.span.max(at) + secs(120));
        let peer = rng.below(self.peers as u64) as usize;
        let (wrong, right) = match rng.below(10) {
            0..4 => (
                Deed::Crash {
                    peer,
                    keeps_store: one_in(rng, 2),
                    refuses: one_in(rng, 2),
                },
                Deed::Return {
                    peer,
                    moves: peer >= ANCHORS && one_in(rng, 4),
                },
            ),
            4..6 => (
                Deed::Split {
                    sides: rng.next_u64(),
                },
                Deed::Unite,
            ),
            6 => (Deed::Unplug { peer }, Deed::Plug { peer }),
            7 => {
                let (rates, none) = (Some(rates(rng)), None);
                (Deed::Slow { peer, rates }, Deed::Slow { peer, rates: none })
            }
            _ => (Deed::Links(links(rng)), Deed::Links(links(rng))),
        };
        self.deeds.push((at, wrong));
        if later < self.span {
            self.deeds.push((later, right));
        }
    }

    /// The address of the peer that is born as number `n`, or moves there.
    pub fn addr(&self, n: usize) -> SocketAddr {
        match self.is_public {
            true => public(n),
            false => private(n),
        }
    }
}

fn rates(rng: &mut Rng) -> (u64, u64) {
    let up = 4096 << rng.below(7);
    (up, up << rng.below(4))
}
