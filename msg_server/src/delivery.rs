//! What the fold decided, on its way to the sessions here.
//!
//! Records come from the hub, and from storage where the hub did not reach us. They are taken one by
//! one and delivered when everything that came in one read has been taken: what a conversation got
//! meanwhile goes to each session in one write.
//!
//! # Invariants
//!
//! - A record of an owner that is none any more is refused: of each partition, the newest epoch
//!   counts.
//! - Of one conversation, records are delivered in order, and each once, as long as it is among the
//!   last ones seen ([`crate::seen`]).
//! - The session that a message came from never gets it: it gets the answer.
//!
//! # What bounds it
//!
//! `conversations_max` conversations are remembered, those that were silent longest are forgotten;
//! behind a gap, 256 records wait at most.

mod fanout;
mod repair;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use proto::client;
use proto::cluster::wire::Publish;
use proto::ids::{ClientMsgId, ConversationId, Parties};
use tokio::time::Instant;
use tracing::{Span, debug};

use crate::gateway::Gateway;
use crate::metrics::GapEnd;
use crate::seen::{Mark, Seen, Verdict};

/// After storage was away, conversations are looked at that were alive this long ago.
const SWEEP_BACK: Duration = Duration::from_mins(1);

/// Conversations that are looked at then.
const SWEEP_MAX: usize = 2048;

/// What has been delivered here.
#[derive(Debug)]
pub(crate) struct Delivery {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By partition.
    epochs: HashMap<u32, u64>,
    conversations: LruCache<u64, Conversation>,
}

#[derive(Debug)]
struct Conversation {
    seen: Seen<Record>,
    /// When a record came last.
    at: Instant,
}

/// A published record, and who else must not get it.
#[derive(Debug)]
pub(crate) struct Record {
    publish: Publish,
    /// The session here that was told "stored".
    answered: Option<u64>,
}

/// Records that were taken and not delivered yet, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    records: Vec<Record>,
}

impl Delivery {
    pub(crate) fn new(conversations_max: usize) -> Self {
        let max = NonZeroUsize::new(conversations_max).unwrap_or(NonZeroUsize::MIN);
        let conversations = LruCache::unbounded();
        let mut state = State { epochs: HashMap::new(), conversations };
        // Bounded, but without taking the memory for all of them at once.
        state.conversations.resize(max);
        Self { state: Mutex::new(state) }
    }
}

impl Gateway {
    /// Takes a record; what is to be delivered is added to `batch`.
    pub(crate) fn take_publish(self: &Arc<Self>, publish: Publish, batch: &mut Batch) {
        if !self.delivery.is_current(&publish) {
            self.metrics.stale_publishes.inc();
            return;
        }
        let conversation = publish.conversation;
        let continuous_since = self.continuous_since(conversation);
        let record = self.record(publish);
        match self.delivery.take(record, continuous_since) {
            Verdict::Deliver(records) => {
                if records.len() > 1 {
                    self.metrics.gap_ended(GapEnd::LateCopy);
                }
                batch.records.extend(records);
            }
            Verdict::Duplicate => {
                self.metrics.duplicates.inc();
            }
            Verdict::Held { opened: false } => {}
            Verdict::Held { opened: true } => {
                debug!(conversation, "a gap");
                let gateway = Arc::clone(self);
                self.shutdown.spawn(Span::current(), async move {
                    repair::close_gap(&gateway, conversation).await;
                });
            }
        }
    }

    /// Storage is back after it was away: what it took last may never have been published.
    pub(crate) fn sweep(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.shutdown.spawn(Span::current(), async move { repair::sweep(&gateway).await });
    }

    /// Delivers what was taken.
    pub(crate) fn deliver_batch(self: &Arc<Self>, batch: &mut Batch) {
        fanout::deliver(self, std::mem::take(&mut batch.records));
    }

    /// Reads a record. Its sender is answered, if this comes before storage's own answer.
    fn record(&self, publish: Publish) -> Record {
        // What is fetched has no origin any more; then the sender may be anywhere.
        let elsewhere = publish.origin.is_some_and(|origin| origin.gateway_boot != self.boot);
        let id = publish.client_msg_id.as_deref().and_then(ClientMsgId::from_slice);
        let answered = match id {
            Some(id) if !elsewhere && !changes_members(&publish) => {
                let Publish { sender, msg_id, .. } = publish;
                self.sends.published(sender, id, msg_id, || create_time(&publish))
            }
            _ => None,
        };
        Record { publish, answered }
    }

    /// Since when everything of a conversation has come here; `None` if nobody here is in it.
    fn continuous_since(&self, conversation: u64) -> Option<Instant> {
        match ConversationId::from_number(conversation)?.parties() {
            Parties::Group(group) => self.registry.group(group.0).map(|group| group.since),
            Parties::Single(low, high) => {
                let since = [low.0, high.0].map(|user| self.registry.here_since(user));
                since.into_iter().flatten().min()
            }
        }
    }
}

impl Delivery {
    /// Whether the record's owner is still the one, as far as is known here.
    fn is_current(&self, publish: &Publish) -> bool {
        let mut state = self.state.lock();
        let newest = state.epochs.entry(publish.partition).or_default();
        let current = publish.epoch >= *newest;
        *newest = publish.epoch.max(*newest);
        current
    }

    fn take(&self, record: Record, continuous_since: Option<Instant>) -> Verdict<Record> {
        let mark = mark_of(&record.publish);
        let mut state = self.state.lock();
        let now = Instant::now();
        let number = record.publish.conversation;
        let known = state
            .conversations
            .get_or_insert_mut(number, || Conversation { seen: Seen::from(mark), at: now });
        let continuous = continuous_since.is_some_and(|since| since <= known.at);
        known.at = now;
        known.seen.take(mark, record, continuous)
    }

    fn missing(&self, conversation: u64) -> Option<(u32, u32)> {
        self.state.lock().conversations.peek(&conversation)?.seen.missing()
    }

    fn close_gap(&self, conversation: u64, fetched: Vec<Record>) -> Vec<Record> {
        let mut state = self.state.lock();
        let Some(known) = state.conversations.get_mut(&conversation) else { return Vec::new() };
        if !known.seen.has_gap() {
            return Vec::new();
        }
        let marked = |record: Record| (mark_of(&record.publish), record);
        known.seen.close(fetched.into_iter().map(marked).collect())
    }

    /// The conversations of the last minute, the newest first; of each the first message that did
    /// not come here, and when the last one came.
    fn recent(&self) -> Vec<(u64, u32, Instant)> {
        let now = Instant::now();
        let state = self.state.lock();
        let recent = state.conversations.iter().take(SWEEP_MAX);
        recent
            .take_while(|(_number, known)| now - known.at < SWEEP_BACK)
            .filter(|(_number, known)| !known.seen.has_gap())
            .map(|(number, known)| (*number, known.seen.next(), known.at))
            .collect()
    }
}

fn mark_of(publish: &Publish) -> Mark {
    Mark {
        msg_id: publish.msg_id,
        offset: publish.offset,
        prev_offset: publish.prev_offset,
        member_version: publish.member_version,
    }
}

/// When a published message was taken. Read from its frame, which only the few clients need that
/// hear of it this way.
fn create_time(publish: &Publish) -> Option<u32> {
    use prost::Message;

    let body = publish.frame.get(proto::limits::HEADER_LEN..)?;
    client::MessageData::decode(body).ok().map(|message| message.create_time)
}

/// The fields that clients with the extension get beyond what all clients get.
fn extension(publish: &Publish) -> Vec<u8> {
    use prost::Message;

    let client_msg_id = publish.client_msg_id.clone();
    client::MessageExtension { client_msg_id, resend: None }.encode_to_vec()
}

/// Whether a record changes who is in a group.
fn changes_members(publish: &Publish) -> bool {
    publish.msg_id == 0
}
