//! The commands of the client protocol: one number on the wire, one variant here.
//!
//! Everything that depends on nothing but the command stands in the one table below, and a row compiles
//! only with all of its columns: the number, the largest length of a frame, and the roles. A command has one
//! role of the first kind, one of the second, or one of each.
//!
//! | Said by a client | What serves it |
//! |---|---|
//! | `early(C)` | the gateway itself, before the login too ([`EarlyCommand`]) |
//! | `gateway(C)` | the gateway itself ([`GatewayCommand`]) |
//! | `storage(C, R, A)` | one part of storage, to which the gateway passes it on ([`StorageCommand`]) |
//! | `merged(C, Repeatable, A)` | several parts of storage, whose answers are merged ([`MergedCommand`]) |
//! | `nobody(C)` | nothing: it is refused like a number that is not known |
//!
//! | Said by the server | When |
//! |---|---|
//! | `answer(C)` | under the seq of what it answers |
//! | `push(C)` | by itself ([`PushCommand`]) |
//!
//! C says which [`Clients`] know it, R whether it may be asked again ([`Repeat`]), A which part of storage
//! answers ([`Answerer`]).
//!
//! Whatever does something for each of a set of commands is a match over its enum, without an arm for the
//! rest. So the compiler names the places that a new row leaves open.
//!
//! # Invariants
//!
//! - Every command is named after the message in its body: the body of [`Command::LoginRequest`]
//!   is a [`client::LoginRequest`]. The table would not compile otherwise.
//! - No size limit of a command that goes to clients only is above [`LIMIT_TO_CLIENT`]; none at all
//!   is above [`LIMIT_AFTER_LOGIN`].

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::client;
use crate::ids::{ConversationId, GroupId, UserId};
use crate::limits::{KIB, LIMIT_AFTER_LOGIN, LIMIT_TO_CLIENT, LIMIT_UNKNOWN_COMMAND};

#[macro_use]
mod table;

/// Which side may send a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A client.
    ClientToServer,
    /// The server.
    ServerToClient,
    /// Either.
    Both,
}

/// How far a connection must have come before the server takes a command from it. Later states
/// are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// As soon as it is open.
    Any,
    /// After an accepted login.
    LoggedIn,
}

/// Which clients know a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clients {
    /// All of them.
    Anyone,
    /// Those that have said hello: it belongs to our extension.
    AfterHello,
}

/// What serves a client's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServedBy {
    /// The gateway itself, before the login too.
    Early(EarlyCommand),
    /// The gateway itself, for a client that is logged in.
    Gateway(GatewayCommand),
    /// Storage, for a client that is logged in.
    Storage(StorageCommand),
}

/// Whether storage may be asked again when it is unknown whether it has carried out what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// It may: nothing is changed, or the same however often it is asked.
    Repeatable,
    /// It may not.
    Once,
}

/// Which part of storage answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answerer {
    /// The login side: it is about users, and not about anything in conversations.
    LoginSide,
    /// The owner of the conversation whose `session_type` and `session_id` are in the message.
    OwnerOfSession,
    /// The owner of the group whose `group_id` is in the message.
    OwnerOfGroup,
    /// Any db_proxy that owns something.
    AnyOwner,
    /// All owners, each about everything that it owns. Merged.
    EveryOwner,
    /// The owners of those groups whose `group_id` is in the message's `groups`, each about its own. Merged.
    OwnersOfGroups,
}

/// Which db_proxies a request is asked of.
///
/// A conversation says itself to which partition it belongs, and so which db_proxy answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The owner of this conversation.
    Conversation(ConversationId),
    /// Each owner, about all that it owns; their answers are merged.
    Everything(MergedCommand),
    /// The owners of these conversations, each about its own; their answers are merged.
    Conversations(MergedCommand, Vec<ConversationId>),
    /// One that serves logins.
    Logins,
    /// Any that owns something.
    AnyOwner,
}

/// A part that a command has in the protocol.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// A client says it, and is served.
    Served(ServedBy),
    /// A client says it, and is not served.
    Unserved,
    /// The server answers with it.
    Answer,
    /// The server says it by itself.
    Push(PushCommand),
}

/// A frame without a body, with room for a stray field.
const EMPTY: usize = 64;
/// A few numbers.
const SMALL: usize = KIB;
/// A line of text.
const LINE: usize = 4 * KIB;
/// A list of ids, or a segment of a file.
const LIST: usize = 64 * KIB;

commands! {
    // Service 1: login.

    /// Client to login_server: which msg_server shall I use? Out of use.
    MsgServerRequest = 0x0101, EMPTY, nobody(Anyone);
    /// Answers [`Command::MsgServerRequest`].
    MsgServerReply = 0x0102, LIMIT_TO_CLIENT, answer(Anyone);
    /// Who I am.
    LoginRequest = 0x0103, LINE, early(Anyone);
    /// Answers [`Command::LoginRequest`]; the first frame from the server.
    LoginReply = 0x0104, LIMIT_TO_CLIENT, answer(Anyone);
    /// I am leaving.
    LogoutRequest = 0x0105, SMALL, storage(Anyone, Once, LoginSide);
    /// Answers [`Command::LogoutRequest`].
    LogoutReply = 0x0106, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: this connection is thrown out.
    KickNotify = 0x0107, LIMIT_TO_CLIENT, push(Anyone);
    /// Where push messages go.
    DeviceTokenRequest = 0x0108, LINE, storage(Anyone, Once, LoginSide);
    /// Answers [`Command::DeviceTokenRequest`].
    DeviceTokenReply = 0x0109, LIMIT_TO_CLIENT, answer(Anyone);
    /// Throw out my PC client.
    KickPcRequest = 0x010a, SMALL, gateway(Anyone);
    /// Answers [`Command::KickPcRequest`].
    KickPcReply = 0x010b, LIMIT_TO_CLIENT, answer(Anyone);
    /// No push messages at night, or again.
    SetPushShieldRequest = 0x010c, SMALL, storage(Anyone, Once, LoginSide);
    /// Answers [`Command::SetPushShieldRequest`].
    SetPushShieldReply = 0x010d, LIMIT_TO_CLIENT, answer(Anyone);
    /// Am I spared push messages at night?
    GetPushShieldRequest = 0x010e, SMALL, storage(Anyone, Repeatable, LoginSide);
    /// Answers [`Command::GetPushShieldRequest`].
    GetPushShieldReply = 0x010f, LIMIT_TO_CLIENT, answer(Anyone);

    // Service 2: users and sessions.

    /// My sessions that changed.
    RecentSessionsRequest = 0x0201, SMALL, merged(Anyone, Repeatable, EveryOwner);
    /// Answers [`Command::RecentSessionsRequest`].
    RecentSessionsReply = 0x0202, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: a user came or went.
    UserStatusNotify = 0x0203, LIMIT_TO_CLIENT, push(Anyone);
    /// The records of some users.
    UsersInfoRequest = 0x0204, LIST, storage(Anyone, Repeatable, LoginSide);
    /// Answers [`Command::UsersInfoRequest`].
    UsersInfoReply = 0x0205, LIMIT_TO_CLIENT, answer(Anyone);
    /// Take a session out of my list.
    RemoveSessionRequest = 0x0206, SMALL, storage(Anyone, Once, OwnerOfSession);
    /// Answers [`Command::RemoveSessionRequest`].
    RemoveSessionReply = 0x0207, LIMIT_TO_CLIENT, answer(Anyone);
    /// All users that changed.
    AllUsersRequest = 0x0208, SMALL, storage(Anyone, Repeatable, LoginSide);
    /// Answers [`Command::AllUsersRequest`].
    AllUsersReply = 0x0209, LIMIT_TO_CLIENT, answer(Anyone);
    /// Who of these is online?
    UsersStatusRequest = 0x020a, LIST, gateway(Anyone);
    /// Answers [`Command::UsersStatusRequest`].
    UsersStatusReply = 0x020b, LIMIT_TO_CLIENT, answer(Anyone);
    /// My picture is here now.
    ChangeAvatarRequest = 0x020c, LINE, storage(Anyone, Once, LoginSide);
    /// Answers [`Command::ChangeAvatarRequest`].
    ChangeAvatarReply = 0x020d, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed to mobiles: the user's PC client came or went.
    PcStatusNotify = 0x020e, LIMIT_TO_CLIENT, push(Anyone);
    /// Pushed: another device took a session out of the list.
    SessionRemovedNotify = 0x020f, LIMIT_TO_CLIENT, push(Anyone);
    /// All departments that changed.
    DepartmentsRequest = 0x0210, SMALL, storage(Anyone, Repeatable, LoginSide);
    /// Answers [`Command::DepartmentsRequest`].
    DepartmentsReply = 0x0211, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: a user has a new picture.
    AvatarChangedNotify = 0x0212, LIMIT_TO_CLIENT, push(Anyone);
    /// My signature line.
    ChangeSignatureRequest = 0x0213, LINE, storage(Anyone, Once, LoginSide);
    /// Answers [`Command::ChangeSignatureRequest`].
    ChangeSignatureReply = 0x0214, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: a user has a new signature line.
    SignatureChangedNotify = 0x0215, LIMIT_TO_CLIENT, push(Anyone);

    // Service 3: messages.

    /// Send this message; or, pushed: this message came.
    MessageData = 0x0301, LIMIT_AFTER_LOGIN, gateway(Anyone) push(Anyone);
    /// The message is stored; or, from a client: it arrived.
    MessageAck = 0x0302, SMALL, gateway(Anyone) answer(Anyone);
    /// I have read a session up to here.
    ReadAck = 0x0303, SMALL, storage(Anyone, Repeatable, OwnerOfSession);
    /// Pushed: another device read a session up to here.
    ReadNotify = 0x0304, LIMIT_TO_CLIENT, push(Anyone);
    /// What time is it?
    TimeRequest = 0x0305, EMPTY, gateway(Anyone);
    /// Answers [`Command::TimeRequest`].
    TimeReply = 0x0306, LIMIT_TO_CLIENT, answer(Anyone);
    /// What have I not read?
    UnreadCountRequest = 0x0307, SMALL, merged(Anyone, Repeatable, EveryOwner);
    /// Answers [`Command::UnreadCountRequest`].
    UnreadCountReply = 0x0308, LIMIT_TO_CLIENT, answer(Anyone);
    /// A page of history.
    MessageListRequest = 0x0309, SMALL, storage(Anyone, Repeatable, OwnerOfSession);
    /// Answers [`Command::MessageListRequest`].
    MessageListReply = 0x030a, LIMIT_TO_CLIENT, answer(Anyone);
    /// What is the newest message of a session?
    LatestMessageIdRequest = 0x030b, SMALL, storage(Anyone, Repeatable, OwnerOfSession);
    /// Answers [`Command::LatestMessageIdRequest`].
    LatestMessageIdReply = 0x030c, LIMIT_TO_CLIENT, answer(Anyone);
    /// These messages of a session.
    MessagesByIdRequest = 0x030d, LIST, storage(Anyone, Repeatable, OwnerOfSession);
    /// Answers [`Command::MessagesByIdRequest`].
    MessagesByIdReply = 0x030e, LIMIT_TO_CLIENT, answer(Anyone);

    // Service 4: groups.

    /// The normal groups that I am in.
    NormalGroupsRequest = 0x0401, SMALL, merged(Anyone, Repeatable, EveryOwner);
    /// Answers [`Command::NormalGroupsRequest`].
    NormalGroupsReply = 0x0402, LIMIT_TO_CLIENT, answer(Anyone);
    /// The records of some groups.
    GroupInfoRequest = 0x0403, LIST, merged(Anyone, Repeatable, OwnersOfGroups);
    /// Answers [`Command::GroupInfoRequest`].
    GroupInfoReply = 0x0404, LIMIT_TO_CLIENT, answer(Anyone);
    /// Make a group.
    GroupCreateRequest = 0x0405, LIMIT_AFTER_LOGIN, storage(Anyone, Once, AnyOwner);
    /// Answers [`Command::GroupCreateRequest`].
    GroupCreateReply = 0x0406, LIMIT_TO_CLIENT, answer(Anyone);
    /// Add or remove members.
    GroupChangeMembersRequest = 0x0407, LIMIT_AFTER_LOGIN, storage(Anyone, Once, OwnerOfGroup);
    /// Answers [`Command::GroupChangeMembersRequest`].
    GroupChangeMembersReply = 0x0408, LIMIT_TO_CLIENT, answer(Anyone);
    /// No push messages for a group, or again.
    GroupMuteRequest = 0x0409, SMALL, storage(Anyone, Repeatable, OwnerOfGroup);
    /// Answers [`Command::GroupMuteRequest`].
    GroupMuteReply = 0x040a, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: members came or went.
    GroupMembersNotify = 0x040b, LIMIT_TO_CLIENT, push(Anyone);

    // Service 5: files between users.

    /// On the file server: join a task.
    FileLoginRequest = 0x0501, LINE, nobody(Anyone);
    /// Answers [`Command::FileLoginRequest`].
    FileLoginReply = 0x0502, LIMIT_TO_CLIENT, answer(Anyone);
    /// On the file server: something happened to a task.
    FileStateNotify = 0x0503, LINE, nobody(Anyone) push(Anyone);
    /// On the file server: give me this part.
    FilePullRequest = 0x0504, LINE, nobody(Anyone) push(Anyone);
    /// Answers [`Command::FilePullRequest`]. Segments are about 32 KiB.
    FilePullReply = 0x0505, LIST, nobody(Anyone) answer(Anyone);
    /// I want to send a file.
    FileSendRequest = 0x0506, LINE, gateway(Anyone);
    /// Answers [`Command::FileSendRequest`].
    FileSendReply = 0x0507, LIMIT_TO_CLIENT, answer(Anyone);
    /// Pushed: a file is for you.
    FileNotify = 0x0508, LIMIT_TO_CLIENT, push(Anyone);
    /// Which files wait for me?
    OfflineFilesRequest = 0x0509, SMALL, gateway(Anyone);
    /// Answers [`Command::OfflineFilesRequest`].
    OfflineFilesReply = 0x050a, LIMIT_TO_CLIENT, answer(Anyone);
    /// I have uploaded a file for someone.
    OfflineFileAdd = 0x050b, LINE, gateway(Anyone);
    /// I have fetched a file.
    OfflineFileRemove = 0x050c, LINE, gateway(Anyone);

    // Services 6 and 7.

    /// Pass this on to a user's devices.
    PeerSignal = 0x0601, LIST, gateway(Anyone) push(Anyone);
    /// Still here; the server sends the same frame back.
    Heartbeat = 0x0701, EMPTY, early(Anyone) answer(Anyone);

    // Service 0x20: our extension.

    /// I know the extension.
    Hello = 0x2001, SMALL, early(Anyone);
    /// Answers [`Command::Hello`].
    HelloReply = 0x2002, LIMIT_TO_CLIENT, answer(AfterHello);
    /// What became of a message.
    SendResult = 0x2003, LIMIT_TO_CLIENT, answer(AfterHello);
    /// A request will not be done.
    Refused = 0x2004, LIMIT_TO_CLIENT, answer(AfterHello);
    /// Delete a group.
    GroupDeleteRequest = 0x2005, SMALL, storage(AfterHello, Once, OwnerOfGroup);
    /// Answers [`Command::GroupDeleteRequest`].
    GroupDeleteReply = 0x2006, LIMIT_TO_CLIENT, answer(AfterHello);
    /// Who I am, by a token or a ticket.
    ResumeRequest = 0x2007, SMALL, early(AfterHello);
    /// Pushed: log in with this from now on.
    ResumeToken = 0x2008, LIMIT_TO_CLIENT, push(AfterHello);
    /// I have kept a token.
    ResumeTokenKept = 0x2009, SMALL, gateway(AfterHello);
    /// Let another client of mine log in.
    TicketRequest = 0x200a, SMALL, gateway(AfterHello);
    /// Answers [`Command::TicketRequest`].
    TicketReply = 0x200b, LIMIT_TO_CLIENT, answer(AfterHello);
}

impl Command {
    /// Returns the number that stands for this command on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Returns which side may send this.
    pub const fn direction(self) -> Direction {
        match self.roles() {
            [(_, Role::Answer | Role::Push(_))] => Direction::ServerToClient,
            [_] => Direction::ClientToServer,
            _ => Direction::Both,
        }
    }

    /// Returns what serves this; `None` if no client says it, or it is refused.
    pub fn served_by(self) -> Option<ServedBy> {
        self.roles().iter().find_map(|(_, role)| match role {
            Role::Served(by) => Some(*by),
            Role::Unserved | Role::Answer | Role::Push(_) => None,
        })
    }

    /// Returns the same as what the server says by itself, if it is that.
    pub fn push(self) -> Option<PushCommand> {
        self.roles().iter().find_map(|(_, role)| match role {
            Role::Push(push) => Some(*push),
            Role::Served(_) | Role::Unserved | Role::Answer => None,
        })
    }

    /// Returns whether only clients that have said hello know this.
    pub fn needs_hello(self) -> bool {
        self.roles().iter().any(|(clients, _)| *clients == Clients::AfterHello)
    }

    /// Returns what serves this for a client whose connection has come as far as `state`. `None` if
    /// it is to be refused.
    pub fn accepted(self, state: State, said_hello: bool) -> Option<ServedBy> {
        let is_known = said_hello || !self.needs_hello();
        self.served_by().filter(|by| is_known && by.state() <= state)
    }
}

impl ServedBy {
    /// Returns how far a connection must have come for it.
    pub const fn state(self) -> State {
        match self {
            Self::Early(_) => State::Any,
            Self::Gateway(_) | Self::Storage(_) => State::LoggedIn,
        }
    }
}

impl StorageCommand {
    /// Returns the command that `number` stands for, if storage serves it.
    pub fn from_number(number: u32) -> Option<Self> {
        match Command::from_number(u16::try_from(number).ok()?)?.served_by()? {
            ServedBy::Storage(command) => Some(command),
            ServedBy::Early(_) | ServedBy::Gateway(_) => None,
        }
    }
}

impl Route {
    fn to_owner(conversation: Option<ConversationId>) -> Self {
        conversation.map_or(Self::AnyOwner, Self::Conversation)
    }

    fn to_owners(command: MergedCommand, conversations: Vec<ConversationId>) -> Self {
        if conversations.is_empty() {
            Self::AnyOwner
        } else {
            Self::Conversations(command, conversations)
        }
    }
}

/// Whether these are the roles of one command.
const fn are_whole(roles: &[(Clients, Role)]) -> bool {
    use Role::{Answer, Push, Served, Unserved};
    matches!(roles, [_] | [(_, Served(_) | Unserved), (_, Answer | Push(_))])
}

/// Whether answers can be merged: of several owners, each of which is asked until it has answered.
const fn can_be_merged(repeat: Repeat, answerer: Answerer) -> bool {
    matches!(
        (repeat, answerer),
        (Repeat::Repeatable, Answerer::EveryOwner | Answerer::OwnersOfGroups)
    )
}

/// Returns the largest length that a frame may have whose command is `number`, known or not.
pub fn size_limit_of(number: u16) -> usize {
    Command::from_number(number).map_or(LIMIT_UNKNOWN_COMMAND, Command::size_limit)
}

#[cfg(test)]
mod tests;
