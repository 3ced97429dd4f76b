use proptest::prelude::*;

use super::*;

const NEEDS: Needs = Needs { vcpus: 1, memory_mib: 128 };

fn at(seconds: u64) -> BootTime {
    BootTime::BOOT + Duration::from_secs(1000 + seconds)
}

fn program(number: u8) -> ProgramId {
    ProgramId::from_bytes([number; 32])
}

const TERMS: Terms = Terms {
    needs: NEEDS,
    patience: Patience { freeze_after: Duration::from_secs(10), stop_after: Duration::from_secs(60) },
};

/// A node with room for two.
fn node() -> OnDemand {
    OnDemand::new(Needs { vcpus: 2, memory_mib: 256 })
}

/// Time passes, and there is memory enough.
const TICK: Event = Event::Tick { memory_is_short: false };
const SHORT: Event = Event::Tick { memory_is_short: true };

fn failure() -> Failure {
    Failure { kind: FailureKind::StartupError, message: "no".into() }
}

fn start(node: &mut OnDemand, now: u64, p: ProgramId) {
    assert_eq!(node.handle(at(now), Event::Wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(now), Event::Fetched(p, TERMS)), [Command::Start(p)]);
    assert_eq!(node.handle(at(now), Event::Ready(p)), [Command::Serve(p)]);
}

#[test]
fn many_requests_start_one_copy() {
    let (mut node, p) = (node(), program(1));
    assert_eq!(node.handle(at(0), Event::Wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(0), Event::Wanted(p)), []);
    node.handle(at(1), Event::Fetched(p, TERMS));
    assert_eq!(node.handle(at(1), Event::Wanted(p)), []);
    assert_eq!(node.handle(at(2), Event::Ready(p)), [Command::Serve(p)]);
    assert_eq!(node.handle(at(3), Event::Wanted(p)), [Command::Serve(p)]);
}

#[test]
fn programs_start_beside_each_other() {
    let mut node = node();
    for p in [program(1), program(2)] {
        assert_eq!(node.handle(at(0), Event::Wanted(p)), [Command::Fetch(p)]);
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
fn freeze(node: &mut OnDemand, now: u64, p: ProgramId, since: u64) {
    assert_eq!(node.handle(at(now), Event::Idle(p, at(since))), [Command::Freeze(p)]);
    assert_eq!(node.handle(at(now), Event::Idle(p, at(since))), [], "it is being frozen already");
    assert_eq!(node.handle(at(now), Event::Frozen(p)), []);
    assert!(matches!(node.phase(p), Some(Phase::Frozen { .. })));
}

#[test]
fn what_is_frozen_is_served_at_once_and_frozen_again_when_nobody_uses_it() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(9), Event::Idle(p, at(0))), [], "not yet");
    freeze(&mut node, 10, p, 0);
    assert_eq!(node.handle(at(30), Event::Wanted(p)), [Command::Serve(p)]);
    // A request was there and is gone, or is there.
    for used in [Event::Idle(p, at(30)), Event::Busy(p)] {
        assert_eq!(node.handle(at(31), used), []);
        assert!(matches!(node.phase(p), Some(Phase::Ready { .. })));
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
    assert!(matches!(node.phase(p), Some(Phase::Ready { idle_since: None, .. })));
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
    node.handle(at(0), Event::Wanted(p));
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
    node.handle(at(16), Event::Wanted(new));
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
    let adopted = Event::Adopted { program: p, terms: TERMS, frozen: Some(at(1)) };
    assert_eq!(node.handle(at(2), adopted), [Command::Serve(p)]);
    assert_eq!(node.handle(at(30), Event::Idle(p, at(1))), [], "it is frozen already");
    assert_eq!(node.handle(at(61), Event::Idle(p, at(1))), [Command::Retire(p)]);
}

#[test]
fn a_request_during_the_stop_starts_it_again_after_it() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    node.handle(at(60), Event::Idle(p, at(0)));
    assert_eq!(node.handle(at(60), Event::Wanted(p)), []);
    assert_eq!(node.handle(at(61), Event::Gone(p, None)), [Command::Fetch(p)]);
}

#[test]
fn the_longest_idle_copy_makes_room() {
    let mut node = node();
    let (old, newer, new) = (program(1), program(2), program(3));
    start(&mut node, 0, old);
    start(&mut node, 1, newer);
    assert_eq!(node.handle(at(2), Event::Wanted(new)), [Command::Fetch(new)]);
    assert_eq!(node.handle(at(2), Event::Fetched(new, TERMS)), [Command::Retire(old)]);
    assert_eq!(node.handle(at(3), Event::Gone(old, None)), [Command::Start(new)]);
}

#[test]
fn a_full_node_says_so_at_once() {
    let mut node = node();
    for number in [1, 2] {
        start(&mut node, 0, program(number));
        node.handle(at(0), Event::Busy(program(number)));
    }
    node.handle(at(1), Event::Wanted(program(3)));
    let commands = node.handle(at(1), Event::Fetched(program(3), TERMS));
    assert!(matches!(&commands[..], [Command::Fail(_, f)] if f.message.contains("no room")), "{commands:?}");
}

#[test]
fn a_program_that_fails_is_not_started_for_every_request() {
    let (mut node, p) = (node(), program(1));
    node.handle(at(0), Event::Wanted(p));
    node.handle(at(0), Event::Fetched(p, TERMS));
    assert_eq!(node.handle(at(0), Event::Gone(p, Some(failure()))), [Command::Fail(p, failure())]);
    assert_eq!(node.handle(at(0), Event::Wanted(p)), [Command::Fail(p, failure())]);
    assert_eq!(node.handle(at(1), Event::Wanted(p)), [Command::Fetch(p)]);
    node.handle(at(1), Event::FetchFailed(p, failure()));
    assert_eq!(node.handle(at(2), Event::Wanted(p)), [Command::Fail(p, failure())]);
    assert_eq!(node.handle(at(3), Event::Wanted(p)), [Command::Fetch(p)]);
}

#[test]
fn outdated_copies_are_replaced_when_somebody_wants_them() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(1), Event::Outdated(p)), [Command::Retire(p)]);
    node.handle(at(2), Event::Gone(p, None));
    assert!(node.is_empty());
    // One that is just starting has requests waiting for it.
    node.handle(at(3), Event::Wanted(p));
    node.handle(at(3), Event::Fetched(p, TERMS));
    assert_eq!(node.handle(at(3), Event::Outdated(p)), [Command::Retire(p)]);
    assert_eq!(node.handle(at(4), Event::Gone(p, None)), [Command::Fetch(p)]);
}

fn event() -> impl Strategy<Value = Event> {
    let p = (1_u8..5).prop_map(program);
    prop_oneof![
        3 => p.clone().prop_map(Event::Wanted),
        3 => p.clone().prop_map(|p| Event::Fetched(p, TERMS)),
        1 => p.clone().prop_map(|p| Event::FetchFailed(p, failure())),
        3 => p.clone().prop_map(Event::Ready),
        1 => p.clone().prop_map(|p| Event::Gone(p, None)),
        1 => p.clone().prop_map(|p| Event::Gone(p, Some(failure()))),
        1 => (p.clone(), 0_u64..100).prop_map(|(p, s)| Event::Idle(p, at(s))),
        1 => p.clone().prop_map(Event::Busy),
        2 => p.clone().prop_map(Event::Frozen),
        1 => p.clone().prop_map(Event::NotFrozen),
        1 => p.prop_map(Event::Outdated),
        1 => any::<bool>().prop_map(|memory_is_short| Event::Tick { memory_is_short }),
    ]
}

proptest! {
    /// Whatever happens: never two sandboxes of one program, never more than the node has, and nobody waits for ever: when
    /// everything that was begun has come to its end, no program is left waiting.
    #[test]
    fn copies_stay_within_bounds(events in prop::collection::vec(event(), 0..80)) {
        let mut node = node();
        let mut sandboxes = std::collections::BTreeSet::new();
        let mut fetching = std::collections::BTreeSet::new();
        let mut check = |node: &mut OnDemand, now: BootTime, event: Event| -> Result<(), TestCaseError> {
            match &event {
                Event::Gone(p, _) if !sandboxes.remove(p) => return Ok(()),
                Event::Ready(p) if !sandboxes.contains(p) => return Ok(()),
                Event::Fetched(p, _) | Event::FetchFailed(p, _) if !fetching.remove(p) => return Ok(()),
                _ => {}
            }
            for command in node.handle(now, event) {
                match command {
                    Command::Start(p) => prop_assert!(sandboxes.insert(p)),
                    Command::Fetch(p) => prop_assert!(fetching.insert(p)),
                    _ => {}
                }
            }
            prop_assert!(sandboxes.len() <= 2);
            Ok(())
        };
        for (i, event) in events.into_iter().enumerate() {
            check(&mut node, at(i as u64), event)?;
        }
        for round in 0..20 {
            for p in (1..5).map(program) {
                check(&mut node, at(200 + round), Event::FetchFailed(p, failure()))?;
                check(&mut node, at(200 + round), Event::Gone(p, None))?;
            }
        }
        for copy in node.copies.values() {
            prop_assert!(matches!(copy.phase, Phase::Failed { .. }), "{:?}", copy.phase);
        }
    }
}
