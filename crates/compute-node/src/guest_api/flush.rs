//! What the guest API needs of those who keep copies of a program's data.

use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};

/// Makes sure that what a program has written is also elsewhere.
pub(crate) trait Flush: Send + Sync + 'static {
    /// Waits until everything that the program had written to its persistent volumes before the call is on its standby.
    /// Says which snapshot has it; `None` when nothing was ever written. May be given up at any time.
    fn flush(
        &self,
        program: ProgramId,
        epoch: Epoch,
    ) -> impl Future<Output = Result<Option<SnapshotId>, FlushError>> + Send;
}

/// Why it is not certain that what was written is elsewhere, too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlushError {
    /// There is nothing that could be copied.
    #[error("the program has no persistent volumes")]
    NoVolumes,
    /// Nobody keeps copies now.
    #[error("nobody keeps a copy of the volumes: {0}")]
    NoStandby(String),
    /// Copies are made no more: the program moves or ends.
    #[error("the volumes are not copied any more: {0}")]
    Stopped(String),
}
