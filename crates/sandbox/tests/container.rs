//! Real sandboxes: real supervisor, real OCI runtimes, real image. Needs root, `crun` and `make guest runtimes target/tools/runsc`.

#[path = "container/harness.rs"]
mod harness;

use aleph_sandbox::spec::{ClaimSpec, CodeSource, End, SandboxState};

use harness::{Sandbox, Start, asgi, binary};

/// A sandbox is made for the program.
mod cold {
    const START: Start = Start::Cold;
    include!("container/every_start.rs");
}

/// A sandbox with an interpreter waited for it.
mod warm {
    const START: Start = Start::Warm;
    include!("container/every_start.rs");
}

/// As `cold`, with a kernel of its own. One in which an interpreter waited is not tried with everything again, as each takes
/// seconds to be made, but must be the same to its program, as with containers.
mod gvisor {
    const START: Start = Start::GvisorCold;
    include!("container/every_start.rs");
}

/// A program that answers with the value of a Python expression.
const TELL: &str = r#"
import json, os, sys
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    value = eval(scope["query_string"].decode().replace("%20", " "))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})
"#;

async fn tell(sandbox: &Sandbox, expression: &str) -> serde_json::Value {
    let body = sandbox.get(&format!("/?{expression}")).await;
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{expression}: {e}: {body}"))
}

async fn running(name: &str, start: Start, claim: ClaimSpec) -> Sandbox {
    let mut sandbox = Sandbox::start(name, start).await;
    sandbox.claim(claim).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    sandbox
}

/// What a program can ask its interpreter and the kernel, but for what it has imported.
const EVERYTHING: [&str; 14] = [
    "dict(os.environ)",
    "os.getcwd()",
    "sys.argv",
    "sys.path",
    "list(sys.flags)",
    "[os.getuid(), os.getgid(), os.getpgid(0) == os.getpid(), os.nice(0), os.getpriority(0, 0)]",
    "sorted((fd, os.readlink('/proc/self/fd/' + fd).split(':')[0]) for fd in os.listdir('/proc/self/fd') \
        if os.path.lexists('/proc/self/fd/' + fd))",
    "sorted(line.split(' ')[4] + line.split(' - ')[1].split(' ')[0] for line in open('/proc/self/mountinfo'))",
    "[line for line in open('/proc/self/status') if line[:3] in ('Cap', 'NoN', 'Sec', 'Thr', 'Sig')]",
    "open('/proc/self/limits').read()",
    "sorted(os.listdir('/tmp'))",
    "[sorted(os.listdir('/opt/code')), sorted(os.listdir('/opt/packages'))]",
    "__import__('socket').gethostname()",
    "[thread.name for thread in __import__('threading').enumerate()]",
];

#[tokio::test]
async fn a_program_cannot_tell_whether_a_sandbox_waited_for_it() {
    it_cannot_tell(Start::Cold, Start::Warm).await;
}

#[tokio::test]
async fn under_gvisor_it_cannot_tell_either() {
    it_cannot_tell(Start::GvisorCold, Start::GvisorWarm).await;
}

async fn it_cannot_tell(is_made: Start, waits: Start) {
    let claim = || {
        let mut claim = asgi(TELL, "main:app");
        claim.configure.environment.push(("GREETING".to_owned(), "hello".to_owned()));
        claim
    };
    let mut cold = running("made", is_made, claim()).await;
    let mut warm = running("waited", waits, claim()).await;
    for what in EVERYTHING {
        assert_eq!(tell(&cold, what).await, tell(&warm, what).await, "{what}");
    }
    assert_eq!(tell(&warm, "os.environ['GREETING']").await, "hello");
    // Else this compares two that were made.
    assert_eq!(tell(&cold, "'fastapi' in sys.modules").await, false);
    assert_eq!(tell(&warm, "'fastapi' in sys.modules").await, true);
    let limits =
        ["memory.limit_in_bytes", "memory.max", "cpu.shares", "cpu.weight", "cpu.cfs_quota_us", "cpu.max", "pids.max"];
    let limits_of = |sandbox: &Sandbox| limits.map(|file| sandbox.group_file(file));
    assert_eq!(limits_of(&cold), limits_of(&warm));
    assert!(limits_of(&warm).iter().flatten().count() >= 4, "{:?}", limits_of(&warm));
    for sandbox in [&mut cold, &mut warm] {
        sandbox.stop_and_clear().await;
    }
}

#[tokio::test]
async fn programs_of_sandboxes_that_waited_share_nothing_that_is_random() {
    they_share_nothing_that_is_random(Start::Warm).await;
}

#[tokio::test]
async fn under_gvisor_they_share_nothing_that_is_random() {
    they_share_nothing_that_is_random(Start::GvisorWarm).await;
}

async fn they_share_nothing_that_is_random(start: Start) {
    let mut one = running("one", start, asgi(TELL, "main:app")).await;
    let mut other = running("other", start, asgi(TELL, "main:app")).await;
    for chance in [
        "__import__('random').random()",
        "__import__('secrets').token_hex()",
        "str(__import__('uuid').uuid1())",
        "str(__import__('uuid').uuid4())",
        "hash('text')",
        "__import__('tempfile').mktemp()",
    ] {
        assert_ne!(tell(&one, chance).await, tell(&other, chance).await, "{chance}");
    }
    for sandbox in [&mut one, &mut other] {
        sandbox.stop_and_clear().await;
    }
}

#[tokio::test]
async fn what_a_program_brings_is_what_it_gets_though_another_was_imported_in_advance() {
    what_it_brings_is_what_it_gets(Start::Warm).await;
}

#[tokio::test]
async fn under_gvisor_what_a_program_brings_is_what_it_gets() {
    what_it_brings_is_what_it_gets(Start::GvisorWarm).await;
}

async fn what_it_brings_is_what_it_gets(start: Start) {
    let claim = asgi(&format!("import pydantic\n{TELL}"), "main:app");
    let CodeSource::Directory(code) = &claim.code else { panic!("it is a directory") };
    std::fs::create_dir(code.join("pydantic")).unwrap();
    std::fs::write(code.join("pydantic/__init__.py"), "VERSION = 'its own'").unwrap();
    let mut sandbox = running("brings", start, claim).await;
    assert_eq!(tell(&sandbox, "pydantic.VERSION").await, "its own");
    assert_eq!(tell(&sandbox, "'fastapi' in sys.modules").await, false, "it began anew");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn variables_that_count_at_the_start_of_an_interpreter_count() {
    let mut claim = asgi(TELL, "main:app");
    claim.configure.environment.push(("PYTHONHASHSEED".to_owned(), "0".to_owned()));
    let mut sandbox = running("seed", Start::Warm, claim).await;
    assert_eq!(tell(&sandbox, "sys.flags.hash_randomization").await, 0);
    assert_eq!(tell(&sandbox, "os.environ['PYTHONHASHSEED']").await, "0");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn a_binary_gets_a_sandbox_in_which_an_interpreter_waited_to_itself() {
    let script = "#!/bin/sh\nexec python3 -m http.server --bind 127.0.0.1 $PORT";
    let mut sandbox = Sandbox::start("binary", Start::Warm).await;
    sandbox.claim(binary(script, 8080)).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let processes = sandbox.group_file("cgroup.procs").unwrap();
    assert_eq!(processes.lines().count(), 2, "its init and itself: {processes}");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn an_oci_runtime_that_fails_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let fails = folder.path().join("runtime");
    std::fs::write(&fails, "#!/bin/sh\necho no luck >&2; exit 1\n").unwrap();
    std::fs::set_permissions(&fails, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for start in [Start::Cold, Start::GvisorCold] {
        for (runtime, says) in [(fails.clone(), "no luck"), ("/nowhere/runtime".into(), "No such file or directory")] {
            let sandbox = Sandbox::prepare("fails", start, runtime).await;
            // It may have ended before it could be asked: what counts is what it left.
            let end = sandbox.left().await;
            assert!(matches!(&end, End::SandboxError { message } if message.contains(says)), "{start:?}: {end:?}");
            sandbox.is_gone().await;
        }
    }
}
