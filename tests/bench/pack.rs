//! Measures the pack alone, beside `dd`, in one run: what it costs to put and commit blocks, to open a pack of a
//! million records and find blocks in it, to keep small files, and to give space back. Beside a figure that has a
//! limit stands whether it is within it. Options: --runs N; --mib N, 0 for the last of these alone.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strew::block::{Block, Form, Kind, Role as BlockRole};
use strew::id::{BlockId, Point};
use strew::rng::Rng;
use strew::store::pack::{run_syncer, Allotment, DirLock, PackStore, Role, SYNC_COMMAND};
use strew::store::{Claim, Store, Terms};

const BLOCK: usize = 256 << 10;
const KIND: Kind = Kind {
    role: BlockRole::Leaf,
    form: Form::Encrypted,
};

/// The most that it should be: of the time that `dd` takes; of a small file's bytes; and of time.
const PUT_MAX: f64 = 1.2;
const WASTE_MAX: f64 = 6.0;
const OPENING_MAX: Duration = Duration::from_millis(300);
const SLICE_MAX: Duration = Duration::from_millis(5);

/// Whether a figure is within its limit.
fn verdict<T: PartialOrd>(figure: T, limit: T) -> &'static str {
    if figure <= limit {
        "ok"
    } else {
        "over"
    }
}

fn open(dir: &Path, capacity: u64) -> PackStore {
    let lock = DirLock::acquire(dir, Role::Serve).unwrap();
    let allotment = Allotment {
        capacity,
        min_free: 0,
    };
    PackStore::open(lock, allotment, [9; 32]).unwrap()
}

/// A block under an address of its own choice: hashing is left out.
fn block(rng: &mut Rng, payload: Vec<u8>) -> Block {
    Block::from_own_peer(BlockId(rng.bytes()), KIND, payload)
}

fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    quantile(values, 0.5)
}

fn quantile<T: Ord + Copy>(values: &mut [T], at: f64) -> T {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * at) as usize]
}

fn disk_usage(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap();
    let files = files.map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|it| it.blocks() * 512).sum()
}

/// Seconds that `dd` takes to write as much, and to sync it.
fn dd(dir: &Path, mib: usize) -> Duration {
    let path = dir.join("dd");
    let begun = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=256K", "conv=fdatasync"])
        .arg(format!("count={}", mib * 4))
        .arg(format!("of={}", path.display()))
        .stderr(Stdio::null())
        .status();
    let took = begun.elapsed();
    assert!(status.unwrap().success());
    fs::remove_file(path).unwrap();
    took
}

/// Puts and commits, alternating with `dd`, which writes the same number of bytes.
fn put_and_commit(runs: usize, mib: usize) {
    let mut rng = Rng::new([1; 32]);
    let mut payload = vec![0; BLOCK];
    for piece in payload.chunks_mut(32) {
        piece.copy_from_slice(&rng.bytes::<32>());
    }
    let (mut dds, mut puts) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let dir = tempfile::tempdir().unwrap();
        dds.push(dd(dir.path(), mib));
        let mut store = open(dir.path(), 64 << 30);
        let mut took = Duration::ZERO;
        for _ in 0..mib * 4 {
            let block = block(&mut rng, payload.clone());
            let begun = Instant::now();
            store.put(&block, Terms::default()).unwrap();
            took += begun.elapsed();
        }
        let begun = Instant::now();
        store.begin_commit().unwrap();
        puts.push(took + begun.elapsed());
    }
    let (dd, put) = (median(&mut dds), median(&mut puts));
    let ratio = put.as_secs_f64() / dd.as_secs_f64();
    println!(
        "put and commit {mib} MiB in blocks of 256 KiB: {:.2} s; dd bs=256K conv=fdatasync: {:.2} s; {ratio:.2} x, \
         at most {PUT_MAX}: {} (median of {runs})",
        put.as_secs_f64(),
        dd.as_secs_f64(),
        verdict(ratio, PUT_MAX)
    );
}

/// What a commit takes, by what was put since the last: where the store itself waits for the disk, and where another
/// process does, as in a peer; and what it then holds the event loop up for. In turns.
fn commits() {
    for (blocks, count) in [(1, 400), (16, 100)] {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut stores = dirs.each_ref().map(|dir| open(dir.path(), 64 << 30));
        stores[1].sync_beside().unwrap();
        let mut rng = Rng::new([2; 32]);
        let (mut times, mut held) = ([Vec::new(), Vec::new()], Vec::new());
        for nth in 0..2 * count {
            let store = &mut stores[nth % 2];
            for _ in 0..blocks {
                let block = block(&mut rng, vec![7; BLOCK]);
                store.put(&block, Terms::default()).unwrap();
            }
            let begun = Instant::now();
            store.begin_commit().unwrap();
            if nth % 2 == 1 {
                held.push(begun.elapsed());
            }
            store.commit().unwrap();
            times[nth % 2].push(begun.elapsed());
        }
        let [inside, beside] = &mut times;
        for (what, times) in [
            ("waited for", inside),
            ("beside", beside),
            ("beside, for the loop", &mut held),
        ] {
            println!(
                "a commit of {blocks} x 256 KiB, {what}: {:.2} ms at p50, {:.2} ms at p99",
                median(times).as_secs_f64() * 1e3,
                quantile(times, 0.99).as_secs_f64() * 1e3
            );
        }
    }
}

/// Times in which a store says that it has a block, one of these at a time. It reads the block's header.
fn lookups(store: &PackStore, ids: &[BlockId], rng: &mut Rng) {
    let mut times: Vec<Duration> = (0..100_000)
        .map(|_| {
            let id = ids[rng.below(ids.len() as u64) as usize];
            let begun = Instant::now();
            assert!(std::hint::black_box(store.has(&id)));
            begun.elapsed()
        })
        .collect();
    println!(
        "has, with the read of the header, of {} blocks: {:?} at p50, {:?} at p99 (what the index alone takes is \
         told by cargo test --release --lib million)",
        ids.len(),
        median(&mut times),
        quantile(&mut times, 0.99)
    );
}

/// A million records: opened by a checkpoint, and without.
fn openings(runs: usize) {
    const COUNT: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new([3; 32]);
    let mut store = open(dir.path(), 64 << 30);
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        let payload = rng.bytes::<8>().to_vec();
        let block = block(&mut rng, payload);
        store.put(&block, Terms::default()).unwrap();
        ids.push(block.id());
    }
    store.close();
    lookups(&store, &ids, &mut rng);
    drop(store);
    let opened = |with: bool| {
        let mut times: Vec<Duration> = (0..runs)
            .map(|_| {
                if !with {
                    for name in ["index.0", "index.1"] {
                        let _ = fs::remove_file(dir.path().join(name));
                    }
                }
                let begun = Instant::now();
                let store = open(dir.path(), 64 << 30);
                let took = begun.elapsed();
                assert_eq!(store.usage().blocks, COUNT);
                assert_eq!(store.opened().has_checkpoint, with);
                took
            })
            .collect();
        median(&mut times)
    };
    let (with, without) = (opened(true), opened(false).as_secs_f64());
    let rate = COUNT as f64 / without / 1e6;
    println!(
        "open a pack of a million records: {:.3} s by its checkpoint, at most {} s: {}; {without:.2} s by a full scan \
         from the page cache, which reads {rate:.1} million headers a second (median of {runs})",
        with.as_secs_f64(),
        OPENING_MAX.as_secs_f64(),
        verdict(with, OPENING_MAX)
    );
}

/// What files of 10 KiB take beyond their bytes, each in its root, checkpoints included.
fn small_files(mib: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new([4; 32]);
    let mut store = open(dir.path(), 64 << 30);
    let count = (mib << 20) / 10_240;
    // Format, flags, length, and the proof of the key.
    for _ in 0..count {
        let block = block(&mut rng, vec![7; 10_240 + 26]);
        store.put(&block, Terms::default()).unwrap();
    }
    store.begin_commit().unwrap();
    while store.has_work() {
        store.work();
    }
    store.close();
    let taken = disk_usage(dir.path());
    let used = store.usage().used_bytes;
    let files = (count * 10_240) as f64;
    let [taken, used] = [taken, used].map(|bytes| (bytes as f64 / files - 1.0) * 100.0);
    println!(
        "{count} files of 10 KiB: {taken:.2} % of their bytes more on the disk, at most {WASTE_MAX} %: {}; {used:.2} % \
         more of the allotment: {}",
        verdict(taken, WASTE_MAX),
        verdict(used, WASTE_MAX)
    );
}

/// Slices of work in the background, in a full pack that drops small and large blocks for others.
fn slices() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new([5; 32]);
    let capacity = 128 << 20;
    let mut store = open(dir.path(), capacity);
    let claim = Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    };
    let (mut times, mut rooms) = (Vec::new(), Vec::new());
    for n in 0..30_000u32 {
        let len = if n % 50 == 0 { BLOCK } else { 10_266 };
        let block = block(&mut rng, vec![n as u8; len]);
        let begun = Instant::now();
        store.make_room(len as u32, &claim).unwrap();
        rooms.push(begun.elapsed());
        store.put(&block, Terms::default()).unwrap();
        if n % 20 == 0 {
            // A commit of its own, so that the slices are not charged with what was put.
            store.begin_commit().unwrap();
        }
        while n % 20 == 0 && store.has_work() {
            let begun = Instant::now();
            store.work();
            times.push(begun.elapsed());
        }
        assert!(store.usage().used_bytes <= capacity);
    }
    rooms.retain(|took| *took > Duration::from_micros(100));
    let longest = quantile(&mut times, 1.0);
    let limit = format!(
        ", at most {} ms: {}",
        SLICE_MAX.as_millis(),
        verdict(longest, SLICE_MAX)
    );
    for (what, times, limit) in [
        ("slices of work", &mut times, &limit[..]),
        ("times that blocks went, with a commit", &mut rooms, ""),
    ] {
        println!(
            "{} {what} in a full pack of {} MiB: {:.2} ms at p50, {:.2} ms at p99, {:.2} ms the longest{limit}",
            times.len(),
            capacity >> 20,
            median(times).as_secs_f64() * 1e3,
            quantile(times, 0.99).as_secs_f64() * 1e3,
            quantile(times, 1.0).as_secs_f64() * 1e3
        );
    }
}

/// What takes a walk over a million blocks, in slices: nothing may hold the event loop up for 5 ms. In memory, so that
/// syncs cost nothing: those are measured above.
fn slices_at_a_million() {
    const COUNT: u64 = 1_000_000;
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let mut rng = Rng::new([6; 32]);
    let mut store = open(dir.path(), 64 << 30);
    let terms = Terms::until(1000 * 3600);
    let ids: Vec<BlockId> = (0..COUNT + COUNT / 4)
        .map(|_| {
            let payload = rng.bytes::<8>().to_vec();
            let block = block(&mut rng, payload);
            store.put(&block, terms).unwrap();
            block.id()
        })
        .collect();
    // As many gaps as there may be, of which no two touch, before a checkpoint.
    for id in ids.iter().step_by(5) {
        store.remove(id).unwrap();
    }
    store.begin_commit().unwrap();
    let mut rows: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut time = |what: &'static str, store: &mut PackStore, f: &dyn Fn(&mut PackStore)| {
        let begun = Instant::now();
        f(store);
        let took = begun.elapsed();
        match rows.iter_mut().find(|row| row.0 == what) {
            Some(row) => row.1.push(took),
            None => rows.push((what, vec![took])),
        }
    };
    while store.has_work() {
        time("a checkpoint", &mut store, &|store| store.work());
    }
    for _ in 0..3 {
        time("a marking begun", &mut store, &|store| {
            store.begin_marking()
        });
        while store.has_work() {
            time("a marking", &mut store, &|store| store.work());
        }
        for id in ids.iter().skip(1).step_by(50) {
            store.mark(id);
        }
        time("a marking ended", &mut store, &|store| store.end_marking());
    }
    // All terms change, and are said again.
    for hours in [2000, 4000, 6000] {
        for few in ids.chunks(256) {
            time("an offer of blocks that are here", &mut store, &|store| {
                for id in few {
                    store.keep_until(id, hours);
                }
            });
            time("a commit of their terms", &mut store, &|store| {
                store.begin_commit().unwrap();
            });
        }
        while store.has_work() {
            time("terms said again", &mut store, &|store| store.work());
        }
    }
    store.close();
    drop(store);
    let claim = Claim {
        home: Point([0; 32]),
        newcomer: None,
        is_in_use: &|_| false,
    };
    let mut store = open(dir.path(), 1 << 30);
    store.begin_marking();
    store.end_marking();
    for hour in 1..4 {
        store.set_time(hour * 3600);
        while store.has_work() {
            time("a search for what has expired", &mut store, &|store| {
                store.work()
            });
        }
    }
    for _ in 0..100 {
        time("a round of drops", &mut store, &|store| {
            store.shrink(&claim).unwrap();
        });
        while store.has_work() {
            time("work after it", &mut store, &|store| store.work());
        }
    }
    println!("slices at a million blocks:");
    for (what, mut times) in rows {
        println!(
            "  {what}: {} slices, {:.2} ms at p99, {:.2} ms at most",
            times.len(),
            quantile(&mut times, 0.99).as_secs_f64() * 1e3,
            quantile(&mut times, 1.0).as_secs_f64() * 1e3
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == SYNC_COMMAND) {
        return run_syncer().unwrap();
    }
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.map_or(default, |at| args[at + 1].parse().unwrap())
    };
    let (runs, mib) = (option("--runs", 5), option("--mib", 1024));
    if mib > 0 {
        put_and_commit(runs, mib);
        commits();
        openings(runs);
        small_files(mib);
    }
    slices();
    slices_at_a_million();
}
