use std::collections::BTreeMap;

use axum::http::StatusCode;
use protocol::api::archive::DIGEST_HEADER;
use protocol::operation::Operation;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::network::vm;
use crate::run::User;

/// What the archive of the fake network has.
#[derive(Default)]
pub(crate) struct FakeArchive {
    pub(crate) list: Value,
    /// The streams, by set and key of the volume.
    pub(crate) streams: BTreeMap<String, Vec<u8>>,
    /// Why it says no, then.
    pub(crate) refusal: Option<(StatusCode, Value)>,
}

const NAME: &str = "../db";

fn packed(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

fn set(id: &str, parent: Option<&str>, state: &str) -> Value {
    let key = protocol::api::archive::volume_key(NAME);
    let sha256 = hex::encode(Sha256::digest(id));
    json!({
        "id": id, "parent": parent, "state": state, "taken": "2026-11-22T01:02:03Z", "format": "btrfs+zstd",
        "made_by": "0xa",
        "volumes": [{"name": NAME, "key": key, "size_mib": 50, "bytes": 2_000_000, "sha256": sha256}],
    })
}

fn upload(user: &User, volumes: &[&str]) -> String {
    let words = ["program", "upload", "--persistent", "--no-wait"];
    let volumes = volumes.iter().flat_map(|volume| ["--persistent-volume", volume]);
    let words: Vec<_> = words.into_iter().chain(volumes).chain(["src", "main:app"]).collect();
    user.json(&words)["item_hash"].as_str().unwrap().to_owned()
}

/// A user with a program with volumes, and what the archive has of it.
fn user() -> (User, String) {
    let user = User::new();
    user.write_tutorial();
    let volumes = ["name=../db,mount=/data,size_mib=50,persistence=store", "name=cache,mount=/cache,size_mib=20"];
    let id = upload(&user, &volumes);
    let key = protocol::api::archive::volume_key(NAME);
    let sets = [
        set("1-1", None, "complete"),
        set("1-4", Some("1-1"), "complete"),
        set("1-6", Some("1-4"), "damaged"),
        set("1-8", Some("1-6"), "complete"),
    ];
    user.network.world().archive = FakeArchive {
        list: json!({
            "sets": sets, "next": {"next": "difference", "from": "1-4"}, "bytes": 8_000_000, "quota_bytes": 209_715_200,
        }),
        streams: [("1-1", "full"), ("1-4", "difference")]
            .map(|(id, text)| (format!("{id}/{key}"), packed(text.as_bytes())))
            .into(),
        refusal: None,
    };
    (user, id)
}

impl FakeArchive {
    pub(crate) fn stream(&self, set: &str, key: &str) -> Option<(String, Vec<u8>)> {
        let bytes = self.streams.get(&format!("{set}/{key}"))?.clone();
        Some((hex::encode(Sha256::digest(&bytes)), bytes))
    }

    pub(crate) const fn digest_header() -> &'static str {
        DIGEST_HEADER
    }
}

#[test]
fn volumes_are_listed_with_where_their_data_is() {
    let (user, id) = user();
    let url = user.network.url();
    let data = json!({"standby": "33".repeat(32), "standby_is_complete": true, "at_risk_ms": 700});
    user.network.world().vms = vec![Some(vm(&url, json!({ "data": data })))];
    let listed = user.json(&["volume", "list", &id]);
    let volumes = json!([
        {"name": NAME, "class": "store", "size_mib": 50, "mount": "/data"},
        {"name": "cache", "class": "host", "size_mib": 20, "mount": "/cache"},
    ]);
    assert_eq!(listed["volumes"], volumes);
    assert_eq!((&listed["archive"]["newest"]["id"], &listed["archive"]["sets"]), (&json!("1-4"), &json!(4)));
    let text = user.run(&["volume", "list", &id]).stdout;
    for words in ["store", "50 MiB", "/cache", "writes of the last", "snapshot 1-4"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    // Without the archive the rest is shown.
    let refusal = json!({"code": "not_allowed", "message": "this is somebody else's"});
    user.network.world().archive.refusal = Some((StatusCode::FORBIDDEN, refusal));
    let listed = user.json(&["volume", "list", &id]);
    assert_eq!(listed["archive"], Value::Null);
    assert!(listed["archive_error"].as_str().unwrap().contains("somebody else's"), "{listed}");
}

#[test]
fn snapshots_are_listed_with_what_they_are_good_for() {
    let (user, id) = user();
    assert_eq!(user.json(&["volume", "snapshots", &id])["sets"][1]["parent"], "1-1");
    let text = user.run(&["volume", "snapshots", &id]).stdout;
    for words in
        ["full", "difference from 1-1", "damaged", "builds on a set that cannot be restored", "8 MiB of 200 MiB"]
    {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    user.network.world().archive.list["sets"] = json!([]);
    assert!(user.run(&["volume", "snapshots", &id]).stdout.contains("nothing of this program"));
    let refusal = json!({"code": "not_allowed", "message": "this is somebody else's"});
    user.network.world().archive.refusal = Some((StatusCode::FORBIDDEN, refusal));
    let error = user.json_error(&["volume", "snapshots", &id]);
    assert_eq!(error["code"], "not_yours", "{error}");
}

#[test]
fn a_download_is_a_file_for_each_set_and_says_how_to_apply_them() {
    let (user, id) = user();
    let to = user.home.path().join("streams");
    let to = to.to_str().unwrap();
    let download = ["volume", "download", &id, "--volume", NAME, "--to", to];
    let outcome = user.run(&download);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.stdout.contains("for id in 1-1 1-4; do") && outcome.stdout.contains("btrfs receive"),
        "{outcome:?}"
    );
    let read = |name: &str| std::fs::read_to_string(format!("{to}/{name}")).unwrap();
    assert_eq!((read("1-1.btrfs"), read("1-4.btrfs")), ("full".to_owned(), "difference".to_owned()));
    assert_eq!(user.json_error(&download)["code"], "usage", "the folder is not empty");

    let elsewhere = |words: &[&str]| {
        let to = format!("{to}-{}", words.len());
        let words: Vec<_> = ["volume", "download", &id, "--to", &to].iter().chain(words).copied().collect();
        user.json_error(&words)
    };
    let unknown = elsewhere(&["--volume", "cache"]);
    assert!(unknown["code"] == "not_found" && unknown["hint"].as_str().unwrap().contains(NAME), "{unknown}");
    assert_eq!(elsewhere(&["--volume", NAME, "--snapshot", "1-8"])["code"], "not_found", "its parent is damaged");
    user.network.world().archive.streams.values_mut().for_each(|bytes| *bytes = b"something else".to_vec());
    assert_eq!(elsewhere(&["--volume", NAME, "--snapshot=1-1"])["code"], "malformed");
    assert_eq!(std::fs::read_dir(format!("{to}-3")).unwrap().count(), 0, "what is not whole does not stay");
}

#[test]
fn a_restore_is_ordered_with_the_owners_key_and_followed() {
    let (user, id) = user();
    let url = user.network.url();
    let say = |records: &[Value]| {
        user.network.world().vms = records.iter().map(|change| Some(vm(&url, change.clone()))).collect();
    };
    let failure = json!({"kind": "node_fault", "message": "the archive is busy"});
    let data = |restored: Value| json!({"standby": null, "standby_is_complete": false, "at_risk_ms": null, "restored": restored});
    let fails = json!({"state": "failing", "epoch": 2, "failure": failure, "data": data(json!("1-4"))});
    let done = json!({"epoch": 2, "data": data(json!("1-4"))});
    say(&[json!({}), json!({}), json!({"state": "stopping"}), fails, done]);
    let outcome = user.run(&["volume", "restore", &id[..10], "--snapshot", "1-4"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("the archive is busy") && outcome.stdout.contains("1-4"), "{outcome:?}");
    let operation = Operation::Restore { program: id.parse().unwrap(), snapshot: "1-4".parse().unwrap(), from: None };
    assert_eq!(user.network.world().orders, [(operation, user.account.address().clone())]);

    let ordered = user.json(&["volume", "restore", &id, "--snapshot", "1-1", "--no-wait"]);
    assert_eq!((&ordered["outcome"], &ordered["snapshot"]), (&json!("ordered"), &json!("1-1")));

    say(&[json!({}), json!({"epoch": 3, "data": data(Value::Null)})]);
    let error = user.json_error(&["volume", "restore", &id, "--snapshot", "1-4"]);
    assert_eq!(error["code"], "restore_failed", "{error}");
}

#[test]
fn a_program_is_not_stopped_for_a_snapshot_that_cannot_be_had() {
    let (user, id) = user();
    let url = user.network.url();
    user.network.world().vms = vec![Some(vm(&url, json!({})))];
    for snapshot in ["1-8", "7-7"] {
        assert_eq!(user.json_error(&["volume", "restore", &id, "--snapshot", snapshot])["code"], "not_found");
    }
    assert_eq!(user.run(&["volume", "restore", &id, "--snapshot", "newest"]).code, 2);
    assert!(user.network.world().orders.is_empty());
    user.network.world().refusal = Some("it is being moved: wait until it runs".to_owned());
    let error = user.json_error(&["volume", "restore", &id, "--snapshot", "1-4"]);
    assert!(error["message"].as_str().unwrap().contains("being moved"), "{error}");
    user.network.world().vms = vec![None];
    assert_eq!(user.json_error(&["volume", "restore", &id, "--snapshot", "1-4"])["code"], "not_found");
}

#[test]
fn a_snapshot_is_restored_into_another_program_of_the_same_owner() {
    let (user, id) = user();
    let into = upload(&user, &["name=../db,mount=/old,size_mib=60,persistence=store"]);
    let url = user.network.url();
    let say = |records: &[Value]| {
        let record = |change: &Value| {
            vm(&url, json!({"vm_hash": into.clone(), "data": change["data"], "epoch": change["epoch"]}))
        };
        user.network.world().vms = records.iter().map(|change| Some(record(change))).collect();
    };
    let data = |restored: Value, from: Value| json!({"standby": null, "standby_is_complete": false, "at_risk_ms": null, "restored": restored, "restored_from": from});
    let none = json!({"epoch": 1, "data": data(Value::Null, Value::Null)});
    let restore = ["volume", "restore", &id, "--snapshot", "1-4", "--into", &into];
    say(&[none.clone(), none.clone(), json!({"epoch": 2, "data": data(json!("1-4"), json!(id))})]);
    let done = user.json(&restore);
    assert_eq!((&done["outcome"], &done["item_hash"], &done["from"]), (&json!("done"), &json!(into), &json!(id)));
    let from = Some(id.parse().unwrap());
    let operation = Operation::Restore { program: into.parse().unwrap(), snapshot: "1-4".parse().unwrap(), from };
    assert_eq!(user.network.world().orders, [(operation, user.account.address().clone())]);

    // A snapshot of its own that is called the same is not what was asked for.
    say(&[none.clone(), json!({"epoch": 2, "data": data(json!("1-4"), Value::Null)})]);
    assert_eq!(user.json_error(&restore)["code"], "restore_failed");

    let ordered = user.network.world().orders.len();
    say(&[none]);
    assert_eq!(user.json_error(&["volume", "restore", &id, "--snapshot", "1-4", "--into", &id])["code"], "usage");
    let refused = |into: &str, snapshot: &str| {
        user.json_error(&["volume", "restore", &id, "--snapshot", snapshot, "--into", into])
    };
    assert_eq!(refused(&into, "1-8")["code"], "not_found", "its parent is damaged");
    for (volumes, why) in [
        (&["name=../db,mount=/a,size_mib=49,persistence=store"][..], "49 MiB"),
        (
            &["name=../db,mount=/a,size_mib=50,persistence=store", "name=files,mount=/f,size_mib=1,persistence=store"],
            "files",
        ),
        (&["name=../db,mount=/a,size_mib=50"], "no volume with the persistence `store`"),
    ] {
        let error = refused(&upload(&user, volumes), "1-4");
        assert_eq!(error["code"], "refused", "{error}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    let refusal = json!({"code": "not_found", "message": "there is no such program here"});
    user.network.world().archive.refusal = Some((StatusCode::NOT_FOUND, refusal));
    assert_eq!(refused(&into, "1-4")["code"], "not_found");
    assert_eq!(user.network.world().orders.len(), ordered, "nothing is stopped for any of these");
}
