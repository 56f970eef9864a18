//! Whom a client has asked about, and so wants to hear of when many are online.
//!
//! Pure.
//!
//! # What bounds it
//!
//! So many users as the caller says, 8 bytes each. Beyond, those asked about longest ago give way.

/// The users that one client wants to hear of.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Sorted by user. Most clients ask about nobody, and then there is nothing to allocate.
    users: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    user: u32,
    /// Larger for those asked about later.
    asked: u32,
}

impl Watched {
    /// The client asks about `users`. Of all it has asked about the last `max` stay.
    pub(crate) fn ask(&mut self, users: &[u32], max: usize) {
        let mut entries = std::mem::take(&mut self.users).into_vec();
        let newest = entries.iter().map(|entry| entry.asked).max().unwrap_or(0);
        let mut next = newest;
        if usize::try_from(u32::MAX - newest).unwrap_or(0) <= users.len() {
            next = renumber(&mut entries);
        }
        entries.reserve_exact(users.len());
        for &user in users {
            next = next.saturating_add(1);
            entries.push(Entry { user, asked: next });
        }
        // Of each user the last mention counts.
        entries.sort_unstable_by_key(|entry| (entry.user, u32::MAX - entry.asked));
        entries.dedup_by_key(|entry| entry.user);
        let beyond = entries.len().saturating_sub(max);
        if beyond > 0 {
            let mut asked: Vec<u32> = entries.iter().map(|entry| entry.asked).collect();
            // The last of those who go; all go where nobody may stay.
            let (_older, last_to_go, _newer) = asked.select_nth_unstable(beyond - 1);
            let last_to_go = *last_to_go;
            entries.retain(|entry| entry.asked > last_to_go);
        }
        self.users = entries.into_boxed_slice();
    }

    /// Which of the users the client has asked about. `users` is sorted by user.
    pub(crate) fn among<'a, T>(&self, users: &'a [(u32, T)]) -> Vec<&'a (u32, T)> {
        if self.users.is_empty() {
            return Vec::new();
        }
        let is_watched =
            |user: &u32| self.users.binary_search_by_key(user, |entry| entry.user).is_ok();
        users.iter().filter(|(user, _news)| is_watched(user)).collect()
    }
}

/// Counts the entries from 1 again, in the same order. Returns the last number.
fn renumber(entries: &mut [Entry]) -> u32 {
    entries.sort_unstable_by_key(|entry| entry.asked);
    let mut last = 0;
    for entry in entries {
        last += 1;
        entry.asked = last;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn all(watched: &Watched) -> Vec<u32> {
        watched.users.iter().map(|entry| entry.user).collect()
    }

    #[test]
    fn beyond_the_bound_those_asked_about_longest_ago_give_way() {
        let mut watched = Watched::default();
        for users in (1..=3_000_u32).collect::<Vec<_>>().chunks(300) {
            watched.ask(users, 1_000);
        }
        assert_eq!(all(&watched), (2_001..=3_000).collect::<Vec<_>>());
        // Asking again makes them new.
        watched.ask(&[2_001], 1_000);
        watched.ask(&[7], 1_000);
        let watched = all(&watched);
        assert!(watched.contains(&2_001) && watched.contains(&7) && !watched.contains(&2_002));
        assert_eq!(watched.len(), 1_000);
    }

    #[test]
    fn of_a_question_about_more_than_the_bound_the_last_stay() {
        let mut watched = Watched::default();
        watched.ask(&(1..=50).collect::<Vec<_>>(), 20);
        assert_eq!(all(&watched), (31..=50).collect::<Vec<_>>());
        watched.ask(&[60], 0);
        assert!(all(&watched).is_empty());
    }

    #[test]
    fn a_client_that_asks_for_ever_is_served_for_ever() {
        let mut watched = Watched::default();
        watched.ask(&[1, 2, 3], 3);
        for entry in &mut watched.users {
            entry.asked += u32::MAX - 4;
        }
        for user in 4..=9 {
            watched.ask(&[user], 3);
            assert_eq!(all(&watched), (user - 2..=user).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_client_that_asks_about_nobody_takes_no_memory_and_others_take_eight_bytes_for_each() {
        assert!(size_of::<Watched>() <= 16 && size_of::<Entry>() == 8);
        let nobody = Watched::default();
        assert!(nobody.among(&[(1, ()), (2, ())]).is_empty());
        let mut some = Watched::default();
        some.ask(&[5, 6, 5], 100);
        assert_eq!(some.users.len(), 2);
        assert_eq!(some.among(&[(4, ()), (5, ()), (7, ())]), [&(5, ())]);
    }

    proptest! {
        #[test]
        fn a_list_in_order_of_the_questions_comes_to_the_same(
            questions in prop::collection::vec(prop::collection::vec(0_u32..30, 0..12), 0..12),
            max in 1_usize..15,
        ) {
            let (mut watched, mut list) = (Watched::default(), VecDeque::new());
            for users in questions {
                watched.ask(&users, max);
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
