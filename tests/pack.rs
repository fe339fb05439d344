//! The pack store from outside: its contract, its allotment, and its format as another program reads it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use strew::block::{Block, Form, Kind, Role as BlockRole};
use strew::id::Point;
use strew::store::pack::{Allotment, DirLock, LockError, PackStore, Role};
use strew::store::{Claim, Hold, Pin, Put, Sequence, Shrunk, Store, StoreError, Terms, Usage};

const CAPACITY: u64 = 4 << 20;
/// More slices of work than so small a pack ever has.
const WORK_MAX: usize = 100_000;

/// Where the first record lies.
const RECORDS_AT: usize = 4160;

const TERMS: Terms = Terms {
    expires: 50,
    hold: Hold::Free,
};

fn open(dir: &Path, capacity: u64) -> PackStore {
    let lock = DirLock::acquire(dir, Role::Serve).unwrap();
    let allotment = Allotment {
        capacity,
        min_free: 0,
    };
    PackStore::open(lock, allotment, [42; 32]).unwrap()
}

/// A block of this length, unlike those of other numbers.
fn block(n: u32, len: usize) -> Block {
    let mut payload = vec![n as u8; len];
    payload[..4].copy_from_slice(&n.to_be_bytes());
    let kind = Kind {
        role: [BlockRole::Leaf, BlockRole::Node, BlockRole::Root][n as usize % 3],
        form: [Form::Plain, Form::Encrypted][n as usize % 2],
    };
    Block::new(kind, payload).unwrap()
}

fn blocks() -> Vec<Block> {
    [4, 7, 8, 9, 4096, 100_000, 262_143, 262_144]
        .into_iter()
        .enumerate()
        .map(|(n, len)| block(n as u32, len))
        .collect()
}

fn is_served(store: &mut PackStore, block: &Block) -> bool {
    store.check(&block.id()) == Some((block.kind(), block.payload().len() as u32))
        && store.payload(&block.id()) == Some(block.payload())
}

/// Bytes that a directory takes on its file system, itself included, as `du` counts them.
fn disk_usage(dir: &Path) -> u64 {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .chain([dir.to_path_buf()])
        .map(|path| path.metadata().unwrap().blocks() * 512)
        .sum()
}

/// What the independent reader says of a pack, and its exit status; `None` where there is no Python.
fn read_independently(pack: &Path) -> Option<(String, i32)> {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pack_reader.py");
    let Ok(output) = Command::new("python3").arg(reader).arg(pack).output() else {
        println!("skipped: python3 not found");
        return None;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    let code = output.status.code().unwrap();
    assert!(
        output.stderr.is_empty(),
        "{:?}",
        String::from_utf8(output.stderr)
    );
    Some((said, code))
}

#[test]
fn reopening_gives_back_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), CAPACITY);
    for (n, block) in blocks().iter().enumerate() {
        let sequence = Sequence(n as u64 + 1);
        assert_eq!(
            store.put(block, Terms::default()).unwrap(),
            Put::Written(sequence)
        );
        assert_eq!(
            store.put(block, Terms::default()).unwrap(),
            Put::Had(sequence)
        );
        assert!(is_served(&mut store, block), "before it is durable, too");
    }
    assert_eq!(store.poll_commit().unwrap(), Sequence(0));
    store.begin_commit().unwrap();
    assert_eq!(store.poll_commit().unwrap(), Sequence(8));
    assert_eq!(store.uncommitted(), 0);
    let usage = store.usage();
    drop(store);

    let mut store = open(dir.path(), CAPACITY);
    let held = |usage: Usage| (usage.blocks, usage.held);
    assert_eq!(held(store.usage()), held(usage));
    assert_eq!(store.opened().records, 8);
    assert_eq!(
        (store.opened().cut_bytes, store.opened().damaged.len()),
        (0, 0)
    );
    for block in blocks() {
        assert!(is_served(&mut store, &block));
        assert_eq!(
            store.put(&block, Terms::default()).unwrap(),
            Put::Had(Sequence(0)),
            "durable"
        );
    }
    let mode = dir.path().join("pack").metadata().unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn second_opening_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), CAPACITY);
    match DirLock::acquire(dir.path(), Role::Private) {
        Err(LockError::Held { pid, role }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert_eq!(role, Some(Role::Serve));
        }
        other => panic!("expected a held lock, got {other:?}"),
    }
    drop(store);
    open(dir.path(), CAPACITY);
}

#[test]
fn directory_never_takes_more_than_its_allotment() {
    for len in [4, 3000, 4032, 4033, 40_000, 262_144] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), CAPACITY);
        let mut n = 0;
        let error = loop {
            match store.put(&block(n, len), Terms::default()) {
                Ok(_) => n += 1,
                Err(error) => break error,
            }
            assert!(store.usage().used_bytes <= CAPACITY);
        };
        assert!(matches!(error, StoreError::Full { capacity: CAPACITY }));
        assert!(error.is_full() && error.to_string().contains("--capacity"));
        assert!(n >= 13, "most of the allotment is of use: {n} of {len}");
        store.begin_commit().unwrap();
        assert!(disk_usage(dir.path()) <= CAPACITY);
        let before = dir.path().join("pack").metadata().unwrap().len();
        assert!(matches!(
            store.put(&block(0, len), Terms::default()),
            Ok(Put::Had(_))
        ));
        drop(store);

        // A smaller allotment takes no more, and keeps what is there until some of it is told to go.
        let mut store = open(dir.path(), CAPACITY / 2);
        assert_eq!(store.usage().blocks, u64::from(n));
        let refused = store.put(&block(n, len), Terms::default());
        assert!(matches!(refused, Err(StoreError::Full { .. })));
        let after = dir.path().join("pack").metadata().unwrap().len();
        assert_eq!(before, after);
        let claim = Claim {
            home: Point([0x55; 32]),
            newcomer: None,
            is_in_use: &|_| false,
        };
        for _ in 0..WORK_MAX {
            if !store.is_overfull() {
                break;
            }
            match store.has_work() {
                true => store.work(),
                false => assert_eq!(store.shrink(&claim).unwrap(), Shrunk::Some),
            }
        }
        assert!(store.usage().used_bytes <= CAPACITY / 2);
        assert!(disk_usage(dir.path()) <= CAPACITY / 2);
    }
}

#[test]
fn overfilled_pack_drops_blocks_gives_their_space_back_and_never_grows() {
    for len in [300, 3000, 10_300, 40_000, 262_144] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), CAPACITY);
        let claim = Claim {
            home: Point([0x55; 32]),
            newcomer: None,
            is_in_use: &|_| false,
        };
        let count = (3 * CAPACITY / len as u64).min(4000) as u32;
        let mut blocks_held = 0;
        for n in 0..count {
            let block = block(n, len);
            store.make_room(len as u32, &claim).unwrap();
            store.put(&block, TERMS).unwrap();
            if store.has_work() {
                store.work();
            }
            let used = store.usage().used_bytes;
            assert!(used <= CAPACITY, "{used} of {CAPACITY} with {n} of {len}");
            if n % 16 == 0 || len > 10_000 {
                let taken = disk_usage(dir.path());
                assert!(taken <= CAPACITY, "{taken} of {CAPACITY} with {n} of {len}");
            }
            blocks_held = store.usage().blocks;
        }
        let payload = blocks_held * len as u64;
        let least = if len > 10_000 { CAPACITY / 2 } else { 0 };
        assert!(payload >= least, "{payload} bytes of {len} are held");
        store.close();
        assert!(disk_usage(dir.path()) <= CAPACITY);
        drop(store);
        let mut store = open(dir.path(), CAPACITY);
        assert_eq!(
            store.opened().has_checkpoint,
            count >= 512,
            "{len} {count} {:?}",
            store.opened()
        );
        assert_eq!(store.usage().blocks, blocks_held);
        let held: Vec<Block> = (0..count).map(|n| block(n, len)).collect();
        let served = held.iter().filter(|block| is_served(&mut store, block));
        assert_eq!(served.count() as u64, blocks_held);
    }
}

#[test]
fn independent_reader_agrees_on_sound_and_damaged_packs() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), CAPACITY);
    store.set_time(1_700_000_000);
    let mut expected = String::new();
    for block in blocks() {
        store.put(&block, TERMS).unwrap();
        let role = ["", "leaf", "node", "root"][usize::from(block.kind().to_byte() & 3)];
        let star = ["", "*"][usize::from(block.kind().form == Form::Encrypted)];
        let len = block.payload().len();
        expected += &format!("{} {role}{star} {len} 1700000000 50 -\n", block.id());
    }
    store.begin_commit().unwrap();
    drop(store);
    let path = dir.path().join("pack");
    let Some(answer) = read_independently(&path) else {
        return;
    };
    assert_eq!(answer, (expected.clone(), 0));

    // One bit of the second record's header, then one of its payload, behind 72 bytes of the first record.
    let whole = fs::read(&path).unwrap();
    for at in [RECORDS_AT + 72 + 20, RECORDS_AT + 72 + 64] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut lines: Vec<&str> = expected.lines().collect();
        lines.remove(1);
        let second = RECORDS_AT as u64 + 72;
        let damage = format!("damaged: 72 bytes at {second}");
        lines.push(&damage);
        let answer = read_independently(&path).unwrap();
        assert_eq!(answer, (lines.join("\n") + "\n", 6));
        assert_eq!(open(dir.path(), CAPACITY).opened().damaged, [(second, 72)]);
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(read_independently(&path).unwrap().1, 6);
    fs::write(&path, &whole[1..]).unwrap();
    assert_eq!(read_independently(&path).unwrap().1, 6);
    let mut other_header = whole;
    other_header[30] ^= 1;
    fs::write(&path, &other_header).unwrap();
    assert_eq!(read_independently(&path), Some((expected, 0)));
}

#[test]
fn independent_reader_agrees_on_what_was_removed_and_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), CAPACITY);
    let blocks = blocks();
    for block in &blocks {
        store.put(block, TERMS).unwrap();
    }
    let kept = Terms {
        expires: 90,
        hold: Hold::Kept,
    };
    store.put(&blocks[0], kept).unwrap();
    for gone in [&blocks[5], &blocks[6], &blocks[2]] {
        assert!(store.remove(&gone.id()).unwrap());
    }
    for pinned in &blocks[..2] {
        let root = pinned.id();
        store.add_pin(Pin { root, len: 99 }).unwrap();
    }
    assert!(store.remove_pin(&blocks[0].id()).unwrap());
    store.begin_commit().unwrap();
    for _ in 0..WORK_MAX {
        if store.has_work() {
            store.work();
        }
    }
    assert!(!store.has_work());
    store.put(&blocks[6], TERMS).unwrap();
    store.begin_commit().unwrap();
    drop(store);
    let Some((said, code)) = read_independently(&dir.path().join("pack")) else {
        return;
    };
    assert_eq!(code, 0, "{said}");
    let found: Vec<&str> = said.lines().map(|line| &line[..64]).collect();
    let held = [0, 1, 3, 4, 7, 6].map(|n: usize| blocks[n].id().to_string());
    let pin = format!("pin {} 99", blocks[1].id());
    assert!(found.iter().take(6).eq(held.iter()), "{said}");
    assert_eq!(said.lines().last(), Some(&pin[..]));
    assert!(
        said.lines().next().unwrap().ends_with(" 0 90 kept"),
        "{said}"
    );
}

#[test]
fn independent_reader_reads_the_dump_of_the_manual() {
    let page = include_str!("../man/strew-pack.5");
    let mut dump: Vec<u8> = Vec::new();
    for line in page.lines() {
        let Some((offset, bytes)) = line.split_once("  ").filter(|it| it.0.len() == 8) else {
            continue;
        };
        let offset = usize::from_str_radix(offset, 16).unwrap();
        if offset == 0 && !dump.is_empty() {
            // The second dump is not of a pack.
            break;
        }
        // Lines of zero are left out.
        dump.resize(offset, 0);
        let bytes = bytes.split_whitespace();
        dump.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack");
    fs::write(&path, dump).unwrap();
    let mut store = open(dir.path(), CAPACITY);
    let kind = Kind {
        role: BlockRole::Leaf,
        form: Form::Plain,
    };
    let block = Block::new(kind, b"strew some seeds\n".to_vec()).unwrap();
    assert!(is_served(&mut store, &block));
    if let Some(answer) = read_independently(&path) {
        assert_eq!(
            answer,
            (format!("{} leaf 17 1700000000 472943 -\n", block.id()), 0)
        );
    }
}
