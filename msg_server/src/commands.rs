//! What a client may ask, and which part of the gateway serves it.
//!
//! Pure. The protocol's table says who may send a command and when ([`Command::accepted_from_client`]);
//! this module says what follows from it. Whatever is listed nowhere is refused.

use proto::{Command, State};

use crate::closing::CloseReason;

/// What the connection has to do because of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Write the same frame back.
    Echo,
    /// Switch the extension on.
    Hello,
    /// Check who the client is.
    LogIn,
    /// The same, by a token or a ticket.
    Resume,
    /// Note that the client has a token.
    KeepToken,
    /// Ask for a ticket.
    GiveTicket,
    /// End the session on the client's wish.
    LogOut,
    /// Take a message.
    Send,
    /// Take a read mark.
    MarkRead,
    /// Tell the time.
    TellTime,
    /// Ask the hub who is online.
    AskStatus,
    /// Pass a signal on to another user.
    PassOn,
    /// Throw out the user's PC clients.
    KickPc,
    /// Ask storage.
    Ask,
    /// Say that files cannot be sent.
    RefuseFile,
    /// Say that no file waits.
    NoFiles,
    /// Nothing; and that is right.
    Nothing,
    /// Count a receipt, which carries no weight.
    CountReceipt,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is served.
    Serve(Command, Task),
    /// It is skipped, and counted: too many of these end the connection.
    Junk,
    /// It ends the connection.
    Close(CloseReason),
}

/// Decides what becomes of a frame, by its header alone. Total: every number has an answer in every
/// state, of clients that said hello and of others.
pub(crate) fn judge(number: u16, state: State, said_hello: bool) -> Judgement {
    let is_accepted = |command: &Command| {
        command.accepted_from_client(state) && (said_hello || !command.needs_hello())
    };
    let accepted = Command::from_number(number).filter(is_accepted);
    match (accepted, state) {
        (Some(command), _) => match task(command, state) {
            Some(task) => Judgement::Serve(command, task),
            None => Judgement::Junk,
        },
        (None, State::LoggedIn) => Judgement::Junk,
        (None, State::Any) => Judgement::Close(CloseReason::NotLoggedIn),
    }
}

fn task(command: Command, state: State) -> Option<Task> {
    Some(match command {
        Command::Heartbeat => Task::Echo,
        Command::Hello => Task::Hello,
        // A second login on one connection is ignored, as the original does.
        Command::LoginRequest | Command::ResumeRequest if state == State::LoggedIn => Task::Nothing,
        Command::LoginRequest => Task::LogIn,
        Command::ResumeRequest => Task::Resume,
        Command::ResumeTokenKept => Task::KeepToken,
        Command::TicketRequest => Task::GiveTicket,
        Command::LogoutRequest => Task::LogOut,
        Command::MessageData => Task::Send,
        Command::MessageAck => Task::CountReceipt,
        Command::ReadAck => Task::MarkRead,
        Command::TimeRequest => Task::TellTime,
        Command::UsersStatusRequest => Task::AskStatus,
        Command::PeerSignal => Task::PassOn,
        Command::KickPcRequest => Task::KickPc,
        Command::FileSendRequest => Task::RefuseFile,
        Command::OfflineFilesRequest => Task::NoFiles,
        Command::OfflineFileAdd | Command::OfflineFileRemove => Task::Nothing,
        Command::DeviceTokenRequest
        | Command::SetPushShieldRequest
        | Command::GetPushShieldRequest
        | Command::RecentSessionsRequest
        | Command::UsersInfoRequest
        | Command::RemoveSessionRequest
        | Command::AllUsersRequest
        | Command::ChangeAvatarRequest
        | Command::DepartmentsRequest
        | Command::ChangeSignatureRequest
        | Command::UnreadCountRequest
        | Command::MessageListRequest
        | Command::LatestMessageIdRequest
        | Command::MessagesByIdRequest
        | Command::NormalGroupsRequest
        | Command::GroupInfoRequest
        | Command::GroupCreateRequest
        | Command::GroupChangeMembersRequest
        | Command::GroupMuteRequest
        | Command::GroupDeleteRequest => Task::Ask,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_login_every_number_but_four_ends_the_connection() {
        let served = |said_hello| -> Vec<u16> {
            let ends = Judgement::Close(CloseReason::NotLoggedIn);
            (0..=u16::MAX).filter(|&number| judge(number, State::Any, said_hello) != ends).collect()
        };
        assert_eq!(served(true), [0x0103, 0x0701, 0x2001, 0x2007]);
        assert_eq!(served(false), [0x0103, 0x0701, 0x2001], "a resume needs a hello");
    }

    #[test]
    fn who_said_no_hello_does_not_know_the_extension() {
        let differs = |&number: &u16| {
            judge(number, State::LoggedIn, true) != judge(number, State::LoggedIn, false)
        };
        let known: Vec<_> = (0..=u16::MAX).filter(differs).collect();
        assert_eq!(known, [0x2005, 0x2007, 0x2009, 0x200a]);
        for number in known {
            assert_eq!(judge(number, State::LoggedIn, false), Judgement::Junk, "{number:#06x}");
        }
    }

    #[test]
    fn after_login_nothing_ends_the_connection_at_once() {
        for number in 0..=u16::MAX {
            assert!(
                !matches!(judge(number, State::LoggedIn, true), Judgement::Close(_)),
                "{number:#06x}"
            );
        }
    }

    #[test]
    fn what_only_the_server_says_is_junk_from_a_client() {
        for number in [0x0104, 0x0107, 0x0202, 0x0304, 0x040b, 0x2003, 0x0101, 0x0501, 0xFFFF] {
            assert_eq!(judge(number, State::LoggedIn, true), Judgement::Junk, "{number:#06x}");
        }
    }

    #[test]
    fn requests_about_stored_data_go_to_storage_and_no_others() {
        let asked: Vec<_> = (0..=u16::MAX)
            .filter(|&number| {
                matches!(judge(number, State::LoggedIn, true), Judgement::Serve(_, Task::Ask))
            })
            .collect();
        assert_eq!(
            asked,
            [
                0x0108, 0x010c, 0x010e, 0x0201, 0x0204, 0x0206, 0x0208, 0x020c, 0x0210, 0x0213,
                0x0307, 0x0309, 0x030b, 0x030d, 0x0401, 0x0403, 0x0405, 0x0407, 0x0409, 0x2005
            ]
        );
    }

    #[test]
    fn a_second_login_is_ignored() {
        let second = judge(0x0103, State::LoggedIn, true);
        assert_eq!(second, Judgement::Serve(Command::LoginRequest, Task::Nothing));
    }
}
