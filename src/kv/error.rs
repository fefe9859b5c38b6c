//! The errors of operations, with the codes that users match on.

/// The text in a variant is the rest of the message. It never has a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid key: {0}")]
    InvalidKey(String),
    #[error("key too long: {0}")]
    KeyTooLong(String),
    #[error("invalid value: {0}")]
    InvalidValue(String),
    #[error("invalid ttl: {0}")]
    InvalidTtl(String),
    #[error("invalid option: {0}")]
    InvalidOption(String),
    /// An option of the right type with a value that isn't allowed.
    #[error("invalid option: {0}")]
    OptionOutOfRange(String),
    #[error("value too large: {0}")]
    ValueTooLarge(String),
    #[error("no connection: {0}")]
    Connection(String),
    #[error("timed out: {0}")]
    Timeout(String),
    #[error("the store is closed")]
    Closed,
    #[error("corrupt entry: {0}")]
    Corrupt(String),
    #[error("{0}")]
    Backend(String),
}

impl Error {
    /// Adds that the operation may have been carried out nevertheless.
    #[must_use]
    pub fn with_unknown_outcome(mut self) -> Self {
        const UNKNOWN: &str = "; the outcome is unknown";
        match &mut self {
            Self::InvalidKey(why)
            | Self::KeyTooLong(why)
            | Self::InvalidValue(why)
            | Self::InvalidTtl(why)
            | Self::InvalidOption(why)
            | Self::OptionOutOfRange(why)
            | Self::ValueTooLarge(why)
            | Self::Connection(why)
            | Self::Timeout(why)
            | Self::Corrupt(why)
            | Self::Backend(why) => {
                if !why.ends_with(UNKNOWN) {
                    why.push_str(UNKNOWN);
                }
            }
            Self::Closed => {}
        }
        self
    }

    /// The `code` property of the JavaScript error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidKey(_) => "ERR_KV_INVALID_KEY",
            Self::KeyTooLong(_) => "ERR_KV_KEY_TOO_LONG",
            Self::InvalidValue(_) => "ERR_KV_INVALID_VALUE",
            Self::InvalidTtl(_) => "ERR_KV_INVALID_TTL",
            Self::InvalidOption(_) | Self::OptionOutOfRange(_) => "ERR_KV_INVALID_OPTION",
            Self::ValueTooLarge(_) => "ERR_KV_VALUE_TOO_LARGE",
            Self::Connection(_) => "ERR_KV_CONNECTION",
            Self::Timeout(_) => "ERR_KV_TIMEOUT",
            Self::Closed => "ERR_KV_CLOSED",
            Self::Corrupt(_) => "ERR_KV_CORRUPT",
            Self::Backend(_) => "ERR_KV_BACKEND",
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The result of a command.
pub type Outcome = Result<super::Reply>;
