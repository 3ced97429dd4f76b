//! `aleph program show`

use anyhow::Result;
use protocol::message::{ProgramContent, Volume, VolumeKind};
use serde_json::json;

use super::{content, message, url_of};
use crate::commands::message::time_text;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{facts, printable};
use crate::price::{amount, tokens};
use crate::{ids, publish};

/// Shows what a program is made of, and its price.
///
/// # Errors
/// When the message node does not know it, or has no content of it.
pub(super) async fn show(context: &Context, named: &str) -> Result<()> {
    let program = ids::program(context, named).await?;
    let found = message(context, &program).await?;
    let Some(content) = content(&found)? else {
        if found.status.is_over() {
            return Err(publish::refusal(&found, &format!("the program {program}")).into());
        }
        return Err(Failure::new(Code::Malformed, format!("the message node has no content of {program}")).into());
    };
    let price = match found.status.is_in_force() {
        true => context.node.price(&program.to_string()).await?.map(|price| tokens(amount(&price))),
        false => None,
    };
    let url = url_of(context.network().await?, &program, &content, None);
    let value = json!({
        "item_hash": program,
        "message_status": found.status,
        "url": url,
        "price": price,
        "content": content,
    });
    context.out.result(&value, || {
        let mut text = facts([
            ("Program", Some(program.to_string())),
            ("Name", content.name().map(printable)),
            ("Status", Some(found.status.as_str().to_owned())),
            ("URL", url.clone()),
            ("Price", price.as_ref().map(|price| format!("{price} ALEPH to be held"))),
        ]);
        text.push_str(&contents(&content));
        text
    })
}

fn contents(content: &ProgramContent) -> String {
    let runs = match (content.is_persistent(), content.on.http) {
        (true, true) => "always, and takes requests",
        (true, false) => "always, without requests",
        (false, true) => "on demand",
        (false, false) => "on messages only",
    };
    let code = &content.code;
    let latest = |yes| if yes { ", newest version" } else { ", this version for ever" };
    let variables = content.variables.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    facts([
        ("Owner", Some(printable(content.address.as_str()))),
        ("Created", time_text(content.time.as_micros())),
        ("Runs", Some(runs.to_owned())),
        ("Updatable", Some(if content.allow_amend { "yes" } else { "no" }.to_owned())),
        ("Entrypoint", Some(format!("{} ({})", printable(&code.entrypoint), word(&code.interface())))),
        ("Code", Some(format!("{} ({}{})", printable(&code.reference), word(&code.encoding), latest(code.use_latest)))),
        (
            "Runtime",
            Some(printable(&match content.runtime.comment.as_str() {
                "" => content.runtime.reference.clone(),
                comment => format!("{} ({comment})", content.runtime.reference),
            })),
        ),
        ("Processors", Some(content.resources.vcpus.to_string())),
        ("Memory", Some(format!("{} MiB", content.resources.memory))),
        ("Request limit", Some(format!("{} s", content.resources.seconds))),
        ("Internet", Some(if content.environment.internet { "yes" } else { "no" }.to_owned())),
        ("Variables", lines(variables)),
        ("Volumes", lines(content.volumes.iter().map(volume))),
        ("Replaces", content.replaces.as_deref().map(printable)),
    ])
}

/// The word on the wire.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn lines(items: impl Iterator<Item = String>) -> Option<String> {
    let text = items.map(|item| printable(&item)).collect::<Vec<_>>().join("\n");
    (!text.is_empty()).then_some(text)
}

fn volume(volume: &Volume) -> String {
    let mount = volume.mount.as_deref().unwrap_or("-");
    match &volume.kind {
        VolumeKind::Immutable { reference, .. } => format!("{mount}: read-only image {reference}"),
        VolumeKind::Ephemeral { size_mib } => format!("{mount}: {size_mib} MiB, empty at each start"),
        VolumeKind::Persistent { size_mib, persistence, name, .. } => {
            let name = name.as_deref().unwrap_or("-");
            let place = persistence.map(|persistence| format!(" ({})", word(&persistence))).unwrap_or_default();
            format!("{mount}: {size_mib} MiB, kept as {name}{place}")
        }
    }
}
