//! Where servers are reached that announce other addresses.

use super::url::Place;
use crate::kv::{Error, Result};
use crate::stores::served::Asked;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Clone)]
pub enum NatMap {
    /// By announced addresses, such as `host:port`.
    Record(HashMap<String, Place>),
    Function(Arc<Asked>),
}

impl NatMap {
    /// Reads announced addresses and reachable ones, both as `host:port`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if one is of another form.
    pub fn record(pairs: Vec<(String, String)>) -> Result<Self> {
        let pairs = pairs.into_iter().map(|(announced, reached)| {
            let place = |text: &str| {
                let wrong = || Error::InvalidOption(format!("natMap must name addresses as host:port, not {text:?}"));
                Place::parse(text).ok_or_else(wrong)
            };
            Ok((place(&announced)?.to_string(), place(&reached)?))
        });
        Ok(Self::Record(pairs.collect::<Result<_>>()?))
    }

    /// Where the server is reached that announces this address.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if a function does not say so.
    pub async fn reached(&self, announced: &Place, deadline: Instant) -> Result<Place> {
        let text = announced.to_string();
        let function = match self {
            Self::Record(places) => return Ok(places.get(&text).unwrap_or(announced).clone()),
            Self::Function(function) => function,
        };
        let Some(reached) = function.get(Some(text.clone()), &text, deadline).await? else {
            return Ok(announced.clone());
        };
        let wrong = || Error::Connection(format!("{text}: natMap returned {reached:?}, not host:port"));
        Place::parse(&reached).ok_or_else(wrong)
    }

    pub fn is_used(&self) -> bool {
        !matches!(self, Self::Record(places) if places.is_empty())
    }

    pub fn forget(&self) {
        if let Self::Function(function) = self {
            function.forget();
        }
    }
}

impl Default for NatMap {
    fn default() -> Self {
        Self::Record(HashMap::new())
    }
}
