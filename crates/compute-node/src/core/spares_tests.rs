use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

type Kind = &'static str;

fn at(seconds: f64) -> BootTime {
    BootTime::BOOT + Duration::from_secs_f64(seconds)
}

fn tick(spares: &mut Spares<Kind>, seconds: f64) -> Vec<Command<Kind>> {
    spares.handle(at(seconds), Event::Tick { memory_is_short: false })
}

/// Makes everything that is missing, each costing this much. Says how many were begun.
fn fill(spares: &mut Spares<Kind>, seconds: f64, memory_mib: u64) -> usize {
    let mut commands = tick(spares, seconds);
    let mut made = 0;
    while let Some(Command::Prepare(id, _)) = commands.iter().find(|c| matches!(c, Command::Prepare(..))) {
        made += 1;
        commands = spares.handle(at(seconds), Event::Made { id: *id, memory_mib });
    }
    made
}

fn of(spares: &Spares<Kind>, kind: Kind) -> usize {
    spares.waiting().find(|(other, _)| **other == kind).map_or(0, |(_, count)| count)
}

#[test]
fn the_first_program_starts_cold_and_the_next_finds_one_waiting() {
    let mut spares = Spares::new(1000, 64);
    assert_eq!(spares.handle(at(1.0), Event::Wanted("a")), []);
    assert_eq!(fill(&mut spares, 1.5, 50), 1);
    assert!(matches!(spares.handle(at(9.0), Event::Wanted("a"))[..], [Command::Take(_)]));
    assert_eq!(spares.handle(at(9.1), Event::Wanted("b")), [], "of another kind");
}

#[test]
fn a_burst_is_expected_to_come_again_until_it_is_long_ago() {
    let mut spares = Spares::new(10_000, 64);
    for n in 0..8 {
        spares.handle(at(10.0 + f64::from(n) / 10.0), Event::Wanted("a"));
    }
    assert_eq!(fill(&mut spares, 11.0, 50), 8);
    // One now and then is no burst.
    for minute in 1..=40 {
        spares.handle(at(f64::from(minute) * 60.0), Event::Wanted("a"));
        fill(&mut spares, f64::from(minute) * 60.0 + 1.0, 50);
    }
    assert_eq!(of(&spares, "a"), 1);
}

#[test]
fn one_warms_up_at_a_time() {
    let mut spares = Spares::new(1000, 64);
    for kind in ["a", "b", "b"] {
        spares.handle(at(1.0), Event::Wanted(kind));
    }
    assert!(matches!(tick(&mut spares, 1.2)[..], [Command::Prepare(..)]));
    assert_eq!(tick(&mut spares, 1.4), []);
}

#[test]
fn the_budget_is_shared_and_every_kind_gets_one_before_any_gets_two() {
    let mut spares = Spares::new(250, 64);
    for n in 0..10 {
        spares.handle(at(1.0 + f64::from(n) / 10.0), Event::Wanted("a"));
    }
    assert_eq!(fill(&mut spares, 2.0, 50), 5);
    spares.handle(at(2.0), Event::Wanted("b"));
    // What is unmeasured counts as 64 MiB; afterwards it is known to be less.
    fill(&mut spares, 3.0, 50);
    assert_eq!((of(&spares, "a"), of(&spares, "b")), (4, 1));
}

#[test]
fn they_make_way_with_what_they_are_made_from_until_they_are_wanted_again() {
    let mut spares = Spares::new(1000, 64);
    for kind in ["a", "b"] {
        spares.handle(at(1.0), Event::Wanted(kind));
    }
    let Some(Command::Prepare(waiting, _)) = tick(&mut spares, 1.5).pop() else { panic!("one is made") };
    let made = spares.handle(at(2.0), Event::Made { id: waiting, memory_mib: 50 });
    let [Command::Prepare(warming, _)] = made[..] else { panic!("{made:?}") };
    let commands = spares.handle(at(3.0), Event::MakeWay);
    assert_eq!(
        BTreeSet::from_iter(commands.iter().map(|command| format!("{command:?}"))),
        BTreeSet::from([
            format!("{:?}", Command::<Kind>::End(waiting)),
            format!("{:?}", Command::<Kind>::End(warming)),
            format!("{:?}", Command::Forget("a")),
            format!("{:?}", Command::Forget("b")),
        ])
    );
    // What was warming up ends as if it had failed; nobody holds that against its kind.
    spares.handle(at(3.1), Event::Lost(warming));
    assert_eq!(tick(&mut spares, 3.5), []);
    spares.handle(at(4.0), Event::Wanted("a"));
    assert!(matches!(tick(&mut spares, 4.5)[..], [Command::Prepare(..)]));
}

#[test]
fn when_memory_is_short_all_of_them_go() {
    let mut spares = Spares::new(1000, 64);
    spares.handle(at(1.0), Event::Wanted("a"));
    assert_eq!(fill(&mut spares, 1.0, 50), 1);
    let commands = spares.handle(at(2.0), Event::Tick { memory_is_short: true });
    assert!(matches!(commands[..], [Command::End(_)]), "{commands:?}");
    assert_eq!(fill(&mut spares, 3.0, 50), 1, "there is room again");
}

#[test]
fn what_cannot_be_made_is_tried_again_later_and_later() {
    let mut spares = Spares::new(1000, 64);
    spares.handle(at(1.0), Event::Wanted("a"));
    let [Command::Prepare(id, _)] = tick(&mut spares, 1.0)[..] else { panic!() };
    assert_eq!(spares.handle(at(2.0), Event::Lost(id)), []);
    assert_eq!(tick(&mut spares, 2.5), []);
    assert!(matches!(tick(&mut spares, 3.1)[..], [Command::Prepare(..)]));
}

#[test]
fn what_nobody_wants_any_more_is_let_go() {
    let mut spares = Spares::new(1000, 64);
    spares.handle(at(1.0), Event::Wanted("a"));
    assert_eq!(fill(&mut spares, 1.0, 50), 1);
    let commands = tick(&mut spares, 1.5 + KEEP.as_secs_f64());
    assert!(matches!(commands[..], [Command::End(_), Command::Forget("a")]), "{commands:?}");
}

#[test]
fn nothing_waits_for_ever() {
    let mut spares = Spares::new(1000, 64);
    for n in 0..8 {
        spares.handle(at(f64::from(n) * 600.0), Event::Wanted("a"));
        fill(&mut spares, f64::from(n) * 600.0 + 0.1, 50);
    }
    // Taken and replaced all the time; nobody takes this one.
    let commands = tick(&mut spares, 4200.2 + MAX_AGE.as_secs_f64());
    assert!(commands.iter().any(|command| matches!(command, Command::End(_))), "{commands:?}");
}

proptest! {
    /// Whatever happens: nobody gets one that is not there, or not of its kind; the budget is kept; one warms up at a time.
    #[test]
    fn bookkeeping(steps in prop::collection::vec((0_u8..6, 0_u64..5000, any::<prop::sample::Index>()), 1..200)) {
        let (budget, cost) = (400, 50);
        let mut spares = Spares::new(budget, 6);
        let (mut now, mut warming, mut waiting) = (0.0, None, BTreeMap::new());
        for (what, millis, index) in steps {
            now += millis as f64 / 1000.0;
            let kind = ["a", "b"][index.index(2)];
            let (event, wanted) = match (what, warming) {
                (0 | 1, _) => (Event::Wanted(kind), Some(kind)),
                (2, Some((id, kind))) => {
                    warming = None;
                    waiting.insert(id, kind);
                    (Event::Made { id, memory_mib: cost }, None)
                }
                (3, Some((id, _))) => {
                    warming = None;
                    (Event::Lost(id), None)
                }
                (4, _) if !waiting.is_empty() => {
                    let id = *index.get(&waiting.keys().copied().collect::<Vec<_>>());
                    waiting.remove(&id);
                    (Event::Lost(id), None)
                }
                _ => (Event::Tick { memory_is_short: millis % 7 == 0 }, None),
            };
            for command in spares.handle(at(now), event) {
                match command {
                    Command::Take(id) => prop_assert_eq!(waiting.remove(&id), wanted),
                    Command::Prepare(id, kind) => {
                        prop_assert!(warming.replace((id, kind)).is_none());
                    }
                    Command::End(id) => prop_assert!(waiting.remove(&id).is_some()),
                    Command::Forget(kind) => prop_assert!(waiting.values().all(|other| *other != kind)),
                }
            }
            prop_assert!(waiting.len() <= 6);
            prop_assert!(waiting.len() as u64 * cost <= budget);
            let counted: usize = spares.waiting().map(|(_, count)| count).sum();
            prop_assert_eq!(counted, waiting.len());
        }
        let ids: BTreeSet<_> = waiting.keys().collect();
        prop_assert_eq!(ids.len(), waiting.len());
    }
}
