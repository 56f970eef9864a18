//! One conversation as the owner of its partition knows it: head, members, marks, newest messages.
//!
//! Changed only by the fold ([`crate::effects`]), one record at a time. No clock, no IO.
//!
//! # Invariants
//!
//! - `head` is the number of messages there are: ids are 1, 2, 3 … without a hole.
//! - `recent` ends at `head` and has no hole; whatever the store does not have yet is in it.
//! - What a member may see is one range of ids, fixed by the order of the log.
//! - Unread is exact: `head − max(read, join − 1) − own messages after that`.

use std::collections::{HashMap, VecDeque};

use crate::faults::{self, Fault};
use proto::ids::{ConversationId, MsgId, Offset, Parties, UserId};

use crate::rows::{
    ConversationRow, GroupRow, MarkRow, MemberRow, MessageRow, StoredConversation, UserConversation,
};

/// How many of the newest messages stay in memory although they are stored.
pub const RECENT_KEPT: usize = 32;

/// How many bytes of them.
const RECENT_BYTES_KEPT: usize = 64 << 10;

/// A user's place in a group: the first message they may see, and the last one once they have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The first message that may be seen.
    pub join: MsgId,
    /// The last one; `None` while a member.
    pub leave: Option<MsgId>,
}

/// What one user did in the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Everything up to this was read.
    pub read: MsgId,
    /// How many of the messages up to `read` are the user's own.
    pub own_up_to_read: u32,
    /// How many of all messages are the user's own.
    pub own_total: u32,
    /// Where the head was when the user removed the session from their list; 0 = never.
    pub removed_at: MsgId,
    /// No push notifications for it.
    pub shield: bool,
}

/// The state of one conversation.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Which one.
    pub id: ConversationId,
    /// The highest msg_id.
    pub head: MsgId,
    /// The last record that was published: a message or a change of members.
    pub last_offset: Offset,
    /// When the newest message was written, Unix milliseconds.
    pub last_message_ms: u64,
    /// What a group has besides; `None` for two users and for a group that was never made.
    pub group: Option<GroupRow>,
    /// All users who are or were in the group.
    pub members: HashMap<UserId, Member>,
    /// Marks, only where there is something.
    pub marks: HashMap<UserId, Mark>,
    /// The newest messages, oldest first.
    pub recent: VecDeque<MessageRow>,
    /// Whether both users of a single conversation exist.
    pub peers_exist: bool,
    /// The last record that changed anything: it may leave memory once that is stored.
    pub changed_at: Offset,
    /// The round in which it was last used, for taking the least recently used out of memory.
    pub used_in: u64,
}

impl Conversation {
    /// Takes what the store has, as the state to fold on.
    pub fn from_stored(id: ConversationId, stored: StoredConversation) -> Self {
        let row = stored.row;
        let mut conversation = Self {
            id,
            head: row.as_ref().map_or(MsgId(0), |row| row.head),
            last_offset: row.as_ref().map_or(Offset(0), |row| row.last_offset),
            last_message_ms: row.as_ref().map_or(0, |row| row.last_message_ms),
            group: row.and_then(|row| row.group),
            members: stored
                .members
                .into_iter()
                .map(|row| (row.user, Member { join: row.join, leave: row.leave }))
                .collect(),
            marks: stored.marks.into_iter().map(|row| (row.user, Mark::from(row))).collect(),
            recent: stored.recent.into(),
            peers_exist: stored.peers_exist,
            changed_at: Offset(0),
            used_in: 0,
        };
        conversation.forget_stored(Offset(u64::MAX)); // It has just come from the store.
        conversation
    }

    /// Whether `user` takes part now.
    pub fn has_member(&self, user: UserId) -> bool {
        match self.id.parties() {
            Parties::Single(low, high) => user == low || user == high,
            Parties::Group(_) => {
                self.members.get(&user).is_some_and(|member| member.leave.is_none())
            }
        }
    }

    /// The newest message that `user` may have seen; `None` if the user never took part. A user
    /// who has left a group still sees it in their own lists and settings.
    pub(crate) fn newest_seen_by(&self, user: UserId) -> Option<MsgId> {
        match self.id.parties() {
            Parties::Single(..) => self.has_member(user).then_some(self.head),
            Parties::Group(_) => {
                let member = self.members.get(&user)?;
                Some(member.leave.map_or(self.head, |last| last.min(self.head)))
            }
        }
    }

    /// The members a group has now, in order of their numbers.
    pub fn current_members(&self) -> Vec<UserId> {
        let mut members: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.leave.is_none())
            .map(|(user, _)| *user)
            .collect();
        members.sort_unstable();
        members
    }

    /// Makes members of `users`, from the next message on. Returns those who were none.
    pub(crate) fn join(&mut self, users: Vec<UserId>) -> Vec<UserId> {
        let head = self.head;
        let mut joined = Vec::new();
        for user in users {
            if self.members.get(&user).is_some_and(|member| member.leave.is_none()) {
                continue;
            }
            self.members.insert(user, Member { join: head.next(), leave: None });
            if let Some(mark) = self.marks.get_mut(&user) {
                // Nothing that was said before is visible, or unread. The user's own messages of that
                // time do not count against what comes, either.
                mark.read = head;
                mark.own_up_to_read = mark.own_total;
            }
            joined.push(user);
        }
        joined
    }

    /// Ends the membership of `users` with the newest message. Returns those who were members.
    pub(crate) fn leave(&mut self, users: Vec<UserId>) -> Vec<UserId> {
        let mut left = Vec::new();
        for user in users {
            if let Some(member) = self.members.get_mut(&user)
                && member.leave.is_none()
            {
                member.leave = Some(self.head);
                left.push(user);
            }
        }
        left
    }

    /// The first id that `user` may see; `None` if they take no part now.
    pub fn visible_from(&self, user: UserId) -> Option<MsgId> {
        if !self.has_member(user) {
            return None;
        }
        Some(self.members.get(&user).map_or(MsgId(1), |member| member.join))
    }

    /// How many messages `user` has not read.
    pub fn unread(&self, user: UserId) -> u32 {
        match self.visible_from(user) {
            Some(from) => unread(self.head, from, self.marks.get(&user)),
            None => 0,
        }
    }

    /// The messages `from..=to` that are in memory, oldest first, and the first id of those in
    /// memory: below it the store must be asked.
    pub fn recent_range(&self, from: MsgId, to: MsgId) -> (Vec<MessageRow>, MsgId) {
        let first = self.recent.front().map_or(self.head.next(), |message| message.msg_id);
        let rows = self
            .recent
            .iter()
            .filter(|message| (from..=to).contains(&message.msg_id))
            .cloned()
            .collect();
        (rows, first)
    }

    /// How many of the messages 1..=`upto` are by `user`, if that can be said from memory.
    pub(crate) fn own_up_to(&self, user: UserId, upto: MsgId) -> Option<u32> {
        let mark = self.marks.get(&user).copied().unwrap_or_default();
        if upto >= self.head {
            return Some(mark.own_total);
        }
        if upto == mark.read || mark.own_total == 0 {
            return Some(mark.own_up_to_read.min(mark.own_total));
        }
        let first = self.recent.front().map_or(self.head.next(), |message| message.msg_id);
        if upto.next() < first {
            return None;
        }
        let after = self
            .recent
            .iter()
            .filter(|message| message.msg_id > upto && message.sender == user)
            .count();
        Some(mark.own_total.saturating_sub(u32::try_from(after).unwrap_or(u32::MAX)))
    }

    /// Forgets messages that are stored (up to `stored`) and not among the newest.
    pub fn forget_stored(&mut self, stored: Offset) {
        let mut bytes: usize = self.recent.iter().map(|message| message.body.len()).sum();
        while (self.recent.len() > RECENT_KEPT || bytes > RECENT_BYTES_KEPT)
            && let Some(first) = self.recent.front().filter(|first| first.offset <= stored)
        {
            bytes -= first.body.len();
            self.recent.pop_front();
        }
    }

    /// The conversation's own row.
    pub fn row(&self) -> ConversationRow {
        ConversationRow {
            id: self.id,
            head: self.head,
            last_offset: self.last_offset,
            last_message_ms: self.last_message_ms,
            group: self.group.clone(),
        }
    }

    /// The row of a member, past or present.
    pub(crate) fn member_row(&self, user: UserId) -> Option<MemberRow> {
        let group = self.id.as_group()?;
        let member = self.members.get(&user)?;
        Some(MemberRow { group, user, join: member.join, leave: member.leave })
    }

    /// The row of a user's mark.
    pub(crate) fn mark_row(&self, user: UserId) -> Option<MarkRow> {
        let mark = self.marks.get(&user)?;
        Some(MarkRow {
            conversation: self.id,
            user,
            read: mark.read,
            own_up_to_read: mark.own_up_to_read,
            own_total: mark.own_total,
            removed_at: mark.removed_at,
            shield: mark.shield,
        })
    }

    /// The conversation as `user`'s lists show it.
    pub fn seen_by(&self, user: UserId) -> UserConversation {
        UserConversation {
            row: self.row(),
            member: self.member_row(user),
            mark: self.mark_row(user),
        }
    }
}

impl UserConversation {
    /// The first id the user may see; `None` if they take no part now.
    pub fn visible_from(&self) -> Option<MsgId> {
        match (self.row.id.as_group(), &self.member) {
            (None, _) => Some(MsgId(1)),
            (Some(_), Some(member)) if member.leave.is_none() => Some(member.join),
            (Some(_), _) => None,
        }
    }

    /// How many messages the user has not read.
    pub fn unread(&self) -> u32 {
        let mark = self.mark.map(Mark::from);
        self.visible_from().map_or(0, |from| unread(self.row.head, from, mark.as_ref()))
    }

    /// Whether the user's session list shows it: something visible came after the last removal.
    pub fn listed(&self) -> bool {
        let removed_at = self.mark.map_or(MsgId(0), |mark| mark.removed_at);
        let head = self.row.head;
        head.0 > 0 && head > removed_at && self.visible_from().is_some_and(|from| head >= from)
    }
}

fn unread(head: MsgId, visible_from: MsgId, mark: Option<&Mark>) -> u32 {
    let mark = mark.copied().unwrap_or_default();
    let base = mark.read.0.max(visible_from.0.saturating_sub(1));
    let own_after = mark.own_total.saturating_sub(mark.own_up_to_read);
    let own_after = if faults::planted(Fault::OwnIsUnread) { 0 } else { own_after };
    head.0.saturating_sub(base).saturating_sub(own_after)
}

impl From<MarkRow> for Mark {
    fn from(row: MarkRow) -> Self {
        Self {
            read: row.read,
            own_up_to_read: row.own_up_to_read,
            own_total: row.own_total,
            removed_at: row.removed_at,
            shield: row.shield,
        }
    }
}
