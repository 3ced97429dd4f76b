//! Ephemeral volumes: storage that is gone with its sandbox.
//!
//! Each is a file system of its own, of the volume's size, in a file without a name. What holds the file is a loop device,
//! what holds that is the mount, and what holds the mount are the sandbox and its supervisor. So the kernel gives the room
//! back when the last of them is gone, however it went: nothing is ever left that somebody would have to look for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::mounts;

/// What stays free on the disk for everything else, in MiB.
const KEEP_FREE_MIB: u64 = 1024;

/// How often another loop device is tried when somebody else was quicker.
const LOOP_ATTEMPTS: u32 = 200;

/// Between two tries.
const LOOP_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    /// Device, inode, rdevice, offset, size limit.
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    /// File name, name and key of an encryption.
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// The device lets go of its file when nobody uses it any more.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// An empty volume, its room taken on the disk of `directory`, as a writable mount at `mount_point`.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] when the disk has no room for it, or what the operating system says.
pub(super) fn mount(directory: &Path, size_mib: u64, mount_point: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let file = nameless_file(directory, size_mib)?;
    let (device, path) = attach(&file)?;
    make_file_system(&path)?;
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", &path)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    mounts::attach(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?.as_fd(), mount_point)?;
    // Held by the mount from here on.
    drop(device);
    // Nobody repairs what does not last.
    fs::remove_dir(mount_point.join("lost+found"))
}

/// A file that no directory has, with room for all of it: a program never fails because others filled the disk meanwhile.
fn nameless_file(directory: &Path, size_mib: u64) -> io::Result<OwnedFd> {
    let disk = rustix::fs::statvfs(directory)?;
    let free_mib = (disk.f_bavail * disk.f_frsize) >> 20;
    if free_mib < size_mib + KEEP_FREE_MIB {
        let message = format!(
            "{} has {free_mib} MiB free, and an ephemeral volume of {size_mib} MiB has to leave {KEEP_FREE_MIB} MiB: make \
             room",
            directory.display()
        );
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size_mib << 20) {
        // A file system that cannot take room in advance.
        Err(rustix::io::Errno::OPNOTSUPP) => rustix::fs::ftruncate(&file, size_mib << 20)?,
        result => result?,
    }
    Ok(file)
}

/// Whether somebody else was quicker with a loop device, or its name is not there yet.
fn is_contention(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT | libc::ENXIO | libc::EAGAIN))
}

/// A loop device with this file. It lets go of the file when it is closed and not mounted.
fn attach(file: &OwnedFd) -> io::Result<(File, PathBuf)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..LOOP_ATTEMPTS {
        // SAFETY: takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(device) => device,
            // Others take devices and give them back at the same time, and a new one's name comes a moment after it.
            Err(error) if is_contention(&error) => {
                std::thread::sleep(LOOP_AGAIN);
                continue;
            }
            Err(error) => return Err(error),
        };
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).expect("descriptors are not negative"),
            block_size: 0,
            info: LoopInfo {
                numbers: [0; 5],
                number: 0,
                encryption: [0; 2],
                flags: LO_FLAGS_AUTOCLEAR,
                names: [0; 160],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the structure is the one that the kernel defines, and lives during the call.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } == 0 {
            return Ok((device, path));
        }
        let error = io::Error::last_os_error();
        if !is_contention(&error) {
            return Err(error);
        }
        std::thread::sleep(LOOP_AGAIN);
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "others take each free loop device first: try again"))
}

/// Without a journal: after a crash nobody reads it.
fn make_file_system(device: &Path) -> io::Result<()> {
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1,root_owner=0:0"])
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot execute mkfs.ext4 (Debian package e2fsprogs): {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("mkfs.ext4 failed: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!((size_of::<LoopInfo>(), size_of::<LoopConfig>()), (232, 304));
    }

    #[test]
    fn a_volume_that_the_disk_has_no_room_for_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let error = mount(folder.path(), 1 << 40, folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("make room"), "{error}");
    }

    #[test]
    fn a_device_lets_go_of_its_file_when_nobody_uses_it() {
        // Needs root, as the supervisor does.
        let folder = tempfile::tempdir().unwrap();
        let file = nameless_file(folder.path(), 1).unwrap();
        let (device, path) = attach(&file).unwrap();
        make_file_system(&path).unwrap();
        let backing = Path::new("/sys/block").join(path.file_name().unwrap()).join("loop/backing_file");
        let has = || fs::read_to_string(&backing).is_ok_and(|file| file.starts_with(&*folder.path().to_string_lossy()));
        assert!(has());
        drop(device);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while has() {
            assert!(std::time::Instant::now() < deadline, "it keeps its file");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
