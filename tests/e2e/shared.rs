//! The network that tests share which do not hurt it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use aleph_tests::{Aleph, Network, UpOptions, is_running, signal};
use rustix::process::Signal;
use tokio::sync::OnceCell;

static NETWORK: OnceCell<Network> = OnceCell::const_new();
static PROCESS: AtomicI32 = AtomicI32::new(0);
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// The shared network: three nodes, copies on demand go after four idle seconds, programs have ten seconds to become ready.
pub(crate) async fn network() -> &'static Network {
    NETWORK
        .get_or_init(|| async {
            let arguments = ["--idle-after", "4s", "--ready-within", "10s", "--balance", "1000000"];
            let network = Network::up(UpOptions::new(3, &arguments)).await;
            PROCESS.store(network.pid(), Ordering::SeqCst);
            ROOT.get_or_init(|| network.root().to_owned());
            // Statics are not dropped; the network ends with this process all the same.
            // SAFETY: registers a function without arguments, which uses no thread-local data.
            unsafe { libc::atexit(end) };
            network
        })
        .await
}

/// The client of the shared network's account.
pub(crate) async fn aleph() -> Aleph {
    Aleph::of(network().await)
}

extern "C" fn end() {
    let pid = PROCESS.load(Ordering::SeqCst);
    signal(pid, Signal::INT);
    for _ in 0..600 {
        if !is_running(pid) {
            if let Some(root) = ROOT.get() {
                let _ = std::fs::remove_dir_all(root);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
