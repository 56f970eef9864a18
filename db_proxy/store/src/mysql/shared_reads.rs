//! What several partitions of one database are asked for at the same time, read at once.
//!
//! A login asks every partition for the user's conversations, and each partition is asked by itself,
//! as its owner knows what is not stored yet. Those that are in one database would be one query each.
//! Here the first of them lets the others come, for one turn of the runtime, and then reads for all.
//!
//! # Invariants
//!
//! - A read serves only requests that came before it began: no request gets an answer that is older than
//!   itself.
//! - Each partition gets its own, and what is read for one user is given to no other.
//! - A request that waits for a read that was given up reads for itself.

use std::collections::hash_map::{Entry, HashMap};
use std::mem;

use parking_lot::Mutex;
use proto::ids::UserId;
use tokio::sync::oneshot;

use crate::StoreError;

/// What one partition gets.
type Found<T> = Result<Vec<T>, StoreError>;

/// The reads of one database that have not begun yet: one for each user at most. Each of them, and
/// each that waits for one, is a request that is being answered, and their number is bounded.
#[derive(Debug)]
pub(super) struct SharedReads<T> {
    open: Mutex<HashMap<UserId, Waiting<T>>>,
}

/// The partitions of a read that has not begun.
#[derive(Debug)]
struct Waiting<T> {
    /// The partition that reads.
    first: u32,
    /// Those that it reads for.
    others: HashMap<u32, oneshot::Sender<Found<T>>>,
}

/// How one partition gets what it asks for.
enum Part<'a, T> {
    /// It reads, for others too.
    First(Opened<'a, T>),
    /// Another reads for it.
    Other(oneshot::Receiver<Found<T>>),
    /// It is being asked twice: it reads for itself.
    Alone,
}

/// A read that others may still join. If this is dropped before the read begins, there is no such read.
struct Opened<'a, T> {
    shared_reads: &'a SharedReads<T>,
    user: UserId,
    is_open: bool,
}

impl<T> Default for SharedReads<T> {
    fn default() -> Self {
        Self { open: Mutex::default() }
    }
}

impl<T> SharedReads<T> {
    /// What `part` has of `user`. `all` reads what some partitions have, each row with its partition.
    pub(super) async fn read<F>(
        &self,
        user: UserId,
        part: u32,
        all: impl FnOnce(Vec<u32>) -> F,
    ) -> Found<T>
    where
        F: Future<Output = Result<Vec<(u32, T)>, StoreError>>,
    {
        loop {
            match self.join(user, part) {
                Part::First(opened) => {
                    // A request for several partitions asks them one after the other without a wait.
                    tokio::task::yield_now().await;
                    let others = opened.begin();
                    let parts = [part].into_iter().chain(others.keys().copied()).collect();
                    return hand_out(all(parts).await, part, others);
                }
                Part::Other(found) => {
                    if let Ok(found) = found.await {
                        return found;
                    }
                }
                Part::Alone => return hand_out(all(vec![part]).await, part, HashMap::new()),
            }
        }
    }

    fn join(&self, user: UserId, part: u32) -> Part<'_, T> {
        match self.open.lock().entry(user) {
            Entry::Vacant(entry) => {
                entry.insert(Waiting { first: part, others: HashMap::new() });
                Part::First(Opened { shared_reads: self, user, is_open: true })
            }
            Entry::Occupied(mut entry) => {
                let Waiting { first, others } = entry.get_mut();
                if *first == part || others.contains_key(&part) {
                    return Part::Alone;
                }
                let (hand_out, found) = oneshot::channel();
                others.insert(part, hand_out);
                Part::Other(found)
            }
        }
    }
}

impl<T> Opened<'_, T> {
    /// No other joins from here on. Returns those that have.
    fn begin(mut self) -> HashMap<u32, oneshot::Sender<Found<T>>> {
        self.close()
    }

    fn close(&mut self) -> HashMap<u32, oneshot::Sender<Found<T>>> {
        // Once closed, what is there of this user is another read.
        let waiting = mem::take(&mut self.is_open)
            .then(|| self.shared_reads.open.lock().remove(&self.user))
            .flatten();
        waiting.map(|waiting| waiting.others).unwrap_or_default()
    }
}

impl<T> Drop for Opened<'_, T> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Gives the others theirs, and returns what `part` has.
fn hand_out<T>(
    read: Result<Vec<(u32, T)>, StoreError>,
    part: u32,
    others: HashMap<u32, oneshot::Sender<Found<T>>>,
) -> Found<T> {
    let mut of_parts: HashMap<u32, Vec<T>> = HashMap::new();
    let read = read.map(|rows| {
        for (part, row) in rows {
            of_parts.entry(part).or_default().push(row);
        }
    });
    for (other, waiting) in others {
        let found = read.clone().map(|()| of_parts.remove(&other).unwrap_or_default());
        // One that has stopped waiting needs nothing.
        drop(waiting.send(found));
    }
    read.map(|()| of_parts.remove(&part).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join_all, pending, ready};
    use futures_util::poll;
    use parking_lot::Mutex;

    use super::*;

    const USER: UserId = UserId(1);

    /// A database that has one row for each partition, and knows what it was asked.
    #[derive(Default)]
    struct Database {
        shared_reads: SharedReads<String>,
        asked: Mutex<Vec<(u32, Vec<u32>)>>,
    }

    impl Database {
        async fn read(&self, user: UserId, part: u32) -> Result<Vec<String>, StoreError> {
            let all = |mut parts: Vec<u32>| {
                parts.sort_unstable();
                let row = |&part: &u32| (part, row(user, part));
                let rows = parts.iter().map(row).collect();
                self.asked.lock().push((user.0, parts));
                ready(Ok(rows))
            };
            self.shared_reads.read(user, part, all).await
        }

        fn asked(&self) -> Vec<(u32, Vec<u32>)> {
            assert!(self.shared_reads.open.lock().is_empty(), "nothing is left behind");
            mem::take(&mut *self.asked.lock())
        }
    }

    fn row(user: UserId, part: u32) -> String {
        format!("{part} of {user:?}")
    }

    #[tokio::test]
    async fn what_is_asked_for_at_the_same_time_is_read_at_once_and_each_gets_its_own() {
        let database = Database::default();
        for parts in [0..8, 0..1, 3..60] {
            let all = join_all(parts.clone().map(|part| database.read(USER, part))).await;
            for (part, found) in parts.clone().zip(all) {
                assert_eq!(found.unwrap(), [row(USER, part)]);
            }
            assert_eq!(database.asked(), [(1, parts.collect())]);
        }
    }

    #[tokio::test]
    async fn users_are_not_mixed_and_a_caller_that_asks_twice_is_answered_twice() {
        let database = Database::default();
        let asked = [(1, 4), (2, 4), (1, 5), (1, 4), (2, 7), (1, 5)];
        let all = asked.map(|(user, part)| database.read(UserId(user), part));
        for ((user, part), found) in asked.into_iter().zip(join_all(all).await) {
            assert_eq!(found.unwrap(), [row(UserId(user), part)]);
        }
        let mut reads = database.asked();
        reads.sort_unstable();
        assert_eq!(reads, [(1, vec![4]), (1, vec![4, 5]), (1, vec![5]), (2, vec![4, 7])]);
    }

    #[tokio::test]
    async fn a_caller_that_asks_after_a_read_has_begun_is_not_served_by_it() {
        let shared_reads = SharedReads::<u32>::default();
        let (begin, begun) = oneshot::channel::<()>();
        let slow = async |_parts| {
            begun.await.unwrap();
            Ok(vec![(0, 10), (1, 10)])
        };
        let mut first = Box::pin(shared_reads.read(USER, 0, slow));
        assert!(poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
        assert!(poll!(&mut first).is_pending(), "it reads");
        let later = shared_reads.read(USER, 1, |parts| {
            assert_eq!(parts, [1]);
            ready(Ok(vec![(1, 11)]))
        });
        assert_eq!(later.await.unwrap(), [11]);
        begin.send(()).unwrap();
        assert_eq!(first.await.unwrap(), [10]);
        assert!(shared_reads.open.lock().is_empty());
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_is_done_by_the_callers_that_wait_for_it() {
        for has_begun in [false, true] {
            let database = Database::default();
            let never = database.shared_reads.read(USER, 0, |_parts| pending());
            let mut never = Box::pin(never);
            assert!(poll!(&mut never).is_pending());
            let others = (1..4).map(|part| Box::pin(database.read(USER, part)));
            let mut others: Vec<_> = others.collect();
            for other in &mut others {
                assert!(poll!(other).is_pending());
            }
            if has_begun {
                tokio::task::yield_now().await;
                assert!(poll!(&mut never).is_pending());
                assert!(database.shared_reads.open.lock().is_empty());
            }
            drop(never);
            for (part, found) in (1..4).zip(join_all(others).await) {
                assert_eq!(found.unwrap(), [row(USER, part)]);
            }
            assert_eq!(database.asked(), [(1, vec![1, 2, 3])]);
        }
    }

    #[tokio::test]
    async fn a_read_that_fails_fails_for_all() {
        let shared_reads = SharedReads::<u32>::default();
        let reads = (0..3).map(|part| {
            shared_reads.read(USER, part, |_parts| {
                ready(Err(StoreError::Unavailable("the test says so".to_owned())))
            })
        });
        for found in join_all(reads).await {
            assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
        }
    }
}
