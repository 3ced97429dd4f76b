//! What a supervisor decides: pure, given events and the time.
//!
//! ```text
//!              made            Claim             guest: Ready
//!  Preparing ───────▶ Prepared ───────▶ Starting ────────────▶ Ready
//!      │                  │                │                     │
//!      │ cannot be made   │ Stop, soft     │ Stop, soft deadline,│ Stop, soft deadline,
//!      │                  │ deadline       │ failed, ready limit │ program ended
//!      └──────────────────┴───────┬────────┴─────────────────────┘
//!                                 ▼          nothing left
//!                             Stopping ───────────────────▶ Ended
//! ```
//! The agent moves it by [`Event::Claim`], [`Event::Renew`] and [`Event::Stop`]; the guest by what it reports; time by the
//! deadlines. A renewal never revives what is already stopping.

use std::time::Duration;

use guest::FromGuest;
use lease::{BootTime, HolderDeadline};

use crate::spec::{End, SandboxState};

/// How soon a kill that left something alive is tried again.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The driver has made the sandbox and its init waits.
    Prepared,
    /// The driver could not make it.
    PrepareFailed(String),
    /// The agent claims it.
    Claim {
        /// When it ends unless renewed.
        deadline: HolderDeadline,
        /// How long it has to become ready.
        ready_within: Duration,
    },
    /// The driver could not make it the program's.
    ClaimFailed(End),
    /// The agent lets it run on.
    Renew(HolderDeadline),
    /// The agent ends it.
    Stop {
        /// How long the program has to end by itself.
        grace: Duration,
    },
    /// The init reported something.
    Guest(FromGuest),
    /// The init's end of the control socket closed.
    GuestClosed,
    /// A kill left nothing alive.
    Gone {
        /// Whether the kernel had killed something for want of memory.
        out_of_memory: bool,
    },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Arm the kernel's timer that kills this supervisor.
    SetFuse(BootTime),
    /// Have the driver make the sandbox the program's.
    Claim,
    /// Ask the program to end.
    StopProgram {
        /// How long it has.
        grace: Duration,
    },
    /// Kill everything in the sandbox, then say [`Event::Gone`].
    Kill,
    /// Tell the agent about the state.
    Report,
    /// Write down how it ended, and exit.
    Finish(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Preparing,
    Prepared,
    Starting { ready_by: BootTime },
    Ready,
    Stopping { end: End, kill_at: BootTime },
    Ended(End),
}

/// The state of one supervisor.
#[derive(Debug)]
pub struct Core {
    phase: Phase,
    deadline: HolderDeadline,
    ready_at: Option<BootTime>,
}

impl Core {
    /// A supervisor that starts to prepare, and the commands to begin with.
    pub fn new(deadline: HolderDeadline) -> (Self, Vec<Command>) {
        let core = Self { phase: Phase::Preparing, deadline, ready_at: None };
        (core, vec![Command::SetFuse(deadline.fuse)])
    }

    /// What the agent sees.
    pub fn state(&self) -> SandboxState {
        match &self.phase {
            Phase::Preparing => SandboxState::Preparing,
            Phase::Prepared => SandboxState::Prepared,
            Phase::Starting { .. } => SandboxState::Starting,
            Phase::Ready => SandboxState::Ready,
            Phase::Stopping { .. } => SandboxState::Stopping,
            Phase::Ended(end) => SandboxState::Ended(end.clone()),
        }
    }

    /// When the program became ready.
    pub fn ready_at(&self) -> Option<BootTime> {
        self.ready_at
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_wakeup(&self) -> Option<BootTime> {
        match &self.phase {
            Phase::Preparing | Phase::Prepared | Phase::Ready => Some(self.deadline.soft),
            Phase::Starting { ready_by } => Some(self.deadline.soft.min(*ready_by)),
            Phase::Stopping { kill_at, .. } => Some(*kill_at),
            Phase::Ended(_) => None,
        }
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Command> {
        match event {
            Event::Prepared if self.phase == Phase::Preparing => self.enter(Phase::Prepared),
            Event::PrepareFailed(message) => self.stop(now, End::SandboxError { message }, Duration::ZERO),
            Event::Claim { deadline, ready_within } if self.phase == Phase::Prepared => {
                // A program's lease, in place of the agent's time for an empty sandbox.
                self.deadline = deadline;
                self.phase = Phase::Starting { ready_by: now + ready_within };
                vec![Command::SetFuse(self.deadline.fuse), Command::Claim, Command::Report]
            }
            Event::ClaimFailed(end) => self.stop(now, end, Duration::ZERO),
            Event::Renew(deadline) if !self.is_stopping() => {
                self.deadline = self.deadline.extended_by(deadline);
                vec![Command::SetFuse(self.deadline.fuse)]
            }
            Event::Stop { grace } => self.stop(now, End::Stopped, grace),
            Event::Guest(message) => self.guest(now, message),
            Event::GuestClosed => self.ended(now, End::Exited { code: None, signal: None }),
            Event::Gone { out_of_memory } => self.gone(out_of_memory),
            Event::Tick => self.tick(now),
            Event::Prepared | Event::Claim { .. } | Event::Renew(_) => Vec::new(),
        }
    }

    fn guest(&mut self, now: BootTime, message: FromGuest) -> Vec<Command> {
        match message {
            FromGuest::Ready if matches!(self.phase, Phase::Starting { .. }) => {
                self.ready_at = Some(now);
                self.enter(Phase::Ready)
            }
            FromGuest::Failed { kind, message } => self.ended(now, End::StartFailed { kind, message }),
            FromGuest::Exited { code, signal } => self.ended(now, End::Exited { code, signal }),
            FromGuest::Waiting | FromGuest::Warmed { .. } | FromGuest::SetUpFailed { .. } | FromGuest::Ready => {
                Vec::new()
            }
        }
    }

    fn tick(&mut self, now: BootTime) -> Vec<Command> {
        match &mut self.phase {
            Phase::Stopping { kill_at, .. } if now >= *kill_at => {
                // Until it is said to be gone.
                *kill_at = now + KILL_AGAIN;
                vec![Command::Kill]
            }
            Phase::Starting { ready_by } if now >= *ready_by => self.stop(now, End::NeverReady, Duration::ZERO),
            Phase::Stopping { .. } | Phase::Ended(_) => Vec::new(),
            _ if now >= self.deadline.soft => self.stop(now, End::LeaseEnded, now.until(self.deadline.kill)),
            _ => Vec::new(),
        }
    }

    /// The program is to be ended.
    fn stop(&mut self, now: BootTime, end: End, grace: Duration) -> Vec<Command> {
        if self.is_stopping() {
            return Vec::new();
        }
        let asks = matches!(self.phase, Phase::Starting { .. } | Phase::Ready) && !grace.is_zero();
        if !asks {
            return self.kill_now(now, end);
        }
        let grace = grace.min(now.until(self.deadline.kill));
        self.phase = Phase::Stopping { end, kill_at: now + grace };
        vec![Command::StopProgram { grace }, Command::Report]
    }

    /// The program has ended; what is left of the sandbox goes, too.
    fn ended(&mut self, now: BootTime, end: End) -> Vec<Command> {
        match &self.phase {
            Phase::Ended(_) => Vec::new(),
            // It was asked to: why it was is what counts.
            Phase::Stopping { end, .. } => self.kill_now(now, end.clone()),
            _ => self.kill_now(now, end),
        }
    }

    fn kill_now(&mut self, now: BootTime, end: End) -> Vec<Command> {
        self.phase = Phase::Stopping { end, kill_at: now + KILL_AGAIN };
        vec![Command::Report, Command::Kill]
    }

    fn gone(&mut self, out_of_memory: bool) -> Vec<Command> {
        let Phase::Stopping { end, .. } = &self.phase else { return Vec::new() };
        let killed = matches!(end, End::Exited { code: None | Some(137), .. });
        let end = if out_of_memory && killed { End::OutOfMemory } else { end.clone() };
        self.phase = Phase::Ended(end.clone());
        // What is written down is there before anybody hears of it.
        vec![Command::Finish(end), Command::Report]
    }

    fn enter(&mut self, phase: Phase) -> Vec<Command> {
        self.phase = phase;
        vec![Command::Report]
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Ended(_))
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
