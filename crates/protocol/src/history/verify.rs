//! Checks a history from public facts alone.
//!
//! ```text
//!   for each epoch, in order:   Assigned ─▶ (Started │ Ready │ Stopped)* ─▶ [Releasing] ─▶ (Stopped)* ─▶ Ended
//! ```
//! What people ask for, what was lost and which moves failed stands anywhere between `Assigned` and `Ended`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Entry, Fact, SignedEntry, Stated};
use crate::account;
use crate::{Address, Epoch, NodeId, ProgramId};

/// Whom to believe.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The accounts of the network's schedulers.
    pub schedulers: Vec<Address>,
    /// The accounts that may speak for each node. A node that has left the network is missing here; its statements are
    /// counted as unchecked, not as wrong.
    pub nodes: BTreeMap<NodeId, Vec<Address>>,
    /// The epoch of the program's newest assignment, as the network tells it now. A history that ends before was shortened.
    pub epoch: Option<Epoch>,
}

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {sequence}: {what}")]
pub struct Problem {
    /// Where, from 1.
    pub sequence: u64,
    /// What.
    pub what: String,
}

/// A history that holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// How many entries it has.
    pub entries: usize,
    /// How many assignments.
    pub assignments: usize,
    /// How many statements of nodes hold.
    pub statements: usize,
    /// How many statements could not be checked: their nodes are not listed any more.
    pub unchecked: usize,
    /// Whether the last assignment is still open.
    pub is_open: bool,
    /// How many assignments ended because an operator said that the machine was gone.
    pub declared: usize,
}

/// Checks chain, signatures, statements, and that no two assignments overlap.
///
/// # Errors
/// The first [`Problem`].
pub fn verify(program: ProgramId, entries: &[SignedEntry], trust: &Trust) -> Result<Verified, Problem> {
    let mut check = Check::new(program, trust);
    for signed in entries {
        check.sequence += 1;
        check.next(signed).map_err(|what| Problem { sequence: check.sequence, what })?;
    }
    let last = check.sequence;
    check.done().map_err(|what| Problem { sequence: last, what })
}

struct Check<'a> {
    trust: &'a Trust,
    program: ProgramId,
    sequence: u64,
    previous: String,
    /// The assignment that is open: epoch, node, and whether its node said that something of it runs.
    open: Option<(Epoch, NodeId, bool)>,
    last_epoch: Option<Epoch>,
    last_at: Option<DateTime<Utc>>,
    verified: Verified,
}

impl<'a> Check<'a> {
    fn new(program: ProgramId, trust: &'a Trust) -> Self {
        let verified =
            Verified { entries: 0, assignments: 0, statements: 0, unchecked: 0, is_open: false, declared: 0 };
        Self {
            trust,
            program,
            sequence: 0,
            previous: program.to_string(),
            open: None,
            last_epoch: None,
            last_at: None,
            verified,
        }
    }

    fn next(&mut self, signed: &SignedEntry) -> Result<(), String> {
        let entry: Entry = serde_json::from_str(&signed.entry).map_err(|e| format!("it cannot be read: {e}"))?;
        self.link(&entry)?;
        if !self.trust.schedulers.contains(&entry.scheduler) {
            return Err(format!("{} is no scheduler of this network", entry.scheduler));
        }
        account::verify(signed.entry.as_bytes(), &signed.signature, &entry.scheduler)
            .map_err(|e| format!("the scheduler's signature does not hold: {e}"))?;
        self.life(&entry)?;
        self.previous = signed.hash();
        self.last_at = Some(entry.at);
        self.verified.entries += 1;
        Ok(())
    }

    fn link(&self, entry: &Entry) -> Result<(), String> {
        if entry.program != self.program {
            return Err(format!("it is about another program, {}", entry.program));
        }
        if entry.sequence != self.sequence {
            return Err(format!("it is numbered {}", entry.sequence));
        }
        if entry.previous != self.previous {
            return Err("it does not follow the one before it: something was changed, left out or moved".to_owned());
        }
        Ok(())
    }

    fn life(&mut self, entry: &Entry) -> Result<(), String> {
        let about = (entry.epoch, entry.node);
        match &entry.fact {
            Fact::Assigned => {
                if let Some((epoch, ..)) = self.open {
                    return Err(format!("epoch {} begins while epoch {epoch} is open: they overlap", entry.epoch));
                }
                if self.last_epoch.is_some_and(|last| entry.epoch <= last) {
                    return Err(format!("epoch {} is used again", entry.epoch));
                }
                self.open = Some((entry.epoch, entry.node, false));
                self.last_epoch = Some(entry.epoch);
                self.verified.assignments += 1;
            }
            Fact::Stated { statement } => {
                let runs = statement.stated != Stated::Stopped;
                self.open_as(about)?.2 = runs;
                if (statement.program, statement.epoch, statement.node) != (self.program, entry.epoch, entry.node) {
                    return Err("the node's statement is about something else".to_owned());
                }
                let signer = statement.signer().map_err(|e| format!("the node's signature does not hold: {e}"))?;
                match self.trust.nodes.get(&entry.node) {
                    None => self.verified.unchecked += 1,
                    Some(accounts) if accounts.contains(&signer) => self.verified.statements += 1,
                    Some(_) => return Err(format!("{signer} does not speak for the node {}", entry.node)),
                }
            }
            Fact::Releasing { .. }
            | Fact::DataLost { .. }
            | Fact::MoveAsked { .. }
            | Fact::MoveCancelled { .. }
            | Fact::Restoring { .. }
            | Fact::MoveFailed { .. } => drop(self.open_as(about)?),
            Fact::Ended { proof, .. } => {
                let runs = self.open_as(about)?.2;
                if runs && matches!(proof.as_str(), "never_granted" | "refused") {
                    return Err("it ended as if it had never run, although its node said that it did".to_owned());
                }
                self.verified.declared += usize::from(proof == "declared");
                self.open = None;
            }
        }
        Ok(())
    }

    fn open_as(&mut self, about: (Epoch, NodeId)) -> Result<&mut (Epoch, NodeId, bool), String> {
        let open = self.open.as_mut().filter(|(epoch, node, _)| (*epoch, *node) == about);
        open.ok_or_else(|| format!("epoch {} on that node is not open then", about.0))
    }

    fn done(mut self) -> Result<Verified, String> {
        if let Some(epoch) = self.trust.epoch
            && self.last_epoch != Some(epoch)
        {
            let last = self.last_epoch.map_or_else(|| "none".to_owned(), |last| last.to_string());
            return Err(format!("the history ends with epoch {last}, but epoch {epoch} runs: it was shortened"));
        }
        self.verified.is_open = self.open.is_some();
        Ok(self.verified)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stated, Statement};
    use super::*;
    use crate::Account;

    struct Story {
        scheduler: Account,
        nodes: Vec<(NodeId, Account)>,
        entries: Vec<SignedEntry>,
    }

    fn program() -> ProgramId {
        ProgramId::from_bytes([1; 32])
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    impl Story {
        fn new() -> Self {
            let nodes = (1..=2).map(|n| (NodeId::from_bytes([n; 32]), Account::generate())).collect();
            Self { scheduler: Account::generate(), nodes, entries: Vec::new() }
        }

        fn add(&mut self, epoch: u64, node: usize, fact: Fact) {
            let previous = self.entries.last().map_or_else(|| program().to_string(), SignedEntry::hash);
            let sequence = self.entries.len() as u64 + 1;
            let entry = Entry {
                program: program(),
                sequence,
                previous,
                at: at(sequence.try_into().unwrap()),
                scheduler: self.scheduler.address().clone(),
                epoch: Epoch::new(epoch),
                node: self.nodes[node].0,
                fact,
            };
            self.entries.push(SignedEntry::new(&self.scheduler, &entry));
        }

        fn state(&mut self, epoch: u64, node: usize, stated: Stated) {
            let (id, account) = &self.nodes[node];
            let statement = Statement::new(account, *id, program(), Epoch::new(epoch), stated, at(0));
            self.add(epoch, node, Fact::Stated { statement });
        }

        fn trust(&self) -> Trust {
            let nodes = self.nodes.iter().map(|(id, account)| (*id, vec![account.address().clone()]));
            Trust { schedulers: vec![self.scheduler.address().clone()], nodes: nodes.collect(), epoch: None }
        }

        fn check(&self) -> Result<Verified, Problem> {
            verify(program(), &self.entries, &self.trust())
        }
    }

    fn ended(proof: &str) -> Fact {
        Fact::Ended { cause: "node_silent".into(), proof: proof.into() }
    }

    /// Two epochs; the second one runs.
    fn story() -> Story {
        let mut story = Story::new();
        story.add(1, 0, Fact::Assigned);
        story.state(1, 0, Stated::Started);
        story.state(1, 0, Stated::Ready);
        story.add(1, 0, ended("lease_over"));
        story.add(2, 1, Fact::Assigned);
        story.state(2, 1, Stated::Ready);
        story
    }

    #[test]
    fn a_history_that_holds() {
        let verified = story().check().unwrap();
        let expected = Verified { entries: 6, assignments: 2, statements: 3, unchecked: 0, is_open: true, declared: 0 };
        assert_eq!(verified, expected);
    }

    #[test]
    fn what_was_tampered_with_is_found() {
        let mut changed = story();
        changed.entries[3].entry = changed.entries[3].entry.replace("lease_over", "released");
        assert!(changed.check().unwrap_err().what.contains("signature"));
        let mut moved = story();
        moved.entries.swap(1, 2);
        assert_eq!(moved.check().unwrap_err().sequence, 2);
        for left_out in 0..5 {
            let mut story = story();
            story.entries.remove(left_out);
            assert_eq!(story.check().unwrap_err().sequence, left_out as u64 + 1);
        }
        let mut signed_by_another = story();
        signed_by_another.scheduler = Account::generate();
        assert!(signed_by_another.check().unwrap_err().what.contains("no scheduler of this network"));
    }

    #[test]
    fn a_history_that_was_shortened_does_not_reach_the_present() {
        let mut story = story();
        story.entries.truncate(4);
        let trust = Trust { epoch: Some(Epoch::new(2)), ..story.trust() };
        assert!(verify(program(), &story.entries, &trust).unwrap_err().what.contains("shortened"));
        assert!(verify(program(), &[], &trust).is_err());
    }

    #[test]
    fn a_scheduler_cannot_sign_what_must_not_be() {
        let mut overlapping = Story::new();
        overlapping.add(1, 0, Fact::Assigned);
        overlapping.add(2, 1, Fact::Assigned);
        assert!(overlapping.check().unwrap_err().what.contains("overlap"));
        let mut reused = Story::new();
        reused.add(2, 0, Fact::Assigned);
        reused.add(2, 0, ended("lease_over"));
        reused.add(2, 1, Fact::Assigned);
        assert!(reused.check().unwrap_err().what.contains("used again"));
        let mut denied = Story::new();
        denied.add(1, 0, Fact::Assigned);
        denied.state(1, 0, Stated::Ready);
        denied.add(1, 0, ended("never_granted"));
        assert!(denied.check().unwrap_err().what.contains("never run"));
        let mut late = Story::new();
        late.add(1, 0, Fact::Assigned);
        late.add(1, 0, ended("released"));
        late.state(1, 0, Stated::Ready);
        assert!(late.check().unwrap_err().what.contains("not open"));
    }

    #[test]
    fn a_move_that_was_asked_for_stands_between_beginning_and_end() {
        let mut story = story();
        let by = Account::generate().address().clone();
        story.add(2, 1, Fact::MoveAsked { by: by.clone(), to: None });
        story.add(2, 1, Fact::MoveCancelled { by: by.clone() });
        story.add(2, 1, Fact::MoveFailed { reason: "it was full".into() });
        assert_eq!(story.check().unwrap().entries, 9);
        story.add(2, 1, ended("released"));
        story.add(2, 1, Fact::MoveAsked { by, to: None });
        assert!(story.check().unwrap_err().what.contains("not open"));
    }

    #[test]
    fn only_the_node_can_speak_for_itself() {
        let mut story = Story::new();
        story.add(1, 0, Fact::Assigned);
        let (id, _) = story.nodes[0];
        let forged = Statement::new(&story.scheduler, id, program(), Epoch::new(1), Stated::Ready, at(0));
        story.add(1, 0, Fact::Stated { statement: forged });
        assert!(story.check().unwrap_err().what.contains("does not speak for the node"));
        let mut trust = story.trust();
        trust.nodes.clear();
        assert_eq!(verify(program(), &story.entries, &trust).unwrap().unchecked, 1, "a node that left is no proof");
    }
}
