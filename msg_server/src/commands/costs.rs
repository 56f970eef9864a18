//! What a client's request costs its user, in questions.
//!
//! Pure. One unit is a small look-up: some 20 microseconds of storage's processor. What the clients
//! of the protocol ask after a login, with 12,000 colleagues and 100 conversations, comes to less
//! than half of what [`LimitsConfig::questions_burst`](crate::LimitsConfig::questions_burst) lets
//! through at once.

use proto::client::{GroupChange, GroupChangeMembersRequest, MessageListRequest};
use proto::{Frame, GatewayCommand};

use crate::commands::allowances::Price;

/// A small look-up.
pub(crate) const LOOK_UP: Price = Price::Question(1);
/// A list over all of a user's conversations, or a change of a group's members or of a token.
pub(crate) const LIST: Price = Price::Question(20);
/// All users: up to 400 KB.
pub(crate) const ALL_USERS: Price = Price::Question(100);
/// A page of a conversation, or the record of a group: an answer of some kilobytes, or more.
const PAGE: u32 = 5;
/// Messages on a page of history that cost one more.
const MESSAGES_PER_UNIT: u32 = 20;
/// Bytes of a list of numbers that cost one more: some 16 numbers of two or three bytes.
const NUMBERS_BYTES_PER_UNIT: usize = 64;

/// What a request is paid with that the gateway serves itself. Sends and signals have limits of their
/// own.
pub(crate) fn price(command: GatewayCommand, request: &Frame) -> Price {
    match command {
        GatewayCommand::UsersStatusRequest => users(request),
        GatewayCommand::KickPcRequest
        | GatewayCommand::ResumeTokenKept
        | GatewayCommand::TicketRequest => LIST,
        GatewayCommand::MessageData
        | GatewayCommand::MessageAck
        | GatewayCommand::PeerSignal
        | GatewayCommand::TimeRequest
        | GatewayCommand::FileSendRequest
        | GatewayCommand::OfflineFilesRequest
        | GatewayCommand::OfflineFileAdd
        | GatewayCommand::OfflineFileRemove => Price::Free,
    }
}

/// Something small about each user in a list.
pub(crate) fn users(request: &Frame) -> Price {
    Price::Question(numbers(request).saturating_add(1))
}

/// The record of each group in a list, or the messages with these numbers.
pub(crate) fn records(request: &Frame) -> Price {
    Price::Question(numbers(request).saturating_add(PAGE))
}

/// A page of history.
pub(crate) fn history(request: &Frame) -> Price {
    let asked = request.parse::<MessageListRequest>().map_or(0, |request| request.msg_count);
    // Storage gives a thousand at most.
    Price::Question(PAGE + asked.min(1_000) / MESSAGES_PER_UNIT)
}

/// A change of a group's members. Those removed are not counted with those added.
pub(crate) fn members(request: &Frame) -> Price {
    let request = request.parse::<GroupChangeMembersRequest>();
    let removes = request.is_ok_and(|request| request.change == i32::from(GroupChange::Remove));
    if removes { LIST } else { Price::GroupChange }
}

/// What a list of numbers costs beside the least.
fn numbers(request: &Frame) -> u32 {
    u32::try_from(request.body.len() / NUMBERS_BYTES_PER_UNIT).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use proto::client::UsersStatusRequest;

    use super::*;

    fn empty(command: GatewayCommand) -> Frame {
        Frame { command: command.command().number(), seq: 0, body: Bytes::new() }
    }

    #[test]
    fn everything_that_others_are_asked_costs_something() {
        let costs = |command: &&GatewayCommand| price(**command, &empty(**command)) != Price::Free;
        let costly: Vec<_> = GatewayCommand::ALL.iter().filter(costs).copied().collect();
        assert_eq!(
            costly,
            [
                GatewayCommand::KickPcRequest,
                GatewayCommand::UsersStatusRequest,
                GatewayCommand::ResumeTokenKept,
                GatewayCommand::TicketRequest,
            ]
        );
    }

    #[test]
    fn what_is_written_about_a_token_costs_as_much_as_a_list() {
        for command in [GatewayCommand::ResumeTokenKept, GatewayCommand::TicketRequest] {
            assert_eq!(price(command, &empty(command)), LIST, "{command:?}");
        }
    }

    #[test]
    fn long_lists_cost_more_than_short_ones() {
        let ask = |count: u32| {
            let user_ids = (1..=count).collect();
            let request = UsersStatusRequest { user_ids, ..Default::default() };
            let body = request.encode_to_vec().into();
            price(
                GatewayCommand::UsersStatusRequest,
                &Frame { body, ..empty(GatewayCommand::UsersStatusRequest) },
            )
        };
        assert_eq!(ask(1), Price::Question(1));
        let Price::Question(long) = ask(20_000) else { panic!("a question") };
        assert!((900..1_100).contains(&long), "{long}");
    }
}
