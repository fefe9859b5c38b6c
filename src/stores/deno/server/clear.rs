//! `clear` and `drop`: delete a range slice by slice.

use super::super::batch::{Change, Condition};
use super::super::key::{self, after};
use super::group::{MOST_CHECKS, atomic_write};
use super::worker::Worker;
use crate::kv::{Error, Prefix, Result};
use tokio::time::Instant;

/// Entries that are deleted in one atomic write.
const SLICE: u32 = 256;

impl Worker {
    /// Deletes what is under a prefix, and returns how many entries that were.
    /// Keys that have other parts than strings are no entries; they stay unless
    /// `anything` is to go.
    pub async fn delete_all(&mut self, prefix: &Prefix, anything: bool) -> Result<u64> {
        let (mut start, end) = key::range(prefix)?;
        let timeout = self.timeout;
        let mut count = 0;
        let mut progress = Instant::now();
        loop {
            let remote = self.remote().await?;
            let rows = remote.range(&start, &end, SLICE).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(count);
            };
            let deletes = |key: &[u8]| anything || key::decode(key).is_some();
            let doomed = || rows.iter().filter(|(key, _)| deletes(key));
            // Where that many checks are possible, what changes meanwhile is read
            // again and counted right.
            let checks = doomed().count() <= MOST_CHECKS;
            let write = atomic_write(doomed().map(|(key, row)| Change {
                key,
                value: None,
                expires: None,
                condition: if checks {
                    Condition::Version(row.stamp)
                } else {
                    Condition::Anything
                },
            }));
            if !write.mutations.is_empty() && !remote.write(write).await? {
                if progress.elapsed() >= timeout {
                    let why = "other programs kept changing the same entries";
                    return Err(Error::Timeout(why.into()));
                }
                continue;
            }
            count += doomed().filter(|(_, row)| row.live).count() as u64;
            start = after(last);
            progress = Instant::now();
        }
    }
}
