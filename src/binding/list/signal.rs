//! A list's registration with its abort signal.
//!
//! A signal outlives many lists, so each listener must be removed: when its list
//! ends, and when the iterator is collected before that. In the second case
//! JavaScript can't be called at once, and the lane removes the listener in a
//! later turn.

use super::List;
use crate::binding::js::{Js, Ref, Value};
use crate::binding::lane::Lane;
use std::rc::{Rc, Weak};

/// Removes its registration when it is dropped.
pub struct Listener {
    lane: Rc<Lane>,
    registration: Option<Registration>,
}

/// What `removeEventListener` needs.
pub struct Registration {
    signal: Rc<Ref>,
    function: Ref,
}

impl Listener {
    /// Starts listening; `None` where the signal refuses that.
    ///
    /// # Errors
    ///
    /// The reason, in an object's `value`, of a signal that is aborted already.
    pub fn add(js: Js, lane: &Rc<Lane>, signal: Ref, list: Weak<List>) -> Result<Option<Self>, Ref> {
        let value = js.kept(&signal);
        if js.get(value, "aborted").ok().and_then(|aborted| js.to_bool(aborted)) == Some(true) {
            return Err(reason(js, value));
        }
        let signal = Rc::new(signal);
        // The function belongs to the signal and may not keep it alive.
        let weak_signal = Rc::downgrade(&signal);
        let function = js.function(move |js| {
            let Some(signal) = weak_signal.upgrade().map(|signal| js.kept(&signal)) else {
                return;
            };
            let reason = reason(js, signal);
            if let Some(list) = list.upgrade() {
                list.abort(js, reason);
            }
        });
        let listener = Self {
            lane: Rc::clone(lane),
            registration: Some(Registration {
                signal,
                function: js.keep(function),
            }),
        };
        let added = js.call_method(value, "addEventListener", &[js.string("abort"), function]);
        Ok(added.is_ok().then_some(listener))
    }

    pub fn remove(mut self, js: Js) {
        if let Some(registration) = self.registration.take() {
            registration.remove(js);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(registration) = self.registration.take() {
            self.lane.remove_later(registration);
        }
    }
}

impl Registration {
    pub fn remove(&self, js: Js) {
        let arguments = [js.string("abort"), js.kept(&self.function)];
        // An error of the signal must not stop anything here.
        let _ = js.call_method(js.kept(&self.signal), "removeEventListener", &arguments);
    }
}

fn reason(js: Js, signal: Value) -> Ref {
    let reason = js.get(signal, "reason").unwrap_or_else(|_| js.undefined());
    js.keep(js.step(reason, true))
}
