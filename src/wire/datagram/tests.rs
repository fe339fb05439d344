//! Datagrams are read back, and nothing else is.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::wire::contact::Age;

fn header(kind: Kind, direction: Direction) -> Header {
    Header {
        kind,
        direction,
        client_mode: true,
        families: Families {
            ipv4: true,
            ipv6: false,
        },
        shortened: false,
        transaction: 0x0102030405060708,
        key: NodeKey([9; 32]),
        token: Token([7; 8]),
    }
}

fn contacts(count: u8, ip: &str) -> Vec<Contact> {
    (0..count)
        .map(|n| {
            let addr = SocketAddr::new(ip.parse().unwrap(), 1000 + u16::from(n));
            Contact::new(NodeKey([n; 32]), addr, Age(n))
        })
        .collect()
}

fn requests() -> Vec<Request> {
    vec![
        Request::Ping,
        Request::FindNode(Point([3; 32])),
        Request::Have(vec![BlockId([4; 32]); HAVE_MAX]),
        Request::DialBack(5),
        Request::Digest(Cell::WHOLE, DIGEST_DEPTH_MAX),
        Request::Digest(Cell::around(5, 64), 0),
        Request::List(Cell::around(0x1234 << 48, 13)),
        Request::Provide(BlockId([6; 32])),
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Ping("192.0.2.1:7".parse().unwrap()),
        Reply::Ping("[2001:db8::1]:7".parse().unwrap()),
        Reply::FindNode(contacts(20, "2001:db8::1")),
        Reply::Have(Bitmap(0x80000001), contacts(20, "192.0.2.1"), vec![]),
        Reply::Have(
            Bitmap(1),
            contacts(16, "2001:db8::1"),
            contacts(4, "192.0.2.1"),
        ),
        Reply::DialBack(
            true,
            vec!["192.0.2.1:7".parse().unwrap(); DIAL_BACK_OTHERS_MAX],
        ),
        Reply::DialBack(false, vec![]),
        Reply::Digest(vec![]),
        Reply::Digest(vec![Digest { count: 3, sum: 4 }; 1 << DIGEST_DEPTH_MAX]),
        Reply::List(None),
        Reply::List(Some(vec![])),
        Reply::List(Some((0..LIST_MAX as u64).collect())),
        Reply::Provide(21_600),
    ]
}

fn start(bytes: &[u8]) -> Result<(Header, Reader<'_>), Malformed> {
    let mut reader = Reader::new(bytes);
    match Header::decode(&mut reader)? {
        Start::Ours(header) => Ok((header, reader)),
        Start::Other { .. } => Err(Malformed::Value("version")),
    }
}

#[test]
fn requests_are_read_back_padded_or_not_and_no_truncation_is() {
    for request in requests() {
        let sent = header(request.kind(), Direction::Request);
        for pad in [false, true] {
            let bytes = request.encode(sent, pad);
            assert!(bytes.len() <= DATAGRAM_SIZE_MAX);
            let (read, reader) = start(&bytes).unwrap();
            assert_eq!(read, sent);
            assert_eq!(Request::decode(read.kind, reader), Ok(request.clone()));
        }
        let bytes = request.encode(sent, false);
        for cut in 0..bytes.len() {
            let read = start(&bytes[..cut])
                .and_then(|(header, reader)| Request::decode(header.kind, reader));
            assert!(read.is_err(), "{request:?} cut at {cut}");
        }
        let mut bytes = request.encode(sent, true);
        bytes.push(1);
        let (read, reader) = start(&bytes).unwrap();
        assert!(
            Request::decode(read.kind, reader).is_err(),
            "padding is zero"
        );
    }
}

#[test]
fn replies_are_read_back_and_no_truncation_is() {
    for reply in replies() {
        let sent = header(reply.kind(), Direction::Reply);
        let bytes = reply.encode(sent, DATAGRAM_SIZE_MAX);
        let (read, reader) = start(&bytes).unwrap();
        assert_eq!(read, sent);
        assert_eq!(Reply::decode(&read, reader), Ok(reply.clone()));
        for cut in 0..bytes.len() {
            let read =
                start(&bytes[..cut]).and_then(|(header, reader)| Reply::decode(&header, reader));
            assert!(read.is_err(), "{reply:?} cut at {cut}");
        }
    }
}

#[test]
fn padded_request_is_as_long_as_the_longest_reply() {
    let mut sent = header(Kind::Ping, Direction::Request);
    for (ip, families) in [
        (
            "192.0.2.1",
            Families {
                ipv4: true,
                ipv6: false,
            },
        ),
        (
            "2001:db8::1",
            Families {
                ipv4: true,
                ipv6: true,
            },
        ),
    ] {
        sent.families = families;
        for (request, reply) in [
            (Request::Ping, replies().remove(0)),
            (requests().remove(1), Reply::FindNode(contacts(20, ip))),
            (
                requests().remove(2),
                Reply::Have(Bitmap(1), contacts(16, ip), contacts(4, ip)),
            ),
            (requests().remove(3), Reply::DialBack(true, vec![])),
        ] {
            let asked = request.encode(sent, true);
            let whole = reply.encode(sent, DATAGRAM_SIZE_MAX);
            assert!(whole.len() <= asked.len(), "{request:?}");
        }
    }
}

#[test]
fn reply_is_cut_to_fit_and_says_so() {
    let sent = header(Kind::Ping, Direction::Reply);
    for reply in replies() {
        let whole = reply.encode(sent, DATAGRAM_SIZE_MAX);
        for size in HEADER_SIZE..whole.len() {
            let bytes = reply.encode(sent, size);
            assert!(bytes.len() <= size);
            let (read, reader) = start(&bytes).unwrap();
            assert!(read.shortened);
            assert!(Reply::decode(&read, reader).is_ok());
        }
    }
}

#[test]
fn more_providers_than_are_named_or_than_leave_room_for_contacts_are_refused() {
    let mut sent = header(Kind::Have, Direction::Reply);
    sent.kind = Kind::Have;
    for (count, others, is_read) in [(16, 4, true), (10, 5, false), (17, 4, false)] {
        let others = contacts(others, "192.0.2.1");
        let reply = Reply::Have(Bitmap(0), contacts(count, "192.0.2.1"), others);
        let bytes = reply.encode(sent, DATAGRAM_SIZE_MAX);
        let (read, reader) = start(&bytes).unwrap();
        assert_eq!(Reply::decode(&read, reader).is_ok(), is_read);
    }
}

#[test]
fn other_version_is_told_apart() {
    let mut bytes = Request::Ping.encode(header(Kind::Ping, Direction::Request), false);
    bytes[2] = 9;
    let other = Header::decode(&mut Reader::new(&bytes)).unwrap();
    let transaction = 0x0102030405060708;
    assert_eq!(
        other,
        Start::Other {
            version: 9,
            direction: Direction::Request,
            transaction
        }
    );
    let mut answer = encode_version(transaction, &NodeKey([1; 32]));
    assert_eq!(answer.len(), HEADER_SIZE);
    assert!(start(&answer).is_err(), "of our own version it is nonsense");
    answer[2] = 9;
    let other = Header::decode(&mut Reader::new(&answer)).unwrap();
    assert_eq!(
        other,
        Start::Other {
            version: 9,
            direction: Direction::Reply,
            transaction
        }
    );
}

#[test]
fn bitmap_counts_from_the_highest_bit() {
    let mut bitmap = Bitmap::default();
    bitmap.set(0);
    bitmap.set(31);
    assert_eq!(bitmap, Bitmap(0x80000001));
    assert!(bitmap.holds(0) && bitmap.holds(31) && !bitmap.holds(1) && !bitmap.holds(32));
}

/// The bytes that the manual shows between two markers.
fn dump(marker: &str) -> Vec<u8> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/strew-protocol.7");
    let page = std::fs::read_to_string(page).expect("the manual page can be read");
    page.split(&format!(".\\\" begin {marker}\n"))
        .nth(1)
        .and_then(|rest| rest.split(&format!(".\\\" end {marker}\n")).next())
        .expect("the page has the markers")
        .lines()
        .filter(|line| !line.starts_with('.'))
        .flat_map(|line| line.split_whitespace().skip(1))
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

#[test]
fn manual_shows_a_request_and_its_reply() {
    let bytes = dump("find-node-request");
    let (asked, reader) = start(&bytes).unwrap();
    assert_eq!(asked.transaction, 0x1122334455667788);
    assert!(asked.client_mode && asked.families.ipv4 && !asked.families.ipv6);
    assert_eq!(
        asked.token,
        Token([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7])
    );
    let request = Request::decode(asked.kind, reader).unwrap();
    assert_eq!(request, Request::FindNode(Point([0xcc; 32])));
    assert_eq!(request.encode(asked, false), bytes);

    let bytes = dump("find-node-reply");
    let (answered, reader) = start(&bytes).unwrap();
    assert_eq!(answered.transaction, asked.transaction);
    let reply = Reply::decode(&answered, reader).unwrap();
    let named = Contact::new(
        NodeKey([0xdd; 32]),
        "192.0.2.7:7873".parse().unwrap(),
        Age(94),
    );
    assert_eq!(reply, Reply::FindNode(vec![named]));
    assert_eq!(reply.encode(answered, DATAGRAM_SIZE_MAX), bytes);
}

#[test]
fn manual_shows_a_comparison() {
    let requests = [
        (
            "digest-request",
            Request::Digest(Cell::around(0x5c << 56, 6), 1),
        ),
        ("list-request", Request::List(Cell::around(0x5c << 56, 7))),
    ];
    for (marker, expected) in requests {
        let bytes = dump(marker);
        let (asked, reader) = start(&bytes).unwrap();
        let request = Request::decode(asked.kind, reader).unwrap();
        assert_eq!(request, expected);
        assert_eq!(request.encode(asked, false), bytes);
    }
    let digest = Digest {
        count: 2,
        sum: 0x0123456789abcdef_0123456789abcdef,
    };
    let places = vec![0x5c11111111111111, 0x5d22222222222222];
    let replies = [
        (
            "digest-reply",
            Reply::Digest(vec![digest, Digest::default()]),
        ),
        ("list-reply", Reply::List(Some(places))),
    ];
    for (marker, expected) in replies {
        let bytes = dump(marker);
        let (answered, reader) = start(&bytes).unwrap();
        let reply = Reply::decode(&answered, reader).unwrap();
        assert_eq!(reply, expected);
        assert_eq!(reply.encode(answered, DATAGRAM_SIZE_MAX), bytes);
    }
}
