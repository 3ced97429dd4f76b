//! Waiting for conditions, never for a while.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a condition may take to become true, unless a test says otherwise. Generous: machines of tests are slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until the answer is there.
///
/// # Panics
/// When it is not there after 90 s; `what` says what was waited for.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask).await
}

/// Asks until the answer is there.
///
/// # Panics
/// When it is not there in time; `what` says what was waited for.
pub async fn within<T>(patience: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < give_up, "{what}: not within {patience:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
