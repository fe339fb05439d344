//! Files come back whole from blocks in any order, and nothing else does.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::block::cipher::{seal, BlockKey, Secret};
use crate::block::encode::Encoder;
use crate::block::tree::{self, Plaintext, LEAF_SIZE};
use crate::limits::LEAVES_AHEAD_MAX;
use crate::rng::Rng;

const FORMS: [Form; 2] = [Form::Plain, Form::Encrypted];
const LEAF: u64 = LEAF_SIZE as u64;
const WINDOW: usize = 8 * LEAF_SIZE;

/// Blocks by address, as a network would have them.
#[derive(Default)]
struct Blocks(BTreeMap<BlockId, Block>);

impl Blocks {
    /// Puts a file of these leaves' bytes.
    fn share<'a>(&mut self, form: Form, data: impl Iterator<Item = &'a [u8]>) -> Address {
        let mut encoder = Encoder::new(form);
        for piece in data {
            encoder.push(piece);
            self.put_all(&mut encoder);
        }
        encoder.finish();
        self.put_all(&mut encoder);
        encoder.outcome().unwrap()
    }

    fn put_all(&mut self, encoder: &mut Encoder) {
        while let Some((kind, payload)) = encoder.poll_put() {
            let block = Block::new(kind, payload).unwrap();
            encoder.handle_put(block.id());
            self.0.insert(block.id(), block);
        }
    }

    /// Puts a block made by hand.
    fn put(&mut self, role: Role, form: Form, plain: Plaintext) -> Link {
        let Plaintext { mut payload, clear } = plain;
        let kind = Kind { role, form };
        let key = seal(&Secret::NONE, kind, &mut payload, clear);
        let block = Block::new(kind, payload).unwrap();
        let id = block.id();
        self.0.insert(id, block);
        Link { id, key }
    }

    fn leaf(&mut self, form: Form, payload: Vec<u8>) -> Link {
        self.put(Role::Leaf, form, Plaintext { payload, clear: 0 })
    }

    fn root(&mut self, form: Form, length: u64, children: &[Link]) -> Address {
        let plain = tree::write_root(form, length, children);
        let Link { id, key } = self.put(Role::Root, form, plain);
        Address { id, key }
    }

    /// All bytes of a file, the latest wanted block coming first; nothing is asked for twice at once.
    fn fetch(&self, address: Address, buffer: usize) -> Result<Vec<u8>, TreeError> {
        let mut decoder = Decoder::new(address, buffer);
        let (mut data, mut wanted) = (Vec::new(), Vec::new());
        while !decoder.is_done() {
            while let Some(id) = decoder.poll_want() {
                assert!(!wanted.contains(&id));
                wanted.push(id);
            }
            assert_eq!(decoder.outstanding(), wanted.len());
            if let Some(id) = wanted.pop() {
                decoder.handle_block(self.0[&id].clone())?;
            }
            while let Some((offset, piece)) = decoder.poll_data() {
                assert_eq!(offset, data.len() as u64);
                data.extend(piece);
            }
        }
        assert_eq!(decoder.length(), Some(data.len() as u64));
        Ok(data)
    }
}

fn some_data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn file_of_every_edge_size_comes_back_whatever_the_order() {
    let sizes = [
        0,
        1,
        262_117,
        262_118,
        262_119,
        262_133,
        262_134,
        262_135,
        262_143,
        262_144,
        262_145,
        3 << 20,
    ];
    for form in FORMS {
        for size in sizes {
            let data = some_data(size);
            let mut blocks = Blocks::default();
            let address = blocks.share(form, [&data[..]].into_iter());
            for buffer in [0, WINDOW, usize::MAX] {
                assert!(blocks.fetch(address, buffer) == Ok(data.clone()), "{size}");
            }
        }
    }
}

/// Seven leaves in turn, so that a full root and one byte more takes little memory.
#[test]
fn tree_of_two_levels_comes_back_in_order() {
    let leaf = |index: u64| vec![(index % 7) as u8; LEAF_SIZE];
    let leaves: Vec<Vec<u8>> = (0..7).map(leaf).collect();
    let mut rng = Rng::new([5; 32]);
    for form in FORMS {
        let mut blocks = Blocks::default();
        let whole = (0..1024).map(|i| &leaves[i % 7][..]);
        let address = blocks.share(form, whole.chain([&b"!"[..]]));
        assert_eq!(blocks.0.len(), 7 + 1 + 2 + 1);
        let mut decoder = Decoder::new(address, WINDOW);
        let (mut wanted, mut next, mut asked) = (Vec::new(), 0, 0);
        while !decoder.is_done() {
            while let Some(id) = decoder.poll_want() {
                wanted.push(id);
                asked += 1;
            }
            let id = wanted.swap_remove(rng.below(wanted.len() as u64) as usize);
            decoder.handle_block(blocks.0[&id].clone()).unwrap();
            while let Some((offset, data)) = decoder.poll_data() {
                assert_eq!(offset, next * LEAF);
                match next {
                    1024 => assert!(data == b"!"),
                    _ => assert!(data == leaves[(next % 7) as usize]),
                }
                next += 1;
                if decoder.poll_want().map(|id| wanted.push(id)).is_some() {
                    asked += 1;
                }
            }
        }
        assert_eq!(next, 1025);
        assert!(asked <= 1024, "{asked} blocks asked for");
    }
}

#[test]
fn file_of_zeros_is_asked_for_once() {
    let zeros = vec![0; LEAF_SIZE];
    let count = 3 * 1024;
    for form in FORMS {
        let mut blocks = Blocks::default();
        let address = blocks.share(form, (0..count).map(|_| &zeros[..]));
        assert_eq!(blocks.0.len(), 3);
        let mut decoder = Decoder::new(address, WINDOW);
        let (mut asked, mut given) = (0, 0);
        while !decoder.is_done() {
            while let Some(id) = decoder.poll_want() {
                asked += 1;
                decoder.handle_block(blocks.0[&id].clone()).unwrap();
            }
            if let Some((offset, data)) = decoder.poll_data() {
                assert!(offset == given * LEAF && data == zeros);
                given += 1;
            }
        }
        assert_eq!((asked, given), (3, count));
    }
}

#[test]
fn window_bounds_what_is_wanted_and_held() {
    let data = some_data(20 * LEAF_SIZE);
    let mut blocks = Blocks::default();
    let address = blocks.share(Form::Encrypted, [&data[..]].into_iter());
    for (buffer, most) in [(0, 1), (LEAF_SIZE, 1), (3 * LEAF_SIZE - 1, 2), (WINDOW, 8)] {
        let mut decoder = Decoder::new(address, buffer);
        let root = decoder.poll_want().unwrap();
        assert_eq!(decoder.poll_want(), None);
        decoder.handle_block(blocks.0[&root].clone()).unwrap();
        let wanted: Vec<BlockId> = std::iter::from_fn(|| decoder.poll_want()).collect();
        assert_eq!((wanted.len(), decoder.outstanding()), (most, most));
        for id in wanted.iter().rev() {
            decoder.handle_block(blocks.0[id].clone()).unwrap();
            assert_eq!(decoder.poll_want(), None, "nothing was given out");
        }
        assert_eq!(decoder.poll_data().unwrap().1, data[..LEAF_SIZE]);
        assert!(decoder.poll_want().is_some());
        assert_eq!(decoder.poll_want(), None);
    }
}

#[test]
fn what_has_come_is_given_out_whatever_is_missing_before_it() {
    let data = some_data(20 * LEAF_SIZE + 5);
    let mut blocks = Blocks::default();
    let address = blocks.share(Form::Encrypted, [&data[..]].into_iter());
    let mut decoder = Decoder::new(address, 3 * LEAF_SIZE);
    decoder.poll_want().unwrap();
    decoder.handle_block(blocks.0[&address.id].clone()).unwrap();
    let first = decoder.poll_want().unwrap();
    let mut offsets = Vec::new();
    while let Some(id) = decoder.poll_want() {
        assert!(decoder.outstanding() <= 3);
        decoder.handle_block(blocks.0[&id].clone()).unwrap();
        assert!(decoder.poll_data().is_none());
        let (offset, bytes) = decoder.poll_any().unwrap();
        assert!(data[offset as usize..].starts_with(&bytes));
        offsets.push(offset);
    }
    assert!(offsets.into_iter().eq((1..=20).map(|nth| nth * LEAF)));
    assert!(!decoder.is_done());
    decoder.handle_block(blocks.0[&first].clone()).unwrap();
    assert_eq!(decoder.poll_any().unwrap().0, 0);
    assert!(decoder.is_done() && decoder.poll_any().is_none());
}

#[test]
fn no_leaf_is_wanted_that_is_far_from_the_first_that_is_missing() {
    let mut blocks = Blocks::default();
    let (first, other) = (vec![1; LEAF_SIZE], vec![2; LEAF_SIZE]);
    let leaves = std::iter::once(&first).chain(std::iter::repeat_n(&other, LEAVES_AHEAD_MAX + 9));
    let address = blocks.share(Form::Plain, leaves.map(|leaf| &leaf[..]));
    let mut decoder = Decoder::new(address, 2 * LEAF_SIZE);
    let mut given = 0;
    while let Some(id) = decoder.poll_want() {
        let block = blocks.0[&id].clone();
        if block.payload() != first {
            decoder.handle_block(block).unwrap();
            given += usize::from(decoder.poll_any().is_some());
        }
    }
    assert_eq!((given, decoder.outstanding()), (LEAVES_AHEAD_MAX - 1, 1));
}

#[test]
fn leaves_behind_one_that_was_offered_in_vain_are_offered_before_they_are_wanted() {
    let data = some_data(10 * LEAF_SIZE);
    let mut blocks = Blocks::default();
    let address = blocks.share(Form::Encrypted, [&data[..]].into_iter());
    let mut found = data[..8 * LEAF_SIZE + 100].to_vec();
    found[2 * LEAF_SIZE] ^= 1;
    found[5 * LEAF_SIZE..6 * LEAF_SIZE].fill(0);
    let mut decoder = Decoder::new(address, WINDOW);
    decoder.poll_want().unwrap();
    decoder.handle_block(blocks.0[&address.id].clone()).unwrap();
    decoder.offer_first(0..found.len() as u64);
    assert_eq!(decoder.poll_want(), None);
    let mut wanted = Vec::new();
    while let Some((offset, len)) = decoder.poll_leaf() {
        let bytes = found[offset as usize..].iter().copied().take(len).collect();
        if !decoder.offer(bytes) {
            wanted.extend(std::iter::from_fn(|| decoder.poll_want()));
        }
    }
    assert_eq!(
        wanted.len(),
        4,
        "two that are wrong, and two that are missing"
    );
    for id in wanted.iter().rev() {
        decoder.handle_block(blocks.0[id].clone()).unwrap();
    }
    let given = std::iter::from_fn(|| decoder.poll_any());
    assert!(given.map(|it| it.0 / LEAF).eq([2, 5, 8, 9]));
    assert!(decoder.is_done());
}

#[test]
fn block_that_is_not_wanted_is_ignored() {
    let mut blocks = Blocks::default();
    let address = blocks.share(Form::Plain, [&b"data"[..]].into_iter());
    let mut decoder = Decoder::new(address, WINDOW);
    let root = blocks.0[&address.id].clone();
    assert_eq!(decoder.handle_block(root.clone()), Ok(()));
    assert_eq!(decoder.length(), None);
    decoder.poll_want();
    assert_eq!(decoder.handle_block(root.clone()), Ok(()));
    assert_eq!(decoder.handle_block(root), Ok(()));
    assert_eq!(decoder.poll_data(), Some((0, b"data".to_vec())));
    assert!(decoder.is_done() && decoder.poll_data().is_none());
}

#[test]
fn missing_wrong_and_needless_key_are_told_apart_before_any_data() {
    for size in [0, 5, 3 * LEAF_SIZE] {
        let data = some_data(size);
        let mut blocks = Blocks::default();
        let [plain, sealed] = FORMS.map(|form| blocks.share(form, [&data[..]].into_iter()));
        let other = Some(BlockKey([9; 32]));
        for (id, key, error) in [
            (sealed.id, None, TreeError::NeedsKey),
            (sealed.id, other, TreeError::WrongKey),
            (plain.id, other, TreeError::NeedlessKey),
        ] {
            let fetched = blocks.fetch(Address { id, key }, WINDOW);
            assert_eq!(fetched, Err(error));
        }
    }
}

#[test]
fn tree_that_is_not_what_its_length_dictates_is_refused() {
    let bad = |fetched| matches!(fetched, Err(TreeError::BadShape(_)));
    for form in FORMS {
        let mut blocks = Blocks::default();
        let full = blocks.leaf(form, vec![1; LEAF_SIZE]);
        let short = blocks.leaf(form, vec![1; 5]);
        let honest = blocks.root(form, LEAF + 5, &[full, short]);
        assert!(blocks.fetch(honest, WINDOW).is_ok());
        for (length, children) in [
            (LEAF + 5, vec![full, short, short]),
            (LEAF + 5, vec![full]),
            (LEAF + 6, vec![full, short]),
            (LEAF + 5, vec![short, full]),
            (2 * LEAF, vec![full, short]),
            (u64::MAX, vec![full, short]),
            (1 << 62, vec![full, short]),
        ] {
            let address = blocks.root(form, length, &children);
            assert!(bad(blocks.fetch(address, WINDOW)), "{length}");
        }
        let address = blocks.root(form, 2 * LEAF, &[full, honest_link(honest)]);
        assert!(bad(blocks.fetch(address, WINDOW)), "a root is no leaf");
        let id = full.id;
        let leaf = Address { id, key: full.key };
        assert_eq!(blocks.fetch(leaf, WINDOW), Err(TreeError::NotRoot));
    }
}

fn honest_link(address: Address) -> Link {
    Link {
        id: address.id,
        key: address.key,
    }
}

#[test]
fn node_with_a_child_too_many_or_too_few_is_refused() {
    for form in FORMS {
        let mut blocks = Blocks::default();
        let leaf = blocks.leaf(form, vec![1; LEAF_SIZE]);
        let mut node = |count| {
            let plain = tree::write_node(form, &vec![leaf; count]);
            blocks.put(Role::Node, form, plain)
        };
        let [two, three, full, over] = [2, 3, 1024, 1025].map(&mut node);
        let length = (1024 + 2) * LEAF;
        for (children, good) in [
            ([full, two], true),
            ([full, three], false),
            ([full, leaf], false),
            ([over, two], false),
            ([full, full], false),
            ([two, two], false),
        ] {
            let address = blocks.root(form, length, &children);
            let mut decoder = Decoder::new(address, WINDOW);
            let mut failed = false;
            while let (false, Some(id)) = (failed, decoder.poll_want()) {
                failed = decoder.handle_block(blocks.0[&id].clone()).is_err();
            }
            assert_eq!(failed, !good);
        }
    }
}

#[test]
fn held_leaf_is_copied_only_for_the_same_key_and_length() {
    let form = Form::Encrypted;
    let mut blocks = Blocks::default();
    let leaf = blocks.leaf(form, vec![1; LEAF_SIZE]);
    let key = Some(BlockKey([9; 32]));
    let other = Link { key, ..leaf };
    for (length, second, sound) in [
        (2 * LEAF, leaf, true),
        (2 * LEAF, other, true),
        (2 * LEAF - 1, leaf, false),
    ] {
        let address = blocks.root(form, length, &[leaf, second]);
        let mut decoder = Decoder::new(address, WINDOW);
        let mut failed = false;
        while let (false, Some(id)) = (failed, decoder.poll_want()) {
            failed = decoder.handle_block(blocks.0[&id].clone()).is_err();
        }
        assert_eq!(failed, !sound);
        if sound {
            let first = decoder.poll_data().unwrap().1;
            let same = first == decoder.poll_data().unwrap().1;
            assert_eq!(same, second == leaf);
        }
    }
}

#[test]
fn leaf_of_the_other_form_is_refused() {
    let mut blocks = Blocks::default();
    let plain = blocks.leaf(Form::Plain, vec![1; LEAF_SIZE]);
    let key = Some(BlockKey([0; 32]));
    let address = blocks.root(Form::Encrypted, LEAF, &[Link { key, ..plain }]);
    assert!(blocks.fetch(address, WINDOW).is_err());
}

#[test]
fn what_the_caller_has_is_neither_wanted_nor_given_out() {
    let data = some_data(5 * LEAF_SIZE + 7);
    // Leaves 0, 1 and 5 of the caller's copy are right.
    let mut local = data.clone();
    for index in 2..5 {
        local[index * LEAF_SIZE] ^= 1;
    }
    for (form, buffer) in FORMS
        .into_iter()
        .flat_map(|form| [(form, 0), (form, WINDOW)])
    {
        let mut blocks = Blocks::default();
        let address = blocks.share(form, [&data[..]].into_iter());
        let mut decoder = Decoder::new(address, buffer);
        assert_eq!(decoder.poll_leaf(), None);
        let (mut accepted, mut offsets, mut asked) = (0, Vec::new(), 0);
        while !decoder.is_done() {
            if let Some((offset, len)) = decoder.poll_leaf() {
                let start = offset as usize;
                let took = decoder.offer(local[start..start + len].to_vec());
                accepted += usize::from(took);
                continue;
            }
            if let Some(id) = decoder.poll_want() {
                asked += 1;
                decoder.handle_block(blocks.0[&id].clone()).unwrap();
            }
            while let Some((offset, piece)) = decoder.poll_data() {
                let start = offset as usize;
                assert_eq!(piece, data[start..start + piece.len()]);
                offsets.push(offset / LEAF);
            }
        }
        assert_eq!((accepted, asked), (3, 1 + 3));
        assert_eq!(offsets, [2, 3, 4]);
    }
}

#[test]
fn offer_of_another_length_is_declined() {
    let data = some_data(2 * LEAF_SIZE);
    let mut blocks = Blocks::default();
    let address = blocks.share(Form::Plain, [&data[..]].into_iter());
    let mut decoder = Decoder::new(address, WINDOW);
    assert!(!decoder.offer(data.clone()), "nothing is known yet");
    decoder.poll_want();
    decoder.handle_block(blocks.0[&address.id].clone()).unwrap();
    assert_eq!(decoder.poll_leaf(), Some((0, LEAF_SIZE)));
    assert!(!decoder.offer(data[..LEAF_SIZE - 1].to_vec()));
    assert_eq!(decoder.poll_leaf(), None, "it is offered once");
    assert!(decoder.poll_want().is_some());
    assert_eq!(decoder.poll_leaf(), Some((LEAF, LEAF_SIZE)));
    assert!(decoder.offer(data[LEAF_SIZE..].to_vec()));
}

/// A file whose leaves are of seven kinds, in nodes.
fn long_file(blocks: &mut Blocks, form: Form, length: usize) -> Address {
    let leaves: Vec<Vec<u8>> = (0..7).map(|n| vec![n; LEAF_SIZE]).collect();
    let count = length.div_ceil(LEAF_SIZE);
    let pieces = (0..count).map(|index| {
        let len = LEAF_SIZE.min(length - index * LEAF_SIZE);
        &leaves[index % 7][..len]
    });
    blocks.share(form, pieces)
}

#[test]
fn range_gives_its_bytes_and_asks_for_no_leaf_outside() {
    let length = 1100 * LEAF_SIZE + 1234;
    let mut rng = Rng::new([8; 32]);
    for form in FORMS {
        let mut blocks = Blocks::default();
        let address = long_file(&mut blocks, form, length);
        let leaf_of = |offset: u64| (offset / LEAF) as usize;
        for round in 0..100 {
            let start = rng.below(length as u64 + 2);
            let len = match round % 3 {
                0 => rng.below(10),
                1 => rng.below(5 * LEAF),
                _ => u64::MAX - start,
            };
            // A tail of a long file takes long, and shows nothing more.
            let start = if len > 5 * LEAF {
                start.max(1090 * LEAF)
            } else {
                start
            };
            let range = start..start.saturating_add(len);
            let mut decoder = Decoder::new(address, WINDOW);
            let is_late = round % 2 == 0;
            if !is_late {
                decoder.set_range(range.clone());
            }
            let (mut data, mut asked) = (Vec::new(), 0);
            while !decoder.is_done() {
                let id = decoder.poll_want().unwrap();
                asked += 1;
                decoder.handle_block(blocks.0[&id].clone()).unwrap();
                if is_late && asked == 1 {
                    decoder.set_range(range.clone());
                }
                while let Some((offset, piece)) = decoder.poll_data() {
                    let first = leaf_of(offset);
                    let expected = (first % 7) as u8;
                    assert!(offset % LEAF == 0 && piece.iter().all(|byte| *byte == expected));
                    let from = start.saturating_sub(offset).min(piece.len() as u64) as usize;
                    let to = (range.end - offset).min(piece.len() as u64) as usize;
                    data.extend_from_slice(&piece[from..to]);
                }
            }
            let end = range.end.min(length as u64);
            assert_eq!(data.len() as u64, end.saturating_sub(start));
            for (at, byte) in data.iter().enumerate().step_by(1000) {
                assert_eq!(*byte as usize, leaf_of(start + at as u64) % 7);
            }
            let leaves = match start < end {
                true => end.div_ceil(LEAF) - start / LEAF,
                false => 0,
            };
            assert!(asked <= 1 + 2 + leaves, "{asked} for {range:?}");
        }
    }
}

#[test]
fn range_may_move_on_while_leaves_are_on_their_way() {
    let mut blocks = Blocks::default();
    let length = 1200 * LEAF_SIZE;
    let address = long_file(&mut blocks, Form::Encrypted, length);
    let mut decoder = Decoder::new(address, WINDOW);
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.extend(std::iter::from_fn(|| decoder.poll_want()));
        let id = wanted.remove(0);
        decoder.handle_block(blocks.0[&id].clone()).unwrap();
    }
    assert!(!wanted.is_empty());
    for start in [5, 600, 1150] {
        decoder.set_range(start * LEAF..start * LEAF + 2 * LEAF);
        let mut offsets = Vec::new();
        while !decoder.is_done() {
            wanted.extend(std::iter::from_fn(|| decoder.poll_want()));
            // The latest first, so that what was wanted before comes late.
            let id = wanted.pop().unwrap();
            decoder.handle_block(blocks.0[&id].clone()).unwrap();
            while let Some((offset, piece)) = decoder.poll_data() {
                assert!(piece
                    .iter()
                    .all(|byte| u64::from(*byte) == offset / LEAF % 7));
                offsets.push(offset / LEAF);
            }
        }
        assert_eq!(offsets, [start, start + 1]);
    }
}

#[test]
fn range_of_a_file_in_its_root_comes_whole() {
    let mut blocks = Blocks::default();
    let data = some_data(1000);
    let address = blocks.share(Form::Encrypted, [&data[..]].into_iter());
    let mut decoder = Decoder::new(address, WINDOW);
    decoder.set_range(5..10);
    let id = decoder.poll_want().unwrap();
    decoder.handle_block(blocks.0[&id].clone()).unwrap();
    assert_eq!(decoder.poll_leaf(), None);
    assert_eq!(decoder.poll_data(), Some((0, data)));
    assert!(decoder.is_done());
}
