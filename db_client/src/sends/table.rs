//! The messages that storage has not answered yet.
//!
//! Pure: time is an argument, and what waits for an answer has a type that the caller chooses.
//!
//! # Invariants
//!
//! - One entry for each `(sender, client_msg_id)`: a repeat only replaces what waits for the answer.
//! - Whenever messages are handed over again, it is in the order in which they first came.
//! - While a message of one sender waits to be tried again, or for what hooks say, no later one of the same
//!   sender and conversation is handed over before it.
//! - A message that is only looked for may be handed over at any time: nothing comes of it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proto::cluster::wire::{HookVerdict, Submit};
use proto::ids::{ClientMsgId, UserId};
use proto::record::content_crc;
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

/// What is to happen to a message before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing, or nothing more.
    Ready,
    /// It may be stored already, and its owner looks whether it is. No hook is asked about what is.
    LookedFor,
    /// Hooks are asked.
    Asked,
}

/// Which question is meant: an answer to an earlier one, about a message that came again since, is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuestionId {
    pub(super) key: Key,
    order: u64,
}

/// One unanswered message. `W` is the type of what waits for the answer.
#[derive(Debug)]
pub(super) struct Entry<W> {
    pub(super) submit: Submit,
    pub(super) waiter: W,
    order: u64,
    pub(super) since: Instant,
    pub(super) stage: Stage,
    /// What the sender sent, if a hook has changed it.
    sent: Option<Bytes>,
    /// It waited for what hooks said.
    was_asked: bool,
    /// When it is handed over again; `None` while storage has it.
    retry_at: Option<Instant>,
    /// It waits only because one before it does.
    is_behind: bool,
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

    /// Whether those behind it in its queue wait for it.
    pub(super) fn holds(&self) -> bool {
        self.retry_at.is_some() || self.stage != Stage::Ready
    }

    /// The body that the sender sent.
    pub(super) fn sent(&self) -> &Bytes {
        self.sent.as_ref().unwrap_or(&self.submit.body)
    }

    fn bytes(&self) -> usize {
        self.submit.body.len() + self.sent.as_ref().map_or(0, Bytes::len)
    }
}

/// What became of a message that was put into the table.
#[derive(Debug, PartialEq)]
pub(super) enum Put<W> {
    /// It is to be handed over.
    Submit,
    /// It waits behind an earlier one.
    Waits,
    /// Hooks are to be asked.
    Ask(QuestionId),
    /// It is there already. This is what waited for its answer before.
    Repeated(W),
    /// Another message is there under its name. The message and its waiter are given back.
    Reused(Box<Submit>, W),
}

/// What of a queue is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// What waits.
    Waiting,
    /// What storage has, too.
    All,
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
    /// How many of them hold those behind them.
    holding: usize,
}

/// The unanswered messages.
#[derive(Debug)]
pub(super) struct Table<W> {
    entries: HashMap<Key, Entry<W>>,
    queues: HashMap<Queue, Unanswered>,
    /// How many messages hold those behind them.
    holding: usize,
    next_order: u64,
    bytes: usize,
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            queues: HashMap::new(),
            holding: 0,
            next_order: 0,
            bytes: 0,
        }
    }
}

impl<W> Table<W> {
    /// Takes a message in. One that is there already stays at the stage that it has.
    pub(super) fn put(
        &mut self,
        key: Key,
        submit: Submit,
        waiter: W,
        (stage, now): (Stage, Instant),
    ) -> Put<W> {
        if let Some(entry) = self.entries.get_mut(&key) {
            let (old, new) = (&entry.submit, &submit);
            let is_same = (old.conversation, old.r#type) == (new.conversation, new.r#type)
                && *entry.sent() == new.body;
            if !is_same {
                return Put::Reused(Box::new(submit), waiter);
            }
            return Put::Repeated(std::mem::replace(&mut entry.waiter, waiter));
        }
        let queue = self.queues.entry(Queue::of(&key, &submit)).or_default();
        let is_behind = stage == Stage::Ready && queue.holding > 0;
        let retry_at = is_behind.then_some(now + FIRST_RETRY);
        let order = self.next_order;
        self.next_order += 1;
        queue.keys.push_back((order, key));
        let entry = Entry {
            submit,
            waiter,
            order,
            since: now,
            stage,
            sent: None,
            was_asked: false,
            retry_at,
            is_behind,
            next_wait: FIRST_RETRY,
        };
        if entry.holds() {
            queue.holding += 1;
            self.holding += 1;
        }
        self.bytes += entry.bytes();
        self.entries.insert(key, entry);
        match stage {
            Stage::Asked => Put::Ask(QuestionId { key, order }),
            Stage::Ready if is_behind => Put::Waits,
            Stage::Ready | Stage::LookedFor => Put::Submit,
        }
    }

    /// Takes a message out: it was answered, or given up. If it held others, they are to be woken
    /// ([`Self::wake`]).
    pub(super) fn take(&mut self, key: &Key) -> Option<Entry<W>> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes();
        let queue = Queue::of(key, &entry.submit);
        if let Some(unanswered) = self.queues.get_mut(&queue) {
            let place = unanswered.keys.binary_search_by_key(&entry.order, |(order, _key)| *order);
            if let Ok(place) = place {
                unanswered.keys.remove(place);
            }
            if entry.holds() {
                unanswered.holding -= 1;
                self.holding -= 1;
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
        let held = entry.holds();
        entry.retry_at = Some(now + entry.next_wait);
        entry.is_behind = false;
        entry.next_wait = (entry.next_wait * 2).min(LAST_RETRY);
        let queue = Queue::of(key, &entry.submit);
        if !held && let Some(unanswered) = self.queues.get_mut(&queue) {
            unanswered.holding += 1;
            self.holding += 1;
        }
        true
    }

    /// Its owner does not know a message that it was to look for. Hooks are to be asked about it, unless that
    /// has begun before.
    pub(super) fn is_not_known(&mut self, key: &Key) -> Option<QuestionId> {
        let entry = self.entries.get_mut(key)?;
        if entry.stage != Stage::LookedFor {
            return None;
        }
        entry.stage = Stage::Asked;
        entry.retry_at = None;
        Some(QuestionId { key: *key, order: entry.order })
    }

    /// The message that a question is about, if that is still open.
    pub(super) fn asked(&self, question: &QuestionId) -> Option<&Entry<W>> {
        let entry = self.entries.get(&question.key)?;
        (entry.order == question.order && entry.stage == Stage::Asked).then_some(entry)
    }

    /// Hooks let a message pass, perhaps with another body. Returns what is to be handed over now, in order.
    pub(super) fn passes(
        &mut self,
        question: &QuestionId,
        body: Option<Bytes>,
        hooks: Vec<HookVerdict>,
        now: Instant,
    ) -> Vec<Key> {
        let key = &question.key;
        if self.asked(question).is_none() {
            return Vec::new();
        }
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        self.bytes -= entry.bytes();
        let submit = &mut entry.submit;
        if let Some(body) = body.filter(|body| *body != submit.body) {
            submit.sent_crc = Some(content_crc(submit.r#type, &submit.body));
            entry.sent = Some(std::mem::replace(&mut submit.body, body));
        }
        submit.hooks = hooks;
        if submit.fingerprint.is_some() {
            // While it waited, its client may have repeated its frame elsewhere.
            submit.may_repeat = Some(true);
        }
        self.bytes += entry.bytes();
        (entry.stage, entry.was_asked) = (Stage::Ready, true);
        // Until it is known that nothing holds it: it holds those behind it as before.
        (entry.retry_at, entry.is_behind) = (Some(now + FIRST_RETRY), true);
        let queue = Queue::of(key, &entry.submit);
        self.wake(queue)
    }

    /// What waits in a queue only because of others before it, and no longer has to: in order, to be handed over.
    pub(super) fn wake(&mut self, queue: Queue) -> Vec<Key> {
        let mut woken = Vec::new();
        let Some(unanswered) = self.queues.get_mut(&queue) else { return woken };
        for (_order, key) in &unanswered.keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            if entry.stage != Stage::Ready || entry.retry_at.is_some() && !entry.is_behind {
                break;
            }
            if entry.retry_at.take().is_some() {
                unanswered.holding -= 1;
                self.holding -= 1;
                woken.push(*key);
            }
        }
        woken
    }

    /// The messages whose time has come to be tried again, and those that wait behind them, in
    /// order. From then on none of them counts as waiting.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        if self.holding == 0 {
            return Vec::new();
        }
        let due = self
            .entries
            .iter()
            .filter(|(_key, entry)| entry.retry_at.is_some_and(|retry_at| retry_at <= now));
        let mut queues: Vec<Queue> =
            due.map(|(key, entry)| Queue::of(key, &entry.submit)).collect();
        queues.sort_unstable();
        queues.dedup();
        let mut due = Vec::new();
        for queue in queues {
            self.release(queue, Release::Waiting, now, &mut due);
        }
        in_order(due)
    }

    /// All messages of the conversations that are meant, in order, because the owner that had them may
    /// have forgotten them. Each is marked as a repeat, and none counts as waiting from then on. Those stay
    /// that wait for what hooks say, and those behind them: no owner has had them.
    pub(super) fn all_again(&mut self, is_meant: impl Fn(u64) -> bool, now: Instant) -> Vec<Key> {
        let is_of = |queue: &&Queue| is_meant(queue.conversation);
        let queues: Vec<Queue> = self.queues.keys().filter(is_of).copied().collect();
        let mut all = Vec::new();
        for queue in queues {
            self.release(queue, Release::All, now, &mut all);
        }
        for (_order, key) in &all {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.is_handed_over_again();
            }
        }
        in_order(all)
    }

    /// Ends the waiting in a queue, and names what is to be handed over, up to the first message that must not
    /// be stored yet; what is only looked for is handed over wherever it stands.
    fn release(
        &mut self,
        queue: Queue,
        release: Release,
        now: Instant,
        released: &mut Vec<(u64, Key)>,
    ) {
        let Some(unanswered) = self.queues.get_mut(&queue) else { return };
        let mut is_held = false;
        for (order, key) in &unanswered.keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            if is_held && entry.stage == Stage::Ready {
                // Behind it nothing is in a hurry: what lets that one go wakes this one.
                entry.retry_at = Some(now + FIRST_RETRY);
                continue;
            }
            is_held |= entry.stage != Stage::Ready;
            let waited = entry.retry_at.take().is_some();
            if waited && entry.stage == Stage::Ready {
                unanswered.holding -= 1;
                self.holding -= 1;
            }
            let is_meant = waited || release == Release::All;
            if is_meant && entry.stage != Stage::Asked {
                released.push((*order, *key));
            }
        }
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
        let queue = self.queues.get(&Queue::of(key, &entry.submit));
        let keys = queue.into_iter().flat_map(|queue| &queue.keys);
        keys.filter(|(order, _key)| *order >= entry.order).map(|(_order, key)| *key).collect()
    }

    /// The message as it is handed over to the owner of this epoch. It says whether a message
    /// before it in its queue is unanswered.
    pub(super) fn addressed(&mut self, key: &Key, epoch: u64, now: Instant) -> Option<&Submit> {
        let entry = self.entries.get_mut(key)?;
        let queue = self.queues.get(&Queue::of(key, &entry.submit));
        let first = queue.and_then(|queue| queue.keys.front());
        entry.submit.first = Some(first.is_some_and(|(order, _key)| *order == entry.order));
        entry.submit.epoch = Some(epoch);
        entry.submit.known_only = (entry.stage == Stage::LookedFor).then_some(true);
        let waited = entry.submit.resend() || entry.was_asked;
        if waited && entry.submit.fingerprint.is_some() {
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

impl Queue {
    /// The queue that a message is in.
    pub(super) fn of(key: &Key, submit: &Submit) -> Self {
        Self { sender: key.sender, conversation: submit.conversation }
    }
}

/// Those keys in the order in which their messages came.
fn in_order(mut keys: Vec<(u64, Key)>) -> Vec<Key> {
    keys.sort_unstable_by_key(|(order, _key)| *order);
    keys.into_iter().map(|(_order, key)| key).collect()
}

#[cfg(test)]
mod tests;
