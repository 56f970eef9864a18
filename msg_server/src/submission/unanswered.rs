//! The way of a message from its sender to storage, and of the answer back to the sender.
//!
//! db_client knows which messages are unanswered, and which db_proxy owns their conversations
//! ([`db_client::sends`]).
//! Here a client's frame becomes a message, and what became of it becomes a frame to the client.
//!
//! # Invariants
//!
//! - A sender is told "stored" only after storage, or the hub on its behalf, has said so.
//! - Every message that a session has counted is counted out again, once ([`Outbox::end_send`]).
//!
//! # What bounds it
//!
//! `unanswered_max` messages of each client and `unanswered_bytes_total_max` of all; beyond, clients
//! are not read. Of what takes too long, clients with the extension are told to try again; others hear
//! nothing and mark it as failed.
//!
//! [`Outbox::end_send`]: crate::client::outbox::Outbox::end_send

use std::sync::{Arc, Weak};

use bytes::Bytes;
use daemon::Link;
use daemon::faults::{self, Mutant};
use db_client::Move;
use db_client::hooks::Hooks;
use db_client::sends::{self, End, Ended, Key, Taken, Told};
use proto::cluster::wire::{Submit, SubmitAnswer};
use proto::ids::{ClientMsgId, ConversationId, UserId};
use proto::{Command, client, encode_message};
use ring::digest;
use tokio::time::Instant;
use tracing::debug;

use crate::config::LimitsConfig;
use crate::metrics::{GatewayMetrics, SendEnd};
use crate::sessions::session::Session;

/// The unanswered messages of all clients.
#[derive(Debug)]
pub(crate) struct Unanswered {
    queues: db_client::Sends<Waiter>,
    bytes_max: usize,
    metrics: GatewayMetrics,
}

/// Who waits for an answer. The session may be gone by then.
#[derive(Debug)]
struct Waiter {
    session: Weak<Session>,
    seq: u16,
    to: u32,
}

/// A message as a client has sent it, checked.
#[derive(Debug)]
pub(crate) struct ClientMessage {
    pub(crate) conversation: ConversationId,
    pub(crate) message: client::MessageData,
    pub(crate) seq: u16,
    /// The client's own name for it.
    pub(crate) client_msg_id: Option<ClientMsgId>,
}

impl Unanswered {
    pub(crate) fn new(limits: &LimitsConfig, metrics: GatewayMetrics) -> Self {
        // As much as can be under way, and as much again that was sent before the client knew.
        let queues = db_client::Sends::new(2 * limits.unanswered_max as usize);
        Self { queues, bytes_max: limits.unanswered_bytes_total_max, metrics }
    }

    /// Whether all clients together have sent as much as may be unanswered.
    pub(crate) fn is_full(&self) -> bool {
        self.queues.size().1 >= self.bytes_max
    }

    /// Hands a message to storage. The session has counted it ([`Outbox::begin_send`]).
    ///
    /// [`Outbox::begin_send`]: crate::client::outbox::Outbox::begin_send
    pub(crate) fn submit(&self, session: &Arc<Session>, gateway_boot: u64, sent: ClientMessage) {
        let ClientMessage { conversation, message, seq, client_msg_id } = sent;
        let user = session.user();
        let is_named = client_msg_id.is_some();
        let id = client_msg_id.unwrap_or_else(minted_id);
        let to = message.to_session_id;
        let is_repeated = !is_named && session.repeats_frames() && seq != 0;
        let frame = is_repeated.then(|| fingerprint(user, conversation, seq, &message));
        let submit = Submit {
            origin: session.origin(gateway_boot),
            sender: user.0,
            conversation: conversation.number(),
            client_msg_id: Bytes::copy_from_slice(&id.0),
            resend: message.resend.filter(|_repeat| is_named),
            fingerprint: frame,
            // A client that repeats frames has one of them unanswered at a time.
            may_repeat: frame.map(|_| !session.outbox.frames_told().was_told_one()),
            r#type: u32::try_from(message.msg_type).unwrap_or(0),
            body: message.msg_data,
            ..Submit::default()
        };
        let waiter = Waiter { session: Arc::downgrade(session), seq, to };
        let key = Key { sender: user, id };
        let session = session.id();
        let outgoing = sends::Outgoing { submit, key, session, is_named, waiter };
        match self.queues.submit(outgoing) {
            Taken::UnderWay => {}
            Taken::Repeated(waiter) => waiter.waits_no_longer(),
            Taken::FrameRepeated(waiter) => {
                self.metrics.frames_repeated.inc();
                waiter.waits_no_longer();
            }
            Taken::Ended(ended) => self.ended(*ended),
        }
    }

    /// Whether a message is not answered yet.
    pub(crate) fn is_unanswered(&self, sender: UserId, id: ClientMsgId) -> bool {
        self.queues.is_unanswered(&Key { sender, id })
    }

    /// It is known how many partitions there are.
    pub(crate) fn set_partitions(&self, partitions: u32) {
        self.queues.set_partitions(partitions);
    }

    /// From now on these hooks are asked about messages.
    pub(crate) fn set_hooks(&self, hooks: Option<Arc<Hooks>>) {
        self.queues.set_hooks(hooks);
    }

    /// Asks them, as long as this is polled.
    pub(crate) async fn ask_hooks(&self) {
        self.queues.ask_hooks(|ended| self.ended(ended)).await;
    }

    /// Partitions have other owners, which from now on are those that are used.
    pub(crate) fn moved(&self, moves: &[Move<Link>]) {
        self.metrics.resubmitted.inc_by(self.queues.moved(moves) as u64);
    }

    /// Storage has answered.
    pub(crate) fn answered(&self, link: &Link, answer: &SubmitAnswer) {
        self.queues.answered(link, answer, |ended| self.ended(ended));
    }

    /// A message was published, so it is stored, whether or not the answer has come. Returns whom that is or was
    /// told.
    pub(crate) fn published(
        &self,
        sender: UserId,
        id: ClientMsgId,
        msg_id: u32,
        create_time: impl FnOnce() -> Option<u32>,
    ) -> Told {
        let (ended, told) = self.queues.published(&Key { sender, id }, msg_id);
        if let Some(ended) = ended {
            let create_time = if ended.is_named { create_time() } else { None };
            self.ended(Ended { end: End::Stored { msg_id, create_time }, ..ended });
        }
        told
    }

    /// What is done every 100 ms: tries again, and gives up.
    pub(crate) fn tick(&self, now: Instant) {
        let resubmitted = self.queues.tick(now, |ended| self.ended(ended));
        self.metrics.resubmitted.inc_by(resubmitted as u64);
        let (count, bytes) = self.queues.size();
        self.metrics.unanswered.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.metrics.unanswered_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Tells the sender what became of a message, as far as its client has a frame for that.
    fn ended(&self, ended: Ended<Waiter>) {
        match ended.end {
            End::Stored { msg_id, .. } if planted_refusal(msg_id) => {
                let end = End::Refused(Some(client::RefuseReason::NotMember as u32));
                self.not_stored(&Ended { end, ..ended });
            }
            End::Stored { msg_id, create_time } => self.stored(ended, msg_id, create_time),
            End::Retry | End::Refused(_) | End::RefusedByHook(_) => self.not_stored(&ended),
        }
    }

    fn stored(&self, ended: Ended<Waiter>, msg_id: u32, create_time: Option<u32>) {
        let Ended { submit, is_named, waiter, since, .. } = ended;
        self.metrics.send_ended(SendEnd::Accepted);
        let Some(session) = waiter.session.upgrade() else { return };
        let session_type = session_type_of(submit.conversation);
        let frame = frame_of(&submit);
        let answer = if is_named {
            let result = client::SendResult {
                client_msg_id: submit.client_msg_id,
                outcome: client::SendOutcome::Ok.into(),
                msg_id: Some(msg_id),
                session_id: Some(waiter.to),
                session_type: Some(session_type.into()),
                reason: None,
                create_time,
                reason_text: None,
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
        self.metrics.acknowledge.observe(since.elapsed());
    }

    /// Old clients have no answer for a message that was not stored: they get none.
    fn not_stored(&self, ended: &Ended<Waiter>) {
        let Ended { submit, is_named, waiter, end, .. } = ended;
        let (label, outcome, reason) = match end {
            End::Refused(reason) => (SendEnd::Refused, client::SendOutcome::Refused, *reason),
            End::RefusedByHook(_why) => {
                let reason = Some(client::RefuseReason::ByHook as u32);
                (SendEnd::Refused, client::SendOutcome::Refused, reason)
            }
            End::Retry | End::Stored { .. } => (SendEnd::Retry, client::SendOutcome::Retry, None),
        };
        self.metrics.send_ended(label);
        debug!(sender = submit.sender, ?outcome, reason, "a message was not stored");
        let Some(session) = waiter.session.upgrade() else { return };
        let answer = is_named.then(|| {
            let result = client::SendResult {
                client_msg_id: submit.client_msg_id.clone(),
                outcome: outcome.into(),
                msg_id: None,
                session_id: Some(waiter.to),
                session_type: Some(session_type_of(submit.conversation).into()),
                reason: reason.and_then(|reason| i32::try_from(reason).ok()),
                create_time: None,
                reason_text: match end {
                    End::RefusedByHook(why) => Some(why.clone()).filter(|why| !why.is_empty()),
                    _ => None,
                },
            };
            encode_message(Command::SendResult, waiter.seq, &result)
        });
        match frame_of(submit).filter(|_| *end == End::Retry) {
            Some(id) => session.outbox.give_up_frame(id),
            None => session.outbox.end_send(answer),
        }
    }
}

impl Waiter {
    /// Another frame is answered in its place.
    fn waits_no_longer(&self) {
        if let Some(session) = self.session.upgrade() {
            session.outbox.end_send(None);
        }
    }
}

/// Whether a stored message is told as refused, for [`Mutant::RefusedIsStored`].
fn planted_refusal(msg_id: u32) -> bool {
    faults::planted(Mutant::RefusedIsStored) && msg_id.is_multiple_of(50)
}

/// The id of a message that came in a frame which its client may repeat.
fn frame_of(submit: &Submit) -> Option<ClientMsgId> {
    submit.fingerprint.and_then(|_| ClientMsgId::from_slice(&submit.client_msg_id))
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
    user: UserId,
    conversation: ConversationId,
    seq: u16,
    message: &client::MessageData,
) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&user.0.to_be_bytes());
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
    use std::time::Duration;

    use proto::client::MessageType;
    use proto::ids::{GroupId, UserId};

    use super::*;
    use crate::client::outbox::{Outbox, OutboxPool};
    use crate::sessions::session::Login;

    fn print(user: u32, conversation: ConversationId, seq: u16, words: &str) -> u64 {
        let group = conversation.as_group().is_some();
        let kind = if group { MessageType::GroupText } else { MessageType::SingleText };
        let message = client::MessageData {
            msg_type: kind.into(),
            msg_data: words.to_owned().into(),
            ..Default::default()
        };
        fingerprint(UserId(user), conversation, seq, &message)
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
    fn a_frame_that_storage_never_answers_is_known_as_given_up() {
        const WINDOWS: u32 = 1;
        let (limits, metrics) = (LimitsConfig::default(), GatewayMetrics::default());
        let outbox = Outbox::queued(Arc::new(OutboxPool::new(&limits, metrics.clone())));
        let login = Login { id: 3, user: UserId(1), client_type: WINDOWS };
        let session = Arc::new(Session::new(login, Arc::new(outbox), 2, 0));
        let messages = Unanswered::new(&limits, metrics);
        assert!(session.outbox.begin_send());
        let conversation = ConversationId::single(UserId(1), UserId(2)).unwrap();
        let message = client::MessageData {
            to_session_id: 2,
            msg_type: MessageType::SingleText.into(),
            msg_data: "hello".to_owned().into(),
            ..Default::default()
        };
        let sent = ClientMessage { conversation, message, seq: 9, client_msg_id: None };
        messages.submit(&session, 1, sent);
        messages.tick(Instant::now());
        assert_eq!(session.outbox.frames_told().given_up, None, "it is under way");
        messages.tick(Instant::now() + Duration::from_secs(16));
        let told = session.outbox.frames_told();
        assert!(told.given_up.is_some() && !told.unanswered);
    }

    #[test]
    fn an_answer_says_whether_it_is_about_a_group() {
        let two = ConversationId::single(UserId(1), UserId(2)).unwrap();
        let group = ConversationId::group(GroupId(2)).unwrap();
        assert_eq!(session_type_of(two.number()), client::SessionType::Single);
        assert_eq!(session_type_of(group.number()), client::SessionType::Group);
    }

    #[test]
    fn a_name_that_is_made_begins_with_the_time_and_is_no_other() {
        let before = daemon::clock::unix_ms();
        let (one, other) = (minted_id(), minted_id());
        let after = daemon::clock::unix_ms();
        // The first 48 bits (RFC 9562, 5.7).
        let time_ms = |id: ClientMsgId| {
            id.0[..6].iter().fold(0, |time_ms, byte| time_ms << 8 | u64::from(*byte))
        };
        assert!((before..=after).contains(&time_ms(one)), "{before} {} {after}", time_ms(one));
        assert_ne!(one, other);
    }
}
