//! Chance acts in a [`World`]. The invariants are checked there after every act; here is what must hold in the end.

use proptest::prelude::*;

use super::bench::program;
use super::world::{Act, NODES, PROGRAMS, World};

fn act() -> impl Strategy<Value = Act> {
    let node = || 1..=NODES;
    let some_program = || 1..=PROGRAMS;
    prop_oneof![
        6 => (1_u16..1500).prop_map(Act::Pass),
        1 => (1500_u16..8000).prop_map(Act::Pass),
        3 => some_program().prop_map(Act::Desire),
        2 => some_program().prop_map(Act::Forget),
        2 => (some_program(), prop::option::of(node())).prop_map(|(program, to)| Act::Move(program, to)),
        1 => some_program().prop_map(Act::CancelMove),
        1 => (0..=NODES).prop_map(Act::ListNodes),
        1 => node().prop_map(Act::Withdraw),
        3 => node().prop_map(Act::Connect),
        1 => node().prop_map(Act::Disconnect),
        12 => node().prop_map(Act::Talk),
        10 => node().prop_map(Act::Beat),
        10 => node().prop_map(Act::ArriveUp),
        10 => node().prop_map(Act::ArriveDown),
        1 => node().prop_map(Act::Freeze),
        2 => node().prop_map(Act::Thaw),
        1 => node().prop_map(Act::Reboot),
        1 => (node(), any::<bool>(), any::<bool>()).prop_map(|(node, refuses, fails)| Act::Moody(node, refuses, fails)),
        3 => node().prop_map(Act::Stop),
        10 => Just(Act::Answer),
        1 => any::<bool>().prop_map(|takes_effect| Act::Fail { takes_effect }),
        4 => prop::bool::weighted(0.25).prop_map(|loses_database| Act::Crash { loses_database }),
        2 => Just(Act::Repeat),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Most stories begin with a network that works, so that there is something to break.
    let beginning: Vec<Act> = std::iter::once(Act::ListNodes(0)).chain((1..=NODES).map(Act::Talk)).collect();
    prop::collection::vec(act(), 0..250).prop_map(move |acts| beginning.iter().copied().chain(acts).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// I1 and I5 throughout; and I3: once all is well again, every desired program runs, and no other.
    #[test]
    fn whatever_happens_at_most_one_copy_runs_and_in_the_end_one_does(acts in acts()) {
        let mut world = World::new(200);
        for act in acts {
            world.act(act);
        }
        let is_well = |world: &World| {
            (1..=PROGRAMS).all(|number| {
                let wanted = world.desired.get(&number) == Some(&true);
                let is_known = world.scheduler.program_view(program(number)).is_some();
                world.running(number) == usize::from(wanted) && is_known == wanted
            })
        };
        world.heal(is_well);
        prop_assert!(is_well(&world), "{:?}", world.scheduler);
    }

    /// With less room than is asked for.
    #[test]
    fn no_node_is_ever_overcommitted(acts in acts()) {
        let mut world = World::new(700);
        for act in acts {
            world.act(act);
        }
        let is_well = |world: &World| {
            let wanted = world.desired.values().filter(|desired| **desired).count();
            let running: usize = (1..=PROGRAMS).map(|number| world.running(number)).sum();
            running == wanted.min(NODES.into())
        };
        world.heal(is_well);
        prop_assert!(is_well(&world), "each node has room for one: {:?}", world.scheduler);
    }

    #[test]
    fn the_same_story_has_the_same_decisions(acts in acts()) {
        let tell = || {
            let mut world = World::new(400);
            acts.iter().for_each(|act| world.act(*act));
            world.log
        };
        prop_assert_eq!(tell(), tell());
    }
}
