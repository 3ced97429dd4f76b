//! The highest epoch that this node has seen of each program, on disk: a scheduler that works on an old copy of its database
//! cannot make the node go back, not even after a restart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use protocol::{Epoch, ProgramId};
use tempfile::NamedTempFile;

/// One small file per program.
pub(crate) struct EpochStore {
    directory: PathBuf,
}

impl EpochStore {
    /// Opens the store and reads what it holds.
    ///
    /// # Errors
    /// When the directory cannot be made or read, or a file in it is damaged: then nobody can know what was seen.
    pub(crate) fn open(directory: PathBuf) -> io::Result<(Self, BTreeMap<ProgramId, Epoch>)> {
        fs::create_dir_all(&directory)?;
        let mut seen = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let Some(program) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                // A write that was interrupted before it took effect.
                fs::remove_file(path)?;
                continue;
            };
            let text = fs::read_to_string(&path)?;
            let epoch = text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds '{text}', expected a number", path.display()),
                )
            })?;
            seen.insert(program, Epoch::new(epoch));
        }
        Ok((Self { directory }, seen))
    }

    /// Remembers an epoch, durably. Blocks for one write to the disk.
    ///
    /// # Errors
    /// When the disk refuses; then the epoch must not be acted on.
    pub(crate) fn remember(&self, program: ProgramId, epoch: Epoch) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.directory)?;
        writeln!(file, "{epoch}")?;
        file.as_file().sync_all()?;
        file.persist(self.directory.join(program.to_string()))?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_survive_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let program = ProgramId::from_bytes([1; 32]);
        let (store, seen) = EpochStore::open(folder.path().into()).unwrap();
        assert!(seen.is_empty());
        store.remember(program, Epoch::new(1)).unwrap();
        store.remember(program, Epoch::new(7)).unwrap();
        fs::write(folder.path().join(".tmp123"), "unfinished").unwrap();
        let (_, seen) = EpochStore::open(folder.path().into()).unwrap();
        assert_eq!(seen, BTreeMap::from([(program, Epoch::new(7))]));
        fs::write(folder.path().join(program.to_string()), "").unwrap();
        assert!(EpochStore::open(folder.path().into()).is_err());
    }
}
