//! What a client's request costs its user, in questions.
//!
//! Pure. One unit is a small look-up: some 20 microseconds of storage's processor. What the clients
//! of the protocol ask after a login, with 12,000 colleagues and 100 conversations, comes to less
//! than half of what [`LimitsConfig::questions_burst`](crate::LimitsConfig::questions_burst) lets
//! through at once.

use proto::client::{GroupChange, GroupChangeMembersRequest, MessageListRequest};
use proto::{Command, Frame};

use crate::allowances::Price;

/// A small look-up.
const LOOK_UP: u32 = 1;
/// A page of a conversation, or the record of a group: an answer of some kilobytes, or more.
const PAGE: u32 = 5;
/// Messages on a page of history that cost one more.
const MESSAGES_PER_UNIT: u32 = 20;
/// A list over all of a user's conversations, or a change of a group's members or of a token.
const LIST: u32 = 20;
/// All users: up to 400 KB.
const ALL_USERS: u32 = 100;
/// Bytes of a list of numbers that cost one more: some 16 numbers of two or three bytes.
const NUMBERS_BYTES_PER_UNIT: usize = 64;

/// What a request is paid with. Sends, read marks and signals have limits of their own.
pub(crate) fn price(command: Command, frame: &Frame) -> Price {
    let numbers = || u32::try_from(frame.body.len() / NUMBERS_BYTES_PER_UNIT).unwrap_or(u32::MAX);
    match command {
        Command::ChangeAvatarRequest | Command::ChangeSignatureRequest => Price::ProfileChange,
        Command::GroupChangeMembersRequest if removes(frame) => Price::Question(LIST),
        Command::GroupCreateRequest | Command::GroupChangeMembersRequest => Price::GroupChange,
        Command::AllUsersRequest => Price::Question(ALL_USERS),
        Command::DepartmentsRequest
        | Command::RecentSessionsRequest
        | Command::UnreadCountRequest
        | Command::NormalGroupsRequest
        | Command::KickPcRequest
        | Command::GroupDeleteRequest
        | Command::ResumeTokenKept
        | Command::TicketRequest => Price::Question(LIST),
        Command::MessageListRequest => Price::Question(history(frame)),
        Command::MessagesByIdRequest | Command::GroupInfoRequest => {
            Price::Question(PAGE.saturating_add(numbers()))
        }
        Command::UsersInfoRequest | Command::UsersStatusRequest => {
            Price::Question(LOOK_UP.saturating_add(numbers()))
        }
        Command::LatestMessageIdRequest
        | Command::RemoveSessionRequest
        | Command::GroupMuteRequest
        | Command::DeviceTokenRequest
        | Command::SetPushShieldRequest
        | Command::GetPushShieldRequest => Price::Question(LOOK_UP),
        _ => Price::Free,
    }
}

fn history(frame: &Frame) -> u32 {
    let asked = frame.parse::<MessageListRequest>().map_or(0, |request| request.msg_count);
    // Storage gives a thousand at most.
    PAGE + asked.min(1_000) / MESSAGES_PER_UNIT
}

fn removes(frame: &Frame) -> bool {
    let request = frame.parse::<GroupChangeMembersRequest>();
    request.is_ok_and(|request| request.change == i32::from(GroupChange::Remove))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use proto::State;
    use proto::client::{GroupInfoRequest, GroupVersion, UsersStatusRequest};

    use super::*;
    use crate::allowances::{Allowance, Rates};
    use crate::commands::{Judgement, Task, judge};
    use crate::config::LimitsConfig;

    fn frame(command: Command, message: &impl Message) -> Frame {
        Frame { command: command.number(), seq: 0, body: message.encode_to_vec().into() }
    }

    fn empty(command: Command) -> Frame {
        Frame { command: command.number(), seq: 0, body: Bytes::new() }
    }

    /// The whole sequence of a Windows client with 12,000 colleagues and 100 conversations, half of
    /// them groups, whose list of colleagues comes in eight parts.
    fn login_sequence() -> Vec<Frame> {
        let mut frames = vec![
            empty(Command::DepartmentsRequest),
            empty(Command::NormalGroupsRequest),
            empty(Command::RecentSessionsRequest),
            empty(Command::UnreadCountRequest),
            empty(Command::OfflineFilesRequest),
        ];
        frames.extend((0..8).map(|_part| empty(Command::AllUsersRequest)));
        let users: Vec<u32> = (1..=12_000).collect();
        frames.extend(users.chunks(300).map(|users| {
            let request = UsersStatusRequest { user_ids: users.to_vec(), ..Default::default() };
            frame(Command::UsersStatusRequest, &request)
        }));
        frames.extend((0..100).map(|_session| {
            let request = MessageListRequest { msg_count: 100, ..Default::default() };
            frame(Command::MessageListRequest, &request)
        }));
        frames.extend((0..50).map(|group_id| {
            let groups = vec![GroupVersion { group_id, version: 0 }];
            frame(Command::GroupInfoRequest, &GroupInfoRequest { groups, ..Default::default() })
        }));
        frames
    }

    #[test]
    fn a_whole_login_sequence_is_never_slowed_nor_is_the_next_one_at_once() {
        let rates = Rates::new(&LimitsConfig::default());
        let mut allowance = Allowance::default();
        for _login in 0..2 {
            for frame in login_sequence() {
                let command = frame.known_command().unwrap();
                allowance.pay(&rates, price(command, &frame), 0).unwrap();
            }
        }
    }

    #[test]
    fn everything_that_storage_or_the_hub_is_asked_costs_something() {
        for number in 0..=u16::MAX {
            let Judgement::Serve(command, task) = judge(number, State::LoggedIn, true) else {
                continue;
            };
            let free = price(command, &empty(command)) == Price::Free;
            assert_eq!(
                free,
                !matches!(
                    task,
                    Task::Ask | Task::AskStatus | Task::KickPc | Task::KeepToken | Task::GiveTicket
                ),
                "{command:?}"
            );
        }
    }

    #[test]
    fn members_removed_are_not_counted_with_those_added() {
        let change = |change: GroupChange| {
            let request = GroupChangeMembersRequest { change: change.into(), ..Default::default() };
            let command = Command::GroupChangeMembersRequest;
            price(command, &frame(command, &request))
        };
        assert_eq!(change(GroupChange::Add), Price::GroupChange);
        assert_eq!(change(GroupChange::Remove), Price::Question(LIST));
    }

    #[test]
    fn what_is_written_about_a_token_costs_as_much_as_a_list() {
        for command in [Command::ResumeTokenKept, Command::TicketRequest] {
            assert_eq!(price(command, &empty(command)), Price::Question(LIST), "{command:?}");
        }
    }

    #[test]
    fn long_lists_cost_more_than_short_ones() {
        let ask = |count: u32| {
            let user_ids = (1..=count).collect();
            let request = UsersStatusRequest { user_ids, ..Default::default() };
            price(Command::UsersStatusRequest, &frame(Command::UsersStatusRequest, &request))
        };
        assert_eq!(ask(1), Price::Question(1));
        let Price::Question(long) = ask(20_000) else { panic!("a question") };
        assert!((900..1_100).contains(&long), "{long}");
    }
}
