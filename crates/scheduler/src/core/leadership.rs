//! Which of several schedulers leads: the one whose leader epoch is in the database's one row.
//!
//! ```text
//!               looked: free, resigned,          claim succeeds
//!               or the same for too long
//!   Following ─────────────────────────▶ claims ────────────────▶ Leading ──▶ lapsed ──▶ Leading
//!       ▲                                   │                        │   beat succeeds  ▲ │
//!       │  claim fails: somebody was faster │                        │   too late       └─┘
//!       └───────────────────────────────────┴────── deposed ◀────────┴── the row has another epoch
//! ```
//! Only the scheduler itself moves it; the database decides claims. Leading is a lease, with the rule of all leases (see the
//! crate `lease`): the leader counts from when it *sent* the last beat that the database took, a follower from when it
//! first *saw* that beat. A leader whose time is over grants nothing, and may go on when a later beat succeeds: then nobody
//! took over in between. One that took over waits for the leases that the one before it may have granted: that is what
//! [`super::Restored`] is for.

use lease::{BootTime, IssuerExpiry, LeaseConfig, LeaseConfigError, LeaseTimes};

/// Counts the leaders of a database; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderEpoch(i64);

impl LeaderEpoch {
    /// The epoch with this number, as the database gave it.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// The row of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderRow {
    /// Under which epoch it leads.
    pub epoch: LeaderEpoch,
    /// Grows as long as it lives.
    pub beat: i64,
    /// Where it is reached.
    pub url: String,
    /// Whether it stepped down in order. It grants nothing any more.
    pub has_resigned: bool,
}

/// The constants of leadership that go with those of the leases that the leader grants: a new leader must be there, and the
/// nodes connected to it, before a lease that the old one granted last is over.
///
/// # Errors
/// [`LeaseConfigError`] when a lease is so short that nothing fits into it.
pub fn leadership_times(granted: LeaseConfig) -> Result<LeaseTimes, LeaseConfigError> {
    let lease = granted.lease * 2 / 5;
    LeaseTimes::new(LeaseConfig {
        heartbeat: lease / 5,
        lease,
        grace: std::time::Duration::ZERO,
        kill_allowance: lease / 20,
        ..granted
    })
}

/// What a scheduler that does not lead knows about the one that does.
#[derive(Debug)]
pub struct Watch {
    times: LeaseTimes,
    /// The row, and when its leader may be considered gone unless the row changes.
    seen: Option<(LeaderRow, IssuerExpiry)>,
}

/// What a look at the row means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody leads.
    Led,
    /// Nobody does: the row may be claimed, if it is still this one.
    Free(Option<LeaderRow>),
}

impl Watch {
    /// Nothing is known yet. `times` are those of [`leadership_times`].
    pub fn new(times: LeaseTimes) -> Self {
        Self { times, seen: None }
    }

    /// Takes in the row as it was when the look ended, at `now`.
    pub fn looked(&mut self, now: BootTime, row: Option<LeaderRow>) -> Verdict {
        let Some(row) = row else { return Verdict::Free(None) };
        if row.has_resigned {
            return Verdict::Free(Some(row));
        }
        match &self.seen {
            Some((seen, expiry)) if *seen == row => match expiry.is_over(now) {
                true => Verdict::Free(Some(row)),
                false => Verdict::Led,
            },
            _ => {
                self.seen = Some((row, self.times.issuer(now)));
                Verdict::Led
            }
        }
    }

    /// The leader that was seen last.
    pub fn leader_url(&self) -> Option<&str> {
        self.seen.as_ref().map(|(row, _)| row.url.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn row(epoch: i64, beat: i64) -> LeaderRow {
        LeaderRow { epoch: LeaderEpoch::new(epoch), beat, url: "http://one".into(), has_resigned: false }
    }

    fn times() -> LeaseTimes {
        leadership_times(LeaseConfig::default()).unwrap()
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_leader_is_followed_as_long_as_it_beats() {
        let mut watch = Watch::new(times());
        let wait = u64::try_from(times().longest_wait().as_millis()).unwrap();
        assert_eq!(watch.looked(at(0), Some(row(1, 1))), Verdict::Led);
        assert_eq!(watch.looked(at(wait - 1), Some(row(1, 1))), Verdict::Led);
        assert_eq!(watch.looked(at(wait), Some(row(1, 2))), Verdict::Led, "it beat");
        assert_eq!(watch.looked(at(2 * wait - 1), Some(row(1, 2))), Verdict::Led);
        assert_eq!(watch.looked(at(2 * wait), Some(row(1, 2))), Verdict::Free(Some(row(1, 2))));
        assert_eq!(watch.looked(at(2 * wait), Some(row(2, 0))), Verdict::Led, "another was faster");
    }

    #[test]
    fn nobody_waits_for_a_leader_that_stepped_down_or_never_was() {
        let mut watch = Watch::new(times());
        assert_eq!(watch.looked(at(0), None), Verdict::Free(None));
        let resigned = LeaderRow { has_resigned: true, ..row(1, 1) };
        assert_eq!(watch.looked(at(0), Some(resigned.clone())), Verdict::Free(Some(resigned)));
    }

    #[test]
    fn programs_outlive_a_change_of_leaders() {
        // The last grant of a leader that died was sent a heartbeat before its last beat at the earliest; the next leader
        // needs its wait, a look and a moment to connect.
        let granted = LeaseConfig::default();
        let usable = granted.lease - granted.grace - granted.kill_allowance - granted.heartbeat;
        let times = times();
        assert!(times.longest_wait() + times.heartbeat() + Duration::from_millis(100) < usable);
    }

    proptest! {
        /// The rule of leases: a leader's time is over before anybody claims, for any two clocks whose rates differ by no
        /// more than the drift.
        #[test]
        fn a_leader_has_stopped_before_another_claims(
            sent in 0_u64..1 << 40, seen_after in 0_u64..5_000_000_000, drift in 0.0_f64..=0.02,
        ) {
            let times = times();
            let (sent, mut watch) = (BootTime::from_nanos(sent), Watch::new(times));
            let stops_after = sent.until(times.holder(sent).kill).mul_f64(1.0 + drift);
            let seen = sent + Duration::from_nanos(seen_after);
            watch.looked(seen, Some(row(1, 1)));
            // The earliest claim, by the follower's clock and so in real time, which is when the leader's time is over at
            // the latest.
            let claims_after = Duration::from_nanos(seen_after) + times.longest_wait();
            prop_assert!(stops_after < claims_after);
            let just_before = sent + claims_after - Duration::from_nanos(1);
            prop_assert_eq!(watch.looked(just_before, Some(row(1, 1))), Verdict::Led);
        }
    }
}
