//! One record of a partition's log, as every reader gets it, and the checksum that it has in every log.

use std::fmt;

use bytes::{BufMut as _, Bytes};

use crate::ids::Offset;

/// Tells one log from another, so that a store is never paired with the wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    /// As 32 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// One record, as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place.
    pub offset: Offset,
    /// Unix milliseconds at the append, never below the record before.
    pub timestamp_ms: u64,
    /// Its [`fingerprint`].
    pub crc: u32,
    /// What was appended: an encoded [`Record`](crate::log::Record).
    pub payload: Bytes,
}

/// CRC-32 of a message's type and body. Tells two messages under one id apart; an id that was used
/// twice by mistake passes once in four billion times.
pub fn content_crc(kind: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&kind.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The length in bytes of a record's [`head`].
pub const HEAD_LEN: usize = 21;

/// The only kind of record so far: what an owner appended.
pub const KIND_PAYLOAD: u8 = 1;

/// The checksum of a record: CRC-32 (IEEE 802.3) over its [`head`] and its payload. It is the same in
/// files and on Kafka, so that a store can tell by it which record it has applied last.
pub fn fingerprint(offset: Offset, timestamp_ms: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head(offset, timestamp_ms, payload));
    hasher.update(payload);
    hasher.finalize()
}

/// What the checksum covers besides the payload, big-endian, as the files of the embedded log have it:
/// the payload's length (4 bytes), the offset (8), the time in milliseconds (8), the kind (1).
///
/// # Panics
///
/// If the payload is 4 GiB or longer. Logs refuse payloads above about 1 MiB.
pub fn head(offset: Offset, timestamp_ms: u64, payload: &[u8]) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    let mut rest = &mut head[..];
    rest.put_u32(u32::try_from(payload.len()).expect("the length of a payload is limited"));
    rest.put_u64(offset.0);
    rest.put_u64(timestamp_ms);
    rest.put_u8(KIND_PAYLOAD);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_bytes_in_the_files() {
        let bytes = b"\0\0\0\x03\0\0\0\0\0\0\0\x05\0\0\x01\x8b\xcf\xe5\x68\0\x01abc";
        let time_ms = 0x018b_cfe5_6800;
        assert_eq!(head(Offset(5), time_ms, b"abc"), bytes[..HEAD_LEN]);
        // As zlib's crc32 has it.
        assert_eq!(fingerprint(Offset(5), time_ms, b"abc"), 0xaa52_a0d5);
    }
}
