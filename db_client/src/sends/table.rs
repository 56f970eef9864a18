//! The messages that storage has not answered yet.
//!
//! Pure: time is an argument, and what waits for an answer has a type that the caller chooses.
//!
//! # Invariants
//!
//! - One entry for each `(sender, client_msg_id)`: a repeat only replaces what waits for the answer.
//! - Whenever messages are handed over again, it is in the order in which they first came.
//! - While a message of one sender waits to be tried again, no later one of the same sender and
//!   conversation is handed over before it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proto::cluster::wire::Submit;
use proto::ids::{ClientMsgId, UserId};
use tokio::time::Instant;

/// The wait before the second try; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// What identifies a message until it has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The sender's number.
    pub sender: UserId,
    /// The sender's name for it.
    pub id: ClientMsgId,
}

/// One unanswered message. `W` is the type of what waits for the answer.
#[derive(Debug)]
pub(super) struct Entry<W> {
    pub(super) submit: Submit,
    pub(super) waiter: W,
    order: u64,
    pub(super) since: Instant,
    /// When it is handed over again; `None` while storage has it.
    retry_at: Option<Instant>,
    next_wait: Duration,
}

impl<W> Entry<W> {
    /// It may be stored already. And while it waited, its client may have repeated its frame
    /// elsewhere.
    fn is_handed_over_again(&mut self) {
        self.submit.resend = Some(true);
        if self.submit.fingerprint.is_some() {
            self.submit.may_repeat = Some(true);
        }
    }
}

/// What became of a message that was put into the table.
#[derive(Debug, PartialEq)]
pub(super) enum Put<W> {
    /// It is to be handed over.
    Submit,
    /// It waits behind an earlier one.
    Waits,
    /// It is there already. This is what waited for its answer before.
    Repeated(W),
    /// Another message is there under its name. The message and its waiter are given back.
    Reused(Box<Submit>, W),
}

/// What is said in one queue must stay in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Queue {
    pub(super) sender: UserId,
    /// Its number, as it stands in the messages.
    pub(super) conversation: u64,
}

/// The unanswered messages of one queue.
#[derive(Debug, Default)]
struct Unanswered {
    /// In order.
    keys: VecDeque<(u64, Key)>,
    /// How many of them wait to be tried again.
    waiting: usize,
}

/// The unanswered messages.
#[derive(Debug)]
pub(super) struct Table<W> {
    entries: HashMap<Key, Entry<W>>,
    queues: HashMap<Queue, Unanswered>,
    /// How many messages wait to be tried again.
    waiting: usize,
    next_order: u64,
    bytes: usize,
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            queues: HashMap::new(),
            waiting: 0,
            next_order: 0,
            bytes: 0,
        }
    }
}

impl<W> Table<W> {
    /// Takes a message in.
    pub(super) fn put(&mut self, key: Key, submit: Submit, waiter: W, now: Instant) -> Put<W> {
        if let Some(entry) = self.entries.get_mut(&key) {
            let (old, new) = (&entry.submit, &submit);
            let is_same = (old.conversation, old.r#type) == (new.conversation, new.r#type)
                && old.body == new.body;
            if !is_same {
                return Put::Reused(Box::new(submit), waiter);
            }
            return Put::Repeated(std::mem::replace(&mut entry.waiter, waiter));
        }
        let queue = self.queues.entry(queue_of(&key, &submit)).or_default();
        let behind = queue.waiting > 0;
        if behind {
            queue.waiting += 1;
            self.waiting += 1;
        }
        self.bytes += submit.body.len();
        let retry_at = behind.then_some(now + FIRST_RETRY);
        let order = self.next_order;
        self.next_order += 1;
        queue.keys.push_back((order, key));
        let entry = Entry { submit, waiter, order, since: now, retry_at, next_wait: FIRST_RETRY };
        self.entries.insert(key, entry);
        if behind { Put::Waits } else { Put::Submit }
    }

    /// Takes a message out: it was answered, or given up.
    pub(super) fn take(&mut self, key: &Key) -> Option<Entry<W>> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.submit.body.len();
        let queue = queue_of(key, &entry.submit);
        if let Some(unanswered) = self.queues.get_mut(&queue) {
            let place = unanswered.keys.binary_search_by_key(&entry.order, |(order, _key)| *order);
            if let Ok(place) = place {
                unanswered.keys.remove(place);
            }
            if entry.retry_at.is_some() {
                unanswered.waiting -= 1;
                self.waiting -= 1;
            }
            if unanswered.keys.is_empty() {
                self.queues.remove(&queue);
            }
        }
        Some(entry)
    }

    /// Lets a message wait: storage could not take it. Returns whether there is such a message.
    pub(super) fn retry_later(&mut self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.is_handed_over_again();
        let was_waiting = entry.retry_at.replace(now + entry.next_wait).is_some();
        entry.next_wait = (entry.next_wait * 2).min(LAST_RETRY);
        let queue = queue_of(key, &entry.submit);
        if !was_waiting && let Some(unanswered) = self.queues.get_mut(&queue) {
            unanswered.waiting += 1;
            self.waiting += 1;
        }
        true
    }

    /// The messages whose time has come to be tried again, and those that wait behind them, in
    /// order. From then on none of them counts as waiting.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let due = self
            .entries
            .iter()
            .filter(|(_key, entry)| entry.retry_at.is_some_and(|retry_at| retry_at <= now));
        let mut queues: Vec<Queue> = due.map(|(key, entry)| queue_of(key, &entry.submit)).collect();
        queues.sort_unstable();
        queues.dedup();
        self.release(|queue| queues.binary_search(queue).is_ok())
    }

    /// All messages of the conversations that are meant, in order, because the owner that had them may
    /// have forgotten them. Each is marked as a repeat, and none counts as waiting from then on.
    pub(super) fn all_again(&mut self, is_meant: impl Fn(u64) -> bool) -> Vec<Key> {
        self.release(|queue| is_meant(queue.conversation));
        let mut keys = Vec::new();
        for (key, entry) in &mut self.entries {
            if is_meant(entry.submit.conversation) {
                entry.is_handed_over_again();
                keys.push((entry.order, *key));
            }
        }
        keys.sort_unstable_by_key(|(order, _key)| *order);
        keys.into_iter().map(|(_order, key)| key).collect()
    }

    /// Ends the waiting of whole queues, and names their waiting messages in order.
    fn release(&mut self, is_released: impl Fn(&Queue) -> bool) -> Vec<Key> {
        let mut released = Vec::new();
        for (key, entry) in &mut self.entries {
            let queue = queue_of(key, &entry.submit);
            if entry.retry_at.is_some() && is_released(&queue) {
                entry.retry_at = None;
                released.push((entry.order, *key));
            }
        }
        for (_queue, unanswered) in self.queues.iter_mut().filter(|(queue, _)| is_released(queue)) {
            self.waiting -= unanswered.waiting;
            unanswered.waiting = 0;
        }
        released.sort_unstable_by_key(|(order, _key)| *order);
        released.into_iter().map(|(_order, key)| key).collect()
    }

    /// The messages that have been unanswered for `limit`, and all that came behind one of them in
    /// its queue, in order. If those behind it were stored first, they would overtake it when it is
    /// sent again.
    pub(super) fn older_than(&self, limit: Duration, now: Instant) -> Vec<Key> {
        let mut old = Vec::new();
        for unanswered in self.queues.values() {
            let is_old =
                |key: &Key| self.entries.get(key).is_some_and(|entry| now - entry.since >= limit);
            // A repeat keeps its place, so the first of a queue is its oldest.
            if unanswered.keys.front().is_some_and(|(_order, key)| is_old(key)) {
                old.extend(unanswered.keys.iter().copied());
            }
        }
        old.sort_unstable_by_key(|(order, _key)| *order);
        old.into_iter().map(|(_order, key)| key).collect()
    }

    /// A message and all that came behind it in its queue, in order.
    pub(super) fn from(&self, key: &Key) -> Vec<Key> {
        let Some(entry) = self.entries.get(key) else { return Vec::new() };
        let queue = self.queues.get(&queue_of(key, &entry.submit));
        let keys = queue.into_iter().flat_map(|queue| &queue.keys);
        keys.filter(|(order, _key)| *order >= entry.order).map(|(_order, key)| *key).collect()
    }

    /// The message as it is handed over to the owner of this epoch. It says whether a message
    /// before it in its queue is unanswered.
    pub(super) fn addressed(&mut self, key: &Key, epoch: u64, now: Instant) -> Option<&Submit> {
        let entry = self.entries.get_mut(key)?;
        let queue = self.queues.get(&queue_of(key, &entry.submit));
        let first = queue.and_then(|queue| queue.keys.front());
        entry.submit.first = Some(first.is_some_and(|(order, _key)| *order == entry.order));
        entry.submit.epoch = Some(epoch);
        if entry.submit.resend() && entry.submit.fingerprint.is_some() {
            let waited = now.saturating_duration_since(entry.since).as_millis();
            entry.submit.waited_ms = u64::try_from(waited).ok();
        }
        Some(&entry.submit)
    }

    /// Whether there is a message in a queue of which this is true.
    pub(super) fn any_in_queue(&self, queue: Queue, is_it: impl Fn(&Entry<W>) -> bool) -> bool {
        let queue = self.queues.get(&queue);
        let mut keys = queue.into_iter().flat_map(|queue| &queue.keys);
        keys.any(|(_order, key)| self.entries.get(key).is_some_and(&is_it))
    }

    /// A message.
    pub(super) fn entry(&self, key: &Key) -> Option<&Entry<W>> {
        self.entries.get(key)
    }

    /// What would be handed over under this name.
    pub(super) fn submit(&self, key: &Key) -> Option<&Submit> {
        self.entries.get(key).map(|entry| &entry.submit)
    }

    /// How many there are, and the bytes of their bodies.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}

/// The queue that a message is in.
fn queue_of(key: &Key, submit: &Submit) -> Queue {
    Queue { sender: key.sender, conversation: submit.conversation }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(sender: u32, id: u8) -> Key {
        Key { sender: UserId(sender), id: ClientMsgId([id; 16]) }
    }

    fn submit(conversation: u64) -> Submit {
        Submit { conversation, body: vec![0; 10].into(), ..Submit::default() }
    }

    #[test]
    fn what_is_unanswered_goes_again_in_the_order_it_came() {
        let (mut table, now) = (Table::default(), Instant::now());
        for id in 1..=9 {
            assert_eq!(table.put(key(1, id), submit(u64::from(id % 3)), (), now), Put::Submit);
        }
        table.take(&key(1, 4)).unwrap();
        let ids = |keys: Vec<Key>| keys.iter().map(|key| key.id.0[0]).collect::<Vec<u8>>();
        assert_eq!(ids(table.all_again(|conversation| conversation != 1)), [2, 3, 5, 6, 8, 9]);
        assert!(table.submit(&key(1, 2)).unwrap().resend());
        assert!(!table.submit(&key(1, 1)).unwrap().resend(), "elsewhere");
        assert_eq!(ids(table.all_again(|_conversation| true)), [1, 2, 3, 5, 6, 7, 8, 9]);
        assert!(table.submit(&key(1, 1)).unwrap().resend());
    }

    #[test]
    fn what_was_handed_back_waits_with_its_line_until_all_of_it_goes_again() {
        let (mut table, now) = (Table::default(), Instant::now());
        for (id, conversation) in [(1, 7), (2, 7), (3, 8)] {
            table.put(key(1, id), submit(conversation), (), now);
        }
        for id in [1, 2, 3] {
            table.retry_later(&key(1, id), now);
        }
        assert_eq!(table.put(key(1, 4), submit(7), (), now), Put::Waits);
        let again = table.all_again(|conversation| conversation == 7);
        assert_eq!(again, [key(1, 1), key(1, 2), key(1, 4)]);
        assert_eq!(table.put(key(1, 5), submit(7), (), now), Put::Submit);
        assert_eq!(table.put(key(1, 6), submit(8), (), now), Put::Waits, "still without an owner");
    }

    #[test]
    fn nothing_of_the_same_sender_overtakes_a_message_that_waits() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.put(key(1, 1), submit(7), (), now);
        assert!(table.retry_later(&key(1, 1), now));
        assert_eq!(table.put(key(1, 2), submit(7), (), now), Put::Waits);
        assert_eq!(table.put(key(1, 3), submit(8), (), now), Put::Submit, "elsewhere");
        assert_eq!(table.put(key(2, 4), submit(7), (), now), Put::Submit, "somebody else");

        assert!(table.due(now + FIRST_RETRY / 2).is_empty());
        assert_eq!(table.due(now + FIRST_RETRY), [key(1, 1), key(1, 2)]);
        assert_eq!(table.put(key(1, 5), submit(7), (), now), Put::Submit, "nobody waits any more");
        assert!(table.due(now + FIRST_RETRY * 9).is_empty());
    }

    #[test]
    fn waits_grow_and_end_when_the_answer_comes() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.put(key(1, 1), submit(7), (), now);
        table.retry_later(&key(1, 1), now);
        table.due(now + FIRST_RETRY);
        table.retry_later(&key(1, 1), now);
        assert!(table.due(now + FIRST_RETRY).is_empty(), "the second wait is longer");
        table.take(&key(1, 1)).unwrap();
        assert_eq!(table.put(key(1, 2), submit(7), (), now), Put::Submit);
        assert_eq!(table.size(), (1, 10));
    }

    #[test]
    fn a_repeat_changes_only_what_waits_for_the_answer() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert_eq!(table.put(key(1, 1), submit(7), "old", now), Put::Submit);
        assert_eq!(table.put(key(1, 1), submit(7), "new", now), Put::Repeated("old"));
        assert_eq!(table.take(&key(1, 1)).unwrap().waiter, "new");
        assert_eq!(table.size(), (0, 0));
    }

    #[test]
    fn what_is_never_answered_is_found_by_its_age() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.put(key(1, 1), submit(7), (), now);
        let limit = Duration::from_secs(10);
        assert!(table.older_than(limit, now + limit / 2).is_empty());
        assert_eq!(table.older_than(limit, now + limit), [key(1, 1)]);
    }

    #[test]
    fn a_message_that_is_given_up_takes_those_behind_it_along() {
        let (mut table, now) = (Table::default(), Instant::now());
        let limit = Duration::from_secs(10);
        table.put(key(1, 1), submit(7), (), now);
        table.put(key(1, 2), submit(8), (), now + limit / 2);
        table.put(key(1, 3), submit(7), (), now + limit / 2);
        assert_eq!(table.older_than(limit, now + limit), [key(1, 1), key(1, 3)]);
        assert_eq!(table.from(&key(1, 3)), [key(1, 3)]);
    }

    #[test]
    fn the_first_of_a_line_is_the_one_with_nothing_unanswered_before_it() {
        let (mut table, now) = (Table::default(), Instant::now());
        for id in 1..=2 {
            table.put(key(1, id), submit(7), (), now);
            table.addressed(&key(1, id), 3, now).unwrap();
        }
        assert!(table.submit(&key(1, 1)).unwrap().first());
        assert!(!table.submit(&key(1, 2)).unwrap().first());
        table.take(&key(1, 1)).unwrap();
        table.addressed(&key(1, 2), 3, now).unwrap();
        assert!(table.submit(&key(1, 2)).unwrap().first());
    }

    /// The running counts equal what counting all entries gives.
    fn check_counts(table: &Table<()>) {
        let waiting = |of: &dyn Fn(&Key, &Entry<()>) -> bool| {
            let waits =
                |(key, entry): &(&Key, &Entry<()>)| entry.retry_at.is_some() && of(key, entry);
            table.entries.iter().filter(waits).count()
        };
        assert_eq!(table.waiting, waiting(&|_key, _entry| true));
        for (queue, unanswered) in &table.queues {
            let is_of = |key: &Key, entry: &Entry<()>| queue_of(key, &entry.submit) == *queue;
            assert_eq!(unanswered.waiting, waiting(&is_of), "{queue:?}");
            assert!(!unanswered.keys.is_empty(), "{queue:?} has nothing");
        }
        let queues = table.queues.values().map(|unanswered| unanswered.keys.len());
        assert_eq!(queues.sum::<usize>(), table.entries.len());
        let bytes = table.entries.values().map(|entry| entry.submit.body.len());
        assert_eq!(table.size(), (table.entries.len(), bytes.sum()));
    }

    #[test]
    fn when_what_waited_is_answered_nothing_waits_behind_it() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert_eq!(table.put(key(1, 1), submit(7), (), now), Put::Submit);
        assert_eq!(table.put(key(1, 2), submit(7), (), now), Put::Submit);
        assert!(table.retry_later(&key(1, 1), now));
        assert_eq!(table.put(key(1, 3), submit(7), (), now), Put::Waits);
        check_counts(&table);
        table.take(&key(1, 1)).unwrap();
        table.take(&key(1, 3)).unwrap();
        check_counts(&table);
        assert_eq!(table.put(key(1, 4), submit(7), (), now), Put::Submit);
        assert!(table.due(now + LAST_RETRY).is_empty());
        assert!(table.take(&key(1, 3)).is_none());
    }

    proptest! {
        #[test]
        fn a_line_is_never_handed_over_out_of_order(
            steps in prop::collection::vec((0_u8..6, 0_usize..8), 1..60),
        ) {
            let (mut table, start) = (Table::default(), Instant::now());
            let (mut now, mut next, mut with_storage) = (start, 0_u8, Vec::<u8>::new());
            let mut handed = Vec::<u8>::new();
            for (step, choice) in steps {
                now += Duration::from_millis(100);
                let mut given: Vec<u8> = Vec::new();
                match step {
                    0 | 1 => {
                        next += 1;
                        if table.put(key(1, next), submit(7), (), now) == Put::Submit {
                            given.push(next);
                        }
                    }
                    2 if !with_storage.is_empty() => {
                        // Storage refuses one message and, as a real one does, all it was given
                        // after that.
                        let from = choice % with_storage.len();
                        for id in with_storage.split_off(from) {
                            table.retry_later(&key(1, id), now);
                            handed.retain(|other| *other != id);
                        }
                    }
                    3 => {
                        // Another owner: what the earlier owner had is lost.
                        with_storage.clear();
                        handed.clear();
                        given = table.all_again(|_all| true).iter().map(|key| key.id.0[0]).collect();
                        prop_assert_eq!(given.len(), table.size().0);
                    }
                    4 if !handed.is_empty() => {
                        // Storage answers one.
                        let id = handed.remove(choice % handed.len());
                        with_storage.retain(|other| *other != id);
                        table.take(&key(1, id)).unwrap();
                    }
                    _ => given = table.due(now).iter().map(|key| key.id.0[0]).collect(),
                }
                check_counts(&table);
                for id in given {
                    prop_assert!(handed.iter().all(|earlier| *earlier < id), "{id} after {handed:?}");
                    handed.push(id);
                    with_storage.push(id);
                }
            }
        }
    }

    #[test]
    fn another_kind_body_or_conversation_under_the_same_name_is_another_message() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.put(key(1, 1), submit(7), "first", now);
        let others = [
            submit(8),
            Submit { r#type: 2, ..submit(7) },
            Submit { body: vec![1; 10].into(), ..submit(7) },
        ];
        for other in others {
            let put = table.put(key(1, 1), other.clone(), "other", now);
            assert_eq!(put, Put::Reused(Box::new(other), "other"));
        }
        assert_eq!(table.put(key(2, 1), submit(8), "somebody else", now), Put::Submit);
        assert_eq!((table.entry(&key(1, 1)).unwrap().waiter, table.size()), ("first", (2, 20)));
    }

    #[test]
    fn each_wait_is_twice_as_long_as_the_last_up_to_the_longest() {
        let (mut table, mut now) = (Table::default(), Instant::now());
        table.put(key(1, 1), submit(7), (), now);
        for wait_ms in [200, 400, 800, 1_600, 2_000, 2_000] {
            assert!(table.retry_later(&key(1, 1), now));
            let wait = Duration::from_millis(wait_ms);
            assert!(table.due(now + wait - Duration::from_millis(1)).is_empty(), "{wait_ms}");
            now += wait;
            assert_eq!(table.due(now), [key(1, 1)], "{wait_ms}");
        }
        assert!(!table.retry_later(&key(1, 2), now), "there is none");
    }

    /// A frame may have been repeated while its message waited, which its owner must look for.
    #[test]
    fn a_frame_that_goes_again_says_how_long_it_waited_and_that_it_may_repeat_another() {
        let (mut table, now) = (Table::default(), Instant::now());
        let framed = Submit { fingerprint: Some(5), ..submit(7) };
        table.put(key(1, 1), framed, (), now);
        table.put(key(1, 2), submit(8), (), now);
        let later = now + Duration::from_millis(1_500);
        for id in [1, 2] {
            let submit = table.addressed(&key(1, id), 3, later).unwrap();
            assert_eq!((submit.waited_ms, submit.may_repeat), (None, None), "{id} is new");
        }
        table.all_again(|_conversation| true);
        let submit = table.addressed(&key(1, 1), 4, later).unwrap();
        assert_eq!((submit.waited_ms, submit.may_repeat), (Some(1_500), Some(true)));
        assert_eq!(submit.epoch, Some(4));
        let submit = table.addressed(&key(1, 2), 4, later).unwrap();
        assert_eq!((submit.waited_ms, submit.may_repeat), (None, None), "it has a name");
        assert!(table.addressed(&key(1, 3), 4, later).is_none());
    }
}
