//! The way of a message from its sender to storage, and of the answer back.
//!
//! # Invariants
//!
//! - A sender is told "stored" only after storage, or the hub on its behalf, has said so.
//! - Answers are matched by (sender, client_msg_id), never by a number that a restart could reuse.
//! - Of each partition one link is used at a time: its owner's. When another takes its place,
//!   everything unanswered of that partition goes there again, in order, before anything newer: both
//!   happen under one lock.
//! - What an owner hands back because it is none any more waits for the next one, and nothing of its
//!   line overtakes it. Its client hears of that only if it takes too long.
//! - "Not now" and "refused" count only from the owner: from others they are about a copy that was
//!   handed over again since. "Stored" is true whoever says it.
//! - Whoever is told to try a message again is told the same of everything that he has said behind it,
//!   until it comes again: or what was under way meanwhile would be stored before it.
//!
//! # What bounds it
//!
//! `unanswered_max` messages of each client and `unanswered_bytes_total_max` of all; beyond, clients
//! are not read. Whatever is not answered in [`SEND_LIMIT`] is given up: clients with the extension
//! are told to try again, others hear nothing and mark it as failed. Of what was given back, 16,384
//! lines are remembered with twice `unanswered_max` messages each.

mod table;

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use daemon::{Link, LinkError};
use lru::LruCache;
use parking_lot::Mutex;
use proto::cluster::wire::{Outcome, Reason, Submit, SubmitAnswer};
use proto::cluster::{Kind, partition_of};
use proto::ids::{ClientMsgId, ConversationId};
use proto::{Command, client, encode_message};
use ring::digest;
use tokio::time::Instant;
use tracing::debug;

use crate::claims::{Move, Owner};
use crate::config::LimitsConfig;
use crate::metrics::{GatewayMetrics, SendEnd};
use crate::session::Session;
use table::{Entry, Key, Put, Table};

/// How long a message may be unanswered. Longer than a partition may be without an owner, which is
/// 10 s, and then some to answer: a message that waits for the next one is not given up.
const SEND_LIMIT: Duration = Duration::from_secs(15);

/// How many answers are remembered, so that a message that is published late does not go to the
/// session that it came from.
const ANSWERED_MAX: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// In how many lines messages are remembered that were given back. Beyond, those that were given back
/// longest ago may be overtaken.
const GIVEN_BACK_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The unanswered messages, and where they go.
#[derive(Debug)]
pub(crate) struct Sends {
    lanes: Mutex<Lanes>,
    bytes_max: usize,
    metrics: GatewayMetrics,
}

#[derive(Debug)]
struct Lanes {
    table: Table<Waiter>,
    owners: Owners,
    /// The sessions that the last answers went to.
    answered: LruCache<Key, u64>,
    /// By session and conversation: the messages that were given back, none of which has come again.
    given_back: LruCache<(u64, u64), Vec<ClientMsgId>>,
    /// How many of one line. A client that sends on and on without beginning again keeps no order.
    given_back_max: usize,
}

/// Who is given the messages of each partition.
#[derive(Debug, Default)]
struct Owners {
    /// Empty before it is known how many partitions there are.
    links: Vec<Option<Owner<Link>>>,
}

/// Who waits for an answer. The session may be gone by then.
#[derive(Debug)]
pub(crate) struct Waiter {
    session: Weak<Session>,
    session_id: u64,
    seq: u16,
    to: u32,
    /// Whether the client named the message itself, and so gets the extended answer.
    named: bool,
}

/// A message as a client has sent it, checked.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) conversation: ConversationId,
    pub(crate) message: client::MessageData,
    pub(crate) seq: u16,
    /// The client's own name for it.
    pub(crate) client_msg_id: Option<ClientMsgId>,
}

impl Sends {
    pub(crate) fn new(limits: &LimitsConfig, metrics: GatewayMetrics) -> Self {
        let answered = LruCache::new(ANSWERED_MAX);
        // Bounded, but without taking the memory for all of them at once.
        let mut given_back = LruCache::unbounded();
        given_back.resize(GIVEN_BACK_MAX);
        // As much as can be under way, and as much again that was sent before the client knew.
        let given_back_max = 2 * limits.unanswered_max as usize;
        let (table, owners) = (Table::default(), Owners::default());
        let lanes = Lanes { table, owners, answered, given_back, given_back_max };
        let bytes_max = limits.unanswered_bytes_total_max;
        Self { lanes: Mutex::new(lanes), bytes_max, metrics }
    }

    /// Whether all clients together have sent as much as may be unanswered.
    pub(crate) fn is_full(&self) -> bool {
        self.lanes.lock().table.size().1 >= self.bytes_max
    }

    /// Hands a message to storage. The session has counted it ([`Outbox::begin_send`]).
    ///
    /// [`Outbox::begin_send`]: crate::outbox::Outbox::begin_send
    pub(crate) fn submit(&self, session: &Arc<Session>, gateway_boot: u64, outgoing: Outgoing) {
        let Outgoing { conversation, message, seq, client_msg_id } = outgoing;
        let user = session.user();
        let named = client_msg_id.is_some();
        let id = client_msg_id.unwrap_or_else(minted_id);
        let to = message.to_session_id;
        let is_repeated = !named && session.repeats_frames() && seq != 0;
        let frame = is_repeated.then(|| fingerprint(user, conversation, seq, &message));
        let submit = Submit {
            origin: session.origin(gateway_boot),
            sender: user,
            conversation: conversation.number(),
            client_msg_id: Bytes::copy_from_slice(&id.0),
            resend: message.resend.filter(|_repeat| named),
            fingerprint: frame,
            // A client that repeats frames has one of them unanswered at a time.
            may_repeat: frame.map(|_| !session.outbox.frames_told().was_told_one()),
            r#type: u32::try_from(message.msg_type).unwrap_or(0),
            body: message.msg_data,
            first: None,
            epoch: None,
            waited_ms: None,
        };
        let waiter =
            Waiter { session: Arc::downgrade(session), session_id: session.id(), seq, to, named };
        let key = Key { sender: user, id };

        let mut lanes = self.lanes.lock();
        if frame.is_some() && lanes.is_repeated(session.id(), &submit) {
            drop(lanes);
            // The answer to the first is the answer to both.
            self.metrics.frames_repeated.inc();
            session.outbox.end_send(None);
            return;
        }
        if named && !lanes.is_in_turn(session.id(), submit.conversation, id) {
            drop(lanes);
            self.ended(&submit, &waiter, client::SendOutcome::Retry, None);
            return;
        }
        let replaced = match lanes.table.put(key, submit, waiter, Instant::now()) {
            Put::Submit => {
                lanes.hand_over(&key);
                None
            }
            Put::Waits => None,
            Put::Repeated(earlier) => Some(earlier),
            Put::Reused(submit, waiter) => {
                drop(lanes);
                let reason = Some(Reason::IdReused as u32);
                self.ended(&submit, &waiter, client::SendOutcome::Refused, reason);
                return;
            }
        };
        drop(lanes);
        if let Some(session) = replaced.and_then(|waiter| waiter.session.upgrade()) {
            session.outbox.end_send(None);
        }
    }

    /// Whether a message is not answered yet.
    pub(crate) fn is_unanswered(&self, sender: u32, id: ClientMsgId) -> bool {
        self.lanes.lock().table.entry(&Key { sender, id }).is_some()
    }

    /// It is known how many partitions there are.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.lanes.lock().owners.links.resize(partitions as usize, None);
    }

    /// Partitions have other owners, which from now on are those that are used.
    pub(crate) fn moved(&self, moves: &[Move<Link>]) {
        let mut lanes = self.lanes.lock();
        let mut new = Vec::new();
        for one in moves {
            if let Some(place) = lanes.owners.links.get_mut(one.partition as usize) {
                place.clone_from(&one.owner);
                new.extend(place.is_some().then_some(one.partition));
            }
        }
        if new.is_empty() {
            return;
        }
        let Lanes { table, owners, .. } = &mut *lanes;
        // In ascending order, as they are told.
        let keys = table.all_again(|conversation| {
            owners.partition(conversation).is_some_and(|one| new.binary_search(&one).is_ok())
        });
        self.metrics.resubmitted.inc_by(keys.len() as u64);
        for key in keys {
            lanes.hand_over(&key);
        }
    }

    /// Storage has answered.
    pub(crate) fn answered(&self, link: &Link, answer: &SubmitAnswer) {
        let Some(id) = ClientMsgId::from_slice(&answer.client_msg_id) else { return };
        let key = Key { sender: answer.sender, id };
        let mut lanes = self.lanes.lock();
        match (answer.outcome(), answer.msg_id) {
            (Outcome::Ok, Some(msg_id)) => {
                if let Some(entry) = lanes.take_answered(&key) {
                    drop(lanes);
                    self.accepted(entry, msg_id, answer.create_time);
                }
            }
            _ if !lanes.is_with(&key, (link, answer.epoch)) => {}
            (Outcome::Moved, _) => {
                // Until there is another owner, or this one is one again.
                lanes.table.retry_later(&key, Instant::now());
            }
            (Outcome::Retry, _) | (Outcome::Ok, None) => {
                let given_up = lanes.cannot_be_stored_now(&key);
                drop(lanes);
                for entry in given_up {
                    self.ended(&entry.submit, &entry.waiter, client::SendOutcome::Retry, None);
                }
            }
            (Outcome::Refused, _) => {
                let entry = lanes.table.take(&key);
                drop(lanes);
                if let Some(entry) = entry {
                    let reason = answer.reason.and_then(|reason| u32::try_from(reason).ok());
                    self.ended(&entry.submit, &entry.waiter, client::SendOutcome::Refused, reason);
                }
            }
        }
    }

    /// A message was published, so it is stored, whether or not the answer has come. Returns the
    /// session that is or was told so, if that was here and not long ago.
    pub(crate) fn published(
        &self,
        sender: u32,
        id: ClientMsgId,
        msg_id: u32,
        create_time: impl FnOnce() -> Option<u32>,
    ) -> Option<u64> {
        let key = Key { sender, id };
        let mut lanes = self.lanes.lock();
        let entry = lanes.take_answered(&key);
        let session = lanes.answered.peek(&key).copied();
        drop(lanes);
        if let Some(entry) = entry {
            let create_time = if entry.waiter.named { create_time() } else { None };
            self.accepted(entry, msg_id, create_time);
        }
        session
    }

    /// What is done every 100 ms: tries again, and gives up.
    pub(crate) fn tick(&self, now: Instant) {
        let mut lanes = self.lanes.lock();
        let due = lanes.table.due(now);
        self.metrics.resubmitted.inc_by(due.len() as u64);
        for key in due {
            lanes.hand_over(&key);
        }
        let old = lanes.table.older_than(SEND_LIMIT, now);
        let given_up = lanes.give_back(&old);
        let (count, bytes) = lanes.table.size();
        drop(lanes);
        for entry in given_up {
            self.ended(&entry.submit, &entry.waiter, client::SendOutcome::Retry, None);
        }
        self.metrics.unanswered.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.metrics.unanswered_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn accepted(&self, entry: Entry<Waiter>, msg_id: u32, create_time: Option<u32>) {
        let Entry { submit, waiter, .. } = entry;
        if faults::planted(Mutant::RefusedIsStored) && msg_id.is_multiple_of(50) {
            let reason = client::RefuseReason::NotMember as u32;
            self.ended(&submit, &waiter, client::SendOutcome::Refused, Some(reason));
            return;
        }
        self.metrics.send_ended(SendEnd::Accepted);
        let Some(session) = waiter.session.upgrade() else { return };
        let session_type = session_type_of(submit.conversation);
        let id = ClientMsgId::from_slice(&submit.client_msg_id);
        let frame = id.filter(|_| submit.fingerprint.is_some());
        let answer = if waiter.named {
            let result = client::SendResult {
                client_msg_id: submit.client_msg_id,
                outcome: client::SendOutcome::Ok.into(),
                msg_id: Some(msg_id),
                session_id: Some(waiter.to),
                session_type: Some(session_type.into()),
                reason: None,
                create_time,
            };
            encode_message(Command::SendResult, waiter.seq, &result)
        } else {
            let ack = client::MessageAck {
                user_id: submit.sender,
                session_id: waiter.to,
                msg_id,
                session_type: session_type.into(),
            };
            encode_message(Command::MessageAck, waiter.seq, &ack)
        };
        match frame {
            Some(id) => session.outbox.end_frame(id, answer),
            None => session.outbox.end_send(Some(answer)),
        }
    }

    /// A message was not stored. Old clients have no answer for that: they get none.
    fn ended(
        &self,
        submit: &Submit,
        waiter: &Waiter,
        outcome: client::SendOutcome,
        reason: Option<u32>,
    ) {
        self.metrics.send_ended(match outcome {
            client::SendOutcome::Refused => SendEnd::Refused,
            _ => SendEnd::Retry,
        });
        debug!(sender = submit.sender, ?outcome, reason, "a message was not stored");
        let Some(session) = waiter.session.upgrade() else { return };
        let answer = waiter.named.then(|| {
            let result = client::SendResult {
                client_msg_id: submit.client_msg_id.clone(),
                outcome: outcome.into(),
                msg_id: None,
                session_id: Some(waiter.to),
                session_type: Some(session_type_of(submit.conversation).into()),
                reason: reason.and_then(|reason| i32::try_from(reason).ok()),
                create_time: None,
            };
            encode_message(Command::SendResult, waiter.seq, &result)
        });
        session.outbox.end_send(answer);
    }
}

impl Lanes {
    /// A client with the extension is told at once, and tries again itself; whatever it has said
    /// behind that goes back with it, to stay in order. For an old client, which would show the message
    /// as failed, we try again. Returns those that are given back.
    fn cannot_be_stored_now(&mut self, key: &Key) -> Vec<Entry<Waiter>> {
        let session = match self.table.entry(key) {
            Some(entry) if entry.waiter.named => entry.waiter.session_id,
            _ => {
                self.table.retry_later(key, Instant::now());
                return Vec::new();
            }
        };
        let mut line = self.table.from(key);
        line.retain(|key| {
            let waiter = self.table.entry(key).map(|entry| &entry.waiter);
            waiter.is_some_and(|waiter| waiter.named && waiter.session_id == session)
        });
        self.give_back(&line)
    }

    /// Takes out messages that their clients are to send again, in order.
    fn give_back(&mut self, keys: &[Key]) -> Vec<Entry<Waiter>> {
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.table.take(key) else { continue };
            if entry.waiter.named {
                let line = (entry.waiter.session_id, entry.submit.conversation);
                self.given_back.get_or_insert_mut(line, Vec::new).push(key.id);
            }
            entries.push(entry);
        }
        entries
    }

    /// Whether a message may go on. Until one of those that were given back comes again, whatever
    /// arrives was sent before the client knew, and is given back too. A client begins again with
    /// the first that it still wants to send, so the first to come again is the one to go on with.
    fn is_in_turn(&mut self, session: u64, conversation: u64, id: ClientMsgId) -> bool {
        let line = (session, conversation);
        let Some(given_back) = self.given_back.get_mut(&line) else { return true };
        if given_back.contains(&id) || given_back.len() >= self.given_back_max {
            self.given_back.pop(&line);
            return true;
        }
        given_back.push(id);
        false
    }

    /// Whether the frame of a message repeats one of the same session that is not answered.
    fn is_repeated(&self, session: u64, submit: &Submit) -> bool {
        self.table.any_in_line(submit.sender, submit.conversation, |entry| {
            entry.waiter.session_id == session && entry.submit.fingerprint == submit.fingerprint
        })
    }

    /// Takes out a message that is stored, and remembers whom it came from.
    fn take_answered(&mut self, key: &Key) -> Option<Entry<Waiter>> {
        let entry = self.table.take(key)?;
        self.answered.put(*key, entry.waiter.session_id);
        Some(entry)
    }

    /// Whether a message was handed over on this link in this epoch, and not to another owner since.
    fn is_with(&self, key: &Key, (link, epoch): (&Link, Option<u64>)) -> bool {
        let owner = self.table.submit(key).and_then(|submit| self.owners.of(submit.conversation));
        owner.is_some_and(|owner| {
            owner.link == *link && epoch.is_none_or(|epoch| epoch == owner.epoch)
        })
    }

    /// Gives a message to storage, if it is there; otherwise the message waits.
    fn hand_over(&mut self, key: &Key) {
        let Some(submit) = self.table.submit(key) else { return };
        // Without an owner it stays as it is: the next one gets everything.
        let Some(Owner { link, epoch }) = self.owners.of(submit.conversation) else { return };
        let Some(submit) = self.table.addressed(key, *epoch, Instant::now()) else { return };
        match link.send(Kind::Submit.number(), 0, submit) {
            Ok(()) | Err(LinkError::Closed) => {}
            Err(LinkError::Full | LinkError::TooLong) => {
                self.table.retry_later(key, Instant::now());
            }
        }
    }
}

impl Owners {
    fn partition(&self, conversation: u64) -> Option<u32> {
        let count = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        (count > 0).then(|| partition_of(conversation, count))
    }

    fn of(&self, conversation: u64) -> Option<&Owner<Link>> {
        let partition = self.partition(conversation)?;
        self.links.get(partition as usize)?.as_ref()
    }
}

fn session_type_of(conversation: u64) -> client::SessionType {
    match ConversationId::from_number(conversation).and_then(ConversationId::as_group) {
        Some(_group) => client::SessionType::Group,
        None => client::SessionType::Single,
    }
}

/// A name for a message that came without one. Unique by its 74 random bits, whatever the clock says.
fn minted_id() -> ClientMsgId {
    let ms = daemon::clock::unix_ms();
    let nanos = u32::try_from(ms % 1000 * 1_000_000).unwrap_or(0);
    let now = uuid::Timestamp::from_unix(uuid::NoContext, ms / 1000, nanos);
    ClientMsgId(uuid::Uuid::new_v7(now).into_bytes())
}

/// A number by which a frame without a name is recognised when the client repeats it. Of one that
/// repeats frames by itself, with a seq that is not 0.
fn fingerprint(
    user: u32,
    conversation: ConversationId,
    seq: u16,
    message: &client::MessageData,
) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&user.to_be_bytes());
    // Users and groups count from 1 alike: the number of a conversation tells the two apart.
    context.update(&conversation.number().to_be_bytes());
    context.update(&seq.to_be_bytes());
    context.update(&message.msg_type.to_be_bytes());
    context.update(&message.msg_data);
    let digest = context.finish();
    let short = digest.as_ref().first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    // A digest of 0 would count as "never a repeat"; that is harmless, and one in 2^64.
    short.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proto::client::MessageType;
    use proto::ids::{GroupId, UserId};

    use super::*;

    fn print(user: u32, conversation: ConversationId, seq: u16, words: &str) -> u64 {
        let group = conversation.as_group().is_some();
        let kind = if group { MessageType::GroupText } else { MessageType::SingleText };
        let message = client::MessageData {
            msg_type: kind.into(),
            msg_data: words.to_owned().into(),
            ..Default::default()
        };
        fingerprint(user, conversation, seq, &message)
    }

    #[test]
    fn a_fingerprint_tells_messages_apart_and_recognises_a_repeat() {
        let two = |other| ConversationId::single(UserId(1), UserId(other)).unwrap();
        let first = print(1, two(2), 3, "hello");
        assert_eq!(first, print(1, two(2), 3, "hello"));
        for other in [
            print(2, two(2), 3, "hello"),
            print(1, two(9), 3, "hello"),
            print(1, ConversationId::group(GroupId(2)).unwrap(), 3, "hello"),
            print(1, two(2), 9, "hello"),
            print(1, two(2), 3, "hellO"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn of_too_many_lines_that_were_given_back_the_oldest_is_forgotten() {
        let sends = Sends::new(&LimitsConfig::default(), GatewayMetrics::default());
        let mut lanes = sends.lanes.lock();
        let key = Key { sender: 1, id: ClientMsgId([1; 16]) };
        for session_id in 0..=u64::try_from(GIVEN_BACK_MAX.get()).unwrap() {
            let waiter = Waiter { session: Weak::new(), session_id, seq: 1, to: 2, named: true };
            lanes.table.put(key, Submit::default(), waiter, Instant::now());
            assert_eq!(lanes.give_back(&[key]).len(), 1);
        }
        assert_eq!(lanes.given_back.len(), GIVEN_BACK_MAX.get());
        let next = ClientMsgId([2; 16]);
        assert!(lanes.is_in_turn(0, 0, next), "forgotten");
        assert!(!lanes.is_in_turn(1, 0, next));
    }
}
