//! Code that is one file, as it is: other clients publish such programs, ours does not.

use aleph_tests::{Publisher, folder_with, reqwest_client};
use serde_json::json;

use crate::shared::{aleph, network};

const MODULE: &str = "import os\n\
    async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   body = ' '.join([__name__, *sorted(os.listdir('/opt/code'))]).encode()\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': body})\n";

const SERVER: &str = "#!/usr/bin/python3\n\
    import http.server, os, sys\n\
    class H(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       text = ' '.join(sys.argv).encode()\n\
    \x20       self.send_response(200); self.send_header('content-length', str(len(text))); self.end_headers()\n\
    \x20       self.wfile.write(text)\n\
    \x20   protocol_version = 'HTTP/1.1'\n\
    http.server.ThreadingHTTPServer(('127.0.0.1', 8080), H).serve_forever()\n";

async fn answer(program: &str) -> (u16, String) {
    let answer = reqwest_client().get(network().await.program_url(program)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_single_file_is_the_module_that_the_entrypoint_names() {
    let publisher = Publisher::of(network().await);
    let (code, runtime) = (publisher.file(MODULE).await, network().await.runtime("python3").await);
    // The last one is how the first clients of the network wrote it: an attribute alone.
    for (entrypoint, interface, expected) in [
        ("main:app", json!(null), "main main.py"),
        ("deep.module:app", json!("asgi"), "deep.module deep"),
        ("app", json!("asgi"), "main main.py"),
    ] {
        let mut changes = json!({ "code": { "entrypoint": entrypoint } });
        if interface.is_string() {
            changes["code"]["interface"] = interface;
        }
        let program = publisher.program(&code, &runtime, changes).await;
        assert_eq!(answer(&program).await, (200, expected.to_owned()), "{entrypoint}");
    }
}

#[tokio::test]
async fn a_single_file_is_the_binary_itself_with_its_arguments() {
    let publisher = Publisher::of(network().await);
    let (code, runtime) = (publisher.file(SERVER).await, network().await.runtime("python3").await);
    let changes = json!({ "code": { "entrypoint": "server", "args": ["--one", "two words"] } });
    let program = publisher.program(&code, &runtime, changes).await;
    assert_eq!(answer(&program).await, (200, "/opt/code/server --one two words".to_owned()));

    // A compiled one, in an image with nothing else.
    let binary = std::fs::read(aleph_tests::repository("target/examples/static-server/static-server")).unwrap();
    let (code, runtime) = (publisher.file(binary).await, network().await.runtime("minimal").await);
    let program = publisher.program(&code, &runtime, json!({ "code": { "entrypoint": "static-server" } })).await;
    let (status, text) = answer(&program).await;
    assert!(status == 200 && text.contains("rust"), "{status} {text}");
}

#[tokio::test]
async fn an_entrypoint_that_leads_out_of_the_code_is_refused_by_name() {
    let publisher = Publisher::of(network().await);
    let (code, runtime) = (publisher.file(SERVER).await, network().await.runtime("python3").await);
    let changes = json!({ "code": { "entrypoint": "../../../tmp/server" }, "on": { "persistent": true } });
    let program = publisher.program(&code, &runtime, changes).await;
    let aleph = aleph().await;
    let found = aleph_tests::eventually("it is refused", async || {
        let found = aleph.find(&program).await;
        (found["state"] == "failing").then_some(found)
    })
    .await;
    assert_eq!(found["failure"]["kind"], "bad_code");
    assert!(found["failure"]["message"].as_str().unwrap().contains("inside the code"), "{found}");
    aleph.json(&["program", "delete", &program, "--yes"]).await;
    network().await.until_gone(&program).await;
}

#[tokio::test]
async fn the_client_says_that_it_does_not_replace_such_code() {
    let publisher = Publisher::of(network().await);
    let (code, runtime) = (publisher.file(MODULE).await, network().await.runtime("python3").await);
    let program = publisher.program(&code, &runtime, json!({ "code": { "use_latest": true } })).await;
    let folder = folder_with("main.py", MODULE);
    let error = aleph().await.error(&["program", "update", &program, folder.path().to_str().unwrap()]).await;
    assert!(error["message"].as_str().unwrap().contains("plain file"), "{error}");
}
