use protocol::operation::Operation;
use serde_json::{Value, json};

use crate::network::{NODE_ID, unplaced, vm};
use crate::run::User;

const OTHER: &str = "3333333333333333333333333333333333333333333333333333333333333333";

fn node(id: &str) -> Value {
    json!({
        "node_hash": id, "name": "n", "owner": "0xa", "address": "http://n", "status": "Healthy", "staked": true,
        "vcpus_total": 1, "vcpus_available": 1, "memory_mb_total": 1, "memory_mb_available": 1, "disk_mb_total": 1,
        "disk_mb_available": 1, "supports_ipv6": false, "vm_count": 1, "updated_at": "2026-11-22T01:00:00Z",
    })
}

/// A user with a persistent program that runs on the first of two nodes.
fn user() -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&["program", "upload", "--persistent", "--no-wait", "src", "main:app"])["item_hash"].clone();
    user.network.world().nodes = vec![node(NODE_ID), node(OTHER)];
    (user, id.as_str().unwrap().to_owned())
}

fn phase(phase: &str, change: Value) -> Value {
    let mut moving =
        json!({"phase": phase, "to": OTHER, "since": "2026-11-22T02:00:00Z", "cause": "moved", "by": "0xa"});
    moving.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({ "moving": moving })
}

fn over(outcome: &str, change: Value) -> Value {
    let mut end = json!({"outcome": outcome, "from": NODE_ID, "to": OTHER, "at": "2026-11-22T02:00:09Z"});
    end.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({ "last_move": end, "allocated_node": OTHER, "epoch": 2 })
}

impl User {
    /// What the scheduler says, one answer after the other.
    fn will_say(&self, records: impl IntoIterator<Item = Value>) {
        let url = self.network.url();
        self.network.world().vms = records.into_iter().map(|change| Some(vm(&url, change))).collect();
    }
}

#[test]
fn a_move_is_ordered_with_the_owners_key_and_followed() {
    let (user, id) = user();
    let phases = || {
        [
            json!({}),
            phase("waiting", json!({})),
            phase("copying", json!({"behind_ms": 3400})),
            phase("stopping", json!({})),
            phase("finishing", json!({})),
            phase("starting", json!({})),
            over("done", json!({"not_ready_ms": 1250})),
        ]
    };
    user.will_say(phases());
    let outcome = user.run(&["program", "move", &id[..10], "--to", &OTHER[..8]]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = [
        "waiting until node 333333333333 can take it",
        "copying its data to node 333333333333 while it runs (it is 4 s behind)",
        "stopping, to run on node 333333333333",
        "stopped; copying what it wrote last to node 333333333333",
        "starting on node 333333333333",
    ];
    let positions: Vec<_> = told.iter().map(|text| outcome.stderr.find(text).expect(text)).collect();
    assert!(positions.is_sorted(), "{outcome:?}");
    assert!(outcome.stdout.contains(OTHER) && outcome.stdout.contains("1.2 s"), "{outcome:?}");
    let world = user.network.world();
    let operation = Operation::Move { program: id.parse().unwrap(), to: Some(OTHER.parse().unwrap()) };
    assert_eq!(world.orders, [(operation, user.account.address().clone())]);
    drop(world);

    user.will_say(phases());
    let moved = user.json(&["program", "move", &id]);
    let facts = ["outcome", "from", "node_id", "epoch", "not_ready_ms"].map(|name| moved[name].clone());
    assert_eq!(facts, [json!("done"), json!(NODE_ID), json!(OTHER), json!(2), json!(1250)]);
    assert_eq!(user.network.world().orders[1].0, Operation::Move { program: id.parse().unwrap(), to: None });
}

#[test]
fn nobody_has_to_wait_and_an_order_can_be_taken_back() {
    let (user, id) = user();
    let ordered = user.json(&["program", "move", &id, "--to", OTHER, "--no-wait"]);
    assert_eq!((&ordered["outcome"], &ordered["to"]), (&json!("ordered"), &json!(OTHER)));
    assert!(user.run(&["program", "move", &id, "--no-wait"]).stdout.contains("--cancel"));
    assert_eq!(user.json(&["program", "move", &id, "--cancel"])["outcome"], "cancelled");
    let last = user.network.world().orders.pop().unwrap();
    assert_eq!(last.0, Operation::CancelMove { program: id.parse().unwrap() });
    assert_eq!(user.run(&["program", "move", &id, "--cancel", "--to", OTHER]).code, 2);
}

#[test]
fn what_the_scheduler_refuses_is_said_in_its_words() {
    let (user, id) = user();
    user.network.world().refusal = Some(format!("it is on node {NODE_ID} already"));
    for arguments in [["program", "move", &id, "--to", NODE_ID], ["program", "move", &id, "--no-wait", "--cancel"]] {
        let error = user.json_error(&arguments);
        assert!(error["message"].as_str().unwrap().contains("already"), "{error}");
    }
    let error = user.json_error(&["program", "move", &id, "--to", "4444444444"]);
    assert_eq!(error["code"], "not_found");
    user.network.world().vms = vec![None];
    let error = user.json_error(&["program", "move", &id]);
    assert_eq!(error["code"], "not_found");
    assert!(error["message"].as_str().unwrap().contains("knows no persistent program"), "{error}");
}

#[test]
fn a_move_that_fails_is_a_failure_of_the_command() {
    let (user, id) = user();
    let back = json!({"allocated_node": NODE_ID, "epoch": 3});
    let mut failed = over("failed", json!({"reason": "on node 33: its node did not take it\u{1b}[31m"}));
    failed.as_object_mut().unwrap().extend(back.as_object().unwrap().clone());
    user.will_say([json!({}), phase("starting", json!({})), failed.clone()]);
    let error = user.json_error(&["program", "move", &id]);
    assert_eq!(error["code"], "move_failed");
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("did not take it") && !text.contains('\u{1b}'), "{error}");
    assert_eq!(error["details"]["record"]["epoch"], 3);

    user.will_say([json!({}), over("cancelled", back)]);
    assert_eq!(user.json_error(&["program", "move", &id])["code"], "move_failed");

    let failing = json!({"state": "failing", "failure": {"kind": "startup_error", "message": "no module"}});
    let mut starting = phase("starting", json!({}));
    starting.as_object_mut().unwrap().extend(failing.as_object().unwrap().clone());
    user.will_say([json!({}), starting]);
    let error = user.json_error(&["program", "move", &id]);
    assert_eq!(error["code"], "program_failing");
    assert!(error["message"].as_str().unwrap().contains("no module"), "{error}");

    user.will_say([json!({}), phase("copying", json!({}))]);
    let error = user.json_error(&["program", "move", &id, "--wait-seconds", "1"]);
    assert_eq!(error["code"], "timed_out");
    assert!(error["hint"].as_str().unwrap().contains("--cancel"), "{error}");

    let url = user.network.url();
    user.network.world().vms = vec![Some(vm(&url, json!({}))), None];
    assert_eq!(user.json_error(&["program", "move", &id])["code"], "forgotten");
}

#[test]
fn another_leader_knows_where_it_runs_now() {
    let (user, id) = user();
    user.will_say([
        json!({}),
        phase("starting", json!({})),
        json!({"state": "starting", "allocated_node": OTHER, "epoch": 2}),
        json!({"allocated_node": OTHER, "epoch": 2}),
    ]);
    let moved = user.json(&["program", "move", &id]);
    assert_eq!((&moved["node_id"], &moved["not_ready_ms"]), (&json!(OTHER), &Value::Null));
}

#[test]
fn find_says_where_copies_are_what_was_lost_and_what_moves() {
    let (user, id) = user();
    let url = user.network.url();
    let found = |record: Value| {
        user.network.world().vms = vec![Some(record)];
        user.run(&["program", "find", &id]).stdout
    };
    let data = |change: Value| {
        let mut data = json!({"standby": OTHER, "standby_is_complete": true, "at_risk_ms": 2300});
        data.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "data": data })
    };
    let text = found(vm(&url, data(json!({"loss": {"epoch": 1, "snapshot": "1-7", "at_most_ms": 5200}}))));
    assert!(text.contains(&format!("node {OTHER}; writes of the last 2.3 s are at risk")), "{text}");
    assert!(text.contains("at most the last 5.2 s of epoch 1"), "{text}");
    assert!(found(vm(&url, data(json!({"at_risk_ms": 0})))).contains("which has everything"));
    assert!(found(vm(&url, data(json!({"at_risk_ms": null})))).contains("how much it lacks is not known"));
    assert!(found(vm(&url, data(json!({"standby_is_complete": false})))).contains("no complete copy yet"));
    let text =
        found(vm(&url, data(json!({"standby": null, "loss": {"epoch": 1, "snapshot": null, "at_most_ms": null}}))));
    assert!(text.contains("no other node") && text.contains("everything that epoch 1 had"), "{text}");
    let text = found(vm(&url, data(json!({"loss": {"epoch": 1, "snapshot": "1-7", "at_most_ms": null}}))));
    assert!(text.contains("what epoch 1 wrote last"), "{text}");

    let mut waits = unplaced("it waits for its data");
    waits["data"] =
        json!({"standby": null, "standby_is_complete": false, "at_risk_ms": null, "waits_for": [NODE_ID, OTHER]});
    let text = found(waits);
    assert!(text.contains(&format!("its data, on {NODE_ID}")) && text.contains(&format!("or {OTHER}")), "{text}");

    let text = found(vm(&url, phase("copying", json!({"behind_ms": 900}))));
    assert!(text.contains("(it is 1 s behind) (ordered by 0xa, since 2026-11-22T02:00:00Z)"), "{text}");
    assert!(
        found(vm(&url, phase("waiting", json!({"cause": "node_fault", "by": null})))).contains("(node fault, since")
    );
    let text = found(vm(&url, over("failed", json!({"reason": "it was full"}))));
    assert!(text.contains("failed at 2026-11-22T02:00:09Z: it was full"), "{text}");
    assert!(!found(vm(&url, over("done", json!({})))).contains("Last move"));
}
