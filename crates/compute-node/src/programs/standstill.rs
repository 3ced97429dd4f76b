//! Holding a copy on demand still while nobody uses it, and letting it go on when somebody does.
//!
//! ```text
//!          nobody is inside      all stand still
//!   Runs ─────────────────▶ Freezing ──────────▶ Frozen: gives memory back, a piece at a time
//!    ▲                         │ not in time        │
//!    └─────────────────────────┴────────────────────┘ somebody goes in, or it is to end
//! ```
//! The agent has it frozen, requests let it go on: without asking anybody, as the one who waits is a user. One that cannot go
//! on has to end: it would keep its place and answer nobody. Persistent
//! programs have none of this. They are held still by [`super::freezer`] alone, for snapshots, and copies on demand have
//! no snapshots: whoever lets a program go on was also who froze it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sandbox::cgroup::Cgroup;
use tracing::error;

use crate::metrics::Metrics;

/// How long a program may take to stand still.
const FREEZE_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at whether it does, and between two pieces of memory: who goes in may be first.
const PAUSE: Duration = Duration::from_millis(1);

/// Memory is taken back in pieces of this size, as a request waits until a piece is done.
const PIECE: u64 = 4 << 20;

/// What is left of the files that a program has read: it needs some of them for the next request.
const LEFT_OF_FILES: u64 = 8 << 20;

/// How long taking memory back may last.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Runs,
    Freezing,
    Frozen,
}

/// One copy on demand, as it is held still.
#[derive(Debug)]
pub(crate) struct Standstill {
    group: Cgroup,
    phase: Mutex<Phase>,
    /// Whether who goes in has to look at the phase. It is set before it is looked whether somebody is inside.
    is_held: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Standstill {
    /// Of a program that runs in this control group, or stands still in it already.
    pub(crate) fn new(group: Cgroup, is_frozen: bool, metrics: Arc<Metrics>) -> Arc<Self> {
        let phase = Mutex::new(if is_frozen { Phase::Frozen } else { Phase::Runs });
        Arc::new(Self { group, phase, is_held: AtomicBool::new(is_frozen), metrics })
    }

    /// Whether it stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        // While it is being frozen or gives memory back the lock is held for moments.
        *self.lock() == Phase::Frozen
    }

    /// Has it stand still, as long as it may: nobody is inside. Says whether it does. Blocks.
    ///
    /// # Errors
    /// When it cannot be frozen, or does not stand still in time; it goes on then.
    pub(crate) fn freeze(&self, may: impl Fn() -> bool) -> io::Result<bool> {
        let deadline = Instant::now() + FREEZE_WITHIN;
        for round in 0.. {
            let mut phase = self.lock();
            let was_used = round > 0 && *phase == Phase::Runs;
            self.is_held.store(true, Ordering::SeqCst);
            if was_used || !may() {
                self.let_go(&mut phase)?;
                return Ok(false);
            }
            *phase = Phase::Freezing;
            match self.group.hold() {
                Ok(true) => {
                    *phase = Phase::Frozen;
                    return Ok(true);
                }
                Ok(false) if Instant::now() < deadline => {}
                Ok(false) => {
                    self.let_go(&mut phase)?;
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not stand still in time"));
                }
                Err(error) => {
                    self.let_go(&mut phase)?;
                    return Err(error);
                }
            }
            drop(phase);
            std::thread::sleep(PAUSE);
        }
        unreachable!("the rounds end by time")
    }

    /// Takes memory back while it stands still: what it has read of files and does not run. Says how many bytes. Blocks.
    ///
    /// # Errors
    /// When the kernel cannot do that.
    pub(crate) fn give_back(&self) -> io::Result<u64> {
        let (deadline, mut given) = (Instant::now() + GIVE_BACK_WITHIN, 0);
        while Instant::now() < deadline {
            let phase = self.lock();
            if *phase != Phase::Frozen {
                break;
            }
            let piece = self.group.unmapped_cache_bytes()?.saturating_sub(LEFT_OF_FILES).min(PIECE);
            let taken = if piece > 0 { self.group.reclaim(piece)? } else { 0 };
            given += taken;
            // The rest is in use, or not worth more work.
            if taken <= piece / 2 {
                break;
            }
            drop(phase);
            std::thread::sleep(PAUSE);
        }
        Ok(given)
    }

    /// Lets it go on, if it does not. Says whether it stood still.
    ///
    /// # Errors
    /// When it cannot go on.
    pub(crate) async fn wake(self: &Arc<Self>) -> io::Result<bool> {
        if !self.is_held.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let began = Instant::now();
        // A quarter of a millisecond, usually: not worth another thread.
        let done = self.phase.try_lock().ok().map(|mut phase| self.wake_locked(&mut phase, began));
        if let Some(was_frozen) = done {
            return was_frozen;
        }
        let standstill = self.clone();
        let wake = move || standstill.wake_locked(&mut standstill.lock(), began);
        tokio::task::spawn_blocking(wake).await.expect("it does not panic")
    }

    fn wake_locked(&self, phase: &mut Phase, began: Instant) -> io::Result<bool> {
        let was_frozen = *phase == Phase::Frozen;
        let went_on = self.let_go(phase);
        went_on.inspect_err(|error| error!(group = ?self.group, %error, "cannot let a frozen program go on"))?;
        if was_frozen {
            self.metrics.thawed(began.elapsed());
        }
        Ok(was_frozen)
    }

    fn let_go(&self, phase: &mut Phase) -> io::Result<()> {
        if *phase != Phase::Runs {
            self.group.thaw()?;
            *phase = Phase::Runs;
        }
        self.is_held.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use protocol::ProgramId;
    use sandbox::cgroup::Hierarchy;

    use super::*;
    use crate::core::on_demand::CopyId;
    use crate::programs::endpoint::{Endpoint, Endpoints, Stuck};
    use crate::programs::sandboxes::Owner;

    /// A control group of version 2 made of plain files, which stands still at once, or never.
    fn group(root: &Path, stands_still: bool) -> Arc<Standstill> {
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/cgroup.freeze"), "0").unwrap();
        fs::write(root.join("a/cgroup.events"), format!("populated 1\nfrozen {}\n", u8::from(stands_still))).unwrap();
        fs::write(root.join("a/memory.stat"), format!("file {}\n", 1_u64 << 30)).unwrap();
        fs::write(root.join("a/memory.current"), "5\n").unwrap();
        Standstill::new(Hierarchy::V2 { root: root.into() }.group("a"), false, Metrics::new())
    }

    fn is_told_to_freeze(root: &Path) -> bool {
        fs::read_to_string(root.join("a/cgroup.freeze")).unwrap() == "1"
    }

    #[tokio::test]
    async fn it_stands_still_until_somebody_goes_in() {
        let root = tempfile::tempdir().unwrap();
        let standstill = group(root.path(), true);
        assert!(!standstill.freeze(|| false).unwrap());
        assert_eq!(standstill.give_back().unwrap(), 0);
        assert!(!root.path().join("a/memory.reclaim").exists(), "from what runs nothing is taken");
        for _ in 0..2 {
            assert!(standstill.freeze(|| true).unwrap() && standstill.freeze(|| true).unwrap());
            assert!(standstill.is_frozen() && is_told_to_freeze(root.path()));
            standstill.wake().await.unwrap();
            assert!(!standstill.is_frozen() && !is_told_to_freeze(root.path()));
        }
        standstill.freeze(|| true).unwrap();
        assert_eq!(standstill.give_back().unwrap(), 0, "nobody takes anything here");
        assert_eq!(fs::read_to_string(root.path().join("a/memory.reclaim")).unwrap(), PIECE.to_string());
    }

    #[test]
    fn what_does_not_stand_still_in_time_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let error = group(root.path(), false).freeze(|| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!is_told_to_freeze(root.path()));
    }

    #[tokio::test]
    async fn who_goes_in_while_it_is_being_frozen_has_it_go_on() {
        let root = tempfile::tempdir().unwrap();
        let standstill = group(root.path(), false);
        let freezing = std::thread::spawn({
            let standstill = standstill.clone();
            move || standstill.freeze(|| true)
        });
        while !is_told_to_freeze(root.path()) {
            std::thread::yield_now();
        }
        standstill.wake().await.unwrap();
        assert!(!freezing.join().unwrap().unwrap());
        assert!(!is_told_to_freeze(root.path()));
    }

    #[tokio::test]
    async fn nothing_stands_still_that_somebody_is_in_or_that_is_to_end() {
        let root = tempfile::tempdir().unwrap();
        let copy = CopyId::first(ProgramId::from_bytes([1; 32]));
        let standstill = Some(group(root.path(), true));
        let endpoint = Endpoint::new(Owner::OnDemand(copy), Duration::ZERO, "/nowhere".into(), standstill);
        let visit = endpoint.enter().await.unwrap();
        assert!(!endpoint.freeze().await && !endpoint.is_frozen());
        let left_at = {
            drop(visit);
            endpoint.idle_since()
        };
        assert!(endpoint.freeze().await && endpoint.is_frozen());
        assert_eq!(endpoint.idle_since(), left_at, "to be frozen is no use");
        let visit = endpoint.enter().await.unwrap();
        assert!(!endpoint.is_frozen());
        drop(visit);
        endpoint.close();
        assert!(!endpoint.freeze().await && !endpoint.is_frozen());
    }

    #[tokio::test]
    async fn what_cannot_go_on_lets_nobody_in_and_is_told_of_once() {
        let root = tempfile::tempdir().unwrap();
        let program = ProgramId::from_bytes([1; 32]);
        let copies = [0, 1].map(|number| CopyId { program, number });
        let endpoints = Endpoints::new(1);
        let frozen = Endpoint::new(
            Owner::OnDemand(copies[0]),
            Duration::ZERO,
            "/nowhere".into(),
            Some(group(root.path(), true)),
        );
        endpoints.insert(frozen.clone());
        assert!(frozen.freeze().await);
        // The kernel does not let it go on.
        let control = root.path().join("a/cgroup.freeze");
        fs::remove_file(&control).unwrap();
        fs::create_dir(&control).unwrap();
        assert_eq!(endpoints.enter(program).await.err(), Some(Stuck(copies[0])));
        assert!(endpoints.enter(program).await.unwrap().is_none(), "it is gone");
        assert!(frozen.enter().await.is_none(), "its door is closed");
        assert!(frozen.idle_since().is_some(), "who could not go in is not inside");
        // Another copy serves, whatever becomes of the first.
        endpoints.insert(Endpoint::new(Owner::OnDemand(copies[1]), Duration::ZERO, "/nowhere".into(), None));
        assert!(endpoints.enter(program).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_found_frozen_goes_on_too() {
        let root = tempfile::tempdir().unwrap();
        let group = group(root.path(), true).group.clone();
        fs::write(root.path().join("a/cgroup.freeze"), "1").unwrap();
        let found = Standstill::new(group, true, Metrics::new());
        assert!(found.is_frozen());
        found.wake().await.unwrap();
        assert!(!is_told_to_freeze(root.path()));
    }
}
