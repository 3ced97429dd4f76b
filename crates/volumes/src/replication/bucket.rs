//! How many bytes a second may be sent, shared by all programs of a node. Pure: the time is given.

use std::time::Duration;

use lease::BootTime;

/// Lets bytes through at a rate, and up to a quarter of a second's worth at once. Whoever takes more than there is goes
/// into debt and waits until it is paid, so large pieces go through as well, and nobody waits for ever.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Bytes a second; `None` has no limit.
    rate: Option<u64>,
    /// When all that was taken is paid. In the past, by not more than the burst.
    paid: BootTime,
}

/// How much of what was not used is kept.
const BURST: Duration = Duration::from_millis(250);

impl TokenBucket {
    /// This many bytes a second; 0 counts as 1. No limit without a number.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), paid: BootTime::BOOT }
    }

    /// Takes bytes, and tells how long to wait before they are sent.
    pub fn take(&mut self, now: BootTime, bytes: u64) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let wait = now.until(self.paid);
        self.paid = self.paid.max(now - BURST) + cost;
        wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_limit_never_waits() {
        let mut bucket = TokenBucket::new(None);
        assert_eq!(bucket.take(BootTime::BOOT, u64::MAX), Duration::ZERO);
        assert_eq!(bucket.take(BootTime::BOOT, u64::MAX), Duration::ZERO);
    }

    proptest! {
        /// What is let through in any time is not more than the rate, a burst, and the last piece.
        #[test]
        fn the_rate_holds(pieces in prop::collection::vec((0_u64..100_000, 0_u64..200), 1..100)) {
            let (rate, start) = (1_000_000, BootTime::BOOT + Duration::from_secs(10));
            let mut bucket = TokenBucket::new(Some(rate));
            let (mut now, mut sent) = (start, 0);
            for (bytes, pause) in pieces {
                now = now + Duration::from_millis(pause);
                now = now + bucket.take(now, bytes);
                sent += bytes;
                let allowed = rate as f64 * (now.since(start) + BURST).as_secs_f64() + bytes as f64 + 1.0;
                prop_assert!(sent as f64 <= allowed, "{} > {}", sent, allowed);
            }
        }
    }
}
