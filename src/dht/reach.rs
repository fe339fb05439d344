//! Client-mode: whether others can connect to us. We are in it until some have done so because we asked
//! (DIAL_BACK), and check again from time to time. Called by the machine on round trips, replies and timers.

use super::{may_name, Dht, Event, Timer};
use crate::id::{NodeId, Point};
use crate::limits::{
    DIALERS_MAX, DIALERS_PER_NETWORK, DIAL_BACKS_WAITING_MAX, DIAL_BACK_NETWORKS,
    DIAL_BACK_RETRY_FIRST, DIAL_BACK_RETRY_MAX, DIAL_BACK_WAIT, K, REACHABILITY_PERIOD,
    RECHECK_TRIES,
};
use crate::time::Instant;
use crate::wire::contact::{is_private, is_usable, network, Contact};
use crate::wire::datagram::Request;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::requests::Purpose;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked when its timer says so.
    Resting,
    /// To be asked when fewer are waited for.
    Due,
    /// Asked to say this nonce.
    Asked(u64),
    /// It said it will.
    Promised(u64),
}

/// A peer that may connect to us.
pub(super) struct Dialer {
    id: NodeId,
    state: State,
    pause: Duration,
}

/// Whether we are reachable, and how we find out.
pub(super) struct Reach {
    pub(super) client_mode: bool,
    /// We ask for connections now.
    seeking: bool,
    /// At most DIALERS_MAX, none of them of a network in `networks`.
    pub(super) dialers: BTreeMap<SocketAddr, Dialer>,
    /// From where somebody has connected since we began to seek.
    networks: BTreeSet<IpAddr>,
    /// Attempts that failed since we began to seek.
    failures: u32,
    /// Who lately sent us requests, latest last; at most REQUESTERS_MAX.
    pub(super) requesters: VecDeque<SocketAddr>,
}

impl Reach {
    pub(super) fn new(serve: bool) -> Reach {
        Reach {
            client_mode: true,
            seeking: serve,
            dialers: BTreeMap::new(),
            networks: BTreeSet::new(),
            failures: 0,
            requesters: VecDeque::new(),
        }
    }
}

impl Dht {
    /// A connection brought a nonce that we asked for by DIAL_BACK, from a peer of this id at this address.
    /// A nonce that is not ours, or not that peer's, is ignored.
    pub fn handle_dialed_back(&mut self, now: Instant, from: NodeId, addr: SocketAddr, nonce: u64) {
        let dialer = self.reach.dialers.iter_mut().find(|(_, dialer)| {
            let waits = [State::Asked(nonce), State::Promised(nonce)].contains(&dialer.state);
            waits && dialer.id == from
        });
        let Some((&asked, _)) = dialer else {
            return;
        };
        self.forget_dialer(asked);
        let ip = addr.ip().to_canonical();
        let connected = network(&ip);
        self.reach.networks.insert(connected);
        // The others of that network would prove nothing new, and are in the way of those who would.
        let others = self.reach.dialers.keys().copied();
        let useless: Vec<SocketAddr> = others
            .filter(|other| network(&other.ip()) == connected)
            .collect();
        for other in useless {
            self.forget_dialer(other);
        }
        if is_private(&ip) || self.reach.networks.len() >= DIAL_BACK_NETWORKS {
            self.reachable(now);
        }
        self.ask_due_dialers(now);
        self.settle(now);
    }

    /// Whether a round trip with this address would help us to leave client-mode.
    pub(super) fn wants_dialer(&self, addr: &SocketAddr) -> bool {
        let reach = &self.reach;
        let of = network(&addr.ip());
        if !reach.seeking
            || reach.dialers.len() >= DIALERS_MAX
            || reach.dialers.contains_key(addr)
            || reach.networks.contains(&of)
        {
            return false;
        }
        let same = |dialer: &&SocketAddr| network(&dialer.ip()) == of;
        is_private(&addr.ip()) || reach.dialers.keys().filter(same).count() < DIALERS_PER_NETWORK
    }

    fn forget_dialer(&mut self, addr: SocketAddr) {
        self.reach.dialers.remove(&addr);
        self.timers.stop(Timer::Dialer(addr));
    }

    /// A round trip with this peer is complete; it may be asked to connect.
    pub(super) fn consider_dialer(&mut self, now: Instant, contact: Contact) {
        if !self.wants_dialer(&contact.addr) {
            return;
        }
        let dialer = Dialer {
            id: contact.id,
            state: State::Resting,
            pause: DIAL_BACK_RETRY_FIRST,
        };
        self.reach.dialers.insert(contact.addr, dialer);
        self.dialer_due(now, contact.addr);
    }

    /// Dialers that are waited for.
    pub(super) fn dialers_waited_for(&self) -> usize {
        let busy = |dialer: &&Dialer| matches!(dialer.state, State::Asked(_) | State::Promised(_));
        self.reach.dialers.values().filter(busy).count()
    }

    /// Asks a dialer, or counts its promise as broken.
    pub(super) fn dialer_due(&mut self, now: Instant, addr: SocketAddr) {
        let waiting = self.dialers_waited_for();
        let Some(dialer) = self.reach.dialers.get_mut(&addr) else {
            return;
        };
        match dialer.state {
            State::Promised(_) => self.dialer_failed(now, addr),
            State::Resting if waiting >= DIAL_BACKS_WAITING_MAX => dialer.state = State::Due,
            State::Resting | State::Due => {
                let nonce = self.rng.next_u64();
                dialer.state = State::Asked(nonce);
                let id = Some(dialer.id);
                self.ask(now, addr, id, Purpose::DialBack, Request::DialBack(nonce));
            }
            State::Asked(_) => {}
        }
    }

    /// A dialer has answered, and named others that are looking for somebody to connect to them.
    pub(super) fn dialer_answered(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        will: bool,
        others: &[SocketAddr],
    ) {
        let families = self.families();
        for other in others {
            let sendable = is_usable(other) && families.include(other);
            if sendable && may_name(&addr.ip(), &other.ip()) && self.wants_dialer(other) {
                self.probe(now, *other, None);
            }
        }
        let Some(dialer) = self.reach.dialers.get_mut(&addr) else {
            return;
        };
        let State::Asked(nonce) = dialer.state else {
            return;
        };
        if will {
            dialer.state = State::Promised(nonce);
            self.timers.set(Timer::Dialer(addr), now + DIAL_BACK_WAIT);
        } else {
            self.dialer_failed(now, addr);
        }
    }

    /// A dialer refused or did not come: it is asked again later, and forgotten after the longest pause.
    fn dialer_failed(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(dialer) = self.reach.dialers.get_mut(&addr) {
            dialer.state = State::Resting;
            let pause = dialer.pause;
            dialer.pause = pause * 2;
            if pause > DIAL_BACK_RETRY_MAX {
                self.reach.dialers.remove(&addr);
            } else {
                let pause = self.rng.jitter(pause);
                self.timers.set(Timer::Dialer(addr), now + pause);
            }
            self.attempt_failed();
            self.ask_due_dialers(now);
        }
    }

    /// Fewer are waited for: of those whose turn had come meanwhile, who have failed least are asked.
    fn ask_due_dialers(&mut self, now: Instant) {
        while self.dialers_waited_for() < DIAL_BACKS_WAITING_MAX {
            let due = self.reach.dialers.iter();
            let due = due.filter(|(_, dialer)| dialer.state == State::Due);
            let next = due.min_by_key(|(_, dialer)| dialer.pause);
            let Some(addr) = next.map(|(addr, _)| *addr) else {
                return;
            };
            self.dialer_due(now, addr);
        }
    }

    /// A dialer does not answer at all.
    pub(super) fn dialer_lost(&mut self, now: Instant, addr: SocketAddr) {
        let asked = |dialer: &Dialer| matches!(dialer.state, State::Asked(_));
        if self.reach.dialers.get(&addr).is_some_and(asked) {
            self.reach.dialers.remove(&addr);
            self.attempt_failed();
            self.ask_due_dialers(now);
        }
    }

    fn attempt_failed(&mut self) {
        self.reach.failures += 1;
        if !self.reach.client_mode && self.reach.failures >= RECHECK_TRIES {
            log::warn!("nobody could connect to this peer: it is in client-mode");
            self.reach.client_mode = true;
            self.table.forget_told();
            self.events.push_back(Event::ClientMode(true));
        }
    }

    /// Others can connect to us; whether that is new.
    pub(super) fn become_reachable(&mut self, now: Instant) -> bool {
        let reach = &mut self.reach;
        reach.seeking = false;
        reach.failures = 0;
        reach.networks.clear();
        for addr in std::mem::take(&mut reach.dialers).into_keys() {
            self.timers.stop(Timer::Dialer(addr));
        }
        let period = self.rng.jitter(REACHABILITY_PERIOD);
        self.timers.set(Timer::Recheck, now + period);
        std::mem::replace(&mut self.reach.client_mode, false)
    }

    /// Others can connect to us. Whoever is near learns it, and may take us into its table: at once, or when we have
    /// found out who that is. Until then there are those who have met us.
    fn reachable(&mut self, now: Instant) {
        if !self.become_reachable(now) {
            return;
        }
        log::debug!("others can connect: client-mode ends");
        self.events.push_back(Event::ClientMode(false));
        if self.join.joined {
            self.announce(now);
            return self.look_again_soon(now);
        }
        let mut told: BTreeSet<SocketAddr> = self.reach.requesters.iter().copied().collect();
        told.extend(self.join.seed_addresses());
        self.announce_to(now, told);
    }

    /// Lets those who live near us ask whether we are there, as far as they do not know it: whoever has answered a
    /// request of ours outside client-mode does.
    pub(super) fn announce(&mut self, now: Instant) {
        let own = self.id.into();
        let neighbours = self.table.closest(now, &own, K, |_| true);
        let untold = neighbours
            .iter()
            .filter(|contact| !self.table.is_told(now, &contact.id));
        let untold = untold.map(|contact| contact.addr);
        self.announce_to(now, untold.collect());
    }

    fn announce_to(&mut self, now: Instant, told: BTreeSet<SocketAddr>) {
        for addr in told {
            self.ask(now, addr, None, Purpose::Announce, Request::Ping);
        }
    }

    /// Checks again whether others can connect, by asking some contacts from anywhere.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.reach.seeking = true;
        let anywhere = Point(self.rng.bytes());
        let max = 2 * DIAL_BACKS_WAITING_MAX;
        for contact in self.table.closest(now, &anywhere, max, |_| true) {
            self.consider_dialer(now, contact);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dht::Config;
    use crate::id::NodeKey;
    use crate::limits::{DATAGRAM_SIZE_MAX, REACHABILITY_PERIOD};
    use crate::rng::Rng;
    use crate::wire::codec::Reader;
    use crate::wire::datagram::{Direction, Families, Header, Kind, Reply, Start, Token};

    /// What a scripted peer does when it is asked for DIAL_BACK.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Manner {
        /// Connects.
        Dials,
        /// Says that it will, and does not.
        Promises,
        /// Says that it will not.
        Refuses,
        /// Does not take the token that it gives, however often it is asked.
        Forgets,
    }

    /// A serving node among scripted peers, which answer at once.
    struct Scene {
        now: Instant,
        node: Dht,
        peers: BTreeMap<SocketAddr, (NodeKey, Manner)>,
        asked: BTreeSet<SocketAddr>,
        events: Vec<Event>,
        /// How often the node was woken.
        wakes: u32,
        most_waited_for: usize,
    }

    impl Scene {
        fn new() -> Scene {
            let now = Instant::since_epoch(Duration::from_secs(1_000_000));
            let config = Config {
                serve: true,
                ipv4: true,
                ipv6: true,
            };
            Scene {
                now,
                node: Dht::new(now, NodeKey([1; 32]), config, Rng::new([1; 32])),
                peers: BTreeMap::new(),
                asked: BTreeSet::new(),
                events: Vec::new(),
                wakes: 0,
                most_waited_for: 0,
            }
        }

        /// A peer pings the node, which so comes to know it.
        fn meet(&mut self, addr: &str, manner: Manner) {
            let addr: SocketAddr = addr.parse().unwrap();
            let mut key = [7; 32];
            key[..2].copy_from_slice(&(self.peers.len() as u16).to_be_bytes());
            self.peers.insert(addr, (NodeKey(key), manner));
            let header = header(NodeKey(key), 1);
            let ping = Request::Ping.encode(header, true);
            self.node.handle_datagram(self.now, addr, &ping, &|_| false);
            self.run(Duration::ZERO);
        }

        fn answer(&mut self, to: SocketAddr, payload: &[u8]) {
            let Some(&(key, manner)) = self.peers.get(&to) else {
                return;
            };
            let mut reader = Reader::new(payload);
            let Start::Ours(asked) = Header::decode(&mut reader).unwrap() else {
                panic!("a node speaks its own version");
            };
            if asked.direction == Direction::Reply {
                return;
            }
            let mut nonce = None;
            let reply = match Request::decode(asked.kind, reader).unwrap() {
                Request::Ping => Reply::Ping("203.0.113.9:7".parse().unwrap()),
                Request::FindNode(_) => Reply::FindNode(Vec::new()),
                Request::Have(_) | Request::Digest(..) | Request::List(_) | Request::Provide(_) => {
                    panic!("nobody looks for a block")
                }
                Request::DialBack(wanted) => {
                    self.asked.insert(to);
                    nonce = (manner == Manner::Dials).then_some(wanted);
                    match manner {
                        Manner::Forgets => Reply::Nothing(Kind::DialBack),
                        Manner::Refuses => Reply::DialBack(false, Vec::new()),
                        Manner::Dials | Manner::Promises => Reply::DialBack(true, Vec::new()),
                    }
                }
            };
            let reply = reply.encode(header(key, asked.transaction), DATAGRAM_SIZE_MAX);
            self.node.handle_datagram(self.now, to, &reply, &|_| false);
            if let Some(nonce) = nonce {
                let mut from = to;
                from.set_port(40_000);
                self.node
                    .handle_dialed_back(self.now, key.id(), from, nonce);
            }
        }

        fn run(&mut self, span: Duration) {
            let end = self.now + span;
            loop {
                while let Some((to, payload)) = self.node.poll_transmit() {
                    self.answer(to, &payload);
                }
                while let Some(event) = self.node.poll_event() {
                    self.events.push(event);
                }
                match self.node.next_timeout().filter(|next| *next <= end) {
                    Some(next) => {
                        self.now = self.now.max(next);
                        self.node.handle_timeout(self.now);
                        self.wakes += 1;
                        let waited_for = self.node.dialers_waited_for();
                        self.most_waited_for = self.most_waited_for.max(waited_for);
                    }
                    None => break,
                }
            }
            self.now = end;
        }
    }

    fn header(key: NodeKey, transaction: u64) -> Header {
        Header {
            kind: Kind::Ping,
            direction: Direction::Request,
            client_mode: false,
            families: Families::default(),
            shortened: false,
            transaction,
            key,
            token: Token([9; 8]),
        }
    }

    #[test]
    fn two_public_networks_end_client_mode_and_one_does_not() {
        let mut scene = Scene::new();
        scene.meet("192.0.2.1:7", Manner::Dials);
        scene.meet("192.0.2.2:7", Manner::Dials);
        scene.run(Duration::from_secs(30));
        assert!(scene.node.is_client_mode(), "both are of one network");
        assert_eq!(scene.asked.len(), 1, "the second could prove nothing new");
        scene.meet("198.51.100.1:7", Manner::Dials);
        assert!(!scene.node.is_client_mode());
        assert!(scene.events.contains(&Event::ClientMode(false)));
    }

    #[test]
    fn peers_that_answer_dial_back_with_nothing_do_not_keep_others_from_being_asked() {
        let mut scene = Scene::new();
        for n in 0..DIAL_BACKS_WAITING_MAX {
            scene.meet(&format!("10.0.0.{n}:7"), Manner::Forgets);
        }
        assert_eq!(scene.asked.len(), DIAL_BACKS_WAITING_MAX);
        scene.meet("10.0.1.1:7", Manner::Dials);
        scene.run(Duration::from_secs(5));
        assert!(!scene.node.is_client_mode());
    }

    #[test]
    fn peers_whose_turn_has_come_are_asked_in_turn_and_wake_nobody_meanwhile() {
        let mut scene = Scene::new();
        let count = DIALERS_MAX as u32;
        for n in 0..count {
            scene.meet(&format!("10.0.0.{n}:7"), Manner::Promises);
        }
        let rounds = count / DIAL_BACKS_WAITING_MAX as u32;
        scene.run(DIAL_BACK_WAIT * (rounds + 1));
        assert_eq!(scene.asked.len(), DIALERS_MAX);
        assert!(scene.most_waited_for <= DIAL_BACKS_WAITING_MAX);
        // A promise that is broken, and a pause that ends; and what the table wants.
        let wakes = 8 * count;
        assert!(scene.wakes < wakes, "{} times", scene.wakes);
    }

    #[test]
    fn many_addresses_of_one_network_leave_room_for_those_of_another() {
        for manner in [Manner::Dials, Manner::Promises] {
            let mut scene = Scene::new();
            for n in 1..=2 * DIALERS_MAX {
                scene.meet(&format!("192.0.2.{n}:7"), manner);
            }
            scene.run(Duration::from_secs(5));
            assert!(scene.node.reach.dialers.len() <= DIALERS_PER_NETWORK);
            scene.meet("198.51.100.1:7", Manner::Dials);
            scene.meet("203.0.113.1:7", Manner::Dials);
            scene.run(Duration::from_secs(5));
            assert!(!scene.node.is_client_mode());
            assert!(scene.node.reach.dialers.is_empty());
        }
    }

    #[test]
    fn peer_to_whom_nobody_can_connect_any_more_is_in_client_mode_again_until_somebody_can() {
        let mut scene = Scene::new();
        for n in 1..=6 {
            scene.meet(&format!("192.0.{n}.1:7"), Manner::Dials);
        }
        assert!(!scene.node.is_client_mode());
        scene.run(REACHABILITY_PERIOD * 2);
        let ended = |scene: &Scene| {
            let modes = scene.events.iter();
            let modes = modes.filter(|event| matches!(event, Event::ClientMode(_)));
            modes.cloned().collect::<Vec<Event>>()
        };
        assert_eq!(
            ended(&scene),
            [Event::ClientMode(false)],
            "a check that succeeds changes nothing"
        );
        for manner in [Manner::Refuses, Manner::Promises] {
            scene.events.clear();
            for peer in scene.peers.values_mut() {
                peer.1 = manner;
            }
            scene.run(REACHABILITY_PERIOD * 2);
            assert!(scene.node.is_client_mode());
            assert_eq!(ended(&scene), [Event::ClientMode(true)]);

            // They are forgotten one by one, and met again by the pings of the upkeep.
            scene.events.clear();
            for peer in scene.peers.values_mut() {
                peer.1 = Manner::Dials;
            }
            scene.run(REACHABILITY_PERIOD);
            assert!(!scene.node.is_client_mode());
            assert_eq!(ended(&scene), [Event::ClientMode(false)]);
        }
    }
}
