//! Wall-clock time, for people and for grace periods that outlive a restart.

use chrono::{DateTime, SecondsFormat, Utc};

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    Utc::now().timestamp_micros()
}

/// Microseconds in a duration.
pub(crate) fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds since 1970, as clients read times.
#[allow(clippy::cast_precision_loss)] // Microseconds since 1970 need 51 bits; a f64 holds 53.
pub(crate) fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// ISO 8601 in UTC with microseconds.
pub(crate) fn iso(us: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(us).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        assert_eq!(iso(1_795_324_003_425_616), "2026-11-22T05:06:43.425616+00:00");
        assert_eq!(seconds(1_795_324_003_425_616), 1_795_324_003.425_616);
    }
}
