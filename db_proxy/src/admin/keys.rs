//! Keys of programs that use the HTTP API.

use std::time::Duration;

use daemon::clock::unix_s;
use logins::names::check_key_name;
use logins::tokens::text::{SECRET_LEN, hash, random};
use proto::api_key::{ApiKey, Scope};
use proto::cluster::wire::{AdminAnswer, ApiKeyCreate, ApiKeyFind, ApiKeyLine, ApiKeyRevoke};
use store::keys::{ApiKeyId, ApiKeyRow};
use tracing::debug;

use super::{Admin, AdminError, Done, Problem, done};

/// Keys that a site may have.
pub(crate) const KEYS_MAX: usize = 1_000;

/// The longest that a key may be valid for, unless it is for ever.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// How exactly it is known when a key was used last, seconds.
const USED_EVERY_S: u64 = 60;

impl Admin<'_> {
    pub(super) async fn create_key(&self, create: ApiKeyCreate) -> Done {
        let ApiKeyCreate { name, scopes, rate, lifetime_s } = create;
        check_key_name(&name).map_err(|problem| format!("the name of a key {problem}"))?;
        let mut bits = 0;
        for scope in &scopes {
            let known = || Scope::ALL.map(Scope::name).join(", ");
            let scope = Scope::named(scope);
            bits |= scope.ok_or_else(|| format!("a scope is one of: {}", known()))?.bit();
        }
        if bits == 0 {
            return Err("a key has at least one scope".into());
        }
        let lifetime_s = lifetime_s.unwrap_or(0);
        if lifetime_s > LIFETIME_MAX.as_secs() {
            return Err("a key lasts for a hundred years, or for ever (0)".into());
        }
        let store = self.logins.store();
        if store.keys().await?.len() >= KEYS_MAX {
            return Err(format!("a site has at most {KEYS_MAX} keys").into());
        }
        let (id, secret) = random().zip(random::<SECRET_LEN>()).ok_or_else(|| {
            Problem::Said(AdminError::Other, "the kernel gives no random bytes".to_owned())
        })?;
        let (key, made_s) = (ApiKey { id, secret }, u64::from(unix_s()));
        let row = ApiKeyRow {
            id: ApiKeyId(id),
            hash: hash(&secret),
            scopes: bits,
            rate: rate.unwrap_or(0),
            made_s,
            expires_s: if lifetime_s == 0 { 0 } else { made_s.saturating_add(lifetime_s) },
            used_s: 0,
            name,
        };
        if !store.add_key(row.clone()).await? {
            return Err(Problem::Said(AdminError::Taken, format!("the key {} exists", row.name)));
        }
        let api_keys = vec![line(row)];
        Ok(AdminAnswer { api_keys, api_key: Some(key.to_text()), ..done() })
    }

    pub(super) async fn list_keys(&self) -> Done {
        let keys = self.logins.store().keys().await?;
        Ok(AdminAnswer { api_keys: keys.into_iter().map(line).collect(), ..done() })
    }

    pub(super) async fn revoke_key(&self, ApiKeyRevoke { name }: ApiKeyRevoke) -> Done {
        if self.logins.store().forget_key(name.clone()).await? {
            return Ok(done());
        }
        Err(Problem::missing(format_args!("key {name}")))
    }

    /// A key that was shown to an api_server, with the hash that tells whether its secret was right.
    pub(super) async fn find_key(&self, find: ApiKeyFind) -> Done {
        let unknown = || Problem::missing("the key");
        let id = <[u8; 8]>::try_from(&find.id[..]).map_err(|_other| unknown())?;
        let store = self.logins.store();
        let row = store.key(ApiKeyId(id)).await?.ok_or_else(unknown)?;
        let now_s = u64::from(unix_s());
        let is_used = find.shown.as_deref() == Some(&row.hash.0[..]);
        if is_used && now_s.saturating_sub(row.used_s) >= USED_EVERY_S {
            // A key works all the same if this cannot be noted.
            if let Err(error) = store.use_key(row.id, now_s).await {
                debug!(%error, name = row.name, "it is not noted that a key is used");
            }
        }
        let hash = Some(row.hash.0.to_vec().into());
        Ok(AdminAnswer { api_keys: vec![ApiKeyLine { hash, ..line(row) }], ..done() })
    }
}

fn line(row: ApiKeyRow) -> ApiKeyLine {
    ApiKeyLine {
        id: row.id.0.to_vec().into(),
        name: row.name,
        scopes: Scope::of_bits(row.scopes).map(|scope| scope.name().to_owned()).collect(),
        rate: Some(row.rate),
        made: row.made_s,
        expires: row.expires_s,
        used: row.used_s,
        hash: None,
    }
}
