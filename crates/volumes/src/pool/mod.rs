//! The pool: a btrfs file system with the volumes of all programs of this node.

mod config;
mod image;
mod mounts;
mod sync;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use protocol::ProgramId;
use tracing::{error, info, warn};

pub use config::{FileConfig, PoolConfig, Storage};

use crate::btrfs::{self, ScrubReport, kernel};
use crate::core::growth::{Growth, KEPT_FREE_ON_DISK};
use crate::core::program::{Program, Refusal};
use crate::core::snapshot::SnapshotId;
use crate::error::Error;
use crate::records::{Places, all_programs};

/// The pool. Clones are the same pool.
///
/// Dropping it leaves it mounted: sandboxes outlive the agent. [`Pool::close`] unmounts it.
///
/// A call that is dropped before it has ended is as one that failed: nothing of it counts, and what it left is removed
/// by the next call that is in its way, or when the pool is opened the next time.
#[derive(Debug, Clone)]
pub struct Pool(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    config: PoolConfig,
    root: PathBuf,
    programs: Mutex<HashMap<ProgramId, Arc<Slot>>>,
    syncs: sync::Syncs,
    /// How the last look at the room in the file ended.
    growing: tokio::sync::Mutex<Growth>,
    /// Locked as long as this process has the pool.
    _lock: Lock,
}

/// What is known of one program. Whoever holds the lock may change it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: tokio::sync::Mutex<State>,
    /// Streams of a program arrive one after the other, as they arrive in one place.
    pub(crate) arriving: tokio::sync::Mutex<()>,
    /// Snapshots that are being sent or held, with how often.
    pub(crate) held: Mutex<HashMap<SnapshotId, usize>>,
    /// How many exports read something of the program.
    pub(crate) exports: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(crate) enum State {
    Known(Program),
    /// Its records cannot be read.
    Damaged {
        path: PathBuf,
        reason: String,
    },
}

impl State {
    pub(crate) fn known(&self) -> Result<&Program, Error> {
        match self {
            Self::Known(program) => Ok(program),
            Self::Damaged { path, reason } => Err(Error::Damaged { path: path.clone(), reason: reason.clone() }),
        }
    }

    /// Takes note of what is written down already.
    pub(crate) fn edit<T>(&mut self, edit: impl FnOnce(&mut Program) -> T) {
        if let Self::Known(program) = self {
            edit(program);
        }
    }

    /// Decides on a copy, writes that down, and only then takes it for what is. A refusal may have seen a new epoch,
    /// which is written down, too.
    pub(crate) fn change<T>(
        &mut self,
        places: &Places,
        decide: impl FnOnce(&mut Program) -> Result<T, Refusal>,
    ) -> Result<T, Error> {
        let before = self.known()?;
        let mut after = before.clone();
        let decision = decide(&mut after);
        if decision.is_err() {
            let mut kept = before.clone();
            // It may be the same as before; it is not below.
            let _ = kept.observe(after.highest());
            after = kept;
        }
        if after != *before {
            in_place(|| places.write_program(&after))?;
            *self = Self::Known(after);
        }
        Ok(decision?)
    }
}

/// How full the pool is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// What it can hold when it has grown as far as it may.
    pub total: u64,
    /// What it holds.
    pub used: u64,
    /// What can still be written, as far as the disk below has room; data of programs gets about a twentieth less,
    /// which the file system uses for itself.
    pub free: u64,
}

impl Pool {
    /// Opens the pool: makes and mounts it where that is needed, and removes what an interruption left.
    ///
    /// # Errors
    /// When it is in use, is not btrfs, cannot be mounted, or `btrfs-progs` or the kernel's part are missing. A program
    /// whose records are damaged is no error here, but for everything that is asked about it.
    pub async fn open(config: PoolConfig) -> Result<Self, Error> {
        btrfs::run("btrfs", &["--version"]).await?;
        if !kernel::has_btrfs() {
            // Mounting would load it, with a worse error when it is not there.
            let _ = btrfs::run("modprobe", &["btrfs"]).await;
            if !kernel::has_btrfs() {
                return Err(Error::KernelWithoutBtrfs);
            }
        }
        let (root, lock) = match &config.storage {
            Storage::Folder(root) => {
                if !kernel::is_btrfs(root).map_err(Error::at("look at", root))? {
                    return Err(Error::NotOnBtrfs(root.clone()));
                }
                (root.clone(), lock(&root.join("pool.lock"))?)
            }
            Storage::File(file) => {
                let mut path = file.file.clone().into_os_string();
                path.push(".lock");
                let lock = lock(Path::new(&path))?;
                image::mount(file).await?;
                (file.mount.clone(), lock)
            }
        };
        let root = fs::canonicalize(&root).map_err(Error::at("find", &root))?;
        prepare(&root).await?;
        if let Storage::File(file) = &config.storage {
            image::use_whole_file(file).await?;
        }
        let programs = load(&config.records, &root).await?;
        let pool = Self(Arc::new(Inner {
            config,
            root,
            programs: Mutex::new(programs),
            syncs: sync::Syncs::default(),
            growing: tokio::sync::Mutex::new(Growth::Enough),
            _lock: lock,
        }));
        pool.grow_if_needed().await?;
        Ok(pool)
    }

    /// Unmounts a pool in a file; its loop device goes with the mount. A pool in a folder is left as it is.
    ///
    /// # Errors
    /// When sandboxes still use it.
    pub async fn close(self) -> Result<(), Error> {
        let Storage::File(config) = &self.0.config.storage else { return Ok(()) };
        let mount = config.mount.clone();
        blocking(move || image::unmount(&mount)).await
    }

    /// The folder that the pool is in.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The programs that the pool has records of, also those of which it only remembers the highest epoch.
    pub fn programs(&self) -> Vec<ProgramId> {
        self.slots().keys().copied().collect()
    }

    /// How full the pool is.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn usage(&self) -> Result<PoolUsage, Error> {
        let inside = rustix::fs::statvfs(&self.0.root).map_err(|e| Error::at("look at", &self.0.root)(e.into()))?;
        let used = (inside.f_blocks - inside.f_bfree) * inside.f_frsize;
        let free = inside.f_bavail * inside.f_frsize;
        let Storage::File(config) = &self.0.config.storage else {
            return Ok(PoolUsage { total: inside.f_blocks * inside.f_frsize, used, free });
        };
        let levels = image::levels(config).map_err(Error::at("look at", &config.file))?;
        let limit = (config.limit_mib << 20).max(levels.size);
        let disk = (levels.disk_free.saturating_add(levels.on_disk)).saturating_sub(used + KEPT_FREE_ON_DISK);
        Ok(PoolUsage { total: limit, used, free: (free + (limit - levels.size)).min(disk) })
    }

    /// Lets a pool in a file grow when less than its headroom is free. To be called every second or so, as programs
    /// fill the pool without asking; what takes room here calls it itself. A pool that cannot grow is reported, and
    /// goes on.
    ///
    /// # Errors
    /// When growing fails.
    pub async fn grow_if_needed(&self) -> Result<(), Error> {
        let Storage::File(config) = &self.0.config.storage else { return Ok(()) };
        let mut last = self.0.growing.lock().await;
        let growth = image::grow_if_needed(config).await?;
        // Once each, as this is called all the time.
        match growth {
            Growth::DiskIsShort if *last != growth => warn!(file = %config.file.display(), "{}", Error::DiskIsShort),
            Growth::AtLimit if *last != growth => {
                let limit_mib = config.limit_mib;
                warn!(file = %config.file.display(), limit_mib, "the pool is nearly full and at its limit: raise it");
            }
            _ => {}
        }
        *last = growth;
        Ok(())
    }

    /// Writes out what programs have written, and commits it. Calls at the same time share the work.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn sync(&self) -> Result<(), Error> {
        self.0.syncs.sync(&self.0.root).await
    }

    /// Reads everything and compares it with its checksums. Takes as long as reading the used part of the disk.
    ///
    /// # Errors
    /// When it cannot run; errors that it finds are its result.
    pub async fn scrub(&self) -> Result<ScrubReport, Error> {
        let report = btrfs::scrub(&self.0.root).await?;
        if report.errors > 0 {
            error!(pool = %self.0.root.display(), ?report, "scrub found errors: see 'dmesg' for the files, replace the disk");
        }
        Ok(report)
    }

    pub(crate) fn places(&self, program: ProgramId) -> Places {
        Places::new(&self.0.config.records, &self.0.root, program)
    }

    pub(crate) fn slot(&self, program: ProgramId) -> Arc<Slot> {
        self.slots().entry(program).or_insert_with(|| Slot::new(State::Known(Program::default()))).clone()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<ProgramId, Arc<Slot>>> {
        self.0.programs.lock().expect("no code panics while it holds this lock")
    }
}

impl Slot {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: tokio::sync::Mutex::new(state),
            arriving: Default::default(),
            held: Default::default(),
            exports: Default::default(),
        })
    }
}

/// Runs something that waits for the disk where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// Writes a record. Where it is called, as a call that is dropped must not leave a write behind that comes after a
/// later one; other tasks go on elsewhere, where there is an elsewhere.
pub(crate) fn in_place<T>(write: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => write(),
        _ => tokio::task::block_in_place(write),
    }
}

/// Keeps other processes out as long as it lives.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is just being started has a copy of the descriptor for a moment.
        let _ = self.0.unlock();
    }
}

fn lock(path: &Path) -> Result<Lock, Error> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Error::at("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
        Err(TryLockError::Error(e)) => Err(Error::at("lock", path)(e)),
    }
}

/// Sees to it that the file system can be written and counts what volumes use.
async fn prepare(root: &Path) -> Result<(), Error> {
    let flags = rustix::fs::statvfs(root).map_err(|e| Error::at("look at", root)(e.into()))?.f_flag;
    // The kernel also says so after it turned itself read-only.
    if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(Error::ReadOnly(root.to_owned()));
    }
    if !btrfs::has_quotas(root).await? {
        btrfs::enable_quotas(root).await?;
        info!(pool = %root.display(), "turned quotas on");
    }
    let groups = kernel::sysfs(root).map_err(Error::at("look at", root))?.join("qgroups");
    if fs::read_to_string(groups.join("mode")).is_ok_and(|mode| mode.trim() == "squota") {
        return Err(Error::SimpleQuotas(root.to_owned()));
    }
    // Deleting a large snapshot may make the kernel give up counting, and limits with it, unless this says never. Older
    // kernels have no such file and never give up.
    let never = groups.join("drop_subtree_threshold");
    if let Err(error) = fs::write(&never, "8").or_else(|e| if never.exists() { Err(e) } else { Ok(()) }) {
        warn!(file = %never.display(), %error, "cannot be written: limits of volumes may be lost when snapshots are deleted");
    }
    if fs::read_to_string(groups.join("inconsistent")).is_ok_and(|text| text.trim() == "1") {
        warn!(pool = %root.display(), "the counts of quotas were damaged; counting again, limits are inexact until it is done");
        // One may run already.
        let _ = btrfs::run("btrfs", &["quota".as_ref(), "rescan".as_ref(), root.as_os_str()]).await;
    }
    Ok(())
}

/// Reads the records of all programs and removes what belongs to none.
async fn load(records: &Path, root: &Path) -> Result<HashMap<ProgramId, Arc<Slot>>, Error> {
    let mut programs = HashMap::new();
    for id in all_programs(records, root)? {
        let places = Places::new(records, root, id);
        let state = match places.read() {
            Ok(program) => {
                let program = program.unwrap_or_default();
                for leftover in places.leftovers(&program)? {
                    info!(program = %id, path = %leftover.display(), "removing what an interruption left");
                    if let Err(error) = btrfs::remove(&leftover).await {
                        warn!(program = %id, path = %leftover.display(), %error, "cannot remove it");
                    }
                }
                State::Known(program)
            }
            Err(Error::Damaged { path, reason }) => {
                error!(program = %id, path = %path.display(), %reason, "the records of a program's volumes are damaged");
                State::Damaged { path, reason }
            }
            Err(error) => return Err(error),
        };
        programs.insert(id, Slot::new(state));
    }
    Ok(programs)
}
