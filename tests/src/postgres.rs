//! A PostgreSQL server of a test's own: its own folder, its own port, and nobody else's business.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Namespace, free_ports, is_running, signal};
use rustix::process::Signal;

/// The user that the Debian package makes: PostgreSQL does not run as root.
const USER: &str = "postgres";

/// How long the server may take to start or to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    address: Ipv4Addr,
    port: u16,
    host: Option<Arc<Namespace>>,
    user: (u32, u32),
    process: Option<Child>,
}

static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// Makes a server and starts it.
    ///
    /// # Panics
    /// When the Debian package `postgresql` is not installed.
    pub fn start() -> Self {
        Self::make(&std::env::temp_dir(), Ipv4Addr::LOCALHOST, free_ports(1), None)
    }

    /// Makes a server on another host, which has this address, with its data below this folder, and starts it.
    ///
    /// # Panics
    /// When the Debian package `postgresql` is not installed.
    pub fn start_in(host: Arc<Namespace>, address: Ipv4Addr, folder: &Path) -> Self {
        Self::make(folder, address, 5432, Some(host))
    }

    fn make(folder: &Path, address: Ipv4Addr, port: u16, host: Option<Arc<Namespace>>) -> Self {
        let user = account();
        let folder =
            tempfile::Builder::new().prefix("aleph-postgres.").tempdir_in(folder).expect("a folder can be made");
        chown(folder.path(), Some(user.0), Some(user.1)).expect("tests run as root");
        let mut server = Self { folder, address, port, host, user, process: None };
        let made = server
            .command("initdb")
            .args(["--username", USER, "--auth", "trust", "--no-locale", "--encoding", "UTF8", "-D"])
            .arg(server.data())
            .stdout(Stdio::null())
            .status();
        assert!(made.expect("initdb runs").success(), "initdb failed");
        if server.host.is_some() {
            let trusted = std::fs::File::options().append(true).open(server.data().join("pg_hba.conf"));
            writeln!(trusted.expect("initdb made it"), "host all all 0.0.0.0/0 trust").expect("a line can be added");
        }
        server.resume();
        server
    }

    /// A server that all tests of this process share; it ends with the process.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| {
            // SAFETY: registers a function without arguments, which uses no thread-local data.
            unsafe { libc::atexit(end_shared) };
            Self::start()
        });
        extern "C" fn end_shared() {
            if let Some(server) = SERVER.get() {
                // Its data goes, too: it need not be written.
                server.send(Signal::QUIT);
                server.wait_until(|| !server.is_running());
                let _ = std::fs::remove_dir_all(server.folder.path());
            }
        }
        SERVER.get().expect("it was started")
    }

    /// The URL of a new and empty database.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn database(&self) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let made = self.client("createdb").arg(&name).status().expect("createdb runs");
        assert!(made.success(), "createdb failed");
        format!("postgres://{USER}@{}:{}/{name}", self.address, self.port)
    }

    /// Ends the server as a crash of its machine would.
    pub fn kill(&mut self) {
        // The server's children end by themselves once it is gone, but not at once; a crash of the machine takes all.
        let children = self.process.as_ref().map(|p| children_of(p.id())).unwrap_or_default();
        self.send(Signal::KILL);
        children.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let (address, port) = (self.address.to_string(), self.port.to_string());
        let mut command = self.command("postgres");
        command.process_group(0);
        command.arg("-D").arg(self.data()).args(["-p", &port, "-h", &address, "-k"]).arg(self.folder.path());
        // Tests run at the same time, as many as there are processors, each with a pool or two.
        command.args(["-c", "max_connections=500"]);
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        command.stderr(log.expect("a log")).stdout(Stdio::null());
        let process = match &self.host {
            Some(host) => host.run(|| command.spawn()),
            None => command.spawn(),
        };
        self.process = Some(process.expect("postgres runs"));
        self.wait_until(|| {
            self.client("pg_isready").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        });
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, how: Signal) {
        self.send(how);
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }

    /// Sends a signal to the server's first process.
    pub fn send(&self, what: Signal) {
        if let Some(process) = &self.process {
            signal(i32::try_from(process.id()).expect("process ids are small"), what);
        }
    }

    /// Its processes, the first one first.
    pub fn processes(&self) -> Vec<i32> {
        let Some(process) = &self.process else { return Vec::new() };
        let first = i32::try_from(process.id()).expect("process ids are small");
        [vec![first], children_of(process.id())].concat()
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        let pid = self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok());
        pid.is_some_and(is_running)
    }

    fn wait_until(&self, mut is_so: impl FnMut() -> bool) {
        let until = std::time::Instant::now() + PATIENCE;
        while !is_so() {
            assert!(std::time::Instant::now() < until, "PostgreSQL neither starts nor stops: see its log");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = self.command(name);
        command.args(["-h", &self.address.to_string(), "-p", &self.port.to_string(), "-U", USER]);
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(programs().join(name));
        command.uid(self.user.0).gid(self.user.1).current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its data goes, too: it need not be written.
        self.end(Signal::QUIT);
    }
}

/// Where Debian puts the server's programs: the newest version's.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is missing: `make packages` installs it")
}

/// User and group of the account that the server runs as.
fn account() -> (u32, u32) {
    let accounts = std::fs::read_to_string("/etc/passwd").expect("accounts can be read");
    let line = accounts.lines().find(|line| line.starts_with(&format!("{USER}:")));
    let mut fields = line.expect("the package makes the user").split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).expect("a number");
    (number(), number())
}

fn children_of(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
