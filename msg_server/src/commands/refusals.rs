//! How a client is told that a request will not be done.
//!
//! A client that said hello is told so for every command. Old clients know a result code in some of
//! their answers; where there is none they get no answer, as in the original.

use bytes::Bytes;
use proto::client::{self, RefuseReason};
use proto::ids::UserId;
use proto::{Command, Frame, encode_message};

use crate::client::outbox::Outbox;
use crate::commands::terms::{self, Failed};

/// The result code of the client protocol for everything that was not done.
const FAILED: u32 = 1;

/// Tells a client, logged in as `user`, that what it asked in `request` will not be done. The
/// request's body may be missing: of a frame that is too long only the header is known.
///
/// Returns whether there was an answer for it.
pub(crate) fn refuse(outbox: &Outbox, user: UserId, request: &Frame, reason: RefuseReason) -> bool {
    let answer = if outbox.is_extended() {
        Some(extended(request, reason))
    } else {
        terms::failed(request).map(|failed| answer(failed, user, request))
    };
    let is_known = answer.is_some();
    if let Some(answer) = answer {
        outbox.answer(answer);
    }
    is_known
}

fn extended(request: &Frame, reason: RefuseReason) -> Bytes {
    if request.is(Command::MessageData) {
        let sent: client::MessageData = request.parse().unwrap_or_default();
        let result = client::SendResult {
            // Empty if only the header is known: then the seq says which message it is.
            client_msg_id: sent.client_msg_id.unwrap_or_default(),
            outcome: client::SendOutcome::Refused.into(),
            msg_id: None,
            session_id: None,
            session_type: None,
            reason: Some(reason.into()),
            create_time: None,
            reason_text: None,
        };
        return encode_message(Command::SendResult, request.seq, &result);
    }
    let reason = u32::try_from(i32::from(reason)).unwrap_or_default();
    let refused = client::Refused { command: u32::from(request.command), reason };
    encode_message(Command::Refused, request.seq, &refused)
}

/// The answer of the client protocol that says "failed".
fn answer(failed: Failed, user: UserId, request: &Frame) -> Bytes {
    let user_id = user.0;
    let (seq, result_code) = (request.seq, FAILED);
    match failed {
        Failed::GroupCreate => {
            let asked: client::GroupCreateRequest = request.parse().unwrap_or_default();
            let reply = client::GroupCreateReply {
                user_id,
                result_code,
                name: asked.name,
                ..Default::default()
            };
            encode_message(Command::GroupCreateReply, seq, &reply)
        }
        Failed::GroupChangeMembers => {
            let asked: client::GroupChangeMembersRequest = request.parse().unwrap_or_default();
            let change = client::GroupChange::try_from(asked.change);
            let reply = client::GroupChangeMembersReply {
                user_id,
                // A number outside of the list would make the whole answer invalid for clients.
                change: change.unwrap_or(client::GroupChange::Add).into(),
                result_code,
                group_id: asked.group_id,
                ..Default::default()
            };
            encode_message(Command::GroupChangeMembersReply, seq, &reply)
        }
        Failed::GroupMute => {
            let asked: client::GroupMuteRequest = request.parse().unwrap_or_default();
            let group_id = asked.group_id;
            let reply =
                client::GroupMuteReply { user_id, group_id, result_code, ..Default::default() };
            encode_message(Command::GroupMuteReply, seq, &reply)
        }
        Failed::ChangeSignature => {
            let reply = client::ChangeSignatureReply { user_id, result_code, ..Default::default() };
            encode_message(Command::ChangeSignatureReply, seq, &reply)
        }
        Failed::ChangeAvatar => {
            let reply = client::ChangeAvatarReply { user_id, result_code, ..Default::default() };
            encode_message(Command::ChangeAvatarReply, seq, &reply)
        }
    }
}
