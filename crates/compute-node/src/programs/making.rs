//! How a sandbox comes to be, before it is a program's.

use std::sync::Arc;

use lease::HolderDeadline;
use protocol::Isolation;
use sandbox::client::{Supervisor, clear_away};
use sandbox::layout::SandboxDirectory;
use sandbox::spec::{ContainerSpec, DriverSpec, PrepareSpec};
use tracing::error;

use super::images::MountedImage;
use super::slots::{Slot, Slots};
use crate::config::Config;

/// How soon clearing away is tried again when something does not die.
const CLEAR_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Makes sandboxes.
#[derive(Debug)]
pub(crate) struct Maker {
    config: Config,
    /// The control group that those of all sandboxes are in.
    pub(crate) cgroup: String,
    pub(crate) slots: Arc<Slots>,
}

/// A sandbox that is being made. Its supervisor says when it is.
pub(crate) struct Made {
    pub(crate) directory: SandboxDirectory,
    pub(crate) cgroup: String,
    pub(crate) supervisor: Supervisor,
    pub(crate) slot: Slot,
    /// Whether it was said to be prepared.
    pub(crate) is_prepared: bool,
}

impl Maker {
    /// Makes sandboxes of the node with this name.
    pub(crate) fn new(config: Config, node: &str) -> Self {
        let made = &config.sandboxes;
        let slots = Slots::new(made.first_uid, made.network, made.slots);
        Self { cgroup: format!("aleph-node/{node}"), slots, config }
    }

    /// Begins to make one: `warm` if an interpreter is to wait in it. It ends at the deadline unless it is claimed or renewed.
    pub(crate) async fn make(
        &self,
        name: String,
        image: &MountedImage,
        isolation: Isolation,
        warm: bool,
        deadline: HolderDeadline,
    ) -> Result<Made, String> {
        let slot = self.slots.take().ok_or("all sandbox slots of this node are taken")?;
        let directory = SandboxDirectory::new(self.config.run_dir.join(&name));
        let cgroup = format!("{}/{name}", self.cgroup);
        let made = &self.config.sandboxes;
        let driver = DriverSpec::Container(ContainerSpec {
            isolation,
            oci_runtime: made.runtime_of(isolation).to_owned(),
            image: image.path().to_owned(),
            guest: made.guest.clone(),
            first_uid: slot.first_uid(),
            cgroup: cgroup.clone(),
        });
        let spec = PrepareSpec { name, driver, warm, deadline };
        let supervisor = Supervisor::start(&made.supervisor, &directory, &spec).await;
        let supervisor = supervisor.map_err(|e| format!("cannot start a supervisor: {e}"))?;
        Ok(Made { directory, cgroup, supervisor, slot, is_prepared: false })
    }
}

/// Clears a sandbox away, however long that takes: nobody hears that it is gone before it is.
pub(crate) async fn clear(directory: &SandboxDirectory) -> Option<sandbox::spec::End> {
    loop {
        let cleared = directory.clone();
        match tokio::task::spawn_blocking(move || clear_away(&cleared)).await.expect("it does not panic") {
            Ok(end) => return end,
            Err(error) => {
                error!(directory = %directory.path().display(), %error, "a sandbox does not die, trying again");
                tokio::time::sleep(CLEAR_AGAIN).await;
            }
        }
    }
}
