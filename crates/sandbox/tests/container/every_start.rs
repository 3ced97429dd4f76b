// Included once for every way to start, by `START`: what a program can see and do is the same.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use aleph_sandbox::spec::{End, Request, SandboxState, VolumeSource, VolumeSpec};
use guest::StartFailure;
use lease::clock;
use protocol::Isolation;
use protocol::api::compute_node::LogSource;

use super::harness::{self, Sandbox, Start, asgi, binary};

const HELLO: &str = r#"
import os, sys
print("loading", flush=True)
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = eval(scope["path"][1:] or "'hello'").encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"#;

#[tokio::test]
async fn a_python_program_answers_through_the_socket() {
    let mut sandbox = Sandbox::start("hello", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    assert_eq!(sandbox.get("/").await, "hello");
    assert_eq!(sandbox.unburied(), <[String; 0]>::default(), "what made it is gone");
    sandbox.request(&Request::Stop { grace_ms: 2000 }).await;
    assert_eq!(sandbox.ended().await, End::Stopped);
    let log = sandbox.log();
    assert!(log.iter().any(|line| line.source == LogSource::Stdout && line.message == "loading"), "{log:?}");
    assert_eq!(log.last().unwrap().message, "stopped");
    sandbox.is_gone().await;
}

#[tokio::test]
async fn a_program_is_shut_in() {
    let mut sandbox = Sandbox::start("shut-in", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let ask = async |python: &str| sandbox.get(&format!("/{python}")).await;
    // Identity: the host's name and nobody else's processes, ids mapped away from the machine's.
    assert_eq!(ask("__import__('socket').gethostname()").await.len(), 52);
    assert_eq!(ask("open('/proc/1/comm').read().strip()").await, "aleph-init");
    // No capabilities, no new privileges.
    let status = ask("open('/proc/self/status').read()").await;
    for expected in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
    let privileges = "str(__import__('ctypes').CDLL(None).prctl(39,0,0,0,0))";
    assert_eq!(ask(privileges).await, "1", "no new ones");
    // Of what files can be asked, only the usual: no btrfs subvolume can be made, for which no limit would hold.
    let errno = async |request: &str| {
        let call = format!("c.CDLL(None,use_errno=True).ioctl(0,{request},0)");
        ask(&format!("(lambda c:str(({call},c.get_errno())[1]))(__import__('ctypes'))")).await
    };
    let refused = match START.isolation() {
        Isolation::Container => {
            assert_eq!(ask("open('/proc/self/uid_map').read().split()[2]").await, "65536");
            assert_ne!(ask("open('/proc/self/uid_map').read().split()[1]").await, "0");
            assert!(status.contains("Seccomp:\t2"), "a system call filter in {status}");
            libc::EPERM
        }
        Isolation::Gvisor => {
            // What it sees is another kernel's, and so it shows nothing of the machine's.
            assert_ne!(ask("open('/proc/version').read()").await, std::fs::read_to_string("/proc/version").unwrap());
            assert_eq!(ask("open('/proc/version').read().split()[2]").await, "4.4.0", "gVisor says so");
            libc::ENOTTY
        }
    };
    for subvolume in ["0x5000940e", "0x50009401", "0x50009418", "0x50009417"] {
        assert_eq!(errno(subvolume).await, refused.to_string(), "{subvolume} is not allowed");
    }
    // On the machine it is nobody's, and may nothing.
    let of_the_machine = sandbox.processes();
    assert!(!of_the_machine.is_empty());
    for (name, uid) in of_the_machine {
        assert!(uid >= 1_000_000 || name == "runsc", "{name} is of user {uid}");
    }
    assert_eq!(errno("0x5413").await, libc::ENOTTY.to_string(), "whether it is a terminal may be asked");
    // No network but loopback.
    assert_eq!(ask("','.join(i[1] for i in __import__('socket').if_nameindex())").await, "lo");
    // The image can be written over, up to a limit; the code cannot.
    assert_eq!(ask("str(open('/usr/x','w').write('y'))").await, "1");
    let refused = "(lambda o: [str(o.mkdir('/opt/code/x'))])(__import__('os'))[0]";
    assert_eq!(sandbox.get(&format!("/{refused}")).await, "Internal Server Error");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn volumes_are_where_the_program_expects_them() {
    let mut sandbox = Sandbox::start("volumes", START).await;
    let (data, inner) = (sandbox.folder().join("data"), sandbox.folder().join("inner"));
    let (packages, image) = (sandbox.folder().join("packages"), sandbox.folder().join("packages.squashfs"));
    for folder in [&data, &inner, &packages] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(data.join("before"), "kept").unwrap();
    std::fs::write(packages.join("module.py"), "answer = 42").unwrap();
    let made = std::process::Command::new("mksquashfs").args([&packages, &image]).arg("-quiet").status().unwrap();
    assert!(made.success());
    let volume = |mount: &str, source| VolumeSpec { mount: mount.into(), source };
    let mut claim = asgi(HELLO, "main:app");
    claim.volumes = vec![
        volume("/data", VolumeSource::Directory(data.clone())),
        volume("/opt/packages", VolumeSource::Squashfs(image)),
        volume("/data/inner", VolumeSource::Directory(inner.clone())),
    ];
    sandbox.claim(claim).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let ask = async |python: &str| sandbox.get(&format!("/{python}")).await;
    assert_eq!(ask("open('/data/before').read()").await, "kept");
    assert_eq!(ask("str(open('/data/after','w').write('new'))").await, "3");
    assert_eq!(ask("str(open('/data/inner/deep','w').write('new'))").await, "3");
    assert_eq!(ask("open('/opt/packages/module.py').read()").await, "answer = 42");
    assert_eq!(ask("open('/opt/packages/x','w')").await, "Internal Server Error", "an image cannot be written to");
    // On disk it belongs to root, whatever ids the sandbox had, so that the next one can read it.
    let written = std::fs::metadata(data.join("after")).unwrap();
    assert_eq!((written.uid(), written.gid(), written.len()), (0, 0, 3));
    assert!(inner.join("deep").exists() && !data.join("inner/deep").exists());
    sandbox.stop_and_clear().await;
    assert_eq!(std::fs::read(data.join("after")).unwrap(), b"new");
}

#[tokio::test]
async fn a_volume_that_has_no_place_is_said() {
    let mut sandbox = Sandbox::start("no-place", START).await;
    let data = sandbox.folder().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut claim = asgi(HELLO, "main:app");
    claim.volumes = vec![VolumeSpec { mount: "/etc/passwd/data".into(), source: VolumeSource::Directory(data) }];
    sandbox.claim(claim).await;
    let end = sandbox.ended().await;
    assert!(matches!(&end, End::SandboxError { message } if message.contains("Not a directory")), "{end:?}");
    sandbox.is_gone().await;
}

#[tokio::test]
async fn a_full_disk_is_the_programs_own() {
    let mut sandbox = Sandbox::start("disk", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let fill = "(lambda f,e:[f.write(b'x'*(1<<20)) for _ in range(10)] and str(f.tell()))(open('/tmp/a','wb',0),0)";
    assert_eq!(sandbox.get(&format!("/{fill}")).await, (10 << 20).to_string());
    let overfill = "(lambda f:[f.write(b'x'*(1<<20)) for _ in range(40)])(open('/tmp/b','wb',0))";
    assert_eq!(sandbox.get(&format!("/{overfill}")).await, "Internal Server Error");
    assert_eq!(sandbox.get("/'still+here'.replace('+','_')").await, "still_here");
    sandbox.stop_and_clear().await;
    let log = sandbox.log();
    assert!(log.iter().any(|line| line.message.contains("No space left on device")), "{log:?}");
}

#[tokio::test]
async fn code_that_cannot_be_started_says_why() {
    for (code, entrypoint, kind, message) in [
        (HELLO, "other:app", StartFailure::Entrypoint, "the module 'other' is not in the code"),
        (HELLO, "main:other", StartFailure::Entrypoint, "has no attribute 'other'"),
        ("app = 5", "main:app", StartFailure::Entrypoint, "is no ASGI application"),
        ("import nothing_like_this", "main:app", StartFailure::Startup, "No module named 'nothing_like_this'"),
        ("raise ValueError('so it is')", "main:app", StartFailure::Startup, "ValueError: so it is"),
        ("def app(:", "main:app", StartFailure::Startup, "SyntaxError"),
    ] {
        let mut sandbox = Sandbox::start("bad", START).await;
        sandbox.claim(asgi(code, entrypoint)).await;
        match sandbox.ended().await {
            End::StartFailed { kind: actual, message: text } => {
                assert_eq!(actual, kind, "{text}");
                assert!(text.contains(message), "{text}");
            }
            other => panic!("{entrypoint}: {other:?}"),
        }
        sandbox.is_gone().await;
    }
}

#[tokio::test]
async fn a_failed_lifespan_says_why() {
    let code = "from fastapi import FastAPI\n\
        from contextlib import asynccontextmanager\n\
        @asynccontextmanager\n\
        async def lifespan(app):\n    raise RuntimeError('the database is not there')\n    yield\n\
        app = FastAPI(lifespan=lifespan)\n";
    let mut sandbox = Sandbox::start("lifespan", START).await;
    sandbox.claim(asgi(code, "main:app")).await;
    match sandbox.ended().await {
        End::StartFailed { kind: StartFailure::Startup, message } => {
            assert!(message.contains("the database is not there"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    sandbox.is_gone().await;
}

#[tokio::test]
async fn binaries_are_reached_on_their_port() {
    let script = "#!/usr/bin/python3\nimport http.server, os\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200); self.end_headers(); self.wfile.write(os.environ['PORT'].encode())\n\
        http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n";
    let mut sandbox = Sandbox::start("binary", START).await;
    sandbox.claim(binary(script, 9123)).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    assert_eq!(sandbox.get("/").await, "9123");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn exits_are_told_apart() {
    let mut sandbox = Sandbox::start("exit", START).await;
    sandbox.claim(binary("#!/bin/sh\necho bye; exit 7\n", 8080)).await;
    assert_eq!(sandbox.ended().await, End::Exited { code: Some(7), signal: None });
    assert!(sandbox.log().iter().any(|line| line.message == "bye"));

    let mut sandbox = Sandbox::start("exit", START).await;
    sandbox.claim(binary("#!/nowhere/at/all\n", 8080)).await;
    assert!(matches!(sandbox.ended().await, End::StartFailed { kind: StartFailure::Entrypoint, .. }));

    let mut sandbox = Sandbox::start("exit", START).await;
    let mut claim = binary("#!/bin/sh\nsleep 100\n", 8080);
    claim.ready_within_ms = 300;
    sandbox.claim(claim).await;
    assert_eq!(sandbox.ended().await, End::NeverReady);
    sandbox.is_gone().await;
}

#[tokio::test]
async fn using_too_much_memory_is_called_by_its_name() {
    let mut sandbox = Sandbox::start("memory", START).await;
    sandbox.claim(binary("#!/usr/bin/python3\nx = bytearray(300 << 20)\n", 8080)).await;
    assert_eq!(sandbox.ended().await, End::OutOfMemory);
    sandbox.is_gone().await;
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_limit_and_dies_with_the_sandbox() {
    let bomb = "#!/usr/bin/python3\nimport os, time\nn = 0\n\
        try:\n    while True:\n        if os.fork() == 0:\n            time.sleep(1000)\n        n += 1\n\
        except OSError as e:\n    print('stopped at', n, e, flush=True)\n\
        import http.server\n\
        http.server.HTTPServer(('127.0.0.1', 8080), http.server.BaseHTTPRequestHandler).serve_forever()\n";
    let mut sandbox = Sandbox::start("bomb", START).await;
    sandbox.claim(binary(bomb, 8080)).await;
    if START.isolation() == Isolation::Gvisor {
        // Its kernel knows no limit of processes. It needs memory and processes of the machine for each of them, and ends when
        // it is given no more: the program with it, and nothing else.
        let end = sandbox.ended().await;
        assert!(matches!(end, End::OutOfMemory | End::Exited { code: None, signal: None }), "{end:?}");
        return sandbox.is_gone().await;
    }
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    sandbox.stop_and_clear().await;
    let log = sandbox.log();
    let line = log.iter().find(|line| line.message.starts_with("stopped at")).unwrap();
    let forks: u32 = line.message.split(' ').nth(2).unwrap().parse().unwrap();
    assert!((50..100).contains(&forks), "{forks}");
}

#[tokio::test]
async fn code_that_is_no_image_is_refused() {
    let mut sandbox = Sandbox::start("bad-image", START).await;
    let file = sandbox.folder().join("code.squashfs");
    std::fs::write(&file, b"hsqs but nothing more").unwrap();
    let mut claim = asgi(HELLO, "main:app");
    claim.code = aleph_sandbox::spec::CodeSource::Squashfs(file);
    sandbox.claim(claim).await;
    assert!(matches!(sandbox.ended().await, End::BadCode { .. }));
    sandbox.is_gone().await;
}

#[tokio::test]
async fn without_renewal_it_ends_before_its_lease() {
    let mut sandbox = Sandbox::start("lease", START).await;
    let mut claim = asgi(HELLO, "main:app");
    claim.deadline = harness::times().holder(clock::now());
    let over = claim.deadline.fuse;
    sandbox.claim(claim).await;
    assert_eq!(sandbox.ended().await, End::LeaseEnded);
    assert!(clock::now() < over);
    sandbox.is_gone().await;
}

#[tokio::test]
async fn the_sandbox_dies_with_its_supervisor() {
    let mut sandbox = Sandbox::start("orphan", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    assert!(!sandbox.cgroup().is_empty());
    sandbox.signal_supervisor(rustix::process::Signal::KILL);
    let killed = Instant::now();
    while !sandbox.cgroup().is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(2), "the sandbox outlived its supervisor");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sandbox.is_gone().await;
}

#[tokio::test]
async fn a_stopped_supervisor_burns_its_fuse() {
    let mut sandbox = Sandbox::start("fuse", START).await;
    let mut claim = asgi(HELLO, "main:app");
    claim.deadline = harness::times().holder(clock::now());
    let fuse = claim.deadline.fuse;
    sandbox.claim(claim).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    sandbox.signal_supervisor(rustix::process::Signal::STOP);
    while !sandbox.cgroup().is_empty() {
        assert!(clock::now() < fuse + Duration::from_millis(500), "the sandbox outlived its lease");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(clock::now() >= fuse, "only the fuse can have ended it");
    sandbox.is_gone().await;
}

#[tokio::test]
async fn an_agent_that_comes_later_finds_it() {
    let mut sandbox = Sandbox::start("adopt", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let directory = sandbox.directory().clone();
    let mut other = aleph_sandbox::client::Supervisor::connect(&directory).await.unwrap();
    let report = other.next_report().await.unwrap().unwrap();
    assert_eq!(report.state, SandboxState::Ready);
    let (_, claim) = aleph_sandbox::client::read_specs(&directory).unwrap();
    assert_eq!(report.program, Some(claim.unwrap().program));
    sandbox.stop_and_clear().await;
}

/// Asks the guest API, and then does what a program must not do with its socket.
const CALLER: &str = r#"
import errno, json, os, socket

def attempt(what):
    try:
        return str(what())
    except OSError as e:
        return errno.errorcode[e.errno]

def ask():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/tmp/socat-socket")
        return s.recv(100).decode()

def bind(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    at = "/opt/aleph-api/"
    said = {"answer": attempt(ask)}
    if scope["path"] == "/harm":
        said |= {
            "remove": attempt(lambda: os.remove(at + "sock")), "rename": attempt(lambda: os.rename(at + "sock", at + "x")),
            "make": attempt(lambda: open(at + "x", "w")), "bind": attempt(lambda: bind(at + "x")),
            "mode": attempt(lambda: os.chmod(at + "sock", 0)), "owner": attempt(lambda: os.chown(at + "sock", 0, 0)),
            "directory": attempt(lambda: os.chmod(at, 0o777)), "link": attempt(lambda: os.link(at + "sock", "/tmp/x")),
        }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
"#;

#[tokio::test]
async fn the_guest_apis_socket_can_be_replaced_by_the_agent_only() {
    let mut sandbox = Sandbox::start("api", START).await;
    let directory = sandbox.directory().clone();
    let listen = |answer: &'static [u8]| {
        // As the agent does it.
        let (socket, new) = (directory.api_socket(), directory.api().join("new"));
        let listener = std::os::unix::net::UnixListener::bind(&new).unwrap();
        std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        std::fs::rename(&new, socket).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = std::io::Write::write_all(&mut stream, answer);
            }
        });
    };
    listen(b"the first agent");
    sandbox.claim(asgi(CALLER, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let ask = async |path: &str| serde_json::from_str::<serde_json::Value>(&sandbox.get(path).await).unwrap();
    assert_eq!(ask("/").await["answer"], "the first agent");
    listen(b"the second agent");
    let said = ask("/harm").await;
    assert_eq!(said["answer"], "the second agent");
    for harm in ["remove", "rename", "make", "bind", "mode", "owner", "directory"] {
        let refusals: &[&str] = match START.isolation() {
            Isolation::Container => &["EROFS"],
            // It looks at permissions first.
            Isolation::Gvisor => &["EROFS", "EACCES", "EPERM"],
        };
        assert!(refusals.contains(&said[harm].as_str().unwrap()), "{harm} in {said}");
    }
    assert!(["EXDEV", "EPERM"].contains(&said["link"].as_str().unwrap()), "{said}");
    assert_eq!(ask("/").await["answer"], "the second agent");
    sandbox.stop_and_clear().await;
}

#[tokio::test]
async fn a_frozen_sandbox_can_be_ended() {
    let mut sandbox = Sandbox::start("frozen", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    let frozen = sandbox.cgroup().freeze(Duration::from_secs(5)).unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), sandbox.get("/")).await;
    assert!(waits.is_err(), "it answered {waits:?} while it was frozen");
    drop(frozen);
    assert_eq!(sandbox.get("/").await, "hello");
    // Stopped, its lease over, its supervisor dead: frozen or not, nothing of it is left.
    std::mem::forget(sandbox.cgroup().freeze(Duration::from_secs(5)).unwrap());
    sandbox.signal_supervisor(rustix::process::Signal::KILL);
    sandbox.is_gone().await;
    let mut sandbox = Sandbox::start("frozen", START).await;
    sandbox.claim(asgi(HELLO, "main:app")).await;
    assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
    std::mem::forget(sandbox.cgroup().freeze(Duration::from_secs(5)).unwrap());
    sandbox.stop_and_clear().await;
}

/// Says when it is told to end.
const FAREWELL: &str = r#"
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("told to end", flush=True)
                return
"#;

#[tokio::test]
async fn a_frozen_copy_on_demand_is_woken_to_end() {
    // Its agent ends it, or is dead and its time is over.
    for is_told in [true, false] {
        let mut sandbox = Sandbox::start("farewell", START).await;
        let mut claim = asgi(FAREWELL, "main:app");
        claim.epoch = None;
        if !is_told {
            claim.deadline = harness::times().holder(clock::now());
        }
        let over = claim.deadline.fuse;
        sandbox.claim(claim).await;
        assert_eq!(sandbox.next_end_or_ready().await, SandboxState::Ready);
        std::mem::forget(sandbox.cgroup().freeze(Duration::from_secs(5)).unwrap());
        if is_told {
            sandbox.request(&Request::Stop { grace_ms: 5000 }).await;
        }
        let end = sandbox.ended().await;
        assert_eq!(end, if is_told { End::Stopped } else { End::LeaseEnded });
        assert!(clock::now() < over);
        let log = sandbox.log();
        assert!(log.iter().any(|line| line.message == "told to end"), "{log:?}");
        sandbox.is_gone().await;
    }
}
