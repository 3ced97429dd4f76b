use lease::LeaseTimes;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: f64) -> BootTime {
    BootTime::BOOT + Duration::from_secs_f64(seconds)
}

fn lease_from(seconds: f64) -> HolderDeadline {
    LeaseTimes::default().holder(at(seconds))
}

fn claimed() -> Core {
    let (mut core, _) = Core::new(lease_from(0.0));
    core.handle(at(0.1), Event::Prepared);
    core.handle(at(0.2), Event::Claim { deadline: lease_from(0.2), ready_within: Duration::from_secs(60) });
    core
}

fn ready() -> Core {
    let mut core = claimed();
    core.handle(at(0.5), Event::Guest(FromGuest::Ready));
    core
}

#[test]
fn a_claim_arms_the_fuse_before_anything_of_the_program_is_there() {
    let (mut core, first) = Core::new(lease_from(0.0));
    assert_eq!(first, [Command::SetFuse(lease_from(0.0).fuse)]);
    core.handle(at(0.1), Event::Prepared);
    let claim = Event::Claim { deadline: lease_from(1.0), ready_within: Duration::from_secs(1) };
    assert_eq!(core.handle(at(1.1), claim), [Command::SetFuse(lease_from(1.0).fuse), Command::Claim, Command::Report]);
}

#[test]
fn nobody_renews_so_it_is_asked_to_end_then_killed() {
    let mut core = ready();
    let deadline = lease_from(0.2);
    assert_eq!(core.next_wakeup(), Some(deadline.soft));
    let commands = core.handle(deadline.soft, Event::Tick);
    let grace = deadline.soft.until(deadline.kill);
    assert_eq!(commands, [Command::StopProgram { grace }, Command::Report]);
    assert_eq!(core.next_wakeup(), Some(deadline.kill));
    assert_eq!(core.handle(deadline.kill, Event::Tick), [Command::Kill]);
    let gone = core.handle(deadline.kill, Event::Gone { out_of_memory: false });
    assert_eq!(gone, [Command::Finish(End::LeaseEnded), Command::Report]);
}

#[test]
fn a_renewal_that_comes_too_late_revives_nothing() {
    let mut core = ready();
    core.handle(lease_from(0.2).soft, Event::Tick);
    assert_eq!(core.handle(at(4.5), Event::Renew(lease_from(4.5))), []);
    assert_eq!(core.next_wakeup(), Some(lease_from(0.2).kill));
}

#[test]
fn a_program_that_ended_by_itself_is_cleared_away_at_once() {
    let mut core = ready();
    let exited = Event::Guest(FromGuest::Exited { code: Some(3), signal: None });
    assert_eq!(core.handle(at(1.0), exited), [Command::Report, Command::Kill]);
    let end = End::Exited { code: Some(3), signal: None };
    assert_eq!(core.handle(at(1.0), Event::Gone { out_of_memory: false }), [Command::Finish(end), Command::Report]);
}

#[test]
fn running_out_of_memory_is_called_by_its_name() {
    for ended in [
        Event::Guest(FromGuest::Exited { code: None, signal: Some(9) }),
        Event::Guest(FromGuest::Exited { code: Some(137), signal: None }),
        Event::GuestClosed,
    ] {
        let mut core = ready();
        core.handle(at(1.0), ended);
        let commands = core.handle(at(1.0), Event::Gone { out_of_memory: true });
        assert_eq!(commands[0], Command::Finish(End::OutOfMemory));
    }
    // A helper process was killed for memory earlier; the program itself ended well.
    let mut core = ready();
    core.handle(at(1.0), Event::Guest(FromGuest::Exited { code: Some(0), signal: None }));
    let commands = core.handle(at(1.0), Event::Gone { out_of_memory: true });
    assert_eq!(commands[0], Command::Finish(End::Exited { code: Some(0), signal: None }));
}

#[test]
fn a_stop_gives_grace_but_never_beyond_the_lease() {
    let mut core = ready();
    let commands = core.handle(at(4.0), Event::Stop { grace: Duration::from_secs(10) });
    assert_eq!(commands[0], Command::StopProgram { grace: at(4.0).until(lease_from(0.2).kill) });
    core.handle(at(4.1), Event::Guest(FromGuest::Exited { code: Some(0), signal: None }));
    let commands = core.handle(at(4.1), Event::Gone { out_of_memory: false });
    assert_eq!(commands[0], Command::Finish(End::Stopped));
}

#[test]
fn a_program_that_never_answers_is_given_up() {
    let mut core = claimed();
    core.handle(at(50.0), Event::Renew(lease_from(59.9)));
    assert_eq!(core.next_wakeup(), Some(at(60.2)));
    assert_eq!(core.handle(at(60.2), Event::Tick), [Command::Report, Command::Kill]);
    let commands = core.handle(at(60.2), Event::Gone { out_of_memory: false });
    assert_eq!(commands[0], Command::Finish(End::NeverReady));
}

#[test]
fn what_cannot_be_made_is_cleared_away_too() {
    let (mut core, _) = Core::new(lease_from(0.0));
    assert_eq!(core.handle(at(0.1), Event::PrepareFailed("no".into())), [Command::Report, Command::Kill]);
    let mut core = claimed();
    let end = End::BadCode { message: "no squashfs".into() };
    core.handle(at(0.3), Event::ClaimFailed(end.clone()));
    let commands = core.handle(at(0.3), Event::Gone { out_of_memory: false });
    assert_eq!(commands[0], Command::Finish(end));
}

#[test]
fn a_kill_that_leaves_something_alive_is_repeated() {
    let mut core = ready();
    core.handle(at(1.0), Event::GuestClosed);
    let again = core.next_wakeup().unwrap();
    assert_eq!(core.handle(again, Event::Tick), [Command::Kill]);
    assert!(core.next_wakeup().unwrap() > again);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Prepared),
        Just(Event::PrepareFailed("x".into())),
        (0_u64..20).prop_map(|s| Event::Claim {
            deadline: LeaseTimes::default().holder(BootTime::from_nanos(s * SECOND)),
            ready_within: Duration::from_secs(3)
        }),
        (0_u64..20).prop_map(|s| Event::Renew(LeaseTimes::default().holder(BootTime::from_nanos(s * SECOND)))),
        (0_u64..20).prop_map(|s| Event::Stop { grace: Duration::from_secs(s) }),
        Just(Event::Guest(FromGuest::Ready)),
        Just(Event::Guest(FromGuest::Exited { code: Some(1), signal: None })),
        Just(Event::GuestClosed),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: it never wants to sleep past the kill deadline of the longest lease it was
    /// given, and from there on every tick kills.
    #[test]
    fn nothing_outlives_its_lease(events in prop::collection::vec((0_u64..3 * SECOND, event()), 0..40)) {
        let (mut core, commands) = Core::new(lease_from(0.0));
        let mut fuse = lease_from(0.0);
        prop_assert_eq!(commands, [Command::SetFuse(fuse.fuse)]);
        let mut now = BootTime::BOOT;
        for (pause, event) in events {
            now = now + Duration::from_nanos(pause);
            if let Event::Claim { deadline, .. } | Event::Renew(deadline) = &event {
                fuse = fuse.extended_by(*deadline);
            }
            core.handle(now, event);
            let wakeup = core.next_wakeup().expect("it has not ended");
            prop_assert!(wakeup <= fuse.kill.max(now + KILL_AGAIN));
        }
        now = now.max(fuse.kill);
        core.handle(now, Event::Tick);
        for _ in 0..3 {
            now = now.max(core.next_wakeup().unwrap());
            prop_assert!(core.handle(now, Event::Tick).contains(&Command::Kill));
        }
    }
}
