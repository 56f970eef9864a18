//! What is due when.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::message::Conversation;

/// What is to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The answer to this seq has not come.
    Answer(u16),
    /// The pause of a conversation's messages is over.
    Lane(Conversation),
    /// A gap had its time to close by itself.
    Gap(Conversation),
    /// The newest message of a conversation is to be asked for again.
    Head(Conversation),
    /// The server must hear from us.
    Heartbeat,
    /// The list of conversations is to be asked for again.
    Sync,
}

/// Names one timer, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey(Instant, u64);

/// All timers of a client.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<TimerKey, Due>,
    count: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, due: Due) -> TimerKey {
        self.count += 1;
        let key = TimerKey(at, self.count);
        self.queue.insert(key, due);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        self.queue.remove(&key);
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Waits until something is due; for ever if nothing will be. Cancel-safe.
    pub(super) async fn next(&self) {
        match self.queue.first_key_value() {
            Some((&TimerKey(at, _), _)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Takes out one thing that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn things_fall_due_in_the_order_of_their_times() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(now + Duration::from_secs(2), Due::Heartbeat);
        timers.set(now, Due::Answer(1));
        let cancelled = timers.set(now, Due::Answer(2));
        timers.set(now, Due::Sync);
        timers.cancel(cancelled);
        assert_eq!(timers.pop(now), Some(Due::Answer(1)));
        assert_eq!(timers.pop(now), Some(Due::Sync));
        assert_eq!(timers.pop(now), None);
        assert_eq!(timers.pop(now + Duration::from_secs(2)), Some(Due::Heartbeat));
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn the_next_thing_is_waited_for_and_nothing_for_ever() {
        let began = Instant::now();
        let mut timers = Timers::default();
        for seconds in [3, 2, 5] {
            timers.set(began + Duration::from_secs(seconds), Due::Sync);
        }
        timers.next().await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        timers.clear();
        assert_eq!(timers.pop(began + Duration::from_secs(9)), None);
        let waited = tokio::time::timeout(Duration::from_mins(10), timers.next()).await;
        assert!(waited.is_err(), "there is nothing to wait for");
    }
}
