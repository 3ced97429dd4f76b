//! Runtime images, mounted once each and shared by all sandboxes, so that their pages are in memory once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::FileName;
use tracing::{info, warn};

use super::files::CachedFile;
use crate::single_flight::SingleFlight;

/// A mounted image. It stays mounted as long as this is held, and until its file is evicted.
#[derive(Debug, Clone)]
pub(crate) struct MountedImage {
    path: PathBuf,
    _file: CachedFile,
}

impl MountedImage {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The mounted images.
pub(crate) struct Images {
    directory: PathBuf,
    mounts: SingleFlight<FileName, Result<PathBuf, String>>,
}

impl Images {
    /// Images below this directory. Mounts are this process's own: they vanish with it, while sandboxes keep theirs.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, mounts: SingleFlight::default() })
    }

    /// The image in this file, mounted. The error is for the program's owner.
    pub(crate) async fn mount(&self, hash: FileName, file: CachedFile) -> Result<MountedImage, String> {
        let (path, image) = (self.directory.join(hash.to_string()), file.clone());
        let mount = || async move {
            tokio::task::spawn_blocking(move || mount(image.path(), &path).map(|()| path))
                .await
                .expect("it does not panic")
                .map_err(|e| e.to_string())
        };
        let path = self.mounts.run(hash, mount).await?;
        Ok(MountedImage { path, _file: file })
    }

    /// Unmounts all. Sandboxes that use one keep it until they end.
    pub(crate) fn unmount_all(&self) {
        let mounted = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in mounted {
            unmount(&entry.path());
        }
    }
}

/// Unmounts an image, if it is mounted there. Sandboxes that use it keep it until they end.
pub(crate) fn unmount(at: &Path) {
    if let Ok(true) = is_mounted(at)
        && let Err(error) = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)
    {
        warn!(image = %at.display(), %error, "cannot unmount");
    }
    let _ = fs::remove_dir(at);
}

fn mount(image: &Path, at: &Path) -> io::Result<()> {
    let mut magic = [0; 4];
    io::Read::read_exact(&mut fs::File::open(image)?, &mut magic).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, "the runtime is an empty file, not a squashfs image")
    })?;
    if &magic != b"hsqs" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the runtime is not a squashfs image"));
    }
    fs::create_dir_all(at)?;
    if is_mounted(at)? {
        return Ok(());
    }
    let output =
        Command::new("mount").args(["-t", "squashfs", "-o", "ro,loop,nosuid,nodev"]).arg(image).arg(at).output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the runtime cannot be mounted: {message}")));
    }
    info!(image = %at.display(), "mounted a runtime image");
    Ok(())
}

/// Whether something is mounted at a directory: it is on another device than its parent.
fn is_mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().expect("it is below the images' directory");
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}
