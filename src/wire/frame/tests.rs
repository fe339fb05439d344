//! Frames are read back from any cut of the stream, and nothing else is.

use super::bytes::*;
use super::*;
use crate::block::{Form, Role};
use crate::limits::{BLOCK_SIZE_MAX, FRAME_FIELDS_MAX, OFFER_MAX};
use crate::rng::Rng;

const KIND: Kind = Kind {
    role: Role::Leaf,
    form: Form::Encrypted,
};

fn hello() -> Frame {
    Frame::Hello(Hello {
        key: NodeKey([3; 32]),
        port: 7873,
        role: PeerRole::Peer,
    })
}

const OFFERED: Offered = Offered {
    id: BlockId([9; 32]),
    lifetime: 2_592_000,
};

const COUNTED_BLOCK: Counted = Counted {
    id: BlockId([9; 32]),
    copies: 7,
    answered: 20,
    own: true,
};

fn one_of_each() -> Vec<Frame> {
    let id = BlockId([9; 32]);
    vec![
        Frame::Bye {
            reason: ByeReason::Busy,
            text: "too many".into(),
        },
        Frame::Offer(vec![OFFERED; 3]),
        Frame::Want(vec![Answer::Have, Answer::Want, Answer::Full]),
        Frame::Put {
            id,
            kind: KIND,
            lifetime: 99,
            copies: 8,
            payload: vec![1; 1000],
        },
        Frame::Stored { id, lifetime: 7 },
        Frame::Refused {
            id,
            answer: Answer::NotServing,
        },
        Frame::Get(id),
        Frame::Block {
            id,
            kind: KIND,
            payload: vec![7],
        },
        Frame::Absent(id),
        Frame::Dialed(5),
        Frame::Passed(id),
        Frame::Share(Wanted {
            copies: 8,
            min_copies: 1,
            own: Own::Dropped,
            lifetime: 0x0102_0304,
        }),
        Frame::Add {
            kind: KIND,
            payload: vec![2; 77],
        },
        Frame::Added(id),
        Frame::Settle,
        Frame::Pin(id),
        Frame::Pinning { bytes: 1, len: 2 },
        Frame::Pinned {
            root: id,
            len: 3,
            missing: 4,
        },
        Frame::Unpin(id),
        Frame::Unpinned(true),
        Frame::Pins,
        Frame::Count {
            root: id,
            blocks: vec![id; 2],
        },
        Frame::Counted(vec![COUNTED_BLOCK; 3]),
        Frame::Verify { part: 2, of: 3 },
        Frame::Damaged {
            offset: 64,
            len: 72,
            id: None,
        },
        Frame::Damaged {
            offset: 64,
            len: 72,
            id: Some(id),
        },
        Frame::Verifying(Verifying {
            at: 1,
            end: 2,
            blocks: 3,
            bytes: 4,
            damaged: 5,
            is_done: true,
        }),
        Frame::Settled(Settled {
            blocks: 9,
            least: 2,
            holders: 4,
            reached: true,
            refusal: Some(Answer::Quota),
        }),
        Frame::Awaiting {
            peers: 7,
            unfound: 0x0102_0304,
        },
        Frame::Progress {
            placed: 7,
            holders: 3,
            least: 2,
        },
        Frame::Fetch(id),
        Frame::Missing {
            id,
            reason: MissingReason::NoPeer,
            asked: 20,
        },
        Frame::Status,
        Frame::Text("key value\n".into()),
        Frame::Peer("192.0.2.1:7873".parse().expect("an address")),
        Frame::Peer("[2001:db8::1]:1".parse().expect("an address")),
        Frame::Yield,
        Frame::Failed {
            status: 8,
            text: "full".into(),
        },
    ]
}

fn decode_all(decoder: &mut FrameDecoder, mut input: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.take(&mut input)? {
        frames.push(frame);
    }
    assert!(input.is_empty(), "what is no whole frame yet is held");
    Ok(frames)
}

#[test]
fn every_frame_is_read_back_from_any_cut_of_the_stream() {
    let mut frames = vec![hello()];
    frames.extend(one_of_each());
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    let mut rng = Rng::new([1; 32]);
    for longest in [1, 2, 7, 100, 100_000] {
        let mut decoder = FrameDecoder::new(true);
        let mut read = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(1 + rng.below(longest) as usize));
            read.extend(decode_all(&mut decoder, head).expect("valid"));
            rest = tail;
        }
        assert!(decoder.is_between_frames());
        assert_eq!(read, frames);
    }
}

#[test]
fn every_truncated_body_is_refused() {
    for frame in one_of_each() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        for len in 1..bytes.len() as u32 - 4 {
            let mut stream = Vec::new();
            hello().encode(&mut stream);
            stream.extend_from_slice(&len.to_be_bytes());
            stream.extend_from_slice(&bytes[4..4 + len as usize]);
            let read = decode_all(&mut FrameDecoder::new(true), &stream);
            // Lists, texts and payloads may be shorter, the rest may not.
            let shorter = matches!(&read, Ok(frames) if frames[1..] != [frame.clone()]);
            assert!(read.is_err() || shorter, "{frame:?} at {len}");
        }
    }
}

#[test]
fn lengths_are_refused_before_anything_is_allocated() {
    let head = |len: u32, kind: u8| [len.to_be_bytes().to_vec(), vec![kind]].concat();
    let mut greeted = Vec::new();
    hello().encode(&mut greeted);
    for (len, kind) in [
        (0, GET),
        (u32::MAX, PUT),
        (1 + 33, PUT),
        (1 + 33 + BLOCK_SIZE_MAX as u32 + 1, BLOCK),
        (1 + 1 + BLOCK_SIZE_MAX as u32 + 1, ADD),
        (FRAME_FIELDS_MAX as u32 + 2, OFFER),
        (FRAME_FIELDS_MAX as u32 + 2, COUNT),
        (42, HELLO),
    ] {
        let stream = [greeted.clone(), head(len, kind)].concat();
        assert!(
            decode_all(&mut FrameDecoder::new(true), &stream).is_err(),
            "{len} {kind}"
        );
    }
    let long_greeting = head(HELLO_MAX as u32 + 2, HELLO);
    assert!(decode_all(&mut FrameDecoder::new(false), &long_greeting).is_err());
    let before_greeting = head(33, GET);
    assert!(decode_all(&mut FrameDecoder::new(false), &before_greeting).is_err());
}

#[test]
fn a_remote_peer_cannot_say_what_a_client_can() {
    for frame in one_of_each() {
        let mut stream = Vec::new();
        hello().encode(&mut stream);
        frame.encode(&mut stream);
        let kind = {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            bytes[4]
        };
        let read = decode_all(&mut FrameDecoder::new(false), &stream);
        assert_eq!(read.is_err(), kind >= SHARE, "{frame:?}");
    }
}

#[test]
fn lists_have_an_item_and_no_more_than_fit_an_offer() {
    let local = |frame: &Frame| {
        let mut stream = Vec::new();
        hello().encode(&mut stream);
        frame.encode(&mut stream);
        decode_all(&mut FrameDecoder::new(true), &stream)
    };
    for count in [0, 1, OFFER_MAX, OFFER_MAX + 1] {
        let lists = [
            Frame::Offer(vec![OFFERED; count]),
            Frame::Count {
                root: OFFERED.id,
                blocks: vec![OFFERED.id; count],
            },
            Frame::Counted(vec![COUNTED_BLOCK; count]),
        ];
        for list in lists {
            let is_good = (1..=OFFER_MAX).contains(&count);
            assert_eq!(local(&list).is_ok(), is_good, "{count}");
        }
    }
    let more_than_asked = Counted {
        copies: 21,
        ..COUNTED_BLOCK
    };
    assert!(local(&Frame::Counted(vec![more_than_asked])).is_err());
}

#[test]
fn another_version_is_told_from_another_protocol() {
    let mut stream = Vec::new();
    Frame::OtherVersion(9).encode(&mut stream);
    assert_eq!(
        decode_all(&mut FrameDecoder::new(false), &stream),
        Ok(vec![Frame::OtherVersion(9)])
    );
    assert!(decode_all(&mut FrameDecoder::new(false), b"GET / HTTP/1.1\r\n").is_err());
}

#[test]
fn payload_head_and_payload_are_the_whole_frame() {
    let (id, payload) = (BlockId([4; 32]), vec![8; 300]);
    let (lifetime, copies) = (77, 16);
    let put = Frame::Put {
        id,
        kind: KIND,
        lifetime,
        copies,
        payload: payload.clone(),
    };
    let block = Frame::Block {
        id,
        kind: KIND,
        payload: payload.clone(),
    };
    for (frame, kind) in [
        (put, PayloadFrame::Put { lifetime, copies }),
        (block, PayloadFrame::Block),
    ] {
        let head = payload_head(kind, &id, KIND, payload.len());
        let mut whole = Vec::new();
        frame.encode(&mut whole);
        assert_eq!([head.bytes(), &payload].concat(), whole);
    }
}
