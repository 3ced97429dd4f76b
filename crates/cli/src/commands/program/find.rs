//! `aleph program find`: where a program runs, or why it does not.

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::message_node::{MessageStatus, MessageWithStatus};
use protocol::api::scheduler::{ProgramState, VmRecord};
use protocol::message::ProgramContent;
use serde_json::{Map, Value, json};

use super::{content, message, url_of};
use crate::context::Context;
use crate::output::{facts, printable};
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
            ("Moving to", record.and_then(|r| r.migration_target).map(|node| node.to_string())),
            ("Why", record.and_then(|r| r.reason.as_deref()).map(printable)),
            ("Last failure", record.and_then(|r| r.failure.as_ref()).map(waiting::failure_text)),
        ])
    }

    fn state(&self) -> String {
        let status = self.message.status;
        if status == MessageStatus::Pending {
            return "being checked by the message node".to_owned();
        }
        if status.is_over() {
            return printable(&publish::refusal(&self.message, "the program").message);
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
            MessageStatus::Removing => format!("{state}; it is not paid for any more and will be removed"),
            _ => state,
        }
    }

    fn hint(&self) -> Option<String> {
        let record = self.record()?;
        (record.state == ProgramState::Failing)
            .then(|| format!("See what it wrote with `aleph program logs {}`.", self.program))
    }
}
