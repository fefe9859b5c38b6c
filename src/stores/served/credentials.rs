//! How a store logs in if its options say so: as whom, and with which password. A
//! function may return another password for each connection, as for tokens that
//! expire and for secrets that are replaced.

use super::Asked;
use crate::kv::Result;
use std::sync::Arc;
use tokio::time::Instant;

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

impl Password {
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
        match self {
            Self::Unsaid => Ok(None),
            Self::Text(text) => Ok(Some(text.clone())),
            Self::Asked(asked) => asked.get(None, place, deadline).await,
        }
    }

    /// Lets go of the function. The store is closed.
    pub fn forget(&self) {
        if let Self::Asked(asked) = self {
            asked.forget();
        }
    }
}
