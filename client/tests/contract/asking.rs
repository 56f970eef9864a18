//! Every request: what goes over the wire, and what the program gets of the answer.

use std::fmt::Debug;

use client::{CallError, Client, ClientType, Conversation};
use proto::Command;
use proto::client::{
    AllUsersReply, AllUsersRequest, ChangeAvatarReply, ChangeAvatarRequest, ChangeSignatureReply,
    ChangeSignatureRequest, DepartmentsReply, DepartmentsRequest, GroupChange,
    GroupChangeMembersReply, GroupChangeMembersRequest, GroupCreateReply, GroupCreateRequest,
    GroupDeleteReply, GroupDeleteRequest, GroupInfo, GroupInfoReply, GroupInfoRequest,
    GroupMuteReply, GroupMuteRequest, GroupType, GroupVersion, LatestMessageIdReply,
    LatestMessageIdRequest, MessageInfo, MessageListReply, MessageListRequest, MessagesByIdReply,
    MessagesByIdRequest, NormalGroupsReply, NormalGroupsRequest, PeerSignal, ReadAck,
    RecentSession, RecentSessionsReply, RecentSessionsRequest, RemoveSessionReply,
    RemoveSessionRequest, TicketReply, TicketRequest, UserInfo, UserStatusEntry, UsersInfoReply,
    UsersInfoRequest, UsersStatusReply, UsersStatusRequest,
};
use proto::ids::{GroupId, MsgId, UserId};

use crate::fake::{Gateway, PEER, Served, within};

const GROUP: Conversation = Conversation::group(9);

/// Asks, and answers what is asked: returns the request as it came, and what the program got.
async fn asked<Q, A, T>(
    served: &mut Served,
    command: Command,
    answer: A,
    asking: impl Future<Output = Result<T, CallError>>,
) -> (Q, Result<T, CallError>)
where
    Q: prost::Message + Default + Debug,
    A: prost::Message,
    T: Debug,
{
    let answering = async {
        let frame = served.next_of(command).await;
        let number = command.number() + 1;
        let reply = proto::Frame { command: number, seq: frame.seq, body: body(&answer) };
        served.connection.send_frame(&reply).await.unwrap();
        frame.parse().unwrap()
    };
    within(async {
        let (got, request) = tokio::join!(asking, answering);
        (request, got)
    })
    .await
}

fn body(message: &impl prost::Message) -> bytes::Bytes {
    message.encode_to_vec().into()
}

async fn online() -> (Client, Served) {
    let gateway = Gateway::start().await;
    let (client, _events, served) = gateway.client(&[]).await;
    (client, served)
}

/// Messages of a history: two that can be read, between one of a type that is not known.
fn infos() -> Vec<MessageInfo> {
    let info = |msg_id, msg_type| MessageInfo { msg_id, msg_type, ..MessageInfo::default() };
    vec![info(7, 1), info(6, 99), info(5, 1)]
}

fn ids(messages: Result<Vec<client::Message>, CallError>) -> Vec<(Conversation, u32)> {
    messages.unwrap().iter().map(|message| (message.conversation, message.msg_id.0)).collect()
}

#[tokio::test]
async fn history_is_asked_for_by_conversation_and_number() {
    let (client, mut served) = online().await;
    let reply = MessageListReply { messages: infos(), ..MessageListReply::default() };
    let asking = client.history(GROUP, Some(MsgId(7)), 3);
    let command = Command::MessageListRequest;
    let (request, got): (MessageListRequest, _) =
        asked(&mut served, command, reply.clone(), asking).await;
    assert_eq!((request.session_type, request.session_id), (2, 9));
    assert_eq!((request.msg_id_begin, request.msg_count), (7, 3));
    assert_eq!(ids(got), [(GROUP, 7), (GROUP, 5)]);
    let (request, got): (MessageListRequest, _) =
        asked(&mut served, command, reply, client.history(PEER, None, 20)).await;
    assert_eq!((request.session_type, request.session_id), (1, 2));
    assert_eq!((request.msg_id_begin, request.msg_count), (0, 20), "from the newest");
    assert_eq!(ids(got), [(PEER, 7), (PEER, 5)]);

    let reply = MessagesByIdReply { messages: infos(), ..MessagesByIdReply::default() };
    let asking = client.messages_by_id(GROUP, &[MsgId(7), MsgId(5)]);
    let (request, got): (MessagesByIdRequest, _) =
        asked(&mut served, Command::MessagesByIdRequest, reply, asking).await;
    assert_eq!((request.session_type, request.session_id), (2, 9));
    assert_eq!(request.msg_ids, [7, 5]);
    assert_eq!(ids(got), [(GROUP, 7), (GROUP, 5)]);

    let reply = LatestMessageIdReply { latest_msg_id: 12, ..LatestMessageIdReply::default() };
    let (request, got): (LatestMessageIdRequest, _) =
        asked(&mut served, Command::LatestMessageIdRequest, reply, client.latest_msg_id(GROUP))
            .await;
    assert_eq!((request.session_type, request.session_id), (2, 9));
    assert_eq!(got.unwrap(), MsgId(12));
}

#[tokio::test]
async fn conversations_are_listed_taken_out_and_marked_as_read() {
    let (client, mut served) = online().await;
    let conversation = RecentSession { session_id: 9, session_type: 2, ..RecentSession::default() };
    let reply =
        RecentSessionsReply { sessions: vec![conversation], ..RecentSessionsReply::default() };
    let (request, got): (RecentSessionsRequest, _) =
        asked(&mut served, Command::RecentSessionsRequest, reply, client.recent_conversations(77))
            .await;
    assert_eq!(request.latest_update_time, 77);
    assert_eq!(got.unwrap()[0].session_id, 9);

    for (result_code, is_done) in [(0, true), (1, false)] {
        let reply =
            RemoveSessionReply { result_code, session_type: 2, ..RemoveSessionReply::default() };
        let command = Command::RemoveSessionRequest;
        let (request, got): (RemoveSessionRequest, _) =
            asked(&mut served, command, reply, client.remove_conversation(GROUP)).await;
        assert_eq!((request.session_type, request.session_id), (2, 9));
        assert!(is_done == got.is_ok() && matches!(got, Ok(()) | Err(CallError::Failed(1))));
    }

    client.mark_read(GROUP, MsgId(5)).await.unwrap();
    let ack: ReadAck = served.next_of(Command::ReadAck).await.parse().unwrap();
    assert_eq!((ack.session_type, ack.session_id, ack.msg_id), (2, 9, 5));
    client.signal(UserId(2), "{}").await.unwrap();
    let signal: PeerSignal = served.next_of(Command::PeerSignal).await.parse().unwrap();
    assert_eq!((signal.to_user_id, signal.data.as_str()), (2, "{}"));
}

#[tokio::test]
async fn groups_are_made_changed_and_deleted_or_it_is_said_that_they_were_not() {
    let (client, mut served) = online().await;
    let members = [UserId(1), UserId(2)];
    for (result_code, group_id) in [(0, Some(9)), (1, None), (0, None)] {
        let reply = GroupCreateReply { result_code, group_id, ..GroupCreateReply::default() };
        let asking = client.create_group("friends", &members);
        let (request, got): (GroupCreateRequest, _) =
            asked(&mut served, Command::GroupCreateRequest, reply, asking).await;
        assert_eq!((request.name.as_str(), request.member_ids), ("friends", vec![1, 2]));
        assert_eq!(request.group_type, i32::from(GroupType::Temporary));
        match (group_id, got) {
            (Some(id), got) => assert_eq!(got.unwrap(), GroupId(id)),
            (None, got) => {
                assert!(matches!(got, Err(CallError::Failed(code)) if code == result_code));
            }
        }
    }
    for (result_code, change) in [(0, GroupChange::Add), (1, GroupChange::Remove)] {
        let reply = GroupChangeMembersReply {
            change: change.into(),
            result_code,
            current_ids: vec![1],
            ..GroupChangeMembersReply::default()
        };
        let asking = client.change_group(GroupId(9), change, &members);
        let (request, got): (GroupChangeMembersRequest, _) =
            asked(&mut served, Command::GroupChangeMembersRequest, reply, asking).await;
        assert_eq!((request.group_id, request.member_ids), (9, vec![1, 2]));
        assert_eq!(request.change, i32::from(change));
        match result_code {
            0 => assert_eq!(got.unwrap().current_ids, [1]),
            code => assert!(matches!(got, Err(CallError::Failed(failed)) if failed == code)),
        }
    }
    for result_code in [0, 1] {
        let reply = GroupDeleteReply { group_id: 9, result_code };
        let (request, got): (GroupDeleteRequest, _) =
            asked(&mut served, Command::GroupDeleteRequest, reply, client.delete_group(GroupId(9)))
                .await;
        assert_eq!((request.group_id, got.is_ok()), (9, result_code == 0));
    }
    for (muted, result_code) in [(true, 0), (false, 1)] {
        let reply = GroupMuteReply { result_code, ..GroupMuteReply::default() };
        let asking = client.mute_group(GroupId(9), muted);
        let (request, got): (GroupMuteRequest, _) =
            asked(&mut served, Command::GroupMuteRequest, reply, asking).await;
        assert_eq!((request.group_id, request.muted), (9, u32::from(muted)));
        assert_eq!(got.is_ok(), result_code == 0);
    }
}

#[tokio::test]
async fn groups_and_their_versions_are_told() {
    let (client, mut served) = online().await;
    let version = GroupVersion { group_id: 9, version: 4 };
    let reply = NormalGroupsReply { groups: vec![version], ..NormalGroupsReply::default() };
    let (_request, got): (NormalGroupsRequest, _) =
        asked(&mut served, Command::NormalGroupsRequest, reply, client.groups()).await;
    assert_eq!(got.unwrap(), [version]);
    let info = GroupInfo { group_id: 9, version: 4, ..GroupInfo::default() };
    let reply = GroupInfoReply { groups: vec![info.clone()], ..GroupInfoReply::default() };
    let (request, got): (GroupInfoRequest, _) =
        asked(&mut served, Command::GroupInfoRequest, reply, client.group_info(&[version])).await;
    assert_eq!(request.groups, [version]);
    assert_eq!(got.unwrap(), [info]);
}

#[tokio::test]
async fn users_are_told_by_number_and_since_a_time() {
    let (client, mut served) = online().await;
    let anna = UserInfo { user_id: 2, nick_name: "anna".to_owned(), ..UserInfo::default() };
    let reply = UsersInfoReply { users: vec![anna.clone()], ..UsersInfoReply::default() };
    let two = [UserId(2), UserId(3)];
    let (request, got): (UsersInfoRequest, _) =
        asked(&mut served, Command::UsersInfoRequest, reply, client.users(&two)).await;
    assert_eq!(request.user_ids, [2, 3]);
    assert_eq!(got.unwrap(), [anna]);

    let reply = AllUsersReply { latest_update_time: 88, ..AllUsersReply::default() };
    let (request, got): (AllUsersRequest, _) =
        asked(&mut served, Command::AllUsersRequest, reply, client.all_users(77)).await;
    assert_eq!((request.latest_update_time, got.unwrap().latest_update_time), (77, 88));
    let reply = DepartmentsReply { latest_update_time: 88, ..DepartmentsReply::default() };
    let (request, got): (DepartmentsRequest, _) =
        asked(&mut served, Command::DepartmentsRequest, reply, client.departments(77)).await;
    assert_eq!((request.latest_update_time, got.unwrap().latest_update_time), (77, 88));

    let status = UserStatusEntry { user_id: 3, ..UserStatusEntry::default() };
    let reply = UsersStatusReply { users: vec![status], ..UsersStatusReply::default() };
    let (request, got): (UsersStatusRequest, _) =
        asked(&mut served, Command::UsersStatusRequest, reply, client.statuses(&two)).await;
    assert_eq!(request.user_ids, [2, 3]);
    assert_eq!(got.unwrap()[0].user_id, 3);
}

#[tokio::test]
async fn a_change_to_the_users_own_profile_is_done_or_reported_as_failed() {
    let (client, mut served) = online().await;
    for result_code in [0, 3] {
        let reply = ChangeSignatureReply { result_code, ..ChangeSignatureReply::default() };
        let command = Command::ChangeSignatureRequest;
        let (request, got): (ChangeSignatureRequest, _) =
            asked(&mut served, command, reply, client.set_signature("hello")).await;
        assert_eq!(request.signature, "hello");
        assert!(result_code == 0 && got.is_ok() || matches!(got, Err(CallError::Failed(3))));
        let reply = ChangeAvatarReply { result_code, ..ChangeAvatarReply::default() };
        let (request, got): (ChangeAvatarRequest, _) =
            asked(&mut served, Command::ChangeAvatarRequest, reply, client.set_avatar("a.png"))
                .await;
        assert_eq!(request.avatar_url, "a.png");
        assert!(result_code == 0 && got.is_ok() || matches!(got, Err(CallError::Failed(3))));
    }
    // Without a token of its own the client's word is all there is, and the server says no.
    let reply = TicketReply { result_code: 1, ticket: None, lifetime_s: None };
    let asking = client.ticket(ClientType::Windows);
    let (request, got): (TicketRequest, _) =
        asked(&mut served, Command::TicketRequest, reply, asking).await;
    assert_eq!((request.token.len(), request.client_type()), (0, ClientType::Windows));
    assert!(matches!(got, Err(CallError::Failed(1))), "{got:?}");
}
