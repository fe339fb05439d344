//! The peers that blocks are asked of, each over one connection.

use crate::id::{BlockId, NodeId};
use crate::transfer::ConnId;
use std::collections::{BTreeMap, BTreeSet};

/// A peer that blocks are asked of.
pub struct Source {
    pub conn: ConnId,
    /// At most `GETS_PER_CONNECTION`.
    pub outstanding: BTreeSet<BlockId>,
}

/// All of them. One goes with its connection.
#[derive(Default)]
pub struct Sources {
    by_peer: BTreeMap<NodeId, Source>,
    by_conn: BTreeMap<ConnId, NodeId>,
}

impl Sources {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Source> {
        self.by_peer.values()
    }

    /// What is known of a peer, if any block has been asked of it over the connection that there is.
    pub fn of_peer(&self, peer: &NodeId) -> Option<&Source> {
        self.by_peer.get(peer)
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
    pub fn reach(&mut self, peer: NodeId, conn: ConnId) -> &mut Source {
        self.by_peer.entry(peer).or_insert_with(|| {
            self.by_conn.insert(conn, peer);
            Source {
                conn,
                outstanding: BTreeSet::new(),
            }
        })
    }

    /// A connection is over: who it was, and what it owed.
    pub fn remove(&mut self, conn: ConnId) -> Option<(NodeId, Source)> {
        let peer = self.by_conn.remove(&conn)?;
        Some((peer, self.by_peer.remove(&peer)?))
    }
}
