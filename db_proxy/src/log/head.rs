//! What every log knows of a record besides its payload, and the checksum over both.

use bytes::BufMut;
use proto::ids::Offset;

/// The length of what the checksum covers besides the payload.
pub(super) const HEAD_LEN: usize = 21;

/// The only kind of record so far: what the caller appended.
pub(super) const KIND_PAYLOAD: u8 = 1;

/// The checksum that a record of this content has in every log: CRC-32 (IEEE 802.3), as it is in
/// [`LogRecord::crc`](super::LogRecord::crc).
pub fn fingerprint(offset: Offset, timestamp_ms: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head(offset, timestamp_ms, payload));
    hasher.update(payload);
    hasher.finalize()
}

/// What the checksum covers besides the payload, in the order of the embedded log's files.
pub(super) fn head(offset: Offset, timestamp_ms: u64, payload: &[u8]) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    let mut rest = &mut head[..];
    rest.put_u32(u32::try_from(payload.len()).expect("the length of a payload is limited"));
    rest.put_u64(offset.0);
    rest.put_u64(timestamp_ms);
    rest.put_u8(KIND_PAYLOAD);
    head
}
