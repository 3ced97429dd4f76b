//! One fault after the other, and what the witness says to each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aleph_tests::eventually;
use anyhow::Context;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::check::{Asked, Gap, Live, longest_gap, overlaps, stale};
use crate::data::{Judgement, judge};
use crate::fault::{Deck, Fault};
use crate::history::History;
use crate::hosts::{Hosts, Place};
use crate::inject::Victims;
use crate::load::Load;
use crate::report::{Report, Run};
use crate::witness::{Sampler, Written, now, written};
use crate::world::{World, compute_node, disk};

/// How long a network may take to be well again.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long one look at everything may take.
const LOOK: Duration = Duration::from_secs(10);

/// Beside lease, margin and start: what a busy machine takes to schedule all that.
const SLACK: Duration = Duration::from_secs(2);

/// A gap that is none: instants of programs are written every 50 ms, and machines are busy.
const NOT_A_GAP: u64 = 1_000_000_000;

struct Story<'a> {
    world: World<'a>,
    options: &'a Options,
    load: Load,
    sampler: Sampler,
    data_dirs: Vec<PathBuf>,
    programs: Vec<String>,
    /// Everything that programs wrote so far.
    written: Written,
}

/// See the module. `enough` ends it after the fault that is under way.
///
/// # Errors
/// When the network does not start.
pub(crate) async fn tell(
    options: &Options,
    hosts: &Hosts,
    root: &Path,
    enough: CancellationToken,
) -> anyhow::Result<Report> {
    let world = World::start(hosts, root, options).await?;
    let nodes = 0..options.nodes;
    let load = Load::start((0..world.programs.len()).map(|program| world.url(program)).collect());
    let run_dirs: Vec<_> = nodes.clone().map(|number| compute_node(root, number).run_dir()).collect();
    let sampler = Sampler::start(&run_dirs)?;
    let data_dirs = nodes.map(|number| disk(root, Place::Node(number))).collect();
    let programs = world.programs.iter().map(ToString::to_string).collect();
    eventually("everything is well before the first fault", async || world.ailment().await.is_none().then_some(()))
        .await;
    let mut story = Story { world, options, load, sampler, data_dirs, programs, written: Written::default() };
    let mut chance = fastrand::Rng::with_seed(options.seed);
    let mut deck = Deck::new(Fault::all());
    let mut runs: Vec<Run> = Vec::new();
    for number in 0..options.runs {
        let fault = match &options.faults {
            Some(faults) => faults.get(number % faults.len().max(1)).copied(),
            None => deck.draw(&mut chance),
        };
        let run = story.run(number + 1, fault.context("there is no fault to choose")?, &mut chance).await?;
        println!("{run}");
        let sick = run.sick.is_some();
        runs.push(run);
        if sick || enough.is_cancelled() {
            break;
        }
    }
    story.end(runs).await
}

impl Story<'_> {
    async fn run(&mut self, number: usize, fault: Fault, chance: &mut fastrand::Rng) -> anyhow::Result<Run> {
        let (from, first_request) = (now(), self.load.count());
        let victims = self.victims(chance).await?;
        let lasts = fault.duration(self.options.lease, chance);
        let began = now();
        let injury = self.world.injure(fault, victims).await;
        sleep(lasts).await;
        let healed = now();
        let mut ended = self.world.heal(&injury);
        let (ailments, more, well) = self.recover().await;
        ended.extend(more);
        let to = now();

        let asked = self.load.asked(first_request);
        self.written = written(&self.data_dirs, &self.programs)?;
        let answers: Vec<Live> = asked.iter().filter_map(|request| request.answer.clone().ok()).collect();
        let bound = nanos(self.bound());
        let gaps: Vec<_> = (0..self.programs.len())
            .map(|program| longest_gap(self.written.live.iter().chain(&answers), program, from, to))
            .collect();
        // From where a program has to be back within the bound.
        let since = |gap: &Gap| match () {
            () if fault.needs_healing() => healed,
            () if fault.is_partial() => gap.from,
            () => began,
        };
        let is_late = |gap: &&Gap| gap.length() > NOT_A_GAP && gap.to > since(gap) + bound;
        let mut lost = BTreeMap::new();
        for request in &asked {
            if let Err(why) = &request.answer {
                *lost.entry(why.clone()).or_insert(0) += 1;
            }
        }
        Ok(Run {
            number,
            fault: fault.to_string(),
            node: fault.hits_a_node().then_some(victims.node),
            lasted: healed - began,
            well_after: to - healed,
            late: gaps.iter().filter(is_late).count(),
            gaps: gaps.iter().map(|gap| gap.length()).collect(),
            asked: asked.len(),
            lost,
            stale: stale(&asked).len(),
            overlaps: overlaps(self.written.live.iter().chain(&answers).filter(|live| live.at >= from)).len(),
            ended,
            sick: ailments.last().filter(|_| !well).cloned(),
            ailments,
            from,
        })
    }

    /// A node, with a program of preference, and the scheduler that leads.
    async fn victims(&self, chance: &mut fastrand::Rng) -> anyhow::Result<Victims> {
        let (leader, _) = self.world.leader().await.context("no scheduler leads")?;
        let (program, any) = (chance.usize(..self.programs.len()), chance.usize(..self.options.nodes));
        let node = if chance.f64() < 0.9 { self.world.node_of(program).await.unwrap_or(any) } else { any };
        let into = Duration::from_millis(chance.u64(..1500));
        Ok(Victims { program, node, leader, into })
    }

    /// Waits until everything is well. Says what was not so far, in order; what had to be started meanwhile; whether it was
    /// well at last.
    async fn recover(&mut self) -> (Vec<String>, Vec<String>, bool) {
        let (healed, mut ailments, mut ended) = (Instant::now(), Vec::new(), Vec::new());
        loop {
            let asked = Instant::now();
            let looked = tokio::time::timeout(LOOK, self.world.ailment()).await;
            let Some(ailment) = looked.unwrap_or_else(|_| Some(format!("nobody says how it is within {LOOK:?}")))
            else {
                return (ailments, ended, true);
            };
            if ailments.last() != Some(&ailment) {
                ailments.push(ailment);
            }
            if healed.elapsed() > PATIENCE {
                return (ailments, ended, false);
            }
            sleep(Duration::from_millis(200).saturating_sub(asked.elapsed())).await;
            ended.extend(self.world.start_missing());
        }
    }

    fn bound(&self) -> Duration {
        self.options.lease_and_margin() + self.world.start + SLACK
    }

    /// Checks everything together, and ends the network.
    async fn end(self, runs: Vec<Run>) -> anyhow::Result<Report> {
        let bound = self.bound();
        let asked: Vec<Asked> = self.load.asked(0);
        let answers: Vec<Live> = asked.iter().filter_map(|request| request.answer.clone().ok()).collect();
        let (mut histories, mut data) = (Vec::new(), Judgement::default());
        for (number, id) in self.programs.iter().enumerate() {
            let finished = self.world.aleph.run(&["program", "history", id, "--verify", "--json"]).await;
            let history = if finished.code == 0 { History::read(&finished.stdout) } else { Err(finished.stderr) };
            let holds = history.and_then(|history| {
                let live = self.written.live.iter().chain(&answers).filter(|live| live.program == number);
                data.add(judge(number, &self.written.data, &history.claims()));
                history.agrees(live)
            });
            histories.push(holds.map_err(|why| format!("program {number}: {why}")));
        }
        let report = Report {
            seed: self.options.seed,
            lease: self.options.lease.as_secs_f64(),
            start: self.world.start.as_secs_f64(),
            bound: bound.as_secs_f64(),
            overlaps: overlaps(self.written.live.iter().chain(&answers)),
            stale: stale(&asked),
            seen: self.sampler.seen(),
            instants: self.written.live.len(),
            epochs: histories.iter().flatten().sum(),
            data,
            broken_histories: histories.into_iter().filter_map(Result::err).collect(),
            runs,
        };
        drop((self.load, self.sampler));
        self.world.end().await;
        Ok(report)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
