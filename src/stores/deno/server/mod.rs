//! A server that speaks KV Connect, Deno's protocol over HTTP, as the self-hosted
//! `denokv` does.
//!
//! The worker that the stores on servers share ([`crate::stores::served`]) gathers
//! operations; [`group`] divides them into requests. The protocol's own client
//! (`denokv_remote`) is not used: it repeats requests without an end, whether or not
//! they were carried out, and does not compare answers with what was asked.

mod access;
mod group;
mod http;
mod metadata;
mod protocol;

use super::batch::{Change, Condition};
use super::key::{self, after as next_key};
use super::row::{Row as StoredRow, Rows as StoredRows};
use super::target::Server;
use crate::host::{Bulk, Host};
use crate::kv::{Error, Outcome, Prefix};
use crate::stores::served::{Cleared, Cursor, Engine, Group, Limits, Lost, Row, Rows, ServedStore, Swept};
use access::Access;
use denokv_proto::datapath::{AtomicWriteOutput, ReadRange, SnapshotRead, SnapshotReadOutput};
use futures::future::BoxFuture;
use http::{Answer, Failure};
use metadata::Metadata;
use parking_lot::Mutex;
use prost::Message;
use protocol::{MOST_CHECKS, MOST_ENTRIES, Unfit, Written, range, rows, write, written};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

pub use metadata::check_token;

/// How many groups may run at once, and how many requests. Each request under way
/// has a connection of its own.
const GROUPS: usize = 8;
const REQUESTS: usize = 64;

/// Entries that are deleted in one write: with the longest keys, more don't fit.
const SLICE: u32 = 256;

pub type ServerStore = ServedStore<DenoServer>;

impl ServerStore {
    pub fn at_server(server: Server, timeout: Duration, queue_limit: usize) -> Self {
        let engine = DenoServer {
            access: Arc::new(Access::new(server, timeout)),
            timeout,
            requests: Semaphore::new(REQUESTS),
            rest: Mutex::new(None),
        };
        // The HTTP client owns its sockets.
        Self::new(engine, queue_limit, Host::Thread, Bulk::Here)
    }
}

pub struct DenoServer {
    access: Arc<Access>,
    timeout: Duration,
    requests: Semaphore,
    /// Until when the server wants no requests, and why.
    rest: Mutex<Option<(Instant, Error)>>,
}

/// The right to send requests, one after another.
struct Session<'a> {
    server: &'a DenoServer,
    metadata: Arc<Metadata>,
    until: Instant,
    _permit: SemaphorePermit<'a>,
}

impl DenoServer {
    async fn session(&self, until: Instant) -> Result<Session<'_>, Lost> {
        let permit = timeout_at(until, self.requests.acquire()).await;
        let permit = permit.map_err(|_| undone(self.error(Failure::Late)))?;
        let permit = permit.map_err(|_| undone(Error::Closed))?;
        if let Some((rest, why)) = &*self.rest.lock()
            && *rest > Instant::now()
        {
            return Err(undone(why.clone()));
        }
        Ok(Session {
            server: self,
            metadata: self.access.metadata(until).await?,
            until,
            _permit: permit,
        })
    }

    fn error(&self, failure: Failure) -> Error {
        failure.error(self.access.place(), self.timeout)
    }
}

fn undone(error: Error) -> Lost {
    Lost::Undone(error)
}

fn lasting(error: Error) -> Lost {
    Lost::Refused { error, lasting: true }
}

/// Another program has changed an entry between our read and our write.
fn conflict() -> Lost {
    undone(Error::Timeout("other programs kept changing the same entries".into()))
}

impl Session<'_> {
    async fn read(&self, ranges: Vec<ReadRange>) -> Result<Vec<StoredRows>, Lost> {
        let request = SnapshotRead { ranges };
        let answer = self.ask(Method::Read, request.encode_to_vec()).await?;
        let answer = SnapshotReadOutput::decode(&*answer).map_err(|_| Unfit::Wrong("is not in the protocol's format"));
        let rows = answer.and_then(|answer| rows(answer, self.metadata.has_read_status(), &request.ranges));
        rows.map_err(|unfit| match unfit {
            Unfit::Elsewhere => self.elsewhere(),
            Unfit::Wrong(what) => {
                let place = self.server.access.place();
                lasting(Error::Backend(format!("{place}: the answer {what}")))
            }
        })
    }

    /// What is stored under each of these keys.
    async fn rows(&self, keys: impl Iterator<Item = &[u8]>) -> Result<Vec<Option<StoredRow>>, Lost> {
        let ranges = keys.map(|key| range(key, &next_key(key), 1)).collect();
        let found = self.read(ranges).await?.into_iter();
        Ok(found.map(|mut rows| rows.pop().map(|(_, row)| row)).collect())
    }

    /// The first entries under a prefix, or those after one of them.
    async fn entries(&self, prefix: &Prefix, after: Option<&Cursor>, limit: u32) -> Result<StoredRows, Lost> {
        let (first, end) = key::range(prefix).map_err(lasting)?;
        let start = after.map_or(first, |after| next_key(after));
        let ranges = self.read(vec![range(&start, &end, limit)]).await?;
        Ok(ranges.into_iter().flatten().collect())
    }

    /// Writes if all conditions hold, and returns whether they did. No error but
    /// [`Lost::Unknown`] leaves open whether it was written.
    async fn write<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) -> Result<bool, Lost> {
        let request = write(changes);
        if request.mutations.is_empty() {
            return Ok(true);
        }
        let answer = self.ask(Method::Write, request.encode_to_vec()).await?;
        let answer = AtomicWriteOutput::decode(&*answer).unwrap_or_default();
        match written(&answer, !request.checks.is_empty()) {
            Written::Yes => Ok(true),
            Written::Conflict => Ok(false),
            Written::Elsewhere => Err(self.elsewhere()),
            Written::Unknown => {
                let place = self.server.access.place();
                let why = format!("{place}: the answer does not say whether it was written");
                Err(Lost::Unknown(Error::Connection(why)))
            }
        }
    }

    /// The endpoint does not serve the database now. New metadata may name another.
    fn elsewhere(&self) -> Lost {
        self.server.access.refuse(&self.metadata);
        let place = self.server.access.place();
        undone(Error::Connection(format!("{place} does not serve the database now")))
    }

    /// The body of a good answer.
    async fn ask(&self, method: Method, body: Vec<u8>) -> Result<Vec<u8>, Lost> {
        let (server, access) = (self.server, &self.server.access);
        let (url, headers) = (self.metadata.url(method.name()), self.metadata.headers.clone());
        let http = access.http()?;
        match http.post(url, headers, body, self.until).await {
            Ok(answer) if answer.status.as_u16() == 200 => Ok(answer.body),
            Ok(answer) => Err(self.refused(method, &answer)),
            Err(failure @ Failure::Unsent(_)) => {
                access.doubt(&self.metadata);
                let error = server.error(failure);
                Err(Lost::Refused { error, lasting: false })
            }
            Err(Failure::TooLarge) if method == Method::Read => Err(lasting(server.error(Failure::TooLarge))),
            Err(failure) => {
                if matches!(failure, Failure::Late) {
                    access.leave(&http);
                }
                Err(method.lost(server.error(failure)))
            }
        }
    }

    /// What follows from an answer with another status than 200.
    fn refused(&self, method: Method, answer: &Answer) -> Lost {
        let (server, access) = (self.server, &self.server.access);
        let secrets = self.metadata.secrets.each_ref().map(String::as_str);
        let words = answer.words(access.place(), &secrets);
        if let Some(rest) = answer.retry_after().filter(|_| answer.is_temporary()) {
            let error = Error::Connection(words.clone());
            *server.rest.lock() = Some((Instant::now() + rest, error));
        }
        let refuses_token = matches!(answer.status.as_u16(), 401 | 403);
        if answer.is_temporary() || (refuses_token && access.refuse(&self.metadata)) || method == Method::Write {
            method.lost(Error::Connection(words))
        } else if refuses_token {
            lasting(Error::Connection(words))
        } else {
            lasting(Error::Backend(words))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Read,
    Write,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "snapshot_read",
            Self::Write => "atomic_write",
        }
    }

    /// What follows if there is no good answer. Nothing but a good answer says that a
    /// write was not carried out: a proxy may have sent any other one, after it.
    fn lost(self, error: Error) -> Lost {
        match (self, error) {
            (Self::Read, error) => undone(error),
            (Self::Write, Error::Backend(why)) => Lost::Unknown(Error::Connection(why)),
            (Self::Write, error) => Lost::Unknown(error),
        }
    }
}

impl Engine for DenoServer {
    const NAME: &'static str = "deno";
    const HAS_TABLE: bool = false;

    type Walk = ();

    fn place(&self) -> &str {
        self.access.place()
    }

    fn connections(&self) -> usize {
        GROUPS
    }

    fn query_timeout(&self) -> Duration {
        self.timeout
    }

    fn run<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>> {
        Box::pin(self.answer(group))
    }

    fn read<'a>(
        &'a self,
        (): &'a (),
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        entries: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>> {
        Box::pin(async move {
            let session = self.session(limits.late).await?;
            let entries = entries.min(MOST_ENTRIES);
            let found = session.entries(prefix, after, entries).await?;
            let next = found.last().filter(|_| found.len() == entries as usize);
            let next = next.map(|(key, _)| key.clone());
            let row = |(key, row): (Vec<u8>, StoredRow)| {
                let value = row.value.json();
                let key = key::decode(&key).map(|key| key.as_json().to_owned());
                // A Deno program's `undefined` is no entry here.
                let exists = key.is_none() || !matches!(value, Ok(None));
                exists.then(|| Row {
                    key,
                    value: value.ok().flatten(),
                })
            };
            let rows = found.into_iter().filter_map(row).collect();
            Ok(Rows { rows, next })
        })
    }

    /// Keys that have other parts than strings are no entries; they stay unless
    /// everything is to go.
    fn clear<'a>(
        &'a self,
        (): &'a (),
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        slice: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>> {
        Box::pin(async move {
            let session = self.session(limits.deadline).await?;
            let slice = slice.min(SLICE);
            let found = session.entries(prefix, after, slice).await?;
            let goes = |key: &[u8]| prefix.key().is_none() || key::decode(key).is_some();
            let doomed: Vec<_> = found.iter().filter(|(key, _)| goes(key)).collect();
            // Where that many checks are possible, what changes meanwhile is read
            // again and counted right.
            let checks = doomed.len() <= MOST_CHECKS;
            let changes = doomed.iter().map(|(key, row)| Change {
                key,
                value: None,
                expires: None,
                condition: if checks {
                    Condition::Version(row.stamp)
                } else {
                    Condition::Anything
                },
            });
            if !session.write(changes).await? {
                return Err(conflict());
            }
            let last = found.last().filter(|_| found.len() == slice as usize);
            Ok(Cleared {
                live: doomed.len() as u64,
                next: last.map(|(key, _)| key.clone()),
            })
        })
    }

    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            let session = self.session(limits.deadline).await?;
            session.entries(&Prefix::ALL, None, 1).await.map(drop)
        })
    }

    /// The server removes expired entries itself.
    fn sweep<'a>(&'a self, _: Option<&'a Cursor>, _: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async { Ok(Swept::default()) })
    }

    fn forget(&self) {
        self.access.token().forget();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
