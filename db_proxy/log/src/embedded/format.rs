//! What the bytes in the files mean. No file is touched here.
//!
//! ```text
//! log.meta   magic [8] | version u32 | log id [16] | segment size u64 | crc u32 over all before
//!
//! segment    batch | batch | … | zeros to the end of the file
//!
//! batch      header | record | … | zeros up to a multiple of 8
//!
//! header     magic u32 | crc u32 over the rest | log id [16] | durable up to u64 | base u64
//!            | timestamp u64 | count u32 | length of the records u32
//!
//! record     crc u32 over the rest | length of the payload u32 | offset u64 | timestamp u64
//!            | kind u8 | payload
//! ```
//!
//! All numbers are big-endian. Of a newer version of `log.meta` only this is known: magic and
//! version come first, and the last four bytes are the CRC of all before them.
//!
//! # Invariants
//!
//! - Nothing read from a file can make a function here panic; what does not fit is `None`.
//! - A batch is valid as a whole or not at all.

use bytes::{Buf, BufMut, Bytes};
use proto::ids::Offset;
use proto::record::{HEAD_LEN, KIND_PAYLOAD, head};

use crate::LogId;

/// The largest payload: what one client message may grow to, and room for what comes with it.
pub(super) const MAX_PAYLOAD_LEN: usize = (1 << 20) + (64 << 10);

/// The largest batch, header and all.
pub(super) const MAX_BATCH_LEN: usize = (16 << 20) + (64 << 10);

/// A batch header's length: also the length of a batch without records.
pub(super) const HEADER_LEN: usize = 56;

/// What a record takes besides its payload.
pub(super) const RECORD_OVERHEAD: usize = 25;

/// Batches begin at multiples of this, so that a search for one need not look everywhere.
pub(super) const ALIGNMENT: usize = 8;

/// The length of `log.meta`.
const META_LEN: usize = 40;

const META_MAGIC: [u8; 8] = *b"TALKLOG\n";
const BATCH_MAGIC: [u8; 4] = *b"TLB\x01";
const VERSION: u32 = 1;

const _: () = assert!(HEAD_LEN == RECORD_OVERHEAD - 4, "the checksum comes before the rest");
const _: () =
    assert!(HEADER_LEN.is_multiple_of(ALIGNMENT), "a marker ends where a batch may begin");

/// What is fixed when a log is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Which log this is.
    pub(super) id: LogId,
    /// The size of every segment.
    pub(super) segment_bytes: u64,
}

/// What `log.meta` turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FoundMeta {
    /// Ours to use.
    Known(Meta),
    /// Written by a version that is not known here.
    Newer(u32),
    /// Not what was written.
    Damaged,
}

impl Meta {
    /// Returns the bytes of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_LEN);
        bytes.put_slice(&META_MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_slice(&self.id.0);
        bytes.put_u64(self.segment_bytes);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        bytes
    }

    /// Reads the bytes of the file.
    pub(super) fn parse(bytes: &[u8]) -> FoundMeta {
        let Some((content, crc)) = bytes.split_last_chunk::<4>() else { return FoundMeta::Damaged };
        if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
            return FoundMeta::Damaged;
        }
        let Some(mut rest) = content.strip_prefix(&META_MAGIC) else { return FoundMeta::Damaged };
        match rest.try_get_u32() {
            Ok(VERSION) if bytes.len() == META_LEN => {
                let mut id = [0; 16];
                rest.copy_to_slice(&mut id);
                FoundMeta::Known(Self { id: LogId(id), segment_bytes: rest.get_u64() })
            }
            Ok(version) if version > VERSION => FoundMeta::Newer(version),
            _ => FoundMeta::Damaged,
        }
    }
}

/// A batch's header, but for what is the same in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The last offset known to be flushed when this was written.
    pub(super) durable_upto: u64,
    /// The offset of the first record, or of the one to come if there is none here.
    pub(super) base: u64,
    /// The time of all records.
    pub(super) timestamp_ms: u64,
    /// How many records follow; none in a marker, which is only there for `durable_upto`.
    pub(super) count: u32,
    /// How many bytes they take.
    pub(super) body_len: u32,
}

impl Header {
    /// The batch's length in the file.
    pub(super) fn batch_len(&self) -> usize {
        HEADER_LEN + (self.body_len as usize).next_multiple_of(ALIGNMENT)
    }

    /// The offset after the batch.
    pub(super) fn next(&self) -> u64 {
        self.base.saturating_add(u64::from(self.count))
    }

    fn encode(&self, id: LogId) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (magic, rest) = bytes.split_at_mut(4);
        let (_, mut content) = rest.split_at_mut(4);
        magic.copy_from_slice(&BATCH_MAGIC);
        content.put_slice(&id.0);
        content.put_u64(self.durable_upto);
        content.put_u64(self.base);
        content.put_u64(self.timestamp_ms);
        content.put_u32(self.count);
        content.put_u32(self.body_len);
        let sum = crc32fast::hash(&rest[4..]);
        rest[..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads the header that `bytes` begin with, if it is one of log `id`.
    pub(super) fn parse(bytes: &[u8], id: LogId) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_LEN>()?;
        let (crc, content) = bytes.strip_prefix(&BATCH_MAGIC)?.split_first_chunk::<4>()?;
        if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut rest = content.strip_prefix(&id.0)?;
        let header = Self {
            durable_upto: rest.get_u64(),
            base: rest.get_u64(),
            timestamp_ms: rest.get_u64(),
            count: rest.get_u32(),
            body_len: rest.get_u32(),
        };
        (header.batch_len() <= MAX_BATCH_LEN).then_some(header)
    }
}

/// One record as found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Its place.
    pub(super) offset: u64,
    /// When it was appended.
    pub(super) timestamp_ms: u64,
    /// Its checksum.
    pub(super) crc: u32,
    /// What was appended.
    pub(super) payload: &'a [u8],
}

/// Returns how long a batch of `payloads` is in the file.
pub(super) fn batch_len(payloads: &[Bytes]) -> usize {
    let records: usize = payloads.iter().map(|payload| RECORD_OVERHEAD + payload.len()).sum();
    HEADER_LEN + records.next_multiple_of(ALIGNMENT)
}

/// Replaces the content of `buffer` by a batch. `header.count` and `header.body_len` are filled in.
///
/// # Panics
///
/// If a payload is longer than [`MAX_PAYLOAD_LEN`] or the batch than [`MAX_BATCH_LEN`].
pub(super) fn encode_batch(
    buffer: &mut Vec<u8>,
    id: LogId,
    mut header: Header,
    payloads: &[Bytes],
) {
    buffer.clear();
    buffer.put_bytes(0, HEADER_LEN);
    for (offset, payload) in (header.base..).zip(payloads) {
        encode_record(buffer, offset, header.timestamp_ms, payload);
    }
    let body_len = buffer.len() - HEADER_LEN;
    header.count = u32::try_from(payloads.len()).expect("a batch has fewer records than bytes");
    header.body_len = u32::try_from(body_len).expect("the length of a batch is limited");
    buffer.put_bytes(0, header.batch_len() - buffer.len());
    assert!(buffer.len() <= MAX_BATCH_LEN, "a batch must be short enough: {}", buffer.len());
    buffer[..HEADER_LEN].copy_from_slice(&header.encode(id));
}

fn encode_record(buffer: &mut Vec<u8>, offset: u64, timestamp_ms: u64, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD_LEN, "a record must be short enough: {}", payload.len());
    let start = buffer.len();
    buffer.put_u32(0);
    buffer.put_slice(&head(Offset(offset), timestamp_ms, payload));
    buffer.put_slice(payload);
    let crc = crc32fast::hash(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Returns the checksum that a record of this content has.
#[cfg(test)]
pub(super) fn record_crc(offset: u64, timestamp_ms: u64, payload: &[u8]) -> u32 {
    proto::record::fingerprint(Offset(offset), timestamp_ms, payload)
}

/// Takes the next record, which must be the one at `offset`, off `bytes`.
pub(super) fn take_record<'a>(
    bytes: &mut &'a [u8],
    header: &Header,
    offset: u64,
) -> Option<Record<'a>> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*rest.first_chunk::<4>()?)).ok()?;
    if len > MAX_PAYLOAD_LEN {
        return None;
    }
    let (record, after) = rest.split_at_checked(RECORD_OVERHEAD - 4 + len)?;
    let crc = u32::from_be_bytes(*crc);
    if crc32fast::hash(record) != crc {
        return None;
    }
    let (mut head, payload) = record.split_at_checked(RECORD_OVERHEAD - 4)?;
    head.advance(4);
    let found = Record { offset: head.get_u64(), timestamp_ms: head.get_u64(), crc, payload };
    *bytes = after;
    let belongs = found.offset == offset
        && found.timestamp_ms == header.timestamp_ms
        && head.get_u8() == KIND_PAYLOAD;
    belongs.then_some(found)
}

/// Calls `each` with the records of a batch. `bytes` are the whole batch. Returns whether the batch
/// is valid; if it is not, `each` may have seen some of its records.
pub(super) fn for_each_record<E>(
    header: &Header,
    bytes: &[u8],
    mut each: impl FnMut(Record<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    let Some(body) = bytes.get(HEADER_LEN..header.batch_len()) else { return Ok(false) };
    let (mut records, padding) = body.split_at(header.body_len as usize);
    for offset in header.base..header.next() {
        let Some(record) = take_record(&mut records, header, offset) else { return Ok(false) };
        each(record)?;
    }
    Ok(records.is_empty() && padding.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes are written out by hand: a log must still be read by the versions to come.
    #[test]
    fn a_batch_has_these_bytes() {
        assert_eq!(encoded(), BATCH);
        let header = Header::parse(&BATCH, ID).unwrap();
        assert_eq!((header.count, header.body_len, header.next()), (2, 52, 9));
        let mut records = Vec::new();
        let valid = for_each_record(&header, &BATCH, |record| {
            records.push((record.offset, record.timestamp_ms, record.payload.to_vec(), record.crc));
            Ok::<_, ()>(())
        });
        assert_eq!(valid, Ok(true));
        assert_eq!(records[0], (7, 0x1234, b"hi".to_vec(), record_crc(7, 0x1234, b"hi")));
        assert_eq!(records[1], (8, 0x1234, Vec::new(), record_crc(8, 0x1234, b"")));
    }

    #[test]
    fn the_meta_file_has_these_bytes() {
        let meta = Meta { id: ID, segment_bytes: 64 << 20 };
        assert_eq!(meta.encode(), META_BYTES);
        assert_eq!(Meta::parse(&META_BYTES), FoundMeta::Known(meta));
    }

    #[test]
    fn a_batch_is_invalid_when_cut_anywhere_or_with_any_bit_flipped() {
        for cut in 0..BATCH.len() {
            assert!(!is_valid(&BATCH[..cut]), "cut at {cut}");
        }
        for bit in 0..BATCH.len() * 8 {
            let mut bytes = BATCH;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&bytes), "bit {bit}");
        }
    }

    #[test]
    fn a_batch_of_another_log_is_not_ours() {
        assert!(Header::parse(&BATCH, LogId([9; 16])).is_none());
    }

    /// A batch whose every checksum is right may still be nonsense.
    #[test]
    fn lengths_and_counts_that_do_not_fit_are_refused() {
        let good = Header::parse(&BATCH, ID).unwrap();
        for (count, body_len) in
            [(1, 52), (3, 52), (u32::MAX, 52), (2, 51), (2, 60), (2, 0), (0, 52), (2, u32::MAX)]
        {
            let mut bytes = BATCH.to_vec();
            let header = Header { count, body_len, ..good };
            bytes[..HEADER_LEN].copy_from_slice(&header.encode(ID));
            assert!(!is_valid(&bytes), "{count} records in {body_len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            header in any::<(u64, u64, u64, u32, u8)>(),
        ) {
            prop_assert!(!is_valid(&bytes));
            let (durable_upto, base, timestamp_ms, count, body_len) = header;
            let body_len = u32::from(body_len);
            let header = Header { durable_upto, base, timestamp_ms, count, body_len };
            bytes.splice(..HEADER_LEN.min(bytes.len()), header.encode(ID));
            prop_assert!(!is_valid(&bytes) || count == 0);
        }
    }

    fn is_valid(bytes: &[u8]) -> bool {
        Header::parse(bytes, ID)
            .is_some_and(|header| for_each_record(&header, bytes, |_| Ok::<_, ()>(())) == Ok(true))
    }

    fn encoded() -> Vec<u8> {
        let header =
            Header { durable_upto: 6, base: 7, timestamp_ms: 0x1234, count: 0, body_len: 0 };
        let mut buffer = vec![1, 2, 3];
        let payloads = [Bytes::from_static(b"hi"), Bytes::new()];
        encode_batch(&mut buffer, ID, header, &payloads);
        assert_eq!(buffer.len(), batch_len(&payloads));
        buffer
    }

    const ID: LogId = LogId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    #[rustfmt::skip]
    const BATCH: [u8; 112] = [
        b'T', b'L', b'B', 1, // magic
        0x67, 0x1d, 0xfd, 0xaf, // crc of the header
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, // log id
        0, 0, 0, 0, 0, 0, 0, 6, // durable up to
        0, 0, 0, 0, 0, 0, 0, 7, // base
        0, 0, 0, 0, 0, 0, 0x12, 0x34, // timestamp
        0, 0, 0, 2, // count
        0, 0, 0, 52, // length of the records

        0x31, 0x17, 0x42, 0x37, // crc of the record
        0, 0, 0, 2, // length of the payload
        0, 0, 0, 0, 0, 0, 0, 7, // offset
        0, 0, 0, 0, 0, 0, 0x12, 0x34, // timestamp
        1, // kind
        b'h', b'i',

        0x81, 0x5c, 0x31, 0x00,
        0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 8,
        0, 0, 0, 0, 0, 0, 0x12, 0x34,
        1,

        0, 0, 0, 0, // up to a multiple of 8
    ];

    #[rustfmt::skip]
    const META_BYTES: [u8; META_LEN] = [
        b'T', b'A', b'L', b'K', b'L', b'O', b'G', b'\n',
        0, 0, 0, 1, // version
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, // log id
        0, 0, 0, 0, 4, 0, 0, 0, // segment size
        0x41, 0xbf, 0xd9, 0x69, // crc
    ];
}
