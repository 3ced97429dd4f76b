//! What is mounted where, and which loop device has which file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Something that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) device: PathBuf,
    pub(crate) read_only: bool,
}

/// What is mounted exactly there, in this mount namespace.
pub(crate) fn at(path: &Path) -> io::Result<Option<Mounted>> {
    let path = fs::canonicalize(path)?;
    Ok(find(&fs::read_to_string("/proc/self/mounts")?, &path))
}

fn find(mounts: &str, path: &Path) -> Option<Mounted> {
    let line = |line: &str| {
        let [device, at, _kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let read_only = options.split(',').any(|option| option == "ro");
        (unescape(at) == path).then(|| Mounted { device: unescape(device), read_only })
    };
    // The last one hides the others.
    mounts.lines().filter_map(line).next_back()
}

/// Turns `\040` into a space, and so on.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// The loop device that this file is attached to, by the file's canonical path.
pub(crate) fn loop_device_of(file: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        // Devices that are not attached have no such file.
        let Ok(backing) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        if Path::new(&OsString::from_vec(backing.trim_ascii_end().to_vec())) == file {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_counts_and_names_may_have_spaces() {
        let mounts =
            "/dev/loop0 /a\\040b btrfs rw,noatime 0 0\n/dev/loop1 /a\\040b btrfs ro 0 0\n/dev/loop2 /a btrfs rw 0 0\n";
        let found = find(mounts, Path::new("/a b")).unwrap();
        assert_eq!(found, Mounted { device: "/dev/loop1".into(), read_only: true });
        assert_eq!(find(mounts, Path::new("/b")), None);
        assert_eq!(unescape("a\\b\\134"), Path::new("a\\b\\"));
    }
}
