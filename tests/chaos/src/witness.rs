//! Two witnesses outside of the sandboxes: what programs wrote into their nodes' logs, and which processes there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aleph_tests::claim_of;
use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::check::Live;
use crate::data::{Line, Said};

/// How often processes are looked at.
const EVERY: Duration = Duration::from_millis(20);

/// The time that everybody agrees on, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// What programs wrote into their logs.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// The instants at which they ran.
    pub live: Vec<Live>,
    /// What they said about their data, by epoch.
    pub data: Vec<Line>,
}

/// What programs wrote, from the logs of all nodes.
///
/// # Errors
/// When a log is there but cannot be read.
pub fn written(data_dirs: &[PathBuf], programs: &[String]) -> anyhow::Result<Written> {
    let mut written = Written::default();
    for data in data_dirs {
        for (program, id) in programs.iter().enumerate() {
            let folder = data.join("logs").join(id);
            let lines = sandbox::logs::read_tail(&folder, usize::MAX);
            let lines = lines.with_context(|| format!("cannot read the log in {}", folder.display()))?;
            written.live.extend(lines.iter().filter_map(|line| instant(program, &line.message)));
            written.data.extend(lines.iter().filter_map(|line| about_data(program, &line.message)));
        }
    }
    // An epoch has one node, so its lines are in their order already.
    written.data.sort_by_key(|line| (line.program, line.epoch));
    Ok(written)
}

/// `found EPOCH RECORDS whole`, `wrote EPOCH RECORD NANOSECONDS` or `flushed EPOCH RECORD`, as `writer.py` writes it.
fn about_data(program: usize, line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let (what, epoch, number) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let said = match what {
        "found" => {
            let broken = words.next().filter(|word| *word != "whole").map(str::to_owned);
            Said::Found { records: number, broken }
        }
        "wrote" => Said::Wrote { record: number, at: words.next()?.parse().ok()? },
        "flushed" => Said::Flushed { record: number },
        _ => return None,
    };
    Some(Line { program, epoch, said })
}

/// `alive EPOCH COPY NANOSECONDS`, as `probe.py` writes it.
fn instant(program: usize, line: &str) -> Option<Live> {
    let mut words = line.strip_prefix("alive ")?.split(' ');
    let (epoch, copy, at) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.parse().ok()?);
    Some(Live { program, epoch, copy, at })
}

/// Two sandboxes of one program that had processes at the same time.
#[derive(Debug, Clone, Serialize)]
pub struct Coexistence {
    /// Their names: program, epoch, a number.
    pub sandboxes: (String, String),
    /// When that was seen first.
    pub at: u64,
    /// How often it was seen.
    pub samples: u64,
}

/// What was seen of processes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Seen {
    /// How often was looked.
    pub samples: u64,
    /// The longest time between two looks, in nanoseconds.
    pub longest_blink: u64,
    /// How many sandboxes there were.
    pub sandboxes: usize,
    /// What must not be.
    pub coexistences: Vec<Coexistence>,
}

/// Whose a sandbox is: the program, and the epoch of a persistent one.
type Owner = (String, Option<u64>);

/// Looks at the processes of all sandboxes until it is dropped.
pub struct Sampler {
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Looks at the sandboxes of nodes with these run directories, of which control groups have their names.
    ///
    /// # Errors
    /// When no control groups are mounted.
    pub fn start(run_dirs: &[PathBuf]) -> anyhow::Result<Self> {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("aleph-node").is_dir());
        let root = root.context("there is no control group of any node")?.join("aleph-node");
        let nodes: Vec<_> =
            run_dirs.iter().filter_map(|dir| Some((dir.clone(), root.join(dir.file_name()?)))).collect();
        let (seen, ended) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (writes, ends) = (seen.clone(), ended.clone());
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(move || watch(&nodes, &writes, &ends))?;
        Ok(Self { seen, ended, thread: Some(thread) })
    }

    /// What was seen so far.
    ///
    /// # Panics
    /// When the thread that looks did.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("the thread does not panic").clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(nodes: &[(PathBuf, PathBuf)], seen: &Mutex<Seen>, ended: &AtomicBool) {
    let mut owners: BTreeMap<PathBuf, Owner> = BTreeMap::new();
    let mut pairs: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let mut names = std::collections::BTreeSet::new();
    let mut last = now();
    while !ended.load(Ordering::Relaxed) {
        let at = now();
        let running: Vec<_> = nodes.iter().flat_map(sandboxes).filter(|(_, group)| runs(group)).collect();
        for (directory, group) in &running {
            // Whose it is does not change, and may be asked for after the directory is gone.
            if !owners.contains_key(group)
                && let Some(owner) = owner_of(directory)
            {
                owners.insert(group.clone(), owner);
            }
        }
        let claimed: Vec<_> = running.iter().filter_map(|(_, group)| Some((group, owners.get(group)?))).collect();
        for (index, (one, owner)) in claimed.iter().enumerate() {
            for (other, other_owner) in &claimed[index + 1..] {
                // One look is not an instant: both have to be there after both were there.
                if owner.0 == other_owner.0 && runs(one) && runs(other) {
                    let names = (name_of(one, owner), name_of(other, other_owner));
                    pairs.entry(names).or_insert((at, 0)).1 += 1;
                }
            }
        }
        names.extend(claimed.iter().map(|(group, owner)| name_of(group, owner)));
        let mut seen = seen.lock().expect("nobody panics while reading");
        seen.samples += 1;
        seen.longest_blink = seen.longest_blink.max(at - last);
        seen.sandboxes = names.len();
        seen.coexistences =
            pairs.iter().map(|(names, &(at, samples))| Coexistence { sandboxes: names.clone(), at, samples }).collect();
        drop(seen);
        last = at;
        std::thread::sleep(EVERY);
    }
}

/// The directories of a node's sandboxes, with their control groups.
fn sandboxes((run_dir, group): &(PathBuf, PathBuf)) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| (run_dir.join(entry.file_name()), entry.path())).collect()
}

/// Whose a sandbox is, once it is somebody's: until then nothing of any program runs in it.
fn owner_of(directory: &Path) -> Option<Owner> {
    let claim = claim_of(directory)?;
    Some((claim["program"].as_str()?.to_owned(), claim["epoch"].as_u64()))
}

fn name_of(group: &Path, (program, epoch): &Owner) -> String {
    let epoch = epoch.map_or_else(|| "on demand".to_owned(), |epoch| epoch.to_string());
    let name = group.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    format!("{} {epoch} {name}", &program[..program.len().min(12)])
}

/// Whether something runs in a control group that is neither dead nor stopped.
fn runs(group: &Path) -> bool {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    processes.lines().any(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X' | 'T' | 't'))
    })
}
