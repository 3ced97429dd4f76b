//! A fake network in one server: message node, scheduler, gateway and compute node. It keeps the rules that the client
//! relies on (signatures, hashes, schema) and does otherwise what a test tells it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::Address;
use protocol::message::{Envelope, MessageType, ProgramContent};
use protocol::operation::Operation;
use serde_json::{Value, json};

use crate::server::router;

pub(crate) const NODE_ID: &str = "2222222222222222222222222222222222222222222222222222222222222222";
pub(crate) const RUNTIME: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const MINIMAL: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// What the message node decides about a message.
#[derive(Clone)]
pub(crate) enum Verdict {
    Processed,
    Rejected(i32, Value),
    /// Not paid for any more, and removed then.
    Removing(&'static str),
    /// Undecided for so many questions, then this.
    Pending(u32, Box<Verdict>),
}

pub(crate) struct Stored {
    pub(crate) envelope: Envelope,
    pub(crate) verdict: Verdict,
    pub(crate) forgotten_by: Option<String>,
}

impl Stored {
    pub(crate) fn content(&self) -> Value {
        serde_json::from_str(self.envelope.item_content.as_deref().unwrap()).unwrap()
    }
}

type Judge = Box<dyn Fn(&Envelope) -> Verdict + Send>;

/// Everything that the fakes know and do.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) messages: HashMap<String, Stored>,
    pub(crate) files: HashMap<String, Vec<u8>>,
    /// What was asked for, in order: `METHOD /path`, and what came into force.
    pub(crate) events: Vec<String>,
    pub(crate) balance: f64,
    pub(crate) locked: f64,
    pub(crate) cost: f64,
    pub(crate) largest_file: usize,
    pub(crate) announced_limit: Option<usize>,
    pub(crate) ipfs_limit: Option<usize>,
    /// How many more messages and files are answered with "busy".
    pub(crate) busy: u32,
    /// How many more answers about messages that were taken get lost.
    pub(crate) lost: u32,
    /// Files cost more than the account has, then.
    pub(crate) file_price: Option<Value>,
    pub(crate) settings: Option<Value>,
    /// What the scheduler says of programs in force, one answer after the other; the last one stays.
    pub(crate) vms: Vec<Option<Value>>,
    /// How often the scheduler still knows a program that was forgotten.
    pub(crate) stopping: u32,
    pub(crate) nodes: Vec<Value>,
    /// The account of the scheduler.
    pub(crate) scheduler: Address,
    /// What it was ordered, and by whom.
    pub(crate) orders: Vec<(Operation, Address)>,
    /// Why it carries out no order, then.
    pub(crate) refusal: Option<String>,
    /// What the gateway answers, one after the other; the last one stays.
    pub(crate) gateway: Vec<u16>,
    /// What the compute node kept of a program's log.
    pub(crate) log: Vec<Value>,
    /// What the compute node streams, one connection after the other.
    pub(crate) streams: Vec<Vec<Value>>,
    pub(crate) archive: crate::volume::FakeArchive,
    /// Who may read logs; nobody else.
    pub(crate) log_reader: Option<Address>,
    judge: Judge,
}

/// A running fake network.
pub(crate) struct Network {
    world: Arc<Mutex<World>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Network {
    pub(crate) fn start() -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                let world = Arc::new(Mutex::new(World::new(url)));
                tell.send(world.clone()).unwrap();
                let server = axum::serve(listener, router(world));
                tokio::select! { result = server => result.unwrap(), _ = stopped => {} }
            });
        });
        Self { world: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        self.world().url.clone()
    }

    /// Decides about messages that are sent from now on.
    pub(crate) fn judge(&self, judge: impl Fn(&Envelope) -> Verdict + Send + 'static) {
        self.world().judge = Box::new(judge);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}

impl World {
    fn new(url: String) -> Self {
        let mut messages = HashMap::new();
        for hash in [RUNTIME, MINIMAL] {
            let account = protocol::Account::generate();
            let content = json!({"address": account.address(), "time": 1, "item_type": "storage", "item_hash": hash});
            let time = protocol::message::MessageTime::now();
            let mut envelope = Envelope::sign_inline(&account, MessageType::Store, content.to_string(), time, None);
            envelope.item_hash = hash.to_owned();
            messages.insert(hash.to_owned(), Stored { envelope, verdict: Verdict::Processed, forgotten_by: None });
        }
        Self {
            messages,
            settings: Some(json!({"scheduler_urls": [&url], "gateway_url": &url})),
            vms: vec![Some(vm(&url, json!({})))],
            url,
            files: HashMap::new(),
            events: Vec::new(),
            balance: 2000.0,
            locked: 0.0,
            cost: 2000.0,
            largest_file: 1 << 20,
            announced_limit: None,
            ipfs_limit: None,
            busy: 0,
            lost: 0,
            file_price: None,
            stopping: 0,
            nodes: Vec::new(),
            scheduler: protocol::Account::generate().address().clone(),
            orders: Vec::new(),
            refusal: None,
            gateway: vec![200],
            log: Vec::new(),
            streams: Vec::new(),
            archive: crate::volume::FakeArchive::default(),
            log_reader: None,
            judge: Box::new(|_| Verdict::Processed),
        }
    }

    /// The messages of a type that were sent, the oldest first.
    pub(crate) fn sent(&self, kind: MessageType) -> Vec<&Stored> {
        let mut sent: Vec<&Stored> = self
            .messages
            .values()
            .filter(|stored| stored.envelope.message_type == kind && stored.envelope.channel.is_some())
            .collect();
        sent.sort_by_key(|stored| stored.envelope.time.as_micros());
        sent
    }

    /// The content of the only program that was sent.
    pub(crate) fn program(&self) -> (String, Value) {
        let sent = self.sent(MessageType::Program);
        assert_eq!(sent.len(), 1, "one program is sent");
        (sent[0].envelope.item_hash.clone(), sent[0].content())
    }

    /// Puts a message in, as if it had been sent before.
    pub(crate) fn put(&mut self, envelope: Envelope, verdict: Verdict) -> String {
        let hash = envelope.item_hash.clone();
        self.messages.insert(hash.clone(), Stored { envelope, verdict, forgotten_by: None });
        hash
    }

    /// The answer of a node that takes nothing more at the moment.
    pub(crate) fn busy(&mut self) -> Option<Response> {
        self.busy = self.busy.checked_sub(1)?;
        let error = json!({"code": "busy", "message": "too many messages; try again in a few seconds"});
        Some((StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response())
    }

    pub(crate) fn submit(&mut self, envelope: Envelope) -> Verdict {
        envelope.verify().expect("the client sends valid messages");
        let content = envelope.item_content.clone().expect("inline");
        if envelope.message_type == MessageType::Program {
            let program = ProgramContent::parse(&content).expect("the client follows the schema");
            assert_eq!(program.to_item_content(), content, "the form that every client reads back");
            assert!(!content.contains("null"), "nothing is null: {content}");
            assert!(content.contains(r#""volumes":["#) && content.contains(r#""use_latest":"#), "{content}");
        }
        let verdict = (self.judge)(&envelope);
        self.messages
            .insert(envelope.item_hash.clone(), Stored { envelope, verdict: verdict.clone(), forgotten_by: None });
        verdict
    }

    /// A message comes into force, with what that has as a consequence.
    pub(crate) fn process(&mut self, hash: &str) {
        let (kind, content) = match self.messages.get(hash) {
            Some(stored) => (stored.envelope.message_type, stored.content()),
            None => return,
        };
        self.events.push(format!("processed {kind}"));
        if kind == MessageType::Forget {
            for target in content["hashes"].as_array().unwrap() {
                if let Some(stored) = self.messages.get_mut(target.as_str().unwrap()) {
                    stored.forgotten_by = Some(hash.to_owned());
                }
            }
        }
    }

    /// `GET /api/v0/messages/{hash}`
    pub(crate) fn message(&mut self, hash: &str) -> Option<Value> {
        let verdict = self.messages.get(hash)?.verdict.clone();
        if let Verdict::Pending(left, then) = verdict {
            let decided = left == 0;
            self.messages.get_mut(hash)?.verdict = match left {
                0 => *then,
                _ => Verdict::Pending(left - 1, then),
            };
            if decided && matches!(self.messages.get(hash)?.verdict, Verdict::Processed) {
                self.process(hash);
            }
        }
        let stored = self.messages.get(hash)?;
        let mut message = serde_json::to_value(&stored.envelope).unwrap();
        message["content"] = stored.content();
        message["confirmed"] = false.into();
        let mut answer = json!({"item_hash": hash, "reception_time": "2026-11-22T00:00:00+00:00"});
        match (&stored.verdict, &stored.forgotten_by) {
            (_, Some(by)) => {
                message.as_object_mut().unwrap().remove("content");
                message.as_object_mut().unwrap().remove("item_content");
                answer["status"] = "forgotten".into();
                answer["forgotten_by"] = json!([by]);
                answer["message"] = message;
            }
            (Verdict::Processed, None) => {
                answer["status"] = "processed".into();
                answer["message"] = message;
            }
            (Verdict::Removing(until), None) => {
                answer["status"] = "removing".into();
                answer["reason"] = "balance_insufficient".into();
                answer["until"] = (*until).into();
                answer["message"] = message;
            }
            (Verdict::Pending(..), None) => {
                answer["status"] = "pending".into();
                answer["messages"] = json!([message]);
            }
            (Verdict::Rejected(code, details), None) => {
                answer["status"] = "rejected".into();
                answer["message"] = message;
                answer["error_code"] = (*code).into();
                answer["details"] = details.clone();
            }
        }
        Some(answer)
    }
}

/// What the scheduler says of a program that runs, changed.
pub(crate) fn vm(url: &str, change: Value) -> Value {
    let mut record = json!({
        "vm_type": "persistent_program", "status": "dispatched", "scheduling_status": "scheduled",
        "allocated_node": NODE_ID, "allocated_at": "2026-11-22T01:00:00Z", "observed_nodes": [NODE_ID],
        "last_observed_at": null, "requirements_vcpus": 1, "requirements_memory_mb": 128, "requirements_disk_mb": 0,
        "payment_type": "hold", "payment_status": "validated", "migration_target": null,
        "migration_started_at": null, "epoch": 1, "node_url": url, "url": null, "state": "ready",
        "state_since": "2026-11-22T01:00:05Z",
    });
    for (name, value) in change.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}

/// A program that is not placed.
pub(crate) fn unplaced(reason: &str) -> Value {
    let change = json!({
        "state": "unplaced", "reason": reason, "allocated_node": null, "node_url": null, "observed_nodes": [],
        "epoch": null, "allocated_at": null,
    });
    vm("", change)
}
