//! What tests on real processes share: a network made by `aleph-node up`, its client, and ways to hurt it.
//!
//! The tests need root and what `make test` builds first: the binaries in `target/debug`, the guest files and the runtime
//! images.

mod anvil;
mod balancer;
mod client;
mod memory;
mod namespace;
mod network;
mod postgres;
mod publisher;
mod python_client;
mod role;
mod s3;
mod slow_files;
mod user;
mod wait;

pub use anvil::Anvil;
pub use balancer::Balancer;
pub use client::{Aleph, Finished};
pub use memory::Memory;
pub use namespace::Namespace;
pub use network::{ComputeNode, Network, UpOptions, claim_of, free_ports, is_running, reqwest_client, signal};
pub use postgres::Postgres;
pub use publisher::Publisher;
pub use python_client::{PythonClient, Sdk};
pub use role::{Role, arguments_of};
pub use s3::S3;
pub use slow_files::SlowFiles;
pub use user::User;
pub use wait::{eventually, within};

use std::path::{Path, PathBuf};

/// A file or folder of the repository.
///
/// # Panics
/// When it is not there.
pub fn repository(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    path.canonicalize().unwrap_or_else(|_| panic!("{} is missing: run `make test`, which builds it", path.display()))
}

/// A binary of the project.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    match std::env::var_os("ALEPH_BIN_DIR") {
        Some(directory) => Path::new(&directory).join(name),
        None => repository(&format!("target/debug/{name}")),
    }
}

/// gVisor, where `make` puts it.
///
/// # Panics
/// When it is not there.
pub fn runsc() -> String {
    repository("target/tools/runsc/usr/bin/runsc").to_string_lossy().into_owned()
}

/// A folder with one file, for uploads. It is deleted when the result is dropped.
///
/// # Panics
/// When the disk refuses.
pub fn folder_with(file: &str, text: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(folder.path().join(file), text).expect("a file can be written");
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    std::fs::set_permissions(folder.path().join(file), std::fs::Permissions::from_mode(mode)).expect("it is ours");
    folder
}

/// Bytes that no packer makes shorter.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
