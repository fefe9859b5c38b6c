//! The statements, for one table in the format of Fedify's own store.
//!
//! A deadline is `created + ttl`, read by the server's clock. No statement
//! needs more than the primary key's index.

use crate::kv::{Error, Result};
use tokio_postgres::types::Type;

/// A statement and the types of its parameters.
pub struct Sql {
    pub text: String,
    pub types: &'static [Type],
}

/// What one key is asked, or many in one statement.
pub struct Statements {
    pub get: Sql,
    pub get_many: Sql,
    pub set: Sql,
    pub set_many: Sql,
    pub delete: Sql,
    pub delete_many: Sql,
    pub swap: Sql,
    pub insert: Sql,
    pub swap_delete: Sql,
    pub create: String,
    pub exists: String,
    pub drop: String,
    table: String,
}

/// Names have at most so many bytes; PostgreSQL would cut them.
const LONGEST_NAME: usize = 63;

/// Whether an entry is there for callers.
const LIVE: &str = "(t.ttl IS NULL OR t.created + t.ttl > CURRENT_TIMESTAMP)";

/// When an entry is written. Callers count in milliseconds, and so does its
/// deadline.
const NOW: &str = "date_trunc('milliseconds', CURRENT_TIMESTAMP)";

/// What a write makes of an entry that is there.
const REPLACE: &str = "SET value = EXCLUDED.value, created = EXCLUDED.created, ttl = EXCLUDED.ttl";

impl Statements {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for what cannot be a table's name.
    pub fn new(table_name: &str, unlogged: bool) -> Result<Self> {
        let table = quote(table_name)?;
        let sql = |text: String, types| Sql { text, types };
        let unlogged = if unlogged { "UNLOGGED " } else { "" };
        Ok(Self {
            get: sql(
                format!("SELECT value::text FROM {table} t WHERE key = $1 AND {LIVE}"),
                &[Type::TEXT_ARRAY],
            ),
            // A subquery for each key is a descent into the index for each, in
            // their order, whatever the planner believes about the table.
            get_many: sql(
                format!(
                    "SELECT (SELECT t.value::text FROM {table} t WHERE t.key = u.k::text[] AND {LIVE}) \
                    FROM unnest($1) AS u(k)"
                ),
                &[Type::TEXT_ARRAY],
            ),
            set: sql(
                format!(
                    "INSERT INTO {table} (key, value, created, ttl) \
                    VALUES ($1, $2::jsonb, {NOW}, $3 * interval '1 millisecond') \
                    ON CONFLICT (key) DO UPDATE {REPLACE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::INT8],
            ),
            set_many: sql(
                format!(
                    "INSERT INTO {table} (key, value, created, ttl) \
                    SELECT k::text[], v::jsonb, {NOW}, m * interval '1 millisecond' \
                    FROM unnest($1, $2, $3) AS u(k, v, m) \
                    ON CONFLICT (key) DO UPDATE {REPLACE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::INT8_ARRAY],
            ),
            delete: sql(format!("DELETE FROM {table} WHERE key = $1"), &[Type::TEXT_ARRAY]),
            delete_many: sql(
                format!("DELETE FROM {table} t USING unnest($1) AS u(k) WHERE t.key = u.k::text[]"),
                &[Type::TEXT_ARRAY],
            ),
            swap: sql(
                format!(
                    "UPDATE {table} t \
                    SET value = $3::jsonb, created = {NOW}, ttl = $4 * interval '1 millisecond' \
                    WHERE key = $1 AND value = $2::jsonb AND {LIVE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::TEXT, Type::INT8],
            ),
            insert: sql(
                format!(
                    "INSERT INTO {table} AS t (key, value, created, ttl) \
                    VALUES ($1, $2::jsonb, {NOW}, $3 * interval '1 millisecond') \
                    ON CONFLICT (key) DO UPDATE {REPLACE} WHERE {LIVE} IS NOT TRUE"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::INT8],
            ),
            swap_delete: sql(
                format!("DELETE FROM {table} t WHERE key = $1 AND value = $2::jsonb AND {LIVE}"),
                &[Type::TEXT_ARRAY, Type::TEXT],
            ),
            create: format!(
                "CREATE {unlogged}TABLE IF NOT EXISTS {table} (\
                key text[] PRIMARY KEY, \
                value jsonb NOT NULL, \
                created timestamp with time zone DEFAULT CURRENT_TIMESTAMP, \
                ttl interval)"
            ),
            exists: format!("SELECT to_regclass('{}') IS NOT NULL", table.replace('\'', "''")),
            drop: format!("DROP TABLE IF EXISTS {table}"),
            table,
        })
    }

    /// The next entries. Says each one's key and, if it lives, its value.
    pub fn read(&self, stretch: Stretch, entries: u32) -> Sql {
        Sql {
            text: format!(
                "SELECT key, CASE WHEN {LIVE} THEN value::text END FROM ({}) t {}",
                self.next("*", stretch, entries),
                stretch.within(),
            ),
            types: stretch.types(),
        }
    }

    /// Deletes the next entries. Says how many it found, how many of them
    /// lived, and which was the last.
    pub fn clear(&self, stretch: Stretch, entries: u32) -> Sql {
        Sql {
            text: format!(
                "WITH found AS (SELECT * FROM ({}) t {}), \
                gone AS (DELETE FROM {} t WHERE ctid = ANY (ARRAY(SELECT id FROM found)) RETURNING {LIVE} AS live) \
                SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM gone WHERE live), \
                (SELECT key FROM found ORDER BY key DESC LIMIT 1)",
                self.next("ctid AS id, key", stretch, entries),
                stretch.within(),
                self.table,
            ),
            types: stretch.types(),
        }
    }

    /// Looks at the next entries and deletes the expired ones, but not those
    /// that somebody holds. Says how many it looked at, how many went, and which
    /// was the last it looked at.
    pub fn sweep(&self, stretch: Stretch, entries: u32) -> Sql {
        let table = &self.table;
        Sql {
            text: format!(
                "WITH found AS ({}), \
                held AS (SELECT ctid AS id FROM {table} t \
                WHERE ctid = ANY (ARRAY(SELECT id FROM found WHERE live IS NOT TRUE)) AND {LIVE} IS NOT TRUE \
                FOR UPDATE SKIP LOCKED), \
                gone AS (DELETE FROM {table} t WHERE ctid = ANY (ARRAY(SELECT id FROM held)) RETURNING 1) \
                SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM gone), \
                (SELECT key FROM found ORDER BY key DESC LIMIT 1)",
                self.next(&format!("ctid AS id, key, {LIVE} AS live"), stretch, entries),
            ),
            types: stretch.types(),
        }
    }

    /// So many entries from where a stretch begins, in key order. Where it ends
    /// is looked at by whoever uses them: a planner that is told both bounds
    /// believes in so few entries that it reads and sorts them all.
    fn next(&self, columns: &str, stretch: Stretch, entries: u32) -> String {
        let table = &self.table;
        let from = match stretch {
            Stretch::All => "",
            Stretch::AllAfter | Stretch::PrefixAfter => "WHERE key > $1",
            Stretch::Prefix => "WHERE key >= $1",
        };
        format!("SELECT {columns} FROM {table} t {from} ORDER BY key LIMIT {entries}")
    }
}

/// A stretch of the key order. Its bounds are parameters.
#[derive(Clone, Copy)]
pub enum Stretch {
    All,
    /// After a cursor.
    AllAfter,
    Prefix,
    PrefixAfter,
}

impl Stretch {
    pub fn new(prefix: bool, cursor: bool) -> Self {
        match (prefix, cursor) {
            (false, false) => Self::All,
            (false, true) => Self::AllAfter,
            (true, false) => Self::Prefix,
            (true, true) => Self::PrefixAfter,
        }
    }

    fn within(self) -> &'static str {
        match self {
            Self::All | Self::AllAfter => "",
            Self::Prefix | Self::PrefixAfter => "WHERE key < $2",
        }
    }

    fn types(self) -> &'static [Type] {
        match self {
            Self::All => &[],
            Self::AllAfter => &[Type::TEXT_ARRAY],
            Self::Prefix | Self::PrefixAfter => &[Type::TEXT_ARRAY, Type::TEXT_ARRAY],
        }
    }
}

/// A table's name, or a schema's and a table's with a dot between them, as the
/// official package's driver reads it: each is taken as it is written.
fn quote(table_name: &str) -> Result<String> {
    let parts: Vec<&str> = table_name.split('.').collect();
    let possible = |part: &&str| !part.is_empty() && part.len() <= LONGEST_NAME && !part.contains('\0');
    if parts.len() > 2 || !parts.iter().all(possible) {
        return Err(Error::InvalidOption(format!(
            "tableName must be a name of 1 to {LONGEST_NAME} bytes, or schema.name"
        )));
    }
    let quoted: Vec<_> = parts
        .iter()
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    Ok(quoted.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_they_are_written() {
        assert_eq!(quote("fedify_kv_v2").unwrap(), r#""fedify_kv_v2""#);
        assert_eq!(quote("App.My Table").unwrap(), r#""App"."My Table""#);
        assert_eq!(quote("a\"; DROP").unwrap(), r#""a""; DROP""#);
        for bad in ["", ".", "a.", ".a", "a.b.c", "a\0", &"x".repeat(64)] {
            assert!(quote(bad).is_err(), "{bad}");
        }
    }
}
