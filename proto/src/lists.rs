//! How a list fits a frame to a client, or several: of sessions, each with its newest message, or of
//! groups.
//!
//! A db_proxy that makes a list and a daemon that merges the lists of several cut it by the same
//! rules: what a client gets does not depend on how many db_proxies there are.
//!
//! # Invariants
//!
//! - A list that is cut by these rules fits [`LIMIT_TO_CLIENT`], with its header.
//! - No session is left out because of the texts of others: a text that does not fit is replaced.

use bytes::Bytes;
use prost::Message;

use crate::client::{GroupInfo, MessageType};
use crate::cluster::wire::Rest;
use crate::limits::LIMIT_TO_CLIENT;
use crate::text::TextCipher;

/// Sessions in the list of recent ones at most (TeamTalk protocol, sessions).
pub const SESSIONS_MAX: usize = 100;

/// Sessions that fit a frame, with messages as short as can be.
pub const ENTRIES_MAX: usize = LIMIT_TO_CLIENT / ENTRY_LEN_MIN - 2;

/// Groups described in one reply at most: no more of a request are looked at.
pub const GROUPS_MAX: usize = 1_000;

/// What a session takes besides its message.
const ENTRY_OVERHEAD: usize = 64;

/// What a session's message takes at least, if it is replaced by a text that stands for it: one block of 16
/// bytes, in Base64.
const PREVIEW_LEN_MIN: usize = 24;

/// What a session takes at least.
const ENTRY_LEN_MIN: usize = ENTRY_OVERHEAD + PREVIEW_LEN_MIN;

/// Normal groups that fit a frame: a number and a version each, as large as can be.
pub const NORMAL_GROUPS_MAX: usize = (LIMIT_TO_CLIENT - RECORDS_OVERHEAD) / 16;

/// What a reply takes besides its records, with the frame's header.
const RECORDS_OVERHEAD: usize = 64;

/// What a record takes besides itself.
const RECORD_OVERHEAD: usize = 8;

/// What lists show in place of messages, as clients read it. The default is for the original clients.
#[derive(Debug, Clone)]
pub struct Placeholders {
    voice: Bytes,
    too_long: Bytes,
}

impl Placeholders {
    /// For clients that have this key.
    pub fn new(cipher: &TextCipher) -> Self {
        Self { voice: cipher.encrypt("[语音]"), too_long: cipher.encrypt("…") }
    }
}

impl Default for Placeholders {
    fn default() -> Self {
        Self::new(&TextCipher::default())
    }
}

/// Whether a session is still to be told, after the part that ended as `told` says. `place` is the
/// time of its newest message and its conversation: lists go from the newest down. What is newer than
/// all that was told has changed since, and comes again.
pub fn is_left(told: &Rest, place: (u64, u64)) -> bool {
    place < (told.below_ms(), told.conversation()) || place.0 > told.above_ms()
}

/// Where a list of sessions goes on of which a part from `first` down to `last` is told. `before` is
/// what the part before this one left.
pub fn rest_after(first: (u64, u64), last: (u64, u64), before: Option<&Rest>) -> Rest {
    // What came again stands above what was told before: the list has not got below that yet.
    let lowest = before.map_or(last, |told| (told.below_ms(), told.conversation()));
    let (below_ms, conversation) = last.min(lowest);
    Rest {
        conversation: Some(conversation),
        below_ms: Some(below_ms),
        above_ms: Some(first.0.max(before.map_or(0, Rest::above_ms))),
        ..Rest::default()
    }
}

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

    /// What groups may take together, or other records.
    pub const fn of_records() -> Self {
        Self { left: LIMIT_TO_CLIENT - RECORDS_OVERHEAD }
    }

    /// How many bytes there are.
    pub const fn left(&self) -> usize {
        self.left
    }

    /// Makes of a session's newest message what the list shows of it: voice is the text that stands
    /// for it, and so is a text for which there is no room. Those after it may still fit.
    pub fn fit(&mut self, placeholders: &Placeholders, message_type: i32, data: &mut Bytes) {
        let voice = [MessageType::SingleVoice, MessageType::GroupVoice].map(i32::from);
        if voice.contains(&message_type) {
            *data = placeholders.voice.clone();
        } else if !self.take(data.len().saturating_sub(PREVIEW_LEN_MIN)) {
            *data = placeholders.too_long.clone();
        }
    }

    /// Whether a record still fits. The first that does not begins the next frame.
    pub fn take_record(&mut self, record: &impl Message) -> bool {
        self.take(record.encoded_len() + RECORD_OVERHEAD)
    }

    /// Makes the member list of a group fit that comes first in a frame: of members without end those
    /// with the lowest numbers stay, and always `user`, whose client must find itself in it, and the
    /// creator. No client can put a list together from parts: each takes the last one as the whole.
    pub fn cut_members(&self, group: &mut GroupInfo, user: u32) {
        let members = std::mem::take(&mut group.member_ids);
        let kept = [user, group.creator_id];
        let field = |member: u32| 1 + prost::encoding::encoded_len_varint(u64::from(member));
        let others = group.encoded_len() + RECORD_OVERHEAD + 2 * 6;
        let mut left = self.left.saturating_sub(others);
        let mut is_full = false;
        group.member_ids = members
            .into_iter()
            .filter(|member| {
                if kept.contains(member) {
                    return true;
                }
                match left.checked_sub(field(*member)).filter(|_rest| !is_full) {
                    Some(rest) => left = rest,
                    None => is_full = true,
                }
                !is_full
            })
            .collect();
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

    fn fit(room: &mut Room, kind: i32, data: &mut Bytes) {
        room.fit(&Placeholders::default(), kind, data);
    }

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
            fit(&mut room, *kind, data);
        }
        let [first, second, third, voice, last] = list.map(|(_, data)| data);
        assert_eq!([first.len(), second.len(), last.len()], [long, long, 100]);
        assert_eq!(decrypt(&third).as_deref(), Ok("…"));
        assert_eq!(decrypt(&voice).as_deref(), Ok("[语音]"));
    }

    #[test]
    fn placeholders_are_read_with_the_key_of_the_site_and_take_one_block() {
        for cipher in [TextCipher::default(), TextCipher::new(&[7; 32])] {
            let Placeholders { voice, too_long } = Placeholders::new(&cipher);
            for (data, text) in [(voice, "[语音]"), (too_long, "…")] {
                assert_eq!(data.len(), PREVIEW_LEN_MIN);
                assert_eq!(cipher.decrypt(&data).as_deref(), Ok(text));
            }
        }
    }

    #[test]
    fn what_was_made_to_fit_is_not_changed_by_merging_it() {
        for (kind, mut data) in [(VOICE, text(9)), (TEXT, text(LIMIT_TO_CLIENT)), (TEXT, text(90))]
        {
            fit(&mut Room::of_sessions(1), kind, &mut data);
            let (once, mut room) = (data.clone(), Room::of_sessions(1));
            fit(&mut room, kind, &mut data);
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
                fit(&mut room, TEXT, &mut data);
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
    fn sessions_that_were_told_are_not_left_unless_they_have_changed_since() {
        let told = rest_after((90, 7), (50, 3), None);
        assert!(!is_left(&told, (90, 7)) && !is_left(&told, (50, 3)) && !is_left(&told, (60, 9)));
        assert!(is_left(&told, (50, 2)) && is_left(&told, (49, 99)));
        assert!(is_left(&told, (91, 3)), "it was told with less than it has now");
        let told = rest_after((91, 3), (91, 3), Some(&told));
        assert!(is_left(&told, (49, 99)) && !is_left(&told, (60, 9)) && !is_left(&told, (91, 3)));
        let told = rest_after((49, 9), (20, 9), Some(&told));
        assert!(!is_left(&told, (49, 9)) && is_left(&told, (20, 8)));
        assert!(!is_left(&told, (91, 3)) && is_left(&told, (92, 3)));
    }

    #[test]
    fn a_member_list_is_cut_to_a_frame_with_the_asker_and_the_creator_in_it() {
        for members in [10, 200_000] {
            let mut info = GroupInfo {
                group_id: u32::MAX,
                creator_id: 4_199_999,
                group_type: GroupType::Temporary.into(),
                member_ids: (4_000_000..4_000_000 + members).collect(),
                ..GroupInfo::default()
            };
            let room = Room::of_records();
            let user = 4_000_000 + members - 2;
            room.cut_members(&mut info, user);
            assert!(info.member_ids.contains(&user), "{members} members");
            assert!(info.member_ids.is_sorted());
            let kept = info.member_ids.len();
            assert_eq!(kept == 10, members == 10);
            assert!(kept == 10 || info.member_ids.contains(&4_199_999) && kept > 80_000);
            let reply = GroupInfoReply { user_id: u32::MAX, groups: vec![info], attach_data: None };
            assert!(HEADER_LEN + reply.encoded_len() <= LIMIT_TO_CLIENT, "{members} members");
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
            let mut room = Room::of_records();
            let mut groups = Vec::new();
            while room.take_record(&one) {
                groups.push(one.clone());
            }
            let left = room.left();
            assert!(!room.take_record(&one) && room.left() == left, "that takes nothing");
            let mut last = info(left, 0);
            while !room.take_record(&last) {
                last.name.pop();
            }
            groups.push(last);
            assert!(room.left() < 8, "{members} members: {} left", room.left());
            let reply = GroupInfoReply { user_id: u32::MAX, groups, attach_data: None };
            assert!(HEADER_LEN + reply.encoded_len() <= LIMIT_TO_CLIENT, "{members} members");
        }
    }
}
