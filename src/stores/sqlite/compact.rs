//! `compact()`: gives the space that deleted entries have left back to the file
//! system.

use super::schema::guard;
use super::writer::Writer;
use crate::kv::{Error, Result};
use crate::stores::database;

/// SQLite's number for `auto_vacuum = INCREMENTAL`.
const INCREMENTAL: i64 = 2;

impl Writer {
    /// # Errors
    ///
    /// [`Error::Timeout`] while another process holds the lock.
    pub fn compact(&mut self) -> Result<()> {
        self.ready()?;
        let Some(open) = &self.open else {
            return Err(Error::Closed);
        };
        let connection = &open.connection;
        guard(|| {
            let vacuum = || {
                let mode: i64 = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))?;
                if mode != INCREMENTAL {
                    return connection.execute_batch("VACUUM");
                }
                // Such a file need not be rewritten. Each step frees a page.
                let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
                let mut steps = statement.query([])?;
                while steps.next()?.is_some() {}
                Ok(())
            };
            vacuum().map_err(|error| database::error(&error))
        })?;
        // The file itself shrinks when the log's content is moved into it.
        self.checkpoints.wait();
        self.release_snapshot();
        if let Some(open) = &self.open
            && !open.connection.checkpoint_and_truncate()
        {
            self.keep_log_short();
        }
        Ok(())
    }
}
