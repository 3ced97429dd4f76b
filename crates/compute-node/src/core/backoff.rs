//! How long to wait before something that failed is tried again.

use std::time::Duration;

use lease::BootTime;

/// The pause after the first failure of something that worked: most of what ends once comes up again.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The first pause of what never worked.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A run this long counts as a success: the next failure starts from the first pause again.
const STABLE: Duration = Duration::from_secs(60);

/// Counts failures in a row. The pause doubles with each, from one second to one minute; what worked is tried again at once
/// after its first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure of something that had worked since `worked_since`, if it had. Says when to try again.
    pub fn failed(&mut self, now: BootTime, worked_since: Option<BootTime>) -> BootTime {
        if worked_since.is_some_and(|since| now.since(since) >= STABLE) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 && worked_since.is_some() {
            return now + AT_ONCE;
        }
        now + (FIRST * 2_u32.saturating_pow(self.failures - 1)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_start_anew_after_a_stable_run() {
        let mut backoff = Backoff::default();
        let now = BootTime::BOOT + Duration::from_secs(1000);
        let pauses: Vec<_> = (0..8).map(|_| now.until(backoff.failed(now, None)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(now.until(backoff.failed(now, Some(now - STABLE / 2))).as_secs(), 60);
        assert_eq!(now.until(backoff.failed(now, Some(now - STABLE))), AT_ONCE);
        assert_eq!(now.until(backoff.failed(now, Some(now - STABLE / 2))).as_secs(), 2);
    }
}
