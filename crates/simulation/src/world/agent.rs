//! The agent of a compute node: the shell around [`Persistent`]. Its connection to a scheduler is in [`super::session`].

use std::collections::BTreeMap;
use std::time::Duration;

use ::sandbox::spec::{End, SandboxState};
use compute_node::core::persistent::{Assignment, Command, Event, Needs, Persistent};
use lease::{HolderDeadline, LeaseConfig};
use protocol::ProgramId;
use protocol::control::{Failure, FailureKind};

use crate::check::Invariant;
use crate::time::Moment;
use crate::trap::Trap;

use super::data::{AgentData, Trouble};
use super::sandbox::Request;
use super::session::Session;
use super::{AgentRun, Happening, Place, SandboxId, World, name, say};

#[derive(Debug)]
pub(crate) struct Agent {
    pub(super) core: Persistent,
    pub(crate) paused_until: Moment,
    armed: Option<Moment>,
    pub(super) session: Session,
    /// The sandboxes that it accompanies.
    pub(super) tasks: BTreeMap<Assignment, Task>,
    pub(super) data: AgentData,
}

/// One sandbox, as its task in the agent sees it.
#[derive(Debug)]
pub(super) struct Task {
    /// `None` until its supervisor was started.
    pub(super) sandbox: Option<SandboxId>,
    deadline: HolderDeadline,
    needs: Needs,
    is_claimed: bool,
    end: Option<End>,
    /// What was asked before there was anybody to ask.
    pending: Vec<Request>,
}

impl World {
    pub(super) fn agent(&self, AgentRun(id, run): AgentRun) -> Option<&Agent> {
        let machine = self.machine(id);
        machine.agent.as_ref().filter(|_| machine.run == run)
    }

    pub(super) fn agent_mut(&mut self, AgentRun(id, run): AgentRun) -> Option<&mut Agent> {
        let machine = self.machine_mut(id);
        if machine.run == run { machine.agent.as_mut() } else { None }
    }

    /// Puts off what an agent cannot do now. Returns whether it did.
    pub(super) fn agent_puts_off(&mut self, run: AgentRun, happening: impl FnOnce() -> Happening) -> bool {
        let until = self.machine(run.0).agent_sleeps_until();
        let puts_off = until > self.now && self.machine(run.0).run == run.1;
        if puts_off {
            self.at(until, happening());
        }
        puts_off
    }

    /// A new agent takes over what the one before left running.
    pub(super) fn agent_starts(&mut self, run @ AgentRun(id, number): AgentRun) {
        let machine = self.machine(id);
        if machine.run != number || !machine.is_on || machine.agent.is_some() {
            return;
        }
        // A supervisor that is stopped does not answer: adoption waits for it, or for its fuse.
        let hangs = machine.sandboxes.values().filter_map(|sandbox| sandbox.hangs_until()).max();
        let busy = hangs.unwrap_or(Moment::ZERO).max(machine.asleep_until);
        if busy > self.now {
            let again = busy.min(self.now + Duration::from_millis(50));
            return self.at(again.max(machine.asleep_until), Happening::AgentStarts(run));
        }
        let now = self.lease_now(id);
        let machine = self.machine_mut(id);
        let lease = LeaseConfig::default().lease;
        let core = Persistent::new(now, machine.capacity.clone(), machine.epochs.clone(), lease);
        machine.agent = Some(Agent {
            core,
            paused_until: Moment::ZERO,
            armed: None,
            session: Session::default(),
            tasks: BTreeMap::new(),
            data: AgentData::default(),
        });
        say!(self, "{id} agent starts (run {})", number.0);
        self.adopt(run);
        self.data_begins(run);
        self.after(Duration::ZERO, Happening::AgentDials(run));
    }

    fn adopt(&mut self, run: AgentRun) {
        let found: Vec<_> =
            self.machine(run.0).sandboxes.iter().map(|(id, sandbox)| (*id, sandbox.adoptable())).collect();
        for (id, adoptable) in found {
            let Some((assignment, needs, deadline, is_ready)) = adoptable else {
                self.clear_at_once(Place(run.0, id));
                continue;
            };
            let task = Task { sandbox: Some(id), deadline, needs, is_claimed: true, end: None, pending: Vec::new() };
            let Some(agent) = self.agent_mut(run) else { return };
            agent.tasks.insert(assignment, task);
            say!(self, "{} finds {} of epoch {}", run.0, name(assignment.program), assignment.epoch);
            self.supervise(Place(run.0, id), run.1);
            self.enforce_in_agent(run, assignment);
            self.tell_agent(run, Event::Adopted { assignment, needs, ready: is_ready });
        }
    }

    /// The agent's process ends at once.
    pub(super) fn agent_dies(&mut self, run: AgentRun) {
        let Some(agent) = self.agent(run) else { return };
        let wires = agent.session.wires();
        say!(self, "{} agent ends", run.0);
        self.machine_mut(run.0).agent = None;
        self.data_ends(run.0);
        for wire in wires {
            self.close_at_node(wire);
        }
    }

    pub(super) fn tell_agent(&mut self, run: AgentRun, event: Event) {
        let now = self.lease_now(run.0);
        let Some(agent) = self.agent_mut(run) else { return };
        let commands = agent.core.handle(now, event);
        for command in commands {
            if !self.agent_obeys(run, command) {
                return;
            }
        }
        self.arm_agent(run);
    }

    /// Carries out a command; `false` when the agent ended over it.
    fn agent_obeys(&mut self, run @ AgentRun(id, _): AgentRun, command: Command) -> bool {
        match command {
            Command::RememberEpoch(Assignment { program, epoch }) => {
                if self.machine(id).disk_full_until > self.now {
                    self.agent_dies(run);
                    let wait = self.chance.millis(500, 5000);
                    self.start_agent_in(id, wait);
                    return false;
                }
                self.machine_mut(id).epochs.insert(program, epoch);
            }
            Command::Fetch(assignment) => {
                let result = self.fetch(id, assignment.program);
                let takes = self.chance.millis(5, 300);
                self.after(takes, Happening::Fetched(run, assignment, result));
            }
            Command::Start(assignment, deadline) => self.start_sandbox(run, assignment, deadline),
            Command::Renew(assignment, deadline) => {
                self.ask(run, assignment, Request::Renew(deadline));
                self.enforce_in_agent(run, assignment);
            }
            Command::Settle(assignment) => self.settle_data(run, assignment),
            Command::Stop(assignment, grace) => {
                say!(self, "{id} stops {} of epoch {}", name(assignment.program), assignment.epoch);
                let was_told = self.recoded.contains(&assignment.program)
                    || self.machine(id).epochs.get(&assignment.program).is_some_and(|seen| *seen > assignment.epoch);
                if !was_told && !self.checker.was_released(assignment.program, assignment.epoch) {
                    let what = format!("{id} stops {} although nobody asked it to", name(assignment.program));
                    self.violated(Invariant::Evidence, what);
                }
                self.ask(run, assignment, Request::Stop(grace));
            }
            Command::Heartbeat => self.heartbeat(run),
        }
        true
    }

    fn arm_agent(&mut self, run: AgentRun) {
        let Some(at) = self.agent(run).and_then(|agent| agent.core.next_wakeup()) else { return };
        let at = self.moment_of(run.0, at).max(self.now);
        let Some(agent) = self.agent_mut(run) else { return };
        if agent.armed.is_none_or(|armed| at < armed) {
            agent.armed = Some(at);
            self.at(at, Happening::AgentWakes(run));
        }
    }

    pub(super) fn agent_wakes(&mut self, run: AgentRun) {
        if self.agent_puts_off(run, || Happening::AgentWakes(run)) {
            return;
        }
        if let Some(agent) = self.agent_mut(run) {
            agent.armed = None;
            self.tell_agent(run, Event::Tick);
        }
    }

    fn fetch(&mut self, id: super::MachineId, program: ProgramId) -> Result<(), Failure> {
        let fails = self.machine(id).fetch_fails_until > self.now || !self.message_node.answers(self.now);
        if fails && self.message_node.spec(program).is_some() {
            return Err(Failure { kind: FailureKind::Unavailable, message: String::new() });
        }
        Ok(())
    }

    pub(super) fn fetched(&mut self, run: AgentRun, assignment: Assignment, result: Result<(), Failure>) {
        if self.agent_puts_off(run, || Happening::Fetched(run, assignment, result.clone())) {
            return;
        }
        let needs = self.message_node.needs(assignment.program);
        match result {
            Ok(()) => match self.refuses(run, assignment).or_else(|| self.archive_lacks(run, assignment)) {
                Some(why) => self.tell_agent(run, why.event(assignment)),
                None => self.tell_agent(run, Event::Fetched { assignment, needs }),
            },
            Err(failure) => self.tell_agent(run, Event::FetchFailed(assignment, failure)),
        }
    }

    pub(super) fn code_changed(&mut self, run: AgentRun, program: ProgramId) {
        if !self.agent_puts_off(run, || Happening::CodeChanged(run, program)) {
            self.tell_agent(run, Event::CodeChanged(program));
        }
    }

    // The sandboxes, as `compute-node/src/programs/sandboxes.rs` accompanies them.

    fn start_sandbox(&mut self, run: AgentRun, assignment: Assignment, deadline: HolderDeadline) {
        let needs = self.message_node.needs(assignment.program);
        let task = Task { sandbox: None, deadline, needs, is_claimed: false, end: None, pending: Vec::new() };
        let id = SandboxId(self.fresh_number());
        let Some(agent) = self.agent_mut(run) else { return };
        agent.tasks.insert(assignment, task);
        let takes = self.chance.millis(2, 30);
        self.after(takes, Happening::SupervisorStarts(run, assignment, id));
        self.enforce_in_agent(run, assignment);
    }

    pub(super) fn supervisor_starts(&mut self, run: AgentRun, assignment: Assignment, id: SandboxId) {
        if self.agent_puts_off(run, || Happening::SupervisorStarts(run, assignment, id)) {
            return;
        }
        if self.agent(run).is_none_or(|agent| !agent.tasks.contains_key(&assignment)) {
            return;
        }
        let folder = match self.open_data(run, assignment) {
            Ok(folder) => folder,
            Err(Trouble::InArchive(wanted)) => return self.restores(run, assignment, id, *wanted),
            Err(trouble) => return self.not_opened(run, assignment, &trouble),
        };
        let Some(task) = self.agent_mut(run).and_then(|agent| agent.tasks.get_mut(&assignment)) else { return };
        task.sandbox = Some(id);
        let (deadline, needs) = (task.deadline, task.needs);
        let pending = std::mem::take(&mut task.pending);
        self.make_sandbox(run, id, assignment, needs, deadline);
        if let Some(sandbox) = self.sandbox_mut(Place(run.0, id)) {
            sandbox.folder = folder;
        }
        for request in pending {
            self.send_request(Place(run.0, id), request);
        }
    }

    /// Its volumes are not what it shall start with: it does not start.
    pub(super) fn not_opened(&mut self, run: AgentRun, assignment: Assignment, trouble: &Trouble) {
        if let Some(agent) = self.agent_mut(run) {
            agent.tasks.remove(&assignment);
        }
        let failure = Failure { kind: FailureKind::NodeFault, message: format!("{trouble:?}") };
        self.tell_agent(run, Event::SandboxGone(assignment, Some(failure)));
    }

    /// Asks a sandbox's supervisor for something, as soon as there is one.
    fn ask(&mut self, run: AgentRun, assignment: Assignment, request: Request) {
        let Some(task) = self.agent_mut(run).and_then(|agent| agent.tasks.get_mut(&assignment)) else { return };
        if let Request::Renew(deadline) = request {
            task.deadline = task.deadline.extended_by(deadline);
        }
        match task.sandbox {
            Some(sandbox) => self.send_request(Place(run.0, sandbox), request),
            None => task.pending.push(request),
        }
    }

    pub(super) fn reported(&mut self, run: AgentRun, sandbox: SandboxId, state: SandboxState) {
        if self.agent_puts_off(run, || Happening::Reported(run, sandbox, state.clone())) {
            return;
        }
        let Some((assignment, task)) = self.task_mut(run, sandbox) else { return };
        match state {
            SandboxState::Prepared if !task.is_claimed => {
                task.is_claimed = true;
                let deadline = task.deadline;
                self.note_claim(Place(run.0, sandbox), deadline);
                self.send_request(Place(run.0, sandbox), Request::Claim(deadline));
            }
            SandboxState::Ready => self.tell_agent(run, Event::Ready(assignment)),
            SandboxState::Ended(end) => task.end = Some(end),
            _ => {}
        }
    }

    fn task_mut(&mut self, run: AgentRun, sandbox: SandboxId) -> Option<(Assignment, &mut Task)> {
        let tasks = &mut self.agent_mut(run)?.tasks;
        tasks.iter_mut().find(|(_, task)| task.sandbox == Some(sandbox)).map(|(a, task)| (*a, task))
    }

    /// The supervisor has gone: what is left is cleared away.
    pub(super) fn closed(&mut self, run: AgentRun, sandbox: SandboxId) {
        if self.agent_puts_off(run, || Happening::Closed(run, sandbox)) {
            return;
        }
        if self.agent(run).is_some() {
            let takes = self.clear(Place(run.0, sandbox));
            self.after(takes, Happening::Cleared(run, sandbox));
        }
    }

    pub(super) fn cleared(&mut self, run: AgentRun, sandbox: SandboxId) {
        if self.agent_puts_off(run, || Happening::Cleared(run, sandbox)) {
            return;
        }
        let now = self.lease_now(run.0);
        let Some((assignment, task)) = self.task_mut(run, sandbox) else { return };
        let (end, deadline) = (task.end.take(), task.deadline);
        let Some(agent) = self.agent_mut(run) else { return };
        agent.tasks.remove(&assignment);
        let written = self.machine_mut(run.0).sandboxes.remove(&sandbox).and_then(|sandbox| sandbox.end);
        let lease_ended = now >= deadline.soft;
        let killed = || (!lease_ended).then(|| End::SandboxError { message: "its supervisor was killed".to_owned() });
        let failure = end.or(written).or_else(killed).as_ref().and_then(failure_of);
        say!(self, "{} {} of epoch {} is gone: {failure:?}", run.0, name(assignment.program), assignment.epoch);
        self.tell_agent(run, Event::SandboxGone(assignment, failure));
    }

    // A trap: the agent enforces the deadline, and nobody else.

    fn enforce_in_agent(&mut self, run: AgentRun, assignment: Assignment) {
        if !self.has_trap(Trap::DeadlineInAgentOnly) {
            return;
        }
        let task = self.agent(run).and_then(|agent| agent.tasks.get(&assignment));
        if let Some(soft) = task.map(|task| task.deadline.soft) {
            let at = self.moment_of(run.0, soft);
            self.at(at, Happening::AgentEnforces(run, assignment));
        }
    }

    pub(super) fn agent_enforces(&mut self, run: AgentRun, assignment: Assignment) {
        if self.agent_puts_off(run, || Happening::AgentEnforces(run, assignment)) {
            return;
        }
        let now = self.lease_now(run.0);
        let task = self.agent(run).and_then(|agent| agent.tasks.get(&assignment));
        if task.is_some_and(|task| now >= task.deadline.soft) {
            self.ask(run, assignment, Request::Stop(LeaseConfig::default().grace));
        }
    }
}

/// What an end means for the program, as `compute-node/src/programs/launch.rs` says it.
fn failure_of(end: &End) -> Option<Failure> {
    let kind = match end {
        End::Stopped | End::LeaseEnded => return None,
        End::StartFailed { .. } => FailureKind::StartupError,
        End::NeverReady => FailureKind::NeverReady,
        End::Exited { .. } => FailureKind::Exited,
        End::OutOfMemory => FailureKind::OutOfMemory,
        End::BadCode { .. } => FailureKind::BadCode,
        End::SandboxError { .. } => FailureKind::NodeFault,
    };
    Some(Failure { kind, message: String::new() })
}
