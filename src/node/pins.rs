//! What pins ask of the node, and what the network brings for them.

use super::Node;
use crate::dht::LookupId;
use crate::fetch::Arrival;
use crate::id::BlockId;
use crate::keep::{Announcer, PinOutput, Pins, Tools};
use crate::limits::COMMIT_AFTER;
use crate::store::{Store, Terms};
use crate::time::Instant;
use crate::transfer::ConnId;
use crate::wire::contact::Contact;
use crate::wire::frame::Frame;

impl<S: Store> Node<S> {
    /// Makes known what is pinned, if it is time.
    pub(super) fn announce(&mut self, now: Instant) {
        let (announcer, pins, mut tools) = self.announcer_tools(now);
        announcer.handle_timeout(&mut tools, pins);
    }

    /// A lookup has ended; whether it was for that.
    pub(super) fn announce_to(
        &mut self,
        now: Instant,
        lookup: LookupId,
        contacts: &[Contact],
    ) -> bool {
        let (announcer, _, mut tools) = self.announcer_tools(now);
        announcer.handle_closest(&mut tools, lookup, contacts)
    }

    /// Has others keep what is pinned, if it is time.
    pub(super) fn renew(&mut self, now: Instant) {
        let Node {
            renewals,
            keep,
            pins,
            dht,
            transfer,
            store,
            ..
        } = self;
        let mut tools = Tools {
            now,
            dht,
            transfer,
            store,
        };
        renewals.handle_timeout(&mut tools, keep, pins);
    }

    /// They do.
    pub(super) fn handle_renewed(&mut self, now: Instant, block: &BlockId) {
        self.renewals.handle_renewed(now, &mut self.store, block);
        self.commit_by(now + COMMIT_AFTER);
    }

    fn announcer_tools(&mut self, now: Instant) -> (&mut Announcer, &Pins, Tools<'_>) {
        let Node {
            announcer,
            pins,
            dht,
            transfer,
            store,
            ..
        } = self;
        let tools = Tools {
            now,
            dht,
            transfer,
            store,
        };
        (announcer, pins, tools)
    }

    pub(super) fn do_for_pins(&mut self, now: Instant, output: PinOutput) {
        match output {
            PinOutput::Want(id) => {
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.want_for_store(&mut tools, id);
            }
            PinOutput::Unwant(id) => {
                let (fetch, mut tools) = self.fetch_tools(now);
                fetch.unwant_for_store(&mut tools, id);
            }
            PinOutput::Tell(client, frame) => self.transfer.send(client, &frame),
            PinOutput::TellWhenDurable(client, frame) => {
                self.announcer.handle_pinned(now);
                self.send_after_commit(now, client, frame);
            }
        }
    }

    /// A block that is wanted for a pin has come, or will not.
    pub(super) fn handle_arrival(&mut self, now: Instant, arrival: Arrival) {
        match arrival {
            Arrival::Missing { id, reason, asked } => self.pins.handle_missing(id, reason, asked),
            Arrival::Block(block) => {
                // For how long others keep it is not known: it is renewed at once, and kept by its marks until then.
                let terms = Terms::until(now.as_secs());
                match self.store_block(&block, terms, None) {
                    Ok(()) => {
                        self.commit_by(now + COMMIT_AFTER);
                        self.pins.handle_stored(&mut self.store, block.id());
                    }
                    Err(error) => self.pins.handle_refused(block.id(), &error),
                }
            }
        }
    }

    pub(super) fn handle_unpin(&mut self, now: Instant, conn: ConnId, root: &BlockId) {
        match self.pins.remove(&mut self.store, root) {
            Ok(was) => self.send_after_commit(now, conn, Frame::Unpinned(was)),
            Err(error) => {
                let status = if error.is_full() { 8 } else { 1 };
                let text = error.to_string();
                self.transfer.send(conn, &Frame::Failed { status, text });
            }
        }
    }

    /// Lists all pins; the end is the question again.
    pub(super) fn list_pins(&mut self, conn: ConnId) {
        for pin in self.store.pins() {
            let (root, len) = (pin.root, pin.len);
            let missing = self.pins.missing(&root);
            let pinned = Frame::Pinned { root, len, missing };
            self.transfer.send(conn, &pinned);
        }
        self.transfer.send(conn, &Frame::Pins);
    }
}
