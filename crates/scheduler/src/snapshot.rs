//! What the API reads: the last state that the core's task published. Readers share it and never wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{NodeId, ProgramId};
use tokio::sync::watch;

use crate::core::Scheduler;
use crate::core::placement::{Offer, explain};
use crate::core::view::{NodeView, ProgramView};

/// All programs and nodes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) programs: BTreeMap<ProgramId, Arc<ProgramView>>,
    pub(crate) nodes: BTreeMap<NodeId, Arc<NodeView>>,
    /// Why reallocation is stopped, if it is.
    pub(crate) brake: Option<String>,
}

/// Where to read the newest one.
pub(crate) type Snapshots = watch::Receiver<Arc<Snapshot>>;

impl Snapshot {
    /// Brings it up to date with what changed in the core.
    pub(crate) fn update(&mut self, core: &mut Scheduler) {
        let changes = core.take_changes();
        self.brake = core.brake();
        for id in changes.programs {
            match core.program_view(id) {
                Some(view) => self.programs.insert(id, Arc::new(view)),
                None => self.programs.remove(&id),
            };
        }
        for id in changes.nodes {
            match core.node_view(id) {
                Some(view) => self.nodes.insert(id, Arc::new(view)),
                None => self.nodes.remove(&id),
            };
        }
    }

    /// Why a program is not ready, for people.
    pub(crate) fn reason(&self, program: &ProgramView) -> Option<String> {
        use protocol::api::scheduler::ProgramState;
        let is_waiting = program.state == ProgramState::Unplaced && program.note.is_none();
        if !is_waiting {
            return program.note.clone();
        }
        Some(explain(&program.spec, self.offers(), |node| program.avoids.contains(&node)))
    }

    fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.nodes.values().map(|node| &node.offer)
    }
}
