//! What must hold for every input there is, as functions that panic when it does not.
//!
//! The fuzz targets call these with inputs that they make up; the tests call them with the corpus
//! and with random bytes. They are nothing for a running program.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::cluster::{Kind, wire};
use crate::frame::{self, Frame};
use crate::limits::LIMIT_AFTER_LOGIN;
use crate::text;

/// `data` is what a client sent after its login: it gives the same frames however it arrives, and
/// every frame and body can be written again and read back.
pub fn client_frame(data: &[u8]) {
    let frames = frames_of(data, data.len().max(1));
    assert_eq!(frames, frames_of(data, 1), "the frames depend on where the stream was cut");

    for frame in &frames {
        let encoded = frame.encode();
        assert_eq!(
            frames_of(&encoded, encoded.len()),
            std::slice::from_ref(frame),
            "the frame changed"
        );
        check_body(frame);
    }
}

/// `data` came as the content of a text message: it is refused, or it is a text that can be
/// encrypted and read back.
pub fn text(data: &[u8]) {
    if let Ok(text) = text::decrypt(data) {
        assert_eq!(text::decrypt(&text::encrypt(&text)).as_ref(), Ok(&text), "the text changed");
    }
}

/// Reads the frames of `data`, which arrives in pieces of `piece_len`, up to the first that is
/// none.
fn frames_of(data: &[u8], piece_len: usize) -> Vec<Frame> {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in data.chunks(piece_len) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::decode(&mut buffer, LIMIT_AFTER_LOGIN) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// A body that can be read has one form that we write, and that form reads as the same message.
fn check_body(frame: &Frame) {
    let Some(command) = frame.known_command() else { return };
    let Ok(written) = command.reencode(frame.body.clone()) else { return };
    let again = command.reencode(Bytes::from(written.clone()));
    assert_eq!(again.as_ref(), Ok(&written), "the {} changed", command.name());
}

/// `body` came on a link in a frame of this kind: it is refused, or it is a message that can be written
/// again and read back.
pub fn link_body(kind: u16, answer: bool, body: &Bytes) {
    let Some(kind) = Kind::from_number(kind) else { return };
    match (kind, answer) {
        (Kind::LoadReport, false) => check_message::<wire::LoadReport>(body),
        (Kind::LoadReport, true) => check_message::<wire::LoadVerdict>(body),
        (Kind::Submit, _) => check_message::<wire::Submit>(body),
        (Kind::SubmitAnswer, _) => check_message::<wire::SubmitAnswer>(body),
        (Kind::Ask, false) => check_message::<wire::Ask>(body),
        (Kind::Ask, true) => check_message::<wire::Answer>(body),
        (Kind::Verify, false) => check_message::<wire::Verify>(body),
        (Kind::Resume, false) => check_message::<wire::Resume>(body),
        (Kind::Verify | Kind::Resume, true) => check_message::<wire::Verified>(body),
        (Kind::Token, false) => check_message::<wire::TokenQuestion>(body),
        (Kind::Token, true) => check_message::<wire::TokenAnswer>(body),
        (Kind::Memberships, false) => check_message::<wire::MembershipsRequest>(body),
        (Kind::Memberships, true) => check_message::<wire::Memberships>(body),
        (Kind::Fetch, false) => check_message::<wire::FetchRequest>(body),
        (Kind::Fetch, true) => check_message::<wire::Fetched>(body),
        (Kind::Admin, false) => check_message::<wire::AdminRequest>(body),
        (Kind::Admin, true) => check_message::<wire::AdminAnswer>(body),
        (Kind::Follow, _) => check_message::<wire::Follow>(body),
        (Kind::Changes, _) => check_message::<wire::Changes>(body),
        (Kind::Ownership, _) => check_message::<wire::Ownership>(body),
        (Kind::Sessions, false) => check_message::<wire::SessionsRequest>(body),
        (Kind::Sessions, true) => check_message::<wire::Sessions>(body),
        (Kind::FrameFate, false) => check_message::<wire::FrameQuestion>(body),
        (Kind::FrameFate, true) => check_message::<wire::FrameFate>(body),
        (Kind::Consume, _) => check_message::<wire::Consume>(body),
        (Kind::Records, _) => check_message::<wire::Records>(body),
        (Kind::Handled, _) => check_message::<wire::Handled>(body),
        (Kind::Publish, false) => check_message::<wire::Publish>(body),
        (Kind::Publish, true) => check_message::<wire::PublishAck>(body),
        (Kind::InterestTable, _) => check_message::<wire::InterestTable>(body),
        (Kind::InterestChange, false) => check_message::<wire::InterestChange>(body),
        (Kind::InterestChange, true) => check_message::<wire::Registered>(body),
        (Kind::InterestChecksum, _) => check_message::<wire::InterestChecksum>(body),
        (Kind::InterestAgain, _) => check_message::<wire::InterestAgain>(body),
        (Kind::Kick, _) => check_message::<wire::Kick>(body),
        (Kind::Forward, _) => check_message::<wire::Forward>(body),
        (Kind::PresenceChanges, _) => check_message::<wire::PresenceChanges>(body),
        (Kind::Status, false) => check_message::<wire::StatusRequest>(body),
        (Kind::Status, true) => check_message::<wire::Status>(body),
    }
}

/// A body that can be read has one form that we write, and that form reads as the same message.
fn check_message<M: Message + Default + PartialEq>(body: &Bytes) {
    let Ok(message) = M::decode(body.clone()) else { return };
    let written = Bytes::from(message.encode_to_vec());
    assert!(M::decode(written).is_ok_and(|again| again == message), "the message changed");
}
