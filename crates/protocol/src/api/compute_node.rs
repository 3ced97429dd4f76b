//! The compute node's log API (`/control/machine/{program}/logs` and `…/stream_logs`), in the shapes that existing Aleph
//! clients read, with times added to the stream.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Where a line of a program's log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// The node: starts, stops and failures.
    System,
}

impl LogSource {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// An item of `GET /control/machine/{program}/logs`, with the field names of systemd's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// `vm-{program}-{source}`.
    #[serde(default, rename = "SYSLOG_IDENTIFIER")]
    pub identifier: String,
    /// The line, without its end. The journal writes bytes that are not UTF-8 as a list of numbers; both are read.
    #[serde(rename = "MESSAGE", deserialize_with = "text_or_bytes")]
    pub message: String,
    /// Where it comes from.
    pub file: LogSource,
    /// By the node's clock, microseconds since 1970 in decimal digits.
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    pub realtime_timestamp: String,
}

impl LogEntry {
    /// When the line was written, in microseconds since 1970 by the node's clock; 0 when the node did not say.
    pub fn micros(&self) -> u64 {
        self.realtime_timestamp.parse().unwrap_or(0)
    }
}

fn text_or_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Text(String),
        Bytes(Vec<u8>),
    }
    Ok(match Raw::deserialize(deserializer)? {
        Raw::Text(text) => text,
        Raw::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// The first frame of the client on `/control/machine/{program}/stream_logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogStreamRequest {
    /// Who asks.
    pub auth: LogStreamAuth,
}

/// The headers of [`crate::signed_request`] as JSON objects, for a GET of the stream's path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogStreamAuth {
    /// The header [`crate::signed_request::PUBKEY_HEADER`].
    #[serde(rename = "X-SignedPubKey")]
    pub pubkey: Value,
    /// The header [`crate::signed_request::OPERATION_HEADER`].
    #[serde(rename = "X-SignedOperation")]
    pub operation: Value,
}

/// A frame of the node on `/control/machine/{program}/stream_logs`: one [`LogStreamFrame::Status`], then lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogStreamFrame {
    /// Whether the request was accepted.
    Status {
        /// `connected` or `failed`.
        status: LogStreamStatus,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A line of the log.
    Line {
        /// Where it comes from.
        #[serde(rename = "type")]
        source: LogSource,
        /// The line, without its end.
        message: String,
        /// By the node's clock, microseconds since 1970; absent from other implementations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<u64>,
    },
}

/// The answer to a [`LogStreamRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStreamStatus {
    /// Lines follow.
    Connected,
    /// No lines follow.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nodes_send() {
        let entry: LogEntry = serde_json::from_str(
            r#"{"SYSLOG_IDENTIFIER":"vm-a-stdout","MESSAGE":"hi","file":"stdout","__REALTIME_TIMESTAMP":"1700000000000001"}"#,
        )
        .unwrap();
        assert_eq!((entry.message.as_str(), entry.micros()), ("hi", 1_700_000_000_000_001));
        let bytes = r#"{"MESSAGE":[104,255],"file":"stderr","__REALTIME_TIMESTAMP":""}"#;
        let entry: LogEntry = serde_json::from_str(bytes).unwrap();
        assert_eq!((entry.message.as_str(), entry.micros()), ("h\u{fffd}", 0));

        let frame = |json: &str| serde_json::from_str::<LogStreamFrame>(json).unwrap();
        assert_eq!(
            frame(r#"{"status":"connected"}"#),
            LogStreamFrame::Status { status: LogStreamStatus::Connected, reason: None }
        );
        assert_eq!(
            frame(r#"{"type":"system","message":"started","time":5}"#),
            LogStreamFrame::Line { source: LogSource::System, message: "started".into(), time: Some(5) }
        );
    }
}
