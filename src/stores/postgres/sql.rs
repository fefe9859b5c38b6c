//! The statements for one table in the format of Fedify's own store.
//!
//! An entry expires at `created + ttl`, by the server's clock. All statements
//! use the primary key's index only.

use crate::kv::{Error, Result};
use tokio_postgres::types::Type;

/// A statement and the types of its parameters.
pub struct Sql {
    pub text: String,
    pub types: &'static [Type],
}

impl Sql {
    /// Whether the statement changes nothing.
    pub fn only_reads(&self) -> bool {
        self.text.starts_with("SELECT")
    }
}

/// Statements about one key, and about many keys at once.
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
    pub drop: String,
    table: String,
}

/// Statements about the table itself.
pub struct TableStatements {
    /// The quoted name, for messages.
    pub name: String,
    pub create: String,
    /// Returns what [`super::shape`] reads.
    pub shape: Sql,
    /// Converts an unlogged table. Does nothing to a logged one.
    pub set_logged: String,
    /// Takes the lock of those that sweep, if it is free. Returns `t` if it was.
    pub lock_sweep: String,
    pub unlock_sweep: String,
}

/// The first halves of the advisory locks that conversions and sweeps take.
const LOCK_CLASS: i32 = i32::from_be_bytes(*b"fdkv");
const SWEEP_CLASS: i32 = i32::from_be_bytes(*b"fdks");

/// The longest name in bytes. PostgreSQL would cut longer ones.
const LONGEST_NAME: usize = 63;

/// Has the transaction of a statement that reads this not wait until it is on disk.
const OFF: &str = "(SELECT set_config('synchronous_commit', 'off', true)) AS off";

/// How many bytes of values are enough for one statement that reads many.
const ENOUGH_BYTES: u32 = 1024 * 1024;

/// Whether an entry is live.
const LIVE: &str = "(t.ttl IS NULL OR t.created + t.ttl > CURRENT_TIMESTAMP)";

/// The time of a write. Ttls are in milliseconds, and so is the time they are
/// added to.
const NOW: &str = "date_trunc('milliseconds', CURRENT_TIMESTAMP)";

/// How a write changes an existing entry.
const REPLACE: &str = "SET value = EXCLUDED.value, created = EXCLUDED.created, ttl = EXCLUDED.ttl";

impl Statements {
    /// With `relaxed`, writes don't wait until they are on disk.
    ///
    /// # Errors
    ///
    /// [`Error::OptionOutOfRange`] for an invalid table name.
    pub fn new(table_name: &str, relaxed: bool) -> Result<Self> {
        let table = quote(table_name)?;
        // Clauses for statements that name no other table, and a table more for
        // those that do.
        let (from, using, more) = if relaxed {
            (format!("FROM {OFF}"), format!("USING {OFF}"), format!(", {OFF}"))
        } else {
            Default::default()
        };
        let sql = |text: String, types| Sql { text, types };
        Ok(Self {
            get: sql(
                format!("SELECT value::text FROM {table} t WHERE key = $1 AND {LIVE}"),
                &[Type::TEXT_ARRAY],
            ),
            // With a subquery for each key, the server descends into the index
            // for each, in their order. It doesn't depend on the planner's
            // statistics.
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
                    SELECT $1, $2::jsonb, {NOW}, $3 * interval '1 millisecond' {from} \
                    ON CONFLICT (key) DO UPDATE {REPLACE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::INT8],
            ),
            set_many: sql(
                format!(
                    "INSERT INTO {table} (key, value, created, ttl) \
                    SELECT k::text[], v::jsonb, {NOW}, m * interval '1 millisecond' \
                    FROM unnest($1, $2, $3) AS u(k, v, m){more} \
                    ON CONFLICT (key) DO UPDATE {REPLACE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::INT8_ARRAY],
            ),
            delete: sql(
                format!("DELETE FROM {table} {using} WHERE key = $1"),
                &[Type::TEXT_ARRAY],
            ),
            delete_many: sql(
                format!("DELETE FROM {table} t USING unnest($1) AS u(k){more} WHERE t.key = u.k::text[]"),
                &[Type::TEXT_ARRAY],
            ),
            swap: sql(
                format!(
                    "UPDATE {table} t \
                    SET value = $3::jsonb, created = {NOW}, ttl = $4 * interval '1 millisecond' {from} \
                    WHERE key = $1 AND value = $2::jsonb AND {LIVE}"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::TEXT, Type::INT8],
            ),
            insert: sql(
                format!(
                    "INSERT INTO {table} AS t (key, value, created, ttl) \
                    SELECT $1, $2::jsonb, {NOW}, $3 * interval '1 millisecond' {from} \
                    ON CONFLICT (key) DO UPDATE {REPLACE} WHERE {LIVE} IS NOT TRUE"
                ),
                &[Type::TEXT_ARRAY, Type::TEXT, Type::INT8],
            ),
            swap_delete: sql(
                format!("DELETE FROM {table} t {using} WHERE key = $1 AND value = $2::jsonb AND {LIVE}"),
                &[Type::TEXT_ARRAY, Type::TEXT],
            ),
            drop: format!("DROP TABLE IF EXISTS {table}"),
            table,
        })
    }

    /// Returns the key of each of the next entries, its value if it is live, and how
    /// many entries there are. It leaves out those that would make it too long: by
    /// their size in the table, which is known without reading them, and then, because
    /// that may be compressed, by their text.
    pub fn read(&self, stretch: Stretch, entries: u32) -> Sql {
        let before = |size: &str| {
            format!(
                "coalesce(sum({size}) OVER (ORDER BY key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) \
                < {ENOUGH_BYTES} AS fits"
            )
        };
        let stored = format!(
            "SELECT *, count(*) OVER () AS found, {} FROM ({}) t {}",
            before("pg_column_size(value)"),
            self.next("*", stretch, entries),
            stretch.within(),
        );
        // Without OFFSET, each text would be made twice.
        let texts = format!(
            "SELECT key, CASE WHEN {LIVE} THEN value::text END AS text, found FROM ({stored}) t WHERE fits OFFSET 0"
        );
        Sql {
            text: format!(
                "SELECT key, text, found FROM (SELECT *, {} FROM ({texts}) t) t WHERE fits ORDER BY key",
                before("octet_length(text)"),
            ),
            types: stretch.types(),
        }
    }

    /// Deletes the next entries. Returns how many it found, how many of them
    /// were live, and the last key.
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

    /// Looks at the next entries and deletes the expired ones, except those
    /// that are locked. Returns how many it looked at, how many it deleted, and
    /// the last key it looked at.
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

    /// Selects up to `entries` entries from the beginning of a range, in key
    /// order. The caller checks the end of the range: with both bounds, the
    /// planner expects so few entries that it reads and sorts them all.
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

impl TableStatements {
    /// # Errors
    ///
    /// [`Error::OptionOutOfRange`] for an invalid table name.
    pub fn new(table_name: &str, unlogged: bool) -> Result<Self> {
        let name = quote(table_name)?;
        let literal = name.replace('\'', "''");
        let unlogged = if unlogged { "UNLOGGED " } else { "" };
        let oid = format!("to_regclass('{literal}')::oid::int4");
        Ok(Self {
            create: format!(
                "CREATE {unlogged}TABLE IF NOT EXISTS {name} (\
                key text[] PRIMARY KEY, \
                value jsonb NOT NULL, \
                created timestamp with time zone DEFAULT CURRENT_TIMESTAMP, \
                ttl interval)"
            ),
            shape: shape(&literal),
            // One transaction. Conversions wait for each other without a lock
            // on the table. Other operations queue behind a request for the
            // exclusive lock, so it is withdrawn after a second.
            set_logged: format!(
                "SELECT pg_advisory_xact_lock({LOCK_CLASS}, '{literal}'::regclass::oid::int4); \
                SET LOCAL lock_timeout = 1000; \
                ALTER TABLE {name} SET LOGGED"
            ),
            lock_sweep: format!("SELECT pg_try_advisory_lock({SWEEP_CLASS}, {oid})::text"),
            unlock_sweep: format!("SELECT pg_advisory_unlock({SWEEP_CLASS}, {oid})::text"),
            name,
        })
    }
}

/// Reads the catalogue: a row for the table, one for each column, and one for each
/// unique index on the key alone. No row if there is no table.
fn shape(literal: &str) -> Sql {
    let text = format!(
        "WITH t AS (SELECT oid, relkind, relpersistence FROM pg_class WHERE oid = to_regclass('{literal}')) \
        SELECT 'table', relpersistence::text, relkind::text, \
        EXISTS (SELECT FROM pg_inherits WHERE inhparent = t.oid), false, false FROM t \
        UNION ALL SELECT 'column', attname::text, CASE typtype \
        WHEN 'd' THEN format_type(typbasetype, typtypmod) ELSE format_type(atttypid, atttypmod) END, \
        attnotnull AND NOT atthasdef AND attidentity = '' AND typdefault IS NULL, \
        EXISTS (SELECT FROM pg_index WHERE indrelid = t.oid AND indisprimary AND attnum = ANY (indkey)), \
        coalesce(NOT collisdeterministic, false) \
        FROM t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped \
        JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_collation ON pg_collation.oid = attcollation \
        UNION ALL SELECT 'index', indexrelid::regclass::text, quote_ident(relname), \
        indisvalid AND indpred IS NULL, NOT indimmediate, coalesce(NOT collisdeterministic, false) \
        FROM t JOIN pg_index ON indrelid = t.oid AND indisunique AND indnkeyatts = 1 \
        JOIN pg_class ON pg_class.oid = indexrelid \
        JOIN pg_attribute ON attrelid = t.oid AND attnum = indkey[0] AND attname = 'key' \
        LEFT JOIN pg_collation ON pg_collation.oid = indcollation[0]"
    );
    Sql { text, types: &[] }
}

/// A range in key order. Its bounds are parameters.
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

/// Quotes a table name, or a schema and a table name with a dot in between. Both
/// are taken literally, as the official package's driver does.
fn quote(table_name: &str) -> Result<String> {
    let parts: Vec<&str> = table_name.split('.').collect();
    let possible = |part: &&str| !part.is_empty() && part.len() <= LONGEST_NAME && !part.contains('\0');
    if parts.len() > 2 || !parts.iter().all(possible) {
        return Err(Error::OptionOutOfRange(format!(
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
