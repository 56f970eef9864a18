//! Checks logins.
//!
//! # Invariants
//!
//! - An unknown name costs as much and answers the same as a wrong password.
//! - Guessing is slowed down, and no other login ([`guesses`]). A client that has to wait is told so at
//!   once, and no hash is computed.
//! - Only users with status 0 log in (TeamTalk protocol, login).
//! - A login that is turned away because too many are being checked is answered "not available", and
//!   does not count as a failure: the password may be right.

use std::sync::Arc;

use cache::Cache;
use prost::Message as _;
use proto::client::LoginResult;
use proto::cluster::wire::{Resume, Verified, Verify};
use proto::ids::UserId;
use store::{Store, UserChange, UserRow};
use tracing::debug;

use crate::login::guesses::{Guesses, Ruling, Who, network};
use crate::metrics::LoginMetrics;
use crate::names::NAME_MAX;
use crate::passwords::{Pair, Passwords, Verdict};
use crate::profiles::Profiles;
use crate::tokens::{Resumed, Tokens};

pub mod guesses;

/// The longest credential that is looked at, in bytes.
const CREDENTIAL_MAX: usize = 128;

const WELCOME: &str = "成功";
const WRONG: &str = "用户名/密码错误";
const OVER: &str = "登录已失效，请重新输入密码";

/// The login side. Clones share everything.
#[derive(Debug, Clone)]
pub struct Logins {
    store: Arc<dyn Store>,
    passwords: Passwords,
    guesses: Guesses,
    metrics: LoginMetrics,
    profiles: Profiles,
    tokens: Tokens,
}

/// What checks passwords.
#[derive(Debug, Clone)]
pub struct Checks {
    /// Computes hashes.
    pub passwords: Passwords,
    /// Counts wrong ones.
    pub guesses: Guesses,
}

/// What became of a login.
enum Checked {
    Right {
        /// A hash was computed, and the stored one should be made anew.
        is_below_policy: bool,
    },
    Wrong,
    /// Not looked at: too many failures.
    Wait,
    /// Not looked at: too many are being checked.
    Busy,
}

/// A stored hash that should be made anew.
#[derive(Debug)]
pub struct Below {
    user: UserId,
    stored: String,
    credential: String,
}

impl Logins {
    /// Checks against `store`; profiles live in `cache`.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<dyn Cache>,
        checks: Checks,
        tokens: Tokens,
        metrics: LoginMetrics,
    ) -> Self {
        let profiles = Profiles::new(Arc::clone(&store), cache);
        let Checks { passwords, guesses } = checks;
        Self { store, passwords, guesses, metrics, profiles, tokens }
    }

    /// Logins without a password.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The password side, for administrators.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// What is counted of wrong passwords, for administrators.
    pub fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    /// The store of users.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The users of the store as others see them, and their changes.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Counts the answer to a login with a password.
    pub fn count(&self, verified: &Verified) {
        match verified.user {
            Some(_) => self.metrics.logins.inc(),
            None => self.metrics.logins_refused.inc(),
        };
    }

    /// Checks a login. Says also if the stored hash should be made anew, which may be done later.
    pub async fn verify(&self, verify: Verify) -> (Verified, Option<Below>) {
        let Verify { name, credential, address, .. } = verify;
        if name.len() > NAME_MAX || credential.len() > CREDENTIAL_MAX {
            return (refused(LoginResult::BadCredentials, WRONG), None);
        }
        let row = match self.store.user_by_name(name.clone()).await {
            Ok(row) => row,
            Err(error) => {
                debug!(%error, "a login cannot be checked");
                return (unavailable(), None);
            }
        };
        let who = Who { name, network: network(&address) };
        let told = match self.judge(&who, row.as_ref(), &credential).await {
            Checked::Right { is_below_policy } => {
                if let Some(row) = row.filter(|row| row.status == UserRow::EMPLOYED) {
                    let below = is_below_policy.then(|| Below {
                        user: row.id,
                        stored: row.password_hash.clone(),
                        credential,
                    });
                    return (accepted(row), below);
                }
                Checked::Wrong
            }
            told => told,
        };
        let refused = match told {
            Checked::Right { .. } | Checked::Wrong => refused(LoginResult::BadCredentials, WRONG),
            Checked::Wait => refused(LoginResult::BadCredentials, "登录失败次数过多，请稍后再试"),
            // Not "wrong": a client that is told so does not try again.
            Checked::Busy => refused(LoginResult::NoDbServer, "服务繁忙，请稍后再试"),
        };
        (refused, None)
    }

    /// Checks a login by a token or a ticket. Says also whose sessions of which client kind are to end,
    /// because the token was copied.
    pub async fn resume(&self, shown: Resume) -> (Verified, Option<(UserId, u32)>) {
        let resumed = match (&shown.token, &shown.ticket) {
            (Some(token), None) => self.tokens.resume(token).await,
            (None, Some(ticket)) => self.tokens.redeem(ticket).await,
            _ => Resumed::Void,
        };
        let LoginMetrics { resumed: good, resumed_alone, resumes_refused, tokens_copied, .. } =
            &self.metrics;
        match resumed {
            Resumed::Good(row, client_type) => {
                good.inc();
                (Verified { client_type: Some(client_type), ..accepted(*row) }, None)
            }
            Resumed::Alone(user, client_type) => {
                resumed_alone.inc();
                let known = self.profiles.kept(user).await;
                let verified = Verified {
                    result: LoginResult::Accepted as u32,
                    text: WELCOME.to_owned(),
                    user_info: known.map(|info| info.encode_to_vec().into()),
                    user: Some(user.0),
                    stamp: Some(0),
                    client_type: Some(client_type),
                };
                (verified, None)
            }
            Resumed::Copied(user, client_type) => {
                tokens_copied.inc();
                resumes_refused.inc();
                (refused(LoginResult::BadCredentials, OVER), Some((user, client_type)))
            }
            Resumed::Void => {
                resumes_refused.inc();
                (refused(LoginResult::BadCredentials, OVER), None)
            }
            Resumed::NotNow => (unavailable(), None),
        }
    }

    async fn judge(&self, who: &Who, row: Option<&UserRow>, credential: &str) -> Checked {
        let stored = row.map(|row| row.password_hash.as_str());
        let pair = Pair { name: &who.name, stored, credential };
        if let Some(told) = self.without_hash(who, row, &pair).await {
            return told;
        }
        let Some(turn) = self.passwords.turn(&who.network, row.is_some()).await else {
            return Checked::Busy;
        };
        // Others have failed meanwhile, or the same was checked for another device.
        if let Some(told) = self.without_hash(who, row, &pair).await {
            return told;
        }
        self.metrics.hashes.inc();
        let verdict = self.passwords.check(turn, &pair, &who.network).await;
        let seen = self.guesses.seen(who).await;
        match verdict {
            Verdict::Right => {
                self.let_in(who, row, &seen);
                let is_below_policy =
                    pair.stored.is_some_and(|s| self.passwords.is_below_policy(s));
                Checked::Right { is_below_policy }
            }
            Verdict::Wrong => {
                self.guesses.failed(who, &seen);
                Checked::Wrong
            }
            Verdict::Busy => Checked::Busy,
        }
    }

    /// What can be told of a pair without a hash; `None` if it is to be checked.
    async fn without_hash(
        &self,
        who: &Who,
        row: Option<&UserRow>,
        pair: &Pair<'_>,
    ) -> Option<Checked> {
        let known = self.passwords.recall(pair);
        // The same guess again is none.
        if known == Some(Verdict::Wrong) {
            return Some(Checked::Wrong);
        }
        let seen = self.guesses.seen(who).await;
        match self.guesses.ruling(&seen) {
            Ruling::Wait => Some(Checked::Wait),
            _ if known == Some(Verdict::Right) => {
                self.let_in(who, row, &seen);
                Some(Checked::Right { is_below_policy: false })
            }
            Ruling::LookUp => {
                if self.passwords.is_new(pair) {
                    self.guesses.not_found(who, &seen);
                }
                Some(Checked::Wait)
            }
            Ruling::Check => None,
        }
    }

    fn let_in(&self, who: &Who, row: Option<&UserRow>, seen: &guesses::Seen) {
        if row.is_some_and(|row| row.status == UserRow::EMPLOYED) {
            self.guesses.succeeded(who, seen);
        }
    }

    /// Makes a stored hash anew, unless it was changed meanwhile. What fails now is done after the next
    /// login.
    pub async fn raise(&self, below: Below) {
        let Below { user, stored, credential } = below;
        let raised = match self.passwords.hash(credential).await {
            Ok(hash) => hash,
            Err(error) => {
                debug!(%error, "a hash is not raised now");
                return;
            }
        };
        let change = UserChange::Rehash { from: stored, to: raised };
        if let Err(error) = self.store.change_user(user, change).await {
            debug!(%error, "a hash is not raised now");
        }
    }
}

fn accepted(row: UserRow) -> Verified {
    Verified {
        result: LoginResult::Accepted as u32,
        text: WELCOME.to_owned(),
        stamp: Some(row.stamp),
        user: Some(row.id.0),
        user_info: Some(row.into_info().encode_to_vec().into()),
        client_type: None,
    }
}

/// The answer to a login that cannot be checked now.
pub fn unavailable() -> Verified {
    refused(LoginResult::NoDbServer, "服务暂不可用")
}

fn refused(result: LoginResult, text: &str) -> Verified {
    Verified { result: result as u32, text: text.to_owned(), ..Verified::default() }
}
