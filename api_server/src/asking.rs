//! Questions to the db_proxies, and what programs are told when there is no good answer.

use std::time::Duration;

use axum::http::StatusCode;
use daemon::CallError;
use db_client::{DbClient, SendError};
use proto::StorageCommand;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminError, AdminRequest, AskStatus, Reason};
use proto::ids::UserId;
use tokio::time::Instant;

use crate::keys::Key;
use crate::problem::Problem;

/// The code of what a hook has refused.
const REFUSED_BY_HOOK: &str = "refused_by_hook";

/// How long a call may wait for a partition to have an owner, and for an answer.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Has something carried out in the name of a key.
pub(crate) async fn administer(
    client: &DbClient,
    key: &Key,
    what: What,
) -> Result<AdminAnswer, Problem> {
    let request = AdminRequest { what: Some(what), by: Some(key.name.clone()) };
    let answer = client.administer(&request, Instant::now() + CALL_LIMIT, Duration::ZERO).await;
    checked(answer)
}

/// The same, where there is nothing to be told but that it is done.
pub(crate) async fn carry_out(
    client: &DbClient,
    key: &Key,
    what: What,
) -> Result<StatusCode, Problem> {
    administer(client, key, what).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer, if it is a good one.
pub(crate) fn checked(answer: Result<AdminAnswer, CallError>) -> Result<AdminAnswer, Problem> {
    let answer = answer.map_err(not_answered)?;
    if answer.done {
        return Ok(answer);
    }
    let code = answer.error_code();
    let detail = answer.error.unwrap_or_default();
    Err(match code {
        AdminError::Invalid => Problem::invalid(detail),
        AdminError::NotFound => Problem::not_found(detail),
        AdminError::Taken => Problem::new(StatusCode::CONFLICT, "taken", detail),
        AdminError::NotNow => Problem::unavailable(detail),
        AdminError::Other => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed")
        }
    })
}

fn not_answered(_error: CallError) -> Problem {
    Problem::unavailable("storage has not answered: the request may have been carried out")
}

/// Asks what a client asks, as a user.
pub(crate) async fn ask<R: prost::Message + Default>(
    client: &DbClient,
    user: UserId,
    command: StorageCommand,
    request: &impl prost::Message,
) -> Result<R, Problem> {
    let until = Instant::now() + CALL_LIMIT;
    let answer = client.ask(user, command, request, until).await;
    let answer = answer.map_err(|_error| Problem::unavailable("storage has not answered"))?;
    match answer.status() {
        AskStatus::Answered => {}
        // A client would hear nothing.
        AskStatus::Ignored => return Err(Problem::not_found("there is no such conversation")),
        AskStatus::Unavailable | AskStatus::NotOwner => {
            return Err(Problem::unavailable("storage cannot answer now"));
        }
    }
    let body = answer.body.unwrap_or_default();
    R::decode(body).map_err(|_error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "storage gave a bad answer")
    })
}

/// Why a message was not sent.
pub(crate) fn not_sent(error: SendError) -> Problem {
    let reason = match error {
        SendError::Refused(reason) => reason,
        SendError::RefusedByHook(why) => {
            let detail =
                if why.is_empty() { "a hook of the site refused it".to_owned() } else { why };
            return Problem::new(StatusCode::FORBIDDEN, REFUSED_BY_HOOK, detail);
        }
        SendError::TimedOut => {
            return Problem::unavailable(
                "storage has not answered: send it again with the same Idempotency-Key",
            );
        }
    };
    let reason = reason.and_then(|reason| i32::try_from(reason).ok());
    let reason = reason.and_then(|reason| Reason::try_from(reason).ok()).unwrap_or(Reason::None);
    let forbidden = |code, detail: &'static str| Problem::new(StatusCode::FORBIDDEN, code, detail);
    match reason {
        Reason::NotMember => forbidden("not_member", "the sender is not a member"),
        Reason::Blocked => forbidden("blocked", "the recipient does not hear the sender"),
        Reason::Muted => forbidden("muted", "the sender may not write there now"),
        Reason::NoSuchPeer => Problem::not_found("the sender or the recipient does not exist"),
        Reason::NoSuchGroup => Problem::not_found("the group does not exist"),
        Reason::Empty => Problem::invalid("the message is empty"),
        Reason::TooLarge => Problem::invalid("the message is too long"),
        Reason::BadType => Problem::invalid("there is no such kind of message"),
        Reason::Self_ => Problem::invalid("nobody writes to themselves"),
        Reason::IdReused => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "the Idempotency-Key was used for another message",
        ),
        Reason::Full => {
            Problem::new(StatusCode::CONFLICT, "full", "the conversation has used up its numbers")
        }
        Reason::SlowDown => Problem::too_many("the sender writes too much", Duration::from_secs(1)),
        Reason::ByHook => forbidden(REFUSED_BY_HOOK, "a hook of the site refused it"),
        Reason::None | Reason::NotKnown => forbidden("refused", "the message was refused"),
    }
}

#[cfg(test)]
mod tests {
    use daemon::{ClusterConfig, LinkOptions, Role, Secret, Shutdown};
    use proto::cluster::wire::{ApiKeyLine, UserFind};
    use tokio::sync::watch;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn storage_that_is_away_is_waited_for_and_then_the_program_is_told_to_ask_again() {
        let key = Some(Secret::new("sixteen bytes, at least"));
        let cluster = ClusterConfig { key, ..ClusterConfig::default() };
        let identity = cluster.link_identity(Role::ApiServer, 1).unwrap();
        let (shutdown, (_nowhere, targets)) = (Shutdown::default(), watch::channel(Vec::new()));
        let client = DbClient::connect(targets, identity, LinkOptions::default(), &shutdown);
        let (began, key) = (Instant::now(), Key::of(ApiKeyLine::default()));
        let asked = administer(&client, &key, What::UserFind(UserFind::default())).await;
        assert_eq!(asked.unwrap_err().code(), "unavailable");
        assert_eq!(began.elapsed().as_secs(), CALL_LIMIT.as_secs());
        shutdown.begin();
        shutdown.drain(CALL_LIMIT).await.unwrap();
    }

    #[test]
    fn what_an_administrator_is_refused_has_a_code_for_programs() {
        let code = |error: AdminError| {
            let answer = AdminAnswer { error_code: Some(error.into()), ..AdminAnswer::default() };
            checked(Ok(answer)).unwrap_err().code()
        };
        assert_eq!(code(AdminError::Invalid), "invalid");
        assert_eq!(code(AdminError::NotFound), "not_found");
        assert_eq!(code(AdminError::Taken), "taken");
        assert_eq!(code(AdminError::NotNow), "unavailable");
        assert_eq!(code(AdminError::Other), "internal");
        assert_eq!(checked(Err(CallError::Closed)).unwrap_err().code(), "unavailable");
    }

    #[test]
    fn a_message_that_was_refused_has_a_code_for_programs() {
        let code = |reason: Reason| {
            let reason = u32::try_from(i32::from(reason)).ok();
            not_sent(SendError::Refused(reason)).code()
        };
        for (reason, expected) in [
            (Reason::NotMember, "not_member"),
            (Reason::Blocked, "blocked"),
            (Reason::Muted, "muted"),
            (Reason::NoSuchPeer, "not_found"),
            (Reason::NoSuchGroup, "not_found"),
            (Reason::Empty, "invalid"),
            (Reason::IdReused, "idempotency_key_reused"),
            (Reason::Full, "full"),
            (Reason::SlowDown, "too_many_requests"),
        ] {
            assert_eq!(code(reason), expected, "{reason:?}");
        }
        assert_eq!(not_sent(SendError::TimedOut).code(), "unavailable");
        for (why, detail) in [("no", "no"), ("", "a hook of the site refused it")] {
            let refused = not_sent(SendError::RefusedByHook(why.to_owned()));
            assert_eq!((refused.code(), refused.detail()), ("refused_by_hook", detail));
        }
        assert_eq!(not_sent(SendError::Refused(Some(4_000))).code(), "refused");
    }
}
