//! What comes in on links: requests of gateways and administrators, and how they are answered.
//!
//! Sends go straight to the partition's queue, in the order of the link. Everything else becomes a
//! task of its own, of which there is a bounded number ([`Bounds`]), for conversations and for logins
//! apart; beyond, a request is turned away at once ("unavailable"), never queued.

use std::sync::Arc;

use bytes::Bytes;
use daemon::{Link, LinkError, LinkFrame, LinkHandler, Role, Shutdown};
use fold::admission::{Change, Message};
use fold::window::{Connection, Frame, Identity, content_crc};
use logins::kicks::Kicks;
use logins::login::{self, Logins};
use logins::tokens::Told;
use parking_lot::Mutex;
use partition::publisher::seconds;
use partition::{self, Reply};
use proto::cluster::wire::{
    AdminAnswer, AdminError, AdminRequest, Answer, Ask, AskStatus, Consume, FetchRequest, Fetched,
    Follow, Handled, HookVerdict, Memberships, MembershipsRequest, Origin, Outcome, Resume, Submit,
    SubmitAnswer, TokenAnswer, TokenQuestion, Verified, Verify, token_answer,
};
use proto::cluster::{Kind, device_class};
use proto::ids::{ClientMsgId, ConversationId, Offset, UserId};
use proto::limits::{HOOK_NAME_LEN_MAX, HOOKS_MAX};
use proto::lists::Placeholders;
use proto::log;
use tokio::sync::Semaphore;
use tracing::{debug, debug_span, warn};

use crate::admin;
use crate::commands;
use crate::commands::asker::Asker;
use crate::commands::group_limits::GroupLimits;
use crate::commands::reply::unavailable;
use crate::metrics::RequestMetrics;
use crate::partitions::Partitions;

/// The handler of all links that others dial.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    partitions: Arc<Partitions>,
    logins: Logins,
    kicks: Arc<Kicks>,
    placeholders: Placeholders,
    bounds: Bounds,
    slots: Slots,
    metrics: RequestMetrics,
    shutdown: Shutdown,
}

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// What belongs to conversations.
    pub(crate) partitions: Arc<Partitions>,
    /// What belongs to users.
    pub(crate) logins: Logins,
    /// The way to the sessions that are to end.
    pub(crate) kicks: Arc<Kicks>,
    /// What lists show in place of messages.
    pub(crate) placeholders: Placeholders,
}

/// How many requests are answered at the same time. Each holds one page of a reply at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// About conversations.
    pub(crate) requests: usize,
    /// Logins, and about users. 0: these are not served here.
    pub(crate) logins: usize,
    /// How many groups a user may have.
    pub(crate) groups: GroupLimits,
}

/// Room for requests: that of one kind is not taken by the other.
#[derive(Debug, Clone)]
struct Slots {
    requests: Arc<Semaphore>,
    logins: Arc<Semaphore>,
}

impl Links {
    /// Answers from `sources`; tasks belong to `shutdown`.
    pub(crate) fn new(
        sources: Sources,
        bounds: Bounds,
        metrics: RequestMetrics,
        shutdown: Shutdown,
    ) -> Self {
        let Sources { partitions, logins, kicks, placeholders } = sources;
        let slots = Slots {
            requests: Arc::new(Semaphore::new(bounds.requests)),
            logins: Arc::new(Semaphore::new(bounds.logins)),
        };
        Self { partitions, logins, kicks, placeholders, bounds, slots, metrics, shutdown }
    }

    /// Waits until no request is being answered.
    pub(crate) async fn idle(&self) {
        let Bounds { requests, logins, .. } = self.bounds;
        for (slots, all) in [(&self.slots.requests, requests), (&self.slots.logins, logins)] {
            let all = u32::try_from(all).unwrap_or(u32::MAX);
            if slots.acquire_many(all).await.is_err() {
                debug!("nobody closes the semaphore");
            }
        }
    }

    fn submit(&self, link: &Link, submit: &Submit) {
        let Some(send) = read_submit(submit) else {
            link.reset("it submits what cannot be read");
            return;
        };
        debug!(message = %send.identity.client_msg_id, from = %link.peer().name, "submitted");
        let link = link.clone();
        let undecided = SubmitAnswer {
            sender: submit.sender,
            client_msg_id: Bytes::copy_from_slice(&submit.client_msg_id),
            outcome: Outcome::Retry as i32,
            msg_id: None,
            create_time: None,
            reason: None,
            conversation: submit.conversation,
            epoch: submit.epoch,
        };
        // The log says whether it is ours.
        let partition = self.partitions.number_of(send.conversation);
        let epoch = submit.epoch;
        let served = self.partitions.owned(partition);
        let served = served.filter(|served| epoch.is_none_or(|epoch| epoch == served.owned.epoch));
        let reply: Reply = Box::new(move |outcome| {
            let answer = decided(undecided, &outcome);
            if link.send(Kind::SubmitAnswer.number(), 0, &answer).is_err() {
                // The gateway asks again for what it has no answer to once it is back.
                link.reset("it does not take answers");
            }
        });
        match served {
            Some(served) => served.partition.submit(Change::Send(send), reply),
            None => reply(partition::Outcome::Moved),
        }
    }

    /// Answers one request in a task of its own, or at once by `overloaded`. A question that cannot be
    /// read resets the link, room or not.
    fn answer<Q, R>(
        &self,
        link: &Link,
        frame: LinkFrame,
        overloaded: &R,
        answer: impl AnswerFn<Q, R>,
    ) where
        Q: Question,
        R: prost::Message + 'static,
    {
        // Not much: what the question holds in bytes stays where it is.
        let Some(question) = link.read::<Q>(&frame) else { return };
        let Slots { requests, logins } = &self.slots;
        let slots = if question.is_for_logins() { logins } else { requests };
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            self.metrics.overloaded.inc();
            send_answer(link, &frame, overloaded);
            return;
        };
        let (this, link) = (self.clone(), link.clone());
        let span = debug_span!("request", from = %link.peer().name, request = frame.request);
        self.shutdown.spawn(span, async move {
            let reply = answer.call(this, question).await;
            send_answer(&link, &frame, &reply);
            drop(slot);
        });
    }

    async fn ask(self, ask: Ask) -> Answer {
        let asker = Asker {
            client_type: ask.client_type,
            origin: ask.origin,
            rest: ask.rest,
            ..self.asker(ask.user, ask.partitions)
        };
        let answer = commands::answer(&asker, ask.command, ask.body).await;
        match AskStatus::try_from(answer.status) {
            Ok(AskStatus::Unavailable) => self.metrics.unavailable.inc(),
            _ => self.metrics.answered.inc(),
        };
        answer
    }

    fn asker(&self, user: u32, asked: Vec<u32>) -> Asker {
        Asker {
            user: UserId(user),
            client_type: 0,
            origin: Origin::default(),
            partitions: Arc::clone(&self.partitions),
            asked,
            rest: None,
            logins: self.logins.clone(),
            groups: self.bounds.groups,
            placeholders: self.placeholders.clone(),
            by: Mutex::default(),
        }
    }

    async fn verify(self, verify: Verify) -> Verified {
        let (verified, below) = self.logins.verify(verify).await;
        if let Some(below) = below {
            // No more of them than hashes are computed.
            let logins = self.logins.clone();
            let span = debug_span!("raise a hash");
            self.shutdown.spawn(span, async move { logins.raise(below).await });
        }
        self.logins.count(&verified);
        verified
    }

    async fn resume(self, shown: Resume) -> Verified {
        let (verified, copied) = self.logins.resume(shown).await;
        if let Some((user, client_type)) = copied {
            // One of them may be that of the copied token.
            self.kicks.end_sessions_of(user, device_class(client_type));
        }
        verified
    }

    async fn token(self, question: TokenQuestion) -> TokenAnswer {
        answer_of_tokens(self.logins.tokens().answer(question).await)
    }

    async fn memberships(self, request: MembershipsRequest) -> Memberships {
        commands::groups::memberships(&self.asker(request.user, request.partitions)).await
    }

    async fn fetch(self, request: FetchRequest) -> Fetched {
        let id = ConversationId::from_number(request.conversation);
        let Some(served) = id.and_then(|id| self.partitions.of(id)) else {
            return Fetched::default();
        };
        #[cfg(feature = "faults")]
        if let Some(nothing) = commands::mutants::nothing_missed(&request) {
            return Fetched { by: Some(served.owned), ..nothing };
        }
        commands::missed::fetch(served.partition.state(), &request, served.owned).await
    }

    async fn administer(self, request: AdminRequest) -> AdminAnswer {
        admin::answer(&self.partitions, &self.logins, &self.kicks, request).await
    }
}

/// What may be asked over a link.
trait Question: prost::Message + Default + 'static {
    /// Whether it takes the room of logins, and not that of requests about conversations.
    fn is_for_logins(&self) -> bool {
        false
    }
}

impl Question for Ask {
    fn is_for_logins(&self) -> bool {
        commands::is_for_logins(self)
    }
}

impl Question for Verify {
    fn is_for_logins(&self) -> bool {
        true
    }
}

impl Question for Resume {
    fn is_for_logins(&self) -> bool {
        true
    }
}

impl Question for TokenQuestion {
    fn is_for_logins(&self) -> bool {
        true
    }
}

impl Question for MembershipsRequest {}
impl Question for FetchRequest {}
impl Question for AdminRequest {}

/// An async function from a question to its answer.
trait AnswerFn<Q, R>: Send + 'static {
    fn call(self, to: Links, question: Q) -> impl Future<Output = R> + Send;
}

impl<Q, R, F, Fut> AnswerFn<Q, R> for F
where
    F: FnOnce(Links, Q) -> Fut + Send + 'static,
    Fut: Future<Output = R> + Send,
{
    fn call(self, to: Links, question: Q) -> impl Future<Output = R> + Send {
        self(to, question)
    }
}

impl LinkHandler for Links {
    fn up(&self, link: &Link) {
        match link.peer().role {
            Role::MsgServer => {
                self.partitions.gateway_up(link);
                self.kicks.gateway_up(link);
            }
            Role::ApiServer | Role::Consumer | Role::Admin => self.partitions.asker_up(link),
            Role::LoginServer | Role::RouteServer | Role::DbProxy => {}
        }
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        let role = link.peer().role;
        match Kind::from_number(frame.kind) {
            Some(Kind::Admin) if matches!(role, Role::Admin | Role::ApiServer) => {
                let error = Some("too many requests are being answered".to_owned());
                let error_code = Some(AdminError::NotNow.into());
                let overloaded =
                    AdminAnswer { done: false, error, error_code, ..AdminAnswer::default() };
                self.answer(link, frame, &overloaded, Self::administer);
            }
            _ if role == Role::Admin => {
                link.reset("an administrator asks what only gateways may");
            }
            Some(Kind::Consume) if role == Role::Consumer => {
                if let Some(consume) = link.read::<Consume>(&frame) {
                    self.partitions.consume(link, consume);
                }
            }
            Some(Kind::Handled) if role == Role::Consumer => {
                if let Some(handled) = link.read::<Handled>(&frame) {
                    self.partitions.handled(link, &handled);
                }
            }
            _ if role == Role::Consumer => link.reset("a consumer asks what only gateways may"),
            Some(Kind::Submit) => {
                if let Some(submit) = link.read::<Submit>(&frame) {
                    self.submit(link, &submit);
                }
            }
            Some(Kind::Ask) => self.answer(link, frame, &unavailable(), Self::ask),
            Some(Kind::Verify) => self.answer(link, frame, &login::unavailable(), Self::verify),
            Some(Kind::Resume) => self.answer(link, frame, &login::unavailable(), Self::resume),
            Some(Kind::Token) => {
                self.answer(link, frame, &answer_of_tokens(Told::NotNow), Self::token);
            }
            Some(Kind::Memberships) => {
                self.answer(link, frame, &Memberships::default(), Self::memberships);
            }
            Some(Kind::Follow) => {
                if let Some(follow) = link.read::<Follow>(&frame) {
                    self.partitions.follow(link, &follow);
                }
            }
            Some(Kind::Fetch) => {
                self.answer(link, frame, &Fetched::default(), Self::fetch);
            }
            _ => debug!(kind = frame.kind, "a frame of this kind is not for this daemon"),
        }
    }

    fn down(&self, link: &Link) {
        self.partitions.gateway_down(link);
    }
}

fn send_answer(link: &Link, to: &LinkFrame, answer: &impl prost::Message) {
    match link.answer(to, to.kind, answer) {
        Ok(()) => {}
        Err(LinkError::Closed) => debug!("who asked has gone"),
        Err(LinkError::Full | LinkError::TooLong) => link.reset("it does not take answers"),
    }
}

fn answer_of_tokens(told: Told) -> TokenAnswer {
    let answer = |outcome: token_answer::Outcome| TokenAnswer {
        outcome: outcome.into(),
        secret: None,
        lifetime_s: None,
    };
    match told {
        Told::Done => answer(token_answer::Outcome::Done),
        Told::Secret(secret, lifetime_s) => TokenAnswer {
            secret: Some(secret.into()),
            lifetime_s: Some(lifetime_s),
            ..answer(token_answer::Outcome::Done)
        },
        Told::Refused => answer(token_answer::Outcome::Refused),
        Told::NotNow => answer(token_answer::Outcome::NotNow),
    }
}

fn read_submit(submit: &Submit) -> Option<Message> {
    let client_msg_id = ClientMsgId::from_slice(&submit.client_msg_id)?;
    let hooks = read_hooks(submit)?;
    // Only a hook changes what a sender has sent.
    let sent_crc = submit.sent_crc.filter(|_sent_crc| !hooks.is_empty());
    Some(Message {
        conversation: ConversationId::from_number(submit.conversation)?,
        identity: Identity {
            sender: UserId(submit.sender),
            client_msg_id,
            content_crc: sent_crc.unwrap_or_else(|| content_crc(submit.r#type, &submit.body)),
            frame: Frame {
                fingerprint: submit.fingerprint.unwrap_or(0),
                connection: Some(Connection {
                    gateway_boot: submit.origin.gateway_boot,
                    session: submit.origin.session,
                }),
                repeats_after: submit.may_repeat().then_some(Offset(0)),
            },
        },
        resend: submit.resend.unwrap_or(false),
        // Gateways of an older release do not say.
        first: submit.first.or(submit.resend).unwrap_or(false),
        waited_ms: submit.waited_ms,
        kind: submit.r#type,
        body: submit.body.clone(),
        origin: Some(submit.origin),
        known_only: submit.known_only(),
        hooks,
    })
}

/// What hooks have said of a message, as it goes into the log; `None` if that is too much, or cannot be read.
fn read_hooks(submit: &Submit) -> Option<Vec<log::HookVerdict>> {
    if submit.hooks.len() > HOOKS_MAX {
        return None;
    }
    let read = |verdict: &HookVerdict| {
        let outcome = i32::try_from(verdict.outcome).ok()?;
        log::HookOutcome::try_from(outcome).ok()?;
        let fits = (1..=HOOK_NAME_LEN_MAX).contains(&verdict.hook.len());
        fits.then(|| log::HookVerdict { hook: verdict.hook.clone(), outcome })
    };
    submit.hooks.iter().map(read).collect()
}

/// Enters an outcome into an answer that says "retry".
fn decided(mut answer: SubmitAnswer, outcome: &partition::Outcome) -> SubmitAnswer {
    match *outcome {
        partition::Outcome::Sent { conversation, msg_id, timestamp_ms } => {
            answer.outcome = Outcome::Ok as i32;
            answer.conversation = conversation.number();
            answer.msg_id = Some(msg_id.0);
            answer.create_time = Some(seconds(timestamp_ms));
        }
        partition::Outcome::Refused(reason) => {
            answer.outcome = Outcome::Refused as i32;
            answer.reason = Some(reason as i32);
        }
        partition::Outcome::Retry => {}
        partition::Outcome::Moved => answer.outcome = Outcome::Moved as i32,
        partition::Outcome::Members { .. } | partition::Outcome::Marked { .. } => {
            warn!("a message cannot end as a change of members or marks");
        }
    }
    answer
}

#[cfg(test)]
mod tests;
