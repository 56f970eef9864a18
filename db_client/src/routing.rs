//! Whom a client's request is asked of, and whether it may be asked twice.
//!
//! A conversation says itself to which partition it belongs, and so which db_proxy answers for it.
//!
//! Pure.

use bytes::Bytes;
use prost::{DecodeError, Message};
use proto::Command;
use proto::client::{
    GroupChangeMembersRequest, GroupDeleteRequest, GroupInfoRequest, GroupMuteRequest,
    LatestMessageIdRequest, MessageListRequest, MessagesByIdRequest, ReadAck, RemoveSessionRequest,
};
use proto::ids::{ConversationId, GroupId, UserId};

/// Who answers a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The owner of this conversation.
    Conversation(ConversationId),
    /// Each owner, about all that it owns; their answers are merged.
    Everything,
    /// The owners of these conversations, each about its own; their answers are merged.
    Conversations(Vec<ConversationId>),
    /// Whoever serves what belongs to users.
    Logins,
    /// Anybody who owns something.
    AnyOwner,
}

/// Whom a request is asked of. What cannot be read is asked of anybody, who will say so.
pub fn route(command: Command, body: &Bytes, user: u32) -> Route {
    let body = body.clone();
    let of_session = |session_type, session_id| {
        ConversationId::of_session(UserId(user), session_type, session_id)
    };
    let conversation = match command {
        Command::MessageListRequest => MessageListRequest::decode(body)
            .map(|request| of_session(request.session_type, request.session_id)),
        Command::LatestMessageIdRequest => LatestMessageIdRequest::decode(body)
            .map(|request| of_session(request.session_type, request.session_id)),
        Command::MessagesByIdRequest => MessagesByIdRequest::decode(body)
            .map(|request| of_session(request.session_type, request.session_id)),
        Command::ReadAck => ReadAck::decode(body)
            .map(|request| of_session(request.session_type, request.session_id)),
        Command::RemoveSessionRequest => RemoveSessionRequest::decode(body)
            .map(|request| of_session(request.session_type, request.session_id)),
        Command::GroupChangeMembersRequest => GroupChangeMembersRequest::decode(body)
            .map(|request| ConversationId::group(GroupId(request.group_id))),
        Command::GroupMuteRequest => GroupMuteRequest::decode(body)
            .map(|request| ConversationId::group(GroupId(request.group_id))),
        Command::GroupDeleteRequest => GroupDeleteRequest::decode(body)
            .map(|request| ConversationId::group(GroupId(request.group_id))),
        Command::GroupInfoRequest => return of_groups(body).unwrap_or(Route::AnyOwner),
        Command::UnreadCountRequest
        | Command::RecentSessionsRequest
        | Command::NormalGroupsRequest => return Route::Everything,
        command if command.is_about_users() => return Route::Logins,
        // A new group gets a number that belongs to whoever makes it.
        _ => return Route::AnyOwner,
    };
    match conversation {
        Ok(Some(conversation)) => Route::Conversation(conversation),
        Ok(None) | Err(_) => Route::AnyOwner,
    }
}

/// Whether a request may be asked again when nobody knows whether it was carried out: it changes
/// nothing, or the same whenever it is asked.
pub fn is_repeatable(command: Command) -> bool {
    !matches!(
        command,
        Command::GroupCreateRequest
            | Command::GroupChangeMembersRequest
            | Command::GroupDeleteRequest
            | Command::RemoveSessionRequest
            | Command::ChangeSignatureRequest
            | Command::ChangeAvatarRequest
            | Command::DeviceTokenRequest
            | Command::LogoutRequest
            | Command::SetPushShieldRequest
    )
}

fn of_groups(body: Bytes) -> Result<Route, DecodeError> {
    let request = GroupInfoRequest::decode(body)?;
    let groups =
        request.groups.iter().filter_map(|asked| ConversationId::group(GroupId(asked.group_id)));
    let groups: Vec<ConversationId> = groups.collect();
    Ok(if groups.is_empty() { Route::AnyOwner } else { Route::Conversations(groups) })
}

#[cfg(test)]
mod tests {
    use proto::client::GroupVersion;
    use proto::cluster::wire;

    use super::*;

    const USER: u32 = 5;

    fn routed(command: Command, message: &impl Message) -> Route {
        route(command, &message.encode_to_vec().into(), USER)
    }

    fn single(peer: u32) -> Route {
        Route::Conversation(ConversationId::single(UserId(USER), UserId(peer)).unwrap())
    }

    fn group(group: u32) -> Route {
        Route::Conversation(ConversationId::group(GroupId(group)).unwrap())
    }

    #[test]
    fn what_is_asked_about_one_conversation_goes_to_its_owner() {
        for (session_type, expected) in [(0, single(9)), (1, single(9)), (2, group(9))] {
            let list = MessageListRequest { session_type, session_id: 9, ..Default::default() };
            assert_eq!(routed(Command::MessageListRequest, &list), expected);
            let latest =
                LatestMessageIdRequest { session_type, session_id: 9, ..Default::default() };
            assert_eq!(routed(Command::LatestMessageIdRequest, &latest), expected);
            let by_id = MessagesByIdRequest {
                session_type,
                session_id: 9,
                msg_ids: vec![1, 2],
                ..Default::default()
            };
            assert_eq!(routed(Command::MessagesByIdRequest, &by_id), expected);
            let ack = ReadAck { session_type, session_id: 9, msg_id: 3, ..Default::default() };
            assert_eq!(routed(Command::ReadAck, &ack), expected);
            let remove = RemoveSessionRequest { session_type, session_id: 9, ..Default::default() };
            assert_eq!(routed(Command::RemoveSessionRequest, &remove), expected);
        }
        let change = GroupChangeMembersRequest { group_id: 9, ..Default::default() };
        assert_eq!(routed(Command::GroupChangeMembersRequest, &change), group(9));
        let mute = GroupMuteRequest { group_id: 9, ..Default::default() };
        assert_eq!(routed(Command::GroupMuteRequest, &mute), group(9));
        assert_eq!(
            routed(Command::GroupDeleteRequest, &GroupDeleteRequest { group_id: 9 }),
            group(9)
        );
    }

    #[test]
    fn groups_that_are_asked_about_are_asked_of_their_owners() {
        let asked = |ids: &[u32]| GroupInfoRequest {
            groups: ids.iter().map(|&group_id| GroupVersion { group_id, version: 0 }).collect(),
            ..Default::default()
        };
        let group = |id| ConversationId::group(GroupId(id)).unwrap();
        let expected = Route::Conversations(vec![group(9), group(3)]);
        assert_eq!(routed(Command::GroupInfoRequest, &asked(&[9, 0, 3])), expected);
        assert_eq!(routed(Command::GroupInfoRequest, &asked(&[])), Route::AnyOwner);
    }

    #[test]
    fn what_cannot_be_read_or_is_no_conversation_is_asked_of_anybody() {
        let junk = Bytes::from_static(&[0xff; 5]);
        for command in [Command::MessageListRequest, Command::ReadAck, Command::GroupInfoRequest] {
            assert_eq!(route(command, &junk, USER), Route::AnyOwner);
        }
        let to_self = ReadAck { session_type: 1, session_id: USER, ..Default::default() };
        assert_eq!(routed(Command::ReadAck, &to_self), Route::AnyOwner);
    }

    #[test]
    fn lists_are_asked_of_all_and_what_belongs_to_users_of_whoever_serves_logins() {
        let nothing = wire::Status::default();
        for command in [
            Command::UnreadCountRequest,
            Command::RecentSessionsRequest,
            Command::NormalGroupsRequest,
        ] {
            assert_eq!(routed(command, &nothing), Route::Everything);
        }
        for command in [Command::AllUsersRequest, Command::LogoutRequest] {
            assert_eq!(routed(command, &nothing), Route::Logins);
        }
        assert_eq!(routed(Command::GroupCreateRequest, &nothing), Route::AnyOwner);
    }

    #[test]
    fn what_changes_something_is_not_asked_twice_unless_it_comes_to_the_same() {
        assert!(is_repeatable(Command::ReadAck) && is_repeatable(Command::GroupMuteRequest));
        assert!(is_repeatable(Command::MessageListRequest));
        assert!(!is_repeatable(Command::GroupCreateRequest));
        assert!(!is_repeatable(Command::ChangeSignatureRequest));
    }
}
