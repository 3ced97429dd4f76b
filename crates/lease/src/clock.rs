//! The one place that reads the clock of leases. Pure cores are given the time; only shells call this.

use rustix::time::{ClockId, clock_gettime};

use crate::BootTime;

/// Now, by `CLOCK_BOOTTIME`.
#[allow(clippy::cast_sign_loss)] // The kernel's monotonic clocks are never negative.
pub fn now() -> BootTime {
    let time = clock_gettime(ClockId::Boottime);
    BootTime::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
