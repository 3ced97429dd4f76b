//! Which nodes a gateway asks for a copy on demand, in which order: pure.
//!
//! Every gateway orders the nodes in the same way for a program, and each program has an order of its own (rendezvous hashing):
//! so all gateways go to the same node as long as that has room, and programs spread over nodes. A node that answered for the
//! program lately comes first, wherever it is in that order: the program is warm there.

use std::collections::HashMap;
use std::time::Duration;

use lease::BootTime;
use protocol::{NodeId, ProgramId};
use sha2::{Digest, Sha256};

/// How long it counts that a node answered for a program. Nodes stop what nobody uses after a while, too.
const WARM: Duration = Duration::from_secs(300);

/// How long it is taken for certain that a copy runs where one answered.
const CERTAIN: Duration = Duration::from_secs(5);

/// How many programs are remembered at most.
const MAX_PROGRAMS: usize = 10_000;

/// Which nodes answered for which programs lately.
#[derive(Debug, Default)]
pub struct Whereabouts(HashMap<ProgramId, (NodeId, BootTime)>);

impl Whereabouts {
    /// A node answered for a program.
    pub fn answered(&mut self, now: BootTime, program: ProgramId, node: NodeId) {
        if self.0.len() >= MAX_PROGRAMS && !self.0.contains_key(&program) {
            self.0.retain(|_, (_, last)| now.since(*last) < WARM);
            if self.0.len() >= MAX_PROGRAMS {
                self.0.clear();
            }
        }
        self.0.insert(program, (node, now));
    }

    /// A node did not answer for a program after all.
    pub fn did_not(&mut self, program: ProgramId, node: NodeId) {
        if self.0.get(&program).is_some_and(|(warm, _)| *warm == node) {
            self.0.remove(&program);
        }
    }

    /// Whether a copy of the program runs on that node, as far as can be known without asking.
    pub fn is_certain(&self, now: BootTime, program: ProgramId, node: NodeId) -> bool {
        self.0.get(&program).is_some_and(|(warm, last)| *warm == node && now.since(*last) < CERTAIN)
    }

    /// Puts nodes into the order in which they are asked for a program.
    pub fn order<T>(&self, now: BootTime, program: ProgramId, nodes: &mut [T], id: impl Fn(&T) -> NodeId) {
        let warm = self.0.get(&program).filter(|(_, last)| now.since(*last) < WARM).map(|(node, _)| *node);
        nodes.sort_by_cached_key(|node| {
            let node = id(node);
            (Some(node) != warm, rendezvous(&node, &program))
        });
    }
}

/// The place of a node in a program's order.
fn rendezvous(node: &NodeId, program: &ProgramId) -> [u8; 32] {
    Sha256::new().chain_update(node.as_bytes()).chain_update(program.as_bytes()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::BOOT + Duration::from_secs(1000 + seconds)
    }

    const PROGRAM: ProgramId = ProgramId::from_bytes([1; 32]);

    fn order(known: &Whereabouts, now: u64, program: ProgramId, nodes: u8) -> Vec<NodeId> {
        let mut nodes: Vec<_> = (0..nodes).map(|i| NodeId::from_bytes([i; 32])).collect();
        known.order(at(now), program, &mut nodes, |node| *node);
        nodes
    }

    #[test]
    fn programs_spread_over_nodes_and_few_move_when_one_goes() {
        let known = Whereabouts::default();
        let (mut used, mut moved) = (std::collections::BTreeSet::new(), 0);
        for number in 0..100 {
            let program = ProgramId::from_bytes([number; 32]);
            let (first, without) = (order(&known, 0, program, 4)[0], order(&known, 0, program, 3)[0]);
            used.insert(first);
            moved += u32::from(first != without);
            assert!(first == without || first == NodeId::from_bytes([3; 32]), "only its own programs move");
        }
        assert_eq!(used.len(), 4);
        assert!((10..40).contains(&moved), "{moved} of 100");
    }

    #[test]
    fn where_it_is_warm_comes_first_for_a_while() {
        let mut known = Whereabouts::default();
        let usual = order(&known, 0, PROGRAM, 4);
        known.answered(at(0), PROGRAM, usual[2]);
        let warm = [usual[2], usual[0], usual[1], usual[3]];
        assert_eq!(order(&known, 299, PROGRAM, 4), warm);
        assert!(known.is_certain(at(4), PROGRAM, usual[2]) && !known.is_certain(at(4), PROGRAM, usual[0]));
        assert!(!known.is_certain(at(5), PROGRAM, usual[2]));
        assert_eq!(order(&known, 300, PROGRAM, 4), usual);
        known.did_not(PROGRAM, usual[0]);
        assert_eq!(order(&known, 1, PROGRAM, 4), warm, "that was another one");
        known.did_not(PROGRAM, usual[2]);
        assert_eq!(order(&known, 1, PROGRAM, 4), usual);
    }

    #[test]
    fn a_bounded_number_of_programs_is_remembered() {
        let mut known = Whereabouts::default();
        for number in 0..=MAX_PROGRAMS {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
            known.answered(at(0), ProgramId::from_bytes(bytes), NodeId::from_bytes([0; 32]));
        }
        assert!(known.0.len() <= MAX_PROGRAMS);
    }
}
