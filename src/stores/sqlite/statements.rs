//! Every statement of the format, with the table's name filled in.

pub struct Statements {
    pub create_table: String,
    pub create_index: String,
    pub drop_table: String,
    /// The kind of the table, whether it has row ids, and whether it is strict.
    pub kind: String,
    /// Names, types, whether they must be given, whether they are in the primary key.
    pub columns: String,
    /// Whether the key alone is unique.
    pub is_unique: String,
    pub has_index: String,
    /// What mends a table of another program. `rebuild` copies the
    /// entries, without other columns.
    pub add_created: String,
    pub add_expires: String,
    pub add_unique: String,
    pub rebuild: String,
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
        let columns = "key TEXT PRIMARY KEY, value TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER";
        Self {
            create_table: format!(r#"CREATE TABLE IF NOT EXISTS "{table}" ({columns})"#),
            create_index: format!(r#"CREATE INDEX IF NOT EXISTS "idx_{table}_expires" ON "{table}" (expires)"#),
            drop_table: format!(r#"DROP TABLE IF EXISTS "{table}""#),
            has_index: format!(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name = 'idx_{table}_expires' \
                AND tbl_name = '{table}' COLLATE NOCASE"
            ),
            kind: format!("SELECT type, NOT wr, strict FROM pragma_table_list('{table}') WHERE schema = 'main'"),
            columns: format!(
                "SELECT name, type, \"notnull\" AND dflt_value IS NULL, pk > 0 FROM pragma_table_info('{table}')"
            ),
            is_unique: format!(
                "SELECT EXISTS (SELECT 1 FROM pragma_index_list('{table}') AS list WHERE \"unique\" AND NOT partial \
                AND (SELECT count(*) = 1 AND max(name = 'key' COLLATE NOCASE AND coll = 'BINARY' COLLATE NOCASE) \
                FROM pragma_index_xinfo(list.name) WHERE key))"
            ),
            add_created: format!(r#"ALTER TABLE "{table}" ADD COLUMN created INTEGER NOT NULL DEFAULT 0"#),
            add_expires: format!(r#"ALTER TABLE "{table}" ADD COLUMN expires INTEGER"#),
            add_unique: format!(r#"CREATE UNIQUE INDEX "idx_{table}_key" ON "{table}" (key)"#),
            // The old table stays, in case something fails.
            rebuild: format!(
                r#"BEGIN IMMEDIATE; ALTER TABLE "{table}" RENAME TO "{table}_old"; CREATE TABLE "{table}" ({columns}); "#
            ) + &format!(
                r#"INSERT OR REPLACE INTO "{table}" SELECT key, value, coalesce(created, 0), expires FROM "{table}_old" "#
            ) + "WHERE key IS NOT NULL AND value IS NOT NULL; COMMIT",
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
