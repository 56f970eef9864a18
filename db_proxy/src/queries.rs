//! What clients ask of stored data: from the request's body to the reply's.
//!
//! The user is the session's, whatever the body says; `attach_data` is neither read nor written.
//! What cannot be answered completely is "unavailable", never a short or an empty list.

use std::sync::Arc;

use bytes::Bytes;
use logins::login::Logins;
use parking_lot::Mutex;
use partition::Outcome;
use proto::Command;
use proto::client;
use proto::cluster::wire::{Answer, Ask, Origin, Owned, Rest};
use proto::ids::{ConversationId, UserId};
use store::StoreError;

use crate::partitions::{Partitions, Served};
use crate::queries::group_limits::GroupLimits;
use crate::requests::{ignored, not_owner, unavailable};

pub mod group_limits;
pub mod groups;
pub mod history;
pub mod lists;
pub(crate) mod missed;
#[cfg(feature = "faults")]
pub(crate) mod mutants;
mod parts;
pub mod people;

/// Who asks, and where answers come from.
#[derive(Debug)]
pub struct Asker {
    /// The user of the session.
    pub user: UserId,
    /// The client kind of the session.
    pub client_type: u32,
    /// The session, which is answered and needs no notice of what it changes.
    pub origin: Origin,
    /// The partitions.
    pub partitions: Arc<Partitions>,
    /// Of a question about several conversations: only those of these partitions; all if none is named.
    pub asked: Vec<u32>,
    /// Where the answer goes on, if its beginning was told before.
    pub rest: Option<Rest>,
    /// The login side.
    pub logins: Logins,
    /// How many groups a user may have.
    pub groups: GroupLimits,
    /// Whose partitions the answer was read from, so far.
    pub by: Mutex<Vec<Owned>>,
}

impl Asker {
    /// The partition of a conversation.
    pub(crate) fn of(&self, id: ConversationId) -> Result<Arc<Served>, NoReply> {
        self.served(self.partitions.number_of(id))
    }

    /// The partitions of a question about several conversations.
    pub(crate) fn all_asked(&self) -> Result<Vec<Arc<Served>>, NoReply> {
        if self.asked.is_empty() {
            return (0..self.partitions.count()).map(|number| self.served(number)).collect();
        }
        self.asked.iter().map(|number| self.served(*number)).collect()
    }

    /// Whether an answer is to tell of a conversation.
    pub(crate) fn asks_about(&self, id: ConversationId) -> bool {
        self.asked.is_empty() || self.asked.contains(&self.partitions.number_of(id))
    }

    fn served(&self, partition: u32) -> Result<Arc<Served>, NoReply> {
        let served = self.partitions.get(partition).ok_or(NoReply::NotOwner)?;
        let mut by = self.by.lock();
        if !by.contains(&served.owned) {
            by.push(served.owned);
        }
        Ok(served)
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// A partition is not owned here. Nothing was done.
    NotOwner,
    /// The body cannot be read, or names what does not exist: ignored, as the original does.
    Ignored,
    /// It could not be answered completely.
    Unavailable,
}

impl From<prost::DecodeError> for NoReply {
    fn from(_unreadable: prost::DecodeError) -> Self {
        Self::Ignored
    }
}

impl From<StoreError> for NoReply {
    fn from(error: StoreError) -> Self {
        tracing::debug!(%error, "a request is not answered");
        match error {
            StoreError::Fenced(_) => Self::NotOwner,
            _ => Self::Unavailable,
        }
    }
}

impl NoReply {
    /// For a change that was not made, or of which that is not known and that may be made twice.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Retry => Some(Self::Unavailable),
            Outcome::Moved => Some(Self::NotOwner),
            _ => None,
        }
    }
}

pub(crate) type Reply = Result<Answer, NoReply>;

/// Answers one request.
pub async fn answer(asker: &Asker, command: u32, body: Bytes) -> Answer {
    let Some(command) = command_of(command) else { return ignored() };
    match reply(asker, command, body).await {
        Ok(mut answer) => {
            answer.by = std::mem::take(&mut asker.by.lock());
            answer
        }
        Err(NoReply::NotOwner) => not_owner(),
        Err(NoReply::Ignored) => ignored(),
        Err(NoReply::Unavailable) => unavailable(),
    }
}

/// Whether a request is about users rather than conversations, and so for the login side.
pub(crate) fn is_of_users(ask: &Ask) -> bool {
    command_of(ask.command).is_some_and(Command::is_about_users)
}

fn command_of(number: u32) -> Option<Command> {
    u16::try_from(number).ok().and_then(Command::from_number)
}

async fn reply(asker: &Asker, command: Command, body: Bytes) -> Reply {
    #[cfg(feature = "faults")]
    mutants::be_late(command).await;
    #[cfg(feature = "faults")]
    if let Some(nothing) = mutants::nothing(asker, command, &body) {
        return Ok(nothing);
    }
    match command {
        Command::MessageListRequest => history::page(asker, body).await,
        Command::LatestMessageIdRequest => history::latest(asker, body).await,
        Command::MessagesByIdRequest => history::by_id(asker, body).await,
        Command::UnreadCountRequest => lists::unread(asker).await,
        Command::RecentSessionsRequest => lists::recent(asker, body).await,
        Command::ReadAck => lists::read_ack(asker, body).await,
        Command::RemoveSessionRequest => lists::remove_session(asker, body).await,
        Command::NormalGroupsRequest => groups::normal(asker).await,
        Command::GroupInfoRequest => groups::info(asker, body).await,
        Command::GroupCreateRequest => groups::create(asker, body).await,
        Command::GroupChangeMembersRequest => groups::change_members(asker, body).await,
        Command::GroupDeleteRequest => groups::delete(asker, body).await,
        Command::GroupMuteRequest => groups::mute(asker, body).await,
        Command::AllUsersRequest => people::all_users(asker, body).await,
        Command::UsersInfoRequest => people::users_info(asker, body).await,
        Command::DepartmentsRequest => people::departments(asker, body).await,
        Command::ChangeSignatureRequest => people::change_signature(asker, body).await,
        Command::ChangeAvatarRequest => people::change_avatar(asker, body).await,
        Command::DeviceTokenRequest => people::device_token(asker, body).await,
        Command::LogoutRequest => people::logout(asker).await,
        Command::SetPushShieldRequest => people::set_push_shield(asker, body).await,
        Command::GetPushShieldRequest => people::push_shield(asker).await,
        _ => Err(NoReply::Ignored),
    }
}

/// The session type of a conversation.
pub(crate) fn session_type(id: ConversationId) -> client::SessionType {
    if id.as_group().is_some() { client::SessionType::Group } else { client::SessionType::Single }
}
