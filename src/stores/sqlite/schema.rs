//! The table: created if it is missing, checked if it exists. Another program may
//! have made it.

use super::format::SqliteFormat;
use crate::kv::Result;
use crate::stores::database::Connection;
use crate::stores::table_faults::TableFaults;
use rusqlite::OptionalExtension;

pub fn create(format: &SqliteFormat, connection: &Connection) -> Result<()> {
    connection.execute_batch(&format.sql.create_table)?;
    check(format, connection)?;
    Ok(connection.execute_batch(&format.sql.create_index)?)
}

/// Whether the table and its index exist. Takes no lock.
pub fn is_complete(format: &SqliteFormat, connection: &Connection) -> Result<bool> {
    // Another process may replace the table meanwhile.
    let _one_state = connection.unchecked_transaction()?;
    Ok(check(format, connection)? && connection.query_row(&format.sql.has_index, [], |row| row.get(0))?)
}

struct Column {
    name: String,
    declared: String,
    /// Neither nullable nor with a default.
    must_be_given: bool,
    is_primary: bool,
}

/// What SQLite does with a value of a column, by its declared type.
#[derive(PartialEq, Eq)]
enum Affinity {
    Text,
    /// Stores what it is given.
    Blob,
    /// Makes numbers of texts that look like one.
    Number,
}

impl Affinity {
    fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
        if has(&["INT"]) {
            Self::Number
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if declared.is_empty() || has(&["BLOB"]) {
            Self::Blob
        } else {
            Self::Number
        }
    }
}

/// Whether the table exists.
///
/// # Errors
///
/// [`Error::Backend`](crate::kv::Error::Backend) with the statement that mends it,
/// if the store could not keep its promises on it.
fn check(format: &SqliteFormat, connection: &Connection) -> Result<bool> {
    let sql = &format.sql;
    let kind = connection.query_row(&sql.kind, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?))
    });
    let Some((kind, has_rowid, is_strict)) = kind.optional()? else {
        return Ok(false);
    };
    let mut faults = TableFaults::default();
    if kind == "table" {
        let columns = columns(format, connection)?;
        let primary = columns.iter().filter(|column| column.is_primary).count();
        for column in &columns {
            let is_rowid =
                has_rowid && primary == 1 && column.is_primary && column.declared.eq_ignore_ascii_case("INTEGER");
            check_column(column, is_strict, is_rowid, &mut faults, &sql.rebuild);
        }
        for (needed, added) in [
            ("key", None),
            ("value", None),
            ("created", Some(&sql.add_created)),
            ("expires", Some(&sql.add_expires)),
        ] {
            if !columns.iter().any(|column| column.name == needed) {
                let what = format!("it has no column {needed}");
                match added {
                    Some(add) => faults.add(what, add),
                    None => faults.add_lasting(what),
                }
            }
        }
        if columns.iter().any(|column| column.name == "key") {
            check_key(format, connection, &mut faults)?;
        }
    } else {
        faults.add_lasting(format!("it is a {kind}"));
    }
    let place = format!("{:?} in {}", format.table, connection.location());
    faults.check(&place, |statements| {
        let (mut first, last): (Vec<_>, Vec<_>) = statements
            .iter()
            .cloned()
            .partition(|statement| *statement != sql.rebuild);
        if !last.is_empty() {
            // The new table has the index.
            first.retain(|statement| *statement != sql.add_unique);
        }
        first.extend(last);
        first.join("; ")
    })?;
    Ok(true)
}

fn columns(format: &SqliteFormat, connection: &Connection) -> Result<Vec<Column>> {
    let mut statement = connection.prepare(&format.sql.columns)?;
    let columns = statement.query_map([], |row| {
        Ok(Column {
            // Names don't depend on case.
            name: row.get::<_, String>(0)?.to_ascii_lowercase(),
            declared: row.get(1)?,
            must_be_given: row.get(2)?,
            is_primary: row.get(3)?,
        })
    })?;
    Ok(columns.collect::<rusqlite::Result<_>>()?)
}

fn check_column(column: &Column, is_strict: bool, is_rowid: bool, faults: &mut TableFaults, rebuild: &str) {
    let Column { name, declared, .. } = column;
    let affinity = Affinity::of(declared);
    let is_any = declared.eq_ignore_ascii_case("ANY");
    let is_good = match name.as_str() {
        // Keys don't look like numbers, values may.
        "key" => !is_strict || is_any || affinity == Affinity::Text,
        "value" if is_strict => is_any || affinity == Affinity::Text,
        "value" => affinity != Affinity::Number,
        // As texts, numbers would have another order.
        "expires" if is_strict => is_any || affinity == Affinity::Number,
        "expires" => affinity != Affinity::Text,
        "created" => !is_strict || affinity != Affinity::Blob,
        _ => true,
    };
    if !is_good {
        let wanted = if name == "expires" { "INTEGER" } else { "TEXT" };
        let shown = if declared.is_empty() { "of any type" } else { declared };
        faults.add(format!("its column {name} is {shown}, not {wanted}"), rebuild);
    }
    // The store always gives these.
    let may_be_left_out = !matches!(name.as_str(), "key" | "value" | "created");
    if column.must_be_given && may_be_left_out && !is_rowid {
        faults.add(format!("its column {name} has neither a default nor NULLs"), rebuild);
    }
}

/// Keys must be equal only if their bytes are, and unique.
fn check_key(format: &SqliteFormat, connection: &Connection, faults: &mut TableFaults) -> Result<()> {
    let (_, collation, ..) = connection.column_metadata(Some("main"), format.table.as_str(), "key")?;
    let collation = collation.map(|name| name.to_string_lossy().into_owned());
    if let Some(other) = collation.filter(|name| !name.eq_ignore_ascii_case("BINARY")) {
        let what = format!("the collation of its column key is {other}, not BINARY");
        faults.add(what, &format.sql.rebuild);
    } else if !connection.query_row(&format.sql.is_unique, [], |row| row.get(0))? {
        let what = "it has no unique index on the column key alone that all rows are in";
        faults.add(what.into(), &format.sql.add_unique);
    }
    Ok(())
}
