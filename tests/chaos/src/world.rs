//! The network: every part a process on a host of its own, with a disk of its own.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aleph_tests::{Aleph, ComputeNode, Postgres, folder_with, signal};
use protocol::ProgramId;
use protocol::api::scheduler::ProgramState;
use protocol::client::Scheduler;
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::hosts::{Hosts, Place, SCHEDULERS};
use crate::load;
use crate::start::{GATEWAY_PORT, NODE_PORT, SCHEDULER_PORT};

/// The network. What it made outside of its namespaces is removed by [`crate::remains::Remains`].
pub(crate) struct World<'a> {
    pub(crate) hosts: &'a Hosts,
    pub(crate) postgres: Postgres,
    pub(crate) message_node: Daemon,
    pub(crate) schedulers: Vec<Daemon>,
    pub(crate) gateway: Daemon,
    pub(crate) nodes: Vec<Daemon>,
    /// First those without data.
    pub(crate) programs: Vec<ProgramId>,
    pub(crate) writers: Range<usize>,
    pub(crate) aleph: Aleph,
    pub(crate) root: &'a Path,
    /// The longest that a program took from its upload to its first answer.
    pub(crate) start: Duration,
}

/// Where a host keeps everything.
pub(crate) fn disk(root: &Path, place: Place) -> PathBuf {
    root.join(match place {
        Place::Client => "client".to_owned(),
        Place::MessageNode => "message-node".to_owned(),
        Place::Postgres => "postgres".to_owned(),
        Place::Gateway => "gateway".to_owned(),
        Place::Scheduler(number) => format!("scheduler-{number}"),
        Place::Node(number) => format!("node-{number}"),
    })
}

/// What the processes of a compute node are known by.
pub(crate) fn compute_node(root: &Path, number: usize) -> ComputeNode {
    let place = Place::Node(number);
    ComputeNode { id: String::new(), url: place.url(NODE_PORT), pid: 0, data_dir: disk(root, place) }
}

/// Whether the standby of a program that runs on this node is connected and has a copy.
async fn is_copied(http: &reqwest::Client, node: &str, program: &ProgramId) -> bool {
    let Ok(metrics) = http.get(format!("{node}/metrics")).send().await else { return false };
    let text = metrics.text().await.unwrap_or_default();
    let has = |line: &str| text.lines().any(|other| other.starts_with(line));
    has(&format!("aleph_replication_connected{{program=\"{program}\"}} 1"))
        && has(&format!("aleph_replication_lag_seconds{{program=\"{program}\"}}"))
}

impl World<'_> {
    /// Uploads programs and waits until they run.
    ///
    /// # Errors
    /// When one has no id.
    pub(crate) async fn upload(&mut self, programs: usize, writers: usize) -> anyhow::Result<()> {
        aleph_tests::eventually("all nodes are connected", async || {
            let healthy = self.leader().await?.1.health().await.ok()?.nodes_healthy;
            (healthy as usize == self.nodes.len()).then_some(())
        })
        .await;
        let probe = folder_with("main.py", include_str!("probe.py"));
        for _ in 0..programs {
            self.upload_one(probe.path(), &[]).await?;
        }
        let writer = folder_with("main.py", include_str!("writer.py"));
        self.writers = programs..programs + writers;
        for _ in 0..writers {
            let volume = |name: &str| format!("name={name},mount=/{name},size_mib=64");
            let (records, rows) = (volume("records"), volume("rows"));
            let volumes = ["--persistent-volume", &records, "--persistent-volume", &rows];
            self.upload_one(writer.path(), &volumes).await?;
        }
        Ok(())
    }

    async fn upload_one(&mut self, folder: &Path, volumes: &[&str]) -> anyhow::Result<()> {
        let name = format!("program-{}", self.programs.len());
        let options = ["--persistent", "--interface", "asgi", "--name", &name, "--timeout-seconds", "10"];
        let uploaded = Instant::now();
        let program = self.aleph.upload(folder, "main:app", &[&options, volumes].concat()).await;
        self.start = self.start.max(uploaded.elapsed());
        self.programs.push(program.parse()?);
        Ok(())
    }

    /// The scheduler that leads, if one does.
    pub(crate) async fn leader(&self) -> Option<(usize, Scheduler)> {
        for number in 0..SCHEDULERS {
            let scheduler = Scheduler::new(Place::Scheduler(number).url(SCHEDULER_PORT));
            let asked = tokio::time::timeout(Duration::from_secs(2), scheduler.health()).await;
            if asked.is_ok_and(|health| health.is_ok_and(|health| health.status != "follower")) {
                return Some((number, scheduler));
            }
        }
        None
    }

    /// The URL that clients use for a program.
    pub(crate) fn url(&self, program: usize) -> String {
        format!("{}/vm/{}", Place::Gateway.url(GATEWAY_PORT), self.programs[program])
    }

    /// The number of the node that a program is assigned to.
    pub(crate) async fn node_of(&self, program: usize) -> Option<usize> {
        let record = self.leader().await?.1.vm(&self.programs[program]).await.ok()??;
        let url = record.node_url?;
        (0..self.nodes.len()).find(|&number| Place::Node(number).url(NODE_PORT) == url)
    }

    /// Has the scheduler move a program. Says the number of the node that it is to move to, if one is known.
    pub(crate) async fn order_move(&self, program: usize) -> Option<usize> {
        let id = self.programs[program];
        let ordered = self.aleph.run(&["program", "move", &id.to_string(), "--no-wait"]).await;
        if ordered.code != 0 {
            eprintln!("chaos: program {program} is not moved: {}", ordered.stderr);
        }
        let (_, scheduler) = self.leader().await?;
        let record = scheduler.vm(&id).await.ok()??;
        let to = record.moving.and_then(|moving| moving.to).or_else(|| record.data?.standby)?;
        let url = scheduler.node(&to).await.ok()??.address;
        (0..self.nodes.len()).find(|&number| Place::Node(number).url(NODE_PORT) == url)
    }

    /// The processes of a node's supervisors.
    pub(crate) fn supervisors(&self, node: usize) -> Vec<i32> {
        compute_node(self.root, node).all_supervisors()
    }

    /// What is not as it should be, if anything.
    pub(crate) async fn ailment(&self) -> Option<String> {
        let Some((_, scheduler)) = self.leader().await else { return Some("no scheduler leads".to_owned()) };
        let Ok(health) = scheduler.health().await else { return Some("the leader does not answer".to_owned()) };
        if health.status != "ok" {
            return Some(format!("the leader is {}", health.status));
        }
        if health.nodes_healthy as usize != self.nodes.len() {
            return Some(format!("{} of {} nodes are healthy", health.nodes_healthy, self.nodes.len()));
        }
        let http = aleph_tests::reqwest_client();
        for (number, id) in self.programs.iter().enumerate() {
            let record = match scheduler.vm(id).await {
                Ok(Some(record)) if record.state == ProgramState::Ready => record,
                Ok(Some(record)) => {
                    let (state, failure) = (record.state.as_str(), record.failure.map(|failure| failure.message));
                    return Some(format!("program {number} is {state}: {:?} {failure:?}", record.reason));
                }
                other => return Some(format!("program {number} is not known: {other:?}")),
            };
            let url = self.url(number);
            let asked = load::ask(&http, number, &url);
            match tokio::time::timeout(Duration::from_secs(5), asked).await {
                Ok(Ok(live)) if record.epoch.is_some_and(|epoch| epoch.get() == live.epoch) => {
                    let node = record.node_url.unwrap_or_default();
                    if self.writers.contains(&number) && !is_copied(&http, &node, id).await {
                        return Some(format!("nobody has a copy of the data of program {number}"));
                    }
                }
                Ok(Ok(live)) => return Some(format!("program {number}: epoch {} answers", live.epoch)),
                Ok(Err(why)) => return Some(format!("program {number} does not answer: {why}")),
                Err(_) => return Some(format!("program {number} does not answer within 5 s")),
            }
        }
        None
    }

    /// Starts what does not run, and says what that was.
    pub(crate) fn start_missing(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.postgres.is_running() {
            self.postgres.kill();
            self.postgres.resume();
            missing.push("PostgreSQL".to_owned());
        }
        let fixed = [("message node", &mut self.message_node), ("gateway", &mut self.gateway)];
        let numbered = self.schedulers.iter_mut().map(|daemon| ("scheduler", daemon));
        let nodes = self.nodes.iter_mut().map(|daemon| ("agent", daemon));
        for (name, daemon) in fixed.into_iter().chain(numbered).chain(nodes) {
            if daemon.start() {
                missing.push(name.to_owned());
            }
        }
        missing
    }

    /// Ends everything as a power cut does.
    pub(crate) async fn end(mut self) {
        let supervisors: Vec<_> = (0..self.nodes.len()).flat_map(|node| self.supervisors(node)).collect();
        let daemons =
            self.nodes.iter_mut().chain(&mut self.schedulers).chain([&mut self.gateway, &mut self.message_node]);
        for daemon in daemons {
            daemon.kill().await;
        }
        supervisors.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        self.postgres.kill();
    }
}
