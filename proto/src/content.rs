//! What a message says, as programs are shown it that do not encrypt: those of the HTTP API, webhooks, hooks.

use crate::client::MessageType;
use crate::text::TextCipher;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text, decrypted.
    Text(String),
    /// A voice message. Its body is the length in seconds (four bytes, big-endian), and the sound.
    Voice,
    /// A text that no client could read, or a type of message that this build does not know.
    Unreadable,
}

impl Content {
    /// What a message of this type and with this body says.
    pub fn of(kind: u32, body: &[u8], cipher: &TextCipher) -> Self {
        if is_voice(kind) {
            return Self::Voice;
        }
        let kinds = [MessageType::SingleText, MessageType::GroupText].map(|kind| kind as u32);
        let text = kinds.contains(&kind).then(|| cipher.decrypt(body).ok()).flatten();
        text.map_or(Self::Unreadable, Self::Text)
    }
}

/// Whether a message of this type is a voice message.
pub fn is_voice(kind: u32) -> bool {
    let kinds = [MessageType::SingleVoice, MessageType::GroupVoice].map(|kind| kind as u32);
    kinds.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_text_a_voice_message_or_what_no_client_could_read() {
        let (cipher, text) = (TextCipher::default(), TextCipher::default().encrypt("h\u{e9}llo"));
        let of = |kind: u32, body: &[u8]| Content::of(kind, body, &cipher);
        for kind in [MessageType::SingleText as u32, MessageType::GroupText as u32] {
            assert_eq!(of(kind, &text), Content::Text("h\u{e9}llo".to_owned()));
            assert_eq!(of(kind, b"!"), Content::Unreadable);
        }
        for kind in [MessageType::SingleVoice as u32, MessageType::GroupVoice as u32] {
            assert_eq!(of(kind, &text), Content::Voice);
        }
        assert_eq!(of(0, &text), Content::Unreadable);
        assert_eq!(of(u32::MAX, &text), Content::Unreadable);
    }
}
