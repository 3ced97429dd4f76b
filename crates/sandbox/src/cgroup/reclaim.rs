//! Taking memory back from a group: what it has read of files and does not have mapped. It is read again when it is wanted.
//!
//! Memory of its own cannot be taken without swap. What is mapped is the code that runs: it would be missed at once.
//!
//! Version 2: `memory.reclaim` takes a number of bytes; kernels before 5.19 have no such file, and nothing is taken there.
//! Version 1: a lower limit makes the kernel take back what is above it before the limit counts; then the old one is set
//! again.

use std::fs;
use std::io;

use super::{Cgroup, Hierarchy, ignore_missing, write};

impl Cgroup {
    /// Bytes of files that the group has in memory and has not mapped.
    ///
    /// # Errors
    /// When the group does not exist or its memory is not counted.
    pub fn unmapped_cache_bytes(&self) -> io::Result<u64> {
        let (files, mapped) = match self.hierarchy {
            Hierarchy::V2 { .. } => ("file ", "file_mapped "),
            Hierarchy::V1 { .. } => ("cache ", "mapped_file "),
        };
        let path = self.directory("memory")?.join("memory.stat");
        let text = fs::read_to_string(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display())))?;
        let bytes = |field| text.lines().find_map(|line| line.strip_prefix(field)?.parse().ok()).unwrap_or(0_u64);
        // Files in memory only, such as its scratch space, count as files and cannot be taken.
        Ok(bytes(files).saturating_sub(bytes("shmem ")).saturating_sub(bytes(mapped)))
    }

    /// Takes back about this many bytes, if there are so many that can be taken, and says how many it was.
    ///
    /// Nothing may run in the group meanwhile: on version 1 what runs would find its memory full. Who dies in between leaves
    /// a limit that is too low; [`Cgroup::set_limits`] puts that right.
    ///
    /// # Errors
    /// When the group does not exist or its memory is not counted.
    pub fn reclaim(&self, bytes: u64) -> io::Result<u64> {
        let before = self.memory_bytes().unwrap_or(0);
        let directory = self.directory("memory")?;
        let tried = match self.hierarchy {
            Hierarchy::V2 { .. } => ignore_missing(write(&directory.join("memory.reclaim"), &bytes.to_string())),
            Hierarchy::V1 { .. } => {
                let file = directory.join("memory.limit_in_bytes");
                let limit = fs::read_to_string(&file)?;
                let tried = write(&file, &before.saturating_sub(bytes).to_string());
                write(&file, limit.trim())?;
                tried
            }
        };
        match tried {
            // Less than that could be taken.
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => Err(e),
            _ => Ok(before.saturating_sub(self.memory_bytes().unwrap_or(before))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the other tests, version 2 has plain files.
    #[test]
    fn version_2_is_asked_for_what_is_read_and_not_mapped() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a");
        fs::create_dir(&directory).unwrap();
        let group = Hierarchy::V2 { root: root.path().into() }.group("a");
        let missing = group.unmapped_cache_bytes().unwrap_err();
        assert!(missing.to_string().contains("memory.stat"), "{missing}");
        fs::write(directory.join("memory.stat"), "anon 9\nfile 1000\nshmem 100\nfile_mapped 300\n").unwrap();
        assert_eq!(group.unmapped_cache_bytes().unwrap(), 600);
        fs::write(directory.join("memory.current"), "2000\n").unwrap();
        assert_eq!(group.reclaim(600).unwrap(), 0, "nobody took anything here");
        assert_eq!(fs::read_to_string(directory.join("memory.reclaim")).unwrap(), "600");
    }

    /// A group of this machine that has read a file. Needs root.
    #[test]
    fn a_real_group_gives_back_what_it_has_read() {
        const SIZE: u64 = 8 << 20;
        let name = format!("aleph-sandbox-tests-{}-reclaim", std::process::id());
        let group = Hierarchy::detect().unwrap().group(&name);
        for directory in group.directories() {
            fs::create_dir_all(directory).unwrap();
        }
        // Not where files may be in memory only.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("file");
        // Written, brought to the disk, and so clean: it can be taken.
        let script = "echo $$ > \"$0/cgroup.procs\" && dd if=/dev/urandom of=\"$1\" bs=1M count=8 conv=fsync 2>&1";
        let memory = group.directory("memory").unwrap();
        let output = std::process::Command::new("sh").args(["-c", script]).args([&memory, &file]).output().unwrap();
        assert!(output.status.success(), "{output:?}");

        let limit = || fs::read_to_string(memory.join("memory.limit_in_bytes")).ok();
        let (limit_before, cached) = (limit(), group.unmapped_cache_bytes().unwrap());
        assert!(cached >= SIZE, "{cached}");
        let given = group.reclaim(SIZE / 2).unwrap();
        assert!((SIZE / 4..SIZE).contains(&given), "{given}");
        assert!(group.unmapped_cache_bytes().unwrap() <= cached - SIZE / 4);
        assert_eq!(limit(), limit_before);
        // More than there is.
        let rest = group.reclaim(SIZE * 100).unwrap();
        assert!(rest < SIZE, "{rest}");
        assert_eq!(limit(), limit_before);
        assert_eq!(fs::read(&file).unwrap().len() as u64, SIZE);
        group.remove().unwrap();
    }
}
