//! The metadata of a KV Connect database: where requests go, and the token for them,
//! for a limited time.

use super::http::Answer;
use chrono::{DateTime, Utc};
use denokv_proto::DatabaseMetadata;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName, LOCATION};
use http::{HeaderMap, HeaderValue};
use std::time::{Duration, SystemTime};
use url::Url;

/// What the client says about itself.
pub const REQUEST: &[u8] = br#"{"supportedVersions":[1,2,3]}"#;

/// The first version whose answers to reads have a status.
const WITH_STATUS: u64 = 3;

#[derive(Debug)]
pub struct Metadata {
    endpoint: Url,
    /// Those of all requests for data.
    pub headers: HeaderMap,
    /// The token for data, and the access token that it was given for.
    pub secrets: [String; 2],
    version: u64,
    /// How long it may be used. `None` if it has expired.
    pub lifetime: Option<Duration>,
}

impl Metadata {
    /// From the answer of the server at a URL to a request with an access token.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words that can follow "the metadata".
    pub fn parse(base: &Url, answer: &Answer, access_token: String) -> Result<Self, String> {
        // The parser's own message may show the token.
        let metadata: DatabaseMetadata = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("is not what the protocol says (column {})", error.column()))?;
        let version = metadata.version;
        if !(1..=3).contains(&version) {
            return Err(format!("has the unknown protocol version {version}"));
        }
        let mut endpoints = metadata.endpoints.iter();
        let strong = endpoints.find(|endpoint| endpoint.consistency == "strong");
        let endpoint = strong.ok_or("names no endpoint for consistent reads and writes")?;
        let endpoint = base.join(&endpoint.url).ok();
        let endpoint = endpoint.filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = endpoint.ok_or("has an invalid endpoint")?;
        if is_downgrade(base, &endpoint) {
            return Err("names an endpoint without encryption, though the store's URL has https:".into());
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let token = authorization(&metadata.token).ok_or("has a token that an HTTP header can't contain")?;
        headers.insert(AUTHORIZATION, token);
        let id = HeaderValue::from_str(&metadata.database_id.to_string()).map_err(|_| "has an invalid id")?;
        if version == 1 {
            headers.insert(HeaderName::from_static("x-transaction-domain-id"), id);
        } else {
            headers.insert(HeaderName::from_static("x-denokv-database-id"), id);
            headers.insert(HeaderName::from_static("x-denokv-version"), version.into());
        }
        Ok(Self {
            endpoint,
            headers,
            secrets: [metadata.token.into_owned(), access_token],
            version,
            lifetime: (metadata.expires_at - time_of(&answer.headers)).to_std().ok(),
        })
    }

    #[cfg(test)]
    pub fn for_tests(lifetime: Option<Duration>) -> Self {
        Self {
            endpoint: Url::from_directory_path("/").unwrap(),
            headers: HeaderMap::new(),
            secrets: Default::default(),
            version: WITH_STATUS,
            lifetime,
        }
    }

    pub fn url(&self, method: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(method);
        }
        url
    }

    pub fn has_read_status(&self) -> bool {
        self.version >= WITH_STATUS
    }
}

/// The time by the server's clock, which its expiry times are by. Ours may be wrong.
fn time_of(headers: &HeaderMap) -> DateTime<Utc> {
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    date.map_or_else(|| SystemTime::now().into(), |date| date.to_utc())
}

/// The header for a token, if every server reads it alike. Messages don't show it.
pub fn authorization(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    token.is_ascii().then_some(value)
}

/// # Errors
///
/// Why it can't be an access token, in words that can follow "the token".
pub fn check_token(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        return Err("is empty");
    }
    match authorization(token) {
        Some(_) => Ok(()),
        None => Err("has a character that an HTTP header can't contain"),
    }
}

fn is_downgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

/// Where an answer sends the request for metadata.
///
/// # Errors
///
/// Why the token must not be sent there.
pub fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok());
    let to = to.ok_or("redirects to no URL")?;
    if is_downgrade(from, &to) {
        return Err("redirects from https: to a URL without encryption".into());
    }
    let is_upgrade = from.scheme() != to.scheme();
    let same_port = from.port_or_known_default() == to.port_or_known_default();
    let host = to.host_str().unwrap_or_default();
    if from.host_str() != Some(host) || !(is_upgrade || same_port) {
        let port = to.port().map(|port| format!(":{port}")).unwrap_or_default();
        return Err(format!(
            "redirects to {host}{port}, which must not get the token; if it is right, use its URL for the store"
        ));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use serde_json::{Value, json};

    fn parse(base: &str, change: impl FnOnce(&mut Value), date: Option<&str>) -> Result<Metadata, String> {
        let mut metadata = json!({
            "version": 3,
            "databaseId": "a1b2c3d4-0000-4000-8000-000000000001",
            "endpoints": [
                { "url": "/eventual", "consistency": "eventual" },
                { "url": "/v2", "consistency": "strong" },
            ],
            "token": "the token",
            "expiresAt": "2030-01-01T01:00:00Z",
        });
        change(&mut metadata);
        let date = date.map(|date| (DATE, date.parse().unwrap()));
        let answer = Answer {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter(date),
            body: metadata.to_string().into_bytes(),
        };
        Metadata::parse(&Url::parse(base).unwrap(), &answer, "access".into())
    }

    const NOW: Option<&str> = Some("Tue, 01 Jan 2030 00:00:00 GMT");

    #[test]
    fn metadata_name_endpoint_token_and_lifetime() {
        let metadata = parse("https://host/some/path", |_| {}, NOW).unwrap();
        assert_eq!(metadata.url("snapshot_read").as_str(), "https://host/v2/snapshot_read");
        assert_eq!(metadata.headers[AUTHORIZATION], "Bearer the token");
        assert!(!format!("{:?}", metadata.headers).contains("the token"));
        assert_eq!(metadata.headers["x-denokv-version"], "3");
        assert_eq!(metadata.lifetime, Some(Duration::from_secs(3600)));
        assert!(metadata.has_read_status());
        let old = parse("http://host", |it| it["version"] = 1.into(), NOW).unwrap();
        assert!(!old.has_read_status() && !old.headers.contains_key("x-denokv-version"));
        let id = "a1b2c3d4-0000-4000-8000-000000000001";
        assert_eq!(old.headers["x-transaction-domain-id"], id);
    }

    #[test]
    fn the_lifetime_is_by_the_servers_clock() {
        let long_ago = |it: &mut Value| it["expiresAt"] = "2020-01-01T01:00:00Z".into();
        let by_server = parse("http://host", long_ago, Some("Wed, 01 Jan 2020 00:00:00 GMT"));
        assert_eq!(by_server.unwrap().lifetime, Some(Duration::from_secs(3600)));
        assert_eq!(parse("http://host", long_ago, NOW).unwrap().lifetime, None);
        assert_eq!(parse("http://host", long_ago, None).unwrap().lifetime, None);
        assert_eq!(parse("http://host", long_ago, Some("garbled")).unwrap().lifetime, None);
    }

    #[test]
    fn wrong_metadata_are_refused_without_their_secrets() {
        let wrong: [fn(&mut Value); 8] = [
            |it| it["version"] = 4.into(),
            |it| it["token"] = "the\ntoken".into(),
            |it| it["version"] = "the token".into(),
            |it| it["expiresAt"] = "the token".into(),
            |it| it["endpoints"][1]["consistency"] = "eventual".into(),
            |it| it["endpoints"][1]["url"] = "http://host/v2".into(),
            |it| it["endpoints"][1]["url"] = "ftp://host/v2".into(),
            |it| it["endpoints"][1]["url"] = "https://".into(),
        ];
        for change in wrong {
            let error = parse("https://host", change, NOW).unwrap_err();
            assert!(!error.contains("the token") && !error.contains("the\ntoken"), "{error}");
        }
        let elsewhere = |it: &mut Value| it["endpoints"][1]["url"] = "https://other/v2/".into();
        let metadata = parse("https://host", elsewhere, NOW).unwrap();
        assert_eq!(metadata.url("atomic_write").as_str(), "https://other/v2/atomic_write");
    }

    #[test]
    fn redirects_stay_with_the_host_that_has_the_token() {
        let to = |from: &str, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            let to = redirected(&Url::parse(from).unwrap(), &headers);
            to.map(String::from)
                .map_err(|why| why.split(',').next().unwrap().to_owned())
        };
        assert_eq!(to("https://host/a", "/b"), Ok("https://host/b".into()));
        assert_eq!(to("http://host/a", "https://host/a"), Ok("https://host/a".into()));
        assert_eq!(to("https://host:443/a", "https://host/b"), Ok("https://host/b".into()));
        let downgrade = "redirects from https: to a URL without encryption";
        assert_eq!(to("https://host/a", "http://host/a"), Err(downgrade.into()));
        assert_eq!(to("https://host", "https://other/x"), Err("redirects to other".into()));
        assert_eq!(
            to("https://host", "https://host:8443"),
            Err("redirects to host:8443".into())
        );
        assert_eq!(to("https://host", "data:x"), Err(downgrade.into()));
        assert_eq!(to("https://host", "https://"), Err("redirects to no URL".into()));
    }
}
