//! `aleph program list`

use std::collections::HashMap;

use anyhow::Result;
use comfy_table::{Cell, Color};
use protocol::api::message_node::{MessageFilter, MessageStatus, MessageWithStatus, StoredMessage};
use protocol::api::scheduler::{ProgramState, VmRecord};
use protocol::message::{MessageType, ProgramContent};
use protocol::{Address, ProgramId};
use serde::Serialize;

use super::find::kind;
use super::url_of;
use crate::commands::message::time_text;
use crate::context::Context;
use crate::ids;
use crate::output::{printable, table};

/// A program of the list.
#[derive(Serialize)]
struct Item {
    item_hash: ProgramId,
    name: Option<String>,
    kind: &'static str,
    created: Option<String>,
    /// Persistent programs only; `null` when nobody can be asked.
    state: Option<ProgramState>,
    node_id: Option<protocol::NodeId>,
    node_url: Option<String>,
    epoch: Option<protocol::Epoch>,
    url: Option<String>,
    /// When it is removed, because it is not paid for any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    removal_at: Option<String>,
}

/// Lists the account's programs in force.
///
/// # Errors
/// When the message node cannot be asked.
pub(super) async fn list(context: &Context, full: bool) -> Result<()> {
    let account = context.account()?;
    let mut messages = ids::own(context, account.address(), false).await?;
    messages.sort_by_key(|message| std::cmp::Reverse(message.envelope.time.as_micros()));
    let network = context.network().await?;
    let programs: Vec<(ProgramId, &StoredMessage, ProgramContent)> =
        messages.iter().filter_map(|message| read(context, message)).collect();
    let records = match programs.iter().any(|(_, _, content)| content.is_persistent()) {
        true => network.vms(account.address()).await.unwrap_or_else(|error| {
            context.out.warn(format!("where persistent programs run is not known: {error:#}"));
            Vec::new()
        }),
        false => Vec::new(),
    };
    let records: HashMap<ProgramId, VmRecord> = records.into_iter().map(|record| (record.vm_hash, record)).collect();
    let mut removals = removals(context, account.address()).await?;
    let items: Vec<Item> = programs
        .into_iter()
        .map(|(id, message, content)| {
            let record = content.is_persistent().then(|| records.get(&id)).flatten();
            Item {
                item_hash: id,
                name: content.name().map(str::to_owned),
                kind: kind(&content),
                created: time_text(message.envelope.time.as_micros()),
                state: record.map(|r| r.state),
                node_id: record.and_then(|r| r.allocated_node),
                node_url: record.and_then(|r| r.node_url.clone()),
                epoch: record.and_then(|r| r.epoch),
                url: url_of(network, &id, &content, record),
                removal_at: removals.remove(&id.to_string()),
            }
        })
        .collect();
    if items.is_empty() {
        context.out.note(format!(
            "{} has no programs. Upload one with `aleph program upload PATH ENTRYPOINT`.",
            account.address()
        ));
    }
    context.out.result(&items, || match items.is_empty() {
        true => String::new(),
        false => table(["ID", "NAME", "KIND", "CREATED", "STATE", "NODE"], items.iter().map(|item| row(item, full))),
    })
}

/// When which of the account's programs are removed, because they are not paid for any more.
async fn removals(context: &Context, owner: &Address) -> Result<HashMap<String, String>> {
    let filter = MessageFilter {
        types: vec![MessageType::Program],
        statuses: vec![MessageStatus::Removing],
        owners: vec![owner.clone()],
        ..MessageFilter::default()
    };
    let mut removals = HashMap::new();
    for message in context.node.all_messages(&filter).await? {
        let hash = message.envelope.item_hash;
        let found = context.node.message(&hash).await?;
        if let Some(MessageWithStatus { status: MessageStatus::Removing, until: Some(until), .. }) = found {
            removals.insert(hash, until);
        }
    }
    Ok(removals)
}

/// Other clients may have published what we cannot read; the rest of the list is shown all the same.
fn read<'a>(context: &Context, message: &'a StoredMessage) -> Option<(ProgramId, &'a StoredMessage, ProgramContent)> {
    let hash = &message.envelope.item_hash;
    let content = message.content.clone().and_then(|content| serde_json::from_value(content).ok());
    match (hash.parse(), content) {
        (Ok(id), Some(content)) => Some((id, message, content)),
        _ => {
            context.out.warn(format!("the program {hash} cannot be read; look with `aleph message get {hash}`"));
            None
        }
    }
}

fn row(item: &Item, full: bool) -> [Cell; 6] {
    let id = |id: &dyn std::fmt::Display| if full { id.to_string() } else { ids::short(&id) };
    let state = match (item.kind, item.state) {
        ("persistent", Some(state)) => Cell::new(state.as_str()).fg(colour(state)),
        ("persistent", None) => Cell::new("?"),
        _ => Cell::new("-"),
    };
    let state = match &item.removal_at {
        Some(at) => Cell::new(format!("{}, removed at {}", state.content(), printable(at))).fg(Color::Red),
        None => state,
    };
    [
        Cell::new(id(&item.item_hash)),
        Cell::new(item.name.as_deref().map_or("-".to_owned(), printable)),
        Cell::new(item.kind.replace('_', "-")),
        Cell::new(item.created.as_deref().unwrap_or("-")),
        state,
        Cell::new(item.node_id.map_or("-".to_owned(), |node| id(&node))),
    ]
}

fn colour(state: ProgramState) -> Color {
    match state {
        ProgramState::Ready => Color::Green,
        ProgramState::Failing | ProgramState::Unplaced => Color::Red,
        _ => Color::Yellow,
    }
}
