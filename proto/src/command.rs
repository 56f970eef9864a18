//! The commands of the client protocol: one number on the wire, one variant here.
//!
//! Everything that depends on nothing but the command stands in the one table below: its number,
//! who may send it, whether a login must come first, and how large its frame may be.
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
use crate::limits::{KIB, LIMIT_AFTER_LOGIN, LIMIT_TO_CLIENT, LIMIT_UNKNOWN_COMMAND};

/// Who may send a command.
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

/// Declares [`Command`] from the one table, so that no number is written twice.
macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $direction:ident, $state:ident, $limit:expr;)*) => {
        /// What a frame asks for, answers or tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Command { $($(#[$doc])* $name = $number,)* }

        impl Command {
            /// Every command, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the command that `number` stands for, if any.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the name, for logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Returns who may send this.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)* }
            }

            /// Returns how far a connection must have come before a client may send this.
            pub const fn state(self) -> State {
                match self { $(Self::$name => State::$state,)* }
            }

            /// Returns the largest length that a whole frame with this command may have.
            pub const fn size_limit(self) -> usize {
                match self { $(Self::$name => $limit,)* }
            }

            /// Reads `body` as this command's message and writes it again, in the form that we
            /// write. Unknown fields are gone then. For tests, fuzzing and dumps.
            pub fn reencode(self, body: Bytes) -> Result<Vec<u8>, DecodeError> {
                match self {
                    $(Self::$name => Ok(client::$name::decode(body)?.encode_to_vec()),)*
                }
            }

            /// Reads `body` as this command's message and shows it. Message text and passwords are
            /// in there, so it is for tests and dumps, never for logs.
            pub fn describe(self, body: Bytes) -> Result<String, DecodeError> {
                match self {
                    $(Self::$name => Ok(format!("{:?}", client::$name::decode(body)?)),)*
                }
            }
        }
    };
}

/// The service of our own commands.
const EXTENSION: u16 = 0x20;

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
    MsgServerRequest = 0x0101, ClientToServer, LoggedIn, EMPTY;
    /// Answers [`Command::MsgServerRequest`].
    MsgServerReply = 0x0102, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Who I am.
    LoginRequest = 0x0103, ClientToServer, Any, LINE;
    /// Answers [`Command::LoginRequest`]; the first frame from the server.
    LoginReply = 0x0104, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// I am leaving.
    LogoutRequest = 0x0105, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::LogoutRequest`].
    LogoutReply = 0x0106, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: this connection is thrown out.
    KickNotify = 0x0107, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Where push messages go.
    DeviceTokenRequest = 0x0108, ClientToServer, LoggedIn, LINE;
    /// Answers [`Command::DeviceTokenRequest`].
    DeviceTokenReply = 0x0109, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Throw out my PC client.
    KickPcRequest = 0x010a, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::KickPcRequest`].
    KickPcReply = 0x010b, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// No push messages at night, or again.
    SetPushShieldRequest = 0x010c, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::SetPushShieldRequest`].
    SetPushShieldReply = 0x010d, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Am I spared push messages at night?
    GetPushShieldRequest = 0x010e, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::GetPushShieldRequest`].
    GetPushShieldReply = 0x010f, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;

    // Service 2: users and sessions.

    /// My sessions that changed.
    RecentSessionsRequest = 0x0201, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::RecentSessionsRequest`].
    RecentSessionsReply = 0x0202, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: a user came or went.
    UserStatusNotify = 0x0203, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// The records of some users.
    UsersInfoRequest = 0x0204, ClientToServer, LoggedIn, LIST;
    /// Answers [`Command::UsersInfoRequest`].
    UsersInfoReply = 0x0205, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Take a session out of my list.
    RemoveSessionRequest = 0x0206, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::RemoveSessionRequest`].
    RemoveSessionReply = 0x0207, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// All users that changed.
    AllUsersRequest = 0x0208, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::AllUsersRequest`].
    AllUsersReply = 0x0209, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Who of these is online?
    UsersStatusRequest = 0x020a, ClientToServer, LoggedIn, LIST;
    /// Answers [`Command::UsersStatusRequest`].
    UsersStatusReply = 0x020b, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// My picture is here now.
    ChangeAvatarRequest = 0x020c, ClientToServer, LoggedIn, LINE;
    /// Answers [`Command::ChangeAvatarRequest`].
    ChangeAvatarReply = 0x020d, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed to mobiles: the user's PC client came or went.
    PcStatusNotify = 0x020e, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: another device took a session out of the list.
    SessionRemovedNotify = 0x020f, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// All departments that changed.
    DepartmentsRequest = 0x0210, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::DepartmentsRequest`].
    DepartmentsReply = 0x0211, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: a user has a new picture.
    AvatarChangedNotify = 0x0212, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// My signature line.
    ChangeSignatureRequest = 0x0213, ClientToServer, LoggedIn, LINE;
    /// Answers [`Command::ChangeSignatureRequest`].
    ChangeSignatureReply = 0x0214, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: a user has a new signature line.
    SignatureChangedNotify = 0x0215, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;

    // Service 3: messages.

    /// Send this message; or, pushed: this message came.
    MessageData = 0x0301, Both, LoggedIn, LIMIT_AFTER_LOGIN;
    /// The message is stored; or, from a client: it arrived.
    MessageAck = 0x0302, Both, LoggedIn, SMALL;
    /// I have read a session up to here.
    ReadAck = 0x0303, ClientToServer, LoggedIn, SMALL;
    /// Pushed: another device read a session up to here.
    ReadNotify = 0x0304, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// What time is it?
    TimeRequest = 0x0305, ClientToServer, LoggedIn, EMPTY;
    /// Answers [`Command::TimeRequest`].
    TimeReply = 0x0306, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// What have I not read?
    UnreadCountRequest = 0x0307, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::UnreadCountRequest`].
    UnreadCountReply = 0x0308, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// A page of history.
    MessageListRequest = 0x0309, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::MessageListRequest`].
    MessageListReply = 0x030a, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// What is the newest message of a session?
    LatestMessageIdRequest = 0x030b, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::LatestMessageIdRequest`].
    LatestMessageIdReply = 0x030c, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// These messages of a session.
    MessagesByIdRequest = 0x030d, ClientToServer, LoggedIn, LIST;
    /// Answers [`Command::MessagesByIdRequest`].
    MessagesByIdReply = 0x030e, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;

    // Service 4: groups.

    /// The normal groups that I am in.
    NormalGroupsRequest = 0x0401, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::NormalGroupsRequest`].
    NormalGroupsReply = 0x0402, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// The records of some groups.
    GroupInfoRequest = 0x0403, ClientToServer, LoggedIn, LIST;
    /// Answers [`Command::GroupInfoRequest`].
    GroupInfoReply = 0x0404, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Make a group.
    GroupCreateRequest = 0x0405, ClientToServer, LoggedIn, LIMIT_AFTER_LOGIN;
    /// Answers [`Command::GroupCreateRequest`].
    GroupCreateReply = 0x0406, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Add or remove members.
    GroupChangeMembersRequest = 0x0407, ClientToServer, LoggedIn, LIMIT_AFTER_LOGIN;
    /// Answers [`Command::GroupChangeMembersRequest`].
    GroupChangeMembersReply = 0x0408, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// No push messages for a group, or again.
    GroupMuteRequest = 0x0409, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::GroupMuteRequest`].
    GroupMuteReply = 0x040a, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: members came or went.
    GroupMembersNotify = 0x040b, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;

    // Service 5: files between users.

    /// On the file server: join a task.
    FileLoginRequest = 0x0501, ClientToServer, LoggedIn, LINE;
    /// Answers [`Command::FileLoginRequest`].
    FileLoginReply = 0x0502, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// On the file server: something happened to a task.
    FileStateNotify = 0x0503, Both, LoggedIn, LINE;
    /// On the file server: give me this part.
    FilePullRequest = 0x0504, Both, LoggedIn, LINE;
    /// Answers [`Command::FilePullRequest`]. Segments are about 32 KiB.
    FilePullReply = 0x0505, Both, LoggedIn, LIST;
    /// I want to send a file.
    FileSendRequest = 0x0506, ClientToServer, LoggedIn, LINE;
    /// Answers [`Command::FileSendRequest`].
    FileSendReply = 0x0507, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Pushed: a file is for you.
    FileNotify = 0x0508, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Which files wait for me?
    OfflineFilesRequest = 0x0509, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::OfflineFilesRequest`].
    OfflineFilesReply = 0x050a, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// I have uploaded a file for someone.
    OfflineFileAdd = 0x050b, ClientToServer, LoggedIn, LINE;
    /// I have fetched a file.
    OfflineFileRemove = 0x050c, ClientToServer, LoggedIn, LINE;

    // Services 6 and 7.

    /// Pass this on to a user's devices.
    PeerSignal = 0x0601, Both, LoggedIn, LIST;
    /// Still here; the server sends the same frame back.
    Heartbeat = 0x0701, Both, Any, EMPTY;

    // Service 0x20: our extension.

    /// I know the extension.
    Hello = 0x2001, ClientToServer, Any, SMALL;
    /// Answers [`Command::Hello`].
    HelloReply = 0x2002, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// What became of a message.
    SendResult = 0x2003, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// A request will not be done.
    Refused = 0x2004, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Delete a group.
    GroupDeleteRequest = 0x2005, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::GroupDeleteRequest`].
    GroupDeleteReply = 0x2006, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// Who I am, by a token or a ticket.
    ResumeRequest = 0x2007, ClientToServer, Any, SMALL;
    /// Pushed: log in with this from now on.
    ResumeToken = 0x2008, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
    /// I have kept a token.
    ResumeTokenKept = 0x2009, ClientToServer, LoggedIn, SMALL;
    /// Let another client of mine log in.
    TicketRequest = 0x200a, ClientToServer, LoggedIn, SMALL;
    /// Answers [`Command::TicketRequest`].
    TicketReply = 0x200b, ServerToClient, LoggedIn, LIMIT_TO_CLIENT;
}

impl Command {
    /// Returns the number that stands for this command on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Returns whether a client may send this only once it has said hello: the commands of the
    /// extension, but for the hello itself.
    pub fn needs_hello(self) -> bool {
        self.number() >> 8 == EXTENSION && self != Self::Hello
    }

    /// Returns whether a client may send this over a connection that has come as far as `state`.
    pub fn accepted_from_client(self, state: State) -> bool {
        self.direction() != Direction::ServerToClient && self.state() <= state
    }

    /// Returns whether this asks about users, or changes what belongs to one, rather than anything
    /// in conversations: whoever serves logins answers it.
    pub const fn is_about_users(self) -> bool {
        matches!(
            self,
            Self::AllUsersRequest
                | Self::UsersInfoRequest
                | Self::DepartmentsRequest
                | Self::ChangeSignatureRequest
                | Self::ChangeAvatarRequest
                | Self::DeviceTokenRequest
                | Self::LogoutRequest
                | Self::SetPushShieldRequest
                | Self::GetPushShieldRequest
        )
    }
}

/// Returns the largest length that a frame may have whose command is `number`, known or not.
pub fn size_limit_of(number: u16) -> usize {
    Command::from_number(number).map_or(LIMIT_UNKNOWN_COMMAND, Command::size_limit)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            .filter(|command| command.accepted_from_client(State::Any))
            .map(|command| command.name())
            .collect();
        assert_eq!(accepted, ["LoginRequest", "Heartbeat", "Hello", "ResumeRequest"]);
    }

    #[test]
    fn a_client_may_never_send_what_only_the_server_says() {
        for &command in Command::ALL {
            let is_servers = command.direction() == Direction::ServerToClient;
            assert_eq!(command.accepted_from_client(State::LoggedIn), !is_servers, "{command:?}");
        }
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
}
