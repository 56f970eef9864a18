//! Read marks on their way to storage: the first few at once, then at most one a second for each user
//! and conversation, with the largest number. What waits here is lost if the gateway dies; nobody was
//! told of it.
//!
//! A mark that storage cannot take now is tried again for ten minutes.
//!
//! Only storage knows what a mark comes to: one that says 0, or a number that is not given out yet,
//! means everything that there is when it is stored. So a mark is never dropped for being no larger
//! than one that was stored before; of those that wait together the one that reaches farthest stays.
//!
//! Pure: time is an argument.
//!
//! # What bounds it
//!
//! - A conversation of a user has one entry, and at most one mark that waits. An entry goes when
//!   nothing waits and a mark would go at once.
//! - A user has at most [`CONVERSATIONS_MAX`] entries, all together [`ALL_CONVERSATIONS_MAX`] (some
//!   10 MB). Beyond, a mark goes to storage at once, and if that cannot take it, it is lost.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use db_client::owners::Asker;
use prost::Message;
use proto::client;
use proto::ids::UserId;
use tokio::time::Instant;

/// How long a mark counts, of those that may go at once.
const PERIOD: Duration = Duration::from_secs(1);

/// So many marks of one user in one conversation may go at once; then one in each period.
const AT_ONCE: u32 = 4;

/// How soon a mark is tried again that storage has not taken, at last.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a mark is handed to a storage that does not take it: for ten minutes.
const TRIES_MAX: u32 = 122;

/// Conversations of one user with marks of the last seconds.
const CONVERSATIONS_MAX: usize = 1_000;

/// The same of all users together.
const ALL_CONVERSATIONS_MAX: usize = 100_000;

/// Up to where a user has read a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// Who says so: the user's other clients will be told, and this one not.
    pub(crate) by: Asker,
    /// A user or a group, as clients number them.
    pub(crate) session_type: i32,
    pub(crate) session_id: u32,
    pub(crate) msg_id: u32,
    pub(crate) tries: u32,
}

/// The marks of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    users: HashMap<UserId, Vec<Conversation>>,
    conversations: usize,
    /// Marks that are being handed to storage, and may come back.
    pub(crate) under_way: usize,
}

/// A conversation of one user, of which marks came in the last seconds.
#[derive(Debug)]
struct Conversation {
    session_type: i32,
    session_id: u32,
    /// What was handed over counts until then, a period for each mark.
    counts_until: Instant,
    /// Storage has not taken a mark: it is not tried again before.
    not_before: Instant,
    pending: Option<Mark>,
}

impl Marks {
    /// Takes a mark. Returns it if it is to be handed to storage at once.
    pub(crate) fn put(&mut self, mark: Mark, now: Instant) -> Option<Mark> {
        let Some(conversation) = self.conversation(&mark, now) else { return Some(mark) };
        conversation.put(mark);
        if conversation.may_go(now) { conversation.take(now) } else { None }
    }

    /// Storage has not taken a mark: it is tried again, unless there is a newer one. Whether it, or
    /// that one, is kept.
    pub(crate) fn put_back(&mut self, mut mark: Mark, now: Instant) -> bool {
        mark.tries += 1;
        if mark.tries >= TRIES_MAX {
            return false;
        }
        let Some(conversation) = self.conversation(&mark, now) else { return false };
        let doubled = PERIOD * 2_u32.saturating_pow((mark.tries - 1).min(8));
        conversation.not_before = now + doubled.min(PAUSE_MAX);
        conversation.put(mark);
        true
    }

    /// The marks that have waited long enough.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Mark> {
        let mut due = Vec::new();
        let mut left = 0;
        self.users.retain(|_user, conversations| {
            conversations.retain_mut(|conversation| {
                if conversation.may_go(now) {
                    due.extend(conversation.take(now));
                }
                conversation.pending.is_some() || conversation.counts_until > now
            });
            left += conversations.len();
            !conversations.is_empty()
        });
        self.conversations = left;
        due
    }

    /// All marks of a user, because a client asks what is not read yet, or leaves.
    pub(crate) fn flush(&mut self, user: UserId, now: Instant) -> Vec<Mark> {
        let conversations = self.users.get_mut(&user).into_iter().flatten();
        conversations.filter_map(|conversation| conversation.take(now)).collect()
    }

    /// All marks of all users, because the gateway stops.
    pub(crate) fn flush_all(&mut self, now: Instant) -> Vec<Mark> {
        let conversations = self.users.values_mut().flatten();
        conversations.filter_map(|conversation| conversation.take(now)).collect()
    }

    /// Whether nothing waits, nor is under way to storage.
    pub(crate) fn is_empty(&self) -> bool {
        let mut conversations = self.users.values().flatten();
        self.under_way == 0 && conversations.all(|conversation| conversation.pending.is_none())
    }

    /// The entry of a mark's conversation, which is made if there is room.
    fn conversation(&mut self, mark: &Mark, now: Instant) -> Option<&mut Conversation> {
        let user = mark.by.user;
        let known = self.users.get(&user).map(Vec::as_slice).unwrap_or_default();
        let place = known.iter().position(|conversation| conversation.is_of(mark));
        if place.is_none()
            && (known.len() >= CONVERSATIONS_MAX || self.conversations >= ALL_CONVERSATIONS_MAX)
        {
            return None;
        }
        let conversations = self.users.entry(user).or_default();
        let place = place.unwrap_or_else(|| {
            self.conversations += 1;
            conversations.push(Conversation {
                session_type: mark.session_type,
                session_id: mark.session_id,
                counts_until: now,
                not_before: now,
                pending: None,
            });
            conversations.len() - 1
        });
        conversations.get_mut(place)
    }
}

impl Mark {
    /// How far it reaches: 0 is everything that there is.
    fn reach(&self) -> u64 {
        if self.msg_id == 0 { u64::MAX } else { u64::from(self.msg_id) }
    }

    /// What storage is handed.
    pub(crate) fn ack(&self) -> Bytes {
        let Self { by, session_type, session_id, msg_id, .. } = *self;
        let user_id = by.user.0;
        client::ReadAck { user_id, session_id, msg_id, session_type }.encode_to_vec().into()
    }
}

impl Conversation {
    /// Keeps the mark, unless one waits that reaches farther.
    fn put(&mut self, mark: Mark) {
        if self.pending.is_none_or(|pending| pending.reach() <= mark.reach()) {
            self.pending = Some(mark);
        }
    }

    fn is_of(&self, mark: &Mark) -> bool {
        (self.session_type, self.session_id) == (mark.session_type, mark.session_id)
    }

    fn may_go(&self, now: Instant) -> bool {
        let counts = self.counts_until.saturating_duration_since(now);
        now >= self.not_before && counts <= PERIOD * (AT_ONCE - 1)
    }

    /// Takes what waits, to be handed to storage.
    fn take(&mut self, now: Instant) -> Option<Mark> {
        let mark = self.pending.take()?;
        self.counts_until = self.counts_until.max(now) + PERIOD;
        Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster::wire::Origin;

    use super::*;

    fn mark(user: u32, session_id: u32, msg_id: u32) -> Mark {
        let by = Asker {
            user: UserId(user),
            client_type: 1,
            origin: Origin { gateway_boot: 1, session: 1 },
        };
        Mark { by, session_type: 1, session_id, msg_id, tries: 0 }
    }

    fn ids(marks: &[Mark]) -> Vec<(u32, u32)> {
        marks.iter().map(|mark| (mark.session_id, mark.msg_id)).collect()
    }

    #[test]
    fn the_first_few_marks_go_at_once_and_then_the_largest_of_each_second() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        for msg_id in 11..=14 {
            assert!(marks.put(mark(1, 7, msg_id), now).is_some(), "{msg_id}");
        }
        for msg_id in [15, 18, 16, 10] {
            assert!(marks.put(mark(1, 7, msg_id), now).is_none());
        }
        assert!(marks.put(mark(1, 8, 3), now).is_some(), "another conversation");
        assert!(marks.due(now + PERIOD / 2).is_empty());
        assert_eq!(ids(&marks.due(now + PERIOD)), [(7, 18)]);
        assert!(marks.put(mark(1, 7, 19), now + PERIOD).is_none(), "its second has just begun");
        assert_eq!(ids(&marks.due(now + PERIOD * 2)), [(7, 19)]);
        assert!(marks.put(mark(1, 7, 20), now + PERIOD * 4).is_some());
        assert!(marks.due(now + PERIOD * 9).is_empty());
        assert!(marks.users.is_empty() && marks.conversations == 0, "nothing is kept");
    }

    #[test]
    fn a_user_and_a_group_of_one_number_are_two_conversations() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        for msg_id in 1..=AT_ONCE {
            assert!(marks.put(mark(1, 7, msg_id), now).is_some());
        }
        assert!(marks.put(mark(1, 7, 20), now).is_none());
        let of_group = |msg_id| Mark { session_type: 2, ..mark(1, 7, msg_id) };
        for msg_id in 1..=AT_ONCE {
            assert!(marks.put(of_group(msg_id), now).is_some(), "{msg_id}");
        }
        assert!(marks.put(of_group(10), now).is_none());
        assert_eq!(ids(&marks.flush(UserId(1), now)), [(7, 20), (7, 10)]);
    }

    #[test]
    fn a_mark_of_everything_is_no_repeat_of_the_one_before() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        // Beyond the newest message, everything, and the same once more when there is more to read.
        for (session_id, first, then) in
            [(1, 10, 0), (2, 0, 0), (3, u32::MAX, u32::MAX), (4, u32::MAX, 12), (5, 0, 11)]
        {
            for msg_id in [first, then] {
                let taken = marks.put(mark(1, session_id, msg_id), now);
                assert_eq!(taken.map(|mark| mark.msg_id), Some(msg_id), "at once");
            }
        }
        for _ in 0..AT_ONCE {
            marks.put(mark(2, 7, 1), now);
        }
        for msg_id in [20, 0, 21] {
            assert!(marks.put(mark(2, 7, msg_id), now).is_none());
        }
        assert_eq!(
            ids(&marks.flush(UserId(2), now)),
            [(7, 0)],
            "everything reaches farther than 21"
        );
    }

    #[test]
    fn what_waits_is_flushed_for_its_user_alone_or_for_all() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        for user in [1, 2, 3] {
            for msg_id in 1..=AT_ONCE {
                assert!(marks.put(mark(user, 7, msg_id), now).is_some());
            }
            assert!(marks.put(mark(user, 7, 20), now).is_none());
        }
        assert_eq!(ids(&marks.flush(UserId(1), now)), [(7, 20)]);
        assert!(marks.flush(UserId(1), now).is_empty());
        assert_eq!(ids(&marks.flush_all(now)), [(7, 20), (7, 20)]);
        assert!(marks.flush_all(now).is_empty());
    }

    #[test]
    fn a_mark_that_storage_did_not_take_is_tried_again_for_ten_minutes_and_not_for_ever() {
        let (mut marks, start) = (Marks::default(), Instant::now());
        let mut now = start;
        let mut taken = marks.put(mark(1, 7, 10), now);
        let mut tries = Vec::new();
        while let Some(mark) = taken.take() {
            tries.push(now - start);
            if !marks.put_back(mark, now) {
                break;
            }
            while taken.is_none() {
                now += PERIOD / 10;
                taken = marks.due(now).pop();
            }
        }
        let seconds: Vec<u64> = tries.iter().take(6).map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 1, 3, 7, 12, 17]);
        let last = tries.last().unwrap().as_secs();
        assert!((590..=610).contains(&last), "{last}");
        marks.due(now + PERIOD * 2);
        assert!(marks.users.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_newer_mark_is_not_replaced_by_one_that_comes_back_and_waits_as_long() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let first = marks.put(mark(1, 7, 10), now).unwrap();
        assert!(marks.put_back(first, now));
        assert!(marks.put(mark(1, 7, 20), now).is_none(), "storage takes nothing now");
        assert!(marks.put_back(first, now));
        assert!(marks.due(now + PERIOD / 2).is_empty());
        assert_eq!(ids(&marks.due(now + PERIOD)), [(7, 20)]);
        // A mark that its user asks about does not wait.
        assert!(marks.put_back(first, now));
        assert_eq!(ids(&marks.flush(UserId(1), now)), [(7, 10)]);
    }

    #[test]
    fn beyond_its_room_a_mark_goes_at_once_and_is_not_kept() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let conversation = u32::try_from(CONVERSATIONS_MAX).unwrap();
        for session_id in 0..conversation {
            assert!(marks.put(mark(1, session_id, 10), now).is_some());
        }
        for msg_id in 1..20 {
            let more = marks.put(mark(1, conversation, msg_id), now).expect("it goes at once");
            assert!(!marks.put_back(more, now), "and is lost if storage does not take it");
        }
        assert_eq!(marks.users[&UserId(1)].len(), CONVERSATIONS_MAX);
        assert!(marks.put(mark(2, 7, 10), now).is_some());
        assert_eq!(marks.conversations, CONVERSATIONS_MAX + 1, "others have room");
        marks.conversations = ALL_CONVERSATIONS_MAX;
        let more = marks.put(mark(3, 7, 10), now).expect("it goes at once");
        assert!(!marks.put_back(more, now));
        assert!(marks.due(now + PERIOD * 9).is_empty());
        assert_eq!(marks.conversations, 0);
    }
}
