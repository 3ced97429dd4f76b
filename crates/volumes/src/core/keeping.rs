//! What is kept of a program that is over, and until when.
//!
//! The message node says whether a program is in force or over. The data of one that is over is *forgotten*: nothing opens
//! it, and after a while it is removed. The node's operator may *undelete* it before that. Then it is as it was before, and
//! nothing of it is removed, whatever the message node says, until the operator forgets it or the program is in force again.
//! The diagram is in [`super::program`].

use chrono::{DateTime, Utc};
use protocol::Epoch;

use super::name::VolumeSpec;
use super::program::{Program, Refusal, Source};
use super::snapshot::SnapshotId;

/// What the message node clearly says about a program. Silence, and that it does not know the program, say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Its message is in force.
    InForce,
    /// Its message was forgotten, or was never in force.
    Over,
}

/// What followed from [`Evidence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heeded {
    /// Nothing, as it was known or there is nothing here.
    Nothing,
    /// The volumes are forgotten now.
    Forgotten,
    /// The volumes stay although the program is over, as the operator undeleted them.
    Undeleted,
    /// The volumes are those of a program in force again.
    InForceAgain,
}

/// What this node has of a program, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing but the highest epoch that was seen.
    Nothing,
    /// Live under the highest epoch that was seen.
    Live(Epoch),
    /// Live under an epoch that is over, so nothing runs on it.
    Stale(Epoch),
    /// Complete snapshots, and nothing live.
    Standby,
    /// Recovery points only.
    Retired,
    /// Forgotten, and kept until then.
    Forgotten(DateTime<Utc>),
    /// Over, and kept because the operator undeleted it.
    Undeleted,
}

/// What is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The folders of recovery points that may go.
    pub folders: Vec<u64>,
    /// Whether everything may go, because the program was forgotten.
    pub all: bool,
}

/// A copy of a program's volumes that can be read from beginning to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// What is live, in the folder with this number.
    Live(u64),
    /// A complete snapshot set.
    Snapshot(SnapshotId),
    /// The recovery point in the folder with this number.
    RecoveryPoint(u64),
}

impl Program {
    /// Until when the volumes are kept, when the program was forgotten.
    pub fn forgotten(&self) -> Option<DateTime<Utc>> {
        self.forgotten
    }

    /// Whether the operator undeleted the volumes, and the program was not in force since.
    pub fn is_undeleted(&self) -> bool {
        self.undeleted
    }

    /// Whether there are volumes of any kind.
    pub fn has_data(&self) -> bool {
        self.live.is_some() || !self.sets.is_empty() || !self.recovery.is_empty()
    }

    /// What this node has of the program.
    pub fn role(&self) -> Role {
        if let Some(until) = self.forgotten {
            return Role::Forgotten(until);
        }
        match &self.live {
            _ if !self.has_data() => Role::Nothing,
            _ if self.undeleted => Role::Undeleted,
            Some(live) if live.epoch == self.highest => Role::Live(live.epoch),
            Some(live) => Role::Stale(live.epoch),
            None if !self.sets.is_empty() => Role::Standby,
            None => Role::Retired,
        }
    }

    /// The message node said this: the volumes of a program that is over may go after that time. What was forgotten before
    /// keeps its time.
    pub fn heed(&mut self, evidence: Evidence, until: DateTime<Utc>) -> Heeded {
        match evidence {
            Evidence::Over if self.undeleted => Heeded::Undeleted,
            Evidence::Over if self.forgotten.is_none() && self.has_data() => {
                self.forgotten = Some(until);
                Heeded::Forgotten
            }
            Evidence::InForce if self.forgotten.is_some() || self.undeleted => {
                (self.forgotten, self.undeleted) = (None, false);
                Heeded::InForceAgain
            }
            _ => Heeded::Nothing,
        }
    }

    /// The operator wants the volumes of a program that was forgotten.
    ///
    /// # Errors
    /// When it was not forgotten, its time is over, or nothing is here.
    pub fn undelete(&mut self, now: DateTime<Utc>) -> Result<(), Refusal> {
        match self.forgotten {
            Some(until) if until <= now => Err(Refusal::PastRetention(until)),
            Some(_) => {
                (self.forgotten, self.undeleted) = (None, true);
                Ok(())
            }
            None if self.has_data() => Err(Refusal::NotForgotten),
            None => Err(Refusal::NothingHere),
        }
    }

    /// The operator does not want them any more: they may go after that time. Once more moves the time.
    ///
    /// # Errors
    /// When the program is neither undeleted nor forgotten: only its message tells that a program is over.
    pub fn forget(&mut self, until: DateTime<Utc>) -> Result<(), Refusal> {
        if !self.undeleted && self.forgotten.is_none() {
            return Err(if self.has_data() { Refusal::NotUndeleted } else { Refusal::NothingHere });
        }
        (self.forgotten, self.undeleted) = (Some(until), false);
        Ok(())
    }

    /// Drops what is over at that time. The highest epoch stays for ever.
    pub fn collect(&mut self, now: DateTime<Utc>) -> Collected {
        // A recovery point may be what the operator undeleted the program for.
        if self.undeleted {
            return Collected::default();
        }
        if self.forgotten.is_some_and(|until| until <= now) {
            *self = Self { highest: self.highest, next_folder: self.next_folder, ..Self::default() };
            return Collected { folders: Vec::new(), all: true };
        }
        let (over, kept): (Vec<_>, _) =
            std::mem::take(&mut self.recovery).into_iter().partition(|point| point.until <= now);
        self.recovery = kept;
        Collected { folders: over.into_iter().map(|point| point.was.folder).collect(), all: false }
    }

    /// The copy that is asked for, or what was written last as far as this node knows: of the latest epoch, and of that what
    /// the program itself wrote rather than a snapshot of it. Forgotten or not.
    ///
    /// # Errors
    /// When there is no such copy, or none at all.
    pub fn readable(&self, wanted: Option<Source>) -> Result<(Readable, &[VolumeSpec]), Refusal> {
        match wanted {
            Some(Source::Snapshot(id)) => Ok((Readable::Snapshot(id), &self.set(id)?.volumes)),
            Some(Source::RecoveryPoint(folder)) => {
                let point = self.recovery.iter().find(|point| point.was.folder == folder);
                let was = &point.ok_or(Refusal::NoRecoveryPoint(folder))?.was;
                Ok((Readable::RecoveryPoint(folder), &was.volumes))
            }
            None => {
                let live = self.live.iter().map(|live| (live, Readable::Live(live.folder)));
                let points = self.recovery.iter().map(|point| (&point.was, Readable::RecoveryPoint(point.was.folder)));
                // Folders are counted up, so of two in one epoch the one with the greater number was written later.
                let folder = live.chain(points).max_by_key(|(was, _)| (was.epoch, was.folder));
                let set = self.sets.values().next_back();
                match (folder, set) {
                    (Some((was, _)), Some(set)) if set.id.epoch > was.epoch => {
                        Ok((Readable::Snapshot(set.id), &set.volumes))
                    }
                    (Some((was, readable)), _) => Ok((readable, &was.volumes)),
                    (None, Some(set)) => Ok((Readable::Snapshot(set.id), &set.volumes)),
                    (None, None) => Err(Refusal::NothingHere),
                }
            }
        }
    }
}
