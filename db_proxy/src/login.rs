//! Who may log in.
//!
//! # Invariants
//!
//! - An unknown name costs as much and answers the same as a wrong password.
//! - After [`FAILURES_MAX`] failures of one name within [`FAILURES_WITHIN`] the rest of that time is
//!   refused, right or wrong; the same for one address at ten times as many.
//! - Only users with status 0 log in (TeamTalk protocol, login).
//! - Whoever is turned away because too many are being checked is told that the service is not
//!   available, and counts as no failure: he may be right.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use proto::client::LoginResult;
use proto::cluster::wire::{Verified, Verify};
use tracing::debug;

use crate::cache::profiles::Profiles;
use crate::cache::{Cache, Throttle};
use crate::metrics::RequestMetrics;
use crate::passwords::{Passwords, Verdict};
use crate::queries::people::user_info;
use crate::store::Store;

/// Failures of one name before it has to wait (TeamTalk protocol, login: more than 10).
pub const FAILURES_MAX: u32 = 10;

/// The time in which they count.
pub const FAILURES_WITHIN: Duration = Duration::from_mins(30);

/// Failures of one address: many people may sit behind it.
const ADDRESS_FAILURES_MAX: u32 = 10 * FAILURES_MAX;

/// The longest name and credential that are looked at, in bytes.
const NAME_MAX: usize = 128;

/// The status of a user who may log in.
const STATUS_EMPLOYED: u32 = 0;

/// The login side. Clones share everything.
#[derive(Debug, Clone)]
pub struct Logins {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    passwords: Passwords,
    metrics: RequestMetrics,
    profiles: Profiles,
}

impl Logins {
    /// Checks against `store`; throttles and profiles live in `cache`.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<dyn Cache>,
        passwords: Passwords,
        metrics: RequestMetrics,
    ) -> Self {
        let profiles = Profiles::new(Arc::clone(&store), Arc::clone(&cache));
        Self { store, cache, passwords, metrics, profiles }
    }

    /// The password side, for administrators.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The store of users.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The users of the store as others see them, and their changes.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Checks a login.
    pub async fn verify(&self, verify: Verify) -> Verified {
        let throttles = [
            Throttle::name(&verify.name, FAILURES_MAX, FAILURES_WITHIN),
            Throttle::address(&verify.address, ADDRESS_FAILURES_MAX, FAILURES_WITHIN),
        ];
        if self.cache.is_throttled(&throttles).await {
            return refused(LoginResult::BadCredentials, "登录失败次数过多，请稍后再试");
        }
        if verify.name.len() > NAME_MAX || verify.credential.len() > NAME_MAX {
            return refused(LoginResult::BadCredentials, "用户名/密码错误");
        }
        let row = match self.store.user_by_name(verify.name).await {
            Ok(row) => row,
            Err(error) => {
                debug!(%error, "a login cannot be checked");
                return unavailable();
            }
        };
        let stored = row.as_ref().map(|row| row.password_hash.as_str());
        let (verdict, hashed) = self.passwords.verify(stored, &verify.credential).await;
        if hashed {
            self.metrics.hashes.inc();
        }
        match (verdict, row) {
            (Verdict::Right, Some(row)) if row.status == STATUS_EMPLOYED => Verified {
                result: LoginResult::Accepted as u32,
                text: "成功".to_owned(),
                user: Some(row.id.0),
                user_info: Some(user_info(row).encode_to_vec().into()),
            },
            // Not "wrong": whoever is told that does not try again.
            (Verdict::Busy, _) => refused(LoginResult::NoDbServer, "服务繁忙，请稍后再试"),
            _ => {
                self.cache.count_failure(&throttles);
                refused(LoginResult::BadCredentials, "用户名/密码错误")
            }
        }
    }
}

/// The answer to a login that cannot be checked now.
pub(crate) fn unavailable() -> Verified {
    refused(LoginResult::NoDbServer, "服务暂不可用")
}

fn refused(result: LoginResult, text: &str) -> Verified {
    Verified { result: result as u32, text: text.to_owned(), user: None, user_info: None }
}
