//! Which sandboxes there are, and how those who are with them are told what to do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use sandbox::spec::Request;
use tokio::sync::mpsc;

use super::Owner;

type Requests = mpsc::UnboundedSender<Request>;

/// The sandboxes, by owner.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<Owner, Requests>>);

/// One sandbox among them, and no other of its owner.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    requests: Requests,
}

impl Running {
    /// Another sandbox, which is its owner's from now on, and what is to be told to it.
    pub(super) fn add(&self, owner: Owner) -> (Entry, mpsc::UnboundedReceiver<Request>) {
        let (requests, received) = mpsc::unbounded_channel();
        self.lock().insert(owner, requests.clone());
        (Entry { owner, requests }, received)
    }

    /// It has ended. Says whether it was its owner's: if another one is by now, that one stays.
    pub(super) fn remove(&self, entry: &Entry) -> bool {
        let mut all = self.lock();
        let is_owners = all.get(&entry.owner).is_some_and(|requests| requests.same_channel(&entry.requests));
        if is_owners {
            all.remove(&entry.owner);
        }
        is_owners
    }

    /// How the sandbox that is its owner's now is told what to do, and no later one.
    pub(super) fn of(&self, owner: Owner) -> Option<Requests> {
        self.lock().get(&owner).cloned()
    }

    /// Whose sandboxes are there.
    pub(super) fn owners(&self) -> Vec<Owner> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Requests>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use protocol::ProgramId;

    use super::*;
    use crate::core::on_demand::CopyId;

    #[test]
    fn the_end_of_one_sandbox_is_not_that_of_the_next() {
        let running = Running::default();
        let owner = Owner::OnDemand(CopyId::first(ProgramId::from_bytes([1; 32])));
        let (first, _of_first) = running.add(owner);
        let (second, mut of_second) = running.add(owner);
        assert!(!running.remove(&first), "another one is its owner's by now");
        assert_eq!(running.owners(), [owner]);
        running.of(owner).unwrap().send(Request::Stop { grace_ms: 5 }).unwrap();
        assert!(matches!(of_second.try_recv(), Ok(Request::Stop { grace_ms: 5 })));
        assert!(running.remove(&second) && running.owners().is_empty() && running.of(owner).is_none());
        assert!(!running.remove(&second), "it has ended already");
    }
}
