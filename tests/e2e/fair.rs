//! Who waits for whom: slow downloads, imports that never end and owners who ask for much delay nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aleph_tests::{
    Network, Publisher, Role, SlowFiles, UpOptions, User, arguments_of, eventually, is_running, reqwest_client, signal,
};
use futures_util::future::join_all;
use protocol::FileHash;
use rustix::process::Signal;
use serde_json::json;

/// A program that answers with its number, after so many seconds of import.
fn code(number: usize, import_s: f64) -> String {
    format!(
        "import time\ntime.sleep({import_s})\nasync def app(scope, receive, send):\n\
        \x20   assert scope['type'] == 'http'\n\
        \x20   await send({{'type': 'http.response.start', 'status': 200, 'headers': []}})\n\
        \x20   await send({{'type': 'http.response.body', 'body': b'{number}'}})\n"
    )
}

/// A network of one node, where nothing but that node could be in the way.
async fn network() -> Network {
    Network::up(UpOptions::new(1, &["--balance", "1000000"])).await
}

/// Another account, at the same message node.
async fn somebody_else(network: &Network) -> (Publisher, User) {
    let user = User::with(network, 1_000_000).await;
    let key = protocol::Account::from_file(&user.aleph.home().join("private-keys/ethereum.key")).unwrap();
    (Publisher::new(key, &network.message_node_url), user)
}

async fn publish(publisher: &Publisher, runtime: &str, text: &str) -> String {
    let code = publisher.file(text.to_owned()).await;
    publisher.program(&code, runtime, json!({})).await
}

async fn get(network: &Network, program: &str) -> (u16, String) {
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// More than one owner's downloads may be at a time.
const SLOW: usize = 10;

#[tokio::test]
async fn files_that_do_not_come_delay_nobody_else() {
    let network = network().await;
    let (owner, (other, _user)) = (Publisher::of(&network), somebody_else(&network).await);
    let runtime = network.runtime("python3").await;
    let node = &network.compute_nodes[0];
    let texts: Vec<_> = (0..SLOW).map(|number| code(number, 0.0)).collect();
    let names = texts.iter().map(|text| FileHash::of(text.as_bytes()).to_string()).collect();

    let mut arguments = arguments_of(node.pid);
    signal(node.pid, Signal::TERM);
    eventually("the node ends", async || (!is_running(node.pid)).then_some(())).await;
    let slow = SlowFiles::start(network.message_node_url.replace("http://", ""), names).await;
    let at = arguments.iter().position(|argument| argument == "--message-node").unwrap();
    arguments[at + 1].clone_from(&slow.url);
    let _node = Role::ready(&arguments, &network.root().join("logs/slow-node.log")).await;

    let cached = publish(&owner, &runtime, &code(100, 0.0)).await;
    eventually("the node answers", async || (get(&network, &cached).await == (200, "100".to_owned())).then_some(()))
        .await;
    let mut programs = Vec::new();
    for text in &texts {
        programs.push(publish(&owner, &runtime, text).await);
    }
    let new = publish(&other, &runtime, &code(200, 0.0)).await;
    let waiting = tokio::spawn(join_all(programs.iter().map(|program| {
        let request = reqwest_client().get(network.program_url(program));
        async move { request.send().await.map(|answer| answer.status().as_u16()) }
    })));
    eventually("as many files are asked for as one owner's may be", async || (slow.held() == 8).then_some(())).await;

    // Somebody else's program, whose file has to be downloaded, and one of the same owner that has its files.
    assert_eq!(get(&network, &new).await, (200, "200".to_owned()));
    assert_eq!(get(&network, &cached).await, (200, "100".to_owned()));
    assert_eq!(slow.held(), 8, "the others wait, still");
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn imports_that_never_end_delay_nobody_else() {
    let network = network().await;
    let (owner, (other, _user)) = (Publisher::of(&network), somebody_else(&network).await);
    let runtime = network.runtime("python3").await;
    // More than there is room for.
    let mut hanging = Vec::new();
    for number in 0..12 {
        hanging.push(publish(&owner, &runtime, &code(number, 1e6)).await);
    }
    let well = publish(&other, &runtime, &code(200, 0.0)).await;
    let answers = tokio::spawn(join_all(hanging.iter().map(|program| {
        let request = reqwest_client().get(network.program_url(program));
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    })));
    let node = &network.compute_nodes[0];
    eventually("they take all room", async || (node.claimed_sandboxes().len() >= 2).then_some(())).await;
    let began = Instant::now();
    assert_eq!(get(&network, &well).await, (200, "200".to_owned()));
    let took = began.elapsed();
    // One of them would have kept its room for a minute.
    assert!(took < Duration::from_secs(18), "{took:?}");
    assert!(!answers.is_finished());
    answers.abort();
}

#[tokio::test]
async fn an_owner_who_asks_for_much_waits_for_himself() {
    const MANY: usize = 12;
    let network = network().await;
    let (owner, (other, _user)) = (Publisher::of(&network), somebody_else(&network).await);
    let runtime = network.runtime("python3").await;
    let mut many = Vec::new();
    for number in 0..MANY {
        many.push(publish(&owner, &runtime, &code(number, 0.5)).await);
    }
    let one = publish(&other, &runtime, &code(200, 0.5)).await;
    let done = AtomicUsize::new(0);
    let all = join_all(many.iter().map(async |program| {
        let (status, text) = get(&network, program).await;
        assert_eq!(status, 200, "{text}");
        done.fetch_add(1, Ordering::SeqCst)
    }));
    let alone = async {
        eventually("they are at it", async || (done.load(Ordering::SeqCst) > 0).then_some(())).await;
        let before = done.load(Ordering::SeqCst);
        let (status, text) = get(&network, &one).await;
        assert_eq!(status, 200, "{text}");
        done.load(Ordering::SeqCst) - before
    };
    let (_, before_it) = tokio::join!(all, alone);
    // Two have room at a time: those who had it, and those whose turn it was.
    assert!(before_it <= 5, "{before_it} of {MANY} came before it");
}
