//! What the kernel tells about a btrfs file system, by the numbers of `linux/btrfs.h`.

use std::fs::{File, Metadata};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inode number of the root of every subvolume, and of nothing else on btrfs.
const SUBVOLUME_INODE: u64 = 256;

/// `BTRFS_SUPER_MAGIC`
const MAGIC: i64 = 0x9123_683e;

/// `struct btrfs_ioctl_timespec`
#[repr(C)]
struct Time {
    seconds: u64,
    nanoseconds: u32,
}

/// `struct btrfs_ioctl_get_subvol_info_args`
#[repr(C)]
struct SubvolumeArgs {
    id: u64,
    name: [u8; 256],
    parent_id: u64,
    directory: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transactions: [u64; 4],
    times: [Time; 4],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_fs_info_args`
#[repr(C)]
struct FileSystemArgs {
    max_id: u64,
    devices: u64,
    id: [u8; 16],
    rest: [u8; 992],
}

/// `_IOR(0x94, number, size)`
const fn read_request(number: u64, size: usize) -> u64 {
    2 << 30 | (size as u64) << 16 | 0x94 << 8 | number
}

/// `BTRFS_IOC_GET_SUBVOL_INFO`
const GET_SUBVOLUME: u64 = read_request(60, size_of::<SubvolumeArgs>());
/// `BTRFS_IOC_FS_INFO`
const FILE_SYSTEM: u64 = read_request(31, size_of::<FileSystemArgs>());
/// `BTRFS_SUBVOL_RDONLY`, as an item of the tree has it (`BTRFS_ROOT_SUBVOL_RDONLY`).
const READ_ONLY: u64 = 1;

/// What is known about a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subvolume {
    /// Its id, also of its quota group.
    pub(crate) id: u64,
    /// Counts the commits that changed it; what is in memory only is not counted yet.
    pub(crate) generation: u64,
    /// Whether nobody can write it.
    pub(crate) read_only: bool,
    /// Whether it came by `btrfs receive`, completely.
    pub(crate) received: bool,
}

/// Asks about a subvolume.
pub(crate) fn subvolume(path: &Path) -> io::Result<Subvolume> {
    let args: SubvolumeArgs = ask(path, GET_SUBVOLUME)?;
    Ok(Subvolume {
        id: args.id,
        generation: args.generation,
        read_only: args.flags & READ_ONLY != 0,
        received: args.received_uuid != [0; 16],
    })
}

/// The folder in which the kernel shows the state of a file system.
pub(crate) fn sysfs(root: &Path) -> io::Result<PathBuf> {
    let args: FileSystemArgs = ask(root, FILE_SYSTEM)?;
    let id = hex::encode(args.id);
    let parts = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]];
    Ok(Path::new("/sys/fs/btrfs").join(parts.join("-")))
}

/// Asks the kernel about the file system or subvolume at a path. `T` has to be what `request` writes: plain numbers,
/// for which every bit pattern is a value.
fn ask<T>(path: &Path, request: u64) -> io::Result<T> {
    let file = File::open(path)?;
    let mut args = MaybeUninit::<T>::zeroed();
    // SAFETY: the request's number holds the size of T, so the kernel writes no more than that into `args`, which
    // outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, args.as_mut_ptr()) };
    // Some kernels (6.18 is one) return 1 for a success of BTRFS_IOC_GET_SUBVOL_INFO.
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was all zeros, the kernel wrote numbers over it, and T has only numbers in it.
    Ok(unsafe { args.assume_init() })
}

/// Whether this is the root of a subvolume, for something on btrfs.
pub(crate) fn is_subvolume(metadata: &Metadata) -> bool {
    metadata.is_dir() && metadata.ino() == SUBVOLUME_INODE
}

/// Whether the kernel has btrfs, loaded.
pub(crate) fn has_btrfs() -> bool {
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    file_systems.lines().any(|line| line.ends_with("\tbtrfs"))
}

/// Whether a path is on btrfs.
pub(crate) fn is_btrfs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == MAGIC)
}

/// The topmost subvolumes below this directory, however deep.
pub(crate) fn subvolumes_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut todo) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if is_subvolume(&metadata) {
                found.push(path);
            } else if metadata.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(found)
}

/// Writes out everything that is in memory only, and commits. Blocks.
pub(crate) fn sync(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of `linux/btrfs.h`: `printf("%lx", BTRFS_IOC_GET_SUBVOL_INFO)`.
    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        assert_eq!(GET_SUBVOLUME, 0x81f8_943c);
        assert_eq!(FILE_SYSTEM, 0x8400_941f);
    }
}
