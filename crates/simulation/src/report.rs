//! What became of a seed.

use crate::check::Violation;
use crate::tally::Tally;
use crate::time::Moment;

/// What became of a seed.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// When the story ended, by the world's own time.
    pub ended: Moment,
    /// What was counted.
    pub tally: Tally,
    /// What was kept of the story.
    pub trace: Vec<String>,
}
