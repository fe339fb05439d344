//! Notes: the records that are no blocks. Their payloads, as strew-pack(5) specifies them.
//!
//! A note says something of what lies before it in the pack: stretches that count no more, new terms of blocks,
//! files that are pinned. Nothing here touches a file.

use super::record::ALIGN;
use crate::store::{Hold, Terms};
use crate::wire::codec::Reader;

/// Bytes of one statement of a note.
pub(super) const STATEMENT_LEN: usize = 16;

/// The bit of the flags of terms that says that the block is kept.
const FLAG_KEPT: u32 = 1;

/// A stretch of the file: from this offset up to, not including, that one.
pub(super) type Stretch = (u64, u64);

/// The payload of a note on stretches that count no more.
pub(super) fn encode_gaps(gaps: impl Iterator<Item = Stretch>) -> Vec<u8> {
    let statements = gaps.map(|(start, end)| [start.to_be_bytes(), (end - start).to_be_bytes()]);
    statements.flatten().flatten().collect()
}

/// The stretches of a note that lies at this offset. What is not before it, or no stretch of records, says
/// nothing.
pub(super) fn decode_gaps(payload: &[u8], offset: u64) -> impl Iterator<Item = Stretch> + '_ {
    statements(payload).filter_map(move |mut statement| {
        let (start, len) = (statement.u64().ok()?, statement.u64().ok()?);
        let end = start.checked_add(len)?;
        let is_sound = start < end
            && end <= offset
            && start.is_multiple_of(ALIGN)
            && end.is_multiple_of(ALIGN);
        is_sound.then_some((start, end))
    })
}

/// The payload of a note on terms of blocks, by the offsets of their records.
pub(super) fn encode_terms(terms: impl Iterator<Item = (u64, Terms)>) -> Vec<u8> {
    let mut payload = Vec::new();
    for (offset, terms) in terms {
        let flags = match terms.hold {
            Hold::Free | Hold::Leased => 0,
            Hold::Kept => FLAG_KEPT,
        };
        payload.extend_from_slice(&offset.to_be_bytes());
        payload.extend_from_slice(&terms.expires.to_be_bytes());
        payload.extend_from_slice(&flags.to_be_bytes());
    }
    payload
}

/// The terms of a note that lies at this offset. What is not before it says nothing.
pub(super) fn decode_terms(payload: &[u8], offset: u64) -> impl Iterator<Item = (u64, Terms)> + '_ {
    statements(payload).filter_map(move |mut statement| {
        let at = statement.u64().ok().filter(|&at| at < offset)?;
        let terms = Terms {
            expires: statement.u32().ok()?,
            hold: match statement.u32().ok()? & FLAG_KEPT {
                0 => Hold::Free,
                _ => Hold::Kept,
            },
        };
        Some((at, terms))
    })
}

/// Bytes of the payload of a note on a pin.
pub(super) const PIN_LEN: u32 = 8;

/// The payload of a note on a file of this many bytes that is pinned; its root is in the header.
pub(super) fn encode_pin(len: u64) -> [u8; 8] {
    len.to_be_bytes()
}

/// The inverse; `None` if it is of another length.
pub(super) fn decode_pin(payload: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(payload.try_into().ok()?))
}

fn statements(payload: &[u8]) -> impl Iterator<Item = Reader<'_>> {
    payload.chunks_exact(STATEMENT_LEN).map(Reader::new)
}

/// Joins a stretch to the last of a list, if they touch.
pub(super) fn push_stretch(list: &mut Vec<Stretch>, stretch: Stretch) {
    match list.last_mut() {
        Some(last) if last.1 == stretch.0 => last.1 = stretch.1,
        _ => list.push(stretch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written_and_only_of_what_is_before_them() {
        let gaps = [(64, 128), (4096, 8192), (8192, 9000)];
        let payload = encode_gaps(gaps.into_iter());
        assert_eq!(decode_gaps(&payload, 9000).collect::<Vec<_>>(), gaps);
        assert_eq!(decode_gaps(&payload, 8999).count(), 2);
        let strange = [(64, 64), (65, 128), (64, 127)];
        let strange = encode_gaps(strange.into_iter());
        assert_eq!(decode_gaps(&strange, 9000).count(), 0);
        let endless = [[0xff; 8], [0xff; 8]].concat();
        assert_eq!(decode_gaps(&endless, u64::MAX).count(), 0);

        let terms = [Hold::Kept, Hold::Free].map(|hold| Terms { expires: 77, hold });
        let terms = [(64, terms[0]), (72, terms[1])];
        let payload = encode_terms(terms.into_iter());
        assert_eq!(decode_terms(&payload, 73).collect::<Vec<_>>(), terms);
        assert_eq!(decode_terms(&payload, 72).count(), 1);
        assert_eq!(decode_terms(&payload[..31], 73).count(), 1);

        assert_eq!(decode_pin(&encode_pin(5)), Some(5));
        assert_eq!(decode_pin(&[0; 9]), None);
    }
}
