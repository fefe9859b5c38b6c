//! The options of `SqliteKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::{Durability, SqliteOptions};

impl Parse for SqliteOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "SqliteKvStore", |given| {
            let mut options = Self::default();
            if let Some(name) = given.text("tableName")? {
                options = options.table(name)?;
            }
            options.initialized = given.boolean("initialized", options.initialized)?;
            let durability = given.option("durability", r#""full" or "normal""#, |value| {
                match js.to_text(value).as_deref() {
                    Ok("full") => Some(Durability::Full),
                    Ok("normal") => Some(Durability::Normal),
                    _ => None,
                }
            })?;
            options.durability = durability.unwrap_or(options.durability);
            options.relaxed = given.prefixes("relaxed")?;
            options.busy_timeout = given.millis("busyTimeout", 0.0, options.busy_timeout)?;
            Ok(options)
        })
    }
}
