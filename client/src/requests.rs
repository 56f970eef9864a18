//! What a client can ask, one method each.
//!
//! Every method waits for a connection and then for the answer, both together no longer than
//! connecting and answering may take. None is repeated by itself.

use bytes::Bytes;
use proto::Command;
use proto::client::{
    AllUsersReply, AllUsersRequest, ChangeAvatarReply, ChangeAvatarRequest, ChangeSignatureReply,
    ChangeSignatureRequest, ClientType, DepartmentsReply, DepartmentsRequest, GroupChange,
    GroupChangeMembersReply, GroupChangeMembersRequest, GroupCreateReply, GroupCreateRequest,
    GroupDeleteReply, GroupDeleteRequest, GroupInfo, GroupInfoReply, GroupInfoRequest,
    GroupMuteReply, GroupMuteRequest, GroupType, GroupVersion, LatestMessageIdReply,
    LatestMessageIdRequest, LogoutReply, LogoutRequest, MessageInfo, MessageListReply,
    MessageListRequest, MessagesByIdReply, MessagesByIdRequest, NormalGroupsReply,
    NormalGroupsRequest, PeerSignal, ReadAck, RecentSession, RecentSessionsReply,
    RecentSessionsRequest, RemoveSessionReply, RemoveSessionRequest, TicketReply, TicketRequest,
    TimeReply, TimeRequest, UnreadCountReply, UnreadCountRequest, UserInfo, UserStatusEntry,
    UsersInfoReply, UsersInfoRequest, UsersStatusReply, UsersStatusRequest,
};
use proto::ids::{GroupId, MsgId, UserId};

use crate::call::CallError;
use crate::client::Client;
use crate::message::{Conversation, Message};

impl Client {
    /// Something that lets another client of this user log in once, as that kind of client, and how many
    /// seconds it is good for. [`CallError::Failed`] with 1: this client's own login is over.
    pub async fn ticket(&self, client_type: ClientType) -> Result<(Bytes, u32), CallError> {
        let token = self.token().unwrap_or_default();
        let request = TicketRequest { token, client_type: client_type.into() };
        let reply: TicketReply = self.call(Command::TicketRequest, &request).await?;
        match reply.ticket {
            Some(ticket) => Ok((ticket, reply.lifetime_s.unwrap_or(0))),
            None => Err(CallError::Failed(reply.result_code)),
        }
    }

    /// Ends the session, and the token that the next login would be with. The server closes then, and the
    /// client goes on with its password, if it has one: drop it.
    pub async fn log_out(&self) -> Result<(), CallError> {
        let token = self.token();
        let request = LogoutRequest { token: token.clone() };
        self.call::<LogoutReply>(Command::LogoutRequest, &request).await?;
        if let Some(token) = &token {
            self.forget_token(token).await;
        }
        Ok(())
    }

    /// A page of history: up to `count` messages back from `newest` (none: from the newest there
    /// is), the newest first.
    pub async fn history(
        &self,
        conversation: Conversation,
        newest: Option<MsgId>,
        count: u32,
    ) -> Result<Vec<Message>, CallError> {
        let request = MessageListRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            msg_id_begin: newest.map_or(0, |newest| newest.0),
            msg_count: count,
            ..Default::default()
        };
        let reply: MessageListReply = self.call(Command::MessageListRequest, &request).await?;
        Ok(messages(&reply.messages, conversation))
    }

    /// These messages of a conversation, those that exist, the newest first.
    pub async fn messages_by_id(
        &self,
        conversation: Conversation,
        ids: &[MsgId],
    ) -> Result<Vec<Message>, CallError> {
        let request = MessagesByIdRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            msg_ids: ids.iter().map(|id| id.0).collect(),
            ..Default::default()
        };
        let reply: MessagesByIdReply = self.call(Command::MessagesByIdRequest, &request).await?;
        Ok(messages(&reply.messages, conversation))
    }

    /// The newest message of a conversation; 0 if there is none.
    pub async fn latest_msg_id(&self, conversation: Conversation) -> Result<MsgId, CallError> {
        let request = LatestMessageIdRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            ..Default::default()
        };
        let reply: LatestMessageIdReply =
            self.call(Command::LatestMessageIdRequest, &request).await?;
        Ok(MsgId(reply.latest_msg_id))
    }

    /// What is unread, by conversation.
    pub async fn unread(&self) -> Result<UnreadCountReply, CallError> {
        self.call(Command::UnreadCountRequest, &UnreadCountRequest::default()).await
    }

    /// Says that everything in a conversation up to `msg_id` was read. Has no answer.
    pub async fn mark_read(
        &self,
        conversation: Conversation,
        msg_id: MsgId,
    ) -> Result<(), CallError> {
        let ack = ReadAck {
            user_id: 0,
            session_id: conversation.number(),
            msg_id: msg_id.0,
            session_type: conversation.session_type().into(),
        };
        self.tell(Command::ReadAck, &ack).await
    }

    /// The conversations that changed after `since` (unix seconds; 0: all), the newest first, at
    /// most 100.
    pub async fn recent_conversations(&self, since: u32) -> Result<Vec<RecentSession>, CallError> {
        let request = RecentSessionsRequest { latest_update_time: since, ..Default::default() };
        let reply: RecentSessionsReply =
            self.call(Command::RecentSessionsRequest, &request).await?;
        Ok(reply.sessions)
    }

    /// Takes a conversation out of the list, until its next message.
    pub async fn remove_conversation(&self, conversation: Conversation) -> Result<(), CallError> {
        let request = RemoveSessionRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            ..Default::default()
        };
        let reply: RemoveSessionReply = self.call(Command::RemoveSessionRequest, &request).await?;
        done(reply.result_code)
    }

    /// Makes a group of these members. Put the own number in.
    pub async fn create_group(&self, name: &str, members: &[UserId]) -> Result<GroupId, CallError> {
        let request = GroupCreateRequest {
            group_type: GroupType::Temporary.into(),
            name: name.to_owned(),
            member_ids: numbers(members),
            ..Default::default()
        };
        let reply: GroupCreateReply = self.call(Command::GroupCreateRequest, &request).await?;
        done(reply.result_code)?;
        reply.group_id.map(GroupId).ok_or(CallError::Failed(reply.result_code))
    }

    /// Adds members to a group or removes them. The answer tells the members after the change.
    pub async fn change_group(
        &self,
        group: GroupId,
        change: GroupChange,
        members: &[UserId],
    ) -> Result<GroupChangeMembersReply, CallError> {
        let request = GroupChangeMembersRequest {
            change: change.into(),
            group_id: group.0,
            member_ids: numbers(members),
            ..Default::default()
        };
        let reply: GroupChangeMembersReply =
            self.call(Command::GroupChangeMembersRequest, &request).await?;
        done(reply.result_code)?;
        Ok(reply)
    }

    /// Deletes a group that this user has made. All members leave, and no user can be added afterwards.
    /// Only servers with the extension know it; others do not answer.
    pub async fn delete_group(&self, group: GroupId) -> Result<(), CallError> {
        let request = GroupDeleteRequest { group_id: group.0 };
        let reply: GroupDeleteReply = self.call(Command::GroupDeleteRequest, &request).await?;
        done(reply.result_code)
    }

    /// The normal groups of this user, with the versions of their member lists.
    pub async fn groups(&self) -> Result<Vec<GroupVersion>, CallError> {
        let request = NormalGroupsRequest::default();
        let reply: NormalGroupsReply = self.call(Command::NormalGroupsRequest, &request).await?;
        Ok(reply.groups)
    }

    /// The records of those groups that are newer than the given versions (0: any).
    pub async fn group_info(&self, groups: &[GroupVersion]) -> Result<Vec<GroupInfo>, CallError> {
        let request = GroupInfoRequest { groups: groups.to_vec(), ..Default::default() };
        let reply: GroupInfoReply = self.call(Command::GroupInfoRequest, &request).await?;
        Ok(reply.groups)
    }

    /// Asks for no push messages for a group, or for them again.
    pub async fn mute_group(&self, group: GroupId, muted: bool) -> Result<(), CallError> {
        let request =
            GroupMuteRequest { group_id: group.0, muted: muted.into(), ..Default::default() };
        let reply: GroupMuteReply = self.call(Command::GroupMuteRequest, &request).await?;
        done(reply.result_code)
    }

    /// The records of some users, those that exist, in any order.
    pub async fn users(&self, users: &[UserId]) -> Result<Vec<UserInfo>, CallError> {
        let request = UsersInfoRequest { user_ids: numbers(users), ..Default::default() };
        let reply: UsersInfoReply = self.call(Command::UsersInfoRequest, &request).await?;
        Ok(reply.users)
    }

    /// All users that changed since an earlier answer (0: all).
    pub async fn all_users(&self, since: u32) -> Result<AllUsersReply, CallError> {
        let request = AllUsersRequest { latest_update_time: since, ..Default::default() };
        self.call(Command::AllUsersRequest, &request).await
    }

    /// All departments that changed since an earlier answer (0: all).
    pub async fn departments(&self, since: u32) -> Result<DepartmentsReply, CallError> {
        let request = DepartmentsRequest { latest_update_time: since, ..Default::default() };
        self.call(Command::DepartmentsRequest, &request).await
    }

    /// Which of these users are online.
    pub async fn statuses(&self, users: &[UserId]) -> Result<Vec<UserStatusEntry>, CallError> {
        let request = UsersStatusRequest { user_ids: numbers(users), ..Default::default() };
        let reply: UsersStatusReply = self.call(Command::UsersStatusRequest, &request).await?;
        Ok(reply.users)
    }

    /// Changes the signature line: at most 128 bytes.
    pub async fn set_signature(&self, signature: &str) -> Result<(), CallError> {
        let request =
            ChangeSignatureRequest { signature: signature.to_owned(), ..Default::default() };
        let reply: ChangeSignatureReply =
            self.call(Command::ChangeSignatureRequest, &request).await?;
        done(reply.result_code)
    }

    /// Says where the user's picture is.
    pub async fn set_avatar(&self, avatar_url: &str) -> Result<(), CallError> {
        let request =
            ChangeAvatarRequest { avatar_url: avatar_url.to_owned(), ..Default::default() };
        let reply: ChangeAvatarReply = self.call(Command::ChangeAvatarRequest, &request).await?;
        done(reply.result_code)
    }

    /// Passes a signal to a user's devices: JSON that the clients understand. Has no answer.
    pub async fn signal(&self, to: UserId, data: &str) -> Result<(), CallError> {
        let signal = PeerSignal { from_user_id: 0, to_user_id: to.0, data: data.to_owned() };
        self.tell(Command::PeerSignal, &signal).await
    }

    /// What time it is for the server, in unix seconds.
    pub async fn server_time(&self) -> Result<u32, CallError> {
        let reply: TimeReply = self.call(Command::TimeRequest, &TimeRequest {}).await?;
        Ok(reply.server_time)
    }
}

const fn done(result_code: u32) -> Result<(), CallError> {
    match result_code {
        0 => Ok(()),
        code => Err(CallError::Failed(code)),
    }
}

fn numbers(users: &[UserId]) -> Vec<u32> {
    users.iter().map(|user| user.0).collect()
}

fn messages(infos: &[MessageInfo], conversation: Conversation) -> Vec<Message> {
    infos.iter().filter_map(|info| Message::from_history(info, conversation)).collect()
}
