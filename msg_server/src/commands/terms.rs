//! On what terms the gateway passes a command on to storage.
//!
//! Pure. All that the gateway knows of one of these commands stands in its arm of [`course`]: what others
//! need of it, they are told by its [`Terms`].

use proto::{Frame, StorageCommand};

use crate::commands::allowances::Price;
use crate::commands::costs::{ALL_USERS, LIST, LOOK_UP, history, members, records, users};

/// What is done about a command that storage answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Storage is asked.
    Ask(Terms),
    /// It is put with the other read marks, which storage is told together. Marks have a limit of their
    /// own.
    MarkRead,
    /// Storage is asked while the session ends. A user may always leave.
    LogOut,
}

/// What comes before and after the question to storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// What it is paid with.
    pub(crate) price: Price,
    /// Whether the user's read marks are stored first: a client that has read something must not be told
    /// that it is unread.
    pub(crate) marks_first: bool,
    /// What others hear of it once it is done.
    pub(crate) notice: Notice,
    /// How a client comes by what of the answer does not fit one frame.
    pub(crate) continuation: Continuation,
    /// The answer that tells a client without the hello that it will not be done. Where there is none the
    /// client gets no answer, as in the original.
    pub(crate) failed: Option<Failed>,
}

/// What others hear of a request that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Nothing.
    Nothing,
    /// Everybody hears the user's new signature.
    Signature,
    /// Everybody hears where the user's new picture is.
    Avatar,
    /// The user's other devices hear that a session was taken out of the list.
    SessionRemoved,
}

/// How a client comes by what of an answer does not fit one frame. Clients without the hello are told it
/// in further frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuation {
    /// With the hello it asks on.
    AskedFor,
    /// The same; and without the hello it asks for the same list once more, which then begins where the
    /// first frame ended.
    AskedAgain,
    /// With the hello it is told too: there is no place to ask on from.
    Told,
}

/// An answer of the client protocol that has a result code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// To a group that was to be made.
    GroupCreate,
    /// To members that were to be added or removed.
    GroupChangeMembers,
    /// To a group that was to be muted, or not.
    GroupMute,
    /// To a new signature.
    ChangeSignature,
    /// To a new picture.
    ChangeAvatar,
}

impl Terms {
    /// A question: only the client that asks is told anything.
    const fn of(price: Price) -> Self {
        let (notice, continuation) = (Notice::Nothing, Continuation::AskedFor);
        Self { price, marks_first: false, notice, continuation, failed: None }
    }

    const fn after_marks(self) -> Self {
        Self { marks_first: true, ..self }
    }

    const fn noticed(self, notice: Notice) -> Self {
        Self { notice, ..self }
    }

    const fn continued(self, continuation: Continuation) -> Self {
        Self { continuation, ..self }
    }

    const fn or(self, failed: Failed) -> Self {
        Self { failed: Some(failed), ..self }
    }
}

/// What is done about a command that storage answers. The price is that of this request.
#[expect(clippy::match_same_arms, reason = "what two commands have in common is chance")]
pub(crate) fn course(command: StorageCommand, request: &Frame) -> Course {
    Course::Ask(match command {
        StorageCommand::ReadAck => return Course::MarkRead,
        StorageCommand::LogoutRequest => return Course::LogOut,
        StorageCommand::LatestMessageIdRequest => Terms::of(LOOK_UP),
        StorageCommand::DeviceTokenRequest => Terms::of(LOOK_UP),
        StorageCommand::SetPushShieldRequest => Terms::of(LOOK_UP),
        StorageCommand::GetPushShieldRequest => Terms::of(LOOK_UP),
        StorageCommand::GroupDeleteRequest => Terms::of(LIST),
        StorageCommand::MessageListRequest => Terms::of(history(request)),
        StorageCommand::MessagesByIdRequest => Terms::of(records(request)),
        StorageCommand::GroupInfoRequest => Terms::of(records(request)),
        StorageCommand::UsersInfoRequest => Terms::of(users(request)),
        StorageCommand::AllUsersRequest => Terms::of(ALL_USERS).continued(Continuation::AskedAgain),
        StorageCommand::DepartmentsRequest => Terms::of(LIST).continued(Continuation::AskedAgain),
        StorageCommand::NormalGroupsRequest => Terms::of(LIST).continued(Continuation::Told),
        StorageCommand::RecentSessionsRequest => Terms::of(LIST).after_marks(),
        StorageCommand::UnreadCountRequest => {
            Terms::of(LIST).after_marks().continued(Continuation::Told)
        }
        StorageCommand::RemoveSessionRequest => Terms::of(LOOK_UP).noticed(Notice::SessionRemoved),
        StorageCommand::ChangeSignatureRequest => {
            Terms::of(Price::ProfileChange).noticed(Notice::Signature).or(Failed::ChangeSignature)
        }
        StorageCommand::ChangeAvatarRequest => {
            Terms::of(Price::ProfileChange).noticed(Notice::Avatar).or(Failed::ChangeAvatar)
        }
        StorageCommand::GroupCreateRequest => Terms::of(Price::GroupChange).or(Failed::GroupCreate),
        StorageCommand::GroupChangeMembersRequest => {
            Terms::of(members(request)).or(Failed::GroupChangeMembers)
        }
        StorageCommand::GroupMuteRequest => Terms::of(LOOK_UP).or(Failed::GroupMute),
    })
}

/// The answer that tells a client without the hello that a request will not be done, if there is one.
pub(crate) fn failed(request: &Frame) -> Option<Failed> {
    match course(StorageCommand::from_number(u32::from(request.command))?, request) {
        Course::Ask(terms) => terms.failed,
        Course::MarkRead | Course::LogOut => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use proto::client::{
        GroupChange, GroupChangeMembersRequest, GroupInfoRequest, GroupVersion, MessageListRequest,
        UsersStatusRequest,
    };
    use proto::{Command, ServedBy};

    use super::*;
    use crate::commands::allowances::{Allowance, Rates};
    use crate::commands::costs;
    use crate::config::LimitsConfig;

    fn frame(command: Command, message: &impl Message) -> Frame {
        Frame { command: command.number(), seq: 0, body: message.encode_to_vec().into() }
    }

    fn empty(command: Command) -> Frame {
        Frame { command: command.number(), seq: 0, body: Bytes::new() }
    }

    fn price(request: &Frame) -> Price {
        match request.known_command().unwrap().served_by().unwrap() {
            ServedBy::Early(_) => Price::Free,
            ServedBy::Gateway(command) => costs::price(command, request),
            ServedBy::Storage(command) => match course(command, request) {
                Course::Ask(terms) => terms.price,
                Course::MarkRead | Course::LogOut => Price::Free,
            },
        }
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
            for request in login_sequence() {
                allowance.pay(&rates, price(&request), 0).unwrap();
            }
        }
    }

    #[test]
    fn whatever_storage_is_asked_costs_something_but_marks_and_leaving() {
        for &command in StorageCommand::ALL {
            match course(command, &empty(command.command())) {
                Course::Ask(terms) => assert_ne!(terms.price, Price::Free, "{command:?}"),
                Course::MarkRead => assert_eq!(command, StorageCommand::ReadAck),
                Course::LogOut => assert_eq!(command, StorageCommand::LogoutRequest),
            }
        }
    }

    /// The numbers of those commands of the original protocol whose terms are such.
    fn those(are_such: impl Fn(Terms) -> bool) -> Vec<u16> {
        let commands = StorageCommand::ALL.iter().map(|command| (*command, command.command()));
        commands
            .filter(|(command, named)| match course(*command, &empty(*named)) {
                Course::Ask(terms) => are_such(terms),
                Course::MarkRead | Course::LogOut => false,
            })
            .map(|(_, named)| named.number())
            .filter(|number| *number < 0x2000)
            .collect()
    }

    #[test]
    fn what_counts_messages_as_unread_is_asked_after_the_marks() {
        assert_eq!(those(|terms| terms.marks_first), [0x0201, 0x0307]);
    }

    #[test]
    fn others_hear_of_signatures_pictures_and_removed_sessions() {
        assert_eq!(those(|terms| terms.notice == Notice::Signature), [0x0213]);
        assert_eq!(those(|terms| terms.notice == Notice::Avatar), [0x020c]);
        assert_eq!(those(|terms| terms.notice == Notice::SessionRemoved), [0x0206]);
    }

    #[test]
    fn a_list_without_a_place_to_ask_on_from_is_told_and_a_stamped_one_is_asked_for_again() {
        assert_eq!(those(|terms| terms.continuation == Continuation::Told), [0x0307, 0x0401]);
        let again = those(|terms| terms.continuation == Continuation::AskedAgain);
        assert_eq!(again, [0x0208, 0x0210]);
    }

    #[test]
    fn members_removed_are_not_counted_with_those_added() {
        let change = |change: GroupChange| {
            let request = GroupChangeMembersRequest { change: change.into(), ..Default::default() };
            price(&frame(Command::GroupChangeMembersRequest, &request))
        };
        assert_eq!(change(GroupChange::Add), Price::GroupChange);
        assert_eq!(change(GroupChange::Remove), LIST);
    }

    #[test]
    fn only_changes_with_a_result_code_have_an_answer_that_says_failed() {
        let has_one = |command: &&Command| failed(&empty(**command)).is_some();
        let numbers: Vec<_> = Command::ALL.iter().filter(has_one).map(|one| one.number()).collect();
        assert_eq!(numbers, [0x020c, 0x0213, 0x0405, 0x0407, 0x0409]);
    }
}
