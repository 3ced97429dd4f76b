//! The sender's time of a message.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds since 1970 by the sender's clock. Written as a number; read from a number or from ISO 8601 text, because the
/// Python SDK sends the latter in price estimates.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct MessageTime(f64);

impl MessageTime {
    /// The latest time that the protocol allows, in seconds (`ProgramContent.time` of aleph-message 1.7).
    pub const MAX: f64 = 9_223_372_036.0;

    /// A time from seconds since 1970; `None` when it is negative, not finite or after [`Self::MAX`].
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        (0.0..=Self::MAX).contains(&seconds).then_some(Self(seconds))
    }

    /// The current wall-clock time.
    #[allow(clippy::cast_precision_loss)] // Microseconds since 1970 need 51 bits; a f64 holds 53.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros() as f64 / 1e6)
    }

    /// Seconds since 1970.
    pub fn as_seconds(self) -> f64 {
        self.0
    }

    /// Microseconds since 1970, for storage and exact comparison.
    #[allow(clippy::cast_possible_truncation)] // MAX seconds in microseconds fit into an i64.
    pub fn as_micros(self) -> i64 {
        (self.0 * 1e6).round() as i64
    }
}

impl Serialize for MessageTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for MessageTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(f64),
            Text(String),
        }
        let seconds = match Raw::deserialize(deserializer)? {
            Raw::Number(seconds) => seconds,
            Raw::Text(text) => parse_iso(&text).ok_or_else(|| {
                serde::de::Error::custom(format!("'{text}' is no time: expected seconds since 1970 or ISO 8601"))
            })?,
        };
        Self::from_seconds(seconds).ok_or_else(|| {
            serde::de::Error::custom(format!("time {seconds} is out of range: expected 0 to {}", Self::MAX))
        })
    }
}

#[allow(clippy::cast_precision_loss)]
fn parse_iso(text: &str) -> Option<f64> {
    let time = DateTime::parse_from_rfc3339(text)
        .map(|t| t.to_utc())
        .or_else(|_| text.parse::<NaiveDateTime>().map(|t| t.and_utc()))
        .ok()?;
    Some(time.timestamp_micros() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_and_iso_text() {
        let of = |json: &str| serde_json::from_str::<MessageTime>(json).map(MessageTime::as_micros);
        assert_eq!(of("1795324003.425616").unwrap(), 1_795_324_003_425_616);
        assert_eq!(of("1795324003").unwrap(), 1_795_324_003_000_000);
        assert_eq!(of("\"2026-11-22T05:06:43.412577Z\"").unwrap(), 1_795_324_003_412_577);
        assert_eq!(of("\"2026-11-22T05:06:43.412577\"").unwrap(), 1_795_324_003_412_577);
        for bad in ["-1", "1e300", "\"yesterday\"", "null", "[]"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
