use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::network::{Network, unplaced, vm};
use crate::run::{User, interrupt};

fn entry(file: &str, message: &str, time: u64) -> Value {
    json!({"SYSLOG_IDENTIFIER": "x", "MESSAGE": message, "file": file, "__REALTIME_TIMESTAMP": time.to_string()})
}

fn frame(kind: &str, message: &str, time: u64) -> Value {
    json!({"type": kind, "message": message, "time": time})
}

fn user_with(flags: &[&str]) -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&[&["program", "upload"], flags, &["src", "main:app"]].concat())["item_hash"].clone();
    let mut world = user.network.world();
    world.log = vec![
        entry("system", "started", 1_700_000_000_000_001),
        entry("stdout", "hello \u{1b}[32mgreen\u{1b}[0m", 1_700_000_000_000_002),
        entry("stderr", "oops", 1_700_000_000_000_003),
    ];
    world.log_reader = Some(user.account.address().clone());
    world.events.clear();
    drop(world);
    (user, id.as_str().unwrap().to_owned())
}

#[test]
fn logs_are_asked_with_a_signature_and_go_where_they_came_from() {
    let (user, id) = user_with(&["--persistent"]);
    let outcome = user.run(&["program", "logs", &id]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stdout, "hello \u{1b}[32mgreen\u{1b}[0m\n", "byte for byte");
    assert_eq!(outcome.stderr, "[system] started\noops\n");

    let outcome = user.run(&["program", "logs", &id[..10], "--tail", "1", "--timestamps"]);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", "2023-11-14T22:13:20.000003Z oops\n"));
    assert!(user.network.world().events.contains(&"GET logs tail=1".to_owned()));

    let outcome = user.run(&["--json", "program", "logs", &id]);
    let lines: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    assert_eq!(lines[2], json!({"time": "2023-11-14T22:13:20.000003Z", "stream": "stderr", "message": "oops"}));
    assert_eq!(outcome.stderr, "");
}

#[test]
fn only_the_owner_may_read() {
    let (user, id) = user_with(&["--persistent"]);
    user.network.world().log_reader = Some(protocol::Account::generate().address().clone());
    let error = user.json_error(&["program", "logs", &id]);
    assert_eq!(error["code"], "not_yours");
    let error = user.json_error(&["program", "logs", &id, "--follow"]);
    assert_eq!(error["code"], "not_yours", "{error}");
}

#[test]
fn on_demand_programs_are_asked_at_the_gateway_or_a_named_node() {
    let (user, id) = user_with(&[]);
    assert_eq!(user.run(&["program", "logs", &id]).code, 0);
    let other = Network::start();
    other.world().log = vec![entry("stdout", "elsewhere", 5)];
    let outcome = user.run(&["program", "logs", &id, "--node", &other.url()]);
    assert_eq!(outcome.stdout, "elsewhere\n");
    user.network.world().settings = None;
    assert_eq!(user.json_error(&["program", "logs", &id])["code"], "no_scheduler");
}

#[test]
fn programs_without_a_node_have_no_logs() {
    let (user, id) = user_with(&["--persistent"]);
    user.network.world().vms = vec![Some(unplaced("no capacity"))];
    let error = user.json_error(&["program", "logs", &id]);
    assert_eq!(error["code"], "not_found");
    assert!(error["message"].as_str().unwrap().contains("no capacity"), "{error}");
    user.json(&["program", "delete", &id]);
    assert_eq!(user.json_error(&["program", "logs", &id])["code"], "forgotten");
}

#[test]
fn a_followed_program_is_followed_to_its_next_node_until_it_is_deleted() {
    let (user, id) = user_with(&["--persistent"]);
    let second = Network::start();
    second.world().log = vec![entry("stdout", "hello again", 1_700_000_000_000_010)];
    second.world().streams = vec![vec![
        frame("stdout", "hello again", 1_700_000_000_000_010),
        frame("stdout", "live at two", 1_700_000_000_000_011),
    ]];
    {
        let mut world = user.network.world();
        let (first, second) = (vm(&world.url, json!({})), vm(&second.url(), json!({"epoch": 2})));
        world.vms = vec![Some(first), Some(unplaced("its node is lost")), Some(second), None];
        // What the stream repeats of the past is not printed again.
        world.streams = vec![vec![
            frame("system", "older than the tail", 1_700_000_000_000_001),
            frame("stderr", "oops", 1_700_000_000_000_003),
            frame("stdout", "live at one", 1_700_000_000_000_004),
        ]];
        // The message is gone when the scheduler is asked for the fourth time.
        let envelope = world.messages[&id].envelope.clone();
        let rejected = crate::network::Verdict::Rejected(0, Value::Null);
        world.put(envelope, crate::network::Verdict::Pending(1, Box::new(rejected)));
    }
    let outcome = user.run(&["program", "logs", &id, "-f", "--tail", "2"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let expected = "hello \u{1b}[32mgreen\u{1b}[0m\nlive at one\nhello again\nlive at two\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    assert_eq!(outcome.stderr.matches("oops").count(), 1, "{outcome:?}");
    assert!(!outcome.stderr.contains("older than the tail"), "{outcome:?}");
    for text in ["its node is lost", &format!("following at {}", second.url())] {
        assert!(outcome.stderr.contains(text), "{text}: {outcome:?}");
    }
}

#[test]
fn ctrl_c_is_the_way_to_end_following() {
    let (user, id) = user_with(&["--persistent"]);
    user.network.world().streams = vec![vec![frame("stdout", "live", 1_700_000_000_000_009)]];
    let mut child = user
        .command(&["program", "logs", &id, "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("live")));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(130), &b""[..]));
}
