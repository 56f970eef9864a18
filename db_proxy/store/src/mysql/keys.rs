//! Keys of programs that use the HTTP API.

use std::sync::Arc;

use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, exact, values};
use crate::StoreError;
use crate::keys::{ApiKeyId, ApiKeyRow};
use crate::tokens::SecretHash;

const KEY: &str = "SELECT id, name, hash, scopes, rate, made_s, expires_s, used_s FROM api_key";

/// Keeps a key. If the answer to this is lost and it is tried again, the key that is there is this one.
pub(super) async fn add(link: &mut Link, key: Arc<ApiKeyRow>) -> Result<bool, Failure> {
    link.execute(
        "INSERT IGNORE INTO api_key (id, name, hash, scopes, rate, made_s, expires_s, used_s)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values![
            key.id.0,
            key.name.as_bytes(),
            key.hash.0,
            key.scopes,
            key.rate,
            key.made_s,
            key.expires_s,
            key.used_s,
        ],
    )
    .await?;
    Ok(one(link, key.id).await?.is_some_and(|kept| kept.hash == key.hash))
}

/// One key.
pub(super) async fn one(link: &mut Link, id: ApiKeyId) -> Result<Option<ApiKeyRow>, Failure> {
    let row = link.row(&format!("{KEY} WHERE id = ?"), values![id.0]).await?;
    row::one(row, key_row)
}

/// All keys, by name.
pub(super) async fn all(link: &mut Link) -> Result<Vec<ApiKeyRow>, Failure> {
    row::all(link.rows(&format!("{KEY} ORDER BY name"), Vec::new()).await?, key_row)
}

/// Notes when a key was used.
pub(super) async fn used(link: &mut Link, id: ApiKeyId, used_s: u64) -> Result<(), Failure> {
    let note = "UPDATE api_key SET used_s = ? WHERE id = ? AND used_s < ?";
    link.execute(note, values![used_s, id.0, used_s]).await?;
    Ok(())
}

/// Forgets a key.
pub(super) async fn forget(link: &mut Link, name: Arc<str>) -> Result<bool, Failure> {
    let forget = "DELETE FROM api_key WHERE name = ?";
    Ok(link.execute(forget, values![name.as_bytes()]).await? > 0)
}

fn key_row(columns: &mut Columns) -> Result<ApiKeyRow, Failure> {
    let damaged = || StoreError::Refused("the store is damaged: the name of a key".to_owned());
    Ok(ApiKeyRow {
        id: ApiKeyId(exact(columns.next()?)?),
        name: String::from_utf8(columns.next()?).map_err(|_error| damaged())?,
        hash: SecretHash(exact(columns.next()?)?),
        scopes: columns.next()?,
        rate: columns.next()?,
        made_s: columns.next()?,
        expires_s: columns.next()?,
        used_s: columns.next()?,
    })
}
