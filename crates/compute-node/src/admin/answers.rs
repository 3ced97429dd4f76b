//! What the operator is told, as JSON.

use chrono::{DateTime, Utc};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use serde::{Deserialize, Serialize};
use volumes::{Error, Inventory, Kept, Readable, Role, VolumeUsage};

/// All programs that the node has data of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramList {
    /// Ordered by their ids.
    pub programs: Vec<ProgramVolumes>,
}

/// What the node has of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramVolumes {
    /// Which one.
    pub program: ProgramId,
    /// What the node is for its data.
    pub role: RoleName,
    /// The highest epoch that the node has seen; not known when the records are damaged.
    pub highest_epoch: Option<Epoch>,
    /// Until when everything is kept, of a forgotten program.
    pub kept_until: Option<DateTime<Utc>>,
    /// What the program writes, or wrote last.
    pub live: Option<VolumeSet>,
    /// Complete snapshots, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What was live in former epochs, the oldest first.
    pub recovery_points: Vec<RecoveryPoint>,
    /// What is wrong with its records.
    pub problem: Option<String>,
}

/// What a node is for the data of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// The program writes it here.
    Live,
    /// The program wrote it here, and runs elsewhere now: it will be retired.
    Stale,
    /// Snapshots that another node sent, or took here.
    Standby,
    /// Only recovery points.
    Retired,
    /// The program is over, and its data is removed after its time.
    Forgotten,
    /// The program is over, and its data is kept by the operator's wish.
    Undeleted,
    /// Its records cannot be read.
    Damaged,
    /// Nothing of it is here, except that an epoch of it was seen.
    Nothing,
}

/// A copy of a program's volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSet {
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// Its volumes.
    pub volumes: Vec<Volume>,
}

/// A snapshot of all volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// When it was taken, by the clock of the node that took it.
    pub taken: Option<DateTime<Utc>>,
    /// What it is a copy of.
    #[serde(flatten)]
    pub copy: VolumeSet,
}

/// A former live copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Its number, among those of this program on this node.
    pub number: u64,
    /// Until when it is kept; no time while the program is undeleted.
    pub kept_until: Option<DateTime<Utc>>,
    /// What it is a copy of.
    #[serde(flatten)]
    pub copy: VolumeSet,
}

/// A volume of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// What its owner called it: any text.
    pub name: String,
    /// Bytes that it refers to. What is shared with other copies counts in each of them.
    pub used_bytes: u64,
    /// Bytes that it may refer to.
    pub limit_bytes: u64,
    /// The top folder of it in an export.
    pub folder_in_export: String,
}

impl ProgramVolumes {
    pub(super) fn new(program: ProgramId, found: Result<Inventory, Error>) -> Self {
        let nothing = Self {
            program,
            role: RoleName::Damaged,
            highest_epoch: None,
            kept_until: None,
            live: None,
            snapshots: Vec::new(),
            recovery_points: Vec::new(),
            problem: None,
        };
        match found {
            Ok(inventory) => nothing.with(inventory),
            Err(error) => Self { problem: Some(error.to_string()), ..nothing },
        }
    }

    fn with(mut self, Inventory { role, highest, copies }: Inventory) -> Self {
        (self.role, self.highest_epoch) = (role.into(), Some(highest));
        self.kept_until = match role {
            Role::Forgotten(until) => Some(until),
            _ => None,
        };
        for Kept { what, epoch, taken, until, volumes } in copies {
            let copy = VolumeSet { epoch, volumes: volumes.into_iter().map(Volume::from).collect() };
            match what {
                Readable::Live(_) => self.live = Some(copy),
                Readable::Snapshot(id) => self.snapshots.push(Snapshot { id, taken, copy }),
                Readable::RecoveryPoint(number) => {
                    // Everything of a forgotten program goes at its time, and nothing of an undeleted one.
                    let kept_until = match role {
                        Role::Undeleted => None,
                        Role::Forgotten(all) => until.map(|until| until.min(all)),
                        _ => until,
                    };
                    self.recovery_points.push(RecoveryPoint { number, kept_until, copy });
                }
            }
        }
        self
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Nothing => Self::Nothing,
            Role::Live(_) => Self::Live,
            Role::Stale(_) => Self::Stale,
            Role::Standby => Self::Standby,
            Role::Retired => Self::Retired,
            Role::Forgotten(_) => Self::Forgotten,
            Role::Undeleted => Self::Undeleted,
        }
    }
}

impl From<VolumeUsage> for Volume {
    fn from(VolumeUsage { name, used, limit, .. }: VolumeUsage) -> Self {
        Self { folder_in_export: name.in_archive(), name: name.into(), used_bytes: used, limit_bytes: limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_recovery_point_goes_with_everything_or_stays_with_it() {
        let until = |role| {
            let what = Readable::RecoveryPoint(7);
            let kept = Kept { what, epoch: Epoch::new(1), taken: None, until: Some(at(50)), volumes: Vec::new() };
            let inventory = Inventory { role, highest: Epoch::new(2), copies: vec![kept] };
            let volumes = ProgramVolumes::new(ProgramId::from_bytes([1; 32]), Ok(inventory));
            assert_eq!(volumes.recovery_points[0].number, 7);
            volumes.recovery_points[0].kept_until
        };
        assert_eq!(until(Role::Retired), Some(at(50)));
        assert_eq!(until(Role::Forgotten(at(20))), Some(at(20)));
        assert_eq!(until(Role::Forgotten(at(90))), Some(at(50)));
        assert_eq!(until(Role::Undeleted), None);
    }

    #[test]
    fn damaged_records_are_shown_with_what_is_wrong() {
        let error = Error::Damaged { path: "/x/program.json".into(), reason: "it is missing".to_owned() };
        let shown = ProgramVolumes::new(ProgramId::from_bytes([1; 32]), Err(error));
        assert_eq!((shown.role, shown.highest_epoch), (RoleName::Damaged, None));
        assert!(shown.problem.unwrap().contains("program.json is damaged (it is missing)"));
        let json = serde_json::to_value(RoleName::Undeleted).unwrap();
        assert_eq!(json, "undeleted");
    }
}
