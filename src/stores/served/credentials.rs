//! How a store logs in if its options say so: as whom, and with which password. A
//! function may return another password for each connection, as for tokens that
//! expire and for secrets that are replaced.

use crate::host::timeout_at;
use crate::kv::{Error, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// Asks for a password. An error tells what the function did instead of returning
/// one.
pub type Ask = dyn Fn() -> BoxFuture<'static, std::result::Result<String, String>> + Send + Sync;

#[derive(Clone, Default)]
pub struct Credentials {
    /// In place of the URL's.
    pub user: Option<String>,
    pub password: Password,
}

/// A password in place of the URL's, or a token.
#[derive(Clone, Default)]
pub enum Password {
    #[default]
    Unsaid,
    Text(String),
    Asked(Arc<Asked>),
}

/// A function that returns passwords, until the store is closed.
pub struct Asked {
    /// The option that has the function.
    option: &'static str,
    ask: Mutex<Option<Arc<Ask>>>,
}

impl Password {
    pub fn asked(option: &'static str, ask: Arc<Ask>) -> Self {
        let ask = Mutex::new(Some(ask));
        Self::Asked(Arc::new(Asked { option, ask }))
    }

    /// Whether the options have a password.
    pub fn is_said(&self) -> bool {
        !matches!(self, Self::Unsaid)
    }

    /// Whether the next connection may have another password, so that a refused
    /// login may be tried again.
    pub fn may_change(&self) -> bool {
        matches!(self, Self::Asked(_))
    }

    /// The password for a new connection to `place`; `None` if the options have none.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if a function returns none by the deadline.
    pub async fn get(&self, place: &str, deadline: Instant) -> Result<Option<String>> {
        let asked = match self {
            Self::Unsaid => return Ok(None),
            Self::Text(text) => return Ok(Some(text.clone())),
            Self::Asked(asked) => asked,
        };
        let ask = asked.ask.lock().clone().ok_or(Error::Closed)?;
        let begin = Instant::now();
        let why = match timeout_at(deadline, ask()).await {
            Ok(Ok(password)) => return Ok(Some(password)),
            Ok(Err(why)) => why,
            Err(_) => format!("did not return within {} ms", begin.elapsed().as_millis()),
        };
        Err(Error::Connection(format!(
            "{place}: the function {} {why}",
            asked.option
        )))
    }

    /// Lets go of the function. The store is closed.
    pub fn forget(&self) {
        if let Self::Asked(asked) = self {
            let ask = asked.ask.lock().take();
            drop(ask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{pending, ready};
    use std::time::Duration;
    use tokio::runtime::Builder;

    fn get(password: &Password) -> Result<Option<String>> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let deadline = Instant::now() + Duration::from_millis(50);
            password.get("here", deadline).await
        })
    }

    #[test]
    fn a_function_is_asked_each_time_until_it_is_forgotten() {
        let count = Mutex::new(0);
        let password = Password::asked(
            "password",
            Arc::new(move || {
                *count.lock() += 1;
                Box::pin(ready(Ok(format!("password {}", count.lock()))))
            }),
        );
        assert_eq!(get(&password), Ok(Some("password 1".into())));
        assert_eq!(get(&password), Ok(Some("password 2".into())));
        password.clone().forget();
        assert_eq!(get(&password), Err(Error::Closed));
    }

    #[test]
    fn a_function_that_fails_or_takes_too_long_is_an_error() {
        let failing = Password::asked("password", Arc::new(|| Box::pin(ready(Err("failed: no".into())))));
        let error = Error::Connection("here: the function password failed: no".into());
        assert_eq!(get(&failing), Err(error));
        let silent = Password::asked("accessToken", Arc::new(|| Box::pin(pending())));
        let error = Error::Connection("here: the function accessToken did not return within 50 ms".into());
        assert_eq!(get(&silent), Err(error));
    }
}
