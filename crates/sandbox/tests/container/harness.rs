//! Starts sandboxes for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aleph_sandbox::cgroup::{Cgroup, Hierarchy};
use aleph_sandbox::client::{Supervisor, clear_away, is_alive};
use aleph_sandbox::layout::SandboxDirectory;
use aleph_sandbox::logs::{LogLine, read_tail};
use aleph_sandbox::spec::{
    ClaimSpec, CodeSource, ContainerSpec, DriverSpec, End, IdleSpec, Limits, LogSpec, PrepareSpec, Request,
    SandboxState,
};
use guest::{Configure, Interface};
use lease::{LeaseConfig, LeaseTimes, clock};
use protocol::{Epoch, Isolation, ProgramId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A lease that is long enough for every test.
fn long() -> LeaseTimes {
    LeaseTimes::new(LeaseConfig { lease: Duration::from_secs(120), ..LeaseConfig::default() }).unwrap()
}

/// A lease that ends during a test.
pub(crate) fn times() -> LeaseTimes {
    LeaseTimes::default()
}

/// Something that `make` builds.
fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(name);
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is missing: run `make guest runtimes target/tools/runsc`", path.display()))
}

/// The Python image, mounted once for all tests of this process.
fn image() -> PathBuf {
    static MOUNT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let path = MOUNT.get_or_init(|| {
        let path = PathBuf::from(format!("/run/aleph-sandbox-tests/image-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let image = built("runtimes/python3.squashfs");
        let status = std::process::Command::new("mount")
            .args(["-t", "squashfs", "-o", "ro,loop"])
            .arg(image)
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        extern "C" fn unmount() {
            let _ = std::process::Command::new("umount").arg("-l").arg(MOUNT.get().unwrap()).status();
            let _ = fs::remove_dir(MOUNT.get().unwrap());
        }
        // SAFETY: registers a function without arguments.
        unsafe { libc::atexit(unmount) };
        path
    });
    path.clone()
}

/// One sandbox and what belongs to it.
pub(crate) struct Sandbox {
    folder: TempDir,
    directory: SandboxDirectory,
    supervisor: Supervisor,
    cgroup: String,
}

/// How a sandbox is before it is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Its init waits.
    Cold,
    /// An interpreter waits, too.
    Warm,
    /// As [`Start::Cold`], under gVisor.
    GvisorCold,
    /// As [`Start::Warm`], under gVisor.
    GvisorWarm,
}

impl Start {
    pub(crate) const fn isolation(self) -> Isolation {
        match self {
            Self::Cold | Self::Warm => Isolation::Container,
            Self::GvisorCold | Self::GvisorWarm => Isolation::Gvisor,
        }
    }

    const fn is_warm(self) -> bool {
        matches!(self, Self::Warm | Self::GvisorWarm)
    }

    /// The OCI runtime.
    fn runtime(self) -> PathBuf {
        match self.isolation() {
            Isolation::Container => std::env::var_os("OCI_RUNTIME").unwrap_or_else(|| "crun".into()).into(),
            Isolation::Gvisor => built("tools/runsc/usr/bin/runsc"),
        }
    }
}

impl Sandbox {
    /// Prepares one and waits until it waits.
    pub(crate) async fn start(name: &str, start: Start) -> Self {
        let mut sandbox = Self::prepare(name, start, start.runtime()).await;
        sandbox.wait_for(|state| *state == SandboxState::Prepared).await;
        sandbox
    }

    /// Prepares one with this OCI runtime.
    pub(crate) async fn prepare(name: &str, start: Start, oci_runtime: PathBuf) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{name}-{number}", std::process::id());
        let folder = tempfile::tempdir_in("/run/aleph-sandbox-tests").or_else(|_| {
            fs::create_dir_all("/run/aleph-sandbox-tests")?;
            tempfile::tempdir_in("/run/aleph-sandbox-tests")
        });
        let folder = folder.unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let directory = SandboxDirectory::new(folder.path().join("s"));
        let spec = PrepareSpec {
            name: name.clone(),
            driver: DriverSpec::Container(ContainerSpec {
                isolation: start.isolation(),
                oci_runtime,
                image: image(),
                guest: built("guest"),
                first_uid: 1_000_000 + number * 65_536,
                cgroup: format!("aleph-sandbox-tests/{name}"),
            }),
            warm: start.is_warm(),
            deadline: long().holder(clock::now()),
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_aleph-supervisor"));
        let supervisor = Supervisor::start(binary, &directory, &spec).await.unwrap();
        Self { folder, directory, supervisor, cgroup: format!("aleph-sandbox-tests/{name}") }
    }

    pub(crate) fn directory(&self) -> &SandboxDirectory {
        &self.directory
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Hierarchy::detect().unwrap().group(&self.cgroup)
    }

    /// The machine's processes that it consists of: name and user id.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let pids = self.group_file("cgroup.procs").unwrap();
        let about = |pid: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().to_owned()
            };
            (field("Name:"), field("Uid:").parse().unwrap())
        };
        pids.lines().map(about).collect()
    }

    /// The children of its supervisor that have ended, and wait for it to ask how.
    pub(crate) fn unburied(&self) -> Vec<String> {
        let supervisor = fs::read_to_string(self.directory.lock()).unwrap();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", supervisor.trim())).unwrap();
        let stat = |pid| fs::read_to_string(format!("/proc/{pid}/stat"));
        children.split_whitespace().filter_map(|pid| stat(pid).ok()).filter(|stat| stat.contains(") Z ")).collect()
    }

    /// What a file of its control group says, in whichever hierarchy it is.
    pub(crate) fn group_file(&self, file: &str) -> Option<String> {
        let roots = match Hierarchy::detect().unwrap() {
            Hierarchy::V2 { root } => vec![root],
            Hierarchy::V1 { mounts, .. } => mounts.into_iter().map(|(_, root)| root).collect(),
        };
        roots.iter().find_map(|root| fs::read_to_string(root.join(&self.cgroup).join(file)).ok())
    }

    /// Claims it; code and logs go to folders of the sandbox.
    pub(crate) async fn claim(&mut self, mut claim: ClaimSpec) {
        if let CodeSource::Directory(code) = &claim.code {
            let here = self.folder.path().join("code");
            fs::rename(code, &here).unwrap();
            claim.code = CodeSource::Directory(here);
        }
        claim.logs.directory = self.folder.path().join("logs");
        self.supervisor.claim(&self.directory, claim).await.unwrap();
    }

    pub(crate) async fn request(&mut self, request: &Request) {
        self.supervisor.request(request).await.unwrap();
    }

    /// Waits for a state. When the sandbox ends otherwise, the test fails with its log.
    async fn wait_for(&mut self, wanted: impl Fn(&SandboxState) -> bool) -> SandboxState {
        let wait = async {
            loop {
                match self.supervisor.next_report().await.unwrap() {
                    Some(report) if wanted(&report.state) => return report.state,
                    Some(report) if matches!(report.state, SandboxState::Ended(_)) => {
                        panic!("{:?}\n{}", report.state, self.complaints())
                    }
                    Some(_) => {}
                    None => panic!("the supervisor ended\n{}", self.complaints()),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the state is reached within 30 s")
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.directory.supervisor_log()).unwrap_or_default() + &format!("{:#?}", self.log())
    }

    pub(crate) async fn next_end_or_ready(&mut self) -> SandboxState {
        self.wait_for(|state| matches!(state, SandboxState::Ready | SandboxState::Ended(_))).await
    }

    pub(crate) async fn ended(&mut self) -> End {
        match self.wait_for(|state| matches!(state, SandboxState::Ended(_))).await {
            SandboxState::Ended(end) => end,
            _ => unreachable!("only ends were waited for"),
        }
    }

    /// How it ended, as its supervisor wrote it down.
    pub(crate) async fn left(&self) -> End {
        let began = std::time::Instant::now();
        loop {
            if let Some(end) = fs::read(self.directory.end()).ok().and_then(|end| serde_json::from_slice(&end).ok()) {
                return end;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "it did not end: {}", self.complaints());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn log(&self) -> Vec<LogLine> {
        read_tail(&self.folder.path().join("logs"), 1000).unwrap()
    }

    /// One request through the socket; the answer's body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut socket = tokio::net::UnixStream::connect(self.directory.http_socket()).await.unwrap();
        let path = path.replace(' ', "%20");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if !head.contains("chunked") {
            return body.to_owned();
        }
        let mut whole = String::new();
        let mut rest = body;
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            whole.push_str(&after[..size]);
            rest = &after[size + 2..];
        }
        whole
    }

    pub(crate) fn supervisor_pid(&self) -> i32 {
        fs::read_to_string(self.directory.lock()).unwrap().parse().unwrap()
    }

    pub(crate) fn signal_supervisor(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.supervisor_pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) async fn stop_and_clear(&mut self) {
        self.request(&Request::Stop { grace_ms: 100 }).await;
        assert_eq!(self.ended().await, End::Stopped);
        self.is_gone().await;
    }

    /// Clears away what is left, and checks that nothing is.
    pub(crate) async fn is_gone(&self) {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || clear_away(&directory)).await.unwrap().unwrap();
        assert!(self.cgroup().is_empty());
        assert!(!is_alive(&self.directory));
        assert!(!self.directory.path().exists());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // After a failed test; a passed one has left nothing.
        let _ = clear_away(&self.directory);
    }
}

fn claim(code: PathBuf, interface: Interface, environment: Vec<(String, String)>) -> ClaimSpec {
    let mut variables = guest::base_environment();
    variables.extend(environment);
    ClaimSpec {
        program: ProgramId::from_bytes([7; 32]),
        epoch: Some(Epoch::FIRST),
        copy: 0,
        limits: Limits { memory_mib: 128, vcpus: 1, pids: 64, scratch_mib: 32 },
        code: CodeSource::Directory(code),
        configure: Configure { interface, environment: variables },
        network: None,
        volumes: Vec::new(),
        logs: LogSpec { directory: PathBuf::new(), max_bytes: 1 << 20 },
        ready_within_ms: 20_000,
        request_limit_ms: 10_000,
        idle: IdleSpec::default(),
        copies: None,
        deadline: long().holder(clock::now()),
    }
}

fn code(file: &str, text: &str, mode: u32) -> PathBuf {
    fs::create_dir_all("/run/aleph-sandbox-tests").unwrap();
    let folder = tempfile::tempdir_in("/run/aleph-sandbox-tests").unwrap().keep();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join(file), text).unwrap();
    fs::set_permissions(folder.join(file), fs::Permissions::from_mode(mode)).unwrap();
    folder
}

/// A claim for a Python program of one file, `main.py`.
pub(crate) fn asgi(text: &str, entrypoint: &str) -> ClaimSpec {
    let (module, attribute) = entrypoint.split_once(':').unwrap();
    let interface = Interface::Asgi { module: module.to_owned(), attribute: attribute.to_owned() };
    claim(code("main.py", text, 0o644), interface, Vec::new())
}

/// A claim for an executable script.
pub(crate) fn binary(text: &str, port: u16) -> ClaimSpec {
    let interface = Interface::Binary { path: "run".to_owned(), arguments: Vec::new(), port };
    claim(code("run", text, 0o755), interface, vec![("PORT".to_owned(), port.to_string())])
}
