//! A network of real processes, made by `aleph-node up`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Finished, binary, eventually};

/// How a network is made.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// How many compute nodes.
    pub nodes: u16,
    /// More arguments of `aleph-node up`.
    pub arguments: Vec<String>,
    /// A shell script that is run before, with the network's folder in `$ROOT`. What it mounts only the network sees, and
    /// vanishes with it.
    pub prepare: Option<String>,
}

impl UpOptions {
    /// This many compute nodes, and these arguments.
    pub fn new(nodes: u16, arguments: &[&str]) -> Self {
        Self { nodes, arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), prepare: None }
    }
}

impl Default for UpOptions {
    fn default() -> Self {
        Self::new(3, &[])
    }
}

/// One compute node of a network.
#[derive(Debug, Clone)]
pub struct ComputeNode {
    /// Its id.
    pub id: String,
    /// Its base URL.
    pub url: String,
    /// Its process.
    pub pid: i32,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
}

/// A running network. It ends with this.
pub struct Network {
    /// Base URL of the message node.
    pub message_node_url: String,
    /// The message node's process.
    pub message_node_pid: i32,
    /// Base URL of the scheduler.
    pub scheduler_url: String,
    /// The scheduler's process.
    pub scheduler_pid: i32,
    /// Base URL of the gateway.
    pub gateway_url: String,
    /// The gateway's process.
    pub gateway_pid: i32,
    /// The compute nodes.
    pub compute_nodes: Vec<ComputeNode>,
    /// The key file of the first account.
    pub account_key: PathBuf,
    up: Option<Child>,
    port: u16,
    options: UpOptions,
    root: PathBuf,
    _folder: Option<TempDir>,
}

/// A number of free ports in a row, different for every call in every process of tests.
///
/// # Panics
/// When there are none.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different places, all of them below the ports that the kernel gives
    // to outgoing connections (32768 and up): those come and go.
    let base = 10_000 + u16::try_from(std::process::id() % 180).expect("it is below 180") * 100;
    for _ in 0..1000 {
        let first = base + NEXT.fetch_add(count, Ordering::Relaxed) % 4000;
        if (first..first + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}

impl Network {
    /// Starts a network in a new folder and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start; its logs are printed.
    pub async fn up(options: UpOptions) -> Self {
        let folder = TempDir::with_prefix("aleph-test-").expect("a temporary directory can be made");
        let port = free_ports(3 + options.nodes);
        let root = folder.path().to_owned();
        Self::start(root, Some(folder), port, options).await
    }

    async fn start(root: PathBuf, folder: Option<TempDir>, port: u16, options: UpOptions) -> Self {
        let mut up = Self::command(&root, port, &options).spawn().expect("aleph-node starts");
        let mut lines = BufReader::new(up.stdout.take().expect("it is piped")).lines();
        let line = lines.next_line().await.expect("its output can be read");
        let Some(line) = line else { panic!("the network did not start:\n{}", logs(&root)) };
        let said: Value = serde_json::from_str(&line).expect("it prints one line of JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let pid = |value: &Value| i32::try_from(value["pid"].as_i64().expect("a process id")).expect("a process id");
        let nodes = said["compute_nodes"].as_array().expect("a list of nodes");
        Self {
            message_node_url: text(&said["message_node"]["url"]),
            message_node_pid: pid(&said["message_node"]),
            scheduler_url: text(&said["scheduler"]["url"]),
            scheduler_pid: pid(&said["scheduler"]),
            gateway_url: text(&said["gateway"]),
            gateway_pid: i32::try_from(said["gateway_pid"].as_i64().expect("a process id")).expect("a process id"),
            compute_nodes: nodes
                .iter()
                .map(|node| ComputeNode {
                    id: text(&node["id"]),
                    url: text(&node["url"]),
                    pid: pid(node),
                    data_dir: text(&node["data_dir"]).into(),
                })
                .collect(),
            account_key: text(&said["account"]["private_key_file"]).into(),
            up: Some(up),
            port,
            options,
            root,
            _folder: folder,
        }
    }

    /// The command that starts a network in this folder.
    pub fn command(root: &Path, port: u16, options: &UpOptions) -> Command {
        let mut command = match &options.prepare {
            None => Command::new(binary("aleph-node")),
            Some(script) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
                command.arg(binary("aleph-node")).env("ROOT", root);
                command
            }
        };
        command
            .args(["up", "--json", "--nodes", &options.nodes.to_string(), "--port", &port.to_string(), "--data-dir"])
            .arg(root)
            .args(&options.arguments)
            // Most tests have no data.
            .args(if options.arguments.iter().any(|argument| argument == "--pool-mib") {
                [].as_slice()
            } else {
                &["--pool-mib", "0"]
            })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// The process of `aleph-node up`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> i32 {
        let up = self.up.as_ref().and_then(Child::id).expect("it runs");
        i32::try_from(up).expect("a process id")
    }

    /// Where the network keeps everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The port of its message node.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The client's folder of the first account.
    ///
    /// # Panics
    /// Never: the key is in a folder of a folder.
    pub fn account_home(&self) -> PathBuf {
        self.account_key.parent().and_then(Path::parent).expect("the key is two folders deep").to_owned()
    }

    /// Ends the network as Ctrl-C does, and waits until it has ended. Says its exit code.
    ///
    /// # Panics
    /// When it does not end within 90 s.
    pub async fn interrupt(&mut self) -> Option<i32> {
        let mut up = self.up.take().expect("it runs");
        signal(i32::try_from(up.id().expect("it runs")).expect("a process id"), Signal::INT);
        let ended = tokio::time::timeout(Duration::from_secs(90), up.wait()).await;
        ended.expect("the network ends when it is interrupted").expect("it can be waited for").code()
    }

    /// Starts the network again in its folder, after [`Network::interrupt`].
    pub async fn up_again(mut self) -> Self {
        let (root, folder, port, options) = (self.root.clone(), self._folder.take(), self.port, self.options.clone());
        drop(self);
        Self::start(root, folder, port, options).await
    }

    /// The compute node with this base URL or id.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, url_or_id: &str) -> &ComputeNode {
        let is = |node: &&ComputeNode| node.url == url_or_id || node.id == url_or_id;
        self.compute_nodes.iter().find(is).unwrap_or_else(|| panic!("no compute node {url_or_id}"))
    }

    /// Which nodes run a program, by what the nodes themselves say. A node that does not answer runs nothing that counts.
    pub async fn nodes_with(&self, program: &str) -> Vec<String> {
        let mut running = Vec::new();
        for node in &self.compute_nodes {
            let url = format!("{}/about/executions/list", node.url);
            let Ok(response) = reqwest_client().get(url).send().await else { continue };
            let Ok(list) = response.json::<Value>().await else { continue };
            if list.get(program).is_some() {
                running.push(node.url.clone());
            }
        }
        running
    }

    /// Waits until no node runs a program any more.
    pub async fn until_gone(&self, program: &str) {
        eventually("the program is gone from all nodes", async || {
            self.nodes_with(program).await.is_empty().then_some(())
        })
        .await;
    }

    /// What the message node answers at this path, in JSON, whatever the status.
    ///
    /// # Panics
    /// When it does not answer, or not in JSON.
    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.message_node_url);
        let answer = reqwest_client().get(&url).send().await.unwrap_or_else(|e| panic!("{url}: {e}"));
        answer.json().await.unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    /// What the message node knows of a message: `status`, `message`, and so on.
    pub async fn message(&self, item_hash: &str) -> Value {
        self.get(&format!("/api/v0/messages/{item_hash}")).await
    }

    /// Waits until a message has this status.
    pub async fn until_status(&self, item_hash: &str, status: &str) {
        eventually(&format!("{item_hash} is {status}"), async || {
            (self.message(item_hash).await["status"] == status).then_some(())
        })
        .await;
    }

    /// A program's URL at the gateway, by path.
    pub fn program_url(&self, program: &str) -> String {
        format!("http://127.0.0.1:{}/vm/{program}", self.port + 2)
    }

    /// What the logs of all parts say last, for failed tests.
    pub fn logs(&self) -> String {
        logs(&self.root)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let Some(up) = self.up.take() else { return };
        let Some(pid) = up.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        signal(pid, Signal::INT);
        // The process is waited for here and not by tokio, which a drop cannot use.
        for _ in 0..900 {
            if !is_running(pid) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // What a node that was killed could not clear away itself.
        for node in &self.compute_nodes {
            let _ = fs::remove_dir_all(node.run_dir());
        }
    }
}

/// What a sandbox was claimed for, if it was.
pub fn claim_of(sandbox: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(sandbox.join("claim.json")).ok()?).ok()
}

fn supervisor_of(sandbox: &Path) -> Option<i32> {
    fs::read_to_string(sandbox.join("lock")).ok()?.parse().ok()
}

impl ComputeNode {
    /// Where its sandboxes are.
    pub fn run_dir(&self) -> PathBuf {
        let name = protocol::FileHash::of(self.data_dir.as_os_str().as_encoded_bytes()).to_string();
        Path::new("/run/aleph-node").join(&name[..12])
    }

    /// The directories of all its sandboxes.
    fn sandboxes(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(self.run_dir()).into_iter().flatten().flatten().map(|entry| entry.path())
    }

    /// The directory of a program's sandbox.
    pub fn sandbox_of(&self, program: &str) -> Option<PathBuf> {
        self.sandboxes().find(|sandbox| claim_of(sandbox).is_some_and(|claim| claim["program"] == program))
    }

    /// Whether a program's sandbox stands still, as its control group says; `None` when there is no such sandbox.
    pub fn is_frozen(&self, program: &str) -> Option<bool> {
        let v1 = self.group_file(program, "freezer", "freezer.state").map(|state| state.trim() == "FROZEN");
        v1.or_else(|| Some(self.group_file(program, "", "cgroup.events")?.lines().any(|line| line == "frozen 1")))
    }

    /// The command lines of the processes that stand still when a program's sandbox is frozen.
    ///
    /// # Panics
    /// When there is no such sandbox.
    pub fn processes_that_freeze(&self, program: &str) -> Vec<String> {
        let v1 = self.group_file(program, "freezer", "cgroup.procs");
        let ids = v1.or_else(|| self.group_file(program, "", "cgroup.procs")).expect("the sandbox is there");
        let command = |id| fs::read_to_string(format!("/proc/{id}/cmdline"));
        ids.lines().filter_map(|id| command(id).ok()).collect()
    }

    /// How long a program's sandbox has used processors, as its control group says.
    ///
    /// # Panics
    /// When there is no such sandbox.
    pub fn processor_time(&self, program: &str) -> String {
        let v1 = self.group_file(program, "cpuacct", "cpuacct.usage");
        v1.or_else(|| self.group_file(program, "", "cpu.stat")).expect("the sandbox is there")
    }

    /// What a file of a sandbox's control group says, in the hierarchy of this controller.
    fn group_file(&self, program: &str, controller: &str, file: &str) -> Option<String> {
        let spec: Value = serde_json::from_slice(&fs::read(self.sandbox_of(program)?.join("spec.json")).ok()?).ok()?;
        let group = spec["driver"]["cgroup"].as_str()?;
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(controller).join(group).join(file)).ok()
    }

    /// What the node counts under this name, with labels; 0 when it has not yet.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn counted(&self, name: &str) -> u64 {
        let answer = reqwest_client().get(format!("{}/metrics", self.url)).send().await.expect("the node answers");
        let text = answer.text().await.expect("the answer is text");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }

    /// The directories of the sandboxes that are a program's; others wait for one.
    pub fn claimed_sandboxes(&self) -> Vec<PathBuf> {
        self.sandboxes().filter(|sandbox| claim_of(sandbox).is_some()).collect()
    }

    /// The processes of the supervisors of its programs.
    pub fn supervisors(&self) -> Vec<i32> {
        self.claimed_sandboxes().iter().filter_map(|sandbox| supervisor_of(sandbox)).collect()
    }

    /// The processes of all its supervisors, also of those whose sandboxes wait for a program.
    pub fn all_supervisors(&self) -> Vec<i32> {
        self.sandboxes().filter_map(|sandbox| supervisor_of(&sandbox)).collect()
    }

    /// What `aleph-node volumes` with these arguments says about it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn volumes(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(binary("aleph-node"));
        command.arg("volumes").args(arguments).arg("--data-dir").arg(&self.data_dir);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("aleph-node starts");
        Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same with `--json`, which must succeed.
    ///
    /// # Panics
    /// When it fails or its answer is no JSON.
    pub async fn volumes_json(&self, arguments: &[&str]) -> Value {
        let finished = self.volumes(&[arguments, &["--json"]].concat()).await;
        assert_eq!(finished.code, 0, "aleph-node volumes {arguments:?}: {}", finished.stderr);
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|e| panic!("aleph-node volumes {arguments:?}: {e}: {}", finished.stdout))
    }

    /// The same, which must fail. What it complained about.
    ///
    /// # Panics
    /// When it succeeds.
    pub async fn volumes_error(&self, arguments: &[&str]) -> String {
        let finished = self.volumes(arguments).await;
        assert_eq!(finished.code, 1, "aleph-node volumes {arguments:?}: {} {}", finished.stdout, finished.stderr);
        assert_eq!(finished.stdout, "", "what failed prints no result");
        finished.stderr
    }

    /// Sends a signal to the node itself; its supervisors are processes of their own.
    pub fn signal(&self, signal_: Signal) {
        signal(self.pid, signal_);
    }

    /// Kills the node and everything of it, as when its machine dies.
    pub fn kill_everything(&self) {
        self.signal(Signal::KILL);
        for supervisor in self.all_supervisors() {
            signal(supervisor, Signal::KILL);
        }
    }
}

/// Sends a signal. A process that has ended already is fine.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process runs. One that has ended but was not waited for by its parent does not: an orphan's new parent takes
/// its time.
pub fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// An HTTP client that follows no redirects and waits long.
///
/// # Panics
/// When it cannot be made.
pub fn reqwest_client() -> reqwest::Client {
    let builder = protocol::client::http_client_builder().redirect(reqwest::redirect::Policy::none());
    builder.build().expect("the TLS library starts")
}

fn logs(root: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(root.join("logs")).into_iter().flatten().flatten() {
        let log = fs::read_to_string(entry.path()).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(40).collect();
        text += &format!("── {}\n", entry.file_name().to_string_lossy());
        last.into_iter().rev().for_each(|line| text += &format!("{line}\n"));
    }
    text
}
