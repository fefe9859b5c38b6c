//! The table: created if it is missing, checked if it exists.

use super::format::SqliteFormat;
use crate::kv::{Error, Result};
use crate::stores::database::Connection;

pub fn create(format: &SqliteFormat, connection: &Connection) -> Result<()> {
    connection.execute_batch(&format.sql.create_table)?;
    check_columns(format, connection, &columns(format, connection)?)?;
    Ok(connection.execute_batch(&format.sql.create_index)?)
}

/// Whether the table and its index exist. Takes no lock.
pub fn is_complete(format: &SqliteFormat, connection: &Connection) -> Result<bool> {
    let columns = columns(format, connection)?;
    if columns.is_empty() {
        return Ok(false);
    }
    check_columns(format, connection, &columns)?;
    Ok(connection.query_row(&format.sql.has_index, [], |row| row.get(0))?)
}

fn columns(format: &SqliteFormat, connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare(&format.sql.columns)?;
    let columns = statement.query_map([], |row| row.get(0))?;
    Ok(columns.collect::<rusqlite::Result<_>>()?)
}

/// A table of this name may belong to another program.
fn check_columns(format: &SqliteFormat, connection: &Connection, columns: &[String]) -> Result<()> {
    let missing: Vec<_> = ["key", "value", "created", "expires"]
        .into_iter()
        .filter(|needed| !columns.iter().any(|column| column.eq_ignore_ascii_case(needed)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Backend(format!(
        "the table {:?} in {} is not a key–value table of Fedify: it has no column {}. Choose another tableName",
        format.table,
        connection.location(),
        missing.join(", ")
    )))
}
