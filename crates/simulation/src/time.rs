//! The world's own time, and the clocks of its machines, which all run a little differently.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::BootTime;

const MILLION: u128 = 1_000_000;

/// A point of the world's true time, which nobody in it can read: nanoseconds since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// Since an earlier moment; zero when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Microseconds since the beginning.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1000
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// Whole nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A machine's clocks: the one that counts since the boot, and the one on the wall.
#[derive(Debug, Clone)]
pub struct Clock {
    /// When the machine booted; its clock started at `at_boot`.
    booted: Moment,
    at_boot: u64,
    /// How many parts per million it runs fast, or slow when negative.
    rate_ppm: i32,
    /// The wall clock, in nanoseconds since 1970, when the world began.
    wall_offset: i64,
}

impl Clock {
    /// A clock that shows `at_boot` now and runs at this rate.
    pub fn new(now: Moment, at_boot: Duration, rate_ppm: i32) -> Self {
        Self { booted: now, at_boot: nanos(at_boot), rate_ppm, wall_offset: 1_700_000_000_000_000_000 }
    }

    /// The machine boots again: the clock starts anew. The wall clock does not notice.
    pub fn reboot(&mut self, now: Moment) {
        self.booted = now;
        self.at_boot = 1_000_000_000;
    }

    /// What it shows.
    pub fn boot_time(&self, now: Moment) -> BootTime {
        let true_nanos = u128::from(now.0.saturating_sub(self.booted.0));
        let shown = true_nanos * self.rate() / MILLION;
        BootTime::from_nanos(self.at_boot + u64::try_from(shown).unwrap_or(u64::MAX / 2))
    }

    /// The first moment at which it shows this.
    pub fn moment_of(&self, time: BootTime) -> Moment {
        let shown = u128::from(time.as_nanos().saturating_sub(self.at_boot));
        let true_nanos = (shown * MILLION).div_ceil(self.rate());
        let moment = Moment(self.booted.0.saturating_add(u64::try_from(true_nanos).unwrap_or(u64::MAX)));
        debug_assert!(self.boot_time(moment) >= time);
        moment
    }

    /// What the wall clock shows, in nanoseconds since 1970.
    pub fn wall_nanos(&self, now: Moment) -> i64 {
        self.wall_offset.saturating_add(i64::try_from(now.0).unwrap_or(i64::MAX))
    }

    /// What the wall clock shows.
    pub fn wall(&self, now: Moment) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.wall_nanos(now))
    }

    /// Somebody sets the wall clock.
    pub fn jump_wall(&mut self, nanos: i64) {
        self.wall_offset = self.wall_offset.saturating_add(nanos);
    }

    fn rate(&self) -> u128 {
        let rate = 1_000_000 + i64::from(self.rate_ppm);
        u128::try_from(rate).expect("a clock that runs backwards is no clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_and_its_inverse_agree() {
        let start = Moment(5_000_000_000);
        for rate in [-9_900, 0, 9_900] {
            let clock = Clock::new(start, Duration::from_secs(100), rate);
            for later in [0, 1, 999, 1_000_003, 77_777_777_777] {
                let at = start + Duration::from_nanos(later);
                let shown = clock.boot_time(at);
                let back = clock.moment_of(shown);
                assert!(back <= at && clock.boot_time(back) >= shown, "{rate} {later}");
            }
        }
        let slow = Clock::new(Moment::ZERO, Duration::ZERO, -10_000);
        assert_eq!(slow.boot_time(Moment(1_000_000)).as_nanos(), 990_000);
    }
}
