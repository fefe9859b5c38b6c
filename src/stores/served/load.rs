//! A bound on what waits for a server, so that a dead one cannot fill memory.

use crate::kv::{Command, Error, Result, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What waits may be so large in all, keys and values.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// What waits, or is under way.
pub struct Load {
    limit: usize,
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            jobs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Makes room for a job and returns its weight.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where there is no room.
    pub fn admit(&self, command: &Command) -> Result<usize> {
        let weight = weight(command);
        let jobs = self.jobs.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(weight, Ordering::Relaxed);
        // One job is let through whatever it weighs.
        let full = jobs >= self.limit || (jobs > 0 && bytes + weight > MOST_BYTES);
        // What ends or creates is never refused.
        let light = matches!(command, Command::Close | Command::Initialize);
        if full && !light {
            self.remove(weight);
            return Err(Error::Backend(format!(
                "{jobs} operations wait for the server already; no more fit in the queue"
            )));
        }
        Ok(weight)
    }

    /// A job is done.
    pub fn remove(&self, weight: usize) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(weight, Ordering::Relaxed);
    }
}

fn weight(command: &Command) -> usize {
    let write = |write: &Write| match write {
        Write::Store { value, .. } => value.as_str().len(),
        Write::Delete => 0,
    };
    match command {
        Command::Get(key) => key.as_json().len(),
        Command::Put(key, new) => key.as_json().len() + write(new),
        Command::Cas(key, expected, new) => {
            key.as_json().len() + expected.as_ref().map_or(0, |value| value.as_str().len()) + write(new)
        }
        Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => 0,
    }
}
