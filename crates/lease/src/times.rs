//! The constants of a lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BootTime, HolderDeadline, IssuerExpiry};

/// The constants as configured, not yet checked together. The defaults are the design's: heartbeat 1 s, lease 5 s, margin
/// 2 % + 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseConfig {
    /// How often a node renews its leases.
    pub heartbeat: Duration,
    /// How long a lease lasts.
    pub lease: Duration,
    /// How long a program has to end by itself before it is killed.
    pub grace: Duration,
    /// How long before the lease's end the sandbox is killed; the fuse burns through in the middle of it.
    pub kill_allowance: Duration,
    /// How far the rates of two clocks may differ, in parts per million of the lease.
    pub drift_ppm: u32,
    /// What the issuer waits beyond that.
    pub margin: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            lease: Duration::from_secs(5),
            grace: Duration::from_millis(500),
            kill_allowance: Duration::from_millis(400),
            drift_ppm: 20_000,
            margin: Duration::from_millis(100),
        }
    }
}

/// Why constants do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseConfigError {
    /// Zero where time is needed.
    #[error("{0} must be longer than zero")]
    Zero(&'static str),
    /// A single lost heartbeat would end the lease.
    #[error(
        "the lease ({lease:?}) less grace and kill allowance must last at least two heartbeats ({heartbeat:?} each): lengthen the lease or shorten the heartbeat"
    )]
    HeartbeatTooSlow {
        /// The lease.
        lease: Duration,
        /// The heartbeat.
        heartbeat: Duration,
    },
    /// More than the lease itself.
    #[error("a drift of {0} parts per million is no clock: at most 100000")]
    Drift(u32),
}

/// Constants that fit together: checked once, when the program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes(LeaseConfig);

impl LeaseTimes {
    /// Checks the constants together.
    ///
    /// # Errors
    /// [`LeaseConfigError`] with the first rule that they break.
    pub fn new(config: LeaseConfig) -> Result<Self, LeaseConfigError> {
        let LeaseConfig { heartbeat, lease, grace, kill_allowance, drift_ppm, margin } = config;
        for (name, value) in
            [("heartbeat", heartbeat), ("lease", lease), ("kill allowance", kill_allowance), ("margin", margin)]
        {
            if value.is_zero() {
                return Err(LeaseConfigError::Zero(name));
            }
        }
        if drift_ppm > 100_000 {
            return Err(LeaseConfigError::Drift(drift_ppm));
        }
        match lease.checked_sub(grace + kill_allowance) {
            Some(usable) if usable >= heartbeat * 2 => Ok(Self(config)),
            _ => Err(LeaseConfigError::HeartbeatTooSlow { lease, heartbeat }),
        }
    }

    /// How often a node renews its leases.
    pub const fn heartbeat(&self) -> Duration {
        self.0.heartbeat
    }

    /// How long a lease lasts.
    pub const fn lease(&self) -> Duration {
        self.0.lease
    }

    /// The longest that an issuer waits for a holder of which it hears nothing: lease, drift and margin.
    pub fn longest_wait(&self) -> Duration {
        self.0.lease + self.drift() + self.0.margin
    }

    /// How long a holder that hears nothing keeps to one issuer before it looks for another, counted from the last answer.
    /// Short enough that the other can still renew what the first one granted, longer than the wait for one answer.
    pub fn patience(&self) -> Duration {
        (self.0.lease * 2 / 5).max(self.0.heartbeat * 3 / 2)
    }

    /// The holder's deadlines for a lease that was renewed by a heartbeat sent at `sent`.
    pub fn holder(&self, sent: BootTime) -> HolderDeadline {
        let LeaseConfig { lease, grace, kill_allowance, .. } = self.0;
        let kill = lease - kill_allowance;
        HolderDeadline { soft: sent + (kill - grace), kill: sent + kill, fuse: sent + (kill + kill_allowance / 2) }
    }

    /// When the issuer may consider a lease ended that it last renewed at `answered`.
    pub fn issuer(&self, answered: BootTime) -> IssuerExpiry {
        IssuerExpiry(answered + self.longest_wait())
    }

    fn drift(&self) -> Duration {
        self.0.lease * self.0.drift_ppm / 1_000_000
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::new(LeaseConfig::default()).expect("the defaults fit together")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(least: u64) -> impl Strategy<Value = Duration> {
        (least..20_000).prop_map(Duration::from_millis)
    }

    prop_compose! {
        /// Any configuration that can be built.
        fn valid()(heartbeat in millis(1), spare in millis(0), grace in millis(0), kill_allowance in millis(1),
                   drift_ppm in 0_u32..=100_000, margin in millis(1)) -> LeaseConfig {
            let lease = grace + kill_allowance + heartbeat * 2 + spare;
            LeaseConfig { heartbeat, lease, grace, kill_allowance, drift_ppm, margin }
        }
    }

    proptest! {
        /// Rule 3 of the design, for every configuration that can be built and every pair of clocks whose rates differ by
        /// no more than the configured drift: the holder has stopped before the issuer goes on.
        #[test]
        fn a_lease_ends_at_the_holder_before_it_ends_at_the_issuer(
            config in valid(), sent in 0_u64..1 << 50, took in 0_u64..10_000_000_000, slow in 0.0_f64..1.0,
        ) {
            let times = LeaseTimes::new(config).unwrap();
            let sent = BootTime::from_nanos(sent);
            let held_for = sent.until(times.holder(sent).fuse);
            // The holder's clock runs slow by up to the drift, so its span is longer in real time.
            let real = held_for.mul_f64(1.0 + slow * f64::from(config.drift_ppm) / 1e6);
            let answered = Duration::from_nanos(took); // after the sending, in real time
            let expiry = answered + sent.until(times.issuer(sent).at());
            prop_assert!(real < expiry);
        }

        #[test]
        fn deadlines_come_in_order_and_before_the_leases_end(config in valid(), sent in 0_u64..1 << 50) {
            let times = LeaseTimes::new(config).unwrap();
            let sent = BootTime::from_nanos(sent);
            let deadline = times.holder(sent);
            prop_assert!(sent <= deadline.soft && deadline.soft <= deadline.kill && deadline.kill <= deadline.fuse);
            prop_assert!(deadline.fuse < sent + times.lease());
            prop_assert!(sent + times.heartbeat() * 2 <= deadline.soft);
            prop_assert!(times.heartbeat() < times.patience() && sent + times.patience() < deadline.fuse);
        }
    }

    #[test]
    fn constants_that_do_not_fit_are_refused() {
        let with = |change: fn(&mut LeaseConfig)| {
            let mut config = LeaseConfig::default();
            change(&mut config);
            LeaseTimes::new(config).unwrap_err()
        };
        assert_eq!(with(|c| c.margin = Duration::ZERO), LeaseConfigError::Zero("margin"));
        assert_eq!(with(|c| c.heartbeat = Duration::ZERO), LeaseConfigError::Zero("heartbeat"));
        assert!(matches!(with(|c| c.heartbeat = Duration::from_secs(3)), LeaseConfigError::HeartbeatTooSlow { .. }));
        assert!(matches!(with(|c| c.grace = Duration::from_secs(9)), LeaseConfigError::HeartbeatTooSlow { .. }));
        assert_eq!(with(|c| c.drift_ppm = 100_001), LeaseConfigError::Drift(100_001));
    }

    #[test]
    fn a_late_renewal_never_shortens_a_lease() {
        let times = LeaseTimes::default();
        let (early, late) = (times.holder(BootTime::from_nanos(1)), times.holder(BootTime::from_nanos(2)));
        assert_eq!(late.extended_by(early), late);
        assert_eq!(early.extended_by(late), late);
    }
}
