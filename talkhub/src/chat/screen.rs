//! What a conversation looks like in a terminal. Pure: events in, text out.

use client::{Kind, Message, NotSent, Outcome};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proto::client::{KickReason, LoginResult, RefuseReason};
use proto::text::TextCipher;

use crate::terminal::printable;

/// A message with the name of its sender, as `21:05 anna: hello`.
pub(super) fn message(
    message: &Message,
    cipher: &TextCipher,
    sender: &str,
    zone: &TimeZone,
) -> String {
    let text = match message.kind {
        Kind::Text => {
            message.text_with(cipher).unwrap_or_else(|_error| "(cannot be read)".to_owned())
        }
        Kind::Voice => voice(&message.data),
    };
    // Others have written it: it must not move the cursor. A line of a text is a line here.
    let lines: Vec<_> = text.lines().map(printable).collect();
    let text = lines.join("\n      ");
    format!("{} {}: {text}", clock(message.create_time, zone), printable(sender))
}

fn voice(data: &[u8]) -> String {
    let seconds = data.first_chunk().map(|seconds| u32::from_be_bytes(*seconds));
    seconds.map_or_else(|| "(voice)".to_owned(), |seconds| format!("(voice, {seconds} s)"))
}

/// Hours and minutes, as people there count them.
fn clock(unix_seconds: u32, zone: &TimeZone) -> String {
    match Timestamp::from_second(i64::from(unix_seconds)) {
        Ok(time) if unix_seconds != 0 => {
            let time = time.to_zoned(zone.clone());
            format!("{:02}:{:02}", time.hour(), time.minute())
        }
        _ => "--:--".to_owned(),
    }
}

/// What became of a line that was typed.
pub(super) fn outcome(outcome: &Outcome, line: &str) -> String {
    let why = match outcome {
        Outcome::Ok { msg_id, .. } => return format!("✓ {}", msg_id.0),
        Outcome::Refused { text: Some(text), .. } if !text.is_empty() => printable(text),
        Outcome::Refused { reason: Some(reason), .. } => refusal(*reason).to_owned(),
        Outcome::Refused { reason: None, .. } => "the server refuses it".to_owned(),
        Outcome::Unknown => "it is not known whether it was stored".to_owned(),
        Outcome::NotSent(NotSent::Full) => "too many lines have no answer yet".to_owned(),
        Outcome::NotSent(reason) => reason.to_string(),
    };
    format!("✗ {why}: {}", printable(line))
}

fn refusal(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::NotMember => "you are not a member of the group",
        RefuseReason::Blocked => "they do not want messages from you",
        RefuseReason::NoSuchPeer => "there is no such user",
        RefuseReason::NoSuchGroup => "there is no such group",
        RefuseReason::Empty => "there is nothing in it",
        RefuseReason::TooLarge => "it is too long",
        RefuseReason::BadType => "the server does not take such a message",
        RefuseReason::Muted => "you may not write at present",
        RefuseReason::Self_ => "you cannot write to yourself",
        RefuseReason::IdReused => "its id belongs to another message",
        RefuseReason::Full => "the conversation is full",
        RefuseReason::SlowDown => "you write too much at present",
        RefuseReason::ByHook => "a program of the site has refused it",
    }
}

/// Why the server does not let this user in. Its own text is for the clients of its country.
pub(super) fn rejected(result: LoginResult, text: &str) -> String {
    match result {
        LoginResult::BadCredentials => {
            "wrong name or password, or too many attempts with a wrong one".to_owned()
        }
        _ => printable(text),
    }
}

/// Why the server has thrown this device out.
pub(super) fn kicked(reason: Option<KickReason>) -> &'static str {
    match reason {
        Some(KickReason::DuplicateLogin) => "you have logged in elsewhere",
        Some(KickReason::ByMobile) => "your phone has ended this session",
        None => "the server has ended this session",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use client::Conversation;
    use proto::ids::{MsgId, UserId};

    use super::*;

    fn said(kind: Kind, data: Bytes, create_time: u32) -> Message {
        Message {
            conversation: Conversation::user(2),
            msg_id: MsgId(1),
            from: UserId(2),
            create_time,
            kind,
            data,
            client_msg_id: None,
        }
    }

    fn shown(kind: Kind, data: Bytes, create_time: u32) -> String {
        let said = said(kind, data, create_time);
        message(&said, &TextCipher::default(), "u2", &TimeZone::fixed(jiff::tz::offset(2)))
    }

    #[test]
    fn a_text_is_read_with_the_key_of_the_site() {
        let cipher = TextCipher::new(&[7; 32]);
        let line = |cipher| {
            let data = TextCipher::new(&[7; 32]).encrypt("hello");
            message(&said(Kind::Text, data, 0), cipher, "u2", &TimeZone::UTC)
        };
        assert_eq!(line(&cipher), "--:-- u2: hello");
        assert_eq!(line(&TextCipher::default()), "--:-- u2: (cannot be read)");
    }

    #[test]
    fn a_line_has_the_local_time_the_sender_and_the_text() {
        let noon = 1_767_268_800; // 2026-01-01 12:00 UTC
        assert_eq!(shown(Kind::Text, proto::text::encrypt("hello"), noon), "14:00 u2: hello");
        assert_eq!(
            shown(Kind::Text, proto::text::encrypt("two\nlines"), noon),
            "14:00 u2: two\n      lines"
        );
        assert_eq!(shown(Kind::Text, proto::text::encrypt("x"), 0), "--:-- u2: x");
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        assert_eq!(
            shown(Kind::Voice, Bytes::from_static(b"\0\0\0\x05xxx"), 0),
            "--:-- u2: (voice, 5 s)"
        );
        assert_eq!(shown(Kind::Voice, Bytes::from_static(b"\0"), 0), "--:-- u2: (voice)");
        assert_eq!(shown(Kind::Text, Bytes::from_static(b"!"), 0), "--:-- u2: (cannot be read)");
    }

    #[test]
    fn a_text_cannot_move_the_cursor() {
        let text = shown(Kind::Text, proto::text::encrypt("a\u{1b}[2J\rb"), 0);
        assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
    }

    #[test]
    fn a_line_that_was_not_stored_is_shown_with_the_reason() {
        let ok = Outcome::Ok { msg_id: MsgId(7), create_time: 0 };
        assert_eq!(outcome(&ok, "hi"), "✓ 7");
        let refused = Outcome::Refused { reason: Some(RefuseReason::NotMember), text: None };
        assert_eq!(outcome(&refused, "hi"), "✗ you are not a member of the group: hi");
        let by_hook = |text: &str| Outcome::Refused {
            reason: Some(RefuseReason::ByHook),
            text: Some(text.to_owned()),
        };
        for (other, why) in [
            (by_hook("not\u{1b}here"), "not\u{fffd}here"),
            (by_hook(""), "a program of the site has refused it"),
            (Outcome::Refused { reason: None, text: None }, "the server refuses it"),
            (Outcome::Unknown, "it is not known whether it was stored"),
            (Outcome::NotSent(NotSent::Full), "too many lines have no answer yet"),
            (Outcome::NotSent(NotSent::Ended), "the client has ended"),
        ] {
            assert_eq!(outcome(&other, "a\u{1b}b"), format!("✗ {why}: a\u{fffd}b"));
        }
    }

    #[test]
    fn every_refusal_has_words_of_its_own() {
        let reasons = (0..100).filter_map(|number| RefuseReason::try_from(number).ok());
        let mut words: Vec<_> = reasons.map(refusal).collect();
        assert_eq!(words.len(), 13);
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 13, "{words:?}");
    }

    #[test]
    fn why_one_is_not_let_in_or_thrown_out_is_said_in_plain_words() {
        let wrong = rejected(LoginResult::BadCredentials, "text of its own");
        assert!(wrong.starts_with("wrong name or password"), "{wrong}");
        assert_eq!(rejected(LoginResult::VersionTooOld, "a\u{1b}b"), "a\u{fffd}b");
        assert_eq!(kicked(Some(KickReason::DuplicateLogin)), "you have logged in elsewhere");
        assert_eq!(kicked(Some(KickReason::ByMobile)), "your phone has ended this session");
        assert_eq!(kicked(None), "the server has ended this session");
    }
}
