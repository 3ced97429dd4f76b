//! What is left outside of the namespaces when a network is gone, and has to be removed, however it ended.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aleph_tests::{repository, signal};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::world::compute_node;

/// See the module. It removes when it is dropped, which must be after the network's mount namespace is gone.
pub(crate) struct Remains {
    root: TempDir,
    nodes: usize,
}

impl Remains {
    /// Of a network in a new folder.
    ///
    /// # Errors
    /// When none can be made.
    pub(crate) fn new(nodes: usize) -> std::io::Result<Self> {
        let root = TempDir::with_prefix("aleph-chaos-")?;
        // PostgreSQL does not run as root.
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755))?;
        Ok(Self { root, nodes })
    }

    /// The network's folder.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Copies the logs of all parts to where they outlive this. Says where.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub(crate) fn keep_logs(&self, seed: u64) -> anyhow::Result<PathBuf> {
        let folder = repository("target").join(format!("chaos/{seed}-logs"));
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(self.root().join("logs"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
        Ok(folder)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        let hierarchy = sandbox::cgroup::Hierarchy::detect();
        for number in 0..self.nodes {
            let node = compute_node(self.root(), number);
            // Whatever still runs is ours: the folder is new.
            node.all_supervisors().into_iter().for_each(|pid| signal(pid, Signal::KILL));
            let run_dir = node.run_dir();
            let names: Vec<_> = std::fs::read_dir(&run_dir).into_iter().flatten().flatten().collect();
            if let (Ok(hierarchy), Some(node)) = (&hierarchy, run_dir.file_name()) {
                let node = node.to_string_lossy();
                for name in &names {
                    let group = hierarchy.group(&format!("aleph-node/{node}/{}", name.file_name().to_string_lossy()));
                    let _ = group.kill_all(Duration::from_secs(5));
                    let _ = group.remove();
                }
                let _ = hierarchy.group(&format!("aleph-node/{node}")).remove();
            }
            let _ = std::fs::remove_dir_all(run_dir);
        }
    }
}
