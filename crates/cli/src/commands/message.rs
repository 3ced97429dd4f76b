//! `aleph message …`

use anyhow::Result;
use chrono::DateTime;
use protocol::api::message_node::MessageWithStatus;
use protocol::message::ErrorCode;

use crate::args::MessageCommand;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{facts, printable};

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: MessageCommand) -> Result<()> {
    match command {
        MessageCommand::Get { hash, raw } => get(context, &hash, raw).await,
    }
}

async fn get(context: &Context, hash: &str, raw: bool) -> Result<()> {
    let hash = hash.trim();
    // Other forms (CIDs) are the message node's to judge, but nothing else may get into its paths.
    if hash.is_empty() || !hash.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Failure::usage(format!("'{hash}' is no item hash"))
            .hint("write the message's item hash, 64 hexadecimal digits")
            .into());
    }
    let Some(found) = context.node.message(hash).await? else {
        return Err(unknown(context, &format!("message {hash}")).into());
    };
    if raw {
        let message = found.message.as_ref().or(found.messages.as_ref().and_then(|messages| messages.first()));
        let Some(message) = message else {
            let text = format!("the message node has no content of it: it is {}", found.status.as_str());
            return Err(Failure::new(Code::NotFound, text).into());
        };
        return context.out.result(message, || pretty(message));
    }
    context.out.result(&found, || text(&found))
}

/// The message node does not know it.
pub fn unknown(context: &Context, what: &str) -> Failure {
    Failure::new(Code::NotFound, format!("the message node at {} does not know {what}", context.settings.api_host))
        .hint(format!(
            "check the id; it may be on another network: name its message node with {}",
            context.settings.how_to_name_a_node()
        ))
}

fn text(found: &MessageWithStatus) -> String {
    let message = found.message.as_ref().or(found.messages.as_ref().and_then(|messages| messages.first()));
    let envelope = message.map(|message| &message.envelope);
    let code = found.error_code.map(|code| match ErrorCode::from_code(code) {
        Some(known) => format!("{} (error code {code})", known.explanation()),
        None => format!("error code {code}"),
    });
    let why = code.or_else(|| found.reason.clone());
    let details = found.details.as_ref().filter(|details| !details.is_null());
    let mut text = facts([
        ("Message", Some(found.item_hash.clone())),
        ("Status", Some(found.status.as_str().to_owned())),
        ("Why", why),
        ("Details", details.map(|details| printable(&details.to_string()))),
        ("Forgotten by", found.forgotten_by.as_ref().map(|by| by.join(", "))),
        ("Type", envelope.map(|envelope| envelope.message_type.to_string())),
        ("Sender", envelope.map(|envelope| printable(envelope.sender.as_str()))),
        ("Channel", envelope.and_then(|envelope| envelope.channel.as_deref().map(printable))),
        ("Time", envelope.and_then(|envelope| time_text(envelope.time.as_micros()))),
        ("Received", Some(printable(&found.reception_time))),
    ]);
    if let Some(content) = message.and_then(|message| message.content.as_ref()) {
        text.push('\n');
        text.push_str(&pretty(content));
    }
    text
}

/// A time in microseconds since 1970, for people.
pub fn time_text(micros: i64) -> Option<String> {
    DateTime::from_timestamp_micros(micros).map(|time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn pretty(value: &impl serde::Serialize) -> String {
    printable(&serde_json::to_string_pretty(value).unwrap_or_default()) + "\n"
}
