//! Dates as JavaScript writes them, over the whole range of a `Date`, which is
//! longer than that of the usual date libraries.

use std::fmt;

/// The most milliseconds between a `Date` and 1970.
const FARTHEST: f64 = 8.64e15;

const MILLIS_A_DAY: i64 = 24 * 60 * 60 * 1000;

pub struct Date(i64);

impl Date {
    /// `None` for milliseconds that no valid `Date` has.
    pub fn of(millis: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is in range, and a Date drops fractions"
        )]
        let whole = millis as i64;
        (millis.abs() <= FARTHEST).then_some(Self(whole))
    }
}

/// As `toISOString` writes it.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(MILLIS_A_DAY));
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        let millis = self.0.rem_euclid(MILLIS_A_DAY);
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let (hours, minutes) = (minutes / 60, minutes % 60);
        write!(
            f,
            "-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z"
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian
/// calendar. Years are counted from March here, so that a leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    // From 0000-03-01 on.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March to July have 153 days, and so do August to December.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::{Date, FARTHEST, MILLIS_A_DAY};
    use chrono::DateTime;

    #[test]
    fn dates_are_written_as_javascript_does() {
        let iso = |millis| Date::of(millis).map(|date| date.to_string());
        assert_eq!(iso(0.0).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(-1.0).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso(-0.9).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(FARTHEST).unwrap(), "+275760-09-13T00:00:00.000Z");
        assert_eq!(iso(-FARTHEST).unwrap(), "-271821-04-20T00:00:00.000Z");
        assert_eq!(iso(253_402_300_800_000.0).unwrap(), "+010000-01-01T00:00:00.000Z");
        assert_eq!(iso(-62_198_755_200_000.0).unwrap(), "-000001-01-01T00:00:00.000Z");
        for none in [FARTHEST + 1.0, -FARTHEST - 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(iso(none), None, "{none}");
        }
    }

    #[test]
    fn every_day_is_that_of_a_date_library() {
        // Every second day of all years, at its last millisecond.
        for days in (-719_528..2_932_896).step_by(2) {
            let millis = days * MILLIS_A_DAY + 86_399_999;
            let expected = DateTime::from_timestamp_millis(millis).unwrap();
            let expected = expected.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            assert_eq!(Date(millis).to_string(), expected);
        }
    }
}
