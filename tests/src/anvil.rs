//! A real chain with a token: `anvil`, with the ERC-20 of `tests/chain/`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{eventually, free_ports, repository};

/// The bytecode that makes the token: `ERC20` of `@openzeppelin/contracts` 5.7.0 (MIT), whose constructor calls
/// `_mint(msg.sender, 1000000000 * 10 ** 18)`, compiled by `solc` 0.8.37 (both from the npm registry) for `paris` with the
/// optimizer at 200 runs and without metadata.
const TOKEN: &str = include_str!("../chain/token.hex");

/// Where `make` installs `anvil`.
const BINARY: &str = "target/tools/anvil/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";

/// A chain with a block a second and one token, all of which the chain's first account has. It ends with this.
pub struct Anvil {
    /// The URL of its JSON-RPC.
    pub url: String,
    /// The contract of the token.
    pub token: String,
    bank: String,
    http: reqwest::Client,
    _process: Child,
}

impl Anvil {
    /// Starts a chain and makes the token.
    ///
    /// # Panics
    /// When that does not work.
    pub async fn start() -> Self {
        let port = free_ports(1).to_string();
        let process = Command::new(repository(BINARY))
            .args(["--host", "127.0.0.1", "--port", &port, "--block-time", "1", "--silent"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("anvil starts");
        let url = format!("http://127.0.0.1:{port}");
        let http = crate::reqwest_client();
        let accounts =
            eventually("the chain answers", async || ask(&http, &url, "eth_accounts", json!([])).await).await;
        let bank = accounts[0].as_str().expect("an account").to_owned();
        let mut anvil = Self { url, token: String::new(), bank, http, _process: process };
        let deployed =
            anvil.send(json!({ "from": anvil.bank, "data": format!("0x{}", TOKEN.trim()), "gas": "0x4c4b40" }));
        anvil.token = deployed.await["contractAddress"].as_str().expect("the token is made").to_owned();
        anvil
    }

    /// The chain's first account gives somebody tokens.
    ///
    /// # Panics
    /// When the chain refuses.
    pub async fn sells(&self, to: &str, tokens: u128) {
        self.transfer(&self.bank, to, tokens).await;
    }

    /// Somebody gives the chain's first account tokens. The chain does not ask for a signature.
    ///
    /// # Panics
    /// When the chain refuses.
    pub async fn buys(&self, from: &str, tokens: u128) {
        self.call("anvil_setBalance", json!([from, "0xde0b6b3a7640000"])).await;
        self.call("anvil_impersonateAccount", json!([from])).await;
        self.transfer(from, &self.bank, tokens).await;
    }

    async fn transfer(&self, from: &str, to: &str, tokens: u128) {
        // transfer(address,uint256)
        let (to, amount) = (to.trim_start_matches("0x"), tokens * 10_u128.pow(18));
        let data = format!("0xa9059cbb{to:0>64}{amount:064x}");
        self.send(json!({ "from": from, "to": self.token, "data": data, "gas": "0x30d40" })).await;
    }

    /// Sends a transaction and waits until it is in a block. Says its receipt.
    async fn send(&self, transaction: Value) -> Value {
        let hash = self.call("eth_sendTransaction", json!([transaction])).await;
        let receipt = eventually("the transaction is in a block", async || {
            let receipt = self.call("eth_getTransactionReceipt", json!([hash])).await;
            (!receipt.is_null()).then_some(receipt)
        })
        .await;
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt
    }

    async fn call(&self, method: &str, parameters: Value) -> Value {
        ask(&self.http, &self.url, method, parameters).await.unwrap_or_else(|| panic!("anvil answers {method}"))
    }
}

async fn ask(http: &reqwest::Client, url: &str, method: &str, parameters: Value) -> Option<Value> {
    let question = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": parameters });
    let mut answer: Value = http.post(url).json(&question).send().await.ok()?.json().await.ok()?;
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    Some(answer["result"].take())
}
