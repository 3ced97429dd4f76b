//! How far another message node was followed. Pure.
//!
//! ```text
//!                 ┌─────────── a day since the last whole list ───────────┐
//!                 ▼                                                       │
//!  (nothing) ─▶ whole list, from the start ─page─▶ listed until T ─begin─▶ list from T - overlap ─page─▶ T later
//! ```
//! Moved by the follower: [`Progress::begin`] before each list, [`Progress::took`] after each page whose messages are
//! durable. So a list that was cut off goes on where it was.
//!
//! Lists are by the time that senders put into their messages. One that came later than others with a later time is in the
//! overlap, was streamed, or is in the next whole list.

use std::time::Duration;

use crate::clock::micros;

/// How far back a list begins before what was listed already.
const OVERLAP: Duration = Duration::from_secs(3600);
/// How often everything is listed again.
const WHOLE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How far a message node was followed. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Messages of earlier times were listed; 0 at the start of a whole list.
    pub until_us: i64,
    /// When the last whole list began; 0 when there was none.
    pub whole_us: i64,
}

impl Progress {
    /// A list begins now. Returns the time to list from; `None` for everything.
    pub(crate) fn begin(&mut self, now_us: i64) -> Option<i64> {
        if now_us.saturating_sub(self.whole_us) >= micros(WHOLE_EVERY) {
            *self = Self { until_us: 0, whole_us: now_us };
        }
        let from = self.until_us.saturating_sub(micros(OVERLAP));
        (from > 0).then_some(from)
    }

    /// Messages until this time were listed. Those that claim to be of the future move nothing.
    pub(crate) fn took(&mut self, until_us: i64, now_us: i64) {
        self.until_us = self.until_us.max(until_us.min(now_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const NOW: i64 = 500_000 * HOUR;

    #[test]
    fn the_first_list_is_whole_and_goes_on_where_it_was_cut_off() {
        let mut progress = Progress::default();
        assert_eq!(progress.begin(NOW), None);
        progress.took(10 * HOUR, NOW);
        assert_eq!(progress.begin(NOW + HOUR), Some(9 * HOUR));
    }

    #[test]
    fn later_lists_begin_before_the_end_of_the_last_until_a_day_is_over() {
        let mut progress = Progress { until_us: NOW, whole_us: NOW };
        assert_eq!(progress.begin(NOW + 23 * HOUR), Some(NOW - HOUR));
        progress.took(NOW + 23 * HOUR, NOW + 23 * HOUR);
        assert_eq!(progress.begin(NOW + 24 * HOUR), None, "whole again");
        assert_eq!(progress, Progress { until_us: 0, whole_us: NOW + 24 * HOUR });
    }

    #[test]
    fn times_never_go_back_nor_beyond_now() {
        let mut progress = Progress { until_us: NOW, whole_us: NOW };
        progress.took(NOW - HOUR, NOW);
        assert_eq!(progress.until_us, NOW);
        progress.took(NOW + 1000 * HOUR, NOW + HOUR);
        assert_eq!(progress.until_us, NOW + HOUR);
    }
}
