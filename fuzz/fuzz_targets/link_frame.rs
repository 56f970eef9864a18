//! Whatever a peer among the daemons sends gives frames or an error, the same ones however it
//! arrives, and what is in a frame is read or refused.

#![no_main]

use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::cluster::{Kind, wire};

#[path = "../../daemon/src/link/frame.rs"]
#[expect(dead_code, reason = "only what takes bytes apart and puts them together is of interest")]
mod frame;

use frame::{FRAME_LEN_MAX, HANDSHAKE_FRAME_LEN_MAX, Head, LinkFrame};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for len_max in [HANDSHAKE_FRAME_LEN_MAX, FRAME_LEN_MAX] {
        let frames = frames_of(data, data.len().max(1), len_max);
        assert_eq!(frames, frames_of(data, 1, len_max), "the frames depend on the cuts");
        for frame in &frames {
            check_head(frame);
            check_body(frame);
        }
    }
});

fn frames_of(data: &[u8], piece_len: usize, len_max: usize) -> Vec<LinkFrame> {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in data.chunks(piece_len) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::split(&mut buffer, len_max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// A frame that was put together from a frame is that frame.
fn check_head(frame: &LinkFrame) {
    let mut written = Vec::new();
    let head = Head { kind: frame.kind, answer: frame.answer, request: frame.request };
    let put = frame::put(&mut written, head, |buffer| buffer.extend_from_slice(&frame.body));
    assert_eq!(put, Some(written.len()));
    let mut buffer = BytesMut::from(&written[..]);
    assert_eq!(frame::split(&mut buffer, FRAME_LEN_MAX).as_ref(), Ok(&Some(frame.clone())));
    assert!(buffer.is_empty());
}

fn check_body(frame: &LinkFrame) {
    let Some(kind) = Kind::from_number(frame.kind) else { return };
    let body = &frame.body;
    match (kind, frame.answer) {
        (Kind::LoadReport, false) => check::<wire::LoadReport>(body),
        (Kind::LoadReport, true) => check::<wire::LoadVerdict>(body),
        (Kind::Submit, _) => check::<wire::Submit>(body),
        (Kind::SubmitAnswer, _) => check::<wire::SubmitAnswer>(body),
        (Kind::Ask, false) => check::<wire::Ask>(body),
        (Kind::Ask, true) => check::<wire::Answer>(body),
        (Kind::Verify, false) => check::<wire::Verify>(body),
        (Kind::Verify, true) => check::<wire::Verified>(body),
        (Kind::Resume, false) => check::<wire::Resume>(body),
        (Kind::Resume, true) => check::<wire::Verified>(body),
        (Kind::Token, false) => check::<wire::TokenQuestion>(body),
        (Kind::Token, true) => check::<wire::TokenAnswer>(body),
        (Kind::Memberships, false) => check::<wire::MembershipsRequest>(body),
        (Kind::Memberships, true) => check::<wire::Memberships>(body),
        (Kind::Fetch, false) => check::<wire::FetchRequest>(body),
        (Kind::Fetch, true) => check::<wire::Fetched>(body),
        (Kind::Admin, false) => check::<wire::AdminRequest>(body),
        (Kind::Admin, true) => check::<wire::AdminAnswer>(body),
        (Kind::Follow, _) => check::<wire::Follow>(body),
        (Kind::Changes, _) => check::<wire::Changes>(body),
        (Kind::Ownership, _) => check::<wire::Ownership>(body),
        (Kind::Sessions, false) => check::<wire::SessionsRequest>(body),
        (Kind::Sessions, true) => check::<wire::Sessions>(body),
        (Kind::FrameFate, false) => check::<wire::FrameQuestion>(body),
        (Kind::FrameFate, true) => check::<wire::FrameFate>(body),
        (Kind::Publish, false) => check::<wire::Publish>(body),
        (Kind::Publish, true) => check::<wire::PublishAck>(body),
        (Kind::InterestTable, _) => check::<wire::InterestTable>(body),
        (Kind::InterestChange, false) => check::<wire::InterestChange>(body),
        (Kind::InterestChange, true) => check::<wire::Registered>(body),
        (Kind::InterestChecksum, _) => check::<wire::InterestChecksum>(body),
        (Kind::InterestAgain, _) => check::<wire::InterestAgain>(body),
        (Kind::Kick, _) => check::<wire::Kick>(body),
        (Kind::Forward, _) => check::<wire::Forward>(body),
        (Kind::PresenceChanges, _) => check::<wire::PresenceChanges>(body),
        (Kind::Status, false) => check::<wire::StatusRequest>(body),
        (Kind::Status, true) => check::<wire::Status>(body),
    }
}

/// A body that can be read has one form that we write, and that form reads as the same message.
fn check<M: Message + Default + PartialEq>(body: &Bytes) {
    let Ok(message) = M::decode(body.clone()) else { return };
    let written = Bytes::from(message.encode_to_vec());
    assert!(M::decode(written).is_ok_and(|again| again == message), "the message changed");
}
