//! What is written down about a program's volumes, and where they are.
//!
//! ```text
//! <records>/<program id>/program.json           the program's state; the highest epoch, which outlives everything else
//! <records>/<program id>/sets/<snapshot>.json   a snapshot set is complete when this file is there
//! <pool>/programs/<program id>/                 a subvolume, which `btrfs receive` is confined to
//!                              live/<folder>/<volume key>         what sandboxes write, and recovery points
//!                              snapshots/<snapshot>/<volume key>  read-only
//!                              <volume key>                       a stream that is arriving
//!                              export-<number>/<volume key>       what was live when an export of it began
//! ```
//!
//! A record is replaced in one step, after what it names is durable, and is durable before anybody acts on it. So after
//! an interruption what no record names is a leftover. What cannot be read, or names what is not there, is never taken
//! for absent: it blocks its program, and nothing of it is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use protocol::ProgramId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::core::name::VolumeKey;
use crate::core::program::Program;
use crate::core::snapshot::{SnapshotId, SnapshotSet};
use crate::error::Error;

/// The largest record that is read, in bytes: 64 volumes with names of 4 KiB, each byte escaped.
const MAX_RECORD: u64 = 4 << 20;

/// Where the things of a program are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    records: PathBuf,
    data: PathBuf,
}

impl Places {
    /// Of this program, with records below that folder, in the pool mounted there.
    pub(crate) fn new(records: &Path, root: &Path, program: ProgramId) -> Self {
        Self { records: records.join(program.to_string()), data: programs(root).join(program.to_string()) }
    }

    fn record(&self) -> PathBuf {
        self.records.join("program.json")
    }

    fn sets(&self) -> PathBuf {
        self.records.join("sets")
    }

    fn set(&self, id: SnapshotId) -> PathBuf {
        self.sets().join(format!("{id}.json"))
    }

    /// The subvolume with all data of the program.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The folders of live copies.
    pub(crate) fn live(&self) -> PathBuf {
        self.data.join("live")
    }

    /// The live copy with this number.
    pub(crate) fn live_folder(&self, folder: u64) -> PathBuf {
        self.live().join(folder.to_string())
    }

    /// The folders of snapshot sets.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// The set with this name.
    pub(crate) fn snapshot_folder(&self, id: SnapshotId) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    /// A volume of that set.
    pub(crate) fn snapshot(&self, id: SnapshotId, volume: &VolumeKey) -> PathBuf {
        self.snapshot_folder(id).join(volume.as_str())
    }

    /// Where a stream arrives.
    pub(crate) fn arriving(&self, volume: &VolumeKey) -> PathBuf {
        self.data.join(volume.as_str())
    }

    /// What the export with this number reads.
    pub(crate) fn export(&self, number: usize) -> PathBuf {
        self.data.join(format!("export-{number}"))
    }

    /// Writes down the state of the program.
    pub(crate) fn write_program(&self, program: &Program) -> Result<(), Error> {
        self.make_folders()?;
        write(&self.record(), program)
    }

    /// Writes down a snapshot set, which makes it complete.
    pub(crate) fn write_set(&self, set: &SnapshotSet) -> Result<(), Error> {
        self.make_folders()?;
        write(&self.set(set.id), set)
    }

    /// Makes a set incomplete. One that is not written down is no error.
    pub(crate) fn remove_set(&self, id: SnapshotId) -> Result<(), Error> {
        let path = self.set(id);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&self.sets()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::at("remove", &path)(e)),
        }
    }

    fn make_folders(&self) -> Result<(), Error> {
        let sets = self.sets();
        if sets.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&sets).map_err(Error::at("make the folder", &sets))?;
        let parents = [self.records.as_path(), self.records.parent().expect("it is below the records")];
        parents.into_iter().try_for_each(sync_folder)
    }

    /// Reads what is written down; `None` when nothing is, and there is nothing that it should have been about.
    pub(crate) fn read(&self) -> Result<Option<Program>, Error> {
        let Some(mut program) = read::<Program>(&self.record())? else {
            if self.data.exists() || list(&self.sets())?.iter().any(|name| !name.starts_with('.')) {
                return Err(damaged(&self.record(), "it is missing"));
            }
            return Ok(None);
        };
        for name in list(&self.sets())? {
            let Some(id) = name.strip_suffix(".json").and_then(|id| id.parse::<SnapshotId>().ok()) else { continue };
            let set = read::<SnapshotSet>(&self.set(id))?.filter(|set| set.id == id);
            program.add_set(set.ok_or_else(|| damaged(&self.set(id), "it is about another snapshot"))?);
        }
        self.check_volumes(&program)?;
        Ok(Some(program))
    }

    /// Whether everything is there that the records name.
    fn check_volumes(&self, program: &Program) -> Result<(), Error> {
        let copies = program.live().into_iter().chain(program.recovery_points().iter().map(|point| &point.was));
        let copies = copies.map(|live| (self.record(), self.live_folder(live.folder), &live.volumes));
        let sets = program.sets().map(|set| (self.set(set.id), self.snapshot_folder(set.id), &set.volumes));
        for (record, folder, volumes) in copies.chain(sets) {
            if let Some(volume) = volumes.iter().find(|v| !folder.join(v.name.key().as_str()).is_dir()) {
                let reason = format!("it names a volume {} in {} that is not there", volume.name, folder.display());
                return Err(damaged(&record, &reason));
            }
        }
        Ok(())
    }

    /// What an interruption left of a program that is in this state.
    pub(crate) fn leftovers(&self, program: &Program) -> Result<Vec<PathBuf>, Error> {
        let mut leftovers = Vec::new();
        let mut look = |folder: PathBuf, belongs: &dyn Fn(&str) -> bool| -> Result<(), Error> {
            let names = list(&folder)?.into_iter().filter(|name| !belongs(name));
            leftovers.extend(names.map(|name| folder.join(name)));
            Ok(())
        };
        look(self.records.clone(), &|name| ["program.json", "sets"].contains(&name))?;
        look(self.sets(), &|name| name.ends_with(".json"))?;
        look(self.data.clone(), &|name| ["live", "snapshots"].contains(&name))?;
        look(self.live(), &|name| name.parse().is_ok_and(|folder| program.has_folder(folder)))?;
        look(self.snapshots(), &|name| name.parse().is_ok_and(|id| program.set(id).is_ok()))?;
        Ok(leftovers)
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

/// The names in a folder; none when it is not there.
fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let names = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    match names() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(Error::at("read", folder)),
    }
}

fn programs(root: &Path) -> PathBuf {
    root.join("programs")
}

/// The programs that there are records of, or volumes.
pub(crate) fn all_programs(records: &Path, root: &Path) -> Result<BTreeSet<ProgramId>, Error> {
    let mut programs_found = BTreeSet::new();
    for folder in [records, &programs(root)] {
        fs::create_dir_all(folder).map_err(Error::at("make the folder", folder))?;
        // Nothing else is put there by us, and what others put there is theirs.
        programs_found.extend(list(folder)?.iter().filter_map(|name| name.parse::<ProgramId>().ok()));
    }
    Ok(programs_found)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() > MAX_RECORD => return Err(damaged(path, "it is too long")),
        _ => {}
    }
    let text = fs::read(path).map_err(Error::at("read", path))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| damaged(path, &e.to_string()))
}

/// Replaces a file in one step, durably.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let folder = path.parent().expect("records are in folders");
    let text = serde_json::to_vec_pretty(value).expect("records have keys that are text, and no errors of their own");
    let replace = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    // Not "the pool is full", if anything is: this is another disk.
    replace().map_err(|e| Error::Io(format!("write {}", path.display()), e))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::at("sync", folder))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use protocol::Epoch;

    use super::*;
    use crate::core::snapshot::Origin;

    const PROGRAM: ProgramId = ProgramId::from_bytes([7; 32]);

    #[test]
    fn records_survive_and_damage_is_not_absence() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::new(&root.path().join("records"), &root.path().join("pool"), PROGRAM);
        assert_eq!(places.read().unwrap(), None);
        let mut program = Program::default();
        program.observe(Epoch::new(3)).unwrap();
        places.write_program(&program).unwrap();
        let all = all_programs(&root.path().join("records"), &root.path().join("pool")).unwrap();
        assert_eq!(all, BTreeSet::from([PROGRAM]));
        assert_eq!(places.read().unwrap().as_ref(), Some(&program));

        let id = SnapshotId::new(Epoch::new(3), 1);
        let set = SnapshotSet { id, taken: DateTime::UNIX_EPOCH, volumes: Vec::new(), origin: Origin::Received };
        places.write_set(&set).unwrap();
        assert_eq!(places.read().unwrap().unwrap().set(id), Ok(&set));
        fs::rename(places.set(id), places.set(SnapshotId::new(Epoch::new(3), 2))).unwrap();
        assert!(matches!(places.read(), Err(Error::Damaged { .. })), "a set under another's name");

        fs::write(places.record(), "{}").unwrap();
        let error = places.read().unwrap_err().to_string();
        assert!(error.contains("program.json is damaged (missing field"), "{error}");
        fs::remove_file(places.record()).unwrap();
        assert!(matches!(places.read(), Err(Error::Damaged { .. })), "there are sets, so there was a record");
    }

    #[test]
    fn what_no_record_names_is_a_leftover() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::new(&root.path().join("records"), &root.path().join("pool"), PROGRAM);
        let mut program = Program::default();
        let folder = program.create_live(Epoch::FIRST, Vec::new()).unwrap();
        places.write_program(&program).unwrap();
        for folder in [places.live_folder(folder), places.live_folder(9), places.snapshots().join("1-1")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(places.sets().join(".tmpx"), "").unwrap();
        fs::create_dir(places.data.join("0".repeat(32))).unwrap();
        let mut leftovers = places.leftovers(&program).unwrap();
        leftovers.sort();
        let expected = [
            places.data.join("0".repeat(32)),
            places.live_folder(9),
            places.snapshots().join("1-1"),
            places.sets().join(".tmpx"),
        ];
        assert_eq!(leftovers, expected);
    }
}
