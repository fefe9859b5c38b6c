//! A session on a server: its settings and its prepared statements.

use super::catalogue::Part;
use super::failure::Failure;
use super::statements::{Statement, Statements};
use crate::stores::served::Fault;
use futures::FutureExt;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, Params, Row, Statement as Prepared, Value};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// More than the store has, so that the driver never closes one by itself.
pub const MOST_STATEMENTS: usize = 256;

/// A session that was unused for so long may have ended. To be sure takes a round
/// trip.
const STALE: Duration = Duration::from_secs(2);

/// What the statements count on. A server, a user or a pooler may have other
/// defaults.
const SETTINGS: &[&str] = &[
    // All keys and values are in it, whatever the server thinks of the client.
    "character_set_client = utf8mb4",
    "character_set_connection = utf8mb4",
    "character_set_results = utf8mb4",
    // Values that don't fit are errors, and nothing else is.
    "sql_mode = 'STRICT_ALL_TABLES'",
    // Each statement outside a transaction is one, and COMMIT begins no other.
    "autocommit = 1",
    "completion_type = 'NO_CHAIN'",
    // Limits would hide entries, or refuse statements about many of them.
    "sql_select_limit = DEFAULT",
    "sql_big_selects = 1",
    "sql_safe_updates = 0",
    // INSERT is to notice an entry that is there.
    "unique_checks = 1",
    // Entries expire by the time zone that other programs on this table use.
    "time_zone = @@GLOBAL.time_zone",
];

/// Which server it is, and which of its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    server: String,
    /// When the server was started, in seconds, give or take one.
    started: i64,
    pub id: u64,
}

impl Name {
    /// Whether the other is a session of the same server. After a restart it is not:
    /// numbers are used again.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.server == other.server && (self.started - other.started).abs() <= 2
    }

    /// Asks for the session's name, and for the largest packet that it accepts.
    pub async fn ask(conn: &mut Wire) -> mysql_async::Result<(Self, u64)> {
        // MariaDB has no server_uuid.
        let query = "SELECT CONCAT_WS(' ', @@hostname, @@port /*!80000 , @@server_uuid */), \
            UNIX_TIMESTAMP(), CONNECTION_ID(), @@max_allowed_packet";
        let (server, now, id, packet): (String, i64, u64, u64) = first(conn, query).await?;
        let (_, uptime): (String, i64) = first(conn, "SHOW GLOBAL STATUS LIKE 'Uptime'").await?;
        let started = now - uptime;
        Ok((Self { server, started, id }, packet))
    }
}

async fn first<T: FromRow + Send + 'static>(conn: &mut Wire, query: &str) -> mysql_async::Result<T> {
    let row: Option<T> = conn.query_first(query).await?;
    row.ok_or_else(|| std::io::Error::other("the server gave no answer").into())
}

/// The driver's connection. If it is dropped, the socket is closed at once; the
/// driver would first wait for answers.
pub struct Wire(Option<Conn>);

impl Wire {
    pub async fn connect(opts: Opts) -> mysql_async::Result<Self> {
        Ok(Self(Some(Conn::new(opts).await?)))
    }

    pub async fn disconnect(mut self) -> mysql_async::Result<()> {
        match self.0.take() {
            Some(conn) => conn.disconnect().await,
            None => Ok(()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(conn.disconnect().now_or_never());
        }
    }
}

#[expect(clippy::expect_used, reason = "only its end takes the connection")]
impl Deref for Wire {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.0.as_ref().expect("it has not ended")
    }
}

#[expect(clippy::expect_used, reason = "only its end takes the connection")]
impl DerefMut for Wire {
    fn deref_mut(&mut self) -> &mut Conn {
        self.0.as_mut().expect("it has not ended")
    }
}

pub struct Session {
    conn: Wire,
    statements: Arc<Statements>,
    prepared: HashMap<Statement, Prepared>,
    /// The hint in those.
    hint: Arc<str>,
    /// The largest packet that the server accepts, in bytes.
    pub packet: usize,
    in_transaction: bool,
    /// Whether what is under way may change something, even if there is no answer.
    at_risk: bool,
    /// Whether there is an answer that nobody will read, so that this is its end.
    pub spent: bool,
    used: Instant,
}

/// How to set a session up.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub query_timeout: Duration,
    /// Whether the server logs statements, which needs a stricter isolation level
    /// than we prefer.
    pub statement_log: bool,
}

impl Session {
    pub async fn set_up(
        mut conn: Wire,
        statements: Arc<Statements>,
        wanted: Wanted,
    ) -> mysql_async::Result<(Self, Name)> {
        // The server's own limits, in case our requests to stop a statement
        // fail. They are a little longer than ours.
        let seconds = wanted.query_timeout.as_secs() + 2;
        let millis = seconds * 1000;
        conn.query_drop(format!(
            "SET SESSION {}, innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds} \
            /*M! , max_statement_time = {seconds} */ /*!80000 , max_execution_time = {millis} */",
            SETTINGS.join(", ")
        ))
        .await?;
        // Without gap locks, writers of different keys don't block each other.
        let level = if wanted.statement_log {
            "REPEATABLE READ"
        } else {
            "READ COMMITTED"
        };
        conn.query_drop(format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}, READ WRITE"))
            .await?;
        let (name, packet) = Name::ask(&mut conn).await?;
        let session = Self {
            conn,
            hint: statements.hint(),
            statements,
            prepared: HashMap::new(),
            packet: packet.try_into().unwrap_or(usize::MAX),
            in_transaction: false,
            at_risk: false,
            spent: false,
            used: Instant::now(),
        };
        Ok((session, name))
    }

    /// Makes sure that the session has not ended while it was not used.
    pub async fn wake(&mut self) -> Result<(), Failure> {
        if self.used.elapsed() >= STALE {
            self.conn.ping().await?;
        }
        Ok(())
    }

    pub async fn rows(&mut self, statement: Statement, values: Vec<Value>) -> Result<Vec<Row>, Failure> {
        let prepared = self.prepare(statement).await?;
        Ok(self.conn.exec(prepared, Params::Positional(values)).await?)
    }

    /// The first rows, until they have so many bytes; whether these are all. If not,
    /// the session is spent.
    pub async fn rows_until(
        &mut self,
        statement: Statement,
        values: Vec<Value>,
        most: usize,
    ) -> Result<(Vec<Row>, bool), Failure> {
        let prepared = self.prepare(statement).await?;
        let mut result = self.conn.exec_iter(prepared, Params::Positional(values)).await?;
        let (mut rows, mut size) = (Vec::new(), 0);
        while let Some(row) = result.next().await? {
            size += (0..row.len()).map(|column| length(&row, column)).sum::<usize>();
            rows.push(row);
            if size >= most {
                self.spent = true;
                return Ok((rows, false));
            }
        }
        Ok((rows, true))
    }

    /// Returns how many rows it changed.
    pub async fn change(&mut self, statement: Statement, values: Vec<Value>) -> Result<u64, Failure> {
        let prepared = self.prepare(statement).await?;
        // A transaction that is not committed is undone.
        self.at_risk = !self.in_transaction;
        self.conn.exec_drop(prepared, Params::Positional(values)).await?;
        self.at_risk = false;
        Ok(self.conn.affected_rows())
    }

    /// What the catalogue says.
    pub async fn parts(&mut self, query: &str) -> Result<Vec<Part>, Failure> {
        let rows: Vec<Row> = self.conn.query(query).await?;
        Ok(rows.iter().filter_map(Part::of).collect())
    }

    /// Runs a query without preparing it; whether it returned a row.
    pub async fn find(&mut self, text: &str) -> Result<bool, Failure> {
        let row: Option<Row> = self.conn.query_first(text).await?;
        Ok(row.is_some())
    }

    /// Runs a statement that changes something, without preparing it.
    pub async fn alter(&mut self, text: &str) -> Result<(), Failure> {
        self.at_risk = true;
        self.conn.query_drop(text).await?;
        self.at_risk = false;
        Ok(())
    }

    /// Whether the last statement has brought warnings.
    pub fn has_warned(&self) -> bool {
        self.conn.get_warnings() > 0
    }

    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.conn.query_drop("BEGIN").await?;
        self.in_transaction = true;
        Ok(())
    }

    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.alter("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    pub async fn roll_back(&mut self) -> Result<(), Failure> {
        self.conn.query_drop("ROLLBACK").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Undoes what has failed, and says what the failure means.
    pub async fn fail(&mut self, failure: Failure, place: &str) -> Fault {
        let (committing, at_risk) = (self.in_transaction && self.at_risk, self.at_risk);
        self.at_risk = false;
        if matches!(failure, Failure::Server(_)) && self.in_transaction {
            // If that fails, the connection has ended, which undoes it too.
            let _ = self.roll_back().await;
        }
        failure.fault(at_risk, committing, place)
    }

    /// What has to be called when the statements have ended well.
    pub fn end(&mut self) {
        self.used = Instant::now();
    }

    pub async fn settle(&mut self) -> Result<(), Failure> {
        Ok(self.conn.query_drop("DO 0").await?)
    }

    /// Has the server end another session, or what that is doing.
    pub async fn kill(&mut self, what: &str, id: u64) -> Result<(), Failure> {
        Ok(self.conn.query_drop(format!("KILL {what} {id}")).await?)
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

fn length(row: &Row, column: usize) -> usize {
    match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => bytes.len(),
        _ => 0,
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
