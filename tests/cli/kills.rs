//! What a peer has acknowledged is there after it was killed, whenever that was.
//!
//! Environment: `STREW_TORTURE_KILLS`, how often it is killed (default 50); `STREW_TORTURE_SEED`, a number that
//! decides what it is given and when it is killed.

use crate::harness::*;
use crate::talker::Talker;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use strew::block::{Block, Form, Kind, Role};
use strew::id::BlockId;
use strew::rng::Rng;
use strew::sys::wait_for;
use strew::wire::frame::Frame;

/// Blocks put in a round at most: more than a peer stores before it is killed.
const PUTS: usize = 400;

/// A peer is killed so long after it was given its first block at most.
const KILL_AFTER_MAX_MICROS: u64 = 40_000;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

#[test]
fn killed_peer_has_what_it_acknowledged_and_nothing_else() {
    let kills = number("STREW_TORTURE_KILLS", 50);
    let seed_number = number("STREW_TORTURE_SEED", 1);
    println!("STREW_TORTURE_KILLS={kills} STREW_TORTURE_SEED={seed_number}");
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&seed_number.to_be_bytes());
    let mut rng = Rng::new(seed);
    let lab = Lab::new();
    let nowhere = "0".repeat(64);
    let start = || {
        let peer = lab.serve("peer", &[]);
        // It takes blocks when somebody has connected back to it: any visitor does that when asked. Another peer
        // that stays would do it only so often.
        let visit = ["fetch", "-d", "visitor", "-p", &peer.addr(), &nowhere];
        await_true("a peer that takes blocks", || {
            lab.strew(visit).run();
            lab.status(&peer.dir, "mode") == "peer"
        });
        peer
    };
    let mut put: BTreeMap<BlockId, Block> = BTreeMap::new();
    let mut acknowledged: BTreeSet<BlockId> = BTreeSet::new();
    let mut hit = 0;
    let mut peer = start();
    for round in 0..kills {
        let mut talker = Talker::new(peer.addr, &mut rng);
        let kill_at = Instant::now() + Duration::from_micros(rng.below(KILL_AFTER_MAX_MICROS));
        let mut fresh = BTreeSet::new();
        for _ in 0..PUTS {
            let len = match rng.below(100) {
                0 => 262_144,
                _ => 1 + rng.below(4096) as usize,
            };
            let bytes = random_bytes(len, rng.next_u64());
            let kind = Kind {
                role: Role::Leaf,
                form: Form::Encrypted,
            };
            let block = Block::new(kind, bytes.clone()).expect("of legal length");
            let id = block.id();
            put.insert(id, block);
            if Instant::now() >= kill_at
                || !talker.say(&Frame::Put {
                    id,
                    kind,
                    lifetime: 86_400,
                    copies: 0,
                    payload: bytes,
                })
            {
                break;
            }
            // What comes meanwhile is taken in passing.
            talker.hear(Instant::now() + Duration::from_micros(1), |frame| {
                if let Frame::Stored { id, .. } = frame {
                    fresh.insert(id);
                }
                true
            });
        }
        talker.hear(kill_at, |frame| {
            if let Frame::Stored { id, .. } = frame {
                fresh.insert(id);
            }
            true
        });
        peer.kill();
        // Acknowledgements that were on their way count, too.
        let gone = talker.hear(Instant::now() + LIMIT, |frame| {
            if let Frame::Stored { id, .. } = frame {
                fresh.insert(id);
            }
            true
        });
        assert!(gone, "the peer is dead");
        hit += u64::from(!fresh.is_empty());
        acknowledged.extend(&fresh);

        peer = start();
        let blocks = lab.number(&peer.dir, "blocks") as usize;
        assert!(blocks >= acknowledged.len() && blocks <= put.len());
        // All of them now and then, else those of this round.
        let wanted = match round % 10 == 9 || round + 1 == kills {
            true => acknowledged.clone(),
            false => fresh,
        };
        let mut talker = Talker::new(peer.addr, &mut rng);
        for chunk in wanted.iter().collect::<Vec<_>>().chunks(32) {
            for id in chunk {
                assert!(talker.say(&Frame::Get(**id)));
            }
            let mut left: BTreeSet<BlockId> = chunk.iter().map(|id| **id).collect();
            talker.hear(Instant::now() + LIMIT, |frame| {
                match frame {
                    Frame::Block { id, kind, payload } => {
                        let block = Block::verify(id, kind, payload).expect("the right bytes");
                        assert!(put.get(&id) == Some(&block), "it was put");
                        left.remove(&id);
                    }
                    Frame::Absent(id) => panic!("round {round}: {id} was acknowledged and is lost"),
                    _ => {}
                }
                !left.is_empty()
            });
            assert!(left.is_empty(), "round {round}: not given");
        }
    }
    assert!(
        hit * 2 > kills,
        "{hit} of {kills} kills hit a peer that had acknowledged something"
    );
    let page = std::fs::read_to_string(&peer.log).expect("a log");
    assert!(!page.contains("damaged"), "{page}");
    peer.stop();
}

#[test]
fn process_that_syncs_ends_in_silence_when_its_peer_is_killed() {
    let lab = Lab::new();
    let log = lab.path("log");
    for is_answered in [true, false] {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let mut run = lab.strew(["__sync"]);
        run.command.stdin(OwnedFd::from(theirs));
        run.command
            .stdout(File::create(lab.path("file")).expect("made"));
        run.command.stderr(File::create(&log).expect("made"));
        let mut syncer = run.start();
        match is_answered {
            // It is left unread.
            true => {
                ours.write_all(&[1]).expect("taken");
                assert!(
                    wait_for(ours.as_raw_fd(), true, false, Some(LIMIT))
                        .expect("waited")
                        .read
                );
            }
            false => {
                ours.shutdown(Shutdown::Read).expect("shut");
                ours.write_all(&[1]).expect("taken");
            }
        }
        drop(ours);
        let status = syncer.wait(LIMIT).expect("it ends");
        let said = std::fs::read_to_string(&log).expect("a log");
        assert_eq!(
            (status.code(), said.as_str()),
            (Some(0), ""),
            "answered: {is_answered}"
        );
    }
}
