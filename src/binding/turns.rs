//! Turns of the event loop for consumers that never wait.
//!
//! A promise that is settled already continues in the same turn of the event
//! loop. A loop of such calls would hold up timers and I/O for as long as it
//! runs. So after a few milliseconds of answers without a turn, the next one is
//! delivered after a turn: its command has been carried out, and its [`Lane`]
//! settles the promise later.
//!
//! The loop does not say when it turns. A probe does: an immediate (see
//! `setImmediate`) that is asked for at most once a millisecond, and never for
//! an answer that comes alone.

use super::js::Js;
use super::lane::Lane;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long answers may follow each other without a probe.
const UNWATCHED: Duration = Duration::from_millis(1);

/// How long answers may follow each other while the probe has not run. A loop
/// of calls thus takes 4 ms between two turns.
const WATCHED: Duration = Duration::from_millis(3);

/// The turns of one environment, for all its stores.
#[derive(Default)]
pub struct Turns {
    /// The first answer since the probe last ran, or the one that asked for the
    /// probe.
    since: Cell<Option<Instant>>,
    probe: Cell<Probe>,
    /// The lanes that go on after a turn.
    lanes: RefCell<VecDeque<Rc<Lane>>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Probe {
    #[default]
    None,
    /// To be asked for as soon as JavaScript may run.
    Wanted,
    Asked,
}

impl Turns {
    /// Counts an answer. Returns whether a turn has to come before it. The
    /// caller must call [`Turns::probe`] afterwards.
    pub fn is_due(&self, now: Instant) -> bool {
        let Some(since) = self.since.get() else {
            self.since.set(Some(now));
            return false;
        };
        let passed = now - since;
        if self.probe.get() == Probe::Asked {
            return passed >= WATCHED;
        }
        if passed >= UNWATCHED {
            // There may have been turns since then.
            self.since.set(Some(now));
            self.probe.set(Probe::Wanted);
        }
        false
    }

    /// Asks for the probe if an answer wants it. May run JavaScript.
    pub fn probe(&self, js: Js) {
        if self.probe.get() == Probe::Wanted {
            self.ask(js);
        }
    }

    /// Makes a lane go on after a turn. May run JavaScript.
    pub fn resume(&self, js: Js, lane: Rc<Lane>) {
        self.lanes.borrow_mut().push_back(lane);
        if self.probe.get() != Probe::Asked {
            self.ask(js);
        }
    }

    fn ask(&self, js: Js) {
        // First, because JavaScript may call back.
        self.probe.set(Probe::Asked);
        if js.ask_for_turn().is_err() {
            self.probe.set(Probe::None);
        }
    }

    /// The immediate: the event loop has had a turn.
    pub fn begin(&self, js: Js) {
        self.probe.set(Probe::None);
        self.since.set(None);
        while let Some(lane) = self.next_lane() {
            if !lane.go_on(js) {
                break;
            }
        }
    }

    fn next_lane(&self) -> Option<Rc<Lane>> {
        self.lanes.borrow_mut().pop_front()
    }

    /// The environment is ending. Lanes own these turns, so they are dropped
    /// here.
    pub fn end(&self) {
        let lanes = self.lanes.take();
        drop(lanes);
    }
}
