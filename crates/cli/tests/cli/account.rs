use std::fs;
use std::os::unix::fs::PermissionsExt;

use protocol::Account;
use serde_json::Value;

use crate::run::{User, bare, outcome};

/// The first account of every Ethereum development chain.
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

#[test]
fn a_new_account_is_a_key_file_and_a_config_that_the_python_client_reads() {
    let home = tempfile::tempdir().unwrap();
    let created = outcome(bare(home.path(), &["account", "create", "--json"]));
    let created: Value = serde_json::from_str(&created.stdout).unwrap_or_else(|e| panic!("{e}: {created:?}"));
    let key = home.path().join(".aleph-im/private-keys/ethereum.key");
    assert_eq!(fs::read(&key).unwrap().len(), 32);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let config: Value =
        serde_json::from_str(&fs::read_to_string(home.path().join(".aleph-im/config.json")).unwrap()).unwrap();
    assert_eq!(config["path"], key.to_str().unwrap());
    assert_eq!((&config["type"], &config["chain"]), (&"imported".into(), &"ETH".into()));
    assert!(config["address"].is_null() && config["derivation_path"].is_null());

    let shown = outcome(bare(home.path(), &["account", "show"]));
    assert!(shown.stdout.contains(created["address"].as_str().unwrap()), "{shown:?}");
}

#[test]
fn an_existing_key_is_never_lost() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| outcome(bare(home.path(), arguments));
    assert_eq!(run(&["account", "create", "--private-key", KEY]).code, 0);
    let again = run(&["account", "create"]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("there is a key already") && again.stderr.contains("--replace"), "{again:?}");
    let address = |arguments: &[&str]| -> Value {
        serde_json::from_str(&run(&[&["--json"], arguments].concat()).stdout).unwrap()
    };
    assert_eq!(address(&["account", "show"])["address"], ADDRESS);

    let replaced = address(&["account", "create", "--replace"]);
    assert_ne!(replaced["address"], ADDRESS);
    let backup = replaced["replaced"].as_str().unwrap();
    assert_eq!(address(&["account", "show", "--private-key-file", backup])["address"], ADDRESS);

    let other = address(&["account", "create", "--private-key-file", "other", "--no-active"]);
    assert_eq!(address(&["account", "show"])["address"], replaced["address"]);
    assert_eq!(address(&["account", "show", "--private-key-file", "other"])["address"], other["address"]);
}

#[test]
fn a_key_of_the_python_client_is_read_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join(".aleph-im/private-keys");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("ethereum.key"), hex::decode(KEY).unwrap()).unwrap();
    let exported = outcome(bare(home.path(), &["account", "export"]));
    assert_eq!(exported.stdout.trim(), format!("0x{KEY}"));
    assert!(exported.stderr.contains("warning"), "{exported:?}");

    let file = keys.join("test.key");
    fs::write(&file, Account::generate().secret().as_slice()).unwrap();
    let config = format!(
        r#"{{"path": {:?}, "type": "imported", "chain": "ETH", "address": null, "derivation_path": null}}"#,
        file.to_str().unwrap()
    );
    fs::write(home.path().join(".aleph-im/config.json"), config).unwrap();
    let shown = outcome(bare(home.path(), &["account", "show"]));
    assert!(shown.stdout.contains("test.key (config.json)") && !shown.stdout.contains(ADDRESS), "{shown:?}");
}

#[test]
fn keys_are_imported_from_standard_input() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("key.txt");
    fs::write(&key, format!("0x{KEY}\n")).unwrap();
    let mut command = bare(home.path(), &["account", "create", "--private-key", "-"]);
    command.stdin(fs::File::open(key).unwrap());
    let created = outcome(command);
    assert!(created.stdout.contains(ADDRESS), "{created:?}");

    let bad = outcome(bare(home.path(), &["account", "create", "--private-key", "12", "--private-key-file", "b"]));
    assert!(bad.code == 1 && bad.stderr.contains("64 hexadecimal digits"), "{bad:?}");
    let bad = outcome(bare(home.path(), &["account", "create", "--chain", "SOL", "--private-key-file", "b"]));
    assert!(bad.code == 1 && bad.stderr.contains("'SOL'"), "{bad:?}");
}

#[test]
fn without_a_key_commands_say_how_to_get_one_and_make_none() {
    let home = tempfile::tempdir().unwrap();
    for arguments in
        [&["account", "show"][..], &["account", "export"], &["program", "list"], &["unpersist", "abcdef0123"]]
    {
        let refused = outcome(bare(home.path(), arguments));
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("aleph account create"), "{refused:?}");
    }
    assert!(!home.path().join(".aleph-im").exists());
}

#[test]
fn balances_are_shown_with_what_is_available() {
    let user = User::new();
    user.network.world().locked = 500.5;
    let balance = user.json(&["account", "balance"]);
    assert_eq!(balance["address"], user.account.address().as_str());
    assert_eq!((balance["balance"].as_f64(), balance["available"].as_f64()), (Some(2000.0), Some(1499.5)));
    assert!(user.run(&["account", "balance"]).stdout.contains("1499.5 ALEPH"));
    assert_eq!(user.json(&["account", "balance", ADDRESS])["address"], ADDRESS);
    assert_eq!(user.json_error(&["account", "balance", "0x12"])["code"], "usage");
}
