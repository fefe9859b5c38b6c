//! Writes on the calling thread. A write that needs no sync takes less time than
//! waking the writer thread and being woken by it.
//!
//! Nothing here waits for a lock, for the disk or for a long copy. A write that
//! can't be done at once is left to the writer.

use super::checkpoint::is_appended_to;
use super::store::Shared;
use super::transaction::{Failure, Kept, transaction};
use super::{Durability, Format, Location};
use crate::kv::{Command, Outcome};

/// Larger values take long to copy.
const MOST_BYTES: usize = 64 * 1024;

impl<F: Format> Shared<F> {
    /// Carries out a write; `None` if the writer has to do it.
    pub fn write(&self, command: &Command) -> Option<Outcome> {
        if !self.may_write(command) {
            return None;
        }
        let mut snapshot = self.snapshot.try_lock()?;
        let snapshot = snapshot.as_mut()?;
        // If this fails, the writer finds it too, and reports it.
        self.file.check().ok()?;
        snapshot.let_go();
        let is_file = matches!(self.file.location(), Location::File(_));
        let written = snapshot.connected(|connection, wal| {
            // Without a log, the commit would wait for the disk.
            if is_file && wal.is_none() {
                return Ok(None);
            }
            let mut kept = None;
            let done = transaction(connection, &self.file, Some(Durability::Normal), || {
                // Checked under the lock, so that it is still true at the commit.
                if !wal.is_none_or(is_appended_to) {
                    return Ok(None);
                }
                kept = Kept::of(wal, connection, &self.recent);
                let mut run = self.format.entries(connection);
                run(&[command]).map(Some)
            })?;
            if let Some(kept) = kept {
                kept.advance(connection, &self.recent, command.written().into_iter());
            }
            Ok(done)
        });
        match written {
            Ok(done) => {
                let mut done = done?;
                self.notes.wrote(done.first_expiry);
                done.outcomes.pop()
            }
            Err(Failure::Unknown(error, _)) => Some(Err(error.with_unknown_outcome())),
            // Nothing was carried out.
            Err(_) => None,
        }
    }

    fn may_write(&self, command: &Command) -> bool {
        command.written().is_some()
            && command.size() <= MOST_BYTES
            && self.options.durability_of(command) == Durability::Normal
            && self.pending.is_idle()
            && !self.notes.are_syncs_under_way()
    }
}
