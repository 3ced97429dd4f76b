//! What a compute node or a gateway counts, for Prometheus.
//!
//! The counters belong to the node and not to the process, so that several nodes in one process do not add up.

mod programs;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use protocol::ProgramId;
use sandbox::spec::End;
use volumes::VolumeUsage;

use self::programs::Programs;
pub(crate) use self::programs::Served;
use crate::programs::data::{ArchiveStatus, ReplicaStatus};

/// Bounds of the histograms, in seconds: from an answer of a program that runs to a start that takes all its time.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

/// The counters.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    /// Requests that a program answered, here or on another node.
    answered: Counter,
    /// How long it took until the head of the answer was there.
    answer_seconds: Histogram,
    /// Bytes that were downloaded from the message node.
    pub(crate) downloaded_bytes: Counter,
    /// Requests of each program.
    programs: Programs,
}

impl Metrics {
    /// New counters, all zero.
    pub(crate) fn new() -> Arc<Self> {
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).expect("the list of bounds is not empty");
        let recorder = builder.build_recorder();
        let answered = Key::from_parts(REQUESTS, vec![Label::new("outcome", "answered")]);
        Arc::new(Self {
            answered: recorder.register_counter(&answered, &METADATA),
            answer_seconds: recorder.register_histogram(&Key::from_static_name("aleph_answer_seconds"), &METADATA),
            downloaded_bytes: recorder
                .register_counter(&Key::from_static_name("aleph_downloaded_bytes_total"), &METADATA),
            handle: recorder.handle(),
            recorder,
            programs: Programs::default(),
        })
    }

    /// A program answered a request with this status; `took` until the head of the answer.
    pub(crate) fn answered(&self, program: ProgramId, status: u16, served: Served, took: Duration) {
        self.answered.increment(1);
        self.answer_seconds.record(took.as_secs_f64());
        self.programs.answered(program, status, served, took);
    }

    /// A program that exists did not answer a request; `took` until that was certain.
    pub(crate) fn not_answered(&self, program: ProgramId, status: u16, took: Duration) {
        self.programs.answered(program, status, Served::Refused, took);
    }

    /// How a request was served that waited for a copy to be started.
    pub(crate) fn last_start(&self, program: ProgramId) -> Served {
        self.programs.last_start(program)
    }

    /// A request was not answered by a program.
    pub(crate) fn refused(&self, code: &'static str) {
        self.count(REQUESTS, vec![Label::new("outcome", code)]);
    }

    /// A sandbox became ready; `took` from its start.
    pub(crate) fn ready(&self, kind: &'static str, took: Duration) {
        let key = Key::from_parts("aleph_sandbox_ready_seconds", vec![Label::new("kind", kind)]);
        self.recorder.register_histogram(&key, &METADATA).record(took.as_secs_f64());
    }

    /// A sandbox was claimed for a program: one that waited, or one that was made for it.
    pub(crate) fn claimed(&self, program: ProgramId, waited: bool) {
        self.programs.starts(program, waited);
        let start = if waited { "waited" } else { "made" };
        self.count("aleph_sandboxes_claimed_total", vec![Label::new("start", start)]);
    }

    /// A sandbox waits for a program; `took` to make, with so many bytes of memory of its own.
    #[allow(clippy::cast_precision_loss)] // Of petabytes.
    pub(crate) fn spare_made(&self, took: Duration, memory: u64) {
        let seconds = Key::from_static_name("aleph_spare_made_seconds");
        self.recorder.register_histogram(&seconds, &METADATA).record(took.as_secs_f64());
        let bytes = Key::from_static_name("aleph_spare_memory_bytes");
        self.recorder.register_gauge(&bytes, &METADATA).set(memory as f64);
    }

    /// A frozen copy on demand goes on; `took` from the request that uses it.
    pub(crate) fn thawed(&self, took: Duration) {
        let key = Key::from_static_name("aleph_thaw_seconds");
        self.recorder.register_histogram(&key, &METADATA).record(took.as_secs_f64());
    }

    /// Nothing of a sandbox runs any more. `None` when its supervisor did not say why.
    pub(crate) fn ended(&self, kind: &'static str, end: Option<&End>) {
        let outcome = end.map_or("unknown", End::as_str);
        self.count("aleph_sandboxes_ended_total", vec![Label::new("kind", kind), Label::new("outcome", outcome)]);
    }

    fn count(&self, name: &'static str, labels: Vec<Label>) {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA).increment(1);
    }

    /// Everything in the text format of Prometheus, with how many sandboxes of each kind there are now.
    pub(crate) fn render(&self, sandboxes: &[(&'static str, usize)]) -> String {
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE aleph_build_info gauge");
        let _ = writeln!(text, "aleph_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        if !sandboxes.is_empty() {
            let _ = writeln!(text, "# TYPE aleph_sandboxes gauge");
        }
        for (kind, count) in sandboxes {
            let _ = writeln!(text, "aleph_sandboxes{{kind=\"{kind}\"}} {count}");
        }
        self.programs.render(&mut text);
        text
    }
}

/// How programs' volumes and the copies of them are doing.
pub(crate) fn render_data(
    text: &mut String,
    replicas: &[ReplicaStatus],
    archives: &[ArchiveStatus],
    usage: &[(ProgramId, Vec<VolumeUsage>)],
) {
    for replica in replicas {
        render_replica(text, replica);
    }
    for archive in archives {
        render_archive(text, archive);
    }
    for (program, volumes) in usage {
        for VolumeUsage { name, used, unsaved, limit } in volumes {
            // What owners chose, in the form that Prometheus reads.
            let name = name.as_str().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            for (metric, value) in [("used", used), ("unsaved", unsaved), ("limit", limit)] {
                let _ =
                    writeln!(text, "aleph_volume_{metric}_bytes{{program=\"{program}\",volume=\"{name}\"}} {value}");
            }
        }
    }
}

/// A program's lag is not shown while nobody knows it: until its standby has a first copy.
fn render_replica(text: &mut String, ReplicaStatus { program, status }: &ReplicaStatus) {
    let lag = (status.live.at_risk_ms != u64::MAX).then(|| {
        #[allow(clippy::cast_precision_loss)] // Of 285 years.
        let seconds = status.live.at_risk_ms as f64 / 1000.0;
        ("aleph_replication_lag_seconds", seconds.to_string())
    });
    let rest = [
        ("aleph_replication_connected", u8::from(status.connected).to_string()),
        ("aleph_replication_sent_bytes_total", status.bytes_sent.to_string()),
        ("aleph_replication_changed_bytes_total", status.bytes_changed.to_string()),
        ("aleph_replication_resumed_bytes_total", status.bytes_resumed.to_string()),
    ];
    for (name, value) in lag.into_iter().chain(rest) {
        let _ = writeln!(text, "{name}{{program=\"{program}\"}} {value}");
    }
}

/// The age is not shown while nothing is in the archive.
fn render_archive(text: &mut String, ArchiveStatus { program, age, bytes }: &ArchiveStatus) {
    if let Some(age) = age {
        let _ = writeln!(text, "aleph_archive_age_seconds{{program=\"{program}\"}} {}", age.as_secs_f64());
    }
    let _ = writeln!(text, "aleph_archive_bytes_total{{program=\"{program}\"}} {bytes}");
}

const REQUESTS: &str = "aleph_requests_total";

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_volumes_cannot_break_the_format() {
        let (program, name) = (ProgramId::from_bytes([1; 32]), volumes::VolumeName::new("a\"} 1\n\\b").unwrap());
        let mut text = String::new();
        render_data(&mut text, &[], &[], &[(program, vec![VolumeUsage { name, used: 3, unsaved: 2, limit: 9 }])]);
        assert_eq!(text.lines().count(), 3, "{text}");
        let line = format!(r#"aleph_volume_unsaved_bytes{{program="{program}",volume="a\"}} 1\n\\b"}} 2"#);
        assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new();
        let program = ProgramId::from_bytes([7; 32]);
        metrics.answered(program, 200, Served::Warm, Duration::from_millis(3));
        metrics.refused("not_running");
        metrics.refused("not_running");
        metrics.ready("on_demand", Duration::from_millis(300));
        metrics.ended("persistent", Some(&End::OutOfMemory));
        metrics.ended("persistent", None);
        let archive = ArchiveStatus { program, age: Some(Duration::from_millis(1500)), bytes: 42 };
        let mut text = metrics.render(&[("persistent", 2), ("on_demand", 0)]);
        render_data(&mut text, &[], &[archive], &[]);
        assert!(text.contains(&format!("aleph_archive_age_seconds{{program=\"{program}\"}} 1.5\n")), "{text}");
        assert!(text.contains(&format!("aleph_archive_bytes_total{{program=\"{program}\"}} 42\n")), "{text}");
        for line in [
            r#"aleph_requests_total{outcome="answered"} 1"#,
            r#"aleph_requests_total{outcome="not_running"} 2"#,
            r#"aleph_answer_seconds_bucket{le="0.0025"} 0"#,
            r#"aleph_answer_seconds_bucket{le="0.005"} 1"#,
            r#"aleph_sandbox_ready_seconds_count{kind="on_demand"} 1"#,
            r#"aleph_sandboxes_ended_total{kind="persistent",outcome="out_of_memory"} 1"#,
            r#"aleph_sandboxes_ended_total{kind="persistent",outcome="unknown"} 1"#,
            r#"aleph_sandboxes{kind="persistent"} 2"#,
            r#"aleph_program_requests_total{program="0707070707070707070707070707070707070707070707070707070707070707",status="2xx",served="warm"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
