//! Keys of programs that use the HTTP API.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::number;
use crate::StoreError;
use crate::keys::{ApiKeyId, ApiKeyRow};
use crate::tokens::SecretHash;

const KEY: &str = "SELECT id, name, hash, scopes, rate, made_s, expires_s, used_s FROM api_key";

/// Keeps a key.
pub(super) fn add(connection: &mut Connection, key: &ApiKeyRow) -> Result<bool, StoreError> {
    let changed = connection.execute(
        "INSERT OR IGNORE INTO api_key (id, name, hash, scopes, rate, made_s, expires_s, used_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key.id.0,
            key.name,
            key.hash.0,
            key.scopes,
            key.rate,
            key.made_s.cast_signed(),
            key.expires_s.cast_signed(),
            key.used_s.cast_signed(),
        ],
    )?;
    Ok(changed > 0)
}

/// One key.
pub(super) fn one(connection: &Connection, id: ApiKeyId) -> Result<Option<ApiKeyRow>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("{KEY} WHERE id = ?1"))?;
    Ok(statement.query_row([id.0], key_row).optional()?)
}

/// All keys, by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<ApiKeyRow>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("{KEY} ORDER BY name"))?;
    let rows = statement.query_map([], key_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes when a key was used.
pub(super) fn used(
    connection: &mut Connection,
    id: ApiKeyId,
    used_s: u64,
) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE api_key SET used_s = ?2 WHERE id = ?1 AND used_s < ?2",
        params![id.0, used_s.cast_signed()],
    )?;
    Ok(())
}

/// Forgets a key.
pub(super) fn forget(connection: &mut Connection, name: &str) -> Result<bool, StoreError> {
    Ok(connection.execute("DELETE FROM api_key WHERE name = ?1", [name])? > 0)
}

fn key_row(row: &Row<'_>) -> rusqlite::Result<ApiKeyRow> {
    Ok(ApiKeyRow {
        id: ApiKeyId(row.get(0)?),
        name: row.get(1)?,
        hash: SecretHash(row.get(2)?),
        scopes: row.get(3)?,
        rate: row.get(4)?,
        made_s: number(row, 5)?,
        expires_s: number(row, 6)?,
        used_s: number(row, 7)?,
    })
}
