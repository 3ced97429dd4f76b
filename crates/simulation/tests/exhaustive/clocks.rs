//! The clocks of the model, and the rules of leases by them. The rules are the product's: `lease::LeaseTimes` says when a
//! lease ends, `scheduler::core::leadership::Watch` when a leader is gone.
//!
//! ```text
//!   true time      0        1        2        3        4
//!   fair clock     0        1        2        3        4     scheduler 1
//!   slow clock     0       0.91     1.82     2.73     3.64   all nodes, and scheduler 0: slower by all of the drift
//! ```
//! That is the worst of both leases: a holder of programs that counts slowly under an issuer that does not, once scheduler 1
//! leads; and a leader that counts slowly, scheduler 0, under a follower that does not.

use std::time::Duration;

use lease::{BootTime, HolderDeadline, LeaseConfig, LeaseTimes};
use scheduler::core::leadership::{LeaderEpoch, LeaderRow, Verdict, Watch, leadership_times};

use crate::state::{Row, Tick};
use crate::trap::Trap;

const DRIFT_PPM: u32 = 100_000;
/// A tick of the true time, which is 1000 ms to a slow clock.
const TICK: Duration = Duration::from_millis(1100);

/// When leases end.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    times: LeaseTimes,
    leadership: LeaseTimes,
    trap: Option<Trap>,
}

impl Clocks {
    /// The tightest constants that can be built: two heartbeats and a little, the largest drift, the least margins. They end
    /// leases within few ticks; that leases of other lengths end in the right order is for the crate `lease` to show.
    pub(crate) fn new(trap: Option<Trap>) -> Self {
        let config = LeaseConfig {
            heartbeat: Duration::from_millis(1000),
            lease: Duration::from_millis(2100),
            grace: Duration::ZERO,
            kill_allowance: Duration::from_millis(100),
            drift_ppm: DRIFT_PPM,
            margin: Duration::from_millis(1),
        };
        let times = LeaseTimes::new(config).expect("the constants fit together");
        let leadership = leadership_times(config).expect("and those of leaders into them");
        Self { times, leadership, trap }
    }

    /// The deadlines of a holder whose heartbeat was sent then.
    fn holder(&self, sent: Tick) -> HolderDeadline {
        self.times.holder(slow(sent))
    }

    /// Whether the kernel has killed what runs under this lease.
    pub(crate) fn fuse_is_burnt(&self, sent: Tick, now: Tick) -> bool {
        slow(now) >= self.holder(sent).fuse
    }

    /// Whether something may be started under this lease.
    pub(crate) fn may_start(&self, sent: Tick, now: Tick) -> bool {
        slow(now) < self.holder(sent).soft
    }

    /// Of two leases the one that a holder goes by.
    pub(crate) fn extended(&self, held: Tick, renewal: Tick) -> Tick {
        let longer = self.holder(held).extended_by(self.holder(renewal));
        if longer == self.holder(renewal) { renewal } else { held }
    }

    /// Whether a lease that this scheduler renewed then is over by its clock.
    pub(crate) fn issuer_is_over(&self, scheduler: usize, answered: Tick, now: Tick) -> bool {
        let (answered, now) = (of_scheduler(scheduler, answered), of_scheduler(scheduler, now));
        if self.trap == Some(Trap::NoMargin) {
            return now >= answered + self.times.lease();
        }
        self.times.issuer(answered).is_over(now)
    }

    /// Whether a scheduler whose last beat was sent then may grant.
    pub(crate) fn may_grant(&self, scheduler: usize, beaten: Tick, now: Tick) -> bool {
        let until = self.leadership.holder(of_scheduler(scheduler, beaten)).kill;
        self.trap == Some(Trap::LeadsUntilTold) || of_scheduler(scheduler, now) < until
    }

    /// What a look at the row means to a scheduler that has seen this before.
    pub(crate) fn looked(&self, scheduler: usize, seen: Option<(Row, Tick)>, now: Tick, row: Option<Row>) -> bool {
        let mut watch = Watch::new(self.leadership);
        if let Some((row, at)) = seen {
            watch.looked(of_scheduler(scheduler, at), Some(real(row)));
        }
        matches!(watch.looked(of_scheduler(scheduler, now), row.map(real)), Verdict::Free(_))
    }
}

fn real(row: Row) -> LeaderRow {
    LeaderRow {
        epoch: LeaderEpoch::new(row.epoch),
        beat: row.beat.into(),
        url: String::new(),
        has_resigned: row.has_resigned,
    }
}

fn fair(tick: Tick) -> BootTime {
    BootTime::BOOT + TICK * tick.into()
}

fn slow(tick: Tick) -> BootTime {
    BootTime::BOOT + TICK * tick.into() * 1_000_000 / (1_000_000 + DRIFT_PPM)
}

fn of_scheduler(scheduler: usize, tick: Tick) -> BootTime {
    if scheduler == 0 { slow(tick) } else { fair(tick) }
}
