//! When to sweep: soon after an entry can have expired, one slice at a time,
//! with pauses that grow when nothing is found.

use super::engine::{Cursor, Swept};
use crate::kv::Ttl;
use std::time::Duration;
use tokio::time::Instant;

/// The number of entries that one slice looks at.
pub const SLICE: u32 = 500;

/// Other processes may have left expired entries: the first look comes some
/// time after the start.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Pauses after slices that found something, and after slices that found
/// nothing.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const WALK_PAUSE: Duration = Duration::from_millis(200);

/// Pauses between walks over all entries: at least as long as the walk took,
/// and doubled when it has found nothing.
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Entries that have just expired are left for a moment, so that a walk finds
/// more at once.
const DELAY: Duration = Duration::from_millis(500);

pub struct Sweeper {
    due: Option<Instant>,
    running: bool,
    cursor: Option<Cursor>,
    began: Option<Instant>,
    found: bool,
    rest: Duration,
    /// No walk begins before this time.
    rested: Instant,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            due: None,
            running: false,
            cursor: None,
            began: None,
            found: false,
            rest: SHORTEST_REST,
            rested: Instant::now(),
        }
    }
}

impl Sweeper {
    /// An entry with a ttl was written.
    pub fn expect(&mut self, ttl: Ttl) {
        let millis = u64::try_from(ttl.deadline(0)).unwrap_or(u64::MAX);
        let rest = LONGEST_REST.min(Duration::from_millis(millis) + DELAY);
        self.wake(Instant::now() + rest);
    }

    /// The server was reached.
    pub fn begin(&mut self) {
        if self.due.is_none() && !self.running {
            self.due = Some(Instant::now() + FIRST_LOOK);
        }
    }

    fn wake(&mut self, at: Instant) {
        let at = at.max(self.rested);
        if !self.running && self.cursor.is_none() && self.due.is_none_or(|due| at < due) {
            self.due = Some(at);
        }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.running)
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Where the next slice begins: at the first entry, or after a cursor.
    pub fn start(&mut self, now: Instant) -> Option<Cursor> {
        self.running = true;
        self.due = None;
        self.began.get_or_insert(now);
        self.cursor.take()
    }

    /// The result of a slice; `None` if it failed.
    pub fn on(&mut self, swept: Option<Swept>) {
        self.running = false;
        let now = Instant::now();
        let Some(swept) = swept else {
            self.rest(now, LONGEST_REST.min(self.rest * 2));
            return;
        };
        self.found |= swept.removed > 0;
        let more = swept.next.is_some() || swept.removed >= u64::from(SLICE);
        if more {
            self.cursor = swept.next;
            let pause = if swept.removed > 0 { BUSY_PAUSE } else { WALK_PAUSE };
            self.due = Some(now + pause);
            return;
        }
        let rest = if self.found { SHORTEST_REST } else { self.rest * 2 };
        let walked = self.began.map_or(Duration::ZERO, |began| now - began);
        self.rest(now, rest.max(walked).min(LONGEST_REST));
    }

    fn rest(&mut self, now: Instant, rest: Duration) {
        self.cursor = None;
        self.began = None;
        self.found = false;
        self.rest = rest;
        self.rested = now + rest;
        self.due = Some(self.rested);
    }
}
