//! What the table says, held against what it must say.

use super::*;
use crate::client::{
    GroupChangeMembersRequest, GroupDeleteRequest, GroupInfoRequest, GroupMuteRequest,
    GroupVersion, LatestMessageIdRequest, MessageListRequest, MessagesByIdRequest, ReadAck,
    RemoveSessionRequest,
};

/// The service of our own commands.
const EXTENSION: u16 = 0x20;

const USER: UserId = UserId(5);

#[test]
fn every_command_is_found_by_its_number_and_no_other_number_is_one() {
    for &command in Command::ALL {
        assert_eq!(Command::from_number(command.number()), Some(command));
    }
    let known = (0..=u16::MAX).filter(|&number| Command::from_number(number).is_some());
    assert_eq!(known.count(), Command::ALL.len());
}

#[test]
fn before_login_a_client_may_only_log_in_stay_alive_and_say_hello() {
    let accepted: Vec<_> = Command::ALL
        .iter()
        .filter(|command| command.accepted(State::Any, true).is_some())
        .map(|command| command.name())
        .collect();
    assert_eq!(accepted, ["LoginRequest", "Heartbeat", "Hello", "ResumeRequest"]);
}

#[test]
fn a_client_is_never_served_what_only_the_server_says() {
    for &command in Command::ALL {
        if command.direction() == Direction::ServerToClient {
            assert_eq!(command.accepted(State::LoggedIn, true), None, "{command:?}");
        }
    }
}

#[test]
fn files_and_the_old_balancer_are_not_served() {
    let unserved = |command: &&Command| {
        command.direction() != Direction::ServerToClient && command.served_by().is_none()
    };
    let unserved: Vec<_> = Command::ALL.iter().filter(unserved).map(|one| one.number()).collect();
    assert_eq!(unserved, [0x0101, 0x0501, 0x0503, 0x0504, 0x0505]);
}

#[test]
fn only_a_client_that_has_said_hello_knows_the_extension() {
    for &command in Command::ALL {
        let is_of_extension = command.number() >> 8 == EXTENSION && command != Command::Hello;
        assert_eq!(command.needs_hello(), is_of_extension, "{command:?}");
    }
    let resume = Command::ResumeRequest;
    assert_eq!(resume.accepted(State::Any, false), None);
    assert_eq!(resume.accepted(State::Any, true), resume.served_by());
}

#[test]
fn limits_fit_what_peers_can_take() {
    for &command in Command::ALL {
        let limit = match command.direction() {
            Direction::ServerToClient => LIMIT_TO_CLIENT,
            Direction::ClientToServer | Direction::Both => LIMIT_AFTER_LOGIN,
        };
        assert!(command.size_limit() <= limit, "{command:?}");
        assert!(command.size_limit() >= EMPTY, "{command:?}");
    }
}

#[test]
fn an_empty_body_reads_as_every_message() {
    // Required or not: a client that leaves a field out gets zeros, not a closed connection.
    for &command in Command::ALL {
        assert!(command.reencode(Bytes::new()).is_ok(), "{command:?}");
    }
}

#[test]
fn storage_knows_its_commands_by_number_and_no_other() {
    for &command in StorageCommand::ALL {
        let number = u32::from(command.command().number());
        assert_eq!(StorageCommand::from_number(number), Some(command));
        assert_eq!(StorageCommand::from_number(number + 0x1_0000), None, "{command:?}");
    }
    let known = (0..=0xFFFF).filter(|&number| StorageCommand::from_number(number).is_some());
    assert_eq!(known.count(), StorageCommand::ALL.len());
}

#[test]
fn what_changes_something_is_not_asked_twice_unless_it_comes_to_the_same() {
    let is_once = |command: &&StorageCommand| command.repeat() == Repeat::Once;
    let once: Vec<_> =
        StorageCommand::ALL.iter().filter(is_once).map(|one| one.command().number()).collect();
    assert_eq!(
        once,
        [0x0105, 0x0108, 0x010c, 0x0206, 0x020c, 0x0213, 0x0405, 0x0407, 0x2005],
        "the others change nothing, or are marks"
    );
}

fn routed(command: StorageCommand, message: &impl Message) -> Route {
    command.route(&message.encode_to_vec().into(), USER)
}

fn single(peer: u32) -> Route {
    Route::Conversation(ConversationId::single(USER, UserId(peer)).unwrap())
}

fn group(group: u32) -> Route {
    Route::Conversation(ConversationId::group(GroupId(group)).unwrap())
}

#[test]
fn what_is_asked_about_one_conversation_goes_to_its_owner() {
    for (session_type, expected) in [(0, single(9)), (1, single(9)), (2, group(9))] {
        let list = MessageListRequest { session_type, session_id: 9, ..Default::default() };
        assert_eq!(routed(StorageCommand::MessageListRequest, &list), expected);
        let latest = LatestMessageIdRequest { session_type, session_id: 9, ..Default::default() };
        assert_eq!(routed(StorageCommand::LatestMessageIdRequest, &latest), expected);
        let by_id = MessagesByIdRequest {
            session_type,
            session_id: 9,
            msg_ids: vec![1, 2],
            ..Default::default()
        };
        assert_eq!(routed(StorageCommand::MessagesByIdRequest, &by_id), expected);
        let ack = ReadAck { session_type, session_id: 9, msg_id: 3, ..Default::default() };
        assert_eq!(routed(StorageCommand::ReadAck, &ack), expected);
        let remove = RemoveSessionRequest { session_type, session_id: 9, ..Default::default() };
        assert_eq!(routed(StorageCommand::RemoveSessionRequest, &remove), expected);
    }
    let change = GroupChangeMembersRequest { group_id: 9, ..Default::default() };
    assert_eq!(routed(StorageCommand::GroupChangeMembersRequest, &change), group(9));
    let mute = GroupMuteRequest { group_id: 9, ..Default::default() };
    assert_eq!(routed(StorageCommand::GroupMuteRequest, &mute), group(9));
    let delete = GroupDeleteRequest { group_id: 9 };
    assert_eq!(routed(StorageCommand::GroupDeleteRequest, &delete), group(9));
}

#[test]
fn groups_that_are_asked_about_are_asked_of_their_owners() {
    let asked = |ids: &[u32]| GroupInfoRequest {
        groups: ids.iter().map(|&group_id| GroupVersion { group_id, version: 0 }).collect(),
        ..Default::default()
    };
    let group = |id| ConversationId::group(GroupId(id)).unwrap();
    let groups = vec![group(9), group(3)];
    let expected = Route::Conversations(MergedCommand::GroupInfoRequest, groups);
    assert_eq!(routed(StorageCommand::GroupInfoRequest, &asked(&[9, 0, 3])), expected);
    assert_eq!(routed(StorageCommand::GroupInfoRequest, &asked(&[])), Route::AnyOwner);
}

#[test]
fn what_cannot_be_read_or_is_no_conversation_is_asked_of_any_owner() {
    let junk = Bytes::from_static(&[0xff; 5]);
    for command in [
        StorageCommand::MessageListRequest,
        StorageCommand::ReadAck,
        StorageCommand::GroupMuteRequest,
        StorageCommand::GroupInfoRequest,
    ] {
        assert_eq!(command.route(&junk, USER), Route::AnyOwner);
    }
    let to_self = ReadAck { session_type: 1, session_id: USER.0, ..Default::default() };
    assert_eq!(routed(StorageCommand::ReadAck, &to_self), Route::AnyOwner);
}

#[test]
fn lists_are_asked_of_all_and_what_belongs_to_users_of_the_login_side() {
    let nothing = Bytes::new();
    for merged in [
        MergedCommand::UnreadCountRequest,
        MergedCommand::RecentSessionsRequest,
        MergedCommand::NormalGroupsRequest,
    ] {
        let number = u32::from(merged.command().number());
        let command = StorageCommand::from_number(number).unwrap();
        assert_eq!(command.route(&nothing, USER), Route::Everything(merged));
    }
    let is_for_logins = |command: &&StorageCommand| command.route(&nothing, USER) == Route::Logins;
    let logins: Vec<_> = StorageCommand::ALL
        .iter()
        .filter(is_for_logins)
        .map(|one| one.command().number())
        .filter(|number| number >> 8 != EXTENSION)
        .collect();
    assert_eq!(
        logins,
        [0x0105, 0x0108, 0x010c, 0x010e, 0x0204, 0x0208, 0x020c, 0x0210, 0x0213],
        "of the original protocol"
    );
    assert_eq!(StorageCommand::GroupCreateRequest.route(&nothing, USER), Route::AnyOwner);
}
