//! `aleph program find`: where a program runs, or why it does not.

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::message_node::{MessageStatus, MessageWithStatus};
use protocol::api::scheduler::{DataRecord, LossRecord, ProgramState, VmRecord};
use protocol::message::ProgramContent;
use serde_json::{Map, Value, json};

use super::{content, message, moving, url_of};
use crate::context::Context;
use crate::output::{facts, printable, seconds};
use crate::{ids, publish, waiting};

/// Shows where a program runs, or why it does not.
///
/// # Errors
/// Why that cannot be known.
pub(super) async fn find(context: &Context, named: &str) -> Result<()> {
    let program = ids::program(context, named).await?;
    let found = message(context, &program).await?;
    let content = content(&found)?;
    let url = match &content {
        Some(content) if found.status.is_in_force() => url_of(context.network().await?, &program, content, None),
        _ => None,
    };
    let record = match &content {
        Some(content) if content.is_persistent() && found.status.is_in_force() => {
            Some(context.network().await?.vm(&program).await?)
        }
        _ => None,
    };
    let found = Found { program, message: found, content, record, url };
    context.out.result(&found.to_json(), || found.to_text())?;
    if let Some(hint) = found.hint() {
        context.out.note(format!("\n{hint}"));
    }
    Ok(())
}

/// What to call the way a program runs.
pub(super) fn kind(content: &ProgramContent) -> &'static str {
    if content.is_persistent() { "persistent" } else { "on_demand" }
}

/// Who keeps copies of its data, and what would be lost now.
pub(in crate::commands) fn copies(data: &DataRecord) -> String {
    match (data.standby, data.standby_is_complete, data.at_risk_ms) {
        (None, ..) => "no other node: all of it is lost if its node is".to_owned(),
        (Some(node), false, _) => format!("node {node}, which has no complete copy yet"),
        (Some(node), true, None) => format!("node {node}; how much it lacks is not known"),
        (Some(node), true, Some(0)) => format!("node {node}, which has everything"),
        (Some(node), true, Some(ms)) => format!("node {node}; writes of the last {} are at risk", seconds(ms)),
    }
}

fn loss(loss: &LossRecord) -> String {
    match (loss.snapshot, loss.at_most_ms) {
        (None, _) if loss.from_archive => format!("what epoch {} had and the archive did not", loss.epoch),
        (None, _) => format!("everything that epoch {} had", loss.epoch),
        (Some(_), None) => format!("what epoch {} wrote last", loss.epoch),
        (Some(_), Some(ms)) => format!("at most the last {} of epoch {}", seconds(ms), loss.epoch),
    }
}

fn waits_for(data: &DataRecord) -> String {
    let nodes = data.waits_for.iter().map(ToString::to_string).collect::<Vec<_>>();
    format!("its data, on {}", nodes.join("\nor "))
}

struct Found {
    program: ProgramId,
    message: MessageWithStatus,
    content: Option<ProgramContent>,
    /// For persistent programs in force: what the scheduler knows.
    record: Option<Option<VmRecord>>,
    /// At the gateway, as far as that is known without the scheduler.
    url: Option<String>,
}

impl Found {
    fn record(&self) -> Option<&VmRecord> {
        self.record.as_ref()?.as_ref()
    }

    fn url(&self) -> Option<String> {
        self.record().and_then(|record| record.url.clone()).or_else(|| self.url.clone())
    }

    /// The scheduler's record with what the message node says, and one word for the state in every case.
    fn to_json(&self) -> Value {
        let mut object = match self.record().map(serde_json::to_value) {
            Some(Ok(Value::Object(record))) => record,
            _ => Map::new(),
        };
        let state = match (&self.record, self.message.status) {
            (Some(Some(record)), _) => json!(record.state),
            (Some(None), _) => json!("accepted"),
            (None, status) if status.is_in_force() => json!("on_demand"),
            (None, status) => json!(status.as_str()),
        };
        let facts = [
            ("item_hash", json!(self.program)),
            ("message_status", json!(self.message.status)),
            ("kind", json!(self.content.as_ref().map(kind))),
            ("name", json!(self.content.as_ref().and_then(ProgramContent::name))),
            ("url", json!(self.url())),
            ("state", state),
        ];
        object.extend(facts.map(|(name, value)| (name.to_owned(), value)));
        if let Some(until) = &self.message.until {
            let name = if self.message.status == MessageStatus::Removing { "removal_at" } else { "kept_until" };
            object.insert(name.to_owned(), json!(until));
        }
        if self.message.status.is_over() {
            let failure = publish::refusal(&self.message, "the program");
            object.insert("reason".to_owned(), failure.message.into());
            object.insert("error_code".to_owned(), json!(self.message.error_code));
            object.insert("forgotten_by".to_owned(), json!(self.message.forgotten_by));
        }
        Value::Object(object)
    }

    fn to_text(&self) -> String {
        let record = self.record();
        let data = record.and_then(|record| record.data.as_ref());
        facts([
            ("Program", Some(self.program.to_string())),
            ("Name", self.content.as_ref().and_then(ProgramContent::name).map(printable)),
            ("State", Some(self.state())),
            ("Node", record.and_then(|r| r.allocated_node).map(|node| node.to_string())),
            ("Node URL", record.and_then(|r| r.node_url.as_deref()).map(printable)),
            ("URL", self.url().as_deref().map(printable)),
            ("Epoch", record.and_then(|r| r.epoch).map(|epoch| epoch.to_string())),
            ("On node since", record.and_then(|r| r.allocated_at.as_deref()).map(printable)),
            ("Restarts", record.filter(|r| r.restarts > 0).map(|r| r.restarts.to_string())),
            ("Moving", record.and_then(|r| r.moving.as_ref()).map(moving::words)),
            ("Last move", record.and_then(|r| r.last_move.as_ref()).and_then(moving::failure)),
            ("Copies on", data.map(copies)),
            ("Lost at start", data.and_then(|data| data.loss.as_ref()).map(loss)),
            ("Waits for", data.filter(|data| !data.waits_for.is_empty()).map(waits_for)),
            ("Why", record.and_then(|r| r.reason.as_deref()).map(printable)),
            ("Last failure", record.and_then(|r| r.failure.as_ref()).map(waiting::failure_text)),
        ])
    }

    fn state(&self) -> String {
        let status = self.message.status;
        let until = self.message.until.as_deref().map(printable);
        if status == MessageStatus::Pending {
            let reason = self.message.reason.as_deref().map(|reason| format!(": {}", printable(reason)));
            return format!("being checked by the message node{}", reason.unwrap_or_default());
        }
        if status.is_over() {
            let words = printable(&publish::refusal(&self.message, "the program").message);
            return match until {
                Some(until) => format!("{words}; it comes back when it is paid for until {until}"),
                None => words,
            };
        }
        let state = match &self.record {
            None => "on demand: it runs at the node that gets the request".to_owned(),
            Some(None) => "accepted; the scheduler has not seen it yet".to_owned(),
            Some(Some(record)) => {
                let words = match record.state {
                    ProgramState::Unplaced => "not placed: no node runs it",
                    ProgramState::Unknown => "unknown: its node is silent, and its lease has not ended",
                    state => state.as_str(),
                };
                format!("{words} (since {})", printable(&record.state_since))
            }
        };
        match status {
            MessageStatus::Removing => {
                let when = until.map(|until| format!(" at {until}")).unwrap_or_default();
                format!("{state}; it is not paid for any more and will be removed{when}")
            }
            _ => state,
        }
    }

    fn hint(&self) -> Option<String> {
        let record = self.record()?;
        (record.state == ProgramState::Failing)
            .then(|| format!("See what it wrote with `aleph program logs {}`.", self.program))
    }
}
