use protocol::message::MessageType;
use serde_json::{Value, json};

use crate::network::{NODE_ID, RUNTIME, Verdict};
use crate::run::User;

fn user_with(flags: &[&str]) -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&[&["program", "upload"], flags, &["src", "main:app"]].concat())["item_hash"].clone();
    (user, id.as_str().unwrap().to_owned())
}

#[test]
fn the_list_has_ones_own_programs_in_force() {
    let (user, persistent) = user_with(&["--persistent", "--name", "one"]);
    let on_demand = user.json(&["program", "upload", "src", "main:app", "--name", "two"])["item_hash"].clone();
    let gone = user.json(&["program", "upload", "src", "main:app"])["item_hash"].clone();
    user.json(&["program", "delete", gone.as_str().unwrap()]);
    let list = user.json(&["program", "list"]);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(
        (&list[0]["item_hash"], &list[0]["kind"], &list[0]["state"]),
        (&on_demand, &"on_demand".into(), &Value::Null)
    );
    let first = &list[1];
    assert_eq!((&first["item_hash"], &first["name"]), (&json!(persistent), &"one".into()));
    assert_eq!((&first["state"], &first["node_id"]), (&"ready".into(), &NODE_ID.into()));

    let outcome = user.run(&["program", "list"]);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[2].starts_with(&persistent[..12]), "{outcome:?}");
    assert!(!outcome.stdout.contains(&persistent) && lines[2].contains("ready"), "{outcome:?}");
    assert!(user.run(&["program", "list", "--full"]).stdout.contains(&persistent));
}

#[test]
fn the_list_is_there_without_a_scheduler() {
    let (user, id) = user_with(&["--persistent"]);
    let outcome = user.run(&["program", "list", "--scheduler-url", "http://127.0.0.1:9"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains(&id[..12]) && outcome.stdout.contains('?'), "{outcome:?}");
    assert!(outcome.stderr.contains("warning") && outcome.stderr.contains("127.0.0.1:9"), "{outcome:?}");

    let nobody = User::new();
    assert_eq!(nobody.json(&["program", "list"]), json!([]));
    assert!(nobody.run(&["program", "list"]).stderr.contains("has no programs"));
}

#[test]
fn a_program_is_shown_in_words() {
    let (user, id) = user_with(&["--persistent", "--env", "LOG=debug", "--ephemeral-volume", "mount=/x,size_mib=5"]);
    let outcome = user.run(&["program", "show", &id]);
    for text in
        [&id, "main:app (asgi)", "LOG=debug", "/x: 5 MiB", "2000 ALEPH", "always, and takes requests", "128 MiB"]
    {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    let shown = user.json(&["program", "show", &id]);
    assert_eq!((&shown["price"], &shown["content"]["code"]["entrypoint"]), (&"2000".into(), &"main:app".into()));
    user.json(&["program", "delete", &id]);
    assert_eq!(user.json_error(&["program", "show", &id])["code"], "forgotten");
}

#[test]
fn new_code_is_a_later_version_of_the_old() {
    let (user, id) = user_with(&[]);
    let code = user.network.world().program().1["code"]["ref"].clone();
    let answer = user.json(&["program", "update", &id, "src"]);
    assert_eq!(answer["changed"], false, "the same code is not uploaded again");

    user.write(&[("src/main.py", "app = 'new'\n")]);
    let answer = user.json(&["program", "update", &id, "src", "main:app"]);
    assert_eq!((&answer["changed"], &answer["item_hash"]), (&true.into(), &json!(id)));
    let world = user.network.world();
    let stores = world.sent(MessageType::Store);
    assert_eq!(stores.len(), 2);
    assert_eq!(stores[1].content()["ref"], code);
    assert_eq!(answer["code"]["item_hash"], stores[1].envelope.item_hash.as_str());
    assert_eq!(world.sent(MessageType::Program).len(), 1, "the program itself stays");
    drop(world);

    assert_eq!(user.json(&["program", "update", &id, "src"])["changed"], false, "compared with the newest version");
    user.write(&[("src/main.py", "app = 'newer'\n")]);
    assert_eq!(user.json_error(&["program", "update", &id, "src", "other:app"])["code"], "usage");
    user.write(&[("bad/other.py", "")]);
    assert_eq!(user.json_error(&["program", "update", &id, "bad"])["code"], "bad_entrypoint");
}

#[test]
fn pinned_code_cannot_be_updated() {
    let (user, id) = user_with(&["--no-updatable"]);
    let error = user.json_error(&["program", "update", &id, "src"]);
    assert_eq!(error["code"], "not_updatable");
}

#[test]
fn deleting_takes_the_program_first_and_then_all_its_code() {
    let (user, id) = user_with(&["--persistent"]);
    let code = user.network.world().program().1["code"]["ref"].clone();
    user.write(&[("src/main.py", "app = 'new'\n")]);
    let version = user.json(&["program", "update", &id, "src"])["code"]["item_hash"].clone();
    let answer = user.json(&["program", "delete", &id]);
    assert_eq!((&answer["deleted"], &answer["code"]["deleted"]), (&true.into(), &true.into()));
    let world = user.network.world();
    let forgets = world.sent(MessageType::Forget);
    assert_eq!(forgets[0].content()["hashes"], json!([id]));
    assert_eq!(forgets[1].content()["hashes"], json!([code, version]));
    drop(world);
    let again = user.json(&["program", "delete", &id]);
    assert_eq!(again["deleted"], false);
}

#[test]
fn code_that_others_use_is_kept() {
    let (user, id) = user_with(&[]);
    user.network.judge(|message| match message.item_content.as_deref() {
        Some(text) if text.contains("code of a deleted program") => Verdict::Rejected(503, json!({"errors": ["x"]})),
        _ => Verdict::Processed,
    });
    let outcome = user.run(&["program", "delete", &id, "--yes"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("kept: another program uses it"), "{outcome:?}");

    let (user, id) = user_with(&[]);
    let answer = user.json(&["program", "delete", &id, "--keep-code"]);
    assert_eq!((&answer["deleted"], &answer["code"]["deleted"]), (&true.into(), &false.into()));
    assert_eq!(user.network.world().sent(MessageType::Forget).len(), 1);
}

#[test]
fn of_a_rejected_program_only_the_code_is_deleted() {
    let (user, id) = user_with(&[]);
    let envelope = user.network.world().messages[&id].envelope.clone();
    user.network.world().put(envelope, Verdict::Rejected(0, Value::Null));
    let answer = user.json(&["program", "delete", &id]);
    assert_eq!((&answer["deleted"], &answer["code"]["deleted"]), (&false.into(), &true.into()));
    assert_eq!(user.network.world().sent(MessageType::Forget).len(), 1);
}

#[test]
fn nodes_are_listed_with_what_is_free() {
    let user = User::new();
    assert_eq!(user.json(&["node", "list"]), json!([]));
    let node = json!({
        "node_hash": NODE_ID, "name": "first\u{1b}[2J", "owner": "0xb", "address": "http://node-1", "status": "Healthy",
        "staked": true, "vcpus_total": 4, "vcpus_available": 3, "memory_mb_total": 4096, "memory_mb_available": 1024,
        "disk_mb_total": 100, "disk_mb_available": 50, "supports_ipv6": false, "vm_count": 1,
        "updated_at": "2026-11-22T00:00:00Z",
    });
    user.network.world().nodes = vec![node];
    assert_eq!(user.json(&["node", "list"])[0]["node_hash"], NODE_ID);
    let outcome = user.run(&["node", "list"]);
    for text in ["222222222222", "first", "http://node-1", "healthy", "3/4", "1024/4096 MiB"] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\u{1b}'), "{outcome:?}");
    user.network.world().settings = None;
    assert_eq!(user.json_error(&["node", "list"])["code"], "no_scheduler");
}

#[test]
fn messages_are_shown_whole() {
    let (user, id) = user_with(&[]);
    assert_eq!(user.json(&["message", "get", &id])["status"], "processed");
    let raw = user.run(&["message", "get", &id, "--raw"]);
    let raw: Value = serde_json::from_str(&raw.stdout).unwrap_or_else(|e| panic!("{e}: {raw:?}"));
    assert_eq!((&raw["item_hash"], &raw["type"]), (&json!(id), &"PROGRAM".into()));
    let outcome = user.run(&["message", "get", &id]);
    assert!(
        outcome.stdout.contains("processed") && outcome.stdout.contains("\"entrypoint\": \"main:app\""),
        "{outcome:?}"
    );
    assert!(user.run(&["message", "get", RUNTIME]).stdout.contains("STORE"));
    assert_eq!(user.json_error(&["message", "get", &"0".repeat(64)])["code"], "not_found");
    assert_eq!(user.json_error(&["message", "get", "../x"])["code"], "usage");

    let envelope = user.network.world().messages[&id].envelope.clone();
    user.network.world().put(envelope, Verdict::Rejected(2, json!({"errors": ["not the owner"]})));
    let outcome = user.run(&["message", "get", &id]);
    assert!(outcome.stdout.contains("error code 2") && outcome.stdout.contains("not the owner"), "{outcome:?}");
}
