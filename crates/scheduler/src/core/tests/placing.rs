//! Properties of placing: the best fit among those that fit, the same answer to the same question.

use proptest::prelude::*;
use protocol::control::Capacity;
use protocol::{Address, Isolation, NodeId};
use serde_json::json;

use super::bench::{Bench, capacity, node, program, spec};
use crate::core::ProgramSpec;
use crate::core::desired::Needs;
use crate::core::placement::{Obstacle, Offer, choose, explain, obstacle};

fn offer(number: u8, memory: u64) -> Offer {
    Offer {
        node: node(number),
        owner: Address::new("0x01"),
        address: format!("http://node-{number}.example"),
        is_listed: true,
        is_healthy: true,
        is_unsteady: false,
        draining: None,
        capacity: Some(capacity(memory)),
        used: Needs::default(),
        programs: 0,
        unread: 0,
    }
}

prop_compose! {
    fn any_offer()(number: u8, vcpus in 0_u32..8, memory in 0_u64..4000, disk in 0_u64..2000, used in 0_u64..4000,
                   programs in 0_u32..5, odd in 0_u8..20) -> Offer {
        Offer {
            is_listed: odd != 1,
            is_healthy: odd != 2,
            draining: (odd == 3).then(String::new),
            capacity: Some(Capacity { vcpus, disk_mib: disk, ..capacity(memory) }),
            used: Needs { memory_mib: used, ..Needs::default() },
            programs,
            ..offer(number, memory)
        }
    }
}

fn never(_: NodeId) -> bool {
    false
}

/// The share that would be left of the dominant resource, in another way than the code's.
fn share_left(offer: &Offer, needs: Needs) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let share = |total: u64, used: u64| (total - used) as f64 / total as f64;
    let capacity = offer.capacity.as_ref().unwrap();
    share(capacity.vcpus.into(), offer.used.vcpus + needs.vcpus)
        .min(share(capacity.memory_mib, offer.used.memory_mib + needs.memory_mib))
        .min(share(capacity.disk_mib, offer.used.disk_mib + needs.disk_mib))
}

proptest! {
    #[test]
    fn the_chosen_node_fits_best(offers in prop::collection::vec(any_offer(), 0..12), memory in 1_u64..2000) {
        let spec = spec(1, memory);
        let fits = |offer: &&Offer| obstacle(&spec, offer, false).is_none();
        match choose(&spec, offers.iter(), never) {
            None => prop_assert!(!offers.iter().any(|offer| fits(&offer))),
            Some(chosen) => {
                let is_chosen = |offer: &&Offer| offer.node == chosen && fits(offer);
                let best = offers.iter().filter(is_chosen).map(|o| share_left(o, spec.needs)).fold(f64::MAX, f64::min);
                for other in offers.iter().filter(fits) {
                    prop_assert!(best <= share_left(other, spec.needs) + 1e-6);
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter(
        offers in prop::collection::vec(any_offer(), 0..12).prop_shuffle(), memory in 1_u64..2000,
    ) {
        let spec = spec(1, memory);
        let mut sorted = offers;
        sorted.sort_by_key(|offer| offer.node);
        sorted.dedup_by_key(|offer| offer.node);
        let reversed: Vec<_> = sorted.iter().rev().cloned().collect();
        prop_assert_eq!(choose(&spec, sorted.iter(), never), choose(&spec, reversed.iter(), never));
    }

    #[test]
    fn no_capacity_is_ever_exceeded(
        mut offers in prop::collection::vec(any_offer(), 1..6), wanted in prop::collection::vec(1_u64..1500, 0..40),
    ) {
        for offer in &mut offers {
            offer.used = Needs::default();
        }
        offers.sort_by_key(|offer| offer.node);
        offers.dedup_by_key(|offer| offer.node);
        for memory in wanted {
            let spec = spec(1, memory);
            let Some(chosen) = choose(&spec, offers.iter(), never) else { continue };
            let offer = offers.iter_mut().find(|offer| offer.node == chosen).unwrap();
            offer.used.vcpus += spec.needs.vcpus;
            offer.used.memory_mib += spec.needs.memory_mib;
            offer.used.disk_mib += spec.needs.disk_mib;
            let capacity = offer.capacity.as_ref().unwrap();
            prop_assert!(offer.used.memory_mib <= capacity.memory_mib);
            prop_assert!(offer.used.vcpus <= u64::from(capacity.vcpus));
            prop_assert!(offer.used.disk_mib <= capacity.disk_mib);
        }
    }
}

#[test]
fn equal_nodes_are_spread_by_fewest_programs_and_then_by_program() {
    let mut offers: Vec<_> = (1..=4).map(|number| offer(number, 1000)).collect();
    let chosen: std::collections::BTreeSet<_> =
        (1..50).map(|number| choose(&spec(number, 100), offers.iter(), never).unwrap()).collect();
    assert_eq!(chosen.len(), 4, "different programs prefer different nodes");
    offers[2].programs = 0;
    for number in [0, 1, 3] {
        offers[number].programs = 1;
    }
    for number in 1..50 {
        assert_eq!(choose(&spec(number, 100), offers.iter(), never), Some(node(3)));
    }
}

#[test]
fn each_demand_is_looked_at() {
    let with = |requirements: serde_json::Value| {
        let mut content = super::content(1, 100);
        content["requirements"] = requirements;
        ProgramSpec::read(program(1), content.to_string()).unwrap().unwrap()
    };
    let (here, other) = (node(1).to_string(), node(2).to_string());
    for (requirements, expected) in [
        (json!({"cpu": {"architecture": "x86_64", "vendor": "GenuineIntel", "features": ["sev"]}}), None),
        (json!({"cpu": {"architecture": "arm64"}}), Some(Obstacle::OtherCpu)),
        (json!({"cpu": {"vendor": "AuthenticAMD"}}), Some(Obstacle::OtherCpu)),
        (json!({"cpu": {"features": ["sev", "sev_snp"]}}), Some(Obstacle::OtherCpu)),
        (json!({"node": {"owner": "0X01", "node_hash": here, "address_regex": "node-[0-9]"}}), None),
        (json!({"node": {"owner": "0x02"}}), Some(Obstacle::OtherNode)),
        (json!({"node": {"node_hash": other}}), Some(Obstacle::OtherNode)),
        (json!({"node": {"address_regex": "^https:"}}), Some(Obstacle::OtherNode)),
    ] {
        assert_eq!(obstacle(&with(requirements.clone()), &offer(1, 1000), false), expected, "{requirements}");
    }
    let gpu = with(json!({"gpu": [{}]}));
    assert_eq!(choose(&gpu, [offer(1, 1000)].iter(), never), None);
    assert!(explain(&gpu, [offer(1, 1000)].iter(), never).contains("GPU"));
}

#[test]
fn beside_a_program_of_unknown_needs_nothing_is_placed() {
    let unread = Offer { unread: 1, programs: 1, ..offer(1, 1000) };
    assert_eq!(obstacle(&spec(1, 100), &unread, false), Some(Obstacle::Unread));
    assert!(explain(&spec(1, 100), [unread].iter(), never).contains("the message node has to be asked about first"));
}

#[test]
fn the_reason_says_what_is_missing() {
    let mut offers = [offer(1, 1024), offer(2, 512), offer(3, 9000)];
    offers[2].draining = Some("maintenance".into());
    let mut big = (*spec(1, 4096)).clone();
    assert_eq!(
        explain(&big, offers.iter(), never),
        "no node fits: 3 nodes, 1 draining, 2 with too little memory (needs 4096 MiB, most free 1024 MiB)"
    );
    assert_eq!(explain(&big, [].iter(), never), "no node fits: no compute node is registered");
    big.needs = Needs { vcpus: 100, memory_mib: 1, disk_mib: 1, pool_mib: 0 };
    assert_eq!(
        explain(&big, [offer(1, 1)].iter(), never),
        "no node fits: 1 node, 1 with too few processors (needs 100, most free 64)"
    );
}

/// A node with a program of which nobody knows what it takes gets no other; once that is read, it does.
#[test]
fn a_node_takes_programs_again_when_the_last_that_was_not_known_is_read() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 300));
    bench.live(1, &[1]);
    bench.restart_unread(1);
    bench.connect(1, 1000);
    bench.live(1, &[1]);
    bench.desire(&spec(2, 300));
    assert_eq!(bench.place(2), None);
    assert!(bench.reason(2).contains("the message node has to be asked about first"), "{}", bench.reason(2));
    bench.desire(&spec(1, 300));
    assert_eq!(bench.place(2), Some((node(1), 1)), "{}", bench.reason(2));
}

#[test]
fn a_node_without_the_isolation_that_is_asked_for_does_not_fit() {
    let mut demanding = (*spec(1, 1)).clone();
    demanding.demands.isolation = Some(Isolation::Gvisor);
    let mut offers = [offer(1, 1000), offer(2, 1000)];
    let why = explain(&demanding, offers.iter(), never);
    assert_eq!(why, "no node fits: 2 nodes, 2 without the isolation that it asks for");
    offers[1].capacity.as_mut().unwrap().isolation = vec![Isolation::Gvisor];
    assert_eq!(choose(&demanding, offers.iter(), never), Some(node(2)));
    assert_eq!(obstacle(&spec(1, 1), &offers[1], false), None, "who does not ask takes any");
    // A node of before says nothing about it, and has containers.
    let mut older = serde_json::to_value(capacity(1)).unwrap();
    older.as_object_mut().unwrap().remove("isolation");
    let older: Capacity = serde_json::from_value(older).unwrap();
    assert_eq!(older.isolation, [Isolation::Container]);
}
