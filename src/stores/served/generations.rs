//! Lists wait for the writes that were called before them.

use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// Counts the unfinished writes, by the generation in which they were called.
/// Each waiting list begins a new generation.
#[derive(Default)]
pub struct Generations {
    current: u64,
    undone: BTreeMap<u64, usize>,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Generations {
    pub fn begin(&mut self) -> u64 {
        *self.undone.entry(self.current).or_default() += 1;
        self.current
    }

    pub fn end(&mut self, generation: u64) {
        let Some(count) = self.undone.get_mut(&generation) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.undone.remove(&generation);
        let first = self.undone.first_key_value().map_or(u64::MAX, |(first, _)| *first);
        while self.waiting.front().is_some_and(|(last, _)| *last < first) {
            if let Some((_, answer)) = self.waiting.pop_front() {
                let _ = answer.send(());
            }
        }
    }

    /// Answers once all writes that have begun are done.
    pub fn answer_after(&mut self, answer: oneshot::Sender<()>) {
        if self.undone.is_empty() {
            let _ = answer.send(());
            return;
        }
        self.waiting.push_back((self.current, answer));
        self.current += 1;
    }
}
