//! Frames above the limit of their command: their clients are told, as far as they know an answer
//! that says so, and then the connection ends.

use proto::client::{self, RefuseReason};
use proto::{Command, Frame};

use super::harness::*;

/// What a client sends that adds 150,000 members.
fn huge(command: Command, seq: u16) -> Vec<u8> {
    let request = client::GroupChangeMembersRequest {
        change: client::GroupChange::Add.into(),
        group_id: 9,
        member_ids: (100_000..250_000).collect(),
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&request).into();
    Frame { command: command.number(), seq, body }.encode().to_vec()
}

#[tokio::test]
async fn an_old_client_is_told_by_a_result_code_and_then_let_go() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    // It writes everything before it reads anything.
    client.write(&huge(Command::GroupChangeMembersRequest, 3)).await;
    let reply: client::GroupChangeMembersReply =
        client.expect(Command::GroupChangeMembersReply, 3).await;
    assert_eq!((reply.user_id, reply.result_code), (5, 1));
    client.expect_closed().await;

    let mut client = world.client(5, ANDROID).await;
    client.write(&huge(Command::GroupCreateRequest, 4)).await;
    let reply: client::GroupCreateReply = client.expect(Command::GroupCreateReply, 4).await;
    assert_eq!((reply.user_id, reply.result_code, reply.group_id), (5, 1, None));
    client.expect_closed().await;
    assert!(world.db.asked.lock().await.try_recv().is_err(), "storage was not asked");
    world.stop().await;
}

#[tokio::test]
async fn the_answer_comes_although_the_frame_comes_slowly_and_what_was_asked_before_is_answered() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    let mut wire = proto::encode_message(Command::MessageData, 7, &text(6, "before")).to_vec();
    wire.extend(huge(Command::GroupChangeMembersRequest, 8));
    for (piece, bytes) in wire.chunks(100_000).enumerate() {
        client.write(bytes).await;
        if piece == 0 {
            // In whichever order: storage is not waited for with the refusal.
            let mut answers: Vec<_> = [client.next().await, client.next().await]
                .into_iter()
                .flatten()
                .map(|frame| (frame.known_command().unwrap(), frame.seq))
                .collect();
            answers.sort_unstable();
            let expected = [(Command::MessageAck, 7), (Command::GroupChangeMembersReply, 8)];
            assert_eq!(answers, expected);
        }
        // Longer in all than a client that is told to go is waited for otherwise.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_client_with_the_hello_is_told_for_every_command() {
    let world = World::start().await;
    let mut client = world.extended(5, WINDOWS).await;
    client.write(&huge(Command::UsersInfoRequest, 3)).await;
    let refused: client::Refused = client.expect(Command::Refused, 3).await;
    assert_eq!((refused.command, refused.reason), (0x0204, RefuseReason::TooLarge as u32));
    client.expect_closed().await;

    let mut client = world.extended(5, WINDOWS).await;
    client.write(&huge(Command::MessageData, 4)).await;
    let result: client::SendResult = client.expect(Command::SendResult, 4).await;
    assert_eq!(result.outcome(), client::SendOutcome::Refused);
    assert_eq!(result.reason(), RefuseReason::TooLarge);
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn what_has_no_answer_and_what_is_said_before_the_login_ends_the_connection_at_once() {
    let world = World::start().await;
    let header = |command| huge(command, 3)[..16].to_vec();
    let mut client = world.client(5, WINDOWS).await;
    client.write(&header(Command::MessageData)).await;
    client.expect_closed().await;
    let mut client = world.connect().await;
    client.write(&header(Command::GroupCreateRequest)).await;
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_frame_of_gigabytes_is_not_waited_for() {
    let world = World::start_with(|limits| limits.partial_frame_limit_s = 1).await;
    let mut client = world.client(5, WINDOWS).await;
    let mut header = huge(Command::GroupCreateRequest, 3)[..16].to_vec();
    header[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    client.write(&header).await;
    client.expect::<client::GroupCreateReply>(Command::GroupCreateReply, 3).await;
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn of_a_frame_of_gigabytes_16_mib_are_read_and_no_more_is_waited_for() {
    let world = World::start_with(|limits| limits.partial_frame_limit_s = 60).await;
    let mut client = world.client(5, WINDOWS).await;
    let mut header = huge(Command::GroupCreateRequest, 3)[..16].to_vec();
    header[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    client.write(&header).await;
    client.expect::<client::GroupCreateReply>(Command::GroupCreateReply, 3).await;
    client.write(&vec![0; 16 << 20]).await;
    client.expect_closed().await;
    world.stop().await;
}
