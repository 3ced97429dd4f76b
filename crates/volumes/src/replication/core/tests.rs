use proptest::prelude::*;

use super::*;

const EPOCH: Epoch = Epoch::new(3);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn id(sequence: u64) -> SnapshotId {
    SnapshotId::new(EPOCH, sequence)
}

fn second(number: u64) -> BootTime {
    BootTime::BOOT + Duration::from_secs(number)
}

fn core(sets: &[(SnapshotId, u64)]) -> Core {
    let sets = sets.iter().map(|(id, at)| (*id, Some(second(*at))));
    Core::new(Pace::default(), EPOCH, sets, Some(second(1)))
}

/// One that has had its first snapshot confirmed, at the tenth second.
fn replicating() -> Core {
    let mut core = core(&[]);
    core.step(second(10), Event::Standby(Some(node(1))));
    assert_eq!(core.step(second(10), Event::Connected(Vec::new())), [Command::Take(id(1))]);
    assert_eq!(core.step(second(10), Event::Taken), [Command::Send(id(1), None)]);
    assert_eq!(core.step(second(10), Event::Confirmed(id(1))), []);
    core
}

#[test]
fn what_has_changed_is_taken_and_sent_as_a_difference() {
    let mut core = replicating();
    assert_eq!(core.wake_at(), Some(second(11)));
    assert_eq!(core.step(second(11), Event::Tick), [Command::Look(id(1))]);
    assert_eq!(core.step(second(11), Event::Looked { changed: false }), []);
    assert_eq!(core.standing(second(11)).at_risk, Some(Duration::ZERO));
    assert_eq!(core.step(second(12), Event::Tick), [Command::Look(id(1))]);
    assert_eq!(core.step(second(12), Event::Looked { changed: true }), [Command::Take(id(2))]);
    assert_eq!(core.step(second(12), Event::Taken), [Command::Send(id(2), Some(id(1)))]);
    assert_eq!(core.standing(second(14)).at_risk, Some(Duration::from_secs(3)), "since the look that saw no change");
    assert_eq!(core.step(second(14), Event::Confirmed(id(2))), [Command::Prune(vec![id(2)])]);
    assert_eq!(core.standing(second(14)).at_risk, Some(Duration::from_secs(2)));
    assert_eq!(core.wake_at(), Some(second(16)), "it took two seconds, so it pauses for two");
}

#[test]
fn a_standby_that_was_just_filled_gets_the_rest_at_once_and_under_newer_names_than_it_has() {
    let mut core = core(&[]);
    core.step(second(10), Event::Standby(Some(node(1))));
    assert_eq!(core.step(second(10), Event::Connected(vec![id(7)])), [Command::Take(id(8))]);
    assert_eq!(core.step(second(10), Event::Taken), [Command::Send(id(8), None)]);
    core.step(second(110), Event::Confirmed(id(8)));
    assert!(core.wake_at().is_none_or(|at| at <= second(110)));
    assert_eq!(core.standing(second(110)).at_risk, Some(Duration::from_secs(100)));
}

#[test]
fn names_go_on_after_a_restart_and_what_the_standby_has_is_the_parent() {
    let older = SnapshotId::new(Epoch::new(2), 9);
    let mut core = core(&[(older, 1), (id(4), 5)]);
    core.step(second(10), Event::Standby(Some(node(1))));
    assert_eq!(core.step(second(10), Event::Connected(vec![older])), [Command::Send(id(4), Some(older))]);
    assert_eq!(core.standing(second(10)).confirmed, Some(older));
    assert_eq!(core.standing(second(10)).at_risk, Some(Duration::from_secs(9)), "since it became live");
    core.step(second(10), Event::Confirmed(id(4)));
    assert_eq!(core.standing(second(10)).at_risk, Some(Duration::from_secs(5)));
    core.step(second(11), Event::Tick);
    assert_eq!(core.step(second(11), Event::Looked { changed: true }), [Command::Take(id(5))]);
}

#[test]
fn an_unknown_parent_is_followed_by_an_older_one_and_then_by_all() {
    let older = SnapshotId::new(Epoch::new(2), 9);
    let oldest = SnapshotId::new(Epoch::new(1), 9);
    let mut core = core(&[(oldest, 1), (older, 1), (id(4), 5)]);
    core.step(second(10), Event::Standby(Some(node(1))));
    // Only the newest that both have is kept; an older one is there until then.
    let commands = core.step(second(10), Event::Connected(vec![oldest, older]));
    assert_eq!(commands, [Command::Prune(vec![older, id(4)]), Command::Send(id(4), Some(older))]);
    assert_eq!(core.step(second(10), Event::UnknownParent(id(4))), [Command::Send(id(4), None)]);
    assert_eq!(core.standing(second(10)).confirmed, None);
    assert_eq!(core.step(second(10), Event::UnknownParent(id(4))), [], "there was none to be unknown: later");
    assert!(core.wake_at().unwrap() > second(10));
}

#[test]
fn flushes_wait_for_a_snapshot_that_was_taken_after_them_but_for_no_interval() {
    let mut core = replicating();
    assert_eq!(core.step(second(10), Event::Flush(1)), [Command::Take(id(2))]);
    assert_eq!(core.step(second(10), Event::Flush(2)), []);
    assert_eq!(core.step(second(10), Event::Taken), [Command::Send(id(2), Some(id(1)))]);
    let commands = core.step(second(10), Event::Confirmed(id(2)));
    assert_eq!(commands, [Command::Flushed(1), Command::Prune(vec![id(2)]), Command::Take(id(3))]);
    core.step(second(10), Event::Taken);
    // The answer is lost, but the standby has it.
    core.step(second(10), Event::Disconnected);
    let commands = core.step(second(20), Event::Connected(vec![id(2), id(3)]));
    assert_eq!(commands[0], Command::Flushed(2));
    core.step(second(20), Event::Standby(None));
    assert_eq!(core.step(second(20), Event::Flush(3)), [Command::NoStandby]);
}

#[test]
fn it_is_final_when_what_was_taken_after_the_end_is_confirmed() {
    let mut core = replicating();
    core.step(second(11), Event::Tick);
    core.step(second(11), Event::Ended);
    let again = core.step(second(11), Event::Looked { changed: false });
    assert!(!core.standing(second(11)).is_final, "it looked before the end");
    assert_eq!(again, [Command::Look(id(1))], "at once");
    core.step(second(12), Event::Looked { changed: false });
    assert!(core.standing(second(12)).is_final);
    assert_eq!(core.wake_at(), None);
    core.step(second(13), Event::Standby(Some(node(2))));
    assert!(!core.standing(second(13)).is_final, "the new one has nothing");
    assert_eq!(core.step(second(13), Event::Connected(Vec::new())), [Command::Send(id(1), None)]);
}

#[test]
fn failures_are_tried_again_later_and_later() {
    let mut core = replicating();
    let (mut now, mut before) = (second(20), Duration::ZERO);
    for _ in 0..8 {
        assert_eq!(core.step(now, Event::Tick), [Command::Look(id(1))]);
        core.step(now, Event::Failed);
        let pause = now.until(core.wake_at().unwrap());
        assert!(pause >= before && pause <= LONGEST_PAUSE);
        (now, before) = (now + pause, pause);
    }
}

#[test]
fn when_the_first_write_was_is_not_known_after_an_earlier_life() {
    let core = Core::new(Pace::default(), EPOCH, [(id(1), None)], None);
    assert_eq!(core.standing(second(5)).at_risk, None);
}

/// The world around a core: what was written when, and who has which snapshot.
struct World {
    core: Core,
    now: BootTime,
    writes: Vec<BootTime>,
    /// How many writes are in a snapshot.
    local: BTreeMap<SnapshotId, usize>,
    standbys: BTreeMap<u8, BTreeSet<SnapshotId>>,
    standby: Option<u8>,
    connected: bool,
    job: Option<Command>,
    /// How many writes there were when it was looked.
    seen: usize,
    newest: Option<SnapshotId>,
    /// How many writes there were at each flush.
    flushes: Vec<usize>,
    answered: usize,
    /// The same for each snapshot that somebody wanted on this node.
    wants: Vec<usize>,
    given: usize,
    ended: bool,
}

impl World {
    fn new() -> Self {
        let core = Core::new(Pace::default(), EPOCH, [], Some(second(10)));
        let standbys = (0..3).map(|number| (number, BTreeSet::new())).collect();
        Self {
            core,
            now: second(10),
            writes: Vec::new(),
            local: BTreeMap::new(),
            standbys,
            standby: None,
            connected: false,
            job: None,
            seen: 0,
            newest: None,
            flushes: Vec::new(),
            answered: 0,
            wants: Vec::new(),
            given: 0,
            ended: false,
        }
    }

    fn event(&mut self, event: Event) {
        for command in self.core.step(self.now, event) {
            match command {
                Command::Look(since) => {
                    assert!(self.local.contains_key(&since), "looks at {since}, which is gone");
                    self.begin(command);
                }
                Command::Take(id) => {
                    assert!(self.newest < Some(id), "{id} is not newer");
                    self.newest = Some(id);
                    self.begin(command);
                }
                Command::Send(id, parent) => {
                    let has = &self.standbys[&self.standby.unwrap()];
                    assert!(self.connected && self.local.contains_key(&id));
                    assert!(parent.is_none_or(|parent| has.contains(&parent) && self.local.contains_key(&parent)));
                    self.begin(command);
                }
                Command::Prune(keep) => {
                    let newest = self.local.keys().next_back().copied();
                    self.local.retain(|id, _| keep.contains(id) || Some(*id) == newest);
                    assert!(self.local.len() <= 2);
                }
                Command::Flushed(number) => {
                    self.answered = usize::try_from(number).unwrap();
                    let asked = self.flushes[..self.answered].last().copied().unwrap_or(0);
                    assert!(self.confirmed() >= asked, "a flush is answered too early");
                }
                Command::NoStandby => {
                    assert_eq!(self.standby, None);
                    self.answered = self.flushes.len();
                }
                Command::Taken(number, id) => {
                    self.given = usize::try_from(number).unwrap();
                    assert!(self.local[&id] >= self.wants[self.given - 1], "it was taken before somebody wanted it");
                }
                Command::NotTaken(number) => self.given = usize::try_from(number).unwrap(),
            }
        }
        self.check();
    }

    fn begin(&mut self, job: Command) {
        assert_eq!(self.job, None, "one job at a time");
        self.seen = self.writes.len();
        self.job = Some(job);
    }

    fn confirmed(&self) -> usize {
        let confirmed = self.core.standing(self.now).confirmed;
        confirmed.map_or(0, |id| {
            assert!(self.standbys[&self.standby.unwrap()].contains(&id));
            self.local[&id]
        })
    }

    fn check(&self) {
        let (standing, confirmed) = (self.core.standing(self.now), self.confirmed());
        let true_risk = self.writes.get(confirmed).map_or(Duration::ZERO, |at| self.now.since(*at));
        assert!(standing.at_risk.unwrap() >= true_risk, "{standing:?} understates {true_risk:?}");
        assert!(!standing.is_final || (self.ended && confirmed == self.writes.len()), "{standing:?} is not final");
        assert!(self.local.len() <= MOST_APART + 1, "{} sets", self.local.len());
    }

    fn connection_lost(&mut self) {
        self.connected = false;
        if matches!(self.job, Some(Command::Send(..))) {
            self.job = None;
        }
    }

    fn job_ends(&mut self, well: bool) {
        let event = match (self.job.take(), well) {
            (None, _) => Event::Tick,
            (Some(Command::Look(since)), true) => Event::Looked { changed: self.local[&since] < self.seen },
            (Some(Command::Take(id)), true) => {
                self.local.insert(id, self.seen);
                Event::Taken
            }
            (Some(Command::Send(id, _)), true) => {
                self.standbys.get_mut(&self.standby.unwrap()).unwrap().insert(id);
                Event::Confirmed(id)
            }
            (Some(Command::Send(id, Some(parent))), false) => {
                self.standbys.get_mut(&self.standby.unwrap()).unwrap().remove(&parent);
                Event::UnknownParent(id)
            }
            (Some(Command::Send(..)), false) => Event::NotSent,
            (Some(_), _) => Event::Failed,
        };
        self.event(event);
    }

    fn act(&mut self, action: u8, number: u8) {
        match action {
            0 | 1 if !self.ended => self.writes.push(self.now),
            2 | 3 => {
                self.now = self.now + Duration::from_millis(u64::from(number) * 20);
                self.event(Event::Tick);
            }
            4..=6 => self.job_ends(true),
            7 => self.job_ends(false),
            8 if self.standby.is_some() && !self.connected => {
                self.connected = true;
                let has = self.standbys[&self.standby.unwrap()].iter().copied().collect();
                self.event(Event::Connected(has));
            }
            9 if self.connected => {
                // The standby may have it, although nobody heard so.
                if let (Some(Command::Send(id, _)), true) = (&self.job, number.is_multiple_of(2)) {
                    self.standbys.get_mut(&self.standby.unwrap()).unwrap().insert(*id);
                }
                self.connection_lost();
                self.event(Event::Disconnected);
            }
            10 => {
                let standby = Some(number % 4).filter(|number| *number < 3);
                if standby != self.standby {
                    self.connection_lost();
                    self.standby = standby;
                }
                self.event(Event::Standby(standby.map(node)));
            }
            11 if number.is_multiple_of(2) => {
                self.wants.push(self.writes.len());
                self.event(Event::Wanted(self.wants.len() as u64));
            }
            11 => {
                self.flushes.push(self.writes.len());
                self.event(Event::Flush(self.flushes.len() as u64));
            }
            12 if number == 0 => {
                self.ended = true;
                self.event(Event::Ended);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens: names grow, one job at a time, parents are on both sides, few sets are kept, and nothing is said
    /// to be safer than it is.
    #[test]
    fn nothing_is_understated(actions in prop::collection::vec((0_u8..13, any::<u8>()), 1..200)) {
        let mut world = World::new();
        for (action, number) in actions {
            world.act(action, number);
        }
    }

    /// When everything works from some time on, everything arrives.
    #[test]
    fn it_comes_to_an_end(actions in prop::collection::vec((0_u8..12, any::<u8>()), 1..100)) {
        let mut world = World::new();
        for (action, number) in actions {
            world.act(action, number);
        }
        if world.standby.is_none() {
            world.act(10, 1);
        }
        world.act(12, 0);
        for _ in 0..100 {
            world.act(8, 0);
            world.act(4, 0);
            world.act(2, 255);
        }
        prop_assert!(world.core.standing(world.now).is_final);
        prop_assert_eq!(world.answered, world.flushes.len());
        prop_assert_eq!(world.given, world.wants.len());
    }
}

#[test]
fn who_wants_a_snapshot_on_this_node_gets_one_without_a_standby_under_the_next_name() {
    let mut core = core(&[(id(4), 5)]);
    assert_eq!(core.step(second(10), Event::Wanted(1)), [Command::Take(id(5))]);
    assert_eq!(core.step(second(10), Event::Wanted(2)), [], "it was wanted after this one had begun");
    assert_eq!(core.step(second(10), Event::Taken), [Command::Taken(1, id(5)), Command::Take(id(6))]);
    assert_eq!(core.step(second(10), Event::Taken), [Command::Taken(2, id(6))]);
    assert_eq!(core.wake_at(), None);
    // The standby gets the newest, as ever.
    core.step(second(11), Event::Standby(Some(node(1))));
    assert_eq!(core.step(second(11), Event::Connected(vec![id(4)])).last(), Some(&Command::Send(id(6), Some(id(4)))));
}

#[test]
fn without_a_standby_only_the_newest_snapshots_are_kept() {
    let mut core = core(&[]);
    let mut pruned = Vec::new();
    for number in 1..=20 {
        core.step(second(number), Event::Wanted(number));
        pruned.extend(core.step(second(number), Event::Taken).into_iter().filter(|c| matches!(c, Command::Prune(_))));
        assert!(core.standing(second(number)).sets <= MOST_APART);
    }
    assert_eq!(pruned[0], Command::Prune(vec![id(5)]));
}

#[test]
fn what_is_wanted_while_a_snapshot_is_sent_comes_after_it() {
    let mut core = replicating();
    core.step(second(11), Event::Tick);
    assert_eq!(core.step(second(11), Event::Looked { changed: true }), [Command::Take(id(2))]);
    core.step(second(11), Event::Taken);
    assert_eq!(core.step(second(11), Event::Wanted(1)), []);
    let commands = core.step(second(12), Event::Confirmed(id(2)));
    assert!(commands.contains(&Command::Take(id(3))), "{commands:?}");
    assert_eq!(
        core.step(second(12), Event::Taken),
        [Command::Taken(1, id(3)), Command::Send(id(3), Some(id(2)))],
        "it serves both"
    );
}

#[test]
fn who_wants_a_snapshot_that_cannot_be_taken_is_told() {
    let mut core = core(&[]);
    core.step(second(10), Event::Wanted(1));
    assert_eq!(core.step(second(10), Event::Failed), [Command::NotTaken(1)]);
    assert_eq!(core.step(second(10), Event::Wanted(2)), [], "not at once after a failure");
    let due = core.wake_at().unwrap();
    assert_eq!(core.step(due, Event::Tick), [Command::Take(id(2))]);
    core.step(due, Event::Taken);
    core.step(due, Event::Ended);
    assert_eq!(core.step(due, Event::Wanted(3)), [Command::NotTaken(3)], "nothing runs any more");
}
