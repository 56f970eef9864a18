//! The kinds of numbers: one newtype each, so that none can be taken for another.

use std::fmt;

use crate::client::SessionType;

/// A user's number. 0 means no user: real users start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UserId(pub u32);

/// A group's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// The place of a message in its conversation: 1, 2, 3 … with no hole. 0 means "none yet".
///
/// Old clients take ids from 90,000,000 on for their own use, so [`MsgId::MAX`] is the last one
/// ever given (TeamTalk protocol, message ids).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MsgId(pub u32);

impl MsgId {
    /// The greatest id a conversation may reach.
    pub const MAX: Self = Self(89_999_999);

    /// Returns the id after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The place of a record in the log of one partition, from 1. 0 means "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// Returns the offset after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Chosen by the sender (UUIDv7), the same on every retry of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientMsgId(pub [u8; 16]);

impl fmt::Display for ClientMsgId {
    /// As hex digits: how a message is named in every daemon's log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl ClientMsgId {
    /// Reads an id from the bytes of a message; `None` unless there are exactly 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// A conversation: two users, or a group. It owns one history.
///
/// One number for both: the lower user id above the higher one for two users, and zeros above the
/// group's number for a group (no user has number 0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(u64);

/// What a [`ConversationId`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parties {
    /// Two users, the lower number first.
    Single(UserId, UserId),
    /// The members of a group.
    Group(GroupId),
}

impl ConversationId {
    /// The conversation of two users, the same whichever is named first. `None` if one of them is
    /// user 0 or both are the same user.
    pub fn single(one: UserId, other: UserId) -> Option<Self> {
        let (low, high) = if one < other { (one, other) } else { (other, one) };
        (low.0 != 0 && low != high).then(|| Self(u64::from(low.0) << 32 | u64::from(high.0)))
    }

    /// The conversation of a group. `None` for group 0.
    pub fn group(group: GroupId) -> Option<Self> {
        (group.0 != 0).then(|| Self(u64::from(group.0)))
    }

    /// The conversation that `user`'s client means by a session type and number, the other way of
    /// [`Self::session_of`]. Session types other than "group" count as "single": some clients send 0
    /// there. `None` if it is no conversation.
    pub fn of_session(user: UserId, session_type: i32, session: u32) -> Option<Self> {
        if session_type == i32::from(SessionType::Group) {
            Self::group(GroupId(session))
        } else {
            Self::single(user, UserId(session))
        }
    }

    /// Reads the number back; `None` if it stands for no conversation.
    pub fn from_number(number: u64) -> Option<Self> {
        match (high_half(number), low_half(number)) {
            (0, group) => Self::group(GroupId(group)),
            (low, high) if low < high => Some(Self(number)),
            _ => None,
        }
    }

    /// The number that stands for this conversation in records and tables. Below 2^63 as long as
    /// user ids are below 2^31.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The two users, or the group, that this is the conversation of.
    pub fn parties(self) -> Parties {
        match high_half(self.0) {
            0 => Parties::Group(GroupId(low_half(self.0))),
            low => Parties::Single(UserId(low), UserId(low_half(self.0))),
        }
    }

    /// The group, if this is one.
    pub fn as_group(self) -> Option<GroupId> {
        match self.parties() {
            Parties::Group(group) => Some(group),
            Parties::Single(..) => None,
        }
    }

    /// The other user of a single conversation; `None` for a group or an outsider.
    pub fn peer_of(self, user: UserId) -> Option<UserId> {
        match self.parties() {
            Parties::Single(low, high) if low == user => Some(high),
            Parties::Single(low, high) if high == user => Some(low),
            _ => None,
        }
    }

    /// The session number that `user`'s client knows this conversation by: the peer or the group.
    pub fn session_of(self, user: UserId) -> Option<u32> {
        match self.parties() {
            Parties::Group(group) => Some(group.0),
            Parties::Single(..) => self.peer_of(user).map(|peer| peer.0),
        }
    }
}

fn high_half(number: u64) -> u32 {
    u32::try_from(number >> 32).expect("a number shifted right by 32 fits 32 bits")
}

fn low_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("a number masked to 32 bits fits them")
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parties() {
            Parties::Single(low, high) => write!(f, "single:{}-{}", low.0, high.0),
            Parties::Group(group) => write!(f, "group:{}", group.0),
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_users_have_one_conversation_whichever_is_named_first() {
        let one = ConversationId::single(UserId(7), UserId(3)).unwrap();
        assert_eq!(Some(one), ConversationId::single(UserId(3), UserId(7)));
        assert_eq!(one.parties(), Parties::Single(UserId(3), UserId(7)));
        assert_eq!(one.peer_of(UserId(7)), Some(UserId(3)));
        assert_eq!(one.peer_of(UserId(8)), None);
        assert_eq!(ConversationId::from_number(one.number()), Some(one));
    }

    #[test]
    fn a_group_is_never_taken_for_two_users() {
        const IDS: [u32; 6] = [1, 2, 7, 1 << 16, u32::MAX - 1, u32::MAX];
        for number in IDS {
            let group = ConversationId::group(GroupId(number)).unwrap();
            assert_eq!(group.parties(), Parties::Group(GroupId(number)));
            assert_eq!(ConversationId::from_number(group.number()), Some(group));
            for (one, other) in IDS.into_iter().flat_map(|one| IDS.map(|other| (one, other))) {
                assert_eq!(group.session_of(UserId(one)), Some(number));
                let single = ConversationId::single(UserId(one), UserId(other));
                assert_ne!(single, Some(group), "{number} and {one} with {other}");
                assert_eq!(single.is_some(), one != other);
            }
        }
    }

    #[test]
    fn a_client_knows_a_conversation_by_its_session_whatever_it_calls_a_single_one() {
        let user = UserId(5);
        let single = ConversationId::single(user, UserId(9));
        let group = ConversationId::group(GroupId(9));
        for (session_type, expected) in [(0, single), (1, single), (77, single), (2, group)] {
            let found = ConversationId::of_session(user, session_type, 9);
            assert_eq!(found, expected, "{session_type}");
            assert_eq!(found.and_then(|found| found.session_of(user)), Some(9));
        }
        for (session_type, session) in [(1, 5), (1, 0), (2, 0)] {
            assert_eq!(ConversationId::of_session(user, session_type, session), None);
        }
    }

    #[test]
    fn numbers_that_stand_for_nothing_are_refused() {
        for number in [0, 5 << 32, 5 << 32 | 5, 5 << 32 | 4] {
            assert_eq!(ConversationId::from_number(number), None, "{number:#x}");
        }
        assert_eq!(ConversationId::single(UserId(0), UserId(1)), None);
        assert_eq!(ConversationId::single(UserId(1), UserId(1)), None);
    }
}
