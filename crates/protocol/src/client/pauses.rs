//! Pauses between attempts to reach somebody who does not answer.

use std::time::Duration;

/// The first and the longest pause.
const QUICKEST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(15);

/// Pauses that double, from 250 ms to 15 s.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(QUICKEST)
    }
}

impl Pauses {
    /// How long to wait after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(SLOWEST);
        pause
    }

    /// It worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_until_it_works() {
        let mut pauses = Pauses::default();
        let seen: Vec<_> = (0..8).map(|_| pauses.next_pause().as_millis()).collect();
        assert_eq!(seen, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        pauses.reset();
        assert_eq!(pauses.next_pause(), QUICKEST);
    }
}
