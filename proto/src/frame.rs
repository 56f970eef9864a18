//! Frames: the outermost layer of every connection with a client.
//!
//! A frame is a header followed by a body, and the body is one protobuf message, which may be
//! empty.
//!
//! ```text
//!  0        4         6      8         10        12    14         16
//!  +--------+---------+------+---------+---------+-----+----------+------------ - -
//!  | length | version | flag | service | command | seq | reserved | body
//!  +--------+---------+------+---------+---------+-----+----------+------------ - -
//!    u32      u16       u16    u16       u16       u16   u16        length - 16 bytes
//! ```
//!
//! All numbers are big-endian. `length` counts the header and the body. `seq` is chosen by the side
//! that asks and repeated in the answer; a push carries 0. Version, flag, service and reserved are read
//! whatever they are, since clients disagree about them; we write 1, 0, `command >> 8` and 0.
//!
//! # Invariants
//!
//! - Decoding is total. Any bytes give frames, "not enough yet", or a [`FrameError`]; never a
//!   panic.
//! - A length is checked, against the connection's limit and the command's, before anything is
//!   allocated for it, and then memory grows with the bytes that come, not with the promise.
//! - After a [`FrameError`] it is unknown where the next frame starts: the connection must close.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{DecodeError, Message};

use crate::command::{self, Command};
use crate::limits::{HEADER_LEN, RESERVE_AHEAD};

/// What we write as version. It is not checked by anyone.
const VERSION: u16 = 1;

/// One unit of conversation between a client and a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is about; not every number is a [`Command`].
    pub command: u16,
    /// Pairs an answer with its request; 0 where there is none.
    pub seq: u16,
    /// The encoded message that belongs to the command.
    pub body: Bytes,
}

impl Frame {
    /// Returns the command, if this build knows it.
    pub fn known_command(&self) -> Option<Command> {
        Command::from_number(self.command)
    }

    /// Returns whether this is a frame with that command.
    pub fn is(&self, command: Command) -> bool {
        self.command == command.number()
    }

    /// Reads the body as an `M`. Fields that are missing read as 0 or empty, required or not.
    pub fn parse<M: Message + Default>(&self) -> Result<M, DecodeError> {
        // Cloning shares the bytes, so that a field of bytes is a slice of the frame.
        M::decode(self.body.clone())
    }

    /// Returns this frame as bytes.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(HEADER_LEN.saturating_add(self.body.len()));
        put_header(&mut buffer, self.command, self.seq, self.body.len());
        buffer.put_slice(&self.body);
        buffer.freeze()
    }
}

/// Why bytes from a peer are not a frame, or a frame cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The header names a length that is less than the header itself.
    #[error("frame length {0} is less than {HEADER_LEN}")]
    TooShort(usize),
    /// The frame is longer than this connection, at present, or this command allows.
    #[error("frame length {len} of command {command:#06x} is above {limit}")]
    TooLong {
        /// The command that the header names.
        command: u16,
        /// The seq that the header names.
        seq: u16,
        /// The length that the header names.
        len: usize,
        /// What would have been allowed.
        limit: usize,
    },
    /// The socket failed while a frame was read or written.
    #[error("read or write the socket")]
    Io(#[from] io::Error),
}

/// Takes the next frame from the front of `buffer`, or `None` while it is not all there.
///
/// No frame may be longer than `max_len`, or than the limit of its command if that is less.
pub fn decode(buffer: &mut BytesMut, max_len: usize) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let header = Header::parse(*header, max_len)?;

    let missing = header.frame_len.saturating_sub(buffer.len());
    if missing > 0 {
        buffer.reserve(missing.min(RESERVE_AHEAD));
        return Ok(None);
    }

    let mut frame = buffer.split_to(header.frame_len);
    frame.advance(HEADER_LEN);
    Ok(Some(Frame { command: header.command, seq: header.seq, body: frame.freeze() }))
}

/// Returns a whole frame with `message` in it, made in one allocation.
pub fn encode_message(command: Command, seq: u16, message: &impl Message) -> Bytes {
    let body_len = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(HEADER_LEN.saturating_add(body_len));
    put_header(&mut buffer, command.number(), seq, body_len);
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// Returns `frame`, which is a whole encoded frame, with `extra_body` added to its end.
///
/// Protobuf fields may stand in any order, so this adds fields to a message that is encoded
/// already: those of the extension ([`client::MessageExtension`](crate::client::MessageExtension)),
/// for the connections that said hello.
pub fn extend(frame: &Bytes, extra_body: &[u8]) -> Bytes {
    let frame_len = frame.len().saturating_add(extra_body.len());
    let mut buffer = BytesMut::with_capacity(frame_len);
    buffer.put_u32(wire_len(frame_len));
    buffer.put_slice(frame.get(size_of::<u32>()..).unwrap_or_default());
    buffer.put_slice(extra_body);
    buffer.freeze()
}

/// What matters of a header whose length has been checked.
struct Header {
    frame_len: usize,
    command: u16,
    seq: u16,
}

impl Header {
    fn parse(bytes: [u8; HEADER_LEN], max_len: usize) -> Result<Self, FrameError> {
        let mut bytes = &bytes[..];
        let len = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
        let _version = bytes.get_u16();
        let _flag = bytes.get_u16();
        let _service = bytes.get_u16();
        let command = bytes.get_u16();
        let seq = bytes.get_u16();

        if len < HEADER_LEN {
            return Err(FrameError::TooShort(len));
        }
        let limit = max_len.min(command::size_limit_of(command));
        if len > limit {
            return Err(FrameError::TooLong { command, seq, len, limit });
        }
        Ok(Self { frame_len: len, command, seq })
    }
}

fn put_header(buffer: &mut BytesMut, command: u16, seq: u16, body_len: usize) {
    buffer.put_u32(wire_len(HEADER_LEN.saturating_add(body_len)));
    buffer.put_u16(VERSION);
    buffer.put_u16(0); // flag
    buffer.put_u16(command >> 8); // service
    buffer.put_u16(command);
    buffer.put_u16(seq);
    buffer.put_u16(0); // reserved
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("no message comes near 4 GiB: every list in one is cut to a page")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;
    use crate::limits::{KIB, LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN, LIMIT_TO_CLIENT};

    /// The bytes are written out by hand: a test that only encodes and decodes again would still
    /// pass if both sides moved a field together, and the clients would not.
    #[test]
    fn a_heartbeat_has_these_bytes() {
        assert_eq!(encode_message(Command::Heartbeat, 0, &client::Heartbeat {}), HEARTBEAT[..]);
        assert_eq!(decode_all(&HEARTBEAT), [frame(0x0701, 0, b"")]);
    }

    #[test]
    fn a_login_has_these_bytes() {
        let request = login();
        assert_eq!(encode_message(Command::LoginRequest, 1, &request), login_bytes());

        let frames = decode_all(&login_bytes());
        assert_eq!(frames[0].known_command(), Some(Command::LoginRequest));
        assert_eq!(frames[0].seq, 1);
        assert_eq!(frames[0].parse::<client::LoginRequest>().unwrap(), request);
        assert_eq!(frames[0].encode(), login_bytes());
    }

    #[test]
    fn version_flag_service_and_reserved_may_be_anything() {
        let mut odd = HEARTBEAT;
        for (version, byte) in [(0, 0), (6, 48), (13, 1), (0xff, 0xff)] {
            odd[4..6].fill(version);
            odd[6..10].fill(byte);
            odd[14..16].fill(byte);
            assert_eq!(decode_all(&odd), [frame(0x0701, 0, b"")]);
        }
    }

    #[test]
    fn a_service_is_written_as_the_upper_half_of_the_command() {
        let encoded = frame(0x2003, 7, b"").encode();
        assert_eq!(encoded[..], [0, 0, 0, 16, 0, 1, 0, 0, 0, 0x20, 0x20, 3, 0, 7, 0, 0]);
    }

    /// TCP may cut a frame anywhere, so cut it everywhere.
    #[test]
    fn a_frame_survives_every_cut() {
        let bytes = login_bytes();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut buffer = BytesMut::from(first);
            assert!(decode(&mut buffer, LIMIT_BEFORE_LOGIN).unwrap().is_none(), "cut at {cut}");
            buffer.extend_from_slice(second);
            let frame = decode(&mut buffer, LIMIT_BEFORE_LOGIN).unwrap().unwrap();
            assert_eq!(frame.parse::<client::LoginRequest>().unwrap(), login(), "cut at {cut}");
            assert!(buffer.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_below_the_header_is_refused() {
        for len in 0..16 {
            let mut buffer = BytesMut::from(&header(len, 0x0701)[..]);
            let error = decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap_err();
            assert!(matches!(error, FrameError::TooShort(_)), "{len}: {error}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_anything_is_allocated_for_it() {
        let too_long = [512 * 1024 + 1, 1 << 20, (1 << 31) - 1, 1 << 31, u32::MAX];
        for len in too_long {
            let mut buffer = BytesMut::from(&header(len, 0x0301)[..]);
            let capacity = buffer.capacity();
            let error = decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap_err();
            let is_told = matches!(error, FrameError::TooLong { command: 0x0301, seq: 0, .. });
            assert!(is_told, "{len}: {error}");
            assert_eq!(buffer.capacity(), capacity, "{len}");
        }
    }

    #[test]
    fn memory_grows_with_what_comes_and_not_with_what_is_promised() {
        let promised = 512 * 1024;
        let mut buffer = BytesMut::from(&header(promised, 0x0301)[..]);
        assert!(decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap().is_none());
        assert!(buffer.capacity() <= 2 * RESERVE_AHEAD, "{}", buffer.capacity());

        while buffer.len() < promised as usize {
            let piece = (promised as usize - buffer.len()).min(1000);
            buffer.extend_from_slice(&[0; 1000][..piece]);
            if buffer.len() < promised as usize {
                assert!(decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap().is_none());
                assert!(buffer.capacity() <= 2 * (buffer.len() + RESERVE_AHEAD));
            }
        }
        assert!(decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap().is_some());
    }

    #[test]
    fn before_the_login_the_limit_is_small_and_afterwards_it_is_not() {
        let header = header(4097, 0x0301);
        let read = |limit| decode(&mut BytesMut::from(&header[..]), limit);
        assert!(read(LIMIT_BEFORE_LOGIN).is_err());
        assert!(read(LIMIT_AFTER_LOGIN).unwrap().is_none());
    }

    #[test]
    fn every_command_is_held_to_its_own_limit() {
        for number in 0..=u16::MAX {
            let limit = command::size_limit_of(number);
            let len = u32::try_from(limit).unwrap();
            let mut fits = BytesMut::from(&header(len, number)[..]);
            assert!(decode(&mut fits, LIMIT_AFTER_LOGIN).unwrap().is_none(), "{number:#06x}");
            let mut too_long = BytesMut::from(&header(len + 1, number)[..]);
            assert!(decode(&mut too_long, LIMIT_AFTER_LOGIN).is_err(), "{number:#06x}");
        }
    }

    #[test]
    fn a_frame_is_extended_by_fields_and_by_nothing_else() {
        let message = client::MessageData { msg_data: "hi".into(), ..Default::default() };
        let plain = encode_message(Command::MessageData, 9, &message);
        let id = Some(Bytes::from_static(b"0123456789abcdef"));
        let extra = client::MessageExtension { client_msg_id: id.clone(), resend: Some(true) };
        let extended = extend(&plain, &extra.encode_to_vec());

        let whole = client::MessageData { client_msg_id: id, resend: Some(true), ..message };
        assert_eq!(extended, encode_message(Command::MessageData, 9, &whole));
        assert_eq!(extend(&plain, &[]), plain);
    }

    #[test]
    fn extending_what_is_no_frame_does_no_harm() {
        for len in 0..4 {
            assert_eq!(extend(&Bytes::from(vec![7; len]), b"x").last(), Some(&b'x'));
        }
    }

    #[test]
    fn a_body_of_bytes_is_a_slice_of_the_frame() {
        let message = client::MessageData { msg_data: vec![1; 100].into(), ..Default::default() };
        let frames = decode_all(&encode_message(Command::MessageData, 9, &message));
        let parsed: client::MessageData = frames[0].parse().unwrap();
        let frame = frames[0].body.as_ptr_range();
        assert!(frame.contains(&parsed.msg_data.as_ptr()), "it was copied");
    }

    #[test]
    fn a_frame_for_android_is_within_its_limit() {
        const { assert!(LIMIT_TO_CLIENT + KIB <= 409_600) };
    }

    const HEARTBEAT: [u8; 16] = [0, 0, 0, 16, 0, 1, 0, 0, 0, 7, 7, 1, 0, 0, 0, 0];

    fn login() -> client::LoginRequest {
        client::LoginRequest {
            user_name: "yux".into(),
            password: "202cb962ac59075b964b07152d234b70".into(),
            online_status: client::UserStatus::Online.into(),
            client_type: client::ClientType::Mac.into(),
            client_version: Some("1.0".into()),
        }
    }

    fn login_bytes() -> Vec<u8> {
        [
            &b"\0\0\0\x40\0\x01\0\0\0\x01\x01\x03\0\x01\0\0"[..],
            b"\x0a\x03yux",
            b"\x12\x20202cb962ac59075b964b07152d234b70",
            b"\x18\x01\x20\x02\x2a\x031.0",
        ]
        .concat()
    }

    fn frame(command: u16, seq: u16, body: &'static [u8]) -> Frame {
        Frame { command, seq, body: Bytes::from_static(body) }
    }

    /// A header with nothing wrong except, perhaps, its length.
    fn header(len: u32, command: u16) -> [u8; HEADER_LEN] {
        let mut header = HEARTBEAT;
        header[..4].copy_from_slice(&len.to_be_bytes());
        header[10..12].copy_from_slice(&command.to_be_bytes());
        header
    }

    fn decode_all(wire: &[u8]) -> Vec<Frame> {
        let mut buffer = BytesMut::from(wire);
        let mut frames = Vec::new();
        while let Some(frame) = decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap() {
            frames.push(frame);
        }
        assert!(buffer.is_empty());
        frames
    }
}
