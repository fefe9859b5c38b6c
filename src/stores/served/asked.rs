//! Functions of the caller's that a store asks, until it is closed.

use crate::host::timeout_at;
use crate::kv::{Error, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// Calls the function, perhaps with an argument. It may return nothing. An error tells
/// what it did instead of returning what it should.
pub type Ask = dyn Fn(Option<String>) -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync;

pub struct Asked {
    /// The option that has the function.
    option: &'static str,
    ask: Mutex<Option<Arc<Ask>>>,
}

impl Asked {
    pub fn new(option: &'static str, ask: Arc<Ask>) -> Self {
        let ask = Mutex::new(Some(ask));
        Self { option, ask }
    }

    /// What the function returns. The place is for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if it returns nothing of use by the deadline.
    pub async fn get(&self, argument: Option<String>, place: &str, deadline: Instant) -> Result<Option<String>> {
        let ask = self.ask.lock().clone().ok_or(Error::Closed)?;
        let begin = Instant::now();
        let why = match timeout_at(deadline, ask(argument)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => why,
            Err(_) => format!("did not return within {} ms", begin.elapsed().as_millis()),
        };
        Err(Error::Connection(format!(
            "{place}: the function {} {why}",
            self.option
        )))
    }

    /// Lets go of the function.
    pub fn forget(&self) {
        let ask = self.ask.lock().take();
        drop(ask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{pending, ready};
    use std::time::Duration;
    use tokio::runtime::Builder;

    fn get(asked: &Asked) -> Result<Option<String>> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let deadline = Instant::now() + Duration::from_millis(50);
            asked.get(Some("x".into()), "here", deadline).await
        })
    }

    #[test]
    fn a_function_is_asked_each_time_until_it_is_forgotten() {
        let count = Mutex::new(0);
        let asked = Asked::new(
            "password",
            Arc::new(move |argument| {
                *count.lock() += 1;
                let answer = format!("{} {}", argument.unwrap_or_default(), count.lock());
                Box::pin(ready(Ok(Some(answer))))
            }),
        );
        assert_eq!(get(&asked), Ok(Some("x 1".into())));
        assert_eq!(get(&asked), Ok(Some("x 2".into())));
        asked.forget();
        assert_eq!(get(&asked), Err(Error::Closed));
    }

    #[test]
    fn a_function_that_fails_or_takes_too_long_is_an_error() {
        let failing = Asked::new("password", Arc::new(|_| Box::pin(ready(Err("failed: no".into())))));
        let error = Error::Connection("here: the function password failed: no".into());
        assert_eq!(get(&failing), Err(error));
        let silent = Asked::new("accessToken", Arc::new(|_| Box::pin(pending())));
        let error = Error::Connection("here: the function accessToken did not return within 50 ms".into());
        assert_eq!(get(&silent), Err(error));
    }
}
