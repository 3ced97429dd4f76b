//! Programs that wait for room.

use super::super::tests::*;
use super::super::*;
use super::*;

/// A node with room for so many.
fn node_for(copies: u32) -> OnDemand {
    OnDemand::new(Needs { vcpus: copies, memory_mib: u64::from(copies) * 128 }, ENOUGH)
}

fn name(number: u16) -> CopyId {
    let [high, low] = number.to_be_bytes();
    let mut bytes = [0; 32];
    (bytes[0], bytes[1]) = (high, low);
    CopyId::first(ProgramId::from_bytes(bytes))
}

/// Somebody wants a program, and everything that it needs is there at once.
fn want(node: &mut OnDemand, now: u64, event: Event) -> Vec<Command> {
    let Event::Wanted { program, .. } = event else { panic!("{event:?}") };
    assert_eq!(node.handle(at(now), event), [Command::Fetch(CopyId::first(program))]);
    node.handle(at(now), Event::Fetched(CopyId::first(program), TERMS))
}

/// Starts a copy that requests stay in.
fn occupy(node: &mut OnDemand, now: u64, owner: u8, copy: CopyId) {
    assert_eq!(want(node, now, wanted_of(owner, copy)), [Command::Start(copy)]);
    node.handle(at(now), Event::Ready(copy));
}

fn starts(commands: &[Command]) -> Vec<CopyId> {
    let start = |command: &Command| if let Command::Start(copy) = command { Some(*copy) } else { None };
    commands.iter().filter_map(start).collect()
}

fn said_of(commands: &[Command], program: ProgramId) -> String {
    let said = commands.iter().find_map(|command| match command {
        Command::Fail(of, failure) | Command::Refuse(of, failure) if *of == program => Some(failure),
        _ => None,
    });
    let said = said.unwrap_or_else(|| panic!("nothing is said of it: {commands:?}"));
    assert_eq!(said.kind, FailureKind::NodeFault, "another node may do better");
    said.message.clone()
}

#[test]
fn owners_take_turns_for_room() {
    let mut node = node_for(1);
    let one = name(5000);
    occupy(&mut node, 0, 1, name(0));
    for number in 1..=100 {
        assert_eq!(want(&mut node, 1, wanted_of(1, name(number))), []);
    }
    assert_eq!(want(&mut node, 2, wanted_of(2, one)), []);
    assert_eq!(node.waiting(), 101);
    // Each is used for a moment, and leaves for the next.
    let (mut order, mut running) = (Vec::new(), name(0));
    for now in 3..8 {
        node.handle(at(now), Event::Idle(running, at(now - 1)));
        assert_eq!(node.handle(at(now), TICK), [Command::Retire(running)]);
        running = starts(&node.handle(at(now), Event::Gone(running, None)))[0];
        node.handle(at(now), Event::Ready(running));
        order.push(running);
    }
    assert_eq!(order, [name(1), one, name(2), name(3), name(4)], "after one start of the other, not after a hundred");
}

#[test]
fn those_who_wait_are_told_in_time_and_start_when_there_is_room() {
    let mut node = node_for(1);
    let (busy, first, late) = (name(0), name(1), name(2));
    occupy(&mut node, 0, 0, busy);
    assert_eq!(want(&mut node, 1, wanted_of(1, first)), []);
    assert_eq!(want(&mut node, 5, wanted_of(2, late)), []);
    assert_eq!(node.handle(at(20), TICK), []);
    let commands = node.handle(at(21), TICK);
    assert_eq!(commands[0], Command::Drop(first));
    assert!(said_of(&commands, first.program).contains("no room for it within 20 s"));
    assert_eq!(commands.len(), 2, "the other has time left");
    assert_eq!(node.handle(at(22), Event::Gone(busy, None)), [Command::Start(late)]);
    // Nothing is held against it.
    assert_eq!(node.handle(at(22), wanted_of(1, first)), [Command::Fetch(first)]);
}

#[test]
fn who_does_not_wait_for_room_is_told_at_once() {
    let mut node = node_for(1);
    let (busy, new) = (name(0), name(1));
    occupy(&mut node, 0, 0, busy);
    let Event::Wanted { program, owner, .. } = wanted_of(1, new) else { unreachable!() };
    let at_once = Event::Wanted { program, owner, waits: false };
    let commands = want(&mut node, 1, at_once.clone());
    assert_eq!(commands[0], Command::Drop(new));
    assert!(said_of(&commands, program).contains("it needs 128 MiB and 1 vCPUs, 0 MiB and 0 vCPUs are free"));
    assert_eq!(node.waiting(), 0);
    // Beside somebody who waits, before and after it is known that there is no room.
    assert_eq!(node.handle(at(2), wanted_of(1, new)), [Command::Fetch(new)]);
    assert_eq!(node.handle(at(2), at_once.clone()), []);
    for commands in [node.handle(at(2), Event::Fetched(new, TERMS)), node.handle(at(3), at_once.clone())] {
        assert!(matches!(&commands[..], [Command::Refuse(..)]), "{commands:?}");
    }
    assert_eq!(node.handle(at(4), TICK), [], "it is told once");
    // Somebody leaves for it: that is worth waiting for.
    node.handle(at(5), Event::Idle(busy, at(4)));
    assert_eq!(node.handle(at(5), TICK), [Command::Retire(busy)]);
    assert_eq!(node.handle(at(5), at_once), []);
    assert_eq!(node.handle(at(6), Event::Gone(busy, None)), [Command::Start(new)]);
}

#[test]
fn a_full_line_turns_away_the_last_of_who_has_the_most() {
    let mut node = node_for(1);
    occupy(&mut node, 0, 0, name(0));
    for number in 1..=u16::try_from(MAX_WAITING).unwrap() {
        assert_eq!(want(&mut node, 1, wanted_of(1, name(number))), []);
    }
    let last = name(u16::try_from(MAX_WAITING).unwrap());
    let commands = want(&mut node, 1, wanted_of(2, name(5000)));
    assert_eq!(commands[0], Command::Drop(last));
    assert!(said_of(&commands, last.program).contains("too many programs wait"));
    assert_eq!(node.waiting(), MAX_WAITING);
}

#[test]
fn a_program_that_never_fits_waits_for_nothing() {
    let mut node = node_for(2);
    let large = Terms { needs: Needs { vcpus: 1, memory_mib: 257 }, ..TERMS };
    node.handle(at(0), wanted_of(1, name(1)));
    let commands = node.handle(at(0), Event::Fetched(name(1), large));
    assert!(said_of(&commands, name(1).program).contains("too small"));
}

#[test]
fn small_ones_pass_a_large_one_for_a_while_and_then_it_gets_its_room() {
    let mut node = node_for(2);
    let (large, small, late) = (name(3), name(4), name(5));
    let terms = Terms { needs: Needs { vcpus: 2, memory_mib: 256 }, ..TERMS };
    occupy(&mut node, 0, 0, name(0));
    node.handle(at(0), wanted_of(1, large));
    assert_eq!(node.handle(at(0), Event::Fetched(large, terms)), []);
    assert_eq!(want(&mut node, 1, wanted_of(2, small)), [Command::Start(small)]);
    node.handle(at(1), Event::Ready(small));
    assert_eq!(want(&mut node, 11, wanted_of(3, late)), []);
    assert_eq!(node.handle(at(12), Event::Gone(small, None)), [], "room gathers for the large one");
    assert_eq!(node.handle(at(13), Event::Gone(name(0), None)), [Command::Start(large)]);
}

#[test]
fn room_that_is_kept_for_one_is_not_given_to_another() {
    let mut node = node_for(2);
    let (idle, large, small) = (name(0), name(1), name(2));
    start(&mut node, 0, idle);
    let terms = Terms { needs: Needs { vcpus: 2, memory_mib: 256 }, ..TERMS };
    node.handle(at(1), wanted_of(1, large));
    assert_eq!(node.handle(at(1), Event::Fetched(large, terms)), [Command::Retire(idle)]);
    assert_eq!(want(&mut node, 1, wanted_of(2, small)), [], "half of it is free");
    assert_eq!(node.handle(at(2), Event::Gone(idle, None)), [Command::Start(large)]);
}

#[test]
fn who_was_let_in_a_moment_ago_does_not_make_way() {
    let mut node = node_for(1);
    let (running, new) = (name(0), name(1));
    assert_eq!(want(&mut node, 0, wanted_of(1, running)), [Command::Start(running)]);
    assert_eq!(want(&mut node, 0, wanted_of(2, new)), []);
    assert_eq!(node.handle(at(1), Event::Ready(running)), [Command::Serve(running.program)]);
    assert_eq!(node.handle(at(1), TICK), [], "its requests go in now");
    node.handle(at(2), Event::Idle(running, at(2)));
    assert_eq!(node.handle(at(2), TICK), [], "or another one does");
    assert_eq!(node.handle(at(3), TICK), [Command::Retire(running)]);
}

#[test]
fn programs_that_never_get_ready_do_not_keep_others_out() {
    let mut node = node_for(2);
    let (hangs, too, new, more) = (name(0), name(1), name(2), name(3));
    assert_eq!(want(&mut node, 0, wanted_of(1, hangs)), [Command::Start(hangs)]);
    assert_eq!(want(&mut node, 1, wanted_of(1, too)), [Command::Start(too)]);
    assert_eq!(want(&mut node, 2, wanted_of(2, new)), []);
    assert_eq!(node.handle(at(4), TICK), [], "they may take a while");
    let commands = node.handle(at(5), TICK);
    assert_eq!(commands[0], Command::Retire(hangs));
    assert!(said_of(&commands, hangs.program).contains("did not start within 5 s"));
    assert_eq!(node.handle(at(6), Event::Gone(hangs, None)), [Command::Start(new)]);
    // Now each owner has one, and one may start for as long as it likes.
    assert_eq!(want(&mut node, 7, wanted_of(2, more)), []);
    assert_eq!(node.handle(at(20), TICK), []);
}

#[test]
fn new_code_is_fetched_also_for_those_who_wait() {
    let mut node = node_for(1);
    let (busy, p) = (name(0), name(1));
    occupy(&mut node, 0, 0, busy);
    assert_eq!(want(&mut node, 1, wanted_of(1, p)), []);
    assert_eq!(node.handle(at(2), Event::Outdated(p.program)), [Command::Drop(p), Command::Fetch(p)]);
    assert_eq!(node.waiting(), 0);
    assert_eq!(node.handle(at(2), Event::Gone(busy, None)), []);
    // While it is fetched, twice: what comes next may be the code in between.
    for _ in 0..2 {
        assert_eq!(node.handle(at(3), Event::Outdated(p.program)), []);
    }
    assert_eq!(node.handle(at(3), Event::Fetched(p, TERMS)), [Command::Drop(p), Command::Fetch(p)]);
    node.handle(at(3), Event::Outdated(p.program));
    let failure = Failure { kind: FailureKind::BadCode, message: "of the old code".into() };
    assert_eq!(node.handle(at(4), Event::FetchFailed(p, failure)), [Command::Drop(p), Command::Fetch(p)]);
    assert_eq!(node.handle(at(5), Event::Fetched(p, TERMS)), [Command::Start(p)]);
}

#[test]
fn a_copy_that_is_stuck_is_ended_and_not_waited_for() {
    let mut node = node_for(2);
    let (stuck, second) = (name(0), CopyId { number: 1, ..name(0) });
    start(&mut node, 0, stuck);
    assert_eq!(node.handle(at(1), Event::Stuck(stuck)), [Command::Retire(stuck)]);
    assert_eq!(node.handle(at(1), Event::Stuck(stuck)), []);
    assert_eq!(want_copy(&mut node, second), [Command::Start(second)], "beside it: it may never end");
    assert_eq!(node.handle(at(2), Event::Ready(second)), [Command::Serve(stuck.program)]);
    assert_eq!(node.handle(at(3), Event::Gone(stuck, None)), []);
    assert_eq!(node.len(), 1);
}

fn want_copy(node: &mut OnDemand, copy: CopyId) -> Vec<Command> {
    assert_eq!(node.handle(at(1), wanted_of(0, copy)), [Command::Fetch(copy)]);
    node.handle(at(1), Event::Fetched(copy, TERMS))
}
