//! What one event brings about.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use lease::BootTime;
use protocol::NodeId;

use super::event::{Command, Notice};

/// One call of [`super::Scheduler::handle`]: its time, and what it asks for.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) now: BootTime,
    /// For people only.
    pub(super) wall: DateTime<Utc>,
    commands: Vec<Command>,
    /// Nodes whose set changed, to be asked for a heartbeat.
    pub(super) pokes: BTreeSet<NodeId>,
}

impl Turn {
    pub(super) fn new(now: BootTime, wall: DateTime<Utc>) -> Self {
        Self { now, wall, commands: Vec::new(), pokes: BTreeSet::new() }
    }

    pub(super) fn command(&mut self, command: Command) {
        self.commands.push(command);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.commands.push(Command::Notice(notice));
    }

    pub(super) fn into_commands(self) -> Vec<Command> {
        self.commands
    }
}
