//! Frames as bytes. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{DecodeError, Message};

/// Length, kind, flags, request.
pub(super) const HEADER_LEN: usize = 16;
/// The longest frame of an authenticated peer, header included.
pub(super) const FRAME_LEN_MAX: usize = 16 << 20;
/// The longest frame of a stranger.
pub(super) const HANDSHAKE_FRAME_LEN_MAX: usize = 4 << 10;

/// Kinds from here on are the link's own.
pub(super) const OWN_KINDS: u16 = 0xFF00;
pub(super) const HELLO: u16 = 0xFF00;
pub(super) const CHALLENGE: u16 = 0xFF01;
pub(super) const PROOF: u16 = 0xFF02;
pub(super) const WELCOME: u16 = 0xFF03;
pub(super) const REFUSED: u16 = 0xFF04;
pub(super) const PING: u16 = 0xFF10;

const ANSWER: u16 = 1;

/// One message as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFrame {
    /// What the body is.
    pub kind: u16,
    /// Whether this is the answer to the request of that number.
    pub answer: bool,
    /// The number that question and answer share; 0 where no answer is expected.
    pub request: u64,
    /// The message. A part of the read buffer: copy what is kept for long.
    pub body: Bytes,
}

impl LinkFrame {
    /// The body as a message.
    pub fn parse<M: Message + Default>(&self) -> Result<M, DecodeError> {
        M::decode(self.body.clone())
    }
}

/// What no peer of ours sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(super) struct WrongLength(pub(super) u32);

/// Everything of a header but the length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: u16,
    pub(super) answer: bool,
    pub(super) request: u64,
}

/// Appends a frame with the body that `encode` appends, and returns the frame's length, or takes it
/// back and returns `None` if it is longer than a frame may be.
pub(super) fn put(
    buffer: &mut Vec<u8>,
    head: Head,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Option<usize> {
    let start = buffer.len();
    buffer.put_u32(0);
    buffer.put_u16(head.kind);
    buffer.put_u16(if head.answer { ANSWER } else { 0 });
    buffer.put_u64(head.request);
    encode(buffer);

    let len = buffer.len() - start;
    match u32::try_from(len) {
        Ok(written) if len <= FRAME_LEN_MAX => {
            let length = buffer.get_mut(start..start + 4).expect("the header was just put here");
            length.copy_from_slice(&written.to_be_bytes());
            Some(len)
        }
        _ => {
            buffer.truncate(start);
            None
        }
    }
}

/// Takes the first frame off `buffer`, if all of it has arrived. Copies nothing.
pub(super) fn split(
    buffer: &mut BytesMut,
    len_max: usize,
) -> Result<Option<LinkFrame>, WrongLength> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let Ok(len) = usize::try_from(length) else { return Err(WrongLength(length)) };
    if !(HEADER_LEN..=len_max).contains(&len) {
        return Err(WrongLength(length));
    }
    if buffer.len() < len {
        return Ok(None);
    }
    let mut frame = buffer.split_to(len).freeze();
    frame.advance(4);
    let kind = frame.get_u16();
    let flags = frame.get_u16();
    let request = frame.get_u64();
    Ok(Some(LinkFrame { kind, answer: flags & ANSWER != 0, request, body: frame }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u16, answer: bool, request: u64, body: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        put(&mut buffer, Head { kind, answer, request }, |buffer| buffer.extend_from_slice(body))
            .expect("short enough");
        buffer
    }

    #[test]
    fn the_layout_is_what_the_module_says() {
        assert_eq!(
            frame(0x0102, true, 0x1122_3344_5566_7788, b"hi"),
            [0, 0, 0, 18, 1, 2, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, b'h', b'i']
        );
    }

    #[test]
    fn a_wrong_length_is_refused_on_the_header() {
        for length in [0, 1, 15, 4097, 0x7FFF_FFFF, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert_eq!(split(&mut buffer, HANDSHAKE_FRAME_LEN_MAX), Err(WrongLength(length)));
        }
        let mut header_only = BytesMut::from(&frame(1, false, 0, b"")[..]);
        assert!(split(&mut header_only, 4096).unwrap().unwrap().body.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_leaves_nothing_behind() {
        let mut buffer = b"before".to_vec();
        let head = Head { kind: 1, answer: false, request: 0 };
        let put = put(&mut buffer, head, |buffer| buffer.resize(buffer.len() + FRAME_LEN_MAX, 0));
        assert_eq!(put, None);
        assert_eq!(buffer, b"before");
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec(
                (any::<u16>(), any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..80)),
                0..8,
            ),
            cut in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, answer, request, body)| frame(*kind, *answer, *request, body))
                .collect();
            let mut buffer = BytesMut::new();
            let mut out = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = split(&mut buffer, FRAME_LEN_MAX).unwrap() {
                    out.push((frame.kind, frame.answer, frame.request, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = split(&mut buffer, HANDSHAKE_FRAME_LEN_MAX) {
                prop_assert!(frame.body.len() <= bytes.len());
            }
        }
    }
}
