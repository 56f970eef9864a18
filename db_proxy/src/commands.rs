//! Carries out commands of clients on stored data: from the request's body to the reply's.
//!
//! The user is the session's, whatever the body says; `attach_data` is neither read nor written.
//! What cannot be answered completely is "unavailable", never a short or an empty list.

use bytes::Bytes;
use proto::StorageCommand;
use proto::cluster::wire::{Answer, Ask};
use proto::command::Answerer;

use crate::commands::asker::Asker;
use crate::commands::reply::{NoReply, Reply, ignored, not_owner, unavailable};

pub(crate) mod asker;
pub(crate) mod group_limits;
pub(crate) mod groups;
pub(crate) mod history;
pub(crate) mod lists;
pub(crate) mod missed;
#[cfg(feature = "faults")]
pub(crate) mod mutants;
mod parts;
pub(crate) mod people;
pub(crate) mod reply;

/// Answers one request.
pub(crate) async fn answer(asker: &Asker, command: u32, body: Bytes) -> Answer {
    // A gateway of a newer release may ask what is not known here.
    let Some(command) = StorageCommand::from_number(command) else { return ignored() };
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

/// Whether a request is for the login side.
pub(crate) fn is_for_logins(ask: &Ask) -> bool {
    let command = StorageCommand::from_number(ask.command);
    command.is_some_and(|command| command.answerer() == Answerer::LoginSide)
}

async fn reply(asker: &Asker, command: StorageCommand, body: Bytes) -> Reply {
    #[cfg(feature = "faults")]
    mutants::be_late(command).await;
    #[cfg(feature = "faults")]
    if let Some(nothing) = mutants::nothing(asker, command, &body) {
        return Ok(nothing);
    }
    match command {
        StorageCommand::MessageListRequest => history::page(asker, body).await,
        StorageCommand::LatestMessageIdRequest => history::latest(asker, body).await,
        StorageCommand::MessagesByIdRequest => history::by_id(asker, body).await,
        StorageCommand::UnreadCountRequest => lists::unread(asker).await,
        StorageCommand::RecentSessionsRequest => lists::recent(asker, body).await,
        StorageCommand::ReadAck => lists::read_ack(asker, body).await,
        StorageCommand::RemoveSessionRequest => lists::remove_session(asker, body).await,
        StorageCommand::NormalGroupsRequest => groups::normal(asker).await,
        StorageCommand::GroupInfoRequest => groups::info(asker, body).await,
        StorageCommand::GroupCreateRequest => groups::create(asker, body).await,
        StorageCommand::GroupChangeMembersRequest => groups::change_members(asker, body).await,
        StorageCommand::GroupDeleteRequest => groups::delete(asker, body).await,
        StorageCommand::GroupMuteRequest => groups::mute(asker, body).await,
        StorageCommand::AllUsersRequest => people::all_users(asker, body).await,
        StorageCommand::UsersInfoRequest => people::users_info(asker, body).await,
        StorageCommand::DepartmentsRequest => people::departments(asker, body).await,
        StorageCommand::ChangeSignatureRequest => people::change_signature(asker, body).await,
        StorageCommand::ChangeAvatarRequest => people::change_avatar(asker, body).await,
        StorageCommand::DeviceTokenRequest => people::device_token(asker, body).await,
        StorageCommand::LogoutRequest => people::logout(asker).await,
        StorageCommand::SetPushShieldRequest => people::set_push_shield(asker, body).await,
        StorageCommand::GetPushShieldRequest => people::push_shield(asker).await,
    }
}
