//! Finding the sandboxes that an agent before this one left running.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sandbox::cgroup::Hierarchy;
use sandbox::client::{Supervisor, read_specs};
use sandbox::layout::SandboxDirectory;
use sandbox::spec::{ClaimSpec, ContainerSpec, DriverSpec, IdleSpec, PrepareSpec, SandboxState};
use tracing::{info, warn};

use super::{Held, Owner, Sandbox, Sandboxes};
use crate::core::on_demand::CopyId;
use crate::core::persistent::{Assignment, Needs};
use crate::programs::endpoint::Endpoint;
use crate::programs::making::clear;

/// A sandbox that was found alive.
pub(crate) struct Adopted {
    pub(crate) owner: Owner,
    pub(crate) needs: Needs,
    /// How long its program's message lets it stay when nobody uses it.
    pub(crate) idle: IdleSpec,
    /// How many copies its program may have, if its message says so.
    pub(crate) copies: Option<u16>,
    /// Where it answers, if it does.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

impl Sandboxes {
    /// Finds the sandboxes of an agent before this one. Those that live are accompanied from now on, the rest is cleared
    /// away before this returns.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub(crate) async fn adopt(self: &Arc<Self>) -> io::Result<Vec<Adopted>> {
        let mut adopted = Vec::new();
        for entry in fs::read_dir(&self.config.run_dir)? {
            let directory = SandboxDirectory::new(entry?.path());
            match self.find(&directory).await {
                Some((sandbox, claim, ready)) => {
                    let endpoint = ready.then(|| sandbox.endpoint());
                    let frozen = endpoint.as_ref().is_some_and(|endpoint| endpoint.is_frozen());
                    let (program, epoch) = (claim.program, claim.epoch);
                    info!(%program, ?epoch, ready, frozen, "found a sandbox");
                    let needs = Needs { vcpus: claim.limits.vcpus, memory_mib: claim.limits.memory_mib };
                    adopted.push(Adopted {
                        owner: sandbox.owner,
                        needs,
                        idle: claim.idle,
                        copies: claim.copies,
                        endpoint,
                    });
                    let (sandboxes, (entry, requests)) = (self.clone(), self.running.add(sandbox.owner));
                    tokio::spawn(async move {
                        let end = sandboxes.accompany(sandbox, requests).await;
                        sandboxes.gone(&entry, end.as_ref()).await;
                    });
                }
                None => drop(clear(&directory).await),
            }
        }
        Ok(adopted)
    }

    /// The sandbox in a directory, if it lives and is a program's.
    async fn find(&self, directory: &SandboxDirectory) -> Option<(Sandbox, ClaimSpec, bool)> {
        let (Some(PrepareSpec { driver: DriverSpec::Container(container), .. }), Some(claim)) =
            read_specs(directory).ok()?
        else {
            return None;
        };
        let mut supervisor = Supervisor::connect(directory).await.ok()?;
        let report = supervisor.next_report().await.ok()??;
        let ready = match report.state {
            SandboxState::Ready => true,
            // A copy on demand that was just starting has nobody waiting for it any more.
            SandboxState::Starting if claim.epoch.is_some() => false,
            _ => return None,
        };
        let owner = match claim.epoch {
            Some(epoch) => Owner::Persistent(Assignment { program: claim.program, epoch }),
            None => Owner::OnDemand(CopyId { program: claim.program, number: claim.copy }),
        };
        // Only now: what its supervisor does not look after any more must not go on.
        let is_frozen = stands_still(owner, &claim, &container)
            .inspect_err(|error| warn!(program = %claim.program, %error, "cannot see whether a program is frozen"))
            .unwrap_or(false);
        let sandbox = Sandbox {
            owner,
            directory: directory.clone(),
            supervisor,
            is_prepared: false,
            deadline: claim.deadline,
            request_limit: Duration::from_millis(claim.request_limit_ms),
            started: None,
            claim: None,
            held: Some(Held::Code(self.code.hold(&claim.code))),
            standstill: self.standstill(owner, &container.cgroup, is_frozen),
            _slot: self.maker.slots.take_by_uid(container.first_uid),
            _freezable: self.freezable(owner, container.cgroup),
        };
        Some((sandbox, claim, ready))
    }
}

/// Whether a sandbox that was found stands still. A copy on demand may: nobody used it. A persistent program that does was
/// held for a snapshot that nobody will take any more, so it goes on.
fn stands_still(owner: Owner, claim: &ClaimSpec, container: &ContainerSpec) -> io::Result<bool> {
    let group = Hierarchy::detect()?.group(&container.cgroup);
    let is_frozen = matches!(owner, Owner::OnDemand(_)) && group.is_frozen()?;
    if is_frozen {
        // Memory may have been taken back just when the agent died, and its limit still be in the way.
        if let Err(error) = group.set_limits(&container.group_limits(&claim.limits)) {
            warn!(program = %claim.program, %error, "cannot set the limits of a frozen program");
        }
    } else {
        // Or it was only being frozen.
        group.thaw()?;
    }
    Ok(is_frozen)
}
