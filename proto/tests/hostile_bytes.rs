//! Bytes that no correct client sends: whatever they are, they are read or refused, and cost no more
//! than a few times their own size.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proto::limits::{LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN};
use proto::{Command, Frame, client, frame, fuzzing, text};

proptest! {
    #[test]
    fn frames_come_back_however_the_stream_is_cut(
        frames in prop::collection::vec(any_frame(), 0..8),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut rest = &stream[..];
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for cut in cuts.into_iter().cycle() {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            rest = left;
            buffer.extend_from_slice(piece);
            while let Some(frame) = frame::decode(&mut buffer, LIMIT_AFTER_LOGIN).unwrap() {
                read.push(frame);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_bytes_give_frames_or_an_error(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::client_frame(&data);
        fuzzing::text(&data);
    }

    #[test]
    fn an_arbitrary_body_is_read_or_refused(
        command in prop::sample::select(Command::ALL),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        fuzzing::client_frame(&framed(command, body.into()).encode());
    }

    /// Nearly right is where parsers break, so break recorded-like bodies in one place.
    #[test]
    fn a_body_with_one_wrong_byte_is_read_or_refused(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        name in ".{0,20}",
        ids in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        let message = client::GroupCreateRequest {
            user_id: 7,
            name,
            member_ids: ids,
            ..Default::default()
        };
        let mut wire = proto::encode_message(Command::GroupCreateRequest, 1, &message).to_vec();
        let place = place.index(wire.len());
        wire[place] = byte;
        fuzzing::client_frame(&wire);
    }

    #[test]
    fn an_arbitrary_header_never_makes_us_hold_much(header in any::<[u8; 16]>()) {
        let mut buffer = BytesMut::from(&header[..]);
        drop(frame::decode(&mut buffer, LIMIT_AFTER_LOGIN));
        prop_assert!(buffer.capacity() <= 40 * 1024, "{}", buffer.capacity());
    }

    #[test]
    fn before_the_login_no_header_makes_us_wait_for_more_than_its_limit(
        len in any::<u32>(),
        command in any::<u16>(),
    ) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&len.to_be_bytes());
        header[10..12].copy_from_slice(&command.to_be_bytes());
        let decoded = frame::decode(&mut BytesMut::from(&header[..]), LIMIT_BEFORE_LOGIN);
        let fits = (16..=LIMIT_BEFORE_LOGIN).contains(&(len as usize));
        prop_assert!(fits || decoded.is_err());
    }

    #[test]
    fn every_text_comes_back(original in any::<String>()) {
        prop_assert_eq!(text::decrypt(&text::encrypt(&original)), Ok(original));
    }
}

#[test]
fn the_corpus_of_the_fuzz_targets_holds() {
    for (target, check) in
        [("client_frame", fuzzing::client_frame as fn(&[u8])), ("text", fuzzing::text)]
    {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files = 0;
        for file in std::fs::read_dir(&corpus).unwrap() {
            check(&std::fs::read(file.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{files} files in {}", corpus.display());
    }
}

#[test]
fn nesting_without_end_is_refused() {
    // Field 1 as a group, opened again and again.
    for command in Command::ALL {
        let body = Bytes::from(vec![0x0b; 500_000]);
        assert!(command.reencode(body).is_err(), "{command:?}");
    }
    // An unknown field, opened again and again, and closed as often.
    let groups = [[0xfb, 0x01].repeat(100_000), [0xfc, 0x01].repeat(100_000)].concat();
    assert!(framed(Command::Heartbeat, groups.into()).parse::<client::Heartbeat>().is_err());
}

#[test]
fn a_number_without_end_is_refused() {
    for len in 11..100 {
        let body = [vec![0x08], vec![0xff; len]].concat();
        assert!(framed(Command::ReadAck, body.into()).parse::<client::ReadAck>().is_err(), "{len}");
    }
    let overlong = b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00";
    let ack: client::ReadAck =
        framed(Command::ReadAck, Bytes::from_static(overlong)).parse().unwrap();
    assert_eq!(ack.user_id, 1);
}

#[test]
fn a_length_inside_of_a_body_that_the_body_does_not_have_is_refused() {
    // msg_data of 4 GiB, of 2^63 bytes, of one byte too many.
    for promise in
        [&b"\x32\xff\xff\xff\xff\x0f"[..], b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x32\x01"]
    {
        let body = Bytes::copy_from_slice(promise);
        assert!(framed(Command::MessageData, body).parse::<client::MessageData>().is_err());
    }
}

#[test]
fn ids_are_read_packed_and_unpacked_and_cost_no_more_than_they_must() {
    let count = 480_000;
    let packed_len = varint(count);
    let packed = [vec![0x2a], packed_len, vec![1; count]].concat();
    assert!(packed.len() + 16 <= Command::GroupCreateRequest.size_limit());
    let request: client::GroupCreateRequest =
        framed(Command::GroupCreateRequest, packed.into()).parse().unwrap();
    assert_eq!(request.member_ids.len(), count);
    assert!(request.member_ids.capacity() <= 2 * count);

    let unpacked = Bytes::from([0x28, 1].repeat(count / 2));
    let request: client::GroupCreateRequest =
        framed(Command::GroupCreateRequest, unpacked.clone()).parse().unwrap();
    assert_eq!(request.member_ids.len(), count / 2);

    let written = Command::GroupCreateRequest.reencode(unpacked).unwrap();
    assert!(written.ends_with(&[0x28, 1, 0x28, 1]), "old clients read nothing but unpacked ids");
}

#[test]
fn a_list_of_empty_records_stays_small() {
    let body = Bytes::from([0x12, 0].repeat(32_000));
    let request: client::GroupInfoRequest =
        framed(Command::GroupInfoRequest, body).parse().unwrap();
    assert_eq!(request.groups.len(), 32_000);
    assert!(size_of::<client::GroupVersion>() <= 8);
}

#[test]
fn a_text_that_is_not_utf8_is_refused() {
    let body = Bytes::from_static(b"\x0a\x02\xff\xfe");
    assert!(framed(Command::LoginRequest, body).parse::<client::LoginRequest>().is_err());
}

#[test]
fn an_enum_may_hold_an_unknown_number() {
    let ack: client::ReadAck =
        framed(Command::ReadAck, Bytes::from_static(b"\x08\x01\x10\x02\x18\x03\x20\x00"))
            .parse()
            .unwrap();
    assert_eq!(ack.session_type, 0);
    assert_eq!(client::SessionType::try_from(ack.session_type).ok(), None);
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let body = prop::collection::vec(any::<u8>(), 0..48);
    (any::<u16>(), any::<u16>(), body).prop_map(|(command, seq, body)| Frame {
        command,
        seq,
        body: body.into(),
    })
}

fn framed(command: Command, body: Bytes) -> Frame {
    Frame { command: command.number(), seq: 1, body }
}

fn varint(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number as u64, &mut bytes);
    bytes
}
