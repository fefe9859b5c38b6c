//! Connection parameters: what a URL says, and what the environment says where
//! the URL says nothing. URLs are read as PostgreSQL's own clients read them.

use super::environment::{Environment, VARIABLES};
use crate::kv::{Error, Result};
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Parameters that a URL may have, apart from those that have a variable.
const OTHERS: &[&str] = &[
    "connection_limit",
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "tcp_user_timeout",
];

#[derive(Default)]
pub struct Parameters(HashMap<&'static str, Value>);

/// A parameter's value and where it comes from. Messages name the parameter,
/// but never show the value: it may be a part of a password.
struct Value {
    text: String,
    variable: Option<&'static str>,
}

/// One parameter, for reading its value.
pub struct Given<'a> {
    name: &'static str,
    value: &'a Value,
}

impl Parameters {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a URL that can't be read, and for unknown
    /// parameters.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(invalid(SCHEMES));
        };
        if !matches!(scheme.to_ascii_lowercase().as_str(), "postgres" | "postgresql") {
            return Err(invalid(SCHEMES));
        }
        let mut all = Self::default();
        // A password may contain a question mark.
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let rest = match rest[end..].strip_prefix('@') {
            Some(after) => {
                let (user, password) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
                all.put("user", user)?;
                all.put("password", password)?;
                after
            }
            None => rest,
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        all.put_hosts(hosts)?;
        all.put("dbname", database)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(invalid(
                    "a parameter has no value; write %3F for ? in names and passwords",
                ));
            };
            all.put_parameter(&decode(name)?, decode(value)?)?;
        }
        Ok(all)
    }

    /// Adds what the environment says about parameters that the URL left out.
    pub fn fill(&mut self, environment: &Environment) {
        for (name, variable) in VARIABLES {
            if let Some(text) = environment.get(variable) {
                self.0.entry(name).or_insert_with(|| Value {
                    text: text.to_owned(),
                    variable: Some(variable),
                });
            }
        }
    }

    pub fn get(&self, name: &'static str) -> Option<Given<'_>> {
        self.0.get(name).map(|value| Given { name, value })
    }

    /// The text of a parameter; `None` if it is empty.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).map(|given| given.text()).filter(|text| !text.is_empty())
    }

    /// A part of the URL before its parameters, unless it is empty.
    fn put(&mut self, name: &'static str, encoded: &str) -> Result<()> {
        if !encoded.is_empty() {
            self.insert(name, decode(encoded)?);
        }
        Ok(())
    }

    fn put_hosts(&mut self, encoded: &str) -> Result<()> {
        if encoded.contains('@') {
            return Err(invalid("it has more than one @; write %40 in names and passwords"));
        }
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for place in encoded.split(',') {
            let (host, port) = match place.strip_prefix('[') {
                Some(numbers) => {
                    let (host, after) = numbers.split_once(']').ok_or_else(|| invalid("a host has no ]"))?;
                    let port = after.strip_prefix(':').unwrap_or(after);
                    if port.len() == after.len() && !after.is_empty() {
                        return Err(invalid("a ] must be followed by a port"));
                    }
                    (host, port)
                }
                None => place.split_once(':').unwrap_or((place, "")),
            };
            hosts.push(host);
            ports.push(port);
        }
        self.put("host", &hosts.join(","))?;
        self.put("port", &ports.join(","))
    }

    fn put_parameter(&mut self, name: &str, value: String) -> Result<()> {
        if name == "ssl" {
            // As other drivers spell it.
            let mode = match value.as_str() {
                "true" => "require",
                "false" => "disable",
                _ => return Err(invalid("ssl must be true or false")),
            };
            self.insert("sslmode", mode.into());
            return Ok(());
        }
        let known = VARIABLES.iter().map(|(name, _)| name).chain(OTHERS);
        match known.copied().find(|known| *known == name) {
            Some(known) => {
                self.insert(known, value);
                Ok(())
            }
            None => Err(invalid(unknown(name))),
        }
    }

    fn insert(&mut self, name: &'static str, text: String) {
        self.0.insert(name, Value { text, variable: None });
    }
}

impl<'a> Given<'a> {
    pub fn text(&self) -> &'a str {
        &self.value.text
    }

    pub fn is_in_url(&self) -> bool {
        self.value.variable.is_none()
    }

    /// The error for a wrong value: what the parameter must be.
    pub fn must_be(&self, what: impl fmt::Display) -> Error {
        match self.value.variable {
            Some(variable) => Error::InvalidOption(format!("the environment variable {variable} must be {what}")),
            None => invalid(format_args!("{} must be {what}", self.name)),
        }
    }

    /// One of some names.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let chosen = choices.iter().find(|(name, _)| *name == self.text());
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            match names.split_last() {
                Some((last, others)) if !others.is_empty() => {
                    self.must_be(format_args!("{} or {last}", others.join(", ")))
                }
                _ => self.must_be(names.concat()),
            }
        })
    }

    pub fn whole<T>(&self, range: RangeInclusive<T>) -> Result<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let number = self.text().trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.must_be(format_args!("a whole number from {} to {}", range.start(), range.end())))
    }
}

const SCHEMES: &str = "it must start with postgres:// or postgresql://";

fn decode(encoded: &str) -> Result<String> {
    let text = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| invalid("it is not UTF-8 when its % are decoded"))?;
    if text.contains('\0') {
        return Err(invalid("it must not contain %00"));
    }
    Ok(text.into_owned())
}

/// A name that can't be one of a parameter may be a part of a password.
fn unknown(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.len() <= 40 && name.chars().all(plain) {
        format!("unknown parameter {name:?}; pass options as the second argument")
    } else {
        "unknown parameter; write %3F for ? in names and passwords".into()
    }
}

pub fn invalid(why: impl fmt::Display) -> Error {
    Error::InvalidOption(format!("the PostgreSQL URL is invalid: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(url: &str, name: &'static str) -> Option<String> {
        Parameters::parse(url).unwrap().text(name).map(str::to_owned)
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let url =
            "PostgreSQL://us%40er:p%2F%3A?s@a,[::1]:7,%2Frun%2Fpg:8/my%20db?options=-c%20x%3Dy&application_name=a@b";
        for (name, value) in [
            ("user", "us@er"),
            ("password", "p/:?s"),
            ("host", "a,::1,/run/pg"),
            ("port", ",7,8"),
            ("dbname", "my db"),
            ("options", "-c x=y"),
            ("application_name", "a@b"),
        ] {
            assert_eq!(text(url, name).as_deref(), Some(value), "{name}");
        }
        let empty = Parameters::parse("postgres://").unwrap();
        assert!(empty.0.is_empty());
        assert_eq!(text("postgres://:x@/", "user"), None);
        assert_eq!(text("postgres://h/a/b", "dbname").as_deref(), Some("a/b"));
        // The last one counts.
        let url = "postgres://a:1/d?host=/run&port=2&dbname=e&user=u";
        assert_eq!(text(url, "host").as_deref(), Some("/run"));
        assert_eq!(text(url, "port").as_deref(), Some("2"));
        assert_eq!(text(url, "dbname").as_deref(), Some("e"));
        assert_eq!(
            text("postgres://a?&sslmode=prefer&ssl=true&", "sslmode").as_deref(),
            Some("require")
        );
        assert_eq!(text("postgres://a?ssl=false", "sslmode").as_deref(), Some("disable"));
    }

    #[test]
    fn the_environment_fills_what_the_url_leaves_out() {
        let environment = [("PGUSER", "env"), ("PGPASSWORD", "p"), ("PGHOST", "h"), ("PGPORT", "1")].into();
        let mut parameters = Parameters::parse("postgres://url@:7").unwrap();
        parameters.fill(&environment);
        assert_eq!(parameters.text("user"), Some("url"));
        assert_eq!(parameters.text("password"), Some("p"));
        assert_eq!(parameters.text("host"), Some("h"));
        assert_eq!(parameters.text("port"), Some("7"));
        assert!(!parameters.get("password").unwrap().is_in_url());
    }

    #[test]
    fn messages_name_parameters_and_variables() {
        let error = |url| Parameters::parse(url).map(drop).unwrap_err().to_string();
        assert!(error("postgres://h?sslmod=secret").contains("\"sslmod\""));
        for bad in [
            "secret",
            "http://secret",
            "postgres://u:se@cret@h",
            "postgres://[secret",
            "postgres://[::1]secret",
            "postgres://h?secret",
            "postgres://h?%73ecr%2Aet=1",
            "postgres://h?secret%FF=1",
            "postgres://h?user=secret%00",
            "postgres://h?ssl=secret",
        ] {
            assert!(!error(bad).contains("secret"), "{bad}: {}", error(bad));
        }
        let mut parameters = Parameters::parse("postgres://h?connect_timeout=secret").unwrap();
        parameters.fill(&[("PGSSLMODE", "secret")].into());
        let choices = [("a", 1), ("b", 2), ("c", 3)];
        let mode = parameters.get("sslmode").unwrap().one_of(&choices).unwrap_err();
        assert_eq!(
            mode,
            Error::InvalidOption("the environment variable PGSSLMODE must be a, b or c".into())
        );
        let timeout = parameters.get("connect_timeout").unwrap().whole(1..=9).unwrap_err();
        assert_eq!(
            timeout,
            Error::InvalidOption(
                "the PostgreSQL URL is invalid: connect_timeout must be a whole number from 1 to 9".into()
            )
        );
    }
}
