//! Reads of single keys, through the cache of recent values.

use super::as_text;
use super::recent::Recent;
use crate::kv::{Millis, now};
use crate::stores::database::Snapshot;
use rusqlite::types::ValueRef;
use rusqlite::{Result, Statement, params};
use tokio::sync::Notify;

pub enum Found {
    Nothing,
    Text(String),
    NotText,
}

/// When an entry expires, if that is known: the column takes anything.
enum Expiry {
    Never,
    At(Millis),
    Unknown,
}

/// Reads a key, from the cache if it is there.
pub fn get(snapshot: &mut Snapshot, held: &Notify, recent: &Recent, key: &str) -> Result<Found> {
    let header = snapshot.header();
    if let Some(text) = header.and_then(|header| recent.get(&header, key)) {
        return Ok(Found::Text(text));
    }
    let (found, expiry) = snapshot.get(header, held, |get| find_with_expiry(get, key))?;
    let expires = match expiry {
        Expiry::Never => None,
        Expiry::At(millis) => Some(millis),
        Expiry::Unknown => return Ok(found),
    };
    // Only of a held transaction is it known which state it reads.
    if let (Some(held), Found::Text(text)) = (snapshot.held(), &found) {
        recent.put(held, key, text, expires);
    }
    Ok(found)
}

/// Runs the statement that gets one key.
pub fn find(get: &mut Statement<'_>, key: &str) -> Result<Found> {
    Ok(find_with_expiry(get, key)?.0)
}

fn find_with_expiry(get: &mut Statement<'_>, key: &str) -> Result<(Found, Expiry)> {
    let mut rows = get.query(params![key, now()])?;
    let Some(row) = rows.next()? else {
        return Ok((Found::Nothing, Expiry::Unknown));
    };
    let found = as_text(row.get_ref(0)?).map_or(Found::NotText, |text| Found::Text(text.to_owned()));
    let expiry = match row.get_ref(1)? {
        ValueRef::Null => Expiry::Never,
        ValueRef::Integer(millis) => Expiry::At(millis),
        _ => Expiry::Unknown,
    };
    Ok((found, expiry))
}
