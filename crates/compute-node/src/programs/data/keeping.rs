//! How long the data of programs is kept that are over.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use protocol::{Epoch, ProgramId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ProgramData, locked};
use crate::programs::catalog::{Catalog, Lookup};

/// How often the message node is asked whether programs are over.
const ASK: Duration = Duration::from_secs(60);

impl ProgramData {
    /// Forgets the data of programs whose messages are over, after the retention time, until `shutdown`. Only a clear
    /// answer of the message node counts: one that does not know a program, or does not answer, removes nothing.
    pub(crate) async fn forget_what_is_over(self: Arc<Self>, catalog: Arc<Catalog>, shutdown: CancellationToken) {
        let ask = async {
            loop {
                tokio::time::sleep(ASK).await;
                for program in self.pool.programs() {
                    if let Err(error) = self.ask_about(program, &catalog).await {
                        warn!(%program, %error, "cannot tell whether its volumes are still wanted");
                    }
                }
            }
        };
        let _: Option<std::convert::Infallible> = shutdown.run_until_cancelled(ask).await;
    }

    /// Another node has gone on with the program: what it wrote here is kept for a while, and what was copied here goes.
    pub(super) async fn retire(&self, program: ProgramId, epoch: Epoch) -> Result<(), volumes::Error> {
        let known = self.pool.program(program).await?;
        if known.live().is_some_and(|live| live.epoch < epoch) {
            let until = Utc::now() + self.config.retention;
            info!(%program, %epoch, %until, "another node has gone on with it: what it wrote here is removed then");
            self.pool.retire(program, epoch, until).await?;
        }
        for set in known.sets().filter(|set| set.id.epoch < epoch) {
            self.pool.delete_snapshot(program, set.id).await?;
        }
        Ok(())
    }

    async fn ask_about(&self, program: ProgramId, catalog: &Arc<Catalog>) -> Result<(), volumes::Error> {
        let (known, is_ordered) = (self.pool.program(program).await?, locked(&self.orders).contains_key(&program));
        // What the scheduler wants is not over; but it may have been, and its data cannot be opened before that is taken back.
        if is_ordered && known.forgotten().is_none() {
            return Ok(());
        }
        let has_data = known.live().is_some() || known.sets().next().is_some() || !known.recovery_points().is_empty();
        match (catalog.lookup(program).await, known.forgotten()) {
            (Ok(Lookup::Over(status)), None) if has_data && !is_ordered => {
                let until = Utc::now() + self.config.retention;
                info!(%program, status = status.as_str(), %until, "the program is over: its volumes are removed then");
                self.pool.forget(program, until).await
            }
            (Ok(Lookup::Found(_)), Some(_)) => {
                info!(%program, "the program is in force again: its volumes are kept");
                self.pool.undelete(program).await
            }
            _ => Ok(()),
        }
    }
}
