//! A client of the db_proxies for a daemon that has no connections of users of its own. It sends as
//! users, asks as users and administers, also while partitions move to other owners.
//!
//! # Invariants
//!
//! - A message that was sent is stored once, however often it had to be handed over: every try carries the
//!   same name.
//! - An answer is one of the newest owner known here ([`Owners`]).
//!
//! # What bounds it
//!
//! Every call waits until a time that the caller names. The caller bounds how many calls there are at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::link::{self, LinkHandler};
use daemon::{CallError, Identity, Link, LinkFrame, LinkOptions, Role, Shutdown};
use prost::Message;
use proto::StorageCommand;
use proto::cluster::Kind;
use proto::cluster::wire::{
    AdminAnswer, AdminRequest, Answer, Origin, Ownership, Submit, SubmitAnswer,
};
use proto::ids::{ClientMsgId, ConversationId, MsgId, UserId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, info_span};

use crate::claims::Move;
use crate::hooks::Hooks;
use crate::owners::{Asked, Asker, Owners};
use crate::partitions::Partitions;
use crate::sends::{End, Ended, Key, Outgoing, Sends, Taken};

/// How often unanswered messages are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Before a message that could not be stored is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Messages of one call that are remembered after they were given back. There is one.
const GIVEN_BACK_MAX: usize = 1;

/// The client kind that requests are asked with: a program, which is neither a phone nor a PC.
const CLIENT_TYPE: u32 = 0;

/// A daemon's links to all db_proxies of its cluster.
#[derive(Debug)]
pub struct DbClient {
    owners: Owners,
    partitions: Arc<Partitions>,
    sends: Sends<oneshot::Sender<End>>,
    boot: u64,
    /// Each message is a session of its own: none waits for another, but in its owner's log.
    next_session: AtomicU64,
}

/// A message to be sent as a user.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Whose message it is.
    pub sender: UserId,
    /// Where it is said.
    pub conversation: ConversationId,
    /// The sender's name for it. The same name again is the same message: it is stored once.
    pub client_msg_id: ClientMsgId,
    /// The client protocol's message type.
    pub kind: u32,
    /// The body, as clients send it.
    pub body: Bytes,
    /// Whether it may have been sent before, by this process or another one.
    pub resend: bool,
}

/// A message that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its number in its conversation.
    pub msg_id: MsgId,
    /// When it was stored, in Unix seconds, where the owner has said so.
    pub create_time: Option<u32>,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It was refused, and is not stored. The number is a `Reason` of the cluster's protocol.
    #[error("refused, reason {0:?}")]
    Refused(Option<u32>),
    /// A hook of the site has refused it, and it is not stored: why, in the hook's words.
    #[error("refused by a hook")]
    RefusedByHook(String),
    /// It is unknown whether it is stored. The same message with `resend` may be sent again.
    #[error("not answered in time")]
    TimedOut,
}

/// What comes in on the links.
#[derive(Debug)]
struct Handler(Arc<DbClient>);

impl DbClient {
    /// Links to the db_proxies at `targets` (`host:port`), which may change, until `shutdown` closes links.
    /// Returns at once.
    pub fn connect(
        targets: watch::Receiver<Vec<String>>,
        identity: Identity,
        options: LinkOptions,
        shutdown: &Shutdown,
    ) -> Arc<Self> {
        let partitions = Arc::new(Partitions::default());
        let client = Arc::new(Self {
            owners: Owners::new(Arc::clone(&partitions)),
            partitions,
            sends: Sends::new(GIVEN_BACK_MAX),
            boot: identity.boot,
            next_session: AtomicU64::new(1),
        });
        let handler = Arc::new(Handler(Arc::clone(&client)));
        link::dial(targets, identity, Role::DbProxy, handler, options, shutdown);
        let (working, closing) = (Arc::clone(&client), shutdown.clone());
        shutdown.spawn_link(info_span!("db_client"), async move {
            tokio::select! {
                () = closing.closing_links() => {}
                () = working.tick() => {}
                () = working.sends.ask_hooks(tell) => {}
            }
        });
        client
    }

    /// How many partitions the cluster has; 0 before a db_proxy has said so.
    pub fn partitions(&self) -> u32 {
        self.partitions.count()
    }

    /// Waits until every partition has an owner that is linked; false if that is not so by then.
    /// Cancel-safe.
    pub async fn ready(&self, until: Instant) -> bool {
        timeout_at(until, self.owners.whole()).await.is_ok()
    }

    /// Whether every partition has an owner that is linked.
    pub fn is_ready(&self) -> bool {
        self.owners.is_whole()
    }

    /// Sends a message, and again after every answer but "stored" and "refused". If this is dropped, the
    /// message may be stored all the same.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub async fn send(&self, mut message: NewMessage, until: Instant) -> Result<Sent, SendError> {
        loop {
            let (waiter, answer) = oneshot::channel();
            self.hand_over(&message, waiter);
            // The channel is closed only if the same message is sent once more meanwhile.
            let end = timeout_at(until, answer).await.map_err(|_late| SendError::TimedOut)?;
            match end.unwrap_or(End::Retry) {
                End::Stored { msg_id, create_time } => {
                    return Ok(Sent { msg_id: MsgId(msg_id), create_time });
                }
                End::Refused(reason) => return Err(SendError::Refused(reason)),
                End::RefusedByHook(reason) => return Err(SendError::RefusedByHook(reason)),
                End::Retry => message.resend = true,
            }
            let again = Instant::now() + AGAIN_AFTER;
            if again >= until {
                return Err(SendError::TimedOut);
            }
            sleep_until(again).await;
        }
    }

    /// From now on these hooks are asked about what is sent.
    pub fn set_hooks(&self, hooks: Option<Arc<Hooks>>) {
        self.sends.set_hooks(hooks);
    }

    fn hand_over(&self, message: &NewMessage, waiter: oneshot::Sender<End>) {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let NewMessage { sender, conversation, client_msg_id, kind, body, resend } = message;
        let submit = Submit {
            origin: Origin { gateway_boot: self.boot, session },
            sender: sender.0,
            conversation: conversation.number(),
            client_msg_id: Bytes::copy_from_slice(&client_msg_id.0),
            resend: Some(*resend),
            r#type: *kind,
            body: body.clone(),
            ..Submit::default()
        };
        let key = Key { sender: *sender, id: *client_msg_id };
        let outgoing = Outgoing { submit, key, session, is_named: true, waiter };
        match self.sends.submit(outgoing) {
            Taken::UnderWay => {}
            // The earlier call finds its channel closed, sends the message again, and waits for that.
            Taken::Repeated(earlier) | Taken::FrameRepeated(earlier) => drop(earlier),
            Taken::Ended(ended) => tell(*ended),
        }
    }

    /// Asks what a client asks, as a user: `body` is the encoded request of the client protocol, and the
    /// answer's body the encoded reply.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`] if there was no answer that counts until then; [`CallError::Closed`] if it is
    /// unknown whether a change was carried out.
    pub async fn ask(
        &self,
        user: UserId,
        command: StorageCommand,
        body: &impl Message,
        until: Instant,
    ) -> Result<Answer, CallError> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { gateway_boot: self.boot, session };
        let asker = Asker { user, client_type: CLIENT_TYPE, origin };
        let asked = Asked::of(command, body.encode_to_vec().into());
        self.owners.ask(asker, asked, until).await
    }

    /// Has an administrator's request carried out.
    ///
    /// # Errors
    ///
    /// As of [`Owners::administer`].
    pub async fn administer(
        &self,
        request: &AdminRequest,
        until: Instant,
        grace: Duration,
    ) -> Result<AdminAnswer, CallError> {
        self.owners.administer(request, until, grace).await
    }

    async fn tick(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sends.tick(Instant::now(), tell);
        }
    }
}

/// Tells the call that waits for the answer. It may have been dropped meanwhile.
fn tell(ended: Ended<oneshot::Sender<End>>) {
    if ended.waiter.send(ended.end).is_err() {
        debug!("nobody waits for the answer to a message");
    }
}

impl LinkHandler for Handler {
    fn up(&self, link: &Link) {
        // Nothing is asked of it before it has said what it owns.
        self.0.owners.up(link);
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        let client = &self.0;
        match Kind::from_number(frame.kind) {
            Some(Kind::Ownership) => {
                let begin = |partitions| {
                    client.sends.set_partitions(partitions);
                    client.partitions.set(partitions);
                };
                let Some(ownership) = link.read::<Ownership>(&frame) else { return };
                let moved = |moves: &[Move<Link>]| {
                    client.sends.moved(moves);
                };
                if let Err(why) = client.owners.claimed(link, ownership, begin, moved) {
                    link.reset(why);
                }
            }
            Some(Kind::SubmitAnswer) => {
                if let Some(answer) = link.read::<SubmitAnswer>(&frame) {
                    client.sends.answered(link, &answer, tell);
                }
            }
            _ => debug!(kind = frame.kind, ?link, "not for this daemon"),
        }
    }

    fn down(&self, link: &Link) {
        self.0.owners.down(link, |moves| {
            self.0.sends.moved(moves);
        });
    }
}

#[cfg(test)]
mod tests;
