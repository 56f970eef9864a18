//! Unread counts, recent sessions, read marks, removed sessions.

use partition::test::{group, message, single, user};
use proto::client::{
    MessageType, ReadAck, RecentSessionsReply, RecentSessionsRequest, RemoveSessionReply,
    RemoveSessionRequest, UnreadCountReply, UnreadCountRequest,
};
use store::UserStore;

use super::*;

#[tokio::test]
async fn unread_messages_are_counted_per_session() {
    let server = Server::start().await;
    server.proxy.make_group(5, &[1, 2, 3]).await;
    for (conversation, sender) in [
        (single(1, 2), 2),
        (single(1, 2), 2),
        (single(1, 3), 1),
        (group(5), 2),
        (group(5), 1),
        (group(5), 3),
    ] {
        server.proxy.send(message(conversation, sender)).await;
    }
    let unread = server.unread(1).await;
    assert_eq!((unread.user_id, unread.total_count), (1, 4));
    let mut seen: Vec<_> = unread
        .sessions
        .iter()
        .map(|s| (s.session_type, s.session_id, s.unread_count, s.latest_msg_id, s.latest_msg_from))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(SINGLE, 2, 2, 2, 2), (GROUP, 5, 2, 3, 3)]);
    assert!(unread.sessions.iter().all(|session| !session.latest_msg_data.is_empty()));
    assert_eq!(server.unread(4).await.sessions, []);
    server.stop().await;
}

#[tokio::test]
async fn a_read_mark_changes_something_once() {
    let server = Server::start().await;
    for _ in 0..5 {
        server.proxy.send(message(single(1, 2), 2)).await;
    }
    for (upto, changed, left) in
        [(2, true, 3), (2, false, 3), (1, false, 3), (0, true, 0), (0, false, 0)]
    {
        let ack = ReadAck { user_id: 0, session_id: 2, msg_id: upto, session_type: SINGLE };
        let answer = server.answer(1, Command::ReadAck, &ack).await;
        assert_eq!((answer.status, answer.body), (AskStatus::Ignored as i32, None), "no reply");
        assert_eq!(answer.changed, Some(changed), "up to {upto}");
        assert_eq!(server.unread(1).await.total_count, left);
    }
    let of_an_outsider = ReadAck { user_id: 0, session_id: 5, msg_id: 0, session_type: GROUP };
    let answer = server.answer(1, Command::ReadAck, &of_an_outsider).await;
    assert_eq!(answer.changed, Some(false));
    server.stop().await;
}

#[tokio::test]
async fn recent_sessions_come_newest_first_and_only_those_that_have_messages() {
    let server = Server::start().await;
    server.proxy.make_group(5, &[1, 2]).await;
    server.proxy.make_group(6, &[1, 2]).await;
    for conversation in [single(1, 2), group(5), single(1, 3)] {
        server.proxy.send(message(conversation, 1)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let recent = server.recent(1, 0).await;
    let seen: Vec<_> = recent.sessions.iter().map(|s| (s.session_type, s.session_id)).collect();
    assert_eq!(seen, [(SINGLE, 3), (GROUP, 5), (SINGLE, 2)]);
    let newest = recent.sessions.iter().map(|session| session.updated_time).max().unwrap();
    let of_the_newest_second = recent.sessions.iter().filter(|s| s.updated_time == newest).count();
    let again = server.recent(1, newest).await.sessions;
    assert_eq!(again.len(), of_the_newest_second, "it may have changed once more in that second");
    assert_eq!(again.first(), recent.sessions.first());
    assert_eq!(server.recent(1, newest + 1).await.sessions, []);
    assert_eq!(server.recent(1, newest - 60).await.sessions.len(), 3);
    assert_eq!(server.recent(4, 0).await.sessions, []);
    server.stop().await;
}

#[tokio::test]
async fn a_removed_session_is_gone_and_read_until_the_next_message() {
    let server = Server::start().await;
    server.proxy.send(message(single(1, 2), 2)).await;
    for (changed, session_id, code) in [(true, 2, 0), (false, 2, 0), (false, 1, 0)] {
        let request = remove(SINGLE, session_id);
        let answer = server.answer(1, Command::RemoveSessionRequest, &request).await;
        assert_eq!(answer.changed, Some(changed));
        let reply = RemoveSessionReply::decode(answer.body.unwrap()).unwrap();
        assert_eq!((reply.result_code, reply.session_id), (code, session_id));
    }
    assert_eq!(server.recent(1, 0).await.sessions, []);
    assert_eq!(server.unread(1).await.total_count, 0);
    assert_eq!(server.recent(2, 0).await.sessions.len(), 1, "the other one keeps it");
    let of_an_outsider = server.answer(1, Command::RemoveSessionRequest, &remove(GROUP, 9)).await;
    let reply = RemoveSessionReply::decode(of_an_outsider.body.unwrap()).unwrap();
    assert_eq!((reply.result_code, of_an_outsider.changed), (1, Some(false)));

    server.proxy.send(message(single(1, 2), 2)).await;
    assert_eq!(server.recent(1, 0).await.sessions.len(), 1);
    assert_eq!(server.unread(1).await.total_count, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_voice_message_is_shown_as_a_fixed_text() {
    let server = Server::start().await;
    let mut voice = message(single(1, 2), 2);
    (voice.kind, voice.body) = (MessageType::SingleVoice as u32, Bytes::from(vec![9; 90_000]));
    server.proxy.send(voice).await;
    for data in [
        server.unread(1).await.sessions[0].latest_msg_data.clone(),
        server.recent(1, 0).await.sessions[0].latest_msg_data.clone(),
    ] {
        assert_eq!(proto::text::decrypt(&data).as_deref(), Ok("[语音]"));
    }
    server.stop().await;
}

#[tokio::test]
async fn every_unread_session_is_told_though_their_texts_do_not_fit_a_frame() {
    let server = Server::start().await;
    for peer in 2..=20 {
        let mut send = message(single(1, peer), peer);
        send.body = Bytes::from(vec![b'x'; 100_000]);
        server.proxy.send(send).await;
    }
    for stored in [false, true] {
        if stored {
            server.proxy.stored().await;
        }
        let unread = server.unread(1).await;
        assert_eq!((unread.total_count, unread.sessions.len()), (19, 19));
        let recent = server.recent(1, 0).await;
        assert_eq!(recent.sessions.len(), 19);
        let lens: Vec<usize> = recent.sessions.iter().map(|s| s.latest_msg_data.len()).collect();
        assert_eq!(lens[..4], [100_000, 100_000, 100_000, 100_000], "the newest whole");
        assert!(lens[4..].iter().all(|len| *len < 100), "{lens:?}");
        let short = &recent.sessions[18].latest_msg_data;
        assert_eq!(proto::text::decrypt(short).as_deref(), Ok("…"));
    }
    server.stop().await;
}

#[tokio::test]
async fn more_unread_sessions_than_fit_come_in_parts_the_newest_first() {
    let server = Server::start().await;
    let peers = 100..5_100;
    let users = peers.clone().map(|id| user(id, &format!("p{id}"))).collect();
    server.proxy.store.add_users(users, false).await.unwrap();
    for some in peers.collect::<Vec<_>>().chunks(500) {
        let sends = some.iter().map(|peer| server.proxy.send(message(single(1, *peer), *peer)));
        futures_util::future::join_all(sends).await;
    }
    let commands = (Command::UnreadCountRequest, Command::UnreadCountReply);
    let request = UnreadCountRequest::default();
    let parts: Vec<UnreadCountReply> = server.parts(1, commands, &request).await;
    assert_eq!(parts.len(), 2);
    assert!(parts.iter().all(|part| part.total_count == 5_000), "the total is that of all");
    let mut told: Vec<u32> =
        parts.iter().flat_map(|part| &part.sessions).map(|session| session.session_id).collect();
    let recent: Vec<u32> =
        server.recent(1, 0).await.sessions.iter().map(|session| session.session_id).collect();
    assert_eq!(told[..100], recent, "the newest are first");
    told.sort_unstable();
    assert_eq!(told, (100..5_100).collect::<Vec<_>>(), "each is told once");
    server.stop().await;
}

#[tokio::test]
async fn a_user_who_has_left_a_group_can_still_tidy_up_what_it_left_behind() {
    let server = Server::start().await;
    server.proxy.make_group(5, &[1, 2]).await;
    for _ in 0..3 {
        server.proxy.send(message(group(5), 1)).await;
    }
    server.proxy.change_members(5, &[], &[2]).await;
    server.proxy.send(message(group(5), 1)).await;
    for (msg_id, changed) in [(2, true), (0, true), (9, false)] {
        let ack = ReadAck { user_id: 0, session_id: 5, msg_id, session_type: GROUP };
        let answer = server.answer(2, Command::ReadAck, &ack).await;
        assert_eq!(answer.changed, Some(changed), "up to {msg_id}");
    }
    for changed in [true, false] {
        let answer = server.answer(2, Command::RemoveSessionRequest, &remove(GROUP, 5)).await;
        let reply = RemoveSessionReply::decode(answer.body.unwrap()).unwrap();
        assert_eq!((reply.result_code, answer.changed), (0, Some(changed)));
    }
    assert_eq!(server.recent(2, 0).await.sessions, [], "it is no member again by that");
    assert_eq!(server.unread(2).await.total_count, 0);
    server.stop().await;
}

fn remove(session_type: i32, session_id: u32) -> RemoveSessionRequest {
    RemoveSessionRequest { user_id: 0, session_type, session_id, attach_data: None }
}

impl Server {
    async fn unread(&self, user: u32) -> UnreadCountReply {
        let commands = (Command::UnreadCountRequest, Command::UnreadCountReply);
        self.ask(user, commands, &UnreadCountRequest::default()).await
    }

    async fn recent(&self, user: u32, latest_update_time: u32) -> RecentSessionsReply {
        let request = RecentSessionsRequest { latest_update_time, ..Default::default() };
        let commands = (Command::RecentSessionsRequest, Command::RecentSessionsReply);
        self.ask(user, commands, &request).await
    }
}
