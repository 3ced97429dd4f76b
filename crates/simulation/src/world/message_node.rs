//! A model of the message node: the programs that users publish, and what they are like when they run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use compute_node::core::persistent::Needs;
use protocol::ProgramId;
use scheduler::core::{Gone, ProgramSpec};
use serde_json::json;

use crate::chance::Chance;
use crate::time::Moment;

use super::data::{VOLUME_MIB, pace_of_writes};
use super::{AgentRun, Happening, SchedulerRun, World, name, say};

/// Programs in one world at most.
const MAX_PROGRAMS: u8 = 80;

/// What a program is like when it runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habit {
    pub(crate) starts_in: Duration,
    pub(crate) ends_in: Duration,
    pub(crate) never_ready: bool,
    pub(crate) fails_to_start: bool,
    pub(crate) crashes_after: Option<Duration>,
    pub(crate) writes_every: Duration,
}

#[derive(Debug)]
struct Published {
    spec: Arc<ProgramSpec>,
    habit: Habit,
    /// Why its message is not in force, when it is not.
    gone: Option<Gone>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct MessageNode {
    programs: BTreeMap<ProgramId, Published>,
    /// Those that were not in force at some time.
    taken_back: BTreeSet<ProgramId>,
    /// Until then it does not answer, or answers that there is nothing.
    pub(crate) silent_until: Moment,
    pub(crate) empty_until: Moment,
}

/// What users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Publish,
    Forget,
    /// The balance does not suffice any more, or does again.
    Unpay,
    Pay(ProgramId),
    Update,
    ForgetThis(ProgramId),
}

impl MessageNode {
    pub(crate) fn answers(&self, now: Moment) -> bool {
        self.silent_until <= now
    }

    pub(crate) fn spec(&self, program: ProgramId) -> Option<Arc<ProgramSpec>> {
        self.programs.get(&program).map(|published| published.spec.clone())
    }

    pub(crate) fn habit(&self, program: ProgramId) -> Habit {
        self.programs.get(&program).map(|published| published.habit).unwrap_or_default()
    }

    /// What a node finds that it needs.
    pub(crate) fn needs(&self, program: ProgramId) -> Needs {
        let needs = self.programs.get(&program).map(|published| published.spec.needs).unwrap_or_default();
        Needs { vcpus: u32::try_from(needs.vcpus).unwrap_or(u32::MAX), memory_mib: needs.memory_mib }
    }

    pub(crate) fn is_in_force(&self, program: ProgramId) -> bool {
        self.programs.get(&program).is_some_and(|published| published.gone.is_none())
    }

    pub(crate) fn gone(&self, program: ProgramId) -> Option<Gone> {
        self.programs.get(&program).and_then(|published| published.gone)
    }

    pub(crate) fn was_taken_back(&self, program: ProgramId) -> bool {
        self.taken_back.contains(&program)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = ProgramId> + '_ {
        self.programs.keys().copied()
    }

    pub(crate) fn in_force(&self) -> impl Iterator<Item = ProgramId> + '_ {
        self.all().filter(|program| self.is_in_force(*program))
    }

    /// From now on every program works.
    pub(crate) fn all_become_good(&mut self) {
        for published in self.programs.values_mut() {
            let habit = &mut published.habit;
            (habit.never_ready, habit.fails_to_start, habit.crashes_after) = (false, false, None);
            habit.starts_in = habit.starts_in.min(Duration::from_millis(500));
        }
    }

    /// Somebody publishes a program. Returns its id, unless the world is full.
    fn publish(
        &mut self,
        chance: &mut Chance,
        data_chance: &mut Chance,
        trouble: u32,
        with_data: u32,
        is_archived: bool,
    ) -> Option<ProgramId> {
        let number = u8::try_from(self.programs.len()).ok().filter(|number| *number < MAX_PROGRAMS)? + 1;
        let id = ProgramId::from_bytes([number; 32]);
        let memory = chance.one_of(&[128, 128, 256, 512]).unwrap_or(128);
        let data = data_chance.percent(with_data).then(|| data_chance.percent(25));
        let content = content(number, memory, data, is_archived).to_string();
        let spec = ProgramSpec::read(id, content).expect("it is a program's content").expect("it is persistent");
        let is_bad = chance.percent(trouble);
        let habit = Habit {
            starts_in: chance.mostly_short(Duration::from_millis(1500)),
            ends_in: chance.mostly_short(Duration::from_secs(12)),
            never_ready: is_bad && chance.percent(20),
            fails_to_start: is_bad && chance.percent(20),
            crashes_after: (is_bad && chance.percent(60)).then(|| chance.millis(100, 15_000)),
            writes_every: pace_of_writes(data_chance.between(0, 4)),
        };
        self.programs.insert(id, Published { spec: Arc::new(spec), habit, gone: None });
        Some(id)
    }
}

/// A program's content. `data` is whether one with a volume would rather start with nothing than wait for it.
fn content(number: u8, memory: u64, data: Option<bool>, is_archived: bool) -> serde_json::Value {
    let class = if is_archived { "store" } else { "host" };
    let volume = json!({"mount": "/data", "name": "db", "persistence": class, "size_mib": VOLUME_MIB});
    let volumes: Vec<_> = data.map(|_| volume).into_iter().collect();
    let on_loss = if data == Some(true) { "fresh" } else { "wait" };
    json!({
        "address": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "time": number, "allow_amend": true,
        "environment": {}, "metadata": {"on_data_loss": on_loss}, "resources": {"vcpus": 1, "memory": memory}, "volumes": volumes, "type": "vm-function",
        "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "aa"},
        "runtime": {"ref": "bb", "comment": ""}, "on": {"http": true, "persistent": true},
    })
}

impl World {
    /// A user does something.
    pub(super) fn act(&mut self, act: Act) {
        let in_force: Vec<_> = self.message_node.in_force().collect();
        let some = self.chance.one_of(&in_force);
        match act {
            Act::Publish => {
                let Some(id) = self.publish() else { return };
                self.tally.programs += 1;
                say!(self, "{} is published", name(id));
                self.tell_followers(id);
            }
            Act::Forget => self.take_back(some, Gone::Forgotten),
            Act::ForgetThis(program) => {
                let is_there = self.message_node.is_in_force(program);
                self.take_back(Some(program).filter(|_| is_there), Gone::Forgotten);
            }
            Act::Unpay => {
                self.take_back(some, Gone::Removed);
                if let Some(program) = some {
                    let until = self.chance.millis(10, 20_000);
                    self.after(until, Happening::Act(Act::Pay(program)));
                }
            }
            Act::Pay(program) => {
                let published = self.message_node.programs.get_mut(&program);
                if let Some(published) = published.filter(|published| published.gone == Some(Gone::Removed)) {
                    published.gone = None;
                    say!(self, "{} is paid for again", name(program));
                    self.tell_followers(program);
                }
            }
            Act::Update => {
                let Some(program) = some else { return };
                say!(self, "{} has new code", name(program));
                self.tally.updates += 1;
                self.recoded.insert(program);
                for id in self.machine_ids() {
                    let run = AgentRun(id, self.machine(id).run);
                    let takes = self.chance.millis(1, 300);
                    self.after(takes, Happening::CodeChanged(run, program));
                }
            }
        }
    }

    fn publish(&mut self) -> Option<ProgramId> {
        let (trouble, with_data) = (self.plan.trouble, self.plan.with_data);
        let is_archived = self.archive_chance.percent(self.plan.with_archive);
        self.message_node.publish(&mut self.chance, &mut self.data_chance, trouble, with_data, is_archived)
    }

    fn take_back(&mut self, program: Option<ProgramId>, why: Gone) {
        let Some(program) = program else { return };
        self.tally.forgotten_moving += u64::from(why == Gone::Forgotten && self.is_moving(program));
        let Some(published) = self.message_node.programs.get_mut(&program) else { return };
        published.gone = Some(why);
        self.message_node.taken_back.insert(program);
        self.checker.unwanted(program);
        self.tally.taken_back += 1;
        say!(self, "{} is {}", name(program), why.as_str());
        self.tell_followers(program);
    }

    /// The stream brings the news, to some more than once.
    fn tell_followers(&mut self, program: ProgramId) {
        for id in self.scheduler_ids() {
            let run = SchedulerRun(id, self.host(id).run);
            let takes = self.chance.millis(1, 40);
            self.after(takes, Happening::Hears(run, program));
            if self.chance.percent(10) {
                self.tally.sent_again += 1;
                let again = takes + self.chance.millis(0, 3000);
                self.after(again, Happening::Hears(run, program));
            }
        }
    }
}
