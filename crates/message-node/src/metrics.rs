//! What the node counts, for Prometheus.
//!
//! The counters belong to the node and not to the process, so that several nodes in one process do not add up.

use std::fmt::Write;

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use protocol::api::message_node::MessageStatus;
use protocol::message::MessageType;

use crate::balances::ChainNumbers;

/// The node's counters.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    recorder: Box<dyn Recorder + Send + Sync>,
    /// Messages that arrived.
    pub received: Counter,
    /// Messages written per commit of the intake.
    pub intake_batch: Histogram,
    /// Bytes of files that were uploaded.
    pub uploaded_bytes: Counter,
    /// Uploads under way.
    pub uploads: Gauge,
    /// WebSocket streams that are open.
    pub streams: Gauge,
    /// Streams that were closed because they were too slow.
    pub slow_streams: Counter,
    /// Whether this process decides messages: 1 or 0.
    pub leads: Gauge,
    /// Requests that were passed on to the process that does.
    pub passed_on: Counter,
    /// Requests that could not be passed on.
    pub not_passed_on: Counter,
    /// Whether another message node is followed at the moment: 1 or 0.
    pub following: Gauge,
    /// Messages of another node that were new here.
    pub followed: Counter,
    /// Messages of another node that were left out.
    pub follow_refused: Counter,
    /// Messages of another node were listed until this time, seconds since 1970.
    pub followed_until: Gauge,
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

impl Metrics {
    /// New counters, all zero.
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let counter = |name: &'static str| recorder.register_counter(&Key::from_static_name(name), &METADATA);
        let gauge = |name: &'static str| recorder.register_gauge(&Key::from_static_name(name), &METADATA);
        Self {
            received: counter("aleph_messages_received_total"),
            intake_batch: recorder.register_histogram(&Key::from_static_name("aleph_intake_batch_messages"), &METADATA),
            uploaded_bytes: counter("aleph_uploaded_bytes_total"),
            uploads: gauge("aleph_uploads"),
            streams: gauge("aleph_streams"),
            slow_streams: counter("aleph_slow_streams_total"),
            leads: gauge("aleph_leads"),
            passed_on: counter("aleph_passed_on_total"),
            not_passed_on: counter("aleph_not_passed_on_total"),
            following: gauge("aleph_following"),
            followed: counter("aleph_followed_total"),
            follow_refused: counter("aleph_follow_refused_total"),
            followed_until: gauge("aleph_followed_until_seconds"),
            handle: recorder.handle(),
            recorder: Box::new(recorder),
        }
    }

    /// A message was decided.
    pub(crate) fn decided(&self, message_type: MessageType, status: MessageStatus) {
        let labels = vec![Label::new("type", message_type.to_string()), Label::new("status", status.as_str())];
        let key = Key::from_parts("aleph_messages_decided_total", labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Everything in the text format of Prometheus, with what the database says.
    pub(crate) fn render(&self, stored: &StoredNumbers) -> String {
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        let version = env!("CARGO_PKG_VERSION");
        let mut gauge = |name: &str, help: &str, values: &[(String, i64)]| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        gauge("aleph_build_info", "The version that runs.", &[(format!("{{version=\"{version}\"}}"), 1)]);
        let messages: Vec<_> = stored
            .messages
            .iter()
            .map(|(kind, status, count)| (format!("{{type=\"{kind}\",status=\"{status}\"}}"), *count))
            .collect();
        gauge("aleph_messages", "Messages by type and status.", &messages);
        gauge("aleph_messages_pending", "Messages that wait to be decided.", &[(String::new(), stored.pending)]);
        gauge("aleph_files", "Files.", &[(String::new(), stored.files.0)]);
        gauge("aleph_files_bytes", "Bytes of all files.", &[(String::new(), stored.files.1)]);
        if let Some(ChainNumbers { health, silence }) = &stored.chain {
            let mut one = |name: &str, help: &str, value: u64| {
                gauge(name, help, &[(String::new(), i64::try_from(value).unwrap_or(i64::MAX))]);
            };
            one("aleph_chain_up", "Whether the RPC node answered the last time.", health.trouble.is_none().into());
            one("aleph_chain_failures", "How often it did not, since the start.", health.failures);
            one("aleph_chain_reorganisations", "Reorganisations of blocks that counted.", health.reorganisations);
            one("aleph_chain_accounts", "Accounts whose balance is known or wanted.", health.accounts as u64);
            one("aleph_chain_accounts_unread", "Those whose balance is to be read.", health.unread as u64);
            if let Some(at) = health.at {
                one("aleph_chain_block", "The block that balances are of.", at.number);
                one("aleph_chain_block_timestamp_seconds", "Its time.", at.time);
            }
            if let Some(silence) = silence {
                one("aleph_chain_silence_seconds", "Since when not everything was answered.", silence.as_secs());
            }
        }
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Numbers that the database knows.
#[derive(Debug, Default)]
pub(crate) struct StoredNumbers {
    /// Messages by type and status.
    pub messages: Vec<(String, String, i64)>,
    /// Messages that wait to be decided.
    pub pending: i64,
    /// Files and their bytes.
    pub files: (i64, i64),
    /// The chain that balances are read from.
    pub chain: Option<ChainNumbers>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_stored_numbers_are_rendered() {
        let metrics = Metrics::new();
        metrics.received.increment(2);
        metrics.decided(MessageType::Post, MessageStatus::Processed);
        let stored = StoredNumbers {
            messages: vec![("POST".into(), "processed".into(), 3)],
            pending: 4,
            files: (5, 6),
            chain: None,
        };
        let text = metrics.render(&stored);
        for line in [
            "aleph_messages_received_total 2",
            r#"aleph_messages_decided_total{type="POST",status="processed"} 1"#,
            r#"aleph_messages{type="POST",status="processed"} 3"#,
            "aleph_messages_pending 4",
            "aleph_files_bytes 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
