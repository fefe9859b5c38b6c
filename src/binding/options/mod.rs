//! The options of the stores' constructors: one file for each store. This file
//! has what their options have in common.

mod deno;
mod mysql;
mod postgres;
mod redis;
mod sqlite;
mod tls;

use super::args::Parse;
use super::js::{Js, Value};
use crate::kv::{Error, Key, Prefix, Result};
use crate::stores::TlsOptions;
use std::time::Duration;

/// The longest queue that a caller may ask for.
const MOST_WAITING: u32 = 10_000_000;

/// The largest number of connections that a caller may ask for.
const MOST_CONNECTIONS: u32 = 1_000;

/// An options object from a caller. Options are read by name; one that is
/// missing or `undefined` leaves the default.
struct Given {
    js: Js,
    object: Option<Value>,
    /// The name of the option that has these as its value, for errors.
    within: Option<&'static str>,
}

impl Given {
    fn of(js: Js, value: Value) -> Result<Self> {
        let given = !js.is_nullish(value);
        if given && !js.is_object(value) {
            return Err(Error::InvalidOption("the options are not an object".into()));
        }
        Ok(Self {
            js,
            object: given.then_some(value),
            within: None,
        })
    }

    /// The options within an option.
    fn within(&self, name: &'static str) -> Result<Option<Self>> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        if !self.js.is_object(value) {
            return Err(Error::InvalidOption(format!("{name} is not an object")));
        }
        Ok(Some(Self {
            js: self.js,
            object: Some(value),
            within: Some(name),
        }))
    }

    fn value(&self, name: &str) -> Result<Option<Value>> {
        let Some(object) = self.object else { return Ok(None) };
        let value = self.js.get(object, name);
        let value = value.map_err(|thrown| Error::InvalidOption(thrown.0))?;
        Ok((!self.js.is_undefined(value)).then_some(value))
    }

    /// An option, read by `read`. If that returns `None`, the error says that the
    /// option must be a `kind`.
    fn read<T>(&self, name: &str, kind: &str, read: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        let wrong = || {
            let name = self.within.map_or(name.into(), |within| format!("{within}.{name}"));
            Error::InvalidOption(format!("{name} must be {kind}"))
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        self.read(name, "a string", |value| self.js.to_text(value).ok())
    }

    /// Text or the bytes of a Buffer.
    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.read(name, "a string or a Buffer", |value| {
            let text = || self.js.to_text(value).ok().map(String::into_bytes);
            self.js.to_bytes(value).or_else(text)
        })
    }

    /// An array of keys, each the prefix of others.
    fn prefixes(&self, name: &'static str) -> Result<Vec<Prefix>> {
        let array = self.read(name, "an array of keys", |value| {
            self.js.is_array(value).then_some(value)
        })?;
        let Some(array) = array else { return Ok(Vec::new()) };
        let prefix = |index| {
            let key = Key::parse(self.js, self.js.element_given(array, index));
            key.map(Prefix::from)
                .map_err(|error| Error::InvalidOption(format!("{name}[{index}]: {error}")))
        };
        (0..self.js.length(array)).map(prefix).collect()
    }

    fn boolean(&self, name: &str, default: bool) -> Result<bool> {
        let boolean = self.read(name, "a boolean", |value| self.js.to_bool(value))?;
        Ok(boolean.unwrap_or(default))
    }

    fn millis(&self, name: &str, least: f64, default: Duration) -> Result<Duration> {
        let kind = format!("a number of milliseconds from {least} to 2147483647");
        let millis = self.read(name, &kind, |value| {
            let millis = self.js.to_number(value);
            millis.filter(|millis| (least..=2_147_483_647.0).contains(millis))
        })?;
        Ok(millis.map_or(default, |millis| Duration::from_secs_f64(millis / 1000.0)))
    }

    fn timeout(&self, name: &str, default: Duration) -> Result<Duration> {
        self.millis(name, 1.0, default)
    }

    fn count(&self, name: &str, most: u32, default: usize) -> Result<usize> {
        match self.value(name)? {
            Some(value) => Ok(whole(self.js, value, name, most)? as usize),
            None => Ok(default),
        }
    }

    fn queue_limit(&self, default: usize) -> Result<usize> {
        self.count("queueLimit", MOST_WAITING, default)
    }

    fn max_connections(&self, default: usize) -> Result<usize> {
        self.count("maxConnections", MOST_CONNECTIONS, default)
    }

    fn tls(&self) -> Result<Option<TlsOptions>> {
        self.within("tls")?.map(|tls| tls::options(&tls)).transpose()
    }
}

/// A whole number of at least one.
pub fn whole(js: Js, value: Value, name: &str, most: u32) -> Result<u32> {
    let number = js.to_number(value).filter(|number| number.fract() == 0.0);
    match number {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number in range"
        )]
        Some(number) if (1.0..=f64::from(most)).contains(&number) => Ok(number as u32),
        _ => Err(Error::InvalidOption(format!(
            "{name} must be a whole number from 1 to {most}"
        ))),
    }
}
