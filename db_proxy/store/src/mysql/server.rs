//! What the server must be and do for the promise to hold, asserted at start.

use std::collections::HashMap;

use super::address::Address;
use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, values};
use crate::StoreError;

/// The oldest servers.
const MYSQL_MIN: (u64, u64) = (8, 0);
const MARIADB_MIN: (u64, u64) = (10, 11);

/// A statement has at most about half of this.
const PACKET_MIN: u64 = 16 << 20;

/// Refuses a server that cannot keep the promise, and says which setting must be what.
pub(super) async fn check(link: &mut Link, address: &Address) -> Result<(), Failure> {
    let rows = link
        .query(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN
             ('version', 'sql_mode', 'innodb_flush_log_at_trx_commit', 'max_allowed_packet',
              'log_bin', 'binlog_format')",
        )
        .await?;
    let variables = row::all(rows, |columns| {
        Ok((columns.next::<String>()?.to_lowercase(), columns.next::<String>()?))
    })?;
    let variables = Variables(variables.into_iter().collect());
    match variables.complaint() {
        None => Ok(()),
        Some(why) => Err(StoreError::Refused(format!("{}: {why}", address.name())).into()),
    }
}

/// Refuses a server that is too old to be read from. What else there is to it is no matter of one that
/// only reads.
pub(super) async fn check_version(link: &mut Link, address: &Address) -> Result<(), Failure> {
    let row = link.query("SELECT VERSION()").await?.pop();
    let version = row::one(row, Columns::next::<String>)?.unwrap_or_default();
    match too_old(&version) {
        None => Ok(()),
        Some(why) => Err(StoreError::Refused(format!("{}: {why}", address.name())).into()),
    }
}

/// Refuses tables that are not transactional.
pub(super) async fn check_engine(link: &mut Link, address: &Address) -> Result<(), Failure> {
    let row = link
        .row(
            "SELECT table_name FROM information_schema.tables
             WHERE table_schema = ? AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' LIMIT 1",
            values![address.database()],
        )
        .await?;
    match row::one(row, Columns::next::<String>)? {
        None => Ok(()),
        Some(table) => Err(StoreError::Refused(format!(
            "{}: table {table} must be of engine InnoDB: ALTER TABLE {table} ENGINE = InnoDB",
            address.name(),
        ))
        .into()),
    }
}

/// The server's own settings, by name in small letters.
struct Variables(HashMap<String, String>);

impl Variables {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn complaint(&self) -> Option<String> {
        if let Some(why) = too_old(self.get("version")) {
            return Some(why);
        }
        let mode = self.get("sql_mode");
        if !mode.contains("STRICT_TRANS_TABLES") && !mode.contains("STRICT_ALL_TABLES") {
            return Some(format!(
                "sql_mode is '{mode}'; it must have STRICT_TRANS_TABLES or STRICT_ALL_TABLES"
            ));
        }
        let flush = self.get("innodb_flush_log_at_trx_commit");
        // 3 is MariaDB's: flushes twice.
        if !["1", "3"].contains(&flush) {
            return Some(format!(
                "innodb_flush_log_at_trx_commit is {flush}; it must be 1, else a power cut loses \
                 what was stored"
            ));
        }
        let packet = self.get("max_allowed_packet");
        if packet.parse().is_ok_and(|packet: u64| packet < PACKET_MIN) {
            return Some(format!(
                "max_allowed_packet is {packet}; it must be at least {PACKET_MIN} (16M)"
            ));
        }
        if self.get("log_bin") == "ON" && self.get("binlog_format") == "STATEMENT" {
            return Some(
                "binlog_format is STATEMENT; it must be ROW (or MIXED), since transactions are \
                 READ COMMITTED"
                    .to_owned(),
            );
        }
        None
    }
}

fn too_old(version: &str) -> Option<String> {
    (!is_new_enough(version)).then(|| {
        format!("the server is {version}; it must be MySQL 8.0 or newer, or MariaDB 10.11 or newer")
    })
}

/// Reads `8.0.36`, `10.11.6-MariaDB-0+deb12u1`, `5.5.5-10.11.6-MariaDB`.
fn is_new_enough(version: &str) -> bool {
    let is_mariadb = version.contains("MariaDB");
    let version = version.strip_prefix("5.5.5-").filter(|_| is_mariadb).unwrap_or(version);
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    let found = (next(), next());
    found >= if is_mariadb { MARIADB_MIN } else { MYSQL_MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_told_from_new_ones() {
        let new = ["8.0.11", "8.4.0-log", "9.1.0", "10.11.6-MariaDB-0+deb12u1", "11.4.2-MariaDB"];
        for version in new.into_iter().chain(["5.5.5-10.11.6-MariaDB"]) {
            assert!(is_new_enough(version), "{version}");
        }
        let old = ["5.7.44", "5.5.5-10.6.1-MariaDB", "10.10.9-MariaDB", "", "MariaDB"];
        for version in old {
            assert!(!is_new_enough(version), "{version}");
        }
    }

    #[test]
    fn each_setting_that_the_promise_rests_on_is_named() {
        assert_eq!(variables(&[]).complaint(), None);
        assert_eq!(variables(&[("log_bin", "ON")]).complaint(), None);
        for (wrong, named) in [
            (vec![("version", "5.7.44")], "5.7.44"),
            (vec![("sql_mode", "NO_ENGINE_SUBSTITUTION")], "sql_mode"),
            (vec![("innodb_flush_log_at_trx_commit", "2")], "innodb_flush_log_at_trx_commit is 2"),
            (vec![("max_allowed_packet", "4194304")], "max_allowed_packet is 4194304"),
            (vec![("log_bin", "ON"), ("binlog_format", "STATEMENT")], "binlog_format"),
        ] {
            let complaint = variables(&wrong).complaint().unwrap();
            assert!(complaint.contains(named) && complaint.contains("must"), "{complaint}");
        }
    }

    #[test]
    fn what_keeps_the_promise_in_another_way_is_no_matter() {
        for right in [
            vec![("sql_mode", "ANSI,STRICT_ALL_TABLES")],
            vec![("innodb_flush_log_at_trx_commit", "3")],
            vec![("max_allowed_packet", "1073741824")],
            vec![("binlog_format", "STATEMENT")],
            vec![("log_bin", "ON"), ("binlog_format", "ROW")],
        ] {
            assert_eq!(variables(&right).complaint(), None, "{right:?}");
        }
        for wrong in [
            vec![("max_allowed_packet", "16777215")],
            vec![("innodb_flush_log_at_trx_commit", "0")],
            vec![("innodb_flush_log_at_trx_commit", "")],
            vec![("sql_mode", "")],
        ] {
            assert!(variables(&wrong).complaint().is_some(), "{wrong:?}");
        }
        // The first that is wrong is told.
        let both = variables(&[("version", "5.7.44"), ("sql_mode", "")]).complaint().unwrap();
        assert!(both.contains("5.7.44"), "{both}");
    }

    fn variables(changed: &[(&str, &str)]) -> Variables {
        let good = [
            ("version", "8.0.36"),
            ("sql_mode", "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("max_allowed_packet", "16777216"),
            ("log_bin", "OFF"),
            ("binlog_format", "MIXED"),
        ];
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Variables(good.iter().chain(changed).map(owned).collect())
    }
}
