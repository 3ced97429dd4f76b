use protocol::message::MessageType;
use serde_json::{Value, json};

use crate::network::{NODE_ID, RUNTIME, Verdict, unplaced, vm};
use crate::run::User;

/// A user with one program that the message node decided about in this way.
fn user_with(trigger: &str, verdict: Verdict) -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&["program", "upload", trigger, "--no-wait", "src", "main:app"])["item_hash"].clone();
    let id = id.as_str().unwrap().to_owned();
    let mut world = user.network.world();
    let envelope = world.messages[&id].envelope.clone();
    world.put(envelope, verdict);
    drop(world);
    (user, id)
}

#[test]
fn a_running_program_is_found_with_everything_about_it() {
    let (user, id) = user_with("--persistent", Verdict::Processed);
    let found = user.json(&["program", "find", &id]);
    let url = user.network.url();
    for (name, value) in [
        ("item_hash", json!(id)),
        ("message_status", json!("processed")),
        ("kind", json!("persistent")),
        ("name", json!("src")),
        ("allocated_node", json!(NODE_ID)),
        ("node_url", json!(url)),
        ("url", json!(format!("{url}/vm/{id}"))),
        ("epoch", json!(1)),
        ("state", json!("ready")),
        ("state_since", json!("2026-11-22T01:00:05Z")),
    ] {
        assert_eq!(found[name], value, "{name}: {found}");
    }
    let outcome = user.run(&["program", "find", &id]);
    for text in [NODE_ID, "ready (since 2026-11-22T01:00:05Z)", "Epoch:", &format!("{url}/vm/{id}")] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    let other = "http://gateway.example/vm/x";
    user.network.world().vms = vec![Some(vm(&url, json!({"url": other})))];
    assert_eq!(user.json(&["program", "find", &id])["url"], other, "the scheduler's URL is the stable one");
}

#[test]
fn programs_that_do_not_run_say_why() {
    let (user, id) = user_with("--persistent", Verdict::Processed);
    let state = |record: Option<Value>| {
        user.network.world().vms = vec![record];
        (user.json(&["program", "find", &id]), user.run(&["program", "find", &id]))
    };
    let (found, outcome) = state(None);
    assert_eq!(found["state"], "accepted");
    assert!(outcome.stdout.contains("the scheduler has not seen it yet"), "{outcome:?}");

    let (found, outcome) = state(Some(unplaced("no capacity: 3 nodes, none has 2 GiB free")));
    assert_eq!((&found["state"], &found["allocated_node"]), (&"unplaced".into(), &Value::Null));
    assert!(outcome.stdout.contains("none has 2 GiB free"), "{outcome:?}");

    let failure = json!({"kind": "bad_entrypoint", "message": "no attribute 'app'\u{1b}[31m"});
    let url = user.network.url();
    let (found, outcome) = state(Some(vm(&url, json!({"state": "failing", "failure": failure, "restarts": 4}))));
    assert_eq!((&found["state"], &found["restarts"]), (&"failing".into(), &4.into()));
    assert!(outcome.stdout.contains("no attribute 'app'") && !outcome.stdout.contains('\u{1b}'), "{outcome:?}");
    assert!(outcome.stderr.contains("aleph program logs"), "{outcome:?}");

    let (_, outcome) = state(Some(vm(&url, json!({"state": "unknown"}))));
    assert!(outcome.stdout.contains("silent"), "{outcome:?}");
}

#[test]
fn on_demand_programs_run_anywhere() {
    let (user, id) = user_with("--on-demand", Verdict::Processed);
    let found = user.json(&["program", "find", &id]);
    assert_eq!((&found["state"], &found["kind"]), (&"on_demand".into(), &"on_demand".into()));
    let outcome = user.run(&["program", "find", &id]);
    assert!(outcome.stdout.contains("at the node that gets the request"), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("/vm/{id}")), "{outcome:?}");
}

#[test]
fn the_message_nodes_decision_comes_first() {
    let (user, id) = user_with("--persistent", Verdict::Pending(u32::MAX, Box::new(Verdict::Processed)));
    assert_eq!(user.json(&["program", "find", &id])["state"], "pending");
    assert!(user.run(&["program", "find", &id]).stdout.contains("being checked"));

    let errors = json!({"errors": [{"account_balance": "1", "required_balance": "2000"}]});
    let (user, id) = user_with("--persistent", Verdict::Rejected(5, errors));
    let found = user.json(&["program", "find", &id]);
    assert_eq!((&found["state"], &found["error_code"]), (&"rejected".into(), &5.into()));
    assert!(found["reason"].as_str().unwrap().contains("2000 ALEPH"), "{found}");
    assert!(user.run(&["program", "find", &id]).stdout.contains("2000 ALEPH"));
    assert!(!user.network.world().events.iter().any(|event| event == "GET vm"));

    let (user, id) = user_with("--persistent", Verdict::Processed);
    user.json(&["program", "delete", &id]);
    let forget = user.network.world().sent(MessageType::Forget)[0].envelope.item_hash.clone();
    let found = user.json(&["program", "find", &id]);
    assert_eq!((&found["state"], &found["forgotten_by"]), (&"forgotten".into(), &json!([forget])));
    assert!(user.run(&["program", "find", &id]).stdout.contains(&forget));
}

#[test]
fn programs_are_named_by_a_part_of_their_id_or_their_url() {
    let (user, id) = user_with("--persistent", Verdict::Processed);
    for name in [&id[..8], &id.to_uppercase(), &format!("{}/vm/{id}/path", user.network.url())] {
        assert_eq!(user.json(&["program", "find", name])["item_hash"], id.as_str(), "{name}");
    }
    assert_eq!(user.json_error(&["program", "find", "00000000"])["code"], "not_found");
    assert_eq!(user.json_error(&["program", "find", "hello"])["code"], "usage");
    assert_eq!(user.run(&["program", "find", "hello"]).code, 2);

    // A second program that starts with the same digits.
    let twin = format!("{}{}", &id[..10], "0".repeat(54));
    let mut world = user.network.world();
    let mut envelope = world.messages[&id].envelope.clone();
    envelope.item_hash.clone_from(&twin);
    envelope.time = protocol::message::MessageTime::now();
    world.put(envelope, Verdict::Processed);
    drop(world);
    let error = user.json_error(&["program", "find", &id[..8]]);
    assert_eq!(error["code"], "ambiguous");
    assert!(error["message"].as_str().unwrap().contains(&twin), "{error}");
    assert_eq!(user.json(&["program", "find", &id[..12]])["item_hash"], id.as_str());
}

#[test]
fn what_is_no_program_is_refused() {
    let user = User::new();
    let error = user.json_error(&["program", "find", &"0".repeat(64)]);
    assert_eq!(error["code"], "not_found");
    assert!(error["hint"].as_str().unwrap().contains("--api-host"), "{error}");
    let error = user.json_error(&["program", "find", RUNTIME]);
    assert!(error["message"].as_str().unwrap().contains("STORE message, not a program"), "{error}");
}

#[test]
fn a_program_that_is_not_paid_for_any_more_has_a_deadline() {
    let until = "2026-11-24T05:06:43.425616+00:00";
    let (user, id) = user_with("--persistent", Verdict::Removing(until));
    let found = user.json(&["program", "find", &id]);
    assert_eq!((&found["message_status"], &found["removal_at"]), (&json!("removing"), &json!(until)), "{found}");
    assert_eq!(found["state"], "ready", "it runs");
    let outcome = user.run(&["program", "find", &id]);
    assert!(outcome.stdout.contains("will be removed at") && outcome.stdout.contains("2026-11-24"), "{outcome:?}");
    let list = user.json(&["program", "list"]);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["removal_at"]), (1, &json!(until)));
    let table = user.run(&["program", "list"]).stdout;
    assert!(table.contains("removed at 2026-11-24"), "{table}");
    let paid = user.json(&["program", "upload", "--no-wait", "--name", "paid", "src", "main:app"])["item_hash"].clone();
    let list = user.json(&["program", "list"]);
    let of = |id: &Value| list.as_array().unwrap().iter().find(|item| item["item_hash"] == *id).unwrap().clone();
    assert_eq!(of(&paid).get("removal_at"), None, "{list}");
}
