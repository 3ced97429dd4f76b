//! Holding a group still, so that what it wrote can be looked at while nothing changes.
//!
//! ```text
//!            freeze             all stand still
//!   thawed ──────────▶ freezing ────────────────▶ frozen
//!     ▲                    │ not in time            │ the guard goes, thaw, or a kill
//!     └────────────────────┴────────────────────────┘
//! ```
//! Version 2: `cgroup.freeze` takes 1 and 0, `cgroup.events` says whether all stand still. Version 1: `freezer.state` takes
//! `FROZEN` and `THAWED`, and says `FREEZING` in between. There a task that forks or waits can keep the group between the
//! two until `FROZEN` is written again (kernel: `freezer-subsystem.rst`).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Cgroup, Hierarchy, ignore_missing, write};

/// Between two looks at whether all stand still.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A group that is held still as long as this is.
#[derive(Debug)]
#[must_use = "the group is thawed when this goes"]
pub struct Frozen(Cgroup);

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(e) = self.0.thaw() {
            // Nobody is left to tell. What stays frozen is thawed when it is killed, or when an agent finds it.
            eprintln!("a program stays frozen: {e}");
        }
    }
}

/// The freezer's file that is written to, the one that is read, and their words.
struct Freezer {
    set: PathBuf,
    freeze: &'static str,
    thaw: &'static str,
    state: PathBuf,
    /// The line that says that all stand still.
    frozen: &'static str,
}

impl Cgroup {
    /// Stops every process of the group where it is, and waits until all of them stand still.
    ///
    /// Two that freeze the same group do not know of each other: it is thawed when the first of them is done.
    ///
    /// # Errors
    /// When the group does not exist or there is no freezer, and [`io::ErrorKind::TimedOut`] when something still runs after
    /// `within`, as a process in an uninterruptible wait does; the group is thawed then.
    pub fn freeze(&self, within: Duration) -> io::Result<Frozen> {
        self.freezer()?;
        let deadline = Instant::now() + within;
        // From here on, whatever happens, it is thawed again.
        let frozen = Frozen(self.clone());
        loop {
            if self.hold()? {
                return Ok(frozen);
            }
            if Instant::now() >= deadline {
                let (path, ms) = (&self.path, within.as_millis());
                let message = format!("{path} does not stand still within {ms} ms and was let go on: try again later");
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Tells every process of the group to stop where it is, and says whether all of them stand still by now. Call it again
    /// until they do, or [`Cgroup::thaw`].
    ///
    /// # Errors
    /// When the group does not exist or there is no freezer. Some of it may stand still then.
    pub fn hold(&self) -> io::Result<bool> {
        let freezer = self.freezer()?;
        write(&freezer.set, freezer.freeze)?;
        freezer.stands_still()
    }

    /// Whether every process of the group stands still.
    ///
    /// # Errors
    /// When the group does not exist or there is no freezer.
    pub fn is_frozen(&self) -> io::Result<bool> {
        self.freezer()?.stands_still()
    }

    /// Lets every process of the group go on, whoever froze it. A group that is gone is no error.
    ///
    /// # Errors
    /// When there is no freezer or it refuses.
    pub fn thaw(&self) -> io::Result<()> {
        let freezer = self.freezer()?;
        ignore_missing(write(&freezer.set, freezer.thaw))
    }

    fn freezer(&self) -> io::Result<Freezer> {
        let directory = self.directory("freezer")?;
        let in_directory = |file| directory.join(file);
        Ok(match self.hierarchy {
            Hierarchy::V2 { .. } => Freezer {
                set: in_directory("cgroup.freeze"),
                freeze: "1",
                thaw: "0",
                state: in_directory("cgroup.events"),
                frozen: "frozen 1",
            },
            Hierarchy::V1 { .. } => Freezer {
                set: in_directory("freezer.state"),
                freeze: "FROZEN",
                thaw: "THAWED",
                state: in_directory("freezer.state"),
                frozen: "FROZEN",
            },
        })
    }
}

impl Freezer {
    fn stands_still(&self) -> io::Result<bool> {
        let state = fs::read_to_string(&self.state)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", self.state.display())))?;
        Ok(state.lines().any(|line| line == self.frozen))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// As in the other tests, version 2 has plain files.
    #[test]
    fn version_2_is_frozen_and_thawed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a");
        fs::create_dir(&directory).unwrap();
        let group = Hierarchy::V2 { root: root.path().into() }.group("a");
        let set = || fs::read_to_string(directory.join("cgroup.freeze")).unwrap();
        fs::write(directory.join("cgroup.freeze"), "0").unwrap();

        fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let late = group.freeze(Duration::from_millis(5)).unwrap_err();
        assert_eq!((late.kind(), set().as_str()), (io::ErrorKind::TimedOut, "0"), "it was let go on: {late}");

        fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        let frozen = group.freeze(Duration::from_millis(5)).unwrap();
        assert_eq!(set(), "1");
        drop(frozen);
        assert_eq!(set(), "0");

        assert!(group.hold().unwrap() && group.is_frozen().unwrap());
        fs::write(directory.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(!group.hold().unwrap() && !group.is_frozen().unwrap());
        assert_eq!(set(), "1", "it is held until it is thawed");
    }

    #[test]
    fn groups_that_are_not_there_cannot_be_frozen() {
        let group = Hierarchy::V2 { root: "/nowhere".into() }.group("x");
        let error = group.freeze(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x/cgroup.freeze"), "{error}");
        group.thaw().unwrap();
        let without = Hierarchy::V1 { mounts: vec![(vec!["pids".to_owned()], "/x".into())], unified: None }.group("x");
        let error = without.freeze(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("no cgroup controller 'freezer'"), "{error}");
    }

    /// A group of this machine with a process that counts in it. Needs root.
    struct Counting {
        group: Cgroup,
        process: Child,
        folder: tempfile::TempDir,
    }

    impl Counting {
        fn start(name: &str) -> Self {
            let group =
                Hierarchy::detect().unwrap().group(&format!("aleph-sandbox-tests-{}/{name}", std::process::id()));
            let folder = tempfile::tempdir().unwrap();
            let script = "n=0; while :; do n=$((n+1)); echo $n > n.new; mv n.new n; done";
            let mut process = Command::new("sh");
            process.args(["-c", script]).current_dir(folder.path()).stdin(Stdio::null());
            let process = process.spawn().unwrap();
            for directory in group.directories() {
                fs::create_dir_all(&directory).unwrap();
                // A cpuset has to be filled before it takes anybody; what this looks at is elsewhere.
                let joined = fs::write(directory.join("cgroup.procs"), process.id().to_string());
                assert!(joined.is_ok() || directory.to_string_lossy().contains("cpuset"), "{joined:?}");
            }
            let counting = Self { group, process, folder };
            counting.goes_on();
            counting
        }

        fn count(&self) -> u64 {
            fs::read_to_string(self.folder.path().join("n")).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        }

        fn goes_on(&self) {
            let (before, deadline) = (self.count(), Instant::now() + Duration::from_secs(20));
            while self.count() == before {
                assert!(Instant::now() < deadline, "it stands still at {before}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            let _ = self.group.kill_all(Duration::from_secs(5));
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = self.group.remove();
            // The tests' own group, once the last of them is gone.
            let _ = Hierarchy::detect().unwrap().group(&format!("aleph-sandbox-tests-{}", std::process::id())).remove();
        }
    }

    #[test]
    fn a_real_group_stands_still_until_the_guard_goes() {
        let counting = Counting::start("freeze");
        for _ in 0..5 {
            let frozen = counting.group.freeze(Duration::from_secs(10)).unwrap();
            let count = counting.count();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(counting.count(), count);
            drop(frozen);
            counting.goes_on();
        }
    }

    #[test]
    fn a_group_that_nobody_thawed_goes_on_when_it_is_found() {
        let counting = Counting::start("forgotten");
        // Who froze it died.
        std::mem::forget(counting.group.freeze(Duration::from_secs(10)).unwrap());
        counting.group.thaw().unwrap();
        counting.goes_on();
    }

    #[test]
    fn a_real_group_is_held_until_it_is_thawed() {
        let counting = Counting::start("hold");
        assert!(!counting.group.is_frozen().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !counting.group.hold().unwrap() {
            assert!(Instant::now() < deadline, "it does not stand still");
        }
        assert!(counting.group.is_frozen().unwrap());
        let count = counting.count();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(counting.count(), count);
        counting.group.thaw().unwrap();
        assert!(!counting.group.is_frozen().unwrap());
        counting.goes_on();
    }

    #[test]
    fn what_is_frozen_can_be_killed() {
        let mut counting = Counting::start("kill");
        let frozen = counting.group.freeze(Duration::from_secs(10)).unwrap();
        let killed = std::thread::scope(|scope| {
            // The process is this test's child: somebody has to take note of its death.
            let waiting = scope.spawn(|| counting.process.wait().unwrap());
            counting.group.kill_all(Duration::from_secs(10)).unwrap();
            waiting.join().unwrap()
        });
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9));
        assert!(counting.group.is_empty());
        drop(frozen);
    }
}
