//! How fast one sandbox is answered: a program that asks in a loop waits, and takes no more of the agent's processor than
//! this.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Between two requests, in the long run: five hundred a second.
const INTERVAL: Duration = Duration::from_millis(2);

/// How much may come at once after a pause: a hundred requests.
const BURST: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the next request would come if all had come evenly.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits until it is one's turn.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let turn = self.take(now);
        if turn > now {
            sleep_until(turn).await;
        }
    }

    /// When a request that comes now has its turn.
    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().expect("no code panics while it holds this lock");
        let even = next.unwrap_or(now).max(now);
        *next = Some(even + INTERVAL);
        // Whoever is not further ahead than this may come at once.
        now.max(even.checked_sub(BURST).unwrap_or(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_comes_at_once_and_the_rest_evenly() {
        let (pace, now) = (Pace::default(), Instant::now());
        let turns: Vec<_> = (0..=200).map(|_| pace.take(now).duration_since(now)).collect();
        assert_eq!(turns[..=100], vec![Duration::ZERO; 101]);
        assert_eq!(turns[101..], (1..=100).map(|n| INTERVAL * n).collect::<Vec<_>>());
        let later = now + Duration::from_secs(10);
        assert_eq!(pace.take(later), later, "a pause is forgiven");
    }
}
