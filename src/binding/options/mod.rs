//! The options of the stores' constructors: one file for each store. This file
//! has what their options have in common.

mod deno;
mod memory;
mod mysql;
mod postgres;
mod redis;
mod sqlite;
mod tls;

pub use memory::NoOptions;

use super::args::Parse;
use super::js::{Js, NotText, Value};
use super::secret;
use crate::kv::{Error, Key, Prefix, Result};
use crate::stores::{Credentials, MOST_CONNECTIONS, Password, TlsOptions};
use std::cell::RefCell;
use std::time::Duration;

/// The longest queue that a caller may ask for.
const MOST_WAITING: u32 = 10_000_000;

/// The option that has options of its own.
const TLS: &str = "tls";

/// An options object from a caller. Options are read by name; one that is
/// missing or `undefined` has its default.
struct Given {
    js: Js,
    object: Option<Value>,
    /// The class, or the option, that has these options.
    owner: &'static str,
    /// The names of the options that were read: those that exist.
    names: RefCell<Vec<&'static str>>,
}

impl Given {
    /// Reads the options of a class, and refuses those that `read` did not ask
    /// for.
    fn read<T>(js: Js, value: Value, class: &'static str, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let object = (!js.is_nullish(value)).then_some(value);
        Self::read_object(js, object, class, read)
    }

    fn read_object<T>(
        js: Js,
        object: Option<Value>,
        owner: &'static str,
        read: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        if let Some(object) = object
            && !js.is_object(object)
        {
            let kind = js.kind(object);
            return Err(Error::InvalidOption(format!(
                "the options of {owner} must be an object, not {kind}"
            )));
        }
        let given = Self {
            js,
            object,
            owner,
            names: RefCell::default(),
        };
        let options = read(&given)?;
        given.refuse_others()?;
        Ok(options)
    }

    /// The options within an option, read by `read`.
    fn within<T>(&self, name: &'static str, read: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        let object = self.value(name)?;
        object
            .map(|object| Self::read_object(self.js, Some(object), name, read))
            .transpose()
    }

    fn refuse_others(&self) -> Result<()> {
        let Some(object) = self.object else { return Ok(()) };
        let given = self.js.names(object);
        let given = given.map_err(|thrown| Error::InvalidOption(format!("the options can't be read: {}", thrown.0)))?;
        let names = self.names.borrow();
        let Some(unknown) = given.iter().find(|name| !names.contains(&name.as_str())) else {
            return Ok(());
        };
        let options = if names.is_empty() {
            "it has none".into()
        } else {
            format!("its options are {}", names.join(", "))
        };
        let unknown = unknown.chars().take(40).collect::<String>();
        Err(Error::InvalidOption(format!(
            "{} has no option {unknown:?}; {options}",
            self.owner
        )))
    }

    fn value(&self, name: &'static str) -> Result<Option<Value>> {
        self.names.borrow_mut().push(name);
        self.property(name)
    }

    fn property(&self, name: &str) -> Result<Option<Value>> {
        let Some(object) = self.object else { return Ok(None) };
        let value = self.js.get(object, name);
        let value =
            value.map_err(|thrown| Error::InvalidOption(format!("{} can't be read: {}", self.path(name), thrown.0)))?;
        Ok((!self.js.is_undefined(value)).then_some(value))
    }

    /// Refuses an option of the official package that this one doesn't have.
    fn refuse(&self, name: &str, why: &str) -> Result<()> {
        match self.property(name)? {
            Some(_) => Err(Error::InvalidOption(format!(
                "{} has no option {name}: {why}",
                self.owner
            ))),
            None => Ok(()),
        }
    }

    /// An option's name, after the name of the option that contains it.
    fn path(&self, name: &str) -> String {
        if self.owner == TLS {
            format!("{TLS}.{name}")
        } else {
            name.into()
        }
    }

    /// An option, converted by `convert`. If that returns `None`, the error says
    /// that the option must be `kind`.
    fn option<T>(&self, name: &'static str, kind: &str, convert: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        let wrong = || Error::InvalidOption(format!("{} must be {kind}, not {}", self.path(name), self.shown(value)));
        convert(value).map(Some).ok_or_else(wrong)
    }

    /// A wrong value of an option, if it is short and cannot be a secret;
    /// otherwise its type.
    fn shown(&self, value: Value) -> String {
        match (self.js.to_number(value), self.js.to_text(value)) {
            (Some(number), _) => number.to_string(),
            (_, Ok(text)) if self.owner != TLS && text.len() <= 40 => format!("{text:?}"),
            _ => self.js.kind(value).into(),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<String>> {
        self.option(name, "a string", |value| self.js.to_text(value).ok())
    }

    /// Text, or the bytes of a `Uint8Array`.
    fn bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>> {
        self.option(name, "a string or a Uint8Array", |value| {
            let text = || self.js.to_text(value).ok().map(String::into_bytes);
            self.js.to_bytes(value).or_else(text)
        })
    }

    /// An array of keys, each the prefix of others.
    fn prefixes(&self, name: &'static str) -> Result<Vec<Prefix>> {
        let array = self.option(name, "an array of keys", |value| {
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

    fn boolean(&self, name: &'static str, default: bool) -> Result<bool> {
        Ok(self.boolean_given(name)?.unwrap_or(default))
    }

    fn boolean_given(&self, name: &'static str) -> Result<Option<bool>> {
        self.option(name, "a boolean", |value| self.js.to_bool(value))
    }

    fn millis(&self, name: &'static str, least: f64, default: Duration) -> Result<Duration> {
        Ok(self.millis_given(name, least)?.unwrap_or(default))
    }

    fn millis_given(&self, name: &'static str, least: f64) -> Result<Option<Duration>> {
        let kind = format!("a number of milliseconds from {least} to 2147483647");
        let millis = self.option(name, &kind, |value| {
            let millis = self.js.to_number(value);
            millis.filter(|millis| (least..=2_147_483_647.0).contains(millis))
        })?;
        Ok(millis.map(|millis| Duration::from_secs_f64(millis / 1000.0)))
    }

    fn timeout(&self, name: &'static str, default: Duration) -> Result<Duration> {
        Ok(self.timeout_given(name)?.unwrap_or(default))
    }

    fn timeout_given(&self, name: &'static str) -> Result<Option<Duration>> {
        self.millis_given(name, 1.0)
    }

    fn count_given(&self, name: &'static str, most: u32) -> Result<Option<usize>> {
        let count = self.value(name)?.map(|value| whole(self.js, value, name, most));
        Ok(count.transpose()?.map(|count| count as usize))
    }

    fn queue_limit(&self, default: usize) -> Result<usize> {
        Ok(self.count_given("queueLimit", MOST_WAITING)?.unwrap_or(default))
    }

    fn max_connections(&self, default: usize) -> Result<usize> {
        Ok(self.max_connections_given()?.unwrap_or(default))
    }

    fn max_connections_given(&self) -> Result<Option<usize>> {
        self.count_given("maxConnections", MOST_CONNECTIONS)
    }

    fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials {
            user: self.text("user")?,
            password: self.secret("password")?,
        })
    }

    /// Text, or a function that returns it. The value is never shown.
    fn secret(&self, name: &'static str) -> Result<Password> {
        let Some(value) = self.value(name)? else {
            return Ok(Password::Unsaid);
        };
        if self.js.is_function(value) {
            return Ok(Password::Asked(secret::asked(self.js, name, value, secret::text)));
        }
        let wrong = |wrong| match wrong {
            NotText::NotString => self.js.kind(value),
            NotText::LoneSurrogate => "a string with a lone surrogate",
        };
        self.js.to_text(value).map(Password::Text).map_err(|not_text| {
            let wrong = wrong(not_text);
            Error::InvalidOption(format!(
                "{name} must be a string or a function that returns one, not {wrong}"
            ))
        })
    }

    fn tls(&self) -> Result<Option<TlsOptions>> {
        self.within(TLS, tls::read)
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
