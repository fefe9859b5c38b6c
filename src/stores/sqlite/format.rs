//! The format of Fedify's own SQLite store: keys and values are JSON texts.

use super::SqliteOptions;
use super::entries::Entries;
use super::schema;
use super::statements::Statements;
use crate::kv::{Command, Error, Key, Millis, Page, PageLimits, Prefix, Result, now};
use crate::stores::database::{
    Connection, Done, Expiry, Format, Found, Position, Range, Slice, is_missing_table, read_page,
};
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Statement, params};
use std::sync::atomic::{AtomicBool, Ordering};

pub struct SqliteFormat {
    pub table: String,
    pub sql: Statements,
    /// Whether a missing table may be created. After `drop` it may be, even with
    /// `initialized: true`.
    creates: AtomicBool,
}

impl SqliteFormat {
    pub fn new(options: SqliteOptions) -> Self {
        Self {
            sql: Statements::new(&options.table),
            table: options.table,
            creates: AtomicBool::new(!options.initialized),
        }
    }

    /// Whether this error means that the table is missing, and may be created:
    /// another process has dropped it.
    pub fn lacks_table(&self, error: &Error) -> bool {
        is_missing_table(error) && self.creates.load(Ordering::Acquire)
    }
}

impl Format for SqliteFormat {
    const WRITER: &'static str = "sqlite";
    const LISTS: &'static str = "sqlite-list";

    fn is_complete(&self, connection: &Connection) -> Result<bool> {
        let is_complete = schema::is_complete(self, connection)?;
        if is_complete || self.creates.load(Ordering::Acquire) {
            return Ok(is_complete);
        }
        // Fails if there is no table. One that is there later is to be checked.
        connection.prepare(&self.sql.get)?;
        Ok(true)
    }

    fn create(&self, connection: &Connection) -> Result<()> {
        schema::create(self, connection)
    }

    fn get(&self) -> &str {
        &self.sql.get
    }

    fn find(get: &mut Statement<'_>, key: &Key) -> Result<Found> {
        let mut rows = get.query(params![key.as_json(), now()])?;
        let Some(row) = rows.next()? else {
            return Ok(Found::NOTHING);
        };
        let value = match as_text(row.get_ref(0)?) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::Corrupt(format!("the value of {key} is not text"))),
        };
        let expiry = match row.get_ref(1)? {
            ValueRef::Null => Expiry::Never,
            ValueRef::Integer(millis) => Expiry::At(millis),
            // The column takes anything.
            _ => Expiry::Unknown,
        };
        Ok(Found { value, expiry })
    }

    fn entries<'c>(&'c self, connection: &'c Connection) -> impl FnMut(&[&Command]) -> Result<Done> + 'c {
        let mut entries = Entries::new(self, connection);
        move |commands| entries.run(commands)
    }

    fn range(prefix: &Prefix) -> Result<Range> {
        Ok(match prefix.json_range() {
            Some((first, last)) => Range {
                start: Position::Text(first.into_bytes()),
                end: Position::after(ValueRef::Text(last.as_bytes())),
            },
            None => Range {
                start: Position::Text(Vec::new()),
                end: Position::after(ValueRef::Blob(&[])),
            },
        })
    }

    fn page(&self, connection: &Connection, range: &mut Range, limits: PageLimits) -> Result<Page> {
        let page = read_page(connection, &self.sql.page, range, limits, |page, row| {
            if row.get(2)? {
                page.push_unchecked(as_text(row.get_ref(0)?), as_text(row.get_ref(1)?));
            }
            Ok(())
        });
        match page {
            Err(error) if self.lacks_table(&error) => Ok(Page::default().end()),
            page => page,
        }
    }

    fn clear(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice> {
        match self.delete(connection, range, most) {
            Err(error) if self.lacks_table(&error) => {
                self.create(connection)?;
                Ok(Slice::default())
            }
            slice => slice,
        }
    }

    fn drop(&self, connection: &Connection, _: &Range, _: u32) -> Result<Slice> {
        connection.execute_batch(&self.sql.drop_table)?;
        self.creates.store(true, Ordering::Release);
        Ok(Slice::default())
    }

    fn first_expiry(&self, connection: &Connection) -> Result<Option<Millis>> {
        let mut statement = connection.prepare_cached(&self.sql.first_expiry)?;
        // Other writers may store fractions of a millisecond.
        let first: Option<f64> = statement.query_row([], |row| row.get(0)).optional()?.flatten();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it saturates, and only says when to look again"
        )]
        let first = first.map(|first| first.ceil() as Millis);
        Ok(first)
    }

    fn sweep(&self, connection: &Connection, now: Millis, most: u32) -> Result<()> {
        connection
            .prepare_cached(&self.sql.sweep)?
            .execute(params![now, most])?;
        Ok(())
    }
}

impl SqliteFormat {
    fn delete(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice> {
        let mut statement = connection.prepare_cached(&self.sql.clear)?;
        let mut rows = statement.query(params![range.start, range.end, most, now()])?;
        let (mut deleted, mut live) = (0, 0);
        // RETURNING gives the rows in no particular order.
        let mut next = None;
        while let Some(row) = rows.next()? {
            next = next.max(Some(Position::after(row.get_ref(0)?)));
            live += u64::from(row.get::<_, bool>(1)?);
            deleted += 1;
        }
        let next = next.filter(|_| deleted == most);
        Ok(Slice { live, next })
    }
}

/// A stored text, if it is one: the columns take anything.
fn as_text(stored: ValueRef<'_>) -> Option<&str> {
    match stored {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}
