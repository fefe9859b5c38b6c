//! The HTTP requests of KV Connect. No redirect is followed, answers are bounded,
//! and no message holds a secret.

use crate::kv::{Error, Result};
use crate::stores::served::{TlsOptions, TlsRefusal, look_up};
use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use url::Url;

/// The most bytes of an answer, and of one that tells of an error.
const MOST_BYTES: usize = 512 * 1024 * 1024;
const MOST_WORDS: usize = 4096;

/// How many characters of a body a message has.
const SHOWN: usize = 200;

/// A body that has so many bytes of a secret in a row is not shown.
const TELLING: usize = 8;

/// A client with connections of its own.
#[derive(Clone)]
pub struct Http(Arc<Client>);

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was sent.
    Unsent(String),
    Broken(String),
    TooLarge,
    Late,
}

impl Http {
    /// # Errors
    ///
    /// [`Error::Connection`] if the system's certificates can't be read.
    pub fn new(connect_timeout: Duration) -> Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(TlsOptions::default_config()?)
            .dns_resolver(LookUp)
            .redirect(Policy::none())
            .connect_timeout(connect_timeout)
            .user_agent(concat!("fedify-kv/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Connection(words(&error)))?;
        Ok(Self(Arc::new(client)))
    }

    /// Whether both have the same connections.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub async fn post(&self, url: Url, headers: HeaderMap, body: Vec<u8>, until: Instant) -> Result<Answer, Failure> {
        let request = self.0.post(url).headers(headers).body(body);
        timeout_at(until, receive(request)).await.unwrap_or(Err(Failure::Late))
    }
}

async fn receive(request: RequestBuilder) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(|error| {
        let why = words(&error);
        if error.is_connect() || error.is_builder() {
            Failure::Unsent(why)
        } else {
            Failure::Broken(why)
        }
    })?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let good = status == StatusCode::OK;
    let most = if good { MOST_BYTES } else { MOST_WORDS };
    let mut body = Vec::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Err(error) if good => return Err(Failure::Broken(words(&error))),
            // Of an error, the status says enough.
            Ok(None) | Err(_) => break,
        };
        let room = most - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            if good {
                return Err(Failure::TooLarge);
            }
            break;
        }
    }
    Ok(Answer { status, headers, body })
}

impl Failure {
    /// What to say about it.
    pub fn error(self, place: &str, timeout: Duration) -> Error {
        match self {
            Self::Unsent(why) | Self::Broken(why) => Error::Connection(format!("{place}: {why}")),
            Self::TooLarge => Error::Backend(format!("{place}: the answer has more than {MOST_BYTES} bytes")),
            Self::Late => Error::Timeout(format!("{place}: no answer within {} ms", timeout.as_millis())),
        }
    }
}

impl Answer {
    /// The status and what the server says about it, without the secrets.
    pub fn words(&self, place: &str, secrets: &[&str]) -> String {
        let status = self.status;
        match excerpt(&self.body, secrets) {
            said if said.is_empty() => format!("{place} answered with status {status}"),
            said => format!("{place} answered with status {status}: {said}"),
        }
    }

    /// Whether the request may succeed later.
    pub fn is_temporary(&self) -> bool {
        let again = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        self.status.is_server_error() || again.contains(&self.status)
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        const LONGEST: u64 = 60;
        let seconds: u64 = self.headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds.min(LONGEST)))
    }
}

/// The beginning of a body in one line, or nothing if a secret is in the body.
fn excerpt(body: &[u8], secrets: &[&str]) -> String {
    let echoes = |secret: &str| {
        // Of an encoded secret, parts are as they were.
        let window = secret.len().min(TELLING);
        let mut parts = secret.as_bytes().windows(window);
        parts.any(|part| body.windows(window).any(|seen| seen == part))
    };
    if secrets.iter().any(|secret| !secret.is_empty() && echoes(secret)) {
        return String::new();
    }
    let text = String::from_utf8_lossy(body);
    let line = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = line.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => line[..end].to_owned(),
        None => line,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_beginning_of_a_body_in_one_line() {
        assert_eq!(
            excerpt(b" <h1>\r\n Bad\tGateway\x1b[0m</h1>\n", &[]),
            "<h1> Bad Gateway [0m</h1>"
        );
        assert_eq!(excerpt(b"\xff", &[]), "\u{fffd}");
        assert_eq!(excerpt("é".repeat(1_000).as_bytes(), &[]), "é".repeat(200));
        assert_eq!(excerpt(b"", &["secret"]), "");
    }

    #[test]
    fn a_body_with_a_part_of_a_secret_is_not_shown() {
        let secret = "abcdefghijklmnop+qrstuvwxyz/0123456789";
        let end = "x".repeat(3_000) + secret;
        for body in [
            secret,
            "invalid: abcdefghijkl…",
            "abcdefghijklmnop%2Bqrstuvwxyz%2F0123456789",
            end.as_str(),
        ] {
            assert_eq!(excerpt(body.as_bytes(), &["other", secret]), "", "{body}");
        }
        assert_eq!(excerpt(b"abcdefg is too short", &[secret]), "abcdefg is too short");
        assert_eq!(excerpt(b"the pin 1234", &["1234"]), "");
    }

    #[test]
    fn a_server_may_want_to_be_left_alone() {
        let answer = |status: u16, after: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([(http::header::RETRY_AFTER, after.parse().unwrap())]),
            body: Vec::new(),
        };
        assert_eq!(answer(429, "5").retry_after(), Some(Duration::from_secs(5)));
        assert_eq!(answer(429, "86400").retry_after(), Some(Duration::from_secs(60)));
        assert_eq!(answer(429, "Tue, 01 Dec 2026 00:00:00 GMT").retry_after(), None);
        for (status, temporary) in [(429, true), (503, true), (500, true), (404, false), (302, false)] {
            assert_eq!(answer(status, "1").is_temporary(), temporary, "{status}");
        }
    }
}
