//! A pool in a file: made, attached to a loop device, mounted, grown.
//!
//! The mount is the kernel's, not this process's: it outlives the agent, and the sandboxes go on. A new agent finds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::config::FileConfig;
use super::mounts;
use crate::btrfs;
use crate::core::growth::{Bounds, Growth, Levels, grow};
use crate::error::Error;

/// Where the superblock of btrfs has its name, and the name.
const MAGIC: (u64, &[u8; 8]) = (0x10040, b"_BHRfS_M");

/// Programs run here, which need no devices and may not bring programs with privileges. Without `noatime`, reading a
/// file would count as a change of its volume.
const MOUNT_OPTIONS: &str = "noatime,nodev,nosuid";

/// Makes the file if it is not there, and mounts it if it is not mounted.
pub(crate) async fn mount(config: &FileConfig) -> Result<(), Error> {
    make(config).await?;
    let file = fs::canonicalize(&config.file).map_err(Error::at("find", &config.file))?;
    fs::create_dir_all(&config.mount).map_err(Error::at("make the folder", &config.mount))?;
    let mounted = mounts::at(&config.mount).map_err(Error::at("look at the mount", &config.mount))?;
    let attached = mounts::loop_device_of(&file).map_err(|e| Error::io("look for loop devices", e))?;
    if let Some(mounted) = mounted {
        if attached.is_some_and(|device| device == mounted.device) {
            return Ok(());
        }
        return Err(Error::FolderInUse(config.mount.clone()));
    }
    if fs::read_dir(&config.mount).map_err(Error::at("read", &config.mount))?.next().is_some() {
        return Err(Error::FolderInUse(config.mount.clone()));
    }
    // It may be attached already: it is mounted in another mount namespace, or something was interrupted right here.
    let device = match attached {
        Some(device) => device,
        None => attach(&file).await?,
    };
    let words = ["-t", "btrfs", "-o", MOUNT_OPTIONS].map(AsRef::as_ref);
    let mounted = btrfs::run("mount", &[&words[..], &[device.as_os_str(), config.mount.as_os_str()]].concat()).await;
    // A device in use is detached when it is unmounted, one that could not be mounted is so at once.
    detach(&device).await;
    mounted?;
    info!(file = %file.display(), mount = %config.mount.display(), "mounted the pool");
    Ok(())
}

/// Makes the file with a file system in it. What is there and no btrfs is left alone.
async fn make(config: &FileConfig) -> Result<(), Error> {
    match File::open(&config.file) {
        Ok(file) => return if is_btrfs(file) { Ok(()) } else { Err(Error::NotAPool(config.file.clone())) },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::at("open", &config.file)(e)),
    }
    let mut unfinished = config.file.clone().into_os_string();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let size = config.initial_mib.clamp(FileConfig::MIN_MIB, config.limit_mib.max(FileConfig::MIN_MIB)) << 20;
    let make = || File::create(&unfinished).and_then(|file| file.set_len(size));
    make().map_err(Error::at("make the file", &unfinished))?;
    btrfs::run("mkfs.btrfs", &["-q".as_ref(), "-f".as_ref(), unfinished.as_os_str()]).await?;
    // Under its name it is complete.
    let keep = || -> io::Result<()> {
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &config.file)
    };
    keep().map_err(Error::at("make the file", &config.file))?;
    info!(file = %config.file.display(), mib = size >> 20, "made a file for the pool");
    Ok(())
}

fn is_btrfs(mut file: File) -> bool {
    let mut magic = [0; 8];
    file.seek(SeekFrom::Start(MAGIC.0)).and_then(|_| file.read_exact(&mut magic)).is_ok() && magic == *MAGIC.1
}

async fn attach(file: &Path) -> Result<PathBuf, Error> {
    let attach = |words: &'static [&'static str]| {
        let arguments: Vec<_> = words.iter().map(AsRef::as_ref).chain([file.as_os_str()]).collect();
        async move { btrfs::run("losetup", &arguments).await }
    };
    // Direct, so that pages are not in memory twice; file systems that cannot do it get the other way.
    let device = match attach(&["--find", "--show", "--direct-io=on"]).await {
        Ok(device) => device,
        Err(_) => attach(&["--find", "--show"]).await?,
    };
    Ok(device.trim().into())
}

async fn detach(device: &Path) {
    if let Err(error) = btrfs::run("losetup", &["-d".as_ref(), device.as_os_str()]).await {
        warn!(device = %device.display(), %error, "cannot detach the loop device");
    }
}

/// Unmounts, unless somebody uses it.
pub(crate) fn unmount(mount: &Path) -> Result<(), Error> {
    rustix::mount::unmount(mount, rustix::mount::UnmountFlags::empty())
        .map_err(|e| Error::at("unmount", mount)(e.into()))
}

/// Lets the file grow if it should, and the file system in it have all of the file, also after a growth that was
/// interrupted.
pub(crate) async fn grow_if_needed(config: &FileConfig) -> Result<Growth, Error> {
    let levels = levels(config).map_err(Error::at("look at", &config.file))?;
    let decision = grow(levels, Bounds { limit: config.limit_mib << 20, headroom: config.headroom_mib << 20 });
    if let Growth::To(size) = decision {
        let file = OpenOptions::new().write(true).open(&config.file).map_err(Error::at("open", &config.file))?;
        file.set_len(size).and_then(|()| file.sync_all()).map_err(Error::at("grow", &config.file))?;
        use_whole_file(config).await?;
        info!(file = %config.file.display(), mib = size >> 20, "the pool has grown");
    }
    Ok(decision)
}

/// Lets the loop device and the file system have the size of the file.
pub(crate) async fn use_whole_file(config: &FileConfig) -> Result<(), Error> {
    let mounted = mounts::at(&config.mount).map_err(Error::at("look at the mount", &config.mount))?;
    let device = mounted.ok_or_else(|| Error::FolderInUse(config.mount.clone()))?.device;
    btrfs::run("losetup", &["-c".as_ref(), device.as_os_str()]).await?;
    btrfs::grow_to_device(&config.mount).await
}

/// How full things are.
pub(crate) fn levels(config: &FileConfig) -> io::Result<Levels> {
    let inside = rustix::fs::statvfs(&config.mount)?;
    let file = fs::metadata(&config.file)?;
    let disk = rustix::fs::statvfs(&config.file)?;
    Ok(Levels {
        size: file.len(),
        free: inside.f_bavail * inside.f_frsize,
        // In units of 512 bytes, whatever the file system.
        on_disk: file.blocks() * 512,
        disk_free: disk.f_bavail * disk.f_frsize,
    })
}
