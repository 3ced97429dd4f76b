//! The files of a sandbox, all in one directory of a tmpfs: they mean nothing after a reboot.

use std::path::{Path, PathBuf};

/// The directory of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxDirectory(PathBuf);

impl SandboxDirectory {
    /// The sandbox in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the agent asked for ([`crate::spec::PrepareSpec`]), written before the supervisor starts.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// What the agent claimed it for ([`crate::spec::ClaimSpec`]), so that an agent that adopts it knows.
    pub fn claim(&self) -> PathBuf {
        self.0.join("claim.json")
    }

    /// Locked (`flock`) by the supervisor as long as it lives; holds its process id.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Where the agent talks to the supervisor.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// Where requests for the program enter.
    pub fn http_socket(&self) -> PathBuf {
        self.0.join("http.sock")
    }

    /// The directory that the sandbox sees as [`guest::API_DIRECTORY`].
    pub fn api(&self) -> PathBuf {
        self.0.join("api")
    }

    /// Where the program asks the agent.
    pub fn api_socket(&self) -> PathBuf {
        self.api().join(guest::API_SOCKET)
    }

    /// The directory in which an init makes [`SandboxDirectory::http_socket`] itself, where it cannot be passed.
    pub fn listen(&self) -> PathBuf {
        self.0.join("listen")
    }

    /// The directory in which code and volumes appear at the claim, where the init mounts them itself.
    pub fn arrivals(&self) -> PathBuf {
        self.0.join("arrivals")
    }

    /// How the sandbox ended ([`crate::spec::End`]), once it has.
    pub fn end(&self) -> PathBuf {
        self.0.join("end.json")
    }

    /// What the supervisor and the OCI runtime complain about.
    pub fn supervisor_log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// The OCI runtime's bundle.
    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    /// The OCI runtime's own state.
    pub fn runtime_state(&self) -> PathBuf {
        self.0.join("state")
    }
}
