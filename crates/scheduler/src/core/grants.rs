//! What a node is told to run: the assigned set and its versions.

use std::collections::{BTreeMap, BTreeSet};

use protocol::control::{Directive, SetEntry, SetVersion};
use protocol::data::DataEntry;
use protocol::{Epoch, ProgramId};

/// Gives out version numbers: one sequence for all nodes of a process, so that no version is ever used for two sets.
#[derive(Debug)]
pub(super) struct Versions {
    process: String,
    last: u64,
}

impl Versions {
    pub(super) fn new(process: String) -> Self {
        Self { process, last: 0 }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// The set of one node.
#[derive(Debug)]
pub(super) struct AssignedSet {
    number: u64,
    /// The entries of assignments, each with the version that brought it.
    entries: BTreeMap<ProgramId, (SetEntry, u64)>,
    /// What to do about data.
    data: BTreeMap<ProgramId, DataEntry>,
    /// What the node holds although it is not its own.
    strays: BTreeSet<(ProgramId, Epoch)>,
}

impl AssignedSet {
    pub(super) fn new(versions: &mut Versions) -> Self {
        Self { number: versions.next(), entries: BTreeMap::new(), data: BTreeMap::new(), strays: BTreeSet::new() }
    }

    pub(super) fn put(&mut self, entry: SetEntry, versions: &mut Versions) {
        self.number = versions.next();
        self.entries.insert(entry.program, (entry, self.number));
    }

    pub(super) fn remove(&mut self, program: ProgramId, versions: &mut Versions) {
        if self.entries.remove(&program).is_some() {
            self.number = versions.next();
        }
    }

    pub(super) fn put_data(&mut self, entry: DataEntry, versions: &mut Versions) {
        self.number = versions.next();
        self.data.insert(entry.program, entry);
    }

    pub(super) fn remove_data(&mut self, program: ProgramId, versions: &mut Versions) {
        if self.data.remove(&program).is_some() {
            self.number = versions.next();
        }
    }

    /// All orders about data.
    pub(super) fn data(&self) -> Vec<DataEntry> {
        self.data.values().cloned().collect()
    }

    /// The programs whose data the node writes or keeps.
    pub(super) fn programs_with_data(&self) -> impl Iterator<Item = ProgramId> {
        self.data.keys().copied()
    }

    /// Replaces the strays. Returns those that are new.
    pub(super) fn set_strays(
        &mut self,
        strays: BTreeSet<(ProgramId, Epoch)>,
        versions: &mut Versions,
    ) -> Vec<(ProgramId, Epoch)> {
        if self.strays == strays {
            return Vec::new();
        }
        self.number = versions.next();
        let before = std::mem::replace(&mut self.strays, strays);
        self.strays.difference(&before).copied().collect()
    }

    pub(super) fn strays(&self) -> impl Iterator<Item = ProgramId> {
        self.strays.iter().map(|(program, _)| *program)
    }

    /// The programs that are assigned to the node, or being released by it.
    pub(super) fn programs(&self) -> impl Iterator<Item = ProgramId> {
        self.entries.keys().copied()
    }

    /// The programs whose leases a grant of this set renews.
    pub(super) fn renewed(&self) -> impl Iterator<Item = ProgramId> {
        let run = self.entries.values().filter(|(entry, _)| entry.directive == Directive::Run);
        run.map(|(entry, _)| entry.program)
    }

    pub(super) fn version(&self, versions: &Versions) -> SetVersion {
        SetVersion { scheduler: versions.process.clone(), number: self.number }
    }

    /// The whole set.
    pub(super) fn entries(&self) -> Vec<SetEntry> {
        let own = self.entries.values().map(|(entry, _)| entry.clone());
        let release = |(program, epoch): &(ProgramId, Epoch)| SetEntry {
            program: *program,
            epoch: *epoch,
            directive: Directive::Release,
        };
        own.chain(self.strays.iter().map(release)).collect()
    }

    /// Whether a node that applied this version has seen the newest entry of the program. Until then, what it says about the
    /// program can be older than what it was told.
    pub(super) fn is_acknowledged(
        &self,
        program: ProgramId,
        applied: Option<&SetVersion>,
        versions: &Versions,
    ) -> bool {
        let Some((_, since)) = self.entries.get(&program) else { return false };
        applied.is_some_and(|applied| applied.scheduler == versions.process && applied.number >= *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(program: u8, epoch: u64, directive: Directive) -> SetEntry {
        SetEntry { program: ProgramId::from_bytes([program; 32]), epoch: Epoch::new(epoch), directive }
    }

    #[test]
    fn every_change_is_a_new_version_and_no_version_is_used_twice() {
        let mut versions = Versions::new("s".into());
        let (mut a, mut b) = (AssignedSet::new(&mut versions), AssignedSet::new(&mut versions));
        let mut seen = vec![a.number, b.number];
        a.put(entry(1, 1, Directive::Run), &mut versions);
        seen.push(a.number);
        b.put(entry(2, 1, Directive::Run), &mut versions);
        seen.push(b.number);
        a.set_strays(BTreeSet::from([(ProgramId::from_bytes([3; 32]), Epoch::FIRST)]), &mut versions);
        seen.push(a.number);
        a.remove(ProgramId::from_bytes([1; 32]), &mut versions);
        seen.push(a.number);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        a.remove(ProgramId::from_bytes([1; 32]), &mut versions);
        assert_eq!(Some(&a.number), seen.last(), "nothing changed");
    }

    #[test]
    fn strays_are_released_beside_what_is_assigned() {
        let mut versions = Versions::new("s".into());
        let mut set = AssignedSet::new(&mut versions);
        let strays = BTreeSet::from([
            (ProgramId::from_bytes([1; 32]), Epoch::new(1)),
            (ProgramId::from_bytes([2; 32]), Epoch::new(4)),
        ]);
        assert_eq!(set.set_strays(strays.clone(), &mut versions).len(), 2);
        assert!(set.set_strays(strays, &mut versions).is_empty());
        set.put(entry(1, 2, Directive::Run), &mut versions);
        assert_eq!(
            set.entries(),
            [entry(1, 2, Directive::Run), entry(1, 1, Directive::Release), entry(2, 4, Directive::Release)]
        );
    }

    #[test]
    fn only_a_version_of_this_process_acknowledges() {
        let mut versions = Versions::new("s".into());
        let mut set = AssignedSet::new(&mut versions);
        let program = ProgramId::from_bytes([1; 32]);
        let before = set.version(&versions);
        set.put(entry(1, 1, Directive::Release), &mut versions);
        let after = set.version(&versions);
        let other = SetVersion { scheduler: "t".into(), number: u64::MAX };
        for (applied, acknowledged) in
            [(None, false), (Some(&before), false), (Some(&other), false), (Some(&after), true)]
        {
            assert_eq!(set.is_acknowledged(program, applied, &versions), acknowledged);
        }
    }
}
