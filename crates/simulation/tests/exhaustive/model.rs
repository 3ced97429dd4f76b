//! What can happen. The moves are those of the diagrams in `main.rs`.

use stateright::{Model, Property};

use crate::clocks::Clocks;
use crate::properties;
use crate::state::{
    Assignment, Broken, Directive, End, Entry, Grant, Heartbeat, Left, Node, Number, Row, Sandbox, Scheduler, Sequence,
    Stage, State, Store, Term, TermId, Tick,
};
use crate::trap::Trap;

/// How far the world goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) nodes: usize,
    pub(crate) ticks: Tick,
    pub(crate) heartbeats_a_tick: u8,
    pub(crate) left: Left,
}

/// The protocol of leases and epochs, of one program.
#[derive(Debug)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    trap: Option<Trap>,
    clocks: Clocks,
}

/// One step. Schedulers and nodes are named by their places; nodes change theirs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Time passes. Supervisors and kernels end what has no lease any more.
    Tick,
    /// To the leader of the node's connection, or to one that it connects to.
    SendHeartbeat {
        node: usize,
        scheduler: usize,
    },
    /// The scheduler takes a heartbeat in and answers it.
    TakeHeartbeat {
        node: usize,
        heartbeat: Heartbeat,
    },
    TakeGrant {
        node: usize,
        grant: Grant,
    },
    StartSandbox {
        node: usize,
    },
    /// A program that was told to end is gone.
    SandboxEnds {
        node: usize,
    },
    AgentDies {
        node: usize,
    },
    AgentStarts {
        node: usize,
    },
    /// A follower reads the row.
    Look {
        scheduler: usize,
    },
    /// It tries to put itself there.
    Claim {
        scheduler: usize,
    },
    /// The database takes a leader's beat, or says that another leads.
    Beat {
        scheduler: usize,
    },
    /// A leader steps down in order.
    Resign {
        scheduler: usize,
    },
    Place {
        scheduler: usize,
        node: usize,
    },
    /// A lease is over by the scheduler's clock.
    Expire {
        scheduler: usize,
    },
    /// The program shall move.
    Release {
        scheduler: usize,
    },
    /// The transaction that the scheduler waits for; its answer may get lost, and then it is tried again.
    Write {
        scheduler: usize,
        is_answered: bool,
    },
}

impl Protocol {
    pub(crate) fn new(bounds: Bounds, trap: Option<Trap>) -> Self {
        Self { bounds, trap, clocks: Clocks::new(trap) }
    }

    fn has(&self, trap: Trap) -> bool {
        self.trap == Some(trap)
    }

    pub(crate) fn grants(&self, state: &State, scheduler: usize) -> Option<TermId> {
        let Scheduler::Leading(term) = &state.schedulers[scheduler] else { return None };
        self.clocks.may_grant(scheduler, term.beaten, state.now).then_some(term.id)
    }

    fn actions_of_node(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[index];
        let terms = || state.schedulers.iter().enumerate().filter_map(|(s, leading)| Some((s, leading.term()?)));
        if node.is_agent_dead {
            actions.push(Action::AgentStarts { node: index });
        } else {
            if state.left.agent_deaths > 0 && node.sandbox.is_some() {
                actions.push(Action::AgentDies { node: index });
            }
            for (scheduler, term) in terms() {
                // A node about which nobody has anything to say says nothing either: it would only make states.
                let concerned = term.set_of(index).is_some() || node.entry.is_some() || node.sandbox.is_some();
                let connected = node.term == Some(term.id) || self.grants(state, scheduler).is_some();
                if concerned && connected && node.beats < self.bounds.heartbeats_a_tick {
                    actions.push(Action::SendHeartbeat { node: index, scheduler });
                }
            }
            actions.extend(node.down.iter().map(|grant| Action::TakeGrant { node: index, grant: *grant }));
            if self.can_start(node, state.now) {
                actions.push(Action::StartSandbox { node: index });
            }
        }
        for heartbeat in &node.up {
            if terms().any(|(_, term)| term.id == heartbeat.term) {
                actions.push(Action::TakeHeartbeat { node: index, heartbeat: *heartbeat });
            }
        }
        if node.sandbox.is_some_and(|sandbox| sandbox.stops) {
            actions.push(Action::SandboxEnds { node: index });
        }
    }

    fn actions_of_scheduler(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let scheduler = index;
        let term = match &state.schedulers[index] {
            Scheduler::Following { claims: Some(_), .. } => return actions.push(Action::Claim { scheduler }),
            Scheduler::Following { claims: None, .. } => return actions.push(Action::Look { scheduler }),
            Scheduler::Leading(term) => term,
        };
        if term.beaten < state.now {
            actions.push(Action::Beat { scheduler });
        }
        if state.left.resignations > 0 {
            actions.push(Action::Resign { scheduler });
        }
        match term.stage {
            Stage::Unplaced => actions.extend((0..state.nodes.len()).map(|node| Action::Place { scheduler, node })),
            Stage::Storing { .. } | Stage::Closing { .. } => {
                actions.push(Action::Write { scheduler, is_answered: true });
                if state.left.lost_answers > 0 {
                    actions.push(Action::Write { scheduler, is_answered: false });
                }
            }
            Stage::Assigned(assignment) | Stage::Releasing(assignment) => {
                if assignment.answered.is_none() {
                    actions.push(Action::Expire { scheduler });
                }
                if state.left.releases > 0 && matches!(term.stage, Stage::Assigned(_)) {
                    actions.push(Action::Release { scheduler });
                }
            }
        }
    }

    fn can_start(&self, node: &Node, now: Tick) -> bool {
        let Some(Entry { epoch, directive: Directive::Run }) = node.entry else { return false };
        let lives = node.lease.is_some_and(|sent| self.clocks.may_start(sent, now));
        node.sandbox.is_none() && epoch >= node.highest && lives
    }

    fn tick(&self, state: &mut State) {
        state.now += 1;
        let now = state.now;
        for node in &mut state.nodes {
            node.beats = 0;
            node.lease = node.lease.filter(|sent| self.clocks.may_start(*sent, now));
            let somebody_kills = !self.has(Trap::DeadlineInAgentOnly) || !node.is_agent_dead;
            node.sandbox = node.sandbox.filter(|s| !somebody_kills || !self.clocks.fuse_is_burnt(s.lease, now));
            // What took longer than a lease is lost.
            let lives = |sent: Tick| self.has(Trap::CountsFromArrival) || !self.clocks.fuse_is_burnt(sent, now);
            node.up.retain(|heartbeat| lives(heartbeat.sequence.sent));
            node.down.retain(|grant| lives(grant.sequence.sent));
        }
        for (index, scheduler) in state.schedulers.iter_mut().enumerate() {
            if let Scheduler::Leading(term) = scheduler
                && let Some(assignment) = term.stage.assignment()
            {
                assignment.answered = assignment.answered.filter(|at| !self.clocks.issuer_is_over(index, *at, now));
            }
        }
    }

    fn send_heartbeat(&self, node: &mut Node, term: TermId, now: Tick) {
        if node.term != Some(term) {
            // What the old connection would still bring is thrown away.
            node.down.clear();
            node.term = Some(term);
        }
        let gone = |entry: &Entry| node.sandbox.is_none_or(|sandbox| sandbox.epoch != entry.epoch);
        let released = node.entry.filter(|entry| entry.directive == Directive::Release);
        let released = released.filter(|entry| gone(entry) || self.has(Trap::ReleaseBeforeGone));
        let (sequence, released) = (Sequence { sent: now, nth: node.beats }, released.map(|entry| entry.epoch));
        node.beats += 1;
        node.up.insert(Heartbeat { term, sequence, applied: node.applied, released });
    }

    /// `scheduler::core::heartbeat`: only what is newer than all before, a release only from who knows that it was asked for.
    fn take_heartbeat(&self, state: &mut State, index: usize, heartbeat: Heartbeat) {
        let now = state.now;
        let terms = state.schedulers.iter_mut().enumerate();
        let Some((scheduler, term)) = terms
            .filter_map(|(scheduler, s)| s.term_mut().map(|term| (scheduler, term)))
            .find(|(_, term)| term.id == heartbeat.term)
        else {
            return;
        };
        let node = &mut state.nodes[index];
        node.up.retain(|other| other.term != heartbeat.term || other.sequence > heartbeat.sequence);
        if let Stage::Releasing(Assignment { epoch, node: at, .. }) = term.stage
            && at == index
            && heartbeat.applied == Some(term.id)
            && heartbeat.released == Some(epoch)
        {
            term.stage = Stage::Closing { node: at, epoch, end: End::Released };
        }
        if !self.clocks.may_grant(scheduler, term.beaten, now) {
            return;
        }
        let set = term.set_of(index);
        if let Stage::Assigned(assignment) = &mut term.stage
            && assignment.node == index
        {
            (assignment.answered, assignment.granted) = (Some(now), true);
        }
        // What another connection brings is thrown away.
        if node.term == Some(term.id) {
            node.down.insert(Grant { term: term.id, sequence: heartbeat.sequence, set });
        }
    }

    /// `compute_node::core::persistent`.
    fn take_grant(&self, node: &mut Node, grant: Grant, now: Tick) {
        if !self.has(Trap::AnyOrder) {
            node.down.retain(|other| other.sequence > grant.sequence);
        }
        let Some(Entry { epoch, directive }) = grant.set else {
            (node.applied, node.entry, node.lease) = (None, None, None);
            return;
        };
        let is_release = directive == Directive::Release;
        node.applied = is_release.then_some(grant.term);
        let is_other = node.entry.replace(Entry { epoch, directive }).is_none_or(|before| before.epoch != epoch);
        let held = node.lease.take().filter(|_| !is_other);
        let is_superseded = epoch < node.highest;
        node.highest = node.highest.max(epoch);
        let sent = if self.has(Trap::CountsFromArrival) { now } else { grant.sequence.sent };
        match &mut node.sandbox {
            Some(sandbox) if sandbox.epoch == epoch && (is_release || is_superseded) => sandbox.stops = true,
            Some(sandbox) if sandbox.epoch == epoch && !sandbox.stops => {
                (sandbox.lease, sandbox.by) = (self.clocks.extended(sandbox.lease, sent), grant.term);
            }
            _ if is_release || is_superseded => {}
            _ => {
                let lease = held.map_or(sent, |held| self.clocks.extended(held, sent));
                node.lease = Some(lease).filter(|sent| self.clocks.may_start(*sent, now));
            }
        }
    }

    fn look(&self, state: &mut State, index: usize) {
        let (now, row) = (state.now, state.store.leader);
        let Scheduler::Following { seen, claims } = &mut state.schedulers[index] else { return };
        if self.clocks.looked(index, *seen, now, row) {
            *claims = Some((row, now));
        } else if seen.map(|(row, _)| row) != row {
            *seen = row.map(|row| (row, now));
        }
    }

    /// The row is claimed if it is still the one that was seen, and what is open is read in a transaction that fails when
    /// another leads by then.
    fn claim(&self, state: &mut State, index: usize) {
        let now = state.now;
        let Scheduler::Following { claims, .. } = &mut state.schedulers[index] else { return };
        let Some((row, sent)) = claims.take() else { return };
        if state.store.leader != row {
            return;
        }
        let id = row.map_or(1, |row| row.epoch + 1);
        state.store.leader = Some(Row { epoch: id, beat: now, has_resigned: false });
        let stage = match state.store.open {
            None => Stage::Unplaced,
            Some((node, epoch)) if self.has(Trap::NoWait) => Stage::Closing { node, epoch, end: End::LeaseOver },
            Some((node, epoch)) => Stage::Assigned(Assignment { node, epoch, answered: Some(now), granted: true }),
        };
        state.schedulers[index] = Scheduler::Leading(Term { id, beaten: sent, stage });
    }

    fn beat(state: &mut State, index: usize) {
        let now = state.now;
        let Scheduler::Leading(term) = &mut state.schedulers[index] else { return };
        match &mut state.store.leader {
            Some(row) if row.epoch == term.id && !row.has_resigned => (row.beat, term.beaten) = (now, now),
            _ => state.schedulers[index] = Scheduler::default(),
        }
    }

    fn resign(state: &mut State, index: usize) {
        let Scheduler::Leading(term) = &state.schedulers[index] else { return };
        if let Some(row) = state.store.leader.as_mut().filter(|row| row.epoch == term.id) {
            row.has_resigned = true;
        }
        state.schedulers[index] = Scheduler::default();
        state.left.resignations -= 1;
    }

    /// A transaction of a scheduler, which reads the leader's row and holds it.
    fn write(&self, state: &mut State, index: usize, is_answered: bool) {
        let Scheduler::Leading(term) = &mut state.schedulers[index] else { return };
        let is_leader = state.store.leader.is_some_and(|row| row.epoch == term.id && !row.has_resigned);
        if !is_leader && !self.has(Trap::NoCheckOfLeader) {
            state.schedulers[index] = Scheduler::default();
            return;
        }
        if !is_leader {
            state.broken = Some(Broken::DeposedWrote);
        }
        let next = match term.stage {
            Stage::Storing { node } => {
                let number = if self.has(Trap::EpochFromClock) { state.now.into() } else { state.store.last_epoch + 1 };
                let (node, epoch) = state.store.assign(node, number, &mut state.broken);
                let answered = Some(state.now);
                Stage::Assigned(Assignment { node, epoch, answered, granted: false })
            }
            Stage::Closing { epoch, end, .. } => {
                if state.store.open.is_some_and(|(_, open)| open == epoch) {
                    (state.store.open, state.store.last_end) = (None, Some(end));
                }
                Stage::Unplaced
            }
            stage => stage,
        };
        if is_answered {
            term.stage = next;
        } else {
            state.left.lost_answers -= 1;
        }
    }

    /// Forgets what makes no difference any more, so that states which mean the same are the same.
    fn forget(&self, state: &mut State) {
        let row = state.store.leader;
        for index in 0..state.schedulers.len() {
            let may_grant = self.grants(state, index).is_some();
            match &mut state.schedulers[index] {
                // The row never comes back: a claim of it fails, and the next look begins anew.
                Scheduler::Following { seen, claims } => {
                    *seen = seen.filter(|(seen, _)| Some(*seen) == row);
                    *claims = claims.filter(|(claimed, _)| *claimed == row);
                }
                // It may not grant, and every transaction will tell it that it is deposed.
                Scheduler::Leading(term) if !may_grant && !self.has(Trap::NoCheckOfLeader) => {
                    if row.is_none_or(|row| row.epoch != term.id) {
                        state.schedulers[index] = Scheduler::default();
                    }
                }
                Scheduler::Leading(_) => {}
            }
        }
        let State { nodes, schedulers, .. } = state;
        for node in nodes {
            node.up.retain(|heartbeat| schedulers.iter().filter_map(Scheduler::term).any(|t| t.id == heartbeat.term));
        }
    }

    fn change_stage(state: &mut State, index: usize, action: &Action) {
        let Scheduler::Leading(term) = &mut state.schedulers[index] else { return };
        term.stage = match (term.stage, action) {
            (_, Action::Place { node, .. }) => Stage::Storing { node: *node },
            (Stage::Assigned(a) | Stage::Releasing(a), Action::Expire { .. }) => {
                Stage::Closing { node: a.node, epoch: a.epoch, end: End::LeaseOver }
            }
            (Stage::Assigned(a), Action::Release { .. }) => {
                state.left.releases -= 1;
                let never = Stage::Closing { node: a.node, epoch: a.epoch, end: End::NeverGranted };
                if a.granted { Stage::Releasing(a) } else { never }
            }
            (stage, _) => stage,
        };
    }
}

impl Store {
    /// Opens an assignment under this epoch; when one is open already, an earlier write made it whose answer was lost.
    fn assign(&mut self, node: usize, number: Number, broken: &mut Option<Broken>) -> (usize, Number) {
        *self.open.get_or_insert_with(|| {
            if number <= self.last_epoch {
                *broken = Some(Broken::EpochUsedAgain);
            }
            self.last_epoch = number;
            (node, number)
        })
    }
}

impl Scheduler {
    pub(crate) fn term(&self) -> Option<&Term> {
        if let Self::Leading(term) = self { Some(term) } else { None }
    }

    fn term_mut(&mut self) -> Option<&mut Term> {
        if let Self::Leading(term) = self { Some(term) } else { None }
    }
}

/// One that knows nothing.
impl Default for Scheduler {
    fn default() -> Self {
        Self::Following { seen: None, claims: None }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = Store { leader: None, last_epoch: 0, open: None, last_end: None };
        let schedulers = vec![Scheduler::default(); 2];
        let nodes = vec![Node::default(); self.bounds.nodes];
        vec![State { now: 0, store, schedulers, nodes, left: self.bounds.left, broken: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < self.bounds.ticks {
            actions.push(Action::Tick);
        }
        for scheduler in 0..state.schedulers.len() {
            self.actions_of_scheduler(state, scheduler, actions);
        }
        for node in 0..state.nodes.len() {
            self.actions_of_node(state, node, actions);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let now = state.now;
        match &action {
            Action::Tick => self.tick(&mut state),
            Action::SendHeartbeat { node, scheduler } => {
                let term = state.schedulers[*scheduler].term()?.id;
                self.send_heartbeat(&mut state.nodes[*node], term, now);
            }
            Action::TakeHeartbeat { node, heartbeat } => self.take_heartbeat(&mut state, *node, *heartbeat),
            Action::TakeGrant { node, grant } => self.take_grant(&mut state.nodes[*node], *grant, now),
            Action::StartSandbox { node } => {
                let node = &mut state.nodes[*node];
                let (epoch, lease, by) = (node.entry?.epoch, node.lease.take()?, node.term?);
                node.sandbox = Some(Sandbox { epoch, lease, by, stops: false });
            }
            Action::SandboxEnds { node } => state.nodes[*node].sandbox = None,
            Action::AgentDies { node } => {
                let node = &mut state.nodes[*node];
                let Node { beats, highest, sandbox, ref mut up, .. } = *node;
                let up = std::mem::take(up);
                *node = Node { is_agent_dead: true, beats, highest, sandbox, up, ..Node::default() };
                state.left.agent_deaths -= 1;
            }
            Action::AgentStarts { node } => state.nodes[*node].is_agent_dead = false,
            Action::Look { scheduler } => self.look(&mut state, *scheduler),
            Action::Claim { scheduler } => self.claim(&mut state, *scheduler),
            Action::Beat { scheduler } => Self::beat(&mut state, *scheduler),
            Action::Resign { scheduler } => Self::resign(&mut state, *scheduler),
            Action::Place { scheduler, .. } | Action::Expire { scheduler } | Action::Release { scheduler } => {
                Self::change_stage(&mut state, *scheduler, &action);
            }
            Action::Write { scheduler, is_answered } => self.write(&mut state, *scheduler, *is_answered),
        }
        self.forget(&mut state);
        let state = state.in_order();
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
