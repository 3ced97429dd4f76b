//! A node to test, accounts, and messages to send.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aleph_message_node::{Config, RunError, StoragePlace, run};
use aleph_tests::Postgres;
use protocol::api::message_node::{MessageStatus, MessageWithStatus};
use protocol::client::{ClientError, MessageNode};
use protocol::message::{Envelope, ErrorCode, ItemType, MessageTime, MessageType};
use protocol::{Account, FileHash};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::described::check_refusal;

/// How long anything may take that has no reason to take long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether nodes keep their messages on PostgreSQL. These tests are built twice, see `tests/on_postgres`.
pub(crate) const ON_POSTGRES: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"on_postgres");

/// A new database for a node; `None` when it is to have a file.
async fn new_database() -> Option<url::Url> {
    if ON_POSTGRES { Some(postgres_database().await) } else { None }
}

/// A new database of the PostgreSQL server that all tests share.
pub(crate) async fn postgres_database() -> url::Url {
    tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap().parse().unwrap()
}

/// A running node. It has a runtime of its own, so that killing it stops everything it does, wherever it is.
pub(crate) struct TestNode {
    pub(crate) client: MessageNode,
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    config: Config,
    folder: Option<TempDir>,
    runtime: Option<Runtime>,
    shutdown: CancellationToken,
    ended: Option<oneshot::Receiver<Result<(), RunError>>>,
}

impl TestNode {
    /// A new node with short waits.
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A new node with other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_database(new_database().await, change).await
    }

    /// A new node with this PostgreSQL database, if any, and other settings.
    pub(crate) async fn with_database(database: Option<url::Url>, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.path().join("data"));
        config.postgres = database;
        config.timing.retry_window = Duration::from_millis(400);
        config.timing.drain = Duration::from_secs(2);
        change(&mut config);
        Self::launch(config, Some(folder)).await.unwrap()
    }

    /// Another process of the same message node, with other settings.
    pub(crate) async fn beside(&self, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = StoragePlace::Folder(self.config.data_dir.join("files"));
        let files = self.config.files.clone().unwrap_or(files);
        let mut config = Config { data_dir: folder.path().join("data"), files: Some(files), ..self.config.clone() };
        change(&mut config);
        Self::launch(config, Some(folder)).await.unwrap()
    }

    /// A node with a ledger that says this.
    pub(crate) async fn with_ledger(ledger: Value, change: impl FnOnce(&mut Config)) -> Self {
        Self::with(|config| {
            let path = config.data_dir.with_file_name("ledger.json");
            write_ledger(&path, &ledger.to_string());
            config.ledger = Some(path);
            change(config);
        })
        .await
    }

    /// Starts a node with these settings, or tells why it did not start.
    pub(crate) async fn launch(config: Config, folder: Option<TempDir>) -> Result<Self, RunError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (ready, is_ready) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let running = run(config.clone(), |address| ready.send(address).unwrap(), shutdown.clone());
        runtime.spawn(async move {
            // An error means that the test has ended.
            let _ = end.send(running.await);
        });
        let Ok(address) = is_ready.await else {
            let error = ended.await.unwrap().unwrap_err();
            runtime.shutdown_background();
            return Err(error);
        };
        let url = format!("http://{address}");
        Ok(Self {
            client: MessageNode::new(&url),
            http: protocol::client::http_client(),
            url,
            config,
            folder,
            runtime: Some(runtime),
            shutdown,
            ended: Some(ended),
        })
    }

    /// A connection to the node's database, past the node.
    pub(crate) async fn database(config: &Config) -> sqlx::AnyConnection {
        sqlx::any::install_default_drivers();
        let file = || format!("sqlite://{}", config.data_dir.join("messages.sqlite").display());
        let url = config.postgres.as_ref().map_or_else(file, ToString::to_string);
        <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.config.ledger.clone().expect("the node has a ledger")
    }

    pub(crate) fn set_ledger(&self, ledger: &Value) {
        write_ledger(&self.ledger_path(), &ledger.to_string());
    }

    /// Stops in order.
    pub(crate) async fn stop(mut self) -> (Config, Option<TempDir>) {
        self.shutdown.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
        self.end()
    }

    /// Stops at once, in the middle of whatever it does.
    pub(crate) fn kill(mut self) -> (Config, Option<TempDir>) {
        self.end()
    }

    fn end(&mut self) -> (Config, Option<TempDir>) {
        if let Some(runtime) = self.runtime.take() {
            // Its threads must have let go of the directory before the next node takes it.
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join().unwrap();
        }
        (self.config.clone(), self.folder.take())
    }

    /// Submits a message and waits for the outcome.
    pub(crate) async fn submit(&self, message: &Envelope) -> MessageStatus {
        self.client.submit(message, true).await.unwrap()
    }

    /// Submits a message that has to be accepted; gives its hash.
    pub(crate) async fn accept(&self, message: &Envelope) -> String {
        let status = self.submit(message).await;
        if status != MessageStatus::Processed {
            panic!("{:#?}", self.client.message(&message.item_hash).await);
        }
        message.item_hash.clone()
    }

    /// Submits a message that has to be rejected; gives the details.
    pub(crate) async fn reject(&self, message: &Envelope, code: ErrorCode) -> Value {
        assert_eq!(self.submit(message).await, MessageStatus::Rejected, "it should be rejected as {code:?}");
        let known = self.get(&message.item_hash).await;
        assert_eq!(known.status, MessageStatus::Rejected);
        assert_eq!(known.error_code, Some(code.code()), "{:?}", known.details);
        let details = known.details.expect("clients need the details");
        assert!(details["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{details}");
        details
    }

    /// Submits a message without waiting.
    pub(crate) async fn send(&self, message: &Envelope) {
        assert_eq!(self.client.submit(message, false).await.unwrap(), MessageStatus::Pending);
    }

    pub(crate) async fn get(&self, hash: &str) -> MessageWithStatus {
        self.client.message(hash).await.unwrap().expect("the message is known")
    }

    pub(crate) async fn status(&self, hash: &str) -> MessageStatus {
        self.get(hash).await.status
    }

    /// Waits until a message is in this status.
    pub(crate) async fn until(&self, hash: &str, status: MessageStatus) -> MessageWithStatus {
        eventually(async || Some(self.get(hash).await).filter(|known| known.status == status)).await
    }

    /// Uploads a file together with its STORE message; gives the message's hash.
    pub(crate) async fn publish(&self, account: &Account, content: &[u8]) -> String {
        self.publish_with(account, content, json!({})).await
    }

    /// The same with other fields in the content of the message.
    pub(crate) async fn publish_with(&self, account: &Account, content: &[u8], fields: Value) -> String {
        let message = store(account, &FileHash::of(content).to_string(), fields);
        self.add_file(&message, content).await.unwrap();
        message.item_hash
    }

    pub(crate) async fn add_file(&self, message: &Envelope, content: &[u8]) -> Result<FileHash, ClientError> {
        let bytes = bytes::Bytes::copy_from_slice(content);
        let stream = futures_util::stream::iter([Ok(bytes)]);
        self.client.add_file(message, true, content.len() as u64, stream).await
    }

    /// Asks for JSON. What is refused has to be refused as it is described.
    pub(crate) async fn json(&self, path: &str) -> (u16, Value) {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json().await.unwrap());
        check_refusal(self, "get", path, status, &body).await;
        (status, body)
    }

    /// Asks for text.
    pub(crate) async fn text(&self, path: &str) -> String {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap().text().await.unwrap()
    }

    /// Sends JSON, as [`TestNode::json`].
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.http.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json().await.unwrap());
        check_refusal(self, "post", path, status, &body).await;
        (status, body)
    }
}

/// What a node keeps in its folder of files.
pub(crate) fn kept_files(node: &TestNode) -> Vec<PathBuf> {
    walk(&node.config().data_dir.join("files")).into_iter().filter(|path| !path.ends_with("place")).collect()
}

/// All files below a folder. What goes meanwhile is not there.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Why a node with these settings does not start.
pub(crate) async fn refused(change: impl FnOnce(&mut Config)) -> RunError {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.path().join("data"));
    change(&mut config);
    match TestNode::launch(config, Some(folder)).await {
        Ok(_) => panic!("it must not start"),
        Err(error) => error,
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn write_ledger(path: &Path, ledger: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, ledger).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).await
}

/// The same for what may take its time.
pub(crate) async fn within<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < patience, "it did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn now() -> f64 {
    MessageTime::now().as_seconds()
}

/// A signed inline message whose content is this, with address and time added unless they are there.
pub(crate) fn message(account: &Account, message_type: MessageType, mut content: Value) -> Envelope {
    let fields = content.as_object_mut().unwrap();
    fields.entry("address").or_insert_with(|| json!(account.address()));
    fields.entry("time").or_insert_with(|| json!(now()));
    sign(account, message_type, content.to_string())
}

pub(crate) fn sign(account: &Account, message_type: MessageType, content: String) -> Envelope {
    Envelope::sign_inline(account, message_type, content, MessageTime::now(), Some("TEST".to_owned()))
}

/// `base` with the fields of `more`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut base, more) else { panic!("both are objects") };
    fields.extend(more);
    base
}

pub(crate) fn store(account: &Account, file: &str, fields: Value) -> Envelope {
    message(account, MessageType::Store, with(json!({"item_type": "storage", "item_hash": file}), fields))
}

pub(crate) fn post(account: &Account, post_type: &str, content: Value) -> Envelope {
    message(account, MessageType::Post, json!({"type": post_type, "content": content}))
}

pub(crate) fn amend(account: &Account, original: &str, content: Value) -> Envelope {
    message(account, MessageType::Post, json!({"type": "amend", "ref": original, "content": content}))
}

pub(crate) fn aggregate(account: &Account, key: &str, content: Value) -> Envelope {
    message(account, MessageType::Aggregate, json!({"key": key, "content": content}))
}

pub(crate) fn forget(account: &Account, hashes: &[&str]) -> Envelope {
    message(account, MessageType::Forget, json!({"hashes": hashes}))
}

/// A program in the shape that the Python client sends. `fields` replaces fields of the content.
pub(crate) fn program(account: &Account, code: &str, runtime: &str, fields: Value) -> Envelope {
    let content = json!({
        "allow_amend": true, "metadata": {"name": "demo"}, "authorized_keys": [],
        "environment": {"reproducible": false, "internet": false, "aleph_api": true, "shared_cache": false},
        "resources": {"vcpus": 1, "memory": 2048, "seconds": 30},
        "payment": {"chain": "ETH", "type": "hold"}, "volumes": [], "type": "vm-function",
        "code": {"encoding": "zip", "entrypoint": "main:app", "ref": code, "use_latest": true},
        "runtime": {"ref": runtime, "use_latest": true, "comment": "test"},
        "on": {"http": true, "persistent": false},
    });
    message(account, MessageType::Program, with(content, fields))
}

/// What makes a program persistent.
pub(crate) fn persistent() -> Value {
    json!({"on": {"http": true, "persistent": true}})
}

/// A message whose content is in the file store, under the message's hash.
pub(crate) fn stored_message(account: &Account, message_type: MessageType, content: &str) -> Envelope {
    let mut envelope = sign(account, message_type, content.to_owned());
    envelope.item_content = None;
    envelope.item_type = ItemType::Storage;
    envelope
}

/// A copy of a message that somebody else signed in the sender's name.
pub(crate) fn forged(message: &Envelope) -> Envelope {
    let mut copy = message.clone();
    copy.signature = Some(Account::generate().sign(message.signed_text().as_bytes()));
    copy
}
