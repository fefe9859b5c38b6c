//! The operations of a store, and their replies.

use super::{JsonText, Key, Lifetime, Prefix, Ttl};

/// One operation. `set` and `delete` are both a [`Command::Put`]; a `cas` is a
/// put with a condition.
#[derive(Clone, Debug)]
pub enum Command {
    /// [`Reply::Value`]
    Get(Key),
    /// [`Reply::Done`]
    Put(Key, Write),
    /// [`Reply::Swapped`]: puts if the entry's value equals the expected one.
    /// `None` expects that there is no entry.
    Cas(Key, Option<JsonText>, Write),
    /// [`Reply::Count`]: deletes the prefix and all keys under it.
    Clear(Prefix),
    /// [`Reply::Done`]: creates what the store needs in the engine.
    Initialize,
    /// [`Reply::Done`]: deletes all of the store's data in the engine.
    Drop,
    /// [`Reply::Done`]: the last command. The store has released its files,
    /// connections and threads when it replies.
    Close,
}

impl Command {
    /// About how many bytes it stores.
    pub fn size(&self) -> usize {
        match self {
            Self::Put(_, Write::Store { value, .. }) | Self::Cas(_, _, Write::Store { value, .. }) => {
                value.as_str().len()
            }
            _ => 0,
        }
    }

    /// The key of the entry that this may write.
    pub fn written(&self) -> Option<&Key> {
        match self {
            Self::Put(key, _) | Self::Cas(key, ..) => Some(key),
            Self::Get(_) | Self::Clear(_) | Self::Initialize | Self::Drop | Self::Close => None,
        }
    }
}

/// What a put does to an entry.
#[derive(Clone, Debug)]
pub enum Write {
    Store { value: JsonText, ttl: Option<Ttl> },
    Delete,
}

impl Write {
    pub fn new(value: JsonText, lifetime: Lifetime) -> Self {
        match lifetime {
            Lifetime::Unlimited => Self::Store { value, ttl: None },
            Lifetime::For(ttl) => Self::Store { value, ttl: Some(ttl) },
            Lifetime::Over => Self::Delete,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// With its key, for the error if the value is not JSON.
    Value(Key, Option<JsonText>),
    Done,
    Swapped(bool),
    Count(u64),
}
