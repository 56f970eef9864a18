//! From a name and a password to a session.
//!
//! The order is what makes it safe: the hub is told of the session before storage is asked for its
//! groups, so that every change from then on reaches us; what comes meanwhile waits until the
//! login is answered.
//!
//! A login counts from when its request came, not from when it was checked: a user may have given up
//! waiting for it, and have logged in elsewhere meanwhile.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use daemon::clock::{unix_ms, unix_s};
use db_client::owners::Joined;
use prost::Message;
use proto::client::{self, LoginResult, UserStatus};
use proto::cluster::wire::{InterestChange, Membership, Resume, Verified, Verify};
use proto::ids::{GroupId, UserId};
use proto::seat::Judgement;
use proto::{Command, encode_message};
use tokio::time::Instant;
use tracing::debug;

use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;
use crate::cluster::hub::{Announced, Settled};
use crate::commands::tokens;
use crate::gateway::Gateway;
use crate::metrics::LoginLabel;
use crate::parts::Parts;
use crate::sessions::session::{Login, Session};

/// Kick reason of the client protocol: another device of the class has logged in.
const OTHER_LOGIN: u32 = 1;

/// How often an epoch is raised during a login. What is larger still is met by the kicks that follow.
const EPOCH_ROUNDS: u32 = 3;

const WELCOME: &str = "welcome";
const CHANGED: &str = "the account was changed a moment ago, log in again";
const TRY_LATER: &str = "the service is not available, try again later";

/// A session's place here and in the hub, given up when dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    gateway: Arc<Gateway>,
    pub(crate) session: Arc<Session>,
}

/// Who asks, and from where.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) address: IpAddr,
    pub(crate) seq: u16,
    pub(crate) proof: Proof,
}

/// What a client shows of itself.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Name and password.
    Password(client::LoginRequest),
    /// A token or a ticket.
    Shown(client::ResumeRequest),
}

impl Proof {
    fn online_status(&self) -> i32 {
        match self {
            Self::Password(request) => request.online_status,
            Self::Shown(request) => request.online_status.unwrap_or_default(),
        }
    }

    fn token(&self) -> Option<Bytes> {
        match self {
            Self::Password(_) => None,
            Self::Shown(request) => request.token.clone(),
        }
    }
}

/// When a request came, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Came {
    unix_ms: u64,
    /// Since the start of the gateway.
    us: u64,
}

/// A login that is not accepted.
#[derive(Debug)]
struct Refusal {
    result: u32,
    text: String,
}

impl Refusal {
    fn unavailable(result: LoginResult) -> Self {
        Self { result: u32::try_from(i32::from(result)).unwrap_or(6), text: TRY_LATER.to_owned() }
    }
}

/// Logs a client in, or ends its connection after telling it why not.
pub(crate) async fn log_in(gateway: Arc<Gateway>, attempt: Attempt) -> Option<Entered> {
    let (came, since) = (Came { unix_ms: unix_ms(), us: gateway.parts.now_us() }, Instant::now());
    let Attempt { outbox, seq, .. } = &attempt;
    let metrics = &gateway.parts.metrics;
    let count = |result| metrics.logins.get_or_create(&LoginLabel { result }).inc();
    match accept(&gateway, &attempt, came).await {
        Ok((entered, reply, pc_online)) => {
            count(0);
            outbox.release(encode_message(Command::LoginReply, *seq, &reply));
            metrics.login.observe(since.elapsed());
            if pc_online && !entered.session.is_pc() {
                let user_id = entered.session.user().0;
                let notify = client::PcStatusNotify { user_id, status: UserStatus::Online.into() };
                entered.session.push(&encode_message(Command::PcStatusNotify, 0, &notify));
            }
            entered.session.login_answered();
            tokens::give(&gateway.parts, &entered.session, attempt.proof.token());
            Some(entered)
        }
        Err(Refusal { result, text }) => {
            count(result);
            debug!(result, "login refused");
            let reply = client::LoginReply {
                server_time: unix_s(),
                result: i32::try_from(result).unwrap_or(LoginResult::BadCredentials.into()),
                result_text: Some(text),
                online_status: None,
                user_info: None,
            };
            let reply = encode_message(Command::LoginReply, *seq, &reply);
            outbox.finish(Some(reply), CloseReason::LoginRefused);
            metrics.login.observe(since.elapsed());
            None
        }
    }
}

async fn accept(
    gateway: &Arc<Gateway>,
    attempt: &Attempt,
    came: Came,
) -> Result<(Entered, client::LoginReply, bool), Refusal> {
    let parts = &gateway.parts;
    let Right { user, info, stamp, client_type } = verify(parts, attempt).await?;
    // Before it displaces others.
    refuse_ended(parts, user, stamp)?;
    let login = Login { id: parts.registry.next_session_id(), user, client_type };
    attempt.outbox.hold();
    let partitions = parts.partitions.count();
    let outbox = Arc::clone(&attempt.outbox);
    let session = Session::new(login, outbox, partitions, stamp).came_at(came.us);
    let session = Arc::new(session);
    parts.logbook.enter(&session, attempt.address, unix_s());
    let (entered, announced) = Entered::enter(gateway, session, came.unix_ms);
    // From here on a kick finds it; one that came before has been noted.
    refuse_ended(parts, user, stamp)?;
    let settled = entered.register(announced).await;
    // A client that is thrown out already is answered all the same, and told so then.
    if !entered.session.is_over() {
        entered.join_groups().await?;
    }

    let asked = UserStatus::try_from(attempt.proof.online_status());
    let reply = client::LoginReply {
        server_time: unix_s(),
        result: LoginResult::Accepted.into(),
        result_text: Some(WELCOME.to_owned()),
        online_status: Some(asked.unwrap_or(UserStatus::Online).into()),
        user_info: Some(info),
    };
    Ok((entered, reply, settled.pc_online()))
}

/// A login that was checked and accepted.
#[derive(Debug)]
struct Right {
    user: UserId,
    /// With a token there may be no more in it than the number of the user.
    info: client::UserInfo,
    /// The stamp of the user's row that this was checked against.
    stamp: u32,
    client_type: u32,
}

/// The password was changed, or the account disabled, since the login was checked.
fn refuse_ended(parts: &Parts, user: UserId, stamp: u32) -> Result<(), Refusal> {
    if parts.kicks.has_ended(user, stamp, Instant::now()) {
        let result = u32::try_from(i32::from(LoginResult::BadCredentials)).unwrap_or(6);
        return Err(Refusal { result, text: CHANGED.to_owned() });
    }
    Ok(())
}

/// Asks storage who this is.
async fn verify(parts: &Parts, attempt: &Attempt) -> Result<Right, Refusal> {
    let unavailable = || Refusal::unavailable(LoginResult::NoDbServer);
    let verified = match &attempt.proof {
        Proof::Password(request) => {
            let verify = Verify {
                name: request.user_name.clone(),
                credential: request.password.clone(),
                client_type: client_type(request),
                address: attempt.address.to_string(),
            };
            let client_type = Some(verify.client_type);
            // Every client with a password needs its own record.
            parts.storage.verify(&verify).await.map(|verified| {
                let user = verified.user.filter(|_user| verified.user_info.is_some());
                Verified { client_type, user, ..verified }
            })
        }
        Proof::Shown(request) => {
            let (token, ticket) = (request.token.clone(), request.ticket.clone());
            parts.storage.resume(&Resume { token, ticket }).await
        }
    };
    let verified = verified.map_err(|error| {
        debug!(%error, "cannot verify a login");
        unavailable()
    })?;
    match verified {
        Verified {
            result: 0,
            user: Some(user),
            client_type: Some(client_type),
            user_info,
            stamp,
            ..
        } if user != 0 => {
            let number_alone = || client::UserInfo { user_id: user, ..client::UserInfo::default() };
            let info = user_info.map(client::UserInfo::decode).transpose();
            let info = info.map_err(|_malformed| unavailable())?.unwrap_or_else(number_alone);
            Ok(Right { user: UserId(user), info, stamp: stamp.unwrap_or(0), client_type })
        }
        // Accepted without a user: that is not an answer.
        Verified { result: 0, .. } => Err(unavailable()),
        Verified { result, text, .. } => Err(Refusal { result, text }),
    }
}

fn client_type(request: &client::LoginRequest) -> u32 {
    u32::try_from(request.client_type).unwrap_or(1)
}

impl Entered {
    /// Enters a session, and throws out those that it displaces here.
    fn enter(gateway: &Arc<Gateway>, session: Arc<Session>, epoch: u64) -> (Self, Announced) {
        let parts = &gateway.parts;
        let order = parts.hub.in_order();
        let displaced = parts.registry.enter(&session, epoch);
        let announced = order.announce(&InterestChange {
            add_users: vec![session.claim(parts.now_us())],
            ..InterestChange::default()
        });
        drop(order);
        for older in displaced {
            older.kick(Some(OTHER_LOGIN));
        }
        (Self { gateway: Arc::clone(gateway), session }, announced)
    }

    /// Waits for the hub, and raises the epoch above every other that the hub knows of a login which
    /// came before this one. Without a hub the login goes on, unlike in the original: the owner serves
    /// us directly, what does not reach us comes with the cursor, and other sessions of the class end
    /// when a replica is back.
    async fn register(&self, announced: Announced) -> Settled {
        let Self { gateway, session } = self;
        let parts = &gateway.parts;
        let mut settled = parts.hub.settle(announced).await;
        for _round in 0..EPOCH_ROUNDS {
            let Some(announced) = self.raise_epoch(&settled) else { break };
            settled = parts.hub.settle(announced).await;
        }
        let order = parts.hub.in_order();
        let stays = session.settle();
        drop(order);
        if !stays {
            session.kick(Some(OTHER_LOGIN));
        }
        settled
    }

    /// Reads the user's groups, and lets the hub know of those that are new here.
    async fn join_groups(&self) -> Result<(), Refusal> {
        let Self { gateway, session } = self;
        let parts = &gateway.parts;
        let Some(Joined { groups, mut reached }) = parts.storage.memberships(session.user()).await
        else {
            return Err(Refusal::unavailable(LoginResult::NoDbServer));
        };
        // The client will ask for everything that is known by now.
        for (partition, reached) in (0..).zip(&mut reached) {
            *reached = (*reached).max(gateway.delivery.cursor(partition).unwrap_or(0));
        }
        session.set_floors(&reached);
        let Some((add_groups, announced)) = self.announce_groups(&groups) else {
            return Ok(());
        };
        parts.hub.settle(announced).await;
        parts.registry.confirm(&add_groups);
        Ok(())
    }

    /// Announces a larger epoch, if the answers demand one.
    fn raise_epoch(&self, settled: &Settled) -> Option<Announced> {
        let Self { gateway, session } = self;
        let parts = &gateway.parts;
        let order = parts.hub.in_order();
        let now_us = parts.now_us();
        let mut rises = false;
        for answer in &settled.answers {
            rises |= session.hear(answer, now_us) == Judgement::Rises;
        }
        let add_users = vec![session.claim(now_us)];
        rises.then(|| order.announce(&InterestChange { add_users, ..InterestChange::default() }))
    }

    /// Enters the session into its groups; `None` if the hub knows all of them as ours.
    fn announce_groups(&self, groups: &[Membership]) -> Option<(Vec<GroupId>, Announced)> {
        let Self { gateway, session } = self;
        let parts = &gateway.parts;
        let order = parts.hub.in_order();
        let add_groups = parts.registry.join_all(session, groups);
        if add_groups.is_empty() {
            return None;
        }
        let announced = order.announce(&InterestChange {
            // A change that adds a user is confirmed; to add the same one again changes nothing.
            add_users: vec![session.claim(parts.now_us())],
            add_groups: add_groups.iter().map(|group| group.0).collect(),
            ..InterestChange::default()
        });
        Some((add_groups, announced))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gateway.leave(&self.session);
    }
}

/// The reply to a logout.
pub(crate) fn logout_reply(seq: u16) -> Bytes {
    encode_message(Command::LogoutReply, seq, &client::LogoutReply { result_code: 0 })
}
