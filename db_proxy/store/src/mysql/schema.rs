//! The tables: how they are made, how older ones become current ones, and what is checked before
//! they are used.
//!
//! # Invariants
//!
//! - Tables of a newer version, or of another program, are refused before anything is written.
//! - Data definition is no part of a transaction, so each step of a migration may run twice, and is
//!   recorded once it is done: a migration that was cut short goes on where it stopped.
//! - One migrates at a time; the others wait.

use mysql_async::Value;

use super::address::Address;
use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, values};
use super::server;
use crate::StoreError;

/// What a database is used for; one may be both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Conversations: a shard.
    Fold,
    /// Logins.
    People,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Fold => "fold",
            Self::People => "people",
        }
    }

    /// What leads to each version from the one before, in order, from version 1.
    fn migrations(self) -> &'static [&'static str] {
        match self {
            Self::Fold => &[
                include_str!("migrations/fold_0001.sql"),
                include_str!("migrations/fold_0002.sql"),
                include_str!("migrations/fold_0003.sql"),
                include_str!("migrations/fold_0004.sql"),
            ],
            Self::People => &[
                include_str!("migrations/people_0001.sql"),
                include_str!("migrations/people_0002.sql"),
                include_str!("migrations/people_0003.sql"),
                include_str!("migrations/people_0004.sql"),
            ],
        }
    }

    fn version(self) -> u32 {
        u32::try_from(self.migrations().len()).expect("a few migrations")
    }
}

/// Where a database stands: the version of each side, how many steps to the next are done.
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_version (
    side    VARBINARY(16) NOT NULL PRIMARY KEY,
    version INT UNSIGNED  NOT NULL,
    steps   INT UNSIGNED  NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// What all databases of a site, and all configurations that use it, must agree on.
const SITES: &str = "CREATE TABLE IF NOT EXISTS site (
    name  VARBINARY(32) NOT NULL PRIMARY KEY,
    value VARBINARY(64) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// Which site a database belongs to: a number that no other site has.
pub(super) const SITE: &str = "site";

/// An import into a database is under way: its mark.
pub(super) const IMPORTING: &str = "importing";

/// The export that was imported into a database.
pub(super) const IMPORTED: &str = "imported";

/// One database in the layout of a site: facts that are written down in it when it is made.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) sides: Vec<Side>,
    pub(super) facts: Vec<(&'static str, String)>,
}

/// What a replica has in common with the database that it is one of.
#[derive(Debug)]
pub(super) struct Original {
    /// What was written down when the database was made.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Which site it belongs to.
    pub(super) site: String,
    /// What was imported into it.
    pub(super) imported: Option<String>,
}

/// Brings one database to the current version. Returns what is written down in it as its site:
/// `site`, unless it had one.
pub(super) async fn migrate(
    link: &mut Link,
    address: &Address,
    role: &Role,
    site: &str,
) -> Result<String, Failure> {
    server::check(link, address).await?;
    let lock = format!("talkhub.{}", crc32fast::hash(address.database().as_bytes()));
    let row = link.row("SELECT GET_LOCK(?, 30)", values![&lock]).await?;
    if row::one(row, Columns::next::<Option<u32>>)?.flatten() != Some(1) {
        let text = "another migration is under way".to_owned();
        return Err(StoreError::Unavailable(format!("{}: {text}", address.name())).into());
    }
    let migrated = migrate_locked(link, address, role, site).await;
    // The lock goes with the connection in any case.
    link.row("SELECT RELEASE_LOCK(?)", values![&lock]).await?;
    migrated
}

async fn migrate_locked(
    link: &mut Link,
    address: &Address,
    role: &Role,
    site: &str,
) -> Result<String, Failure> {
    refuse_foreign(link, address).await?;
    for side in &role.sides {
        if let Some((version, _steps)) = version_of(link, *side).await? {
            refuse_newer(address, *side, version)?;
        }
    }
    link.command(VERSIONS).await?;
    link.command(SITES).await?;
    for side in &role.sides {
        migrate_side(link, *side).await?;
    }
    for (name, value) in &role.facts {
        write_down(link, name, value).await?;
    }
    write_down(link, SITE, site).await?;
    check_facts(link, address, role).await?;
    Ok(fact(link, SITE).await?.unwrap_or_default())
}

async fn write_down(link: &mut Link, name: &str, value: &str) -> Result<(), Failure> {
    let statement = "INSERT INTO site (name, value) VALUES (?, ?)
         ON DUPLICATE KEY UPDATE name = VALUES(name)";
    link.execute(statement, values![name, value]).await?;
    Ok(())
}

async fn migrate_side(link: &mut Link, side: Side) -> Result<(), Failure> {
    link.execute(
        "INSERT INTO schema_version (side, version, steps) VALUES (?, 0, 0)
         ON DUPLICATE KEY UPDATE side = side",
        values![side.name()],
    )
    .await?;
    let (mut version, mut done) = version_of(link, side).await?.unwrap_or_default();
    for script in side.migrations().iter().skip(version as usize) {
        for (statement, number) in statements(script).zip(1..) {
            if number > done {
                match link.command(statement).await {
                    // It was added by a try that was cut short before that was noted.
                    Err(failure) if failure.code() == Some(COLUMN_EXISTS) => {}
                    done => done?,
                }
                note(link, side, version, number).await?;
            }
        }
        version += 1;
        done = 0;
        note(link, side, version, done).await?;
    }
    Ok(())
}

async fn note(link: &mut Link, side: Side, version: u32, steps: u32) -> Result<(), Failure> {
    let statement = "UPDATE schema_version SET version = ?, steps = ? WHERE side = ?";
    link.execute(statement, values![version, steps, side.name()]).await?;
    Ok(())
}

/// The statements of a script, each ending at a semicolon at a line's end.
fn statements(script: &str) -> impl Iterator<Item = &str> {
    script.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

/// Checks, without writing anything, that a database is what this program and this configuration
/// expect.
pub(super) async fn check(link: &mut Link, address: &Address, role: &Role) -> Result<(), Failure> {
    server::check(link, address).await?;
    for side in &role.sides {
        match version_of(link, *side).await? {
            Some((version, 0)) if version == side.version() => {}
            Some((version, _steps)) if version >= side.version() => {
                refuse_newer(address, *side, version)?;
            }
            older => {
                let what = if older.is_none() { "no tables" } else { "tables of an older version" };
                return Err(StoreError::Refused(format!(
                    "{}: the database has {what}: run `db_proxy migrate`",
                    address.name()
                ))
                .into());
            }
        }
    }
    server::check_engine(link, address).await?;
    check_facts(link, address, role).await
}

/// Checks that a database is a replica of another one, a shard, and has come as far as the making of
/// its tables. One that is not as far is unavailable.
pub(super) async fn check_replica(
    link: &mut Link,
    address: &Address,
    original: &Original,
) -> Result<(), Failure> {
    server::check_version(link, address).await?;
    let late = |what: &str| {
        let text = format!("{}: it is behind its primary: {what}", address.name());
        Failure::from(StoreError::Unavailable(text))
    };
    let side = Side::Fold;
    match version_of(link, side).await? {
        Some((version, 0)) if version == side.version() => {}
        Some((version, _steps)) if version > side.version() => {
            refuse_newer(address, side, version)?;
        }
        None => return Err(late("it has no tables yet")),
        Some(_) => return Err(late("it has tables of an older version")),
    }
    let facts = original.facts.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, expected) in facts.chain([(SITE, original.site.as_str())]) {
        match fact(link, name).await? {
            Some(found) if found == expected => {}
            None => return Err(late("it does not say yet what it belongs to")),
            Some(found) => {
                return Err(StoreError::Refused(format!(
                    "{}: {name}: it has {found}, and the database that it should be a replica of has \
                     {expected}: name a replica of that one",
                    address.name()
                ))
                .into());
            }
        }
    }
    let (importing, imported) = (fact(link, IMPORTING).await?, fact(link, IMPORTED).await?);
    if importing.is_some() || imported != original.imported {
        return Err(late("it lacks what was imported"));
    }
    Ok(())
}

/// The server's number for a column that is to be added and is there already.
const COLUMN_EXISTS: u16 = 1060;

/// The server's number for a table that does not exist.
const NO_SUCH_TABLE: u16 = 1146;

/// A database that has tables, but not the one that says their version, is not ours.
async fn refuse_foreign(link: &mut Link, address: &Address) -> Result<(), Failure> {
    let query = "SELECT COUNT(*), COALESCE(SUM(table_name = 'schema_version'), 0)
         FROM information_schema.tables WHERE table_schema = ?";
    let row = link.row(query, values![address.database()]).await?;
    let found = row::one(row, |columns| Ok((columns.next::<u64>()?, columns.next::<u64>()?)))?;
    match found {
        Some((tables, 0)) if tables > 0 => Err(StoreError::Refused(format!(
            "{}: the database has tables, but not ours: name an empty one",
            address.name()
        ))
        .into()),
        _ => Ok(()),
    }
}

fn refuse_newer(address: &Address, side: Side, version: u32) -> Result<(), StoreError> {
    if version <= side.version() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{}: the store has version {version}, this program knows up to {}; start the newer program, \
         or restore a backup that the older one made",
        address.name(),
        side.version(),
    )))
}

async fn version_of(link: &mut Link, side: Side) -> Result<Option<(u32, u32)>, Failure> {
    let query = "SELECT version, steps FROM schema_version WHERE side = ?";
    match link.row(query, values![side.name()]).await {
        Err(failure) if failure.code() == Some(NO_SUCH_TABLE) => Ok(None),
        row => row::one(row?, |columns| Ok((columns.next()?, columns.next()?))),
    }
}

/// Refuses a database that lacks rows which are still to be imported.
pub(super) async fn check_imported(link: &mut Link, address: &Address) -> Result<(), Failure> {
    if fact(link, IMPORTING).await?.is_none() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{}: an import into the database is not finished: run `talkhub admin import` again",
        address.name()
    ))
    .into())
}

async fn check_facts(link: &mut Link, address: &Address, role: &Role) -> Result<(), Failure> {
    for (name, expected) in &role.facts {
        let found = fact(link, name).await?;
        if found.as_ref() != Some(expected) {
            let found = found.unwrap_or_else(|| "nothing".to_owned());
            return Err(StoreError::Refused(format!(
                "{}: {name}: the database was made with {found}, but is asked for with {expected}: \
                 put the configuration back that it was made with, or name another database",
                address.name()
            ))
            .into());
        }
    }
    Ok(())
}

/// What is written down in a database under this name.
pub(super) async fn fact(link: &mut Link, name: &str) -> Result<Option<String>, Failure> {
    let query = "SELECT value FROM site WHERE name = ?";
    match link.row(query, vec![Value::from(name)]).await {
        Err(failure) if failure.code() == Some(NO_SUCH_TABLE) => Ok(None),
        row => row::one(row?, Columns::next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_taken_apart_into_its_statements() {
        let script = "-- What; it is.\nCREATE TABLE a (n INT); -- first\nINSERT x;\n\n  DROP b;\n";
        let expected = ["-- What; it is.\nCREATE TABLE a (n INT); -- first\nINSERT x", "DROP b"];
        assert_eq!(statements(script).collect::<Vec<_>>(), expected);
        assert_eq!(statements("\n \n").next(), None);
    }

    /// A step that was cut short is done once more.
    #[test]
    fn every_step_of_a_migration_may_be_done_twice() {
        for side in [Side::Fold, Side::People] {
            assert_eq!(side.version() as usize, side.migrations().len(), "{side:?}");
            for statement in side.migrations().iter().flat_map(|script| statements(script)) {
                let is_code = |line: &&str| !line.trim_start().starts_with("--");
                let code: Vec<_> = statement.lines().filter(is_code).collect();
                let code = code.join(" ").trim().to_owned();
                let may = code.starts_with("CREATE TABLE IF NOT EXISTS ")
                    || code.starts_with("INSERT INTO ") && code.contains(" ON DUPLICATE KEY UPDATE ")
                    // That it is there already is no error.
                    || code.starts_with("ALTER TABLE ") && code.contains(" ADD COLUMN ");
                assert!(may, "{statement}");
            }
        }
        assert_ne!(Side::Fold.name(), Side::People.name());
    }
}
