//! A server that speaks KV Connect, Deno's protocol over HTTP.

use super::row::{Row, Rows, Stored};
use super::target::Server;
use crate::kv::{Error, Result};
use crate::stores::served::{TlsOptions, TlsRefusal, look_up};
use bytes::Bytes;
use deno_error::JsErrorBox;
use denokv_proto::{AtomicWrite, Consistency, Database, ReadRange, ReadRangeOutput, SnapshotReadOptions};
use denokv_remote::{MetadataEndpoint, RemotePermissions, RemoteResponse, RemoteTransport};
use futures::future::try_join_all;
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

/// The protocol's limits for one request: ranges that it reads, and entries.
const MOST_RANGES: usize = 10;
pub const MOST_ENTRIES: u32 = 1000;

/// The most bytes of an answer, and how many of one that tells of an error are kept.
const MOST_BYTES: usize = 512 * 1024 * 1024;
const MOST_WORDS: usize = 1000;

const UNKNOWN: &str = "; the outcome is unknown";

/// A status after which the client does not repeat a write. If the first one was
/// carried out, a repeated `cas` would seem to have failed.
const LASTING: StatusCode = StatusCode::REQUEST_TIMEOUT;

#[derive(Clone)]
pub struct Remote {
    client: denokv_remote::Remote<AnyUrl, Http>,
    http: Http,
    timeout: Duration,
}

impl Remote {
    /// Sends nothing yet. Must be called within the runtime.
    pub fn new(server: &Server, timeout: Duration) -> Result<Self> {
        let http = Http::new(timeout)?;
        let endpoint = MetadataEndpoint {
            url: server.url.clone(),
            access_token: server.token.clone(),
        };
        Ok(Self {
            client: denokv_remote::Remote::new(http.clone(), AnyUrl, endpoint),
            http,
            timeout,
        })
    }

    /// Makes sure that the server answers and accepts the token.
    pub async fn reach(&self) -> Result<()> {
        self.rows(&[&[]]).await.map(|_| ())
    }

    pub async fn rows(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        let requests = keys.chunks(MOST_RANGES).map(|keys| {
            let one = |key: &&[u8]| ReadRange {
                start: key.to_vec(),
                end: super::key::after(key),
                limit: NonZeroU32::MIN,
                reverse: false,
            };
            self.read(keys.iter().map(one).collect())
        });
        let ranges = try_join_all(requests).await?.into_iter().flatten();
        Ok(ranges.map(|range| rows(range).pop().map(|(_, row)| row)).collect())
    }

    pub async fn range(&self, start: &[u8], end: &[u8], limit: u32) -> Result<Rows> {
        let request = ReadRange {
            start: start.to_vec(),
            end: end.to_vec(),
            limit: NonZeroU32::new(limit.min(MOST_ENTRIES)).unwrap_or(NonZeroU32::MIN),
            reverse: false,
        };
        Ok(self.read(vec![request]).await?.into_iter().flat_map(rows).collect())
    }

    async fn read(&self, requests: Vec<ReadRange>) -> Result<Vec<ReadRangeOutput>> {
        let options = SnapshotReadOptions {
            consistency: Consistency::Strong,
        };
        self.ask(self.client.snapshot_read(requests, options), "").await
    }

    /// Writes if all its checks hold, and returns whether they did. Must not be
    /// called again before it has returned.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] and [`Error::Timeout`] if it may have been
    /// written.
    pub async fn write(&self, write: AtomicWrite) -> Result<bool> {
        self.http.unsure.store(false, Ordering::Relaxed);
        match self.ask(self.client.atomic_write(write), UNKNOWN).await {
            Ok(written) => Ok(written.is_some()),
            Err(Error::Backend(why)) if self.http.unsure.load(Ordering::Relaxed) => Err(Error::Connection(why)),
            Err(error) => Err(error),
        }
    }

    /// The client repeats a failed request without a limit. This function gives up
    /// if the server was never reached, or did not answer in time.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, JsErrorBox>>, outcome: &str) -> Result<T> {
        let mut failures = self.http.failures.subscribe();
        let refused = async {
            if self.http.reached.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            // The sender lives as long as `self`.
            let failure = failures.wait_for(Option::is_some).await;
            failure.ok().and_then(|failure| failure.clone()).unwrap_or_default()
        };
        let answer = timeout(self.timeout, answer);
        tokio::select! {
            // The client never yields while it has not reached its server once. A
            // branch after it would not be polled.
            biased;
            why = refused => Err(Error::Connection(why)),
            answer = answer => match answer {
                Ok(Ok(answer)) => {
                    self.http.reached.store(true, Ordering::Relaxed);
                    Ok(answer)
                }
                Ok(Err(error)) if self.http.reached.load(Ordering::Relaxed) => Err(Error::Backend(error.to_string())),
                Ok(Err(error)) => Err(Error::Connection(error.to_string())),
                Err(_) => {
                    let why = self.http.failures.borrow().clone();
                    Err(match why {
                        Some(why) => Error::Connection(format!("{why}{outcome}")),
                        None => Error::Timeout(format!("the server did not answer in time{outcome}")),
                    })
                }
            },
        }
    }
}

fn rows(range: ReadRangeOutput) -> Rows {
    let row = |entry: denokv_proto::KvEntry| {
        let row = Row {
            value: Stored::from(entry.value),
            stamp: entry.versionstamp,
            // The server doesn't say when it expires.
            live: true,
        };
        (entry.key, row)
    };
    range.entries.into_iter().map(row).collect()
}

/// Permits all URLs: the user chose this one.
#[derive(Clone)]
struct AnyUrl;

impl RemotePermissions for AnyUrl {
    fn check_net_url(&self, _: &Url) -> Result<(), JsErrorBox> {
        Ok(())
    }
}

/// How requests go out.
#[derive(Clone)]
struct Http {
    client: reqwest::Client,
    /// Why the last request failed, unless one has succeeded since.
    failures: Arc<watch::Sender<Option<String>>>,
    /// Whether the server has ever answered a request for data.
    reached: Arc<AtomicBool>,
    /// Whether a write was sent whose outcome is unknown.
    unsure: Arc<AtomicBool>,
}

impl Http {
    fn new(timeout: Duration) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(TlsOptions::default_config()?)
            .dns_resolver(LookUp)
            // Callers have given up before.
            .timeout(2 * timeout)
            .build()
            .map_err(|error| Error::Connection(words(&error)))?;
        Ok(Self {
            client,
            failures: Arc::new(watch::Sender::new(None)),
            reached: Arc::default(),
            unsure: Arc::default(),
        })
    }

    async fn send(self, url: Url, headers: HeaderMap, body: Bytes) -> Result<(Url, StatusCode, Answer), JsErrorBox> {
        let write = url.path().ends_with("/atomic_write");
        let answer = self.try_send(url.clone(), headers, body, write).await;
        match answer {
            Ok(answer) => {
                self.failures.send_replace(None);
                let (url, status, body) = answer;
                if write && status.is_server_error() {
                    self.unsure.store(true, Ordering::Relaxed);
                    return Ok((url, LASTING, body));
                }
                Ok((url, status, body))
            }
            Err(error) => {
                let why = words(&error);
                // A timeout does not say whether the server was reached.
                if !error.is_timeout() {
                    self.failures.send_replace(Some(why.clone()));
                }
                if write && !error.is_connect() {
                    self.unsure.store(true, Ordering::Relaxed);
                    return Ok((url, LASTING, Answer(format!("{why}{UNKNOWN}").into())));
                }
                Err(JsErrorBox::generic(why))
            }
        }
    }

    async fn try_send(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
        write: bool,
    ) -> reqwest::Result<(Url, StatusCode, Answer)> {
        let mut response = self.client.post(url).headers(headers).body(body).send().await?;
        let (url, status) = (response.url().clone(), response.status());
        let good = status.is_success();
        let most = if good { MOST_BYTES } else { MOST_WORDS };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            let room = most - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() <= room {
                continue;
            }
            if good {
                // So that the client doesn't ask again.
                let status = if write {
                    StatusCode::INTERNAL_SERVER_ERROR
                } else {
                    StatusCode::BAD_REQUEST
                };
                let why = format!("the server's answer has more than {MOST_BYTES} bytes");
                return Ok((url, status, Answer(why.into())));
            }
            body.extend_from_slice("…".as_bytes());
            break;
        }
        Ok((url, status, Answer(body.into())))
    }
}

/// Looks up host names. The client's own look-ups panic if no thread can be
/// started for them.
struct LookUp;

impl Resolve for LookUp {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client replaces this port.
            let addresses = look_up(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The message of the innermost cause, which is the most precise one. The others
/// may contain URLs, and URLs may contain secrets.
fn words(error: &reqwest::Error) -> String {
    if let Some(TlsRefusal { words, .. }) = TlsRefusal::find(error) {
        return words;
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl RemoteTransport for Http {
    type Response = Answer;

    fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> impl Future<Output = Result<(Url, StatusCode, Answer), JsErrorBox>> + Send + Sync {
        // As a task, because the trait demands `Sync`, and a request is not.
        let mut task = Request(tokio::spawn(self.clone().send(url, headers, body)));
        async move {
            (&mut task.0)
                .await
                .unwrap_or_else(|_| Err(JsErrorBox::generic("internal error in a request")))
        }
    }
}

/// A running request. Dropping it ends it, so that an abandoned write is not
/// carried out after a later one.
struct Request<T>(JoinHandle<T>);

impl<T> Drop for Request<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Answer(Bytes);

impl RemoteResponse for Answer {
    async fn bytes(self) -> Result<Bytes, JsErrorBox> {
        Ok(self.0)
    }

    async fn text(self) -> Result<String, JsErrorBox> {
        Ok(String::from_utf8_lossy(&self.0).into_owned())
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, JsErrorBox>> + Send + Sync {
        stream::iter([Ok(self.0)])
    }
}
