//! What a hook is asked, and what its answer means.
//!
//! Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use daemon::http_client::HttpAnswer;
use proto::cluster::wire::Submit;
use proto::content::Content;
use proto::ids::{ClientMsgId, ConversationId, GroupId, Parties, UserId};
use proto::limits::HOOK_REASON_LEN_MAX;
use proto::text::TextCipher;
use serde::{Deserialize, Serialize};

/// The longest text that a hook may put in place of another, in bytes of UTF-8: encrypted it fits a message.
const TEXT_LEN_MAX: usize = 32 << 10;

/// The longest body of an answer: the longest text, each byte written as six.
pub(super) const ANSWER_LEN_MAX: usize = 6 * TEXT_LEN_MAX + 1_024;

/// Where messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A client of a user.
    Client,
    /// A program, by the HTTP API.
    Api,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    r#type: &'a str,
    data: Message,
}

#[derive(Debug, Serialize)]
struct Message {
    /// The sender's id for it: 32 hex digits.
    id: String,
    from: u32,
    to: To,
    source: Source,
    /// `text`, `voice`, or `unreadable` where no client could read the text.
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// In Base64, of what is no text: the body as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum To {
    User(u32),
    Group(u32),
}

/// What a hook says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// The message passes.
    Allow,
    /// It is refused, for this reason.
    Refuse(String),
    /// It passes with this text.
    Change(String),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
enum Answer {
    Allow {},
    Refuse {
        #[serde(default)]
        reason: String,
    },
    Change {
        text: String,
    },
}

/// The id of a question: the same each time that a message is asked about, wherever it comes in.
pub(super) fn id(submit: &Submit) -> String {
    format!("hook_{}_{}", submit.sender, hex(submit))
}

fn hex(submit: &Submit) -> String {
    ClientMsgId::from_slice(&submit.client_msg_id).map(|id| id.to_string()).unwrap_or_default()
}

/// The body of a question.
pub(super) fn body(submit: &Submit, cipher: &TextCipher, source: Source) -> Bytes {
    let encoded = || Some(BASE64_STANDARD.encode(&submit.body));
    let (kind, text, data) = match Content::of(submit.r#type, &submit.body, cipher) {
        Content::Text(text) => ("text", Some(text), None),
        Content::Voice => ("voice", None, encoded()),
        Content::Unreadable => ("unreadable", None, encoded()),
    };
    let to = match ConversationId::from_number(submit.conversation).map(ConversationId::parties) {
        Some(Parties::Single(UserId(low), UserId(high))) => {
            To::User(if submit.sender == low { high } else { low })
        }
        Some(Parties::Group(GroupId(group))) => To::Group(group),
        // No gateway submits that.
        None => To::User(0),
    };
    let data =
        Message { id: hex(submit), from: submit.sender, to, source, r#type: kind, text, data };
    let body = Body { r#type: "message.admission", data };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// What an answer means; `None` if it is none.
pub(super) fn said(answer: &HttpAnswer) -> Option<Said> {
    if answer.status.as_u16() != 200 {
        return None;
    }
    Some(match serde_json::from_slice(answer.body.as_ref()?).ok()? {
        Answer::Allow {} => Said::Allow,
        Answer::Refuse { reason } if reason.len() <= HOOK_REASON_LEN_MAX => Said::Refuse(reason),
        Answer::Change { text } if (1..=TEXT_LEN_MAX).contains(&text.len()) => Said::Change(text),
        Answer::Refuse { .. } | Answer::Change { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, StatusCode};
    use proto::client::MessageType;
    use proto::limits::MESSAGE_BODY_MAX;
    use serde_json::{Value, json};

    use super::*;
    use crate::hooks::test::submit;

    fn asked(submit: &Submit) -> Value {
        let body = body(submit, &TextCipher::default(), Source::Client);
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_question_has_plain_text_and_sound_in_base64() {
        let hex = "09090909090909090909090909090909";
        let text = submit(MessageType::GroupText, 5);
        let expected = json!({ "type": "message.admission", "data": {
            "id": hex, "from": 5, "to": { "group": 7 }, "source": "client",
            "type": "text", "text": "h\u{e9}llo" } });
        assert_eq!(asked(&text), expected);
        let voice =
            Submit { body: vec![0, 0, 0, 1, 0xff].into(), ..submit(MessageType::SingleVoice, 5) };
        let expected = json!({ "type": "message.admission", "data": {
            "id": hex, "from": 5, "to": { "user": 9 }, "source": "client",
            "type": "voice", "data": "AAAAAf8=" } });
        assert_eq!(asked(&voice), expected);
        assert_eq!(asked(&Submit { sender: 9, ..voice })["data"]["to"], json!({ "user": 5 }));
        let garbage = Submit { body: vec![0xff; 3].into(), ..text };
        assert_eq!(asked(&garbage)["data"]["type"], "unreadable");
        assert_eq!(asked(&garbage)["data"]["data"], "////");
    }

    #[test]
    fn the_id_of_a_question_is_that_of_the_sender_and_the_message() {
        let text = submit(MessageType::GroupText, 5);
        assert_eq!(id(&text), "hook_5_09090909090909090909090909090909");
        let again = Submit { resend: Some(true), epoch: Some(4), ..text };
        assert_eq!(id(&again), "hook_5_09090909090909090909090909090909");
    }

    fn answer(status: u16, body: &str) -> Option<Said> {
        let status = StatusCode::from_u16(status).unwrap();
        let body = Some(Bytes::copy_from_slice(body.as_bytes()));
        said(&HttpAnswer { status, headers: HeaderMap::new(), body })
    }

    #[test]
    fn an_answer_lets_pass_refuses_or_changes_and_everything_else_is_none() {
        assert_eq!(answer(200, r#"{"verdict":"allow"}"#), Some(Said::Allow));
        assert_eq!(answer(200, r#"{"verdict":"allow","later":1}"#), Some(Said::Allow));
        let refused = answer(200, r#"{"verdict":"refuse","reason":"no"}"#);
        assert_eq!(refused, Some(Said::Refuse("no".to_owned())));
        assert_eq!(answer(200, r#"{"verdict":"refuse"}"#), Some(Said::Refuse(String::new())));
        let changed = answer(200, r#"{"verdict":"change","text":"\u00e9"}"#);
        assert_eq!(changed, Some(Said::Change("\u{e9}".to_owned())));
        let long = |len: usize, verdict: &str, key: &str| {
            answer(200, &json!({ "verdict": verdict, key: "x".repeat(len) }).to_string())
        };
        assert!(long(HOOK_REASON_LEN_MAX, "refuse", "reason").is_some());
        assert!(long(TEXT_LEN_MAX, "change", "text").is_some());
        for none in [
            answer(204, r#"{"verdict":"allow"}"#),
            answer(500, r#"{"verdict":"allow"}"#),
            answer(302, ""),
            answer(200, ""),
            answer(200, "allow"),
            answer(200, r#"{"verdict":"maybe"}"#),
            answer(200, r#"{"verdict":"change"}"#),
            answer(200, r#"{"verdict":"change","text":""}"#),
            answer(200, r#"{"verdict":"refuse","reason":7}"#),
            answer(200, r#"{"verdict":"allow"} and more"#),
            long(HOOK_REASON_LEN_MAX + 1, "refuse", "reason"),
            long(TEXT_LEN_MAX + 1, "change", "text"),
            said(&HttpAnswer { status: StatusCode::OK, headers: HeaderMap::new(), body: None }),
        ] {
            assert_eq!(none, None);
        }
    }

    #[test]
    fn the_longest_text_fits_a_message_and_an_answer() {
        let text = "\u{1}".repeat(TEXT_LEN_MAX);
        assert!(TextCipher::default().encrypt(&text).len() <= MESSAGE_BODY_MAX);
        let answer = json!({ "verdict": "change", "text": text }).to_string();
        assert!(answer.len() <= ANSWER_LEN_MAX);
    }
}
