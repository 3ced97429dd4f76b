//! Programs: the tutorial with its prompts, and a program's whole life with options.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use aleph_tests::{Network, Publisher, User, eventually, noise, repository, reqwest_client};
use protocol::alias::PUBLIC_RUNTIME;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinHandle;

use crate::shared::network;

/// The only program of a user, as the network has its message.
async fn only_program(user: &User) -> Value {
    let listed = user.aleph.json(&["program", "list"]).await;
    let programs = listed.as_array().unwrap();
    assert_eq!(programs.len(), 1, "{listed}");
    let mut known = network().await.message(programs[0]["item_hash"].as_str().unwrap()).await;
    known["message"].take()
}

fn hash_of(message: &Value) -> String {
    message["item_hash"].as_str().unwrap().to_owned()
}

async fn answer(program: &str) -> (u16, String) {
    let answer = reqwest_client().get(network().await.program_url(program)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn the_tutorial_with_its_prompts_needs_no_option() {
    let network = network().await;
    let user = User::with(network, 2000).await;
    fs::create_dir(user.path("src")).unwrap();
    fs::copy(repository("examples/fastapi/src/main.py"), user.path("src/main.py")).unwrap();
    let upload = ["program", "upload", "--persistent", "./src/", "main:app"];
    // The tier, the name, the runtime that the client names by default, no volume, no variable.
    let typed = "1\ndemo\n\nn\nn\n";
    let uploaded = user.python.run_typing(&upload, typed).await;
    assert_eq!(uploaded.code, 0, "{} {}", uploaded.stdout, uploaded.stderr);
    let message = only_program(&user).await;
    let (program, content) = (hash_of(&message), &message["content"]);
    assert!(uploaded.stdout.contains(&program), "{}", uploaded.stdout);
    assert_eq!((&content["metadata"]["name"], &content["on"]["persistent"]), (&"demo".into(), &true.into()));
    assert_eq!(content["runtime"]["ref"], PUBLIC_RUNTIME);
    assert_eq!(answer(&program).await, (200, r#"{"message":"Hello World"}"#.to_owned()));
    assert_eq!(network.nodes_with(&program).await.len(), 1);

    // The account cannot pay for a second one, and one that was not made updatable stays what it is.
    let again = user.python.run_typing(&upload, typed).await;
    assert_eq!(again.code, 1, "{} {}", again.stdout, again.stderr);
    assert!(again.stdout.contains("required 2000, available 0"), "{}", again.stdout);
    let unpersisted = user.python.succeed(&["program", "unpersist", &program]).await;
    assert!(unpersisted.contains("not updatable"), "{unpersisted}");
    assert_eq!(hash_of(&only_program(&user).await), program);

    user.python.succeed(&["program", "delete", &program]).await;
    network.until_gone(&program).await;
    network.until_status(content["code"]["ref"].as_str().unwrap(), "forgotten").await;
    assert_eq!(answer(&program).await.0, 410);
    let listed = user.python.run(&["program", "list"]).await;
    assert!(listed.code == 1 && listed.stdout.contains("No program found"), "{}", listed.stdout);
}

/// Says what it was given, and prints which version it is.
fn reporter(version: &str) -> String {
    format!(
        "import json, os\n\
         print('version {version} runs')\n\
         async def app(scope, receive, send):\n\
         \x20   assert scope['type'] == 'http'\n\
         \x20   seen = ['{version}', os.environ['GREETING'], os.path.ismount('/opt/scratch'), open('/opt/words/word').read()]\n\
         \x20   await send({{'type': 'http.response.start', 'status': 200, 'headers': []}})\n\
         \x20   await send({{'type': 'http.response.body', 'body': json.dumps(seen).encode()}})\n"
    )
}

/// What it says.
fn report(version: &str) -> (u16, String) {
    (200, format!(r#"["{version}", "hello", true, "word"]"#))
}

/// Publishes a volume with one file, `word`. Says its message.
async fn words(user: &User) -> String {
    fs::create_dir(user.path("words")).unwrap();
    fs::write(user.path("words/word"), "word").unwrap();
    let image = user.path("words.squashfs");
    let made = Command::new("mksquashfs").arg(user.path("words")).arg(&image).arg("-quiet").output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Publisher::of(network().await).file(fs::read(image).unwrap()).await
}

/// Uploads a persistent program with everything that options can say.
async fn uploaded(user: &User) -> Value {
    fs::create_dir(user.path("program")).unwrap();
    fs::write(user.path("program/main.py"), reporter("one")).unwrap();
    let (runtime, words) = (network().await.runtime("python3").await, words(user).await);
    let words = format!("mount=/opt/words,ref={words}");
    let upload = ["program", "upload", "program", "main:app", "--persistent", "--updatable", "--name", "reporter"];
    let resources = ["--vcpus", "1", "--memory", "256", "--timeout-seconds", "20", "--runtime", &runtime];
    let volumes = ["--ephemeral-volume", "mount=/opt/scratch,size_mib=8", "--immutable-volume", &words];
    let variables = ["--env-vars", "GREETING=hello,OTHER=x"];
    user.python.succeed(&[&upload[..], &resources, &volumes, &variables].concat()).await;
    let message = only_program(user).await;
    let content = &message["content"];
    let asked = json!({ "vcpus": 1, "memory": 256, "seconds": 20 });
    assert_eq!((&content["resources"], &content["allow_amend"]), (&asked, &true.into()));
    assert_eq!(content["variables"], json!({ "GREETING": "hello", "OTHER": "x" }));
    message
}

/// What was seen to run at one moment: each program, on how many nodes, and whether as a persistent one.
type Moment = BTreeMap<String, (usize, bool)>;

/// How often is looked at what runs: nothing here starts or ends in less.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at what all nodes run, all the time.
struct Watcher {
    stop: oneshot::Sender<()>,
    moments: JoinHandle<Vec<Moment>>,
}

impl Watcher {
    fn start(network: &'static Network) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let moments = tokio::spawn(async move {
            let (http, mut moments) = (reqwest_client(), Vec::new());
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                let moment = moment(network, &http).await;
                if moments.last() != Some(&moment) {
                    moments.push(moment);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            moments
        });
        Self { stop, moments }
    }

    async fn stop(self) -> Vec<Moment> {
        let _ = self.stop.send(());
        self.moments.await.unwrap()
    }
}

async fn moment(network: &Network, http: &reqwest::Client) -> Moment {
    let mut moment = Moment::new();
    for node in &network.compute_nodes {
        let url = format!("{}/about/executions/list", node.url);
        let running: Value = http.get(url).send().await.unwrap().json().await.unwrap();
        for (program, about) in running.as_object().unwrap() {
            let copies = moment.entry(program.clone()).or_default();
            *copies = (copies.0 + 1, copies.1 || about["vm_type"] == "persistent_program");
        }
    }
    moment
}

#[tokio::test]
async fn a_program_is_uploaded_listed_updated_unpersisted_persisted_and_deleted() {
    let network = network().await;
    let user = User::with(network, 10_000).await;
    let message = uploaded(&user).await;
    let first = hash_of(&message);
    assert_eq!(answer(&first).await, report("one"));
    let found = user.aleph.find(&first).await;
    let node = found["node_url"].as_str().unwrap();
    assert_eq!(network.nodes_with(&first).await, [node]);
    let listed = user.python.succeed(&["program", "list"]).await;
    assert!(listed.contains(&first) && listed.contains("reporter") && listed.contains("2000"), "{listed}");
    let logs = user.python.succeed(&["program", "logs", &first, "--domain", node]).await;
    assert!(logs.contains("version one runs"), "{logs}");

    fs::write(user.path("program/main.py"), reporter("two")).unwrap();
    user.python.succeed(&["program", "update", &first, "program"]).await;
    eventually("the new code answers", async || (answer(&first).await == report("two")).then_some(())).await;
    assert_eq!(user.aleph.find(&first).await["epoch"], 1, "the same assignment");

    let watcher = Watcher::start(network);
    user.python.succeed(&["program", "unpersist", &first]).await;
    let second = successor(&user, &message, false).await;
    assert_eq!(answer(&first).await.0, 410);
    assert_eq!(answer(&second).await, report("two"));
    let on_demand = only_program(&user).await;
    user.python.succeed(&["program", "persist", &second]).await;
    let third = successor(&user, &on_demand, true).await;
    assert_eq!(answer(&third).await, report("two"));
    assert_eq!(network.nodes_with(&third).await.len(), 1);
    let moments = watcher.stop().await;
    exactly_one(&moments, [&first, &second, &third]);

    user.python.succeed(&["program", "delete", &third, "--reason", "over"]).await;
    network.until_gone(&third).await;
    network.until_status(message["content"]["code"]["ref"].as_str().unwrap(), "forgotten").await;
    let history = user.aleph.json(&["program", "history", &third, "--verify"]).await;
    assert_eq!((&history["verified"]["assignments"], &history["verified"]["is_open"]), (&1.into(), &false.into()));
}

/// What replaced a program, once it alone is left: a new message, the same but for what it replaces and whether it is
/// persistent.
async fn successor(user: &User, old: &Value, persistent: bool) -> String {
    let (network, gone) = (network().await, hash_of(old));
    network.until_status(&gone, "forgotten").await;
    network.until_gone(&gone).await;
    let message = only_program(user).await;
    let mut expected = old["content"].clone();
    (expected["replaces"], expected["on"]["persistent"]) = (gone.into(), persistent.into());
    assert_eq!(message["content"], expected);
    hash_of(&message)
}

/// Each program had one copy at most at each moment, and all of them together one persistent copy.
fn exactly_one(moments: &[Moment], programs: [&String; 3]) {
    let mut kinds = Vec::new();
    for moment in moments {
        let running: Vec<_> = programs.iter().filter_map(|program| Some((*program, moment.get(*program)?))).collect();
        assert!(running.iter().all(|(_, (copies, _))| *copies == 1), "{moment:?}");
        assert!(running.iter().filter(|(_, (_, persistent))| *persistent).count() <= 1, "{moment:?}");
        kinds.extend(running.iter().map(|(program, (_, persistent))| (program.as_str(), *persistent)));
    }
    let [first, second, third] = programs.map(String::as_str);
    for kind in [(first, true), (second, false), (third, true)] {
        assert!(kinds.contains(&kind), "{kind:?} was seen to run in {moments:?}");
    }
    assert!(!kinds.contains(&(first, false)) && !kinds.contains(&(second, true)) && !kinds.contains(&(third, false)));
}

#[tokio::test]
async fn a_program_whose_code_is_large_is_uploaded_by_its_cid_and_runs() {
    let network = network().await;
    let user = User::with(network, 10_000).await;
    let folder = user.path("program");
    fs::create_dir(&folder).unwrap();
    let source = "async def app(scope, receive, send):\n\
        \x20   assert scope['type'] == 'http'\n\
        \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
        \x20   await send({'type': 'http.response.body', 'body': open('word', 'rb').read()})\n";
    fs::write(folder.join("main.py"), source).unwrap();
    fs::write(folder.join("word"), "large").unwrap();
    fs::write(folder.join("noise"), noise(5 << 20)).unwrap();
    let options = ["--name", "large", "--vcpus", "1", "--memory", "128", "--skip-volume", "--skip-env-var"];
    let runtime = ["--runtime", PUBLIC_RUNTIME];
    user.python.succeed(&[&["program", "create", "program", "main:app"], &options[..], &runtime].concat()).await;
    let message = only_program(&user).await;
    let code = message["content"]["code"]["ref"].as_str().unwrap();
    assert_eq!(network.message(code).await["message"]["content"]["item_type"], "ipfs");
    assert_eq!(answer(&hash_of(&message)).await, (200, "large".to_owned()));
}
