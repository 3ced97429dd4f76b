//! People with an account of their own, so that what they hold and own is theirs alone on a network that tests share.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Aleph, Network, PythonClient};

/// Somebody with an account. Both clients use it, from one folder of keys and settings, as people have them.
pub struct User {
    /// The account's address.
    pub address: String,
    /// The client `aleph`.
    pub aleph: Aleph,
    /// The Python client.
    pub python: PythonClient,
    _folder: TempDir,
}

impl User {
    /// Makes an account that holds this many ALEPH on a network whose ledger is its own.
    ///
    /// # Panics
    /// When the account cannot be made.
    pub async fn with(network: &Network, tokens: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let aleph = Aleph::new(&network.message_node_url, folder.path());
        let created = aleph.json(&["account", "create"]).await;
        let address = created["address"].as_str().expect("an account has an address").to_owned();
        network.credit(&address, tokens).expect("the ledger can be written");
        Self { address, python: PythonClient::of(&aleph), aleph, _folder: folder }
    }

    /// A file in the folder that commands of the Python client run in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.aleph.home().join(name)
    }
}

impl Network {
    /// Writes into the ledger what an account holds. The message node sees it as soon as it asks for a balance.
    fn credit(&self, address: &str, tokens: u32) -> io::Result<()> {
        static WRITING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.root().join("ledger.json");
        let mut ledger: Value = serde_json::from_slice(&fs::read(&path)?)?;
        ledger[address] = json!(tokens.to_string());
        let new = path.with_extension("new");
        fs::write(&new, ledger.to_string())?;
        fs::rename(new, path)
    }
}
