//! The story of a world: it begins calmly, then faults strike, then all heals. What is desired has to run again then; a
//! scheduler that restarts has to disturb nothing; and a machine that is lost has to cost no more than lease, margin and start.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::control::Capacity;
use protocol::operation::Operation;
use protocol::{NodeId, ProgramId};
use scheduler::core::placement::{Offer, explain};

use crate::check::Invariant;
use crate::options::Options;
use crate::report::Report;
use crate::time::Clock;

use super::archive::COLLECTS_EVERY;
use super::data::Volumes;
use super::gateway::Gateway;
use super::machine::Machine;
use super::message_node::Act;
use super::scheduler::SchedulerHost;
use super::wire::Path;
use super::{GatewayId, Happening, MachineId, SchedulerId, SchedulerRun, World, machine_of, name, say};

/// Clocks run this much too fast or too slow at most, in parts per million: two of them differ by less than leases allow.
const MAX_RATE: i64 = 9_900;
/// By then all runs again for which nothing counts up a pause: a list that was missed is read again after a minute, and then
/// come the longest pauses of retries and a lease.
const PROMPT: Duration = Duration::from_secs(75);
/// By then all runs again: the longest time that a node is left alone, and a restart's longest pause.
const PATIENT: Duration = Duration::from_secs(420);
/// What the way from the end of a lease to a program that answers takes at most in a calm world: two transactions or four,
/// a heartbeat, fetching, making and starting.
const START: Duration = Duration::from_millis(1700);
/// By then an operator has noticed that reallocation is stopped.
const RESUME: Duration = Duration::from_secs(10);
/// How long a node is drained in a calm world.
const MOVE: Duration = Duration::from_secs(15);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);

/// Tells the story of a seed.
pub(crate) fn run(seed: u64, options: &Options) -> Report {
    let mut world = World::new(seed, options);
    world.live();
    let violation = world.checker.violation.take();
    world.tally.gaps = std::mem::take(&mut world.checker.gaps);
    let data = &world.checker.data;
    (world.tally.data_losses, world.tally.lost_writes) = (data.losses, data.lost_writes);
    world.tally.unrecorded = data.unrecorded;
    world.tally.archive.began = data.restores();
    Report { seed, violation, ended: world.now, tally: world.tally, trace: world.trace.into_lines() }
}

impl World {
    pub(super) fn populate(&mut self) {
        let rate = |world: &mut Self| i32::try_from(world.chance.signed(-MAX_RATE, MAX_RATE)).unwrap_or(0);
        for number in 0..self.plan.schedulers {
            let (rate, at_boot) = (rate(self), self.chance.millis(1000, 1_000_000));
            let clock = Clock::new(self.now, at_boot, rate);
            self.schedulers.push(SchedulerHost::new(SchedulerId(number), clock));
        }
        for number in 0..self.plan.machines {
            let memory_mib = self.chance.one_of(&[512, 1024, 2048, 4096]).unwrap_or(1024);
            let capacity = Capacity {
                vcpus: 32,
                memory_mib,
                disk_mib: 1 << 20,
                pool_mib: self.data_chance.one_of(&[0, 300, 1000, 1000, 1 << 20]).unwrap_or(0),
                architecture: "x86_64".into(),
                cpu_vendor: String::new(),
                cpu_features: Vec::new(),
                isolation: vec![protocol::Isolation::Container],
            };
            let (rate, at_boot) = (rate(self), self.chance.millis(1000, 1_000_000));
            let id = MachineId(number);
            self.machines.push(Machine::new(id, capacity, Clock::new(self.now, at_boot, rate)));
            for scheduler in self.scheduler_ids() {
                self.paths.insert((id, scheduler), Path::default());
            }
        }
        for number in 0..2 {
            self.gateways.push(Gateway::new(GatewayId(number)));
        }
    }

    fn live(&mut self) {
        self.begin();
        let (calm, chaos) = (self.chance.millis(2000, 8000), self.plan.chaos);
        self.pass(calm);
        self.is_chaotic = true;
        self.plan.chaos_ends = self.now + chaos;
        self.after(Duration::ZERO, Happening::Strikes);
        self.pass(chaos);
        self.is_chaotic = false;
        self.heal();
        self.settle();
        self.operators_tidy_up();
        self.pass(Duration::from_secs(8));
        self.moves_lose_nothing();
        self.end_disturbs_nothing();
        self.loss_is_made_good();
        if self.plan.with_archive > 0 {
            // What is nowhere else comes out of the archive.
            self.settle();
        }
    }

    fn begin(&mut self) {
        for id in self.scheduler_ids() {
            self.start_scheduler_in(id, Duration::from_millis(10));
        }
        for id in self.machine_ids() {
            let wait = self.chance.millis(50, 500);
            self.start_agent_in(id, wait);
        }
        for number in 0..self.gateways.len() {
            let id = GatewayId(u8::try_from(number).unwrap_or(0));
            self.after(Duration::from_millis(20), Happening::GatewayFollows(id));
            self.after(Duration::from_millis(500), Happening::GatewayAsks(id));
        }
        self.after(COLLECTS_EVERY, Happening::Collects);
        for _ in 0..self.plan.programs {
            self.act(Act::Publish);
        }
    }

    /// Lets time pass, until something is wrong.
    fn pass(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while self.checker.violation.is_none() && self.step(end) {
            self.store_recovers();
        }
    }

    /// No fault lasts longer than the chaos; what is left are habits.
    fn heal(&mut self) {
        say!(self, "ALL HEALS");
        self.store.well_at = self.now;
        self.store_recovers();
        self.message_node.all_become_good();
    }

    fn settle(&mut self) {
        let healed = self.now;
        let mut was_prompt = false;
        while self.checker.violation.is_none() {
            let Some(what) = self.unsettled(true) else { break };
            if self.now.since(healed) > PATIENT {
                self.violated(Invariant::Liveness, format!("{PATIENT:?} after all healed, {what}"));
            } else if self.now.since(healed) > PROMPT && !was_prompt {
                was_prompt = true;
                if let Some(what) = self.unsettled(false) {
                    self.violated(Invariant::Liveness, format!("{PROMPT:?} after all healed, {what}"));
                }
            }
            if self.now.since(healed) > RESUME {
                self.operators_tidy_up();
            }
            self.pass(LOOK);
        }
        self.tally.settled_after = self.now.since(healed);
        say!(self, "ALL IS WELL");
    }

    /// What is silent by now is gone, and what is drained is so by an order from before the database was restored.
    fn operators_tidy_up(&mut self) {
        let brakes = self.tally.brakes;
        if self.resumed != brakes && self.order(Operation::Resume) {
            self.resumed = brakes;
        }
        for node in self.store.database.draining() {
            self.order(Operation::Undrain { node });
        }
    }

    /// What is not yet as it should be. What failed or was refused before counts only for those who are patient.
    fn unsettled(&self, counts_failed: bool) -> Option<String> {
        self.message_node.all().find_map(|program| {
            let is_in_force = self.message_node.is_in_force(program);
            if !is_in_force {
                let is_known = self.views().any(|process| process.program_view(program).is_some());
                let what = format!("{} is not desired and still there", name(program));
                return (is_known || self.checker.runs_somewhere(program)).then_some(what);
            }
            // Disks remember epochs that the scheduler will count again: what is on them cannot be opened before it has.
            let is_behind = self.checker.counts_again && self.data_of(program).is_some();
            // What the archive has is waited for a while before.
            let may_wait = !counts_failed && (self.has_failed(program) || self.is_archived(program));
            let is_excused = is_behind || may_wait;
            let there = self.room_for(program, true);
            let is_well = self.checker.is_answering(program) || is_excused || there.is_none();
            (!is_well).then(|| format!("{} does not run, on {there:?} it could: {}", name(program), self.why(program)))
        })
    }

    fn views(&self) -> impl Iterator<Item = &scheduler::core::Scheduler> {
        self.schedulers.iter().filter_map(|host| host.process.as_ref()).map(|process| &process.core)
    }

    /// Whether some node is left alone for it, or it failed: then the next try has its time.
    fn has_failed(&self, program: ProgramId) -> bool {
        let views = self.views().filter_map(|core| core.program_view(program));
        let mut failed = views.map(|view| !view.avoids.is_empty() || view.place.is_some_and(|p| p.failure.is_some()));
        failed.any(|failed| failed)
    }

    /// A node that has it or has room for it; `None` when no node that takes programs has. `is_patient` counts what the archive
    /// has as well.
    fn room_for(&self, program: ProgramId, is_patient: bool) -> Option<MachineId> {
        let spec = self.message_node.spec(program)?;
        let database = &self.store.database;
        let assigned = database.open().find(|(assigned, ..)| *assigned == program);
        let has_room = |id: MachineId| {
            let node = self.machine(id).node;
            let on_it = database.open().filter(|(_, on, _)| *on == node).map(|(assigned, ..)| assigned);
            let kept = self.kept_on(node).filter(|kept| *kept != program);
            let needs = on_it.chain(kept).filter_map(|on| self.message_node.spec(on)).map(|spec| spec.needs);
            let (memory, pool) = needs.fold((0, 0), |(m, p), needs| (m + needs.memory_mib, p + needs.pool_mib));
            memory + spec.needs.memory_mib <= self.memory_of(id)
                && pool + spec.needs.pool_mib <= self.machine(id).capacity.pool_mib
        };
        let is_in_archive = is_patient && self.has_only_archive(program);
        let fits = |id: &MachineId| has_room(*id) && (is_in_archive || self.can_begin_on(program, *id));
        assigned.map(|(_, node, _)| machine_of(node)).or_else(|| self.eligible().find(fits))
    }

    /// Whether nothing of a program is on any machine that is on, and the archive has it. Otherwise that is waited for or used.
    fn has_only_archive(&self, program: ProgramId) -> bool {
        let mut there = self.machines.iter().filter(|machine| machine.is_on).filter_map(|on| on.pool.get(program));
        let has_none = !there.any(|volumes| volumes.live().is_some() || volumes.newest().is_some());
        let counts = |content| self.checker.data.is_on_line(program, content);
        has_none && self.is_archived(program) && self.archive.can_restore(program, counts)
    }

    /// The programs whose copies a node keeps, or shall keep: their room is not free.
    fn kept_on(&self, node: NodeId) -> impl Iterator<Item = ProgramId> {
        let views = self.views().flat_map(move |core| {
            let views = self.message_node.all().filter_map(move |program| core.program_view(program));
            views.filter(move |view| view.data.as_ref().and_then(|data| data.standby).is_some_and(|(on, _)| on == node))
        });
        views.map(|view| view.spec.id)
    }

    /// Whether a program can go on there with what it wrote: on the node that wrote last, if that has it, or where the newest
    /// copy is, if the database knows. A program that never ran can begin anywhere.
    fn can_begin_on(&self, program: ProgramId, id: MachineId) -> bool {
        if self.data_of(program).is_none() {
            return true;
        }
        let database = &self.store.database;
        if self.checker.counts_again {
            return false;
        }
        let Some((writer, epoch)) = database.writer(program) else { return true };
        let newest = |machine: &Machine| {
            let sets = machine.pool.get(program)?.known.sets().map(|set| set.id);
            sets.filter(|id| database.is_newest_line(program, *id)).max()
        };
        let machine = self.machine(id);
        // Where the newest epoch ran the disk is lost, and nobody else has anything of it: the program waits for it, and says so.
        let of_epoch = |on: &Machine, epoch| {
            on.pool.get(program).is_some_and(|volumes| {
                volumes.live().is_some_and(|(live, _)| live == epoch)
                    || volumes.newest().is_some_and(|set| set.id.epoch >= epoch)
            })
        };
        let ran = self.checker.data.newest_started(program);
        if ran.is_some_and(|ran| ran > epoch || !self.machines.iter().any(|on| of_epoch(on, ran))) {
            return false;
        }
        let has_live = |on: &Machine| {
            on.is_on && on.pool.get(program).and_then(Volumes::live).is_some_and(|(live, _)| live == epoch)
        };
        // As long as that may be asked, nothing older is started from.
        if has_live(self.machine(machine_of(writer))) {
            return writer == machine.node;
        }
        let has_newest = newest(machine).is_some() && newest(machine) >= self.machines.iter().filter_map(newest).max();
        let confirmed = |core: &scheduler::core::Scheduler| core.program_view(program)?.data?.standby;
        let is_confirmed = self.views().any(|core| confirmed(core) == Some((machine.node, true)));
        is_confirmed && database.standby(program) == Some(machine.node) && has_newest
    }

    /// What the scheduler says about a program.
    fn why(&self, program: ProgramId) -> String {
        let Some(core) = self.views().next() else { return "no scheduler runs".to_owned() };
        let Some(view) = core.program_view(program) else { return "no scheduler knows it".to_owned() };
        let offers: Vec<_> =
            self.machines.iter().filter_map(|m| core.node_view(m.node)).map(|view| view.offer).collect();
        let explained = explain(&view.spec, offers.iter(), |node| view.avoids.contains(&node));
        let place = view.place.map(|place| machine_of(place.node));
        let note = view.note.map(|note| format!("{note}; ")).unwrap_or_default();
        format!("{:?} on {place:?}, {note}{explained}", view.state)
    }

    fn eligible(&self) -> impl Iterator<Item = MachineId> + '_ {
        let on = self.machines.iter().filter(|machine| machine.is_on).map(|machine| machine.id);
        on.filter(|id| !self.plan.withdrawn.contains(id))
    }

    /// A calm world's scheduler ends, and starts again or leaves the lead to another: nothing is assigned anew. While it has
    /// the store for itself, and is back at once, no program stops answering either.
    fn end_disturbs_nothing(&mut self) {
        // A node that left the network is not let in again, so that what it still runs ends with its lease.
        // Nor does a program stay that its owner wants elsewhere, once there is room.
        let stays = |program| {
            let machine = self.checker.machine_of(program);
            machine.is_some_and(|id| !self.plan.withdrawn.contains(&id)) && !self.store.database.is_to_move(program)
        };
        let staying: Vec<_> = self.message_node.in_force().filter(|program| stays(*program)).collect();
        let starts: Vec<_> = staying.iter().map(|program| self.checker.starts(*program)).collect();
        let assigned: BTreeMap<_, _> = self.store.database.open().map(|(program, _, epoch)| (program, epoch)).collect();
        let leads = |host: &&SchedulerHost| host.process.is_some();
        let Some(leader) = self.schedulers.iter().find(leads).map(|host| host.id) else { return };
        self.scheduler_dies(leader);
        let wait = self.chance.millis(100, 1000);
        self.start_scheduler_in(leader, wait);
        self.pass(Duration::from_secs(12));
        let now: BTreeMap<_, _> = self.store.database.open().map(|(program, _, epoch)| (program, epoch)).collect();
        for (program, starts) in staying.into_iter().zip(starts) {
            let stopped = !self.checker.is_answering(program) || self.checker.starts(program) != starts;
            if now.get(&program) != assigned.get(&program) {
                let what = format!("{} is assigned anew because a scheduler ended", name(program));
                self.violated(Invariant::Evidence, what);
            } else if stopped && self.leadership.is_none() {
                self.violated(Invariant::Evidence, format!("{} stopped because a scheduler restarted", name(program)));
            }
            if self.leadership.is_some() {
                self.tally.outlived[usize::from(stopped)] += 1;
            }
        }
    }

    /// In a calm world a node is drained, and then let in again: programs move with all that they wrote.
    fn moves_lose_nothing(&mut self) {
        let data = &self.checker.data;
        let has_data = |program: &ProgramId| data.line(*program).is_some();
        let in_force = self.message_node.in_force().filter(has_data);
        let place = |p: ProgramId| Some((p, self.checker.machine_of(p)?, data.losses_of(p)));
        let places: Vec<_> = in_force.filter_map(place).collect();
        let count = |id: MachineId| places.iter().filter(|(_, on, _)| *on == id).count();
        let Some(drained) = self.eligible().max_by_key(|id| count(*id)).filter(|id| count(*id) > 0) else { return };
        let (node, reason) = (self.machine(drained).node, "maintenance".to_owned());
        if self.checker.violation.is_some() || !self.order(Operation::Drain { node, reason }) {
            return;
        }
        self.pass(MOVE);
        let drained_of: Vec<_> = places.into_iter().filter(|(_, on, _)| *on == drained).collect();
        for (program, before, _) in &drained_of {
            let has_moved = self.checker.machine_of(*program).is_some_and(|on| on != *before);
            self.tally.moves[usize::from(has_moved)] += 1;
        }
        self.order(Operation::Undrain { node });
        self.settle();
        self.pass(Duration::from_secs(8));
        for (program, _, losses) in drained_of {
            if self.checker.data.losses_of(program) > losses {
                let what = format!("{} lost writes as {drained} was drained", name(program));
                self.violated(Invariant::Moves, what);
            }
        }
    }

    /// In a calm world a machine is lost: everything on it that fits elsewhere runs again within lease, margin and start.
    fn loss_is_made_good(&mut self) {
        let count =
            |id: MachineId| self.message_node.in_force().filter(|p| self.checker.machine_of(*p) == Some(id)).count();
        let fullest = self.eligible().max_by_key(|id| count(*id));
        let Some(lost) = fullest.filter(|_| self.eligible().count() > 1 && self.checker.violation.is_none()) else {
            return;
        };
        let on_it = self.message_node.in_force().filter(|program| self.checker.machine_of(*program) == Some(lost));
        let programs: Vec<_> = on_it.filter(|program| !self.has_failed(*program)).collect();
        let since = self.now;
        let longest = self.scheduler_ids().into_iter().map(|id| self.longest_lease(id)).max().unwrap_or_default();
        // A database that came back a moment ago may have nodes drained that are not.
        self.operators_tidy_up();
        // One loss more must not be one too many.
        self.order(Operation::Resume);
        let gaps = self.checker.gaps.len();
        self.tally.losses += 1;
        self.machine_stops(lost, true);
        let end = since + longest + START;
        while self.checker.violation.is_none() && self.now < end {
            self.pass(end.since(self.now).min(LOOK));
        }
        self.tally.recoveries.extend(&self.checker.gaps[gaps..]);
        for program in programs {
            let Some(there) = self.room_for(program, false) else { continue };
            if !self.checker.is_answering(program) && !self.has_failed(program) {
                let bound = end.since(since);
                let why = self.why(program);
                let what = format!("{} does not run on {there} {bound:?} after a loss: {why}", name(program));
                self.violated(Invariant::Liveness, what);
            }
        }
    }

    // What the checker looks at.

    pub(crate) fn offer(&self, run: SchedulerRun, node: NodeId) -> Option<Offer> {
        self.process(run)?.core.node_view(node).map(|view| view.offer)
    }

    pub(crate) fn memory_of(&self, id: MachineId) -> u64 {
        self.machine(id).capacity.memory_mib
    }

    /// What the sandboxes on a machine take, those that are being made included.
    pub(crate) fn memory_taken(&self, id: MachineId) -> u64 {
        let sandboxes = self.machine(id).sandboxes.values();
        sandboxes.filter(|sandbox| sandbox.is_there()).map(|sandbox| sandbox.needs.memory_mib).sum()
    }
}
