//! What the node's operator asks the running node: HTTP by a Unix socket in the data directory, with small JSON answers.
//!
//! ```text
//!  aleph-node volumes … ─ client ─▶ <data directory>/admin/socket ─▶ routes ─▶ ProgramData
//! ```
//! It is for the operator alone: what programs wrote can be taken out by it. So it is no part of the node's API, which
//! everybody reaches, and there is no key to lose. Only the node itself sees what is in the pool: it is mounted in the node's
//! own mount namespace.

mod answers;
mod client;
mod routes;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub use answers::{ProgramList, ProgramVolumes, RecoveryPoint, RoleName, Snapshot, Volume, VolumeSet};
pub use client::{AdminClient, AdminError, Export, Wanted};

use crate::programs::data::ProgramData;

/// The folder of the socket, in the data directory.
const FOLDER: &str = "admin";

/// The socket's name in it.
const SOCKET: &str = "socket";

/// The header of an archive that says which copy it is of.
const EXPORTED: &str = "aleph-exported";

/// The socket of a running node.
pub(crate) struct Admin(UnixListener);

impl Admin {
    /// Takes the place of the node's process before this one. The caller has locked the data directory.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(data_dir: &Path) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        // A socket gets its permissions only after it has its name, and other systems do not look at them at all. That only
        // root can enter the folder holds from the first moment.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let folder = open_folder(&folder)?;
        let socket = short(&folder).join(SOCKET);
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }

    /// Answers until `shutdown`. `data` is absent on a node that keeps no volumes.
    pub(crate) async fn serve(self, data: Option<Arc<ProgramData>>, shutdown: CancellationToken) {
        let serve = axum::serve(self.0, routes::router(data)).into_future();
        if let Some(Err(error)) = shutdown.run_until_cancelled(serve).await {
            error!(%error, "the operator's socket does not answer any more: restart the node");
        }
    }
}

fn open_folder(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(folder)
}

/// A name of an open folder that is short: the address of a socket has at most 107 bytes, and a data directory may be deep.
fn short(folder: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn only_root_can_reach_the_socket() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        // Whatever was there.
        fs::create_dir(root.path().join(FOLDER)).unwrap();
        let admin = Admin::listen(root.path()).unwrap();
        let folder = root.path().join(FOLDER);
        assert_eq!((mode(&folder), mode(&folder.join(SOCKET))), (0o700, 0o600));
        assert!(fs::metadata(folder.join(SOCKET)).unwrap().file_type().is_socket());
        let data_dir = root.path().to_owned();
        let as_nobody = std::thread::spawn(move || {
            // SAFETY: the bare system call changes the ids of this thread only, which ends here.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) }, 0);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(AdminClient::connect(&data_dir)).unwrap_err()
        });
        let error = as_nobody.join().unwrap();
        assert!(matches!(error, AdminError::NotRoot(_)), "{error}");
        assert!(error.to_string().contains("run this as root"), "{error}");
        drop(admin);
    }

    #[tokio::test]
    async fn a_deep_directory_works_and_the_next_process_takes_over() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("x".repeat(120));
        let nowhere = AdminClient::connect(&deep).await.unwrap_err();
        assert!(nowhere.to_string().contains("--data-dir"), "{nowhere}");
        fs::create_dir(&deep).unwrap();
        let first = Admin::listen(&deep).unwrap();
        drop(first);
        let ended = AdminClient::connect(&deep).await.unwrap_err();
        assert!(matches!(ended, AdminError::NotRunning(_)), "{ended}");
        let (second, shutdown) = (Admin::listen(&deep).unwrap(), CancellationToken::new());
        let serving = tokio::spawn(second.serve(None, shutdown.clone()));
        let mut client = AdminClient::connect(&deep).await.unwrap();
        let error = client.list(None).await.unwrap_err();
        assert!(error.to_string().contains("--pool-mib"), "a node without a pool says so: {error}");
        shutdown.cancel();
        serving.await.unwrap();
    }
}
