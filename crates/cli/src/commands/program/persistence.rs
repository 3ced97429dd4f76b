//! `aleph program persist` and `unpersist`: publish the program anew with another trigger, then delete the old one.
//!
//! The order matters: the old program is deleted only when the new one is in force, so that a rejection loses nothing.

use std::time::Duration;

use anyhow::Result;
use protocol::api::scheduler::VmRecord;
use protocol::message::{MessageTime, ProgramContent};
use protocol::{Account, ProgramId};
use serde_json::json;
use tokio::time::Instant;

use super::find::kind;
use super::upload::{publish_program, wait_until_ready};
use super::{own_in_force, url_of};
use crate::args::PersistArgs;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::facts;
use crate::{ids, price, publish, signing, waiting};

/// Makes an on-demand program persistent.
///
/// # Errors
/// Why it could not be done.
pub async fn persist(context: &Context, args: PersistArgs) -> Result<()> {
    change(context, args, true).await
}

/// Makes a persistent program on-demand.
///
/// # Errors
/// Why it could not be done.
pub async fn unpersist(context: &Context, args: PersistArgs) -> Result<()> {
    change(context, args, false).await
}

async fn change(context: &Context, args: PersistArgs, persistent: bool) -> Result<()> {
    let account = context.account()?;
    let old = ids::program(context, &args.program).await?;
    let content = own_in_force(context, &account, &old).await?;
    if content.is_persistent() == persistent {
        context.out.note(format!("The program is {} already.", kind(&content).replace('_', "-")));
        return report(context, &Change { old, new: old, content, changed: false, deleted: false, record: None }).await;
    }
    if !content.allow_amend {
        return Err(Failure::new(Code::NotUpdatable, format!("the program {old} was uploaded with --no-updatable"))
            .hint("it stays as it is: upload it again in the wanted way and delete this one (`aleph program delete`)")
            .into());
    }
    let network = context.network().await?;
    let mut waits = !args.wait.no_wait;
    match network.require_scheduler_to_wait() {
        Err(failure) if waits && persistent => return Err(failure.into()),
        // The messages do it; only when its node has stopped it cannot be seen.
        Err(failure) if waits => {
            context.out.warn(format!("when the old program has stopped cannot be seen: {failure}"));
            waits = false;
        }
        _ => {}
    }

    let content = changed(content, &old, persistent);
    let message = signing::program(&account, &content)?;
    let new: ProgramId = message.item_hash.parse()?;
    if args.keep_prev {
        // Both have to be paid for. Without the old one, the message node counts only the new one.
        price::check(context, &account, &message, None).await?;
    }
    let limit = Duration::from_secs(args.wait.wait_seconds);
    publish_program(context, &message, limit).await.map_err(|error| nothing_deleted(error, &old, &new))?;

    if !args.keep_prev {
        let text = format!(
            "The new program is {new}; the old one ({old}) may still be there: `aleph program delete {old} --keep-code`."
        );
        context.interruption.leaves(text.clone());
        forget(context, &account, &old, persistent, limit).await.map_err(|error| error.context(text))?;
        context.interruption.leaves(format!("The program {new} goes on: look with `aleph program find {new}`."));
    }
    let record = match (waits, persistent) {
        (true, true) => Some(wait_until_ready(context, network, &account, &new, content.on.http, &args.wait).await?),
        (true, false) if !args.keep_prev => {
            let gone = waiting::until_gone(context, network, &old, Instant::now() + limit).await;
            gone.map_err(|error| error.context(format!("the program is {new} now")))?;
            None
        }
        _ => None,
    };
    report(context, &Change { old, new, content, changed: true, deleted: !args.keep_prev, record }).await
}

/// The same program with the other trigger.
fn changed(old: ProgramContent, id: &ProgramId, persistent: bool) -> ProgramContent {
    let mut content = old;
    content.time = MessageTime::now();
    content.replaces = Some(id.to_string());
    content.on.persistent = Some(persistent);
    // On demand means on requests: without them it would never run again.
    content.on.http |= !persistent;
    content
}

/// Says that a failure to publish left the old program alone.
fn nothing_deleted(error: anyhow::Error, old: &ProgramId, new: &ProgramId) -> anyhow::Error {
    let failure = match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => return error.context(format!("the program {old} was not changed")),
    };
    let text = match failure.code {
        // Undecided: it may come into force later.
        Code::TimedOut => format!("nothing was deleted: {} (the new program is {new})", failure.message),
        _ => format!("the program {old} was not changed, nothing was deleted: {}", failure.message),
    };
    Failure { message: text, ..failure }.into()
}

async fn forget(
    context: &Context,
    account: &Account,
    old: &ProgramId,
    persistent: bool,
    limit: Duration,
) -> Result<()> {
    let step = context.out.step("deleting the old program");
    let reason = if persistent { "made persistent" } else { "made on-demand" };
    let message = signing::forget(account, vec![old.to_string()], reason);
    publish::publish(context, &step, &message, "the deletion of the old program", limit).await
}

struct Change {
    old: ProgramId,
    new: ProgramId,
    content: ProgramContent,
    changed: bool,
    deleted: bool,
    record: Option<VmRecord>,
}

async fn report(context: &Context, change: &Change) -> Result<()> {
    let record = change.record.as_ref();
    let network = context.network().await?;
    let url = url_of(network, &change.new, &change.content, record);
    let node = record.and_then(|record| record.allocated_node);
    let value = json!({
        "old": change.old,
        "item_hash": change.new,
        "changed": change.changed,
        "old_deleted": change.deleted,
        "kind": kind(&change.content),
        "url": url,
        "state": record.map(|record| record.state),
        "node_id": node,
        "node_url": record.and_then(|record| record.node_url.as_deref()),
        "epoch": record.and_then(|record| record.epoch),
    });
    let runs = kind(&change.content).replace('_', "-");
    context.out.result(&value, || {
        let old = match (change.changed, change.deleted) {
            (false, _) => None,
            (true, true) => Some(format!("{} (deleted)", change.old)),
            (true, false) => Some(format!("{} (kept)", change.old)),
        };
        facts([
            ("Old program", old),
            ("Program", Some(change.new.to_string())),
            ("Runs", Some(runs)),
            ("URL", url.clone()),
            ("Node", node.map(|node| node.to_string())),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(on: &str) -> ProgramContent {
        ProgramContent::parse(&format!(
            r#"{{"address":"0xa","time":1,"allow_amend":true,"environment":{{}},"resources":{{"vcpus":3}},"type":"vm-function","code":{{"encoding":"zip","entrypoint":"a:b","ref":"aa"}},"runtime":{{"ref":"bb","comment":""}},"on":{on}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn only_the_trigger_changes() {
        let id = ProgramId::from_bytes([1; 32]);
        let old = content(r#"{"http":false,"persistent":true}"#);
        let new = changed(old.clone(), &id, false);
        assert_eq!((new.on.http, new.on.persistent), (true, Some(false)));
        assert_eq!(new.replaces, Some(id.to_string()));
        assert!(new.time > old.time);
        assert_eq!(ProgramContent { time: old.time, on: old.on.clone(), replaces: None, ..new }, old);

        let new = changed(content(r#"{"http":true}"#), &id, true);
        assert_eq!((new.on.http, new.on.persistent), (true, Some(true)));
    }
}
