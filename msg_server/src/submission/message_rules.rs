//! What a message must look like to be taken. Whether its author may write there is decided where
//! it is stored.
//!
//! Pure.

use proto::client::{self, MessageType, RefuseReason};
use proto::ids::{ConversationId, GroupId, UserId};

use crate::config::LimitsConfig;

/// A voice message of this many bytes or fewer has no sound in it: four bytes say how long it is.
const VOICE_HEAD_LEN: usize = 4;

/// Returns the conversation that a message belongs to, or why it is refused.
pub(crate) fn check(
    message: &client::MessageData,
    author: UserId,
    limits: &LimitsConfig,
) -> Result<ConversationId, RefuseReason> {
    let kind = MessageType::try_from(message.msg_type).map_err(|_| RefuseReason::BadType)?;
    let len = message.msg_data.len();
    if len == 0 {
        return Err(RefuseReason::Empty);
    }
    let (to, is_group, is_voice) = match kind {
        MessageType::SingleText => (message.to_session_id, false, false),
        MessageType::SingleVoice => (message.to_session_id, false, true),
        MessageType::GroupText => (message.to_session_id, true, false),
        MessageType::GroupVoice => (message.to_session_id, true, true),
    };
    if is_voice && len <= VOICE_HEAD_LEN {
        return Err(RefuseReason::Empty);
    }
    let len_max = if is_voice { limits.voice_bytes_max } else { limits.text_bytes_max };
    if len > len_max {
        return Err(RefuseReason::TooLarge);
    }
    if is_group {
        return ConversationId::group(GroupId(to)).ok_or(RefuseReason::NoSuchGroup);
    }
    if UserId(to) == author {
        return Err(RefuseReason::Self_);
    }
    ConversationId::single(author, UserId(to)).ok_or(RefuseReason::NoSuchPeer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(msg_type: MessageType, to: u32, len: usize) -> client::MessageData {
        client::MessageData {
            to_session_id: to,
            msg_type: msg_type.into(),
            msg_data: vec![7; len].into(),
            ..client::MessageData::default()
        }
    }

    fn verdict(message: &client::MessageData) -> Result<ConversationId, RefuseReason> {
        check(message, UserId(5), &LimitsConfig::default())
    }

    #[test]
    fn the_type_decides_whether_it_goes_to_a_user_or_a_group() {
        let single = verdict(&message(MessageType::SingleText, 9, 10)).unwrap();
        assert_eq!(Some(single), ConversationId::single(UserId(5), UserId(9)));
        let group = verdict(&message(MessageType::GroupVoice, 9, 10)).unwrap();
        assert_eq!(Some(group), ConversationId::group(GroupId(9)));
    }

    #[test]
    fn what_cannot_be_delivered_is_refused_with_a_reason() {
        let refused = |message: client::MessageData| verdict(&message).unwrap_err();
        let unknown = client::MessageData { msg_type: 3, ..message(MessageType::SingleText, 9, 1) };
        assert_eq!(refused(unknown), RefuseReason::BadType);
        assert_eq!(refused(message(MessageType::SingleText, 9, 0)), RefuseReason::Empty);
        assert_eq!(refused(message(MessageType::GroupVoice, 9, 4)), RefuseReason::Empty);
        assert_eq!(refused(message(MessageType::SingleText, 5, 1)), RefuseReason::Self_);
        assert_eq!(refused(message(MessageType::SingleText, 0, 1)), RefuseReason::NoSuchPeer);
        assert_eq!(refused(message(MessageType::GroupText, 0, 1)), RefuseReason::NoSuchGroup);
        let long = message(MessageType::SingleText, 9, (64 << 10) + 1);
        assert_eq!(refused(long), RefuseReason::TooLarge);
        verdict(&message(MessageType::SingleVoice, 9, 300_000)).unwrap();
    }

    #[test]
    fn a_group_with_the_authors_number_is_not_the_author() {
        verdict(&message(MessageType::GroupText, 5, 1)).unwrap();
    }
}
