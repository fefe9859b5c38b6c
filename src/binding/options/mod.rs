//! The options of the stores' constructors: one file a store, and here what
//! their options have in common.

mod deno;
mod mysql;
mod postgres;
mod redis;
mod sqlite;
mod tls;

use super::js::{Js, Value};
use crate::kv::{Error, Result};
use std::time::Duration;

/// The longest queue that a caller may ask for.
pub const MOST_WAITING: u32 = 10_000_000;

/// A property of an options object; `None` where it is undefined.
pub fn option(js: Js, object: Value, name: &str) -> Result<Option<Value>> {
    let value = js.get(object, name).map_err(|thrown| Error::InvalidOption(thrown.0))?;
    Ok((!js.is_undefined(value)).then_some(value))
}

/// Text, or the bytes of a Buffer.
pub fn bytes(js: Js, value: Value, name: &str) -> Result<Vec<u8>> {
    js.to_bytes(value)
        .or_else(|| js.to_text(value).ok().map(String::into_bytes))
        .ok_or_else(|| Error::InvalidOption(format!("{name} must be a string or a Buffer")))
}

/// A whole number from one on.
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

pub fn timeout_millis(js: Js, value: Value, name: &str, least: f64) -> Result<Duration> {
    js.to_number(value)
        .filter(|millis| (least..=2_147_483_647.0).contains(millis))
        .map(|millis| Duration::from_secs_f64(millis / 1000.0))
        .ok_or_else(|| {
            Error::InvalidOption(format!(
                "{name} must be a number of milliseconds from {least} to 2147483647"
            ))
        })
}
