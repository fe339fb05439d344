//! At each limit whoever comes, or asks for more, is refused and told why, and all others go on.

use super::*;

/// As many connections as there may be of a kind, and one more: what that one is told.
fn refused(origins: impl IntoIterator<Item = Origin>, max: usize) -> String {
    let mut world = World::new();
    let origins: Vec<Origin> = origins.into_iter().take(max + 1).collect();
    let mut come = |origin: &Origin| {
        let conn = world.transfer.accept(world.now, *origin);
        world.settle();
        conn
    };
    let conns: Vec<ConnId> = origins.iter().map(&mut come).collect();
    assert_eq!(world.closed, conns[max..], "those that were there stay");
    let said = world.frames(conns[max]);
    let [Frame::Hello(_), Frame::Bye { reason, text }] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(*reason, ByeReason::Busy);
    // Others are still served.
    assert!(world.transfer.wants_read(conns[0]));
    let mut greeting = hello(9);
    if origins[0] == Origin::Local {
        greeting.role = PeerRole::Client;
    }
    world.hears(conns[0], &Frame::Hello(greeting));
    assert!(world.transfer.is_open(conns[0]));
    // One that nobody wants anything of makes room, but for clients.
    if origins[0] != Origin::Local {
        let next = world.transfer.accept(world.now, origins[max]);
        world.settle();
        assert!(world.is_closed(conns[0]) && !world.is_closed(next));
    }
    text.clone()
}

#[test]
fn who_comes_at_a_limit_is_told_so_and_those_who_are_there_stay() {
    let remote = |ip: [u8; 4], n: usize| Origin::Remote(SocketAddr::from((ip, n as u16)));
    let address = (1..).map(|n| remote([198, 18, 1, 1], n));
    let network = (1..).map(|n| remote([198, 18, 1, n as u8], n));
    let anybody = (1..).map(|n| remote([198, 18, n as u8, 1], n));
    let nearby = (1..).map(|n| remote([127, 0, 0, 1], n));
    let why = [
        refused(address, INBOUND_PER_SOURCE),
        refused(network, INBOUND_PER_NETWORK),
        refused(anybody, INBOUND_MAX),
        refused(nearby, INBOUND_MAX),
        refused(std::iter::repeat(Origin::Local), CLIENTS_MAX),
    ];
    assert!(why
        .iter()
        .all(|why| why == "too many connections; try again later"));
}

#[test]
fn who_asks_for_more_than_it_takes_is_not_read_from_until_it_does() {
    let mut world = World::new();
    let conn = world.greeted_by(addr(1), 1);
    let kind = crate::block::Kind {
        role: crate::block::Role::Leaf,
        form: crate::block::Form::Plain,
    };
    let block = crate::block::Block::new(kind, vec![1; 1000]).expect("a block");
    let block = std::rc::Rc::new(block);
    for _ in 0..EGRESS_BLOCKS_MAX {
        assert!(world.transfer.wants_read(conn));
        let payload = Source::Memory(block.clone());
        let head = BlockHead::from(&*block);
        world
            .transfer
            .send_block(conn, PayloadFrame::Block, head, payload);
    }
    assert!(!world.transfer.wants_read(conn));
    let len = world.transfer.queued_bytes(conn) / EGRESS_BLOCKS_MAX;
    world.transfer.consume(world.now, conn, len);
    assert!(world.transfer.wants_read(conn));
    world.write(conn);
    while world.transfer.queued_bytes(conn) < EGRESS_BYTES_MAX {
        assert!(world.transfer.wants_read(conn));
        world.transfer.send(conn, &Frame::Absent(block.id()));
    }
    assert!(!world.transfer.wants_read(conn));
    world.write(conn);
    assert!(world.transfer.wants_read(conn) && world.transfer.is_open(conn));
}

#[test]
fn who_never_greets_and_who_wants_nothing_is_closed_in_time() {
    let mut world = World::new();
    let mute = world.accepted(addr(1));
    let idle = world.greeted_by(addr(2), 2);
    let owing = world.reached(3);
    world.transfer.expect(world.now, owing, 1);
    for (conn, after) in [
        (mute, CONNECT_TIMEOUT),
        (owing, PROGRESS_TIMEOUT),
        (idle, IDLE_TIMEOUT),
    ] {
        let begun = Instant::since_epoch(secs(1_800_000_000));
        world.run_for((begun + after).since(world.now) - Duration::from_millis(1));
        assert!(!world.is_closed(conn));
        // A connection is looked at when its state may have changed.
        world.run_for(Duration::from_millis(1));
        assert!(world.is_closed(conn), "{after:?}");
    }
    assert!(world.is_shunned(3) && !world.is_shunned(2));
}
