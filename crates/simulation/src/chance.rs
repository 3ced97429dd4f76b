//! The world's only source of randomness: one seed gives one story.

use std::time::Duration;

use crate::time::nanos;

/// Seeded chance.
#[derive(Debug, Clone)]
pub(crate) struct Chance(fastrand::Rng);

impl Chance {
    /// The chance of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03);
        rng.u64(..);
        Self(rng)
    }

    /// A source of its own, so that what one part of the world draws does not shift what another one does.
    #[must_use]
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// Whether something happens that happens in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.0.u32(0..100) < percent
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..=high)
    }

    /// A signed number from `low` to `high`, both included.
    pub(crate) fn signed(&mut self, low: i64, high: i64) -> i64 {
        self.0.i64(low..=high)
    }

    /// A time from `low` to `high`, in milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_nanos(self.0.u64(low * 1_000_000..=high * 1_000_000))
    }

    /// A time of at most `most`, mostly much shorter.
    pub(crate) fn mostly_short(&mut self, most: Duration) -> Duration {
        let most = nanos(most);
        let share = self.0.u64(0..=1000);
        Duration::from_nanos(most / 1_000_000 * share * share)
    }

    /// One of them; `None` when there is none.
    pub(crate) fn one_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.0.usize(..items.len())]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_story_and_the_next_one_another() {
        let tell = |seed| {
            let mut chance = Chance::new(seed);
            let mut fork = chance.fork();
            (0..20).map(|_| chance.between(0, u64::MAX) ^ fork.between(0, u64::MAX)).collect::<Vec<_>>()
        };
        assert_eq!(tell(7), tell(7));
        assert_ne!(tell(7), tell(8));
    }
}
