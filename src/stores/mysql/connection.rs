//! A connection with its session's settings and its prepared statements.

use super::catalogue::Part;
use super::failure::Failure;
use super::statements::{Statement, Statements};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Statement as Prepared, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// More than the store has, so that the driver never closes one by itself.
pub const MOST_STATEMENTS: usize = 256;

pub struct Connection {
    conn: Conn,
    statements: Arc<Statements>,
    prepared: HashMap<Statement, Prepared>,
    /// The hint in those.
    hint: Arc<str>,
    /// The largest packet that the server accepts, in bytes.
    pub packet: usize,
    /// Whether its isolation level suits a server that logs statements.
    pub suits_statement_log: bool,
    /// A transaction is being committed. If the connection ends now, the
    /// outcome is unknown.
    committing: bool,
}

impl Connection {
    pub async fn set_up(
        mut conn: Conn,
        statements: Arc<Statements>,
        query_timeout: Duration,
        suits_statement_log: bool,
    ) -> mysql_async::Result<Self> {
        // The server's own limits, in case our requests to stop a statement
        // fail. They are a little longer than ours.
        let seconds = query_timeout.as_secs() + 2;
        let millis = seconds * 1000;
        conn.query_drop(format!(
            // NOW() stays in the session's default time zone, as other programs
            // use it.
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES', autocommit = 1, innodb_lock_wait_timeout = {seconds}, \
            lock_wait_timeout = {seconds} /*M! , max_statement_time = {seconds} */ \
            /*!80000 , max_execution_time = {millis} */"
        ))
        .await?;
        if !suits_statement_log {
            // Without gap locks, writers of different keys don't block each
            // other.
            conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                .await?;
        }
        let packet: Option<u64> = conn.query_first("SELECT @@max_allowed_packet").await?;
        Ok(Self {
            conn,
            hint: statements.hint(),
            statements,
            prepared: HashMap::new(),
            packet: packet.and_then(|bytes| bytes.try_into().ok()).unwrap_or(1024 * 1024),
            suits_statement_log,
            committing: false,
        })
    }

    pub fn id(&self) -> u32 {
        self.conn.id()
    }

    pub async fn rows(&mut self, statement: Statement, values: Vec<Value>) -> Result<Vec<Row>, Failure> {
        let prepared = self.prepare(statement).await?;
        Ok(self.conn.exec(prepared, Params::Positional(values)).await?)
    }

    /// Returns how many rows it changed.
    pub async fn change(&mut self, statement: Statement, values: Vec<Value>) -> Result<u64, Failure> {
        let prepared = self.prepare(statement).await?;
        self.conn.exec_drop(prepared, Params::Positional(values)).await?;
        Ok(self.conn.affected_rows())
    }

    /// Runs a statement without preparing it; whether it returned a row.
    pub async fn plain(&mut self, text: &str) -> Result<bool, Failure> {
        let row: Option<Row> = self.conn.query_first(text).await?;
        Ok(row.is_some())
    }

    /// What the catalogue says.
    pub async fn parts(&mut self, query: &str) -> Result<Vec<Part>, Failure> {
        let rows: Vec<Row> = self.conn.query(query).await?;
        Ok(rows.iter().filter_map(Part::of).collect())
    }

    /// Whether the last statement has brought warnings.
    pub fn has_warned(&self) -> bool {
        self.conn.get_warnings() > 0
    }

    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.plain("BEGIN").await?;
        Ok(())
    }

    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.committing = true;
        self.plain("COMMIT").await?;
        self.committing = false;
        Ok(())
    }

    pub async fn roll_back(&mut self) -> Result<(), Failure> {
        self.plain("ROLLBACK").await?;
        self.committing = false;
        Ok(())
    }

    pub fn is_committing(&self) -> bool {
        self.committing
    }

    async fn prepare(&mut self, statement: Statement) -> Result<Prepared, Failure> {
        let hint = self.statements.hint();
        if hint != self.hint {
            self.hint = hint;
            self.prepared.clear();
        }
        if let Some(prepared) = self.prepared.get(&statement) {
            return Ok(prepared.clone());
        }
        let prepared = self.conn.prep(self.statements.text(statement)).await?;
        self.prepared.insert(statement, prepared.clone());
        Ok(prepared)
    }

    pub async fn disconnect(self) {
        // An error means that the connection is gone already.
        let _ = self.conn.disconnect().await;
    }
}

/// The bytes in a column of a row.
pub fn bytes(row: &mut Row, column: usize) -> Vec<u8> {
    match row.take::<Value, _>(column) {
        Some(Value::Bytes(bytes)) => bytes,
        _ => Vec::new(),
    }
}

pub fn text(row: &mut Row, column: usize) -> Option<String> {
    String::from_utf8(bytes(row, column)).ok()
}

pub fn flag(row: &Row, column: usize) -> bool {
    matches!(row.as_ref(column), Some(Value::Int(1) | Value::UInt(1)))
}
