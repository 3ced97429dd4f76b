//! Squashfs images, made by `mksquashfs` from a copy with fixed modes, owners and times.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::bad_path;
use super::walk::{Entry, Kind, Tree};
use crate::failure::Failure;

/// The program that makes the images.
const MKSQUASHFS: &str = "mksquashfs";

/// Whether `mksquashfs` can be run.
pub(super) fn is_installed() -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|folder| {
        fs::metadata(folder.join(MKSQUASHFS)).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Writes the tree as an image to a file that exists.
///
/// # Errors
/// [`Failure`] when a file cannot be read, or `mksquashfs` is missing or fails.
pub(super) fn write(tree: &Tree, image: &Path) -> Result<(), Failure> {
    let failure = |e: io::Error| bad_path(format!("cannot pack the code: {e}"));
    let staging = tempfile::Builder::new().prefix("aleph-pack-").tempdir().map_err(failure)?;
    let root = staging.path().join("code");
    fs::create_dir(&root).map_err(failure)?;
    set_mode(&root, 0o755).map_err(failure)?;
    for entry in &tree.entries {
        copy(entry, &root).map_err(|e| bad_path(format!("cannot pack {}: {e}", entry.source.display())))?;
    }
    let output = Command::new(MKSQUASHFS)
        .args([root.as_path(), image])
        .args(["-noappend", "-all-root", "-all-time", "0", "-mkfs-time", "0", "-no-xattrs"])
        .args(["-comp", "gzip", "-no-progress"])
        // It would contradict the times above.
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why").to_owned();
            Err(bad_path(format!("{MKSQUASHFS} failed: {why}")).hint("pack with `--encoding zip` instead"))
        }
        Err(e) => Err(bad_path(format!("cannot run {MKSQUASHFS}: {e}"))
            .hint("install squashfs-tools, or pack with `--encoding zip`")),
    }
}

fn copy(entry: &Entry, root: &Path) -> io::Result<()> {
    let target = root.join(&entry.path);
    match &entry.kind {
        Kind::Folder => {
            fs::create_dir(&target)?;
            set_mode(&target, 0o755)
        }
        Kind::File { executable, .. } => {
            fs::copy(&entry.source, &target)?;
            set_mode(&target, if *executable { 0o755 } else { 0o644 })
        }
        Kind::Link { target: to } => symlink(to, target),
    }
}

/// Sets the mode whatever the umask is.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}
