//! Clients that ask too much, too fast, or for nonsense.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};

use super::harness::*;

#[tokio::test]
async fn before_the_login_anything_else_ends_that_connection_and_no_other() {
    let world = World::start().await;
    let mut other = world.client(5, WINDOWS).await;
    for command in [0x0301_u16, 0x0307, 0x0105, 0x7777, 0x0104] {
        let mut client = world.connect().await;
        client.write(&heartbeat(3)).await;
        client.expect::<client::Heartbeat>(Command::Heartbeat, 3).await;
        let frame = proto::Frame { command, seq: 1, body: Bytes::new() };
        client.write(&frame.encode()).await;
        client.expect_closed().await;
    }
    other.expect_quiet().await;
    assert!(world.db.asked.lock().await.try_recv().is_err());
    world.stop().await;
}

#[tokio::test]
async fn frames_that_are_none_end_their_connection_and_no_other() {
    let world = World::start().await;
    let mut other = world.client(5, WINDOWS).await;
    let mut header = heartbeat(1).to_vec();
    for length in [0_u32, 15, 5_000, u32::MAX] {
        let mut client = world.connect().await;
        header[..4].copy_from_slice(&length.to_be_bytes());
        client.write(&header).await;
        client.expect_closed().await;
    }
    let mut client = world.client(6, WINDOWS).await;
    header[..4].copy_from_slice(&(600_u32 << 10).to_be_bytes());
    client.write(&header).await;
    client.expect_closed().await;
    other.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_ignored() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    let body = Bytes::from_static(&[0xff; 9]);
    for command in [0x0301, 0x0303, 0x020a, 0x0601, 0x2001] {
        client.write(&proto::Frame { command, seq: 1, body: body.clone() }.encode()).await;
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_little_nonsense_is_ignored_and_much_of_it_ends_the_connection() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    let nonsense = proto::Frame { command: 0x0104, seq: 1, body: Bytes::new() }.encode();
    for _ in 0..10 {
        client.write(&nonsense).await;
    }
    client.expect_quiet().await;
    client.write(&nonsense).await;
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn files_are_refused_in_a_way_that_clients_understand() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    let request = client::FileSendRequest {
        to_user_id: 6,
        file_name: "C:/a.txt".to_owned(),
        mode: 1,
        ..Default::default()
    };
    client.send(Command::FileSendRequest, 4, &request).await;
    let reply: client::FileSendReply = client.expect(Command::FileSendReply, 4).await;
    assert_eq!((reply.result_code, reply.from_user_id, reply.to_user_id), (1, 5, 6));
    assert_eq!((reply.file_name.as_str(), reply.task_id.as_str()), ("C:/a.txt", ""));
    client.send(Command::OfflineFilesRequest, 5, &client::OfflineFilesRequest::default()).await;
    let none: client::OfflineFilesReply = client.expect(Command::OfflineFilesReply, 5).await;
    assert!(none.files.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_fast_sender_is_slowed_down_and_loses_nothing() {
    let world = World::start_with(|limits| {
        limits.sends_per_s = 200;
        limits.sends_burst = 20;
    })
    .await;
    let mut client = world.client(5, WINDOWS).await;
    let started = Instant::now();
    let mut wire = Vec::new();
    for seq in 1..=100 {
        wire.extend_from_slice(&encode_message(Command::MessageData, seq, &text(6, "again")));
    }
    client.write(&wire).await;
    for seq in 1..=100 {
        client.expect::<client::MessageAck>(Command::MessageAck, seq).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(395), "80 of them at 200 a second");
    world.stop().await;
}

#[tokio::test]
async fn a_client_with_too_many_unanswered_messages_is_not_read() {
    let world = World::start_with(|limits| limits.unanswered_max = 4).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    for seq in 1..=10 {
        client.send(Command::MessageData, seq, &text(6, "again")).await;
    }
    let mut waiting = std::collections::VecDeque::new();
    for seq in 1..=10 {
        while waiting.len() < usize::from(4.min(11 - seq)) {
            waiting.push_back(world.db.next_submit().await);
        }
        assert!(world.db.submitted.lock().await.try_recv().is_err(), "a fifth before {seq}");
        world.db.answer(&waiting.pop_front().unwrap(), wire::Outcome::Ok, Some(u32::from(seq)));
        client.expect::<client::MessageAck>(Command::MessageAck, seq).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn so_many_bytes_of_all_clients_are_unanswered_and_then_nobody_is_read() {
    let content = "x".repeat(1_000);
    // The body of one message fits, and of a second one nothing.
    let world = World::start_with(|limits| limits.unanswered_bytes_total_max = 1_000).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut first = world.client(5, WINDOWS).await;
    let mut second = world.client(6, WINDOWS).await;
    first.send(Command::MessageData, 1, &text(7, &content)).await;
    let submitted = world.db.next_submit().await;
    second.send(Command::MessageData, 2, &text(7, "small")).await;
    second.write(&heartbeat(3)).await;
    // A third one is served meanwhile: it is only messages that wait.
    world.client(8, WINDOWS).await.expect_quiet().await;
    assert!(world.db.submitted.lock().await.try_recv().is_err());
    world.db.answer(&submitted, wire::Outcome::Ok, Some(1));
    first.expect::<client::MessageAck>(Command::MessageAck, 1).await;
    let submitted = world.db.next_submit().await;
    assert_eq!(&submitted.body[..], b"small");
    world.db.answer(&submitted, wire::Outcome::Ok, Some(1));
    let mut seqs = [second.next().await.unwrap().seq, second.next().await.unwrap().seq];
    seqs.sort_unstable();
    assert_eq!(seqs, [2, 3]);
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answers_is_let_go_when_nothing_moves() {
    let world = World::start_with(|limits| limits.write_limit_s = 1).await;
    let body = Bytes::from(vec![0; 300_000]);
    *world.db.reply.lock() = Some(Box::new(move |db, ask| wire::Answer {
        status: wire::AskStatus::Answered.into(),
        command: Some(ask.command + 1),
        body: Some(body.clone()),
        by: db.by(&ask.partitions),
        ..wire::Answer::default()
    }));
    let mut client = world.client(5, WINDOWS).await;
    world.hub.next_change().await;
    let began = Instant::now();
    // More than the kernel keeps for it.
    for seq in 1..=100 {
        let request = client::MessageListRequest {
            session_type: client::SessionType::Single.into(),
            session_id: 6,
            msg_count: 1,
            ..client::MessageListRequest::default()
        };
        client.send(Command::MessageListRequest, seq, &request).await;
    }
    assert_eq!(world.hub.next_change().await.remove_users[0].user, 5);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    world.stop().await;
}

#[tokio::test]
async fn a_phone_may_be_silent_for_longer_than_a_pc() {
    let world = World::start_with(|limits| {
        limits.idle_pc_limit_s = 1;
        limits.idle_mobile_limit_s = 3;
    })
    .await;
    let began = Instant::now();
    let (mut pc, mut phone) = (world.client(5, MAC).await, world.client(6, ANDROID).await);
    pc.expect_closed().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    phone.expect_quiet().await;
    let began = Instant::now();
    phone.expect_closed().await;
    let kept = began.elapsed();
    assert!(kept >= Duration::from_millis(2_900), "from its last frame on: {kept:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_costs_the_others_nothing() {
    let world = World::start().await;
    for user in [5, 6] {
        world.db.join(user, 9, 1, 1);
    }
    let slow = world.client(5, WINDOWS).await;
    let mut quick = world.client(6, WINDOWS).await;
    world.hub.next_change().await;
    let frame = encode_message(
        Command::MessageData,
        0,
        &client::MessageData { msg_data: vec![7; 60_000].into(), ..Default::default() },
    );
    // Far more than socket buffers and outbox hold.
    for msg_id in 1..=300 {
        let published = wire::Publish { frame: frame.clone(), ..publish(group(9), msg_id, 8) };
        world.hub.send(Kind::Publish, &published);
        quick.expect_push().await;
    }
    let removed = loop {
        let change = world.hub.next_change().await;
        if let Some(user) = change.remove_users.first() {
            break user.user;
        }
    };
    assert_eq!(removed, 5);
    drop(slow);
    quick.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn requests_are_answered_one_after_the_other() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    for seq in 1..=20 {
        let request = client::NormalGroupsRequest::default();
        client.send(Command::NormalGroupsRequest, seq, &request).await;
    }
    for seq in 1..=20 {
        client.expect::<client::NormalGroupsReply>(Command::NormalGroupsReply, seq).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_login_that_does_not_come_in_time_ends_the_connection() {
    let world = World::start_with(|limits| limits.login_limit_s = 1).await;
    let mut silent = world.connect().await;
    silent.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_begun_must_be_finished() {
    let world = World::start_with(|limits| limits.partial_frame_limit_s = 1).await;
    let mut client = world.client(5, WINDOWS).await;
    client.write(&heartbeat(1)[..7]).await;
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_frame_that_comes_slowly_is_taken_and_its_sender_is_not_silent() {
    let world = World::start_with(|limits| {
        limits.partial_frame_limit_s = 2;
        limits.idle_pc_limit_s = 2;
    })
    .await;
    let mut client = world.client(5, WINDOWS).await;
    let frame = encode_message(Command::MessageData, 7, &text(6, &"slow ".repeat(3_000)));
    let started = Instant::now();
    for piece in frame.chunks(frame.len() / 8) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.write(piece).await;
    }
    assert!(started.elapsed() > Duration::from_secs(4), "longer than either limit");
    client.expect::<client::MessageAck>(Command::MessageAck, 7).await;
    world.stop().await;
}

#[tokio::test]
async fn signals_beyond_the_limit_are_dropped_and_hold_nothing_up() {
    let world = World::start().await;
    let mut other = world.client(6, WINDOWS).await;
    let mut client = world.client(5, WINDOWS).await;
    let data = "writing".to_owned();
    let signal = client::PeerSignal { from_user_id: 5, to_user_id: 6, data };
    let mut wire = Vec::new();
    for _ in 0..400 {
        wire.extend_from_slice(&encode_message(Command::PeerSignal, 0, &signal));
    }
    wire.extend_from_slice(&encode_message(Command::MessageData, 9, &text(6, "behind them")));
    let started = Instant::now();
    client.write(&wire).await;
    client.expect::<client::MessageAck>(Command::MessageAck, 9).await;
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "they would take 15 s if they were waited for: {took:?}"
    );
    let mut heard = 0_u64;
    other.write(&heartbeat(3)).await;
    while other.next().await.expect("a signal or the echo").known_command()
        == Some(Command::PeerSignal)
    {
        heard += 1;
    }
    assert!((100..=100 + 20 * (1 + took.as_secs())).contains(&heard), "{heard} in {took:?}");
    world.stop().await;
}

#[tokio::test]
async fn silence_ends_the_connection_and_a_heartbeat_keeps_it() {
    let world = World::start_with(|limits| limits.idle_pc_limit_s = 2).await;
    let mut silent = world.client(5, WINDOWS).await;
    let mut alive = world.client(6, WINDOWS).await;
    let closed = async { silent.expect_closed().await };
    let kept = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            alive.expect_quiet().await;
        }
    };
    tokio::join!(closed, kept);
    world.stop().await;
}
