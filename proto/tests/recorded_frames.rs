//! Frames that were recorded from the original servers, talking to test users: our codec and our
//! schema must read every one, and write it again byte by byte.
//!
//! `recorded_frames.json` is the recording, in order: connection, direction, command, seq, the
//! frame in hex, and what is in it under the original's names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use proto::limits::LIMIT_AFTER_LOGIN;
use proto::{Command, Direction, Frame, client, frame};
use serde_json::Value;

#[test]
fn every_recorded_frame_is_read_and_written_again_as_it_was() {
    let recorded = recorded();
    assert_eq!(recorded.len(), 135);
    for recorded in recorded {
        let [frame] = &frames_of(&recorded.bytes, recorded.bytes.len())[..] else {
            panic!("{recorded:?} is not one frame");
        };
        assert_eq!(frame.command, recorded.command, "{recorded:?}");
        assert_eq!(frame.seq, recorded.seq, "{recorded:?}");

        let command = frame.known_command().unwrap();
        let body = command.reencode(frame.body.clone()).unwrap();
        assert_eq!(body, frame.body, "{recorded:?}");
        assert_eq!(frame.encode(), recorded.bytes, "{recorded:?}");
    }
}

#[test]
fn every_recorded_value_is_found_in_the_message_that_we_read() {
    for recorded in recorded() {
        let frame = &frames_of(&recorded.bytes, recorded.bytes.len())[0];
        let shown = frame.known_command().unwrap().describe(frame.body.clone()).unwrap();

        let mut numbers = Vec::new();
        expect_texts(&recorded.message, "", &shown, &mut numbers);
        numbers.sort_unstable();
        assert_eq!(numbers_in(&shown), numbers, "{recorded:?}: {shown}");
    }
}

#[test]
fn every_recorded_frame_goes_the_way_that_the_table_says() {
    for recorded in recorded() {
        let direction = Command::from_number(recorded.command).unwrap().direction();
        let other = if recorded.from_client {
            Direction::ServerToClient
        } else {
            Direction::ClientToServer
        };
        assert_ne!(direction, other, "{recorded:?}");
    }
}

#[test]
fn a_recorded_frame_may_arrive_in_two_pieces_cut_anywhere() {
    for recorded in recorded() {
        for cut in 0..recorded.bytes.len() {
            let (first, second) = recorded.bytes.split_at(cut);
            let mut buffer = BytesMut::from(first);
            assert!(frame::decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap().is_none());
            buffer.extend_from_slice(second);
            let frame = frame::decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap().unwrap();
            assert_eq!(frame.encode(), recorded.bytes, "cut at {cut}: {recorded:?}");
        }
    }
}

#[test]
fn recorded_frames_may_arrive_all_at_once_or_byte_by_byte() {
    let stream = recorded().into_iter().map(|recorded| recorded.bytes).collect::<Vec<_>>().concat();
    for piece_len in [1, 2, 15, 16, 17, 2048, stream.len()] {
        let frames = frames_of(&stream, piece_len);
        assert_eq!(frames.len(), 135, "in pieces of {piece_len}");
        let again: Vec<Bytes> = frames.iter().map(Frame::encode).collect();
        assert_eq!(again.concat(), stream, "in pieces of {piece_len}");
    }
}

/// The original lets a field of its own links slip out to clients. We know the field in order to
/// drop it.
#[test]
fn only_messages_that_crossed_two_original_servers_carry_their_internal_field() {
    let mut with_attach_data = 0;
    for recorded in recorded() {
        let frame = &frames_of(&recorded.bytes, recorded.bytes.len())[0];
        if recorded.command == Command::MessageData.number() {
            let message: client::MessageData = frame.parse().unwrap();
            with_attach_data += usize::from(message.attach_data.is_some());
            assert_eq!(message.client_msg_id, None);
            assert_eq!(message.resend, None);
        }
    }
    assert_eq!(with_attach_data, 7);
}

#[test]
fn a_recorded_login_reads_field_by_field() {
    let frames = recorded();
    let request: client::LoginRequest = frames_of(&frames[0].bytes, 1)[0].parse().unwrap();
    assert_eq!(request.user_name, "u3121");
    assert_eq!(request.password, "827ccb0eea8a706c4c34a16891f84e7b");
    assert_eq!(request.online_status(), client::UserStatus::Online);
    assert_eq!(request.client_type(), client::ClientType::Windows);

    let reply: client::LoginReply = frames_of(&frames[1].bytes, 1)[0].parse().unwrap();
    let user = reply.user_info.clone().unwrap();
    assert_eq!(reply.server_time, 1_795_297_607);
    assert_eq!(reply.result(), client::LoginResult::Accepted);
    assert_eq!(reply.result_text(), "成功");
    assert_eq!((user.user_id, user.gender, user.department_id, user.employment), (3121, 1, 1, 0));
    assert_eq!(
        [user.nick_name, user.real_name, user.latin_name, user.avatar_url, user.email, user.phone],
        ["nick3121", "u3121", "u3121", "", "", ""]
    );
    assert_eq!(user.signature.as_deref(), Some(""));
}

#[derive(Debug)]
struct Recorded {
    from_client: bool,
    command: u16,
    seq: u16,
    bytes: Vec<u8>,
    message: Value,
}

fn recorded() -> Vec<Recorded> {
    let frames: Vec<Value> = serde_json::from_str(include_str!("recorded_frames.json")).unwrap();
    frames
        .into_iter()
        .map(|frame| Recorded {
            from_client: frame["dir"] == "client to server",
            command: number_of_hex(frame["command"].as_str().unwrap()),
            seq: frame["seq"].as_u64().unwrap().try_into().unwrap(),
            bytes: bytes_of_hex(frame["hex"].as_str().unwrap()),
            message: frame["message"].clone(),
        })
        .collect()
}

fn number_of_hex(hex: &str) -> u16 {
    u16::from_str_radix(hex.strip_prefix("0x").unwrap(), 16).unwrap()
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap();
    hex.as_bytes().as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect()
}

fn frames_of(stream: &[u8], piece_len: usize) -> Vec<Frame> {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(piece_len) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = frame::decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap() {
            frames.push(frame);
        }
    }
    assert!(buffer.is_empty());
    frames
}

/// Asserts that every text in `recorded` is in `shown`, and collects the numbers for later.
fn expect_texts(recorded: &Value, field: &str, shown: &str, numbers: &mut Vec<u64>) {
    match recorded {
        Value::Object(fields) => {
            for (field, value) in fields {
                expect_texts(value, field, shown, numbers);
            }
        }
        Value::Array(values) => {
            for value in values {
                expect_texts(value, field, shown, numbers);
            }
        }
        Value::Number(number) => numbers.push(number.as_u64().unwrap()),
        Value::String(text) => {
            let text = match variant(text) {
                Some(variant) => variant.to_owned(),
                None if field.ends_with("msg_data") && field != "cmd_msg_data"
                    || field == "attach_data" =>
                {
                    format!("{:?}", Bytes::from(STANDARD.decode(text).unwrap()))
                }
                None => format!("{text:?}"),
            };
            assert!(shown.contains(&text), "{field} {text} in {shown}");
        }
        Value::Null | Value::Bool(_) => panic!("{field} is {recorded}"),
    }
}

/// What we call the original's enum values.
fn variant(original: &str) -> Option<&'static str> {
    Some(match original {
        "REFUSE_REASON_NONE" => "Accepted",
        "REFUSE_REASON_DB_VALIDATE_FAILED" => "BadCredentials",
        "KICK_REASON_DUPLICATE_USER" => "DuplicateLogin",
        "KICK_REASON_MOBILE_KICK" => "ByMobile",
        "USER_STATUS_ONLINE" => "Online",
        "USER_STATUS_OFFLINE" => "Offline",
        "SESSION_TYPE_SINGLE" => "Single",
        "SESSION_TYPE_GROUP" => "Group",
        "MSG_TYPE_SINGLE_TEXT" => "SingleText",
        "MSG_TYPE_GROUP_TEXT" => "GroupText",
        "CLIENT_TYPE_WINDOWS" => "Windows",
        "CLIENT_TYPE_ANDROID" => "Android",
        "CLIENT_TYPE_IOS" => "Ios",
        "CLIENT_TYPE_MAC" => "Mac",
        "GROUP_TYPE_TMP" => "Temporary",
        "GROUP_MODIFY_TYPE_ADD" => "Add",
        "GROUP_MODIFY_TYPE_DEL" => "Remove",
        "SESSION_STATUS_OK" | "DEPT_STATUS_OK" => "Ok",
        _ => return None,
    })
}

/// Returns the numbers in `shown`, sorted, leaving out those inside of texts.
fn numbers_in(shown: &str) -> Vec<u64> {
    let mut outside_of_texts = String::new();
    let mut in_text = false;
    let mut chars = shown.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' if in_text => drop(chars.next()),
            '"' => in_text = !in_text,
            _ if !in_text => outside_of_texts.push(char),
            _ => {}
        }
    }
    let words = outside_of_texts.split(|char: char| !char.is_ascii_alphanumeric());
    let mut numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
