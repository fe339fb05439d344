//! What a peer answers to others, frame by frame, when its store cannot write: never that a block is stored that is
//! not durable.

use crate::harness::*;
use crate::injected::inject;
use crate::space::{free_space, mount};
use crate::talker::Talker;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use strew::block::{Block, Form, Kind, Role};
use strew::id::BlockId;
use strew::rng::Rng;
use strew::wire::frame::{Answer, Frame, Offered};

const KIND: Kind = Kind {
    role: Role::Leaf,
    form: Form::Encrypted,
};

/// So many blocks of this length, others for each seed.
fn blocks(count: u64, len: usize, seed: u64) -> Vec<Block> {
    let payload = |n: u64| random_bytes(len, seed * 1000 + n);
    let block = |n: u64| Block::new(KIND, payload(n)).expect("of legal length");
    (0..count).map(block).collect()
}

/// A peer that takes blocks, and what it is told.
struct Pair {
    lab: Lab,
    peer: Serve,
    talker: Talker,
}

/// Starts a peer, and has somebody connect back to it, as any visitor does when asked.
fn start(lab: &Lab, name: &str, args: &[&str]) -> Serve {
    let peer = lab.serve(name, args);
    let nowhere = "0".repeat(64);
    let visit = ["fetch", "-d", "visitor", "-p", &peer.addr(), &nowhere];
    await_true("a peer that takes blocks", || {
        lab.strew(visit).run();
        lab.status(&peer.dir, "mode") == "peer"
    });
    peer
}

impl Pair {
    fn new() -> Pair {
        let lab = Lab::new();
        let peer = start(&lab, "peer", &[]);
        Pair::of(lab, peer)
    }

    fn of(lab: Lab, peer: Serve) -> Pair {
        let talker = Talker::new(peer.addr, &mut Rng::new([7; 32]));
        Pair { lab, peer, talker }
    }

    /// Puts all of these before anything is heard. What was stored, and why the others were refused: each is answered
    /// once.
    fn put(&mut self, blocks: &[Block]) -> (BTreeSet<BlockId>, BTreeMap<BlockId, Answer>) {
        for block in blocks {
            let put = Frame::Put {
                id: block.id(),
                kind: KIND,
                lifetime: 86_400,
                copies: 0,
                payload: block.payload().to_vec(),
            };
            assert!(self.talker.say(&put), "it is there");
        }
        let (mut stored, mut refused) = (BTreeSet::new(), BTreeMap::new());
        let mut left = blocks.len();
        self.talker.hear(Instant::now() + LIMIT, |frame| {
            match frame {
                Frame::Stored { id, .. } => assert!(stored.insert(id)),
                Frame::Refused { id, answer } => assert!(refused.insert(id, answer).is_none()),
                _ => return true,
            }
            left -= 1;
            left > 0
        });
        let ids: BTreeSet<BlockId> = blocks.iter().map(Block::id).collect();
        let answered = stored.iter().chain(refused.keys()).copied();
        assert_eq!(answered.collect::<BTreeSet<BlockId>>(), ids);
        assert!(refused.keys().all(|id| !stored.contains(id)), "one answer");
        (stored, refused)
    }

    fn offer(&mut self, blocks: &[Block]) -> Vec<Answer> {
        let lifetime = 86_400;
        let offered = blocks.iter().map(Block::id);
        let offered = offered.map(|id| Offered { id, lifetime }).collect();
        assert!(self.talker.say(&Frame::Offer(offered)), "it is there");
        let mut answers = Vec::new();
        self.talker.hear(Instant::now() + LIMIT, |frame| {
            if let Frame::Want(list) = frame {
                answers = list;
            }
            answers.is_empty()
        });
        assert_eq!(answers.len(), blocks.len(), "not answered");
        answers
    }

    /// Which of these it gives; the others it says are absent.
    fn get(&mut self, blocks: &[Block]) -> BTreeSet<BlockId> {
        for block in blocks {
            assert!(self.talker.say(&Frame::Get(block.id())), "it is there");
        }
        let (mut given, mut left) = (BTreeSet::new(), blocks.len());
        self.talker.hear(Instant::now() + LIMIT, |frame| {
            match frame {
                Frame::Block { id, kind, payload } => {
                    Block::verify(id, kind, payload).expect("the right bytes");
                    given.insert(id);
                }
                Frame::Absent(_) => {}
                _ => return true,
            }
            left -= 1;
            left > 0
        });
        assert_eq!(left, 0, "not answered");
        given
    }

    fn start_again(self) -> Pair {
        self.peer.stop();
        let peer = start(&self.lab, "peer", &[]);
        Pair::of(self.lab, peer)
    }

    fn end(self) {
        self.peer.stop();
    }
}

#[test]
fn full_peer_answers_while_others_go_for_what_comes() {
    const SYNC: Duration = Duration::from_secs(1);
    let lab = Lab::new();
    let peer = start(&lab, "peer", &["--capacity", "64M"]);
    let mut pair = Pair::of(lab, peer);
    // A hundred mebibytes: some have gone for others.
    let (stored, _) = pair.put(&blocks(400, 256 << 10, 1));
    let kept: usize = pair.lab.status(&pair.peer.dir, "blocks").parse().unwrap();
    assert!(stored.len() > kept && kept > 200, "{kept}");
    let what = format!("fdatasync:delay_exit={}", SYNC.as_micros());
    let Some(injection) = inject(&pair.peer, &what) else {
        return;
    };
    let (lab, dir) = (Lab::new(), pair.peer.dir.clone());
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        let put = scope.spawn(|| pair.put(&blocks(40, 256 << 10, 2)));
        while !put.is_finished() {
            let asked = Instant::now();
            lab.status(&dir, "mode");
            longest = longest.max(asked.elapsed());
        }
        let (stored, _) = put.join().expect("it is answered");
        assert!(stored.len() >= 20, "{}: others must go", stored.len());
    });
    injection.end();
    assert!(longest < SYNC / 2, "{longest:?}");
    pair.end();
}

fn ids(blocks: &[Block]) -> BTreeSet<BlockId> {
    blocks.iter().map(Block::id).collect()
}

#[test]
fn what_could_not_be_synced_is_refused_and_what_was_is_served_on() {
    let mut pair = Pair::new();
    let older = blocks(6, 3000, 1);
    assert_eq!(pair.put(&older).0, ids(&older));
    let Some(injection) = inject(&pair.peer, "fdatasync:error=EIO") else {
        return;
    };
    let fresh = blocks(6, 3000, 2);
    let (stored, refused) = pair.put(&fresh);
    assert!(stored.is_empty(), "{stored:?}");
    assert!(
        refused.values().all(|it| *it == Answer::Failed),
        "{refused:?}"
    );
    injection.end();
    // It is not tried again, though it might succeed now.
    assert_eq!(pair.lab.status(&pair.peer.dir, "read_only"), "1");
    let later = blocks(3, 3000, 3);
    let (stored, refused) = pair.put(&later);
    assert!(stored.is_empty(), "{stored:?}");
    assert!(
        refused.values().all(|it| *it == Answer::Failed),
        "{refused:?}"
    );
    // Nor is anything promised of what is here: its lifetime cannot be made longer.
    for offered in [&later, &fresh, &older] {
        assert!(pair.offer(offered).iter().all(|it| *it == Answer::Failed));
    }
    let all = [&older[..], &fresh, &later].concat();
    assert_eq!(pair.get(&all), ids(&older));
    let mut pair = pair.start_again();
    assert_eq!(pair.get(&all), ids(&older));
    assert_eq!(pair.put(&fresh).0, ids(&fresh));
    pair.end();
}

#[test]
fn disk_without_room_is_answered_as_full_until_there_is_some() {
    for what in ["pwritev:error=ENOSPC", "fallocate:error=ENOSPC"] {
        let mut pair = Pair::new();
        let older = blocks(2, 200_000, 1);
        assert_eq!(pair.put(&older).0, ids(&older));
        let Some(injection) = inject(&pair.peer, what) else {
            return;
        };
        // More than is set aside at once.
        let fresh = blocks(30, 262_144, 2);
        let (stored, refused) = pair.put(&fresh);
        assert!(!refused.is_empty(), "{what}");
        let are_full = refused.values().all(|it| *it == Answer::Full);
        assert!(are_full, "{what}: {refused:?}");
        assert!(what.contains("fallocate") || stored.is_empty(), "{what}");
        let all = [&older[..], &fresh].concat();
        let held: BTreeSet<BlockId> = ids(&older).union(&stored).copied().collect();
        assert_eq!(pair.get(&all), held, "{what}");
        let said = pair.lab.status(&pair.peer.dir, "refused_full");
        assert_eq!(said, refused.len().to_string());
        injection.end();
        assert_eq!(pair.lab.status(&pair.peer.dir, "read_only"), "0");
        let (stored, refused) = pair.put(&fresh);
        assert_eq!(stored, ids(&fresh), "{what}: {refused:?}");
        pair.end();
    }
}

#[test]
fn what_is_to_be_left_free_is_answered_as_full() {
    let lab = Lab::new();
    let Some(disk) = mount(&lab, "tmpfs", "size=16M") else {
        return;
    };
    let dir = disk.path.join("peer");
    let name = dir.to_str().expect("text");
    let args = ["--capacity", "64M", "--min-free", "9M"];
    let peer = start(&lab, name, &args);
    let mut pair = Pair::of(lab, peer);
    let fresh = blocks(40, 262_144, 3);
    let (stored, refused) = pair.put(&fresh);
    assert!(stored.len() > 10, "{} stored", stored.len());
    assert!(!refused.is_empty());
    assert!(
        refused.values().all(|it| *it == Answer::Full),
        "{refused:?}"
    );
    assert!(free_space(&disk.path) >= 9 << 20);
    assert_eq!(pair.get(&fresh), stored);
    pair.end();
}
