//! What lies between the peers, and what it does to what is sent.

use crate::world::World;
use std::time::Duration;

/// What the network does to what is sent.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// The shortest and the longest way; each datagram and each piece of a stream draws its own.
    pub latency: (Duration, Duration),
    /// Datagrams in a thousand that are lost.
    pub lost: u64,
    /// Datagrams in a thousand that arrive twice.
    pub doubled: u64,
    /// Where the first piece of each direction of a stream ends; otherwise drawn like all others.
    pub first_cut: Option<usize>,
}

impl Links {
    /// A network without troubles.
    pub fn good() -> Links {
        Links {
            latency: (Duration::from_millis(2), Duration::from_millis(20)),
            lost: 0,
            doubled: 0,
            first_cut: None,
        }
    }

    /// One with all of them: since every datagram draws its own latency they also overtake each other.
    pub fn bad() -> Links {
        Links {
            latency: (Duration::from_millis(1), Duration::from_millis(200)),
            lost: 50,
            doubled: 100,
            first_cut: None,
        }
    }
}

impl World {
    /// How long something takes that is sent now.
    pub fn latency(&mut self) -> Duration {
        let (least, most) = self.links.latency;
        let span = (most - least).as_micros() as u64;
        least + Duration::from_micros(self.rng.below(span + 1))
    }
}
