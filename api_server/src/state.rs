//! What every call needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::clock::unix_s;
use daemon::http::ClientAddr;
use db_client::DbClient;
use proto::api_key::ApiKey;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminRequest, ApiKeyFind};
use proto::text::TextCipher;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::asking::{CALL_LIMIT, checked};
use crate::config::Config;
use crate::keys::{Key, Keys, hash};
use crate::metrics::ApiMetrics;
use crate::problem::Problem;

/// What every call needs.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) client: Arc<DbClient>,
    pub(crate) metrics: ApiMetrics,
    /// How the clients of this site encrypt texts.
    pub(crate) cipher: TextCipher,
    keys: Keys,
    /// A place for each request that is being answered.
    places: Semaphore,
}

impl Api {
    pub(crate) fn new(
        client: Arc<DbClient>,
        settings: &Config,
        cipher: TextCipher,
        metrics: ApiMetrics,
    ) -> Self {
        let keys = Keys::new(settings.requests_per_s);
        Self { client, metrics, cipher, keys, places: Semaphore::new(settings.requests_max) }
    }

    /// A place for a request, if there is one.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let place = self.places.try_acquire();
        place.map_err(|_full| Problem::unavailable("too many requests are being answered"))
    }

    /// The key that was shown, if it is valid and may be used now.
    pub(crate) async fn authenticate(
        &self,
        shown: Option<ApiKey>,
        from: Option<ClientAddr>,
    ) -> Result<Arc<Key>, Problem> {
        let too_many = |wait| {
            self.metrics.slowed_down.inc();
            Problem::too_many("too many requests", wait)
        };
        let (now, now_s) = (Instant::now(), u64::from(unix_s()));
        let was_valid = shown.as_ref().is_some_and(|shown| self.keys.was_valid(shown, now_s));
        if let Some(ClientAddr(from)) = from
            && !was_valid
        {
            self.keys.may_try(from, now).map_err(too_many)?;
        }
        let wrong = || {
            self.metrics.wrong_keys.inc();
            if let Some(ClientAddr(from)) = from {
                self.keys.was_wrong(from, now);
            }
            Problem::unauthorized()
        };
        let shown = shown.ok_or_else(wrong)?;
        let key = match self.keys.known(shown.id, now) {
            Some(key) => key,
            None => self.look_up(&shown).await?.ok_or_else(wrong)?,
        };
        if !key.is_valid(&shown, now_s) {
            return Err(wrong());
        }
        self.keys.take(shown.id, now).map_err(too_many)?;
        Ok(key)
    }

    /// Asks a db_proxy what it knows of a key. `None` if there is no such key.
    async fn look_up(&self, shown: &ApiKey) -> Result<Option<Arc<Key>>, Problem> {
        // What is said was so at the earliest now.
        let asked = Instant::now();
        let hash = Some(Bytes::copy_from_slice(hash(shown).as_ref()));
        let find = ApiKeyFind { id: shown.id.to_vec().into(), shown: hash };
        let request = AdminRequest { what: Some(What::ApiKeyFind(find)), by: None };
        let until = asked + CALL_LIMIT;
        let answer = self.client.administer(&request, until, Duration::ZERO).await;
        match checked(answer) {
            Ok(answer) => {
                let key = answer.api_keys.into_iter().next().map(Key::of);
                Ok(key.map(|key| self.keys.remember(shown.id, key, asked)))
            }
            Err(problem) if problem.code() == "not_found" => {
                self.keys.forget(shown.id);
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests;
