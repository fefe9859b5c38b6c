//! What can be asked of a store, and what it answers.

use super::{JsonText, Key, Lifetime, Prefix, Ttl};

/// One operation. `set` and `delete` are both a [`Command::Put`], and a `cas`
/// is a put with a condition: what is written is one idea.
#[derive(Clone, Debug)]
pub enum Command {
    /// [`Reply::Value`]
    Get(Key),
    /// [`Reply::Done`]
    Put(Key, Write),
    /// [`Reply::Swapped`]: puts if the entry means the expected value, where
    /// `None` stands for no entry.
    Cas(Key, Option<JsonText>, Write),
    /// [`Reply::Count`]: deletes the prefix and all under it.
    Clear(Prefix),
    /// [`Reply::Done`]: creates what the store needs in the engine.
    Initialize,
    /// [`Reply::Done`]: leaves nothing of the store in the engine.
    Drop,
    /// [`Reply::Done`]: comes last; the store has released all it held.
    Close,
}

impl Command {
    /// The key of the one entry that this may write.
    pub fn written(&self) -> Option<&Key> {
        match self {
            Self::Put(key, _) | Self::Cas(key, ..) => Some(key),
            Self::Get(_) | Self::Clear(_) | Self::Initialize | Self::Drop | Self::Close => None,
        }
    }
}

/// What an entry becomes.
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
    /// With its key, so that whoever reads the value can name it.
    Value(Key, Option<JsonText>),
    Done,
    Swapped(bool),
    Count(u64),
}
