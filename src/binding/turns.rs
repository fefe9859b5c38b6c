//! Turns of the event loop for consumers that never wait.
//!
//! A promise that is settled already continues in the same turn of the event
//! loop. A loop of such calls would hold up timers and I/O for as long as it
//! runs. So after a few milliseconds of answers without a turn, the next one is
//! delivered after a turn: its command has been carried out, and its [`Lane`]
//! settles the promise later.
//!
//! The loop does not say when it turns. A probe does: an immediate (see
//! `setImmediate`) that is asked for at most once a millisecond, and seldom for
//! answers that come alone.

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

/// Answers with longer pauses between them mostly follow turns. Only one in so
/// many asks for a probe, which would cost a tenth of an answer that comes alone.
const ALONE_A_PROBE: u32 = 16;

/// The clock is read for one answer in so many while they are quick, because
/// reading it would take 3 % of a `get` of nothing.
const ANSWERS_A_LOOK: u32 = 4;

/// Answers are quick if two readings of the clock are closer together than this.
const QUICK: Duration = Duration::from_micros(100);

/// The turns of one environment, for all its stores.
#[derive(Default)]
pub struct Turns {
    /// The first answer since the probe last ran, or the one that asked for the
    /// probe.
    since: Cell<Option<Instant>>,
    /// When the clock was last read.
    looked: Cell<Option<Instant>>,
    /// How many answers may follow before it is read again.
    unlooked: Cell<u32>,
    /// How many answers have come alone since the last one that asked for a probe.
    alone: Cell<u32>,
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
    pub fn is_due(&self) -> bool {
        if let Some(less) = self.unlooked.get().checked_sub(1) {
            self.unlooked.set(less);
            return false;
        }
        self.is_due_now()
    }

    /// The same for an answer that may take long; always looks at the clock.
    pub fn is_due_now(&self) -> bool {
        let now = Instant::now();
        let before = self.looked.replace(Some(now));
        let alone = before.is_none_or(|before| now - before >= UNWATCHED);
        let due = self.has_run_long(now, alone);
        let quick = !due && before.is_some_and(|before| now - before < QUICK);
        self.unlooked.set(if quick { ANSWERS_A_LOOK - 1 } else { 0 });
        due
    }

    fn has_run_long(&self, now: Instant, alone: bool) -> bool {
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
            if alone && self.alone.get() < ALONE_A_PROBE {
                self.alone.set(self.alone.get() + 1);
            } else {
                self.alone.set(0);
                self.probe.set(Probe::Wanted);
            }
        }
        false
    }

    /// Asks for the probe if an answer wants it. May run JavaScript.
    pub fn probe(&self, js: Js) {
        if self.probe.get() == Probe::Wanted {
            self.ask(js);
        }
    }

    /// Makes a lane go on after the next turn.
    pub fn add(&self, lane: Rc<Lane>) {
        self.lanes.borrow_mut().push_back(lane);
    }

    /// Makes sure that the next turn is noticed; false where that fails, because
    /// the stack is full. May run JavaScript.
    pub fn expect(&self, js: Js) -> bool {
        self.probe.get() == Probe::Asked || self.ask(js)
    }

    fn ask(&self, js: Js) -> bool {
        // First, because JavaScript may call back.
        self.probe.set(Probe::Asked);
        let asked = js.ask_for_turn().is_ok();
        if !asked {
            self.probe.set(Probe::None);
        }
        asked
    }

    /// The immediate: the event loop has had a turn.
    pub fn begin(&self, js: Js) {
        self.probe.set(Probe::None);
        self.since.set(None);
        self.unlooked.set(0);
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
