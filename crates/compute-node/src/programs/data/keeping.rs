//! How long the data of programs is kept that are over.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::Utc;
use protocol::{Epoch, ProgramId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use volumes::{Evidence, Heeded};

use super::{ProgramData, locked};
use crate::programs::catalog::{Catalog, Lookup};

impl ProgramData {
    /// Forgets the data of programs whose messages are over, after the retention time, until `shutdown`. Only a clear
    /// answer of the message node counts: one that does not know a program, or does not answer, removes nothing.
    pub(crate) async fn forget_what_is_over(self: Arc<Self>, catalog: Arc<Catalog>, shutdown: CancellationToken) {
        let ask = async {
            // Of which it was said that they are over and stay. Once each, as they are asked about for ever.
            let mut undeleted = HashSet::new();
            loop {
                tokio::time::sleep(self.config.over_interval).await;
                for program in self.pool.programs() {
                    match self.ask_about(program, &catalog).await {
                        Ok(Heeded::Undeleted) if undeleted.insert(program) => {
                            info!(%program, "the program is over, but its volumes are kept: the operator undeleted them");
                        }
                        Ok(Heeded::Forgotten | Heeded::InForceAgain) => drop(undeleted.remove(&program)),
                        Ok(_) => {}
                        Err(error) => warn!(%program, %error, "cannot tell whether its volumes are still wanted"),
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

    async fn ask_about(&self, program: ProgramId, catalog: &Arc<Catalog>) -> Result<Heeded, volumes::Error> {
        let (known, is_ordered) = (self.pool.program(program).await?, locked(&self.orders).contains_key(&program));
        // What the scheduler wants is not over; but it may have been, and its data cannot be opened before that is taken back.
        if is_ordered && known.forgotten().is_none() && !known.is_undeleted() {
            return Ok(Heeded::Nothing);
        }
        let until = Utc::now() + self.config.retention;
        let (evidence, status) = match catalog.lookup(program).await {
            Ok(Lookup::Over(status)) if !is_ordered => (Evidence::Over, status.as_str()),
            Ok(Lookup::Found(_)) => (Evidence::InForce, "in force"),
            _ => return Ok(Heeded::Nothing),
        };
        let heeded = self.pool.heed(program, evidence, until).await?;
        match heeded {
            Heeded::Forgotten => {
                info!(%program, status, %until, "the program is over: its volumes are removed then");
            }
            Heeded::InForceAgain => info!(%program, "the program is in force again: its volumes are kept"),
            Heeded::Undeleted | Heeded::Nothing => {}
        }
        Ok(heeded)
    }
}
