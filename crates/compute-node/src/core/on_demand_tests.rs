use proptest::prelude::*;

use super::*;

const NEEDS: Needs = Needs { vcpus: 1, memory_mib: 128 };

fn at(seconds: u64) -> BootTime {
    BootTime::BOOT + Duration::from_secs(1000 + seconds)
}

fn program(number: u8) -> ProgramId {
    ProgramId::from_bytes([number; 32])
}

/// A node with room for two.
fn node() -> OnDemand {
    OnDemand::new(Needs { vcpus: 2, memory_mib: 256 }, Duration::from_secs(60))
}

fn failure() -> Failure {
    Failure { kind: FailureKind::StartupError, message: "no".into() }
}

fn start(node: &mut OnDemand, now: u64, p: ProgramId) {
    assert_eq!(node.handle(at(now), Event::Wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(now), Event::Fetched(p, NEEDS)), [Command::Start(p)]);
    assert_eq!(node.handle(at(now), Event::Ready(p)), [Command::Serve(p)]);
}

#[test]
fn many_requests_start_one_copy() {
    let (mut node, p) = (node(), program(1));
    assert_eq!(node.handle(at(0), Event::Wanted(p)), [Command::Fetch(p)]);
    assert_eq!(node.handle(at(0), Event::Wanted(p)), []);
    node.handle(at(1), Event::Fetched(p, NEEDS));
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
        assert_eq!(node.handle(at(1), Event::Fetched(p, NEEDS)), [Command::Start(p)]);
    }
}

#[test]
fn idle_copies_are_stopped_and_busy_ones_are_not() {
    let (mut node, p) = (node(), program(1));
    start(&mut node, 0, p);
    assert_eq!(node.handle(at(59), Event::Idle(p, at(0))), []);
    assert_eq!(node.handle(at(60), Event::Idle(p, at(0))), [Command::Retire(p)]);
    assert_eq!(node.handle(at(61), Event::Gone(p, None)), []);
    assert!(node.is_empty());
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
    assert_eq!(node.handle(at(2), Event::Fetched(new, NEEDS)), [Command::Retire(old)]);
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
    let commands = node.handle(at(1), Event::Fetched(program(3), NEEDS));
    assert!(matches!(&commands[..], [Command::Fail(_, f)] if f.message.contains("no room")), "{commands:?}");
}

#[test]
fn a_program_that_fails_is_not_started_for_every_request() {
    let (mut node, p) = (node(), program(1));
    node.handle(at(0), Event::Wanted(p));
    node.handle(at(0), Event::Fetched(p, NEEDS));
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
    node.handle(at(3), Event::Fetched(p, NEEDS));
    assert_eq!(node.handle(at(3), Event::Outdated(p)), [Command::Retire(p)]);
    assert_eq!(node.handle(at(4), Event::Gone(p, None)), [Command::Fetch(p)]);
}

fn event() -> impl Strategy<Value = Event> {
    let p = (1_u8..5).prop_map(program);
    prop_oneof![
        3 => p.clone().prop_map(Event::Wanted),
        3 => p.clone().prop_map(|p| Event::Fetched(p, NEEDS)),
        1 => p.clone().prop_map(|p| Event::FetchFailed(p, failure())),
        3 => p.clone().prop_map(Event::Ready),
        1 => p.clone().prop_map(|p| Event::Gone(p, None)),
        1 => p.clone().prop_map(|p| Event::Gone(p, Some(failure()))),
        1 => (p.clone(), 0_u64..100).prop_map(|(p, s)| Event::Idle(p, at(s))),
        1 => p.clone().prop_map(Event::Busy),
        1 => p.prop_map(Event::Outdated),
        1 => Just(Event::Tick),
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
