//! The dumps in strew-pack(5) are what this program writes, and reads.

use super::super::checkpoint::Checkpoint;
use super::super::PackId;
use super::crash::open_on;
use super::recorded::{Image, Wreck};
use crate::block::{Block, Form, Kind, Role};
use crate::id::hex;
use crate::store::{Hold, Pin, Store, Terms};
use std::rc::Rc;

/// The dumps of the page: lines of eight hexadecimal digits, two spaces, bytes. Each begins at 0.
fn dumps() -> Vec<Vec<u8>> {
    let page = include_str!("../../../../man/strew-pack.5");
    let mut dumps: Vec<Vec<u8>> = Vec::new();
    let mut is_star = false;
    for line in page.lines() {
        let Some((offset, rest)) = line.split_once("  ") else {
            is_star = line == "*";
            continue;
        };
        let Ok(offset) = usize::from_str_radix(offset, 16) else {
            continue;
        };
        if offset == 0 {
            dumps.push(Vec::new());
        }
        let dump = dumps.last_mut().expect("the first line has the offset 0");
        // A line with a star stands for lines of zero.
        assert!(offset == dump.len() || is_star, "the dump has no gaps");
        dump.resize(offset, 0);
        is_star = false;
        let bytes = rest.split_whitespace();
        dump.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
    }
    dumps
}

/// The lines of a dump, for whoever has to write it anew.
fn lines(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut is_zero = false;
    for (nth, row) in bytes.chunks(16).enumerate() {
        let was_zero = std::mem::replace(&mut is_zero, row == [0; 16]);
        if was_zero && is_zero {
            if !text.ends_with("*\n") {
                text += "*\n";
            }
            continue;
        }
        let row: Vec<String> = row.iter().map(|byte| hex(&[*byte])).collect();
        text += &format!("{:08x}  {}\n", nth * 16, row.join(" "));
    }
    text
}

fn block() -> Block {
    let kind = Kind {
        role: Role::Leaf,
        form: Form::Plain,
    };
    Block::new(kind, b"strew some seeds\n".to_vec()).expect("it fits")
}

const SECS: u64 = 1_700_000_000;

/// The pack of the page, and a checkpoint of it.
fn made() -> Image {
    let id = PackId(std::array::from_fn(|i| i as u8));
    let created = super::super::record::file_start(&id);
    let log = Rc::default();
    let mut store = open_on(&Image::of(&created), &log, 1 << 30);
    store.set_time(SECS);
    let block = block();
    let terms = Terms {
        hold: Hold::Kept,
        ..Terms::until(SECS + 30 * 86_400)
    };
    store.put(&block, terms).expect("room");
    let root = block.id();
    store.add_pin(Pin { root, len: 17 }).expect("room");
    store.release(&root, Hold::Kept);
    store.begin_commit().expect("a sound disk");
    store.remove_pin(&root).expect("room");
    store.begin_commit().expect("a sound disk");
    store.background.checkpoint_after = 1;
    while store.has_work() {
        store.work();
    }
    let ops = std::mem::take(&mut log.borrow_mut().ops);
    Wreck::new(&Image::of(&created), &ops).as_seen()
}

#[test]
fn dumps_of_the_manual_are_what_is_written_and_read() {
    let made = made();
    let side = &made.sides[0];
    let right = [lines(&made.pack), lines(side)].join("\n");
    let dumps = dumps();
    assert!(
        dumps == [made.pack.clone(), side.clone()],
        "it should say\n{right}"
    );
    let [pack, index] = &dumps[..] else {
        panic!("there are two dumps");
    };

    for sides in [[vec![], vec![]], [index.clone(), vec![]]] {
        let pack = pack.clone();
        let mut store = open_on(&Image { pack, sides }, &Rc::default(), 1 << 30);
        let block = block();
        assert!(store.check(&block.id()).is_some());
        assert_eq!(store.payload(&block.id()), Some(block.payload()));
        let terms = Terms::until(SECS + 30 * 86_400);
        assert_eq!(store.terms(&block.id()), Some(terms));
        assert_eq!(store.pins(), []);
    }
    let id = PackId(std::array::from_fn(|i| i as u8));
    let checkpoint = Checkpoint::decode(index, &id).expect("a sound one");
    assert_eq!((checkpoint.sequence, checkpoint.end), (1, 0x1180));
    assert_eq!(checkpoint.gaps, [(0x1098, 0x10e0)]);
}
