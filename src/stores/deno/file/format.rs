//! The format of Deno KV: keys are tuples in bytes, values are in V8's format.

use super::super::batch::{Change, Condition};
use super::super::key;
use super::super::row::add_to_page;
use super::{entries, rows, schema};
use crate::kv::{Command, Key, Millis, Page, PageLimits, Prefix, Result, now};
use crate::stores::database::{Connection, Done, Expiry, Format, Found, Position, Range, Slice, read_page};
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Statement, params};

pub struct DenoFormat;

impl Format for DenoFormat {
    const WRITER: &'static str = "deno";
    const LISTS: &'static str = "deno-list";

    fn is_complete(&self, connection: &Connection) -> Result<bool> {
        Ok(schema::later_versions(connection)?.is_empty())
    }

    fn create(&self, connection: &Connection) -> Result<()> {
        schema::create(connection)
    }

    fn get(&self) -> &str {
        rows::GET
    }

    fn find(get: &mut Statement<'_>, key: &Key) -> Result<Found> {
        let bytes = match key::encode(key) {
            Ok(bytes) => bytes,
            Err(error) => {
                let value = Err(error);
                return Ok(Found {
                    value,
                    ..Found::NOTHING
                });
            }
        };
        let Some((row, expires)) = rows::select(get, &bytes)? else {
            return Ok(Found::NOTHING);
        };
        let value = if row.live { row.value.text(key) } else { Ok(None) };
        let expiry = if expires < 0 {
            Expiry::Never
        } else {
            Expiry::At(expires)
        };
        Ok(Found { value, expiry })
    }

    fn entries<'c>(&'c self, connection: &'c Connection) -> impl FnMut(&[&Command]) -> Result<Done> + 'c {
        |commands| entries::run(connection, commands)
    }

    fn range(prefix: &Prefix) -> Result<Range> {
        let (start, end) = key::range(prefix)?;
        Ok(Range {
            start: Position::Blob(start),
            end: Position::Blob(end),
        })
    }

    fn page(&self, connection: &Connection, range: &mut Range, limits: PageLimits) -> Result<Page> {
        read_page(connection, rows::RANGE, range, limits, |page, row| {
            add_to_page(page, rows::key(row)?, &rows::read(row)?);
            Ok(())
        })
    }

    fn clear(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice> {
        // Keys with other parts than strings are no entries of the store.
        delete(connection, range, most, |key| key::decode(key).is_some())
    }

    fn drop(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice> {
        delete(connection, range, most, |_| true)
    }

    fn first_expiry(&self, connection: &Connection) -> Result<Option<Millis>> {
        const FIRST: &str = "SELECT expiration_ms FROM kv WHERE expiration_ms >= 0 ORDER BY expiration_ms LIMIT 1";
        let mut statement = connection.prepare_cached(FIRST)?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }

    fn sweep(&self, connection: &Connection, now: Millis, most: u32) -> Result<()> {
        const SWEEP: &str = "DELETE FROM kv WHERE k IN (\
            SELECT k FROM kv WHERE expiration_ms >= 0 AND expiration_ms <= ?1 ORDER BY expiration_ms LIMIT ?2)";
        // Deno, too, counts it as a write.
        entries::next_version(connection)?;
        connection.prepare_cached(SWEEP)?.execute(params![now, most])?;
        Ok(())
    }
}

fn delete(connection: &Connection, range: &Range, most: u32, is_doomed: impl Fn(&[u8]) -> bool) -> Result<Slice> {
    let mut slice = Slice::default();
    let mut doomed = Vec::new();
    let mut statement = connection.prepare_cached(rows::RANGE)?;
    let mut rows = statement.query(params![range.start, range.end, most, now()])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        let key = rows::key(row)?;
        if is_doomed(key) {
            slice.live += u64::from(rows::is_live(row)?);
            doomed.push(key.to_vec());
        }
        read += 1;
        if read == most {
            slice.next = Some(Position::after(ValueRef::Blob(key)));
        }
    }
    let deletion = |key| Change {
        key,
        value: None,
        expires: None,
        condition: Condition::Anything,
    };
    entries::apply(connection, doomed.iter().map(|key| deletion(&**key)))?;
    Ok(slice)
}
