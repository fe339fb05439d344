//! What one peer is offered and sent.

use super::JobId;
use crate::id::BlockId;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use std::collections::VecDeque;

/// The jobs that wait for one peer, by how far they are with it.
pub struct Link {
    /// The peer.
    pub contact: Contact,
    /// The connection to it, once there is one.
    pub conn: Option<ConnId>,
    /// It owes an answer and has not got on with it for long: nobody waits for it any more, though it may come.
    pub late: bool,
    /// Not yet offered.
    pub queue: VecDeque<JobId>,
    /// In the offer that has not been answered, in its order.
    pub offered: Vec<(JobId, BlockId)>,
    /// The peer wants them, and they have not been sent.
    pub wanted: VecDeque<(JobId, BlockId)>,
    /// Sent and not acknowledged, with their lengths.
    pub in_flight: Vec<(JobId, BlockId, usize)>,
    /// Sum of the lengths in `in_flight`.
    pub in_flight_bytes: usize,
}

impl Link {
    /// A link to this peer with nothing to do.
    pub fn new(contact: Contact) -> Link {
        Link {
            contact,
            conn: None,
            late: false,
            queue: VecDeque::new(),
            offered: Vec::new(),
            wanted: VecDeque::new(),
            in_flight: Vec::new(),
            in_flight_bytes: 0,
        }
    }

    /// The oldest job whose block of this address was sent; it is no longer in flight.
    pub fn take_in_flight(&mut self, block: &BlockId) -> Option<JobId> {
        let index = self
            .in_flight
            .iter()
            .position(|(_, sent, _)| sent == block)?;
        let (id, _, len) = self.in_flight.remove(index);
        self.in_flight_bytes -= len;
        Some(id)
    }

    /// All jobs that wait for this peer, in the order they came.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        let in_flight = self.in_flight.iter().map(|&(id, _, _)| id);
        let wanted = self.wanted.iter().map(|&(id, _)| id);
        let offered = self.offered.iter().map(|&(id, _)| id);
        let queue = self.queue.iter().copied();
        in_flight.chain(wanted).chain(offered).chain(queue)
    }
}
