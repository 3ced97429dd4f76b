use lease::LeaseTimes;
use proptest::prelude::*;

use super::*;

const NEEDS: Needs = Needs { vcpus: 1, memory_mib: 128 };

fn at(millis: u64) -> BootTime {
    BootTime::BOOT + Duration::from_millis(100_000 + millis)
}

fn assignment(program: u8, epoch: u64) -> Assignment {
    Assignment { program: ProgramId::from_bytes([program; 32]), epoch: Epoch::new(epoch) }
}

fn node() -> Persistent {
    let capacity = Capacity {
        vcpus: 4,
        memory_mib: 512,
        disk_mib: 1000,
        pool_mib: 0,
        architecture: "x86_64".into(),
        cpu_vendor: String::new(),
        cpu_features: Vec::new(),
        isolation: vec![protocol::Isolation::Container],
    };
    Persistent::new(BootTime::BOOT, capacity, BTreeMap::new(), Duration::from_secs(5))
}

fn version(number: u64) -> SetVersion {
    SetVersion { scheduler: "s".into(), number }
}

fn lease(sent: u64) -> HolderDeadline {
    LeaseTimes::default().holder(at(sent))
}

fn set(sent: u64, number: u64, entries: &[(Assignment, Directive)]) -> Event {
    let entries = entries.iter().map(|(a, d)| SetEntry { program: a.program, epoch: a.epoch, directive: *d }).collect();
    let grant = Grant { sequence: 1, lease_ms: 5000, set: version(number), entries: Some(entries), data: Vec::new() };
    Event::Granted { sent: at(sent), times: LeaseTimes::default(), grant }
}

fn renewal(sent: u64, number: u64) -> Event {
    let grant = Grant { sequence: 1, lease_ms: 5000, set: version(number), entries: None, data: Vec::new() };
    Event::Granted { sent: at(sent), times: LeaseTimes::default(), grant }
}

fn failure() -> Failure {
    Failure { kind: FailureKind::Exited, message: "exited with code 1".into() }
}

fn states(node: &Persistent, now: u64) -> Vec<ReportedState> {
    node.reports(at(now)).into_iter().map(|report| report.state).collect()
}

/// A node that runs one program, ready.
fn running(a: Assignment) -> Persistent {
    let mut node = node();
    node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    node.handle(at(20), Event::Fetched { assignment: a, needs: NEEDS });
    node.handle(at(30), Event::Ready(a));
    assert_eq!(states(&node, 40), [ReportedState::Ready]);
    node
}

#[test]
fn an_assignment_is_remembered_fetched_and_started_under_its_lease() {
    let (mut node, a) = (node(), assignment(1, 1));
    let commands = node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    assert_eq!(commands, [Command::RememberEpoch(a), Command::Fetch(a), Command::Heartbeat]);
    let commands = node.handle(at(20), Event::Fetched { assignment: a, needs: NEEDS });
    assert_eq!(commands, [Command::Start(a, lease(0)), Command::Heartbeat]);
    assert_eq!(node.handle(at(1010), renewal(1000, 1)), [Command::Renew(a, lease(1000))]);
}

#[test]
fn a_lease_counts_from_the_sending_and_is_never_shortened_by_a_late_answer() {
    let a = assignment(1, 1);
    let mut node = running(a);
    assert_eq!(node.handle(at(2000), renewal(1900, 1)), [Command::Renew(a, lease(1900))]);
    assert_eq!(node.handle(at(2010), renewal(900, 1)), [Command::Renew(a, lease(1900))]);
}

#[test]
fn what_was_fetched_too_late_waits_for_a_lease() {
    let (mut node, a) = (node(), assignment(1, 1));
    node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    assert_eq!(node.handle(at(60_000), Event::Fetched { assignment: a, needs: NEEDS }), []);
    let commands = node.handle(at(60_100), renewal(60_050, 1));
    assert_eq!(commands, [Command::Start(a, lease(60_050)), Command::Heartbeat]);
}

#[test]
fn released_is_said_when_the_sandbox_is_gone_and_not_before() {
    let a = assignment(1, 1);
    let mut node = running(a);
    let release = set(1000, 2, &[(a, Directive::Release)]);
    assert_eq!(node.handle(at(1010), release.clone()), [Command::Stop(a, RELEASE_GRACE)]);
    assert_eq!(states(&node, 1020), [ReportedState::Stopping]);
    assert_eq!(node.handle(at(1030), release), []);
    assert_eq!(node.handle(at(1040), Event::SandboxGone(a, None)), [Command::Settle(a)]);
    assert_eq!(states(&node, 1045), [ReportedState::Stopping], "what it wrote is not at its standby yet");
    assert_eq!(node.handle(at(1045), Event::Settled(a)), [Command::Heartbeat]);
    assert_eq!(states(&node, 1050), [ReportedState::Released]);
    // Repeated as long as the set says so, and forgotten when it does not.
    assert_eq!(states(&node, 9000), [ReportedState::Released]);
    node.handle(at(9010), set(9000, 3, &[]));
    assert_eq!(states(&node, 9020), []);
}

#[test]
fn what_is_not_renewed_is_not_renewed() {
    let (a, b) = (assignment(1, 1), assignment(2, 1));
    let mut node = running(a);
    node.handle(at(40), set(35, 2, &[(a, Directive::Run), (b, Directive::Run)]));
    node.handle(at(50), Event::Fetched { assignment: b, needs: NEEDS });
    let commands = node.handle(at(1010), set(1000, 3, &[(a, Directive::Run), (b, Directive::Release)]));
    assert!(!commands.iter().any(|c| matches!(c, Command::Renew(x, _) if *x == b)), "{commands:?}");
    assert!(commands.contains(&Command::Renew(a, lease(1000))));
}

#[test]
fn an_empty_set_stops_nothing() {
    let a = assignment(1, 1);
    let mut node = running(a);
    assert_eq!(node.handle(at(1010), set(1000, 2, &[])), []);
    assert_eq!(states(&node, 1020), [ReportedState::Ready]);
}

#[test]
fn a_renewal_of_an_unknown_set_renews_nothing() {
    let a = assignment(1, 1);
    let mut node = running(a);
    assert_eq!(node.handle(at(1010), renewal(1000, 7)), []);
    assert_eq!(node.applied(), Some(&version(1)));
}

#[test]
fn epochs_that_go_backwards_are_refused_also_after_a_restart() {
    let old = assignment(1, 4);
    let mut node = node();
    node.highest.insert(old.program, Epoch::new(9));
    let commands = node.handle(at(10), set(0, 1, &[(old, Directive::Run)]));
    assert_eq!(commands, []);
    let refusal = Refusal::StaleEpoch { highest: Epoch::new(9) };
    assert_eq!(states(&node, 20), [ReportedState::Refused(refusal)]);
}

#[test]
fn a_new_epoch_starts_when_the_old_ones_sandbox_is_gone() {
    let (old, new) = (assignment(1, 1), assignment(1, 2));
    let mut node = running(old);
    let commands = node.handle(at(1010), set(1000, 2, &[(old, Directive::Release), (new, Directive::Run)]));
    assert!(commands.contains(&Command::Stop(old, RELEASE_GRACE)) && commands.contains(&Command::Fetch(new)));
    assert_eq!(node.handle(at(1020), Event::Fetched { assignment: new, needs: NEEDS }), []);
    let commands = node.handle(at(1030), Event::SandboxGone(old, None));
    assert!(commands.contains(&Command::Start(new, lease(1000))), "{commands:?}");
}

#[test]
fn failures_are_reported_and_tried_again_ever_more_slowly() {
    let a = assignment(1, 1);
    let mut node = running(a);
    node.handle(at(1000), Event::SandboxGone(a, Some(failure())));
    assert_eq!(states(&node, 1010), [ReportedState::Failing(failure())]);
    assert_eq!(node.next_wakeup(), Some(at(1100)), "it worked: at once");
    assert_eq!(node.handle(at(1099), Event::Tick), []);
    assert_eq!(node.handle(at(1100), Event::Tick), [Command::Fetch(a)]);
    assert_eq!(node.reports(at(1101))[0].restarts, 1);
    node.handle(at(1110), Event::FetchFailed(a, failure()));
    assert_eq!(node.next_wakeup(), Some(at(3110)));
}

#[test]
fn a_lease_that_ended_is_no_failure_and_a_new_grant_starts_anew() {
    let a = assignment(1, 1);
    let mut node = running(a);
    node.handle(at(5000), Event::SandboxGone(a, None));
    assert_eq!(states(&node, 5010), [], "nobody asked for its release");
    assert_eq!(node.handle(at(6010), renewal(6000, 1)), [Command::Fetch(a)]);
}

#[test]
fn new_code_is_started_in_place_of_the_old() {
    let a = assignment(1, 1);
    let mut node = running(a);
    assert_eq!(node.handle(at(50), Event::CodeChanged(a.program)), [Command::Stop(a, RELEASE_GRACE)]);
    assert_eq!(node.handle(at(60), Event::SandboxGone(a, None)), [Command::Fetch(a)]);
}

#[test]
fn new_code_that_comes_while_it_is_fetched_is_fetched_before_it_starts() {
    let (a, mut node) = (assignment(1, 1), node());
    node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    let (fetched, changed) = (Event::Fetched { assignment: a, needs: NEEDS }, Event::CodeChanged(a.program));
    assert_eq!(node.handle(at(11), changed.clone()), []);
    assert_eq!(node.handle(at(12), fetched.clone()), [Command::Fetch(a)], "it may be the old code");
    assert_eq!(node.handle(at(13), changed.clone()), []);
    assert_eq!(node.handle(at(14), Event::FetchFailed(a, failure())), [Command::Fetch(a)], "of the old code");
    let commands = node.handle(at(15), fetched.clone());
    assert!(matches!(commands[0], Command::Start(started, _) if started == a), "{commands:?}");
    // What is fetched and waits for a lease waits for the new code, too.
    let mut node = super::tests::node();
    node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    assert_eq!(node.handle(at(100_000), fetched.clone()), [], "its lease is over");
    assert_eq!(node.handle(at(100_001), changed), [Command::Fetch(a)]);
    assert_eq!(node.handle(at(100_002), fetched), []);
}

#[test]
fn more_than_the_node_has_is_refused() {
    let mut node = node();
    let all: Vec<_> = (1..=5).map(|i| (assignment(i, 1), Directive::Run)).collect();
    node.handle(at(10), set(0, 1, &all));
    for (a, _) in &all {
        node.handle(at(20), Event::Fetched { assignment: *a, needs: NEEDS });
    }
    assert_eq!(states(&node, 30)[4], ReportedState::Refused(Refusal::NoCapacity));
    assert_eq!(states(&node, 30)[3], ReportedState::Starting);
}

#[test]
fn what_a_program_wrote_before_it_failed_is_settled_when_it_is_released() {
    let a = assignment(1, 1);
    let mut node = running(a);
    node.handle(at(100), Event::SandboxGone(a, Some(failure())));
    let release = set(1000, 2, &[(a, Directive::Release)]);
    assert_eq!(node.handle(at(1010), release.clone()), [Command::Settle(a)]);
    assert_eq!(node.handle(at(1020), release), []);
    // A scheduler that took over wants it to run on.
    let commands = node.handle(at(2010), set(2000, 3, &[(a, Directive::Run)]));
    assert_eq!(commands, [Command::Fetch(a)]);
    assert_eq!(node.handle(at(2020), Event::Settled(a)), [], "too late");
    assert_eq!(states(&node, 2030), [ReportedState::Preparing]);
}

#[test]
fn without_its_data_a_program_is_refused_and_asked_about_again() {
    let (mut node, a) = (node(), assignment(1, 2));
    node.handle(at(10), set(0, 1, &[(a, Directive::Run)]));
    assert_eq!(node.handle(at(20), Event::NoData(a)), [Command::Heartbeat]);
    assert_eq!(states(&node, 30), [ReportedState::Refused(Refusal::NoData)]);
    assert_eq!(node.handle(at(1000), renewal(990, 1)), [Command::Fetch(a)]);
}

#[test]
fn found_sandboxes_are_kept_reported_and_renewed() {
    let (mut node, a) = (node(), assignment(1, 3));
    let commands = node.handle(at(0), Event::Adopted { assignment: a, needs: NEEDS, ready: true });
    assert_eq!(commands, [Command::RememberEpoch(a)]);
    assert_eq!(states(&node, 10), [ReportedState::Ready]);
    assert_eq!(node.handle(at(20), set(10, 1, &[(a, Directive::Run)])), [Command::Renew(a, lease(10))]);
}

#[test]
fn an_agent_that_just_started_does_not_vouch_for_what_it_cannot_know() {
    let a = assignment(1, 1);
    let mut node = node();
    node.certain_from = at(5000);
    assert_eq!(node.handle(at(10), set(0, 1, &[(a, Directive::Release)])), [Command::Settle(a)]);
    node.handle(at(15), Event::Settled(a));
    assert_eq!(states(&node, 20), []);
    assert_eq!(states(&node, 5000), [ReportedState::Released]);
}

fn event() -> impl Strategy<Value = Event> {
    let a = (1_u8..3, 1_u64..4).prop_map(|(p, e)| assignment(p, e));
    let entry = (a.clone(), prop_oneof![Just(Directive::Run), Just(Directive::Release)]);
    prop_oneof![
        (0_u64..20_000, 1_u64..4, prop::collection::vec(entry, 0..4)).prop_map(|(s, n, e)| set(s, n, &e)),
        (0_u64..20_000, 1_u64..4).prop_map(|(s, n)| renewal(s, n)),
        a.clone().prop_map(|assignment| Event::Fetched { assignment, needs: NEEDS }),
        a.clone().prop_map(|a| Event::FetchFailed(a, failure())),
        a.clone().prop_map(Event::Ready),
        a.clone().prop_map(|a| Event::SandboxGone(a, None)),
        a.clone().prop_map(|a| Event::SandboxGone(a, Some(failure()))),
        a.clone().prop_map(Event::NoData),
        a.prop_map(Event::Settled),
        Just(Event::Tick),
    ]
}

proptest! {
    /// In whatever order things happen: one sandbox per program, never below the highest epoch, never without a living
    /// lease, and `Released` never while the sandbox is there.
    #[test]
    fn one_sandbox_per_program(events in prop::collection::vec(event(), 0..60)) {
        let mut node = node();
        let mut sandboxes: BTreeMap<ProgramId, Assignment> = BTreeMap::new();
        let mut highest: BTreeMap<ProgramId, Epoch> = BTreeMap::new();
        for (i, event) in events.into_iter().enumerate() {
            let now = at(i as u64 * 300);
            if let Event::SandboxGone(a, _) = &event {
                // Only what runs can end.
                if sandboxes.get(&a.program) != Some(a) {
                    continue;
                }
                sandboxes.remove(&a.program);
            }
            for command in node.handle(now, event) {
                match command {
                    Command::RememberEpoch(a) => {
                        let before = highest.insert(a.program, a.epoch);
                        prop_assert!(before < Some(a.epoch));
                    }
                    Command::Start(a, lease) => {
                        prop_assert!(now < lease.soft);
                        prop_assert!(highest.get(&a.program) == Some(&a.epoch), "a stale epoch was started");
                        prop_assert!(sandboxes.insert(a.program, a).is_none(), "two sandboxes of one program");
                    }
                    _ => {}
                }
            }
            for report in node.reports(now) {
                if report.state == ReportedState::Released {
                    let a = Assignment { program: report.program, epoch: report.epoch };
                    prop_assert!(sandboxes.get(&a.program) != Some(&a), "released while it runs");
                }
            }
        }
    }
}
