//! Turns of the event loop for consumers that never wait.
//!
//! A promise that is settled already continues in the same turn of the event
//! loop. A loop of such calls would hold up timers and I/O for as long as it
//! runs. So after a few milliseconds of answers without a turn, the next answer
//! is delivered after a turn: its command has been carried out, and its [`Lane`]
//! settles the promise later.
//!
//! Node has no event for a turn of the loop. A probe shows it: an immediate (see
//! `setImmediate`) that is requested at most once a millisecond, and seldom for
//! answers that come alone.

use super::js::Js;
use super::lane::Lane;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// After this time without a known turn, a probe is requested.
const PROBE_AFTER: Duration = Duration::from_millis(1);

/// After this time with a probe that has not run, a turn is due. So a loop of
/// calls takes 4 ms between two turns.
const DUE_AFTER: Duration = Duration::from_millis(3);

/// An answer comes alone if the pause before it was long enough for a probe;
/// mostly there was a turn in the pause. Only one in this many lone answers
/// requests a probe, because a probe costs a tenth of a lone answer.
const LONE_ANSWERS_PER_PROBE: u32 = 16;

/// While answers are quick, the clock is read for one in this many. Reading it
/// for each would take 3 % of the time of a `get` that finds nothing.
const ANSWERS_PER_CLOCK_READ: u32 = 4;

/// Answers are quick if two readings of the clock are closer together than this.
const QUICK: Duration = Duration::from_micros(100);

/// The turns of one environment, for all its stores.
#[derive(Default)]
pub struct Turns {
    /// The time of the first answer since the probe last ran, or of the one that
    /// requested the probe.
    since: Cell<Option<Instant>>,
    /// When the clock was last read.
    clock_read: Cell<Option<Instant>>,
    /// How many answers may follow before it is read again.
    answers_to_skip: Cell<u32>,
    /// How many lone answers came since the last one that requested a probe.
    lone_answers: Cell<u32>,
    probe: Cell<Probe>,
    /// The lanes that wait for a turn.
    lanes: RefCell<VecDeque<Rc<Lane>>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Probe {
    #[default]
    None,
    /// To be requested as soon as JavaScript may run.
    Needed,
    Requested,
}

impl Turns {
    /// Counts an answer. Returns whether a turn has to come before it. The
    /// caller must call [`Turns::probe`] afterwards.
    pub fn is_due(&self) -> bool {
        if let Some(less) = self.answers_to_skip.get().checked_sub(1) {
            self.answers_to_skip.set(less);
            return false;
        }
        self.is_due_now()
    }

    /// The same for an answer that may take long; always reads the clock.
    pub fn is_due_now(&self) -> bool {
        let now = Instant::now();
        let before = self.clock_read.replace(Some(now));
        let alone = before.is_none_or(|before| now - before >= PROBE_AFTER);
        let due = self.has_run_long(now, alone);
        let quick = !due && before.is_some_and(|before| now - before < QUICK);
        self.answers_to_skip
            .set(if quick { ANSWERS_PER_CLOCK_READ - 1 } else { 0 });
        due
    }

    fn has_run_long(&self, now: Instant, alone: bool) -> bool {
        let Some(since) = self.since.get() else {
            self.since.set(Some(now));
            return false;
        };
        let passed = now - since;
        if self.probe.get() == Probe::Requested {
            return passed >= DUE_AFTER;
        }
        if passed >= PROBE_AFTER {
            // There may have been turns since then.
            self.since.set(Some(now));
            if alone && self.lone_answers.get() < LONE_ANSWERS_PER_PROBE {
                self.lone_answers.set(self.lone_answers.get() + 1);
            } else {
                self.lone_answers.set(0);
                self.probe.set(Probe::Needed);
            }
        }
        false
    }

    /// Requests the probe if an answer needs it. May run JavaScript.
    pub fn probe(&self, js: Js) {
        if self.probe.get() == Probe::Needed {
            self.request(js);
        }
    }

    /// Calls [`Lane::go_on`] after the next turn.
    pub fn add(&self, lane: Rc<Lane>) {
        self.lanes.borrow_mut().push_back(lane);
    }

    /// Requests the probe if it isn't requested yet. Returns false if that fails,
    /// because the stack is full. May run JavaScript.
    pub fn expect(&self, js: Js) -> bool {
        self.probe.get() == Probe::Requested || self.request(js)
    }

    fn request(&self, js: Js) -> bool {
        // Set first, because JavaScript may call back.
        self.probe.set(Probe::Requested);
        let requested = js.ask_for_turn().is_ok();
        if !requested {
            self.probe.set(Probe::None);
        }
        requested
    }

    /// The immediate: the event loop has had a turn.
    pub fn begin(&self, js: Js) {
        self.probe.set(Probe::None);
        self.since.set(None);
        self.answers_to_skip.set(0);
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
