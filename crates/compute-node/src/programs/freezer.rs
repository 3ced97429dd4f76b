//! Which control groups the persistent programs of this node run in, for those who hold a program still for a moment: to
//! take a snapshot of all of its volumes at one point.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protocol::{Epoch, ProgramId};
use sandbox::cgroup::{Frozen, Hierarchy};

/// How long a program may take to stand still. It answers nobody meanwhile.
const FREEZE_WITHIN: Duration = Duration::from_secs(1);

/// How long one that is being started is waited for.
const START_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at whether it runs.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

type Groups = Mutex<HashMap<(ProgramId, Epoch), String>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Freezers(Arc<Groups>);

/// A sandbox that can be frozen as long as this is held.
#[derive(Debug)]
pub(crate) struct Freezable {
    key: (ProgramId, Epoch),
    group: String,
    groups: Arc<Groups>,
}

impl Drop for Freezable {
    fn drop(&mut self) {
        let mut groups = self.groups.lock().expect("no code panics while it holds this lock");
        // Unless the next sandbox of this epoch is there already.
        if groups.get(&self.key) == Some(&self.group) {
            groups.remove(&self.key);
        }
    }
}

impl Freezers {
    /// The program runs in this control group under this epoch.
    pub(crate) fn register(&self, program: ProgramId, epoch: Epoch, group: String) -> Freezable {
        let key = (program, epoch);
        self.0.lock().expect("no code panics while it holds this lock").insert(key, group.clone());
        Freezable { key, group, groups: self.0.clone() }
    }

    /// Holds a program still until the guard goes; `None` when it does not run here under this epoch.
    ///
    /// # Errors
    /// When it does not stand still in time, or only begins to run and nothing of it is there to hold; then it goes on.
    pub(crate) async fn freeze(&self, program: ProgramId, epoch: Epoch) -> io::Result<Option<Frozen>> {
        let starting = Instant::now();
        loop {
            let registered =
                self.0.lock().expect("no code panics while it holds this lock").get(&(program, epoch)).cloned();
            let Some(path) = registered else { return Ok(None) };
            let group = Hierarchy::detect()?.group(&path);
            if !group.is_empty() {
                // If nobody waits for it any more, the guard goes as soon as there is one.
                let freeze = move || group.freeze(FREEZE_WITHIN).map(Some);
                return tokio::task::spawn_blocking(freeze).await.expect("it does not panic");
            }
            // It is registered before it runs.
            if starting.elapsed() > START_WITHIN {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "the program is only starting: try again"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: ProgramId = ProgramId::from_bytes([1; 32]);

    #[tokio::test]
    async fn only_what_runs_can_be_frozen() {
        let freezers = Freezers::default();
        assert!(freezers.freeze(PROGRAM, Epoch::FIRST).await.unwrap().is_none());
        let first = freezers.register(PROGRAM, Epoch::FIRST, "a".to_owned());
        let second = freezers.register(PROGRAM, Epoch::FIRST, "b".to_owned());
        drop(first);
        assert_eq!(freezers.0.lock().unwrap().values().collect::<Vec<_>>(), ["b"], "the next one is not forgotten");
        let error = freezers.freeze(PROGRAM, Epoch::FIRST).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "nothing runs in it yet: {error}");
        drop(second);
        assert!(freezers.0.lock().unwrap().is_empty());
    }
}
