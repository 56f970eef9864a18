//! Adds of members that wait, so that all who join a group within a second are told of in one notice.
//!
//! The first add of a group is appended at once and opens the group's window. What comes before the
//! window ends is held. It is released together: when the window ends, or earlier if something must
//! not be judged before it. The record that this makes opens the next window.
//!
//! There is no clock in here: the caller says what time it is.
//!
//! # Invariants
//!
//! - What is held of one group fits one record.
//! - What is held of one group is released in the order in which it came.
//! - Nothing is held beyond the end of its group's window.
//!
//! # What bounds it
//!
//! The caller bounds what is held, by [`HeldAdds::len`]. Windows: one for each group to which a
//! user was added within the last second. Those that have ended go when the next one opens.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use proto::ids::{ConversationId, UserId};
use record_log::embedded::MAX_PAYLOAD_BYTES;

/// How long the window of a group is open.
pub const HOLD: Duration = Duration::from_secs(1);

/// The adds that are held, and the groups with an open window.
#[derive(Debug)]
pub(super) struct HeldAdds<T> {
    hold: Duration,
    /// When the window of a group ends.
    windows: HashMap<ConversationId, Instant>,
    /// The same in order of time, and windows that have been replaced by later ones since.
    opened: VecDeque<(Instant, ConversationId)>,
    held: HashMap<ConversationId, GroupAdds<T>>,
    /// The groups of `held`, in the order in which they are released.
    ends: BTreeSet<(Instant, ConversationId)>,
    count: usize,
}

/// What is held of one group.
#[derive(Debug)]
pub(super) struct GroupAdds<T> {
    until: Instant,
    requests: Vec<T>,
    bytes: usize,
    actors: HashSet<UserId>,
    joining: HashSet<UserId>,
}

/// What has to be known of an add that is to be held.
#[derive(Debug)]
pub(super) struct Add {
    /// The user that asks for it; `None` = an administrator.
    pub(super) actor: Option<UserId>,
    /// The users that are no members yet.
    pub(super) joining: Vec<UserId>,
    /// The length of a record that has this add only. A record that has several is no longer than
    /// theirs together.
    pub(super) bytes: usize,
}

impl<T> HeldAdds<T> {
    /// Nothing is held yet, and what will be for no longer than `hold`.
    pub(super) fn new(hold: Duration) -> Self {
        Self {
            hold,
            windows: HashMap::new(),
            opened: VecDeque::new(),
            held: HashMap::new(),
            ends: BTreeSet::new(),
            count: 0,
        }
    }

    /// How many requests are held.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is held of a group.
    pub(super) fn of(&self, group: ConversationId) -> Option<&GroupAdds<T>> {
        self.held.get(&group)
    }

    /// A record that adds members of a group is being appended: its window opens anew.
    pub(super) fn appended(&mut self, group: ConversationId, now: Instant) {
        while let Some((until, other)) = self.opened.pop_front_if(|(until, _)| *until <= now) {
            if self.windows.get(&other) == Some(&until) {
                self.windows.remove(&other);
            }
        }
        let until = now + self.hold;
        self.windows.insert(group, until);
        self.opened.push_back((until, group));
    }

    /// Whether the next add of a group is to be held.
    pub(super) fn is_open(&self, group: ConversationId, now: Instant) -> bool {
        self.windows.get(&group).is_some_and(|until| now < *until)
    }

    /// Whether an add fits one record with what is held of its group.
    pub(super) fn fits(&self, group: ConversationId, bytes: usize) -> bool {
        let held = self.held.get(&group).map_or(0, |held| held.bytes);
        held + bytes <= MAX_PAYLOAD_BYTES
    }

    /// Holds a request until the group's window ends.
    pub(super) fn hold(&mut self, group: ConversationId, request: T, add: Add, now: Instant) {
        let until = self.windows.get(&group).copied().unwrap_or(now);
        let held = self.held.entry(group).or_insert_with(|| GroupAdds::new(until));
        self.ends.insert((held.until, group));
        held.requests.push(request);
        held.bytes += add.bytes;
        held.actors.extend(add.actor);
        held.joining.extend(add.joining);
        self.count += 1;
    }

    /// Releases what is held of a group.
    pub(super) fn take(&mut self, group: ConversationId) -> Vec<T> {
        let Some(held) = self.held.remove(&group) else { return Vec::new() };
        self.ends.remove(&(held.until, group));
        self.count -= held.requests.len();
        held.requests
    }

    /// When the next window ends of a group for which something is held.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// A group for which something is held and whose window has ended.
    pub(super) fn due(&self, now: Instant) -> Option<ConversationId> {
        self.ends.first().filter(|(until, _)| *until <= now).map(|(_, group)| *group)
    }
}

impl<T> GroupAdds<T> {
    fn new(until: Instant) -> Self {
        Self {
            until,
            requests: Vec::new(),
            bytes: 0,
            actors: HashSet::new(),
            joining: HashSet::new(),
        }
    }

    /// Whether a user adds others here, or is added.
    pub(super) fn concerns(&self, user: UserId) -> bool {
        self.actors.contains(&user) || self.joining.contains(&user)
    }

    /// Whether a user is added here.
    pub(super) fn adds(&self, user: UserId) -> bool {
        self.joining.contains(&user)
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::GroupId;

    use super::*;

    fn group(number: u32) -> ConversationId {
        ConversationId::group(GroupId(number)).unwrap()
    }

    fn add(actor: u32, joining: u32) -> Add {
        Add { actor: Some(UserId(actor)), joining: vec![UserId(joining)], bytes: 20 }
    }

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Everything that is due, group by group.
    fn release(held_adds: &mut HeldAdds<u32>, now: Instant) -> Vec<(ConversationId, Vec<u32>)> {
        let mut released = Vec::new();
        while let Some(group) = held_adds.due(now) {
            released.push((group, held_adds.take(group)));
        }
        released
    }

    #[test]
    fn the_first_add_opens_a_window_of_one_second() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::<u32>::new(HOLD));
        assert!(!held_adds.is_open(group(1), start), "the first one is not held");
        held_adds.appended(group(1), start);
        assert!(held_adds.is_open(group(1), after(start, 999)));
        assert!(
            !held_adds.is_open(group(1), after(start, 1_000)),
            "a second later it is a first one"
        );
        assert!(!held_adds.is_open(group(2), start), "of another group");
        assert_eq!((held_adds.next_end(), held_adds.is_empty()), (None, true), "nobody waits");
    }

    #[test]
    fn what_is_held_is_released_in_order_when_the_window_ends() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(HOLD));
        held_adds.appended(group(1), start);
        held_adds.appended(group(2), after(start, 300));
        // The window ends when it does, however late an add comes.
        held_adds.hold(group(2), 20, add(1, 9), after(start, 400));
        held_adds.hold(group(1), 10, add(1, 7), after(start, 500));
        held_adds.hold(group(1), 11, add(2, 8), after(start, 990));
        assert_eq!((held_adds.len(), held_adds.next_end()), (3, Some(after(start, 1_000))));
        assert_eq!(release(&mut held_adds, after(start, 999)), []);
        assert_eq!(release(&mut held_adds, after(start, 1_000)), [(group(1), vec![10, 11])]);
        assert_eq!((held_adds.len(), held_adds.next_end()), (1, Some(after(start, 1_300))));
        assert_eq!(release(&mut held_adds, after(start, 9_000)), [(group(2), vec![20])]);
        assert_eq!((held_adds.next_end(), held_adds.is_empty()), (None, true));
    }

    #[test]
    fn what_is_released_opens_the_next_window() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(HOLD));
        held_adds.appended(group(1), start);
        held_adds.hold(group(1), 1, add(1, 7), after(start, 100));
        // Early, because something must come behind it.
        assert_eq!(held_adds.take(group(1)), [1]);
        held_adds.appended(group(1), after(start, 200));
        held_adds.hold(group(1), 2, add(1, 8), after(start, 300));
        assert_eq!(release(&mut held_adds, after(start, 1_199)), [], "not at the end of the first");
        assert_eq!(release(&mut held_adds, after(start, 1_200)), [(group(1), vec![2])]);
        assert_eq!(held_adds.take(group(1)), [0_u32; 0], "there is nothing left");
    }

    #[test]
    fn the_end_of_a_replaced_window_does_not_end_the_next() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::<u32>::new(HOLD));
        held_adds.appended(group(1), start);
        held_adds.appended(group(1), after(start, 200));
        held_adds.appended(group(2), after(start, 1_100));
        assert!(held_adds.is_open(group(1), after(start, 1_199)));
        assert!(!held_adds.is_open(group(1), after(start, 1_200)));
    }

    #[test]
    fn a_group_knows_who_is_concerned_by_what_is_held() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(HOLD));
        held_adds.appended(group(1), start);
        assert!(held_adds.of(group(1)).is_none());
        let by_nobody = Add { actor: None, ..add(0, 9) };
        held_adds.hold(group(1), 1, add(1, 7), start);
        held_adds.hold(group(1), 2, by_nobody, start);
        let held = held_adds.of(group(1)).unwrap();
        for (user, concerned, added) in [
            (1, true, false),
            (7, true, true),
            (9, true, true),
            (0, false, false),
            (2, false, false),
        ] {
            let user = UserId(user);
            assert_eq!((held.concerns(user), held.adds(user)), (concerned, added), "{user:?}");
        }
        assert!(held_adds.of(group(2)).is_none(), "another group");
    }

    #[test]
    fn what_is_held_of_a_group_fits_one_record() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(HOLD));
        held_adds.appended(group(1), start);
        assert!(held_adds.fits(group(1), MAX_PAYLOAD_BYTES));
        held_adds.hold(group(1), 1, add(1, 7), start);
        assert!(held_adds.fits(group(1), MAX_PAYLOAD_BYTES - 20));
        assert!(!held_adds.fits(group(1), MAX_PAYLOAD_BYTES - 19));
        assert!(held_adds.fits(group(2), MAX_PAYLOAD_BYTES), "another group");
        held_adds.take(group(1));
        assert!(held_adds.fits(group(1), MAX_PAYLOAD_BYTES), "it is empty again");
    }

    #[test]
    fn windows_that_have_ended_are_forgotten() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(HOLD));
        for number in 1..=1_000 {
            held_adds.appended(group(number), after(start, u64::from(number)));
            held_adds.appended(group(number), after(start, u64::from(number)));
        }
        // What is held has its own end: the window may go before it.
        held_adds.hold(group(1_000), 1, add(1, 7), after(start, 1_500));
        held_adds.appended(group(1), after(start, 2_500));
        assert_eq!((held_adds.windows.len(), held_adds.opened.len()), (1, 1));
        assert_eq!(release(&mut held_adds, after(start, 2_500)), [(group(1_000), vec![1])]);
    }

    #[test]
    fn without_a_window_nothing_waits() {
        let (start, mut held_adds) = (Instant::now(), HeldAdds::new(Duration::ZERO));
        held_adds.appended(group(1), start);
        assert!(!held_adds.is_open(group(1), start));
        held_adds.hold(group(2), 1, add(1, 7), start);
        assert_eq!(release(&mut held_adds, start), [(group(2), vec![1])]);
    }
}
