//! The peers that blocks are asked of, each over one connection, and how fast each gives them.

use crate::id::{BlockId, NodeId};
use crate::limits::{GETS_MIN, GETS_PER_CONNECTION, HEDGE_AFTER};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a block of a peer takes of which nothing is known, as long as nothing is known of any.
const PACE_UNKNOWN: Duration = Duration::from_millis(500);

/// A peer that blocks are asked of.
pub struct Source {
    pub contact: Contact,
    pub conn: ConnId,
    /// With when each was asked. At most `GETS_PER_CONNECTION`.
    pub outstanding: BTreeMap<BlockId, Instant>,
    /// When it last gave a block.
    gave: Instant,
    /// How many it has given.
    given: usize,
    /// How long it takes for a block, of the last ones; whether that is its line or the way to it.
    pace: Option<Duration>,
}

impl Source {
    /// A block is asked of it. False if it was already.
    pub fn ask(&mut self, now: Instant, id: BlockId) -> bool {
        self.outstanding.insert(id, now).is_none()
    }

    /// It has given a block, or said that it does not have it; false if it was not asked.
    pub fn handle_answer(&mut self, now: Instant, id: &BlockId, is_given: bool) -> bool {
        let Some(asked) = self.outstanding.remove(id) else {
            return false;
        };
        if is_given {
            let took = now.since(asked.max(self.gave));
            self.pace = Some(self.pace.map_or(took, |pace| (pace * 3 + took) / 4));
            self.gave = now;
            self.given += 1;
        }
        true
    }

    /// How long it takes for a block, at least as long as the next has been waited for; like others if nothing is known.
    fn pace(&self, now: Instant, typical: Duration) -> Duration {
        let first = self.outstanding.values().min();
        let waited = first.map_or(Duration::ZERO, |&asked| now.since(asked.max(self.gave)));
        self.pace.unwrap_or(typical).max(waited)
    }

    /// In what time it will have given all that it owes, and so many more.
    pub fn expected(&self, now: Instant, typical: Duration, more: usize) -> Duration {
        self.pace(now, typical) * (self.outstanding.len() + more) as u32
    }

    /// Whether it owes as much as it should: what it gives in some time, so that its line is never idle; little as long
    /// as it is not known how fast it is, or for how long the next block has been waited for. The rest is for others. One
    /// more for each that it has given: a short first block, or a burst, does not tell how fast a line is.
    pub fn is_busy(&self, now: Instant) -> bool {
        let pace = self.pace(now, HEDGE_AFTER).as_micros().max(1);
        let depth = (HEDGE_AFTER.as_micros() / pace) as usize;
        let known = (GETS_MIN + self.given).min(GETS_PER_CONNECTION);
        self.outstanding.len() >= depth.clamp(GETS_MIN, known)
    }

    /// How long it takes for a block, of the last ones; zero if none has come.
    pub fn measured(&self) -> Duration {
        self.pace.unwrap_or_default()
    }

    /// Whether it has given a block.
    pub fn is_measured(&self) -> bool {
        self.pace.is_some()
    }
}

/// All of them. One goes with its connection.
#[derive(Default)]
pub struct Sources {
    by_peer: BTreeMap<NodeId, Source>,
    by_conn: BTreeMap<ConnId, NodeId>,
}

impl Sources {
    /// What is known of a peer, if any block has been asked of it over the connection that there is.
    pub fn of_peer(&self, peer: &NodeId) -> Option<&Source> {
        self.by_peer.get(peer)
    }

    /// Every one.
    pub fn all(&self) -> impl Iterator<Item = &Source> {
        self.by_peer.values()
    }

    /// How long a block takes of those of whom it is known, in the mean.
    pub fn typical(&self) -> Duration {
        let paces = self.all().filter_map(|source| source.pace);
        let (sum, count) = paces.fold((Duration::ZERO, 0), |(sum, count), pace| {
            (sum + pace, count + 1)
        });
        sum.checked_div(count).unwrap_or(PACE_UNKNOWN)
    }

    /// Who is at the other end of a connection, if blocks have been asked over it.
    pub fn peer(&self, conn: ConnId) -> Option<NodeId> {
        self.by_conn.get(&conn).copied()
    }

    /// The source at the other end of a connection.
    pub fn of_conn(&mut self, conn: ConnId) -> Option<&mut Source> {
        self.by_peer.get_mut(self.by_conn.get(&conn)?)
    }

    /// The source that a peer is, or becomes by this connection.
    pub fn reach(&mut self, contact: Contact, conn: ConnId) -> &mut Source {
        self.by_peer.entry(contact.id).or_insert_with(|| {
            self.by_conn.insert(conn, contact.id);
            Source {
                contact,
                conn,
                outstanding: BTreeMap::new(),
                gave: Instant::EPOCH,
                given: 0,
                pace: None,
            }
        })
    }

    /// A connection is over: who it was, and what it owed.
    pub fn remove(&mut self, conn: ConnId) -> Option<(NodeId, Source)> {
        let peer = self.by_conn.remove(&conn)?;
        Some((peer, self.by_peer.remove(&peer)?))
    }
}
