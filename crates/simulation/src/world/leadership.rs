//! How one of several schedulers becomes the leader and stays it: the shell of `scheduler/src/leadership.rs` around the core
//! that watches the leader's row. What the database does, it does whether or not the process that asked is paused.
//!
//! ```text
//!   Following: looks ─▶ saw: led ─▶ looks …        Leading: beats ─▶ beaten ─▶ beats …
//!                         └─ free ─▶ claims ─▶ claimed ─▶ term begins     └─ deposed, killed ─▶ Following
//! ```

use std::time::Duration;

use lease::BootTime;
use scheduler::core::Event;
use scheduler::core::leadership::{LeaderEpoch, LeaderRow, Verdict, Watch};

use crate::store::{Health, Outcome};
use crate::time::Moment;
use crate::trap::Trap;

use super::{Happening, Run, SchedulerId, SchedulerRun, World, say};

/// What the database said; `None` when it failed.
pub(crate) type Answer<T> = Option<T>;

/// A scheduler's time as the leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub(crate) epoch: LeaderEpoch,
    /// When it may grant no more, by its clock.
    pub(crate) until: BootTime,
    /// Whether nodes may be connected.
    pub(crate) leads: bool,
}

impl World {
    /// The scheduler begins to look for a leader.
    pub(super) fn follow_leader(&mut self, run: SchedulerRun) {
        let Some(times) = self.leadership else { return };
        self.host_mut(run.0).watch = Some(Watch::new(times));
        self.after(Duration::ZERO, Happening::Looks(run));
    }

    fn boot_now(&self, id: SchedulerId) -> BootTime {
        self.host(id).clock.boot_time(self.now)
    }

    /// How the database treats this scheduler now.
    fn database_answers(&mut self, id: SchedulerId) -> Outcome {
        if self.host(id).cut_until > self.now { Outcome::Refused } else { self.store.outcome() }
    }

    pub(super) fn looks(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::Looks(run)) {
            return;
        }
        if self.host(run.0).run == run.1 && self.host(run.0).watch.is_some() {
            let (sent, takes) = (self.boot_now(run.0), self.store.latency());
            self.after(takes, Happening::Looked(run, sent));
        }
    }

    /// The database reads the row.
    pub(super) fn looked(&mut self, run: SchedulerRun, sent: BootTime) {
        let answer =
            (self.database_answers(run.0) == Outcome::Committed).then(|| self.store.database.leader().cloned());
        self.after(Duration::ZERO, Happening::Saw(run, sent, answer));
    }

    pub(super) fn saw(&mut self, run: SchedulerRun, sent: BootTime, answer: Answer<Option<LeaderRow>>) {
        if self.scheduler_puts_off(run, || Happening::Saw(run, sent, answer.clone())) {
            return;
        }
        let (now, in_time) = (self.boot_now(run.0), self.in_time(run.0, sent));
        let host = self.host_mut(run.0);
        let Some(watch) = host.watch.as_mut().filter(|_| host.run == run.1) else { return };
        let verdict = answer.filter(|_| in_time).map(|row| watch.looked(now, row));
        if let Some(Verdict::Free(seen)) = verdict {
            let takes = self.store.latency();
            self.after(takes, Happening::Claims(run, sent, seen));
        } else {
            self.looks_again(run);
        }
    }

    fn looks_again(&mut self, run: SchedulerRun) {
        if let Some(times) = self.leadership {
            self.after(times.heartbeat() / 2, Happening::Looks(run));
        }
    }

    /// Whether an answer to what was sent then comes before the shell stops waiting for it.
    fn in_time(&self, id: SchedulerId, sent: BootTime) -> bool {
        self.leadership.is_none_or(|times| sent.until(self.boot_now(id)) <= times.lease())
    }

    /// The database takes the claim, or not.
    pub(super) fn claims(&mut self, run: SchedulerRun, sent: BootTime, seen: Option<LeaderRow>) {
        if self.host(run.0).run != run.1 {
            return;
        }
        let outcome = self.database_answers(run.0);
        let url = run.0.to_string();
        let claimed =
            if outcome == Outcome::Refused { None } else { Some(self.store.database.claim(seen.as_ref(), &url)) };
        let answer = claimed.filter(|_| outcome == Outcome::Committed);
        self.after(Duration::ZERO, Happening::Claimed(run, sent, answer));
    }

    pub(super) fn claimed(&mut self, run: SchedulerRun, sent: BootTime, answer: Answer<Option<LeaderEpoch>>) {
        if self.scheduler_puts_off(run, || Happening::Claimed(run, sent, answer)) {
            return;
        }
        if self.host(run.0).run != run.1 {
            return;
        }
        match answer.flatten().filter(|_| self.in_time(run.0, sent)) {
            Some(epoch) => {
                let takes = self.store.latency();
                self.after(takes, Happening::TermBegins(run, sent, epoch));
            }
            None => self.looks_again(run),
        }
    }

    /// The new leader reads the database, in a transaction that fails when it leads no more.
    pub(super) fn term_begins(&mut self, run: SchedulerRun, sent: BootTime, epoch: LeaderEpoch) {
        if self.scheduler_puts_off(run, || Happening::TermBegins(run, sent, epoch)) {
            return;
        }
        let Some(times) = self.leadership.filter(|_| self.host(run.0).run == run.1) else { return };
        if self.database_answers(run.0) != Outcome::Committed || !self.store.database.leads(epoch) {
            return self.looks_again(run);
        }
        say!(self, "{} leads under epoch {}", run.0, epoch.get());
        self.tally.terms += 1;
        let until = times.holder(sent).kill;
        self.host_mut(run.0).watch = None;
        self.begin_term(run, Some(Term { epoch, until, leads: false }));
        // The core knows until when before nodes may connect.
        self.lead_until(run, until);
        self.after(times.heartbeat(), Happening::LeaderBeats(run));
    }

    fn lead_until(&mut self, run: SchedulerRun, until: BootTime) {
        let (now, is_careless) = (self.boot_now(run.0), self.has_trap(Trap::LeadsUntilTold));
        if !is_careless {
            self.tell_scheduler(run, Event::Leads { until });
        }
        let lapses = self.host(run.0).clock.moment_of(until);
        if let Some(term) = self.process_mut(run).and_then(|process| process.term.as_mut()) {
            (term.until, term.leads) = (until, now < until || is_careless);
            if !is_careless {
                self.at(lapses, Happening::Lapses(run));
            }
        }
    }

    /// Nobody knows whether this scheduler still leads: nodes look for another.
    pub(super) fn lapses(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::Lapses(run)) {
            return;
        }
        let now = self.boot_now(run.0);
        let Some(term) = self.process_mut(run).and_then(|process| process.term.as_mut()) else { return };
        if now >= term.until && std::mem::replace(&mut term.leads, false) {
            say!(self, "{} is not sure to lead any more", run.0);
            self.tally.lapses += 1;
            self.drop_all_connections(run);
        }
    }

    pub(super) fn leader_beats(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::LeaderBeats(run)) {
            return;
        }
        let Some(term) = self.process(run).and_then(|process| process.term) else { return };
        let (sent, takes) = (self.boot_now(run.0), self.store.latency());
        self.after(takes, Happening::Beaten(run, sent, term.epoch));
    }

    /// The database takes the beat.
    pub(super) fn beaten(&mut self, run: SchedulerRun, sent: BootTime, epoch: LeaderEpoch) {
        let outcome = self.database_answers(run.0);
        let taken = (outcome != Outcome::Refused).then(|| self.store.database.beat(epoch));
        let answer = taken.filter(|_| outcome == Outcome::Committed);
        self.after(Duration::ZERO, Happening::HearsBeat(run, sent, answer));
    }

    pub(super) fn hears_beat(&mut self, run: SchedulerRun, sent: BootTime, answer: Answer<bool>) {
        if self.scheduler_puts_off(run, || Happening::HearsBeat(run, sent, answer)) {
            return;
        }
        let Some(times) = self.leadership.filter(|_| self.process(run).is_some()) else { return };
        match answer.filter(|_| self.in_time(run.0, sent)) {
            Some(true) => self.lead_until(run, times.holder(sent).kill),
            Some(false) => return self.deposed(run),
            None => {}
        }
        self.after(times.heartbeat(), Happening::LeaderBeats(run));
    }

    /// Another scheduler leads: this one follows.
    pub(super) fn deposed(&mut self, run: SchedulerRun) {
        say!(self, "{} is deposed", run.0);
        self.tally.deposed += 1;
        self.end_process(run.0);
        let host = self.host_mut(run.0);
        host.run = Run(host.run.0 + 1);
        let run = SchedulerRun(run.0, host.run);
        self.follow_leader(run);
    }

    /// The scheduler that leads, or any.
    pub(super) fn leader(&mut self) -> SchedulerId {
        let leads = self.schedulers.iter().find(|host| host.process.is_some()).map(|host| host.id);
        let any = self.some_scheduler();
        leads.filter(|_| self.chance.percent(70)).unwrap_or(any)
    }

    /// Steps down in order, if the database takes it.
    pub(super) fn resign(&mut self, id: SchedulerId) {
        let term = self.host(id).process.as_ref().and_then(|process| process.term);
        if let Some(term) = term
            && self.store.health != Health::Refuses
            && self.host(id).cut_until <= self.now
        {
            self.store.database.resign(term.epoch);
        }
    }

    /// Until then the scheduler cannot reach the database.
    pub(super) fn cut_from_store(&mut self, id: SchedulerId, until: Moment) {
        say!(self, "  {id} until {until}");
        self.host_mut(id).cut_until = until;
    }
}
