//! A session on a server: its settings and its prepared statements.

use super::answer::{Answer, Command, Parameter, Prepared, Row};
use super::catalogue::Part;
use super::client::Client;
use super::failure::{Failure, WireError};
use super::statements::{Statement, Statements};
use super::wire::{Wire, broken};
use crate::stores::served::Fault;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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
    pub async fn ask(wire: &mut Wire) -> Result<(Self, usize), WireError> {
        // MariaDB has no server_uuid.
        let query = "SELECT CONCAT_WS(' ', @@hostname, @@port /*!80000 , @@server_uuid */), \
            UNIX_TIMESTAMP(), CONNECTION_ID(), @@max_allowed_packet";
        let mut row = first(wire, query).await?;
        let number = |row: &Row, column| row.number(column).ok_or_else(|| broken("a number is missing"));
        let uptime = first(wire, "SHOW GLOBAL STATUS LIKE 'Uptime'").await?;
        let name = Self {
            started: number(&row, 1)? - number(&uptime, 1)?,
            id: number(&row, 2)?.unsigned_abs(),
            server: row.text(0).unwrap_or_default(),
        };
        let packet = usize::try_from(number(&row, 3)?).unwrap_or(usize::MAX);
        Ok((name, packet))
    }
}

async fn first(wire: &mut Wire, query: &str) -> Result<Row, WireError> {
    let mut rows = Command::query(query).run(wire).await?.rows;
    Ok(rows.pop().ok_or_else(|| broken("the server gave no answer"))?)
}

pub struct Session {
    client: Client,
    statements: Arc<Statements>,
    prepared: HashMap<Statement, Prepared>,
    /// The hint in those.
    hint: Arc<str>,
    /// The largest packet that the server accepts, in bytes.
    pub packet: usize,
    in_transaction: bool,
    /// Whether what is under way may change something, even if there is no answer.
    at_risk: bool,
    /// Whether the last statement has brought warnings.
    has_warned: bool,
}

/// How to set a session up.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub query_timeout: Duration,
    /// Whether the server logs statements, which needs a stricter isolation level
    /// than we prefer.
    pub statement_log: bool,
}

/// Makes the session what the statements count on. Returns its name, and the largest
/// packet that it accepts.
pub async fn set_up(wire: &mut Wire, wanted: Wanted) -> Result<(Name, usize), WireError> {
    // The server's own limits, in case our requests to stop a statement fail. They are
    // a little longer than ours.
    let seconds = wanted.query_timeout.as_secs() + 2;
    let millis = seconds * 1000;
    let settings = format!(
        "SET SESSION {}, innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds} \
        /*M! , max_statement_time = {seconds} */ /*!80000 , max_execution_time = {millis} */",
        SETTINGS.join(", ")
    );
    Command::query(&settings).run(wire).await?;
    // Without gap locks, writers of different keys don't block each other.
    let level = if wanted.statement_log {
        "REPEATABLE READ"
    } else {
        "READ COMMITTED"
    };
    let isolation = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}, READ WRITE");
    Command::query(&isolation).run(wire).await?;
    Name::ask(wire).await
}

impl Session {
    pub fn new(client: Client, statements: Arc<Statements>, packet: usize) -> Self {
        Self {
            client,
            hint: statements.hint(),
            statements,
            prepared: HashMap::new(),
            packet,
            in_transaction: false,
            at_risk: false,
            has_warned: false,
        }
    }

    async fn run(&mut self, command: Command) -> Result<Answer, Failure> {
        let answer = self.client.run(command).await?;
        self.has_warned = answer.warnings > 0;
        Ok(answer)
    }

    async fn query(&mut self, text: &str) -> Result<Answer, Failure> {
        self.run(Command::query(text)).await
    }

    pub async fn rows(&mut self, statement: Statement, values: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        let prepared = self.prepare(statement).await?;
        Ok(self.run(Command::execute(prepared, values)).await?.rows)
    }

    /// The first rows, until they have so many bytes; whether these are all. If not,
    /// the session ends.
    pub async fn rows_until(
        &mut self,
        statement: Statement,
        values: &[Parameter<'_>],
        most: usize,
    ) -> Result<(Vec<Row>, bool), Failure> {
        let prepared = self.prepare(statement).await?;
        let answer = self.run(Command::execute(prepared, values).until(most)).await?;
        Ok((answer.rows, !answer.has_more))
    }

    /// Returns how many rows it changed.
    pub async fn change(&mut self, statement: Statement, values: &[Parameter<'_>]) -> Result<u64, Failure> {
        let prepared = self.prepare(statement).await?;
        // A transaction that is not committed is undone.
        self.at_risk = !self.in_transaction;
        let answer = self.run(Command::execute(prepared, values)).await?;
        self.at_risk = false;
        Ok(answer.changed)
    }

    /// What the catalogue says.
    pub async fn parts(&mut self, query: &str) -> Result<Vec<Part>, Failure> {
        let rows = self.query(query).await?.rows;
        Ok(rows.into_iter().filter_map(Part::of).collect())
    }

    /// Runs a query without preparing it; whether it returned a row.
    pub async fn find(&mut self, text: &str) -> Result<bool, Failure> {
        Ok(!self.query(text).await?.rows.is_empty())
    }

    /// Runs a statement that changes something, without preparing it.
    pub async fn alter(&mut self, text: &str) -> Result<(), Failure> {
        self.at_risk = true;
        self.query(text).await?;
        self.at_risk = false;
        Ok(())
    }

    pub fn has_warned(&self) -> bool {
        self.has_warned
    }

    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.query("BEGIN").await?;
        self.in_transaction = true;
        Ok(())
    }

    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.alter("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    pub async fn roll_back(&mut self) -> Result<(), Failure> {
        self.query("ROLLBACK").await?;
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

    pub async fn settle(&mut self) -> Result<(), Failure> {
        self.query("DO 0").await.map(drop)
    }

    /// Has the server end another session.
    pub async fn kill(&mut self, id: u64) -> Result<(), Failure> {
        self.query(&format!("KILL CONNECTION {id}")).await.map(drop)
    }

    async fn prepare(&mut self, statement: Statement) -> Result<Prepared, Failure> {
        let hint = self.statements.hint();
        if hint != self.hint {
            self.hint = hint;
            for (_, old) in self.prepared.drain() {
                self.client.tell(Command::close(old));
            }
        }
        if let Some(prepared) = self.prepared.get(&statement) {
            return Ok(*prepared);
        }
        let answer = self.run(Command::prepare(&self.statements.text(statement))).await?;
        self.prepared.insert(statement, answer.prepared);
        Ok(answer.prepared)
    }
}
