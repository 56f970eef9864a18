//! How a list fits a frame to a client: of sessions, each with its newest message, or of groups.
//!
//! Who makes a list and who merges the lists of several cut it by the same rules: what a client gets
//! does not depend on how many db_proxies there are.
//!
//! # Invariants
//!
//! - A list that is cut by these rules fits [`LIMIT_TO_CLIENT`], with its header.
//! - No session is left out because of the texts of others: a text that does not fit is replaced.

use bytes::Bytes;
use prost::Message;

use crate::client::{GroupInfo, MessageType};
use crate::limits::LIMIT_TO_CLIENT;
use crate::text::{VOICE_PLACEHOLDER, encrypt};

/// Sessions in the list of recent ones at most (TeamTalk protocol, sessions).
pub const SESSIONS_MAX: usize = 100;

/// Sessions that fit a frame, with messages as short as can be.
pub const ENTRIES_MAX: usize = LIMIT_TO_CLIENT / ENTRY_LEN_MIN - 2;

/// Groups described in one reply at most: no more of a request are looked at.
pub const GROUPS_MAX: usize = 1_000;

/// What a session takes besides its message.
const ENTRY_OVERHEAD: usize = 64;

/// What a session's message takes at least, if it is replaced by a text that stands for it.
const PREVIEW_LEN_MIN: usize = VOICE_PLACEHOLDER.len();

/// What a session takes at least.
const ENTRY_LEN_MIN: usize = ENTRY_OVERHEAD + PREVIEW_LEN_MIN;

/// What a reply takes besides its groups, with the frame's header.
const GROUPS_OVERHEAD: usize = 64;

/// What a group takes besides its record.
const GROUP_OVERHEAD: usize = 8;

/// Stands for a text that does not fit any more.
const TOO_LONG: &str = "…";

/// The bytes of a frame that a list has not taken yet.
#[derive(Debug)]
pub struct Room {
    left: usize,
}

impl Room {
    /// What the messages of so many sessions may take together, beyond the least that each takes.
    pub const fn of_sessions(sessions: usize) -> Self {
        // Two more: the reply's own fields and the frame's header.
        Self { left: LIMIT_TO_CLIENT.saturating_sub((sessions + 2) * ENTRY_LEN_MIN) }
    }

    /// What groups may take together.
    pub const fn of_groups() -> Self {
        Self { left: LIMIT_TO_CLIENT - GROUPS_OVERHEAD }
    }

    /// How many bytes there are.
    pub const fn left(&self) -> usize {
        self.left
    }

    /// Makes of a session's newest message what the list shows of it: voice is the text that stands
    /// for it, and so is a text for which there is no room. Those after it may still fit.
    pub fn fit(&mut self, message_type: i32, data: &mut Bytes) {
        let voice = [MessageType::SingleVoice, MessageType::GroupVoice].map(i32::from);
        if voice.contains(&message_type) {
            *data = Bytes::from_static(VOICE_PLACEHOLDER);
        } else if !self.take(data.len().saturating_sub(PREVIEW_LEN_MIN)) {
            *data = encrypt(TOO_LONG);
        }
    }

    /// Whether a group still fits. The first that does not ends the list: the client asks again for
    /// the others, in its order.
    pub fn take_group(&mut self, group: &GroupInfo) -> bool {
        self.take(group.encoded_len() + GROUP_OVERHEAD)
    }

    fn take(&mut self, len: usize) -> bool {
        let left = self.left.checked_sub(len);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{
        GroupInfoReply, GroupType, RecentSession, RecentSessionsReply, SessionStatus, SessionType,
        UnreadCountReply, UnreadSession,
    };
    use crate::limits::HEADER_LEN;
    use crate::text::decrypt;

    const TEXT: i32 = MessageType::SingleText as i32;
    const VOICE: i32 = MessageType::GroupVoice as i32;

    fn text(len: usize) -> Bytes {
        vec![b'x'; len].into()
    }

    #[test]
    fn a_text_without_room_is_replaced_and_a_shorter_one_after_it_is_not() {
        let long = 150_000;
        let mut list = [(TEXT, long), (TEXT, long), (TEXT, long), (VOICE, long), (TEXT, 100)]
            .map(|(kind, len)| (kind, text(len)));
        let mut room = Room::of_sessions(list.len());
        for (kind, data) in &mut list {
            room.fit(*kind, data);
        }
        let [first, second, third, voice, last] = list.map(|(_, data)| data);
        assert_eq!([first.len(), second.len(), last.len()], [long, long, 100]);
        assert_eq!(decrypt(&third).as_deref(), Ok(TOO_LONG));
        assert_eq!(voice, VOICE_PLACEHOLDER);
    }

    #[test]
    fn what_was_made_to_fit_is_not_changed_by_whoever_merges_it() {
        for (kind, mut data) in [(VOICE, text(9)), (TEXT, text(LIMIT_TO_CLIENT)), (TEXT, text(90))]
        {
            Room::of_sessions(1).fit(kind, &mut data);
            let (once, mut room) = (data.clone(), Room::of_sessions(1));
            room.fit(kind, &mut data);
            assert_eq!(data, once, "{kind}");
        }
    }

    #[test]
    fn as_many_sessions_as_fit_are_told_with_the_greatest_numbers_and_the_longest_texts() {
        const { assert!((ENTRIES_MAX + 2) * ENTRY_LEN_MIN <= LIMIT_TO_CLIENT) };
        for (count, len) in [(ENTRIES_MAX, 30), (ENTRIES_MAX, 300), (1, 500_000), (30, 20_000)] {
            let mut room = Room::of_sessions(count);
            let mut preview = || {
                let mut data = text(len);
                room.fit(TEXT, &mut data);
                data
            };
            let unread = |latest_msg_data| UnreadSession {
                session_id: u32::MAX,
                session_type: SessionType::Group.into(),
                unread_count: u32::MAX,
                latest_msg_id: u32::MAX,
                latest_msg_data,
                latest_msg_type: VOICE,
                latest_msg_from: u32::MAX,
            };
            let sessions: Vec<_> = (0..count).map(|_| unread(preview())).collect();
            let recent = |session: &UnreadSession| RecentSession {
                session_id: u32::MAX,
                session_type: SessionType::Group.into(),
                status: SessionStatus::Deleted.into(),
                updated_time: u32::MAX,
                latest_msg_id: u32::MAX,
                latest_msg_data: session.latest_msg_data.clone(),
                latest_msg_type: VOICE,
                latest_msg_from: u32::MAX,
            };
            let recent = sessions.iter().map(recent).collect();
            let user_id = u32::MAX;
            let recent = RecentSessionsReply { user_id, sessions: recent, attach_data: None };
            let total_count = u32::MAX;
            let unread = UnreadCountReply { user_id, total_count, sessions, attach_data: None };
            for taken in [unread.encoded_len(), recent.encoded_len()] {
                assert!(HEADER_LEN + taken <= LIMIT_TO_CLIENT, "{count} of {len}: {taken}");
            }
        }
    }

    #[test]
    fn groups_fit_up_to_the_first_that_does_not() {
        let info = |name_len, members| GroupInfo {
            group_id: u32::MAX,
            version: u32::MAX,
            name: "x".repeat(name_len),
            creator_id: u32::MAX,
            group_type: GroupType::Temporary.into(),
            member_ids: vec![u32::MAX; members],
            ..GroupInfo::default()
        };
        for members in [1, 100, 20_000] {
            let one = info(256, members);
            let mut room = Room::of_groups();
            let mut groups = Vec::new();
            while room.take_group(&one) {
                groups.push(one.clone());
            }
            let left = room.left();
            assert!(!room.take_group(&one) && room.left() == left, "that takes nothing");
            let mut last = info(left, 0);
            while !room.take_group(&last) {
                last.name.pop();
            }
            groups.push(last);
            assert!(room.left() < 8, "{members} members: {} left", room.left());
            let reply = GroupInfoReply { user_id: u32::MAX, groups, attach_data: None };
            assert!(HEADER_LEN + reply.encoded_len() <= LIMIT_TO_CLIENT, "{members} members");
        }
    }
}
