//! All statements of the store, in the SQL that MySQL 8 and MariaDB 10.7 share.
//! Statements about several entries come in a few sizes only, so that each
//! connection prepares each of them once.

use super::catalogue;
use parking_lot::RwLock;
use std::sync::Arc;

/// The most entries in one statement.
pub const MOST: usize = 512;

/// A statement. Numbers are its size: one of those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// Key → value, whether it is live. The server finds a single row without a
    /// plan.
    GetOne,
    /// Keys → key, value of live entries.
    Get(usize),
    /// Key, value, ttl in microseconds or NULL, for each entry.
    Put(usize),
    /// The same, for keys that don't exist.
    Create(usize),
    /// Keys.
    Delete(usize),
    /// Keys → key, value, whether it is live; locks the rows.
    Lock(usize),
    /// Keys → those that are still expired; locks them, and skips locked rows.
    Claim(usize),
    /// First, last, count → key, value, whether it is live.
    Page(Bound),
    /// The same, without the value; locks the rows.
    Slice(Bound),
    /// Count → keys.
    Expired,
}

/// Where a range begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// At its first key.
    From,
    /// After this key.
    After,
}

/// The smallest size of a statement for this many entries. The rest is filled
/// by repeating the last entry.
pub fn padded(entries: usize) -> usize {
    let size = entries.next_power_of_two();
    // Three quarters of a power of two are a size too.
    let less = size / 4 * 3;
    if less >= entries { less } else { size }
}

/// The largest part of the entries that fills a statement without repetitions.
pub fn part(entries: usize) -> usize {
    1 << entries.ilog2()
}

/// The texts of the statements for one table.
pub struct Statements {
    table: String,
    index: String,
    /// The index that statements are to use. Without a hint, stale statistics can
    /// lead to a scan of the table.
    hint: RwLock<Arc<str>>,
}

impl Statements {
    /// The name needs no escapes.
    pub fn new(table: &str) -> Self {
        Self {
            table: format!("`{table}`"),
            index: format!("idx_{table}_expires"),
            hint: RwLock::new("".into()),
        }
    }

    /// The hint in all statements. Those that were prepared with another one are of no
    /// use any longer.
    pub fn hint(&self) -> Arc<str> {
        Arc::clone(&self.hint.read())
    }

    /// Sets the unique index on the key, if its name is known.
    pub fn use_index(&self, name: Option<&str>) {
        let hint = name.map_or_else(String::new, |name| {
            format!("FORCE INDEX (`{}`)", name.replace('`', "``"))
        });
        let mut old = self.hint.write();
        if **old != *hint {
            *old = hint.into();
        }
    }

    pub fn text(&self, statement: Statement) -> String {
        let (table, hint) = (&self.table, self.hint());
        let live = "(`expires` IS NULL OR `expires` > NOW(6))";
        let keys = |size| format!("`key` IN ({})", repeated("?", size));
        // A ttl is in whole milliseconds, and so is the time it is added to:
        // the entry expires exactly at a millisecond.
        let rows = |size| repeated("(?, ?, NOW(3) + INTERVAL ? MICROSECOND)", size);
        let begin = |bound| match bound {
            Bound::From => ">=",
            Bound::After => ">",
        };
        match statement {
            Statement::GetOne => format!("SELECT `value`, {live} FROM {table} WHERE `key` = ?"),
            Statement::Get(size) => format!(
                "SELECT `key`, `value` FROM {table} {hint} WHERE {} AND {live}",
                keys(size)
            ),
            Statement::Put(size) => format!(
                "INSERT INTO {table} (`key`, `value`, `expires`) VALUES {} ON DUPLICATE KEY UPDATE \
                `value` = VALUES(`value`), `expires` = VALUES(`expires`)",
                rows(size)
            ),
            Statement::Create(size) => {
                format!("INSERT INTO {table} (`key`, `value`, `expires`) VALUES {}", rows(size))
            }
            // In this form a DELETE accepts a hint, too. A scan would wait for
            // the locks of all rows.
            Statement::Delete(size) => {
                format!("DELETE {table} FROM {table} {hint} WHERE {}", keys(size))
            }
            Statement::Lock(size) => format!(
                "SELECT `key`, `value`, {live} FROM {table} {hint} WHERE {} FOR UPDATE",
                keys(size)
            ),
            Statement::Claim(size) => format!(
                "SELECT `key` FROM {table} {hint} WHERE {} AND `expires` <= NOW(6) \
                FOR UPDATE SKIP LOCKED",
                keys(size)
            ),
            Statement::Page(bound) => format!(
                "SELECT `key`, `value`, {live} FROM {table} {hint} \
                WHERE `key` {} ? AND `key` <= ? ORDER BY `key` LIMIT ?",
                begin(bound)
            ),
            Statement::Slice(bound) => format!(
                "SELECT `key`, {live} FROM {table} {hint} \
                WHERE `key` {} ? AND `key` <= ? ORDER BY `key` LIMIT ? FOR UPDATE",
                begin(bound)
            ),
            Statement::Expired => {
                format!("SELECT `key` FROM {table} WHERE `expires` <= NOW(6) ORDER BY `expires` LIMIT ?")
            }
        }
    }

    /// Reads the catalogue.
    pub fn catalogue(&self) -> String {
        catalogue::query(self.table_name())
    }

    pub fn table_name(&self) -> &str {
        self.table.trim_matches('`')
    }

    /// Fails if there is no table.
    pub fn find_table(&self) -> String {
        format!("SELECT 1 FROM {} LIMIT 0", self.table)
    }

    /// As the official package writes it.
    pub fn create_table(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\
            `key` VARCHAR(768) NOT NULL, \
            `value` JSON NOT NULL, \
            `expires` DATETIME(6) NULL DEFAULT NULL, \
            PRIMARY KEY (`key`)\
            ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
            self.table
        )
    }

    pub fn create_index(&self) -> String {
        format!("CREATE INDEX `{}` ON {} (`expires`)", self.index, self.table)
    }

    pub fn drop_table(&self) -> String {
        format!("DROP TABLE IF EXISTS {}", self.table)
    }
}

fn repeated(part: &str, size: usize) -> String {
    let mut text = String::with_capacity((part.len() + 2) * size);
    for i in 0..size {
        if i > 0 {
            text.push_str(", ");
        }
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_few_and_large_enough() {
        let mut sizes: Vec<usize> = (1..=MOST).map(padded).collect();
        for (i, size) in sizes.iter().enumerate() {
            let entries = i + 1;
            assert!(*size >= entries && *size <= MOST);
            assert!(size * 2 < entries * 3 || entries < 3, "{entries} {size}");
        }
        sizes.dedup();
        assert_eq!(sizes.len(), 18);
    }

    #[test]
    fn parts_add_up() {
        let mut left = 1000;
        let mut parts = Vec::new();
        while left > 0 {
            parts.push(part(left));
            left -= part(left);
        }
        assert_eq!(parts, [512, 256, 128, 64, 32, 8]);
    }
}
