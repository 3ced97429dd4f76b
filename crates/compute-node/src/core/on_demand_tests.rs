use proptest::prelude::*;
use protocol::control::FailureKind;

use super::*;

pub(super) const NEEDS: Needs = Needs { vcpus: 1, memory_mib: 128 };

pub(super) fn at(seconds: u64) -> BootTime {
    BootTime::BOOT + Duration::from_secs(1000 + seconds)
}

/// The first copy of a program.
fn program(number: u8) -> CopyId {
    copy(number, 0)
}

fn copy(program: u8, number: u16) -> CopyId {
    CopyId { program: ProgramId::from_bytes([program; 32]), number }
}

pub(super) const TERMS: Terms = Terms {
    needs: NEEDS,
    patience: Patience { freeze_after: Duration::from_secs(10), stop_after: Duration::from_secs(60) },
    copies: 3,
};

/// Requests that one copy is enough for.
pub(super) const ENOUGH: usize = 10;

/// A node with room for two.
fn node() -> OnDemand {
    OnDemand::new(Needs { vcpus: 2, memory_mib: 256 }, ENOUGH)
}

/// Time passes, and there is memory enough.
pub(super) const TICK: Event = Event::Tick { memory_is_short: false };
const SHORT: Event = Event::Tick { memory_is_short: true };

fn failure() -> Failure {
    Failure { kind: FailureKind::StartupError, message: "no".into() }
}

/// Somebody wants a program of an owner with this number, and waits for room.
pub(super) fn wanted_of(owner: u8, p: CopyId) -> Event {
    Event::Wanted { program: p.program, owner: Address::new(owner.to_string()), waits: true }
}

/// Somebody wants a program, each of which has an owner of its own.
fn wanted(p: CopyId) -> Event {
    wanted_of(p.program.as_bytes()[0], p)
}

/// Starts a copy, which nobody uses any more.
pub(super) fn start(node: &mut OnDemand, now: u64, p: CopyId) {
    assert_eq!(node.handle(at(now), wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(now), Event::Fetched(p, TERMS)), [Command::Start(p)]);
    assert_eq!(node.handle(at(now), Event::Ready(p)), [Command::Serve(p.program)]);
    assert_eq!(node.handle(at(now), Event::Idle(p, at(now))), []);
}

#[test]
fn many_requests_start_one_copy() {
    let (mut node, p) = (node(), program(1));
    assert_eq!(node.handle(at(0), wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(0), wanted(p)), []);
    node.handle(at(1), Event::Fetched(p, TERMS));
    assert_eq!(node.handle(at(1), wanted(p)), []);
    assert_eq!(node.handle(at(2), Event::Ready(p)), [Command::Serve(p.program)]);
    assert_eq!(node.handle(at(3), wanted(p)), [Command::Serve(p.program)]);
}

#[test]
fn programs_start_beside_each_other() {
    let mut node = node();
    for p in [program(1), program(2)] {
        assert_eq!(node.handle(at(0), wanted(p)), [Command::Fetch(p)]);
    }
    for p in [program(2), program(1)] {
        assert_eq!(node.handle(at(1), Event::Fetched(p, TERMS)), [Command::Start(p)]);
    }
}

#[test]
fn idle_copies_are_stopped_and_busy_ones_are_not() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    freeze(&mut node, 10, p, 0);
    assert_eq!(node.handle(at(59), Event::Idle(p, at(0))), []);
    assert_eq!(node.handle(at(60), Event::Idle(p, at(0))), [Command::Retire(p)]);
    assert_eq!(node.handle(at(61), Event::Gone(p, None)), []);
    assert!(node.is_empty());
}

/// The clock says that it was not used since then, and it stands still.
fn freeze(node: &mut OnDemand, now: u64, p: CopyId, since: u64) {
    assert_eq!(node.handle(at(now), Event::Idle(p, at(since))), [Command::Freeze(p)]);
    assert_eq!(node.handle(at(now), Event::Idle(p, at(since))), [], "it is being frozen already");
    assert_eq!(node.handle(at(now), Event::Frozen(p)), []);
    assert!(matches!(node.phase(p), Some(Phase::Up(_, Use::Frozen { .. }))));
}

#[test]
fn what_is_frozen_is_served_at_once_and_frozen_again_when_nobody_uses_it() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(9), Event::Idle(p, at(0))), [], "not yet");
    freeze(&mut node, 10, p, 0);
    assert_eq!(node.handle(at(30), wanted(p)), [Command::Serve(p.program)]);
    // A request was there and is gone, or is there.
    for used in [Event::Idle(p, at(30)), Event::Busy(p)] {
        assert_eq!(node.handle(at(31), used), []);
        assert!(matches!(node.phase(p), Some(Phase::Up(_, Use::Busy | Use::Idle { .. }))));
        assert_eq!(node.handle(at(39), Event::Idle(p, at(30))), []);
        freeze(&mut node, 40, p, 30);
    }
}

#[test]
fn a_request_while_it_is_being_frozen_leaves_it_running() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(10), Event::Idle(p, at(0))), [Command::Freeze(p)]);
    node.handle(at(10), Event::Busy(p));
    assert_eq!(node.handle(at(10), Event::Frozen(p)), [], "it did, and was let go on");
    assert!(matches!(node.phase(p), Some(Phase::Up(_, Use::Busy))));
}

#[test]
fn what_does_not_stand_still_is_tried_again_later_and_stopped_in_time() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(10), Event::Idle(p, at(0))), [Command::Freeze(p)]);
    assert_eq!(node.handle(at(11), Event::NotFrozen(p)), []);
    assert_eq!(node.handle(at(20), Event::Idle(p, at(0))), []);
    assert_eq!(node.handle(at(21), Event::Idle(p, at(0))), [Command::Freeze(p)]);
    assert_eq!(node.handle(at(22), Event::NotFrozen(p)), []);
    assert_eq!(node.handle(at(60), Event::Idle(p, at(0))), [Command::Retire(p)]);
}

#[test]
fn what_is_stopped_before_it_would_be_frozen_is_never_frozen() {
    let (mut node, p) = (node(), program(1));
    let patience = Patience { freeze_after: Duration::from_secs(5), stop_after: Duration::from_secs(5) };
    node.handle(at(0), wanted(p));
    node.handle(at(0), Event::Fetched(p, Terms { patience, ..TERMS }));
    node.handle(at(0), Event::Ready(p));
    assert_eq!(node.handle(at(4), Event::Idle(p, at(0))), []);
    assert_eq!(node.handle(at(5), Event::Idle(p, at(0))), [Command::Retire(p)]);
}

#[test]
fn frozen_copies_make_way_before_idle_ones() {
    let mut node = node();
    let (idle, frozen, new) = (program(1), program(2), program(3));
    start(&mut node, 0, idle);
    start(&mut node, 5, frozen);
    node.handle(at(6), Event::Idle(idle, at(0)));
    freeze(&mut node, 15, frozen, 5);
    node.handle(at(16), wanted(new));
    assert_eq!(node.handle(at(16), Event::Fetched(new, TERMS)), [Command::Retire(frozen)], "though idle for less long");
    assert_eq!(node.handle(at(17), Event::Gone(frozen, None)), [Command::Start(new)]);
}

#[test]
fn unused_copies_leave_one_by_one_while_memory_is_short() {
    let mut node = node();
    let (idle, frozen) = (program(1), program(2));
    start(&mut node, 0, idle);
    start(&mut node, 5, frozen);
    freeze(&mut node, 15, frozen, 5);
    assert_eq!(node.handle(at(16), TICK), []);
    assert_eq!(node.handle(at(16), SHORT), [Command::Retire(frozen)]);
    assert_eq!(node.handle(at(17), SHORT), [], "the first has not given its memory back yet");
    node.handle(at(18), Event::Gone(frozen, None));
    node.handle(at(18), Event::Busy(idle));
    assert_eq!(node.handle(at(18), SHORT), [], "requests use it");
    node.handle(at(19), Event::Idle(idle, at(18)));
    assert_eq!(node.handle(at(19), SHORT), [Command::Retire(idle)]);
}

#[test]
fn copies_that_an_agent_before_left_frozen_stay_so() {
    let (mut node, p) = (node(), program(1));
    let adopted = Event::Adopted { copy: p, terms: TERMS, frozen: Some(at(1)) };
    assert_eq!(node.handle(at(2), adopted), [Command::Serve(p.program)]);
    assert_eq!(node.handle(at(30), Event::Idle(p, at(1))), [], "it is frozen already");
    assert_eq!(node.handle(at(61), Event::Idle(p, at(1))), [Command::Retire(p)]);
}

#[test]
fn a_request_during_the_stop_starts_it_again_after_it() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    node.handle(at(60), Event::Idle(p, at(0)));
    assert_eq!(node.handle(at(60), wanted(p)), []);
    assert_eq!(node.handle(at(61), Event::Gone(p, None)), [Command::Fetch(p)]);
}

#[test]
fn the_longest_idle_copy_makes_room() {
    let mut node = node();
    let (old, newer, new) = (program(1), program(2), program(3));
    start(&mut node, 0, old);
    start(&mut node, 1, newer);
    assert_eq!(node.handle(at(2), wanted(new)), [Command::Fetch(new)]);
    assert_eq!(node.handle(at(2), Event::Fetched(new, TERMS)), [Command::Retire(old)]);
    assert_eq!(node.handle(at(3), Event::Gone(old, None)), [Command::Start(new)]);
}

#[test]
fn a_program_that_fails_is_not_started_for_every_request() {
    let (mut node, p) = (node(), program(1));
    node.handle(at(0), wanted(p));
    node.handle(at(0), Event::Fetched(p, TERMS));
    let failed = [Command::Drop(p), Command::Fail(p.program, failure())];
    assert_eq!(node.handle(at(0), Event::Gone(p, Some(failure()))), failed);
    assert_eq!(node.handle(at(0), wanted(p)), [Command::Fail(p.program, failure())]);
    assert_eq!(node.handle(at(1), wanted(p)), [Command::Fetch(p)]);
    node.handle(at(1), Event::FetchFailed(p, failure()));
    assert_eq!(node.handle(at(2), wanted(p)), [Command::Fail(p.program, failure())]);
    assert_eq!(node.handle(at(3), wanted(p)), [Command::Fetch(p)]);
}

#[test]
fn outdated_copies_are_replaced_when_somebody_wants_them() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(1), Event::Outdated(p.program)), [Command::Retire(p)]);
    node.handle(at(2), Event::Gone(p, None));
    assert!(node.is_empty());
    // One that is just starting has requests waiting for it, as have those that get ready for that.
    node.handle(at(3), wanted(p));
    node.handle(at(3), Event::Fetched(p, TERMS));
    assert_eq!(node.handle(at(3), Event::Outdated(p.program)), [Command::Retire(p)]);
    assert_eq!(node.handle(at(4), Event::Gone(p, None)), [Command::Fetch(p)]);
}

#[test]
fn more_requests_than_one_copy_shall_have_start_more_and_they_go_again() {
    let mut node = OnDemand::new(Needs { vcpus: 8, memory_mib: 8192 }, ENOUGH);
    let [first, second, third] = [0, 1, 2].map(|number| copy(1, number));
    let program = first.program;
    assert_eq!(node.handle(at(0), Event::Inside(program, 99)), [], "it has no copy that says how many there may be");
    start(&mut node, 0, first);
    assert_eq!(node.handle(at(1), Event::Inside(program, ENOUGH)), []);
    assert_eq!(node.handle(at(2), Event::Inside(program, ENOUGH + 1)), [Command::Fetch(second)]);
    assert_eq!(node.handle(at(2), Event::Inside(program, ENOUGH + 1)), [], "it is coming");
    assert_eq!(node.handle(at(2), wanted(first)), [Command::Serve(program)], "nobody waits for it");
    node.handle(at(3), Event::Fetched(second, TERMS));
    assert_eq!(node.handle(at(3), Event::Ready(second)), [Command::Serve(program)]);
    assert_eq!(node.handle(at(4), Event::Inside(program, 1000)), [Command::Fetch(third)], "three and no more");
    node.handle(at(4), Event::Fetched(third, TERMS));
    node.handle(at(4), Event::Ready(third));
    assert_eq!(node.handle(at(5), Event::Inside(program, 1000)), []);

    // All of them stay in the first. The others are there for those that come, and frozen until then.
    node.handle(at(5), Event::Busy(first));
    freeze(&mut node, 14, second, 4);
    assert_eq!(node.handle(at(14), Event::Idle(third, at(6))), []);

    // The crowd goes. What is not wanted any more is stopped when it would be frozen, or is frozen.
    assert_eq!(node.handle(at(15), Event::Inside(program, ENOUGH)), []);
    assert_eq!(node.handle(at(15), Event::Idle(second, at(4))), [Command::Retire(second)]);
    assert_eq!(node.handle(at(15), Event::Idle(third, at(6))), []);
    assert_eq!(node.handle(at(16), Event::Idle(third, at(6))), [Command::Retire(third)]);
    assert_eq!(node.handle(at(16), Event::Inside(program, 1000)), [], "they are not gone yet");
    node.handle(at(17), Event::Gone(second, None));
    node.handle(at(17), Event::Gone(third, None));
    assert_eq!(node.handle(at(18), Event::Inside(program, 1000)), [Command::Fetch(second), Command::Fetch(third)]);
}

#[test]
fn nobody_leaves_for_a_second_copy_and_it_leaves_before_others() {
    let mut node = node();
    let (first, second, other, new) = (copy(1, 0), copy(1, 1), program(2), program(3));
    start(&mut node, 0, first);
    start(&mut node, 0, other);
    node.handle(at(1), Event::Inside(first.program, 2 * ENOUGH));
    let refused = [Command::Drop(second)];
    assert_eq!(node.handle(at(1), Event::Fetched(second, TERMS)), refused, "the other is idle, and stays");
    node.handle(at(2), Event::Outdated(other.program));
    node.handle(at(2), Event::Gone(other, None));
    node.handle(at(3), Event::Inside(first.program, 2 * ENOUGH));
    assert_eq!(node.handle(at(3), Event::Fetched(second, TERMS)), [Command::Start(second)]);
    node.handle(at(3), Event::Ready(second));
    node.handle(at(3), Event::Idle(second, at(3)));
    node.handle(at(4), Event::Inside(first.program, 0));
    node.handle(at(4), wanted(new));
    assert_eq!(
        node.handle(at(4), Event::Fetched(new, TERMS)),
        [Command::Retire(second)],
        "the first is idle for longer"
    );
}

#[test]
fn a_second_copy_that_fails_is_not_tried_at_once_and_fails_nobody() {
    let (mut node, first, second) = (node(), copy(1, 0), copy(1, 1));
    start(&mut node, 0, first);
    let crowd = Event::Inside(first.program, 2 * ENOUGH);
    assert_eq!(node.handle(at(1), crowd.clone()), [Command::Fetch(second)]);
    assert_eq!(node.handle(at(1), Event::FetchFailed(second, failure())), [Command::Drop(second)]);
    assert_eq!(node.handle(at(1), crowd.clone()), []);
    assert_eq!(node.handle(at(2), crowd), [Command::Fetch(second)]);
    // The first ends meanwhile, so somebody waits for the second now.
    node.handle(at(2), Event::Gone(first, None));
    assert_eq!(node.handle(at(2), wanted(first)), []);
    let failed = [Command::Drop(second), Command::Fail(first.program, failure())];
    assert_eq!(node.handle(at(2), Event::FetchFailed(second, failure())), failed);
    assert_eq!(node.handle(at(3), wanted(first)), [Command::Fail(first.program, failure())]);
    assert_eq!(node.handle(at(4), wanted(first)), [Command::Fetch(second)], "with what is known of it");
}

#[test]
fn new_code_replaces_all_copies() {
    let (mut node, first, second) = (node(), copy(1, 0), copy(1, 1));
    start(&mut node, 0, first);
    node.handle(at(1), Event::Inside(first.program, 2 * ENOUGH));
    node.handle(at(1), Event::Fetched(second, TERMS));
    let retired = [Command::Retire(first), Command::Retire(second)];
    assert_eq!(node.handle(at(2), Event::Outdated(first.program)), retired);
    node.handle(at(3), Event::Gone(second, None));
    assert_eq!(node.handle(at(3), wanted(first)), []);
    assert_eq!(node.handle(at(4), Event::Gone(first, None)), [Command::Fetch(first)]);
}

fn event() -> impl Strategy<Value = Event> {
    let copy = (1_u8..5, 0_u16..3).prop_map(|(program, number)| copy(program, number));
    let program = (1_u8..5).prop_map(|number| program(number).program);
    prop_oneof![
        3 => (1_u8..5, 0_u8..2, any::<bool>()).prop_map(|(number, owner, waits)| {
            let (program, owner) = (ProgramId::from_bytes([number; 32]), Address::new(owner.to_string()));
            Event::Wanted { program, owner, waits }
        }),
        3 => (program.clone(), 0_usize..50).prop_map(|(program, inside)| Event::Inside(program, inside)),
        5 => copy.clone().prop_map(|copy| Event::Fetched(copy, TERMS)),
        1 => copy.clone().prop_map(|copy| Event::FetchFailed(copy, failure())),
        5 => copy.clone().prop_map(Event::Ready),
        1 => copy.clone().prop_map(|copy| Event::Gone(copy, None)),
        1 => copy.clone().prop_map(|copy| Event::Gone(copy, Some(failure()))),
        2 => (copy.clone(), 0_u64..100).prop_map(|(copy, s)| Event::Idle(copy, at(s))),
        1 => copy.clone().prop_map(Event::Busy),
        2 => copy.clone().prop_map(Event::Frozen),
        1 => copy.clone().prop_map(Event::Stuck),
        1 => copy.prop_map(Event::NotFrozen),
        1 => program.prop_map(Event::Outdated),
        1 => any::<bool>().prop_map(|memory_is_short| Event::Tick { memory_is_short }),
    ]
}

proptest! {
    /// Whatever happens: never two sandboxes of one copy, never more copies of a program than it may have, never more than
    /// the node has, and nobody waits for ever: when everything that was begun has come to its end, no copy is left waiting.
    #[test]
    fn copies_stay_within_bounds(events in prop::collection::vec(event(), 0..120)) {
        const ROOM: usize = 5;
        let mut node = OnDemand::new(Needs { vcpus: 5, memory_mib: 5 * 128 }, ENOUGH);
        let mut sandboxes = std::collections::BTreeSet::new();
        let mut fetching = std::collections::BTreeSet::new();
        let mut check = |node: &mut OnDemand, now: BootTime, event: Event| -> Result<(), TestCaseError> {
            match &event {
                Event::Gone(copy, _) if !sandboxes.remove(copy) => return Ok(()),
                Event::Ready(copy) if !sandboxes.contains(copy) => return Ok(()),
                Event::Fetched(copy, _) | Event::FetchFailed(copy, _) if !fetching.remove(copy) => return Ok(()),
                _ => {}
            }
            for command in node.handle(now, event) {
                match command {
                    Command::Start(copy) => prop_assert!(sandboxes.insert(copy)),
                    Command::Fetch(copy) => prop_assert!(fetching.insert(copy)),
                    _ => {}
                }
            }
            prop_assert!(sandboxes.len() <= ROOM);
            for number in 1..5 {
                let of = |copy: &&CopyId| copy.program == program(number).program;
                prop_assert!(sandboxes.iter().filter(of).count() <= TERMS.copies.into());
            }
            Ok(())
        };
        for (i, event) in events.into_iter().enumerate() {
            check(&mut node, at(i as u64), event)?;
        }
        for round in 0..20 {
            for id in (1..5).flat_map(|program| (0..10).map(move |number| copy(program, number))) {
                check(&mut node, at(200 + round), Event::FetchFailed(id, failure()))?;
                check(&mut node, at(200 + round), Event::Gone(id, None))?;
            }
        }
        for copy in node.copies.values() {
            prop_assert!(matches!(copy.phase, Phase::Failed { .. }), "{:?}", copy.phase);
        }
    }
}
