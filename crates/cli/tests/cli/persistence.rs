use protocol::Account;
use protocol::message::{MessageType, ProgramContent};
use serde_json::{Value, json};

use crate::network::{NODE_ID, Verdict, vm};
use crate::run::User;

fn user_with(flags: &[&str]) -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&[&["program", "upload"], flags, &["src", "main:app"]].concat())["item_hash"].clone();
    user.network.world().events.clear();
    (user, id.as_str().unwrap().to_owned())
}

fn content(user: &User, id: &str) -> Value {
    user.network.world().messages[id].content()
}

#[test]
fn unpersist_replaces_and_only_then_deletes() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.world().stopping = 1;
    let answer = user.json(&["unpersist", &old]);
    assert_eq!((&answer["old"], &answer["changed"], &answer["old_deleted"]), (&json!(old), &true.into(), &true.into()));
    let new = answer["item_hash"].as_str().unwrap();
    assert_ne!(new, old);
    assert_eq!(answer["url"], format!("{}/vm/{new}", user.network.url()));

    let (before, after) = (content(&user, &old), content(&user, new));
    assert_eq!(after["on"], json!({"http": true, "persistent": false}));
    assert_eq!(after["replaces"], old.as_str());
    for same in ["address", "allow_amend", "metadata", "environment", "resources", "payment", "code", "runtime"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert!(after["time"].as_f64() > before["time"].as_f64());

    let world = user.network.world();
    let forget = world.sent(MessageType::Forget)[0].content();
    assert_eq!(forget["hashes"], json!([old]));
    let order: Vec<&str> =
        world.events.iter().map(String::as_str).filter(|e| e.contains("PROGRAM") || e.contains("FORGET")).collect();
    assert_eq!(order, ["POST PROGRAM", "processed PROGRAM", "POST FORGET", "processed FORGET"]);
    assert!(world.events.iter().filter(|event| *event == "GET vm").count() >= 2, "waits until it is gone");
}

#[test]
fn an_undecided_replacement_deletes_nothing_until_it_is_decided() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.judge(|message| match message.message_type {
        MessageType::Program => Verdict::Pending(2, Box::new(Verdict::Processed)),
        _ => Verdict::Processed,
    });
    user.json(&["program", "unpersist", &old, "--no-wait"]);
    let world = user.network.world();
    let order: Vec<&str> =
        world.events.iter().map(String::as_str).filter(|e| e.contains("PROGRAM") || e.contains("FORGET")).collect();
    assert_eq!(order, ["POST PROGRAM", "processed PROGRAM", "POST FORGET", "processed FORGET"]);
    drop(world);

    let (user, old) = user_with(&["--persistent"]);
    user.network.judge(|_| Verdict::Pending(u32::MAX, Box::new(Verdict::Processed)));
    let error = user.json_error(&["unpersist", &old, "--wait-seconds", "1"]);
    assert_eq!(error["code"], "timed_out");
    assert!(error["message"].as_str().unwrap().contains("nothing was deleted"), "{error}");
    assert!(user.network.world().sent(MessageType::Forget).is_empty());
}

#[test]
fn a_rejected_replacement_deletes_nothing() {
    let (user, old) = user_with(&["--persistent"]);
    user.network
        .judge(|_| Verdict::Rejected(5, json!({"errors": [{"account_balance": "2000", "required_balance": "2200"}]})));
    let error = user.json_error(&["unpersist", &old]);
    assert_eq!(error["code"], "insufficient_balance");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("nothing was deleted") && message.contains("2200 ALEPH"), "{message}");
    assert!(user.network.world().sent(MessageType::Forget).is_empty());
    assert_eq!(user.json(&["program", "find", &old])["message_status"], "processed");
}

#[test]
fn an_old_program_that_cannot_be_deleted_is_named_with_the_new_one() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.judge(|message| match message.message_type {
        MessageType::Forget => Verdict::Rejected(2, json!({"errors": ["x"]})),
        _ => Verdict::Processed,
    });
    let error = user.json_error(&["unpersist", &old]);
    let message = error["message"].as_str().unwrap();
    let new = &user.network.world().sent(MessageType::Program)[1].envelope.item_hash.clone();
    assert!(message.contains(new) && message.contains(&format!("aleph program delete {old}")), "{message}");
}

#[test]
fn the_old_program_can_be_kept_when_both_can_be_paid_for() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.world().locked = 2000.0;
    let error = user.json_error(&["unpersist", &old, "--keep-prev"]);
    assert_eq!(error["code"], "insufficient_balance");
    assert!(!user.network.world().events.contains(&"POST PROGRAM".to_owned()));

    user.network.world().balance = 4000.0;
    let answer = user.json(&["unpersist", &old, "--keep-prev"]);
    assert_eq!(answer["old_deleted"], false);
    assert!(user.network.world().sent(MessageType::Forget).is_empty());
}

#[test]
fn persist_waits_until_the_program_runs() {
    let (user, old) = user_with(&[]);
    let url = user.network.url();
    user.network.world().vms = vec![None, Some(vm(&url, json!({"state": "starting"}))), Some(vm(&url, json!({})))];
    let outcome = user.run(&["persist", &old]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("starting on node") && outcome.stdout.contains(NODE_ID), "{outcome:?}");
    let world = user.network.world();
    let new = world.sent(MessageType::Program)[1].content();
    assert_eq!(new["on"], json!({"http": true, "persistent": true}));
    assert!(outcome.stdout.contains(&format!("{old} (deleted)")), "{outcome:?}");
}

#[test]
fn without_a_scheduler_programs_are_unpersisted_all_the_same() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.world().settings = None;
    let outcome = user.run(&["unpersist", &old]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("warning") && outcome.stdout.contains("(deleted)"), "{outcome:?}");
    let new = user.json(&["program", "list"])[0]["item_hash"].clone();
    assert_eq!(user.json_error(&["persist", new.as_str().unwrap()])["code"], "no_scheduler");
}

#[test]
fn a_node_that_does_not_stop_the_old_program_is_named() {
    let (user, old) = user_with(&["--persistent"]);
    user.network.world().stopping = u32::MAX;
    let error = user.json_error(&["unpersist", &old, "--wait-seconds", "1"]);
    assert_eq!(error["code"], "timed_out");
    let new = user.network.world().sent(MessageType::Program)[1].envelope.item_hash.clone();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&new) && message.contains("stopping on node 222222222222"), "{message}");
}

#[test]
fn what_is_so_already_stays() {
    let (user, id) = user_with(&[]);
    let answer = user.json(&["program", "unpersist", &id]);
    assert_eq!((&answer["changed"], &answer["item_hash"]), (&false.into(), &json!(id)));
    assert!(!user.network.world().events.iter().any(|event| event.starts_with("POST")));
}

#[test]
fn programs_that_may_not_be_changed_are_left_alone() {
    let (user, id) = user_with(&["--persistent", "--no-updatable"]);
    let error = user.json_error(&["unpersist", &id]);
    assert_eq!(error["code"], "not_updatable");
    assert!(error["message"].as_str().unwrap().contains("--no-updatable"), "{error}");

    let stranger = Account::generate();
    let mut foreign: ProgramContent = serde_json::from_value(content(&user, &id)).unwrap();
    foreign.address = stranger.address().clone();
    foreign.allow_amend = true;
    let message = aleph_cli::signing::program(&stranger, &foreign).unwrap();
    let foreign = user.network.world().put(message, Verdict::Processed);
    for command in
        [&["unpersist", &foreign][..], &["program", "delete", &foreign], &["program", "update", &foreign, "src"]]
    {
        let error = user.json_error(command);
        assert_eq!(error["code"], "not_yours", "{error}");
        assert!(error["message"].as_str().unwrap().contains(stranger.address().as_str()), "{error}");
    }
    assert!(user.network.world().sent(MessageType::Forget).is_empty());
}
