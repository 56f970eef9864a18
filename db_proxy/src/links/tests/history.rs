//! Pages of messages, messages by number, the newest number.

use partition::test::{group, message, single};
use proto::client::{
    LatestMessageIdReply, LatestMessageIdRequest, MessageListReply, MessageListRequest,
    MessagesByIdReply, MessagesByIdRequest,
};

use super::*;

#[tokio::test]
async fn a_page_goes_back_from_where_it_was_asked() {
    let server = Server::start().await;
    server.talk(100, 20).await;
    for (begin, count, expected) in [
        (0, 5, 96..101),
        (50, 5, 46..51),
        (3, 5, 1..4),
        (1_000, 2, 99..101),
        (0, 1_000, 1..101),
        (100, 0, 0..0),
    ] {
        let page = server.page(1, SINGLE, 2, (begin, count)).await;
        assert_eq!(ids(&page), expected.rev().collect::<Vec<_>>(), "{count} from {begin}");
        assert_eq!((page.user_id, page.session_type), (1, SINGLE));
        assert_eq!((page.session_id, page.msg_id_begin), (2, begin));
        for message in &page.messages {
            assert_eq!(message.from_user_id, 1 + message.msg_id % 2);
            assert_eq!(message.msg_data[..], vec![u8::try_from(message.msg_id).unwrap(); 20]);
        }
    }
    let of_the_other = server.page(2, SINGLE, 1, (0, 100)).await;
    assert_eq!(of_the_other.messages.len(), 100, "both see the same");
    server.stop().await;
}

/// A client that got such a page would never ask for what is missing.
#[tokio::test]
async fn a_page_with_a_hole_is_not_given_out() {
    let server = Server::start().await;
    server.talk(100, 20).await;
    server.proxy.stored().await;
    let path = server.proxy.setup.store_path();
    let damage = move || {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute("DELETE FROM message WHERE msg_id = 40", []).unwrap()
    };
    assert_eq!(tokio::task::spawn_blocking(damage).await.unwrap(), 1);
    for (begin, count, complete) in
        [(39, 10, true), (41, 1, true), (41, 2, false), (45, 10, false), (0, 100, false)]
    {
        let request = list(SINGLE, 2, (begin, count));
        let answer = server.answer(1, Command::MessageListRequest, &request).await;
        let expected = if complete { AskStatus::Answered } else { AskStatus::Unavailable };
        assert_eq!(answer.status(), expected, "{count} up to {begin}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_session_type_that_some_clients_send_means_a_single_one() {
    let server = Server::start().await;
    server.talk(3, 20).await;
    assert_eq!(server.page(1, 0, 2, (0, 9)).await.messages.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn large_messages_come_in_parts_that_fit_a_frame() {
    for size in [60_000, 150_000, 400_000] {
        let server = Server::start().await;
        server.talk(20, size).await;
        server.proxy.stored().await;
        for (asked, expected) in [((0, 18), 3..21), ((2, 18), 1..3), ((20, 100), 1..21)] {
            let commands = (Command::MessageListRequest, Command::MessageListReply);
            let request = list(SINGLE, 2, asked);
            let parts: Vec<MessageListReply> = server.parts(1, commands, &request).await;
            assert!(parts.iter().all(|part| !part.messages.is_empty()));
            assert!(parts.iter().all(|part| part.msg_id_begin == asked.0), "as asked");
            let seen: Vec<u32> = parts.iter().flat_map(ids).collect();
            assert_eq!(seen, expected.rev().collect::<Vec<_>>(), "{asked:?}, {size} bytes each");
        }
        let request = by_id(SINGLE, 2, (1..=20).step_by(2).collect());
        let commands = (Command::MessagesByIdRequest, Command::MessagesByIdReply);
        let parts: Vec<MessagesByIdReply> = server.parts(1, commands, &request).await;
        let seen: Vec<u32> =
            parts.iter().flat_map(|part| &part.messages).map(|message| message.msg_id).collect();
        assert_eq!(seen, (0..10).rev().map(|n| 2 * n + 1).collect::<Vec<_>>(), "{size} bytes each");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_page_of_a_thousand_small_messages_is_whole() {
    let server = Server::start().await;
    server.talk(1_200, 30).await;
    server.proxy.stored().await;
    let page = server.page(1, SINGLE, 2, (0, 5_000)).await;
    assert_eq!(ids(&page), (201..=1_200).rev().collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn messages_are_given_by_number() {
    let server = Server::start().await;
    server.talk(200, 20).await;
    server.proxy.stored().await;
    let request = by_id(SINGLE, 2, vec![7, 199, 7, 0, 201, 150, u32::MAX]);
    let reply = server.by_id(1, &request).await;
    let ids: Vec<u32> = reply.messages.iter().map(|message| message.msg_id).collect();
    assert_eq!(ids, [199, 150, 7]);
    let all = server.by_id(1, &by_id(SINGLE, 2, (1..=200).collect())).await;
    let ids: Vec<u32> = all.messages.iter().map(|message| message.msg_id).collect();
    assert_eq!(ids, (101..=200).rev().collect::<Vec<_>>(), "of too many the newest");
    server.stop().await;
}

#[tokio::test]
async fn a_member_sees_a_group_from_joining_it_on_and_an_outsider_never() {
    let server = Server::start().await;
    server.proxy.make_group(5, &[1, 2]).await;
    for _ in 0..10 {
        server.proxy.send(message(group(5), 1)).await;
    }
    server.proxy.change_members(5, &[3], &[2]).await;
    assert!(server.page(3, GROUP, 5, (0, 100)).await.messages.is_empty());
    assert_eq!(server.latest(3, GROUP, 5).await, 0, "nothing of it is his to see");
    for _ in 0..4 {
        server.proxy.send(message(group(5), 1)).await;
    }
    for (user, expected) in [(1, 1..15), (3, 11..15), (2, 0..0), (4, 0..0)] {
        let expected: Vec<u32> = expected.rev().collect();
        assert_eq!(ids(&server.page(user, GROUP, 5, (0, 100)).await), expected, "user {user}");
        assert_eq!(ids(&server.page(user, GROUP, 5, (14, 100)).await), expected, "user {user}");
        let latest = expected.first().copied().unwrap_or(0);
        assert_eq!(server.latest(user, GROUP, 5).await, latest, "user {user}");
        let reply = server.by_id(user, &by_id(GROUP, 5, (1..=14).collect())).await;
        let found: Vec<u32> = reply.messages.iter().map(|message| message.msg_id).collect();
        assert_eq!(found, expected, "user {user}");
    }
    let no_group = server.page(1, GROUP, 77, (0, 100)).await;
    assert_eq!(no_group.messages, server.page(4, GROUP, 5, (0, 100)).await.messages);
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_cannot_be_is_ignored() {
    let server = Server::start().await;
    for (session_type, session_id) in [(SINGLE, 1), (SINGLE, 0), (GROUP, 0)] {
        let request = list(session_type, session_id, (0, 9));
        let answer = server.answer(1, Command::MessageListRequest, &request).await;
        assert_eq!(answer, ignored(), "session {session_id} of type {session_type}");
    }
    assert!(server.page(1, SINGLE, 12_345, (0, 9)).await.messages.is_empty());
    assert_eq!(server.latest(1, SINGLE, 12_345).await, 0);
    server.stop().await;
}

fn ids(page: &MessageListReply) -> Vec<u32> {
    page.messages.iter().map(|message| message.msg_id).collect()
}

fn list(session_type: i32, session_id: u32, (begin, count): (u32, u32)) -> MessageListRequest {
    MessageListRequest {
        user_id: 0,
        session_type,
        session_id,
        msg_id_begin: begin,
        msg_count: count,
        attach_data: None,
    }
}

fn by_id(session_type: i32, session_id: u32, msg_ids: Vec<u32>) -> MessagesByIdRequest {
    MessagesByIdRequest { user_id: 0, session_type, session_id, msg_ids, attach_data: None }
}

impl Server {
    /// Users 2 and 1, by turns.
    async fn talk(&self, count: u32, size: usize) {
        for number in 1..=count {
            let mut send = message(single(1, 2), 1 + number % 2);
            send.body = Bytes::from(vec![u8::try_from(number % 256).unwrap(); size]);
            assert_eq!(self.proxy.send(send).await, number);
        }
    }

    async fn page(
        &self,
        user: u32,
        session_type: i32,
        session_id: u32,
        from: (u32, u32),
    ) -> MessageListReply {
        let commands = (Command::MessageListRequest, Command::MessageListReply);
        self.ask(user, commands, &list(session_type, session_id, from)).await
    }

    async fn by_id(&self, user: u32, request: &MessagesByIdRequest) -> MessagesByIdReply {
        self.ask(user, (Command::MessagesByIdRequest, Command::MessagesByIdReply), request).await
    }

    async fn latest(&self, user: u32, session_type: i32, session_id: u32) -> u32 {
        let request = LatestMessageIdRequest {
            user_id: 0,
            session_type,
            session_id,
            ..LatestMessageIdRequest::default()
        };
        let commands = (Command::LatestMessageIdRequest, Command::LatestMessageIdReply);
        self.ask::<LatestMessageIdReply>(user, commands, &request).await.latest_msg_id
    }
}
