//! Resume tokens and tickets, as far as a gateway has to do with them: it passes them on and keeps none.
//!
//! Nobody waits for a token: it comes after the answer to the login, and a client that gets none goes on
//! with the one it has.

use std::sync::Arc;

use bytes::Bytes;
use proto::client::{LogoutRequest, ResumeToken, TicketReply, TicketRequest};
use proto::cluster::wire::token_question::What;
use proto::cluster::wire::{TicketGive, TokenAnswer, TokenGive, TokenQuestion, token_answer};
use proto::{Command, Frame, encode_message};
use tracing::debug;

use crate::parts::Parts;
use crate::sessions::session::Session;

/// Of [`TicketReply::result_code`].
const DONE: u32 = 0;
const REFUSED: u32 = 1;
const NOT_NOW: u32 = 2;

/// After a login: gets a token for the client, if it wants one. `shown` is the token that the login was
/// with. A ticket counts as a password here: a new family begins.
pub(crate) fn give(parts: &Arc<Parts>, session: &Arc<Session>, shown: Option<Bytes>) {
    if !session.outbox.keeps_tokens() {
        return;
    }
    let (to, session) = (Arc::clone(parts), Arc::clone(session));
    parts.spawn(async move {
        let give =
            TokenGive { client_type: session.login.client_type, stamp: session.verified, shown };
        let Some(TokenAnswer { secret: Some(token), lifetime_s, .. }) =
            ask(&to, &session, What::Give(give)).await
        else {
            return;
        };
        let token = ResumeToken { token, lifetime_s: lifetime_s.unwrap_or(0) };
        session.push(&encode_message(Command::ResumeToken, 0, &token));
    });
}

/// The client has a token, and the one before it ends. Nothing of the client's waits for that.
pub(crate) fn kept(parts: &Arc<Parts>, session: &Arc<Session>, token: Bytes) {
    let (to, session) = (Arc::clone(parts), Arc::clone(session));
    parts.spawn(async move {
        ask(&to, &session, What::Kept(token)).await;
    });
}

/// The client logs out: its token ends, if it says which.
pub(crate) async fn end(parts: &Parts, session: &Session, request: &Frame) {
    if session.outbox.is_extended()
        && let Ok(LogoutRequest { token: Some(token) }) = request.parse()
    {
        ask(parts, session, What::End(token)).await;
    }
}

/// Answers with something that lets another client of the user log in.
pub(crate) async fn ticket(
    parts: Arc<Parts>,
    session: Arc<Session>,
    request: TicketRequest,
    seq: u16,
) {
    let client_type = u32::try_from(request.client_type).unwrap_or(0);
    let give = TicketGive { token: request.token, client_type };
    let answer = ask(&parts, &session, What::Ticket(give)).await;
    let reply = match answer {
        Some(TokenAnswer { secret: Some(ticket), lifetime_s, .. }) => {
            TicketReply { result_code: DONE, ticket: Some(ticket), lifetime_s }
        }
        Some(answer) if answer.outcome() == token_answer::Outcome::Refused => {
            TicketReply { result_code: REFUSED, ..TicketReply::default() }
        }
        _ => TicketReply { result_code: NOT_NOW, ..TicketReply::default() },
    };
    session.outbox.answer(encode_message(Command::TicketReply, seq, &reply));
}

async fn ask(parts: &Parts, session: &Session, what: What) -> Option<TokenAnswer> {
    let question = TokenQuestion { user: session.user().0, what: Some(what) };
    let answer = parts.storage.token(&question).await;
    answer.inspect_err(|error| debug!(%error, "a question about tokens is not answered")).ok()
}
