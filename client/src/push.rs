//! What the server says without being asked.

use proto::client::{
    AvatarChangedNotify, GroupMembersNotify, KickNotify, MessageData, PcStatusNotify, PeerSignal,
    ReadNotify, SessionRemovedNotify, SignatureChangedNotify, UserStatusNotify,
};
use proto::{Command, Frame};

/// A push, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Push {
    /// A message came, for this user or from another device of this user.
    Message(MessageData),
    /// This connection is thrown out.
    Kick(KickNotify),
    /// Another device of this user read a session.
    ReadNotify(ReadNotify),
    /// A user came or went.
    StatusNotify(UserStatusNotify),
    /// Members of a group came or went.
    GroupChanged(GroupMembersNotify),
    /// Another device of this user took a session out of the list.
    SessionRemoved(SessionRemovedNotify),
    /// To mobiles: the user's PC client came or went.
    PcStatus(PcStatusNotify),
    /// A user has a new signature line.
    Signature(SignatureChangedNotify),
    /// A user has a new picture.
    Avatar(AvatarChangedNotify),
    /// Another user's signal: typing, window shaking.
    P2p(PeerSignal),
    /// Anything else: a command without a variant here, a body that cannot be read, or an answer
    /// that nobody waited for.
    Other(Frame),
}

impl Push {
    /// Sorts a frame. Never fails: what is not understood is [`Push::Other`].
    pub fn from_frame(frame: Frame) -> Self {
        if frame.seq != 0 {
            return Self::Other(frame);
        }
        let parsed = match frame.known_command() {
            Some(Command::MessageData) => frame.parse().map(Self::Message),
            Some(Command::KickNotify) => frame.parse().map(Self::Kick),
            Some(Command::ReadNotify) => frame.parse().map(Self::ReadNotify),
            Some(Command::UserStatusNotify) => frame.parse().map(Self::StatusNotify),
            Some(Command::GroupMembersNotify) => frame.parse().map(Self::GroupChanged),
            Some(Command::SessionRemovedNotify) => frame.parse().map(Self::SessionRemoved),
            Some(Command::PcStatusNotify) => frame.parse().map(Self::PcStatus),
            Some(Command::SignatureChangedNotify) => frame.parse().map(Self::Signature),
            Some(Command::AvatarChangedNotify) => frame.parse().map(Self::Avatar),
            Some(Command::PeerSignal) => frame.parse().map(Self::P2p),
            _ => return Self::Other(frame),
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
}
