//! Planted mistakes. Each is one that systems of this kind have made, put into a shell or a model of this world: the cores stay
//! as they are. A checker that does not notice them would notice nothing.

use std::fmt;
use std::str::FromStr;

macro_rules! traps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A planted mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Trap { $($(#[$doc])* $name,)* }

        impl Trap {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

traps! {
    /// The holder kills at the soft deadline. It only ends too early, so nothing runs twice; what breaks is the promise that a
    /// program has its grace, and the order of the deadlines.
    SoftConstantAsHard = "soft-constant-as-hard",
    /// The holder takes the constant that is meant for the issuer.
    IssuerConstantAtHolder = "issuer-constant-at-holder",
    /// Leases of holders are measured with the clock on the wall.
    WallClockLease = "wall-clock-lease",
    /// The holder counts from when the answer arrived instead of from when it asked.
    CountFromArrival = "count-from-arrival",
    /// Only the agent ends a program whose lease is over; supervisor and kernel do not.
    DeadlineInAgentOnly = "deadline-in-agent-only",
    /// The store takes epochs from a clock instead of counting them.
    EpochFromClock = "epoch-from-clock",
    /// What a node says about an older epoch is taken for the newer one.
    LateReportWins = "late-report-wins",
    /// A scheduler that starts takes leases of the one before it for ended.
    NoWaitAfterRestart = "no-wait-after-restart",
    /// A leader grants for as long as nobody tells it that another leads.
    LeadsUntilTold = "leads-until-told",
    /// An empty answer of the message node is understood as "stop everything".
    EmptyMeansStop = "empty-means-stop",
    /// The order to release is taken for the release.
    ReleaseBeforeGone = "release-before-gone",
    /// A scheduler starts on an older copy of its database before leases of the newer one have ended. No code guards against
    /// this: the copy looks complete. It is a mistake of operators, and shows what waiting is for.
    HastyRestore = "hasty-restore",
    /// A gateway believes whatever it heard last.
    RouteIgnoresEpoch = "route-ignores-epoch",
    /// A standby takes in what anybody sends, of whatever epoch.
    StandbyIgnoresEpochs = "standby-ignores-epochs",
    /// What came of a snapshot counts as a snapshot when the connection breaks.
    TornCopyCounts = "torn-copy-counts",
    /// A standby says that it has what was cut off, and puts the difference from there on top of whatever it has.
    AnyParent = "any-parent",
    /// A standby counts a snapshot's age from when it came.
    AgeFromArrival = "age-from-arrival",
    /// Programs that should wait for their data are taken for such as begin with nothing.
    FreshForWait = "fresh-for-wait",
    /// A node that restores takes the newest set, whatever it was told.
    RestoresTheNewest = "restores-the-newest",
    /// A node that restores the newest set takes it also when it is of writes that the program has lost.
    LostWritesComeBack = "lost-writes-come-back",
    /// Retention does not look what a set builds on.
    CompactionForgetsChains = "compaction-forgets-chains",
    /// A set in the archive counts before all of it has arrived.
    OpenSetCounts = "open-set-counts",
    /// The archive gives out what is stored, whatever that is.
    DamageIsServed = "damage-is-served",
    /// The archive takes in what anybody sends, of whatever epoch.
    ArchiveIgnoresEpochs = "archive-ignores-epochs",
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Trap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|trap| trap.name() == text).copied();
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|trap| trap.name()).collect();
            format!("there is no trap '{text}'; there are {}", names.join(", "))
        })
    }
}
