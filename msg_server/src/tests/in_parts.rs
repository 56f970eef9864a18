//! Answers that take several frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use proto::Command;
use proto::client::{
    AllUsersReply, AllUsersRequest, MessageInfo, MessageListReply, MessageListRequest, TimeReply,
    TimeRequest, UserInfo,
};
use proto::cluster::wire::{Answer, Ask, AskStatus, Rest};

use super::harness::*;
use crate::commands::answer_parts::PARTS_MAX;

const IOS: u32 = 0x11;
/// Users of the lists here: one in each part.
const USERS: u32 = 4;

/// A list of [`USERS`] users, one in each part, as storage answers it.
fn users() -> Reply {
    users_up_to(USERS)
}

fn users_up_to(last: u32) -> Reply {
    Box::new(move |_db, ask| {
        let rest = ask.rest.unwrap_or_default();
        let user_id = rest.id.unwrap_or(1);
        let until = rest.until_id.unwrap_or(last + 1);
        let next = Some(user_id + 1).filter(|next| *next < until);
        let users = vec![UserInfo { user_id, ..UserInfo::default() }];
        let latest_update_time = 100 + user_id;
        let user_id = ask.user;
        let reply = AllUsersReply { user_id, latest_update_time, users, attach_data: None };
        let rest = next.map(|id| Rest { id: Some(id), ..rest });
        answer(Command::AllUsersReply, &reply, rest)
    })
}

/// Messages of `len` bytes each, one in each part.
fn messages(len: usize) -> Reply {
    Box::new(move |_db, ask| {
        let request = MessageListRequest::decode(ask.body.clone()).unwrap();
        let rest = ask.rest.unwrap_or_default();
        let msg_id = rest.id.unwrap_or(request.msg_id_begin);
        let count = rest.count.unwrap_or(request.msg_count);
        let message =
            MessageInfo { msg_id, msg_data: vec![7; len].into(), ..MessageInfo::default() };
        let reply = MessageListReply { messages: vec![message], ..MessageListReply::default() };
        let rest = (count > 1).then(|| Rest {
            id: Some(msg_id - 1),
            count: Some(count - 1),
            ..Rest::default()
        });
        answer(Command::MessageListReply, &reply, rest)
    })
}

fn answer(command: Command, reply: &impl prost::Message, rest: Option<Rest>) -> Answer {
    Answer {
        status: AskStatus::Answered.into(),
        command: Some(command.number().into()),
        body: Some(reply.encode_to_vec().into()),
        rest,
        ..Answer::default()
    }
}

fn page(msg_count: u32) -> MessageListRequest {
    let (session_type, session_id, msg_id_begin) = (1, 6, 1_000);
    MessageListRequest { session_type, session_id, msg_id_begin, msg_count, ..Default::default() }
}

/// The users of the next `frames` frames, which all answer `seq`.
async fn told(client: &mut Client, seq: u16, frames: u32) -> Vec<u32> {
    let mut told = Vec::new();
    for _frame in 0..frames {
        let reply: AllUsersReply = client.expect(Command::AllUsersReply, seq).await;
        assert_eq!(reply.user_id, 5);
        told.extend(reply.users.iter().map(|user| user.user_id));
    }
    told
}

#[tokio::test]
async fn a_long_answer_comes_in_frames_of_its_command_and_seq_before_anything_else_is_answered() {
    let world = World::start().await;
    *world.db.reply.lock() = Some(users());
    // Windows asks with seq 0; others count.
    for (client_type, seq) in [(WINDOWS, 0), (ANDROID, 7), (MAC, 8), (IOS, 9)] {
        let mut client = world.client(5, client_type).await;
        client.send(Command::AllUsersRequest, seq, &AllUsersRequest::default()).await;
        client.send(Command::TimeRequest, 30, &TimeRequest {}).await;
        assert_eq!(told(&mut client, seq, USERS).await, [1, 2, 3, 4], "client {client_type:#x}");
        client.expect::<TimeReply>(Command::TimeReply, 30).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn an_answer_that_goes_in_circles_ends_the_session() {
    let world = World::start().await;
    *world.db.reply.lock() = Some(users_up_to(u32::MAX - 1));
    let mut client = world.client(5, ANDROID).await;
    client.send(Command::AllUsersRequest, 7, &AllUsersRequest::default()).await;
    let mut frames = 0;
    while client.next().await.is_some() {
        frames += 1;
        // The fake keeps only so many questions.
        drop(world.db.asked.lock().await.try_recv());
    }
    assert_eq!(frames, 1 + PARTS_MAX);
    world.stop().await;
}

#[tokio::test]
async fn who_takes_the_first_frame_only_gets_one_more_of_the_list_with_each_request() {
    let world = World::start().await;
    *world.db.reply.lock() = Some(users());
    let mut client = world.client(5, IOS).await;
    for (seq, expected) in
        [(2, [1, 2, 3, 4]), (3, [2, 3, 4, 1]), (4, [3, 4, 1, 2]), (5, [4, 1, 2, 3])]
    {
        client.send(Command::AllUsersRequest, seq, &AllUsersRequest::default()).await;
        assert_eq!(told(&mut client, seq, USERS).await, expected, "the list is whole each time");
    }
    let other = AllUsersRequest { latest_update_time: 9, ..AllUsersRequest::default() };
    client.send(Command::AllUsersRequest, 6, &other).await;
    assert_eq!(told(&mut client, 6, USERS).await, [1, 2, 3, 4], "another question");
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_on_by_itself_gets_one_frame() {
    let world = World::start().await;
    *world.db.reply.lock() = Some(messages(10));
    let mut old = world.client(5, WINDOWS).await;
    let mut new = world.extended(6, WINDOWS).await;
    for client in [&mut old, &mut new] {
        client.send(Command::MessageListRequest, 0xFF03, &page(3)).await;
    }
    for msg_id in [1_000, 999, 998] {
        let reply: MessageListReply = old.expect(Command::MessageListReply, 0xFF03).await;
        assert_eq!(reply.messages[0].msg_id, msg_id);
    }
    old.expect_quiet().await;
    new.expect::<MessageListReply>(Command::MessageListReply, 0xFF03).await;
    new.expect_quiet().await;
    *world.db.reply.lock() = Some(users());
    for seq in [3, 4] {
        new.send(Command::AllUsersRequest, seq, &AllUsersRequest::default()).await;
        let reply: AllUsersReply = new.expect(Command::AllUsersReply, seq).await;
        assert_eq!((reply.users[0].user_id, reply.latest_update_time), (1, 101));
        new.expect_quiet().await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_part_is_asked_for_when_the_one_before_is_written() {
    const PARTS: u32 = 200;
    // What two sockets on one machine hold, and no more.
    const AHEAD_MAX: usize = 60;
    let world = World::start().await;
    let (asked, read, ahead) = (Arc::default(), Arc::default(), Arc::<AtomicUsize>::default());
    let count: Arc<AtomicUsize> = Arc::clone(&asked);
    let (read_too, ahead_too): (Arc<AtomicUsize>, _) = (Arc::clone(&read), Arc::clone(&ahead));
    let one = messages(400_000);
    *world.db.reply.lock() = Some(Box::new(move |db, ask: &Ask| {
        let asked = count.fetch_add(1, Ordering::SeqCst) + 1;
        ahead_too.fetch_max(asked - read_too.load(Ordering::SeqCst), Ordering::SeqCst);
        one(db, ask)
    }));
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageListRequest, 0xFF01, &page(PARTS)).await;
    for part in 0..PARTS {
        let reply: MessageListReply = client.expect(Command::MessageListReply, 0xFF01).await;
        assert_eq!(reply.messages[0].msg_id, 1_000 - part);
        read.fetch_add(1, Ordering::SeqCst);
        if part == 0 {
            // Another client is served meanwhile, while this one reads nothing.
            let mut other = world.client(6, WINDOWS).await;
            for _ in 0..100 {
                other.expect_quiet().await;
            }
        }
    }
    client.expect_quiet().await;
    assert_eq!(asked.load(Ordering::SeqCst), PARTS as usize);
    let ahead = ahead.load(Ordering::SeqCst);
    assert!(ahead <= AHEAD_MAX, "{ahead} parts were asked for and not read");
    world.stop().await;
}

#[tokio::test]
async fn a_part_that_cannot_be_had_is_asked_for_again_and_at_last_ends_the_session() {
    let world = World::start().await;
    let failures = Arc::<AtomicUsize>::default();
    let left = Arc::clone(&failures);
    let list = users();
    *world.db.reply.lock() = Some(Box::new(move |db, ask: &Ask| {
        let fails = ask.rest.is_some_and(|rest| rest.id == Some(3));
        if fails && left.load(Ordering::SeqCst) > 0 {
            left.fetch_sub(1, Ordering::SeqCst);
            return Answer { status: AskStatus::Unavailable.into(), ..Answer::default() };
        }
        list(db, ask)
    }));
    let mut client = world.client(5, ANDROID).await;
    failures.store(2, Ordering::SeqCst);
    client.send(Command::AllUsersRequest, 7, &AllUsersRequest::default()).await;
    assert_eq!(told(&mut client, 7, USERS).await, [1, 2, 3, 4]);

    // It would take what it has for everything.
    let mut client = world.client(5, ANDROID).await;
    failures.store(usize::MAX, Ordering::SeqCst);
    client.send(Command::AllUsersRequest, 7, &AllUsersRequest::default()).await;
    assert_eq!(told(&mut client, 7, 2).await, [1, 2]);
    client.expect_closed().await;
    world.stop().await;
}
