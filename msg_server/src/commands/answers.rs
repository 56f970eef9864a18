//! Requests that others answer: storage, the hub, or another client.
//!
//! Each runs beside its connection, which reads nothing more until it is done.

use std::sync::Arc;
use std::time::Duration;

use db_client::owners::{ASK_LIMIT, Asked};
use prost::Message;
use proto::client::{self, UserStatus};
use proto::cluster::wire::{Answer, AskStatus, Forward, Kick, StatusRequest};
use proto::ids::UserId;
use proto::{Command, Frame, StorageCommand, encode_message};
use tokio::time::Instant;
use tracing::debug;

use crate::client::closing::CloseReason;
use crate::commands::answer_parts::{self, Begun, reply};
use crate::commands::login;
use crate::commands::terms::{Continuation, Notice, Terms};
use crate::commands::tokens;
use crate::gateway::Gateway;
use crate::parts::Parts;
use crate::sessions::session::Session;
use crate::updates::marks::Mark;

/// How long a logout waits for read marks: clients wait 5 s for its answer.
const LOGOUT_MARKS_LIMIT: Duration = Duration::from_secs(2);

/// Kick reason of the client protocol: the user's phone asked for it.
const BY_MOBILE: u32 = 2;

/// Users whose state one request may ask for: the answer stays below the clients' limit.
pub(crate) const STATUS_MAX: usize = 20_000;

/// The reason in a refusal that says only "not now".
const NOT_NOW: u32 = 0;

/// A request that storage answers.
pub(crate) struct Request {
    pub(crate) command: StorageCommand,
    pub(crate) terms: Terms,
    pub(crate) frame: Frame,
    /// Where the answer may have been begun before.
    pub(crate) begun: Option<Arc<Begun>>,
}

/// Passes a request on to storage, writes the answer, in as many frames as it takes, and tells others
/// what they are to hear of it.
pub(crate) async fn ask(gateway: Arc<Gateway>, session: Arc<Session>, request: Request) {
    let Request { command, terms, frame: request, begun } = request;
    let until = Instant::now() + ASK_LIMIT;
    if terms.marks_first {
        gateway.flush_marks(session.user(), until).await;
    }
    let rest = begun.as_ref().and_then(|begun| begun.begins_at(command, &request.body));
    let asked = Asked { command, body: request.body.clone(), rest };
    let by = gateway.parts.asker(&session);
    let answer = gateway.parts.storage.ask(by, asked.clone(), until).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            debug!(%error, command = command.command().name(), "not answered");
            return unavailable(&gateway.parts, &session, &request);
        }
    };
    match (answer.status(), reply(&answer, request.seq)) {
        (AskStatus::Answered, Some(reply)) => {
            session.outbox.answer(reply);
            tell(&gateway, &session, terms.notice, &request, &answer);
            if let Some(begun) = begun {
                begun.told(command, &request.body, answer.rest);
            }
            if !session.outbox.is_extended() || terms.continuation == Continuation::Told {
                let seq = request.seq;
                answer_parts::go_on(&gateway.parts, &session, asked, seq, answer.rest).await;
            }
        }
        (AskStatus::Ignored, _) => {}
        (AskStatus::Unavailable | AskStatus::NotOwner | AskStatus::Answered, _) => {
            unavailable(&gateway.parts, &session, &request);
        }
    }
}

/// Old clients have no answer for "not now": they get none.
fn unavailable(parts: &Parts, session: &Session, request: &Frame) {
    parts.metrics.asks_unanswered.inc();
    if session.outbox.is_extended() {
        let refused = client::Refused { command: u32::from(request.command), reason: NOT_NOW };
        session.outbox.answer(encode_message(Command::Refused, request.seq, &refused));
    }
}

/// What others hear of an answered request.
fn tell(gateway: &Gateway, session: &Session, notice: Notice, request: &Frame, answer: &Answer) {
    let body = answer.body.clone().unwrap_or_default();
    match notice {
        Notice::Nothing => {}
        Notice::Signature => gateway.signature_changed(session, request, body),
        Notice::Avatar => gateway.avatar_changed(session, request, body),
        Notice::SessionRemoved => {
            if answer.changed()
                && let Ok(reply) = client::RemoveSessionReply::decode(body)
                && reply.result_code == 0
            {
                let notify = client::SessionRemovedNotify {
                    user_id: session.user().0,
                    session_type: reply.session_type,
                    session_id: reply.session_id,
                };
                let by = gateway.parts.asker(session);
                gateway.tell_others(by, Command::SessionRemovedNotify, &notify);
            }
        }
    }
}

/// Stores a read mark that may not wait.
pub(crate) async fn mark_read(gateway: Arc<Gateway>, mark: Mark) {
    gateway.store_marks(vec![mark]).await;
}

/// Says who is online.
pub(crate) async fn users_status(
    gateway: Arc<Gateway>,
    session: Arc<Session>,
    request: Frame,
    mut users: Vec<u32>,
) {
    users.truncate(STATUS_MAX);
    session.watch(users.iter().map(|user| UserId(*user)), gateway.parts.limits.watched_max);
    let question = gateway.presence.asks();
    let key = u64::from(session.user().0);
    let asked = StatusRequest { users };
    let Some(status) = gateway.parts.hub.status(&asked, key).await else {
        return unavailable(&gateway.parts, &session, &request);
    };
    let mut online = status.online;
    online.sort_unstable();
    let entry = |user_id| {
        let is_online = online.binary_search(&user_id).is_ok();
        let status = if is_online { UserStatus::Online } else { UserStatus::Offline };
        client::UserStatusEntry { user_id, status: status.into() }
    };
    let reply = client::UsersStatusReply {
        user_id: session.user().0,
        users: asked.users.into_iter().map(entry).collect(),
        attach_data: None,
    };
    session.outbox.answer(encode_message(Command::UsersStatusReply, request.seq, &reply));
    if session.is_pc() {
        for news in question.news_of(&reply.users) {
            session.push(&news);
        }
    }
}

/// Ends a session on the client's wish. Storage forgets where the push messages of a phone go.
pub(crate) async fn log_out(gateway: Arc<Gateway>, session: Arc<Session>, request: Frame) {
    // A client whose logout is answered counts on its read marks.
    gateway.flush_marks(session.user(), Instant::now() + LOGOUT_MARKS_LIMIT).await;
    tokens::end(&gateway.parts, &session, &request).await;
    if !session.is_pc() {
        let (asker, body) = (gateway.parts.asker(&session), request.body.clone());
        let until = Instant::now() + ASK_LIMIT;
        let asked = Asked::of(StorageCommand::LogoutRequest, body);
        let asked = gateway.parts.storage.ask(asker, asked, until).await;
        if let Err(error) = asked {
            debug!(%error, "a device token may not be forgotten");
        }
    }
    session.outbox.finish(Some(login::logout_reply(request.seq)), CloseReason::LoggedOut);
}

/// Passes a signal on to the recipient's sessions and the sender's others.
pub(crate) fn pass_on(gateway: &Gateway, session: &Session, mut signal: client::PeerSignal) {
    signal.from_user_id = session.user().0;
    let mut users = vec![signal.to_user_id, session.user().0];
    users.dedup();
    let forward = Forward {
        users,
        everybody: None,
        except: Some(session.origin(gateway.parts.boot)),
        device_class: None,
        frame: encode_message(Command::PeerSignal, 0, &signal),
    };
    gateway.forward(&forward, u64::from(signal.to_user_id));
}

/// Throws out the user's PC clients, if a phone asks for it.
pub(crate) fn kick_pc(gateway: &Gateway, session: &Session, seq: u16) {
    if session.is_pc() {
        return;
    }
    let kick = Kick {
        verified_before: None,
        user: session.user().0,
        device_class: Some(0),
        reason: Some(BY_MOBILE),
        ..Kick::default()
    };
    gateway.kicked(&kick);
    if !gateway.parts.hub.kick(&kick) {
        gateway.parts.metrics.forwards_lost.inc();
    }
    let reply = client::KickPcReply { user_id: session.user().0, result_code: 0 };
    session.outbox.answer(encode_message(Command::KickPcReply, seq, &reply));
}
