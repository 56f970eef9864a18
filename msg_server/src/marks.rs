//! Read marks on their way to storage: the first at once, then at most one a second for each user
//! and conversation, with the largest number.
//!
//! Only storage knows what a mark comes to: one that says 0, or a number that is not given out yet,
//! means everything that there is when it is stored. So a mark is never dropped for being no larger
//! than one that was stored before; of those that wait together the one that reaches farthest stays.
//!
//! Pure: time is an argument.
//!
//! # What bounds it
//!
//! A new entry is made only by a mark that goes to storage at once, and the client's next frame is
//! not read until that is answered. Entries go a second after their last mark.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::client;
use tokio::time::Instant;

use crate::storage::Asker;

/// How long marks of one user in one conversation are collected.
const PERIOD: Duration = Duration::from_secs(1);

/// How often a mark is handed to a storage that does not take it: once a second, so for longer than
/// a partition may be without an owner, which is 10 s.
const TRIES_MAX: u32 = 15;

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

/// The marks of the last second.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    users: HashMap<u32, Vec<Line>>,
}

#[derive(Debug)]
struct Line {
    session_type: i32,
    session_id: u32,
    /// When a mark went to storage last.
    sent_at: Instant,
    pending: Option<Mark>,
}

impl Marks {
    /// Takes a mark. Returns it if it is to be handed to storage at once.
    pub(crate) fn put(&mut self, mark: Mark, now: Instant) -> Option<Mark> {
        let lines = self.users.entry(mark.by.login.user).or_default();
        let Some(line) = lines.iter_mut().find(|line| line.is_of(&mark)) else {
            lines.push(Line {
                session_type: mark.session_type,
                session_id: mark.session_id,
                sent_at: now,
                pending: None,
            });
            return Some(mark);
        };
        line.put(mark);
        None
    }

    /// Storage has not taken a mark: it is tried again, unless there is a newer one.
    pub(crate) fn put_back(&mut self, mut mark: Mark, now: Instant) {
        mark.tries += 1;
        if mark.tries >= TRIES_MAX {
            return;
        }
        let lines = self.users.entry(mark.by.login.user).or_default();
        match lines.iter_mut().find(|line| line.is_of(&mark)) {
            Some(line) => line.put(mark),
            None => lines.push(Line {
                session_type: mark.session_type,
                session_id: mark.session_id,
                sent_at: now,
                pending: Some(mark),
            }),
        }
    }

    /// The marks whose second is over.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Mark> {
        let mut due = Vec::new();
        self.users.retain(|_user, lines| {
            lines.retain_mut(|line| {
                if now - line.sent_at < PERIOD {
                    return true;
                }
                let Some(mark) = line.pending.take() else { return false };
                line.sent_at = now;
                due.push(mark);
                true
            });
            !lines.is_empty()
        });
        due
    }

    /// All marks of a user, because he is about to ask what he has not read, or has left.
    pub(crate) fn flush(&mut self, user: u32, now: Instant) -> Vec<Mark> {
        let lines = self.users.get_mut(&user).into_iter().flatten();
        lines
            .filter_map(|line| {
                let mark = line.pending.take()?;
                line.sent_at = now;
                Some(mark)
            })
            .collect()
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
        let user_id = by.login.user;
        client::ReadAck { user_id, session_id, msg_id, session_type }.encode_to_vec().into()
    }
}

impl Line {
    /// Keeps the mark, unless one waits that reaches farther.
    fn put(&mut self, mark: Mark) {
        if self.pending.is_none_or(|pending| pending.reach() <= mark.reach()) {
            self.pending = Some(mark);
        }
    }

    fn is_of(&self, mark: &Mark) -> bool {
        (self.session_type, self.session_id) == (mark.session_type, mark.session_id)
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster::wire::Origin;

    use super::*;
    use crate::session::Login;

    fn mark(user: u32, session_id: u32, msg_id: u32) -> Mark {
        let by = Asker {
            login: Login { id: 1, user, client_type: 1 },
            origin: Origin { gateway_boot: 1, session: 1 },
        };
        Mark { by, session_type: 1, session_id, msg_id, tries: 0 }
    }

    fn ids(marks: &[Mark]) -> Vec<(u32, u32)> {
        marks.iter().map(|mark| (mark.session_id, mark.msg_id)).collect()
    }

    #[test]
    fn the_first_mark_goes_at_once_and_then_the_largest_of_each_second() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        assert!(marks.put(mark(1, 7, 10), now).is_some());
        for msg_id in [11, 15, 12, 10] {
            assert!(marks.put(mark(1, 7, msg_id), now).is_none());
        }
        assert!(marks.put(mark(1, 8, 3), now).is_some(), "another conversation");
        assert!(marks.due(now + PERIOD / 2).is_empty());
        assert_eq!(ids(&marks.due(now + PERIOD)), [(7, 15)]);
        assert!(marks.put(mark(1, 7, 16), now + PERIOD).is_none(), "its second has just begun");
        assert_eq!(ids(&marks.due(now + PERIOD * 2)), [(7, 16)]);
        assert!(marks.due(now + PERIOD * 4).is_empty());
        assert!(marks.users.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_mark_of_everything_is_no_repeat_of_the_one_before() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        // Beyond the newest message, everything, and the same once more when there is more to read.
        for (first, then) in [(10, 0), (0, 0), (u32::MAX, u32::MAX), (u32::MAX, 12), (0, 11)] {
            assert!(marks.put(mark(1, 7, first), now).is_some(), "{first}");
            assert!(marks.put(mark(1, 7, then), now).is_none(), "{then}");
            assert_eq!(ids(&marks.due(now + PERIOD)), [(7, then)]);
            assert!(marks.due(now + PERIOD * 3).is_empty());
        }
        marks.put(mark(1, 7, 1), now);
        for msg_id in [20, 0, 21] {
            marks.put(mark(1, 7, msg_id), now);
        }
        assert_eq!(ids(&marks.flush(1, now)), [(7, 0)], "everything reaches farther than 21");
    }

    #[test]
    fn what_waits_is_flushed_for_its_user_alone() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        for user in [1, 2] {
            marks.put(mark(user, 7, 10), now);
            marks.put(mark(user, 7, 20), now);
        }
        assert_eq!(ids(&marks.flush(1, now)), [(7, 20)]);
        assert!(marks.flush(1, now).is_empty());
        assert_eq!(marks.due(now + PERIOD).len(), 1);
    }

    #[test]
    fn a_mark_that_storage_did_not_take_is_tried_again_and_not_for_ever() {
        let (mut marks, mut now) = (Marks::default(), Instant::now());
        let mut taken = marks.put(mark(1, 7, 10), now);
        let mut tries = 0;
        while let Some(mark) = taken.take() {
            tries += 1;
            marks.put_back(mark, now);
            now += PERIOD;
            taken = marks.due(now).pop();
        }
        assert_eq!(tries, TRIES_MAX);
    }

    #[test]
    fn a_newer_mark_is_not_replaced_by_one_that_comes_back() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let first = marks.put(mark(1, 7, 10), now).unwrap();
        marks.put(mark(1, 7, 20), now);
        marks.put_back(first, now);
        assert_eq!(ids(&marks.due(now + PERIOD)), [(7, 20)]);
    }
}
