//! Connections whose other ends the tests play, frame by frame, on a clock of their own.

use super::*;
use crate::store::MemoryStore;
use crate::wire::contact::Age;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn hello(n: u8) -> Hello {
    Hello {
        key: NodeKey([n; 32]),
        port: 7873,
        role: PeerRole::Peer,
    }
}

fn contact(n: u8) -> Contact {
    Contact::new(hello(n).key, addr(n), Age(0))
}

/// Where peer `n` is: each in a public network of its own (RFC 2544).
fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, n, 1], 7873))
}

struct World {
    now: Instant,
    transfer: Transfer,
    store: MemoryStore,
    /// Connections that the driver was told to open, and to close.
    begun: Vec<ConnId>,
    closed: Vec<ConnId>,
    events: Vec<Event>,
}

impl World {
    fn new() -> World {
        World {
            now: Instant::since_epoch(secs(1_800_000_000)),
            transfer: Transfer::new(hello(0)),
            store: MemoryStore::new(1 << 30),
            begun: Vec::new(),
            closed: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Does what the machine wants; everything that is queued is written at once.
    fn settle(&mut self) {
        while let Some(command) = self.transfer.poll_command(self.now) {
            match command {
                Command::Connect { conn, .. } => self.begun.push(conn),
                Command::Flush { conn } => self.write(conn),
                Command::Close { conn } => self.closed.push(conn),
            }
        }
        while let Some(event) = self.transfer.poll_event() {
            self.events.push(event);
        }
    }

    fn write(&mut self, conn: ConnId) {
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = self.transfer.egress(&self.store, conn, &mut slices);
            let used = used.expect("no block is lost");
            let sent = slices[..used].iter().map(|slice| slice.len()).sum();
            if sent == 0 {
                return;
            }
            self.transfer.consume(self.now, conn, sent);
        }
    }

    /// Lets time pass, through every deadline.
    fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.transfer.next_timeout().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.transfer.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn is_shunned(&self, n: u8) -> bool {
        self.transfer.is_shunned(self.now, &contact(n).id)
    }
}

#[test]
fn waiting_to_be_dialed_costs_no_peer_its_chance() {
    let mut world = World::new();
    let count = 3 * CONNECTING_MAX as u8;
    let conns: Vec<ConnId> = (1..=count)
        .map(|n| world.transfer.reach(world.now, &contact(n)).expect("room"))
        .collect();
    world.settle();
    assert_eq!(world.begun, conns[..CONNECTING_MAX]);
    // Nobody answers: the next are begun only as the first are given up.
    world.run_for(CONNECT_TIMEOUT);
    assert_eq!(world.begun, conns[..2 * CONNECTING_MAX]);
    world.run_for(CONNECT_TIMEOUT - Duration::from_millis(1));
    let shunned = (1..=count).filter(|&n| world.is_shunned(n)).count();
    assert_eq!(shunned, CONNECTING_MAX, "only those that were tried");
    world.run_for(CONNECT_TIMEOUT);
    assert_eq!(world.begun, conns, "each has its turn");
}
