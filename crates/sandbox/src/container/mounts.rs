//! Mounts, by the kernel's mount API with file descriptors (Linux 5.2, id mapping 5.12).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};

use super::namespaces;
use crate::cgroup::Hierarchy;

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Gives this process mounts of its own: it sees what the machine mounts later, the machine sees nothing of what it does.
///
/// Call it while the process has one thread: the others would stay behind.
///
/// # Errors
/// When the process may not (it is not root, or in a container without `CAP_SYS_ADMIN`).
pub fn enter_own_namespace() -> io::Result<()> {
    // SAFETY: nothing is shared with other threads that they would miss, as there are none.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Gives this process, which is the first of a new pid namespace and has mounts of its own, the processes of that namespace in
/// `/proc`. What is mounted where it came from later appears here, too, and nothing the other way.
pub(super) fn enter_new_processes() -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attach(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?.as_fd(), Path::new("/proc"))
}

/// Makes a directory a mount from which later mounts below it reach the namespaces that are made of this one.
pub(super) fn share(directory: &Path) -> io::Result<()> {
    attach(
        open_tree(CWD, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?.as_fd(),
        directory,
    )?;
    Ok(rustix::mount::mount_change(directory, MountPropagationFlags::SHARED)?)
}

/// Hides what OCI runtimes stumble over. In a mount namespace of this process's own.
pub(super) fn hide_from_runtimes(hierarchy: &Hierarchy) -> io::Result<()> {
    if let Hierarchy::V1 { unified: Some(unified), .. } = hierarchy {
        // crun refuses machines on which a version 2 hierarchy with controllers lies beside version 1. It does not need to
        // see it.
        rustix::mount::unmount(unified, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// A read-only copy of the mount at a path that is mounted nowhere yet, with ids mapped as the user namespace does, where
/// the file system supports that.
pub(super) fn clone_mount(path: &Path, id_map: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let open = || open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let tree = open()?;
    let read_only = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if let Some(map) = id_map {
        match set_attributes(tree.as_fd(), read_only | MOUNT_ATTR_IDMAP, Some(map.as_fd())) {
            // Squashfs before Linux 6.2: files that belong to root outside then belong to nobody inside, readable still.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result.map(|()| tree),
        }
    }
    set_attributes(tree.as_fd(), read_only, None).map(|()| tree)
}

/// A directory as a writable mount that is mounted nowhere yet, with ids mapped: what the container's user 0 writes belongs
/// to user 0 on disk, whatever ids the container has this time.
pub(super) fn clone_writable(path: &Path, id_map: &OwnedFd) -> io::Result<OwnedFd> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_IDMAP;
    set_attributes(tree.as_fd(), attributes, Some(id_map.as_fd())).map(|()| tree)
}

/// Whether the file system at this path can be mounted with mapped ids.
///
/// # Errors
/// When it cannot even be tried.
pub fn id_mapped_mounts_work(path: &Path) -> io::Result<bool> {
    let map = namespaces::user_namespace(100_000, super::IDS_PER_CONTAINER)?;
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    match set_attributes(tree.as_fd(), MOUNT_ATTR_IDMAP, Some(map.as_fd())) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

/// [`clone_mount`], mounted at a path.
pub(super) fn mount_clone(path: &Path, at: &Path, id_map: Option<&OwnedFd>) -> io::Result<()> {
    attach(clone_mount(path, id_map)?.as_fd(), at)
}

/// Mounts a tree that is mounted nowhere yet.
pub(super) fn attach(tree: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts an empty file system of limited size.
pub(super) fn mount_tmpfs(at: &Path, size_mib: u64) -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", format!("{size_mib}M"))?;
    fsconfig_set_string(context.as_fd(), "mode", "0711")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    attach(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?.as_fd(), at)
}

/// Gives a tmpfs another size.
pub(super) fn resize_tmpfs(at: &Path, size_mib: u64) -> io::Result<()> {
    let context = fspick(CWD, at, rustix::mount::FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", format!("{size_mib}M"))?;
    Ok(fsconfig_reconfigure(context.as_fd())?)
}

/// Mounts `upper` over `lower`. None of the paths may contain a colon.
pub(super) fn mount_overlay(lower: &Path, upper: &Path, work: &Path, at: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(context.as_fd(), key, path)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    attach(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?.as_fd(), at)
}

/// Mounts a squashfs image by a loop device that goes away with the mount. A file without squashfs's first four bytes never
/// comes near the kernel's parsers.
pub(super) fn mount_squashfs(image: &Path, at: &Path) -> io::Result<()> {
    let mut magic = [0; 4];
    io::Read::read_exact(&mut fs::File::open(image)?, &mut magic)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is shorter than four bytes"))?;
    if &magic != b"hsqs" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with `hsqs`"));
    }
    let output = Command::new("mount")
        .args(["-t", "squashfs", "-o", "ro,loop,nosuid,nodev"])
        .arg(image)
        .arg(at)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

#[allow(clippy::cast_sign_loss)] // A descriptor is never negative.
fn set_attributes(tree: BorrowedFd<'_>, set: u64, user_namespace: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is empty and terminated, the structure and its size are those the kernel defines.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
