//! Messages on their way to the db_proxies, and the answers back.
//!
//! What waits for an answer has a type that the caller chooses. The caller also passes the answers on.
//!
//! # Invariants
//!
//! - A message counts as stored only after a db_proxy has said so.
//! - Answers are matched by (sender, client_msg_id), never by a number that a restart could reuse.
//! - For each partition one link is used at a time: its owner's. When another link takes its place, all
//!   unanswered messages of that partition go there again, in order, before anything newer: both happen
//!   under one lock.
//! - A message that an owner hands back because it is no longer the owner waits for the next one, and
//!   nothing in its queue overtakes it. Its sender hears of that only if it takes too long.
//! - "Not now" and "refused" count only from the owner: from another db_proxy they are about a copy
//!   that was handed over again since. "Stored" is true from any of them.
//! - A sender that is told to try a message again is told the same about everything that it sent after
//!   that message, until the message comes again. Otherwise a later message that is under way meanwhile
//!   would be stored before it.
//! - A message that hooks are to be asked about ([`crate::hooks`]) has its place in its queue at once, and is
//!   handed over with what they said. What they said of an earlier try under the same name does not count.
//!
//! # What bounds it
//!
//! The caller bounds what it hands over ([`Sends::size`]). Whatever is not answered in [`SEND_LIMIT`] is
//! given up. For messages that were given back, 16,384 queues are remembered, with as many messages
//! each as the caller says.

mod asking;
mod late;
mod table;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Link, LinkError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lru::LruCache;
use parking_lot::Mutex;
use proto::cluster::wire::{Outcome, Reason, Submit, SubmitAnswer};
use proto::cluster::{Kind, partition_of};
use proto::ids::{ClientMsgId, UserId};
use tokio::time::Instant;

use crate::claims::{Move, Owner};
use crate::hooks::{Hooks, Verdict};
use asking::{Question, Questions};
use late::LateAnswers;
use table::{Entry, Put, QuestionId, Queue, Stage, Table};

pub use table::Key;

/// How long a message may be unanswered. Longer than a partition may be without an owner, which is
/// 10 s, and then some to answer: a message that waits for the next one is not given up.
pub(crate) const SEND_LIMIT: Duration = Duration::from_secs(15);

/// How many answers are remembered, so that a message that is published late does not go to the
/// session that it came from; and how many messages that were given up, so that it does.
const ANSWERED_MAX: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// For how many queues the messages that were given back are remembered. If there are more queues, the
/// messages that were given back longest ago may be overtaken.
const GIVEN_BACK_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The unanswered messages, and where they go. `W` is the type of what waits for an answer.
#[derive(Debug)]
pub struct Sends<W> {
    state: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    table: Table<Waiting<W>>,
    /// By partition. Empty before it is known how many partitions there are.
    owners: Vec<Option<Owner<Link>>>,
    /// The sessions that the last answers went to.
    answered: LruCache<Key, u64>,
    /// Messages that were given up, and whose senders cannot send them again.
    given_up: LruCache<Key, ()>,
    late: LateAnswers,
    /// By session and conversation: the messages that were given back, none of which has come again.
    given_back: LruCache<(u64, u64), Vec<ClientMsgId>>,
    /// How many messages of one queue are remembered. A sender that sends more without sending the
    /// first of them again is not kept in order.
    given_back_max: usize,
    questions: Questions,
}

/// What waits for the answer, and which session the message comes from.
#[derive(Debug)]
struct Waiting<W> {
    session: u64,
    is_named: bool,
    waiter: W,
}

/// A message to be handed over.
#[derive(Debug)]
pub struct Outgoing<W> {
    /// The message.
    pub submit: Submit,
    /// Its sender and name.
    pub key: Key,
    /// Which of the sender's sessions it comes from: a number that no other session here has.
    pub session: u64,
    /// Whether the sender has named the message itself, and so can be told to try it again.
    pub is_named: bool,
    /// What waits for the answer.
    pub waiter: W,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is stored.
    Stored {
        /// Its number in its conversation.
        msg_id: u32,
        /// When it was stored, in Unix seconds, where that was said.
        create_time: Option<u32>,
    },
    /// It may or may not be stored; the same message may be sent again.
    Retry,
    /// It was refused, and is not stored.
    Refused(Option<u32>),
    /// A hook has refused it, and it is not stored: why, for its sender.
    RefusedByHook(String),
}

/// Whom it is told that a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The session that it came from, now or not long ago.
    Session(u64),
    /// Nobody: the message was given up, not long ago, and its sender cannot send it again.
    Nobody,
    /// Nobody here, as far as is remembered.
    Unknown,
}

/// A message that is no longer under way.
#[derive(Debug)]
pub struct Ended<W> {
    /// The message.
    pub submit: Submit,
    /// Whether the sender had named it.
    pub is_named: bool,
    /// What waits for the answer.
    pub waiter: W,
    /// When it was first handed over. A repeat while it is under way does not change this.
    pub since: Instant,
    /// What the answer is.
    pub end: End,
}

/// What became of a message that was handed over.
#[derive(Debug)]
pub enum Taken<W> {
    /// It is under way.
    UnderWay,
    /// It was under way before. This is what waited for its answer and now no longer does.
    Repeated(W),
    /// Its frame repeats one of the same session that is not answered, or whose answer is on its way: the
    /// answer to the first is the answer to both. What waits for the repeat is given back.
    FrameRepeated(W),
    /// It has ended at once.
    Ended(Box<Ended<W>>),
}

impl<W> Sends<W> {
    /// Nothing is under way. Of the messages that a sender is told to try again, `given_back_max`
    /// of each queue are remembered.
    pub fn new(given_back_max: usize) -> Self {
        let answered = LruCache::new(ANSWERED_MAX);
        // Bounded, but without taking the memory for all of them at once.
        let (mut given_up, mut given_back) = (LruCache::unbounded(), LruCache::unbounded());
        given_up.resize(ANSWERED_MAX);
        given_back.resize(GIVEN_BACK_MAX);
        let (table, owners, late) = (Table::default(), Vec::new(), LateAnswers::default());
        let questions = Questions::default();
        let state = State {
            table,
            owners,
            answered,
            given_up,
            late,
            given_back,
            given_back_max,
            questions,
        };
        Self { state: Mutex::new(state) }
    }

    /// How many messages are unanswered, and the bytes of their bodies.
    pub fn size(&self) -> (usize, usize) {
        self.state.lock().table.size()
    }

    /// Whether a message is not answered yet.
    pub fn is_unanswered(&self, key: &Key) -> bool {
        self.state.lock().table.entry(key).is_some()
    }

    /// Hands a message over, if its turn has come.
    pub fn submit(&self, outgoing: Outgoing<W>) -> Taken<W> {
        let Outgoing { submit, key, session, is_named, waiter } = outgoing;
        let since = Instant::now();
        let mut state = self.state.lock();
        if state.is_repeated(session, &submit, since) {
            return Taken::FrameRepeated(waiter);
        }
        if is_named && !state.is_in_turn(session, submit.conversation, key.id) {
            let ended = Ended { submit, is_named, waiter, since, end: End::Retry };
            return Taken::Ended(Box::new(ended));
        }
        let waiting = Waiting { session, is_named, waiter };
        let stage = state.questions.stage_of(&submit);
        match state.table.put(key, submit, waiting, (stage, since)) {
            Put::Submit => {
                state.hand_over(&key);
                Taken::UnderWay
            }
            Put::Waits => Taken::UnderWay,
            Put::Ask(id) => {
                state.ask(id);
                Taken::UnderWay
            }
            Put::Repeated(earlier) => Taken::Repeated(earlier.waiter),
            Put::Reused(submit, Waiting { waiter, .. }) => {
                let end = End::Refused(Some(Reason::IdReused as u32));
                Taken::Ended(Box::new(Ended { submit: *submit, is_named, waiter, since, end }))
            }
        }
    }

    /// Takes note of how many partitions there are.
    pub fn set_partitions(&self, partitions: u32) {
        self.state.lock().owners.resize(partitions as usize, None);
    }

    /// Partitions have other owners, which from now on are those that are used. Returns how many messages
    /// were handed over again.
    pub fn moved(&self, moves: &[Move<Link>]) -> usize {
        let mut state = self.state.lock();
        let mut new = Vec::new();
        for one in moves {
            if let Some(place) = state.owners.get_mut(one.partition as usize) {
                place.clone_from(&one.owner);
                new.extend(place.is_some().then_some(one.partition));
            }
        }
        if new.is_empty() {
            return 0;
        }
        let now = Instant::now();
        let State { table, owners, .. } = &mut *state;
        // In ascending order, as they are told.
        let is_new = |partition| new.binary_search(&partition).is_ok();
        let keys = table
            .all_again(|conversation| partition(owners, conversation).is_some_and(is_new), now);
        for key in &keys {
            state.hand_over(key);
        }
        keys.len()
    }

    /// A db_proxy has answered. `tell` is called for each message that this ends; it may call back.
    pub fn answered(&self, link: &Link, answer: &SubmitAnswer, mut tell: impl FnMut(Ended<W>)) {
        let Some(id) = ClientMsgId::from_slice(&answer.client_msg_id) else { return };
        let key = Key { sender: UserId(answer.sender), id };
        let mut state = self.state.lock();
        // Only "retry" ends several: the others make no list.
        let (entry, end) = match (answer.outcome(), answer.msg_id) {
            (Outcome::Ok, Some(msg_id)) => {
                let create_time = answer.create_time;
                (state.take_answered(&key), End::Stored { msg_id, create_time })
            }
            _ if !state.is_with(&key, link, answer.epoch) => return,
            (Outcome::Refused, _) if answer.reason() == Reason::NotKnown => {
                state.not_known(&key);
                return;
            }
            (Outcome::Moved, _) => {
                // Until there is another owner, or this one is one again.
                state.table.retry_later(&key, Instant::now());
                return;
            }
            (Outcome::Retry, _) | (Outcome::Ok, None) => {
                let entries = state.cannot_be_stored_now(&key);
                drop(state);
                for entry in entries {
                    tell(ended(entry, End::Retry));
                }
                return;
            }
            (Outcome::Refused, _) => {
                let reason = answer.reason.and_then(|reason| u32::try_from(reason).ok());
                (state.take(&key), End::Refused(reason))
            }
        };
        drop(state);
        if let Some(entry) = entry {
            tell(ended(entry, end));
        }
    }

    /// A message was published under this number, so it is stored, whether or not the answer has come.
    /// Returns the message, if that ends it, and whom that is or was told.
    pub fn published(&self, key: &Key, msg_id: u32) -> (Option<Ended<W>>, Told) {
        let mut state = self.state.lock();
        let entry = state.take_answered(key);
        let told = match state.answered.peek(key) {
            Some(session) => Told::Session(*session),
            None if state.given_up.contains(key) => Told::Nobody,
            None => Told::Unknown,
        };
        drop(state);
        let end = End::Stored { msg_id, create_time: None };
        (entry.map(|entry| ended(entry, end)), told)
    }

    /// What is done every 100 ms: tries again, and gives up. `tell` is called for each message that is given
    /// up; it may call back. Returns how many messages were handed over again.
    pub fn tick(&self, now: Instant, mut tell: impl FnMut(Ended<W>)) -> usize {
        let mut state = self.state.lock();
        let due = state.table.due(now);
        for key in &due {
            state.hand_over(key);
        }
        let old = state.table.older_than(SEND_LIMIT, now);
        let given_up = state.give_back(&old);
        for Entry { submit, .. } in given_up.iter().filter(|entry| !entry.waiter.is_named) {
            if let Some(id) = ClientMsgId::from_slice(&submit.client_msg_id) {
                state.given_up.put(Key { sender: UserId(submit.sender), id }, ());
            }
        }
        drop(state);
        for entry in given_up {
            tell(ended(entry, End::Retry));
        }
        due.len()
    }

    /// From now on these hooks are asked about messages; about those that wait for an answer already, the ones
    /// that were used before.
    pub fn set_hooks(&self, hooks: Option<Arc<Hooks>>) {
        self.state.lock().questions.set_hooks(hooks);
    }

    /// Asks hooks about messages, as long as this is polled. `tell` is called for each message that this ends; it
    /// may call back.
    pub async fn ask_hooks(&self, mut tell: impl FnMut(Ended<W>)) {
        let there_are = self.state.lock().questions.there_are();
        // No more than there are unanswered messages.
        let mut open = FuturesUnordered::new();
        loop {
            let new = self.state.lock().questions.take();
            open.extend(new.into_iter().map(Question::ask));
            tokio::select! {
                () = there_are.notified() => {}
                Some((id, verdict)) = open.next() => self.said(&id, verdict, &mut tell),
            }
        }
    }

    /// Hooks have said something about a message. It may have ended meanwhile.
    fn said(&self, id: &QuestionId, verdict: Verdict, mut tell: impl FnMut(Ended<W>)) {
        let mut state = self.state.lock();
        let reason = match verdict {
            Verdict::Passes { body, hooks } => {
                for key in state.table.passes(id, body, hooks, Instant::now()) {
                    state.hand_over(&key);
                }
                return;
            }
            Verdict::Refused { reason } => reason,
            Verdict::Failed if let Some(session) = state.may_be_elsewhere(id) => {
                let entries = state.give_back_from(&id.key, session);
                drop(state);
                for entry in entries {
                    tell(ended(entry, End::Retry));
                }
                return;
            }
            Verdict::Failed => "it could not be checked".to_owned(),
        };
        if state.table.asked(id).is_none() {
            return;
        }
        let entry = state.take(&id.key);
        drop(state);
        if let Some(entry) = entry {
            tell(ended(entry, End::RefusedByHook(reason)));
        }
    }
}

impl<W> State<W> {
    /// A sender that has named the message is told at once, and tries again itself. Everything that it
    /// sent after that message is given back too, to stay in order. A sender that has not named the
    /// message would show it as failed: for this sender it is tried again here. Returns the
    /// messages given back.
    fn cannot_be_stored_now(&mut self, key: &Key) -> Vec<Entry<Waiting<W>>> {
        let session = match self.table.entry(key) {
            Some(entry) if entry.waiter.is_named => entry.waiter.session,
            _ => {
                self.table.retry_later(key, Instant::now());
                return Vec::new();
            }
        };
        self.give_back_from(key, session)
    }

    /// A message is to be sent again, and all that its session sent behind it.
    fn give_back_from(&mut self, key: &Key, session: u64) -> Vec<Entry<Waiting<W>>> {
        let mut queue = self.table.from(key);
        queue.retain(|key| {
            let waiting = self.table.entry(key).map(|entry| &entry.waiter);
            waiting.is_some_and(|waiting| waiting.is_named && waiting.session == session)
        });
        self.give_back(&queue)
    }

    /// Takes out messages that their senders are to send again. They are returned in order.
    fn give_back(&mut self, keys: &[Key]) -> Vec<Entry<Waiting<W>>> {
        let mut entries = Vec::with_capacity(keys.len());
        let mut held = BTreeSet::new();
        for key in keys {
            let Some(entry) = self.table.take(key) else { continue };
            if entry.holds() {
                held.insert(Queue::of(key, &entry.submit));
            }
            if entry.waiter.is_named {
                let queue = (entry.waiter.session, entry.submit.conversation);
                self.given_back.get_or_insert_mut(queue, Vec::new).push(key.id);
            }
            entries.push(entry);
        }
        // Not before all of them are out: none of them must go on.
        for queue in held {
            self.wake(queue);
        }
        entries
    }

    /// Takes out a message that has ended, and lets those go on that waited for it.
    fn take(&mut self, key: &Key) -> Option<Entry<Waiting<W>>> {
        let entry = self.table.take(key)?;
        if entry.holds() {
            self.wake(Queue::of(key, &entry.submit));
        }
        Some(entry)
    }

    fn wake(&mut self, queue: Queue) {
        for key in self.table.wake(queue) {
            self.hand_over(&key);
        }
    }

    /// Whether a message may go on. Until one of the messages that were given back comes again, every
    /// message that arrives was sent before the sender knew of that, and is given back too. A sender
    /// begins again with the first message that it still wants to send, so the first one that comes
    /// again is the one to go on with.
    fn is_in_turn(&mut self, session: u64, conversation: u64, id: ClientMsgId) -> bool {
        let queue = (session, conversation);
        let Some(given_back) = self.given_back.get_mut(&queue) else { return true };
        if given_back.contains(&id) || given_back.len() >= self.given_back_max {
            self.given_back.pop(&queue);
            return true;
        }
        given_back.push(id);
        false
    }

    /// Whether the frame of a message repeats one of the same session that is not answered, or whose
    /// answer had not arrived when the client sent the repeat.
    fn is_repeated(&self, session: u64, submit: &Submit, now: Instant) -> bool {
        let Some(fingerprint) = submit.fingerprint else { return false };
        let queue = Queue { sender: UserId(submit.sender), conversation: submit.conversation };
        let is_unanswered = self.table.any_in_queue(queue, |entry| {
            entry.waiter.session == session && entry.submit.fingerprint == Some(fingerprint)
        });
        is_unanswered || self.late.is_repeated(session, fingerprint, now)
    }

    /// Takes out a message that is stored, and remembers which session it came from.
    fn take_answered(&mut self, key: &Key) -> Option<Entry<Waiting<W>>> {
        let entry = self.take(key)?;
        let session = entry.waiter.session;
        self.answered.put(*key, session);
        if let Some(fingerprint) = entry.submit.fingerprint {
            self.late.answered(session, fingerprint, entry.since, Instant::now());
        }
        Some(entry)
    }

    /// Whether a message was handed over on this link in this epoch, and not to another owner since.
    fn is_with(&self, key: &Key, link: &Link, epoch: Option<u64>) -> bool {
        // One that hooks are asked about is with nobody.
        let entry = self.table.entry(key).filter(|entry| entry.stage != Stage::Asked);
        let owner = entry.and_then(|entry| owner_of(&self.owners, entry.submit.conversation));
        owner.is_some_and(|owner| {
            owner.link == *link && epoch.is_none_or(|epoch| epoch == owner.epoch)
        })
    }

    /// Gives a message to its owner, if there is one; otherwise the message waits.
    fn hand_over(&mut self, key: &Key) {
        let Some(submit) = self.table.submit(key) else { return };
        // Without an owner it stays as it is: the next one gets everything.
        let Some(Owner { link, epoch }) = owner_of(&self.owners, submit.conversation) else {
            return;
        };
        let Some(submit) = self.table.addressed(key, *epoch, Instant::now()) else { return };
        match link.send(Kind::Submit.number(), 0, submit) {
            Ok(()) | Err(LinkError::Closed) => {}
            Err(LinkError::Full | LinkError::TooLong) => {
                self.table.retry_later(key, Instant::now());
            }
        }
    }

    /// Has hooks asked about a message.
    fn ask(&mut self, id: QuestionId) {
        let Some(entry) = self.table.asked(&id) else { return };
        if !self.questions.ask(id, &entry.submit) {
            for key in self.table.passes(&id, None, Vec::new(), Instant::now()) {
                self.hand_over(&key);
            }
        }
    }

    /// The owner of a message that was looked for does not know it.
    fn not_known(&mut self, key: &Key) {
        if let Some(id) = self.table.is_not_known(key) {
            self.ask(id);
        }
    }

    /// The session of a message that hooks are asked about, if that can send it again, and it may be on its way
    /// from elsewhere too. Then nobody can say that it is not stored.
    fn may_be_elsewhere(&self, id: &QuestionId) -> Option<u64> {
        let entry = self.table.asked(id)?;
        let may_be = entry.waiter.is_named && entry.submit.resend();
        may_be.then_some(entry.waiter.session)
    }
}

fn ended<W>(entry: Entry<Waiting<W>>, end: End) -> Ended<W> {
    let Entry { submit, waiter: Waiting { is_named, waiter, .. }, since, .. } = entry;
    Ended { submit, is_named, waiter, since, end }
}

fn partition(owners: &[Option<Owner<Link>>], conversation: u64) -> Option<u32> {
    let count = u32::try_from(owners.len()).unwrap_or(u32::MAX);
    (count > 0).then(|| partition_of(conversation, count))
}

fn owner_of(owners: &[Option<Owner<Link>>], conversation: u64) -> Option<&Owner<Link>> {
    owners.get(partition(owners, conversation)? as usize)?.as_ref()
}

#[cfg(test)]
mod tests;
