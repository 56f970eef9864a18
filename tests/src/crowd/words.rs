//! What people say: mostly the same few words, as people do, sometimes something that was never said
//! before, a voice message, or something long.

use bytes::{BufMut, Bytes, BytesMut};
use client::{Conversation, Kind};
use proto::limits::MESSAGE_BODY_MAX;

use crate::Random;

/// What everybody says.
const COMMON: [&str; 4] = ["ok", "hi", "yes", "👍"];
/// The longest of the long texts, before they are encrypted: they may have 64 KiB then.
const LONG_MAX: u64 = 40_000;

/// What one device says.
#[derive(Debug)]
pub(super) struct Words {
    random: Random,
    who: String,
    said: u32,
}

impl Words {
    pub(super) fn new(user: u32, device: u32) -> Self {
        let random = Random::from_seed(u64::from(user) << 8 | u64::from(device));
        Self { random, who: format!("u{user}/{device}"), said: 0 }
    }

    /// The next thing to say there.
    pub(super) fn next(&mut self, to: Conversation) -> (Kind, Bytes) {
        self.said += 1;
        match self.random.below(100) {
            0..40 => (Kind::Text, proto::text::encrypt(COMMON[self.random.index(COMMON.len())])),
            40..46 => (Kind::Voice, self.voice(2_000)),
            46 => {
                let chars = usize::try_from(self.random.below(LONG_MAX)).unwrap_or(0);
                (Kind::Text, proto::text::encrypt(&"long ".repeat(chars / 5 + 1)))
            }
            // As long as a message may be; not to many.
            47 if self.said.is_multiple_of(8) && matches!(to, Conversation::User(_)) => {
                (Kind::Voice, self.voice(MESSAGE_BODY_MAX))
            }
            _ => {
                let text = format!("{} from {}", self.said, self.who);
                (Kind::Text, proto::text::encrypt(&text))
            }
        }
    }

    /// A voice message of this many bytes: its length in seconds, then bytes without a meaning.
    fn voice(&mut self, bytes: usize) -> Bytes {
        let mut data = BytesMut::with_capacity(bytes);
        data.put_u32(3);
        let filler = u8::try_from(self.random.below(256)).unwrap_or(0);
        data.resize(bytes, filler);
        data.freeze()
    }
}
