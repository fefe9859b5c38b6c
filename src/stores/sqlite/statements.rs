//! Every statement of the format, with the table's name filled in.

pub struct Statements {
    pub create_table: String,
    pub create_index: String,
    pub drop_table: String,
    pub columns: String,
    pub has_index: String,
    pub get: String,
    pub overwrite: String,
    pub put: String,
    pub delete: String,
    pub clear: String,
    pub sweep: String,
    pub first_expiry: String,
    pub page: String,
}

impl Statements {
    pub fn new(table: &str) -> Self {
        Self {
            create_table: format!(
                r#"CREATE TABLE IF NOT EXISTS "{table}" (
                    key TEXT PRIMARY KEY,
                    value TEXT NOT NULL,
                    created INTEGER NOT NULL,
                    expires INTEGER
                )"#
            ),
            create_index: format!(r#"CREATE INDEX IF NOT EXISTS "idx_{table}_expires" ON "{table}" (expires)"#),
            drop_table: format!(r#"DROP TABLE IF EXISTS "{table}""#),
            has_index: format!(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name = 'idx_{table}_expires'"
            ),
            columns: format!("SELECT name FROM pragma_table_info('{table}')"),
            get: format!(
                r#"SELECT value, expires FROM "{table}" WHERE key = ?1 AND (expires IS NULL OR expires > ?2)"#
            ),
            overwrite: format!(r#"UPDATE "{table}" SET value = ?2 WHERE key = ?1 AND expires IS NULL"#),
            put: format!(
                r#"INSERT INTO "{table}" (key, value, created, expires) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"#
            ),
            delete: format!(r#"DELETE FROM "{table}" WHERE key = ?1"#),
            clear: format!(
                r#"DELETE FROM "{table}" WHERE key IN (
                    SELECT key FROM "{table}" WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3
                ) RETURNING key, expires IS NULL OR expires > ?4"#
            ),
            sweep: format!(
                r#"DELETE FROM "{table}" WHERE key IN (
                    SELECT key FROM "{table}" WHERE expires <= ?1 ORDER BY expires LIMIT ?2
                )"#
            ),
            first_expiry: format!(r#"SELECT min(expires) FROM "{table}" WHERE expires IS NOT NULL"#),
            page: format!(
                r#"SELECT key, value, expires IS NULL OR expires > ?4 FROM "{table}"
                WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3"#
            ),
        }
    }
}
