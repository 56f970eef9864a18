//! What a database says of an import into it, in its table `site`.

use data_encoding::HEXLOWER;

use super::super::failure::Failure;
use super::super::link::Link;
use super::super::row::{self, Columns, values};
use super::super::schema::{self, IMPORTED, IMPORTING};
use crate::StoreError;

/// How many files are done, written down in the first database.
const FILES_DONE: &str = "import_files_done";

/// The owner of all partitions until everything is there.
const OWNER: &str = "import";

/// What a database says of imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// One is under way: its mark.
    Importing(String),
    /// One is done: its export.
    Imported(String),
}

/// What a database says.
pub(super) async fn told_by(link: &mut Link) -> Result<Told, Failure> {
    if let Some(mark) = schema::fact(link, IMPORTING).await? {
        return Ok(Told::Importing(mark));
    }
    Ok(schema::fact(link, IMPORTED).await?.map_or(Told::Nothing, Told::Imported))
}

/// How many files are done.
pub(super) async fn files_done(link: &mut Link) -> Result<usize, Failure> {
    let done = schema::fact(link, FILES_DONE).await?;
    Ok(done.and_then(|done| done.parse().ok()).unwrap_or(0))
}

/// Tables that are empty when they are made; not all of them are in every database.
const EMPTY: [&str; 15] = [
    "progress",
    "conversation",
    "message",
    "changed_message",
    "member",
    "mark",
    "user",
    "device_token",
    "api_key",
    "webhook",
    "webhook_failure",
    "wanted_group",
    "token_family",
    "ticket",
    "revocation",
];

/// The first of these that has a row.
pub(super) async fn found_in(link: &mut Link) -> Result<Option<&'static str>, Failure> {
    for table in EMPTY {
        if exists(link, table).await? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// The server's number for a table that does not exist.
const NO_SUCH_TABLE: u16 = 1146;

/// Whether a table is there and has a row.
pub(super) async fn exists(link: &mut Link, table: &str) -> Result<bool, Failure> {
    match link.row(&format!("SELECT 1 FROM `{table}` LIMIT 1"), Vec::new()).await {
        Err(failure) if failure.code() == Some(NO_SUCH_TABLE) => Ok(false),
        row => Ok(row?.is_some()),
    }
}

/// Marks a database as being imported into, and takes these partitions.
pub(super) async fn take(
    link: &mut Link,
    mark: &str,
    export: &str,
    parts: &[u32],
) -> Result<(), Failure> {
    link.begin().await?;
    let query = "SELECT value FROM site WHERE name = ? FOR UPDATE";
    let known: Option<String> =
        row::one(link.row(query, values![IMPORTING]).await?, Columns::next)?;
    match known {
        Some(known) if known.starts_with(export) => {
            link.execute("UPDATE site SET value = ? WHERE name = ?", values![mark, IMPORTING])
                .await?;
        }
        Some(_other) => {
            let text = "another import has just begun".to_owned();
            return Err(StoreError::Refused(text).into());
        }
        None => {
            link.execute("DELETE FROM site WHERE name = ?", values![IMPORTED]).await?;
            link.execute("INSERT INTO site (name, value) VALUES (?, ?)", values![IMPORTING, mark])
                .await?;
            let log = log_of(export)?;
            for part in parts {
                link.execute(
                    "INSERT INTO progress
                        (part, epoch, owner, log_id, applied_offset, applied_crc, fold_version)
                     VALUES (?, 0, ?, ?, 0, 0, 0)",
                    values![*part, OWNER.as_bytes(), &log[..]],
                )
                .await?;
            }
        }
    }
    link.commit().await
}

/// The log that the partitions belong to meanwhile: one that does not exist.
fn log_of(export: &str) -> Result<Vec<u8>, StoreError> {
    let bytes = HEXLOWER.decode(export.as_bytes()).ok().filter(|bytes| bytes.len() == 16);
    bytes.ok_or_else(|| StoreError::Refused("the export's id is not 16 bytes".to_owned()))
}

/// Ends the transaction if its import is no longer the one under way. Otherwise no import can end
/// before the transaction does.
pub(super) async fn check_mark(link: &mut Link, mark: &str) -> Result<(), Failure> {
    let query = "SELECT value FROM site WHERE name = ? LOCK IN SHARE MODE";
    let found: Option<String> =
        row::one(link.row(query, values![IMPORTING]).await?, Columns::next)?;
    if found.as_deref() == Some(mark) {
        return Ok(());
    }
    let text = "another import into the same databases has begun, or has finished".to_owned();
    Err(StoreError::Refused(text).into())
}

/// Ends the import into a database, which may be used from then on.
pub(super) async fn finish(
    link: &mut Link,
    mark: &str,
    export: &str,
    is_shard: bool,
) -> Result<(), Failure> {
    link.begin().await?;
    let query = "SELECT value FROM site WHERE name = ? FOR UPDATE";
    let found: Option<String> =
        row::one(link.row(query, values![IMPORTING]).await?, Columns::next)?;
    if found.is_none() && schema::fact(link, IMPORTED).await?.as_deref() == Some(export) {
        // An earlier try, whose answer was lost.
        return link.roll_back().await;
    }
    check_mark(link, mark).await?;
    if is_shard {
        let log = log_of(export)?;
        link.execute("DELETE FROM progress WHERE log_id = ? AND epoch = 0", values![&log[..]])
            .await?;
    }
    link.execute("DELETE FROM site WHERE name = ?", values![FILES_DONE]).await?;
    link.execute(
        "UPDATE site SET name = ?, value = ? WHERE name = ?",
        values![IMPORTED, export, IMPORTING],
    )
    .await?;
    link.commit().await
}

/// Writes down how many files are done.
pub(super) async fn note(link: &mut Link, files: usize) -> Result<(), Failure> {
    link.execute(
        "INSERT INTO site (name, value) VALUES (?, ?)
         ON DUPLICATE KEY UPDATE value = VALUES(value)",
        values![FILES_DONE, files.to_string()],
    )
    .await?;
    Ok(())
}
