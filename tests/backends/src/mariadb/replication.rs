//! A server that follows another one, as a replica does, by the global ids of its transactions.
//!
//! The two kinds of server have had different words for this from the beginning.

use super::{MariaDb, mysql};
use crate::PATIENCE;

impl MariaDb {
    /// Starts a server that another one can follow.
    pub fn start_primary() -> Self {
        let gtids: &[&str] = if mysql().is_some() {
            &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
        } else {
            &[]
        };
        let primary = Self::start_with(&[&["--log-bin=binlog", "--server-id=1"], gtids].concat());
        // The replica begins with the same users.
        primary.sql(words("RESET MASTER", "RESET BINARY LOGS AND GTIDS"));
        primary
    }

    /// Starts a server that follows `primary`, which has only the users that it began with.
    pub fn start_replica(primary: &Self) -> Self {
        let gtids: &[&str] = if mysql().is_some() {
            &["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=binlog"]
        } else {
            &[]
        };
        let replica = Self::start_with(&[&["--server-id=2", "--read-only"], gtids].concat());
        let port = primary.port();
        replica.sql(&if mysql().is_some() {
            format!(
                "RESET BINARY LOGS AND GTIDS; CHANGE REPLICATION SOURCE TO \
                 SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'admin', \
                 SOURCE_PASSWORD = 'admin', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; \
                 START REPLICA"
            )
        } else {
            format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, \
                 MASTER_USER = 'admin', MASTER_PASSWORD = 'admin', MASTER_USE_GTID = slave_pos; \
                 START SLAVE"
            )
        });
        replica
    }

    /// Waits until this replica has all that `primary` has.
    pub fn catch_up(&self, primary: &Self) {
        let place = primary.sql(words("SELECT @@gtid_binlog_pos", "SELECT @@gtid_executed"));
        let wait = words("MASTER_GTID_WAIT", "WAIT_FOR_EXECUTED_GTID_SET");
        // Of several servers there is one on each line.
        let (place, limit) = (place.trim().replace("\\n", ""), PATIENCE.as_secs());
        let waited = self.sql(&format!("SELECT {wait}('{place}', {limit})"));
        let status = || self.sql(words("SHOW SLAVE STATUS", "SHOW REPLICA STATUS"));
        assert_eq!(waited.trim(), "0", "{}", status());
    }

    /// Lets this replica read from its primary without doing what it reads: it lags.
    pub fn stop_applying(&self) {
        self.sql(words("STOP SLAVE SQL_THREAD", "STOP REPLICA SQL_THREAD"));
    }

    /// Lets it go on after [`Self::stop_applying`].
    pub fn apply(&self) {
        self.sql(words("START SLAVE SQL_THREAD", "START REPLICA SQL_THREAD"));
    }
}

/// What the server that runs here understands.
fn words<'a>(mariadb: &'a str, mysqls: &'a str) -> &'a str {
    if mysql().is_some() { mysqls } else { mariadb }
}
