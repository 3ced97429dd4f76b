use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use protocol::message::MessageType;
use protocol::{FileHash, ProgramId};
use serde_json::{Value, json};

use crate::network::{MINIMAL, NODE_ID, RUNTIME, Verdict, unplaced, vm};
use crate::run::User;

const TUTORIAL: [&str; 5] = ["program", "upload", "--persistent", "./src/", "main:app"];

/// The files of a squashfs image.
fn unpack(image: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("image"), image).unwrap();
    let mut command = Command::new("unsquashfs");
    command.current_dir(folder.path()).args(["-q", "-n", "-d", "tree", "image"]);
    assert!(command.output().unwrap().status.success());
    folder
}

#[test]
fn the_tutorial_uploads_publishes_and_waits_until_the_program_answers() {
    let user = User::new();
    user.write_tutorial();
    user.write(&[("src/__pycache__/main.pyc", "x"), ("src/.gitignore", "*.log\n"), ("src/a.log", "x")]);
    let url = user.network.url();
    {
        let mut world = user.network.world();
        world.vms = vec![
            None,
            Some(unplaced("no node has 128 MiB free")),
            Some(vm(&url, json!({"state": "assigned"}))),
            Some(vm(&url, json!({"state": "starting"}))),
            Some(vm(&url, json!({}))),
        ];
        world.gateway = vec![503, 200];
    }
    let outcome = user.run(&TUTORIAL);
    assert_eq!(outcome.code, 0, "{outcome:?}");

    let world = user.network.world();
    let (id, content) = world.program();
    for text in [id.as_str(), &format!("{url}/vm/{id}"), NODE_ID, "Epoch:", "2000 ALEPH"] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    for text in [
        "uploading",
        "not placed: no node has 128 MiB free",
        "placed on node 222222222222 (epoch 1)",
        "its URL answers 503",
    ] {
        assert_eq!(outcome.stderr.matches(text).count(), 1, "said once: {text}: {}", outcome.stderr);
    }

    assert_eq!(content["address"], user.account.address().as_str());
    assert_eq!(content["allow_amend"], true);
    assert_eq!(content["metadata"], json!({"name": "src"}));
    let environment = json!({"reproducible": false, "internet": false, "aleph_api": true, "shared_cache": false});
    assert_eq!(content["environment"], environment);
    assert_eq!(content["resources"], json!({"vcpus": 1, "memory": 128, "seconds": 30}));
    assert_eq!(content["payment"], json!({"chain": "ETH", "type": "hold"}));
    assert_eq!(content["on"], json!({"http": true, "persistent": true}));
    assert_eq!(content["runtime"], json!({"ref": RUNTIME, "use_latest": true, "comment": "Python 3.11"}));
    let store = &world.sent(MessageType::Store)[0];
    let code = json!({
        "encoding": "squashfs", "entrypoint": "main:app", "ref": store.envelope.item_hash, "use_latest": true,
    });
    assert_eq!(content["code"], code);

    let (hash, bytes) = world.files.iter().next().unwrap();
    assert_eq!((hash, world.files.len()), (&FileHash::of(bytes).to_string(), 1));
    let tree = unpack(bytes);
    let names: Vec<_> = fs::read_dir(tree.path().join("tree")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["main.py"]);

    let order = |event: &str| world.events.iter().position(|e| e == event).unwrap_or_else(|| panic!("{event}"));
    assert!(order("POST estimate") < order("POST file") && order("processed STORE") < order("POST PROGRAM"));
    assert!(order("processed PROGRAM") < order("GET vm") && order("GET vm") < order("GET program"));
}

#[test]
fn on_demand_programs_print_their_url_and_ask_no_scheduler() {
    let user = User::new();
    user.write_tutorial();
    let answer = user.json(&["program", "upload", "src", "main:app", "--encoding", "zip"]);
    let world = user.network.world();
    let (id, content) = world.program();
    assert_eq!(content["on"], json!({"http": true, "persistent": false}));
    assert_eq!(answer["item_hash"], id.as_str());
    assert_eq!(answer["url"], format!("{}/vm/{id}", world.url));
    assert_eq!((&answer["kind"], &answer["state"]), (&"on_demand".into(), &Value::Null));
    assert_eq!(answer["code"]["encoding"], "zip");
    assert!(!world.events.iter().any(|event| event == "GET vm"));
    drop(world);
    let again = user.json(&["program", "upload", "src", "main:app", "--encoding", "zip"]);
    assert_eq!(again["code"]["file_hash"], answer["code"]["file_hash"], "the same tree has the same hash");
    assert_ne!(again["item_hash"], answer["item_hash"]);
    let outcome = user.run(&["program", "upload", "--on-demand", "src", "main:app"]);
    assert!(outcome.stderr.contains("first request starts it"), "{outcome:?}");
}

#[test]
fn a_gateway_with_a_name_is_asked_by_the_programs_own_host() {
    let user = User::new();
    user.write_tutorial();
    let gateway = user.network.url().replace("127.0.0.1", "localhost");
    let answer = user.json(&[&TUTORIAL[..], &["--gateway-url", &gateway]].concat());
    let url = answer["url"].as_str().unwrap();
    let label = answer["item_hash"].as_str().unwrap().parse::<ProgramId>().unwrap().host_label();
    assert_eq!(url, format!("{}/", gateway.replace("localhost", &format!("{label}.localhost"))));
    assert!(user.network.world().events.contains(&"GET program".to_owned()));
    assert_eq!(user.json(&["program", "find", url])["item_hash"], answer["item_hash"]);
}

#[test]
fn options_reach_the_message() {
    let user = User::new();
    user.write_tutorial();
    let mut arguments = vec!["program", "upload", "--persistent", "--no-wait", "--no-http", "--no-updatable"];
    arguments.extend(["--name", "demo", "--vcpus", "2", "--memory", "2GiB", "--timeout-seconds", "5", "--internet"]);
    arguments.extend(["--env", "A=1", "--env", "B=x=y", "--runtime", MINIMAL, "--interface", "asgi"]);
    arguments.extend(["--persistent-volume", "name=data,mount=/data,size_mib=64"]);
    arguments.extend(["src", "main:app"]);
    let answer = user.json(&arguments);
    assert_eq!((&answer["state"], &answer["url"]), (&Value::Null, &Value::Null));
    let (_, content) = user.network.world().program();
    assert_eq!(content["metadata"]["name"], "demo");
    assert_eq!(content["resources"], json!({"vcpus": 2, "memory": 2048, "seconds": 5}));
    assert_eq!(content["environment"]["internet"], true);
    assert_eq!(content["variables"], json!({"A": "1", "B": "x=y"}));
    assert_eq!(content["runtime"], json!({"ref": MINIMAL, "use_latest": true, "comment": ""}));
    assert_eq!(content["on"], json!({"http": false, "persistent": true}));
    assert_eq!((&content["allow_amend"], &content["code"]["use_latest"]), (&false.into(), &false.into()));
    assert_eq!(content["code"]["interface"], "asgi");
    let volume = json!({"mount": "/data", "persistence": "host", "name": "data", "size_mib": 64});
    assert_eq!(content["volumes"], json!([volume]));
}

#[test]
fn what_is_said_about_copies_on_demand_reaches_the_message() {
    let user = User::new();
    user.write_tutorial();
    let upload = ["program", "upload", "src", "main:app", "--name", "demo"];
    user.json(&[&upload[..], &["--freeze-after", "0", "--idle-after", "90", "--copies", "1"]].concat());
    let (_, content) = user.network.world().program();
    assert_eq!(content["metadata"], json!({"name": "demo", "freeze_after": 0, "idle_after": 90, "copies": 1}));
    for wrong in [&["--idle-after", "86401"][..], &["--copies", "0"], &["--freeze-after", "5", "--persistent"]] {
        let outcome = user.run(&[&upload[..], wrong].concat());
        assert!(outcome.code == 2 && outcome.stderr.contains(wrong[0]), "{outcome:?}");
    }
}

#[test]
fn executables_run_in_the_minimal_runtime() {
    let user = User::new();
    user.write(&[("server", "#!/bin/sh\nexec sleep 1\n")]);
    let path = user.home.path().join("server");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    user.json(&["program", "upload", "server"]);
    let (_, content) = user.network.world().program();
    assert_eq!((&content["code"]["entrypoint"], &content["runtime"]["ref"]), (&"server".into(), &MINIMAL.into()));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = user.json_error(&["program", "upload", "server"]);
    assert_eq!(error["code"], "bad_entrypoint");
    assert!(error["hint"].as_str().unwrap().contains("chmod +x"), "{error}");
}

#[test]
fn a_balance_that_is_too_low_is_found_before_anything_is_sent() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().locked = 500.0;
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "insufficient_balance");
    let details = &error["details"];
    assert_eq!((&details["required"], &details["available"]), (&"2000".into(), &"1500".into()));
    let outcome = user.run(&TUTORIAL);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("needs 2000 ALEPH") && outcome.stderr.contains("1500 available"), "{outcome:?}");
    let world = user.network.world();
    assert!(world.files.is_empty() && world.sent(MessageType::Program).is_empty());
}

#[test]
fn a_rejection_for_want_of_balance_says_the_same() {
    let user = User::new();
    user.write_tutorial();
    user.network.judge(|message| match message.message_type {
        MessageType::Program => {
            let errors = json!({"errors": [{"account_balance": "1500", "required_balance": "2200.5"}]});
            Verdict::Rejected(5, errors)
        }
        _ => Verdict::Processed,
    });
    let error = user.json_error(&TUTORIAL);
    assert_eq!((&error["code"], &error["details"]["error_code"]), (&"insufficient_balance".into(), &5.into()));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("2200.5 ALEPH") && message.contains("1500 ALEPH"), "{message}");
}

#[test]
fn other_rejections_name_their_reason() {
    let user = User::new();
    user.write_tutorial();
    user.network.judge(|message| match message.message_type {
        MessageType::Program => Verdict::Rejected(301, json!({"errors": ["runtime"]})),
        _ => Verdict::Processed,
    });
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "rejected");
    assert!(error["message"].as_str().unwrap().contains("upload it first"), "{error}");

    user.network.judge(|message| match message.message_type {
        MessageType::Store => Verdict::Rejected(0, json!({"errors": ["bad"]})),
        _ => Verdict::Processed,
    });
    let error = user.json_error(&TUTORIAL);
    assert!(error["message"].as_str().unwrap().contains("rejected the code"), "{error}");
}

#[test]
fn undecided_messages_are_asked_for_until_they_are_decided() {
    let user = User::new();
    user.write_tutorial();
    user.network.judge(|_| Verdict::Pending(2, Box::new(Verdict::Processed)));
    let outcome = user.run(&TUTORIAL);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("the program is accepted, the message node is checking it"), "{outcome:?}");

    user.network.judge(|_| Verdict::Pending(u32::MAX, Box::new(Verdict::Processed)));
    let error = user.json_error(&[&TUTORIAL[..], &["--wait-seconds", "1"]].concat());
    assert_eq!(error["code"], "timed_out");
    assert!(error["hint"].as_str().unwrap().contains("aleph message get"), "{error}");
}

#[test]
fn a_busy_message_node_is_asked_again_and_lost_answers_do_no_harm() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().busy = 2;
    let outcome = user.run(&TUTORIAL);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("busy, trying again"), "{outcome:?}");
    assert_eq!(user.network.world().events.iter().filter(|event| *event == "POST file").count(), 3);

    let user = User::new();
    user.write_tutorial();
    user.network.world().lost = 1;
    assert_eq!(user.run(&TUTORIAL).code, 0);
    assert_eq!(user.network.world().events.iter().filter(|event| *event == "POST PROGRAM").count(), 1);

    user.network.world().busy = u32::MAX;
    let error = user.json_error(&[&TUTORIAL[..], &["--wait-seconds", "1"]].concat());
    assert_eq!(error["code"], "refused");
    assert!(error["message"].as_str().unwrap().contains("try again in a few seconds"), "{error}");
}

#[test]
fn a_program_that_fails_shows_why_and_its_last_words() {
    let user = User::new();
    user.write_tutorial();
    let failure = json!({"kind": "startup_error", "message": "ModuleNotFoundError: No module named 'fastapi'"});
    {
        let mut world = user.network.world();
        world.vms = vec![Some(vm(&world.url, json!({"state": "failing", "failure": failure})))];
        world.log = vec![
            json!({"SYSLOG_IDENTIFIER": "x", "MESSAGE": "Traceback", "file": "stderr", "__REALTIME_TIMESTAMP": "1"}),
        ];
        world.log_reader = Some(user.account.address().clone());
    }
    let outcome = user.run(&TUTORIAL);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    for text in ["failed while starting", "No module named 'fastapi'", "Traceback", "aleph program logs"] {
        assert!(outcome.stderr.contains(text), "{text}: {}", outcome.stderr);
    }
    let error = user.json_error(&TUTORIAL);
    assert_eq!((&error["code"], &error["details"]["logs"]), (&"program_failing".into(), &json!(["Traceback"])));
    assert_eq!(error["details"]["item_hash"].as_str().unwrap().len(), 64);
}

#[test]
fn a_program_whose_every_answer_is_an_error_is_a_failure() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().gateway = vec![500];
    let error = user.json_error(&TUTORIAL);
    assert_eq!((&error["code"], &error["details"]["status"]), (&"program_failing".into(), &500.into()));
}

#[test]
fn waiting_ends_and_says_how_far_it_came() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().vms = vec![Some(unplaced("no capacity: every node is full"))];
    let short = [&TUTORIAL[..], &["--wait-seconds", "1"]].concat();
    let error = user.json_error(&short);
    assert_eq!(error["code"], "timed_out");
    assert!(error["message"].as_str().unwrap().contains("every node is full"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("aleph program find"), "{error}");

    {
        let mut world = user.network.world();
        world.vms = vec![Some(vm(&world.url, json!({})))];
        world.gateway = vec![502];
    }
    let error = user.json_error(&short);
    assert!(error["message"].as_str().unwrap().contains("answers 502"), "{error}");
}

#[test]
fn mistakes_are_found_before_anything_is_sent() {
    let user = User::new();
    user.write_tutorial();
    user.write(&[("app/src/main.py", ""), ("empty/.gitignore", "*\n"), ("src2/main.py", "application = 1\n")]);
    let error = |arguments: &[&str]| user.json_error(&[&["program", "upload"], arguments].concat());
    for (arguments, code, hint) in [
        (&["src", "app:app"][..], "bad_entrypoint", "main"),
        (&["src", "main.py:app"], "bad_entrypoint", "main:app"),
        (&["app", "main:app"], "bad_entrypoint", "src.main:app"),
        (&["src", "server"], "bad_entrypoint", "MODULE:NAME"),
        (&["src"], "usage", "ENTRYPOINT"),
        (&["absent", "main:app"], "bad_path", "folder"),
        (&["src", "main:app", "--runtime", "ruby"], "not_found", "python3"),
        (&["src", "main:app", "--runtime", &"c".repeat(64)], "not_found", "STORE"),
    ] {
        let error = error(arguments);
        assert_eq!(error["code"], code, "{arguments:?}: {error}");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{arguments:?}: {error}");
    }
    assert!(error(&["empty", "main:app"])["message"].as_str().unwrap().contains("no files"));
    assert_eq!(error(&["src", "main:app", "--env", "A=1", "--env", "A=2"])["code"], "usage");
    assert_eq!(error(&["src", "main:app", "--memory", "x"])["code"], "usage");
    let events = &user.network.world().events;
    assert!(!events.iter().any(|event| event.starts_with("POST")), "{events:?}");
}

#[test]
fn odd_code_is_remarked_and_uploaded() {
    let user = User::new();
    user.write(&[("src/main.py", "application = 1\n"), ("src/.env", "SECRET=1\n")]);
    let outcome = user.run(&["program", "upload", "src", "main:app"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("does not mention `app`"), "{outcome:?}");
    assert!(outcome.stderr.contains("look like secrets: .env"), "{outcome:?}");
}

#[test]
fn code_that_is_too_large_is_named() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().largest_file = 10;
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "too_large");
    assert!(error["hint"].as_str().unwrap().contains(".alephignore"), "{error}");

    user.network.world().events.clear();
    user.network.world().announced_limit = Some(10);
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "too_large");
    assert!(error["message"].as_str().unwrap().contains("(10 B)"), "{error}");
    assert!(!user.network.world().events.contains(&"POST file".to_owned()), "not even sent");

    user.network.world().ipfs_limit = Some(20);
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "too_large");
    assert!(error["message"].as_str().unwrap().contains("(20 B)"), "{error}");
    assert!(!user.network.world().events.contains(&"POST ipfs file".to_owned()), "not even sent");
}

#[test]
fn code_that_is_too_large_for_the_storage_is_sent_as_a_file_of_ipfs() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().announced_limit = Some(10);
    user.network.world().ipfs_limit = Some(1 << 20);
    let uploaded = user.json(&TUTORIAL);
    let file = uploaded["code"]["file_hash"].as_str().unwrap().to_owned();
    assert!(file.starts_with("Qm"), "{uploaded}");
    {
        let world = user.network.world();
        assert!(world.events.contains(&"POST ipfs file".to_owned()), "{:?}", world.events);
        let bytes = &world.files[&file];
        assert_eq!(file, protocol::FileNames::of(bytes).v0.to_string());
    }
    // The same code is the same, whatever it is called.
    user.network.world().events.clear();
    let program = uploaded["item_hash"].as_str().unwrap();
    let updated = user.json(&["program", "update", program, "src"]);
    assert_eq!(updated["changed"], false, "{updated}");
    assert!(user.network.world().events.iter().all(|event| !event.contains("file")));
}

#[test]
fn files_that_cannot_be_paid_for_are_named() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().file_price = Some(json!([{"account_balance": "1", "required_balance": "33"}]));
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "insufficient_balance");
    assert!(error["message"].as_str().unwrap().contains("33 ALEPH"), "{error}");
    user.network.world().file_price = Some(Value::Null);
    assert!(user.json_error(&TUTORIAL)["message"].as_str().unwrap().contains("too expensive"));
}

#[test]
fn without_a_scheduler_nobody_waits_in_vain() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().settings = None;
    let error = user.json_error(&TUTORIAL);
    assert_eq!(error["code"], "no_scheduler");
    assert!(error["hint"].as_str().unwrap().contains("--no-wait"), "{error}");
    assert!(user.network.world().files.is_empty());
    let answer = user.json(&[&TUTORIAL[..], &["--no-wait"]].concat());
    assert_eq!(answer["url"], Value::Null);
    let url = user.network.url();
    let answer = user.json(&[&TUTORIAL[..], &["--scheduler-url", &url, "--gateway-url", &url]].concat());
    assert_eq!(answer["state"], "ready");
}
