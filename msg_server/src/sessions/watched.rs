//! Whom a client has asked about, and so wants to hear of when many are online.
//!
//! Pure.
//!
//! # What bounds it
//!
//! So many users as the caller says, 8 bytes each. Beyond, those asked about longest ago give way.

use proto::ids::UserId;

/// The users that one client wants to hear of.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Sorted by user. Most clients ask about nobody, and then there is nothing to allocate.
    users: Box<[WatchedUser]>,
}

#[derive(Debug, Clone, Copy)]
struct WatchedUser {
    user: UserId,
    /// Larger for those asked about later.
    asked: u32,
}

impl Watched {
    /// The client asks about `users`. Of all it has asked about the last `max` stay.
    pub(crate) fn ask(&mut self, users: impl ExactSizeIterator<Item = UserId>, max: usize) {
        let mut watched = std::mem::take(&mut self.users).into_vec();
        let newest = watched.iter().map(|one| one.asked).max().unwrap_or(0);
        let mut next = newest;
        if usize::try_from(u32::MAX - newest).unwrap_or(0) <= users.len() {
            next = renumber(&mut watched);
        }
        watched.reserve_exact(users.len());
        for user in users {
            next = next.saturating_add(1);
            watched.push(WatchedUser { user, asked: next });
        }
        // Of each user the last mention counts.
        watched.sort_unstable_by_key(|one| (one.user, u32::MAX - one.asked));
        watched.dedup_by_key(|one| one.user);
        let beyond = watched.len().saturating_sub(max);
        if beyond > 0 {
            let mut asked: Vec<u32> = watched.iter().map(|one| one.asked).collect();
            // The last of those who go; all go where nobody may stay.
            let (_older, last_to_go, _newer) = asked.select_nth_unstable(beyond - 1);
            let last_to_go = *last_to_go;
            watched.retain(|one| one.asked > last_to_go);
        }
        self.users = watched.into_boxed_slice();
    }

    /// Those that are about a user whom the client has asked about.
    pub(crate) fn among<'a, T>(&self, all: &'a [T], user: impl Fn(&T) -> UserId) -> Vec<&'a T> {
        if self.users.is_empty() {
            return Vec::new();
        }
        let is_watched =
            |one: &&T| self.users.binary_search_by_key(&user(one), |one| one.user).is_ok();
        all.iter().filter(is_watched).collect()
    }
}

/// Numbers the users from 1 again, in the order in which they were asked about. Returns the last number.
fn renumber(watched: &mut [WatchedUser]) -> u32 {
    watched.sort_unstable_by_key(|one| one.asked);
    let mut last = 0;
    for one in watched {
        last += 1;
        one.asked = last;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn ask(watched: &mut Watched, users: &[u32], max: usize) {
        watched.ask(users.iter().map(|user| UserId(*user)), max);
    }

    fn all(watched: &Watched) -> Vec<u32> {
        watched.users.iter().map(|one| one.user.0).collect()
    }

    #[test]
    fn beyond_the_bound_those_asked_about_longest_ago_give_way() {
        let mut watched = Watched::default();
        for users in (1..=3_000_u32).collect::<Vec<_>>().chunks(300) {
            ask(&mut watched, users, 1_000);
        }
        assert_eq!(all(&watched), (2_001..=3_000).collect::<Vec<_>>());
        // Asking again makes them new.
        ask(&mut watched, &[2_001], 1_000);
        ask(&mut watched, &[7], 1_000);
        let watched = all(&watched);
        assert!(watched.contains(&2_001) && watched.contains(&7) && !watched.contains(&2_002));
        assert_eq!(watched.len(), 1_000);
    }

    #[test]
    fn of_a_question_about_more_than_the_bound_the_last_stay() {
        let mut watched = Watched::default();
        ask(&mut watched, &(1..=50).collect::<Vec<_>>(), 20);
        assert_eq!(all(&watched), (31..=50).collect::<Vec<_>>());
        ask(&mut watched, &[60], 0);
        assert!(all(&watched).is_empty());
    }

    #[test]
    fn a_client_that_asks_for_ever_is_served_for_ever() {
        let mut watched = Watched::default();
        ask(&mut watched, &[1, 2, 3], 3);
        for one in &mut watched.users {
            one.asked += u32::MAX - 4;
        }
        for user in 4..=9 {
            ask(&mut watched, &[user], 3);
            assert_eq!(all(&watched), (user - 2..=user).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_client_that_asks_about_nobody_takes_no_memory_and_others_take_eight_bytes_for_each() {
        assert!(size_of::<Watched>() <= 16 && size_of::<WatchedUser>() == 8);
        let nobody = Watched::default();
        assert!(nobody.among(&[1, 2], |user| UserId(*user)).is_empty());
        let mut some = Watched::default();
        ask(&mut some, &[5, 6, 5], 100);
        assert_eq!(some.users.len(), 2);
        assert_eq!(some.among(&[4, 5, 7], |user| UserId(*user)), [&5]);
    }

    proptest! {
        #[test]
        fn a_list_in_order_of_the_questions_comes_to_the_same(
            questions in prop::collection::vec(prop::collection::vec(0_u32..30, 0..12), 0..12),
            max in 1_usize..15,
        ) {
            let (mut watched, mut list) = (Watched::default(), VecDeque::new());
            for users in questions {
                ask(&mut watched, &users, max);
                for user in users {
                    list.retain(|known| *known != user);
                    list.push_back(user);
                }
                while list.len() > max {
                    list.pop_front();
                }
                let mut expected: Vec<u32> = list.iter().copied().collect();
                expected.sort_unstable();
                prop_assert_eq!(all(&watched), expected);
            }
        }
    }
}
