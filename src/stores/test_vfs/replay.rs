//! The record of a disk once more, event by event: what its files contain at
//! each moment, and what of that a power loss would leave.

use super::{Change, Disk, Event, Kind};
use std::fs;
use std::path::Path;

pub struct Replay {
    events: Vec<Event>,
    next: usize,
    files: [File; 3],
}

#[derive(Clone, Default)]
struct File {
    /// As processes see it. `None`: there is no such file.
    written: Option<Vec<u8>>,
    /// As far as it was synced.
    synced: Option<Vec<u8>>,
    /// Changes since then, with the numbers of their events.
    unsynced: Vec<(usize, Change)>,
}

impl Replay {
    pub fn of(disk: &Disk) -> Self {
        let file = |content: Option<Vec<u8>>| File {
            written: content.clone(),
            synced: content,
            unsynced: Vec::new(),
        };
        Self {
            events: disk.events(),
            next: 0,
            files: disk.initial().map(file),
        }
    }

    /// The next event, if there is one.
    pub fn peek(&self) -> Option<&Event> {
        self.events.get(self.next)
    }

    /// Lets the next event happen.
    pub fn advance(&mut self) {
        let number = self.next;
        self.next += 1;
        let Some(Event::File(kind, change)) = self.events.get(number) else {
            return;
        };
        if let Change::Synced {
            before, folder: true, ..
        } = change
        {
            for file in &mut self.files {
                file.forget_deleted(*before);
            }
        }
        self.files[*kind as usize].change(number, change);
    }

    /// To the end of the record.
    pub fn finish(mut self) -> Self {
        while self.peek().is_some() {
            self.advance();
        }
        self
    }

    /// What is on the disk of a file for certain.
    pub fn synced(&self, kind: Kind) -> &[u8] {
        self.files[kind as usize].synced.as_deref().unwrap_or_default()
    }

    /// Whether all of a file is on the disk.
    pub fn is_synced(&self, kind: Kind) -> bool {
        self.files[kind as usize].unsynced.is_empty()
    }

    /// Puts the files as a kill would leave them where a database of this path
    /// has them.
    pub fn kill(&self, database: &Path) {
        self.put(database, |file| file.written.clone());
    }

    /// The same for a power loss, which of the unsynced changes only those
    /// survive that are chosen.
    pub fn power_loss(&self, database: &Path, mut survives: impl FnMut() -> bool) {
        self.put(database, |file| {
            let mut content = file.synced.clone();
            for (_, change) in &file.unsynced {
                if survives() {
                    apply(&mut content, change);
                } else if matches!(change, Change::Deleted { .. }) {
                    // What follows went into another file of that name.
                    break;
                }
            }
            content
        });
    }

    fn put(&self, database: &Path, mut content: impl FnMut(&File) -> Option<Vec<u8>>) {
        for suffix in ["-shm", "-wal", "-journal", ""] {
            let _ = fs::remove_file(format!("{}{suffix}", database.display()));
        }
        for kind in Kind::ALL {
            if let Some(bytes) = content(&self.files[kind as usize]) {
                fs::write(kind.path(database), bytes).unwrap();
            }
        }
    }
}

impl File {
    fn change(&mut self, number: usize, change: &Change) {
        match change {
            Change::Opened | Change::Closed => {}
            Change::Wrote { .. } | Change::Resized(_) | Change::Deleted { .. } => {
                apply(&mut self.written, change);
                self.unsynced.push((number, change.clone()));
                if *change == (Change::Deleted { synced: true }) {
                    self.forget_deleted(number + 1);
                }
            }
            Change::Synced { before, .. } => {
                let synced = self.unsynced.partition_point(|(number, _)| number < before);
                for (_, change) in self.unsynced.drain(..synced) {
                    apply(&mut self.synced, &change);
                }
            }
            // The system may have forgotten that these are still to be written.
            Change::SyncFailed { before } => self.unsynced.retain(|(number, _)| number >= before),
        }
    }

    /// A deletion before this event is on the disk.
    fn forget_deleted(&mut self, before: usize) {
        let deleted = |(number, change): &(usize, Change)| *number < before && matches!(change, Change::Deleted { .. });
        if let Some(last) = self.unsynced.iter().rposition(deleted) {
            self.unsynced.drain(..=last);
            self.synced = None;
        }
    }
}

fn apply(content: &mut Option<Vec<u8>>, change: &Change) {
    match change {
        Change::Wrote { offset, bytes } => {
            let content = content.get_or_insert_default();
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Resized(length) => content.get_or_insert_default().resize(*length, 0),
        Change::Deleted { .. } => *content = None,
        Change::Opened | Change::Closed | Change::Synced { .. } | Change::SyncFailed { .. } => {}
    }
}
