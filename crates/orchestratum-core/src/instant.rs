//! Instants as the database stores them.

use std::fmt;
use std::time::Duration;

use sea_orm::DeriveValueType;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in UTC, stored as microseconds since 1970 in a `BIGINT`.
///
/// One representation on three databases: text sorts wrongly on SQLite, and MariaDB's `timestamp` ends in 2106.
/// Precision beyond a microsecond is cut off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, DeriveValueType)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last microsecond of the year 9999, the last instant that can be shown as a date.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// An instant from microseconds since 1970.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This machine's clock. Only SQLite, whose clock is the machine's, may decide anything by it.
    #[must_use]
    pub fn now() -> Self {
        Self::from(OffsetDateTime::now_utc())
    }

    /// The instant as a date and time; what lies outside of the years that can be shown is clamped to them.
    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        let nanos = i128::from(self.0.clamp(Self::MIN_SHOWN, Self::MAX.0)) * 1_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// How much later `self` is than `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The first instant of the year 1.
    const MIN_SHOWN: i64 = -62_135_596_800_000_000;
}

impl From<OffsetDateTime> for Timestamp {
    fn from(instant: OffsetDateTime) -> Self {
        let micros = instant.unix_timestamp_nanos().div_euclid(1_000);
        Self(i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX }))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_year_9999_survives() {
        let last = time::macros::datetime!(9999-12-31 23:59:59.999_999 UTC);
        assert_eq!(Timestamp::from(last), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.to_datetime(), last);
    }

    #[test]
    fn any_stored_number_can_be_shown() {
        for micros in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert!(!Timestamp::from_micros(micros).to_string().is_empty());
        }
    }
}
