//! What a db_proxy is asked for each call about messages, and what the program is told.

use proto::client::UnreadSession;
use proto::cluster::wire::{AskStatus, Reason};
use proto::text;
use serde_json::json;

use super::*;
use crate::test::{Asked, Site};

#[test]
fn a_name_stands_for_one_message_of_a_key_and_a_sender() {
    let id = named_id("ci", UserId(1), "build 7", None);
    assert_eq!(id, named_id("ci", UserId(1), "build 7", None));
    for other in [
        named_id("hr", UserId(1), "build 7", None),
        named_id("ci", UserId(2), "build 7", None),
        named_id("ci", UserId(1), "build 8", None),
        named_id("ci", UserId(1), "build 7", Some(UserId(2))),
        named_id("ci", UserId(1), "build 7", Some(UserId(3))),
    ] {
        assert_ne!(id, other);
    }
    // Names last for ever, so this must never change.
    assert_eq!(id.0[..4], [229, 15, 237, 27]);
}

#[test]
fn what_is_said_is_text_sound_or_bytes_that_cannot_be_read() {
    let json = |kind: MessageType, data: &[u8]| {
        let msg_data = data.to_vec().into();
        let (msg_id, from_user_id, create_time) = (7, 2, 9);
        let msg_type = kind.into();
        let info = MessageInfo { msg_id, from_user_id, create_time, msg_type, msg_data };
        serde_json::to_string(&Said::of(&info, &TextCipher::default())).unwrap()
    };
    assert_eq!(
        json(MessageType::GroupText, &text::encrypt("h\u{e9}llo")),
        r#"{"msg_id":7,"from":2,"created":9,"type":"text","text":"héllo"}"#
    );
    let voice = json(MessageType::SingleVoice, &[0, 0, 0, 5, 255]);
    assert!(voice.ends_with(r#""type":"voice","data":"AAAABf8="}"#), "{voice}");
    let bad = json(MessageType::SingleText, b"no text");
    assert!(bad.contains(r#""type":"unreadable""#), "{bad}");
}

#[test]
fn a_place_is_a_user_or_a_group_in_json_and_nothing_else() {
    let read = |json: &str| serde_json::from_str::<Outgoing>(json).map(|message| message.to);
    let with = |to: &str| format!(r#"{{"from":1,"to":{to},"text":"x"}}"#);
    assert_eq!(read(&with(r#"{"user":2}"#)).unwrap(), To::User(2));
    assert_eq!(read(&with(r#"{"group":2}"#)).unwrap(), To::Group(2));
    assert_eq!(read(&with(r#"{"users":[2,3]}"#)).unwrap(), To::Users(vec![2, 3]));
    for wrong in [r#"{"user":2,"group":3}"#, "{}", "2", r#"{"user":-1}"#, r#"{"user":"2"}"#] {
        assert!(read(&with(wrong)).is_err(), "{wrong}");
    }
    assert!(read(r#"{"from":1,"from":2,"to":{"user":3},"text":"x"}"#).is_err(), "twice");
    assert!(read(r#"{"from":1,"to":{"user":3},"text":"x","color":1}"#).is_err(), "unknown");
    assert!(Place::User(1).of(UserId(1)).is_err(), "nobody writes to themselves");
}

#[tokio::test]
async fn a_message_is_handed_over_as_its_sender_would_say_it() {
    let site = Site::start().await;
    let single = ConversationId::single(UserId(1), UserId(2)).unwrap().number();
    let group = ConversationId::group(GroupId(7)).unwrap().number();
    for (to, conversation, kind) in [
        (json!({ "user": 2 }), single, MessageType::SingleText),
        (json!({ "group": 7 }), group, MessageType::GroupText),
    ] {
        site.stores(Ok(5));
        let body = json!({ "from": 1, "to": to, "text": "h\u{e9}llo" });
        let said = site.call("POST", "/v1/messages", Some(&body)).await;
        assert_eq!(said, (201, json!({ "msg_id": 5, "created": 1_000 })));
        let asked = site.asked();
        let [Asked::Submit(submit)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((submit.sender, submit.conversation), (1, conversation));
        assert_eq!(submit.r#type, kind as u32);
        assert_eq!(text::decrypt(&submit.body).unwrap(), "h\u{e9}llo");
        assert_eq!((submit.resend(), submit.fingerprint), (false, None), "it is new");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_named_message_has_an_id_of_its_name_and_is_looked_for_before_it_is_stored() {
    let site = Site::start().await;
    let body = json!({ "from": 1, "to": { "user": 2 }, "text": "x" });
    let shown = format!("Authorization: Bearer {}", crate::test::key().to_text());
    for _again in 0..2 {
        site.stores(Ok(5));
        let lines = [shown.as_str(), "Idempotency-Key: build 7"];
        assert_eq!(site.send("POST", "/v1/messages", &lines, Some(&body)).await.0, 201);
        let asked = site.asked();
        let [Asked::Submit(submit)] = &asked[..] else { panic!("{asked:?}") };
        let id = named_id("tests", UserId(1), "build 7", None);
        assert_eq!((&submit.client_msg_id[..], submit.resend()), (&id.0[..], true));
    }
    let mut ids = Vec::new();
    for _other in 0..2 {
        site.stores(Ok(5));
        assert_eq!(site.call("POST", "/v1/messages", Some(&body)).await.0, 201);
        let asked = site.asked();
        let [Asked::Submit(submit)] = &asked[..] else { panic!("{asked:?}") };
        ids.push(submit.client_msg_id.clone());
    }
    assert_ne!(ids[0], ids[1], "without a name each is another message");
    site.stop().await;
}

#[tokio::test]
async fn a_list_is_answered_for_each_of_its_users_whatever_becomes_of_the_others() {
    let site = Site::start().await;
    let body = json!({ "from": 1, "to": { "users": [2, 1, 3] }, "text": "x" });
    let shown = format!("Authorization: Bearer {}", crate::test::key().to_text());
    site.stores(Ok(5));
    site.stores(Err(Reason::NoSuchPeer));
    let lines = [shown.as_str(), "Idempotency-Key: news"];
    let (status, told) = site.send("POST", "/v1/messages", &lines, Some(&body)).await;
    assert_eq!(status, 200, "{told}");
    let items = told["items"].as_array().unwrap();
    assert_eq!(items[0], json!({ "user": 2, "msg_id": 5, "created": 1_000 }));
    let codes: Vec<_> = items.iter().map(|item| item["error"]["code"].as_str()).collect();
    assert_eq!(codes, [None, Some("invalid"), Some("not_found")], "nobody writes to themselves");
    let asked = site.asked();
    let ids = asked.iter().map(|asked| match asked {
        Asked::Submit(submit) => (submit.client_msg_id.clone(), submit.resend()),
        other => panic!("{other:?}"),
    });
    let id = |to| named_id("tests", UserId(1), "news", Some(UserId(to))).0.to_vec().into();
    assert_eq!(ids.collect::<Vec<_>>(), [(id(2), true), (id(3), true)]);

    for count in [0, USERS_MAX + 1] {
        let users: Vec<usize> = (2..2 + count).collect();
        let body = json!({ "from": 1, "to": { "users": users }, "text": "x" });
        assert_eq!(site.call("POST", "/v1/messages", Some(&body)).await.0, 422, "{count}");
    }
    assert_eq!(site.asked(), []);
    // More than are on their way at once.
    let users: Vec<usize> = (2..2 + USERS_MAX).collect();
    for _user in &users {
        site.stores(Ok(1));
    }
    let body = json!({ "from": 1, "to": { "users": users }, "text": "x" });
    let (_status, told) = site.call("POST", "/v1/messages", Some(&body)).await;
    let items = told["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[USERS_MAX - 1]["user"]), (USERS_MAX, &json!(USERS_MAX + 1)));
    assert!(users.len() > AT_ONCE);
    site.stop().await;
}

#[tokio::test]
async fn why_a_message_is_refused_is_told() {
    let site = Site::start().await;
    let body = json!({ "from": 1, "to": { "user": 2 }, "text": "x" });
    for (reason, status, code) in [
        (Reason::NotMember, 403, "not_member"),
        (Reason::NoSuchPeer, 404, "not_found"),
        (Reason::TooLarge, 422, "invalid"),
        (Reason::IdReused, 422, "idempotency_key_reused"),
        (Reason::Full, 409, "full"),
    ] {
        site.stores(Err(reason));
        let (told, problem) = site.call("POST", "/v1/messages", Some(&body)).await;
        assert_eq!((told, problem["code"].as_str()), (status, Some(code)), "{reason:?}");
    }
    site.asked();
    let long = "x".repeat(TEXT_LEN_MAX + 1);
    for text in ["", long.as_str()] {
        let body = json!({ "from": 1, "to": { "user": 2 }, "text": text });
        assert_eq!(site.call("POST", "/v1/messages", Some(&body)).await.0, 422);
    }
    assert_eq!(site.asked(), [], "nobody is asked");
    site.stores(Ok(1));
    let longest = "x".repeat(TEXT_LEN_MAX);
    let body = json!({ "from": 1, "to": { "user": 2 }, "text": longest });
    assert_eq!(site.call("POST", "/v1/messages", Some(&body)).await.0, 201);
    site.stop().await;
}

fn info(msg_id: u32) -> MessageInfo {
    MessageInfo {
        msg_id,
        from_user_id: 2,
        create_time: 9,
        msg_type: MessageType::SingleText.into(),
        msg_data: text::encrypt("x"),
    }
}

/// The question that the db_proxy was asked.
fn question(site: &Site) -> (u32, MessageListRequest) {
    let asked = site.asked();
    let [Asked::Ask(ask)] = &asked[..] else { panic!("{asked:?}") };
    let request = prost::Message::decode(ask.body.clone()).unwrap();
    (ask.user, request)
}

#[tokio::test]
async fn a_history_is_read_as_the_user_from_where_the_program_says() {
    let site = Site::start().await;
    let page = MessageListReply { messages: vec![info(9), info(8)], ..<_>::default() };
    site.replies(Ok(&page));
    let (status, told) = site.get("/v1/users/1/messages?with_user=2&limit=2").await;
    assert_eq!((status, told["items"][0]["msg_id"].as_u64()), (200, Some(9)));
    let (user, request) = question(&site);
    assert_eq!((user, request.session_type(), request.session_id), (1, SessionType::Single, 2));
    assert_eq!((request.msg_id_begin, request.msg_count), (0, 2));

    let next = told["next"].as_str().unwrap();
    let last = MessageListReply { messages: vec![info(1)], ..<_>::default() };
    site.replies(Ok(&last));
    let path = format!("/v1/users/1/messages?with_user=2&limit=1000&cursor={next}");
    assert_eq!(site.get(&path).await.1["next"], serde_json::Value::Null, "1 is the first");
    let (_user, request) = question(&site);
    assert_eq!((request.msg_id_begin, request.msg_count), (7, PAGE_MAX));

    site.replies(Ok(&MessageListReply::default()));
    let path = "/v1/users/1/messages?in_group=7&before=100";
    assert_eq!(site.get(path).await, (200, json!({ "items": [] })));
    let (_user, request) = question(&site);
    assert_eq!((request.session_type(), request.session_id), (SessionType::Group, 7));
    assert_eq!(request.msg_id_begin, 99);
    let other = format!("/v1/users/1/messages?with_user=3&cursor={next}");
    assert_eq!(site.get(&other).await.0, 422, "the cursor is of another conversation");
    site.stop().await;
}

#[tokio::test]
async fn what_storage_does_not_answer_is_told_apart() {
    let site = Site::start().await;
    site.replies(Err(AskStatus::Ignored));
    let (status, problem) = site.get("/v1/users/1/messages?in_group=7").await;
    assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")));
    site.replies(Err(AskStatus::Unavailable));
    let (status, problem) = site.get("/v1/users/1/unread").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));
    site.stop().await;
}

#[tokio::test]
async fn unread_conversations_are_with_users_or_of_groups() {
    let site = Site::start().await;
    let session = |session_type: SessionType, session_id| UnreadSession {
        session_id,
        session_type: session_type.into(),
        unread_count: 3,
        latest_msg_id: 40,
        latest_msg_data: text::encrypt("x"),
        latest_msg_type: MessageType::SingleText.into(),
        latest_msg_from: 2,
    };
    let sessions = vec![session(SessionType::Single, 2), session(SessionType::Group, 7)];
    let reply = UnreadCountReply { total_count: 6, sessions, ..UnreadCountReply::default() };
    site.replies(Ok(&reply));
    let one = |place: &str, number| json!({ place: number, "unread": 3, "newest_msg_id": 40 });
    let expected = json!({ "total": 6, "items": [one("user", 2), one("group", 7)] });
    assert_eq!(site.get("/v1/users/1/unread").await, (200, expected));
    site.stop().await;
}

#[tokio::test]
async fn texts_are_encrypted_and_read_with_the_key_of_the_site() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.key");
    std::fs::write(&file, [b'k'; 32]).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let cipher = TextCipher::new(&[b'k'; 32]);
    let line = format!("text_key_file = '{}'", file.display());
    let site = Site::with_cluster(&["read", "send"], &line).await;
    site.stores(Ok(5));
    let body = json!({ "from": 1, "to": { "user": 2 }, "text": "x" });
    assert_eq!(site.call("POST", "/v1/messages", Some(&body)).await.0, 201);
    let asked = site.asked();
    let [Asked::Submit(submit)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(cipher.decrypt(&submit.body).as_deref(), Ok("x"));

    let messages = [cipher.encrypt("y"), text::encrypt("of another key")]
        .map(|msg_data| MessageInfo { msg_data, ..info(9) });
    let page = MessageListReply { messages: messages.to_vec(), ..<_>::default() };
    site.replies(Ok(&page));
    let (_status, page) = site.get("/v1/users/1/messages?with_user=2").await;
    assert_eq!(
        (&page["items"][0]["text"], &page["items"][1]["type"]),
        (&json!("y"), &json!("unreadable"))
    );
    site.stop().await;
}
