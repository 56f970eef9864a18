//! The messages that storage has not answered yet.
//!
//! Pure: time is an argument, and whoever waits for the answer is a type of the caller's.
//!
//! # Invariants
//!
//! - One entry for each `(sender, client_msg_id)`: a repeat only changes who waits for the answer.
//! - Whenever messages are handed over again, it is in the order in which they first came.
//! - While a message of one sender waits to be tried again, no later one of the same sender and
//!   conversation is handed over before it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proto::cluster::wire::Submit;
use proto::ids::ClientMsgId;
use tokio::time::Instant;

/// The wait before the second try; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// What identifies a message until it has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The sender's number.
    pub sender: u32,
    /// The sender's name for it.
    pub id: ClientMsgId,
}

/// One unanswered message. `W` says who waits.
#[derive(Debug)]
pub(super) struct Entry<W> {
    pub(super) submit: Submit,
    pub(super) waiter: W,
    order: u64,
    since: Instant,
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<W> {
    /// It is to be handed over.
    Submit,
    /// It waits behind an earlier one.
    Waits,
    /// It is there already; this one waited for its answer before.
    Repeated(W),
    /// Another message is there under its name. Given back.
    Reused(Box<Submit>, W),
}

/// A sender and a conversation: what is said there must stay in order.
type Line = (u32, u64);

/// The unanswered messages of one line.
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
    lines: HashMap<Line, Unanswered>,
    /// How many messages wait to be tried again.
    waiting: usize,
    next_order: u64,
    bytes: usize,
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self { entries: HashMap::new(), lines: HashMap::new(), waiting: 0, next_order: 0, bytes: 0 }
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
        let line = self.lines.entry((key.sender, submit.conversation)).or_default();
        let behind = line.waiting > 0;
        if behind {
            line.waiting += 1;
            self.waiting += 1;
        }
        self.bytes += submit.body.len();
        let retry_at = behind.then_some(now + FIRST_RETRY);
        let order = self.next_order;
        self.next_order += 1;
        line.keys.push_back((order, key));
        let entry = Entry { submit, waiter, order, since: now, retry_at, next_wait: FIRST_RETRY };
        self.entries.insert(key, entry);
        if behind { Put::Waits } else { Put::Submit }
    }

    /// Takes a message out: it was answered, or given up.
    pub(super) fn take(&mut self, key: &Key) -> Option<Entry<W>> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.submit.body.len();
        let line = (key.sender, entry.submit.conversation);
        if let Some(unanswered) = self.lines.get_mut(&line) {
            let place = unanswered.keys.binary_search_by_key(&entry.order, |(order, _key)| *order);
            if let Ok(place) = place {
                unanswered.keys.remove(place);
            }
            if entry.retry_at.is_some() {
                unanswered.waiting -= 1;
                self.waiting -= 1;
            }
            if unanswered.keys.is_empty() {
                self.lines.remove(&line);
            }
        }
        Some(entry)
    }

    /// Lets a message wait: storage could not take it. Whether there is such a message.
    pub(super) fn retry_later(&mut self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.is_handed_over_again();
        let was_waiting = entry.retry_at.replace(now + entry.next_wait).is_some();
        entry.next_wait = (entry.next_wait * 2).min(LAST_RETRY);
        let line = (key.sender, entry.submit.conversation);
        if !was_waiting && let Some(unanswered) = self.lines.get_mut(&line) {
            unanswered.waiting += 1;
            self.waiting += 1;
        }
        true
    }

    /// The messages whose time has come to be tried again, and those that wait behind them, in
    /// order. None of them waits any more.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let due = self
            .entries
            .iter()
            .filter(|(_key, entry)| entry.retry_at.is_some_and(|retry_at| retry_at <= now));
        let mut lines: Vec<(u32, u64)> =
            due.map(|(key, entry)| (key.sender, entry.submit.conversation)).collect();
        lines.sort_unstable();
        lines.dedup();
        self.release(|line| lines.binary_search(line).is_ok())
    }

    /// All messages of the conversations that are meant, in order, because the one who had them may
    /// have forgotten them. Each is marked as a repeat, and none waits any more.
    pub(super) fn all_again(&mut self, is_meant: impl Fn(u64) -> bool) -> Vec<Key> {
        self.release(|(_sender, conversation)| is_meant(*conversation));
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

    /// Ends the waiting of whole lines, and names their waiting messages in order.
    fn release(&mut self, is_released: impl Fn(&(u32, u64)) -> bool) -> Vec<Key> {
        let mut released = Vec::new();
        for (key, entry) in &mut self.entries {
            let line = (key.sender, entry.submit.conversation);
            if entry.retry_at.is_some() && is_released(&line) {
                entry.retry_at = None;
                released.push((entry.order, *key));
            }
        }
        for (_line, unanswered) in self.lines.iter_mut().filter(|(line, _)| is_released(line)) {
            self.waiting -= unanswered.waiting;
            unanswered.waiting = 0;
        }
        released.sort_unstable_by_key(|(order, _key)| *order);
        released.into_iter().map(|(_order, key)| key).collect()
    }

    /// The messages that have been unanswered for `limit`, and all that came behind one of them in
    /// its line, in order: stored before it, they would have overtaken it when it is sent again.
    pub(super) fn older_than(&self, limit: Duration, now: Instant) -> Vec<Key> {
        let mut old = Vec::new();
        for unanswered in self.lines.values() {
            let is_old =
                |key: &Key| self.entries.get(key).is_some_and(|entry| now - entry.since >= limit);
            // A repeat keeps its place, so the first of a line is its oldest.
            if unanswered.keys.front().is_some_and(|(_order, key)| is_old(key)) {
                old.extend(unanswered.keys.iter().copied());
            }
        }
        old.sort_unstable_by_key(|(order, _key)| *order);
        old.into_iter().map(|(_order, key)| key).collect()
    }

    /// A message and all that came behind it in its line, in order.
    pub(super) fn from(&self, key: &Key) -> Vec<Key> {
        let Some(entry) = self.entries.get(key) else { return Vec::new() };
        let line = self.lines.get(&(key.sender, entry.submit.conversation));
        let keys = line.into_iter().flat_map(|line| &line.keys);
        keys.filter(|(order, _key)| *order >= entry.order).map(|(_order, key)| *key).collect()
    }

    /// What is handed over to an owner in this epoch: with whether anything of the message's line is
    /// unanswered before it.
    pub(super) fn addressed(&mut self, key: &Key, epoch: u64, now: Instant) -> Option<&Submit> {
        let entry = self.entries.get_mut(key)?;
        let line = self.lines.get(&(key.sender, entry.submit.conversation));
        let first = line.and_then(|line| line.keys.front());
        entry.submit.first = Some(first.is_some_and(|(order, _key)| *order == entry.order));
        entry.submit.epoch = Some(epoch);
        if entry.submit.resend() && entry.submit.fingerprint.is_some() {
            let waited = now.saturating_duration_since(entry.since).as_millis();
            entry.submit.waited_ms = u64::try_from(waited).ok();
        }
        Some(&entry.submit)
    }

    /// Whether there is a message in a line of which this is true.
    pub(super) fn any_in_line(
        &self,
        sender: u32,
        conversation: u64,
        is_it: impl Fn(&Entry<W>) -> bool,
    ) -> bool {
        let line = self.lines.get(&(sender, conversation));
        let mut keys = line.into_iter().flat_map(|line| &line.keys);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(sender: u32, id: u8) -> Key {
        Key { sender, id: ClientMsgId([id; 16]) }
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
    fn a_repeat_changes_only_who_waits() {
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
    fn whoever_is_given_up_takes_those_behind_him_along() {
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

    /// The counts that save a look at everything are those of what there is.
    fn check_counts(table: &Table<()>) {
        let waiting = |of: &dyn Fn(&Key, &Entry<()>) -> bool| {
            let waits =
                |(key, entry): &(&Key, &Entry<()>)| entry.retry_at.is_some() && of(key, entry);
            table.entries.iter().filter(waits).count()
        };
        assert_eq!(table.waiting, waiting(&|_key, _entry| true));
        for (line, unanswered) in &table.lines {
            let is_of =
                |key: &Key, entry: &Entry<()>| (key.sender, entry.submit.conversation) == *line;
            assert_eq!(unanswered.waiting, waiting(&is_of), "{line:?}");
            assert!(!unanswered.keys.is_empty(), "{line:?} has nothing");
        }
        let lines = table.lines.values().map(|unanswered| unanswered.keys.len());
        assert_eq!(lines.sum::<usize>(), table.entries.len());
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
                        // Storage refuses one and, as it does, everything it was given after.
                        let from = choice % with_storage.len();
                        for id in with_storage.split_off(from) {
                            table.retry_later(&key(1, id), now);
                            handed.retain(|other| *other != id);
                        }
                    }
                    3 => {
                        // Another owner: whatever the one before had is with nobody now.
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
}
