//! A bound on the queue of a store, so that a dead server cannot fill memory.

use crate::kv::{Command, Error, Result, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest total size of queued keys and values.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// The operations that wait or are under way.
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

    /// Counts a job until its admission is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] if the queue is full.
    pub fn admit(self: &Arc<Self>, command: &Command) -> Result<Admission> {
        let weight = weight(command);
        let jobs = self.jobs.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let admission = Admission {
            load: Arc::clone(self),
            weight,
        };
        // A single job of any size is admitted.
        let full = jobs >= self.limit || (jobs > 0 && bytes + weight > MOST_BYTES);
        // `close` and `initialize` are never refused.
        let light = matches!(command, Command::Close | Command::Initialize);
        if full && !light {
            return Err(Error::Backend(format!(
                "the queue is full: {jobs} operations already wait for the server (the limits are queueLimit and 256 MiB)"
            )));
        }
        Ok(admission)
    }
}

/// A job's share of the load. It is given up when it is dropped, however the
/// job ends.
pub struct Admission {
    load: Arc<Load>,
    weight: usize,
}

impl Admission {
    /// About how many bytes the job has.
    pub fn weight(&self) -> usize {
        self.weight
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.load.jobs.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.weight, Ordering::Relaxed);
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
