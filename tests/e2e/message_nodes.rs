//! Several processes of one message node on one PostgreSQL and one folder of files, behind a load balancer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use aleph_tests::{Balancer, Postgres, Publisher, Role, eventually, free_ports, repository, reqwest_client};
use futures_util::future::join_all;
use protocol::api::message_node::{MessageFilter, MessageStatus};
use protocol::client::MessageNode;
use protocol::message::{Envelope, MessageTime, MessageType};
use protocol::{Account, FileHash};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

/// Messages of each sender.
const EACH: usize = 60;

/// Tells that it runs.
const PROGRAM: &str = "async def app(scope, receive, send):\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'it runs'})\n";

/// One process.
struct Process {
    address: String,
    arguments: Vec<String>,
    log: std::path::PathBuf,
    role: Option<Role>,
}

impl Process {
    async fn start(folder: &Path, name: &str, database: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_ports(1));
        let (data, files) = (folder.join(name).display().to_string(), folder.join("files").display().to_string());
        let arguments = ["--json", "message-node", "--listen", &address, "--data-dir", &data, "--files", &files];
        let arguments = [&arguments[..], &["--store", database]].concat().into_iter().map(str::to_owned).collect();
        let mut process = Self { address, arguments, log: folder.join(format!("{name}.log")), role: None };
        process.resume().await;
        process
    }

    async fn resume(&mut self) {
        self.role = Some(Role::ready(&self.arguments, &self.log).await);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn client(&self) -> MessageNode {
        MessageNode::new(self.url())
    }

    fn signal(&self, signal: Signal) {
        aleph_tests::signal(self.role.as_ref().expect("it runs").pid(), signal);
    }

    async fn kill(&mut self) {
        self.role.take().expect("it runs").end(Signal::KILL).await;
    }

    async fn health(&self) -> Option<Value> {
        reqwest_client().get(format!("{}/health", self.url())).send().await.ok()?.json().await.ok()
    }

    async fn becomes(&self, status: &str) {
        eventually(&format!("{} is {status}", self.address), async || {
            (self.health().await?["status"] == status).then_some(())
        })
        .await;
    }
}

/// Processes of one message node, the one that leads first.
async fn processes(folder: &Path, database: &str, names: &[&str]) -> Vec<Process> {
    let mut processes = Vec::new();
    for name in names {
        let process = Process::start(folder, name, database).await;
        process.becomes(if processes.is_empty() { "ok" } else { "follower" }).await;
        processes.push(process);
    }
    processes
}

fn note(account: &Account, number: usize) -> Envelope {
    let time = MessageTime::now();
    let content =
        json!({ "address": account.address(), "time": time, "type": "note", "content": { "number": number } });
    Envelope::sign_inline(account, MessageType::Post, content.to_string(), time, Some("LOAD".into()))
}

/// Sends until it is taken: what was not answered with success may be sent again.
async fn insist(node: &MessageNode, message: &Envelope, sync: bool) {
    eventually("a message is taken", async || match node.submit(message, sync).await {
        Ok(MessageStatus::Processed | MessageStatus::Pending) => Some(()),
        Ok(status) => panic!("{status:?}"),
        Err(error) => {
            assert!(error.status().is_none_or(|status| status == 503), "{error}");
            None
        }
    })
    .await;
}

/// What a stream of a process tells of these senders, from now on, until there are so many.
async fn listen(process: &Process, senders: &[Account], count: usize) -> tokio::task::JoinHandle<Vec<Envelope>> {
    let senders = senders.iter().map(|sender| sender.address().clone()).collect();
    let filter = MessageFilter { senders, ..MessageFilter::default() };
    let mut stream = process.client().watch(&filter, 0).await.expect("the process streams");
    tokio::spawn(async move {
        let mut told = Vec::new();
        while told.len() < count {
            let message = stream.next().await.expect("the stream goes on").expect("the stream goes on");
            told.push(message.envelope);
        }
        told
    })
}

/// The messages of the load that a process lists, and how often.
async fn listed(process: &Process) -> BTreeMap<String, usize> {
    let url = format!("{}/api/v0/messages.json?channels=LOAD&pagination=0", process.url());
    let list: Value = reqwest_client().get(url).send().await.unwrap().json().await.unwrap();
    let mut found = BTreeMap::new();
    for message in list["messages"].as_array().unwrap() {
        *found.entry(message["item_hash"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    found
}

/// A scheduler and a compute node that know the message node by this URL.
async fn scheduler_and_node(folder: &Path, message_node: &str) -> (Vec<Role>, String) {
    let [scheduler, node] = [free_ports(1), free_ports(1)].map(|port| format!("127.0.0.1:{port}"));
    let (scheduler_url, node_url) = (format!("http://{scheduler}"), format!("http://{node}"));
    let data = |name: &str| folder.join(name).display().to_string();
    let scheduler = ["--json", "scheduler", "--listen", &scheduler, "--data-dir", &data("scheduler"), "--message-node"];
    let scheduler = [&scheduler[..], &[message_node]].concat();
    let compute_node = ["--json", "compute-node", "--listen", &node, "--url", &node_url, "--data-dir", &data("node")];
    let options =
        ["--message-node", message_node, "--scheduler", &scheduler_url, "--spare-mib", "0", "--stop-programs"];
    let offer = ["--vcpus", "4", "--memory-mib", "512", "--disk-mib", "1024", "--first-uid", "1879048192"];
    let mut roles = Vec::new();
    for (name, arguments) in
        [("scheduler", scheduler), ("compute-node", [&compute_node[..], &options, &offer].concat())]
    {
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        roles.push(Role::ready(&arguments, &folder.join(format!("{name}.log"))).await);
    }
    (roles, node_url)
}

/// Waits until a program answers on a node.
async fn runs(node: &str, program: &str) {
    eventually("the program runs", async || {
        let answer = reqwest_client().get(format!("{node}/vm/{program}")).send().await.ok()?;
        (answer.status() == 200 && answer.text().await.ok()? == "it runs").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_under_load_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = spawn_blocking(Postgres::start).await.unwrap();
    let mut processes = processes(folder.path(), &postgres.database(), &["one", "two", "three"]).await;
    let balancer = Balancer::start(processes.iter().map(|process| process.address.clone()).collect()).await;
    let (_roles, node) = scheduler_and_node(folder.path(), &balancer.url).await;
    let publisher = Publisher::new(Account::generate(), &balancer.url);
    let image = std::fs::read(repository("target/runtimes/python3.squashfs")).unwrap();
    let (runtime, code) = (publisher.file(image).await, publisher.file(PROGRAM.as_bytes()).await);
    let before = publisher.program(&code, &runtime, json!({ "on": { "persistent": true } })).await;
    runs(&node, &before).await;

    let senders: Vec<_> = (0..4).map(|_| Account::generate()).collect();
    let streams = join_all(processes[1..].iter().map(|process| listen(process, &senders, EACH * senders.len()))).await;
    let taken = AtomicUsize::new(0);
    let (url, counter) = (&balancer.url, &taken);
    let sending = join_all(senders.iter().map(async |sender| {
        let mut sent = Vec::new();
        for number in 0..EACH {
            let message = note(sender, number);
            // A client for each, so that each is a connection that the balancer gives to the next process.
            insist(&MessageNode::new(url.as_str()), &message, number % 3 == 0).await;
            counter.fetch_add(1, Ordering::Relaxed);
            sent.push(message);
        }
        sent
    }));
    let leader = &mut processes[0];
    let killing = async {
        eventually("it is in the middle of it", async || (counter.load(Ordering::Relaxed) >= EACH).then_some(())).await;
        leader.kill().await;
        counter.load(Ordering::Relaxed)
    };
    let (sent, at_the_kill) = tokio::join!(sending, killing);
    assert!(at_the_kill < EACH * senders.len() - senders.len(), "most came later: {at_the_kill}");

    let mut told = Vec::new();
    for stream in streams {
        told.push(stream.await.unwrap());
    }
    let hashes = |told: &[Envelope]| told.iter().map(|message| message.item_hash.clone()).collect::<Vec<_>>();
    assert_eq!(hashes(&told[0]), hashes(&told[1]), "one order for all");
    for (sender, sent) in senders.iter().zip(&sent) {
        let of_sender: Vec<_> = told[0].iter().filter(|message| message.sender == *sender.address()).cloned().collect();
        assert_eq!(hashes(&of_sender), hashes(sent), "everything once, in the order in which it was sent");
    }
    processes[0].resume().await;
    let expected: BTreeMap<_, _> = sent.iter().flatten().map(|message| (message.item_hash.clone(), 1)).collect();
    for process in &processes {
        assert_eq!(listed(process).await, expected, "{}", process.address);
    }
    let leading = join_all(processes.iter().map(Process::health)).await;
    let leading = leading.iter().flatten().filter(|health| health["status"] == "ok").count();
    assert_eq!(leading, 1);
    // Scheduler and compute node go on, with what was there and with what is new.
    let more = publisher.program(&code, &runtime, json!({ "on": { "persistent": true }, "variables": { "n": "2" } }));
    runs(&node, &more.await).await;
    runs(&node, &before).await;
    let bytes = format!("{}/api/v0/storage/raw/{}", processes[0].url(), FileHash::of(PROGRAM.as_bytes()));
    assert_eq!(reqwest_client().get(bytes).send().await.unwrap().text().await.unwrap(), PROGRAM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hangs_is_replaced_and_writes_nothing_when_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = spawn_blocking(Postgres::start).await.unwrap();
    let processes = processes(folder.path(), &postgres.database(), &["one", "two"]).await;
    let [leader, follower] = &processes[..] else { unreachable!() };
    let sender = Account::generate();
    let stream = listen(follower, std::slice::from_ref(&sender), 3).await;
    insist(&leader.client(), &note(&sender, 0), true).await;
    leader.signal(Signal::STOP);
    follower.becomes("ok").await;
    for number in 1..3 {
        insist(&follower.client(), &note(&sender, number), true).await;
    }
    leader.signal(Signal::CONT);
    leader.becomes("follower").await;
    insist(&leader.client(), &note(&sender, 3), true).await;
    assert_eq!(stream.await.unwrap().len(), 3);
    let (one, two) = (listed(leader).await, listed(follower).await);
    assert_eq!(one, two);
    assert!(one.len() == 4 && one.values().all(|count| *count == 1), "{one:?}");
}
