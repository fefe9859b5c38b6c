//! Time: milliseconds since 1970, as every storage format here keeps it.

use std::num::NonZeroI64;
use std::time::SystemTime;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// The latest time of a JavaScript `Date`. Later ones are set to it.
const LAST: Millis = 8_640_000_000_000_000;

pub fn now() -> Millis {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Millis::try_from(since_1970.as_millis()).unwrap_or(LAST)
}

/// The lifetime of an entry in whole milliseconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(NonZeroI64);

impl Ttl {
    /// Rounds up to a whole millisecond. `None` for zero and less.
    pub fn from_millis(millis: f64) -> Option<Self> {
        // The cast saturates, which is right for a ttl that is too long.
        #[expect(clippy::cast_possible_truncation, reason = "the fraction was just rounded up")]
        let millis = millis.ceil() as i64;
        NonZeroI64::new(millis.max(0)).map(Self)
    }

    /// The first millisecond in which the entry no longer exists.
    pub fn deadline(self, now: Millis) -> Millis {
        now.saturating_add(self.0.get()).min(LAST)
    }
}

/// The lifetime of a written entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    Unlimited,
    For(Ttl),
    /// Its ttl is zero or less: it expires at once.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_round_up_and_nothing_is_nothing() {
        let deadline = |millis| Ttl::from_millis(millis).map(|ttl| ttl.deadline(100));
        assert_eq!(deadline(0.001), Some(101));
        assert_eq!(deadline(5.0), Some(105));
        assert_eq!(deadline(5.5), Some(106));
        assert_eq!(deadline(1e300), Some(LAST));
        assert_eq!(deadline(0.0), None);
        assert_eq!(deadline(-0.5), None);
        assert_eq!(deadline(-1e300), None);
    }
}
