use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::network::{RUNTIME, unplaced};
use crate::run::{User, bare, interrupt, outcome};

#[test]
fn every_command_prints_one_json_document() {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&["program", "upload", "--persistent", "src", "main:app"])["item_hash"].clone();
    let id = id.as_str().unwrap();
    for arguments in [
        &["account", "show"][..],
        &["account", "balance"],
        &["account", "export"],
        &["account", "create", "--private-key-file", "other"],
        &["program", "list"],
        &["program", "show", id],
        &["program", "find", id],
        &["program", "update", id, "src"],
        &["node", "list"],
        &["message", "get", id],
        &["message", "get", id, "--raw"],
        &["completions", "bash"],
        &["unpersist", id],
    ] {
        let answer = user.json(arguments);
        assert!(answer.is_object() || answer.is_array(), "{arguments:?}");
    }
    let list = user.json(&["program", "list"]);
    let id = list[0]["item_hash"].as_str().unwrap();
    let id = user.json(&["persist", id])["item_hash"].clone();
    user.json(&["program", "delete", id.as_str().unwrap()]);
}

#[test]
fn wrong_usage_is_told_in_the_form_that_was_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let text = outcome(bare(home.path(), &["program", "uplaod"]));
    assert_eq!(text.code, 2);
    assert!(text.stderr.contains("upload") && text.stdout.is_empty(), "{text:?}");
    let json = outcome(bare(home.path(), &["program", "uplaod", "--json"]));
    assert_eq!((json.code, &json.error()["code"]), (2, &"usage".into()));
    let wrong = outcome(bare(home.path(), &["--json", "--api-host", "localhost:4024", "node", "list"]));
    assert_eq!((wrong.code, &wrong.error()["code"]), (2, &"usage".into()));
    let help = outcome(bare(home.path(), &["--help"]));
    assert!(help.code == 0 && help.stdout.contains("ALEPH_API_HOST") && help.stdout.contains("Exit codes"), "{help:?}");
    let version = outcome(bare(home.path(), &["--version"]));
    assert_eq!(version.stdout, format!("aleph {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(outcome(bare(home.path(), &["completions", shell])).stdout.contains("unpersist"));
    }
}

#[test]
fn a_message_node_that_is_down_is_named_with_what_to_do() {
    let user = User::new();
    user.write_tutorial();
    let nobody = "http://127.0.0.1:9";
    for arguments in [
        &["account", "balance"][..],
        &["program", "list"],
        &["program", "upload", "--persistent", "src", "main:app"],
        &["unpersist", RUNTIME],
        &["message", "get", RUNTIME],
        &["node", "list"],
    ] {
        let outcome = user.run(&[&["--api-host", nobody], arguments].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
        for text in
            ["cannot reach http://127.0.0.1:9", "Connection refused", "--api-host", "ALEPH_API_HOST", "aleph.toml"]
        {
            assert!(outcome.stderr.contains(text), "{arguments:?}: {text}: {}", outcome.stderr);
        }
    }
    let error = user.json_error(&["--api-host", nobody, "account", "balance"]);
    assert_eq!(error["code"], "unreachable");
}

#[test]
fn a_config_file_names_the_message_node() {
    let user = User::new();
    let toml = format!("api_host = \"{}\"\n", user.network.url());
    user.write(&[(".aleph-im/aleph.toml", &toml)]);
    let mut command = user.command(&["account", "balance"]);
    command.env_remove("ALEPH_API_HOST");
    let balance = outcome(command);
    assert!(balance.code == 0 && balance.stdout.contains("2000 ALEPH"), "{balance:?}");
}

#[test]
fn ctrl_c_says_that_the_program_goes_on() {
    let user = User::new();
    user.write_tutorial();
    user.network.world().vms = vec![Some(unplaced("no capacity"))];
    let mut command = user.command(&["program", "upload", "--persistent", "src", "main:app"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waiting = stderr.find(|line| line.contains("no capacity"));
    assert!(waiting.is_some());
    let asked = Instant::now();
    interrupt(&child);
    let rest: Vec<String> = stderr.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(10));
    let (id, _) = user.network.world().program();
    assert!(rest.iter().any(|line| line.contains(&format!("aleph program find {id}"))), "{rest:?}");
}

#[test]
fn the_reader_of_the_output_may_go_away() {
    let user = User::new();
    let mut command = user.command(&["account", "show"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn questions_are_asked_at_terminals_only() {
    let user = User::new();
    user.write_tutorial();
    let id = user.json(&["program", "upload", "src", "main:app"])["item_hash"].clone();
    // Standard input is no terminal here, so that a question would never be answered.
    let outcome = user.run(&["program", "delete", id.as_str().unwrap()]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let found: Value = user.json(&["program", "find", id.as_str().unwrap()]);
    assert_eq!(found["state"], json!("forgotten"));
}
