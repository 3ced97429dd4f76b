//! Sandboxes: the shell around the supervisor's [`Core`], the kernel's fuse, and a model of what runs inside.
//!
//! ```text
//!   body:   None ──prepared──▶ Empty ──claimed──▶ Occupied ──killed, crashed, ended──▶ Gone
//! ```
//! From the claim on the program's code is in it, and it counts as running until the last process has died. A supervisor that
//! dies takes the sandbox with it: the kernel binds the init to it.

use std::time::Duration;

use ::sandbox::spec::{End, SandboxState};
use ::sandbox::supervisor::core::{Command, Core, Event};
use compute_node::core::persistent::{Assignment, Needs};
use guest::{FromGuest, StartFailure};
use lease::{BootTime, HolderDeadline};

use crate::check::Invariant;
use crate::time::Moment;
use crate::trap::Trap;

use super::{AgentRun, Happening, Life, MachineId, Place, Run, SandboxId, World, name, say};

/// A word through a Unix socket.
const SOCKET: Duration = Duration::from_micros(200);
/// Longer than any world lasts.
const NEVER: Duration = Duration::from_secs(1_000_000);
/// How long a program has to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What the agent asks of a supervisor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    Claim(HolderDeadline),
    Renew(HolderDeadline),
    Stop(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    None,
    Empty,
    Occupied,
    Gone,
}

/// A sandbox's directory, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) assignment: Assignment,
    pub(crate) needs: Needs,
    pub(crate) supervisor: Option<Supervisor>,
    /// The claim that an agent noted.
    claim: Option<HolderDeadline>,
    pub(crate) body: Body,
    /// The folder of its volumes.
    pub(crate) folder: Option<u64>,
    /// How it ended, as the supervisor wrote it down.
    pub(crate) end: Option<End>,
    /// Whether the program was asked to end already.
    is_asked: bool,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    core: Core,
    fuse: BootTime,
    pub(crate) paused_until: Moment,
    armed: Option<Moment>,
    /// The agent that is connected.
    peer: Option<Run>,
    /// While it makes the sandbox it does nothing else.
    prepares_until: Moment,
}

impl Supervisor {
    fn busy_until(&self) -> Moment {
        self.paused_until.max(self.prepares_until)
    }
}

impl Sandbox {
    /// Until when its supervisor does not answer.
    pub(crate) fn hangs_until(&self) -> Option<Moment> {
        self.supervisor.as_ref().map(Supervisor::busy_until)
    }

    /// Whether it takes room.
    pub(crate) fn is_there(&self) -> bool {
        self.body != Body::Gone
    }

    /// What a new agent makes of it; `None` when it is to be cleared away.
    pub(crate) fn adoptable(&self) -> Option<(Assignment, Needs, HolderDeadline, bool)> {
        let is_ready = match self.supervisor.as_ref()?.core.state() {
            SandboxState::Ready => true,
            SandboxState::Starting => false,
            _ => return None,
        };
        Some((self.assignment, self.needs, self.claim?, is_ready))
    }
}

impl World {
    pub(super) fn sandbox(&self, Place(machine, id): Place) -> Option<&Sandbox> {
        self.machine(machine).sandboxes.get(&id)
    }

    pub(super) fn sandbox_mut(&mut self, Place(machine, id): Place) -> Option<&mut Sandbox> {
        self.machine_mut(machine).sandboxes.get_mut(&id)
    }

    fn supervisor_mut(&mut self, place: Place) -> Option<&mut Supervisor> {
        self.sandbox_mut(place)?.supervisor.as_mut()
    }

    /// An agent starts a supervisor for a new sandbox.
    pub(super) fn make_sandbox(
        &mut self,
        run: AgentRun,
        id: SandboxId,
        assignment: Assignment,
        needs: Needs,
        deadline: HolderDeadline,
    ) {
        let place = Place(run.0, id);
        let deadline = self.as_told(run.0, assignment, deadline);
        let (core, commands) = Core::new(deadline);
        let takes = self.chance.millis(20, 250);
        let supervisor = Supervisor {
            core,
            fuse: deadline.fuse,
            paused_until: Moment::ZERO,
            armed: None,
            peer: Some(run.1),
            prepares_until: self.now + takes,
        };
        let sandbox = Sandbox {
            assignment,
            needs,
            supervisor: Some(supervisor),
            claim: None,
            body: Body::None,
            folder: None,
            end: None,
            is_asked: false,
        };
        self.machine_mut(run.0).sandboxes.insert(id, sandbox);
        say!(self, "{place} supervisor of {} epoch {} starts", name(assignment.program), assignment.epoch);
        self.supervisor_obeys(place, commands);
        let well = self.machine(run.0).faulty_until <= self.now;
        self.after(takes, Happening::Prepared(place, well));
    }

    /// The deadline as the supervisor is told it, and whether it keeps its own order and ends before the scheduler's.
    fn as_told(&mut self, machine: MachineId, assignment: Assignment, deadline: HolderDeadline) -> HolderDeadline {
        let HolderDeadline { soft, kill, fuse } = deadline;
        let deadline = match self.trap {
            Some(Trap::SoftConstantAsHard) => HolderDeadline { soft, kill: soft, fuse: soft },
            // Nobody but the agent knows when.
            Some(Trap::DeadlineInAgentOnly) => {
                HolderDeadline { soft: soft + NEVER, kill: kill + NEVER, fuse: fuse + NEVER }
            }
            _ => deadline,
        };
        let burns = self.moment_of(machine, deadline.fuse);
        let expires = self.checker.expiry(assignment.program, assignment.epoch);
        if expires.is_none_or(|expires| burns >= expires) {
            let what = format!("{} burns at {burns}, and its lease ends at {expires:?}", name(assignment.program));
            self.violated(Invariant::Deadlines, what);
        }
        let grace = lease::LeaseConfig::default().grace;
        if deadline.soft.until(deadline.kill) < grace || deadline.fuse <= deadline.kill {
            self.violated(Invariant::Deadlines, format!("no time between {deadline:?}"));
        }
        deadline
    }

    /// Notes on disk whose sandbox it becomes.
    pub(super) fn note_claim(&mut self, place: Place, deadline: HolderDeadline) {
        if let Some(sandbox) = self.sandbox_mut(place) {
            sandbox.claim = Some(deadline);
        }
    }

    pub(super) fn send_request(&mut self, place: Place, request: Request) {
        self.after(SOCKET, Happening::Asked(place, request));
    }

    /// A new agent connects to a supervisor.
    pub(super) fn supervise(&mut self, place: Place, run: Run) {
        if let Some(supervisor) = self.supervisor_mut(place) {
            supervisor.peer = Some(run);
        }
    }

    /// Puts off what a supervisor cannot do now. Returns whether it did.
    fn supervisor_puts_off(&mut self, place: Place, happening: impl FnOnce() -> Happening) -> bool {
        let asleep = self.machine(place.0).asleep_until;
        let Some(busy) = self.sandbox(place).and_then(Sandbox::hangs_until) else { return false };
        let until = busy.max(asleep);
        if until > self.now {
            self.at(until, happening());
        }
        until > self.now
    }

    pub(super) fn asked(&mut self, place: Place, request: Request) {
        if self.supervisor_puts_off(place, || Happening::Asked(place, request)) {
            return;
        }
        let Some(assignment) = self.sandbox(place).map(|sandbox| sandbox.assignment) else { return };
        let event = match request {
            Request::Claim(deadline) => {
                Event::Claim { deadline: self.as_told(place.0, assignment, deadline), ready_within: READY_WITHIN }
            }
            Request::Renew(deadline) => Event::Renew(self.as_told(place.0, assignment, deadline)),
            Request::Stop(grace) => Event::Stop { grace },
        };
        self.tell_supervisor(place, event);
    }

    pub(super) fn prepared(&mut self, place: Place, well: bool) {
        if self.supervisor_puts_off(place, || Happening::Prepared(place, well)) {
            return;
        }
        let Some(sandbox) = self.sandbox_mut(place).filter(|sandbox| sandbox.supervisor.is_some()) else { return };
        if well {
            sandbox.body = Body::Empty;
            self.tell_supervisor(place, Event::Prepared);
        } else {
            self.tally.failed_sandboxes += 1;
            self.tell_supervisor(place, Event::PrepareFailed(String::new()));
        }
    }

    pub(super) fn supervisor_wakes(&mut self, place: Place) {
        if self.supervisor_puts_off(place, || Happening::SupervisorWakes(place)) {
            return;
        }
        if let Some(supervisor) = self.supervisor_mut(place) {
            supervisor.armed = None;
            self.tell_supervisor(place, Event::Tick);
        }
    }

    pub(super) fn guest_says(&mut self, place: Place, message: FromGuest) {
        if !self.supervisor_puts_off(place, || Happening::GuestSays(place, message.clone())) {
            self.tell_supervisor(place, Event::Guest(message));
        }
    }

    fn tell_supervisor(&mut self, place: Place, event: Event) {
        let now = self.lease_now(place.0);
        let was_tick = event == Event::Tick;
        for event in std::iter::once(event).chain((!was_tick).then_some(Event::Tick)) {
            let Some(supervisor) = self.supervisor_mut(place) else { return };
            let commands = supervisor.core.handle(now, event);
            self.supervisor_obeys(place, commands);
        }
        self.arm_supervisor(place);
    }

    fn arm_supervisor(&mut self, place: Place) {
        let Some(supervisor) = self.supervisor_mut(place) else { return };
        let Some(at) = supervisor.core.next_wakeup() else { return };
        let at = self.moment_of(place.0, at).max(self.now);
        let Some(supervisor) = self.supervisor_mut(place) else { return };
        if supervisor.armed.is_none_or(|armed| at < armed) {
            supervisor.armed = Some(at);
            self.at(at, Happening::SupervisorWakes(place));
        }
    }

    fn supervisor_obeys(&mut self, place: Place, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::SetFuse(at) => self.set_fuse(place, at),
                Command::Claim => self.occupy(place),
                Command::StopProgram { grace } => self.ask_program_to_end(place, grace),
                Command::Kill => self.kill(place),
                Command::Report => self.report(place),
                Command::Finish(end) => {
                    if let Some(sandbox) = self.sandbox_mut(place) {
                        sandbox.end = Some(end);
                    }
                }
            }
        }
        let has_ended = |supervisor: &mut Supervisor| matches!(supervisor.core.state(), SandboxState::Ended(_));
        if self.supervisor_mut(place).is_some_and(has_ended) {
            self.supervisor_ends(place);
        }
    }

    fn report(&mut self, place: Place) {
        let Some(supervisor) = self.supervisor_mut(place) else { return };
        if let Some(peer) = supervisor.peer {
            let state = supervisor.core.state();
            self.after(SOCKET, Happening::Reported(AgentRun(place.0, peer), place.1, state));
        }
    }

    /// The supervisor's process ends, and its agent notices.
    fn supervisor_ends(&mut self, place: Place) {
        let Some(supervisor) = self.sandbox_mut(place).and_then(|sandbox| sandbox.supervisor.take()) else { return };
        if let Some(peer) = supervisor.peer {
            self.after(SOCKET * 2, Happening::Closed(AgentRun(place.0, peer), place.1));
        }
    }

    /// Somebody kills the supervisor; the kernel kills the sandbox with it.
    pub(super) fn kill_supervisor(&mut self, place: Place) {
        self.supervisor_ends(place);
        let takes = self.chance.millis(0, 30);
        self.kernel_at(self.now + takes, Happening::Dies(place));
    }

    fn set_fuse(&mut self, place: Place, at: BootTime) {
        if let Some(supervisor) = self.supervisor_mut(place) {
            supervisor.fuse = at;
        }
        let burns = self.moment_of(place.0, at);
        self.kernel_at(burns, Happening::FuseBurns(place));
    }

    pub(super) fn fuse_burns(&mut self, place: Place) {
        let (now, asleep) = (self.lease_now(place.0), self.machine(place.0).asleep_until);
        let Some(fuse) = self.supervisor_mut(place).map(|supervisor| supervisor.fuse) else { return };
        if asleep > self.now {
            return self.kernel_at(asleep, Happening::FuseBurns(place));
        }
        if fuse > now {
            // It was set anew, or somebody turned the clock back.
            if self.has_trap(Trap::WallClockLease) {
                let burns = self.moment_of(place.0, fuse);
                self.kernel_at(burns, Happening::FuseBurns(place));
            }
            return;
        }
        say!(self, "{place} fuse burns through");
        self.tally.fuses += 1;
        self.supervisor_ends(place);
        // After a sleep the kernel is faster than any process: timers are served before processes run.
        let overslept = asleep == self.now;
        let takes = if overslept { Duration::ZERO } else { self.chance.millis(0, 30) };
        self.kernel_at(self.now + takes, Happening::Dies(place));
    }

    /// How long a sandbox on a machine that sleeps can still count as running: until its fuse, which counts on.
    pub(crate) fn is_live(&self, place: Place) -> bool {
        let machine = self.machine(place.0);
        let Some(sandbox) = self.sandbox(place).filter(|sandbox| sandbox.body == Body::Occupied) else { return false };
        let sleeps = machine.asleep_until >= self.now && machine.asleep_until != Moment::ZERO;
        let fuse = sandbox.supervisor.as_ref().map(|supervisor| supervisor.fuse);
        machine.is_on && !(sleeps && fuse.is_none_or(|fuse| self.lease_now(place.0) >= fuse))
    }

    // What runs inside.

    /// The sandbox becomes the program's.
    fn occupy(&mut self, place: Place) {
        let Some(sandbox) = self.sandbox_mut(place) else { return };
        sandbox.body = Body::Occupied;
        let assignment = sandbox.assignment;
        say!(self, "{place} {} runs under epoch {}", name(assignment.program), assignment.epoch);
        if let Some((invariant, what)) = self.checker.enter(place, assignment) {
            self.violated(invariant, what);
        }
        self.check_room(place.0);
        self.data_starts(place);
        let habit = self.message_node.habit(assignment.program);
        if habit.fails_to_start {
            let message = FromGuest::Failed { kind: StartFailure::Startup, message: String::new() };
            return self.after(habit.starts_in, Happening::GuestSays(place, message));
        }
        if !habit.never_ready {
            self.after(habit.starts_in, Happening::Becomes(place, Life::Ready));
        }
        if let Some(lives) = habit.crashes_after {
            let lives = lives + self.chance.mostly_short(lives);
            self.after(lives, Happening::Becomes(place, Life::Crashes));
        }
    }

    fn ask_program_to_end(&mut self, place: Place, grace: Duration) {
        let Some(sandbox) = self.sandbox_mut(place) else { return };
        if std::mem::replace(&mut sandbox.is_asked, true) {
            return;
        }
        let program = sandbox.assignment.program;
        // The init kills it after the grace.
        let takes = self.message_node.habit(program).ends_in.min(grace);
        self.after(takes, Happening::Becomes(place, Life::Exits));
    }

    pub(super) fn becomes(&mut self, place: Place, life: Life) {
        let asleep = self.machine(place.0).asleep_until;
        let Some(sandbox) = self.sandbox(place).filter(|sandbox| sandbox.body == Body::Occupied) else { return };
        let program = sandbox.assignment.program;
        if asleep > self.now {
            return self.at(asleep, Happening::Becomes(place, life));
        }
        if life == Life::Crashes && !self.is_chaotic {
            return;
        }
        let message = match life {
            Life::Ready => {
                say!(self, "{place} {} answers", name(program));
                self.answers(place, program);
                FromGuest::Ready
            }
            Life::Crashes => {
                self.tally.crashes += 1;
                FromGuest::Exited { code: Some(1), signal: None }
            }
            Life::Exits => FromGuest::Exited { code: Some(0), signal: None },
        };
        if life != Life::Ready {
            self.body_gone(place);
        }
        self.after(SOCKET, Happening::GuestSays(place, message));
    }

    /// Everything in the sandbox is killed; the supervisor waits for that.
    fn kill(&mut self, place: Place) {
        let takes = self.chance.millis(1, 40);
        self.kernel_at(self.now + takes, Happening::Dies(place));
    }

    pub(super) fn dies(&mut self, place: Place) {
        let asleep = self.machine(place.0).asleep_until;
        if asleep > self.now {
            return self.kernel_at(asleep, Happening::Dies(place));
        }
        self.body_gone(place);
        if !self.supervisor_puts_off(place, || Happening::Dies(place)) {
            self.tell_supervisor(place, Event::Gone { out_of_memory: false });
        }
    }

    /// The last process of a sandbox has died.
    pub(super) fn body_gone(&mut self, place: Place) {
        let now = self.now;
        let Some(sandbox) = self.sandbox_mut(place) else { return };
        let was = std::mem::replace(&mut sandbox.body, Body::Gone);
        let assignment = sandbox.assignment;
        if was == Body::Occupied {
            say!(self, "{place} {} of epoch {} runs no more", name(assignment.program), assignment.epoch);
            let is_desired = self.message_node.is_in_force(assignment.program);
            self.checker.leave(place, assignment.program, is_desired, now);
        }
    }

    /// Kills what is left of a sandbox. Returns how long that takes, until it is certainly gone.
    pub(super) fn clear(&mut self, place: Place) -> Duration {
        let takes = self.chance.millis(1, 40);
        if self.sandbox(place).is_some_and(|sandbox| sandbox.supervisor.is_some()) {
            self.supervisor_ends(place);
        }
        self.kernel_at(self.now + takes, Happening::Dies(place));
        takes + Duration::from_millis(1)
    }

    /// The same before an agent begins: it waits for that.
    pub(super) fn clear_at_once(&mut self, place: Place) {
        if let Some(sandbox) = self.sandbox_mut(place) {
            sandbox.supervisor = None;
        }
        self.body_gone(place);
        self.machine_mut(place.0).sandboxes.remove(&place.1);
    }
}
