//! What must hold for every byte that comes on a link, as a function that panics when it does not.
//!
//! The fuzz target calls it with inputs that it makes up; the tests call it with the corpus.

use bytes::BytesMut;

use super::frame::{self, FRAME_LEN_MAX, HANDSHAKE_FRAME_LEN_MAX, Head, LinkFrame};

/// `data` is what a peer among the daemons sent: it gives frames or an error, the same ones however it
/// arrives, and a frame can be put together again. Returns the frames.
pub fn link_frames(data: &[u8]) -> Vec<LinkFrame> {
    let mut all = Vec::new();
    for len_max in [HANDSHAKE_FRAME_LEN_MAX, FRAME_LEN_MAX] {
        let frames = frames_of(data, data.len().max(1), len_max);
        assert_eq!(frames, frames_of(data, 1, len_max), "the frames depend on the cuts");
        frames.iter().for_each(check_head);
        all.extend(frames);
    }
    all
}

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/link_frame");
        let files = fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()));
        let files: Vec<Vec<u8>> = files.collect::<Result<_, _>>().unwrap();
        assert!(files.len() >= 5, "{} files", files.len());
        assert!(files.iter().any(|data| !link_frames(data).is_empty()));
    }
}
