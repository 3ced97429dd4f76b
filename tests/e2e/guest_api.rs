//! The guest API: what programs learn of the node that they run on, who they are taken for, and what they cannot do to it.

use aleph_tests::{Aleph, Network, Role, UpOptions, arguments_of, eventually, folder_with, reqwest_client};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::shared;

/// Asks the guest API what it is asked, as docs/guest-api.md shows it, or tries to harm it.
const CALLER: &str = r#"
import errno, http.client, json, os, socket

class GuestApi(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["ALEPH_API_UNIX_SOCKET"])

def ask(method, path, headers={}):
    api = GuestApi("localhost", timeout=310)
    api.request(method, path, headers=headers)
    answer = api.getresponse()
    return [answer.status, json.load(answer)]

def attempt(what):
    try:
        return str(what())
    except OSError as e:
        return errno.errorcode[e.errno]

def harm():
    at = os.path.realpath(os.environ["ALEPH_API_UNIX_SOCKET"])
    other = os.path.dirname(at) + "/other"
    return [attempt(lambda: os.remove(at)), attempt(lambda: os.rename(at, other)), attempt(lambda: os.symlink("/x", other)),
            attempt(lambda: open(other, "wb")), attempt(lambda: os.chmod(at, 0))]

def impostor():
    return ask("GET", "/properties", {"Host": "0" * 64, "X-Program": "0" * 64, "X-Epoch": "99"})

def surroundings():
    return {name: os.environ[name] for name in os.environ if name.startswith("ALEPH_")}

# Before it answers anybody.
at_start = ask("GET", "/properties")

async def app(scope, receive, send):
    assert scope["type"] == "http"
    local = {"/at-start": lambda: at_start, "/harm": harm, "/impostor": impostor, "/environment": surroundings}
    method, query = scope["method"], scope["query_string"].decode()
    path = scope["path"] + ("?" + query if query else "")
    said = local[path]() if path in local else ask(method, path)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
"#;

async fn ask(network: &Network, program: &str, method: &str, path: &str) -> Value {
    let url = format!("{}{path}", network.program_url(program));
    let answer = reqwest_client().request(method.parse().unwrap(), url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// The code of a refusal with this status, which also says something to people.
fn refusal(said: &Value, status: u16) -> &str {
    assert_eq!(said[0], status, "{said}");
    assert!(said[1]["message"].as_str().is_some_and(|message| message.len() > 20), "{said}");
    said[1]["error"].as_str().unwrap()
}

#[tokio::test]
async fn programs_learn_who_they_are_and_cannot_be_others() {
    let (network, aleph) = (shared::network().await, shared::aleph().await);
    let folder = folder_with("main.py", CALLER);
    let one = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let two = aleph.upload(folder.path(), "main:app", &["--persistent", "--env", "TWO=1"]).await;
    let on_demand = aleph.upload(folder.path(), "main:app", &[]).await;
    for program in [&one, &two] {
        let found = aleph.find(program).await;
        let node = network.node(found["node_url"].as_str().unwrap());
        let expected = json!([200, { "item_hash": program, "persistent": true, "fence": 1, "node_id": node.id }]);
        assert_eq!(ask(network, program, "GET", "/properties").await, expected);
        assert_eq!(ask(network, program, "GET", "/impostor").await, expected, "what a request says is not believed");
        assert_eq!(ask(network, program, "GET", "/at-start").await[1]["item_hash"], **program);
        assert_eq!(ask(network, program, "GET", "/fence").await, json!([200, { "epoch": 1 }]));
        let environment = ask(network, program, "GET", "/environment").await;
        assert_eq!(environment["ALEPH_API_UNIX_SOCKET"], "/tmp/socat-socket");
        assert_eq!(
            (&environment["ALEPH_API_HOST"], &environment["ALEPH_EPOCH"]),
            (&"http://localhost".into(), &"1".into())
        );
        // It has no volumes that could be flushed.
        assert_eq!(refusal(&ask(network, program, "POST", "/volumes/flush").await, 409), "no_volumes");
    }
    let said = ask(network, &on_demand, "GET", "/properties").await;
    assert_eq!((&said[1]["item_hash"], &said[1]["persistent"]), (&json!(on_demand), &json!(false)));
    assert_eq!(said[1]["fence"], Value::Null);
    assert_eq!(refusal(&ask(network, &on_demand, "GET", "/fence").await, 409), "on_demand");
    assert_eq!(refusal(&ask(network, &on_demand, "POST", "/volumes/flush").await, 409), "on_demand");
    assert_eq!(refusal(&ask(network, &one, "POST", "/volumes/flush?timeout=301").await, 400), "bad_timeout");
    let said = ask(network, &one, "POST", "/sign").await;
    assert_eq!(refusal(&said, 404), "not_found");
    assert!(said[1]["message"].as_str().unwrap().contains("GET /fence"), "it says what there is: {said}");

    let refused = json!(["EROFS", "EROFS", "EROFS", "EROFS", "EROFS"]);
    assert_eq!(ask(network, &one, "GET", "/harm").await, refused);
    assert_eq!(ask(network, &one, "GET", "/fence").await[0], 200);
    for program in [&one, &two, &on_demand] {
        aleph.json(&["program", "delete", program, "--yes"]).await;
        network.until_gone(program).await;
    }
}

#[tokio::test]
async fn the_next_agent_answers_those_that_it_finds() {
    let network = Network::up(UpOptions::new(1, &["--lease", "10s", "--heartbeat", "1s", "--pool-mib", "512"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", CALLER);
    let volume = ["--persistent", "--persistent-volume", "name=data,mount=/data,size_mib=50"];
    let program = aleph.upload(folder.path(), "main:app", &volume).await;
    let before = ask(&network, &program, "GET", "/properties").await;
    // There is no other node that could have what it wrote.
    assert_eq!(refusal(&ask(&network, &program, "POST", "/volumes/flush").await, 503), "no_standby");

    let node = &network.compute_nodes[0];
    let (arguments, supervisors) = (arguments_of(node.pid), node.supervisors());
    node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&node.url).send().await.err()).await;
    let agent = Role::ready(&arguments, &network.root().join("logs/restarted.log")).await;
    assert_eq!(ask(&network, &program, "GET", "/at-start").await, before, "the same process answers");
    assert_eq!(node.supervisors(), supervisors);
    let after = ask(&network, &program, "GET", "/properties").await;
    assert_eq!((&after[1]["item_hash"], &after[1]["fence"]), (&before[1]["item_hash"], &before[1]["fence"]));
    assert_eq!(refusal(&ask(&network, &program, "POST", "/volumes/flush").await, 503), "no_standby");
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert!(!node.run_dir().exists(), "nothing is left");
}
