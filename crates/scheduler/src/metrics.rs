//! What the scheduler counts, for Prometheus.
//!
//! The counters belong to the scheduler and not to the process, so that several schedulers in one process do not add up.

use std::collections::BTreeMap;
use std::fmt::Write;

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use protocol::api::scheduler::MoveOutcome;

use crate::core::Cause;
use crate::snapshot::Snapshot;

/// Bounds of the histograms, in seconds: from a fast disk to a node that is waited for.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

/// The scheduler's counters.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    /// Assignments that were made.
    pub(crate) assignments: Counter,
    /// Those of programs that were assigned before.
    pub(crate) reallocations: Counter,
    /// How long programs waited for an assignment.
    pub(crate) placement_seconds: Histogram,
    /// How long a transaction took.
    pub(crate) write_seconds: Histogram,
    /// Transactions that failed.
    pub(crate) write_failures: Counter,
    /// Heartbeats that were answered.
    pub(crate) heartbeats: Counter,
    /// Nodes that are connected.
    pub(crate) connections: Gauge,
    /// Nodes that were turned away.
    pub(crate) rejected: Counter,
    /// Event streams that are open.
    pub(crate) streams: Gauge,
    /// Event streams that were closed because they were too slow.
    pub(crate) slow_streams: Counter,
    /// Programs that went on with less than they had written.
    pub(crate) data_losses: Counter,
}

impl Metrics {
    /// New counters, all zero.
    pub(crate) fn new() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).expect("the list of bounds is not empty");
        let recorder = builder.build_recorder();
        let counter = |name: &'static str| recorder.register_counter(&Key::from_static_name(name), &METADATA);
        let gauge = |name: &'static str| recorder.register_gauge(&Key::from_static_name(name), &METADATA);
        let histogram = |name: &'static str| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        Self {
            assignments: counter("aleph_scheduler_assignments_total"),
            reallocations: counter("aleph_scheduler_reallocations_total"),
            placement_seconds: histogram("aleph_scheduler_placement_seconds"),
            write_seconds: histogram("aleph_scheduler_write_seconds"),
            write_failures: counter("aleph_scheduler_write_failures_total"),
            heartbeats: counter("aleph_scheduler_heartbeats_total"),
            connections: gauge("aleph_scheduler_connections"),
            rejected: counter("aleph_scheduler_rejected_total"),
            streams: gauge("aleph_scheduler_streams"),
            slow_streams: counter("aleph_scheduler_slow_streams_total"),
            data_losses: counter("aleph_scheduler_data_losses_total"),
            handle: recorder.handle(),
            recorder,
        }
    }

    /// An assignment ended.
    pub(crate) fn ended(&self, cause: Cause) {
        let key = Key::from_parts("aleph_scheduler_ended_total", vec![Label::new("cause", cause.as_str())]);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// A move ended.
    pub(crate) fn moved(&self, outcome: MoveOutcome) {
        let key = Key::from_parts("aleph_scheduler_moves_total", vec![Label::new("outcome", outcome.as_str())]);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// What is counted while another scheduler leads.
    pub(crate) fn render_follower(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Everything in the text format of Prometheus, with what the snapshot shows.
    pub(crate) fn render(&self, snapshot: &Snapshot, message_node_answers: bool) -> String {
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let version = env!("CARGO_PKG_VERSION");
        gauge("aleph_scheduler_build_info", "The version that runs.", &[(format!("{{version=\"{version}\"}}"), 1)]);
        let states = count(snapshot.programs.values().map(|program| program.state.as_str().to_owned()));
        gauge("aleph_scheduler_programs", "Persistent programs by state.", &labelled("state", states));
        let statuses = count(snapshot.nodes.values().map(|node| format!("{:?}", node.status).to_lowercase()));
        gauge("aleph_scheduler_nodes", "Compute nodes by status.", &labelled("status", statuses));
        let stopped = u64::from(snapshot.brake.is_some());
        gauge("aleph_scheduler_brake", "Whether reallocation is stopped.", &[(String::new(), stopped)]);
        let bare = snapshot.programs.values().filter(|program| program.lacks_standby()).count() as u64;
        let help = "Programs with data of which no standby has a complete copy.";
        gauge("aleph_scheduler_programs_without_standby", help, &[(String::new(), bare)]);
        let answers = u64::from(message_node_answers);
        gauge("aleph_scheduler_message_node_up", "Whether the message node answers.", &[(String::new(), answers)]);
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn count(words: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

fn labelled(label: &str, counts: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    counts.into_iter().map(|(word, count)| (format!("{{{label}=\"{word}\"}}"), count)).collect()
}
