//! Passwords and tokens that a function of the caller returns. It is called on the
//! JavaScript thread, when a store needs one.

use super::js::{Js, NotText, Ref, Value};
use super::lane::Lane;
use crate::stores::Password;
use futures::FutureExt;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What became of a call. An error says what the function did.
pub type Answer = oneshot::Sender<Result<String, String>>;

/// A password that the function in this option returns. The function is kept until
/// the password is forgotten.
pub fn password_of(js: Js, option: &'static str, function: Value) -> Password {
    let (lane, mailbox) = Lane::new(js);
    lane.keep_secret(js.keep(function));
    let ask = move || {
        let (answer, answered) = oneshot::channel();
        mailbox.post_question(answer);
        // There is no answer if the thread is ending, or if the function's promise
        // was collected.
        let none = |_| Err("gave no answer".into());
        answered.map(move |answer| answer.unwrap_or_else(none)).boxed()
    };
    Password::asked(option, Arc::new(ask))
}

/// Calls the function.
pub fn ask(js: Js, function: &Ref, answer: Answer) {
    let answer = Cell::new(Some(answer));
    js.ask(js.kept(function), move |js, result| {
        let result = match result {
            Ok(value) => js.to_text(value).map_err(|wrong| match wrong {
                NotText::NotString => format!("returned {}, not a string", js.kind(value)),
                NotText::LoneSurrogate => "returned a string with a lone surrogate".into(),
            }),
            Err(thrown) => Err(format!("failed: {}", thrown.0)),
        };
        if let Some(answer) = answer.take() {
            // The connection may have been given up.
            drop(answer.send(result));
        }
    });
}
