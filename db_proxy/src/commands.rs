//! Carries out commands of clients on stored data: from the request's body to the reply's.
//!
//! The user is the session's, whatever the body says; `attach_data` is neither read nor written.
//! What cannot be answered completely is "unavailable", never a short or an empty list.

use bytes::Bytes;
use proto::Command;
use proto::cluster::wire::{Answer, Ask};

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
