//! What the server says without being asked.

use proto::client::{
    AvatarChangedNotify, GroupMembersNotify, KickNotify, MessageData, PcStatusNotify, PeerSignal,
    ReadNotify, SessionRemovedNotify, SignatureChangedNotify, UserStatusNotify,
};
use proto::{Command, Frame, PushCommand};

/// A push, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Push {
    /// A message came, for this user or from another device of this user.
    Message(MessageData),
    /// This connection is thrown out.
    Kick(KickNotify),
    /// Another device of this user read a conversation.
    ReadNotify(ReadNotify),
    /// A user came or went.
    StatusNotify(UserStatusNotify),
    /// Members of a group came or went.
    GroupChanged(GroupMembersNotify),
    /// Another device of this user took a conversation out of the list.
    ConversationRemoved(SessionRemovedNotify),
    /// To mobiles: the user's PC client came or went.
    PcStatus(PcStatusNotify),
    /// A user has a new signature line.
    Signature(SignatureChangedNotify),
    /// A user has a new picture.
    Avatar(AvatarChangedNotify),
    /// Another user's signal: typing, window shaking.
    P2p(PeerSignal),
    /// Anything else: a command without a variant here, a body that cannot be read, or an answer
    /// that no call waited for.
    Other(Frame),
}

impl Push {
    /// Sorts a frame. Never fails: what is not understood is [`Push::Other`].
    pub fn from_frame(frame: Frame) -> Self {
        if frame.seq != 0 {
            return Self::Other(frame);
        }
        let Some(push) = frame.known_command().and_then(Command::push) else {
            return Self::Other(frame);
        };
        let parsed = match push {
            PushCommand::MessageData => frame.parse().map(Self::Message),
            PushCommand::KickNotify => frame.parse().map(Self::Kick),
            PushCommand::ReadNotify => frame.parse().map(Self::ReadNotify),
            PushCommand::UserStatusNotify => frame.parse().map(Self::StatusNotify),
            PushCommand::GroupMembersNotify => frame.parse().map(Self::GroupChanged),
            PushCommand::SessionRemovedNotify => frame.parse().map(Self::ConversationRemoved),
            PushCommand::PcStatusNotify => frame.parse().map(Self::PcStatus),
            PushCommand::SignatureChangedNotify => frame.parse().map(Self::Signature),
            PushCommand::AvatarChangedNotify => frame.parse().map(Self::Avatar),
            PushCommand::PeerSignal => frame.parse().map(Self::P2p),
            // The library has no use for files, and takes a token before it comes here.
            PushCommand::ResumeToken
            | PushCommand::FileNotify
            | PushCommand::FileStateNotify
            | PushCommand::FilePullRequest => return Self::Other(frame),
        };
        parsed.unwrap_or(Self::Other(frame))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_frame_with_a_seq_or_a_broken_body_is_no_push_of_its_kind() {
        let frame = |command: Command, seq, body: &'static [u8]| Frame {
            command: command.number(),
            seq,
            body: Bytes::from_static(body),
        };
        let kick = frame(Command::KickNotify, 0, b"\x08\x07\x10\x01");
        let expected = KickNotify { user_id: 7, reason: 1 };
        assert_eq!(Push::from_frame(kick), Push::Kick(expected));

        let answer = frame(Command::KickNotify, 3, b"\x08\x07\x10\x01");
        assert_eq!(Push::from_frame(answer.clone()), Push::Other(answer));
        let broken = frame(Command::KickNotify, 0, b"\xff");
        assert_eq!(Push::from_frame(broken.clone()), Push::Other(broken));
    }

    #[test]
    fn each_push_is_sorted_by_its_command() {
        fn of(command: Command, message: &impl prost::Message) -> Push {
            let body = message.encode_to_vec().into();
            Push::from_frame(Frame { command: command.number(), seq: 0, body })
        }
        let data = MessageData { from_user_id: 2, msg_id: 5, ..MessageData::default() };
        assert_eq!(of(Command::MessageData, &data), Push::Message(data.clone()));
        let read = ReadNotify { user_id: 1, session_id: 2, msg_id: 3, session_type: 1 };
        assert_eq!(of(Command::ReadNotify, &read), Push::ReadNotify(read));
        let status = UserStatusNotify::default();
        assert_eq!(of(Command::UserStatusNotify, &status), Push::StatusNotify(status));
        let members = GroupMembersNotify { group_id: 9, ..GroupMembersNotify::default() };
        let sorted = of(Command::GroupMembersNotify, &members);
        assert_eq!(sorted, Push::GroupChanged(members));
        let removed = SessionRemovedNotify { session_id: 4, ..SessionRemovedNotify::default() };
        let sorted = of(Command::SessionRemovedNotify, &removed);
        assert_eq!(sorted, Push::ConversationRemoved(removed));
        let pc = PcStatusNotify { user_id: 1, ..PcStatusNotify::default() };
        assert_eq!(of(Command::PcStatusNotify, &pc), Push::PcStatus(pc));
        let line = SignatureChangedNotify { user_id: 2, signature: "hi".to_owned() };
        assert_eq!(of(Command::SignatureChangedNotify, &line), Push::Signature(line));
        let picture = AvatarChangedNotify { user_id: 2, avatar_url: "a.png".to_owned() };
        assert_eq!(of(Command::AvatarChangedNotify, &picture), Push::Avatar(picture));
        let signal = PeerSignal { from_user_id: 2, to_user_id: 1, data: "{}".to_owned() };
        assert_eq!(of(Command::PeerSignal, &signal), Push::P2p(signal));
        let other = of(Command::TimeReply, &());
        assert!(matches!(other, Push::Other(frame) if frame.seq == 0));
    }
}
