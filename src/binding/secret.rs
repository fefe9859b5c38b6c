//! Functions of the caller's that a store asks, for passwords, tokens and addresses.
//! They are called on the JavaScript thread.

use super::js::{Js, NotText, Ref, Value};
use super::lane::Lane;
use crate::stores::Asked;
use futures::FutureExt;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Reads what a function has returned, or says what is wrong with it.
pub type Read = fn(Js, Value) -> Result<Option<String>, String>;

/// A call of a function. An error says what the function did.
pub struct Question {
    argument: Option<String>,
    read: Read,
    answer: oneshot::Sender<Result<Option<String>, String>>,
}

/// The function in this option. It is kept until the store lets go of it.
pub fn asked(js: Js, option: &'static str, function: Value, read: Read) -> Arc<Asked> {
    let (lane, mailbox) = Lane::new(js);
    lane.keep_secret(js.keep(function));
    let ask = move |argument| {
        let (answer, answered) = oneshot::channel();
        mailbox.post_question(Question { argument, read, answer });
        // There is no answer if the thread is ending, or if the function's promise
        // was collected.
        let none = |_| Err("gave no answer".into());
        answered.map(move |answer| answer.unwrap_or_else(none)).boxed()
    };
    Arc::new(Asked::new(option, Arc::new(ask)))
}

/// Calls the function.
pub fn ask(js: Js, function: &Ref, question: Question) {
    let Question { argument, read, answer } = question;
    let answer = Cell::new(Some(answer));
    let argument = argument.map_or_else(|| js.undefined(), |argument| js.string(&argument));
    js.ask(js.kept(function), argument, move |js, result| {
        let result = match result {
            Ok(value) => read(js, value),
            Err(thrown) => Err(format!("failed: {}", thrown.0)),
        };
        if let Some(answer) = answer.take() {
            // The connection may have been given up.
            drop(answer.send(result));
        }
    });
}

/// Reads text.
pub fn text(js: Js, value: Value) -> Result<Option<String>, String> {
    js.to_text(value).map(Some).map_err(|wrong| match wrong {
        NotText::NotString => format!("returned {}, not a string", js.kind(value)),
        NotText::LoneSurrogate => "returned a string with a lone surrogate".into(),
    })
}
