//! Pauses before an attempt is repeated.

use rand::{Rng, thread_rng};
use std::time::Duration;

/// The first pause, doubled after each further failure.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// The pause after so many failures in a row: none after the first one. Its length
/// is random within a factor of two, so that clients that failed together don't
/// come again together.
pub fn pause(failures: u32) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let longest = FIRST.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST);
    longest.mul_f64(thread_rng().gen_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::ZERO);
        for (failures, longest) in [(2, 20), (3, 40), (6, 320), (7, 500), (1_000, 500)] {
            let longest = Duration::from_millis(longest);
            for _ in 0..100 {
                let pause = pause(failures);
                assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause:?}");
            }
        }
        // Two clients don't have the same pause.
        assert!((0..100).any(|_| pause(7) != pause(7)));
    }
}
