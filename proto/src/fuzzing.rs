//! What must hold for every input there is, as functions that panic when it does not.
//!
//! The fuzz targets call these with inputs that they make up; the tests call them with the corpus
//! and with random bytes. They are nothing for a running program.

use bytes::{Bytes, BytesMut};

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
