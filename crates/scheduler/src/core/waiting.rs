//! Who waits for a node, and the rounds in which they are tried.
//!
//! A program is tried on all nodes once. When none fits, it is tried again on those nodes only that got better since: on
//! all others the answer is known. So a heartbeat that changes nothing costs nothing, however many programs wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease::BootTime;
use protocol::data::DataBase;
use protocol::{NodeId, ProgramId};

use super::Scheduler;
use super::assignment::{Program, Stage};
use super::brake::Permit;
use super::data::Sources;
use super::event::{Cause, Command, Notice, Write};
use super::moves::PRECOPY_AT_MOST;
use super::placement::{Offer, cannot_take, choose, explain};
use super::timers::Timer;
use super::turn::Turn;

/// A program whose copy is behind by no more than this is stopped, to be started where the copy is.
const CLOSE_BEHIND: Duration = Duration::from_secs(3);

/// A program's place in the order of the placements.
type Place = (i64, ProgramId);

/// Whether a program was tried on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    No,
    OnAll,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Programs without a node.
    unplaced: BTreeMap<Place, Tried>,
    /// Programs that run on a node that they should leave.
    movers: BTreeMap<Place, Tried>,
    /// Programs of whose data nobody keeps copies.
    bare: BTreeMap<Place, Tried>,
    /// Nodes that may fit programs that they did not fit before.
    improved: BTreeSet<NodeId>,
    /// Whether somebody waits who was not tried on every node.
    has_fresh: bool,
}

impl Waiting {
    /// The node may fit more than before.
    pub(super) fn improve(&mut self, node: NodeId) {
        self.improved.insert(node);
    }

    /// Brings the queues up to date with the program.
    pub(super) fn enlist(&mut self, program: &Program) {
        let place = program.turn();
        let waits = program.gone.is_none() && matches!(program.stage, Stage::Unplaced);
        let moves = matches!(&program.stage, Stage::Assigned(assignment) if assignment.leaving.is_some());
        let queues =
            [(&mut self.unplaced, waits), (&mut self.movers, moves), (&mut self.bare, program.needs_standby())];
        for (queue, belongs) in queues {
            if !belongs {
                queue.remove(&place);
            } else if let Tried::No = queue.entry(place).or_insert(Tried::No) {
                self.has_fresh = true;
            }
        }
    }

    /// Takes the program out of the queues.
    pub(super) fn dismiss(&mut self, program: &Program) {
        self.unplaced.remove(&program.turn());
        self.movers.remove(&program.turn());
        self.bare.remove(&program.turn());
    }

    /// Tries the program on all nodes again.
    pub(super) fn retry(&mut self, program: &Program) {
        for queue in [&mut self.unplaced, &mut self.movers, &mut self.bare] {
            if let Some(tried) = queue.get_mut(&program.turn()) {
                *tried = Tried::No;
                self.has_fresh = true;
            }
        }
    }
}

impl Waiting {
    /// Tries everybody again who was not refused by all nodes.
    pub(super) fn retry_all(&mut self) {
        self.has_fresh = true;
    }

    /// Who waits for a node.
    pub(super) fn unplaced(&self) -> impl Iterator<Item = ProgramId> {
        self.unplaced.keys().map(|(_, program)| *program)
    }
}

impl Scheduler {
    /// Places who waits, in the order of their messages: first those that run nowhere.
    pub(super) fn place(&mut self, turn: &mut Turn) {
        let improved = std::mem::take(&mut self.waiting.improved);
        let has_fresh = std::mem::take(&mut self.waiting.has_fresh);
        if improved.is_empty() && !has_fresh {
            return;
        }
        for (place, tried) in self.waiting.unplaced.clone() {
            self.try_to_place(turn, place, tried, &improved);
        }
        for (place, tried) in self.waiting.movers.clone() {
            self.try_to_move(turn, place, tried, &improved);
        }
        for (place, tried) in self.waiting.bare.clone() {
            self.try_to_find_keeper(turn, place, tried, &improved);
        }
    }

    fn try_to_place(&mut self, turn: &mut Turn, place: Place, tried: Tried, improved: &BTreeSet<NodeId>) {
        let Some(program) = self.programs.get(&place.1) else { return };
        if program.held_until.is_some_and(|until| turn.now < until) {
            return;
        }
        if let Some(node) = self.candidate(program, tried, improved, turn.now) {
            return self.store_if_permitted(turn, place, node);
        }
        if tried == Tried::OnAll {
            return;
        }
        self.waiting.unplaced.insert(place, Tried::OnAll);
        let reason = match program.data.as_ref().map(|data| data.sources(turn.now, self.policy.restore_after)) {
            Some(Sources::Nowhere(reason)) => reason,
            _ => explain(&program.spec, self.offers(), |node| program.avoids(node, turn.now)),
        };
        let program = self.programs.get_mut(&place.1).expect("it was there a moment ago");
        if program.unplaceable.is_none() {
            turn.command(Command::Store(Write::Remember(program.spec.clone())));
        }
        if program.unplaceable.as_ref() != Some(&reason) {
            program.unplaceable = Some(reason.clone());
            turn.notice(Notice::Unplaceable { program: place.1, reason });
        }
        self.show(turn, place.1);
    }

    /// A program that ran before moves only as fast as the brake permits.
    fn store_if_permitted(&mut self, turn: &mut Turn, place: Place, node: NodeId) {
        let ran_before = self.programs.get(&place.1).is_some_and(|program| program.last_epoch.is_some());
        match if ran_before { self.brake.permit(turn.now) } else { Permit::Granted } {
            Permit::Granted => return self.store(turn, place.1, node),
            Permit::Later(at) => self.timers.arm(Timer::Brake, at),
            Permit::Stopped => {}
        }
        self.waiting.unplaced.insert(place, Tried::No);
        self.show(turn, place.1);
    }

    fn try_to_move(&mut self, turn: &mut Turn, place: Place, tried: Tried, improved: &BTreeSet<NodeId>) {
        let Some(program) = self.programs.get(&place.1) else { return };
        let Stage::Assigned(assignment) = &program.stage else { return };
        let (Some(cause), here) = (assignment.unwanted(), assignment.node) else { return };
        let target = if program.pauses(turn.now) {
            None
        } else if program.data.is_some() {
            self.target_with_data(turn, place.1, here, cause)
        } else {
            let wish = program.wish();
            let wished = wish.filter(|node| self.fits(program, *node, turn.now));
            let insists = wish.is_some() && cause == Cause::Moved;
            wished.or_else(|| (!insists).then(|| self.candidate(program, tried, improved, turn.now)).flatten())
        };
        match target {
            Some(target) => self.release_for_move(turn, place.1, here, cause, target),
            None => drop(self.waiting.movers.insert(place, Tried::OnAll)),
        }
    }

    fn release_for_move(&mut self, turn: &mut Turn, id: ProgramId, here: NodeId, cause: Cause, target: NodeId) {
        // A node that failed the program must not get it back at once; the others may have to.
        if cause == Cause::NodeFault {
            self.avoid(turn.now, id, here);
        }
        self.release(turn, id, cause, Some(target));
    }

    /// First the data, while the program runs; then, when the copy is nearly as new as the original or was complete for
    /// long enough, the program: the node that it can be stopped for.
    fn target_with_data(&mut self, turn: &mut Turn, id: ProgramId, here: NodeId, cause: Cause) -> Option<NodeId> {
        let program = self.programs.get(&id)?;
        let data = program.data.as_ref()?;
        let fits = |node: &NodeId| *node != here && self.fits(program, *node, turn.now);
        let (keeper, wish) = (data.keeper(), program.wish());
        let target = match wish.filter(fits) {
            None if wish.is_some() && cause == Cause::Moved => None,
            None => keeper.filter(fits).or_else(|| {
                choose(&program.spec, self.offers(), |node| node == here || program.avoids(node, turn.now))
            }),
            wished => wished,
        }?;
        if keeper != Some(target) {
            self.set_keeper(turn, id, |data| (data.filling, data.is_keeper_gone) = (Some(target), false));
            return None;
        }
        if data.confirmed != Some(target) || data.filling.is_some() || !data.has_live(here) {
            return None;
        }
        let is_near = data.behind(target).is_some_and(|behind| behind <= CLOSE_BEHIND);
        let leaving = self.programs.get_mut(&id)?.stage.assignment_mut()?.leaving.as_mut()?;
        let copied = leaving.copied.filter(|(node, _)| *node == target);
        let (_, since) = *leaving.copied.insert(copied.unwrap_or((target, turn.now)));
        self.timers.arm(Timer::Program(id), since + PRECOPY_AT_MOST);
        (is_near || since + PRECOPY_AT_MOST <= turn.now).then_some(target)
    }

    /// Whether it could move to this node now.
    fn fits(&self, program: &Program, node: NodeId, now: BootTime) -> bool {
        let avoided = program.avoids(node, now);
        self.offer_to(program, node).is_some_and(|offer| cannot_take(&program.spec, &offer, avoided).is_none())
    }

    /// Finds a node for copies, one of another owner if there is one: what one owner's nodes suffer, they suffer together.
    fn try_to_find_keeper(&mut self, turn: &mut Turn, place: Place, tried: Tried, improved: &BTreeSet<NodeId>) {
        let Some(program) = self.programs.get(&place.1) else { return };
        let (Some(data), Some(assignment)) = (&program.data, program.stage.assignment()) else { return };
        let here = assignment.node;
        let owner = self.nodes.get(&here).map(|node| &node.offer.owner);
        let gone = data.keeper();
        let avoided = |node| node == here || gone == Some(node) || program.avoids(node, turn.now);
        let among = |offer: &&Offer| tried == Tried::No || improved.contains(&offer.node);
        let elsewhere = self.offers().filter(among).filter(|offer| Some(&offer.owner) != owner);
        let keeper = choose(&program.spec, elsewhere, avoided);
        let keeper = keeper.or_else(|| choose(&program.spec, self.offers().filter(among), avoided));
        match keeper {
            Some(keeper) => {
                self.set_keeper(turn, place.1, |data| (data.filling, data.is_keeper_gone) = (Some(keeper), false));
            }
            None => drop(self.waiting.bare.insert(place, Tried::OnAll)),
        }
    }

    fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.nodes.values().map(|node| &node.offer)
    }

    /// What a node offers to this program, for which it may keep room already.
    pub(super) fn offer_to(&self, program: &Program, node: NodeId) -> Option<Offer> {
        let mut offer = self.nodes.get(&node)?.offer.clone();
        let keeper = program.data.as_ref().and_then(|data| data.keeper());
        if keeper == Some(node) || program.stage.occupies(keeper).contains(&Some(node)) {
            offer.used = offer.used.without(program.spec.needs);
        }
        Some(offer)
    }

    /// The best node for it, other than the one that it is on.
    fn candidate(&self, program: &Program, tried: Tried, improved: &BTreeSet<NodeId>, now: BootTime) -> Option<NodeId> {
        let here = program.stage.assignment().map(|assignment| assignment.node);
        let avoided = |node| Some(node) == here || program.avoids(node, now);
        match program.data.as_ref().map(|data| data.sources(now, self.policy.restore_after)) {
            Some(Sources::Nowhere(_)) => return None,
            Some(Sources::On(groups)) => {
                let wish = program.wish().filter(|node| program.data.as_ref().is_some_and(|data| data.is_exact(*node)));
                return wish
                    .filter(|node| self.fits(program, *node, now))
                    .or_else(|| self.candidate_with_data(program, &groups, avoided));
            }
            // What it had written stays where it is, as a point to go back to.
            Some(Sources::Archive(_)) => {
                let writer = program.data.as_ref().and_then(|data| data.last).map(|(node, _)| node);
                if let Some(writer) = writer.filter(|node| self.fits(program, *node, now)) {
                    return Some(writer);
                }
            }
            None | Some(Sources::Anywhere) => {}
        }
        if let Some(wish) = program.wish().filter(|node| Some(*node) != here && self.fits(program, *node, now)) {
            return Some(wish);
        }
        // The room that is kept for its copy is there for the program itself.
        let keeper = program.data.as_ref().and_then(|data| data.keeper());
        let kept = keeper.and_then(|keeper| self.offer_to(program, keeper));
        let others = self.offers().filter(|offer| Some(offer.node) != keeper);
        let among = |offer: &&Offer| tried == Tried::No || improved.contains(&offer.node);
        choose(&program.spec, others.chain(&kept).filter(among), avoided)
    }

    /// The best of the nodes that have its data, in the order of the groups. When none fits, the one that wrote last, even
    /// if it is drained or leaves the network: there is its data, and it can move from there.
    fn candidate_with_data(
        &self,
        program: &Program,
        groups: &[Vec<(NodeId, DataBase)>],
        avoided: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let offers = |group: &[(NodeId, DataBase)]| -> Vec<Offer> {
            group.iter().filter_map(|(node, _)| self.offer_to(program, *node)).collect()
        };
        let fitting = groups.iter().find_map(|group| choose(&program.spec, offers(group).iter(), &avoided));
        fitting.or_else(|| {
            let is_own = |(_, base): &&(NodeId, DataBase)| matches!(base, DataBase::Own { .. });
            let own: Vec<_> = groups.iter().flatten().filter(is_own).copied().collect();
            let mut offers = offers(&own);
            offers.iter_mut().for_each(|offer| (offer.draining, offer.is_listed) = (None, true));
            choose(&program.spec, offers.iter(), &avoided)
        })
    }
}
