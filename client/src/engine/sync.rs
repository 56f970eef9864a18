//! The list of conversations that is asked for after a login, put together from its two halves.

use std::collections::HashMap;

use proto::client::{RecentSession, UnreadSession};

use crate::message::Conversation;
use crate::timeline::Listed;

/// The server lists at most this many recent conversations; with fewer, it has listed all.
const LIST_MAX: usize = 100;

/// The two halves of the list of conversations.
#[derive(Debug, Default)]
pub(super) struct Sync {
    pub(super) recent: Option<Vec<RecentSession>>,
    pub(super) unread: Option<Vec<UnreadSession>>,
    /// A half failed, and a timer will ask for both again.
    pub(super) has_failed: bool,
}

impl Sync {
    /// Takes the list out once both halves are there, and says whether it names all conversations.
    pub(super) fn take(&mut self) -> Option<(Vec<Listed>, bool)> {
        if self.recent.is_none() || self.unread.is_none() {
            return None;
        }
        let Self { recent, unread, .. } = std::mem::take(self);
        let (recent, unread) = (recent.unwrap_or_default(), unread.unwrap_or_default());
        Some((merge(&recent, &unread), recent.len() < LIST_MAX))
    }
}

fn merge(recent: &[RecentSession], unread: &[UnreadSession]) -> Vec<Listed> {
    let mut list: HashMap<Conversation, Listed> = HashMap::new();
    let mut add = |session_type, id, latest: u32, count: u32| {
        if let Some(conversation) = Conversation::from_wire(session_type, id) {
            let listed =
                list.entry(conversation).or_insert(Listed { conversation, latest: 0, unread: 0 });
            listed.latest = listed.latest.max(latest);
            listed.unread = listed.unread.max(count);
        }
    };
    for conversation in recent {
        add(conversation.session_type, conversation.session_id, conversation.latest_msg_id, 0);
    }
    for conversation in unread {
        let (id, count) = (conversation.session_id, conversation.unread_count);
        add(conversation.session_type, id, conversation.latest_msg_id, count);
    }
    list.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(conversation: Conversation, latest: u32) -> RecentSession {
        RecentSession {
            session_id: conversation.number(),
            session_type: conversation.session_type().into(),
            latest_msg_id: latest,
            ..RecentSession::default()
        }
    }

    fn unread(conversation: Conversation, latest: u32, count: u32) -> UnreadSession {
        UnreadSession {
            session_id: conversation.number(),
            session_type: conversation.session_type().into(),
            latest_msg_id: latest,
            unread_count: count,
            ..UnreadSession::default()
        }
    }

    fn sorted(mut list: Vec<Listed>) -> Vec<Listed> {
        list.sort_by_key(|listed| listed.conversation);
        list
    }

    #[test]
    fn either_half_may_know_more_of_a_conversation() {
        let (peer, group, other) =
            (Conversation::user(2), Conversation::group(2), Conversation::user(3));
        let mut odd = recent(other, 9);
        odd.session_type = 99;
        let halves = (
            [recent(peer, 7), recent(group, 4), odd],
            [unread(peer, 8, 3), unread(group, 2, 1), unread(other, 5, 5)],
        );
        let listed = |conversation, latest, unread| Listed { conversation, latest, unread };
        let expected = [listed(peer, 8, 3), listed(other, 5, 5), listed(group, 4, 1)];
        assert_eq!(sorted(merge(&halves.0, &halves.1)), expected);
    }

    #[test]
    fn the_list_is_there_when_both_halves_are_and_is_taken_once() {
        let mut sync = Sync { recent: Some(Vec::new()), has_failed: true, ..Sync::default() };
        assert_eq!(sync.take(), None);
        sync.unread = Some(vec![unread(Conversation::user(2), 1, 1)]);
        let (list, is_complete) = sync.take().unwrap();
        assert_eq!((list.len(), is_complete), (1, true));
        assert_eq!(sync.take(), None);
        assert!(!sync.has_failed, "the next one may fail again");
    }

    #[test]
    fn only_a_list_of_less_than_a_hundred_names_all() {
        for (count, is_complete) in [(99, true), (100, false)] {
            let recent = (1..=count).map(|user| recent(Conversation::user(user), 1)).collect();
            let mut sync =
                Sync { recent: Some(recent), unread: Some(Vec::new()), ..Sync::default() };
            assert_eq!(sync.take().unwrap().1, is_complete, "{count}");
        }
    }
}
