//! One connection, and what every statement on it has in common: a bound on its time, placeholders
//! for all values, and a transaction that no dead client can hold for long.

use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Value};
use tokio::time::timeout;

use super::failure::Failure;

/// What every session is set to, whatever the server's defaults are.
///
/// A call waits for a row's lock for less than its own bound. Outside of a transaction a connection
/// may stay idle for ten minutes.
const SET_UP: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
     autocommit = 1, innodb_lock_wait_timeout = 2, wait_timeout = 600",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// Begins a transaction, in which the server waits for the next statement for five seconds only: the
/// locks of an owner whose machine was stopped or cut off must not keep the next owner away.
const BEGIN: &str = "SET SESSION wait_timeout = 5; BEGIN";

/// After a transaction the connection may stay idle for as long as before it.
const OUT_OF_TRANSACTION: &str = "SET SESSION wait_timeout = 600";

/// One connection to one database.
pub(super) struct Link {
    /// `None` only while it is dropped.
    conn: Option<Conn>,
    step: Duration,
    in_transaction: bool,
    /// Cleared while a statement runs: a call that is dropped then leaves an answer behind.
    is_clean: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            close(conn);
        }
    }
}

impl Link {
    /// A link that waits for the answer to each statement for at most `step`.
    pub(super) fn new(conn: Conn, step: Duration) -> Self {
        Self { conn: Some(conn), step, in_transaction: false, is_clean: true }
    }

    /// Sets the session up as all statements expect it.
    pub(super) async fn set_up(&mut self) -> Result<(), Failure> {
        for statement in SET_UP {
            self.command(statement).await?;
        }
        Ok(())
    }

    /// Whether nothing is left over from the last call.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean && !self.in_transaction
    }

    /// Runs a statement without values and without an answer.
    pub(super) async fn command(&mut self, statement: &str) -> Result<(), Failure> {
        self.bounded(async |conn| conn.query_drop(statement).await).await
    }

    /// Runs a statement without values that cannot be prepared, and returns its rows.
    pub(super) async fn query(&mut self, statement: &str) -> Result<Vec<Row>, Failure> {
        self.bounded(async |conn| conn.query(statement).await).await
    }

    /// Runs a prepared statement. Returns how many rows it found to change.
    pub(super) async fn execute(
        &mut self,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<u64, Failure> {
        self.bounded(async |conn| {
            conn.exec_drop(statement, Params::Positional(values)).await?;
            Ok(conn.affected_rows())
        })
        .await
    }

    /// Runs a prepared query.
    pub(super) async fn rows(
        &mut self,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, Failure> {
        self.bounded(async |conn| conn.exec(statement, Params::Positional(values)).await).await
    }

    /// Runs a prepared query for at most one row.
    pub(super) async fn row(
        &mut self,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<Option<Row>, Failure> {
        self.bounded(async |conn| conn.exec_first(statement, Params::Positional(values)).await)
            .await
    }

    /// Runs a prepared query, and calls `each` with its rows as they come, until it fails.
    pub(super) async fn each_row(
        &mut self,
        statement: &str,
        values: Vec<Value>,
        mut each: impl FnMut(Row) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut taken = Ok(());
        self.bounded(async |conn| {
            let mut rows = conn.exec_iter(statement, Params::Positional(values)).await?;
            while taken.is_ok()
                && let Some(row) = rows.next().await?
            {
                taken = each(row);
            }
            rows.drop_result().await
        })
        .await?;
        taken
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.in_transaction = true;
        self.command(BEGIN).await
    }

    /// Commits the transaction. After an error it is not known whether it was.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.command("COMMIT").await?;
        if self.command(OUT_OF_TRANSACTION).await.is_ok() {
            self.in_transaction = false;
        } // Else it is not clean, and will be closed; what was asked for is done.
        Ok(())
    }

    /// Takes back what the transaction did, if there is one.
    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        if self.in_transaction {
            self.command("ROLLBACK").await?;
            self.command(OUT_OF_TRANSACTION).await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    async fn bounded<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>,
    ) -> Result<T, Failure> {
        let conn = self.conn.as_mut().expect("taken only when dropped");
        self.is_clean = false;
        let done = timeout(self.step, work(conn)).await.map_err(|_| Failure::Slow(self.step))?;
        self.is_clean = matches!(done, Ok(_) | Err(mysql_async::Error::Server(_)));
        Ok(done?)
    }
}

/// Closes a connection at once, whatever state it is in. Its own way to close, from a task, waits
/// for answers that may never come.
fn close(conn: Conn) {
    // Polled once: marks it closed and tells the server, if the socket takes that now.
    drop(conn.disconnect().now_or_never());
}
