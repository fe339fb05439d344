//! Files that are announced: who is told, by whom, and who is believed.

use super::*;

/// Has a node announce a file to all who live around its root; how many have taken that.
fn announce(net: &mut Net, n: usize, root: BlockId) -> usize {
    net.events.clear();
    let lookup = net.nodes[n].find_closest(net.now, root.into());
    net.drain(n);
    net.run(Duration::from_secs(40));
    let mut events = net.events.drain(..);
    let closest = events.find_map(|(_, event)| match event {
        Event::Closest {
            lookup: ended,
            contacts,
            ..
        } if ended == lookup => Some(contacts),
        _ => None,
    });
    drop(events);
    for contact in closest.expect("the lookup ends") {
        net.nodes[n].query(net.now, contact, Request::Provide(root));
    }
    net.drain(n);
    net.run(Duration::from_secs(10));
    let is_taken = |event: &Event| match event {
        Event::Answered { reply, .. } => matches!(reply, Some(Reply::Provide(1..))),
        _ => false,
    };
    net.events.iter().filter(|it| is_taken(&it.1)).count()
}

/// Whom a lookup for the holders of a block, or one for its providers, is told of.
fn providers(net: &mut Net, n: usize, block: BlockId, of_all: bool) -> BTreeSet<NodeId> {
    net.events.clear();
    let id = match of_all {
        true => net.nodes[n].find_providers(net.now, block),
        false => net.nodes[n].find_holders(net.now, block, BTreeSet::new()),
    };
    net.drain(n);
    net.run(Duration::from_secs(40));
    let ended = |event: &Event| matches!(event, Event::HoldersDone { lookup, .. } if *lookup == id);
    assert!(net.events.iter().any(|it| ended(&it.1)));
    let named = net.events.iter().filter_map(|(_, event)| match event {
        Event::Provider { lookup, contact } if *lookup == id => Some(contact.id),
        _ => None,
    });
    named.collect()
}

#[test]
fn announced_files_are_found_by_lookups_of_any_kind_until_they_expire() {
    let mut net = Net::of(60, 0);
    let root = BlockId(net.rng.bytes());
    assert_eq!(announce(&mut net, 7, root), K);
    assert_eq!(announce(&mut net, 9, root), K);
    let both = BTreeSet::from([7, 9].map(|n: usize| net.nodes[n].id()));
    assert_eq!(providers(&mut net, 3, root, false), both);
    assert_eq!(
        providers(&mut net, 7, root, true),
        BTreeSet::from([net.nodes[9].id()])
    );
    let other = BlockId(net.rng.bytes());
    assert!(providers(&mut net, 3, other, true).is_empty());
    // Also where the lookup ends at the first holder.
    let near = net.sorted(&root.into(), 3);
    for n in 0..60 {
        if near[..8].contains(&net.nodes[n].id()) {
            net.held[n].insert(root);
        }
    }
    assert_eq!(providers(&mut net, 3, root, false), both);
    net.run(PROVIDER_FOR);
    assert!(providers(&mut net, 3, root, true).is_empty());
    let held = net.nodes.iter().map(Dht::announcement_count);
    assert_eq!(held.sum::<usize>(), 0);
}

#[test]
fn announcement_of_a_peer_in_client_mode_or_of_what_is_far_is_not_taken() {
    let mut net = Net::of(60, 0);
    let root = BlockId(net.rng.bytes());
    let private = net.add(false, Some(0));
    net.run(Duration::from_secs(60));
    assert_eq!(announce(&mut net, private, root), 0);
    let near = net.sorted(&root.into(), 7);
    let far = (0..60).find(|&n| n != 7 && !near.contains(&net.nodes[n].id()));
    let far = far.expect("there are others");
    let contact = Contact::new(net.nodes[far].key(), addr(far), Age(0));
    net.nodes[7].query(net.now, contact, Request::Provide(root));
    net.drain(7);
    net.run(Duration::from_secs(10));
    assert_eq!(net.nodes[far].announcement_count(), 0);
}

#[test]
fn announcement_is_taken_only_for_an_address_that_echoes_its_token() {
    let mut net = Net::of(3, 0);
    let victim: SocketAddr = "192.0.2.99:7".parse().unwrap();
    let now = net.now;
    let node = &mut net.nodes[1];
    let tokens = [
        Token::default(),
        Token([5; 8]),
        node.tokens.make(now, &"192.0.2.98:7".parse().unwrap()),
        node.tokens.make(now, &victim),
    ];
    let root = BlockId([1; 32]);
    for (nth, token) in tokens.into_iter().enumerate() {
        let header = Header {
            kind: Kind::Provide,
            direction: Direction::Request,
            client_mode: false,
            families: Families::default(),
            shortened: false,
            transaction: nth as u64,
            key: NodeKey([9; 32]),
            token,
        };
        let request = Request::Provide(root).encode(header, false);
        node.handle_datagram(now, victim, &request, &|_| false);
        let (to, reply) = node.poll_transmit().unwrap();
        assert!(to == victim && reply.len() <= request.len());
        assert_eq!(node.announcement_count(), usize::from(nth == 3));
    }
}
